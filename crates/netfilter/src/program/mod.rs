//! The kernel program: table `inet podgate`, installed and changed over netlink, one transaction a change.
//!
//! ```text
//! Program ── layout      table, base chains (made once), sets
//!         ├─ rules       what stands in the chains   (expression: the words they are made of)
//!         ├─ sets        pod ranges, known-open addresses
//!         ├─ peers       where pods' addresses lie
//!         ├─ links       which links lead to pods, and forged sources
//!         ├─ cache       verdicts that the kernel repeats
//!         ├─ share       what a pod may have of the queue, under overload
//!         ├─ spread      which queue a packet goes to
//!         ├─ ownership   whose the table is: of several agents only one may write
//!         ├─ transaction all or nothing
//!         └─ standing    what the kernel has: to take over, to recognise
//! ```
//!
//! Invariants: base chains hold one jump each and are never deleted here; a change has no moment without rules; an
//! address is open only if it was said to be. Taking the program away is `cleanup`'s.

pub(crate) mod cache;
pub(crate) mod expression;
pub(crate) mod layout;
pub(crate) mod links;
pub(crate) mod ownership;
pub(crate) mod peers;
pub(crate) mod rules;
pub(crate) mod sets;
pub(crate) mod share;
mod spread;
pub(crate) mod standing;
pub(crate) mod transaction;

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::ops::RangeInclusive;

use ipnet::IpNet;
use netlink_sys::protocols::NETLINK_NETFILTER;

use self::cache::{CacheEntry, CacheHits, Forget};
use self::layout::{Base, CORE, FORWARD, INPUT, UDP};
use self::ownership::{Claim, Expect, Owner};
use self::rules::Plan;
use self::standing::Standing;
use self::transaction::{Failure, Transaction, generation};
use crate::Error;
use crate::cleanup::Cleanup;
use crate::conntrack;
use crate::features::{Features, probe_with};
use crate::guard::Guard;
use crate::marks::Marks;
use crate::netlink::Channel;
use crate::queue::Waker;

/// The name of our table, of family inet.
pub const TABLE: &str = "podgate";

/// A take-over that others' changes keep getting in the way of is tried this often.
const TRIES: usize = 20;

/// Room for the notices of a cache of some 16,000 entries that is emptied at once.
const NOTICES: usize = 32 << 20;

/// What the program is made from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProgramSettings {
    /// Our bits of packet marks, connection marks and labels.
    pub marks: Marks,
    /// The queues that diverted packets are spread over, by flow where the kernel has `nft_hash`, else by address.
    pub queues: RangeInclusive<u16>,
    /// Let packets pass that nobody listens for (`bypass`); otherwise they are dropped.
    pub fail_open: bool,
    /// Judge UDP before routing, after destination NAT, where two packets of one socket that wait in the queue don't
    /// lose a conntrack race. `None`: on kernels before 6.12, which need it.
    pub udp_prerouting: Option<bool>,
    /// Look verdicts up in the cache ([`Program::remember`]).
    pub cache: bool,
    /// Drop what begins a connection and comes by a pod's link ([`Update::links`]) with a source that is not reached over it.
    pub source_check: bool,
}

impl Default for ProgramSettings {
    fn default() -> Self {
        Self {
            marks: Marks::default(),
            queues: 0..=0,
            fail_open: false,
            udp_prerouting: None,
            cache: true,
            source_check: true,
        }
    }
}

/// In which directions nothing isolates an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Open {
    /// Traffic to it needs no verdict.
    pub ingress: bool,
    /// Traffic from it needs no verdict.
    pub egress: bool,
}

/// A change; what it does not mention stays.
#[derive(Debug, Clone, Copy, Default)]
pub struct Update<'a> {
    /// The pod ranges: traffic of every address in them is diverted unless it is known to be open. May overlap.
    pub ranges: Option<&'a [IpNet]>,
    /// The new state of each of these addresses; both directions false: in no open set. The last word on one counts.
    pub open: &'a [(IpAddr, Open)],
    /// Blocks of addresses, as [`peer_blocks`](crate::peer_blocks) tells them, that may be pods' (`true`) or are not any
    /// more: verdicts about whoever is no pod ([`Cached::Closed`](crate::Cached::Closed)) are not about them.
    pub peers: &'a [(IpAddr, bool)],
    /// The links that lead to pods, by index; see [`Links`](crate::Links).
    pub links: Option<&'a BTreeSet<u32>>,
    /// Judge what pods send to the node itself?
    pub judge_input: Option<bool>,
}

/// The program as it stands in the kernel, owned by whoever has this value until somebody else claims it. Dropping it
/// leaves the kernel as it is.
pub struct Program {
    channel: Channel,
    features: Features,
    plan: Plan,
    made: Standing,
    owner: Owner,
    generation: Option<u32>,
    hits: Vec<CacheHits>,
}

impl Program {
    /// [`claim`](Self::claim) for one who is alone: the sets keep what they have, and whoever owned the table loses it.
    pub fn install(settings: ProgramSettings) -> Result<Self, Error> {
        let claim = Claim { agent: "", expect: Expect::Anything, above: 0, returns: 0 };
        Self::claim(settings, &claim, None)
    }

    /// Probes the kernel, then makes the table, or takes over the one that stands: its base chains stay, its rules are
    /// replaced, and so are the contents of its sets by what `first` says (without it they stay), and its owner, all in
    /// one transaction. From then on packets are diverted, to these settings' queues.
    ///
    /// Bits of an earlier agent that had other settings are taken off its connections.
    ///
    /// Errors: [`Error::NotOwner`] if the table is not in the state that the claim expects.
    pub fn claim(settings: ProgramSettings, claim: &Claim<'_>, first: Option<&Update<'_>>) -> Result<Self, Error> {
        settings.marks.check()?;
        if settings.queues.is_empty() {
            return Err(Error::Queues { first: *settings.queues.start(), last: *settings.queues.end() });
        }
        let mut channel = Channel::open(NETLINK_NETFILTER)?;
        channel.receive_room(NOTICES);
        let features = probe_with(&mut channel)?;
        let mut plan = Plan {
            marks: settings.marks,
            queues: settings.queues,
            bypass: settings.fail_open,
            native_queue: features.native_queue,
            flow_hash: features.flow_hash,
            udp_prerouting: settings.udp_prerouting.unwrap_or(features.release < (6, 12)),
            judge_input: false,
            recheck: false,
            cache: settings.cache,
            source_check: settings.source_check,
            share: None,
        };
        let (before, owner, hits) = take_over(&mut channel, &mut plan, claim, first)?;
        let made = Standing::read(&mut channel)?
            .ok_or(Error::Answer { doing: "list our table".into(), why: "someone deleted it at once".into() })?;
        if let Some(old) = before.and_then(|b| b.marks).filter(|old| remembered(old) != remembered(&plan.marks)) {
            let taken = conntrack::forget(&old, &plan.marks)?;
            tracing::info!(connections = taken.taken_back, "took the bits of earlier settings off connections");
        }
        Ok(Self { channel, features, plan, made, owner, generation: None, hits })
    }

    /// Under which generation this one owns the table, unless somebody else claimed it since.
    pub fn owner(&self) -> &Owner {
        &self.owner
    }

    /// Like [`apply`](Self::apply), but the open sets, the peers and the verdict cache are emptied first, in the same transaction, and
    /// so are the ranges if the update has some: what an earlier agent said no longer counts.
    pub fn replace(&mut self, update: &Update<'_>) -> Result<(), Error> {
        self.change(update, true)
    }

    /// Makes a change, in one transaction.
    ///
    /// Errors: [`Error::NotOwner`] if the table is no longer this one's (or the table is gone); nothing is changed then.
    pub fn apply(&mut self, update: &Update<'_>) -> Result<(), Error> {
        self.change(update, false)
    }

    /// Like [`apply`](Self::apply); in the same transaction the connections of these addresses are no longer remembered:
    /// their packets come up until [`recheck_only`](Self::recheck_only) says otherwise, whatever labels they have. Nor are
    /// the verdicts of `forget`.
    pub fn apply_and_recheck(
        &mut self,
        update: &Update<'_>,
        addresses: &[IpAddr],
        forget: Forget<'_>,
    ) -> Result<(), Error> {
        let mut transaction = ownership::fence(&self.owner);
        cache::forget(&mut transaction, forget);
        let input = self.note(&mut transaction, update, false);
        if !addresses.is_empty() {
            sets::add_recheck(&mut transaction, addresses);
            self.switch_recheck(&mut transaction, true);
        }
        self.commit(transaction, input, self.plan.recheck || !addresses.is_empty())
    }

    /// Whether there are such addresses, of this agent or of the one before.
    pub fn rechecks(&self) -> bool {
        self.plan.recheck
    }

    /// The connections of all other addresses are remembered again.
    pub fn recheck_only(&mut self, addresses: &[IpAddr]) -> Result<(), Error> {
        let mut transaction = ownership::fence(&self.owner);
        sets::empty_recheck(&mut transaction);
        sets::add_recheck(&mut transaction, addresses);
        self.switch_recheck(&mut transaction, !addresses.is_empty());
        self.commit(transaction, None, !addresses.is_empty())
    }

    /// From now on the kernel repeats these verdicts, none of which it knows yet unless it is among those of `forget`, which it
    /// repeats no more: what is in both begins anew.
    pub fn remember(&mut self, entries: &[CacheEntry], forget: Forget<'_>) -> Result<(), Error> {
        let mut transaction = ownership::fence(&self.owner);
        cache::forget(&mut transaction, forget);
        cache::add(&mut transaction, entries);
        self.commit(transaction, None, self.plan.recheck)
    }

    /// What the verdicts did that were forgotten since the last call.
    pub fn take_hits(&mut self) -> Vec<CacheHits> {
        std::mem::take(&mut self.hits)
    }

    /// Takes the table away, then our label and mark off all connections; errors as those of [`apply`](Self::apply).
    pub fn remove(mut self) -> Result<Cleanup, Error> {
        let mut transaction = ownership::fence(&self.owner);
        layout::delete_table(&mut transaction);
        transaction.commit(&mut self.channel, None)?;
        let connections = conntrack::clear(&self.plan.marks)?.taken_back;
        Ok(Cleanup { table: true, connections, alive: false })
    }

    /// What the kernel can do.
    pub fn features(&self) -> &Features {
        &self.features
    }

    /// Is UDP judged before routing?
    pub fn udp_prerouting(&self) -> bool {
        self.plan.udp_prerouting
    }

    /// Do the table, its chains, rules and sets stand as we made them? One small request if nobody changed any rule
    /// set since the last time, four otherwise. What is in the sets is not looked at, nor what the rules say: whoever replaces
    /// one is noticed by the [`guard`](Self::guard) only.
    pub fn intact(&mut self) -> Result<bool, Error> {
        let now = generation(&mut self.channel)?;
        if self.generation == Some(now) {
            return Ok(true);
        }
        let intact = Standing::read(&mut self.channel)?.as_ref() == Some(&self.made);
        self.generation = intact.then_some(now);
        Ok(intact)
    }

    /// A watch that notices when anyone else changes our table.
    pub fn guard(&self) -> Result<Guard, Error> {
        let waker = Waker::new().map_err(|e| Error::io("make an eventfd", e))?;
        Guard::new(self.channel.port(), self.plan.marks, waker)
    }

    fn change(&mut self, update: &Update<'_>, fresh: bool) -> Result<(), Error> {
        let mut transaction = ownership::fence(&self.owner);
        let input = self.note(&mut transaction, update, fresh);
        self.commit(transaction, input, self.plan.recheck)
    }

    /// Puts an update into a transaction; returns whether input is to be judged, if that is new.
    fn note(&self, transaction: &mut Transaction, update: &Update<'_>, fresh: bool) -> Option<bool> {
        let judge_input = update.judge_input.filter(|wanted| *wanted != self.plan.judge_input);
        if let Some(wanted) = judge_input {
            self.switch_input(transaction, wanted);
        }
        fill(transaction, update, fresh);
        judge_input
    }

    fn commit(&mut self, transaction: Transaction, input: Option<bool>, recheck: bool) -> Result<(), Error> {
        if transaction.is_empty() {
            return Ok(());
        }
        self.hits.extend(transaction.commit(&mut self.channel, None)?);
        self.plan.recheck = recheck;
        self.made.accepted = rules::accepted(&self.plan.marks, recheck).len();
        if let Some(wanted) = input {
            self.plan.judge_input = wanted;
            if let Some(standing) = Standing::read(&mut self.channel)? {
                self.made = standing;
            }
        }
        Ok(())
    }

    fn switch_recheck(&self, transaction: &mut Transaction, recheck: bool) {
        if recheck == self.plan.recheck {
            return;
        }
        layout::flush_rules(transaction, Some("accepted"));
        for rule in rules::accepted(&self.plan.marks, recheck) {
            layout::add_rule(transaction, rule);
        }
    }

    fn switch_input(&self, transaction: &mut Transaction, judge: bool) {
        layout::flush_rules(transaction, Some("judge_input"));
        if !judge {
            return;
        }
        for base in INPUT.iter().filter(|base| !self.made.has_chain(base.name)) {
            layout::add_base(transaction, base);
            layout::add_rule(transaction, layout::base_rule(base));
        }
        for rule in rules::judge_input(&self.plan.marks) {
            layout::add_rule(transaction, rule);
        }
    }
}

/// The bits that outlive a packet.
fn remembered(marks: &Marks) -> (u32, u8) {
    (marks.connection, marks.label)
}

/// What an update says of the sets.
fn fill(transaction: &mut Transaction, update: &Update<'_>, fresh: bool) {
    if fresh {
        sets::empty_open(transaction);
        peers::empty(transaction);
        cache::forget(transaction, Forget::All);
    }
    if let Some(ranges) = update.ranges {
        sets::replace_ranges(transaction, ranges);
    }
    sets::apply_open(transaction, update.open, fresh);
    peers::apply(transaction, update.peers);
    if let Some(links) = update.links {
        links::replace(transaction, links);
    }
}

/// Writes `plan` over what stands, whose judging of input goes on unless `first` says otherwise; returns what stood, the
/// new owner, and what the verdicts did that the kernel repeated until now.
fn take_over(
    channel: &mut Channel,
    plan: &mut Plan,
    claim: &Claim<'_>,
    first: Option<&Update<'_>>,
) -> Result<(Option<Standing>, Owner, Vec<CacheHits>), Error> {
    for _ in 0..TRIES {
        let seen = generation(channel)?;
        let standing = Standing::read(channel)?;
        let owner = claim.record(ownership::read(channel)?.as_ref()).ok_or(Error::NotOwner)?;
        let stands = |base: &Base| standing.as_ref().is_some_and(|s| s.has_chain(base.name));
        // Connections that the agent before was about to take back stay so until this one has looked.
        plan.recheck = standing.as_ref().is_some_and(|s| s.accepted > rules::accepted(&plan.marks, false).len());
        let judged = standing.as_ref().is_some_and(|s| s.rules_in("judge_input") > 0);
        plan.judge_input = first.and_then(|f| f.judge_input).unwrap_or(judged);
        let mut bases: Vec<&Base> = CORE.iter().collect();
        bases.extend(FORWARD.iter().filter(|base| plan.source_check || stands(base)));
        bases.extend(UDP.iter().filter(|base| plan.udp_prerouting || stands(base)));
        bases.extend(INPUT.iter().filter(|base| plan.judge_input || stands(base)));
        let mut transaction = Transaction::default();
        layout::add_table(&mut transaction);
        ownership::set(&mut transaction, &owner);
        layout::flush_rules(&mut transaction, None);
        spread::fill(&mut transaction, plan);
        for rule in rules::rules(plan) {
            layout::add_rule(&mut transaction, rule);
        }
        for base in bases {
            layout::add_base(&mut transaction, base);
            layout::add_rule(&mut transaction, layout::base_rule(base));
        }
        // Whoever wrote them knew another world.
        cache::forget(&mut transaction, Forget::All);
        share::forget(&mut transaction);
        if let Some(first) = first {
            sets::become_what(&mut transaction, channel, first)?;
        }
        match transaction.commit(channel, Some(seen)) {
            Ok(hits) => return Ok((standing, owner, hits)),
            Err(Failure::Stale) => {}
            Err(Failure::Fenced) => return Err(Error::NotOwner),
            Err(Failure::Other(error)) => {
                let differs = matches!(error.refused_with(), Some(libc::EEXIST | libc::EOPNOTSUPP));
                return Err(if differs && standing.is_some() {
                    Error::Occupied { said: error.to_string() }
                } else {
                    error
                });
            }
        }
    }
    Err(Error::Busy { doing: "the program was being installed" })
}

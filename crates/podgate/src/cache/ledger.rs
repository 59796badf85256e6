//! [`Ledger`]: which verdicts the kernel repeats, since when, and by which rules they were made.

use std::collections::{HashMap, HashSet, VecDeque};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use podgate_engine::{Cause, Decision, Flow, Judgement, NodeOrigin, Port, RuleId, Snapshot, Verdict};
use podgate_netfilter::{CacheEntry, Cached};

use super::Offer;

/// How long an entry stays; what was in use goes on for as long again, without a gap, and what was not gives room. The kernel's
/// own timeout is five times that.
const LIFE: Duration = Duration::from_secs(4);
/// Older than this the kernel may have let an entry go by itself, and an order to delete it would be refused.
const DOUBTFUL: Duration = Duration::from_secs(18);
/// To empty the sets is quicker than to delete so many: 16,384 one by one take 80 ms, for which a change would wait.
const MANY: usize = 512;

/// How much is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Limits {
    /// Entries.
    pub(crate) entries: usize,
    /// Of these from one source address; of those without one, of one destination.
    pub(crate) per_address: usize,
    /// Of these from addresses that nobody is known to have, or from whatever address: they may be forged.
    pub(crate) unknown: usize,
}

impl Limits {
    /// So many entries, of which one address gets an eighth, and those that nobody is known to have a half.
    pub(crate) fn of(entries: usize) -> Self {
        Self { entries, per_address: (entries / 8).max(1), unknown: (entries / 2).max(1) }
    }
}

#[derive(Debug, Clone, Copy)]
struct Kept {
    /// Of the source's egress and the destination's ingress; `None`: made by a rule whose number is another's by now.
    decisions: [Option<Decision>; 2],
    since: Instant,
    counted: u64,
    /// It was in use in its life before this one, if it had one.
    busy: bool,
    owner: Owner,
}

/// Of whose share an entry takes room.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Owner {
    Known(IpAddr),
    Unknown(IpAddr),
    Closed(IpAddr),
}

impl Owner {
    /// Whether it is for an address that somebody is known to have: nobody can make as many of these as he likes.
    fn is_known(self) -> bool {
        matches!(self, Owner::Known(_))
    }
}

type Entries = HashSet<CacheEntry>;

/// See the module.
#[derive(Debug)]
pub(crate) struct Ledger {
    limits: Limits,
    entries: HashMap<CacheEntry, Kept>,
    by_source: HashMap<IpAddr, Entries>,
    by_destination: HashMap<IpAddr, Entries>,
    shares: HashMap<Owner, usize>,
    unknown: usize,
    /// Denials too: not while connections are judged in both orientations, nor where each is to be answered.
    drops: bool,
    /// Denials whoever the source is, too: the kernel knows who may be a pod.
    closed: bool,
    /// In the order in which they came; some are gone already.
    order: VecDeque<(Instant, CacheEntry)>,
    accepting: usize,
}

/// What is to be forgotten.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Stale {
    /// These.
    These(Vec<CacheEntry>),
    /// Everything: it is not sure any more what is there.
    All,
}

impl Ledger {
    pub(crate) fn new(limits: Limits) -> Self {
        Self {
            limits,
            entries: HashMap::new(),
            by_source: HashMap::new(),
            by_destination: HashMap::new(),
            shares: HashMap::new(),
            unknown: 0,
            drops: false,
            closed: false,
            order: VecDeque::new(),
            accepting: 0,
        }
    }

    /// From now on denials are kept too.
    pub(crate) fn keep_drops(&mut self) {
        self.drops = true;
    }

    /// Whether denials are kept that need no source.
    pub(crate) fn keep_closed(&mut self, closed: bool) {
        self.closed = closed;
    }

    pub(crate) fn limit(&self) -> usize {
        self.limits.entries
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// How many accept, and how many drop.
    pub(crate) fn sizes(&self) -> (usize, usize) {
        (self.accepting, self.entries.len() - self.accepting)
    }

    /// What the offers come to by this snapshot, as far as there is room: entries that are not there yet. Second: how
    /// many there was no room for.
    pub(crate) fn admit(&mut self, offers: &[Offer], snapshot: &Snapshot, now: Instant) -> (Vec<CacheEntry>, usize) {
        let (mut new, mut refused) = (Vec::new(), 0);
        for offer in offers {
            let Some((entry, judgement)) = entry(offer, snapshot, self.closed) else { continue };
            // It may have been accepted when it was offered.
            if self.entries.contains_key(&entry) || entry.verdict != Cached::Accept && !self.drops {
                continue;
            }
            let owner = match entry.verdict {
                Cached::Closed => Owner::Closed(entry.destination),
                _ if snapshot.tables().endpoint(offer.flow.source).is_none() => Owner::Unknown(entry.source),
                _ => Owner::Known(entry.source),
            };
            if !self.has_room(owner) {
                refused += 1;
                continue;
            }
            let decisions = [judgement.egress, judgement.ingress].map(Some);
            self.insert(entry, Kept { decisions, since: now, counted: 0, busy: true, owner });
            new.push(entry);
        }
        (new, refused)
    }

    fn has_room(&self, owner: Owner) -> bool {
        self.entries.len() < self.limits.entries
            && self.shares.get(&owner).is_none_or(|share| *share < self.limits.per_address)
            && (self.unknown < self.limits.unknown || owner.is_known())
    }

    /// Those whose time is up, as many as can be told one by one.
    pub(crate) fn due(&mut self, now: Instant) -> Stale {
        let mut due = Vec::new();
        while let Some((since, entry)) = self.order.front().copied().filter(|_| due.len() < MANY) {
            let there = self.entries.get(&entry).is_some_and(|kept| kept.since == since);
            if there && now < since + LIFE {
                break;
            }
            self.order.pop_front();
            if there {
                due.push(entry);
            }
        }
        self.sure(due, now)
    }

    /// Which of them are to begin anew.
    pub(crate) fn renewable(&self, due: &Stale) -> Vec<CacheEntry> {
        let Stale::These(entries) = due else { return Vec::new() };
        entries.iter().filter(|entry| self.entries.get(entry).is_some_and(|kept| kept.busy)).copied().collect()
    }

    /// One began anew, and what it has done until then is counted.
    pub(crate) fn renew(&mut self, entry: &CacheEntry, now: Instant) {
        let Some(kept) = self.entries.get_mut(entry) else { return };
        kept.busy = kept.counted > 0;
        (kept.since, kept.counted) = (now, 0);
        self.order.push_back((now, *entry));
    }

    /// Those with one of these addresses at either end.
    pub(crate) fn about<'a>(&self, addresses: impl IntoIterator<Item = &'a IpAddr>, now: Instant) -> Stale {
        if self.is_empty() {
            return Stale::These(Vec::new());
        }
        let mut found = Entries::default();
        for address in addresses {
            let ends = [&self.by_source, &self.by_destination];
            found.extend(ends.into_iter().filter_map(|by| by.get(address)).flatten().copied());
        }
        self.sure(found.into_iter().collect(), now)
    }

    /// An order that the kernel cannot refuse because an entry is gone, and that takes no long time.
    fn sure(&self, entries: Vec<CacheEntry>, now: Instant) -> Stale {
        let doubtful = |entry: &CacheEntry| self.entries.get(entry).is_none_or(|kept| now >= kept.since + DOUBTFUL);
        if entries.len() > MANY || entries.iter().any(doubtful) { Stale::All } else { Stale::These(entries) }
    }

    /// Other rules have these numbers (sorted) from now on: what entries do is not counted for them. An entry leaves with
    /// the rules that it was made by, so there is one only where the kernel refused to delete it.
    pub(super) fn disown(&mut self, rules: &[RuleId]) {
        for decision in self.entries.values_mut().flat_map(|kept| &mut kept.decisions) {
            decision.take_if(|decision| decision.rule().is_some_and(|rule| rules.binary_search(&rule).is_ok()));
        }
    }

    /// Takes in that an entry has done `packets` so far; what of it is new, and which decisions (egress, ingress) that is of.
    pub(super) fn count(
        &mut self,
        entry: &CacheEntry,
        packets: u64,
        asked: Option<Instant>,
    ) -> Option<([Option<Decision>; 2], u64)> {
        let kept = self.entries.get_mut(entry)?;
        if asked.is_some_and(|asked| kept.since >= asked) {
            return None;
        }
        let new = packets.saturating_sub(kept.counted);
        kept.counted += new;
        (new > 0).then_some((kept.decisions, new))
    }

    fn insert(&mut self, entry: CacheEntry, kept: Kept) {
        self.order.push_back((kept.since, entry));
        *self.shares.entry(kept.owner).or_default() += 1;
        self.unknown += usize::from(!kept.owner.is_known());
        self.entries.insert(entry, kept);
        self.by_source.entry(entry.source).or_default().insert(entry);
        self.by_destination.entry(entry.destination).or_default().insert(entry);
        self.accepting += usize::from(entry.verdict == Cached::Accept);
    }

    pub(super) fn remove(&mut self, entry: &CacheEntry) {
        let Some(kept) = self.entries.remove(entry) else { return };
        if let Some(share) = self.shares.get_mut(&kept.owner) {
            *share -= 1;
            if *share == 0 {
                self.shares.remove(&kept.owner);
            }
        }
        self.unknown -= usize::from(!kept.owner.is_known());
        self.accepting -= usize::from(entry.verdict == Cached::Accept);
        for (by, address) in [(&mut self.by_source, entry.source), (&mut self.by_destination, entry.destination)] {
            if let Some(entries) = by.get_mut(&address) {
                entries.remove(entry);
                if entries.is_empty() {
                    by.remove(&address);
                }
            }
        }
    }

    pub(super) fn clear(&mut self) {
        *self = Self { drops: self.drops, closed: self.closed, ..Self::new(self.limits) };
    }
}

/// What an offer comes to; `None` if it is nothing to repeat: an address that is not known may be soon, and whether a pod's packet
/// to itself is one depends on its links.
fn entry(offer: &Offer, snapshot: &Snapshot, sourceless: bool) -> Option<(CacheEntry, Judgement)> {
    let Flow { source, destination, protocol, port } = offer.flow;
    let judgement = snapshot.judge(&offer.flow, NodeOrigin::Forged);
    let missing = [source, destination].into_iter().any(|end| snapshot.tables().is_missing_peer(end));
    let causes = [judgement.egress.cause, judgement.ingress.cause];
    if missing || causes.contains(&Cause::Unknown) || causes.contains(&Cause::Itself) {
        return None;
    }
    let Port::Number(number) = port else { return None };
    let all = CacheEntry {
        verdict: if judgement.verdict() == Verdict::Accept { Cached::Accept } else { Cached::Drop },
        source: source.ip(),
        destination: destination.ip(),
        protocol,
        port: number,
    };
    // Closed to all but pods: the cause is the same whoever else the source is, as long as nothing is about its egress.
    let by = snapshot.closed(destination, protocol, port).filter(|_| sourceless);
    let anyone = judgement.egress.cause == Cause::Open
        && snapshot.tables().endpoint(source).is_none()
        && by.is_some_and(|rule| judgement.ingress.cause == Cause::Denied(rule));
    match (anyone, offer.whoever) {
        (true, _) => Some((all.closed(), judgement)),
        (false, true) => None,
        (false, false) => Some((all, judgement)),
    }
}

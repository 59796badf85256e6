//! The kernel's state, kept in step with the published snapshots, as long as the table is this agent's.
//!
//! The order matters: an address leaves the known-open sets **before** the first snapshot that isolates it is in use,
//! and joins them only **after** one in which nothing does. [`Kernel::tighten`] is what must come before a
//! publication, [`Kernel::relax`] what must come after it.
//!
//! While another agent owns the table only the books are kept ([`owner`](super::owner)): a claim writes all of them, in
//! one transaction with the ownership itself and the rule that sends packets to this agent's queues. That is in `claim`.

mod claim;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::sync::Arc;

use ipnet::IpNet;
use podgate_netfilter::{Error, Excess, Links, Open, Program, ProgramSettings, Share, Update, queue::Waker};
use podgate_policy::{Build, Exposure};
use tokio::sync::mpsc::Sender;

pub(crate) use self::claim::Left;
use super::control::Control;
use super::inputs::{self, Input};
use super::owner::{Ownership, Wish};
use super::peers::Peers;
use crate::cache::{Cache, Stale};
use crate::telemetry::facts::Diversion;

/// The nftables program and what its sets hold.
pub(crate) struct Kernel {
    /// None while another agent owns the table.
    pub(super) program: Option<Program>,
    /// What the kernel repeats without asking; nothing while the table is another's.
    pub(super) cache: Arc<Cache>,
    ownership: Ownership,
    settings: ProgramSettings,
    /// Told of others' changes by a thread that this waker ends.
    inputs: Sender<Input>,
    guard: Option<Waker>,
    /// Guards so far; what an earlier one noticed may be this agent's own doing.
    guards: u64,
    pod_ranges: Vec<IpNet>,
    peers: Peers,
    links: Links,
    /// Those that lead to pods, as the kernel knows them.
    pod_links: BTreeSet<u32>,
    exposure: BTreeMap<IpAddr, Exposure>,
    judge_input: bool,
    /// What the kernel's range set holds now.
    diverted: Vec<IpNet>,
    /// What is still to be relaxed.
    relaxed: BTreeSet<IpAddr>,
    /// Changes so far.
    changes: u64,
    /// Addresses whose connections the kernel does not remember for the moment, each since which change.
    rechecked: BTreeMap<IpAddr, u64>,
    /// What each pod may have of the queue, under overload.
    share: Option<Share>,
}

impl Kernel {
    /// Installs the program, or takes over what an earlier agent left, with what `first` says. The first snapshot
    /// must be published already: packets come up from here on.
    ///
    /// An agent that lives keeps its table until this one's `first` is a world that the source has told whole; see
    /// [`replace_other`](Self::replace_other).
    pub(crate) fn install(
        settings: ProgramSettings,
        first: &Build,
        whole: bool,
        inputs: Sender<Input>,
        control: &Control,
    ) -> Result<Self, Error> {
        let mut kernel = Kernel {
            program: None,
            cache: Arc::clone(&control.cache),
            ownership: Ownership::begin(&control.state, inputs.clone(), Arc::clone(&control.pulse))?,
            settings,
            inputs,
            guard: None,
            guards: 0,
            pod_ranges: Vec::new(),
            peers: Peers::default(),
            links: control.links.clone(),
            pod_links: BTreeSet::new(),
            exposure: BTreeMap::new(),
            judge_input: first.judge_input,
            diverted: Vec::new(),
            relaxed: BTreeSet::new(),
            changes: 0,
            rechecked: BTreeMap::new(),
            share: None,
        };
        kernel.take_in(first);
        kernel.seize(if whole { Wish::Replace } else { Wish::IfAlone })?;
        Ok(kernel)
    }

    /// The queues that packets are sent to.
    pub(crate) fn queues(&self) -> RangeInclusive<u16> {
        self.settings.queues.clone()
    }

    /// Whether the pod ranges are known; without, only addresses known to be isolated are diverted.
    pub(crate) fn knows_ranges(&self) -> bool {
        !self.pod_ranges.is_empty()
    }

    /// Whether no local pod has an address.
    pub(crate) fn is_empty(&self) -> bool {
        self.exposure.is_empty()
    }

    /// Whether the table is this agent's: if not it writes nothing into the kernel.
    pub(crate) fn is_owner(&self) -> bool {
        self.ownership.is_mine()
    }

    /// What is diverted, for the status.
    pub(crate) fn diversion(&self, intact: bool) -> Diversion {
        let isolated = self.exposed().count();
        let open = self.exposure.len() - isolated;
        Diversion { pod_ranges: self.pod_ranges.clone(), isolated, open, intact }
    }

    /// Local pod addresses that some policy is about.
    pub(crate) fn exposed(&self) -> impl Iterator<Item = IpAddr> {
        self.exposure.iter().filter(|(_, e)| e.ingress || e.egress).map(|(a, _)| *a)
    }

    /// Brings the kernel to where the next snapshot is enforced as soon as it is used: more is diverted, nothing
    /// less, and connections of what is touched come up. Must come before the publication.
    pub(crate) fn tighten(&mut self, build: &Build) -> Result<(), Error> {
        let mut open = Vec::new();
        for (address, next) in &build.exposure {
            let before = self.exposure.get(address).copied();
            // What is open now and stays open.
            let still = match (before, next) {
                (Some(b), Some(n)) => Open { ingress: !b.ingress && !n.ingress, egress: !b.egress && !n.egress },
                _ => Open { ingress: false, egress: false },
            };
            if before.is_some_and(|b| is_open(b) != still) {
                open.push((*address, still));
            }
        }
        let told = self.peers.are_told();
        let grown = self.take_in(build);
        let peers = self.peers.missing();
        // What is about whoever is no pod needs to know who may be one; and what was denied to an address as to anybody is to
        // be held for a pod where one may be from now on.
        let stale = self.stale(build, !peers.is_empty() || told && !self.peers.are_told());
        let ranges = grown.then(|| {
            // The union of before and after: what is diverted no more is let go by `relax`.
            let mut union = self.wanted_ranges();
            union.extend(self.diverted.iter().copied());
            union.sort();
            union.dedup();
            union
        });
        let judge_input = (build.judge_input && !self.judge_input).then_some(true);
        // In the books first: should the kernel refuse, all is written anew from them.
        self.judge_input |= build.judge_input;
        self.changes += 1;
        if self.is_owner() {
            self.rechecked.extend(build.touched.iter().map(|address| (*address, self.changes)));
        }
        let links = if ranges.is_some() { self.new_links() } else { None };
        let stands =
            open.is_empty() && ranges.is_none() && judge_input.is_none() && peers.is_empty() && links.is_none();
        if !stands || !build.touched.is_empty() || !stale.is_nothing() {
            let links = links.as_ref();
            let update = Update { ranges: ranges.as_deref(), open: &open, peers: &peers, links, judge_input };
            self.write(&update, &build.touched, &stale)?;
            self.peers.made(&peers);
        }
        self.pod_links = links.unwrap_or(std::mem::take(&mut self.pod_links));
        if let Some(ranges) = ranges {
            self.diverted = ranges;
        }
        self.relaxed.extend(build.exposure.iter().map(|(a, _)| *a));
        Ok(())
    }

    /// Lets go what the snapshot that is now in use leaves open. Must come after every worker uses it.
    pub(crate) fn relax(&mut self, build: &Build) -> Result<(), Error> {
        let open: Vec<_> = self
            .relaxed
            .iter()
            .filter_map(|a| Some((*a, is_open(*self.exposure.get(a)?))))
            .filter(|(_, open)| open.ingress || open.egress)
            .collect();
        let wanted = self.wanted_ranges();
        let ranges = (wanted != self.diverted).then_some(wanted);
        let judge_input = (!build.judge_input && self.judge_input).then_some(false);
        let peers = self.peers.surplus();
        if !open.is_empty() || ranges.is_some() || judge_input.is_some() || !peers.is_empty() {
            let update = Update { ranges: ranges.as_deref(), open: &open, peers: &peers, links: None, judge_input };
            self.write(&update, &[], &Stale::nothing())?;
            self.peers.made(&peers);
        }
        self.relaxed.clear();
        if let Some(ranges) = ranges {
            self.diverted = ranges;
        }
        self.judge_input = build.judge_input;
        Ok(())
    }

    /// Links lead elsewhere.
    pub(crate) fn relink(&mut self, links: &Links) -> Result<(), Error> {
        self.links.clone_from(links);
        if let Some(links) = self.new_links() {
            self.write(&Update { links: Some(&links), ..Update::default() }, &[], &Stale::nothing())?;
            self.pod_links = links;
        }
        Ok(())
    }

    /// The links that lead to pods.
    fn links_to_pods(&self) -> BTreeSet<u32> {
        self.links.towards(&self.pod_ranges, |address| self.exposure.contains_key(&address))
    }

    /// Likewise, if the kernel knows others.
    fn new_links(&self) -> Option<BTreeSet<u32>> {
        Some(self.links_to_pods()).filter(|links| *links != self.pod_links)
    }

    /// The number of the latest change.
    pub(crate) fn changes(&self) -> u64 {
        self.changes
    }

    /// Labels are in order as of that change: connections of the addresses that none touched since are remembered again.
    pub(crate) fn rechecked(&mut self, number: u64) -> Result<(), Error> {
        self.rechecked.retain(|_, since| *since > number);
        let left: Vec<IpAddr> = self.rechecked.keys().copied().collect();
        match self.program.as_mut().filter(|program| program.rechecks()).map(|program| program.recheck_only(&left)) {
            Some(Err(Error::NotOwner)) => self.lost(),
            other => other.unwrap_or(Ok(())),
        }
    }

    /// Gives each pod this share of the queue, or as much as there is, as long as the table is this agent's. Returns what
    /// pods had over the share before. After an error there is no share.
    pub(crate) fn set_share(&mut self, share: Option<Share>) -> Result<Vec<Excess>, Error> {
        let Some(program) = &mut self.program else { return Ok(Vec::new()) };
        match program.set_share(share) {
            Ok(excess) => {
                self.share = share;
                Ok(excess)
            }
            Err(error) => {
                self.share = None;
                if matches!(error, Error::NotOwner) { self.lost().map(|()| Vec::new()) } else { Err(error) }
            }
        }
    }

    /// What pods had over the share that is in force.
    pub(crate) fn excess(&mut self) -> Result<Vec<Excess>, Error> {
        self.program.as_mut().map_or_else(|| Ok(Vec::new()), Program::excess)
    }

    /// Has [`Input::TryAgain`] come in a while.
    pub(crate) fn try_again_later(&self) {
        inputs::try_again(&self.inputs);
    }

    /// Makes a change, if the table is this agent's; connections of `touched` come up from then on, and nothing `stale` is
    /// repeated any more.
    fn write(&mut self, update: &Update<'_>, touched: &[IpAddr], stale: &Stale) -> Result<(), Error> {
        let Some(program) = &mut self.program else { return Ok(()) };
        match program.apply_and_recheck(update, touched, stale.order()) {
            Ok(()) => {
                self.forgotten(stale);
                Ok(())
            }
            Err(Error::NotOwner) => self.lost(),
            other => other,
        }
    }

    /// Takes a build's news into the books; true if the ranges may have changed.
    fn take_in(&mut self, build: &Build) -> bool {
        for (address, next) in &build.exposure {
            match next {
                Some(exposure) => drop(self.exposure.insert(*address, *exposure)),
                None => drop(self.exposure.remove(address)),
            }
        }
        if let Some(ranges) = &build.pod_ranges {
            self.pod_ranges.clone_from(ranges);
        }
        self.peers.take_in(build, &self.pod_ranges);
        self.cache.ledger().keep_closed(self.peers.are_told());
        !build.exposure.is_empty() || build.pod_ranges.is_some()
    }

    /// The pod ranges, and the isolated addresses outside them.
    fn wanted_ranges(&self) -> Vec<IpNet> {
        let stray = self.exposed().filter(|a| !self.pod_ranges.iter().any(|r| r.contains(a))).map(IpNet::from);
        let mut wanted: Vec<_> = self.pod_ranges.iter().copied().chain(stray).collect();
        wanted.sort();
        wanted.dedup();
        wanted
    }
}

fn is_open(exposure: Exposure) -> Open {
    Open { ingress: !exposure.ingress, egress: !exposure.egress }
}

//! The kernel's state, kept in step with the published snapshots.
//!
//! The order matters: an address leaves the known-open sets **before** the first snapshot that isolates it is in use,
//! and joins them only **after** one in which nothing does. [`Kernel::tighten`] is what must come before a
//! publication, [`Kernel::relax`] what must come after it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;
use podgate_netfilter::{Error, Open, Program, ProgramSettings, Update, queue::Waker};
use podgate_policy::{Build, Exposure};
use tokio::sync::mpsc::Sender;

use super::inputs::{self, Input};
use crate::telemetry::facts::Diversion;

/// The nftables program and what its sets hold.
pub(crate) struct Kernel {
    program: Program,
    settings: ProgramSettings,
    /// Told of others' changes by a thread that this waker ends.
    inputs: Sender<Input>,
    guard: Option<Waker>,
    /// Guards so far; what an earlier one noticed may be this agent's own doing.
    guards: u64,
    pod_ranges: Vec<IpNet>,
    exposure: BTreeMap<IpAddr, Exposure>,
    judge_input: bool,
    /// What the kernel's range set holds now.
    diverted: Vec<IpNet>,
    /// What is still to be relaxed.
    relaxed: BTreeSet<IpAddr>,
}

impl Kernel {
    /// Installs the program, or takes over what an earlier agent left, with what `first` says. The first snapshot
    /// must be published already: packets come up from here on.
    pub(crate) fn install(settings: ProgramSettings, first: &Build, inputs: Sender<Input>) -> Result<Self, Error> {
        let program = Program::install(settings.clone())?;
        let mut kernel = Kernel {
            program,
            settings,
            inputs,
            guard: None,
            guards: 0,
            pod_ranges: Vec::new(),
            exposure: BTreeMap::new(),
            judge_input: first.judge_input,
            diverted: Vec::new(),
            relaxed: BTreeSet::new(),
        };
        kernel.take_in(first);
        kernel.watch()?;
        kernel.rewrite()?;
        Ok(kernel)
    }

    /// Whether the pod ranges are known; without, only addresses known to be isolated are diverted.
    pub(crate) fn knows_ranges(&self) -> bool {
        !self.pod_ranges.is_empty()
    }

    /// Whether no local pod has an address.
    pub(crate) fn is_empty(&self) -> bool {
        self.exposure.is_empty()
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
    /// less. Must come before the publication.
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
        let grown = self.take_in(build);
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
        if !open.is_empty() || ranges.is_some() || judge_input.is_some() {
            self.program.apply(&Update { ranges: ranges.as_deref(), open: &open, judge_input })?;
        }
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
        if !open.is_empty() || ranges.is_some() || judge_input.is_some() {
            self.program.apply(&Update { ranges: ranges.as_deref(), open: &open, judge_input })?;
        }
        self.relaxed.clear();
        if let Some(ranges) = ranges {
            self.diverted = ranges;
        }
        self.judge_input = build.judge_input;
        Ok(())
    }

    /// Undoes what somebody else did to the table, as the guard of that number noticed; false if that is over. What
    /// the sets hold cannot be compared cheaply, so they are written anew in any case.
    pub(crate) fn undo_others(&mut self, guard: u64) -> Result<bool, Error> {
        if guard != self.guards {
            return Ok(false);
        }
        if self.program.intact()? {
            self.rewrite()?
        } else {
            self.mend()?
        }
        Ok(true)
    }

    /// Writes the whole table anew, after a failure or somebody else's changes.
    pub(crate) fn mend(&mut self) -> Result<(), Error> {
        self.program = Program::install(self.settings.clone())?;
        self.watch()?;
        self.rewrite()
    }

    /// Has [`Input::TryAgain`] come in a while.
    pub(crate) fn try_again_later(&self) {
        inputs::try_again(&self.inputs);
    }

    /// Watches for others' changes. The watch belongs to the program's socket, so a new program needs a new one. Before
    /// the sets are written, so that no change of theirs is missed.
    fn watch(&mut self) -> Result<(), Error> {
        let guard = self.program.guard()?;
        let waker = guard.waker();
        self.guards += 1;
        inputs::ruleset(guard, self.guards, self.inputs.clone())
            .map_err(|source| Error::Io { doing: "start a thread".to_owned(), source })?;
        if let Some(before) = self.guard.replace(waker) {
            before.wake();
        }
        // Between the installation and the watch nobody looked.
        if self.program.intact()? { Ok(()) } else { Err(Error::Busy { doing: "the program was being installed" }) }
    }

    /// Sets and ranges from nothing, in one transaction.
    fn rewrite(&mut self) -> Result<(), Error> {
        let open: Vec<_> = self.exposure.iter().map(|(a, e)| (*a, is_open(*e))).collect();
        let ranges = self.wanted_ranges();
        self.program.replace(&Update { ranges: Some(&ranges), open: &open, judge_input: Some(self.judge_input) })?;
        self.diverted = ranges;
        self.relaxed.clear();
        Ok(())
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

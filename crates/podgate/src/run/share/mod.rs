//! Overload: while more comes up than the workers can judge, each pod has a share of the queue, so that one that floods,
//! or is flooded, does not starve the rest.
//!
//! ```text
//!   worker: full batches without a break ──▶ look at the queues ──▶ packets are lost, again and again
//!                                                                      └▶ watch: see in the kernel whose they are
//!   every quarter of a second, while packets are lost or there are shares
//!       watching, and they are of several pods ──────────▶ shares: half of what a worker can judge
//!       packets are still lost ──────────────────────────▶ half of it
//!       none is, but pods have more than their share ────▶ after a while, half as much again
//!       one pod is alone for a while ────────────────────▶ watch
//!       no pod has more for five seconds, none is lost ──▶ no shares
//! ```
//!
//! One pod that is alone has no share: nobody else would be the better for it. To watch is to have shares that nobody can
//! use up, so that the kernel notes who sends.
//!
//! The aim is the largest share with which nothing is lost in the queues: who asks for less gets what it asks for, and
//! all others the same, up to what the workers can do. Nobody knows that number, as it depends on who asks; so it is
//! found by halving, which is quick, and by trying more, which is slow: after [`PATIENCE`](regulator::PATIENCE), and twice as long each time
//! that this was too much, as it costs the others packets.
//!
//! An agent that ends leaves a share as it is: without an agent nothing is judged anyway. The next one begins without.
//!
//! Losing packets is the test, and not that the workers are busy, as a share takes from a pod what might have been
//! judged: many clients that each wait for their answers can keep a worker busy for ever and lose nothing. Where packets
//! pass when a queue is full (`--fail-open`) the kernel counts no loss; there, and anywhere, a queue that is nearly
//! full at the moment of a look is as good.
//!
//! Here: when there are shares (`queues`), how large they are (`regulator`), who had more. The rules are
//! `podgate_netfilter::Program`'s, and whose a packet is; what is told of it `telemetry::share`'s.

mod queues;
mod regulator;

use std::collections::HashMap;
use std::io::ErrorKind;
use std::net::IpAddr;
use std::sync::Arc;
use std::thread::Thread;
use std::time::{Duration, Instant};

use anyhow::Result;
use clap::ValueEnum;
use podgate_netfilter::{Error, Excess, Share};
use tokio::sync::mpsc::Sender;

use self::queues::{Looks, Queues, overload};
use self::regulator::{Act, Regulator, Seen, WATCH};
use super::control::{Control, lock};
use super::inputs::{self, Input};
use super::kernel::Kernel;
use super::plane::Plane;
use crate::telemetry::Shares;
use crate::telemetry::share::named;
use crate::worker::Crowd;

/// Whether there are shares under overload.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum ShareMode {
    /// Under overload.
    Auto,
    /// Never: a full queue drops (or passes, with --fail-open) whatever comes.
    Off,
}

/// From one look to the next while there are shares.
const TICK: Duration = Duration::from_millis(250);

/// A rate with the burst that goes with it: a tenth of a second, or a client that opens a pool of connections at once.
fn share(rate: u32) -> Share {
    Share { rate, burst: (rate / 10).max(128) }
}

/// What the control loop knows of overload.
pub(crate) struct Sharing {
    /// Whom workers tell that they cannot keep up; None: nobody.
    told_by: Option<Thread>,
    inputs: Sender<Input>,
    told: Arc<Shares>,
    /// Packets that may wait in one queue.
    length: u32,
    looks: Option<Looks>,
    regulator: Option<Regulator>,
    /// What each address had over the share in force.
    counted: HashMap<IpAddr, u64>,
    /// This kernel can't.
    impossible: bool,
}

impl Sharing {
    /// There are no shares yet. `length`: packets that may wait in one queue.
    pub(crate) fn start(mode: ShareMode, length: u32, told: Arc<Shares>, inputs: Sender<Input>) -> Result<Self> {
        let told_by = match mode {
            ShareMode::Auto => Some(inputs::crowds(inputs.clone())?),
            ShareMode::Off => None,
        };
        Ok(Self::new(told_by, length, told, inputs))
    }

    fn new(told_by: Option<Thread>, length: u32, told: Arc<Shares>, inputs: Sender<Input>) -> Self {
        let (looks, regulator, counted) = (None, None, HashMap::new());
        Sharing { told_by, inputs, told, length, looks, regulator, counted, impossible: false }
    }

    /// What workers tell.
    pub(crate) fn crowd(&self) -> Crowd {
        Crowd::told_to(self.told_by.clone())
    }

    /// What the elements count now, of which some is counted already.
    fn count(&mut self, excess: Vec<Excess>, pod: impl Fn(IpAddr) -> Option<String>) -> bool {
        let mut counted = HashMap::with_capacity(excess.len());
        let mut more = false;
        for Excess { pod: address, packets } in excess {
            let before = self.counted.get(&address).copied().filter(|before| *before <= packets).unwrap_or(0);
            if packets > before {
                self.told.count(pod(address).as_deref(), packets - before);
                more = true;
            }
            counted.insert(address, packets);
        }
        self.counted = counted;
        more
    }

    fn later(&self) {
        inputs::later(TICK, Input::ShareDue, &self.inputs);
    }
}

impl Control {
    /// Workers cannot keep up.
    pub(super) fn take_crowd(&mut self, plane: &mut Plane<'_>) {
        let Some(kernel) = plane.kernel.as_mut().filter(|kernel| kernel.is_owner()) else { return };
        if self.sharing.regulator.is_some() || self.sharing.impossible {
            return;
        }
        let Some(queues) = self.look_at_queues(kernel) else { return };
        let Some(rate) = overload(&mut self.sharing.looks, queues) else { return };
        let regulator = Regulator::new(rate, Instant::now());
        tracing::warn!(
            judged = rate,
            "overload: more comes up than the `judged` packets a second of a worker, and is lost"
        );
        self.sharing.counted.clear();
        if self.limit(kernel, Some(regulator.limit)) {
            self.sharing.regulator = Some(regulator);
            self.sharing.looks = self.look_at_queues(kernel).map(Looks::begin);
            self.sharing.later();
        }
    }

    /// Time to look whether the shares are right.
    pub(super) fn take_share_due(&mut self, plane: &mut Plane<'_>) {
        let Some(mut regulator) = self.sharing.regulator.take() else { return };
        let Some(kernel) = plane.kernel.as_mut().filter(|kernel| kernel.is_owner()) else {
            return self.tell_no_share();
        };
        let (alone, excess) = match kernel.excess() {
            Ok(excess) => (excess.len() < 2, self.count_excess(excess)),
            Err(error) => {
                tracing::warn!(%error, "the pods' shares cannot be read");
                (false, true)
            }
        };
        let Some(queues) = self.look_at_queues(kernel) else { return self.end_shares(kernel) };
        let losing = self.sharing.looks.as_ref().is_none_or(|looks| queues.losing_since(&looks.latest));
        self.sharing.looks = Some(Looks::begin(queues));
        let seen = Seen { losing, excess, alone };
        match regulator.look(seen, Instant::now()) {
            Act::Keep => {}
            Act::Limit(limit) => {
                match limit {
                    WATCH => tracing::info!("overload: one pod is alone, and has no share"),
                    _ => tracing::warn!(
                        share = limit,
                        lost = seen.losing,
                        "overload: until it is over each pod may have `share` packets a second judged"
                    ),
                }
                if !self.limit(kernel, Some(limit)) {
                    return;
                }
            }
            Act::End => return self.end_shares(kernel),
        }
        self.sharing.regulator = Some(regulator);
        self.sharing.later();
    }

    fn end_shares(&mut self, kernel: &mut Kernel) {
        if self.limit(kernel, None) {
            let over = named(&self.sharing.told.lately());
            tracing::info!(over, "the overload is over: pods have no shares any more");
        }
        self.sharing.looks = None;
    }

    fn look_at_queues(&self, kernel: &Kernel) -> Option<Queues> {
        let read = Queues::read(self.sharing.length, kernel, &self.counters);
        read.inspect_err(|error| tracing::warn!(%error, "the queues' statistics cannot be read")).ok()
    }

    fn count_excess(&mut self, excess: Vec<Excess>) -> bool {
        let index = Arc::clone(&self.index);
        self.sharing.count(excess, |address| lock(&index).pod_at(address))
    }

    /// False: there are no shares, as the kernel refuses, or the table is another agent's.
    fn limit(&mut self, kernel: &mut Kernel, limit: Option<u32>) -> bool {
        let result = kernel.set_share(limit.map(share));
        self.state.kernel_transactions.inc();
        match result {
            Ok(excess) => {
                self.count_excess(excess);
                // The next share counts anew.
                self.sharing.counted.clear();
                self.sharing.told.set(limit.filter(|limit| *limit != WATCH && kernel.is_owner()));
                kernel.is_owner()
            }
            Err(error) if is_unknown_to_kernel(&error) => {
                self.state.kernel_errors.inc();
                tracing::error!(
                    %error,
                    "this kernel cannot give pods a share of the queue (Linux 5.11 can): a full queue drops whatever comes"
                );
                self.sharing.impossible = true;
                self.tell_no_share();
                false
            }
            Err(error) => {
                self.tell_no_share();
                self.kernel_failed(&error, kernel);
                false
            }
        }
    }

    fn tell_no_share(&mut self) {
        self.sharing.told.set(None);
        self.sharing.looks = None;
    }
}

/// It does not know the words: trying again is of no use.
fn is_unknown_to_kernel(error: &Error) -> bool {
    let unknown = [ErrorKind::Unsupported, ErrorKind::InvalidInput, ErrorKind::NotFound];
    matches!(error, Error::Refused { source, .. } if unknown.contains(&source.kind()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_packet_over_a_share_is_counted_once() {
        let mut sharing = Sharing::new(None, 4096, Arc::default(), tokio::sync::mpsc::channel(1).0);
        let address = IpAddr::from([10, 0, 0, 1]);
        let excess = |packets| vec![Excess { pod: address, packets }];
        let name = |_| Some("shop/evil".to_owned());
        sharing.told.set(Some(1));
        assert!(sharing.count(excess(5), name));
        assert!(!sharing.count(excess(5), name));
        assert!(sharing.count(excess(7), name));
        // The element was gone for a while.
        assert!(sharing.count(excess(3), name));
        assert_eq!(sharing.told.lately(), [("shop".to_owned(), "evil".to_owned(), 10)]);
    }
}

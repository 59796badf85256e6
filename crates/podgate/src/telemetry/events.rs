//! Deny events: one log line for each deny, as far as the rate limit lets them.
//!
//! ```text
//!   worker ──▶ bounded ring (full: lost and counted) ──▶ this thread, every tick ──▶ Bucket ──▶ one line each
//! ```
//!
//! The thread looks at the ring on a tick instead of being woken, because a wake-up is a system call that the worker
//! would pay for, on the path of a packet. So an event is told at most [`TICK`] late, and a ring of 4,096 records
//! holds 80,000 denies a second; what is past that is lost as an event and counted, never waited for.
//!
//! Not here: rule counters, which have every deny, and the ring, which is the workers'.

use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use podgate_engine::{Addr, Direction, Generation, Port, Publication, RuleId, protocol};

use super::bucket::Bucket;
pub(crate) use super::bucket::Limit;
use super::state::State;

/// How often the ring is looked at.
const TICK: Duration = Duration::from_millis(50);
/// How often it is said how many events were not.
const SUPPRESSED_EVERY: Duration = Duration::from_secs(10);
/// Events taken in one go, so that a stop is noticed even when they never cease.
const AT_ONCE: usize = 1 << 16;

/// A deny, as the packet path knows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Deny {
    /// Who opened the connection.
    pub(crate) source: Addr,
    /// To whom.
    pub(crate) destination: Addr,
    /// The IANA protocol number.
    pub(crate) protocol: u8,
    /// The destination port.
    pub(crate) port: Port,
    /// Whose policies denied: those of the source (egress) or those of the destination (ingress).
    pub(crate) direction: Direction,
    /// The rule that denied; `None`: no pod is known to have the address in that direction.
    pub(crate) rule: Option<RuleId>,
    /// The snapshot that decided: by another the rule's number may be another rule's.
    pub(crate) generation: Generation,
}

/// The running thread; dropping it tells what is left and ends it.
#[derive(Debug)]
pub(crate) struct Events {
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Drop for Events {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // A panic in there has been told by the panic handler; there is nothing more to do about it.
            let _ = thread.join();
        }
    }
}

/// Starts the thread. `next` takes one event out of the ring (`None`: it is empty), `name` gives the `namespace/name`
/// of the pod that has an address.
pub(crate) fn start(
    limit: Limit,
    publication: Arc<Publication>,
    state: Arc<State>,
    next: impl FnMut() -> Option<Deny> + Send + 'static,
    name: impl Fn(IpAddr) -> Option<String> + Send + 'static,
) -> io::Result<Events> {
    let (stop, stopped) = channel();
    let teller = Teller { bucket: Bucket::new(limit, Instant::now()), publication, state, name, suppressed: 0 };
    let work = move || run(&stopped, next, teller);
    let thread = std::thread::Builder::new().name("events".to_owned()).spawn(work)?;
    Ok(Events { stop: Some(stop), thread: Some(thread) })
}

fn run<N>(stopped: &Receiver<()>, mut next: impl FnMut() -> Option<Deny>, mut teller: Teller<N>)
where
    N: Fn(IpAddr) -> Option<String>,
{
    let mut summed = Instant::now();
    loop {
        let going_on = matches!(stopped.recv_timeout(TICK), Err(RecvTimeoutError::Timeout));
        let now = Instant::now();
        std::iter::from_fn(&mut next).take(AT_ONCE).for_each(|deny| teller.tell(&deny, now));
        if !going_on || now.duration_since(summed) >= SUPPRESSED_EVERY {
            teller.sum_up();
            summed = now;
        }
        if !going_on {
            return;
        }
    }
}

/// Tells events, as far as the limit lets it.
struct Teller<N> {
    bucket: Bucket,
    publication: Arc<Publication>,
    state: Arc<State>,
    name: N,
    suppressed: u64,
}

impl<N: Fn(IpAddr) -> Option<String>> Teller<N> {
    fn tell(&mut self, deny: &Deny, now: Instant) {
        if !self.bucket.take(now) {
            self.suppressed += 1;
            self.state.deny_events_suppressed.inc();
            return;
        }
        let snapshot = self.publication.current();
        let rule = match deny.rule {
            None => "(no pod is known to have the address)",
            Some(rule) => {
                let known = snapshot.rule(rule).filter(|info| info.since <= deny.generation);
                known.map_or("(a rule that is gone by now)", |info| &info.name)
            }
        };
        let port = match deny.port {
            Port::Number(port) => Some(port),
            Port::None | Port::Unknown => None,
        };
        tracing::info!(
            target: "podgate::deny",
            from = %self.called(deny.source),
            to = %self.called(deny.destination),
            source = %deny.source,
            destination = %deny.destination,
            protocol = %Protocol(deny.protocol),
            port,
            direction = deny.direction.as_str(),
            rule = %rule,
            "deny",
        );
    }

    /// The pod's name, or the address where no pod has it.
    fn called(&self, address: Addr) -> String {
        (self.name)(address.ip()).unwrap_or_else(|| address.to_string())
    }

    fn sum_up(&mut self) {
        let suppressed = std::mem::take(&mut self.suppressed);
        if suppressed > 0 {
            tracing::info!(target: "podgate::deny", suppressed, "denies that were not logged; rule counters have them");
        }
    }
}

/// A protocol as people write it.
struct Protocol(u8);

impl std::fmt::Display for Protocol {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0 {
            protocol::TCP => f.write_str("TCP"),
            protocol::UDP => f.write_str("UDP"),
            protocol::SCTP => f.write_str("SCTP"),
            protocol::ICMP => f.write_str("ICMP"),
            protocol::ICMPV6 => f.write_str("ICMPv6"),
            other => other.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests;

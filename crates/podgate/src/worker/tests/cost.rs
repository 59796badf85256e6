//! What a packet must not cost: memory.

use std::io;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use podgate_engine::{Counter, Counters};
use podgate_netfilter::Way;
use podgate_netfilter::queue::{Fate, Packet, Queue, Received, Waker};

use super::rig::{HOLD, Queued, Step, UNKNOWN, Versions, at, packet, play, queued, shared, shared_with};
use crate::reject::Rejects;
use crate::worker::gate::{End, Gate};
use crate::worker::run::Worker;

/// The same batch for ever.
struct Again {
    packets: Vec<Queued>,
    next: u32,
    waker: Waker,
}

impl Queue for Again {
    fn receive(&mut self, _: Option<Duration>) -> io::Result<Received> {
        Ok(Received::Packets(self.packets.len()))
    }

    fn answer(&mut self, judge: &mut dyn FnMut(&Packet<'_>) -> Fate) -> io::Result<()> {
        for queued in &self.packets {
            self.next += 1;
            std::hint::black_box(judge(&packet(self.next, queued)));
        }
        Ok(())
    }

    fn answer_held(&mut self, _: u32, _: Fate) -> io::Result<()> {
        Ok(())
    }

    fn waker(&self) -> Waker {
        self.waker.clone()
    }

    fn malformed(&self) -> u64 {
        0
    }
}

#[test]
fn a_packet_costs_no_allocation_whatever_becomes_of_it() {
    costs_nothing(None);
}

#[test]
fn nor_does_one_that_is_answered_or_whose_sender_is_told_nothing_more() {
    let gate = Gate::new();
    // The sender of the reply that is denied.
    let until = std::time::Instant::now() + Duration::from_secs(3600);
    gate.close_to(End::Source, at("10.1.0.9", 1).ip().into(), until);
    let counters = costs_nothing(Some(Rejects { queue: 99, gate }));
    assert_eq!([Counter::RejectSource, Counter::RejectRate].map(|c| counters.get(c)), [1000, 0]);
}

fn costs_nothing(rejects: Option<Rejects>) -> Arc<Counters> {
    use podgate_sandbox::Packet as Built;
    let router = "10.9.9.9".parse().unwrap();
    let (client, client2, server) = ("10.1.0.5", "10.1.0.6", "10.1.0.9");
    let syn = |port| Built::syn(at(client, 40000), at(server, port));
    let packets = vec![
        queued(Way::Original, &syn(80)),
        queued(Way::Original, &syn(81)),
        queued(Way::Reply, &Built::udp(at(server, 80), at(client, 40000), b"x")),
        queued(Way::Reply, &Built::udp(at(server, 7), at(client, 40000), b"x")),
        queued(Way::Untracked, &syn(81)),
        queued(Way::RelatedReply, &Built::port_unreachable(router, &syn(80))),
        queued(Way::Original, &Built::syn(at(client, 40000), at(UNKNOWN, 80))),
        queued(Way::Original, &Built::syn(at(client2, 40000), at(UNKNOWN, 80))),
        Queued { way: Some(Way::Original), hook: 4, bytes: vec![0x60; 20] },
        Queued { way: None, hook: 4, bytes: vec![] },
    ];
    let shared = shared_with(HOLD, true, rejects);
    // Whose packets are passed on, and whose are not any more.
    let closed = std::time::Instant::now() + Duration::from_secs(3600);
    shared.hold_gate.close_to(End::Source, at(client2, 1).ip().into(), closed);
    let queue = Again { packets, next: 0, waker: Waker::new().unwrap() };
    let rules = QuietVersions;
    let mut worker = Worker::new(0, Box::new(queue), rules, shared.clone(), Arc::<AtomicBool>::default());
    let counted = allocation_counter::measure(|| {
        for _ in 0..1000 {
            worker.turn().unwrap();
        }
    });
    assert_eq!(counted.count_total, 0, "{counted:?}");
    // All of that really happened.
    let counts = [
        Counter::Packets,
        Counter::PassedOn,
        Counter::HoldSource,
        Counter::Unmarked,
        Counter::Related,
        Counter::Untracked,
    ];
    assert_eq!(counts.map(|c| shared.counters.get(c)), [10_000, 1000, 1000, 1000, 1000, 1000]);
    assert!(shared.counters.get(Counter::RecordsLost) > 0);
    Arc::clone(&shared.counters)
}

/// As [`super::rig::Port80`], without the strings that make it easy to read there.
struct Quiet;
struct QuietVersions;

impl crate::worker::Judge for Quiet {
    fn judge(&self, flow: &podgate_engine::Flow, _: podgate_engine::NodeOrigin) -> podgate_engine::Judgement {
        use podgate_engine::{Cause, Decision, Judgement, Port};
        let unknown: std::net::IpAddr = UNKNOWN.parse().unwrap_or(std::net::Ipv4Addr::UNSPECIFIED.into());
        let ingress = match flow.port {
            _ if flow.destination == unknown.into() => Cause::Unknown,
            Port::Number(80) => Cause::Accepted(super::rig::ACCEPTS),
            _ => Cause::Denied(super::rig::DENIES),
        };
        Judgement { egress: Decision { cause: Cause::Open }, ingress: Decision { cause: ingress } }
    }

    fn is_missing_peer(&self, _: podgate_engine::Addr) -> bool {
        false
    }

    fn generation(&self) -> podgate_engine::Generation {
        podgate_engine::Generation(1)
    }
}

impl crate::worker::Rules for QuietVersions {
    type Judge = Quiet;

    fn batch<T>(&mut self, work: impl FnOnce(&Quiet) -> T) -> T {
        work(&Quiet)
    }
}

#[test]
fn a_broken_queue_ends_the_worker_with_its_error() {
    let outcome = play(shared(HOLD, false), Versions::first(), vec![Step::Broken]);
    assert_eq!(outcome.ended.unwrap_err().to_string(), "the queue broke");
}

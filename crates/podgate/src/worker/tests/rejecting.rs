//! Denied packets that are answered: what a worker and the keeper leave to the rejecter.

use std::time::{Duration, Instant};

use podgate_engine::{Addr, Counter};
use podgate_netfilter::Way;
use podgate_netfilter::queue::Fate;
use podgate_sandbox::Packet;

use super::rig::{DENIES, HOLD, REMEMBERED, Step, UNKNOWN, Versions, at, keep, play, queued, shared_with};
use crate::reject::Rejects;
use crate::worker::{End, Gate, HoldSettings};

const CLIENT: &str = "10.1.0.5";
const SERVER: &str = "10.1.0.9";
const TO_REJECTER: Fate = Fate::Queue { number: 99 };

fn rejects() -> Option<Rejects> {
    Some(Rejects { queue: 99, gate: Gate::new() })
}

fn from(client: &str, port: u16) -> Packet {
    Packet::udp(at(client, 40000), at(SERVER, port), b"x")
}

#[test]
fn a_denied_packet_goes_to_the_rejecter_and_is_counted_as_denied() {
    let packets = vec![
        queued(Way::Original, &from(CLIENT, 80)),
        queued(Way::Original, &from(CLIENT, 81)),
        queued(Way::Reply, &Packet::udp(at(SERVER, 81), at(CLIENT, 40000), b"x")),
    ];
    let shared = shared_with(HOLD, false, rejects());
    let outcome = play(shared, Versions::first(), vec![Step::Packets(packets)]);
    assert_eq!(outcome.fates(), [REMEMBERED, TO_REJECTER, TO_REJECTER]);
    assert_eq!((outcome.count(Counter::Dropped), outcome.shared.counters.rule(DENIES)), (2, 2));
    assert_eq!(outcome.records().len(), 2);
}

#[test]
fn what_is_past_its_time_goes_to_the_rejecter_as_well() {
    let hold = HoldSettings { time: Duration::ZERO, ..HOLD };
    let packets = vec![queued(Way::Original, &Packet::syn(at(CLIENT, 40000), at(UNKNOWN, 80)))];
    let steps = vec![Step::Packets(packets), Step::TimedOut];
    assert_eq!(keep(shared_with(hold, false, rejects()), Versions::first(), steps).fates(), [TO_REJECTER]);
}

#[test]
fn whom_the_rejecter_tells_nothing_more_is_denied_at_once() {
    let until = Instant::now() + Duration::from_secs(3600);
    let address = |text: &str| -> Addr { at(text, 0).ip().into() };
    let shared = shared_with(HOLD, false, rejects());
    let gate = &shared.rejects.as_ref().unwrap().gate;
    gate.close_to(End::Source, address(CLIENT), until);
    let packets = || {
        vec![
            queued(Way::Original, &from(CLIENT, 81)),
            queued(Way::Original, &from("10.1.0.6", 81)),
            // The sender of an answer is the server.
            queued(Way::Reply, &Packet::udp(at(SERVER, 81), at(CLIENT, 40000), b"x")),
        ]
    };
    let outcome = play(shared.clone(), Versions::first(), vec![Step::Packets(packets())]);
    assert_eq!(outcome.fates(), [Fate::Drop, TO_REJECTER, TO_REJECTER]);
    assert_eq!([Counter::RejectSource, Counter::RejectRate].map(|c| outcome.count(c)), [1, 0]);
    gate.close(until);
    let outcome = play(shared, Versions::first(), vec![Step::Packets(packets())]);
    assert_eq!(outcome.fates(), [Fate::Drop; 3]);
    assert_eq!([Counter::RejectSource, Counter::RejectRate].map(|c| outcome.count(c)), [1, 3]);
    assert_eq!(outcome.count(Counter::Dropped), 6);
}

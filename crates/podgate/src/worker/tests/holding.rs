//! Packets of addresses that are not known yet.

use std::sync::atomic::Ordering;
use std::time::Duration;

use podgate_engine::{Cause, Counter, Generation};
use podgate_netfilter::Way;
use podgate_netfilter::queue::Fate;
use podgate_sandbox::Packet;

use super::rig::{DENIES, Queued, REMEMBERED, Step, UNKNOWN, Versions, at, play, queued, shared};
use crate::worker::HoldSettings;

const LONG: HoldSettings = HoldSettings { time: Duration::from_secs(3600), packets: 256, per_source: 16 };

fn from_unknown(port: u16) -> Queued {
    queued(Way::Original, &Packet::syn(at(UNKNOWN, 40000), at("10.1.0.9", port)))
}

fn to_unknown(source: &str) -> Queued {
    queued(Way::Original, &Packet::syn(at(source, 40000), at(UNKNOWN, 80)))
}

fn known(port: u16) -> Queued {
    queued(Way::Original, &Packet::syn(at("10.1.0.5", 40000), at("10.1.0.9", port)))
}

/// The pod becomes known, and the publisher wakes the workers.
fn publish(versions: &Versions) -> Step {
    let versions = versions.clone();
    Step::Meanwhile(Box::new(move || versions.0.store(2, Ordering::SeqCst)))
}

#[test]
fn held_packets_are_judged_when_their_address_becomes_known() {
    let versions = Versions::first();
    let steps = vec![Step::Packets(vec![to_unknown("10.1.0.5"), known(80), from_unknown(80)]), publish(&versions)];
    let outcome = play(shared(LONG, false), versions, steps);
    assert_eq!(outcome.fates(), [REMEMBERED; 3]);
    let counts = [Counter::Held, Counter::HoldExpired, Counter::Packets, Counter::Accepted, Counter::Dropped];
    assert_eq!(counts.map(|c| outcome.count(c)), [2, 0, 3, 3, 0]);
    // Each packet is in the latency once, whenever it was answered.
    assert_eq!(outcome.shared.counters.latency().count(), 3);
    assert!(outcome.records().is_empty());
}

#[test]
fn a_wake_without_news_changes_nothing() {
    let versions = Versions::first();
    let steps = vec![
        Step::Packets(vec![to_unknown("10.1.0.5")]),
        Step::Meanwhile(Box::new(|| {})),
        Step::Packets(vec![known(80)]),
        publish(&versions),
    ];
    let outcome = play(shared(LONG, false), versions, steps);
    assert_eq!(outcome.fates(), [REMEMBERED; 2]);
    // It waits with a deadline only while something is held.
    let waits: Vec<_> = outcome.seen.waits.iter().map(Option::is_some).collect();
    assert_eq!(waits, [false, true, true, true, false, true]);
}

#[test]
fn a_new_version_is_asked_without_a_wake_when_packets_come() {
    let versions = Versions::first();
    let later = versions.clone();
    let steps = vec![
        Step::Packets(vec![to_unknown("10.1.0.5")]),
        Step::Meanwhile(Box::new(move || later.0.store(2, Ordering::SeqCst))),
        Step::Packets(vec![known(81)]),
    ];
    let outcome = play(shared(LONG, false), versions, steps);
    assert_eq!(outcome.fates(), [REMEMBERED, Fate::Drop]);
}

#[test]
fn at_the_deadline_a_held_packet_is_denied_counted_and_recorded() {
    let hold = HoldSettings { time: Duration::ZERO, ..LONG };
    let steps = vec![Step::Packets(vec![to_unknown("10.1.0.5"), known(80)]), Step::TimedOut];
    let outcome = play(shared(hold, false), Versions::first(), steps);
    assert_eq!(outcome.fates(), [Fate::Drop, REMEMBERED]);
    assert_eq!([Counter::Held, Counter::HoldExpired, Counter::Dropped].map(|c| outcome.count(c)), [1, 1, 1]);
    let record = outcome.records()[0];
    assert_eq!((record.judgement.ingress.cause, record.generation), (Cause::Unknown, Generation(1)));
}

#[test]
fn one_source_cannot_fill_the_table() {
    let hold = HoldSettings { per_source: 3, ..LONG };
    let mut packets: Vec<_> = (0..5).map(|_| to_unknown("10.1.0.5")).collect();
    packets.push(to_unknown("10.1.0.6"));
    let versions = Versions::first();
    let steps = vec![Step::Packets(packets), publish(&versions)];
    let outcome = play(shared(hold, false), versions, steps);
    let (held, denied) = (REMEMBERED, Fate::Drop);
    assert_eq!(outcome.fates(), [held, held, held, denied, denied, held]);
    assert_eq!([Counter::Held, Counter::HoldFull].map(|c| outcome.count(c)), [4, 2]);
}

#[test]
fn a_full_table_denies_and_counts() {
    let hold = HoldSettings { packets: 4, ..LONG };
    let packets = (1..=6).map(|n| to_unknown(&format!("10.1.0.{n}"))).collect();
    let versions = Versions::first();
    let outcome = play(shared(hold, false), versions.clone(), vec![Step::Packets(packets), publish(&versions)]);
    assert_eq!(outcome.count(Counter::HoldFull), 2);
    assert_eq!(outcome.fates().iter().filter(|fate| **fate == REMEMBERED).count(), 4);
    // What was let go made room.
    let versions = Versions::first();
    let again = vec![
        Step::Packets((1..=4).map(|n| to_unknown(&format!("10.1.0.{n}"))).collect()),
        publish(&versions),
        Step::Packets(vec![known(80)]),
    ];
    assert_eq!(play(shared(hold, false), versions, again).count(Counter::Accepted), 5);
}

#[test]
fn a_packet_that_the_other_end_denies_to_a_stranger_is_held_as_well() {
    // Who its sender is may be what the other end's policies ask for.
    let outcome = play(shared(LONG, false), Versions::first(), vec![Step::Packets(vec![from_unknown(81)])]);
    assert_eq!(outcome.fates(), [Fate::Drop]);
    assert_eq!((outcome.count(Counter::Held), outcome.shared.counters.rule(DENIES)), (1, 1));
}

#[test]
fn a_stop_answers_what_is_held() {
    // Known by the time of the stop, or not.
    for (last, expected) in [(2, REMEMBERED), (1, Fate::Drop)] {
        let versions = Versions::first();
        let later = versions.clone();
        let steps = vec![
            Step::Packets(vec![to_unknown("10.1.0.5")]),
            Step::Meanwhile(Box::new(move || later.0.store(last, Ordering::SeqCst))),
        ];
        let outcome = play(shared(LONG, false), versions, steps);
        assert_eq!(outcome.fates(), [expected]);
        assert!(outcome.ended.is_ok());
    }
}

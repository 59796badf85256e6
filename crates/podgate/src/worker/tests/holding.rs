//! Packets of addresses that are not known yet: what a worker leaves to the keeper, and what that one does.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use podgate_engine::{Addr, Cause, Counter, Generation};
use podgate_netfilter::Way;
use podgate_netfilter::queue::Fate;
use podgate_sandbox::Packet;

use super::rig::{
    DENIES, ELSEWHERE, HOLD, NOBODYS, PASSED, PASSED_ON, Queued, REMEMBERED, Step, UNKNOWN, Versions, at, keep, play,
    queued, shared,
};
use crate::worker::gate::End;
use crate::worker::{HoldSettings, OnUnknown};

fn from_unknown(port: u16) -> Queued {
    queued(Way::Original, &Packet::syn(at(UNKNOWN, 40000), at("10.1.0.9", port)))
}

fn to_unknown(source: &str) -> Queued {
    queued(Way::Original, &Packet::syn(at(source, 40000), at(UNKNOWN, 80)))
}

/// To one of many addresses that nobody has, from its own source each.
fn to_nobody(n: usize) -> Queued {
    let [high, low] = [n / 250, n % 250 + 1];
    let ends = [at(&format!("10.7.{high}.{low}"), 40000), at(&format!("{NOBODYS}{high}.{low}"), 80)];
    queued(Way::Original, &Packet::syn(ends[0], ends[1]))
}

fn known(port: u16) -> Queued {
    queued(Way::Original, &Packet::syn(at("10.1.0.5", 40000), at("10.1.0.9", port)))
}

fn address(text: &str) -> Addr {
    at(text, 0).ip().into()
}

/// The pod becomes known, and the publisher wakes the keeper.
fn publish(versions: &Versions) -> Step {
    let versions = versions.clone();
    Step::Meanwhile(Box::new(move || versions.0.store(2, Ordering::SeqCst)))
}

#[test]
fn a_worker_passes_packets_of_unknown_addresses_on_and_waits_for_none() {
    let packets = vec![to_unknown("10.1.0.5"), known(80), from_unknown(80), from_unknown(81)];
    let outcome = play(shared(HOLD, false), Versions::first(), vec![Step::Packets(packets)]);
    assert_eq!(outcome.fates(), [PASSED_ON, REMEMBERED, PASSED_ON, PASSED_ON]);
    let counts = [Counter::PassedOn, Counter::Packets, Counter::Accepted, Counter::Dropped, Counter::Held];
    assert_eq!(counts.map(|c| outcome.count(c)), [3, 4, 1, 0, 0]);
    // Counted, recorded and timed where they are answered.
    assert_eq!((outcome.shared.counters.latency().count(), outcome.records().len()), (1, 0));
    assert!(outcome.seen.waits.iter().filter(|wait| wait.is_some()).count() <= 1, "{:?}", outcome.seen.waits);
}

#[test]
fn a_worker_answers_itself_where_the_keeper_takes_nothing_more() {
    let until = Instant::now() + Duration::from_secs(3600);
    let one = address("10.1.0.5");
    let all = [to_unknown("10.1.0.5"), to_unknown("10.1.0.6"), from_unknown(80), known(80)];
    let closed = |close: &dyn Fn(&crate::worker::Gate), past| {
        let shared = shared(HoldSettings { past, ..HOLD }, false);
        close(&shared.hold_gate);
        let outcome = play(shared, Versions::first(), vec![Step::Packets(all.to_vec())]);
        let counts = [Counter::HoldFull, Counter::HoldSource, Counter::HoldDestination, Counter::HoldAllowed];
        (outcome.fates(), counts.map(|c| outcome.count(c)), outcome.records().len())
    };
    let (drop, on, yes) = (Fate::Drop, PASSED_ON, REMEMBERED);
    let full: &dyn Fn(&crate::worker::Gate) = &|gate| gate.close(until);
    assert_eq!(closed(full, OnUnknown::Deny), (vec![drop, drop, drop, yes], [3, 0, 0, 0], 3));
    assert_eq!(closed(full, OnUnknown::Allow), (vec![PASSED, PASSED, PASSED, yes], [0, 0, 0, 3], 0));
    let source: &dyn Fn(&crate::worker::Gate) = &|gate| gate.close_to(End::Source, one, until);
    assert_eq!(closed(source, OnUnknown::Deny), (vec![drop, on, on, yes], [0, 1, 0, 0], 1));
    let destination: &dyn Fn(&crate::worker::Gate) = &|gate| gate.close_to(End::Destination, address(UNKNOWN), until);
    assert_eq!(closed(destination, OnUnknown::Deny), (vec![drop, drop, on, yes], [0, 0, 2, 0], 2));
}

#[test]
fn held_packets_are_judged_when_their_address_becomes_known() {
    let versions = Versions::first();
    let steps =
        vec![Step::Packets(vec![to_unknown("10.1.0.5"), from_unknown(80), from_unknown(81)]), publish(&versions)];
    let outcome = keep(shared(HOLD, false), versions, steps);
    assert_eq!(outcome.fates(), [REMEMBERED, REMEMBERED, Fate::Drop]);
    let counts = [Counter::Held, Counter::HoldExpired, Counter::Accepted, Counter::Dropped];
    assert_eq!(counts.map(|c| outcome.count(c)), [3, 0, 2, 1]);
    // They came up once: at a worker. How long they were held is no verdict's latency.
    assert_eq!((outcome.shared.counters.latency().count(), outcome.count(Counter::Packets)), (0, 0));
    assert_eq!(outcome.shared.counters.rule(DENIES), 1);
    assert_eq!(outcome.records().len(), 1);
}

#[test]
fn what_is_held_by_an_agent_that_stood_still_and_was_replaced_meanwhile_is_dropped_whatever_is_known_of_it() {
    let (versions, shared) = (Versions::first(), shared(HoldSettings { past: OnUnknown::Allow, ..HOLD }, false));
    let pulse = Arc::clone(&shared.pulse);
    let steps = vec![
        Step::Packets(vec![to_unknown("10.1.0.5"), from_unknown(80)]),
        Step::Meanwhile(Box::new(move || pulse.is_replaced())),
        publish(&versions),
        Step::Packets(vec![known(80)]),
    ];
    let outcome = keep(shared, versions, steps);
    assert_eq!(outcome.fates(), [Fate::Drop; 3]);
    assert_eq!([Counter::Accepted, Counter::Dropped].map(|c| outcome.count(c)), [0, 3]);
}

#[test]
fn a_packet_that_is_known_when_it_comes_to_the_keeper_is_not_held() {
    let versions = Versions::first();
    let steps = vec![publish(&versions), Step::Packets(vec![to_unknown("10.1.0.5"), from_unknown(81)])];
    let outcome = keep(shared(HOLD, false), versions, steps);
    assert_eq!(outcome.fates(), [REMEMBERED, Fate::Drop]);
    assert_eq!(outcome.count(Counter::Held), 0);
}

#[test]
fn a_wake_without_news_changes_nothing() {
    let versions = Versions::first();
    let steps = vec![
        Step::Packets(vec![to_unknown("10.1.0.5")]),
        Step::Meanwhile(Box::new(|| {})),
        Step::Packets(vec![to_unknown("10.1.0.6")]),
        publish(&versions),
    ];
    let outcome = keep(shared(HOLD, false), versions, steps);
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
        Step::Packets(vec![from_unknown(81)]),
    ];
    let outcome = keep(shared(HOLD, false), versions, steps);
    assert_eq!(outcome.fates(), [REMEMBERED, Fate::Drop]);
}

#[test]
fn at_the_deadline_a_held_packet_is_denied_counted_and_recorded() {
    let hold = HoldSettings { time: Duration::ZERO, ..HOLD };
    let steps = vec![Step::Packets(vec![to_unknown("10.1.0.5")]), Step::TimedOut];
    let outcome = keep(shared(hold, false), Versions::first(), steps);
    assert_eq!(outcome.fates(), [Fate::Drop]);
    assert_eq!([Counter::Held, Counter::HoldExpired, Counter::Dropped].map(|c| outcome.count(c)), [1, 1, 1]);
    let record = outcome.records()[0];
    assert_eq!((record.judgement.ingress.cause, record.generation), (Cause::Unknown, Generation(1)));
}

#[test]
fn at_the_deadline_a_held_packet_is_allowed_where_that_is_the_setting_and_nothing_else_denies_it() {
    let hold = HoldSettings { time: Duration::ZERO, past: OnUnknown::Allow, ..HOLD };
    let steps = vec![Step::Packets(vec![from_unknown(80), from_unknown(81)]), Step::TimedOut];
    let outcome = keep(shared(hold, false), Versions::first(), steps);
    // Not remembered: its next packet is judged again.
    assert_eq!(outcome.fates(), [PASSED, Fate::Drop]);
    let counts = [Counter::HoldAllowed, Counter::HoldExpired, Counter::Accepted, Counter::Dropped];
    assert_eq!(counts.map(|c| outcome.count(c)), [1, 1, 1, 1]);
    assert_eq!((outcome.shared.counters.rule(DENIES), outcome.records().len()), (1, 1));
}

#[test]
fn one_source_cannot_fill_the_table_and_workers_are_told() {
    let hold = HoldSettings { per_source: 3, ..HOLD };
    let mut packets: Vec<_> = (0..5).map(|_| from_unknown(80)).collect();
    packets.push(to_unknown("10.1.0.6"));
    let shared = shared(hold, false);
    let outcome = keep(shared.clone(), Versions::first(), vec![Step::Packets(packets)]);
    assert_eq!([Counter::Held, Counter::HoldSource, Counter::HoldExpired].map(|c| outcome.count(c)), [4, 2, 4]);
    let now = Instant::now();
    let gate = &shared.hold_gate;
    assert!(gate.is_closed_to(End::Source, address(UNKNOWN), now) && !gate.is_closed(now));
    assert!(!gate.is_closed_to(End::Source, address("10.1.0.6"), now));
}

#[test]
fn one_unknown_destination_cannot_fill_the_table_either() {
    let hold = HoldSettings { per_source: 3, ..HOLD };
    let mut packets: Vec<_> = (1..=5).map(|n| to_unknown(&format!("10.1.0.{n}"))).collect();
    packets.push(from_unknown(80));
    let (shared, versions) = (shared(hold, false), Versions::first());
    let outcome = keep(shared.clone(), versions.clone(), vec![Step::Packets(packets), publish(&versions)]);
    let (held, denied) = (REMEMBERED, Fate::Drop);
    assert_eq!(outcome.fates(), [held, held, held, denied, denied, held]);
    assert_eq!([Counter::Held, Counter::HoldDestination].map(|c| outcome.count(c)), [4, 2]);
    // What was let go made room, and workers were told that as well.
    assert!(!shared.hold_gate.is_closed_to(End::Destination, address(UNKNOWN), Instant::now()));
}

#[test]
fn a_full_table_denies_counts_and_tells_workers() {
    let hold = HoldSettings { packets: 4, ..HOLD };
    let packets = |range: std::ops::RangeInclusive<usize>| range.map(to_nobody).collect();
    let shared = shared(hold, false);
    let outcome = keep(shared.clone(), Versions::first(), vec![Step::Packets(packets(1..=6))]);
    assert_eq!([Counter::Held, Counter::HoldFull].map(|c| outcome.count(c)), [4, 2]);
    assert!(shared.hold_gate.is_closed(Instant::now()));
    // What is answered makes room.
    let hold = HoldSettings { time: Duration::ZERO, ..hold };
    let steps = (0..3).flat_map(|_| [Step::Packets(packets(1..=4)), Step::TimedOut]).collect();
    let outcome = keep(super::rig::shared(hold, false), Versions::first(), steps);
    assert_eq!([Counter::Held, Counter::HoldFull, Counter::HoldExpired].map(|c| outcome.count(c)), [12, 0, 12]);
}

/// A packet of a pod of another node, to the port that such may go to.
fn from_elsewhere(last: u8, port: u16) -> Queued {
    queued(Way::Original, &Packet::syn(at(&format!("{ELSEWHERE}{last}"), 40000), at("10.1.0.9", port)))
}

#[test]
fn what_is_denied_to_a_pod_of_another_node_is_held_until_that_pod_is_known() {
    let packets = vec![from_elsewhere(1, 443), from_elsewhere(1, 22), from_elsewhere(1, 80), known(443)];
    let outcome = play(shared(HOLD, false), Versions::first(), vec![Step::Packets(packets.clone())]);
    assert_eq!(outcome.fates(), [PASSED_ON, PASSED_ON, REMEMBERED, Fate::Drop]);
    let versions = Versions::first();
    let steps = vec![Step::Packets(packets[..2].to_vec()), publish(&versions)];
    let outcome = keep(shared(HOLD, false), versions, steps);
    assert_eq!(outcome.fates(), [REMEMBERED, Fate::Drop]);
    assert_eq!([Counter::Held, Counter::HoldExpired].map(|c| outcome.count(c)), [2, 0]);
    // It is a policy that denies it, so that it stays denied where unknown addresses are not.
    let hold = HoldSettings { time: Duration::ZERO, past: OnUnknown::Allow, ..HOLD };
    let outcome =
        keep(shared(hold, false), Versions::first(), vec![Step::Packets(packets[..1].to_vec()), Step::TimedOut]);
    assert_eq!(outcome.fates(), [Fate::Drop]);
    assert_eq!([Counter::HoldExpired, Counter::HoldAllowed].map(|c| outcome.count(c)), [1, 0]);
}

#[test]
fn pods_of_other_nodes_leave_half_of_the_table_to_those_of_this_one() {
    let hold = HoldSettings { packets: 6, ..HOLD };
    let mut packets: Vec<_> = (1..=5).map(|last| from_elsewhere(last, 443)).collect();
    packets.extend((1..=4).map(to_nobody));
    let shared = shared(hold, false);
    let outcome = keep(shared.clone(), Versions::first(), vec![Step::Packets(packets[..8].to_vec())]);
    assert_eq!([Counter::Held, Counter::HoldFull].map(|c| outcome.count(c)), [6, 2]);
    // Workers pass no more of theirs on, but go on with this node's.
    let gate = &shared.hold_gate;
    assert!(gate.is_closed_elsewhere(Instant::now()) && !gate.is_closed(Instant::now()));
    let one = |elsewhere| vec![if elsewhere { from_elsewhere(9, 443) } else { to_unknown("10.1.0.9") }];
    let outcome = |elsewhere| play(shared.clone(), Versions::first(), vec![Step::Packets(one(elsewhere))]);
    assert_eq!((outcome(true).fates(), outcome(false).fates()), (vec![Fate::Drop], vec![PASSED_ON]));
    // Those that left made room, however they left.
    let versions = Versions::first();
    let steps = vec![Step::Packets(packets[..3].to_vec()), publish(&versions), Step::Packets(packets.split_off(5))];
    let outcome = keep(super::rig::shared(hold, false), versions, steps);
    assert_eq!([Counter::Held, Counter::HoldFull].map(|c| outcome.count(c)), [3, 0]);
    let hold = HoldSettings { time: Duration::ZERO, ..hold };
    let three = || Step::Packets((1..=3).map(|last| from_elsewhere(last, 443)).collect());
    let steps = vec![three(), Step::TimedOut, three(), Step::TimedOut];
    let outcome = keep(super::rig::shared(hold, false), Versions::first(), steps);
    assert_eq!([Counter::Held, Counter::HoldFull, Counter::HoldExpired].map(|c| outcome.count(c)), [6, 0, 6]);
}

#[test]
fn large_packets_of_pods_of_other_nodes_leave_half_of_the_bytes_too() {
    let mut large = from_elsewhere(1, 443);
    large.bytes.resize(65_000, 0);
    let hold = HoldSettings { packets: 4096, per_source: 4096, ..HOLD };
    let mut packets = vec![large; 300];
    packets.push(to_unknown("10.1.0.5"));
    let outcome = keep(shared(hold, false), Versions::first(), vec![Step::Packets(packets)]);
    // 8 MiB of them, and this node's.
    assert_eq!([Counter::Held, Counter::HoldFull].map(|c| outcome.count(c)), [130, 171]);
}

#[test]
fn what_is_held_by_an_agent_that_stands_by_comes_up_once_more_at_the_other() {
    let (versions, shared) = (Versions::first(), shared(HOLD, false));
    let pulse = Arc::clone(&shared.pulse);
    let steps = vec![
        Step::Packets(vec![to_unknown("10.1.0.5"), from_unknown(80)]),
        Step::Meanwhile(Box::new(move || pulse.hand_over())),
        publish(&versions),
        Step::Packets(vec![known(80)]),
    ];
    let outcome = keep(shared, versions, steps);
    // What it knew when it came is its to answer.
    assert_eq!(outcome.fates(), [Fate::Repeat, Fate::Repeat, REMEMBERED]);
    assert_eq!([Counter::Accepted, Counter::Dropped].map(|c| outcome.count(c)), [1, 0]);
}

#[test]
fn few_large_packets_fill_the_table_as_well() {
    let large = |n| {
        let mut large = to_nobody(n);
        large.bytes.resize(65_000, 0);
        large
    };
    let hold = HoldSettings { packets: 4096, ..HOLD };
    let outcome = keep(shared(hold, false), Versions::first(), vec![Step::Packets((0..300).map(large).collect())]);
    // 16 MiB of them.
    assert_eq!([Counter::Held, Counter::HoldFull].map(|c| outcome.count(c)), [258, 42]);
}

#[test]
fn a_scan_of_a_whole_range_from_forged_sources_leaves_room_for_a_new_pod() {
    let hold = HoldSettings { packets: 4096, per_source: 32, ..HOLD };
    let source = |n: usize| format!("10.7.{}.{}", n / 250, n % 250 + 1);
    // 40 packets to each of the other 253 addresses of a /24.
    let scanned = (0..40 * 253).map(|n| {
        let to = at(&format!("{NOBODYS}0.{}", n % 253 + 1), 80);
        queued(Way::Original, &Packet::syn(at(&source(n), 40000), to))
    });
    let new = queued(Way::Original, &Packet::syn(at("10.1.0.5", 40000), at(&format!("{NOBODYS}0.254"), 80)));
    let packets: Vec<_> = scanned.chain([new]).collect();
    let versions = Versions::first();
    let outcome = keep(shared(hold, false), versions.clone(), vec![Step::Packets(packets), publish(&versions)]);
    let held = outcome.count(Counter::Held);
    assert!((2048..4096).contains(&held) && outcome.count(Counter::HoldFull) == 0, "{held}");
    assert_eq!(outcome.fates().last(), Some(&REMEMBERED), "it was held, and is known now");
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
        let outcome = keep(shared(HOLD, false), versions, steps);
        assert_eq!(outcome.fates(), [expected]);
        assert!(outcome.ended.is_ok());
    }
}

#[test]
fn where_another_agent_has_the_rules_a_stop_leaves_what_is_held_to_that_one() {
    let shared = shared(HOLD, false);
    let told = shared.clone();
    let steps = vec![
        Step::Packets(vec![to_unknown("10.1.0.5")]),
        Step::Meanwhile(Box::new(move || told.handed_over.store(true, Ordering::SeqCst))),
    ];
    let outcome = keep(shared, Versions::first(), steps);
    assert_eq!(outcome.fates(), [Fate::Repeat]);
    assert_eq!(outcome.count(Counter::HoldExpired), 0);
}

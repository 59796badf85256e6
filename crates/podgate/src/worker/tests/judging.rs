//! Which way round a packet is judged, and what its verdict says to the kernel.

use podgate_engine::counters::Settled;
use podgate_engine::packet::ParseError;
use podgate_engine::{Addr, Cause, Counter, Direction, Generation, Port};
use podgate_netfilter::queue::Fate;
use podgate_netfilter::{Marks, Orientation, Way};
use podgate_sandbox::Packet;
use podgate_sandbox::packet::flags;

use super::rig::{ACCEPTS, DENIES, HOLD, PASSED, Queued, REMEMBERED, Step, Versions, at, judge, play, queued, shared};

const CLIENT: &str = "10.1.0.5";
const SERVER: &str = "10.1.0.9";

fn syn(port: u16) -> Packet {
    Packet::syn(at(CLIENT, 40000), at(SERVER, port))
}

fn segment(from_port: u16, to_port: u16) -> Packet {
    Packet::tcp(at(CLIENT, from_port), at(SERVER, to_port), flags::ACK, (1, 1), b"x")
}

#[test]
fn an_accepted_new_connection_is_remembered_and_others_marks_are_kept() {
    let outcome = judge(vec![queued(Way::Original, &syn(80)), queued(Way::Original, &syn(81))]);
    assert_eq!(outcome.fates(), [REMEMBERED, Fate::Drop]);
    assert!(outcome.ended.is_ok());
    let counters = [Counter::Packets, Counter::Accepted, Counter::Dropped].map(|c| outcome.count(c));
    assert_eq!(counters, [2, 1, 1]);
    assert_eq!([ACCEPTS, DENIES].map(|rule| outcome.shared.counters.rule(rule)), [1, 1]);
    assert_eq!(outcome.shared.counters.settled(Direction::Egress, Settled::Open), 2);
    assert_eq!(outcome.shared.counters.latency().count(), 2);
}

#[test]
fn what_waited_for_an_agent_that_stood_still_and_was_replaced_meanwhile_is_dropped() {
    let shared = shared(HOLD, false);
    shared.pulse.is_replaced();
    let outcome = play(shared, Versions::first(), vec![Step::Packets(vec![queued(Way::Original, &syn(80))])]);
    assert_eq!(outcome.fates(), [Fate::Drop]);
    let counters = [Counter::Packets, Counter::Accepted, Counter::Dropped].map(|c| outcome.count(c));
    assert_eq!(counters, [1, 0, 1]);
    assert_eq!(outcome.shared.counters.rule(ACCEPTS), 0);
}

#[test]
fn what_is_for_the_node_itself_is_not_remembered() {
    const LOCAL_IN: u8 = 1;
    let outcome = judge(vec![Queued { hook: LOCAL_IN, ..queued(Way::Original, &syn(80)) }]);
    assert_eq!(outcome.fates(), [PASSED]);
}

#[test]
fn a_reply_is_judged_turned_round_and_never_remembered() {
    let outcome = judge(vec![
        queued(Way::Reply, &segment(80, 40000)),
        queued(Way::Reply, &segment(40000, 80)),
        queued(Way::Reply, &Packet::udp(at(CLIENT, 80), at(SERVER, 999), b"x")),
    ]);
    assert_eq!(outcome.fates(), [PASSED, Fate::Drop, PASSED]);
    let record = outcome.records()[0];
    assert_eq!((record.flow.source.to_string(), record.flow.destination.to_string()), (SERVER.into(), CLIENT.into()));
    assert_eq!(record.flow.port, Port::Number(40000));
}

#[test]
fn an_untracked_packet_passes_in_either_orientation_and_is_never_remembered() {
    let outcome = judge(vec![
        queued(Way::Untracked, &segment(40000, 80)),
        queued(Way::Untracked, &segment(80, 40000)),
        queued(Way::Untracked, &segment(40000, 81)),
    ]);
    assert_eq!(outcome.fates(), [PASSED, PASSED, Fate::Drop]);
    assert_eq!((outcome.count(Counter::Untracked), outcome.count(Counter::Midstream)), (3, 0));
    // One judged packet, one count: the refused orientation of an accepted packet is not one.
    assert_eq!([ACCEPTS, DENIES].map(|rule| outcome.shared.counters.rule(rule)), [2, 1]);
}

#[test]
fn an_icmp_error_is_judged_by_the_packet_inside() {
    let router = "10.9.9.9".parse().unwrap();
    let about = |packet: &Packet| Packet::port_unreachable(router, packet);
    let outcome = judge(vec![
        // Travels in the reply direction: the packet inside was sent in the original one.
        queued(Way::RelatedReply, &about(&segment(40000, 80))),
        queued(Way::RelatedReply, &about(&segment(80, 40000))),
        // Travels in the original direction: the packet inside was a reply.
        queued(Way::RelatedOriginal, &about(&segment(80, 40000))),
        queued(Way::RelatedOriginal, &about(&segment(40000, 80))),
        // No error at all.
        queued(Way::RelatedOriginal, &segment(40000, 80)),
    ]);
    assert_eq!(outcome.fates(), [PASSED, Fate::Drop, PASSED, Fate::Drop, Fate::Drop]);
    assert_eq!(outcome.count(Counter::Related), 4);
    assert_eq!(outcome.shared.counters.parse_errors(ParseError::NotIcmpError), 1);
}

#[test]
fn an_echo_is_judged_without_ports() {
    let echo = Packet::echo(CLIENT.parse().unwrap(), SERVER.parse().unwrap(), 1, 1);
    let outcome = judge(vec![queued(Way::Original, &echo)]);
    assert_eq!(outcome.fates(), [Fate::Drop]);
    assert_eq!(outcome.records()[0].flow.port, Port::None);
}

#[test]
fn a_nodes_address_as_source_proves_nothing_but_as_the_one_answered_it_does() {
    let node = "10.0.0.1";
    let outcome = judge(vec![
        queued(Way::Original, &Packet::syn(at(node, 40000), at(SERVER, 22))),
        queued(Way::Untracked, &Packet::syn(at(node, 40000), at(SERVER, 22))),
        queued(Way::Reply, &Packet::tcp(at(SERVER, 22), at(node, 40000), flags::ACK, (1, 1), b"")),
    ]);
    assert_eq!(outcome.fates(), [Fate::Drop, Fate::Drop, PASSED]);
}

/// Accepted, and remembered so.
fn as_what(orientation: Orientation) -> Fate {
    let Fate::Accept { mark } = PASSED else { panic!("it passes") };
    Fate::Accept { mark: Marks::default().remember(mark, orientation) }
}

#[test]
fn in_the_start_up_period_connections_are_met_from_either_side() {
    let script = || {
        vec![Step::Packets(vec![
            queued(Way::Midstream, &segment(80, 40000)),
            // Either could have begun this one.
            queued(Way::Midstream, &segment(80, 999)),
            // Permitted either way round.
            queued(Way::Midstream, &segment(80, 80)),
            // These are no different from strict times: the permitted one; a client's, by its ports, that is
            // forbidden; one that conntrack knows, whose permission was taken back; UDP; a reply.
            queued(Way::Midstream, &segment(40000, 80)),
            queued(Way::Midstream, &segment(40080, 81)),
            queued(Way::Original, &segment(80, 40000)),
            queued(Way::Original, &Packet::udp(at(CLIENT, 80), at(SERVER, 999), b"x")),
            queued(Way::Reply, &segment(40000, 80)),
            // One that conntrack met so before is never met again.
            queued(Way::MetMidstream, &segment(80, 40000)),
            queued(Way::MetMidstream, &segment(80, 80)),
            queued(Way::MetMidstream, &segment(40000, 80)),
        ])]
    };
    let loose = play(shared(HOLD, true), Versions::first(), script());
    let [turned, both] = [Orientation::Turned, Orientation::Both].map(as_what);
    let others = [both, REMEMBERED, Fate::Drop, Fate::Drop, Fate::Drop, Fate::Drop, Fate::Drop, both, REMEMBERED];
    assert_eq!(loose.fates(), [&[turned, turned], &others[..]].concat());
    assert_eq!(loose.count(Counter::Midstream), 2);
    let strict = play(shared(HOLD, false), Versions::first(), script());
    assert_eq!(strict.fates(), [&[Fate::Drop, Fate::Drop], &others[..]].concat());
    assert_eq!(strict.count(Counter::Midstream), 0);
}

#[test]
fn what_cannot_be_read_or_came_by_another_rule_is_dropped_and_counted() {
    let outcome = judge(vec![
        Queued { way: Some(Way::Original), hook: 4, bytes: vec![0x45; 12] },
        Queued { way: Some(Way::Original), hook: 4, bytes: vec![] },
        Queued { way: None, hook: 4, bytes: syn(80).bytes() },
    ]);
    assert_eq!(outcome.fates(), [Fate::Drop; 3]);
    let errors = [ParseError::HeaderCut, ParseError::Version].map(|e| outcome.shared.counters.parse_errors(e));
    assert_eq!((errors, outcome.count(Counter::Unmarked)), ([1, 1], 1));
    assert_eq!((outcome.count(Counter::Dropped), outcome.records().len()), (3, 0));
}

#[test]
fn a_fragment_is_judged_with_unknown_ports() {
    let large = Packet::udp(at(CLIENT, 40000), at(SERVER, 80), &[7; 900]);
    let fragments = large.fragments(400);
    let pieces = fragments.iter().map(|bytes| Queued { way: Some(Way::Original), hook: 4, bytes: bytes.clone() });
    let outcome = judge(pieces.collect());
    assert_eq!(outcome.fates()[0], REMEMBERED);
    assert!(outcome.fates()[1..].iter().all(|fate| *fate == Fate::Drop));
    assert_eq!(outcome.count(Counter::PortsUnseen), fragments.len() as u64 - 1);
}

#[test]
fn a_deny_is_recorded_with_what_decided_it() {
    let outcome = judge(vec![queued(Way::Original, &syn(81))]);
    let record = outcome.records()[0];
    assert_eq!(record.judgement.ingress.cause, Cause::Denied(DENIES));
    assert_eq!((record.generation, record.length), (Generation(1), 40));
    assert_eq!(record.flow.source, Addr::from(CLIENT.parse::<std::net::IpAddr>().unwrap()));
}

#[test]
fn a_full_ring_loses_records_and_counts_them() {
    let outcome = judge((0..11).map(|_| queued(Way::Original, &syn(81))).collect());
    assert_eq!((outcome.count(Counter::RecordsLost), outcome.records().len()), (3, 8));
    assert_eq!(outcome.shared.counters.rule(DENIES), 11);
}

#[test]
fn messages_that_the_queue_cannot_use_are_counted_once() {
    let steps = vec![Step::Unusable(2), Step::TimedOut, Step::Unusable(1)];
    let outcome = play(shared(HOLD, false), Versions::first(), steps);
    assert_eq!(outcome.count(Counter::Malformed), 3);
}

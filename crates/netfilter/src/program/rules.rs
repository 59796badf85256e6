//! The rules: which statements stand in which chain. The table itself is `layout`'s, its sets' contents are `sets`'.
//!
//! ```text
//! output 0          mark_node      what the node itself sends
//! forward 0         from_pod       forged sources: `links`
//! postrouting 98    judge ─▶ decide ─┬─▶ cached ─▶ divert ─▶ to_queue  (98: after DNAT, just before source NAT)
//!                        │           ├─▶ reply_way ─▶ divert
//!                        │           └─▶ invalid ─▶ drop_invalid
//!                        ├─▶ midstream ─▶ divert ─▶ met_midstream   (which end began it is not known)
//!                        ├─ accepted                  (remembered: passes)
//!                        └─ repeat4/6 ─▶ recall       (decided before: dropped or accepted at once)
//! postrouting 99    remember ─▶ keep          a packet accepted from the queue goes on here
//! prerouting -99/-98  judge_udp / remember    only where UDP is judged early
//! input 0/1           judge_input / clear     only once something judges pods' packets to the node
//! ```
//!
//! What stands in `to_queue` is `spread`'s, and under overload `share`'s too, what `cached` looks up `cache`'s.
//!
//! F stands for the low three of our packet mark bits, NODE for the top one.

use std::borrow::Cow;
use std::ops::RangeInclusive;

use super::cache::Cached;
use super::expression::{
    Direction, ESTABLISHED, End, Expression, Family, INVALID, NEW, RELATED, Statement, UNTRACKED, accept, address,
    address_in, address_masked_not_in, back, cached as lookup_cache, connection_mark, counter, direction, drop, family,
    goto, has_socket, icmpv6_from, jump, label, local, mark_any, mark_is, neighbour_discovery, not_protocol, protocol,
    set_connection_mark, set_label, set_mark, state, tcp_without_syn,
};
use super::links;
use super::peers;
use super::share::{Share, shares};
use super::spread::{single, spread};
use crate::marks::{Marks, Orientation, Way};

/// Everything that the rules depend on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Plan {
    pub marks: Marks,
    pub queues: RangeInclusive<u16>,
    pub bypass: bool,
    pub native_queue: bool,
    /// There is a hash of flows to spread them over the queues by.
    pub flow_hash: bool,
    pub udp_prerouting: bool,
    pub judge_input: bool,
    /// There are addresses whose connections are not remembered for the moment.
    pub recheck: bool,
    /// What a pod may have of the queue, while not everything can be judged.
    pub share: Option<Share>,
    /// The verdict cache is looked up.
    pub cache: bool,
    /// What comes by a pod's link must have a source that is there.
    pub source_check: bool,
}

/// Regular chains, in the order in which they are made.
pub(crate) const REGULAR: [&str; 24] = [
    "mark_node",
    links::CHAIN,
    "accepted",
    "repeat4",
    "repeat6",
    "judge",
    "from_node",
    "judge_udp",
    "judge_input",
    "decide",
    "reply_way",
    "invalid",
    "drop_invalid",
    "midstream",
    "cached",
    "recall",
    "divert",
    "met_midstream",
    "to_queue",
    "remember",
    "keep",
    "keep_turned",
    "keep_both",
    "clear",
];

/// A rule and the chain that it is appended to.
pub(crate) struct Rule {
    pub chain: Cow<'static, str>,
    pub expressions: Vec<Expression>,
    pub comment: Option<String>,
}

pub(super) fn rule(chain: &'static str, statements: impl IntoIterator<Item = Statement>) -> Rule {
    Rule { chain: chain.into(), expressions: statements.into_iter().flatten().collect(), comment: None }
}

/// The rules of every regular chain. Those of the base chains are single jumps: see `layout`.
pub(crate) fn rules(plan: &Plan) -> Vec<Rule> {
    let Plan { marks, .. } = plan;
    let clear_field = || set_mark(marks.field(), 0);
    let mut rules = vec![
        // IPVS-forwarded packets of pods pass output too: their source is not an address of this node.
        rule("mark_node", [local(End::Source), set_mark(0, marks.node())]),
        // Nearly all packets are of remembered connections: what comes before this is paid by each.
        rule("judge", [jump("accepted")]),
        rule("judge", [mark_any(marks.node()), jump("from_node")]),
        // Noted of the node's own as well: what the pod says on such a connection is no answer.
        rule("from_node", [state(NEW, true), tcp_without_syn(), set_label(marks.midstream_bits())]),
        rule("from_node", [has_socket(), clear_field(), accept()]),
        rule("from_node", [local(End::Source), clear_field(), accept()]),
        // Somebody saved the mark of the node's own packet, such as its ICMP error about a connection, and restored it on a pod's.
        rule("from_node", [set_mark(marks.packet, 0)]),
    ];
    if plan.source_check {
        rules.extend(links::check());
    }
    rules.extend(repeated("judge", plan.cache));
    rules.extend([
        // Conntrack calls whoever speaks first its beginner. Noted of open pods' connections too: some day a policy may come.
        rule("judge", [state(NEW, true), tcp_without_syn(), set_label(marks.midstream_bits())]),
        // Nobody else's bits may look like our accept.
        rule("judge", [clear_field()]),
        rule("judge", [label(marks.midstream_bits(), true), goto("midstream")]),
        rule("judge", [goto("decide")]),
        rule("decide", [state(INVALID, true), goto("invalid")]),
        rule("decide", [direction(Direction::Reply), goto("reply_way")]),
    ]);
    rules.extend(accepted(marks, plan.recheck));
    for family in Family::BOTH {
        rules.push(from_known("decide", family, End::Source, "egress", "cached"));
        rules.push(from_known("decide", family, End::Destination, "ingress", "cached"));
    }
    rules.extend(cached(marks, plan.cache));
    // The client of a reply is its destination.
    for family in Family::BOTH {
        rules.push(from_known("reply_way", family, End::Destination, "egress", "divert"));
        rules.push(from_known("reply_way", family, End::Source, "ingress", "divert"));
    }
    rules.extend(isolated_at_all("invalid", "drop_invalid"));
    rules.extend(isolated_at_all("midstream", "divert"));
    rules.push(rule("drop_invalid", [counter(), drop()]));
    rules.extend(divert(marks));
    rules.extend(to_queue(plan));
    rules.extend(single(plan));
    rules.extend(remember(marks));
    if plan.udp_prerouting {
        // What goes to the node itself (IPVS service addresses among it) is not judged here: see `judge`. What is
        // accepted here has its label when it comes to `judge`, and passes; what has none is judged again there.
        // Whatever it is: what still looks like our accept when it comes to `remember` is one.
        rules.push(rule("judge_udp", [mark_any(marks.field()), clear_field()]));
        rules.push(rule("judge_udp", [not_protocol(libc::IPPROTO_UDP), back()]));
        rules.push(rule("judge_udp", [local(End::Destination), back()]));
        rules.push(rule("judge_udp", [jump("accepted")]));
        rules.extend(repeated("judge_udp", plan.cache));
        rules.push(rule("judge_udp", [goto("decide")]));
    }
    if plan.judge_input {
        rules.extend(judge_input(marks));
    }
    rules
}

/// What comes up: all of it, or of each pod no more than its share.
pub(crate) fn to_queue(plan: &Plan) -> Vec<Rule> {
    let mut rules = plan.share.map_or_else(Vec::new, |share| shares(&share, plan.bypass));
    rules.push(spread(plan));
    rules
}

/// Connections that were accepted, with their related ICMP. With `recheck`: but none of an address that a change touched;
/// its packets come up until the labels are in order again. Without, as nearly always, that costs nothing.
pub(crate) fn accepted(marks: &Marks, recheck: bool) -> Vec<Rule> {
    let mut rules = Vec::new();
    for family in Family::BOTH.into_iter().filter(|_| recheck) {
        for end in [End::Source, End::Destination] {
            rules.push(rule("accepted", [address_in(family, end, &format!("recheck{}", family.digit())), back()]));
        }
    }
    rules.push(rule("accepted", [label(marks.label_bits(Orientation::Both), true), accept()]));
    rules.push(rule("accepted", [connection_mark(marks.connection), accept()]));
    rules
}

/// Pods' packets to the node itself: only the pod's egress, only what the pod began, and never remembered (IPVS passes
/// here before the real destination is known).
pub(crate) fn judge_input(marks: &Marks) -> Vec<Rule> {
    let mut rules = vec![
        rule("judge_input", [set_mark(marks.field(), 0)]),
        rule("judge_input", [jump("accepted")]),
        rule("judge_input", [state(INVALID, true), goto("invalid")]),
        // The node began it, and a node may always talk to its pods; unless nobody knows who began it.
        rule("judge_input", [direction(Direction::Reply), label(marks.midstream_bits(), false), back()]),
    ];
    for family in Family::BOTH {
        rules.push(from_known("judge_input", family, End::Source, "egress", "divert"));
    }
    rules
}

/// An address of the pod ranges that is not known to be open in that direction: `goto target`.
fn from_known(chain: &'static str, family: Family, end: End, way: &str, target: &str) -> Rule {
    let digit = family.digit();
    rule(chain, [address(family, end, &format!("ranges{digit}"), &format!("open_{way}{digit}")), goto(target)])
}

/// What begins a connection is looked up before anything else is asked about it, so that a flood at a closed port passes
/// few rules: a verdict that is repeated was one about these addresses, known or not.
fn repeated(chain: &'static str, looked_up: bool) -> Vec<Rule> {
    let beginnings = |of| rule(chain, [family(of), state(NEW, true), jump(repeat(of))]);
    Family::BOTH.into_iter().filter(|_| looked_up).map(beginnings).collect()
}

/// Where the verdicts of a family are looked up.
fn repeat(family: Family) -> &'static str {
    match family {
        Family::V4 => "repeat4",
        Family::V6 => "repeat6",
    }
}

/// The source is nowhere near a pod: a pod may be let in where others are not, and an address of the pod ranges that is
/// not known to be one may become one.
fn is_no_peer(of: Family) -> Statement {
    address_masked_not_in(of, End::Source, &peers::mask(of), &peers::set(of))
}

/// Where it is unknown which end began, one end isolated in any direction is enough.
fn isolated_at_all(chain: &'static str, target: &str) -> Vec<Rule> {
    let mut rules = Vec::new();
    for family in Family::BOTH {
        for end in [End::Source, End::Destination] {
            rules.extend(["egress", "ingress"].map(|way| from_known(chain, family, end, way, target)));
        }
    }
    rules
}

/// Verdicts that are repeated without asking. Replies and what conntrack does not track never come here, and an error that
/// travels with a connection is not what it says it is about.
fn cached(marks: &Marks, looked_up: bool) -> Vec<Rule> {
    let mut rules = Vec::new();
    for of in Family::BOTH.into_iter().filter(|_| looked_up) {
        let known = |verdict: Cached| lookup_cache(of, verdict != Cached::Closed, &verdict.set(of));
        rules.push(rule(repeat(of), [known(Cached::Drop), drop()]));
        rules.push(rule(repeat(of), [known(Cached::Closed), is_no_peer(of), drop()]));
        rules.push(rule(repeat(of), [known(Cached::Accept), goto("recall")]));
        // What begins a connection was looked up: see `repeated`.
        rules.push(rule("cached", [family(of), state(ESTABLISHED, true), jump(repeat(of))]));
    }
    rules.push(rule("cached", [goto("divert")]));
    // It was a verdict about connections that begin, and as good as one: see `remember`.
    rules.push(rule("recall", [state(NEW, true), tcp_without_syn(), back()]));
    rules.push(rule("recall", [label(marks.midstream_bits(), true), back()]));
    rules.push(rule("recall", [jump("keep")]));
    rules.push(rule("recall", [accept()]));
    rules
}

/// Says in the mark how the packet relates to its connection and sends it up.
fn divert(marks: &Marks) -> Vec<Rule> {
    let say = |way| set_mark(marks.packet, marks.at(way));
    let up = || goto("to_queue");
    // Beyond the link, discovery packets would be a covert channel; they can't have hop limit 255 there (RFC 4861).
    let mut rules = vec![rule("divert", [neighbour_discovery(133..=137), accept()])];
    // Conntrack itself leaves discovery and listener reports out. They are nobody's answer: judged either way round they
    // would get in wherever only one end is isolated.
    rules.push(rule("divert", [state(UNTRACKED, true), icmpv6_from(130), say(Way::Original), up()]));
    rules.push(rule("divert", [state(UNTRACKED, true), say(Way::Untracked), up()]));
    for icmp in [libc::IPPROTO_ICMP, libc::IPPROTO_ICMPV6] {
        for (way, says) in [(Direction::Original, Way::RelatedOriginal), (Direction::Reply, Way::RelatedReply)] {
            rules.push(rule("divert", [state(RELATED, true), protocol(icmp), direction(way), say(says), up()]));
        }
    }
    // Most revoked connections' packets are no such: conntrack knows who began them, and judging the other way round
    // would let them through wherever only one end is isolated.
    rules.push(rule("divert", [state(NEW, true), tcp_without_syn(), say(Way::Midstream), up()]));
    rules.push(rule("divert", [label(marks.midstream_bits(), true), goto("met_midstream")]));
    rules.push(rule("divert", [direction(Direction::Reply), say(Way::Reply), up()]));
    rules.push(rule("divert", [say(Way::Original), up()]));
    // What was accepted one way round only is judged again that way round, while its label does not count.
    for (as_what, not, [reply, original]) in [
        (Orientation::AsMet, Orientation::Turned, [Way::Reply, Way::Original]),
        (Orientation::Turned, Orientation::AsMet, [Way::Original, Way::Reply]),
    ] {
        let accepted = || [label(marks.label_bits(as_what), true), label(marks.label_bits(not), false)].concat();
        rules.push(rule("met_midstream", [accepted(), direction(Direction::Reply), say(reply), up()]));
        rules.push(rule("met_midstream", [accepted(), say(original), up()]));
    }
    rules.push(rule("met_midstream", [say(Way::MetMidstream), up()]));
    rules
}

/// Turns `accepted` into a label, or into a connection mark where there is no room for labels (the connection is older
/// than the first label rule), and takes our bits off the packet.
fn remember(marks: &Marks) -> Vec<Rule> {
    // A node-made ICMP error carries the entry of the connection that it reports: RELATED never remembers anything.
    let remembered = |as_what, chain| {
        let accepted = mark_is(marks.packet, marks.accepted(as_what));
        let from_the_beginner = [direction(Direction::Original), state(INVALID | RELATED | UNTRACKED, false)].concat();
        rule("remember", [accepted, from_the_beginner, jump(chain)])
    };
    let keep = Rule { comment: Some(comment(marks)), ..remembered(Orientation::AsMet, "keep") };
    vec![
        rule("remember", [mark_is(marks.packet, 0), back()]),
        keep,
        remembered(Orientation::Turned, "keep_turned"),
        remembered(Orientation::Both, "keep_both"),
        rule("remember", [goto("clear")]),
        rule("keep", [set_label(marks.label_bits(Orientation::AsMet))]),
        rule("keep", [label(marks.label_bits(Orientation::AsMet), false), set_connection_mark(marks.connection)]),
        // What conntrack met mid-stream it met after the first label rule, so that there is room.
        rule("keep_turned", [set_label(marks.label_bits(Orientation::Turned))]),
        rule("keep_both", [set_label(marks.label_bits(Orientation::Both))]),
        rule("clear", [mark_any(marks.packet), set_mark(marks.packet, 0)]),
    ]
}

/// A rule carries the bits in words, so that `cleanup` and a next agent with other settings know them.
pub(crate) fn comment(marks: &Marks) -> String {
    format!("podgate bits: packet {:#x} connection {:#x} label {}", marks.packet, marks.connection, marks.label)
}

/// The bits that [`comment`] tells.
pub(crate) fn parse_comment(comment: &str) -> Option<Marks> {
    let mut words = comment.strip_prefix("podgate bits: ")?.split(' ');
    let mut value = |name: &str| words.next().filter(|w| *w == name).and_then(|_| words.next());
    let hex = |text: &str| u32::from_str_radix(text.strip_prefix("0x")?, 16).ok();
    let marks = Marks {
        packet: hex(value("packet")?)?,
        connection: hex(value("connection")?)?,
        label: value("label")?.parse().ok()?,
    };
    marks.check().is_ok().then_some(marks)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_comment_tells_the_bits() {
        for marks in [Marks::default(), Marks { packet: 0xf0, connection: 0x8000_0000, label: 0 }] {
            assert_eq!(parse_comment(&comment(&marks)), Some(marks));
        }
        for bad in ["", "podgate bits: packet 0x1 connection 0x1000 label 121", "podgate bits: packet 0x3c00"] {
            assert_eq!(parse_comment(bad), None, "{bad}");
        }
    }

    #[test]
    fn every_rule_stands_in_a_chain_that_is_made() {
        let plan = Plan {
            marks: Marks::default(),
            queues: 0..=1,
            bypass: false,
            native_queue: true,
            udp_prerouting: true,
            judge_input: true,
            recheck: true,
            cache: true,
            source_check: true,
            share: Some(Share { rate: 1, burst: 1 }),
            flow_hash: true,
        };
        assert!(rules(&plan).iter().all(|rule| REGULAR.contains(&&*rule.chain) || rule.chain.starts_with("to_queue")));
    }
}

//! What is asked about a packet: which flows, in which order, and what an accept is worth.
//!
//! Not here: the answer's effects (counters, records, the verdict).

use podgate_engine::packet::{self, Header, ParseError};
use podgate_engine::{Addr, Cause, Decision, Flow, Generation, Judgement, NodeOrigin, Port, Snapshot, Verdict};
use podgate_netfilter::queue::Packet;
use podgate_netfilter::{Orientation, Way};

/// `NF_INET_PRE_ROUTING` (linux/netfilter.h): where the packet leaves is not known yet.
const PRE_ROUTING: u8 = 0;
/// `NF_INET_LOCAL_IN` (linux/netfilter.h): the packet is for the node itself.
const LOCAL_IN: u8 = 1;

/// Who decides about flows: a snapshot, or what stands in for one.
pub(crate) trait Judge {
    /// See [`Snapshot::judge`].
    fn judge(&self, flow: &Flow, origin: NodeOrigin) -> Judgement;
    /// The version that decides.
    fn generation(&self) -> Generation;
    /// See [`Tables::is_missing_peer`](podgate_engine::Tables::is_missing_peer).
    fn is_missing_peer(&self, address: Addr) -> bool;
}

impl Judge for Snapshot {
    #[inline]
    fn judge(&self, flow: &Flow, origin: NodeOrigin) -> Judgement {
        Snapshot::judge(self, flow, origin)
    }

    fn generation(&self) -> Generation {
        Snapshot::generation(self)
    }

    #[inline]
    fn is_missing_peer(&self, address: Addr) -> bool {
        self.tables().is_missing_peer(address)
    }
}

/// What has to be known to judge a packet, now or later.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Question {
    flow: Flow,
    origin: NodeOrigin,
    /// The flow of the opposite orientation, where that is asked about as well, and what for.
    turned: Option<(Flow, Second)>,
    /// An accept is remembered.
    remember: bool,
    links: Links,
}

/// What the opposite orientation is asked about for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Second {
    /// It may stand in if the first is denied.
    StandsIn,
    /// Likewise, because of the start-up period; what is permitted of both is remembered.
    Loose,
    /// In the start-up period, where the ports tell a server's packet: it alone counts.
    Instead,
    /// It must be permitted too.
    Required,
}

/// Whether a packet leaves by the link that it came by, as what a pod sends to itself by way of a Service does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Links {
    /// By the same, or the kernel does not tell: of bridged packets, and at postrouting before Linux 5.7.
    One,
    /// By another: whatever its source address says, no pod sends that to itself.
    Two,
    /// It will be known when the packet comes up again.
    Undecided,
}

impl Links {
    #[inline]
    fn of(packet: &Packet<'_>) -> Self {
        match (packet.input, packet.output) {
            (_, 0) if packet.hook == PRE_ROUTING => Links::Undecided,
            (input, output) if input != 0 && output != 0 && input != output => Links::Two,
            _ => Links::One,
        }
    }
}

/// How a question was answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Answer {
    /// Accepted, and remembered if at all as what; `midstream`: only because the start-up period lets the opposite
    /// orientation stand in.
    Accept { judgement: Judgement, remember: Option<Orientation>, midstream: bool },
    /// Denied by a rule.
    Deny { flow: Flow, judgement: Judgement },
    /// Denied, and an address is unknown: once it is known, it may be otherwise. `alone`: nothing else denies it now.
    Unknown { flow: Flow, judgement: Judgement, alone: bool, whom: Whom },
}

/// Whose address is unknown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Whom {
    /// The destination's. Else the source's alone.
    pub(crate) destination: bool,
    /// A new pod of another node, whose own agent knows it already: both are told at once, but this one not first.
    pub(crate) elsewhere: bool,
}

impl Whom {
    fn of<J: Judge + ?Sized>(judge: &J, flow: &Flow, judgement: &Judgement) -> Option<Self> {
        let [egress, ingress] = [judgement.egress.cause, judgement.ingress.cause];
        if [egress, ingress].contains(&Cause::Unknown) {
            return Some(Whom { destination: ingress == Cause::Unknown, elsewhere: false });
        }
        let decides = |decision: &Decision, other| decision.verdict() == Verdict::Drop && judge.is_missing_peer(other);
        if decides(&judgement.egress, flow.destination) {
            Some(Whom { destination: true, elsewhere: true })
        } else if decides(&judgement.ingress, flow.source) {
            Some(Whom { destination: false, elsewhere: true })
        } else {
            None
        }
    }

    /// Of the flow's opposite orientation.
    fn turned(self) -> Self {
        Whom { destination: !self.destination, ..self }
    }
}

impl Question {
    /// What to ask about a packet that came up `way`. `loose`: connections are met mid-stream, from
    /// whichever side speaks first.
    ///
    /// Only the orientation that a packet comes in can be forged: a node's address as its source proves nothing. Once
    /// turned round, the flow's source is where the packet goes to, or what conntrack knows of the connection.
    #[inline]
    pub(crate) fn new(way: Way, packet: &Packet<'_>, loose: bool) -> Result<Self, ParseError> {
        let header = match way {
            Way::Original | Way::Midstream | Way::MetMidstream | Way::Reply | Way::Untracked => {
                packet::parse(packet.payload)?
            }
            Way::RelatedOriginal | Way::RelatedReply => packet::embedded(packet.payload)?,
        };
        let as_sent =
            |origin| Question { flow: header.flow, origin, turned: None, remember: false, links: Links::of(packet) };
        let turned = Question { flow: header.turned(), ..as_sent(NodeOrigin::Address) };
        Ok(match way {
            Way::Original | Way::Midstream | Way::MetMidstream => {
                // Who began it is not known, unless the ports tell. A server's word on a connection that its client may not
                // have any more must not make it one of the server's own, where it may begin some.
                let second = match way {
                    Way::Original => None,
                    _ if looks_like_the_clients(&header) => None,
                    Way::Midstream if loose && looks_like_the_servers(&header) => Some(Second::Instead),
                    Way::Midstream if loose => Some(Second::Loose),
                    _ => Some(Second::Required),
                };
                // What is for the node itself is never remembered: that hook sees packets before others do.
                let remember = packet.hook != LOCAL_IN;
                let turned = second.map(|second| (header.turned(), second));
                Question { remember, turned, ..as_sent(NodeOrigin::Forged) }
            }
            Way::Reply => turned,
            // Request or reply, nobody knows; ports tell as much as can be told.
            Way::Untracked if looks_like_the_clients(&header) => as_sent(NodeOrigin::Forged),
            Way::Untracked => {
                Question { turned: Some((header.turned(), Second::StandsIn)), ..as_sent(NodeOrigin::Forged) }
            }
            // The error travels with the connection, so the packet inside was a reply.
            Way::RelatedOriginal => turned,
            Way::RelatedReply => as_sent(NodeOrigin::Address),
        })
    }

    /// The kernel could repeat the answer: it is about the packet's own flow, as the packet tells it.
    #[inline]
    pub(crate) fn is_repeatable(&self) -> bool {
        self.remember && self.turned.is_none()
    }

    /// The flow that was asked about first.
    pub(crate) fn flow(&self) -> &Flow {
        &self.flow
    }

    /// Asks.
    #[inline]
    pub(crate) fn ask<J: Judge + ?Sized>(&self, judge: &J) -> Answer {
        let judgement = judge.judge(&self.flow, self.origin);
        let permitted = judgement.verdict() == Verdict::Accept;
        match self.turned {
            None if permitted => self.accept(judgement, Orientation::AsMet, false),
            None => deny(self.flow, judgement, Whom::of(judge, &self.flow, &judgement), is_only_unknown(&judgement)),
            Some((flow, second)) => self.ask_turned(judge, judgement, flow, second),
        }
    }

    /// Asks about the opposite orientation too.
    fn ask_turned<J: Judge + ?Sized>(&self, judge: &J, first: Judgement, flow: Flow, second: Second) -> Answer {
        let turned = judge.judge(&flow, NodeOrigin::Address);
        let permitted = [first, turned].map(|judgement| judgement.verdict() == Verdict::Accept);
        let whom = Whom::of(judge, &self.flow, &first);
        let whom_turned = Whom::of(judge, &flow, &turned).map(Whom::turned);
        match (permitted, second) {
            ([true, true], Second::Loose | Second::Required) => self.accept(first, Orientation::Both, false),
            ([true, _], Second::StandsIn | Second::Loose) => self.accept(first, Orientation::AsMet, false),
            ([_, true], Second::StandsIn | Second::Loose) => {
                self.accept(turned, Orientation::Turned, second == Second::Loose)
            }
            ([_, true], Second::Instead) => self.accept(turned, Orientation::Turned, true),
            ([_, false], Second::Instead) | ([true, _], Second::Required) => {
                deny(flow, turned, whom_turned, is_only_unknown(&turned))
            }
            ([_, true], Second::Required) => deny(self.flow, first, whom, is_only_unknown(&first)),
            ([false, false], Second::Required) => {
                let alone = is_only_unknown(&first) && is_only_unknown(&turned);
                deny(self.flow, first, whom.and(whom_turned), alone)
            }
            ([false, false], _) => {
                let alone = is_only_unknown(&first) || is_only_unknown(&turned);
                deny(self.flow, first, whom.or(whom_turned), alone)
            }
        }
    }

    /// Rules accept it, and so does the link, where a pod talks to itself: anybody can write its address as the source.
    #[inline]
    fn accept(&self, judgement: Judgement, as_what: Orientation, midstream: bool) -> Answer {
        let remember = Some(as_what).filter(|_| self.remember);
        let itself = [judgement.egress, judgement.ingress].iter().any(|decision| decision.cause == Cause::Itself);
        match self.links {
            Links::Two if itself => {
                let nobody = Decision { cause: Cause::Unknown };
                Answer::Deny { flow: self.flow, judgement: Judgement { egress: nobody, ingress: nobody } }
            }
            Links::Undecided if itself => Answer::Accept { judgement, remember: None, midstream },
            _ => Answer::Accept { judgement, remember, midstream },
        }
    }
}

fn deny(flow: Flow, judgement: Judgement, whom: Option<Whom>, alone: bool) -> Answer {
    match whom {
        Some(whom) => Answer::Unknown { flow, judgement, alone, whom },
        None => Answer::Deny { flow, judgement },
    }
}

/// From a port that the system gives out (Linux: 32768 to 60999) to one that it does not: a client's packet, which
/// needs no second opinion.
fn looks_like_the_clients(header: &Header) -> bool {
    is_given_out(header.source_port) == Some(true) && is_given_out(header.flow.port) == Some(false)
}

/// The other way round.
fn looks_like_the_servers(header: &Header) -> bool {
    is_given_out(header.source_port) == Some(false) && is_given_out(header.flow.port) == Some(true)
}

/// Whether the system gives this port out; None if there is none to be seen.
fn is_given_out(port: Port) -> Option<bool> {
    match port {
        Port::Number(port) => Some(port >= 32768),
        _ => None,
    }
}

/// Nothing denies but that an address is unknown.
fn is_only_unknown(judgement: &Judgement) -> bool {
    [judgement.egress, judgement.ingress].iter().all(|d| d.verdict() == Verdict::Accept || d.cause == Cause::Unknown)
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::*;

    /// Whoever talks to itself may.
    struct Itself;

    impl Judge for Itself {
        fn judge(&self, flow: &Flow, _: NodeOrigin) -> Judgement {
            let cause = if flow.source == flow.destination { Cause::Itself } else { Cause::Open };
            Judgement { egress: Decision { cause }, ingress: Decision { cause } }
        }

        fn generation(&self) -> Generation {
            Generation(1)
        }

        fn is_missing_peer(&self, _: Addr) -> bool {
            false
        }
    }

    /// The answer to a datagram of 10.1.0.5 that came up so: whether it is accepted, and remembered.
    fn asked(way: Way, destination: &str, hook: u8, (input, output): (u32, u32)) -> Option<bool> {
        let ends =
            [("10.1.0.5", 4000), (destination, 4001)].map(|(ip, port)| SocketAddr::new(ip.parse().unwrap(), port));
        let payload = podgate_sandbox::Packet::udp(ends[0], ends[1], b"x").bytes();
        let (length, payload) = (payload.len() as u32, &payload[..]);
        let packet = Packet { id: 1, mark: 0, hook, family: 2, input, output, payload, length, sent_to: None };
        match Question::new(way, &packet, false).unwrap().ask(&Itself) {
            Answer::Accept { remember, .. } => Some(remember.is_some()),
            Answer::Deny { judgement, .. } => {
                assert_eq!(judgement.verdict(), Verdict::Drop, "it counts as what it is");
                None
            }
            answer => panic!("{answer:?}"),
        }
    }

    #[test]
    fn a_pod_talks_to_itself_over_one_link_only() {
        const POST_ROUTING: u8 = 4;
        let itself = |way, hook, links| asked(way, "10.1.0.5", hook, links);
        assert_eq!(itself(Way::Original, POST_ROUTING, (7, 7)), Some(true));
        assert_eq!(itself(Way::Original, POST_ROUTING, (8, 7)), None);
        // Bridged, or of a kernel that does not tell.
        assert_eq!(itself(Way::Original, POST_ROUTING, (0, 7)), Some(true));
        // Before its route is known it is accepted for now, and comes up again.
        assert_eq!(itself(Way::Original, PRE_ROUTING, (8, 0)), Some(false));
        for way in [Way::Untracked, Way::Midstream, Way::MetMidstream, Way::Reply] {
            assert_eq!(itself(way, POST_ROUTING, (8, 7)), None, "{way:?}");
        }
        assert_eq!(asked(Way::Original, "10.1.0.6", POST_ROUTING, (8, 7)), Some(true));
        assert_eq!(asked(Way::Original, "10.1.0.6", PRE_ROUTING, (8, 0)), Some(true));
    }
}

//! What is asked about a packet: which flows, in which order, and what an accept is worth.
//!
//! Not here: the answer's effects (counters, records, the verdict).

use podgate_engine::packet::{self, Header, ParseError};
use podgate_engine::{Addr, Cause, Decision, Flow, Generation, Judgement, NodeOrigin, Port, Snapshot, Verdict};
use podgate_netfilter::Way;

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
    /// The flow of the opposite orientation, where that may stand in if the first is denied.
    turned: Option<Flow>,
    /// An accept of `flow` is remembered.
    remember: bool,
    /// An accept of `turned` is remembered.
    remember_turned: bool,
    /// `turned` stands in only because of the start-up period.
    loose: bool,
}

/// How a question was answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Answer {
    /// Accepted; `midstream`: only because the start-up period lets the opposite orientation stand in.
    Accept { judgement: Judgement, remember: bool, midstream: bool },
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
    /// What to ask about a packet that came up `way` at `hook`. `loose`: connections are met mid-stream, from
    /// whichever side speaks first.
    ///
    /// Only the orientation that a packet comes in can be forged: a node's address as its source proves nothing. Once
    /// turned round, the flow's source is where the packet goes to, or what conntrack knows of the connection.
    #[inline]
    pub(crate) fn new(way: Way, hook: u8, payload: &[u8], loose: bool) -> Result<Self, ParseError> {
        let header = match way {
            Way::Original | Way::Midstream | Way::Reply | Way::Untracked => packet::parse(payload)?,
            Way::RelatedOriginal | Way::RelatedReply => packet::embedded(payload)?,
        };
        let as_sent = |origin| Question {
            flow: header.flow,
            origin,
            turned: None,
            remember: false,
            remember_turned: false,
            loose: false,
        };
        let turned = Question { flow: header.turned(), ..as_sent(NodeOrigin::Address) };
        Ok(match way {
            Way::Original | Way::Midstream => {
                // What is for the node itself is never remembered: that hook sees packets before others do.
                let remember = hook != LOCAL_IN;
                let question = Question { remember, ..as_sent(NodeOrigin::Forged) };
                match way == Way::Midstream && loose && !looks_like_the_clients(&header) {
                    true => Question { turned: Some(header.turned()), remember_turned: remember, loose, ..question },
                    false => question,
                }
            }
            Way::Reply => turned,
            // Request or reply, nobody knows; ports tell as much as can be told.
            Way::Untracked if looks_like_the_clients(&header) => as_sent(NodeOrigin::Forged),
            Way::Untracked => Question { turned: Some(header.turned()), ..as_sent(NodeOrigin::Forged) },
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
        if judgement.verdict() == Verdict::Accept {
            return Answer::Accept { judgement, remember: self.remember, midstream: false };
        }
        let (mut whom, mut alone) = (Whom::of(judge, &self.flow, &judgement), is_only_unknown(&judgement));
        if let Some(flow) = self.turned {
            let judgement = judge.judge(&flow, NodeOrigin::Address);
            if judgement.verdict() == Verdict::Accept {
                return Answer::Accept { judgement, remember: self.remember_turned, midstream: self.loose };
            }
            whom = whom.or_else(|| Whom::of(judge, &flow, &judgement).map(Whom::turned));
            alone |= is_only_unknown(&judgement);
        }
        let flow = self.flow;
        match whom {
            Some(whom) => Answer::Unknown { flow, judgement, alone, whom },
            None => Answer::Deny { flow, judgement },
        }
    }
}

/// From a port that the system gives out (Linux: 32768 to 60999) to one that it does not: a client's packet, which
/// needs no second opinion.
fn looks_like_the_clients(header: &Header) -> bool {
    const GIVEN_OUT: u16 = 32768;
    match (header.source_port, header.flow.port) {
        (Port::Number(source), Port::Number(destination)) => source >= GIVEN_OUT && destination < GIVEN_OUT,
        _ => false,
    }
}

/// Nothing denies but that an address is unknown.
fn is_only_unknown(judgement: &Judgement) -> bool {
    [judgement.egress, judgement.ingress].iter().all(|d| d.verdict() == Verdict::Accept || d.cause == Cause::Unknown)
}

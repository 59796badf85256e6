//! [`PortTable`]: protocol and port → [`Cause`], and how both are written as one number.

use crate::flow::protocol;
use crate::{Cause, Port, RuleId};

/// Protocol and port in one ascending number: `protocol << 17 | port`, with bit 16 set for a port that is not shown.
/// Protocols without ports use port 0.
#[inline]
pub(crate) fn port_key(number: u8, port: Port) -> u32 {
    let base = u32::from(number) << 17;
    match port {
        _ if !protocol::has_ports(number) => base,
        Port::Number(port) => base | u32::from(port),
        Port::None | Port::Unknown => base | NOT_SHOWN,
    }
}

const NOT_SHOWN: u32 = 1 << 16;

/// An interval of keys, both ends inclusive: some ports of one protocol, or everything.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PortSpan {
    /// The first key: `protocol << 17 | port`, with bit 16 set for a port that is not shown.
    pub first: u32,
    /// The last key.
    pub last: u32,
}

impl PortSpan {
    /// Every port of every protocol, and protocols without ports.
    pub const EVERYTHING: PortSpan = PortSpan { first: 0, last: u32::MAX };

    /// These ports, both inclusive. All of them (0 to 65535) cover a port that is not shown as well.
    pub fn ports(protocol: u8, first: u16, last: u16) -> Self {
        let base = u32::from(protocol) << 17;
        match (first, last) {
            (0, u16::MAX) => Self { first: base, last: base | NOT_SHOWN },
            _ => Self { first: base | u32::from(first), last: base | u32::from(last) },
        }
    }

    /// A packet of the protocol that does not show its port.
    pub fn not_shown(protocol: u8) -> Self {
        let key = u32::from(protocol) << 17 | NOT_SHOWN;
        Self { first: key, last: key }
    }
}

/// A cause for every protocol and port: a piecewise constant function.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct PortTable {
    /// Ascending starts, the first 0, neighbours different.
    segments: Vec<Segment>,
}

/// From this key on, this cause.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Segment {
    pub(crate) start: u32,
    pub(crate) code: u32,
}

impl PortTable {
    /// One cause for everything.
    pub fn constant(cause: Cause) -> Self {
        Self { segments: vec![Segment { start: 0, code: encode(cause) }] }
    }

    /// From disjoint spans in any order; what none covers is [`Cause::Unknown`].
    pub fn new(mut spans: Vec<(PortSpan, Cause)>) -> Self {
        spans.sort_unstable_by_key(|(span, _)| *span);
        let mut table = Self { segments: Vec::with_capacity(spans.len()) };
        let mut next = Some(0);
        for (span, cause) in spans {
            match next {
                Some(covered) if covered < span.first => table.push(covered, Cause::Unknown),
                _ => {}
            }
            table.push(span.first, cause);
            next = span.last.checked_add(1);
        }
        if let Some(rest) = next {
            table.push(rest, Cause::Unknown);
        }
        table
    }

    fn push(&mut self, start: u32, cause: Cause) {
        let code = encode(cause);
        if self.segments.last().is_none_or(|s| s.code != code) {
            self.segments.push(Segment { start, code });
        }
    }

    pub(crate) fn segments(&self) -> &[Segment] {
        &self.segments
    }

    /// Whether every protocol and port that `self` lets pass passes here as well.
    pub fn within(&self, other: &PortTable) -> bool {
        let starts = self.segments.iter().chain(&other.segments).map(|s| s.start);
        starts.into_iter().all(|key| !passes(lookup(&self.segments, key)) || passes(lookup(&other.segments, key)))
    }
}

fn passes(code: u32) -> bool {
    crate::Decision { cause: decode(code) }.verdict() == crate::Verdict::Accept
}

/// The code of the segment that the key is in.
#[inline]
pub(crate) fn lookup(segments: &[Segment], key: u32) -> u32 {
    let above = match segments.len() {
        0..=8 => segments.iter().take_while(|s| s.start <= key).count(),
        _ => segments.partition_point(|s| s.start <= key),
    };
    above.checked_sub(1).and_then(|i| segments.get(i)).map_or(UNKNOWN, |s| s.code)
}

const KIND_SHIFT: u32 = 28;
const RULE_MASK: u32 = (1 << KIND_SHIFT) - 1;
const UNKNOWN: u32 = 0;
const OPEN: u32 = 1 << KIND_SHIFT;
const OWN_NODE: u32 = 2 << KIND_SHIFT;
const ITSELF: u32 = 3 << KIND_SHIFT;
const ACCEPTED: u32 = 4 << KIND_SHIFT;
const DENIED: u32 = 5 << KIND_SHIFT;

/// A cause in 31 bits. A rule number beyond 28 bits can't be written: its accept becomes a denial.
pub(crate) fn encode(cause: Cause) -> u32 {
    match cause {
        Cause::Open => OPEN,
        Cause::OwnNode => OWN_NODE,
        Cause::Itself => ITSELF,
        Cause::Accepted(rule) if rule.0 <= RULE_MASK => ACCEPTED | rule.0,
        Cause::Denied(rule) if rule.0 <= RULE_MASK => DENIED | rule.0,
        Cause::Accepted(_) | Cause::Denied(_) | Cause::Unknown => UNKNOWN,
    }
}

/// The cause of a code; anything else than what [`encode`] made is a denial.
#[inline]
pub(crate) fn decode(code: u32) -> Cause {
    let rule = RuleId(code & RULE_MASK);
    match code & !RULE_MASK {
        OPEN => Cause::Open,
        OWN_NODE => Cause::OwnNode,
        ITSELF => Cause::Itself,
        ACCEPTED => Cause::Accepted(rule),
        DENIED => Cause::Denied(rule),
        _ => Cause::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flow::protocol::{ICMP, SCTP, TCP, UDP};

    #[test]
    fn every_cause_survives_its_code() {
        let rule = RuleId(RULE_MASK);
        let all =
            [Cause::Open, Cause::OwnNode, Cause::Itself, Cause::Accepted(rule), Cause::Denied(rule), Cause::Unknown];
        for cause in all {
            assert_eq!(decode(encode(cause)), cause);
        }
        assert_eq!(decode(encode(Cause::Accepted(RuleId(RULE_MASK + 1)))), Cause::Unknown);
        assert_eq!(decode(u32::MAX), Cause::Unknown);
    }

    #[test]
    fn spans_cover_exactly_their_ports() {
        let accepted = Cause::Accepted(RuleId(1));
        let table =
            PortTable::new(vec![(PortSpan::ports(TCP, 80, 90), accepted), (PortSpan::ports(UDP, 0, 65535), accepted)]);
        let at = |p, port| decode(lookup(table.segments(), port_key(p, port)));
        for port in [79, 80, 85, 90, 91, 0, 65535] {
            let expected = if (80..=90).contains(&port) { accepted } else { Cause::Unknown };
            assert_eq!(at(TCP, Port::Number(port)), expected);
            assert_eq!(at(SCTP, Port::Number(port)), Cause::Unknown);
            assert_eq!(at(UDP, Port::Number(port)), accepted);
        }
        assert_eq!((at(TCP, Port::Unknown), at(UDP, Port::Unknown)), (Cause::Unknown, accepted));
        assert_eq!(
            (at(ICMP, Port::None), at(16, Port::None), at(18, Port::None)),
            (Cause::Unknown, Cause::Unknown, Cause::Unknown)
        );
        let shown = PortTable::new(vec![(PortSpan::not_shown(TCP), Cause::Open)]);
        assert_eq!(decode(lookup(shown.segments(), port_key(TCP, Port::Unknown))), Cause::Open);
        assert_eq!(decode(lookup(shown.segments(), port_key(TCP, Port::Number(65535)))), Cause::Unknown);
    }

    #[test]
    fn lookup_agrees_with_a_linear_search_for_any_number_of_segments() {
        for count in [1u32, 2, 8, 9, 100] {
            let segments: Vec<Segment> = (0..count).map(|i| Segment { start: i * 1000, code: i }).collect();
            for key in (0..count * 1000).step_by(250).chain([u32::MAX]) {
                assert_eq!(lookup(&segments, key), segments.iter().rev().find(|s| s.start <= key).unwrap().code);
            }
        }
    }

    #[test]
    fn within_sees_every_port_that_is_lost() {
        let (open, shut) = (PortTable::constant(Cause::Open), PortTable::constant(Cause::Unknown));
        let some = PortTable::new(vec![(PortSpan::ports(TCP, 80, 90), Cause::Open)]);
        let fewer = PortTable::new(vec![(PortSpan::ports(TCP, 80, 89), Cause::Open)]);
        assert!(shut.within(&fewer) && fewer.within(&some) && some.within(&open) && open.within(&open));
        assert!(!some.within(&fewer) && !open.within(&some) && !fewer.within(&shut));
    }
}

//! [`PortTable`]: protocol and port → the first rule that is about it, and how ports are written as one number.

use crate::Port;
use crate::flow::protocol;

/// Protocol and port in one ascending number: `protocol << 17 | port`, with bit 16 set for a port that is not shown.
/// Protocols without ports use port 0. Keys with the top bit set are port names.
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
const NAME: u32 = 1 << 31;

/// Whether the key is of a port that is not shown.
#[inline]
pub(crate) fn is_not_shown(key: u32) -> bool {
    key & (NAME | NOT_SHOWN) == NOT_SHOWN
}

/// The key of a port by its name; for a port that is not shown, another.
#[inline]
pub(crate) fn name_key(name: u32, not_shown: bool) -> u32 {
    NAME | name << 1 | u32::from(not_shown)
}

/// An interval of keys, both ends inclusive: some ports of one protocol, a named port, or everything.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PortSpan {
    pub(crate) first: u32,
    pub(crate) last: u32,
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

    /// Whatever port the destination has by this name (a number of [`crate::PortNames`]); `or_not_shown`: packets that
    /// do not show their port to a destination that has one by the name, too.
    pub fn named(name: u32, or_not_shown: bool) -> Self {
        Self { first: name_key(name, false), last: name_key(name, or_not_shown) }
    }
}

/// Ports of any of some spans.
#[derive(Debug, Clone, Default)]
pub(crate) struct PortUnion {
    /// Ascending, neither overlapping nor adjacent.
    spans: Box<[PortSpan]>,
}

impl PortUnion {
    pub(crate) fn of(spans: impl IntoIterator<Item = PortSpan>) -> Self {
        let mut all: Vec<PortSpan> = spans.into_iter().collect();
        all.sort_unstable();
        let mut merged: Vec<PortSpan> = Vec::new();
        for span in all {
            match merged.last_mut() {
                Some(last) if span.first <= last.last.saturating_add(1) => last.last = last.last.max(span.last),
                _ => merged.push(span),
            }
        }
        Self { spans: merged.into() }
    }

    pub(crate) fn contains(&self, key: u32) -> bool {
        let above = self.spans.partition_point(|span| span.first <= key);
        above.checked_sub(1).and_then(|last| self.spans.get(last)).is_some_and(|span| key <= span.last)
    }
}

/// For every protocol and port the first rule that is about it: a piecewise constant function.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct PortTable {
    /// Ascending starts, the first 0, neighbours different.
    segments: Vec<Segment>,
}

/// From this key on, the rule at this place in the order of evaluation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Segment {
    pub(crate) start: u32,
    pub(crate) rank: u32,
}

/// No rule.
pub(crate) const NO_RANK: u32 = (1 << 31) - 1;

impl PortTable {
    /// From rules in the order of evaluation: each its place in that order (less than 2^31 - 1) and its ports.
    pub(crate) fn first_of<'s>(rules: impl IntoIterator<Item = (u32, &'s [PortSpan])>) -> Self {
        let mut taken: Vec<(PortSpan, u32)> = Vec::new();
        let mut left = vec![PortSpan::EVERYTHING];
        for (rank, spans) in rules {
            for span in spans {
                if left.is_empty() {
                    break;
                }
                take(&mut left, *span, |part| taken.push((part, rank)));
            }
        }
        taken.extend(left.into_iter().map(|part| (part, NO_RANK)));
        taken.sort_unstable();
        let mut segments: Vec<Segment> = Vec::with_capacity(taken.len());
        for (part, rank) in taken {
            if segments.last().is_none_or(|s| s.rank != rank) {
                segments.push(Segment { start: part.first, rank });
            }
        }
        Self { segments }
    }

    pub(crate) fn segments(&self) -> &[Segment] {
        &self.segments
    }
}

/// Takes what is within `span` out of disjoint spans.
fn take(spans: &mut Vec<PortSpan>, span: PortSpan, mut taken: impl FnMut(PortSpan)) {
    let mut left = Vec::with_capacity(spans.len() + 1);
    for open in spans.drain(..) {
        let (first, last) = (open.first.max(span.first), open.last.min(span.last));
        if first > last {
            left.push(open);
            continue;
        }
        taken(PortSpan { first, last });
        if open.first < first {
            left.push(PortSpan { first: open.first, last: first - 1 });
        }
        if last < open.last {
            left.push(PortSpan { first: last + 1, last: open.last });
        }
    }
    *spans = left;
}

/// The rank of the segment that the key is in.
#[inline]
pub(crate) fn lookup(segments: &[Segment], key: u32) -> u32 {
    let above = match segments.len() {
        // All of them, without a branch that depends on the key: few are cheaper than one wrong guess.
        0..=16 => segments.iter().filter(|s| s.start <= key).count(),
        _ => segments.partition_point(|s| s.start <= key),
    };
    above.checked_sub(1).and_then(|i| segments.get(i)).map_or(NO_RANK, |s| s.rank)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flow::protocol::{ICMP, SCTP, TCP, UDP};

    fn at(table: &PortTable, protocol: u8, port: Port) -> Option<u32> {
        let rank = lookup(table.segments(), port_key(protocol, port));
        (rank != NO_RANK).then_some(rank)
    }

    #[test]
    fn spans_cover_exactly_their_ports() {
        let (web, udp) = ([PortSpan::ports(TCP, 80, 90)], [PortSpan::ports(UDP, 0, 65535)]);
        let table = PortTable::first_of([(3, web.as_slice()), (4, udp.as_slice())]);
        for port in [79, 80, 85, 90, 91, 0, 65535] {
            let expected = (80..=90).contains(&port).then_some(3);
            assert_eq!(at(&table, TCP, Port::Number(port)), expected);
            assert_eq!(at(&table, SCTP, Port::Number(port)), None);
            assert_eq!(at(&table, UDP, Port::Number(port)), Some(4));
        }
        assert_eq!((at(&table, TCP, Port::Unknown), at(&table, UDP, Port::Unknown)), (None, Some(4)));
        for protocol in [ICMP, 16, 18, 0, 255] {
            assert_eq!(at(&table, protocol, Port::None), None);
        }
        let table = PortTable::first_of([(0, [PortSpan::not_shown(TCP)].as_slice())]);
        assert_eq!(at(&table, TCP, Port::Unknown), Some(0));
        assert_eq!(at(&table, TCP, Port::Number(65535)), None);
        let table = PortTable::first_of([(0, [PortSpan::EVERYTHING].as_slice())]);
        assert_eq!((at(&table, 255, Port::None), at(&table, TCP, Port::Unknown)), (Some(0), Some(0)));
    }

    #[test]
    fn names_are_apart_from_numbers() {
        let spans = [PortSpan::named(5, false), PortSpan::named(6, true)];
        let table = PortTable::first_of([(1, spans.as_slice())]);
        let rank = |key| lookup(table.segments(), key);
        let expected =
            [(5, false, 1), (5, true, NO_RANK), (6, false, 1), (6, true, 1), (4, true, NO_RANK), (7, false, NO_RANK)];
        for (name, not_shown, wanted) in expected {
            assert_eq!(rank(name_key(name, not_shown)), wanted, "{name} {not_shown}");
        }
        assert_eq!(rank(port_key(TCP, Port::Number(5))), NO_RANK);
        assert!(!is_not_shown(name_key(1 << 15, true)) && is_not_shown(port_key(TCP, Port::Unknown)));
    }

    #[test]
    fn a_union_has_what_any_span_has() {
        let mut seed = 3u32;
        let mut next = |below: u32| {
            seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (seed >> 8) % below
        };
        for _ in 0..500 {
            let spans: Vec<PortSpan> = (0..next(6))
                .map(|_| (next(40) as u16, next(6) as u16))
                .map(|(first, more)| PortSpan::ports(TCP, first, first + more))
                .collect();
            let union = PortUnion::of(spans.iter().copied());
            for port in 0..50u16 {
                let key = port_key(TCP, Port::Number(port));
                let naive = spans.iter().any(|s| (s.first..=s.last).contains(&key));
                assert_eq!(union.contains(key), naive, "{spans:?} {port}");
            }
        }
        let all = PortUnion::of([PortSpan::EVERYTHING, PortSpan::ports(TCP, 1, 2)]);
        assert!(all.contains(0) && all.contains(u32::MAX) && !PortUnion::default().contains(0));
    }

    #[test]
    fn the_first_rule_in_order_wins_for_each_port() {
        let mut seed = 7u32;
        let mut next = |below: u32| {
            seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (seed >> 8) % below
        };
        for _ in 0..500 {
            let rules: Vec<Vec<(u16, u16)>> = (0..next(7))
                .map(|_| (0..next(4)).map(|_| (next(30) as u16, next(8) as u16)).map(|(a, n)| (a, a + n)).collect())
                .collect();
            let spans: Vec<Vec<PortSpan>> =
                rules.iter().map(|r| r.iter().map(|p| PortSpan::ports(TCP, p.0, p.1)).collect()).collect();
            let table = PortTable::first_of(spans.iter().enumerate().map(|(i, s)| (i as u32, s.as_slice())));
            for port in 0..45u16 {
                let naive = rules.iter().position(|r| r.iter().any(|p| (p.0..=p.1).contains(&port)));
                assert_eq!(at(&table, TCP, Port::Number(port)), naive.map(|i| i as u32), "{rules:?} {port}");
            }
        }
    }

    #[test]
    fn lookup_agrees_with_a_linear_search_for_any_number_of_segments() {
        for count in [1u32, 2, 8, 9, 100] {
            let segments: Vec<Segment> = (0..count).map(|i| Segment { start: i * 1000, rank: i }).collect();
            for key in (0..count * 1000).step_by(250).chain([u32::MAX]) {
                assert_eq!(lookup(&segments, key), segments.iter().rev().find(|s| s.start <= key).unwrap().rank);
            }
        }
    }
}

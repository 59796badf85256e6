//! [`RuleTable`]: the rules of one tier for one subject class and direction: peer and port → the first rule that
//! matches. [`DirectionTable`]: the tiers in their order.
//!
//! A peer is up to four classes, each looked up on its own: its labels' rarely and widely used selectors, its address'
//! rarely and widely used blocks. Each gives the place (rank) of the first rule that matches by it; the lowest of all
//! is the first rule that matches. So no table has to hold combinations of classes.

use std::fmt;

use crate::class_map::ClassMap;
use crate::ports::{NO_RANK, PortTable, Segment, is_not_shown, lookup, name_key};
use crate::{Action, Cause, PortNames, RuleId};

/// What one direction of a subject comes to.
#[derive(Debug, Clone)]
pub struct DirectionTable {
    /// Rules of the Admin tier.
    pub admin: Option<RuleTable>,
    /// What follows if they decide nothing.
    pub then: Then,
}

/// What comes after the Admin tier.
#[derive(Debug, Clone)]
pub enum Then {
    /// NetworkPolicy isolates the subject: its rules, and the default deny of what they do not accept.
    Isolated(RuleTable, RuleId),
    /// Nothing isolates it: rules of the Baseline tier, then open.
    Baseline(Option<RuleTable>),
}

/// The other end of a flow, as rules see it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Peer {
    /// Its classes; 0: none.
    pub(crate) classes: [u32; 4],
    /// It is the subject's own node.
    pub(crate) own_node: bool,
}

impl DirectionTable {
    /// The cause for this peer and port. `names` are the names of the destination's ports.
    #[inline]
    pub(crate) fn cause(&self, peer: &Peer, key: u32, names: &PortNames) -> Cause {
        if let Some((action, rule)) = self.admin.as_ref().and_then(|t| t.first(peer, key, names)) {
            match action {
                Action::Accept => return Cause::Accepted(rule),
                Action::Deny => return Cause::Denied(rule),
                Action::Pass => {}
            }
        }
        let undecided = if peer.own_node { Cause::OwnNode } else { Cause::Open };
        match &self.then {
            Then::Isolated(..) if peer.own_node => Cause::OwnNode,
            Then::Isolated(table, default_deny) => match table.first(peer, key, names) {
                Some((_, rule)) => Cause::Accepted(rule),
                None => Cause::Denied(*default_deny),
            },
            Then::Baseline(table) => match table.as_ref().and_then(|t| t.first(peer, key, names)) {
                Some((Action::Accept, rule)) => Cause::Accepted(rule),
                Some((Action::Deny, rule)) => Cause::Denied(rule),
                Some((Action::Pass, _)) | None => undecided,
            },
        }
    }

    /// Whether rules name ports.
    #[inline]
    pub(crate) fn uses_names(&self) -> bool {
        let then = match &self.then {
            Then::Isolated(table, _) => Some(table),
            Then::Baseline(table) => table.as_ref(),
        };
        self.admin.iter().chain(then).any(|t| t.names)
    }
}

/// The rules of one tier in their order, by peer and port.
#[derive(Clone)]
pub struct RuleTable {
    /// Class → value.
    map: ClassMap,
    /// The value of rules about every peer.
    everybody: u32,
    segments: Vec<Segment>,
    /// By rank.
    rules: Box<[(Action, RuleId)]>,
    names: bool,
}

/// A port table that a [`RuleTable`] keeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeptPorts(u32);

/// A value with this bit is where in `segments` a port table begins, one without it a rank.
const TABLE: u32 = 1 << 31;

impl RuleTable {
    /// A table of these rules, in the order of evaluation; `everybody` has those about every peer, and `names` tells
    /// whether any of them names ports.
    pub fn new(rules: impl Into<Box<[(Action, RuleId)]>>, everybody: &PortTable, names: bool) -> Self {
        let rules = rules.into();
        let mut table = Self { map: ClassMap::new(), everybody: NO_RANK, segments: Vec::new(), rules, names };
        table.everybody = table.intern(everybody);
        table
    }

    /// The rules about peers of this class (not 0), beside those about everybody.
    pub fn set(&mut self, class: u32, ports: KeptPorts) {
        self.map.set(class, ports.0);
    }

    /// How many peer classes have an entry.
    pub fn entries(&self) -> usize {
        self.map.used()
    }

    /// Whether one more class makes the table grow: a good time to leave out the classes that are no more.
    pub fn is_full(&self) -> bool {
        self.map.is_full()
    }

    /// Keeps a port table for [`RuleTable::set`]; of this table only.
    pub fn keep(&mut self, ports: &PortTable) -> KeptPorts {
        KeptPorts(self.intern(ports))
    }

    /// A one-segment table is its rank; others are kept once, each behind a head that tells its length.
    fn intern(&mut self, ports: &PortTable) -> u32 {
        let wanted = ports.segments();
        if let [only] = wanted {
            return only.rank;
        }
        let mut at = 0;
        while let Some(head) = self.segments.get(at) {
            let len = head.start as usize;
            if self.segments.get(at + 1..at + 1 + len) == Some(wanted) {
                return TABLE | at as u32;
            }
            at += 1 + len;
        }
        self.segments.push(Segment { start: wanted.len() as u32, rank: NO_RANK });
        self.segments.extend_from_slice(wanted);
        TABLE | at as u32
    }

    /// The first rule that matches.
    #[inline]
    pub(crate) fn first(&self, peer: &Peer, key: u32, names: &PortNames) -> Option<(Action, RuleId)> {
        let mut rank = self.rank(self.everybody, key, names);
        for class in peer.classes {
            if class != 0
                && let Some(value) = self.map.get(class)
            {
                rank = rank.min(self.rank(value, key, names));
            }
        }
        self.rules.get(rank as usize).copied()
    }

    #[inline]
    fn rank(&self, value: u32, key: u32, names: &PortNames) -> u32 {
        if value & TABLE == 0 {
            return value;
        }
        let at = (value & !TABLE) as usize;
        let len = self.segments.get(at).map_or(0, |head| head.start as usize);
        let segments = self.segments.get(at + 1..at + 1 + len).unwrap_or_default();
        let mut rank = lookup(segments, key);
        if self.names {
            for name in names.of(key) {
                rank = rank.min(lookup(segments, name_key(*name, is_not_shown(key))));
            }
        }
        rank
    }
}

impl fmt::Debug for RuleTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (rules, entries) = (self.rules.len(), self.map.used());
        write!(f, "RuleTable({rules} rules, {entries} classes, {} segments)", self.segments.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flow::protocol::{TCP, UDP};
    use crate::ports::port_key;
    use crate::{Port, PortSpan};
    use std::collections::HashMap;

    fn rules(count: u32) -> Vec<(Action, RuleId)> {
        (0..count).map(|i| (Action::Accept, RuleId(i))).collect()
    }

    fn peer(classes: [u32; 4]) -> Peer {
        Peer { classes, own_node: false }
    }

    /// Rule `n` is about TCP port `n`, rule 0 about everything.
    fn ports(n: u32) -> PortTable {
        let span = if n == 0 { PortSpan::EVERYTHING } else { PortSpan::ports(TCP, n as u16, n as u16) };
        PortTable::first_of([(n, [span].as_slice())])
    }

    #[test]
    fn the_first_rule_by_any_class_is_found() {
        let mut table = RuleTable::new(rules(500), &ports(499), false);
        let mut naive = HashMap::new();
        for i in 0..600u32 {
            let (class, n) = (i.wrapping_mul(7919) % 1200 + 1, 1 + i % 90);
            let kept = table.keep(&PortTable::first_of([(n, [PortSpan::ports(TCP, 80, 80)].as_slice())]));
            table.set(class, kept);
            naive.insert(class, n);
        }
        assert_eq!(table.entries(), naive.len());
        for i in 0..1300u32 {
            let classes = [i, i * 7 % 1250, 0, i * 31 % 1250];
            let first = |port| table.first(&peer(classes), port_key(TCP, Port::Number(port)), &PortNames::default());
            let expected = classes.iter().filter_map(|c| naive.get(c)).min();
            assert_eq!(first(80).map(|f| f.1.0), expected.copied());
            assert_eq!(first(499).map(|f| f.1.0), Some(499));
            assert_eq!(first(81), None);
        }
    }

    #[test]
    fn equal_port_tables_are_kept_once() {
        let mut table = RuleTable::new(rules(3), &PortTable::first_of([]), false);
        for class in 1..100 {
            let kept = table.keep(&ports(1 + class % 2));
            table.set(class, kept);
        }
        assert_eq!(table.segments.len(), 2 + ports(1).segments().len() + ports(2).segments().len());
    }

    #[test]
    fn a_named_port_is_the_destinations() {
        let names = PortNames::new([(TCP, 8080, 1), (TCP, 9090, 1), (UDP, 7070, 3)]);
        let table = RuleTable::new(rules(1), &PortTable::first_of([(0, [PortSpan::named(1, false)].as_slice())]), true);
        let first = |port, names: &PortNames| table.first(&peer([0; 4]), port_key(TCP, port), names).is_some();
        assert!(first(Port::Number(9090), &names) && !first(Port::Number(7070), &names));
        assert!(!first(Port::Number(9090), &PortNames::default()) && !first(Port::Unknown, &names));
    }

    #[test]
    fn tiers_are_asked_in_their_order() {
        use Action::{Accept, Deny, Pass};
        let one = |action, rule| RuleTable::new([(action, RuleId(rule))], &ports(0), false);
        let cause = |admin: Option<Action>, then: Then, own_node| {
            let table = DirectionTable { admin: admin.map(|a| one(a, 1)), then };
            table.cause(&Peer { own_node, ..peer([0; 4]) }, 0, &PortNames::default())
        };
        let isolated = || Then::Isolated(RuleTable::new([], &PortTable::first_of([]), false), RuleId(9));
        let accepting = || Then::Isolated(one(Accept, 2), RuleId(9));
        let baseline = |action| Then::Baseline(Some(one(action, 3)));
        assert_eq!(cause(Some(Accept), isolated(), false), Cause::Accepted(RuleId(1)));
        assert_eq!(cause(Some(Deny), accepting(), false), Cause::Denied(RuleId(1)));
        assert_eq!(cause(Some(Deny), accepting(), true), Cause::Denied(RuleId(1)));
        assert_eq!(cause(Some(Pass), accepting(), false), Cause::Accepted(RuleId(2)));
        assert_eq!(cause(Some(Pass), isolated(), true), Cause::OwnNode);
        assert_eq!(cause(None, isolated(), false), Cause::Denied(RuleId(9)));
        assert_eq!(cause(None, baseline(Deny), false), Cause::Denied(RuleId(3)));
        assert_eq!(cause(None, baseline(Deny), true), Cause::Denied(RuleId(3)));
        assert_eq!(cause(None, baseline(Accept), true), Cause::Accepted(RuleId(3)));
        assert_eq!(cause(None, baseline(Pass), false), Cause::Open);
        assert_eq!(cause(None, Then::Baseline(None), true), Cause::OwnNode);
    }
}

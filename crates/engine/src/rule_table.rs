//! [`RuleTable`]: the rules of one tier for one subject class and direction: peer and port → the first rule that
//! matches. [`DirectionTable`]: the tiers in their order.
//!
//! A peer is up to four classes, each looked up on its own: its labels' rarely and widely used selectors, its address'
//! rarely and widely used blocks. A rule matches if it does so by any of them.

use std::fmt;

use crate::few_rules::FewRules;
use crate::many_rules::ManyRules;
use crate::ports::{PortUnion, is_not_shown, name_key};
use crate::{Action, Cause, PortNames, PortSpan, RuleId};

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
    /// NetworkPolicy is not about this peer (the subject's own node, the subject itself), and this is the cause where
    /// nothing else decides.
    pub(crate) exempt: Option<Cause>,
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
        let undecided = peer.exempt.unwrap_or(Cause::Open);
        match &self.then {
            Then::Isolated(..) if peer.exempt.is_some() => undecided,
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

    /// The default deny, if it is the cause for every peer that is no pod and not exempt.
    pub(crate) fn closed(&self, key: u32, names: &PortNames) -> Option<RuleId> {
        let silent = |table: &RuleTable| table.is_silent_to_strangers(key, names);
        match &self.then {
            Then::Isolated(table, default_deny) if self.admin.iter().chain([table]).all(silent) => Some(*default_deny),
            _ => None,
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
    rules: Rules,
    names: bool,
    /// The ports of rules that may match an address that is no pod's.
    strangers: PortUnion,
}

#[derive(Clone)]
enum Rules {
    Few(FewRules),
    Many(ManyRules),
}

/// A rule, for a [`RuleTable`].
#[derive(Debug, Clone, Copy)]
pub struct RankedRule<'p> {
    /// What it does.
    pub action: Action,
    /// Its number.
    pub id: RuleId,
    /// Its ports.
    pub ports: &'p [PortSpan],
    /// It is about every peer, whatever its classes.
    pub everybody: bool,
    /// It is about addresses too, so that it may match a peer that is no pod.
    pub addresses: bool,
}

impl RuleTable {
    /// A table of these rules, in the order of evaluation, with room for some peer classes; `names` tells whether any
    /// of the rules names ports.
    pub fn new(rules: &[RankedRule<'_>], names: bool, classes: usize) -> Self {
        let few = FewRules::new(rules, classes).map(Rules::Few);
        let strangers = rules.iter().filter(|r| r.everybody || r.addresses).flat_map(|r| r.ports.iter().copied());
        let strangers = PortUnion::of(strangers);
        Self { rules: few.unwrap_or_else(|| Rules::Many(ManyRules::new(rules))), names, strangers }
    }

    /// Peers of these classes (not 0) match these rules, beside those about everybody: ranks, ascending, each with its
    /// rule's ports.
    pub fn set<'p>(
        &mut self,
        classes: impl IntoIterator<Item = u32>,
        rules: impl Iterator<Item = (u32, &'p [PortSpan])> + Clone,
    ) {
        match &mut self.rules {
            Rules::Few(few) => {
                let mask = FewRules::mask(rules.map(|r| r.0));
                classes.into_iter().for_each(|class| few.set(class, mask));
            }
            Rules::Many(many) => {
                let value = many.keep(rules);
                classes.into_iter().for_each(|class| many.set(class, value));
            }
        }
    }

    /// How many peer classes have an entry.
    pub fn entries(&self) -> usize {
        match &self.rules {
            Rules::Few(few) => few.classes().used(),
            Rules::Many(many) => many.classes().used(),
        }
    }

    /// Whether one more class makes the table grow: a good time to leave out the classes that are no more.
    pub fn is_full(&self) -> bool {
        match &self.rules {
            Rules::Few(few) => few.classes().is_full(),
            Rules::Many(many) => many.classes().is_full(),
        }
    }

    /// Whether no rule about this port may match a peer that is no pod.
    fn is_silent_to_strangers(&self, key: u32, names: &PortNames) -> bool {
        let mut named = self.names.then_some(names).into_iter().flat_map(|names| names.of(key));
        let speaks = |key| self.strangers.contains(key);
        !speaks(key) && !named.any(|name| speaks(name_key(*name, is_not_shown(key))))
    }

    /// The first rule that matches.
    #[inline]
    pub(crate) fn first(&self, peer: &Peer, key: u32, names: &PortNames) -> Option<(Action, RuleId)> {
        let names = self.names.then_some(names);
        match &self.rules {
            Rules::Few(few) => few.first(peer.classes, key, names),
            Rules::Many(many) => many.first(peer.classes, key, names),
        }
    }
}

impl fmt::Debug for RuleTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match &self.rules {
            Rules::Few(_) => "few",
            Rules::Many(_) => "many",
        };
        write!(f, "RuleTable({kind} rules, {} classes)", self.entries())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Port;
    use crate::flow::protocol::{TCP, UDP};
    use crate::ports::port_key;

    fn peer(classes: [u32; 4]) -> Peer {
        Peer { classes, exempt: None }
    }

    fn accept(id: u32, ports: &[PortSpan], everybody: bool) -> RankedRule<'_> {
        RankedRule { action: Action::Accept, id: RuleId(id), ports, everybody, addresses: false }
    }

    /// Few and many rules alike, against the definition.
    #[test]
    fn the_first_rule_by_any_class_and_port_is_found() {
        let mut seed = 11u32;
        let mut next = move |below: u32| {
            seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (seed >> 8) % below
        };
        for rules in [0usize, 1, 2, 5, 31, 32, 33, 200] {
            let spans: Vec<Vec<PortSpan>> = (0..rules)
                .map(|_| match next(8) {
                    0 => vec![PortSpan::EVERYTHING],
                    1 => vec![PortSpan::ports(UDP, 0, u16::MAX), PortSpan::named(next(3), next(2) == 0)],
                    _ => (0..1 + next(3))
                        .map(|_| (next(60) as u16, next(9) as u16))
                        .collect::<Vec<_>>()
                        .into_iter()
                        .map(|(first, more)| PortSpan::ports(TCP, first, first + more))
                        .collect(),
                })
                .collect();
            let ranked: Vec<_> = spans
                .iter()
                .enumerate()
                .map(|(rank, s)| RankedRule {
                    action: [Action::Accept, Action::Deny, Action::Pass][rank % 3],
                    ..accept(1000 + rank as u32, s, next(40) == 0)
                })
                .collect();
            let mut table = RuleTable::new(&ranked, true, 10);
            let classes: Vec<Vec<u32>> = (0..60)
                .map(|class| {
                    let matching: Vec<u32> =
                        if class == 0 { Vec::new() } else { (0..rules as u32).filter(|_| next(6) == 0).collect() };
                    if class > 0 {
                        table.set([class], matching.iter().map(|r| (*r, &*spans[*r as usize])));
                    }
                    matching
                })
                .collect();
            assert_eq!(table.entries(), 59);
            let names = PortNames::new([(TCP, 8, 0), (TCP, 30, 1), (UDP, 30, 2)]);
            for _ in 0..3000 {
                let chosen = [next(70), next(60), next(60), next(3) * next(60)];
                let (protocol, port) = match next(12) {
                    0 => (TCP, Port::Unknown),
                    1 => (UDP, Port::Number(30)),
                    2 => (1, Port::None),
                    _ => (TCP, Port::Number(next(75) as u16)),
                };
                let key = port_key(protocol, port);
                let covers = |key: u32, s: &PortSpan| (s.first..=s.last).contains(&key);
                let by_name = |s: &PortSpan| {
                    names.of(key).iter().any(|n| covers(crate::ports::name_key(*n, port == Port::Unknown), s))
                };
                let expected = ranked.iter().enumerate().find(|(rank, rule)| {
                    let of_peer = |c: &u32| classes.get(*c as usize).is_some_and(|m| m.contains(&(*rank as u32)));
                    (rule.everybody || chosen.iter().any(of_peer))
                        && rule.ports.iter().any(|s| covers(key, s) || by_name(s))
                });
                let expected = expected.map(|(_, r)| (r.action, r.id));
                assert_eq!(
                    table.first(&peer(chosen), key, &names),
                    expected,
                    "{rules} rules, {chosen:?}, {protocol} {port:?}"
                );
            }
        }
    }

    #[test]
    fn many_ports_of_few_rules_are_found_too() {
        let spans: Vec<PortSpan> = (0..200).map(|i| PortSpan::ports(TCP, i * 10, i * 10 + 4)).collect();
        for count in [1usize, 7, 8, 15, 100, 127, 128, 200] {
            let table = RuleTable::new(&[accept(5, &spans[..count], true)], false, 0);
            for port in 0..2100u16 {
                let found = table.first(&peer([0; 4]), port_key(TCP, Port::Number(port)), &PortNames::default());
                assert_eq!(found.is_some(), usize::from(port / 10) < count && port % 10 <= 4, "{count} {port}");
            }
        }
    }

    #[test]
    fn a_named_port_is_the_destinations() {
        let names = PortNames::new([(TCP, 8080, 1), (TCP, 9090, 1), (UDP, 7070, 3)]);
        let spans = [PortSpan::named(1, false)];
        let table = RuleTable::new(&[accept(0, &spans, true)], true, 0);
        let first = |port, names: &PortNames| table.first(&peer([0; 4]), port_key(TCP, port), names).is_some();
        assert!(first(Port::Number(9090), &names) && !first(Port::Number(7070), &names));
        assert!(!first(Port::Number(9090), &PortNames::default()) && !first(Port::Unknown, &names));
    }

    #[test]
    fn tiers_are_asked_in_their_order() {
        use Action::{Accept, Deny, Pass};
        let one = |action, rule| {
            let ports = &[PortSpan::EVERYTHING];
            RuleTable::new(&[RankedRule { action, ..accept(rule, ports, true) }], false, 0)
        };
        let cause = |admin: Option<Action>, then: Then, own_node: bool| {
            let table = DirectionTable { admin: admin.map(|a| one(a, 1)), then };
            table.cause(&Peer { exempt: own_node.then_some(Cause::OwnNode), ..peer([0; 4]) }, 0, &PortNames::default())
        };
        let isolated = || Then::Isolated(RuleTable::new(&[], false, 0), RuleId(9));
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

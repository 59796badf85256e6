//! [`port_table`]: the tiers merged into one table by protocol and port, for one subject and one peer.

use podgate_engine::{Action, Cause, PortSpan, PortTable, RuleId, Tier};

/// A rule whose subject and peer match; its ports are left.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Ruling<'s> {
    pub(crate) tier: Tier,
    pub(crate) action: Action,
    pub(crate) rule: RuleId,
    /// The ports it is about.
    pub(crate) spans: std::borrow::Cow<'s, [PortSpan]>,
}

/// What the NetworkPolicy tier is for the subject.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Middle {
    /// Nothing isolates it: the Baseline tier goes on.
    Absent,
    /// It is isolated: what no rule accepts is denied by this default deny.
    Isolated(RuleId),
    /// It is isolated, but the peer is its own node, which NetworkPolicy never blocks.
    Exempt,
}

/// What rules that match come to. `rulings` are in the order of evaluation; `undecided` is what no tier decides.
pub(crate) fn port_table<'s>(
    rulings: impl Iterator<Item = Ruling<'s>> + Clone,
    middle: Middle,
    undecided: Cause,
) -> PortTable {
    let mut decided = Vec::new();
    let mut open = Spans(vec![PortSpan::EVERYTHING]);
    let passed = ordered(rulings.clone().filter(|r| r.tier == Tier::Admin), &mut open, &mut decided);
    open.0.extend(passed);
    let rest = match middle {
        Middle::Absent => {
            let passed = ordered(rulings.filter(|r| r.tier == Tier::Baseline), &mut open, &mut decided);
            open.0.extend(passed);
            undecided
        }
        Middle::Isolated(default_deny) => {
            for ruling in rulings.filter(|r| r.tier == Tier::NetworkPolicy) {
                take_all(&ruling, &mut open, |span| decided.push((span, Cause::Accepted(ruling.rule))));
            }
            Cause::Denied(default_deny)
        }
        Middle::Exempt => Cause::OwnNode,
    };
    decided.extend(open.0.into_iter().map(|span| (span, rest)));
    PortTable::new(decided)
}

/// An ordered tier: the first rule that matches decides. What a Pass takes out of the tier is returned.
fn ordered<'s>(
    rulings: impl Iterator<Item = Ruling<'s>>,
    open: &mut Spans,
    decided: &mut Vec<(PortSpan, Cause)>,
) -> Vec<PortSpan> {
    let mut passed = Vec::new();
    for ruling in rulings {
        take_all(&ruling, open, |span| match ruling.action {
            Action::Accept => decided.push((span, Cause::Accepted(ruling.rule))),
            Action::Deny => decided.push((span, Cause::Denied(ruling.rule))),
            Action::Pass => passed.push(span),
        });
    }
    passed
}

fn take_all(ruling: &Ruling<'_>, open: &mut Spans, mut taken: impl FnMut(PortSpan)) {
    for span in ruling.spans.iter() {
        if open.0.is_empty() {
            return;
        }
        open.take(*span, &mut taken);
    }
}

/// Disjoint spans that nothing has decided yet.
struct Spans(Vec<PortSpan>);

impl Spans {
    /// Takes out what is within `span`.
    fn take(&mut self, span: PortSpan, taken: &mut impl FnMut(PortSpan)) {
        let mut left = Vec::with_capacity(self.0.len() + 1);
        for open in self.0.drain(..) {
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
        self.0 = left;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use podgate_engine::{Group, PeerTable, Port, protocol};
    use proptest::prelude::*;

    #[derive(Debug, Clone)]
    struct Plain {
        tier: Tier,
        action: Action,
        ports: Vec<(u16, u16)>,
    }

    /// First match, tier by tier, for one TCP port.
    fn naive(rules: &[Plain], middle: Middle, port: u16) -> Cause {
        let first = |tier| {
            rules.iter().enumerate().find(|(_, r)| {
                r.tier == tier && (r.ports.is_empty() || r.ports.iter().any(|p| (p.0..=p.1).contains(&port)))
            })
        };
        let decide = |(i, r): (usize, &Plain)| match r.action {
            Action::Accept => Some(Cause::Accepted(RuleId(i as u32))),
            Action::Deny => Some(Cause::Denied(RuleId(i as u32))),
            Action::Pass => None,
        };
        if let Some(cause) = first(Tier::Admin).and_then(decide) {
            return cause;
        }
        match middle {
            Middle::Absent => first(Tier::Baseline).and_then(decide).unwrap_or(Cause::Open),
            Middle::Isolated(deny) => {
                first(Tier::NetworkPolicy).map_or(Cause::Denied(deny), |(i, _)| Cause::Accepted(RuleId(i as u32)))
            }
            Middle::Exempt => Cause::OwnNode,
        }
    }

    fn plain() -> impl Strategy<Value = Plain> {
        let tier = prop_oneof![Just(Tier::Admin), Just(Tier::NetworkPolicy), Just(Tier::Baseline)];
        let action = prop_oneof![Just(Action::Accept), Just(Action::Deny), Just(Action::Pass)];
        let ports = proptest::collection::vec((0u16..20, 0u16..6).prop_map(|(first, n)| (first, first + n)), 0..4);
        (tier, action, ports).prop_map(|(tier, action, ports)| Plain { tier, action, ports })
    }

    proptest! {
        #[test]
        fn agrees_with_first_match_tier_by_tier(
            rules in proptest::collection::vec(plain(), 0..8),
            middle in prop_oneof![Just(Middle::Absent), Just(Middle::Isolated(RuleId(99))), Just(Middle::Exempt)],
        ) {
            let spans = |r: &Plain| match r.ports.as_slice() {
                [] => vec![PortSpan::EVERYTHING],
                ports => ports.iter().map(|p| PortSpan::ports(protocol::TCP, p.0, p.1)).collect(),
            };
            let rulings = rules.iter().enumerate().map(|(i, r)| Ruling {
                tier: r.tier, action: r.action, rule: RuleId(i as u32), spans: spans(r).into(),
            });
            let table = PeerTable::new(&port_table(rulings, middle, Cause::Open));
            for port in 0..30 {
                let found = table.lookup(&Group::default(), protocol::TCP, Port::Number(port));
                prop_assert_eq!(found, naive(&rules, middle, port));
            }
            let no_ports: Vec<Plain> = rules.iter().filter(|r| r.ports.is_empty()).cloned().collect();
            let found = table.lookup(&Group::default(), protocol::ICMP, Port::None);
            prop_assert_eq!(
                podgate_engine::Decision { cause: found }.verdict(),
                podgate_engine::Decision { cause: naive(&no_ports, middle, 0) }.verdict()
            );
        }
    }
}

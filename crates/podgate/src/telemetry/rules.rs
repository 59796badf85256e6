//! [`RuleSeries`]: counts per rule as metrics, and their bound.
//!
//! One series per rule of the snapshot in force, with 0 for a rule that decided nothing yet. A deleted policy's series
//! are gone with the first scrape after it. A rule's number is remembered for a while, so one that is created again under
//! the same name goes on from its old count, or begins at 0 where many others went since. A number may become another
//! rule's: what it counted for the earlier one is told of neither.
//!
//! Past the limit, rules share two series (`rule="other"`, one for each action). The rules that came first
//! ([`RuleInfo::since`]) keep series of their own, so that a new policy never takes an old one's away. What the shared
//! series tell only grows: it is the sum of increments seen, not of counts, which would fall when a rule is deleted.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use podgate_engine::{Action, Generation, RuleId, RuleInfo};
use prometheus::proto::{MetricFamily, MetricType};

use super::family::{Family, Name};

/// Verdicts by rule.
const VERDICTS: Name = (
    "podgate_rule_verdicts_total",
    "Verdicts that the rule decided. Rules past the limit of series are counted together as rule=\"other\".",
);
/// Denies that no rule made.
const DEFAULT_DENY: Name = (
    "podgate_default_deny_total",
    "Denies because a policy (or the namespace's annotation) isolates the pod and no rule accepts; by the pod's namespace.",
);
/// How many rules share a series.
const OVERFLOW: Name = (
    "podgate_rule_series_overflow",
    "Rules without a series of their own, because there are more than --max-rule-series; should be 0.",
);

/// The metrics told here.
pub(crate) const NAMES: [Name; 3] = [VERDICTS, DEFAULT_DENY, OVERFLOW];

/// How many rules have series of their own unless told otherwise. A node's rules are those of policies about its own
/// pods, so this is far above what any node should have; 10,000 series are some 3 MB a scrape.
pub(crate) const DEFAULT_LIMIT: usize = 10_000;

/// The label value of what is counted together.
const OTHER: &str = "other";

/// Makes metrics of rule counts.
#[derive(Debug)]
pub(crate) struct RuleSeries {
    limit: usize,
    others: Mutex<Others>,
}

/// What rules past the limit have counted.
#[derive(Debug, Default)]
struct Others {
    /// Counts seen last, and since when the number is the rule's that had them; kept for rules that are gone, which may
    /// come back. As many as there are numbers.
    seen: HashMap<RuleId, (Generation, u64)>,
    accepted: u64,
    denied: u64,
    denied_by_default: u64,
}

impl RuleSeries {
    /// At most `limit` rules have series of their own.
    pub(crate) fn new(limit: usize) -> Self {
        Self { limit, others: Mutex::default() }
    }

    /// The families of [`NAMES`], from the rules in force, and how often each decided.
    pub(crate) fn collect<'a>(
        &self,
        rules: impl Iterator<Item = (RuleId, &'a RuleInfo)>,
        count: impl Fn(RuleId) -> u64,
    ) -> [MetricFamily; 3] {
        // `Pass` is never the cause of a verdict.
        let mut rules: Vec<_> = rules.filter(|(_, info)| info.action != Action::Pass).collect();
        rules.sort_by_key(|(id, info)| (info.since, *id));
        let (own, rest) = rules.split_at(rules.len().min(self.limit));

        let mut verdicts = Family::new(VERDICTS, MetricType::COUNTER);
        let mut default_deny = Family::new(DEFAULT_DENY, MetricType::COUNTER);
        for (id, info) in own {
            let value = count(*id) as f64;
            verdicts.push(&labels(info), value);
            if info.default_deny {
                let direction = ("direction", info.direction.as_str());
                default_deny.push(&[("namespace", &info.namespace), ("policy", &info.policy), direction], value);
            }
        }
        if !rest.is_empty() {
            let mut others = self.others.lock().unwrap_or_else(PoisonError::into_inner);
            rest.iter().for_each(|(id, info)| others.take_in(*id, info, count(*id)));
            verdicts.push(&other_labels(Action::Accept), others.accepted as f64);
            verdicts.push(&other_labels(Action::Deny), others.denied as f64);
            let other = [("namespace", OTHER), ("policy", OTHER), ("direction", OTHER)];
            default_deny.push(&other, others.denied_by_default as f64);
        }
        let mut overflow = Family::new(OVERFLOW, MetricType::GAUGE);
        overflow.push(&[], rest.len() as f64);
        [verdicts.finish(), default_deny.finish(), overflow.finish()]
    }
}

impl Others {
    fn take_in(&mut self, id: RuleId, info: &RuleInfo, count: u64) {
        let seen = self.seen.insert(id, (info.since, count));
        let seen = seen.filter(|(since, _)| *since == info.since).map_or(0, |(_, count)| count);
        let more = count.saturating_sub(seen);
        match info.action {
            Action::Accept => self.accepted += more,
            Action::Deny => self.denied += more,
            Action::Pass => {}
        }
        if info.default_deny {
            self.denied_by_default += more;
        }
    }
}

fn labels(info: &RuleInfo) -> [(&'static str, &str); 6] {
    [
        ("tier", info.tier.as_str()),
        ("namespace", &info.namespace),
        ("policy", &info.policy),
        ("direction", info.direction.as_str()),
        ("rule", &info.name),
        ("action", info.action.as_str()),
    ]
}

fn other_labels(action: Action) -> [(&'static str, &'static str); 6] {
    let other = |name| (name, OTHER);
    let [tier, namespace, policy] = ["tier", "namespace", "policy"].map(other);
    [tier, namespace, policy, other("direction"), other("rule"), ("action", action.as_str())]
}

#[cfg(test)]
mod model;

#[cfg(test)]
mod tests {
    use podgate_engine::{Direction, Tier};

    use super::*;

    fn info(policy: &str, rule: &str, action: Action) -> RuleInfo {
        RuleInfo {
            name: format!("networkpolicy/shop/{policy}/ingress/{rule}").into(),
            tier: Tier::NetworkPolicy,
            namespace: "shop".into(),
            policy: policy.into(),
            direction: Direction::Ingress,
            action,
            default_deny: rule == "default-deny",
            since: Generation(1),
        }
    }

    /// What the shared series of what is accepted says.
    fn other(text: &str) -> u64 {
        let line = text.lines().find(|l| l.contains("rule=\"other\",action=\"accept\"")).unwrap();
        line.rsplit_once(' ').unwrap().1.parse().unwrap()
    }

    fn told(series: &RuleSeries, rules: &[(u32, RuleInfo)], count: impl Fn(u32) -> u64) -> String {
        let families = series.collect(rules.iter().map(|(id, info)| (RuleId(*id), info)), |id| count(id.0));
        let families = families.into_iter().filter(|f| !f.get_metric().is_empty()).collect::<Vec<_>>();
        prometheus::TextEncoder::new().encode_to_string(&families).unwrap()
    }

    #[test]
    fn a_rule_that_decided_nothing_yet_is_there_with_0() {
        let text = told(&RuleSeries::new(10), &[(0, info("web", "0", Action::Accept))], |_| 0);
        let line = "podgate_rule_verdicts_total{tier=\"networkpolicy\",namespace=\"shop\",policy=\"web\",\
                    direction=\"ingress\",rule=\"networkpolicy/shop/web/ingress/0\",action=\"accept\"} 0\n";
        assert!(text.contains(line), "{text}");
        assert!(text.contains("podgate_rule_series_overflow 0\n"), "{text}");
    }

    #[test]
    fn a_default_deny_counts_in_both_metrics_and_a_rule_in_one() {
        let rules = [(3, info("web", "default-deny", Action::Deny)), (4, info("web", "0", Action::Accept))];
        let text = told(&RuleSeries::new(10), &rules, |id| u64::from(id) * 10);
        assert!(text.contains("rule=\"networkpolicy/shop/web/ingress/default-deny\",action=\"deny\"} 30\n"), "{text}");
        let line = "podgate_default_deny_total{namespace=\"shop\",policy=\"web\",direction=\"ingress\"} 30\n";
        assert!(text.contains(line), "{text}");
        assert_eq!(text.matches("podgate_default_deny_total{").count(), 1, "{text}");
    }

    #[test]
    fn a_rule_that_is_gone_has_no_series() {
        let series = RuleSeries::new(10);
        let rules = [(0, info("a", "0", Action::Accept)), (1, info("b", "0", Action::Accept))];
        assert!(told(&series, &rules, |_| 5).contains("policy=\"a\""));
        assert!(!told(&series, &rules[1..], |_| 5).contains("policy=\"a\""));
    }

    #[test]
    fn past_the_limit_the_newest_share_a_series_that_never_falls() {
        let series = RuleSeries::new(1);
        let rules: Vec<_> = [0, 1, 2].map(|id| (id, info(&format!("p{id}"), "0", Action::Accept))).into();
        let text = told(&series, &rules, |id| u64::from(id) + 1);
        assert!(text.contains("policy=\"p0\"") && !text.contains("policy=\"p1\""), "{text}");
        assert!(text.contains("podgate_rule_series_overflow 2\n"), "{text}");
        assert_eq!(other(&text), 2 + 3);
        // Rule 2 is deleted: what it counted stays.
        assert_eq!(other(&told(&series, &rules[..2], |_| 10)), 5 + 8);
        // It comes back with the count it had.
        assert_eq!(other(&told(&series, &rules, |id| if id == 2 { 3 } else { 10 })), 13);
    }

    #[test]
    fn another_rule_with_the_number_of_one_that_shared_the_series_adds_all_it_counted() {
        let series = RuleSeries::new(0);
        let rule = |policy, since| [(7, RuleInfo { since: Generation(since), ..info(policy, "0", Action::Accept) })];
        assert_eq!(other(&told(&series, &rule("a", 1), |_| 100)), 100);
        assert_eq!(other(&told(&series, &rule("b", 5), |_| 30)), 130);
        assert_eq!(other(&told(&series, &rule("b", 5), |_| 40)), 140);
        // The first one's name again, but from zero: what was seen of it before was of another time.
        assert_eq!(other(&told(&series, &rule("a", 9), |_| 1)), 141);
    }

    #[test]
    fn a_new_rule_takes_no_older_ones_series_away_whatever_its_number() {
        let series = RuleSeries::new(1);
        let newer = |info| RuleInfo { since: Generation(2), ..info };
        let rules = [(0, newer(info("new", "0", Action::Accept))), (1, info("old", "0", Action::Accept))];
        let text = told(&series, &rules, |_| 5);
        assert!(text.contains("policy=\"old\"") && !text.contains("policy=\"new\""), "{text}");
    }

    #[test]
    fn a_pass_rule_has_no_series() {
        let text = told(&RuleSeries::new(10), &[(0, info("a", "0", Action::Pass))], |_| 0);
        assert!(!text.contains("podgate_rule_verdicts_total"), "{text}");
    }
}

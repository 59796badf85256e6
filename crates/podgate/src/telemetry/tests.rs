//! All metrics together, as Prometheus would read them.

use std::io::Write;
use std::process::{Command, Stdio};
use std::sync::Arc;

use podgate_engine::packet::ParseError;
use podgate_engine::{
    Action, Cause, Counter, Counters, Direction, Generation, Publication, RuleId, RuleInfo, Snapshot, Tables, Tier,
};

use super::{DEFAULT_RULE_SERIES, DataPlane, State};
use crate::cache::{Cache, Limits};

/// A rule whose policy's name holds what the text format has to escape: no name of the API does, but nothing here
/// relies on that.
fn rule(policy: &str, rule: &str, action: Action) -> Arc<RuleInfo> {
    Arc::new(RuleInfo {
        name: format!("networkpolicy/shop/{policy}/ingress/{rule}").into(),
        tier: Tier::NetworkPolicy,
        namespace: "shop".into(),
        policy: policy.into(),
        direction: Direction::Ingress,
        action,
        default_deny: rule == "default-deny",
        since: Generation(1),
    })
}

fn snapshot(generation: u64, rules: &[(u32, Arc<RuleInfo>)]) -> Arc<Snapshot> {
    let mut tables = Tables::new();
    rules.iter().for_each(|(id, info)| tables.set_rule(RuleId(*id), Some(info.clone())));
    Arc::new(Snapshot::new(Generation(generation), tables))
}

/// An agent that has judged some packets with two rules.
fn agent(rule_series: usize) -> (Arc<State>, Arc<Publication>, Arc<Counters>) {
    let rules = [(0, rule("a\"b\\c", "0", Action::Accept)), (1, rule("web", "default-deny", Action::Deny))];
    let publication = Publication::new(snapshot(1, &rules), 0);
    let counters = Arc::new(Counters::new(2));
    counters.reserve(RuleId(1));
    let worker = counters.worker(1);
    worker.decided(Direction::Ingress, Cause::Accepted(RuleId(0)));
    worker.decided(Direction::Ingress, Cause::Denied(RuleId(1)));
    worker.decided(Direction::Egress, Cause::Open);
    worker.unreadable(ParseError::HeaderCut);
    worker.add(Counter::Accepted, 3);
    worker.answered_after(1_500, 3);
    worker.answered_after(u64::MAX / 4, 1);
    let state = State::new();
    state.register(DataPlane::new(
        publication.clone(),
        counters.clone(),
        Cache::new(Limits::of(0), counters.clone()),
        9840..=9841,
        10096,
        rule_series,
    ));
    state.readiness.synced();
    state.enforced(Generation(1), [std::time::Instant::now()]);
    (state, publication, counters)
}

fn text(state: &State) -> String {
    String::from_utf8(state.metrics().unwrap()).unwrap()
}

#[test]
fn promtool_finds_nothing_to_complain_about() {
    for rule_series in [DEFAULT_RULE_SERIES, 1] {
        let text = text(&agent(rule_series).0);
        let promtool = Command::new("promtool")
            .args(["check", "metrics"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn();
        let mut promtool = promtool.unwrap_or_else(|error| {
            panic!("promtool cannot be run ({error}): it is in Debian's package prometheus; `make setup-test` gets it")
        });
        promtool.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
        let outcome = promtool.wait_with_output().unwrap();
        let said = [outcome.stdout, outcome.stderr].map(|b| String::from_utf8(b).unwrap()).concat();
        assert!(outcome.status.success() && said.is_empty(), "{said}\n{text}");
    }
}

#[test]
fn what_workers_counted_is_told_by_name() {
    let (state, ..) = agent(DEFAULT_RULE_SERIES);
    let text = text(&state);
    for line in [
        "podgate_packets_total{verdict=\"accept\"} 3",
        "podgate_unmatched_verdicts_total{direction=\"egress\",reason=\"open\"} 1",
        "podgate_unmatched_verdicts_total{direction=\"ingress\",reason=\"own_node\"} 0",
        "podgate_parse_errors_total{reason=\"header_cut\"} 1",
        "podgate_default_deny_total{namespace=\"shop\",policy=\"web\",direction=\"ingress\"} 1",
        "podgate_verdict_duration_seconds_bucket{le=\"0.000001\"} 0",
        "podgate_verdict_duration_seconds_bucket{le=\"0.000002\"} 3",
        "podgate_verdict_duration_seconds_bucket{le=\"+Inf\"} 4",
        "podgate_verdict_duration_seconds_count 4",
        "podgate_generation 1",
        "podgate_ready 1",
    ] {
        assert!(text.lines().any(|l| l == line), "{line} is not in\n{text}");
    }
}

#[test]
fn series_follow_the_snapshot_in_force_and_counts_outlive_their_rule() {
    let (state, publication, counters) = agent(DEFAULT_RULE_SERIES);
    let series = "podgate_rule_verdicts_total{tier=\"networkpolicy\",namespace=\"shop\",policy=\"web\"";
    assert!(text(&state).contains(series));
    publication.publish(snapshot(2, &[]));
    assert!(!text(&state).contains("podgate_rule_verdicts_total"));
    counters.worker(0).decided(Direction::Ingress, Cause::Denied(RuleId(1)));
    publication.publish(snapshot(3, &[(1, rule("web", "default-deny", Action::Deny))]));
    let text = text(&state);
    let line = text.lines().find(|l| l.starts_with(series)).unwrap();
    assert!(line.ends_with(" 2"), "{line}");
}

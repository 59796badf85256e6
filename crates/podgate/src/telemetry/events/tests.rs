//! What stands in the log after some denies.

use std::collections::VecDeque;
use std::io::Write;
use std::sync::{Mutex, PoisonError};

use podgate_engine::{Action, RuleInfo, Snapshot, Tables, Tier};
use tracing::subscriber::with_default;

use super::*;

/// A log in memory.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Runs the loop over these events until all are told and the stop is noticed; what the log says then.
fn told(limit: Limit, denies: impl IntoIterator<Item = Deny>) -> (String, Arc<State>) {
    told_with(Snapshot::empty(), limit, denies)
}

/// Likewise where this snapshot is in force.
fn told_with(snapshot: Snapshot, limit: Limit, denies: impl IntoIterator<Item = Deny>) -> (String, Arc<State>) {
    let log = Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt().with_ansi(false).with_writer(move || writer.clone()).finish();
    let state = State::new();
    let teller = Teller {
        bucket: Bucket::new(limit, Instant::now()),
        publication: Publication::new(Arc::new(snapshot), 0),
        state: state.clone(),
        name: |address: IpAddr| (address == IpAddr::from([10, 0, 0, 1])).then(|| "shop/web".to_owned()),
        suppressed: 0,
    };
    let mut denies: VecDeque<Deny> = denies.into_iter().collect();
    let (stop, stopped) = channel();
    drop(stop);
    with_default(subscriber, || run(&stopped, move || denies.pop_front(), teller));
    let text = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
    (text, state)
}

fn deny(protocol: u8, port: Port) -> Deny {
    Deny {
        source: Addr::from_v4([10, 0, 0, 1]),
        destination: Addr::from_v4([203, 0, 113, 9]),
        protocol,
        port,
        direction: Direction::Egress,
        rule: None,
        generation: Generation(1),
    }
}

#[test]
fn a_deny_is_one_line_with_names_where_pods_have_them() {
    let (log, _) = told(Limit::default(), [deny(protocol::TCP, Port::Number(443))]);
    assert_eq!(log.lines().count(), 1, "{log}");
    let expected = "podgate::deny: deny from=shop/web to=203.0.113.9 source=10.0.0.1 destination=203.0.113.9 \
                    protocol=TCP port=443 direction=\"egress\" rule=(no pod is known to have the address)";
    assert!(log.contains(expected), "{log}");
}

#[test]
fn a_protocol_without_ports_has_none_in_its_line() {
    let (log, _) = told(Limit::default(), [deny(protocol::ICMP, Port::None)]);
    assert!(log.contains("protocol=ICMP direction"), "{log}");
}

#[test]
fn a_rule_that_is_gone_is_said_to_be() {
    let gone = Deny { rule: Some(RuleId(7)), ..deny(protocol::UDP, Port::Unknown) };
    assert!(told(Limit::default(), [gone]).0.contains("rule=(a rule that is gone by now)"));
}

#[test]
fn a_number_that_was_another_rules_then_names_nobody() {
    let info = RuleInfo {
        name: "networkpolicy/shop/web/ingress/default-deny".into(),
        tier: Tier::NetworkPolicy,
        namespace: "shop".into(),
        policy: "web".into(),
        direction: Direction::Ingress,
        action: Action::Deny,
        default_deny: true,
        since: Generation(5),
    };
    let mut tables = Tables::new();
    tables.set_rule(RuleId(7), Some(Arc::new(info)));
    let by = |generation| Deny { rule: Some(RuleId(7)), generation, ..deny(protocol::UDP, Port::Unknown) };
    let snapshot = Snapshot::new(Generation(6), tables);
    let (log, _) = told_with(snapshot, Limit::default(), [4, 5, 6].map(|generation| by(Generation(generation))));
    let rules: Vec<_> = log.lines().map(|line| line.rsplit_once("rule=").unwrap().1).collect();
    let name = "networkpolicy/shop/web/ingress/default-deny";
    assert_eq!(rules, ["(a rule that is gone by now)", name, name]);
}

#[test]
fn past_the_limit_events_are_counted_and_summed_up_instead() {
    let limit = Limit { rate: 0.0, burst: 3.0 };
    let (log, state) = told(limit, vec![deny(protocol::TCP, Port::Number(1)); 10]);
    assert_eq!(log.matches(" deny from=").count(), 3, "{log}");
    assert!(log.lines().last().unwrap().contains("suppressed=7"), "{log}");
    assert_eq!(state.deny_events_suppressed.get(), 7);
}

#[test]
fn dropping_the_handle_tells_what_is_left_and_ends_the_thread() {
    let left = Arc::new(Mutex::new(vec![deny(protocol::TCP, Port::Number(1)); 5]));
    let ring = left.clone();
    let publication = Publication::new(Arc::new(Snapshot::empty()), 0);
    let next = move || ring.lock().unwrap().pop();
    let events = start(Limit { rate: 0.0, burst: 0.0 }, publication, State::new(), next, |_| None).unwrap();
    drop(events);
    assert!(left.lock().unwrap().is_empty());
}

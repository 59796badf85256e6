//! Numbers of rules that become other rules': what workers still count by an older snapshot stays the earlier rule's.

use std::sync::Arc;

use podgate_api::{Change, Kind, Object};
use podgate_engine::{Counters, Direction, NodeOrigin, Publication, RuleId, Snapshot};
use podgate_policy::reference::Flow;
use podgate_policy::{Build, Index};

use crate::cluster::cluster_with;
use crate::common::{address, key, policy, rule};

/// An agent that remembers no rule, with one worker.
struct Agent {
    index: Index,
    publication: Arc<Publication>,
    counters: Counters,
}

impl Agent {
    fn new() -> Self {
        let mut index = cluster_with(Vec::new()).index;
        index.remember_rules(0);
        let publication = Publication::new(index.build().snapshot, 1);
        Agent { index, publication, counters: Counters::new(1) }
    }

    /// Publishes a world with this policy instead of that one.
    fn replace(&mut self, before: &str, now: &str) -> Build {
        self.index.apply(Change::Delete(key(Kind::NetworkPolicy, before)));
        let [policy]: [Object; 1] = objects![policy(now).select("app=db").ingress(rule())].try_into().unwrap();
        self.index.apply(Change::Apply(policy));
        let build = self.index.build();
        self.counters.reserve(build.snapshot.rules().map(|(id, _)| id).max().unwrap());
        self.counters.begin_anew(&build.reused);
        self.publication.publish(Arc::clone(&build.snapshot));
        build
    }

    /// What the rules of the snapshot in force show, by policy.
    fn shown(&self) -> Vec<(String, u64)> {
        let snapshot = self.publication.current();
        let rules = snapshot.rules().filter(|(_, info)| !info.default_deny);
        rules.map(|(id, info)| (info.policy.to_string(), self.counters.rule(id))).collect()
    }

    fn count(&self, snapshot: &Snapshot) -> RuleId {
        let [source, destination] = [address("203.0.113.9"), address("10.1.0.11")];
        let flow = Flow { source, destination, protocol: 6, port: Some(80) };
        let decision = snapshot.judge(&flow.to_engine(), NodeOrigin::Address).ingress;
        self.counters.worker(0).decided(Direction::Ingress, decision.cause);
        decision.rule().unwrap()
    }
}

fn one(policy: &str, count: u64) -> Vec<(String, u64)> {
    vec![(policy.to_owned(), count)]
}

#[test]
fn a_worker_in_the_midst_of_a_batch_counts_for_the_rule_that_decided_whatever_was_published_since() {
    let mut agent = Agent::new();
    drop(agent.replace("shop/none", "shop/a"));
    let mut reader = agent.publication.reader(0);
    let number = reader.batch(|snapshot| {
        let number = agent.count(snapshot);
        for (before, now) in [("shop/a", "shop/b"), ("shop/b", "shop/c"), ("shop/c", "shop/d")] {
            let build = agent.replace(before, now);
            assert!(!build.reused.contains(&number), "a worker still counts by it");
            assert_eq!(agent.count(snapshot), number);
            assert_eq!(agent.shown(), one(now.trim_start_matches("shop/"), 0));
        }
        number
    });
    agent.publication.wait_until_used(agent.publication.current().generation());
    let build = agent.replace("shop/d", "shop/e");
    assert!(build.reused.contains(&number), "nobody has a snapshot with it any more: {:?}", build.reused);
    assert_eq!(agent.shown(), one("e", 0));
    assert_eq!(agent.count(&build.snapshot), number);
    assert_eq!(agent.shown(), one("e", 1));
}

#[test]
fn a_scrape_that_takes_its_time_reads_the_counts_of_the_rules_it_names() {
    let mut agent = Agent::new();
    let build = agent.replace("shop/none", "shop/a");
    let number = agent.count(&build.snapshot);
    drop(build);
    let scraped = agent.publication.current();
    for (before, now) in [("shop/a", "shop/b"), ("shop/b", "shop/c")] {
        let build = agent.replace(before, now);
        for _ in 0..5 {
            agent.count(&build.snapshot);
        }
        assert_eq!(scraped.rule(number).map(|info| &*info.policy), Some("a"));
        assert_eq!(agent.counters.rule(number), 1);
    }
    drop(scraped);
    assert!(agent.replace("shop/c", "shop/d").reused.contains(&number));
    assert_eq!(agent.shown(), one("d", 0));
}

#[test]
fn a_rule_that_comes_back_goes_on_from_its_count() {
    let mut agent = Agent::new();
    agent.index.remember_rules(4);
    let build = agent.replace("shop/none", "shop/a");
    agent.count(&build.snapshot);
    drop(build);
    agent.replace("shop/a", "shop/b");
    agent.replace("shop/b", "shop/a");
    assert_eq!(agent.shown(), one("a", 1));
    // Past the bound it is forgotten, and begins at zero.
    for (before, now) in [("shop/a", "shop/b"), ("shop/b", "shop/c"), ("shop/c", "shop/d"), ("shop/d", "shop/a")] {
        agent.replace(before, now);
    }
    assert_eq!(agent.shown(), one("a", 0));
}

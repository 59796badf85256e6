//! Objects as large as somebody who may create them can make them: what they mean stays right, they cost what they are and
//! not more, and another object's change does not pay for them. The times are printed (`-- --nocapture`); asserted is only
//! how they compare within one run.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, unreachable_pub)] // a test may; and nothing reaches into a test binary

#[macro_use]
#[path = "../common/mod.rs"]
mod common;

use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, Instant};

use ipnet::IpNet;
use podgate_api::{Change, Kind, Object, Protocol};
use podgate_engine::{Counters, NodeOrigin, Publication, Snapshot, Verdict};
use podgate_policy::reference::Flow;
use podgate_policy::{Index, Locality};

use common::{PolicyBuilder, RuleBuilder, namespace, node, pod, policy, rule};

const MANY: usize = 100_000;

/// A node with the pods `shop/web`, `shop/db` and `other/pod`, all of them isolated later, in an index.
fn small_world() -> Index {
    let mut index = Index::new(Locality::Node("n1".to_owned()));
    let objects = objects![
        node("n1").at("10.9.0.1").pods_in("10.1.0.0/24"),
        namespace("shop"),
        namespace("other"),
        pod("shop/web").label("app", "web").at("10.1.0.1").on("n1"),
        pod("shop/db").label("app", "db").at("10.1.0.2").on("n1"),
        pod("other/pod").label("app", "x").at("10.1.0.3").on("n1"),
    ];
    objects.into_iter().for_each(|object| index.apply(Change::Apply(object)));
    index.build();
    index
}

fn apply(index: &mut Index, built: impl Into<common::Built>) -> (std::sync::Arc<Snapshot>, Duration) {
    let object = Object::from(built.into());
    let begun = Instant::now();
    index.apply(Change::Apply(object));
    let snapshot = index.build().snapshot;
    (snapshot, begun.elapsed())
}

/// Whether a new TCP connection from there reaches `shop/db`.
fn reaches(snapshot: &Snapshot, source: IpAddr, port: u16) -> bool {
    passes(snapshot, source, Ipv4Addr::new(10, 1, 0, 2), port)
}

fn passes(snapshot: &Snapshot, source: IpAddr, destination: Ipv4Addr, port: u16) -> bool {
    let destination = destination.into();
    let flow = Flow { source, destination, protocol: 6, port: Some(port) };
    snapshot.judge(&flow.to_engine(), NodeOrigin::Address).ingress.verdict() == Verdict::Accept
}

/// What the process holds now.
fn resident_mib() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    (statm.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * 4096) >> 20
}

/// The large policy is compiled, changed and deleted; changes of another policy come between.
fn measured(what: &str, large: PolicyBuilder, edited: PolicyBuilder, check: impl Fn(&Snapshot)) {
    let mut index = small_world();
    let before = resident_mib();
    let (snapshot, first) = apply(&mut index, large);
    check(&snapshot);
    let memory = resident_mib().saturating_sub(before);
    let others = (80..89u16).map(|port| {
        let (snapshot, took) = apply(&mut index, policy("other/small").ingress(rule().port(Protocol::Tcp, port)));
        let reached = [port, port + 1]
            .map(|port| passes(&snapshot, Ipv4Addr::new(203, 0, 113, 9).into(), Ipv4Addr::new(10, 1, 0, 3), port));
        assert_eq!(reached, [true, false], "what the other policy says now");
        took
    });
    let mut others: Vec<_> = others.collect();
    others.sort();
    let (snapshot, again) = apply(&mut index, edited);
    check(&snapshot);
    println!("{what}: first {first:?}, {memory} MiB more; changed {again:?}; another policy's change {:?}", others[4]);
    assert!(memory < 1024, "{what}: {memory} MiB more");
    // Whoever changes another policy does not wait for this one to be compiled again.
    assert!(others[4] * 5 < first, "{what}: another policy's change took {:?}, this one {first:?}", others[4]);
}

fn with_rules(rules: impl IntoIterator<Item = RuleBuilder>) -> PolicyBuilder {
    rules.into_iter().fold(policy("shop/large").select("app=db"), PolicyBuilder::ingress)
}

fn address(number: usize) -> Ipv4Addr {
    Ipv4Addr::from_bits(0x2000_0000 + 2 * number as u32)
}

fn one_address(number: usize) -> IpNet {
    IpNet::from(IpAddr::from(address(number)))
}

/// One rule for each address: 32.0.0.0, 32.0.0.2, … each at a port of its own among 1000.
fn a_rule_for_each(count: usize) -> PolicyBuilder {
    with_rules(
        (0..count)
            .map(|i| rule().block(&one_address(i).to_string(), &[]).port(Protocol::Tcp, 1000 + (i % 1000) as u16)),
    )
}

#[test]
fn a_policy_of_100_000_rules_is_compiled_and_stays_right() {
    measured("100,000 rules", a_rule_for_each(MANY), a_rule_for_each(MANY - 1), |snapshot| {
        for number in [0, 1, 999, 5_000, 50_001, MANY - 2] {
            let (own, port) = (address(number).into(), 1000 + (number % 1000) as u16);
            assert!(reaches(snapshot, own, port), "{own}");
            assert!(!reaches(snapshot, own, port + 1), "{own} at another's port");
        }
        assert!(!reaches(snapshot, Ipv4Addr::from_bits(0x2000_0001).into(), 1000), "an address of no rule");
    });
}

fn a_rule_of_blocks(count: usize) -> PolicyBuilder {
    let mut rule = rule().port(Protocol::Tcp, 80);
    for i in 0..count {
        rule = rule.block(&one_address(i).to_string(), &[]);
    }
    with_rules([rule])
}

#[test]
fn a_policy_of_100_000_blocks_is_compiled_and_stays_right() {
    measured("100,000 blocks in one rule", a_rule_of_blocks(MANY), a_rule_of_blocks(MANY - 1), |snapshot| {
        for number in [0, 1, 999, 50_001, MANY - 2] {
            let own = address(number).into();
            assert!(reaches(snapshot, own, 80) && !reaches(snapshot, own, 81), "{own}");
        }
        assert!(!reaches(snapshot, Ipv4Addr::from_bits(0x2000_0001).into(), 80), "an address of no block");
    });
}

#[test]
fn a_block_of_100_000_exceptions_is_compiled_and_stays_right() {
    let with = |count: usize| {
        let except: Vec<String> = (0..count).map(|i| one_address(i).to_string()).collect();
        let except: Vec<&str> = except.iter().map(String::as_str).collect();
        with_rules([rule().block("32.0.0.0/8", &except)])
    };
    measured("a block of 100,000 exceptions", with(MANY), with(MANY - 1), |snapshot| {
        for number in [0, 1, 50_001, MANY - 2] {
            let (out, within) = (address(number), Ipv4Addr::from_bits(address(number).to_bits() + 1));
            assert!(!reaches(snapshot, out.into(), 80), "{out} is an exception");
            assert!(reaches(snapshot, within.into(), 80), "{within} is none");
        }
    });
}

/// Blocks that lie in each other are as many classes as there are depths, not as there are pairs.
#[test]
fn blocks_that_lie_in_each_other_do_not_multiply() {
    let nested = |count: usize| {
        with_rules((0..count).map(|i| {
            let length = 8 + (i % 25) as u8;
            let base = Ipv4Addr::from_bits(0x2000_0000 | ((i / 25) as u32) << 8);
            let block = IpNet::new(base.into(), length).unwrap().trunc().to_string();
            rule().block(&block, &[]).port(Protocol::Tcp, 1000 + (i % 25) as u16)
        }))
    };
    measured("20,000 nested blocks", nested(20_000), nested(19_999), |snapshot| {
        let deepest = Ipv4Addr::from_bits(0x2000_0000).into();
        assert!((0..25).all(|i| reaches(snapshot, deepest, 1000 + i)));
        assert!(!reaches(snapshot, deepest, 1025));
    });
}

#[test]
fn a_pod_of_100_000_labels_is_selected_by_any_of_them() {
    let mut index = small_world();
    apply(&mut index, policy("shop/large").select("k99999=v").ingress(rule().block("32.0.0.1/32", &[])));
    let labelled = |count: usize| {
        let mut pod = pod("shop/db").at("10.1.0.2").on("n1");
        pod.0.labels = (0..count).map(|i| (format!("k{i}"), "v".to_owned())).collect();
        pod
    };
    let outside = Ipv4Addr::new(32, 0, 0, 9).into();
    let (snapshot, first) = apply(&mut index, labelled(MANY));
    assert!(!reaches(&snapshot, outside, 80), "the policy selects it");
    let (_, other) = apply(&mut index, policy("other/small").ingress(rule()));
    let (snapshot, again) = apply(&mut index, labelled(MANY - 1));
    assert!(reaches(&snapshot, outside, 80), "nothing selects it any more");
    println!("a pod of 100,000 labels: first {first:?}, changed {again:?}; another policy's change {other:?}");
}

/// Whoever may create policies may create and delete ever new ones: what was there costs nothing, but what is remembered of it.
#[test]
fn ever_newly_named_policies_of_20_000_rules_cost_what_a_few_of_them_cost() {
    const RULES: usize = 20_000;
    let rounds = std::env::var("PODGATE_ROUNDS").map_or(12, |rounds| rounds.parse().unwrap());
    let mut index = small_world();
    // As with 16 queues.
    let counters = Counters::new(17);
    let publication = Publication::new(index.build().snapshot, 0);
    let publish = |index: &mut Index| {
        let build = index.build();
        let last = build.snapshot.rules().map(|(id, _)| id).max();
        last.into_iter().for_each(|last| counters.reserve(last));
        counters.begin_anew(&build.reused);
        publication.publish(build.snapshot);
        last.map_or(0, |last| last.0 as usize)
    };
    let (mut highest, mut memory) = (Vec::new(), Vec::new());
    for round in 0..rounds {
        let rules = (0..RULES).map(|i| rule().block("32.0.0.0/8", &[]).port(Protocol::Tcp, 1 + i as u16));
        let name = format!("shop/round-{round}");
        let policy = rules.fold(policy(&name).select("app=db"), PolicyBuilder::ingress);
        index.apply(Change::Apply(Object::from(common::Built::from(policy))));
        highest.push(publish(&mut index));
        index.apply(Change::Delete(common::key(Kind::NetworkPolicy, &name)));
        publish(&mut index);
        memory.push(resident_mib());
    }
    let figures = (memory.first(), memory.get(rounds / 2), memory.last());
    println!("{rounds} policies of {RULES} rules: highest number {:?}, MiB {figures:?}", highest.iter().max());
    // Those of two policies (one may be in a snapshot that is in use), and those that are remembered.
    assert!(highest.iter().all(|highest| *highest < 2 * (RULES + 1) + (1 << 15)), "{highest:?}");
    let (first, second) = highest.split_at(rounds / 2);
    assert!(second.iter().max() <= first.iter().max(), "they go on growing: {highest:?}");
}

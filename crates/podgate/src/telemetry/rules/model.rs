//! Workers, the control loop and scrapes at once, in every order that a scheduler finds: a number that becomes another
//! rule's shows and takes no count of the earlier one, whoever still has an older snapshot.

use std::collections::HashMap;

use podgate_api::{Change, Kind, ObjectKey};
use podgate_engine::{Addr, Counters, Direction, Flow, NodeOrigin, Port, RuleId, Snapshot, protocol::TCP};
use podgate_policy::{Index, Locality};
use shuttle::sync::{Arc, Mutex};
use shuttle::thread;

use crate::cache::{Cache, Limits};

/// How often the policy is replaced by one of another name, whose rule gets a number that was another's.
const POLICIES: usize = 5;
const WORKERS: usize = 2;

/// The order of things that is to be tried.
#[derive(Clone, Copy, PartialEq)]
enum Order {
    /// As the agent does it.
    Ours,
    /// A worker counts when it has let its snapshot go.
    CountedLate,
    /// A scrape reads counts when it has let its snapshot go.
    ReadLate,
    /// Numbers begin anew when the snapshot in which they are others' is published.
    BegunLate,
}

/// What the agent's parts share.
struct World {
    /// The snapshot that everybody loads.
    current: Mutex<std::sync::Arc<Snapshot>>,
    counters: std::sync::Arc<Counters>,
    /// What rules decided, by name.
    decided: Mutex<HashMap<String, u64>>,
}

fn apply(index: &mut Index, text: &str) {
    let parsed = podgate_api::manifest::parse("model", text);
    assert!(parsed.errors.is_empty(), "{:?}", parsed.errors);
    parsed.objects.into_iter().for_each(|located| index.apply(Change::Apply(located.object)));
}

/// An isolated pod, and a policy by which everybody may come to it.
fn replace_policy(index: &mut Index, number: usize) {
    let key = |number| ObjectKey { kind: Kind::NetworkPolicy, namespace: "shop".into(), name: format!("p{number}") };
    if let Some(before) = number.checked_sub(1) {
        index.apply(Change::Delete(key(before)));
    }
    let policy = format!(
        "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {{name: p{number}, namespace: shop}}\n\
         spec: {{podSelector: {{}}, ingress: [{{ports: [{{port: 80}}]}}]}}\n"
    );
    apply(index, &policy);
}

fn work(world: &World, number: usize, order: Order) {
    let [source, destination] = [[203, 0, 113, 9], [10, 1, 0, 2]].map(Addr::from_v4);
    let flow = Flow { source, destination, protocol: TCP, port: Port::Number(80) };
    for _ in 0..3 {
        let snapshot = world.current.lock().unwrap().clone();
        let decision = snapshot.judge(&flow, NodeOrigin::Forged).ingress;
        if let Some(info) = decision.rule().and_then(|rule| snapshot.rule(rule)) {
            *world.decided.lock().unwrap().entry(info.name.to_string()).or_default() += 1;
        }
        let held = (order != Order::CountedLate).then_some(snapshot);
        thread::yield_now();
        world.counters.worker(number).decided(Direction::Ingress, decision.cause);
        drop(held);
    }
}

fn scrape(world: &World, order: Order) {
    for _ in 0..2 {
        let snapshot = world.current.lock().unwrap().clone();
        let rules: Vec<(RuleId, String)> = snapshot.rules().map(|(id, info)| (id, info.name.to_string())).collect();
        let held = (order != Order::ReadLate).then_some(snapshot);
        for (id, name) in rules {
            // As long as it takes.
            (0..4).for_each(|_| thread::yield_now());
            let shown = world.counters.rule(id);
            let decided = world.decided.lock().unwrap().get(&name).copied().unwrap_or(0);
            assert!(shown <= decided, "another's count: {name} decided {decided}, {shown} are shown");
        }
        drop(held);
    }
}

fn run(order: Order) {
    let counters = std::sync::Arc::new(Counters::new(WORKERS));
    let cache = Cache::new(Limits::of(8), std::sync::Arc::clone(&counters));
    let mut index = Index::new(Locality::All);
    index.remember_rules(0);
    let pod =
        "apiVersion: v1\nkind: Pod\nmetadata: {name: a, namespace: shop}\nstatus: {phase: Running, podIP: 10.1.0.2}\n";
    apply(&mut index, pod);
    let current = Mutex::new(index.build().snapshot);
    let world = Arc::new(World { current, counters, decided: Mutex::default() });
    let workers = (0..WORKERS).map(|number| {
        let world = Arc::clone(&world);
        thread::spawn(move || work(&world, number, order))
    });
    let mut threads: Vec<_> = workers.collect();
    let scraped = Arc::clone(&world);
    threads.push(thread::spawn(move || scrape(&scraped, order)));
    for number in 0..POLICIES {
        replace_policy(&mut index, number);
        let build = index.build();
        build.snapshot.rules().map(|(id, _)| id).max().into_iter().for_each(|last| world.counters.reserve(last));
        if order != Order::BegunLate {
            cache.begin_anew(&build.reused);
        }
        *world.current.lock().unwrap() = build.snapshot;
        if order == Order::BegunLate {
            // Everybody else has time to do something by it.
            (0..8).for_each(|_| thread::yield_now());
            cache.begin_anew(&build.reused);
        }
    }
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    let snapshot = world.current.lock().unwrap().clone();
    let decided = world.decided.lock().unwrap();
    for (id, info) in snapshot.rules() {
        let (shown, decided) = (world.counters.rule(id), decided.get(&*info.name).copied().unwrap_or(0));
        assert_eq!(shown, decided, "another's count, or not all, of {}", info.name);
    }
}

#[test]
fn a_number_that_is_another_rules_shows_and_takes_nothing_of_the_earlier_one() {
    shuttle::check_random(|| run(Order::Ours), 1000);
    shuttle::check_pct(|| run(Order::Ours), 500, 3);
}

#[test]
#[should_panic(expected = "another's count")]
fn the_model_finds_a_worker_that_counts_without_its_snapshot() {
    shuttle::check_random(|| run(Order::CountedLate), 5000);
}

#[test]
#[should_panic(expected = "another's count")]
fn the_model_finds_a_scrape_that_reads_without_its_snapshot() {
    shuttle::check_random(|| run(Order::ReadLate), 5000);
}

#[test]
#[should_panic(expected = "another's count")]
fn the_model_finds_numbers_that_begin_anew_too_late() {
    shuttle::check_random(|| run(Order::BegunLate), 5000);
}

//! The books of the cache, without a kernel; and a model of everything that happens at once around it.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use podgate_engine::counters::Settled;
use podgate_engine::{
    Action, Addr, Cause, Counters, DirectionTable, Endpoint, EndpointKind, Flow, Generation, Group, Port, PortSpan,
    RankedRule, RuleId, RuleTable, Snapshot, Subject, Tables, Then, Verdict, protocol::TCP,
};
use podgate_netfilter::{CacheEntry, CacheHits, Cached};

use super::{Cache, Ledger, Limits, Offer, Offers, Stale};

const DENY: RuleId = RuleId(1);
const ALLOW: RuleId = RuleId(2);

fn address(text: &str) -> Addr {
    text.parse::<IpAddr>().unwrap().into()
}

fn flow(source: &str, port: u16) -> Flow {
    Flow { source: address(source), destination: address("10.0.0.1"), protocol: TCP, port: Port::Number(port) }
}

fn offer(source: &str, port: u16) -> Offer {
    Offer { flow: flow(source, port), whoever: false }
}

/// 10.0.0.1 is isolated; with `allowed` everybody may come to port 80. 10.0.0.0/24 are the pods.
fn snapshot(generation: u64, allowed: bool) -> Snapshot {
    let mut tables = Tables::new();
    let ports = [PortSpan::ports(TCP, 80, 80)];
    let rule = RankedRule { action: Action::Accept, id: ALLOW, ports: &ports, everybody: true, addresses: false };
    let rules = RuleTable::new(if allowed { std::slice::from_ref(&rule) } else { &[] }, false, 0);
    let ingress = Arc::new(DirectionTable { admin: None, then: Then::Isolated(rules, DENY) });
    tables.set_subject(1, Some(Subject { ingress: Some(ingress), egress: None }));
    tables.set_group(1, Some(Group { subject: 1, ..Group::default() }));
    let pod = Endpoint { group: 1, block: 0, node: 1, kind: EndpointKind::LocalPod, exceptional: false };
    tables.set_endpoint(address("10.0.0.1"), Some(pod));
    tables.set_endpoint(address("10.0.0.2"), Some(Endpoint { group: 0, ..pod }));
    tables.set_pod_ranges(&["10.0.0.0/24".parse().unwrap()]);
    Snapshot::new(Generation(generation), tables)
}

fn ledger(entries: usize, per_address: usize) -> Ledger {
    let mut ledger = Ledger::new(Limits { entries, per_address, unknown: entries });
    ledger.keep_drops();
    ledger.keep_closed(true);
    ledger
}

fn these(stale: Stale) -> Vec<CacheEntry> {
    match stale {
        Stale::These(entries) => entries,
        Stale::All => panic!("everything is forgotten"),
    }
}

#[test]
fn what_is_offered_is_judged_by_the_snapshot_in_force_whoever_offers_it() {
    let mut books = ledger(10, 10);
    let now = Instant::now();
    let (new, _) = books.admit(&[offer("10.0.0.2", 80)], &snapshot(1, true), now);
    assert_eq!(new.iter().map(|e| e.verdict).collect::<Vec<_>>(), [Cached::Accept]);
    // The worker that offers this had the snapshot in which it was allowed.
    let (new, _) = ledger(10, 10).admit(&[offer("10.0.0.2", 80)], &snapshot(2, false), now);
    assert_eq!(new.iter().map(|e| e.verdict).collect::<Vec<_>>(), [Cached::Drop]);
    assert_eq!(books.admit(&[offer("10.0.0.2", 80)], &snapshot(1, true), now), (vec![], 0), "it is there already");
}

#[test]
fn what_is_about_an_unknown_address_is_not_kept() {
    let unknown = [offer("10.0.0.77", 80), offer("10.0.0.77", 81)];
    assert_eq!(ledger(10, 10).admit(&unknown, &snapshot(1, true), Instant::now()), (vec![], 0));
}

#[test]
fn a_port_that_is_closed_to_everybody_needs_no_source_and_one_that_is_not_does() {
    let (now, spoofed) = (Instant::now(), |port| Offer { flow: flow("203.0.113.9", port), whoever: true });
    let (new, _) = ledger(10, 10).admit(&[spoofed(81)], &snapshot(1, true), now);
    assert_eq!(new.iter().map(|e| (e.verdict, e.source)).collect::<Vec<_>>(), [(Cached::Closed, IpAddr::from([0; 4]))]);
    // Somebody may come in there, so that the source matters: nothing is gained by an entry for a forged one.
    assert_eq!(ledger(10, 10).admit(&[spoofed(80)], &snapshot(1, true), now), (vec![], 0));
    // Within the pod ranges each source has its own.
    let (new, _) = ledger(10, 10).admit(&[offer("10.0.0.2", 81)], &snapshot(1, true), now);
    assert_eq!(new.iter().map(|e| e.verdict).collect::<Vec<_>>(), [Cached::Drop]);
    // Nor where the kernel cannot tell who may be a pod: then each source has its own.
    let mut books = ledger(10, 10);
    books.keep_closed(false);
    assert_eq!(books.admit(&[spoofed(81)], &snapshot(1, true), now), (vec![], 0));
    let (new, _) = books.admit(&[offer("203.0.113.9", 81)], &snapshot(1, true), now);
    assert_eq!(new.iter().map(|e| e.verdict).collect::<Vec<_>>(), [Cached::Drop]);
}

#[test]
fn one_source_has_a_share_and_all_have_a_bound() {
    let mut books = ledger(6, 4);
    let scan: Vec<_> = (0..20).map(|port| offer("10.0.0.2", 1000 + port)).collect();
    let (new, refused) = books.admit(&scan, &snapshot(1, true), Instant::now());
    assert_eq!((new.len(), refused), (4, 16));
    let others: Vec<_> = (0..20).map(|i| offer(&format!("198.51.100.{i}"), 80)).collect();
    let (new, refused) = books.admit(&others, &snapshot(1, true), Instant::now());
    assert_eq!((new.len(), refused), (2, 18));
    assert_eq!(books.sizes(), (2, 4));
}

#[test]
fn addresses_that_nobody_has_leave_room_for_those_that_somebody_has() {
    let mut books = Ledger::new(Limits { entries: 8, per_address: 8, unknown: 4 });
    let forged: Vec<_> = (0..20).map(|i| offer(&format!("198.51.100.{i}"), 80)).collect();
    let (new, refused) = books.admit(&forged, &snapshot(1, true), Instant::now());
    assert_eq!((new.len(), refused), (4, 16));
    assert_eq!(books.admit(&[offer("10.0.0.2", 80)], &snapshot(1, true), Instant::now()).0.len(), 1);
    new.iter().for_each(|entry| books.remove(entry));
    assert_eq!(books.admit(&forged, &snapshot(1, true), Instant::now()).0.len(), 4, "there is room again");
}

#[test]
fn closed_ports_of_one_pod_leave_room_for_those_of_others() {
    let mut books = ledger(100, 4);
    let scan: Vec<_> = (0..20).map(|port| Offer { flow: flow("203.0.113.9", 1000 + port), whoever: true }).collect();
    assert_eq!(books.admit(&scan, &snapshot(1, true), Instant::now()).0.len(), 4);
    assert_eq!(books.admit(&[offer("203.0.113.9", 80)], &snapshot(1, true), Instant::now()).0.len(), 1);
    // And for whatever comes from an address that somebody has: anybody can try all ports.
    let mut books = Ledger::new(Limits { entries: 8, per_address: 8, unknown: 4 });
    books.keep_drops();
    books.keep_closed(true);
    assert_eq!(books.admit(&scan, &snapshot(1, true), Instant::now()).0.len(), 4);
    assert_eq!(books.admit(&[offer("10.0.0.2", 80)], &snapshot(1, true), Instant::now()).0.len(), 1);
}

#[test]
fn what_was_accepted_when_it_was_offered_is_not_kept_as_a_denial_where_none_may_be() {
    let mut books = Ledger::new(Limits::of(64));
    let offers = [offer("10.0.0.2", 80), offer("203.0.113.9", 80)];
    assert_eq!(books.admit(&offers, &snapshot(2, false), Instant::now()), (vec![], 0));
    books.keep_drops();
    assert_eq!(books.admit(&offers, &snapshot(2, false), Instant::now()).0.len(), 2);
}

#[test]
fn many_entries_are_forgotten_with_all_others_as_that_is_quicker() {
    let mut books = ledger(2000, 2000);
    let offers: Vec<_> = (0..600).map(|port| offer("10.0.0.2", 1000 + port)).collect();
    books.admit(&offers, &snapshot(1, true), Instant::now());
    assert_eq!(books.about(&[address("10.0.0.2").ip()], Instant::now()), Stale::All);
}

#[test]
fn a_change_takes_the_verdicts_of_both_ends_and_no_others() {
    let mut books = ledger(10, 10);
    let now = Instant::now();
    let offers = [offer("10.0.0.2", 80), offer("198.51.100.7", 80), offer("203.0.113.9", 81)];
    let (new, _) = books.admit(&offers, &snapshot(1, true), now);
    let about = |books: &Ledger, text: &str| these(books.about(&[address(text).ip()], now)).len();
    assert_eq!(new.len(), 3);
    assert_eq!(["10.0.0.2", "198.51.100.7", "10.0.0.1", "10.0.0.9"].map(|a| about(&books, a)), [1, 1, 3, 0]);
    books.remove(&new[0]);
    assert_eq!(["10.0.0.2", "198.51.100.7", "10.0.0.1"].map(|a| about(&books, a)), [0, 1, 2]);
}

#[test]
fn an_entry_has_its_time_and_one_that_the_kernel_may_have_dropped_makes_all_doubtful() {
    let mut books = ledger(10, 10);
    let now = Instant::now();
    let (new, _) = books.admit(&[offer("10.0.0.2", 80)], &snapshot(1, true), now);
    assert!(these(books.due(now + Duration::from_secs(3))).is_empty());
    assert_eq!(these(books.due(now + Duration::from_secs(5))), new);
    let (_, _) = books.admit(&[offer("10.0.0.2", 81)], &snapshot(1, true), now);
    assert_eq!(books.due(now + Duration::from_secs(19)), Stale::All);
    assert_eq!(books.about(&[address("10.0.0.2").ip()], now + Duration::from_secs(19)), Stale::All);
}

#[test]
fn what_is_in_use_begins_anew_and_what_is_not_gives_room() {
    let mut books = ledger(10, 10);
    let now = Instant::now();
    let at = |seconds| now + Duration::from_secs(seconds);
    let (new, _) = books.admit(&[offer("10.0.0.2", 80)], &snapshot(1, true), now);
    // What it does at first is not known yet; then it is in use, then not.
    for (seconds, packets) in [(4, 0), (8, 7), (12, 0)] {
        let due = books.due(at(seconds));
        assert_eq!(books.renewable(&due), new, "after {seconds} s");
        books.count(&new[0], packets, None);
        if seconds == 4 {
            // As if it had been: else it would go now.
            books.count(&new[0], 1, None);
        }
        books.renew(&new[0], at(seconds));
        assert!(these(books.due(at(seconds + 3))).is_empty());
    }
    let due = books.due(at(16));
    assert_eq!((these(due), books.renewable(&Stale::These(new.clone()))), (new.clone(), vec![]));
    assert_eq!(books.renewable(&Stale::All), vec![]);
}

#[test]
fn each_packet_is_counted_once_for_the_rules_that_decided() {
    let counters = Arc::new(Counters::new(1));
    counters.reserve(ALLOW);
    let cache = Cache::new(Limits::of(64), Arc::clone(&counters));
    let before = Instant::now();
    let (new, _) = cache.ledger().admit(&[offer("10.0.0.2", 80)], &snapshot(1, true), before);
    let hits = |packets| [CacheHits { entry: new[0], packets }];
    let later = Instant::now() + Duration::from_secs(1);
    cache.count(&mut cache.ledger(), &hits(5), Some(later));
    cache.count(&mut cache.ledger(), &hits(5), Some(later));
    cache.count(&mut cache.ledger(), &hits(9), Some(before));
    assert_eq!(counters.rule(ALLOW), 5, "read before it was there: of an earlier entry of the same key");
    cache.deleted(&mut cache.ledger(), &new, &hits(9));
    cache.deleted(&mut cache.ledger(), &new, &hits(9));
    assert_eq!(counters.rule(ALLOW), 9);
    assert_eq!(counters.settled(podgate_engine::Direction::Egress, Settled::Open), 9);
    assert_eq!((cache.facts().accepted, cache.facts().accepting), (9, 0));
}

#[test]
fn what_an_entry_does_is_not_counted_for_another_rule_that_has_its_rules_number() {
    let counters = Arc::new(Counters::new(1));
    counters.reserve(ALLOW);
    let cache = Cache::new(Limits::of(64), Arc::clone(&counters));
    cache.ledger().keep_drops();
    let offers = [offer("10.0.0.2", 80), offer("10.0.0.2", 81)];
    let (new, _) = cache.ledger().admit(&offers, &snapshot(1, true), Instant::now());
    let hits = |packets| [0, 1].map(|i| CacheHits { entry: new[i], packets });
    let later = Instant::now() + Duration::from_secs(1);
    cache.count(&mut cache.ledger(), &hits(5), Some(later));
    assert_eq!([ALLOW, DENY].map(|rule| counters.rule(rule)), [5, 5]);
    // As where the kernel refused to delete the entries with their rule.
    cache.begin_anew(&[ALLOW]);
    cache.count(&mut cache.ledger(), &hits(9), Some(later));
    assert_eq!([ALLOW, DENY].map(|rule| counters.rule(rule)), [0, 9]);
    assert_eq!(counters.settled(podgate_engine::Direction::Egress, Settled::Open), 18, "what no rule decided");
    assert_eq!((cache.facts().accepted, cache.facts().dropped), (9, 9));
}

#[test]
fn a_worker_offers_what_comes_again_and_denials_only_where_they_may_be_repeated() {
    for (drops, expected) in [(true, 2), (false, 1)] {
        let offers = Offers::new(1, drops);
        let mut worker = offers.worker(0);
        for _ in 0..2 {
            worker.note(&flow("10.0.0.2", 80), Verdict::Accept);
            worker.note(&flow("10.0.0.3", 81), Verdict::Drop);
        }
        assert_eq!(offers.take().iter().filter(|o| !o.whoever).count(), expected);
    }
    let off = Offers::new(0, true);
    let mut worker = off.worker(0);
    (0..3).for_each(|_| worker.note(&flow("10.0.0.2", 80), Verdict::Accept));
    assert!(off.take().is_empty());
}

#[test]
fn denials_of_ever_different_sources_are_offered_for_the_port() {
    let offers = Offers::new(1, true);
    let mut worker = offers.worker(0);
    (0..9).for_each(|i| worker.note(&flow(&format!("203.0.113.{i}"), 81), Verdict::Drop));
    let taken = offers.take();
    assert_eq!(taken.iter().map(|o| o.whoever).collect::<Vec<_>>(), [true]);
    let judged = snapshot(1, true).judge(&taken[0].flow, podgate_engine::NodeOrigin::Forged);
    assert_eq!(judged.ingress.cause, Cause::Denied(DENY));
}

/// Workers, the control loop and packets in the kernel at once, in every order that a scheduler finds: after a publication
/// the kernel repeats nothing that it forbids.
mod model {
    use std::collections::HashSet;

    use shuttle::sync::atomic::{AtomicU64, Ordering};
    use shuttle::sync::{Arc, Mutex};
    use shuttle::thread;

    use super::*;

    /// What the agent's parts share. The kernel's sets change and are looked up as a whole, as its transactions are.
    struct World {
        /// The snapshot that workers load.
        current: Mutex<std::sync::Arc<Snapshot>>,
        /// The generation whose publication is over.
        in_force: AtomicU64,
        offered: Mutex<Vec<Offer>>,
        kernel: Mutex<HashSet<CacheEntry>>,
    }

    /// From this generation on it is forbidden.
    const FORBIDDEN: u64 = 3;

    fn of(generation: u64) -> std::sync::Arc<Snapshot> {
        std::sync::Arc::new(snapshot(generation, generation < FORBIDDEN))
    }

    /// The order of things that is to be tried.
    #[derive(Clone, Copy, PartialEq)]
    enum Order {
        /// As the control loop does it.
        Ours,
        /// Verdicts are added as the worker gave them.
        NotJudgedAnew,
        /// They are deleted after the publication has been told.
        DeletedLate,
    }

    fn add(world: &World, books: &mut Ledger, order: Order) {
        let offers: Vec<Offer> = std::mem::take(&mut *world.offered.lock().unwrap());
        let by = if order == Order::NotJudgedAnew { of(1) } else { world.current.lock().unwrap().clone() };
        let (new, _) = books.admit(&offers, &by, Instant::now());
        world.kernel.lock().unwrap().extend(new);
    }

    fn forget(world: &World, books: &mut Ledger) {
        for entry in these(books.about(&[address("10.0.0.1").ip()], Instant::now())) {
            world.kernel.lock().unwrap().remove(&entry);
            books.remove(&entry);
        }
    }

    fn run(order: Order) {
        let world = Arc::new(World {
            current: Mutex::new(of(1)),
            in_force: AtomicU64::new(1),
            offered: Mutex::default(),
            kernel: Mutex::default(),
        });
        let worker = {
            let world = Arc::clone(&world);
            thread::spawn(move || {
                for _ in 0..3 {
                    // One batch with one snapshot; by the time it is offered there may be another.
                    let snapshot = world.current.lock().unwrap().clone();
                    let flow = flow("10.0.0.2", 80);
                    let verdict = snapshot.judge(&flow, podgate_engine::NodeOrigin::Forged).verdict();
                    if verdict == Verdict::Accept {
                        world.offered.lock().unwrap().push(Offer { flow, whoever: false });
                    }
                }
            })
        };
        let packets = {
            let world = Arc::clone(&world);
            thread::spawn(move || {
                for _ in 0..4 {
                    let in_force = world.in_force.load(Ordering::SeqCst);
                    let accepted = world.kernel.lock().unwrap().iter().any(|e| e.verdict == Cached::Accept);
                    assert!(!accepted || in_force < FORBIDDEN, "stale: accepted in generation {in_force}");
                }
            })
        };
        let mut books = ledger(10, 10);
        for generation in 2..=FORBIDDEN + 1 {
            add(&world, &mut books, order);
            if order != Order::DeletedLate {
                forget(&world, &mut books);
            }
            *world.current.lock().unwrap() = of(generation);
            world.in_force.store(generation, Ordering::SeqCst);
            if order == Order::DeletedLate {
                forget(&world, &mut books);
            }
        }
        add(&world, &mut books, order);
        worker.join().unwrap();
        packets.join().unwrap();
        let accepted = world.kernel.lock().unwrap().iter().any(|e| e.verdict == Cached::Accept);
        assert!(!accepted, "stale: accepted at the end");
    }

    #[test]
    fn nothing_stale_survives_a_publication() {
        shuttle::check_random(|| run(Order::Ours), 3000);
        shuttle::check_pct(|| run(Order::Ours), 1000, 3);
    }

    #[test]
    #[should_panic(expected = "stale")]
    fn the_model_finds_verdicts_that_are_not_judged_anew() {
        shuttle::check_random(|| run(Order::NotJudgedAnew), 3000);
    }

    #[test]
    #[should_panic(expected = "stale")]
    fn the_model_finds_verdicts_that_are_deleted_too_late() {
        shuttle::check_random(|| run(Order::DeletedLate), 3000);
    }
}

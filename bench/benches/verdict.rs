//! What one verdict costs: 10, 1,000 and 10,000 policies at 100,000 pods, a million random flows.
//!
//! - *hot*: sixteen flows again and again; *cold*: a walk through 1,048,576 random flows.
//! - *judge*: `Snapshot::judge` of a ready flow; *packet*: parse the header, judge, count, as a worker does.
//! - *node*: the subjects are the 200 pods of one node (the agent); *all*: all 100,000 (`podgate test`).
//!
//! Prints the time and memory that the tables take to build, counts allocations on the packet path (which must be
//! 0), runs criterion, and ends with a summary that compares 10,000 policies with 10 by walks taken in turn. Exit code
//! 1 if something was allocated or a node's cold ratio is above 1.3. `cargo bench … -- summary` leaves criterion out.
//! Not here: the cluster and the flows (`podgate_bench`).

use std::hint::black_box;
use std::process::{Command, ExitCode};
use std::sync::Arc;
use std::time::{Duration, Instant};

use criterion::{Criterion, Throughput};
use nix::time::{ClockId, clock_gettime};
use podgate_api::{Change, Object, Pod};
use podgate_bench::compiled::{SEED, compiled};
use podgate_bench::flows::{FLOWS, Family, PacketBytes, Scope, flows, packets};
use podgate_bench::machine;
use podgate_bench::stats::{self, median};
use podgate_bench::world::{Cluster, PODS, local_node};
use podgate_engine::{
    Counter, Counters, Direction, Flow, NodeOrigin, RuleId, Snapshot, Verdict, WorkerCounters, packet,
};
use podgate_policy::{Index, Locality};

const POLICIES: [usize; 3] = [10, 1_000, 10_000];
/// How many times the cold walk may be slower with 10,000 policies than with 10.
const FLAT: f64 = 1.3;
/// Alternated walks for the summary.
const ROUNDS: usize = 7;
/// Flows of the hot figures, a power of two.
const HOT: usize = 16;
/// Pods that get another label, one at a time.
const CHANGES: usize = 101;
/// Set in the process that builds one index only, to tell its memory.
const MEMORY_OF: &str = "PODGATE_BENCH_MEMORY_OF";

fn main() -> ExitCode {
    if let Ok(of) = std::env::var(MEMORY_OF) {
        return tell_memory(&of);
    }
    println!("{}", machine::describe());
    build_costs();

    let all = POLICIES.iter().filter(|n| **n != 1_000).map(|n| (*n, Scope::All));
    let sizes = POLICIES.iter().map(|n| (*n, Scope::Node)).chain(all);
    let worlds: Vec<World> = sizes.map(|(policies, scope)| World::new(policies, scope)).collect();
    let traffic: Vec<Traffic> = [Scope::Node, Scope::All]
        .into_iter()
        .flat_map(|scope| [Family::V4, Family::V6].map(|family| Traffic::new(family, scope)))
        .collect();
    let cases: Vec<Case<'_>> = worlds
        .iter()
        .flat_map(|world| traffic.iter().filter(|t| t.scope == world.scope).map(move |traffic| Case { world, traffic }))
        .collect();

    mixes(&cases);
    let allocated = allocations(&cases);
    let mut criterion = Criterion::default()
        .sample_size(10)
        .warm_up_time(Duration::from_millis(200))
        .measurement_time(Duration::from_millis(800))
        // The default of 100,000 takes longer than the measurement.
        .nresamples(5_000)
        .without_plots()
        .configure_from_args();
    cases.iter().for_each(|case| case.bench(&mut criterion));
    criterion.final_summary();
    let flat = summary(&cases);

    if allocated > 0 {
        println!("FAILED: the packet path allocated {allocated} times");
    }
    if !flat {
        println!("FAILED: a cold verdict with 10,000 policies costs more than {FLAT} times one with 10");
    }
    ExitCode::from(u8::from(allocated > 0 || !flat))
}

/// A compiled cluster.
struct World {
    policies: usize,
    scope: Scope,
    snapshot: Arc<Snapshot>,
    counters: Counters,
}

/// A million flows, and the packets that open them.
struct Traffic {
    family: Family,
    scope: Scope,
    flows: Vec<Flow>,
    packets: Vec<PacketBytes>,
}

/// A cluster and traffic of it.
#[derive(Clone, Copy)]
struct Case<'w> {
    world: &'w World,
    traffic: &'w Traffic,
}

impl World {
    fn new(policies: usize, scope: Scope) -> Self {
        let snapshot = compiled(policies, scope).1;
        let counters = Counters::new(1);
        counters.reserve(snapshot.rules().map(|(id, _)| id).max().unwrap_or(RuleId(0)));
        World { policies, scope, snapshot, counters }
    }
}

impl Traffic {
    fn new(family: Family, scope: Scope) -> Self {
        let flows = flows(SEED, family, scope);
        let packets = packets(&flows);
        Traffic { family, scope, flows, packets }
    }
}

/// Processor time of this thread: on a machine that others use, time spent waiting for a core tells nothing.
fn spent() -> Duration {
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).expect("Linux has this clock").into()
}

#[inline(always)]
fn judge(snapshot: &Snapshot, flow: &Flow) -> Verdict {
    snapshot.judge(flow, NodeOrigin::Forged).verdict()
}

/// What a worker does with a packet between reading it and answering it.
#[inline(always)]
fn judge_packet(snapshot: &Snapshot, counters: &WorkerCounters, bytes: &[u8]) -> Verdict {
    counters.count(Counter::Packets);
    match packet::parse(bytes) {
        Err(error) => {
            counters.unreadable(error);
            Verdict::Drop
        }
        Ok(header) => {
            let judgement = snapshot.judge(&header.flow, NodeOrigin::Forged);
            counters.decided(Direction::Egress, judgement.egress.cause);
            counters.decided(Direction::Ingress, judgement.ingress.cause);
            judgement.verdict()
        }
    }
}

impl Case<'_> {
    fn bench(&self, criterion: &mut Criterion) {
        let Case { world, traffic } = self;
        let Traffic { family, flows, packets, .. } = traffic;
        let name = format!("{}/{}/{} policies", world.scope.as_str(), family.as_str(), world.policies);
        let mut group = criterion.benchmark_group(name);
        group.throughput(Throughput::Elements(1));
        let counters = world.counters.worker(0);
        let snapshot = &*world.snapshot;
        let mut at = 0_usize;
        let mut next = move |count: usize| {
            at = (at + 1) & (count - 1);
            at
        };
        group.bench_function("judge, cold", |b| b.iter(|| judge(snapshot, &flows[next(FLOWS)])));
        if world.scope == Scope::Node {
            group.bench_function("judge, hot", |b| b.iter(|| judge(snapshot, &flows[next(HOT)])));
            group.bench_function("packet, cold", |b| {
                b.iter(|| judge_packet(snapshot, counters, packets[next(FLOWS)].bytes()))
            });
            group.bench_function("packet, hot", |b| {
                b.iter(|| judge_packet(snapshot, counters, packets[next(HOT)].bytes()))
            });
        }
        group.finish();
    }

    /// Nanoseconds per flow of one walk through all.
    fn walk(&self) -> f64 {
        let start = spent();
        let dropped = self.traffic.flows.iter().filter(|f| judge(&self.world.snapshot, f) == Verdict::Drop).count();
        black_box(dropped);
        (spent() - start).as_nanos() as f64 / FLOWS as f64
    }

    /// Nanoseconds per packet of one walk through all.
    fn walk_packets(&self) -> f64 {
        let counters = self.world.counters.worker(0);
        let start = spent();
        let judge = |p: &&PacketBytes| judge_packet(&self.world.snapshot, counters, p.bytes()) == Verdict::Drop;
        black_box(self.traffic.packets.iter().filter(judge).count());
        (spent() - start).as_nanos() as f64 / FLOWS as f64
    }
}

/// What the flows come to: without this, a ratio could compare worlds in which different things happen.
fn mixes(cases: &[Case<'_>]) {
    println!("\nwhat the flows come to");
    for Case { world, traffic } in cases {
        let (mut ruled, mut denied) = (0, 0);
        for flow in &traffic.flows {
            let judgement = world.snapshot.judge(flow, NodeOrigin::Forged);
            ruled += usize::from(judgement.egress.rule().or(judgement.ingress.rule()).is_some());
            denied += usize::from(judgement.verdict() == Verdict::Drop);
        }
        let percent = |count: usize| 100.0 * count as f64 / FLOWS as f64;
        println!(
            "  {:>4} {} {:>6} policies: a rule decides {:.0} %, {:.0} % are denied; {} rules in the book",
            world.scope.as_str(),
            traffic.family.as_str(),
            world.policies,
            percent(ruled),
            percent(denied),
            world.snapshot.rules().count(),
        );
    }
}

/// How often the packet path allocates in a walk of all flows and packets; tells each case where it does.
fn allocations(cases: &[Case<'_>]) -> u64 {
    let count = |case: &Case<'_>| {
        let info = allocation_counter::measure(|| {
            case.walk();
            case.walk_packets();
        });
        if info.count_total > 0 {
            let Case { world, traffic } = case;
            println!(
                "  {} {} {} policies: {}",
                world.scope.as_str(),
                traffic.family.as_str(),
                world.policies,
                info.count_total
            );
        }
        info.count_total
    };
    let total = cases.iter().map(count).sum();
    println!("\nallocations in {} verdicts: {total}", 2 * cases.len() * FLOWS);
    total
}

/// Walks of all sizes in turn, so that the machine's moods meet all alike; true if the cold figures of a node are flat.
/// Those of all pods as subjects are told, but not held to it: no agent has 100,000 pods of its own.
fn summary(cases: &[Case<'_>]) -> bool {
    println!("\ncold walks through {FLOWS} flows, {ROUNDS} rounds in turn: median ns of processor time a verdict");
    let mut flat = true;
    for (scope, whats) in [(Scope::Node, &["judge", "packet"][..]), (Scope::All, &["judge"])] {
        for (family, what) in whats.iter().flat_map(|what| [(Family::V4, *what), (Family::V6, *what)]) {
            let sizes: Vec<_> = cases.iter().filter(|c| c.world.scope == scope && c.traffic.family == family).collect();
            let walk = |case: &Case<'_>| if what == "judge" { case.walk() } else { case.walk_packets() };
            let mut times = vec![Vec::new(); sizes.len()];
            for _ in 0..ROUNDS {
                sizes.iter().zip(&mut times).for_each(|(case, times)| times.push(walk(case)));
            }
            let medians =
                sizes.iter().zip(&times).map(|(c, t)| format!("{} policies {:.1}", c.world.policies, median(t)));
            let medians = medians.collect::<Vec<_>>().join(", ");
            let ratio = stats::ratio(&times[sizes.len() - 1], &times[0]);
            flat &= scope == Scope::All || ratio.median <= FLAT;
            println!("  {:>4} {} {what:>6}: {medians}; 10,000 / 10: {ratio}", scope.as_str(), family.as_str());
        }
    }
    println!("  (ratio: median and 95 % interval; for a node at most {FLAT})");
    flat
}

/// Prints what it takes to build each index, each in a process of its own, as memory that was freed before would
/// tell wrong figures.
fn build_costs() {
    println!("\nindex and first snapshot of {PODS} pods, from ready objects");
    for scope in [Scope::Node, Scope::All] {
        for policies in POLICIES.into_iter().filter(|n| scope == Scope::Node || *n != 1_000) {
            let of = format!("{} {policies}", scope.as_str());
            let this = std::env::current_exe().expect("a running program has a file");
            let told = Command::new(this).env(MEMORY_OF, &of).output().expect("this program can be started again");
            print!("  {of:>10} policies: {}", String::from_utf8_lossy(&told.stdout));
            assert!(told.status.success(), "{}", String::from_utf8_lossy(&told.stderr));
        }
    }
}

/// The other process: builds one index from objects that are made one at a time, and tells what it takes.
fn tell_memory(of: &str) -> ExitCode {
    let (scope, policies) = of.split_once(' ').expect("scope and number");
    let policies: usize = policies.parse().expect("a number");
    let locality = if scope == "node" { Locality::Node(local_node()) } else { Locality::All };
    let before = machine::resident().0;
    let mut index = Index::new(locality);
    let mut spent = Duration::ZERO;
    for object in (Cluster { policies, seed: SEED }).objects() {
        let start = Instant::now();
        index.apply(Change::Apply(object));
        spent += start.elapsed();
    }
    let start = Instant::now();
    let built = index.build();
    let compile = start.elapsed();
    let (now, peak) = machine::resident();
    let changes = pod_changes(&mut index, policies);
    let mib = |bytes: u64| bytes as f64 / 1024.0 / 1024.0;
    println!(
        "applied in {spent:.2?}, built in {compile:.2?}; resident {:.0} MiB more than before, at most {:.0} MiB in all; \
         one pod's change {:.0} µs (median of {CHANGES}, at most {:.0})",
        mib(now - before),
        mib(peak),
        median(&changes),
        changes.iter().copied().fold(0.0, f64::max),
    );
    black_box((index, built));
    ExitCode::SUCCESS
}

/// Microseconds of processor time that it takes to apply and compile another label of one pod, while the snapshot
/// before is in use.
fn pod_changes(index: &mut Index, policies: usize) -> Vec<f64> {
    let pods = (Cluster { policies, seed: SEED }).objects().filter_map(|object| match object {
        Object::Pod(pod) => Some(pod),
        _ => None,
    });
    let mut in_use = index.build();
    let change = |mut pod: Pod| {
        pod.labels.insert("track".to_owned(), "next".to_owned());
        let start = spent();
        index.apply(Change::Apply(Object::Pod(pod)));
        let next = index.build();
        let took = spent() - start;
        in_use = next;
        took.as_nanos() as f64 / 1000.0
    };
    let changes = pods.step_by(PODS / CHANGES).take(CHANGES).map(change).collect();
    black_box(in_use);
    changes
}

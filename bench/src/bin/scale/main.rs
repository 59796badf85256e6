//! podgate on a large cluster, on one machine: a real API server with pods and policies by the ten thousand and no
//! kubelets, and one node, a network namespace, where podgate runs. `bench/scale/run` makes the control plane and starts this in
//! its network namespace.
//!
//! ```text
//!   world ── the objects     load ── into the API server, and churn     api ── requests
//!   agent ── the node, podgate: start, memory, processor                change ── a policy's change, on packets
//! ```
//!
//! Here: what is measured in which order, and the report.

mod agent;
mod api;
mod change;
mod load;
mod world;

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use clap::Parser;
use podgate_bench::machine;
use podgate_bench::stats::{median, quantile};

use agent::{Agent, Node, Options};
use api::Api;
use change::{Change, Probe};
use load::{Churn, Lives};
use world::Size;

/// Start, memory, processor time and the time a change takes, at thousands of pods.
#[derive(Debug, Parser)]
struct Args {
    /// How the API server is reached, by this program and by podgate.
    #[arg(long)]
    kubeconfig: PathBuf,

    /// Pods, one size after the other; each has a policy for ten pods.
    #[arg(long, value_delimiter = ',', default_values_t = [10_000, 100_000])]
    pods: Vec<usize>,

    /// Starts of each kind.
    #[arg(long, default_value_t = 5)]
    starts: usize,

    /// Policy changes while the cluster is idle, and as many again while pods churn.
    #[arg(long, default_value_t = 200)]
    changes: usize,

    /// Pod changes a second while they churn.
    #[arg(long, default_value_t = 100)]
    churn: u64,

    /// Seconds of each measurement of processor time.
    #[arg(long, default_value_t = 20)]
    seconds: u64,

    /// The podgate to measure [default: beside this program].
    #[arg(long)]
    podgate: Option<PathBuf>,

    /// Where podgate's log goes.
    #[arg(long, default_value = "/dev/stderr")]
    log: PathBuf,
}

/// What a goal is held against.
#[derive(Debug, Clone, Copy)]
struct Goals {
    /// Start to ready, milliseconds.
    ready: Option<f64>,
    /// Resident after the start, and the most at any time, MB.
    resident: Option<f64>,
    /// A change's median and 99th percentile, milliseconds.
    change: Option<(f64, f64)>,
}

impl Goals {
    fn of(size: Size) -> Self {
        match size.pods {
            ..=10_000 => Goals { ready: Some(2_000.0), resident: Some(60.0), change: Some((15.0, 50.0)) },
            10_001..=100_000 => Goals { ready: None, resident: Some(200.0), change: None },
            _ => Goals { ready: None, resident: None, change: None },
        }
    }
}

fn main() -> Result<()> {
    let args = Args::parse();
    let podgate = match &args.podgate {
        Some(path) => path.clone(),
        None => std::env::current_exe()?.with_file_name("podgate"),
    };
    let options = Options { podgate, kubeconfig: args.kubeconfig.clone(), log: args.log.clone() };
    println!("{}; load {}", machine::describe(), load_average());
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let api = runtime.block_on(Api::new(&args.kubeconfig))?;
    let node = Node::new()?;
    let mut probe = Probe::new(&node, &api, &runtime)?;

    let (mut loaded, mut lives) = (Size { pods: 0, policies: 0 }, Lives::new());
    for pods in &args.pods {
        let size = Size::of_pods(*pods);
        let begin = Instant::now();
        runtime.block_on(load::load(&api, loaded, size)).context("loading the world")?;
        loaded = size;
        println!(
            "\n{} pods on {} nodes in {} namespaces, {} policies (loaded in {:.0} s); load {}",
            size.pods,
            size.nodes(),
            size.namespaces(),
            size.policies,
            begin.elapsed().as_secs_f64(),
            load_average()
        );
        let state = tempfile::tempdir()?;
        let stage = Stage { args: &args, api: &api, runtime: &runtime, node: &node, options: &options, size };
        stage.starts(None)?;
        stage.starts(Some(&state))?;
        stage.at_work(&state, &mut probe, &mut lives)?;
        println!("load {}", load_average());
    }
    Ok(())
}

/// A world that is loaded, and all that is needed to measure in it.
struct Stage<'a> {
    args: &'a Args,
    api: &'a Api,
    runtime: &'a tokio::runtime::Runtime,
    node: &'a Node,
    options: &'a Options,
    size: Size,
}

impl Stage<'_> {
    fn goals(&self) -> Goals {
        Goals::of(self.size)
    }

    /// Starts podgate again and again, without or with what the life before saved.
    fn starts(&self, state: Option<&tempfile::TempDir>) -> Result<()> {
        let state_dir = state.map(tempfile::TempDir::path);
        if state.is_some() {
            // The first one has nothing yet.
            Agent::start(self.node, self.options, state_dir)?.stop()?;
        }
        let (mut enforced, mut ready, mut resident, mut most, mut used) = (vec![], vec![], vec![], vec![], vec![]);
        for _ in 0..self.args.starts {
            let agent = Agent::start(self.node, self.options, state_dir)?;
            used.push(milliseconds(agent.processor()?));
            enforced.push(milliseconds(agent.start.enforced));
            ready.push(milliseconds(agent.start.ready));
            let (now, max) = agent.resident()?;
            resident.push(megabytes(now));
            most.push(megabytes(max));
            agent.stop()?;
        }
        let what = if state.is_some() { "with a saved world" } else { "from nothing" };
        let goals = self.goals();
        row(&format!("start {what}: enforced"), &spread(&enforced, "ms"), None);
        row(&format!("start {what}: ready"), &spread(&ready, "ms"), goals.ready.map(|goal| (median(&ready), goal)));
        row(&format!("start {what}: processor time"), &spread(&used, "ms"), None);
        row("… resident when ready", &spread(&resident, "MB"), goals.resident.map(|goal| (median(&resident), goal)));
        row("… at most", &spread(&most, "MB"), goals.resident.map(|goal| (median(&most), goal)));
        Ok(())
    }

    /// One agent, idle and while pods churn: processor time, memory, and what changes of a policy take.
    fn at_work(&self, state: &tempfile::TempDir, probe: &mut Probe, lives: &mut Lives) -> Result<()> {
        let agent = Agent::start(self.node, self.options, Some(state.path()))?;
        let during = Duration::from_secs(self.args.seconds);
        row("idle: processor", &format!("{:.2} % of a core", self.share(&agent, during)?), None);
        self.changes("idle", &agent, probe)?;

        let churn = {
            let _inside = self.runtime.enter();
            Churn::start(self.api, self.size.pods, self.args.churn, lives)
        };
        let share = self.share(&agent, during)?;
        let rate = churn.rate();
        row("churn: pod changes", &format!("{rate:.0} a second"), None);
        row("churn: processor", &format!("{share:.2} % of a core ({:.2} ms a change)", share * 10.0 / rate), None);
        self.changes("churn", &agent, probe)?;
        self.runtime.block_on(churn.stop(lives))?;

        let (now, max) = agent.resident()?;
        let goal = self.goals().resident;
        row("after all that: resident", &format!("{:.1} MB", megabytes(now)), goal.map(|goal| (megabytes(now), goal)));
        row("… at most", &format!("{:.1} MB", megabytes(max)), goal.map(|goal| (megabytes(max), goal)));
        agent.stop()
    }

    /// Processor time used from now on, in percent of a core.
    fn share(&self, agent: &Agent<'_>, during: Duration) -> Result<f64> {
        let (before, begin) = (agent.processor()?, Instant::now());
        std::thread::sleep(during);
        Ok((agent.processor()? - before).as_secs_f64() / begin.elapsed().as_secs_f64() * 100.0)
    }

    fn changes(&self, when: &str, agent: &Agent<'_>, probe: &mut Probe) -> Result<()> {
        const SUM: &str = "podgate_enforcement_duration_seconds_sum";
        const COUNT: &str = "podgate_enforcement_duration_seconds_count";
        let before = (agent.metric(SUM)?, agent.metric(COUNT)?);
        let changes = probe.run(self.api, self.runtime, self.args.changes)?;
        let (sum, count) = (agent.metric(SUM)? - before.0, agent.metric(COUNT)? - before.1);
        let of = |take: fn(&Change) -> Duration| changes.iter().map(|c| milliseconds(take(c))).collect::<Vec<_>>();
        let judged = of(|c| c.judged);
        let goal = self.goals().change;
        row(
            &format!("{when}: change to first packet, median"),
            &figures(&judged),
            goal.map(|(goal, _)| (median(&judged), goal)),
        );
        row(
            "… 99th percentile",
            &format!("{:.2} ms", quantile(&judged, 0.99)),
            goal.map(|(_, goal)| (quantile(&judged, 0.99), goal)),
        );
        let mut kinds: Vec<&str> = changes.iter().map(|c| c.kind).collect();
        kinds.sort_unstable();
        kinds.dedup();
        for kind in kinds {
            let of: Vec<f64> = changes.iter().filter(|c| c.kind == kind).map(|c| milliseconds(c.judged)).collect();
            row(&format!("… policy {kind}"), &figures(&of), None);
        }
        row("… of that, to the API server's answer", &figures(&of(|c| c.answered)), None);
        row("… of that, to the event on another's watch", &figures(&of(|c| c.watched)), None);
        row(
            "… podgate: event noticed to in force",
            &format!("mean {:.2} ms of {count:.0}", sum / count * 1000.0),
            None,
        );
        let stragglers = changes.iter().filter(|c| c.stragglers > 0).count();
        row("… changes with packets of both verdicts mixed, or lost", &stragglers.to_string(), None);
        Ok(())
    }
}

fn milliseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1000.0
}

/// 10^6 bytes, as the goals are meant.
fn megabytes(bytes: u64) -> f64 {
    bytes as f64 / 1e6
}

fn spread(values: &[f64], unit: &str) -> String {
    let (low, high) = (quantile(values, 0.0), quantile(values, 1.0));
    format!("{:.1} {unit} [{low:.1} to {high:.1}]", median(values))
}

fn figures(values: &[f64]) -> String {
    let at = |share| quantile(values, share);
    format!("{:.2} ms (p90 {:.2}, p99 {:.2}, most {:.2}; {})", median(values), at(0.9), at(0.99), at(1.0), values.len())
}

/// One line of the report; a figure that must not be above its goal.
fn row(what: &str, figure: &str, goal: Option<(f64, f64)>) {
    let goal = goal.map_or_else(String::new, |(value, goal)| match value <= goal {
        true => format!("  goal {goal}: reached"),
        false => format!("  goal {goal}: MISSED"),
    });
    println!("  {what:64} {figure}{goal}");
}

fn load_average() -> String {
    fs::read_to_string("/proc/loadavg").unwrap_or_default().split(' ').take(3).collect::<Vec<_>>().join(" ")
}

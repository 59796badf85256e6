//! The packet path in network namespaces: no policy, the kernel alone, queues that accept everything, and podgate.
//!
//! Every side is a node of its own (a network namespace that routes between a client pod and a server pod), set up at
//! the start; the sides take turns within one run, so that the machine's moods meet all alike. Reported are medians,
//! and ratios of the turns' pairs with their confidence interval. Needs root, and `nft` for sides without podgate.
//!
//! ```text
//!   plan ── Plan: which Kind of side takes part in which Measure       goals ── what is to be reached
//!    │
//!   sides ── Side: a node, its pods, and what judges there             results ── Samples ──▶ report, plot
//!    ├ kernel ── nft programs                                            ▲
//!    ├ accept ── AcceptAll       measure ── one turn of one side ────────┘     tracking ── conntrack's table
//!    └ agent ── Podgate ◀── manifests      └ load ── what is sent
//! ```

mod accept;
mod agent;
mod goals;
mod interrupt;
mod kernel;
mod kinds;
mod load;
mod manifests;
mod measure;
mod plan;
mod plot;
mod report;
mod results;
mod sides;
mod tracking;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clap::Parser;
use podgate_bench::machine;
use podgate_bench::stats::Estimate;

use kinds::{Build, Kind};
use plan::{Measure, Plan};
use results::Results;
use sides::{Places, Side};

/// The packet path: no policy, the kernel alone, queues that accept everything, and podgate, in turns.
///
/// Exit code: 0 measured, 1 with --against if this build is slower than the other, 2 it could not be measured.
#[derive(Debug, Parser)]
struct Args {
    /// Turns of each side.
    #[arg(long, default_value_t = 15, value_parser = clap::value_parser!(u32).range(1..=100))]
    pairs: u32,

    /// Seconds of each measurement; UDP takes half of that.
    #[arg(long, default_value_t = 1.5)]
    seconds: f64,

    /// Queues (and workers) of each side that has any.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=16))]
    queues: u16,

    /// Measure this only; may be given several times.
    #[arg(long, value_enum, value_name = "MEASURE")]
    only: Vec<Measure>,

    /// Only sides whose title contains this; may be given several times.
    #[arg(long, value_name = "TEXT")]
    side: Vec<String>,

    /// Compare settings of queues and workers, with an engine that says yes, instead.
    #[arg(long, conflicts_with = "against")]
    settings: bool,

    /// Compare with this other build of podgate instead.
    #[arg(long, value_name = "PROGRAM")]
    against: Option<PathBuf>,

    /// With --against: the share of the other's rate that this build may lose.
    #[arg(long, default_value_t = 0.05)]
    margin: f64,

    /// The podgate to measure [default: beside this program].
    #[arg(long)]
    podgate: Option<PathBuf>,

    /// Write a whole run's report and plot into this directory: path.md, path.svg.
    #[arg(long, value_name = "DIR")]
    results: Option<PathBuf>,
}

fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("path: {error:#}");
            ExitCode::from(2)
        }
    }
}

fn run(args: &Args) -> Result<ExitCode> {
    let (started, busy) = (Instant::now(), machine::load());
    let scratch = tempfile::Builder::new().prefix("podgate-bench-").tempdir()?;
    interrupt::clean_up_at_the_end(scratch.path().to_owned())?;
    let podgate = match &args.podgate {
        Some(path) => path.clone(),
        None => std::env::current_exe()?.with_file_name("podgate"),
    };
    let places = Places { podgate, other: args.against.clone(), scratch: scratch.path().to_owned() };
    let plan = plan(args, &places)?;

    let mut sides = Vec::new();
    for kind in &plan.sides {
        let begin = Instant::now();
        sides.push(Side::start(*kind, &places).with_context(|| format!("setting up: {kind}"))?);
        eprintln!("{kind}: set up in {:.1} s", begin.elapsed().as_secs_f64());
    }
    let mut results = Results::new(plan.sides.clone());
    for turn in 0..args.pairs as usize {
        one_turn(args, &plan, &sides, turn, &mut results)?;
        eprintln!("turn {} of {} done after {:.0} s", turn + 1, args.pairs, started.elapsed().as_secs_f64());
    }

    let revision = |build| {
        let has = |side: &&Side| matches!(side.kind, Kind::Podgate(agent) if agent.build == build);
        sides.iter().find(has).and_then(Side::revision)
    };
    let mut about = format!("{}; load {busy:.1} before the run", machine::describe());
    about += &format!("; {} turns of {} s, {} queues", args.pairs, args.seconds, args.queues);
    about += &revision(Build::This).map(|r| format!("; podgate {r}")).unwrap_or_default();
    about += &revision(Build::Other).map(|r| format!("; other revision {r}")).unwrap_or_default();
    let mut text = format!("# The packet path\n\n{about}; {:.0} s in all\n\n", started.elapsed().as_secs_f64());
    text += &report::measures(&results, args.queues);
    text += &report::goals(&results, args.queues);
    println!("{text}");
    if let Some(directory) = &args.results {
        keep(args, directory, &text, &results, &about)?;
    }
    Ok(compare(args, &results))
}

/// Which sides and measures there are.
fn plan(args: &Args, places: &Places) -> Result<Plan> {
    let mut plan = match (&args.against, args.settings) {
        (Some(_), _) => Plan::builds(args.queues),
        (None, true) => Plan::settings(),
        (None, false) => Plan::whole(args.queues),
    };
    let wanted = |kind: &Kind| args.side.is_empty() || args.side.iter().any(|part| kind.to_string().contains(part));
    plan.sides.retain(wanted);
    if !args.only.is_empty() {
        plan.measures.retain(|measure| args.only.contains(measure));
    }
    plan.sides.retain(|kind| plan.measures.iter().any(|measure| Plan::has(*measure, *kind)));
    for binary in [Some(&places.podgate), places.other.as_ref()].into_iter().flatten() {
        ensure!(
            binary.is_file(),
            "{} is not there: build it with `cargo build --release -p podgate`, or say where it is with --podgate",
            binary.display()
        );
        if !agent::has_cache(binary)? {
            eprintln!("{} has no verdict cache: sides with one are left out", binary.display());
            plan.sides.retain(|kind| !matches!(kind, Kind::Podgate(agent) if agent.cached));
        }
    }
    ensure!(!plan.sides.is_empty() && !plan.measures.is_empty(), "nothing is left to be measured: see --only, --side");
    Ok(plan)
}

/// Each measure of each side once. Nobody is always first, or always after the same other.
fn one_turn(args: &Args, plan: &Plan, sides: &[Side], turn: usize, results: &mut Results) -> Result<()> {
    let during = Duration::from_secs_f64(args.seconds);
    let mut order: Vec<&Side> = sides.iter().collect();
    order.rotate_left(turn / 2 % sides.len());
    if turn % 2 == 1 {
        order.reverse();
    }
    for measure in plan.measures.iter().copied() {
        for side in order.iter().filter(|side| Plan::has(measure, side.kind)) {
            let sample = measure::take(side, measure, during);
            let sample = sample.with_context(|| format!("{}: {}", side.kind, measure.title()))?;
            results.add(measure, side.kind, sample);
        }
    }
    Ok(())
}

/// Writes the files of a whole run.
fn keep(args: &Args, directory: &Path, text: &str, results: &Results, about: &str) -> Result<()> {
    if !args.only.is_empty() || !args.side.is_empty() || args.settings || args.against.is_some() {
        eprintln!("a part of a run: nothing is written into {}", directory.display());
        return Ok(());
    }
    std::fs::create_dir_all(directory)?;
    let (table, drawing) = (directory.join("path.md"), directory.join("path.svg"));
    std::fs::write(&table, format!("{text}![The same, drawn](path.svg)\n"))?;
    plot::draw(&drawing, results, about)?;
    eprintln!("written: {}, {}", table.display(), drawing.display());
    Ok(())
}

/// With two builds: whether this one is slower than the other by more than the margin, and surely so.
fn compare(args: &Args, results: &Results) -> ExitCode {
    let mut code = ExitCode::SUCCESS;
    for measure in results.measures() {
        for side in results.sides(measure) {
            let ratio = report::other(side).and_then(|other| results.ratio(measure, side, other));
            let Some(ratio) = ratio else { continue };
            let slower = is_slower(ratio, args.margin);
            let word = if slower { "slower" } else { "not slower" };
            println!("{}: {side}: {ratio} of the other revision: {word}", measure.title());
            if slower {
                code = ExitCode::from(1);
            }
        }
    }
    code
}

/// Slower by more than the margin; and no accident, as far as an interval can tell.
fn is_slower(ratio: Estimate, margin: f64) -> bool {
    ratio.median < 1.0 - margin && ratio.high < 1.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slower_is_what_is_beyond_the_margin_and_surely_below() {
        let slower = |low, median, high| is_slower(Estimate { median, low, high }, 0.05);
        assert!(slower(0.90, 0.94, 0.99));
        assert!(!slower(0.90, 0.94, 1.01), "it may be an accident");
        assert!(!slower(0.95, 0.96, 0.97), "it is within the margin");
    }
}

//! The packet path in network namespaces: no policy, queues that accept everything, and podgate.
//!
//! Every side is a node of its own (a network namespace that routes between a client pod and a server pod), set up at
//! the start; the sides take turns within one run, so that the machine's moods meet all alike. Reported are medians,
//! and ratios of the turns' pairs with their confidence interval. Needs root, and `nft` for the side without policy.
//!
//! ```text
//!   sides ── Side: a node, its pods, and what judges there        manifests ── podgate's world
//!   connections ── connect, request, reset                        datagrams ── one-way UDP, each its own flow
//! ```

mod connections;
mod datagrams;
mod manifests;
mod sides;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use clap::Parser;
use podgate_bench::machine;
use podgate_bench::stats::{median, ratio};

use sides::{Kind, Side};

/// Connection rate and packets a second: no policy, queues that accept everything, podgate.
#[derive(Debug, Parser)]
struct Args {
    /// Turns of each side.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=100))]
    pairs: u32,

    /// Seconds of each connection measurement; the packets take half of that.
    #[arg(long, default_value_t = 1.5)]
    seconds: f64,

    /// Queues (and workers) of each side that has any.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=16))]
    queues: u16,

    /// The podgate to measure [default: beside this program].
    #[arg(long)]
    podgate: Option<PathBuf>,
}

/// What is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Measure {
    /// Connections per second, this many at once.
    Connections(usize),
    /// Packets per second that arrive.
    Packets,
}

const MEASURES: [Measure; 3] = [Measure::Connections(16), Measure::Connections(1), Measure::Packets];

impl Measure {
    fn title(self) -> String {
        match self {
            Measure::Connections(at_once) => format!("connect-request-reset per second, {at_once} at once"),
            Measure::Packets => "one-way UDP packets per second, each a flow of its own".to_owned(),
        }
    }
}

/// Results of one side, a value per turn.
#[derive(Debug, Default, Clone)]
struct Results {
    rates: [Vec<f64>; MEASURES.len()],
    /// Verdicts per connection, or per packet that arrived.
    verdicts: [Vec<f64>; MEASURES.len()],
    /// Packets sent that did not arrive, as a share.
    lost: Vec<f64>,
}

fn main() -> Result<()> {
    let args = Args::parse();
    let podgate = match &args.podgate {
        Some(path) => path.clone(),
        None => std::env::current_exe()?.with_file_name("podgate"),
    };
    anyhow::ensure!(
        podgate.is_file(),
        "{} is not there: build it with `cargo build --release -p podgate`, or say where it is with --podgate",
        podgate.display()
    );
    let started = Instant::now();
    println!("{}; {} queues, {} turns of {} s", machine::describe(), args.queues, args.pairs, args.seconds);

    let sides = Kind::ALL
        .into_iter()
        .map(|kind| Side::start(kind, args.queues, &podgate).with_context(|| format!("setting up: {}", kind.title())))
        .collect::<Result<Vec<_>>>()?;
    let mut results = vec![Results::default(); sides.len()];
    let during = Duration::from_secs_f64(args.seconds);
    for turn in 0..args.pairs as usize {
        for (slot, measure) in MEASURES.into_iter().enumerate() {
            for at in 0..sides.len() {
                // Nobody is always first, or always after the same other.
                let at = (at + turn) % sides.len();
                take(&sides[at], measure, slot, during, &mut results[at])
                    .with_context(|| format!("{}: {}", sides[at].kind.title(), measure.title()))?;
            }
        }
        eprintln!("turn {} of {} done after {:.0} s", turn + 1, args.pairs, started.elapsed().as_secs_f64());
    }
    for (slot, measure) in MEASURES.into_iter().enumerate() {
        report(measure, slot, &sides, &results);
    }
    println!("\n{:.0} s in all", started.elapsed().as_secs_f64());
    Ok(())
}

/// One turn of one side.
fn take(side: &Side, measure: Measure, slot: usize, during: Duration, results: &mut Results) -> Result<()> {
    let judged = side.judged()?;
    let (rate, events) = match measure {
        Measure::Connections(at_once) => {
            let made = connections::run(side.client.netns(), side.server_address(), at_once, during)?;
            let failed = made.failed as f64 / (made.failed + made.made) as f64;
            anyhow::ensure!(failed < 0.001, "{:.2} % of connections failed", failed * 100.0);
            (made.per_second, made.made)
        }
        Measure::Packets => {
            side.await_room()?;
            let sent = datagrams::run(&side.client, &side.server, during / 2)?;
            results.lost.push(1.0 - sent.arrived as f64 / sent.sent as f64);
            (sent.per_second, sent.arrived)
        }
    };
    results.rates[slot].push(rate);
    results.verdicts[slot].push((side.judged()? - judged) as f64 / events as f64);
    Ok(())
}

fn report(measure: Measure, slot: usize, sides: &[Side], results: &[Results]) {
    println!("\n{}", measure.title());
    println!("  {:32}    median  / no policy            / accept everything    verdicts  lost", "");
    let of = |kind: Kind| sides.iter().position(|s| s.kind == kind).map(|i| &results[i].rates[slot]);
    for (side, result) in sides.iter().zip(results) {
        let rates = &result.rates[slot];
        let against = |base: Kind| match of(base) {
            Some(base) if base != rates => ratio(rates, base).to_string(),
            _ => String::new(),
        };
        let lost = match measure {
            Measure::Packets => format!("{:.1} %", median(&result.lost) * 100.0),
            Measure::Connections(_) => String::new(),
        };
        println!(
            "  {:32} {:>9.0}  {:22} {:22} {:>9.2}  {lost}",
            side.kind.title(),
            median(rates),
            against(Kind::NoPolicy),
            against(Kind::AcceptMmsg),
            median(&result.verdicts[slot]),
        );
    }
}

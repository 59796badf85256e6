//! `podgate demo`: the agent on pods as network namespaces, told as a story.
//!
//! ```text
//!   deploy/examples (embedded) ─▶ Cast: sandbox host, pods, outside, servers
//!                              └▶ Stage: a manifest directory ─▶ agent (this executable's `run`, in the host)
//!   each act: write the policy ─▶ wait for its generation ─▶ every expected flow, for real ─▶ table
//! ```
//!
//! Here: the order of events and what is told. Not here: namespaces and packets (`podgate-sandbox`), and any verdict:
//! what is expected stands in the examples, what decides is asked of `podgate test`.

mod act;
mod agent;
mod cast;
mod examples;
mod interrupt;
mod keep;
mod live;
mod report;
mod stage;

use std::process::ExitCode;
use std::time::Instant;

use anyhow::Result;
use clap::Args;

use crate::cli::CHECK_FAILED;
use agent::Agent;
use cast::Cast;
use interrupt::Interrupt;
use report::{Row, tell};
use stage::Stage;

/// The node's name in the examples.
const NODE: &str = "demo";
/// What every name begins with that the demo leaves in the file system while it runs.
const PREFIX: &str = "podgate-demo-";

/// See policies enforced on real packets: pods as network namespaces, real servers and clients, no cluster. About 20 s.
///
/// Everything happens in network namespaces of its own: it works beside any other firewall on the machine, and leaves
/// nothing behind, whatever way it ends. Needs root.
///
/// Exit code: 0 all as expected, 1 something was not, 2 it could not be done.
#[derive(Debug, Args)]
pub(crate) struct DemoArgs {
    /// Leave pods and agent up, say how to look around, and wait for Ctrl-C.
    #[arg(long)]
    keep: bool,
}

/// Runs the command.
pub(crate) fn main(args: &DemoArgs) -> Result<ExitCode> {
    let begin = Instant::now();
    let interrupt = Interrupt::catch()?;
    let cast = Cast::assemble()?;
    let stage = Stage::build()?;
    tell!(
        "A node with {} pods in two namespaces, and the world outside: network namespaces of this machine.",
        cast.pods()
    );
    tell!("Manifests in {}, agent: `podgate run` in the node's namespace.\n", stage.manifests().display());
    stage.show(examples::OPEN)?;
    let mut agent = Agent::start(&cast, &stage)?;
    let mut rows: Vec<Row> = Vec::new();
    for (number, example) in examples::ALL.iter().enumerate() {
        if interrupt.happened() {
            tell!("\nInterrupted: cleaning up.");
            return Ok(ExitCode::from(CHECK_FAILED));
        }
        act::perform(number, example, &cast, &stage, &mut agent, &mut rows)?;
    }
    let edited = live::perform(examples::ALL.len(), &cast, &stage, &mut agent, &interrupt)?;
    let failed = rows.iter().filter(|row| !row.as_expected()).count();
    tell!("\n{}", report::table(&rows));
    report::counters(agent.counters());
    report::summary(rows.len(), failed, &edited, begin.elapsed());
    let well = failed == 0 && edited.as_expected();
    if args.keep && !interrupt.happened() {
        keep::wait(&cast, &stage, &agent, &interrupt)?;
    } else {
        report::where_next();
    }
    agent.stop();
    Ok(if well { ExitCode::SUCCESS } else { ExitCode::from(CHECK_FAILED) })
}

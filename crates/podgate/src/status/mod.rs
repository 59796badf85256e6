//! `podgate status`: how the agent on this node is doing, asked of the agent itself over its unix socket.
//!
//! ```text
//!   agent:    Gather ── report::Report ── JSON ──▶ /status on the socket (telemetry::http)
//!   command:  ask ──▶ JSON (as it is, with -o json) ──▶ text, for people
//!             --ready, --live ──▶ /readyz, /healthz on the same socket: exit code and reasons, for probes by exec
//! ```
//!
//! Why not over the HTTP address: during an upgrade two agents share that, and a probe must hear of its own one.

mod ask;
mod gather;
mod report;
mod text;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::SystemTime;

use anyhow::{Context, Result, bail};
use clap::Args;
use serde_json::json;

pub(crate) use self::gather::{Gather, Settings};
use self::report::Report;
use crate::cli::{CHECK_FAILED, Output};

/// Where an agent is asked unless told otherwise: where a node's services keep what is gone with a reboot.
pub(crate) const SOCKET: &str = "/run/podgate/agent.sock";

/// Say how the agent on this node is doing: ready or why not, sources, counts, what is diverted, queues, problems.
///
/// Exit code: 0 ok, 1 not ready (with --ready) or not live (with --live), 2 no agent answers, or usage error.
#[derive(Debug, Args)]
pub(crate) struct StatusArgs {
    /// Only whether the agent enforces the world, and why not; for a readiness probe by exec.
    #[arg(long, conflicts_with = "live")]
    ready: bool,

    /// Only whether the agent's workers get on with their work; for a liveness probe by exec.
    #[arg(long)]
    live: bool,

    /// The agent's socket, as it was given to `podgate run`.
    #[arg(long, env = "PODGATE_SOCKET", value_name = "PATH", default_value = SOCKET)]
    socket: PathBuf,

    /// How to print.
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,
}

pub(crate) fn main(args: &StatusArgs) -> Result<ExitCode> {
    match (args.ready, args.live) {
        (true, _) => probe(args, "/readyz", "ready"),
        (_, true) => probe(args, "/healthz", "live"),
        _ => tell(args),
    }
}

fn tell(args: &StatusArgs) -> Result<ExitCode> {
    let answer = ask::ask(&args.socket, "/status")?;
    if answer.status != 200 {
        bail!("{}: {}", args.socket.display(), answer.body.trim());
    }
    match args.output {
        Output::Json => println!("{}", answer.body.trim()),
        Output::Text => {
            let report: Report = serde_json::from_str(&answer.body)
                .context("the agent answers in another way than this podgate knows: ask with its own binary")?;
            print!("{}", text::text(&report, SystemTime::now()));
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Prints the agent's own words: reasons where it is not, else what there is to say.
fn probe(args: &StatusArgs, path: &str, word: &str) -> Result<ExitCode> {
    let answer = ask::ask(&args.socket, path)?;
    let is = match answer.status {
        200 => true,
        503 => false,
        status => bail!("{}: {path} answers {status}: {}", args.socket.display(), answer.body.trim()),
    };
    match args.output {
        Output::Json => {
            let lines: Vec<&str> = answer.body.lines().collect();
            println!("{}", json!({word: is, "lines": lines}));
        }
        Output::Text => print!("{}", answer.body),
    }
    Ok(if is { ExitCode::SUCCESS } else { ExitCode::from(CHECK_FAILED) })
}

//! `podgate cleanup`: takes away what an agent left in the kernel of this network namespace.

use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::Args;
use nix::sys::signal::{SigSet, Signal};
use serde_json::json;

use crate::cli::Output;

/// Take away the kernel's rules and marks that an agent left here; nothing is filtered afterwards. Does no harm where
/// there are none. End the agent first: a running one puts its rules back.
#[derive(Debug, Args)]
pub(crate) struct CleanupArgs {
    /// Stay until SIGTERM or Ctrl-C after cleaning: for a DaemonSet, whose pods are to run on.
    #[arg(long)]
    wait: bool,

    /// How to print.
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,
}

pub(crate) fn main(args: &CleanupArgs) -> Result<ExitCode> {
    // Blocked before cleaning, so that a signal in the meantime ends the wait as soon as it begins; and not left to its
    // default, which the first process of a container does not have.
    let end = SigSet::from_iter([Signal::SIGTERM, Signal::SIGINT]);
    if args.wait {
        end.thread_block().context("blocking signals")?;
    }
    let gone = podgate_netfilter::cleanup().context("cannot clean up")?;
    match args.output {
        Output::Json => {
            println!("{}", json!({"table": gone.table, "connections": gone.connections, "alive": gone.alive}))
        }
        Output::Text => match gone.table {
            true => println!(
                "removed table inet podgate; {} connections are no longer remembered; nothing is filtered any more",
                gone.connections
            ),
            false if gone.connections > 0 => {
                println!("there was no table inet podgate; {} connections are no longer remembered", gone.connections)
            }
            false => println!("nothing to remove: no table inet podgate in this network namespace"),
        },
    }
    if gone.alive {
        eprintln!("an agent is running in this network namespace: it puts its rules back; end it first, then clean up");
    }
    if args.wait {
        end.wait().context("waiting for a signal")?;
    }
    Ok(ExitCode::SUCCESS)
}

//! The podgate agent and command line.
//!
//! ```text
//!   cli ──▶ run      the agent: source → index → snapshot → workers and kernel state
//!       ├─▶ demo     the agent on pods as network namespaces, told as a story
//!       ├─▶ check    `podgate test`: expectations against manifests
//!       ├─▶ explain  why a flow is allowed or denied
//!       ├─▶ status   how the agent is doing, asked of it
//!       └─▶ cleanup  takes the kernel state of an agent away
//! ```
//!
//! Here: wiring and what people see. Not here: verdicts (`podgate-engine`), what policies mean (`podgate-policy`),
//! the kernel (`podgate-netfilter`).
#![forbid(unsafe_code)]

mod cache;
mod check;
mod cleanup;
mod cli;
mod demo;
mod explain;
mod file_args;
mod loaded;
mod parties;
mod question;
mod reject;
mod run;
mod status;
mod telemetry;
mod worker;

use std::process::ExitCode;

fn main() -> ExitCode {
    cli::main()
}

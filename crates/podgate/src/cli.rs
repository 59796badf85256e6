//! The command line: arguments to subcommands, errors to exit codes (0 ok, 1 the check failed, 2 usage or input error).

use std::process::ExitCode;

use clap::{Parser, Subcommand, ValueEnum};

/// A Kubernetes network-policy gateway that is right, says why, is fast, acts at once and fails closed.
#[derive(Debug, Parser)]
#[command(name = "podgate", version, propagate_version = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Run(crate::run::RunArgs),
    Demo(crate::demo::DemoArgs),
    Test(crate::check::TestArgs),
    Explain(crate::explain::ExplainArgs),
    Cleanup(crate::cleanup::CleanupArgs),
}

/// How a reading command prints.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub(crate) enum Output {
    /// For people.
    #[default]
    Text,
    /// For programs.
    Json,
}

/// Exit code where the check that was asked for failed.
pub(crate) const CHECK_FAILED: u8 = 1;
/// Exit code for usage and input errors.
pub(crate) const INPUT_ERROR: u8 = 2;

pub(crate) fn main() -> ExitCode {
    let cli = Cli::parse();
    let outcome: anyhow::Result<ExitCode> = match cli.command {
        Command::Run(args) => crate::run::main(&args),
        Command::Demo(args) => crate::demo::main(&args),
        Command::Test(args) => crate::check::main(&args),
        Command::Explain(args) => crate::explain::main(&args),
        Command::Cleanup(args) => crate::cleanup::main(&args),
    };
    outcome.unwrap_or_else(|error| {
        eprintln!("podgate: {error:#}");
        ExitCode::from(INPUT_ERROR)
    })
}

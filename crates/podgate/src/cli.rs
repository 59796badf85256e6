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
    Run(Box<crate::run::RunArgs>),
    Demo(crate::demo::DemoArgs),
    Test(crate::check::TestArgs),
    Explain(crate::explain::ExplainArgs),
    Status(crate::status::StatusArgs),
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
        Command::Status(args) => crate::status::main(&args),
        Command::Cleanup(args) => crate::cleanup::main(&args),
    };
    outcome.unwrap_or_else(|error| {
        eprintln!("podgate: {error:#}");
        ExitCode::from(INPUT_ERROR)
    })
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    /// Each argument of each subcommand, but the two that clap adds itself.
    fn arguments() -> Vec<(String, clap::Arg)> {
        let all = Cli::command();
        let of =
            |c: &clap::Command| c.get_arguments().map(|a| (c.get_name().to_owned(), a.clone())).collect::<Vec<_>>();
        all.get_subcommands().flat_map(of).collect()
    }

    #[test]
    fn the_command_line_is_sound_and_everything_in_it_has_a_help_text() {
        Cli::command().debug_assert();
        for command in Cli::command().get_subcommands() {
            assert!(command.get_about().is_some(), "podgate {}", command.get_name());
        }
        for (command, argument) in arguments() {
            assert!(argument.get_help().is_some(), "podgate {command}: {argument}");
        }
    }

    #[test]
    fn every_flag_of_the_agent_is_an_environment_variable() {
        let flags: Vec<_> = arguments().into_iter().filter(|(command, _)| command == "run").collect();
        assert!(flags.len() > 10);
        for (_, flag) in flags {
            let name = flag.get_long().expect("a flag").replace('-', "_").to_uppercase();
            let variable = flag.get_env().and_then(|v| v.to_str()).unwrap_or_default();
            // A list is told in the plural: PODGATE_POD_CIDRS.
            assert_eq!(
                variable.strip_suffix('S').filter(|v| v.ends_with("CIDR")).unwrap_or(variable),
                format!("PODGATE_{name}")
            );
        }
    }

    #[test]
    fn every_reading_command_prints_json() {
        for command in ["test", "explain", "status", "cleanup"] {
            let output = arguments().into_iter().find(|(c, a)| c == command && a.get_long() == Some("output"));
            let values = output.expect("-o").1.get_possible_values();
            assert!(values.iter().any(|v| v.matches("json", false)), "podgate {command}");
        }
    }
}

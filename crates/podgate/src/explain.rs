//! `podgate explain`: why a flow is allowed or denied.
//!
//! ```text
//!   -f MANIFESTS ── loaded ──▶ engine: verdict and rule ───────────────┐
//!   FROM TO --port ── question, parties ──▶ flow                       ├─ reasons ──▶ Explanation ──▶ text | JSON
//!                              reference evaluator: what fails where ──┘   remedy      shape
//! ```
//!
//! Here: the command. The verdict is the engine's own; the JSON's shape stands in [`shape`].

mod reasons;
mod remedy;
mod shape;
mod text;
mod words;

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use clap::{Arg, ArgMatches, Args, Command, FromArgMatches, value_parser};

use crate::cli::{CHECK_FAILED, Output};
use crate::file_args;
use crate::loaded::Loaded;
use crate::parties::Parties;
use crate::question::{Family, FlowProtocol, Question, QuestionError};

/// Say why a flow is allowed or denied.
///
/// Tells who the ends are, what isolates them, the rule that decides or what fails in the nearest
/// ones, and what would allow the flow.
///
/// FROM and TO are namespace/pod or an IP address; TO may carry the port:
/// `shop/db:5432`, `10.0.0.7:53`, `[fd00::7]:53`.
///
/// Exit code: 0 explained, whatever the verdict; 2 usage or input error; 1 the engine and the
/// reference evaluator differ, which is a bug.
///
/// -o json prints, allow or deny being the verdicts, and null what does not apply:
///
///   {"from","to","protocol","port","verdict",
///    "source": PARTY, "destination": PARTY, "egress": SIDE, "ingress": SIDE, "warnings": ["..."]}
///   PARTY {"kind": pod|hostNetworkPod|node|address, "name", "address", "node", "namespace",
///          "labels", "namespaceLabels"}
///   SIDE  {"verdict", "rule", "cause": open|ownNode|itself|accepted|denied|defaultDeny, "because",
///          "isolatedBy": [{"policy","kind","place"}],
///          "rules": [{"rule","place","says","matches","mismatch": ["..."]}], nearest first
///          "notSelecting": [{"policy","place","because"}],
///          "remedies": [{"what","manifest"}]}
#[derive(Debug, Args)]
#[command(
    verbatim_doc_comment,
    override_usage = "podgate explain -f MANIFESTS... FROM TO [--port N] [--protocol P] [--family 4|6] [-o json]"
)]
pub(crate) struct ExplainArgs {
    #[command(flatten)]
    ends: Ends,

    /// The destination port at the pod.
    #[arg(long, short, value_name = "N", value_parser = value_parser!(u16).range(1..))]
    port: Option<u16>,

    /// TCP, UDP, SCTP or ICMP (which means ICMPv6 between IPv6 addresses).
    #[arg(long, value_name = "P", default_value = "TCP", value_parser = |text: &str| text.parse::<FlowProtocol>())]
    protocol: FlowProtocol,

    /// The family to judge a pair of dual-stack pods in [default: the first of the source's podIPs that both have].
    #[arg(long, value_name = "4|6", value_parser = family)]
    family: Option<Family>,

    /// How to print the explanation.
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,
}

#[derive(Debug)]
struct Ends {
    manifests: Vec<PathBuf>,
    /// FROM and TO, those of them that were given.
    ends: Vec<String>,
}

const USAGE: &str = "podgate explain -f MANIFESTS... FROM TO --port N";
const ENDS: [&str; 2] = ["FROM", "TO"];

/// Runs the command.
pub(crate) fn main(args: &ExplainArgs) -> Result<ExitCode> {
    if args.ends.manifests.is_empty() {
        bail!("no manifests given: {USAGE}");
    }
    let question = question(args)?;
    let loaded = Loaded::read(&args.ends.manifests)?;
    let flow = question.resolve(&Parties::new(&loaded.world, &loaded.index))?;
    let (explanation, disagreements) = reasons::explain(&loaded, &question, &flow);
    for disagreement in &disagreements {
        eprintln!("podgate: {disagreement}");
    }
    let mut printed = Vec::new();
    match args.output {
        Output::Json => {
            serde_json::to_writer_pretty(&mut printed, &explanation)?;
            printed.push(b'\n');
        }
        Output::Text => text::print(&mut printed, &explanation)?,
    }
    match std::io::stdout().lock().write_all(&printed) {
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => {}
        other => other.context("cannot write the explanation")?,
    }
    Ok(if disagreements.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(CHECK_FAILED) })
}

fn question(args: &ExplainArgs) -> Result<Question> {
    let [from, to] = args.ends.ends.as_slice() else {
        bail!("a flow has two ends, given are {}: {USAGE}", args.ends.ends.len());
    };
    let (to_end, own_port) = split_port(to);
    let port = match (args.port, own_port) {
        (Some(port), Some(own)) if port != own => {
            bail!("which port is meant: {own} (in `{to}`) or {port} (--port)?")
        }
        (port, own) => port.or(own),
    };
    let question = Question::new(from.clone(), to_end, args.protocol, port.map(i64::from), args.family);
    question.map_err(|error| match error {
        QuestionError::PortMissing(_) => {
            anyhow::anyhow!("which port? Give --port N (or --protocol ICMP, which has none)")
        }
        other => other.into(),
    })
}

/// The port that an end carries: after a pod's name, an IPv4 address, or an IPv6 address in brackets. Nothing else is
/// unambiguous.
fn split_port(end: &str) -> (String, Option<u16>) {
    let (name, port) = match end.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((address, "")) => return (address.to_owned(), None),
        Some((address, port)) => (address, port.strip_prefix(':')),
        None => match end.rsplit_once(':') {
            Some((name, port)) if !name.contains(':') => (name, Some(port)),
            _ => (end, None),
        },
    };
    match port.and_then(|port| port.parse().ok()).filter(|port| *port != 0) {
        Some(port) => (name.to_owned(), Some(port)),
        None => (end.to_owned(), None),
    }
}

fn family(text: &str) -> Result<Family, String> {
    match text {
        "4" => Ok(Family::V4),
        "6" => Ok(Family::V6),
        _ => Err("4 or 6".to_owned()),
    }
}

impl Args for Ends {
    fn augment_args(command: Command) -> Command {
        let flag = |name: &'static str, help| Arg::new(name).long(name).value_name("END").help(help);
        let [from, to] = ENDS;
        let positionals =
            [(from, "Who opens the connection: namespace/pod or an IP address"), (to, "To whom, likewise")];
        file_args::augment(command, &positionals).arg(flag("from", "FROM as a flag")).arg(flag("to", "TO as a flag"))
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for Ends {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let flags = ["from", "to"].map(|name| matches.get_one::<String>(name).cloned());
        let wanted = flags.iter().filter(|flag| flag.is_none()).count();
        let (manifests, rest) = file_args::split(matches, &ENDS, wanted);
        let mut rest = rest.into_iter().map(|end| end.to_string_lossy().into_owned());
        let mut ends: Vec<String> = flags.into_iter().filter_map(|flag| flag.or_else(|| rest.next())).collect();
        ends.extend(rest);
        Ok(Ends { manifests, ends })
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_end_carries_a_port_where_that_is_unambiguous() {
        for (end, name, port) in [
            ("shop/db:5432", "shop/db", Some(5432)),
            ("shop/db", "shop/db", None),
            ("10.0.0.7:53", "10.0.0.7", Some(53)),
            ("[fd00::7]:53", "fd00::7", Some(53)),
            ("[fd00::7]", "fd00::7", None),
            ("fd00::7:53", "fd00::7:53", None),
            ("shop/db:http", "shop/db:http", None),
            ("shop/db:0", "shop/db:0", None),
        ] {
            assert_eq!(split_port(end), (name.to_owned(), port), "{end}");
        }
    }
}

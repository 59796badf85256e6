//! `podgate test`: expectations against manifests, judged by the engine that judges packets.
//!
//! ```text
//!   -f MANIFESTS ── loaded ──▶ engine ─┐
//!   EXPECTATIONS ── json | yaml ──▶ Expectation ── parties ──▶ flow ──▶ Outcome ── report ──▶ text | JSON
//! ```
//!
//! Here: the command, and reading the expectations file. Not here: which address an end stands for
//! ([`crate::parties`]), why a flow is denied ([`crate::explain`]).

mod expectation;
mod json;
mod report;
mod yaml;

use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use clap::{ArgMatches, Args, Command, FromArgMatches};

use crate::cli::{CHECK_FAILED, Output};
use crate::file_args;
use crate::loaded::{Loaded, allows};
use crate::parties::Parties;
use expectation::{Expectation, Expectations, FileError};
use report::Outcome;

/// Errors that are printed one by one; further ones are only counted.
const ERRORS_SHOWN: usize = 50;

/// Check expected verdicts of flows against manifests: unit tests for policies.
///
/// EXPECTATIONS is YAML or JSON with a list `flows`, or a bare list, or JSON lines (a flow each):
///
///   flows:
///   - {from: shop/web, to: shop/db, protocol: TCP, port: 5432, expect: allow}
///   - {from: 203.0.113.9, to: shop/web, port: 443, expect: deny}
///
/// from, to   namespace/pod, or an IP address
/// protocol   TCP (default), UDP, SCTP, or ICMP (ICMPv6 between IPv6 addresses)
/// port       the destination port at the pod; none for ICMP
/// family     4 or 6, for a pair of dual-stack pods; without it the first family, in the order
///            of the source's podIPs, that both have
/// expect     allow or deny
///
/// Exit code: 0 all as expected, 1 some are not, 2 usage or input error.
#[derive(Debug, Args)]
#[command(verbatim_doc_comment, override_usage = "podgate test [-o json] -f MANIFESTS... EXPECTATIONS")]
pub(crate) struct TestArgs {
    #[command(flatten)]
    files: Files,

    /// How to print the outcome.
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,
}

#[derive(Debug)]
struct Files {
    manifests: Vec<PathBuf>,
    expectations: Option<PathBuf>,
}

const USAGE: &str = "podgate test -f MANIFESTS... EXPECTATIONS";
const EXPECTATIONS: &str = "EXPECTATIONS";

/// Runs the command.
pub(crate) fn main(args: &TestArgs) -> Result<ExitCode> {
    let Files { manifests, expectations } = &args.files;
    if manifests.is_empty() {
        bail!("no manifests given: {USAGE}");
    }
    let Some(file) = expectations else { bail!("no expectations file given: {USAGE}") };
    if file.as_path() == Path::new("-") && manifests.contains(file) {
        bail!("manifests and expectations cannot both be read from standard input");
    }
    let loaded = Loaded::read(manifests)?;
    let Expectations { flows, errors, .. } = read_expectations(file)?;
    told(file, errors)?;
    for warning in loaded.warnings() {
        eprintln!("warning: {}", loaded.warning_line(&warning));
    }
    let outcomes = judge(&loaded, file, &flows)?;
    let mut out = std::io::BufWriter::with_capacity(1 << 16, std::io::stdout().lock());
    let printed = match args.output {
        Output::Json => report::json(&mut out, &loaded, &flows, &outcomes),
        Output::Text => report::text(&mut out, &loaded, manifests, &flows, &outcomes),
    };
    match printed.and_then(|()| std::io::Write::flush(&mut out)) {
        // Whoever reads has seen enough; the exit code still tells the outcome.
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => {}
        other => other.context("cannot write the outcome")?,
    }
    Ok(match outcomes.iter().all(Outcome::passed) {
        true => ExitCode::SUCCESS,
        false => ExitCode::from(CHECK_FAILED),
    })
}

fn judge(loaded: &Loaded, file: &Path, flows: &[Expectation]) -> Result<Vec<Outcome>> {
    let parties = Parties::new(&loaded.world, &loaded.index);
    let (mut outcomes, mut errors) = (Vec::with_capacity(flows.len()), Vec::new());
    for (index, Expectation { line, question, allow }) in flows.iter().enumerate() {
        match question.resolve(&parties) {
            Ok(flow) => {
                let judgement = loaded.judge(&flow);
                let allowed = allows(judgement.egress) && allows(judgement.ingress);
                outcomes.push(Outcome { judgement, allowed, expected: *allow });
            }
            Err(error) => {
                errors.push(FileError { line: *line, flow: Some(index), message: error.to_string() });
            }
        }
    }
    told(file, errors)?;
    Ok(outcomes)
}

fn read_expectations(file: &Path) -> Result<Expectations> {
    let mut bytes = Vec::new();
    match file == Path::new("-") {
        true => std::io::stdin().lock().read_to_end(&mut bytes).map(drop),
        false => std::fs::File::open(file).and_then(|mut f| f.read_to_end(&mut bytes)).map(drop),
    }
    .with_context(|| format!("cannot read the expectations, {}", file.display()))?;
    let text = String::from_utf8(bytes)
        .ok()
        .with_context(|| format!("{}: the expectations are not UTF-8 text", file.display()))?;
    let mut found = parse(text.strip_prefix('\u{feff}').unwrap_or(&text), file);
    if !found.listed && found.flows.is_empty() && found.errors.is_empty() {
        found.fail(1, "no expectations: the file needs `flows:` with a list of flows");
    }
    Ok(found)
}

/// JSON where it can be JSON: its parser is an order of magnitude faster. What looks like JSON may be YAML in flow
/// style, unless the file's name or its first key says JSON.
fn parse(text: &str, file: &Path) -> Expectations {
    let start = text.trim_start();
    if !start.starts_with(['{', '[']) {
        return yaml::read(text);
    }
    let broken = match json::read(text) {
        Ok(found) => return found,
        Err(broken) => broken,
    };
    let extension = file.extension().and_then(|e| e.to_str());
    let named = matches!(extension, Some("json" | "jsonl" | "ndjson"));
    let quoted = start.trim_start_matches(|c: char| c == '{' || c == '[' || c.is_whitespace()).starts_with('"');
    if named || quoted {
        let mut found = Expectations::default();
        found.fail(broken.line, broken.message);
        return found;
    }
    yaml::read(text)
}

/// An error that lists what is wrong with the file, if anything is.
fn told(file: &Path, errors: Vec<FileError>) -> Result<()> {
    let mut lines: Vec<String> =
        errors.iter().take(ERRORS_SHOWN).map(|error| format!("{}:{error}", file.display())).collect();
    match errors.len() {
        0 => return Ok(()),
        1 => lines.insert(0, "the expectations have an error, so nothing was checked:".to_owned()),
        n => lines.insert(0, format!("the expectations have {n} errors, so nothing was checked:")),
    }
    if let Some(more @ 1..) = errors.len().checked_sub(ERRORS_SHOWN) {
        lines.push(format!("and {more} more"));
    }
    bail!(lines.join("\n"))
}

impl Args for Files {
    fn augment_args(command: Command) -> Command {
        file_args::augment(command, &[(EXPECTATIONS, "File of expected verdicts (`-` is standard input)")])
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for Files {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let (manifests, mut rest) = file_args::split(matches, &[EXPECTATIONS], 1);
        Ok(Files { manifests, expectations: rest.pop() })
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

//! What `podgate test` prints: a table of what is not as expected, or every flow as JSON.
//!
//! The JSON is a public contract: `{"passed":N,"failed":N,"flows":[{"from","to","protocol","port","expect","verdict",
//! "ingress":{"verdict","rule"},"egress":{"verdict","rule"}}]}`, one entry per expectation, in their order.

use std::io::{self, Write};
use std::path::PathBuf;

use comfy_table::{ContentArrangement, Table, presets};
use podgate_engine::{Decision, Judgement};
use serde::Serialize;

use super::expectation::Expectation;
use crate::loaded::{Loaded, allows, verdict_word};

/// Rows of the table; further failures are only counted.
const FAILURES_SHOWN: usize = 100;

/// What became of an expectation.
#[derive(Debug, Clone, Copy)]
pub(super) struct Outcome {
    pub(super) judgement: Judgement,
    pub(super) allowed: bool,
    pub(super) expected: bool,
}

impl Outcome {
    /// The verdict is the expected one.
    pub(super) fn passed(&self) -> bool {
        self.allowed == self.expected
    }
}

#[derive(Serialize)]
struct FlowEntry<'a> {
    from: &'a str,
    to: &'a str,
    protocol: &'static str,
    port: Option<u16>,
    expect: &'static str,
    verdict: &'static str,
    ingress: Side<'a>,
    egress: Side<'a>,
}

#[derive(Serialize)]
struct Side<'a> {
    verdict: &'static str,
    rule: Option<&'a str>,
}

/// One JSON object, a line per flow.
pub(super) fn json(
    out: &mut impl Write,
    loaded: &Loaded,
    flows: &[Expectation],
    outcomes: &[Outcome],
) -> io::Result<()> {
    let failed = outcomes.iter().filter(|o| !o.passed()).count();
    write!(out, "{{\"passed\":{},\"failed\":{failed},\"flows\":[", outcomes.len() - failed)?;
    let side = |decision: Decision| Side { verdict: verdict_word(allows(decision)), rule: loaded.rule(decision) };
    for (index, (Expectation { question, .. }, outcome)) in flows.iter().zip(outcomes).enumerate() {
        out.write_all(if index == 0 { b"\n" } else { b",\n" })?;
        let entry = FlowEntry {
            from: &question.from,
            to: &question.to,
            protocol: question.protocol.as_str(),
            port: question.port,
            expect: verdict_word(outcome.expected),
            verdict: verdict_word(outcome.allowed),
            ingress: side(outcome.judgement.ingress),
            egress: side(outcome.judgement.egress),
        };
        serde_json::to_writer(&mut *out, &entry)?;
    }
    out.write_all(if outcomes.is_empty() { b"]}\n" } else { b"\n]}\n" })
}

/// The failures as a table, then a summary.
pub(super) fn text(
    out: &mut impl Write,
    loaded: &Loaded,
    manifests: &[PathBuf],
    flows: &[Expectation],
    outcomes: &[Outcome],
) -> io::Result<()> {
    let failures: Vec<_> = flows.iter().zip(outcomes).filter(|(_, outcome)| !outcome.passed()).collect();
    if let Some((first, _)) = failures.first() {
        let mut table = Table::new();
        table.load_preset(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
        table.set_header(["LINE", "FROM", "TO", "PORT", "EXPECTED", "VERDICT", "DECIDED BY"]);
        for (Expectation { line, question, .. }, outcome) in failures.iter().take(FAILURES_SHOWN) {
            table.add_row([
                line.to_string(),
                question.from.clone(),
                question.to.clone(),
                question.service(),
                verdict_word(outcome.expected).to_owned(),
                verdict_word(outcome.allowed).to_owned(),
                decided_by(loaded, outcome),
            ]);
        }
        // Without borders the first column has a space before it, and the last one blanks after it.
        for line in table.lines() {
            writeln!(out, "{}", line.strip_prefix(' ').unwrap_or(&line).trim_end())?;
        }
        if let Some(more @ 1..) = failures.len().checked_sub(FAILURES_SHOWN) {
            writeln!(out, "and {more} more failures: -o json tells them all")?;
        }
        writeln!(out, "\nWhy the first one: {}\n", explain_command(manifests, first))?;
    }
    let (count, failed) = (outcomes.len(), failures.len());
    let noun = if count == 1 { "flow" } else { "flows" };
    match failed {
        0 => writeln!(out, "{count} {noun}: all as expected"),
        _ => writeln!(out, "{count} {noun}: {} as expected, {failed} FAILED", count - failed),
    }
}

/// The sides that made the verdict: those that deny, or of an allowed flow every rule that let it pass.
fn decided_by(loaded: &Loaded, outcome: &Outcome) -> String {
    let sides = [outcome.judgement.egress, outcome.judgement.ingress];
    let relevant = sides.into_iter().filter(|side| outcome.allowed || !allows(*side));
    let rules: Vec<&str> = relevant.filter_map(|side| loaded.rule(side)).collect();
    if rules.is_empty() { "no rule: nothing isolates either end here".to_owned() } else { rules.join("\n") }
}

fn explain_command(manifests: &[PathBuf], Expectation { question, .. }: &Expectation) -> String {
    let mut command = "podgate explain -f".to_owned();
    for path in manifests {
        command += &format!(" {}", path.display());
    }
    command += &format!(" {} {}", question.from, question.to);
    match question.port {
        Some(port) => command += &format!(" --port {port}"),
        None => command += " --protocol ICMP",
    }
    if question.port.is_some() && question.protocol != Default::default() {
        command += &format!(" --protocol {}", question.protocol.as_str());
    }
    match question.family {
        Some(family) => command + if family == crate::question::Family::V4 { " --family 4" } else { " --family 6" },
        None => command,
    }
}

//! What the demo prints. A terminal that went away is no reason to stop before everything is cleaned up.

use std::collections::BTreeMap;
use std::time::Duration;

use comfy_table::{ContentArrangement, Table, presets};
use podgate_sandbox::Outcome;

use super::live::{Edited, median, millis};

/// Prints a line; that nobody reads it any more is no error.
macro_rules! tell {
    ($($arg:tt)*) => {{
        use std::io::Write as _;
        let _ = writeln!(std::io::stdout(), $($arg)*);
    }};
}
pub(super) use tell;

/// A flow that was tried.
#[derive(Debug)]
pub(super) struct Row {
    /// The act's number.
    pub(super) act: usize,
    /// Who.
    pub(super) from: String,
    /// Whom.
    pub(super) to: String,
    /// Protocol and port.
    pub(super) service: String,
    /// The example says that it gets through.
    pub(super) expected: bool,
    /// `podgate test` says that it gets through.
    pub(super) judged: bool,
    /// What happened.
    pub(super) seen: Outcome,
    /// The rules that decided.
    pub(super) rule: String,
}

impl Row {
    /// Example, engine and packets agree. (A refusal is no deny: servers are there, so it means that none answered.)
    pub(super) fn as_expected(&self) -> bool {
        let seen = match self.seen {
            Outcome::Open => Some(true),
            Outcome::Timeout => Some(false),
            Outcome::Refused | Outcome::Unreachable | Outcome::Failed(_) => None,
        };
        seen == Some(self.expected) && self.judged == self.expected
    }
}

/// All flows.
pub(super) fn table(rows: &[Row]) -> String {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
    table.set_header(["ACT", "FROM", "TO", "PORT", "EXPECTED", "SEEN", "", "DECIDED BY"]);
    for row in rows {
        table.add_row([
            row.act.to_string(),
            row.from.clone(),
            row.to.clone(),
            row.service.clone(),
            word(row.expected).to_owned(),
            match row.seen {
                Outcome::Open => word(true).to_owned(),
                Outcome::Timeout => word(false).to_owned(),
                other => other.to_string(),
            },
            if row.as_expected() { "" } else { "WRONG" }.to_owned(),
            row.rule.clone(),
        ]);
    }
    let lines: Vec<_> = table.lines().map(|l| l.strip_prefix(' ').unwrap_or(&l).trim_end().to_owned()).collect();
    lines.join("\n")
}

fn word(allowed: bool) -> &'static str {
    if allowed { "allow" } else { "deny" }
}

/// The rule counters, as the agent's /metrics told them.
pub(super) fn counters(counters: &BTreeMap<String, String>) {
    tell!("\nRule counters, as Prometheus scraped them at the end of each act (those that counted something):\n");
    for (series, value) in counters.iter().filter(|(_, value)| *value != "0") {
        tell!("  {series} {value}");
    }
}

/// The last word.
pub(super) fn summary(flows: usize, failed: usize, edited: &Edited, took: Duration) {
    let time = |times: &[Duration]| median(times).map_or("never".to_owned(), |m| format!("{:.1} ms", millis(m)));
    tell!(
        "\n{flows} flows, {} as expected. An edit takes effect in {} (deny) and {} (allow). {:.0} s.",
        if failed == 0 { "all".to_owned() } else { format!("{failed} NOT") },
        time(&edited.closed),
        time(&edited.opened),
        took.as_secs_f32()
    );
    if !edited.as_expected() {
        tell!("The edited policy was NOT enforced as it should be: see the last act.");
    }
}

/// What to do after a demo that cleans up.
pub(super) fn where_next() {
    tell!("\nEverything is cleaned up. Next:");
    tell!("  podgate demo --keep          the same, left up for you to look around and edit");
    tell!("  deploy/examples/             the policies above, each with its expectations");
    tell!("  podgate explain --help       why a flow is allowed or denied");
    tell!("  podgate run --manifests DIR  enforce a directory of manifests on this host");
}

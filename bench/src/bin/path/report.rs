//! The report, as Markdown: a table for each measure, and one of goals. Columns that say nothing are left out.

use std::fmt::Write as _;

use podgate_bench::stats::Estimate;

use crate::goals::Goal;
use crate::kinds::{Agent, Build, Kind};
use crate::measure::Sample;
use crate::plan::{Measure, Named};
use crate::results::Results;

/// Tables of all measures.
pub(crate) fn measures(results: &Results, queues: u16) -> String {
    let tables = results
        .measures()
        .into_iter()
        .map(|measure| format!("## {}\n\n{}\n", measure.title(), aligned(&table(results, measure, queues))));
    tables.collect()
}

/// A heading, and a row for each side.
fn table(results: &Results, measure: Measure, queues: u16) -> Vec<Vec<String>> {
    let bases = [
        ("÷ no policy", Kind::NoPolicy),
        ("÷ one kernel rule", Kind::KernelRule),
        ("÷ kernel set", Kind::KernelSet),
        ("÷ accept everything", Named::new(queues).accept),
    ];
    let mut heading = vec!["side".to_owned(), measure.unit().to_owned()];
    heading.extend(bases.iter().map(|(title, _)| (*title).to_owned()));
    heading.push("÷ other revision".to_owned());
    let rest =
        ["median µs", "p99 µs", "lost", "verdicts each", "judging, ns each", "judging, cores", "flood, packets/s"];
    heading.extend(rest.map(str::to_owned));

    let mut rows = vec![heading];
    for side in results.sides(measure) {
        let of = |what: fn(&Sample) -> Option<f64>| results.of(measure, side, what);
        let against = |base: Kind| {
            let ratio = (base != side).then(|| results.ratio(measure, side, base)).flatten();
            ratio.map(|r| r.to_string()).unwrap_or_default()
        };
        let mut row = vec![side.to_string(), of(|s| Some(s.rate)).map(rate).unwrap_or_default()];
        row.extend(bases.iter().map(|(_, base)| against(*base)));
        row.push(other(side).map(against).unwrap_or_default());
        let number = |estimate: Option<Estimate>, scale: f64, digits: usize, unit: &str| {
            estimate.map(|e| format!("{:.digits$}{unit}", e.median * scale)).unwrap_or_default()
        };
        row.push(number(of(|s| Some(s.latency?.median)), 1.0, 0, ""));
        row.push(number(of(|s| Some(s.latency?.p99)), 1.0, 0, ""));
        row.push(number(of(|s| s.lost), 100.0, 2, " %"));
        row.push(number(of(|s| s.verdicts), 1.0, 2, ""));
        let (each, cores) = match measure.flood() {
            None => (of(|s| s.work), None),
            Some(_) => (None, of(|s| s.work)),
        };
        row.push(number(each, 1.0, 0, ""));
        row.push(number(cores, 1e-9, 2, ""));
        row.push(number(of(|s| s.flood), 1.0, 0, ""));
        rows.push(row);
    }
    rows
}

/// The same on the other build.
pub(crate) fn other(side: Kind) -> Option<Kind> {
    match side {
        Kind::Podgate(agent) if agent.build == Build::This => {
            Some(Kind::Podgate(Agent { build: Build::Other, ..agent }))
        }
        _ => None,
    }
}

/// Goals whose sides were measured.
pub(crate) fn goals(results: &Results, queues: u16) -> String {
    let mut rows = vec![["what", "of", "goal", "measured", "reached"].map(str::to_owned).to_vec()];
    for goal in Goal::all(queues) {
        let Some(measured) = goal.measured(results) else { continue };
        let what = format!("{}: {}", goal.measure.title(), goal.side);
        let reached = goal.reached(measured).text().to_owned();
        rows.push(vec![what, goal.base.to_string(), format!("≥ {}", goal.least), measured.to_string(), reached]);
    }
    if rows.len() == 1 { String::new() } else { format!("## Goals\n\n{}\n", aligned(&rows)) }
}

/// A rate with its interval.
fn rate(estimate: Estimate) -> String {
    let digits = if estimate.median < 1000.0 { 1 } else { 0 };
    let Estimate { median, low, high } = estimate;
    format!("{median:.digits$} [{low:.digits$}, {high:.digits$}]")
}

/// A Markdown table whose columns are aligned in a terminal as well; without columns that are empty but for the heading.
fn aligned(rows: &[Vec<String>]) -> String {
    let columns = rows.first().map_or(0, Vec::len);
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let said = |column: &usize| rows[1..].iter().any(|row| !row[*column].is_empty());
    let columns: Vec<(usize, usize)> = (0..columns).filter(said).map(|column| (column, width(column))).collect();
    let mut text = String::new();
    for (at, row) in rows.iter().enumerate() {
        for (column, width) in &columns {
            let cell = &row[*column];
            let _ = write!(text, "| {cell}{} ", " ".repeat(width - cell.chars().count()));
        }
        text.push_str("|\n");
        if at == 0 {
            columns.iter().for_each(|(_, width)| text.push_str(&format!("|{}", "-".repeat(width + 2))));
            text.push_str("|\n");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_are_aligned_and_have_no_empty_columns() {
        let rows = [["side", "nothing", "÷ no"], ["one", "", "1.0"], ["another", "", "2"]];
        let rows = rows.map(|row| row.map(str::to_owned).to_vec());
        assert_eq!(aligned(&rows), "| side    | ÷ no |\n|---------|------|\n| one     | 1.0  |\n| another | 2    |\n");
    }
}

//! One act: an example is put in force, and every flow that its expectations name is tried for real.

use std::net::IpAddr;
use std::path::Path;
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use podgate_sandbox::{Probe, ProbeKind, probe_all};
use serde::Deserialize;

use super::agent::{Agent, clean};
use super::cast::Cast;
use super::examples::{Example, Flow};
use super::report::{Row, tell};
use super::stage::Stage;

/// What `podgate test -o json` says (the parts that matter here).
#[derive(Debug, Deserialize)]
struct Judged {
    flows: Vec<JudgedFlow>,
}

#[derive(Debug, Deserialize)]
struct JudgedFlow {
    from: String,
    to: String,
    expect: String,
    verdict: String,
    ingress: Side,
    egress: Side,
}

#[derive(Debug, Deserialize)]
struct Side {
    verdict: String,
    rule: Option<String>,
}

/// Plays an example; the outcome goes to `rows`.
pub(super) fn perform(
    number: usize,
    example: &Example,
    cast: &Cast,
    stage: &Stage,
    agent: &mut Agent,
    rows: &mut Vec<Row>,
) -> Result<()> {
    let begin = Instant::now();
    // The first act is what the agent started with.
    if number > 0 {
        stage.show(example)?;
        agent.await_next()?;
    }
    let judged = judge(&stage.manifests(), &stage.expect(example)?)?;
    let flows: Vec<_> = example.flows().collect();
    let same = |(judged, flow): (&JudgedFlow, &Flow)| judged.from == flow.from && judged.to == flow.to;
    if judged.flows.len() != flows.len() || !judged.flows.iter().zip(&flows).all(same) {
        bail!("podgate test reads other flows in {} than the demo", example.name);
    }
    let expected = judged.flows.iter().map(|j| j.expect == "allow");
    let probes = flows.iter().zip(expected).map(|(f, open)| probe(f, open, cast)).collect::<Result<Vec<_>>>()?;
    let outcomes = probe_all(&probes);
    agent.scrape()?;
    let seen = judged.flows.into_iter().zip(&probes).zip(outcomes).map(|((flow, probe), seen)| Row {
        act: number,
        rule: deciding(&flow),
        from: flow.from,
        to: flow.to,
        service: if probe.to.is_ipv6() { format!("{}, IPv6", probe.kind) } else { probe.kind.to_string() },
        expected: flow.expect == "allow",
        judged: flow.verdict == "allow",
        seen,
    });
    let seen: Vec<Row> = seen.collect();
    let failed = seen.iter().filter(|row| !row.as_expected()).count();
    let outcome = if failed == 0 { "all as expected".to_owned() } else { format!("{failed} NOT AS EXPECTED") };
    tell!("{number:>2}  {}", example.title);
    tell!(
        "    {} flows: {outcome} ({:.1} s)   deploy/examples/{}",
        seen.len(),
        begin.elapsed().as_secs_f32(),
        example.name
    );
    rows.extend(seen);
    Ok(())
}

/// Asks `podgate test`, which judges by the engine that judges packets.
fn judge(manifests: &Path, expectations: &Path) -> Result<Judged> {
    let mut command = clean(Command::new(std::env::current_exe().context("cannot find this executable")?));
    command.arg("test").arg("-f").arg(manifests).args(["-o", "json"]).arg(expectations);
    let output = command.output().context("cannot run podgate test")?;
    // 1 says that a verdict is not the expected one: the table will, too.
    if !matches!(output.status.code(), Some(0 | 1)) {
        bail!("podgate test failed: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    serde_json::from_slice(&output.stdout).context("cannot understand the outcome of podgate test")
}

fn probe(flow: &Flow, open: bool, cast: &Cast) -> Result<Probe> {
    let kind = match (flow.protocol, flow.port) {
        ("TCP", Some(port)) => ProbeKind::Tcp(port),
        ("UDP", Some(port)) => ProbeKind::Udp(port),
        ("ICMP", _) => ProbeKind::Echo,
        (other, _) => bail!("the demo cannot try {other}"),
    };
    let (from, to) = (cast.addresses(flow.from)?, cast.addresses(flow.to)?);
    let both = |a: &IpAddr| to.iter().copied().find(|b| a.is_ipv4() == b.is_ipv4());
    let wanted = |a: &&IpAddr| flow.family.is_none_or(|f| (f == 4) == a.is_ipv4());
    let to = from.iter().filter(wanted).find_map(both);
    let to = to.with_context(|| format!("{} and {} have no family in common", flow.from, flow.to))?;
    Ok(Probe { client: cast.client(flow.from)?, to, kind, expect_open: open })
}

/// The rules that made the verdict: those that deny, or every rule that let it pass.
fn deciding(flow: &JudgedFlow) -> String {
    let relevant = [&flow.egress, &flow.ingress].into_iter().filter(|s| flow.verdict == "allow" || s.verdict == "deny");
    let rules: Vec<_> = relevant.filter_map(|s| s.rule.as_deref()).collect();
    if rules.is_empty() { "-".to_owned() } else { rules.join(" + ") }
}

#[cfg(test)]
mod tests {
    use podgate_sandbox::unexpected;

    use super::*;
    use crate::demo::examples::ALL;

    #[test]
    fn without_an_agent_every_flow_of_every_example_gets_through() {
        let cast = Cast::assemble().unwrap();
        let probes: Vec<_> =
            ALL.iter().flat_map(Example::flows).map(|flow| probe(&flow, true, &cast).unwrap()).collect();
        assert_eq!(unexpected(&probes), Vec::<String>::new());
    }
}

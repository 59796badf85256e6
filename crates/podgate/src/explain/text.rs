//! An explanation as text, for somebody who asks "why can't my pod reach that one?".

use std::io::{self, Write};

use podgate_api::Action;

use super::shape::{CauseWord, Explanation, Isolation, Party, PartyKind, RuleReport, Side};
use super::words;

/// Rules that are shown; further ones are only counted.
const RULES_SHOWN: usize = 5;
/// Policies shown that do not select the subject.
const NOT_SELECTING_SHOWN: usize = 5;

/// Prints it.
pub(super) fn print(out: &mut impl Write, explanation: &Explanation) -> io::Result<()> {
    let Explanation { from, to, source, destination, egress, ingress, warnings, .. } = explanation;
    let service = match explanation.port {
        Some(port) => format!("{} {port}", explanation.protocol),
        None => explanation.protocol.to_owned(),
    };
    let verdict = if explanation.verdict == "allow" { "ALLOWED" } else { "DENIED" };
    writeln!(out, "{verdict}: {from} -> {to}, {service}")?;
    for (side, word, party) in [(egress, "egress", source), (ingress, "ingress", destination)] {
        if side.verdict == "deny" {
            let rule = side.rule.as_deref().unwrap_or_default();
            writeln!(out, "  by {word} of {}: {rule}", party.name)?;
        }
    }
    writeln!(out)?;
    print_party(out, "from", source)?;
    print_party(out, "to  ", destination)?;
    print_side(out, "Egress", source, egress)?;
    print_side(out, "Ingress", destination, ingress)?;
    if !warnings.is_empty() {
        writeln!(out, "\nWarnings")?;
        for warning in warnings {
            writeln!(out, "  {warning}")?;
        }
    }
    Ok(())
}

fn print_party(out: &mut impl Write, word: &str, party: &Party) -> io::Result<()> {
    let Party { name, address, .. } = party;
    let on = party.node.as_ref().map(|node| format!(", on node {node}")).unwrap_or_default();
    match party.kind {
        PartyKind::Pod => writeln!(out, "{word}  pod {name}, {address}{on}")?,
        PartyKind::HostNetworkPod => {
            writeln!(out, "{word}  hostNetwork pod {name}{on}: to policies it is its node, {address}")?;
        }
        PartyKind::Node => writeln!(out, "{word}  node {name}, {address}")?,
        PartyKind::Address => writeln!(out, "{word}  {address}, neither a pod nor a node of the manifests")?,
    }
    if let (Some(labels), Some(namespace), Some(namespace_labels)) =
        (&party.labels, &party.namespace, &party.namespace_labels)
    {
        writeln!(out, "      labels {}", words::labels(labels))?;
        writeln!(out, "      namespace {namespace}, labels {}", words::labels(namespace_labels))?;
    }
    Ok(())
}

fn print_side(out: &mut impl Write, word: &str, party: &Party, side: &Side) -> io::Result<()> {
    let verdict = if side.verdict == "allow" { "allowed" } else { "DENIED" };
    writeln!(out, "\n{word} of {}: {verdict}, {}", party.name, side.because)?;
    if !side.isolated_by.is_empty() {
        writeln!(out, "  isolated for {} by", word.to_lowercase())?;
        for isolation in &side.isolated_by {
            writeln!(out, "    {}", isolation_line(isolation))?;
        }
    }
    match side.cause {
        CauseWord::DefaultDeny => print_nearest(out, side)?,
        CauseWord::Accepted | CauseWord::Denied => print_deciding(out, side)?,
        CauseWord::Open | CauseWord::OwnNode | CauseWord::Itself => {}
    }
    if !side.not_selecting.is_empty() {
        writeln!(out, "  policies here that do not select it")?;
        for policy in side.not_selecting.iter().take(NOT_SELECTING_SHOWN) {
            writeln!(out, "    NetworkPolicy {}{}: {}", policy.policy, at(&policy.place), policy.because)?;
        }
        more(out, side.not_selecting.len(), NOT_SELECTING_SHOWN, "policies")?;
    }
    if !side.remedies.is_empty() {
        writeln!(out, "  what would allow it, each by itself")?;
        for remedy in &side.remedies {
            writeln!(out, "    * {}{}", remedy.what, if remedy.manifest.is_some() { ":" } else { "" })?;
            for line in remedy.manifest.iter().flat_map(|manifest| manifest.lines()) {
                writeln!(out, "        {line}")?;
            }
        }
    }
    Ok(())
}

fn isolation_line(isolation: &Isolation) -> String {
    match isolation.kind {
        "Namespace" => format!(
            "the annotation net.beta.kubernetes.io/network-policy of namespace {}{}",
            isolation.policy,
            at(&isolation.place)
        ),
        kind => format!("{kind} {}{}", isolation.policy, at(&isolation.place)),
    }
}

/// The rules that came nearest to accepting, and those by which a cluster tier left the word to NetworkPolicies.
fn print_nearest(out: &mut impl Write, side: &Side) -> io::Result<()> {
    let passing: Vec<_> = side.rules.iter().filter(|rule| rule.matches && rule.action == Action::Pass).collect();
    if let Some(rule) = passing.first() {
        writeln!(out, "  left to NetworkPolicies by")?;
        print_rule(out, rule)?;
    }
    // What a Pass kept from being asked matches, and is not among them.
    let failing = side.rules.iter().filter(|rule| rule.action == Action::Accept && !rule.matches);
    let failing: Vec<&RuleReport> = failing.collect();
    match failing.len() {
        0 => return writeln!(out, "  and there is no rule that accepts anything"),
        1 => writeln!(out, "  the only rule does not match")?,
        n => writeln!(out, "  none of the {n} rules matches, the nearest first")?,
    }
    for rule in failing.iter().take(RULES_SHOWN) {
        print_rule(out, rule)?;
        for line in &rule.mismatch {
            writeln!(out, "      but {line}")?;
        }
    }
    more(out, failing.len(), RULES_SHOWN, "rules")
}

/// The rule that decided, and others that would have.
fn print_deciding(out: &mut impl Write, side: &Side) -> io::Result<()> {
    writeln!(out, "  the rule that decides")?;
    let (deciding, others): (Vec<_>, Vec<_>) =
        side.rules.iter().filter(|r| r.matches).partition(|r| Some(&r.rule) == side.rule.as_ref());
    for rule in deciding {
        print_rule(out, rule)?;
    }
    if !others.is_empty() {
        writeln!(out, "  these match as well")?;
        for rule in others.iter().take(RULES_SHOWN) {
            print_rule(out, rule)?;
        }
        more(out, others.len(), RULES_SHOWN, "rules")?;
    }
    Ok(())
}

fn print_rule(out: &mut impl Write, rule: &RuleReport) -> io::Result<()> {
    writeln!(out, "    {}{}", rule.rule, at(&rule.place))?;
    writeln!(out, "      {}", rule.says)
}

fn more(out: &mut impl Write, count: usize, shown: usize, what: &str) -> io::Result<()> {
    match count.checked_sub(shown) {
        Some(more @ 1..) => writeln!(out, "    and {more} more {what} (-o json tells them all)"),
        _ => Ok(()),
    }
}

fn at(place: &Option<String>) -> String {
    place.as_ref().map(|place| format!(" ({place})")).unwrap_or_default()
}

//! From a judged flow to its [`Explanation`]. Verdicts and rule names are the engine's; which conditions hold and fail
//! is asked of the reference evaluator's matching functions. Where the two differ, that is a bug and said so.

use std::net::IpAddr;

use podgate_api::{Action, Direction, Kind, ObjectKey, Pod, PolicySpec, Tier};
use podgate_engine::{Cause, Decision};
use podgate_policy::reference::{self, Flow, Mismatch, PeerMismatch, PodCondition};

use super::remedy;
use super::shape::{CauseWord, Explanation, Isolation, NotSelecting, Party, PartyKind, RuleReport, Side};
use super::words;
use crate::loaded::{Loaded, allows, verdict_word};
use crate::question::Question;

/// The two evaluators differ.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "BUG: the engine and the reference evaluator differ on {flow}, {direction}: engine {engine}, reference {reference}. \
     The verdict below is the engine's, which is what is enforced; its reasons may not fit. Please report this with \
     the manifests."
)]
pub(super) struct Disagreement {
    flow: String,
    direction: &'static str,
    engine: String,
    reference: String,
}

/// Explains a flow that the question came to.
pub(super) fn explain(loaded: &Loaded, question: &Question, flow: &Flow) -> (Explanation, Vec<Disagreement>) {
    let judgement = loaded.judge(flow);
    let (mut disagreements, mut warnings) = (Vec::new(), warnings(loaded, flow));
    let mut side = |direction, decision| {
        disagreements.extend(compare(loaded, flow, direction, decision).err());
        explain_side(loaded, flow, direction, decision, &mut warnings)
    };
    let egress = side(Direction::Egress, judgement.egress);
    let ingress = side(Direction::Ingress, judgement.ingress);
    let allowed = allows(judgement.egress) && allows(judgement.ingress);
    let explanation = Explanation {
        from: question.from.clone(),
        to: question.to.clone(),
        protocol: question.protocol.as_str(),
        port: question.port,
        verdict: verdict_word(allowed),
        source: party(loaded, &question.from, flow.source),
        destination: party(loaded, &question.to, flow.destination),
        egress,
        ingress,
        warnings,
    };
    (explanation, disagreements)
}

/// Whether both evaluators give the same cause, by the same rule.
fn compare(loaded: &Loaded, flow: &Flow, direction: Direction, decision: Decision) -> Result<(), Disagreement> {
    let engine = match decision.cause {
        Cause::Open | Cause::Unknown => "open",
        Cause::OwnNode => "own node",
        Cause::Itself => "itself",
        Cause::Accepted(_) => "accepted",
        Cause::Denied(_) => "denied",
    };
    let expected = reference::judge(&loaded.world, flow, direction);
    let reference = match &expected {
        reference::Cause::Open => "open",
        reference::Cause::OwnNode => "own node",
        reference::Cause::Itself => "itself",
        reference::Cause::Accepted(_) => "accepted",
        reference::Cause::Denied(_) => "denied",
    };
    same(flow, direction, (engine, loaded.rule(decision)), (reference, expected.rule()))
}

fn same(
    flow: &Flow,
    direction: Direction,
    engine: (&str, Option<&str>),
    reference: (&str, Option<&str>),
) -> Result<(), Disagreement> {
    let say = |(cause, rule): (&str, Option<&str>)| format!("{cause} ({})", rule.unwrap_or("no rule"));
    match engine == reference {
        true => Ok(()),
        false => Err(Disagreement {
            flow: flow.to_string(),
            direction: direction.as_str(),
            engine: say(engine),
            reference: say(reference),
        }),
    }
}

fn party(loaded: &Loaded, asked: &str, address: IpAddr) -> Party {
    let world = &loaded.world;
    if let Some(pod) = reference::owner(world, address) {
        return Party {
            kind: PartyKind::Pod,
            name: name(pod),
            address: address.to_string(),
            node: pod.node.clone(),
            namespace: Some(pod.namespace.clone()),
            labels: Some(pod.labels.clone()),
            namespace_labels: Some(reference::namespace_labels(world, &pod.namespace).into_owned()),
        };
    }
    let nodes = reference::nodes_at(world, address);
    let host_pod = asked.split_once('/').and_then(|(ns, name)| world.pods.get(&(ns.to_owned(), name.to_owned())));
    let (kind, name) = match (host_pod, nodes.is_empty()) {
        (Some(_), _) => (PartyKind::HostNetworkPod, asked.to_owned()),
        (None, false) => (PartyKind::Node, nodes.join(", ")),
        (None, true) => (PartyKind::Address, address.to_string()),
    };
    let node = host_pod.and_then(|pod| pod.node.clone());
    Party { kind, name, address: address.to_string(), node, namespace: None, labels: None, namespace_labels: None }
}

fn explain_side(
    loaded: &Loaded,
    flow: &Flow,
    direction: Direction,
    decision: Decision,
    warnings: &mut Vec<String>,
) -> Side {
    let world = &loaded.world;
    let rule = loaded.rule(decision).map(str::to_owned);
    let mut side = Side {
        verdict: verdict_word(allows(decision)),
        cause: cause_word(decision, rule.as_deref()),
        because: String::new(),
        rule,
        isolated_by: Vec::new(),
        rules: Vec::new(),
        not_selecting: Vec::new(),
        remedies: Vec::new(),
    };
    let subject = reference::subject(world, flow, direction);
    side.because = because(loaded, flow, direction, subject, &side);
    let Some(pod) = subject else { return side };
    side.isolated_by = isolations(loaded, pod, direction);
    // Where NetworkPolicies isolate the pod, the Baseline tier is not asked.
    let isolated = !side.isolated_by.is_empty();
    let policies = reference::policies_selecting(world, pod, direction);
    let mut mismatches = Vec::new();
    for policy in policies.iter().filter(|p| !isolated || p.tier != Tier::Baseline) {
        for (index, rule) in policy.rules(direction).iter().enumerate() {
            let mismatch = reference::rule_matches(world, policy, rule, flow, direction).err();
            side.rules.push(RuleReport {
                rule: reference::rule_name(policy, direction, index),
                place: place(loaded, &policy.key),
                says: words::rule(policy, rule, direction),
                matches: mismatch.is_none(),
                mismatch: mismatch.as_ref().map(|m| mismatch_lines(m, direction)).unwrap_or_default(),
                distance: mismatch.as_ref().map(distance).unwrap_or(0),
                action: rule.action,
            });
            let accepting = mismatch.filter(|_| rule.action == Action::Accept);
            mismatches.extend(accepting.map(|m| (reference::rule_name(policy, direction, index), m)));
        }
    }
    side.rules.sort_by_key(|rule| rule.distance);
    mismatches.sort_by_key(|(_, mismatch)| distance(mismatch));
    warnings.extend(labels_untold(loaded, flow.other_end(direction), &mismatches));
    if side.cause == CauseWord::Open {
        side.not_selecting = not_selecting(loaded, pod, direction);
    }
    if side.verdict == verdict_word(false) {
        side.remedies = remedy::remedies(loaded, flow, direction, pod, &mismatches);
    }
    side
}

fn cause_word(decision: Decision, rule: Option<&str>) -> CauseWord {
    match decision.cause {
        Cause::Open | Cause::Unknown => CauseWord::Open,
        Cause::OwnNode => CauseWord::OwnNode,
        Cause::Itself => CauseWord::Itself,
        Cause::Accepted(_) => CauseWord::Accepted,
        Cause::Denied(_) if rule.is_some_and(|r| r.ends_with("/default-deny")) => CauseWord::DefaultDeny,
        Cause::Denied(_) => CauseWord::Denied,
    }
}

fn because(loaded: &Loaded, flow: &Flow, direction: Direction, subject: Option<&Pod>, side: &Side) -> String {
    let address = flow.subject_end(direction);
    let nodes = reference::nodes_at(&loaded.world, address);
    let direction = direction.as_str();
    let rule = side.rule.as_deref().unwrap_or_default();
    match (side.cause, subject.map(name)) {
        (CauseWord::Open, Some(pod)) => format!("no policy isolates {pod} for {direction}"),
        (CauseWord::Open, None) if nodes.is_empty() => {
            format!("{address} is no pod of the manifests, and policies are about pods only")
        }
        (CauseWord::Open, None) => format!(
            "{address} is a node's address, and policies are about neither nodes nor pods in their node's network"
        ),
        (CauseWord::OwnNode, _) => "traffic between a pod and its own node is always allowed".to_owned(),
        (CauseWord::Itself, _) => "a pod's traffic with itself is always allowed".to_owned(),
        (CauseWord::Accepted, _) => format!("accepted by {rule}"),
        (CauseWord::Denied, _) => format!("denied by {rule}"),
        (CauseWord::DefaultDeny, pod) => format!(
            "{} is isolated for {direction}, and no rule accepts this flow",
            pod.unwrap_or_else(|| address.to_string())
        ),
    }
}

fn isolations(loaded: &Loaded, pod: &Pod, direction: Direction) -> Vec<Isolation> {
    let policies = reference::isolating(&loaded.world, pod, direction);
    let mut found: Vec<Isolation> = policies
        .iter()
        .map(|p| Isolation { policy: policy_name(p), kind: "NetworkPolicy", place: place(loaded, &p.key) })
        .collect();
    if reference::annotation_isolates(&loaded.world, pod, direction) {
        let key = ObjectKey { kind: Kind::Namespace, namespace: String::new(), name: pod.namespace.clone() };
        found.push(Isolation { policy: pod.namespace.clone(), kind: "Namespace", place: place(loaded, &key) });
    }
    found
}

/// What fails, by the fields of the manifest. One of the peers has to match, and one of the ports.
fn mismatch_lines(mismatch: &Mismatch, direction: Direction) -> Vec<String> {
    let peers = match direction {
        Direction::Ingress => "from",
        Direction::Egress => "to",
    };
    let mut lines = Vec::new();
    if mismatch.no_peers {
        lines.push(format!("{peers}: it has no peer that this version knows"));
    }
    for (index, peer) in mismatch.peers.iter().enumerate() {
        lines.push(match peer {
            PeerMismatch::Pod { pod, conditions } => {
                let conditions: Vec<String> = conditions.iter().map(ToString::to_string).collect();
                format!("{peers}[{index}]: of {pod}, {}", conditions.join("; "))
            }
            other => format!("{peers}[{index}]: {other}"),
        });
    }
    lines.extend(mismatch.ports.iter().enumerate().map(|(index, port)| format!("ports[{index}]: {port}")));
    lines
}

/// How many conditions would have to change at the least.
fn distance(mismatch: &Mismatch) -> usize {
    let peer = |peer: &PeerMismatch| match peer {
        PeerMismatch::Pod { conditions, .. } => conditions.len(),
        PeerMismatch::Node { conditions, .. } => conditions.len(),
        PeerMismatch::OutsideBlock { .. } | PeerMismatch::InExcept { .. } => 1,
        PeerMismatch::NoPod { .. } | PeerMismatch::NoNode { .. } => 2,
    };
    let peers = mismatch.peers.iter().map(peer).min().unwrap_or(if mismatch.no_peers { 4 } else { 0 });
    peers + usize::from(!mismatch.ports.is_empty())
}

/// Policies of the pod's namespace about this direction that do not select it, fewest failed conditions first.
fn not_selecting(loaded: &Loaded, pod: &Pod, direction: Direction) -> Vec<NotSelecting> {
    let here =
        |p: &&PolicySpec| p.tier == Tier::NetworkPolicy && p.key.namespace == pod.namespace && p.isolates(direction);
    let mut found: Vec<(usize, NotSelecting)> = Vec::new();
    for policy in loaded.world.policies.values().filter(here) {
        let Err(conditions) = reference::selects(&loaded.world, policy, pod) else { continue };
        let words: Vec<String> = conditions.iter().map(ToString::to_string).collect();
        let (policy, place) = (policy_name(policy), place(loaded, &policy.key));
        found.push((conditions.len(), NotSelecting { policy, place, because: words.join("; ") }));
    }
    found.sort_by_key(|(conditions, _)| *conditions);
    found.into_iter().map(|(_, policy)| policy).collect()
}

/// The warnings about these ends: their pods, namespaces and nodes, and policies that select them.
fn warnings(loaded: &Loaded, flow: &Flow) -> Vec<String> {
    let world = &loaded.world;
    let pods: Vec<&Pod> = [flow.source, flow.destination].iter().filter_map(|a| reference::owner(world, *a)).collect();
    let concerns = |key: &ObjectKey| match key.kind {
        Kind::Pod => pods.iter().any(|pod| (&pod.namespace, &pod.name) == (&key.namespace, &key.name)),
        Kind::Namespace => pods.iter().any(|pod| pod.namespace == key.name),
        Kind::Node => pods.iter().any(|pod| pod.node.as_ref() == Some(&key.name)),
        Kind::NetworkPolicy
        | Kind::LegacyNetworkPolicy
        | Kind::ClusterNetworkPolicy
        | Kind::AdminNetworkPolicy
        | Kind::BaselineAdminNetworkPolicy => {
            let policy = world.policies.get(key);
            policy.is_some_and(|policy| pods.iter().any(|pod| reference::selects(world, policy, pod).is_ok()))
        }
    };
    let about = loaded.warnings().into_iter().filter(|warning| concerns(&warning.object));
    about.map(|warning| loaded.warning_line(&warning)).collect()
}

/// Rules ask for labels of a namespace that the manifests do not tell.
fn labels_untold(loaded: &Loaded, peer: IpAddr, mismatches: &[(String, Mismatch)]) -> Option<String> {
    let pod = reference::owner(&loaded.world, peer)?;
    let untold = !loaded.world.namespaces.contains_key(&pod.namespace);
    let by_label = |condition: &PodCondition| match condition {
        PodCondition::NamespaceLabel(label) => label.requirement.key != "kubernetes.io/metadata.name",
        _ => false,
    };
    let by_label = |peer: &PeerMismatch| match peer {
        PeerMismatch::Pod { conditions, .. } => conditions.iter().any(by_label),
        _ => false,
    };
    let asked = mismatches.iter().any(|(_, mismatch)| mismatch.peers.iter().any(by_label));
    (untold && asked).then(|| {
        format!(
            "Namespace {}: rules ask for its labels, but the manifests have no such object; it counts as one with \
             the label kubernetes.io/metadata.name only",
            pod.namespace
        )
    })
}

fn place(loaded: &Loaded, key: &ObjectKey) -> Option<String> {
    loaded.place(key).map(ToString::to_string)
}

/// `namespace/name`.
pub(super) fn name(pod: &Pod) -> String {
    format!("{}/{}", pod.namespace, pod.name)
}

fn policy_name(policy: &PolicySpec) -> String {
    match policy.key.namespace.as_str() {
        "" => policy.key.name.clone(),
        namespace => format!("{namespace}/{}", policy.key.name),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_difference_between_the_evaluators_is_told() {
        let address = IpAddr::from([10, 0, 0, 1]);
        let flow = Flow { source: address, destination: address, protocol: 6, port: Some(80) };
        let rule = Some("networkpolicy/n/p/ingress/0");
        assert_eq!(same(&flow, Direction::Ingress, ("accepted", rule), ("accepted", rule)), Ok(()));
        let other = same(&flow, Direction::Ingress, ("accepted", rule), ("accepted", None)).unwrap_err();
        assert!(other.to_string().starts_with("BUG: "), "{other}");
        let error = same(&flow, Direction::Ingress, ("accepted", rule), ("denied", rule)).unwrap_err().to_string();
        assert!(error.contains("engine accepted (networkpolicy/n/p/ingress/0)"), "{error}");
        assert!(error.contains("reference denied (networkpolicy/n/p/ingress/0)"), "{error}");
    }
}

//! Policies of the cluster tiers by way of their manifests: a random spec is cut down to what its kind can say, written
//! as text, and read back.

use std::collections::HashSet;
use std::fmt::Write as _;

use podgate_api::{
    Action, Direction, Kind, LabelSelector, NamespaceMatch, Object, Operator, Peer, Peers, PolicySpec, PortMatch,
    Protocol, Rule, Tier, manifest,
};

/// The policy as its manifest says it.
pub fn through_manifest(mut spec: PolicySpec) -> PolicySpec {
    let kind = spec.key.kind;
    if kind == Kind::BaselineAdminNetworkPolicy {
        spec.priority = PolicySpec::LAST;
    }
    spec.ingress.iter_mut().for_each(|rule| *rule = sayable(rule, kind, Direction::Ingress));
    spec.egress.iter_mut().for_each(|rule| *rule = sayable(rule, kind, Direction::Egress));
    for rules in [&mut spec.ingress, &mut spec.egress] {
        let mut seen = HashSet::new();
        rules.iter_mut().for_each(|rule| rule.name = rule.name.take().filter(|name| seen.insert(name.clone())));
    }
    let text = text(&spec);
    let parsed = manifest::parse("random.yaml", &text);
    assert!(parsed.errors.is_empty(), "{:?}\n{text}", parsed.errors);
    let [Object::Policy(read)] = &*parsed.objects.into_iter().map(|o| o.object).collect::<Vec<_>>() else {
        panic!("not one policy\n{text}")
    };
    assert_eq!(PolicySpec { caveats: Vec::new(), ..read.clone() }, spec, "{text}");
    read.clone()
}

/// The rule without what its kind and direction have no words for.
fn sayable(rule: &Rule, kind: Kind, direction: Direction) -> Rule {
    let mut rule = rule.clone();
    if kind == Kind::BaselineAdminNetworkPolicy && rule.action == Action::Pass {
        rule.action = Action::Deny;
    }
    let everybody = LabelSelector::default;
    let every_pod = Peer::Pods { namespaces: NamespaceMatch::Labels(everybody()), pods: everybody() };
    let newer = rule.peers == Peers::Of(Vec::new());
    if newer {
        // What is left of a rule with a peer of a newer API.
        rule.ports.clear();
        if rule.action != Action::Accept {
            (rule.action, rule.peers) = (Action::Deny, Peers::Any);
        }
        return rule;
    }
    let mut peers = match rule.peers {
        Peers::Any => vec![every_pod.clone()],
        Peers::Of(peers) => peers,
    };
    if direction == Direction::Ingress {
        peers.retain(|peer| matches!(peer, Peer::Pods { .. }));
    }
    for peer in &mut peers {
        if let Peer::Block(block) = peer {
            block.except.clear();
        }
    }
    if peers.is_empty() {
        peers.push(every_pod);
    }
    let all_pods = peers.iter().all(|peer| matches!(peer, Peer::Pods { .. }));
    rule.peers = Peers::Of(peers);
    let ports = std::mem::take(&mut rule.ports);
    rule.ports = ports
        .into_iter()
        .flat_map(|port| match port {
            PortMatch::Range { protocol, first, last } => {
                vec![PortMatch::Range { protocol, first: first.max(1), last }]
            }
            PortMatch::Named { name, .. } if all_pods => {
                let named = |protocol| PortMatch::Named { protocol, name: name.clone() };
                [Protocol::Tcp, Protocol::Udp, Protocol::Sctp].map(named).to_vec()
            }
            PortMatch::Named { protocol, .. } => vec![PortMatch::Range { protocol, first: 80, last: 81 }],
        })
        .collect();
    rule
}

fn text(spec: &PolicySpec) -> String {
    let (version, kind) = match spec.key.kind {
        Kind::ClusterNetworkPolicy => ("v1alpha2", spec.key.kind.as_str()),
        kind => ("v1alpha1", kind.as_str()),
    };
    let mut text = format!(
        "apiVersion: policy.networking.k8s.io/{version}\nkind: {kind}\nmetadata: {{name: {}}}\nspec:\n",
        spec.key.name
    );
    if spec.key.kind == Kind::ClusterNetworkPolicy {
        let _ = writeln!(text, "  tier: {}", if spec.tier == Tier::Admin { "Admin" } else { "Baseline" });
    }
    if spec.key.kind != Kind::BaselineAdminNetworkPolicy {
        let _ = writeln!(text, "  priority: {}", spec.priority);
    }
    let _ = writeln!(text, "  subject: {{{}}}", pods(&spec.subject.namespaces, &spec.subject.pods));
    for direction in Direction::BOTH {
        let rules = spec.rules(direction);
        if !rules.is_empty() {
            let _ = writeln!(text, "  {}:", direction.as_str());
        }
        for rule in rules {
            let _ = writeln!(text, "  - {{{}}}", self::rule(spec.key.kind, rule, direction));
        }
    }
    text
}

fn rule(kind: Kind, rule: &Rule, direction: Direction) -> String {
    let v1alpha2 = kind == Kind::ClusterNetworkPolicy;
    let action = match rule.action {
        Action::Accept if v1alpha2 => "Accept",
        Action::Accept => "Allow",
        Action::Deny => "Deny",
        Action::Pass => "Pass",
    };
    let peers_key = if direction == Direction::Ingress { "from" } else { "to" };
    let peers = match &rule.peers {
        Peers::Any => vec!["{newer: {}}".to_owned()],
        Peers::Of(peers) if peers.is_empty() => vec!["{}".to_owned()],
        Peers::Of(peers) => peers.iter().map(peer).collect(),
    };
    let mut text = format!("action: {action}, {peers_key}: [{}]", peers.join(", "));
    if let Some(name) = &rule.name {
        let _ = write!(text, ", name: {name}");
    }
    let ports: Vec<String> = rule.ports.iter().filter_map(|p| if v1alpha2 { protocol(p) } else { port(p) }).collect();
    if !ports.is_empty() {
        let _ = write!(text, ", {}: [{}]", if v1alpha2 { "protocols" } else { "ports" }, ports.join(", "));
    }
    text
}

fn peer(peer: &Peer) -> String {
    match peer {
        Peer::Pods { namespaces, pods: labels } => format!("{{{}}}", pods(namespaces, labels)),
        Peer::Block(block) => format!("{{networks: ['{}']}}", block.cidr),
        Peer::Nodes(labels) => format!("{{nodes: {}}}", selector(labels)),
    }
}

fn pods(namespaces: &NamespaceMatch, pods: &LabelSelector) -> String {
    let NamespaceMatch::Labels(namespaces) = namespaces else { panic!("no namespace of its own") };
    match pods.is_everything() {
        true => format!("namespaces: {}", selector(namespaces)),
        false => {
            format!("pods: {{namespaceSelector: {}, podSelector: {}}}", selector(namespaces), selector(pods))
        }
    }
}

fn selector(selector: &LabelSelector) -> String {
    let terms = selector.requirements.iter().map(|r| {
        let operator = match r.operator {
            Operator::In => "In",
            Operator::NotIn => "NotIn",
            Operator::Exists => "Exists",
            Operator::DoesNotExist => "DoesNotExist",
        };
        // Quoted: y is a boolean in YAML.
        let values: Vec<_> = r.values.iter().map(|v| format!("'{v}'")).collect();
        format!("{{key: '{}', operator: {operator}, values: [{}]}}", r.key, values.join(", "))
    });
    format!("{{matchExpressions: [{}]}}", terms.collect::<Vec<_>>().join(", "))
}

/// A port as v1alpha2 has it; of the three that a name stands for, the first says it.
fn protocol(port: &PortMatch) -> Option<String> {
    match port {
        PortMatch::Range { protocol, first, last } => {
            let protocol = protocol.as_str().to_lowercase();
            Some(match first == last {
                true => format!("{{{protocol}: {{destinationPort: {{number: {first}}}}}}}"),
                false => format!("{{{protocol}: {{destinationPort: {{range: {{start: {first}, end: {last}}}}}}}}}"),
            })
        }
        PortMatch::Named { protocol, name } => {
            (*protocol == Protocol::Tcp).then(|| format!("{{destinationNamedPort: {name}}}"))
        }
    }
}

/// A port as v1alpha1 has it, likewise.
fn port(port: &PortMatch) -> Option<String> {
    match port {
        PortMatch::Range { protocol, first, last } => Some(match first == last {
            true => format!("{{portNumber: {{protocol: {}, port: {first}}}}}", protocol.as_str()),
            false => {
                format!("{{portRange: {{protocol: {}, start: {first}, end: {last}}}}}", protocol.as_str())
            }
        }),
        PortMatch::Named { protocol, name } => (*protocol == Protocol::Tcp).then(|| format!("{{namedPort: {name}}}")),
    }
}

//! Rules, selectors, peers and ports in words. Selectors are written as kubectl takes them (`-l`).

use podgate_api::{
    Action, Direction, LabelSelector, Labels, NamespaceMatch, Operator, Peer, Peers, PolicySpec, PortMatch, Rule,
};

/// `accepts from pods with app=web in namespace shop, on TCP 5432`.
pub(super) fn rule(policy: &PolicySpec, rule: &Rule, direction: Direction) -> String {
    let action = match rule.action {
        Action::Accept => "accepts",
        Action::Deny => "denies",
        Action::Pass => "passes",
    };
    let preposition = match direction {
        Direction::Ingress => "from",
        Direction::Egress => "to",
    };
    format!("{action} {preposition} {}, on {}", peers(policy, &rule.peers), ports(&rule.ports))
}

fn peers(policy: &PolicySpec, peers: &Peers) -> String {
    match peers {
        Peers::Any => "anyone".to_owned(),
        Peers::Of(peers) if peers.is_empty() => "nobody that this version knows".to_owned(),
        Peers::Of(peers) => peers.iter().map(|p| peer(policy, p)).collect::<Vec<_>>().join(" or "),
    }
}

fn peer(policy: &PolicySpec, peer: &Peer) -> String {
    match peer {
        Peer::Pods { namespaces, pods } => {
            let pods = match pods.is_everything() {
                true => "every pod".to_owned(),
                false => format!("pods with {}", selector(pods)),
            };
            match namespaces {
                NamespaceMatch::Own => format!("{pods} in namespace {}", policy.key.namespace),
                NamespaceMatch::Labels(labels) if labels.is_everything() => format!("{pods} in any namespace"),
                NamespaceMatch::Labels(labels) => format!("{pods} in namespaces with {}", selector(labels)),
            }
        }
        Peer::Block(block) if block.except.is_empty() => block.cidr.to_string(),
        Peer::Block(block) => {
            let except: Vec<String> = block.except.iter().map(ToString::to_string).collect();
            format!("{} except {}", block.cidr, except.join(", "))
        }
        Peer::Nodes(labels) if labels.is_everything() => "every node".to_owned(),
        Peer::Nodes(labels) => format!("nodes with {}", selector(labels)),
    }
}

/// `app=web,tier in (a,b),!legacy`; `everything` where it selects everything.
pub(super) fn selector(selector: &LabelSelector) -> String {
    if selector.is_everything() {
        return "everything".to_owned();
    }
    let terms = selector.requirements.iter().map(|r| match (r.operator, r.values.as_slice()) {
        (Operator::In, [value]) => format!("{}={value}", r.key),
        (Operator::In, values) => format!("{} in ({})", r.key, values.join(",")),
        (Operator::NotIn, [value]) => format!("{}!={value}", r.key),
        (Operator::NotIn, values) => format!("{} notin ({})", r.key, values.join(",")),
        (Operator::Exists, _) => r.key.clone(),
        (Operator::DoesNotExist, _) => format!("!{}", r.key),
    });
    terms.collect::<Vec<_>>().join(",")
}

fn ports(ports: &[PortMatch]) -> String {
    if ports.is_empty() {
        return "any port and protocol".to_owned();
    }
    let words = ports.iter().map(|port| match port {
        PortMatch::Range { protocol, first: 0, last: u16::MAX } => format!("any {} port", protocol.as_str()),
        PortMatch::Range { protocol, first, last } if first == last => format!("{} {first}", protocol.as_str()),
        PortMatch::Range { protocol, first, last } => format!("{} {first}-{last}", protocol.as_str()),
        PortMatch::Named { protocol, name } => format!("{} port named {name}", protocol.as_str()),
    });
    words.collect::<Vec<_>>().join(", ")
}

/// `app=web,tier=front`; `none`.
pub(super) fn labels(labels: &Labels) -> String {
    match labels.is_empty() {
        true => "none".to_owned(),
        false => labels.iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join(","),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use podgate_api::{IpBlock, Kind, ObjectKey, Protocol, Requirement, Subject, Tier};

    fn term(key: &str, operator: Operator, values: &[&str]) -> Requirement {
        Requirement { key: key.into(), operator, values: values.iter().map(|v| v.to_string()).collect() }
    }

    #[test]
    fn a_rule_reads_as_a_sentence() {
        let policy = PolicySpec {
            key: ObjectKey { kind: Kind::NetworkPolicy, namespace: "shop".into(), name: "db".into() },
            tier: Tier::NetworkPolicy,
            priority: 0,
            subject: Subject { namespaces: NamespaceMatch::Own, pods: LabelSelector::default() },
            isolates_ingress: true,
            isolates_egress: false,
            ingress: Vec::new(),
            egress: Vec::new(),
            caveats: Vec::new(),
        };
        let web = LabelSelector::new([term("app", Operator::In, &["web"])]);
        let team = LabelSelector::new([
            term("team", Operator::NotIn, &["a", "b"]),
            term("zone", Operator::Exists, &[]),
            term("old", Operator::DoesNotExist, &[]),
        ]);
        let block = IpBlock { cidr: "10.0.0.0/8".parse().unwrap(), except: vec!["10.1.0.0/16".parse().unwrap()] };
        let long = Rule {
            name: None,
            action: Action::Accept,
            peers: Peers::Of(vec![
                Peer::Pods { namespaces: NamespaceMatch::Own, pods: web },
                Peer::Pods { namespaces: NamespaceMatch::Labels(team), pods: LabelSelector::default() },
                Peer::Block(block),
            ]),
            ports: vec![
                PortMatch::Range { protocol: Protocol::Tcp, first: 80, last: 80 },
                PortMatch::Range { protocol: Protocol::Udp, first: 1000, last: 2000 },
                PortMatch::Range { protocol: Protocol::Sctp, first: 0, last: 65535 },
                PortMatch::Named { protocol: Protocol::Tcp, name: "http".into() },
            ],
        };
        assert_eq!(
            rule(&policy, &long, Direction::Ingress),
            "accepts from pods with app=web in namespace shop \
             or every pod in namespaces with old!=,team notin (a,b),zone or 10.0.0.0/8 except 10.1.0.0/16, \
             on TCP 80, UDP 1000-2000, any SCTP port, TCP port named http"
                .replace("old!=", "!old")
        );
        let open = Rule { name: None, action: Action::Accept, peers: Peers::Any, ports: Vec::new() };
        assert_eq!(rule(&policy, &open, Direction::Egress), "accepts to anyone, on any port and protocol");
    }
}

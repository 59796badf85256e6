//! What would allow a denied flow, where that is simple: a label, another port, a rule. Each proposal is tried on a
//! copy of the world with the reference evaluator before it is made.

use podgate_api::{
    Action, Change, Direction, IpBlock, Kind, LabelSelector, Labels, NamespaceMatch, Object, ObjectKey, Operator, Peer,
    Peers, Pod, PolicySpec, PortMatch, Protocol, Requirement, Rule, Subject, Tier,
};
use podgate_policy::World;
use podgate_policy::reference::{self, Flow, LabelMismatch, Mismatch, PeerMismatch, PodCondition, PortMismatch};

use super::reasons::name;
use super::shape::Remedy;
use crate::loaded::Loaded;

/// Proposals by label and by port, beside the rule that is always proposed.
const NEAR_PROPOSALS: usize = 2;
const NAMESPACE_NAME: &str = "kubernetes.io/metadata.name";
/// Labels that controllers give to each pod or revision: a policy must not name them.
const VOLATILE: [&str; 9] = [
    "apps.kubernetes.io/pod-index",
    "batch.kubernetes.io/controller-uid",
    "batch.kubernetes.io/job-completion-index",
    "batch.kubernetes.io/job-name",
    "controller-revision-hash",
    "controller-uid",
    "pod-template-generation",
    "pod-template-hash",
    "statefulset.kubernetes.io/pod-name",
];

/// Proposals, the least change first. `mismatches` are the rules that do not match, nearest first.
pub(super) fn remedies(
    loaded: &Loaded,
    flow: &Flow,
    direction: Direction,
    subject: &Pod,
    mismatches: &[(String, Mismatch)],
) -> Vec<Remedy> {
    let mut trial = Trial { world: loaded.world.clone(), flow: *flow, direction };
    let mut found: Vec<Remedy> = Vec::new();
    for (rule, mismatch) in mismatches {
        if found.len() == NEAR_PROPOSALS {
            break;
        }
        let proposal = trial.by_label(rule, mismatch).or_else(|| trial.by_port(rule, mismatch));
        found.extend(proposal.filter(|p| !found.contains(p)));
    }
    found.extend(trial.by_rule(loaded, subject));
    found
}

struct Trial {
    world: World,
    flow: Flow,
    direction: Direction,
}

impl Trial {
    /// Whether the flow would pass with this object in place of what it is now.
    fn allows_with(&mut self, object: Object) -> bool {
        let key = object.key();
        let before = match key.kind {
            Kind::Pod => self.world.pods.get(&(key.namespace.clone(), key.name.clone())).cloned().map(Object::Pod),
            Kind::Namespace => self.world.namespaces.get(&key.name).cloned().map(Object::Namespace),
            Kind::Node => self.world.nodes.get(&key.name).cloned().map(Object::Node),
            Kind::NetworkPolicy
            | Kind::LegacyNetworkPolicy
            | Kind::ClusterNetworkPolicy
            | Kind::AdminNetworkPolicy
            | Kind::BaselineAdminNetworkPolicy => self.world.policies.get(&key).cloned().map(Object::Policy),
        };
        self.world.apply(Change::Apply(object));
        let allowed = reference::judge(&self.world, &self.flow, self.direction).allows();
        self.world.apply(before.map_or(Change::Delete(key), Change::Apply));
        allowed
    }

    /// Labels that the peer's pod, or its namespace, lacks.
    fn by_label(&mut self, rule: &str, mismatch: &Mismatch) -> Option<Remedy> {
        if !mismatch.ports.is_empty() {
            return None;
        }
        let pod = reference::owner(&self.world, self.flow.other_end(self.direction))?.clone();
        mismatch.peers.iter().find_map(|peer| {
            let PeerMismatch::Pod { conditions, .. } = peer else { return None };
            self.label_pod(&pod, conditions, rule).or_else(|| self.label_namespace(&pod, conditions, rule))
        })
    }

    fn label_pod(&mut self, pod: &Pod, conditions: &[PodCondition], rule: &str) -> Option<Remedy> {
        let labels = wanted(conditions, |c| match c {
            PodCondition::PodLabel(mismatch) => Some(mismatch),
            _ => None,
        })?;
        let mut changed = pod.clone();
        changed.labels.extend(labels.clone());
        let labels = written(&labels);
        let what =
            format!("label pod {} with {labels} (in its workload's pod template); then {rule} accepts it", name(pod));
        self.allows_with(Object::Pod(changed)).then_some(Remedy { what, manifest: None })
    }

    fn label_namespace(&mut self, pod: &Pod, conditions: &[PodCondition], rule: &str) -> Option<Remedy> {
        let labels = wanted(conditions, |c| match c {
            PodCondition::NamespaceLabel(mismatch) => Some(mismatch),
            _ => None,
        })?;
        if labels.contains_key(NAMESPACE_NAME) {
            return None;
        }
        let mut changed = self.world.namespaces.get(&pod.namespace).cloned().unwrap_or_default();
        changed.labels = reference::namespace_labels(&self.world, &pod.namespace).into_owned();
        changed.labels.extend(labels.clone());
        changed.name.clone_from(&pod.namespace);
        let what = format!("label namespace {} with {}; then {rule} accepts it", pod.namespace, written(&labels));
        self.allows_with(Object::Namespace(changed)).then_some(Remedy { what, manifest: None })
    }

    /// The port that a rule is about, where only the port differs.
    fn by_port(&self, rule: &str, mismatch: &Mismatch) -> Option<Remedy> {
        if !mismatch.peers.is_empty() || mismatch.no_peers {
            return None;
        }
        let (port, words) = mismatch.ports.iter().find_map(|port| match port {
            PortMismatch::Number { first, last, .. } if first == last => Some((*first, format!("port {first}"))),
            PortMismatch::Number { first, last, .. } => Some((*first, format!("a port from {first} to {last}"))),
            PortMismatch::NamedNumber { name, numbers, .. } => {
                numbers.first().map(|number| (*number, format!("port {number} ({name})")))
            }
            _ => None,
        })?;
        let other = Flow { port: Some(port), ..self.flow };
        let what = format!("connect to {words}, which {rule} accepts");
        reference::judge(&self.world, &other, self.direction).allows().then_some(Remedy { what, manifest: None })
    }

    /// A rule for just this flow, in a policy that isolates the subject or in a new one.
    fn by_rule(&mut self, loaded: &Loaded, subject: &Pod) -> Option<Remedy> {
        let other = self.flow.other_end(self.direction);
        let (peer, peer_yaml) = match reference::owner(&self.world, other) {
            Some(pod) => pod_peer(pod, subject),
            None => {
                let block = IpBlock { cidr: other.into(), except: Vec::new() };
                (Peer::Block(block), format!("  - ipBlock: {{cidr: {}}}\n", ipnet::IpNet::from(other)))
            }
        };
        let (ports, ports_yaml) = self.ports();
        let rule = Rule { name: None, action: Action::Accept, peers: Peers::Of(vec![peer]), ports };
        let peers = if self.direction == Direction::Ingress { "from" } else { "to" };
        let yaml = format!("- {peers}:\n{peer_yaml}{ports_yaml}");
        let isolating = self.policy_about(subject);
        let (what, manifest, mut policy) = match isolating {
            Some(policy) => {
                let place = loaded.place(&policy.key).map(|p| format!(" ({p})")).unwrap_or_default();
                let field = self.direction.as_str();
                let what = format!("add to spec.{field} of {}{place}", policy.key);
                (what, yaml, policy)
            }
            None => {
                let policy = self.new_policy(subject);
                let manifest = policy_yaml(&policy, subject, self.direction, &yaml);
                let what = match reference::isolation(&self.world, subject, self.direction) {
                    Some(_) => "add a policy".to_owned(),
                    None => format!(
                        "add a policy (from then on {} has no {} but what NetworkPolicies allow)",
                        name(subject),
                        self.direction.as_str()
                    ),
                };
                (what, manifest, policy)
            }
        };
        match self.direction {
            Direction::Ingress => policy.ingress.push(rule),
            Direction::Egress => policy.egress.push(rule),
        }
        self.allows_with(Object::Policy(policy)).then_some(Remedy { what, manifest: Some(manifest) })
    }

    /// The isolating policy that is most particularly about the subject. One about every pod of the namespace is no
    /// place for a rule about one of them.
    fn policy_about(&self, subject: &Pod) -> Option<PolicySpec> {
        let policies = reference::isolating(&self.world, subject, self.direction);
        let particular = policies.into_iter().filter(|p| !p.subject.pods.is_everything());
        // The last of the greatest is taken: the other way round, so that it is the first.
        particular.rev().max_by_key(|p| p.subject.pods.requirements.len()).cloned()
    }

    /// A policy that selects the subject and has no rule yet, by a name that is free.
    fn new_policy(&self, subject: &Pod) -> PolicySpec {
        let key = |name| ObjectKey { kind: Kind::NetworkPolicy, namespace: subject.namespace.clone(), name };
        let first = format!("allow-{}", self.direction.as_str());
        let others = (2..).map(|n| format!("{first}-{n}"));
        let mut keys = std::iter::once(first.clone()).chain(others).map(key);
        PolicySpec {
            key: keys.find(|key| !self.world.policies.contains_key(key)).unwrap_or_else(|| key(first)),
            tier: Tier::NetworkPolicy,
            priority: 0,
            subject: Subject { namespaces: NamespaceMatch::Own, pods: selector_of(&lasting(subject)) },
            isolates_ingress: self.direction == Direction::Ingress,
            isolates_egress: self.direction == Direction::Egress,
            ingress: Vec::new(),
            egress: Vec::new(),
            caveats: Vec::new(),
        }
    }

    fn ports(&self) -> (Vec<PortMatch>, String) {
        let protocols = [Protocol::Tcp, Protocol::Udp, Protocol::Sctp];
        let protocol = protocols.into_iter().find(|p| p.number() == self.flow.protocol);
        match (protocol, self.flow.port) {
            (Some(protocol), Some(port)) => (
                vec![PortMatch::Range { protocol, first: port, last: port }],
                format!("  ports:\n  - {{protocol: {}, port: {port}}}\n", protocol.as_str()),
            ),
            _ => (
                Vec::new(),
                "  # no ports: only such a rule matches ICMP; it accepts every protocol and port\n".to_owned(),
            ),
        }
    }
}

/// The labels to set so that these conditions hold, if labels are all that they want.
fn wanted<'c>(
    conditions: &'c [PodCondition],
    label: impl Fn(&'c PodCondition) -> Option<&'c LabelMismatch>,
) -> Option<Labels> {
    let set = conditions.iter().map(|condition| {
        let Requirement { key, operator, values } = &label(condition)?.requirement;
        let value = (*operator == Operator::In).then(|| values.first())??;
        Some((key.clone(), value.clone()))
    });
    set.collect()
}

fn written(labels: &Labels) -> String {
    labels.iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join(" and ")
}

/// A peer that is this pod, told by its lasting labels.
fn pod_peer(pod: &Pod, subject: &Pod) -> (Peer, String) {
    let labels = lasting(pod);
    let selector = format!("podSelector: {}", selector_yaml(&labels));
    let pods = selector_of(&labels);
    if pod.namespace == subject.namespace {
        return (Peer::Pods { namespaces: NamespaceMatch::Own, pods }, format!("  - {selector}\n"));
    }
    let own_name = Labels::from([(NAMESPACE_NAME.to_owned(), pod.namespace.clone())]);
    let namespaces = NamespaceMatch::Labels(selector_of(&own_name));
    let yaml = format!("  - namespaceSelector: {}\n    {selector}\n", selector_yaml(&own_name));
    (Peer::Pods { namespaces, pods }, yaml)
}

fn lasting(pod: &Pod) -> Labels {
    let mut labels = pod.labels.clone();
    labels.retain(|key, _| !VOLATILE.contains(&key.as_str()));
    labels
}

fn selector_of(labels: &Labels) -> LabelSelector {
    LabelSelector::new(labels.iter().map(|(key, value)| Requirement {
        key: key.clone(),
        operator: Operator::In,
        values: vec![value.clone()],
    }))
}

fn selector_yaml(labels: &Labels) -> String {
    if labels.is_empty() {
        return "{}".to_owned();
    }
    let pairs: Vec<String> = labels.iter().map(|(key, value)| format!("{key}: {}", quoted(value))).collect();
    format!("{{matchLabels: {{{}}}}}", pairs.join(", "))
}

/// A label's value so that YAML takes it as a string: "true", "1" and the like in quotes. Label values need no escapes.
fn quoted(value: &str) -> String {
    let word = value.starts_with(|c: char| c.is_ascii_alphabetic());
    let lower = value.to_ascii_lowercase();
    let special = ["true", "false", "yes", "no", "on", "off", "y", "n", "null"].contains(&lower.as_str());
    if word && !special { value.to_owned() } else { format!("\"{value}\"") }
}

fn policy_yaml(policy: &PolicySpec, subject: &Pod, direction: Direction, rule: &str) -> String {
    let (kind, field) = match direction {
        Direction::Ingress => ("Ingress", "ingress"),
        Direction::Egress => ("Egress", "egress"),
    };
    let rule: String = rule.lines().map(|line| format!("  {line}\n")).collect();
    format!(
        "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {{name: {}, namespace: {}}}\nspec:\n  \
         podSelector: {}\n  policyTypes: [{kind}]\n  {field}:\n{rule}",
        policy.key.name,
        policy.key.namespace,
        selector_yaml(&lasting(subject)),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn label_values_that_yaml_would_take_for_something_else_are_quoted() {
        for (value, yaml) in [("web", "web"), ("true", "\"true\""), ("1", "\"1\""), ("No", "\"No\""), ("", "\"\"")] {
            assert_eq!(quoted(value), yaml);
        }
    }
}

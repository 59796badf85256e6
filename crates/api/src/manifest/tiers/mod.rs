//! Policies of the cluster tiers to [`PolicySpec`]: `policy.networking.k8s.io/v1alpha2` ClusterNetworkPolicy, and
//! `v1alpha1` AdminNetworkPolicy and BaselineAdminNetworkPolicy, with the validation of their CRDs
//! (`sigs.k8s.io/network-policy-api` v0.2.0 and v0.1.7, experimental channel).
//!
//! ```text
//!   read ─ subject, tier, priority        here
//!        └ rule ─ whom it is about        peers.rs
//!               └ which ports             ports.rs
//! ```
//!
//! What can't be understood is closed, part by part, whether it is a mistake or from a newer API:
//! - a rule: one that accepts matches nothing, any other denies everything (so the API says of unknown peers);
//! - tier, priority or a field of the spec: all that stands in the policy denies everything;
//! - the subject: the policy is left out. To deny the whole cluster would be an outage by a typo.
//!
//! A mistake is an error, told beside the closed policy. What a newer API may have brought (a peer or a protocol without
//! any known field), or what podgate does not enforce yet (domain names), is no error but a caveat of the policy.

mod peers;
mod ports;
mod rule;

use super::decode::{self, Unknown};
use super::kinds::Header;
use super::path::Path;
use super::policy;
use super::report::{Issue, Report};
use super::tree::{Entry, Node, Value};
use crate::{Action, Direction, Kind, NamespaceMatch, Peers, PolicySpec, Rule, Subject, Tier};

/// In what the kinds differ.
#[derive(Debug, Clone, Copy)]
struct Dialect {
    kind: Kind,
    /// The word for accepting.
    accept: &'static str,
    /// The actions there are.
    actions: &'static [&'static str],
    /// The most rules of a direction, and the most peers and ports of a rule.
    most: usize,
    /// The field of a rule that has its ports.
    ports: &'static str,
    /// The fields of an egress peer.
    egress_peers: &'static [&'static str],
}

const CLUSTER: Dialect = Dialect {
    kind: Kind::ClusterNetworkPolicy,
    accept: "Accept",
    actions: &["Accept", "Deny", "Pass"],
    most: 25,
    ports: "protocols",
    egress_peers: &["namespaces", "pods", "nodes", "networks", "domainNames"],
};
const ADMIN: Dialect = Dialect {
    kind: Kind::AdminNetworkPolicy,
    accept: "Allow",
    actions: &["Allow", "Deny", "Pass"],
    most: 100,
    ports: "ports",
    ..CLUSTER
};
const BASELINE: Dialect = Dialect {
    kind: Kind::BaselineAdminNetworkPolicy,
    actions: &["Allow", "Deny"],
    egress_peers: &["namespaces", "pods", "nodes", "networks"],
    ..ADMIN
};

/// What is being read, and the complaints about it.
struct Reading<'r, 'n> {
    object: &'n Node<'n>,
    dialect: &'static Dialect,
    report: &'r mut Report,
}

/// Reads a policy of a cluster tier. What comes back counts in spite of complaints: what they are about is closed in it.
pub(super) fn read(object: &Node<'_>, header: &Header, report: &mut Report) -> Option<PolicySpec> {
    policy::envelope(object, header, report);
    let dialect = match header.key.kind {
        Kind::AdminNetworkPolicy => &ADMIN,
        Kind::BaselineAdminNetworkPolicy => &BASELINE,
        _ => &CLUSTER,
    };
    let name = Path::Root.key("metadata");
    if dialect.kind == BASELINE.kind && header.key.name != "default" {
        report.at(object, &name.key("name"), "must be default: there is only one BaselineAdminNetworkPolicy");
    }
    Reading { object, dialect, report }.policy(header)
}

impl<'n> Reading<'_, 'n> {
    fn policy(&mut self, header: &Header) -> Option<PolicySpec> {
        let path = Path::Root.key("spec");
        let Some(spec) = present(self.object, "spec").map(|entry| &entry.value) else {
            self.wrong(&path, "is missing");
            return None;
        };
        let mut known = vec!["subject", "ingress", "egress"];
        match self.dialect.kind {
            Kind::BaselineAdminNetworkPolicy => {}
            Kind::AdminNetworkPolicy => known.insert(0, "priority"),
            _ => known.splice(0..0, ["tier", "priority"]).for_each(drop),
        }
        let understood = self.mapping(spec, &path, &known) && !doubtful(spec, false);
        let subject = self.subject(spec, &path)?;
        let (tier, priority) = (self.tier(spec, &path), self.priority(spec, &path));
        let mut caveats = Vec::new();
        let mut policy = PolicySpec {
            key: header.key.clone(),
            tier: tier.unwrap_or(Tier::Admin),
            priority: priority.unwrap_or(0),
            subject,
            isolates_ingress: false,
            isolates_egress: false,
            ingress: self.rules(spec, &path, Direction::Ingress, &mut caveats),
            egress: self.rules(spec, &path, Direction::Egress, &mut caveats),
            caveats,
        };
        if !understood {
            (policy.ingress, policy.egress) = (vec![closed(None, false)], vec![closed(None, false)]);
        } else if tier.is_none() || priority.is_none() {
            let close = |rules: &mut Vec<Rule>| {
                if !rules.is_empty() {
                    *rules = vec![closed(None, false)];
                }
            };
            close(&mut policy.ingress);
            close(&mut policy.egress);
        }
        Some(policy)
    }

    fn tier(&mut self, spec: &'n Node<'n>, path: &Path<'_>) -> Option<Tier> {
        match self.dialect.kind {
            Kind::AdminNetworkPolicy => return Some(Tier::Admin),
            Kind::BaselineAdminNetworkPolicy => return Some(Tier::Baseline),
            _ => {}
        }
        let path = path.key("tier");
        match self.value::<String>(spec, &path, "tier")?.as_str() {
            "Admin" => Some(Tier::Admin),
            "Baseline" => Some(Tier::Baseline),
            other => {
                self.wrong(&path, &format!("{other:?} is no tier: Admin or Baseline"));
                None
            }
        }
    }

    fn priority(&mut self, spec: &'n Node<'n>, path: &Path<'_>) -> Option<i32> {
        if self.dialect.kind == BASELINE.kind {
            return Some(PolicySpec::LAST);
        }
        let path = path.key("priority");
        let priority = self.value::<i32>(spec, &path, "priority")?;
        if !(0..=1000).contains(&priority) {
            self.wrong(&path, &format!("{priority} is no valid priority: 0 (first) to 1000"));
        }
        Some(priority)
    }

    fn subject(&mut self, spec: &'n Node<'n>, path: &Path<'_>) -> Option<Subject> {
        const ONE: &str = "must have either namespaces or pods ({} in namespaces means every pod)";
        let path = path.key("subject");
        let Some(subject) = present(spec, "subject").map(|entry| &entry.value) else {
            self.wrong(&path, "is missing");
            return None;
        };
        if !self.mapping(subject, &path, &["namespaces", "pods"]) || doubtful(subject, true) {
            return None;
        }
        match (present(subject, "namespaces"), present(subject, "pods")) {
            (Some(namespaces), None) => {
                let namespaces = self.selector(namespaces, &path.key("namespaces"))?;
                Some(Subject { namespaces: NamespaceMatch::Labels(namespaces), pods: Default::default() })
            }
            (None, Some(pods)) => {
                let (namespaces, pods) = self.namespaced_pods(pods, &path.key("pods"))?;
                Some(Subject { namespaces, pods })
            }
            _ => {
                self.wrong(&path, ONE);
                None
            }
        }
    }

    fn rules(
        &mut self,
        spec: &'n Node<'n>,
        path: &Path<'_>,
        direction: Direction,
        caveats: &mut Vec<String>,
    ) -> Vec<Rule> {
        let path = path.key(direction.as_str());
        let Some(list) = self.list(spec, direction.as_str(), &path) else {
            return vec![closed(None, false)];
        };
        if list.len() > self.dialect.most {
            self.wrong(&path, &format!("has {} rules, but {} at most are allowed", list.len(), self.dialect.most));
        }
        let mut rules: Vec<Rule> = Vec::with_capacity(list.len());
        for (i, node) in list.iter().enumerate() {
            let mut own = Report::default();
            let mut reading = Reading { object: self.object, dialect: self.dialect, report: &mut own };
            let mut rule = reading.rule(node, &path.index(i), direction, caveats);
            // Two rules of one name could not be told apart, nor could a rule named 1 from the second one.
            if rules.iter().any(|before| before.name == rule.name) {
                rule.name = None;
            }
            self.report.absorb(own);
            rules.push(rule);
        }
        rules
    }

    // Below: the tree, field by field.

    fn wrong(&mut self, path: &Path<'_>, message: &str) {
        self.report.at(self.object, path, message);
    }

    /// Whether the node is a mapping with no other fields than these; complaints are made of what is not.
    fn mapping(&mut self, node: &Node<'_>, path: &Path<'_>, known: &[&str]) -> bool {
        let Value::Map(entries) = &node.value else {
            if !node.is_null() {
                self.wrong(path, &format!("must be a mapping, but is {}", node.what()));
            }
            return node.is_null();
        };
        let mut all_known = true;
        for entry in entries.iter().filter(|entry| !known.contains(&&*entry.key)) {
            let message = format!("unknown field; what may stand here: {}", known.join(", "));
            self.report.push(Issue { line: entry.line, field: path.key(&entry.key).to_string(), message });
            all_known = false;
        }
        all_known
    }

    /// The items of a list; none where the field is absent.
    fn list(&mut self, node: &'n Node<'n>, key: &str, path: &Path<'_>) -> Option<&'n [Node<'n>]> {
        match present(node, key).map(|entry| &entry.value) {
            None => Some(&[]),
            Some(Node { value: Value::List(items), .. }) => Some(items),
            Some(other) => {
                self.wrong(path, &format!("must be a list, but is {}", other.what()));
                None
            }
        }
    }

    /// A field that must be there.
    fn value<T: serde::de::DeserializeOwned>(&mut self, node: &'n Node<'n>, path: &Path<'_>, key: &str) -> Option<T> {
        match present(node, key) {
            Some(entry) => decode::value(&entry.value, entry.line, path, Unknown::Refuse, self.report),
            None => {
                self.wrong(path, "is missing");
                None
            }
        }
    }
}

/// The field, if it has a value: null counts as absent.
fn present<'n>(node: &'n Node<'n>, key: &str) -> Option<&'n Entry<'n>> {
    node.entry(key).filter(|entry| !entry.value.is_null())
}

/// Whether some field of the mapping (`deep`: or of what is in it) stands twice, or has a name that YAML reads as
/// something else: it is not clear then what is meant. The complaint is made of the object as a whole.
fn doubtful(node: &Node<'_>, deep: bool) -> bool {
    let mut report = Report::default();
    match deep {
        true => report.keys(node, &Path::Root),
        false => report.own_keys(node, &Path::Root),
    }
    !report.is_clean()
}

/// A rule that can't be understood.
fn closed(name: Option<String>, accepts: bool) -> Rule {
    let (action, peers) = if accepts { (Action::Accept, Peers::Of(Vec::new())) } else { (Action::Deny, Peers::Any) };
    Rule { name, action, peers, ports: Vec::new() }
}

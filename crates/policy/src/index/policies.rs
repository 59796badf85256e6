//! Policies as the compiler needs them: rules whose peers are terms and whose ports are spans.
//!
//! Only policies that are about local pods are compiled; the others sleep. A node has pods of few policies, and the
//! peers that only others' policies tell apart would make classes (and rule numbers) that no table here needs.

use std::cmp::Ordering;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use podgate_api::{Kind, NamespaceMatch, ObjectKey, Peer, Peers, PolicySpec, PortMatch, Rule};
use podgate_engine::{Action, Direction, Generation, PortSpan, RuleId, RuleInfo, Tier};

use super::Index;
use super::classifier::TermId;
use super::labels::Requirements;
use super::namespaces::NamespaceId;
use super::selectors::{PodSelector, Scope, SelectorId};

/// A policy's number.
pub(crate) type PolicyId = u32;

/// One rule.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct CompiledRule {
    pub(crate) id: RuleId,
    pub(crate) action: Action,
    /// It is about every peer.
    pub(crate) everybody: bool,
    /// The pod selectors among its peers, sorted.
    pub(crate) pods: Box<[TermId]>,
    /// The blocks and node selectors among its peers, sorted.
    pub(crate) blocks: Box<[TermId]>,
    pub(crate) ports: Box<[PortSpan]>,
    /// The names among its ports.
    pub(crate) names: Box<[u32]>,
}

/// What a policy says of one direction.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Side {
    /// It has a say.
    pub(crate) speaks: bool,
    /// It isolates its subjects, and this is the default deny then.
    pub(crate) default_deny: Option<RuleId>,
    pub(crate) rules: Box<[CompiledRule]>,
}

/// A policy that is in force.
#[derive(Debug)]
pub(crate) struct Policy {
    pub(crate) key: ObjectKey,
    pub(crate) tier: Tier,
    pub(crate) priority: i32,
    pub(crate) namespace: NamespaceId,
    pub(crate) subject: SelectorId,
    /// What it is compiled from when it wakes.
    spec: PolicySpec,
    /// It is compiled, as some local pod is its subject.
    awake: bool,
    /// Nothing while it sleeps.
    ingress: Side,
    egress: Side,
}

impl Policy {
    pub(crate) fn side(&self, direction: Direction) -> &Side {
        match direction {
            Direction::Ingress => &self.ingress,
            Direction::Egress => &self.egress,
        }
    }

    /// What of it is not enforced as it is written.
    pub(crate) fn caveats(&self) -> &[String] {
        &self.spec.caveats
    }

    fn rules(&self) -> impl Iterator<Item = &CompiledRule> {
        self.ingress.rules.iter().chain(&self.egress.rules)
    }

    /// The order of evaluation: tier, then priority, then namespace and name, v1 before v1beta1.
    pub(crate) fn order(&self, other: &Self) -> Ordering {
        let order = |p: &Self| (p.tier, if p.tier == Tier::NetworkPolicy { 0 } else { p.priority });
        order(self)
            .cmp(&order(other))
            .then_with(|| self.key.namespace.cmp(&other.key.namespace))
            .then_with(|| self.key.name.cmp(&other.key.name))
            .then_with(|| self.key.kind.cmp(&other.key.kind))
    }
}

/// All policies.
#[derive(Debug, Default)]
pub(crate) struct Policies {
    by_key: HashMap<ObjectKey, PolicyId>,
    slots: Vec<Option<Policy>>,
    free: Vec<PolicyId>,
    /// `extensions/v1beta1` policies, in force or not, by namespace and name.
    pub(crate) legacy: BTreeMap<(String, String), PolicySpec>,
}

impl Policies {
    pub(crate) fn get(&self, id: PolicyId) -> &Policy {
        match &self.slots[id as usize] {
            Some(policy) => policy,
            None => unreachable!("policy {id} is no more"),
        }
    }

    /// Policies in force.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Policy> {
        self.slots.iter().flatten()
    }
}

impl Index {
    pub(super) fn apply_policy(&mut self, spec: PolicySpec) {
        if spec.key.kind == Kind::LegacyNetworkPolicy {
            let name = (spec.key.namespace.clone(), spec.key.name.clone());
            let annotated = self.is_annotated(&spec.key.namespace);
            if annotated {
                self.enforce(&spec);
            }
            self.policies.legacy.insert(name, spec);
        } else {
            self.enforce(&spec);
        }
    }

    pub(super) fn delete_policy(&mut self, key: &ObjectKey) {
        if key.kind == Kind::LegacyNetworkPolicy {
            self.policies.legacy.remove(&(key.namespace.clone(), key.name.clone()));
        }
        self.lift(key);
    }

    /// Whether old policies of the namespace have an effect.
    pub(super) fn is_annotated(&self, namespace: &str) -> bool {
        self.namespaces.find(&self.symbols, namespace).is_some_and(|n| self.namespaces.get(n).annotated)
    }

    /// Puts the old policies of a namespace in force, or out of it.
    pub(super) fn switch_legacy(&mut self, namespace: &str, on: bool) {
        let range = (namespace.to_owned(), String::new())..;
        let specs = self.policies.legacy.range(range).take_while(|((n, _), _)| n == namespace);
        let specs: Vec<PolicySpec> = specs.map(|(_, spec)| spec.clone()).collect();
        for spec in specs {
            match on {
                true => self.enforce(&spec),
                false => self.lift(&spec.key),
            }
        }
    }

    /// Puts a policy in force, in the place of the one of its name.
    fn enforce(&mut self, spec: &PolicySpec) {
        let known = self.policies.by_key.get(&spec.key).copied();
        if known.is_some_and(|id| self.policies.get(id).spec == *spec) {
            return;
        }
        let mut policy = self.asleep(spec);
        if self.subjects.is_local(policy.subject) {
            self.compile(&mut policy);
        }
        let id = known.unwrap_or_else(|| {
            self.policies.free.pop().unwrap_or_else(|| {
                self.policies.slots.push(None);
                self.policies.slots.len() as PolicyId - 1
            })
        });
        // What stays was acquired before it is released, so that it keeps its number.
        let old = self.policies.slots[id as usize].take();
        if let Some(old) = &old {
            self.unlink(id, old);
            self.subjects.remove_policy(old.subject, id);
        } else {
            self.policies.by_key.insert(spec.key.clone(), id);
        }
        self.link(id, &policy);
        self.subjects.add_policy(policy.subject, id);
        self.policies.slots[id as usize] = Some(policy);
        if let Some(old) = old {
            self.release_policy(old);
        }
    }

    /// Wakes the policies whose first local subject came, and puts to sleep those whose last one went.
    pub(super) fn wake_policies(&mut self) {
        for selector in self.subjects.take_toggled() {
            let awake = self.subjects.is_local(selector);
            for id in self.subjects.policies_of(selector).to_vec() {
                let Some(mut policy) = self.policies.slots[id as usize].take() else { continue };
                match awake {
                    true if !policy.awake => {
                        self.compile(&mut policy);
                        self.link(id, &policy);
                    }
                    false if policy.awake => {
                        self.unlink(id, &policy);
                        self.release_sides(&mut policy);
                    }
                    _ => {}
                }
                self.policies.slots[id as usize] = Some(policy);
            }
        }
    }

    /// Takes a policy out of force.
    fn lift(&mut self, key: &ObjectKey) {
        if let Some(id) = self.policies.by_key.remove(key)
            && let Some(old) = self.policies.slots[id as usize].take()
        {
            self.unlink(id, &old);
            self.subjects.remove_policy(old.subject, id);
            self.release_policy(old);
            self.policies.free.push(id);
        }
    }

    fn link(&mut self, id: PolicyId, policy: &Policy) {
        for rule in policy.rules() {
            rule.pods.iter().for_each(|t| self.pod_terms.add_user(*t, id));
            rule.blocks.iter().for_each(|t| self.block_terms.add_user(*t, id));
        }
    }

    fn unlink(&mut self, id: PolicyId, policy: &Policy) {
        for rule in policy.rules() {
            rule.pods.iter().for_each(|t| self.pod_terms.remove_user(*t, id));
            rule.blocks.iter().for_each(|t| self.block_terms.remove_user(*t, id));
        }
    }

    fn asleep(&mut self, spec: &PolicySpec) -> Policy {
        let namespace = self.namespaces.acquire(&mut self.symbols, &spec.key.namespace);
        let selector = self.pod_selector(namespace, &spec.subject.namespaces, &spec.subject.pods);
        Policy {
            key: spec.key.clone(),
            tier: spec.tier.into_engine(),
            priority: spec.priority,
            namespace,
            subject: self.acquire_subject_selector(selector),
            spec: spec.clone(),
            awake: false,
            ingress: Side::default(),
            egress: Side::default(),
        }
    }

    fn compile(&mut self, policy: &mut Policy) {
        policy.ingress = self.compile_side(&policy.spec, policy.namespace, podgate_api::Direction::Ingress);
        policy.egress = self.compile_side(&policy.spec, policy.namespace, podgate_api::Direction::Egress);
        policy.awake = true;
    }

    fn release_policy(&mut self, mut policy: Policy) {
        self.release_sides(&mut policy);
        self.release_subject_selector(policy.subject);
        self.namespaces.release(&mut self.symbols, policy.namespace);
    }

    fn release_sides(&mut self, policy: &mut Policy) {
        for side in [std::mem::take(&mut policy.ingress), std::mem::take(&mut policy.egress)] {
            side.default_deny.iter().for_each(|r| self.rules.release(&mut self.tables, *r));
            for rule in &side.rules {
                self.rules.release(&mut self.tables, rule.id);
                rule.pods.iter().for_each(|t| self.release_peer_selector(*t));
                rule.blocks.iter().for_each(|t| self.release_block(*t));
                rule.names.iter().for_each(|n| self.port_sets.release_name(&mut self.symbols, *n));
            }
        }
        policy.awake = false;
    }

    fn pod_selector(
        &mut self,
        own: NamespaceId,
        namespaces: &NamespaceMatch,
        pods: &podgate_api::LabelSelector,
    ) -> PodSelector {
        let scope = match namespaces {
            NamespaceMatch::Own => Scope::Own(own),
            NamespaceMatch::Labels(selector) => {
                let selector = Requirements::acquire(&mut self.symbols, selector);
                Scope::Labelled(self.namespaces.acquire_scope(&mut self.symbols, selector))
            }
        };
        PodSelector { scope, labels: Requirements::acquire(&mut self.symbols, pods) }
    }

    fn compile_side(&mut self, spec: &PolicySpec, own: NamespaceId, direction: podgate_api::Direction) -> Side {
        let rules = spec.rules(direction);
        let legacy = spec.key.kind == Kind::LegacyNetworkPolicy;
        let v1 = spec.tier == podgate_api::Tier::NetworkPolicy && !legacy;
        let speaks = match spec.tier {
            podgate_api::Tier::Admin | podgate_api::Tier::Baseline => !rules.is_empty(),
            podgate_api::Tier::NetworkPolicy if legacy => direction == podgate_api::Direction::Ingress,
            podgate_api::Tier::NetworkPolicy => spec.isolates(direction),
        };
        if !speaks {
            return Side::default();
        }
        let names = RuleNames {
            tier: spec.tier.into_engine(),
            namespace: spec.key.namespace.as_str().into(),
            policy: spec.key.name.as_str().into(),
            direction: direction.into_engine(),
        };
        let compiled = rules.iter().enumerate().map(|(i, r)| self.compile_rule(&names, i, r, own)).collect();
        let default_deny = v1.then(|| self.rules.acquire(&mut self.tables, names.default_deny()));
        Side { speaks, default_deny, rules: compiled }
    }

    fn compile_rule(&mut self, names: &RuleNames, index: usize, rule: &Rule, own: NamespaceId) -> CompiledRule {
        let (mut pods, mut blocks) = (Vec::new(), Vec::new());
        if let Peers::Of(peers) = &rule.peers {
            for peer in peers {
                match peer {
                    Peer::Pods { namespaces, pods: labels } => {
                        let selector = self.pod_selector(own, namespaces, labels);
                        pods.push(self.acquire_peer_selector(selector));
                    }
                    Peer::Block(block) => blocks.push(self.blocks.acquire(block)),
                    Peer::Nodes(selector) => blocks.push(self.acquire_node_selector(selector)),
                }
            }
        }
        pods.sort_unstable();
        blocks.sort_unstable();
        let action = match names.tier {
            Tier::NetworkPolicy => Action::Accept,
            Tier::Admin | Tier::Baseline => rule.action.into_engine(),
        };
        let (mut spans, mut port_names) = (Vec::new(), Vec::new());
        for port in &rule.ports {
            spans.extend(self.port_spans(port, action == Action::Deny, &mut port_names));
        }
        if rule.ports.is_empty() {
            spans.push(PortSpan::EVERYTHING);
        }
        let label = rule.name.clone().unwrap_or_else(|| index.to_string());
        CompiledRule {
            id: self.rules.acquire(&mut self.tables, names.rule(&label, action)),
            action,
            everybody: rule.peers == Peers::Any,
            pods: pods.into(),
            blocks: blocks.into(),
            ports: spans.into(),
            names: port_names.into(),
        }
    }

    /// A port of a rule. Of a packet that does not show its port, only a Deny assumes the worst.
    fn port_spans(&mut self, port: &PortMatch, deny: bool, names: &mut Vec<u32>) -> Vec<PortSpan> {
        match port {
            PortMatch::Range { protocol, first, last } => {
                let ports = PortSpan::ports(protocol.number(), *first, *last);
                [ports].into_iter().chain(deny.then(|| PortSpan::not_shown(protocol.number()))).collect()
            }
            PortMatch::Named { protocol, name } => {
                let name = self.port_sets.acquire_name(&mut self.symbols, *protocol, name);
                names.push(name);
                vec![PortSpan::named(name, deny)]
            }
        }
    }

    /// The default deny of a namespace that is isolated by annotation.
    pub(super) fn annotation_rule(namespace: &str) -> RuleInfo {
        RuleNames {
            tier: Tier::NetworkPolicy,
            namespace: namespace.into(),
            policy: "(annotation)".into(),
            direction: Direction::Ingress,
        }
        .default_deny()
    }
}

/// What the names of a policy's rules have in common.
struct RuleNames {
    tier: Tier,
    namespace: Arc<str>,
    policy: Arc<str>,
    direction: Direction,
}

impl RuleNames {
    fn rule(&self, label: &str, action: Action) -> RuleInfo {
        let Self { tier, namespace, policy, direction } = self;
        RuleInfo {
            name: format!("{}/{namespace}/{policy}/{}/{label}", tier.as_str(), direction.as_str()).into(),
            tier: *tier,
            namespace: namespace.clone(),
            policy: policy.clone(),
            direction: *direction,
            action,
            default_deny: false,
            since: Generation::default(),
        }
    }

    fn default_deny(&self) -> RuleInfo {
        RuleInfo { default_deny: true, ..self.rule("default-deny", Action::Deny) }
    }
}

/// The engine's type for one of the API's.
pub(crate) trait IntoEngine {
    type Engine;
    fn into_engine(self) -> Self::Engine;
}

impl IntoEngine for podgate_api::Tier {
    type Engine = Tier;
    fn into_engine(self) -> Tier {
        match self {
            podgate_api::Tier::Admin => Tier::Admin,
            podgate_api::Tier::NetworkPolicy => Tier::NetworkPolicy,
            podgate_api::Tier::Baseline => Tier::Baseline,
        }
    }
}

impl IntoEngine for podgate_api::Action {
    type Engine = Action;
    fn into_engine(self) -> Action {
        match self {
            podgate_api::Action::Accept => Action::Accept,
            podgate_api::Action::Deny => Action::Deny,
            podgate_api::Action::Pass => Action::Pass,
        }
    }
}

impl IntoEngine for podgate_api::Direction {
    type Engine = Direction;
    fn into_engine(self) -> Direction {
        match self {
            podgate_api::Direction::Ingress => Direction::Ingress,
            podgate_api::Direction::Egress => Direction::Egress,
        }
    }
}

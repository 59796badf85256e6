//! One flow asked of engine and reference, and how a failure is cut down and printed.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use podgate_api::{Change, Direction, Object, Peers, Pod};
use podgate_engine::{Cause, Decision, NodeOrigin, Snapshot, Verdict};
use podgate_policy::reference::{self, Flow};
use podgate_policy::{Index, Locality, World};

/// What matters of an answer: the verdict, and the name of the rule that decided.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    pub allow: bool,
    pub rule: Option<String>,
}

/// Stands for a rule's name where the address should be a pod's, but no pod is known to have it.
const UNKNOWN: &str = "unknown";

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", if self.allow { "allow" } else { "deny" }, self.rule.as_deref().unwrap_or("-"))
    }
}

impl Answer {
    pub fn is_denied_by_rule(&self) -> bool {
        !self.allow && self.rule.as_deref() != Some(UNKNOWN)
    }
}

/// Whether the pod is a subject of snapshots of this locality.
pub fn is_local(locality: &Locality, pod: &Pod) -> bool {
    match locality {
        Locality::All => true,
        Locality::Node(node) => pod.node.as_ref() == Some(node),
    }
}

/// The reference's answer for one direction. It takes every pod for a subject; what an agent of one node says besides
/// (other nodes' pods are not its business, an address of its range without a pod is unknown) is added here.
pub fn by_reference(world: &World, locality: &Locality, flow: &Flow, direction: Direction) -> Answer {
    let open = Answer { allow: true, rule: None };
    match (reference::subject(world, flow, direction), locality) {
        (Some(pod), _) if !is_local(locality, pod) => open,
        (None, Locality::Node(node)) => {
            let own = flow.subject_end(direction);
            let in_range = world.nodes.get(node).is_some_and(|n| n.pod_cidrs.iter().any(|r| r.contains(&own)));
            let unknown = in_range && reference::nodes_at(world, own).is_empty();
            if unknown { Answer { allow: false, rule: Some(UNKNOWN.to_owned()) } } else { open }
        }
        _ => {
            let cause = reference::judge(world, flow, direction);
            Answer { allow: cause.allows(), rule: cause.rule().map(str::to_owned) }
        }
    }
}

fn answer(snapshot: &Snapshot, decision: Decision) -> Answer {
    let rule = match decision.cause {
        Cause::Unknown => Some(UNKNOWN.to_owned()),
        _ => decision.rule().map(|id| snapshot.rule(id).map_or(format!("{id:?} without name"), |r| r.name.to_string())),
    };
    Answer { allow: decision.verdict() == Verdict::Accept, rule }
}

/// The engine's answer: egress, ingress.
pub fn by_engine(snapshot: &Snapshot, flow: &Flow, origin: NodeOrigin) -> [(Direction, Answer); 2] {
    let judgement = snapshot.judge(&flow.to_engine(), origin);
    [(Direction::Egress, answer(snapshot, judgement.egress)), (Direction::Ingress, answer(snapshot, judgement.ingress))]
}

/// Where engine and reference differ on this flow.
pub fn difference(snapshot: &Snapshot, world: &World, locality: &Locality, flow: &Flow) -> Option<String> {
    by_engine(snapshot, flow, NodeOrigin::Address).into_iter().find_map(|(direction, engine)| {
        let reference = by_reference(world, locality, flow, direction);
        (engine != reference)
            .then(|| format!("{flow}: {}\n  engine:    {engine}\n  reference: {reference}", direction.as_str()))
    })
}

/// An index over these objects, compiled.
pub fn compiled(objects: &[Object], locality: &Locality) -> Arc<Snapshot> {
    let mut index = Index::new(locality.clone());
    objects.iter().for_each(|o| index.apply(Change::Apply(o.clone())));
    index.build().snapshot
}

/// Runs a check; a panic in it is a failure like any other.
pub fn guarded<E: From<String>>(check: impl FnOnce() -> Result<(), E>) -> Result<(), E> {
    catch_unwind(AssertUnwindSafe(check)).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        let text = text.or_else(|| panic.downcast_ref::<&str>().map(|s| (*s).to_owned()));
        Err(E::from(format!("panicked: {}", text.unwrap_or_default())))
    })
}

/// Fewer items that still fail: first large parts are left out, then single ones.
pub fn fewer<T: Clone>(mut items: Vec<T>, fails: impl Fn(&[T]) -> bool) -> Vec<T> {
    let mut part = items.len().div_ceil(2);
    while part > 0 {
        let mut start = 0;
        while start < items.len() {
            let mut rest = items.clone();
            rest.drain(start..(start + part).min(rest.len()));
            if fails(&rest) {
                items = rest;
            } else {
                start += part;
            }
        }
        part /= 2;
    }
    items
}

/// The object with one thing less, in every way there is.
pub fn simpler(object: &Object) -> Vec<Object> {
    let mut all = Vec::new();
    match object {
        Object::Policy(policy) => {
            for direction in Direction::BOTH {
                let rules =
                    |p: &mut podgate_api::PolicySpec, edit: &dyn Fn(&mut Vec<podgate_api::Rule>)| match direction {
                        Direction::Ingress => edit(&mut p.ingress),
                        Direction::Egress => edit(&mut p.egress),
                    };
                let mut push = |edit: &dyn Fn(&mut Vec<podgate_api::Rule>)| {
                    let mut less = policy.clone();
                    rules(&mut less, edit);
                    all.push(Object::Policy(less));
                };
                for (i, rule) in policy.rules(direction).iter().enumerate() {
                    push(&|rules| drop(rules.remove(i)));
                    (0..rule.ports.len()).for_each(|p| push(&|rules| drop(rules[i].ports.remove(p))));
                    let Peers::Of(peers) = &rule.peers else { continue };
                    push(&|rules| rules[i].peers = Peers::Any);
                    (1..peers.len()).for_each(|p| {
                        push(&|rules| {
                            if let Peers::Of(peers) = &mut rules[i].peers {
                                peers.remove(p);
                            }
                        });
                    });
                }
            }
        }
        Object::Pod(pod) => {
            let mut push = |edit: &dyn Fn(&mut podgate_api::Pod)| {
                let mut less = pod.clone();
                edit(&mut less);
                if less != *pod {
                    all.push(Object::Pod(less));
                }
            };
            push(&|p| p.labels.clear());
            push(&|p| p.host_addresses.clear());
            push(&|p| p.node = None);
            push(&|p| p.created = None);
            push(&|p| p.terminating = false);
            (0..pod.ports.len()).for_each(|i| push(&|p| drop(p.ports.remove(i))));
            (0..pod.addresses.len()).for_each(|i| push(&|p| p.addresses.retain(|a| *a != pod.addresses[i])));
        }
        Object::Node(node) => {
            let mut push = |less: podgate_api::Node| (less != *node).then(|| all.push(Object::Node(less)));
            push(podgate_api::Node { labels: Default::default(), ..node.clone() });
            push(podgate_api::Node { pod_cidrs: Vec::new(), ..node.clone() });
            for i in 0..node.addresses.len() {
                let addresses = node.addresses.iter().filter(|a| **a != node.addresses[i]).copied().collect();
                push(podgate_api::Node { addresses, ..node.clone() });
            }
        }
        Object::Namespace(_) => {}
    }
    all
}

/// Simpler items that still fail, `variants` giving what each may become.
pub fn simplified<T: Clone>(
    mut items: Vec<T>,
    variants: impl Fn(&T) -> Vec<T>,
    fails: impl Fn(&[T]) -> bool,
) -> Vec<T> {
    let mut i = 0;
    while i < items.len() {
        let smaller = variants(&items[i]).into_iter().find_map(|variant| {
            let mut tried = items.clone();
            tried[i] = variant;
            fails(&tried).then_some(tried)
        });
        match smaller {
            Some(smaller) => items = smaller,
            None => i += 1,
        }
    }
    items
}

/// A number from the environment, by which a run is repeated or made longer.
pub fn setting(name: &str, default: u64) -> u64 {
    match std::env::var(name) {
        Ok(text) => text.parse().unwrap_or_else(|_| panic!("{name}={text:?} is no number")),
        Err(_) => default,
    }
}

/// The seed of this run.
pub fn seed() -> u64 {
    setting("PODGATE_SEED", 20_260_117)
}

/// How often something came up, so that a run which tests nothing is not taken for a good one.
#[derive(Debug, Default)]
pub struct Tally(std::collections::BTreeMap<String, usize>);

impl Tally {
    pub fn count(&mut self, answer: &Answer) {
        let tier = answer.rule.as_deref().map_or("nothing", |r| r.split('/').next().unwrap_or(r));
        let kind = if answer.rule.as_deref().is_some_and(|r| r.ends_with("default-deny")) { " by default" } else { "" };
        let verdict = if answer.allow { "allow" } else { "deny" };
        *self.0.entry(format!("{verdict}{kind}: {tier}")).or_default() += 1;
    }

    pub fn total(&self) -> usize {
        self.0.values().sum()
    }

    /// Every sort of answer must be at least this part (in thousandths) of all.
    pub fn assert_all_sorts(&self, thousandths: usize) {
        let sorts = [
            "allow: nothing",
            "allow: networkpolicy",
            "deny by default: networkpolicy",
            "allow: admin",
            "deny: admin",
            "allow: baseline",
            "deny: baseline",
        ];
        for sort in sorts {
            let count = self.0.get(sort).copied().unwrap_or(0);
            assert!(count * 1000 >= self.total() * thousandths, "too few of {sort:?}: {self:?}");
        }
    }
}

//! Subject classes: local identities that the same policies are about, and their tables.

use std::collections::BTreeMap;
use std::sync::Arc;

use podgate_engine::{Direction, DirectionTable, RankedRule, RuleId, RuleTable, Subject, Then, Tier};
use rustc_hash::{FxHashMap, FxHashSet};

use super::Index;
use super::build::Exposure;
use super::classifier::{ClassId, Classifier};
use super::identities::IdentityId;
use super::interner::{Interner, entry};
use super::namespaces::NamespaceId;
use super::policies::{CompiledRule, Policy, PolicyId};
use super::selectors::SelectorId;

/// A subject class' number; 0: no policy is about it.
pub(crate) type SubjectId = u32;

/// What makes identities subjects of the same policies.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub(crate) struct SubjectKey {
    selectors: Arc<[SelectorId]>,
    /// Their namespace, if its annotation isolates them.
    annotated: Option<NamespaceId>,
}

#[derive(Debug, Default)]
struct SubjectClass {
    identities: FxHashSet<IdentityId>,
    exposure: Exposure,
    egress: EgressRules,
}

/// What is to be known of the rules about a class' egress.
#[derive(Debug, Default, Clone, Copy)]
struct EgressRules {
    /// Some are of cluster tiers.
    cluster: bool,
    /// Some name ports, which are the destinations'.
    names: bool,
}

#[derive(Debug, Default)]
struct SubjectSelector {
    /// Policies with this subject.
    policies: Vec<PolicyId>,
    classes: FxHashSet<SubjectId>,
}

/// All subject classes, and the selectors of subjects.
#[derive(Debug)]
pub(crate) struct Subjects {
    keys: Interner<SubjectKey>,
    classes: Vec<SubjectClass>,
    selectors: Vec<SubjectSelector>,
    /// Those to compile anew.
    dirty: FxHashSet<SubjectId>,
    /// Selectors that got their first class, or lost their last one.
    toggled: FxHashSet<SelectorId>,
    judging_input: usize,
    asking_names: usize,
}

impl Default for Subjects {
    fn default() -> Self {
        let mut keys = Interner::default();
        keys.acquire(SubjectKey::default());
        let classes = vec![SubjectClass::default()];
        Self {
            keys,
            classes,
            selectors: Vec::new(),
            dirty: FxHashSet::default(),
            toggled: FxHashSet::default(),
            judging_input: 0,
            asking_names: 0,
        }
    }
}

impl Subjects {
    /// A policy has this subject.
    pub(crate) fn add_policy(&mut self, selector: SelectorId, policy: PolicyId) {
        let selector = entry(&mut self.selectors, selector);
        selector.policies.push(policy);
        self.dirty.extend(&selector.classes);
    }

    /// A policy has this subject no more.
    pub(crate) fn remove_policy(&mut self, selector: SelectorId, policy: PolicyId) {
        let selector = entry(&mut self.selectors, selector);
        selector.policies.retain(|p| *p != policy);
        self.dirty.extend(&selector.classes);
    }

    /// Whether some local pod is selected, as of the last time that subjects were settled.
    pub(crate) fn is_local(&self, selector: SelectorId) -> bool {
        self.selectors.get(selector as usize).is_some_and(|s| !s.classes.is_empty())
    }

    /// Selectors of which that may have changed.
    pub(crate) fn take_toggled(&mut self) -> FxHashSet<SelectorId> {
        std::mem::take(&mut self.toggled)
    }

    /// The policies with this subject.
    pub(crate) fn policies_of(&self, selector: SelectorId) -> &[PolicyId] {
        self.selectors.get(selector as usize).map_or(&[], |s| &s.policies)
    }

    /// The classes with this selector.
    pub(crate) fn classes_of(&self, selector: SelectorId) -> impl Iterator<Item = SubjectId> {
        self.selectors.get(selector as usize).into_iter().flat_map(|s| s.classes.iter().copied())
    }

    pub(crate) fn identities(&self, class: SubjectId) -> &FxHashSet<IdentityId> {
        &self.classes[class as usize].identities
    }

    pub(crate) fn exposure(&self, class: SubjectId) -> Exposure {
        self.classes[class as usize].exposure
    }

    /// Whether some cluster-tier rule is about egress of some local pod.
    pub(crate) fn judge_input(&self) -> bool {
        self.judging_input > 0
    }

    /// Whether what some local pod may send depends on the names of the destination's ports.
    pub(crate) fn asks_names(&self) -> bool {
        self.asking_names > 0
    }

    /// How many classes there are, without the empty one.
    pub(crate) fn len(&self) -> usize {
        self.keys.len() - 1
    }

    fn set(&mut self, class: SubjectId, exposure: Exposure, egress: EgressRules) {
        let class = &mut self.classes[class as usize];
        let count = |all: &mut usize, before: bool, now: bool| *all = *all + usize::from(now) - usize::from(before);
        count(&mut self.judging_input, class.egress.cluster, egress.cluster);
        count(&mut self.asking_names, class.egress.names, egress.names);
        (class.exposure, class.egress) = (exposure, egress);
    }
}

/// What compiling changed.
#[derive(Debug, Default)]
pub(crate) struct Compiled {
    /// Classes about which other policies speak, or the same in another way.
    pub(crate) changed: Vec<SubjectId>,
    /// Those of them whose exposure is another.
    pub(crate) exposed: Vec<SubjectId>,
}

/// New peer classes that a subject class has to know.
#[derive(Debug, Default)]
pub(crate) struct Fresh {
    pub(crate) pods: Vec<ClassId>,
    pub(crate) blocks: Vec<ClassId>,
}

/// Rules of one direction of a subject class, in the order of evaluation.
struct Rules<'i> {
    admin: Vec<&'i CompiledRule>,
    then: Vec<&'i CompiledRule>,
    default_deny: Option<RuleId>,
    /// Some are of cluster tiers.
    cluster: bool,
}

impl Index {
    /// The subject class that an identity belongs to.
    pub(super) fn subject_key(&self, id: IdentityId) -> SubjectKey {
        let identity = self.identities.get(id);
        if identity.local.is_empty() {
            return SubjectKey::default();
        }
        let namespace = self.identities.key(id).namespace;
        let annotated = self.namespaces.get(namespace).annotated.then_some(namespace);
        SubjectKey { selectors: identity.subject_of.clone(), annotated }
    }

    /// Whether this is the class of the key.
    pub(super) fn is_subject_key(&self, class: SubjectId, key: &SubjectKey) -> bool {
        **self.subjects.keys.value(class) == *key
    }

    /// Puts an identity into the class of this key.
    pub(super) fn enter_subject(&mut self, key: SubjectKey, id: IdentityId) -> SubjectId {
        if key == SubjectKey::default() {
            return 0;
        }
        let (class, new) = self.subjects.keys.acquire(key.clone());
        if new {
            *entry(&mut self.subjects.classes, class) = SubjectClass::default();
            for selector in key.selectors.iter() {
                let classes = &mut entry(&mut self.subjects.selectors, *selector).classes;
                if classes.is_empty() {
                    self.subjects.toggled.insert(*selector);
                }
                classes.insert(class);
            }
            self.subjects.dirty.insert(class);
        }
        self.subjects.classes[class as usize].identities.insert(id);
        class
    }

    /// Takes an identity out of its class.
    pub(super) fn leave_subject(&mut self, class: SubjectId, id: IdentityId) {
        if class == 0 {
            return;
        }
        self.subjects.classes[class as usize].identities.remove(&id);
        if let Some(key) = self.subjects.keys.release(class) {
            for selector in key.selectors.iter() {
                let classes = &mut self.subjects.selectors[*selector as usize].classes;
                classes.remove(&class);
                if classes.is_empty() {
                    self.subjects.toggled.insert(*selector);
                }
            }
            self.subjects.set(class, Exposure::default(), EgressRules::default());
            self.subjects.dirty.remove(&class);
            self.tables.set_subject(class, None);
        }
    }

    /// The subject classes with rules that use the term.
    pub(super) fn subjects_using<'i>(
        &'i self,
        terms: &'i Classifier,
        term: u32,
    ) -> impl Iterator<Item = SubjectId> + 'i {
        let users = terms.users(term).iter();
        users.flat_map(|p| self.subjects.classes_of(self.policies.get(*p).subject))
    }

    /// Compiles what is dirty, and puts new peer classes into the tables of the others that are about them.
    pub(super) fn compile_subjects(&mut self, pods: &[ClassId], blocks: &[ClassId], everything: bool) -> Compiled {
        if everything {
            let all = (1..self.subjects.classes.len() as u32).filter(|c| self.subjects.keys.try_value(*c).is_some());
            self.subjects.dirty = all.collect();
        }
        let mut compiled = Compiled::default();
        for class in std::mem::take(&mut self.subjects.dirty) {
            let (subject, egress) = self.compile_subject(class);
            let exposure = Exposure { ingress: subject.ingress.is_some(), egress: subject.egress.is_some() };
            if self.subjects.exposure(class) != exposure {
                compiled.exposed.push(class);
            }
            self.subjects.set(class, exposure, egress);
            self.tables.set_subject(class, Some(subject));
            compiled.changed.push(class);
        }
        let mut fresh: BTreeMap<SubjectId, Fresh> = BTreeMap::new();
        for class in pods {
            for term in self.pod_terms.class_terms(*class).unwrap_or_default() {
                let using = self.subjects_using(&self.pod_terms, *term);
                using.for_each(|s| fresh.entry(s).or_default().pods.push(*class));
            }
        }
        for class in blocks {
            for term in self.block_terms.class_terms(*class).unwrap_or_default() {
                let using = self.subjects_using(&self.block_terms, *term);
                using.for_each(|s| fresh.entry(s).or_default().blocks.push(*class));
            }
        }
        let done: FxHashSet<SubjectId> = compiled.changed.iter().copied().collect();
        for (class, fresh) in fresh.into_iter().filter(|(class, _)| !done.contains(class)) {
            let subject = self.extend_subject(class, &fresh);
            self.tables.set_subject(class, Some(subject));
        }
        compiled
    }

    fn compile_subject(&self, class: SubjectId) -> (Subject, EgressRules) {
        let (ingress, egress) = (self.rules_of(class, Direction::Ingress), self.rules_of(class, Direction::Egress));
        let table = |rules: &Option<Rules<'_>>| rules.as_ref().map(|r| Arc::new(self.direction_table(r)));
        let rules = egress.as_ref().map_or_else(EgressRules::default, |rules| EgressRules {
            cluster: rules.cluster,
            names: rules.admin.iter().chain(&rules.then).any(|rule| !rule.names.is_empty()),
        });
        (Subject { ingress: table(&ingress), egress: table(&egress) }, rules)
    }

    /// The class' tables with some peer classes more. A table that would grow is compiled anew: that leaves out the
    /// classes that are no more.
    fn extend_subject(&self, class: SubjectId, fresh: &Fresh) -> Subject {
        let extended = |direction| {
            let rules = self.rules_of(class, direction)?;
            let mut table = self.tables.subject(class)?.table(direction)?.clone();
            let admin = table.admin.as_mut().is_none_or(|t| self.extend(t, &rules.admin, fresh));
            let then = match &mut table.then {
                Then::Isolated(t, _) => self.extend(t, &rules.then, fresh),
                Then::Baseline(t) => t.as_mut().is_none_or(|t| self.extend(t, &rules.then, fresh)),
            };
            Some(Arc::new(if admin && then { table } else { self.direction_table(&rules) }))
        };
        Subject { ingress: extended(Direction::Ingress), egress: extended(Direction::Egress) }
    }

    /// Whether there was room.
    fn extend(&self, table: &mut RuleTable, rules: &[&CompiledRule], fresh: &Fresh) -> bool {
        let pods = fresh.pods.iter().map(|c| (*c, &self.pod_terms, true));
        let blocks = fresh.blocks.iter().map(|c| (*c, &self.block_terms, false));
        for (class, classifier, of_pods) in pods.chain(blocks) {
            let terms = classifier.class_terms(class).unwrap_or_default();
            let matching = |rule: &CompiledRule| {
                let peers = if of_pods { &rule.pods } else { &rule.blocks };
                !rule.everybody && peers.iter().any(|t| terms.binary_search(t).is_ok())
            };
            let ranked = rules.iter().enumerate().filter(|(_, r)| matching(r));
            let ranked = ranked.map(|(rank, r)| (rank as u32, &*r.ports));
            if ranked.clone().next().is_none() {
                continue;
            }
            if table.is_full() {
                return false;
            }
            table.set([class], ranked);
        }
        true
    }

    /// The rules about one direction of a class; `None`: nothing is about it.
    fn rules_of(&self, class: SubjectId, direction: Direction) -> Option<Rules<'_>> {
        let key = self.subjects.keys.value(class);
        let selectors = key.selectors.iter().filter_map(|s| self.subjects.selectors.get(*s as usize));
        let policies = selectors.flat_map(|s| &s.policies).map(|p| self.policies.get(*p));
        let mut policies: Vec<&Policy> = policies.filter(|p| p.side(direction).speaks).collect();
        policies.sort_unstable_by(|a, b| a.order(b));
        let annotation = key.annotated.filter(|_| direction == Direction::Ingress);
        let default_deny = policies.iter().find_map(|p| p.side(direction).default_deny);
        let default_deny = default_deny.or_else(|| self.annotations.get(&annotation?).copied());
        if policies.is_empty() && default_deny.is_none() {
            return None;
        }
        let of_tier = |tier| {
            let policies = policies.iter().filter(move |p| p.tier == tier);
            policies.flat_map(|p| &p.side(direction).rules).collect::<Vec<_>>()
        };
        let then = if default_deny.is_some() { Tier::NetworkPolicy } else { Tier::Baseline };
        let cluster = policies.iter().any(|p| p.tier != Tier::NetworkPolicy);
        Some(Rules { admin: of_tier(Tier::Admin), then: of_tier(then), default_deny, cluster })
    }

    fn direction_table(&self, rules: &Rules<'_>) -> DirectionTable {
        let some = |rules: &[&CompiledRule]| (!rules.is_empty()).then(|| self.rule_table(rules));
        DirectionTable {
            admin: some(&rules.admin),
            then: match rules.default_deny {
                Some(default_deny) => Then::Isolated(self.rule_table(&rules.then), default_deny),
                None => Then::Baseline(some(&rules.then)),
            },
        }
    }

    fn rule_table(&self, rules: &[&CompiledRule]) -> RuleTable {
        let mut ranks: FxHashMap<ClassId, Vec<u32>> = FxHashMap::default();
        for (rank, rule) in rules.iter().enumerate().filter(|(_, r)| !r.everybody) {
            let pods = rule.pods.iter().flat_map(|t| self.pod_terms.classes_with(*t));
            let blocks = rule.blocks.iter().flat_map(|t| self.block_terms.classes_with(*t));
            for class in pods.chain(blocks) {
                let ranks = ranks.entry(class).or_default();
                if ranks.last() != Some(&(rank as u32)) {
                    ranks.push(rank as u32);
                }
            }
        }
        let ranked = rules.iter().map(|r| RankedRule {
            action: r.action,
            id: r.id,
            ports: &r.ports,
            everybody: r.everybody,
            addresses: !r.blocks.is_empty(),
        });
        let ranked: Vec<_> = ranked.collect();
        let names = rules.iter().any(|r| !r.names.is_empty());
        let mut table = RuleTable::new(&ranked, names, ranks.len());
        let mut alike: FxHashMap<Vec<u32>, Vec<ClassId>> = FxHashMap::default();
        ranks.into_iter().for_each(|(class, ranks)| alike.entry(ranks).or_default().push(class));
        for (ranks, classes) in alike {
            table.set(classes, ranks.iter().map(|r| (*r, ranked[*r as usize].ports)));
        }
        table
    }
}

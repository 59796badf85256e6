//! [`Classifier`]: sets of terms → classes, small enough in number to be keys of tables.
//!
//! A term is something that rules say of a peer: a pod selector or a block. A profile is the set of terms that are
//! true of some pods or addresses. If tables were keyed by profile, a widely used term (every namespace, 0.0.0.0/0)
//! would put every profile into every table that is about it. So a profile is split in two classes, its terms that
//! are in few profiles (narrow) and those that are in many (broad): of the latter there are few sets. A rule matches
//! if it does so by either.

use std::sync::Arc;

use rustc_hash::{FxHashMap, FxHashSet};

use super::interner::{Interner, entry};

/// A term's number.
pub(crate) type TermId = u32;
/// A set of terms' number; 0: the empty set.
pub(crate) type ProfileId = u32;
/// A class' number; 0: no terms. Never given to another set, so that a table may keep a class that is no more.
pub(crate) type ClassId = u32;

/// A term in more profiles than this is broad.
const BROAD: usize = 64;
/// A broad term in fewer profiles than this is narrow again.
const NARROW: usize = 16;

#[derive(Debug, Default)]
struct Term {
    /// Policies whose rules use it, sorted.
    users: Vec<u32>,
    profiles: FxHashSet<ProfileId>,
    classes: FxHashSet<ClassId>,
    broad: bool,
}

#[derive(Debug)]
struct Class {
    terms: Arc<[TermId]>,
    profiles: u32,
}

/// The classes of a profile.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Classes {
    pub(crate) narrow: ClassId,
    pub(crate) broad: ClassId,
}

/// Terms, profiles and classes of pods, or of blocks.
#[derive(Debug)]
pub(crate) struct Classifier {
    terms: Vec<Term>,
    profiles: Interner<[TermId]>,
    classes_of: Vec<Classes>,
    classes: FxHashMap<ClassId, Class>,
    by_terms: FxHashMap<Arc<[TermId]>, ClassId>,
    next_class: ClassId,
    /// Profiles that have no classes yet, or maybe not the right ones.
    unsettled: FxHashSet<ProfileId>,
    /// Terms whose number of profiles changed.
    counted: FxHashSet<TermId>,
}

/// What settling changed.
#[derive(Debug, Default)]
pub(crate) struct Settled {
    /// Profiles with other classes than before (new ones among them).
    pub(crate) profiles: FxHashSet<ProfileId>,
    /// Some of them had classes before: a term became broad or narrow.
    pub(crate) reclassified: bool,
    /// New classes.
    pub(crate) classes: Vec<ClassId>,
    /// Numbers of classes begin anew: no table may keep a class that is no more.
    pub(crate) wrapped: bool,
}

impl Classifier {
    /// `first_class` is odd or even; all its classes will be. So two classifiers never share a class.
    pub(crate) fn new(first_class: ClassId) -> Self {
        let mut profiles = Interner::default();
        profiles.acquire(Vec::new());
        Self {
            terms: Vec::new(),
            profiles,
            classes_of: vec![Classes::default()],
            classes: FxHashMap::default(),
            by_terms: FxHashMap::default(),
            next_class: first_class,
            unsettled: FxHashSet::default(),
            counted: FxHashSet::default(),
        }
    }

    /// A policy's rules use the term.
    pub(crate) fn add_user(&mut self, term: TermId, policy: u32) {
        let users = &mut entry(&mut self.terms, term).users;
        if let Err(at) = users.binary_search(&policy) {
            users.insert(at, policy);
        }
    }

    /// A policy's rules use the term no more.
    pub(crate) fn remove_user(&mut self, term: TermId, policy: u32) {
        let users = &mut entry(&mut self.terms, term).users;
        if let Ok(at) = users.binary_search(&policy) {
            users.remove(at);
        }
    }

    /// The policies whose rules use the term.
    pub(crate) fn users(&self, term: TermId) -> &[u32] {
        self.terms.get(term as usize).map_or(&[], |t| &t.users)
    }

    /// The profile of these terms (sorted), with one user more.
    pub(crate) fn acquire(&mut self, terms: Vec<TermId>) -> ProfileId {
        if terms.is_empty() {
            return 0;
        }
        let (profile, new) = self.profiles.acquire(terms);
        if new {
            for term in self.profiles.value(profile).iter() {
                entry(&mut self.terms, *term).profiles.insert(profile);
                self.counted.insert(*term);
            }
            *entry(&mut self.classes_of, profile) = Classes::default();
            self.unsettled.insert(profile);
        }
        profile
    }

    /// One user more of a profile.
    pub(crate) fn retain(&mut self, profile: ProfileId) {
        if profile != 0 {
            self.profiles.retain(profile);
        }
    }

    /// One user of a profile less.
    pub(crate) fn release(&mut self, profile: ProfileId) {
        if profile == 0 {
            return;
        }
        if let Some(terms) = self.profiles.release(profile) {
            for term in terms.iter() {
                self.terms[*term as usize].profiles.remove(&profile);
                self.counted.insert(*term);
            }
            let classes = std::mem::take(&mut self.classes_of[profile as usize]);
            self.unsettled.remove(&profile);
            self.leave(classes.narrow);
            self.leave(classes.broad);
        }
    }

    /// The terms of a profile, sorted.
    pub(crate) fn terms(&self, profile: ProfileId) -> &Arc<[TermId]> {
        self.profiles.value(profile)
    }

    /// The classes of a profile, as of the last settling.
    pub(crate) fn classes(&self, profile: ProfileId) -> Classes {
        self.classes_of[profile as usize]
    }

    /// The terms of a class; `None`: it is no more.
    pub(crate) fn class_terms(&self, class: ClassId) -> Option<&[TermId]> {
        self.classes.get(&class).map(|c| &*c.terms)
    }

    /// The classes that have the term.
    pub(crate) fn classes_with(&self, term: TermId) -> impl Iterator<Item = ClassId> {
        self.terms.get(term as usize).into_iter().flat_map(|t| t.classes.iter().copied())
    }

    /// Decides which terms are broad, and gives classes to the profiles that need some.
    pub(crate) fn settle(&mut self) -> Settled {
        for term in std::mem::take(&mut self.counted) {
            let term = &mut self.terms[term as usize];
            let broad = term.profiles.len() > if term.broad { NARROW } else { BROAD };
            if broad != term.broad {
                term.broad = broad;
                self.unsettled.extend(&term.profiles);
            }
        }
        let mut settled = Settled::default();
        for profile in std::mem::take(&mut self.unsettled) {
            let terms = self.profiles.value(profile).clone();
            let (broad, narrow): (Vec<_>, Vec<_>) = terms.iter().partition(|t| self.terms[**t as usize].broad);
            let classes = Classes { narrow: self.enter(narrow, &mut settled), broad: self.enter(broad, &mut settled) };
            let before = std::mem::replace(&mut self.classes_of[profile as usize], classes);
            self.leave(before.narrow);
            self.leave(before.broad);
            if before != classes {
                settled.profiles.insert(profile);
                settled.reclassified |= before != Classes::default();
            }
        }
        settled.classes.retain(|c| self.classes.contains_key(c));
        settled
    }

    /// The class of these terms, with one profile more.
    fn enter(&mut self, terms: Vec<TermId>, settled: &mut Settled) -> ClassId {
        if terms.is_empty() {
            return 0;
        }
        if let Some(id) = self.by_terms.get(terms.as_slice()).copied() {
            if let Some(class) = self.classes.get_mut(&id) {
                class.profiles += 1;
            }
            return id;
        }
        let id = self.fresh_number(settled);
        let terms: Arc<[TermId]> = terms.into();
        for term in terms.iter() {
            self.terms[*term as usize].classes.insert(id);
        }
        self.by_terms.insert(terms.clone(), id);
        self.classes.insert(id, Class { terms, profiles: 1 });
        settled.classes.push(id);
        id
    }

    /// After two thousand million classes the numbers begin anew, past those in use.
    fn fresh_number(&mut self, settled: &mut Settled) -> ClassId {
        loop {
            let id = self.next_class;
            self.next_class = id.checked_add(2).unwrap_or_else(|| {
                settled.wrapped = true;
                id % 2
            });
            if id != 0 && !self.classes.contains_key(&id) {
                return id;
            }
        }
    }

    fn leave(&mut self, id: ClassId) {
        let Some(class) = self.classes.get_mut(&id) else { return };
        class.profiles -= 1;
        if class.profiles == 0
            && let Some(class) = self.classes.remove(&id)
        {
            self.by_terms.remove(&class.terms);
            for term in class.terms.iter() {
                self.terms[*term as usize].classes.remove(&id);
            }
        }
    }

    /// How many profiles and classes there are, without the empty ones.
    pub(crate) fn len(&self) -> (usize, usize) {
        (self.profiles.len() - 1, self.classes.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whatever was broad when: a profile's classes together have exactly its terms, and each term finds its classes.
    fn check(classifier: &Classifier, profiles: &[(ProfileId, Vec<TermId>)]) {
        for (profile, terms) in profiles {
            let Classes { narrow, broad } = classifier.classes(*profile);
            let of = |class| if class == 0 { &[][..] } else { classifier.class_terms(class).unwrap() };
            let mut all = [of(narrow), of(broad)].concat();
            all.sort_unstable();
            assert_eq!(all, *terms);
            for term in terms {
                assert_eq!(classifier.classes_with(*term).filter(|c| [narrow, broad].contains(c)).count(), 1);
            }
        }
    }

    #[test]
    fn a_term_that_becomes_frequent_leaves_the_narrow_classes_and_comes_back() {
        let mut classifier = Classifier::new(1);
        let mut profiles = Vec::new();
        for i in 0..200u32 {
            let terms = vec![0, 1 + i % 2, 10 + i];
            profiles.push((classifier.acquire(terms.clone()), terms));
        }
        let settled = classifier.settle();
        check(&classifier, &profiles);
        assert_eq!(settled.profiles.len(), 200);
        // 200 narrow classes of one rare term each, two broad ones.
        assert_eq!(classifier.len(), (200, 202));
        assert_eq!(classifier.classes_with(0).count(), 2);
        assert!(settled.classes.iter().all(|c| c % 2 == 1));
        for (profile, _) in profiles.drain(20..) {
            classifier.release(profile);
        }
        classifier.settle();
        check(&classifier, &profiles);
        for (profile, _) in profiles.drain(10..) {
            classifier.release(profile);
        }
        let settled = classifier.settle();
        check(&classifier, &profiles);
        assert!(settled.profiles.len() == 10 && classifier.len() == (10, 10));
        profiles.into_iter().for_each(|(profile, _)| classifier.release(profile));
        assert_eq!(classifier.len(), (0, 0));
    }

    #[test]
    fn class_numbers_begin_anew_past_those_in_use() {
        let mut classifier = Classifier::new(1);
        let first = classifier.acquire(vec![1]);
        classifier.settle();
        assert_eq!(classifier.classes(first).narrow, 1);
        classifier.next_class = u32::MAX;
        let (a, b) = (classifier.acquire(vec![2]), classifier.acquire(vec![3]));
        assert!(classifier.settle().wrapped);
        let mut numbers = [a, b].map(|p| classifier.classes(p).narrow);
        numbers.sort_unstable();
        assert_eq!(numbers, [3, u32::MAX]);
    }

    #[test]
    fn users_are_kept_once_each() {
        let mut classifier = Classifier::new(2);
        [5, 3, 5].into_iter().for_each(|p| classifier.add_user(7, p));
        assert_eq!(classifier.users(7), [3, 5]);
        classifier.remove_user(7, 3);
        classifier.remove_user(7, 3);
        assert_eq!((classifier.users(7), classifier.users(99)), ([5].as_slice(), [].as_slice()));
    }
}

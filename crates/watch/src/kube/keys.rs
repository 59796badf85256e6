//! The names of the objects that were told, so that a new list shows which of them are gone. Nothing else of the
//! objects is kept: 100,000 names take about 7 MB.

use std::collections::{HashMap, HashSet};

use podgate_api::{Kind, ObjectKey};

type Names = HashMap<Box<str>, HashSet<Box<str>>>;

/// The objects of one kind that are there, as far as was told.
#[derive(Debug, Default)]
pub(super) struct Keys {
    here: Names,
    /// During a list: those of before that it has not shown yet.
    unseen: Names,
}

impl Keys {
    /// Whether the object is known.
    pub(super) fn contains(&self, namespace: &str, name: &str) -> bool {
        [&self.here, &self.unseen].iter().any(|names| names.get(namespace).is_some_and(|names| names.contains(name)))
    }

    /// Takes note that the object is there.
    pub(super) fn insert(&mut self, namespace: &str, name: &str) {
        if self.here.get(namespace).is_some_and(|names| names.contains(name)) {
            return;
        }
        let name = take(&mut self.unseen, namespace, name).unwrap_or_else(|| name.into());
        match self.here.get_mut(namespace) {
            Some(names) => drop(names.insert(name)),
            None => drop(self.here.insert(namespace.into(), HashSet::from([name]))),
        }
    }

    /// Takes note that the object is gone; whether it was known.
    pub(super) fn remove(&mut self, namespace: &str, name: &str) -> bool {
        let here = take(&mut self.here, namespace, name).is_some();
        take(&mut self.unseen, namespace, name).is_some() || here
    }

    /// A list begins, perhaps after another that did not come to its end.
    pub(super) fn begin_list(&mut self) {
        for (namespace, names) in std::mem::take(&mut self.here) {
            self.unseen.entry(namespace).or_default().extend(names);
        }
    }

    /// The list is complete: takes the objects of before that it did not have, a part of them at a time.
    pub(super) fn take_unseen(&mut self, kind: Kind, most: usize) -> Vec<ObjectKey> {
        let mut gone = Vec::new();
        while gone.len() < most {
            let Some(namespace) = self.unseen.keys().next().cloned() else { break };
            let Some(names) = self.unseen.get_mut(&namespace) else { break };
            let some: Vec<Box<str>> = names.iter().take(most - gone.len()).cloned().collect();
            for name in some {
                names.remove(&name);
                gone.push(ObjectKey { kind, namespace: namespace.clone().into(), name: name.into() });
            }
            if names.is_empty() {
                self.unseen.remove(&namespace);
            }
        }
        gone
    }
}

fn take(names: &mut Names, namespace: &str, name: &str) -> Option<Box<str>> {
    let of_namespace = names.get_mut(namespace)?;
    let taken = of_namespace.take(name)?;
    if of_namespace.is_empty() {
        names.remove(namespace);
    }
    Some(taken)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gone(keys: &mut Keys, most: usize) -> Vec<String> {
        let mut gone: Vec<_> = keys.take_unseen(Kind::Pod, most).iter().map(ToString::to_string).collect();
        gone.sort();
        gone
    }

    #[test]
    fn what_a_list_does_not_show_any_more_is_gone() {
        let mut keys = Keys::default();
        for (namespace, name) in [("a", "x"), ("a", "y"), ("b", "x")] {
            keys.insert(namespace, name);
        }
        keys.begin_list();
        keys.insert("a", "y");
        assert_eq!(gone(&mut keys, 9), ["Pod a/x", "Pod b/x"]);
        assert!(keys.contains("a", "y") && !keys.contains("a", "x"));
        assert_eq!(gone(&mut keys, 9), [""; 0]);
    }

    #[test]
    fn a_list_that_breaks_off_loses_nothing() {
        let mut keys = Keys::default();
        (0..5).for_each(|i| keys.insert("a", &i.to_string()));
        keys.begin_list();
        keys.insert("a", "0");
        keys.insert("a", "new");
        assert!(keys.contains("a", "4"));
        keys.begin_list();
        keys.insert("a", "1");
        assert_eq!(gone(&mut keys, 2).len() + gone(&mut keys, 9).len(), 5);
        assert!(keys.contains("a", "1") && !keys.contains("a", "new"));
    }

    #[test]
    fn removing_tells_whether_it_was_known() {
        let mut keys = Keys::default();
        keys.insert("a", "x");
        assert!(!keys.remove("a", "y") && !keys.remove("b", "x") && keys.remove("a", "x") && !keys.remove("a", "x"));
    }
}

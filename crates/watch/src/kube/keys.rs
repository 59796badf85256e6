//! The names of the objects that were told, so that a new list shows which of them are gone. Nothing else of the
//! objects is kept: 100,000 names take about 9 MB, during a list too.

use std::collections::{BTreeMap, HashMap};

use podgate_api::{Kind, ObjectKey};

/// The names of objects told before, from a state on disk; see [`Settings::known`](super::Settings::known).
#[derive(Debug, Clone, Default)]
pub struct Known(BTreeMap<Kind, HashMap<Box<str>, Vec<Box<str>>>>);

impl Known {
    /// One more object; each is to be given once.
    pub fn insert(&mut self, key: &ObjectKey) {
        let namespaces = self.0.entry(key.kind).or_default();
        match namespaces.get_mut(&*key.namespace) {
            Some(names) => names.push(key.name.as_str().into()),
            None => _ = namespaces.insert(key.namespace.as_str().into(), vec![key.name.as_str().into()]),
        }
    }

    /// How many objects.
    pub fn len(&self) -> usize {
        self.0.values().flat_map(HashMap::values).map(Vec::len).sum()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Takes the objects of one kind out.
    pub(super) fn take(&mut self, kind: Kind) -> Keys {
        let sorted = |mut names: Vec<Box<str>>| {
            names.sort_unstable();
            names.dedup();
            Names { seen: vec![true; names.len()], names }
        };
        let namespaces = self.0.remove(&kind).unwrap_or_default();
        Keys { namespaces: namespaces.into_iter().map(|(namespace, names)| (namespace, sorted(names))).collect() }
    }
}

impl FromIterator<ObjectKey> for Known {
    fn from_iter<T: IntoIterator<Item = ObjectKey>>(keys: T) -> Self {
        let mut known = Known::default();
        keys.into_iter().for_each(|key| known.insert(&key));
        known
    }
}

/// The objects of one kind that are there, as far as was told.
#[derive(Debug, Default)]
pub(super) struct Keys {
    namespaces: HashMap<Box<str>, Names>,
}

/// The names in one namespace, in order. Lists come in that order too, so that most names are added at the end; one
/// that is not moves the pointers behind it, which takes 100 µs among 100,000.
#[derive(Debug, Default)]
struct Names {
    names: Vec<Box<str>>,
    /// Of each, whether the list that is being read, or was read last, has it, or it came after that.
    seen: Vec<bool>,
}

impl Names {
    fn find(&self, name: &str) -> Result<usize, usize> {
        match self.names.last() {
            Some(last) if **last < *name => Err(self.names.len()),
            _ => self.names.binary_search_by(|each| (**each).cmp(name)),
        }
    }

    /// Takes names that were not seen out, as many as these at most.
    fn take_unseen(&mut self, most: usize) -> Vec<Box<str>> {
        let mut gone = Vec::new();
        let mut seen = self.seen.iter();
        self.names.retain_mut(|name| {
            let stays = gone.len() == most || seen.next().is_none_or(|&seen| seen);
            if !stays {
                gone.push(std::mem::take(name));
            }
            stays
        });
        let mut left = gone.len();
        self.seen.retain(|&seen| {
            let stays = seen || left == 0;
            left -= usize::from(!stays);
            stays
        });
        gone
    }
}

impl Keys {
    /// Whether the object is known.
    pub(super) fn contains(&self, namespace: &str, name: &str) -> bool {
        self.namespaces.get(namespace).is_some_and(|names| names.find(name).is_ok())
    }

    /// Takes note that the object is there.
    pub(super) fn insert(&mut self, namespace: &str, name: &str) {
        let names = match self.namespaces.get_mut(namespace) {
            Some(names) => names,
            None => self.namespaces.entry(namespace.into()).or_default(),
        };
        match names.find(name) {
            Ok(at) => names.seen[at] = true,
            Err(at) => {
                names.names.insert(at, name.into());
                names.seen.insert(at, true);
            }
        }
    }

    /// Takes note that the object is gone; whether it was known.
    pub(super) fn remove(&mut self, namespace: &str, name: &str) -> bool {
        let Some(names) = self.namespaces.get_mut(namespace) else { return false };
        let Ok(at) = names.find(name) else { return false };
        names.names.remove(at);
        names.seen.remove(at);
        if names.names.is_empty() {
            self.namespaces.remove(namespace);
        }
        true
    }

    /// All of them.
    pub(super) fn all(&self, kind: Kind) -> Vec<ObjectKey> {
        let key = |namespace: &str, name: &str| ObjectKey { kind, namespace: namespace.into(), name: name.into() };
        self.namespaces.iter().flat_map(|(space, names)| names.names.iter().map(move |name| key(space, name))).collect()
    }

    /// A list begins, perhaps after another that did not come to its end.
    pub(super) fn begin_list(&mut self) {
        self.namespaces.values_mut().for_each(|names| names.seen.fill(false));
    }

    /// The list is complete: takes the objects of before that it did not have, a part of them at a time.
    pub(super) fn take_unseen(&mut self, kind: Kind, most: usize) -> Vec<ObjectKey> {
        let mut gone = Vec::new();
        self.namespaces.retain(|namespace, names| {
            let key = |name: Box<str>| ObjectKey { kind, namespace: namespace.to_string(), name: name.into() };
            gone.extend(names.take_unseen(most - gone.len()).into_iter().map(key));
            !names.names.is_empty()
        });
        gone
    }
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
    fn what_was_known_before_is_known_by_kind_in_whatever_order_it_was() {
        let key = |kind, name: &str| ObjectKey { kind, namespace: "a".to_owned(), name: name.to_owned() };
        let keys = [key(Kind::Pod, "y"), key(Kind::Pod, "x"), key(Kind::NetworkPolicy, "z")];
        let mut known: Known = keys.into_iter().collect();
        assert_eq!(known.len(), 3);
        let mut pods = known.take(Kind::Pod);
        assert!(pods.contains("a", "x") && pods.contains("a", "y") && !pods.contains("a", "z"));
        pods.begin_list();
        assert_eq!(gone(&mut pods, 9), ["Pod a/x", "Pod a/y"]);
        assert!(!known.take(Kind::Pod).contains("a", "x") && known.len() == 1);
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
    fn names_that_come_in_any_order_are_found() {
        let mut keys = Keys::default();
        let names: Vec<String> = (0..1000).map(|i| (i * 7919 % 1000).to_string()).collect();
        names.iter().for_each(|name| keys.insert(["a", "b"][name.len() % 2], name));
        assert!(names.iter().all(|name| keys.contains(["a", "b"][name.len() % 2], name)));
        keys.begin_list();
        names.iter().step_by(2).for_each(|name| keys.insert(["a", "b"][name.len() % 2], name));
        let mut all = Vec::new();
        while let gone @ [_, ..] = &keys.take_unseen(Kind::Pod, 64)[..] {
            assert!(gone.len() <= 64);
            all.extend(gone.iter().map(|key| key.name.clone()));
        }
        all.sort();
        let mut expected: Vec<_> = names.iter().skip(1).step_by(2).cloned().collect();
        expected.sort();
        assert_eq!(all, expected);
        assert!(names.iter().step_by(2).all(|name| keys.remove(["a", "b"][name.len() % 2], name)));
    }

    #[test]
    fn removing_tells_whether_it_was_known() {
        let mut keys = Keys::default();
        keys.insert("a", "x");
        assert!(!keys.remove("a", "y") && !keys.remove("b", "x") && keys.remove("a", "x") && !keys.remove("a", "x"));
    }
}

//! What is in force: the objects of every file, which of several with one key counts, and what is wrong.

use std::collections::btree_map::Entry as MapEntry;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::Bound;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use podgate_api::manifest::{ManifestError, Parsed};
use podgate_api::{Change, Kind, Object, ObjectKey, PolicySpec};

use crate::Problem;

/// The state of all files, and what has changed in it since the last [`Store::changes`].
#[derive(Debug, Default)]
pub(super) struct Store {
    files: BTreeMap<Arc<Path>, File>,
    /// The files that have an object of this key, in path order: the first one's is in force.
    holders: HashMap<ObjectKey, Vec<Arc<Path>>>,
    /// Keys that several files have.
    shared: BTreeSet<ObjectKey>,
    /// Files with something to complain of.
    troubled: BTreeSet<Arc<Path>>,
    /// What was in force at the last [`Store::changes`], of keys that may have changed since.
    touched: BTreeMap<ObjectKey, Option<Arc<Object>>>,
}

#[derive(Debug, Default)]
struct File {
    objects: BTreeMap<ObjectKey, Entry>,
    /// The objects are those of a text without errors: this is the state a broken text falls back to.
    good: bool,
    problems: Vec<Problem>,
}

#[derive(Debug, Clone)]
struct Entry {
    line: usize,
    object: Arc<Object>,
}

impl Store {
    /// The paths of all files known.
    pub(super) fn paths(&self) -> impl Iterator<Item = &Path> {
        self.files.keys().map(|path| &**path)
    }

    /// The paths of the files known below a directory (or that path itself).
    pub(super) fn below(&self, directory: &Path) -> Vec<PathBuf> {
        (self.files.range::<Path, _>((Bound::Included(directory), Bound::Unbounded)))
            .map(|(path, _)| path.to_path_buf())
            .take_while(|path| path.starts_with(directory))
            .collect()
    }

    /// Whether anything is known of this file.
    pub(super) fn knows(&self, path: &Path) -> bool {
        self.files.contains_key(path)
    }

    /// Whether something is wrong with this file.
    pub(super) fn is_troubled(&self, path: &Path) -> bool {
        self.troubled.contains(path)
    }

    /// Takes what a file says now.
    pub(super) fn set(&mut self, path: &Path, parsed: Parsed) {
        let old = self.files.remove(path).unwrap_or_default();
        let new = merge(path, &old, parsed);
        let path: Arc<Path> = path.into();
        self.replace(&path, old, Some(new));
    }

    /// A file, or a directory, can't be read: what was read of it before stays as it is.
    pub(super) fn fail(&mut self, path: &Path, error: &str) {
        let old = self.files.remove(path).unwrap_or_default();
        let message =
            format!("cannot be read: {error}; what was read there before stays in force, and it is tried again");
        let problems = vec![Problem { place: path.display().to_string(), object: None, message }];
        let new = File { objects: old.objects.clone(), good: old.good, problems };
        self.replace(&path.into(), old, Some(new));
    }

    /// The file is gone.
    pub(super) fn remove(&mut self, path: &Path) {
        if let Some(old) = self.files.remove(path) {
            self.replace(&path.into(), old, None);
        }
    }

    fn replace(&mut self, path: &Arc<Path>, old: File, new: Option<File>) {
        let none = BTreeMap::new();
        let new_objects = new.as_ref().map_or(&none, |file| &file.objects);
        for (key, before) in &old.objects {
            match new_objects.get(key) {
                Some(after) if Arc::ptr_eq(&after.object, &before.object) || after.object == before.object => {}
                _ => self.touch(key, path, &old),
            }
        }
        for key in new_objects.keys().filter(|key| !old.objects.contains_key(key)) {
            self.touch(key, path, &old);
            let holders = self.holders.entry(key.clone()).or_default();
            if let Err(at) = holders.binary_search(path) {
                holders.insert(at, path.clone());
            }
            if holders.len() > 1 {
                self.shared.insert(key.clone());
            }
        }
        for key in old.objects.keys().filter(|key| !new_objects.contains_key(key)) {
            if let Some(holders) = self.holders.get_mut(key) {
                holders.retain(|holder| holder != path);
                if holders.len() < 2 {
                    self.shared.remove(key);
                }
                if holders.is_empty() {
                    self.holders.remove(key);
                }
            }
        }
        match &new {
            Some(file) if !file.problems.is_empty() => self.troubled.insert(path.clone()),
            _ => self.troubled.remove(path),
        };
        if let Some(file) = new {
            self.files.insert(path.clone(), file);
        }
    }

    /// Remembers what is in force for a key before it changes. `old` is the file that is being replaced.
    fn touch(&mut self, key: &ObjectKey, path: &Arc<Path>, old: &File) {
        if self.touched.contains_key(key) {
            return;
        }
        let before = self.holders.get(key).and_then(|holders| holders.first()).and_then(|first| {
            let file = if first == path { old } else { self.files.get(first)? };
            Some(file.objects.get(key)?.object.clone())
        });
        self.touched.insert(key.clone(), before);
    }

    fn in_force(&self, key: &ObjectKey) -> Option<&Entry> {
        self.files.get(self.holders.get(key)?.first()?)?.objects.get(key)
    }

    /// The steps from what was in force the last time to what is now.
    pub(super) fn changes(&mut self) -> Vec<Change> {
        let touched = std::mem::take(&mut self.touched);
        (touched.into_iter())
            .filter_map(|(key, before)| match (before, self.in_force(&key)) {
                (None, None) => None,
                (Some(_), None) => Some(Change::Delete(key)),
                (Some(before), Some(after)) if before == after.object => None,
                (_, Some(after)) => Some(Change::Apply(Object::clone(&after.object))),
            })
            .collect()
    }

    /// All that is wrong now.
    pub(super) fn problems(&self) -> Vec<Problem> {
        let mut problems: Vec<_> = (self.troubled.iter().filter_map(|path| self.files.get(path)))
            .flat_map(|file| file.problems.iter().cloned())
            .collect();
        for key in &self.shared {
            let mut holders = (self.holders.get(key).into_iter().flatten())
                .filter_map(|path| Some(place(path, self.files.get(path)?.objects.get(key)?.line)));
            let Some(first) = holders.next() else { continue };
            problems.extend(holders.map(|place| twice(place, key, &first)));
        }
        problems
    }
}

fn place(path: &Path, line: usize) -> String {
    format!("{}:{line}", path.display())
}

fn twice(place: String, key: &ObjectKey, first: &str) -> Problem {
    let message = format!("stands in {first} already, and that one is in force; remove one of the two");
    Problem { place, object: Some(key.clone()), message }
}

/// What is in force of a file that says this, when it was in that state before.
fn merge(path: &Path, old: &File, parsed: Parsed) -> File {
    let mut objects = BTreeMap::new();
    let mut problems = Vec::new();
    for located in parsed.objects {
        let entry = Entry { line: located.line, object: Arc::new(located.object) };
        match objects.entry(entry.object.key()) {
            MapEntry::Vacant(vacant) => drop(vacant.insert(entry)),
            MapEntry::Occupied(first) => {
                problems.push(twice(place(path, entry.line), first.key(), &place(path, first.get().line)));
            }
        }
    }
    if parsed.errors.is_empty() {
        return File { objects, good: true, problems };
    }
    if old.good {
        problems = (parsed.errors.into_iter())
            .map(|error| problem(error, "the file's last good state stays in force until this is mended"))
            .collect();
        return File { objects: old.objects.clone(), good: true, problems };
    }
    if parsed.errors.iter().any(|error| error.object.is_none()) {
        // Some object can't even be named; nothing that was in force may end because of that.
        for (key, entry) in &old.objects {
            objects.entry(key.clone()).or_insert_with(|| entry.clone());
        }
    }
    for error in parsed.errors {
        let instead = stand_in(&mut objects, old, &error);
        problems.push(problem(error, instead));
    }
    File { objects, good: false, problems }
}

/// Puts something in the place of an object that can't be understood, and says what.
fn stand_in(objects: &mut BTreeMap<ObjectKey, Entry>, old: &File, error: &ManifestError) -> &'static str {
    let Some(key) = &error.object else { return "nothing of what stands there is in force until this is mended" };
    let closed =
        |object: &Object| matches!(object, Object::Policy(policy) if *policy == PolicySpec::closed(key.clone()));
    let told = |object: &Object| match object {
        object if closed(object) => "until this is mended, the policy isolates every pod of its namespace",
        Object::Namespace(namespace) if namespace.ingress_default_deny => "until this is mended, it is isolated",
        _ => "its last good state stays in force until this is mended",
    };
    if let Some(entry) = objects.get(key) {
        let before = old.objects.get(key).is_some_and(|before| Arc::ptr_eq(&before.object, &entry.object));
        return match key.kind.is_cluster_policy() && !before {
            true => "until this is mended, what can't be understood of it denies, and accepts nothing",
            false => told(&entry.object),
        };
    }
    let entry = match (old.objects.get(key), key.kind) {
        (Some(entry), _) => entry.clone(),
        (None, Kind::NetworkPolicy | Kind::LegacyNetworkPolicy) => {
            Entry { line: error.line, object: Arc::new(Object::Policy(PolicySpec::closed(key.clone()))) }
        }
        (None, Kind::Pod | Kind::Namespace | Kind::Node) => return "it is left out until this is mended",
        (None, Kind::ClusterNetworkPolicy | Kind::AdminNetworkPolicy | Kind::BaselineAdminNetworkPolicy) => {
            return "until this is mended, it is left out, and what it denies is open";
        }
    };
    let instead = told(&entry.object);
    objects.insert(key.clone(), entry);
    instead
}

fn problem(error: ManifestError, instead: &str) -> Problem {
    let field = if error.field.is_empty() { String::new() } else { format!("{}: ", error.field) };
    Problem {
        place: format!("{}:{}", error.file, error.line),
        object: error.object,
        message: format!("{field}{} ({instead})", error.message),
    }
}

//! Directories read and followed, by behaviour. Waiting is always for an event, never for time to pass. Here: the world
//! as events tell it, on which the rooms stand.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use podgate_api::{Change, Kind, Object, ObjectKey, PolicySpec};
use tempfile::TempDir;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::watches::{Hint, Watches};
use super::{follow, read};
use crate::{Event, FreshState, Freshness, Problem};

mod events;
mod files;
mod places;
mod unreadable;

const TOO_LONG: Duration = Duration::from_secs(20);

fn pod(name: &str, app: &str) -> String {
    format!("apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, labels: {{app: {app}}}}}\n---\n")
}

fn policy(name: &str) -> String {
    format!(
        "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {{name: {name}}}\nspec:\n  ingress: [{{}}]\n---\n"
    )
}

fn broken(text: &str) -> String {
    text.replace("ingress:", "ingres:")
}

/// A directory that is followed, and the world as its events tell it.
struct World {
    directory: TempDir,
    events: mpsc::Receiver<Event>,
    task: JoinHandle<std::io::Result<()>>,
    objects: BTreeMap<ObjectKey, Object>,
    problems: Vec<Problem>,
    fresh: Option<FreshState>,
    noticed: Option<Instant>,
    /// Every key that was deleted, in order.
    deleted: Vec<String>,
}

impl World {
    /// Follows `path` in a new directory that `prepare` has filled; comes back once it is synced.
    async fn at(path: &str, prepare: impl FnOnce(&Path)) -> Self {
        let directory = TempDir::new().unwrap();
        prepare(directory.path());
        let (sender, events) = mpsc::channel(4);
        let followed = directory.path().join(path);
        let task = tokio::spawn(async move { follow(&followed, sender).await });
        let (objects, problems, fresh, deleted) = Default::default();
        let mut world = Self { directory, events, task, objects, problems, fresh, noticed: None, deleted };
        while !world.take().await {}
        world
    }

    async fn new(prepare: impl FnOnce(&Path)) -> Self {
        Self::at("", prepare).await
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.path(name), text).unwrap();
    }

    /// Takes one event; whether it was `Synced`.
    async fn take(&mut self) -> bool {
        let event = tokio::time::timeout(TOO_LONG, self.events.recv()).await;
        match event.expect("an event should have come").expect("the source should go on") {
            Event::Changes { changes, noticed } => {
                assert!(!changes.is_empty());
                self.noticed = Some(noticed);
                for change in changes {
                    match change {
                        Change::Apply(object) => {
                            let before = self.objects.insert(object.key(), object.clone());
                            assert_ne!(before.as_ref(), Some(&object), "what has not changed is not told");
                        }
                        Change::Delete(key) => {
                            assert!(self.objects.remove(&key).is_some(), "{key} was not there");
                            self.deleted.push(key.name);
                        }
                    }
                }
            }
            Event::Problems(problems) => {
                assert_ne!(self.problems, problems, "what has not changed is not told");
                self.problems = problems;
            }
            Event::Freshness(told) => {
                let [Freshness { resource, state }] = &told[..] else { panic!("one directory: {told:?}") };
                assert!(resource.starts_with("manifests /"), "{resource}");
                assert_ne!(self.fresh.as_ref(), Some(state), "what has not changed is not told");
                self.fresh = Some(state.clone());
            }
            Event::Synced => return true,
            Event::Retold { .. } => panic!("nobody wants it"),
        }
        false
    }

    /// Takes events until this holds.
    async fn until(&mut self, what: &str, holds: impl Fn(&Self) -> bool) {
        while !holds(self) {
            assert!(!self.take().await, "Synced comes once; waiting for {what}");
        }
    }

    /// The names there, each pod with its label: `pod=app`.
    fn names(&self) -> String {
        let name = |object: &Object| match object {
            Object::Pod(pod) => format!("{}={}", pod.name, pod.labels["app"]),
            Object::Policy(policy) if *policy == PolicySpec::closed(policy.key.clone()) => {
                format!("{}(closed)", policy.key.name)
            }
            other => other.key().name,
        };
        self.objects.values().map(name).collect::<Vec<_>>().join(" ")
    }

    async fn until_names(&mut self, names: &str) {
        self.until(names, |world| world.names() == names).await;
    }

    /// Writes one more file and waits for it: whatever was to be told before has been told then.
    async fn settle(&mut self) {
        self.write("zz-settle.yaml", &pod("zz-settle", "x"));
        self.until("settle", |world| world.names().contains("zz-settle")).await;
        fs::remove_file(self.path("zz-settle.yaml")).unwrap();
        self.until("settled", |world| !world.names().contains("zz-settle")).await;
        self.deleted.pop();
    }
}

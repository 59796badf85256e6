//! The source against an API server in this process, by behaviour. Waiting is always for an event, never for time to
//! pass. Here: the world as events tell it, on which the rooms stand.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use podgate_api::{Change, Object, ObjectKey};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::{Access, Error, Settings, Timing, follow};
use crate::{Event, FreshState, Problem};
use server::*;

mod hostile;
mod installs;
mod large;
mod lists;
mod server;
mod trouble;
mod watches;

const TOO_LONG: Duration = Duration::from_secs(20);

fn pod(name: &str, app: &str) -> Value {
    json!({
        "metadata": {"name": name, "namespace": "shop", "labels": {"app": app}, "managedFields": [{"fieldsV1": {"f:x": {}}}]},
        "spec": {"nodeName": "n1", "containers": [{"name": "c", "image": "i", "ports": [{"name": "web", "containerPort": 80}]}]},
        "status": {"podIP": "10.0.0.9", "podIPs": [{"ip": "10.0.0.9"}], "conditions": [{"type": "Ready"}]},
    })
}

fn namespace(name: &str) -> Value {
    json!({"metadata": {"name": name, "labels": {"team": name}}})
}

fn node(name: &str) -> Value {
    json!({"metadata": {"name": name}, "spec": {"podCIDR": "10.0.0.0/24"},
        "status": {"addresses": [{"type": "InternalIP", "address": "192.0.2.1"}], "images": []}})
}

fn policy(name: &str) -> Value {
    json!({"metadata": {"name": name, "namespace": "shop", "managedFields": []}, "spec": {"podSelector": {}, "ingress": [{}]}})
}

fn broken(name: &str) -> Value {
    json!({"metadata": {"name": name, "namespace": "shop"}, "spec": {"podSelector": {}, "ingres": [{}]}})
}

/// What is followed, and the world as its events tell it.
struct World {
    directory: TempDir,
    events: mpsc::Receiver<Event>,
    task: JoinHandle<Result<(), Error>>,
    objects: BTreeMap<ObjectKey, Object>,
    problems: Vec<Problem>,
    fresh: BTreeMap<String, FreshState>,
    synced: bool,
    /// The last world that was told anew, and what was kept.
    retold: Option<(u64, Vec<ObjectKey>)>,
    noticed: Option<Instant>,
    deleted: Vec<String>,
    /// The most changes in one event.
    most: usize,
}

fn impatient() -> Timing {
    Timing {
        connect: Duration::from_secs(1),
        answer: Duration::from_secs(1),
        silence: Duration::from_secs(2),
        first_retry: Duration::from_millis(2),
        longest_retry: Duration::from_millis(50),
        renew: Duration::ZERO,
        poll: Duration::from_millis(100),
        stream_lists: false,
        ..Timing::default()
    }
}

impl World {
    /// Follows a server; what it tells is for the test to take.
    fn of(server: &Server, change: impl FnOnce(&mut Settings)) -> Self {
        let directory = TempDir::new().unwrap();
        let file = directory.path().join("kubeconfig");
        let kubeconfig = json!({
            "clusters": [{"name": "c", "cluster": {"server": format!("http://{}", server.address)}}],
            "users": [{"name": "u", "user": {"tokenFile": directory.path().join("token")}}],
            "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
            "current-context": "x",
        });
        std::fs::write(&file, kubeconfig.to_string()).unwrap();
        std::fs::write(directory.path().join("token"), "first").unwrap();
        let access = Access::Kubeconfig { file: Some(file), context: None };
        let mut settings = Settings { timing: impatient(), ..Settings::new(access) };
        change(&mut settings);
        let (sender, events) = mpsc::channel(64);
        let task = tokio::spawn(follow(settings, sender));
        let (objects, problems, fresh, deleted) = Default::default();
        let (synced, retold, noticed, most) = (false, None, None, 0);
        Self { directory, events, task, objects, problems, fresh, synced, retold, noticed, deleted, most }
    }

    /// Follows a server until all has been told.
    async fn synced(server: &Server) -> Self {
        let mut world = Self::of(server, |_| {});
        world.until("synced", |world| world.synced).await;
        world
    }

    async fn take(&mut self) {
        let event = tokio::time::timeout(TOO_LONG, self.events.recv()).await;
        match event.expect("an event should have come").expect("the source should go on") {
            Event::Changes { changes, noticed } => {
                assert!(!changes.is_empty());
                self.most = self.most.max(changes.len());
                self.noticed = Some(noticed);
                for change in changes {
                    match change {
                        Change::Apply(object) => drop(self.objects.insert(object.key(), object)),
                        Change::Delete(key) => {
                            self.objects.remove(&key);
                            self.deleted.push(key.to_string());
                        }
                    }
                }
            }
            Event::Problems(problems) => {
                assert_ne!(self.problems, problems, "what has not changed is not told");
                self.problems = problems;
            }
            Event::Freshness(all) => {
                let fresh = all.into_iter().map(|fresh| (fresh.resource, fresh.state)).collect();
                assert_ne!(self.fresh, fresh, "what has not changed is not told");
                self.fresh = fresh;
            }
            Event::Retold { world, kept } => self.retold = Some((world, kept)),
            Event::Synced => {
                assert!(!self.synced, "Synced comes once");
                self.synced = true;
            }
        }
    }

    /// Takes events until this holds.
    async fn until(&mut self, what: &str, holds: impl Fn(&Self) -> bool) {
        let deadline = Instant::now() + TOO_LONG;
        while !holds(self) {
            assert!(Instant::now() < deadline, "waiting for {what}: {} {:?}", self.names(), self.fresh);
            self.take().await;
        }
    }

    /// The names there, each pod with its label: `pod=app`.
    fn names(&self) -> String {
        let name = |object: &Object| match object {
            Object::Pod(pod) => format!("{}={}", pod.name, pod.labels["app"]),
            Object::Policy(policy) if *policy == podgate_api::PolicySpec::closed(policy.key.clone()) => {
                format!("{}(closed)", policy.key.name)
            }
            other => other.key().name,
        };
        self.objects.values().map(name).collect::<Vec<_>>().join(" ")
    }

    async fn until_names(&mut self, names: &str) {
        self.until(names, |world| world.names() == names).await;
    }

    fn is_failing(&self, resource: &str) -> bool {
        matches!(self.fresh[resource], FreshState::Failing { .. })
    }
}

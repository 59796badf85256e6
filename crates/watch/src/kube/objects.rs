//! The objects of one resource: what the API server says of them to changes and problems. What is in force of an
//! object that can't be understood is decided here.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use podgate_api::manifest::{self, ManifestError};
use podgate_api::{Change, Kind, Object, ObjectKey, PolicySpec};
use tokio::sync::mpsc;

use super::board::Board;
use super::keys::Keys;
use super::reflect::{Sink, State};
use super::resources::{Presence, Resource};
use super::slim::{self, Head};
use crate::{Event, FreshState, Problem};

/// Changes told at once,
pub(super) const MOST_CHANGES: usize = 1000;
/// and the text that they were read from, bytes, about: large policies are not gathered.
const MOST_TEXT: usize = 4 << 20;
/// Different complaints about objects without a name that are kept.
const MOST_NAMELESS: usize = 100;

/// The sink for one resource's objects.
#[derive(Debug)]
pub(super) struct Objects {
    resource: &'static Resource,
    events: mpsc::Sender<Event>,
    board: Arc<Board>,
    keys: Keys,
    changes: Vec<Change>,
    /// What these were read from, bytes.
    text: usize,
    troubled: BTreeMap<ObjectKey, Trouble>,
    /// Objects that can't even be named.
    nameless: Vec<Problem>,
    /// The problems changed since they were told.
    untold: bool,
    /// The number of the world that is, or was, listed for.
    world: u64,
}

#[derive(Debug)]
struct Trouble {
    message: String,
    /// Something stands in for the object, because no good state of it was ever told.
    stands_in: bool,
    /// During a list: it was shown.
    seen: bool,
}

impl Objects {
    /// `keys`: those told before.
    pub(super) fn new(resource: &'static Resource, events: mpsc::Sender<Event>, board: Arc<Board>, keys: Keys) -> Self {
        let (changes, text, troubled, nameless) = Default::default();
        Self { resource, events, board, keys, changes, text, troubled, nameless, untold: false, world: 0 }
    }

    /// Objects whose last good state stays in force: the list that just ended told nothing of them.
    fn kept(&self) -> Vec<ObjectKey> {
        let is_kept = |(key, trouble): &(&ObjectKey, &Trouble)| {
            !trouble.stands_in && self.keys.contains(&key.namespace, &key.name)
        };
        self.troubled.iter().filter(is_kept).map(|(key, _)| key.clone()).collect()
    }

    fn key(&self, head: &Head<'_>) -> ObjectKey {
        let namespace = if self.resource.kind.is_namespaced() { &*head.metadata.namespace } else { "" };
        ObjectKey {
            kind: self.resource.kind,
            namespace: namespace.to_owned(),
            name: head.metadata.name.clone().into_owned(),
        }
    }

    fn applied(&mut self, key: ObjectKey, text: &str) {
        let parsed = slim::reduce(self.resource, text).map(|text| {
            self.text += text.len();
            manifest::parse(self.resource.plural, &text)
        });
        let (object, message) = match parsed {
            Err(error) => (None, format!("can't be read: {error}")),
            Ok(parsed) => {
                let object = parsed.objects.into_iter().map(|located| located.object).find(|o| o.key() == key);
                match (&object, &parsed.errors[..]) {
                    (Some(_), []) => (object, String::new()),
                    (None, []) => (None, "is no object of this kind".to_owned()),
                    (_, errors) => (object, complaints(errors)),
                }
            }
        };
        match object {
            Some(object) if message.is_empty() => {
                self.untold |= self.troubled.remove(&key).is_some();
                self.apply(&key, object);
            }
            object => self.trouble(key, object, message),
        }
    }

    fn apply(&mut self, key: &ObjectKey, object: Object) {
        self.keys.insert(&key.namespace, &key.name);
        self.changes.push(Change::Apply(object));
    }

    /// `closed`: what the object is as far as it can be understood, the rest of it closed.
    fn trouble(&mut self, key: ObjectKey, closed: Option<Object>, message: String) {
        let stood_in = self.troubled.get(&key).is_some_and(|trouble| trouble.stands_in);
        let known = self.keys.contains(&key.namespace, &key.name) && !stood_in;
        let stands_in = !known && self.resource.is_policy();
        let instead = match closed {
            // Its labels are good, and its isolation counts.
            Some(object @ Object::Namespace(_)) => {
                self.apply(&key, object);
                "until this is mended, it is isolated"
            }
            _ if known => {
                self.keys.insert(&key.namespace, &key.name);
                "its last good state stays in force until this is mended"
            }
            Some(object @ Object::Policy(_)) => {
                self.apply(&key, object);
                "until this is mended, what can't be understood of it is closed"
            }
            _ if matches!(key.kind, Kind::NetworkPolicy | Kind::LegacyNetworkPolicy) => {
                self.apply(&key, Object::Policy(PolicySpec::closed(key.clone())));
                "until this is mended, the policy isolates every pod of its namespace"
            }
            _ => "it is left out until this is mended",
        };
        let message = format!("{message} ({instead})");
        let told = self.troubled.insert(key, Trouble { message: message.clone(), stands_in, seen: true });
        self.untold |= told.is_none_or(|told| told.message != message);
    }

    fn problems(&self) -> Vec<Problem> {
        let place = self.resource.to_string();
        let troubled = self.troubled.iter().map(|(key, trouble)| Problem {
            place: place.clone(),
            object: Some(key.clone()),
            message: trouble.message.clone(),
        });
        self.nameless.iter().cloned().chain(troubled).collect()
    }

    async fn tell_changes(&mut self, noticed: Instant) {
        self.text = 0;
        if !self.changes.is_empty() {
            let changes = std::mem::take(&mut self.changes);
            // With the receiver gone, everything here is about to end.
            let _ = self.events.send(Event::Changes { changes, noticed }).await;
        }
    }
}

impl Sink for Objects {
    fn begin_list(&mut self) {
        self.world = self.board.wanted();
        self.keys.begin_list();
        self.troubled.values_mut().for_each(|trouble| trouble.seen = false);
        self.untold |= !std::mem::take(&mut self.nameless).is_empty();
    }

    fn take(&mut self, text: &str, gone: bool) -> Option<String> {
        let head = match serde_json::from_str::<Head<'_>>(text) {
            Ok(head) => head,
            Err(error) => {
                let message = format!("an object's metadata can't be read, so it is left out: {error}");
                let problem = Problem { place: self.resource.to_string(), object: None, message };
                if self.nameless.len() < MOST_NAMELESS && !self.nameless.contains(&problem) {
                    self.nameless.push(problem);
                    self.untold = true;
                }
                return None;
            }
        };
        let key = self.key(&head);
        let version = head.metadata.resource_version.into_owned();
        if gone {
            self.untold |= self.troubled.remove(&key).is_some();
            if self.keys.remove(&key.namespace, &key.name) {
                self.changes.push(Change::Delete(key));
            }
        } else {
            self.applied(key, text);
        }
        Some(version)
    }

    fn is_full(&self) -> bool {
        self.changes.len() >= MOST_CHANGES || self.text >= MOST_TEXT
    }

    async fn flush(&mut self, noticed: Instant) {
        self.tell_changes(noticed).await;
        if std::mem::take(&mut self.untold) {
            self.board.problems(self.resource, self.problems()).await;
        }
    }

    async fn end_list(&mut self, noticed: Instant) {
        self.tell_changes(noticed).await;
        loop {
            let gone = self.keys.take_unseen(self.resource.kind, MOST_CHANGES);
            if gone.is_empty() {
                break;
            }
            self.changes.extend(gone.into_iter().map(Change::Delete));
            self.tell_changes(noticed).await;
        }
        let troubled = self.troubled.len();
        self.troubled.retain(|_, trouble| trouble.seen);
        self.untold |= self.troubled.len() != troubled;
        self.flush(noticed).await;
        self.board.settled(self.resource, self.world, self.kept()).await;
    }

    async fn state(&mut self, state: State<'_>) {
        let fresh = match state {
            State::Listing => FreshState::Listing,
            State::Live => FreshState::Live,
            State::Absent => FreshState::Absent,
            State::Failing { since, why, forbidden: false } => FreshState::Failing { since, why: why.to_owned() },
            State::Failing { since, why, forbidden: true } => {
                let grant = "grant podgate's service account the verbs list and watch on";
                let why = format!("{why}; {grant} {} ({})", self.resource, without(self.resource.presence));
                self.board.refused(self.resource, &why, || self.keys.all(self.resource.kind)).await;
                FreshState::Failing { since, why }
            }
        };
        self.board.state(self.resource, fresh).await;
    }
}

/// What it means that podgate may not read a resource.
fn without(presence: Presence) -> &'static str {
    match presence {
        Presence::Wanted => "until then podgate goes on without",
        Presence::Needed | Presence::Installed => "until then, what was known of it before stays in force",
    }
}

/// All that is wrong with an object, in one message.
fn complaints(errors: &[ManifestError]) -> String {
    let one = |error: &ManifestError| match error.field.as_str() {
        "" => error.message.clone(),
        field => format!("{field}: {}", error.message),
    };
    errors.iter().map(one).collect::<Vec<_>>().join("; ")
}

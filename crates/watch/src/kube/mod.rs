//! The Kubernetes API as a source: pods of all nodes, namespaces, nodes and policies, listed and watched.
//!
//! ```text
//!   connect (address, credentials, TLS) ─ request ─ lines ─▶ reflect (list, watch, and all that may go wrong)
//!                                                               │ one per resource (resources)
//!          installs ◀── CustomResourceDefinitions ──────────────┤
//!             └──▶ look again                                   ▼
//!      Event::Changes ◀── objects (what counts of an object that is broken) ─ slim ─ podgate_api::manifest
//!                           │        └ keys: the names told, so that a list shows what is gone
//!      Event::{Freshness, Problems, Synced} ◀── board
//! ```
//!
//! No object is kept here, only names. An object means what the same text in a manifest file means: both are read by
//! `podgate_api::manifest`. Not here: what is in force until the API server was heard for the first time.

mod backoff;
mod board;
mod connect;
mod discovery;
#[cfg(any(test, feature = "fuzzing"))]
#[doc(hidden)]
pub mod fuzzing;
mod installs;
mod keys;
mod lines;
mod objects;
mod reflect;
mod request;
mod resources;
mod slim;
#[cfg(test)]
mod tests;
mod wire;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use crate::Event;
use board::Board;
use connect::Connection;
pub use connect::identity;
use installs::Installs;
pub use keys::Known;
use objects::Objects;
use reflect::{Reflector, Target};
use resources::RESOURCES;
use wire::JSON;

/// What is to be followed, and how.
#[derive(Debug, Clone)]
pub struct Settings {
    /// How the API server is reached.
    pub access: Access,
    /// Objects told before from a state on disk: those that the first lists do not have are deleted.
    pub known: Known,
    /// How long things may take.
    pub timing: Timing,
    /// Whenever this number goes up, all is listed and told once more, and then [`Event::Retold`]; see
    /// [`Recorder::wanted`](crate::saved::Recorder::wanted).
    pub wanted: Option<watch::Receiver<u64>>,
}

/// How the API server is reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Access {
    /// As a pod's service account: address from the environment, token and certificate from their mounted files,
    /// which are read again as they rotate.
    InCluster,
    /// By a kubeconfig file, with tokens, client certificates or credential plugins.
    Kubeconfig {
        /// The file; where there is none, those that `KUBECONFIG` names, or `~/.kube/config`.
        file: Option<PathBuf>,
        /// The context in it; where there is none, its current one.
        context: Option<String>,
    },
}

/// How long things may take. The defaults suit clusters of every size; tests have less patience.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Timing {
    /// To connect.
    pub connect: Duration,
    /// To begin an answer, and between two pieces of a list.
    pub answer: Duration,
    /// Without a word on a watch: API servers send a bookmark about every minute.
    pub silence: Duration,
    /// The longest that a watch is asked to last; each is asked to last between a half of it and all of it.
    pub watch: Duration,
    /// A watch that lasted so long worked.
    pub settled: Duration,
    /// The wait after a first failure; it doubles with each.
    pub first_retry: Duration,
    /// The longest wait.
    pub longest_retry: Duration,
    /// Between two reads of the configuration when it does not work.
    pub renew: Duration,
    /// Between two looks for a kind of policy that the API server does not have, where definitions can't be watched.
    pub poll: Duration,
    /// Objects in one page of a list.
    pub page: u32,
    /// Whether lists are streamed where the API server can do that.
    pub stream_lists: bool,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(5),
            answer: Duration::from_secs(30),
            silence: Duration::from_secs(90),
            watch: Duration::from_secs(290),
            settled: Duration::from_secs(5),
            first_retry: Duration::from_millis(200),
            longest_retry: Duration::from_secs(10),
            renew: Duration::from_secs(5),
            poll: Duration::from_secs(30),
            page: 500,
            stream_lists: true,
        }
    }
}

impl Settings {
    /// Settings with nothing known before.
    pub fn new(access: Access) -> Self {
        Self { access, known: Known::default(), timing: Timing::default(), wanted: None }
    }
}

/// Why the API server can't be followed at all.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Not in a pod, or its service account is not mounted.
    #[error(
        "no access to the API server as a pod's service account: {0}; outside a cluster name a kubeconfig \
         (--kubeconfig FILE) or a directory (--manifests DIR)"
    )]
    InCluster(String),
    /// The kubeconfig can't be used.
    #[error("the kubeconfig {named} can't be used: {why}")]
    Kubeconfig {
        /// Which one.
        named: String,
        /// Why.
        why: String,
    },
    /// Address, certificates or credentials are of no use.
    #[error("the configuration of the access to the API server can't be used: {0}")]
    Unusable(String),
    /// A part of this came to an end that never should.
    #[error("following the API server stopped: {0}")]
    Stopped(String),
}

/// Follows the API server until the receiver is dropped. The first events are how fresh each resource is (`Listing`),
/// then the objects of all kinds as they are listed, then `Synced`, then each change.
///
/// `Synced` comes once pods, namespaces, policies of every kind that there is, and nodes have been listed; nodes are
/// done without where podgate may not read them. While one of the others is forbidden or fails, there is no `Synced`,
/// and [`Event::Freshness`] says why: a world without its policies would be an open one.
///
/// What was told stays in force whatever happens to the API server. Where it has to be listed anew, objects that are
/// gone are deleted once the list of their kind is complete. The channel's capacity, in events of up to 1,000 changes,
/// bounds how much of a list is in memory at once.
///
/// # Errors
/// The configuration can't be used, as it is at the start.
pub async fn follow(settings: Settings, events: mpsc::Sender<Event>) -> Result<(), Error> {
    let connection = Arc::new(Connection::new(settings.access, settings.timing).await?);
    let never = || watch::Sender::new(0).subscribe();
    let wanted = settings.wanted.unwrap_or_else(never);
    let board = Board::new(events.clone(), wanted.clone()).await;
    let (installs, installed) = Installs::new();
    let mut known = settings.known;
    let mut tasks = JoinSet::new();
    for resource in &RESOURCES {
        let objects = Objects::new(resource, events.clone(), Arc::clone(&board), known.take(resource.kind));
        let target = Target {
            path: resource.path(),
            group: (resource.group_path(), resource.plural),
            presence: resource.presence,
            accept: (JSON, JSON),
        };
        let (connection, installed) = (Arc::clone(&connection), installed.clone());
        tasks.spawn(Reflector::new(target, objects, connection, installed, wanted.clone()).run());
    }
    drop(known);
    tasks.spawn(Reflector::new(Installs::target(), installs, connection, installed, never()).run());
    tokio::select! {
        () = events.closed() => Ok(()),
        ended = tasks.join_next() => {
            let why = ended.and_then(Result::err).map_or_else(|| "a task ended".to_owned(), |error| error.to_string());
            Err(Error::Stopped(why))
        }
    }
}

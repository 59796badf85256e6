//! What a status consists of. It is printed as text, or as it is here in JSON (`-o json`, keys in camelCase):
//!
//! ```text
//! {"ready", "reasons": ["…"],                  why not; empty when ready
//!  "live", "troubles": ["…"],                  what is wrong with the workers
//!  "node",                                     null where no name was given
//!  "version", "revision", "kernel",            of podgate; the kernel's release
//!  "pid", "started", "uptimeSeconds",
//!  "generation", "inForceSince",               null until one is in force
//!  "restoredFrom",                             when the world in force was saved, while it is one from disk; else null
//!  "sources":  [{"resource", "state": listing | live | absent | failing | restored, "since", "why"}],
//!  "counts":   {"pods", "localPods", "namespaces", "nodes", "rules",
//!               "policies": {"admin", "networkpolicy", "baseline"}},
//!  "divert":   {"podRanges": ["…"], "isolatedAddresses", "openAddresses", "intact", "owner", "repairs",
//!               "queueBy": nft_queue | compat, "failMode": closed | open},      null until it is installed
//!  "queues":   [{"queue", "worker", "bound", "depth", "droppedFull", "droppedSocket", "accepted", "dropped"}],
//!  "overload": {"limit", "since", "pods": {"total", "first": [{"namespace", "pod", "packets"}]}},
//!                                              while pods have a share of the queue (packets a second), and who had more;
//!                                              else null
//!  "cache":    {"limit", "accepting", "dropping",     verdicts that the kernel repeats; null where it does not
//!               "accepted", "dropped",               packets, since the start, that did not come up
//!               "refused"},                          verdicts that there was no room for
//!  "held":     {"packets", "denied"},          since the start
//!  "saved":    {"path", "written", "bytes", "problem"}, the world on disk; null where none is kept
//!  "problems": {"total", "first": [{"place", "object", "message"}]},      at most 100 of them
//!  "warnings": {"total", "first": [{"object", "message"}]}}
//! ```
//!
//! Times are RFC 3339, UTC, to the second; counters are since the agent's start. Keys may be added, none will change
//! its meaning.

use serde::{Deserialize, Serialize};

/// Problems and warnings that are told one by one.
pub(super) const MOST: usize = 100;

/// How the agent is doing.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Report {
    pub(super) ready: bool,
    pub(super) reasons: Vec<String>,
    pub(super) live: bool,
    pub(super) troubles: Vec<String>,
    pub(super) node: Option<String>,
    pub(super) version: String,
    pub(super) revision: String,
    pub(super) kernel: String,
    pub(super) pid: u32,
    pub(super) started: String,
    pub(super) uptime_seconds: u64,
    pub(super) generation: Option<u64>,
    pub(super) in_force_since: Option<String>,
    pub(super) restored_from: Option<String>,
    pub(super) sources: Vec<Source>,
    pub(super) counts: Counts,
    pub(super) divert: Option<Divert>,
    pub(super) queues: Vec<Queue>,
    #[serde(default)]
    pub(super) overload: Option<Overload>,
    pub(super) cache: Option<Cached>,
    pub(super) held: Held,
    pub(super) saved: Option<Saved>,
    pub(super) problems: Listed<Problem>,
    pub(super) warnings: Listed<Warning>,
}

/// One resource of the source.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Source {
    pub(super) resource: String,
    pub(super) state: SourceState,
    /// Since when it fails, or when it was saved.
    pub(super) since: Option<String>,
    /// Why it fails.
    pub(super) why: Option<String>,
}

/// See `podgate_watch::FreshState`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) enum SourceState {
    Listing,
    Live,
    Absent,
    Failing,
    Restored,
}

/// The size of the world.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Counts {
    pub(super) pods: usize,
    /// Pods that policies are enforced for here.
    pub(super) local_pods: usize,
    pub(super) namespaces: usize,
    pub(super) nodes: usize,
    /// Rules about local pods.
    pub(super) rules: usize,
    /// Policies in force, by tier.
    pub(super) policies: Tiers,
}

/// Policies by tier.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Tiers {
    pub(super) admin: usize,
    pub(super) networkpolicy: usize,
    pub(super) baseline: usize,
}

/// What the kernel sends up.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Divert {
    /// Empty: not known, only isolated addresses are diverted.
    pub(super) pod_ranges: Vec<String>,
    /// Local pod addresses that some policy is about.
    pub(super) isolated_addresses: usize,
    /// Local pod addresses that none is about: not diverted.
    pub(super) open_addresses: usize,
    /// The kernel's rules are what they should be.
    pub(super) intact: bool,
    /// They are this agent's: no other one has taken over, nor has yet to be taken over from.
    pub(super) owner: bool,
    /// How often they were put back after somebody else changed them.
    pub(super) repairs: u64,
    pub(super) queue_by: QueueBy,
    pub(super) fail_mode: FailMode,
}

/// How the kernel's rule queues packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum QueueBy {
    NftQueue,
    Compat,
}

/// What becomes of packets that no agent answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) enum FailMode {
    Closed,
    Open,
}

/// One queue and its worker.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Queue {
    pub(super) queue: u16,
    pub(super) worker: usize,
    /// Somebody listens to it.
    pub(super) bound: bool,
    /// Packets that wait for a verdict now.
    pub(super) depth: u32,
    /// Lost because the queue was full.
    pub(super) dropped_full: u64,
    /// Lost because the socket's buffer was full.
    pub(super) dropped_socket: u64,
    /// Answered with accept.
    pub(super) accepted: u64,
    /// Answered with drop.
    pub(super) dropped: u64,
}

/// Shares of the queue, while more comes up than can be judged.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Overload {
    /// Packets per second that each pod may have judged.
    pub(super) limit: u32,
    /// Since when there are shares.
    pub(super) since: String,
    /// The pods that had more, the worst first.
    pub(super) pods: Listed<Over>,
}

/// A pod, and how much it had over its share; without a name where no pod is known to have the address.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Over {
    pub(super) namespace: String,
    pub(super) pod: String,
    pub(super) packets: u64,
}

/// The verdict cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Cached {
    /// Entries that there may be.
    pub(super) limit: usize,
    pub(super) accepting: usize,
    pub(super) dropping: usize,
    /// Packets, since the start.
    pub(super) accepted: u64,
    pub(super) dropped: u64,
    /// Verdicts that there was no room for.
    pub(super) refused: u64,
}

/// Packets of addresses that no pod was known to have yet.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Held {
    pub(super) packets: u64,
    /// Of these and of those there was no room for: denied.
    pub(super) denied: u64,
}

/// The world on disk.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Saved {
    /// Where it is.
    pub(super) path: String,
    /// When a change was last written by this agent.
    pub(super) written: Option<String>,
    /// How large it is.
    pub(super) bytes: u64,
    /// Why it is not up to date.
    pub(super) problem: Option<String>,
}

/// How many there are, and the first of them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Listed<T> {
    pub(super) total: usize,
    pub(super) first: Vec<T>,
}

/// Something at the source that could not be used.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Problem {
    /// The file and line, or the resource.
    pub(super) place: String,
    pub(super) object: Option<String>,
    pub(super) message: String,
}

/// Something that is valid but hardly meant.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Warning {
    pub(super) object: String,
    pub(super) message: String,
}

impl<T> Listed<T> {
    /// The first [`MOST`] of these.
    pub(super) fn new<U>(all: &[U], tell: impl Fn(&U) -> T) -> Self {
        Listed { total: all.len(), first: all.iter().take(MOST).map(tell).collect() }
    }
}

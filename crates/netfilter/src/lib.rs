//! The kernel's side: the nftables program, NFQUEUE sockets, conntrack. The only crate that may use `unsafe`.
//!
//! ```text
//!  Program ──(netlink, one transaction a change)──▶ table inet podgate ──▶ NFQUEUE n..m ──▶ queue
//!     │  marks: which bits say what, on both ways        ▲                                   │
//!     │                                                  └── verdict + mark ◀────────────────┘
//!     │  owner: of several agents one writes
//!  Guard       someone else touched our table
//!  life        whether the agent that owns the table lives
//!  conntrack   takes back what was remembered of connections
//!  collisions  other tables that use bits of ours
//!  routes      host routes that go away: their addresses are unknown again
//!  bridge      packets between bridged pods reach the IP hooks only with br_netfilter
//!  probe       what this kernel can do, each missing thing in one line
//!  cleanup     takes everything away
//! ```
//!
//! Sockets belong to the network namespace of the thread that creates the object. What an address means and what a
//! policy allows is not known here: this crate moves packets and bits.

mod bridge;
mod cleanup;
mod collisions;
pub mod conntrack;
mod error;
mod features;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing;
mod guard;
mod life;
mod links;
mod marks;
mod netlink;
mod program;
pub mod queue;
mod routes;

pub use bridge::{BridgeState, ensure_bridged_filtered};
pub use cleanup::{Cleanup, cleanup};
pub use collisions::{Bits, Collision, Legacy, collisions, legacy};
pub use error::{Error, Missing};
pub use features::{Features, probe};
pub use guard::{Changed, Guard};
pub use life::{Life, Vigil};
pub use links::Links;
pub use marks::{Marks, MarksError, Orientation, Way};
pub use program::cache::{CacheEntry, CacheHits, Cached, Forget, cache_hits};
pub use program::links::forged;
pub use program::ownership::{Claim, Expect, Owner, owner, uptime};
pub use program::peers::peer_blocks;
pub use program::share::{Excess, Share};
pub use program::{Open, Program, ProgramSettings, TABLE, Update};
pub use queue::{
    Fate, MmsgQueue, NfqQueue, Packet, Queue, QueueError, QueueSettings, QueueStats, Received, queue_stats,
};
pub use routes::RouteWatch;

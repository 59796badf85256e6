//! What can go wrong between this crate and the kernel; each says what to do next.

use std::fmt;
use std::io;

use thiserror::Error;

use crate::marks::MarksError;

/// A failure of the kernel's side.
#[derive(Debug, Error)]
pub enum Error {
    /// The process may not program the kernel.
    #[error("not permitted to {doing}: run as root or with the capability NET_ADMIN in this network namespace")]
    NotPermitted {
        /// What was tried.
        doing: String,
    },
    /// The kernel lacks something that the program needs.
    #[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))]
    Missing(Vec<Missing>),
    /// Settings that can't be used.
    #[error(transparent)]
    Marks(#[from] MarksError),
    /// The range of queues is empty.
    #[error("the queue range {first}-{last} is empty: give a first number not above the last")]
    Queues {
        /// First queue of the range.
        first: u16,
        /// Last queue of the range.
        last: u16,
    },
    /// The kernel refused a change; nothing of it is in force.
    #[error("the kernel refused to {doing}: {source}{}", detail.as_deref().map(|d| format!(" ({d})")).unwrap_or_default())]
    Refused {
        /// The step that it refused.
        doing: String,
        /// The kernel's errno.
        source: io::Error,
        /// The kernel's own words (extended acknowledgement), where it has some.
        detail: Option<String>,
    },
    /// A table of our name stands that is built in another way.
    #[error("table inet podgate can't be taken over ({said}): run `podgate cleanup`, then start again")]
    Occupied {
        /// What the kernel said.
        said: String,
    },
    /// The table is another agent's by now, or gone; nothing was changed.
    #[error("table inet podgate is not this agent's any more: another agent claimed it, or somebody removed it")]
    NotOwner,
    /// Other users of nftables kept changing the rule set while a change that depends on it was prepared.
    #[error("the rule set kept changing while {doing}: another program rewrites nftables rules in a loop; stop it")]
    Busy {
        /// What was being prepared.
        doing: &'static str,
    },
    /// The kernel's answer to a request did not come or could not be read.
    #[error("no usable answer from the kernel to {doing}: {why}; try again, and report it if it stays")]
    Answer {
        /// What was asked.
        doing: String,
        /// What was wrong with the answer.
        why: String,
    },
    /// A socket failed.
    #[error("{doing}: {source}")]
    Io {
        /// What was tried.
        doing: String,
        /// The system's error.
        source: io::Error,
    },
}

/// A kernel feature that is not there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Missing {
    /// The feature, by the name an administrator knows it by.
    pub what: &'static str,
    /// What to do about it.
    pub remedy: &'static str,
    /// What the kernel said.
    pub said: String,
}

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} is missing in this kernel ({}): {}", self.what, self.said, self.remedy)
    }
}

impl Error {
    pub(crate) fn io(doing: impl Into<String>, source: io::Error) -> Self {
        let doing = doing.into();
        match source.raw_os_error() {
            Some(libc::EPERM | libc::EACCES) => Self::NotPermitted { doing },
            _ => Self::Io { doing, source },
        }
    }

    /// The errno of a refusal, if this is one.
    pub(crate) fn refused_with(&self) -> Option<i32> {
        match self {
            Self::Refused { source, .. } => source.raw_os_error(),
            _ => None,
        }
    }
}

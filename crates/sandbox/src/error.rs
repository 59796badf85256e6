//! [`Error`]: what can go wrong while a sandbox is built. What a probe sees is no error but an
//! [`Outcome`](crate::Outcome).

use std::io;

/// A sandbox could not be built or changed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Network namespaces are the privilege of root.
    #[error(
        "no network namespace can be made here ({0}): run as root with CAP_SYS_ADMIN and CAP_NET_ADMIN \
         (in a container: --privileged)"
    )]
    Privilege(io::Error),
    /// The kernel refused a change of links, addresses or routes.
    #[error("{what}: {source}")]
    Network {
        /// What was to be done.
        what: String,
        /// The kernel's answer.
        source: io::Error,
    },
    /// A process could not be started in a namespace.
    #[error("cannot start `{program}` in namespace {namespace}: {source}")]
    Spawn {
        /// The program.
        program: String,
        /// The namespace's name.
        namespace: String,
        /// Why.
        source: io::Error,
    },
    /// A link did not come up in time.
    #[error("link {0} did not come up within 5 s: is the kernel's veth driver there?")]
    LinkDown(String),
    /// The request itself makes no sense.
    #[error("{0}")]
    Usage(String),
}

impl Error {
    /// For `map_err`: an I/O error with what was to be done.
    pub(crate) fn network<E: Into<io::Error>>(what: impl Into<String>) -> impl FnOnce(E) -> Error {
        let what = what.into();
        move |source| Error::Network { what, source: source.into() }
    }
}

//! Which source of truth the agent follows, from its flags, and starting it.
//!
//! Here: the flags about sources, the choice among them, and what of an earlier life stands on disk. Not here: how a
//! source works (`podgate-watch`), and what its events do ([`control`](super::control)).

use std::path::PathBuf;
use std::time::SystemTime;

use anyhow::{Result, bail};
use clap::Args;
use podgate_api::{Change, ObjectKey};
use podgate_policy::Locality;
use tokio::sync::mpsc::Sender;

use super::inputs::{self, Input};

/// Flags about where the agent learns of the world.
#[derive(Debug, Clone, Args)]
pub(crate) struct SourceArgs {
    /// Directory of manifests (Pods with status.podIPs, Namespaces, Nodes, policies) to enforce and follow, instead of
    /// a cluster.
    #[arg(long, env = "PODGATE_MANIFESTS", value_name = "DIR")]
    manifests: Option<PathBuf>,

    /// This node's name: only pods with that spec.nodeName are subjects. With manifests it may be left out: then every
    /// pod in them is.
    #[arg(long, env = "PODGATE_NODE", value_name = "NAME")]
    node: Option<String>,
}

/// A source, chosen and checked.
#[derive(Debug)]
pub(crate) enum Source {
    /// A directory of manifests.
    Manifests(PathBuf),
}

/// What an earlier agent left on disk.
#[derive(Debug, Default)]
pub(crate) struct Restored {
    /// The world, to be applied whole.
    pub(crate) changes: Vec<Change>,
    /// Its keys, for the source to tell what is gone since.
    pub(crate) keys: Vec<ObjectKey>,
    /// When it was last written; None where there is nothing.
    pub(crate) saved: Option<SystemTime>,
}

impl SourceArgs {
    /// The source these flags mean.
    pub(crate) fn source(&self) -> Result<Source> {
        if let Some(directory) = &self.manifests {
            if !directory.is_dir() {
                bail!("{} is no directory: give --manifests a directory of YAML or JSON files", directory.display());
            }
            return Ok(Source::Manifests(directory.clone()));
        }
        bail!("nothing to follow: give --manifests DIR")
    }

    /// This node's name, if one was given.
    pub(crate) fn node(&self) -> Option<&str> {
        self.node.as_deref()
    }

    /// Which pods are subjects.
    pub(crate) fn locality(&self) -> Locality {
        self.node.clone().map_or(Locality::All, Locality::Node)
    }
}

impl Source {
    /// What the source's world is called in the log.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Source::Manifests(_) => "the manifests",
        }
    }
}

impl Source {
    /// Reads what an earlier agent saved of this world. Whatever is wrong with it is told and passed over: the API
    /// server has it all.
    pub(crate) fn restore(&self) -> Restored {
        Restored::default()
    }

    /// Follows the source; its events go to `inputs`. `known` is what is in force already.
    pub(crate) fn follow(self, _known: Vec<ObjectKey>, inputs: Sender<Input>) {
        match self {
            Source::Manifests(directory) => {
                inputs::source(
                    "the manifests",
                    |events| async move { podgate_watch::manifests::follow(&directory, events).await },
                    inputs,
                );
            }
        }
    }
}

//! Which source of truth the agent follows, from its flags, and starting it.
//!
//! Here: the flags about sources, the choice among them, and what of an earlier life stands on disk. Not here: how a
//! source works (`podgate-watch`), and what its events do ([`control`](super::control)).

use std::path::PathBuf;
use std::time::SystemTime;

use anyhow::{Result, bail};
use clap::Args;
use podgate_api::{Change, Kind, ObjectKey};
use podgate_policy::{Index, Locality};
use podgate_watch::{kube, saved};
use tokio::sync::mpsc::Sender;

use super::boot::moment;
use super::inputs::{self, Input};

/// Flags about where the agent learns of the world.
#[derive(Debug, Clone, Args)]
pub(crate) struct SourceArgs {
    /// Directory of manifests (Pods with status.podIPs, Namespaces, Nodes, policies) to enforce and follow, instead of
    /// a cluster.
    #[arg(long, env = "PODGATE_MANIFESTS", value_name = "DIR")]
    manifests: Option<PathBuf>,

    /// Follow the cluster of this kubeconfig file. Without it and without --manifests: the cluster that the agent's own
    /// pod is in, as that needs no secret on the node.
    #[arg(long, env = "PODGATE_KUBECONFIG", value_name = "FILE", conflicts_with = "manifests")]
    kubeconfig: Option<PathBuf>,

    /// Context of the kubeconfig file [default: its current one].
    #[arg(long, env = "PODGATE_CONTEXT", value_name = "NAME", requires = "kubeconfig")]
    context: Option<String>,

    /// This node's name: only pods with that spec.nodeName are subjects. With manifests it may be left out: then every
    /// pod in them is.
    #[arg(long, env = "PODGATE_NODE", value_name = "NAME", value_parser = node_name)]
    node: Option<String>,

    /// Where the last known world of the cluster is kept (in a directory of the node's name), so that a start while the
    /// API server is away enforces at once; `none` for nowhere. The default is where a node's services keep their state.
    #[arg(long, env = "PODGATE_STATE_DIR", value_name = "DIR", default_value = "/var/lib/podgate")]
    state_dir: PathBuf,
}

/// A source, chosen and checked.
#[derive(Debug)]
pub(crate) enum Source {
    /// A directory of manifests.
    Manifests(PathBuf),
    /// A cluster's API server.
    Cluster(Cluster),
}

/// A cluster, and what is kept of it on disk.
#[derive(Debug)]
pub(crate) struct Cluster {
    access: kube::Access,
    node: String,
    saved: Option<saved::Settings>,
}

/// What an earlier agent left on disk.
#[derive(Default)]
pub(crate) struct Restored {
    /// Its keys, for the source to tell what is gone since.
    pub(crate) keys: kube::Known,
    /// When it was last written; None where there is nothing.
    pub(crate) saved: Option<SystemTime>,
    /// Where it is; None where nothing is kept.
    pub(crate) place: Option<PathBuf>,
    /// Goes on writing.
    pub(crate) recorder: Option<saved::Recorder>,
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
        let Some(node) = self.node() else {
            bail!(
                "--node is needed with a cluster: its pods are the ones to enforce here (in a \
                   DaemonSet: PODGATE_NODE from spec.nodeName)"
            );
        };
        let access = match &self.kubeconfig {
            Some(file) => kube::Access::Kubeconfig { file: Some(file.clone()), context: self.context.clone() },
            None if std::env::var_os("KUBERNETES_SERVICE_HOST").is_some() => kube::Access::InCluster,
            None => bail!(
                "nothing to follow: give --manifests DIR or --kubeconfig FILE (without either the agent must run in a \
                 pod of the cluster, and KUBERNETES_SERVICE_HOST is not set)"
            ),
        };
        // Of another cluster, or another node, nothing is ever restored.
        let cluster = tokio::runtime::Handle::current().block_on(kube::identity(&access))?;
        let saved = (self.state_dir.as_os_str() != "none")
            .then(|| saved::Settings::new(self.state_dir.join(node), format!("{cluster} {node}")));
        Ok(Source::Cluster(Cluster { access, node: node.to_owned(), saved }))
    }

    /// This node's name, if one was given.
    pub(crate) fn node(&self) -> Option<&str> {
        self.node.as_deref().filter(|name| !name.is_empty())
    }

    /// Which pods are subjects.
    pub(crate) fn locality(&self) -> Locality {
        self.node().map_or(Locality::All, |name| Locality::Node(name.to_owned()))
    }
}

impl Source {
    /// What the source's world is called in the log.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Source::Manifests(_) => "the manifests",
            Source::Cluster(_) => "the cluster's policies",
        }
    }
}

impl Source {
    /// This node's key, where there is a cluster that should have it.
    pub(crate) fn own_node(&self) -> Option<ObjectKey> {
        let Source::Cluster(Cluster { node, .. }) = self else { return None };
        Some(ObjectKey { kind: Kind::Node, namespace: String::new(), name: node.clone() })
    }

    /// Reads what an earlier agent saved of this world into an empty index. Whatever is wrong with it is told and passed
    /// over: the API server has it all.
    pub(crate) fn restore(&self, index: &mut Index, empty: impl FnOnce() -> Index) -> Restored {
        let Source::Cluster(Cluster { saved: Some(settings), .. }) = self else { return Restored::default() };
        let loaded = saved::load(settings);
        for problem in &loaded.problems {
            tracing::warn!("the saved world: {problem}");
        }
        let recorder = saved::Recorder::start(settings, &loaded)
            .inspect_err(|error| tracing::error!(%error, "the world cannot be kept on disk"))
            .ok();
        let mut restored = Restored { recorder, place: Some(settings.directory.clone()), ..Restored::default() };
        let Some(world) = loaded.world else { return restored };
        let read = world.read(|change| {
            restored.keys.insert(&key(&change));
            index.apply(change);
        });
        match read {
            Ok(()) => {
                restored.saved = Some(world.saved());
                tracing::warn!(
                    objects = restored.keys.len(),
                    saved = moment(world.saved()),
                    "the last known world is enforced until the API server tells the present one"
                );
            }
            Err(error) => {
                tracing::warn!("the saved world: {error}");
                if let Some(recorder) = &restored.recorder {
                    recorder.begin_world();
                }
                restored.keys = kube::Known::default();
                *index = empty();
            }
        }
        restored
    }

    /// Follows the source; its events go to `inputs`. Of what is `restored` the keys are what is in force already, and the
    /// recorder tells when it must be told the world anew.
    pub(crate) fn follow(self, restored: &mut Restored, inputs: Sender<Input>) {
        match self {
            Source::Manifests(directory) => {
                inputs::source(
                    "the manifests",
                    |events| async move { podgate_watch::manifests::follow(&directory, events).await },
                    inputs,
                );
            }
            Source::Cluster(cluster) => {
                let known = std::mem::take(&mut restored.keys);
                let wanted = restored.recorder.as_ref().map(saved::Recorder::wanted);
                let settings = kube::Settings { known, wanted, ..kube::Settings::new(cluster.access) };
                inputs::source("the cluster", |events| kube::follow(settings, events), inputs);
            }
        }
    }
}

/// A node's name, which a directory is called by as well; empty (a variable that is not set) means none.
fn node_name(text: &str) -> Result<String, String> {
    if !text.is_empty() {
        podgate_api::manifest::check_name(text)?;
    }
    Ok(text.to_owned())
}

fn key(change: &Change) -> ObjectKey {
    match change {
        Change::Apply(object) => object.key(),
        Change::Delete(key) => key.clone(),
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        source: SourceArgs,
    }

    #[test]
    fn an_empty_node_name_is_none_and_a_given_one_counts() {
        let parse = |node: &str| Line::try_parse_from(["podgate", "--manifests", "m", "--node", node]).unwrap().source;
        assert_eq!(parse("").node(), None);
        assert_eq!(parse("").locality(), Locality::All);
        assert_eq!(parse("node-1.example").node(), Some("node-1.example"));
        assert_eq!(parse("node-1.example").locality(), Locality::Node("node-1.example".to_owned()));
    }

    #[test]
    fn a_node_name_that_is_no_name_is_refused() {
        for name in ["../../x", "..", ".", "a/b", "/etc", "A", "a_b", &"a".repeat(254)] {
            assert!(Line::try_parse_from(["podgate", "--manifests", "m", "--node", name]).is_err(), "{name}");
        }
    }
}

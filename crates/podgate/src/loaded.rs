//! Manifests read once, compiled and judged by the engine: what `podgate test` and `podgate explain` stand on.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use podgate_api::manifest::ManifestError;
use podgate_api::{Change, Kind, ObjectKey};
use podgate_engine::{Cause, Decision, Judgement, NodeOrigin, Snapshot, Verdict};
use podgate_policy::reference::Flow;
use podgate_policy::{Index, Locality, Warning, World};
use podgate_watch::manifests;

/// The world of some manifests, in both of its forms.
#[derive(Debug)]
pub(crate) struct Loaded {
    /// The plain objects.
    pub(crate) world: World,
    /// The same, indexed; every pod is a subject.
    pub(crate) index: Index,
    snapshot: Arc<Snapshot>,
    /// Where objects other than pods stand.
    places: BTreeMap<ObjectKey, Place>,
}

/// A place in a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Place {
    file: PathBuf,
    line: usize,
}

/// Everything that is wrong with the manifests, a line each.
#[derive(Debug)]
struct ManifestErrors(Vec<ManifestError>);

impl Loaded {
    /// Reads and compiles. Anything wrong in any manifest is an error: a test of half the policies would lie.
    pub(crate) fn read(paths: &[PathBuf]) -> Result<Self> {
        for path in paths.iter().filter(|p| *p != Path::new("-")) {
            std::fs::metadata(path)
                .with_context(|| format!("cannot read {} (-f takes manifest files and directories)", path.display()))?;
        }
        let contents = manifests::read(paths).context("cannot read the manifests")?;
        if !contents.errors.is_empty() {
            bail!(ManifestErrors(contents.errors));
        }
        let (mut world, mut index, mut places) = (World::default(), Index::new(Locality::All), BTreeMap::new());
        for (file, located) in contents.objects {
            let key = located.object.key();
            if key.kind != Kind::Pod {
                places.insert(key, Place { file, line: located.line });
            }
            world.apply(Change::Apply(located.object.clone()));
            index.apply(Change::Apply(located.object));
        }
        let snapshot = index.build().snapshot;
        Ok(Loaded { world, index, snapshot, places })
    }

    /// The engine's word on a flow.
    pub(crate) fn judge(&self, flow: &Flow) -> Judgement {
        self.snapshot.judge(&flow.to_engine(), NodeOrigin::Address)
    }

    /// The name of the rule that decided, if one did.
    pub(crate) fn rule(&self, decision: Decision) -> Option<&str> {
        decision.rule().and_then(|id| self.snapshot.rule(id)).map(|info| &*info.name)
    }

    /// Where the object stands, if it was read.
    pub(crate) fn place(&self, key: &ObjectKey) -> Option<&Place> {
        self.places.get(key)
    }

    /// What is valid but hardly meant.
    pub(crate) fn warnings(&self) -> Vec<Warning> {
        self.index.warnings()
    }

    /// A warning as one line: where, what about, what.
    pub(crate) fn warning_line(&self, warning: &Warning) -> String {
        let place = self.place(&warning.object).map(|place| format!("{place}: ")).unwrap_or_default();
        format!("{place}{}: {}", warning.object, warning.message)
    }
}

/// Whether one direction lets the flow pass. An address that no pod has is nobody's to isolate where flows are asked
/// about; only an agent, which waits for the pod to be known, denies it meanwhile.
pub(crate) fn allows(decision: Decision) -> bool {
    decision.cause == Cause::Unknown || decision.verdict() == Verdict::Accept
}

/// `allow` or `deny`.
pub(crate) fn verdict_word(allowed: bool) -> &'static str {
    if allowed { "allow" } else { "deny" }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.file.display(), self.line)
    }
}

impl std::error::Error for ManifestErrors {}

impl fmt::Display for ManifestErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.len() {
            1 => write!(f, "the manifests have an error, so nothing was judged:")?,
            n => write!(f, "the manifests have {n} errors, so nothing was judged:")?,
        }
        self.0.iter().try_for_each(|error| write!(f, "\n{error}"))
    }
}

//! [`Plane`]: queues, workers and the kernel's program, started with the first snapshot that is worth enforcing.

use std::sync::Arc;

use anyhow::{Context, Result};
use podgate_netfilter::{Marks, ProgramSettings};
use podgate_policy::Build;
use tokio::sync::mpsc::Sender;

use super::collisions::watch_legacy;
use super::control::Control;
use super::inputs::{self, Input};
use super::kernel::Kernel;
use super::serve;
use super::settings::RunArgs;
use crate::telemetry::{self, DataPlane, State, events::Events};

/// The data plane, once it is there.
pub(crate) struct Plane<'a> {
    args: &'a RunArgs,
    settings: ProgramSettings,
    inputs: Sender<Input>,
    events: Option<Events>,
    /// None until there is something to enforce.
    pub(crate) kernel: Option<Kernel>,
    /// What is followed, as the log calls it.
    followed: &'static str,
}

impl<'a> Plane<'a> {
    /// Nothing is enforced yet.
    pub(crate) fn new(
        args: &'a RunArgs,
        settings: ProgramSettings,
        inputs: Sender<Input>,
        followed: &'static str,
    ) -> Self {
        Plane { args, settings, inputs, events: None, kernel: None, followed }
    }

    /// Our bits of marks and labels.
    pub(crate) fn marks(&self) -> Marks {
        self.settings.marks
    }

    /// Starts everything with the first snapshot, which must be published already.
    pub(crate) fn start(&mut self, control: &mut Control, first: &Build) -> Result<()> {
        let (events, hold) = serve::start(self.args, &mut self.settings, control)?;
        self.events = Some(events);
        let (counters, queues) = (control.counters.clone(), self.settings.queues.clone());
        let publication = control.publication.clone();
        let rules = self.args.max_rule_series;
        control.state.register(DataPlane::new(
            publication,
            counters.clone(),
            Arc::clone(&control.cache),
            queues.clone(),
            hold,
            rules,
        ));
        control.state.facts().queues = Some(queues.clone());
        control.state.watch_over(telemetry::liveness::workers(counters, queues, (hold, self.args.hold.time())));
        let (whole, inputs) = (control.boot.is_over(), self.inputs.clone());
        let kernel = Kernel::install(self.settings.clone(), first, whole, inputs, control);
        self.kernel = Some(kernel.context("programming the kernel")?);
        control.state.kernel_transactions.inc();
        inputs::strict_after(self.args.loose(), self.inputs.clone());
        control.look_at_others(self);
        watch_legacy(self.inputs.clone())?;
        Ok(())
    }

    /// Says that the world is in force, and what looks odd about it.
    pub(crate) fn tell_first_world(&self, state: &State) {
        let Some(kernel) = &self.kernel else { return };
        if !kernel.knows_ranges() {
            tracing::warn!(
                "pod ranges are not known (no Node with spec.podCIDRs, no --pod-cidr): only addresses known to be \
                 isolated are diverted, a new pod's only once its object is here"
            );
        }
        tracing::info!(
            namespaces = state.namespaces.get(),
            pods = state.pods.get(),
            policies = state.policies.get(),
            "{} are in force",
            self.followed
        );
        if let Some(node) = self.args.source.node().filter(|_| state.pods.get() > 0 && kernel.is_empty()) {
            tracing::warn!(
                "no pod has spec.nodeName {node} and an address: nothing is enforced here yet (without --node, every \
                 pod in manifests is a subject)"
            );
        }
    }
}

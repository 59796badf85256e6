//! What is told when it comes, and not while it stays: problems, warnings, sizes, reasons not to be ready.

use std::collections::BTreeSet;
use std::net::IpAddr;

use podgate_netfilter::{BridgeState, Collision, ensure_bridged_filtered};
use podgate_policy::Warning;
use podgate_watch::Problem;

use super::control::{Control, lock};
use super::kernel::Kernel;
use super::revoke::Asked;
use crate::telemetry;

/// What is told once: when it comes, not while it stays.
#[derive(Default)]
pub(crate) struct News {
    pub(super) problems: BTreeSet<Problem>,
    pub(super) warnings: BTreeSet<Warning>,
    pub(super) bridges: Option<telemetry::Hold>,
    pub(super) kernel: Option<telemetry::Hold>,
    /// Connections that are forbidden by now may still be remembered as accepted, until a look that begins after this.
    pub(super) unjudged: Option<(telemetry::Hold, Asked)>,
    pub(super) unknown_node: Option<telemetry::Hold>,
    /// [`Input::TryAgain`](super::inputs::Input::TryAgain) is on its way.
    pub(super) trying_again: bool,
    pub(super) checked_bridges: BTreeSet<IpAddr>,
    /// Others that use bits of our marks.
    pub(super) collisions: BTreeSet<Collision>,
    /// [`Input::LookAtOthers`](super::inputs::Input::LookAtOthers) is on its way.
    pub(super) looking_at_others: bool,
}

impl Control {
    /// Not ready while the cluster does not know this node: nothing would be enforced.
    pub(super) fn look_for_own_node(&mut self) {
        let Some(own) = &self.own_node else { return };
        let unknown = lock(&self.index).knows_node(&own.name) == Some(false);
        if !unknown {
            self.news.unknown_node = None;
        } else if self.news.unknown_node.is_none() {
            let reason =
                format!("the cluster has no node {}: --node must be the name of this machine's Node", own.name);
            tracing::error!("{reason}");
            self.news.unknown_node = Some(self.state.readiness.hold(reason));
        }
    }

    /// Not ready while packets between bridged pods pass unseen. Looked at when a pod became isolated.
    pub(super) fn watch_bridges(&mut self, kernel: &Kernel) {
        let exposed: BTreeSet<IpAddr> = kernel.exposed().collect();
        if self.news.bridges.is_none() && exposed.is_subset(&self.news.checked_bridges) {
            self.news.checked_bridges = exposed;
            return;
        }
        let addresses: Vec<IpAddr> = exposed.iter().copied().collect();
        self.news.checked_bridges = exposed;
        self.news.bridges = match ensure_bridged_filtered(&addresses) {
            Ok(BridgeState::TurnedOn) => {
                tracing::info!(
                    "pods are on a bridge: turned br_netfilter on, so that what they send each other is seen"
                );
                None
            }
            Ok(BridgeState::Unfiltered { reason }) => {
                tracing::error!("{reason}");
                Some(self.state.readiness.hold(reason))
            }
            Ok(_) => None,
            Err(error) => {
                tracing::warn!(%error, "cannot tell whether pods are on a bridge");
                None
            }
        };
    }

    pub(super) fn tell_problems(&mut self, problems: Vec<Problem>) {
        let now: BTreeSet<Problem> = problems.into_iter().collect();
        self.state.set_problems(now.iter().cloned().collect());
        for problem in now.difference(&self.news.problems) {
            tracing::error!("{}: {}", problem.place, problem.message);
        }
        for problem in self.news.problems.difference(&now) {
            tracing::info!("{}: mended", problem.place);
        }
        self.news.problems = now;
    }

    pub(super) fn tell_sizes(&self) {
        for (what, size) in lock(&self.index).sizes() {
            match what {
                "namespaces" => self.state.namespaces.set(size as i64),
                "pods" => self.state.pods.set(size as i64),
                "policies" => self.state.policies.set(size as i64),
                _ => {}
            }
        }
    }

    pub(super) fn tell_warnings(&mut self) {
        let index = lock(&self.index);
        let now: BTreeSet<Warning> = index.warnings().into_iter().collect();
        for warning in now.difference(&self.news.warnings) {
            tracing::warn!("{}: {}", warning.object, warning.message);
        }
        drop(index);
        if now != self.news.warnings {
            self.state.set_warnings(now.iter().cloned().collect());
        }
        self.news.warnings = now;
    }
}

//! Notices that CustomResourceDefinitions come and go, so that policies of a kind that was just installed count at
//! once. Where podgate may not watch definitions, it asks for their resources every now and then instead.

use std::time::Instant;

use tokio::sync::watch;

use super::reflect::{Sink, State, Target};
use super::resources::{self, Presence};
use super::slim::Head;
use super::wire::{LIST_OF_METADATA, METADATA};

/// The sink for definitions: it counts up whenever one that matters has changed.
#[derive(Debug)]
pub(super) struct Installs {
    count: watch::Sender<u64>,
}

impl Installs {
    pub(super) fn new() -> (Self, watch::Receiver<u64>) {
        let (count, changes) = watch::channel(0);
        (Self { count }, changes)
    }

    pub(super) fn target() -> Target {
        let group = "/apis/apiextensions.k8s.io/v1";
        Target {
            path: format!("{group}/customresourcedefinitions"),
            group: (group.to_owned(), "customresourcedefinitions"),
            presence: Presence::Wanted,
            accept: (METADATA, LIST_OF_METADATA),
        }
    }
}

impl Sink for Installs {
    fn begin_list(&mut self) {}

    fn take(&mut self, object: &str, _gone: bool) -> Option<String> {
        let head: Head<'_> = serde_json::from_str(object).ok()?;
        if resources::is_installed_by(&head.metadata.name) {
            self.count.send_modify(|count| *count += 1);
        }
        Some(head.metadata.resource_version.into_owned())
    }

    fn is_full(&self) -> bool {
        false
    }

    async fn flush(&mut self, _noticed: Instant) {}

    async fn end_list(&mut self, _noticed: Instant) {}

    async fn state(&mut self, state: State<'_>) {
        if let State::Failing { why, .. } = state {
            tracing::debug!(why, "CustomResourceDefinitions can't be watched: new policy kinds are asked for instead");
        }
    }
}

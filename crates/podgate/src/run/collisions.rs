//! Who else on the node uses bits of our marks and labels: looked for at the start and when others' rules change, and told
//! once. What counts as such a use is `podgate_netfilter::collisions`'. Changes of iptables-legacy are nobody's news: its
//! tables are looked at every now and then.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context, Result};
use podgate_netfilter::{Bits, Collision, Legacy, collisions, legacy};
use tokio::sync::mpsc::Sender;

use super::control::Control;
use super::inputs::{self, Input};
use super::plane::Plane;

/// From others' change to a look at all their rules: software that writes many does so in one go, or again and again.
const PAUSE: Duration = Duration::from_secs(1);

/// Between two looks at the tables of iptables-legacy, each of them a few system calls.
const LEGACY: Duration = Duration::from_secs(10);

/// Changes of iptables-legacy's rules, by a thread that ends with the process. One that puts a rule in the place of another of the same size
/// is not seen.
pub(super) fn watch_legacy(inputs: Sender<Input>) -> Result<()> {
    let work = move || {
        let mut last = legacy().unwrap_or_default();
        while !inputs.is_closed() {
            std::thread::sleep(LEGACY);
            // What cannot be read now is told by who looks at all rules.
            let now: Legacy = legacy().unwrap_or_default();
            if std::mem::replace(&mut last, now) != last && inputs.blocking_send(Input::LookAtOthers).is_err() {
                return;
            }
        }
    };
    std::thread::Builder::new().name("legacy".to_owned()).spawn(work).context("starting a thread")?;
    Ok(())
}

impl Control {
    /// Rules of other tables changed: one `collides`, or one is gone.
    pub(super) fn take_others(&mut self, collides: bool) {
        let matters = collides || !self.news.collisions.is_empty();
        if matters && !std::mem::replace(&mut self.news.looking_at_others, true) {
            inputs::later(PAUSE, Input::LookAtOthers, &self.sender);
        }
    }

    /// Has a thread of its own look: others may have tens of thousands of rules.
    pub(super) fn look_at_others(&mut self, plane: &Plane<'_>) {
        self.news.looking_at_others = false;
        let (marks, sender) = (plane.marks(), self.sender.clone());
        let work = move || match collisions(&marks) {
            // Nobody waits for it when the agent ends.
            Ok(found) => drop(sender.blocking_send(Input::Collisions(found))),
            Err(error) => tracing::warn!(%error, "cannot tell whether others use podgate's bits of marks"),
        };
        if let Err(error) = std::thread::Builder::new().name("collisions".to_owned()).spawn(work) {
            tracing::warn!(%error, "cannot tell whether others use podgate's bits of marks");
        }
    }

    pub(super) fn tell_collisions(&mut self, now: BTreeSet<Collision>) {
        for collision in now.difference(&self.news.collisions) {
            tracing::warn!("{collision}: {}", remedy(collision.bits));
        }
        for collision in self.news.collisions.difference(&now) {
            tracing::info!("no more: {collision}");
        }
        let told = now.iter().map(|collision| format!("{collision}: {}", remedy(collision.bits)));
        self.state.facts().collisions = told.collect();
        self.news.collisions = now;
    }
}

/// What comes of it, and what to do.
fn remedy(bits: Bits) -> &'static str {
    match bits {
        Bits::PacketMark(_) => "each takes the other's for its own; give podgate four others by --mark-mask",
        Bits::ConnectionMark(_) => "each takes the other's for its own; give podgate another by --ct-mark",
        Bits::Label(_) => "each takes the other's for its own; give podgate another by --ct-label",
        Bits::Saved => {
            "whoever restores or reads those finds bits that are not its own; give the rule a mask without podgate's bits"
        }
        Bits::Overwritten => {
            "what the node itself sends to pods may be denied; give the rule a mask without podgate's bits"
        }
    }
}

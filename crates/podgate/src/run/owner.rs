//! Whose the table is. Two agents may run on a node at once, at an upgrade: one owns the table, the other stands by.
//!
//! ```text
//!   start ──▶ nobody's, or its owner is dead ─────────────▶ claim it at once
//!         └─▶ its owner lives ──▶ (first world in use) ───▶ claim it: the other stands by from then on
//!   stand by ── the owner's life ends ────────────────────▶ claim it
//! ```
//!
//! Who stands by writes nothing; its workers go on, and it follows the world, so that it can take the table back in a
//! millisecond. Should new agents die again and again while an earlier one lives, the table would go to and fro: each
//! return is counted in the table, and the next claim from a living agent waits twice as long ([`hesitation`]).
//!
//! Here: deciding, watching, telling. Not here: what is written ([`kernel`](super::kernel)), and that the kernel lets
//! one owner write only (`podgate_netfilter::Program`).

use std::sync::Arc;
use std::time::Duration;

use podgate_netfilter::queue::Waker;
use podgate_netfilter::{Claim, Error, Expect, Life, Owner, Vigil, uptime};
use tokio::sync::mpsc::Sender;

use super::inputs::Input;
use crate::telemetry::{self, State};
use crate::worker::Pulse;

/// An owner that has lasted so many seconds is none that dies again and again.
const CALM: u64 = 600;
/// After a claim from a living agent its last verdicts may still come, by a world that is a moment older. They are
/// milliseconds away; a second is long enough on a machine that stumbles.
const LAST_VERDICTS: Duration = Duration::from_secs(1);

/// News of the table's owner; the number tells which watch it is from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Notice {
    /// The owner's life is over.
    Over(u64),
    /// The hesitation is.
    Hesitated(u64),
    /// The verdicts of the agent before are.
    Settled(u64),
}

/// Why an agent wants the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wish {
    /// To have it where nobody else lives: it knows too little of the world to replace anybody.
    IfAlone,
    /// To replace the agent that has it.
    Replace,
    /// Likewise, and it has hesitated long enough.
    Insist,
    /// To have it back.
    Return,
}

/// What is to be done about it.
#[derive(Debug)]
pub(super) enum Decision {
    /// Claim it.
    Claim {
        expect: Expect,
        returns: u8,
        /// From one that lives.
        replaces: bool,
    },
    /// Leave it to its owner, whose life is watched where that is possible; ask again in a while.
    StandBy { owner: Owner, vigil: Option<Vigil>, hesitate: Option<Duration> },
}

/// What this agent knows of the table's owner.
pub(super) struct Ownership {
    life: Life,
    inputs: Sender<Input>,
    state: Arc<State>,
    pulse: Arc<Pulse>,
    /// While the table is this agent's.
    mine: Option<Owner>,
    /// While it is another's.
    other: Option<Other>,
    highest: u32,
    /// Watches and claims so far: what is noticed of an earlier one is over.
    number: u64,
}

struct Other {
    owner: Owner,
    dead: bool,
    watch: Option<Waker>,
    _hold: telemetry::Hold,
}

impl Ownership {
    /// This agent lives, and owns nothing.
    pub(super) fn begin(state: &Arc<State>, inputs: Sender<Input>, pulse: Arc<Pulse>) -> Result<Self, Error> {
        let (mine, other) = (None, None);
        Ok(Self { life: Life::begin()?, inputs, state: Arc::clone(state), pulse, mine, other, highest: 0, number: 0 })
    }

    /// Whether the table is this agent's, as far as it knows.
    pub(super) fn is_mine(&self) -> bool {
        self.mine.is_some()
    }

    /// Whether another agent waits for this one's end.
    pub(super) fn is_watched(&mut self) -> bool {
        self.life.is_watched()
    }

    /// Ends this agent's life, as others see it.
    pub(super) fn end(self) {
        drop(self.life);
    }

    /// Whether a notice is about how things are now.
    pub(super) fn is_current(&mut self, notice: Notice) -> bool {
        let (Notice::Over(number) | Notice::Hesitated(number) | Notice::Settled(number)) = notice;
        if number != self.number {
            return false;
        }
        if let (Notice::Over(_), Some(other)) = (notice, &mut self.other) {
            other.dead = true;
        }
        true
    }

    /// What to do about a table that is `standing`'s.
    pub(super) fn decide(&self, standing: Option<Owner>, wish: Wish) -> Result<Decision, Error> {
        let mine = self.mine.as_ref();
        let Some(owner) = standing else {
            let expect = mine.map_or(Expect::Unchanged(None), |mine| Expect::Mine(mine.generation));
            return Ok(Decision::Claim { expect, returns: mine.map_or(0, |m| m.returns), replaces: false });
        };
        if let Some(mine) = mine.filter(|mine| owner.generation <= mine.generation) {
            let expect = Expect::Mine(mine.generation);
            return Ok(Decision::Claim { expect, returns: mine.returns, replaces: false });
        }
        let expect = Expect::Unchanged(Some(owner.generation));
        let returns = if uptime().saturating_sub(owner.since) < CALM { owner.returns } else { 0 };
        let dead = self.other.as_ref().is_some_and(|other| other.dead && other.owner == owner);
        let vigil = if dead { None } else { Vigil::keep(&owner.agent)? };
        Ok(match (vigil, wish) {
            (None, Wish::Return) => Decision::Claim { expect, returns: returns.saturating_add(1), replaces: false },
            (None, _) => Decision::Claim { expect, returns, replaces: false },
            (Some(_), Wish::Insist) => Decision::Claim { expect, returns, replaces: true },
            (Some(_), Wish::Replace) if returns == 0 => Decision::Claim { expect, returns, replaces: true },
            (vigil, Wish::Replace) => Decision::StandBy { owner, vigil, hesitate: Some(hesitation(returns)) },
            (vigil, Wish::IfAlone | Wish::Return) => Decision::StandBy { owner, vigil, hesitate: None },
        })
    }

    /// The claim that a decision is for.
    pub(super) fn claim(&self, expect: Expect, returns: u8) -> Claim<'_> {
        Claim { agent: self.life.name(), expect, above: self.highest, returns }
    }

    /// The table is this agent's now. `replaces`: another's verdicts may still come.
    pub(super) fn own(&mut self, owner: &Owner, replaces: bool) {
        if self.mine.as_ref().map(|mine| mine.generation) != Some(owner.generation) {
            self.number += 1;
            tracing::info!(generation = owner.generation, "the kernel's rules are this agent's");
        }
        self.highest = self.highest.max(owner.generation);
        self.mine = Some(owner.clone());
        self.pulse.own(&owner.agent);
        // Before it may be ready again: who sees that asks whose the table is.
        self.state.owner.set(1);
        self.leave_other();
        if replaces {
            self.later(LAST_VERDICTS, Notice::Settled(self.number));
        }
    }

    /// The table is another's now.
    pub(super) fn stand_by(&mut self, owner: Owner, vigil: Option<Vigil>, hesitate: Option<Duration>) {
        self.number += 1;
        let generation = owner.generation;
        let reason = match (self.mine.take(), hesitate) {
            (Some(_), _) => {
                tracing::warn!(
                    generation,
                    "handed over to a newer agent: this one writes nothing any more, answers what still comes up, and \
                     waits to be ended"
                );
                format!("handed over to a newer agent (ownership generation {generation})")
            }
            (None, Some(hesitate)) => {
                tracing::warn!(
                    generation,
                    seconds = hesitate.as_secs(),
                    "another agent owns the rules, and newer ones have died here lately: standing by for a while"
                );
                format!("standing by for {} s: newer agents have died on this node lately", hesitate.as_secs())
            }
            (None, None) => {
                tracing::info!(generation, "another agent owns the rules: standing by");
                format!("another agent owns the rules (ownership generation {generation}): standing by")
            }
        };
        self.highest = self.highest.max(generation);
        self.pulse.hand_over();
        self.leave_other();
        self.state.owner.set(0);
        let hold = self.state.readiness.hold(reason);
        let watch = vigil.and_then(|vigil| self.watch(vigil));
        if watch.is_none() {
            self.later(Duration::ZERO, Notice::Over(self.number));
        }
        if let Some(hesitate) = hesitate {
            self.later(hesitate, Notice::Hesitated(self.number));
        }
        self.other = Some(Other { owner, dead: false, watch, _hold: hold });
    }

    fn leave_other(&mut self) {
        if let Some(watch) = self.other.take().and_then(|other| other.watch) {
            watch.wake();
        }
    }

    /// Has a thread tell of the other's end. `None`: there is no watching it, which is as good as its end.
    fn watch(&self, vigil: Vigil) -> Option<Waker> {
        let waker = Waker::new().ok()?;
        let (ends, number, inputs) = (waker.clone(), self.number, self.inputs.clone());
        let work = move || {
            if vigil.is_over(&ends).unwrap_or(true) {
                // The loop is gone: so is this agent.
                let _ = inputs.blocking_send(Input::Ownership(Notice::Over(number)));
            }
        };
        std::thread::Builder::new().name("owner".to_owned()).spawn(work).ok()?;
        Some(waker)
    }

    fn later(&self, time: Duration, notice: Notice) {
        let inputs = self.inputs.clone();
        tokio::spawn(async move {
            tokio::time::sleep(time).await;
            let _ = inputs.send(Input::Ownership(notice)).await;
        });
    }
}

/// How long a new agent leaves the table to the living one, after so many returns.
fn hesitation(returns: u8) -> Duration {
    Duration::from_secs(1 << returns.min(6))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hesitation_doubles_and_is_bounded() {
        assert_eq!([1, 2, 3, 6, 7, 255].map(|n| hesitation(n).as_secs()), [2, 4, 8, 64, 64, 64]);
    }
}

//! Whose the table is, and what follows for it: all of it is written in one claim, watched while it is this agent's, let go
//! when it is another's, and left at the end. Not here: who decides that ([`owner`](super::super::owner)).

use std::net::IpAddr;
use std::time::Duration;

use podgate_netfilter::{Changed, Cleanup, Error, Program, Update, cleanup, owner};

use super::super::inputs;
use super::super::owner::{Decision, Notice, Wish};
use super::{Kernel, is_open};
use crate::cache::Stale;

/// A claim that others keep getting in the way of is tried this often.
const TRIES: usize = 20;
/// How long an agent that ends waits for the one that stands by: it needs milliseconds.
const HAND_OVER: Duration = Duration::from_secs(2);

/// How an agent that ends leaves the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Left {
    /// It is another's, and stays as it is.
    Others,
    /// It stays as it is, without an agent.
    Kept,
    /// It is gone.
    Removed(Cleanup),
}

impl Kernel {
    /// Undoes what somebody else did to the table, as the guard of that number noticed; false if that is over, or it
    /// was another agent's claim. All of it is written anew: what the sets hold cannot be compared cheaply, and a rule
    /// that was replaced keeps its handle.
    pub(crate) fn undo_others(&mut self, guard: u64) -> Result<bool, Error> {
        if self.program.is_none() || guard != self.guards {
            return Ok(false);
        }
        self.mend()?;
        Ok(self.is_owner())
    }

    /// Writes the whole table anew, after a failure or somebody else's changes. Nothing where it is another agent's.
    pub(crate) fn mend(&mut self) -> Result<(), Error> {
        self.seize(Wish::Return)
    }

    /// Replaces the agent that owns the table, now that this one's world is whole. True if the table is this agent's
    /// since then: connections are to be judged again.
    pub(crate) fn replace_other(&mut self) -> Result<bool, Error> {
        if self.is_owner() {
            return Ok(false);
        }
        self.seize(Wish::Replace)?;
        Ok(self.is_owner())
    }

    /// Takes in news of the table's owner. True if the connections are to be judged again.
    pub(crate) fn notice(&mut self, notice: Notice) -> Result<bool, Error> {
        if !self.ownership.is_current(notice) {
            return Ok(false);
        }
        match notice {
            Notice::Over(_) => self.seize(Wish::Return)?,
            Notice::Hesitated(_) => self.seize(Wish::Insist)?,
            Notice::Settled(_) => {}
        }
        Ok(self.is_owner())
    }

    /// Leaves the table at the end of this agent: to the one that stands by, if there is one; else taken away where
    /// that is wanted. Workers must go on until this returns.
    pub(crate) fn leave(mut self, remove: bool) -> Result<Left, Error> {
        let Some(program) = self.program.take() else { return Ok(Left::Others) };
        if self.ownership.is_watched() {
            let mut guard = program.guard()?;
            let (waker, (done, waiting)) = (guard.waker(), std::sync::mpsc::channel::<()>());
            self.ownership.end();
            let limit = std::thread::spawn(move || {
                let _ = waiting.recv_timeout(HAND_OVER);
                waker.wake();
            });
            let mut change = Changed::Touched;
            while owner()?.as_ref() == Some(program.owner()) && change != Changed::Woken {
                change = guard.changed()?;
            }
            drop(done);
            let _ = limit.join();
            if owner()?.is_some_and(|owner| owner.generation > program.owner().generation) {
                return Ok(Left::Others);
            }
        }
        if !remove {
            return Ok(Left::Kept);
        }
        match program.remove() {
            // Whose is it then?
            Err(Error::NotOwner) if owner()?.is_some() => Ok(Left::Others),
            Err(Error::NotOwner) => cleanup().map(Left::Removed),
            other => other.map(Left::Removed),
        }
    }

    /// Claims the table with all that is in the books, or stands by.
    pub(super) fn seize(&mut self, mut wish: Wish) -> Result<(), Error> {
        for _ in 0..TRIES {
            let (expect, returns, replaces) = match self.ownership.decide(owner()?, wish)? {
                Decision::Claim { expect, returns, replaces } => (expect, returns, replaces),
                Decision::StandBy { owner, vigil, hesitate } => {
                    self.let_go();
                    self.ownership.stand_by(owner, vigil, hesitate);
                    return Ok(());
                }
            };
            let open: Vec<_> = self.exposure.iter().map(|(a, e)| (*a, is_open(*e))).collect();
            let ranges = self.wanted_ranges();
            let (peers, links) = (self.peers.all(), self.links_to_pods());
            let update = Update {
                ranges: Some(&ranges),
                open: &open,
                peers: &peers,
                links: Some(&links),
                judge_input: Some(self.judge_input),
            };
            match Program::claim(self.settings.clone(), &self.ownership.claim(expect, returns), Some(&update)) {
                Ok(program) => {
                    self.diverted = ranges;
                    self.pod_links = links;
                    self.relaxed.clear();
                    self.peers.stand();
                    self.ownership.own(program.owner(), replaces);
                    self.program = Some(program);
                    // A claim empties it.
                    self.forgotten(&Stale::All);
                    let rechecked: Vec<IpAddr> = self.rechecked.keys().copied().collect();
                    self.write(&Update::default(), &rechecked, &Stale::nothing())?;
                    if let Some(share) = self.share {
                        self.set_share(Some(share))?;
                    }
                    if self.watch()? {
                        return Ok(());
                    }
                }
                // Somebody was faster. If it lives it stays; of several that start at once one does.
                Err(Error::NotOwner) => {}
                Err(error) => return Err(error),
            }
            wish = Wish::Return;
        }
        Err(Error::Busy { doing: "the program was being installed" })
    }

    /// Watches for others' changes. The watch belongs to the program's socket, so a new program needs a new one. False
    /// if somebody changed the table before anybody watched.
    fn watch(&mut self) -> Result<bool, Error> {
        let Some(program) = &mut self.program else { return Ok(false) };
        let guard = program.guard()?;
        let waker = guard.waker();
        self.guards += 1;
        inputs::ruleset(guard, self.guards, self.inputs.clone())
            .map_err(|source| Error::Io { doing: "start a thread".to_owned(), source })?;
        if let Some(before) = self.guard.replace(waker) {
            before.wake();
        }
        Ok(owner()?.as_ref() == Some(program.owner()) && program.intact()?)
    }

    /// The table is another's: nothing is written or watched any more.
    fn let_go(&mut self) {
        self.program = None;
        self.forgotten(&Stale::All);
        self.rechecked.clear();
        self.share = None;
        self.guards += 1;
        if let Some(guard) = self.guard.take() {
            guard.wake();
        }
    }

    /// The kernel refused a change because the table is not this agent's any more. An error if it is nobody else's
    /// either: then it is to be written anew, but not from here, as a snapshot may have to be published first.
    pub(in crate::run) fn lost(&mut self) -> Result<(), Error> {
        match self.ownership.decide(owner()?, Wish::Return)? {
            Decision::StandBy { owner, vigil, hesitate } => {
                self.let_go();
                self.ownership.stand_by(owner, vigil, hesitate);
                Ok(())
            }
            Decision::Claim { .. } => Err(Error::NotOwner),
        }
    }
}

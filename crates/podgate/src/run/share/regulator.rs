//! [`Regulator`]: how large a share is, by what is seen of queues and pods every [`TICK`](super::TICK). The rules of it are in the
//! module above. Not here: looking, and doing what it says.

use std::time::{Duration, Instant};

/// No pod gets less than so many packets a second, each of which begins a connection as a rule.
const LEAST: u32 = 100;
/// What no pod can send in a second, for watching.
pub(super) const WATCH: u32 = 1_000_000_000;
/// Before more is tried, or nobody else is thought to be there.
pub(super) const PATIENCE: Duration = Duration::from_secs(4);
/// Before it is tried once more where it was too much again and again.
const LONGEST_PATIENCE: Duration = Duration::from_secs(64);
/// Shares end when no pod had more for so long.
const QUIET: Duration = Duration::from_secs(5);

/// What a look at queues and shares finds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Seen {
    /// Packets were lost since the look before, or nearly are.
    pub(super) losing: bool,
    /// Pods had more than their share since then.
    pub(super) excess: bool,
    /// Packets came from (or to) one pod at most, since the share was changed.
    pub(super) alone: bool,
}

/// What is to be done about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Act {
    Keep,
    /// This many packets a second.
    Limit(u32),
    End,
}

/// How large a share is.
#[derive(Debug)]
pub(super) struct Regulator {
    /// [`WATCH`], or a share.
    pub(super) limit: u32,
    /// The first share.
    first: u32,
    changed: Instant,
    /// The latest change, whose effect is not to be seen in the look after it: the queues were full.
    fresh: bool,
    /// Nothing was lost since then.
    calm_since: Instant,
    /// No pod had more since then.
    quiet_since: Instant,
    patience: Duration,
    /// The latest change was a try.
    tried: bool,
}

impl Regulator {
    /// Begins by watching; the first share is half of what the busiest worker could judge in a second.
    pub(super) fn new(rate: u32, now: Instant) -> Self {
        let first = (rate / 2).max(LEAST);
        Regulator {
            limit: WATCH,
            first,
            changed: now,
            fresh: true,
            calm_since: now,
            quiet_since: now,
            patience: PATIENCE,
            tried: false,
        }
    }

    pub(super) fn look(&mut self, seen: Seen, now: Instant) -> Act {
        if seen.excess {
            self.quiet_since = now;
        }
        if std::mem::take(&mut self.fresh) {
            self.calm_since = now;
            return Act::Keep;
        }
        if self.limit == WATCH {
            return self.watch(seen, now);
        }
        if seen.alone && now.duration_since(self.changed) >= PATIENCE {
            return self.change(WATCH, now);
        }
        if seen.losing {
            self.calm_since = now;
            if std::mem::take(&mut self.tried) {
                self.patience = (self.patience * 2).min(LONGEST_PATIENCE);
            }
            return self.change((self.limit / 2).max(LEAST), now);
        }
        if now.duration_since(self.quiet_since) >= QUIET {
            return Act::End;
        }
        if seen.excess && now.duration_since(self.calm_since) >= self.patience {
            self.tried = true;
            return self.change(self.limit.saturating_add(self.limit / 2), now);
        }
        Act::Keep
    }

    fn watch(&mut self, seen: Seen, now: Instant) -> Act {
        if seen.losing {
            self.quiet_since = now;
            return if seen.alone { Act::Keep } else { self.change(self.first, now) };
        }
        if now.duration_since(self.quiet_since) >= QUIET { Act::End } else { Act::Keep }
    }

    fn change(&mut self, limit: u32, now: Instant) -> Act {
        if limit == self.limit {
            return Act::Keep;
        }
        (self.limit, self.changed) = (limit, now);
        self.fresh = true;
        Act::Limit(limit)
    }
}

#[cfg(test)]
mod tests {
    use super::super::TICK;
    use super::*;

    const LOSING_NOW: Seen = Seen { losing: true, excess: true, alone: false };
    const OVER: Seen = Seen { losing: false, excess: true, alone: false };
    const QUIET_NOW: Seen = Seen { losing: false, excess: false, alone: false };

    /// A regulator that is looked at every [`TICK`].
    struct Run {
        regulator: Regulator,
        now: Instant,
    }

    impl Run {
        /// Past the watching.
        fn new(rate: u32) -> Self {
            let mut run = Run::watching(rate);
            assert_eq!(run.until(QUIET, |_| LOSING_NOW), Some((Act::Limit(rate / 2), TICK * 2)));
            run
        }

        fn watching(rate: u32) -> Self {
            let now = Instant::now();
            Run { regulator: Regulator::new(rate, now), now }
        }

        /// The first thing that is done within so long, and when.
        fn until(&mut self, longest: Duration, seen: impl Fn(u32) -> Seen) -> Option<(Act, Duration)> {
            let begun = self.now;
            while self.now - begun < longest {
                self.now += TICK;
                let act = self.regulator.look(seen(self.regulator.limit), self.now);
                if act != Act::Keep {
                    return Some((act, self.now - begun));
                }
            }
            None
        }
    }

    #[test]
    fn as_long_as_packets_are_lost_shares_are_halved_to_the_least() {
        let mut run = Run::new(8000);
        for limit in [2000, 1000, 500, 250, 125, LEAST] {
            let (act, took) = run.until(QUIET, |_| LOSING_NOW).unwrap();
            // What was lost right after a change tells nothing.
            assert_eq!((act, took), (Act::Limit(limit), TICK * 2));
        }
        assert_eq!(run.until(QUIET, |_| LOSING_NOW), None);
    }

    #[test]
    fn shares_end_when_nobody_has_more() {
        let mut run = Run::new(8000);
        assert_eq!(run.until(QUIET * 2, |_| QUIET_NOW), Some((Act::End, QUIET)));
    }

    #[test]
    fn one_pod_that_is_alone_has_no_share_until_somebody_else_comes() {
        let alone = Seen { alone: true, ..LOSING_NOW };
        let mut run = Run::watching(8000);
        assert_eq!(run.until(QUIET * 9, |_| alone), None);
        assert_eq!(run.until(QUIET, |_| LOSING_NOW), Some((Act::Limit(4000), TICK)));
        let mut acts = Vec::new();
        while acts.last() != Some(&Act::Limit(WATCH)) {
            acts.push(run.until(QUIET, |_| alone).unwrap().0);
        }
        assert_eq!(run.until(QUIET * 2, |_| QUIET_NOW), Some((Act::End, QUIET)));
    }

    #[test]
    fn more_is_tried_slowly_and_more_slowly_where_it_was_too_much() {
        let mut run = Run::new(8000);
        // So much is lost above 5,000.
        let seen = |limit| if limit > 5000 { LOSING_NOW } else { OVER };
        let mut waits = Vec::new();
        for _ in 0..8 {
            let (act, took) = run.until(LONGEST_PATIENCE * 2, seen).unwrap();
            match act {
                Act::Limit(limit) if limit > 5000 => {
                    waits.push(took);
                    assert_eq!(run.until(QUIET, seen), Some((Act::Limit(limit / 2), TICK * 2)));
                }
                act => assert!(matches!(act, Act::Limit(_)), "{act:?}"),
            }
        }
        assert!(waits.len() >= 3 && waits.windows(2).all(|pair| pair[1] > pair[0]), "{waits:?}");
        for _ in 0..40 {
            run.until(LONGEST_PATIENCE * 2, seen);
        }
        assert!(run.regulator.patience == LONGEST_PATIENCE, "{:?}", run.regulator);
    }

    #[test]
    fn one_busy_pod_that_starves_nobody_gets_what_it_asks_for_in_the_end() {
        let mut run = Run::new(8000);
        let seen = |limit| if limit < 30_000 { OVER } else { QUIET_NOW };
        let mut acts = Vec::new();
        while acts.last() != Some(&Act::End) {
            acts.push(run.until(LONGEST_PATIENCE, seen).unwrap().0);
        }
        assert_eq!(
            acts,
            [6000, 9000, 13_500, 20_250, 30_375].map(Act::Limit).into_iter().chain([Act::End]).collect::<Vec<_>>()
        );
    }
}

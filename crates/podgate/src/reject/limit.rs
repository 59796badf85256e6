//! [`Limits`]: how many answers are sent a second, altogether and to one address. A virtual clock for each (the generic
//! cell rate algorithm, ITU-T I.371): one number instead of a token count and a time.

use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;
use std::time::Instant;

/// Clocks for addresses: 32 KiB. Two addresses that share one, by chance, share its rate.
const CLOCKS: usize = 4096;
/// So far ahead of time a clock may be: what is not used in a second is lost.
const BURST: u64 = 1_000_000_000;

/// Answers a second.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Rates {
    /// Altogether.
    pub(crate) all: u32,
    /// To one address.
    pub(crate) one: u32,
}

/// Which rate is used up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum UsedUp {
    All,
    One,
}

pub(super) struct Limits {
    rates: Rates,
    begin: Instant,
    hasher: RandomState,
    all: u64,
    one: Box<[u64]>,
}

impl Limits {
    pub(super) fn new(rates: Rates, now: Instant) -> Self {
        let one = vec![0; CLOCKS].into_boxed_slice();
        Self { rates, begin: now, hasher: RandomState::new(), all: 0, one }
    }

    /// Takes the right to send an answer to this address.
    pub(super) fn take(&mut self, to: IpAddr, now: Instant) -> Result<(), UsedUp> {
        let now = now.saturating_duration_since(self.begin).as_nanos() as u64;
        let one = &mut self.one[self.hasher.hash_one(to) as usize % CLOCKS];
        let next_one = next(*one, self.rates.one, now).ok_or(UsedUp::One)?;
        self.all = next(self.all, self.rates.all, now).ok_or(UsedUp::All)?;
        *one = next_one;
        Ok(())
    }
}

/// Where the clock is after one more, if it may be.
fn next(clock: u64, rate: u32, now: u64) -> Option<u64> {
    let next = clock.max(now) + BURST.checked_div(rate.into())?;
    (next <= now + BURST).then_some(next)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn taken(limits: &mut Limits, to: &str, now: Instant, tries: usize) -> usize {
        let to = to.parse().unwrap();
        (0..tries).filter(|_| limits.take(to, now).is_ok()).count()
    }

    #[test]
    fn one_address_has_its_rate_and_what_it_does_not_use_in_a_second_is_lost() {
        let begin = Instant::now();
        let mut limits = Limits::new(Rates { all: 1000, one: 50 }, begin);
        assert_eq!(taken(&mut limits, "10.1.0.5", begin, 200), 50);
        assert_eq!(limits.take("10.1.0.5".parse().unwrap(), begin), Err(UsedUp::One));
        assert_eq!(taken(&mut limits, "fd00::5", begin, 200), 50);
        assert_eq!(taken(&mut limits, "10.1.0.5", begin + Duration::from_millis(100), 200), 5);
        assert_eq!(taken(&mut limits, "10.1.0.5", begin + Duration::from_secs(3600), 200), 50);
    }

    #[test]
    fn all_together_have_a_rate_and_what_is_refused_uses_nothing_up() {
        let begin = Instant::now();
        let mut limits = Limits::new(Rates { all: 100, one: 50 }, begin);
        let sum: usize = (0..40).map(|n| taken(&mut limits, &format!("10.1.0.{n}"), begin, 10)).sum();
        assert_eq!(sum, 100);
        assert_eq!(limits.take("10.1.0.77".parse().unwrap(), begin), Err(UsedUp::All));
        assert_eq!(taken(&mut limits, "10.1.0.77", begin + Duration::from_secs(1), 200), 50);
    }

    #[test]
    fn a_rate_of_zero_sends_nothing() {
        let begin = Instant::now();
        let mut limits = Limits::new(Rates { all: 0, one: 50 }, begin);
        assert_eq!(limits.take("10.1.0.5".parse().unwrap(), begin), Err(UsedUp::All));
    }
}

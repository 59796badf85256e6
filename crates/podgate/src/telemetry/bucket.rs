//! [`Bucket`]: a token bucket, the rate limit of log lines.

use std::time::{Duration, Instant};

/// How many events may pass.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Limit {
    /// Events per second in the long run.
    pub(crate) rate: f64,
    /// Events at once after a quiet time.
    pub(crate) burst: f64,
}

impl Default for Limit {
    /// 20 a second, 100 at once: enough to see each deny of a person who tries things out, and some 5 KB/s of log
    /// when a scanner is at work.
    fn default() -> Self {
        Limit { rate: 20.0, burst: 100.0 }
    }
}

/// A token bucket; full at birth.
#[derive(Debug)]
pub(crate) struct Bucket {
    limit: Limit,
    tokens: f64,
    filled: Instant,
}

impl Bucket {
    /// A full bucket.
    pub(crate) fn new(limit: Limit, now: Instant) -> Self {
        Self { limit, tokens: limit.burst, filled: now }
    }

    /// Whether one more event may pass at `now`; moments that go back count as no time.
    pub(crate) fn take(&mut self, now: Instant) -> bool {
        let passed = now.saturating_duration_since(self.filled);
        if passed > Duration::ZERO {
            self.tokens = (self.tokens + passed.as_secs_f64() * self.limit.rate).min(self.limit.burst);
            self.filled = now;
        }
        let passes = self.tokens >= 1.0;
        if passes {
            self.tokens -= 1.0;
        }
        passes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_burst_passes_and_then_the_rate() {
        let start = Instant::now();
        let mut bucket = Bucket::new(Limit { rate: 10.0, burst: 5.0 }, start);
        assert_eq!((0..20).filter(|_| bucket.take(start)).count(), 5);
        let later = start + Duration::from_secs(1);
        assert_eq!((0..20).filter(|_| bucket.take(later)).count(), 5, "no more than the burst is saved up");
        let passed = (1..=100).filter(|i| bucket.take(later + Duration::from_millis(i * 100))).count();
        assert_eq!(passed, 100, "one each tenth of a second is the rate");
    }

    #[test]
    fn a_clock_that_stands_or_goes_back_gives_nothing() {
        let start = Instant::now();
        let later = start + Duration::from_secs(5);
        let mut bucket = Bucket::new(Limit { rate: 1.0, burst: 1.0 }, later);
        assert!(bucket.take(later));
        assert!(!bucket.take(start));
        assert!(!bucket.take(later));
    }
}

//! A watch's answer in lines, each of which is one event.

use std::time::{Duration, Instant};

use super::request::{Answer, Failure, MOST_AT_ONCE};

/// Room that is kept for the next line; an object that needs more is a rare one.
const KEPT_ROOM: usize = 256 * 1024;

/// The lines of an answer as they come.
#[derive(Debug)]
pub(super) struct Lines {
    answer: Answer,
    buffer: Vec<u8>,
    /// What of the buffer was given out already.
    given: usize,
    /// The end of the last whole line in the buffer.
    whole: usize,
}

impl Lines {
    pub(super) fn new(answer: Answer) -> Self {
        Self { answer, buffer: Vec::new(), given: 0, whole: 0 }
    }

    /// Reads until there is at least one more whole line, and tells when it was there. None: the answer is over; a
    /// line without its end is none. [`TooLarge`](super::request::Reason::TooLarge): a line is longer than [`MOST_AT_ONCE`].
    pub(super) async fn fill(&mut self, patience: Duration) -> Result<Option<Instant>, Failure> {
        self.buffer.drain(..self.given);
        self.buffer.shrink_to(KEPT_ROOM);
        (self.given, self.whole) = (0, 0);
        while let Some(piece) = self.answer.next(patience).await? {
            let before = self.buffer.len();
            self.buffer.extend_from_slice(&piece);
            if let Some(end) = piece.iter().rposition(|&byte| byte == b'\n') {
                self.whole = before + end + 1;
                return Ok(Some(Instant::now()));
            }
            if self.buffer.len() > MOST_AT_ONCE {
                return Err(Failure::too_large("line of a watch", &self.buffer));
            }
        }
        Ok(None)
    }

    /// The next whole line that was read.
    pub(super) fn next(&mut self) -> Option<&[u8]> {
        while self.given < self.whole {
            let rest = &self.buffer[self.given..self.whole];
            let length = rest.iter().position(|&byte| byte == b'\n').unwrap_or(rest.len());
            let line = self.given..self.given + length;
            self.given += length + 1;
            if !line.is_empty() {
                return Some(&self.buffer[line]);
            }
        }
        None
    }
}

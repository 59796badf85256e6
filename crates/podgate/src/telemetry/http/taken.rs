//! [`Taken`]: a stream on which what is written must be taken within a time.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Sleep;

/// A stream whose other end has only so long for each answer: from when something of it can't be sent until all of it is.
/// Taking it bit by bit is no help. Then writing fails, and the connection ends with what it held.
pub(super) struct Taken<S> {
    stream: S,
    patience: Duration,
    /// When it ends, while something waits to be taken.
    end: Option<Pin<Box<Sleep>>>,
}

impl<S> Taken<S> {
    pub(super) fn within(patience: Duration, stream: S) -> Self {
        Taken { stream, patience, end: None }
    }

    /// What became of writing, unless the time is over.
    fn in_time<T>(&mut self, context: &mut Context<'_>, written: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if written.is_pending() && self.end.is_none() {
            self.end = Some(Box::pin(tokio::time::sleep(self.patience)));
        }
        if self.end.as_mut().is_some_and(|end| end.as_mut().poll(context).is_ready()) {
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the answer was not taken in time")));
        }
        written
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Taken<S> {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, into)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Taken<S> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.in_time(context, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(context, slices);
        self.in_time(context, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    /// Called when everything was written: with its end, nothing waits any more.
    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.stream).poll_flush(context);
        ready!(self.in_time(context, flushed))?;
        self.end = None;
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let shut = Pin::new(&mut self.stream).poll_shutdown(context);
        self.in_time(context, shut)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_is_taken_bit_by_bit_is_not_taken_in_time() {
        let patience = Duration::from_secs(10);
        let (ours, mut theirs) = tokio::io::duplex(16);
        let mut ours = Taken::within(patience, ours);
        let writing = tokio::spawn(async move { ours.write_all(&[0; 1000]).await });
        let begun = tokio::time::Instant::now();
        let mut taken = 0;
        while !writing.is_finished() {
            taken += theirs.read(&mut [0; 1]).await.unwrap();
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        let error = writing.await.unwrap().unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert!(taken < 20 && begun.elapsed() < patience * 2, "{taken} after {:?}", begun.elapsed());
    }

    #[tokio::test(start_paused = true)]
    async fn the_time_begins_anew_with_each_answer() {
        let (ours, mut theirs) = tokio::io::duplex(16);
        let mut ours = Taken::within(Duration::from_secs(10), ours);
        for _ in 0..5 {
            let take = async {
                tokio::time::sleep(Duration::from_secs(9)).await;
                theirs.read_exact(&mut [0; 100]).await.unwrap();
            };
            let answer = async {
                ours.write_all(&[0; 100]).await?;
                ours.flush().await
            };
            tokio::join!(answer, take).0.unwrap();
            tokio::time::sleep(Duration::from_secs(60)).await;
        }
    }
}

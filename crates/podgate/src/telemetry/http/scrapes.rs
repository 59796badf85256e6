//! [`Scrapes`]: the text of the metrics, made for whoever asks without taking more than it should.
//!
//! A text is some megabytes on a node with many rules, and takes some milliseconds to make; who asks for it may be many, and
//! a pod. So one is made at a time, away from the thread that answers probes, and not more than half of the time; who asks
//! meanwhile shares the next one; and as long as many are not taken yet, no more are made.

use std::sync::{Arc, Weak};
use std::time::Instant;

use axum::body::Bytes;
use tokio::sync::{Mutex, OwnedMutexGuard};

/// Texts that clients have not taken yet. Beyond that, the newest one is given once more, though it is older than the question:
/// by no more than clients may take to take theirs.
const MOST: usize = 4;

/// What is kept of texts. Cheap to clone.
#[derive(Clone, Default)]
pub(super) struct Scrapes(Arc<Mutex<Kept>>);

#[derive(Default)]
struct Kept {
    /// Those that somebody has yet, the newest last, and since when what they tell was so.
    texts: Vec<(Instant, Weak<Vec<u8>>)>,
    /// No text is made before.
    rest_until: Option<Instant>,
}

/// Given back when the answer was sent, or the connection is gone.
struct Text(Arc<Vec<u8>>);

impl AsRef<[u8]> for Text {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl Scrapes {
    /// A text that `make` made after this was called, if there is room for one more. May block only there.
    pub(super) async fn text<E>(
        &self,
        make: impl FnOnce() -> Result<Vec<u8>, E> + Send + 'static,
    ) -> Result<Bytes, String>
    where
        E: std::fmt::Display + Send + 'static,
    {
        let asked = Instant::now();
        let mut kept = Arc::clone(&self.0).lock_owned().await;
        if let Some(text) = kept.at_hand(asked) {
            return Ok(text);
        }
        if let Some(until) = kept.rest_until {
            tokio::time::sleep_until(until.into()).await;
        }
        // Whoever asked may be gone before this is over: nobody else begins another one meanwhile.
        let made = tokio::task::spawn_blocking(move || Kept::make(kept, make).map_err(|error| error.to_string()));
        made.await.unwrap_or_else(|error| Err(error.to_string()))
    }
}

impl Kept {
    fn at_hand(&mut self, asked: Instant) -> Option<Bytes> {
        self.texts.retain(|(_, text)| text.strong_count() > 0);
        let is_full = self.texts.len() >= MOST;
        let (_, newest) = self.texts.last().filter(|(began, _)| is_full || *began >= asked)?;
        newest.upgrade().map(|text| Bytes::from_owner(Text(text)))
    }

    fn make<E>(mut kept: OwnedMutexGuard<Self>, make: impl FnOnce() -> Result<Vec<u8>, E>) -> Result<Bytes, E> {
        let began = Instant::now();
        let text = make();
        kept.rest_until = Some(Instant::now() + began.elapsed());
        let text = Arc::new(text?);
        kept.texts.push((began, Arc::downgrade(&text)));
        Ok(Bytes::from_owner(Text(text)))
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::mpsc;

    use tokio::sync::oneshot;
    use tokio::task::JoinHandle;

    use super::*;

    /// Counts the texts that it makes.
    struct Maker {
        made: Arc<AtomicUsize>,
        scrapes: Scrapes,
    }

    impl Maker {
        fn new() -> Self {
            Maker { made: Arc::default(), scrapes: Scrapes::default() }
        }

        async fn text(&self) -> Bytes {
            let made = Arc::clone(&self.made);
            let number =
                move || Ok::<_, Infallible>((made.fetch_add(1, Ordering::Relaxed) + 1).to_string().into_bytes());
            self.scrapes.text(number).await.unwrap()
        }
    }

    #[tokio::test]
    async fn each_who_asks_after_another_was_answered_has_a_text_of_its_own() {
        let maker = Maker::new();
        assert_eq!(maker.text().await, "1");
        let kept = maker.text().await;
        assert_eq!((&kept[..], &maker.text().await[..]), (&b"2"[..], &b"3"[..]));
    }

    /// Somebody who asks, and whose text is being made until a word is said.
    async fn slow(scrapes: &Scrapes) -> (JoinHandle<Result<Bytes, String>>, mpsc::Sender<()>) {
        let ((go, wait), (begin, begun)) = (mpsc::channel::<()>(), oneshot::channel::<()>());
        let scrapes = scrapes.clone();
        let make = move || {
            begin.send(()).unwrap();
            wait.recv().unwrap();
            Ok::<_, Infallible>(b"slow".to_vec())
        };
        let asking = tokio::spawn(async move { scrapes.text(make).await });
        begun.await.unwrap();
        (asking, go)
    }

    #[tokio::test]
    async fn those_who_ask_while_a_text_is_made_share_the_next_one() {
        let maker = Maker::new();
        let (first, go) = slow(&maker.scrapes).await;
        let (a, b, c, ()) = tokio::join!(maker.text(), maker.text(), maker.text(), async { go.send(()).unwrap() });
        assert_eq!(first.await.unwrap().unwrap(), "slow");
        assert!([&a, &b, &c].iter().all(|text| **text == "1"), "{a:?} {b:?} {c:?}");
    }

    #[tokio::test]
    async fn no_more_than_a_few_texts_are_kept_for_those_who_do_not_take_them() {
        let maker = Maker::new();
        let mut held = Vec::new();
        for _ in 0..64 {
            held.push(maker.text().await);
        }
        assert_eq!(maker.made.load(Ordering::Relaxed), MOST);
        assert_eq!(held[63], MOST.to_string(), "the newest");
        held.clear();
        assert_eq!(maker.text().await, (MOST + 1).to_string());
    }

    #[tokio::test]
    async fn who_goes_away_while_a_text_is_made_has_nobody_begin_another_beside_it() {
        let maker = Maker::new();
        let (gone, go) = slow(&maker.scrapes).await;
        gone.abort();
        assert!(gone.await.unwrap_err().is_cancelled());
        assert!(maker.scrapes.0.try_lock().is_err(), "it is still being made");
        go.send(()).unwrap();
        assert_eq!(maker.text().await, "1");
    }
}

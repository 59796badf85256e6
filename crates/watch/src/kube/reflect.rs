//! List, then watch, then watch on: one resource followed through everything that may happen to the API server and to
//! the way there. What the objects mean is the [`Sink`]'s business.
//!
//! ```text
//!         ┌──────── version expired, or another world ◀────────────┐
//!         ▼                                                        │
//!   list (streamed, or in pages) ──▶ watch ──▶ ended or broken ──▶ same world? ──▶ watch on from the last version
//! ```
//!
//! It is written on `kube`'s client and request types, not on `kube::runtime::watcher`: that one asks for lists that a
//! lagging API server may answer from its past, does not see `Retry-After`, begins anew at once when watches end at
//! once, and does not notice that a server was replaced.

use std::sync::Arc;
use std::time::{Duration, Instant};

use kube::core::Request;
use kube::core::params::{ListParams, WatchParams};
use tokio::sync::watch;

use super::backoff::{Backoff, jittered};
use super::connect::Connection;
use super::discovery;
use super::lines::Lines;
use super::request::{Failure, Reason};
use super::resources::Presence;
use super::wire::{Heard, Identified, LIST_OF_METADATA, Page, garbled, hear};
use crate::Since;

/// An API server serves a resource a moment after its definition was told: so long it is asked often.
const SERVED_WITHIN: Duration = Duration::from_secs(60);

/// A page of a list that is too large is asked for with so many times fewer objects.
const SMALLER: u32 = 4;

/// Where the objects go.
pub(super) trait Sink: Send {
    /// A list begins: what it does not have at its end is gone.
    fn begin_list(&mut self);
    /// One object's JSON, as it is now or was at last. Gives its version, if it has one.
    fn take(&mut self, object: &str, gone: bool) -> Option<String>;
    /// Whether it is time to flush.
    fn is_full(&self) -> bool;
    /// Tells what was taken.
    fn flush(&mut self, noticed: Instant) -> impl Future<Output = ()> + Send;
    /// The list is complete.
    fn end_list(&mut self, noticed: Instant) -> impl Future<Output = ()> + Send;
    /// How the resource is doing.
    fn state(&mut self, state: State<'_>) -> impl Future<Output = ()> + Send;
}

/// How a resource is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State<'a> {
    /// It is being listed.
    Listing,
    /// It is watched.
    Live,
    /// The API server does not have it.
    Absent,
    /// It can't be read, perhaps because that is forbidden.
    Failing { since: Since, why: &'a str, forbidden: bool },
}

/// What is to be followed.
#[derive(Debug)]
pub(super) struct Target {
    /// Its path on the API server.
    pub(super) path: String,
    /// The path that tells which resources there are beside it, and its name there.
    pub(super) group: (String, &'static str),
    pub(super) presence: Presence,
    /// The form in which objects, and lists of them, are asked for.
    pub(super) accept: (&'static str, &'static str),
}

/// Follows one resource. There is only one for each: no resource is ever watched twice.
#[derive(Debug)]
pub(super) struct Reflector<S> {
    target: Target,
    sink: S,
    connection: Arc<Connection>,
    /// Changes when something was installed.
    installs: watch::Receiver<u64>,
    /// Changes when all is to be told once more.
    wanted: watch::Receiver<u64>,
    backoff: Backoff,
    /// Until when the resource is expected to appear, because its definition changed.
    expected: Option<Instant>,
    /// Whether lists are streamed: until the API server says that it can't.
    streams: bool,
    /// Since when it fails, or since when it is unclear whether it does.
    broken: Option<Since>,
    /// Told as failing.
    failing: bool,
    /// Told as absent.
    missing: bool,
    /// What tells this cluster from another.
    world: Option<String>,
}

/// Why a watch is over.
enum End {
    /// The API server ended it, as it does every few minutes.
    Clean,
    /// It broke off, or ended with an error; what came before counts.
    Broken(Failure),
    /// It can't go on from where it was.
    Relist(Failure),
    /// All is to be told once more.
    Wanted,
}

impl End {
    fn is_too_large(&self) -> bool {
        matches!(self, End::Relist(failure) if failure.reason == Reason::TooLarge)
    }
}

impl<S: Sink> Reflector<S> {
    pub(super) fn new(
        target: Target,
        sink: S,
        connection: Arc<Connection>,
        installs: watch::Receiver<u64>,
        wanted: watch::Receiver<u64>,
    ) -> Self {
        let backoff = Backoff::new(connection.timing());
        let streams = connection.timing().stream_lists;
        let (expected, broken, failing, missing, world) = (None, None, false, false, None);
        Self { target, sink, connection, installs, wanted, backoff, expected, streams, broken, failing, missing, world }
    }

    /// Follows the resource for ever.
    pub(super) async fn run(mut self) {
        loop {
            let Err(failure) = self.follow().await else { continue };
            match failure.reason {
                Reason::NotFound | Reason::Forbidden if self.target.presence == Presence::Installed => {
                    match discovery::check_absent(&self.connection, &self.target).await {
                        Ok(()) => self.absent().await,
                        Err(_) if failure.reason == Reason::Forbidden => self.fail(&failure).await,
                        Err(why) => self.fail(&why).await,
                    }
                }
                Reason::Expired => self.pause(&failure).await,
                _ => self.fail(&failure).await,
            }
        }
    }

    /// Lists and watches. `Ok`: to be listed anew.
    async fn follow(&mut self) -> Result<(), Failure> {
        self.wanted.mark_unchanged();
        // A look for what may not be there is no news, nor is one more try.
        if !self.failing && !self.missing {
            self.sink.state(State::Listing).await;
        }
        self.world = self.identity().await?;
        let (version, open) = if self.streams { self.list_streamed().await? } else { self.list_in_pages().await? };
        self.watch(version, open).await
    }

    async fn list_in_pages(&mut self) -> Result<(String, Option<Lines>), Failure> {
        self.sink.begin_list();
        let timing = self.connection.timing().clone();
        let mut params = ListParams::default().limit(timing.page);
        loop {
            let path = self.list_path(&params)?;
            let text = match self.connection.get(&path, self.target.accept.1).await?.whole(timing.answer).await {
                // Large objects: fewer of them at once, from where the last page ended.
                Err(failure) if failure.reason == Reason::TooLarge && params.limit.is_some_and(|limit| limit > 1) => {
                    params.limit = params.limit.map(|limit| (limit / SMALLER).max(1));
                    tracing::debug!(
                        path = self.target.path,
                        limit = params.limit,
                        why = failure.why,
                        "in smaller pages"
                    );
                    continue;
                }
                text => text?,
            };
            let noticed = Instant::now();
            let page: Page<'_> = serde_json::from_slice(&text).map_err(|error| garbled(&error))?;
            for item in page.items.into_iter().flatten() {
                self.sink.take(item.get(), false);
                if self.sink.is_full() {
                    self.sink.flush(noticed).await;
                }
            }
            let (version, token) = (page.metadata.resource_version, page.metadata.token);
            if !token.is_empty() {
                self.sink.flush(noticed).await;
                params.continue_token = Some(token.into_owned());
                continue;
            }
            if version.is_empty() {
                return Err(Failure::new(Reason::Garbled, "the API server's list has no resourceVersion"));
            }
            self.sink.end_list(noticed).await;
            return Ok((version.into_owned(), None));
        }
    }

    /// The list as the beginning of the watch: object by object, never a page in memory.
    async fn list_streamed(&mut self) -> Result<(String, Option<Lines>), Failure> {
        let mut lines = match self.open("", WatchParams::default().initial_events()).await {
            Err(failure) if matches!(failure.reason, Reason::Unsupported | Reason::Refused) => {
                return self.list_unstreamed(&failure).await;
            }
            opened => opened?,
        };
        self.sink.begin_list();
        let mut version = String::new();
        loop {
            let noticed = match lines.fill(self.connection.timing().answer).await {
                Ok(Some(noticed)) => noticed,
                Ok(None) => {
                    let failure = Failure::new(Reason::Connection, "the list ended before it was complete");
                    return self.list_unstreamed(&failure).await;
                }
                Err(failure) if failure.reason == Reason::Silence => return self.list_unstreamed(&failure).await,
                Err(failure) => return Err(failure),
            };
            while let Some(line) = lines.next() {
                match hear(&mut self.sink, line, &mut version)? {
                    Heard::Object if self.sink.is_full() => self.sink.flush(noticed).await,
                    Heard::Object | Heard::Bookmark { ends_list: false } => {}
                    Heard::Bookmark { ends_list: true } => {
                        self.sink.end_list(noticed).await;
                        return Ok((version, Some(lines)));
                    }
                    // Some API servers find out only while answering that their store can't stream (etcd 3.4: 500,
                    // RequestWatchProgress is disabled).
                    Heard::Error(failure) if matches!(failure.reason, Reason::Unsupported | Reason::Refused) => {
                        return self.list_unstreamed(&failure).await;
                    }
                    Heard::Error(failure) => return Err(failure),
                }
            }
        }
    }

    /// A list could not be streamed: from now on they come in pages.
    async fn list_unstreamed(&mut self, failure: &Failure) -> Result<(String, Option<Lines>), Failure> {
        tracing::debug!(path = self.target.path, why = failure.why, "lists can't be streamed");
        self.streams = false;
        self.list_in_pages().await
    }

    /// Watches on and on. `Ok`: the resource is to be listed anew.
    async fn watch(&mut self, mut version: String, mut open: Option<Lines>) -> Result<(), Failure> {
        // Whether this may be another server than the one that was listed.
        let mut doubtful = false;
        loop {
            if self.wanted.has_changed().unwrap_or(false) {
                return Ok(());
            }
            let lines = match open.take() {
                Some(lines) => Ok(lines),
                None => self.watch_on(&version, doubtful).await,
            };
            let mut lines = match lines {
                Ok(lines) => lines,
                Err(failure) => match failure.reason {
                    Reason::Expired => {
                        tracing::debug!(path = self.target.path, why = failure.why, "to be listed anew");
                        self.pause(&failure).await;
                        return Ok(());
                    }
                    Reason::NotFound if self.target.presence == Presence::Installed => return Err(failure),
                    _ => {
                        self.fail(&failure).await;
                        doubtful = true;
                        continue;
                    }
                },
            };
            self.live().await;
            doubtful = false;
            let opened = Instant::now();
            let (mut heard, end) = self.read(&mut lines, &mut version).await;
            drop(lines);
            heard |= opened.elapsed() >= self.connection.timing().settled;
            if heard && !end.is_too_large() {
                self.backoff.reset();
            }
            match end {
                End::Wanted => {
                    tracing::debug!(path = self.target.path, "to be told once more");
                    return Ok(());
                }
                End::Clean if heard => {}
                End::Clean => self.pause(&Failure::new(Reason::Connection, "the watch ended at once")).await,
                End::Broken(failure) => {
                    tracing::debug!(path = self.target.path, why = failure.why, "a watch broke off");
                    doubtful = true;
                    self.broken = Some(Since::now());
                    match failure.reason {
                        Reason::Connection | Reason::Silence if heard => {}
                        Reason::Connection | Reason::Silence => self.pause(&failure).await,
                        _ => self.fail(&failure).await,
                    }
                }
                End::Relist(failure) => {
                    tracing::debug!(path = self.target.path, why = failure.why, "to be listed anew");
                    if failure.reason == Reason::TooLarge {
                        self.fail(&failure).await;
                    } else if !heard {
                        self.pause(&failure).await;
                    }
                    return Ok(());
                }
            }
        }
    }

    /// Opens a watch from a version on; `Expired` if it is not known there.
    async fn watch_on(&mut self, version: &str, doubtful: bool) -> Result<Lines, Failure> {
        if doubtful && !self.is_same_world(version).await? {
            return Err(Failure::new(Reason::Expired, "the API server is another one, or was set back"));
        }
        self.open(version, WatchParams::default()).await
    }

    async fn open(&mut self, version: &str, mut params: WatchParams) -> Result<Lines, Failure> {
        params.timeout = Some(jittered(self.connection.timing().watch).as_secs().max(1) as u32);
        let request = Request::new(&self.target.path).watch(&params, version);
        let request = request.map_err(|error| Failure::new(Reason::Refused, error.to_string()))?;
        let answer = self.connection.get(&request.uri().to_string(), self.target.accept.0).await?;
        Ok(Lines::new(answer))
    }

    /// Reads a watch to its end; also whether anything happened in it.
    async fn read(&mut self, lines: &mut Lines, version: &mut String) -> (bool, End) {
        let mut heard = false;
        // A streamed list may have left lines behind.
        let mut noticed = Instant::now();
        loop {
            let end = loop {
                let Some(line) = lines.next() else { break None };
                match hear(&mut self.sink, line, version) {
                    Ok(Heard::Object) => {
                        heard = true;
                        if self.sink.is_full() {
                            self.sink.flush(noticed).await;
                        }
                    }
                    Ok(Heard::Bookmark { .. }) => {}
                    Ok(Heard::Error(failure)) if failure.reason == Reason::Expired => break Some(End::Relist(failure)),
                    Ok(Heard::Error(failure)) => break Some(End::Broken(failure)),
                    // Whatever it was that could not be read: a list has it too.
                    Err(failure) => break Some(End::Relist(failure)),
                }
            };
            self.sink.flush(noticed).await;
            if let Some(end) = end {
                return (heard, end);
            }
            let silence = self.connection.timing().silence;
            let filled = tokio::select! {
                filled = lines.fill(silence) => filled,
                () = changed(&mut self.wanted) => return (heard, End::Wanted),
            };
            match filled {
                Ok(Some(read)) => noticed = read,
                Ok(None) => return (heard, End::Clean),
                // From the last version on it would come again; a list may be without it.
                Err(failure) if failure.reason == Reason::TooLarge => return (heard, End::Relist(failure)),
                Err(failure) => return (heard, End::Broken(failure)),
            }
        }
    }

    /// Whether the server answers for the same cluster as the one that was listed, and knows that version.
    async fn is_same_world(&mut self, version: &str) -> Result<bool, Failure> {
        if self.identity().await? != self.world {
            return Ok(false);
        }
        let path = self.list_path(&ListParams::default().limit(1))?;
        let answer = self.connection.get(&path, self.target.accept.1).await?;
        let text = answer.whole(self.connection.timing().answer).await?;
        let page: Page<'_> = serde_json::from_slice(&text).map_err(|error| garbled(&error))?;
        // Versions are numbers that grow; where they are not, nothing can be told from them.
        Ok(match (page.metadata.resource_version.parse::<u128>(), version.parse::<u128>()) {
            (Ok(now), Ok(before)) => now >= before,
            _ => true,
        })
    }

    /// What tells this cluster from every other: the uid of a namespace that all have and that is never deleted.
    async fn identity(&self) -> Result<Option<String>, Failure> {
        const PATH: &str = "/api/v1/namespaces?fieldSelector=metadata.name%3Dkube-system";
        let answer = match self.connection.get(PATH, LIST_OF_METADATA).await {
            Err(failure) if matches!(failure.reason, Reason::Forbidden | Reason::NotFound) => return Ok(None),
            answer => answer?,
        };
        let text = answer.whole(self.connection.timing().answer).await?;
        let found: Identified = serde_json::from_slice(&text).map_err(|error| garbled(&error))?;
        Ok(found.items.into_iter().flatten().next().map(|found| found.metadata.uid))
    }

    fn list_path(&self, params: &ListParams) -> Result<String, Failure> {
        let request = Request::new(&self.target.path).list(params);
        let request = request.map_err(|error| Failure::new(Reason::Refused, error.to_string()))?;
        Ok(request.uri().to_string())
    }

    /// The API server does not have it: waits until it may.
    async fn absent(&mut self) {
        self.sink.begin_list();
        self.sink.end_list(Instant::now()).await;
        (self.broken, self.failing, self.missing) = (None, false, true);
        self.sink.state(State::Absent).await;
        let hopeful = self.expected.is_some_and(|until| Instant::now() < until);
        let wait = if hopeful { self.backoff.wait(None) } else { jittered(self.connection.timing().poll) };
        if tokio::time::timeout(wait, changed(&mut self.installs)).await.is_ok() {
            self.backoff.reset();
            self.expected = Some(Instant::now() + SERVED_WITHIN);
        }
    }

    async fn live(&mut self) {
        (self.broken, self.failing, self.missing) = (None, false, false);
        self.sink.state(State::Live).await;
    }

    /// Tells a failure, and waits before the next try.
    async fn fail(&mut self, failure: &Failure) {
        (self.failing, self.missing) = (true, false);
        let since = *self.broken.get_or_insert_with(Since::now);
        let forbidden = failure.reason == Reason::Forbidden;
        self.sink.state(State::Failing { since, why: &failure.why, forbidden }).await;
        self.pause(failure).await;
    }

    async fn pause(&mut self, failure: &Failure) {
        let wait = self.backoff.wait(failure.asked);
        tracing::debug!(path = self.target.path, why = failure.why, ?wait, "waiting before the next try");
        tokio::time::sleep(wait).await;
    }
}

/// Waits for a change: for ever, if none can come any more.
async fn changed(number: &mut watch::Receiver<u64>) {
    if number.changed().await.is_err() {
        std::future::pending::<()>().await;
    }
}

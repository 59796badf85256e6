//! What is known of all resources together: how fresh each is, what is wrong, and whether all has been told once.

use std::sync::Arc;

use podgate_api::ObjectKey;
use tokio::sync::{Mutex, mpsc, watch};

use super::resources::{Presence, RESOURCES, Resource};
use crate::{Event, FreshState, Freshness, Problem};

/// Problems told in full; what follows is counted.
const MOST_PROBLEMS: usize = 1000;

/// The one place from which freshness, problems and `Synced` are told, each as a whole and in order.
#[derive(Debug)]
pub(super) struct Board {
    events: mpsc::Sender<Event>,
    /// The number of the world that all is to be told for.
    wanted: watch::Receiver<u64>,
    rows: Mutex<Rows>,
}

#[derive(Debug)]
struct Rows {
    rows: Vec<Row>,
    synced: bool,
    /// The last world that all was told for.
    retold: u64,
}

#[derive(Debug)]
struct Row {
    resource: &'static Resource,
    state: FreshState,
    /// All of it was told once, or it is one that podgate can go on without.
    settled: bool,
    /// The world that it was told for at last,
    told: u64,
    /// and what of it could not be read then, but was known.
    kept: Vec<ObjectKey>,
    /// What is wrong with the resource as a whole.
    refused: Option<Problem>,
    objects: Vec<Problem>,
}

impl Board {
    /// A board on which everything is about to be listed, and that says so.
    pub(super) async fn new(events: mpsc::Sender<Event>, wanted: watch::Receiver<u64>) -> Arc<Self> {
        let row = |resource| {
            let (settled, told, kept, refused, objects) = Default::default();
            Row { resource, state: FreshState::Listing, settled, told, kept, refused, objects }
        };
        let rows = Rows { rows: RESOURCES.iter().map(row).collect(), synced: false, retold: 0 };
        let first = rows.freshness();
        let board = Arc::new(Self { events, wanted, rows: Mutex::new(rows) });
        board.tell(first).await;
        board
    }

    /// A resource is in this state now.
    pub(super) async fn state(&self, resource: &Resource, state: FreshState) {
        let mut rows = self.rows.lock().await;
        let Some(row) = rows.of(resource) else { return };
        if !matches!(state, FreshState::Failing { .. }) && row.refused.take().is_some() {
            let problems = rows.problems();
            self.tell(problems).await;
        }
        let Some(row) = rows.of(resource).filter(|row| row.state != state) else { return };
        row.state = state;
        let freshness = rows.freshness();
        self.tell(freshness).await;
    }

    /// The number of the world that a list which begins now is for.
    pub(super) fn wanted(&self) -> u64 {
        *self.wanted.borrow()
    }

    /// A resource is there, but podgate may not read it; what was known of it stays in force.
    pub(super) async fn refused(&self, resource: &Resource, why: &str, known: impl FnOnce() -> Vec<ObjectKey>) {
        let wanted = self.wanted();
        let mut rows = self.rows.lock().await;
        let Some(row) = rows.of(resource) else { return };
        if row.told < wanted {
            (row.told, row.kept) = (wanted, known());
        }
        row.settled |= resource.presence == Presence::Wanted;
        let problem = Problem { place: resource.to_string(), object: None, message: why.to_owned() };
        if row.refused.as_ref() != Some(&problem) {
            row.refused = Some(problem);
            let problems = rows.problems();
            self.tell(problems).await;
        }
        self.sync(&mut rows).await;
    }

    /// What there is of a resource was told, for the world of this number, or it is known that there is nothing of it.
    /// `kept` is known, but can't be read now.
    pub(super) async fn settled(&self, resource: &Resource, world: u64, kept: Vec<ObjectKey>) {
        let mut rows = self.rows.lock().await;
        if let Some(row) = rows.of(resource) {
            row.settled = true;
            (row.told, row.kept) = (world, kept);
        }
        self.sync(&mut rows).await;
    }

    /// What is wrong with objects of a resource now.
    pub(super) async fn problems(&self, resource: &Resource, objects: Vec<Problem>) {
        let mut rows = self.rows.lock().await;
        if let Some(row) = rows.of(resource) {
            row.objects = objects;
        }
        let problems = rows.problems();
        self.tell(problems).await;
    }

    async fn sync(&self, rows: &mut Rows) {
        if !rows.synced && rows.rows.iter().all(|row| row.settled) {
            rows.synced = true;
            self.tell(Event::Synced).await;
        }
        let wanted = self.wanted();
        let is_told = |row: &Row| row.told >= wanted || row.state == FreshState::Absent;
        if rows.synced && rows.retold < wanted && rows.rows.iter().all(is_told) {
            rows.retold = wanted;
            let kept = rows.rows.iter().flat_map(|row| &row.kept).cloned().collect();
            self.tell(Event::Retold { world: wanted, kept }).await;
        }
    }

    async fn tell(&self, event: Event) {
        // With the receiver gone, everything here is about to end.
        let _ = self.events.send(event).await;
    }
}

impl Rows {
    fn of(&mut self, resource: &Resource) -> Option<&mut Row> {
        self.rows.iter_mut().find(|row| row.resource == resource)
    }

    fn freshness(&self) -> Event {
        let fresh = |row: &Row| Freshness { resource: row.resource.to_string(), state: row.state.clone() };
        Event::Freshness(self.rows.iter().map(fresh).collect())
    }

    fn problems(&self) -> Event {
        let all = || self.rows.iter().flat_map(|row| row.refused.iter().chain(&row.objects));
        let mut problems: Vec<Problem> = all().take(MOST_PROBLEMS).cloned().collect();
        let more = all().count() - problems.len();
        if more > 0 {
            let message = format!("{more} more objects can't be used as they are");
            problems.push(Problem { place: "the API server".to_owned(), object: None::<ObjectKey>, message });
        }
        Event::Problems(problems)
    }
}

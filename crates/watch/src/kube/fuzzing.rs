//! What an API server answers, from the bytes of a list or a watch to events, without connection and time: for the fuzz
//! targets (`tests/fuzz`, feature `fuzzing`), and for tests of hostile answers.

use std::time::Instant;

use podgate_api::Kind;
use tokio::sync::{mpsc, watch};

use super::board::Board;
use super::keys::Keys;
use super::objects::Objects;
use super::reflect::Sink;
use super::resources::{RESOURCES, Resource};
use super::wire::{Heard, Page, hear};
use crate::Event;

/// Events that a few objects cause, with room to spare: nobody takes them out meanwhile.
const ROOM: usize = 4096;

/// What was made of an answer.
#[derive(Debug)]
pub struct Told {
    /// What the rest of the program is told, in order.
    pub events: Vec<Event>,
    /// Of a watch, the version it would go on from.
    pub version: String,
}

/// How many resources there are to choose from.
pub const RESOURCE_COUNT: usize = RESOURCES.len();

/// The kind of the objects of one of the resources.
pub fn kind(resource: usize) -> Kind {
    resource_of(resource).kind
}

/// Its objects' `apiVersion`.
pub fn api_version(resource: usize) -> String {
    resource_of(resource).api_version()
}

fn resource_of(number: usize) -> &'static Resource {
    &RESOURCES[number % RESOURCE_COUNT]
}

/// A list of one page, then the lines of a watch, of which only what reads them is run: no connection, no time. A line
/// that ends a watch ends this too.
pub async fn follow(resource: usize, page: Option<&[u8]>, watch: &[u8]) -> Told {
    let (sender, mut receiver) = mpsc::channel(ROOM);
    let board = Board::new(sender.clone(), watch::Sender::new(0).subscribe()).await;
    let mut objects = Objects::new(resource_of(resource), sender, board, Keys::default());
    if let Some(page) = page {
        objects.begin_list();
        if let Ok(page) = serde_json::from_slice::<Page<'_>>(page) {
            for item in page.items.into_iter().flatten() {
                objects.take(item.get(), false);
            }
            objects.end_list(Instant::now()).await;
        }
    }
    let mut version = String::new();
    for line in watch.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
        match hear(&mut objects, line, &mut version) {
            Ok(Heard::Object | Heard::Bookmark { .. }) => {}
            Ok(Heard::Error(_)) | Err(_) => break,
        }
    }
    objects.flush(Instant::now()).await;
    drop(objects);
    let mut events = Vec::new();
    while let Ok(event) = receiver.try_recv() {
        events.push(event);
    }
    Told { events, version }
}

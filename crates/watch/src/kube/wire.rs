//! What an API server says, in its own shapes: pages of a list, lines of a watch (the API's `metav1.List`, `WatchEvent`, `Status`). Not
//! here: what the objects in them mean ([`objects`](super::objects)).

use std::borrow::Cow;

use kube::core::Status;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::reflect::Sink;
use super::request::{Failure, Reason};

#[derive(Deserialize)]
pub(super) struct Page<'a> {
    #[serde(borrow)]
    pub(super) metadata: PageMeta<'a>,
    #[serde(borrow, default)]
    pub(super) items: Option<Vec<&'a RawValue>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct PageMeta<'a> {
    #[serde(borrow, default)]
    pub(super) resource_version: Cow<'a, str>,
    #[serde(borrow, default, rename = "continue")]
    pub(super) token: Cow<'a, str>,
}

#[derive(Deserialize)]
struct Line<'a> {
    #[serde(borrow, rename = "type")]
    what: Cow<'a, str>,
    #[serde(borrow)]
    object: &'a RawValue,
}

#[derive(Deserialize)]
struct Bookmark<'a> {
    #[serde(borrow)]
    metadata: BookmarkMeta<'a>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct BookmarkMeta<'a> {
    #[serde(borrow, default)]
    resource_version: Cow<'a, str>,
    #[serde(borrow, default)]
    annotations: Option<BookmarkAnnotations<'a>>,
}

#[derive(Deserialize)]
struct BookmarkAnnotations<'a> {
    #[serde(borrow, default, rename = "k8s.io/initial-events-end")]
    initial_events_end: Option<Cow<'a, str>>,
}

/// A list of objects of which only the uid counts.
#[derive(Deserialize)]
pub(super) struct Identified {
    #[serde(default)]
    pub(super) items: Option<Vec<Named>>,
}

#[derive(Deserialize)]
pub(super) struct Named {
    pub(super) metadata: Uid,
}

#[derive(Deserialize)]
pub(super) struct Uid {
    #[serde(default)]
    pub(super) uid: String,
}

/// One line of a watch, understood.
pub(super) enum Heard {
    Object,
    Bookmark { ends_list: bool },
    Error(Failure),
}

/// Understands one line of a watch; objects go to the sink.
pub(super) fn hear<S: Sink>(sink: &mut S, line: &[u8], version: &mut String) -> Result<Heard, Failure> {
    let line: Line<'_> = serde_json::from_slice(line).map_err(|error| garbled(&error))?;
    match &*line.what {
        what @ ("ADDED" | "MODIFIED" | "DELETED") => {
            let of_object = sink.take(line.object.get(), what == "DELETED");
            if let Some(of_object) = of_object.filter(|of_object| !of_object.is_empty()) {
                *version = of_object;
            }
            Ok(Heard::Object)
        }
        "BOOKMARK" => {
            let bookmark: Bookmark<'_> = serde_json::from_str(line.object.get()).map_err(|error| garbled(&error))?;
            if !bookmark.metadata.resource_version.is_empty() {
                *version = bookmark.metadata.resource_version.into_owned();
            }
            let end = bookmark.metadata.annotations.and_then(|annotations| annotations.initial_events_end);
            Ok(Heard::Bookmark { ends_list: end.as_deref() == Some("true") })
        }
        "ERROR" => {
            let status: Status = serde_json::from_str(line.object.get()).map_err(|error| garbled(&error))?;
            Ok(Heard::Error(Failure::of_status(&status)))
        }
        other => Err(Failure::new(Reason::Garbled, format!("the API server tells an unknown event, {other:?}"))),
    }
}

/// What is asked for: objects as they are, or only their metadata.
pub(super) const JSON: &str = "application/json";
/// See [`JSON`].
pub(super) const METADATA: &str = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1";
/// See [`JSON`].
pub(super) const LIST_OF_METADATA: &str = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1";

pub(super) fn garbled(error: &serde_json::Error) -> Failure {
    Failure::new(Reason::Garbled, format!("the API server's answer can't be read: {error}"))
}

//! YAML text to trees, by the events of `saphyr-parser`.

use std::borrow::Cow;

use saphyr_parser::{Event, Parser, ScalarStyle, Span, Tag};

use super::document::{Document, Sink, broken};
use super::report::Issue;
use super::scalar;
use super::tree::{Builder, Scalar, ScalarKind};

/// Reads the documents of a text that begins at line `first` of its file. What follows broken syntax is not read.
pub(super) fn read<'a>(text: &'a str, first: u32, sink: Sink<'_, 'a>) {
    let at = |line: usize| first + u32::try_from(line).unwrap_or(u32::MAX - first).saturating_sub(1);
    // Marks count characters; where each is one byte, a scalar can stay what it is in the text instead of a copy.
    let source = if text.is_ascii() { text } else { "" };
    let mut builder = Builder::default();
    for event in Parser::new_from_str(text) {
        let (event, span) = match event {
            Ok(event) => event,
            Err(error) => {
                let message = format!("not valid YAML: {}", error.info());
                return broken(builder, Issue { line: at(error.marker().line()), field: String::new(), message }, sink);
            }
        };
        if let Event::DocumentEnd = event {
            sink(Document { root: builder.finish(), broken: None });
            continue;
        }
        let event = match event {
            Event::Scalar(Cow::Owned(text), style, anchor, tag) => {
                Event::Scalar(borrow(source, span, text), style, anchor, tag)
            }
            other => other,
        };
        if let Err(issue) = feed(&mut builder, event, at(span.start.line())) {
            return broken(builder, issue, sink);
        }
    }
}

/// The scalar as a part of its source, where it stands there just so (but for quotes).
fn borrow(source: &str, span: Span, text: String) -> Cow<'_, str> {
    let (start, end) = (span.start.index(), span.end.index());
    let exactly = |start, end| source.get(start..end).filter(|part| *part == text);
    match exactly(start, end).or_else(|| exactly(start + 1, end.checked_sub(1)?)) {
        Some(part) => Cow::Borrowed(part),
        None => Cow::Owned(text),
    }
}

fn feed<'a>(builder: &mut Builder<'a>, event: Event<'a>, line: u32) -> Result<(), Issue> {
    let collection = |tag: Option<&Tag>, of: &str| match tag {
        None => Ok(()),
        Some(tag) if tag.is_yaml_core_schema() && tag.suffix == of => Ok(()),
        Some(tag) => Err(unknown_tag(line, tag)),
    };
    match event {
        Event::Scalar(text, style, anchor, tag) => {
            let merge = tag.is_none() && style == ScalarStyle::Plain && text == "<<";
            let kind = kind(&text, style, tag.as_deref(), line)?;
            builder.scalar(line, Scalar { text, kind }, anchor, merge)
        }
        Event::SequenceStart(anchor, tag) => {
            collection(tag.as_deref(), "seq")?;
            builder.begin_list(line, anchor)
        }
        Event::MappingStart(anchor, tag) => {
            collection(tag.as_deref(), "map")?;
            builder.begin_map(line, anchor)
        }
        Event::SequenceEnd | Event::MappingEnd => builder.end(),
        Event::Alias(anchor) => builder.alias(line, anchor),
        Event::Nothing | Event::StreamStart | Event::StreamEnd | Event::DocumentStart(_) | Event::DocumentEnd => Ok(()),
    }
}

fn kind(text: &str, style: ScalarStyle, tag: Option<&Tag>, line: u32) -> Result<ScalarKind, Issue> {
    let Some(tag) = tag else {
        return Ok(if style == ScalarStyle::Plain { scalar::resolve(text) } else { ScalarKind::String });
    };
    if !tag.is_yaml_core_schema() {
        // A lone `!` makes a string of a plain scalar.
        return if tag.handle.is_empty() { Ok(ScalarKind::String) } else { Err(unknown_tag(line, tag)) };
    }
    let resolved = scalar::resolve(text);
    let kind = match (tag.suffix.as_str(), resolved) {
        ("str" | "timestamp", _) => Some(ScalarKind::String),
        ("float", ScalarKind::Int(int)) => Some(ScalarKind::Int(int)),
        ("null", ScalarKind::Null)
        | ("bool", ScalarKind::Bool(_))
        | ("int", ScalarKind::Int(_))
        | ("float", ScalarKind::Float(_)) => Some(resolved),
        ("null" | "bool" | "int" | "float", _) => None,
        _ => return Err(unknown_tag(line, tag)),
    };
    kind.ok_or_else(|| Issue {
        line,
        field: String::new(),
        message: format!("{text:?} is not what its tag !!{} says", tag.suffix),
    })
}

fn unknown_tag(line: u32, tag: &Tag) -> Issue {
    let name = if tag.is_yaml_core_schema() { format!("!!{}", tag.suffix) } else { tag.to_string() };
    Issue { line, field: String::new(), message: format!("the tag {name} has no meaning in a manifest; leave it out") }
}

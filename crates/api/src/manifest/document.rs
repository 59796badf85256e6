//! A file's text to its documents: split at `---` lines first, as kubectl does, so that a document whose syntax is
//! broken leaves the others readable.

use super::report::Issue;
use super::tree::{Builder, Node};
use super::{json, yaml};

/// One document of a file.
#[derive(Debug)]
pub(super) struct Document<'a> {
    /// What it says; `None` where it is empty (or broken before anything could be read).
    pub(super) root: Option<Node<'a>>,
    /// Set where the text is broken; the root is then only what stands before the break.
    pub(super) broken: Option<Issue>,
}

/// Where a reader hands its documents.
pub(super) type Sink<'s, 'a> = &'s mut dyn FnMut(Document<'a>);

/// A part of a file between two `---` lines.
#[derive(Debug, PartialEq)]
struct Chunk<'a> {
    /// The text, with its `---`.
    text: &'a str,
    /// The line its text begins at, from 1.
    line: u32,
}

/// Reads the documents of a file, in order.
pub(super) fn read<'a>(file: &str, text: &'a str, sink: Sink<'_, 'a>) {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    for chunk in split(text) {
        let body = chunk.text.strip_prefix("---").unwrap_or(chunk.text);
        match json_start(body) {
            None => yaml::read(chunk.text, chunk.line, sink),
            Some(_) if file.ends_with(".json") => json::read(body, chunk.line, sink),
            // YAML's flow style begins like this too, and it may have comments and unquoted words.
            Some(false) => yaml::read(chunk.text, chunk.line, sink),
            Some(true) => {
                let mut documents = Vec::new();
                json::read(body, chunk.line, &mut |document| documents.push(document));
                if documents.iter().any(|document| document.broken.is_some()) {
                    let mut other = Vec::new();
                    yaml::read(chunk.text, chunk.line, &mut |document| other.push(document));
                    if other.iter().all(|document| document.broken.is_none()) {
                        documents = other;
                    }
                }
                documents.into_iter().for_each(&mut *sink);
            }
        }
    }
}

/// Whether the text begins with `{` or `[`, and if so, whether what follows looks like JSON.
fn json_start(text: &str) -> Option<bool> {
    let rest = text.trim_start().strip_prefix(['{', '['])?;
    Some(rest.trim_start().starts_with(['"', '{', '[', '}', ']']))
}

/// Splits a file at its `---` lines. `---` at the start of a line ends a document wherever it stands, in YAML also
/// within block scalars.
fn split(text: &str) -> Vec<Chunk<'_>> {
    let mut chunks = Vec::new();
    let (mut start, mut start_line) = (0, 1);
    let (mut offset, mut line) = (0, 1);
    let (mut preamble, mut directives) = (true, false);
    for each in text.split_inclusive('\n') {
        let marker =
            each.strip_prefix("---").is_some_and(|rest| rest.is_empty() || rest.starts_with([' ', '\t', '\r', '\n']));
        if marker && offset > start && !directives {
            chunks.push(Chunk { text: &text[start..offset], line: start_line });
            (start, start_line) = (offset, line);
        }
        // Directives (`%YAML 1.2`) belong to the `---` that follows them.
        match each.as_bytes() {
            [b'%', ..] if preamble => directives = true,
            [b'#' | b'\n' | b'\r', ..] => {}
            _ => (preamble, directives) = (false, false),
        }
        offset += each.len();
        line += 1;
    }
    if offset > start {
        chunks.push(Chunk { text: &text[start..], line: start_line });
    }
    chunks
}

/// Hands over what a builder has of a document whose text is broken.
pub(super) fn broken<'a>(builder: Builder<'a>, issue: Issue, sink: Sink<'_, 'a>) {
    sink(Document { root: builder.partial(), broken: Some(issue) });
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chunks(text: &str) -> Vec<(&str, u32)> {
        split(text).into_iter().map(|chunk| (chunk.text, chunk.line)).collect()
    }

    #[test]
    fn text_splits_at_lines_that_begin_with_three_dashes() {
        assert_eq!(chunks(""), []);
        assert_eq!(chunks("a: 1\n---\nb: 2\n"), [("a: 1\n", 1), ("---\nb: 2\n", 2)]);
        assert_eq!(chunks("---\na: 1\n--- # two\nb: 2"), [("---\na: 1\n", 1), ("--- # two\nb: 2", 3)]);
        assert_eq!(chunks("a: |\n  ---\n  x\n---a: 1\n"), [("a: |\n  ---\n  x\n---a: 1\n", 1)]);
        assert_eq!(chunks("a: 1\r\n---\r\nb: 2"), [("a: 1\r\n", 1), ("---\r\nb: 2", 2)]);
    }

    #[test]
    fn directives_stay_with_their_document() {
        assert_eq!(
            chunks("# x\n%YAML 1.2\n---\na: 1\n---\nb: 2\n"),
            [("# x\n%YAML 1.2\n---\na: 1\n", 1), ("---\nb: 2\n", 5)]
        );
    }
}

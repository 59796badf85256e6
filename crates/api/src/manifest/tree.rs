//! The tree both readers build: what the text says, each part with its line.
//!
//! Anchors, aliases and merge keys are gone from it (an alias is a copy of what it stands for). Keys that stand twice
//! are kept, both: whether that matters depends on the kind of object.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};

use super::path::Path;
use super::report::Issue;

/// How deep mappings and lists may nest; manifests need about ten levels.
const DEEPEST: usize = 100;
/// How many nodes the aliases of one document may stand for: a bound for "billion laughs" texts.
const MOST_ALIASED: usize = 1_000_000;

/// A value and the line it begins at.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Node<'a> {
    pub(super) line: u32,
    pub(super) value: Value<'a>,
}

/// A value.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Value<'a> {
    Scalar(Scalar<'a>),
    List(Vec<Node<'a>>),
    Map(Vec<Entry<'a>>),
}

/// A field of a mapping, with the line of its key.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Entry<'a> {
    pub(super) key: Cow<'a, str>,
    pub(super) line: u32,
    /// The key is one that YAML reads as a boolean.
    pub(super) boolean: bool,
    pub(super) value: Node<'a>,
}

/// A scalar: its text and what that means.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Scalar<'a> {
    pub(super) text: Cow<'a, str>,
    pub(super) kind: ScalarKind,
}

/// What a scalar is.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum ScalarKind {
    Null,
    Bool(bool),
    Int(i64),
    Float(f64),
    String,
}

impl<'a> Node<'a> {
    /// The entries of a mapping; none of anything else.
    pub(super) fn entries(&self) -> &[Entry<'a>] {
        match &self.value {
            Value::Map(entries) => entries,
            _ => &[],
        }
    }

    /// The entry of a mapping by its key.
    pub(super) fn entry(&self, key: &str) -> Option<&Entry<'a>> {
        self.entries().iter().find(|entry| entry.key == key)
    }

    /// The value of a field.
    pub(super) fn get(&self, key: &str) -> Option<&Node<'a>> {
        self.entry(key).map(|entry| &entry.value)
    }

    /// The scalar, where the node is one and not null.
    pub(super) fn scalar(&self) -> Option<&Scalar<'a>> {
        match &self.value {
            Value::Scalar(scalar) if scalar.kind != ScalarKind::Null => Some(scalar),
            _ => None,
        }
    }

    /// Whether the value is null (absent, as the API has it).
    pub(super) fn is_null(&self) -> bool {
        matches!(&self.value, Value::Scalar(Scalar { kind: ScalarKind::Null, .. }))
    }

    /// What the value is, for a person.
    pub(super) fn what(&self) -> &'static str {
        match &self.value {
            Value::List(_) => "a list",
            Value::Map(_) => "a mapping",
            Value::Scalar(scalar) => match scalar.kind {
                ScalarKind::Null => "nothing",
                ScalarKind::Bool(_) => "a boolean",
                ScalarKind::Int(_) | ScalarKind::Float(_) => "a number",
                ScalarKind::String => "a string",
            },
        }
    }

    /// The line of what is at `path`, or of the nearest part above that is there.
    pub(super) fn line_of(&self, path: &Path<'_>) -> u32 {
        fn find<'n, 'a>(root: &'n Node<'a>, path: &Path<'_>) -> (Option<&'n Node<'a>>, u32) {
            match path {
                Path::Root => (Some(root), root.line),
                Path::Key(parent, key) => match find(root, parent) {
                    (Some(node), line) => {
                        node.entry(key).map_or((None, line), |entry| (Some(&entry.value), entry.line))
                    }
                    none => none,
                },
                Path::Index(parent, index) => match find(root, parent) {
                    (Some(Node { value: Value::List(items), .. }), line) => {
                        items.get(*index).map_or((None, line), |item| (Some(item), item.line))
                    }
                    (_, line) => (None, line),
                },
            }
        }
        find(self, path).1
    }

    /// The number of nodes, and the depth.
    fn size(&self) -> (usize, usize) {
        let add = |(size, depth): (usize, usize), node: &Node<'_>| {
            let (s, d) = node.size();
            (size + s, depth.max(d + 1))
        };
        match &self.value {
            Value::Scalar(_) => (1, 1),
            Value::List(items) => items.iter().fold((1, 1), add),
            Value::Map(entries) => entries.iter().map(|entry| &entry.value).fold((1, 1), add),
        }
    }
}

/// Builds one document's tree from what a reader meets in its text.
#[derive(Debug, Default)]
pub(super) struct Builder<'a> {
    stack: Vec<Frame<'a>>,
    root: Option<Node<'a>>,
    anchors: HashMap<usize, Anchored<'a>>,
    aliased: usize,
}

#[derive(Debug)]
struct Anchored<'a> {
    node: Node<'a>,
    size: usize,
    depth: usize,
}

#[derive(Debug)]
struct Frame<'a> {
    line: u32,
    anchor: usize,
    open: Open<'a>,
}

#[derive(Debug)]
enum Open<'a> {
    List(Vec<Node<'a>>),
    Map { entries: Vec<Entry<'a>>, merges: Vec<Node<'a>>, key: Option<Key<'a>> },
}

#[derive(Debug)]
enum Key<'a> {
    Merge,
    Field { key: Cow<'a, str>, line: u32, boolean: bool },
}

fn issue(line: u32, message: impl Into<String>) -> Issue {
    Issue { line, field: String::new(), message: message.into() }
}

impl<'a> Builder<'a> {
    /// A scalar, where a mapping waits for a key: that key. `anchor` 0: none; `merge`: the scalar is a plain `<<`.
    pub(super) fn scalar(&mut self, line: u32, scalar: Scalar<'a>, anchor: usize, merge: bool) -> Result<(), Issue> {
        if let Some(Frame { open: Open::Map { key: key @ None, .. }, .. }) = self.stack.last_mut() {
            if scalar.kind == ScalarKind::Null {
                return Err(issue(line, "not a valid document: a field has no name"));
            }
            let boolean = matches!(scalar.kind, ScalarKind::Bool(_));
            *key = Some(if merge { Key::Merge } else { Key::Field { key: scalar.text, line, boolean } });
            return Ok(());
        }
        self.put(Node { line, value: Value::Scalar(scalar) }, anchor)
    }

    /// The start of a list.
    pub(super) fn begin_list(&mut self, line: u32, anchor: usize) -> Result<(), Issue> {
        self.begin(Frame { line, anchor, open: Open::List(Vec::new()) })
    }

    /// The start of a mapping.
    pub(super) fn begin_map(&mut self, line: u32, anchor: usize) -> Result<(), Issue> {
        self.begin(Frame { line, anchor, open: Open::Map { entries: Vec::new(), merges: Vec::new(), key: None } })
    }

    fn begin(&mut self, frame: Frame<'a>) -> Result<(), Issue> {
        if let Some(Frame { open: Open::Map { key: None, .. }, .. }) = self.stack.last() {
            return Err(issue(frame.line, "not a valid document: the name of a field must be a string"));
        }
        if self.stack.len() == DEEPEST {
            return Err(issue(frame.line, format!("nested deeper than {DEEPEST} levels")));
        }
        self.stack.push(frame);
        Ok(())
    }

    /// The end of the innermost list or mapping.
    pub(super) fn end(&mut self) -> Result<(), Issue> {
        let Some(Frame { line, anchor, open }) = self.stack.pop() else { return Ok(()) };
        let value = match open {
            // Trees of large files are large: no room is kept for what does not come any more.
            Open::List(mut items) => {
                items.shrink_to_fit();
                Value::List(items)
            }
            Open::Map { entries, merges, .. } => {
                let mut entries = merge(entries, merges)?;
                entries.shrink_to_fit();
                Value::Map(entries)
            }
        };
        self.put(Node { line, value }, anchor)
    }

    /// An alias of the node that has this anchor.
    pub(super) fn alias(&mut self, line: u32, anchor: usize) -> Result<(), Issue> {
        if let Some(Frame { open: Open::Map { key: None, .. }, .. }) = self.stack.last() {
            return Err(issue(line, "not a valid document: an alias can't be the name of a field here; write it out"));
        }
        let Some(anchored) = self.anchors.get(&anchor) else {
            return Err(issue(line, "an alias must follow its anchor, in the same document"));
        };
        if self.stack.len() + anchored.depth > DEEPEST {
            return Err(issue(line, format!("aliases nest deeper than {DEEPEST} levels")));
        }
        self.aliased += anchored.size;
        if self.aliased > MOST_ALIASED {
            return Err(issue(line, "the aliases of this document stand for too much text"));
        }
        let node = anchored.node.clone();
        self.put(node, 0)
    }

    fn put(&mut self, node: Node<'a>, anchor: usize) -> Result<(), Issue> {
        if anchor != 0 {
            let (size, depth) = node.size();
            self.aliased += size;
            if self.aliased > MOST_ALIASED {
                return Err(issue(node.line, "the anchors of this document stand for too much text"));
            }
            self.anchors.insert(anchor, Anchored { node: node.clone(), size, depth });
        }
        match self.stack.last_mut().map(|frame| &mut frame.open) {
            None => self.root = Some(node),
            Some(Open::List(items)) => items.push(node),
            Some(Open::Map { entries, merges, key }) => match key.take() {
                Some(Key::Field { key, line, boolean }) => entries.push(Entry { key, line, boolean, value: node }),
                Some(Key::Merge) => merges.push(node),
                None => return Err(issue(node.line, "not a valid document: the name of a field must be a string")),
            },
        }
        Ok(())
    }

    /// The whole document, once everything is closed; the builder is ready for the next one.
    pub(super) fn finish(&mut self) -> Option<Node<'a>> {
        self.anchors.clear();
        self.aliased = 0;
        self.root.take()
    }

    /// What there is of a document whose text breaks off: enough, often, to tell which object it would have been.
    pub(super) fn partial(mut self) -> Option<Node<'a>> {
        while !self.stack.is_empty() {
            if self.end().is_err() {
                return None;
            }
        }
        self.root
    }
}

/// A mapping's own entries and those that merge keys (`<<`) bring: own ones go first, then earlier merges.
fn merge<'a>(mut entries: Vec<Entry<'a>>, merges: Vec<Node<'a>>) -> Result<Vec<Entry<'a>>, Issue> {
    if merges.is_empty() {
        return Ok(entries);
    }
    let mut have: HashSet<String> = entries.iter().map(|entry| entry.key.to_string()).collect();
    let wrong = |line| issue(line, "the value of a merge key (<<) must be a mapping or a list of mappings");
    for node in merges {
        let line = node.line;
        let maps = match node.value {
            Value::List(items) => items,
            value => vec![Node { line, value }],
        };
        for map in maps {
            let Value::Map(brought) = map.value else { return Err(wrong(map.line)) };
            for entry in brought {
                if have.insert(entry.key.to_string()) {
                    entries.push(entry);
                }
            }
        }
    }
    Ok(entries)
}

//! The complaints about one object, each with line and field.

use std::collections::HashSet;

use super::path::Path;
use super::tree::{Node, Value};

/// Complaints told of one object; what follows them is most often the same mistake again.
const MOST: usize = 50;

/// One complaint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Issue {
    /// The line, from 1.
    pub(super) line: u32,
    /// The field's path; empty for the whole.
    pub(super) field: String,
    /// What is wrong and what to do.
    pub(super) message: String,
}

/// The complaints about one object.
#[derive(Debug, Default)]
pub(super) struct Report {
    issues: Vec<Issue>,
    withheld: usize,
}

impl Report {
    /// Adds a complaint whose line is known.
    pub(super) fn push(&mut self, issue: Issue) {
        if self.issues.len() < MOST {
            self.issues.push(issue);
        } else {
            self.withheld += 1;
        }
    }

    /// Adds a complaint about the value at `path` in the object `root`; its line is the field's, or where the field
    /// is not there, that of the nearest part that is.
    pub(super) fn at(&mut self, root: &Node<'_>, path: &Path<'_>, message: impl Into<String>) {
        if self.issues.len() < MOST {
            let line = root.line_of(path);
            self.issues.push(Issue { line, field: path.to_string(), message: message.into() });
        } else {
            self.withheld += 1;
        }
    }

    /// Adds the complaints of another report about the same object.
    pub(super) fn absorb(&mut self, other: Report) {
        self.withheld += other.withheld;
        other.issues.into_iter().for_each(|issue| self.push(issue));
    }

    /// Whether there is nothing to complain of.
    pub(super) fn is_clean(&self) -> bool {
        self.issues.is_empty()
    }

    /// The complaints in the order of their lines.
    pub(super) fn into_issues(mut self) -> Vec<Issue> {
        self.issues.sort_by_key(|issue| issue.line);
        if let (Some(last), 1..) = (self.issues.last_mut(), self.withheld) {
            last.message.push_str(&format!(" (and {} more complaints about this object)", self.withheld));
        }
        self.issues
    }

    /// Complains of every key that stands twice in one mapping, and of every key that YAML reads as a boolean.
    pub(super) fn keys(&mut self, node: &Node<'_>, path: &Path<'_>) {
        match &node.value {
            Value::Scalar(_) => {}
            Value::List(items) => {
                for (i, item) in items.iter().enumerate() {
                    self.keys(item, &path.index(i));
                }
            }
            Value::Map(_) => {
                self.own_keys(node, path);
                for entry in node.entries() {
                    self.keys(&entry.value, &path.key(&entry.key));
                }
            }
        }
    }

    /// As [`Report::keys`], of this mapping alone.
    pub(super) fn own_keys(&mut self, node: &Node<'_>, path: &Path<'_>) {
        let entries = node.entries();
        let twice = |this: &mut Self, line, key: &str| {
            let field = path.key(key).to_string();
            this.push(Issue { line, field, message: "stands twice in one mapping; keep one of the two".into() });
        };
        if entries.len() <= 8 {
            for (i, entry) in entries.iter().enumerate() {
                if entries[..i].iter().any(|before| before.key == entry.key) {
                    twice(self, entry.line, &entry.key);
                }
            }
        } else {
            let mut seen = HashSet::with_capacity(entries.len());
            for entry in entries {
                if !seen.insert(&*entry.key) {
                    twice(self, entry.line, &entry.key);
                }
            }
        }
        for entry in entries.iter().filter(|entry| entry.boolean) {
            let message = format!("YAML reads the key {0} as a boolean; quote it: \"{0}\"", entry.key);
            self.push(Issue { line: entry.line, field: path.key(&entry.key).to_string(), message });
        }
    }
}

//! Manifest text (YAML or JSON; multi-document files, `List`s) to objects, every error with file, line and field.
//!
//! ```text
//!   text ─ document ─▶ documents ─ yaml | json ─▶ tree::Node (with lines) ─ kinds ─▶ which kind, which key
//!                                                                              │
//!    Object ◀─ pod | cluster | policy | legacy | tiers ◀─ decode (serde) ◀─────┘
//!                         └ validate: the API server's rules; every complaint goes to a report::Report
//! ```
//!
//! Here: what a file says ([`parse`]) and the form of its errors. Not here: reading files, and what is in force while
//! a file is broken (that is `podgate-watch`).

mod cluster;
mod decode;
mod document;
mod json;
mod kinds;
mod legacy;
mod meta;
mod path;
mod pod;
mod policy;
mod report;
mod scalar;
#[cfg(test)]
mod tests;
mod tiers;
mod tree;
mod validate;
mod yaml;

use std::fmt;

use crate::{Object, ObjectKey};

/// What one file says.
#[derive(Debug, Clone, Default)]
pub struct Parsed {
    /// The objects that podgate follows, in file order.
    pub objects: Vec<Located>,
    /// What is wrong with the others, in file order. An object is either among the objects or has errors here, with
    /// two exceptions that are both: a namespace whose isolation can't be understood, which counts as isolated; and a
    /// policy of a cluster tier whose subject can be read, of which what can't be understood is closed (a rule that
    /// accepts matches nothing, any other denies everything to or from the subject).
    pub errors: Vec<ManifestError>,
}

/// An object and where it stands.
#[derive(Debug, Clone, PartialEq)]
pub struct Located {
    /// The line its document (or its item in a List) begins at, from 1.
    pub line: usize,
    /// The object.
    pub object: Object,
}

/// Something in a manifest that the API server would refuse.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ManifestError {
    /// The file, as it was named to [`parse`].
    pub file: String,
    /// The line, from 1.
    pub line: usize,
    /// The field's path (`spec.ingress[0].ports[1].endPort`); empty where the text itself is broken.
    pub field: String,
    /// What is wrong and what to do.
    pub message: String,
    /// The object it is in, where that much could be read (of broken text too, if kind and name come before the
    /// break): what to put a closed policy in the place of.
    pub object: Option<ObjectKey>,
}

impl fmt::Display for ManifestError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: ", self.file, self.line)?;
        if let Some(object) = &self.object {
            write!(f, "{object}: ")?;
        }
        if !self.field.is_empty() {
            write!(f, "{}: ", self.field)?;
        }
        f.write_str(&self.message)
    }
}

impl std::error::Error for ManifestError {}

/// Reads the text of one file. Kinds that podgate does not follow are passed over; kinds of network policy that it
/// does not enforce are errors. All errors are collected; the objects without errors are delivered beside them.
pub fn parse(file: &str, text: &str) -> Parsed {
    let mut reader = kinds::Reader::new(file);
    document::read(file, text, &mut |document| reader.document(document));
    reader.parsed
}

/// Whether a text can name a pod, a node or a policy (a DNS-1123 subdomain). The error says what a name is made of.
pub fn check_name(text: &str) -> Result<(), String> {
    validate::dns_subdomain(text)
}

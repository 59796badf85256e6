//! Where in an object a value is: `spec.ingress[0].ports`.

use std::fmt;

/// A path as a chain on the stack: nothing is allocated until an error has to be told.
#[derive(Debug, Clone, Copy)]
pub(super) enum Path<'p> {
    /// The object itself.
    Root,
    /// A field of a mapping.
    Key(&'p Path<'p>, &'p str),
    /// An item of a list.
    Index(&'p Path<'p>, usize),
}

impl<'p> Path<'p> {
    /// The path of a field.
    pub(super) fn key(&'p self, key: &'p str) -> Path<'p> {
        Path::Key(self, key)
    }

    /// The path of an item.
    pub(super) fn index(&'p self, index: usize) -> Path<'p> {
        Path::Index(self, index)
    }
}

impl fmt::Display for Path<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Path::Root => Ok(()),
            Path::Index(parent, index) => write!(f, "{parent}[{index}]"),
            // Label and annotation keys have dots and slashes of their own.
            Path::Key(parent, key) if !key.bytes().all(|b| b.is_ascii_alphanumeric()) => {
                write!(f, "{parent}[{key}]")
            }
            Path::Key(Path::Root, key) => f.write_str(key),
            Path::Key(parent, key) => write!(f, "{parent}.{key}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_reads_as_kubernetes_writes_it() {
        let spec = Path::Root.key("spec");
        let ingress = spec.key("ingress");
        let rule = ingress.index(2);
        assert_eq!(rule.key("from").to_string(), "spec.ingress[2].from");
        let metadata = Path::Root.key("metadata");
        let labels = metadata.key("labels");
        assert_eq!(labels.key("app.kubernetes.io/name").to_string(), "metadata.labels[app.kubernetes.io/name]");
    }
}

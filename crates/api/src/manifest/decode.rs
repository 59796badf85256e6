//! A serde `Deserializer` over the tree: the k8s-openapi types and our own read from it, and every error comes with
//! line and field.
//!
//! `null` counts as Go's JSON reader counts it, which is the API server's: no value for a field that may be absent,
//! and the empty value (`""`, `0`, `{}`, `[]`) everywhere else.

use std::cell::RefCell;
use std::fmt;

use serde::de::{self, DeserializeOwned, DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};

use super::path::Path;
use super::report::{Issue, Report};
use super::tree::{Entry, Node, Scalar, ScalarKind, Value};

/// What to do with fields the type does not have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unknown {
    /// They are passed over.
    Ignore,
    /// They are errors.
    Refuse,
}

/// Reads the field `key` of `object` (an absent one as null). Complaints go to the report; `None` where a value has
/// the wrong type, so that there is nothing to work with. Keys that stand twice are left to [`Report::keys`].
pub(super) fn field<T: DeserializeOwned>(
    object: &Node<'_>,
    key: &'static str,
    unknown: Unknown,
    report: &mut Report,
) -> Option<T> {
    let absent = Scalar { text: "".into(), kind: ScalarKind::Null };
    let absent = Node { line: object.line, value: Value::Scalar(absent) };
    let (node, line) = object.entry(key).map_or((&absent, object.line), |entry| (&entry.value, entry.line));
    value(node, line, &Path::Root.key(key), unknown, report)
}

/// As [`field`], of a value that stands at `path`, its field in this line.
pub(super) fn value<T: DeserializeOwned>(
    node: &Node<'_>,
    line: u32,
    path: &Path<'_>,
    unknown: Unknown,
    report: &mut Report,
) -> Option<T> {
    let context = Context { unknown, issues: RefCell::default() };
    let read = T::deserialize(Reader { node, line, path, siblings: &[], context: &context });
    context.issues.into_inner().into_iter().for_each(|issue| report.push(issue));
    match read {
        Ok(value) => Some(value),
        // The report has complained of the key already.
        Err(Error { message, .. }) if message == DUPLICATE => None,
        Err(Error { message, at }) => {
            let (line, field) = at.unwrap_or_else(|| (line, path.to_string()));
            report.push(Issue { line, field, message });
            None
        }
    }
}

/// The message of serde's complaint about a key that stands twice.
const DUPLICATE: &str = "duplicate";

struct Context {
    unknown: Unknown,
    issues: RefCell<Vec<Issue>>,
}

/// A value that could not be read. Line and field are set by the innermost reader it passes through.
#[derive(Debug)]
struct Error {
    message: String,
    at: Option<(u32, String)>,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Error {}

impl de::Error for Error {
    fn custom<T: fmt::Display>(message: T) -> Self {
        let message = message.to_string().replace("expected IntOrString", "expected a port's number or name");
        Self { message, at: None }
    }

    fn duplicate_field(_: &'static str) -> Self {
        Self { message: DUPLICATE.to_owned(), at: None }
    }
}

#[derive(Clone, Copy)]
struct Reader<'p, 'de> {
    node: &'de Node<'de>,
    line: u32,
    path: &'p Path<'p>,
    /// The fields that the mapping around this value may have, to help with a misspelt one.
    siblings: &'static [&'static str],
    context: &'p Context,
}

impl<'de> Reader<'_, 'de> {
    fn error<T>(&self, message: impl Into<String>) -> Result<T, Error> {
        Err(Error { message: message.into(), at: Some((self.line, self.path.to_string())) })
    }

    fn located<T>(&self, result: Result<T, Error>) -> Result<T, Error> {
        result.map_err(|error| match error.at {
            Some(_) => error,
            None => Error { at: Some((self.line, self.path.to_string())), ..error },
        })
    }

    fn wrong<T>(&self, must: &str) -> Result<T, Error> {
        self.error(format!("must be {must}, but is {}", self.node.what()))
    }

    fn text<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match &self.node.value {
            Value::Scalar(Scalar { text, kind: ScalarKind::String }) => self.located(visitor.visit_borrowed_str(text)),
            Value::Scalar(Scalar { kind: ScalarKind::Null, .. }) => self.located(visitor.visit_borrowed_str("")),
            Value::Scalar(Scalar { text, .. }) => {
                let what = self.node.what();
                self.error(format!("must be a string, but {text} unquoted is {what}; quote it: \"{text}\""))
            }
            _ => self.wrong("a string"),
        }
    }

    fn number<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match &self.node.value {
            Value::Scalar(Scalar { kind: ScalarKind::Int(int), .. }) => self.located(visitor.visit_i64(*int)),
            Value::Scalar(Scalar { kind: ScalarKind::Null, .. }) => self.located(visitor.visit_i64(0)),
            Value::Scalar(Scalar { text, kind: ScalarKind::String }) if text.parse::<i64>().is_ok() => {
                self.error(format!("must be a number, but is a string; leave the quotes out: {text}"))
            }
            _ => self.wrong("a whole number"),
        }
    }

    fn list<V: Visitor<'de>>(self, items: &'de [Node<'de>], visitor: V) -> Result<V::Value, Error> {
        let Reader { path, context, .. } = self;
        self.located(visitor.visit_seq(Items { items: items.iter().enumerate(), path, context }))
    }

    fn map<V: Visitor<'de>>(
        self,
        entries: &'de [Entry<'de>],
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        let Reader { path, context, .. } = self;
        self.located(visitor.visit_map(Fields { entries: entries.iter(), next: None, path, fields, context }))
    }

    fn mapping<V: Visitor<'de>>(self, fields: &'static [&'static str], visitor: V) -> Result<V::Value, Error> {
        match &self.node.value {
            Value::Map(entries) => self.map(entries, fields, visitor),
            _ if self.node.is_null() => self.map(&[], fields, visitor),
            _ => self.wrong("a mapping"),
        }
    }
}

macro_rules! deserialize_as {
    ($how:ident: $($method:ident)*) => {
        $(fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
            self.$how(visitor)
        })*
    };
}

impl<'de> Deserializer<'de> for Reader<'_, 'de> {
    type Error = Error;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match &self.node.value {
            Value::List(items) => self.list(items, visitor),
            Value::Map(entries) => self.map(entries, &[], visitor),
            Value::Scalar(Scalar { text, kind }) => self.located(match kind {
                ScalarKind::Null => visitor.visit_unit(),
                ScalarKind::Bool(bool) => visitor.visit_bool(*bool),
                ScalarKind::Int(int) => visitor.visit_i64(*int),
                ScalarKind::Float(float) => visitor.visit_f64(*float),
                ScalarKind::String => visitor.visit_borrowed_str(text),
            }),
        }
    }

    deserialize_as!(text: deserialize_char deserialize_str deserialize_string deserialize_identifier);
    deserialize_as!(number: deserialize_i8 deserialize_i16 deserialize_i32 deserialize_i64 deserialize_u8
        deserialize_u16 deserialize_u32 deserialize_u64);
    deserialize_as!(deserialize_any: deserialize_f32 deserialize_f64 deserialize_bytes deserialize_byte_buf
        deserialize_unit);

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match &self.node.value {
            Value::Scalar(Scalar { kind: ScalarKind::Bool(bool), .. }) => self.located(visitor.visit_bool(*bool)),
            _ if self.node.is_null() => self.located(visitor.visit_bool(false)),
            _ => self.wrong("true or false"),
        }
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        if self.node.is_null() { self.located(visitor.visit_none()) } else { self.located(visitor.visit_some(self)) }
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match &self.node.value {
            Value::List(items) => self.list(items, visitor),
            _ if self.node.is_null() => self.list(&[], visitor),
            _ => self.wrong("a list"),
        }
    }

    fn deserialize_tuple<V: Visitor<'de>>(self, _: usize, visitor: V) -> Result<V::Value, Error> {
        self.deserialize_seq(visitor)
    }

    fn deserialize_tuple_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: usize,
        visitor: V,
    ) -> Result<V::Value, Error> {
        self.deserialize_seq(visitor)
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        self.mapping(&[], visitor)
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        self.mapping(fields, visitor)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, _: &'static str, visitor: V) -> Result<V::Value, Error> {
        self.located(visitor.visit_newtype_struct(self))
    }

    fn deserialize_unit_struct<V: Visitor<'de>>(self, _: &'static str, visitor: V) -> Result<V::Value, Error> {
        self.deserialize_any(visitor)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        self.deserialize_any(visitor)
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        if self.context.unknown == Unknown::Refuse {
            let mut message = "unknown field".to_owned();
            if !self.siblings.is_empty() {
                message.push_str("; what may stand here: ");
                message.push_str(&self.siblings.join(", "));
            }
            self.context.issues.borrow_mut().push(Issue { line: self.line, field: self.path.to_string(), message });
        }
        visitor.visit_unit()
    }
}

struct Items<'p, 'de> {
    items: std::iter::Enumerate<std::slice::Iter<'de, Node<'de>>>,
    path: &'p Path<'p>,
    context: &'p Context,
}

impl<'de> SeqAccess<'de> for Items<'_, 'de> {
    type Error = Error;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, Error> {
        let Some((index, node)) = self.items.next() else { return Ok(None) };
        let path = self.path.index(index);
        seed.deserialize(Reader { node, line: node.line, path: &path, siblings: &[], context: self.context }).map(Some)
    }

    fn size_hint(&self) -> Option<usize> {
        Some(self.items.len())
    }
}

struct Fields<'p, 'de> {
    entries: std::slice::Iter<'de, Entry<'de>>,
    next: Option<&'de Entry<'de>>,
    path: &'p Path<'p>,
    fields: &'static [&'static str],
    context: &'p Context,
}

impl<'de> MapAccess<'de> for Fields<'_, 'de> {
    type Error = Error;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, Error> {
        self.next = self.entries.next();
        let Some(entry) = self.next else { return Ok(None) };
        seed.deserialize(de::value::BorrowedStrDeserializer::new(&entry.key)).map(Some)
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Error> {
        let Some(entry) = self.next.take() else { return Err(de::Error::custom("a value without a key")) };
        let path = self.path.key(&entry.key);
        let (node, line) = (&entry.value, entry.line);
        seed.deserialize(Reader { node, line, path: &path, siblings: self.fields, context: self.context })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde::Deserialize;

    use super::super::yaml;
    use super::*;

    #[derive(Debug, Default, PartialEq, Deserialize)]
    #[serde(default)]
    struct Thing {
        name: String,
        count: Option<i32>,
        on: bool,
        list: Vec<Thing>,
        labels: BTreeMap<String, String>,
    }

    fn read(text: &str, unknown: Unknown) -> (Option<Thing>, Vec<Issue>) {
        let mut report = Report::default();
        let mut thing = None;
        yaml::read(text, 1, &mut |d| thing = field(&d.root.unwrap(), "thing", unknown, &mut report));
        (thing, report.into_issues())
    }

    #[test]
    fn null_is_the_empty_value() {
        let (thing, issues) =
            read("thing: {name: null, count: ~, on: null, list: [null], labels: {a: }}", Unknown::Refuse);
        assert_eq!(issues, []);
        let labels = [("a".to_owned(), String::new())].into();
        assert_eq!(thing.unwrap(), Thing { list: vec![Thing::default()], labels, ..Thing::default() });
        assert_eq!(read("other: 1", Unknown::Refuse).0, Some(Thing::default()));
    }

    #[test]
    fn errors_have_line_and_field() {
        for (text, line, field, message) in [
            (
                "thing:\n  list:\n  - name: a\n  - name: [b]\n",
                4,
                "thing.list[1].name",
                "must be a string, but is a list",
            ),
            ("thing:\n  name: yes\n", 2, "thing.name", "but yes unquoted is a boolean; quote it: \"yes\""),
            ("thing:\n  labels:\n    a/b: 1\n", 3, "thing.labels[a/b]", "quote it: \"1\""),
            ("thing:\n  count: many\n", 2, "thing.count", "must be a whole number, but is a string"),
            ("thing:\n  count: '5'\n", 2, "thing.count", "leave the quotes out: 5"),
            ("thing:\n  count: 5000000000\n", 2, "thing.count", "invalid value"),
            ("thing:\n  count: 1.5\n", 2, "thing.count", "must be a whole number"),
            ("thing:\n  on: 1\n", 2, "thing.on", "must be true or false"),
            ("thing:\n  list: {}\n", 2, "thing.list", "must be a list, but is a mapping"),
            ("thing:\n- name: a\n", 1, "thing", "must be a mapping, but is a list"),
        ] {
            let (thing, issues) = read(text, Unknown::Refuse);
            assert_eq!(thing, None, "{text}");
            assert_eq!((issues.len(), issues[0].line, &*issues[0].field), (1, line, field), "{text}");
            assert!(issues[0].message.contains(message), "{text}: {}", issues[0].message);
        }
    }

    #[test]
    fn unknown_fields_are_told_only_when_they_are_refused() {
        let text = "thing:\n  nam: a\n  list:\n  - Name: b\n  name: c\n";
        let (thing, issues) = read(text, Unknown::Refuse);
        assert_eq!(thing.unwrap().name, "c");
        let told: Vec<_> = issues.iter().map(|issue| (issue.line, &*issue.field)).collect();
        assert_eq!(told, [(2, "thing.nam"), (4, "thing.list[0].Name")]);
        assert!(issues[0].message.contains("what may stand here: name, count, on, list, labels"));
        assert_eq!(read(text, Unknown::Ignore).1, []);
    }
}

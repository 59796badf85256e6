//! JSON text to trees (RFC 8259; also several values one after the other, as `kubectl get -o json` output joined by
//! `cat`). YAML would read most of it too, but not tabs, and flow style is what a YAML reader is slow at.

use std::borrow::Cow;

use super::document::{Document, Sink, broken};
use super::report::Issue;
use super::tree::{Builder, Scalar, ScalarKind};

/// Reads the values of a text that begins at line `first` of its file. What follows broken syntax is not read.
pub(super) fn read<'a>(text: &'a str, first: u32, sink: Sink<'_, 'a>) {
    let mut reader = Reader { text, at: 0, line: first };
    let mut builder = Builder::default();
    while reader.next_token().is_some() {
        if let Err(issue) = reader.value(&mut builder) {
            return broken(builder, issue, sink);
        }
        sink(Document { root: builder.finish(), broken: None });
    }
}

struct Reader<'a> {
    text: &'a str,
    at: usize,
    line: u32,
}

impl<'a> Reader<'a> {
    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    /// Passes over white space; the byte after it.
    fn next_token(&mut self) -> Option<u8> {
        loop {
            match self.peek() {
                Some(b'\n') => self.line += 1,
                Some(b' ' | b'\t' | b'\r') => {}
                other => return other,
            }
            self.at += 1;
        }
    }

    fn error<T>(&self, message: impl Into<String>) -> Result<T, Issue> {
        let message = format!("not valid JSON: {}", message.into());
        Err(Issue { line: self.line, field: String::new(), message })
    }

    fn expected<T>(&mut self, what: &str) -> Result<T, Issue> {
        match self.next_token() {
            None => self.error(format!("the text ends where {what} should follow")),
            Some(_) => {
                let found = self.text[self.at..].chars().next().unwrap_or(' ');
                self.error(format!("found {found:?} where {what} should be"))
            }
        }
    }

    /// Recursion is bounded: the builder refuses to nest deeper than a hundred levels.
    fn value(&mut self, builder: &mut Builder<'a>) -> Result<(), Issue> {
        match self.next_token() {
            Some(b'{') => {
                builder.begin_map(self.line, 0)?;
                self.items(b'}', "',' or '}'", |this| {
                    if this.next_token() != Some(b'"') {
                        return this.expected("the name of a field, in quotes,");
                    }
                    this.string(builder)?;
                    if this.next_token() != Some(b':') {
                        return this.expected("':'");
                    }
                    this.at += 1;
                    this.value(builder)
                })?;
                builder.end()
            }
            Some(b'[') => {
                builder.begin_list(self.line, 0)?;
                self.items(b']', "',' or ']'", |this| this.value(builder))?;
                builder.end()
            }
            Some(b'"') => self.string(builder),
            Some(b'-' | b'0'..=b'9') => self.number(builder),
            Some(b't') => self.word("true", ScalarKind::Bool(true), builder),
            Some(b'f') => self.word("false", ScalarKind::Bool(false), builder),
            Some(b'n') => self.word("null", ScalarKind::Null, builder),
            _ => self.expected("a value"),
        }
    }

    fn items(
        &mut self,
        close: u8,
        after: &str,
        mut item: impl FnMut(&mut Self) -> Result<(), Issue>,
    ) -> Result<(), Issue> {
        self.at += 1;
        if self.next_token() == Some(close) {
            self.at += 1;
            return Ok(());
        }
        loop {
            item(self)?;
            match self.next_token() {
                Some(b',') => self.at += 1,
                Some(byte) if byte == close => {
                    self.at += 1;
                    return Ok(());
                }
                _ => return self.expected(after),
            }
        }
    }

    fn word(&mut self, word: &'static str, kind: ScalarKind, builder: &mut Builder<'a>) -> Result<(), Issue> {
        if !self.text[self.at..].starts_with(word) {
            return self.expected("a value");
        }
        self.at += word.len();
        builder.scalar(self.line, Scalar { text: Cow::Borrowed(word), kind }, 0, false)
    }

    fn number(&mut self, builder: &mut Builder<'a>) -> Result<(), Issue> {
        let start = self.at;
        let digits = |this: &mut Self| {
            let from = this.at;
            while matches!(this.peek(), Some(b'0'..=b'9')) {
                this.at += 1;
            }
            this.at - from
        };
        if self.peek() == Some(b'-') {
            self.at += 1;
        }
        let leading_zero = self.peek() == Some(b'0');
        let whole = digits(self);
        let mut valid = whole == 1 || whole > 1 && !leading_zero;
        let mut integer = true;
        if self.peek() == Some(b'.') {
            self.at += 1;
            integer = false;
            valid &= digits(self) > 0;
        }
        if matches!(self.peek(), Some(b'e' | b'E')) {
            self.at += 1;
            integer = false;
            if matches!(self.peek(), Some(b'-' | b'+')) {
                self.at += 1;
            }
            valid &= digits(self) > 0;
        }
        let text = &self.text[start..self.at];
        if !valid {
            return self.error(format!("{text} is no number"));
        }
        let kind = match text.parse() {
            Ok(int) if integer => ScalarKind::Int(int),
            _ => ScalarKind::Float(text.parse().unwrap_or(f64::INFINITY)),
        };
        builder.scalar(self.line, Scalar { text: Cow::Borrowed(text), kind }, 0, false)
    }

    fn string(&mut self, builder: &mut Builder<'a>) -> Result<(), Issue> {
        self.at += 1;
        let mut start = self.at;
        let mut text = Cow::Borrowed("");
        loop {
            // Quotes, backslashes and control characters are single bytes in UTF-8: every slice is at a boundary.
            let rest = &self.text.as_bytes()[self.at..];
            let Some(n) = rest.iter().position(|&b| b == b'"' || b == b'\\' || b < 0x20) else {
                return self.error("a string has no closing quote");
            };
            self.at += n;
            let plain = &self.text[start..self.at];
            if text.is_empty() {
                text = Cow::Borrowed(plain);
            } else {
                text.to_mut().push_str(plain);
            }
            match rest[n] {
                b'"' => break,
                b'\\' => {
                    let c = self.escape()?;
                    text.to_mut().push(c);
                    start = self.at;
                }
                _ => return self.error("a string has a line break or control character; write it as an escape"),
            }
        }
        self.at += 1;
        builder.scalar(self.line, Scalar { text, kind: ScalarKind::String }, 0, false)
    }

    /// One escape; `at` stands at its backslash, and behind it afterwards.
    fn escape(&mut self) -> Result<char, Issue> {
        self.at += 1;
        let escaped = self.peek();
        self.at += usize::from(escaped.is_some());
        Ok(match escaped {
            Some(c @ (b'"' | b'\\' | b'/')) => c.into(),
            Some(b'b') => '\u{8}',
            Some(b'f') => '\u{c}',
            Some(b'n') => '\n',
            Some(b'r') => '\r',
            Some(b't') => '\t',
            Some(b'u') => {
                let first = self.unit()?;
                if (0xd800..0xdc00).contains(&first) && self.text[self.at..].starts_with("\\u") {
                    let here = self.at;
                    self.at += 2;
                    let second = self.unit()?;
                    if (0xdc00..0xe000).contains(&second) {
                        let code = 0x10000 + ((first - 0xd800) << 10) + (second - 0xdc00);
                        return Ok(char::from_u32(code).unwrap_or(char::REPLACEMENT_CHARACTER));
                    }
                    self.at = here;
                }
                // A lone surrogate is replaced, as Go does it.
                char::from_u32(first).unwrap_or(char::REPLACEMENT_CHARACTER)
            }
            _ => return self.error("a backslash in a string begins no known escape; write \\\\ for a backslash"),
        })
    }

    fn unit(&mut self) -> Result<u32, Issue> {
        let digits = self.text.as_bytes().get(self.at..self.at + 4).unwrap_or_default();
        let mut code = 0;
        for &digit in digits {
            match char::from(digit).to_digit(16) {
                Some(value) => code = code * 16 + value,
                None => return self.error("\\u must be followed by four hexadecimal digits"),
            }
        }
        if digits.len() < 4 {
            return self.error("\\u must be followed by four hexadecimal digits");
        }
        self.at += 4;
        Ok(code)
    }
}

#[cfg(test)]
mod tests {
    use super::super::tree::{Node, Value};
    use super::*;

    fn one(text: &str) -> Result<Node<'_>, Issue> {
        let mut documents = Vec::new();
        read(text, 1, &mut |document| documents.push(document));
        let document = documents.remove(0);
        match document.broken {
            Some(issue) => Err(issue),
            None => Ok(document.root.unwrap()),
        }
    }

    #[test]
    fn strings_keep_their_escapes_meaning() {
        let node = one(r#""a\"\\\/\b\f\n\r\té\u00e9\ud83d\ude00\ud800x""#).unwrap();
        let expected = "a\"\\/\u{8}\u{c}\n\r\téé😀\u{fffd}x";
        assert_eq!(&*node.scalar().unwrap().text, expected);
    }

    #[test]
    fn numbers_are_integers_only_when_written_so() {
        for (text, kind) in [
            ("80", ScalarKind::Int(80)),
            ("-1", ScalarKind::Int(-1)),
            ("0", ScalarKind::Int(0)),
            ("80.0", ScalarKind::Float(80.0)),
            ("8e1", ScalarKind::Float(80.0)),
        ] {
            assert_eq!(one(text).unwrap().scalar().unwrap().kind, kind, "{text}");
        }
        for text in ["01", "-", "1.", "1e", "+1", ".5", "1x"] {
            let mut broken = 0;
            read(text, 1, &mut |document| broken += usize::from(document.broken.is_some()));
            assert_eq!(broken, 1, "{text}");
        }
    }

    #[test]
    fn lines_are_counted_through_tabs_and_carriage_returns() {
        let node = one("{\r\n\t\"a\": 1,\r\n\t\"b\": [\r\n\t\ttrue\r\n\t]\r\n}").unwrap();
        assert_eq!(node.entry("b").unwrap().line, 3);
        let Value::List(items) = &node.get("b").unwrap().value else { panic!() };
        assert_eq!(items[0].line, 4);
    }

    #[test]
    fn broken_json_says_what_is_missing_where() {
        for (text, line, message) in [
            ("{\n\"a\": 1\n\"b\": 2}", 3, "found '\"' where ',' or '}' should be"),
            ("{\"a\": }", 1, "found '}' where a value should be"),
            ("[1,\n2", 2, "the text ends where ',' or ']' should follow"),
            ("{a: 1}", 1, "found 'a' where the name of a field, in quotes, should be"),
            ("\"a\nb\"", 1, "a string has a line break"),
            ("[\"a", 1, "a string has no closing quote"),
            ("[\"\\u12\"]", 1, "four hexadecimal digits"),
            ("[nul]", 1, "where a value should be"),
        ] {
            let issue = one(text).unwrap_err();
            assert_eq!(issue.line, line, "{text}");
            assert!(issue.message.contains(message), "{text}: {}", issue.message);
        }
    }

    #[test]
    fn deep_nesting_is_refused_not_a_stack_overflow() {
        assert!(one(&"[".repeat(1_000_000)).unwrap_err().message.contains("nested deeper"));
    }
}

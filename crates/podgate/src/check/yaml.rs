//! Expectations as YAML: a mapping with `flows`, or a bare list. Read event by event, one flow at a time, so that lines
//! are known and a large file needs no tree.

use std::borrow::Cow;

use saphyr_parser::{Event, Parser, ScalarStyle, ScanError, Span, StrInput};

use super::expectation::{Expectations, FIELDS, Fields};

/// Reads the text. What comes after broken YAML is lost; everything else that is wrong is told.
pub(super) fn read(text: &str) -> Expectations {
    let mut reader = Reader { parser: Parser::new_from_str(text), found: Expectations::default() };
    if let Err(error) = reader.stream() {
        reader.found.fail(error.marker().line(), format!("not valid YAML: {}", error.info()));
    }
    reader.found
}

struct Reader<'a> {
    parser: Parser<'a, StrInput<'a>>,
    found: Expectations,
}

impl<'a> Reader<'a> {
    fn next(&mut self) -> Result<(Event<'a>, usize), ScanError> {
        match self.parser.next_event() {
            Some(event) => event.map(|(event, span): (Event<'a>, Span)| (event, span.start.line())),
            None => Ok((Event::StreamEnd, 0)),
        }
    }

    fn stream(&mut self) -> Result<(), ScanError> {
        loop {
            match self.next()? {
                (Event::StreamEnd, _) => return Ok(()),
                (Event::SequenceStart(..), _) => self.flows()?,
                (Event::MappingStart(..), line) => self.document(line)?,
                (Event::Scalar(value, style, ..), _) if is_null(&value, style) => {}
                (Event::Scalar(..) | Event::Alias(_), line) => {
                    self.found.fail(line, "expected `flows:` with a list of flows");
                }
                _ => {}
            }
        }
    }

    /// The mapping with `flows`, after its start.
    fn document(&mut self, line: usize) -> Result<(), ScanError> {
        let mut seen = false;
        loop {
            let (key, key_line) = match self.next()? {
                (Event::MappingEnd, _) => break,
                (Event::Scalar(key, ..), line) => (key, line),
                (event, line) => {
                    self.skip(&event)?;
                    (Cow::Borrowed("(a collection)"), line)
                }
            };
            let (value, value_line) = self.next()?;
            match (&*key, &value) {
                ("flows", _) if seen => {
                    self.found.fail(key_line, "`flows` is there twice");
                    self.skip(&value)?;
                }
                ("flows", Event::SequenceStart(..)) => self.flows()?,
                ("flows", _) => {
                    self.found.fail(value_line, "`flows` must be a list of flows");
                    self.skip(&value)?;
                }
                _ => {
                    self.found.fail(key_line, format!("unknown field `{key}`: the file has one field, `flows`"));
                    self.skip(&value)?;
                }
            }
            seen |= key == "flows";
        }
        if !seen {
            self.found.fail(line, "`flows` is missing: a list of flows");
        }
        Ok(())
    }

    /// The list, after its start.
    fn flows(&mut self) -> Result<(), ScanError> {
        self.found.listed = true;
        loop {
            match self.next()? {
                (Event::SequenceEnd, _) => return Ok(()),
                (Event::MappingStart(..), line) => {
                    let flow = self.flow()?;
                    self.found.push(line, flow);
                }
                (event, line) => {
                    self.skip(&event)?;
                    self.found.push(line, Err((line, format!("a flow is a mapping with {FIELDS}"))));
                }
            }
        }
    }

    /// One flow, after its start. The first thing wrong is told, with its line.
    fn flow(&mut self) -> Result<Result<Fields, (usize, String)>, ScanError> {
        let (mut fields, mut wrong) = (Fields::default(), None);
        let mut seen: Vec<Cow<'a, str>> = Vec::with_capacity(6);
        loop {
            let (key, line) = match self.next()? {
                (Event::MappingEnd, _) => break,
                (Event::Scalar(key, ..), line) => (key, line),
                (event, line) => {
                    self.skip(&event)?;
                    (Cow::Borrowed("(a collection)"), line)
                }
            };
            let (value, value_line) = self.next()?;
            let set = if seen.contains(&key) {
                Err((line, format!("`{key}` is there twice")))
            } else {
                set(&mut fields, &key, &value).map_err(|message| (value_line.max(line), message))
            };
            self.skip(&value)?;
            seen.push(key);
            wrong = wrong.or(set.err());
        }
        Ok(wrong.map_or(Ok(fields), Err))
    }

    /// Passes over the rest of a node whose first event was this.
    fn skip(&mut self, event: &Event<'a>) -> Result<(), ScanError> {
        let mut depth = opens(event);
        while depth > 0 {
            let (event, _) = self.next()?;
            depth += opens(&event);
            match event {
                Event::SequenceEnd | Event::MappingEnd => depth -= 1,
                Event::StreamEnd => return Ok(()),
                _ => {}
            }
        }
        Ok(())
    }
}

fn opens(event: &Event<'_>) -> usize {
    usize::from(matches!(event, Event::SequenceStart(..) | Event::MappingStart(..)))
}

fn set(fields: &mut Fields, key: &str, value: &Event<'_>) -> Result<(), String> {
    let Event::Scalar(value, style, ..) = value else {
        return Err(match value {
            Event::Alias(_) => format!("{key}: aliases are not read here, write the value out"),
            _ => format!("{key}: expected a plain value, not a list or a mapping"),
        });
    };
    let text = || (!is_null(value, *style)).then(|| value.to_string());
    match key {
        "from" => fields.from = text(),
        "to" => fields.to = text(),
        "protocol" => fields.protocol = text(),
        "expect" => fields.expect = text(),
        "port" => fields.port = number(key, value, *style)?,
        "family" => fields.family = number(key, value, *style)?,
        _ => return Err(format!("unknown field `{key}`, expected one of {FIELDS}")),
    }
    Ok(())
}

fn number(key: &str, value: &str, style: ScalarStyle) -> Result<Option<i64>, String> {
    if is_null(value, style) {
        return Ok(None);
    }
    let digits = value.strip_prefix(['-', '+']).unwrap_or(value);
    let decimal = style == ScalarStyle::Plain && !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
    match value.parse() {
        Ok(number) if decimal => Ok(Some(number)),
        _ => Err(format!("{key}: expected a number, not {value:?}")),
    }
}

/// The core schema's nulls.
fn is_null(value: &str, style: ScalarStyle) -> bool {
    style == ScalarStyle::Plain && matches!(value, "" | "~" | "null" | "Null" | "NULL")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::question::{Family, FlowProtocol};

    fn errors(text: &str) -> Vec<String> {
        read(text).errors.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn the_contracts_example_is_read() {
        let found = read(
            "flows:\n\
             - {from: shop/web, to: shop/db, protocol: TCP, port: 5432, expect: allow}\n\
             - {from: 203.0.113.9, to: shop/web, port: 443, expect: deny}        # protocol: TCP by default\n\
             - from: 2001:db8::1\n  to: shop/web\n  protocol: icmp\n  family: 6\n  expect: \"deny\"\n",
        );
        assert_eq!(found.errors, []);
        let [first, second, third] = &found.flows[..] else { panic!("{found:?}") };
        assert_eq!((first.line, first.allow, first.question.port), (2, true, Some(5432)));
        assert_eq!((second.line, second.allow, second.question.protocol), (3, false, FlowProtocol::Tcp));
        assert_eq!((third.line, third.question.protocol, third.question.port), (4, FlowProtocol::Icmp, None));
        assert_eq!((third.question.from.as_str(), third.question.family), ("2001:db8::1", Some(Family::V6)));
    }

    #[test]
    fn a_bare_list_and_several_documents_are_read() {
        let flow = "- {from: n/a, to: n/b, port: 1, expect: deny}\n";
        assert_eq!(read(&format!("# all of them\n{flow}{flow}")).flows.len(), 2);
        assert_eq!(read(&format!("---\nflows:\n{flow}---\n{flow}")).flows.len(), 2);
        let empty = read("flows: []\n");
        assert_eq!((empty.flows.len(), empty.errors.len()), (0, 0));
    }

    #[test]
    fn errors_name_line_flow_and_field() {
        let flow = |rest: &str| errors(&format!("flows:\n- {{from: n/a, to: n/b, {rest}}}"));
        assert_eq!(flow("port: '80', expect: deny"), ["2: flows[0]: port: expected a number, not \"80\""]);
        assert_eq!(flow("port: http, expect: deny"), ["2: flows[0]: port: expected a number, not \"http\""]);
        assert_eq!(flow("port: 70000, expect: deny"), ["2: flows[0]: port 70000 is not in 1-65535"]);
        assert_eq!(flow("port: 0, expect: deny"), ["2: flows[0]: port 0 is not in 1-65535"]);
        assert_eq!(
            flow("protocol: ICMP, port: 8, expect: deny"),
            ["2: flows[0]: ICMP has no ports: leave the port out"]
        );
        assert_eq!(
            flow("protocol: UDP, expect: deny"),
            ["2: flows[0]: port is missing: UDP needs the destination port, a number from 1 to 65535"]
        );
        assert_eq!(flow("port: 1, expect: drop"), ["2: flows[0]: expect is \"drop\": it must be allow or deny"]);
        assert_eq!(flow("port: 1"), ["2: flows[0]: expect is missing: allow or deny"]);
        assert_eq!(flow("port: 1, family: 5, expect: deny"), ["2: flows[0]: family 5 is neither 4 nor 6"]);
        assert_eq!(
            flow("port: [1], expect: deny"),
            ["2: flows[0]: port: expected a plain value, not a list or a mapping"]
        );
        assert_eq!(flow("port: 1, port: 2, expect: deny"), ["2: flows[0]: `port` is there twice"]);
        assert_eq!(
            errors("- from: n/a\n  to: n/b\n  prot: TCP\n  expect: deny\n- from: n/a\n"),
            [
                "3: flows[0]: unknown field `prot`, expected one of from, to, protocol, port, family, expect",
                "5: flows[1]: to is missing: namespace/pod or an IP address",
            ]
        );
    }

    #[test]
    fn a_file_that_is_something_else_is_an_error() {
        assert_eq!(
            errors("kind: Pod\n"),
            ["1: unknown field `kind`: the file has one field, `flows`", "1: `flows` is missing: a list of flows"]
        );
        assert_eq!(errors("flows: {a: b}\n"), ["1: `flows` must be a list of flows"]);
        assert_eq!(
            errors("flows:\n- web\n"),
            ["2: flows[0]: a flow is a mapping with from, to, protocol, port, family, expect"]
        );
        assert_eq!(errors("just words\n"), ["1: expected `flows:` with a list of flows"]);
        assert!(errors("flows:\n- {from: a/b\n- x")[0].contains("not valid YAML"));
    }
}

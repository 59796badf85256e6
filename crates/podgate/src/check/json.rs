//! Expectations as JSON: an object with `flows`, a bare list, or a flow object per line. Each flow is parsed by itself
//! out of the raw text, so that its line is known and one bad flow does not hide the next.

use serde::Deserialize;
use serde_json::value::RawValue;

use super::expectation::{Expectations, FIELDS, Fields};

/// Why a text is not JSON, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Broken {
    pub(super) line: usize,
    pub(super) message: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Flow {
    from: Option<String>,
    to: Option<String>,
    protocol: Option<String>,
    port: Option<i64>,
    family: Option<i64>,
    expect: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Document<'a> {
    #[serde(borrow)]
    flows: Vec<&'a RawValue>,
}

/// Reads the text; broken JSON anywhere in it makes the whole text broken.
pub(super) fn read(text: &str) -> Result<Expectations, Broken> {
    let mut reader = Reader { text, at: 0, line: 1, found: Expectations::default() };
    let mut values = serde_json::Deserializer::from_str(text).into_iter::<&RawValue>();
    let Some(first) = values.next().transpose().map_err(broken)? else { return Ok(reader.found) };
    let mut next = values.next().transpose().map_err(broken)?;
    if next.is_none() && (first.get().starts_with('[') || has_flows(first)) {
        reader.document(first);
        return Ok(reader.found);
    }
    reader.flow(first);
    while let Some(flow) = next {
        reader.flow(flow);
        next = values.next().transpose().map_err(broken)?;
    }
    Ok(reader.found)
}

fn broken(error: serde_json::Error) -> Broken {
    Broken { line: error.line(), message: format!("not valid JSON: {}", without_place(&error)) }
}

/// Whether a lone object is a file with a list rather than one flow.
fn has_flows(value: &RawValue) -> bool {
    #[derive(Deserialize)]
    struct Probe<'a> {
        #[serde(borrow)]
        flows: Option<&'a RawValue>,
    }
    serde_json::from_str::<Probe<'_>>(value.get()).is_ok_and(|probe| probe.flows.is_some())
}

struct Reader<'a> {
    text: &'a str,
    /// How far lines are counted.
    at: usize,
    /// The line there, from 1.
    line: usize,
    found: Expectations,
}

impl<'a> Reader<'a> {
    fn document(&mut self, value: &'a RawValue) {
        let line = self.line_of(value);
        let flows = match value.get().starts_with('[') {
            true => serde_json::from_str(value.get()),
            false => serde_json::from_str(value.get()).map(|document: Document<'a>| document.flows),
        };
        match flows {
            Ok(flows) => {
                self.found.listed = true;
                flows.into_iter().for_each(|flow| self.flow(flow));
            }
            Err(error) => self.found.fail(line + error.line() - 1, without_place(&error)),
        }
    }

    fn flow(&mut self, value: &'a RawValue) {
        let line = self.line_of(value);
        let flow = match value.get().starts_with('{') {
            true => parse(value.get()).map_err(|(below, message)| (line + below, message)),
            false => Err((line, format!("a flow is an object with {FIELDS}"))),
        };
        self.found.push(line, flow);
    }

    /// Values come in text order, so each newline is counted once.
    fn line_of(&mut self, value: &RawValue) -> usize {
        let offset = value.get().as_ptr() as usize - self.text.as_ptr() as usize;
        let between = self.text.as_bytes().get(self.at..offset).unwrap_or_default();
        self.line += between.iter().filter(|byte| **byte == b'\n').count();
        self.at = self.at.max(offset);
        self.line
    }
}

/// One flow; an error is told with how many lines below the flow's first it is.
fn parse(text: &str) -> Result<Fields, (usize, String)> {
    match serde_json::from_str::<Flow>(text) {
        Ok(Flow { from, to, protocol, port, family, expect }) => {
            Ok(Fields { from, to, protocol, port, family, expect })
        }
        Err(error) => Err((error.line().saturating_sub(1), explained(text, &error))),
    }
}

/// The error with the name of the field it is in, which takes a second look.
fn explained(text: &str, error: &serde_json::Error) -> String {
    let message = without_place(error);
    let mut deserializer = serde_json::Deserializer::from_str(text);
    match serde_path_to_error::deserialize::<_, Flow>(&mut deserializer) {
        Err(error) if error.path().iter().len() > 0 && !message.starts_with("unknown field") => {
            format!("{}: {message}", error.path())
        }
        _ => message,
    }
}

/// The message without " at line L column C", which is relative to what was parsed.
fn without_place(error: &serde_json::Error) -> String {
    let message = error.to_string();
    message.rsplit_once(" at line ").map_or(message.clone(), |(message, _)| message.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Line, source and port of the flows.
    fn flows(text: &str) -> Vec<(usize, String, Option<u16>)> {
        read(text).unwrap().flows.into_iter().map(|f| (f.line, f.question.from, f.question.port)).collect()
    }

    fn errors(text: &str) -> Vec<String> {
        read(text).unwrap().errors.iter().map(ToString::to_string).collect()
    }

    const A: &str = r#"{"from":"n/a","to":"n/b","port":1,"expect":"allow"}"#;
    const B: &str = r#"{"from":"n/b","to":"n/b","port":2,"expect":"deny","protocol":"udp"}"#;

    #[test]
    fn object_list_and_lines_say_the_same() {
        for text in [
            format!("{{\"flows\":[{A},\n{B}]}}"),
            format!("[{A},\n{B}]\n"),
            format!("{A}\n{B}"),
            format!("{A}\r\n{B}\r\n"),
        ] {
            assert_eq!(errors(&text), Vec::<String>::new(), "{text}");
            assert_eq!(flows(&text), [(1, "n/a".into(), Some(1)), (2, "n/b".into(), Some(2))], "{text}");
        }
    }

    #[test]
    fn one_line_is_a_flow_and_no_file() {
        assert_eq!(flows(A).len(), 1);
    }

    #[test]
    fn errors_name_line_flow_and_field() {
        assert_eq!(
            errors(&format!("{A}\n\n{{\"from\":\"n/a\",\"to\":\"n/b\",\"port\":\"80\",\"expect\":\"allow\"}}\n{A}")),
            ["3: flows[1]: port: invalid type: string \"80\", expected i64"]
        );
        assert_eq!(
            errors("[\n{\"from\":\"n/a\",\n\"ports\":1}]"),
            [
                "3: flows[0]: unknown field `ports`, expected one of `from`, `to`, `protocol`, `port`, `family`, `expect`"
            ]
        );
        assert_eq!(errors("[1]"), ["1: flows[0]: a flow is an object with from, to, protocol, port, family, expect"]);
        assert_eq!(errors("{\"flows\":3}"), ["1: invalid type: integer `3`, expected a sequence"]);
        assert_eq!(errors("{\"flows\":[],\"x\":3}"), ["1: unknown field `x`, expected `flows`"]);
        assert_eq!(errors("{\"from\":\"a/b\",\"from\":\"a/b\"}"), ["1: flows[0]: duplicate field `from`"]);
    }

    #[test]
    fn broken_json_is_told_with_its_line() {
        let broken = read(&format!("{A}\n{{\"from\": ]")).unwrap_err();
        assert_eq!((broken.line, broken.message.as_str()), (2, "not valid JSON: expected value"));
    }
}

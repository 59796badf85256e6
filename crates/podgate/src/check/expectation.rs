//! [`Expectation`]: one flow of an expectations file, validated; and what is wrong with a file, by its place.

use std::fmt;

use crate::question::{Family, FlowProtocol, Question};

/// A flow and what is to become of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Expectation {
    /// The line it begins at, from 1.
    pub(super) line: usize,
    /// The flow.
    pub(super) question: Question,
    /// It is expected to be allowed.
    pub(super) allow: bool,
}

/// The fields of a flow as they stand in the file, their types checked. JSON null and YAML null are absence.
#[derive(Debug, Default)]
pub(super) struct Fields {
    pub(super) from: Option<String>,
    pub(super) to: Option<String>,
    pub(super) protocol: Option<String>,
    pub(super) port: Option<i64>,
    pub(super) family: Option<i64>,
    pub(super) expect: Option<String>,
}

/// The names of the fields, as an error about an unknown one tells them.
pub(super) const FIELDS: &str = "from, to, protocol, port, family, expect";

/// Something wrong in an expectations file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct FileError {
    /// The line, from 1.
    pub(super) line: usize,
    /// The flow's place in the list, from 0, where it is in one.
    pub(super) flow: Option<usize>,
    /// What is wrong and what to do.
    pub(super) message: String,
}

/// What a file says, and what is wrong with the rest of it.
#[derive(Debug, Default)]
pub(super) struct Expectations {
    /// In file order.
    pub(super) flows: Vec<Expectation>,
    /// In file order.
    pub(super) errors: Vec<FileError>,
    /// There is a list of flows, be it an empty one.
    pub(super) listed: bool,
    /// How many flows were seen, good and bad.
    seen: usize,
}

impl Expectations {
    /// Takes the next flow in.
    pub(super) fn push(&mut self, line: usize, flow: Result<Fields, (usize, String)>) {
        let flow = flow.and_then(|fields| fields.validate(line).map_err(|message| (line, message)));
        match flow {
            Ok(flow) => self.flows.push(flow),
            Err((line, message)) => self.errors.push(FileError { line, flow: Some(self.seen), message }),
        }
        self.seen += 1;
    }

    /// Something is wrong outside the flows.
    pub(super) fn fail(&mut self, line: usize, message: impl Into<String>) {
        self.errors.push(FileError { line, flow: None, message: message.into() });
    }
}

impl Fields {
    fn validate(self, line: usize) -> Result<Expectation, String> {
        let from = self.from.ok_or("from is missing: namespace/pod or an IP address")?;
        let to = self.to.ok_or("to is missing: namespace/pod or an IP address")?;
        let protocol = match self.protocol {
            Some(text) => text.parse().map_err(|e: crate::question::QuestionError| e.to_string())?,
            None => FlowProtocol::Tcp,
        };
        let family = self.family.map(Family::try_from).transpose().map_err(|e| e.to_string())?;
        let allow = match self.expect.as_deref() {
            Some("allow") => true,
            Some("deny") => false,
            Some(other) => return Err(format!("expect is {other:?}: it must be allow or deny")),
            None => return Err("expect is missing: allow or deny".to_owned()),
        };
        let question = Question::new(from, to, protocol, self.port, family).map_err(|e| e.to_string())?;
        Ok(Expectation { line, question, allow })
    }
}

impl fmt::Display for FileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.line)?;
        if let Some(flow) = self.flow {
            write!(f, "flows[{flow}]: ")?;
        }
        f.write_str(&self.message)
    }
}

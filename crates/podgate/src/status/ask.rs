//! Asking an agent over its unix socket: one HTTP/1.0 request, whose answer ends with the connection.

use std::io::{self, Read, Write};
use std::path::Path;
use std::time::Duration;

use anyhow::{Result, anyhow};
use socket2::{Domain, SockAddr, Socket, Type};

/// How long an agent may take: a large world on a busy node is counted well within it.
const PATIENCE: Duration = Duration::from_secs(10);

/// What an agent said.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Answer {
    /// The HTTP status code.
    pub(super) status: u16,
    /// The body, as text.
    pub(super) body: String,
}

/// Asks the agent at `socket`. An error is one line that says what to do.
pub(super) fn ask(socket: &Path, path: &str) -> Result<Answer> {
    let place = socket.display();
    let text = exchange(socket, path).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => anyhow!(
            "no agent answers at {place}: start one with `podgate run`, or give the --socket that it was given (in a \
             cluster: run this in the agent's pod)"
        ),
        io::ErrorKind::PermissionDenied => anyhow!("{place}: only its owner may ask: run this as the agent's user"),
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => {
            anyhow!("the agent at {place} has not answered for {} s: it is stuck", PATIENCE.as_secs())
        }
        _ => anyhow!("the agent at {place} cannot be asked: {error}"),
    })?;
    parse(&text).ok_or_else(|| anyhow!("what answers at {place} is no podgate agent"))
}

fn exchange(path: &Path, what: &str) -> io::Result<String> {
    let mut socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    // The first bounds the connection too: it waits where too many are waiting already.
    socket.set_write_timeout(Some(PATIENCE))?;
    socket.set_read_timeout(Some(PATIENCE))?;
    socket.connect(&SockAddr::unix(path)?)?;
    write!(socket, "GET {what} HTTP/1.0\r\nHost: podgate\r\n\r\n")?;
    let mut text = String::new();
    socket.read_to_string(&mut text)?;
    Ok(text)
}

fn parse(text: &str) -> Option<Answer> {
    let (head, body) = text.split_once("\r\n\r\n")?;
    let status = head.strip_prefix("HTTP/1.")?.split(' ').nth(1)?.parse().ok()?;
    Some(Answer { status, body: body.to_owned() })
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;

    #[test]
    fn status_and_body_are_told() {
        let answer = parse("HTTP/1.0 503 Service Unavailable\r\ncontent-length: 4\r\n\r\nwhy\n").unwrap();
        assert_eq!(answer, Answer { status: 503, body: "why\n".to_owned() });
        for not_http in ["", "hello", "HTTP/1.0 200", "SSH-2.0\r\n\r\n"] {
            assert_eq!(parse(not_http), None, "{not_http:?}");
        }
    }

    #[test]
    fn who_is_not_there_is_told_in_one_line() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("agent.sock");
        let nobody = |path: &Path| ask(path, "/readyz").unwrap_err().to_string();
        assert!(nobody(&path).contains("no agent answers"));
        drop(UnixListener::bind(&path).unwrap());
        assert!(nobody(&path).contains("no agent answers"), "a stale one");
        assert!(!nobody(&path).contains('\n'));
    }
}

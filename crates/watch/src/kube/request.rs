//! Requests to the API server: how one is sent, what came back read bit by bit, and failures told apart.

use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT, RETRY_AFTER, USER_AGENT};
use http::{HeaderMap, Request, StatusCode};
use http_body_util::BodyExt;
use kube::client::Body;
use kube::core::Status;
use tokio::time::timeout;

use super::connect::{Connection, chain};

const AGENT: &str = concat!("podgate/", env!("CARGO_PKG_VERSION"));
/// What is read at most of an answer that tells why something failed.
const MOST_OF_ERROR: usize = 64 * 1024;
/// What is kept in memory at most of one answer, bytes: a whole page of a list, or one line of a watch. etcd takes objects of
/// 1.5 MiB (`--max-request-bytes`), the API server requests of 3 MiB; with all that is followed read at once, and the world beside it,
/// it is well within the container's memory.
pub(super) const MOST_AT_ONCE: usize = 16 << 20;

/// Why something could not be had.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Failure {
    pub(super) reason: Reason,
    /// For a person: what happened and what to do.
    pub(super) why: String,
    /// How long the API server asked to wait.
    pub(super) asked: Option<Duration>,
}

/// What kind of failure it is, as far as it makes a difference.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reason {
    /// No answer, or one that broke off.
    Connection,
    /// Nothing came for longer than it may take.
    Silence,
    /// The credentials are not accepted.
    Unauthorized,
    /// The credentials do not allow this.
    Forbidden,
    /// There is no such resource.
    NotFound,
    /// The API server does not know this way of asking.
    Unsupported,
    /// The version asked for is too old.
    Expired,
    /// The API server has no time now, or is not ready.
    Busy,
    /// Anything else the API server answered.
    Refused,
    /// The answer is not what an API server says.
    Garbled,
    /// More than [`MOST_AT_ONCE`] in one piece.
    TooLarge,
}

impl Failure {
    pub(super) fn new(reason: Reason, why: impl Into<String>) -> Self {
        Self { reason, why: why.into(), asked: None }
    }

    /// What came, without an end up to here, is too much to be kept.
    pub(super) fn too_large(what: &str, begins: &[u8]) -> Self {
        let begins = brief(&String::from_utf8_lossy(&begins[..begins.len().min(4 * MOST_TOLD)]));
        let most = MOST_AT_ONCE >> 20;
        let why = format!(
            "the API server's {what} is larger than {most} MiB and was not read to its end; it begins with {begins}"
        );
        Self::new(Reason::TooLarge, why)
    }

    /// A failure as a `Status` object tells it.
    pub(super) fn of_status(status: &Status) -> Self {
        let code = StatusCode::from_u16(status.code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut failure = Self::of(code, &status.message);
        if status.reason == "Expired" {
            failure.reason = Reason::Expired;
        }
        let asked = status.details.as_ref().map_or(0, |details| details.retry_after_seconds);
        failure.asked = (asked > 0).then(|| Duration::from_secs(asked.into()));
        failure
    }

    fn of(code: StatusCode, message: &str) -> Self {
        let message = message.trim();
        let said = match message {
            "" => code.to_string(),
            message => format!("{}: {message}", code.as_u16()),
        };
        let (reason, what) = match code {
            StatusCode::UNAUTHORIZED => {
                (Reason::Unauthorized, "the API server does not accept podgate's credentials; renew its token")
            }
            StatusCode::FORBIDDEN => (Reason::Forbidden, "the API server forbids it"),
            StatusCode::NOT_FOUND => (Reason::NotFound, "the API server does not have it"),
            StatusCode::GONE => (Reason::Expired, "the version asked for is gone"),
            StatusCode::BAD_REQUEST | StatusCode::UNPROCESSABLE_ENTITY | StatusCode::NOT_ACCEPTABLE => {
                (Reason::Unsupported, "the API server does not understand the request")
            }
            StatusCode::TOO_MANY_REQUESTS => (Reason::Busy, "the API server is asked too much"),
            StatusCode::SERVICE_UNAVAILABLE | StatusCode::BAD_GATEWAY | StatusCode::GATEWAY_TIMEOUT => {
                (Reason::Busy, "the API server is not ready")
            }
            _ => (Reason::Refused, "the API server failed"),
        };
        Self::new(reason, format!("{what} ({said})"))
    }
}

/// The body of a good answer.
#[derive(Debug)]
pub(super) struct Answer {
    body: Body,
}

impl Answer {
    /// The next piece; none at its end.
    pub(super) async fn next(&mut self, patience: Duration) -> Result<Option<Bytes>, Failure> {
        loop {
            match timeout(patience, self.body.frame()).await {
                Ok(None) => return Ok(None),
                Ok(Some(Ok(frame))) => {
                    // What is no data are trailers.
                    if let Ok(data) = frame.into_data() {
                        return Ok(Some(data));
                    }
                }
                Ok(Some(Err(error))) => {
                    let why = format!("the connection to the API server broke: {}", chain(&*error_of(error)));
                    return Err(Failure::new(Reason::Connection, why));
                }
                Err(_) => {
                    let why = format!("nothing came from the API server for {}", seconds(patience));
                    return Err(Failure::new(Reason::Silence, why));
                }
            }
        }
    }

    /// All of it; [`Reason::TooLarge`] if that is more than [`MOST_AT_ONCE`].
    pub(super) async fn whole(mut self, patience: Duration) -> Result<Vec<u8>, Failure> {
        let mut all = Vec::new();
        while let Some(piece) = self.next(patience).await? {
            all.extend_from_slice(&piece);
            if all.len() > MOST_AT_ONCE {
                return Err(Failure::too_large("answer", &all));
            }
        }
        Ok(all)
    }
}

fn error_of(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Box<dyn std::error::Error + Send + Sync> {
    error.into()
}

impl Connection {
    /// Gets a path of the API server. After a failure of the way there, the way is read anew from its files.
    pub(super) async fn get(&self, path: &str, accept: &'static str) -> Result<Answer, Failure> {
        let request = Request::get(path).header(ACCEPT, accept).header(USER_AGENT, AGENT);
        let request = request.body(Body::empty()).map_err(|error| Failure::new(Reason::Refused, error.to_string()))?;
        let patience = self.timing().answer;
        let (client, number) = self.client().await;
        let response = match timeout(patience, client.send(request)).await {
            Ok(Ok(response)) => response,
            Ok(Err(error)) => {
                self.renew(number).await;
                let why = format!(
                    "the API server cannot be reached: {} (check that it runs, its address and certificate)",
                    chain(&error)
                );
                return Err(Failure::new(Reason::Connection, why));
            }
            Err(_) => {
                self.renew(number).await;
                let why = format!("the API server has not answered for {}", seconds(patience));
                return Err(Failure::new(Reason::Silence, why));
            }
        };
        let code = response.status();
        let asked = retry_after(response.headers());
        let mut answer = Answer { body: response.into_body() };
        if code.is_success() {
            return Ok(answer);
        }
        if code == StatusCode::UNAUTHORIZED {
            self.renew(number).await;
        }
        let mut said = Vec::new();
        while said.len() < MOST_OF_ERROR
            && let Ok(Some(piece)) = answer.next(patience).await
        {
            said.extend_from_slice(&piece);
        }
        let failure = match serde_json::from_slice::<Status>(&said) {
            Ok(status) => Failure::of_status(&status.with_code(code.as_u16())),
            Err(_) => Failure::of(code, &brief(&String::from_utf8_lossy(&said))),
        };
        Err(Failure { asked: asked.or(failure.asked), ..failure })
    }
}

/// `Retry-After` in seconds; in the form of a date it would depend on whose clock is right.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    headers.get(RETRY_AFTER)?.to_str().ok()?.trim().parse().ok().map(Duration::from_secs)
}

/// Characters told of a text that may be a whole page.
const MOST_TOLD: usize = 200;

/// The beginning of a text that may be a whole page.
fn brief(text: &str) -> String {
    match text.char_indices().nth(MOST_TOLD) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

fn seconds(duration: Duration) -> String {
    format!("{} s", duration.as_secs_f64())
}

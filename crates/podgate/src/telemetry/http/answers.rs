//! What is answered on each path.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use axum::Router;
use axum::extract::{RawQuery, State as Shared};
use axum::http::header::{CONTENT_TYPE, WWW_AUTHENTICATE};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use podgate_engine::Generation;
use tokio::sync::watch;

use super::scrapes::Scrapes;
use super::stopped;
use super::token::Token;
use crate::telemetry::readiness::Status;
use crate::telemetry::state::State;

/// How long `/readyz?generation=N` waits.
const WAIT: Duration = Duration::from_secs(10);

/// What all answers are made from.
#[derive(Clone)]
pub(super) struct Context {
    pub(super) state: Arc<State>,
    pub(super) stopping: watch::Receiver<bool>,
    /// The metrics that are being told.
    pub(super) scrapes: Scrapes,
    /// What a scrape over the network must show.
    pub(super) token: Option<Arc<Token>>,
}

/// The paths on the network.
pub(super) fn open() -> Router<Context> {
    Router::new()
        .route("/metrics", get(guarded_metrics))
        .route("/healthz", get(healthz))
        .route("/readyz", get(readyz))
        .fallback(|| async { (StatusCode::NOT_FOUND, "there are /metrics, /healthz and /readyz\n") })
}

/// The paths on the agent's own socket: who may open it may know all.
pub(super) fn own() -> Router<Context> {
    Router::new()
        .route("/status", get(status))
        .route("/metrics", get(metrics))
        .route("/healthz", get(healthz))
        .route("/readyz", get(readyz))
        .fallback(|| async { (StatusCode::NOT_FOUND, "there are /status, /metrics, /healthz and /readyz\n") })
}

async fn guarded_metrics(context: Shared<Context>, headers: HeaderMap) -> Response {
    match context.token.as_ref().map(|token| token.permits(&headers)) {
        None | Some(Ok(true)) => metrics(context).await,
        Some(Ok(false)) => {
            let ask = [(WWW_AUTHENTICATE, "Bearer")];
            (StatusCode::UNAUTHORIZED, ask, "/metrics wants the token of --http-token-file\n").into_response()
        }
        Some(Err(error)) => {
            tracing::error!("{error}: no scrape is answered");
            (StatusCode::SERVICE_UNAVAILABLE, "the agent cannot read its token: see its log\n").into_response()
        }
    }
}

async fn metrics(Shared(context): Shared<Context>) -> Response {
    let state = context.state;
    match context.scrapes.text(move || state.metrics()).await {
        Ok(text) => ([(CONTENT_TYPE, prometheus::TEXT_FORMAT)], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, format!("metrics cannot be told: {error}\n")).into_response(),
    }
}

/// Counting a large world takes its lock, so probes must not wait for it.
async fn status(Shared(context): Shared<Context>) -> Response {
    match tokio::task::spawn_blocking(move || context.state.status()).await {
        Ok(Some(json)) => ([(CONTENT_TYPE, "application/json")], json).into_response(),
        Ok(None) => (StatusCode::SERVICE_UNAVAILABLE, "the agent is just starting\n").into_response(),
        Err(error) => {
            (StatusCode::INTERNAL_SERVER_ERROR, format!("the status cannot be told: {error}\n")).into_response()
        }
    }
}

async fn healthz(Shared(context): Shared<Context>) -> (StatusCode, String) {
    let troubles = context.state.troubles();
    if troubles.is_empty() {
        return (StatusCode::OK, "ok\n".to_owned());
    }
    (StatusCode::SERVICE_UNAVAILABLE, lines(&troubles))
}

async fn readyz(Shared(context): Shared<Context>, RawQuery(query): RawQuery) -> (StatusCode, String) {
    let wanted = match wanted_generation(query.as_deref().unwrap_or_default()) {
        Ok(wanted) => wanted,
        Err(message) => return (StatusCode::BAD_REQUEST, message),
    };
    let status = match wanted {
        None => context.state.readiness.now(),
        Some(wanted) => wait_for(&context, wanted).await,
    };
    let behind = wanted.filter(|w| status.generation() < Some(*w));
    let ready = status.is_ready() && behind.is_none();
    let mut said = status.reasons();
    if ready {
        said = vec!["ready".to_owned(), format!("generation {}", status.generation().unwrap_or_default().0)];
    } else if let Some(Generation(wanted)) = behind {
        let in_force = status.generation().map_or_else(|| "none".to_owned(), |g| g.0.to_string());
        said.push(format!("generation {wanted} is not in force yet; in force: {in_force}"));
    }
    said.extend(context.state.remarks(SystemTime::now()));
    (if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }, lines(&said))
}

/// Waits for the generation, the end of patience or the end of the server, whichever is first.
async fn wait_for(context: &Context, wanted: Generation) -> Status {
    let mut states = context.state.readiness.subscribe();
    tokio::select! {
        _ = states.wait_for(|s| s.is_ready_at(wanted)) => {}
        () = tokio::time::sleep(WAIT) => {}
        () = stopped(context.stopping.clone()) => {}
    }
    context.state.readiness.now()
}

fn wanted_generation(query: &str) -> Result<Option<Generation>, String> {
    let mut wanted = None;
    for pair in query.split('&').filter(|p| !p.is_empty()) {
        let number = pair.strip_prefix("generation=").ok_or_else(|| format!("{pair}: only generation=N is known\n"))?;
        let number = number.parse().map_err(|_| format!("generation={number}: N must be a whole number\n"))?;
        wanted = Some(Generation(number));
    }
    Ok(wanted)
}

fn lines(reasons: &[String]) -> String {
    reasons.iter().map(|r| format!("{r}\n")).collect()
}

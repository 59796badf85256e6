//! `/metrics`, `/healthz` and `/readyz` over HTTP.
//!
//! | path | 200 | 503 |
//! |---|---|---|
//! | `/metrics` | Prometheus text | |
//! | `/healthz` | the workers live and get on with their work | one line for each that does not |
//! | `/readyz` | the world is enforced; says the generation | one line for each reason |
//! | `/readyz?generation=N` | … and it is generation N or newer; waits up to 10 s for that | |
//!
//! A thread of its own with a runtime of its own: a scrape delays nothing else, and everything it reads of `/proc` and
//! of sockets is of the network namespace of the thread that called [`serve`].

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use axum::Router;
use axum::extract::{RawQuery, State as Shared};
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use podgate_engine::Generation;
use tokio::sync::watch;

use super::readiness::Status;
use super::state::State;

/// How long `/readyz?generation=N` waits.
const WAIT: Duration = Duration::from_secs(10);
/// How long a stop waits for answers that are under way.
const GRACE: Duration = Duration::from_secs(2);

/// Why there is no server.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// Somebody has the address.
    #[error("{0} is in use already: another agent, or something else; see `ss -ltnp`, end it or give another --http")]
    InUse(SocketAddr),
    /// The host does not have the address.
    #[error("{0} is no address of this host: give one that is with --http")]
    NotHere(SocketAddr),
    /// Anything else.
    #[error("cannot listen on {address}: {source}")]
    Listen {
        /// Where.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// No thread or no runtime.
    #[error("cannot start the HTTP thread: {0}")]
    Thread(io::Error),
}

/// A running server; dropping it stops it.
#[derive(Debug)]
pub(crate) struct Server {
    address: SocketAddr,
    stop: watch::Sender<bool>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    /// Where it listens (the port that was found, if 0 was asked for).
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Ends it: no new connection, answers under way are finished (at most two seconds), the address is free.
    pub(crate) fn stop(self) {
        drop(self);
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.send_replace(true);
        if let Some(thread) = self.thread.take() {
            // A panic in there has been told by the panic handler; there is nothing more to do about it.
            let _ = thread.join();
        }
    }
}

#[derive(Clone)]
struct Context {
    state: Arc<State>,
    stopping: watch::Receiver<bool>,
}

/// Listens on `address` in the network namespace of the calling thread.
pub(crate) fn serve(address: SocketAddr, state: Arc<State>) -> Result<Server, Error> {
    let listen = |source: io::Error| match source.kind() {
        io::ErrorKind::AddrInUse => Error::InUse(address),
        io::ErrorKind::AddrNotAvailable => Error::NotHere(address),
        _ => Error::Listen { address, source },
    };
    let listener = TcpListener::bind(address).map_err(listen)?;
    listener.set_nonblocking(true).map_err(listen)?;
    let address = listener.local_addr().map_err(listen)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(Error::Thread)?;
    let stop = watch::Sender::new(false);
    let context = Context { state, stopping: stop.subscribe() };
    let work = move || runtime.block_on(run(listener, context));
    let thread = std::thread::Builder::new().name("http".to_owned()).spawn(work).map_err(Error::Thread)?;
    Ok(Server { address, stop, thread: Some(thread) })
}

async fn run(listener: TcpListener, context: Context) {
    let listener = match tokio::net::TcpListener::from_std(listener) {
        Ok(listener) => listener,
        Err(error) => return tracing::error!(%error, "the HTTP server cannot listen and has ended"),
    };
    let stopping = context.stopping.clone();
    let router = Router::new()
        .route("/metrics", get(metrics))
        .route("/healthz", get(healthz))
        .route("/readyz", get(readyz))
        .fallback(|| async { (StatusCode::NOT_FOUND, "there are /metrics, /healthz and /readyz\n") })
        .with_state(context);
    let server = axum::serve(listener, router).with_graceful_shutdown(stopped(stopping.clone()));
    tokio::select! {
        _ = server.into_future() => {}
        () = async { stopped(stopping).await; tokio::time::sleep(GRACE).await } => {
            tracing::debug!("an HTTP client kept its connection open past the end");
        }
    }
}

async fn stopped(mut stopping: watch::Receiver<bool>) {
    // An error means that the handle is gone, which is a stop as well.
    let _ = stopping.wait_for(|stop| *stop).await;
}

async fn metrics(Shared(context): Shared<Context>) -> Response {
    match context.state.metrics() {
        Ok(text) => ([(CONTENT_TYPE, prometheus::TEXT_FORMAT)], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, format!("metrics cannot be told: {error}\n")).into_response(),
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
    match (status.is_ready(), behind) {
        (true, None) => (StatusCode::OK, ready_text(&status, &context.state)),
        (_, behind) => {
            let mut reasons = status.reasons();
            if let Some(Generation(wanted)) = behind {
                let in_force = status.generation().map_or_else(|| "none".to_owned(), |g| g.0.to_string());
                reasons.push(format!("generation {wanted} is not in force yet; in force: {in_force}"));
            }
            (StatusCode::SERVICE_UNAVAILABLE, lines(&reasons))
        }
    }
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

fn ready_text(status: &Status, state: &State) -> String {
    let mut text = format!("ready\ngeneration {}\n", status.generation().unwrap_or_default().0);
    let problems = state.source_problems.get();
    if problems > 0 {
        text += &format!("problems at the source: {problems}, see the log\n");
    }
    text
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

#[cfg(test)]
mod tests;

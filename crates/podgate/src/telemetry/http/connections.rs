//! Connections: how many there are at once, for how long, and HTTP/1.1 on each.
//!
//! A client may hold a connection and say nothing, and a pod can be such a client. So there is a bound: past it, the
//! oldest connection that waits for a request (or, where none does, the oldest) makes room for the new one, which
//! leaves whoever asks at once an answer. One that is silent for too long, or does not take its answer ([`Taken`]), is closed
//! anyway. File descriptors are
//! therefore taken by as many clients as the bound says, and the agent's own work always finds one.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use axum::Router;
use axum::http::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinSet};
use tokio_rustls::TlsAcceptor;

use super::answers::Context;
use super::stopped;
use super::taken::Taken;

/// How long a stop waits for answers that are under way.
const GRACE: Duration = Duration::from_secs(2);
/// The pause after a connection could not be accepted: what is missing (descriptors, memory) does not come at once.
const PAUSE: Duration = Duration::from_millis(200);
/// How often the same trouble is told.
const TELL: Duration = Duration::from_secs(60);

/// What clients may take up.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    /// Connections at once.
    pub(crate) connections: usize,
    /// How long a TLS handshake, the head of a request, and the taking of an answer may take, each counted from the moment
    /// when it can begin: this is how long a connection may be idle as well.
    pub(crate) patience: Duration,
}

/// Where connections come from.
pub(super) enum Listener {
    /// The network, with TLS or plain.
    Tcp(TcpListener, Option<TlsAcceptor>),
    /// The agent's own socket.
    Unix(UnixListener),
}

enum Client {
    Tcp(TcpStream, Option<TlsAcceptor>),
    Unix(UnixStream),
}

impl Listener {
    async fn accept(&self) -> io::Result<Client> {
        match self {
            Listener::Tcp(listener, tls) => Ok(Client::Tcp(listener.accept().await?.0, tls.clone())),
            Listener::Unix(listener) => Ok(Client::Unix(listener.accept().await?.0)),
        }
    }
}

/// An open connection, as the bound sees it.
struct Open {
    task: AbortHandle,
    /// Requests that are being answered.
    requests: Arc<AtomicUsize>,
}

/// Answers on a listener until the stop, and a moment beyond.
pub(super) async fn serve(listener: Listener, router: Router<Context>, limits: Limits, context: &Context) {
    let router = router.with_state(context.clone());
    let mut tasks = JoinSet::new();
    let mut open: VecDeque<Open> = VecDeque::new();
    let (mut crowded, mut refused) = (Told::default(), Told::default());
    loop {
        let accepted = tokio::select! {
            () = stopped(context.stopping.clone()) => break,
            Some(_) = tasks.join_next(), if !tasks.is_empty() => continue,
            accepted = listener.accept() => accepted,
        };
        let client = match accepted {
            Ok(client) => client,
            // The client has gone before it was met.
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => continue,
            Err(error) => {
                if refused.is_due() {
                    tracing::error!(%error, "connections to the HTTP server cannot be accepted");
                }
                make_room(&mut open, &mut tasks).await;
                tokio::time::sleep(PAUSE).await;
                continue;
            }
        };
        open.retain(|connection| !connection.task.is_finished());
        while tasks.len() >= limits.connections {
            if crowded.is_due() {
                let most = limits.connections;
                tracing::warn!(most, "too many connections to the HTTP server: the oldest idle ones are closed");
            }
            make_room(&mut open, &mut tasks).await;
        }
        let requests = Arc::new(AtomicUsize::new(0));
        let talk = meet(client, router.clone(), limits.patience, Arc::clone(&requests), context.stopping.clone());
        open.push_back(Open { task: tasks.spawn(talk), requests });
    }
    drop(listener);
    let ended = async { while tasks.join_next().await.is_some() {} };
    if tokio::time::timeout(GRACE, ended).await.is_err() {
        tracing::debug!("an HTTP client kept its connection open past the end");
    }
}

/// Closes the oldest connection that waits for a request, or else the oldest; comes back when one is closed.
async fn make_room(open: &mut VecDeque<Open>, tasks: &mut JoinSet<()>) {
    let idle = open.iter().position(|connection| connection.requests.load(Ordering::Relaxed) == 0);
    if let Some(connection) = open.remove(idle.unwrap_or(0)) {
        connection.task.abort();
    }
    tasks.join_next().await;
}

async fn meet(
    client: Client,
    router: Router,
    patience: Duration,
    requests: Arc<AtomicUsize>,
    stopping: watch::Receiver<bool>,
) {
    match client {
        Client::Unix(stream) => talk(stream, router, patience, requests, stopping).await,
        Client::Tcp(stream, None) => talk(stream, router, patience, requests, stopping).await,
        Client::Tcp(stream, Some(tls)) => {
            let shaken = tokio::select! {
                shaken = tokio::time::timeout(patience, tls.accept(stream)) => shaken,
                () = stopped(stopping.clone()) => return,
            };
            match shaken {
                Ok(Ok(stream)) => talk(stream, router, patience, requests, stopping).await,
                Ok(Err(error)) => tracing::debug!(%error, "no TLS handshake"),
                Err(_) => tracing::debug!("a TLS handshake took too long"),
            }
        }
    }
}

/// HTTP/1.1 on one connection until either end has enough of it.
async fn talk<S>(
    stream: S,
    router: Router,
    patience: Duration,
    requests: Arc<AtomicUsize>,
    stopping: watch::Receiver<bool>,
) where
    S: AsyncRead + AsyncWrite + Unpin + 'static,
{
    let router = TowerToHyperService::new(router);
    let service = service_fn(|request: Request<Incoming>| {
        let busy = Busy::new(&requests);
        let answer = router.call(request);
        async move {
            let _busy = busy;
            answer.await
        }
    });
    // The time for a head begins when the connection does, and again after each answer.
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(patience);
    let mut connection = std::pin::pin!(http.serve_connection(TokioIo::new(Taken::within(patience, stream)), service));
    let result = tokio::select! {
        result = connection.as_mut() => result,
        () = stopped(stopping) => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = result {
        tracing::debug!(%error, "an HTTP connection has ended");
    }
}

/// A request that is being answered, counted as long as this lives.
struct Busy(Arc<AtomicUsize>);

impl Busy {
    fn new(requests: &Arc<AtomicUsize>) -> Self {
        requests.fetch_add(1, Ordering::Relaxed);
        Busy(Arc::clone(requests))
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// When a trouble was last told.
#[derive(Default)]
struct Told(Option<Instant>);

impl Told {
    /// Whether it is to be told now; counts as told then.
    fn is_due(&mut self) -> bool {
        let due = self.0.is_none_or(|last| last.elapsed() >= TELL);
        if due {
            self.0 = Some(Instant::now());
        }
        due
    }
}

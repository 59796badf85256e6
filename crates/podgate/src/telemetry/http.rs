//! `/metrics`, `/healthz` and `/readyz` over HTTP, and the same with `/status` on a unix socket.
//!
//! | path | 200 | 503 |
//! |---|---|---|
//! | `/metrics` | Prometheus text | |
//! | `/healthz` | the workers live and get on with their work | one line for each that does not |
//! | `/readyz` | the world is enforced; says the generation, and what is odd about it | one line for each reason |
//! | `/readyz?generation=N` | … and it is generation N or newer; waits up to 10 s for that | |
//! | `/status` | what `podgate status` tells, as JSON; on the socket only | the agent is not put together yet |
//!
//! The address is shared (`SO_REUSEPORT`), so that the two agents of an upgrade can be on one node: whoever asks it gets
//! one of them. The socket is each agent's own ([`socket`]), so what must be asked of one process is asked there. The
//! address may have TLS ([`tls`]) and want a token for `/metrics` ([`token`]); probes are open to all.
//!
//! Who asks over the network may be a pod: the connections at once are bounded, and so is their time ([`connections`]), and
//! what the metrics take that they ask for ([`scrapes`]).
//!
//! A thread of its own with a runtime of its own, and another one for what takes its time: a scrape delays nothing else, and
//! everything it reads of `/proc` and of sockets is of the network namespace of the thread that called [`serve`].

mod answers;
mod connections;
mod listen;
mod scrapes;
pub(crate) mod socket;
mod taken;
#[cfg(test)]
mod tests;
mod tls;
mod token;

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::sync::watch;
use tokio_rustls::{TlsAcceptor, rustls};

use self::answers::Context;
use self::connections::{Limits, Listener};
use self::scrapes::Scrapes;
use self::socket::Socket;
use self::tls::Certificate;
use self::token::Token;
use super::readiness::Status;
use super::state::State;

/// How long a client may take for a handshake, for a request, and for taking its answer, and be silent between two requests.
const PATIENCE: Duration = Duration::from_secs(10);
/// How often it is looked whether an agent that has the socket's path is still there.
const LOOK: Duration = Duration::from_secs(1);

/// Where and how to serve.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    /// The address; None: not over TCP.
    pub(crate) address: Option<SocketAddr>,
    /// With TLS: the certificate.
    pub(crate) tls: Option<CertificateFiles>,
    /// The file of the token that `/metrics` wants.
    pub(crate) token: Option<PathBuf>,
    /// The unix socket; None: none.
    pub(crate) socket: Option<PathBuf>,
    /// What those who ask over TCP may take up.
    pub(crate) tcp: Limits,
    /// What those who ask at the socket may take up.
    pub(crate) unix: Limits,
}

impl Default for Settings {
    fn default() -> Self {
        let limits = |connections| Limits { connections, patience: PATIENCE };
        Settings { address: None, tls: None, token: None, socket: None, tcp: limits(64), unix: limits(16) }
    }
}

/// A certificate's files, in PEM.
#[derive(Debug, Clone)]
pub(crate) struct CertificateFiles {
    /// The certificate, and those between it and its authority.
    pub(crate) chain: PathBuf,
    /// Its private key.
    pub(crate) key: PathBuf,
}

/// Why there is no server.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// Somebody has the address.
    #[error("{0} is in use by something that is no podgate agent: see `ss -ltnp`, end it or give another --http")]
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
    /// The certificate cannot be used.
    #[error("{0}")]
    Certificate(#[from] tls::Error),
    /// The token cannot be used.
    #[error("{0}")]
    Token(#[from] token::Error),
    /// The cryptography library refuses its own defaults.
    #[error("cannot set TLS up: {0}")]
    Tls(#[from] rustls::Error),
    /// No thread or no runtime.
    #[error("cannot start the HTTP thread: {0}")]
    Thread(io::Error),
}

/// A running server; dropping it stops it.
#[derive(Debug)]
pub(crate) struct Server {
    address: Option<SocketAddr>,
    stop: watch::Sender<bool>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    /// Where it listens (the port that was found, if 0 was asked for); None if not over TCP.
    pub(crate) fn address(&self) -> Option<SocketAddr> {
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

/// What is listened on, before there is a runtime.
struct Listening {
    tcp: Option<std::net::TcpListener>,
    tls: Option<Arc<rustls::ServerConfig>>,
    socket: Option<(Socket, std::os::unix::net::UnixListener)>,
    limits: [Limits; 2],
}

/// Listens in the network namespace of the calling thread. A socket that cannot be made is told in the log and no
/// failure: an agent that enforces is worth more than one that can be asked.
pub(crate) fn serve(settings: &Settings, state: Arc<State>) -> Result<Server, Error> {
    let token = settings.token.clone().map(Token::read).transpose()?;
    let tls = settings.tls.clone().map(Certificate::load).transpose()?.map(tls::config).transpose()?;
    let tcp = settings.address.map(listen::tcp).transpose()?;
    let address = tcp.as_ref().and_then(|listener| listener.local_addr().ok());
    let socket = settings.socket.as_deref().and_then(|path| {
        let refused = |error: &socket::Error| tracing::error!("{error}; `podgate status` will find no agent here");
        Socket::bind(path).inspect_err(refused).ok()
    });
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(Error::Thread)?;
    let stop = watch::Sender::new(false);
    let (stopping, scrapes) = (stop.subscribe(), Scrapes::default());
    let context = Context { state, stopping, scrapes, token: token.map(Arc::new) };
    let limits = [settings.tcp, settings.unix];
    let work = move || runtime.block_on(run(Listening { tcp, tls, socket, limits }, context));
    let thread = std::thread::Builder::new().name("http".to_owned()).spawn(work).map_err(Error::Thread)?;
    Ok(Server { address, stop, thread: Some(thread) })
}

async fn run(listening: Listening, context: Context) {
    let Listening { tcp, tls, socket, limits: [network, own] } = listening;
    let tcp = async {
        let Some(listener) = tcp else { return };
        match tokio::net::TcpListener::from_std(listener) {
            Err(error) => tracing::error!(%error, "the HTTP server cannot listen and has ended"),
            Ok(listener) => {
                let listener = Listener::Tcp(listener, tls.map(TlsAcceptor::from));
                connections::serve(listener, answers::open(), network, &context).await;
            }
        }
    };
    let unix = async {
        let Some((mut socket, listener)) = socket else { return };
        match tokio::net::UnixListener::from_std(listener) {
            Err(error) => tracing::error!(%error, "the status socket cannot be listened on"),
            Ok(listener) => {
                let served = connections::serve(Listener::Unix(listener), answers::own(), own, &context);
                tokio::join!(served, claim_when_ready(&mut socket, &context)).0
            }
        }
    };
    tokio::join!(tcp, unix);
}

/// Takes the socket's path over from another agent as soon as this one is ready: until then, that one is the one to ask.
/// Should it end before, nobody tells, so it is looked for in between.
async fn claim_when_ready(socket: &mut Socket, context: &Context) {
    let mut states = context.state.readiness.subscribe();
    while socket.waits() {
        tokio::select! {
            _ = states.wait_for(Status::is_ready) => break,
            () = tokio::time::sleep(LOOK) => {}
            () = stopped(context.stopping.clone()) => return,
        }
    }
    if let Err(error) = socket.claim() {
        tracing::error!("{error}; `podgate status` will find no agent here");
    }
}

async fn stopped(mut stopping: watch::Receiver<bool>) {
    // An error means that the handle is gone, which is a stop as well.
    let _ = stopping.wait_for(|stop| *stop).await;
}

//! How the API server is reached: address, credentials, TLS, TCP. What is asked of it stands in `request`.

use std::path::PathBuf;
use std::time::Duration;

use hyper_util::client::legacy::Client as HttpClient;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use kube::client::{Body, ClientBuilder, ConfigExt};
use kube::config::{KubeConfigOptions, Kubeconfig, KubeconfigError};
use kube::{Client, Config};
use secrecy::ExposeSecret;
use tokio::sync::Mutex;
use tokio::time::Instant;
use tower::{BoxError, ServiceBuilder};

use super::{Access, Error, Timing};

/// A connection that nobody answers on any more is given up after this long without a packet, and three probes.
const KEEPALIVE: Duration = Duration::from_secs(10);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(5);
const KEEPALIVE_PROBES: u32 = 3;
/// Connections kept for the next page of a list.
const POOL_IDLE: Duration = Duration::from_secs(10);

/// The way to the API server, made anew from its files when it fails: credentials rotate, and servers are replaced.
#[derive(Debug)]
pub(super) struct Connection {
    access: Access,
    timing: Timing,
    current: Mutex<Current>,
}

struct Current {
    client: Client,
    number: u64,
    made: Instant,
}

impl std::fmt::Debug for Current {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Current").field("number", &self.number).finish_non_exhaustive()
    }
}

impl Connection {
    /// # Errors
    /// The configuration can't be read, or can't be used.
    pub(super) async fn new(access: Access, timing: Timing) -> Result<Self, Error> {
        let client = make(access.clone(), timing.clone()).await?;
        let current = Mutex::new(Current { client, number: 0, made: Instant::now() });
        Ok(Self { access, timing, current })
    }

    pub(super) fn timing(&self) -> &Timing {
        &self.timing
    }

    /// The client to use now, and its number.
    pub(super) async fn client(&self) -> (Client, u64) {
        let current = self.current.lock().await;
        (current.client.clone(), current.number)
    }

    /// A client of this number failed: reads the configuration anew, unless that was just done.
    pub(super) async fn renew(&self, number: u64) {
        let mut current = self.current.lock().await;
        if current.number != number || current.made.elapsed() < self.timing.renew {
            return;
        }
        match make(self.access.clone(), self.timing.clone()).await {
            Ok(client) => *current = Current { client, number: number + 1, made: Instant::now() },
            Err(error) => {
                tracing::debug!(%error, "the way to the API server could not be read anew; the last one is kept");
                current.made = Instant::now();
            }
        }
    }
}

/// Credential plugins may run commands: on a thread of its own.
async fn make(access: Access, timing: Timing) -> Result<Client, Error> {
    let runtime = tokio::runtime::Handle::current();
    match tokio::task::spawn_blocking(move || runtime.block_on(client(access, &timing))).await {
        Ok(made) => made,
        Err(error) => Err(Error::Stopped(error.to_string())),
    }
}

/// What tells a cluster from others, without asking it: the API server's address and a checksum of its certificate
/// authorities.
///
/// # Errors
/// The configuration can't be read, or can't be used.
pub async fn identity(access: &Access) -> Result<String, Error> {
    let config = config(access.clone()).await?;
    let mut authorities = crc32fast::Hasher::new();
    config.root_cert.iter().flatten().for_each(|certificate| authorities.update(certificate));
    Ok(format!("{} {:08x}", config.cluster_url, authorities.finalize()))
}

async fn config(access: Access) -> Result<Config, Error> {
    match access {
        Access::InCluster => Config::incluster().map_err(|error| Error::InCluster(chain(&error))),
        Access::Kubeconfig { file, context } => kubeconfig(file, context).await,
    }
}

async fn client(access: Access, timing: &Timing) -> Result<Client, Error> {
    let mut config = config(access).await?;
    check_credentials(&config)?;
    // Failures are seen, told and waited out where they are understood: not hidden below.
    config.default_retry = false;
    config.connect_timeout = Some(timing.connect);
    config.read_timeout = None;
    let unusable = |error: kube::Error| Error::Unusable(chain(&error));
    if config.proxy_url.is_some() {
        return Ok(ClientBuilder::try_from(config).map_err(unusable)?.build());
    }
    let mut connector = HttpConnector::new();
    connector.enforce_http(false);
    connector.set_connect_timeout(Some(timing.connect));
    connector.set_nodelay(true);
    connector.set_keepalive(Some(KEEPALIVE));
    connector.set_keepalive_interval(Some(KEEPALIVE_INTERVAL));
    connector.set_keepalive_retries(Some(KEEPALIVE_PROBES));
    let connector = config.rustls_https_connector_with_connector(connector).map_err(unusable)?;
    let http: HttpClient<_, Body> = HttpClient::builder(TokioExecutor::new())
        .pool_timer(TokioTimer::new())
        .pool_idle_timeout(POOL_IDLE)
        .build(connector);
    let service = ServiceBuilder::new()
        .layer(config.base_uri_layer())
        .option_layer(config.auth_layer().map_err(unusable)?)
        .layer(config.extra_headers_layer().map_err(unusable)?)
        .map_err(BoxError::from)
        .service(http);
    Ok(Client::new(service, config.default_namespace))
}

async fn kubeconfig(file: Option<PathBuf>, context: Option<String>) -> Result<Config, Error> {
    let options = KubeConfigOptions { context, ..KubeConfigOptions::default() };
    let named = match &file {
        Some(file) => file.display().to_string(),
        None => "from $KUBECONFIG or ~/.kube/config".to_owned(),
    };
    let read = match file {
        Some(file) => match Kubeconfig::read_from(file) {
            Ok(kubeconfig) => Config::from_custom_kubeconfig(kubeconfig, &options).await,
            Err(error) => Err(error),
        },
        None => Config::from_kubeconfig(&options).await,
    };
    read.map_err(|error| Error::Kubeconfig { named, why: told(&error) })
}

/// An error of a kubeconfig, without the text around a mistake: that may be a token.
fn told(error: &KubeconfigError) -> String {
    match error {
        KubeconfigError::Parse(error) => match error.location() {
            Some(place) => format!("it is no valid kubeconfig, at line {} column {}", place.line(), place.column()),
            None => "it is no valid kubeconfig".to_owned(),
        },
        other => chain(other),
    }
}

/// Credentials go into a header of HTTP; one that does not fit would end the process deep inside of a library.
fn check_credentials(config: &Config) -> Result<(), Error> {
    let user = &config.auth_info;
    let token = user.token.as_ref().map(|token| ("token", token.expose_secret().as_bytes()));
    let name = user.username.as_ref().map(|name| ("username", name.as_bytes()));
    let password = user.password.as_ref().map(|password| ("password", password.expose_secret().as_bytes()));
    for (what, value) in [token, name, password].into_iter().flatten() {
        if value.iter().any(|byte| !(b' '..=b'~').contains(byte)) {
            let why = format!("the {what} has a line break or another character that no header of HTTP may have");
            return Err(Error::Unusable(why));
        }
    }
    Ok(())
}

/// An error with its causes, each once.
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        next = cause.source();
    }
    text
}

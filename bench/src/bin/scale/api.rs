//! Plain requests to the API server, and a watch that tells when each event of it came.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use http::{Method, Request};
use http_body_util::BodyExt;
use hyper_util::client::legacy::Client as HttpClient;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use kube::client::{Body, ConfigExt};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use serde_json::Value;
use tokio::sync::mpsc;
use tower::{BoxError, ServiceBuilder};

const PATIENCE: Duration = Duration::from_secs(30);
const MERGE: &str = "application/merge-patch+json";

/// The API server, by as many connections as there are requests at once.
#[derive(Clone)]
pub(crate) struct Api(Client);

impl Api {
    pub(crate) async fn new(kubeconfig: &Path) -> Result<Self> {
        let read = Kubeconfig::read_from(kubeconfig).with_context(|| kubeconfig.display().to_string())?;
        let config = Config::from_custom_kubeconfig(read, &KubeConfigOptions::default()).await?;
        let mut connector = HttpConnector::new();
        connector.enforce_http(false);
        // A request must not wait for the acknowledgement of another's last segment.
        connector.set_nodelay(true);
        let connector = config.rustls_https_connector_with_connector(connector)?;
        let http: HttpClient<_, Body> =
            HttpClient::builder(TokioExecutor::new()).pool_timer(TokioTimer::new()).build(connector);
        let service = ServiceBuilder::new()
            .layer(config.base_uri_layer())
            .option_layer(config.auth_layer()?)
            .map_err(BoxError::from)
            .service(http);
        Ok(Api(Client::new(service, config.default_namespace)))
    }

    /// Creates an object; one that is there already is left as it is.
    pub(crate) async fn create(&self, path: &str, object: &Value) -> Result<()> {
        self.send(Method::POST, path, "application/json", Some(object), &[409]).await
    }

    /// Changes an object by a merge patch.
    pub(crate) async fn patch(&self, path: &str, change: &Value) -> Result<()> {
        self.send(Method::PATCH, path, MERGE, Some(change), &[]).await
    }

    /// Deletes an object at once; one that is not there is no error.
    pub(crate) async fn delete(&self, path: &str) -> Result<()> {
        self.send(Method::DELETE, &format!("{path}?gracePeriodSeconds=0"), "application/json", None, &[404]).await
    }

    async fn send(&self, method: Method, path: &str, form: &str, body: Option<&Value>, fine: &[u16]) -> Result<()> {
        let text = body.map(Value::to_string).unwrap_or_default();
        let request = Request::builder().method(method.clone()).uri(path).header("content-type", form);
        let answer = tokio::time::timeout(PATIENCE, self.0.send(request.body(Body::from(text.into_bytes()))?));
        let answer = answer.await.with_context(|| format!("{method} {path}"))??;
        let status = answer.status();
        // To the end: else the connection is of no further use.
        let said = answer.into_body().collect().await?.to_bytes();
        if !status.is_success() && !fine.contains(&status.as_u16()) {
            bail!("{method} {path}: {status}: {}", String::from_utf8_lossy(&said));
        }
        Ok(())
    }

    /// When each event of a watch comes; those for what is there already come first.
    pub(crate) async fn arrivals(&self, path: &str) -> Result<mpsc::UnboundedReceiver<Instant>> {
        let path = format!("{path}?watch=true&resourceVersion=0");
        let answer = self.0.send(Request::get(&path).body(Body::empty())?).await?;
        let status = answer.status();
        if !status.is_success() {
            bail!("{path}: {status}");
        }
        let (sender, arrivals) = mpsc::unbounded_channel();
        let mut body = answer.into_body();
        tokio::spawn(async move {
            while let Some(Ok(frame)) = body.frame().await {
                let now = Instant::now();
                let lines = frame.data_ref().map_or(0, |data| data.iter().filter(|&&byte| byte == b'\n').count());
                if (0..lines).any(|_| sender.send(now).is_err()) {
                    return;
                }
            }
        });
        Ok(arrivals)
    }
}

//! An API server in this process, as far as the source can tell: real HTTP on a real socket, its world and its faults
//! under the test's control.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// The server; it is gone, with all its connections, when this is dropped.
pub(super) struct Server {
    pub(super) address: SocketAddr,
    state: Arc<Mutex<State>>,
    changed: watch::Sender<u64>,
    listener: JoinHandle<()>,
}

/// What the server knows and does.
pub(super) struct State {
    /// The version of the last change.
    pub(super) version: u64,
    /// What tells this cluster from others.
    pub(super) uid: String,
    pub(super) resources: BTreeMap<&'static str, Resource>,
    /// Answers given once, instead of the proper one, to the first request that contains the text.
    answers: Vec<(String, String)>,
    /// Every request: path, query.
    pub(super) requests: Vec<String>,
    /// The bearer token of the last request.
    pub(super) token: String,
    /// The only token that is accepted, if there is one.
    pub(super) needed_token: Option<String>,
    /// Versions before this are forgotten.
    pub(super) oldest: u64,
    /// Whether lists can be streamed.
    pub(super) streams: bool,
    /// What to do to the watches that are open, and how often something was done.
    fault: (u64, Fault),
    /// Bytes of lines without end that were sent.
    pub(super) endless: usize,
}

/// What can be done to open watches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    /// They end.
    End,
    /// The connection breaks in the middle of a line.
    Break,
    /// Nothing comes any more, and nothing says so.
    Silence,
    /// A line comes that does not end, until the client hangs up or so many bytes were sent.
    Endless(usize),
}

#[derive(Default)]
pub(super) struct Resource {
    pub(super) kind: &'static str,
    pub(super) objects: BTreeMap<String, Value>,
    pub(super) log: Vec<(u64, &'static str, Value)>,
    pub(super) forbidden: bool,
    /// Watches open now, and the most there ever were.
    pub(super) watches: usize,
    pub(super) most_watches: usize,
}

pub(super) const PODS: &str = "/api/v1/pods";
pub(super) const NAMESPACES: &str = "/api/v1/namespaces";
pub(super) const NODES: &str = "/api/v1/nodes";
pub(super) const POLICIES: &str = "/apis/networking.k8s.io/v1/networkpolicies";
pub(super) const DEFINITIONS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
pub(super) const ADMIN: &str = "/apis/policy.networking.k8s.io/v1alpha1/adminnetworkpolicies";

impl Server {
    pub(super) async fn new() -> Self {
        Self::at("127.0.0.1:0".parse().unwrap(), "one").await
    }

    /// A server at an address that may have been another's before, with a world of its own.
    pub(super) async fn at(address: SocketAddr, uid: &str) -> Self {
        let listener = TcpListener::bind(address).await.unwrap();
        let kinds = [
            (PODS, "PodList"),
            (NAMESPACES, "NamespaceList"),
            (NODES, "NodeList"),
            (POLICIES, "NetworkPolicyList"),
            (DEFINITIONS, "CustomResourceDefinitionList"),
        ];
        let state = State {
            version: 100,
            uid: uid.to_owned(),
            resources: kinds.into_iter().map(|(path, kind)| (path, Resource { kind, ..Resource::default() })).collect(),
            answers: Vec::new(),
            requests: Vec::new(),
            token: String::new(),
            needed_token: None,
            oldest: 0,
            streams: false,
            fault: (0, Fault::End),
            endless: 0,
        };
        let address = listener.local_addr().unwrap();
        let (state, changed) = (Arc::new(Mutex::new(state)), watch::channel(0).0);
        let (shared, changes) = (Arc::clone(&state), changed.clone());
        let listener = tokio::spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                connections.spawn(serve(stream, Arc::clone(&shared), changes.clone()));
            }
        });
        Self { address, state, changed, listener }
    }

    /// Ends the server, so that another one can have its address.
    pub(super) async fn stop(mut self) -> SocketAddr {
        self.listener.abort();
        let _ = (&mut self.listener).await;
        self.address
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    fn tell(&self) {
        self.changed.send_modify(|count| *count += 1);
    }

    /// Adds or replaces an object.
    pub(super) fn put(&self, path: &'static str, object: Value) {
        self.state().put(path, object);
        self.tell();
    }

    pub(super) fn delete(&self, path: &'static str, key: &str) {
        let mut state = self.state();
        state.version += 1;
        let version = state.version;
        let resource = state.resources.get_mut(path).unwrap();
        let mut object = resource.objects.remove(key).unwrap();
        object["metadata"]["resourceVersion"] = json!(version.to_string());
        resource.log.push((version, "DELETED", object));
        drop(state);
        self.tell();
    }

    /// Sends a watch event of this type.
    pub(super) fn event(&self, path: &'static str, what: &'static str, object: Value) {
        let mut state = self.state();
        state.version += 1;
        let version = state.version;
        state.resources.get_mut(path).unwrap().log.push((version, what, object));
        drop(state);
        self.tell();
    }

    /// Answers the next request that contains `text` with this, headers and all.
    pub(super) fn answer(&self, text: &str, answer: &str) {
        self.state().answers.push((text.to_owned(), answer.to_owned()));
    }

    /// Does this to the watches that are open now.
    pub(super) fn fault(&self, fault: Fault) {
        let mut state = self.state();
        state.fault = (state.fault.0 + 1, fault);
        drop(state);
        self.tell();
    }

    /// Waits until this holds.
    pub(super) async fn until(&self, what: &str, holds: impl Fn(&State) -> bool) {
        let mut changes = self.changed.subscribe();
        let wait = async {
            while !holds(&self.state()) {
                changes.changed().await.unwrap();
            }
        };
        tokio::time::timeout(super::TOO_LONG, wait).await.unwrap_or_else(|_| panic!("waiting for {what}"));
    }

    pub(super) async fn until_watched(&self, path: &str) {
        self.until(path, |state| state.resources[path].watches == 1).await;
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.listener.abort();
    }
}

impl State {
    pub(super) fn put(&mut self, path: &'static str, mut object: Value) {
        self.version += 1;
        let version = self.version;
        let name = object["metadata"]["name"].as_str().unwrap();
        let key = match object["metadata"]["namespace"].as_str() {
            Some(namespace) => format!("{namespace}/{name}"),
            None => name.to_owned(),
        };
        object["metadata"]["resourceVersion"] = json!(version.to_string());
        let resource = self.resources.get_mut(path).unwrap();
        let what = if resource.objects.contains_key(&key) { "MODIFIED" } else { "ADDED" };
        resource.objects.insert(key, object.clone());
        resource.log.push((version, what, object));
    }

    /// How often a request with this text came.
    pub(super) fn count(&self, text: &str) -> usize {
        self.requests.iter().filter(|request| request.contains(text)).count()
    }

    fn list(&self, path: &str, query: &BTreeMap<String, String>) -> Result<Value, String> {
        if let Some(name) = query.get("fieldSelector") {
            assert_eq!(name, "metadata.name%3Dkube-system");
            return Ok(json!({"metadata": {}, "items": [{"metadata": {"uid": self.uid}}]}));
        }
        let resource = &self.resources[path];
        let (version, from) = match query.get("continue") {
            Some(token) => {
                let (version, from) = token.split_once('.').unwrap();
                (version.parse().unwrap(), from.parse().unwrap())
            }
            None => (self.version, 0),
        };
        if version < self.oldest {
            return Err(status(410, "Expired", "The provided continue parameter is too old"));
        }
        let limit: usize = query.get("limit").map_or(usize::MAX, |limit| limit.parse().unwrap());
        // As in a real one, items of a list have neither apiVersion nor kind.
        let items: Vec<_> = resource.objects.values().skip(from).take(limit).cloned().collect();
        let mut metadata = json!({"resourceVersion": version.to_string()});
        if from + items.len() < resource.objects.len() {
            metadata["continue"] = json!(format!("{version}.{}", from + items.len()));
        }
        Ok(json!({"kind": resource.kind, "apiVersion": "v1", "metadata": metadata, "items": items}))
    }
}

/// A whole answer.
pub(super) fn http(code: u16, headers: &str, body: &str) -> String {
    format!(
        "HTTP/1.1 {code} X\r\nContent-Type: application/json\r\n{headers}Content-Length: {}\r\n\r\n{body}",
        body.len()
    )
}

pub(super) fn status(code: u16, reason: &str, message: &str) -> String {
    let status = json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
        "message": message, "reason": reason, "code": code});
    http(code, "", &status.to_string())
}

async fn serve(mut stream: TcpStream, state: Arc<Mutex<State>>, changed: watch::Sender<u64>) {
    let mut buffer = Vec::new();
    loop {
        let end = loop {
            if let Some(end) = buffer.windows(4).position(|four| four == b"\r\n\r\n") {
                break end + 4;
            }
            match stream.read_buf(&mut buffer).await {
                Ok(0) | Err(_) => return,
                Ok(_) => {}
            }
        };
        let head = String::from_utf8(buffer.drain(..end).collect()).unwrap();
        let target = head.split(' ').nth(1).unwrap().to_owned();
        let token = head.lines().find_map(|line| line.strip_prefix("authorization: Bearer ")).unwrap_or("").to_owned();
        let (path, query) = target.split_once('?').unwrap_or((&target, ""));
        let query: BTreeMap<String, String> =
            query.split('&').filter_map(|pair| pair.split_once('=')).map(|(k, v)| (k.into(), v.into())).collect();
        let answer = {
            let mut state = state.lock().unwrap();
            state.requests.push(target.clone());
            state.token.clone_from(&token);
            let scripted = state.answers.iter().position(|(text, _)| target.contains(text.as_str()));
            match scripted {
                Some(at) => Some(state.answers.remove(at).1),
                None => proper(&state, path, &query, &token),
            }
        };
        changed.send_modify(|count| *count += 1);
        match answer {
            Some(answer) => {
                if stream.write_all(answer.as_bytes()).await.is_err() {
                    return;
                }
            }
            None => {
                let watching = |by: isize| {
                    let mut state = state.lock().unwrap();
                    if let Some(resource) = state.resources.get_mut(path) {
                        resource.watches = resource.watches.checked_add_signed(by).unwrap();
                        resource.most_watches = resource.most_watches.max(resource.watches);
                    }
                    drop(state);
                    changed.send_modify(|count| *count += 1);
                };
                watching(1);
                let _ = watch_on(&mut stream, path, &query, &state, changed.subscribe()).await;
                watching(-1);
                return;
            }
        }
    }
}

/// The answer to a request; none to a watch that can begin.
fn proper(state: &State, path: &str, query: &BTreeMap<String, String>, token: &str) -> Option<String> {
    if state.needed_token.as_deref().is_some_and(|needed| needed != token) {
        return Some(status(401, "Unauthorized", "Unauthorized"));
    }
    if path == "/apis" {
        let versions: BTreeSet<&str> = (state.resources.keys())
            .filter_map(|path| path.strip_prefix("/apis/policy.networking.k8s.io/")?.split('/').next())
            .collect();
        let versions: Vec<_> = (versions.iter())
            .map(|version| json!({"groupVersion": format!("policy.networking.k8s.io/{version}")}))
            .collect();
        let groups = match versions.is_empty() {
            true => json!([]),
            false => json!([{"name": "policy.networking.k8s.io", "versions": versions}]),
        };
        return Some(http(200, "", &json!({"kind": "APIGroupList", "groups": groups}).to_string()));
    }
    if let Some(group) = path.strip_prefix("/apis/policy.networking.k8s.io/").filter(|rest| !rest.contains('/')) {
        let served: Vec<_> = (state.resources.keys().filter(|path| path.contains(&format!(".io/{group}/"))))
            .map(|path| json!({"name": path.rsplit('/').next()}))
            .collect();
        return Some(match served.is_empty() {
            true => http(404, "", "404 page not found\n"),
            false => http(200, "", &json!({"kind": "APIResourceList", "resources": served}).to_string()),
        });
    }
    let Some(resource) = state.resources.get(path) else { return Some(http(404, "", "404 page not found\n")) };
    if resource.forbidden {
        return Some(status(403, "Forbidden", "User \"x\" cannot list resource"));
    }
    if !query.contains_key("watch") {
        return Some(state.list(path, query).map_or_else(|error| error, |list| http(200, "", &list.to_string())));
    }
    if query.contains_key("sendInitialEvents") && !state.streams {
        return Some(status(422, "Invalid", "sendInitialEvents is forbidden for watch"));
    }
    None
}

async fn watch_on(
    stream: &mut TcpStream,
    path: &str,
    query: &BTreeMap<String, String>,
    state: &Arc<Mutex<State>>,
    mut changes: watch::Receiver<u64>,
) -> std::io::Result<()> {
    stream
        .write_all(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n")
        .await?;
    let faults = state.lock().unwrap().fault.0;
    let mut first = String::new();
    let mut version: u64 = query["resourceVersion"].parse().unwrap_or(0);
    {
        let state = state.lock().unwrap();
        if query.contains_key("sendInitialEvents") {
            version = state.version;
            for object in state.resources[path].objects.values() {
                first += &line("ADDED", object);
            }
            first += &line(
                "BOOKMARK",
                &json!({"metadata": {"resourceVersion": version.to_string(),
                "annotations": {"k8s.io/initial-events-end": "true"}}}),
            );
        } else if version < state.oldest {
            first += &line("ERROR", &json!({"kind": "Status", "code": 410, "reason": "Expired", "message": "too old"}));
        }
    }
    if !first.is_empty() {
        chunk(stream, &first).await?;
    }
    loop {
        let (text, fault) = {
            let state = state.lock().unwrap();
            let mut text = String::new();
            let Some(resource) = state.resources.get(path) else { return Ok(()) };
            for (at, what, object) in resource.log.iter().filter(|(at, ..)| *at > version) {
                text += &line(what, object);
                let _ = at;
            }
            version = version.max(state.version);
            (text, (state.fault.0 != faults).then_some(state.fault.1))
        };
        match fault {
            None if text.is_empty() => {}
            None => chunk(stream, &text).await?,
            Some(Fault::End) => {
                stream.write_all(b"0\r\n\r\n").await?;
                return Ok(());
            }
            Some(Fault::Break) => {
                let text = line("ADDED", &json!({"metadata": {"name": "half"}}));
                let half = &text[..text.len() / 2];
                stream.write_all(format!("{:x}\r\n{half}", text.len()).as_bytes()).await?;
                return Ok(());
            }
            Some(Fault::Endless(most)) => {
                chunk(stream, &line("ADDED", &json!({"metadata": {"name": "endless"}})).replace("}}}\n", "")).await?;
                let piece = "x".repeat(64 * 1024);
                for _ in 0..most / piece.len() {
                    chunk(stream, &piece).await?;
                    state.lock().unwrap().endless += piece.len();
                }
                return Ok(());
            }
            Some(Fault::Silence) => {
                // Until the client gives up.
                while stream.read(&mut [0; 64]).await? > 0 {}
                return Ok(());
            }
        }
        let mut byte = [0];
        tokio::select! {
            changed = changes.changed() => if changed.is_err() { return Ok(()) },
            read = stream.read(&mut byte) => if read? == 0 { return Ok(()) },
        }
    }
}

fn line(what: &str, object: &Value) -> String {
    // The type stands first, as Go writes it.
    format!("{{\"type\":\"{what}\",\"object\":{object}}}\n")
}

async fn chunk(stream: &mut TcpStream, text: &str) -> std::io::Result<()> {
    stream.write_all(format!("{:x}\r\n{text}\r\n", text.len()).as_bytes()).await
}

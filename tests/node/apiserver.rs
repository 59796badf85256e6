//! As much of an API server as an agent needs to follow a cluster: lists and watches of what a test puts there. It answers
//! in the node's namespace, at the address of [`kit::API`](crate::kit::API). What a real one does is shown in tests/cluster,
//! and a bad one in crates/watch.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread::JoinHandle;

use podgate_sandbox::{Host, Netns, Pod};
use serde_json::{Value, json};

use crate::kit::{API, Node};

pub(crate) const NAMESPACES: &str = "/api/v1/namespaces";
pub(crate) const NODES: &str = "/api/v1/nodes";
pub(crate) const PODS: &str = "/api/v1/pods";
pub(crate) const POLICIES: &str = "/apis/networking.k8s.io/v1/networkpolicies";
const DEFINITIONS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";

/// The server; ends when dropped.
pub(crate) struct ApiServer {
    netns: Netns,
    shared: Arc<Shared>,
    listener: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    world: Mutex<World>,
    changed: Condvar,
}

#[derive(Default)]
struct World {
    over: bool,
    version: u64,
    /// By path and name.
    objects: BTreeMap<(&'static str, String), Value>,
    events: Vec<(u64, &'static str, Value)>,
    /// Watches of this path say one line that does not end.
    endless: Option<&'static str>,
    /// How many did, and the bytes sent in them.
    endless_lines: usize,
    endless_bytes: usize,
}

/// Where a line without end does end, so that no machine suffers from a client that reads it all.
const MOST_ENDLESS: usize = 1 << 30;

impl ApiServer {
    pub(crate) fn start(netns: &Netns) -> Self {
        let listener = netns.run(|| TcpListener::bind(API)).expect("the address is free");
        let shared = Arc::<Shared>::default();
        let serving = Arc::clone(&shared);
        let work = move || {
            for stream in listener.incoming().map_while(Result::ok) {
                if serving.world().over {
                    return;
                }
                let shared = Arc::clone(&serving);
                // A client that is gone is no failure of the server's.
                std::thread::spawn(move || drop(shared.serve(stream)));
            }
        };
        let listener = std::thread::spawn(work);
        ApiServer { netns: netns.clone(), shared, listener: Some(listener) }
    }

    /// Adds or replaces an object, and tells whoever watches.
    pub(crate) fn put(&self, path: &'static str, mut object: Value) {
        let mut world = self.shared.world();
        world.version += 1;
        let version = world.version;
        let text = |field: &str| object["metadata"][field].as_str().unwrap_or_default().to_owned();
        let key = (path, format!("{}/{}", text("namespace"), text("name")));
        object["metadata"]["resourceVersion"] = json!(version.to_string());
        let what = if world.objects.contains_key(&key) { "MODIFIED" } else { "ADDED" };
        world.events.push((version, path, json!({"type": what, "object": object})));
        world.objects.insert(key, object);
        drop(world);
        self.shared.changed.notify_all();
    }
}

impl ApiServer {
    /// One that knows the node, these pods and the policy of [`put_web_on`](Self::put_web_on).
    pub(crate) fn of(node: &Node, pods: &[&Pod], port: u16) -> Self {
        let api = Self::start(node.netns());
        api.put_all(&node.host, pods);
        api.put_web_on(port);
        api
    }

    /// Puts a node, and these pods with their namespaces on it, as a cluster has them.
    pub(crate) fn put_all(&self, host: &Host, pods: &[&Pod]) {
        let ranges: Vec<_> = host.pod_ranges().iter().map(ToString::to_string).collect();
        self.put(NODES, json!({"metadata": {"name": host.name()}, "spec": {"podCIDRs": ranges}}));
        for pod in pods {
            let options = pod.options();
            self.put(NAMESPACES, json!({"metadata": {"name": options.namespace}}));
            let addresses: Vec<_> = pod.addresses().iter().map(|address| json!({"ip": address})).collect();
            let metadata =
                json!({"name": options.name, "namespace": options.namespace, "labels": {"app": options.name}});
            let status = json!({"phase": "Running", "podIPs": addresses});
            self.put(PODS, json!({"metadata": metadata, "spec": {"nodeName": host.name()}, "status": status}));
        }
    }

    /// Puts the policy shop/web, which opens one port of shop/web to everybody.
    pub(crate) fn put_web_on(&self, port: u16) {
        let spec = json!({"podSelector": {"matchLabels": {"app": "web"}}, "policyTypes": ["Ingress"],
            "ingress": [{"ports": [{"protocol": "TCP", "port": port}]}]});
        self.put(POLICIES, json!({"metadata": {"name": "web", "namespace": "shop"}, "spec": spec}));
    }

    /// From now on each watch of this path, those that are open too, says one line that does not end; with none, all is well again.
    pub(crate) fn endless(&self, path: Option<&'static str>) {
        self.shared.world().endless = path;
        self.shared.changed.notify_all();
    }

    /// How many lines without end a client has hung up on, and the bytes sent in them.
    pub(crate) fn hung_up(&self) -> (usize, usize) {
        let world = self.shared.world();
        (world.endless_lines, world.endless_bytes)
    }
}

impl Drop for ApiServer {
    fn drop(&mut self) {
        self.shared.world().over = true;
        self.shared.changed.notify_all();
        // Whatever comes of it, the listener has seen it.
        let _ = self.netns.run(|| TcpStream::connect(API));
        if let Some(listener) = self.listener.take() {
            let _ = listener.join();
        }
    }
}

impl Shared {
    fn world(&self) -> MutexGuard<'_, World> {
        self.world.lock().expect("no panic")
    }

    /// One request, one answer.
    fn serve(&self, stream: TcpStream) -> std::io::Result<()> {
        let mut lines = BufReader::new(stream.try_clone()?).lines();
        let first = lines.next().transpose()?.unwrap_or_default();
        while lines.next().transpose()?.is_some_and(|line| !line.is_empty()) {}
        let target = first.split(' ').nth(1).unwrap_or_default();
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let value = |name: &str| query.split('&').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='));
        if value("sendInitialEvents").is_some() {
            let said = json!({"kind": "Status", "status": "Failure", "code": 422, "reason": "Invalid"});
            return answer(&stream, 422, &said);
        }
        match path {
            "/apis" => answer(&stream, 200, &json!({"kind": "APIGroupList", "groups": []})),
            NAMESPACES if value("fieldSelector").is_some() => {
                answer(&stream, 200, &json!({"metadata": {}, "items": [{"metadata": {"uid": "one"}}]}))
            }
            NAMESPACES | NODES | PODS | POLICIES | DEFINITIONS if value("watch").is_some() => {
                let from = value("resourceVersion").and_then(|version| version.parse().ok()).unwrap_or(0);
                self.watch(&stream, path, from)
            }
            NAMESPACES | NODES | PODS | POLICIES | DEFINITIONS => {
                let list = {
                    let world = self.world();
                    let items: Vec<_> =
                        world.objects.iter().filter(|((of, _), _)| *of == path).map(|(_, o)| o).collect();
                    json!({"metadata": {"resourceVersion": world.version.to_string()}, "items": items})
                };
                answer(&stream, 200, &list)
            }
            _ => answer(&stream, 404, &json!({"kind": "Status", "status": "Failure", "code": 404})),
        }
    }

    fn watch(&self, mut stream: &TcpStream, path: &str, mut version: u64) -> std::io::Result<()> {
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n")?;
        loop {
            let news: String = {
                let mut world = self.world();
                while !world.over && world.version <= version && world.endless != Some(path) {
                    world = self.changed.wait(world).expect("no panic");
                }
                if world.over {
                    return Ok(());
                }
                if world.endless == Some(path) {
                    drop(world);
                    return self.endless(stream);
                }
                let new = world.events.iter().filter(|(at, of, _)| *at > version && *of == path);
                let news = new.map(|(_, _, event)| format!("{event}\n")).collect();
                version = world.version;
                news
            };
            if !news.is_empty() {
                stream.write_all(format!("{:x}\r\n{news}\r\n", news.len()).as_bytes())?;
            }
        }
    }
}

impl Shared {
    fn endless(&self, mut stream: &TcpStream) -> std::io::Result<()> {
        let piece = "x".repeat(1 << 16);
        let mut sent = 0;
        let begin = "{\"type\":\"ADDED\",\"object\":{\"metadata\":{\"name\":\"";
        stream.write_all(format!("{:x}\r\n{begin}\r\n", begin.len()).as_bytes())?;
        while sent < MOST_ENDLESS && write!(stream, "{:x}\r\n{piece}\r\n", piece.len()).is_ok() {
            sent += piece.len();
        }
        let mut world = self.world();
        world.endless_lines += 1;
        world.endless_bytes += sent;
        Ok(())
    }
}

fn answer(mut stream: &TcpStream, code: u16, body: &Value) -> std::io::Result<()> {
    let body = body.to_string();
    let head = "Content-Type: application/json\r\nConnection: close";
    write!(stream, "HTTP/1.1 {code} X\r\n{head}\r\nContent-Length: {}\r\n\r\n{body}", body.len())
}

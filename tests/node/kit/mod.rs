//! The kit of the node tests: one node in network namespaces, and the real agent on it, as a process of its own.
//!
//! A test makes a [`Node`], adds pods, starts the agent, applies manifests and probes. Everything is gone with the
//! test process, however it ends. Edits are awaited by generation, never by time.

mod agent;
mod turn;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use podgate_sandbox::{Host, HostOptions, Netns, Pod, PodOptions, Probe, Server, mortal, unexpected};

use self::agent::command;
pub(crate) use self::agent::{Agent, binary};
pub(crate) use self::turn::Turn;

/// How long an event may take before the test fails: long, as the machine may be busy with other tests.
pub(crate) const LONG: Duration = Duration::from_secs(20);

/// A node, its manifests, and its agent once started.
pub(crate) struct Node {
    pub(crate) host: Host,
    directory: tempfile::TempDir,
    agent: Option<Agent>,
    /// Given as `--node`.
    name: Option<String>,
    /// The next agent's HTTP port: two may run at once.
    port: u16,
    _turn: Option<Turn>,
}

/// Where agents that follow a cluster look for its API server, in the node's namespace.
pub(crate) const API: &str = "127.0.0.1:9";

/// The default of `--http`.
const PORT: u16 = 9840;

impl Node {
    /// A node by the name of `node`, with the first pod ranges of [`HostOptions::numbered`].
    pub(crate) fn new() -> Self {
        Self::on(Host::single("node").expect("a host"))
    }

    /// A node on a host of the caller's.
    pub(crate) fn on(host: Host) -> Self {
        let name = Some(host.name().to_owned());
        Node {
            host,
            directory: tempfile::tempdir().expect("a directory"),
            agent: None,
            name,
            port: PORT,
            _turn: Turn::beside_others(),
        }
    }

    /// Its agents are not told its name: all pods are subjects.
    pub(crate) fn nameless(&mut self) {
        self.name = None;
    }

    /// A second node beside this one, linked with it.
    pub(crate) fn neighbour(&self, number: u8) -> Host {
        let other = Host::new(HostOptions::numbered(&format!("node{number}"), number)).expect("a host");
        self.host.link(&other).expect("a link");
        other
    }

    /// Its network namespace.
    pub(crate) fn netns(&self) -> &Netns {
        self.host.netns()
    }

    /// The manifests' directory.
    pub(crate) fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// A pod here; its manifest is written but not awaited.
    pub(crate) fn pod(&self, options: PodOptions) -> Pod {
        let pod = self.host.pod(options).expect("a pod");
        self.tell(&pod);
        pod
    }

    /// Writes the pod's manifest as it is now; not awaited.
    pub(crate) fn tell(&self, pod: &Pod) {
        self.write(&pod_file(pod), &pod.manifest());
    }

    /// Writes a file by rename, as editors do; not awaited.
    pub(crate) fn write(&self, file: &str, text: &str) {
        let temporary = self.directory().join(format!(".{file}.tmp"));
        std::fs::write(&temporary, text).expect("written");
        std::fs::rename(temporary, self.directory().join(file)).expect("renamed");
    }

    /// Writes a file and waits until it is enforced.
    pub(crate) fn apply(&self, file: &str, text: &str) {
        self.enforced(|| self.write(file, text));
    }

    /// Removes a file and waits until that is enforced.
    pub(crate) fn remove(&self, file: &str) {
        self.enforced(|| std::fs::remove_file(self.directory().join(file)).expect("removed"));
    }

    /// Does something that changes the world once, and waits until it is enforced.
    pub(crate) fn enforced<T>(&self, change: impl FnOnce() -> T) -> T {
        let before = self.generation();
        let done = change();
        self.await_generation(before + 1);
        done
    }

    /// Starts the agent with further arguments and waits until it is ready.
    pub(crate) fn start(&mut self, arguments: &[&str]) {
        self.launch(arguments);
        let (status, body) = self.get("/readyz?generation=1");
        assert_eq!(status, 200, "not ready: {body}\n{}", self.log());
    }

    /// Starts the agent without waiting for more than its listener.
    pub(crate) fn launch(&mut self, arguments: &[&str]) {
        assert!(self.agent.is_none(), "one agent at a time");
        self.agent = Some(self.launch_on(PORT, arguments));
    }

    /// Starts another agent beside the one that runs, which answers on a port of its own.
    pub(crate) fn launch_another(&mut self, arguments: &[&str]) -> Agent {
        self.port += 1;
        self.launch_on(self.port, arguments)
    }

    /// Starts another agent beside the one that runs, on the same address.
    pub(crate) fn launch_sharing(&self, arguments: &[&str]) -> Agent {
        self.launch_on(PORT, arguments)
    }

    /// Starts the agent by a command that becomes it, such as a shell that does something first.
    pub(crate) fn launch_as(&mut self, command: std::process::Command, arguments: &[&str]) {
        assert!(self.agent.is_none(), "one agent at a time");
        self.agent = Some(self.launch_by(command, PORT, arguments));
    }

    fn launch_on(&self, port: u16, arguments: &[&str]) -> Agent {
        self.launch_by(command(), port, arguments)
    }

    fn launch_by(&self, command: std::process::Command, port: u16, arguments: &[&str]) -> Agent {
        let http = format!("127.0.0.1:{port}");
        let mut all = Vec::new();
        if !arguments.contains(&"--http") {
            all.extend(["--http", &http]);
        }
        all.extend(self.name.iter().flat_map(|name| ["--node", name]));
        all.extend(arguments);
        let agent = Agent::spawn(self.netns(), self.directory(), &all, command).on_port(port);
        agent.await_line("listening");
        agent
    }

    /// Starts another agent beside the one that runs, which follows a cluster whose API server does not answer, unless
    /// there is one at [`API`].
    pub(crate) fn launch_in_the_dark(&mut self, arguments: &[&str]) -> Agent {
        self.follow_cluster(command(), arguments)
    }

    /// Likewise; its state directory is a disk of so many KiB, which only it and [`disk`](Self::disk) see.
    pub(crate) fn launch_on_a_small_disk(&mut self, kib: u32, arguments: &[&str]) -> Agent {
        let state = self.state_directory();
        std::fs::create_dir_all(&state).expect("made");
        let mut command = mortal("unshare");
        let script = format!("mount -t tmpfs -o size={kib}k none \"$0\" && exec \"$@\"");
        command.args(["--mount", "--propagation", "private", "sh", "-c", &script]).arg(state).arg(binary());
        self.follow_cluster(command, arguments)
    }

    fn state_directory(&self) -> PathBuf {
        self.directory().join(".state")
    }

    /// Likewise, by a command that becomes the agent.
    pub(crate) fn follow_cluster(&mut self, mut command: std::process::Command, arguments: &[&str]) -> Agent {
        self.port += 1;
        let http = format!("127.0.0.1:{}", self.port);
        let kubeconfig = self.directory().join(".kubeconfig");
        let text = format!(
            "{{apiVersion: v1, kind: Config, current-context: c, clusters: [{{name: c, cluster: {{server: \
             'http://{API}'}}}}], users: [{{name: u, user: {{}}}}], contexts: [{{name: c, context: {{cluster: c, user: u}}}}]}}"
        );
        std::fs::write(&kubeconfig, text).expect("written");
        command.args(["run", "--node", self.host.name(), "--http", &http]).args(arguments);
        command.arg("--kubeconfig").arg(kubeconfig).arg("--state-dir").arg(self.state_directory());
        let agent = Agent::watch(self.netns(), command).on_port(self.port);
        agent.await_line("listening");
        agent
    }

    /// The agent's state directory, as it sees it.
    pub(crate) fn disk(&self) -> PathBuf {
        let seen = self.state_directory();
        let root = PathBuf::from(format!("/proc/{}/root", self.agent().process.id()));
        root.join(seen.strip_prefix("/").expect("an absolute path"))
    }

    /// Starts another agent and waits until it is ready; the one before is returned, and is no longer the node's.
    pub(crate) fn hand_over(&mut self, arguments: &[&str]) -> Agent {
        let next = self.launch_another(arguments);
        next.await_ready();
        self.agent.replace(next).expect("an agent was started")
    }

    /// An agent that was started beside the node's is the node's from now on.
    pub(crate) fn adopt(&mut self, agent: Agent) -> Option<Agent> {
        self.agent.replace(agent)
    }

    /// Likewise, once it is ready.
    pub(crate) fn adopt_ready(&mut self, agent: Agent) {
        agent.await_ready();
        self.adopt(agent);
    }

    /// The agent.
    pub(crate) fn agent(&self) -> &Agent {
        self.agent.as_ref().expect("the agent was started")
    }

    /// Ends the agent gracefully.
    pub(crate) fn stop(&mut self) {
        self.agent.take().expect("the agent was started").stop();
    }

    /// Ends the agent by SIGKILL.
    pub(crate) fn kill(&mut self) {
        self.agent.take().expect("the agent was started").process.kill();
    }

    /// What the agent has logged so far.
    pub(crate) fn log(&self) -> String {
        self.agent.as_ref().map_or_else(String::new, |a| a.log.text())
    }

    /// The generation in force.
    pub(crate) fn generation(&self) -> u64 {
        self.metric("podgate_generation") as u64
    }

    /// Waits until a generation is in force and the agent is ready.
    pub(crate) fn await_generation(&self, generation: u64) {
        let (status, body) = self.get(&format!("/readyz?generation={generation}"));
        assert_eq!(status, 200, "generation {generation}: {body}\n{}", self.log());
    }

    /// The value of the first series whose line begins like this (a name, or a name with all its labels).
    pub(crate) fn metric(&self, series: &str) -> f64 {
        self.find_metric(series).unwrap_or_else(|| panic!("no {series}\n{}", self.get("/metrics").1))
    }

    /// Likewise, if it is there.
    pub(crate) fn find_metric(&self, series: &str) -> Option<f64> {
        self.agent().find_metric(series)
    }

    /// Waits until a metric has at least this value. Counters have no event to wait for: each look is a request, and
    /// the look itself is the pace.
    pub(crate) fn await_metric(&self, series: &str, least: f64) {
        let deadline = Instant::now() + LONG;
        while self.find_metric(series).is_none_or(|value| value < least) {
            assert!(Instant::now() < deadline, "{series} stays below {least}\n{}", self.log());
            std::thread::yield_now();
        }
    }

    /// How often a rule decided, by its full name.
    pub(crate) fn rule_count(&self, rule: &str) -> f64 {
        let text = self.get("/metrics").1;
        let wanted = format!("rule=\"{rule}\"");
        let mut lines = text.lines().filter(|l| l.starts_with("podgate_rule_verdicts_total{") && l.contains(&wanted));
        let line = lines.next().unwrap_or_else(|| panic!("no rule {rule}\n{text}"));
        line.rsplit(' ').next().and_then(|v| v.parse().ok()).expect("a number")
    }

    /// Asks the agent's HTTP address: status and body.
    pub(crate) fn get(&self, path: &str) -> (u16, String) {
        self.agent().get(path)
    }

    /// Runs a command in the node's namespace to its end: success and output.
    pub(crate) fn command(&self, program: &str, arguments: &[&str]) -> (bool, String) {
        let mut command = std::process::Command::new(program);
        command.args(arguments);
        let output = self.netns().run(move || command.output()).expect("started");
        let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        (output.status.success(), text)
    }

    /// Our table as nft lists it.
    pub(crate) fn rules(&self) -> String {
        self.command("nft", &["--stateless", "--handle", "list", "table", "inet", "podgate"]).1
    }

    /// Likewise, once no address is rechecked any more. Each look is a command, and the pace.
    pub(crate) fn settled_rules(&self) -> String {
        let deadline = Instant::now() + LONG;
        loop {
            let rules = self.rules();
            if !rules.contains("@recheck4 return") {
                return rules;
            }
            assert!(Instant::now() < deadline, "{rules}\n{}", self.log());
        }
    }

    /// All probes at once; fails with those that went otherwise, and the agent's log.
    #[track_caller]
    pub(crate) fn expect(&self, probes: &[Probe]) {
        let wrong = unexpected(probes);
        assert!(wrong.is_empty(), "{}\n{}", wrong.join("\n"), self.log());
    }
}

/// A node with the pods shop/web (app=web), which serves these TCP and UDP ports, and shop/client (app=client). Their
/// manifests are written; there is no policy and no agent yet.
pub(crate) fn pair(tcp: &[u16], udp: &[u16]) -> (Node, Pod, Pod, Server) {
    let node = Node::new();
    node.write("node.yaml", &node.host.manifest());
    let web = node.pod(PodOptions::new("shop/web").label("app", "web"));
    let client = node.pod(PodOptions::new("shop/client").label("app", "client"));
    let server = web.server(tcp, udp).expect("a server");
    (node, web, client, server)
}

/// The file that [`Node::pod`] writes.
pub(crate) fn pod_file(pod: &Pod) -> String {
    format!("pod-{}-{}.yaml", pod.options().namespace, pod.options().name)
}

/// A NetworkPolicy's text; `spec` is YAML in flow style.
pub(crate) fn policy(name: &str, namespace: &str, spec: &str) -> String {
    format!(
        "---\napiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\n\
         metadata: {{name: {name}, namespace: {namespace}}}\nspec: {spec}\n"
    )
}

/// The policy networkpolicy/shop/web, which opens one port of shop/web to everybody.
pub(crate) fn web_on(protocol: &str, port: u16) -> String {
    let spec = format!(
        "podSelector: {{matchLabels: {{app: web}}}}, ingress: [{{ports: [{{protocol: {protocol}, port: {port}}}]}}]"
    );
    policy("web", "shop", &format!("{{{spec}}}"))
}

/// A policy that isolates every pod of a namespace in both directions and allows nothing.
pub(crate) fn deny_all(namespace: &str) -> String {
    policy("deny-all", namespace, "{podSelector: {}, policyTypes: [Ingress, Egress]}")
}

/// Closes ingress of shop/web, and nothing else.
pub(crate) fn web_closed() -> String {
    policy("web", "shop", "{podSelector: {matchLabels: {app: web}}, policyTypes: [Ingress]}")
}

/// Isolates shop/client, which may reach shop/web and nobody else.
pub(crate) fn client_to_web() -> String {
    let to_web = "{podSelector: {matchLabels: {app: client}}, policyTypes: [Egress], \
        egress: [{to: [{podSelector: {matchLabels: {app: web}}}]}]}";
    policy("client", "shop", to_web)
}

/// A cluster-wide policy: no pod reaches any address, not even its node's.
pub(crate) fn nobody_reaches_hosts() -> &'static str {
    "apiVersion: policy.networking.k8s.io/v1alpha2\nkind: ClusterNetworkPolicy\nmetadata: {name: hosts}\n\
     spec: {tier: Admin, priority: 10, subject: {namespaces: {}}, \
     egress: [{action: Deny, to: [{networks: [0.0.0.0/0, '::/0']}]}]}\n"
}

//! The node that is measured: a network namespace with a way to the control plane, and podgate in it.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use ipnet::Ipv4Net;
use podgate_sandbox::{Host, HostOptions, Process, Signal, mortal};

use crate::world;

/// How long an agent may take to be ready, and to end.
const PATIENCE: Duration = Duration::from_secs(120);
const HTTP: &str = "127.0.0.1:9840";
/// Between two questions whether it is ready.
const LOOK: Duration = Duration::from_millis(4);

/// The node.
pub(crate) struct Node {
    pub(crate) host: Host,
}

impl Node {
    /// Node 0 of the world, linked to the bridge `nodes` of the network namespace that this process is in.
    pub(crate) fn new() -> Result<Self> {
        let range = Ipv4Net::new(world::pod_range(0), 24)?.into();
        let addresses = vec![world::node_address(0).into()];
        let host = Host::new(HostOptions { name: world::node_name(0), addresses, pod_ranges: vec![range] })?;
        let here = std::process::id().to_string();
        let run = |command: &str| -> Result<()> {
            let mut words = command.split(' ');
            let mut ip = mortal(words.next().unwrap_or_default());
            ip.args(words);
            let ended = host.netns().spawn(ip)?.wait(PATIENCE);
            ensure!(ended.is_some_and(|status| status.success()), "{command}: {ended:?}");
            Ok(())
        };
        run(&format!("ip link add cluster type veth peer name node netns {here}"))?;
        run(&format!("ip address add {LINK}/24 dev cluster"))?;
        run("ip link set cluster up")?;
        let joined = Command::new("ip").args(["link", "set", "node", "master", "nodes", "up"]).status()?;
        ensure!(joined.success(), "there is no bridge `nodes` here: start this by bench/scale/run");
        Ok(Node { host })
    }
}

/// The node's address towards the control plane (tests/cluster/lib/settings has the others of that network).
const LINK: Ipv4Addr = Ipv4Addr::new(172, 30, 0, 200);

/// How podgate is started.
#[derive(Debug, Clone)]
pub(crate) struct Options {
    pub(crate) podgate: PathBuf,
    pub(crate) kubeconfig: PathBuf,
    pub(crate) log: PathBuf,
}

/// A running podgate.
pub(crate) struct Agent<'a> {
    node: &'a Node,
    process: Process,
    pub(crate) start: Start,
}

/// How long a start took, from before the process was made.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Start {
    /// Until a world was enforced, be it the saved one.
    pub(crate) enforced: Duration,
    /// Until `/readyz` said 200.
    pub(crate) ready: Duration,
}

impl<'a> Agent<'a> {
    /// Starts it and waits until it is ready. `state`: where it keeps what it knows.
    pub(crate) fn start(node: &'a Node, options: &Options, state: Option<&Path>) -> Result<Self> {
        let mut command = mortal(&options.podgate);
        command.args(["run", "--on-exit", "remove", "--log", "warn", "--http", HTTP, "--node", node.host.name()]);
        command.arg("--kubeconfig").arg(&options.kubeconfig);
        command.arg("--state-dir").arg(state.unwrap_or(Path::new("none")));
        let log = fs::File::options().create(true).append(true).open(&options.log)?;
        command.env("PODGATE_SOCKET", "off").stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let begin = Instant::now();
        let process = node.host.netns().spawn(command)?;
        let mut enforced = None;
        loop {
            let said = get(node, "/readyz");
            let now = begin.elapsed();
            match said {
                Ok((200, _)) => {
                    let start = Start { enforced: enforced.unwrap_or(now), ready: now };
                    return Ok(Agent { node, process, start });
                }
                Ok((_, reasons)) if !reasons.contains("first snapshot") => _ = enforced.get_or_insert(now),
                Ok(_) | Err(_) if process.is_running() && now < PATIENCE => {}
                said => bail!("podgate is not ready ({}): {said:?}", options.log.display()),
            }
            std::thread::sleep(LOOK);
        }
    }

    /// Ends it as an upgrade does, and waits until it has ended.
    pub(crate) fn stop(self) -> Result<()> {
        self.process.signal(Signal::SIGTERM);
        let ended = self.process.wait(PATIENCE).context("podgate does not end")?;
        ensure!(ended.success(), "podgate ended badly: {ended}");
        Ok(())
    }

    /// Resident memory now, and the most it was, in bytes (proc(5): status, VmRSS and VmHWM).
    pub(crate) fn resident(&self) -> Result<(u64, u64)> {
        let text = fs::read_to_string(format!("/proc/{}/status", self.process.id()))?;
        let bytes = |name: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(name))?;
            Some(line.split_whitespace().next()?.parse::<u64>().ok()? * 1024)
        };
        bytes("VmRSS:").zip(bytes("VmHWM:")).context("/proc has no VmRSS")
    }

    /// Processor time used so far (proc(5): stat, utime and stime).
    pub(crate) fn processor(&self) -> Result<Duration> {
        let text = fs::read_to_string(format!("/proc/{}/stat", self.process.id()))?;
        // The name, the second field, may have spaces in it.
        let fields = text.rsplit_once(") ").map(|(_, rest)| rest.split(' ').collect::<Vec<_>>()).unwrap_or_default();
        let ticks = |at: usize| fields.get(at).and_then(|f| f.parse::<u64>().ok());
        let (user, system) = ticks(11).zip(ticks(12)).context("/proc has no processor time")?;
        let per_second = nix::unistd::sysconf(nix::unistd::SysconfVar::CLK_TCK)?.unwrap_or(100) as u64;
        Ok(Duration::from_millis((user + system) * 1000 / per_second))
    }

    /// The sum of a metric's samples whose line begins so.
    pub(crate) fn metric(&self, begins: &str) -> Result<f64> {
        let (_, text) = get(self.node, "/metrics")?;
        let values =
            text.lines().filter(|l| l.starts_with(begins)).filter_map(|l| l.rsplit_once(' ')?.1.parse::<f64>().ok());
        Ok(values.sum())
    }
}

fn get(node: &Node, path: &str) -> Result<(u16, String)> {
    let address: SocketAddr = HTTP.parse()?;
    let ip: IpAddr = address.ip();
    match node.host.netns().client().get(ip, address.port(), path, PATIENCE) {
        Ok(answer) => Ok(answer),
        Err(outcome) => bail!("{path}: {outcome}"),
    }
}

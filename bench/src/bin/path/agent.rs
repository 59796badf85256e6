//! [`Podgate`]: the agent as a process in a host's namespace.

use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use podgate_sandbox::{Host, Process, mortal};

use crate::kinds::Agent;

/// How long an agent may take to be ready; 100,000 pods' manifests take some seconds.
const PATIENCE: Duration = Duration::from_secs(120);
const HTTP: &str = "127.0.0.1:9840";

/// An agent that is ready.
pub(crate) struct Podgate {
    host: Host,
    process: Process,
}

impl Podgate {
    /// Starts it on a directory of manifests, and waits until they are in force.
    pub(crate) fn start(host: &Host, binary: &Path, manifests: &Path, agent: Agent) -> Result<Self> {
        let mut command = mortal(binary);
        command.args(["run", "--on-exit", "remove", "--log", "warn", "--http", HTTP, "--node", host.name()]);
        command.arg("--manifests").arg(manifests).arg("--queues").arg(agent.queues.to_string());
        // In its first half minute no denial is repeated: what is measured is the time after that.
        command.env("PODGATE_LOOSE_SECONDS", "0");
        command.env("PODGATE_SOCKET", "off").stdin(Stdio::null()).stdout(Stdio::null());
        // By the environment, which a revision without a cache takes no notice of.
        match agent.cached {
            true => command.env_remove("PODGATE_CACHE"),
            false => command.env("PODGATE_CACHE", "0"),
        };
        let podgate = Podgate { host: host.clone(), process: host.netns().spawn(command)? };
        let deadline = Instant::now() + PATIENCE;
        loop {
            // The request waits for the generation by itself, once somebody listens.
            match podgate.get("/readyz?generation=1") {
                Ok(_) => return Ok(podgate),
                Err(error) if !podgate.process.is_running() || Instant::now() > deadline => {
                    return Err(error).context("podgate is not ready");
                }
                Err(_) => std::thread::sleep(Duration::from_millis(20)),
            }
        }
    }

    /// Packets that it gave a verdict.
    pub(crate) fn judged(&self) -> Result<u64> {
        let text = self.get("/metrics")?;
        let samples = text.lines().filter(|l| l.starts_with("podgate_packets_total{"));
        Ok(samples.filter_map(|l| l.rsplit_once(' ')?.1.parse::<u64>().ok()).sum())
    }

    /// The revision that it was built from, as it says itself.
    pub(crate) fn revision(&self) -> Result<String> {
        let text = self.get("/metrics")?;
        let line = text.lines().find(|l| l.starts_with("podgate_build_info{"));
        let told = line.and_then(|l| l.split_once("revision=\"")?.1.split_once('"'));
        Ok(told.context("podgate does not say its revision")?.0.to_owned())
    }

    /// Its process id.
    pub(crate) fn id(&self) -> u32 {
        self.process.id()
    }

    fn get(&self, path: &str) -> Result<String> {
        let address: SocketAddr = HTTP.parse()?;
        match self.host.netns().client().get(address.ip(), address.port(), path, PATIENCE) {
            Ok((200, body)) => Ok(body),
            Ok((status, body)) => bail!("{path}: {status}: {body}"),
            Err(outcome) => bail!("{path}: {outcome}"),
        }
    }
}

/// Whether this build of podgate has a verdict cache.
pub(crate) fn has_cache(binary: &Path) -> Result<bool> {
    let help = Command::new(binary).args(["run", "--help"]).stdin(Stdio::null()).output();
    let help = help.with_context(|| format!("starting {}", binary.display()))?;
    ensure!(help.status.success(), "{} run --help: {}", binary.display(), help.status);
    Ok(String::from_utf8_lossy(&help.stdout).contains("PODGATE_CACHE"))
}

//! [`Agent`]: `podgate run` as a child process in the sandbox node's namespace, and what it says over HTTP.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use podgate_sandbox::{Client, Process, Signal, mortal};

use super::NODE;
use super::cast::Cast;
use super::stage::Stage;

/// Where the agent serves HTTP, inside the node's namespace.
pub(super) const HTTP: u16 = 9840;
/// How long a start or a change may take; far more than it does.
const PATIENCE: Duration = Duration::from_secs(15);

/// The running agent.
pub(super) struct Agent {
    process: Process,
    client: Client,
    log: PathBuf,
    /// The generation in force.
    generation: u64,
    /// Rule counters as last scraped; a rule that is gone keeps its last line.
    counters: BTreeMap<String, String>,
}

impl Agent {
    /// Starts it and waits until it enforces what is there.
    pub(super) fn start(cast: &Cast, stage: &Stage) -> Result<Self> {
        let mut command = clean(mortal(std::env::current_exe().context("cannot find this executable")?));
        command.arg("run").arg("--manifests").arg(stage.manifests()).arg("--socket").arg(stage.socket());
        command.args([
            "--node",
            NODE,
            "--http",
            &format!("127.0.0.1:{HTTP}"),
            "--on-exit",
            "remove",
            "--loose-seconds",
            "0",
        ]);
        let log = File::create(stage.log()).context("cannot write the agent's log")?;
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        let process = cast.host().netns().spawn(command)?;
        let client = cast.host().netns().client();
        let mut agent = Agent { process, client, log: stage.log(), generation: 0, counters: BTreeMap::new() };
        agent.await_generation(1)?;
        Ok(agent)
    }

    /// Waits until the next generation is in force.
    pub(super) fn await_next(&mut self) -> Result<()> {
        self.await_generation(self.generation + 1)
    }

    fn await_generation(&mut self, wanted: u64) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        let mut said = String::from("nothing listens on its HTTP address");
        while Instant::now() < deadline {
            if !self.process.is_running() {
                bail!("the agent ended. {}", self.last_words());
            }
            match self.get(&format!("/readyz?generation={wanted}")) {
                Ok((200, text)) => {
                    let number = text.lines().find_map(|l| l.strip_prefix("generation ")?.trim().parse().ok());
                    self.generation = number.with_context(|| format!("/readyz tells no generation: {text}"))?;
                    return Ok(());
                }
                Ok((_, text)) => said = text,
                // It does not listen yet.
                Err(_) => {}
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        bail!("the agent did not get ready in {PATIENCE:?}: {}. {}", said.trim(), self.last_words())
    }

    /// Reads the rule counters, as Prometheus would.
    pub(super) fn scrape(&mut self) -> Result<()> {
        let (status, text) = self.get("/metrics")?;
        if status != 200 {
            bail!("/metrics answers {status}: {text}");
        }
        for line in text.lines().filter(|l| l.starts_with("podgate_rule_verdicts_total{")) {
            if let Some((series, value)) = line.rsplit_once(' ') {
                self.counters.insert(series.to_owned(), value.to_owned());
            }
        }
        Ok(())
    }

    /// The rule counters as last scraped: series and value.
    pub(super) fn counters(&self) -> &BTreeMap<String, String> {
        &self.counters
    }

    /// Whether it still runs.
    pub(super) fn is_running(&self) -> bool {
        self.process.is_running()
    }

    /// Ends it as an operator would, and waits.
    pub(super) fn stop(self) {
        self.process.signal(Signal::SIGTERM);
        // Past that, dropping it kills it.
        self.process.wait(Duration::from_secs(5));
    }

    fn get(&self, path: &str) -> Result<(u16, String)> {
        let answer = self.client.get(IpAddr::from(Ipv4Addr::LOCALHOST), HTTP, path, PATIENCE);
        answer.map_err(|outcome| anyhow::anyhow!("the agent's HTTP address: {outcome}"))
    }

    fn last_words(&self) -> String {
        let log = fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<_> = log.lines().collect();
        let last = lines[lines.len().saturating_sub(20)..].join("\n  ");
        if last.is_empty() { "Its log is empty.".to_owned() } else { format!("Its last words:\n  {last}") }
    }
}

/// Without settings that somebody has in the environment: the demo is the same everywhere.
pub(super) fn clean(mut command: Command) -> Command {
    for (name, _) in std::env::vars_os().filter(|(n, _)| n.to_string_lossy().starts_with("PODGATE_")) {
        command.env_remove(name);
    }
    command
}

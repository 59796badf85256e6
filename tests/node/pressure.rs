//! Little memory, by a control group of the kernel's: with a sixteenth of what deploy/podgate.yaml gives it the agent
//! lives through floods; where the kernel ends it for want of memory, the node stays closed, and the next agent takes over.
//!
//! What a flood does to an agent with enough memory is `overload`'s.

use std::fs;
use std::io::Write as _;
use std::net::SocketAddr;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Instant;

use nix::sys::signal::Signal;
use podgate_sandbox::ProbeKind::Tcp;
use podgate_sandbox::{PATIENCE, PodOptions, Probe, mortal};

use crate::kit::{LONG, Turn, binary};
use crate::overload::{CLOSED, OPEN, await_empty_queues, dose, expect_well, flood, shop};

/// A control group of the test's own, in whichever version the machine has the memory controller. Removed when dropped.
struct Group {
    path: PathBuf,
    second: bool,
}

impl Group {
    /// Where no group can be made, that is told, on standard error, where the harness does not hide it.
    fn new() -> Option<Self> {
        match Self::make() {
            Ok(group) => Some(group),
            Err(reason) => {
                let test = std::thread::current().name().unwrap_or("a test").to_owned();
                let line = format!("pressure: NOT RUN here: {test}: no control group for memory: {reason}\n");
                std::io::stderr().write_all(line.as_bytes()).expect("standard error");
                None
            }
        }
    }

    fn make() -> Result<Self, String> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let (top, second) = hierarchy()?;
        remove_orphans(&top);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let path = top.join(format!("{PREFIX}{}-{number}", std::process::id()));
        fs::create_dir(&path).map_err(|error| format!("{}: {error}", path.display()))?;
        Ok(Group { path, second })
    }

    /// The agent's command, which enters the group before it becomes the agent.
    fn agent(&self) -> Command {
        let mut command = mortal("sh");
        command.args(["-c", "echo $$ > \"$0\" && exec \"$@\""]).arg(self.path.join("cgroup.procs")).arg(binary());
        command
    }

    fn limit(&self, bytes: u64) {
        let [limit, swap] = match self.second {
            true => [("memory.max", bytes), ("memory.swap.max", 0)],
            false => [("memory.limit_in_bytes", bytes), ("memory.memsw.limit_in_bytes", bytes)],
        };
        fs::write(self.path.join(limit.0), limit.1.to_string()).expect("a limit");
        // Only where the kernel counts swap.
        let _ = fs::write(self.path.join(swap.0), swap.1.to_string());
    }

    fn usage(&self) -> u64 {
        self.number(if self.second { "memory.current" } else { "memory.usage_in_bytes" }).expect("its use")
    }

    /// The most there was, where the kernel tells (version 2: from 5.19 on).
    fn most(&self) -> Option<u64> {
        self.number(if self.second { "memory.peak" } else { "memory.max_usage_in_bytes" })
    }

    fn number(&self, file: &str) -> Option<u64> {
        fs::read_to_string(self.path.join(file)).ok()?.trim().parse().ok()
    }

    /// How many processes the kernel ended here for want of memory.
    fn kills(&self) -> u64 {
        let file = if self.second { "memory.events" } else { "memory.oom_control" };
        let text = fs::read_to_string(self.path.join(file)).expect("its events");
        let line = text.lines().find_map(|line| line.strip_prefix("oom_kill ")).expect("a count of kills");
        line.trim().parse().expect("a number")
    }
}

const PREFIX: &str = "podgate-node-test-";

/// Where control groups for memory can be made: the top directory, and whether it is version 2.
fn hierarchy() -> Result<(PathBuf, bool), String> {
    let mounts = fs::read_to_string("/proc/mounts").map_err(|error| error.to_string())?;
    let rows: Vec<Vec<&str>> = mounts.lines().map(|line| line.split(' ').collect()).collect();
    if let Some(first) = rows.iter().find(|row| row[2] == "cgroup" && row[3].split(',').any(|o| o == "memory")) {
        return Ok((first[1].into(), false));
    }
    let top = rows.iter().find(|row| row[2] == "cgroup2").map(|row| PathBuf::from(row[1]));
    let top = top.ok_or("none is mounted")?;
    let handed_on = fs::read_to_string(top.join("cgroup.subtree_control")).map_err(|error| error.to_string())?;
    match handed_on.split_whitespace().any(|controller| controller == "memory") {
        true => Ok((top, true)),
        false => Err(format!("`memory` is not in {}/cgroup.subtree_control", top.display())),
    }
}

/// Removes what test processes that were killed left here: their agents ended with them.
fn remove_orphans(top: &Path) {
    for entry in fs::read_dir(top).into_iter().flatten().flatten() {
        let name = entry.file_name().into_string().unwrap_or_default();
        let owner = name.strip_prefix(PREFIX).and_then(|rest| rest.split('-').next()).map(|pid| format!("/proc/{pid}"));
        if owner.is_some_and(|owner| !Path::new(&owner).exists()) {
            let _ = fs::remove_dir(entry.path());
        }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let deadline = Instant::now() + LONG;
        while let Err(error) = fs::remove_dir(&self.path) {
            // Processes that entered it are this test's: none may be left.
            for pid in fs::read_to_string(self.path.join("cgroup.procs")).unwrap_or_default().lines() {
                let _ = pid.parse().map(|pid| nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), Signal::SIGKILL));
            }
            if Instant::now() > deadline {
                eprintln!("{} stays: {error}", self.path.display());
                return;
            }
            std::thread::yield_now();
        }
    }
}

/// What deploy/podgate.yaml lets the agent have, in bytes.
fn deployed() -> u64 {
    let text = include_str!("../../deploy/podgate.yaml");
    let mut limits = text.lines().map(str::trim).skip_while(|line| *line != "limits:");
    let memory = limits.find_map(|line| line.strip_prefix("memory: ")).expect("a limit of memory");
    memory.strip_suffix("Mi").and_then(|mebibytes| mebibytes.parse::<u64>().ok()).expect("in Mi") << 20
}

#[test]
fn with_a_sixteenth_of_its_memory_the_agent_lives_through_floods() {
    let _turn = Turn::alone();
    let Some(group) = Group::new() else { return };
    let limit = deployed() / 16;
    group.limit(limit);
    let (mut node, web, client, server) = shop();
    let evil = node.pod(PodOptions::new("shop/evil"));
    // What a pod forges would not come up: see `forged`.
    node.launch_as(group.agent(), &["--queues", "2", "--source-check", "off"]);
    node.agent().await_ready();
    let mut connection = client.client().open(web.v4(), OPEN, PATIENCE).expect("permitted");
    connection.ping(PATIENCE).expect("permitted");
    let before = group.usage();
    for (protocol, port) in [("TCP", OPEN), ("TCP", CLOSED), ("UDP", OPEN), ("UDP", CLOSED)] {
        flood(&evil, protocol, SocketAddr::new(web.v4(), port), dose());
        connection.ping(LONG).expect("what is established does not notice");
    }
    // Connections that come about, each of which leaves an entry with the kernel.
    let mut opened = 0;
    for _ in 0..1000 {
        opened += u32::from(client.client().connect(web.v4(), OPEN, PATIENCE).is_open());
    }
    await_empty_queues(&node);
    let kib = |bytes: u64| bytes >> 10;
    println!(
        "{} KiB allowed, {} KiB before, {} KiB after, at most {:?} KiB; {opened} of 1000 connections",
        kib(limit),
        kib(before),
        kib(group.usage()),
        group.most().map(kib)
    );
    assert_eq!(group.kills(), 0, "{}", node.log());
    assert!(group.usage() <= limit && node.metric("podgate_held_packets_total") > 0.0);
    expect_well(&node, &web, &client);
    node.apply("policy.yaml", &crate::kit::web_on("TCP", CLOSED));
    node.expect(&[
        Probe::closed(client.client(), web.v4(), Tcp(OPEN)),
        Probe::open(client.client(), web.v4(), Tcp(CLOSED)),
    ]);
    let leaked = server.arrivals().into_iter().find(|a| a.to.port() == CLOSED && a.from.ip() != client.v4());
    assert_eq!(leaked, None);
}

#[test]
fn an_agent_that_the_kernel_ends_for_want_of_memory_leaves_the_node_closed() {
    let Some(group) = Group::new() else { return };
    let (mut node, web, client, server) = shop();
    let other = node.pod(PodOptions::new("shop/other"));
    node.launch_as(group.agent(), &[]);
    node.agent().await_ready();
    let mut connection = client.client().open(web.v4(), OPEN, PATIENCE).expect("permitted");
    connection.ping(PATIENCE).expect("permitted");
    // There is no room for a world that is much larger.
    group.limit(group.usage() + (2 << 20));
    let pods = (0..40_000).map(|n| {
        format!(
            "---\napiVersion: v1\nkind: Pod\nmetadata: {{name: many-{n}, namespace: many, labels: {{app: many-{n}}}}}\n\
             spec: {{nodeName: elsewhere}}\nstatus: {{phase: Running, podIP: 10.{}.{}.{}}}\n",
            99 + (n >> 16),
            (n >> 8) & 255,
            n & 255
        )
    });
    node.write("many.yaml", &pods.collect::<String>());
    let status = node.agent().process.wait(LONG).expect("it ends");
    assert_eq!((status.signal(), group.kills() > 0), (Some(Signal::SIGKILL as i32), true), "{}", node.log());

    connection.ping(PATIENCE).expect("what is established goes on");
    node.expect(&[
        Probe::closed(client.client(), web.v4(), Tcp(CLOSED)),
        Probe::closed(client.client(), web.v6(), Tcp(CLOSED)),
        // Nobody is there to allow it.
        Probe::closed(other.client(), web.v4(), Tcp(OPEN)),
    ]);
    let closed = |a: &podgate_sandbox::Arrival| a.to.port() == CLOSED || a.from.ip() == other.v4();
    assert_eq!(server.arrivals().into_iter().find(closed), None);

    node.kill();
    fs::remove_file(node.directory().join("many.yaml")).expect("removed");
    node.start(&[]);
    connection.ping(PATIENCE).expect("it still goes on");
    expect_well(&node, &web, &client);
    node.expect(&[Probe::open(other.client(), web.v4(), Tcp(OPEN))]);
}

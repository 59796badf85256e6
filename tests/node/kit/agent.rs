//! One agent: a process of its own, its log and its HTTP address.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use podgate_sandbox::{Netns, Process, mortal};

use super::{LONG, PORT};

/// A running agent.
pub(crate) struct Agent {
    pub(crate) process: Process,
    netns: Netns,
    port: u16,
    pub(super) log: Arc<Log>,
}

#[derive(Default)]
pub(super) struct Log {
    lines: Mutex<(Vec<String>, bool)>,
    grown: Condvar,
}

impl Agent {
    /// Starts one that may not have a capability, such as `net_admin`.
    pub(crate) fn start_without(netns: &Netns, directory: &Path, capability: &str) -> Self {
        let mut command = mortal("setpriv");
        command.arg(format!("--bounding-set=-{capability}")).arg(format!("--inh-caps=-{capability}")).arg(binary());
        Self::spawn(netns, directory, &[], command)
    }

    /// Starts one in a namespace, on a directory of manifests, by a command that becomes it.
    pub(super) fn spawn(
        netns: &Netns,
        directory: &Path,
        arguments: &[&str],
        mut command: std::process::Command,
    ) -> Self {
        command.args(["run", "--manifests"]).arg(directory).args(arguments);
        Self::watch(netns, command)
    }

    /// Starts a command that is an agent, and reads its log.
    pub(super) fn watch(netns: &Netns, mut command: std::process::Command) -> Self {
        // The path of the agent's socket is the machine's, of which the nodes here are many.
        command
            .env("PODGATE_LOG", "podgate=debug,info")
            .env("PODGATE_SOCKET", "off")
            .stderr(Stdio::piped())
            .stdin(Stdio::null());
        let mut process = netns.spawn(command).expect("the agent starts");
        let log = Arc::new(Log::default());
        let (writer, stderr) = (Arc::clone(&log), process.stderr.take().expect("piped"));
        std::thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                writer.lines.lock().expect("no panic").0.push(line);
                writer.grown.notify_all();
            }
            writer.lines.lock().expect("no panic").1 = true;
            writer.grown.notify_all();
        });
        Agent { process, netns: netns.clone(), port: PORT, log }
    }

    /// It was told to answer on this port.
    pub(super) fn on_port(self, port: u16) -> Self {
        Agent { port, ..self }
    }

    /// Asks its HTTP address: status and body.
    pub(crate) fn get(&self, path: &str) -> (u16, String) {
        self.netns.run(|| {
            let mut stream = TcpStream::connect(SocketAddr::from(([127, 0, 0, 1], self.port))).expect("it listens");
            stream.set_read_timeout(Some(LONG)).expect("a timeout");
            write!(stream, "GET {path} HTTP/1.0\r\nHost: node\r\n\r\n").expect("asked");
            let mut answer = String::new();
            stream.read_to_string(&mut answer).expect("answered");
            let status = answer.split(' ').nth(1).and_then(|s| s.parse().ok()).expect("a status");
            (status, answer.split_once("\r\n\r\n").map_or_else(String::new, |(_, body)| body.to_owned()))
        })
    }

    /// The value of a metric, if it is there; see [`Node::metric`].
    pub(crate) fn find_metric(&self, series: &str) -> Option<f64> {
        let text = self.get("/metrics").1;
        let line = text.lines().find(|l| l.strip_prefix(series).is_some_and(|rest| rest.starts_with([' ', '{'])))?;
        line.rsplit(' ').next()?.parse().ok()
    }

    /// A line of `/proc/PID/status`, such as `VmRSS`, in bytes.
    pub(crate) fn memory(&self, what: &str) -> u64 {
        let text = std::fs::read_to_string(format!("/proc/{}/status", self.process.id())).expect("it runs");
        let line = text.lines().find_map(|line| line.strip_prefix(what)?.strip_prefix(':')).expect("such a line");
        line.trim().trim_end_matches("kB").trim().parse::<u64>().expect("a number") << 10
    }

    /// How many notices the kernel could not bring to the sockets of its namespace that want one of these groups of a netlink
    /// protocol (columns 1, 3 and 8: `netlink_native_seq_show` in net/netlink/af_netlink.c).
    pub(crate) fn lost_notices(&self, protocol: u32, groups: u32) -> u64 {
        let text = std::fs::read_to_string(format!("/proc/{}/net/netlink", self.process.id())).expect("it runs");
        let rows = text.lines().skip(1).map(|line| line.split_ascii_whitespace().collect::<Vec<_>>());
        let wants = |row: &[&str]| u32::from_str_radix(row[3], 16).is_ok_and(|wanted| wanted & groups > 0);
        let watching = rows.filter(|row| row[1].parse() == Ok(protocol) && wants(row));
        watching.map(|row| row[8].parse::<u64>().expect("a number")).sum()
    }

    /// Waits until it is ready.
    pub(crate) fn await_ready(&self) {
        let (status, body) = self.get("/readyz?generation=1");
        assert_eq!(status, 200, "not ready: {body}\n{}", self.log.text());
    }

    /// Waits until it is not ready for a reason that contains this. Each look is a request, and the pace.
    pub(crate) fn await_unready(&self, reason: &str) {
        let deadline = Instant::now() + LONG;
        while let (status, body) = self.get("/readyz")
            && !(status == 503 && body.contains(reason))
        {
            assert!(Instant::now() < deadline, "{status} {body}\n{}", self.log.text());
            std::thread::yield_now();
        }
    }

    /// Ends it gracefully.
    pub(crate) fn stop(self) {
        self.process.signal(Signal::SIGTERM);
        let status = self.process.wait(LONG);
        assert!(status.is_some_and(|s| s.success()), "ended with {status:?}\n{}", self.log.text());
    }

    /// Stops it, as it is, until SIGCONT; returns when each of its threads stands still.
    pub(crate) fn stand_still(&self) {
        self.process.signal(Signal::SIGSTOP);
        let threads = PathBuf::from(format!("/proc/{}/task", self.process.id()));
        let stands = |thread: std::io::Result<std::fs::DirEntry>| {
            let stat = thread.and_then(|t| std::fs::read_to_string(t.path().join("stat")));
            // The state follows the name, which is in brackets.
            stat.is_ok_and(|stat| stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('T')))
        };
        let deadline = Instant::now() + LONG;
        while !std::fs::read_dir(&threads).is_ok_and(|mut all| all.all(stands)) {
            assert!(Instant::now() < deadline, "it does not stand still");
            std::thread::yield_now();
        }
    }

    /// What it has logged so far.
    pub(crate) fn log(&self) -> String {
        self.log.text()
    }

    /// Waits for a line of the log that contains this.
    pub(crate) fn await_line(&self, wanted: &str) -> String {
        let deadline = Instant::now() + LONG;
        let mut lines = self.log.lines.lock().expect("no panic");
        loop {
            if let Some(line) = lines.0.iter().find(|l| l.contains(wanted)) {
                return line.clone();
            }
            let left = deadline.saturating_duration_since(Instant::now());
            assert!(!lines.1 && !left.is_zero(), "no `{wanted}` in the log:\n{}", lines.0.join("\n"));
            lines = self.log.grown.wait_timeout(lines, left).expect("no panic").0;
        }
    }

    /// Waits for its end: whether it succeeded, and all it said.
    pub(crate) fn ended(self) -> (bool, String) {
        let status = self.process.wait(LONG).expect("it ends");
        let deadline = Instant::now() + LONG;
        let mut lines = self.log.lines.lock().expect("no panic");
        while !lines.1 && Instant::now() < deadline {
            lines = self.log.grown.wait_timeout(lines, Duration::from_secs(1)).expect("no panic").0;
        }
        (status.success(), lines.0.join("\n"))
    }
}

impl Log {
    pub(super) fn text(&self) -> String {
        self.lines.lock().expect("no panic").0.join("\n")
    }
}

/// The binary under test.
pub(crate) fn binary() -> PathBuf {
    PathBuf::from(env!("CARGO_BIN_EXE_podgate"))
}

/// What becomes the agent. With `PODGATE_OLDER_KERNEL` it is told that it runs on Linux 2.6, and does what it does before
/// 6.12: `make node-older`.
pub(super) fn command() -> std::process::Command {
    if std::env::var_os("PODGATE_OLDER_KERNEL").is_none() {
        return mortal(binary());
    }
    let mut command = mortal("setarch");
    command.arg("--uname-2.6").arg(binary());
    command
}

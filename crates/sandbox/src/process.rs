//! [`Process`]: a child process in a namespace that dies with its namespace's handle, or with this process, however
//! that ends.

use std::io;
use std::process::{Child, ChildStderr, ChildStdin, ChildStdout, Command, ExitStatus};
use std::sync::{Arc, Condvar, Mutex, PoisonError, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{Id, WaitPidFlag, waitid};
use nix::unistd::Pid;

use crate::{Error, Netns};

/// A command that dies with the thread that starts it: add arguments, uid and standard streams, then
/// [`Netns::spawn`]. (`setpriv` of util-linux sets the parent-death signal between fork and exec; the shell then looks
/// whether the parent died before that.)
pub fn mortal(program: impl AsRef<std::ffi::OsStr>) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", "--", "sh", "-c", r#"[ "$PPID" = "$0" ] && exec "$@""#]);
    command.arg(std::process::id().to_string()).arg(program);
    command
}

/// A running child; killed when dropped.
#[derive(Debug)]
pub struct Process {
    life: Arc<Life>,
    /// Its standard input, where piped.
    pub stdin: Option<ChildStdin>,
    /// Its standard output, where piped.
    pub stdout: Option<ChildStdout>,
    /// Its standard error, where piped.
    pub stderr: Option<ChildStderr>,
}

/// A child's life, known to its [`Process`] and to its namespace.
#[derive(Debug)]
pub(crate) struct Life {
    pid: Pid,
    status: Mutex<Option<ExitStatus>>,
    ended: Condvar,
}

impl Netns {
    /// Starts a child process in the namespace; make the command with [`mortal`].
    ///
    /// # Errors
    /// [`Error::Spawn`] where `setpriv` (util-linux) is missing or the process cannot be started.
    pub fn spawn(&self, mut command: Command) -> Result<Process, Error> {
        let program = command.get_program().to_string_lossy().into_owned();
        let (answer, answered) = mpsc::channel();
        let spawned = self
            .errand(Box::new(move || drop(answer.send(command.spawn()))))
            .and_then(|()| answered.recv().unwrap_or_else(|_| Err(io::Error::other("the namespace's thread died"))));
        let spawned = spawned.and_then(Process::new).inspect(|process| self.adopt(&process.life));
        let failed = |source| Error::Spawn { program, namespace: self.name().to_owned(), source };
        spawned.map_err(failed)
    }
}

impl Process {
    fn new(mut child: Child) -> io::Result<Self> {
        let pid = Pid::from_raw(child.id() as i32);
        let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
        let life = Arc::new(Life { pid, status: Mutex::new(None), ended: Condvar::new() });
        let told = Arc::clone(&life);
        thread::Builder::new().name(format!("wait {pid}")).spawn(move || {
            // Seen first, reaped under the lock: nobody signals a number that another process has by then.
            let _ = waitid(Id::Pid(pid), WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT);
            let mut status = told.status.lock().unwrap_or_else(PoisonError::into_inner);
            *status = Some(child.wait().unwrap_or_default());
            told.ended.notify_all();
        })?;
        Ok(Process { life, stdin, stdout, stderr })
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.life.pid.as_raw().unsigned_abs()
    }

    /// Sends a signal; nothing happens if the process has ended.
    pub fn signal(&self, signal: Signal) {
        self.life.signal(signal);
    }

    /// Waits for its end; `None` if it still runs after `timeout`.
    pub fn wait(&self, timeout: Duration) -> Option<ExitStatus> {
        let deadline = Instant::now() + timeout;
        let mut status = self.life.status.lock().unwrap_or_else(PoisonError::into_inner);
        while status.is_none() {
            let left = deadline.checked_duration_since(Instant::now())?;
            status = self.life.ended.wait_timeout(status, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        *status
    }

    /// Whether it still runs.
    pub fn is_running(&self) -> bool {
        self.life.status.lock().unwrap_or_else(PoisonError::into_inner).is_none()
    }

    /// Kills it (SIGKILL) and waits for its end.
    pub fn kill(&self) {
        self.signal(Signal::SIGKILL);
        // SIGKILL cannot be refused; the bound is for a process stuck in the kernel.
        self.wait(Duration::from_secs(10));
    }
}

impl Life {
    pub(crate) fn signal(&self, signal: Signal) {
        let status = self.status.lock().unwrap_or_else(PoisonError::into_inner);
        if status.is_none() {
            // A process that is gone but not yet reaped takes no notice.
            let _ = kill(self.pid, signal);
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

//! [`Netns`]: an anonymous network namespace. It has no name in the file system, so that nothing is left behind
//! however the process ends. Not here: links between namespaces (`host`, `rtnl`), processes (`process`).

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, Weak, mpsc};
use std::thread;

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::signal::Signal;
use nix::unistd::{Uid, setfsuid};

use crate::process::Life;
use crate::rtnl::Rtnl;
use crate::{Client, Error};

/// Work for the thread that lives in the namespace.
pub(crate) type Errand = Box<dyn FnOnce() + Send>;

/// An anonymous network namespace, alive for as long as a handle, a socket or a process is in it. Its loopback is up,
/// IPv6 addresses are usable at once (no duplicate address detection), and router solicitations are off.
#[derive(Clone)]
pub struct Netns {
    inner: Arc<Inner>,
}

struct Inner {
    name: String,
    file: File,
    /// The long-lived thread: child processes are tied to the thread that started them.
    resident: mpsc::Sender<Errand>,
    rtnl: Mutex<Rtnl>,
    children: Mutex<Vec<Weak<Life>>>,
}

impl Drop for Inner {
    fn drop(&mut self) {
        // The resident's end kills those that have set their parent-death signal by now; this, the others.
        let children = self.children.get_mut().unwrap_or_else(PoisonError::into_inner);
        children.iter().filter_map(Weak::upgrade).for_each(|child| child.signal(Signal::SIGKILL));
    }
}

impl Netns {
    /// A new namespace; `name` is for people (thread names, hints).
    ///
    /// # Errors
    /// [`Error::Privilege`] where the process may not make one.
    pub fn new(name: &str) -> Result<Self, Error> {
        let (resident, errands) = mpsc::channel::<Errand>();
        let (ready, made) = mpsc::channel();
        thread::Builder::new()
            .name(format!("ns {name}"))
            .spawn(move || {
                let opened = enter_new();
                let well = opened.is_ok();
                if ready.send(opened).is_ok() && well {
                    errands.into_iter().for_each(|errand| errand());
                }
            })
            .map_err(Error::network("start a thread"))?;
        let (file, rtnl) = made
            .recv()
            .unwrap_or_else(|_| Err(io::Error::other("the namespace's thread died")))
            .map_err(Error::Privilege)?;
        let (rtnl, children) = (Mutex::new(rtnl), Mutex::default());
        let netns = Netns { inner: Arc::new(Inner { name: name.to_owned(), file, resident, rtnl, children }) };
        // What a fresh interface inherits; a missing file means a kernel without IPv6.
        for scope in ["all", "default"] {
            for (key, value) in [("accept_dad", "0"), ("accept_ra", "0"), ("router_solicitations", "0")] {
                let _ = netns.sysctl(&format!("net.ipv6.conf.{scope}.{key}"), value);
            }
            netns.sysctl(&format!("net.ipv4.conf.{scope}.rp_filter"), "0")?;
        }
        netns.rtnl(|r| r.up(1)).map_err(Error::network("bring the loopback up"))?;
        Ok(netns)
    }

    /// Its name, for people.
    pub fn name(&self) -> &str {
        &self.inner.name
    }

    /// Runs a closure in the namespace, on a thread of its own, and returns its value. Sockets that it makes belong
    /// to the namespace wherever they are used later. A panic of the closure goes on in the caller.
    pub fn run<R: Send>(&self, work: impl FnOnce() -> R + Send) -> R {
        let here = || {
            // Cannot fail for a namespace of ours that is open, in a process that could make it.
            setns(&self.inner.file, CloneFlags::CLONE_NEWNET).unwrap_or_else(|e| panic!("enter {}: {e}", self.name()));
            work()
        };
        thread::scope(|scope| match scope.spawn(here).join() {
            Ok(value) => value,
            Err(panic) => std::panic::resume_unwind(panic),
        })
    }

    /// As [`Netns::run`], with another file-system uid: the kernel takes sockets made there for that user's
    /// (`meta skuid`, `SO_PEERCRED` of a socket), while the thread keeps its capabilities over the network.
    pub fn run_as<R: Send>(&self, uid: u32, work: impl FnOnce() -> R + Send) -> R {
        self.run(|| {
            setfsuid(Uid::from_raw(uid));
            work()
        })
    }

    /// Starts a thread that stays in the namespace.
    pub fn thread<R: Send + 'static>(
        &self,
        name: &str,
        work: impl FnOnce() -> R + Send + 'static,
    ) -> io::Result<thread::JoinHandle<R>> {
        let netns = self.clone();
        thread::Builder::new().name(name.to_owned()).spawn(move || {
            setns(&netns.inner.file, CloneFlags::CLONE_NEWNET)
                .unwrap_or_else(|e| panic!("enter {}: {e}", netns.name()));
            // The work may outlive the handle: it must not keep the namespace's thread (and so its children) alive.
            drop(netns);
            work()
        })
    }

    /// Writes a sysctl (`net.ipv4.ip_forward`) of this namespace.
    ///
    /// # Errors
    /// [`Error::Network`] where the kernel has no such setting or refuses the value.
    pub fn sysctl(&self, key: &str, value: &str) -> Result<(), Error> {
        let path = sysctl_path(key);
        self.run(|| fs::write(&path, value)).map_err(Error::network(format!("set {key}={value}")))
    }

    /// Reads a sysctl of this namespace.
    ///
    /// # Errors
    /// [`Error::Network`] where the kernel has no such setting.
    pub fn read_sysctl(&self, key: &str) -> Result<String, Error> {
        let path = sysctl_path(key);
        let text = self.run(|| fs::read_to_string(&path)).map_err(Error::network(format!("read {key}")))?;
        Ok(text.trim().to_owned())
    }

    /// A client in the namespace.
    pub fn client(&self) -> Client {
        Client::new(self.clone())
    }

    /// How a person enters the namespace while this process lives.
    pub fn hint(&self) -> String {
        format!("nsenter --net=/proc/{}/fd/{}", std::process::id(), self.inner.file.as_raw_fd())
    }

    /// The namespace as a file: for `setns`, or to move a link into it.
    pub fn file(&self) -> BorrowedFd<'_> {
        std::os::fd::AsFd::as_fd(&self.inner.file)
    }

    /// Names the namespace under /run/netns (`ip netns exec NAME …`) for as long as the guard lives.
    ///
    /// # Errors
    /// [`Error::Usage`] if the name is taken, [`Error::Network`] if it cannot be mounted.
    pub fn persist(&self, name: &str) -> Result<Persisted, Error> {
        let path = Path::new(NAMED).join(name);
        let what = || format!("name the namespace {}", path.display());
        fs::create_dir_all(NAMED).map_err(Error::network(what()))?;
        if path.exists() {
            return Err(Error::Usage(format!("{} is there already: `ip netns del {name}` removes it", path.display())));
        }
        File::create(&path).map_err(Error::network(what()))?;
        let source = format!("/proc/self/fd/{}", self.inner.file.as_raw_fd());
        let guard = Persisted { path };
        mount(Some(source.as_str()), &guard.path, None::<&str>, MsFlags::MS_BIND, None::<&str>)
            .map_err(Error::network(format!("name the namespace {}", guard.path.display())))?;
        Ok(guard)
    }

    /// Gives work to the resident thread.
    pub(crate) fn errand(&self, errand: Errand) -> io::Result<()> {
        self.inner.resident.send(errand).map_err(|_| io::Error::other("the namespace's thread died"))
    }

    /// Remembers a child, to end it with the namespace.
    pub(crate) fn adopt(&self, child: &Arc<Life>) {
        let mut children = self.inner.children.lock().unwrap_or_else(PoisonError::into_inner);
        children.retain(|c| c.strong_count() > 0);
        children.push(Arc::downgrade(child));
    }

    /// Talks rtnetlink to the namespace.
    pub(crate) fn rtnl<R>(&self, talk: impl FnOnce(&mut Rtnl) -> io::Result<R>) -> io::Result<R> {
        talk(&mut self.inner.rtnl.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl std::fmt::Debug for Netns {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Netns").field("name", &self.inner.name).field("enter", &self.hint()).finish()
    }
}

const NAMED: &str = "/run/netns";

/// A name under /run/netns; taken away when dropped.
#[derive(Debug)]
pub struct Persisted {
    path: PathBuf,
}

impl Drop for Persisted {
    fn drop(&mut self) {
        unmount(&self.path);
    }
}

/// Takes away the names under /run/netns that begin with `prefix`, which a process that was killed left behind.
/// Returns those that were there.
pub fn remove_persisted(prefix: &str) -> Vec<String> {
    let Ok(entries) = fs::read_dir(NAMED) else { return Vec::new() };
    let names = entries.flatten().filter_map(|e| e.file_name().into_string().ok());
    let mut left: Vec<_> = names.filter(|n| n.starts_with(prefix)).collect();
    left.sort();
    left.iter().for_each(|name| unmount(&Path::new(NAMED).join(name)));
    left
}

fn unmount(path: &Path) {
    // Not mounted (killed between create and mount): the file still has to go.
    let _ = umount2(path, MntFlags::MNT_DETACH);
    let _ = fs::remove_file(path);
}

fn enter_new() -> io::Result<(File, Rtnl)> {
    unshare(CloneFlags::CLONE_NEWNET)?;
    Ok((File::open("/proc/thread-self/ns/net")?, Rtnl::open()?))
}

fn sysctl_path(key: &str) -> PathBuf {
    Path::new("/proc/sys").join(key.replace('.', "/"))
}

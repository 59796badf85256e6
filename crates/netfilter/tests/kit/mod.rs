//! A node and its pods as anonymous network namespaces, and a queue reader: what these tests stand on.
//!
//! Nothing here touches the namespace that the tests are started in, and nothing has a name that could be left behind:
//! namespaces end with the descriptors that hold them.

#![allow(dead_code, clippy::unwrap_used)]

pub(crate) mod conntrack;

use std::fs::File;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::fd::{AsFd, AsRawFd};
use std::process::Command;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::sched::{CloneFlags, setns, unshare};
use podgate_netfilter::queue::{Fate, MmsgQueue, Packet, Queue, QueueSettings, Received, Waker, queue_stats};
use podgate_netfilter::{Marks, Way};

/// Longest wait for something that has to happen.
pub(crate) const SOON: Duration = Duration::from_secs(10);
/// How long something is watched that must not happen and that nothing else would tell.
pub(crate) const NEVER: Duration = Duration::from_millis(300);

/// A network namespace, held by a descriptor.
#[derive(Clone)]
pub(crate) struct Namespace(Arc<File>);

impl Namespace {
    pub(crate) fn new() -> Self {
        let make = || {
            unshare(CloneFlags::CLONE_NEWNET).expect("these tests make network namespaces: run them as root");
            File::open("/proc/thread-self/ns/net").unwrap()
        };
        let namespace = Self(Arc::new(std::thread::spawn(make).join().unwrap()));
        namespace.sh("ip link set lo up");
        namespace
    }

    /// Runs `f` in a thread of this namespace.
    pub(crate) fn run<T: Send>(&self, f: impl FnOnce() -> T + Send) -> T {
        std::thread::scope(|scope| {
            let inside = || {
                setns(self.0.as_fd(), CloneFlags::CLONE_NEWNET).unwrap();
                f()
            };
            match scope.spawn(inside).join() {
                Ok(value) => value,
                Err(panic) => std::panic::resume_unwind(panic),
            }
        })
    }

    /// Starts `f` in a thread of this namespace.
    pub(crate) fn spawn<T: Send + 'static>(&self, f: impl FnOnce() -> T + Send + 'static) -> JoinHandle<T> {
        let inside = self.clone();
        std::thread::spawn(move || {
            setns(inside.0.as_fd(), CloneFlags::CLONE_NEWNET).unwrap();
            f()
        })
    }

    /// Runs shell commands in it; each has to succeed. Returns what they print.
    pub(crate) fn sh(&self, script: &str) -> String {
        let output = self.run(|| Command::new("sh").args(["-ec", script]).output().unwrap());
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{script}\n{error}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// A path by which `ip` finds it.
    pub(crate) fn path(&self) -> String {
        format!("/proc/{}/fd/{}", std::process::id(), self.0.as_raw_fd())
    }

    pub(crate) fn udp(&self, address: SocketAddr) -> UdpSocket {
        let socket = self.run(|| UdpSocket::bind(address).unwrap());
        socket.set_read_timeout(Some(SOON)).unwrap();
        socket
    }
}

/// A node with pods behind routed veth pairs. Pod `n` has 10.1.0.n and fd01::n; the node 10.1.0.1 and fd01::1.
pub(crate) struct Node {
    pub(crate) at: Namespace,
}

pub(crate) fn v4(n: u8) -> IpAddr {
    IpAddr::from([10, 1, 0, n])
}

pub(crate) fn v6(n: u16) -> IpAddr {
    IpAddr::from([0xfd01, 0, 0, 0, 0, 0, 0, n])
}

impl Node {
    pub(crate) fn new() -> Self {
        let at = Namespace::new();
        at.sh("sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1 net.ipv4.ping_group_range='0 0'");
        Self { at }
    }

    /// A pod with its two addresses.
    pub(crate) fn pod(&self, n: u8) -> Namespace {
        self.routed(n, &format!("10.1.0.{n}"), &format!("fd01::{n:x}"))
    }

    /// Somebody behind the node who is no pod: 192.0.2.n and fd02::n.
    pub(crate) fn stranger(&self, n: u8) -> Namespace {
        self.routed(n, &format!("192.0.2.{n}"), &format!("fd02::{n:x}"))
    }

    fn routed(&self, n: u8, v4: &str, v6: &str) -> Namespace {
        let pod = Namespace::new();
        self.at.sh(&format!(
            "ip link add veth{n} type veth peer name eth0 netns {path}
             ip addr add 10.1.0.1/32 dev veth{n}; ip addr add fd01::1/128 dev veth{n} nodad
             ip link set veth{n} up",
            path = pod.path()
        ));
        pod.sh(&format!(
            "ip addr add {v4}/32 dev eth0; ip addr add {v6}/128 dev eth0 nodad
             sysctl -qw net.ipv6.conf.eth0.accept_dad=0 net.ipv4.ping_group_range='0 0'
             ip link set eth0 up
             ip route add 10.1.0.1 dev eth0; ip route add default via 10.1.0.1
             ip -6 route add fd01::1 dev eth0; ip -6 route add default via fd01::1"
        ));
        self.at.sh(&format!("ip route add {v4} dev veth{n}; ip -6 route add {v6} dev veth{n}"));
        pod
    }
}

/// A packet that came up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) way: Option<Way>,
    pub(crate) mark: u32,
    /// `NF_INET_*`
    pub(crate) hook: u8,
    pub(crate) source: IpAddr,
    pub(crate) destination: IpAddr,
    pub(crate) protocol: u8,
    /// Bytes of the whole packet, as its IP header tells.
    pub(crate) length: usize,
    /// What follows the IP header, as far as it was copied.
    pub(crate) rest: Vec<u8>,
}

/// What becomes of a packet that came up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Say {
    /// Accept, and have the connection remembered.
    Remember,
    /// Accept this packet only.
    Pass,
    Drop,
}

type Judge = Mutex<Box<dyn FnMut(&Seen) -> Say + Send>>;

/// Reads a queue and says what it is told to, in its own thread, until it is dropped.
pub(crate) struct Reader {
    pub(crate) seen: Receiver<Seen>,
    say: Arc<Judge>,
    waker: Waker,
    thread: Option<JoinHandle<()>>,
}

impl Reader {
    pub(crate) fn start(at: &Namespace, queue: u16, say: Say) -> Self {
        let say: Arc<Judge> = Arc::new(Mutex::new(Box::new(move |_| say)));
        let (sender, seen) = channel();
        let (ready, is_ready) = channel();
        let says = say.clone();
        let thread = at.spawn(move || {
            let bound = MmsgQueue::bind(&QueueSettings::new(queue)).unwrap_or_else(|e| panic!("{e}"));
            ready.send(bound.waker()).unwrap();
            read(bound, &sender, &says);
            // A child process that another test is starting may have the dropped socket for a moment, from its fork to
            // its exec.
            let start = Instant::now();
            while queue_stats().unwrap().iter().any(|s| s.number == queue) {
                assert!(start.elapsed() < SOON, "queue {queue} is still bound");
                std::thread::yield_now();
            }
        });
        let waker = is_ready.recv().unwrap();
        Self { seen, say, waker, thread: Some(thread) }
    }

    /// From now on it says this.
    pub(crate) fn say(&self, say: Say) {
        self.say_by(move |_| say);
    }

    pub(crate) fn say_by(&self, say: impl FnMut(&Seen) -> Say + Send + 'static) {
        *self.say.lock().unwrap() = Box::new(say);
    }

    /// The next packet that came up.
    pub(crate) fn next(&self) -> Seen {
        self.seen.recv_timeout(SOON).expect("nothing came up")
    }

    /// Everything that has come up so far.
    pub(crate) fn so_far(&self) -> Vec<Seen> {
        self.seen.try_iter().collect()
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.waker.wake();
        let ended = self.thread.take().map(JoinHandle::join);
        if let (Some(Err(panic)), false) = (ended, std::thread::panicking()) {
            std::panic::resume_unwind(panic);
        }
    }
}

fn read(mut queue: MmsgQueue, seen: &Sender<Seen>, say: &Judge) {
    let marks = Marks::default();
    loop {
        match queue.receive(None).unwrap() {
            Received::Woken => return,
            Received::TimedOut => {}
            Received::Packets(_) => queue
                .answer(&mut |packet| {
                    let packet = parse(&marks, packet);
                    let fate = (say.lock().unwrap())(&packet);
                    let mark = packet.mark;
                    // Nobody may be interested any more.
                    let _ = seen.send(packet);
                    match fate {
                        Say::Remember => {
                            Fate::Accept { mark: marks.remember(mark, podgate_netfilter::Orientation::AsMet) }
                        }
                        Say::Pass => Fate::Accept { mark: marks.pass(mark) },
                        Say::Drop => Fate::Drop,
                    }
                })
                .unwrap(),
        }
    }
}

fn parse(marks: &Marks, packet: &Packet<'_>) -> Seen {
    let bytes = packet.payload;
    let number = |at: usize| usize::from(u16::from_be_bytes([bytes[at], bytes[at + 1]]));
    let (source, destination, protocol, length, rest) = match bytes[0] >> 4 {
        4 => {
            let address = |at: usize| IpAddr::from(<[u8; 4]>::try_from(&bytes[at..at + 4]).unwrap());
            (address(12), address(16), bytes[9], number(2), &bytes[usize::from(bytes[0] & 15) * 4..])
        }
        _ => {
            let address = |at: usize| IpAddr::from(<[u8; 16]>::try_from(&bytes[at..at + 16]).unwrap());
            (address(8), address(24), bytes[6], 40 + number(4), &bytes[40..])
        }
    };
    let (mark, hook, rest) = (packet.mark, packet.hook, rest.to_vec());
    Seen { way: marks.way(mark), mark, hook, source, destination, protocol, length, rest }
}

/// Sends `text` and waits until it arrives at the other socket; false if it does not within `wait`.
pub(crate) fn arrives(from: &UdpSocket, to: &UdpSocket, address: SocketAddr, text: &str, wait: Duration) -> bool {
    from.send_to(text.as_bytes(), address).unwrap();
    to.set_read_timeout(Some(wait)).unwrap();
    let mut buffer = [0; 64];
    loop {
        match to.recv_from(&mut buffer) {
            Ok((length, _)) if &buffer[..length] == text.as_bytes() => return true,
            Ok(_) => {}
            Err(_) => return false,
        }
    }
}

//! A steady load of new connections and datagrams between two pods, in which no single packet is lost unnoticed, and of
//! forbidden ones, of which none may arrive.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use podgate_sandbox::{Netns, Pod, Server};
use socket2::{Domain, SockRef, Socket, Type};

/// Below the second after which a lost SYN is sent again: a connection that needs longer lost a packet.
const NO_RETRANSMISSION: Duration = Duration::from_millis(900);

/// Ports of the load; the policy must open the first and close the second.
pub(crate) const OPEN: u16 = 80;
pub(crate) const CLOSED: u16 = 81;

/// A running load; stops when dropped.
pub(crate) struct Load {
    counts: Arc<Counts>,
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
    /// Of the closed port: whatever arrives here leaked.
    closed: Server,
}

#[derive(Debug, Default)]
struct Counts {
    connections: AtomicU64,
    lost_connections: AtomicU64,
    datagrams: AtomicU64,
    lost_datagrams: AtomicU64,
    forbidden: AtomicU64,
    slowest: AtomicU64,
    /// For those who wait for more connections.
    waiting: Mutex<()>,
    grown: Condvar,
}

/// What a load has come to.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Came {
    /// Connections that came about with their first SYN.
    pub(crate) connections: u64,
    /// Those that did not.
    pub(crate) lost_connections: u64,
    /// Datagrams of new flows that were echoed.
    pub(crate) datagrams: u64,
    /// Those that were not.
    pub(crate) lost_datagrams: u64,
    /// Forbidden SYNs and datagrams that were sent.
    pub(crate) forbidden: u64,
    /// Of them, those that arrived.
    pub(crate) leaked: usize,
    /// The longest that a connection took to come about.
    pub(crate) slowest: Duration,
}

impl Load {
    /// From `client` to `to`, which has a server on [`OPEN`] and none on [`CLOSED`]: `rate` new connections a second
    /// over `workers` threads, and as many forbidden packets, and a quarter of it datagrams.
    pub(crate) fn start(client: &Pod, to: &Pod, rate: u32, workers: u32) -> Self {
        let closed = to.server(&[CLOSED], &[CLOSED]).expect("a server");
        let (counts, stop) = (Arc::<Counts>::default(), Arc::<AtomicBool>::default());
        let IpAddr::V4(address) = to.v4() else { panic!("an IPv4 address") };
        let mut threads = Vec::new();
        let mut start = |every: Duration, netns: &Netns, mut step: Box<dyn FnMut(&Counts) + Send>| {
            let (counts, stop) = (Arc::clone(&counts), Arc::clone(&stop));
            let work = move || {
                let mut next = Instant::now();
                while !stop.load(Ordering::Relaxed) {
                    step(&counts);
                    next += every;
                    // The pace of a load is a matter of time; one that falls behind goes on as fast as it can.
                    match next.checked_duration_since(Instant::now()) {
                        Some(left) => std::thread::sleep(left),
                        None => next = Instant::now(),
                    }
                }
            };
            threads.push(netns.thread("load", work).expect("a thread"));
        };
        for _ in 0..workers {
            let every = Duration::from_secs(1) * workers / rate;
            start(every, client.netns(), Box::new(move |counts| connect(address, counts)));
        }
        let every = Duration::from_secs(4) / rate;
        start(every, client.netns(), Box::new(move |counts| echo(address, counts)));
        let every = Duration::from_secs(2) / rate;
        start(every, client.netns(), Box::new(move |counts| knock(address, counts)));
        Load { counts, stop, threads, closed }
    }

    /// What it has come to so far.
    pub(crate) fn so_far(&self) -> Came {
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        let counts = &self.counts;
        Came {
            connections: read(&counts.connections),
            lost_connections: read(&counts.lost_connections),
            datagrams: read(&counts.datagrams),
            lost_datagrams: read(&counts.lost_datagrams),
            forbidden: read(&counts.forbidden),
            leaked: self.closed.arrivals().len(),
            slowest: Duration::from_nanos(read(&counts.slowest)),
        }
    }

    /// Waits until so many more connections came about.
    pub(crate) fn await_connections(&self, more: u64) {
        let wanted = self.so_far().connections + more;
        let deadline = Instant::now() + crate::kit::LONG;
        let mut waiting = self.counts.waiting.lock().expect("no panic");
        while self.so_far().connections < wanted {
            assert!(Instant::now() < deadline, "{:?}", self.so_far());
            waiting = self.counts.grown.wait_timeout(waiting, Duration::from_millis(100)).expect("no panic").0;
        }
    }

    /// Stops it.
    pub(crate) fn stop(mut self) -> Came {
        self.join();
        self.so_far()
    }

    fn join(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            // A panic has been told by the thread itself, and no figure would be right after it.
            thread.join().expect("no panic");
        }
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

impl Came {
    /// Fails if a single packet was lost or leaked.
    #[track_caller]
    pub(crate) fn lost_nothing_and_leaked_nothing(&self, log: &str) {
        let lost = self.lost_connections + self.lost_datagrams;
        assert!(lost == 0 && self.leaked == 0 && self.slowest < NO_RETRANSMISSION, "{self:?}\n{log}");
        assert!(self.connections > 0 && self.datagrams > 0 && self.forbidden > 0, "{self:?}");
    }
}

/// One connection, reset at once, so that no port is taken for a minute.
fn connect(address: Ipv4Addr, counts: &Counts) {
    let begun = Instant::now();
    match TcpStream::connect_timeout(&SocketAddr::from((address, OPEN)), NO_RETRANSMISSION) {
        Ok(stream) => {
            counts.slowest.fetch_max(begun.elapsed().as_nanos() as u64, Ordering::Relaxed);
            counts.connections.fetch_add(1, Ordering::Relaxed);
            counts.grown.notify_all();
            SockRef::from(&stream).set_linger(Some(Duration::ZERO)).expect("set");
        }
        Err(_) => drop(counts.lost_connections.fetch_add(1, Ordering::Relaxed)),
    }
}

/// One datagram from a new port, and its echo.
fn echo(address: Ipv4Addr, counts: &Counts) {
    let socket = UdpSocket::bind("0.0.0.0:0").expect("bound");
    socket.set_read_timeout(Some(NO_RETRANSMISSION)).expect("set");
    socket.connect((address, OPEN)).expect("connected");
    let echoed = socket.send(b"datagram").and_then(|_| socket.recv(&mut [0; 16]));
    let count = if echoed.is_ok() { &counts.datagrams } else { &counts.lost_datagrams };
    count.fetch_add(1, Ordering::Relaxed);
}

/// A SYN and a datagram to the closed port, from new ports.
fn knock(address: Ipv4Addr, counts: &Counts) {
    let to = SocketAddr::from((address, CLOSED));
    let syn = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    syn.set_nonblocking(true).expect("set");
    let begun = syn.connect(&to.into()).expect_err("it takes its time");
    assert_eq!(begun.raw_os_error(), Some(nix::libc::EINPROGRESS));
    let socket = UdpSocket::bind("0.0.0.0:0").expect("bound");
    socket.send_to(b"forbidden", to).expect("sent");
    counts.forbidden.fetch_add(2, Ordering::Relaxed);
}

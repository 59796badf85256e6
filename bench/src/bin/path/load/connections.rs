//! Connections: connect, one byte there, one byte back, reset. A reset leaves no TIME_WAIT behind, so that ports do
//! not run out and every connection is a new one to conntrack.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Barrier;
use std::time::{Duration, Instant};

use podgate_sandbox::Netns;
use socket2::{Domain, Socket, Type};

use super::Latency;

/// Threads of the server: as many as connections at once, and some for those that are just being closed.
const SERVERS: usize = 24;
/// How long one step of a connection may take before it counts as failed.
pub(super) const PATIENCE: Duration = Duration::from_secs(2);

/// What came of a measurement.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Made {
    /// Connections (or exchanges) that went through.
    pub(crate) made: u64,
    /// Those that did not.
    pub(crate) failed: u64,
    /// Those that did, per second.
    pub(crate) per_second: f64,
    /// How long each of those took.
    pub(crate) latency: Latency,
}

impl Made {
    /// The share that failed.
    pub(crate) fn lost(&self) -> f64 {
        self.failed as f64 / (self.failed + self.made).max(1) as f64
    }
}

/// What one thread did.
pub(super) struct Share {
    pub(super) failed: u64,
    pub(super) nanoseconds: Vec<u32>,
    pub(super) time: Duration,
}

/// Serves on the port, in the namespace, until the process ends.
pub(crate) fn serve(server: &Netns, port: u16) -> io::Result<()> {
    let listener = server.run(|| TcpListener::bind(("0.0.0.0", port)))?;
    for _ in 0..SERVERS {
        let listener = listener.try_clone()?;
        std::thread::Builder::new().name("server".to_owned()).spawn(move || {
            for stream in listener.incoming() {
                // A client that went away is the client's failure, and counted there.
                let _ = stream.and_then(answer);
            }
        })?;
    }
    Ok(())
}

/// Answers each byte with itself until the client's reset.
fn answer(mut stream: TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut byte = [0];
    while stream.read(&mut byte)? > 0 {
        stream.write_all(&byte)?;
    }
    Ok(())
}

/// Makes connections for a time, `at_once` at a time.
pub(crate) fn run(client: &Netns, to: SocketAddr, at_once: usize, during: Duration) -> io::Result<Made> {
    together(client, at_once, |barrier| {
        barrier.wait();
        let (start, mut failed, mut nanoseconds) = (Instant::now(), 0, Vec::with_capacity(1 << 16));
        while start.elapsed() < during {
            let begin = Instant::now();
            match once(to) {
                Ok(()) => nanoseconds.push(u32::try_from(begin.elapsed().as_nanos()).unwrap_or(u32::MAX)),
                Err(_) => failed += 1,
            }
        }
        Ok(Share { failed, nanoseconds, time: start.elapsed() })
    })
}

/// Lets threads in the namespace do the same thing at the same time, and adds up what they did.
pub(super) fn together(
    client: &Netns,
    threads: usize,
    work: impl Fn(&Barrier) -> io::Result<Share> + Sync,
) -> io::Result<Made> {
    let barrier = Barrier::new(threads);
    let shares: io::Result<Vec<Share>> = client.run(|| {
        std::thread::scope(|scope| {
            let threads: Vec<_> = (0..threads).map(|_| scope.spawn(|| work(&barrier))).collect();
            threads.into_iter().map(|t| t.join().map_err(|_| io::Error::other("a client panicked"))?).collect()
        })
    });
    let shares = shares?;
    let nanoseconds: Vec<u32> = shares.iter().flat_map(|share| share.nanoseconds.iter().copied()).collect();
    Ok(Made {
        made: nanoseconds.len() as u64,
        failed: shares.iter().map(|share| share.failed).sum(),
        // Each thread is over when its last connection is: its own time counts.
        per_second: shares.iter().map(|s| s.nanoseconds.len() as f64 / s.time.as_secs_f64()).sum(),
        latency: Latency::of(&nanoseconds),
    })
}

fn once(to: SocketAddr) -> io::Result<()> {
    let mut stream = connect(to)?;
    stream.write_all(b"?")?;
    stream.read_exact(&mut [0])
}

/// A connection that ends with a reset, and whose steps take a bounded time.
pub(super) fn connect(to: SocketAddr) -> io::Result<TcpStream> {
    let socket = Socket::new(Domain::for_address(to), Type::STREAM, None)?;
    // Bounds connect as well.
    socket.set_write_timeout(Some(PATIENCE))?;
    socket.set_read_timeout(Some(PATIENCE))?;
    socket.set_tcp_nodelay(true)?;
    socket.set_linger(Some(Duration::ZERO))?;
    socket.connect(&to.into())?;
    Ok(socket.into())
}

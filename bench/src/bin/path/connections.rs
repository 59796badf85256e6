//! Connections: connect, one byte there, one byte back, reset. A reset leaves no TIME_WAIT behind, so that ports do
//! not run out and every connection is a new one to conntrack.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Barrier;
use std::time::{Duration, Instant};

use podgate_sandbox::Netns;
use socket2::{Domain, Socket, Type};

/// Threads of the server: as many as connections at once, and some for those that are just being closed.
const SERVERS: usize = 24;
/// How long one step of a connection may take before it counts as failed.
const PATIENCE: Duration = Duration::from_secs(2);

/// What came of a measurement.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Made {
    /// Connections that went through.
    pub(crate) made: u64,
    /// Those that did not.
    pub(crate) failed: u64,
    /// Those that did, per second.
    pub(crate) per_second: f64,
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

/// Answers a byte with itself and waits for the client's reset.
fn answer(mut stream: TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut byte = [0];
    stream.read_exact(&mut byte)?;
    stream.write_all(&byte)?;
    stream.read(&mut byte).map(drop)
}

/// Makes connections for a time, `at_once` at a time.
pub(crate) fn run(client: &Netns, to: SocketAddr, at_once: usize, during: Duration) -> io::Result<Made> {
    let barrier = Barrier::new(at_once);
    let work = || {
        barrier.wait();
        let (start, mut made, mut failed) = (Instant::now(), 0, 0);
        while start.elapsed() < during {
            match once(to) {
                Ok(()) => made += 1,
                Err(_) => failed += 1,
            }
        }
        (made, failed, start.elapsed())
    };
    let counts: io::Result<Vec<(u64, u64, Duration)>> = client.run(|| {
        std::thread::scope(|scope| {
            let threads: Vec<_> = (0..at_once).map(|_| scope.spawn(work)).collect();
            threads.into_iter().map(|t| t.join().map_err(|_| io::Error::other("a client panicked"))).collect()
        })
    });
    let counts = counts?;
    let made = counts.iter().map(|(made, ..)| made).sum();
    let failed = counts.iter().map(|(_, failed, _)| failed).sum();
    // Each thread is over when its last connection is: its own time counts.
    let per_second = counts.iter().map(|(made, _, time)| *made as f64 / time.as_secs_f64()).sum();
    Ok(Made { made, failed, per_second })
}

fn once(to: SocketAddr) -> io::Result<()> {
    let socket = Socket::new(Domain::for_address(to), Type::STREAM, None)?;
    // Bounds connect as well.
    socket.set_write_timeout(Some(PATIENCE))?;
    socket.set_read_timeout(Some(PATIENCE))?;
    socket.set_tcp_nodelay(true)?;
    socket.set_linger(Some(Duration::ZERO))?;
    socket.connect(&to.into())?;
    let mut stream = TcpStream::from(socket);
    stream.write_all(b"?")?;
    stream.read_exact(&mut [0])
}

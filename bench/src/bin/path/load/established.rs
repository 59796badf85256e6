//! Connections that stand already: how many bytes pass, and how many times a byte goes there and back.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Barrier;
use std::time::{Duration, Instant};

use podgate_sandbox::Netns;

use super::connections::{Made, Share, connect, together};

/// Connections that bytes are sent over.
const STREAMS: usize = 4;
/// Bytes per system call.
const PIECE: usize = 128 << 10;

/// Swallows what is sent to the port, and tells each client how much that was, until the process ends.
pub(crate) fn swallow(server: &Netns, port: u16) -> io::Result<()> {
    let listener = server.run(|| TcpListener::bind(("0.0.0.0", port)))?;
    for _ in 0..STREAMS {
        let listener = listener.try_clone()?;
        std::thread::Builder::new().name("swallow".to_owned()).spawn(move || {
            for stream in listener.incoming() {
                // A client that went away is the client's failure, and told there.
                let _ = stream.and_then(count);
            }
        })?;
    }
    Ok(())
}

fn count(mut stream: TcpStream) -> io::Result<()> {
    let (mut buffer, mut total) = (vec![0; PIECE], 0u64);
    loop {
        match stream.read(&mut buffer)? {
            0 => return stream.write_all(&total.to_be_bytes()),
            length => total += length as u64,
        }
    }
}

/// Bytes a second that arrive over a few connections.
pub(crate) fn throughput(client: &Netns, to: SocketAddr, during: Duration) -> io::Result<f64> {
    let barrier = Barrier::new(STREAMS);
    let stream = || -> io::Result<f64> {
        // All threads must come to the barrier, also one without a connection.
        let stream = connect(to);
        let piece = vec![0x5a; PIECE];
        barrier.wait();
        let mut stream = stream?;
        let start = Instant::now();
        while start.elapsed() < during {
            stream.write_all(&piece)?;
        }
        stream.shutdown(Shutdown::Write)?;
        // What counts is what arrived: buffers are empty when the answer comes.
        let mut total = [0; 8];
        stream.read_exact(&mut total)?;
        Ok(u64::from_be_bytes(total) as f64 / start.elapsed().as_secs_f64())
    };
    client.run(|| {
        std::thread::scope(|scope| {
            let threads: Vec<_> = (0..STREAMS).map(|_| scope.spawn(stream)).collect();
            threads.into_iter().map(|t| t.join().map_err(|_| io::Error::other("a client panicked"))?).sum()
        })
    })
}

/// A byte there and back, again and again, over connections that stay; to a server of `connections`.
pub(crate) fn exchanges(client: &Netns, to: SocketAddr, at_once: usize, during: Duration) -> io::Result<Made> {
    together(client, at_once, |barrier| {
        // All threads must come to the barrier, also one without a connection.
        let stream = connect(to);
        barrier.wait();
        let mut stream = stream?;
        let (start, mut nanoseconds) = (Instant::now(), Vec::with_capacity(1 << 16));
        while start.elapsed() < during {
            let begin = Instant::now();
            stream.write_all(b"?")?;
            stream.read_exact(&mut [0])?;
            nanoseconds.push(u32::try_from(begin.elapsed().as_nanos()).unwrap_or(u32::MAX));
        }
        Ok(Share { failed: 0, nanoseconds, time: start.elapsed() })
    })
}

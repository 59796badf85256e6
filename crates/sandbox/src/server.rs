//! [`Server`]: answers with its name, echoes, and remembers what arrived. One thread for all ports.

use std::collections::HashMap;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use socket2::{Domain, Protocol, Socket, Type};

use crate::{Error, Netns};

/// Something that reached a server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Arrival {
    /// Who sent it, as the server sees it.
    pub from: SocketAddr,
    /// The address and port it was sent to.
    pub to: SocketAddr,
    /// What it was.
    pub kind: ArrivalKind,
}

/// What reached a server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ArrivalKind {
    /// A TCP connection was accepted.
    Connection,
    /// Bytes on a TCP connection.
    Data(Vec<u8>),
    /// A UDP datagram.
    Datagram(Vec<u8>),
}

/// A TCP and UDP server. A request that begins with `GET ` is answered with its name by HTTP/1.0; anything else is
/// echoed. Stops when dropped; its connections are closed with it.
#[derive(Debug)]
pub struct Server {
    book: Arc<Book>,
    stop: UnixStream,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Book {
    arrivals: Mutex<Vec<Arrival>>,
    more: Condvar,
    silent: Mutex<bool>,
    /// Connections by their other end, for [`Server::say`].
    streams: Mutex<HashMap<SocketAddr, TcpStream>>,
}

impl Server {
    /// Listens on each TCP port (any address of both families) and UDP port (each of `addresses`, so that an answer
    /// comes from the address that was asked).
    ///
    /// # Errors
    /// [`Error::Network`] if a port is taken.
    pub fn start(netns: &Netns, name: &str, addresses: &[IpAddr], tcp: &[u16], udp: &[u16]) -> Result<Self, Error> {
        let failed = || Error::network::<io::Error>(format!("start server {name} on TCP {tcp:?}, UDP {udp:?}"));
        let (listeners, datagrams) = netns.run(|| bind_all(addresses, tcp, udp)).map_err(failed())?;
        let (stop, stopped) = UnixStream::pair().map_err(failed())?;
        let book = Arc::new(Book::default());
        let mut work = Loop {
            name: name.to_owned(),
            book: Arc::clone(&book),
            listeners,
            datagrams,
            connections: HashMap::new(),
            stopped,
        };
        let thread =
            std::thread::Builder::new().name(format!("server {name}")).spawn(move || work.run()).map_err(failed())?;
        Ok(Server { book, stop, thread: Some(thread) })
    }

    /// From now on nothing is answered, only noted: for one-way traffic.
    pub fn silence(&self) {
        *self.book.silent.lock().unwrap_or_else(PoisonError::into_inner) = true;
    }

    /// Sends on the connection that was accepted from `peer`: the server speaks first.
    ///
    /// # Errors
    /// `NotFound` without such a connection, or what the socket says.
    pub fn say(&self, peer: SocketAddr, data: &[u8]) -> io::Result<()> {
        let streams = self.book.streams.lock().unwrap_or_else(PoisonError::into_inner);
        let mut stream = streams.get(&peer).ok_or(ErrorKind::NotFound)?;
        stream.write_all(data)
    }

    /// Everything that has arrived so far.
    pub fn arrivals(&self) -> Vec<Arrival> {
        self.book.arrivals.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Waits until something that `wanted` accepts has arrived (before or during the wait).
    pub fn await_arrival(&self, timeout: Duration, wanted: impl Fn(&Arrival) -> bool) -> Option<Arrival> {
        let deadline = Instant::now() + timeout;
        let mut arrivals = self.book.arrivals.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            if let Some(found) = arrivals.iter().find(|a| wanted(a)) {
                return Some(found.clone());
            }
            let left = deadline.checked_duration_since(Instant::now())?;
            arrivals = self.book.more.wait_timeout(arrivals, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.stop.write_all(b"x");
        self.thread.take().map(JoinHandle::join);
    }
}

fn bind_all(addresses: &[IpAddr], tcp: &[u16], udp: &[u16]) -> io::Result<(Vec<TcpListener>, Vec<UdpSocket>)> {
    let any = [IpAddr::from(Ipv4Addr::UNSPECIFIED), Ipv6Addr::UNSPECIFIED.into()];
    let listen = |to: SocketAddr| -> io::Result<TcpListener> {
        let socket = Socket::new(Domain::for_address(to), Type::STREAM, Some(Protocol::TCP))?;
        socket.set_reuse_address(true)?;
        if to.is_ipv6() {
            socket.set_only_v6(true)?;
        }
        socket.bind(&to.into())?;
        socket.listen(1024)?;
        socket.set_nonblocking(true)?;
        Ok(socket.into())
    };
    let datagram = |at: SocketAddr| -> io::Result<UdpSocket> {
        let socket = UdpSocket::bind(at)?;
        socket.set_nonblocking(true)?;
        Ok(socket)
    };
    let tcp = tcp.iter().flat_map(|p| any.map(|a| listen((a, *p).into()))).collect::<io::Result<_>>()?;
    let udp =
        udp.iter().flat_map(|p| addresses.iter().map(|a| datagram((*a, *p).into()))).collect::<io::Result<_>>()?;
    Ok((tcp, udp))
}

/// The server's thread.
struct Loop {
    name: String,
    book: Arc<Book>,
    listeners: Vec<TcpListener>,
    datagrams: Vec<UdpSocket>,
    connections: HashMap<i32, TcpStream>,
    stopped: UnixStream,
}

impl Loop {
    fn run(&mut self) {
        loop {
            let fds = [self.stopped.as_fd()].into_iter();
            let fds = fds.chain(self.listeners.iter().map(AsFd::as_fd)).chain(self.datagrams.iter().map(AsFd::as_fd));
            let fds = fds.chain(self.connections.values().map(AsFd::as_fd));
            let mut fds: Vec<_> = fds.map(|fd| PollFd::new(fd, PollFlags::POLLIN)).collect();
            if poll(&mut fds, PollTimeout::NONE).is_err() {
                continue;
            }
            let ready: Vec<i32> =
                fds.iter().filter(|f| f.any().unwrap_or(true)).map(|f| f.as_fd().as_raw_fd()).collect();
            if ready.contains(&self.stopped.as_raw_fd()) {
                return;
            }
            ready.into_iter().for_each(|fd| self.serve(fd));
        }
    }

    fn serve(&mut self, fd: i32) {
        if let Some(mut stream) = self.connections.remove(&fd) {
            match self.converse(&mut stream) {
                Ok(()) => drop(self.connections.insert(fd, stream)),
                Err(_) => self.close(&stream),
            }
            return;
        }
        if let Some(listener) = self.listeners.iter().find(|l| l.as_raw_fd() == fd) {
            while let Ok((stream, from)) = listener.accept() {
                // A connection that is gone before it was looked at has still arrived.
                let to = stream.local_addr().or_else(|_| listener.local_addr());
                let Ok(to) = to else { continue };
                if stream.set_nonblocking(true).is_ok() && stream.set_nodelay(true).is_ok() {
                    if let Ok(clone) = stream.try_clone() {
                        self.book.streams.lock().unwrap_or_else(PoisonError::into_inner).insert(from, clone);
                    }
                    self.connections.insert(stream.as_raw_fd(), stream);
                }
                self.note(Arrival { from, to, kind: ArrivalKind::Connection });
            }
            return;
        }
        if let Some(socket) = self.datagrams.iter().find(|d| d.as_raw_fd() == fd) {
            let mut buffer = vec![0; 65536];
            while let (Ok((length, from)), Ok(to)) = (socket.recv_from(&mut buffer), socket.local_addr()) {
                let data = buffer[..length].to_vec();
                if !self.is_silent() {
                    // A refused answer (an ICMP error that came for an earlier one) is the asker's business.
                    let _ = socket.send_to(&data, from);
                }
                self.note(Arrival { from, to, kind: ArrivalKind::Datagram(data) });
            }
        }
    }

    /// Reads what is there and answers; an error means that the connection is over.
    fn converse(&self, stream: &mut TcpStream) -> io::Result<()> {
        let mut buffer = [0; 16384];
        let length = match stream.read(&mut buffer) {
            Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
            Ok(length) => length,
            Err(e) if e.kind() == ErrorKind::WouldBlock => return Ok(()),
            Err(e) => return Err(e),
        };
        let data = buffer[..length].to_vec();
        let (from, to) = (stream.peer_addr()?, stream.local_addr()?);
        let request = data.starts_with(b"GET ");
        let answer = match request {
            true => format!(
                "HTTP/1.0 200 OK\r\nContent-Type: text/plain\r\nContent-Length: {}\r\n\r\n{}",
                self.name.len(),
                self.name
            )
            .into_bytes(),
            false => data.clone(),
        };
        self.note(Arrival { from, to, kind: ArrivalKind::Data(data) });
        if self.is_silent() {
            return Ok(());
        }
        stream.write_all(&answer)?;
        if request { Err(ErrorKind::UnexpectedEof.into()) } else { Ok(()) }
    }

    /// The clone for [`Server::say`] goes as well, or the connection would stay open.
    fn close(&self, stream: &TcpStream) {
        let mut streams = self.book.streams.lock().unwrap_or_else(PoisonError::into_inner);
        match stream.peer_addr() {
            Ok(peer) => drop(streams.remove(&peer)),
            Err(_) => streams.retain(|_, s| s.peer_addr().is_ok()),
        }
    }

    fn is_silent(&self) -> bool {
        *self.book.silent.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn note(&self, arrival: Arrival) {
        let mut arrivals = self.book.arrivals.lock().unwrap_or_else(PoisonError::into_inner);
        // A load generator's million connections are nobody's evidence.
        if arrivals.len() < 100_000 {
            arrivals.push(arrival);
        }
        self.book.more.notify_all();
    }
}

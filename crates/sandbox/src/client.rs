//! [`Client`]: what somebody in a namespace sees of the world: connections, datagrams, and what becomes of them.

use std::fmt;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use socket2::{Domain, Protocol, Socket, Type};

use crate::Netns;

/// What became of an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The other end answered.
    Open,
    /// The other end (or somebody for it) said no: a reset, or an ICMP port unreachable.
    Refused,
    /// Nothing came back in time: what a dropped packet looks like.
    Timeout,
    /// There is no way there: an ICMP unreachable, or no route.
    Unreachable,
    /// Something else, such as a source address that is not there.
    Failed(ErrorKind),
}

impl Outcome {
    /// The other end answered.
    pub fn is_open(self) -> bool {
        self == Outcome::Open
    }

    pub(crate) fn of(error: &io::Error) -> Self {
        match error.kind() {
            ErrorKind::ConnectionRefused => Outcome::Refused,
            ErrorKind::TimedOut | ErrorKind::WouldBlock => Outcome::Timeout,
            ErrorKind::HostUnreachable | ErrorKind::NetworkUnreachable => Outcome::Unreachable,
            // ICMPv6 "administratively prohibited" arrives as EACCES.
            ErrorKind::PermissionDenied => Outcome::Unreachable,
            kind => Outcome::Failed(kind),
        }
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Outcome::Open => f.write_str("open"),
            Outcome::Refused => f.write_str("refused"),
            Outcome::Timeout => f.write_str("timeout"),
            Outcome::Unreachable => f.write_str("unreachable"),
            Outcome::Failed(kind) => write!(f, "failed: {kind}"),
        }
    }
}

/// How long to wait where an answer is expected: it ends early with the answer, so a slow machine only costs time.
pub const PATIENCE: Duration = Duration::from_secs(5);
/// How long to wait where none is expected: this time is spent.
pub const DENY_WAIT: Duration = Duration::from_millis(400);

/// Attempts from a namespace; one that is reused carries its choices along.
#[derive(Debug, Clone)]
pub struct Client {
    pub(crate) netns: Netns,
    pub(crate) source: Option<IpAddr>,
    source_port: u16,
    uid: Option<u32>,
    pub(crate) ttl: Option<u8>,
}

impl Client {
    pub(crate) fn new(netns: Netns) -> Self {
        Client { netns, source: None, source_port: 0, uid: None, ttl: None }
    }

    /// From this address.
    #[must_use]
    pub fn from(mut self, address: IpAddr) -> Self {
        self.source = Some(address);
        self
    }

    /// From this port.
    #[must_use]
    pub fn from_port(mut self, port: u16) -> Self {
        self.source_port = port;
        self
    }

    /// As this user, as far as the kernel's firewall can tell.
    #[must_use]
    pub fn as_user(mut self, uid: u32) -> Self {
        self.uid = Some(uid);
        self
    }

    /// With this TTL or hop limit.
    #[must_use]
    pub fn ttl(mut self, ttl: u8) -> Self {
        self.ttl = Some(ttl);
        self
    }

    /// Whether a TCP connection comes about. It is reset at once, so that no state stays behind.
    pub fn connect(&self, address: IpAddr, port: u16, timeout: Duration) -> Outcome {
        match self.open(address, port, timeout) {
            Ok(connection) => {
                connection.reset();
                Outcome::Open
            }
            Err(outcome) => outcome,
        }
    }

    /// A TCP connection to keep.
    ///
    /// # Errors
    /// What became of the attempt.
    pub fn open(&self, address: IpAddr, port: u16, timeout: Duration) -> Result<Connection, Outcome> {
        let attempt = || -> io::Result<TcpStream> {
            let socket = self.socket(address, Type::STREAM, Protocol::TCP)?;
            socket.connect_timeout(&SocketAddr::new(address, port).into(), timeout)?;
            socket.set_tcp_nodelay(true)?;
            Ok(socket.into())
        };
        attempt().map(|stream| Connection { stream, sent: 0 }).map_err(|e| Outcome::of(&e))
    }

    /// Asks a [`Server`](crate::Server) for its name.
    ///
    /// # Errors
    /// What became of the attempt.
    pub fn ask(&self, address: IpAddr, port: u16, timeout: Duration) -> Result<String, Outcome> {
        self.get(address, port, "/", timeout).map(|(_, body)| body)
    }

    /// Asks any HTTP server for a path; returns the status (0: none was given) and the body.
    ///
    /// # Errors
    /// What became of the attempt.
    pub fn get(&self, address: IpAddr, port: u16, path: &str, timeout: Duration) -> Result<(u16, String), Outcome> {
        let mut stream = self.open(address, port, timeout)?.stream;
        let mut talk = || -> io::Result<String> {
            stream.set_read_timeout(Some(timeout))?;
            // In one piece: a server may answer, and close, after the first.
            let request = format!("GET {path} HTTP/1.0\r\nHost: {}\r\n\r\n", SocketAddr::new(address, port));
            stream.write_all(request.as_bytes())?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer)?;
            Ok(answer)
        };
        let answer = talk().map_err(|e| Outcome::of(&e))?;
        let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
        let status = head.split(' ').nth(1).and_then(|s| s.parse().ok()).unwrap_or(0);
        Ok((status, body.to_owned()))
    }

    /// Whether a datagram is echoed.
    pub fn udp(&self, address: IpAddr, port: u16, timeout: Duration) -> Outcome {
        let attempt = || -> io::Result<()> {
            let socket = self.datagrams(address, port)?;
            socket.set_read_timeout(Some(timeout))?;
            socket.send(b"podgate?")?;
            socket.recv(&mut [0; 64])?;
            Ok(())
        };
        attempt().map_or_else(|e| Outcome::of(&e), |()| Outcome::Open)
    }

    /// A connected UDP socket.
    ///
    /// # Errors
    /// What the socket says.
    pub fn datagrams(&self, address: IpAddr, port: u16) -> io::Result<UdpSocket> {
        let socket = self.socket(address, Type::DGRAM, Protocol::UDP)?;
        socket.connect(&SocketAddr::new(address, port).into())?;
        Ok(socket.into())
    }

    /// A socket of the client's making.
    pub(crate) fn socket(&self, towards: IpAddr, kind: Type, protocol: Protocol) -> io::Result<Socket> {
        let domain = if towards.is_ipv4() { Domain::IPV4 } else { Domain::IPV6 };
        let make = || Socket::new(domain, kind, Some(protocol));
        let socket = match self.uid {
            Some(uid) => self.netns.run_as(uid, make),
            None => self.netns.run(make),
        }?;
        if let Some(ttl) = self.ttl {
            set_ttl(&socket, towards, ttl)?;
        }
        if self.source.is_some() || self.source_port != 0 {
            let any: IpAddr = if towards.is_ipv4() { [0; 4].into() } else { [0u16; 8].into() };
            socket.set_reuse_address(true)?;
            socket.bind(&SocketAddr::new(self.source.unwrap_or(any), self.source_port).into())?;
        }
        Ok(socket)
    }
}

fn set_ttl(socket: &Socket, towards: IpAddr, ttl: u8) -> io::Result<()> {
    match towards {
        IpAddr::V4(_) => socket.set_ttl_v4(ttl.into()),
        IpAddr::V6(_) => socket.set_unicast_hops_v6(ttl.into()),
    }
}

/// An established TCP connection to a [`Server`](crate::Server).
#[derive(Debug)]
pub struct Connection {
    stream: TcpStream,
    sent: u64,
}

impl Connection {
    /// Sends something new and waits for its echo; returns the round trip.
    ///
    /// # Errors
    /// What became of it.
    pub fn ping(&mut self, timeout: Duration) -> Result<Duration, Outcome> {
        self.sent += 1;
        let token = format!("<ping {}>", self.sent);
        let begin = Instant::now();
        self.send(token.as_bytes()).map_err(|e| Outcome::of(&e))?;
        let mut seen = Vec::new();
        // Echoes of earlier pings that were given up may come first.
        while !seen.windows(token.len()).any(|w| w == token.as_bytes()) {
            let left = timeout.checked_sub(begin.elapsed()).ok_or(Outcome::Timeout)?;
            seen.extend(self.receive(left)?);
        }
        Ok(begin.elapsed())
    }

    /// Sends bytes.
    ///
    /// # Errors
    /// What the socket says.
    pub fn send(&mut self, data: &[u8]) -> io::Result<()> {
        self.stream.write_all(data)
    }

    /// Waits for the next bytes.
    ///
    /// # Errors
    /// What became of it; `Failed(UnexpectedEof)` if the other end closed.
    pub fn receive(&mut self, timeout: Duration) -> Result<Vec<u8>, Outcome> {
        let mut buffer = vec![0; 16384];
        let mut read = || -> io::Result<usize> {
            self.stream.set_read_timeout(Some(timeout.max(Duration::from_millis(1))))?;
            self.stream.read(&mut buffer)
        };
        match read() {
            Ok(0) => Err(Outcome::Failed(ErrorKind::UnexpectedEof)),
            Ok(length) => {
                buffer.truncate(length);
                Ok(buffer)
            }
            Err(e) => Err(Outcome::of(&e)),
        }
    }

    /// Changes the TTL or hop limit of what is sent from now on.
    ///
    /// # Errors
    /// What the socket says.
    pub fn set_ttl(&self, ttl: u8) -> io::Result<()> {
        set_ttl(&socket2::SockRef::from(&self.stream).try_clone()?, self.stream.peer_addr()?.ip(), ttl)
    }

    /// Its own end.
    ///
    /// # Errors
    /// What the socket says.
    pub fn local(&self) -> io::Result<SocketAddr> {
        self.stream.local_addr()
    }

    /// Ends it with a reset.
    pub fn reset(self) {
        // Without it the close is an orderly one: nothing depends on that.
        let _ = socket2::SockRef::from(&self.stream).set_linger(Some(Duration::ZERO));
    }
}

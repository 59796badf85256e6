//! ICMP echo from a namespace.

use std::io::{self, Read};
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use socket2::{Protocol, Type};

use crate::{Client, Outcome, packet};

static IDENTIFIER: AtomicU16 = AtomicU16::new(1);

impl Client {
    /// Whether an ICMP or ICMPv6 echo request is answered.
    pub fn ping(&self, address: IpAddr, timeout: Duration) -> Outcome {
        self.echo(address, timeout).map_or_else(|e| Outcome::of(&e), |()| Outcome::Open)
    }

    fn echo(&self, address: IpAddr, timeout: Duration) -> io::Result<()> {
        // An identifier of its own, so that conntrack takes no two pings for one flow.
        let (identifier, sequence) = (IDENTIFIER.fetch_add(1, Ordering::Relaxed), 1);
        let (protocol, reply) = match address {
            IpAddr::V4(_) => (Protocol::ICMPV4, 0),
            IpAddr::V6(_) => (Protocol::ICMPV6, 129),
        };
        let mut socket = self.socket(address, Type::RAW, protocol)?;
        let to = SocketAddr::new(address, 0).into();
        let source = match self.source {
            Some(source) => source,
            None => self.datagrams(address, 9)?.local_addr()?.ip(),
        };
        let request = packet::echo_message(source, address, identifier, sequence);
        let deadline = Instant::now() + timeout;
        socket.send_to(&request, &to)?;
        let mut buffer = [0; 2048];
        loop {
            let left = deadline.checked_duration_since(Instant::now()).ok_or(io::ErrorKind::TimedOut)?;
            socket.set_read_timeout(Some(left.max(Duration::from_millis(1))))?;
            let length = socket.read(&mut buffer)?;
            // Raw IPv4 sockets show the IP header, IPv6 ones do not.
            let skip = if address.is_ipv4() { usize::from(buffer[0] & 0xf) * 4 } else { 0 };
            let message = buffer[..length].get(skip..).unwrap_or_default();
            let mine = |m: &[u8]| m[0] == reply && m[4..8] == request[4..8];
            if message.len() >= 8 && mine(message) {
                return Ok(());
            }
        }
    }
}

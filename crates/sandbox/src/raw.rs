//! Sending packets made by hand, and catching packets as they pass: raw and packet sockets in a namespace.

use std::io::{self, ErrorKind};
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use nix::ifaddrs::getifaddrs;
use nix::sys::socket::{LinkAddr, SockaddrLike, bind, recvfrom};
use socket2::{Domain, Protocol, Socket, Type};

use crate::packet::Packet;
use crate::{Error, Netns};

impl Netns {
    /// Sends an IP packet by the namespace's own routes; its header goes out as it is.
    ///
    /// # Errors
    /// [`Error::Network`] if there is no route.
    pub fn send(&self, packet: &Packet) -> Result<(), Error> {
        self.send_ip(packet.destination, &packet.bytes())
    }

    /// Sends the bytes of an IP packet (a fragment, say) by the namespace's own routes.
    ///
    /// # Errors
    /// [`Error::Network`] if there is no route.
    pub fn send_ip(&self, destination: IpAddr, bytes: &[u8]) -> Result<(), Error> {
        let send = || -> io::Result<()> {
            let raw = Some(Protocol::from(libc::IPPROTO_RAW));
            let socket = match destination {
                IpAddr::V4(_) => {
                    let socket = Socket::new(Domain::IPV4, Type::RAW, raw)?;
                    socket.set_header_included_v4(true)?;
                    socket
                }
                IpAddr::V6(_) => {
                    let socket = Socket::new(Domain::IPV6, Type::RAW, raw)?;
                    socket.set_header_included_v6(true)?;
                    socket
                }
            };
            socket.send_to(bytes, &SocketAddr::new(destination, 0).into())?;
            Ok(())
        };
        self.run(send).map_err(Error::network(format!("send a packet to {destination} from {}", self.name())))
    }

    /// Sends an Ethernet frame out of a link.
    ///
    /// # Errors
    /// [`Error::Network`] if there is no such link.
    pub fn send_frame(&self, link: &str, frame: &[u8]) -> Result<(), Error> {
        let send = || packet_socket(Some(link)).and_then(|s| s.send(frame)).map(drop);
        self.run(send).map_err(Error::network(format!("send a frame out of {link} of {}", self.name())))
    }

    /// Sends many Ethernet frames out of a link, one after the other: to open and close a socket for each takes 20 ms.
    ///
    /// # Errors
    /// [`Error::Network`] if there is no such link.
    pub fn send_frames(&self, link: &str, frames: impl Iterator<Item = Vec<u8>> + Send) -> Result<(), Error> {
        let send = || -> io::Result<()> {
            let socket = packet_socket(Some(link))?;
            for frame in frames {
                socket.send(&frame)?;
            }
            Ok(())
        };
        self.run(send).map_err(Error::network(format!("send frames out of {link} of {}", self.name())))
    }

    /// Catches packets on a link (`None`: on all) from now on.
    ///
    /// # Errors
    /// [`Error::Network`] if there is no such link.
    pub fn capture(&self, link: Option<&str>) -> Result<Capture, Error> {
        let socket = self
            .run(|| {
                let socket = packet_socket(link)?;
                // A burst must not be lost between two looks.
                socket.set_recv_buffer_size(4 << 20)?;
                Ok(socket)
            })
            .map_err(Error::network::<io::Error>(format!("capture on {link:?} of {}", self.name())))?;
        Ok(Capture { socket })
    }
}

/// A packet that passed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Captured {
    /// Sent by the namespace, not received.
    pub outgoing: bool,
    /// The bytes from the IP header on (what follows the Ethernet header).
    pub ip: Vec<u8>,
}

impl Captured {
    /// Source and destination, if it is an IP packet.
    pub fn ends(&self) -> Option<(IpAddr, IpAddr)> {
        let address = |range: std::ops::Range<usize>| -> Option<IpAddr> {
            let bytes = self.ip.get(range)?;
            match bytes.len() {
                4 => Some(<[u8; 4]>::try_from(bytes).ok()?.into()),
                _ => Some(<[u8; 16]>::try_from(bytes).ok()?.into()),
            }
        };
        match self.ip.first()? >> 4 {
            4 => Some((address(12..16)?, address(16..20)?)),
            6 => Some((address(8..24)?, address(24..40)?)),
            _ => None,
        }
    }

    /// IANA protocol number of what follows the IP header (IPv6: the first next header).
    pub fn protocol(&self) -> Option<u8> {
        match self.ip.first()? >> 4 {
            4 => self.ip.get(9).copied(),
            6 => self.ip.get(6).copied(),
            _ => None,
        }
    }

    /// What follows the IP header.
    pub fn body(&self) -> &[u8] {
        let header = match self.ip.first().map(|b| (b >> 4, b & 0xf)) {
            Some((4, words)) => usize::from(words) * 4,
            Some((6, _)) => 40,
            _ => 0,
        };
        self.ip.get(header..).unwrap_or_default()
    }
}

/// A running capture.
#[derive(Debug)]
pub struct Capture {
    socket: Socket,
}

impl Capture {
    /// Waits for the first packet that `wanted` accepts; `None` after `timeout`.
    pub fn wait(&self, timeout: Duration, mut wanted: impl FnMut(&Captured) -> bool) -> Option<Captured> {
        let deadline = Instant::now() + timeout;
        let mut buffer = vec![0; 70_000];
        loop {
            let left = deadline.checked_duration_since(Instant::now())?;
            self.socket.set_read_timeout(Some(left.max(Duration::from_millis(1)))).ok()?;
            // A link that goes down tells so once, as an error; the deadline ends the wait.
            let Ok((length, from)) = recvfrom::<LinkAddr>(self.socket.as_raw_fd(), &mut buffer) else { continue };
            let outgoing = from.is_some_and(|f| f.pkttype() == libc::PACKET_OUTGOING);
            let Some(ip) = buffer[..length].get(14..) else { continue };
            let captured = Captured { outgoing, ip: ip.to_vec() };
            if wanted(&captured) {
                return Some(captured);
            }
        }
    }
}

/// A packet socket in the calling thread's namespace, for all protocols.
fn packet_socket(link: Option<&str>) -> io::Result<Socket> {
    let every = Protocol::from(i32::from((libc::ETH_P_ALL as u16).to_be()));
    let socket = Socket::new(Domain::PACKET, Type::RAW, Some(every))?;
    if let Some(link) = link {
        let addresses = getifaddrs()?.filter(|i| i.interface_name == link).filter_map(|i| i.address);
        // The link's own packet address carries its index; without a protocol, the socket keeps its own.
        let found = addresses.filter_map(|a| a.as_link_addr().copied()).next();
        let address = found.ok_or_else(|| io::Error::new(ErrorKind::NotFound, format!("no link {link}")))?;
        bind(socket.as_raw_fd(), &address as &dyn SockaddrLike)?;
    }
    Ok(socket)
}

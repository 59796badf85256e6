//! [`RawSockets`]: answers leave with their own IP header, and with a mark by which nothing judges or remembers them.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};

use socket2::{Domain, Protocol, Socket, Type};

/// `IPPROTO_RAW` (netinet/in.h): the header is the sender's; nothing is ever received.
const RAW: i32 = 255;

/// Where answers go. Tests have one of their own.
pub(crate) trait Out: Send {
    /// Sends a whole IP packet.
    fn send(&self, to: IpAddr, packet: &[u8]) -> io::Result<()>;
    /// The address of this node that it would talk to that one with.
    fn source_towards(&self, to: IpAddr) -> io::Result<IpAddr>;
}

/// Raw sockets of the network namespace in which they were opened.
#[derive(Debug)]
pub(super) struct RawSockets {
    v4: Socket,
    /// Not where the kernel has no IPv6.
    v6: Option<Socket>,
}

impl RawSockets {
    /// Opens them; what they send has this mark. `EPERM` without CAP_NET_RAW.
    pub(super) fn open(mark: u32) -> io::Result<Self> {
        let open = |domain| -> io::Result<Socket> {
            let socket = Socket::new(domain, Type::RAW, Some(Protocol::from(RAW)))?;
            socket.set_mark(mark)?;
            // What cannot leave at once is not worth waiting for.
            socket.set_nonblocking(true)?;
            Ok(socket)
        };
        let v4 = open(Domain::IPV4)?;
        v4.set_header_included_v4(true)?;
        let v6 = match open(Domain::IPV6) {
            Ok(socket) => {
                socket.set_header_included_v6(true)?;
                Some(socket)
            }
            Err(error) if error.raw_os_error() == Some(nix::libc::EAFNOSUPPORT) => None,
            Err(error) => return Err(error),
        };
        Ok(Self { v4, v6 })
    }
}

impl Out for RawSockets {
    fn send(&self, to: IpAddr, packet: &[u8]) -> io::Result<()> {
        let socket = match to {
            IpAddr::V4(_) => Some(&self.v4),
            IpAddr::V6(_) => self.v6.as_ref(),
        };
        let socket = socket.ok_or(io::ErrorKind::Unsupported)?;
        socket.send_to(packet, &SocketAddr::new(to, 0).into()).map(drop)
    }

    /// By its routes: nothing is sent.
    fn source_towards(&self, to: IpAddr) -> io::Result<IpAddr> {
        let any: IpAddr = match to {
            IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
            IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
        };
        let socket = UdpSocket::bind((any, 0))?;
        socket.connect((to, 9))?;
        Ok(socket.local_addr()?.ip())
    }
}

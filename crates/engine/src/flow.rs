//! [`Flow`]: what is judged, a connection by its first packet.

use crate::Addr;

/// IANA protocol numbers with a meaning of their own here.
pub mod protocol {
    /// ICMP (RFC 792).
    pub const ICMP: u8 = 1;
    /// TCP (RFC 9293).
    pub const TCP: u8 = 6;
    /// UDP (RFC 768).
    pub const UDP: u8 = 17;
    /// ICMPv6 (RFC 4443).
    pub const ICMPV6: u8 = 58;
    /// SCTP (RFC 9260).
    pub const SCTP: u8 = 132;

    /// Whether policies can tell ports of this protocol apart.
    #[inline]
    pub fn has_ports(protocol: u8) -> bool {
        matches!(protocol, TCP | UDP | SCTP)
    }
}

/// A destination port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Port {
    /// This number.
    Number(u16),
    /// The protocol has no ports.
    None,
    /// The protocol has ports, but this packet does not show them (a later fragment, a cut header): only rules that
    /// are about every port of the protocol can accept it.
    Unknown,
}

/// A new connection: from whom, to whom, and to which port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Flow {
    /// The address that opens the connection.
    pub source: Addr,
    /// The address it is opened to, after destination NAT.
    pub destination: Addr,
    /// The IANA protocol number.
    pub protocol: u8,
    /// The destination port.
    pub port: Port,
}

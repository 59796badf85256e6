//! [`Addr`]: an IP address of either family as one 128-bit key.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// An IP address; IPv4 is kept in its IPv4-mapped form (RFC 4291, 2.5.5.2), so that one table serves both families.
/// An IPv4-mapped address never appears in a real IPv6 header on a wire (RFC 6890 forbids it), so none is confused.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Addr(u128);

const V4_MAPPED: u128 = 0xffff << 32;

impl Addr {
    /// From four bytes of an IPv4 header.
    #[inline]
    pub fn from_v4(bytes: [u8; 4]) -> Self {
        Addr(V4_MAPPED | u32::from_be_bytes(bytes) as u128)
    }

    /// From sixteen bytes of an IPv6 header.
    #[inline]
    pub fn from_v6(bytes: [u8; 16]) -> Self {
        Addr(u128::from_be_bytes(bytes))
    }

    /// The IPv4 address as a number, if it is one.
    #[inline]
    pub fn as_v4(self) -> Option<u32> {
        (self.0 >> 32 == 0xffff).then_some(self.0 as u32)
    }

    /// All 128 bits.
    #[inline]
    pub fn bits(self) -> u128 {
        self.0
    }

    /// As the standard library's type.
    pub fn ip(self) -> IpAddr {
        match self.as_v4() {
            Some(v4) => IpAddr::V4(Ipv4Addr::from(v4)),
            None => IpAddr::V6(Ipv6Addr::from(self.0)),
        }
    }
}

impl From<IpAddr> for Addr {
    fn from(ip: IpAddr) -> Self {
        match ip {
            IpAddr::V4(v4) => Addr::from_v4(v4.octets()),
            IpAddr::V6(v6) => Addr::from_v6(v6.octets()),
        }
    }
}

impl fmt::Debug for Addr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.ip().fmt(f)
    }
}

impl fmt::Display for Addr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.ip().fmt(f)
    }
}

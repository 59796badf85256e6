//! The parser: network header, then as much of the transport header as is judged.

use super::{Header, ParseError};
use crate::{Addr, Flow, Port, protocol};

/// IPv6 extension headers that the kernel's `ipv6_skip_exthdr` (net/ipv6/exthdrs_core.c) walks over on its way to the
/// upper protocol. What it does not know (mobility, HIP, shim6) is an upper protocol without ports here as there.
mod extension {
    pub(super) const HOP_BY_HOP: u8 = 0;
    pub(super) const ROUTING: u8 = 43;
    pub(super) const FRAGMENT: u8 = 44;
    pub(super) const AUTHENTICATION: u8 = 51;
    pub(super) const DESTINATION: u8 = 60;
}

const SYN: u8 = 0x02;
const ACK: u8 = 0x10;

/// A packet's network layer.
struct Network<'a> {
    source: Addr,
    destination: Addr,
    protocol: u8,
    /// Not the first fragment: the payload does not start with the upper protocol's header.
    later_fragment: bool,
    payload: &'a [u8],
}

/// Reads a packet from its IP header on. Bytes past the packet's own length are not looked at; a length of zero
/// (segmentation offload above 64 KiB) or a nonsensical one counts as all bytes.
#[inline]
pub fn parse(bytes: &[u8]) -> Result<Header, ParseError> {
    network(bytes).map(|network| transport(&network))
}

/// The packet inside an ICMP or ICMPv6 error (RFC 792: types 3, 4, 5, 11, 12; RFC 4443: types below 128), as its
/// sender sent it.
pub fn embedded(bytes: &[u8]) -> Result<Header, ParseError> {
    let outer = network(bytes)?;
    let v4 = is_v4(bytes);
    let is_error = match (v4, outer.protocol, outer.payload.first()) {
        _ if outer.later_fragment => false,
        (true, protocol::ICMP, Some(kind)) => matches!(kind, 3 | 4 | 5 | 11 | 12),
        (false, protocol::ICMPV6, Some(kind)) => *kind < 128,
        _ => false,
    };
    if !is_error {
        return Err(ParseError::NotIcmpError);
    }
    let inner = outer.payload.get(8..).ok_or(ParseError::Embedded)?;
    if is_v4(inner) != v4 {
        return Err(ParseError::Embedded);
    }
    network(inner).map(|network| transport(&network)).map_err(|_| ParseError::Embedded)
}

fn is_v4(bytes: &[u8]) -> bool {
    bytes.first().is_some_and(|first| first >> 4 == 4)
}

#[inline]
fn network(bytes: &[u8]) -> Result<Network<'_>, ParseError> {
    match bytes.first().map(|first| first >> 4) {
        Some(4) => v4(bytes),
        Some(6) => v6(bytes),
        _ => Err(ParseError::Version),
    }
}

/// RFC 791, 3.1.
#[inline]
fn v4(bytes: &[u8]) -> Result<Network<'_>, ParseError> {
    let header: &[u8; 20] = bytes.first_chunk().ok_or(ParseError::HeaderCut)?;
    let header_length = usize::from(header[0] & 0x0f) * 4;
    if header_length < 20 {
        return Err(ParseError::HeaderLength);
    }
    let total = usize::from(u16::from_be_bytes([header[2], header[3]]));
    let end = if total < header_length { bytes.len() } else { total.min(bytes.len()) };
    Ok(Network {
        source: Addr::from_v4([header[12], header[13], header[14], header[15]]),
        destination: Addr::from_v4([header[16], header[17], header[18], header[19]]),
        protocol: header[9],
        later_fragment: u16::from_be_bytes([header[6], header[7]]) & 0x1fff != 0,
        payload: bytes.get(header_length..end).unwrap_or_default(),
    })
}

/// RFC 8200, 3 and 4.
#[inline]
fn v6(bytes: &[u8]) -> Result<Network<'_>, ParseError> {
    let (header, rest): (&[u8; 40], _) = bytes.split_first_chunk().ok_or(ParseError::HeaderCut)?;
    let length = usize::from(u16::from_be_bytes([header[4], header[5]]));
    let mut payload = if length == 0 { rest } else { &rest[..length.min(rest.len())] };
    let mut source = [0; 16];
    source.copy_from_slice(&header[8..24]);
    let mut destination = [0; 16];
    destination.copy_from_slice(&header[24..40]);
    let mut network = Network {
        source: Addr::from_v6(source),
        destination: Addr::from_v6(destination),
        protocol: header[6],
        later_fragment: false,
        payload: &[],
    };
    if network.source.as_v4().is_some() || network.destination.as_v4().is_some() {
        return Err(ParseError::Mapped);
    }
    loop {
        let length = match network.protocol {
            extension::HOP_BY_HOP | extension::ROUTING | extension::DESTINATION => {
                8 + 8 * usize::from(*payload.get(1).ok_or(ParseError::Extensions)?)
            }
            // RFC 4302, 2.2: in words of four bytes, minus two.
            extension::AUTHENTICATION => 8 + 4 * usize::from(*payload.get(1).ok_or(ParseError::Extensions)?),
            extension::FRAGMENT => {
                let fragment: &[u8; 8] = payload.first_chunk().ok_or(ParseError::Extensions)?;
                network.later_fragment = u16::from_be_bytes([fragment[2], fragment[3]]) & 0xfff8 != 0;
                8
            }
            _ => break,
        };
        network.protocol = *payload.first().ok_or(ParseError::Extensions)?;
        if network.later_fragment {
            // What follows is not this header's: the next header of the fragmentable part is all there is to know.
            return Ok(network);
        }
        payload = payload.get(length..).ok_or(ParseError::Extensions)?;
    }
    network.payload = payload;
    Ok(network)
}

#[inline]
fn transport(network: &Network<'_>) -> Header {
    let (source_port, port) = if !protocol::has_ports(network.protocol) {
        (Port::None, Port::None)
    } else {
        match network.payload {
            [a, b, c, d, ..] if !network.later_fragment => {
                (Port::Number(u16::from_be_bytes([*a, *b])), Port::Number(u16::from_be_bytes([*c, *d])))
            }
            _ => (Port::Unknown, Port::Unknown),
        }
    };
    let opens = network.protocol == protocol::TCP
        && (network.later_fragment || network.payload.get(13).is_none_or(|flags| flags & (SYN | ACK) == SYN));
    Header {
        flow: Flow { source: network.source, destination: network.destination, protocol: network.protocol, port },
        source_port,
        opens,
    }
}

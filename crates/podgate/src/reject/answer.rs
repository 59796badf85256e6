//! What a denied packet is answered with, and which ones are not answered at all (RFC 9293, 3.10.7; RFC 1122, 3.2.2;
//! RFC 1812, 4.3.2.7; RFC 4443, 2.4). Not here: bytes ([`build`](super::build)), rates ([`limit`](super::limit)).

use std::borrow::Cow;
use std::net::{IpAddr, SocketAddr};

use pnet_packet::ip::IpNextHeaderProtocols as Protocols;
use pnet_packet::ipv4::{self, Ipv4Packet, MutableIpv4Packet};
use pnet_packet::ipv6::{Ipv6Packet, MutableIpv6Packet};
use pnet_packet::tcp::{TcpFlags, TcpPacket};
use podgate_netfilter::Way;

/// Extension headers that are looked through, as many as the packet path does.
const EXTENSIONS: usize = 8;

/// One packet to be sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Answer {
    /// A TCP reset.
    Reset(Reset),
    /// An ICMP or ICMPv6 error that tells the sender of the packet that this is administratively prohibited.
    Prohibited(IpAddr),
}

/// A TCP reset, from one end of a connection to the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Reset {
    pub(super) from: SocketAddr,
    pub(super) to: SocketAddr,
    pub(super) sequence: u32,
    /// With the flag ACK.
    pub(super) acknowledgement: Option<u32>,
}

impl Answer {
    /// Whom it goes to.
    pub(super) fn to(&self) -> IpAddr {
        match self {
            Answer::Reset(reset) => reset.to.ip(),
            Answer::Prohibited(to) => *to,
        }
    }
}

/// The packet is one that nobody may answer: an error, a reset, a later fragment, to or from more than one host, or
/// nothing that can be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Silence;

/// A packet as far as an answer needs it.
struct Heard<'a> {
    source: IpAddr,
    destination: IpAddr,
    protocol: u8,
    transport: &'a [u8],
    /// Bytes of the transport header and what follows it, those that were not copied included.
    length: u32,
}

/// The answers to a denied packet that came up `way`, of which `length` bytes were sent and `bytes` are here: one to its
/// sender, and one to the other end if that one takes part in the connection.
///
/// Only conntrack knows that it does (a packet that it does not know is [`Way::Midstream`]): otherwise anybody could
/// have a segment of his choice sent to whom he may not talk to.
///
/// `sent_to`: whom the connection's first packet was sent to, where the kernel tells. Of a new connection conntrack keeps
/// nothing once it is denied, so that it is here that the client is answered by whom it asked.
pub(super) fn answers(
    way: Way,
    bytes: &[u8],
    length: u32,
    sent_to: Option<SocketAddr>,
) -> Result<(Answer, Option<Answer>), Silence> {
    if matches!(way, Way::RelatedOriginal | Way::RelatedReply) {
        return Err(Silence);
    }
    let heard = hear(bytes, length)?;
    if !is_one_host(heard.source) || !is_one_host(heard.destination) {
        return Err(Silence);
    }
    if heard.protocol == Protocols::Tcp.0 {
        return resets(way, &heard, sent_to);
    }
    let may_be_answered = match (Protocols::Icmp.0, Protocols::Icmpv6.0, heard.transport.first()) {
        // Requests: echo and time stamp. All else is an error, an answer, or about the link.
        (icmp, _, Some(8 | 13)) if heard.protocol == icmp => true,
        (_, icmpv6, Some(128)) if heard.protocol == icmpv6 => true,
        (icmp, icmpv6, _) => heard.protocol != icmp && heard.protocol != icmpv6,
    };
    if may_be_answered { Ok((Answer::Prohibited(heard.source), None)) } else { Err(Silence) }
}

fn resets(way: Way, heard: &Heard<'_>, sent_to: Option<SocketAddr>) -> Result<(Answer, Option<Answer>), Silence> {
    let tcp = TcpPacket::new(heard.transport).ok_or(Silence)?;
    let flags = tcp.get_flags();
    let has = |flag| flags & flag != 0;
    if has(TcpFlags::RST) {
        return Err(Silence);
    }
    let sender = SocketAddr::new(heard.source, tcp.get_source());
    let receiver = SocketAddr::new(heard.destination, tcp.get_destination());
    let back = |from, sequence, acknowledgement| Answer::Reset(Reset { from, to: sender, sequence, acknowledgement });
    if !has(TcpFlags::ACK) {
        let header = 4 * u32::from(tcp.get_data_offset());
        let counts = u32::from(has(TcpFlags::SYN)) + u32::from(has(TcpFlags::FIN));
        let next = tcp.get_sequence().wrapping_add(heard.length.saturating_sub(header)).wrapping_add(counts);
        let asked = asked(way, heard, sent_to).unwrap_or(receiver);
        return Ok((back(asked, 0, Some(next)), None));
    }
    // What the sender expects next is what it acknowledges; what its peer expects next is, unless something was lost
    // between them, this segment. If not, the peer says what it expects, which is denied and answered likewise
    // (RFC 5961, 3.2).
    let forth = || {
        let (sequence, acknowledgement) = (tcp.get_sequence(), Some(tcp.get_acknowledgement()));
        Answer::Reset(Reset { from: sender, to: receiver, sequence, acknowledgement })
    };
    let established = matches!(way, Way::Original | Way::Reply | Way::MetMidstream);
    Ok((back(receiver, tcp.get_acknowledgement(), None), established.then(forth)))
}

/// Whom a packet's sender sent it to, if that is not whom it goes to.
fn asked(way: Way, heard: &Heard<'_>, sent_to: Option<SocketAddr>) -> Option<SocketAddr> {
    let forth = matches!(way, Way::Original | Way::Midstream);
    sent_to.filter(|to| forth && to.ip().is_ipv4() == heard.source.is_ipv4() && is_one_host(to.ip()))
}

/// The bytes of a packet as its sender sent them, as far as that changes how it knows it again: with the address and port
/// that it asked for. Its transport checksum stays as it is, which nobody looks at in an error.
pub(super) fn as_sent<'a>(way: Way, bytes: &'a [u8], sent_to: Option<SocketAddr>) -> Cow<'a, [u8]> {
    let whom = hear(bytes, bytes.len() as u32).ok().and_then(|heard| {
        let asked = asked(way, &heard, sent_to).filter(|asked| asked.ip() != heard.destination)?;
        Some((asked, heard.protocol, bytes.len() - heard.transport.len()))
    });
    let Some((asked, protocol, transport)) = whom else { return bytes.into() };
    let mut bytes = bytes.to_vec();
    match asked.ip() {
        IpAddr::V4(to) => {
            let Some(mut ip) = MutableIpv4Packet::new(&mut bytes) else { return bytes.into() };
            ip.set_destination(to);
            let sum = ipv4::checksum(&ip.to_immutable());
            ip.set_checksum(sum);
        }
        IpAddr::V6(to) => {
            let Some(mut ip) = MutableIpv6Packet::new(&mut bytes) else { return bytes.into() };
            ip.set_destination(to);
        }
    }
    // TCP, UDP, SCTP: the destination port is where the second two bytes are.
    let has_ports = [Protocols::Tcp.0, Protocols::Udp.0, Protocols::Sctp.0].contains(&protocol);
    if let Some(port) = bytes.get_mut(transport + 2..transport + 4).filter(|_| has_ports && asked.port() != 0) {
        port.copy_from_slice(&asked.port().to_be_bytes());
    }
    bytes.into()
}

fn hear(bytes: &[u8], length: u32) -> Result<Heard<'_>, Silence> {
    match bytes.first().ok_or(Silence)? >> 4 {
        4 => {
            let ip = Ipv4Packet::new(bytes).ok_or(Silence)?;
            let header = 4 * usize::from(ip.get_header_length());
            if header < Ipv4Packet::minimum_packet_size() || ip.get_fragment_offset() != 0 {
                return Err(Silence);
            }
            Ok(Heard {
                source: ip.get_source().into(),
                destination: ip.get_destination().into(),
                protocol: ip.get_next_level_protocol().0,
                transport: bytes.get(header..).ok_or(Silence)?,
                length: length.saturating_sub(header as u32),
            })
        }
        6 => {
            let ip = Ipv6Packet::new(bytes).ok_or(Silence)?;
            let (protocol, at) = skip_extensions(ip.get_next_header().0, bytes)?;
            Ok(Heard {
                source: ip.get_source().into(),
                destination: ip.get_destination().into(),
                protocol,
                transport: bytes.get(at..).ok_or(Silence)?,
                length: length.saturating_sub(at as u32),
            })
        }
        _ => Err(Silence),
    }
}

/// What the first header that is no extension is, and where.
fn skip_extensions(first: u8, bytes: &[u8]) -> Result<(u8, usize), Silence> {
    let (mut next, mut at) = (first, Ipv6Packet::minimum_packet_size());
    for _ in 0..EXTENSIONS {
        // Hop-by-hop, routing and destination options; fragment; authentication (RFC 8200, 4; RFC 4302, 2.2).
        let length = |header: &[u8; 4]| match next {
            0 | 43 | 60 => Some(8 * (1 + usize::from(header[1]))),
            44 => Some(8),
            51 => Some(4 * (2 + usize::from(header[1]))),
            _ => None,
        };
        if !matches!(next, 0 | 43 | 44 | 51 | 60) {
            return Ok((next, at));
        }
        let header = bytes.get(at..).and_then(|rest| rest.first_chunk::<4>()).ok_or(Silence)?;
        if next == 44 && u16::from_be_bytes([header[2], header[3]]) >> 3 != 0 {
            return Err(Silence);
        }
        at += length(header).ok_or(Silence)?;
        next = header[0];
    }
    Err(Silence)
}

/// An address by which one host is reached, from anywhere.
fn is_one_host(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => {
            let first = v4.octets()[0];
            // Also not "this network" (RFC 6890), nor what is reserved, the broadcast address among it.
            first != 0 && first < 240 && !v4.is_multicast() && !v4.is_loopback() && !v4.is_link_local()
        }
        IpAddr::V6(v6) => {
            !v6.is_unspecified() && !v6.is_multicast() && !v6.is_loopback() && !v6.is_unicast_link_local()
        }
    }
}

//! [`Packet`]: packets made by hand, with any source, TTL and fragmentation. Not here: sending them (`raw`).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use pnet_packet::ip::{IpNextHeaderProtocol, IpNextHeaderProtocols};
use pnet_packet::ipv4::{self, MutableIpv4Packet};
use pnet_packet::ipv6::MutableIpv6Packet;
use pnet_packet::tcp::{self, MutableTcpPacket};
use pnet_packet::udp::{self, MutableUdpPacket};
use pnet_packet::util;

/// TCP flags (RFC 9293, 3.1).
pub mod flags {
    pub use pnet_packet::tcp::TcpFlags::{ACK, FIN, PSH, RST, SYN};
}

/// An IP packet: header fields, and the bytes after the header.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Packet {
    /// Whom it claims to be from.
    pub source: IpAddr,
    /// Whom it is to; of the same family.
    pub destination: IpAddr,
    /// TTL or hop limit.
    pub ttl: u8,
    /// IANA protocol number of the body.
    pub protocol: u8,
    /// What binds fragments together (IPv4: the lower 16 bits).
    pub identification: u32,
    /// The transport header and its payload.
    pub body: Vec<u8>,
}

impl Packet {
    /// A packet with any body.
    pub fn new(source: IpAddr, destination: IpAddr, protocol: u8, body: Vec<u8>) -> Self {
        Packet { source, destination, ttl: 64, protocol, identification: 1, body }
    }

    /// A UDP datagram.
    ///
    /// # Panics
    /// If the two ends are of different families, or the payload is longer than a datagram can be.
    pub fn udp(from: SocketAddr, to: SocketAddr, payload: &[u8]) -> Self {
        let mut body = vec![0; 8 + payload.len()];
        let length = u16::try_from(body.len()).expect("a datagram's length");
        let mut udp = MutableUdpPacket::new(&mut body).expect("room for the header");
        udp.set_source(from.port());
        udp.set_destination(to.port());
        udp.set_length(length);
        udp.set_payload(payload);
        let sum = match (from.ip(), to.ip()) {
            (IpAddr::V4(s), IpAddr::V4(d)) => udp::ipv4_checksum(&udp.to_immutable(), &s, &d),
            (IpAddr::V6(s), IpAddr::V6(d)) => udp::ipv6_checksum(&udp.to_immutable(), &s, &d),
            _ => panic!("{from} and {to} are of different families"),
        };
        udp.set_checksum(sum);
        Packet::new(from.ip(), to.ip(), IpNextHeaderProtocols::Udp.0, body)
    }

    /// A TCP segment with these [`flags`], sequence and acknowledgement numbers.
    ///
    /// # Panics
    /// If the two ends are of different families.
    pub fn tcp(from: SocketAddr, to: SocketAddr, flags: u8, numbers: (u32, u32), payload: &[u8]) -> Self {
        let mut body = vec![0; 20 + payload.len()];
        let mut tcp = MutableTcpPacket::new(&mut body).expect("room for the header");
        tcp.set_source(from.port());
        tcp.set_destination(to.port());
        tcp.set_sequence(numbers.0);
        tcp.set_acknowledgement(numbers.1);
        tcp.set_data_offset(5);
        tcp.set_flags(flags);
        tcp.set_window(0xffff);
        tcp.set_payload(payload);
        let sum = match (from.ip(), to.ip()) {
            (IpAddr::V4(s), IpAddr::V4(d)) => tcp::ipv4_checksum(&tcp.to_immutable(), &s, &d),
            (IpAddr::V6(s), IpAddr::V6(d)) => tcp::ipv6_checksum(&tcp.to_immutable(), &s, &d),
            _ => panic!("{from} and {to} are of different families"),
        };
        tcp.set_checksum(sum);
        Packet::new(from.ip(), to.ip(), IpNextHeaderProtocols::Tcp.0, body)
    }

    /// A SYN.
    pub fn syn(from: SocketAddr, to: SocketAddr) -> Self {
        Packet::tcp(from, to, flags::SYN, (1, 0), &[])
    }

    /// An ICMP or ICMPv6 echo request.
    pub fn echo(source: IpAddr, destination: IpAddr, identifier: u16, sequence: u16) -> Self {
        let body = echo_message(source, destination, identifier, sequence);
        Packet::new(source, destination, icmp_protocol(source), body)
    }

    /// An ICMP or ICMPv6 message of any type: `rest` is what follows the checksum.
    pub fn icmp(source: IpAddr, destination: IpAddr, kind: u8, code: u8, rest: &[u8]) -> Self {
        let body = icmp_message(source, destination, kind, code, rest);
        Packet::new(source, destination, icmp_protocol(source), body)
    }

    /// A "port unreachable" about `offending`, from `source` (who need not be its destination).
    pub fn port_unreachable(source: IpAddr, offending: &Packet) -> Self {
        let (kind, code) = if source.is_ipv4() { (3, 3) } else { (1, 4) };
        let mut rest = vec![0; 4];
        rest.extend(offending.bytes().into_iter().take(128));
        Packet::icmp(source, offending.source, kind, code, &rest)
    }

    /// A neighbour solicitation (RFC 4861, 4.3), with the honest hop limit of 255.
    pub fn neighbour_solicitation(source: Ipv6Addr, destination: Ipv6Addr, target: Ipv6Addr, mac: [u8; 6]) -> Self {
        Packet::neighbour_discovery(source, destination, 135, [0; 4], target, 1, mac)
    }

    /// An unsolicited, overriding neighbour advertisement (RFC 4861, 4.4), with the honest hop limit of 255.
    pub fn neighbour_advertisement(source: Ipv6Addr, destination: Ipv6Addr, target: Ipv6Addr, mac: [u8; 6]) -> Self {
        Packet::neighbour_discovery(source, destination, 136, [0x20, 0, 0, 0], target, 2, mac)
    }

    fn neighbour_discovery(
        source: Ipv6Addr,
        destination: Ipv6Addr,
        kind: u8,
        flags: [u8; 4],
        target: Ipv6Addr,
        option: u8,
        mac: [u8; 6],
    ) -> Self {
        let mut rest = flags.to_vec();
        rest.extend(target.octets());
        rest.extend([option, 1]);
        rest.extend(mac);
        Packet::icmp(source.into(), destination.into(), kind, 0, &rest).ttl(255)
    }

    /// With this TTL or hop limit.
    #[must_use]
    pub fn ttl(mut self, ttl: u8) -> Self {
        self.ttl = ttl;
        self
    }

    /// With this identification.
    #[must_use]
    pub fn identification(mut self, identification: u32) -> Self {
        self.identification = identification;
        self
    }

    /// The whole packet, from the IP header on.
    pub fn bytes(&self) -> Vec<u8> {
        self.slice(0..self.body.len(), None)
    }

    /// The packet in fragments of at most `size` bytes of body each.
    ///
    /// # Panics
    /// If `size` is no positive multiple of 8 (RFC 791, 3.2).
    pub fn fragments(&self, size: usize) -> Vec<Vec<u8>> {
        assert!(size > 0 && size.is_multiple_of(8), "a fragment's size is a multiple of 8, not {size}");
        let length = self.body.len();
        let part = |begin: usize| {
            let end = (begin + size).min(length);
            self.slice(begin..end, Some(end < length))
        };
        (0..length).step_by(size).map(part).collect()
    }

    /// A part of the body behind an IP header; `more` is `None` for a packet that is whole.
    fn slice(&self, range: std::ops::Range<usize>, more: Option<bool>) -> Vec<u8> {
        let offset = (range.start / 8) as u16;
        let body = &self.body[range];
        match (self.source, self.destination) {
            (IpAddr::V4(s), IpAddr::V4(d)) => self.slice_v4((s, d), body, offset, more),
            (IpAddr::V6(s), IpAddr::V6(d)) => self.slice_v6((s, d), body, offset, more),
            (s, d) => panic!("{s} and {d} are of different families"),
        }
    }

    fn slice_v4(&self, ends: (Ipv4Addr, Ipv4Addr), body: &[u8], offset: u16, more: Option<bool>) -> Vec<u8> {
        let mut bytes = vec![0; 20 + body.len()];
        let length = u16::try_from(bytes.len()).expect("an IPv4 packet's length");
        let mut ip = MutableIpv4Packet::new(&mut bytes).expect("room for the header");
        ip.set_version(4);
        ip.set_header_length(5);
        ip.set_total_length(length);
        ip.set_identification(self.identification as u16);
        ip.set_flags(u8::from(more == Some(true)));
        ip.set_fragment_offset(offset);
        ip.set_ttl(self.ttl);
        ip.set_next_level_protocol(IpNextHeaderProtocol(self.protocol));
        ip.set_source(ends.0);
        ip.set_destination(ends.1);
        ip.set_payload(body);
        ip.set_checksum(ipv4::checksum(&ip.to_immutable()));
        bytes
    }

    fn slice_v6(&self, ends: (Ipv6Addr, Ipv6Addr), body: &[u8], offset: u16, more: Option<bool>) -> Vec<u8> {
        let extension = if more.is_some() { 8 } else { 0 };
        let mut bytes = vec![0; 40 + extension + body.len()];
        let length = u16::try_from(extension + body.len()).expect("an IPv6 packet's length");
        let mut ip = MutableIpv6Packet::new(&mut bytes).expect("room for the header");
        ip.set_version(6);
        ip.set_payload_length(length);
        ip.set_hop_limit(self.ttl);
        ip.set_source(ends.0);
        ip.set_destination(ends.1);
        let protocol = IpNextHeaderProtocol(self.protocol);
        ip.set_next_header(if more.is_some() { IpNextHeaderProtocols::Ipv6Frag } else { protocol });
        if let Some(more) = more {
            // RFC 8200, 4.5; offset in units of 8 octets, above three bits of which the last says "more".
            let place = (offset << 3) | u16::from(more);
            bytes[40] = self.protocol;
            bytes[42..44].copy_from_slice(&place.to_be_bytes());
            bytes[44..48].copy_from_slice(&self.identification.to_be_bytes());
        }
        bytes[40 + extension..].copy_from_slice(body);
        bytes
    }
}

/// An Ethernet frame around an IP packet.
pub fn frame(from: [u8; 6], to: [u8; 6], ip: &[u8]) -> Vec<u8> {
    let kind: [u8; 2] = if ip.first().is_some_and(|b| b >> 4 == 6) { [0x86, 0xdd] } else { [0x08, 0x00] };
    [&to[..], &from[..], &kind[..], ip].concat()
}

/// An echo request's ICMP message.
pub(crate) fn echo_message(source: IpAddr, destination: IpAddr, identifier: u16, sequence: u16) -> Vec<u8> {
    let rest = [&identifier.to_be_bytes()[..], &sequence.to_be_bytes()[..], b"podgate?"].concat();
    icmp_message(source, destination, if source.is_ipv4() { 8 } else { 128 }, 0, &rest)
}

fn icmp_message(source: IpAddr, destination: IpAddr, kind: u8, code: u8, rest: &[u8]) -> Vec<u8> {
    let mut message = [&[kind, code, 0, 0], rest].concat();
    let sum = match (source, destination) {
        (IpAddr::V6(s), IpAddr::V6(d)) => util::ipv6_checksum(&message, 1, &[], &s, &d, IpNextHeaderProtocols::Icmpv6),
        _ => util::checksum(&message, 1),
    };
    message[2..4].copy_from_slice(&sum.to_be_bytes());
    message
}

fn icmp_protocol(address: IpAddr) -> u8 {
    if address.is_ipv4() { IpNextHeaderProtocols::Icmp.0 } else { IpNextHeaderProtocols::Icmpv6.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ends(v6: bool) -> (SocketAddr, SocketAddr) {
        let text = if v6 { ("[fd00::1]:1000", "[fd00::2]:53") } else { ("10.0.0.1:1000", "10.0.0.2:53") };
        (text.0.parse().unwrap(), text.1.parse().unwrap())
    }

    #[test]
    fn fragments_cover_the_body_once_and_only_the_last_says_the_end() {
        for v6 in [false, true] {
            let (from, to) = ends(v6);
            let packet = Packet::udp(from, to, &[7; 45]);
            let header = if v6 { 48 } else { 20 };
            let parts = packet.fragments(16);
            let joined: Vec<u8> = parts.iter().flat_map(|p| p[header..].to_vec()).collect();
            assert_eq!(joined, packet.body);
            let place = |p: &[u8]| {
                let at = if v6 { 42 } else { 6 };
                let field = u16::from_be_bytes([p[at], p[at + 1]]);
                if v6 { (field >> 3, field & 1) } else { (field & 0x1fff, (field >> 13) & 1) }
            };
            let places: Vec<_> = parts.iter().map(|p| place(p)).collect();
            assert_eq!(places, [(0, 1), (2, 1), (4, 1), (6, 0)]);
        }
    }

    #[test]
    fn neighbour_discovery_is_honest_unless_told_otherwise() {
        let address = Ipv6Addr::LOCALHOST;
        let packet = Packet::neighbour_solicitation(address, address, address, [1; 6]);
        assert_eq!((packet.ttl, packet.body[0], packet.body.len()), (255, 135, 32));
        assert_eq!(packet.ttl(64).bytes()[7], 64);
    }
}

//! The bytes of an answer, with every length and checksum.

use std::net::IpAddr;

use pnet_packet::icmp::destination_unreachable::{IcmpCodes, MutableDestinationUnreachablePacket};
use pnet_packet::icmp::{self, IcmpPacket, IcmpTypes};
use pnet_packet::icmpv6::{self, Icmpv6Code, Icmpv6Packet, Icmpv6Types, MutableIcmpv6Packet};
use pnet_packet::ip::{IpNextHeaderProtocol, IpNextHeaderProtocols};
use pnet_packet::ipv4::{self, Ipv4Flags, MutableIpv4Packet};
use pnet_packet::ipv6::MutableIpv6Packet;
use pnet_packet::tcp::{self, MutableTcpPacket, TcpFlags};

use super::answer::Reset;

const IPV4: usize = 20;
const IPV6: usize = 40;
const TCP: usize = 20;
/// Of an ICMP error, before the packet that it is about.
const ICMP: usize = 8;
/// As much of that packet as lets the whole be 576 bytes (RFC 1812, 4.3.2.3), and 1280 (RFC 4443, 2.4).
const ABOUT_V4: usize = 576 - IPV4 - ICMP;
pub(super) const ABOUT_V6: usize = 1280 - IPV6 - ICMP;
/// Reject route to destination is not it: "communication with destination administratively prohibited" (RFC 4443, 3.1).
const PROHIBITED_V6: Icmpv6Code = Icmpv6Code(1);

/// Never: the two addresses are of one packet, the buffers have the length of the headers.
type Built = Option<Vec<u8>>;

/// A reset with its IP header. None if the two ends are of different families.
pub(super) fn reset(reset: &Reset) -> Built {
    let mut bytes = vec![0; TCP];
    let mut segment = MutableTcpPacket::new(&mut bytes)?;
    segment.set_source(reset.from.port());
    segment.set_destination(reset.to.port());
    segment.set_sequence(reset.sequence);
    segment.set_acknowledgement(reset.acknowledgement.unwrap_or(0));
    segment.set_data_offset((TCP / 4) as u8);
    segment.set_flags(TcpFlags::RST | if reset.acknowledgement.is_some() { TcpFlags::ACK } else { 0 });
    let sum = match (reset.from.ip(), reset.to.ip()) {
        (IpAddr::V4(from), IpAddr::V4(to)) => tcp::ipv4_checksum(&segment.to_immutable(), &from, &to),
        (IpAddr::V6(from), IpAddr::V6(to)) => tcp::ipv6_checksum(&segment.to_immutable(), &from, &to),
        _ => return None,
    };
    segment.set_checksum(sum);
    with_header(reset.from.ip(), reset.to.ip(), IpNextHeaderProtocols::Tcp, &bytes)
}

/// An error about a packet, of which these bytes are known, with its IP header. None if the two addresses are of
/// different families.
pub(super) fn prohibited(from: IpAddr, to: IpAddr, about: &[u8]) -> Built {
    match (from, to) {
        (IpAddr::V4(_), IpAddr::V4(_)) => {
            let about = &about[..about.len().min(ABOUT_V4)];
            let mut bytes = vec![0; ICMP + about.len()];
            let mut message = MutableDestinationUnreachablePacket::new(&mut bytes)?;
            message.set_icmp_type(IcmpTypes::DestinationUnreachable);
            message.set_icmp_code(IcmpCodes::CommunicationAdministrativelyProhibited);
            message.set_payload(about);
            let sum = icmp::checksum(&IcmpPacket::new(&bytes)?);
            MutableDestinationUnreachablePacket::new(&mut bytes)?.set_checksum(sum);
            with_header(from, to, IpNextHeaderProtocols::Icmp, &bytes)
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            let about = &about[..about.len().min(ABOUT_V6)];
            let mut bytes = vec![0; ICMP + about.len()];
            bytes[ICMP..].copy_from_slice(about);
            let mut message = MutableIcmpv6Packet::new(&mut bytes)?;
            message.set_icmpv6_type(Icmpv6Types::DestinationUnreachable);
            message.set_icmpv6_code(PROHIBITED_V6);
            let sum = icmpv6::checksum(&Icmpv6Packet::new(&bytes)?, &source, &destination);
            MutableIcmpv6Packet::new(&mut bytes)?.set_checksum(sum);
            with_header(from, to, IpNextHeaderProtocols::Icmpv6, &bytes)
        }
        _ => None,
    }
}

fn with_header(from: IpAddr, to: IpAddr, protocol: IpNextHeaderProtocol, body: &[u8]) -> Built {
    match (from, to) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            let mut bytes = vec![0; IPV4 + body.len()];
            let mut packet = MutableIpv4Packet::new(&mut bytes)?;
            packet.set_version(4);
            packet.set_header_length((IPV4 / 4) as u8);
            packet.set_total_length((IPV4 + body.len()) as u16);
            packet.set_flags(Ipv4Flags::DontFragment);
            packet.set_ttl(64);
            packet.set_next_level_protocol(protocol);
            packet.set_source(from);
            packet.set_destination(to);
            packet.set_payload(body);
            let sum = ipv4::checksum(&packet.to_immutable());
            packet.set_checksum(sum);
            Some(bytes)
        }
        (IpAddr::V6(from), IpAddr::V6(to)) => {
            let mut bytes = vec![0; IPV6 + body.len()];
            let mut packet = MutableIpv6Packet::new(&mut bytes)?;
            packet.set_version(6);
            packet.set_payload_length(body.len() as u16);
            packet.set_next_header(protocol);
            packet.set_hop_limit(64);
            packet.set_source(from);
            packet.set_destination(to);
            packet.set_payload(body);
            Some(bytes)
        }
        _ => None,
    }
}

//! The parser against packets that etherparse builds, cut at every length, and against random bytes.

use std::net::{Ipv4Addr, Ipv6Addr};

use etherparse::{IpFragOffset, IpNumber, Ipv4Header, Ipv6Extensions, Ipv6FragmentHeader, PacketBuilder};

use super::{Header, ParseError, embedded, parse};
use crate::{Addr, Port, protocol};

const A4: [u8; 4] = [10, 1, 0, 7];
const B4: [u8; 4] = [10, 2, 0, 9];
const A6: [u8; 16] = [0xfd, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 7];
const B6: [u8; 16] = [0xfd, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 9];

/// A small generator (xorshift64*), so that failures repeat.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn fill(&mut self, bytes: &mut [u8]) {
        bytes.iter_mut().for_each(|b| *b = (self.next() >> 32) as u8);
    }
}

fn tcp4(syn: bool, ack: bool) -> Vec<u8> {
    let mut step = PacketBuilder::ipv4(A4, B4, 64).tcp(40000, 443, 1, 1000);
    if syn {
        step = step.syn();
    }
    if ack {
        step = step.ack(7);
    }
    written(|out| step.write(out, b"payload").unwrap())
}

fn udp6() -> Vec<u8> {
    written(|out| PacketBuilder::ipv6(A6, B6, 64).udp(5353, 53).write(out, b"payload").unwrap())
}

fn written(write: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut out = Vec::new();
    write(&mut out);
    out
}

/// An IPv6 packet: the given extension chain (already bytes), then `transport`.
fn v6_with(first: u8, chain: &[u8], transport: &[u8]) -> Vec<u8> {
    let mut packet = vec![0x60, 0, 0, 0];
    packet.extend(((chain.len() + transport.len()) as u16).to_be_bytes());
    packet.extend([first, 64]);
    packet.extend(A6);
    packet.extend(B6);
    packet.extend(chain);
    packet.extend(transport);
    packet
}

/// What etherparse reads, in our terms; `None` where it stops before the upper protocol.
fn by_etherparse(bytes: &[u8]) -> Option<(Addr, Addr, u8, Port, Port)> {
    let (ip, stop) = etherparse::LaxIpSlice::from_slice(bytes).ok()?;
    if stop.is_some() {
        return None;
    }
    let number = ip.payload_ip_number().0;
    let (mut source, mut destination) = (Port::None, Port::None);
    if protocol::has_ports(number) {
        (source, destination) = match ip.payload().payload {
            [a, b, c, d, ..] => {
                (Port::Number(u16::from_be_bytes([*a, *b])), Port::Number(u16::from_be_bytes([*c, *d])))
            }
            _ => (Port::Unknown, Port::Unknown),
        };
    }
    Some((ip.source_addr().into(), ip.destination_addr().into(), number, source, destination))
}

fn tuple(header: Header) -> (Addr, Addr, u8, Port, Port) {
    let flow = header.flow;
    (flow.source, flow.destination, flow.protocol, header.source_port, flow.port)
}

#[test]
fn tcp_over_ipv4_shows_addresses_ports_and_who_opens() {
    let header = parse(&tcp4(true, false)).unwrap();
    assert_eq!(
        tuple(header),
        (Addr::from_v4(A4), Addr::from_v4(B4), protocol::TCP, Port::Number(40000), Port::Number(443))
    );
    assert!(header.opens && !header.is_midstream_tcp());
    for (syn, ack) in [(true, true), (false, true), (false, false)] {
        let header = parse(&tcp4(syn, ack)).unwrap();
        assert!(!header.opens && header.is_midstream_tcp(), "syn {syn} ack {ack}");
    }
}

#[test]
fn turned_round_the_source_port_is_the_destination_port() {
    let header = parse(&udp6()).unwrap();
    let turned = header.turned();
    assert_eq!((turned.source, turned.destination), (Addr::from_v6(B6), Addr::from_v6(A6)));
    assert_eq!((turned.protocol, turned.port), (protocol::UDP, Port::Number(5353)));
    assert!(!header.is_midstream_tcp());
}

#[test]
fn icmp_has_no_ports_either_way() {
    let packet = written(|out| PacketBuilder::ipv4(A4, B4, 64).icmpv4_echo_request(1, 2).write(out, &[0; 56]).unwrap());
    let header = parse(&packet).unwrap();
    assert_eq!((header.flow.protocol, header.flow.port, header.source_port), (1, Port::None, Port::None));
    let packet = written(|out| PacketBuilder::ipv6(A6, B6, 64).icmpv6_echo_request(1, 2).write(out, &[0; 56]).unwrap());
    assert_eq!(parse(&packet).unwrap().flow.protocol, protocol::ICMPV6);
}

#[test]
fn sctp_has_ports() {
    let packet = v6_with(protocol::SCTP, &[], &[0x12, 0x34, 0x56, 0x78, 0, 0, 0, 0, 0, 0, 0, 0]);
    let header = parse(&packet).unwrap();
    assert_eq!((header.source_port, header.flow.port), (Port::Number(0x1234), Port::Number(0x5678)));
}

#[test]
fn a_packet_cut_at_any_length_keeps_what_is_there() {
    for packet in [tcp4(true, false), udp6()] {
        let whole = parse(&packet).unwrap();
        let network = if packet[0] >> 4 == 4 { 20 } else { 40 };
        for length in 0..packet.len() {
            match parse(&packet[..length]) {
                Err(ParseError::Version) => assert_eq!(length, 0),
                Err(ParseError::HeaderCut) => assert!(length < network, "at {length}"),
                Err(other) => panic!("{other} at {length}"),
                Ok(header) if length < network + 4 => {
                    assert!(length >= network);
                    assert_eq!((header.flow.port, header.source_port), (Port::Unknown, Port::Unknown));
                    assert_eq!(header.flow.source, whole.flow.source);
                    assert!(!header.is_midstream_tcp(), "flags that are not to be seen are not mid-stream");
                }
                Ok(header) => assert_eq!(header, whole, "at {length}"),
            }
        }
    }
}

#[test]
fn a_short_total_length_hides_bytes_behind_the_packet() {
    let mut packet = tcp4(true, false);
    packet[2..4].copy_from_slice(&22u16.to_be_bytes());
    assert_eq!(parse(&packet).unwrap().flow.port, Port::Unknown);
    // Segmentation offload above 64 KiB has a length of zero.
    packet[2..4].copy_from_slice(&0u16.to_be_bytes());
    assert_eq!(parse(&packet).unwrap().flow.port, Port::Number(443));
}

#[test]
fn options_move_the_ports() {
    let mut packet = tcp4(true, false);
    packet[0] = 0x46;
    packet.splice(20..20, [1, 1, 1, 0]);
    let total = packet.len() as u16;
    packet[2..4].copy_from_slice(&total.to_be_bytes());
    assert_eq!(parse(&packet).unwrap().flow.port, Port::Number(443));
    assert_eq!(parse(&packet[..22]).unwrap().flow.port, Port::Unknown, "the options are cut");
    packet[0] = 0x44;
    assert_eq!(parse(&packet), Err(ParseError::HeaderLength));
}

#[test]
fn a_later_fragment_has_unknown_ports() {
    let mut ip = Ipv4Header::new(64, 64, IpNumber::UDP, A4, B4).unwrap();
    ip.fragment_offset = IpFragOffset::try_new(185).unwrap();
    let mut packet = Vec::new();
    ip.write(&mut packet).unwrap();
    packet.extend([0x12; 64]);
    assert_eq!(parse(&packet).unwrap().flow.port, Port::Unknown);
    // The first fragment shows them.
    packet[6..8].copy_from_slice(&0x2000u16.to_be_bytes());
    assert_eq!(parse(&packet).unwrap().flow.port, Port::Number(0x1212));
    // TCP: neither opening nor mid-stream can be told, so it is not mid-stream.
    packet[6..8].copy_from_slice(&0x0010u16.to_be_bytes());
    packet[9] = protocol::TCP;
    assert!(!parse(&packet).unwrap().is_midstream_tcp());
}

#[test]
fn extension_headers_are_walked_to_the_upper_protocol() {
    let udp = [0x14, 0xe9, 0, 53, 0, 8, 0, 0];
    let hop_by_hop = [60, 0, 1, 4, 0, 0, 0, 0];
    let destination = [43, 1, 1, 12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let routing = [51, 0, 4, 0, 0, 0, 0, 0];
    let authentication = [44, 4, 0, 0, 0, 0, 0, 1, 0, 0, 0, 1, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9];
    let first_fragment = [17, 0, 0, 1, 0, 0, 0, 1];
    let chain = [&hop_by_hop[..], &destination, &routing, &authentication, &first_fragment].concat();
    let packet = v6_with(0, &chain, &udp);
    let header = parse(&packet).unwrap();
    assert_eq!((header.flow.protocol, header.flow.port), (protocol::UDP, Port::Number(53)));
    assert_eq!(Some(tuple(header)), by_etherparse(&packet));
    for length in 40..40 + chain.len() {
        assert_eq!(parse(&packet[..length]), Err(ParseError::Extensions), "at {length}");
    }
}

#[test]
fn a_later_ipv6_fragment_is_not_read_as_headers() {
    let later = Ipv6FragmentHeader::new(IpNumber::UDP, IpFragOffset::try_new(185).unwrap(), true, 7);
    let mut chain = Vec::new();
    later.write(&mut chain).unwrap();
    let header = parse(&v6_with(44, &chain, &[0, 80, 0, 80, 0, 0, 0, 0])).unwrap();
    assert_eq!((header.flow.protocol, header.flow.port), (protocol::UDP, Port::Unknown));
    // Its payload could look like further extension headers that lead to an open port.
    chain[0] = 60;
    let header = parse(&v6_with(44, &chain, &[17, 0, 0, 0, 0, 0, 0, 0, 0, 80, 0, 80])).unwrap();
    assert_eq!((header.flow.protocol, header.flow.port), (60, Port::None));
}

#[test]
fn an_ipv4_mapped_address_in_an_ipv6_header_does_not_pass_for_an_ipv4_pods() {
    for at in [8, 24] {
        let mut packet = udp6();
        packet[at..at + 16].copy_from_slice(&Ipv4Addr::from(A4).to_ipv6_mapped().octets());
        assert_eq!(parse(&packet), Err(ParseError::Mapped));
    }
}

#[test]
fn every_kind_of_error_has_its_own_index_and_word() {
    let words: std::collections::HashSet<_> = ParseError::ALL.iter().map(|e| e.as_str()).collect();
    assert_eq!(words.len(), ParseError::ALL.len());
    for (index, error) in ParseError::ALL.iter().enumerate() {
        assert_eq!(error.index(), index);
    }
}

#[test]
fn no_next_header_and_encrypted_payloads_are_protocols_without_ports() {
    for number in [59, 50, 135, 139, 140, 253] {
        let header = parse(&v6_with(number, &[], &[0; 16])).unwrap();
        assert_eq!((header.flow.protocol, header.flow.port), (number, Port::None));
    }
}

#[test]
fn an_icmp_error_shows_the_packet_inside() {
    let inner = tcp4(false, true);
    let router = [10, 9, 9, 9];
    let unreachable = |inner: &[u8]| {
        written(|out| {
            PacketBuilder::ipv4(router, A4, 64).icmpv4_raw(3, 3, [0; 4]).write(out, inner).unwrap();
        })
    };
    // Routers may send no more than eight bytes of the inner transport header (RFC 792).
    let header = embedded(&unreachable(&inner[..28])).unwrap();
    assert_eq!(header.flow, parse(&inner).unwrap().flow);
    assert_eq!(header.source_port, Port::Number(40000));
    assert_eq!(embedded(&unreachable(&inner[..19])), Err(ParseError::Embedded));
    assert_eq!(embedded(&unreachable(&[])), Err(ParseError::Embedded));
    assert_eq!(embedded(&unreachable(&udp6())), Err(ParseError::Embedded), "another family");

    let inner = udp6();
    let too_big = written(|out| {
        PacketBuilder::ipv6(B6, A6, 64).icmpv6_raw(2, 0, [0, 0, 5, 0]).write(out, &inner).unwrap();
    });
    assert_eq!(embedded(&too_big).unwrap().flow, parse(&inner).unwrap().flow);
    assert_eq!(embedded(&too_big[..60]), Err(ParseError::Embedded));
}

#[test]
fn echoes_and_other_protocols_are_no_icmp_errors() {
    let echo = written(|out| PacketBuilder::ipv4(A4, B4, 64).icmpv4_echo_reply(1, 2).write(out, &[0x45; 60]).unwrap());
    assert_eq!(embedded(&echo), Err(ParseError::NotIcmpError));
    assert_eq!(embedded(&tcp4(true, false)), Err(ParseError::NotIcmpError));
    // ICMP (1) inside IPv6 is nobody's error.
    assert_eq!(embedded(&v6_with(1, &[], &[3; 64])), Err(ParseError::NotIcmpError));
    assert_eq!(embedded(&[]), Err(ParseError::Version));
}

#[test]
fn agrees_with_etherparse_on_built_packets_cut_anywhere() {
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    for round in 0..4_000 {
        let mut bytes = [0; 64];
        random.fill(&mut bytes);
        let (a4, b4) = (Ipv4Addr::from_bits(random.next() as u32), Ipv4Addr::from_bits(random.next() as u32));
        let (a6, b6) = (Ipv6Addr::from_bits(random.next().into()), Ipv6Addr::from_bits(random.next().into()));
        let (source, destination) = (random.next() as u16, random.next() as u16);
        let payload = &bytes[..random.next() as usize % 64];
        let packet = written(|out| {
            let v4 = PacketBuilder::ipv4(a4.octets(), b4.octets(), 64);
            let v6 = PacketBuilder::ipv6(a6.octets(), b6.octets(), 64);
            match round % 6 {
                0 => v4.udp(source, destination).write(out, payload).unwrap(),
                1 => v6.udp(source, destination).write(out, payload).unwrap(),
                2 => v4.tcp(source, destination, 1, 1).write(out, payload).unwrap(),
                3 => v6.tcp(source, destination, 1, 1).write(out, payload).unwrap(),
                4 => v4.icmpv4_echo_reply(source, destination).write(out, payload).unwrap(),
                _ => {
                    let extensions = Ipv6Extensions {
                        hop_by_hop_options: Some(
                            etherparse::Ipv6RawExtHeader::new_raw(IpNumber::UDP, &bytes[..14]).unwrap(),
                        ),
                        fragment: Some(Ipv6FragmentHeader::new(IpNumber::UDP, IpFragOffset::ZERO, true, 7)),
                        ..Default::default()
                    };
                    let header = etherparse::Ipv6Header {
                        traffic_class: 0,
                        flow_label: etherparse::Ipv6FlowLabel::ZERO,
                        payload_length: 0,
                        next_header: IpNumber::UDP,
                        hop_limit: 9,
                        source: a6.octets(),
                        destination: b6.octets(),
                    };
                    PacketBuilder::ip(etherparse::IpHeaders::Ipv6(header, extensions))
                        .udp(source, destination)
                        .write(out, payload)
                        .unwrap();
                }
            }
        });
        for length in 0..=packet.len() {
            let ours = parse(&packet[..length]).ok().map(tuple);
            assert_eq!(ours, by_etherparse(&packet[..length]), "round {round}, cut at {length}: {packet:02x?}");
        }
    }
}

#[test]
fn random_bytes_never_panic_and_never_show_a_port_that_is_not_there() {
    let mut random = Random(0x0123_4567_89ab_cdef);
    let mut bytes = [0u8; 160];
    for round in 0..200_000u32 {
        random.fill(&mut bytes);
        // Mostly plausible headers, or nothing past the version would ever be reached.
        if round % 8 != 0 {
            bytes[0] = if round & 1 == 0 { 0x45 | (bytes[0] & 0x0f & !4) } else { 0x60 };
            bytes[6] = [0, 43, 44, 51, 60, 6, 17, 58][bytes[6] as usize % 8];
            bytes[9] = [1, 6, 17, 132][bytes[9] as usize % 4];
            bytes[41] %= 4;
        }
        let length = random.next() as usize % bytes.len();
        let cut = &bytes[..length];
        if let Ok(header) = parse(cut) {
            let least = if cut[0] >> 4 == 4 { 24 } else { 44 };
            assert!(length >= least || !matches!(header.flow.port, Port::Number(_)), "{cut:02x?}");
        }
        let _ = embedded(cut);
    }
}

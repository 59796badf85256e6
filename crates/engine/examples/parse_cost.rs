//! What reading one header costs: the hand-written parser against etherparse's lax slicing, alternated in one run.
//!
//! `cargo run --release -p podgate-engine --example parse_cost`
#![forbid(unsafe_code)]

use std::hint::black_box;
use std::time::Instant;

use etherparse::{LaxIpSlice, LaxSlicedPacket, PacketBuilder, TransportSlice};
use podgate_engine::{Addr, Flow, Port, packet};

const ROUNDS: usize = 21;
const PASSES: usize = 2_000;

fn main() {
    let packets = packets();
    let mut ours = Vec::new();
    let mut sliced = Vec::new();
    let mut ip_only = Vec::new();
    for _ in 0..ROUNDS {
        ours.push(measure(&packets, |bytes| packet::parse(bytes).ok().map(|h| h.flow)));
        sliced.push(measure(&packets, by_sliced_packet));
        ip_only.push(measure(&packets, by_ip_slice));
    }
    println!("nanoseconds a packet, median of {ROUNDS} rounds over {} packets", packets.len());
    for (name, figures) in [("podgate", &mut ours), ("LaxSlicedPacket", &mut sliced), ("LaxIpSlice", &mut ip_only)] {
        figures.sort_by(f64::total_cmp);
        println!("{name:>16} {:6.2}", figures[ROUNDS / 2]);
    }
}

/// TCP and UDP over both families, as in a queue: 128 bytes at most.
fn packets() -> Vec<Vec<u8>> {
    let mut packets = Vec::new();
    for i in 0..256u16 {
        let [hi, lo] = i.to_be_bytes();
        let mut out = Vec::new();
        let (a4, b4) = ([10, 1, hi, lo], [10, 2, lo, hi]);
        let (mut a6, mut b6) = ([0xfd; 16], [0xfd; 16]);
        (a6[15], b6[14]) = (lo, hi);
        let built = match i % 4 {
            0 => PacketBuilder::ipv4(a4, b4, 64).tcp(40_000 + i, 443, 1, 1000).syn().write(&mut out, &[0; 64]),
            1 => PacketBuilder::ipv4(a4, b4, 64).udp(40_000 + i, 53).write(&mut out, &[0; 200]),
            2 => PacketBuilder::ipv6(a6, b6, 64).tcp(40_000 + i, 443, 1, 1000).write(&mut out, &[0; 64]),
            _ => PacketBuilder::ipv6(a6, b6, 64).udp(40_000 + i, 53).write(&mut out, &[0; 200]),
        };
        built.expect("written to memory");
        out.truncate(128);
        packets.push(out);
    }
    packets
}

fn measure(packets: &[Vec<u8>], read: impl Fn(&[u8]) -> Option<Flow>) -> f64 {
    let start = Instant::now();
    for _ in 0..PASSES {
        for packet in packets {
            black_box(read(black_box(packet)));
        }
    }
    start.elapsed().as_nanos() as f64 / (PASSES * packets.len()) as f64
}

fn by_sliced_packet(bytes: &[u8]) -> Option<Flow> {
    let sliced = LaxSlicedPacket::from_ip(bytes).ok()?;
    let port = match &sliced.transport {
        Some(TransportSlice::Tcp(tcp)) => Port::Number(tcp.destination_port()),
        Some(TransportSlice::Udp(udp)) => Port::Number(udp.destination_port()),
        _ => Port::Unknown,
    };
    let net = sliced.net.as_ref()?;
    let (source, destination) = match net {
        etherparse::LaxNetSlice::Ipv4(ip) => (ip.header().source_addr().into(), ip.header().destination_addr().into()),
        etherparse::LaxNetSlice::Ipv6(ip) => (ip.header().source_addr().into(), ip.header().destination_addr().into()),
        _ => return None,
    };
    flow(source, destination, net.ip_payload_ref()?.ip_number.0, port)
}

fn by_ip_slice(bytes: &[u8]) -> Option<Flow> {
    let (ip, _) = LaxIpSlice::from_slice(bytes).ok()?;
    let port = match ip.payload().payload {
        [_, _, a, b, ..] => Port::Number(u16::from_be_bytes([*a, *b])),
        _ => Port::Unknown,
    };
    flow(ip.source_addr(), ip.destination_addr(), ip.payload_ip_number().0, port)
}

fn flow(source: std::net::IpAddr, destination: std::net::IpAddr, protocol: u8, port: Port) -> Option<Flow> {
    Some(Flow { source: Addr::from(source), destination: Addr::from(destination), protocol, port })
}

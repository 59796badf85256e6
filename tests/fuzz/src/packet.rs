//! A packet's bytes: what is read of them, and what becomes of it in a small world.
//!
//! Held against: etherparse, where both read the upper protocol; the reference evaluator, for the verdict; and the
//! packet itself with other bytes behind its end, or with fewer of its own.

use std::sync::{Arc, OnceLock};

use podgate_engine::packet::{Header, ParseError, embedded, parse};
use podgate_engine::{Port, Snapshot, protocol};
use podgate_policy::Locality;
use podgate_policy::World;
use podgate_policy::reference::Flow;

use crate::check::{compiled, difference};
use crate::kit::{admin, deny, namespace, node, pod, policy, rule};
use crate::objects;
use podgate_api::{Object, Protocol};

/// The addresses are in `dict/packet.dict` and in the corpus.
fn objects() -> Vec<Object> {
    objects![
        node("n1").at("10.9.0.1").at("fd00:9::1").pods_in("10.1.0.0/24").pods_in("fd00:1::/64"),
        namespace("a").label("team", "x"),
        namespace("b").annotated(),
        pod("a/web").label("app", "web").at("10.1.0.7").at("fd00:1::7").on("n1").port("http", Protocol::Tcp, 80),
        pod("a/db").label("app", "db").at("10.1.0.9").at("fd00:1::9").on("n1").port("sql", Protocol::Tcp, 5432),
        pod("b/any").at("10.1.0.11").at("fd00:1::b").on("n1"),
        pod("a/far").label("app", "web").at("10.2.0.9").at("fd00:2::9").on("n2"),
        policy("a/db")
            .select("app=db")
            .ingress(rule().pods("app=web").port_named(Protocol::Tcp, "sql"))
            .ingress(rule().block("10.2.0.0/16", &["10.2.3.0/24"]).ports(Protocol::Udp, 53, 80))
            .egress(rule().block("fd00:2::/32", &[]).port(Protocol::Sctp, 0x5678)),
        policy("a/web").select("app=web").egress(rule().pods("app=db")).egress(rule().block("0.0.0.0/0", &[])),
        admin("no-telnet", 5).ingress(deny().port(Protocol::Tcp, 23)).ingress(deny().block("10.66.0.0/16", &[])),
    ]
}

struct Fixture {
    world: World,
    localities: [(Locality, Arc<Snapshot>); 2],
}

fn fixture() -> &'static Fixture {
    static FIXTURE: OnceLock<Fixture> = OnceLock::new();
    FIXTURE.get_or_init(|| {
        let objects = objects();
        let localities = [Locality::All, Locality::Node("n1".to_owned())];
        Fixture {
            localities: localities.map(|locality| (locality.clone(), compiled(&objects, &locality))),
            world: objects.into_iter().collect(),
        }
    })
}

/// One packet.
pub fn run(data: &[u8]) {
    for header in [sound(data, parse), sound(data, embedded)].into_iter().flatten() {
        judged(&header);
    }
    if let (Ok(ours), Some(theirs)) = (parse(data), by_etherparse(data)) {
        let flow = ours.flow;
        assert_eq!((flow.source, flow.destination), (theirs.0, theirs.1));
        // Of a fragment that is not the first, and of what stands behind an IPv4 authentication header, the two differ by
        // design (packet/mod.rs).
        if theirs.5 {
            assert_eq!((flow.protocol, ours.source_port, flow.port), (theirs.2, theirs.3, theirs.4));
        }
    }
}

/// What is read is what the packet has, and nothing of what stands behind it.
fn sound(data: &[u8], read: fn(&[u8]) -> Result<Header, ParseError>) -> Option<Header> {
    let header = read(data);
    if let Some(end) = end(data).filter(|end| *end <= data.len()) {
        assert_eq!(read(&data[..end]), header, "bytes behind the packet count");
        let mut other = data.to_vec();
        other[end..].iter_mut().for_each(|byte| *byte = !*byte);
        assert_eq!(read(&other), header, "bytes behind the packet count");
    }
    let header = header.ok()?;
    let ports = protocol::has_ports(header.flow.protocol);
    for port in [header.flow.port, header.source_port] {
        assert_eq!(ports, port != Port::None);
    }
    assert_eq!(matches!(header.flow.port, Port::Number(_)), matches!(header.source_port, Port::Number(_)));
    assert!(!header.opens || header.flow.protocol == protocol::TCP);
    let turned = header.turned();
    assert_eq!((turned.source, turned.destination), (header.flow.destination, header.flow.source));
    // With fewer bytes less is seen, but nothing else.
    let shorter = &data[..data.len() - data.len() / 3];
    if let Ok(less) = read(shorter) {
        assert_eq!((less.flow.source, less.flow.destination), (header.flow.source, header.flow.destination));
        assert_eq!(less.flow.protocol, header.flow.protocol);
        assert!(less.flow.port == header.flow.port || less.flow.port == Port::Unknown);
    }
    Some(header)
}

/// Where the packet ends by its own account, if it gives one.
fn end(data: &[u8]) -> Option<usize> {
    let length = |at: usize| Some(usize::from(u16::from_be_bytes([*data.get(at)?, *data.get(at + 1)?])));
    match data.first()? >> 4 {
        4 => length(2).filter(|total| *total >= usize::from(data[0] & 15) * 4 && *total >= 20),
        6 => length(4).filter(|payload| *payload > 0).map(|payload| 40 + payload),
        _ => None,
    }
}

fn judged(header: &Header) {
    let fixture = fixture();
    for flow in [header.flow, header.turned()] {
        let port = if let Port::Number(number) = flow.port { Some(number) } else { None };
        let asked =
            Flow { source: flow.source.ip(), destination: flow.destination.ip(), protocol: flow.protocol, port };
        assert_eq!(asked.to_engine(), flow);
        for (locality, snapshot) in &fixture.localities {
            if let Some(difference) = difference(snapshot, &fixture.world, locality, &asked) {
                panic!("{locality:?}\n{difference}");
            }
        }
    }
}

type Read = (podgate_engine::Addr, podgate_engine::Addr, u8, Port, Port, bool);

/// What etherparse reads, and whether it read all the way to the upper protocol by the same rules.
fn by_etherparse(data: &[u8]) -> Option<Read> {
    let (ip, stop) = etherparse::LaxIpSlice::from_slice(data).ok()?;
    let number = ip.payload_ip_number().0;
    let first = data.first()? >> 4;
    let plain = match &ip {
        etherparse::LaxIpSlice::Ipv4(v4) => v4.extensions().auth.is_none(),
        // Its extensions are not looked at one by one: the iterator of etherparse 0.21 reads out of bounds where a chain was
        // cut at a fragment, which this target found.
        etherparse::LaxIpSlice::Ipv6(_) => true,
    };
    let comparable = plain && stop.is_none() && !ip.payload().fragmented && (first == 4 || !lost_in_extensions(number));
    let (mut source, mut destination) = (Port::None, Port::None);
    if protocol::has_ports(number) {
        (source, destination) = match ip.payload().payload {
            [a, b, c, d, ..] => {
                (Port::Number(u16::from_be_bytes([*a, *b])), Port::Number(u16::from_be_bytes([*c, *d])))
            }
            _ => (Port::Unknown, Port::Unknown),
        };
    }
    Some((ip.source_addr().into(), ip.destination_addr().into(), number, source, destination, comparable))
}

/// Headers that only one of the two walks over (mobility, HIP, shim6), or that must come first (hop by hop).
fn lost_in_extensions(number: u8) -> bool {
    matches!(number, 0 | 43 | 44 | 51 | 60 | 135 | 139 | 140)
}

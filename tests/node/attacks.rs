//! A pod that crafts packets against another of which only UDP 53 is open: nothing but that gets there, nothing stops the agent,
//! and others go on. Floods are in `overload` and `share`, what is held in `hold`.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket};

use podgate_sandbox::ProbeKind::Udp;
use podgate_sandbox::packet::frame;
use podgate_sandbox::{Captured, Packet, Pod, PodOptions, Probe};

use crate::kit::{LONG, Node, pair, policy, web_on};

const UDP: u8 = 17;
const FRAGMENT: u8 = 44;
const PERMITTED: u16 = 53;
const FORBIDDEN: u16 = 54;

/// What is sent, by name.
type Crafted = Vec<(String, Vec<u8>)>;

/// An IPv4 packet with options and a fragment field.
fn v4(ends: (Ipv4Addr, Ipv4Addr), protocol: u8, options: &[u8], fragment: u16, body: &[u8]) -> Vec<u8> {
    let header = 20 + options.len().next_multiple_of(4);
    let mut bytes = vec![0; header];
    bytes[0] = 0x40 | (header / 4) as u8;
    bytes[2..4].copy_from_slice(&((header + body.len()) as u16).to_be_bytes());
    bytes[4..6].copy_from_slice(&0x77_u16.to_be_bytes());
    bytes[6..8].copy_from_slice(&fragment.to_be_bytes());
    (bytes[8], bytes[9]) = (64, protocol);
    bytes[12..16].copy_from_slice(&ends.0.octets());
    bytes[16..20].copy_from_slice(&ends.1.octets());
    bytes[20..20 + options.len()].copy_from_slice(options);
    let words = bytes.chunks(2).map(|word| u32::from(u16::from_be_bytes([word[0], word[1]])));
    let sum: u32 = words.sum();
    let sum = (sum & 0xffff) + (sum >> 16);
    bytes[10..12].copy_from_slice(&(!((sum & 0xffff) + (sum >> 16)) as u16).to_be_bytes());
    [bytes, body.to_vec()].concat()
}

/// An IPv6 packet whose first header after its own is `next`.
fn v6(ends: (Ipv6Addr, Ipv6Addr), next: u8, body: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0; 40];
    bytes[0] = 0x60;
    bytes[4..6].copy_from_slice(&(body.len() as u16).to_be_bytes());
    (bytes[6], bytes[7]) = (next, 64);
    bytes[8..24].copy_from_slice(&ends.0.octets());
    bytes[24..40].copy_from_slice(&ends.1.octets());
    [bytes, body.to_vec()].concat()
}

/// An extension header of 8 times `units` bytes, filled with padding (PadN).
fn extension(next: u8, units: usize) -> Vec<u8> {
    let mut bytes = vec![0; 8 * units];
    (bytes[0], bytes[1], bytes[2], bytes[3]) = (next, (units - 1) as u8, 1, (8 * units - 4) as u8);
    bytes
}

/// A routing header of this type with one segment.
fn routing(next: u8, kind: u8, left: u8, segment: Ipv6Addr) -> Vec<u8> {
    [&[next, 2, kind, left, 0, 0, 0, 0], &segment.octets()[..]].concat()
}

fn fragment(next: u8, offset: u16, more: bool) -> Vec<u8> {
    let [a, b] = (offset << 3 | u16::from(more)).to_be_bytes();
    vec![next, 0, a, b, 0, 0, 0, 0x77]
}

fn authentication(next: u8) -> Vec<u8> {
    [&[next, 4, 0, 0, 0, 0, 0, 53], &[0; 16][..]].concat()
}

fn udp(ends: (IpAddr, IpAddr), source: u16, port: u16, payload: &[u8]) -> Vec<u8> {
    Packet::udp((ends.0, source).into(), (ends.1, port).into(), payload).body
}

/// What both families have: ports, flags, protocols, types of ICMP.
fn plain(ends: (IpAddr, IpAddr)) -> Crafted {
    let mut all = Crafted::new();
    let mut add = |name: String, packet: Packet| all.push((name, packet.bytes()));
    for source in [0, 1, PERMITTED, u16::MAX] {
        for port in [0, 1, 52, FORBIDDEN, u16::MAX] {
            add(
                format!("UDP {source} to {port}"),
                Packet::udp((ends.0, source).into(), (ends.1, port).into(), b"leak"),
            );
        }
    }
    for port in [0, PERMITTED, 80, u16::MAX] {
        for flags in 0..=u8::MAX {
            let (from, to) = ((ends.0, 7000 + u16::from(flags)).into(), (ends.1, port).into());
            add(format!("TCP to {port}, flags {flags:#x}"), Packet::tcp(from, to, flags, (1, 1), b"leak"));
        }
    }
    // To whoever does not ask for the protocol, each is to the permitted port.
    for protocol in (0..=u8::MAX).filter(|protocol| *protocol != UDP) {
        let body = udp(ends, PERMITTED, PERMITTED, b"leak, leak, leak, leak, leak");
        add(format!("protocol {protocol}"), Packet::new(ends.0, ends.1, protocol, body));
    }
    // About connections that there are not, either way round.
    for kind in 0..=u8::MAX {
        for (from, to) in [ends, (ends.1, ends.0)] {
            let about = Packet::udp((from, 9999).into(), (to, 9998).into(), b"leak").bytes();
            let rest = [&[0; 4], &about[..]].concat();
            for ttl in [64, 255] {
                add(format!("ICMP {kind} about {from}"), Packet::icmp(ends.0, ends.1, kind, 0, &rest).ttl(ttl));
            }
        }
    }
    for ttl in [0, 1, 2] {
        add(format!("TTL {ttl}"), Packet::udp((ends.0, 7).into(), (ends.1, FORBIDDEN).into(), b"leak").ttl(ttl));
    }
    all
}

fn of_v4(ends: (Ipv4Addr, Ipv4Addr), gateway: Ipv4Addr) -> Crafted {
    let (from, to) = (IpAddr::from(ends.0), IpAddr::from(ends.1));
    let body = |port| udp((from, to), 4000, port, b"leak, leak, leak, leak");
    let forbidden = body(FORBIDDEN);
    let mut all = Crafted::new();
    let mut add = |name: &str, bytes| all.push((name.to_owned(), bytes));
    let [a, b, c, d] = ends.1.octets();
    for (name, options) in [
        ("no operations", vec![1; 40]),
        ("record route", [&[7, 39, 4], &[0; 36][..], &[0]].concat()),
        ("router alert", vec![148, 4, 0, 0]),
        ("timestamp", [&[68, 36, 5, 0], &[0; 32][..]].concat()),
        ("an option that is too long", vec![7, 200, 4, 0]),
        ("loose source route", vec![131, 7, 4, a, b, c, d, 0]),
    ] {
        add(name, v4(ends, UDP, &options, 0, &forbidden));
        add(name, v4((ends.0, gateway), UDP, &options, 0, &forbidden));
    }
    // Fragments: a header in parts, overlapping ones, later ones alone; offsets are in units of 8 bytes.
    let (permitted, more) = (body(PERMITTED), 0x2000);
    add("a tiny first fragment", v4(ends, UDP, &[], more, &forbidden[..8]));
    add("its rest", v4(ends, UDP, &[], 1, &forbidden[8..]));
    add("a later fragment alone", v4(ends, UDP, &[], 100, &permitted));
    add("a first fragment with the permitted port", v4(ends, UDP, &[], more, &permitted[..16]));
    add("another in its place", v4(ends, UDP, &[], more, &forbidden[..16]));
    add("the end of both", v4(ends, UDP, &[], 2, &forbidden[16..]));
    add("a fragment beyond the largest packet", v4(ends, UDP, &[], 0x1fff, &permitted));
    add("a packet that may not be fragmented, in fragments", v4(ends, UDP, &[], 0x6000, &forbidden));
    add("with the reserved bit", v4(ends, UDP, &[], 0x8000, &forbidden));
    // Lengths that are not so.
    for (at, value) in [(0, 0x44), (0, 0x4f), (3, 20), (3, 0xff), (2, 0xff)] {
        let mut bytes = v4(ends, UDP, &[], 0, &forbidden);
        bytes[at] = value;
        add("a wrong length", bytes);
    }
    for source in ["0.0.0.0", "127.0.0.1", "224.0.0.1", "255.255.255.255", &gateway.to_string(), "10.244.1.255"] {
        let source: Ipv4Addr = source.parse().expect("an address");
        add(
            "a source that nobody has",
            v4((source, ends.1), UDP, &[], 0, &udp((source.into(), to), 1, PERMITTED + 1, b"leak")),
        );
    }
    all
}

fn of_v6(ends: (Ipv6Addr, Ipv6Addr), gateway: Ipv6Addr) -> Crafted {
    let (from, to) = (IpAddr::from(ends.0), IpAddr::from(ends.1));
    let body = |port| udp((from, to), 4000, port, b"leak, leak, leak, leak");
    let (forbidden, permitted) = (body(FORBIDDEN), body(PERMITTED));
    let mut all = Crafted::new();
    let mut add = |name: &str, next: u8, parts: &[&[u8]]| all.push((name.to_owned(), v6(ends, next, &parts.concat())));
    for next in [0, 43, 60, 135, 139, 140] {
        for units in [1, 2, 16, 32] {
            add("one extension", next, &[&extension(UDP, units), &forbidden]);
        }
        add("an extension cut short", next, &[&extension(UDP, 4)[..8]]);
    }
    for count in 1..=20 {
        let mut chain: Vec<u8> = (1..count).flat_map(|_| extension(60, 1)).collect();
        chain.extend(extension(UDP, 1));
        add("a chain of destination options", 60, &[&chain, &forbidden]);
        add("all kinds before them", 0, &[&extension(43, 1), &extension(60, 1), &chain, &forbidden]);
    }
    for kind in [0, 1, 2, 3, 4, 253] {
        for left in [0, 1] {
            add("a routing header", 43, &[&routing(UDP, kind, left, ends.1), &forbidden]);
        }
    }
    add("authentication", 51, &[&authentication(UDP), &forbidden]);
    add("authentication before what would be permitted to another", 51, &[&authentication(6), &permitted]);
    add("authentication, then options", 51, &[&authentication(60), &extension(UDP, 1), &forbidden]);
    add("nothing after the header", 59, &[&permitted]);
    add("an atomic fragment", FRAGMENT, &[&fragment(UDP, 0, false), &forbidden]);
    add("an atomic fragment of options", FRAGMENT, &[&fragment(60, 0, false), &extension(UDP, 1), &forbidden]);
    add("a tiny first fragment", FRAGMENT, &[&fragment(UDP, 0, true), &forbidden[..8]]);
    add("its rest", FRAGMENT, &[&fragment(UDP, 1, false), &forbidden[8..]]);
    add("a first fragment without the upper header", FRAGMENT, &[&fragment(60, 0, true), &extension(UDP, 1)]);
    add("the upper header in the second", FRAGMENT, &[&fragment(60, 1, false), &forbidden]);
    add("a later fragment alone", FRAGMENT, &[&fragment(UDP, 100, false), &permitted]);
    add("a first fragment with the permitted port", FRAGMENT, &[&fragment(UDP, 0, true), &permitted[..16]]);
    add("another in its place", FRAGMENT, &[&fragment(UDP, 0, true), &forbidden[..16]]);
    add("the end of both", FRAGMENT, &[&fragment(UDP, 2, false), &forbidden[16..]]);
    add("fragments in fragments", FRAGMENT, &[&fragment(FRAGMENT, 0, false), &fragment(UDP, 0, false), &forbidden]);
    for source in ["::", "::1", "ff02::1", "::ffff:10.244.1.3", "::ffff:127.0.0.1", &gateway.to_string()] {
        let source: Ipv6Addr = source.parse().expect("an address");
        let body = udp((source.into(), to), 1, FORBIDDEN, b"leak");
        all.push(("a source that nobody has".to_owned(), v6((source, ends.1), UDP, &body)));
    }
    all
}

#[test]
fn whatever_a_pod_crafts_nothing_but_what_is_permitted_arrives() {
    let (node, web, client, _server) = pair(&[80], &[PERMITTED, FORBIDDEN]);
    let other = node.pod(PodOptions::new("shop/other"));
    let towards = client.gateway_mac();
    craft(node, &web, &client, &other, towards);
}

#[test]
fn nor_does_it_on_a_bridge_but_for_neighbour_discovery() {
    let node = Node::new();
    node.write("node.yaml", &node.host.manifest());
    let bridge = node.host.bridge("cni0").expect("a bridge");
    node.host.filter_bridged(true, true).expect("set");
    let web = node.pod(PodOptions::new("shop/web").label("app", "web").on(&bridge));
    let client = node.pod(PodOptions::new("shop/client").label("app", "client").on(&bridge));
    let _server = web.server(&[80], &[PERMITTED, FORBIDDEN]).expect("a server");
    let other = node.pod(PodOptions::new("shop/other").on(&bridge));
    let towards = web.mac().expect("a link");
    craft(node, &web, &client, &other, towards);
}

/// One pod sends all of it to the other, in frames to this hardware address.
fn craft(mut node: Node, web: &Pod, client: &Pod, other: &Pod, towards: [u8; 6]) {
    node.write("policy.yaml", &web_on("UDP", PERMITTED));
    node.start(&["--loose-seconds", "0"]);
    let probes = || {
        [web.v4(), web.v6()]
            .map(|to| Probe::open(client.client(), to, Udp(PERMITTED)))
            .into_iter()
            .chain([web.v4(), web.v6()].map(|to| Probe::open(other.client(), to, Udp(PERMITTED))))
    };
    // Some of it stands in the kernel's memory of verdicts too.
    (0..5).for_each(|_| node.expect(&probes().collect::<Vec<_>>()));

    let (IpAddr::V4(from4), IpAddr::V4(to4)) = (client.v4(), web.v4()) else { panic!("families") };
    let (IpAddr::V6(from6), IpAddr::V6(to6)) = (client.v6(), web.v6()) else { panic!("families") };
    let gateway = |of: IpAddr| node.host.address_towards(of).expect("an address");
    let (IpAddr::V4(gateway4), IpAddr::V6(gateway6)) = (gateway(client.v4()), gateway(client.v6())) else {
        panic!("families")
    };
    let crafted = [
        plain((client.v4(), web.v4())),
        plain((client.v6(), web.v6())),
        of_v4((from4, to4), gateway4),
        of_v6((from6, to6), gateway6),
    ]
    .concat();
    let (mac, capture) = (client.mac().expect("a link"), web.netns().capture(None).expect("a capture"));
    let mut leaked = Vec::new();
    let is_permitted = |p: &Captured| p.protocol() == Some(UDP) && p.body().get(2..4) == Some(&PERMITTED.to_be_bytes());
    // What comes last is permitted, and its answer is waited for.
    let marker = client.netns().run(|| UdpSocket::bind((client.v4(), 0))).expect("bound");
    // Few enough for the queues at once.
    for (number, chunk) in crafted.chunks(500).enumerate() {
        let frames = chunk.iter().map(|(_, bytes)| frame(mac, towards, bytes));
        client.netns().send_frames("eth0", frames).expect("sent");
        let last = format!("the last of {number}");
        marker.send_to(last.as_bytes(), (web.v4(), PERMITTED)).expect("sent");
        let came = capture.wait(LONG, |p| {
            let to_web = !p.outgoing && p.ends().is_some_and(|(_, to)| web.addresses().contains(&to));
            let of_the_link = matches!(p.ends(), Some((IpAddr::V6(from), _)) if from.is_unicast_link_local());
            // With hop limit 255 it never was anywhere else.
            let discovery = p.protocol() == Some(58) && p.ip[7] == 255 && (133..=137).contains(&p.ip[40]);
            if to_web && !of_the_link && !discovery && !is_permitted(p) {
                leaked.push(p.ip.clone());
            }
            p.body().ends_with(last.as_bytes())
        });
        assert!(came.is_some(), "what is permitted does not come\n{}", node.log());
    }
    let name = |ip: &Vec<u8>| {
        let same = |sent: &&(String, Vec<u8>)| sent.1.len() == ip.len() && sent.1[20..] == ip[20..];
        crafted.iter().find(same).map_or("changed on its way", |(name, _)| name.as_str())
    };
    let told: Vec<_> = leaked.iter().map(|ip| format!("{}: {ip:x?}", name(ip))).collect();
    assert!(told.is_empty(), "{} of {} came through:\n{}", told.len(), crafted.len(), told.join("\n"));
    let dropped = node.get("/metrics").1;
    let dropped =
        dropped.lines().filter(|line| line.starts_with("podgate_queue_dropped_total{") && !line.ends_with(" 0"));
    assert_eq!(dropped.count(), 0, "each was judged");
    println!("{} packets crafted", crafted.len());
    assert_eq!(node.get("/readyz").0, 200);
    node.expect(&probes().collect::<Vec<_>>());
}

/// Sends a datagram to a pod that says it is from that pod itself, and a permitted one after it.
fn pretends_to_be(victim: &Pod, liar: &Pod, to: IpAddr, number: usize) -> bool {
    let capture = victim.netns().capture(None).expect("a capture");
    let macs = (liar.mac().expect("a link"), liar.gateway_mac());
    let forged = |port| Packet::udp((to, 4000 + number as u16).into(), (to, port).into(), b"itself").bytes();
    let frames = [FORBIDDEN, PERMITTED].map(|port| frame(macs.0, macs.1, &forged(port)));
    liar.netns().send_frames("eth0", frames.into_iter()).expect("sent");
    let from = if to.is_ipv4() { liar.v4() } else { liar.v6() };
    let honest = Packet::udp((from, 4000).into(), (to, PERMITTED).into(), format!("honest {number}").as_bytes());
    liar.netns().send(&honest).expect("sent");
    let mut came = false;
    let honest = capture.wait(LONG, |p| {
        came |= !p.outgoing && p.ends() == Some((to, to));
        p.body().ends_with(format!("honest {number}").as_bytes())
    });
    assert!(honest.is_some());
    came
}

#[test]
fn a_pod_that_says_it_is_its_victim_is_not_taken_for_that_one() {
    let (mut node, web, client, _server) = pair(&[80], &[PERMITTED, FORBIDDEN]);
    // The honest datagram may come, but from this pod only.
    let from_client = "{from: [{podSelector: {matchLabels: {app: client}}}], ports: [{protocol: UDP, port: 53}]}";
    node.write(
        "policy.yaml",
        &policy("web", "shop", &format!("{{podSelector: {{matchLabels: {{app: web}}}}, ingress: [{from_client}]}}")),
    );
    node.start(&["--loose-seconds", "0"]);
    // More often than it takes until verdicts are repeated by the kernel.
    for number in 0..10 {
        for to in [web.v4(), web.v6()] {
            assert!(!pretends_to_be(&web, &client, to, number), "to {to}, {number}\n{}", node.log());
        }
    }
    // What a pod sends to itself by way of a Service comes back to it.
    let service: IpAddr = "10.96.0.1".parse().expect("an address");
    let (ok, said) = node.command(
        "nft",
        &["table ip services { chain prerouting { type nat hook prerouting priority dstnat; \
           ip daddr 10.96.0.1 udp dport 5300 dnat to 10.244.1.2:53; }; \
           chain postrouting { type nat hook postrouting priority srcnat; ip saddr 10.244.1.2 ip daddr 10.244.1.2 masquerade; }; }"],
    );
    assert!(ok, "{said}");
    for _ in 0..5 {
        node.expect(&[
            Probe::open(web.client(), service, Udp(5300)),
            Probe::closed(client.client(), web.v4(), Udp(FORBIDDEN)),
        ]);
    }
}

//! The program on real packets: what comes up and how, what is remembered, what passes and what does not.

#![allow(clippy::unwrap_used)]

mod kit;

use std::net::{IpAddr, SocketAddr, UdpSocket};

use ipnet::IpNet;
use kit::*;
use podgate_netfilter::{Marks, Open, Program, ProgramSettings, Update, Way};

const BOTH: Open = Open { ingress: true, egress: true };
const PRE_ROUTING: u8 = 0;
const LOCAL_IN: u8 = 1;
const POST_ROUTING: u8 = 4;
const QUEUE: u16 = 5;

fn settings() -> ProgramSettings {
    ProgramSettings { queues: QUEUE..=QUEUE, udp_prerouting: Some(false), ..ProgramSettings::default() }
}

/// The program in `node`, with its pod ranges.
fn program(node: &Node, settings: ProgramSettings, open: &[(IpAddr, Open)]) -> Program {
    node.at.run(|| {
        let mut program = Program::install(settings).unwrap_or_else(|e| panic!("{e}"));
        let ranges: [IpNet; 2] = ["10.1.0.0/24".parse().unwrap(), "fd01::/64".parse().unwrap()];
        program.replace(&Update { ranges: Some(&ranges), open, judge_input: None }).unwrap();
        program
    })
}

/// Two sockets that talk to each other, and what is asked of their conversation.
struct Talk {
    client: UdpSocket,
    server: UdpSocket,
}

impl Talk {
    fn new(client: (&Namespace, IpAddr), server: (&Namespace, IpAddr)) -> Self {
        let client = client.0.udp(SocketAddr::new(client.1, 4000));
        Self { client, server: server.0.udp(SocketAddr::new(server.1, 53)) }
    }

    fn ask(&self, text: &str) -> bool {
        arrives(&self.client, &self.server, self.server.local_addr().unwrap(), text, SOON)
    }

    fn ask_in_vain(&self, text: &str) -> bool {
        !arrives(&self.client, &self.server, self.server.local_addr().unwrap(), text, NEVER)
    }

    fn reply(&self, text: &str) -> bool {
        arrives(&self.server, &self.client, self.client.local_addr().unwrap(), text, SOON)
    }

    fn reply_in_vain(&self, text: &str) -> bool {
        !arrives(&self.server, &self.client, self.client.local_addr().unwrap(), text, NEVER)
    }
}

/// What the ways of packets that came up were.
fn ways(seen: &[Seen]) -> Vec<Way> {
    seen.iter().map(|s| s.way.expect("a packet without a way")).collect()
}

#[test]
fn a_connection_comes_up_once_when_accepted_and_every_time_when_dropped() {
    let node = Node::new();
    let (a, b) = (node.pod(2), node.pod(3));
    let _program = program(&node, settings(), &[]);
    for (from, to) in [(v4(2), v4(3)), (v6(2), v6(3))] {
        let reader = Reader::start(&node.at, QUEUE, Say::Drop);
        let talk = Talk::new((&a, from), (&b, to));
        assert!(talk.ask_in_vain("dropped") && talk.ask_in_vain("dropped again"));
        assert_eq!(ways(&reader.so_far()), [Way::Original; 2]);
        reader.say(Say::Remember);
        assert!(talk.ask("accepted"));
        let seen = reader.next();
        assert_eq!((seen.way, seen.source, seen.destination, seen.protocol), (Some(Way::Original), from, to, 17));
        assert_eq!(
            (seen.hook, seen.rest[..4].to_vec()),
            (POST_ROUTING, [4000_u16.to_be_bytes(), 53_u16.to_be_bytes()].concat())
        );
        assert!(talk.reply("reply") && talk.ask("more"));
        assert_eq!(reader.so_far(), []);
    }
}

#[test]
fn what_is_only_passed_comes_up_again_in_both_directions() {
    let node = Node::new();
    let (a, b) = (node.pod(2), node.pod(3));
    let _program = program(&node, settings(), &[]);
    let reader = Reader::start(&node.at, QUEUE, Say::Pass);
    for (from, to) in [(v4(2), v4(3)), (v6(2), v6(3))] {
        let talk = Talk::new((&a, from), (&b, to));
        assert!(talk.ask("1") && talk.reply("2") && talk.ask("3"));
        let seen = reader.so_far();
        assert_eq!(ways(&seen), [Way::Original, Way::Reply, Way::Original]);
        assert_eq!((seen[1].source, seen[1].destination), (to, from));
    }
}

#[test]
fn an_accepted_reply_does_not_have_its_connection_remembered() {
    let node = Node::new();
    let (a, b) = (node.pod(2), node.pod(3));
    let _program = program(&node, settings(), &[]);
    let reader = Reader::start(&node.at, QUEUE, Say::Pass);
    let talk = Talk::new((&a, v4(2)), (&b, v4(3)));
    assert!(talk.ask("1"));
    reader.say(Say::Remember);
    assert!(talk.reply("2") && talk.reply("3"));
    reader.say(Say::Drop);
    assert!(talk.ask_in_vain("4"));
    assert_eq!(ways(&reader.so_far()), [Way::Original, Way::Reply, Way::Reply, Way::Original]);
}

#[test]
fn known_open_addresses_do_not_come_up_in_that_direction() {
    let node = Node::new();
    let (a, b, stranger) = (node.pod(2), node.pod(3), node.stranger(9));
    let outside: IpAddr = [192, 0, 2, 9].into();
    let mut program = program(&node, settings(), &[(v4(2), BOTH), (v4(3), BOTH)]);
    let reader = Reader::start(&node.at, QUEUE, Say::Drop);
    let talk = Talk::new((&a, v4(2)), (&b, v4(3)));
    let outer = Talk::new((&stranger, outside), (&node.pod(4), v4(4)));
    assert!(talk.ask("1") && talk.reply("2"));
    assert_eq!(reader.so_far(), []);
    assert!(outer.ask_in_vain("3"), "an unknown address is judged");
    assert_eq!(reader.next().destination, v4(4));

    // 2 may send only, 3 may receive only: that is what 2 → 3 needs, and its replies.
    let open = [(v4(2), Open { egress: true, ingress: false }), (v4(3), Open { ingress: true, egress: false })];
    program.apply(&Update { open: &open, ..Update::default() }).unwrap();
    assert!(talk.ask("4") && talk.reply("5"));
    assert_eq!(reader.so_far(), []);
    let back = Talk { client: b.udp(SocketAddr::new(v4(3), 9)), server: a.udp(SocketAddr::new(v4(2), 9)) };
    assert!(back.ask_in_vain("6"));
    assert_eq!(ways(&reader.so_far()), [Way::Original]);

    // Closed again, the connection that stands comes up from either side.
    program.apply(&Update { open: &[(v4(3), Open::default())], ..Update::default() }).unwrap();
    assert!(talk.ask_in_vain("7") && talk.reply_in_vain("8"));
    assert_eq!(ways(&reader.so_far()), [Way::Original, Way::Reply]);
}

#[test]
fn forwarded_traffic_of_others_is_not_touched() {
    let node = Node::new();
    let (a, b) = (node.stranger(8), node.stranger(9));
    let _program = program(&node, settings(), &[]);
    let talk = Talk::new((&a, [192, 0, 2, 8].into()), (&b, [192, 0, 2, 9].into()));
    // Nobody listens, so anything that came up would be dropped.
    assert!(talk.ask("1") && talk.reply("2"));
}

#[test]
fn the_node_reaches_its_pods_unjudged_and_its_mark_is_taken_off() {
    let node = Node::new();
    let a = node.pod(2);
    node.at.sh(
        "nft 'table inet other { chain c { type filter hook postrouting priority 120; meta mark and 0x3c00 != 0 counter; }; }'",
    );
    let _program = program(&node, settings(), &[]);
    let reader = Reader::start(&node.at, QUEUE, Say::Drop);
    for (from, to) in [(v4(1), v4(2)), (v6(1), v6(2))] {
        let talk = Talk::new((&node.at, from), (&a, to));
        assert!(talk.ask("1") && talk.reply("2") && talk.ask("3"));
        // And itself, by an address inside the pod ranges.
        let own = Talk { client: node.at.udp(SocketAddr::new(from, 7)), server: node.at.udp(SocketAddr::new(from, 8)) };
        assert!(own.ask("4") && own.reply("5"));
    }
    assert_eq!(reader.so_far(), []);
    assert!(node.at.sh("nft list table inet other").contains("counter packets 0 "));
}

#[test]
fn a_source_address_that_is_not_the_nodes_own_is_judged_in_output_too() {
    let node = Node::new();
    let a = node.pod(2);
    let _program = program(&node, settings(), &[]);
    let reader = Reader::start(&node.at, QUEUE, Say::Drop);
    // As IPVS does it: the packet leaves through output, from a pod's address.
    let socket = node.at.run(|| {
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::DGRAM, None).unwrap();
        socket.set_ip_transparent_v4(true).unwrap();
        socket.bind(&SocketAddr::new(v4(77), 5).into()).unwrap();
        UdpSocket::from(socket)
    });
    let talk = Talk { client: socket, server: a.udp(SocketAddr::new(v4(2), 53)) };
    assert!(talk.ask_in_vain("1"));
    assert_eq!(reader.next().source, v4(77));
}

#[test]
fn pods_reach_the_node_unjudged_unless_input_is_judged() {
    let node = Node::new();
    let a = node.pod(2);
    let mut program = program(&node, settings(), &[]);
    let reader = Reader::start(&node.at, QUEUE, Say::Drop);
    let talk = Talk::new((&a, v4(2)), (&node.at, v4(1)));
    assert!(talk.ask("1") && talk.reply("2"));
    assert_eq!(reader.so_far(), []);

    program.apply(&Update { judge_input: Some(true), ..Update::default() }).unwrap();
    assert!(talk.ask_in_vain("3"));
    let seen = reader.next();
    assert_eq!((seen.way, seen.hook, seen.destination), (Some(Way::Original), LOCAL_IN, v4(1)));
    // Never remembered there, whatever the verdict says.
    reader.say(Say::Remember);
    assert!(talk.ask("4") && talk.ask("5"));
    assert_eq!(reader.so_far().len(), 2);
    reader.say(Say::Drop);
    // What the node began goes on in both directions.
    let probe = Talk { client: node.at.udp(SocketAddr::new(v4(1), 70)), server: a.udp(SocketAddr::new(v4(2), 71)) };
    assert!(probe.ask("6") && probe.reply("7"));
    assert_eq!(reader.so_far(), []);
}

#[test]
fn marks_of_others_come_through_and_a_forged_accept_does_not() {
    let node = Node::new();
    let (a, b) = (node.pod(2), node.pod(3));
    let forged = 0x8400_4000_u32 | Marks::default().remember(0);
    let _program = program(&node, settings(), &[]);
    node.at.sh(&format!(
        "nft 'table inet other {{
            chain stamp {{ type filter hook forward priority 0; meta mark set {forged:#x}; }}
            chain look {{ type filter hook postrouting priority 100; udp dport 53 meta mark 0x84004000 counter comment \"whole\"
                udp dport 53 meta mark != 0x84004000 counter comment \"changed\"; }}
        }}'"
    ));
    let reader = Reader::start(&node.at, QUEUE, Say::Pass);
    let talk = Talk::new((&a, v4(2)), (&b, v4(3)));
    assert!(talk.ask("1") && talk.ask("2"));
    assert_eq!(ways(&reader.so_far()), [Way::Original; 2], "a forged accept was not remembered");
    reader.say(Say::Remember);
    assert!(talk.ask("3") && talk.ask("4"));
    let seen = reader.next();
    assert_eq!(seen.mark & !Marks::default().packet, 0x8400_4000);
    assert_eq!(reader.so_far(), []);
    let listed = node.at.sh("nft list table inet other");
    assert!(
        listed.contains("counter packets 4 bytes") && listed.contains("counter packets 0 bytes 0 comment \"changed\""),
        "{listed}"
    );
}

#[test]
fn a_connection_older_than_the_labels_is_remembered_by_mark() {
    for server_first in [false, true] {
        let node = Node::new();
        let (a, b) = (node.pod(2), node.pod(3));
        // Conntrack without labels.
        node.at.sh("nft 'table inet other { chain c { type filter hook prerouting priority 0; ct state new ct mark set 0x80; }; }'");
        let talk = Talk::new((&a, v4(2)), (&b, v4(3)));
        assert!(talk.ask("1") && talk.reply("2"));
        let _program = program(&node, settings(), &[]);
        let reader = Reader::start(&node.at, QUEUE, Say::Remember);
        if server_first {
            assert!(talk.reply("3"));
            assert_eq!(ways(&reader.so_far()), [Way::Reply]);
        }
        assert!(talk.ask("4") && talk.reply("5") && talk.ask("6"));
        assert_eq!(ways(&reader.so_far()), [Way::Original]);
        let found = kit::conntrack::connection(&node.at, 4000);
        assert_eq!((found.mark, found.labels), (0x1080, None));
    }
}

#[test]
fn untracked_packets_come_up_each_and_are_never_remembered() {
    let node = Node::new();
    let (a, b) = (node.pod(2), node.pod(3));
    node.at.sh("nft 'table inet other { chain c { type filter hook prerouting priority -300; udp dport { 53, 4000 } notrack; }; }'");
    let _program = program(&node, settings(), &[]);
    let reader = Reader::start(&node.at, QUEUE, Say::Remember);
    let talk = Talk::new((&a, v4(2)), (&b, v4(3)));
    assert!(talk.ask("1") && talk.reply("2") && talk.ask("3"));
    assert_eq!(ways(&reader.so_far()), [Way::Untracked; 3]);
}

fn raw_tcp(at: &Namespace) -> socket2::Socket {
    at.run(|| socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::RAW, Some(socket2::Protocol::TCP)).unwrap())
}

/// A TCP segment from pod 2 to port 80 of pod 3 with these flags and a right checksum.
fn segment(flags: u8) -> [u8; 20] {
    let mut segment = [0_u8; 20];
    segment[..4].copy_from_slice(&[0x12, 0x34, 0, 80]);
    segment[12..14].copy_from_slice(&[5 << 4, flags]);
    let words = [&[10, 1, 0, 2, 10, 1, 0, 3, 0, 6, 0, 20][..], &segment].concat();
    let sum: u32 = words.chunks(2).map(|w| u32::from(w[0]) << 8 | u32::from(w[1])).sum();
    segment[16..18].copy_from_slice(&(!((sum & 0xffff) + (sum >> 16)) as u16).to_be_bytes());
    segment
}

#[test]
fn tcp_that_is_met_in_the_middle_is_told_from_what_begins() {
    const SYN: u8 = 0x02;
    const ACK: u8 = 0x10;
    let node = Node::new();
    let (a, _b) = (node.pod(2), node.pod(3));
    let _program = program(&node, settings(), &[]);
    let reader = Reader::start(&node.at, QUEUE, Say::Drop);
    let from = raw_tcp(&a);
    for (flags, way) in [(SYN, Way::Original), (ACK, Way::Midstream)] {
        from.send_to(&segment(flags), &SocketAddr::new(v4(3), 0).into()).unwrap();
        assert_eq!(reader.next().way, Some(way));
    }
}

#[test]
fn invalid_packets_are_dropped_and_counted_when_an_end_is_isolated() {
    let node = Node::new();
    let (a, b) = (node.pod(2), node.pod(3));
    let mut program = program(&node, settings(), &[(v4(2), BOTH)]);
    let reader = Reader::start(&node.at, QUEUE, Say::Remember);
    let (from, to) = (raw_tcp(&a), raw_tcp(&b));
    to.set_read_timeout(Some(NEVER)).unwrap();
    let arrived = || {
        from.send_to(&segment(0), &SocketAddr::new(v4(3), 0).into()).unwrap();
        let mut buffer = [std::mem::MaybeUninit::uninit(); 128];
        to.recv(&mut buffer).is_ok()
    };
    assert!(!arrived());
    assert_eq!(reader.so_far(), []);
    let listed = node.at.sh("nft list chain inet podgate drop_invalid");
    assert!(listed.contains("counter packets 1 bytes 40 drop"), "{listed}");
    // One direction is enough to be isolated.
    program.apply(&Update { open: &[(v4(3), Open { ingress: true, egress: false })], ..Update::default() }).unwrap();
    assert!(!arrived());
    program.apply(&Update { open: &[(v4(3), BOTH)], ..Update::default() }).unwrap();
    assert!(arrived(), "it is invalid, but nobody is isolated");
}

#[test]
fn icmp_errors_come_up_as_related_and_are_never_remembered() {
    let node = Node::new();
    let (a, b) = (node.pod(2), node.pod(3));
    let _program = program(&node, settings(), &[]);
    for (from, to, icmp) in [(v4(2), v4(3), 1), (v6(2), v6(3), 58)] {
        let reader = Reader::start(&node.at, QUEUE, Say::Pass);
        let client = a.udp(SocketAddr::new(from, 4000));
        client.connect(SocketAddr::new(to, 99)).unwrap();
        let refused = |client: &UdpSocket| {
            client.send(b"?").unwrap();
            client.recv(&mut [0; 8]).unwrap_err().kind() == std::io::ErrorKind::ConnectionRefused
        };
        reader.say_by(|seen| if seen.protocol == 17 { Say::Pass } else { Say::Remember });
        assert!(refused(&client));
        assert!(refused(&client));
        let seen = reader.so_far();
        assert_eq!(ways(&seen), [Way::Original, Way::RelatedReply, Way::Original, Way::RelatedReply]);
        assert_eq!((seen[1].protocol, seen[1].source), (icmp, to));

        // The other way round: the client is gone when the reply comes.
        let talk = Talk { client: a.udp(SocketAddr::new(from, 4001)), server: b.udp(SocketAddr::new(to, 53)) };
        assert!(talk.ask("1"));
        let back = talk.client.local_addr().unwrap();
        drop(talk.client);
        talk.server.connect(back).unwrap();
        assert!(refused(&talk.server) && refused(&talk.server));
        let seen = ways(&reader.so_far());
        assert_eq!(seen, [Way::Original, Way::Reply, Way::RelatedOriginal, Way::Reply, Way::RelatedOriginal]);

        // An accepted connection's errors pass in the kernel.
        reader.say(Say::Remember);
        assert!(refused(&client));
        assert!(refused(&client));
        assert_eq!(ways(&reader.so_far()), [Way::Original]);
    }
}

#[test]
fn a_packet_with_ttl_1_does_not_bring_a_forbidden_connection_back() {
    let node = Node::new();
    let (a, b) = (node.pod(2), node.pod(3));
    let program = program(&node, settings(), &[]);
    let reader = Reader::start(&node.at, QUEUE, Say::Remember);
    let talk = Talk::new((&a, v4(2)), (&b, v4(3)));
    assert!(talk.ask("1") && talk.reply("2"));
    let revoked = node.at.run(|| podgate_netfilter::conntrack::revoke(&Marks::default(), &mut |_| false).unwrap());
    assert_eq!(revoked.taken_back, 1);
    reader.so_far();
    reader.say(Say::Drop);
    talk.client.set_ttl(1).unwrap();
    let error = a.run(|| {
        socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::RAW, Some(socket2::Protocol::ICMPV4)).unwrap()
    });
    error.set_read_timeout(Some(SOON)).unwrap();
    talk.client.send_to(b"3", talk.server.local_addr().unwrap()).unwrap();
    let mut buffer = [std::mem::MaybeUninit::uninit(); 128];
    error.recv(&mut buffer).expect("the node says that the time is exceeded");
    talk.client.set_ttl(64).unwrap();
    assert!(talk.ask_in_vain("4") && talk.reply_in_vain("5"));
    assert_eq!(ways(&reader.so_far()), [Way::Original, Way::Reply]);
    drop(program);
}

#[test]
fn a_solicitation_from_afar_is_judged_like_any_packet() {
    let node = Node::new();
    let (a, b) = (node.pod(2), node.pod(3));
    let _program = program(&node, settings(), &[]);
    let reader = Reader::start(&node.at, QUEUE, Say::Drop);
    let raw = |at: &Namespace| {
        at.run(|| {
            socket2::Socket::new(socket2::Domain::IPV6, socket2::Type::RAW, Some(socket2::Protocol::ICMPV6)).unwrap()
        })
    };
    let (from, to) = (raw(&a), raw(&b));
    let mut solicitation = [0_u8; 24];
    solicitation[0] = 135;
    for hops in [255, 64] {
        from.set_unicast_hops_v6(hops).unwrap();
        from.send_to(&solicitation, &SocketAddr::new(v6(3), 0).into()).unwrap();
        let seen = reader.next();
        assert_eq!((seen.way, seen.protocol, seen.rest[0]), (Some(Way::Untracked), 58, 135));
    }
    drop(to);
    // That of neighbours does not come up: else this, which needs it both ways, would not arrive.
    let talk = Talk::new((&a, v6(2)), (&node.at, v6(1)));
    assert!(talk.ask("1") && talk.reply("2"));
    assert_eq!(reader.so_far(), []);
}

#[test]
fn bridged_pods_come_up_once_bridge_filtering_is_on_and_find_each_other() {
    use podgate_netfilter::{BridgeState, ensure_bridged_filtered};
    let node = Node::new();
    node.at.sh("ip link add cni0 type bridge; ip link set cni0 up; ip addr add 10.1.0.1/24 dev cni0; ip addr add fd01::1/64 dev cni0 nodad");
    let pods = [2_u8, 3].map(|n| {
        let pod = Namespace::new();
        node.at.sh(&format!(
            "ip link add veth{n} type veth peer name eth0 netns {}; ip link set veth{n} master cni0 up",
            pod.path()
        ));
        pod.sh(&format!(
            "ip addr add 10.1.0.{n}/24 dev eth0; ip addr add fd01::{n}/64 dev eth0 nodad; ip link set eth0 up"
        ));
        pod
    });
    node.at.sh("sysctl -qw net.bridge.bridge-nf-call-iptables=0 net.bridge.bridge-nf-call-ip6tables=0");
    let _program = program(&node, settings(), &[]);
    let reader = Reader::start(&node.at, QUEUE, Say::Drop);
    let state = |addresses: &[IpAddr]| node.at.run(|| ensure_bridged_filtered(addresses).unwrap());
    assert_eq!(state(&[[192, 0, 2, 1].into()]), BridgeState::NoBridge);
    assert_eq!(state(&[v4(2), v6(3)]), BridgeState::TurnedOn);
    assert_eq!(state(&[v4(2), v6(3)]), BridgeState::Filtered);
    for (from, to) in [(v4(2), v4(3)), (v6(2), v6(3))] {
        let talk = Talk::new((&pods[0], from), (&pods[1], to));
        reader.say(Say::Drop);
        assert!(talk.ask_in_vain("1"));
        assert_eq!(ways(&reader.so_far()), [Way::Original], "and no neighbour discovery");
        reader.say(Say::Remember);
        assert!(talk.ask("2") && talk.reply("3"));
        assert_eq!(ways(&reader.so_far()), [Way::Original]);
    }
}

#[test]
fn with_nobody_listening_packets_are_dropped_or_pass_as_set() {
    let node = Node::new();
    let (a, b) = (node.pod(2), node.pod(3));
    node.at.sh(
        "nft 'table inet other { chain c { type filter hook postrouting priority 120; meta mark and 0x3c00 != 0 counter; }; }'",
    );
    let _program = program(&node, settings(), &[]);
    let accepted = Talk::new((&a, v4(2)), (&b, v4(3)));
    let reader = Reader::start(&node.at, QUEUE, Say::Remember);
    assert!(accepted.ask("1"));
    drop(reader);
    let fresh = Talk { client: a.udp(SocketAddr::new(v4(2), 4001)), server: b.udp(SocketAddr::new(v4(3), 54)) };
    assert!(fresh.ask_in_vain("2"), "fail-closed");
    assert!(accepted.ask("3") && accepted.reply("4"), "what was accepted goes on");
    drop(program(&node, ProgramSettings { fail_open: true, ..settings() }, &[]));
    assert!(fresh.ask("5") && fresh.reply("6"), "fail-open");
    assert!(node.at.sh("nft list table inet other").contains("counter packets 0 "), "the way was taken off");
    let reader = Reader::start(&node.at, QUEUE, Say::Drop);
    assert!(fresh.ask_in_vain("7"), "what passed unjudged was not remembered");
    assert_eq!(reader.so_far().len(), 1);
}

#[test]
fn udp_is_judged_before_routing_where_that_is_set() {
    let node = Node::new();
    let (a, b) = (node.pod(2), node.pod(3));
    node.at.sh("nft 'table ip other { chain c { type nat hook prerouting priority dstnat; ip daddr 10.96.0.1 dnat to 10.1.0.3; }; }'");
    for (early, hook) in [(false, POST_ROUTING), (true, PRE_ROUTING)] {
        let settings = ProgramSettings { udp_prerouting: Some(early), ..settings() };
        let _program = program(&node, settings, &[]);
        let reader = Reader::start(&node.at, QUEUE, Say::Drop);
        let port = 4000 + u16::from(early);
        let client = a.udp(SocketAddr::new(v4(2), port));
        let server = b.udp(SocketAddr::new(v4(3), 53));
        let service = SocketAddr::new([10, 96, 0, 1].into(), 53);
        assert!(!arrives(&client, &server, service, "1", NEVER));
        let seen = reader.next();
        assert_eq!((seen.hook, seen.way, seen.destination), (hook, Some(Way::Original), v4(3)));
        // Passed, it is not remembered, and judged where it leaves as well.
        reader.say(Say::Pass);
        assert!(arrives(&client, &server, service, "2", SOON));
        assert_eq!(reader.so_far().len(), 1 + usize::from(early));
        reader.say(Say::Remember);
        assert!(arrives(&client, &server, service, "3", SOON) && arrives(&client, &server, service, "4", SOON));
        assert_eq!(reader.so_far().iter().map(|s| s.hook).collect::<Vec<_>>(), [hook]);
        let mut buffer = [0; 8];
        server.send_to(b"5", client.local_addr().unwrap()).unwrap();
        assert_eq!(client.recv_from(&mut buffer).unwrap(), (1, service));
        assert_eq!(reader.so_far(), []);
        // Not what goes to the node, nor what it sends itself.
        let own = Talk { client: a.udp(SocketAddr::new(v4(2), 60)), server: node.at.udp(SocketAddr::new(v4(1), 61)) };
        assert!(own.ask("6") && own.reply("7"));
        let probe = Talk { client: node.at.udp(SocketAddr::new(v4(1), 62)), server: a.udp(SocketAddr::new(v4(2), 63)) };
        assert!(probe.ask("8") && probe.reply("9"));
        assert_eq!(reader.so_far(), []);
    }
}

#[test]
fn installing_again_under_traffic_lets_nothing_through_and_loses_nothing_that_waits() {
    let node = Node::new();
    let (a, b) = (node.pod(2), node.pod(3));
    let _first = program(&node, settings(), &[]);
    let reader = Reader::start(&node.at, QUEUE, Say::Drop);
    let talk = Talk::new((&a, v4(2)), (&b, v4(3)));
    let stop = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                let _ = talk.client.send_to(b"flood", talk.server.local_addr().unwrap());
            }
        });
        for _ in 0..30 {
            node.at.run(|| Program::install(settings()).unwrap());
        }
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
    });
    talk.server.set_read_timeout(Some(NEVER)).unwrap();
    assert!(talk.server.recv(&mut [0; 8]).is_err(), "a packet got through while the rules were rewritten");
    assert!(reader.so_far().len() > 30);

    // A packet that waits for its verdict while the table is taken over gets it afterwards.
    let (go, wait) = std::sync::mpsc::channel::<()>();
    let (waits, is_waiting) = std::sync::mpsc::channel();
    reader.say_by(move |_| {
        waits.send(()).unwrap();
        wait.recv().unwrap();
        Say::Remember
    });
    talk.client.send_to(b"waited", talk.server.local_addr().unwrap()).unwrap();
    is_waiting.recv().unwrap();
    node.at.run(|| Program::install(settings()).unwrap());
    go.send(()).unwrap();
    talk.server.set_read_timeout(Some(SOON)).unwrap();
    let mut buffer = [0; 8];
    assert_eq!(talk.server.recv(&mut buffer).unwrap(), 6);
    assert!(talk.ask("remembered"));
}

//! Packets that begin nothing: met in the middle, invalid, ICMP errors, neighbour discovery from afar.

use super::*;

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
fn a_solicitation_from_afar_is_judged_as_sent() {
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
        assert_eq!((seen.way, seen.protocol, seen.rest[0]), (Some(Way::Original), 58, 135));
    }
    drop(to);
    // That of neighbours does not come up: else this, which needs it both ways, would not arrive.
    let talk = Talk::new((&a, v6(2)), (&node.at, v6(1)));
    assert!(talk.ask("1") && talk.reply("2"));
    assert_eq!(reader.so_far(), []);
}

#[test]
fn a_forged_accept_is_not_remembered_before_routing_either() {
    const SYN: u8 = 0x02;
    let node = Node::new();
    let (a, _b) = (node.pod(2), node.pod(3));
    let forged = Marks::default().remember(0, podgate_netfilter::Orientation::AsMet);
    node.at.sh(&format!(
        "nft 'table inet other {{ chain stamp {{ type filter hook prerouting priority mangle; meta mark set {forged:#x}; }}; }}'"
    ));
    for early in [false, true] {
        let _program = program(&node, ProgramSettings { udp_prerouting: Some(early), ..settings() }, &[]);
        let reader = Reader::start(&node.at, QUEUE, Say::Drop);
        let (tcp, udp) = (raw_tcp(&a), a.udp(SocketAddr::new(v4(2), 60)));
        tcp.send_to(&segment(SYN), &SocketAddr::new(v4(3), 0).into()).unwrap();
        assert_eq!(reader.next().way, Some(Way::Original), "{early}");
        udp.send_to(b"1", SocketAddr::new(v4(3), 53)).unwrap();
        assert_eq!(reader.next().way, Some(Way::Original), "{early}");
    }
}

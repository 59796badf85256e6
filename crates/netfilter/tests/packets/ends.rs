//! Whose packets come up: pods', not others', not the node's own; and whose marks they keep.

use super::*;

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
    let forged = 0x8400_4000_u32 | Marks::default().remember(0, podgate_netfilter::Orientation::AsMet);
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

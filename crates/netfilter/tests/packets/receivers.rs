//! Where packets come up, and when there is nobody to receive them: bridges, prerouting, no agent, a new one.

use super::*;

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

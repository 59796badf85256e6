//! `--on-deny reject`: who is denied is told at once, within bounds, and nothing that tells them lets anything in.

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use podgate_sandbox::packet::flags;
use podgate_sandbox::{ArrivalKind, Capture, Captured, DENY_WAIT, Outcome, PATIENCE, Packet, Pod, PodOptions, Server};

use crate::kit::{Agent, LONG, Node, binary, deny_all, pair, policy, web_on};

const REJECT: [&str; 2] = ["--on-deny", "reject"];

fn sent(node: &Node, kind: &str) -> f64 {
    node.metric(&format!("podgate_rejects_sent_total{{kind=\"{kind}\"}}"))
}

fn suppressed(node: &Node, reason: &str) -> f64 {
    node.metric(&format!("podgate_rejects_suppressed_total{{reason=\"{reason}\"}}"))
}

/// Of shop/web, TCP port 80 is open; of the client nothing is isolated.
fn shop() -> (Node, Pod, Pod, Server) {
    let (node, web, client, server) = pair(&[80, 81], &[53]);
    node.write("policy.yaml", &web_on("TCP", 80));
    (node, web, client, server)
}

/// The pairs of addresses, client first.
fn both(client: &Pod, web: &Pod) -> [(IpAddr, IpAddr); 2] {
    [(client.v4(), web.v4()), (client.v6(), web.v6())]
}

/// The packets that came so far. The last of them is known: nothing after it is waited for.
fn all(capture: &Capture) -> Vec<Captured> {
    let mut seen = Vec::new();
    capture.wait(Duration::from_millis(1), |packet| {
        seen.push(packet.clone());
        false
    });
    seen
}

#[test]
fn a_denied_client_is_told_at_once() {
    let (mut node, web, client, _server) = shop();
    let locked = node.pod(PodOptions::new("locked/in"));
    node.write("locked.yaml", &policy("out", "locked", "{podSelector: {}, policyTypes: [Egress]}"));
    node.start(&REJECT);
    // Denied by the destination's policy, and by the source's own.
    for from in [&client, &locked] {
        for address in [web.v4(), web.v6()] {
            assert_eq!(from.client().connect(address, 81, LONG), Outcome::Refused, "{}", node.log());
            assert_eq!(from.client().udp(address, 53, LONG), Outcome::Unreachable, "{}", node.log());
        }
    }
    assert_eq!([sent(&node, "tcp_reset"), sent(&node, "icmp"), sent(&node, "icmpv6")], [4.0, 2.0, 2.0]);
    // What is sent is not judged, and what is permitted not disturbed.
    assert_eq!(node.metric("podgate_packets_total{verdict=\"drop\"}"), 8.0);
    assert_eq!(client.client().connect(web.v4(), 80, PATIENCE), Outcome::Open);
    // Each attempt is answered: the kernel is left no verdict that it would repeat without a word.
    for _ in 0..5 {
        assert_eq!(client.client().connect(web.v4(), 81, LONG), Outcome::Refused, "{}", node.log());
    }
    assert_eq!(["rate", "source", "failed"].map(|reason| suppressed(&node, reason)), [0.0; 3]);
}

#[test]
fn by_default_nobody_is_told_anything_and_no_raw_socket_is_needed() {
    let (mut node, web, client, _server) = shop();
    let agent = Agent::start_without(node.netns(), node.directory(), "net_raw");
    agent.await_line("listening");
    agent.await_ready();
    node.adopt(agent);
    let capture = client.netns().capture(None).expect("a capture");
    for address in [web.v4(), web.v6()] {
        assert_eq!(client.client().connect(address, 81, DENY_WAIT), Outcome::Timeout);
        assert_eq!(client.client().udp(address, 53, DENY_WAIT), Outcome::Timeout);
    }
    assert_eq!(client.client().connect(web.v4(), 80, PATIENCE), Outcome::Open);
    let told = all(&capture).into_iter().find(|packet| {
        let reset = packet.protocol() == Some(6) && packet.body()[13] & flags::RST != 0;
        !packet.outgoing && (reset || packet.protocol() == Some(1))
    });
    assert_eq!(told, None);
    assert_eq!(["tcp_reset", "icmp", "icmpv6"].map(|kind| sent(&node, kind)), [0.0; 3]);
}

#[test]
fn without_the_capability_for_raw_sockets_it_ends_with_one_clear_line_before_anything_is_changed() {
    let (node, ..) = shop();
    let directory = node.directory().to_str().expect("text").to_owned();
    let agent = binary();
    let (ok, said) = node.command(
        "setpriv",
        &[
            "--bounding-set=-net_raw",
            "--inh-caps=-net_raw",
            agent.to_str().expect("text"),
            "run",
            "--on-deny=reject",
            "--manifests",
            &directory,
        ],
    );
    assert!(!ok && said.contains("NET_RAW") && said.contains("--on-deny drop"), "{said}");
    assert!(!node.command("nft", &["list", "table", "inet", "podgate"]).0);
}

/// A connection to port 80 as both ends have it, permitted and remembered.
fn connected(client: &Pod, web: &Pod, address: IpAddr) -> (TcpStream, TcpStream) {
    let listener = web.netns().run(|| TcpListener::bind((address, 8080))).expect("a listener");
    let near = client.netns().run(|| TcpStream::connect((address, 8080))).expect("permitted");
    let (far, _) = listener.accept().expect("accepted");
    for stream in [&near, &far] {
        stream.set_read_timeout(Some(LONG)).expect("a timeout");
        stream.set_nodelay(true).expect("set");
    }
    for (mut one, mut other) in [(&near, &far), (&far, &near)] {
        one.write_all(b"hello").expect("permitted");
        other.read_exact(&mut [0; 5]).expect("permitted");
    }
    (near, far)
}

#[test]
fn a_connection_that_is_cut_is_reset_at_both_ends_and_nothing_lets_it_in_again() {
    let (mut node, web, client, _server) = pair(&[], &[]);
    let open = web_on("TCP", 8080);
    node.write("policy.yaml", &open);
    let probe =
        "table inet probe { chain after { type filter hook postrouting priority 150; ct label 121 counter; }; }";
    let (ok, said) = node.command("nft", &[probe]);
    assert!(ok, "{said}");
    node.start(&REJECT);
    // Whichever end speaks first after the change.
    for client_speaks in [true, false] {
        for (source, address) in both(&client, &web) {
            let (near, far) = connected(&client, &web, address);
            let port = near.local_addr().expect("bound").port();
            assert!(remembered(&node) > 0, "the counter counts");
            let capture = web.netns().capture(None).expect("a capture");
            let resets = sent(&node, "tcp_reset");
            node.apply("policy.yaml", &deny_all("shop"));
            let (mut first, mut second) = if client_speaks { (&near, &far) } else { (&far, &near) };
            first.write_all(b"forbidden").expect("sent");
            for end in [&mut first, &mut second] {
                let error = end.read(&mut [0; 16]).expect_err("it is reset");
                assert_eq!(error.kind(), ErrorKind::ConnectionReset, "{error}\n{}", node.log());
            }
            node.await_metric("podgate_rejects_sent_total{kind=\"tcp_reset\"}", resets + 2.0);
            // Once the connection's addresses are looked at no more, it is its label alone that would let it in. Neither
            // what is denied now nor the resets that it is answered with find one, or set one.
            let deadline = Instant::now() + LONG;
            while node
                .command("nft", &["--stateless", "list", "table", "inet", "podgate"])
                .1
                .contains("@recheck4 return")
            {
                assert!(Instant::now() < deadline, "{}", node.log());
            }
            let before = remembered(&node);
            let errors =
                format!("podgate_rejects_sent_total{{kind=\"{}\"}}", if address.is_ipv4() { "icmp" } else { "icmpv6" });
            let told = node.metric(&errors);
            let denied = node.metric("podgate_packets_total{verdict=\"drop\"}");
            for (pod, from, to) in [(&client, (source, port), (address, 8080)), (&web, (address, 8080), (source, port))]
            {
                let segment = Packet::tcp(from.into(), to.into(), flags::ACK | flags::PSH, (1, 1), b"forbidden");
                pod.netns().send(&segment).expect("sent");
            }
            let syn = Packet::syn((source, port).into(), (address, 8080).into());
            client.netns().send(&syn).expect("sent");
            // Conntrack may leave some of these out as invalid; this one comes after them, and up.
            client.netns().send(&Packet::udp((source, 4000).into(), (address, 9).into(), b"after")).expect("sent");
            node.await_metric("podgate_packets_total{verdict=\"drop\"}", denied + 1.0);
            node.await_metric(&errors, told + 1.0);
            let leaked = all(&capture).into_iter().find(|packet| {
                let body = packet.body();
                let to_listener = packet.protocol() == Some(6) && body.get(2..4) == Some(&8080u16.to_be_bytes());
                !packet.outgoing && to_listener && body[13] & flags::RST == 0
            });
            assert_eq!(leaked, None, "{}", node.log());
            assert_eq!(remembered(&node), before, "{}", node.log());
            node.apply("policy.yaml", &open);
        }
    }
}

/// Packets that left the node with a remembered connection, ours included: counted after podgate's chains.
fn remembered(node: &Node) -> u64 {
    let listed = node.command("nft", &["list", "table", "inet", "probe"]).1;
    let count = listed.split_whitespace().skip_while(|word| *word != "packets").nth(1);
    count.and_then(|count| count.parse().ok()).unwrap_or_else(|| panic!("no counter: {listed}"))
}

#[test]
fn a_datagram_flow_that_is_cut_is_answered_with_an_error_and_not_let_in_again() {
    let (mut node, web, client, server) = pair(&[], &[53]);
    node.write("policy.yaml", &web_on("UDP", 53));
    node.start(&REJECT);
    for (_, address) in both(&client, &web) {
        let socket = client.client().datagrams(address, 53).expect("a socket");
        socket.set_read_timeout(Some(LONG)).expect("a timeout");
        socket.send(b"permitted").expect("sent");
        socket.recv(&mut [0; 16]).expect("echoed");
        node.apply("policy.yaml", &deny_all("shop"));
        for _ in 0..3 {
            // The error about the one before may be what the next says.
            let _ = socket.send(b"forbidden");
            let error = socket.recv(&mut [0; 16]).expect_err("told");
            let expected = [ErrorKind::HostUnreachable, ErrorKind::PermissionDenied];
            assert!(expected.contains(&error.kind()), "{error}\n{}", node.log());
        }
        let forbidden = ArrivalKind::Datagram(b"forbidden".to_vec());
        assert!(server.arrivals().iter().all(|arrival| arrival.kind != forbidden));
        node.apply("policy.yaml", &web_on("UDP", 53));
    }
}

#[test]
fn what_was_accepted_again_and_again_is_answered_from_its_denial_on() {
    const PORTS: std::ops::Range<u16> = 5300..5364;
    let ports: Vec<u16> = PORTS.collect();
    let (mut node, web, client, _server) = pair(&[], &ports);
    let spec =
        "{podSelector: {matchLabels: {app: web}}, ingress: [{ports: [{protocol: UDP, port: 5300, endPort: 5363}]}]}";
    node.write("policy.yaml", &policy("web", "shop", spec));
    node.start(&["--on-deny", "reject", "--reject-rate", "10000", "--reject-per-source", "10000"]);
    // One datagram of a new flow, and what comes of it.
    let ask = |port, time| {
        let socket = client.client().datagrams(web.v4(), port).expect("a socket");
        socket.set_read_timeout(Some(time)).expect("a timeout");
        socket.send(b"?").expect("sent");
        socket.recv(&mut [0; 16]).map_err(|error| error.kind())
    };
    // What is accepted twice is on offer to the kernel, to be repeated: that is so of some port whenever the change comes.
    let mut asked = Vec::new();
    node.enforced(|| {
        node.write("policy.yaml", &deny_all("shop"));
        for port in PORTS.cycle() {
            asked.push(port);
            // The answer alone may have been too late.
            if (0..2).any(|_| ask(port, DENY_WAIT).is_err()) {
                break;
            }
            assert!(asked.len() < 10_000, "{}", node.log());
        }
    });
    // A denial is not for the kernel to repeat: it does not say a word.
    for port in asked.iter().rev().take(PORTS.len()) {
        assert_eq!(ask(*port, LONG), Err(ErrorKind::HostUnreachable), "port {port}\n{}", node.log());
    }
}

#[test]
fn a_flood_of_denied_packets_gets_no_more_answers_than_the_limits() {
    let (mut node, web, client, _server) = shop();
    let others: Vec<Pod> = (0..4).map(|n| node.pod(PodOptions::new(&format!("shop/other-{n}")))).collect();
    node.start(&["--on-deny", "reject", "--reject-rate", "60", "--reject-per-source", "20", "--queue-length", "16384"]);
    let drops = "podgate_packets_total{verdict=\"drop\"}";
    let flood = |pod: &Pod, count: u16| {
        let before = node.metric(drops);
        let socket = pod.client().datagrams(web.v4(), 53).expect("a socket");
        let mut packets = 0;
        for _ in 0..count {
            // What it is told is an error of the next call, which then sends nothing.
            packets += u32::from(socket.send(b"flood").is_ok());
        }
        node.await_metric(drops, before + f64::from(packets));
        packets
    };
    // One source. A rate is a second's worth at once, and so many a second from then on.
    let begin = Instant::now();
    let packets = flood(&client, 2000);
    let most = 20.0 * (begin.elapsed().as_secs_f64() + 1.0);
    node.await_metric("podgate_rejects_suppressed_total{reason=\"source\"}", 1.0);
    let told = sent(&node, "icmp");
    assert!((20.0..=most.ceil()).contains(&told), "{told} of {packets}, at most {most}");
    // Five sources, and the rate of all is less than theirs together.
    for pod in &others {
        flood(pod, 500);
    }
    let most = 60.0 * (begin.elapsed().as_secs_f64() + 1.0);
    node.await_metric("podgate_rejects_suppressed_total{reason=\"source\"}", 1000.0);
    let told = sent(&node, "icmp");
    assert!((60.0..=most.ceil()).contains(&told), "{told}, at most {most}");
    // Each denied packet is accounted for, once; nothing of it was lost on the way.
    let deadline = Instant::now() + LONG;
    loop {
        let not = ["rate", "source", "unanswerable", "failed"].map(|reason| suppressed(&node, reason));
        let answered = sent(&node, "icmp") + not.iter().sum::<f64>();
        if answered == node.metric(drops) {
            break;
        }
        assert!(Instant::now() < deadline, "{answered}: {not:?}\n{}", node.log());
    }
    assert_eq!(client.client().connect(web.v4(), 80, PATIENCE), Outcome::Open);
}

#[test]
fn a_client_of_a_service_is_told_as_well() {
    let (mut node, web, client, _server) = pair(&[], &[]);
    let open = web_on("TCP", 8080);
    node.write("policy.yaml", &open);
    let services = "table inet services { chain prerouting { type nat hook prerouting priority dstnat; \
        ip daddr 10.96.0.10 tcp dport 80 dnat ip to WEB4:8080; ip6 daddr fd00:96::a tcp dport 80 dnat ip6 to [WEB6]:8080; \
        ip daddr 10.96.0.10 udp dport 53 dnat ip to WEB4:5353; ip6 daddr fd00:96::a udp dport 53 dnat ip6 to [WEB6]:5353; }; }";
    let services = services.replace("WEB4", &web.v4().to_string()).replace("WEB6", &web.v6().to_string());
    let (ok, said) = node.command("nft", &[&services]);
    assert!(ok, "{said}");
    node.start(&REJECT);
    // Distributions' kernels tell whom a new connection's client asked; others do not, which the agent says.
    let kernel_tells = !node.log().contains("does not tell whom clients of Services asked");
    println!("kernels: tells whom clients of Services asked: {kernel_tells}");
    for (address, service) in
        [(web.v4(), IpAddr::from([10, 96, 0, 10])), (web.v6(), "fd00:96::a".parse().expect("one"))]
    {
        // A connection that was there: conntrack translates what each end is told.
        let listener = web.netns().run(|| TcpListener::bind((address, 8080))).expect("a listener");
        let mut near = client.netns().run(|| TcpStream::connect((service, 80))).expect("permitted");
        let (mut far, _) = listener.accept().expect("accepted");
        for stream in [&near, &far] {
            stream.set_read_timeout(Some(LONG)).expect("a timeout");
        }
        near.write_all(b"hello").expect("permitted");
        far.read_exact(&mut [0; 5]).expect("permitted");
        node.apply("policy.yaml", &deny_all("shop"));
        near.write_all(b"forbidden").expect("sent");
        for end in [&mut near, &mut far] {
            let error = end.read(&mut [0; 16]).expect_err("it is reset");
            assert_eq!(error.kind(), ErrorKind::ConnectionReset, "{error}\n{}", node.log());
        }
        // A new one: only some kernels tell whom the client asked.
        let (time, tcp, udp) = match kernel_tells {
            true => (LONG, Outcome::Refused, Outcome::Unreachable),
            false => (DENY_WAIT, Outcome::Timeout, Outcome::Timeout),
        };
        assert_eq!(client.client().connect(service, 80, time), tcp, "{}", node.log());
        assert_eq!(client.client().udp(service, 53, time), udp, "{}", node.log());
        node.apply("policy.yaml", &open);
    }
}

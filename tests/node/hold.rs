//! Packets of pods that nobody knows yet: held out of the workers' way, within bounds, until the pod is known.

use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, Instant};

use podgate_sandbox::ProbeKind::{Tcp, Udp};
use podgate_sandbox::packet::flags;
use podgate_sandbox::{Arrival, ArrivalKind, Host, HostOptions, PATIENCE, Packet, Pod, PodOptions, Probe, Server};

use crate::kit::{LONG, Node, deny_all, pair, policy};

const HELD: &str = "podgate_held_packets_total";
/// By far longer than any test: what is held is held until something else ends it.
const FOREVER: &str = "60000";

/// Only friends may talk to web.
const WEB_FROM_FRIENDS: &str = "{podSelector: {matchLabels: {app: web}}, \
    ingress: [{from: [{podSelector: {matchLabels: {friend: 'yes'}}}]}]}";

fn denied(node: &Node, reason: &str) -> f64 {
    node.metric(&format!("podgate_hold_denied_packets_total{{reason=\"{reason}\"}}"))
}

/// A pod whose object nobody has seen.
fn unknown(node: &Node, name: &str) -> Pod {
    node.host.pod(PodOptions::new(name)).expect("a pod")
}

/// Sends one datagram to port 53, with this text.
fn say(pod: &Pod, to: IpAddr, text: &str) {
    let from = if to.is_ipv4() { pod.v4() } else { pod.v6() };
    pod.netns().send(&Packet::udp((from, 4000).into(), (to, 53).into(), text.as_bytes())).expect("sent");
}

fn is(text: &str) -> impl Fn(&Arrival) -> bool {
    let wanted = ArrivalKind::Datagram(text.as_bytes().to_vec());
    move |arrival| arrival.kind == wanted
}

#[test]
fn a_new_pod_under_a_deny_policy_leaks_nothing_from_its_first_packet_on() {
    let mut node = Node::new();
    node.write("node.yaml", &node.host.manifest());
    let open = node.pod(PodOptions::new("open/server"));
    let server = open.server(&[80], &[53]).expect("a server");
    node.write("policy.yaml", &deny_all("shop"));
    node.start(&[]);
    for round in 0..5 {
        // It sends before anybody knows it, while it becomes known, and afterwards.
        let new = unknown(&node, &format!("shop/new-{round}"));
        let clients = [(new.v4(), open.v4()), (new.v6(), open.v6())];
        let send_all = || {
            for (source, destination) in clients {
                new.netns().send(&Packet::syn((source, 4000).into(), (destination, 80).into())).expect("sent");
                say(&new, destination, "leak");
            }
        };
        send_all();
        node.await_metric(HELD, f64::from(4 * (round + 1)));
        let done = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !done.load(std::sync::atomic::Ordering::Relaxed) {
                    send_all();
                    std::thread::yield_now();
                }
            });
            node.enforced(|| node.tell(&new));
            done.store(true, std::sync::atomic::Ordering::Relaxed);
        });
        send_all();
        // What was held is denied by the policy, not by its being unknown.
        node.expect(&[
            Probe::closed(new.client(), open.v4(), Tcp(80)),
            Probe::closed(new.client(), open.v6(), Udp(53)),
        ]);
        let from_new = |a: &Arrival| new.addresses().contains(&a.from.ip());
        assert!(!server.arrivals().iter().any(from_new), "{:?}\n{}", server.arrivals(), node.log());
        let by_policy = "podgate_default_deny_total{namespace=\"shop\",policy=\"deny-all\",direction=\"egress\"}";
        assert!(node.metric(by_policy) >= 4.0);
    }
    assert_eq!(denied(&node, "expired"), 0.0);
}

#[test]
fn a_new_pod_under_an_allow_policy_connects_by_its_first_syn() {
    let (mut node, web, _client, _server) = pair(&[80], &[53]);
    node.write("policy.yaml", &policy("web", "shop", WEB_FROM_FRIENDS));
    node.start(&[]);
    // A client repeats its SYN after a second. On a machine so busy that the rest takes longer than that, that is no
    // fault of anybody's: the connection must come about, and the next pod shows what this one was to show.
    for round in 0..20 {
        let new = node.host.pod(PodOptions::new(&format!("shop/new-{round}")).label("friend", "yes")).expect("a pod");
        let capture = new.netns().capture(None).expect("a capture");
        let held = node.metric(HELD);
        let begin = Instant::now();
        let opened = std::thread::scope(|scope| {
            let connecting = scope.spawn(|| new.client().open(web.v4(), 80, LONG));
            node.await_metric(HELD, held + 1.0);
            node.enforced(|| node.tell(&new));
            connecting.join().expect("no panic")
        });
        let mut connection = opened.unwrap_or_else(|outcome| panic!("{outcome}\n{}", node.log()));
        let took = begin.elapsed();
        connection.ping(PATIENCE).expect("it works");
        if took < Duration::from_millis(900) {
            let syn = |p: &podgate_sandbox::Captured| {
                p.outgoing && p.protocol() == Some(6) && p.body()[13] & (flags::SYN | flags::ACK) == flags::SYN
            };
            assert!(capture.wait(LONG, syn).is_some());
            assert!(capture.wait(Duration::from_millis(1), syn).is_none(), "it had to ask twice, within {took:?}");
            return;
        }
    }
    panic!("in 20 rounds a pod was never known within a second\n{}", node.log());
}

/// A node with many pod addresses, of which all that nobody has are routed to a pod: where a bridge would be.
fn wide() -> (Node, Pod, Pod, Server) {
    let options = HostOptions {
        pod_ranges: vec!["10.244.0.0/16".parse().expect("a range"), "fd00:10:244::/64".parse().expect("a range")],
        ..HostOptions::numbered("node", 1)
    };
    let node = Node::on(Host::new(options).expect("a host"));
    node.write("node.yaml", &node.host.manifest());
    let web = node.pod(PodOptions::new("shop/web").label("app", "web"));
    let scanner = node.pod(PodOptions::new("shop/scanner"));
    let server = web.server(&[80], &[53]).expect("a server");
    let (_, link) = node.command("ip", &["-o", "route", "get", &web.v4().to_string()]);
    let mut words = link.split_whitespace().skip_while(|word| *word != "dev");
    let device = words.nth(1).expect("a device").to_owned();
    let (ok, said) = node.command("ip", &["route", "add", "10.244.128.0/17", "dev", &device]);
    assert!(ok, "{said}");
    (node, web, scanner, server)
}

#[test]
fn a_scan_of_addresses_that_nobody_has_leaves_room_for_others() {
    let (mut node, web, scanner, server) = wide();
    node.write("policy.yaml", &policy("web", "shop", WEB_FROM_FRIENDS));
    node.start(&["--hold-time", FOREVER, "--queue-length", "16384"]);
    let socket = scanner.client().datagrams(web.v4(), 53).expect("a socket");
    let mut sent = 0;
    for number in 0..10_000u32 {
        let to = Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 244, 128, 0)) + number);
        // A neighbour that does not answer is the socket's trouble now and then.
        sent += u32::from(scanner.netns().run(|| socket.send_to(b"anybody?", (to, 9))).is_ok());
    }
    assert!(sent > 9_000, "{sent}");
    // The share of one source is held, the rest denied: at once, and without waiting in a worker's queue.
    node.await_metric("podgate_hold_denied_packets_total{reason=\"source\"}", f64::from(sent) - 32.0);
    assert_eq!(node.metric(HELD), 32.0);
    assert_eq!([denied(&node, "full"), denied(&node, "destination"), denied(&node, "expired")], [0.0; 3]);
    assert_eq!(node.metric("podgate_hold_waiting_packets"), 32.0);
    assert_eq!(node.metric("podgate_queue_depth{queue=\"9840\"}"), 0.0);
    // A new pod beside it loses nothing; what is known is not disturbed.
    let new = node.host.pod(PodOptions::new("shop/new").label("friend", "yes")).expect("a pod");
    say(&new, web.v4(), "early");
    node.await_metric(HELD, 33.0);
    node.enforced(|| node.tell(&new));
    assert!(server.await_arrival(LONG, is("early")).is_some(), "{}", node.log());
    node.expect(&[Probe::open(new.client(), web.v4(), Tcp(80)), Probe::closed(scanner.client(), web.v4(), Tcp(80))]);
}

#[test]
fn what_is_past_a_bound_is_denied_and_counted() {
    let (mut node, web, _client, server) = pair(&[], &[53]);
    node.start(&["--hold-time", FOREVER, "--hold-packets", "5", "--hold-per-source", "2"]);
    let pods: Vec<Pod> = (0..4).map(|n| unknown(&node, &format!("shop/new-{n}"))).collect();
    // Two are one's share.
    (0..4).for_each(|_| say(&pods[0], web.v4(), "one"));
    node.await_metric("podgate_hold_denied_packets_total{reason=\"source\"}", 2.0);
    assert_eq!((node.metric(HELD), denied(&node, "full")), (2.0, 0.0));
    // Five are all.
    pods[1..].iter().for_each(|pod| (0..2).for_each(|_| say(pod, web.v4(), "more")));
    node.await_metric("podgate_hold_denied_packets_total{reason=\"full\"}", 3.0);
    assert_eq!((node.metric(HELD), denied(&node, "source")), (5.0, 2.0));
    assert!(server.arrivals().is_empty());
    // Those that were held arrive when their pods are known, and make room.
    for pod in &pods {
        node.enforced(|| node.tell(pod));
    }
    for pod in &pods[..3] {
        assert!(server.await_arrival(LONG, |a| a.from.ip() == pod.v4()).is_some(), "{}", node.log());
    }
    node.await_metric("podgate_packets_total{verdict=\"accept\"}", 5.0);
    let arrived = |text| server.arrivals().iter().filter(|a| is(text)(a)).count();
    assert!(arrived("one") <= 2 && arrived("more") <= 3, "{:?}", server.arrivals());
    let late = unknown(&node, "shop/late");
    say(&late, web.v4(), "late");
    node.await_metric(HELD, 6.0);
}

#[test]
fn many_sources_cannot_fill_the_table_by_one_unknown_address() {
    let (mut node, web, scanner, _server) = wide();
    node.start(&["--hold-time", FOREVER, "--hold-per-source", "3"]);
    let nobody = IpAddr::from([10, 244, 200, 1]);
    let pods = [web, scanner];
    for pod in &pods {
        (0..3).for_each(|_| say(pod, nobody, "who"));
    }
    node.await_metric("podgate_hold_denied_packets_total{reason=\"destination\"}", 3.0);
    assert_eq!((node.metric(HELD), denied(&node, "source")), (3.0, 0.0));
}

/// A friend on another node, whose agent has let it speak, is known here a little later.
#[test]
fn a_new_pod_of_another_node_loses_nothing_where_only_its_labels_allow_it() {
    let (mut node, web, client, server) = pair(&[80], &[53]);
    let other = node.neighbour(2);
    node.write("other.yaml", &other.manifest());
    node.write("policy.yaml", &policy("web", "shop", WEB_FROM_FRIENDS));
    node.start(&["--hold-time", FOREVER]);
    let there = |name: &str| other.pod(PodOptions::new(name).label("friend", "yes")).expect("a pod");
    let (friend, stranger) = (there("shop/friend"), other.pod(PodOptions::new("shop/stranger")).expect("a pod"));
    for web in [web.v4(), web.v6()] {
        say(&friend, web, "friend");
        say(&stranger, web, "stranger");
    }
    node.await_metric(HELD, 4.0);
    node.enforced(|| node.tell(&friend));
    for source in [friend.v4(), friend.v6()] {
        assert!(server.await_arrival(LONG, |a| a.from.ip() == source).is_some(), "{}", node.log());
    }
    let denials = "podgate_default_deny_total{namespace=\"shop\",policy=\"web\",direction=\"ingress\"}";
    assert_eq!(node.metric(denials), 0.0);
    node.enforced(|| node.tell(&stranger));
    node.await_metric(denials, 2.0);
    assert!(!server.arrivals().iter().any(is("stranger")), "{:?}", server.arrivals());
    // And the other way round: this node's pod may speak to friends only, of whom there is a new one.
    let only = "{podSelector: {matchLabels: {app: client}}, policyTypes: [Egress], \
        egress: [{to: [{podSelector: {matchLabels: {friend: 'yes'}}}]}]}";
    node.apply("client.yaml", &policy("client", "shop", only));
    let late = there("shop/late");
    let listening = late.server(&[], &[53]).expect("a server");
    let held = node.metric(HELD);
    for late in [late.v4(), late.v6()] {
        say(&client, late, "client");
    }
    node.await_metric(HELD, held + 2.0);
    node.enforced(|| node.tell(&late));
    for source in [client.v4(), client.v6()] {
        assert!(listening.await_arrival(LONG, |a| a.from.ip() == source).is_some(), "{}", node.log());
    }
    assert_eq!(denied(&node, "expired"), 0.0);
}

#[test]
fn what_stays_unknown_is_denied_at_its_deadline_or_allowed_where_that_is_the_setting() {
    for (setting, allowed) in [("deny", 0.0), ("allow", 2.0)] {
        let (mut node, web, _client, server) = pair(&[], &[53]);
        let isolated = node.pod(PodOptions::new("closed/pod"));
        let closed = isolated.server(&[], &[53]).expect("a server");
        node.write("policy.yaml", &deny_all("closed"));
        node.start(&["--hold-time", "300", "--on-unknown", setting]);
        let new = unknown(&node, "shop/unknown");
        for web in [web.v4(), web.v6()] {
            say(&new, web, "who");
        }
        // What a policy of the other end denies is denied all the same.
        say(&new, isolated.v4(), "who");
        node.await_metric("podgate_hold_denied_packets_total{reason=\"expired\"}", 3.0 - allowed);
        if allowed > 0.0 {
            for source in [new.v4(), new.v6()] {
                assert!(server.await_arrival(LONG, |a| a.from.ip() == source).is_some(), "{}", node.log());
            }
            // It was not remembered: the next packet is held again, as are the server's replies.
            let held = node.metric(HELD);
            say(&new, web.v4(), "again");
            node.await_metric(HELD, held + 1.0);
            node.await_metric("podgate_hold_allowed_packets_total", allowed + 1.0);
        } else {
            assert!(server.arrivals().is_empty());
            assert_eq!(node.metric("podgate_hold_allowed_packets_total"), 0.0);
        }
        assert!(closed.arrivals().is_empty());
    }
}

#[test]
fn what_is_held_at_a_hand_over_is_held_by_the_next_agent() {
    let (mut node, web, _client, server) = pair(&[], &[53]);
    node.write("policy.yaml", &policy("web", "shop", WEB_FROM_FRIENDS));
    node.start(&["--hold-time", FOREVER]);
    let new = node.host.pod(PodOptions::new("shop/new").label("friend", "yes")).expect("a pod");
    for address in [web.v4(), web.v6()] {
        say(&new, address, "early");
    }
    node.await_metric(HELD, 2.0);
    let old = node.hand_over(&["--hold-time", FOREVER]);
    assert_eq!(node.metric(HELD), 0.0);
    old.stop();
    node.await_metric(HELD, 2.0);
    node.enforced(|| node.tell(&new));
    for source in [new.v4(), new.v6()] {
        assert!(server.await_arrival(LONG, |a| a.from.ip() == source).is_some(), "{}", node.log());
    }
}

#[test]
fn what_is_held_when_the_agent_ends_is_denied() {
    let (mut node, web, _client, server) = pair(&[], &[53]);
    node.start(&["--hold-time", FOREVER]);
    let new = unknown(&node, "shop/new");
    say(&new, web.v4(), "early");
    node.await_metric(HELD, 1.0);
    node.stop();
    node.start(&["--hold-time", FOREVER]);
    node.enforced(|| node.tell(&new));
    say(&new, web.v4(), "known");
    assert!(server.await_arrival(LONG, is("known")).is_some(), "{}", node.log());
    assert!(!server.arrivals().iter().any(is("early")));
}

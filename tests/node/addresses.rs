//! Whose address it is: reuse, addresses that nobody is known to have, pods that come late.

use podgate_sandbox::ProbeKind::{Tcp, Udp};
use podgate_sandbox::{ArrivalKind, Packet, PodOptions, Probe};

use crate::kit::{LONG, Node, pair, pod_file, policy};

const WEB_FROM_FRIENDS: &str =
    "{podSelector: {matchLabels: {app: web}}, ingress: [{from: [{podSelector: {matchLabels: {friend: 'yes'}}}]}]}";

#[test]
fn an_address_that_another_pod_takes_over_has_the_new_pods_permissions() {
    let mut node = Node::new();
    node.write("node.yaml", &node.host.manifest());
    let web = node.pod(PodOptions::new("shop/web").label("app", "web"));
    let _server = web.server(&[80], &[]).expect("a server");
    let friend = node.pod(PodOptions::new("shop/friend").label("friend", "yes"));
    node.write("policy.yaml", &policy("web", "shop", WEB_FROM_FRIENDS));
    node.start(&[]);
    node.expect(&[Probe::open(friend.client(), web.v4(), Tcp(80))]);
    let (addresses, file) = (friend.addresses().to_vec(), pod_file(&friend));
    // The friend has finished but its object is still there, as a Job's pod would be.
    node.enforced(|| node.write(&file, &friend.manifest().replace("phase: Running", "phase: Succeeded")));
    drop(friend);
    let mut options = PodOptions::new("shop/stranger");
    options.addresses = addresses;
    let stranger = node.enforced(|| node.pod(options));
    node.expect(&[
        Probe::closed(stranger.client(), web.v4(), Tcp(80)),
        Probe::closed(stranger.client(), web.v6(), Tcp(80)),
    ]);
}

#[test]
fn an_address_whose_route_goes_away_is_nobodys_until_a_pod_claims_it() {
    let mut node = Node::new();
    node.write("node.yaml", &node.host.manifest());
    let web = node.pod(PodOptions::new("shop/web"));
    let _server = web.server(&[80], &[]).expect("a server");
    let old = node.pod(PodOptions::new("shop/old"));
    node.start(&[]);
    node.expect(&[Probe::open(old.client(), web.v4(), Tcp(80))]);
    let addresses = old.addresses().to_vec();
    node.enforced(|| old.unplug());
    drop(old);
    // The CNI gave the address to another pod, of which nothing is known yet; the old pod's object is still there.
    let mut options = PodOptions::new("shop/new");
    options.addresses = addresses;
    let new = node.host.pod(options).expect("a pod");
    node.expect(&[Probe::closed(new.client(), web.v4(), Tcp(80))]);
    node.enforced(|| node.tell(&new));
    node.expect(&[Probe::open(new.client(), web.v4(), Tcp(80)), Probe::open(new.client(), web.v6(), Tcp(80))]);
}

#[test]
fn a_pod_whose_link_was_down_for_a_while_has_its_addresses_again_when_their_routes_are_back() {
    let (mut node, web, client, _server) = pair(&[80], &[]);
    node.start(&[]);
    let routes: Vec<String> = [("-4", web.v4()), ("-6", web.v6())]
        .map(|(family, address)| {
            let routes = node.command("ip", &[family, "route"]).1;
            let route = routes.lines().find(|r| r.split(' ').next() == Some(&*address.to_string())).expect("a route");
            format!("{family} route replace {route}")
        })
        .into();
    let link = routes[0].split(' ').skip_while(|word| *word != "dev").nth(1).expect("a link");
    let ip = |words: &str| {
        let (ok, said) = node.command("ip", &words.split_whitespace().collect::<Vec<_>>());
        assert!(ok, "{words}: {said}");
    };
    ip(&format!("link set {link} down"));
    node.await_metric("podgate_addresses_gone_total", 2.0);
    ip(&format!("link set {link} up"));
    routes.iter().for_each(|route| ip(route));
    for address in [web.v4(), web.v6()] {
        node.agent().await_line(&format!("is back over the same link: it is the pod's again address={address}"));
    }
    // Of IPv6 more than the route went with the link: its own addresses.
    node.expect(&[Probe::open(client.client(), web.v4(), Tcp(80))]);
}

#[test]
fn a_packet_of_an_unknown_pod_waits_for_its_identity_and_is_judged_by_it() {
    let mut node = Node::new();
    node.write("node.yaml", &node.host.manifest());
    let web = node.pod(PodOptions::new("shop/web").label("app", "web"));
    let server = web.server(&[], &[53]).expect("a server");
    node.write("policy.yaml", &policy("web", "shop", WEB_FROM_FRIENDS));
    node.start(&[]);
    let late = node.host.pod(PodOptions::new("shop/late").label("friend", "yes")).expect("a pod");
    // One datagram, sent once: it arrives only if it was kept until the pod was known.
    late.netns().send(&Packet::udp((late.v4(), 4000).into(), (web.v4(), 53).into(), b"early")).expect("sent");
    node.await_metric("podgate_held_packets_total", 1.0);
    node.enforced(|| node.tell(&late));
    assert!(
        server.await_arrival(LONG, |a| a.kind == ArrivalKind::Datagram(b"early".to_vec())).is_some(),
        "{}",
        node.log()
    );
}

#[test]
fn a_packet_of_an_address_that_stays_unknown_is_denied_in_the_end() {
    let mut node = Node::new();
    node.write("node.yaml", &node.host.manifest());
    let web = node.pod(PodOptions::new("shop/web"));
    let server = web.server(&[], &[53]).expect("a server");
    node.start(&["--hold-time", "500"]);
    let unknown = node.host.pod(PodOptions::new("shop/unknown")).expect("a pod");
    unknown.netns().send(&Packet::udp((unknown.v4(), 4000).into(), (web.v4(), 53).into(), b"who")).expect("sent");
    node.await_metric("podgate_hold_denied_packets_total{reason=\"expired\"}", 1.0);
    assert!(server.arrivals().is_empty());
}

#[test]
fn a_remote_pod_with_an_unknown_address_is_judged_as_an_address() {
    let mut node = Node::new();
    let far = node.neighbour(2);
    node.write("node.yaml", &(node.host.manifest() + &far.manifest()));
    let web = node.pod(PodOptions::new("shop/web").label("app", "web"));
    let _server = web.server(&[80], &[53]).expect("a server");
    let there = far.pod(PodOptions::new("shop/there")).expect("a pod");
    node.write("policy.yaml", &policy("web", "shop", "{podSelector: {}, ingress: [{ports: [{port: 80}]}]}"));
    node.start(&[]);
    node.expect(&[Probe::open(there.client(), web.v4(), Tcp(80)), Probe::closed(there.client(), web.v4(), Udp(53))]);
}

#[test]
fn without_pod_ranges_what_is_isolated_is_judged_and_the_log_says_so() {
    let mut node = Node::new();
    let web = node.pod(PodOptions::new("shop/web").label("app", "web"));
    let client = node.pod(PodOptions::new("shop/client"));
    let _server = web.server(&[80], &[]).expect("a server");
    node.start(&[]);
    node.agent().await_line("pod ranges are not known");
    node.expect(&[Probe::open(client.client(), web.v4(), Tcp(80))]);
    node.apply("policy.yaml", &policy("web", "shop", WEB_FROM_FRIENDS));
    node.expect(&[
        Probe::closed(client.client(), web.v4(), Tcp(80)),
        Probe::open(web.client(), client.v4(), podgate_sandbox::ProbeKind::Echo),
    ]);
}

#[test]
fn pod_ranges_by_setting_are_guarded_also_without_a_nodes_name() {
    let mut node = Node::new();
    let web = node.pod(PodOptions::new("shop/web"));
    let server = web.server(&[80], &[53]).expect("a server");
    let known = node.pod(PodOptions::new("shop/known"));
    let ranges: Vec<String> = node.host.pod_ranges().iter().map(ToString::to_string).collect();
    node.nameless();
    node.start(&["--pod-cidr", &ranges.join(","), "--hold-time", "500"]);
    node.expect(&[Probe::open(known.client(), web.v4(), Tcp(80)), Probe::open(known.client(), web.v6(), Udp(53))]);
    let unknown = node.host.pod(PodOptions::new("shop/unknown")).expect("a pod");
    unknown.netns().send(&Packet::udp((unknown.v6(), 4000).into(), (web.v6(), 53).into(), b"who")).expect("sent");
    node.await_metric("podgate_hold_denied_packets_total{reason=\"expired\"}", 1.0);
    assert!(server.arrivals().iter().all(|a| a.kind != ArrivalKind::Datagram(b"who".to_vec())));
}

//! The sandbox does what tests and the demo stand on: routing in both families, bridges, captures, forged packets, and
//! it leaves nothing behind.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used)]

use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::process::Stdio;
use std::time::Duration;

use podgate_sandbox::*;

fn addresses(list: &[&str]) -> Vec<IpAddr> {
    list.iter().map(|a| a.parse().expect("an address")).collect()
}

#[test]
fn routed_pods_reach_each_other_the_host_and_the_outside_in_both_families() {
    let host = Host::single("node").unwrap();
    let web = host.pod(PodOptions::new("shop/web")).unwrap();
    let db = host.pod(PodOptions::new("shop/db").label("app", "db")).unwrap();
    let outside = host.outside("outside", &addresses(&["203.0.113.9", "203.0.113.10", "2001:db8::9"])).unwrap();
    let server = db.server(&[5432], &[53]).unwrap();
    let _host_server = host.server(&[80], &[53]).unwrap();
    let _outside_server = outside.server(&[443], &[53]).unwrap();

    let mut probes = Vec::new();
    for kind in [ProbeKind::Tcp(5432), ProbeKind::Udp(53), ProbeKind::Echo] {
        for client in [web.client(), host.netns().client(), outside.netns().client(), db.client()] {
            for to in [db.v4(), db.v6()] {
                probes.push(Probe::open(client.clone(), to, kind));
            }
        }
    }
    for to in host.addresses() {
        probes.extend([ProbeKind::Tcp(80), ProbeKind::Udp(53)].map(|k| Probe::open(web.client(), *to, k)));
    }
    for to in outside.addresses() {
        probes.extend([ProbeKind::Tcp(443), ProbeKind::Udp(53)].map(|k| Probe::open(web.client(), *to, k)));
    }
    assert_eq!(unexpected(&probes), Vec::<String>::new());

    assert_eq!(web.client().ask(db.v4(), 5432, PATIENCE).as_deref(), Ok("shop/db"));
    assert_eq!(web.client().connect(db.v6(), 81, PATIENCE), Outcome::Refused);
    assert_eq!(web.client().udp(db.v4(), 54, PATIENCE), Outcome::Refused);
    // The chosen source is what the server sees.
    let second = outside.addresses()[1];
    assert!(outside.netns().client().from(second).from_port(4444).connect(db.v4(), 5432, PATIENCE).is_open());
    let from = SocketAddr::new(second, 4444);
    assert!(server.await_arrival(PATIENCE, |a| a.from == from).is_some());
}

#[test]
fn a_connection_lives_both_ways_and_ends_with_the_pod() {
    let host = Host::single("node").unwrap();
    let (web, db) = (host.pod(PodOptions::new("web")).unwrap(), host.pod(PodOptions::new("db")).unwrap());
    let server = db.server(&[80], &[]).unwrap();
    let mut connection = web.client().open(db.v4(), 80, PATIENCE).unwrap();
    connection.ping(PATIENCE).unwrap();
    let peer = connection.local().unwrap();
    server.await_arrival(PATIENCE, |a| a.from == peer).unwrap();
    server.say(peer, b"news").unwrap();
    assert_eq!(connection.receive(PATIENCE).as_deref(), Ok(&b"news"[..]));
    let address = db.v4();
    db.unplug();
    assert_eq!(connection.ping(DENY_WAIT), Err(Outcome::Timeout));
    assert!(!web.client().connect(address, 80, DENY_WAIT).is_open(), "the route is gone");
}

#[test]
fn an_address_moves_to_the_newer_pod_and_stays_there() {
    let host = Host::single("node").unwrap();
    let client = host.pod(PodOptions::new("client")).unwrap();
    let old = host.pod(PodOptions::new("old")).unwrap();
    let _old_server = old.server(&[80], &[]).unwrap();
    let address = [old.v4(), old.v6()];
    let new = host.pod(PodOptions::new("new").address(address[0]).address(address[1])).unwrap();
    let _new_server = new.server(&[80], &[]).unwrap();
    for _ in 0..2 {
        for to in address {
            assert_eq!(client.client().ask(to, 80, PATIENCE).as_deref(), Ok("default/new"));
        }
        old.unplug();
    }
}

#[test]
fn linked_hosts_route_between_their_pods() {
    let (a, b) = (Host::new(HostOptions::numbered("a", 1)).unwrap(), Host::new(HostOptions::numbered("b", 2)).unwrap());
    a.link(&b).unwrap();
    let (near, far) = (a.pod(PodOptions::new("near")).unwrap(), b.pod(PodOptions::new("far")).unwrap());
    let _server = far.server(&[80], &[]).unwrap();
    let _node = b.server(&[80], &[]).unwrap();
    let mut probes = Vec::new();
    for to in far.addresses().iter().chain(b.addresses()) {
        for client in [near.client(), a.netns().client()] {
            probes.push(Probe::open(client, *to, ProbeKind::Tcp(80)));
        }
    }
    assert_eq!(unexpected(&probes), Vec::<String>::new());
}

#[test]
fn bridged_pods_reach_each_other_and_the_outside() {
    let host = Host::single("node").unwrap();
    let bridge = host.bridge("cni0").unwrap();
    host.filter_bridged(true, true).unwrap();
    assert_eq!(host.netns().read_sysctl("net.bridge.bridge-nf-call-iptables").unwrap(), "1");
    let outside = host.outside("outside", &addresses(&["203.0.113.9", "2001:db8::9"])).unwrap();
    let _server_outside = outside.server(&[80], &[]).unwrap();
    let web = host.pod(PodOptions::new("web").on(&bridge)).unwrap();
    let db = host.pod(PodOptions::new("db").on(&bridge)).unwrap();
    let _server = db.server(&[80], &[53]).unwrap();
    let mut probes = Vec::new();
    for to in [db.v4(), db.v6()] {
        for client in [web.client(), host.netns().client(), outside.netns().client()] {
            probes.push(Probe::open(client.clone(), to, ProbeKind::Tcp(80)));
            probes.push(Probe::open(client, to, ProbeKind::Udp(53)));
        }
    }
    probes.extend(outside.addresses().iter().map(|a| Probe::open(web.client(), *a, ProbeKind::Tcp(80))));
    assert_eq!(unexpected(&probes), Vec::<String>::new());
}

#[test]
fn forged_and_fragmented_packets_arrive_as_they_were_made() {
    let host = Host::single("node").unwrap();
    let (web, db) = (host.pod(PodOptions::new("web")).unwrap(), host.pod(PodOptions::new("db")).unwrap());
    let server = db.server(&[], &[53]).unwrap();
    server.silence();
    let forged: SocketAddr = "198.51.100.7:999".parse().unwrap();
    web.netns().send(&Packet::udp(forged, SocketAddr::new(db.v4(), 53), b"forged")).unwrap();
    assert!(server.await_arrival(PATIENCE, |a| a.from == forged).is_some());

    for (from, to) in [(web.v4(), db.v4()), (web.v6(), db.v6())] {
        let (from, to) = (SocketAddr::new(from, 777), SocketAddr::new(to, 53));
        for fragment in Packet::udp(from, to, &[9; 100]).identification(77).fragments(64) {
            web.netns().send_ip(to.ip(), &fragment).unwrap();
        }
        let whole = server.await_arrival(PATIENCE, |a| a.from == from).unwrap();
        assert_eq!(whole.kind, ArrivalKind::Datagram(vec![9; 100]));
    }

    // A hop limit of one ends at the host, which says so.
    let capture = web.netns().capture(Some("eth0")).unwrap();
    let ends = (SocketAddr::new(web.v6(), 1), SocketAddr::new(db.v6(), 53));
    web.netns().send(&Packet::udp(ends.0, ends.1, b"short").ttl(1)).unwrap();
    let exceeded = |c: &Captured| !c.outgoing && c.protocol() == Some(58) && c.body().first() == Some(&3);
    assert!(capture.wait(PATIENCE, exceeded).is_some());
}

#[test]
fn a_frame_with_a_neighbour_solicitation_reaches_the_host() {
    let host = Host::single("node").unwrap();
    let web = host.pod(PodOptions::new("web")).unwrap();
    let capture = host.netns().capture(None).unwrap();
    let IpAddr::V6(own) = web.v6() else { panic!("{} is no IPv6 address", web.v6()) };
    let target: Ipv6Addr = "fe80::1".parse().unwrap();
    let packet = Packet::neighbour_solicitation(own, target, target, web.mac().unwrap()).ttl(7);
    let frame = packet::frame(web.mac().unwrap(), web.gateway_mac(), &packet.bytes());
    web.netns().send_frame("eth0", &frame).unwrap();
    let seen = capture.wait(PATIENCE, |c| c.ip == packet.bytes());
    assert!(seen.is_some_and(|c| !c.outgoing && c.ends() == Some((own.into(), target.into()))));
}

#[test]
fn a_panic_in_a_namespace_goes_on_in_the_caller() {
    let netns = Netns::new("panic").unwrap();
    let caught = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| netns.run(|| panic!("inside"))));
    assert_eq!(*caught.unwrap_err().downcast::<&str>().unwrap(), "inside");
    assert_eq!(netns.run(|| 7), 7, "and the namespace is still usable");
}

#[test]
fn a_child_is_in_the_namespace_and_dies_with_its_handle() {
    let netns = Netns::new("child").unwrap();
    netns.sysctl("net.ipv4.ip_default_ttl", "99").unwrap();
    let mut command = mortal("cat");
    command.arg("/proc/sys/net/ipv4/ip_default_ttl").stdout(Stdio::piped());
    let mut child = netns.spawn(command).unwrap();
    let out = std::io::read_to_string(child.stdout.take().unwrap()).unwrap();
    assert_eq!(out.trim(), "99");
    assert!(child.wait(PATIENCE).unwrap().success());

    let mut command = mortal("sleep");
    command.arg("1000");
    let child = netns.spawn(command).unwrap();
    assert!(child.is_running());
    drop(netns);
    let status = child.wait(PATIENCE).expect("killed with the namespace");
    assert_eq!(std::os::unix::process::ExitStatusExt::signal(&status), Some(9));
}

#[test]
fn a_name_is_there_while_the_guard_lives_and_can_be_removed_after_a_crash() {
    let name = format!("podgate-sandbox-test-{}", std::process::id());
    let path = std::path::Path::new("/run/netns").join(&name);
    let netns = Netns::new("named").unwrap();
    let guard = netns.persist(&name).unwrap();
    assert!(path.exists() && netns.persist(&name).is_err());
    drop(guard);
    assert!(!path.exists());
    std::mem::forget(netns.persist(&name).unwrap());
    assert_eq!(remove_persisted(&name), std::slice::from_ref(&name));
    assert!(!path.exists());
}

#[test]
fn a_socket_made_as_another_user_belongs_to_that_user() {
    let netns = Netns::new("user").unwrap();
    let socket = netns.run_as(65534, || std::net::UdpSocket::bind("127.0.0.1:0").unwrap());
    let port = format!(":{:04X}", socket.local_addr().unwrap().port());
    let table = netns.run(|| std::fs::read_to_string("/proc/thread-self/net/udp").unwrap());
    let line = table.lines().find(|l| l.contains(&port)).unwrap();
    assert_eq!(line.split_whitespace().nth(7), Some("65534"));
}

#[test]
fn manifests_say_what_the_pod_is() {
    let options = PodOptions::new("shop/web").label("app", "web").port("http", 8080, "TCP");
    let text = options.address("10.0.0.1".parse::<IpAddr>().unwrap()).manifest("node-a");
    for part in ["name: web", "namespace: shop", "app: \"web\"", "nodeName: node-a", "- ip: \"10.0.0.1\""] {
        assert!(text.contains(part), "{part} in {text}");
    }
}

#[test]
fn a_denied_probe_costs_its_timeout_and_no_more() {
    let host = Host::single("node").unwrap();
    let web = host.pod(PodOptions::new("web")).unwrap();
    let far = host.outside("hole", &addresses(&["203.0.113.1"])).unwrap();
    // Packets go out of the host, and nobody answers: the address is on no link there.
    far.netns().sysctl("net.ipv4.ip_forward", "0").unwrap();
    let begin = std::time::Instant::now();
    let probe = Probe::closed(web.client().ttl(2), far.addresses()[0], ProbeKind::Udp(9));
    let _listening = far.netns().run(|| std::net::UdpSocket::bind("0.0.0.0:9").unwrap());
    assert_eq!(probe_all(&[probe.clone(), probe]), [Outcome::Timeout; 2]);
    assert!(begin.elapsed() < DENY_WAIT * 2 + Duration::from_millis(600), "both at once: {:?}", begin.elapsed());
}

#[test]
fn a_client_that_keeps_connecting_sees_the_first_change() {
    let host = Host::single("node").unwrap();
    let (web, db) = (host.pod(PodOptions::new("web")).unwrap(), host.pod(PodOptions::new("db")).unwrap());
    let _server = db.server(&[80], &[]).unwrap();
    let (client, every) = (web.client(), Duration::from_millis(1));
    let begin = std::time::Instant::now();
    assert!(client.first_open(db.v4(), 80, every, PATIENCE).unwrap().is_some_and(|m| m >= begin));
    assert_eq!(client.first_closed(db.v4(), 80, every, DENY_WAIT * 2).unwrap(), None);
    let moment = std::time::Instant::now();
    db.unplug();
    let closed = client.first_closed(db.v4(), 80, every, PATIENCE).unwrap();
    assert!(closed.is_some_and(|m| m >= moment));
    assert_eq!(client.first_open(db.v4(), 80, every, DENY_WAIT).unwrap(), None);
}

/// Not a test of its own: what [`nothing_is_left_when_the_process_is_killed`] runs as another process.
fn run_until_killed() {
    let host = Host::single("node").unwrap();
    let _pod = host.pod(PodOptions::new("web")).unwrap();
    let mut command = mortal("sleep");
    command.arg("1000");
    let child = host.netns().spawn(command).unwrap();
    println!("child {}", child.id());
    child.wait(Duration::from_secs(60));
}

#[test]
fn nothing_is_left_when_the_process_is_killed() {
    if std::env::var_os("SANDBOX_RUN_UNTIL_KILLED").is_some() {
        return run_until_killed();
    }
    let outer = Netns::new("outer").unwrap();
    let mut command = mortal(std::env::current_exe().unwrap());
    command.args(["nothing_is_left_when_the_process_is_killed", "--exact", "--nocapture"]);
    command.env("SANDBOX_RUN_UNTIL_KILLED", "1").stdout(Stdio::piped());
    let mut process = outer.spawn(command).unwrap();
    let lines = std::io::BufRead::lines(std::io::BufReader::new(process.stdout.take().unwrap()));
    let mut pids = lines.map_while(Result::ok).filter_map(|l| l.split_once("child ")?.1.trim().parse::<u32>().ok());
    let pid = pids.next().expect("the child's number");
    let status = format!("/proc/{pid}/stat");
    assert!(std::path::Path::new(&status).exists());
    // Its standard output is held by the grandchild as well: end of file means that it is gone, too.
    process.kill();
    assert_eq!(pids.next(), None);
}

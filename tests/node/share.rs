//! Floods that no agent could judge: whoever is not their victim or sender hardly notices, and what is dropped is counted
//! as the pod's whose share of the queue it was.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use podgate_sandbox::{Netns, Packet, Pod, PodOptions, Server};
use socket2::{Domain, Protocol, Socket, Type};

use crate::kit::{LONG, Node, Turn, deny_all, pair, policy, web_on};
use crate::load::{CLOSED, Came, Load, OPEN};

const SHARE: &str = "podgate_overload_shares";

/// Packets as fast as a few threads can send them, each of which needs a verdict; ends when dropped, and by itself.
struct Flood {
    stop: Arc<AtomicBool>,
    sent: Arc<AtomicU64>,
    begun: Instant,
    threads: Vec<JoinHandle<()>>,
}

impl Flood {
    /// However long the test may wait.
    const LONGEST: Duration = Duration::from_secs(60);

    /// `sender` makes one for each thread that sends the packet of a number, in this namespace.
    fn start<S: FnMut(u64) + 'static>(netns: &Netns, sender: fn(IpAddr) -> S, to: IpAddr) -> Self {
        let (stop, sent, begun) = (Arc::<AtomicBool>::default(), Arc::<AtomicU64>::default(), Instant::now());
        let thread = |number: u64| {
            let (stop, sent) = (Arc::clone(&stop), Arc::clone(&sent));
            let work = move || {
                let mut send = sender(to);
                let mut next = number << 32;
                while !stop.load(Ordering::Relaxed) && begun.elapsed() < Self::LONGEST {
                    (0..64).for_each(|n| send(next + n));
                    next += 64;
                    sent.fetch_add(64, Ordering::Relaxed);
                }
            };
            netns.thread("flood", work).expect("a thread")
        };
        let threads = (0..dose().2).map(thread).collect();
        Flood { stop, sent, begun, threads }
    }

    /// Packets a second.
    fn stop(mut self) -> f64 {
        self.stop.store(true, Ordering::Relaxed);
        self.threads.drain(..).for_each(|thread| thread.join().expect("no panic"));
        self.sent.load(Ordering::Relaxed) as f64 / self.begun.elapsed().as_secs_f64()
    }
}

impl Drop for Flood {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// Datagrams of one's own to a pod, each to another port, which nothing opens.
fn own(to: IpAddr) -> impl FnMut(u64) {
    let socket = UdpSocket::bind("0.0.0.0:0").expect("bound");
    move |n| {
        // Who sends so fast is told now and then that there is no room.
        let _ = socket.send_to(b"flood", (to, 1024 + (n.wrapping_mul(0x9e37_79b9) >> 7) as u16 % 60_000));
    }
}

/// Datagrams to one port of a pod, each with another source, none of which is let in.
fn forged(to: IpAddr) -> impl FnMut(u64) {
    let socket = Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::from(nix::libc::IPPROTO_RAW))).expect("a socket");
    socket.set_header_included_v4(true).expect("set");
    let from = SocketAddr::from((Ipv4Addr::new(198, 18, 0, 0), 4000));
    let mut bytes = Packet::udp(from, SocketAddr::new(to, OPEN), b"flood").bytes();
    // No checksum; that of the IP header is the kernel's.
    bytes[26..28].fill(0);
    move |n| {
        let number = (n.wrapping_mul(0x9e37_79b9) >> 7) as u32;
        let source = Ipv4Addr::new(198, 18 + (number >> 16 & 1) as u8, (number >> 8) as u8, number as u8);
        bytes[12..16].copy_from_slice(&source.octets());
        let _ = socket.send_to(&bytes, &SocketAddr::new(to, 0).into());
    }
}

/// How long good traffic is watched, its connections a second (far below any share), and how many threads flood. These
/// variables make better figures of what the tests print.
fn dose() -> (Duration, u32, u64) {
    let number = |name: &str| std::env::var(name).ok().and_then(|n| n.parse::<u32>().ok());
    let seconds = number("PODGATE_FLOOD_SECONDS").unwrap_or(2);
    let (rate, threads) = (number("PODGATE_FLOOD_RATE"), number("PODGATE_FLOOD_THREADS"));
    // More than one worker can answer, however many cores there are.
    let cores = std::thread::available_parallelism().map_or(2, |cores| cores.get() as u32);
    (Duration::from_secs(seconds.into()), rate.unwrap_or(100), threads.unwrap_or((cores / 2).clamp(2, 8)).into())
}

/// shop/web opens one port by TCP and UDP.
fn shop() -> (Node, Pod, Pod, Server) {
    let (node, web, client, server) = pair(&[OPEN], &[OPEN]);
    node.write("policy.yaml", &web_on("TCP", OPEN).replace("port: 80}", "port: 80}, {protocol: UDP, port: 80}"));
    (node, web, client, server)
}

/// What becomes of good traffic while it is watched.
fn good(client: &Pod, web: &Pod) -> Came {
    let (span, rate, _) = dose();
    let load = Load::start(client, web, rate, 8);
    // Not to wait for something, but the length of what is measured.
    std::thread::sleep(span);
    load.stop()
}

/// Waits until a share is found with which the flood takes no room in the queue from anybody: nothing is lost there for
/// as long as good traffic is watched, and nearly all connections come about with their first packet.
#[track_caller]
fn await_calm(client: &Pod, web: &Pod, node: &Node, victim: &str) -> Came {
    let deadline = Instant::now() + 2 * LONG;
    loop {
        let (lost_before, over) = (lost(node), dropped(node, victim));
        let came = good(client, web);
        let lost_now = lost(node);
        assert_eq!(came.leaked, 0, "{came:?}");
        println!("a share of {} packets/s, {} lost: {came:?}", node.metric(SHARE), lost_now - lost_before);
        let is_calm =
            lost_now == lost_before && came.connections >= 20 && came.connections >= 9 * came.lost_connections;
        if is_calm && dropped(node, victim) > over {
            return came;
        }
        assert!(Instant::now() < deadline, "{came:?}\n{}", node.log());
    }
}

fn dropped(node: &Node, pod: &str) -> Option<f64> {
    node.find_metric(&format!("podgate_overload_dropped_packets_total{{namespace=\"shop\",pod=\"{pod}\"}}"))
}

/// Packets for which the agent's only queue had no room.
fn lost(node: &Node) -> f64 {
    let text = node.get("/metrics").1;
    let lines = text.lines().filter(|line| line.starts_with("podgate_queue_dropped_total{"));
    lines.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
}

/// Waits until it is known whose the packets are; a pod that is alone has no share, as nobody would be the better for it.
fn await_watch(node: &Node) {
    let deadline = Instant::now() + LONG;
    while !rules(node).contains("update @share4") {
        assert!(Instant::now() < deadline, "{}\n{}", rules(node), node.log());
    }
    assert_eq!(node.metric(SHARE), 0.0, "{}", node.log());
}

/// Waits until there are shares, as somebody else is there now.
fn await_share(node: &Node, client: &Pod, web: &Pod) {
    let deadline = Instant::now() + LONG;
    while node.metric(SHARE) < 1.0 {
        good(client, web);
        assert!(Instant::now() < deadline, "{}", node.log());
    }
}

/// Waits until there is no share any more. Each look is a request, and the pace.
fn await_no_share(node: &Node) {
    let deadline = Instant::now() + LONG;
    // While a pod is alone it has none, but is watched.
    while node.metric(SHARE) > 0.0 || rules(node).contains("@share") {
        assert!(Instant::now() < deadline, "{}", node.log());
        std::thread::yield_now();
    }
}

fn rules(node: &Node) -> String {
    node.command("nft", &["--stateless", "list", "chain", "inet", "podgate", "to_queue"]).1
}

#[test]
fn a_pod_that_floods_uses_up_its_own_share_and_no_other_pods() {
    let _turn = Turn::alone();
    let (mut node, web, client, _server) = shop();
    let evil = node.pod(PodOptions::new("shop/evil"));
    // For comparison.
    node.start(&["--queues", "1", "--cache", "0", "--share", "off"]);
    let flood = Flood::start(evil.netns(), own, web.v4());
    let starved = good(&client, &web);
    let sent = flood.stop();
    println!("flood of {sent:.0} packets/s, no shares, {} lost: {starved:?}", lost(&node));
    assert_eq!((node.metric(SHARE), dropped(&node, "evil")), (0.0, None));
    node.stop();

    node.start(&["--queues", "1", "--cache", "0"]);
    let plain = rules(&node);
    let flood = Flood::start(evil.netns(), own, web.v4());
    await_watch(&node);
    await_share(&node, &client, &web);
    assert!(rules(&node).contains("update @share4 { ip saddr limit rate over"), "{}", rules(&node));
    await_calm(&client, &web, &node, "evil");
    let (limit, over) = (node.metric(SHARE), dropped(&node, "evil"));
    let (status, said) = node.get("/readyz");
    println!("flood of {:.0} packets/s", flood.stop());
    assert!(over.is_some_and(|packets| packets > limit), "{over:?}");
    assert_eq!((dropped(&node, "client"), dropped(&node, "web")), (None, None), "{}", node.get("/metrics").1);
    assert!(status == 200 && said.contains("overload: ") && said.contains("shop/evil ("), "{said}");

    await_no_share(&node);
    assert_eq!(rules(&node), plain);
    assert!(dropped(&node, "evil") >= over, "what was counted stays");
    assert!(!node.get("/readyz").1.contains("overload"));
    assert_eq!(node.metric("podgate_kernel_repairs_total"), 0.0, "{}", node.log());
}

#[test]
fn a_flood_from_outside_with_forged_sources_uses_up_its_victims_share_only() {
    let _turn = Turn::alone();
    let (mut node, web, client, _server) = shop();
    let target = node.pod(PodOptions::new("shop/target").label("app", "target"));
    // Somebody may come in there: no port is closed to everybody.
    let spec = "{podSelector: {matchLabels: {app: target}}, ingress: [{from: [{ipBlock: {cidr: 192.0.2.0/24}}]}]}";
    node.write("target.yaml", &policy("target", "shop", spec));
    let outside = node.host.outside("outside", &[Ipv4Addr::new(203, 0, 113, 9).into()]).expect("an outside");
    node.start(&["--queues", "1", "--cache", "0"]);
    let flood = Flood::start(outside.netns(), forged, target.v4());
    await_watch(&node);
    await_share(&node, &client, &web);
    await_calm(&client, &web, &node, "target");
    assert_eq!((dropped(&node, "client"), dropped(&node, "web")), (None, None), "{}", node.get("/metrics").1);

    // The next agent finds out for itself, and the one before has nothing to do with it any more.
    let old = node.hand_over(&["--queues", "1", "--cache", "0"]);
    await_share(&node, &client, &web);
    await_calm(&client, &web, &node, "target");
    old.await_unready("handed over to a newer agent");
    let deadline = Instant::now() + LONG;
    while old.find_metric(SHARE) != Some(0.0) {
        assert!(Instant::now() < deadline, "{}", old.log());
        std::thread::yield_now();
    }
    old.stop();
    println!("flood of {:.0} packets/s with forged sources", flood.stop());
    await_no_share(&node);
    assert!(!rules(&node).contains("@share"), "{}", rules(&node));
    // And policies hold as ever.
    node.apply("policy.yaml", &deny_all("shop"));
    node.expect(&[podgate_sandbox::Probe::closed(client.client(), web.v4(), podgate_sandbox::ProbeKind::Tcp(CLOSED))]);
}

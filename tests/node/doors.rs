//! Where the agent can be reached: its metrics address, its own unix socket, and the life that other agents watch. Read
//! from what the kernel says of each of its file descriptors, so that a door opened anywhere in the program shows.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::process::Command;
use std::time::Instant;

use socket2::{Domain, Socket, Type};

use crate::kit::{LONG, Node, binary, pair, policy, web_on};

/// The sockets of a process as the kernel lists them, by what they are.
#[derive(Debug, Default, PartialEq)]
struct Doors {
    /// TCP sockets that listen, as `address:port`.
    tcp: Vec<String>,
    /// Unix sockets that listen, by name.
    unix: Vec<String>,
    /// Sockets that receive from the network without listening: UDP, packet, raw sockets of a protocol.
    open: Vec<String>,
    /// Sockets of a sort that this does not know.
    unknown: Vec<u64>,
}

/// Every socket of the process is in one of the tables of its network namespace.
fn doors(pid: u32, namespace_of: u32) -> Doors {
    let mut doors = Doors::default();
    let tables = Tables::of(namespace_of);
    for inode in sockets(pid) {
        match tables.find(inode) {
            Some(("tcp" | "tcp6", row)) if row.state == "0A" => doors.tcp.push(row.local.clone()),
            Some(("tcp" | "tcp6" | "netlink", _)) => {}
            // What is sent on such a socket brings its own header; the kernel gives it nothing to receive (raw(7)).
            Some(("raw" | "raw6", row)) if row.local.ends_with(":255") => {}
            Some(("unix", row)) => doors.unix.extend(row.listens.clone()),
            Some((table, row)) => doors.open.push(format!("{table} {}", row.local)),
            None => doors.unknown.push(inode),
        }
    }
    for list in [&mut doors.tcp, &mut doors.unix, &mut doors.open] {
        list.sort();
    }
    doors
}

struct Row {
    local: String,
    state: String,
    /// Of a unix socket, its name if it listens.
    listens: Option<String>,
}

struct Tables(Vec<(&'static str, BTreeMap<u64, Row>)>);

impl Tables {
    /// `/proc/PID/net` (net/ipv4/tcp_ipv4.c and its like): the columns that are of interest stand where they stand.
    fn of(pid: u32) -> Self {
        let inet = ["tcp", "tcp6", "udp", "udp6", "udplite", "udplite6", "raw", "raw6", "icmp", "icmp6"];
        let inet = inet.map(|name| (name, 9, 1));
        let others = [("packet", 8, 4), ("netlink", 9, 1), ("unix", 6, 7)];
        let tables = inet.into_iter().chain(others).filter_map(|(name, inode, local)| {
            // A protocol that the kernel lacks has no table, and no sockets.
            let text = fs::read_to_string(format!("/proc/{pid}/net/{name}")).ok()?;
            let rows = text.lines().skip(1).filter_map(|line| row(name, line, inode, local)).collect();
            Some((name, rows))
        });
        Tables(tables.collect())
    }

    fn find(&self, inode: u64) -> Option<(&'static str, &Row)> {
        self.0.iter().find_map(|(name, rows)| Some((*name, rows.get(&inode)?)))
    }
}

fn row(table: &str, line: &str, inode: usize, local: usize) -> Option<(u64, Row)> {
    let fields: Vec<&str> = line.split_ascii_whitespace().collect();
    let name = fields.get(local).copied().unwrap_or_default();
    // __SO_ACCEPTCON
    let listens = (table == "unix" && *fields.get(3)? == "00010000").then(|| name.to_owned());
    let local = if table.starts_with("unix") || table == "netlink" { name.to_owned() } else { address(name) };
    Some((fields.get(inode)?.parse().ok()?, Row { local, state: (*fields.get(3)?).to_owned(), listens }))
}

/// `0100007F:2670` is 127.0.0.1:9840: the address in words of the machine's order.
fn address(text: &str) -> String {
    let Some((address, port)) = text.split_once(':') else { return text.to_owned() };
    let port = u16::from_str_radix(port, 16).unwrap_or_default();
    match (address.len(), u32::from_str_radix(address, 16)) {
        (8, Ok(word)) => format!("{}:{port}", std::net::Ipv4Addr::from(word.to_ne_bytes())),
        _ => format!("[{address}]:{port}"),
    }
}

fn sockets(pid: u32) -> Vec<u64> {
    let links = fs::read_dir(format!("/proc/{pid}/fd")).expect("its descriptors").flatten();
    let links = links.filter_map(|entry| fs::read_link(entry.path()).ok());
    links.filter_map(|link| link.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok()).collect()
}

/// A node with a policy in force, and its agent's sockets in a directory of the test's.
fn node(http: &str) -> (Node, tempfile::TempDir, String) {
    let (mut node, ..) = pair(&[], &[]);
    node.write("policy.yaml", &web_on("TCP", 80));
    let directory = tempfile::tempdir().expect("a directory");
    let socket = directory.path().join("agent.sock").to_str().expect("text").to_owned();
    if http == "off" {
        node.launch(&["--http", http, "--socket", &socket]);
        await_ready(&node, &socket);
    } else {
        node.start(&["--http", http, "--socket", &socket]);
    }
    (node, directory, socket)
}

/// Each look is a process, and the pace.
fn await_ready(node: &Node, socket: &str) {
    let deadline = Instant::now() + LONG;
    let ready = || Command::new(binary()).args(["status", "--ready", "--socket", socket]).output().expect("started");
    while !ready().status.success() {
        assert!(Instant::now() < deadline, "{}", node.log());
    }
}

fn assert_only(node: &Node, tcp: &[&str], socket: &str) {
    let agent = node.agent().process.id();
    let found = doors(agent, agent);
    assert_eq!(found.tcp, tcp, "TCP sockets that listen: {found:?}");
    let (lives, paths): (Vec<_>, Vec<_>) = found.unix.iter().partition(|name| name.starts_with("@podgate/agent/"));
    // The kernel knows the socket by the name that it was bound by, before it took its path by a rename.
    let bound = socket.replace("/agent.sock", &format!("/.agent.sock.{agent}"));
    assert_eq!((paths, lives.len()), (vec![&bound], 1), "unix sockets that listen: {found:?}");
    assert!(found.open.is_empty() && found.unknown.is_empty(), "{found:?}");
}

#[test]
fn nothing_listens_beyond_the_metrics_address_and_its_own_socket() {
    let (node, _directory, socket) = node("127.0.0.1:9840");
    assert_only(&node, &["127.0.0.1:9840"], &socket);
    // The same look finds doors where there are some: in this process, opened in the node's namespace.
    let (tcp, udp) = node.netns().run(|| {
        let tcp = TcpListener::bind("0.0.0.0:7777").expect("a listener");
        (tcp, UdpSocket::bind("127.0.0.1:7778").expect("a socket"))
    });
    let ours = doors(std::process::id(), node.agent().process.id());
    assert!(ours.tcp.contains(&"0.0.0.0:7777".to_owned()), "{ours:?}");
    assert!(ours.open.contains(&"udp 127.0.0.1:7778".to_owned()), "{ours:?}");
    drop((tcp, udp));
}

#[test]
fn without_a_metrics_address_nothing_listens_on_the_network() {
    let (node, _directory, socket) = node("off");
    assert_only(&node, &[], &socket);
}

/// Rules of one policy, each with a counter: some megabytes of metrics.
const RULES: usize = 10_000;

#[test]
fn clients_that_do_not_take_the_metrics_they_asked_for_fill_no_memory_up_and_delay_no_probe() {
    let (mut node, ..) = pair(&[], &[]);
    let rules: String = (0..RULES).map(|n| format!("{{ports: [{{port: {}}}]}}, ", n + 1)).collect();
    node.write("large.yaml", &policy("large", "shop", &format!("{{podSelector: {{}}, ingress: [{rules}]}}")));
    let directory = tempfile::tempdir().expect("a directory");
    let socket = directory.path().join("agent.sock").to_str().expect("text").to_owned();
    node.start(&["--socket", &socket]);
    let text = node.get("/metrics").1.len();
    assert!(text > 1 << 20, "{text} bytes");

    let before = node.agent().memory("VmRSS");
    let address: SocketAddr = "127.0.0.1:9840".parse().expect("an address");
    let ask = || {
        let stream = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
        stream.set_recv_buffer_size(4096).expect("set");
        stream.connect(&address.into()).expect("connected");
        (&stream).write_all(b"GET /metrics HTTP/1.1\r\nHost: node\r\n\r\n").expect("asked");
        stream
    };
    // Three times as many as may be: those that come later take the place of others.
    let clients: Vec<Socket> = node.netns().run(|| (0..192).map(|_| ask()).collect());
    // Each has the beginning of an answer, or its connection's end.
    for client in &clients {
        client.set_read_timeout(Some(LONG)).expect("set");
        let begun = client.recv(&mut [std::mem::MaybeUninit::uninit(); 1]);
        let refused = begun.as_ref().is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock);
        assert!(!refused, "no word for {LONG:?}");
    }
    let live = Command::new(binary()).args(["status", "--live", "--socket", &socket]).output().expect("started");
    assert!(live.status.success(), "{live:?}");
    let after = node.agent().memory("VmRSS");
    println!("metrics of {} KiB, resident {} KiB before, {} KiB after", text >> 10, before >> 10, after >> 10);
    assert!(after < before + 24 * text as u64, "{before} bytes before, {after} after");
}

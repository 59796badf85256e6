//! A network namespace with a loopback whose UDP packets to one port go to a queue, and a sender and a receiver.

use std::io::Write;
use std::net::UdpSocket;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use nix::sched::{CloneFlags, unshare};
use nix::sys::socket::{setsockopt, sockopt};

use super::super::message::{Message, Messages, Writer};
use super::super::socket::{Buffers, Socket};
use super::super::{Fate, MmsgQueue, NfqQueue, Packet, Queue, QueueSettings, Received, queue_stats};

/// The port whose packets are queued.
pub(super) const PORT: u16 = 7000;
/// The queue they go to.
pub(super) const NUMBER: u16 = 9840;

/// Long enough for a loaded machine; every wait for something that must come ends at it.
const PATIENCE: Duration = Duration::from_secs(20);

/// Opens the receiver under test.
pub(super) type Open = fn(&QueueSettings) -> Box<dyn Queue>;

/// Every receiver.
pub(super) const RECEIVERS: [(&str, Open); 2] = [
    ("mmsg", |settings| Box::new(MmsgQueue::bind(settings).unwrap())),
    ("nfq", |settings| Box::new(NfqQueue::bind(settings).unwrap())),
];

/// Runs `test` in a thread with a network namespace of its own, once for each receiver.
pub(super) fn with_each_receiver(bypass: bool, test: fn(Rig, Open)) {
    for (name, open) in RECEIVERS {
        println!("receiver: {name}");
        in_namespace(move || test(Rig::new(bypass), open));
    }
}

/// Runs `work` in a thread with a network namespace of its own, which goes with it.
pub(super) fn in_namespace(work: impl FnOnce() + Send + 'static) {
    let worked = thread::spawn(|| {
        unshare(CloneFlags::CLONE_NEWNET).expect("these tests need root (CAP_SYS_ADMIN) for network namespaces");
        run("ip", &["link", "set", "lo", "up"], "");
        work();
    })
    .join();
    if let Err(panic) = worked {
        std::panic::resume_unwind(panic);
    }
}

/// Two sockets and the rules between them.
pub(super) struct Rig {
    pub(super) sender: UdpSocket,
    pub(super) receiver: UdpSocket,
}

impl Rig {
    pub(super) fn new(bypass: bool) -> Self {
        run(
            "nft",
            &["-f", "-"],
            &format!(
                "table inet rig {{
                    chain up {{ }}
                    chain output {{ type filter hook output priority 0; udp dport {PORT} jump up; }}
                    chain after {{ type filter hook postrouting priority 0; }}
                }}"
            ),
        );
        queue_rule(bypass);
        let receiver = UdpSocket::bind(("127.0.0.1", PORT)).unwrap();
        receiver.set_read_timeout(Some(PATIENCE)).unwrap();
        let sender = UdpSocket::bind("127.0.0.1:0").unwrap();
        sender.connect(("127.0.0.1", PORT)).unwrap();
        // Packets in the queue count against the sender, which would block.
        setsockopt(&sender, sockopt::SndBufForce, &(64 << 20)).unwrap();
        setsockopt(&receiver, sockopt::RcvBufForce, &(1 << 20)).unwrap();
        Self { sender, receiver }
    }

    /// Sends one datagram for each byte, with that byte in it.
    pub(super) fn send(&self, bytes: impl IntoIterator<Item = u8>) {
        bytes.into_iter().for_each(|byte| assert_eq!(self.sender.send(&[byte; 9]).unwrap(), 9));
    }

    /// The next datagram that arrives.
    pub(super) fn arrived(&self) -> u8 {
        let mut buffer = [0; 64];
        assert_eq!(self.receiver.recv(&mut buffer).expect("a datagram that must arrive"), 9);
        buffer[0]
    }

    /// Whether nothing has arrived. Loopback delivers within the verdict's system call.
    pub(super) fn nothing_arrived(&self) -> bool {
        self.receiver.set_nonblocking(true).unwrap();
        let nothing = self.receiver.recv(&mut [0; 64]).is_err();
        self.receiver.set_nonblocking(false).unwrap();
        nothing
    }

    /// Gives the sender's packets this mark.
    pub(super) fn mark(&self, mark: u32) {
        setsockopt(&self.sender, sockopt::Mark, &mark).unwrap();
    }

    /// From now on counts packets that come out of the queue with exactly this mark.
    pub(super) fn count_mark(&self, mark: u32) {
        run("nft", &["-f", "-"], &format!("add rule inet rig after udp dport {PORT} meta mark {mark:#x} counter"));
    }

    /// The counts of [`Rig::count_mark`], in order.
    pub(super) fn marked(&self) -> Vec<u64> {
        let listed = run("nft", &["list", "chain", "inet", "rig", "after"], "");
        let mut words = listed.split_whitespace();
        let mut counts = Vec::new();
        while words.any(|word| word == "packets") {
            counts.push(words.next().unwrap().parse().unwrap());
        }
        counts
    }
}

/// The byte a test datagram was made of: what follows the IPv4 and UDP headers.
pub(super) fn byte(packet: &Packet<'_>) -> u8 {
    packet.payload[28]
}

/// Answers until `packets` packets were judged.
pub(super) fn answer(queue: &mut dyn Queue, packets: usize, judge: &mut dyn FnMut(&Packet<'_>) -> Fate) {
    let mut judged = 0;
    while judged < packets {
        assert!(matches!(queue.receive(Some(PATIENCE)).unwrap(), Received::Packets(_)), "{judged} of {packets} came");
        queue
            .answer(&mut |packet| {
                judged += 1;
                judge(packet)
            })
            .unwrap();
    }
    assert_eq!(judged, packets);
}

/// Waits until nobody has the queue. A child process that another test is starting may have the dropped socket for a
/// moment, from its fork to its exec.
pub(super) fn until_free() {
    let start = Instant::now();
    while !queue_stats().unwrap().is_empty() {
        assert!(start.elapsed() < PATIENCE, "the queue is still bound");
        thread::yield_now();
    }
}

/// Runs a command in this thread's network namespace.
fn run(program: &str, arguments: &[&str], input: &str) -> String {
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("{program}: {error} (install nftables and iproute2)"));
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{program} {arguments:?} {input}");
    String::from_utf8(output.stdout).unwrap()
}

/// Adds the rule that `nft` cannot on every kernel: the xtables target `NFQUEUE`, revision 3 (linux/netfilter/
/// xt_NFQUEUE.h), through nft_compat.
fn queue_rule(bypass: bool) {
    fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
        let mut out = (4 + value.len() as u16).to_ne_bytes().to_vec();
        out.extend(kind.to_ne_bytes());
        out.extend(value);
        out.resize(out.len().next_multiple_of(4), 0);
        out
    }
    const NESTED: u16 = 1 << 15;
    const NEW_RULE: u16 = 10 << 8 | 6;
    const INET: u8 = 1;
    const NF_TABLES: u16 = 10;
    let info = [NUMBER.to_ne_bytes(), 1u16.to_ne_bytes(), u16::from(bypass).to_ne_bytes()].concat();
    let target = [attribute(1, b"NFQUEUE\0"), attribute(2, &3u32.to_be_bytes()), attribute(3, &info)].concat();
    let expression = [attribute(1, b"target\0"), attribute(2 | NESTED, &target)].concat();
    let mut writer = Writer::default();
    // NFNL_MSG_BATCH_BEGIN and _END name the subsystem in the resource.
    writer.begin(0x10, 1, 0, 0, NF_TABLES);
    writer.end();
    writer.begin(NEW_RULE, 0xc05, 7, INET, 0);
    writer.attribute(1, b"rig\0");
    writer.attribute(2, b"up\0");
    writer.attribute(4 | NESTED, &attribute(1 | NESTED, &expression));
    writer.end();
    writer.begin(0x11, 1, 0, 0, NF_TABLES);
    writer.end();
    let socket = Socket::open(1 << 16).unwrap();
    socket.send(writer.bytes()).unwrap();
    let mut answers = Buffers::new(256);
    socket.receive(&mut answers).unwrap();
    let answers: Vec<_> = answers.datagrams().flat_map(|(datagram, _)| Messages(datagram)).collect();
    assert_eq!(answers, [Message::Answer { sequence: 7, error: 0 }], "the queue rule was refused");
}

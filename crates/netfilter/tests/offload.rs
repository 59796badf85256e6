//! Large packets: what the kernel leaves to a card to cut into segments comes up whole, and only its head is copied.

#![allow(clippy::unwrap_used)]

mod kit;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};

use kit::*;
use podgate_netfilter::{Program, ProgramSettings, Update};

const QUEUE: u16 = 5;
/// What the queue copies of a packet.
const COPIED: usize = 128;

#[test]
fn packets_that_a_card_would_cut_come_up_whole_and_only_their_heads_are_copied() {
    let node = Node::new();
    let (a, b) = (node.pod(2), node.pod(3));
    let _program = node.at.run(|| {
        let mut program =
            Program::install(ProgramSettings { queues: QUEUE..=QUEUE, ..ProgramSettings::default() }).unwrap();
        let ranges = ["10.1.0.0/24".parse().unwrap(), "fd01::/64".parse().unwrap()];
        program.replace(&Update { ranges: Some(&ranges), open: &[], ..Update::default() }).unwrap();
        program
    });
    // Never remembered: every packet of the connection comes up.
    let reader = Reader::start(&node.at, QUEUE, Say::Pass);
    for (from, to) in [(v4(2), v4(3)), (v6(2), v6(3))] {
        let listener = b.run(|| TcpListener::bind(SocketAddr::new(to, 80)).unwrap());
        let text = vec![7_u8; 1 << 20];
        let received = b.spawn(move || {
            let mut all = Vec::new();
            listener.accept().unwrap().0.read_to_end(&mut all).unwrap();
            all
        });
        let mut stream = a.run(|| TcpStream::connect(SocketAddr::new(to, 80)).unwrap());
        stream.set_write_timeout(Some(SOON)).unwrap();
        stream.write_all(&text).unwrap();
        drop(stream);
        assert!(received.join().unwrap() == text, "what arrived is not what was sent");
        let seen = reader.so_far();
        let largest = seen.iter().filter(|s| s.source == from).map(|s| s.length).max().unwrap();
        assert!(largest > 1500, "cut into segments for the queue: the largest of {} packets has {largest}", seen.len());
        assert!(seen.iter().all(|s| s.rest.len() < COPIED));
    }
}

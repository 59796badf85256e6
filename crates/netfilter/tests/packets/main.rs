//! The program on real packets: what comes up and how, what is remembered, what passes and what does not. Here: what
//! all rooms stand on. What an agent does with the packets is in tests/node.

#![allow(clippy::unwrap_used)]

#[path = "../kit/mod.rs"]
mod kit;

mod ends;
mod odd;
mod receivers;
mod remembered;
mod shares;
mod spread;

use std::net::{IpAddr, SocketAddr, UdpSocket};

use ipnet::IpNet;
use kit::*;
use podgate_netfilter::{Marks, Open, Program, ProgramSettings, Update, Way};

const BOTH: Open = Open { ingress: true, egress: true };
const PRE_ROUTING: u8 = 0;
const LOCAL_IN: u8 = 1;
const POST_ROUTING: u8 = 4;
const QUEUE: u16 = 5;

fn settings() -> ProgramSettings {
    ProgramSettings { queues: QUEUE..=QUEUE, udp_prerouting: Some(false), ..ProgramSettings::default() }
}

/// The program in `node`, with its pod ranges.
fn program(node: &Node, settings: ProgramSettings, open: &[(IpAddr, Open)]) -> Program {
    node.at.run(|| {
        let mut program = Program::install(settings).unwrap_or_else(|e| panic!("{e}"));
        let ranges: [IpNet; 2] = ["10.1.0.0/24".parse().unwrap(), "fd01::/64".parse().unwrap()];
        program.replace(&Update { ranges: Some(&ranges), open, ..Update::default() }).unwrap();
        program
    })
}

/// Two sockets that talk to each other, and what is asked of their conversation.
struct Talk {
    client: UdpSocket,
    server: UdpSocket,
}

impl Talk {
    fn new(client: (&Namespace, IpAddr), server: (&Namespace, IpAddr)) -> Self {
        let client = client.0.udp(SocketAddr::new(client.1, 4000));
        Self { client, server: server.0.udp(SocketAddr::new(server.1, 53)) }
    }

    fn ask(&self, text: &str) -> bool {
        arrives(&self.client, &self.server, self.server.local_addr().unwrap(), text, SOON)
    }

    fn ask_in_vain(&self, text: &str) -> bool {
        !arrives(&self.client, &self.server, self.server.local_addr().unwrap(), text, NEVER)
    }

    fn reply(&self, text: &str) -> bool {
        arrives(&self.server, &self.client, self.client.local_addr().unwrap(), text, SOON)
    }

    fn reply_in_vain(&self, text: &str) -> bool {
        !arrives(&self.server, &self.client, self.client.local_addr().unwrap(), text, NEVER)
    }
}

/// What the ways of packets that came up were.
fn ways(seen: &[Seen]) -> Vec<Way> {
    seen.iter().map(|s| s.way.expect("a packet without a way")).collect()
}

//! Which answers a denied packet gets, byte by byte, and how many.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use pnet_packet::icmp::{self, IcmpPacket};
use pnet_packet::icmpv6::{self, Icmpv6Packet};
use pnet_packet::ipv4::{self, Ipv4Packet};
use pnet_packet::ipv6::Ipv6Packet;
use pnet_packet::tcp::{self, TcpPacket};
use podgate_engine::{Counter, Counters};
use podgate_netfilter::queue::{Fate, Packet, Queue, Received, Waker};
use podgate_netfilter::{Marks, Way};
use podgate_sandbox::Packet as Built;
use podgate_sandbox::packet::flags::{ACK, FIN, PSH, RST, SYN};

use super::answer::{Answer, Reset, Silence, answers, as_sent};
use super::limit::Rates;
use super::rejecter::Rejecter;
use super::send::Out;
use super::{Rejects, build};
use crate::cache::Offers;
use crate::worker::{Crowd, End, Gate, HoldSettings, OnUnknown, Pulse, Records, Shared};

const FAMILIES: [(&str, &str); 2] = [("10.1.0.5", "10.1.0.9"), ("fd00::5", "fd00::9")];

fn at(address: &str, port: u16) -> SocketAddr {
    SocketAddr::new(address.parse().unwrap(), port)
}

fn ip(address: &str) -> IpAddr {
    address.parse().unwrap()
}

/// What a packet that was copied whole is answered with.
fn answered(way: Way, packet: &Built) -> Result<(Answer, Option<Answer>), Silence> {
    let bytes = packet.bytes();
    answers(way, &bytes, bytes.len() as u32, None)
}

fn reset(from: SocketAddr, to: SocketAddr, sequence: u32, acknowledgement: Option<u32>) -> Answer {
    Answer::Reset(Reset { from, to, sequence, acknowledgement })
}

#[test]
fn a_syn_is_answered_with_a_reset_that_acknowledges_all_of_it() {
    for (client, server) in FAMILIES {
        let (client, server) = (at(client, 40000), at(server, 80));
        let refused = |next| Ok((reset(server, client, 0, Some(next)), None));
        assert_eq!(answered(Way::Original, &Built::tcp(client, server, SYN, (7, 0), b"")), refused(8));
        // With data in it (TCP Fast Open), also where that was not copied.
        let fast = Built::tcp(client, server, SYN, (u32::MAX, 0), &[0; 500]);
        assert_eq!(answered(Way::Original, &fast), refused(500));
        let bytes = fast.bytes();
        assert_eq!(answers(Way::Original, &bytes[..80], bytes.len() as u32, None), refused(500));
        // Nor is it for anybody else, whatever conntrack thinks.
        assert_eq!(answered(Way::Midstream, &Built::tcp(client, server, FIN, (7, 0), b"")), refused(8));
    }
}

#[test]
fn both_ends_of_a_connection_that_was_cut_are_told_with_the_numbers_they_expect() {
    for (client, server) in FAMILIES {
        let (client, server) = (at(client, 40000), at(server, 80));
        let data = Built::tcp(client, server, ACK | PSH, (1000, 77), b"hello");
        let both = (reset(server, client, 77, None), Some(reset(client, server, 1000, Some(77))));
        assert_eq!(answered(Way::Original, &data), Ok(both));
        // The same for what the server says, and for an answer to a SYN that had been permitted.
        for flags in [ACK, SYN | ACK, FIN | ACK] {
            let reply = Built::tcp(server, client, flags, (77, 1000), b"");
            let both = (reset(client, server, 1000, None), Some(reset(server, client, 77, Some(1000))));
            assert_eq!(answered(Way::Reply, &reply), Ok(both));
        }
    }
}

#[test]
fn of_a_connection_that_conntrack_does_not_know_only_the_sender_is_told() {
    // Otherwise a reset with numbers of anybody's choice would get to whom he may not talk to.
    let (client, server) = (at("10.1.0.5", 40000), at("10.1.0.9", 80));
    let data = Built::tcp(client, server, ACK, (1000, 77), b"");
    for way in [Way::Midstream, Way::Untracked] {
        assert_eq!(answered(way, &data), Ok((reset(server, client, 77, None), None)), "{way:?}");
    }
}

#[test]
fn what_is_no_tcp_is_answered_with_an_error_to_its_sender() {
    for (client, server) in FAMILIES {
        let echo = Built::echo(ip(client), ip(server), 1, 1);
        let datagram = Built::udp(at(client, 4000), at(server, 53), b"x");
        let esp = Built::new(ip(client), ip(server), 50, vec![0; 16]);
        for (way, packet) in
            [(Way::Original, echo), (Way::Original, datagram.clone()), (Way::Original, esp), (Way::Reply, datagram)]
        {
            assert_eq!(answered(way, &packet), Ok((Answer::Prohibited(ip(client)), None)));
        }
    }
}

#[test]
fn what_nobody_may_answer_is_not_answered() {
    let silent = |way, packet: &Built| assert_eq!(answered(way, packet), Err(Silence), "{packet:?}");
    for (client, server) in FAMILIES {
        let (from, to) = (at(client, 40000), at(server, 80));
        let syn = Built::syn(from, to);
        // Resets; errors, by what they are and by how they came; answers.
        silent(Way::Original, &Built::tcp(from, to, RST, (1, 0), b""));
        silent(Way::Reply, &Built::tcp(from, to, RST | ACK, (1, 1), b""));
        let error = Built::port_unreachable(ip(client), &syn);
        for way in [Way::Original, Way::Untracked, Way::RelatedOriginal, Way::RelatedReply] {
            silent(way, &error);
        }
        silent(Way::RelatedReply, &syn);
        silent(
            Way::Reply,
            &Built::icmp(ip(client), ip(server), if client.contains(':') { 129 } else { 0 }, 0, &[0; 4]),
        );
        // Later fragments.
        let fragments = Built::udp(from, to, &[0; 3000]).fragments(1200);
        let heard: Vec<_> = fragments.iter().map(|f| answers(Way::Original, f, f.len() as u32, None).is_ok()).collect();
        assert_eq!(heard, [true, false, false]);
        // Cut, or of no family.
        let bytes = syn.bytes();
        for length in 0..bytes.len() {
            assert_eq!(answers(Way::Original, &bytes[..length], bytes.len() as u32, None), Err(Silence), "{length}");
        }
    }
    silent(Way::Original, &Built::icmp(ip("fd00::5"), ip("fd00::9"), 135, 0, &[0; 20]));
    // To or from many, or nobody, or somebody on this link only.
    let ends = ["224.0.0.1", "255.255.255.255", "0.0.0.0", "127.0.0.1", "169.254.0.1", "240.0.0.1"];
    let ends6 = ["ff02::1", "::", "::1", "fe80::1"];
    let all = ends.map(|end| (end, "10.1.0.9")).into_iter().chain(ends6.map(|end| (end, "fd00::9")));
    for (end, good) in all {
        silent(Way::Original, &Built::syn(at(end, 1), at(good, 80)));
        silent(Way::Original, &Built::udp(at(good, 1), at(end, 80), b"x"));
    }
}

#[test]
fn random_bytes_do_no_harm() {
    let service = Some(at("fd00::7", 1));
    let (syn, mut state) = (Built::syn(at("fd00::5", 1), at("fd00::9", 80)).bytes(), 1u64);
    let mut bytes = syn.clone();
    for turn in 0..200_000 {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        let place = (state >> 33) as usize % bytes.len();
        bytes[place] = (state >> 56) as u8;
        for answer in
            answers(Way::Original, &bytes, (state >> 40) as u32, service).into_iter().flat_map(|(a, b)| [Some(a), b])
        {
            let bytes = as_sent(Way::Original, &bytes, service);
            match answer {
                Some(Answer::Reset(answer)) => assert!(build::reset(&answer).is_some()),
                Some(Answer::Prohibited(to)) => assert!(build::prohibited(to, to, &bytes).is_some()),
                None => {}
            }
        }
        if turn % 16 == 0 {
            bytes.clone_from(&syn);
        }
    }
}

#[test]
fn a_reset_has_right_lengths_numbers_and_checksums() {
    for (client, server) in FAMILIES {
        for acknowledgement in [None, Some(77)] {
            let (from, to) = (at(server, 80), at(client, 40000));
            let bytes = build::reset(&Reset { from, to, sequence: 7, acknowledgement }).unwrap();
            let (segment, sum) = match (from.ip(), to.ip()) {
                (IpAddr::V4(source), IpAddr::V4(destination)) => {
                    let packet = Ipv4Packet::new(&bytes).unwrap();
                    assert_eq!((packet.get_source(), packet.get_destination()), (source, destination));
                    assert_eq!((packet.get_total_length(), packet.get_ttl()), (40, 64));
                    assert_eq!(packet.get_checksum(), ipv4::checksum(&packet));
                    let segment = TcpPacket::new(&bytes[20..]).unwrap();
                    (TcpPacket::new(&bytes[20..]).unwrap(), tcp::ipv4_checksum(&segment, &source, &destination))
                }
                (IpAddr::V6(source), IpAddr::V6(destination)) => {
                    let packet = Ipv6Packet::new(&bytes).unwrap();
                    assert_eq!((packet.get_source(), packet.get_destination()), (source, destination));
                    assert_eq!((packet.get_payload_length(), packet.get_hop_limit()), (20, 64));
                    let segment = TcpPacket::new(&bytes[40..]).unwrap();
                    (TcpPacket::new(&bytes[40..]).unwrap(), tcp::ipv6_checksum(&segment, &source, &destination))
                }
                _ => unreachable!("one family"),
            };
            assert_eq!(segment.get_checksum(), sum);
            assert_eq!((segment.get_source(), segment.get_destination(), segment.get_data_offset()), (80, 40000, 5));
            let flags = RST | if acknowledgement.is_some() { ACK } else { 0 };
            assert_eq!(segment.get_flags(), flags);
            assert_eq!((segment.get_sequence(), segment.get_acknowledgement()), (7, acknowledgement.unwrap_or(0)));
        }
    }
}

#[test]
fn an_error_repeats_as_much_of_the_packet_as_is_allowed() {
    for (client, server) in FAMILIES {
        let denied = Built::udp(at(client, 4000), at(server, 53), &[5; 2000]).bytes();
        let bytes = build::prohibited(ip("10.0.0.1"), ip("10.1.0.5"), &denied);
        let (whole, header) = if client.contains(':') { (1280, 40) } else { (576, 20) };
        let bytes = match client.contains(':') {
            true => build::prohibited(ip("fd00::1"), ip(client), &denied).unwrap(),
            false => bytes.unwrap(),
        };
        assert_eq!(bytes.len(), whole);
        assert_eq!(bytes[header + 8..], denied[..whole - header - 8]);
        let message = &bytes[header..];
        match (ip(client), client.contains(':')) {
            (IpAddr::V6(client), true) => {
                let message = Icmpv6Packet::new(message).unwrap();
                assert_eq!((message.get_icmpv6_type().0, message.get_icmpv6_code().0), (1, 1));
                let sum = icmpv6::checksum(&message, &"fd00::1".parse().unwrap(), &client);
                assert_eq!(message.get_checksum(), sum);
            }
            _ => {
                let message = IcmpPacket::new(message).unwrap();
                assert_eq!((message.get_icmp_type().0, message.get_icmp_code().0), (3, 13));
                assert_eq!(message.get_checksum(), icmp::checksum(&message));
            }
        }
        assert_eq!(bytes[header + 4..header + 8], [0; 4]);
    }
    assert_eq!(build::prohibited(ip("10.0.0.1"), ip("fd00::5"), b""), None);
}

#[test]
fn a_client_is_answered_by_whom_it_asked_where_the_kernel_tells() {
    for ((client, server), service) in FAMILIES.into_iter().zip(["10.96.0.10", "fd00:96::a"]) {
        let (client, server, service) = (at(client, 40000), at(server, 8080), at(service, 80));
        let told = |way, packet: &Built| {
            let bytes = packet.bytes();
            answers(way, &bytes, bytes.len() as u32, Some(service))
        };
        let syn = Built::tcp(client, server, SYN, (7, 0), b"");
        assert_eq!(told(Way::Original, &syn), Ok((reset(service, client, 0, Some(8)), None)));
        // Of a connection that is there already, conntrack translates what is sent.
        let data = Built::tcp(client, server, ACK, (7, 9), b"");
        let both = (reset(server, client, 9, None), Some(reset(client, server, 7, Some(9))));
        assert_eq!(told(Way::Original, &data), Ok(both));
        // An error repeats what was sent: header, address and port, with a header checksum that is right.
        let datagram = Built::udp(client, server, b"x").bytes();
        let sent = Built::udp(client, service, b"x").bytes();
        let transport = sent.len() - 9;
        let repeated = as_sent(Way::Original, &datagram, Some(service));
        assert_eq!(repeated[..transport + 6], sent[..transport + 6]);
        // Nothing changes in what the server sends, nor where nothing was translated or nothing is told.
        for (way, to) in [(Way::Reply, Some(service)), (Way::Original, Some(server)), (Way::Original, None)] {
            assert_eq!(as_sent(way, &datagram, to)[..], datagram[..]);
        }
    }
}

/// One batch of denied packets, and then the stop.
struct Denied {
    packets: Vec<(Way, Built)>,
    stop: Arc<AtomicBool>,
    waker: Waker,
    fates: Arc<Mutex<Vec<Fate>>>,
}

impl Queue for Denied {
    fn receive(&mut self, _: Option<Duration>) -> io::Result<Received> {
        if self.packets.is_empty() {
            self.stop.store(true, Ordering::SeqCst);
            return Ok(Received::Woken);
        }
        Ok(Received::Packets(self.packets.len()))
    }

    fn answer(&mut self, judge: &mut dyn FnMut(&Packet<'_>) -> Fate) -> io::Result<()> {
        for (id, (way, packet)) in self.packets.drain(..).enumerate() {
            let way = 1 + Way::ALL.iter().position(|w| *w == way).unwrap() as u32;
            let (bytes, mark) = (packet.bytes(), way << 10);
            let (length, payload) = (bytes.len() as u32, &bytes[..]);
            let fate = judge(&Packet {
                id: id as u32,
                mark,
                hook: 4,
                family: 2,
                input: 1,
                output: 2,
                payload,
                length,
                sent_to: None,
            });
            self.fates.lock().unwrap().push(fate);
        }
        Ok(())
    }

    fn answer_held(&mut self, _: u32, _: Fate) -> io::Result<()> {
        Ok(())
    }

    fn waker(&self) -> Waker {
        self.waker.clone()
    }

    fn malformed(&self) -> u64 {
        0
    }
}

/// Where answers go; there is no way to 10.1.0.66.
#[derive(Default, Clone)]
struct Sent(Arc<Mutex<Vec<IpAddr>>>);

impl Out for Sent {
    fn send(&self, to: IpAddr, _: &[u8]) -> io::Result<()> {
        if to == ip("10.1.0.66") {
            return Err(io::ErrorKind::HostUnreachable.into());
        }
        self.0.lock().unwrap().push(to);
        Ok(())
    }

    fn source_towards(&self, _: IpAddr) -> io::Result<IpAddr> {
        Ok(ip("10.0.0.1"))
    }
}

/// What is sent because of these packets; each of them is dropped.
fn reject(rates: Rates, packets: Vec<(Way, Built)>) -> (Vec<IpAddr>, Arc<Shared>) {
    let hold = HoldSettings { time: Duration::ZERO, packets: 0, per_source: 0, past: OnUnknown::Deny, queue: 0 };
    let shared = Arc::new(Shared {
        marks: Marks::default(),
        hold,
        hold_gate: Gate::new(),
        rejects: Some(Rejects { queue: 7, gate: Gate::new() }),
        counters: Arc::new(Counters::new(3)),
        records: Arc::new(Records::new(1)),
        offers: Offers::new(0, false),
        loose: AtomicBool::new(false),
        handed_over: AtomicBool::new(false),
        crowd: Crowd::default(),
        pulse: Pulse::new(),
    });
    let (stop, sent, fates) = (Arc::<AtomicBool>::default(), Sent::default(), Arc::<Mutex<Vec<Fate>>>::default());
    let count = packets.len();
    let queue = Denied { packets, stop: stop.clone(), waker: Waker::new().unwrap(), fates: fates.clone() };
    Rejecter::new(2, (Box::new(queue), Box::new(sent.clone())), rates, shared.clone(), stop).run().unwrap();
    assert_eq!(*fates.lock().unwrap(), vec![Fate::Drop; count]);
    let sent = sent.0.lock().unwrap().clone();
    (sent, shared)
}

fn counts(shared: &Shared) -> [u64; 6] {
    [
        Counter::RejectReset,
        Counter::RejectIcmp,
        Counter::RejectRate,
        Counter::RejectSource,
        Counter::RejectNever,
        Counter::RejectFailed,
    ]
    .map(|counter| shared.counters.get(counter))
}

#[test]
fn denied_packets_are_dropped_and_answered_and_each_outcome_is_counted() {
    let (client, server) = (at("10.1.0.5", 40000), at("10.1.0.9", 80));
    let (sent, shared) = reject(
        Rates { all: 1000, one: 50 },
        vec![
            (Way::Original, Built::syn(client, server)),
            (Way::Original, Built::tcp(client, server, ACK, (1, 1), b"")),
            (Way::Original, Built::udp(client, server, b"x")),
            (Way::Original, Built::tcp(client, server, RST, (1, 1), b"")),
            (Way::Original, Built::syn(at("10.1.0.66", 1), server)),
        ],
    );
    assert_eq!(sent, [client.ip(), client.ip(), server.ip(), client.ip()]);
    assert_eq!(counts(&shared), [3, 1, 0, 0, 1, 1]);
}

#[test]
fn past_a_rate_nothing_is_sent_and_workers_are_told() {
    let syn =
        |n: u32| (Way::Original, Built::syn(at(&format!("10.1.{}.{}", n / 200, n % 200 + 1), 1), at("10.2.0.9", 80)));
    let (sent, shared) = reject(Rates { all: 1000, one: 5 }, (0..20).map(|_| syn(3)).collect());
    assert_eq!((sent.len(), counts(&shared)), (5, [5, 0, 0, 15, 0, 0]));
    let gate = &shared.rejects.as_ref().unwrap().gate;
    assert!(gate.is_closed_to(End::Source, ip("10.1.0.4").into(), Instant::now()) && !gate.is_closed(Instant::now()));
    let (sent, shared) = reject(Rates { all: 30, one: 5 }, (0..100).map(syn).collect());
    assert_eq!((sent.len(), counts(&shared)), (30, [30, 0, 70, 0, 0, 0]));
    assert!(shared.rejects.as_ref().unwrap().gate.is_closed(Instant::now()));
}

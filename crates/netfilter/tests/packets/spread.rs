//! Spreading over the queues: by flow, and each flow to one of them.

use std::collections::{BTreeSet, HashMap};

use super::*;

const SECOND: u16 = QUEUE + 1;
const FLOWS: u16 = 64;

/// Both queues' readers, who drop everything: so each packet comes up.
fn readers(node: &Node) -> [Reader; 2] {
    [QUEUE, SECOND].map(|queue| Reader::start(&node.at, queue, Say::Drop))
}

/// Which of the readers had packets of each flow, known by its ports.
fn places(readers: &[Reader; 2], packets: usize) -> HashMap<Vec<u8>, BTreeSet<usize>> {
    let mut places: HashMap<Vec<u8>, BTreeSet<usize>> = HashMap::new();
    let (mut count, begun) = (0, std::time::Instant::now());
    while count < packets {
        assert!(begun.elapsed() < SOON, "{count} of {packets}");
        for (index, reader) in readers.iter().enumerate() {
            for seen in reader.so_far() {
                places.entry(seen.rest[..4].to_vec()).or_default().insert(index);
                count += 1;
            }
        }
        std::thread::yield_now();
    }
    places
}

#[test]
fn the_flows_of_one_pair_of_pods_are_spread_and_each_stays_with_one_queue() {
    let node = Node::new();
    let (two, _three) = (node.pod(2), node.pod(3));
    let readers = readers(&node);
    let _program = program(&node, ProgramSettings { queues: QUEUE..=SECOND, ..settings() }, &[]);
    for (from, to) in [(v4(2), v4(3)), (v6(2), v6(3))] {
        let sockets: Vec<_> = (0..FLOWS).map(|n| two.udp(SocketAddr::new(from, 4000 + n))).collect();
        for _ in 0..3 {
            for socket in &sockets {
                socket.send_to(b"x", SocketAddr::new(to, 53)).unwrap();
            }
        }
        let places = places(&readers, 3 * usize::from(FLOWS));
        assert_eq!(places.len(), usize::from(FLOWS));
        assert!(places.values().all(|queues| queues.len() == 1), "{places:?}");
        let first = places.values().filter(|queues| queues.contains(&0)).count();
        // By chance all would go one way once in 2^63 times.
        assert!((1..usize::from(FLOWS)).contains(&first), "{from}: {first} of {FLOWS}");
    }
}

#[test]
fn another_number_of_queues_is_another_map() {
    let node = Node::new();
    let (two, _three) = (node.pod(2), node.pod(3));
    let readers = readers(&node);
    let socket = two.udp("0.0.0.0:0".parse().unwrap());
    for last in [SECOND, QUEUE, SECOND, QUEUE] {
        let mut program = program(&node, ProgramSettings { queues: QUEUE..=last, ..settings() }, &[]);
        assert!(program.intact().unwrap());
        for port in 1000..1000 + FLOWS {
            socket.send_to(b"x", SocketAddr::new(v4(3), port)).unwrap();
        }
        let used: BTreeSet<usize> = places(&readers, FLOWS.into()).into_values().flatten().collect();
        assert_eq!(used.len(), usize::from(last - QUEUE) + 1);
    }
}

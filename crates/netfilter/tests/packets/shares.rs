//! Shares of the queue: what is over one is dropped and counted as its pod's, and nobody else's.

use std::time::{Duration, Instant};

use podgate_netfilter::{Claim, Excess, Expect, Share};

use super::*;

const BURST: u32 = 3;
const SHARE: Share = Share { rate: 1, burst: BURST };

/// Sends so many datagrams, each of which needs a verdict, as those before were dropped.
fn flood(from: &UdpSocket, to: IpAddr, packets: usize) {
    for _ in 0..packets {
        from.send_to(b"flood", SocketAddr::new(to, 53)).unwrap();
    }
}

/// How many of them came up, once one came that was sent after them.
fn came_up(reader: &Reader, last: IpAddr) -> usize {
    let mut count = 0;
    while reader.next().source != last {
        count += 1;
    }
    count
}

/// The burst, and what the rate lets through meanwhile.
fn is_share(count: usize, took: Duration) -> bool {
    (BURST as usize..=BURST as usize + took.as_secs() as usize + 1).contains(&count)
}

fn excess(program: &mut Program) -> Vec<(IpAddr, u64)> {
    let mut all: Vec<_> = program.excess().unwrap().into_iter().map(|Excess { pod, packets }| (pod, packets)).collect();
    // Others are those that had no more than their share.
    all.retain(|(_, packets)| *packets > 0);
    all.sort();
    all
}

#[test]
fn what_is_over_a_share_is_dropped_and_counted_and_other_pods_have_theirs() {
    let node = Node::new();
    let [two, three, outside] = [node.pod(2), node.pod(3), node.stranger(9)];
    let reader = Reader::start(&node.at, QUEUE, Say::Drop);
    let mut program = program(&node, settings(), &[]);
    assert!(program.set_share(Some(SHARE)).unwrap().is_empty());
    assert!(program.intact().unwrap());
    type Address = fn(u8) -> IpAddr;
    for address in [v4 as Address, |n| v6(n.into())] {
        let from = [(&two, 2), (&three, 3)].map(|(pod, n)| pod.udp(SocketAddr::new(address(n), 0)));
        // From a pod: its own share, whoever it is for; the other pod's is untouched.
        let begun = Instant::now();
        flood(&from[0], address(3), 20);
        flood(&from[1], address(2), 1);
        let count = came_up(&reader, address(3));
        assert!(is_share(count, begun.elapsed()), "{count}");
        assert_eq!(excess(&mut program).last(), Some(&(address(2), 20 - count as u64)));
    }
    // From outside: the share of the pod that it is for.
    let stranger = outside.udp("0.0.0.0:0".parse().unwrap());
    let begun = Instant::now();
    node.at.sh("ip route add 10.1.0.4 dev veth2");
    flood(&stranger, v4(4), 20);
    flood(&three.udp("0.0.0.0:0".parse().unwrap()), v4(4), 1);
    let count = came_up(&reader, v4(3));
    assert!(is_share(count, begun.elapsed()), "{count}");
    let all = excess(&mut program);
    assert!(all.contains(&(v4(4), 20 - count as u64)), "{all:?}");
    // The next share begins anew, and tells what was over the one before.
    let told = program.set_share(Some(Share { rate: 1000, burst: 100 })).unwrap();
    assert_eq!(told.len(), all.len());
    assert!(all.iter().all(|(pod, packets)| told.contains(&Excess { pod: *pod, packets: *packets })), "{told:?}");
    assert!(excess(&mut program).is_empty());
    flood(&two.udp("0.0.0.0:0".parse().unwrap()), v4(3), 50);
    flood(&stranger, v4(2), 1);
    assert_eq!(came_up(&reader, "192.0.2.9".parse().unwrap()), 50);
    assert!(program.set_share(None).unwrap().is_empty());
    assert!(program.intact().unwrap());
}

#[test]
fn addresses_without_room_for_a_share_of_their_own_have_one_together() {
    let node = Node::new();
    let (_two, outside) = (node.pod(2), node.stranger(9));
    node.at.sh("ip -6 route add fd01::/64 dev veth2");
    let reader = Reader::start(&node.at, QUEUE, Say::Drop);
    let mut program = program(&node, settings(), &[]);
    program.set_share(Some(SHARE)).unwrap();
    let stranger = outside.udp("[::]:0".parse().unwrap());
    let begun = Instant::now();
    const ROOM: u16 = 4096;
    for n in 0..ROOM {
        flood(&stranger, v6(0x1000 + n), 1);
        // No more than the queue has room for.
        assert_eq!(reader.next().destination, v6(0x1000 + n));
    }
    for n in 0..50 {
        flood(&stranger, v6(0x3000 + n), 1);
    }
    // One that has a share; it comes after all others.
    flood(&stranger, v6(0x1000), 1);
    let mut count = 0;
    while reader.next().destination != v6(0x1000) {
        count += 1;
    }
    assert!(is_share(count, begun.elapsed()), "{count}");
}

#[test]
fn shares_leave_nothing_behind_and_the_next_agent_begins_without() {
    let node = Node::new();
    let (two, _three) = (node.pod(2), node.pod(3));
    let reader = Reader::start(&node.at, QUEUE, Say::Drop);
    let mut first = program(&node, settings(), &[]);
    let rules = || node.at.sh("nft list chain inet podgate to_queue");
    let plain = rules();
    first.set_share(Some(SHARE)).unwrap();
    let shared = rules();
    let limit = "limit rate over 1/second burst 3 packets counter";
    for part in [
        format!("ip saddr @ranges4 update @share4 {{ ip saddr {limit} }} drop"),
        format!("ip saddr @ranges4 ip saddr != @share4 {limit} packets 0 bytes 0 drop"),
        format!("ip6 saddr != @ranges6 ip6 daddr @ranges6 update @share6 {{ ip6 daddr {limit} }} drop"),
    ] {
        assert!(shared.contains(&part), "{part} is not in\n{shared}");
    }
    flood(&two.udp("0.0.0.0:0".parse().unwrap()), v4(3), 1);
    reader.next();
    first.set_share(None).unwrap();
    assert_eq!(rules(), plain);
    let elements = || node.at.sh("nft list set inet podgate share4; nft list set inet podgate share6");
    assert!(!elements().contains("elements"), "{}", elements());
    // Another agent, while a share is in force.
    first.set_share(Some(SHARE)).unwrap();
    flood(&two.udp("0.0.0.0:0".parse().unwrap()), v4(3), 1);
    reader.next();
    assert!(elements().contains("elements"), "{}", elements());
    let claim = Claim { agent: "next", expect: Expect::Anything, above: 0, returns: 0 };
    let mut next = node.at.run(|| Program::claim(settings(), &claim, None).unwrap());
    assert_eq!((rules(), next.share()), (plain, None));
    assert!(!elements().contains("elements") && next.intact().unwrap(), "{}", elements());
    assert!(matches!(first.set_share(None), Err(podgate_netfilter::Error::NotOwner)));
    assert!(next.set_share(None).unwrap().is_empty());
}

#[test]
fn where_packets_may_pass_unjudged_those_over_a_share_do() {
    let node = Node::new();
    let (two, three) = (node.pod(2), node.pod(3));
    let reader = Reader::start(&node.at, QUEUE, Say::Drop);
    let mut program = program(&node, ProgramSettings { fail_open: true, ..settings() }, &[]);
    program.set_share(Some(SHARE)).unwrap();
    let begun = Instant::now();
    let talk = Talk::new((&two, v4(2)), (&three, v4(3)));
    // The share is used up by the first of these; what arrives was over it.
    let (mut sent, mut arrived) = (0, 0);
    while arrived < 5 && sent < 40 {
        sent += 1;
        let to = SocketAddr::new(v4(3), 53);
        arrived += usize::from(arrives(&talk.client, &talk.server, to, &format!("{sent}"), NEVER));
    }
    assert_eq!(arrived, 5, "of {sent}");
    let came = reader.so_far().len();
    assert!(is_share(came, begun.elapsed()), "{came}");
    assert_eq!(excess(&mut program), [(v4(2), (sent - came) as u64)]);
}

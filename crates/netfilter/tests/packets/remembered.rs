//! What comes up once, what every time, and what a verdict leaves behind on its connection.

use super::*;

#[test]
fn a_connection_comes_up_once_when_accepted_and_every_time_when_dropped() {
    let node = Node::new();
    let (a, b) = (node.pod(2), node.pod(3));
    let _program = program(&node, settings(), &[]);
    for (from, to) in [(v4(2), v4(3)), (v6(2), v6(3))] {
        let reader = Reader::start(&node.at, QUEUE, Say::Drop);
        let talk = Talk::new((&a, from), (&b, to));
        assert!(talk.ask_in_vain("dropped") && talk.ask_in_vain("dropped again"));
        assert_eq!(ways(&reader.so_far()), [Way::Original; 2]);
        reader.say(Say::Remember);
        assert!(talk.ask("accepted"));
        let seen = reader.next();
        assert_eq!((seen.way, seen.source, seen.destination, seen.protocol), (Some(Way::Original), from, to, 17));
        assert_eq!(
            (seen.hook, seen.rest[..4].to_vec()),
            (POST_ROUTING, [4000_u16.to_be_bytes(), 53_u16.to_be_bytes()].concat())
        );
        assert!(talk.reply("reply") && talk.ask("more"));
        assert_eq!(reader.so_far(), []);
    }
}

#[test]
fn what_is_only_passed_comes_up_again_in_both_directions() {
    let node = Node::new();
    let (a, b) = (node.pod(2), node.pod(3));
    let _program = program(&node, settings(), &[]);
    let reader = Reader::start(&node.at, QUEUE, Say::Pass);
    for (from, to) in [(v4(2), v4(3)), (v6(2), v6(3))] {
        let talk = Talk::new((&a, from), (&b, to));
        assert!(talk.ask("1") && talk.reply("2") && talk.ask("3"));
        let seen = reader.so_far();
        assert_eq!(ways(&seen), [Way::Original, Way::Reply, Way::Original]);
        assert_eq!((seen[1].source, seen[1].destination), (to, from));
    }
}

#[test]
fn an_accepted_reply_does_not_have_its_connection_remembered() {
    let node = Node::new();
    let (a, b) = (node.pod(2), node.pod(3));
    let _program = program(&node, settings(), &[]);
    let reader = Reader::start(&node.at, QUEUE, Say::Pass);
    let talk = Talk::new((&a, v4(2)), (&b, v4(3)));
    assert!(talk.ask("1"));
    reader.say(Say::Remember);
    assert!(talk.reply("2") && talk.reply("3"));
    reader.say(Say::Drop);
    assert!(talk.ask_in_vain("4"));
    assert_eq!(ways(&reader.so_far()), [Way::Original, Way::Reply, Way::Reply, Way::Original]);
}

#[test]
fn known_open_addresses_do_not_come_up_in_that_direction() {
    let node = Node::new();
    let (a, b, stranger) = (node.pod(2), node.pod(3), node.stranger(9));
    let outside: IpAddr = [192, 0, 2, 9].into();
    let mut program = program(&node, settings(), &[(v4(2), BOTH), (v4(3), BOTH)]);
    let reader = Reader::start(&node.at, QUEUE, Say::Drop);
    let talk = Talk::new((&a, v4(2)), (&b, v4(3)));
    let outer = Talk::new((&stranger, outside), (&node.pod(4), v4(4)));
    assert!(talk.ask("1") && talk.reply("2"));
    assert_eq!(reader.so_far(), []);
    assert!(outer.ask_in_vain("3"), "an unknown address is judged");
    assert_eq!(reader.next().destination, v4(4));

    // 2 may send only, 3 may receive only: that is what 2 → 3 needs, and its replies.
    let open = [(v4(2), Open { egress: true, ingress: false }), (v4(3), Open { ingress: true, egress: false })];
    program.apply(&Update { open: &open, ..Update::default() }).unwrap();
    assert!(talk.ask("4") && talk.reply("5"));
    assert_eq!(reader.so_far(), []);
    let back = Talk { client: b.udp(SocketAddr::new(v4(3), 9)), server: a.udp(SocketAddr::new(v4(2), 9)) };
    assert!(back.ask_in_vain("6"));
    assert_eq!(ways(&reader.so_far()), [Way::Original]);

    // Closed again, the connection that stands comes up from either side.
    program.apply(&Update { open: &[(v4(3), Open::default())], ..Update::default() }).unwrap();
    assert!(talk.ask_in_vain("7") && talk.reply_in_vain("8"));
    assert_eq!(ways(&reader.so_far()), [Way::Original, Way::Reply]);
}

#[test]
fn a_connection_older_than_the_labels_is_remembered_by_mark() {
    for server_first in [false, true] {
        let node = Node::new();
        let (a, b) = (node.pod(2), node.pod(3));
        // Conntrack without labels.
        node.at.sh("nft 'table inet other { chain c { type filter hook prerouting priority 0; ct state new ct mark set 0x80; }; }'");
        let talk = Talk::new((&a, v4(2)), (&b, v4(3)));
        assert!(talk.ask("1") && talk.reply("2"));
        let _program = program(&node, settings(), &[]);
        let reader = Reader::start(&node.at, QUEUE, Say::Remember);
        if server_first {
            assert!(talk.reply("3"));
            assert_eq!(ways(&reader.so_far()), [Way::Reply]);
        }
        assert!(talk.ask("4") && talk.reply("5") && talk.ask("6"));
        assert_eq!(ways(&reader.so_far()), [Way::Original]);
        let found = kit::conntrack::connection(&node.at, 4000);
        assert_eq!((found.mark, found.labels), (0x1080, None));
    }
}

#[test]
fn untracked_packets_come_up_each_and_are_never_remembered() {
    let node = Node::new();
    let (a, b) = (node.pod(2), node.pod(3));
    node.at.sh("nft 'table inet other { chain c { type filter hook prerouting priority -300; udp dport { 53, 4000 } notrack; }; }'");
    let _program = program(&node, settings(), &[]);
    let reader = Reader::start(&node.at, QUEUE, Say::Remember);
    let talk = Talk::new((&a, v4(2)), (&b, v4(3)));
    assert!(talk.ask("1") && talk.reply("2") && talk.ask("3"));
    assert_eq!(ways(&reader.so_far()), [Way::Untracked; 3]);
}

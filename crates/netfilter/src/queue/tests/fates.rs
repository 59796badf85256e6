//! What a fate does to a packet.

use super::rig::{NUMBER, PORT, answer, byte, with_each_receiver};
use crate::queue::{Fate, QueueSettings, queue_stats};

#[test]
fn accepted_packets_arrive_and_dropped_ones_do_not() {
    with_each_receiver(false, |rig, open| {
        let mut queue = open(&QueueSettings::new(NUMBER));
        rig.send(0..200);
        answer(&mut *queue, 200, &mut |packet| match byte(packet) % 3 {
            0 => Fate::Drop,
            _ => Fate::Accept { mark: packet.mark },
        });
        let arrived: Vec<_> = (0..200).filter(|b| b % 3 != 0).map(|_| rig.arrived()).collect();
        assert_eq!(arrived, (0..200).filter(|b| b % 3 != 0).collect::<Vec<_>>());
        assert!(rig.nothing_arrived());
        assert_eq!(queue.malformed(), 0);
    });
}

#[test]
fn a_packet_shows_its_mark_hook_length_and_headers() {
    with_each_receiver(false, |rig, open| {
        let mut queue = open(&QueueSettings::new(NUMBER));
        rig.mark(0x4000);
        rig.sender.send(&[9; 900]).unwrap();
        answer(&mut *queue, 1, &mut |packet| {
            assert_eq!((packet.mark, packet.length, packet.payload.len()), (0x4000, 928, 128));
            // NF_INET_LOCAL_OUT, NFPROTO_IPV4, loopback's index.
            assert_eq!((packet.hook, packet.family, packet.input, packet.output), (3, 2, 0, 1));
            assert_eq!((packet.payload[0], packet.payload[9]), (0x45, 17));
            assert_eq!(packet.payload[22..24], PORT.to_be_bytes());
            Fate::Drop
        });
    });
}

#[test]
fn an_accepts_mark_replaces_the_whole_mark() {
    with_each_receiver(false, |rig, open| {
        let mut queue = open(&QueueSettings::new(NUMBER));
        [0x4000, 0x5c00, 0x8001].into_iter().for_each(|mark| rig.count_mark(mark));
        rig.mark(0x4000);
        rig.send(0..90);
        answer(&mut *queue, 90, &mut |packet| match byte(packet) / 30 {
            0 => Fate::Accept { mark: packet.mark },
            1 => Fate::Accept { mark: packet.mark | 0x1c00 },
            _ => Fate::Accept { mark: 0x8001 },
        });
        assert_eq!(rig.marked(), [30, 30, 30]);
    });
}

#[test]
fn one_mark_for_packets_that_come_with_different_ones() {
    with_each_receiver(false, |rig, open| {
        let mut queue = open(&QueueSettings::new(NUMBER));
        rig.count_mark(0x1c00);
        for mark in [0x1c00, 0x0400, 0x1c00] {
            rig.mark(mark);
            rig.send([1]);
        }
        answer(&mut *queue, 3, &mut |_| Fate::Accept { mark: 0x1c00 });
        assert_eq!(rig.marked(), [3]);
    });
}

#[test]
fn a_held_packet_waits_while_later_ones_pass() {
    with_each_receiver(false, |rig, open| {
        let mut queue = open(&QueueSettings::new(NUMBER));
        rig.send(0..60);
        let mut held = Vec::new();
        answer(&mut *queue, 60, &mut |packet| match byte(packet) {
            20 | 40 => {
                held.push(packet.id);
                Fate::Hold
            }
            _ => Fate::Accept { mark: packet.mark },
        });
        let passed: Vec<_> = (0..58).map(|_| rig.arrived()).collect();
        assert_eq!(passed, (0..60).filter(|b| !matches!(b, 20 | 40)).collect::<Vec<_>>());
        assert!(rig.nothing_arrived());
        assert_eq!(queue_stats().unwrap()[0].depth, 2);

        // A packet that comes later, with others of its batch, does not sweep them along either.
        rig.send(60..70);
        answer(&mut *queue, 10, &mut |packet| Fate::Accept { mark: packet.mark });
        assert_eq!((60..70).map(|_| rig.arrived()).collect::<Vec<_>>(), (60..70).collect::<Vec<_>>());
        assert!(rig.nothing_arrived());

        queue.answer_held(held[1], Fate::Accept { mark: 0 }).unwrap();
        assert_eq!(rig.arrived(), 40);
        queue.answer_held(held[0], Fate::Hold).unwrap();
        assert_eq!(queue_stats().unwrap()[0].depth, 1);
        queue.answer_held(held[0], Fate::Drop).unwrap();
        assert_eq!(queue_stats().unwrap()[0].depth, 0);
        assert!(rig.nothing_arrived());
    });
}

#[test]
fn a_verdict_for_a_packet_that_is_gone_is_counted_and_nothing_else() {
    with_each_receiver(false, |rig, open| {
        let mut queue = open(&QueueSettings::new(NUMBER));
        rig.send([1]);
        let mut id = 0;
        answer(&mut *queue, 1, &mut |packet| {
            id = packet.id;
            Fate::Hold
        });
        queue.answer_held(id, Fate::Drop).unwrap();
        rig.send([2]);
        answer(&mut *queue, 1, &mut |packet| {
            assert_ne!(packet.id, id);
            Fate::Hold
        });
        // The first one again: the kernel refuses.
        let before = queue.malformed();
        if let Err(error) = queue.answer_held(id, Fate::Drop) {
            panic!("{error}");
        }
        rig.send([3]);
        answer(&mut *queue, 1, &mut |_| Fate::Drop);
        assert!(queue.malformed() >= before);
    });
}

#[test]
fn a_packet_passed_on_to_another_queue_waits_there_with_its_mark_and_in_order() {
    with_each_receiver(false, |rig, open| {
        let mut queue = open(&QueueSettings::new(NUMBER));
        let mut second = open(&QueueSettings::new(NUMBER + 7));
        rig.mark(0x4000);
        [0x4000, 0x5c00].into_iter().for_each(|mark| rig.count_mark(mark));
        rig.send(0..90);
        answer(&mut *queue, 90, &mut |packet| match byte(packet) % 3 {
            0 => Fate::Accept { mark: packet.mark },
            _ => Fate::Queue { number: NUMBER + 7 },
        });
        // Nothing waits in the first one, whatever the second one holds.
        let depth = |number| queue_stats().unwrap().iter().find(|queue| queue.number == number).unwrap().depth;
        assert_eq!([NUMBER, NUMBER + 7].map(depth), [0, 60]);
        let passed: Vec<_> = (0..30).map(|_| rig.arrived()).collect();
        assert_eq!(passed, (0..90).filter(|b| b % 3 == 0).collect::<Vec<_>>());
        assert!(rig.nothing_arrived());
        let mut seen = Vec::new();
        answer(&mut *second, 60, &mut |packet| {
            assert_eq!((packet.mark, packet.hook, packet.output), (0x4000, 3, 1));
            seen.push(byte(packet));
            match byte(packet) % 3 {
                1 => Fate::Accept { mark: 0x5c00 },
                _ => Fate::Drop,
            }
        });
        assert_eq!(seen, (0..90).filter(|b| b % 3 != 0).collect::<Vec<_>>());
        let accepted: Vec<_> = (0..30).map(|_| rig.arrived()).collect();
        assert_eq!(accepted, (0..90).filter(|b| b % 3 == 1).collect::<Vec<_>>());
        assert!(rig.nothing_arrived());
        assert_eq!(rig.marked(), [30, 30]);
        assert_eq!([NUMBER, NUMBER + 7].map(depth), [0, 0]);
        // Nobody has this one: lost, and counted nowhere else.
        rig.send([1]);
        answer(&mut *queue, 1, &mut |_| Fate::Queue { number: NUMBER + 8 });
        assert!(rig.nothing_arrived());
    });
}

#[test]
fn a_repeated_packet_goes_through_the_rules_again() {
    with_each_receiver(false, |rig, open| {
        let mut queue = open(&QueueSettings::new(NUMBER));
        let mut second = open(&QueueSettings::new(NUMBER + 7));
        rig.send([1, 2]);
        // From a queue that it was passed on to, back to the one of the rule.
        answer(&mut *queue, 2, &mut |_| Fate::Queue { number: NUMBER + 7 });
        answer(&mut *second, 2, &mut |_| Fate::Repeat);
        answer(&mut *queue, 2, &mut |packet| Fate::Accept { mark: packet.mark });
        assert_eq!([rig.arrived(), rig.arrived()], [1, 2]);
    });
}

//! Who has a queue, how long it is, and how a wait ends.

use std::thread;
use std::time::{Duration, Instant};

use super::rig::{NUMBER, RECEIVERS, Rig, answer, in_namespace, until_free, with_each_receiver};
use crate::queue::{Fate, MmsgQueue, NfqQueue, QueueError, QueueSettings, Received, queue_stats};

#[test]
fn a_queue_that_somebody_has_is_told_as_such() {
    for (_, open) in RECEIVERS {
        in_namespace(move || {
            let _first = open(&QueueSettings::new(NUMBER));
            let port = queue_stats().unwrap()[0].port;
            let errors = [
                MmsgQueue::bind(&QueueSettings::new(NUMBER)).map(drop).unwrap_err(),
                NfqQueue::bind(&QueueSettings::new(NUMBER)).map(drop).unwrap_err(),
            ];
            for error in errors {
                assert!(
                    matches!(error, QueueError::InUse { number: NUMBER, port: p } if p == port),
                    "{error:?} for {port}"
                );
                assert!(error.to_string().starts_with("queue 9840 is in use by another process"), "{error}");
            }
            // Another number is free, and so is the same one in another namespace.
            let _second = open(&QueueSettings::new(NUMBER + 1));
            in_namespace(move || drop(open(&QueueSettings::new(NUMBER))));
        });
    }
}

#[test]
fn a_queue_is_free_again_once_it_is_dropped() {
    for (_, open) in RECEIVERS {
        in_namespace(move || {
            drop(open(&QueueSettings::new(NUMBER)));
            until_free();
            drop(open(&QueueSettings::new(NUMBER)));
        });
    }
}

#[test]
fn past_its_length_a_queue_drops_and_counts() {
    with_each_receiver(false, |rig, open| {
        let mut queue = open(&QueueSettings { length: 4, ..QueueSettings::new(NUMBER) });
        rig.send(0..10);
        let stats = queue_stats().unwrap()[0];
        assert_eq!((stats.depth, stats.queue_dropped, stats.user_dropped), (4, 6, 0));
        answer(&mut *queue, 4, &mut |packet| Fate::Accept { mark: packet.mark });
        assert_eq!([0; 4].map(|_| rig.arrived()), [0, 1, 2, 3]);
        assert!(rig.nothing_arrived());
    });
}

#[test]
fn failing_open_lets_packets_pass_that_the_queue_has_no_room_for() {
    with_each_receiver(false, |rig, open| {
        let mut queue = open(&QueueSettings { length: 4, fail_open: true, ..QueueSettings::new(NUMBER) });
        rig.send(0..10);
        assert_eq!([0; 6].map(|_| rig.arrived()), [4, 5, 6, 7, 8, 9]);
        answer(&mut *queue, 4, &mut |_| Fate::Drop);
        assert!(rig.nothing_arrived());
    });
}

#[test]
fn the_buffer_holds_a_queue_of_the_default_length() {
    with_each_receiver(false, |rig, open| {
        let settings = QueueSettings::new(NUMBER);
        let mut queue = open(&settings);
        let payload = [0; 1400];
        (0..settings.length).for_each(|_| assert_eq!(rig.sender.send(&payload).unwrap(), 1400));
        let stats = queue_stats().unwrap()[0];
        assert_eq!((stats.depth, stats.queue_dropped, stats.user_dropped), (settings.length, 0, 0));
        answer(&mut *queue, settings.length as usize, &mut |_| Fate::Drop);
        assert_eq!(queue_stats().unwrap()[0].depth, 0);
    });
}

#[test]
fn closing_a_queue_drops_what_waits_in_it() {
    with_each_receiver(true, |rig, open| {
        let queue = open(&QueueSettings::new(NUMBER));
        rig.send(0..5);
        assert_eq!(queue_stats().unwrap()[0].depth, 5);
        drop(queue);
        until_free();
        assert!(rig.nothing_arrived());
        // The rule bypasses the queue while nobody has it.
        rig.send([7]);
        assert_eq!(rig.arrived(), 7);
    });
}

#[test]
fn a_wait_ends_at_its_time() {
    with_each_receiver(false, |_, open| {
        let mut queue = open(&QueueSettings::new(NUMBER));
        assert_eq!(queue.receive(Some(Duration::ZERO)).unwrap(), Received::TimedOut);
        let start = Instant::now();
        assert_eq!(queue.receive(Some(Duration::from_millis(30))).unwrap(), Received::TimedOut);
        assert!(start.elapsed() >= Duration::from_millis(30));
    });
}

#[test]
fn a_waker_ends_the_wait_once() {
    with_each_receiver(false, |_, open| {
        let mut queue = open(&QueueSettings::new(NUMBER));
        let waker = queue.waker();
        // Before the wait, several times: seen once.
        waker.wake();
        waker.clone().wake();
        assert_eq!(queue.receive(None).unwrap(), Received::Woken);
        assert_eq!(queue.receive(Some(Duration::ZERO)).unwrap(), Received::TimedOut);
        // During the wait.
        let other = thread::spawn(move || waker.wake());
        assert_eq!(queue.receive(None).unwrap(), Received::Woken);
        other.join().unwrap();
        assert_eq!(queue.receive(Some(Duration::ZERO)).unwrap(), Received::TimedOut);
    });
}

#[test]
fn a_waker_is_seen_while_packets_never_cease() {
    with_each_receiver(false, |rig: Rig, open| {
        let mut queue = open(&QueueSettings::new(NUMBER));
        rig.send(0..200);
        assert!(matches!(queue.receive(None).unwrap(), Received::Packets(_)));
        queue.answer(&mut |_| Fate::Drop).unwrap();
        queue.waker().wake();
        assert_eq!(queue.receive(None).unwrap(), Received::Woken);
        assert!(matches!(queue.receive(None).unwrap(), Received::Packets(_)));
        queue.answer(&mut |_| Fate::Drop).unwrap();
    });
}

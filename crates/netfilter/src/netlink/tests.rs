//! Answers that are cut anywhere, or lie: what is read of them is what they have, and reading ends.

use super::*;
use crate::conntrack::Remembered;
use crate::{Marks, Orientation};

/// A message: header, then `body`.
fn message(kind: u16, flags: u16, body: &[u8]) -> Vec<u8> {
    let mut bytes = ((16 + body.len()) as u32).to_ne_bytes().to_vec();
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(flags.to_ne_bytes());
    bytes.extend(7u32.to_ne_bytes());
    bytes.extend(0u32.to_ne_bytes());
    bytes.extend(body);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

fn attribute_of(kind: u16, value: &[u8]) -> Vec<u8> {
    let mut bytes = ((4 + value.len()) as u16).to_ne_bytes().to_vec();
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(value);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

/// The kernel's refusal, with words (`NLMSGERR_ATTR_MSG`), as with `NETLINK_CAP_ACK` and `NETLINK_EXT_ACK`.
fn refusal(code: i32, words: &str) -> Vec<u8> {
    let mut body = code.to_ne_bytes().to_vec();
    body.extend([0; 16]);
    body.extend(attribute_of(NLMSGERR_ATTR_MSG, words.as_bytes()));
    message(NLMSG_ERROR, NLM_F_ACK_TLVS | NLM_F_CAPPED, &body)
}

#[test]
fn a_datagram_cut_anywhere_shows_whole_messages_only() {
    let parts = [message(100, 0, b"one"), message(101, 0, b"twotwo"), message(102, 2, b"")];
    let bytes = parts.concat();
    let ends: Vec<usize> = (1..=3).map(|n| parts[..n].concat().len()).collect();
    for length in 0..=bytes.len() {
        let kinds: Vec<u16> = messages(&bytes[..length]).map(|message| message.kind).collect();
        // The last bytes of a message are padding, which may be missing.
        let whole = ends.iter().zip([1, 2, 0]).filter(|(end, padding)| length + padding >= **end).count();
        assert_eq!(kinds, [100, 101, 102][..whole], "at {length}");
    }
}

#[test]
fn a_message_that_lies_about_its_length_ends_the_datagram() {
    for length in [0u32, 1, 15, 17 + 8, u32::MAX, u32::MAX - 3] {
        let mut bytes = [message(100, 0, b"12345678"), message(101, 0, b"")].concat();
        bytes[..4].copy_from_slice(&length.to_ne_bytes());
        assert!(messages(&bytes).count() <= 1, "{length}");
    }
}

#[test]
fn a_refusal_cut_anywhere_is_still_a_refusal() {
    let whole = refusal(-libc::ENOENT, "no such table\0");
    for length in 16..whole.len() {
        let mut cut = whole[..length].to_vec();
        cut[..4].copy_from_slice(&(length as u32).to_ne_bytes());
        let answer = Answer::parse(&messages(&cut).next().unwrap());
        // Without its code it is one that makes no sense (EPROTO), not a success.
        assert_eq!(answer.code, if length < 20 { libc::EPROTO } else { libc::ENOENT }, "at {length}");
        assert!(answer.detail.is_none_or(|words| "no such table".starts_with(&words)), "at {length}");
    }
    let answer = Answer::parse(&messages(&whole).next().unwrap());
    assert_eq!(answer.detail.as_deref(), Some("no such table"));
}

#[test]
fn an_error_number_without_a_positive_is_an_error_all_the_same() {
    for code in [i32::MIN, i32::MAX, -1] {
        let answer = Answer::parse(&messages(&refusal(code, "")).next().unwrap());
        assert_ne!(answer.code, 0);
        assert!(!answer.refusal("do a thing").to_string().is_empty());
    }
    assert_eq!(done_code(&i32::MIN.to_ne_bytes()), i32::MIN);
    assert_eq!((done_code(&[]), done_code(&(-libc::EINTR).to_ne_bytes())), (0, libc::EINTR));
}

#[test]
fn attributes_that_lie_about_their_length_are_not_read() {
    let good = attribute_of(1, b"abcd");
    for length in [0u16, 1, 3, 9, u16::MAX] {
        let mut bytes = [&good[..], &attribute_of(2, b"efgh"), &attribute_of(3, b"ijkl")].concat();
        bytes[8..10].copy_from_slice(&length.to_ne_bytes());
        let read: Vec<_> = attributes(&bytes).collect();
        assert_eq!(read.first(), Some(&(1, &b"abcd"[..])), "{length}");
        assert!(read.iter().all(|(_, value)| value.len() <= bytes.len()), "{length}");
        // One that reaches into the next is taken as it is; one that ends nowhere hides what follows.
        assert_eq!(read.len(), if length == 9 { 2 } else { 1 }, "{length}: {read:?}");
    }
    assert_eq!(attributes(&good[..7]).count(), 0, "a value that is cut");
}

/// An entry of a conntrack dump: 10.1.0.7 to 10.1.0.9, TCP port 80, with every bit of label and mark.
fn connection() -> Vec<u8> {
    let tuple = |source: [u8; 4], destination: [u8; 4], from: u16, to: u16| {
        let addresses = [attribute_of(1, &source), attribute_of(2, &destination)].concat();
        let ports = [attribute_of(1, &[6]), attribute_of(2, &from.to_be_bytes()), attribute_of(3, &to.to_be_bytes())];
        [attribute_of(1, &addresses), attribute_of(2, &ports.concat())].concat()
    };
    let (a, b) = ([10, 1, 0, 7], [10, 1, 0, 9]);
    let parts = [
        attribute_of(22, &[0xff; 16]),
        attribute_of(8, &u32::MAX.to_be_bytes()),
        attribute_of(1, &tuple(a, b, 40000, 80)),
        attribute_of(2, &tuple(b, a, 80, 40000)),
    ];
    [&[libc::AF_INET as u8, 0, 0, 0][..], &parts.concat()].concat()
}

#[test]
fn a_connection_cut_anywhere_is_left_out_and_never_another_one() {
    let (marks, bytes) = (Marks::default(), connection());
    let read = |bytes: &[u8]| {
        Remembered::parse(bytes, &marks.label_bits(Orientation::Both), marks.connection, &marks).map(|r| r.tracked)
    };
    let whole = read(&bytes).unwrap();
    assert_eq!((whole.source.to_string(), whole.protocol, whole.port), ("10.1.0.7".to_owned(), 6, Some(80)));
    for length in 0..bytes.len() {
        assert!(read(&bytes[..length]).is_none_or(|tracked| tracked == whole), "at {length}");
    }
}

#[test]
fn a_connection_of_an_address_of_no_length_is_left_out() {
    let marks = Marks::default();
    let tuple = |length: usize| attribute_of(1, &attribute_of(1, &vec![1; length]));
    for length in [0, 1, 3, 5, 15, 17] {
        let parts = [attribute_of(22, &[0xff; 16]), attribute_of(1, &tuple(length)), attribute_of(2, &tuple(4))];
        let bytes = [&[2, 0, 0, 0][..], &parts.concat()].concat();
        assert!(
            Remembered::parse(&bytes, &marks.label_bits(Orientation::Both), marks.connection, &marks).is_none(),
            "{length}"
        );
    }
}

//! Entry points for the fuzz targets (`tests/fuzz`): the kernel's answers and notices. Only with the feature `fuzzing`.
//!
//! Each asserts what must hold of whatever is read. The queues' messages are `queue::fuzzing`'s.

use netlink_packet_core::{NLMSG_DONE, NLMSG_ERROR, Nla};

use crate::collisions::{concerns, read_legacy};
use crate::conntrack::Remembered;
use crate::links::Routes;
use crate::netlink::{Answer, append, attribute, attributes, be32, be64, done_code, messages, text};
use crate::program::ownership::{self, Owner};
use crate::program::rules::parse_comment;
use crate::program::transaction::body;
use crate::{Marks, routes};

/// One datagram of a netlink socket, each message read as every reader that there is would.
pub fn datagram(bytes: &[u8]) {
    let marks = Marks::default();
    let mut count = 0;
    for message in messages(bytes) {
        count += 1;
        match message.kind {
            NLMSG_ERROR => _ = Answer::parse(&message).refusal("read what the kernel said").to_string(),
            NLMSG_DONE => _ = done_code(message.payload),
            _ => {}
        }
        connection(message.payload, &marks);
        _ = concerns(message.payload, &marks);
        _ = read_legacy(message.payload, message.payload);
        if let Some(message) = routes::decode(&message) {
            Routes::default().hear(&message);
            _ = routes::meaning(message);
        }
        let item = body(&message);
        for (kind, value) in attributes(item) {
            assert_eq!(
                attribute(item, kind).map(<[u8]>::len),
                attributes(item).find(|a| a.0 == kind).map(|a| a.1.len())
            );
            _ = (be32(value), be64(value), text(value));
            if let Some(marks) = value.get(2..).map(text).and_then(parse_comment) {
                assert!(marks.check().is_ok());
            }
            attributes(value).filter_map(|(_, element)| ownership::parse(element)).for_each(|owner| standing(&owner));
        }
    }
    assert!(count <= bytes.len() / 16);
}

/// An entry of a conntrack dump: one with a bit of ours can be named to the kernel again, by the tuple it came with.
fn connection(payload: &[u8], marks: &Marks) {
    let (label, mark) = (marks.all_label_bits(), marks.connection);
    let Some(remembered) = Remembered::parse(payload, &label, mark, marks) else { return };
    let mut bytes = Vec::new();
    append(&mut bytes, remembered.clear(&label, mark), 0, 1);
    let clear = messages(&bytes).next().map(|message| message.payload.to_vec()).unwrap_or_default();
    assert_eq!(clear.first(), payload.first());
    let tuple = |payload: &[u8]| payload.get(4..).and_then(|item| attribute(item, 1)).map(<[u8]>::to_vec);
    assert_eq!(tuple(&clear), tuple(payload));
    let tracked = remembered.tracked;
    assert!(tracked.source.is_ipv4() || tracked.source.is_ipv6());
}

/// What is read of an owner is read again from what this agent would write of it. A name with a space in it is none of
/// this program's, and is told in other words.
fn standing(owner: &Owner) {
    let fits = owner.agent.len() < 100 && !owner.agent.contains([' ', '\0']);
    if !fits {
        return;
    }
    let element = ownership::element(owner);
    let mut bytes = vec![0; element.value_len()];
    element.emit_value(&mut bytes);
    assert_eq!(ownership::parse(&bytes).as_ref(), Some(owner));
}

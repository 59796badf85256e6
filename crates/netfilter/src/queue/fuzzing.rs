//! Entry points for the fuzz targets (`tests/fuzz`): the bytes of a queue's socket. Only with the feature `fuzzing`.

use super::message::{Malformed, Message, Messages, Writer, packet};
use super::{Fate, Packet};

/// Reads one datagram as a worker does, and checks what must hold of whatever is read; returns the verdicts' bytes.
pub fn datagram(bytes: &[u8]) -> Vec<u8> {
    let mut verdicts = Writer::default();
    let mut messages = 0;
    for message in Messages(bytes) {
        messages += 1;
        let Message::Packet(body) = message else { continue };
        match packet(body) {
            Ok(packet) => {
                assert!(lies_in(bytes, packet.payload));
                assert_eq!(super::message::packet(&rebuilt(&packet)[16..]), Ok(packet));
                let fate = if packet.id % 2 == 0 { Fate::Drop } else { Fate::Accept { mark: packet.mark ^ 1 } };
                verdicts.verdict(1, packet.id, fate, true, packet.id % 3 == 0);
            }
            Err(Malformed { id: Some(id) }) => verdicts.verdict(1, id, Fate::Drop, false, false),
            Err(Malformed { id: None }) => {}
        }
    }
    // Each takes at least its header, but for what the datagram's end cuts off.
    assert!(messages <= bytes.len() / 16 + 1);
    let answered = Messages(verdicts.bytes()).count();
    assert!(answered <= messages && Messages(verdicts.bytes()).all(|verdict| verdict == Message::Other));
    verdicts.bytes().to_vec()
}

/// A line of the kernel's table of queues.
pub fn statistics(line: &str) -> bool {
    super::stats::parse(line).is_some()
}

fn lies_in(whole: &[u8], part: &[u8]) -> bool {
    let (whole, part) = (whole.as_ptr_range(), part.as_ptr_range());
    part.is_empty() || (whole.start <= part.start && part.end <= whole.end)
}

/// A message that says of the packet what was read.
fn rebuilt(packet: &Packet<'_>) -> Vec<u8> {
    let mut writer = Writer::default();
    writer.begin(3 << 8, 0, 0, packet.family, 0);
    let [a, b, c, d] = packet.id.to_be_bytes();
    writer.attribute(1, &[a, b, c, d, 0, 0, packet.hook]);
    for (kind, value) in [(3, packet.mark), (5, packet.input), (6, packet.output), (13, packet.length)] {
        writer.attribute(kind, &value.to_be_bytes());
    }
    writer.attribute(10, packet.payload);
    writer.end();
    writer.bytes().to_vec()
}

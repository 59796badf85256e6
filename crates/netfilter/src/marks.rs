//! Which bits of packet marks, connection marks and connection labels are ours, and what they say.
//!
//! Every other bit belongs to someone else (kube-proxy 0x4000/0x8000, Calico the upper 16, AWS connection mark 0x80,
//! Istio connection mark 0x111) and is carried through unchanged. What is *done* with the bits is `program`'s.

use thiserror::Error;

/// The bits of ours. Settings; every use of them is masked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Marks {
    /// Mask of four contiguous bits of the packet mark. They carry a [`Way`] up to the queue and down from it what is to be
    /// remembered; the top one alone marks what the node itself sends.
    pub packet: u32,
    /// One bit of the connection mark: for connections that have no room for a label.
    pub connection: u32,
    /// Number of a connection label bit, 0..=127: accepted, as conntrack has it. Two others of the four bits that it is one of
    /// are ours as well: with its last binary digit changed (accepted turned round), and with its last but one (met
    /// mid-stream).
    pub label: u8,
}

/// Which end began a connection, as far as its verdict goes: what it is judged by again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Orientation {
    /// The one that conntrack says.
    AsMet,
    /// The other one.
    Turned,
    /// Nobody knows: it must be permitted either way.
    Both,
}

/// How a queued packet relates to its connection; tells the engine which way round to judge it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Way {
    /// In the direction of the connection's first packet: judge source → destination.
    Original,
    /// In the other direction of a connection that nothing remembers as accepted: judge destination → source.
    Reply,
    /// Without conntrack (notrack): judged statelessly, never remembered.
    Untracked,
    /// An ICMP error that travels in the original direction: judge the embedded header.
    RelatedOriginal,
    /// An ICMP error that travels in the reply direction: judge the embedded header.
    RelatedReply,
    /// TCP without SYN of a connection that conntrack meets only now: it is older than conntrack, and which end began
    /// it is not known.
    Midstream,
    /// TCP in either direction of a connection that conntrack met so before, and that nothing remembers as accepted.
    MetMidstream,
}

/// Marks that can't be used, and why.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum MarksError {
    /// The packet mask is not four bits in a row.
    #[error("packet mark mask {0:#x} is not four contiguous bits: choose one such as 0x3c00")]
    Packet(u32),
    /// The connection mark is not one bit.
    #[error("connection mark {0:#x} is not exactly one bit: choose one such as 0x1000")]
    Connection(u32),
    /// The label is beyond the 128 that conntrack has.
    #[error("connection label {0} is out of range: choose 0 to 127")]
    Label(u8),
}

/// Values that mean "accepted: remember the connection". They only ever travel downwards, from the queue.
const ACCEPTED: u32 = 7;
const ACCEPTED_TURNED: u32 = 0b1000 | 5;
const ACCEPTED_BOTH: u32 = 0b1000 | 7;
const FIELD: u32 = 0b0111;
const NODE: u32 = 0b1000;

impl Default for Marks {
    fn default() -> Self {
        Self { packet: 0x3c00, connection: 0x1000, label: 121 }
    }
}

impl Way {
    /// Every way, in the order of its field value.
    pub const ALL: [Way; 7] = [
        Way::Original,
        Way::Reply,
        Way::Untracked,
        Way::RelatedOriginal,
        Way::RelatedReply,
        Way::Midstream,
        Way::MetMidstream,
    ];

    /// The value in our packet mark bits; never the top one alone.
    fn field(self) -> u32 {
        match self {
            Way::Original => 1,
            Way::Reply => 2,
            Way::Untracked => 3,
            Way::RelatedOriginal => 4,
            Way::RelatedReply => 5,
            Way::Midstream => 6,
            Way::MetMidstream => 0b1000 | 6,
        }
    }
}

impl Marks {
    /// Are the bits of the shape that the program needs?
    pub fn check(&self) -> Result<(), MarksError> {
        if self.packet.count_ones() != 4 || self.packet >> self.packet.trailing_zeros() != FIELD | NODE {
            return Err(MarksError::Packet(self.packet));
        }
        if self.connection.count_ones() != 1 {
            return Err(MarksError::Connection(self.connection));
        }
        if self.label > 127 {
            return Err(MarksError::Label(self.label));
        }
        Ok(())
    }

    /// What the kernel program said about a queued packet; `None` if it said nothing that we know.
    pub fn way(&self, mark: u32) -> Option<Way> {
        let field = (mark & self.packet) >> self.shift();
        Way::ALL.into_iter().find(|way| way.field() == field)
    }

    /// The mark for a verdict that accepts and asks for the connection to be remembered so: the old mark with our bits
    /// saying it. A verdict's mark replaces the packet's whole mark, so the old one has to go in.
    pub fn remember(&self, mark: u32, as_what: Orientation) -> u32 {
        self.pass(mark) | self.accepted(as_what)
    }

    /// The mark for a verdict that accepts this packet only: the old mark without our bits.
    pub fn pass(&self, mark: u32) -> u32 {
        mark & !self.packet
    }

    /// Mask of the three bits that carry a [`Way`].
    pub(crate) fn field(&self) -> u32 {
        FIELD << self.shift()
    }

    /// The bit that marks what the node itself sends: it is neither judged nor remembered. As a socket's mark
    /// (`SO_MARK`) it says so of packets whose source is no address of the node's.
    pub fn node(&self) -> u32 {
        NODE << self.shift()
    }

    /// `accepted`, at its place in the mark.
    pub(crate) fn accepted(&self, as_what: Orientation) -> u32 {
        let value = match as_what {
            Orientation::AsMet => ACCEPTED,
            Orientation::Turned => ACCEPTED_TURNED,
            Orientation::Both => ACCEPTED_BOTH,
        };
        value << self.shift()
    }

    /// `way`, at its place in the mark.
    pub(crate) fn at(&self, way: Way) -> u32 {
        way.field() << self.shift()
    }

    /// The labels of a connection that was accepted so.
    pub(crate) fn label_bits(&self, as_what: Orientation) -> [u8; 16] {
        match as_what {
            Orientation::AsMet => bits(self.label),
            Orientation::Turned => bits(self.label ^ 1),
            Orientation::Both => either(bits(self.label), bits(self.label ^ 1)),
        }
    }

    /// The label of a connection that conntrack met mid-stream, accepted or not.
    pub(crate) fn midstream_bits(&self) -> [u8; 16] {
        bits(self.label ^ 2)
    }

    /// The numbers of all labels of ours.
    pub(crate) fn labels(&self) -> [u8; 3] {
        [self.label, self.label ^ 1, self.label ^ 2]
    }

    /// All labels of ours.
    pub(crate) fn all_label_bits(&self) -> [u8; 16] {
        self.labels().map(bits).into_iter().fold([0; 16], either)
    }

    fn shift(&self) -> u32 {
        // A mask of zero is refused by `check`; it must not overflow a shift before that.
        self.packet.trailing_zeros().min(28)
    }
}

/// A label's bit as the kernel lays labels out: 128 bits, an array of `unsigned long` (`struct nf_conn_labels`).
fn bits(label: u8) -> [u8; 16] {
    const WORD: usize = size_of::<libc::c_ulong>();
    let mut bytes = [0; 16];
    let bit = usize::from(label);
    let word: libc::c_ulong = 1 << (bit % (WORD * 8));
    let start = bit / (WORD * 8) * WORD;
    bytes[start..start + WORD].copy_from_slice(&word.to_ne_bytes());
    bytes
}

fn either(one: [u8; 16], other: [u8; 16]) -> [u8; 16] {
    std::array::from_fn(|byte| one[byte] | other[byte])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ways_survive_the_mark_and_leave_other_bits_alone() {
        for marks in [Marks::default(), Marks { packet: 0xf000_0000, ..Marks::default() }] {
            for way in Way::ALL {
                let foreign = 0x0555_c3ff & !marks.packet;
                let up = foreign | marks.at(way);
                assert_eq!(marks.way(up), Some(way));
                assert_eq!(marks.pass(up), foreign);
                for as_what in [Orientation::AsMet, Orientation::Turned, Orientation::Both] {
                    assert_eq!(marks.remember(up, as_what), foreign | marks.accepted(as_what));
                    assert_eq!(marks.way(marks.accepted(as_what)), None);
                }
            }
            assert_eq!((marks.way(0), marks.way(marks.node())), (None, None));
        }
    }

    #[test]
    fn marks_of_the_wrong_shape_are_refused() {
        let marks = Marks::default();
        assert_eq!(marks.check(), Ok(()));
        for packet in [0, 0x3800, 0x7c00, 0x2d00] {
            assert_eq!(Marks { packet, ..marks }.check(), Err(MarksError::Packet(packet)));
        }
        assert_eq!(Marks { connection: 0x3000, ..marks }.check(), Err(MarksError::Connection(0x3000)));
        assert_eq!(Marks { connection: 0, ..marks }.check(), Err(MarksError::Connection(0)));
        assert_eq!(Marks { label: 128, ..marks }.check(), Err(MarksError::Label(128)));
    }

    #[test]
    #[cfg(target_endian = "little")]
    fn the_label_stands_where_the_kernel_has_it() {
        let last = |bits: [u8; 16]| bits[15];
        let marks = Marks::default();
        let of = [Orientation::AsMet, Orientation::Turned, Orientation::Both].map(|what| last(marks.label_bits(what)));
        assert_eq!((of, last(marks.midstream_bits()), last(marks.all_label_bits())), ([2, 1, 3], 8, 11));
        assert_eq!(Marks { label: 0, ..marks }.all_label_bits()[0], 0b111);
    }
}

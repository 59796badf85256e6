//! One change to nftables: messages that the kernel takes together or not at all.
//!
//! What the messages say is built by `layout`, `rules` and `sets`; how they travel is `netlink`'s.

use std::io;

use netlink_packet_core::{DefaultNla, NLM_F_ACK, NLM_F_REQUEST};
use netlink_packet_netfilter::nftables::{GenMessage, NfTablesMessage};
use netlink_packet_netfilter::none::ControlMessage;
use netlink_packet_netfilter::{NetfilterHeader, NetfilterMessage, NetfilterMessageInner, NetfilterProtoFamily};

use super::cache::{self, CacheHits};
use crate::Error;
use crate::netlink::{Answer, Channel, Received, append, attribute, be32};

const NFNL_SUBSYS_NFTABLES: u16 = 10;
const NFNL_MSG_BATCH_BEGIN: u8 = 16;
const NFNL_BATCH_GENID: u16 = 1;
const NFTA_GEN_ID: u16 = 1;

/// Messages in order, each with the words that an error about it uses.
#[derive(Default)]
pub(crate) struct Transaction {
    bytes: Vec<u8>,
    steps: Vec<Step>,
    /// So many steps stand at the head of every part: see [`Transaction::fenced`].
    fence: usize,
}

struct Step {
    start: usize,
    doing: String,
}

/// Why a transaction did not happen.
#[derive(Debug)]
pub(crate) enum Failure {
    /// Someone changed the rule set since the generation that this depends on.
    Stale,
    /// A step of the fence found nothing.
    Fenced,
    Other(Error),
}

impl From<Failure> for Error {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Stale => Error::Busy { doing: "changing it" },
            Failure::Fenced => Error::NotOwner,
            Failure::Other(error) => error,
        }
    }
}

/// A message about the inet family.
pub(crate) fn inet(message: impl Into<NetfilterMessageInner>) -> NetfilterMessage {
    NetfilterMessage::new(NetfilterHeader::new(NetfilterProtoFamily::Inet, 0, 0), message)
}

impl Transaction {
    /// A change that depends on these first steps: where one of them does not find what it is about (`ENOENT`), nothing
    /// is done.
    pub(crate) fn fenced(steps: [(&str, NfTablesMessage, u16); 2]) -> Self {
        let mut transaction = Self::default();
        for (doing, message, flags) in steps {
            transaction.push(doing, message, flags);
        }
        transaction.fence = transaction.steps.len();
        transaction
    }

    /// Adds a message; `doing` completes "the kernel refused to …".
    pub(crate) fn push(&mut self, doing: impl Into<String>, message: NfTablesMessage, flags: u16) {
        self.steps.push(Step { start: self.bytes.len(), doing: doing.into() });
        append(&mut self.bytes, inet(message), NLM_F_REQUEST | flags, 0);
    }

    /// Whether it would change nothing.
    pub(crate) fn is_empty(&self) -> bool {
        self.steps.len() == self.fence
    }

    /// Makes the change. With `generation`, only if the rule set is still of that generation. Returns what the cached
    /// verdicts did that it deletes.
    ///
    /// It is one transaction as long as the system lets a message be that large, which it does for NET_ADMIN. If not,
    /// it becomes several in the same order, which is said in the log.
    pub(crate) fn commit(self, channel: &mut Channel, generation: Option<u32>) -> Result<Vec<CacheHits>, Failure> {
        match self.send(channel, self.fence..self.steps.len(), generation, true) {
            Err(Sent::TooLarge) => {}
            Err(Sent::Failed(failure)) => return Err(failure),
            Ok(answers) => return self.judge(&answers).map(|()| answers.hits),
        }
        let parts = self.parts(Channel::SMALL_SEND);
        tracing::warn!(
            bytes = self.bytes.len(),
            parts = parts.len(),
            "the change is larger than this system lets one netlink message be: it is made in several transactions"
        );
        let mut hits = Vec::new();
        for (index, part) in parts.into_iter().enumerate() {
            match self.send(channel, part, generation.filter(|_| index == 0), true) {
                Ok(answers) => {
                    self.judge(&answers)?;
                    hits.extend(answers.hits);
                }
                Err(Sent::Failed(failure)) => return Err(failure),
                Err(Sent::TooLarge) => {
                    let source = io::Error::from_raw_os_error(libc::EMSGSIZE);
                    return Err(Failure::Other(Error::Io { doing: "send a change to nftables".into(), source }));
                }
            }
        }
        Ok(hits)
    }

    /// Has the kernel check every message and then forget them all (a batch without end is aborted; what `nft --check`
    /// does). Returns what it said about each, in order.
    pub(crate) fn rehearse(self, channel: &mut Channel) -> Result<Vec<Option<Answer>>, Error> {
        let answers = match self.send(channel, self.fence..self.steps.len(), None, false) {
            Ok(answers) => answers,
            Err(Sent::Failed(failure)) => return Err(failure.into()),
            Err(Sent::TooLarge) => {
                let source = io::Error::from_raw_os_error(libc::EMSGSIZE);
                return Err(Error::Io { doing: "probe nftables".into(), source });
            }
        };
        let mut said: Vec<Option<Answer>> = self.steps.iter().map(|_| None).collect();
        for answer in &answers.list {
            match answers.step(answer.sequence) {
                Some(index) => said[index] = Some(answer.clone()).filter(|a| a.code != 0),
                None if answer.code != 0 => return Err(answer.refusal("use nf_tables")),
                None => {}
            }
        }
        Ok(said)
    }

    /// Ranges of steps that stay below `limit` bytes each (a single larger step stands alone), without the fence.
    fn parts(&self, limit: usize) -> Vec<std::ops::Range<usize>> {
        let mut parts = Vec::new();
        let mut begin = self.fence;
        for index in self.fence..self.steps.len() {
            let end = self.steps.get(index + 1).map_or(self.bytes.len(), |s| s.start);
            if index > begin && end - self.steps[begin].start > limit {
                parts.push(begin..index);
                begin = index;
            }
        }
        parts.push(begin..self.steps.len());
        parts
    }

    fn send(
        &self,
        channel: &mut Channel,
        steps: std::ops::Range<usize>,
        generation: Option<u32>,
        commit: bool,
    ) -> Result<Answers, Sent> {
        let order: Vec<usize> = (0..self.fence).chain(steps).collect();
        let first = channel.sequence(order.len() as u32 + 2);
        let last = order.len().saturating_sub(1);
        let mut bytes = Vec::with_capacity(self.bytes.len() + 64);
        append(&mut bytes, begin(generation), NLM_F_REQUEST, first);
        for (position, index) in order.iter().copied().enumerate() {
            // Patch the sequence number, and on the last message ask for an answer: struct nlmsghdr is length (4),
            // type (2), flags (2), sequence (4), port (4).
            let place = bytes.len();
            let until = self.steps.get(index + 1).map_or(self.bytes.len(), |s| s.start);
            bytes.extend_from_slice(&self.bytes[self.steps[index].start..until]);
            let sequence = first.wrapping_add(position as u32 + 1);
            bytes[place + 8..place + 12].copy_from_slice(&sequence.to_ne_bytes());
            if position == last {
                let flags = u16::from_ne_bytes([bytes[place + 6], bytes[place + 7]]) | NLM_F_ACK;
                bytes[place + 6..place + 8].copy_from_slice(&flags.to_ne_bytes());
            }
        }
        let final_sequence = first.wrapping_add(last as u32 + 1);
        if commit {
            append(&mut bytes, control(ControlMessage::BatchEnd), NLM_F_REQUEST, final_sequence.wrapping_add(1));
        }
        channel.send(&bytes).map_err(|error| match error.raw_os_error() {
            Some(libc::EMSGSIZE | libc::ENOBUFS) => Sent::TooLarge,
            _ => Sent::Failed(Failure::Other(Error::io("send a change to nftables", error))),
        })?;
        let mut hits = Vec::new();
        let answers = channel.answers("a change to nftables", &mut |notice| cache::deleted(&notice, &mut hits));
        let (list, lost) = answers.map_err(|e| Sent::Failed(Failure::Other(e)))?;
        Ok(Answers { first, order, last: final_sequence, list, lost, hits })
    }

    fn judge(&self, answers: &Answers) -> Result<(), Failure> {
        if let Some(answer) = answers.list.iter().find(|a| a.code != 0) {
            if answer.code == libc::ERESTART {
                return Err(Failure::Stale);
            }
            let index = answers.step(answer.sequence);
            if answer.code == libc::ENOENT && index.is_some_and(|i| i < self.fence) {
                return Err(Failure::Fenced);
            }
            let doing = index.and_then(|i| self.steps.get(i)).map_or("change nftables", |s| s.doing.as_str());
            return Err(Failure::Other(answer.refusal(doing)));
        }
        // No error among the answers and the last message acknowledged: all of it is in force. Answers are only lost
        // when there are very many, and only errors come in numbers.
        if answers.lost || !answers.list.iter().any(|a| a.sequence == answers.last) {
            let why = if answers.lost { "answers were lost" } else { "the acknowledgement is missing" };
            return Err(Failure::Other(Error::Answer { doing: "a change to nftables".into(), why: why.into() }));
        }
        Ok(())
    }
}

struct Answers {
    first: u32,
    /// The steps that were sent.
    order: Vec<usize>,
    last: u32,
    list: Vec<Answer>,
    lost: bool,
    hits: Vec<CacheHits>,
}

impl Answers {
    /// The step that a message of this number was.
    fn step(&self, sequence: u32) -> Option<usize> {
        let position = (sequence.wrapping_sub(self.first) as usize).checked_sub(1)?;
        self.order.get(position).copied()
    }
}

enum Sent {
    TooLarge,
    Failed(Failure),
}

fn control(message: ControlMessage) -> NetfilterMessage {
    NetfilterMessage::new(NetfilterHeader::new(NetfilterProtoFamily::Unspec, 0, NFNL_SUBSYS_NFTABLES), message)
}

fn begin(generation: Option<u32>) -> NetfilterMessage {
    control(match generation {
        None => ControlMessage::BatchBegin,
        Some(id) => ControlMessage::Other {
            message_type: NFNL_MSG_BATCH_BEGIN,
            attributes: vec![DefaultNla::new(NFNL_BATCH_GENID, id.to_be_bytes().to_vec())],
        },
    })
}

/// The rule set's generation: it changes with each transaction of anyone in this network namespace.
pub(crate) fn generation(channel: &mut Channel) -> Result<u32, Error> {
    let doing = "read the generation of the nftables rule set";
    let mut id = None;
    let get = inet(NfTablesMessage::GetGen(GenMessage { attributes: vec![] }));
    channel.request(doing, get, 0, &mut |message| match message {
        Some(message) => id = attribute(body(&message), NFTA_GEN_ID).and_then(be32),
        None => id = None,
    })?;
    id.ok_or_else(|| Error::Answer { doing: doing.into(), why: "it holds no generation".into() })
}

/// What follows the nfnetlink header.
pub(crate) fn body<'a>(message: &Received<'a>) -> &'a [u8] {
    message.payload.get(4..).unwrap_or(&[])
}

#[cfg(test)]
mod tests {
    use super::*;
    use netlink_packet_netfilter::nftables::{TableAttribute, TableMessage};

    #[test]
    fn a_large_change_is_divided_at_messages_and_in_order() {
        let mut transaction = Transaction::default();
        for i in 0..10 {
            let name = TableAttribute::Name(format!("{i:0>80}"));
            transaction.push("x", NfTablesMessage::NewTable(TableMessage { attributes: vec![name] }), 0);
        }
        let parts = transaction.parts(350);
        assert_eq!(parts.len(), 4);
        assert_eq!(parts.iter().flat_map(|p| p.clone()).collect::<Vec<_>>(), (0..10).collect::<Vec<_>>());
        assert_eq!(transaction.parts(1).len(), 10);
        assert_eq!(transaction.parts(usize::MAX).len(), 1);
    }
}

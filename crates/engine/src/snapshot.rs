//! [`Snapshot`]: the whole of what is enforced, immutable, and [`Snapshot::judge`].

use crate::{Flow, Generation, Judgement, RuleId, RuleInfo};

/// Whose word says that a source address really is this node's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NodeOrigin {
    /// The flow's source address: right where flows are asked about (`podgate test`, `explain`).
    Address,
    /// Nobody: the kernel program has let pass what the node itself sends, so a queued packet with a node's source
    /// address is forged or masqueraded and is judged like any other address.
    Forged,
}

/// Everything that verdicts need, immutable and shared.
#[derive(Debug, Clone)]
pub struct Snapshot {
    generation: Generation,
}

impl Snapshot {
    /// A world without anything: no local pod, every flow open.
    pub fn empty() -> Self {
        Self { generation: Generation(0) }
    }

    /// Its generation.
    pub fn generation(&self) -> Generation {
        self.generation
    }

    /// The verdict for a new connection: egress of its source and ingress of its destination, each only where that
    /// end is a subject of this snapshot (a local pod).
    pub fn judge(&self, flow: &Flow, origin: NodeOrigin) -> Judgement {
        let _ = (flow, origin);
        todo!()
    }

    /// What a rule's number stands for.
    pub fn rule(&self, id: RuleId) -> Option<&RuleInfo> {
        let _ = id;
        todo!()
    }
}

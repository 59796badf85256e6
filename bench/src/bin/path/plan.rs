//! [`Plan`]: which sides a run has, and which of them take part in which [`Measure`].

use clap::ValueEnum;

use crate::kinds::{Acceptor, Agent, Build, Kind, Receiver};
use crate::load::flood;
use crate::manifests::Size;

/// What is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub(crate) enum Measure {
    /// New connections, 16 at once: rate and latency.
    Connections16,
    /// New connections, one at a time: rate and latency.
    Connections1,
    /// One-way datagrams, each a flow of its own: how many arrive, and what each costs who judges.
    Udp,
    /// Bytes over connections that stand.
    Throughput,
    /// A byte there and back over connections that stand.
    Exchanges,
    /// New connections during a flood of UDP by a pod at a closed port of the server.
    FloodUdp,
    /// New connections during a flood of SYNs from spoofed addresses at a closed port of the server.
    FloodSyn,
}

/// The sizes of the world: policies, and pods.
const SMALL: Size = Size { policies: 2, pods: 3 };
const MEDIUM: Size = Size { policies: 500, pods: 5_000 };
const LARGE: Size = Size { policies: 10_000, pods: 100_000 };

impl Measure {
    /// All, in the order of the report.
    pub(crate) const ALL: [Measure; 7] = [
        Measure::Connections16,
        Measure::Connections1,
        Measure::Udp,
        Measure::Throughput,
        Measure::Exchanges,
        Measure::FloodUdp,
        Measure::FloodSyn,
    ];

    /// As the report says it.
    pub(crate) fn title(self) -> &'static str {
        match self {
            Measure::Connections16 => "New connections, 16 at once",
            Measure::Connections1 => "New connections, one at a time",
            Measure::Udp => "One-way UDP, each packet a flow of its own",
            Measure::Throughput => "Bytes over 4 established connections",
            Measure::Exchanges => "Exchanges of a byte over 16 established connections",
            Measure::FloodUdp => "New connections, 16 at once, while a pod floods a closed UDP port of the server",
            Measure::FloodSyn => {
                "New connections, 16 at once, while SYNs of spoofed sources flood a closed port of the server"
            }
        }
    }

    /// What its rate counts.
    pub(crate) fn unit(self) -> &'static str {
        match self {
            Measure::Connections16 | Measure::Connections1 | Measure::FloodUdp | Measure::FloodSyn => "connections/s",
            Measure::Udp => "packets/s",
            Measure::Throughput => "Gbit/s",
            Measure::Exchanges => "exchanges/s",
        }
    }

    /// What floods meanwhile.
    pub(crate) fn flood(self) -> Option<flood::Kind> {
        match self {
            Measure::FloodUdp => Some(flood::Kind::Udp),
            Measure::FloodSyn => Some(flood::Kind::Syn),
            _ => None,
        }
    }
}

/// What a run compares.
pub(crate) struct Plan {
    pub(crate) sides: Vec<Kind>,
    pub(crate) measures: Vec<Measure>,
}

/// podgate as it is measured everywhere.
pub(crate) const fn podgate(size: Size, cached: bool, queues: u16) -> Kind {
    Kind::Podgate(Agent { build: Build::This, size, queues, cached })
}

/// The sides that goals name.
pub(crate) struct Named {
    pub(crate) accept: Kind,
    pub(crate) uncached: Kind,
    pub(crate) uncached_large: Kind,
    pub(crate) cached: Kind,
    pub(crate) cached_large: Kind,
}

impl Named {
    /// With so many queues.
    pub(crate) fn new(queues: u16) -> Self {
        Named {
            accept: Kind::Accept(Acceptor::new(Receiver::Mmsg, queues)),
            uncached: podgate(SMALL, false, queues),
            uncached_large: podgate(LARGE, false, queues),
            cached: podgate(SMALL, true, queues),
            cached_large: podgate(LARGE, true, queues),
        }
    }
}

impl Plan {
    /// Everything. Sides that are compared with each other are neighbours, as they follow each other in each turn.
    pub(crate) fn whole(queues: u16) -> Self {
        let named = Named::new(queues);
        let sides = vec![
            Kind::KernelRule,
            Kind::NoPolicy,
            Kind::KernelSet,
            named.cached,
            podgate(MEDIUM, true, queues),
            named.cached_large,
            named.uncached_large,
            podgate(MEDIUM, false, queues),
            named.uncached,
            named.accept,
            Kind::Accept(Acceptor::new(Receiver::Nfq, queues)),
        ];
        Plan { sides, measures: Measure::ALL.to_vec() }
    }

    /// Settings of queues and workers, with an engine that says yes; one queue and two, with podgate's under a flood.
    pub(crate) fn settings() -> Self {
        let one = Acceptor::new(Receiver::Mmsg, 1);
        let two = Acceptor { queues: 2, ..one };
        let accept = [
            one,
            Acceptor { pinned: true, ..one },
            Acceptor { length: Some(1024), ..one },
            Acceptor { length: Some(16384), buffer: Some(16 << 20), ..one },
            Acceptor { buffer: Some(1 << 20), ..one },
            two,
            Acceptor { pinned: true, ..two },
        ];
        let podgate = [podgate(SMALL, false, 1), podgate(SMALL, false, 2), Kind::KernelRule];
        let sides = accept.map(Kind::Accept).into_iter().chain(podgate).collect();
        let measures =
            [Measure::Connections16, Measure::Connections1, Measure::Udp, Measure::FloodUdp, Measure::FloodSyn];
        Plan { sides, measures: measures.to_vec() }
    }

    /// This build and another one, on the main measures.
    pub(crate) fn builds(queues: u16) -> Self {
        let pair = |cached| {
            [Build::This, Build::Other].map(|build| Kind::Podgate(Agent { build, size: SMALL, queues, cached }))
        };
        let measures = vec![Measure::Connections16, Measure::Connections1, Measure::Udp];
        Plan { sides: [pair(false), pair(true)].concat(), measures }
    }

    /// Whether a side takes part.
    pub(crate) fn has(measure: Measure, kind: Kind) -> bool {
        let size = match kind {
            Kind::Podgate(agent) => agent.size,
            _ => SMALL,
        };
        match measure {
            Measure::Connections16 | Measure::Connections1 | Measure::Udp => kind != Kind::KernelRule,
            Measure::Throughput | Measure::Exchanges => match kind {
                Kind::KernelRule | Kind::Accept(_) => false,
                Kind::Podgate(agent) => size == SMALL || (size == LARGE && !agent.cached),
                Kind::NoPolicy | Kind::KernelSet => true,
            },
            // Where nothing is forbidden a flood arrives.
            Measure::FloodUdp | Measure::FloodSyn => kind.enforces() && size == SMALL,
        }
    }
}

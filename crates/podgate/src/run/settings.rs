//! The agent's settings: every flag also by environment variable, every default with its reason.

use std::ops::RangeInclusive;
use std::time::Duration;

use anyhow::{Result, bail};
use clap::builder::BoolishValueParser;
use clap::{Args, ValueEnum};
use ipnet::IpNet;
use podgate_netfilter::{Marks, ProgramSettings};

use super::boot::BootMode;
use super::holding::HoldArgs;
use super::listen::ListenArgs;
use super::rejecting::RejectArgs;
use super::serve::HIGHEST_QUEUE;
use super::share::ShareMode;
use super::source::SourceArgs;
use crate::telemetry::DEFAULT_RULE_SERIES;
use crate::telemetry::logging::LogFormat;

/// What becomes of the kernel's rules when the agent is asked to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum OnExit {
    /// They stay: what needs a verdict is dropped until an agent is back (fail-closed) or passes (fail-open).
    Keep,
    /// They are taken away: nothing is filtered any more.
    Remove,
}

/// Enforce policies on this host.
///
/// Follows a cluster (--kubeconfig, or the one its own pod is in) or a directory (--manifests) until SIGTERM or Ctrl-C. Each flag may be given as the environment variable named with it.
///
/// Exit code: 0 ended as asked, 2 usage or input error, or this machine cannot do it.
#[derive(Debug, Clone, Args)]
pub(crate) struct RunArgs {
    #[command(flatten)]
    pub(crate) source: SourceArgs,

    #[command(flatten)]
    pub(crate) listen: ListenArgs,

    /// NFQUEUE queues, each with a worker thread of its own, at most 64 [default: one per core, at most 16: what waits is
    /// work, and more threads than cores do no more of it].
    #[arg(long, env = "PODGATE_QUEUES", value_name = "N", value_parser = clap::value_parser!(u16).range(1..=64))]
    pub(crate) queues: Option<u16>,

    /// Number of the first queue. The default is far from the 0 that most other software takes. Packets of unknown
    /// addresses wait in the queue 256 above it, denied ones that are answered in the one 260 above it; while another agent
    /// runs, all of them are others still.
    #[arg(long, env = "PODGATE_QUEUE_BASE", value_name = "NUMBER", default_value_t = 9840)]
    pub(crate) queue_base: u16,

    /// Packets that may wait in one queue; past it the kernel drops (or passes, with --fail-open) and counts.
    /// 4096 packets are some 30 ms of work for one worker: more would only make a full queue slower to notice.
    #[arg(long, env = "PODGATE_QUEUE_LENGTH", value_name = "PACKETS", default_value_t = 4096)]
    pub(crate) queue_length: u32,

    /// How packets are received from the queues. The default is the faster one (bench/README.md).
    #[arg(long, env = "PODGATE_RECEIVER", value_enum, default_value_t = Receiver::Mmsg)]
    pub(crate) receiver: Receiver,

    /// While packets are lost because the queues are full: give each pod a share of what can be judged, so that one that
    /// floods, or is flooded, does not starve the others. What is over its share is dropped (with --fail-open: passes
    /// unjudged), and counted by pod.
    #[arg(long, env = "PODGATE_SHARE", value_enum, default_value_t = ShareMode::Auto)]
    pub(crate) share: ShareMode,

    /// Verdicts that the kernel repeats without asking, at most; 0: every new connection is judged here. The default is some
    /// 5 MB of the kernel's memory, and far more than the pairs that talk again and again on one node.
    #[arg(long, env = "PODGATE_CACHE", value_name = "ENTRIES", default_value_t = 16384, value_parser = clap::value_parser!(u32).range(0..=1_000_000))]
    pub(crate) cache: u32,

    /// While no agent answers, or a queue is full, let packets pass unjudged instead of dropping them. Not by default:
    /// a policy that holds only while all is well is none.
    #[arg(long, env = "PODGATE_FAIL_OPEN", value_parser = BoolishValueParser::new())]
    pub(crate) fail_open: bool,

    /// What becomes of the kernel's rules at a graceful end [default: keep, as an end is no reason to open what is
    /// closed; with --fail-open: remove].
    #[arg(long, env = "PODGATE_ON_EXIT", value_enum)]
    pub(crate) on_exit: Option<OnExit>,

    /// Address ranges of this node's pods, instead of the Node's spec.podCIDRs: all traffic of these is diverted but
    /// that of pods known to be open. Without either, only addresses known to be isolated are diverted.
    #[arg(long = "pod-cidr", env = "PODGATE_POD_CIDRS", value_name = "CIDR", value_delimiter = ',')]
    pub(crate) pod_cidrs: Vec<IpNet>,

    /// What is done with pods' traffic until the source has told all it knows, where no saved world is there [default:
    /// closed, as a policy that does not hold at boot is none; with --fail-open: open].
    #[arg(long, env = "PODGATE_BOOT", value_enum)]
    pub(crate) boot: Option<BootMode>,

    /// What begins a connection and comes by a pod's link with a source address that is not reached over that link is
    /// dropped (strict): else a pod could write another's address, and have what it sends to that one pass for an answer. Off
    /// where pods forward what others send, such as a VPN gateway.
    #[arg(long, env = "PODGATE_SOURCE_CHECK", value_enum, default_value_t = SourceCheck::Strict)]
    pub(crate) source_check: SourceCheck,

    #[command(flatten)]
    pub(crate) hold: HoldArgs,

    #[command(flatten)]
    pub(crate) reject: RejectArgs,

    /// Four adjacent packet mark bits that nothing else on the node uses (kube-proxy has 0x4000 and 0x8000, Calico
    /// the upper 16 by default).
    #[arg(long, env = "PODGATE_MARK_MASK", value_name = "MASK", value_parser = parse_u32, default_value = "0x3c00")]
    pub(crate) mark_mask: u32,

    /// One conntrack mark bit that nothing else uses (AWS VPC CNI has 0x80, Istio 0x111); for connections that are
    /// older than conntrack labels.
    #[arg(long, env = "PODGATE_CT_MARK", value_name = "BIT", value_parser = parse_u32, default_value = "0x1000")]
    pub(crate) ct_mark: u32,

    /// One conntrack label bit (0 to 127) that nothing else uses; of the four in a row that it is one of two others are
    /// used too (by default 120, 121 and 123).
    #[arg(long, env = "PODGATE_CT_LABEL", value_name = "N", value_parser = clap::value_parser!(u8).range(0..=127), default_value_t = 121)]
    pub(crate) ct_label: u8,

    /// Seconds after the start in which a connection that is older than the agent may be judged in either
    /// orientation: conntrack may have met it mid-stream from the wrong side. 30 s cover the retransmissions of an
    /// idle TCP peer; longer would only prolong the looseness.
    #[arg(long, env = "PODGATE_LOOSE_SECONDS", value_name = "SECONDS", default_value_t = 30)]
    pub(crate) loose_seconds: u64,

    /// Rules with a series of their own in /metrics; those past it are counted together. The default is far above what
    /// the policies about one node's pods come to, and some 3 MB a scrape.
    #[arg(long, env = "PODGATE_MAX_RULE_SERIES", value_name = "N", default_value_t = DEFAULT_RULE_SERIES)]
    pub(crate) max_rule_series: usize,

    /// Log level, or filter directives (tracing-subscriber's EnvFilter).
    #[arg(long, env = "PODGATE_LOG", value_name = "FILTER", default_value = "info")]
    pub(crate) log: String,

    /// Log lines as text or JSON.
    #[arg(long, env = "PODGATE_LOG_FORMAT", value_enum, default_value_t = LogFormat::Text)]
    pub(crate) log_format: LogFormat,
}

/// Whether sources of what pods send are checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum SourceCheck {
    /// They must be reached over the link that the packet came by.
    Strict,
    /// They are believed.
    Off,
}

/// How packets are received from the queues.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Receiver {
    /// recvmmsg, verdicts in batches.
    Mmsg,
    /// The `nfq` crate, a packet at a time: the rival that the other is measured against.
    Nfq,
}

impl RunArgs {
    /// The queue numbers, one per worker.
    pub(crate) fn queue_range(&self) -> Result<RangeInclusive<u16>> {
        let cores = std::thread::available_parallelism().map_or(1, usize::from).min(16) as u16;
        let count = self.queues.unwrap_or(cores);
        let most = u16::MAX - HIGHEST_QUEUE;
        if self.queue_base > most {
            bail!(
                "--queue-base {} leaves no room for the queues above it: take {most} or a lower one",
                self.queue_base
            );
        }
        Ok(self.queue_base..=self.queue_base + (count - 1))
    }

    /// What becomes of the rules at a graceful end: a closed node stays closed unless told otherwise.
    pub(crate) fn on_exit(&self) -> OnExit {
        self.on_exit.unwrap_or(if self.fail_open { OnExit::Remove } else { OnExit::Keep })
    }

    /// What is done before any world is known.
    pub(crate) fn boot(&self) -> BootMode {
        self.boot.unwrap_or(if self.fail_open { BootMode::Open } else { BootMode::Closed })
    }

    /// The marks, checked.
    pub(crate) fn marks(&self) -> Result<Marks> {
        if self.mark_mask.count_ones() != 4 || (self.mark_mask >> self.mark_mask.trailing_zeros()) != 0xf {
            bail!("--mark-mask {:#x} must be four adjacent bits, such as 0x3c00", self.mark_mask);
        }
        if self.ct_mark.count_ones() != 1 {
            bail!("--ct-mark {:#x} must be one bit, such as 0x1000", self.ct_mark);
        }
        Ok(Marks { packet: self.mark_mask, connection: self.ct_mark, label: self.ct_label })
    }

    /// The kernel program's settings.
    pub(crate) fn program(&self) -> Result<ProgramSettings> {
        Ok(ProgramSettings {
            marks: self.marks()?,
            queues: self.queue_range()?,
            fail_open: self.fail_open,
            udp_prerouting: None,
            cache: self.cache > 0,
            source_check: self.source_check == SourceCheck::Strict,
        })
    }

    /// How long connections may be judged in either orientation.
    pub(crate) fn loose(&self) -> Duration {
        Duration::from_secs(self.loose_seconds)
    }
}

fn parse_u32(text: &str) -> Result<u32, String> {
    let parsed = match text.strip_prefix("0x") {
        Some(hex) => u32::from_str_radix(hex, 16),
        None => text.parse(),
    };
    parsed.map_err(|_| format!("`{text}` is no 32-bit number (decimal, or hexadecimal with 0x)"))
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        run: RunArgs,
    }

    #[test]
    fn a_queue_base_with_too_few_numbers_above_it_is_refused_with_the_highest_that_will_do() {
        let range = |base: &str| {
            Line::try_parse_from(["podgate", "--queues", "64", "--queue-base", base]).unwrap().run.queue_range()
        };
        let error = range("65500").unwrap_err().to_string();
        let highest = error.split_once("take ").and_then(|(_, rest)| rest.split(' ').next()).expect("a number");
        assert!(error.contains("--queue-base 65500 leaves no room"), "{error}");
        assert!(range(highest).is_ok(), "{error}");
        let above: u16 = highest.parse().unwrap();
        assert!(range(&(above + 1).to_string()).is_err(), "{error}");
    }
}

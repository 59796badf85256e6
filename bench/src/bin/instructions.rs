//! Walks through flows of the large cluster for `bench/instructions`, which has callgrind count what each call of
//! these two functions does, in the order that is printed: nothing else of this program is counted.

use std::hint::black_box;

use clap::Parser;
use podgate_bench::compiled::{SEED, compiled};
use podgate_bench::flows::{Family, PacketBytes, Scope, flows, packets};
use podgate_engine::{
    Counter, Counters, Direction, Flow, NodeOrigin, RuleId, Snapshot, Verdict, WorkerCounters, packet,
};

#[derive(Parser)]
struct Args {
    /// Policies of the cluster.
    #[arg(long, default_value_t = 10_000)]
    policies: usize,
    /// Flows, from the beginning of the million.
    #[arg(long, default_value_t = 65_536)]
    flows: usize,
}

#[inline(never)]
fn counted_verdicts(snapshot: &Snapshot, flows: &[Flow]) -> usize {
    flows.iter().filter(|flow| snapshot.judge(flow, NodeOrigin::Forged).verdict() == Verdict::Drop).count()
}

#[inline(never)]
fn counted_packets(snapshot: &Snapshot, counters: &WorkerCounters, packets: &[PacketBytes]) -> usize {
    let drop = |bytes: &PacketBytes| {
        counters.count(Counter::Packets);
        let Ok(header) = packet::parse(bytes.bytes()) else { return true };
        let judgement = snapshot.judge(&header.flow, NodeOrigin::Forged);
        counters.decided(Direction::Egress, judgement.egress.cause);
        counters.decided(Direction::Ingress, judgement.ingress.cause);
        judgement.verdict() == Verdict::Drop
    };
    packets.iter().filter(|bytes| drop(bytes)).count()
}

fn main() {
    let args = Args::parse();
    let (_, snapshot, _) = compiled(args.policies, Scope::Node);
    let counters = Counters::new(1);
    counters.reserve(snapshot.rules().map(|(id, _)| id).max().unwrap_or(RuleId(0)));
    let mut flows = [Family::V4, Family::V6].map(|family| flows(SEED, family, Scope::Node));
    flows.iter_mut().for_each(|flows| flows.truncate(args.flows));
    let packets = flows.each_ref().map(|flows| packets(flows));
    for (flows, family) in flows.iter().zip(["IPv4", "IPv6"]) {
        println!("judge, {family}: {} verdicts, {} drop", flows.len(), black_box(counted_verdicts(&snapshot, flows)));
    }
    for (packets, family) in packets.iter().zip(["IPv4", "IPv6"]) {
        let dropped = black_box(counted_packets(&snapshot, counters.worker(0), packets));
        println!("packet, {family}: {} verdicts, {dropped} drop", packets.len());
    }
}

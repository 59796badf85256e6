//! `--keep`: everything stays up, with names under /run/netns, until somebody ends it.

use anyhow::Result;

use super::PREFIX;
use super::agent::{Agent, HTTP};
use super::cast::Cast;
use super::interrupt::Interrupt;
use super::report::tell;
use super::stage::Stage;

/// Names the namespaces, says how to look around, and waits.
pub(super) fn wait(cast: &Cast, stage: &Stage, agent: &Agent, interrupt: &Interrupt) -> Result<()> {
    let prefix = format!("{PREFIX}{}-", std::process::id());
    let mut names = Vec::new();
    for (name, netns) in cast.namespaces() {
        names.push(netns.persist(&format!("{prefix}{name}"))?);
    }
    let exe = std::env::current_exe().map_or("podgate".to_owned(), |p| p.display().to_string());
    let (manifests, nginx) = (stage.manifests().display().to_string(), cast.pod("shop/nginx")?.v4());
    tell!(
        "\nLeft up; the policy in force is {}. Ctrl-C ends it and takes everything away. In another terminal:",
        stage.policy().display()
    );
    tell!("\nThe namespaces (ip netns list):");
    for (name, _) in cast.namespaces() {
        tell!("  {prefix}{name}");
    }
    tell!("\nConnect as a pod:");
    tell!("  ip netns exec {prefix}shop-busybox curl -sm2 http://{nginx}/; echo");
    tell!("  ip netns exec {prefix}shop-busybox-access curl -sm2 http://{nginx}/; echo");
    tell!("Change the policy (a save is enough) and connect again:");
    tell!("  $EDITOR {}", stage.policy().display());
    tell!("Ask why:");
    tell!("  {exe} explain -f {manifests} shop/busybox shop/nginx --port 80");
    tell!("What the agent counts, and says:");
    tell!("  ip netns exec {prefix}node curl -s http://127.0.0.1:{HTTP}/metrics | grep podgate_rule_verdicts");
    tell!("  {exe} status --socket {}", stage.socket().display());
    tell!("  tail -f {}", stage.log().display());
    tell!("What is in the kernel:");
    tell!("  ip netns exec {prefix}node nft list table inet podgate");
    interrupt.wait(|| !agent.is_running());
    if !agent.is_running() {
        tell!("\nThe agent ended: see its last words in {}", stage.log().display());
    }
    tell!("\nCleaning up.");
    Ok(())
}

//! Sides on which the kernel judges alone, as `nft` programs.

use std::net::IpAddr;
use std::time::Duration;

use anyhow::{Result, ensure};
use podgate_sandbox::{Netns, mortal};

use crate::load::datagrams::PORTS;
use crate::manifests::{BULK, CLOSED, FORBIDDEN, TCP};

/// How long `nft` may take.
const PATIENCE: Duration = Duration::from_secs(30);
/// podgate's connection label by default.
const LABEL: u8 = 121;

/// Connection tracking, which is on in a namespace as soon as a rule asks for it.
pub(crate) fn track(netns: &Netns) -> Result<()> {
    program(netns, "ct state invalid counter")
}

/// One rule that drops what goes to the forbidden ports; it turns connection tracking on as well.
pub(crate) fn drop_forbidden(netns: &Netns, server: IpAddr) -> Result<()> {
    program(
        netns,
        &format!(
            "ct state new ip daddr {server} meta l4proto {{ tcp, udp }} th dport {{ {FORBIDDEN}, {CLOSED} }} drop"
        ),
    )
}

fn program(netns: &Netns, rule: &str) -> Result<()> {
    nft(
        netns,
        &format!(
            "table inet bench {{
               chain judge {{ type filter hook postrouting priority 98; {rule}; }}
             }}"
        ),
    )
}

/// What is allowed, in a set like that of podgate's verdict cache: first the connections' label; then, for the original
/// direction only, source, destination, protocol and port, with a counter and a timeout each; a hit labels the connection.
/// What the set does not know and goes to the server is dropped.
pub(crate) fn set(netns: &Netns, client: IpAddr, server: IpAddr) -> Result<()> {
    let tcp = [TCP, BULK].map(|port| ("tcp", port));
    let udp = PORTS.map(|port| ("udp", port));
    let element = |(protocol, port): &(&str, u16)| format!("{client} . {server} . {protocol} . {port} timeout 1d");
    let elements: Vec<String> = tcp.iter().chain(&udp).map(element).collect();
    nft(
        netns,
        &format!(
            "table inet bench {{
               set allowed {{
                 type ipv4_addr . ipv4_addr . inet_proto . inet_service
                 flags timeout
                 counter
                 elements = {{ {} }}
               }}
               chain judge {{
                 type filter hook postrouting priority 98
                 ct label {LABEL} accept
                 ct direction original ct state new,established meta l4proto {{ tcp, udp, sctp }} \
                   ip saddr . ip daddr . meta l4proto . th dport @allowed ct label set {LABEL} accept
                 ct state new ip daddr {server} drop
               }}
             }}",
            elements.join(", ")
        ),
    )
}

fn nft(netns: &Netns, text: &str) -> Result<()> {
    let mut nft = mortal("nft");
    nft.arg(text);
    let ended = netns.spawn(nft)?.wait(PATIENCE);
    ensure!(ended.is_some_and(|s| s.success()), "nft failed (Debian: apt-get install nftables): {ended:?}");
    Ok(())
}

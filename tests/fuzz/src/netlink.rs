//! Bytes of the kernel: a datagram of a queue's socket, of any other netlink socket, and lines of its queue table.

use podgate_netfilter::{fuzzing, queue};

/// The first byte says what the rest is; what must hold is asserted where it is read.
pub fn run(data: &[u8]) {
    let Some((what, bytes)) = data.split_first() else { return };
    match what % 3 {
        0 => _ = queue::fuzzing::datagram(bytes),
        1 => fuzzing::datagram(bytes),
        _ => String::from_utf8_lossy(bytes).lines().for_each(|line| _ = queue::fuzzing::statistics(line)),
    }
}

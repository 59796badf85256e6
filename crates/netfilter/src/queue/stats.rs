//! The kernel's own account of the queues.

use std::fs;
use std::io;

/// One queue, as the kernel sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QueueStats {
    /// Its number.
    pub number: u16,
    /// The netlink port of the socket that has it.
    pub port: u32,
    /// Packets that wait for a verdict now.
    pub depth: u32,
    /// Packets lost because the queue was full, since it was bound.
    pub queue_dropped: u64,
    /// Packets lost because the socket's buffer was full, since it was bound.
    pub user_dropped: u64,
}

/// Every bound queue of the calling thread's network namespace, from `/proc/thread-self/net/netfilter/nfnetlink_queue`
/// (`seq_show` in net/netfilter/nfnetlink_queue.c). The error is the file's.
pub fn queue_stats() -> io::Result<Vec<QueueStats>> {
    Ok(fs::read_to_string("/proc/thread-self/net/netfilter/nfnetlink_queue")?.lines().filter_map(parse).collect())
}

/// `number port depth copy_mode copy_range queue_dropped user_dropped id_sequence 1`.
pub(super) fn parse(line: &str) -> Option<QueueStats> {
    let mut fields = line.split_ascii_whitespace();
    Some(QueueStats {
        number: fields.next()?.parse().ok()?,
        port: fields.next()?.parse().ok()?,
        depth: fields.next()?.parse().ok()?,
        queue_dropped: fields.nth(2)?.parse().ok()?,
        user_dropped: fields.next()?.parse().ok()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_the_kernels_file_is_read() {
        assert_eq!(
            parse(" 9840  25931     7 2   128    11     3      402  1"),
            Some(QueueStats { number: 9840, port: 25931, depth: 7, queue_dropped: 11, user_dropped: 3 })
        );
        assert_eq!(parse("9840 25931"), None);
        assert_eq!(parse(""), None);
    }
}

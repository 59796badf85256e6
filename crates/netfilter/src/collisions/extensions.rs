//! The extensions of iptables that know marks and labels, of iptables-nft and iptables-legacy alike.

use super::rules::{Uses, word};

/// `include/uapi/linux/netfilter/xt_connmark.h`
const SET: u8 = 0;
const SAVE: u8 = 1;
const RESTORE: u8 = 2;

/// A match or a target in the layout of include/uapi/linux/netfilter/xt_mark.h, xt_connmark.h and xt_connlabel.h.
pub(super) fn read(uses: &mut Uses, name: &str, revision: u32, info: &[u8]) {
    let number = |index: usize| word(info, index * 4).unwrap_or(0);
    let masked = |value: u32, mask: u32| if mask == u32::MAX { value } else { value | mask };
    let partial = |mask: u32| if mask == u32::MAX { 0 } else { mask };
    match (name, revision) {
        ("MARK", 2) => {
            uses.packet |= masked(number(0), number(1));
            uses.overwrites |= number(1) == u32::MAX;
        }
        ("mark", 1) => uses.packet |= masked(number(0), number(1)),
        ("connmark", 1) => uses.connection |= masked(number(0), number(1)),
        ("CONNMARK", 1 | 2) => {
            let (connection, packet) = (number(1), number(2));
            match info.get(if revision == 1 { 12 } else { 14 }).copied() {
                None => {}
                Some(SET) => uses.connection |= masked(number(0), connection),
                Some(mode) => {
                    uses.connection |= partial(connection);
                    uses.packet |= partial(packet);
                    uses.saves |= mode == SAVE && packet == u32::MAX;
                    uses.overwrites |= mode == RESTORE && packet == u32::MAX;
                }
            }
        }
        ("connlabel", _) => {
            let bit = info.get(..2).and_then(|bytes| bytes.try_into().ok()).map(u16::from_ne_bytes);
            uses.label = bit.map(u32::from).or(uses.label);
        }
        _ => {}
    }
}

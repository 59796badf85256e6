//! Tables of iptables-legacy: a program of the kernel's own beside nftables, which tells nobody of its changes.
//!
//! Read by `getsockopt` in the layout of include/uapi/linux/netfilter_ipv4/ip_tables.h, netfilter_ipv6/ip6_tables.h and
//! netfilter/x_tables.h. Only tables that there are are asked for: asking for another would make it.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};

use super::rules::Uses;
use super::{LOCAL_OUT, POST_ROUTING, carries, extensions};
use crate::Error;

const GET_INFO: libc::c_int = 64;
const GET_ENTRIES: libc::c_int = 65;
const NAME: usize = 32;
/// `struct ipt_getinfo`: name, valid hooks, 5 hook entries, 5 underflows, number and size of entries.
const INFO: usize = NAME + 4 * 13;
/// `struct ipt_get_entries` without the entries, which are aligned to 8 bytes.
const HEAD: usize = NAME + 8;
const HOOKS: [&str; 5] = ["PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING"];
/// `struct xt_entry_match`, `struct xt_entry_target`: size, name, revision.
const EXTENSION: usize = 32;
/// A table that changes whenever it is read is read this often.
const TRIES: usize = 5;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Family {
    V4,
    V6,
}

/// Which tables of iptables-legacy there are, and how they are built: another if rules were added or deleted.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Legacy(Vec<Standing>);

#[derive(Debug, PartialEq, Eq)]
pub(super) struct Standing {
    family: Family,
    name: String,
    info: Vec<u8>,
}

/// What a table says of marks.
#[derive(Debug)]
pub(super) struct Table {
    pub(super) name: String,
    pub(super) rules: Vec<Rule>,
    /// Chains of hooks at which packets carry bits of ours.
    pub(super) hooks: Vec<String>,
}

/// A rule of a table.
#[derive(Debug)]
pub(super) struct Rule {
    pub(super) chain: String,
    pub(super) uses: Uses,
    pub(super) jumps: Vec<String>,
}

/// Looks which tables of iptables-legacy there are in the calling thread's network namespace.
pub fn legacy() -> Result<Legacy, Error> {
    let mut tables = Vec::new();
    for family in [Family::V4, Family::V6] {
        let names = match std::fs::read_to_string(family.names()) {
            // The kernel has no such tables at all.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            names => names.map_err(|error| Error::io(format!("read {}", family.names()), error))?,
        };
        for name in names.lines().filter(|name| name.len() < NAME) {
            let mut info = named(name, INFO);
            match family.socket().and_then(|socket| family.ask(&socket, GET_INFO, &mut info)) {
                Ok(()) => tables.push(Standing { family, name: name.to_owned(), info }),
                // It went away.
                Err(error) if error.raw_os_error() == Some(libc::ENOENT) => {}
                Err(error) => return Err(family.failed(name, error)),
            }
        }
    }
    Ok(Legacy(tables))
}

impl Legacy {
    pub(super) fn tables(&self) -> &[Standing] {
        &self.0
    }
}

impl Standing {
    pub(super) fn read(&self) -> Result<Table, Error> {
        let table = || -> io::Result<Table> {
            let socket = self.family.socket()?;
            for _ in 0..TRIES {
                let mut info = named(&self.name, INFO);
                self.family.ask(&socket, GET_INFO, &mut info)?;
                let size = word(&info, INFO - 4).unwrap_or(0);
                let mut entries = named(&self.name, HEAD + size);
                entries[NAME..NAME + 4].copy_from_slice(&(size as u32).to_ne_bytes());
                match self.family.ask(&socket, GET_ENTRIES, &mut entries) {
                    // It has just been replaced.
                    Err(error) if error.raw_os_error() == Some(libc::EAGAIN) => {}
                    asked => return asked.map(|()| read_table(self.family, &self.name, &info, &entries[HEAD..])),
                }
            }
            Err(io::Error::from_raw_os_error(libc::EAGAIN))
        };
        match table() {
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => {
                Ok(Table { name: String::new(), rules: vec![], hooks: vec![] })
            }
            table => table.map_err(|error| self.family.failed(&self.name, error)),
        }
    }
}

impl Family {
    /// Of the calling thread's namespace.
    fn names(self) -> &'static str {
        match self {
            Family::V4 => "/proc/thread-self/net/ip_tables_names",
            Family::V6 => "/proc/thread-self/net/ip6_tables_names",
        }
    }

    fn command(self) -> &'static str {
        match self {
            Family::V4 => "iptables-legacy",
            Family::V6 => "ip6tables-legacy",
        }
    }

    /// Size of `struct ipt_entry` or `struct ip6t_entry`, and where in it the offset of the target stands.
    fn entry(self) -> (usize, usize) {
        match self {
            Family::V4 => (112, 88),
            Family::V6 => (168, 140),
        }
    }

    fn failed(self, table: &str, error: io::Error) -> Error {
        Error::io(format!("read the table {table} of {}", self.command()), error)
    }

    /// Any socket of the family will do.
    fn socket(self) -> io::Result<OwnedFd> {
        let family = match self {
            Family::V4 => AddressFamily::Inet,
            Family::V6 => AddressFamily::Inet6,
        };
        Ok(socket(family, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)?)
    }

    fn ask(self, socket: &OwnedFd, what: libc::c_int, buffer: &mut [u8]) -> io::Result<()> {
        let level = match self {
            Family::V4 => libc::IPPROTO_IP,
            Family::V6 => libc::IPPROTO_IPV6,
        };
        let mut length = buffer.len() as libc::socklen_t;
        // SAFETY: the kernel writes at most `length` bytes, all of which are the buffer's own; both pointers live through the call.
        let result =
            unsafe { libc::getsockopt(socket.as_raw_fd(), level, what, buffer.as_mut_ptr().cast(), &mut length) };
        if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }
}

/// A request that begins with the table's name.
fn named(table: &str, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    bytes[..table.len()].copy_from_slice(table.as_bytes());
    bytes
}

/// Reads bytes as a table of each family: nothing in them may lead astray.
#[cfg(feature = "fuzzing")]
pub(crate) fn read(info: &[u8], entries: &[u8]) -> usize {
    [Family::V4, Family::V6].map(|family| read_table(family, "mangle", info, entries).rules.len()).iter().sum()
}

fn read_table(family: Family, name: &str, info: &[u8], entries: &[u8]) -> Table {
    let mut heads: BTreeMap<usize, String> = BTreeMap::new();
    let mut hooks = Vec::new();
    for (number, hook) in HOOKS.into_iter().enumerate() {
        let valid = word(info, NAME).is_some_and(|valid| valid & 1 << number != 0);
        let Some(at) = word(info, NAME + 4 + 4 * number).filter(|_| valid) else { continue };
        heads.insert(at, hook.to_owned());
        if carries(number as u32, priority(name, number as u32)) {
            hooks.push(hook.to_owned());
        }
    }
    let entries: Vec<_> = split(family, entries).collect();
    for (at, entry, target) in &entries {
        // A chain of its own begins after an entry that names it.
        if let (b"ERROR", Some(chain)) = (extension(target).0, target.get(EXTENSION..)) {
            heads.insert(at + entry.len(), String::from_utf8_lossy(until_nul(chain)).into_owned());
        }
    }
    let (size, _) = family.entry();
    let chain = |at: usize| heads.range(..=at).next_back().map(|(_, name)| name.clone()).unwrap_or_default();
    let rules = entries.iter().map(|(at, entry, target)| {
        let (mut uses, mut jumps) = (Uses::default(), vec![]);
        let matches = entry.get(size..entry.len() - target.len()).unwrap_or_default();
        for each in extensions_in(matches).chain([*target]) {
            let (name, revision) = extension(each);
            let name = std::str::from_utf8(name).unwrap_or_default();
            extensions::read(&mut uses, name, revision.into(), each.get(EXTENSION..).unwrap_or_default());
        }
        // The standard target has no name; what is no verdict is where to go on.
        if let (b"", Some(to)) = (extension(target).0, word(target, EXTENSION)) {
            jumps.extend(heads.get(&to).cloned());
        }
        Rule { chain: chain(*at), uses, jumps }
    });
    Table { name: format!("{} {name}", family.command()), rules: rules.collect(), hooks }
}

/// Entries with their place and their target.
fn split(family: Family, entries: &[u8]) -> impl Iterator<Item = (usize, &[u8], &[u8])> {
    let (size, offsets) = family.entry();
    let mut at = 0;
    std::iter::from_fn(move || {
        let rest = entries.get(at..)?;
        let offset = |place: usize| Some(usize::from(u16::from_ne_bytes(rest.get(place..place + 2)?.try_into().ok()?)));
        let (target, next) = (offset(offsets)?, offset(offsets + 2)?);
        if target < size || next < target + EXTENSION {
            return None;
        }
        let entry = rest.get(..next)?;
        let place = at;
        at += next;
        Some((place, entry, &entry[target..]))
    })
}

/// Matches, one after the other.
fn extensions_in(mut matches: &[u8]) -> impl Iterator<Item = &[u8]> {
    std::iter::from_fn(move || {
        let size = usize::from(u16::from_ne_bytes(matches.get(..2)?.try_into().ok()?));
        let one = matches.get(..size).filter(|one| one.len() >= EXTENSION)?;
        matches = &matches[size..];
        Some(one)
    })
}

/// Name and revision of a match or a target.
fn extension(bytes: &[u8]) -> (&[u8], u8) {
    (until_nul(bytes.get(2..EXTENSION - 1).unwrap_or_default()), bytes.get(EXTENSION - 1).copied().unwrap_or(0))
}

fn until_nul(bytes: &[u8]) -> &[u8] {
    bytes.split(|byte| *byte == 0).next().unwrap_or_default()
}

/// At which a table's hook is called (enum nf_ip_hook_priorities).
fn priority(table: &str, hook: u32) -> i32 {
    match (table, hook) {
        ("raw", _) => libc::NF_IP_PRI_RAW,
        ("mangle", _) => libc::NF_IP_PRI_MANGLE,
        ("nat", POST_ROUTING) => libc::NF_IP_PRI_NAT_SRC,
        ("nat", LOCAL_OUT) => libc::NF_IP_PRI_NAT_DST,
        ("security", _) => libc::NF_IP_PRI_SECURITY,
        _ => libc::NF_IP_PRI_FILTER,
    }
}

fn word(bytes: &[u8], at: usize) -> Option<usize> {
    super::rules::word(bytes, at).map(|word| word as usize)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_table_is_none_and_leads_nowhere() {
        let mut noise = 1_u64;
        let mut byte = || {
            noise = noise.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (noise >> 56) as u8
        };
        for length in 0..2000 {
            let bytes: Vec<u8> = (0..length).map(|_| byte() & 3).collect();
            for family in [Family::V4, Family::V6] {
                assert!(read_table(family, "mangle", &bytes, &bytes).rules.len() <= length / 112);
            }
        }
    }
}

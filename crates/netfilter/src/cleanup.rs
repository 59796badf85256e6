//! Takes everything of ours out of the kernel. The only place that deletes base chains: packets that wait in any queue of
//! this network namespace are dropped by it.

use netlink_sys::protocols::NETLINK_NETFILTER;

use crate::Error;
use crate::conntrack;
use crate::life::Vigil;
use crate::marks::Marks;
use crate::netlink::Channel;
use crate::program::layout::delete_table;
use crate::program::ownership;
use crate::program::standing::Standing;
use crate::program::transaction::{Failure, Transaction};

/// What was there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Cleanup {
    /// Our table stood, and is gone.
    pub table: bool,
    /// So many connections were remembered as accepted, and no longer are.
    pub connections: usize,
    /// The agent that owned the table lives: it puts it back.
    pub alive: bool,
}

/// Takes the table away, then our label and mark off all connections. Does no harm where nothing of ours is.
///
/// The bits are those that the table's rules tell. Without a table only the default label is looked for: nothing says
/// that the mark bit is ours.
pub fn cleanup() -> Result<Cleanup, Error> {
    let mut channel = Channel::open(NETLINK_NETFILTER)?;
    let standing = Standing::read(&mut channel)?;
    let mut done = Cleanup::default();
    if standing.is_some() {
        let owner = ownership::read(&mut channel)?;
        done.alive = owner.is_some_and(|owner| matches!(Vigil::keep(&owner.agent), Ok(Some(_))));
        let mut transaction = Transaction::default();
        delete_table(&mut transaction);
        match transaction.commit(&mut channel, None) {
            Ok(_) => done.table = true,
            Err(Failure::Other(error)) if error.refused_with() == Some(libc::ENOENT) => {}
            Err(failure) => return Err(failure.into()),
        }
    }
    let told = standing.and_then(|s| s.marks);
    let marks = told.unwrap_or(Marks { connection: 0, ..Marks::default() });
    done.connections = conntrack::clear(&marks)?.taken_back;
    Ok(done)
}

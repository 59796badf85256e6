//! From the rules that match a peer to engine tables. Not here: which rules match (that is `index`).

mod ports;

pub(crate) use ports::{Middle, Ruling, port_table};

//! The kernel's side: the nftables program, NFQUEUE sockets, conntrack. The only crate that may use `unsafe`.

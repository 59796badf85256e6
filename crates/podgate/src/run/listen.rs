//! Flags about where the agent can be asked: its HTTP address and its own socket.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::Args;

use crate::status::SOCKET;
use crate::telemetry::http::{CertificateFiles, Settings};

/// Flags about where the agent can be asked.
#[derive(Debug, Clone, Args)]
pub(crate) struct ListenArgs {
    /// Address of /metrics, /healthz and /readyz, or `off`; the two agents of an upgrade share it. Local by default:
    /// metrics tell who talks to whom.
    #[arg(long, env = "PODGATE_HTTP", value_name = "ADDR", value_parser = http, default_value = "127.0.0.1:9840")]
    http: Http,

    /// Serve the HTTP address by TLS with the certificate (and those above it) in this PEM file, which is read anew
    /// when it changes [default: plain, as the default address is local].
    #[arg(long, env = "PODGATE_HTTP_TLS_CERT", value_name = "FILE", requires = "http_tls_key")]
    http_tls_cert: Option<PathBuf>,

    /// The private key of --http-tls-cert, in PEM; read anew when it changes.
    #[arg(long, env = "PODGATE_HTTP_TLS_KEY", value_name = "FILE", requires = "http_tls_cert")]
    http_tls_key: Option<PathBuf>,

    /// Answer /metrics only to who shows the bearer token in this file, which is read at each scrape; the probes are
    /// open to all, as they tell nothing of pods [default: to everybody who reaches the address].
    #[arg(long, env = "PODGATE_HTTP_TOKEN_FILE", value_name = "FILE")]
    http_token_file: Option<PathBuf>,

    /// Unix socket at which `podgate status` asks this agent, or `off`. The default is where a node's services have
    /// theirs. A container needs its directory to itself, and agents in several network namespaces of one host need
    /// a path each.
    #[arg(long, env = "PODGATE_SOCKET", value_name = "PATH", default_value = SOCKET)]
    socket: PathBuf,
}

/// An address, or none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Http(Option<SocketAddr>);

impl ListenArgs {
    /// What to mind about these flags, if anything.
    pub(super) fn warning(&self) -> Option<String> {
        let address = self.http.0.filter(|address| !address.ip().to_canonical().is_loopback())?;
        let clear = self.http_token_file.is_some() && self.http_tls_cert.is_none();
        clear.then(|| {
            format!(
                "--http-token-file without TLS: scrapers send the token to {address} in clear, for everybody on the way \
                 to read; give --http-tls-cert and --http-tls-key as well, or a loopback address"
            )
        })
    }

    /// Where and how to serve.
    pub(super) fn settings(&self) -> Settings {
        let tls = self.http_tls_cert.clone().zip(self.http_tls_key.clone());
        Settings {
            address: self.http.0,
            tls: tls.map(|(chain, key)| CertificateFiles { chain, key }),
            token: self.http_token_file.clone(),
            socket: (self.socket.as_os_str() != "off").then(|| self.socket.clone()),
            ..Settings::default()
        }
    }
}

fn http(text: &str) -> Result<Http, String> {
    match text {
        "off" => Ok(Http(None)),
        _ => text
            .parse()
            .map(|address| Http(Some(address)))
            .map_err(|_| format!("`{text}` is no address with a port, such as 127.0.0.1:9840 or [::]:9840, nor `off`")),
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        listen: ListenArgs,
    }

    #[test]
    fn a_token_that_would_cross_the_network_in_clear_is_warned_of() {
        let warning = |flags: &str| {
            let line = Line::try_parse_from(["podgate"].into_iter().chain(flags.split_whitespace()));
            line.unwrap_or_else(|error| panic!("{flags}: {error}")).listen.warning()
        };
        for open in ["0.0.0.0:1", "[::]:1", "10.0.0.1:1", "[::ffff:10.0.0.1]:1"] {
            let said = warning(&format!("--http {open} --http-token-file t")).expect(open);
            assert!(said.contains("in clear") && said.contains("--http-tls-cert"), "{said}");
            assert_eq!(warning(&format!("--http {open} --http-token-file t --http-tls-cert c --http-tls-key k")), None);
            assert_eq!(warning(&format!("--http {open}")), None);
        }
        for near in ["127.0.0.1:1", "[::1]:1", "[::ffff:127.0.0.1]:1", "off"] {
            assert_eq!(warning(&format!("--http {near} --http-token-file t")), None, "{near}");
        }
        assert_eq!(warning("--http-token-file t"), None);
    }
}

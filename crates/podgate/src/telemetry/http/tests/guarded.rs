//! TLS and tokens.

use std::path::Path;
use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

use super::*;

/// A new certificate for localhost in `directory`; gives it in PEM.
fn certify(directory: &Path) -> String {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    std::fs::write(directory.join("tls.crt"), made.cert.pem()).unwrap();
    std::fs::write(directory.join("tls.key"), made.signing_key.serialize_pem()).unwrap();
    made.cert.pem()
}

fn files(directory: &Path) -> Settings {
    let tls = CertificateFiles { chain: directory.join("tls.crt"), key: directory.join("tls.key") };
    Settings { tls: Some(tls), ..at("127.0.0.1:0".parse().unwrap()) }
}

/// Settings with a new certificate in `directory`.
pub(super) fn certified(directory: &Path) -> Settings {
    certify(directory);
    files(directory)
}

/// Asks over TLS, trusting this certificate alone.
fn get_trusting(certificate: &str, address: SocketAddr, headers: &str) -> io::Result<String> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(certificate.as_bytes()).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let config = Arc::new(builder.with_root_certificates(roots).with_no_client_auth());
    let connection = ClientConnection::new(config, ServerName::try_from("localhost").unwrap()).unwrap();
    let mut stream = StreamOwned::new(connection, TcpStream::connect(address)?);
    write!(stream, "GET /metrics HTTP/1.0\r\n{headers}\r\n")?;
    let mut answer = Vec::new();
    match stream.read_to_end(&mut answer) {
        // The server ends the connection without saying so in TLS.
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {}
        other => drop(other?),
    }
    Ok(String::from_utf8(answer).unwrap())
}

#[test]
fn a_renewed_certificate_is_served_from_its_first_moment_on_and_half_a_renewal_never() {
    let directory = tempfile::tempdir().unwrap();
    let first = certify(directory.path());
    let server = serve(&files(directory.path()), State::new()).unwrap();
    let get = |certificate: &str| get_trusting(certificate, place(&server), "");
    assert!(get(&first).unwrap().contains("podgate_build_info{"));

    let old_key = std::fs::read(directory.path().join("tls.key")).unwrap();
    let second = certify(directory.path());
    let new_key = std::fs::read(directory.path().join("tls.key")).unwrap();
    std::fs::write(directory.path().join("tls.key"), old_key).unwrap();
    assert!(get(&first).is_ok(), "the new certificate does not fit the old key");
    std::fs::write(directory.path().join("tls.key"), new_key).unwrap();
    assert!(get(&second).unwrap().contains("podgate_build_info{"));
    assert!(get(&first).is_err());

    std::fs::remove_file(directory.path().join("tls.key")).unwrap();
    assert!(get(&second).is_ok(), "the last good one is kept");
}

#[test]
fn a_client_that_never_shakes_hands_keeps_nobody_waiting() {
    let directory = tempfile::tempdir().unwrap();
    let certificate = certify(directory.path());
    let server = serve(&files(directory.path()), State::new()).unwrap();
    let _silent: Vec<_> = (0..10).map(|_| TcpStream::connect(place(&server)).unwrap()).collect();
    assert!(get_trusting(&certificate, place(&server), "").unwrap().contains("podgate_build_info{"));
}

#[test]
fn plain_http_gets_nothing_from_a_tls_address() {
    let directory = tempfile::tempdir().unwrap();
    certify(directory.path());
    let server = serve(&files(directory.path()), State::new()).unwrap();
    let mut stream = TcpStream::connect(place(&server)).unwrap();
    write!(stream, "GET /metrics HTTP/1.0\r\n\r\n").unwrap();
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    assert!(!answer.starts_with(b"HTTP"), "{answer:?}");
}

#[test]
fn metrics_want_the_token_and_probes_do_not() {
    let directory = tempfile::tempdir().unwrap();
    let token = directory.path().join("token");
    std::fs::write(&token, "secret").unwrap();
    let settings = Settings { token: Some(token.clone()), ..at("127.0.0.1:0".parse().unwrap()) };
    let server = serve(&settings, State::new()).unwrap();
    let ask = |headers: &str| {
        let mut stream = TcpStream::connect(place(&server)).unwrap();
        write!(stream, "GET /metrics HTTP/1.0\r\n{headers}\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    };
    let refused = ask("");
    assert!(refused.contains(" 401 ") && refused.contains("www-authenticate: Bearer"), "{refused}");
    assert!(!refused.contains("podgate_build_info"), "{refused}");
    assert!(ask("Authorization: Bearer secret\r\n").contains("podgate_build_info{"));
    assert_eq!(get(place(&server), "/healthz").0, 200);
    assert_eq!(get(place(&server), "/readyz").0, 503);
    // Nobody knows what is wanted: nobody is let in.
    std::fs::remove_file(&token).unwrap();
    assert!(ask("Authorization: Bearer secret\r\n").contains(" 503 "));
}

#[test]
fn files_that_cannot_be_used_are_told_with_their_flag() {
    let directory = tempfile::tempdir().unwrap();
    let refused = |settings: &Settings| serve(settings, State::new()).expect_err("cannot be used").to_string();
    assert!(refused(&files(directory.path())).contains("--http-tls-cert"));
    certify(directory.path());
    std::fs::write(directory.path().join("tls.key"), "no key").unwrap();
    assert!(refused(&files(directory.path())).contains("--http-tls-key"));
    let settings = Settings { token: Some(directory.path().join("token")), ..Settings::default() };
    assert!(refused(&settings).contains("--http-token-file"));
}

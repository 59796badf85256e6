//! TLS for the HTTP address: [`Certificate`], which follows its files, and its [`config`].
//!
//! At each handshake the files are looked at (two `stat`s); when they are others than before they are read anew, so that
//! a renewed certificate counts from its first moment on. Files that do not fit together, as happens between the two
//! writes of a renewal, leave the certificate as it was until they change again.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{ServerConfig, crypto::CryptoProvider};
use tokio_rustls::rustls;

use super::CertificateFiles;

/// Why a certificate cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// A file cannot be read or is no PEM of that kind.
    #[error("{flag} {path}: {source}")]
    File {
        /// The flag that names it.
        flag: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        source: pem::Error,
    },
    /// The two do not fit together, or are of a kind that is not known.
    #[error("--http-tls-cert {chain} with --http-tls-key {key}: {source}")]
    Pair {
        /// The certificate's file.
        chain: PathBuf,
        /// The key's file.
        key: PathBuf,
        /// Why.
        source: rustls::Error,
    },
}

/// A certificate that follows its files.
#[derive(Debug)]
pub(super) struct Certificate {
    files: CertificateFiles,
    provider: Arc<CryptoProvider>,
    current: Mutex<Current>,
}

#[derive(Debug)]
struct Current {
    key: Arc<CertifiedKey>,
    /// Of the files as they were last looked at, whether they could be used or not.
    stamp: [Option<Stamp>; 2],
}

/// What tells a file from what it was: device, inode, length, and when it was written.
type Stamp = (u64, u64, u64, i64, i64);

impl Certificate {
    /// Reads the files, which must be there already.
    pub(super) fn load(files: CertificateFiles) -> Result<Self, Error> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let stamp = stamps(&files);
        let key = read(&files, &provider)?;
        Ok(Certificate { files, provider, current: Mutex::new(Current { key, stamp }) })
    }

    /// The certificate as the files have it now.
    fn current(&self) -> Arc<CertifiedKey> {
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        let stamp = stamps(&self.files);
        if stamp != current.stamp {
            current.stamp = stamp;
            match read(&self.files, &self.provider) {
                Ok(key) => {
                    current.key = key;
                    tracing::info!("the certificate of the HTTP address is renewed");
                }
                Err(error) => tracing::error!("{error}; the certificate from before is served on"),
            }
        }
        Arc::clone(&current.key)
    }
}

impl ResolvesServerCert for Certificate {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.current())
    }
}

fn read(files: &CertificateFiles, provider: &CryptoProvider) -> Result<Arc<CertifiedKey>, Error> {
    let CertificateFiles { chain, key } = files;
    let bad = |flag, path: &Path| {
        let path = path.to_owned();
        move |source| Error::File { flag, path, source }
    };
    let certificates = CertificateDer::pem_file_iter(chain)
        .and_then(|all| all.collect::<Result<Vec<_>, _>>())
        .and_then(|all| if all.is_empty() { Err(pem::Error::NoItemsFound) } else { Ok(all) })
        .map_err(bad("--http-tls-cert", chain))?;
    let private = PrivateKeyDer::from_pem_file(key).map_err(bad("--http-tls-key", key))?;
    CertifiedKey::from_der(certificates, private, provider).map(Arc::new).map_err(|source| Error::Pair {
        chain: chain.clone(),
        key: key.clone(),
        source,
    })
}

fn stamps(files: &CertificateFiles) -> [Option<Stamp>; 2] {
    [&files.chain, &files.key].map(|path| {
        let data = fs::metadata(path).ok()?;
        Some((data.dev(), data.ino(), data.len(), data.mtime(), data.mtime_nsec()))
    })
}

/// TLS 1.2 and 1.3, with this certificate, for HTTP/1.1.
pub(super) fn config(certificate: Certificate) -> Result<Arc<ServerConfig>, rustls::Error> {
    let builder = ServerConfig::builder_with_provider(Arc::clone(&certificate.provider));
    let mut config =
        builder.with_safe_default_protocol_versions()?.with_no_client_auth().with_cert_resolver(Arc::new(certificate));
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

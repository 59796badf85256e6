//! [`Token`]: what a scrape must show.
//!
//! The file is read at each request, so that a new token counts from its first moment on and an old one no longer.

use std::io;
use std::path::{Path, PathBuf};

use axum::http::HeaderMap;
use axum::http::header::AUTHORIZATION;
use subtle::ConstantTimeEq;

/// Why there is no token to compare with.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// The file cannot be read.
    #[error("--http-token-file {path}: {source}")]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// There is nothing in it: anything would match.
    #[error("--http-token-file {0} is empty: put the token of your scraper in it")]
    Empty(PathBuf),
}

/// A bearer token (RFC 6750), in a file.
#[derive(Debug)]
pub(super) struct Token(PathBuf);

impl Token {
    /// The token of that file, which must be there already.
    pub(super) fn read(path: PathBuf) -> Result<Self, Error> {
        read(&path).map(|_| Token(path))
    }

    /// Whether a request shows it.
    pub(super) fn permits(&self, headers: &HeaderMap) -> Result<bool, Error> {
        let wanted = read(&self.0)?;
        Ok(shown(headers).is_some_and(|shown| bool::from(shown.as_bytes().ct_eq(wanted.as_bytes()))))
    }
}

fn read(path: &Path) -> Result<String, Error> {
    let text = std::fs::read_to_string(path).map_err(|source| Error::Unreadable { path: path.to_owned(), source })?;
    let token = text.trim();
    if token.is_empty() { Err(Error::Empty(path.to_owned())) } else { Ok(token.to_owned()) }
}

/// The token in a request's headers. The scheme's name is in any case (RFC 9110, 11.1).
fn shown(headers: &HeaderMap) -> Option<&str> {
    let (scheme, token) = headers.get(AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(authorization: &str) -> HeaderMap {
        HeaderMap::from_iter([(AUTHORIZATION, authorization.parse().unwrap())])
    }

    #[test]
    fn only_the_whole_token_of_the_file_as_it_is_now_is_accepted() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("token");
        std::fs::write(&path, "secret\n").unwrap();
        let token = Token::read(path.clone()).unwrap();
        assert!(token.permits(&with("Bearer secret")).unwrap());
        assert!(token.permits(&with("bearer  secret")).unwrap());
        for wrong in ["Bearer secre", "Bearer secret2", "Bearer ", "Basic secret", "secret", "Bearer SECRET"] {
            assert!(!token.permits(&with(wrong)).unwrap(), "{wrong}");
        }
        assert!(!token.permits(&HeaderMap::new()).unwrap());
        std::fs::write(&path, "another").unwrap();
        assert!(!token.permits(&with("Bearer secret")).unwrap());
        assert!(token.permits(&with("Bearer another")).unwrap());
    }

    #[test]
    fn without_a_token_in_the_file_nobody_is_let_in() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("token");
        assert!(Token::read(path.clone()).unwrap_err().to_string().contains("--http-token-file"));
        std::fs::write(&path, " \n").unwrap();
        assert!(matches!(Token::read(path), Err(Error::Empty(_))));
    }
}

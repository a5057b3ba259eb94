//! Whom TLS trusts: what the system trusts (or `SSL_CERT_FILE` and `SSL_CERT_DIR` in its place), and
//! besides what `NIX_SSL_CERT_FILE` names, since Nix trusts that too.

use std::env;
use std::fs;
use std::path::PathBuf;

use reqwest::{Certificate, ClientBuilder};

use super::error::Error;

const EXTRA_FILE: &str = "NIX_SSL_CERT_FILE";

/// Makes ring the process's provider of cryptography.
fn install_provider() {
    // Fails only where one is installed already, which is then used.
    let _ = rustls::crypto::ring::default_provider().install_default();
}

/// Sets up TLS. A plain `http` server needs no certificates, which may well be missing in a small
/// container.
pub(crate) fn configure(builder: ClientBuilder, secure: bool) -> Result<ClientBuilder, Error> {
    install_provider();
    if secure { Ok(builder.tls_certs_merge(extra()?)) } else { Ok(builder.tls_certs_only([])) }
}

fn extra() -> Result<Vec<Certificate>, Error> {
    let Some(path) = env::var_os(EXTRA_FILE).filter(|path| !path.is_empty()).map(PathBuf::from)
    else {
        return Ok(Vec::new());
    };
    let pem = fs::read(&path)
        .map_err(|source| Error::Certificates { path: path.clone(), source: source.into() })?;
    Certificate::from_pem_bundle(&pem)
        .map_err(|source| Error::Certificates { path, source: source.into() })
}

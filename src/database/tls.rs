//! Verified TLS, or none: the server's name and certificate are always checked, and nothing falls back to plain text.

use super::failure::plain;
use crate::config::{self, DatabaseTls};
use crate::fault::{Failure, Fault};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};
use std::path::Path;
use std::sync::Arc;
use tokio_postgres_rustls::MakeRustlsConnect;

/// TLS for one host; `None` for plain text, which `database.tls` has to allow. Reads its files anew each time, so that
/// a renewed certificate is picked up.
pub(super) fn connector(config: &config::Database, is_local: bool) -> Result<Option<MakeRustlsConnect>, Failure> {
    match config.tls {
        DatabaseTls::Disable => Ok(None),
        DatabaseTls::Auto if is_local => Ok(None),
        DatabaseTls::Auto | DatabaseTls::VerifyFull => verified(config).map(MakeRustlsConnect::new).map(Some),
    }
}

fn verified(config: &config::Database) -> Result<ClientConfig, Failure> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| plain(Fault::Bug, format!("starting tls: {error}")))?
        .with_root_certificates(authorities(config.ca_file.as_deref())?);
    match (&config.cert_file, &config.key_file) {
        (Some(cert_file), Some(key_file)) => {
            let chain = certificates("database.cert_file", cert_file)?;
            config::refuse_public(key_file).map_err(|what| unusable(&format!("database.key_file: {what}")))?;
            let key = PrivateKeyDer::from_pem_file(key_file)
                .map_err(|error| in_file("database.key_file", key_file, &error))?;
            let client = builder.with_client_auth_cert(chain, key);
            client.map_err(|error| in_file("database.cert_file", cert_file, &error))
        }
        (None, None) => Ok(builder.with_no_client_auth()),
        _ => Err(unusable("database.cert_file: needs database.key_file, and the other way round")),
    }
}

fn authorities(ca_file: Option<&Path>) -> Result<RootCertStore, Failure> {
    let mut store = RootCertStore::empty();
    match ca_file {
        Some(path) => {
            for certificate in certificates("database.ca_file", path)? {
                store.add(certificate).map_err(|error| in_file("database.ca_file", path, &error))?;
            }
        }
        None => {
            // A certificate of the system that can't be read is one authority less, not a reason to stop.
            store.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        }
    }
    match store.is_empty() {
        false => Ok(store),
        true => Err(unusable("no certificate authority found; set database.ca_file")),
    }
}

fn certificates(key: &str, path: &Path) -> Result<Vec<CertificateDer<'static>>, Failure> {
    let read = CertificateDer::pem_file_iter(path).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    let certificates = read.map_err(|error| in_file(key, path, &error))?;
    match certificates.is_empty() {
        false => Ok(certificates),
        true => Err(in_file(key, path, &"no certificate in it")),
    }
}

fn in_file(key: &str, path: &Path, error: &dyn std::fmt::Display) -> Failure {
    unusable(&format!("{key}: {}: {error}", path.display()))
}

/// Stops with 78, but a worker waits first: somebody may be renewing the file right now.
fn unusable(message: &str) -> Failure {
    plain(Fault::Schema, message)
}

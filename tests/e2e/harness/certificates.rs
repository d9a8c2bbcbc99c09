//! An authority of the test's own, and certificates by it: good ones, and bad ones of every kind.

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose, date_time_ymd,
};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// Signs certificates.
pub struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    directory: PathBuf,
    /// What has to be trusted, PEM.
    pub file: PathBuf,
}

/// A certificate with its key.
pub struct Certificate {
    /// The certificate, PEM, for everybody.
    pub cert_file: PathBuf,
    /// Its key, PEM, for its owner.
    pub key_file: PathBuf,
    /// Both, PEM: what Kafka calls a key store.
    pub store: String,
}

/// What a certificate is good for.
pub enum For<'a> {
    /// A server that is asked for by any of these names.
    Names(&'a [&'a str]),
    /// A server by these names, until some years ago.
    NamesOfThePast(&'a [&'a str]),
    /// A client of this name.
    Client(&'a str),
}

impl Authority {
    /// A new one, with its files in `directory`.
    pub fn new(directory: &Path, name: &str) -> Authority {
        let mut params = CertificateParams::new([]).expect("there is no name that could be wrong");
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let issuer = CertifiedIssuer::self_signed(params, key()).expect("an authority can be made");
        let file = directory.join(format!("{name}.pem"));
        std::fs::write(&file, issuer.pem()).expect("the directory takes files");
        Authority { issuer, directory: directory.to_owned(), file }
    }

    /// A certificate, with its files under this name.
    pub fn issue(&self, name: &str, what: For<'_>) -> Certificate {
        let names = match what {
            For::Names(names) | For::NamesOfThePast(names) => names,
            For::Client(_) => &[],
        };
        let names: Vec<String> = names.iter().map(ToString::to_string).collect();
        let mut params = CertificateParams::new(names).expect("the names are right");
        let common = if let For::Client(user) = what { user } else { name };
        params.distinguished_name.push(DnType::CommonName, common);
        params.extended_key_usages = vec![match what {
            For::Client(_) => ExtendedKeyUsagePurpose::ClientAuth,
            _ => ExtendedKeyUsagePurpose::ServerAuth,
        }];
        if let For::NamesOfThePast(_) = what {
            (params.not_before, params.not_after) = (date_time_ymd(2020, 1, 1), date_time_ymd(2021, 1, 1));
        }
        let key = key();
        let certificate = params.signed_by(&key, &self.issuer).expect("the authority signs");
        let (cert, key) = (certificate.pem(), key.serialize_pem());
        let file = |what: &str| self.directory.join(format!("{name}-{what}.pem"));
        std::fs::write(file("cert"), &cert).expect("the directory takes files");
        secret_file(&file("key"), &key);
        Certificate { cert_file: file("cert"), key_file: file("key"), store: format!("{key}{cert}") }
    }
}

fn key() -> KeyPair {
    KeyPair::generate().expect("keys can be made")
}

/// Writes a file that only its owner can read.
pub fn secret_file(path: &Path, text: &str) {
    std::fs::write(path, text).expect("the directory takes files");
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).expect("the file is ours");
}

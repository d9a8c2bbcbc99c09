//! Why a TLS handshake failed, in the same words for every server.
//!
//! Pure. What TLS itself refused is told apart from the weather: a certificate that has expired is no outage, and waiting
//! mends it only if a person does something meanwhile.

use chrono::{DateTime, SecondsFormat};
use rustls::pki_types::{ServerName, UnixTime};
use rustls::{AlertDescription, CertificateError, Error};
use std::io;
use std::sync::Arc;

/// How many names of a certificate are shown.
const NAMES_SHOWN: usize = 3;

/// A handshake that came to its end, and the answer is no.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    /// We don't believe the server, or don't speak as it does.
    ByUs(String),
    /// The server doesn't believe us.
    ByServer(String),
}

impl Refusal {
    /// What TLS said, if it was that which is behind an error. `section` holds the settings, such as `kafka.tls`.
    pub fn of(error: &(dyn std::error::Error + 'static), section: &str) -> Option<Refusal> {
        Some(match behind(error)? {
            Error::InvalidCertificate(what) => Refusal::ByUs(certificate(what, section)),
            Error::AlertReceived(alert) => received(*alert, section),
            Error::InvalidMessage(_) => Refusal::ByUs("this port does not speak TLS".to_owned()),
            other => Refusal::ByUs(format!("no TLS with this server: {other}")),
        })
    }
}

/// Looks for an error of TLS through all that was wrapped around it.
fn behind<'a>(error: &'a (dyn std::error::Error + 'static)) -> Option<&'a Error> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(found) = error.downcast_ref::<Error>() {
            return Some(found);
        }
        // Its own `source` passes over what it holds.
        let io = error.downcast_ref::<io::Error>().or_else(|| error.downcast_ref::<Arc<io::Error>>().map(|io| &**io));
        next = match io {
            Some(io) => io.get_ref().map(|inner| inner as &(dyn std::error::Error + 'static)),
            None => error.source(),
        };
    }
    None
}

/// What is wrong with the server's certificate.
fn certificate(what: &CertificateError, section: &str) -> String {
    match what {
        CertificateError::ExpiredContext { not_after, .. } => {
            format!("the server's certificate has expired at {}; renew it there", time(*not_after))
        }
        CertificateError::NotValidYetContext { not_before, .. } => {
            let when = time(*not_before);
            format!("the server's certificate is not valid before {when}; mend it, or the clock here")
        }
        // Bad is the signature of an authority that has the same name as a known one.
        CertificateError::UnknownIssuer | CertificateError::BadSignature => {
            format!("the server's certificate is signed by an unknown authority; set {section}.ca_file to that one's")
        }
        CertificateError::NotValidForNameContext { expected, presented } => format!(
            "the server's certificate is for {}, not for {}; connect by a name that is in it, or renew it there",
            names(presented),
            name(expected)
        ),
        other => format!("the server's certificate is refused: {other}"),
    }
}

fn received(alert: AlertDescription, section: &str) -> Refusal {
    use AlertDescription as Alert;
    match alert {
        Alert::CertificateRequired | Alert::NoCertificate => Refusal::ByServer(format!(
            "the server asks for a client certificate; set {section}.cert_file and {section}.key_file"
        )),
        Alert::BadCertificate
        | Alert::UnsupportedCertificate
        | Alert::CertificateRevoked
        | Alert::CertificateExpired
        | Alert::CertificateUnknown
        | Alert::UnknownCA
        | Alert::AccessDenied
        | Alert::DecryptError => Refusal::ByServer(format!(
            "the server refuses this client's certificate, or that it has none ({alert:?}); set {section}.cert_file and \
             {section}.key_file to one that it knows"
        )),
        other => Refusal::ByUs(format!("the server has broken the TLS handshake off: {other:?}")),
    }
}

fn time(time: UnixTime) -> String {
    let seconds = i64::try_from(time.as_secs()).ok();
    let time = seconds.and_then(|seconds| DateTime::from_timestamp(seconds, 0));
    time.map_or_else(|| "an unknown time".to_owned(), |time| time.to_rfc3339_opts(SecondsFormat::Secs, true))
}

fn name(name: &ServerName<'_>) -> String {
    format!("{:?}", name.to_str())
}

/// The library shows them in its own way of debugging: `DnsName("a.example")`.
fn names(presented: &[String]) -> String {
    let bare = |name: &String| match name.split_once("(\"").and_then(|(_, rest)| rest.strip_suffix("\")")) {
        Some(bare) => format!("{bare:?}"),
        None => name.clone(),
    };
    let shown: Vec<String> = presented.iter().take(NAMES_SHOWN).map(bare).collect();
    match presented.len() {
        0 => "no name".to_owned(),
        n if n > NAMES_SHOWN => format!("{} and more", shown.join(", ")),
        _ => shown.join(", "),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn refusal(error: Error) -> Refusal {
        Refusal::of(&io::Error::new(io::ErrorKind::InvalidData, error), "database").expect("it is of TLS")
    }

    #[test]
    fn a_bad_certificate_is_named_with_what_to_do() {
        let at = |seconds| UnixTime::since_unix_epoch(Duration::from_secs(seconds));
        let expired = CertificateError::ExpiredContext { time: at(2_000_000_000), not_after: at(1_700_000_000) };
        let other = CertificateError::NotValidForNameContext {
            expected: ServerName::try_from("127.0.0.1").expect("it is an address"),
            presented: vec!["DnsName(\"db.example\")".to_owned()],
        };
        for (error, said) in [
            (expired, "the server's certificate has expired at 2023-11-14T22:13:20Z; renew it there"),
            (
                CertificateError::UnknownIssuer,
                "the server's certificate is signed by an unknown authority; set database.ca_file to that one's",
            ),
            (
                other,
                "the server's certificate is for \"db.example\", not for \"127.0.0.1\"; connect by a name that is in it, or \
                 renew it there",
            ),
        ] {
            assert_eq!(refusal(Error::InvalidCertificate(error)), Refusal::ByUs(said.to_owned()));
        }
    }

    #[test]
    fn an_alert_about_our_certificate_is_the_servers_refusal() {
        for alert in [AlertDescription::CertificateRequired, AlertDescription::UnknownCA] {
            assert!(matches!(refusal(Error::AlertReceived(alert)), Refusal::ByServer(_)), "{alert:?}");
        }
        let other = refusal(Error::AlertReceived(AlertDescription::ProtocolVersion));
        assert!(matches!(other, Refusal::ByUs(_)), "{other:?}");
    }

    #[test]
    fn a_lost_connection_is_no_refusal() {
        let lost: io::Error = io::ErrorKind::UnexpectedEof.into();
        assert_eq!(Refusal::of(&lost, "database"), None);
    }
}

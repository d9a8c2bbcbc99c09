//! Between our words and the client's: partitions, faults, deadlines, security.

use crate::config::{Kafka as KafkaConfig, KafkaTls, Sasl, SaslMechanism, refuse_public};
use crate::handshake::Refusal;
use crate::record::TopicPartition;
use crate::source::SourceFault;
use crate::source::fault::Meaning;
use krafka::auth::{AuthConfig, OAuthBearerToken, TlsConfig};
use krafka::consumer::TopicPartition as WirePartition;
use krafka::error::{KrafkaError, ProtocolErrorKind};
use std::future::Future;
use std::time::Duration;

/// What a request may take beyond what it was allowed.
pub(super) const SLACK: Duration = Duration::from_millis(500);

pub(super) fn wire(partition: &TopicPartition) -> WirePartition {
    WirePartition::new(&*partition.topic, partition.partition)
}

pub(super) fn ours(partition: &WirePartition) -> TopicPartition {
    TopicPartition::new(partition.topic.as_str(), partition.partition)
}

pub(super) async fn within<T>(
    limit: Duration,
    call: impl Future<Output = krafka::Result<T>>,
) -> Result<T, SourceFault> {
    match tokio::time::timeout(limit + SLACK, call).await {
        Ok(answer) => answer.map_err(fault),
        Err(_) => Err(SourceFault::Away(format!("no answer within {} s", limit.as_secs()))),
    }
}

pub(super) fn fault(error: KrafkaError) -> SourceFault {
    match Refusal::of(&error, "kafka.tls") {
        Some(Refusal::ByUs(why)) => return SourceFault::Config(why),
        Some(Refusal::ByServer(why)) => return SourceFault::Denied(why),
        None => {}
    }
    match error {
        KrafkaError::Auth { .. } => SourceFault::Denied(error.to_string()),
        KrafkaError::Config { .. } => SourceFault::Config(error.to_string()),
        KrafkaError::Broker { code, .. } => Meaning::of(code.to_i16()).fault(error.to_string()),
        KrafkaError::Protocol { kind: ProtocolErrorKind::UnknownApiVersion, .. } => {
            SourceFault::Config(error.to_string())
        }
        // An undecodable batch: its text names partition and offset, then how this client's API would go on.
        KrafkaError::Protocol { kind, message } if !kind.is_retriable() => SourceFault::Unreadable(format!(
            "{} ({kind:?}): the stored bytes are damaged; restore them from a replica, or go on behind them by \
                 stock-db-writer reset",
            message.split(';').next().unwrap_or_default()
        )),
        other => SourceFault::Away(other.to_string()),
    }
}

/// As it was tried: where one side speaks TLS or SASL and the other does not, neither can say so.
pub(super) fn as_tried(config: &KafkaConfig, fault: SourceFault) -> SourceFault {
    let SourceFault::Away(message) = fault else { return fault };
    let with = |is_on: bool| if is_on { "with" } else { "without" };
    let (tls, sasl) = (with(config.tls.is_some()), with(config.sasl.is_some()));
    SourceFault::Away(format!("{message}; tried {tls} TLS (kafka.tls) and {sasl} SASL (kafka.sasl)"))
}

pub(super) fn security(config: &KafkaConfig) -> Result<Option<AuthConfig>, SourceFault> {
    let tls = config.tls.as_ref().map(tls).transpose()?;
    let Some(sasl) = &config.sasl else { return Ok(tls.map(AuthConfig::ssl)) };
    let secret = sasl.secret().map_err(SourceFault::Config)?;
    let auth = match sasl.mechanism {
        SaslMechanism::Plain => AuthConfig::sasl_plain(&sasl.username, secret.reveal()),
        SaslMechanism::ScramSha256 => AuthConfig::sasl_scram_sha256(&sasl.username, secret.reveal()),
        SaslMechanism::ScramSha512 => AuthConfig::sasl_scram_sha512(&sasl.username, secret.reveal()),
        // Read at every connection, so that whoever renews the token only has to put it there.
        SaslMechanism::OAuthBearer => {
            let sasl = sasl.clone();
            AuthConfig::sasl_oauthbearer_provider(move || std::future::ready(token(&sasl)))
        }
    };
    Ok(Some(match tls {
        Some(tls) => auth.with_tls(tls),
        None => auth,
    }))
}

fn token(sasl: &Sasl) -> krafka::Result<OAuthBearerToken> {
    let token = sasl.secret().map_err(KrafkaError::auth)?;
    Ok(OAuthBearerToken::new(token.reveal()))
}

fn tls(config: &KafkaTls) -> Result<TlsConfig, SourceFault> {
    let wire = match &config.ca_file {
        Some(ca_file) => TlsConfig::new().with_ca_cert(ca_file.display().to_string()),
        None => TlsConfig::new().with_native_roots(),
    };
    let (Some(cert_file), Some(key_file)) = (&config.cert_file, &config.key_file) else { return Ok(wire) };
    refuse_public(key_file).map_err(|what| SourceFault::Config(format!("kafka.tls.key_file: {what}")))?;
    Ok(wire.with_client_cert(cert_file.display().to_string(), key_file.display().to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use krafka::error::ErrorCode;

    fn broker(code: ErrorCode) -> SourceFault {
        fault(KrafkaError::Broker { code, message: "planned".to_owned() })
    }

    fn protocol(kind: ProtocolErrorKind) -> SourceFault {
        fault(KrafkaError::Protocol { kind, message: "undecodable record batch at t-0 offset 7; seek".to_owned() })
    }

    #[test]
    fn what_waiting_cannot_mend_is_not_away() {
        assert!(matches!(broker(ErrorCode::FencedInstanceId), SourceFault::Replaced(_)));
        assert!(matches!(broker(ErrorCode::GroupAuthorizationFailed), SourceFault::Denied(_)));
        assert!(matches!(broker(ErrorCode::InvalidSessionTimeout), SourceFault::Config(_)));
        assert!(matches!(protocol(ProtocolErrorKind::UnknownApiVersion), SourceFault::Config(_)));
        let SourceFault::Unreadable(message) = protocol(ProtocolErrorKind::CrcMismatch) else {
            panic!("damaged bytes")
        };
        assert!(message.starts_with("undecodable record batch at t-0 offset 7 (CrcMismatch): "), "{message}");
    }

    #[test]
    fn what_heals_by_itself_is_away() {
        assert!(matches!(broker(ErrorCode::CoordinatorLoadInProgress), SourceFault::Away(_)));
        assert!(matches!(broker(ErrorCode::RebalanceInProgress), SourceFault::Away(_)));
        assert!(matches!(protocol(ProtocolErrorKind::TruncatedFrame), SourceFault::Away(_)));
    }
}

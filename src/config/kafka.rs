//! `[kafka]`, with `[kafka.tls]` and `[kafka.sasl]`.

use super::reader::{Reader, boolean, integer, list, millis, non_empty, one_of, size, text};
use super::secret::Secret;
use super::sources::Raw;
use crate::record::StartAt;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// `[kafka]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kafka {
    /// Bootstrap servers, `host:port`. Never empty.
    pub brokers: Vec<String>,
    /// Who speaks to them.
    pub client: Client,
    /// The consumer group.
    pub group: String,
    /// Who decides which partitions are ours.
    pub assignment: AssignmentMode,
    /// The group's protocol.
    pub group_protocol: GroupProtocol,
    /// Static membership.
    pub instance_id: Option<String>,
    /// Where this process runs: brokers that know of racks have it read from the closest replica.
    pub rack: Option<String>,
    /// Where a new pipeline starts.
    pub start_at: StartAt,
    /// Whether records of open and aborted transactions are read.
    pub isolation: Isolation,
    /// What happens where Kafka has deleted records that were not read.
    pub on_gap: OnGap,
    /// A larger value becomes a dead letter, in bytes.
    pub message_bytes_max: usize,
    /// How long a classic group waits for a silent member.
    pub session_timeout: Duration,
    /// TLS, if enabled.
    pub tls: Option<KafkaTls>,
    /// SASL, if a mechanism is set.
    pub sasl: Option<Sasl>,
}

impl Kafka {
    /// The files that are read once, when Kafka is connected to: certificates, keys, passwords. A token's is read whenever
    /// somebody has to be shown it.
    pub fn files(&self) -> Vec<&Path> {
        let tls = self.tls.iter().flat_map(|tls| [&tls.ca_file, &tls.cert_file, &tls.key_file]).flatten();
        let has_password = |sasl: &&Sasl| sasl.mechanism != SaslMechanism::OAuthBearer;
        let sasl = self.sasl.iter().filter(has_password).map(|sasl| &sasl.secret_file);
        tls.chain(sasl).map(PathBuf::as_path).collect()
    }
}

/// `kafka.client`: one of those that are built in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Client {
    /// The crate `krafka`.
    #[cfg(feature = "client-krafka")]
    Krafka,
    /// The crate `kafka`, for brokers before 4.0.
    #[cfg(feature = "client-kafka")]
    Kafka,
}

impl Client {
    /// All that are built in, with their names; the first is the default.
    const BUILT: &[(&str, Client)] = &[
        #[cfg(feature = "client-krafka")]
        ("krafka", Client::Krafka),
        #[cfg(feature = "client-kafka")]
        ("kafka", Client::Kafka),
    ];
}

/// `kafka.assignment`
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AssignmentMode {
    /// Kafka's group coordinator.
    Group,
    /// Nobody: every partition is ours.
    All,
    /// The operator: these partitions of every topic. Sorted, each once, never empty.
    Partitions(Vec<i32>),
}

impl AssignmentMode {
    /// The partitions that are read of a topic that has so many, as far as it is decided here.
    pub fn read(&self, partitions: i32) -> Vec<i32> {
        match self {
            AssignmentMode::Partitions(listed) => listed.iter().copied().filter(|n| *n < partitions).collect(),
            AssignmentMode::Group | AssignmentMode::All => (0..partitions).collect(),
        }
    }

    /// The partitions that are listed and that a topic which has so many lacks.
    pub fn lacking(&self, partitions: i32) -> Vec<i32> {
        match self {
            AssignmentMode::Partitions(listed) => listed.iter().copied().filter(|n| *n >= partitions).collect(),
            AssignmentMode::Group | AssignmentMode::All => Vec::new(),
        }
    }
}

/// `kafka.group_protocol`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GroupProtocol {
    /// `consumer` where the brokers offer it and no `instance_id` is set, else `classic`.
    Auto,
    /// The protocol of all brokers.
    Classic,
    /// KIP-848, Kafka 4.0 and later.
    Consumer,
}

/// `kafka.isolation`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Isolation {
    /// Only what was committed.
    ReadCommitted,
    /// Everything.
    ReadUncommitted,
}

/// `kafka.on_gap`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnGap {
    /// A person decides.
    Stop,
    /// It is recorded, and reading goes on at the oldest record that is there.
    Record,
}

/// `[kafka.tls]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KafkaTls {
    /// Certificate authorities, PEM; the system's if not set.
    pub ca_file: Option<PathBuf>,
    /// Our certificate, PEM. Set if and only if `key_file` is.
    pub cert_file: Option<PathBuf>,
    /// Its key, PEM.
    pub key_file: Option<PathBuf>,
}

/// `[kafka.sasl]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sasl {
    /// How the secret is proven.
    pub mechanism: SaslMechanism,
    /// Who we are. Empty if and only if a token says it.
    pub username: String,
    /// Where the password is, or the token.
    pub secret_file: PathBuf,
}

impl Sasl {
    /// Reads the secret's file.
    pub fn secret(&self) -> Result<Secret, String> {
        Secret::from_file(&self.secret_file).map_err(|error| format!("{}: {error}", self.mechanism.secret_key()))
    }
}

/// `kafka.sasl.mechanism`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SaslMechanism {
    /// The password itself.
    Plain,
    /// RFC 5802 with SHA-256.
    ScramSha256,
    /// RFC 5802 with SHA-512.
    ScramSha512,
    /// RFC 7628: a token that somebody else issues and renews.
    OAuthBearer,
}

impl SaslMechanism {
    /// Where its secret is set.
    fn secret_key(self) -> &'static str {
        match self {
            SaslMechanism::OAuthBearer => "kafka.sasl.token_file",
            SaslMechanism::Plain | SaslMechanism::ScramSha256 | SaslMechanism::ScramSha512 => {
                "kafka.sasl.password_file"
            }
        }
    }

    /// What of it whoever listens could use again.
    fn readable(self) -> Option<&'static str> {
        match self {
            SaslMechanism::Plain => Some("PLAIN without TLS sends the password readable"),
            SaslMechanism::OAuthBearer => Some("OAUTHBEARER without TLS sends the token readable"),
            SaslMechanism::ScramSha256 | SaslMechanism::ScramSha512 => None,
        }
    }
}

pub(super) fn read(reader: &mut Reader) -> Kafka {
    let gaps = [("stop", OnGap::Stop), ("record", OnGap::Record)];
    let protocols =
        [("auto", GroupProtocol::Auto), ("classic", GroupProtocol::Classic), ("consumer", GroupProtocol::Consumer)];
    let isolations = [("read_committed", Isolation::ReadCommitted), ("read_uncommitted", Isolation::ReadUncommitted)];
    let tls = tls(reader);
    let kafka = Kafka {
        client: reader.get("kafka.client", client).unwrap_or(Client::BUILT[0].1),
        brokers: reader.get("kafka.brokers", brokers).unwrap_or_else(|| vec!["localhost:9092".to_owned()]),
        group: reader.get("kafka.group", non_empty).unwrap_or_else(|| "db-writer-group".to_owned()),
        assignment: reader.get("kafka.assignment", assignment).unwrap_or(AssignmentMode::Group),
        group_protocol: reader.get("kafka.group_protocol", one_of(&protocols)).unwrap_or(GroupProtocol::Auto),
        instance_id: reader.get("kafka.instance_id", text).filter(|id| !id.is_empty()),
        rack: reader.get("kafka.rack", text).filter(|rack| !rack.is_empty()),
        start_at: reader.get("kafka.start_at", start_at).unwrap_or(StartAt::Earliest),
        isolation: reader.get("kafka.isolation", one_of(&isolations)).unwrap_or(Isolation::ReadCommitted),
        on_gap: reader.get("kafka.on_gap", one_of(&gaps)).unwrap_or(OnGap::Stop),
        message_bytes_max: reader.get("kafka.max_message_bytes", size(1, 1 << 30)).unwrap_or(8 << 20),
        session_timeout: reader
            .get("kafka.session_timeout_ms", millis(1_000, 1_800_000))
            .unwrap_or(Duration::from_secs(45)),
        sasl: sasl(reader, tls.is_some()),
        tls,
    };
    match kafka.client {
        #[cfg(feature = "client-krafka")]
        Client::Krafka => check_membership(reader, &kafka),
        #[cfg(feature = "client-kafka")]
        Client::Kafka => refuse_what_is_newer(reader, &kafka),
    }
    kafka
}

#[cfg(feature = "client-krafka")]
fn check_membership(reader: &mut Reader, kafka: &Kafka) {
    if kafka.instance_id.is_some() && kafka.group_protocol == GroupProtocol::Consumer {
        // The client waits for its own earlier self: after a kill it would read nothing until the session ends.
        let what = "needs a classic group; leave kafka.group_protocol at \"auto\", or set it to \"classic\"";
        reader.complain(&["kafka.instance_id", "kafka.group_protocol"], what);
    }
    if kafka.instance_id.is_some() && kafka.assignment != AssignmentMode::Group {
        let what = "is of use only with kafka.assignment = \"group\"";
        reader.complain(&["kafka.instance_id", "kafka.assignment"], what);
    }
}

/// What protocol version 0, or the client that speaks it, does not have.
#[cfg(feature = "client-kafka")]
fn refuse_what_is_newer(reader: &mut Reader, kafka: &Kafka) {
    let mut refuse = |key: &str, what: &str| {
        let what = format!("client = \"kafka\" {what}, or use client = \"krafka\"");
        reader.complain(&[key, "kafka.client"], what);
    };
    if kafka.assignment == AssignmentMode::Group {
        refuse("kafka.assignment", "joins no group: set \"all\" or a list of partitions");
    }
    if kafka.group_protocol != GroupProtocol::Auto {
        refuse("kafka.group_protocol", "joins no group: leave it at \"auto\"");
    }
    if kafka.instance_id.is_some() {
        refuse("kafka.instance_id", "joins no group: leave it empty");
    }
    if kafka.rack.is_some() {
        refuse("kafka.rack", "reads from leaders only: leave it empty");
    }
    if kafka.isolation == Isolation::ReadCommitted {
        refuse(
            "kafka.isolation",
            "can't tell what was aborted: if nobody writes to these topics in transactions, set \"read_uncommitted\"",
        );
    }
    if matches!(kafka.start_at, StartAt::TimeMs(_)) {
        refuse("kafka.start_at", "can't look for a time: set \"earliest\", \"latest\" or \"kafka-group\"");
    }
    if kafka.tls.is_some() {
        refuse("kafka.tls.enable", "speaks no TLS: set it to false");
    }
    if kafka.sasl.is_some() {
        refuse("kafka.sasl.mechanism", "speaks no SASL: leave it empty");
    }
}

fn client(raw: &Raw) -> Result<Client, String> {
    const NAMES: [&str; 2] = ["krafka", "kafka"];
    let given = text(raw)?;
    match Client::BUILT.iter().find(|(name, _)| *name == given) {
        Some((_, client)) => Ok(*client),
        None if NAMES.contains(&given.as_str()) => {
            let built: Vec<&str> = Client::BUILT.iter().map(|(name, _)| *name).collect();
            Err(format!("{given:?} is not built into this program, only {built:?}"))
        }
        None => Err(format!("must be \"krafka\" or \"kafka\", is {given:?}")),
    }
}

fn tls(reader: &mut Reader) -> Option<KafkaTls> {
    let enable = reader.get("kafka.tls.enable", boolean).unwrap_or(false);
    reader.get("kafka.tls.verify", |raw| match boolean(raw)? {
        true => Ok(()),
        false => Err("unverified TLS protects from nobody; set kafka.tls.ca_file instead".to_owned()),
    });
    let tls = KafkaTls {
        ca_file: reader.path("kafka.tls.ca_file"),
        cert_file: reader.path("kafka.tls.cert_file"),
        key_file: reader.secret_path("kafka.tls.key_file"),
    };
    if tls.cert_file.is_some() != tls.key_file.is_some() {
        reader.complain(
            &["kafka.tls.cert_file", "kafka.tls.key_file"],
            "needs kafka.tls.key_file, and the other way round",
        );
    }
    // Else whoever forgets `enable` talks in plain text and believes the opposite.
    let named = [("ca_file", &tls.ca_file), ("cert_file", &tls.cert_file), ("key_file", &tls.key_file)];
    for (name, _) in named.into_iter().filter(|(_, file)| file.is_some() && !enable) {
        let what = "has no effect without kafka.tls.enable = true";
        reader.complain(&[&format!("kafka.tls.{name}"), "kafka.tls.enable"], what);
    }
    enable.then_some(tls)
}

fn sasl(reader: &mut Reader, encrypted: bool) -> Option<Sasl> {
    reader.refuse("kafka.sasl.password", "a password is only read from a file: set kafka.sasl.password_file");
    let mechanism = reader.get("kafka.sasl.mechanism", mechanism).flatten();
    let username = reader.get("kafka.sasl.username", text).filter(|name| !name.is_empty());
    let password_file = reader.secret_path("kafka.sasl.password_file");
    let token_file = reader.secret_path("kafka.sasl.token_file");
    let readable_is_fine = reader.get("kafka.sasl.allow_plaintext_password", boolean).unwrap_or(false);
    let set = [
        ("kafka.sasl.username", username.is_some()),
        ("kafka.sasl.password_file", password_file.is_some()),
        ("kafka.sasl.token_file", token_file.is_some()),
    ];
    let needed: &[&str] = match mechanism {
        None => &[],
        Some(SaslMechanism::OAuthBearer) => &["kafka.sasl.token_file"],
        Some(_) => &["kafka.sasl.username", "kafka.sasl.password_file"],
    };
    for (key, is_set) in set {
        let what = match (mechanism, needed.contains(&key), is_set) {
            (None, _, true) => "has no effect without kafka.sasl.mechanism",
            (Some(_), false, true) => "has no effect with this kafka.sasl.mechanism",
            (Some(_), true, false) => "must be set when this mechanism is",
            _ => continue,
        };
        reader.complain(&[key, "kafka.sasl.mechanism"], what);
    }
    let mechanism = mechanism?;
    if let Some(what) = mechanism.readable().filter(|_| !encrypted && !readable_is_fine) {
        let what = format!(
            "{what}: set kafka.tls.enable = true, or use SCRAM, or, if the network is trusted, \
             kafka.sasl.allow_plaintext_password = true"
        );
        reader.complain(&["kafka.sasl.mechanism", "kafka.tls.enable"], what);
    }
    match mechanism {
        SaslMechanism::OAuthBearer => Some(Sasl { mechanism, username: String::new(), secret_file: token_file? }),
        _ => Some(Sasl { mechanism, username: username?, secret_file: password_file? }),
    }
}

fn mechanism(raw: &Raw) -> Result<Option<SaslMechanism>, String> {
    match text(raw)?.as_str() {
        "" => Ok(None),
        "PLAIN" => Ok(Some(SaslMechanism::Plain)),
        "SCRAM-SHA-256" => Ok(Some(SaslMechanism::ScramSha256)),
        "SCRAM-SHA-512" => Ok(Some(SaslMechanism::ScramSha512)),
        "OAUTHBEARER" => Ok(Some(SaslMechanism::OAuthBearer)),
        other => {
            Err(format!("must be \"PLAIN\", \"SCRAM-SHA-256\", \"SCRAM-SHA-512\" or \"OAUTHBEARER\", is {other:?}"))
        }
    }
}

fn brokers(raw: &Raw) -> Result<Vec<String>, String> {
    let brokers = list(raw)?;
    let is_address = |broker: &str| {
        let (host, port) = broker.rsplit_once(':')?;
        let port: u16 = port.parse().ok()?;
        Some(port > 0 && !host.is_empty() && !host.contains(['/', '@', ' ']))
    };
    match brokers.iter().find(|broker| is_address(broker) != Some(true)) {
        Some(wrong) => Err(format!("must be host:port, is {wrong:?}")),
        None => Ok(brokers),
    }
}

fn assignment(raw: &Raw) -> Result<AssignmentMode, String> {
    const WRONG: &str = "must be \"group\", \"all\" or a list of partition numbers such as [0, 1]";
    let number = integer(0, i32::MAX);
    let numbers: Result<Vec<i32>, String> = match raw {
        Raw::List(items) => items.iter().map(number).collect(),
        _ => match text(raw).map_err(|_| WRONG.to_owned())?.as_str() {
            "group" => return Ok(AssignmentMode::Group),
            "all" => return Ok(AssignmentMode::All),
            listed => listed.split(',').map(|item| number(&Raw::Text(item.to_owned()))).collect(),
        },
    };
    let mut numbers = numbers.map_err(|_| WRONG.to_owned())?;
    numbers.sort_unstable();
    numbers.dedup();
    if numbers.is_empty() { Err(WRONG.to_owned()) } else { Ok(AssignmentMode::Partitions(numbers)) }
}

fn start_at(raw: &Raw) -> Result<StartAt, String> {
    match text(raw)?.as_str() {
        "earliest" => Ok(StartAt::Earliest),
        "latest" => Ok(StartAt::Latest),
        "kafka-group" => Ok(StartAt::KafkaGroup),
        time => chrono::DateTime::parse_from_rfc3339(time)
            .map(|time| StartAt::TimeMs(time.timestamp_millis()))
            .map_err(|_| "must be \"earliest\", \"latest\", \"kafka-group\" or an RFC 3339 time".to_owned()),
    }
}

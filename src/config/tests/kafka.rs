//! Section `kafka`: the clients, TLS, SASL, and where to start.

use super::*;

#[cfg(feature = "client-kafka")]
const OLD_CLIENT: &str = "[kafka]\nclient = \"kafka\"\n";

#[cfg(all(feature = "client-kafka", feature = "client-krafka"))]
#[test]
fn the_client_for_old_brokers_is_told_what_it_can_do() {
    let told = format!("{OLD_CLIENT}assignment = \"all\"\nisolation = \"read_uncommitted\"\n");
    let config = file(&told).config();
    assert_eq!((config.kafka.client, config.kafka.assignment), (Client::Kafka, AssignmentMode::All));
    assert_eq!(file("").config().kafka.client, Client::Krafka);
    for text in ["start_at = \"latest\"", "start_at = \"kafka-group\"", "assignment = [0, 2]"] {
        let told =
            told.replace("assignment = \"all\"\n", if text.starts_with('a') { "" } else { "assignment = \"all\"\n" });
        assert_eq!(file(&format!("{told}{text}")).config().kafka.client, Client::Kafka);
    }
    let errors = file(OLD_CLIENT).errors();
    assert_eq!(
        errors,
        [
            "writer.toml:2: kafka.assignment: client = \"kafka\" joins no group: set \"all\" or a list of partitions, or \
             use client = \"krafka\"",
            "writer.toml:2: kafka.isolation: client = \"kafka\" can't tell what was aborted: if nobody writes to these \
             topics in transactions, set \"read_uncommitted\", or use client = \"krafka\"",
        ]
    );
}

#[cfg(feature = "client-kafka")]
#[test]
fn what_the_client_for_old_brokers_lacks_is_refused_in_one_line() {
    let scratch = Scratch::new();
    let password = scratch.file("password", "secret").display().to_string();
    let sasl =
        format!("[kafka.sasl]\nmechanism = \"SCRAM-SHA-256\"\nusername = \"me\"\npassword_file = \"{password}\"");
    for (text, line, key) in [
        ("assignment = \"group\"\nisolation = \"read_uncommitted\"", 3, "kafka.assignment"),
        ("assignment = \"all\"\nisolation = \"read_committed\"", 4, "kafka.isolation"),
        ("group_protocol = \"consumer\"", 5, "kafka.group_protocol"),
        ("group_protocol = \"classic\"", 5, "kafka.group_protocol"),
        ("instance_id = \"writer-1\"", 5, "kafka.instance_id"),
        ("rack = \"eu-west-1a\"", 5, "kafka.rack"),
        ("start_at = \"2024-01-02T15:04:05Z\"", 5, "kafka.start_at"),
        ("[kafka.tls]\nenable = true", 6, "kafka.tls.enable"),
        (&sasl, 6, "kafka.sasl.mechanism"),
        ("[dead_letters]\ntopic = \"letters\"", 6, "dead_letters.topic"),
    ] {
        let told = "assignment = \"all\"\nisolation = \"read_uncommitted\"\n";
        let told = if text.contains("isolation") { "" } else { told };
        let error = only_error(&format!("{OLD_CLIENT}{told}{text}"));
        assert!(error.starts_with(&format!("writer.toml:{line}: {key}: client = \"kafka\" ")), "{error}");
        assert!(error.ends_with("or use client = \"krafka\""), "{error}");
    }
}

#[cfg(feature = "client-krafka")]
#[test]
fn a_rack_goes_with_every_kind_of_assignment() {
    let rack = |text: &str| file(&format!("[kafka]\n{text}")).config().kafka.rack;
    assert_eq!(rack("rack = \"\""), None);
    for more in
        ["", "assignment = \"all\"", "assignment = [0, 2]", "group_protocol = \"consumer\"", "instance_id = \"a\""]
    {
        assert_eq!(rack(&format!("rack = \"eu-west-1a\"\n{more}")).as_deref(), Some("eu-west-1a"), "{more}");
    }
    assert_eq!(only_error("[kafka]\nrack = 1"), "writer.toml:2: kafka.rack: must be a string in quotes");
}

#[test]
fn another_client_is_refused_and_nothing_is_concluded_from_it() {
    let error = only_error("[kafka]\nclient = \"librdkafka\"");
    assert_eq!(error, "writer.toml:2: kafka.client: must be \"krafka\" or \"kafka\", is \"librdkafka\"");
}

#[cfg(not(all(feature = "client-kafka", feature = "client-krafka")))]
#[test]
fn a_client_that_is_not_built_in_is_refused_by_name() {
    let missing = if cfg!(feature = "client-kafka") { "krafka" } else { "kafka" };
    let error = only_error(&format!("[kafka]\nclient = {missing:?}"));
    assert!(error.starts_with(&format!("writer.toml:2: kafka.client: {missing:?} is not built in")), "{error}");
}

#[test]
fn start_at_takes_times() {
    let at = |value: &str| file(&format!("[kafka]\nstart_at = {value}")).config().kafka.start_at;
    assert_eq!(at("\"latest\""), StartAt::Latest);
    assert_eq!(at("\"kafka-group\""), StartAt::KafkaGroup);
    assert_eq!(at("\"2024-01-02T15:04:05.5Z\""), StartAt::TimeMs(1_704_207_845_500));
    assert_eq!(at("2024-01-02T16:04:05+01:00"), StartAt::TimeMs(1_704_207_845_000));
}

#[test]
fn tls_settings_without_tls_are_refused() {
    let scratch = Scratch::new();
    let ca = scratch.file("ca.pem", "x");
    let text = format!("[kafka.tls]\nca_file = {ca:?}");
    assert!(only_error(&text).ends_with("kafka.tls.ca_file: has no effect without kafka.tls.enable = true"));
    let tls = file(&format!("{text}\nenable = true")).config().kafka.tls.expect("TLS is enabled");
    assert_eq!((tls.ca_file, tls.cert_file, tls.key_file), (Some(ca.clone()), None, None));
    let text = format!("[kafka.tls]\nenable = true\ncert_file = {ca:?}");
    assert!(only_error(&text).contains("kafka.tls.cert_file: needs kafka.tls.key_file"));
    assert!(only_error("[kafka.tls]\nenable = true\nca_file = \"/nowhere/ca.pem\"").contains("/nowhere/ca.pem: "));
}

#[test]
fn a_password_is_sent_readable_only_on_demand() {
    let scratch = Scratch::new();
    let password_file = scratch.file("password", "hunter2\n");
    let sasl = |mechanism: &str, more: &str| {
        format!("[kafka.sasl]\nmechanism = {mechanism:?}\nusername = \"me\"\npassword_file = {password_file:?}\n{more}")
    };
    assert!(only_error(&sasl("PLAIN", "")).contains("kafka.sasl.mechanism: PLAIN without TLS"));
    for (text, mechanism) in [
        (sasl("PLAIN", "allow_plaintext_password = true"), SaslMechanism::Plain),
        (sasl("PLAIN", "[kafka.tls]\nenable = true"), SaslMechanism::Plain),
        (sasl("SCRAM-SHA-256", ""), SaslMechanism::ScramSha256),
        (sasl("SCRAM-SHA-512", ""), SaslMechanism::ScramSha512),
    ] {
        let sasl = file(&text).config().kafka.sasl.expect("a mechanism is set");
        assert_eq!((sasl.mechanism, sasl.username.as_str()), (mechanism, "me"));
        assert_eq!(sasl.secret().map(|password| password.reveal().to_owned()), Ok("hunter2".to_owned()));
        assert!(!format!("{sasl:?}").contains("hunter2"));
    }
}

#[test]
fn sasl_is_set_as_a_whole() {
    let errors = file("[kafka.sasl]\nmechanism = \"PLAIN\"").errors();
    let keys: Vec<&str> = errors.iter().filter_map(|error| error.split(": ").nth(1)).collect();
    assert_eq!(keys, ["kafka.sasl.mechanism", "kafka.sasl.password_file", "kafka.sasl.username"], "{errors:#?}");
    assert!(only_error("[kafka.sasl]\nusername = \"me\"").contains("has no effect without kafka.sasl.mechanism"));
    assert!(only_error("[kafka.sasl]\npassword = \"hunter2\"").contains("set kafka.sasl.password_file"));
}

#[test]
fn a_token_stands_for_name_and_password() {
    let scratch = Scratch::new();
    let token_file = scratch.file("token", "hunter2\n");
    let sasl = |more: &str| format!("[kafka.sasl]\nmechanism = \"OAUTHBEARER\"\n{more}");
    let with_token = sasl(&format!("token_file = {token_file:?}\n"));
    assert!(only_error(&with_token).contains("kafka.sasl.mechanism: OAUTHBEARER without TLS sends the token readable"));
    for more in ["allow_plaintext_password = true", "[kafka.tls]\nenable = true"] {
        let sasl = file(&format!("{with_token}{more}")).config().kafka.sasl.expect("a mechanism is set");
        assert_eq!((sasl.mechanism, sasl.username.as_str()), (SaslMechanism::OAuthBearer, ""));
        assert_eq!(sasl.secret().map(|token| token.reveal().to_owned()), Ok("hunter2".to_owned()));
    }
    let tls = "[kafka.tls]\nenable = true";
    let missing = only_error(&sasl(tls));
    assert!(missing.contains("kafka.sasl.token_file: must be set when this mechanism is"), "{missing}");
    let both = format!("{with_token}username = \"me\"\npassword_file = {token_file:?}\n{tls}");
    let errors = file(&both).errors();
    let what = "has no effect with this kafka.sasl.mechanism";
    assert_eq!(
        errors,
        [
            format!("writer.toml:4: kafka.sasl.username: {what}"),
            format!("writer.toml:5: kafka.sasl.password_file: {what}")
        ]
    );
    let other = format!(
        "[kafka.sasl]\nmechanism = \"SCRAM-SHA-256\"\nusername = \"me\"\npassword_file = {token_file:?}\n\
         token_file = {token_file:?}"
    );
    assert!(only_error(&other).starts_with(&format!("writer.toml:5: kafka.sasl.token_file: {what}")));
}

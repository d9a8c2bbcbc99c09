//! A broker of its own with a listener for every way to speak to it.
//!
//! Kafka reads its key stores when it starts, and takes PEM, so that no tool of Java's is needed.

use super::certificates::{Authority, For, secret_file};
use super::servers::servers;
use std::fmt::Write as _;
use std::io::Write as _;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The one user that the broker knows, and its password.
pub const USER: &str = "worker";
/// Its password.
pub const PASSWORD: &str = "hunter2-right";

/// A listener, as the broker's properties name it, and the protocol that it speaks.
const LISTENERS: [(&str, &str); 6] = [
    ("tls", "SSL"),
    ("mtls", "SSL"),
    ("expired", "SSL"),
    ("elsewhere", "SSL"),
    ("sasl_tls", "SASL_SSL"),
    ("sasl_plain", "SASL_PLAINTEXT"),
];

/// The broker, until dropped.
pub struct SecureBroker {
    directory: PathBuf,
    addresses: Vec<(&'static str, String)>,
}

impl SecureBroker {
    /// Starts it; `authority` has signed what it shows, and knows its clients.
    pub fn start(directory: &Path, authority: &Authority) -> SecureBroker {
        let addresses = LISTENERS.iter().map(|(name, _)| (*name, free_address())).collect();
        let mut broker = SecureBroker { directory: directory.join("broker"), addresses };
        std::fs::create_dir_all(&broker.directory).expect("the directory takes directories");
        let extra = directory.join("extra.properties");
        std::fs::write(&extra, broker.properties(directory, authority)).expect("the directory takes files");
        let owner = std::process::id().to_string();
        broker.service(
            &["up", "--postgres", "none"],
            &[
                ("SERVICES_KAFKA_EXTRA", extra.to_str().expect("the path is ASCII")),
                // It ends with this process, however that ends.
                ("SERVICES_OWNER_PID", &owner),
                ("KAFKA_PORT", ""),
                ("KAFKA_VERSION", ""),
            ],
        );
        let environment = broker.service(&["env"], &[]);
        let plain = environment.lines().find_map(|line| line.strip_prefix("KAFKA_BROKERS="));
        broker.addresses.push(("plain", plain.expect("the broker is up").to_owned()));
        // Kafka takes one mechanism of a user at a time.
        for mechanism in ["SCRAM-SHA-256", "SCRAM-SHA-512"] {
            broker.set_password(mechanism, PASSWORD);
        }
        broker
    }

    /// Gives the user another password.
    pub fn set_password(&self, mechanism: &str, password: &str) {
        let tool = ["kafka-tool", "kafka.admin.ConfigCommand", "--bootstrap-server", self.address("plain")];
        let credential = format!("{mechanism}=[password={password}]");
        let add = ["--alter", "--entity-type", "users", "--entity-name", USER, "--add-config", &credential];
        self.service(&[&tool[..], &add].concat(), &[]);
    }

    /// Where a listener is.
    pub fn address(&self, listener: &str) -> &str {
        &self.addresses.iter().find(|(name, _)| *name == listener).expect("there is such a listener").1
    }

    /// All listeners.
    pub fn addresses(&self) -> impl Iterator<Item = &str> {
        self.addresses.iter().map(|(_, address)| address.as_str())
    }

    /// Sends values to a topic, which comes to be by it.
    pub fn produce(&self, topic: &str, values: impl Iterator<Item = String>) {
        let mut kcat = Command::new("kcat")
            .args(["-P", "-b", self.address("plain"), "-t", topic])
            .stdin(Stdio::piped())
            .spawn()
            .expect("kcat is installed (dev/test does it)");
        let mut stdin = kcat.stdin.take().expect("stdin is a pipe");
        for value in values {
            writeln!(stdin, "{value}").expect("kcat reads");
        }
        drop(stdin);
        assert!(kcat.wait().expect("kcat ends").success(), "kcat could not deliver everything");
    }

    fn properties(&self, directory: &Path, authority: &Authority) -> String {
        let list = |of: &dyn Fn(&str, &str, &str) -> String| {
            let all = LISTENERS.iter().zip(&self.addresses);
            all.map(|((name, protocol), (_, address))| of(&name.to_uppercase(), protocol, address))
                .collect::<Vec<_>>()
                .join(",")
        };
        let places = list(&|name, _, address| format!("{name}://{address}"));
        let protocols = list(&|name, protocol, _| format!("{name}:{protocol}"));
        let mut properties = format!(
            "auto.create.topics.enable=true\nnum.partitions=1\n\
             listeners=PLAINTEXT://127.0.0.1:@KAFKA_PORT@,CONTROLLER://127.0.0.1:@CONTROLLER_PORT@,{places}\n\
             advertised.listeners=PLAINTEXT://127.0.0.1:@KAFKA_PORT@,{places}\n\
             listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,{protocols}\n\
             inter.broker.listener.name=PLAINTEXT\nsasl.enabled.mechanisms=PLAIN,SCRAM-SHA-256,SCRAM-SHA-512,OAUTHBEARER\n"
        );
        let mut set = |listener: &str, key: &str, value: &dyn std::fmt::Display| {
            writeln!(properties, "listener.name.{listener}.{key}={value}").expect("memory takes text");
        };
        let here: &[&str] = &["localhost", "127.0.0.1"];
        for (listener, what) in [
            ("tls", For::Names(here)),
            ("mtls", For::Names(here)),
            ("sasl_tls", For::Names(here)),
            ("expired", For::NamesOfThePast(here)),
            ("elsewhere", For::Names(&["other.example"])),
        ] {
            let store = directory.join(format!("{listener}-store.pem"));
            secret_file(&store, &authority.issue(&format!("broker-{listener}"), what).store);
            set(listener, "ssl.keystore.type", &"PEM");
            set(listener, "ssl.keystore.location", &store.display());
        }
        set("mtls", "ssl.client.auth", &"required");
        set("mtls", "ssl.truststore.type", &"PEM");
        set("mtls", "ssl.truststore.location", &authority.file.display());
        let module =
            |name: &str, more: &str| format!("org.apache.kafka.common.security.{name}LoginModule required{more};");
        for listener in ["sasl_tls", "sasl_plain"] {
            let mut jaas =
                |mechanism: &str, module: String| set(listener, &format!("{mechanism}.sasl.jaas.config"), &module);
            jaas("plain", module("plain.Plain", &format!(" user_{USER}=\"{PASSWORD}\"")));
            jaas("scram-sha-256", module("scram.Scram", ""));
            jaas("scram-sha-512", module("scram.Scram", ""));
            // Takes tokens that nobody has signed.
            jaas("oauthbearer", module("oauthbearer.OAuthBearer", " unsecuredLoginStringClaim_sub=\"broker\""));
        }
        // One mechanism is missing here.
        set("sasl_plain", "sasl.enabled.mechanisms", &"PLAIN,SCRAM-SHA-256,OAUTHBEARER");
        properties
    }

    fn service(&self, arguments: &[&str], environment: &[(&str, &str)]) -> String {
        servers().service_in(&self.directory, arguments, environment)
    }
}

impl Drop for SecureBroker {
    fn drop(&mut self) {
        // Where the test has failed, the process's end takes it down.
        if !std::thread::panicking() {
            self.service(&["down"], &[]);
        }
    }
}

/// Below the ports that dev/services takes and those of outgoing connections: nobody takes it before the broker does.
fn free_address() -> String {
    let address = || format!("127.0.0.1:{}", fastrand::u16(10_000..15_000));
    std::iter::repeat_with(address).find(|address| TcpListener::bind(address).is_ok()).expect("some port is free")
}

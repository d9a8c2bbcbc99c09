//! Makes connections: where to, as whom, with which settings, and within which time.
//!
//! Every option of the client is said here, even where its default suits us today. A connection that isn't there after
//! [`CONNECT_MAX`] is a failure; the thread that still tries is left behind, and ends by the deadline on its socket.

use super::failure::{failure, not_a_row, plain};
use super::reaper::Reaper;
use super::session::Session;
use super::tls;
use super::wire::{Deadline, Dialer};
use crate::config;
use crate::fault::{Failure, Fault};
use crossbeam_channel::{RecvTimeoutError, bounded};
use postgres::config::{ChannelBinding, Host, LoadBalanceHosts, SslMode, SslNegotiation, TargetSessionAttrs};
use postgres::{Client, Config, NoTls, SimpleQueryMessage};
use r2d2::ManageConnection;
use r2d2_postgres::PostgresConnectionManager;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

/// How long connecting may take, all hosts together.
pub(super) const CONNECT_MAX: Duration = Duration::from_secs(10);
/// What the thread has beyond that, for its own deadlines to act and tell why.
const GRACE: Duration = Duration::from_secs(1);
/// Threads left behind, at most. They end by themselves, but for a name server or a unix socket that never answers.
const LEFT_BEHIND_MAX: usize = 16;
/// How long a cancel request may take.
const CANCEL_MAX: Duration = Duration::from_secs(5);

/// Makes [`Session`]s.
#[derive(Debug, Clone)]
pub(super) struct Connector {
    settings: Arc<config::Database>,
    hosts: Arc<[Target]>,
    // Without hosts and password.
    base: Arc<Config>,
    reaper: Reaper,
    trying: Arc<AtomicUsize>,
}

/// One server to try.
#[derive(Debug, Clone)]
struct Target {
    host: Host,
    address: Option<IpAddr>,
    port: u16,
}

impl Target {
    /// Whether nobody on a network can listen in.
    fn is_local(&self) -> bool {
        match (&self.host, self.address) {
            (Host::Unix(_), _) => true,
            (Host::Tcp(_), Some(address)) => address.is_loopback(),
            (Host::Tcp(name), None) => {
                name == "localhost" || name.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
            }
        }
    }
}

impl std::fmt::Display for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.host {
            Host::Unix(path) => write!(f, "{}, port {}", path.display(), self.port),
            Host::Tcp(name) if name.contains(':') => write!(f, "[{name}]:{}", self.port),
            Host::Tcp(name) => write!(f, "{name}:{}", self.port),
        }
    }
}

impl Connector {
    /// Reads the connection string. Nothing is connected yet.
    pub(super) fn new(settings: &config::Database, pipeline: &str, reaper: Reaper) -> Result<Self, Failure> {
        let url = settings.url.as_ref().map_or("", |url| url.reveal());
        // The parser's error names the option at fault and holds no value.
        let mut base: Config =
            url.parse().map_err(|error| unusable(&format!("database.url: {error}{}", cause(&error))))?;
        if base.get_ssl_negotiation() != SslNegotiation::Postgres {
            return Err(unusable("database.url: sslnegotiation=direct is not supported; leave it out"));
        }
        // The TLS in use reads no certificate's signature, so that every server would be refused.
        if base.get_channel_binding() == ChannelBinding::Require {
            return Err(unusable("database.url: channel_binding=require is not supported; leave it out"));
        }
        if let Some(user) = &settings.user {
            base.user(user);
        }
        if let Some(name) = &settings.name {
            base.dbname(name);
        }
        let mut hosts = targets(&base, settings.host.as_deref(), settings.port)?;
        if base.get_load_balance_hosts() == LoadBalanceHosts::Random {
            fastrand::shuffle(&mut hosts);
        }
        base.application_name(&format!("stock-db-writer {pipeline}"));
        base.options(&options(settings, base.get_options()));
        let connector = Connector {
            settings: Arc::new(settings.clone()),
            hosts: hosts.into(),
            base: Arc::new(base),
            reaper,
            trying: Arc::new(AtomicUsize::new(0)),
        };
        Ok(connector)
    }

    /// Connects, in a thread of its own, with a deadline: name resolution and unix sockets know none.
    pub(super) fn connect(&self) -> Result<Session, Failure> {
        if self.trying.fetch_add(1, Ordering::Relaxed) >= LEFT_BEHIND_MAX {
            self.trying.fetch_sub(1, Ordering::Relaxed);
            let message = format!("{}: {LEFT_BEHIND_MAX} earlier attempts still wait for an answer", self.doing(None));
            return Err(plain(Fault::Connection, message));
        }
        let (session_tx, session_rx) = bounded(1);
        let connector = self.clone();
        let thread = std::thread::Builder::new().name("database-connect".to_owned()).spawn(move || {
            let result = connector.connect_any();
            connector.trying.fetch_sub(1, Ordering::Relaxed);
            // Nobody waits any more: the session is dropped, which hands its client to the reaper.
            let _ = session_tx.send(result);
        });
        if let Err(error) = thread {
            self.trying.fetch_sub(1, Ordering::Relaxed);
            return Err(plain(Fault::Resource, format!("{}: starting a thread: {error}", self.doing(None))));
        }
        match session_rx.recv_timeout(CONNECT_MAX + GRACE) {
            Ok(result) => result,
            Err(RecvTimeoutError::Timeout) => {
                let message = format!("{}: no answer within {} s", self.doing(None), (CONNECT_MAX + GRACE).as_secs());
                Err(plain(Fault::Connection, message))
            }
            // Out of file descriptors: the client's runtime can't be built, and the client panics.
            Err(RecvTimeoutError::Disconnected) => {
                Err(plain(Fault::Resource, format!("{}: the attempt ended without a result", self.doing(None))))
            }
        }
    }

    /// Tries the hosts in their order. Of several failures the first that isn't just an absent server is told.
    fn connect_any(&self) -> Result<Session, Failure> {
        let mut worst: Option<Failure> = None;
        for target in self.hosts.iter() {
            match self.connect_to(target) {
                Ok(session) => return Ok(session),
                Err(error) => match &worst {
                    Some(worst) if !matches!(worst.fault, Fault::Connection | Fault::WrongNode) => {}
                    _ => worst = Some(error),
                },
            }
        }
        Err(worst.expect("there is at least one host"))
    }

    fn connect_to(&self, target: &Target) -> Result<Session, Failure> {
        let doing = self.doing(Some(target));
        let limit = CONNECT_MAX / self.hosts.len() as u32;
        let mut config = (*self.base).clone();
        config
            .password(self.password()?)
            .port(target.port)
            .connect_timeout(limit)
            .tcp_user_timeout(Duration::from_secs(20))
            .keepalives(true)
            .keepalives_idle(Duration::from_secs(10))
            .keepalives_interval(Duration::from_secs(5))
            .keepalives_retries(3)
            .target_session_attrs(TargetSessionAttrs::ReadWrite)
            .channel_binding(ChannelBinding::Prefer)
            .load_balance_hosts(LoadBalanceHosts::Disable)
            // A notice may hold row values, and a function on the server may send one for every row.
            .notice_callback(|_| {});
        let deadline = Deadline::default();
        let dialer = match &target.host {
            Host::Unix(path) => {
                config.host_path(path).ssl_mode(SslMode::Disable);
                None
            }
            Host::Tcp(name) => {
                config.host(name).ssl_mode(SslMode::Require).ssl_negotiation(SslNegotiation::Direct);
                if let Some(address) = target.address {
                    config.hostaddr(address);
                }
                let tls = tls::connector(&self.settings, target.is_local())?;
                Some(Dialer { tls, deadline: deadline.clone(), limit })
            }
        };
        let client = match &dialer {
            Some(dialer) => PostgresConnectionManager::new(config, dialer.clone()).connect(),
            None => PostgresConnectionManager::new(config, NoTls).connect(),
        };
        let mut client = client.map_err(|error| refused(failure(&doing, &error)))?;
        deadline.set(limit);
        let settled = match settle(&mut client, &self.settings) {
            Ok(None) => Ok(()),
            Ok(Some(difference)) => Err(unusable(&format!(
                "{doing}: the session is not as it was asked for ({difference}): a connection pooler in between drops its \
                 settings; connect to PostgreSQL itself"
            ))),
            Err(error) => Err(refused(failure(&doing, &error))),
        };
        deadline.clear();
        let cancel = dialer.map(|dialer| Dialer { deadline: Deadline::default(), limit: CANCEL_MAX, ..dialer });
        // Made even if it is of no use: its destructor hands the client to the reaper.
        let session = Session::new(client, deadline, cancel, self.reaper.clone());
        settled.map(|()| session)
    }

    /// A file outweighs the URL, which outweighs PGPASSWORD. Never absent: the server then says that the password is
    /// wrong, with a SQLSTATE, where the client would only say that it has none.
    fn password(&self) -> Result<Vec<u8>, Failure> {
        if let Some(path) = &self.settings.password_file {
            let secret = config::Secret::from_file(path);
            let secret =
                secret.map_err(|error| plain(Fault::Permission, format!("database.password_file: {error}")))?;
            return Ok(secret.reveal().as_bytes().to_vec());
        }
        let variable = || self.settings.password.as_ref().map(|secret| secret.reveal().as_bytes());
        Ok(self.base.get_password().or_else(variable).unwrap_or_default().to_vec())
    }

    fn doing(&self, target: Option<&Target>) -> String {
        let database = self.base.get_dbname().map_or_else(|| "the user's own".to_owned(), |name| format!("{name:?}"));
        let at = match target {
            Some(target) => target.to_string(),
            None => self.hosts.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "),
        };
        format!("connecting to database {database} at {at}")
    }
}

/// Sets what older servers don't know, and tells which setting of [`options`] has not arrived: a pooler in between may
/// have dropped them all.
fn settle(client: &mut Client, settings: &config::Database) -> Result<Option<String>, postgres::Error> {
    const SQL: &str = "SELECT name, setting FROM pg_catalog.pg_settings \
         WHERE name IN ('server_version_num', 'lock_timeout', 'statement_timeout', 'search_path')";
    let mut found = BTreeMap::new();
    for message in client.simple_query(SQL)? {
        if let SimpleQueryMessage::Row(row) = message {
            found.insert(row.get(0).unwrap_or_default().to_owned(), row.get(1).unwrap_or_default().to_owned());
        }
    }
    let asked_for = [
        // The lock rule is built on this one.
        ("lock_timeout", settings.lock_timeout.as_millis().to_string()),
        ("statement_timeout", settings.statement_timeout.as_millis().to_string()),
        ("search_path", "pg_catalog".to_owned()),
    ];
    for (name, asked_for) in asked_for {
        let found = found.get(name).map_or("unknown", String::as_str);
        if found != asked_for {
            return Ok(Some(format!("{name} is {found:?} and not {asked_for:?}")));
        }
    }
    let version: i32 = found.get("server_version_num").and_then(|number| number.parse().ok()).unwrap_or(0);
    if version >= 140_000
        && let Err(error) = client.simple_query("SET client_connection_check_interval = '5s'")
        // Some operating systems can't do it, and say so with an invalid value.
        && error.code() != Some(&postgres::error::SqlState::INVALID_PARAMETER_VALUE)
    {
        return Err(error);
    }
    Ok(None)
}

/// No row is at fault for a refused connection: a setting of the role or of the URL is.
fn refused(failure: Failure) -> Failure {
    not_a_row(Fault::DatabaseGone, failure)
}

fn unusable(message: &str) -> Failure {
    // The nearest fault: it stops with 78 at once.
    plain(Fault::DatabaseGone, message)
}

fn cause(error: &postgres::Error) -> String {
    std::error::Error::source(error).map(|source| format!(": {source}")).unwrap_or_default()
}

fn targets(base: &Config, host: Option<&str>, port: Option<u16>) -> Result<Vec<Target>, Failure> {
    let mut named = Config::new();
    if let Some(host) = host {
        host.split(',').for_each(|host| {
            named.host(host.trim());
        });
    }
    let (hosts, addresses) = match host {
        Some(_) => (named.get_hosts(), &[][..]),
        None => (base.get_hosts(), base.get_hostaddrs()),
    };
    let n_hosts = hosts.len().max(addresses.len());
    let ports = base.get_ports();
    if !hosts.is_empty() && !addresses.is_empty() && hosts.len() != addresses.len() {
        return Err(unusable("database.url: has not as many hostaddr as host"));
    }
    if port.is_none() && ports.len() > 1 && ports.len() != n_hosts {
        return Err(unusable("database.url: has not as many ports as hosts"));
    }
    let port_of = |idx: usize| port.or_else(|| ports.get(idx).or(ports.first()).copied()).unwrap_or(5432);
    let mut targets: Vec<Target> = (0..n_hosts)
        .map(|idx| {
            let address = addresses.get(idx).copied();
            let by_address = || Host::Tcp(address.expect("either list has this index").to_string());
            Target { host: hosts.get(idx).cloned().unwrap_or_else(by_address), address, port: port_of(idx) }
        })
        .collect();
    if targets.is_empty() {
        targets.push(Target { host: Host::Tcp("localhost".to_owned()), address: None, port: port_of(0) });
    }
    Ok(targets)
}

/// The session's settings, sent with the first packet, so that no statement ever runs without them. Later ones win.
fn options(settings: &config::Database, given: Option<&str>) -> String {
    let mut options = given.unwrap_or_default().to_owned();
    let mut set = |name: &str, value: &str| {
        let value = value.replace('\\', "\\\\").replace(' ', "\\ ");
        options.push_str(&format!(" -c {name}={value}"));
    };
    // Names in statements are qualified; nothing on the path can slip in between.
    set("search_path", "pg_catalog");
    set("default_transaction_isolation", "read committed");
    set("default_transaction_deferrable", "off");
    set("lock_timeout", &settings.lock_timeout.as_millis().to_string());
    set("statement_timeout", &settings.statement_timeout.as_millis().to_string());
    set("idle_in_transaction_session_timeout", "60000");
    // A dead client is noticed while it is idle too, so that its locks don't outlive it by two hours.
    set("tcp_keepalives_idle", "10");
    set("tcp_keepalives_interval", "5");
    set("tcp_keepalives_count", "3");
    set("tcp_user_timeout", "20000");
    set("synchronous_commit", if settings.synchronous_commit { "on" } else { "off" });
    set("TimeZone", "UTC");
    set("DateStyle", "ISO, YMD");
    set("client_min_messages", "warning");
    options.trim_start().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn base(url: &str) -> Config {
        url.parse().expect("the test's url is right")
    }

    fn shown(url: &str, host: Option<&str>, port: Option<u16>) -> Vec<(String, bool)> {
        let targets = targets(&base(url), host, port).expect("the test's hosts are right");
        targets.iter().map(|target| (target.to_string(), target.is_local())).collect()
    }

    #[test]
    fn plain_text_is_only_for_loopback_and_sockets() {
        let found = shown("postgresql://localhost,127.0.0.1:1,db.example,[::1]/x", None, None);
        assert_eq!(found.iter().map(|(_, local)| *local).collect::<Vec<_>>(), [true, true, false, true]);
        assert_eq!(shown("host=/run/postgresql", None, None), [("/run/postgresql, port 5432".to_owned(), true)]);
        assert_eq!(shown("host=localhost hostaddr=10.0.0.1", None, None), [("localhost:5432".to_owned(), false)]);
    }

    #[test]
    fn a_configured_host_and_port_outweigh_the_url() {
        assert_eq!(shown("postgresql://a:1,b:2/x", Some("c"), Some(3)), [("c:3".to_owned(), false)]);
        assert_eq!(shown("", None, None), [("localhost:5432".to_owned(), true)]);
    }

    #[test]
    fn lists_that_do_not_match_are_refused() {
        assert!(targets(&base("host=a,b port=1,2,3"), None, None).is_err());
    }
}

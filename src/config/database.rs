//! `[database]`, `DATABASE_URL` and libpq's variables.
//!
//! A connection string and single settings go together: what the string leaves open is filled in by a setting from any
//! place; what it says is outweighed only by a setting from the same place or a later one.

use super::connection_string::ConnectionString;
use super::reader::{Reader, boolean, integer, millis, one_of, text};
use super::secret::{Secret, refuse_public};
use super::sources::{Place, Raw};
use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

/// `[database]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Database {
    /// A connection string without its words about TLS, if one was given.
    pub url: Option<Secret>,
    /// Outweighs the URL's host.
    pub host: Option<String>,
    /// Outweighs the URL's port.
    pub port: Option<u16>,
    /// Outweighs the URL's database.
    pub name: Option<String>,
    /// Outweighs the URL's user.
    pub user: Option<String>,
    /// `PGPASSWORD`, if neither the URL nor a file has the password.
    pub password: Option<Secret>,
    /// Outweighs the URL's password. Read at every connect, so that a changed password is picked up.
    pub password_file: Option<PathBuf>,
    /// How the server is verified.
    pub tls: DatabaseTls,
    /// Certificate authorities, PEM; the system's if not set.
    pub ca_file: Option<PathBuf>,
    /// Our certificate, PEM. Set if and only if `key_file` is.
    pub cert_file: Option<PathBuf>,
    /// Its key, PEM.
    pub key_file: Option<PathBuf>,
    /// How long a statement waits for a lock.
    pub lock_timeout: Duration,
    /// How long a statement may take.
    pub statement_timeout: Duration,
    /// Whether COMMIT waits for the disk.
    pub synchronous_commit: bool,
    /// The prices table.
    pub prices: TableName,
    /// Whether its columns may round.
    pub prices_round: bool,
    /// The metrics table.
    pub metrics: TableName,
    /// Whether its columns may round.
    pub metrics_round: bool,
    /// The schema of the bookkeeping tables.
    pub bookkeeping: String,
}

/// `database.tls`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DatabaseTls {
    /// Verified, but for loopback addresses and sockets.
    Auto,
    /// Verified, always.
    VerifyFull,
    /// Plain text.
    Disable,
}

/// A table, by schema and name, unquoted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TableName {
    /// The schema.
    pub schema: String,
    /// The table in it.
    pub name: String,
}

impl TableName {
    fn read(raw: &Raw) -> Result<Self, String> {
        let text = text(raw)?;
        let (schema, name) = text.split_once('.').unwrap_or(("public", &text));
        if name.contains('.') {
            return Err("must be a table or schema.table".to_owned());
        }
        Ok(TableName { schema: identifier(schema)?, name: identifier(name)? })
    }
}

impl fmt::Display for TableName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.schema, self.name)
    }
}

type Environment = BTreeMap<String, String>;

pub(super) fn read(reader: &mut Reader, environment: &Environment) -> Database {
    let mut single = Single { url: url(reader), reader, environment };
    let tls = tls(&mut single);
    let (host, name, user) =
        (single.text("host", "PGHOST"), single.text("name", "PGDATABASE"), single.text("user", "PGUSER"));
    let port = port(&mut single);
    let (ca_file, cert_file, key_file) = (
        single.file("ca_file", "sslrootcert", "PGSSLROOTCERT"),
        single.file("cert_file", "sslcert", "PGSSLCERT"),
        single.file("key_file", "sslkey", "PGSSLKEY"),
    );
    let (password_file, password) = password(&mut single);
    refuse_what_leads_elsewhere(&mut single, host.is_some());
    let url = single.url.map(|(url, _)| url.secret());
    let database = Database {
        url,
        host,
        port,
        name,
        user,
        password,
        password_file,
        tls,
        ca_file,
        cert_file,
        key_file,
        lock_timeout: reader
            .get("database.lock_timeout_ms", millis(10, 600_000))
            .unwrap_or(Duration::from_millis(2000)),
        statement_timeout: reader
            .get("database.statement_timeout_ms", millis(100, 3_600_000))
            .unwrap_or(Duration::from_secs(60)),
        synchronous_commit: reader
            .get("database.synchronous_commit", one_of(&[("on", true), ("off", false)]))
            .unwrap_or(true),
        prices: table(reader, "prices", "stock_prices"),
        prices_round: rounds(reader, "prices"),
        metrics: table(reader, "metrics", "stock_metrics"),
        metrics_round: rounds(reader, "metrics"),
        bookkeeping: reader
            .get("database.tables.bookkeeping", |raw| identifier(&text(raw)?))
            .unwrap_or_else(|| "public".to_owned()),
    };
    contradictions(&database, reader);
    database
}

/// Single settings beside a connection string.
struct Single<'a> {
    url: Option<(ConnectionString, Place)>,
    reader: &'a mut Reader,
    environment: &'a Environment,
}

impl Single<'_> {
    /// Whether a setting from `place` counts beside the connection string.
    fn counts(&self, place: &Place, url_has: impl Fn(&ConnectionString) -> bool) -> bool {
        self.url.as_ref().is_none_or(|(url, url_place)| !url_has(url) || place.weight() >= url_place.weight())
    }

    /// One of libpq's variables, the last resort.
    fn variable(&self, name: &str, url_has: impl Fn(&ConnectionString) -> bool) -> Option<String> {
        let value = self.environment.get(name).filter(|value| !value.is_empty())?;
        self.counts(&Place::PgVariable(name.to_owned()), url_has).then(|| value.clone())
    }

    fn text(&mut self, key: &str, variable: &str) -> Option<String> {
        let url_has = |url: &ConnectionString| match key {
            "host" => url.has_host,
            "name" => url.has_name,
            _ => url.has_user,
        };
        let set = self.reader.get_placed(&format!("database.{key}"), text).filter(|(value, _)| !value.is_empty());
        let set = set.filter(|(_, place)| self.counts(place, url_has)).map(|(value, _)| value);
        set.or_else(|| self.variable(variable, url_has))
    }

    /// A file for TLS; `word` is its name in a connection string.
    fn file(&mut self, key: &str, word: &str, variable: &str) -> Option<PathBuf> {
        let of_url = |url: &ConnectionString| match word {
            "sslrootcert" => url.sslrootcert.clone(),
            "sslcert" => url.sslcert.clone(),
            _ => url.sslkey.clone(),
        };
        let url_has = |url: &ConnectionString| of_url(url).is_some();
        let set = match key {
            "key_file" => self.reader.secret_path_placed("database.key_file"),
            _ => self.reader.path_placed(&format!("database.{key}")),
        };
        if let Some((path, _)) = set.filter(|(_, place)| self.counts(place, url_has)) {
            return Some(path);
        }
        let from_url = self.url.as_ref().and_then(|(url, _)| of_url(url));
        let (path, from) = match (from_url, self.variable(variable, url_has)) {
            (Some(path), _) => (path, None),
            (None, Some(path)) => (path, Some(variable)),
            (None, None) => return None,
        };
        // libpq's word for the authorities of the system, which are the default here.
        if path == "system" {
            return None;
        }
        let path = PathBuf::from(path);
        // Of a file that a URL names, nothing is said that was in the URL.
        let what = match (path.is_file(), key == "key_file" && refuse_public(&path).is_err()) {
            (true, false) => return Some(path),
            (true, true) => "a file that every user of this machine can read or change; run chmod 600",
            (false, _) => "a file that is not there",
        };
        match from {
            None => self.reader.complain(&["database.url"], format!("{word} names {what}")),
            Some(variable) => self.reader.complain_of_variable(variable, format!("{} is {what}", path.display())),
        }
        Some(path)
    }
}

fn url(reader: &mut Reader) -> Option<(ConnectionString, Place)> {
    let read = |raw: &Raw| match text(raw)?.as_str() {
        "" => Ok(None),
        given => ConnectionString::parse(given).map(Some),
    };
    let (url, place) = reader.get_placed("database.url", read)?;
    let url = url?;
    if place == Place::Flag && url.has_password {
        let what = "holds a password, which other users of this machine can see; use database.password_file";
        reader.complain(&["database.url"], what);
    }
    Some((url, place))
}

fn port(single: &mut Single<'_>) -> Option<u16> {
    let url_has = |url: &ConnectionString| url.has_port;
    let read = |raw: &Raw| match raw {
        Raw::Text(text) if text.is_empty() => Ok(None),
        // 0 stands for "not set" in the shipped file.
        _ => integer(0, u16::MAX)(raw).map(|port| Some(port).filter(|port| *port != 0)),
    };
    let set = single.reader.get_placed("database.port", read).filter(|(_, place)| single.counts(place, url_has));
    if let Some((Some(port), _)) = set {
        return Some(port);
    }
    match read(&Raw::Text(single.variable("PGPORT", url_has)?)) {
        Ok(port) => port,
        Err(what) => {
            single.reader.complain_of_variable("PGPORT", what);
            None
        }
    }
}

fn password(single: &mut Single<'_>) -> (Option<PathBuf>, Option<Secret>) {
    let url_has = |url: &ConnectionString| url.has_password;
    let what = "a password is not read from here: set database.password_file, PGPASSWORD or DATABASE_URL";
    single.reader.refuse("database.password", what);
    let file = single.reader.secret_path_placed("database.password_file");
    match file.filter(|(_, place)| single.counts(place, url_has)) {
        Some((file, _)) => (Some(file), None),
        None => (None, single.variable("PGPASSWORD", url_has).map(Secret::new)),
    }
}

fn tls(single: &mut Single<'_>) -> DatabaseTls {
    const NAMES: [(&str, DatabaseTls); 3] =
        [("auto", DatabaseTls::Auto), ("verify-full", DatabaseTls::VerifyFull), ("disable", DatabaseTls::Disable)];
    let of_url = match single.url.as_ref().and_then(|(url, _)| url.sslmode.as_deref()).map(sslmode) {
        Some(Err(what)) => {
            single.reader.complain(&["database.url"], what);
            return DatabaseTls::VerifyFull;
        }
        Some(Ok(tls)) => Some(tls),
        None => None,
    };
    let set = single.reader.get_placed("database.tls", one_of(&NAMES)).filter(|(tls, _)| *tls != DatabaseTls::Auto);
    let url_weight = single.url.as_ref().map(|(_, place)| place.weight());
    match (set, of_url) {
        (Some((set, place)), Some(of_url)) if set != of_url && Some(place.weight()) == url_weight => {
            single.reader.complain(&["database.tls", "database.url"], "contradicts sslmode in database.url");
            set
        }
        (Some((set, place)), Some(_)) if single.counts(&place, |_| true) => set,
        (_, Some(of_url)) => of_url,
        (Some((set, _)), None) => set,
        (None, None) => match single.variable("PGSSLMODE", |_| false).as_deref().map(sslmode) {
            None => DatabaseTls::Auto,
            Some(Ok(tls)) => tls,
            Some(Err(what)) => {
                single.reader.complain_of_variable("PGSSLMODE", what);
                DatabaseTls::VerifyFull
            }
        },
    }
}

fn sslmode(word: &str) -> Result<DatabaseTls, String> {
    match word {
        "disable" => Ok(DatabaseTls::Disable),
        "verify-full" => Ok(DatabaseTls::VerifyFull),
        "allow" | "prefer" | "require" | "verify-ca" => Err(format!(
            "sslmode={word} does not verify the server's name; write sslmode=verify-full or sslmode=disable"
        )),
        _ => Err("sslmode must be verify-full or disable".to_owned()),
    }
}

/// Variables that name another server than the one we would connect to.
fn refuse_what_leads_elsewhere(single: &mut Single<'_>, has_host: bool) {
    if has_host || single.url.is_some() {
        return;
    }
    for name in ["PGSERVICE", "PGHOSTADDR"] {
        if single.variable(name, |_| false).is_some() {
            single.reader.complain_of_variable(name, "is not supported; set DATABASE_URL or PGHOST");
        }
    }
}

fn table(reader: &mut Reader, which: &str, default: &str) -> TableName {
    let short = format!("database.tables.{which}");
    let long = reader.get_placed(&format!("{short}.name"), TableName::read);
    reader.only(&format!("{short}.conflict"), "dead-letter");
    let name = match (reader.get_placed(&short, TableName::read), long) {
        (Some((name, place)), Some((_, long))) if place.weight() >= long.weight() => Some(name),
        (_, Some((name, _))) | (Some((name, _)), None) => Some(name),
        (None, None) => None,
    };
    name.unwrap_or_else(|| TableName { schema: "public".to_owned(), name: default.to_owned() })
}

fn rounds(reader: &mut Reader, which: &str) -> bool {
    reader.get(&format!("database.tables.{which}.round"), boolean).unwrap_or(false)
}

/// PostgreSQL cuts longer identifiers silently.
fn identifier(text: &str) -> Result<String, String> {
    match text {
        "" => Err("must not have an empty part".to_owned()),
        _ if text.len() > 63 => Err("must have at most 63 bytes in each part".to_owned()),
        _ if text.chars().any(char::is_control) => Err("must have no control characters".to_owned()),
        _ => Ok(text.to_owned()),
    }
}

fn contradictions(database: &Database, reader: &mut Reader) {
    if database.cert_file.is_some() != database.key_file.is_some() {
        let what = "needs database.key_file, and the other way round";
        reader.complain(&["database.cert_file", "database.key_file"], what);
    }
    if database.ca_file.is_some() && database.tls == DatabaseTls::Disable && reader.is_set("database.ca_file") {
        reader.complain(&["database.ca_file", "database.tls"], "has no effect with TLS disabled");
    }
    if database.lock_timeout >= database.statement_timeout {
        let what = format!("must be below database.statement_timeout_ms, {}", database.statement_timeout.as_millis());
        reader.complain(&["database.lock_timeout_ms", "database.statement_timeout_ms"], what);
    }
    if database.prices == database.metrics {
        let what = "must not be the table of prices";
        reader.complain(&["database.tables.metrics", "database.tables.metrics.name", "database.tables.prices"], what);
    }
}

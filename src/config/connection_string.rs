//! Looks into a connection string of PostgreSQL, of either form, without understanding all of it: what it leaves open,
//! and what it says about TLS. The client library reads the rest.
//!
//! No error names a part of the text: any of it may be a password that lacks its quoting.

use super::secret::Secret;

/// A connection string, without its words about TLS: the client library knows neither `verify-full` nor files.
#[derive(Default)]
pub(super) struct ConnectionString {
    pub without_tls: String,
    pub has_host: bool,
    pub has_port: bool,
    pub has_name: bool,
    pub has_user: bool,
    pub has_password: bool,
    pub sslmode: Option<String>,
    pub sslrootcert: Option<String>,
    pub sslcert: Option<String>,
    pub sslkey: Option<String>,
}

/// What libpq knows and this program would have to ignore.
const REFUSED: [&str; 21] = [
    "client_encoding",
    "fallback_application_name",
    "gssdelegation",
    "gssencmode",
    "gsslib",
    "krbsrvname",
    "passfile",
    "replication",
    "require_auth",
    "requirepeer",
    "requiressl",
    "service",
    "sslcertmode",
    "sslcompression",
    "sslcrl",
    "sslcrldir",
    "sslnegotiation",
    "sslpassword",
    "sslsni",
    "ssl_max_protocol_version",
    "ssl_min_protocol_version",
];

/// What the client library knows.
const PASSED_ON: [&str; 12] = [
    "application_name",
    "channel_binding",
    "connect_timeout",
    "hostaddr",
    "keepalives",
    "keepalives_idle",
    "keepalives_interval",
    "keepalives_retries",
    "load_balance_hosts",
    "options",
    "target_session_attrs",
    "tcp_user_timeout",
];

impl ConnectionString {
    pub fn parse(text: &str) -> Result<Self, String> {
        match text.split_once("://") {
            Some(("postgresql" | "postgres", rest)) => Self::from_url(text, rest),
            // `://` may also be in a value of the other form, after a `=`.
            Some((scheme, _)) if scheme.bytes().all(|b| b.is_ascii_alphanumeric()) => {
                Err("must begin with postgresql://".to_owned())
            }
            _ => Self::from_words(text),
        }
    }

    /// The text for the client library.
    pub fn secret(&self) -> Secret {
        Secret::new(self.without_tls.as_str())
    }

    fn from_url(text: &str, rest: &str) -> Result<Self, String> {
        let mut string = ConnectionString::default();
        let (base, query) = match rest.split_once('@') {
            // A `?` before the `@` belongs to the password.
            Some((user_and_password, place)) => {
                let (user, password) = user_and_password.split_once(':').unwrap_or((user_and_password, ""));
                string.has_user = !user.is_empty();
                string.has_password = !password.is_empty();
                place.split_once('?').unwrap_or((place, ""))
            }
            None => rest.split_once('?').unwrap_or((rest, "")),
        };
        let (hosts, name) = base.split_once('/').unwrap_or((base, ""));
        if base.contains('@') {
            return Err("has two @; in a user name or password write %40 for @".to_owned());
        }
        string.has_name = !name.is_empty();
        for host in hosts.split(',').filter(|host| !host.is_empty()) {
            let (host, port) = match host.rsplit_once(':') {
                Some((host, port)) if !port.ends_with(']') => (host, Some(port)),
                _ => (host, None),
            };
            string.has_host |= !host.is_empty();
            string.has_port |= port.is_some();
            if port.is_some_and(|port| !port.parse::<u16>().is_ok_and(|port| port > 0)) {
                return Err("must have a port from 1 to 65535 after the host's colon".to_owned());
            }
        }
        let mut kept = Vec::new();
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (key, value) = pair.split_once('=').ok_or("has a parameter without a value")?;
            if string.takes(key, &percent_decoded(value))? {
                kept.push(pair);
            }
        }
        let base = text.strip_suffix(query).filter(|_| !query.is_empty()).unwrap_or(text).trim_end_matches('?');
        string.without_tls = if kept.is_empty() { base.to_owned() } else { format!("{base}?{}", kept.join("&")) };
        Ok(string)
    }

    fn from_words(text: &str) -> Result<Self, String> {
        let mut string = ConnectionString::default();
        let mut kept = Vec::new();
        let mut rest = text.trim_start();
        while !rest.is_empty() {
            let (word, value, next) = first_word(rest)?;
            if string.takes(word, &value)? {
                kept.push(rest[..rest.len() - next.len()].trim_end());
            }
            rest = next.trim_start();
        }
        string.without_tls = kept.join(" ");
        Ok(string)
    }

    /// Takes note of a parameter; whether it is passed on.
    fn takes(&mut self, key: &str, value: &str) -> Result<bool, String> {
        let kept = match key {
            "host" => &mut self.has_host,
            "port" => &mut self.has_port,
            "dbname" => &mut self.has_name,
            "user" => &mut self.has_user,
            "password" => &mut self.has_password,
            "sslmode" | "sslrootcert" | "sslcert" | "sslkey" => {
                let taken = match key {
                    "sslmode" => &mut self.sslmode,
                    "sslrootcert" => &mut self.sslrootcert,
                    "sslcert" => &mut self.sslcert,
                    _ => &mut self.sslkey,
                };
                *taken = Some(value.to_owned());
                return Ok(false);
            }
            _ if REFUSED.contains(&key) => return Err(format!("{key} is not supported; leave it out")),
            _ if PASSED_ON.contains(&key) => return Ok(true),
            _ => {
                let what = "has a parameter that no connection string has; a password with special characters must be \
                            quoted, in a URL as %XX";
                return Err(what.to_owned());
            }
        };
        *kept = true;
        Ok(true)
    }
}

/// The first `word = value` and what follows it.
fn first_word(text: &str) -> Result<(&str, String, &str), String> {
    const NO_VALUE: &str = "must be a URL such as postgresql://user@host/name, or words such as host=… dbname=…, with quotes around spaces";
    let (word, rest) = text.split_once('=').ok_or(NO_VALUE)?;
    let word = word.trim_end();
    if word.is_empty() || word.contains(char::is_whitespace) {
        return Err(NO_VALUE.to_owned());
    }
    let rest = rest.trim_start();
    let (quoted, rest) = match rest.strip_prefix('\'') {
        Some(rest) => (true, rest),
        None => (false, rest),
    };
    let mut value = String::new();
    let mut chars = rest.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '\\' => value.extend(chars.next().map(|(_, escaped)| escaped)),
            '\'' if quoted => return Ok((word, value, &rest[at + 1..])),
            c if !quoted && c.is_whitespace() => return Ok((word, value, &rest[at..])),
            c => value.push(c),
        }
    }
    if quoted { Err("lacks the quote that ends a value".to_owned()) } else { Ok((word, value, "")) }
}

fn percent_decoded(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        let code = after.get(..2).and_then(|hex| u8::from_str_radix(std::str::from_utf8(hex).ok()?, 16).ok());
        match code {
            Some(byte) if first == b'%' => {
                bytes.push(byte);
                rest = &after[2..];
            }
            _ => {
                bytes.push(first);
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(text: &str) -> String {
        let string = ConnectionString::parse(text).unwrap_or_else(|error| panic!("{text}: {error}"));
        let has = [
            (string.has_host, "host"),
            (string.has_port, "port"),
            (string.has_name, "name"),
            (string.has_user, "user"),
            (string.has_password, "password"),
        ];
        has.iter().filter(|(has, _)| *has).map(|(_, part)| *part).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn both_forms_say_what_they_leave_open() {
        for (text, expected) in [
            ("postgresql://", ""),
            ("postgresql:///stocks", "name"),
            ("postgresql://db", "host"),
            ("postgres://me@db:5432/stocks", "host port name user"),
            ("postgresql://me:p%40ss@db/stocks", "host name user password"),
            ("postgresql://me:p?ss@db/stocks", "host name user password"),
            ("postgresql://[::1]:5432/stocks", "host port name"),
            ("postgresql://[::1]/stocks", "host name"),
            ("postgresql://a:1,b:2/stocks", "host port name"),
            ("postgresql:///stocks?host=/run/postgresql&user=me", "host name user"),
            ("host=db dbname=stocks user = me password='a b'", "host name user password"),
            (r"password=a\ b host='d\'b'", "host password"),
            ("", ""),
        ] {
            assert_eq!(parts(text), expected, "{text}");
        }
    }

    #[test]
    fn words_about_tls_are_taken_out() {
        for (text, without, sslmode, sslrootcert) in [
            ("postgresql://db/s?sslmode=verify-full", "postgresql://db/s", Some("verify-full"), None),
            ("postgresql://db/s?sslmode=disable&options=x", "postgresql://db/s?options=x", Some("disable"), None),
            ("postgresql://db/s?a%20b", "", None, None),
            ("postgresql://db/s?sslrootcert=/etc/my%20ca.pem", "postgresql://db/s", None, Some("/etc/my ca.pem")),
            ("postgresql://db/s?", "postgresql://db/s", None, None),
            ("host=db sslmode=verify-full dbname='a b'", "host=db dbname='a b'", Some("verify-full"), None),
            ("sslmode = 'disable'  host = db", "host = db", Some("disable"), None),
            ("password='x sslmode=y z' host=db", "password='x sslmode=y z' host=db", None, None),
        ] {
            match ConnectionString::parse(text) {
                Ok(string) => {
                    assert_eq!(string.without_tls, without, "{text}");
                    assert_eq!(string.sslmode.as_deref(), sslmode, "{text}");
                    assert_eq!(string.sslrootcert.as_deref(), sslrootcert, "{text}");
                }
                Err(_) => assert_eq!(without, "", "{text}"),
            }
        }
    }

    #[test]
    fn no_error_holds_a_part_of_the_text() {
        for text in [
            "mysql://me:hunter2@db/s",
            "postgresql://me:hunter2@hunter2@db/s",
            "postgresql://me:hunter2@db:hunter2/s",
            "postgresql://me:x@db/s?password=a&hunter2=b",
            "postgresql://me:x@db/s?hunter2",
            "password=my hunter2 host=db",
            "password='hunter2 host=db",
            "host=db hunter2=x",
            "hunter2",
            "postgresql://me:hunter2@db/s?sslcrl=hunter2",
        ] {
            let error = ConnectionString::parse(text).err().unwrap_or_else(|| panic!("{text} is taken"));
            assert!(!error.contains("hunter2"), "{text}: {error}");
        }
    }
}

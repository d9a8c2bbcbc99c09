//! Section `database`: where the connection is found, and what the tables are called.

use super::*;

/// The connection as it would be made: URL, then what outweighs it.
fn connection(given: &Given<'_>) -> String {
    let database = given.config().database;
    let shown = |name: &str, value: Option<String>| value.map(|value| format!(" {name}={value}")).unwrap_or_default();
    format!(
        "{}{}{}{}{}{}{}",
        database.url.map(|url| url.reveal().to_owned()).unwrap_or_default(),
        shown("host", database.host),
        shown("port", database.port.map(|port| port.to_string())),
        shown("name", database.name),
        shown("user", database.user),
        shown("password", database.password.map(|password| password.reveal().to_owned())),
        shown("file", database.password_file.and_then(|path| Some(path.file_name()?.to_str()?.to_owned()))),
    )
}

#[test]
fn the_database_is_found_in_the_order_of_the_places() {
    let text = "[database]\nurl = \"postgresql://file/a\"";
    let ours = ("STOCK_DB_WRITER__DATABASE__URL", "postgresql://ours/a");
    let theirs = ("DATABASE_URL", "postgresql://theirs/a");
    let pg = ("PGHOST", "pg");
    for (variables, set, expected) in [
        (&[pg, theirs, ours][..], &["database.url=postgresql://flag/a"][..], "postgresql://flag/a"),
        (&[pg, theirs, ours], &[], "postgresql://ours/a"),
        (&[pg, theirs], &[], "postgresql://theirs/a"),
        (&[pg], &[], "postgresql://file/a"),
    ] {
        assert_eq!(connection(&Given { file: text, environment: variables, set }), expected);
    }
    assert_eq!(
        connection(&environment(&[pg, ("PGPORT", "6432"), ("PGUSER", "me"), ("PGDATABASE", "s")])),
        " host=pg port=6432 name=s user=me"
    );
    // An empty variable, as Compose files leave behind, is none.
    let empty = [("DATABASE_URL", ""), ("PGHOST", ""), ("PGPORT", ""), ("STOCK_DB_WRITER__DATABASE__PORT", "")];
    assert_eq!(connection(&environment(&empty)), "");
}

#[test]
fn a_url_is_outweighed_by_later_places_and_filled_in_by_all() {
    let url = ("DATABASE_URL", "postgresql://me:secret@db:5432/stocks");
    let text = "[database]\nhost = \"other\"\nport = 1\nuser = \"you\"\nname = \"b\"";
    assert_eq!(connection(&Given { file: text, environment: &[url], set: &[] }), url.1);
    let given = Given { file: text, environment: &[url], set: &["database.host=third"] };
    assert_eq!(connection(&given), format!("{} host=third", url.1));
    let open = ("DATABASE_URL", "postgresql://db");
    let given = Given { file: text, environment: &[open, ("PGPASSWORD", "p"), ("PGHOST", "pg")], set: &[] };
    assert_eq!(connection(&given), "postgresql://db port=1 name=b user=you password=p");
    // Both in the file: who writes both means the single one.
    let both = "[database]\nurl = \"postgresql://db/a\"\nname = \"b\"";
    assert_eq!(connection(&file(both)), "postgresql://db/a name=b");
    // The names of two variables have no order.
    let variables = [("STOCK_DB_WRITER__DATABASE__HOST", "b"), ("STOCK_DB_WRITER__DATABASE__URL", "postgresql://a")];
    assert_eq!(connection(&environment(&variables)), "postgresql://a host=b");
}

#[test]
fn one_password_is_left() {
    let scratch = Scratch::new();
    let text = format!("[database]\npassword_file = {:?}", scratch.file("password", "x"));
    let with = ("DATABASE_URL", "postgresql://me:secret@db");
    let without = ("DATABASE_URL", "postgresql://me@db");
    let pg = ("PGPASSWORD", "p");
    for (text, variables, expected) in [
        ("", &[with, pg][..], "postgresql://me:secret@db"),
        ("", &[without, pg], "postgresql://me@db password=p"),
        (text.as_str(), &[without, pg], "postgresql://me@db file=password"),
        (text.as_str(), &[with, pg], "postgresql://me:secret@db"),
        (text.as_str(), &[pg], " file=password"),
    ] {
        assert_eq!(connection(&Given { file: text, environment: variables, set: &[] }), expected);
    }
}

#[test]
fn sslmode_is_honoured_or_refused_by_name() {
    let tls = |url: &str| environment(&[("DATABASE_URL", url)]).load().map(|config| config.database.tls);
    assert_eq!(tls("postgresql://db/a?sslmode=verify-full"), Ok(DatabaseTls::VerifyFull));
    assert_eq!(tls("host=db sslmode=disable"), Ok(DatabaseTls::Disable));
    assert_eq!(tls("postgresql://db/a"), Ok(DatabaseTls::Auto));
    for weak in ["allow", "prefer", "require", "verify-ca"] {
        let errors = tls(&format!("postgresql://db/a?sslmode={weak}")).expect_err("it does not verify");
        assert_eq!(
            errors,
            [format!(
                "DATABASE_URL: database.url: sslmode={weak} does not verify the server's name; write sslmode=verify-full or \
             sslmode=disable"
            )]
        );
        let errors = environment(&[("PGSSLMODE", weak)]).errors();
        assert!(errors[0].starts_with(&format!("PGSSLMODE: sslmode={weak} ")), "{errors:#?}");
    }
    assert_eq!(environment(&[("PGSSLMODE", "disable")]).config().database.tls, DatabaseTls::Disable);
    let text = "[database]\nurl = \"postgresql://db?sslmode=verify-full\"\ntls = \"disable\"";
    assert_eq!(only_error(text), "writer.toml:3: database.tls: contradicts sslmode in database.url");
    let given = Given {
        file: "[database]\ntls = \"disable\"",
        environment: &[("DATABASE_URL", "postgresql://db?sslmode=verify-full"), ("PGSSLMODE", "prefer")],
        set: &[],
    };
    assert_eq!(given.config().database.tls, DatabaseTls::VerifyFull);
    let given = Given {
        set: &["database.tls=verify-full"],
        environment: &[("DATABASE_URL", "host=a sslmode=disable")],
        file: "",
    };
    assert_eq!(given.config().database.tls, DatabaseTls::VerifyFull);
}

#[test]
fn sslrootcert_is_honoured() {
    let scratch = Scratch::new();
    let (ca, other) = (scratch.file("ca.pem", "x"), scratch.file("other.pem", "x"));
    let url = format!("postgresql://db/a?sslrootcert={}", ca.display());
    let database = environment(&[("DATABASE_URL", &url)]).config().database;
    assert_eq!(database.ca_file, Some(ca.clone()));
    assert_eq!(database.url.map(|url| url.reveal().to_owned()).as_deref(), Some("postgresql://db/a"));
    let text = format!("[database]\nca_file = {other:?}");
    let given = Given { file: &text, environment: &[("DATABASE_URL", &url)], set: &[] };
    assert_eq!(given.config().database.ca_file, Some(ca));
    let system = environment(&[("DATABASE_URL", "postgresql://db/a?sslrootcert=system")]).config().database.ca_file;
    assert_eq!(system, None);
    let errors = environment(&[("DATABASE_URL", "postgresql://db/a?sslrootcert=/nowhere")]).errors();
    assert_eq!(errors, ["DATABASE_URL: database.url: sslrootcert names a file that is not there"]);
    assert!(only_error(&format!("{text}\ntls = \"disable\"")).contains("database.ca_file: has no effect"));
    let text = format!("[database]\ncert_file = {other:?}");
    assert!(only_error(&text).contains("database.cert_file: needs database.key_file"));
}

#[test]
fn variables_that_would_lead_to_another_server_are_refused() {
    for name in ["PGSERVICE", "PGHOSTADDR"] {
        let errors = environment(&[(name, "x")]).errors();
        assert_eq!(errors, [format!("{name}: is not supported; set DATABASE_URL or PGHOST")]);
        assert!(environment(&[(name, "x"), ("PGHOST", "db")]).load().is_ok());
    }
    assert_eq!(environment(&[("PGPORT", "high")]).errors(), ["PGPORT: must be a whole number"]);
}

#[test]
fn tables_are_named_in_short_or_at_length() {
    let prices = |text: &str| file(text).config().database.prices.to_string();
    assert_eq!(prices("[database.tables]\nprices = \"ticks\""), "public.ticks");
    assert_eq!(prices("[database.tables]\nprices = \"market.ticks\""), "market.ticks");
    assert_eq!(prices("[database.tables.prices]\nname = \"Market.Ticks\""), "Market.Ticks");
    let text = "[database.tables.prices]\nname = \"a\"";
    let given = Given { file: text, environment: &[("STOCK_DB_WRITER__DATABASE__TABLES__PRICES", "b")], set: &[] };
    assert_eq!(given.config().database.prices.to_string(), "public.b");
    let bookkeeping = file("[database.tables]\nbookkeeping = \"writer\"").config().database.bookkeeping;
    assert_eq!(bookkeeping, "writer");
    let long = "x".repeat(64);
    for wrong in ["", ".a", "a.", "a.b.c", &long, "a\\u0000"] {
        let error = only_error(&format!("[database.tables]\nprices = \"{wrong}\""));
        assert!(error.starts_with("writer.toml:2: database.tables.prices: must "), "{error}");
    }
}

//! Tables that another program has made: what is narrower in them, what they refuse, how long their ids last.

use super::{Fixture, batch_of, logged_by, metric, price, prices, record_logs, run_writer, start};
use stock_db_writer::batch::Batch;
use stock_db_writer::exit::ExitCode;
use stock_db_writer::ledger::Ledger;

/// What the Python service before this program made, with its indexes.
const OLD_TABLES: &str = "DROP TABLE IF EXISTS @.stock_prices, @.stock_metrics; \
     CREATE TABLE @.stock_prices (id serial PRIMARY KEY, symbol varchar(10) NOT NULL, price numeric(10,2) NOT NULL, \
       volume numeric(20,2), timestamp timestamp NOT NULL, fetch_timestamp bigint, \
       created_at timestamp DEFAULT CURRENT_TIMESTAMP); \
     CREATE INDEX idx_prices_symbol ON @.stock_prices (symbol); \
     CREATE TABLE @.stock_metrics (id serial PRIMARY KEY, symbol varchar(10) NOT NULL, window_start timestamp NOT NULL, \
       window_end timestamp NOT NULL, avg_price numeric(10,2), max_price numeric(10,2), min_price numeric(10,2), \
       avg_volume numeric(20,2), created_at timestamp DEFAULT CURRENT_TIMESTAMP)";
/// Partitions by month, of which one is there.
const BY_MONTH: &str = "DROP TABLE @.stock_prices; \
     CREATE TABLE @.stock_prices (id bigserial, symbol text NOT NULL, price numeric NOT NULL, volume numeric, \
       timestamp timestamptz NOT NULL, fetch_timestamp bigint) PARTITION BY RANGE (timestamp); \
     CREATE TABLE @.prices_2024_01 PARTITION OF @.stock_prices FOR VALUES FROM ('2024-01-01 00:00Z') TO ('2024-02-01 00:00Z')";

/// With the tables of another program in the place of ours.
fn adopted(sql: &str, set: &[&str]) -> Fixture {
    let mut fixture = Fixture::new();
    fixture.sql(sql);
    fixture.reopen(set);
    fixture
}

fn claimed(fixture: &Fixture, topic: &str, values: &[&str]) -> Batch {
    let claims = fixture.database.ledger().claim_or_start(&[start(topic, 0)]).expect("nobody else claims");
    batch_of(topic, claims[0].epoch, &[(0, values)])
}

fn write(fixture: &Fixture, topic: &str, values: &[&str]) {
    let (shared, batch) = (fixture.shared(), claimed(fixture, topic, values));
    assert_eq!(run_writer(&shared, &fixture.database, batch), Ok(true));
    assert_eq!(shared.metrics.retries(), 0, "at the first attempt");
}

fn letters(fixture: &mut Fixture) -> Vec<String> {
    fixture.texts(
        "SELECT concat_ws(' ', record_offset, reason_class || ':', replace(reason, '@.', '')) FROM @.writer_dead_letters \
         ORDER BY topic, record_offset",
    )
}

fn notes(fixture: &Fixture) -> Vec<String> {
    fixture.database.notes().expect("an answer")
}

#[track_caller]
fn assert_note(notes: &[String], words: &[&str]) {
    assert!(notes.iter().any(|note| words.iter().all(|word| note.contains(word))), "{words:?} is not in {notes:#?}");
}

#[test]
fn the_tables_of_schema_sql_are_worth_no_note() {
    let fixture = Fixture::new();
    assert_eq!(notes(&fixture), Vec::<String>::new());
    assert_eq!(fixture.database.capacities().expect("an answer"), []);
}

#[test]
fn what_is_different_in_the_old_tables_is_told_with_its_meaning() {
    let mut fixture = adopted(OLD_TABLES, &[]);
    let found = notes(&fixture);
    assert_note(&found, &["\"symbol\" is character varying(10)", "more than 10 characters", "dead letter (symbol)"]);
    assert_note(&found, &["\"price\" is numeric(10,2)", "2 decimals", "8 digits before", "TYPE numeric"]);
    assert_note(&found, &["\"volume\" is numeric(20,2)", "18 digits before"]);
    assert_note(&found, &["\"timestamp\" is timestamp without time zone", "in UTC"]);
    assert_note(
        &found,
        &["stock_prices\" has no index on (\"symbol\", \"timestamp\")", "CREATE INDEX CONCURRENTLY ON"],
    );
    assert_note(&found, &["stock_metrics\" has no index on (\"window_start\", \"window_end\")"]);
    assert_note(&found, &["stock_prices\": column \"id\" is integer: 2147483647 ids are left"]);
    assert_eq!(found.len(), 4 + 2 + 7 + 1 + 2, "{found:#?}");
    // What the notes say to run, runs; and then there is nothing to say of it.
    for note in found.iter().filter(|note| !note.contains("ids are left")) {
        let at = note.find("CREATE INDEX").or(note.find("SET TimeZone")).or(note.find("ALTER TABLE"));
        let sql = &note[at.expect("a statement")..];
        match sql.contains("CONCURRENTLY") {
            true => drop(fixture.admin.simple_query(sql).expect("the statement works")),
            false => fixture.sql(sql),
        }
    }
    let left = notes(&fixture);
    assert!(left.len() == 2 && left.iter().all(|note| note.contains("ids are left")), "{left:#?}");
}

#[test]
fn init_makes_the_unique_index_beside_a_writer_and_says_what_it_left() {
    let mut fixture = adopted(OLD_TABLES, &[]);
    let row =
        "INSERT INTO @.stock_metrics (symbol, window_start, window_end, avg_price) VALUES ('A', 'epoch', 'epoch', ";
    fixture.sql(&format!("{row}1); {row}2); {row}3); {row}4)").replace("'epoch', 4", "'2024-01-01', 4"));
    assert_eq!(fixture.database.init().expect("nothing to do").made, Vec::<String>::new());
    let findings = fixture.database.validate().expect("an answer");
    let [finding] = &findings[..] else { panic!("{findings:#?}") };
    assert!(finding.message.contains("2 of its rows") && !finding.is_absence, "{}", finding.message);
    let (_, clean) = finding.message.split_once("each window: ").expect("a statement");
    fixture.sql(clean.split_once("; then run").expect("its end").0);
    assert_eq!(fixture.texts("SELECT avg_price::text FROM @.stock_metrics ORDER BY 1"), ["3.00", "4.00"]);
    // An attempt that was broken off has left an index that nobody can use.
    fixture.sql(
        "CREATE UNIQUE INDEX stock_metrics_symbol_window_key ON @.stock_metrics (symbol, window_start, window_end); \
         UPDATE pg_index SET indisvalid = false WHERE indexrelid = '@.stock_metrics_symbol_window_key'::regclass",
    );
    // Somebody writes to the table all the while: the index waits for them, and they don't wait for it.
    let mut writer = postgres::Client::connect(&super::url(), postgres::NoTls).expect("the server answers");
    let insert = format!("BEGIN; {}", row.replace('@', &fixture.schema).replace("'A'", "'B'"));
    writer.batch_execute(&format!("{insert}5)")).expect("written");
    let database = fixture.database.clone();
    let made = std::thread::scope(|scope| {
        let init = scope.spawn(move || database.init());
        let building = "SELECT count(*) FROM pg_stat_activity WHERE query LIKE '%INDEX CONCURRENTLY%@%' AND wait_event_type = 'Lock'";
        super::eventually("the index is waiting", || fixture.number(building) > 0);
        fixture.admin.batch_execute("SET lock_timeout = '2s'").expect("set");
        fixture.sql(&format!("{row}6)").replace("'A'", "'C'"));
        writer.batch_execute("COMMIT").expect("committed");
        init.join().expect("no panic")
    });
    assert_eq!(made.expect("made").made.len(), 1);
    assert_eq!(fixture.database.validate().expect("an answer"), []);
    assert_eq!(fixture.database.init().expect("nothing to do").made, Vec::<String>::new());
}

#[test]
fn windows_that_can_not_be_counted_leave_the_limit_of_statements_as_it_was() {
    let mut fixture = adopted(
        "DROP INDEX @.stock_metrics_symbol_window_key",
        &["database.statement_timeout_ms=1000", "database.lock_timeout_ms=900", "writers.max_hold_ms=900"],
    );
    let mut holder = postgres::Client::connect(&super::url(), postgres::NoTls).expect("the server answers");
    holder.batch_execute(&format!("BEGIN; LOCK TABLE {}.stock_metrics", fixture.schema)).expect("locked");
    let failure = fixture.database.validate().expect_err("nothing can be counted");
    assert_eq!(failure.sqlstate.as_deref(), Some("55P03"), "{failure}");
    drop(holder);
    // The next who gets this connection: the statement takes longer than it may, but waits for no lock.
    fixture.sql(
        "ALTER TABLE @.writer_offsets RENAME TO t; CREATE FUNCTION @.slow() RETURNS SETOF @.t LANGUAGE sql AS \
           'SELECT pg_sleep(20); SELECT * FROM @.t'; CREATE VIEW @.writer_offsets AS SELECT * FROM @.slow()",
    );
    let failure = fixture.database.ledger().standings().expect_err("it takes too long");
    assert_eq!(failure.sqlstate.as_deref(), Some("57014"), "{failure}");
}

#[test]
fn which_row_of_a_window_is_the_newest_is_told_by_a_number_or_a_time_and_never_guessed() {
    const REPEATED: &str = "window_end timestamptz NOT NULL DEFAULT 'epoch'";
    let table = |columns: &str| {
        format!(
            "DROP TABLE @.stock_metrics; CREATE TABLE @.stock_metrics (symbol text NOT NULL DEFAULT 'A', \
               window_start timestamptz NOT NULL DEFAULT 'epoch', {REPEATED}, avg_price numeric, max_price numeric, \
               min_price numeric, avg_volume numeric, {columns})"
        )
    };
    let told = |fixture: &Fixture| {
        let findings = fixture.database.validate().expect("an answer");
        let [finding] = &findings[..] else { panic!("{findings:#?}") };
        assert!(!finding.is_absence && finding.message.contains("for a window that has another row"));
        finding.message.clone()
    };
    let clean = |fixture: &mut Fixture| {
        let message = told(fixture);
        let (_, clean) = message.split_once("each window: ").unwrap_or_else(|| panic!("no statement in {message}"));
        fixture.sql(clean.split_once("; ").expect("its end").0);
        message
    };
    // A random id says nothing, the time does: the newest has the lowest id, and one has no time. A tie is not broken.
    let mut fixture = adopted(&table("id uuid, created_at timestamp"), &[]);
    let insert = "INSERT INTO @.stock_metrics (id, avg_price, created_at) SELECT md5(n::text)::uuid, n, ";
    fixture.sql(&format!(
        "{insert} timestamp '2024-01-01' + n * interval '1 s' FROM generate_series(1, 9) AS n; \
         {insert} NULL FROM generate_series(10, 10) AS n; \
         {insert} '2024-01-01 00:00:09' FROM generate_series(11, 11) AS n"
    ));
    let message = clean(&mut fixture);
    assert!(message.contains("of rows made at the same time all are kept"), "{message}");
    let left = "SELECT avg_price::text FROM @.stock_metrics ORDER BY 1";
    assert_eq!(fixture.texts(left), ["11", "9"]);
    // A number tells more than the time.
    let mut fixture = adopted(&table("id smallint, created_at timestamp DEFAULT now()"), &[]);
    fixture.sql("INSERT INTO @.stock_metrics (id, avg_price) VALUES (1, 1), (3, 3), (2, 2), (NULL, 4)");
    clean(&mut fixture);
    assert_eq!(fixture.texts(left), ["3"]);
    // Neither is there.
    let mut fixture = adopted(&table("id text, created_at date"), &[]);
    fixture.sql("INSERT INTO @.stock_metrics (id) VALUES ('a'), ('b')");
    let message = told(&fixture);
    assert!(message.contains("no column of it tells which row") && !message.contains("DELETE"), "{message}");
}

#[test]
fn what_a_narrow_column_would_round_or_cut_becomes_a_dead_letter_and_its_neighbours_rows() {
    let mut fixture = adopted(OLD_TABLES, &[]);
    let (long, fine, large) = (price("LONGER_THAN_10", "2.00"), price("FINE", "1.2345"), price("LARGE", "123456789"));
    let (good, zeros) = (price("GOOD", "1.25"), price("ZEROS", "1.5000"));
    write(&fixture, "stock_prices", &[&long, &good, &fine, &large, &zeros]);
    assert_eq!(
        fixture
            .texts("SELECT concat_ws(' ', symbol, price, timestamp, fetch_timestamp) FROM @.stock_prices ORDER BY 1"),
        ["GOOD 1.25 2024-01-02 15:04:05.123456 1704207846", "ZEROS 1.50 2024-01-02 15:04:05.123456 1704207846"]
    );
    assert_eq!(
        letters(&mut fixture),
        [
            "0 symbol: symbol has more than 10 characters, the column stock_prices.symbol is character varying(10)",
            "2 range: price has 4 decimals, the column stock_prices.price is numeric(10,2)",
            "3 range: price has more than 8 digits before the point, the column stock_prices.price is numeric(10,2)",
        ]
    );
    let counters = "SELECT concat_ws(' ', next_offset, records_rows, records_dead, rows_total, dead_letters_total) FROM @.writer_offsets";
    assert_eq!(fixture.texts(counters), ["5 2 3 2 3"]);
}

#[test]
fn windows_of_a_narrow_table_are_upserted_in_utc() {
    let mut fixture = adopted(OLD_TABLES, &["schema.manage=create"]);
    fixture.sql(
        "INSERT INTO @.stock_metrics (symbol, window_start, window_end, avg_price) \
                 VALUES ('A', '2024-01-02 00:01', '2024-01-02 00:02', 1)",
    );
    fixture.database.init().expect("the unique index can be made");
    let (first, again, fine) = (metric("A", 1, "2.5"), metric("A", 2, "7"), metric("A", 3, "0.125"));
    write(&fixture, "stock_metrics", &[&first, &again, &fine]);
    assert_eq!(
        fixture.texts("SELECT concat_ws(' ', id, window_start, avg_price) FROM @.stock_metrics ORDER BY window_start"),
        ["1 2024-01-02 00:01:00 2.50", "3 2024-01-02 00:02:00 7.00"]
    );
    assert_eq!(
        letters(&mut fixture),
        ["2 range: avg_price has 3 decimals, the column stock_metrics.avg_price is numeric(10,2)"]
    );
}

#[test]
fn a_table_that_may_round_is_rounded_by_postgresql() {
    let mut fixture = adopted(OLD_TABLES, &["database.tables.prices.round=true"]);
    assert_note(&notes(&fixture), &["\"price\" is numeric(10,2)", "are rounded (round = true)"]);
    assert_note(&notes(&fixture), &["\"avg_price\" is numeric(10,2)", "becomes a dead letter (range)"]);
    let (fine, large, edge) = (price("FINE", "1.2351"), price("LARGE", "123456789"), price("EDGE", "99999999.999"));
    let batch = claimed(&fixture, "stock_prices", &[&fine, &large, &edge]);
    assert_eq!(run_writer(&fixture.shared(), &fixture.database, batch), Ok(true));
    assert_eq!(fixture.texts("SELECT concat_ws(' ', symbol, price) FROM @.stock_prices"), ["FINE 1.24"]);
    // What rounding itself makes too large is PostgreSQL's to refuse.
    let classes =
        "SELECT concat_ws(' ', record_offset, reason_class, reason_code) FROM @.writer_dead_letters ORDER BY 1";
    assert_eq!(fixture.texts(classes), ["1 range ", "2 database 22003"]);
}

#[test]
fn a_column_that_becomes_narrow_or_wide_beside_a_writer_is_noticed_at_once() {
    let mut fixture = Fixture::new();
    let epoch = fixture.claim(1);
    let mut sink = fixture.sink();
    let value = price("A", "1.2345");
    let mut write = |fixture: &Fixture, offset: i64| {
        let batch = prices(epoch, &[(offset, &[&value])]);
        assert!(fixture.write(&mut sink, &batch));
    };
    write(&fixture, 0);
    fixture.sql("DELETE FROM @.stock_prices; ALTER TABLE @.stock_prices ALTER price TYPE numeric(10,2)");
    write(&fixture, 1);
    assert_eq!(fixture.number("SELECT count(*) FROM @.stock_prices"), 0);
    fixture.sql("ALTER TABLE @.stock_prices ALTER price TYPE numeric(10,4), ALTER timestamp TYPE timestamp(0)");
    write(&fixture, 2);
    fixture.sql("ALTER TABLE @.stock_prices ALTER timestamp TYPE timestamp");
    write(&fixture, 3);
    assert_eq!(
        fixture.texts("SELECT price || ' ' || timestamp FROM @.stock_prices"),
        ["1.2345 2024-01-02 15:04:05.123456"]
    );
    assert_eq!(
        letters(&mut fixture),
        [
            "1 range: price has 4 decimals, the column stock_prices.price is numeric(10,2)",
            "2 range: timestamp has more than 0 decimals of a second, the column stock_prices.timestamp is timestamp(0) \
             without time zone",
        ]
    );
}

#[test]
fn metrics_follow_their_columns_too() {
    let mut fixture = Fixture::new();
    let claims = fixture.database.ledger().claim_or_start(&[start("stock_metrics", 0)]).expect("claimed");
    let mut sink = fixture.sink();
    let mut write = |fixture: &Fixture, offset: i64, value: &str| {
        assert!(fixture.write(&mut sink, &batch_of("stock_metrics", claims[0].epoch, &[(offset, &[value])])));
    };
    write(&fixture, 0, &metric("A", 1, "1.2345"));
    fixture.sql(
        "DELETE FROM @.stock_metrics; ALTER TABLE @.stock_metrics ALTER avg_price TYPE numeric(10,2), \
           ALTER window_start TYPE timestamp, ALTER window_end TYPE timestamp",
    );
    write(&fixture, 1, &metric("A", 1, "1.2345"));
    write(&fixture, 2, &metric("A", 1, "1.25"));
    fixture.sql("ALTER TABLE @.stock_metrics ALTER avg_price TYPE numeric");
    write(&fixture, 3, &metric("A", 2, "1.2345"));
    assert_eq!(
        fixture.texts("SELECT concat_ws(' ', window_start, avg_price) FROM @.stock_metrics ORDER BY window_start"),
        ["2024-01-02 00:01:00 1.25", "2024-01-02 00:02:00 1.2345"]
    );
    assert_eq!(letters(&mut fixture).len(), 1);
}

#[test]
fn a_missing_partition_is_a_fault_of_the_tables_and_no_flood_of_dead_letters() {
    record_logs();
    let mut fixture = adopted(BY_MONTH, &["schema.grace_ms=0"]);
    assert_note(&notes(&fixture), &["is partitioned", "ends with 78".trim_start_matches("ends ")]);
    assert_eq!(fixture.database.validate().expect("an answer"), []);
    let (january, march) = (price("JAN", "1.5"), price("MARCH7", "2.5").replace("2024-01", "2024-03"));
    let batch = claimed(&fixture, "stock_prices", &[&january, &march]);
    let database = fixture.database.clone();
    let stop = std::thread::scope(|scope| {
        let shared = fixture.shared();
        let writer = std::thread::Builder::new().name("partition".to_owned());
        let writer = writer.spawn_scoped(scope, move || run_writer(&shared, &database, batch)).expect("started");
        writer.join().expect("no panic").expect_err("no partition")
    });
    assert_eq!(stop.code, ExitCode::Config);
    assert!(stop.message.contains("\"stock_prices\" has no partition for a row"), "{}", stop.message);
    assert!(stop.message.contains("with the record of stock_prices/0 at 1"), "{}", stop.message);
    let lines = logged_by("partition");
    assert!(!lines.iter().chain([&stop.message]).any(|line| line.contains("MARCH7") || line.contains("2024-03")));
    assert_eq!((fixture.number("SELECT count(*) FROM @.stock_prices"), letters(&mut fixture).len()), (0, 0));
    // With patience it goes on as soon as there is one.
    fixture.reopen(&["schema.grace_ms=60000"]);
    let batch = claimed(&fixture, "stock_prices", &[&january, &march]);
    let (shared, database) = (fixture.shared(), fixture.database.clone());
    let written = std::thread::scope(|scope| {
        let writer = scope.spawn(|| run_writer(&shared, &database, batch));
        super::eventually("a retry", || shared.metrics.retries() > 0 || writer.is_finished());
        fixture.sql("CREATE TABLE @.rest PARTITION OF @.stock_prices DEFAULT");
        writer.join().expect("no panic")
    });
    assert_eq!(written, Ok(true));
    assert_eq!(fixture.number("SELECT count(*) FROM @.stock_prices"), 2);
    assert!(!notes(&fixture).iter().any(|note| note.contains("is partitioned")));
}

#[test]
fn a_check_of_ones_own_is_a_rows_fault_still_in_a_partitioned_table() {
    let mut fixture = adopted(BY_MONTH, &[]);
    fixture.sql("ALTER TABLE @.stock_prices ADD CHECK (price < 100)");
    let (good, bad) = (price("GOOD", "1.5"), price("BAD", "100"));
    let batch = claimed(&fixture, "stock_prices", &[&good, &bad]);
    assert_eq!(run_writer(&fixture.shared(), &fixture.database, batch), Ok(true));
    let classes = "SELECT concat_ws(' ', record_offset, reason_class, reason_code) FROM @.writer_dead_letters";
    assert_eq!(fixture.texts(classes), ["1 database 23514"]);
}

#[test]
fn what_can_be_no_target_is_refused_by_its_name() {
    for (sql, expected) in [
        ("ALTER TABLE @.stock_prices RENAME TO t; CREATE VIEW @.stock_prices AS SELECT * FROM @.t", "is a view;"),
        (
            "ALTER TABLE @.stock_prices RENAME TO t; CREATE MATERIALIZED VIEW @.stock_prices AS SELECT * FROM @.t",
            "is a materialized view;",
        ),
        (
            "ALTER TABLE @.stock_prices DROP COLUMN volume; \
             ALTER TABLE @.stock_prices ADD COLUMN volume numeric GENERATED ALWAYS AS (price * 2) STORED",
            "column \"volume\" is generated",
        ),
        ("ALTER TABLE @.stock_prices ALTER price TYPE float8", "\"price\" is double precision; ALTER TABLE"),
        ("ALTER TABLE @.stock_prices ALTER volume TYPE bigint", "\"volume\" is bigint; ALTER TABLE"),
        ("ALTER TABLE @.stock_prices ALTER symbol TYPE char(10)", "\"symbol\" is character(10); ALTER TABLE"),
    ] {
        let fixture = adopted(sql, &[]);
        let findings = fixture.database.validate().expect("an answer");
        let [finding] = &findings[..] else { panic!("{expected}: {findings:#?}") };
        assert_eq!((finding.code, finding.is_absence), (ExitCode::Config, false));
        assert!(finding.message.contains(expected), "{}", finding.message);
        fixture.database.notes().expect("there is something to say of anything");
    }
}

#[test]
fn further_columns_with_defaults_and_triggers_are_welcome() {
    let mut fixture = adopted(
        "ALTER TABLE @.stock_prices ADD venue text NOT NULL DEFAULT 'X', ADD seen timestamp DEFAULT now(), \
           ADD twice numeric GENERATED ALWAYS AS (price * 2) STORED; \
         CREATE FUNCTION @.f() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN NEW.venue := NEW.symbol || '!'; RETURN NEW; END $$; \
         CREATE TRIGGER stamp BEFORE INSERT ON @.stock_prices FOR EACH ROW EXECUTE FUNCTION @.f()",
        &[],
    );
    assert_eq!(fixture.database.validate().expect("an answer"), []);
    assert_note(&notes(&fixture), &["has triggers: \"stamp\""]);
    write(&fixture, "stock_prices", &[&price("A", "1.25")]);
    let row = "SELECT concat_ws(' ', symbol, venue, twice, abs(extract(epoch FROM now() AT TIME ZONE 'UTC' - seen)) < 60) FROM @.stock_prices";
    assert_eq!(fixture.texts(row), ["A A! 2.50 t"]);
}

#[test]
fn the_statement_that_widens_an_id_works_for_a_name_of_any_letters() {
    let mut fixture = adopted(OLD_TABLES, &[]);
    fixture.sql("ALTER TABLE @.stock_prices RENAME id TO \"Id of \"\"it\"");
    let found = notes(&fixture);
    let note = found.iter().find(|note| note.contains("Id of") && note.contains("ids are left")).expect("a note");
    let (_, statement) = note.split_once("for how long is not known; ").expect("a statement");
    fixture.sql(statement.split_once(", and its sequence").expect("its end").0);
    assert!(!notes(&fixture).iter().any(|note| note.contains("Id of")));
}

#[test]
fn ids_that_run_out_are_foreseen_and_stop_the_worker_without_a_dead_letter() {
    let mut fixture = adopted(OLD_TABLES, &["schema.grace_ms=0"]);
    // A thousand ids an hour, of which each second one was used; and older ones, at another pace.
    fixture.sql(
        "INSERT INTO @.stock_prices (id, symbol, price, timestamp, fetch_timestamp, created_at) \
         SELECT 1000000 + 2 * n, 'A', 1, 'epoch', 0, timestamp '2024-01-10' - (24000 - n) * interval '7.2 s' \
         FROM generate_series(0, 24000) AS n; \
         INSERT INTO @.stock_prices (id, symbol, price, timestamp, created_at) \
         SELECT n, 'A', 1, 'epoch', timestamp '2020-01-01' + n * interval '1 s' FROM generate_series(1, 1000) AS n; \
         SELECT setval('@.stock_prices_id_seq', 1048000)",
    );
    let capacities = fixture.database.capacities().expect("an answer");
    let [ids, _] = &capacities[..] else { panic!("{capacities:?}") };
    assert_eq!((ids.column.as_str(), ids.ids_left), ("id", 2_147_483_647 - 1_048_000));
    assert_eq!(ids.pace.map(|pace| (pace.ids, pace.seconds)), Some((24_000, 86_400.0)));
    assert_eq!(ids.days_left(), Some((2_147_483_647 - 1_048_000) / 24_000));
    // One that is as wide as bigint, as before PostgreSQL 10: then it is the column that is full.
    for sequence in ["", "ALTER SEQUENCE @.stock_prices_id_seq AS bigint MAXVALUE 9223372036854775807;"] {
        fixture.sql(&format!("{sequence} SELECT setval('@.stock_prices_id_seq', 2147483647)"));
        let batch = claimed(&fixture, "stock_prices", &[&price("A", "1.25")]);
        let stop = run_writer(&fixture.shared(), &fixture.database, batch).expect_err("no ids");
        assert_eq!(stop.code, ExitCode::Config, "{}", stop.message);
        assert_eq!(fixture.database.capacities().expect("an answer")[0].ids_left, 0);
        assert_eq!(letters(&mut fixture).len(), 0);
    }
}

//! Numbers and times as PostgreSQL itself reads them, on the server that DATABASE_URL names.
//!
//! Random texts go there beside what the decoder has made of them, and both readings come back. Where the two differ on
//! purpose, the test says so; nowhere else may they.

use chrono::{Datelike, NaiveDate, NaiveDateTime, Offset as _, TimeDelta, TimeZone};
use chrono_tz::Tz;
use fastrand::Rng;
use postgres::{Client, NoTls};
use std::io::Write;
use stock_db_writer::decimal::{Decimal, DecimalError};
use stock_db_writer::decode::decode;
use stock_db_writer::decode::settings::Settings;
use stock_db_writer::record::{Offset, Record, Value};
use stock_db_writer::row::{Class, Decoded, Fate};

/// Texts of each kind.
const N_TEXTS: usize = 100_000;
/// 2100-01-01T00:00:00Z, the last time that the decoder accepts.
const LAST_MICROS: i64 = 4_102_444_800_000_000;

/// Without a change of clocks, with one, on the southern side, by half an hour, at midnight, and one that left out a day.
const ZONES: &[&str] = &[
    "UTC",
    "America/New_York",
    "Europe/Berlin",
    "Asia/Kolkata",
    "Asia/Tokyo",
    "Australia/Lord_Howe",
    "Australia/Sydney",
    "America/Sao_Paulo",
    "Pacific/Apia",
    "America/St_Johns",
];

fn connect() -> Client {
    let url = std::env::var("DATABASE_URL");
    let url = url.expect("DATABASE_URL must name a PostgreSQL server: eval \"$(dev/services env)\"");
    Client::connect(&url, NoTls).expect("the server answers")
}

/// Bytes for COPY … FROM STDIN (FORMAT binary).
struct Lines(Vec<u8>);

impl Lines {
    fn new() -> Lines {
        Lines(b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0".to_vec())
    }

    fn line(&mut self, fields: &[Option<&[u8]>]) {
        self.0.extend_from_slice(&(fields.len() as i16).to_be_bytes());
        for field in fields {
            self.0.extend_from_slice(&field.map_or(-1, |bytes| bytes.len() as i32).to_be_bytes());
            self.0.extend_from_slice(field.unwrap_or_default());
        }
    }

    fn send(mut self, client: &mut Client, table: &str) {
        self.0.extend_from_slice(&(-1_i16).to_be_bytes());
        let mut writer = client.copy_in(&format!("COPY {table} FROM STDIN (FORMAT binary)")).expect("COPY begins");
        writer.write_all(&self.0).expect("the server takes it");
        writer.finish().expect("the server takes all of it");
    }
}

fn digits(random: &mut Rng, n_digits: usize) -> String {
    // Zeros are where mistakes are.
    let zeros = random.u8(..4) == 0;
    (0..n_digits).map(|_| if zeros && random.u8(..8) > 0 { '0' } else { random.digit(10) }).collect()
}

fn one_of<T: Copy>(random: &mut Rng, all: &[T]) -> T {
    all[random.usize(..all.len())]
}

fn number(random: &mut Rng) -> String {
    let length_max = if random.u8(..10) == 0 { 60 } else { 9 };
    let (n_integer, n_fraction) = (random.usize(..=length_max), random.usize(..=length_max));
    let (mut integer, fraction) = (digits(random, n_integer), digits(random, n_fraction));
    if integer.is_empty() && fraction.is_empty() {
        integer = digits(random, 1);
    }
    let point = if fraction.is_empty() && random.bool() { "" } else { "." };
    let exponent = match random.u8(..16) {
        0..4 => format!("{}{}{}", one_of(random, &["e", "E"]), one_of(random, &["", "+", "-"]), random.u8(..70)),
        4 => format!("e{}{}", one_of(random, &["", "+", "-"]), random.u32(..1000)),
        _ => String::new(),
    };
    let (before, after) = (one_of(random, &["", "", " ", "\t\n"]), one_of(random, &["", "", " ", "\r\n "]));
    let sign = one_of(random, &["", "", "-", "+"]);
    let mut text = format!("{before}{sign}{integer}{point}{fraction}{exponent}{after}");
    if random.u8(..50) == 0 {
        text.insert(random.usize(..=text.len()), one_of(random, &['.', '-', '+', 'e', ',', 'f', '0']));
    }
    text
}

/// Around 131072 digits before the point and 16383 after it.
fn huge_number(random: &mut Rng) -> String {
    let near = |random: &mut Rng, limit: usize| limit - 3 + random.usize(..7);
    let sign = one_of(random, &["", "-"]);
    let number = match random.u8(..8) {
        0 => {
            let n_digits = near(random, 131_072);
            digits(random, n_digits)
        }
        1 => format!("{}e{}", digits(random, 5), near(random, 131_067)),
        2 => format!("0.{}e{}", digits(random, 5), near(random, 131_072)),
        3 => format!("{}.{}e{}", digits(random, 3), digits(random, 12), near(random, 131_069)),
        4 => {
            let n_digits = near(random, 16_383);
            format!("{}.{}", digits(random, 2), digits(random, n_digits))
        }
        5 => format!("{}e-{}", digits(random, 5), near(random, 16_383)),
        6 => format!("{}.{}e-{}", digits(random, 2), digits(random, 8), near(random, 16_375)),
        _ => format!("0.{}e{}{}", "0".repeat(random.usize(..9)), one_of(random, &["", "-"]), near(random, 16_383)),
    };
    sign.to_owned() + &number
}

#[test]
fn numbers_are_what_postgresql_reads_in_their_text() {
    let mut random = Rng::with_seed(11);
    let mut texts: Vec<String> = (0..N_TEXTS).map(|_| number(&mut random)).collect();
    texts.extend((0..300).map(|_| huge_number(&mut random)));
    let examples =
        ["1.50", "1.2E8", "1.50e1", "1e-5", "-0.00", "0e10", "0.00e1", "0e999999999", ".5", "5.", "5.e1", "007"];
    texts.extend(examples.map(str::to_owned));

    let numbers: Vec<Result<Decimal<'_>, DecimalError>> =
        texts.iter().map(|text| Decimal::parse(text.as_str().into())).collect();
    let mut lines = Lines::new();
    let mut numeric = Vec::new();
    for (idx, (text, number)) in texts.iter().zip(&numbers).enumerate() {
        numeric.clear();
        let field = number.as_ref().ok().map(|number| number.write_numeric(&mut numeric));
        let field = field.map(|()| numeric.as_slice());
        lines.line(&[Some(&(idx as i32).to_be_bytes()), Some(text.as_bytes()), field]);
    }
    let mut client = connect();
    let tables = "CREATE TEMP TABLE numbers (idx int4, sent text, written numeric); \
         CREATE FUNCTION pg_temp.read(sent text) RETURNS text LANGUAGE plpgsql AS \
         'BEGIN RETURN sent::numeric::text; EXCEPTION WHEN data_exception THEN RETURN NULL; END'";
    client.batch_execute(tables).expect("temporary tables are allowed");
    lines.send(&mut client, "numbers");

    let rows = client.query("SELECT written::text, pg_temp.read(sent) FROM numbers ORDER BY idx", &[]);
    let rows = rows.expect("the server answers");
    assert_eq!(rows.len(), texts.len());
    let (mut n_wrong, mut n_out_of_range) = (0, 0);
    for ((text, number), row) in texts.iter().zip(&numbers).zip(&rows) {
        let (written, read): (Option<&str>, Option<&str>) = (row.get(0), row.get(1));
        // Printed by us, printed by PostgreSQL from our bytes, printed by PostgreSQL from the text.
        match number {
            Ok(number) => {
                let shown = number.to_string();
                assert!(Some(shown.as_str()) == written && written == read, "{}", differ(text, &shown, written, read));
            }
            Err(error) => {
                assert!(written.is_none() && read.is_none(), "{}", differ(text, &error.to_string(), written, read));
                match error {
                    DecimalError::NotANumber => n_wrong += 1,
                    DecimalError::OutOfRange => n_out_of_range += 1,
                }
            }
        }
    }
    assert!(n_wrong > 100 && n_out_of_range > 30, "{n_wrong} texts were no numbers, {n_out_of_range} out of range");
}

fn differ(text: &str, ours: &str, written: Option<&str>, read: Option<&str>) -> String {
    let cut = |text: &str| format!("{:.60} ({} bytes)", text, text.len());
    let of = |text: Option<&str>| text.map_or("nothing".to_owned(), cut);
    format!("{:?}: printed {}, written {}, read by PostgreSQL {}", cut(text), cut(ours), of(written), of(read))
}

/// A text, and what it says.
struct TimeText {
    text: String,
    // What a clock shows, to the second. A leap second is the next minute.
    clock: NaiveDateTime,
    has_zone: bool,
    // PostgreSQL rounds to microseconds; the decoder cuts.
    is_rounded_up: bool,
}

/// When the clocks of a zone were changed, and by how much, roughly: only to try more texts around it.
fn changes(zone: Tz) -> Vec<NaiveDateTime> {
    let first = NaiveDate::from_ymd_opt(1970, 1, 1).expect("a date").and_time(chrono::NaiveTime::MIN);
    let hours = (0..(130 * 8766)).step_by(6).map(|hour| first + TimeDelta::hours(hour));
    let offset = |time: NaiveDateTime| zone.offset_from_utc_datetime(&time).fix().local_minus_utc();
    let times: Vec<(NaiveDateTime, i32)> = hours.map(|time| (time, offset(time))).collect();
    let changed = times.windows(2).filter(|pair| pair[0].1 != pair[1].1);
    changed.map(|pair| pair[0].0 + TimeDelta::seconds(pair[0].1.into())).collect()
}

fn time(random: &mut Rng, changes: &[NaiveDateTime]) -> TimeText {
    let year = if random.u8(..20) == 0 { random.i32(1900..2200) } else { random.i32(1970..2100) };
    let day = NaiveDate::from_yo_opt(year, random.u32(1..=365)).expect("a day of the year");
    let mut clock = day.and_hms_opt(random.u32(..24), random.u32(..60), random.u32(..60)).expect("a time of day");
    if !changes.is_empty() && random.u8(..3) == 0 {
        clock = one_of(random, changes) + TimeDelta::seconds(random.i64(-3600..8 * 3600));
    }
    let zone = if random.bool() { zone(random) } else { String::new() };
    let has_zone = !zone.is_empty();
    let (mut fraction, mut is_rounded_up) = (String::new(), false);
    if random.bool() {
        let n_digits = random.usize(1..=9);
        fraction = format!(".{}", digits(random, n_digits));
        let rest = format!("{:0<9}", &fraction[1..])[6..].parse::<u32>().expect("digits");
        // What is exactly between is left out: which way it goes depends on a float.
        if rest == 500 {
            fraction.truncate(7);
        }
        is_rounded_up = rest > 500;
    }
    let whole = TimeText { text: String::new(), clock, has_zone, is_rounded_up };
    let text = match random.u8(..8) {
        0 => {
            let clock = clock.date().and_time(chrono::NaiveTime::MIN);
            // Eight digits that are no date of these years are a number.
            let is_packed = (1970..2100).contains(&clock.year()) && random.bool();
            let text = clock.format(if is_packed { "%Y%m%d" } else { "%Y-%m-%d" }).to_string();
            return TimeText { text, clock, has_zone: false, is_rounded_up: false };
        }
        1 => {
            let day = if random.bool() { "%a, " } else { "" };
            let text = clock.format(&format!("{day}%d %b %Y %H:%M:%S +0000")).to_string();
            return TimeText { text, has_zone: true, is_rounded_up: false, ..whole };
        }
        2 => {
            let clock = clock - TimeDelta::seconds(clock.and_utc().timestamp() % 60);
            let text = format!("{}{zone}", clock.format(one_of(random, &["%Y-%m-%dT%H:%M", "%Y-%m-%d %H:%M"])));
            return TimeText { text, clock, is_rounded_up: false, ..whole };
        }
        // PostgreSQL takes no colon in the zone where none is in the time.
        3 => format!("{}{fraction}{}", clock.format("%Y%m%dT%H%M%S"), zone.replace(':', "")),
        4 => {
            let minute = clock - TimeDelta::seconds(clock.and_utc().timestamp() % 60);
            let text = format!("{}:60{zone}", minute.format("%Y-%m-%dT%H:%M"));
            return TimeText { text, clock: minute + TimeDelta::seconds(60), is_rounded_up: false, ..whole };
        }
        5 => format!("{}{fraction}{zone}", clock.format("%Y-%m-%d %H:%M:%S")),
        _ => format!("{}{fraction}{zone}", clock.format("%Y-%m-%dT%H:%M:%S")),
    };
    TimeText { text, ..whole }
}

fn zone(random: &mut Rng) -> String {
    let (sign, hours, minutes) =
        (one_of(random, &['+', '-']), random.u8(..15), one_of(random, &["00", "00", "30", "45"]));
    match random.u8(..7) {
        0 => "Z".to_owned(),
        1 => "z".to_owned(),
        2 => one_of(random, &["+00", "+0000", "+00:00", "-00:00"]).to_owned(),
        3 => format!("{sign}{hours:02}"),
        4 => format!("{sign}{hours:02}{minutes}"),
        5 => format!(" {sign}{hours:02}:{minutes}"),
        _ => format!("{sign}{hours:02}:{minutes}"),
    }
}

/// What the decoder makes of a text where a time is expected.
fn decoded(text: &str, settings: &Settings) -> Option<i64> {
    let value = format!(r#"{{"symbol":"A","price":1,"timestamp":"{text}"}}"#);
    let record = Record {
        topic: "prices",
        partition: 0,
        offset: Offset(0),
        timestamp_ms: None,
        key: None,
        value: Value::Bytes(value.as_bytes()),
    };
    let mut out = Decoded::default();
    match decode(&record, 0, settings, &mut out) {
        Fate::Rows => Some(out.prices[0].timestamp.0),
        _ => {
            assert_eq!(out.dead_letters[0].class, Class::Time, "{text}: {}", out.dead_letters[0].reason);
            None
        }
    }
}

#[test]
fn times_are_what_postgresql_reads_in_their_text() {
    let mut random = Rng::with_seed(12);
    let mut client = connect();
    let (mut n_skipped_hours, mut n_doubled_hours, mut n_out_of_range) = (0, 0, 0);
    for zone in ZONES {
        let tz: Tz = zone.parse().expect("a zone");
        let settings = Settings { timezone: tz, ..Settings::default() };
        let changes = changes(tz);
        let times: Vec<TimeText> = (0..N_TEXTS / ZONES.len()).map(|_| time(&mut random, &changes)).collect();
        let micros: Vec<Option<i64>> = times.iter().map(|time| decoded(&time.text, &settings)).collect();

        let tables = format!(
            "DROP TABLE IF EXISTS times; SET TimeZone = '{zone}'; SET DateStyle = 'ISO, YMD'; \
             CREATE TEMP TABLE times (idx int4, sent text, rounded float8, decoded timestamptz)"
        );
        client.batch_execute(&tables).expect("temporary tables are allowed");
        let mut lines = Lines::new();
        for (idx, (time, micros)) in times.iter().zip(&micros).enumerate() {
            let since_2000 = micros.map(|micros| (micros - 946_684_800_000_000).to_be_bytes());
            lines.line(&[
                Some(&(idx as i32).to_be_bytes()),
                Some(time.text.as_bytes()),
                Some(&f64::from(u8::from(time.is_rounded_up)).to_be_bytes()),
                since_2000.as_ref().map(<[u8; 8]>::as_slice),
            ]);
        }
        lines.send(&mut client, "times");
        // Back to the microsecond that was cut: then both must be the same.
        let rows = client.query(
            "WITH read AS MATERIALIZED (SELECT idx, decoded, sent::timestamptz - rounded * interval '1 us' AS cut FROM times) \
             SELECT extract(epoch FROM date_trunc('second', cut))::int8 * 1000000 + extract(microseconds FROM cut)::int8 % 1000000, \
             to_char(cut, 'YYYY-MM-DD HH24:MI:SS'), to_char(decoded, 'YYYY-MM-DD HH24:MI:SS') FROM read ORDER BY idx",
            &[],
        );
        let rows = rows.expect("PostgreSQL can read every text");
        assert_eq!(rows.len(), times.len());
        for ((time, decoded), row) in times.iter().zip(&micros).zip(&rows) {
            let (read, read_clock, decoded_clock): (i64, &str, Option<&str>) = (row.get(0), row.get(1), row.get(2));
            let clock = time.clock.format("%Y-%m-%d %H:%M:%S").to_string();
            let context =
                || format!("{} in {zone}: decoded {decoded:?} {decoded_clock:?}, read {read} {read_clock}", time.text);
            if *decoded == Some(read) {
                assert!(time.has_zone || decoded_clock == Some(&clock), "{}", context());
            } else if !(0..=LAST_MICROS).contains(&read) {
                assert!(decoded.is_none(), "{}", context());
                n_out_of_range += 1;
            } else if decoded.is_none() {
                // PostgreSQL moves what the clocks never showed; the decoder refuses it.
                assert!(!time.has_zone && read_clock != clock, "{}", context());
                n_skipped_hours += 1;
            } else {
                // Of two times that the clocks showed alike PostgreSQL takes the later; the decoder takes the earlier.
                assert!(!time.has_zone && *decoded < Some(read), "{}", context());
                assert!(read_clock == clock && decoded_clock == Some(&clock), "{}", context());
                n_doubled_hours += 1;
            }
        }
    }
    let counts = [n_skipped_hours, n_doubled_hours, n_out_of_range];
    assert!(
        counts.iter().all(|count| *count > 100),
        "too few of skipped hours, doubled hours, out of range: {counts:?}"
    );
}

//! The many ways in which JSON and the profiles spell the same field.

use super::profiles::{Price, SECOND};
use chrono::{DateTime, NaiveDateTime, SecondsFormat};
use stock_db_writer::decimal::Decimal;

pub(super) fn quote(row: &Price, form: u32) -> String {
    pub(super) const SYMBOL: &[&str] = &["symbol", "ticker", "stock_symbol", "instrument"];
    const PRICE: &[&str] = &["price", "last_price", "last", "close", "current_price", "trade_price"];
    const VOLUME: &[&str] = &["volume", "size", "quantity", "last_size", "trade_volume"];
    let mut fields = vec![
        (*pick(SYMBOL, form / 3), json(&row.symbol)),
        (*pick(PRICE, form / 5), number_in(&row.price, form)),
        times(row.micros, form),
    ];
    if let Some(volume) = &row.volume {
        fields.push((*pick(VOLUME, form / 7), number_in(volume, form / 2)));
    }
    object(fields, row.fetched, form)
}

pub(super) fn bar(row: &Price, form: u32) -> String {
    let mut fields = vec![
        ("symbol", json(&row.symbol)),
        ("open", "9".to_owned()),
        ("high", "9".to_owned()),
        ("low", "9".to_owned()),
        ("close", number_in(&row.price, form)),
        times(row.micros, form),
    ];
    if let Some(volume) = &row.volume {
        fields.push(("volume", volume.clone()));
    }
    object(fields, row.fetched, form)
}

pub(super) fn object(mut fields: Vec<(&'static str, String)>, fetched: Option<i64>, form: u32) -> String {
    const FETCHED: &[&str] = &["fetch_timestamp", "fetched_at", "fetch_time", "ingest_ts", "ingested_at"];
    if let Some(fetched) = fetched {
        fields.push((*pick(FETCHED, form / 11), fetched.to_string()));
    }
    let fields: Vec<String> =
        fields.iter().map(|(name, value)| format!("\"{}\": {value}", spelled(name, form / 13))).collect();
    format!("{{{}}}", fields.join(", "))
}

pub(super) fn times(micros: i64, form: u32) -> (&'static str, String) {
    const TIME: &[&str] =
        &["timestamp", "ts", "time", "datetime", "date", "event_time", "event_ts", "trade_time", "last_updated"];
    (*pick(TIME, form / 17), time(micros, form / 19))
}

/// A time in one of the forms that keep all of it.
pub(super) fn time(micros: i64, form: u32) -> String {
    match form % 8 {
        0 if micros % SECOND == 0 => (micros / SECOND).to_string(),
        1 if micros % 1000 == 0 => (micros / 1000).to_string(),
        2 => format!("{micros}000"),
        3 => format!("\"{micros}\""),
        4 => json(&utc(micros).to_rfc3339_opts(SecondsFormat::AutoSi, true)),
        5 => json(&utc(micros).naive_utc().format("%Y-%m-%d %H:%M:%S%.f").to_string()),
        6 => json(&utc(micros).with_timezone(&chrono_tz::Asia::Kolkata).format("%Y-%m-%dT%H:%M:%S%.6f%z").to_string()),
        7 if micros % SECOND == 0 => json(&utc(micros).to_rfc2822()),
        _ => micros.to_string(),
    }
}

/// A name in one of its spellings.
pub(super) fn spelled(name: &str, form: u32) -> String {
    match form % 3 {
        0 => name.to_owned(),
        1 => {
            let mut words = name.split('_');
            let mut camel = words.next().unwrap_or_default().to_owned();
            for word in words {
                camel.push_str(&word[..1].to_uppercase());
                camel.push_str(&word[1..]);
            }
            camel
        }
        _ => name.to_uppercase(),
    }
}

fn number_in(token: &str, form: u32) -> String {
    if form.is_multiple_of(4) { text(token) } else { token.to_owned() }
}

/// A token as a string, unless it is one.
pub(super) fn text(token: &str) -> String {
    if token.starts_with('"') { token.to_owned() } else { json(token) }
}

pub(super) fn or_null(number: &Option<String>) -> String {
    number.clone().unwrap_or_else(|| "null".to_owned())
}

pub(super) fn json(text: &str) -> String {
    serde_json::to_string(text).expect("a string is JSON")
}

pub(super) fn array(rows: &[Price], write: impl Fn(&Price) -> String) -> String {
    format!("[{}]", rows.iter().map(write).collect::<Vec<_>>().join(","))
}

pub(super) fn lines(rows: &[Price], write: impl Fn(&Price) -> String) -> String {
    rows.iter().map(write).collect::<Vec<_>>().join("\n")
}

pub(super) fn pick<T>(all: &[T], form: u32) -> &T {
    &all[form as usize % all.len()]
}

pub(super) fn plain(number: &str) -> String {
    Decimal::parse(number.into()).expect("a number").to_string()
}

pub(super) fn utc(micros: i64) -> DateTime<chrono::Utc> {
    DateTime::from_timestamp_micros(micros).expect("a time of this century")
}

pub(super) fn date(micros: i64) -> String {
    utc(micros).format("%Y-%m-%d").to_string()
}

pub(super) fn seconds(time: NaiveDateTime) -> String {
    time.format("%Y-%m-%d %H:%M:%S").to_string()
}

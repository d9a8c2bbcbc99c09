//! PostgreSQL's binary COPY format: rows as bytes, ready to be sent in one piece.
//!
//! Pure. <https://www.postgresql.org/docs/current/sql-copy.html#id-1.9.3.55.9.4>. It saves the server the parsing of
//! text, and keeps values out of its messages: for a binary COPY they name the line and the column only.

use crate::decimal::Decimal;
use crate::record::Value;
use crate::row::{MetricRow, Micros, PriceRow};
use crate::work::Work;
use sha2::{Digest, Sha256};

/// Signature, flags, length of the header's extension.
const HEADER: &[u8] = b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0";
/// 2000-01-01T00:00:00Z, where PostgreSQL's time begins, in microseconds since 1970.
const POSTGRES_EPOCH_MICROS: i64 = 946_684_800_000_000;
/// PostgreSQL refuses a field of 1 GiB.
const BYTES_MAX: usize = 256 << 20;

/// The columns of [`prices`], in its order.
pub const PRICE_COLUMNS: &str = "symbol, price, volume, \"timestamp\", fetch_timestamp";
/// The columns of a metric, in the order of [`metrics`], which adds the row's place.
pub const METRIC_COLUMNS: &str = "symbol, window_start, window_end, avg_price, max_price, min_price, avg_volume";
/// The columns of [`dead_letters`], in its order.
pub const DEAD_LETTER_COLUMNS: &str = "pipeline, topic, partition, record_offset, element, key, payload, \
     payload_bytes, payload_sha256, reason_class, reason_code, reason, record_timestamp_ms, record_elements";

/// Writes these prices, in this order.
pub fn prices<'a, 'b: 'a>(out: &mut Vec<u8>, rows: impl IntoIterator<Item = &'a PriceRow<'b>>) {
    begin(out);
    for row in rows {
        columns(out, 5);
        bytes(out, Some(row.symbol.as_bytes()));
        numeric(out, Some(&row.price));
        numeric(out, row.volume.as_ref());
        micros(out, row.timestamp);
        long(out, row.fetch_timestamp);
    }
    end(out);
}

/// Writes these metrics, in this order, each with its place from `place` on.
pub fn metrics<'a, 'b: 'a>(out: &mut Vec<u8>, place: i32, rows: impl IntoIterator<Item = &'a MetricRow<'b>>) {
    begin(out);
    for (place, row) in (place..).zip(rows) {
        columns(out, 8);
        bytes(out, Some(row.symbol.as_bytes()));
        micros(out, row.window_start);
        micros(out, row.window_end);
        for figure in [&row.avg_price, &row.max_price, &row.min_price, &row.avg_volume] {
            numeric(out, figure.as_ref());
        }
        int(out, place);
    }
    end(out);
}

/// Writes all dead letters, which are in the order of their origin. A record's payload goes with its first one.
pub fn dead_letters(out: &mut Vec<u8>, pipeline: &str, work: &Work<'_>, payload_bytes_max: usize) {
    begin(out);
    let kept_max = payload_bytes_max.min(BYTES_MAX);
    let mut last_record_idx = None;
    for letter in &work.decoded.dead_letters {
        let record_idx = letter.origin.record_idx;
        let (_, record) = work.batch.record(record_idx as usize);
        let is_lowest = last_record_idx.replace(record_idx) != Some(record_idx);
        columns(out, 14);
        bytes(out, Some(pipeline.as_bytes()));
        bytes(out, Some(record.topic.as_bytes()));
        int(out, record.partition);
        long(out, Some(record.offset.0));
        int(out, letter.origin.element as i32);
        bytes(out, record.key.filter(|key| key.len() <= kept_max));
        let (payload, payload_bytes, sha256) = match record.value {
            Value::Null => (None, None, None),
            Value::Bytes(value) if value.len() <= kept_max => (Some(value), Some(value.len() as i64), None),
            Value::Bytes(value) => {
                // Only for the letter that keeps it: the digest of a large value takes a while.
                let digest = is_lowest.then(|| Sha256::digest(value).into());
                (None, Some(value.len() as i64), digest)
            }
            Value::TooLarge { bytes, sha256 } => (None, Some(bytes as i64), Some(sha256)),
        };
        bytes(out, payload.filter(|_| is_lowest));
        long(out, payload_bytes);
        bytes(out, sha256.filter(|_| is_lowest).as_ref().map(<[u8; 32]>::as_slice));
        text(out, letter.class.as_str());
        text(out, &letter.code);
        text(out, &letter.reason);
        long(out, record.timestamp_ms);
        int(out, work.n_elements(record_idx) as i32);
    }
    end(out);
}

fn begin(out: &mut Vec<u8>) {
    out.clear();
    out.extend_from_slice(HEADER);
}

fn end(out: &mut Vec<u8>) {
    out.extend_from_slice(&(-1_i16).to_be_bytes());
}

fn columns(out: &mut Vec<u8>, n_columns: i16) {
    out.extend_from_slice(&n_columns.to_be_bytes());
}

fn length(out: &mut Vec<u8>, length: i32) {
    out.extend_from_slice(&length.to_be_bytes());
}

fn null(out: &mut Vec<u8>) {
    length(out, -1);
}

fn bytes(out: &mut Vec<u8>, value: Option<&[u8]>) {
    let Some(value) = value else { return null(out) };
    length(out, i32::try_from(value.len()).expect("fields are limited far below 2 GiB"));
    out.extend_from_slice(value);
}

/// Text for people. A reason names JSON keys, which may hold the one character that PostgreSQL can't store.
fn text(out: &mut Vec<u8>, value: &str) {
    match value.contains('\0') {
        false => bytes(out, Some(value.as_bytes())),
        true => bytes(out, Some(value.replace('\0', "\u{fffd}").as_bytes())),
    }
}

fn int(out: &mut Vec<u8>, value: i32) {
    length(out, 4);
    out.extend_from_slice(&value.to_be_bytes());
}

fn long(out: &mut Vec<u8>, value: Option<i64>) {
    let Some(value) = value else { return null(out) };
    length(out, 8);
    out.extend_from_slice(&value.to_be_bytes());
}

fn micros(out: &mut Vec<u8>, Micros(micros): Micros) {
    long(out, Some(micros - POSTGRES_EPOCH_MICROS));
}

fn numeric(out: &mut Vec<u8>, value: Option<&Decimal<'_>>) {
    let Some(value) = value else { return null(out) };
    let start = out.len();
    length(out, 0);
    value.write_numeric(out);
    let written = (out.len() - start - 4) as i32;
    out[start..start + 4].copy_from_slice(&written.to_be_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::row::Origin;

    #[test]
    fn a_price_is_five_fields_between_header_and_trailer() {
        let row = PriceRow {
            origin: Origin { record_idx: 0, element: 0 },
            symbol: "A".into(),
            price: Decimal::parse("1.50".into()).expect("a number"),
            volume: None,
            timestamp: Micros(POSTGRES_EPOCH_MICROS + 7),
            fetch_timestamp: Some(9),
        };
        let mut out = vec![1, 2, 3];
        prices(&mut out, &[row]);
        let body = out.strip_prefix(HEADER).and_then(|rest| rest.strip_suffix(&[0xff, 0xff])).expect("framed");
        assert_eq!(HEADER.len(), 19);
        assert_eq!(&body[..7], [0, 5, 0, 0, 0, 1, b'A']);
        // Two groups of four digits, weight 0, positive, two digits after the point: 1, 5000.
        assert_eq!(&body[7..23], [0, 0, 0, 12, 0, 2, 0, 0, 0, 0, 0, 2, 0, 1, 0x13, 0x88]);
        assert_eq!(&body[23..27], [0xff; 4]);
        assert_eq!(&body[27..], [0, 0, 0, 8, 0, 0, 0, 0, 0, 0, 0, 7, 0, 0, 0, 8, 0, 0, 0, 0, 0, 0, 0, 9]);
    }

    #[test]
    fn a_nul_in_a_reason_is_replaced() {
        let mut out = Vec::new();
        text(&mut out, "a\0");
        assert_eq!(out, [0, 0, 0, 4, b'a', 0xef, 0xbf, 0xbd]);
    }
}

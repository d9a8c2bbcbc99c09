//! A message's rows, skip or dead letters, for a person: within 80 columns, however long their parts are.

use super::summary::counted;
use super::text::{PAGE_WIDTH, cut, harmless, width, wrap};
use super::{Explained, Rfc3339};
use crate::decimal::Decimal;
use crate::row::{DeadLetter, Fate, MetricRow, Micros, PriceRow};
use std::fmt::{self, Write as _};
use std::io::{self, Write};

/// Rows of a message that are shown, at most, and dead letters of it.
const SHOWN_MAX: usize = 10;
/// How narrow a column may be made where the page has no room: a symbol or a number, a window, anything else.
const NARROW: usize = 6;
const WINDOW: usize = 33;
const NEVER_CUT: usize = usize::MAX;
/// Before every line of a table, and between two columns.
const INDENT: usize = 2;
/// What isn't there.
const ABSENT: &str = "-";

impl Explained<'_> {
    /// Writes it below a heading that says which message it is.
    pub fn write_table(&self, out: &mut impl Write, place: &str) -> io::Result<()> {
        writeln!(out, "{}", wrap(&format!("{}: {}", harmless(place), self.verdict()), INDENT))?;
        let decoded = &self.decoded;
        if !decoded.prices.is_empty() {
            let heads = ["SYMBOL", "PRICE", "VOLUME", "TIMESTAMP", "FETCHED"];
            let cells: Vec<_> = decoded.prices.iter().take(SHOWN_MAX).map(price).collect();
            write_columns(out, heads, [NARROW, NARROW, NARROW, NEVER_CUT, NEVER_CUT], &cells)?;
            write_more(out, decoded.prices.len(), "row")?;
        }
        if !decoded.metrics.is_empty() {
            let heads = ["SYMBOL", "WINDOW", "AVG", "MAX", "MIN", "AVG VOLUME"];
            let cells: Vec<_> = decoded.metrics.iter().take(SHOWN_MAX).map(metric).collect();
            write_columns(out, heads, [NARROW, WINDOW, NARROW, NARROW, NARROW, NARROW], &cells)?;
            write_more(out, decoded.metrics.len(), "row")?;
        }
        for letter in decoded.dead_letters.iter().take(SHOWN_MAX) {
            write_letter(out, letter)?;
        }
        write_more(out, decoded.dead_letters.len(), "dead letter")
    }

    /// `2 rows, 1 dead letter (polygon)`
    fn verdict(&self) -> String {
        let n_rows = self.decoded.prices.len() + self.decoded.metrics.len();
        let n_letters = self.decoded.dead_letters.len();
        let mut verdict = match self.explanation.fate {
            Fate::Skip(skip) => format!("skip {}", skip.as_str()),
            Fate::DeadLetter => counted(n_letters as u64, "dead letter"),
            Fate::Rows if n_letters == 0 => counted(n_rows as u64, "row"),
            Fate::Rows => {
                format!("{}, {}", counted(n_rows as u64, "row"), counted(n_letters as u64, "dead letter"))
            }
        };
        let formats: Vec<&str> = self.explanation.formats.iter().map(|format| format.as_str()).collect();
        if !formats.is_empty() {
            // Writing to a string does not fail.
            let _ = write!(verdict, " ({})", formats.join(", "));
        }
        verdict
    }
}

fn price(row: &PriceRow<'_>) -> [String; 5] {
    [
        harmless(&row.symbol).into_owned(),
        number(Some(&row.price)),
        number(row.volume.as_ref()),
        Rfc3339(row.timestamp).to_string(),
        row.fetch_timestamp.map_or_else(|| ABSENT.to_owned(), |seconds| seconds.to_string()),
    ]
}

fn metric(row: &MetricRow<'_>) -> [String; 6] {
    [
        harmless(&row.symbol).into_owned(),
        format!("{} +{}", Rfc3339(row.window_start), Length(row.window_start, row.window_end)),
        number(row.avg_price.as_ref()),
        number(row.max_price.as_ref()),
        number(row.min_price.as_ref()),
        number(row.avg_volume.as_ref()),
    ]
}

/// The digits of a number, or as many of them as could be shown at all: there may be a hundred thousand.
fn number(number: Option<&Decimal<'_>>) -> String {
    struct Beginning(String);
    impl fmt::Write for Beginning {
        fn write_str(&mut self, text: &str) -> fmt::Result {
            self.0.push_str(text);
            if self.0.len() > PAGE_WIDTH { Err(fmt::Error) } else { Ok(()) }
        }
    }
    let Some(number) = number else { return ABSENT.to_owned() };
    let mut beginning = Beginning(String::new());
    // Its end is not an error here.
    let _ = write!(beginning, "{number}");
    beginning.0
}

/// How long a window is: `5m`, `1h30m`, `0.5s`.
struct Length(Micros, Micros);

impl fmt::Display for Length {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Length(Micros(start), Micros(end)) = *self;
        let mut rest = end.abs_diff(start);
        for (unit, micros) in [("d", 86_400_000_000), ("h", 3_600_000_000), ("m", 60_000_000)] {
            if rest >= micros {
                write!(f, "{}{unit}", rest / micros)?;
                rest %= micros;
            }
        }
        let (seconds, fraction) = (rest / 1_000_000, rest % 1_000_000);
        match fraction {
            0 if seconds == 0 => Ok(()),
            0 => write!(f, "{seconds}s"),
            _ => write!(f, "{seconds}.{}s", format!("{fraction:06}").trim_end_matches('0')),
        }
    }
}

/// Aligned columns, below their heads; where the page has no room for them, down to the `least` width of each.
fn write_columns<const N: usize>(
    out: &mut impl Write,
    heads: [&str; N],
    least: [usize; N],
    rows: &[[String; N]],
) -> io::Result<()> {
    let natural = |column: usize| {
        let cells = rows.iter().map(|row| width(&row[column]));
        cells.chain([width(heads[column])]).max().unwrap_or(0)
    };
    let mut widths: [usize; N] = std::array::from_fn(natural);
    let is_cut = shrink(&mut widths, &least);
    write_row(out, &widths, &heads)?;
    for row in rows {
        write_row(out, &widths, &std::array::from_fn(|column| row[column].as_str()))?;
    }
    if is_cut {
        writeln!(out, "  (what ends in … is cut; --json shows all of it)")?;
    }
    Ok(())
}

/// Takes from the widest column what the page has no room for. Whether a cell may have lost something.
fn shrink<const N: usize>(widths: &mut [usize; N], least: &[usize; N]) -> bool {
    let mut is_cut = false;
    while widths.iter().map(|width| width + INDENT).sum::<usize>() > PAGE_WIDTH {
        let candidates = (0..N).filter(|column| widths[*column] > least[*column]);
        let Some(widest) = candidates.max_by_key(|column| widths[*column]) else { break };
        widths[widest] -= 1;
        is_cut = true;
    }
    is_cut
}

fn write_row<const N: usize>(out: &mut impl Write, widths: &[usize; N], cells: &[&str; N]) -> io::Result<()> {
    let mut line = String::new();
    for (column, (columns, cell)) in widths.iter().zip(cells).enumerate() {
        let cell = cut(cell, *columns);
        let padding = " ".repeat(columns - width(&cell));
        line.push_str("  ");
        // Symbols to the left, all else to the right.
        match column == 0 {
            true => line.push_str(&format!("{cell}{padding}")),
            false => line.push_str(&format!("{padding}{cell}")),
        }
    }
    writeln!(out, "{}", line.trim_end())
}

/// `element 3: missing: $[3].price: is missing`
fn write_letter(out: &mut impl Write, letter: &DeadLetter) -> io::Result<()> {
    let text = format!("  element {}: {}: {}", letter.origin.element, letter.class.as_str(), harmless(&letter.reason));
    writeln!(out, "{}", wrap(&text, INDENT * 2))
}

fn write_more(out: &mut impl Write, n: usize, what: &str) -> io::Result<()> {
    match n.saturating_sub(SHOWN_MAX) {
        0 => Ok(()),
        more => writeln!(out, "  … and {}", counted(more as u64, &format!("more {what}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decode::settings::{Settings, Target};
    use crate::record::{Offset, Record, Value};

    fn table_of(value: Value<'_>, settings: &Settings) -> String {
        let timestamp_ms = Some(1_700_000_000_000);
        let record = Record { topic: "t", partition: 0, offset: Offset(0), timestamp_ms, key: None, value };
        let mut out = Vec::new();
        Explained::of(&record, settings).write_table(&mut out, "line 1").unwrap();
        let table = String::from_utf8(out).unwrap();
        for line in table.lines() {
            assert!(width(line) <= PAGE_WIDTH, "{} columns: {line}", width(line));
            assert!(!line.contains(char::is_control) && !line.ends_with(' '), "{line:?}");
        }
        table
    }

    fn table(value: &str) -> String {
        table_of(Value::Bytes(value.as_bytes()), &Settings::default())
    }

    fn metrics_table(value: &str) -> String {
        let settings = Settings { target: Target::Metrics, ..Settings::default() };
        table_of(Value::Bytes(value.as_bytes()), &settings)
    }

    #[test]
    fn rows_stand_in_aligned_columns() {
        let value = r#"[{"symbol":"AAPL","price":187.20,"volume":1200,"timestamp":1704207845.5,"fetched_at":1704207846},
                        {"symbol":"BRK.B","price":1,"timestamp":1704207845}]"#;
        assert_eq!(
            table(value),
            "line 1: 2 rows (quote)\n  \
               SYMBOL   PRICE  VOLUME               TIMESTAMP     FETCHED\n  \
               AAPL    187.20    1200  2024-01-02T15:04:05.5Z  1704207846\n  \
               BRK.B        1       -    2024-01-02T15:04:05Z  1700000000\n"
        );
    }

    #[test]
    fn windows_are_shown_by_their_start_and_length() {
        let value =
            r#"{"symbol":"AAPL","window_start":1704207600,"window_end":1704207900,"avg_price":1.5,"max_price":2}"#;
        assert_eq!(
            metrics_table(value),
            "line 1: 1 row (metrics)\n  \
               SYMBOL                    WINDOW  AVG  MAX  MIN  AVG VOLUME\n  \
               AAPL    2024-01-02T15:00:00Z +5m  1.5    2    -           -\n"
        );
        let length = |micros| Length(Micros(0), Micros(micros)).to_string();
        assert_eq!(length(60_000_000), "1m");
        assert_eq!(length(90_000_000), "1m30s");
        assert_eq!(length(86_400_000_000), "1d");
        assert_eq!(length(500_000), "0.5s");
        assert_eq!(length(3_600_000_001), "1h0.000001s");
    }

    #[test]
    fn dead_letters_and_skips_say_why() {
        assert_eq!(table("[]"), "line 1: skip empty\n");
        assert_eq!(table_of(Value::Null, &Settings::default()), "line 1: skip tombstone\n");
        let mixed = table(r#"[{"symbol":"A","price":1},{"symbol":"B","price":"x"}]"#);
        assert!(mixed.starts_with("line 1: 1 row, 1 dead letter (quote)\n"), "{mixed}");
        assert!(mixed.contains("\n  element 1: type: $[1].price: "), "{mixed}");
    }

    #[test]
    fn long_symbols_and_numbers_are_cut_and_say_so() {
        let digits = "1".repeat(100_000);
        let symbol = "株".repeat(21);
        let table = table(&format!(
            r#"[{{"symbol":"{symbol}","price":{digits},"volume":1e131000}},{{"symbol":"A","price":1}}]"#
        ));
        assert!(table.contains("…") && table.contains("--json shows all of it"), "{table}");
        let value = format!(
            r#"{{"symbol":"{symbol}","window_start":0.000001,"window_end":1704207900.1,"avg_price":{digits},
                 "max_price":{digits},"min_price":{digits},"avg_volume":{digits}}}"#
        );
        assert!(metrics_table(&value).contains("…"));
    }

    #[test]
    fn whatever_is_in_a_message_the_table_keeps_its_width() {
        let mut random = fastrand::Rng::with_seed(7);
        let pieces =
            ["A", "株", "❤\u{fe0f}", "👩\u{200d}👧", "e\u{301}", " ", "\u{202e}", "\\u001b", "\\u0085", "\u{a0}"];
        for _ in 0..3_000 {
            let mut text = |n| (0..random.usize(..n)).map(|_| pieces[random.usize(..pieces.len())]).collect::<String>();
            let (symbol, key) = (text(20), text(60));
            let digits = "9".repeat(random.usize(1..120));
            table(&format!(r#"[{{"symbol":"A{symbol}","price":{digits},"volume":1e{}}},{{"{key}":1}}]"#, digits.len()));
            metrics_table(&format!(
                r#"{{"symbol":"A{symbol}","window_start":{},"window_end":4000000000,"avg_price":{digits},"max_price":1,"avg_volume":{digits}}}"#,
                random.u32(1..) as f64 / 7.0
            ));
        }
    }

    #[test]
    fn of_many_rows_the_first_are_shown_and_the_others_counted() {
        let rows = vec![r#"{"symbol":"A","price":1}"#; 1000].join(",");
        let rows = table(&format!("[{rows}]"));
        assert_eq!(rows.lines().count(), 2 + SHOWN_MAX + 1, "{rows}");
        assert!(rows.ends_with("  … and 990 more rows\n"), "{rows}");
        let letters = ["{\"symbol\":1}"; SHOWN_MAX + 1].join(",");
        assert!(table(&format!("[{letters}]")).ends_with("  … and 1 more dead letter\n"));
    }

    #[test]
    fn a_long_reason_is_wrapped_and_harmless() {
        let keys: Vec<String> = (0..20).map(|n| format!("\"\\u001b[31mthe_{n}_th_of_the_strange_keys\":1")).collect();
        let table = table(&format!("{{{}}}", keys.join(",")));
        assert!(table.lines().count() > 3, "{table}");
    }
}

//! Whether rows fit the columns of a table that somebody else has made.
//!
//! Pure. schema.sql's own columns hold whatever a row can hold; `numeric(10,2)` and its like don't, and PostgreSQL would
//! round to them without a word. So what doesn't fit is known before it is sent, and becomes a dead letter that names the
//! column and its type, and no value.

use crate::decimal::Decimal;
use crate::row::{Class, DeadLetter, MetricRow, Micros, Origin, PriceRow};
use std::collections::BTreeMap;

/// What one column can't hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Limit {
    /// A text of more characters.
    Characters(u32),
    /// A number of more digits, of which so many are after the point.
    Digits {
        /// All of them.
        precision: i32,
        /// Those after the point; below zero, so many before it are zeros.
        scale: i32,
    },
    /// A time with more decimals of a second, up to 6.
    SecondDecimals(u8),
}

/// A column that can't hold everything.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Narrow {
    /// Its name.
    pub column: String,
    /// Its type, as PostgreSQL writes it.
    pub shown: String,
    /// What it can't hold.
    pub limit: Limit,
}

/// What the columns of one table can't hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fit {
    // Schema and table, for a person.
    table: String,
    // Whether a number or a time may lose digits.
    rounds: bool,
    columns: BTreeMap<String, Narrow>,
}

impl Fit {
    /// `None` if there is no narrow column, so that no row needs to be looked at.
    pub fn new(table: &str, rounds: bool, narrow: Vec<Narrow>) -> Option<Fit> {
        let columns = narrow.into_iter().map(|narrow| (narrow.column.clone(), narrow)).collect::<BTreeMap<_, _>>();
        (!columns.is_empty()).then(|| Fit { table: table.to_owned(), rounds, columns })
    }

    /// Dead letters for the prices that don't fit.
    pub fn prices<'a, 'b: 'a>(&self, rows: impl IntoIterator<Item = &'a PriceRow<'b>>) -> Vec<DeadLetter> {
        let [symbol, price, volume, timestamp] =
            ["symbol", "price", "volume", "timestamp"].map(|name| self.narrow(name));
        let misfit = |row: &PriceRow<'_>| {
            let misfit = self.text(symbol, &row.symbol).or_else(|| self.number(price, Some(&row.price)));
            let misfit = misfit.or_else(|| self.number(volume, row.volume.as_ref()));
            let misfit = misfit.or_else(|| self.time(timestamp, row.timestamp));
            misfit.map(|misfit| misfit.letter(row.origin))
        };
        rows.into_iter().filter_map(misfit).collect()
    }

    /// Dead letters for the metrics that don't fit.
    pub fn metrics<'a, 'b: 'a>(&self, rows: impl IntoIterator<Item = &'a MetricRow<'b>>) -> Vec<DeadLetter> {
        let symbol = self.narrow("symbol");
        let [start, end] = ["window_start", "window_end"].map(|name| self.narrow(name));
        let figures = ["avg_price", "max_price", "min_price", "avg_volume"].map(|name| self.narrow(name));
        let misfit = |row: &MetricRow<'_>| {
            let misfit = self.text(symbol, &row.symbol).or_else(|| self.time(start, row.window_start));
            let misfit = misfit.or_else(|| self.time(end, row.window_end));
            let sent = [&row.avg_price, &row.max_price, &row.min_price, &row.avg_volume];
            let number = || figures.into_iter().zip(sent).find_map(|(narrow, sent)| self.number(narrow, sent.as_ref()));
            misfit.or_else(number).map(|misfit| misfit.letter(row.origin))
        };
        rows.into_iter().filter_map(misfit).collect()
    }

    fn narrow(&self, column: &str) -> Option<&Narrow> {
        self.columns.get(column)
    }

    fn text(&self, narrow: Option<&Narrow>, text: &str) -> Option<Misfit> {
        let (narrow, Limit::Characters(max)) = (narrow?, narrow?.limit) else { return None };
        // A character is a byte at least.
        let is_short = text.len() <= max as usize || text.chars().count() <= max as usize;
        (!is_short).then(|| self.misfit(Class::Symbol, narrow, format!("has more than {max} characters")))
    }

    fn number(&self, narrow: Option<&Narrow>, number: Option<&Decimal<'_>>) -> Option<Misfit> {
        let (narrow, number) = (narrow?, number?);
        let Limit::Digits { precision, scale } = narrow.limit else { return None };
        let (integer_max, decimals) = (i64::from(precision - scale), number.decimals());
        if number.integer_digits() > integer_max {
            let what = match integer_max {
                max if max > 0 => format!("has more than {max} {} before the point", counted(max, "digit")),
                0 => "has a digit before the point".to_owned(),
                max => format!("has a digit among the first {} after the point", -max),
            };
            return Some(self.misfit(Class::Range, narrow, what));
        }
        if decimals <= i64::from(scale) || self.rounds {
            return None;
        }
        let what = match decimals {
            n if n > 0 => format!("has {n} {}", counted(n, "decimal")),
            _ => "has more digits".to_owned(),
        };
        Some(self.misfit(Class::Range, narrow, what))
    }

    fn time(&self, narrow: Option<&Narrow>, Micros(micros): Micros) -> Option<Misfit> {
        let (narrow, Limit::SecondDecimals(max)) = (narrow?, narrow?.limit) else { return None };
        let unit = 10_i64.pow(6 - u32::from(max.min(6)));
        let fits = self.rounds || micros.rem_euclid(unit) == 0;
        (!fits).then(|| {
            let what = format!("has more than {max} {} of a second", counted(i64::from(max), "decimal"));
            self.misfit(Class::Range, narrow, what)
        })
    }

    fn misfit(&self, class: Class, narrow: &Narrow, what: String) -> Misfit {
        let Narrow { column, shown, .. } = narrow;
        Misfit { class, reason: format!("{column} {what}, the column {}.{column} is {shown}", self.table) }
    }
}

/// Why a row doesn't fit.
struct Misfit {
    class: Class,
    reason: String,
}

impl Misfit {
    fn letter(self, origin: Origin) -> DeadLetter {
        DeadLetter { origin, class: self.class, code: String::new(), reason: self.reason }
    }
}

fn counted(n: i64, noun: &str) -> String {
    if n == 1 { noun.to_owned() } else { format!("{noun}s") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fit(column: &str, shown: &str, limit: Limit, rounds: bool) -> Fit {
        let narrow = Narrow { column: column.to_owned(), shown: shown.to_owned(), limit };
        Fit::new("public.stock_prices", rounds, vec![narrow]).expect("it is narrow")
    }

    fn row<'a>(symbol: &'a str, price: &'a str, micros: i64) -> PriceRow<'a> {
        PriceRow {
            origin: Origin { record_idx: 0, element: 0 },
            symbol: symbol.into(),
            price: Decimal::parse(price.into()).expect("a number"),
            volume: None,
            timestamp: Micros(micros),
            fetch_timestamp: None,
        }
    }

    fn reason(fit: &Fit, row: &PriceRow<'_>) -> Option<(Class, String)> {
        fit.prices([row]).pop().map(|letter| (letter.class, letter.reason))
    }

    #[test]
    fn a_number_fits_if_nothing_of_it_would_be_lost() {
        let digits = Limit::Digits { precision: 10, scale: 2 };
        let (exact, rounding) =
            (fit("price", "numeric(10,2)", digits, false), fit("price", "numeric(10,2)", digits, true));
        for price in ["1", "1.5", "1.50", "1.5000", "99999999.99", "0.01", "1e7", "150e-2"] {
            assert_eq!(reason(&exact, &row("A", price, 0)), None, "{price}");
        }
        for (price, decimals) in [("1.005", 3), ("1.23450", 4), ("0.001", 3), ("1e-9", 9)] {
            let expected =
                format!("price has {decimals} decimals, the column public.stock_prices.price is numeric(10,2)");
            assert_eq!(reason(&exact, &row("A", price, 0)), Some((Class::Range, expected)));
            assert_eq!(reason(&rounding, &row("A", price, 0)), None);
        }
        for price in ["100000000", "1e8", "123456789.01"] {
            for fit in [&exact, &rounding] {
                let (class, reason) = reason(fit, &row("A", price, 0)).expect("too large");
                assert!(class == Class::Range && reason.contains("more than 8 digits before the point"), "{reason}");
            }
        }
    }

    #[test]
    fn a_scale_beyond_the_digits_or_below_zero_is_understood() {
        let small = fit("price", "numeric(2,4)", Limit::Digits { precision: 2, scale: 4 }, false);
        let large = fit("price", "numeric(2,-3)", Limit::Digits { precision: 2, scale: -3 }, false);
        assert_eq!(reason(&small, &row("A", "0.0099", 0)), None);
        assert!(reason(&small, &row("A", "0.01", 0)).is_some_and(|(_, reason)| reason.contains("first 2 after")));
        assert_eq!(reason(&large, &row("A", "99000", 0)), None);
        assert!(reason(&large, &row("A", "99500", 0)).is_some_and(|(_, reason)| reason.contains("more digits")));
    }

    #[test]
    fn a_symbol_is_measured_in_characters() {
        let ten = fit("symbol", "character varying(3)", Limit::Characters(3), true);
        assert_eq!(reason(&ten, &row("ÄÖÜ", "1", 0)), None);
        let (class, reason) = reason(&ten, &row("ÄÖÜ1", "1", 0)).expect("too long");
        assert_eq!(class, Class::Symbol);
        assert!(reason.contains("more than 3 characters") && !reason.contains('Ä'), "{reason}");
    }

    #[test]
    fn a_time_fits_if_its_fraction_does() {
        let whole = fit("timestamp", "timestamp(0) without time zone", Limit::SecondDecimals(0), false);
        assert_eq!(reason(&whole, &row("A", "1", -3_000_000)), None);
        assert!(reason(&whole, &row("A", "1", -3_000_001)).is_some_and(|(class, _)| class == Class::Range));
        let millis = fit("timestamp", "timestamp(3) without time zone", Limit::SecondDecimals(3), false);
        assert_eq!(reason(&millis, &row("A", "1", 5_001_000)), None);
        assert!(reason(&millis, &row("A", "1", 5_001_001)).is_some());
    }

    #[test]
    fn a_table_without_narrow_columns_needs_no_look() {
        assert_eq!(Fit::new("public.stock_prices", false, Vec::new()), None);
    }
}

//! Rows that a message may say: symbols, numbers and times, as they are drawn.

use super::profiles::{DAY, Metric, Price, Rows, SECOND, Says, Volume};
use proptest::prelude::*;

/// Below this the unit of a time could be mistaken: 1974.
const FIRST_DAY: i64 = 1461;

/// 2099.
const LAST_DAY: i64 = 47_400;

/// Prices that a profile can say.
pub fn prices(says: &Says) -> impl Strategy<Value = Vec<Price>> + use<> {
    let n_rows = if says.rows == Rows::One { 1..2_usize } else { 1..6 };
    let Says { resolution, rows, volume, fetched, symbol_in_key } = *says;
    let symbols = if symbol_in_key { plausible_symbol() } else { symbol() };
    let volumes = match volume {
        Volume::Always => number().prop_map(Some).boxed(),
        Volume::Maybe => proptest::option::of(number()).boxed(),
        Volume::Never => Just(None).boxed(),
    };
    let fetches =
        if fetched { proptest::option::of(1_000_000_000..4_000_000_000_i64).boxed() } else { Just(None).boxed() };
    let price = (symbols, price(), volumes, micros(resolution), fetches)
        .prop_map(|(symbol, price, volume, micros, fetched)| Price { symbol, price, volume, micros, fetched });
    proptest::collection::vec(price, n_rows).prop_map(move |mut prices| {
        if rows == Rows::ManyOfOneSymbol {
            // Each at a time of its own.
            let (symbol, first) = (prices[0].symbol.clone(), prices[0].micros);
            for (place, price) in prices.iter_mut().enumerate() {
                price.symbol.clone_from(&symbol);
                price.micros = first + place as i64 * 60 * SECOND;
            }
        }
        prices
    })
}

/// Figures over a window whose ends are multiples of a time in microseconds.
pub fn metric(resolution: i64, is_symbol_in_key: bool) -> impl Strategy<Value = Metric> {
    let symbols = if is_symbol_in_key { plausible_symbol() } else { symbol() };
    let figure = || proptest::option::of(("-?", number()).prop_map(|(sign, number)| sign + &number));
    let figures = [figure(), figure(), figure(), figure()];
    (symbols, micros(resolution), 1..1_000_000_000_i64 / resolution, figures)
        .prop_map(move |(symbol, start, length, figures)| Metric {
            symbol,
            window: [start, start + length * resolution],
            figures,
        })
        .prop_filter("one figure at least", |metric| metric.figures.iter().any(Option::is_some))
}

/// Tokens that are no price.
pub fn no_price() -> impl Strategy<Value = &'static str> {
    proptest::sample::select(vec![
        "\"abc\"",
        "true",
        "{}",
        "[1]",
        "-1",
        "0.00",
        "\"1,5\"",
        "\"\\u0000\"",
        "1e131072",
        "\"NaN\"",
    ])
}

fn symbol() -> BoxedStrategy<String> {
    let any = "\\PC{1,16}".prop_map(|text| text.trim().to_owned());
    let any = any.prop_filter("what a symbol can be", |text| !text.is_empty() && text.len() <= 64);
    prop_oneof![3 => plausible_symbol(), 1 => any].boxed()
}

fn plausible_symbol() -> BoxedStrategy<String> {
    "[A-Za-z0-9^][A-Z0-9.:^=/_-]{0,9}".boxed()
}

fn number() -> impl Strategy<Value = String> {
    prop_oneof![
        4 => "(0|[1-9][0-9]{0,8})(\\.[0-9]{1,6})?",
        1 => "(0|[1-9][0-9]{0,30})(\\.[0-9]{1,40})?([eE][+-]?[0-9]{1,2})?",
    ]
}

fn price() -> impl Strategy<Value = String> {
    number().prop_filter("above zero", |text| {
        text.split(['e', 'E']).next().is_some_and(|digits| digits.contains(|c| ('1'..='9').contains(&c)))
    })
}

fn micros(resolution: i64) -> impl Strategy<Value = i64> {
    let any = FIRST_DAY * DAY..LAST_DAY * DAY;
    // Often whole seconds, as producers have them.
    (any, proptest::bool::ANY).prop_map(move |(micros, is_whole)| {
        let unit = if is_whole { resolution.max(SECOND) } else { resolution };
        micros - micros % unit
    })
}

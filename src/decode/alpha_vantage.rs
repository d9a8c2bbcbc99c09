//! The profile `alpha-vantage`: the answers of Alpha Vantage, a `Global Quote` or a `Time Series (…)`, whose keys are
//! numbered (`4. close`). Instead of data there can be a notice.
//!
//! Each entry of a series is an element. Its time is in the zone that `Meta Data` names.

use super::element::{Element, Finding, Found, Place};
use super::elements::Elements;
use super::entries::{Entries, Entry};
use super::fields::Fields;
use super::object::Scalar;
use super::path::Path;
use super::profile::{Profile, Reads};
use super::refusal::Refusal;
use super::rows::{PriceParts, price_row};
use super::settings::Target;
use super::time::Clock;
use super::word::{Word, Words};
use crate::row::{Class, Origin, PriceRow, Skip};
use std::borrow::Cow;

const META_DATA: &str = "Meta Data";

/// An answer with data.
pub(super) const ANSWER: Profile = Profile {
    target: Target::Prices,
    signs: Words::only(Word::GlobalQuote).with(Words::only(Word::TimeSeries)),
    recognizes: |element| {
        let is_object = |word| element.object.raw(word).is_some_and(|value| value.starts_with('{'));
        (is_object(Word::GlobalQuote) || is_object(Word::TimeSeries)) && !element.object.has_scalar(Words::PRICE)
    },
    reads: Reads::Itself(read),
    looks: r#"a "Global Quote", or a "Time Series (…)" with "Meta Data""#,
    keys: &["Global Quote", "Meta Data"],
};

/// An answer without.
pub(super) const NOTICE: Profile = Profile {
    signs: NOTICES,
    recognizes: |element| {
        let is_text = |word| element.object.text_of(word).is_some();
        let is_notice = is_text(Word::Note) || is_text(Word::Information) || is_text(Word::ErrorMessage);
        is_notice && !element.object.has_any(CONTENT)
    },
    reads: Reads::Itself(|_, elements| elements.skip(Skip::Notice)),
    looks: r#"a "Note", an "Information" or an "Error Message""#,
    keys: &["Note", "Information", "Error Message"],
    ..ANSWER
};

const NOTICES: Words =
    Words::only(Word::Note).with(Words::only(Word::Information)).with(Words::only(Word::ErrorMessage));

/// Signs of a message that has a note beside it: such a message is not to be passed over.
const CONTENT: Words = Words::PRICE
    .with(Words::FIGURES)
    .with(Words::WINDOW)
    .with(Words::only(Word::LastTradePrice).with(Words::only(Word::KsqlWindowStart)))
    .with(Words::only(Word::Data).with(Words::only(Word::Payload)).with(Words::only(Word::After)))
    .with(Words::only(Word::Window).with(Words::only(Word::Event)).with(Words::only(Word::BinanceEvent)));

fn read<'t>(element: &Element<'_, 't>, elements: &mut Elements<'_, 't>) {
    if element.object.has_any(Words::only(Word::GlobalQuote)) {
        match element.object.sole_raw(element.path, Word::GlobalQuote) {
            Ok(Some(quote)) if is_empty_object(quote) => elements.skip(Skip::Empty),
            Ok(quote) => elements.price(global_quote(element, quote.unwrap_or("{}"), elements.origin())),
            Err(refusal) => elements.refuse(refusal),
        }
    } else if let Err(refusal) = time_series(element, elements) {
        elements.refuse(refusal);
    }
}

/// The name of a numbered key: `close` of `4. close`, and of `4a. close (USD)`.
fn name(key: &str) -> Option<&str> {
    let (number, name) = key.split_once('.')?;
    let is_number = number.starts_with(|c: char| c.is_ascii_digit()) && number.len() <= 3;
    let name = name.trim();
    is_number.then(|| name.split_once(" (").map_or(name, |(name, _)| name))
}

fn numbered<'t, const N: usize>(names: [&'static str; N], json: &'t str) -> Fields<'t, N> {
    Fields::read_by(names, json, |key| {
        let found = name(key)?;
        names.iter().position(|name| *name == found)
    })
}

fn is_empty_object(json: &str) -> bool {
    json.bytes().all(|byte| matches!(byte, b'{' | b'}') || byte.is_ascii_whitespace())
}

fn global_quote<'t>(element: &Element<'_, 't>, quote: &'t str, origin: Origin) -> Result<PriceRow<'t>, Refusal> {
    let path = Path::Key(element.path, Word::GlobalQuote.name());
    let fields = numbered(["symbol", "price", "volume", "latest trading day"], quote);
    let parts = PriceParts {
        symbol: fields.find_not_null(&path, 0),
        price: fields.need(&path, 1),
        volume: fields.find(&path, 2),
        time: fields.find(&path, 3),
        fetch_time: element.first(Words::FETCH_TIME),
        clock: Clock::of(element.settings),
    };
    price_row(element, parts, origin)
}

/// An answer with a series: what all of its entries share.
struct Series<'s, 't> {
    element: &'s Element<'s, 't>,
    path: &'s Path<'s>,
    symbol: &'s dyn Fn() -> Finding<'s, 't>,
    clock: Result<Clock, Refusal>,
}

fn time_series<'t>(element: &Element<'_, 't>, elements: &mut Elements<'_, 't>) -> Result<(), Refusal> {
    // Two series, whether of one name or of two, are ambiguous.
    let series = element.object.sole_raw(element.path, Word::TimeSeries)?.unwrap_or("{}");
    let parts = Fields::read_by([META_DATA, "Time Series"], element.object.text(), |key| match Word::of(key) {
        _ if key == META_DATA => Some(0),
        Some(Word::TimeSeries) => Some(1),
        _ => None,
    });
    let meta_path = Path::Key(element.path, META_DATA);
    let meta = parts.object(element.path, 0)?.map_or("{}", |(_, meta)| meta);
    let meta = numbered(["Symbol", "Time Zone"], meta);
    let path = Path::Key(element.path, parts.key(1));
    let series_of = Series {
        element,
        path: &path,
        symbol: &|| meta.shared_not_null(&meta_path, 0),
        clock: clock(element, meta.find(&meta_path, 1)),
    };
    let entries = Entries::read(series);
    if entries.is_empty() {
        elements.skip(Skip::Empty);
    }
    for entry in entries.iter() {
        elements.price(series_of.row(entry, elements.origin()));
    }
    Ok(())
}

fn clock(element: &Element<'_, '_>, zone: Finding<'_, '_>) -> Result<Clock, Refusal> {
    let of_topic = Clock::of(element.settings);
    match zone? {
        None => Ok(of_topic),
        Some(Found { place, scalar: Scalar::Text(name) }) => match name.trim().parse() {
            Ok(zone) => Ok(Clock { zone, ..of_topic }),
            Err(_) => Err(place.refusal(Class::Time, "is no zone of the IANA database")),
        },
        Some(Found { place, .. }) => Err(place.refusal(Class::Time, "is no zone")),
    }
}

impl<'t> Series<'_, 't> {
    fn row(&self, entry: &Entry<'t>, origin: Origin) -> Result<PriceRow<'t>, Refusal> {
        let place = Place { path: self.path, field: &entry.key };
        if entry.is_repeated {
            return Err(place.refusal(Class::Ambiguous, "is there more than once"));
        }
        if !entry.value.starts_with('{') {
            return Err(place.refusal(Class::Type, "is no object"));
        }
        let (path, fields) = (Path::Key(self.path, &entry.key), numbered(["close", "volume"], entry.value));
        let parts = PriceParts {
            symbol: (self.symbol)(),
            price: fields.need(&path, 0),
            volume: fields.find(&path, 1),
            time: Ok(Some(Found { place, scalar: Scalar::Text(Cow::Borrowed(&entry.key)) })),
            fetch_time: self.element.shared(Words::FETCH_TIME),
            clock: self.clock.clone()?,
        };
        price_row(self.element, parts, origin)
    }
}

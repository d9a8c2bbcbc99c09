//! The profile `columnar`: a DataFrame that was dumped by column, `{"Close":{"1690000000000":…},"Volume":{…}}`.
//!
//! Each label is an element; its price is in the first column that has the name of a price. The labels are times, unless
//! there is a column of those, or the labels only number the rows. The symbol is in a column, beside the columns, or the
//! record's key.

use super::element::{Element, Finding, Found, Place};
use super::elements::Elements;
use super::entries::{Entries, Entry};
use super::number::is_missing;
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
use std::collections::HashSet;

/// The profile.
pub(super) const PROFILE: Profile = Profile {
    target: Target::Prices,
    signs: Words::PRICE,
    recognizes,
    reads: Reads::Itself(read),
    looks: r#"columns such as "Close" and "Volume", each an object whose keys are times"#,
    keys: &["Open", "High", "Low", "Close", "Volume"],
};

/// Columns that are not read, but must not have labels that the prices lack.
const BESIDE: Words = Words::only(Word::Open).with(Words::only(Word::High)).with(Words::only(Word::Low));

/// Digits of a row's number, at most.
const ROW_NUMBER_DIGITS_MAX: usize = 6;

/// An object in place of a price is no column by that alone: labels begin with a digit. Without any label it takes
/// another column beside it.
fn recognizes(element: &Element<'_, '_>) -> bool {
    let object = element.object;
    let Some(prices) = object.nested(Words::PRICE).next().and_then(|word| object.raw(word)) else { return false };
    match prices[1..].trim_start().as_bytes() {
        // Before 1970 it is negative; that is for its own element to be refused.
        [b'"', b'-', digit, ..] | [b'"', digit, ..] => digit.is_ascii_digit(),
        _ => object.nested(Words::VOLUME.with(BESIDE)).next().is_some() && !object.has_scalar(Words::SYMBOL),
    }
}

fn read<'t>(element: &Element<'_, 't>, elements: &mut Elements<'_, 't>) {
    if let Err(refusal) = read_frame(element, elements) {
        elements.refuse(refusal);
    }
}

fn read_frame<'t>(element: &Element<'_, 't>, elements: &mut Elements<'_, 't>) -> Result<(), Refusal> {
    let column = |words| Column::of(element, words);
    let price = column(Words::PRICE)?.ok_or_else(|| element.missing(Word::Close.name()))?;
    let is_numbered = price.entries.iter().all(|entry| is_row_number(&entry.key));
    let frame = Frame {
        element,
        is_numbered,
        volume: column(Words::VOLUME)?,
        time: column(Words::TIME)?,
        fetch_time: column(Words::FETCH_TIME)?,
        symbol: column(Words::SYMBOL)?,
        price,
    };
    let labels = || frame.price.entries.iter().map(|entry| &*entry.key);
    for (row_idx, label) in labels().enumerate() {
        elements.price(frame.row(label, row_idx, elements.origin()));
    }
    // Labels that only other columns have: values without a price.
    let mut known: HashSet<Cow<'t, str>> = HashSet::new();
    let others = Words::VOLUME.with(Words::TIME).with(Words::FETCH_TIME).with(Words::SYMBOL).with(BESIDE);
    for word in element.object.nested(others) {
        for (idx, entry) in Entries::read(element.object.raw(word).unwrap_or("{}")).iter().enumerate() {
            if frame.price.entries.get(&entry.key, idx).is_none() && known.insert(entry.key.clone()) {
                elements.price(frame.row(&entry.key, usize::MAX, elements.origin()));
            }
        }
    }
    if labels().next().is_none() && known.is_empty() {
        elements.skip(Skip::Empty);
    }
    Ok(())
}

/// Whether a label is only a row's number, in a frame of which rows may be left out. As a time it would be one of the
/// first days of 1970.
fn is_row_number(label: &str) -> bool {
    (1..=ROW_NUMBER_DIGITS_MAX).contains(&label.len()) && label.bytes().all(|byte| byte.is_ascii_digit())
}

/// One column.
struct Column<'e, 't> {
    path: Path<'e>,
    entries: Entries<'t>,
}

impl<'e, 't> Column<'e, 't> {
    /// The first of the words that is a column.
    fn of(element: &Element<'e, 't>, words: Words) -> Result<Option<Self>, Refusal> {
        let Some(word) = element.object.nested(words).next() else { return Ok(None) };
        let column = element.object.sole_raw(element.path, word)?.unwrap_or("{}");
        Ok(Some(Column { path: Path::Key(element.path, word.name()), entries: Entries::read(column) }))
    }

    fn cell<'f>(&'f self, label: &'f str, row_idx: usize) -> Finding<'f, 't> {
        let Some(Entry { value, is_repeated, .. }) = self.entries.get(label, row_idx) else { return Ok(None) };
        let place = Place { path: &self.path, field: label };
        if *is_repeated {
            return Err(place.refusal(Class::Ambiguous, "is there more than once"));
        }
        let scalar = Scalar::of(value).map_err(|what| place.refusal(Class::Encoding, what))?;
        Ok((!is_missing(&scalar)).then_some(Found { place, scalar }))
    }
}

/// All columns that are read.
struct Frame<'e, 't> {
    element: &'e Element<'e, 't>,
    // The labels number the rows: no times.
    is_numbered: bool,
    price: Column<'e, 't>,
    volume: Option<Column<'e, 't>>,
    time: Option<Column<'e, 't>>,
    fetch_time: Option<Column<'e, 't>>,
    symbol: Option<Column<'e, 't>>,
}

impl<'t> Frame<'_, 't> {
    fn row(&self, label: &str, row_idx: usize, origin: Origin) -> Result<PriceRow<'t>, Refusal> {
        let element = self.element;
        let place = Place { path: &self.price.path, field: label };
        let label_time = (!self.is_numbered).then_some(Found { place, scalar: Scalar::Text(Cow::Borrowed(label)) });
        let parts = PriceParts {
            symbol: cell(&self.symbol, label, row_idx).unwrap_or_else(|| element.shared_not_null(Words::SYMBOL)),
            price: self
                .price
                .cell(label, row_idx)
                .and_then(|found| found.ok_or_else(|| place.refusal(Class::Missing, "is missing"))),
            volume: cell(&self.volume, label, row_idx).unwrap_or(Ok(None)),
            time: match cell(&self.time, label, row_idx) {
                Some(Ok(None)) | None => Ok(label_time),
                Some(found) => found,
            },
            fetch_time: cell(&self.fetch_time, label, row_idx).unwrap_or_else(|| element.shared(Words::FETCH_TIME)),
            clock: Clock::of(element.settings),
        };
        price_row(element, parts, origin)
    }
}

/// `None` without that column.
fn cell<'f, 't>(column: &'f Option<Column<'_, 't>>, label: &'f str, row_idx: usize) -> Option<Finding<'f, 't>> {
    column.as_ref().map(|column| column.cell(label, row_idx))
}

//! Gathers what the elements of one record become, and numbers them.

use super::profile::Context;
use super::refusal::Refusal;
use crate::row::{DeadLetter, Decoded, Fate, MetricRow, Origin, PriceRow, Skip};
use std::borrow::Cow;
use std::fmt;

/// What the elements of one record become.
pub(super) struct Elements<'o, 't> {
    out: &'o mut Decoded<'t>,
    origin: Origin,
    skip: Option<Skip>,
    at_start: Mark,
}

/// How far the elements of a record have come.
#[derive(Debug, Clone, Copy)]
pub(super) struct Mark {
    prices: usize,
    metrics: usize,
    dead_letters: usize,
    element: u32,
    skip: Option<Skip>,
}

impl<'o, 't> Elements<'o, 't> {
    /// For a record of a batch.
    pub(super) fn new(out: &'o mut Decoded<'t>, record_idx: u32) -> Self {
        let at_start = Mark {
            prices: out.prices.len(),
            metrics: out.metrics.len(),
            dead_letters: out.dead_letters.len(),
            element: 0,
            skip: None,
        };
        Elements { out, origin: Origin { record_idx, element: 0 }, skip: None, at_start }
    }

    /// Where the next element is.
    pub(super) fn origin(&self) -> Origin {
        self.origin
    }

    /// The next element is a price, or none.
    pub(super) fn price(&mut self, context: &Context<'_, 't>, row: Result<PriceRow<'t>, Refusal>) {
        match row {
            Ok(row) => {
                self.out.prices.push(row);
                self.origin.element += 1;
            }
            Err(refusal) => self.refuse(context.path, refusal),
        }
    }

    /// The next element is figures, or none.
    pub(super) fn metric(&mut self, context: &Context<'_, 't>, row: Result<MetricRow<'t>, Refusal>) {
        match row {
            Ok(row) => {
                self.out.metrics.push(row);
                self.origin.element += 1;
            }
            Err(refusal) => self.refuse(context.path, refusal),
        }
    }

    /// The next element is a dead letter.
    #[cold]
    pub(super) fn refuse(&mut self, path: &Path<'_>, refusal: Refusal) {
        let Refusal { class, field, what } = refusal;
        let reason = match field {
            Some(field) => format!("{path}.{field}: {what}"),
            None => format!("{path}: {what}"),
        };
        self.out.dead_letters.push(DeadLetter { origin: self.origin, class, code: String::new(), reason });
        self.origin.element += 1;
    }

    /// The next element is rightly neither. The first reason is that of the record, should all its elements be such.
    pub(super) fn skip(&mut self, reason: Skip) {
        self.skip = self.skip.or(Some(reason));
        self.origin.element += 1;
    }

    /// A place to come back to.
    pub(super) fn mark(&self) -> Mark {
        Mark {
            prices: self.out.prices.len(),
            metrics: self.out.metrics.len(),
            dead_letters: self.out.dead_letters.len(),
            element: self.origin.element,
            skip: self.skip,
        }
    }

    /// Forgets everything since a mark.
    pub(super) fn roll_back(&mut self, mark: Mark) {
        self.out.prices.truncate(mark.prices);
        self.out.metrics.truncate(mark.metrics);
        self.out.dead_letters.truncate(mark.dead_letters);
        self.origin.element = mark.element;
        self.skip = mark.skip;
    }

    /// Reads elements from a text that lives shorter than the record; the rows get texts of their own.
    pub(super) fn with_shorter<'s>(&mut self, text: &'s str, read: impl FnOnce(&'s str, &mut Elements<'_, 's>)) {
        let mut out = Decoded::default();
        let mut inner = Elements::new(&mut out, self.origin.record_idx);
        (inner.origin, inner.skip) = (self.origin, self.skip);
        read(text, &mut inner);
        (self.origin, self.skip) = (inner.origin, inner.skip);
        self.out.prices.extend(out.prices.into_iter().map(owned_price));
        self.out.metrics.extend(out.metrics.into_iter().map(owned_metric));
        self.out.dead_letters.extend(out.dead_letters);
    }

    /// What became of the record.
    pub(super) fn fate(&self) -> Fate {
        if self.out.prices.len() > self.at_start.prices || self.out.metrics.len() > self.at_start.metrics {
            Fate::Rows
        } else if self.out.dead_letters.len() > self.at_start.dead_letters {
            Fate::DeadLetter
        } else {
            // A record without any element is white space.
            Fate::Skip(self.skip.unwrap_or(Skip::Empty))
        }
    }
}

fn owned_price<'t>(row: PriceRow<'_>) -> PriceRow<'t> {
    let PriceRow { origin, symbol, price, volume, timestamp, fetch_timestamp } = row;
    PriceRow {
        origin,
        symbol: Cow::Owned(symbol.into_owned()),
        price: price.into_owned(),
        volume: volume.map(|volume| volume.into_owned()),
        timestamp,
        fetch_timestamp,
    }
}

fn owned_metric<'t>(row: MetricRow<'_>) -> MetricRow<'t> {
    let MetricRow { origin, symbol, window_start, window_end, avg_price, max_price, min_price, avg_volume } = row;
    MetricRow {
        origin,
        symbol: Cow::Owned(symbol.into_owned()),
        window_start,
        window_end,
        avg_price: avg_price.map(|figure| figure.into_owned()),
        max_price: max_price.map(|figure| figure.into_owned()),
        min_price: min_price.map(|figure| figure.into_owned()),
        avg_volume: avg_volume.map(|figure| figure.into_owned()),
    }
}

/// Where an element is in the record's value, for a person.
pub(super) enum Path<'p> {
    /// It is the value.
    Root,
    /// In an array, at a place from 0.
    Item(&'p Path<'p>, usize),
    /// In a text of several documents, at a place from 1.
    Document(&'p Path<'p>, usize),
}

/// Places of a path that are shown, at most: a reason is short, however deep its element is.
const PLACES_MAX: usize = 6;

impl Path<'_> {
    fn write(&self, f: &mut fmt::Formatter<'_>, n_places: usize) -> fmt::Result {
        match self {
            Path::Root => f.write_str("$"),
            _ if n_places == 0 => f.write_str("$…"),
            Path::Item(array, item_idx) => {
                array.write(f, n_places - 1)?;
                write!(f, "[{item_idx}]")
            }
            Path::Document(Path::Root, number) => write!(f, "document {number} $"),
            Path::Document(text, number) => {
                text.write(f, n_places - 1)?;
                write!(f, " document {number} $")
            }
        }
    }
}

impl fmt::Display for Path<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.write(f, PLACES_MAX)
    }
}

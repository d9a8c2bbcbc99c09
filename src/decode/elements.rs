//! Gathers what the elements of one record become, and numbers them.

use super::Outcome;
use super::refusal::Refusal;
use super::settings::Format;
use crate::row::{DeadLetter, Decoded, Fate, MetricRow, Origin, PriceRow, Skip};
use std::borrow::Cow;

/// Dead letters that any record may give.
const LETTERS_MIN: usize = 1000;
/// Bytes of a record for each further one. Two bytes can be an element, and a letter takes a hundred times as much.
const BYTES_PER_LETTER: usize = 32;

/// What the elements of one record become.
pub(super) struct Elements<'o, 't> {
    out: &'o mut Decoded<'t>,
    origin: Origin,
    skip: Option<Skip>,
    at_start: Mark,
    letters_max: usize,
    // Elements that were refused when there were that many letters.
    n_unlisted: usize,
    // Kept only for those who ask.
    formats: Option<&'o mut Vec<Format>>,
}

/// How far the elements of a record have come.
#[derive(Debug, Clone, Copy)]
pub(super) struct Mark {
    prices: usize,
    metrics: usize,
    dead_letters: usize,
    n_unlisted: usize,
    element: u32,
    skip: Option<Skip>,
}

impl<'o, 't> Elements<'o, 't> {
    /// For a record of a batch, whose value has so many bytes.
    pub(super) fn new(
        out: &'o mut Decoded<'t>,
        record_idx: u32,
        bytes: usize,
        formats: Option<&'o mut Vec<Format>>,
    ) -> Self {
        let at_start = Mark {
            prices: out.prices.len(),
            metrics: out.metrics.len(),
            dead_letters: out.dead_letters.len(),
            n_unlisted: 0,
            element: 0,
            skip: None,
        };
        let letters_max = LETTERS_MIN + bytes / BYTES_PER_LETTER;
        let origin = Origin { record_idx, element: 0 };
        Elements { out, origin, skip: None, at_start, letters_max, n_unlisted: 0, formats }
    }

    /// Where the next element is.
    pub(super) fn origin(&self) -> Origin {
        self.origin
    }

    /// An object has this shape.
    pub(super) fn note_format(&mut self, format: Format) {
        if let Some(formats) = &mut self.formats
            && !formats.contains(&format)
        {
            formats.push(format);
        }
    }

    /// The next element is a price, or none.
    pub(super) fn price(&mut self, row: Result<PriceRow<'t>, Refusal>) {
        match row {
            Ok(row) => {
                self.out.prices.push(row);
                self.origin.element += 1;
            }
            Err(refusal) => self.refuse(refusal),
        }
    }

    /// The next element is figures, or none.
    pub(super) fn metric(&mut self, row: Result<MetricRow<'t>, Refusal>) {
        match row {
            Ok(row) => {
                self.out.metrics.push(row);
                self.origin.element += 1;
            }
            Err(refusal) => self.refuse(refusal),
        }
    }

    /// The next element is a dead letter.
    #[cold]
    pub(super) fn refuse(&mut self, refusal: Refusal) {
        self.refuse_with(|| refusal);
    }

    /// The same for a reason that takes a while to write, and is not needed of an element without a letter.
    #[cold]
    pub(super) fn refuse_with(&mut self, refusal: impl FnOnce() -> Refusal) {
        if self.out.dead_letters.len() - self.at_start.dead_letters < self.letters_max {
            let Refusal { class, reason } = refusal();
            let letter = DeadLetter { origin: self.origin, class, code: String::new(), reason };
            self.out.dead_letters.push(letter);
        } else {
            self.n_unlisted += 1;
        }
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
            n_unlisted: self.n_unlisted,
            element: self.origin.element,
            skip: self.skip,
        }
    }

    /// Forgets everything since a mark.
    pub(super) fn roll_back(&mut self, mark: Mark) {
        self.out.prices.truncate(mark.prices);
        self.out.metrics.truncate(mark.metrics);
        self.out.dead_letters.truncate(mark.dead_letters);
        self.n_unlisted = mark.n_unlisted;
        self.origin.element = mark.element;
        self.skip = mark.skip;
    }

    /// Reads elements from a text that lives shorter than the record; the rows get texts of their own.
    pub(super) fn with_shorter<'s>(&mut self, text: &'s str, read: impl FnOnce(&'s str, &mut Elements<'_, 's>)) {
        let mut out = Decoded::default();
        let letters_max = self.letters_max - (self.out.dead_letters.len() - self.at_start.dead_letters);
        let mut inner = Elements::new(&mut out, self.origin.record_idx, 0, self.formats.as_deref_mut());
        (inner.origin, inner.skip, inner.letters_max) = (self.origin, self.skip, letters_max);
        read(text, &mut inner);
        (self.origin, self.skip) = (inner.origin, inner.skip);
        self.n_unlisted += inner.n_unlisted;
        self.out.prices.extend(out.prices.into_iter().map(owned_price));
        self.out.metrics.extend(out.metrics.into_iter().map(owned_metric));
        self.out.dead_letters.extend(out.dead_letters);
    }

    /// What became of the record.
    pub(super) fn finish(self) -> Outcome {
        let n_elements = self.origin.element;
        Outcome { fate: self.fate(), n_elements }
    }

    fn fate(self) -> Fate {
        if self.n_unlisted > 0
            && let Some(last) = self.out.dead_letters.last_mut()
        {
            last.reason += &format!(" (and {} more elements were refused, which have no letters)", self.n_unlisted);
        }
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

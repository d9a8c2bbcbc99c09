//! The names of fields that profiles know, and how a key is recognized as one of them.
//!
//! Long names count without regard to case and underscores. The order inside a group is the order of preference. Names
//! of fewer than three letters collide between vendors; of those only `ts` is a field here. Behind the fields are the
//! signs by which shapes are told apart: what is behind a sign is for its profile alone.

/// Declares the words once: the enum, their names, and the match that finds them.
macro_rules! words {
    ($($word:ident = $name:literal,)+; $($special:ident = $special_name:literal,)+) => {
        /// A name that a profile knows.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd)]
        pub(super) enum Word {
            $($word,)+
            $($special,)+
        }

        const NAMES: &[&str] = &[$($name,)+ $($special_name,)+];

        const WORDS: &[Word] = &[$(Word::$word,)+ $(Word::$special,)+];

        /// The packed names, as constants because only those can be patterns.
        #[allow(non_upper_case_globals)]
        mod packed {
            $(pub(super) const $word: u128 = super::pack($name.as_bytes());)+
        }

        /// The word that a key is, if any, by its letters alone.
        fn by_letters(key: &str) -> Option<Word> {
            match pack_short(key.as_bytes()).unwrap_or_else(|| pack(key.as_bytes())) {
                $(packed::$word => Some(Word::$word),)+
                _ => None,
            }
        }
    };
}

words! {
    Symbol = "symbol",
    Ticker = "ticker",
    StockSymbol = "stock_symbol",
    Instrument = "instrument",
    Price = "price",
    LastPrice = "last_price",
    Last = "last",
    Close = "close",
    CurrentPrice = "current_price",
    TradePrice = "trade_price",
    Volume = "volume",
    Size = "size",
    Quantity = "quantity",
    LastSize = "last_size",
    TradeVolume = "trade_volume",
    Timestamp = "timestamp",
    Ts = "ts",
    Time = "time",
    Datetime = "datetime",
    Date = "date",
    EventTime = "event_time",
    EventTs = "event_ts",
    TradeTime = "trade_time",
    LastUpdated = "last_updated",
    FetchTimestamp = "fetch_timestamp",
    FetchedAt = "fetched_at",
    FetchTime = "fetch_time",
    IngestTs = "ingest_ts",
    IngestedAt = "ingested_at",
    Open = "open",
    High = "high",
    Low = "low",
    WindowStart = "window_start",
    WindowEnd = "window_end",
    AvgPrice = "avg_price",
    MaxPrice = "max_price",
    MinPrice = "min_price",
    AvgVolume = "avg_volume",
    Data = "data",
    Payload = "payload",
    // From here on only this very spelling counts.
    LastTradePrice = "LastTradePrice",
    Event = "ev",
    BinanceEvent = "e",
    Type = "type",
    Stream = "stream",
    Schema = "schema",
    After = "after",
    Operation = "op",
    Window = "window",
    GlobalQuote = "Global Quote",
    Note = "Note",
    Information = "Information",
    ErrorMessage = "Error Message",
    ;
    // Found in another way than by their letters.
    LastTradeDateTime = "LastTradeDateTime",
    KsqlWindowStart = "WINDOWSTART",
    KsqlWindowEnd = "WINDOWEND",
    TimeSeries = "Time Series",
}

/// How many words there are.
pub(super) const N_WORDS: usize = NAMES.len();

impl Word {
    /// The word that a key is, if any.
    pub(super) fn of(key: &str) -> Option<Word> {
        match by_letters(key) {
            Some(Word::WindowStart) if key == Word::KsqlWindowStart.name() => Some(Word::KsqlWindowStart),
            Some(Word::WindowEnd) if key == Word::KsqlWindowEnd.name() => Some(Word::KsqlWindowEnd),
            Some(word) if word >= Word::LastTradePrice && key != word.name() => None,
            None if is_time_series(key) => Some(Word::TimeSeries),
            // `Global Quote - DATA DELAYED BY 15 MINUTES`
            None if key.starts_with(Word::GlobalQuote.name()) => Some(Word::GlobalQuote),
            // One letter too long to be packed.
            None if key.eq_ignore_ascii_case(Word::LastTradeDateTime.name()) => Some(Word::LastTradeDateTime),
            word => word,
        }
    }

    /// Its place in the list.
    pub(super) fn idx(self) -> usize {
        self as usize
    }

    /// The word at a place of the list.
    pub(super) fn at(idx: usize) -> Word {
        WORDS[idx]
    }

    /// The name as documented.
    pub(super) fn name(self) -> &'static str {
        NAMES[self.idx()]
    }
}

/// As in `Time Series (5min)` and `Weekly Time Series`.
fn is_time_series(key: &str) -> bool {
    let name = Word::TimeSeries.name();
    key.starts_with(name) || key.ends_with(name)
}

/// The documented name of the word at a place of the list.
pub(super) fn name(idx: usize) -> &'static str {
    NAMES[idx]
}

/// A set of words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Words(u64);

impl Words {
    /// No word.
    pub(super) const NONE: Words = Words(0);
    /// What is traded.
    pub(super) const SYMBOL: Words = Words::from_to(Word::Symbol, Word::Instrument);
    /// The price.
    pub(super) const PRICE: Words = Words::from_to(Word::Price, Word::TradePrice);
    /// The volume.
    pub(super) const VOLUME: Words = Words::from_to(Word::Volume, Word::TradeVolume);
    /// When the price held.
    pub(super) const TIME: Words = Words::from_to(Word::Timestamp, Word::LastUpdated);
    /// When the producer fetched it.
    pub(super) const FETCH_TIME: Words = Words::from_to(Word::FetchTimestamp, Word::IngestedAt);
    /// The ends of a window.
    pub(super) const WINDOW: Words = Words::from_to(Word::WindowStart, Word::WindowEnd);
    /// What is known about a window.
    pub(super) const FIGURES: Words = Words::from_to(Word::AvgPrice, Word::AvgVolume);

    /// The words from one to another of the list, both included.
    const fn from_to(first: Word, last: Word) -> Words {
        Words((u64::MAX << first as u32) & (u64::MAX >> (63 - last as u32)))
    }

    /// One word.
    pub(super) const fn only(word: Word) -> Words {
        Words(1 << word as u32)
    }

    /// The words of both.
    pub(super) const fn with(self, other: Words) -> Words {
        Words(self.0 | other.0)
    }

    /// The words that are in both.
    pub(super) const fn and(self, other: Words) -> Words {
        Words(self.0 & other.0)
    }

    /// The words that are not in the other.
    pub(super) const fn without(self, other: Words) -> Words {
        Words(self.0 & !other.0)
    }

    /// Whether the word at a place of the list is one of them.
    pub(super) const fn has(self, idx: usize) -> bool {
        self.0 >> idx & 1 == 1
    }

    /// Whether there are any.
    pub(super) const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Their places in the list, in its order.
    pub(super) fn places(self) -> impl Iterator<Item = usize> {
        let mut left = self.0;
        std::iter::from_fn(move || {
            let idx = (left != 0).then(|| left.trailing_zeros() as usize)?;
            left &= left - 1;
            Some(idx)
        })
    }

    /// Their names, in the order of the list.
    pub(super) fn names(self) -> String {
        self.places().map(|idx| NAMES[idx]).collect::<Vec<_>>().join(", ")
    }
}

// A set is a u64.
const _: () = assert!(N_WORDS <= 64);

/// The letters of a name without case and underscores; 0 if there are more than a word can have.
const fn pack(name: &[u8]) -> u128 {
    let (mut packed, mut shift, mut at) = (0_u128, 0, 0);
    while at < name.len() {
        if name[at] != b'_' {
            if shift == 128 {
                return 0;
            }
            // Setting this bit makes a letter small. No other byte becomes a letter by it, and none becomes zero.
            packed |= ((name[at] | 0x20) as u128) << shift;
            shift += 8;
        }
        at += 1;
    }
    packed
}

/// The same for names of at most sixteen bytes without underscores, which is most of them: no look at each byte.
fn pack_short(name: &[u8]) -> Option<u128> {
    const SMALL: u128 = u128::MAX / 255 * 0x20;
    // Overlapping halves; where they overlap they agree.
    let packed = if let (Some(head), Some(tail)) = (name.first_chunk::<8>(), name.last_chunk::<8>()) {
        let shift = 8 * (name.len() - 8);
        if shift > 64 {
            return None;
        }
        u128::from(u64::from_le_bytes(*head)) | u128::from(u64::from_le_bytes(*tail)) << shift
    } else if let (Some(head), Some(tail)) = (name.first_chunk::<4>(), name.last_chunk::<4>()) {
        u128::from(
            u64::from(u32::from_le_bytes(*head)) | u64::from(u32::from_le_bytes(*tail)) << (8 * (name.len() - 4)),
        )
    } else {
        return None;
    };
    let small = packed | SMALL >> (128 - 8 * name.len());
    if has_underscore(packed) { None } else { Some(small) }
}

/// Whether one of the bytes is an underscore.
fn has_underscore(packed: u128) -> bool {
    const ONES: u128 = u128::MAX / 255;
    let zero_where_underscore = packed ^ (ONES * b'_' as u128);
    zero_where_underscore.wrapping_sub(ONES) & !zero_where_underscore & (ONES << 7) != 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn case_and_underscores_do_not_matter() {
        for key in ["last_price", "lastPrice", "LASTPRICE", "LastPrice", "_last__price_"] {
            assert_eq!(Word::of(key), Some(Word::LastPrice), "{key}");
        }
    }

    #[test]
    fn signs_count_in_one_spelling() {
        assert_eq!(Word::of("e"), Some(Word::BinanceEvent));
        assert_eq!(Word::of("WINDOWSTART"), Some(Word::KsqlWindowStart));
        assert_eq!(Word::of("WindowStart"), Some(Word::WindowStart));
        for series in ["Time Series (Daily)", "Monthly Time Series"] {
            assert_eq!(Word::of(series), Some(Word::TimeSeries), "{series}");
        }
        for key in ["last_trade_price", "E", "_e", "EV", "note", "Type", "time series (daily)", "window_"] {
            assert_eq!(Word::of(key), None, "{key}");
        }
    }

    #[test]
    fn other_keys_are_no_words() {
        let long = "_".repeat(1000) + "fetch_timestamp_of_the_producer";
        for key in
            ["", "_", "s", "t", "last price", "last-price", "price1", "pric", "prixe", "pr\u{0}ice", "PRICÉ", &long]
        {
            assert_eq!(Word::of(key), None, "{key}");
        }
    }

    #[test]
    fn short_names_are_packed_like_all_others() {
        let mut random = fastrand::Rng::with_seed(3);
        for _ in 0..100_000 {
            let name: Vec<u8> = (0..random.usize(..20)).map(|_| random.u8(..)).collect();
            let has_underscore = name.contains(&b'_');
            match pack_short(&name) {
                Some(packed) => assert_eq!((packed, has_underscore), (pack(&name), false), "{name:?}"),
                None => assert!(has_underscore || !(4..=16).contains(&name.len()), "{name:?}"),
            }
        }
    }

    #[test]
    fn every_word_is_found_by_its_name() {
        for (idx, name) in NAMES.iter().enumerate() {
            let found = Word::of(name).unwrap();
            assert_eq!((found.idx(), found.name()), (idx, *name));
        }
    }

    #[test]
    fn groups_hold_the_documented_names_in_their_order() {
        assert_eq!(Words::SYMBOL.names(), "symbol, ticker, stock_symbol, instrument");
        assert_eq!(Words::PRICE.names(), "price, last_price, last, close, current_price, trade_price");
        assert_eq!(Words::VOLUME.names(), "volume, size, quantity, last_size, trade_volume");
        assert_eq!(
            Words::TIME.names(),
            "timestamp, ts, time, datetime, date, event_time, event_ts, trade_time, last_updated"
        );
        assert_eq!(Words::FETCH_TIME.names(), "fetch_timestamp, fetched_at, fetch_time, ingest_ts, ingested_at");
        assert_eq!(Words::WINDOW.names(), "window_start, window_end");
        assert_eq!(Words::FIGURES.names(), "avg_price, max_price, min_price, avg_volume");
    }
}

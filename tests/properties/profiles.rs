//! Rows, and messages of every profile that say them: for each profile a way to write what the decoder reads.

use super::outcome::{Message, RECORD_MS, shown};
use super::spelling::{array, bar, date, json, lines, or_null, pick, plain, quote, seconds, spelled, text, time, utc};
use chrono::{SecondsFormat, TimeZone};

pub const SECOND: i64 = 1_000_000;
pub const DAY: i64 = 86_400 * SECOND;

/// A price that a message is to say.
#[derive(Debug, Clone)]
pub struct Price {
    pub symbol: String,
    /// A JSON number, unless it is meant to be broken.
    pub price: String,
    pub volume: Option<String>,
    pub micros: i64,
    pub fetched: Option<i64>,
}

/// Figures that a message is to say.
#[derive(Debug, Clone)]
pub struct Metric {
    pub symbol: String,
    pub window: [i64; 2],
    pub figures: [Option<String>; 4],
}

impl Price {
    /// The row, as it is shown of an outcome.
    pub fn shown(&self) -> String {
        let figures = [Some(plain(&self.price)), self.volume.as_deref().map(plain)];
        shown(&self.symbol, &[self.micros], &figures, Some(self.fetched.unwrap_or(RECORD_MS / 1000)))
    }
}

impl Metric {
    /// The row, as it is shown of an outcome.
    pub fn shown(&self) -> String {
        shown(&self.symbol, &self.window, &self.figures.clone().map(|figure| figure.as_deref().map(plain)), None)
    }
}

/// How a profile writes prices.
pub struct PriceProfile {
    pub format: &'static str,
    /// What it can say of a price.
    pub says: Says,
    /// Writes a message; the number chooses among the forms that the profile has.
    pub write: fn(&[Price], u32) -> Message,
}

/// What a profile can say of a price.
pub struct Says {
    /// Times are multiples of this, in microseconds.
    pub resolution: i64,
    /// Several prices: of as many symbols as there are prices, or of one, at different times.
    pub rows: Rows,
    pub volume: Volume,
    pub fetched: bool,
    /// The symbol is in the record's key, and must look like one.
    pub symbol_in_key: bool,
}

/// How many prices are in a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rows {
    One,
    Many,
    ManyOfOneSymbol,
}

/// Whether a price has a volume.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Volume {
    Always,
    Maybe,
    Never,
}

/// The profiles of prices.
pub const QUOTE: PriceProfile = PriceProfile {
    format: "quote",
    says: Says { resolution: 1, rows: Rows::Many, volume: Volume::Maybe, fetched: true, symbol_in_key: false },
    write: |rows, form| match rows {
        [row] if form.is_multiple_of(3) => Message { value: quote(row, form), key: None },
        _ if form % 3 == 1 => Message { value: lines(rows, |row| quote(row, form)), key: None },
        _ => Message { value: array(rows, |row| quote(row, form)), key: None },
    },
};

pub const BAR: PriceProfile = PriceProfile {
    format: "bar",
    says: Says { resolution: 1, rows: Rows::Many, volume: Volume::Maybe, fetched: true, symbol_in_key: false },
    write: |rows, form| match rows {
        [row] if form.is_multiple_of(2) => Message { value: bar(row, form), key: None },
        _ => Message { value: array(rows, |row| bar(row, form)), key: None },
    },
};

pub const FINNHUB: PriceProfile = PriceProfile {
    format: "finnhub",
    says: Says { resolution: 1000, rows: Rows::Many, volume: Volume::Maybe, fetched: false, symbol_in_key: false },
    write: |rows, form| {
        let data = array(rows, |row| {
            let (symbol, volume, millis) = (json(&row.symbol), or_null(&row.volume), row.micros / 1000);
            let conditions = pick(&["null", "[\"1\",\"12\"]", "[]"], form);
            format!(r#"{{"c":{conditions},"p":{},"s":{symbol},"t":{millis},"v":{volume}}}"#, row.price)
        });
        let value = format!(r#"{{"data":{data},"type":"trade"}}"#);
        Message { value: if form.is_multiple_of(3) { json(&value) } else { value }, key: None }
    },
};

pub const POLYGON: PriceProfile = PriceProfile {
    format: "polygon",
    says: Says { resolution: 1000, rows: Rows::Many, volume: Volume::Always, fetched: false, symbol_in_key: false },
    write: |rows, form| {
        let event = |row: &Price| {
            let (symbol, volume, millis) = (json(&row.symbol), or_null(&row.volume), row.micros / 1000);
            let price = &row.price;
            match form % 3 {
                0 => format!(
                    r#"{{"ev":"T","sym":{symbol},"x":4,"i":"12345","z":3,"p":{price},"s":{volume},"c":[0,12],"t":{millis},"q":3}}"#
                ),
                _ => format!(
                    r#"{{"ev":"{}","sym":{symbol},"v":{volume},"av":9,"op":9,"vw":9,"o":9,"c":{price},"h":9,"l":9,"a":9,"s":{},"e":{millis}}}"#,
                    if form % 3 == 1 { "A" } else { "AM" },
                    millis - 60_000
                ),
            }
        };
        Message { value: array(rows, event), key: None }
    },
};

pub const BINANCE: PriceProfile = PriceProfile {
    format: "binance",
    says: Says { resolution: 1000, rows: Rows::One, volume: Volume::Always, fetched: false, symbol_in_key: false },
    write: |rows, form| {
        let row = &rows[0];
        let (symbol, millis) = (json(&row.symbol), row.micros / 1000);
        let (price, volume) = (text(&row.price), text(&or_null(&row.volume)));
        let later = millis + 5;
        let event = match form % 4 {
            0 => format!(
                r#"{{"e":"trade","E":{later},"s":{symbol},"t":12345,"p":{price},"q":{volume},"T":{millis},"m":true,"M":true}}"#
            ),
            1 => format!(
                r#"{{"e":"aggTrade","E":{later},"s":{symbol},"a":12345,"p":{price},"q":{volume},"f":100,"l":105,"T":{millis},"m":true,"M":true}}"#
            ),
            2 => format!(
                r#"{{"e":"kline","E":{later},"s":{symbol},"k":{{"t":{},"T":{millis},"s":{symbol},"i":"1m","f":100,"L":200,"o":"9","c":{price},"h":"9","l":"9","v":{volume},"n":100,"x":false,"q":"9","V":"9","Q":"9","B":"9"}}}}"#,
                millis - 59_999
            ),
            // Whichever of its times and volumes is taken, it is the same.
            _ => format!(
                r#"{{"e":"24hrTicker","E":{millis},"s":{symbol},"p":"-9","P":"9","w":"9","x":"9","c":{price},"Q":{volume},"b":"9","B":"9","a":"9","A":"9","o":"9","h":"9","l":"9","v":{volume},"q":{volume},"O":{},"C":{millis},"F":0,"L":9,"n":9}}"#,
                millis - 86_400_000
            ),
        };
        let value = if form / 4 % 2 == 0 { event } else { format!(r#"{{"stream":"x@y","data":{event}}}"#) };
        Message { value, key: None }
    },
};

pub const ALPHA_VANTAGE_QUOTE: PriceProfile = PriceProfile {
    format: "alpha-vantage",
    says: Says { resolution: DAY, rows: Rows::One, volume: Volume::Always, fetched: false, symbol_in_key: false },
    write: |rows, _| {
        let row = &rows[0];
        let (symbol, price, volume) = (json(&row.symbol), text(&row.price), text(&or_null(&row.volume)));
        let day = date(row.micros);
        let value = format!(
            r#"{{"Global Quote":{{"01. symbol":{symbol},"02. open":"9","03. high":"9","04. low":"9","05. price":{price},"06. volume":{volume},"07. latest trading day":"{day}","08. previous close":"9","09. change":"-2.0","10. change percent":"-1.22%"}}}}"#
        );
        Message { value, key: None }
    },
};

pub const ALPHA_VANTAGE_SERIES: PriceProfile = PriceProfile {
    format: "alpha-vantage",
    says: Says {
        resolution: SECOND,
        rows: Rows::ManyOfOneSymbol,
        volume: Volume::Always,
        fetched: false,
        symbol_in_key: false,
    },
    write: |rows, form| {
        let eastern = chrono_tz::US::Eastern;
        let local = |row: &Price| utc(row.micros).with_timezone(&eastern).naive_local();
        // What New York's clocks show twice says only the earlier of two times.
        let is_eastern = form.is_multiple_of(2)
            && rows.iter().all(|row| eastern.from_local_datetime(&local(row)).single().is_some());
        let (zone, zone_key) =
            (if is_eastern { "US/Eastern" } else { "UTC" }, pick(&["5. Time Zone", "6. Time Zone"], form / 2));
        let entries: Vec<String> = rows
            .iter()
            .map(|row| {
                let time = if is_eastern { local(row) } else { utc(row.micros).naive_utc() };
                let (price, volume) = (text(&row.price), text(&or_null(&row.volume)));
                format!(
                    r#"{}:{{"1. open":"9","2. high":"9","3. low":"9","4. close":{price},"5. volume":{volume}}}"#,
                    json(&seconds(time))
                )
            })
            .collect();
        let value = format!(
            r#"{{"Meta Data":{{"1. Information":"Intraday","2. Symbol":{},"3. Last Refreshed":"2024-07-02 19:55:00","{zone_key}":"{zone}"}},"Time Series (5min)":{{{}}}}}"#,
            json(&rows[0].symbol),
            entries.join(",")
        );
        Message { value, key: None }
    },
};

pub const GOOGLEFINANCE: PriceProfile = PriceProfile {
    format: "googlefinance",
    says: Says { resolution: SECOND, rows: Rows::Many, volume: Volume::Never, fetched: false, symbol_in_key: false },
    write: |rows, _| {
        let quote = |row: &Price| {
            format!(
                r#"{{"Index":"NASDAQ","LastTradeWithCurrency":"9","LastTradeDateTime":"{}","LastTradePrice":{},"LastTradeTime":"4:00PM EST","StockSymbol":{},"Yield":""}}"#,
                utc(row.micros).to_rfc3339_opts(SecondsFormat::Secs, true),
                text(&row.price),
                json(&row.symbol)
            )
        };
        Message { value: array(rows, quote), key: None }
    },
};

pub const COLUMNAR: PriceProfile = PriceProfile {
    format: "columnar",
    says: Says {
        resolution: 1000,
        rows: Rows::ManyOfOneSymbol,
        volume: Volume::Maybe,
        fetched: false,
        symbol_in_key: true,
    },
    write: |rows, _| {
        let column = |name: &str, cell: fn(&Price) -> String| {
            let cells: Vec<String> =
                rows.iter().map(|row| format!("\"{}\":{}", row.micros / 1000, cell(row))).collect();
            format!("\"{name}\":{{{}}}", cells.join(","))
        };
        let columns = [
            column("Open", |_| "9".to_owned()),
            column("High", |_| "9".to_owned()),
            column("Low", |_| "9".to_owned()),
            column("Close", |row| row.price.clone()),
            column("Volume", |row| or_null(&row.volume)),
        ];
        Message { value: format!("{{{}}}", columns.join(",")), key: Some(rows[0].symbol.clone()) }
    },
};

pub const ENVELOPE: PriceProfile = PriceProfile {
    format: "envelope",
    says: Says { resolution: 1, rows: Rows::Many, volume: Volume::Maybe, fetched: true, symbol_in_key: false },
    write: |rows, form| {
        let inner = |row: &Price| if form.is_multiple_of(2) { quote(row, form / 16) } else { bar(row, form / 16) };
        let value = match (rows, form / 2 % 8) {
            ([row], 0) => format!(
                r#"{{"schema":null,"payload":{{"before":null,"after":{},"source":{{"ts_ms":9}},"op":"c","ts_ms":9}}}}"#,
                inner(row)
            ),
            ([row], 1) => format!(r#"{{"before":null,"after":{},"op":"u","ts_ms":9}}"#, inner(row)),
            ([row], 2) => format!(r#"{{"schema":{{"type":"struct","fields":[]}},"payload":{}}}"#, inner(row)),
            ([row], 3) => format!(r#"{{"id":"x","version":1,"payload":{}}}"#, inner(row)),
            ([row], 4) => format!(r#"{{"data":{}}}"#, inner(row)),
            ([row], 5) => {
                let (symbol, volume, price, micros) = (json(&row.symbol), or_null(&row.volume), &row.price, row.micros);
                let fetched = row.fetched.map_or("null".to_owned(), |fetched| fetched.to_string());
                format!(
                    r#"{{"symbol":{symbol},"fetched_at":{fetched},"data":{{"price":{price},"volume":{volume},"ts":{micros}}}}}"#
                )
            }
            _ => format!(r#"{{"data":{}}}"#, array(rows, inner)),
        };
        Message { value, key: None }
    },
};

/// Flat figures, as the seed's producer sends them.
pub fn metrics(row: &Metric, form: u32) -> Message {
    let [avg_price, max_price, min_price, avg_volume] = row.figures.each_ref().map(or_null);
    let [start, end] = row.window.map(|micros| time(micros, form / 2));
    let (symbol, spelling) = (json(&row.symbol), form % 2);
    let value = format!(
        r#"{{"{}":{symbol},"{}":{start},"{}":{end},"{}":{avg_price},"{}":{max_price},"{}":{min_price},"{}":{avg_volume}}}"#,
        spelled("symbol", spelling),
        spelled("window_start", spelling),
        spelled("window_end", spelling),
        spelled("avg_price", spelling),
        spelled("max_price", spelling),
        spelled("min_price", spelling),
        spelled("avg_volume", spelling)
    );
    Message { value, key: None }
}

/// A window of Spark's, and columns named by functions or by aliases.
pub fn spark_window(row: &Metric, form: u32) -> Message {
    let [avg_price, max_price, min_price, avg_volume] = row.figures.each_ref().map(or_null);
    let [start, end] = row.window.map(|micros| time(micros, 4 + form / 8));
    let names = [
        ["avg(price)", "max(price)", "min(price)", "avg(volume)"],
        ["avg_price", "max_price", "min_price", "avg_volume"],
        ["average_price", "max(price)", "min_price", "avg(volume)"],
    ];
    let [avg_price_name, max_price_name, min_price_name, avg_volume_name] = pick(&names, form);
    let value = format!(
        r#"{{"window":{{"start":{start},"end":{end}}},"symbol":{},"{avg_price_name}":{avg_price},"{max_price_name}":{max_price},"{min_price_name}":{min_price},"{avg_volume_name}":{avg_volume}}}"#,
        json(&row.symbol)
    );
    Message { value, key: None }
}

/// A table of ksqlDB's: upper case, the window in milliseconds, the symbol maybe in the key.
pub fn ksql_window(row: &Metric, form: u32) -> Message {
    let [avg_price, max_price, min_price, avg_volume] = row.figures.each_ref().map(or_null);
    let [start, end] = row.window.map(|micros| micros / 1000);
    let is_in_key = form.is_multiple_of(2);
    let symbol = if is_in_key { String::new() } else { format!("\"SYMBOL\":{},", json(&row.symbol)) };
    let value = format!(
        r#"{{"WINDOWSTART":{start},"WINDOWEND":{end},{symbol}"AVG_PRICE":{avg_price},"MAX_PRICE":{max_price},"MIN_PRICE":{min_price},"AVG_VOLUME":{avg_volume}}}"#
    );
    Message { value, key: is_in_key.then(|| row.symbol.clone()) }
}

//! The audit: joins the ledger with the tables, the dead letters, the gaps and the offsets.
//!
//! In any snapshot of the database, all that lies before a partition's next offset has met its fate, and nothing else is
//! there. A snapshot during a run compares numbers, sums and maxima of each partition, which together allow one set only;
//! the last one, when all is quiet, compares every field of every row, and the ledger with what librdkafka reads.

use super::eventually;
use super::ledger::{Ledger, PARTITION_STRIDE, Page, Price, Window};
use super::servers::servers;
use super::stage::Stage;
use postgres::{Client, IsolationLevel, Transaction};
use std::collections::{BTreeMap, HashMap};
use std::process::{Command, Stdio};

type Place = (String, i32);

/// What a snapshot holds of one partition.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Held {
    records_rows: i64,
    records_dead: i64,
    records_skipped: i64,
    rows_total: i64,
    dead_letters_total: i64,
    // Seen in the tables themselves: how many, how many different ones, and the highest number of a record.
    rows: [i64; 3],
    letters: [i64; 3],
    // How many, and the sum of the records they are from.
    windows: [i64; 2],
}

/// What was compared.
#[derive(Debug, Clone, Copy, Default)]
pub struct Compared {
    /// Partitions.
    pub partitions: u64,
    /// Rows, windows and dead letters.
    pub rows: u64,
}

/// What must be held when the first `n` records of a page have met their fates.
fn expected(page: &Page, n: i64) -> Held {
    let mut held = Held::default();
    let (mut windows, records) = (HashMap::new(), page.records());
    for (offset, record) in &records[..n as usize] {
        let fate = record.fate();
        let (n_rows, n_letters) = (fate.n_rows(), fate.letters.len() as i64);
        match (n_rows, n_letters) {
            (0, 0) => held.records_skipped += 1,
            (0, _) => held.records_dead += 1,
            _ => held.records_rows += 1,
        }
        held.rows_total += n_rows;
        held.dead_letters_total += n_letters;
        if !fate.prices.is_empty() {
            held.rows = [held.rows[0] + n_rows, held.rows[1] + n_rows, record.number];
        }
        if n_letters > 0 {
            held.letters = [held.letters[0] + n_letters, held.letters[1] + n_letters, *offset];
        }
        if let Some(window) = fate.window {
            windows.insert(window.start, window.id);
        }
    }
    held.windows = [windows.len() as i64, windows.values().sum()];
    held
}

impl Ledger {
    /// Compares one snapshot of the database, whatever is going on. What Kafka has not acknowledged to us yet, though the
    /// worker may have it already, is waited for a little; a partition where that does not come is left out.
    pub fn audit_snapshot(&self, stage: &Stage, client: &mut Client) -> Result<Compared, postgres::Error> {
        let mut transaction =
            client.build_transaction().isolation_level(IsolationLevel::RepeatableRead).read_only(true).start()?;
        let held = read_snapshot(stage, &mut transaction)?;
        transaction.rollback()?;
        let mut compared = Compared::default();
        for (place, (next, held)) in held {
            let page = self.page(&place.0, place.1).unwrap_or_else(|| panic!("{place:?} was never fed"));
            if !is_acknowledged(&page, next) {
                continue;
            }
            assert_eq!(held, expected(&page, page.n_before(next)), "{place:?} at next offset {next}: found, expected");
            compared.partitions += 1;
            compared.rows += (held.rows[0] + held.letters[0] + held.windows[0]) as u64;
        }
        Ok(compared)
    }

    /// Waits until everything sent is behind the next offsets.
    pub fn wait_until_drained(&self, stage: &Stage, limit: std::time::Duration) {
        let ends: Vec<(Place, i64)> =
            self.pages().iter().map(|page| ((page.topic.clone(), page.partition), page.n_acknowledged().1)).collect();
        eventually(&format!("all is drained: {ends:?}"), limit, || {
            let Ok(mut client) = stage.try_database() else { return false };
            let Ok(mut transaction) = client.transaction() else { return false };
            let Ok(held) = read_snapshot(stage, &mut transaction) else { return false };
            ends.iter().all(|(place, end)| *end == 0 || held.get(place).is_some_and(|(next, _)| next >= end))
        });
    }

    /// Compares everything, field by field, when all was sent and drained; the ledger itself with the log in Kafka.
    pub fn audit(&self, stage: &Stage) -> Compared {
        self.assert_log_is_as_acknowledged();
        self.audit_tables(stage)
    }

    /// The same without the log in Kafka.
    pub fn audit_tables(&self, stage: &Stage) -> Compared {
        let mut client = stage.database();
        let compared = self.audit_snapshot(stage, &mut client).expect("PostgreSQL answers");
        let n_fed = self.pages().iter().filter(|page| page.n_sent() > 0).count();
        assert_eq!(compared.partitions, n_fed as u64, "every partition that was fed has an offset");
        let (mut prices, mut windows, mut letters) = (HashMap::new(), HashMap::new(), BTreeMap::new());
        for page in self.pages() {
            for (offset, record) in page.records() {
                let fate = record.fate();
                prices.extend(fate.prices.into_iter().map(|price| (price.price.clone(), price)));
                windows.extend(fate.window.map(|window| ((window.symbol.clone(), window.start), window)));
                for (nth, (element, class)) in fate.letters.into_iter().enumerate() {
                    // The payload is kept once.
                    let payload = (nth == 0).then(|| record.value().into_bytes());
                    let place = (page.topic.clone(), page.partition, offset, element);
                    letters.insert(place, (record.key().into_bytes(), payload, class.to_owned()));
                }
            }
        }
        let n_expected = prices.len() + windows.len() + letters.len();
        assert_prices(&mut client, prices);
        assert_windows(&mut client, windows);
        assert_letters(stage, &mut client, letters);
        assert_eq!(stage.number("SELECT count(*) FROM writer_gaps"), 0, "gaps");
        Compared { rows: n_expected as u64, ..compared }
    }

    /// The log holds what was acknowledged, each at its offset, and nothing else.
    fn assert_log_is_as_acknowledged(&self) {
        let mut by_topic: BTreeMap<String, BTreeMap<(i32, i64), String>> = BTreeMap::new();
        for page in self.pages() {
            let records = page.records().into_iter().map(|(offset, record)| ((page.partition, offset), record.key()));
            by_topic.entry(page.topic.clone()).or_default().extend(records);
        }
        for (topic, acknowledged) in by_topic {
            let mut kcat = Command::new("kcat");
            kcat.args(["-C", "-b", servers().brokers_of(&topic), "-t", &topic, "-e", "-o", "beginning", "-q"]);
            let output = kcat.args(["-f", "%p %o %k\\n"]).stdin(Stdio::null()).output().expect("kcat is installed");
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            let read = |line: &str| {
                let words: Vec<&str> = line.split(' ').collect();
                let number = |word: &str| word.parse::<i64>().expect("a number");
                ((number(words[0]) as i32, number(words[1])), words[2].to_owned())
            };
            let log: BTreeMap<_, _> = String::from_utf8_lossy(&output.stdout).lines().map(read).collect();
            assert!(
                log == acknowledged,
                "{topic} holds {} records, acknowledged are {}",
                log.len(),
                acknowledged.len()
            );
        }
    }
}

fn is_acknowledged(page: &Page, next: i64) -> bool {
    (0..100).any(|look| {
        if look > 0 {
            std::thread::sleep(super::LOOK);
        }
        page.n_acknowledged().1 >= next
    })
}

fn read_snapshot(
    stage: &Stage,
    transaction: &mut Transaction<'_>,
) -> Result<BTreeMap<Place, (i64, Held)>, postgres::Error> {
    let mut held: BTreeMap<Place, (i64, Held)> = BTreeMap::new();
    for row in transaction.query(
        "SELECT topic, partition, next_offset, records_rows, records_dead, records_skipped, rows_total, \
         dead_letters_total FROM writer_offsets WHERE pipeline = $1",
        &[&stage.name],
    )? {
        let counted = Held {
            records_rows: row.get(3),
            records_dead: row.get(4),
            records_skipped: row.get(5),
            rows_total: row.get(6),
            dead_letters_total: row.get(7),
            ..Held::default()
        };
        held.insert((row.get(0), row.get(1)), (row.get(2), counted));
    }
    let mut seen = |sql: &str, topic: &str, put: &mut dyn FnMut(&mut Held, Vec<i64>)| {
        for row in transaction.query(sql, &[])? {
            let place = (if topic.is_empty() { row.get("topic") } else { topic.to_owned() }, row.get("partition"));
            let numbers = ["n", "n_distinct", "last"].map(|column| row.get(column));
            let (_, held) = held.get_mut(&place).unwrap_or_else(|| panic!("rows of {place:?}, which nobody claimed"));
            put(held, numbers.to_vec());
        }
        Ok::<(), postgres::Error>(())
    };
    let (partition, number) =
        (format!("div({{}}, {PARTITION_STRIDE})::int - 1"), format!("mod({{}}, {PARTITION_STRIDE})::bigint"));
    let of = |formula: &str, column: &str| formula.replace("{}", column);
    seen(
        &format!(
            "SELECT {} AS partition, count(*) AS n, count(DISTINCT price) AS n_distinct, max({}) AS last \
             FROM stock_prices GROUP BY 1",
            of(&partition, "price"),
            of(&number, "trunc(price)")
        ),
        &stage.topic,
        &mut |held, numbers| held.rows.copy_from_slice(&numbers),
    )?;
    seen(
        &format!(
            "SELECT {} AS partition, count(*) AS n, sum(avg_price)::bigint AS n_distinct, 0::bigint AS last \
             FROM stock_metrics GROUP BY 1",
            of(&partition, "avg_price")
        ),
        &stage.metrics_topic(),
        &mut |held, numbers| held.windows.copy_from_slice(&numbers[..2]),
    )?;
    seen(
        "SELECT topic, partition, count(*) AS n, count(DISTINCT (record_offset, element)) AS n_distinct, \
         max(record_offset) AS last FROM writer_dead_letters GROUP BY 1, 2",
        "",
        &mut |held, numbers| held.letters.copy_from_slice(&numbers),
    )?;
    Ok(held)
}

fn assert_prices(client: &mut Client, mut expected: HashMap<String, Price>) {
    let sql = "SELECT price::text, symbol, volume::bigint, (extract(epoch FROM \"timestamp\") * 1000000)::bigint, \
               fetch_timestamp FROM stock_prices";
    for row in client.query(sql, &[]).expect("PostgreSQL answers") {
        let found = Price {
            price: row.get(0),
            symbol: row.get(1),
            volume: row.get(2),
            timestamp_us: row.get(3),
            fetch_timestamp: row.get(4),
        };
        let meant = expected.remove(&found.price);
        assert_eq!(Some(&found), meant.as_ref(), "a row that is there twice, was never sent, or is garbled");
    }
    assert!(expected.is_empty(), "{} rows are lost, such as {:?}", expected.len(), expected.values().next());
}

fn assert_windows(client: &mut Client, mut expected: HashMap<(String, i64), Window>) {
    let sql = "SELECT symbol, extract(epoch FROM window_start)::bigint, extract(epoch FROM window_end)::bigint, \
               avg_price::bigint, max_price::bigint, min_price::bigint, avg_volume::bigint FROM stock_metrics";
    for row in client.query(sql, &[]).expect("PostgreSQL answers") {
        let found = Window { symbol: row.get(0), start: row.get(1), id: row.get(3), avg_volume: row.get(6) };
        let meant = expected.remove(&(found.symbol.clone(), found.start));
        assert_eq!(Some(&found), meant.as_ref(), "a window that is not as its last record says");
        let rest: [i64; 3] = [row.get(2), row.get(4), row.get(5)];
        assert_eq!(rest, [found.start + 60, found.id + 1, found.id - 1], "the rest of {found:?}");
    }
    assert!(expected.is_empty(), "{} windows are lost, such as {:?}", expected.len(), expected.values().next());
}

type Letters = BTreeMap<(String, i32, i64, i32), (Vec<u8>, Option<Vec<u8>>, String)>;

fn assert_letters(stage: &Stage, client: &mut Client, mut expected: Letters) {
    let sql = "SELECT topic, partition, record_offset, element, key, payload, reason_class FROM writer_dead_letters \
               WHERE pipeline = $1";
    for row in client.query(sql, &[&stage.name]).expect("PostgreSQL answers") {
        let place = (row.get(0), row.get(1), row.get(2), row.get(3));
        let found: (Vec<u8>, Option<Vec<u8>>, String) = (row.get(4), row.get(5), row.get(6));
        assert_eq!(Some(found), expected.remove(&place), "the dead letter {place:?}");
    }
    assert!(expected.is_empty(), "{} dead letters are lost, such as {:?}", expected.len(), expected.keys().next());
}

impl Stage {
    /// The topic of windowed metrics, of a test that has one.
    pub fn metrics_topic(&self) -> String {
        format!("{}_metrics", self.name)
    }

    /// Like [`Stage::database`], of a server that may be away.
    pub fn try_database(&self) -> Result<Client, postgres::Error> {
        let mut client = Client::connect(&servers().database_url, postgres::NoTls)?;
        client.batch_execute(&format!("SET search_path = {}; SET client_min_messages = warning", self.name))?;
        Ok(client)
    }
}

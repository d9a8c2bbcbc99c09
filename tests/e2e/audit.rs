//! The audit that other tests rely on notices whatever can be wrong.

use crate::harness::ledger::{Ledger, REFUSED_CHECK, Target};
use crate::harness::{LIMIT, Stage};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::thread;
use std::time::Duration;

/// What may not be, and what puts it right again.
const WRONGS: [(&str, &str, &str); 10] = [
    (
        "a row is lost",
        "CREATE TABLE kept AS SELECT * FROM stock_prices ORDER BY price DESC LIMIT 1; \
         DELETE FROM stock_prices WHERE id IN (SELECT id FROM kept)",
        "INSERT INTO stock_prices SELECT * FROM kept; DROP TABLE kept",
    ),
    (
        "a row is there twice",
        "INSERT INTO stock_prices (symbol, price, volume, \"timestamp\", fetch_timestamp) \
         SELECT symbol, price, volume, \"timestamp\", fetch_timestamp FROM stock_prices ORDER BY id LIMIT 1",
        "DELETE FROM stock_prices WHERE id = (SELECT max(id) FROM stock_prices)",
    ),
    (
        "one is lost and another one twice",
        "CREATE TABLE kept AS SELECT * FROM stock_prices ORDER BY price LIMIT 1 OFFSET 1; \
         UPDATE stock_prices p SET price = q.price FROM (SELECT min(price) AS price FROM stock_prices) q \
         WHERE p.id IN (SELECT id FROM kept)",
        "UPDATE stock_prices p SET price = k.price FROM kept k WHERE k.id = p.id; DROP TABLE kept",
    ),
    (
        "a field is another",
        "UPDATE stock_prices SET fetch_timestamp = fetch_timestamp + 1 \
         WHERE id = (SELECT min(id) FROM stock_prices)",
        "UPDATE stock_prices SET fetch_timestamp = fetch_timestamp - 1 \
         WHERE id = (SELECT min(id) FROM stock_prices)",
    ),
    (
        "a window is as an older record says",
        "UPDATE stock_metrics SET avg_volume = avg_volume - 1 WHERE id = (SELECT min(id) FROM stock_metrics)",
        "UPDATE stock_metrics SET avg_volume = avg_volume + 1 WHERE id = (SELECT min(id) FROM stock_metrics)",
    ),
    (
        "a dead letter is lost",
        "CREATE TABLE kept AS SELECT * FROM writer_dead_letters LIMIT 1; DELETE FROM writer_dead_letters d USING kept k \
         WHERE d.topic = k.topic AND d.partition = k.partition AND d.record_offset = k.record_offset",
        "INSERT INTO writer_dead_letters SELECT * FROM kept; DROP TABLE kept",
    ),
    (
        "a dead letter has another payload",
        "UPDATE writer_dead_letters SET payload = payload || 'x' WHERE reason_class = 'syntax'",
        "UPDATE writer_dead_letters SET payload = substr(payload, 1, length(payload) - 1) WHERE reason_class = 'syntax'",
    ),
    (
        "a position is ahead of the rows",
        "UPDATE writer_offsets SET next_offset = next_offset + 1",
        "UPDATE writer_offsets SET next_offset = next_offset - 1",
    ),
    (
        "a position is behind the rows",
        "UPDATE writer_offsets SET next_offset = next_offset - 1",
        "UPDATE writer_offsets SET next_offset = next_offset + 1",
    ),
    (
        "a counter is wrong",
        "UPDATE writer_offsets SET records_skipped = records_skipped + 1, records_rows = records_rows - 1",
        "UPDATE writer_offsets SET records_skipped = records_skipped - 1, records_rows = records_rows + 1",
    ),
];

#[test]
fn the_audit_notices_whatever_is_wrong() {
    let stage = Stage::new("audit", 2);
    stage.add_topic(&stage.metrics_topic(), 1, &[]);
    let invocation = stage.invocation().set("topics.1.name", stage.metrics_topic()).set("topics.1.target", "metrics");
    invocation.output(&["init"]).expect_code(0);
    stage.execute(REFUSED_CHECK);
    let ledger = Ledger::default();
    for partition in 0..2 {
        ledger.feed(Target::Prices, &stage.topic, partition, 1_000);
    }
    ledger.feed(Target::Metrics, &stage.metrics_topic(), 0, 400);
    thread::sleep(Duration::from_secs(2));
    ledger.finish();
    invocation.output(&["run", "--until-end"]).expect_code(0);
    ledger.wait_until_drained(&stage, LIMIT);
    let compared = ledger.audit(&stage);
    assert!(compared.partitions == 3 && compared.rows > 500, "{compared:?}");
    for (what, wrong, right) in WRONGS {
        stage.execute(wrong);
        assert!(catch_unwind(AssertUnwindSafe(|| ledger.audit_tables(&stage))).is_err(), "not noticed: {what}");
        stage.execute(right);
        ledger.audit_tables(&stage);
    }
}

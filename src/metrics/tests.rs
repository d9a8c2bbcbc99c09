//! What is counted, and what the text that Prometheus reads looks like.

use super::*;
use crate::batch::{Batch, Batcher, Epoch, Incoming, Limits};
use crate::decode::settings::Settings;
use crate::record::{NextOffset, Offset};
use std::time::Instant;

fn batch() -> Batch {
    let limits = Limits { rows_max: 9, bytes_max: 9999, linger: Duration::ZERO, message_bytes_max: 9999 };
    let (mut batcher, partition) = (Batcher::new(limits), TopicPartition::new("t", 3));
    batcher.follow(partition.clone(), Epoch(1), NextOffset(0));
    let values: [&[u8]; 3] = [br#"{"symbol":"SECRET","price":1.5,"timestamp":1704207845}"#, b"{", b""];
    for (offset, value) in values.into_iter().enumerate() {
        let record = Incoming {
            offset: Offset(offset as i64),
            leader_epoch: None,
            timestamp_ms: Some(1_000),
            key: None,
            value: Some(value),
        };
        batcher.push(&partition, record, Instant::now());
    }
    batcher.seal().expect("records were pushed")
}

fn after_one_batch() -> Metrics {
    let metrics = Metrics::new("public.prices", "public.metrics");
    let (batch, settings) = (batch(), Settings::default());
    let work = Work::decode(&batch, |_| Some(&settings));
    metrics.durable(&work, Duration::from_millis(20), 3_000);
    metrics
}

#[test]
fn a_durable_batch_is_counted_once_in_every_respect() {
    let text = after_one_batch().encode();
    for line in [
        "stock_db_writer_records_total{topic=\"t\"} 3",
        "stock_db_writer_rows_total{table=\"public.prices\"} 1",
        "stock_db_writer_rows_total{table=\"public.metrics\"} 0",
        "stock_db_writer_dead_letters_total{class=\"syntax\"} 1",
        "stock_db_writer_dead_letters_total{class=\"database\"} 0",
        "stock_db_writer_skipped_total{reason=\"empty\"} 1",
        "stock_db_writer_batch_rows_sum 1",
        "stock_db_writer_transaction_seconds_bucket{le=\"0.025\"} 1",
        "stock_db_writer_transaction_seconds_bucket{le=\"0.01\"} 0",
        "stock_db_writer_visible_latency_seconds_sum 6",
        "stock_db_writer_visible_latency_seconds_count 3",
        "stock_db_writer_newest_event_timestamp_seconds{table=\"public.prices\"} 1704207845",
    ] {
        assert!(text.lines().any(|printed| printed == line), "{line} is not in\n{text}");
    }
    assert!(text.contains("process_resident_memory_bytes "), "{text}");
    assert!(!text.contains("SECRET"), "no label holds a symbol");
}

#[test]
fn trouble_is_named_only_where_there_was_some() {
    let metrics = after_one_batch();
    assert_eq!(metrics.trouble(), "");
    metrics.retried("lock");
    metrics.resolved(InDoubt::NotApplied);
    assert_eq!(metrics.trouble(), "1 retries, 1 commits in doubt that were not applied");
    let Totals { records, rows, dead_letters, skipped, batches, .. } = metrics.totals();
    assert_eq!((records, rows, dead_letters, skipped, batches), (3, 1, 1, 1, 1));
}

#[test]
fn a_partition_that_is_somebody_elses_is_not_shown_any_more() {
    let metrics = Metrics::new("p", "m");
    let (mine, others) = (TopicPartition::new("t", 0), TopicPartition::new("t", 1));
    let lag = Lag { next_offset: 7, records: 3, seconds: 1.5, uncommitted: 2 };
    let both: BTreeMap<_, _> = [(mine.clone(), lag), (others.clone(), lag)].into();
    metrics.set_lags(&both, &BTreeSet::new());
    assert!(metrics.encode().contains("stock_db_writer_lag_seconds{partition=\"1\",topic=\"t\"} 1.5"));
    metrics.set_lags(&[(mine, lag)].into(), &both.into_keys().collect());
    let text = metrics.encode();
    assert!(text.contains("stock_db_writer_next_offset{partition=\"0\",topic=\"t\"} 7"), "{text}");
    assert!(!text.contains("partition=\"1\""), "{text}");
}

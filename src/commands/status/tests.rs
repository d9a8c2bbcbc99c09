//! What `status` prints for people and for programs.

use super::*;
use crate::batch::Epoch;
use crate::ledger::LogIdentity;

fn standing(partition: i32, owner: Option<&str>) -> Standing {
    Standing {
        partition: TopicPartition::new("stock_prices", partition),
        next: NextOffset(12_345_678),
        epoch: Epoch(12),
        identity: LogIdentity { cluster_id: None, topic_id: None },
        owner: owner.map(str::to_owned),
        records_total: 12_345_678,
        rows_total: 12_345_000,
        dead_letters_total: i64::from(partition),
        records_skipped: 0,
        updated_at: "2024-01-02T15:04:05Z".to_owned(),
    }
}

fn behind(records: i64, seconds: Option<f64>) -> Behind {
    let end = NextOffset(12_345_678 + records);
    Behind { bounds: Bounds { start: NextOffset(0), last_stable: end, high_watermark: end }, records, seconds }
}

fn plain(text: &str) -> String {
    anstream::adapter::strip_str(text).to_string()
}

#[test]
fn partitions_are_shown_by_owner_within_eighty_columns() {
    let standings = [standing(0, Some("host:1:aa")), standing(1, Some("other:2:bb")), standing(2, None)];
    let all: AllBehind = [
        (standings[0].partition.clone(), behind(0, Some(0.0))),
        (standings[1].partition.clone(), behind(98_765, Some(720.0))),
        (standings[2].partition.clone(), behind(7, None)),
    ]
    .into();
    let table = plain(&table("stock-db-writer", &standings, &all));
    let expected = "\
pipeline \"stock-db-writer\": 3 partitions, 98772 records behind (12 min or more), 3 dead letters so far

nobody has claimed yet
PARTITION           NEXT       END    LAG  BEHIND      ROWS  DEAD  EPOCH
stock_prices/2  12345678  12345685      7       ?  12345000     2     12

owner host:1:aa
PARTITION           NEXT       END    LAG  BEHIND      ROWS  DEAD  EPOCH
stock_prices/0  12345678  12345678      0     0 s  12345000     0     12

owner other:2:bb
PARTITION           NEXT       END    LAG  BEHIND      ROWS  DEAD  EPOCH
stock_prices/1  12345678  12444443  98765  12 min  12345000     1     12
";
    assert_eq!(table, expected);
    assert!(table.lines().skip(1).all(|line| line.len() <= 80));
}

#[test]
fn what_kafka_does_not_tell_is_a_question_mark() {
    let standings = [standing(0, None)];
    let table = plain(&table("p", &standings, &BTreeMap::new()));
    assert!(table.starts_with("pipeline \"p\": 1 partition, lag not known, 0 dead letters so far\n"), "{table}");
    assert!(table.contains("12345678    ?    ?       ?  12345000"), "{table}");
    assert_eq!(as_json(&standings[0], None)["lag_seconds"], serde_json::Value::Null);
    assert_eq!(as_json(&standings[0], Some(&behind(5, Some(1.5))))["lag_seconds"], 1.5);
}

#[test]
fn an_age_that_is_not_known_is_not_nothing() {
    let standings = [standing(0, None), standing(1, None)];
    let summary = |ages: [Behind; 2]| {
        let all: AllBehind = standings.iter().map(|standing| standing.partition.clone()).zip(ages).collect();
        summary("p", &standings, &all)
    };
    let not_known = summary([behind(7, None), behind(0, Some(0.0))]);
    assert!(not_known.contains("7 records behind (?)"), "{not_known}");
    let nothing = summary([behind(0, Some(0.0)), behind(0, Some(0.0))]);
    assert!(nothing.contains("0 records behind (0 s)"), "{nothing}");
}

#[test]
fn ages_are_short() {
    let ages = [0.2, 99.0, 600.0, 7_200.0, 864_000.0].map(age);
    assert_eq!(ages, ["0 s", "99 s", "10 min", "2 h", "10 d"]);
}

//! The broker from the side of an administrator: topics, offsets, groups.

use super::servers;
use krafka::Kafka;
use krafka::admin::{NewTopic, OffsetSpec, TopicPartition};
use krafka::error::{ErrorCode, KrafkaError};
use std::collections::BTreeMap;
use std::future::Future;
use std::sync::OnceLock;
use std::time::Duration;
use tokio::runtime::{Builder, Runtime};

/// Runs one conversation with the broker to its end. The client behind it is async; the tests are not.
pub fn wait_for<T>(work: impl Future<Output = T>) -> T {
    static RUNTIME: OnceLock<Runtime> = OnceLock::new();
    RUNTIME
        .get_or_init(|| {
            Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime can be made")
        })
        .block_on(work)
}

/// A new client of the broker where something of this name is.
pub async fn connect(name: &str) -> Kafka {
    Kafka::builder(servers().brokers_of(name))
        .client_id("stock-db-writer-e2e")
        .request_timeout(Duration::from_secs(30))
        .connect()
        .await
        .expect("the broker can be reached")
}

/// Creates a topic and waits until all its partitions have a leader.
pub fn create_topic(name: &str, n_partitions: i32, configs: &[(&str, &str)]) {
    create(name, n_partitions, configs).unwrap_or_else(|error| panic!("creating topic {name}: {error}"));
}

/// Creates a topic again; refused for as long as the old one is being deleted.
pub fn try_create_topic(name: &str, n_partitions: i32) -> krafka::Result<()> {
    create(name, n_partitions, &[])
}

fn create(name: &str, n_partitions: i32, configs: &[(&str, &str)]) -> krafka::Result<()> {
    // As many replicas as there are brokers: as dev/services has set it.
    let topic = NewTopic::new(name, n_partitions, -1).expect("the topic's name is valid");
    let topic = configs.iter().fold(topic, |topic, (key, value)| topic.with_config(*key, *value));
    let results = wait_for(async { connect(name).await.admin().create_topics([topic], Default::default()).await });
    results.expect("the broker answers").into_values().collect::<krafka::Result<()>>()?;
    await_leaders(name, n_partitions);
    Ok(())
}

/// Creates a topic of one partition that these brokers have; the first is the preferred leader.
pub fn create_topic_on(name: &str, replicas: &[i32]) {
    let assignment = [(0, replicas.to_vec())].into();
    let topic = NewTopic::with_replica_assignment(name, assignment).expect("the topic's name is valid");
    let created = wait_for(async { connect(name).await.admin().create_topics([topic], Default::default()).await });
    for (name, result) in created.expect("the broker answers") {
        result.unwrap_or_else(|error| panic!("creating topic {name}: {error}"));
    }
    await_leaders(name, 1);
}

/// Creates many topics at once, with one replica of each partition.
pub fn create_topics(names: &[String], n_partitions: i32) {
    let topics = names.iter().map(|name| NewTopic::new(name, n_partitions, 1).expect("the topic's name is valid"));
    let created = wait_for(async {
        connect(&names[0]).await.admin().create_topics(topics.collect::<Vec<_>>(), Default::default()).await
    });
    for (name, result) in created.expect("the broker answers") {
        result.unwrap_or_else(|error| panic!("creating topic {name}: {error}"));
    }
    names.iter().for_each(|name| await_leaders(name, n_partitions));
}

/// Deletes a topic.
pub fn delete_topic(name: &str) {
    // Brokers that were away a moment ago, and what was refused first may be done by the second time.
    super::eventually(&format!("topic {name} is deleted"), super::LIMIT, || {
        let deleted = wait_for(async { connect(name).await.admin().delete_topics([name], Default::default()).await });
        deleted.is_ok_and(|deleted| {
            deleted.into_values().all(|result| match result {
                Ok(()) | Err(KrafkaError::Broker { code: ErrorCode::UnknownTopicOrPartition, .. }) => true,
                Err(error) => {
                    println!("deleting topic {name}: {error}");
                    false
                }
            })
        })
    });
}

/// Adds partitions up to `total`.
pub fn add_partitions(name: &str, total: i32) {
    let added =
        wait_for(async { connect(name).await.admin().create_partitions([(name, total)], Default::default()).await });
    for (name, result) in added.expect("the broker answers") {
        result.unwrap_or_else(|error| panic!("adding partitions to {name}: {error}"));
    }
    await_leaders(name, total);
}

fn await_leaders(name: &str, n_partitions: i32) {
    super::eventually("every partition has a leader", super::LIMIT, || {
        let described =
            wait_for(async { connect(name).await.admin().describe_topics([name], Default::default()).await });
        let described = described.expect("the broker answers");
        described.get(name).and_then(|topic| topic.as_ref().ok()).is_some_and(|topic| {
            topic.partitions.len() == n_partitions as usize
                && topic.partitions.iter().all(|partition| partition.leader.is_some())
        })
    });
}

/// Deletes what lies before an offset.
pub fn delete_records(name: &str, partition: i32, before: i64) {
    let deleted = wait_for(async {
        let target = [(TopicPartition::new(name, partition), before)];
        connect(name).await.admin().delete_records(target, Default::default()).await
    });
    for (_, result) in deleted.expect("the broker answers") {
        assert_eq!(result.expect("the records can be deleted"), before, "new start of {name}/{partition}");
    }
}

/// The end of every partition: its high watermark.
pub fn end_offsets(name: &str) -> BTreeMap<i32, i64> {
    wait_for(async {
        let admin = connect(name).await.admin();
        let described = admin.describe_topics([name], Default::default()).await.expect("the broker answers");
        let topic = described[name].as_ref().expect("the topic exists");
        let wanted: Vec<_> = topic
            .partitions
            .iter()
            .map(|partition| (TopicPartition::new(name, partition.partition), OffsetSpec::Latest))
            .collect();
        let listed = admin.list_offsets(wanted, Default::default()).await.expect("the broker answers");
        listed
            .into_iter()
            .map(|(partition, offset)| (partition.partition, offset.expect("the partition has an end").offset))
            .collect()
    })
}

/// What a group has committed.
pub fn group_offsets(group: &str, topic: &str) -> BTreeMap<i32, i64> {
    let listed =
        wait_for(async { connect(group).await.admin().list_consumer_group_offsets(group, Default::default()).await });
    let listed = listed.expect("the broker answers");
    listed
        .into_iter()
        .filter(|(partition, _)| partition.topic == topic)
        .filter_map(|(partition, committed)| Some((partition.partition, committed.ok()?.offset?)))
        .collect()
}

/// Nobody may do this with a topic any more (Read, Describe), and everybody may do the rest.
pub fn deny_topic(name: &str, operation: &str) {
    acl(name, &["--add", "--topic", name, "--allow-principal", "User:*", "--operation", "All"]);
    acl(name, &["--add", "--topic", name, "--deny-principal", "User:*", "--operation", operation]);
}

/// Everybody may do everything with a topic again.
pub fn allow_topic(name: &str) {
    acl(name, &["--remove", "--force", "--topic", name]);
}

/// Nobody may join a group, or tell it an offset.
pub fn deny_group(name: &str) {
    acl(name, &["--add", "--group", name, "--deny-principal", "User:*", "--operation", "Read"]);
}

fn acl(name: &str, arguments: &[&str]) {
    let servers = servers();
    // Kafka 4 has moved it.
    let class = match servers.kafka_major_of(name) {
        ..4 => "kafka.admin.AclCommand",
        _ => "org.apache.kafka.tools.AclCommand",
    };
    servers.kafka_tool_of(name, class, &[&["--bootstrap-server", servers.brokers_of(name)], arguments].concat(), b"");
}

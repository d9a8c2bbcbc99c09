//! Three brokers that are one cluster, started by the first test that wants them.
//!
//! All that is there has a name that begins with [`super::servers::CLUSTER`]. Its tests run one after the other, and each leaves all
//! brokers up.

use super::broker::{connect, wait_for};
use super::servers::servers;
use super::worker::signal;
use super::{LIMIT, eventually};
use krafka::admin::{AlterPartitionReassignmentsOptions, ElectionType, TopicPartition};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

/// How many brokers there are.
pub const N_BROKERS: i32 = 3;

/// The cluster.
pub struct Cluster {
    directory: PathBuf,
    brokers: String,
}

static TURN: Mutex<()> = Mutex::new(());

/// Held for as long as a test uses the cluster, which nobody else does meanwhile.
pub struct ClusterTurn(#[allow(dead_code)] MutexGuard<'static, ()>);

impl ClusterTurn {
    /// Waits for the test before. All brokers are up.
    pub fn wait() -> ClusterTurn {
        let turn = ClusterTurn(TURN.lock().unwrap_or_else(PoisonError::into_inner));
        // The one before may have failed.
        let cluster = cluster();
        for broker in 1..=N_BROKERS {
            cluster.thaw(broker);
        }
        cluster.service(&["up"]);
        turn
    }
}

/// The cluster, up since the first call, until this process ends.
pub fn cluster() -> &'static Cluster {
    static STARTED: OnceLock<Cluster> = OnceLock::new();
    STARTED.get_or_init(|| {
        let mut cluster = Cluster { directory: servers().directory().join("cluster"), brokers: String::new() };
        if cluster.directory.join("settings").exists() {
            // A killed run has left one.
            cluster.service(&["down"]);
        }
        cluster.service(&["up", "--postgres", "none", "--brokers", &N_BROKERS.to_string()]);
        let environment = cluster.service(&["env"]);
        let brokers = environment.lines().find_map(|line| line.strip_prefix("KAFKA_BROKERS="));
        cluster.brokers = brokers.expect("the cluster is up").to_owned();
        cluster
    })
}

/// A broker's name for `dev/services`; the first is 1.
fn name(broker: i32) -> String {
    if broker == 1 { "kafka".to_owned() } else { format!("kafka{broker}") }
}

impl Cluster {
    /// Bootstrap servers: all brokers, the first one first.
    pub fn brokers(&self) -> &str {
        &self.brokers
    }

    /// Where `dev/services` keeps its state.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Where one broker is.
    pub fn address(&self, broker: i32) -> &str {
        self.brokers.split(',').nth(broker as usize - 1).expect("there is such a broker")
    }

    /// SIGTERM: leaderships are handed over before it ends.
    pub fn stop(&self, broker: i32) {
        self.service(&["stop", &name(broker)]);
    }

    /// SIGKILL.
    pub fn kill(&self, broker: i32) {
        self.service(&["kill", &name(broker)]);
    }

    /// Starts one that is down.
    pub fn start(&self, broker: i32) {
        self.service(&["start", &name(broker)]);
    }

    /// SIGSTOP: its kernel goes on taking what is sent to it.
    pub fn freeze(&self, broker: i32) {
        signal(self.pid(broker).expect("the broker runs"), "STOP");
    }

    /// SIGCONT, if it is there.
    pub fn thaw(&self, broker: i32) {
        if let Some(pid) = self.pid(broker) {
            signal(pid, "CONT");
        }
    }

    fn pid(&self, broker: i32) -> Option<u32> {
        let pid = std::fs::read_to_string(self.directory.join(format!("{}.pid", name(broker)))).ok()?;
        Some(pid.trim().parse().expect("a pid file holds a number"))
    }

    fn service(&self, arguments: &[&str]) -> String {
        let owner = std::process::id().to_string();
        // It ends with this process, however that ends.
        servers().service_in(&self.directory, arguments, &[("SERVICES_OWNER_PID", &owner), ("KAFKA_PORT", "")])
    }

    /// Who leads a partition, and who is in sync with it. Asked of any broker that answers.
    pub fn leader_and_isr(&self, topic: &str, partition: i32) -> Option<(i32, Vec<i32>)> {
        wait_for(async {
            let admin = connect(topic).await.admin();
            let described = admin.describe_topics([topic], Default::default()).await.ok()?;
            let described = described.get(topic)?.as_ref().ok()?;
            let partition = described.partitions.iter().find(|known| known.partition == partition)?;
            Some((partition.leader?, partition.isr.clone()))
        })
    }

    /// Waits until a partition has this leader.
    pub fn await_leader(&self, topic: &str, partition: i32, leader: i32) {
        eventually(&format!("broker {leader} leads {topic}/{partition}"), LIMIT, || {
            self.leader_and_isr(topic, partition).is_some_and(|(found, _)| found == leader)
        });
    }

    /// Waits until all partitions of a topic have all brokers in sync.
    pub fn await_in_sync(&self, topic: &str, n_partitions: i32) {
        eventually(&format!("all brokers are in sync with {topic}"), LIMIT, || {
            (0..n_partitions).all(|partition| {
                self.leader_and_isr(topic, partition).is_some_and(|(_, isr)| isr.len() == N_BROKERS as usize)
            })
        });
    }

    /// Makes a broker the preferred leader of a partition that all brokers have, and has it elected.
    pub fn lead(&self, topic: &str, partition: i32, leader: i32) {
        let replicas = (0..N_BROKERS).map(|idx| (leader - 1 + idx) % N_BROKERS + 1).collect::<Vec<_>>();
        let place = TopicPartition::new(topic, partition);
        wait_for(async {
            let admin = connect(topic).await.admin();
            let target = [(place.clone(), Some(replicas))];
            let changed =
                admin.alter_partition_reassignments(target, AlterPartitionReassignmentsOptions::default()).await;
            for (_, result) in changed.expect("the controller answers") {
                result.expect("the replicas can be put into another order");
            }
        });
        eventually(&format!("broker {leader} is elected for {topic}/{partition}"), LIMIT, || {
            self.elect(topic, partition, ElectionType::Preferred);
            self.leader_and_isr(topic, partition).is_some_and(|(found, _)| found == leader)
        });
    }

    /// Asks for an election; whether it was held.
    pub fn elect(&self, topic: &str, partition: i32, kind: ElectionType) -> bool {
        wait_for(async {
            let admin = connect(topic).await.admin();
            let places = Some(vec![TopicPartition::new(topic, partition)]);
            let elected = admin.elect_leaders(kind, places, Default::default()).await;
            elected.is_ok_and(|elected| elected.into_values().all(|result| result.is_ok()))
        })
    }
}

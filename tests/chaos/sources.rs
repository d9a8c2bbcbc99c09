//! The sources of chaos. Each does its harm, waits until it is seen to have done it, heals, and waits for a commit.

use crate::field::{Field, SESSION_TIMEOUT, Setup, Sharing, lock};
use crate::harness::ledger::Target;
use crate::harness::worker::signal;
use crate::harness::{Fault, LIMIT, broker, eventually, eventually_some, servers};
use std::thread;
use std::time::{Duration, Instant};

/// How long a source waits between two looks.
const LOOK: Duration = Duration::from_millis(50);

/// Declares the sources, and the list of all of them.
macro_rules! sources {
    ($($name:ident),* $(,)?) => {
        /// A source. Bad records are always among the rest, and have none.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Source {
            $($name),*
        }

        impl Source {
            /// All of them.
            pub const ALL: &[Source] = &[$(Source::$name),*];
        }
    };
}

sources! {
    Kill9,
    Sigterm,
    Freeze,
    JoinAndLeave,
    PostgresImmediate,
    PostgresFast,
    AsyncCrash,
    TerminateInCopy,
    TerminateWaiting,
    TerminateInCommit,
    CommitCutBefore,
    CommitCutDuring,
    CommitCutAfter,
    CommitSwallowed,
    PostgresLatency,
    PostgresSlices,
    PostgresCut,
    PostgresSwallow,
    KafkaLatency,
    KafkaSlices,
    KafkaCut,
    KafkaSwallow,
    BrokerKill,
    BrokerFreeze,
    Ddl,
    SharedRow,
    DiskFull,
    AddPartitions,
}

use Source::*;

impl Source {
    /// As in the report.
    pub fn name(self) -> String {
        let mut name = String::new();
        for c in format!("{self:?}").chars() {
            if c.is_uppercase() && !name.is_empty() {
                name.push('-');
            }
            name.push(c.to_ascii_lowercase());
        }
        name
    }

    /// Whether it can be had in such an episode, beside those that are chosen already.
    pub fn fits(self, setup: &Setup, chosen: &[Source]) -> bool {
        let restarts = |source: &Source| matches!(source, PostgresImmediate | PostgresFast | AsyncCrash);
        match self {
            JoinAndLeave | Freeze => setup.sharing != Sharing::All,
            AsyncCrash => !setup.synchronous_commit && !chosen.contains(&DiskFull),
            // What was on the small disk is gone when the server has been restarted.
            PostgresImmediate | PostgresFast => !chosen.contains(&DiskFull),
            DiskFull => !chosen.iter().any(restarts),
            _ => true,
        }
    }

    /// Does it.
    pub fn fire(self, field: &Field<'_>, random: &mut fastrand::Rng) {
        match self {
            Kill9 => kill9(field, random),
            Sigterm => sigterm(field),
            Freeze => freeze(field, random),
            JoinAndLeave => join_and_leave(field, random),
            PostgresImmediate => restart_postgres(field, "immediate"),
            PostgresFast => restart_postgres(field, "fast"),
            AsyncCrash => async_crash(field),
            TerminateInCopy => terminate(field, "state = 'active' AND query LIKE 'COPY%'"),
            TerminateWaiting => terminate(field, "state = 'idle in transaction'"),
            TerminateInCommit => terminate_in_commit(field),
            CommitCutBefore => commit_fault(field, Fault::CutBeforeCommit),
            CommitCutDuring => commit_fault(field, Fault::CutDuringCommit),
            CommitCutAfter => commit_fault(field, Fault::CutAfterCommit),
            CommitSwallowed => commit_fault(field, Fault::SwallowAnswer),
            PostgresLatency | KafkaLatency => {
                let by = Duration::from_millis(random.u64(5..80));
                spell(|on| self.wire(field).delay(if on { by } else { Duration::ZERO }));
            }
            PostgresSlices | KafkaSlices => spell(|on| self.wire(field).slice(on)),
            PostgresSwallow | KafkaSwallow => spell(|on| self.wire(field).swallow(on)),
            PostgresCut | KafkaCut => {
                let before = self.wire(field).n_cut();
                self.wire(field).cut_after(random.i64(1..60_000));
                eventually("connections are cut", LIMIT, || self.wire(field).n_cut() > before);
            }
            BrokerKill => kill_broker(field),
            BrokerFreeze => freeze_broker(field),
            Ddl => ddl(field),
            SharedRow => share_row(field),
            DiskFull => fill_disk(field),
            AddPartitions => add_partition(field),
        }
        field.tally.recovered(&self.name(), field.await_commit());
        field.tally.add(format!("fault: {}", self.name()), 1);
    }

    fn wire<'a>(self, field: &'a Field<'_>) -> &'a crate::wire::Wire {
        match self {
            KafkaLatency | KafkaSlices | KafkaCut | KafkaSwallow => field.kafka_wire,
            _ => &field.postgres_wire,
        }
    }
}

/// Switches something on for some seconds, and until it has done something; `switch` answers how much it has done so far.
fn spell(switch: impl Fn(bool) -> u64) {
    let (begun, before) = (Instant::now(), switch(true));
    eventually("the proxy does what it was asked for", LIMIT, || {
        switch(true) > before && begun.elapsed() > Duration::from_secs(3)
    });
    switch(false);
}

fn kill9(field: &Field<'_>, random: &mut fastrand::Rng) {
    let mut slot = field.slot(0);
    field.kill9(&mut slot);
    thread::sleep(Duration::from_millis(random.u64(0..1_500)));
    field.start(&mut slot);
}

fn sigterm(field: &Field<'_>) {
    let mut slot = field.slot(0);
    field.stop(&mut slot);
    field.start(&mut slot);
}

/// For longer than the group waits: when it thaws it is a zombie, and says so. Another worker may have taken over by then.
fn freeze(field: &Field<'_>, random: &mut fastrand::Rng) {
    let _turn = lock(&field.others);
    let has_heir = random.bool();
    if has_heir {
        field.start(&mut field.slot(1));
        eventually("the second worker has a share", 2 * LIMIT, || {
            field.slot(1).worker.as_ref().is_some_and(|worker| worker.count("claimed partition=") > 0)
        });
    }
    become_zombie(field, random);
    if has_heir {
        field.stop(&mut field.slot(1));
    }
}

fn become_zombie(field: &Field<'_>, random: &mut fastrand::Rng) {
    let mut slot = field.slot(0);
    let worker = slot.worker.as_mut().expect("the first worker is always there");
    worker.wait_for_log("claimed partition=", LIMIT);
    // Again, if the broker was away as well and did not notice.
    let is_zombie = (0..5).any(|_| {
        let before = ["fenced partition=", "lost partition="].map(|sign| worker.count(sign));
        worker.signal("STOP");
        thread::sleep(SESSION_TIMEOUT + Duration::from_millis(random.u64(1_000..5_000)));
        worker.signal("CONT");
        let thawed_at = Instant::now();
        std::iter::from_fn(|| (thawed_at.elapsed() < Duration::from_secs(20)).then(|| thread::sleep(LOOK)))
            .any(|()| ["fenced partition=", "lost partition="].map(|sign| worker.count(sign)) != before)
    });
    assert!(is_zombie, "a worker that was frozen never said that it had lost its partitions");
}

/// The second and the third worker come, get a share, and go in either way.
fn join_and_leave(field: &Field<'_>, random: &mut fastrand::Rng) {
    let _turn = lock(&field.others);
    let both = random.bool();
    for nth in 1..=1 + usize::from(both) {
        field.start(&mut field.slot(nth));
    }
    for nth in 1..=1 + usize::from(both) {
        eventually("it has a share", 2 * LIMIT, || {
            field.slot(nth).worker.as_ref().is_some_and(|worker| worker.count("claimed partition=") > 0)
        });
        let mut slot = field.slot(nth);
        thread::sleep(Duration::from_millis(random.u64(0..2_000)));
        if random.bool() { field.kill9(&mut slot) } else { field.stop(&mut slot) }
    }
}

fn restart_postgres(field: &Field<'_>, mode: &str) {
    let _turn = lock(&field.postgres);
    servers().service(&["restart", "postgres", "--mode", mode]);
}

fn number(field: &Field<'_>, sql: &str) -> Option<i64> {
    field.stage.try_database().ok()?.query_one(sql, &[]).ok().map(|row| row.get(0))
}

/// Runs a statement, once the server takes it.
fn execute(field: &Field<'_>, sql: &str) {
    eventually(sql, LIMIT, || field.stage.try_database().and_then(|mut client| client.batch_execute(sql)).is_ok());
}

/// The server dies with commits that it has answered and not yet written.
fn async_crash(field: &Field<'_>) {
    let _turn = lock(&field.postgres);
    let seen = "SELECT coalesce(sum(next_offset), 0)::bigint FROM writer_offsets";
    execute(field, "ALTER SYSTEM SET wal_writer_delay = '10s'");
    execute(field, "SELECT pg_reload_conf()");
    let forgotten = (0..10).any(|_| {
        field.await_commit();
        thread::sleep(Duration::from_millis(1_500));
        let before = number(field, seen);
        servers().service(&["kill", "postgres"]);
        // Nobody can have written anything again when it answers for the first time: this connection is the first.
        field.postgres_wire.cut_after(1);
        servers().service(&["start", "postgres"]);
        let after = eventually_some("PostgreSQL answers", LIMIT, || number(field, seen));
        before.is_some_and(|before| after < before)
    });
    assert!(forgotten, "no crash has lost a commit");
    execute(field, "ALTER SYSTEM RESET wal_writer_delay");
    execute(field, "SELECT pg_reload_conf()");
}

/// Ends backends of workers that are in such a state.
fn terminate(field: &Field<'_>, state: &str) {
    let sql = format!(
        "SELECT count(*) FILTER (WHERE pg_terminate_backend(pid)) FROM pg_stat_activity \
         WHERE application_name LIKE 'stock-db-writer%' AND {state}"
    );
    let mut client = None;
    let begun = Instant::now();
    while begun.elapsed() < LIMIT {
        let connection: &mut Option<postgres::Client> = &mut client;
        if connection.is_none() {
            *connection = field.stage.try_database().ok();
        }
        match connection.as_mut().map(|client| client.query_one(&sql, &[])) {
            Some(Ok(row)) if row.get::<_, i64>(0) > 0 => return,
            Some(Ok(_)) => thread::sleep(Duration::from_millis(1)),
            _ => *connection = None,
        }
    }
    panic!("no backend was ever seen with {state}");
}

/// COMMIT takes a while, so that it can be hit.
fn terminate_in_commit(field: &Field<'_>) {
    for sql in
        ["ALTER SYSTEM SET commit_delay = 90000", "ALTER SYSTEM SET commit_siblings = 0", "SELECT pg_reload_conf()"]
    {
        execute(field, sql);
    }
    terminate(field, "state = 'active' AND query LIKE '%COMMIT' AND wait_event IS NOT NULL");
    for sql in ["ALTER SYSTEM RESET commit_delay", "ALTER SYSTEM RESET commit_siblings", "SELECT pg_reload_conf()"] {
        execute(field, sql);
    }
}

fn commit_fault(field: &Field<'_>, fault: Fault) {
    let before = field.commits.fired(fault);
    field.commits.plan(fault);
    eventually("the fault fires at a COMMIT of rows", 2 * LIMIT, || field.commits.fired(fault) > before);
}

fn kill_broker(field: &Field<'_>) {
    let _turn = lock(&field.kafka);
    servers().service(&["kill", "kafka"]);
    servers().service(&["start", "kafka"]);
}

fn freeze_broker(field: &Field<'_>) {
    let _turn = lock(&field.kafka);
    let pid = std::fs::read_to_string(&servers().kafka_pid_file).expect("the broker runs");
    let pid = pid.trim().parse().expect("a process id is a number");
    signal(pid, "STOP");
    thread::sleep(Duration::from_secs(4));
    signal(pid, "CONT");
}

/// A statement every 0.3 s that needs the table for itself.
fn ddl(field: &Field<'_>) {
    let (begun, mut n_done) = (Instant::now(), 0);
    while n_done < 16 {
        for sql in
            ["ALTER TABLE stock_prices ADD COLUMN note text", "ALTER TABLE stock_prices DROP COLUMN IF EXISTS note"]
        {
            // It may itself be the victim of a deadlock, or of a restart.
            if field.stage.try_database().and_then(|mut client| client.batch_execute(sql)).is_ok() {
                n_done += 1;
            }
            thread::sleep(Duration::from_millis(300));
        }
        assert!(begun.elapsed() < 2 * LIMIT, "only {n_done} statements were done");
    }
    execute(field, "ALTER TABLE stock_prices DROP COLUMN IF EXISTS note");
}

/// Every batch updates one row in a trigger: writers that COPY side by side block each other, which only the lane knows.
fn share_row(field: &Field<'_>) {
    let schema = &field.stage.name;
    execute(
        field,
        &format!(
            "CREATE TABLE shared (n bigint); INSERT INTO shared VALUES (0); \
             CREATE FUNCTION bump() RETURNS trigger LANGUAGE plpgsql SET search_path = {schema} AS \
               $$ BEGIN UPDATE shared SET n = n + 1; RETURN NULL; END $$; \
             CREATE TRIGGER bump AFTER INSERT ON stock_prices FOR EACH STATEMENT EXECUTE FUNCTION bump()"
        ),
    );
    let begun = Instant::now();
    eventually("batches share a row", 2 * LIMIT, || {
        begun.elapsed() > Duration::from_secs(4) && number(field, "SELECT n FROM shared").is_some_and(|n| n >= 20)
    });
    execute(field, "DROP TRIGGER bump ON stock_prices; DROP FUNCTION bump(); DROP TABLE shared");
}

/// The dead letters' table is on a small disk for a while, which somebody else fills.
fn fill_disk(field: &Field<'_>) {
    let _turn = lock(&field.postgres);
    let sockets = field.stage.database().query_one("SHOW unix_socket_directories", &[]).expect("PostgreSQL answers");
    let small = std::path::PathBuf::from(sockets.get::<_, String>(0)).join("small");
    let space = format!("s{}", field.stage.name);
    for sql in [
        format!("CREATE TABLESPACE {space} LOCATION '{}'", small.display()),
        format!("ALTER TABLE writer_dead_letters SET TABLESPACE {space}"),
        format!("CREATE TABLE filler (x text) TABLESPACE {space}"),
        "ALTER TABLE filler ALTER x SET STORAGE PLAIN".to_owned(),
    ] {
        execute(field, &sql);
    }
    let before = field.said("SQLSTATE 53100");
    // To the last page, however large the last row is.
    for length in [4000, 400] {
        let fill = format!("INSERT INTO filler SELECT repeat('x', {length}) FROM generate_series(1, 100)");
        eventually("the disk is full", LIMIT, || {
            let filled = field.stage.try_database().and_then(|mut client| client.batch_execute(&fill));
            filled.is_err_and(|error| error.code().is_some_and(|code| code.code() == "53100"))
        });
    }
    eventually("a worker notices", 2 * LIMIT, || field.said("SQLSTATE 53100") > before);
    for sql in [
        "DROP TABLE filler".to_owned(),
        "ALTER TABLE writer_dead_letters SET TABLESPACE pg_default".to_owned(),
        format!("DROP TABLESPACE {space}"),
    ] {
        execute(field, &sql);
    }
}

/// A partition more, which is fed and read from its beginning.
fn add_partition(field: &Field<'_>) {
    let _turn = lock(&field.kafka);
    let topic = &field.stage.topic;
    let partition = field.ledger.pages().iter().filter(|page| page.topic == *topic).count() as i32;
    broker::add_partitions(topic, partition + 1);
    field.ledger.feed(Target::Prices, topic, partition, 200);
    let sql = format!("SELECT count(*) FROM writer_offsets WHERE partition = {partition} AND next_offset > 0");
    eventually("the new partition is read", 2 * LIMIT, || number(field, &sql).is_some_and(|n| n > 0));
}

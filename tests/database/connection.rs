//! Connections: lost, silent, refused, cancelled, and what they are set to.

use super::*;

#[test]
fn a_killed_connection_is_a_connection_fault_and_the_next_batch_reconnects() {
    let mut fixture = Fixture::new();
    let epoch = fixture.claim(1);
    let mut sink = fixture.sink();
    let kill =
        "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE application_name = 'stock-db-writer @'";
    let batch = prices(epoch, &[(0, &[PRICE])]);
    let mut work = fixture.work(&batch);
    // Between two batches.
    sink.stage(&mut work).expect("the rows are taken");
    sink.rollback();
    assert!(fixture.number(kill) > 0);
    assert_eq!(sink.stage(&mut work).expect_err("killed").fault, Fault::Connection);
    // Before the offsets move.
    sink.stage(&mut work).expect("a new connection");
    assert!(fixture.number(kill) > 0);
    assert_eq!(sink.advance(&work).expect_err("killed").fault, Fault::Connection);
    sink.rollback();
    // Before COMMIT is answered: in doubt, and the truth says what happened.
    sink.stage(&mut work).expect("a new connection");
    assert!(sink.advance(&work).expect("no error"));
    assert!(fixture.number(kill) > 0);
    let doubt = sink.commit(Seq(0), &batch);
    assert!(matches!(&doubt, Err(CommitFailure::InDoubt(failure)) if failure.fault == Fault::Connection), "{doubt:?}");
    let truth = sink.truth(&batch).expect("a new connection");
    assert_eq!(judge(batch.intervals(), &truth), Verdict::NotApplied);
    assert!(fixture.write(&mut sink, &batch));
}

#[test]
fn a_watchdog_can_cancel_what_a_writer_runs() {
    let mut fixture = Fixture::new();
    let epoch = fixture.claim(1);
    fixture.sql(
        "CREATE FUNCTION @.f() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_sleep(60); RETURN NEW; END $$; \
         CREATE TRIGGER t BEFORE INSERT ON @.stock_prices FOR EACH ROW EXECUTE FUNCTION @.f()",
    );
    let heartbeat = Arc::new(Heartbeat::new("writer-0"));
    let mut sink = fixture.database.sink(heartbeat.clone());
    let batch = prices(epoch, &[(0, &[PRICE])]);
    let mut work = fixture.work(&batch);
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| (sink.stage(&mut work).expect_err("cancelled"), sink));
        eventually(
            "a copy",
            || matches!(heartbeat.state(), (Doing::Calling("copy"), since) if since.as_millis() > 200),
        );
        assert!(heartbeat.cancel_after(Duration::ZERO));
        let (cancelled, mut sink) = writer.join().expect("no panic");
        assert_eq!((cancelled.fault, cancelled.sqlstate.as_deref()), (Fault::Statement, Some("57014")));
        assert_eq!(heartbeat.state().0, Doing::Waiting);
        fixture.sql("DROP TRIGGER t ON @.stock_prices");
        assert!(fixture.write(&mut sink, &batch));
    });
}

#[test]
fn a_session_has_its_settings_from_the_first_statement_on() {
    let mut fixture = Fixture::with(&["database.lock_timeout_ms=1500", "database.statement_timeout_ms=34000"]);
    // A function sees the settings of whoever calls it.
    fixture.sql(
        "CREATE TABLE @.seen (name text, value text); \
         CREATE FUNCTION @.f() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN \
           INSERT INTO @.seen SELECT name, current_setting(name) FROM pg_settings; RETURN NEW; END $$; \
         CREATE TRIGGER t BEFORE INSERT ON @.stock_prices FOR EACH ROW EXECUTE FUNCTION @.f()",
    );
    let epoch = fixture.claim(1);
    assert!(fixture.write(&mut fixture.sink(), &prices(epoch, &[(0, &[PRICE])])));
    let seen = fixture.texts(
        "SELECT name || '=' || value FROM @.seen WHERE name IN ('lock_timeout', 'statement_timeout', 'TimeZone', \
         'idle_in_transaction_session_timeout', 'client_connection_check_interval', 'tcp_keepalives_idle', \
         'tcp_keepalives_interval', 'tcp_keepalives_count', 'tcp_user_timeout', 'search_path', 'DateStyle', \
         'synchronous_commit', 'default_transaction_isolation') ORDER BY name COLLATE \"C\"",
    );
    // It began with PostgreSQL 14.
    let has_check = fixture.server_major() >= 14;
    let wanted: Vec<&str> = [
        "DateStyle=ISO, YMD",
        "TimeZone=UTC",
        "client_connection_check_interval=5s",
        "default_transaction_isolation=read committed",
        "idle_in_transaction_session_timeout=1min",
        "lock_timeout=1500ms",
        "search_path=pg_catalog",
        "statement_timeout=34s",
        "synchronous_commit=on",
        "tcp_keepalives_count=3",
        "tcp_keepalives_idle=10",
        "tcp_keepalives_interval=5",
        "tcp_user_timeout=20000",
    ]
    .into_iter()
    .filter(|setting| has_check || !setting.starts_with("client_connection_check_interval"))
    .collect();
    assert_eq!(seen, wanted);
}

#[test]
fn connections_are_held_and_counted() {
    let mut fixture = Fixture::with(&["writers.count=1"]);
    let epoch = fixture.claim(1);
    let (mut sink, mut ledger) = (fixture.sink(), fixture.database.ledger());
    for offset in 0..5 {
        assert!(fixture.write(&mut sink, &prices(epoch, &[(offset, &[PRICE])])));
        ledger.standings().expect("readable");
    }
    let open = fixture.number("SELECT count(*) FROM pg_stat_activity WHERE application_name = 'stock-db-writer @'");
    assert!(open <= 3, "{open} connections for one writer");
    let others = [fixture.sink(), fixture.sink()];
    let mut refused = Vec::new();
    for mut other in others {
        refused.extend(other.truth(&prices(epoch, &[(0, &[])])).err());
        std::mem::forget(other);
    }
    assert!(matches!(&refused[..], [Failure { fault: Fault::Resource, .. }]), "{refused:?}");
}

#[test]
fn a_mute_server_is_given_up_in_time_again_and_again() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let port = listener.local_addr().expect("bound").port();
    let accepted = std::thread::spawn(move || {
        // Held open, never answered.
        let sockets: Vec<_> = listener.incoming().take(3).collect();
        std::thread::sleep(Duration::from_secs(60));
        drop(sockets);
    });
    let config = config(&format!("postgresql://u@127.0.0.1:{port}/x"), "unused", &[]);
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                let began = Instant::now();
                let refused = Database::open(&config, "test").expect_err("nobody answers");
                assert_eq!(refused.fault, Fault::Connection);
                assert!(refused.message.contains(&format!("database \"x\" at 127.0.0.1:{port}")), "{refused}");
                let took = began.elapsed();
                assert!(took > Duration::from_secs(9) && took < Duration::from_secs(12), "{took:?}");
            });
        }
    });
    assert!(!accepted.is_finished());
}

/// Stands between a client and the server, and can fall silent.
struct Proxy {
    port: u16,
    is_frozen: Arc<AtomicBool>,
    clients: Arc<Mutex<Vec<TcpStream>>>,
}

impl Proxy {
    fn new() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let server = url();
        let server = server.rsplit_once('@').and_then(|(_, rest)| rest.split_once('/')).expect("a host in the URL").0;
        let (server, port) = (server.to_owned(), listener.local_addr().expect("bound").port());
        let proxy = Proxy { port, is_frozen: Arc::default(), clients: Arc::default() };
        let (is_frozen, clients) = (proxy.is_frozen.clone(), proxy.clients.clone());
        std::thread::spawn(move || {
            for client in listener.incoming() {
                let client = client.expect("accepted");
                let backend = TcpStream::connect(&server).expect("the server answers");
                let clone = |stream: &TcpStream| stream.try_clone().expect("cloned");
                clients.lock().expect("no panic").push(clone(&client));
                for (from, to) in [(clone(&client), clone(&backend)), (backend, client)] {
                    let is_frozen = is_frozen.clone();
                    std::thread::spawn(move || forward(from, to, &is_frozen));
                }
            }
        });
        proxy
    }

    /// A database behind it, with the fixture's tables.
    fn open(&self, fixture: &Fixture, set: &[&str]) -> Database {
        let url = url();
        let (before, after) = (url.split_once("127.0.0.1:").expect("a loopback server"), url.rsplit_once('/'));
        let url = format!("{}127.0.0.1:{}/{}", before.0, self.port, after.expect("a database in the URL").1);
        Database::open(&config(&url, &fixture.schema, set), "behind a proxy").expect("the server answers")
    }

    fn freeze(&self) {
        self.is_frozen.store(true, Ordering::SeqCst);
    }

    /// Ends the clients' connections; the server hears nothing of it.
    fn cut(&self) {
        self.freeze();
        // Longer than a read lasts.
        std::thread::sleep(Duration::from_millis(100));
        for client in self.clients.lock().expect("no panic").drain(..) {
            client.shutdown(Shutdown::Both).expect("it was open");
        }
    }
}

fn forward(mut from: TcpStream, mut to: TcpStream, is_frozen: &AtomicBool) {
    from.set_read_timeout(Some(Duration::from_millis(20))).expect("settable");
    let mut buffer = [0; 1 << 16];
    loop {
        if is_frozen.load(Ordering::SeqCst) {
            std::thread::sleep(Duration::from_secs(600));
        }
        match from.read(&mut buffer) {
            Ok(0) => break,
            Ok(length) if to.write_all(&buffer[..length]).is_ok() => {}
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
            _ => break,
        }
    }
    let _ = to.shutdown(Shutdown::Both);
}

#[test]
fn a_server_that_falls_silent_keeps_nobody_waiting_for_ever() {
    let fixture = Fixture::new();
    let epoch = fixture.claim(1);
    let proxy = Proxy::new();
    let set = ["database.statement_timeout_ms=1000", "database.lock_timeout_ms=500", "writers.max_hold_ms=500"];
    let database = proxy.open(&fixture, &set);
    let sink = || database.sink(Arc::new(Heartbeat::new("writer-0")));
    let (mut staging, mut rolling_back, mut ledger) = (sink(), sink(), database.ledger());
    let batch = prices(epoch, &[(0, &[PRICE])]);
    let mut work = fixture.work(&batch);
    for sink in [&mut staging, &mut rolling_back] {
        sink.stage(&mut work).expect("the rows are taken");
    }
    staging.rollback();
    ledger.standings().expect("readable");
    proxy.freeze();
    std::thread::sleep(Duration::from_millis(50));
    let began = Instant::now();
    rolling_back.rollback();
    let took = began.elapsed();
    assert!(took > Duration::from_secs(1) && took < Duration::from_secs(4), "{took:?}");
    let silent = |failure: Failure| {
        assert_eq!(failure.fault, Fault::Connection);
        assert!(began.elapsed() < Duration::from_secs(22), "{:?}", began.elapsed());
    };
    std::thread::scope(|scope| {
        scope.spawn(|| silent(ledger.standings().expect_err("nobody answers")));
        scope.spawn(|| silent(staging.stage(&mut work).expect_err("nobody answers")));
    });
    let began = Instant::now();
    drop((staging, rolling_back, ledger, database));
    assert!(began.elapsed() < Duration::from_millis(500), "giving up waits for nothing");
}

#[test]
fn our_own_lost_session_is_no_second_process() {
    let fixture = Fixture::new();
    let proxy = Proxy::new();
    let mut ledger = proxy.open(&fixture, &[]).ledger();
    assert!(ledger.lock_pipeline().expect("free"));
    proxy.cut();
    assert_eq!(ledger.lock_pipeline().expect_err("cut").fault, Fault::Connection);
    let other = fixture.database.ledger().lock_pipeline();
    assert!(!other.expect("an answer"), "the server has not noticed, and its session holds the lock still");
    proxy.is_frozen.store(false, Ordering::SeqCst);
    assert_eq!(ledger.lock_pipeline().expect_err("it is being ended").fault, Fault::Lock);
    eventually("the lock", || ledger.lock_pipeline().unwrap_or(false));
}

#[test]
fn what_is_wrong_with_a_connection_is_known_at_once_by_its_name() {
    let server = url();
    let failure = |url: &str, set: &[&str]| Database::open(&config(url, "unused", set), "test").expect_err("refused");
    let at = |database: &str| format!("{}/{database}", server.rsplit_once('/').expect("a database in the URL").0);
    assert_eq!(failure(&at("no_such_database"), &[]).fault, Fault::DatabaseGone);
    let nobody = server.replace("postgres@", "no_such_role:hunter2@");
    let refused = failure(&nobody, &[]);
    assert_eq!((refused.fault, refused.sqlstate.as_deref()), (Fault::Permission, Some("28000")));
    assert!(!refused.message.contains("hunter2"));
    let closed = failure("postgresql://u@127.0.0.1:1/x", &[]);
    assert_eq!(closed.fault, Fault::Connection);
    assert!(closed.message.contains("refused"), "{closed}");
    // Plain text is never a fallback.
    let plain = failure(&server, &["database.tls=verify-full"]);
    assert!(plain.message.contains("offers no TLS"), "{plain}");
}

#[test]
fn a_read_only_server_is_the_wrong_node() {
    let mut fixture = Fixture::empty(&[]);
    let role = format!("{}_role", fixture.schema);
    fixture.sql(&format!("CREATE ROLE {role} LOGIN; ALTER ROLE {role} SET default_transaction_read_only = on"));
    let reader = url().replace("postgres@", &format!("{role}@"));
    let refused = Database::open(&config(&reader, "unused", &[]), "test").expect_err("read only");
    fixture.sql(&format!("DROP ROLE {role}"));
    assert_eq!(refused.fault, Fault::WrongNode);
}

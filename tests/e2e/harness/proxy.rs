//! A TCP proxy in front of PostgreSQL that understands enough of its protocol to act on COMMIT.
//!
//! A fault is planned, and fires at the next COMMIT of a transaction that has copied rows, or of any if that is asked for. A
//! test counts only if its fault
//! has fired. Plain connections and cancel requests pass through; a request for TLS is answered with "no".

use super::{LIMIT, eventually, servers};
use std::collections::{BTreeMap, VecDeque};
use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

const SSL_REQUEST: u32 = 80_877_103;
const GSS_REQUEST: u32 = 80_877_104;
/// ReadyForQuery, outside a transaction: the end of every answer to COMMIT.
const READY: [u8; 6] = [b'Z', 0, 0, 0, 5, b'I'];

/// What happens to one COMMIT.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The server has applied it; its answer is dropped and the connection cut.
    CutAfterCommit,
    /// The server never sees it; the connection is cut.
    CutBeforeCommit,
    /// The server gets it and the connection is cut at once: nobody knows.
    CutDuringCommit,
    /// The server has applied it; its answer is dropped and the connection stays open, mute.
    SwallowAnswer,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    Pass,
    /// Existing connections are cut, new ones are closed.
    Refuse,
    /// Nothing is passed on in either direction; new connections are taken and left alone.
    Mute,
}

/// The proxy. Its connections are cut when it is dropped.
pub struct Proxy {
    address: String,
    shared: Arc<Shared>,
}

struct Shared {
    state: Mutex<State>,
    closing: AtomicBool,
}

struct State {
    mode: Mode,
    planned: VecDeque<Fault>,
    // Whether a COMMIT without rows counts, too.
    at_any_commit: bool,
    fired: Vec<Fault>,
    row_commits: usize,
    /// Both ends of each open connection.
    connections: BTreeMap<usize, [TcpStream; 2]>,
    n_accepted: usize,
    /// Connections up to this one are mute for good.
    mute_up_to: usize,
    /// Falls mute in the middle of the next COPY.
    mutes_in_copy: bool,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn cut_all(&self) {
        for end in self.state().connections.values().flatten() {
            // It may have been closed by its peer.
            let _ = end.shutdown(Shutdown::Both);
        }
    }

    /// Waits while the connection is mute.
    fn let_pass(&self, number: usize) -> io::Result<()> {
        let is_mute = |state: MutexGuard<'_, State>| state.mode == Mode::Mute || number <= state.mute_up_to;
        while is_mute(self.state()) {
            if self.closing.load(Ordering::Relaxed) {
                return Err(io::ErrorKind::ConnectionAborted.into());
            }
            thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    }

    /// Whether this is the data of a COPY to fall mute in; then it is done.
    fn mutes_in_copy(&self) -> bool {
        let mut state = self.state();
        let is_meant = std::mem::take(&mut state.mutes_in_copy);
        if is_meant {
            state.mode = Mode::Mute;
        }
        is_meant
    }
}

impl Proxy {
    /// In front of the test database.
    pub fn start() -> Proxy {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
        let address = listener.local_addr().expect("it is bound").to_string();
        let state = State {
            mode: Mode::Pass,
            planned: VecDeque::new(),
            at_any_commit: false,
            fired: Vec::new(),
            row_commits: 0,
            connections: BTreeMap::new(),
            n_accepted: 0,
            mute_up_to: 0,
            mutes_in_copy: false,
        };
        let shared = Arc::new(Shared { state: Mutex::new(state), closing: AtomicBool::new(false) });
        thread::spawn({
            let shared = Arc::clone(&shared);
            move || {
                for client in listener.incoming() {
                    if shared.closing.load(Ordering::Relaxed) {
                        return;
                    }
                    let Ok(client) = client else { continue };
                    // Closed by being dropped.
                    if shared.state().mode == Mode::Refuse {
                        continue;
                    }
                    let shared = Arc::clone(&shared);
                    thread::spawn(move || Connection::serve(client, shared));
                }
            }
        });
        Proxy { address, shared }
    }

    /// Where it listens.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// The database's URL through the proxy.
    pub fn url(&self) -> String {
        servers().database_url_at(self.address())
    }

    /// Plans a fault for the next COMMIT of rows that has none yet.
    pub fn plan(&self, fault: Fault) {
        self.shared.state().planned.push_back(fault);
    }

    /// Plans a fault for the next COMMIT, whatever is in it.
    pub fn plan_at_any_commit(&self, fault: Fault) {
        let mut state = self.shared.state();
        state.at_any_commit = true;
        state.planned.push_back(fault);
    }

    /// How often this fault has fired.
    pub fn fired(&self, fault: Fault) -> usize {
        self.shared.state().fired.iter().filter(|fired| **fired == fault).count()
    }

    /// Waits until everything planned has fired.
    pub fn wait_until_fired(&self) {
        eventually("the planned fault fires at a COMMIT of rows", LIMIT, || self.shared.state().planned.is_empty());
    }

    /// COMMITs of transactions that had copied rows.
    pub fn row_commits(&self) -> usize {
        self.shared.state().row_commits
    }

    /// Open connections.
    pub fn connections(&self) -> usize {
        self.shared.state().connections.len()
    }

    /// Connections so far, open or not.
    pub fn accepted(&self) -> usize {
        self.shared.state().n_accepted
    }

    /// Cuts all connections and takes no new ones.
    pub fn refuse(&self) {
        self.shared.state().mode = Mode::Refuse;
        self.shared.cut_all();
    }

    /// Passes nothing on any more, while all connections stay open.
    pub fn mute(&self) {
        self.shared.state().mode = Mode::Mute;
    }

    /// Falls mute when half of a COPY's next data has been passed on.
    pub fn mute_in_copy(&self) {
        self.shared.state().mutes_in_copy = true;
    }

    /// Whether nothing is passed on.
    pub fn is_mute(&self) -> bool {
        self.shared.state().mode == Mode::Mute
    }

    /// Connections that are open now stay mute for good, though neither end is told; new ones pass.
    pub fn pass_new(&self) {
        let mut state = self.shared.state();
        state.mute_up_to = state.n_accepted;
        state.mode = Mode::Pass;
    }

    /// Cuts all connections; new ones pass.
    pub fn cut(&self) {
        self.shared.cut_all();
    }

    /// Back to normal. What was held back is passed on.
    pub fn pass(&self) {
        self.shared.state().mode = Mode::Pass;
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.shared.closing.store(true, Ordering::Relaxed);
        self.shared.cut_all();
        // Wakes the listener up.
        let _ = TcpStream::connect(&self.address);
    }
}

/// Both directions of one connection.
struct Connection {
    number: usize,
    client: TcpStream,
    server: TcpStream,
    shared: Arc<Shared>,
    /// Set before COMMIT is passed on: from then on the server's answers stay here.
    withheld: Mutex<Option<Fault>>,
}

impl Connection {
    fn serve(client: TcpStream, shared: Arc<Shared>) {
        let Ok(server) = TcpStream::connect(servers().database_address()) else { return };
        let ends = [&client, &server].map(|end| {
            end.set_nodelay(true).expect("a socket takes options");
            end.try_clone().expect("a socket can be cloned")
        });
        let number = {
            let mut state = shared.state();
            // Refused while it was being connected.
            if state.mode == Mode::Refuse {
                return;
            }
            state.n_accepted += 1;
            let number = state.n_accepted;
            state.connections.insert(number, ends);
            number
        };
        let connection = Connection { number, client, server, shared, withheld: Mutex::new(None) };
        thread::scope(|scope| {
            scope.spawn(|| {
                // An end by either side is normal here.
                let _ = connection.down();
                connection.cut();
            });
            let _ = connection.up();
            connection.cut();
        });
        connection.shared.state().connections.remove(&number);
    }

    fn cut(&self) {
        for stream in [&self.client, &self.server] {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }

    /// From the client to the server, message by message.
    fn up(&self) -> io::Result<()> {
        let (mut client, mut server) = (&self.client, &self.server);
        // Before the first tagged message: a startup, a cancel request, or questions about encryption.
        loop {
            let mut length = [0; 4];
            client.read_exact(&mut length)?;
            let mut body = vec![0; (u32::from_be_bytes(length) as usize).saturating_sub(4)];
            client.read_exact(&mut body)?;
            self.shared.let_pass(self.number)?;
            let code = body.first_chunk().map_or(0, |code| u32::from_be_bytes(*code));
            if code == SSL_REQUEST || code == GSS_REQUEST {
                client.write_all(b"N")?;
                continue;
            }
            server.write_all(&[&length[..], &body].concat())?;
            break;
        }
        let mut copied = false;
        loop {
            let mut head = [0; 5];
            client.read_exact(&mut head)?;
            let [tag, length @ ..] = head;
            let mut body = vec![0; (u32::from_be_bytes(length) as usize).saturating_sub(4)];
            client.read_exact(&mut body)?;
            self.shared.let_pass(self.number)?;
            let message = [&head[..], &body].concat();
            if tag == b'd' && self.shared.mutes_in_copy() {
                let (first, second) = message.split_at(message.len() / 2);
                server.write_all(first)?;
                self.shared.let_pass(self.number)?;
                server.write_all(second)?;
                continue;
            }
            let word = if tag == b'Q' { last_word(&body) } else { String::new() };
            match (tag, word.as_str()) {
                (b'c', _) => copied = true,
                (_, "ROLLBACK") => copied = false,
                _ => {}
            }
            let is_meant = matches!(word.as_str(), "COMMIT" | "END")
                && (std::mem::take(&mut copied) || self.shared.state().at_any_commit);
            if !is_meant || !self.commit(&message)? {
                server.write_all(&message)?;
            }
        }
    }

    /// A COMMIT that counts. `true` if it has been dealt with here.
    fn commit(&self, message: &[u8]) -> io::Result<bool> {
        let fault = {
            let mut state = self.shared.state();
            state.row_commits += 1;
            let fault = state.planned.front().copied();
            // The others count when the server has answered.
            if let Some(fault @ (Fault::CutBeforeCommit | Fault::CutDuringCommit)) = fault {
                state.planned.pop_front();
                state.fired.push(fault);
            }
            fault
        };
        let mut server = &self.server;
        match fault {
            None => Ok(false),
            Some(Fault::CutBeforeCommit) => Err(io::ErrorKind::ConnectionAborted.into()),
            Some(Fault::CutDuringCommit) => {
                server.write_all(message)?;
                Err(io::ErrorKind::ConnectionAborted.into())
            }
            Some(Fault::CutAfterCommit | Fault::SwallowAnswer) => {
                *self.withheld.lock().unwrap_or_else(PoisonError::into_inner) = fault;
                server.write_all(message)?;
                Ok(true)
            }
        }
    }

    /// From the server to the client.
    fn down(&self) -> io::Result<()> {
        let (mut client, mut server) = (&self.client, &self.server);
        let mut buffer = vec![0; 1 << 16];
        let mut answer = Vec::new();
        loop {
            let n_bytes = server.read(&mut buffer)?;
            // An end, too, is heard only where something passes.
            self.shared.let_pass(self.number)?;
            if n_bytes == 0 {
                return Ok(());
            }
            let withheld = *self.withheld.lock().unwrap_or_else(PoisonError::into_inner);
            let Some(fault) = withheld else {
                client.write_all(&buffer[..n_bytes])?;
                continue;
            };
            answer.extend_from_slice(&buffer[..n_bytes]);
            if answer.ends_with(&READY) {
                let applied = answer.windows(7).any(|bytes| bytes == b"COMMIT\0");
                let mut state = self.shared.state();
                if applied && state.planned.front() == Some(&fault) {
                    state.planned.pop_front();
                    state.fired.push(fault);
                }
                drop(state);
                if fault == Fault::CutAfterCommit {
                    return Ok(());
                }
            }
        }
    }
}

/// The last statement's first word, in capitals: of `COPY …; COMMIT` it is COMMIT.
fn last_word(body: &[u8]) -> String {
    let text = String::from_utf8_lossy(body);
    let text = text.trim_end_matches(['\0', ';', ' ', '\n']);
    let last = text.rsplit(';').next().unwrap_or_default();
    last.split_whitespace().next().unwrap_or_default().to_ascii_uppercase()
}

//! A TCP proxy that knows nothing of what it carries: it delays, slices, cuts and swallows bytes in both directions.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

/// The proxy. For as long as the process lives.
pub struct Wire {
    address: String,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    target: String,
    delay_ms: AtomicU64,
    is_slicing: AtomicBool,
    is_swallowing: AtomicBool,
    /// Bytes until every connection is cut, if above 0.
    budget: AtomicI64,
    // What it has done so far: pieces of data, and connections.
    delayed: AtomicU64,
    sliced: AtomicU64,
    swallowed: AtomicU64,
    cut: AtomicU64,
    connections: Mutex<BTreeMap<u64, [TcpStream; 2]>>,
    n_accepted: AtomicU64,
}

impl Wire {
    /// Listens at an address, and passes on to another.
    pub fn start(listen: &str, target: &str) -> Wire {
        let listener = TcpListener::bind(listen).unwrap_or_else(|error| panic!("listening at {listen}: {error}"));
        let address = listener.local_addr().expect("it is bound").to_string();
        let shared = Arc::new(Shared { target: target.to_owned(), ..Shared::default() });
        thread::spawn({
            let shared = Arc::clone(&shared);
            move || {
                for client in listener.incoming().map_while(Result::ok) {
                    let shared = Arc::clone(&shared);
                    thread::spawn(move || shared.serve(client));
                }
            }
        });
        Wire { address, shared }
    }

    /// Where it listens.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Everything comes so much later; 0: at once. Answers how many pieces of data have been delayed in all.
    pub fn delay(&self, by: Duration) -> u64 {
        self.shared.delay_ms.store(by.as_millis() as u64, Ordering::Relaxed);
        self.shared.delayed.load(Ordering::Relaxed)
    }

    /// Everything comes byte by byte, or as it is. Answers how many bytes have come alone in all.
    pub fn slice(&self, on: bool) -> u64 {
        self.shared.is_slicing.store(on, Ordering::Relaxed);
        self.shared.sliced.load(Ordering::Relaxed)
    }

    /// Nothing comes through, while all connections stay open. When that ends they are cut: bytes are missing. Answers how many
    /// pieces of data have been swallowed in all.
    pub fn swallow(&self, on: bool) -> u64 {
        let swallowed = self.shared.swallowed.load(Ordering::Relaxed);
        if self.shared.is_swallowing.swap(on, Ordering::Relaxed) && !on {
            self.shared.cut_all();
        }
        swallowed
    }

    /// All connections are cut after so many more bytes.
    pub fn cut_after(&self, n_bytes: i64) {
        self.shared.budget.store(n_bytes.max(1), Ordering::Relaxed);
    }

    /// How many connections have been cut so far.
    pub fn n_cut(&self) -> u64 {
        self.shared.cut.load(Ordering::Relaxed)
    }
}

impl Shared {
    fn serve(&self, client: TcpStream) {
        let Ok(server) = TcpStream::connect(&self.target) else { return };
        let ends = [&client, &server].map(|end| end.set_nodelay(true).and_then(|()| end.try_clone()));
        let [Ok(client_end), Ok(server_end)] = ends else { return };
        let number = self.n_accepted.fetch_add(1, Ordering::Relaxed);
        self.connections.lock().unwrap_or_else(PoisonError::into_inner).insert(number, [client_end, server_end]);
        thread::scope(|scope| {
            scope.spawn(|| self.pump(&client, &server));
            self.pump(&server, &client);
        });
        self.connections.lock().unwrap_or_else(PoisonError::into_inner).remove(&number);
    }

    /// Passes on in one direction until either end is closed.
    fn pump(&self, mut from: &TcpStream, to: &TcpStream) {
        let mut buffer = vec![0; 1 << 14];
        while let Ok(n_bytes @ 1..) = from.read(&mut buffer) {
            let delay_ms = self.delay_ms.load(Ordering::Relaxed);
            if delay_ms > 0 {
                thread::sleep(Duration::from_millis(delay_ms));
                self.delayed.fetch_add(1, Ordering::Relaxed);
            }
            if self.is_swallowing.load(Ordering::Relaxed) {
                self.swallowed.fetch_add(1, Ordering::Relaxed);
                continue;
            }
            if self.spend(n_bytes as i64) {
                self.cut_all();
                break;
            }
            if self.write(to, &buffer[..n_bytes]).is_err() {
                break;
            }
        }
        // Their peers may have closed them.
        let _ = from.shutdown(Shutdown::Both);
        let _ = to.shutdown(Shutdown::Both);
    }

    fn write(&self, mut to: &TcpStream, mut bytes: &[u8]) -> std::io::Result<()> {
        while !bytes.is_empty() && self.is_slicing.load(Ordering::Relaxed) {
            to.write_all(&bytes[..1])?;
            self.sliced.fetch_add(1, Ordering::Relaxed);
            bytes = &bytes[1..];
        }
        to.write_all(bytes)
    }

    /// Whether the bytes that were allowed are used up by these.
    fn spend(&self, n_bytes: i64) -> bool {
        self.budget.load(Ordering::Relaxed) > 0 && {
            let before = self.budget.fetch_sub(n_bytes, Ordering::Relaxed);
            before > 0 && before <= n_bytes
        }
    }

    fn cut_all(&self) {
        for ends in self.connections.lock().unwrap_or_else(PoisonError::into_inner).values() {
            self.cut.fetch_add(1, Ordering::Relaxed);
            for end in ends {
                let _ = end.shutdown(Shutdown::Both);
            }
        }
    }
}

//! The HTTP endpoint: metrics, and the answers to probes. Read-only, without secrets, on loopback unless told otherwise.
//!
//! One thread of its own that shares nothing with the data path but numbers: however many clients there are and however
//! slow they read, they keep nobody waiting. A request is one connection, and has seconds; where there are too many, the
//! oldest goes.

use crate::metrics::Metrics;
use crate::outage::Outage;
use crate::vitals::Vitals;
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use std::collections::VecDeque;
use std::convert::Infallible;
use std::fmt::Display;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::AbortHandle;

/// Clients at a time. One more puts out the oldest, which has had longer than a request takes: if others had to wait for
/// it, silent clients would keep probes from their answers.
const CLIENTS_MAX: usize = 32;
/// A client may take so long for all of its request, and for reading the answer.
const CLIENT_MAX: Duration = Duration::from_secs(10);
/// An address that is taken is tried again: the process that has it may be about to end.
const LISTEN_PAUSE: Duration = Duration::from_secs(5);
/// What Prometheus' text format calls itself.
const METRICS_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";
const TEXT_TYPE: &str = "text/plain; charset=utf-8";
const PATHS: &str = "/metrics, /health/live, /health/ready";

/// What is shown.
#[derive(Debug, Clone)]
pub struct Shown {
    /// The metrics.
    pub metrics: Arc<Metrics>,
    /// What the threads say of themselves.
    pub vitals: Arc<Vitals>,
    /// Whether the database is away.
    pub database: Arc<Outage>,
}

impl Shown {
    fn ready(&self) -> Result<(), String> {
        self.look();
        let metrics = &self.metrics;
        self.vitals.ready(metrics.database_up.get() == 1, metrics.kafka_up.get() == 1)
    }

    fn encode(&self) -> String {
        self.look();
        self.metrics.encode()
    }

    fn look(&self) {
        let database_up = self.vitals.has_database_answered() && !self.database.is_away();
        self.metrics.database_up.set(i64::from(database_up));
    }
}

/// Serves for as long as the process lives. A failure is a line in the log and no more: the data goes on without.
pub fn start(address: String, shown: Shown) {
    let serve = move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().enable_time().build();
        match runtime {
            Ok(runtime) => runtime.block_on(serve(&address, shown)),
            Err(error) => not_served(&address, &error),
        }
    };
    // Small, because what it holds is the text that it sends.
    let spawned = std::thread::Builder::new().name("http".to_owned()).stack_size(1 << 20).spawn(serve);
    if let Err(error) = spawned {
        log::warn!("metrics are not served: starting a thread: {error}");
    }
}

fn not_served(address: &str, error: &dyn Display) {
    log::warn!("metrics are not served on {address} (metrics.listen): {error}");
}

async fn serve(address: &str, shown: Shown) {
    let listener = listen(address).await;
    if let Ok(bound) = listener.local_addr() {
        log::info!(address:% = bound; "serving metrics");
    }
    let mut clients = Clients::default();
    loop {
        match listener.accept().await {
            Ok((client, _)) => clients.add(tokio::spawn(answer(client, shown.clone())).abort_handle()),
            // No descriptor is left, for example.
            Err(error) => {
                log::debug!("accepting a client: {error}");
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        }
    }
}

/// Those that are being answered, the oldest first.
#[derive(Default)]
struct Clients(VecDeque<AbortHandle>);

impl Clients {
    fn add(&mut self, client: AbortHandle) {
        self.0.retain(|client| !client.is_finished());
        if self.0.len() >= CLIENTS_MAX
            && let Some(oldest) = self.0.pop_front()
        {
            log::debug!("putting out the oldest of {CLIENTS_MAX} clients of the metrics");
            oldest.abort();
        }
        self.0.push_back(client);
    }
}

async fn listen(address: &str) -> TcpListener {
    let mut has_told = false;
    loop {
        match TcpListener::bind(address).await {
            Ok(listener) => return listener,
            Err(error) if !has_told => not_served(address, &format_args!("{error}; trying again")),
            Err(_) => {}
        }
        has_told = true;
        tokio::time::sleep(LISTEN_PAUSE).await;
    }
}

/// One request. Whatever goes wrong is the client's own affair.
async fn answer(client: TcpStream, shown: Shown) {
    let respond = service_fn(move |request| {
        let response = respond(&request, &shown);
        async move { Ok::<_, Infallible>(response) }
    });
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(CLIENT_MAX).keep_alive(false);
    let served = tokio::time::timeout(CLIENT_MAX, http.serve_connection(TokioIo::new(client), respond)).await;
    match served {
        Ok(Ok(())) => {}
        Ok(Err(error)) => log::debug!("a client of the metrics: {error}"),
        Err(_) => log::debug!("a client of the metrics was too slow"),
    }
}

fn respond(request: &Request<Incoming>, shown: &Shown) -> Response<Full<Bytes>> {
    let is_read = [Method::GET, Method::HEAD].contains(request.method());
    match request.uri().path() {
        _ if !is_read => {
            let mut response = text(StatusCode::METHOD_NOT_ALLOWED, "only GET is answered".to_owned());
            response.headers_mut().insert(ALLOW, "GET, HEAD".parse().expect("it is a header's value"));
            response
        }
        "/metrics" => made(StatusCode::OK, METRICS_TYPE, shown.encode()),
        "/health/live" => health("live", shown.vitals.live()),
        "/health/ready" => health("ready", shown.ready()),
        _ => text(StatusCode::NOT_FOUND, format!("there is {PATHS}")),
    }
}

fn health(what: &str, is: Result<(), String>) -> Response<Full<Bytes>> {
    match is {
        Ok(()) => text(StatusCode::OK, what.to_owned()),
        Err(why) => text(StatusCode::SERVICE_UNAVAILABLE, format!("not {what}: {why}")),
    }
}

fn text(status: StatusCode, line: String) -> Response<Full<Bytes>> {
    made(status, TEXT_TYPE, line + "\n")
}

fn made(status: StatusCode, content_type: &str, body: String) -> Response<Full<Bytes>> {
    let builder = Response::builder().status(status).header(CONTENT_TYPE, content_type);
    let response = builder.header(CACHE_CONTROL, "no-store").body(Full::new(Bytes::from(body)));
    response.expect("its headers are well formed")
}

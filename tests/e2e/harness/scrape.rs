//! A worker's HTTP endpoint, asked as Prometheus and probes ask it.

use super::{Invocation, LIMIT, Worker, eventually};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

/// A worker that serves metrics on a port of its own, and where.
pub fn serving(invocation: &Invocation, arguments: &[&str]) -> (Worker, String) {
    let mut worker = invocation.clone().set("metrics.listen", "127.0.0.1:0").start(arguments);
    let line = worker.wait_for_log("serving metrics address=", LIMIT);
    let address = line.rsplit_once('=').expect("the line ends with the address").1.to_owned();
    (worker, address)
}

/// Status and body of an answer.
pub fn get(address: &str, path: &str) -> Option<(u16, String)> {
    let mut client = TcpStream::connect(address).ok()?;
    client.set_read_timeout(Some(Duration::from_secs(30))).ok()?;
    write!(client, "GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n").ok()?;
    let mut answer = String::new();
    client.read_to_string(&mut answer).ok()?;
    let (head, body) = answer.split_once("\r\n\r\n")?;
    let status = head.split_whitespace().nth(1)?.parse().ok()?;
    Some((status, body.to_owned()))
}

/// The value of a series, as it is printed.
pub fn value(address: &str, series: &str) -> Option<String> {
    let (_, text) = get(address, "/metrics")?;
    text.lines().find_map(|line| Some(line.strip_prefix(series)?.strip_prefix(' ')?.to_owned()))
}

/// Waits until a series has this value.
#[track_caller]
pub fn wait_for_value(address: &str, series: &str, expected: &str) {
    let what = format!("{series} {expected}");
    eventually(&what, LIMIT, || value(address, series).is_some_and(|found| found == expected));
}

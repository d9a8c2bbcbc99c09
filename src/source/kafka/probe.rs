//! The first word with a broker: does it answer in time, and does it speak the client's old protocol?
//!
//! The client itself can't tell: it connects without a deadline, and sees of a newer broker only that it hangs up.

use crate::source::SourceFault;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::time::Duration;

/// A connect, and each answer, at most.
const LIMIT: Duration = Duration::from_secs(2);
/// ApiVersions, version 0, without a client's name: size, key, version, number, length of the name.
const QUESTION: [u8; 14] = [0, 0, 0, 10, 0, 18, 0, 0, 0, 0, 0, 7, 0, 0];
/// An answer names some dozens of requests, with six bytes each.
const ANSWER_MAX: usize = 64 << 10;
/// Fetch, ListOffsets and Metadata, of which the client speaks version 0.
const NEEDED: [i16; 3] = [1, 2, 3];

/// Asks a broker.
pub(super) fn probe(broker: &str) -> Result<(), SourceFault> {
    let away = |error: io::Error| SourceFault::Away(format!("{broker}: {error}"));
    let mut last = io::Error::new(ErrorKind::NotFound, "the name has no address");
    for address in broker.to_socket_addrs().map_err(away)? {
        match TcpStream::connect_timeout(&address, LIMIT) {
            Ok(stream) => {
                return match ask(stream) {
                    Ok(answer) => judge(broker, &answer),
                    // Before Kafka 0.10 nobody knows the question: they hang up.
                    Err(error) if is_hung_up(&error) => Ok(()),
                    Err(error) => Err(away(error)),
                };
            }
            Err(error) => last = error,
        }
    }
    Err(away(last))
}

fn is_hung_up(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset | ErrorKind::BrokenPipe)
}

fn ask(mut stream: TcpStream) -> io::Result<Vec<u8>> {
    stream.set_read_timeout(Some(LIMIT))?;
    stream.set_write_timeout(Some(LIMIT))?;
    stream.write_all(&QUESTION)?;
    let mut size = [0; 4];
    stream.read_exact(&mut size).map_err(no_answer)?;
    let size = u32::from_be_bytes(size) as usize;
    if size > ANSWER_MAX {
        let what = "what answers there is no Kafka broker, or expects TLS, which client = \"krafka\" can speak";
        return Err(io::Error::new(ErrorKind::InvalidData, what));
    }
    let mut answer = vec![0; size];
    stream.read_exact(&mut answer).map_err(no_answer)?;
    Ok(answer)
}

fn no_answer(error: io::Error) -> io::Error {
    match error.kind() {
        ErrorKind::WouldBlock | ErrorKind::TimedOut => {
            io::Error::new(ErrorKind::TimedOut, format!("no answer within {} s", LIMIT.as_secs()))
        }
        _ => error,
    }
}

/// An answer is: our number, a code, how many requests, and of each its key, the oldest and the newest version.
fn judge(broker: &str, answer: &[u8]) -> Result<(), SourceFault> {
    let requests = answer.get(10..).unwrap_or_default().chunks_exact(6).map(|request| {
        let number = |at: usize| i16::from_be_bytes([request[at], request[at + 1]]);
        (number(0), number(2))
    });
    let spoken: Vec<i16> = requests.filter(|(_, oldest)| *oldest == 0).map(|(key, _)| key).collect();
    match NEEDED.iter().all(|key| spoken.contains(key)) {
        true => Ok(()),
        false => Err(SourceFault::Config(format!(
            "{broker} does not speak the old protocol of client = \"kafka\" any more, as no Kafka from 4.0 on does; set \
             client = \"krafka\""
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    /// The answer of a broker whose requests have these keys and oldest versions.
    fn answer(requests: &[(i16, i16)]) -> Vec<u8> {
        let mut answer = vec![0; 10];
        answer[3] = 7;
        for (key, oldest) in requests {
            answer.extend([key.to_be_bytes(), oldest.to_be_bytes(), 13_i16.to_be_bytes()].concat());
        }
        answer
    }

    #[test]
    fn brokers_are_judged_by_what_they_still_speak() {
        assert_eq!(judge("b:1", &answer(&[(0, 0), (1, 0), (2, 0), (3, 0), (18, 0)])), Ok(()));
        for newer in [answer(&[(0, 3), (1, 4), (2, 1), (3, 0), (18, 0)]), answer(&[]), vec![1, 2, 3], Vec::new()] {
            let Err(SourceFault::Config(message)) = judge("b:1", &newer) else { panic!("{newer:?}") };
            assert!(message.contains("client = \"krafka\""), "{message}");
        }
    }

    /// What is made of a listener that takes one connection and does this.
    fn probed(act: impl FnOnce(TcpStream) + Send + 'static) -> Result<(), SourceFault> {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
        let address = listener.local_addr().expect("it is bound").to_string();
        let acting = std::thread::spawn(move || act(listener.accept().expect("it connects").0));
        let outcome = probe(&address);
        acting.join().expect("it does what it should");
        outcome
    }

    #[test]
    fn who_hangs_up_may_be_an_older_broker() {
        assert_eq!(probed(drop), Ok(()));
    }

    #[test]
    fn who_stays_mute_or_talks_of_something_else_is_away() {
        let mute = probed(|mut stream| {
            // Until the other side gives up.
            let mut rest = Vec::new();
            let _ = stream.read_to_end(&mut rest);
        });
        assert!(matches!(&mute, Err(SourceFault::Away(message)) if message.contains("no answer")), "{mute:?}");
        let other = probed(|mut stream| {
            let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n");
            let mut rest = Vec::new();
            let _ = stream.read_to_end(&mut rest);
        });
        assert!(matches!(&other, Err(SourceFault::Away(message)) if message.contains("no Kafka")), "{other:?}");
    }
}

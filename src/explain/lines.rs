//! Reads messages, one a line, without holding more than one of them, nor all of one that is too long.

use sha2::{Digest, Sha256};
use std::io::{self, BufRead, BufReader, Read};

/// Bytes asked of the input at a time.
const CHUNK_BYTES: usize = 64 << 10;

/// One line, without its newline.
#[derive(Debug, PartialEq, Eq)]
pub enum Line<'l> {
    /// The bytes as they are; a `\r` at the end is one of them.
    Whole(&'l [u8]),
    /// More bytes than a line may have: only their number and their digest.
    TooLong {
        /// Length in bytes.
        bytes: u64,
        /// SHA-256 of all of it.
        sha256: [u8; 32],
    },
}

/// Why there is no next line, though there may be one.
#[derive(Debug)]
pub enum NoLine<E> {
    /// The input can't be read.
    Unreadable(io::Error),
    /// The caller did not want to wait.
    Unwanted(E),
}

/// Lines of an input.
pub struct Lines<R> {
    input: BufReader<R>,
    bytes_max: usize,
    line: Vec<u8>,
    // Of the line that goes beyond `bytes_max`.
    digest: Option<(u64, Sha256)>,
    bytes_read: u64,
    number: u64,
}

impl<R: Read> Lines<R> {
    /// Lines of at most `bytes_max` bytes; of longer ones only length and digest.
    pub fn new(input: R, bytes_max: usize) -> Self {
        let input = BufReader::with_capacity(CHUNK_BYTES, input);
        Lines { input, bytes_max, line: Vec::new(), digest: None, bytes_read: 0, number: 0 }
    }

    /// The number of the last line, from 1.
    pub fn number(&self) -> u64 {
        self.number
    }

    /// Bytes of all lines so far, newlines included.
    pub fn bytes_read(&self) -> u64 {
        self.bytes_read
    }

    /// The next line, whether or not it ends in a newline. `before_wait` is called before each read of the input, which
    /// may take as long as its writer likes.
    pub fn next<E>(&mut self, mut before_wait: impl FnMut() -> Result<(), E>) -> Result<Option<Line<'_>>, NoLine<E>> {
        self.line.clear();
        let mut is_begun = false;
        loop {
            if self.input.buffer().is_empty() {
                before_wait().map_err(NoLine::Unwanted)?;
            }
            let chunk = match self.input.fill_buf() {
                Ok(chunk) => chunk,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(NoLine::Unreadable(error)),
            };
            if chunk.is_empty() && !is_begun {
                return Ok(None);
            }
            is_begun = true;
            let newline = chunk.iter().position(|byte| *byte == b'\n');
            let part = &chunk[..newline.unwrap_or(chunk.len())];
            let is_end = newline.is_some() || chunk.is_empty();
            let n_consumed = part.len() + usize::from(newline.is_some());
            match &mut self.digest {
                Some((bytes, digest)) => {
                    *bytes += part.len() as u64;
                    digest.update(part);
                }
                None if self.line.len() + part.len() > self.bytes_max => {
                    let digest = Sha256::new().chain_update(&self.line).chain_update(part);
                    self.digest = Some(((self.line.len() + part.len()) as u64, digest));
                    self.line.clear();
                }
                None => self.line.extend_from_slice(part),
            }
            self.input.consume(n_consumed);
            self.bytes_read += n_consumed as u64;
            if is_end {
                break;
            }
        }
        self.number += 1;
        Ok(Some(match self.digest.take() {
            Some((bytes, digest)) => Line::TooLong { bytes, sha256: digest.finalize().into() },
            None => Line::Whole(&self.line),
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An input that gives a few bytes at a time, and is interrupted in between.
    struct Drops<'b>(&'b [u8], usize, bool);

    impl Read for Drops<'_> {
        fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
            self.2 = !self.2;
            if self.2 {
                return Err(io::ErrorKind::Interrupted.into());
            }
            let n = self.1.min(self.0.len()).min(into.len());
            into[..n].copy_from_slice(&self.0[..n]);
            self.0 = &self.0[n..];
            Ok(n)
        }
    }

    /// A line, or its length and digest.
    type Outcome = Result<Vec<u8>, (u64, [u8; 32])>;

    fn read(text: &[u8], bytes_max: usize, at_a_time: usize) -> Vec<Outcome> {
        let mut lines = Lines::new(Drops(text, at_a_time, false), bytes_max);
        let mut read = Vec::new();
        while let Some(line) = lines.next(|| Ok::<(), ()>(())).unwrap() {
            read.push(match line {
                Line::Whole(bytes) => Ok(bytes.to_vec()),
                Line::TooLong { bytes, sha256 } => Err((bytes, sha256)),
            });
        }
        assert_eq!((lines.bytes_read(), lines.number()), (text.len() as u64, read.len() as u64));
        read
    }

    #[test]
    fn every_line_counts_even_an_empty_one_and_the_last() {
        for at_a_time in [1, 2, 3, 1000] {
            assert_eq!(
                read(b"a\n\nb\r\n\xff\xfe\nlast", 100, at_a_time),
                [b"a".to_vec(), b"".to_vec(), b"b\r".to_vec(), b"\xff\xfe".to_vec(), b"last".to_vec()].map(Ok)
            );
            assert_eq!(read(b"", 100, at_a_time), []);
            assert_eq!(read(b"\n", 100, at_a_time), [Ok(vec![])]);
            assert_eq!(read(b"a\n", 100, at_a_time), [Ok(b"a".to_vec())]);
        }
    }

    #[test]
    fn of_a_line_that_is_too_long_only_length_and_digest_are_kept() {
        for at_a_time in [1, 4, 1000] {
            let read = read(b"1234\n12345\n1234567890\nx", 4, at_a_time);
            let digest = |text: &[u8]| Err((text.len() as u64, Sha256::digest(text).into()));
            assert_eq!(read, [Ok(b"1234".to_vec()), digest(b"12345"), digest(b"1234567890"), Ok(b"x".to_vec())]);
        }
    }

    #[test]
    fn the_caller_is_told_before_each_wait() {
        let mut lines = Lines::new(&b"a\nb\n"[..], 100);
        let mut n_waits = 0;
        let mut next = || {
            let mut count = || {
                n_waits += 1;
                Ok::<(), ()>(())
            };
            let is_line = lines.next(&mut count).unwrap().is_some();
            (is_line, n_waits)
        };
        // Both lines come with the first read; the second finds the end.
        assert_eq!([next(), next(), next()], [(true, 1), (true, 1), (false, 2)]);
        let unwanted = Lines::new(&b"a\n"[..], 100).next(|| Err("no")).map(|_| ());
        assert!(matches!(unwanted, Err(NoLine::Unwanted("no"))), "{unwanted:?}");
    }
}

//! Ends a connection in plain text before it gives the password away.
//!
//! The client answers whatever it is asked: with the password itself, or with its MD5 digest, which is as good as the
//! password for whoever has listened. So what the server says is looked at until it lets us in; SCRAM gives away nothing.

use super::failure::Refused;
use crate::fault::Fault;

/// A message's type and length, and of an authentication request what is asked for.
const HEAD: usize = 9;
const HEAD_OF_OTHERS: usize = 5;
const AUTHENTICATION: u8 = b'R';
const OK: u32 = 0;
const CLEARTEXT_PASSWORD: u32 = 3;
const MD5_PASSWORD: u32 = 5;

/// Looks at what a server says at the beginning.
#[derive(Debug, Default)]
pub(super) struct Guard {
    head: [u8; HEAD],
    // How much of it is known.
    known: usize,
    // Bytes of the current message that don't matter.
    rest: usize,
    is_over: bool,
}

impl Guard {
    /// Takes what came in; an error if the next answer would give the password away.
    pub(super) fn look(&mut self, mut bytes: &[u8]) -> Result<(), Refused> {
        while !self.is_over && !bytes.is_empty() {
            if self.rest > 0 {
                let skipped = self.rest.min(bytes.len());
                self.rest -= skipped;
                bytes = &bytes[skipped..];
                continue;
            }
            self.head[self.known] = bytes[0];
            self.known += 1;
            bytes = &bytes[1..];
            let head = if self.head[0] == AUTHENTICATION { HEAD } else { HEAD_OF_OTHERS };
            if self.known == head {
                self.judge(head)?;
            }
        }
        Ok(())
    }

    fn judge(&mut self, head: usize) -> Result<(), Refused> {
        let number = |at: usize| u32::from_be_bytes(self.head[at..at + 4].try_into().expect("four bytes"));
        // The length counts itself, but not the type.
        let rest = (number(1) as usize).saturating_sub(head - 1);
        let asked = match (self.head[0], number(5)) {
            (AUTHENTICATION, CLEARTEXT_PASSWORD) => "the password itself",
            (AUTHENTICATION, MD5_PASSWORD) => "the password's MD5 digest",
            (kind, number) => {
                self.is_over = kind == AUTHENTICATION && number == OK;
                self.rest = rest;
                self.known = 0;
                return Ok(());
            }
        };
        let message = format!(
            "the server asks for {asked} in plain text, which is not sent; use TLS (database.tls = \"verify-full\"), or \
             scram-sha-256 there"
        );
        Err(Refused { fault: Fault::Schema, message })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asks(code: u32, more: &[u8]) -> Vec<u8> {
        let length = 8 + more.len() as u32;
        [b"R".as_slice(), &length.to_be_bytes(), &code.to_be_bytes(), more].concat()
    }

    /// Whether it is refused, however the bytes come in.
    fn is_refused(bytes: &[u8]) -> bool {
        let refused: Vec<bool> = (1..=bytes.len())
            .map(|size| {
                let mut guard = Guard::default();
                bytes.chunks(size).any(|chunk| guard.look(chunk).is_err())
            })
            .collect();
        assert!(refused.iter().all(|is| *is == refused[0]), "it depends on how the bytes come in");
        refused[0]
    }

    #[test]
    fn what_gives_the_password_away_is_refused() {
        assert!(is_refused(&asks(CLEARTEXT_PASSWORD, b"")));
        assert!(is_refused(&asks(MD5_PASSWORD, b"salt")));
        // Also where the server was satisfied with SCRAM's first step.
        assert!(is_refused(&[asks(11, b"r=nonce"), asks(CLEARTEXT_PASSWORD, b"")].concat()));
        // Nor behind a notice.
        assert!(is_refused(&[b"N\0\0\0\x09SINFO".to_vec(), asks(CLEARTEXT_PASSWORD, b"")].concat()));
    }

    #[test]
    fn scram_and_rows_that_look_like_a_question_pass() {
        let scram =
            [asks(10, b"SCRAM-SHA-256\0\0"), asks(11, b"r=nonce"), asks(12, b"v=proof"), asks(OK, b"")].concat();
        assert!(!is_refused(&scram));
        assert!(!is_refused(&[scram, asks(CLEARTEXT_PASSWORD, b"")].concat()));
        assert!(!is_refused(b"E\0\0\0\x20SFATAL\0"));
    }
}

//! Bytes for a person: sixteen a line, as numbers and as characters.

use std::io::{self, Write};

const BYTES_PER_LINE: usize = 16;

/// Writes lines such as `00000010  41 41 50 4c …  |AAPL…|`.
pub fn write(out: &mut impl Write, bytes: &[u8], indent: &str) -> io::Result<()> {
    for (line_idx, line) in bytes.chunks(BYTES_PER_LINE).enumerate() {
        write!(out, "{indent}{:08x} ", line_idx * BYTES_PER_LINE)?;
        for column in 0..BYTES_PER_LINE {
            let gap = if column % 8 == 0 { " " } else { "" };
            match line.get(column) {
                Some(byte) => write!(out, "{gap}{byte:02x} ")?,
                None => write!(out, "{gap}   ")?,
            }
        }
        let shown: String = line.iter().map(|byte| if is_plain(*byte) { char::from(*byte) } else { '.' }).collect();
        writeln!(out, " |{shown}|")?;
    }
    Ok(())
}

fn is_plain(byte: u8) -> bool {
    byte.is_ascii_graphic() || byte == b' '
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_shown_as_numbers_and_characters() {
        let mut out = Vec::new();
        write(&mut out, b"{\"symbol\":\"AAPL\"}\x1b", "  ").unwrap();
        assert_eq!(
            String::from_utf8(out).unwrap(),
            "  00000000  7b 22 73 79 6d 62 6f 6c  22 3a 22 41 41 50 4c 22  |{\"symbol\":\"AAPL\"|\n  \
               00000010  7d 1b                                             |}.|\n"
        );
    }

    #[test]
    fn nothing_is_no_line() {
        let mut out = Vec::new();
        write(&mut out, b"", "").unwrap();
        assert!(out.is_empty());
    }
}

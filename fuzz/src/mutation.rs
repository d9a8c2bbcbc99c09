//! Changes a message so that most of it still has the shape it had: libFuzzer's own changes rarely leave JSON behind,
//! and what is broken early never reaches the checks behind the shape.

/// What stands in for a value or a key.
const TOKENS: &[&str] = &[
    "-1",
    "0",
    "-0.0",
    "1.50",
    "1e3",
    "1e131071",
    "1e131072",
    "1e-16383",
    "1e-16384",
    "null",
    "true",
    "{}",
    "[]",
    "[1,\"2\"]",
    "\"\"",
    "\" A \"",
    "\"\\tA\"",
    "\"A\\u0000\"",
    "\"\\ud800\"",
    "\"\\u0041\"",
    "\"株式会社\"",
    "\"X23456789.X23456789.X23456789.X23456789.X23456789.X23456789.X2345\"",
    "\"None\"",
    "\"-\"",
    "\"-1\"",
    "\"NaN\"",
    "\" 1.5 \"",
    "\"1,5\"",
    "1704207845",
    "1704207845123",
    "1704207845123456",
    "1704207845123456789",
    "4102444800",
    "4102444801",
    "-1704207845",
    "\"2024-01-02\"",
    "\"20240102\"",
    "\"2024-01-02T15:04:05.5Z\"",
    "\"2024-01-02 15:04:05-05:00\"",
    "\"2024-03-10 02:30:00\"",
    "\"1969-12-31T23:59:59Z\"",
    "\"Tue, 02 Jan 2024 15:04:05 +0000\"",
    "\"US/Eastern\"",
];

/// What a message is put into.
const WRAPPINGS: &[(&str, &str)] = &[
    ("[", "]"),
    ("[", ",{}]"),
    ("{\"data\":", "}"),
    ("{\"data\":[", "]}"),
    ("{\"payload\":", "}"),
    ("{\"payload\":{\"after\":", ",\"op\":\"c\"}}"),
    ("{\"stream\":\"x\",\"data\":", "}"),
    ("{\"schema\":null,\"payload\":", ",\"symbol\":\"OUTER\"}"),
    ("", "\n{\"symbol\":\"A\",\"price\":1,\"ts\":0}"),
    ("\u{FEFF}", ""),
];

/// Numbers that only the seed decides.
pub struct Random(u64);

impl Random {
    /// Begins anew.
    pub fn new(seed: u32) -> Random {
        Random(u64::from(seed).wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ 0xD1B5_4A32_D192_ED03)
    }

    /// One of the numbers below `n`, or nothing if there is none.
    pub fn below(&mut self, n: usize) -> usize {
        // SplitMix64.
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mixed = (self.0 ^ self.0 >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((mixed ^ mixed >> 31) % n.max(1) as u64) as usize
    }
}

/// The message with one change.
pub fn mutated(message: &str, random: &mut Random) -> String {
    let tokens = tokens(message);
    let groups = groups(message);
    let (token, other) = (random.below(tokens.len()), random.below(tokens.len()));
    let group = groups.get(random.below(groups.len()));
    match (random.below(12), tokens.get(token), tokens.get(other), group) {
        (0..5, Some(&token), ..) => replaced(message, token, TOKENS[random.below(TOKENS.len())]),
        (5, Some(&token), Some(&(start, end)), _) => replaced(message, token, &message[start..end]),
        (6, Some(&token), Some(&other), _) => {
            let (first, second) = (token.min(other), token.max(other));
            let swapped = replaced(message, second, &message[first.0..first.1]);
            replaced(&swapped, first, &message[second.0..second.1])
        }
        (7, _, _, Some(&(start, end))) => {
            // In an array, or one document after another.
            let separator = [",", "\n"][random.below(2)];
            replaced(message, (end, end), &format!("{separator}{}", &message[start..end]))
        }
        (8, _, _, Some(&group)) => replaced(message, group, TOKENS[random.below(TOKENS.len())]),
        // One entry less, if the token is the value of one.
        (9, Some(&(start, end)), ..) => {
            let from = message[..start].rfind([',', '{', '[']).map_or(0, |at| at + 1);
            let to = end + usize::from(message[end..].starts_with(','));
            replaced(message, (from.min(start), to), "")
        }
        (10, ..) => {
            let (before, after) = WRAPPINGS[random.below(WRAPPINGS.len())];
            format!("{before}{message}{after}")
        }
        _ => serde_json::to_string(message).expect("a string is JSON"),
    }
}

fn replaced(text: &str, (start, end): (usize, usize), with: &str) -> String {
    format!("{}{with}{}", &text[..start], &text[end..])
}

/// Where strings and other scalars are.
fn tokens(text: &str) -> Vec<(usize, usize)> {
    let bytes = text.as_bytes();
    let (mut found, mut at) = (Vec::new(), 0);
    while at < bytes.len() {
        let start = at;
        at += 1;
        if bytes[start] == b'"' {
            while at < bytes.len() && bytes[at] != b'"' {
                at += 1 + usize::from(bytes[at] == b'\\');
            }
            at = (at + 1).min(bytes.len());
        } else if is_plain(bytes[start]) {
            while at < bytes.len() && is_plain(bytes[at]) {
                at += 1;
            }
        } else {
            continue;
        }
        if text.is_char_boundary(at) {
            found.push((start, at));
        }
    }
    found
}

fn is_plain(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"+-.".contains(&byte)
}

/// Where objects and arrays are.
fn groups(text: &str) -> Vec<(usize, usize)> {
    let (mut open, mut found) = (Vec::new(), Vec::new());
    for (at, byte) in text.bytes().enumerate() {
        match byte {
            b'{' | b'[' => open.push(at),
            b'}' | b']' => found.extend(open.pop().map(|start| (start, at + 1))),
            _ => {}
        }
    }
    found
}

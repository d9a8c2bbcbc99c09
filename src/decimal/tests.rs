//! Numbers against an independent reader of PostgreSQL's binary numeric and against plain text arithmetic.

use super::*;

fn parse(text: &str) -> Decimal<'_> {
    Decimal::parse(Cow::Borrowed(text)).unwrap_or_else(|error| panic!("{text:?} {error}"))
}

fn numeric(number: &Decimal<'_>) -> Vec<u8> {
    let mut out = vec![0xAA];
    number.write_numeric(&mut out);
    assert_eq!(out.remove(0), 0xAA);
    out
}

/// Prints a binary numeric the way PostgreSQL does, and refuses what PostgreSQL would not have written.
fn printed(numeric: &[u8]) -> String {
    let word = |idx: usize| u16::from_be_bytes([numeric[2 * idx], numeric[2 * idx + 1]]);
    let (n_groups, weight, sign, scale) = (word(0) as usize, i64::from(word(1) as i16), word(2), word(3));
    assert_eq!(numeric.len(), 8 + 2 * n_groups);
    assert!(scale <= 16_383 && (sign == 0 || sign == 0x4000));
    let groups: Vec<u16> = (0..n_groups).map(|idx| word(4 + idx)).collect();
    assert!(groups.iter().all(|group| *group < 10_000));
    match (groups.first(), groups.last()) {
        (Some(first), Some(last)) => assert!(*first != 0 && *last != 0, "groups of zeros at an end"),
        _ => assert_eq!((weight, sign), (0, 0), "zero in a form of its own"),
    }
    let group = |weight_of: i64| {
        let idx = usize::try_from(weight - weight_of).ok();
        idx.and_then(|idx| groups.get(idx)).copied().unwrap_or(0)
    };
    let integer: String = (0..=weight.max(0)).rev().map(|place| format!("{:04}", group(place))).collect();
    let integer = match integer.trim_start_matches('0') {
        "" => "0",
        digits => digits,
    };
    let n_fraction_groups = i64::from(scale.div_ceil(4));
    let fraction: String = (1..=n_fraction_groups).map(|place| format!("{:04}", group(-place))).collect();
    assert!(weight - n_groups as i64 + 1 >= -n_fraction_groups, "digits beyond the scale");
    let (shown, cut) = fraction.split_at(usize::from(scale));
    assert!(cut.bytes().all(|digit| digit == b'0'), "digits beyond the scale");
    let minus = if sign == 0 { "" } else { "-" };
    if scale == 0 { format!("{minus}{integer}") } else { format!("{minus}{integer}.{shown}") }
}

/// The plain digits of a number, worked out on its text.
fn plain(text: &str) -> String {
    let (sign, unsigned) = match text.as_bytes()[0] {
        b'-' => ("-", &text[1..]),
        b'+' => ("", &text[1..]),
        _ => ("", text),
    };
    let (mantissa, exponent) = unsigned.split_once(['e', 'E']).unwrap_or((unsigned, "0"));
    let (integer, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let point = integer.len() as i64 + exponent.parse::<i64>().unwrap();
    let mut digits = format!("{integer}{fraction}");
    let point = if point < 0 {
        digits.insert_str(0, &"0".repeat(-point as usize));
        0
    } else {
        let missing = (point as usize).saturating_sub(digits.len());
        digits.push_str(&"0".repeat(missing));
        point as usize
    };
    let (integer, fraction) = digits.split_at(point);
    let integer = integer.trim_start_matches('0');
    let integer = if integer.is_empty() { "0" } else { integer };
    let is_zero = digits.bytes().all(|digit| digit == b'0');
    let sign = if is_zero { "" } else { sign };
    if fraction.is_empty() { format!("{sign}{integer}") } else { format!("{sign}{integer}.{fraction}") }
}

fn random_digits(random: &mut fastrand::Rng, max: usize) -> String {
    let zeros = random.u8(..4) == 0;
    (0..random.usize(..=max)).map(|_| if zeros && random.u8(..8) > 0 { '0' } else { random.digit(10) }).collect()
}

fn random_text(random: &mut fastrand::Rng) -> String {
    let max = if random.u8(..10) == 0 { 60 } else { 9 };
    let (integer, fraction) = (random_digits(random, max), random_digits(random, max));
    let sign = ["", "", "-", "+"][random.usize(..4)];
    let point = if fraction.is_empty() && random.bool() { "" } else { "." };
    let exponent = if random.u8(..4) == 0 {
        format!("{}{}{}", ["e", "E"][random.usize(..2)], ["", "+", "-"][random.usize(..3)], random.u8(..70))
    } else {
        String::new()
    };
    let digits = if integer.is_empty() && fraction.is_empty() { "7" } else { &integer };
    format!("{sign}{digits}{point}{fraction}{exponent}")
}

#[test]
fn digits_are_kept_as_they_were_sent() {
    for (sent, shown) in [
        ("1.50", "1.50"),
        ("1.2E8", "120000000"),
        ("1.5e-3", "0.0015"),
        ("0.00001234000", "0.00001234000"),
        ("007", "7"),
        (".5", "0.5"),
        ("5.", "5"),
        ("+3", "3"),
        ("-0", "0"),
        ("-0.00", "0.00"),
        ("0e10", "0"),
        ("0e999999999", "0"),
        ("0.00e1", "0.0"),
        ("0e-5", "0.00000"),
        (" \t12.3\r\n", "12.3"),
        ("-100.001e2", "-10000.1"),
        (
            "12345678901234567890123456789012345678901234567890.5",
            "12345678901234567890123456789012345678901234567890.5",
        ),
    ] {
        assert_eq!(parse(sent).to_string(), shown, "{sent}");
        assert_eq!(printed(&numeric(&parse(sent))), shown, "{sent}");
    }
}

#[test]
fn other_texts_are_not_numbers() {
    for text in [
        "", " ", "-", "+", ".", "-.", "e5", ".e5", "1e", "1e+", "1e5.0", "1.2.3", "1,000", "1 000", "--1", "+-1",
        "0x10", "NaN", "Infinity", "-inf", "1_000", "٣", "1\u{a0}", "\u{a0}1", "1\0", "1e٣", "1f",
    ] {
        assert_eq!(Decimal::parse(Cow::Borrowed(text)), Err(DecimalError::NotANumber), "{text:?}");
    }
}

#[test]
fn the_limits_of_numeric_are_the_limits() {
    let nines = "9".repeat(131_072);
    let fraction = format!("0.{}", "9".repeat(16_383));
    for text in [
        &nines,
        &fraction,
        "1e131071",
        "0.001e131074",
        "1e-16383",
        &format!("000{nines}"),
        &format!("{nines}.{}", &fraction[2..]),
    ] {
        let number = parse(text);
        assert_eq!(printed(&numeric(&number)), plain(text));
        assert_eq!(number.to_string(), plain(text));
    }
    for text in [
        &format!("{nines}0"),
        &format!("{fraction}0"),
        "1e131072",
        "10e131071",
        "1e-16384",
        "0.1e-16383",
        "0e-16384",
        "1e999999999",
        "-1e-999999999",
        "1e99999999999999999999999999",
        "1e-99999999999999999999999999",
        "0e-99999999999999999999999999",
    ] {
        assert_eq!(Decimal::parse(Cow::Borrowed(text)), Err(DecimalError::OutOfRange), "{:.40}", text);
    }
}

#[test]
fn many_numbers_survive_the_binary_form() {
    let mut random = fastrand::Rng::with_seed(1);
    for _ in 0..100_000 {
        let text = random_text(&mut random);
        let number = parse(&text);
        let expected = plain(&text);
        assert_eq!(number.to_string(), expected, "{text}");
        let (mut short, mut long) = (Vec::new(), Vec::new());
        number.write_numeric(&mut short);
        number.write_long(&mut long);
        assert_eq!(short, long, "{text}");
        assert_eq!(printed(&short), expected, "{text}");
        let owned = Decimal::parse(Cow::Owned(format!(" {text} "))).unwrap();
        assert_eq!((owned.to_string(), &owned), (expected, &number.clone().into_owned()), "{text}");
    }
}

#[test]
fn many_pairs_compare_as_scaled_integers_do() {
    let mut random = fastrand::Rng::with_seed(2);
    let mut n_equal = 0;
    for _ in 0..100_000 {
        let mut text = || {
            let exponent = random.i8(-3..=3);
            format!("{}{}.{}e{exponent}", ["", "-"][random.usize(..2)], random.u32(..20), random.u32(..20))
        };
        let (left, right) = (text(), text());
        let (left, right) = (parse(&left), parse(&right));
        let expected = left.scaled(12).unwrap().cmp(&right.scaled(12).unwrap());
        assert_eq!(left.cmp_value(&right), expected, "{left} {right}");
        assert_eq!(left == right, left.to_string() == right.to_string(), "{left} {right}");
        assert_eq!(left.is_negative(), left.cmp_value(&Decimal::ZERO).is_lt());
        assert_eq!(left.is_zero(), left.cmp_value(&Decimal::ZERO).is_eq());
        n_equal += u32::from(expected.is_eq());
    }
    assert!(n_equal > 20, "{n_equal}");
}

#[test]
fn scaled_cuts_to_a_whole_number() {
    assert_eq!(parse("1.2345").scaled(2), Some(123));
    assert_eq!(parse("-1.2345").scaled(2), Some(-123));
    assert_eq!(parse("1234.5").scaled(-3), Some(1));
    assert_eq!(parse("0.0001").scaled(0), Some(0));
    assert_eq!(parse("1e35").scaled(0), Some(10_i128.pow(35)));
    assert_eq!(parse("1e36").scaled(0), None);
    assert_eq!(parse("0e131071").scaled(99), Some(0));
}

#[test]
fn the_binary_form_is_postgresqls() {
    // select encode(numeric_send(n), 'hex')
    for (text, hex) in [
        ("0", "0000000000000000"),
        ("0.00", "0000000000000002"),
        ("1", "00010000000000000001"),
        ("-1.50", "000200004000000200011388"),
        ("187.2", "000200000000000100bb07d0"),
        ("10000", "00010001000000000001"),
        ("120000000", "0002000200000000000107d0"),
        ("0.0015", "0001ffff00000004000f"),
        ("0.00001234", "0001fffe0000000804d2"),
    ] {
        let bytes: String = numeric(&parse(text)).iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(bytes, hex, "{text}");
    }
}

//! What a number looks like, written down once more: bigdecimal reads `.+1` and `1_0` too.

/// An optional sign, digits with at most one point, an optional exponent; spaces around it.
pub fn is_number(text: &str) -> bool {
    let text = text.trim_ascii();
    let unsigned = text.strip_prefix(['+', '-']).unwrap_or(text);
    let (mantissa, exponent) = match unsigned.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, Some(exponent.strip_prefix(['+', '-']).unwrap_or(exponent))),
        None => (unsigned, None),
    };
    let (integer, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let are_digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    are_digits(integer)
        && are_digits(fraction)
        && !(integer.is_empty() && fraction.is_empty())
        && exponent.is_none_or(|digits| are_digits(digits) && !digits.is_empty())
}

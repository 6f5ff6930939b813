//! Parsers of single values. Each is exact: what it does not understand it refuses, and nothing is guessed.

use std::borrow::Cow;

/// Reads a count as people abbreviate it: `437`, `124k`, `1.2M`, `3B`, either case. The arithmetic is decimal, so `1.2M` is
/// exactly 1,200,000. Signs, thousands separators, exponents and counts that are not whole (`1.5`) are refused.
pub(super) fn count(text: &str) -> Option<i64> {
    let (number, zeros) = match text.as_bytes().last()? {
        b'k' | b'K' => (&text[..text.len() - 1], 3),
        b'm' | b'M' => (&text[..text.len() - 1], 6),
        b'b' | b'B' => (&text[..text.len() - 1], 9),
        _ => (text, 0),
    };
    let (whole, fraction) = match number.split_once('.') {
        Some((whole, fraction)) if !fraction.is_empty() => (whole, fraction),
        Some(_) => return None,
        None => (number, ""),
    };
    if whole.is_empty()
        || !whole
            .bytes()
            .chain(fraction.bytes())
            .all(|byte| byte.is_ascii_digit())
    {
        return None;
    }
    let significant = fraction.trim_end_matches('0');
    if significant.len() > zeros {
        return None;
    }
    let padding = zeros - significant.len();
    whole
        .bytes()
        .chain(significant.bytes())
        .chain(std::iter::repeat_n(b'0', padding))
        .try_fold(0_i64, |total, digit| {
            total.checked_mul(10)?.checked_add(i64::from(digit - b'0'))
        })
}

/// Whether the text is a UUID in its usual form: 8-4-4-4-12 hexadecimal digits.
pub(super) fn is_uuid(text: &str) -> bool {
    text.len() == 36
        && text.bytes().enumerate().all(|(index, byte)| match index {
            8 | 13 | 18 | 23 => byte == b'-',
            _ => byte.is_ascii_hexdigit(),
        })
}

/// The text in lower case (ASCII), so that one key has one spelling; nothing is copied where it is so already.
pub(super) fn lowercase(text: Cow<'_, str>) -> Cow<'_, str> {
    if text.bytes().any(|byte| byte.is_ascii_uppercase()) {
        Cow::Owned(text.to_ascii_lowercase())
    } else {
        text
    }
}

/// Whether the text is an absolute `http` or `https` address with a host and without white space or control characters.
pub(super) fn is_url(text: &str) -> bool {
    let refused = if text.is_ascii() {
        text.bytes().any(|byte| byte <= b' ' || byte == 0x7f)
    } else {
        text.chars()
            .any(|character| character.is_whitespace() || character.is_control())
    };
    !refused && host(text).is_some()
}

/// The host of an `http` or `https` address, without user and port.
pub(super) fn host(text: &str) -> Option<&str> {
    let (scheme, rest) = text.split_once("://")?;
    if !scheme.eq_ignore_ascii_case("http") && !scheme.eq_ignore_ascii_case("https") {
        return None;
    }
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let address = authority
        .rsplit_once('@')
        .map_or(authority, |(_, address)| address);
    let host = match address.strip_prefix('[') {
        Some(bracketed) => bracketed.split_once(']').map(|(inside, _)| inside)?,
        None => address.split_once(':').map_or(address, |(name, _)| name),
    };
    (!host.is_empty()).then_some(host)
}

/// Splits a list of tags, without the white space around them and without empty ones.
pub(super) fn tags<'t>(text: &'t str, separator: &'t str) -> impl Iterator<Item = &'t str> {
    let mut rest = Some(text);
    std::iter::from_fn(move || {
        let (tag, after) = cut(rest?, separator);
        rest = after;
        Some(tag.trim())
    })
    .filter(|tag| !tag.is_empty())
}

/// What is before the first separator, and what is after it. A separator of one byte is looked for as a byte: a general search
/// for every tag was 5 % of all cleaning.
fn cut<'t>(text: &'t str, separator: &str) -> (&'t str, Option<&'t str>) {
    let at = match separator.as_bytes() {
        [byte] => text.bytes().position(|candidate| candidate == *byte),
        _ => text.find(separator),
    };
    match at {
        Some(at) => (&text[..at], Some(&text[at + separator.len()..])),
        None => (text, None),
    }
}

//! JSON that any other program can read.
//!
//! A server forwards what clients write without interpreting it. A parser that refuses one value
//! refuses the whole page of messages that holds it, so one member could lock others out of a
//! room's history. What is forwarded therefore keeps to what RFC 8259 calls interoperable and
//! RFC 7493 (I-JSON) demands: texts without half surrogate pairs, member names once, numbers
//! that a double holds, and no deeper nesting than common parsers accept.

use std::borrow::Cow;
use std::fmt::Display;
use std::str::FromStr;

use serde::{Deserialize, Deserializer};

pub use crate::nesting::is_nested_deeper;

/// The deepest nesting of a value that is forwarded. The smallest common limit is 64
/// (.NET; Ruby has 100, PHP and Perl 512, Jackson 1,000), and in a page of messages a value
/// is three levels deep.
pub const MAX_DEPTH: usize = 60;

/// Longest number that is forwarded, in characters: Jackson reads no longer ones.
const MAX_NUMBER_LEN: usize = 1000;

/// A number of fewer characters is finite unless it has an exponent: the largest double has
/// 309 digits.
const FINITE_LEN: usize = 308;

/// `TryFrom<&str>` and `TryFrom<String>` of a type that has `FromStr`.
macro_rules! try_from_text {
    ($name:ident, $error:ident) => {
        impl TryFrom<&str> for $name {
            type Error = $error;

            fn try_from(text: &str) -> Result<Self, $error> {
                text.parse()
            }
        }

        impl TryFrom<String> for $name {
            type Error = $error;

            fn try_from(text: String) -> Result<Self, $error> {
                text.parse()
            }
        }
    };
}

pub(crate) use try_from_text;

/// Why a value cannot be read by every common parser.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Unportable {
    /// A text or a member's name holds half of a surrogate pair, as in `"\ud83d"`: there is no
    /// UTF-8 for it.
    #[error("holds half of a surrogate pair")]
    LoneSurrogate,
    /// A text or a member's name holds `\u0000`.
    #[error("holds a NUL")]
    Nul,
    /// A number is beyond a double (1.8e308), or longer than 1,000 characters.
    #[error("holds a number that is too large")]
    Number,
    /// An object has a member twice.
    #[error("has a member twice")]
    DuplicateMember,
    /// Arrays and objects are nested deeper than [`MAX_DEPTH`].
    #[error("is nested deeper than {MAX_DEPTH}")]
    Depth,
}

/// Checks that every common parser reads `json`, which must be valid JSON. Reads each byte once.
///
/// ```
/// use chat_core::json::{Unportable, check_portable};
///
/// assert_eq!(check_portable(r#"{"a": [1, 2]}"#), Ok(()));
/// assert_eq!(check_portable(r#"{"a": 1, "a": 2}"#), Err(Unportable::DuplicateMember));
/// ```
///
/// # Errors
/// The first thing that some parser refuses.
pub fn check_portable(json: &str) -> Result<(), Unportable> {
    Scan { json, at: 0, names: Vec::new(), open: Vec::new() }.run()
}

/// The progress of a check.
struct Scan<'a> {
    json: &'a str,
    at: usize,
    /// Names of the members of all objects that are open, the outermost object's first.
    names: Vec<Cow<'a, str>>,
    /// For each array and object that is open, where the names of its members begin.
    open: Vec<usize>,
}

impl Scan<'_> {
    fn run(mut self) -> Result<(), Unportable> {
        while let Some(byte) = self.byte() {
            match byte {
                b'"' => self.string()?,
                b'{' | b'[' => self.enter()?,
                b'}' | b']' => self.leave()?,
                b'-' | b'0'..=b'9' => self.number()?,
                _ => self.at += 1,
            }
        }
        Ok(())
    }

    fn byte(&self) -> Option<u8> {
        self.json.as_bytes().get(self.at).copied()
    }

    fn enter(&mut self) -> Result<(), Unportable> {
        self.at += 1;
        self.open.push(self.names.len());
        if self.open.len() > MAX_DEPTH { Err(Unportable::Depth) } else { Ok(()) }
    }

    /// Sorted, equal names are neighbours: no hash that a client could make collide.
    fn leave(&mut self) -> Result<(), Unportable> {
        self.at += 1;
        let first = self.open.pop().unwrap_or(0);
        let names = &mut self.names[first..];
        names.sort_unstable_by(|a, b| a.len().cmp(&b.len()).then_with(|| a.cmp(b)));
        if names.windows(2).any(|pair| pair[0] == pair[1]) {
            return Err(Unportable::DuplicateMember);
        }
        self.names.truncate(first);
        Ok(())
    }

    fn string(&mut self) -> Result<(), Unportable> {
        let json = self.json;
        let first = self.at + 1;
        let mut is_escaped = false;
        let mut end = first;
        loop {
            let rest = json.as_bytes().get(end..).unwrap_or_default();
            // A string without an end is no JSON, and there is nothing after it.
            let Some(skipped) = find_special(rest) else {
                self.at = json.len();
                return Ok(());
            };
            end += skipped;
            if rest[skipped] == b'"' {
                break;
            }
            is_escaped = true;
            end += portable_escape(&rest[skipped..])?;
        }
        self.at = end + 1;
        self.skip_blanks();
        if self.byte() == Some(b':') {
            let unescaped = || serde_json::from_str(&json[first - 1..=end]).ok();
            let name = is_escaped.then(unescaped).flatten();
            self.names.push(name.map_or(Cow::Borrowed(&json[first..end]), Cow::Owned));
        }
        Ok(())
    }

    fn skip_blanks(&mut self) {
        while matches!(self.byte(), Some(b' ' | b'\t' | b'\n' | b'\r')) {
            self.at += 1;
        }
    }

    fn number(&mut self) -> Result<(), Unportable> {
        let first = self.at;
        let mut has_exponent = false;
        while let Some(byte @ (b'0'..=b'9' | b'+' | b'-' | b'.' | b'e' | b'E')) = self.byte() {
            has_exponent |= matches!(byte, b'e' | b'E');
            self.at += 1;
        }
        let number = &self.json[first..self.at];
        let is_finite = || number.parse::<f64>().is_ok_and(f64::is_finite);
        let is_short = !has_exponent && number.len() <= FINITE_LEN;
        if is_short || number.len() <= MAX_NUMBER_LEN && is_finite() {
            Ok(())
        } else {
            Err(Unportable::Number)
        }
    }
}

/// The index of the first quote or backslash. By 16 bytes, which the compiler compares at once:
/// most of what is forwarded is plain text.
fn find_special(bytes: &[u8]) -> Option<usize> {
    let is_special = |byte: &u8| matches!(byte, b'"' | b'\\');
    let (chunks, _) = bytes.as_chunks::<16>();
    let is_plain =
        |chunk: &&[u8; 16]| !chunk.iter().fold(false, |any, byte| any | is_special(byte));
    let plain = 16 * chunks.iter().take_while(is_plain).count();
    bytes[plain..].iter().position(is_special).map(|at| plain + at)
}

/// How many bytes match. The count of a chunk fits into a byte, so that the compiler compares and
/// adds many bytes at once: each message that is published and delivered is counted over.
pub(crate) fn count(bytes: &[u8], is_counted: impl Fn(u8) -> bool) -> usize {
    let in_chunk = |chunk: &[u8]| chunk.iter().map(|byte| u8::from(is_counted(*byte))).sum::<u8>();
    bytes.chunks(u8::MAX.into()).map(|chunk| usize::from(in_chunk(chunk))).sum()
}

/// Appends `text` as a JSON string: plain text, which is most of it, as it is. `serde_json` looks up
/// each byte.
pub(crate) fn append_string(out: &mut Vec<u8>, text: &str) {
    let is_escaped = |byte| matches!(byte, b'"' | b'\\' | ..b' ');
    if count(text.as_bytes(), is_escaped) > 0 {
        // Writing to a vector does not fail.
        let _ = serde_json::to_writer(out, text);
        return;
    }
    out.push(b'"');
    out.extend_from_slice(text.as_bytes());
    out.push(b'"');
}

/// The length of the escape sequence at the beginning of `bytes`.
fn portable_escape(bytes: &[u8]) -> Result<usize, Unportable> {
    match escape(bytes) {
        Escape::Character { code: 0, .. } => Err(Unportable::Nul),
        Escape::Character { len, .. } => Ok(len),
        Escape::LoneSurrogate => Err(Unportable::LoneSurrogate),
    }
}

/// An escape sequence.
enum Escape {
    /// A character: `\n`, `\u00e9`, a pair of surrogates. `code` is its first `\u` unit.
    Character {
        len: usize,
        code: u16,
    },
    LoneSurrogate,
}

/// A unit `\uXXXX`, in bytes.
const UNIT_LEN: usize = 6;

/// The escape sequence at the beginning of `bytes`.
fn escape(bytes: &[u8]) -> Escape {
    match unit(bytes) {
        Some(0xd800..=0xdbff) => match bytes.get(UNIT_LEN..).and_then(unit) {
            Some(0xdc00..=0xdfff) => Escape::Character { len: 2 * UNIT_LEN, code: 0xd800 },
            _ => Escape::LoneSurrogate,
        },
        Some(0xdc00..=0xdfff) => Escape::LoneSurrogate,
        Some(code) => Escape::Character { len: UNIT_LEN, code },
        None => Escape::Character { len: 2, code: u16::MAX },
    }
}

fn unit(bytes: &[u8]) -> Option<u16> {
    let digits = bytes.strip_prefix(b"\\u")?.get(..4)?;
    digits
        .iter()
        .try_fold(0, |code, digit| Some(code << 4 | char::from(*digit).to_digit(16)? as u16))
}

/// A JSON text with U+FFFD in the place of each half of a surrogate pair, as browsers write
/// such strings in UTF-8. Takes time for the length of the text.
///
/// ```
/// assert_eq!(chat_core::json::replace_lone_surrogates(r#""Zo\ud83d""#), "\"Zo\u{fffd}\"");
/// ```
#[must_use]
pub fn replace_lone_surrogates(string: &str) -> String {
    let mut replaced = String::with_capacity(string.len());
    let mut rest = string;
    while let Some(at) = rest.find('\\') {
        let (before, escaped) = rest.split_at(at);
        replaced.push_str(before);
        let (text, len) = match escape(escaped.as_bytes()) {
            Escape::Character { len, .. } => (escaped.get(..len).unwrap_or(escaped), len),
            Escape::LoneSurrogate => ("\u{fffd}", UNIT_LEN),
        };
        replaced.push_str(text);
        rest = escaped.get(len..).unwrap_or_default();
    }
    replaced + rest
}

/// The integer of a JSON number, in any form: `2`, `2.0`, `20e-1`. `None` for
/// anything else, for what 64 bits do not hold, signed or unsigned, and for `-0`, which no integer
/// type has. Takes time for the length of the text, and none for the size of its exponent.
///
/// ```
/// use chat_core::json::integer;
///
/// assert_eq!([integer("2"), integer("2.0"), integer("0.2e1")], [Some(2); 3]);
/// assert_eq!([integer("2.5"), integer("1e400"), integer("\"2\"")], [None; 3]);
/// ```
#[must_use]
pub fn integer(number: &str) -> Option<i128> {
    const LARGEST_LEN: i64 = 20;
    // As nearly all are.
    if number.len() < 19 && is_digits(number) {
        return number.parse().ok();
    }
    let (is_negative, magnitude) = match number.strip_prefix('-') {
        Some(magnitude) => (true, magnitude),
        None => (false, number),
    };
    let (mantissa, exponent) = match magnitude.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, exponent.parse::<i32>().ok()?),
        None => (magnitude, 0),
    };
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let is_number = !whole.is_empty() && [whole, fraction].iter().all(|part| is_digits(part));
    if !is_number {
        return None;
    }
    let digits =
        if fraction.is_empty() { whole.into() } else { Cow::from(whole.to_owned() + fraction) };
    let digits = digits.trim_start_matches('0');
    let significant = digits.trim_end_matches('0');
    let zeros = digits.len() as i64 - significant.len() as i64;
    let scale = i64::from(exponent) - fraction.len() as i64 + zeros;
    let value = match significant.len() as i64 {
        0 => 0,
        _ if scale < 0 => return None,
        len if len + scale > LARGEST_LEN => return None,
        _ => significant.parse::<i128>().ok()? * 10_i128.pow(scale as u32),
    };
    let value = if is_negative { -value } else { value };
    (i128::from(i64::MIN)..=i128::from(u64::MAX)).contains(&value).then_some(value)
}

/// A text that is borrowed if nothing in it is escaped: by itself serde borrows no `Cow` in an
/// `Option`, or in a key.
#[derive(Deserialize)]
#[serde(transparent)]
pub(crate) struct Text<'a>(#[serde(borrow)] pub(crate) Cow<'a, str>);

/// Deserializes a type that is a text in JSON.
pub(crate) fn from_text<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: FromStr<Err: Display>,
{
    let Text(text) = Text::deserialize(deserializer)?;
    text.parse().map_err(serde::de::Error::custom)
}

fn is_digits(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::Value;

    use super::*;

    fn nested(depth: usize) -> String {
        "[".repeat(depth) + &"]".repeat(depth)
    }

    #[test]
    fn portable_json_is_accepted() {
        let digits = "9".repeat(308);
        let texts = [
            "null",
            "-0",
            "1.7976931348623157e308",
            "1e-400",
            "18446744073709551615",
            &digits,
            "0.1000000000000000055511151231257827",
            r#""\ud83d\ude00 \\ud83d \\\u00e9\"""#,
            "\"\u{ffff}\u{202e}👋\"",
            r#"{"a":{"a":[{"a":1},{"a":2}]},"b":"a","":""}"#,
            r#"["a","a"]"#,
            r#"{"a" : 1 , "A" : 2}"#,
            &nested(MAX_DEPTH),
        ];
        for text in texts {
            assert_eq!(check_portable(text), Ok(()), "{text}");
        }
    }

    #[test]
    fn unportable_json_is_refused() {
        use Unportable::{Depth, DuplicateMember, LoneSurrogate, Nul, Number};
        let (long, deep) = (format!("0.{}", "1".repeat(999)), nested(MAX_DEPTH + 1));
        let table = [
            (r#""\ud83d""#, LoneSurrogate),
            (r#""\ude00\ud83d""#, LoneSurrogate),
            (r#""\ud83d\ud83d\ude00""#, LoneSurrogate),
            (r#""\\\uD83D\\ude00""#, LoneSurrogate),
            (r#"[{"\udC00":1}]"#, LoneSurrogate),
            (r#""\u0000""#, Nul),
            (r#"{"\u0000a":1}"#, Nul),
            ("1e400", Number),
            ("[-1E+400]", Number),
            ("1e99999999999999999999", Number),
            (&"9".repeat(310), Number),
            (&long, Number),
            (r#"{"a":1,"a":1}"#, DuplicateMember),
            (r#"{"a":1,"\u0061":2}"#, DuplicateMember),
            (r#"[{"b":{"c":0,"d":[],"c":0}}]"#, DuplicateMember),
            (r#"{"a":{"a":1},"b":2,"a" :3}"#, DuplicateMember),
            (&deep, Depth),
        ];
        for (text, why) in table {
            assert_eq!(check_portable(text), Err(why), "{text}");
        }
    }

    #[test]
    fn half_pairs_are_replaced_and_nothing_else() {
        for (string, replaced) in [
            (r#""Ann \ud83d""#, "\"Ann \u{fffd}\""),
            (r#""\ude00\ud83d\ude00\n\\ud83d""#, "\"\u{fffd}\\ud83d\\ude00\\n\\\\ud83d\""),
            (r#""\ud83d\ud83d\"""#, "\"\u{fffd}\u{fffd}\\\"\""),
            (r#""é""#, "\"é\""),
        ] {
            assert_eq!(replace_lone_surrogates(string), replaced);
        }
    }

    #[test]
    fn integers_have_many_forms() {
        let zeros = "0".repeat(5000);
        let table = [
            ("0", 0),
            ("0.0", 0),
            ("0e5", 0),
            ("0e-5", 0),
            ("2", 2),
            ("2.0", 2),
            ("2e0", 2),
            ("2E+0", 2),
            ("20e-1", 2),
            ("0.2e1", 2),
            ("1.5e1", 15),
            ("-0", 0),
            ("-0.0", 0),
            ("-7", -7),
            ("-7.0", -7),
            ("1844674407370955161.5e1", i128::from(u64::MAX)),
            ("18446744073709551615", i128::from(u64::MAX)),
            ("-9223372036854775808", i128::from(i64::MIN)),
            (&format!("3{zeros}e-5000"), 3),
            (&format!("3.{zeros}"), 3),
            (&format!("0.{zeros}3e5001"), 3),
        ];
        for (text, value) in table {
            assert_eq!(integer(text), Some(value), "{text}");
        }
    }

    #[test]
    fn other_numbers_are_no_integers() {
        for text in [
            "",
            "-",
            "2.5",
            "25e-1",
            "1e-1",
            "1e20",
            "1e400",
            "1e2147483648",
            "2e",
            "1e-2147483649",
            "18446744073709551616",
            "-9223372036854775809",
            "\"2\"",
            "null",
            "[]",
            "+2",
            ".5",
            "0x2",
            " 2",
            "2 ",
        ] {
            assert_eq!(integer(text), None, "{text}");
        }
    }

    fn value() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<f64>().prop_map(Value::from),
            "[^\0]{0,8}".prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 32, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                prop::collection::btree_map("[^\0]{0,4}", inner, 0..4)
                    .prop_map(|members| members.into_iter().collect()),
            ]
        })
    }

    proptest! {
        #[test]
        fn any_text_is_checked(text in "(\\PC|\\\\u[d0][8c0][0-9]{2}|[\\[\\]{}\",:0-9eE.-]){0,64}") {
            let _ = check_portable(&text);
            let _ = integer(&text);
            let _ = replace_lone_surrogates(&text);
        }

        #[test]
        fn serialized_json_is_portable(value in value()) {
            prop_assert_eq!(check_portable(&value.to_string()), Ok(()));
            prop_assert_eq!(check_portable(&format!("{value:#}")), Ok(()));
        }

        #[test]
        fn integers_of_64_bits_are_read(value in i64::MIN..=i64::MAX, zeros in 0usize..30) {
            prop_assume!(value != 0);
            let zeros = "0".repeat(zeros);
            prop_assert_eq!(integer(&format!("{value}.{zeros}")), Some(i128::from(value)));
            let shifted = format!("{value}{zeros}e-{}", zeros.len());
            prop_assert_eq!(integer(&shifted), Some(i128::from(value)));
        }
    }
}

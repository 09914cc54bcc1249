//! Lists in headers (RFC 9110, section 5.6): elements between commas, the parameters of an element
//! between semicolons, and quoted strings, within which neither separates anything.

use std::borrow::Cow;

/// The elements of a line, without the white space around them. A quote that is not closed makes
/// all the rest of the line part of its element, which then has no valid parameters.
pub(crate) fn elements(line: &str) -> impl Iterator<Item = &str> {
    split(line, ',')
}

/// The parameters of an element, such as `for=192.0.2.60;host="a, b"`; `None` if one is malformed
/// or occurs twice, since servers differ in which one they use. Names compare without case.
pub(crate) fn parameters(element: &str) -> Option<Vec<(&str, Cow<'_, str>)>> {
    let mut found: Vec<(&str, Cow<'_, str>)> = Vec::new();
    for pair in split(element, ';').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=')?;
        let is_known = found.iter().any(|(known, _)| known.eq_ignore_ascii_case(name));
        if is_known || !is_token(name) {
            return None;
        }
        found.push((name, unquoted(value)?));
    }
    Some(found)
}

/// Splits at `separator`, except in quoted strings.
fn split(text: &str, separator: char) -> impl Iterator<Item = &str> {
    let (mut is_quoted, mut is_escaped) = (false, false);
    let parts = text.split(move |next| {
        let was_escaped = std::mem::take(&mut is_escaped);
        match next {
            '"' if !was_escaped => is_quoted = !is_quoted,
            '\\' if is_quoted && !was_escaped => is_escaped = true,
            _ => {}
        }
        next == separator && !is_quoted
    });
    parts.map(|part| part.trim_matches([' ', '\t']))
}

/// The value of a parameter. Without quotes it may contain more than a token, such as the colon of
/// an address: not every proxy quotes those.
fn unquoted(value: &str) -> Option<Cow<'_, str>> {
    let Some(inner) = value.strip_prefix('"') else {
        let is_plain = |byte: u8| byte.is_ascii_graphic() && !matches!(byte, b'"' | b'\\');
        return (!value.is_empty() && value.bytes().all(is_plain)).then_some(Cow::Borrowed(value));
    };
    let inner = inner.strip_suffix('"')?;
    if !inner.contains(['"', '\\']) {
        return Some(Cow::Borrowed(inner));
    }
    let mut text = String::with_capacity(inner.len());
    let mut rest = inner.chars();
    while let Some(next) = rest.next() {
        match next {
            '"' => return None,
            '\\' => text.push(rest.next()?),
            _ => text.push(next),
        }
    }
    Some(Cow::Owned(text))
}

fn is_token(name: &str) -> bool {
    let is_of_token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    !name.is_empty() && name.bytes().all(is_of_token)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn listed(line: &str) -> Vec<&str> {
        elements(line).collect()
    }

    fn pairs(element: &str) -> Option<Vec<(String, String)>> {
        let pairs = parameters(element)?.into_iter();
        Some(pairs.map(|(name, value)| (name.to_owned(), value.into_owned())).collect())
    }

    fn pair(name: &str, value: &str) -> (String, String) {
        (name.to_owned(), value.to_owned())
    }

    #[test]
    fn commas_separate_elements_outside_of_quotes() {
        assert_eq!(listed("a, b\t,c"), ["a", "b", "c"]);
        assert_eq!(listed(r#"a;h="x,y", b"#), [r#"a;h="x,y""#, "b"]);
        assert_eq!(listed(r#"h="\",", b"#), [r#"h="\",""#, "b"], "an escaped quote closes nothing");
        assert_eq!(listed(r#"h="\\", b"#), [r#"h="\\""#, "b"], "an escaped backslash escapes none");
        assert_eq!(listed(r#"a, h="x, b"#), ["a", r#"h="x, b"#], "not closed");
        assert_eq!(listed(r"a\, b"), [r"a\", "b"], "nothing is escaped outside of quotes");
        assert_eq!(listed(""), [""]);
        assert_eq!(listed(",a,"), ["", "a", ""]);
    }

    #[test]
    fn parameters_have_tokens_or_quoted_strings() {
        assert_eq!(
            pairs(r#"for=192.0.2.60; proto=http ;by="[2001:db8::1]:4711";"#).unwrap(),
            [pair("for", "192.0.2.60"), pair("proto", "http"), pair("by", "[2001:db8::1]:4711")]
        );
        assert_eq!(pairs(r#"h="a;b,c\"\\\x=""#).unwrap(), [pair("h", r#"a;b,c"\x="#)]);
        assert_eq!(pairs("").unwrap(), []);
        for malformed in [
            "for",
            "=1",
            "for=",
            "for =1",
            "for= 1",
            "f or=1",
            "for=1.2.3.4;For=6.6.6.6",
            r#"for="1"#,
            r#"for=1""#,
            r#"for="1"2""#,
            r#"for="1\"#,
            r#"for="1\""#,
            r#"for="1" 2"#,
            r"for=\1",
        ] {
            assert_eq!(pairs(malformed), None, "{malformed}");
        }
    }

    proptest! {
        #[test]
        fn nothing_is_lost_between_elements(line in "[ -~\t]{0,64}") {
            let without = |text: &str| text.replace([' ', '\t'], "");
            let joined = elements(&line).collect::<Vec<_>>().join(",");
            prop_assert_eq!(without(&joined), without(&line));
            for element in elements(&line) {
                let _ = parameters(element);
            }
        }

        /// A quoted text of a client is one value.
        #[test]
        fn quoted_text_separates_nothing(text in "[ -~]{0,64}") {
            let quoted = text.replace('\\', r"\\").replace('"', "\\\"");
            let line = format!("for=1.2.3.4;host=\"{quoted}\", for=5.6.7.8");
            let elements = listed(&line);
            prop_assert_eq!(elements.len(), 2);
            let expected = vec![pair("for", "1.2.3.4"), pair("host", &text)];
            prop_assert_eq!(pairs(elements[0]), Some(expected));
            prop_assert_eq!(elements[1], "for=5.6.7.8");
        }
    }
}

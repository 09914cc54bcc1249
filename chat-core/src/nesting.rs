//! How deep a JSON text is nested.

use crate::json;

/// Whether arrays and objects are nested more than `limit` deep in `json`. The text
/// need not be valid: brackets inside of strings do not count.
///
/// What the server forwards unread, from one client to others, their parsers have to read; some of
/// these recurse for each bracket.
#[must_use]
pub fn is_nested_deeper(json: &str, limit: usize) -> bool {
    // Most frames have too few brackets to be nested that deep, wherever these are.
    if json::count(json.as_bytes(), |byte| matches!(byte, b'[' | b'{')) <= limit {
        return false;
    }
    let mut depth = 0_usize;
    let (mut in_string, mut is_escaped) = (false, false);
    for byte in json.bytes() {
        match byte {
            _ if is_escaped => is_escaped = false,
            b'\\' => is_escaped = in_string,
            b'"' => in_string = !in_string,
            b'[' | b'{' if !in_string => {
                depth += 1;
                if depth > limit {
                    return true;
                }
            }
            b']' | b'}' if !in_string => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn nested(depth: usize) -> String {
        let open = "[".repeat(depth);
        let close = "]".repeat(depth);
        format!("{open}\"}}]\\\"[[[[[[[[\"{close}")
    }

    #[test]
    fn brackets_count_and_those_in_strings_do_not() {
        for limit in 1..6 {
            assert!(!is_nested_deeper(&nested(limit), limit));
            assert!(is_nested_deeper(&nested(limit + 1), limit));
        }
        assert!(!is_nested_deeper(r#"[[],[],{"a":[]}]"#, 3));
        assert!(is_nested_deeper(r#"[[],[],{"a":[]}]"#, 2));
        assert!(!is_nested_deeper(r#""\\" [ "\"[""#, 1));
    }

    proptest! {
        #[test]
        fn any_text_is_measured(text in "\\PC{0,64}", limit in 0usize..4) {
            let _ = is_nested_deeper(&text, limit);
        }
    }
}

//! Names by pattern.

/// A text in which `*` matches any text, also an empty one; every other character matches itself.
///
/// ```
/// use chat_core::Pattern;
///
/// let pattern = Pattern::from("team-*-support");
/// assert!(pattern.matches("team-7-support"));
/// assert!(!pattern.matches("team-7"));
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pattern(String);

impl Pattern {
    /// Whether the whole of `name` is this pattern, with some text for each `*`. Takes time in
    /// proportion to both lengths multiplied, at worst.
    #[must_use]
    pub fn matches(&self, name: &str) -> bool {
        matches(&self.0, name)
    }

    /// Whether this pattern begins with `mark`, and the rest of it is `name`.
    pub(crate) fn matches_after(&self, mark: char, name: &str) -> bool {
        self.0.strip_prefix(mark).is_some_and(|pattern| matches(pattern, name))
    }

    /// The text of the pattern.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

fn matches(pattern: &str, name: &str) -> bool {
    let mut parts = pattern.split('*');
    let Some(mut rest) = parts.next().and_then(|first| name.strip_prefix(first)) else {
        return false;
    };
    let mut parts = parts.peekable();
    if parts.peek().is_none() {
        return rest.is_empty();
    }
    while let Some(part) = parts.next() {
        if parts.peek().is_none() {
            return rest.ends_with(part);
        }
        // The earliest place leaves the most for the parts that follow.
        let Some(at) = rest.find(part) else { return false };
        rest = &rest[at + part.len()..];
    }
    true
}

impl From<&str> for Pattern {
    fn from(pattern: &str) -> Self {
        Self(pattern.to_owned())
    }
}

impl From<String> for Pattern {
    fn from(pattern: String) -> Self {
        Self(pattern)
    }
}

impl From<&String> for Pattern {
    fn from(pattern: &String) -> Self {
        Self(pattern.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns() {
        for (pattern, name) in [
            ("a", "a"),
            ("*", ""),
            ("*", "anything"),
            ("a*", "a"),
            ("a*", "abc"),
            ("*c", "abc"),
            ("a*c", "abbc"),
            ("a*b*c", "aXbXbc"),
            ("*é*", "café au lait"),
            ("**", "x"),
        ] {
            assert!(matches(pattern, name), "{pattern} {name}");
        }
        for (pattern, name) in [
            ("a", "ab"),
            ("a", ""),
            ("a*", "b"),
            ("*c", "cb"),
            ("ab*b", "ab"),
            ("a*b*c", "acb"),
            ("*b*b*", "ab"),
        ] {
            assert!(!matches(pattern, name), "{pattern} {name}");
        }
    }
}

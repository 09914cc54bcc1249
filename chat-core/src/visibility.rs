//! Which characters a reader sees, and which reorder the text around them.
//!
//! Unicode has no property for "prints something". The nearest ones decide:
//! `White_Space`, `Default_Ignorable_Code_Point`, the general category `Cf`, and a few characters
//! that are letters or symbols by category and blank by their glyph. Joiners and variation
//! selectors are invisible as well: an emoji or a Persian word that holds some is seen by its
//! other characters. Control characters that are no white space are visible: browsers show a
//! glyph for each (CSS Text 3, section 3.1).

use std::borrow::Cow;

/// Whether nothing of `text` can be seen. An empty text is invisible, too.
pub(crate) fn is_invisible(text: &str) -> bool {
    text.chars().all(is_invisible_char)
}

/// Whether `text` holds a character that is there to reorder others (Unicode: `Bidi_Control`).
pub(crate) fn has_bidi_control(text: &str) -> bool {
    !text.is_ascii() && text.contains(is_bidi_control)
}

/// Unicode: `Bidi_Control`. Overrides and embeddings change how the text after them is read,
/// in any frame, page or log line that holds a name.
pub(crate) fn is_bidi_control(c: char) -> bool {
    matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// A text for a terminal or a line of a log, whatever a client has written: control characters,
/// which a terminal obeys, separators of lines, and characters that reorder the text around them are
/// escaped. Quotes, backslashes and all others stay.
///
/// ```
/// assert_eq!(chat_core::printable("\"é\"\n\u{1b}[2J\u{202e}"), r#""é"\n\u{1b}[2J\u{202e}"#);
/// ```
#[must_use]
pub fn printable(text: &str) -> Cow<'_, str> {
    if !text.contains(is_unprintable) {
        return Cow::Borrowed(text);
    }
    let mut escaped = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        match is_unprintable(c) {
            true => escaped.extend(c.escape_default()),
            false => escaped.push(c),
        }
    }
    escaped.into()
}

fn is_unprintable(c: char) -> bool {
    c.is_control() || is_bidi_control(c) || matches!(c, '\u{2028}' | '\u{2029}')
}

fn is_invisible_char(c: char) -> bool {
    if c.is_ascii() {
        return matches!(c, ' ' | '\t'..='\r');
    }
    c.is_whitespace() || is_default_ignorable(c) || is_other_format(c) || is_blank(c)
}

/// `Default_Ignorable_Code_Point` of Unicode 17.0 (DerivedCoreProperties.txt), above ASCII.
/// A test compares it with the data of `icu_properties`.
fn is_default_ignorable(c: char) -> bool {
    matches!(c,
        '\u{ad}' | '\u{34f}' | '\u{61c}'
        // Fillers of Hangul, and inherent vowels of Khmer.
        | '\u{115f}'..='\u{1160}' | '\u{3164}' | '\u{ffa0}' | '\u{17b4}'..='\u{17b5}'
        | '\u{180b}'..='\u{180f}'
        | '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{206f}'
        | '\u{fe00}'..='\u{fe0f}' | '\u{feff}' | '\u{fff0}'..='\u{fff8}'
        | '\u{1bca0}'..='\u{1bca3}' | '\u{1d173}'..='\u{1d17a}'
        // Tags, and variation selectors.
        | '\u{e0000}'..='\u{e0fff}')
}

/// General category `Cf` beyond the [ignorable](is_default_ignorable), less those that print a
/// sign of their own (`Prepended_Concatenation_Mark`): annotations, joiners of hieroglyphs.
fn is_other_format(c: char) -> bool {
    matches!(c, '\u{fff9}'..='\u{fffb}' | '\u{13430}'..='\u{1343f}')
}

/// Blank glyphs that count as letters, marks or symbols: the empty Braille pattern, hieroglyphic
/// blanks, the Khitan filler, the null notehead.
fn is_blank(c: char) -> bool {
    matches!(c, '\u{2800}' | '\u{13441}' | '\u{13442}' | '\u{16fe4}' | '\u{1d159}')
}

#[cfg(test)]
mod tests {
    use icu_properties::CodePointMapData;
    use icu_properties::CodePointSetData;
    use icu_properties::props::{
        BidiControl, DefaultIgnorableCodePoint, GeneralCategory, PrependedConcatenationMark,
        WhiteSpace,
    };

    use super::*;

    /// Fails when a later Unicode adds characters: then add them to the tables above.
    #[test]
    fn tables_are_those_of_unicode() {
        let ignorable = CodePointSetData::new::<DefaultIgnorableCodePoint>();
        let bidi = CodePointSetData::new::<BidiControl>();
        let space = CodePointSetData::new::<WhiteSpace>();
        let prepended = CodePointSetData::new::<PrependedConcatenationMark>();
        let category = CodePointMapData::<GeneralCategory>::new();
        for c in char::MIN..=char::MAX {
            assert_eq!(is_bidi_control(c), bidi.contains(c), "{c:?}");
            let is_format = category.get(c) == GeneralCategory::Format && !prepended.contains(c);
            let is_nothing = ignorable.contains(c) || space.contains(c) || is_format;
            assert_eq!(is_invisible_char(c), is_nothing || is_blank(c), "{c:?}");
        }
    }

    #[test]
    fn text_is_seen_by_one_visible_character() {
        let invisible = [
            "",
            " ",
            "\t\u{a0}\u{3000}\u{2028}",
            "\u{200b}\u{200d}\u{feff}",
            "\u{2800}",
            "\u{3164}",
            "\u{115f}\u{1160}\u{ffa0}",
            "\u{fe0f}",
            "\u{e0041}\u{e007f}",
            "\u{ad}",
            "\u{202e}\u{2066}",
            "\u{180e}",
        ];
        for text in invisible {
            assert!(is_invisible(text), "{text:?}");
        }
        let visible = [
            "a",
            " a ",
            ".",
            "👩\u{200d}👩\u{200d}👧",
            "❤\u{fe0f}",
            "می\u{200c}خواهم",
            "\u{301}",
            "\u{600}",
            "日本語",
            "🏴\u{e0067}\u{e0062}\u{e007f}",
            "한글",
        ];
        for text in visible {
            assert!(!is_invisible(text), "{text:?}");
        }
    }
}

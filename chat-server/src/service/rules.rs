//! Limits on names and on the nesting of JSON.

use chat_core::{Content, ErrorCode, Rejection, json};

/// Rejects a name that is longer than the server allows.
pub(crate) fn check_name(code: ErrorCode, name: &str, max: usize) -> Result<(), Rejection> {
    let length = name.len();
    if length <= max {
        return Ok(());
    }
    Err(Rejection::new(code, format!("A name has at most {max} bytes, not {length}.")))
}

/// Rejects the content of a message that no frame of a client could have.
pub(crate) fn check_content(content: &Content<'_>, max_nesting: usize) -> Result<(), Rejection> {
    if let Some(data) = content.data {
        // The frame around the data is one level.
        check_nesting(data.get(), max_nesting.saturating_sub(1))?;
    }
    content.check()
}

/// Rejects JSON that could break the parser of another client.
pub(crate) fn check_nesting(json: &str, max: usize) -> Result<(), Rejection> {
    if !json::is_nested_deeper(json, max) {
        return Ok(());
    }
    let message = format!("The JSON of a frame is nested at most {max} levels deep.");
    Err(Rejection::new(ErrorCode::BadJson, message))
}

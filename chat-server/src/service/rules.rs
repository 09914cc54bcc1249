//! Limits on names and on the nesting of JSON.

use chat_core::{ErrorCode, Rejection, json};

/// Rejects a name that is longer than the server allows.
pub(crate) fn check_name(code: ErrorCode, name: &str, max: usize) -> Result<(), Rejection> {
    let length = name.len();
    if length <= max {
        return Ok(());
    }
    Err(Rejection::new(code, format!("A name has at most {max} bytes, not {length}.")))
}

/// Rejects JSON that could break the parser of another client.
pub(crate) fn check_nesting(json: &str, max: usize) -> Result<(), Rejection> {
    if !json::is_nested_deeper(json, max) {
        return Ok(());
    }
    let message = format!("The JSON of a frame is nested at most {max} levels deep.");
    Err(Rejection::new(ErrorCode::BadJson, message))
}

//! The limits of a server. A request that the server would refuse fails on the client: a frame above
//! the limit would cost the connection, and everything in flight on it.

use serde_json::value::RawValue;

use crate::wire::Limits;

use super::error::ClientError;

/// The limits until a server sends its own: a server with default settings refuses a larger frame. The
/// length of a message is checked once its limit is known.
pub(super) fn default_limits() -> Limits {
    Limits::new(usize::MAX, 233_472)
}

pub(super) fn check_message(
    limits: &Limits,
    text: &str,
    data: Option<&RawValue>,
) -> Result<(), ClientError> {
    let limit = limits.message_bytes;
    let is_short = text.len() <= limit && data.is_none_or(|data| data.get().len() <= limit);
    if is_short { Ok(()) } else { Err(ClientError::MessageTooLong { limit }) }
}

pub(super) fn check_frame(limits: &Limits, bytes: usize) -> Result<(), ClientError> {
    if bytes <= limits.frame_bytes { Ok(()) } else { Err(ClientError::TooLarge { bytes }) }
}

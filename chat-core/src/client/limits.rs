//! What a server takes, and what a client therefore does not send.

use serde::Deserialize;
use serde_json::value::RawValue;

use crate::RoomId;

use super::error::ClientError;
use super::pace::Rates;

/// The limits of a `welcome`. What the server would refuse is the error of the call that asks
/// for it: a frame above the limit would cost the connection, and all that is on its way there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub(super) struct Limits {
    /// Longest text of a message, and longest `data`, in bytes.
    pub(super) message_bytes: usize,
    /// Largest frame, in bytes.
    pub(super) frame_bytes: usize,
    /// Messages that may be unanswered before the server reads no further.
    #[serde(default = "default_in_flight")]
    pub(super) in_flight: usize,
    #[serde(flatten)]
    pub(super) rates: Rates,
}

/// Until a server gives its own: a frame for which it is too small is refused by every server
/// that is not set otherwise. The length of a message is checked once it is known.
impl Default for Limits {
    fn default() -> Self {
        Self {
            message_bytes: usize::MAX,
            frame_bytes: 233_472,
            in_flight: default_in_flight(),
            rates: Rates::default(),
        }
    }
}

fn default_in_flight() -> usize {
    64
}

impl Limits {
    pub(super) fn check_message(
        &self,
        message: &str,
        data: Option<&RawValue>,
    ) -> Result<(), ClientError> {
        let limit = self.message_bytes;
        let is_short = message.len() <= limit && data.is_none_or(|data| data.get().len() <= limit);
        if is_short { Ok(()) } else { Err(ClientError::MessageTooLong { limit }) }
    }

    pub(super) fn check_frame(&self, bytes: usize) -> Result<(), ClientError> {
        if bytes <= self.frame_bytes { Ok(()) } else { Err(ClientError::TooLarge { bytes }) }
    }
}

pub(super) fn check_room(name: &str) -> Result<(), ClientError> {
    RoomId::new(name).map(drop).map_err(|_| ClientError::RoomName)
}

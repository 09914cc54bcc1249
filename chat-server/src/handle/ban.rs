//! Options of a ban.

use std::time::Duration;

use crate::moderation::LONGEST_BAN;

/// Options of a ban. The default has no reason, and the longest time.
///
/// ```
/// use std::time::Duration;
/// use chat_server::BanOptions;
///
/// let hour = BanOptions::default().reason("spam").expires_in(Duration::from_secs(3600));
/// assert_eq!(hour.reason.as_deref(), Some("spam"));
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct BanOptions {
    /// The reason, which the user receives, in at most
    /// [`MAX_REASON_BYTES`](chat_core::Sanction::MAX_REASON_BYTES), 512. Default: none.
    pub reason: Option<String>,
    /// How long the ban lasts: more than 0, and at most ten years, which is the default.
    pub expires_in: Duration,
}

impl Default for BanOptions {
    fn default() -> Self {
        Self { reason: None, expires_in: LONGEST_BAN }
    }
}

impl BanOptions {
    /// Sets [`reason`](Self::reason).
    #[must_use]
    pub fn reason(mut self, reason: impl Into<String>) -> Self {
        self.reason = Some(reason.into());
        self
    }

    /// Sets [`expires_in`](Self::expires_in).
    #[must_use]
    pub fn expires_in(mut self, expires_in: Duration) -> Self {
        self.expires_in = expires_in;
        self
    }
}

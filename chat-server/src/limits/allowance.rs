//! What one connection may use.

use std::time::Duration;

use super::rate::{Bucket, Rate};
use super::shares::Part;
use super::{Admission, Limits};

/// A connection's own buckets, and its parts in those that it shares.
#[derive(Debug)]
pub(crate) struct Allowance {
    /// Given back with the connection.
    admission: Admission,
    user: Option<Part>,
    frames: Bucket,
    joins: Bucket,
    errors: Bucket,
}

/// What a connection does too much of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Excess {
    /// Which limit, as metrics name it.
    pub(crate) limit: &'static str,
    /// In how long there will be room for one more.
    pub(crate) retry_after: Duration,
}

impl Allowance {
    pub(crate) fn new(admission: Admission) -> Self {
        Self {
            admission,
            user: None,
            frames: Bucket::default(),
            joins: Bucket::default(),
            errors: Bucket::default(),
        }
    }

    /// The connection is of a user who may have others.
    pub(crate) fn share_with(&mut self, user: Option<Part>) {
        self.user = user;
    }

    /// A frame came in.
    pub(crate) fn frame(&self, limits: &Limits) -> Result<(), Excess> {
        let config = limits.config();
        if config.frames.is_none() && self.user.is_none() && self.admission.address.is_none() {
            return Ok(());
        }
        let now = limits.now();
        take("connection_rate", Some(&self.frames), config.frames, now)?;
        take("user_rate", self.user.as_ref().map(Part::frames), config.frames_per_user, now)?;
        take(
            "address_rate",
            self.admission.address.as_ref().map(Part::frames),
            config.frames_per_address,
            now,
        )
    }

    /// A room is to be joined.
    pub(crate) fn join(&self, limits: &Limits) -> Result<(), Excess> {
        take("join_rate", Some(&self.joins), limits.config().joins, limits.now())
    }

    /// A user is to be put out.
    pub(crate) fn sanction(&self, limits: &Limits) -> Result<(), Excess> {
        let bucket = self.user.as_ref().map(Part::sanctions);
        take("sanction_rate", bucket, limits.config().sanctions, limits.now())
    }

    /// A frame is refused; an error: it is one too many.
    pub(crate) fn error(&self, limits: &Limits) -> Result<(), Excess> {
        take("errors", Some(&self.errors), limits.config().errors, limits.now())
    }
}

fn take(
    limit: &'static str,
    bucket: Option<&Bucket>,
    rate: Option<Rate>,
    now: Duration,
) -> Result<(), Excess> {
    match (bucket, rate) {
        (Some(bucket), Some(rate)) => {
            bucket.take(rate, now).map_err(|retry_after| Excess { limit, retry_after })
        }
        _ => Ok(()),
    }
}

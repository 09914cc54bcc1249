//! Closes a connection that has not authenticated in time, or whose identity has expired and is not
//! renewed.

use std::future::poll_fn;
use std::pin::Pin;
use std::task::Poll;
use std::time::SystemTime;

use chat_core::{CloseReason, Deliver};
use tokio::time::{Instant, Sleep, sleep_until};

use super::Connection;
use crate::auth::{self, Handshake};
use crate::deadline::Deadline;

/// When to ask the authenticator again about a client without a token: the application may extend the
/// session of a cookie while the connection lives.
pub(super) struct Renewal {
    handshake: Box<Handshake>,
    at: Instant,
}

impl Connection {
    /// Sets the deadline by the access of the connection: to authenticate, or the end of the token.
    pub(super) fn set_deadline(&mut self) {
        let config = &self.state.config;
        let at = self.access.deadline(config.auth_timeout, config.token_grace);
        self.deadline = Deadline::new(at);
    }

    /// Renews the identity by `handshake` when it expires.
    pub(super) fn set_renewal(&mut self, handshake: Option<Box<Handshake>>) {
        let at = self.access.expires_in().and_then(|time| Instant::now().checked_add(time));
        let renewal = handshake.zip(at).map(|(handshake, at)| Box::new(Renewal { handshake, at }));
        self.renewal = renewal;
    }

    /// When the task of the connection has to act: a renewal precedes the deadline.
    pub(super) fn wake_at(&self) -> Option<Instant> {
        match &self.renewal {
            Some(renewal) => Some(renewal.at),
            None => self.deadline.at(),
        }
    }

    /// Renews the identity, or ends the connection, if it is time for that.
    pub(super) async fn on_timer(&mut self) {
        match self.renewal.take_if(|renewal| renewal.at <= Instant::now()) {
            // Boxed: few connections get here, and the task of each would reserve space for it.
            Some(renewal) => Box::pin(self.renew(renewal)).await,
            None => self.on_deadline(),
        }
    }

    /// When a wait for the client to read its outbox ends. It does not ask the authenticator, which is
    /// asked when the wait has ended: until then the client may stay for the time of one message.
    pub(super) fn read_deadline(&self) -> Deadline {
        match &self.renewal {
            Some(_) => self.deadline.later(self.time_limit()),
            None => self.deadline,
        }
    }

    /// Asks the authenticator again. If it does not extend the identity, the deadline stays, until
    /// which the client may send a token.
    async fn renew(&mut self, renewal: Box<Renewal>) {
        let Some(authenticator) = self.state.authenticator.clone() else { return };
        let (handshake, time_limit) = (renewal.handshake, self.state.config.auth_timeout);
        let credentials = handshake.credentials();
        let renewed = auth::authenticate(&*authenticator, &credentials, time_limit).await;
        let identity = match renewed {
            Ok(identity) => identity,
            Err(error) => return self.log_rejected(&error, Some(&self.member.user.id)),
        };
        let is_later = identity.expires.is_none_or(|expires| expires > SystemTime::now());
        if identity.user != self.member.user.id {
            // The session is of another user now, which this connection cannot become.
            return self.member.expire();
        }
        if is_later && self.on_authenticated(identity).await.is_ok() {
            self.set_renewal(Some(handshake));
        }
    }

    /// Ends the connection if its deadline has passed.
    fn on_deadline(&mut self) {
        if !self.deadline.has_passed() {
            return;
        }
        self.deadline = Deadline::default();
        if self.access.is_pending() {
            self.member.close(CloseReason::PolicyViolation);
        } else {
            self.member.expire();
        }
    }
}

/// Elapses at the deadline of a connection. `None` where there is no deadline, as for most: boxed,
/// so that those have no `Sleep` in their task.
pub(super) type Timer = Option<Pin<Box<Sleep>>>;

pub(super) fn set(timer: &mut Timer, at: Option<Instant>) {
    match (timer.as_mut(), at) {
        (Some(sleep), Some(at)) if sleep.deadline() == at => {}
        (Some(sleep), Some(at)) => sleep.as_mut().reset(at),
        (_, at) => *timer = at.map(|at| Box::pin(sleep_until(at))),
    }
}

/// Waits for the timer. The future borrows the timer and adds no state of its own to the task.
pub(super) fn elapsed(timer: &mut Timer) -> impl Future<Output = ()> {
    poll_fn(|cx| timer.as_mut().map_or(Poll::Pending, |sleep| sleep.as_mut().poll(cx)))
}

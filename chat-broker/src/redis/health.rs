//! Whether all connections to Redis work, and one line in the log when that changes.

use std::fmt;
use std::sync::Arc;

use tokio::sync::watch;

/// The connections of one broker.
#[derive(Debug)]
pub(super) struct Health {
    state: watch::Sender<State>,
}

#[derive(Debug)]
struct State {
    connections: usize,
    up: usize,
    /// Whether the last line in the log said that Redis is away.
    away: bool,
}

/// The health of one connection.
#[derive(Debug)]
pub(super) struct Side {
    health: Arc<Health>,
    up: bool,
}

impl Health {
    /// Of this many connections, none of which is up.
    pub(super) fn new(connections: usize) -> Arc<Self> {
        let state = State { connections, up: 0, away: false };
        Arc::new(Self { state: watch::Sender::new(state) })
    }

    pub(super) fn side(self: &Arc<Self>) -> Side {
        Side { health: Arc::clone(self), up: false }
    }

    pub(super) fn is_ready(&self) -> bool {
        self.state.borrow().is_ready()
    }

    /// Waits until all connections are up, or one has failed.
    pub(super) async fn first_report(&self) {
        // Fails if the sender is gone, which is `self`.
        let _ = self.state.subscribe().wait_for(|state| state.is_ready() || state.away).await;
    }
}

impl State {
    fn is_ready(&self) -> bool {
        self.up == self.connections
    }
}

impl Side {
    pub(super) fn set_up(&mut self) {
        if !std::mem::replace(&mut self.up, true) {
            self.health.state.send_modify(|state| {
                state.up += 1;
                if state.is_ready() && state.away {
                    state.away = false;
                    tracing::info!("redis is back");
                }
            });
        }
    }

    pub(super) fn set_down(&mut self, cause: &dyn fmt::Display) {
        let was_up = std::mem::replace(&mut self.up, false);
        self.health.state.send_modify(|state| {
            state.up -= usize::from(was_up);
            if !state.away {
                state.away = true;
                tracing::warn!(%cause, "redis is away, reconnecting");
            }
        });
    }
}

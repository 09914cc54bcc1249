//! The secret that all nodes share.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use redis::Pipeline;

use crate::error::BrokerError;
use crate::random;
use crate::redis::connection::store::Store;

type Secret = [u8; 32];

/// The secret in Redis, and what this node knows of it.
#[derive(Debug)]
pub(crate) struct SharedSecret {
    store: Arc<Store>,
    /// As this node has read it first: what it has signed since is signed with it.
    held: OnceLock<Secret>,
    /// A line was logged that Redis has another secret.
    is_other_logged: AtomicBool,
}

impl SharedSecret {
    pub(crate) fn new(store: &Arc<Store>) -> Self {
        let (held, is_other_logged) = Default::default();
        Self { store: Arc::clone(store), held, is_other_logged }
    }

    /// See [`SharedTable::secret`](crate::SharedTable::secret).
    pub(crate) async fn get(&self) -> Result<Secret, BrokerError> {
        let held = self.held.get().copied();
        // If Redis has lost the secret, it gets back the one that resume secrets are signed with.
        let proposal = held.map_or_else(random::secret, Ok)?;
        let (secret, is_new) = self.propose(proposal).await?;
        match (held, is_new) {
            (None, true) => {
                tracing::info!(
                    "redis has no secret, storing a new one: earlier resume secrets are void"
                );
            }
            (Some(_), true) => log_lost_secret(),
            (_, false) => {}
        }
        // The first one to arrive is the one that all callers go on with.
        Ok(*self.held.get_or_init(|| secret))
    }

    /// Writes the secret again if Redis has lost it: a server that starts would make another, and
    /// refuse what this one has signed.
    pub(crate) async fn restore(&self) {
        let Some(held) = self.held.get() else { return };
        match self.propose(*held).await {
            Ok((_, true)) => log_lost_secret(),
            Ok((secret, false)) if secret != *held => {
                if !self.is_other_logged.swap(true, Ordering::Relaxed) {
                    tracing::warn!(
                        "redis holds another secret than this server: servers refuse each other's \
                         resume secrets until this one is restarted"
                    );
                }
            }
            Ok(_) => {}
            Err(error) => tracing::debug!(%error, "the secret could not be read"),
        }
    }

    /// Reads the secret, or stores this one; returns it, and whether it was stored.
    async fn propose(&self, secret: Secret) -> Result<(Secret, bool), BrokerError> {
        let mut commands = Pipeline::with_capacity(1);
        let key = self.store.shared.names.secret();
        self.store.shared.scripts.secret.call(&mut commands, &[&key]).arg(&secret);
        let ask = self.store.query_shared(&commands, &key);
        let ((stored, is_new),): ((Vec<u8>, bool),) = self.store.in_time(ask).await?;
        let stored = stored.try_into().map_err(|_| {
            self.store.shared.damage.note_secret(&key);
            BrokerError::refused(format!("{key}: the secret is not 32 bytes"))
        })?;
        Ok((stored, is_new))
    }
}

fn log_lost_secret() {
    tracing::warn!("redis lost the secret, writing it again");
}

//! Carries out the work of a hub.

use std::fmt;
use std::panic::resume_unwind;
use std::sync::Arc;

use chat_core::Deliver;
use futures_util::future::{BoxFuture, FutureExt};
use futures_util::stream::{FuturesUnordered, StreamExt};
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::{Shared, fan_out, ingest, interest, presence};
use crate::events::BrokerEvents;

/// Does the work of a [`Hub`](super::Hub): without [`run`](Self::run) nothing is delivered.
pub struct HubDriver<M> {
    shared: Arc<Shared<M>>,
    events: BrokerEvents,
}

impl<M> HubDriver<M> {
    pub(super) fn new(shared: Arc<Shared<M>>, events: BrokerEvents) -> Self {
        Self { shared, events }
    }
}

impl<M: Deliver + Clone + 'static> HubDriver<M> {
    /// Runs until the broker's events end, that is until the broker is closed. All
    /// [`workers`](super::HubConfig::workers) but one run on threads of their own.
    ///
    /// # Panics
    /// Outside of a tokio runtime, if there are several workers; and if a member's
    /// [`deliver`](Deliver::deliver) does.
    ///
    /// # Cancel safety
    /// Not safe: events that it had taken from the broker are lost. Drop it only with the hub.
    pub async fn run(self) {
        let Self { shared, events } = self;
        let shared = EndGuard(shared);
        // Dropped with this future, however it ends.
        let (_working, over) = watch::channel(());
        let mut helpers = JoinSet::new();
        for worker in 1..shared.0.fan_out.workers() {
            helpers.spawn_blocking(helper(Arc::clone(&shared.0), worker, over.clone()));
        }
        // Polled only when one of them is woken. The fan-out yields after each 64 KiB, and this task is
        // then polled again: to poll these as well was a ninth of the instructions of a publication to
        // 1,000 members.
        let mut upkeep: FuturesUnordered<BoxFuture<'_, ()>> = FuturesUnordered::new();
        upkeep.push(interest::run(&shared.0).boxed());
        upkeep.push(presence::run(&shared.0).boxed());
        tokio::select! {
            biased;
            // First: what is taken in now is delivered in the next poll of this task, after the
            // tasks that were woken before. Among them are the connections of the senders, whose
            // acknowledgements then wait for the copies.
            () = fan_out::run(&shared.0, 0) => {}
            () = ingest::run(&shared.0, events) => {}
            // A helper ends only by a panic, which this task passes on.
            Some(Err(error)) = helpers.join_next() => {
                if let Ok(panic) = error.try_into_panic() {
                    resume_unwind(panic);
                }
            }
            Some(()) = upkeep.next() => {}
        }
    }
}

/// A further worker of the fan-out, on a thread of its own. A task would be scheduled on the thread
/// of the task that wakes it, and wait behind it.
fn helper<M: Deliver + Clone + 'static>(
    shared: Arc<Shared<M>>,
    worker: usize,
    mut over: watch::Receiver<()>,
) -> impl FnOnce() {
    let runtime = Handle::current();
    move || {
        runtime.block_on(async {
            tokio::select! {
                () = fan_out::run(&shared, worker) => {}
                _ = over.changed() => {}
            }
        });
    }
}

/// Fails the waiting joins however the driver ends: by its return, by a panic, or by a drop.
struct EndGuard<M: Deliver + Clone>(Arc<Shared<M>>);

impl<M: Deliver + Clone> Drop for EndGuard<M> {
    fn drop(&mut self) {
        self.0.end();
    }
}

impl<M> fmt::Debug for HubDriver<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HubDriver").finish_non_exhaustive()
    }
}

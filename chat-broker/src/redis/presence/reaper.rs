//! Removes the occupants of nodes whose lease has expired.
//!
//! Any node reaps, several at once if they find the same node: a script removes each occupant in
//! one atomic step, so one of them does. The name of the node is removed last, so that another node
//! continues if this one stops.

use std::sync::Arc;

use redis::Pipeline;
use tokio::sync::mpsc;

use super::lease::ExpiredNodes;
use crate::error::BrokerError;
use crate::redis::connection::store::Store;
use crate::redis::names::{Address, node_of};

/// Topics in one pipeline.
const MAX_TOPICS: usize = 8;

/// Users in one run of the script, which takes some 3 µs for each.
const MAX_USERS: usize = 200;

/// Reaps the nodes that it receives, until the sender is dropped.
pub(crate) async fn run(store: Arc<Store>, mut expired: mpsc::Receiver<ExpiredNodes>) {
    while let Some(ExpiredNodes { crashed, closed }) = expired.recv().await {
        for node in crashed.iter().map(|name| node_of(name)) {
            tracing::info!(node, "node lease expired, removing its occupants");
        }
        for node in closed.iter().map(|name| node_of(name)) {
            tracing::debug!(
                node,
                "lease of a closed node, or of its former name, ended: removing its occupants"
            );
        }
        for name in crashed.into_iter().chain(closed) {
            if let Err(error) = reap(&store, &name).await {
                let node = node_of(&name);
                // A later renewal finds the node again.
                tracing::warn!(node, %error, "occupants of an expired node not removed yet, retrying");
            }
        }
    }
}

async fn reap(store: &Store, node: &str) -> Result<(), BrokerError> {
    let names = &store.shared.names;
    let topics = names.rooms(node);
    loop {
        let mut some = Pipeline::with_capacity(1);
        some.cmd("SRANDMEMBER").arg(&topics).arg(MAX_TOPICS);
        let (channels,): (Vec<String>,) = store.query(&some).await?;
        if channels.is_empty() {
            let mut forget = Pipeline::with_capacity(1);
            forget.cmd("ZREM").arg(names.nodes()).arg(node).ignore();
            return store.query(&forget).await;
        }
        let mut reap = Pipeline::with_capacity(channels.len());
        for channel in &channels {
            let address = Address::of_channel(channel);
            let keys = [&topics, &names.nodes(), &address.members(), &address.held(node)];
            let call = store.shared.scripts.reap.call(&mut reap, &keys);
            call.arg(node).arg(channel).arg(MAX_USERS);
        }
        // A room whose keys have the wrong type must not stop the others.
        let replies = store.query_all(&mut reap).await?;
        let mut reaped = replies.into_iter().map(redis::from_redis_value::<u64>);
        // All of the batch are refused, so the rest of the rooms would be picked again and again: a
        // later attempt may succeed.
        if let Some(Err(refused)) = reaped.next()
            && reaped.all(|one| one.is_err())
        {
            return Err(BrokerError::refused(refused));
        }
    }
}

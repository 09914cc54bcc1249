//! Compares the presence that Redis stores with the users of this node, and repairs it.
//!
//! After a loss in Redis (a key was deleted or evicted, a server died while its keys were missing)
//! all servers agree again within two rounds. A round goes through the users of this node in
//! parts, a tick for each, so the commands are spread over time and as many as the node has users
//! and rooms. A user that Redis lost is [sent again](Claims::tell_again), in order with joins and
//! leaves; a member that no node holds is removed by the script that finds it.

use std::sync::Arc;
use std::time::Duration;

use redis::Pipeline;
use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval};

use super::claims::{Claims, Key};
use super::presence::Presence;
use super::store::Store;
use crate::error::BrokerError;

/// The longest round; with a short lease it is three leases.
const LONGEST_ROUND: Duration = Duration::from_secs(30);

/// Ticks in a round.
const TICKS: u32 = 30;

/// Users in one pipeline: a script takes some 2 µs for each, and 15 µs for each room.
const MAX_USERS: usize = 128;

/// What `reconcile.lua` returns: where the next part of the members begins, and users.
type Reply = (Vec<u8>, Vec<String>);

/// Runs until `closing` turns true.
pub(super) async fn run(
    store: Arc<Store>,
    presence: Arc<Presence>,
    mut closing: watch::Receiver<bool>,
) {
    tokio::select! {
        _ = closing.wait_for(|closing| *closing) => {}
        () = reconcile(&store, &presence) => {}
    }
}

async fn reconcile(store: &Store, presence: &Presence) {
    let round = (3 * store.shared.config.lease).min(LONGEST_ROUND);
    let mut tick = interval(round / TICKS);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut rounds: Vec<_> = presence.lanes().iter().map(|_| Round::default()).collect();
    loop {
        tick.tick().await;
        for (lane, round) in presence.lanes().iter().zip(&mut rounds) {
            if let Err(error) = round.tick(store, presence, lane).await {
                // The next tick compares these users again.
                tracing::debug!(%error, "presence was not compared with redis");
            }
        }
    }
}

/// How far a round through the users of one connection has come.
#[derive(Debug, Default)]
struct Round {
    /// Who was looked at last; `None` at the beginning.
    last: Option<Key>,
    /// Users that are to be looked at, in parts of one for each tick of a round.
    due: usize,
}

impl Round {
    /// Looks at as many users as there are in a tick.
    async fn tick(
        &mut self,
        store: &Store,
        presence: &Presence,
        lane: &Claims,
    ) -> Result<(), BrokerError> {
        self.due += lane.len();
        let mut left = self.due / TICKS as usize;
        self.due %= TICKS as usize;
        while left > 0 {
            let most = left.min(MAX_USERS);
            let Some((node, users)) = lane.after(self.last.as_ref(), most) else { break };
            match users.last().cloned() {
                Some(last) => {
                    left -= users.len();
                    self.look_at(store, presence, lane, &node, users).await?;
                    self.last = Some(last);
                }
                // The next round begins, unless there is nobody.
                None if self.last.take().is_none() => break,
                None => {}
            }
        }
        Ok(())
    }

    /// Has Redis compare the rooms of some users, who stand in the order of their rooms.
    async fn look_at(
        &self,
        store: &Store,
        presence: &Presence,
        lane: &Claims,
        node: &str,
        users: Vec<Key>,
    ) -> Result<(), BrokerError> {
        let begun = self.last.as_ref().map(|last| &last.address);
        let rooms: Vec<&[Key]> = users.chunk_by(|a, b| a.address == b.address).collect();
        // The members of a room are gone through once in a round.
        let mut parts: Vec<(&[Key], Vec<u8>)> = rooms
            .into_iter()
            .map(|room| {
                let is_new = begun != Some(&room[0].address);
                (room, if is_new && presence.may_judge() { b"0".to_vec() } else { Vec::new() })
            })
            .collect();
        let mut unknown: Vec<Key> = Vec::new();
        let mut is_first = true;
        while !parts.is_empty() {
            let mut commands = Pipeline::with_capacity(parts.len());
            for (room, cursor) in &parts {
                let listed = if is_first { room } else { &[][..] };
                add_part(&mut commands, store, node, &room[0], cursor, listed);
            }
            let replies = store.in_time(store.query_all(&mut commands)).await?;
            for ((room, cursor), reply) in parts.iter_mut().zip(replies) {
                // A room whose keys are of another kind keeps no other from being mended.
                let (next, lost) = redis::from_redis_value::<Reply>(reply).unwrap_or_default();
                *cursor = next;
                let is_lost = |key: &&Key| lost.iter().any(|user| user == key.user.as_str());
                unknown.extend(room.iter().filter(is_lost).cloned());
            }
            parts.retain(|(_, cursor)| !cursor.is_empty());
            is_first = false;
        }
        if !unknown.is_empty() {
            tracing::info!(users = unknown.len(), "redis lost users of this node, re-sending");
            lane.tell_again(unknown);
        }
        Ok(())
    }
}

fn add_part(
    commands: &mut Pipeline,
    store: &Store,
    node: &str,
    Key { address, .. }: &Key,
    cursor: &[u8],
    users: &[Key],
) {
    let names = &store.shared.names;
    let keys = [address.members(), address.held(node), names.rooms(node), names.nodes()];
    let call = store.shared.scripts.reconcile.call(commands, &keys);
    call.arg(address.channel()).arg(node).arg(cursor);
    for key in users {
        call.arg(key.user.as_str());
    }
}

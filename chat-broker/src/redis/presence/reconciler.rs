//! Compares the occupants in Redis with those that this node should have there, and repairs the
//! difference.
//!
//! After any loss in Redis (a deleted or evicted key, a server that crashed as its keys were lost),
//! all servers agree again within two rounds. A round is spread over ticks. In each tick the node
//! compares
//! * a part of its users: those that Redis does not know are [sent
//!   again](PresenceOutbox::resend_lost), in order with joins and leaves;
//! * the first part of the members of each room of these users, and up to [`MAX_PARTS`] further
//!   parts of large rooms. The script that compares them removes members whom no node holds. A room
//!   of 100,000 users takes one more round.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use redis::{Pipeline, Value};
use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval};

use super::Presence;
use super::changes::Key;
use super::outbox::PresenceOutbox;
use crate::error::BrokerError;
use crate::redis::connection::store::Store;
use crate::redis::names::Address;

/// The longest round; with a short lease it is three leases. Two are less than a minute: if what
/// all nodes hold in a room was lost, they write it in the first, and only in the second can one of
/// them tell users of a dead node from those that are written again.
const LONGEST_ROUND: Duration = Duration::from_secs(25);

/// Ticks in a round.
const TICKS: u32 = 30;

/// Users in one pipeline: a script takes some 2 µs for each, and 15 µs for each room.
const MAX_USERS: usize = 128;

/// Parts of members in one tick, beside the first of each room. One has about 100 members, and
/// takes Redis 200 µs, and 40 µs more for each node.
const MAX_PARTS: usize = 32;

/// Rooms at most whose members are compared over several ticks. Of any other only the first part is
/// compared in this round.
const MAX_SCANS: usize = 1024;

/// The reply of `reconcile.lua`: the cursor of the next part of the members, and lost users.
type Reply = (Vec<u8>, Vec<String>);

/// Runs until `closing` turns true.
pub(crate) async fn run(
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
    let mut rounds: Vec<_> = presence.outboxes().iter().map(|_| Round::default()).collect();
    let mut scans = Scans::default();
    loop {
        tick.tick().await;
        for (outbox, round) in presence.outboxes().iter().zip(&mut rounds) {
            // The next tick compares these users again.
            note(round.tick(store, presence, outbox, &mut scans).await);
        }
        // The rooms that were not compared to their end are, in the next round.
        note(scans.tick(store, presence).await);
    }
}

fn note(compared: Result<(), BrokerError>) {
    if let Err(error) = compared {
        tracing::debug!(%error, "reconciliation with redis failed");
    }
}

/// The progress of one round through the users of one connection.
#[derive(Debug, Default)]
struct Round {
    /// The user that was compared last; `None` at the start of a round.
    last: Option<Key>,
    /// Users to compare, in units of `1 / TICKS`: the remainder of one tick counts in the next.
    due: usize,
}

impl Round {
    /// Compares the users of one tick.
    async fn tick(
        &mut self,
        store: &Store,
        presence: &Presence,
        outbox: &PresenceOutbox,
        scans: &mut Scans,
    ) -> Result<(), BrokerError> {
        self.due += outbox.len();
        let mut left = self.due / TICKS as usize;
        self.due %= TICKS as usize;
        while left > 0 {
            let most = left.min(MAX_USERS);
            let Some((node, users)) = outbox.synced_after(self.last.as_ref(), most) else { break };
            match users.last().cloned() {
                Some(last) => {
                    left -= users.len();
                    self.inspect(store, presence, outbox, &node, &users, scans).await?;
                    self.last = Some(last);
                }
                // The end of the round: the next one starts, unless there are no users.
                None if self.last.take().is_none() => break,
                None => {}
            }
        }
        Ok(())
    }

    /// Has Redis compare the rooms of some users, who are in the order of their rooms.
    async fn inspect(
        &self,
        store: &Store,
        presence: &Presence,
        outbox: &PresenceOutbox,
        node: &Arc<str>,
        users: &[Key],
        scans: &mut Scans,
    ) -> Result<(), BrokerError> {
        let begun = self.last.as_ref().map(|last| &last.address);
        let rooms: Vec<&[Key]> = users.chunk_by(|a, b| a.address == b.address).collect();
        let mut commands = Pipeline::with_capacity(rooms.len());
        for room in &rooms {
            let address = &room[0].address;
            // The members of a room are scanned once in a round.
            let is_due = begun != Some(address) && !scans.contains(address);
            let cursor: &[u8] = if is_due && presence.may_expire_others() { b"0" } else { b"" };
            add_part(&mut commands, store, node, address, cursor, room);
        }
        let replies = store.in_time(store.query_all(&mut commands)).await?;
        let mut unknown: Vec<Key> = Vec::new();
        for (room, reply) in rooms.into_iter().zip(replies) {
            let (cursor, lost) = read(reply);
            let is_lost = |key: &&Key| lost.iter().any(|user| user == key.user.as_str());
            unknown.extend(room.iter().filter(is_lost).cloned());
            let address = room[0].address.clone();
            scans.push(Scan { node: Arc::clone(node), address, cursor });
        }
        if !unknown.is_empty() {
            tracing::info!(users = unknown.len(), "redis lost users of this node, resending");
            outbox.resend_lost(&unknown);
        }
        Ok(())
    }
}

/// Rooms whose members are compared over several ticks, in turn.
#[derive(Debug, Default)]
struct Scans(VecDeque<Scan>);

#[derive(Debug)]
struct Scan {
    /// A name that this node no longer has compares nothing: the script ends the scan.
    node: Arc<str>,
    address: Address,
    /// The cursor of the next part of the members.
    cursor: Vec<u8>,
}

impl Scans {
    fn contains(&self, address: &Address) -> bool {
        self.0.iter().any(|scan| scan.address == *address)
    }

    /// Adds a scan, unless it is at its end.
    fn push(&mut self, scan: Scan) {
        if !scan.cursor.is_empty() && self.0.len() < MAX_SCANS {
            self.0.push_back(scan);
        }
    }

    /// Has Redis compare the next parts.
    async fn tick(&mut self, store: &Store, presence: &Presence) -> Result<(), BrokerError> {
        if !presence.may_expire_others() {
            self.0.clear();
        }
        let mut left = MAX_PARTS;
        while left > 0 && !self.0.is_empty() {
            let scans: Vec<Scan> = self.0.drain(..left.min(self.0.len())).collect();
            left -= scans.len();
            let mut commands = Pipeline::with_capacity(scans.len());
            for Scan { node, address, cursor } in &scans {
                add_part(&mut commands, store, node, address, cursor, &[]);
            }
            let replies = store.in_time(store.query_all(&mut commands)).await?;
            for (scan, reply) in scans.into_iter().zip(replies) {
                let (cursor, _) = read(reply);
                self.push(Scan { cursor, ..scan });
            }
        }
        Ok(())
    }
}

fn add_part(
    commands: &mut Pipeline,
    store: &Store,
    node: &str,
    address: &Address,
    cursor: &[u8],
    users: &[Key],
) {
    let names = &store.shared.names;
    let keys = [names.rooms(node), names.nodes(), address.members(), address.held(node)];
    let call = store.shared.scripts.reconcile.call(commands, &keys);
    call.arg(node).arg(address.channel()).arg(cursor);
    for key in users {
        call.arg(key.user.as_str());
    }
}

/// A room whose keys have the wrong type must not stop the repair of others: its reply reads as
/// empty.
fn read(reply: Value) -> Reply {
    redis::from_redis_value(reply).unwrap_or_default()
}

//! Presence: the users of this node in topics, and those of all nodes.
//!
//! A join or leave at this node waits in the `outbox.rs` of the connection that publishes to its
//! topic, and is sent in order with publications: `queues.rs` has its order, `transition.rs` the
//! states of one user in one topic, and `changes.rs` what one pipeline carries. Redis holds the occupants of a node for as long as the node renews its `lease.rs`;
//! `reaper.rs` removes those of nodes that no longer do. `reconciler.rs` compares what Redis holds
//! with what it should hold.

pub(super) mod changes;
pub(super) mod lease;
pub(super) mod outbox;
mod queues;
pub(super) mod reaper;
pub(super) mod reconciler;
mod transition;

use std::hash::{DefaultHasher, Hash, Hasher};
use std::slice;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use chat_core::{Occupancy, Occupant, RoomId, Topic, UserId};
use parking_lot::Mutex;
use redis::{Pipeline, Value};
use tokio::sync::Notify;

use super::connection::store::Store;
use super::error::is_unknown_script;
use super::health::damage::PRESENCE;
use super::names::{Address, Names};
use super::scripts::Script;
use super::shared::Shared;
use crate::error::BrokerError;
use crate::presence::{OccupiedRoom, OccupiedRooms};
use changes::{Changes, Key, Outcome};
use outbox::PresenceOutbox;

/// Reads in one pipeline.
const MAX_READS: usize = 16;

/// The reply of `occupancy.lua`: version, count, fields of the hash.
type Reply = (u64, u32, Vec<(Vec<u8>, Vec<u8>)>);

/// The presence at this node, and what is known of its lease.
#[derive(Debug)]
pub(super) struct Presence {
    /// One outbox for each connection that publishes.
    outboxes: Vec<Arc<PresenceOutbox>>,
    server: Mutex<Server>,
    /// The lease must be checked.
    pub(super) check_lease: Notify,
    /// This node has held its lease for long enough to expire those of others.
    may_expire_others: AtomicBool,
}

/// The Redis process that holds the occupants of this node.
#[derive(Debug, Default)]
struct Server {
    /// `None` before the first connection; empty if unknown.
    run_id: Option<String>,
    /// The process is another than before, and may hold less.
    changed: bool,
}

impl Presence {
    /// `connections`: how many connections publish.
    pub(super) fn new(connections: usize) -> Arc<Self> {
        let outboxes = (0..connections).map(|_| Arc::default()).collect();
        let may_expire_others = AtomicBool::new(false);
        Arc::new(Self {
            outboxes,
            server: Mutex::default(),
            check_lease: Notify::new(),
            may_expire_others,
        })
    }

    /// A connection to publish on was made, to the Redis process with this id.
    pub(super) fn connected(&self, run_id: Option<&str>) {
        let mut server = self.server.lock();
        let run_id = run_id.unwrap_or_default();
        server.changed |=
            server.run_id.as_ref().is_some_and(|known| run_id.is_empty() || known != run_id);
        server.run_id = Some(run_id.to_owned());
        drop(server);
        self.check_lease.notify_one();
    }

    /// Whether Redis is another process than at the last call.
    pub(super) fn take_changed(&self) -> bool {
        let mut server = self.server.lock();
        std::mem::take(&mut server.changed)
    }

    /// Sends all joins again as `node`.
    pub(super) fn restart_as(&self, node: &Arc<str>) {
        for outbox in &self.outboxes {
            outbox.restart_as(node);
        }
    }

    /// The tasks that publish have ended: nothing is sent any more.
    pub(super) fn close(&self) {
        for outbox in &self.outboxes {
            outbox.close();
        }
    }

    /// The outbox of each connection that publishes.
    pub(super) fn outboxes(&self) -> &[Arc<PresenceOutbox>] {
        &self.outboxes
    }

    /// The connection that publishes to a topic: always the same, which keeps the topic's order.
    pub(super) fn worker_index(&self, topic: &Topic) -> usize {
        let mut hasher = DefaultHasher::new();
        topic.hash(&mut hasher);
        hasher.finish() as usize % self.outboxes.len()
    }

    /// A node has set another info of a user, who may be at this node as well.
    pub(super) fn renamed(&self, topic: &Topic, address: Address, occupant: &Occupant) {
        let key = Key { address, user: occupant.user.clone() };
        self.outboxes[self.worker_index(topic)].renamed(&key, &occupant.info);
    }

    pub(super) fn may_expire_others(&self) -> bool {
        self.may_expire_others.load(Ordering::Relaxed)
    }

    pub(super) fn set_may_expire_others(&self, may_expire_others: bool) {
        self.may_expire_others.store(may_expire_others, Ordering::Relaxed);
    }

    /// Whether Redis holds no occupant of this node.
    pub(super) fn is_empty(&self) -> bool {
        self.outboxes.iter().all(|outbox| outbox.is_empty())
    }
}

impl Shared {
    /// Adds one call that makes all joins to `commands`, unless there are none.
    pub(super) fn add_joins(&self, commands: &mut Pipeline, changes: &Changes) {
        let rooms = changes.joins.chunk_by(|a, b| a.key.address == b.key.address);
        let addresses: Vec<_> = rooms.clone().map(|joins| &joins[0].key.address).collect();
        self.add_change(commands, &self.scripts.enter, &changes.node, &addresses);
        for joins in rooms {
            commands.arg(joins.len());
            for join in joins {
                commands.arg(join.key.user.as_str());
            }
            for join in joins {
                commands.arg(&join.info[..]);
            }
            for join in joins {
                match join.max {
                    None => commands.arg(u8::from(join.is_latest)),
                    Some(max) => commands.arg(format!("max {max}")),
                };
            }
        }
    }

    /// Adds one call that makes all leaves to `commands`, unless there are none.
    pub(super) fn add_leaves(&self, commands: &mut Pipeline, changes: &Changes) {
        let rooms = changes.leaves.chunk_by(|a, b| a.address == b.address);
        let addresses: Vec<_> = rooms.clone().map(|leaves| &leaves[0].address).collect();
        self.add_change(commands, &self.scripts.leave, &changes.node, &addresses);
        for leaves in rooms {
            commands.arg(leaves.len());
            for key in leaves {
                commands.arg(key.user.as_str());
            }
        }
    }

    /// Adds a call that changes these topics; what changes in each of them follows.
    fn add_change(
        &self,
        commands: &mut Pipeline,
        script: &Script,
        node: &str,
        addresses: &[&Address],
    ) {
        if addresses.is_empty() {
            return;
        }
        let mut keys = vec![self.names.rooms(node), self.names.nodes()];
        keys.extend(addresses.iter().flat_map(|one| [one.members(), one.held(node)]));
        let call = script.call(commands, &keys).arg(node);
        for address in addresses {
            call.arg(address.channel());
        }
    }
}

/// The reply to each of the changes that one call makes: its own, or that to the whole call.
pub(super) fn replies(
    call: Option<&Value>,
    changes: usize,
) -> impl Iterator<Item = &Value> + Clone {
    let replies = match call {
        Some(Value::Array(each)) => each,
        Some(whole) => slice::from_ref(whole),
        None => &[],
    };
    replies.iter().cycle().take(changes)
}

/// The outcome of a join, by its reply.
pub(super) fn join_outcome(reply: &Value) -> Outcome {
    match reply {
        Value::Int(1) => Outcome::Done,
        Value::Int(2) => Outcome::RoomFull,
        reply if is_unknown_script(reply) => Outcome::Unanswered,
        _ => Outcome::Refused,
    }
}

/// The outcome of a leave, by its reply.
pub(super) fn leave_outcome(reply: &Value) -> Outcome {
    match reply {
        Value::Int(0) => Outcome::Done,
        Value::Int(version) => Outcome::Announced(version.unsigned_abs()),
        reply if is_unknown_script(reply) => Outcome::Unanswered,
        _ => Outcome::Refused,
    }
}

impl Store {
    /// See [`PresenceTracker::occupancy`](crate::PresenceTracker::occupancy).
    pub(super) async fn occupancy(
        &self,
        topics: &[Topic],
        limit: usize,
        may_expire_others: bool,
    ) -> Result<Vec<Occupancy>, BrokerError> {
        let nodes = self.shared.names.nodes();
        let work = async {
            let mut occupancies = Vec::with_capacity(topics.len());
            for topics in topics.chunks(MAX_READS) {
                let addresses = self.addresses(topics);
                let mut commands = Pipeline::with_capacity(topics.len());
                for address in &addresses {
                    let keys = [&address.members(), &nodes];
                    let call = self.shared.scripts.occupancy.call(&mut commands, &keys);
                    call.arg(limit).arg(address.channel()).arg(u8::from(may_expire_others));
                }
                let replies: Vec<Reply> = self.query_each(&commands, &addresses, PRESENCE).await?;
                occupancies.extend(replies.into_iter().map(occupancy));
            }
            Ok(occupancies)
        };
        self.in_time(work).await
    }

    /// See [`PresenceTracker::rooms`](crate::PresenceTracker::rooms).
    pub(super) async fn rooms(
        &self,
        prefix: &str,
        after: Option<&RoomId>,
        limit: usize,
    ) -> Result<OccupiedRooms, BrokerError> {
        let limit = limit.clamp(1, OccupiedRooms::MAX);
        let (names, prefix) = (&self.shared.names, Names::listed(prefix));
        let after = after.map(|room| Names::listed(room.as_str())).filter(|room| *room >= prefix);
        let from = after.map_or_else(|| format!("[{prefix}"), |room| format!("({room}"));
        // Above all bytes of an encoded name.
        let end = format!("({prefix}\x7f");
        let occupied = names.occupied();
        let mut commands = Pipeline::with_capacity(1);
        let call = self.shared.scripts.rooms.call(&mut commands, &[&occupied]);
        call.arg(names.prefix()).arg(from).arg(end).arg(limit);
        let work = self.query_shared(&commands, &occupied);
        let (page,): (Vec<(String, u32)>,) = self.in_time(work).await?;
        let next = page.last().filter(|_| page.len() == limit);
        let next = next.and_then(|(room, _)| Names::of_listed(room));
        let is_occupied = |(_, count): &&(String, u32)| *count > 0;
        let rooms = page
            .iter()
            .filter(is_occupied)
            .filter_map(|(room, count)| Some(OccupiedRoom::new(Names::of_listed(room)?, *count)));
        Ok(OccupiedRooms::new(rooms.collect(), next))
    }
}

fn occupancy((version, count, members): Reply) -> Occupancy {
    Occupancy::new(version, count, members.into_iter().filter_map(occupant).collect())
}

/// Reads a field of the hash: a member, or the version, whose field is no user id.
fn occupant((user, member): (Vec<u8>, Vec<u8>)) -> Option<Occupant> {
    let user = UserId::new(std::str::from_utf8(&user).ok()?).ok()?;
    let colon = member.iter().position(|byte| *byte == b':')?;
    Some(Occupant::new(user, Bytes::from(member).slice(colon + 1..)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reply_to_a_call_is_that_to_each_of_its_changes() {
        let outcomes =
            |call: Option<Value>| replies(call.as_ref(), 2).map(join_outcome).collect::<Vec<_>>();
        let each = Value::Array(vec![Value::Int(1), Value::Nil]);
        assert_eq!(outcomes(Some(each)), [Outcome::Done, Outcome::Refused]);
        assert_eq!(outcomes(Some(Value::Int(0))), [Outcome::Refused; 2], "the node has no lease");
        assert_eq!(outcomes(None), [], "what has no outcome is sent again");
    }
}

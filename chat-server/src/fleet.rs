//! The servers of one broker: each announces itself, and carries out what backends want the
//! connections of a user to do, whichever server a backend has called.
//!
//! Servers are occupants of a topic of their own, so that the broker's presence removes one that has
//! crashed. Requests are published to the same topic. A server without an API key takes no part.

use std::sync::{Arc, Weak};
use std::time::Duration;

use bytes::Bytes;
use chat_broker::{BrokerError, Followed, PublishOptions};
use chat_core::{Occupant, RoomId, Topic, UserId};
use serde::{Deserialize, Serialize};
use tokio::time::{Instant, interval};

use crate::process::host_name;
use crate::sessions::RoomRequest;
use crate::state::{State, Task};

/// How often a server announces itself: its figures are at most so old.
const INTERVAL: Duration = Duration::from_secs(10);

/// The most servers that are listed.
const MAX_NODES: usize = 10_000;

/// The figures of a server.
#[derive(Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
pub(crate) struct NodeInfo {
    /// The name of the machine, pod or container; `null` if the system does not say it.
    #[serde(default)]
    host: Option<String>,
    /// The version of the program.
    version: String,
    /// Open connections of clients.
    connections: usize,
    /// Rooms with members on this server.
    rooms: usize,
    uptime_ms: u64,
    /// A digest of the settings in effect that should be equal on all servers, without secrets.
    config: String,
}

/// What is published to the topic: JSON, as which no message of a client begins.
#[derive(Debug, Serialize, Deserialize)]
struct Request {
    user: UserId,
    room: RoomId,
    /// Whether the user joins the room, or leaves it.
    join: bool,
}

/// Takes part from the moment when the server has an API key until the server is dropped.
pub(crate) fn start(state: &Arc<State>) {
    let task = tokio::spawn(take_part(Arc::downgrade(state)));
    // Fails if the task exists: it is started once.
    let _ = state.fleet.set(Task(task));
}

async fn take_part(state: Weak<State>) {
    let Some(mut keys) = state.upgrade().map(|state| state.api_keys.watch()) else { return };
    if keys.wait_for(|keys| !keys.is_empty()).await.is_err() {
        return;
    }
    let followed = state.upgrade().map(|state| state.hub.follow(&topic(), None));
    let Some(mut requests) = followed else { return };
    let (started, mut times) = (Instant::now(), interval(INTERVAL));
    loop {
        tokio::select! {
            request = requests.recv() => match (request, state.upgrade()) {
                (Some(Followed::Publication { payload, .. }), Some(state)) => {
                    state.carry_out(&payload);
                }
                (Some(_), Some(_)) => {}
                _ => return,
            },
            _ = times.tick() => match state.upgrade() {
                Some(state) => state.announce(started.elapsed()),
                None => return,
            },
        }
    }
}

/// No client can be a user whose id begins with `@`.
#[allow(clippy::expect_used, reason = "a constant")]
fn topic() -> Topic {
    Topic::User(UserId::new("@servers").expect("an id"))
}

impl State {
    fn announce(&self, uptime: Duration) {
        let Some(presence) = self.hub.broker().presence() else { return };
        let info = NodeInfo {
            host: host_name(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            connections: self.sessions.len(),
            rooms: self.hub.rooms(),
            uptime_ms: uptime.as_millis() as u64,
            config: self.settings_digest.read().clone(),
        };
        match (serde_json::to_vec(&info), UserId::new(&self.node)) {
            (Ok(info), Ok(node)) => presence.enter(&topic(), Occupant::new(node, info.into())),
            (info, node) => tracing::error!(?info, ?node, "this server is not announced"),
        }
    }

    fn carry_out(&self, payload: &Bytes) {
        // Clients can send direct messages to the topic: they are envelopes.
        let Ok(Request { user, room, join }) = serde_json::from_slice(payload) else { return };
        for (id, slot) in self.hub.members(&Topic::User(user)).iter() {
            let request = if join {
                RoomRequest::Join(room.clone())
            } else {
                RoomRequest::Leave(room.clone())
            };
            let is_native = slot.with(|member| member.is_native()).unwrap_or_default();
            if is_native && self.sessions.request(*id, request).is_err() {
                self.metrics.limited("room_requests");
            }
        }
    }

    /// Makes the connections of a user join or leave a room, on all servers: those that speak the
    /// native protocol. Returns when the broker has the request.
    pub(crate) async fn request_room(
        &self,
        user: UserId,
        room: RoomId,
        join: bool,
    ) -> Result<(), BrokerError> {
        let request = serde_json::to_vec(&Request { user, room, join });
        let payload = Bytes::from(request.map_err(BrokerError::config)?);
        let options = PublishOptions::default();
        self.hub.broker().publish(&topic(), payload, options).await?.await.map(drop)
    }

    /// The servers that have announced themselves, by their ids.
    pub(crate) async fn nodes(&self) -> Result<Vec<(UserId, NodeInfo)>, BrokerError> {
        let presence = self.hub.broker().presence().ok_or(BrokerError::Unsupported("presence"))?;
        let read = presence.occupancy(&[topic()], MAX_NODES).await?;
        let occupants = read.into_iter().flat_map(|occupancy| occupancy.occupants);
        let known = occupants.filter_map(|occupant| {
            // A server of another version may announce something else.
            Some((occupant.user, serde_json::from_slice(&occupant.info).ok()?))
        });
        let mut nodes: Vec<_> = known.collect();
        nodes.sort_unstable_by(|(one, _), (other, _)| one.cmp(other));
        Ok(nodes)
    }
}

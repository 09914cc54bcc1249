//! The servers of one broker: each announces itself, carries out what backends want the connections of a
//! user to do, whichever server a backend has called, and says whether it has a user.
//!
//! Servers are occupants of a topic of their own, so that the broker's presence removes one that has
//! crashed. Requests and answers are published to the same topic. A server without an API key takes no
//! part.

use std::net::SocketAddr;
use std::sync::{Arc, Weak};
use std::time::Duration;

use bytes::Bytes;
use chat_broker::{BrokerError, Followed, PublishOptions, Receipt};
use chat_core::{Occupant, RoomId, Topic, UserId};
use serde::{Deserialize, Serialize};
use tokio::time::{Instant, interval, timeout, timeout_at};

use crate::process::host_name;
use crate::searches::OtherServer;
use crate::service::members;
use crate::sessions::RoomRequest;
use crate::state::{State, Task};

/// How often a server announces itself: its figures are at most so old.
const INTERVAL: Duration = Duration::from_secs(10);

/// The most servers that are listed.
const MAX_NODES: usize = 10_000;

/// How long a server waits for others to say that they have a user.
const SEARCH_TIMEOUT: Duration = Duration::from_millis(500);

/// The figures of a server.
#[derive(Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
pub(crate) struct NodeInfo {
    /// The name of the machine, pod or container; `null` if the system does not say it.
    #[serde(default)]
    host: Option<String>,
    /// Where it serves operators, `CHAT_METRICS_ADDR`; `null` if it does not.
    #[serde(default)]
    #[cfg_attr(test, schema(value_type = Option<String>))]
    metrics_addr: Option<SocketAddr>,
    /// The version of the program.
    version: String,
    /// Open connections of clients.
    connections: usize,
    /// Rooms with members on this server.
    rooms: usize,
    uptime_ms: u64,
    /// A digest of the settings in effect that should be equal on all servers, without secrets.
    config: String,
    /// A digest of the keys of tokens in effect; `null` if clients need no token.
    #[serde(default)]
    token_keys: Option<String>,
}

/// What is published to the topic: JSON, as which no message of a client begins. A server of another
/// version does not know all of it.
#[derive(Debug, Serialize, Deserialize)]
#[serde(untagged)]
enum Publication {
    /// The user joins the room, or leaves it.
    Room { user: UserId, room: RoomId, join: bool },
    /// The servers that have the user say so.
    Search { search: String, node: String, user: UserId },
    /// The answer to a search.
    Found { search: String, found: OtherServer },
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
    let served = state.upgrade().map(|state| Arc::clone(&state.operators_served));
    let Some(served) = served else { return };
    loop {
        tokio::select! {
            request = requests.recv() => match (request, state.upgrade()) {
                (Some(Followed::Publication { payload, .. }), Some(state)) => {
                    state.carry_out(&payload).await;
                }
                (Some(_), Some(_)) => {}
                _ => return,
            },
            () = served.notified() => times.reset_immediately(),
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
            metrics_addr: self.metrics_addr.get().copied(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            connections: self.sessions.len(),
            rooms: self.hub.rooms(),
            uptime_ms: uptime.as_millis() as u64,
            config: self.settings_digest.read().clone(),
            token_keys: self.authenticator.as_ref().and_then(|auth| Some(auth.key_set()?.digest)),
        };
        match (serde_json::to_vec(&info), UserId::new(&self.node)) {
            (Ok(info), Ok(node)) => presence.enter(&topic(), Occupant::new(node, info.into())),
            (info, node) => tracing::error!(?info, ?node, "this server is not announced"),
        }
    }

    async fn carry_out(&self, payload: &Bytes) {
        // Clients can send direct messages to the topic: they are envelopes.
        match serde_json::from_slice(payload) {
            Ok(Publication::Room { user, room, join }) => self.change_rooms(user, &room, join),
            Ok(Publication::Search { search, node, user }) if node != self.node => {
                let Some(found) = self.find(user) else { return };
                let answer = Publication::Found { search, found };
                // Not for the receipt: while Redis is slow, other requests would wait here for each answer.
                let _ = timeout(SEARCH_TIMEOUT, self.publish(&answer)).await;
            }
            Ok(Publication::Found { search, found }) => self.searches.found(&search, found),
            Ok(Publication::Search { .. }) | Err(_) => {}
        }
    }

    fn change_rooms(&self, user: UserId, room: &RoomId, join: bool) {
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

    /// What this server knows of a user that it has.
    fn find(&self, user: UserId) -> Option<OtherServer> {
        let topic = Topic::User(user);
        let members = self.hub.members(&topic);
        let name =
            members.iter().find_map(|(_, slot)| slot.with(|member| member.user.name.to_string()));
        Some(OtherServer {
            name: name?,
            count: members.len(),
            node: self.node.clone(),
            host: host_name(),
            metrics_addr: self.metrics_addr.get().copied(),
        })
    }

    /// The other servers that have connections of a user which receive direct messages: those that say so
    /// in time.
    pub(crate) async fn other_servers(&self, user: &UserId) -> Vec<OtherServer> {
        let servers = members::servers(self, std::slice::from_ref(user)).await.unwrap_or_default();
        let is_here = !self.hub.members(&Topic::User(user.clone())).is_empty();
        let wanted = servers.first().map_or(0, |count| *count as usize);
        let wanted = wanted.saturating_sub(usize::from(is_here));
        if wanted == 0 {
            return Vec::new();
        }
        let Some((search, mut answers)) = self.searches.begin() else { return Vec::new() };
        let mut found = Vec::new();
        let until = Instant::now() + SEARCH_TIMEOUT;
        let (node, user) = (self.node.clone(), user.clone());
        let question = Publication::Search { search: search.id.clone(), node, user };
        if let Ok(Ok(_)) = timeout_at(until, self.publish(&question)).await {
            while found.len() < wanted
                && let Ok(Some(server)) = timeout_at(until, answers.recv()).await
            {
                found.push(server);
            }
        }
        found
    }

    /// Makes the connections of a user join or leave a room, on all servers: those that speak the
    /// native protocol. Returns when the broker has the request.
    pub(crate) async fn request_room(
        &self,
        user: UserId,
        room: RoomId,
        join: bool,
    ) -> Result<(), BrokerError> {
        self.publish(&Publication::Room { user, room, join }).await?.await.map(drop)
    }

    /// Publishes to all servers.
    async fn publish(&self, publication: &Publication) -> Result<Receipt, BrokerError> {
        let payload = Bytes::from(serde_json::to_vec(publication).map_err(BrokerError::config)?);
        self.hub.broker().publish(&topic(), payload, PublishOptions::default()).await
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

//! A connection, as lists of the busiest ones name it.

use std::hash::{Hash, Hasher};
use std::net::IpAddr;

use chat_core::{ConnectionId, UserId};

/// A connection, which may have ended since. Two are equal if their ids are.
#[derive(Debug, Clone)]
pub(crate) struct Client {
    pub(crate) id: ConnectionId,
    pub(crate) user: UserId,
    pub(crate) address: Option<IpAddr>,
}

impl PartialEq for Client {
    fn eq(&self, other: &Self) -> bool {
        self.id == other.id
    }
}

impl Eq for Client {}

impl Hash for Client {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.id.hash(state);
    }
}

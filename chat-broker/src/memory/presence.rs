//! The occupants of a topic, and the nodes that hold them.

use std::collections::BTreeMap;

use bytes::Bytes;
use chat_core::{Occupant, PresenceChange, UserId};

/// The occupants of one topic.
#[derive(Debug, Default)]
pub(super) struct Occupants(BTreeMap<UserId, OccupantState>);

#[derive(Debug)]
struct OccupantState {
    /// The info that a node set last.
    info: Bytes,
    /// The nodes that hold the user: at least one.
    nodes: Vec<u64>,
}

impl Occupants {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn count(&self) -> u32 {
        u32::try_from(self.0.len()).unwrap_or(u32::MAX)
    }

    pub(super) fn contains(&self, user: &UserId) -> bool {
        self.0.contains_key(user)
    }

    pub(super) fn list(&self) -> Vec<Occupant> {
        let occupant = |(user, state): (&UserId, &OccupantState)| {
            Occupant::new(user.clone(), state.info.clone())
        };
        self.0.iter().map(occupant).collect()
    }

    /// A node starts to hold a user. Returns the change to announce, if any.
    pub(super) fn enter(&mut self, node: u64, occupant: &Occupant) -> Option<PresenceChange> {
        let Some(state) = self.0.get_mut(&occupant.user) else {
            let state = OccupantState { info: occupant.info.clone(), nodes: vec![node] };
            self.0.insert(occupant.user.clone(), state);
            return Some(PresenceChange::Joined);
        };
        if !state.nodes.contains(&node) {
            state.nodes.push(node);
        }
        let before = std::mem::replace(&mut state.info, occupant.info.clone());
        (before != state.info).then_some(PresenceChange::Renamed)
    }

    /// A node stops holding a user. Returns the user if no other node does.
    pub(super) fn leave(&mut self, node: u64, user: &UserId) -> Option<Occupant> {
        let state = self.0.get_mut(user)?;
        state.nodes.retain(|other| *other != node);
        if !state.nodes.is_empty() {
            return None;
        }
        let (user, OccupantState { info, .. }) = self.0.remove_entry(user)?;
        Some(Occupant::new(user, info))
    }

    /// The users that a node holds.
    pub(super) fn of_node(&self, node: u64) -> Vec<UserId> {
        let here = self.0.iter().filter(|(_, state)| state.nodes.contains(&node));
        here.map(|(user, _)| user.clone()).collect()
    }
}

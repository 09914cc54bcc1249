//! Who is in a topic, and which nodes say so.

use std::collections::BTreeMap;

use bytes::Bytes;
use chat_core::{Occupant, PresenceChange, UserId};

/// The occupants of one topic.
#[derive(Debug, Default)]
pub(super) struct Occupants(BTreeMap<UserId, OccupantState>);

#[derive(Debug)]
struct OccupantState {
    /// As a node told it last.
    info: Bytes,
    /// Those that say so: never none.
    nodes: Vec<u64>,
}

impl Occupants {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn count(&self) -> u32 {
        u32::try_from(self.0.len()).unwrap_or(u32::MAX)
    }

    pub(super) fn list(&self) -> Vec<Occupant> {
        let occupant = |(user, state): (&UserId, &OccupantState)| {
            Occupant::new(user.clone(), state.info.clone())
        };
        self.0.iter().map(occupant).collect()
    }

    /// A node says that a user is here. Returns what changes by that, if anything does.
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

    /// A node says it no more. Returns who is gone, if no other node says it.
    pub(super) fn leave(&mut self, node: u64, user: &UserId) -> Option<Occupant> {
        let state = self.0.get_mut(user)?;
        state.nodes.retain(|other| *other != node);
        if !state.nodes.is_empty() {
            return None;
        }
        let (user, OccupantState { info, .. }) = self.0.remove_entry(user)?;
        Some(Occupant::new(user, info))
    }

    /// Whoever is here according to a node.
    pub(super) fn of_node(&self, node: u64) -> Vec<UserId> {
        let here = self.0.iter().filter(|(_, state)| state.nodes.contains(&node));
        here.map(|(user, _)| user.clone()).collect()
    }
}

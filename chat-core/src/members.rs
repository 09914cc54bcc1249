//! The members of one room.

use std::sync::Arc;

use crate::id::ConnectionId;

/// Members in one group: as many as one step of the fan-out serves.
pub const GROUP: usize = 32;

/// The members of a room, in the order of their [`ConnectionId`]s.
///
/// They are kept in shared groups of at most [`GROUP`]. A clone shares the groups, so that the
/// fan-out iterates over a snapshot while others join and leave; a change copies at most the one
/// group that it touches, and only if a snapshot still holds it. Ids are found by binary
/// search, so no index is kept.
#[derive(Debug)]
pub struct Members<M> {
    groups: Vec<Arc<Group<M>>>,
    len: usize,
}

/// At most [`GROUP`] members.
pub type Group<M> = Vec<(ConnectionId, M)>;

impl<M> Default for Members<M> {
    fn default() -> Self {
        Self { groups: Vec::new(), len: 0 }
    }
}

impl<M> Clone for Members<M> {
    fn clone(&self) -> Self {
        Self { groups: self.groups.clone(), len: self.len }
    }
}

impl<M> Members<M> {
    /// How many members there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The members, in the order of their ids.
    pub fn iter(&self) -> impl Iterator<Item = &(ConnectionId, M)> {
        self.groups.iter().flat_map(|group| group.iter())
    }

    /// The groups, each a slice of work for a fan-out loop.
    #[must_use]
    pub fn groups(&self) -> &[Arc<Group<M>>] {
        &self.groups
    }

    /// The member with this id.
    #[must_use]
    pub fn get(&self, id: ConnectionId) -> Option<&M> {
        let group = self.groups.get(self.group_of(id))?;
        let index = group.binary_search_by_key(&id, |member| member.0).ok()?;
        Some(&group[index].1)
    }

    /// Index of the group in which `id` is or would be, if there is one that ends at or
    /// after it.
    fn group_of(&self, id: ConnectionId) -> usize {
        self.groups.partition_point(|group| group.last().is_some_and(|last| last.0 < id))
    }
}

impl<M: Clone> Members<M> {
    /// Adds a member, or replaces the one with this id and returns it.
    pub(crate) fn insert(&mut self, id: ConnectionId, member: M) -> Option<M> {
        if self.groups.is_empty() {
            // Most topics are those of single users, which have one member: `Vec::push` would allocate
            // room for four.
            self.groups.reserve_exact(1);
            self.groups.push(Arc::new(Vec::with_capacity(1)));
        }
        // Ids increase, so most new members are appended to the last group.
        let at = self.group_of(id).min(self.groups.len() - 1);
        let group = Arc::make_mut(&mut self.groups[at]);
        match group.binary_search_by_key(&id, |member| member.0) {
            Ok(index) => return Some(std::mem::replace(&mut group[index].1, member)),
            Err(index) => group.insert(index, (id, member)),
        }
        self.len += 1;
        if group.len() > GROUP {
            // A full last group stays full: the next members fill the one after it.
            let split = if at + 1 == self.groups.len() { GROUP } else { GROUP / 2 };
            let tail = Arc::make_mut(&mut self.groups[at]).split_off(split);
            self.groups.insert(at + 1, Arc::new(tail));
        }
        None
    }

    /// Removes a member.
    pub(crate) fn remove(&mut self, id: ConnectionId) -> Option<M> {
        let at = self.group_of(id);
        let group = self.groups.get_mut(at)?;
        let index = group.binary_search_by_key(&id, |member| member.0).ok()?;
        let group = Arc::make_mut(group);
        let (_, member) = group.remove(index);
        self.len -= 1;
        if group.is_empty() {
            self.groups.remove(at);
        } else if group.capacity() > 4 * group.len() {
            group.shrink_to(2 * group.len());
        }
        Some(member)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn joins_fill_groups_and_snapshots_do_not_change() {
        let mut members = Members::default();
        for id in 0..150 {
            assert_eq!(members.insert(ConnectionId::new(id), id), None);
        }
        let sizes: Vec<_> = members.groups().iter().map(|group| group.len()).collect();
        assert_eq!(sizes, [32, 32, 32, 32, 22]);

        let snapshot = members.clone();
        members.remove(ConnectionId::new(100));
        members.insert(ConnectionId::new(7), 70);
        assert_eq!(snapshot.len(), 150);
        assert_eq!(snapshot.get(ConnectionId::new(7)), Some(&7));
        assert_eq!(members.get(ConnectionId::new(7)), Some(&70));
        assert!(Arc::ptr_eq(&snapshot.groups()[2], &members.groups()[2]), "untouched: shared");
    }

    #[test]
    fn single_member_takes_no_room_for_others() {
        let mut members = Members::default();
        members.insert(ConnectionId::new(1), 7);
        assert_eq!((members.groups.capacity(), members.groups[0].capacity()), (1, 1));
    }

    #[test]
    fn sparse_group_frees_memory() {
        let mut members = Members::default();
        for id in 0..=GROUP as u64 {
            members.insert(ConnectionId::new(id), ());
        }
        let mut capacities = Vec::new();
        for id in 1..GROUP as u64 {
            members.remove(ConnectionId::new(id));
            let group = &members.groups()[0];
            assert!(group.capacity() <= 4 * group.len(), "{} of {}", group.len(), group.capacity());
            capacities.push((group.capacity(), group.len()));
        }
        capacities.dedup_by_key(|(capacity, _)| *capacity);
        assert!(capacities.len() <= 1 + GROUP.ilog2() as usize, "seldom: {capacities:?}");
        let mut shrunk = capacities.iter().skip(1);
        assert!(shrunk.all(|(capacity, len)| *capacity >= 2 * len), "with room to grow again");
    }

    proptest! {
        #[test]
        fn like_a_sorted_map(
            changes in prop::collection::vec((any::<bool>(), 0u64..1500), 0..3000),
        ) {
            let (mut members, mut model) = (Members::default(), BTreeMap::new());
            for (value, (add, id)) in changes.into_iter().enumerate() {
                let id = ConnectionId::new(id);
                if add {
                    prop_assert_eq!(members.insert(id, value), model.insert(id, value));
                } else {
                    prop_assert_eq!(members.remove(id), model.remove(&id));
                }
                prop_assert_eq!(members.len(), model.len());
            }
            let all: Vec<_> = members.iter().copied().collect();
            prop_assert_eq!(all, model.into_iter().collect::<Vec<_>>());
            prop_assert!(members.groups().iter().all(|g| (1..=GROUP).contains(&g.len())));
            prop_assert!(members.groups().iter().all(|g| g.capacity() <= 4 * g.len()));
        }
    }
}

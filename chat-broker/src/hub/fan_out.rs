//! From the rooms to their members.
//!
//! A topic has one batch under way at a time, so order holds. A turn serves one group of
//! members; the rest of the batch goes to the end of a queue first, where any worker finds
//! it: a room of ten thousand does not stall a room of five, and is served by all workers.
//! What arrives for a topic meanwhile is for its next batch.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use chat_core::{Batch, ConnectionId, Deliver, DeliveryOutcome, Members, Topic};
use parking_lot::{Mutex, MutexGuard};
use tokio::sync::Notify;
use tokio::time::Instant;

use super::backlog::RoomBacklog;
use super::member_slot::MemberSlot;
use super::room::RoomState;
use super::{Counters, Shared};

/// Bytes that a worker delivers before it lets others on its thread run.
const BUDGET: usize = 64 * 1024;

/// A delivery costs as much as one of so many bytes, however small it is.
const LEAST_COST: usize = 1024;

/// More threads than this are of no use, and tokio has not many more to give.
const MAX_WORKERS: usize = 256;

pub(super) struct FanOut<M> {
    /// One for each worker, which helps out at the others when its own is empty.
    queues: Box<[Mutex<VecDeque<Turn<M>>>]>,
    /// Turns in all queues.
    turns: AtomicUsize,
    /// Rooms that have ever rooms_begun.
    rooms_begun: AtomicUsize,
    /// Publications that wait for fan-out, over all topics.
    backlog: AtomicUsize,
    /// There is work for the first worker, which is always awake first.
    first_worker: Notify,
    /// There is more than it does at once.
    other_workers: Notify,
    /// The backlog went down.
    drained: Notify,
}

enum Turn<M> {
    /// The room has something pending.
    Cut(Room),
    /// A batch, for the members from this one of this group on.
    Rest(Arc<Job<M>>, Cursor),
}

/// A room, and not another of its name, which began after this one had ended.
struct Room {
    topic: Topic,
    serial: usize,
}

/// Where a batch has come to.
#[derive(Clone, Copy, Default)]
struct Cursor {
    group: usize,
    member: usize,
}

/// A batch on its way to the members of the moment in which it was cut.
struct Job<M> {
    serial: usize,
    batch: Batch,
    members: Members<MemberSlot<M>>,
    /// Groups of members that have not been served.
    groups_left: AtomicUsize,
    /// Of a delivery to one member.
    cost: usize,
    /// Since when its first was pending.
    since: Option<Instant>,
}

impl<M> FanOut<M> {
    pub(super) fn new(workers: usize) -> Self {
        Self {
            queues: (0..workers.clamp(1, MAX_WORKERS)).map(|_| Mutex::default()).collect(),
            turns: AtomicUsize::new(0),
            rooms_begun: AtomicUsize::new(0),
            backlog: AtomicUsize::new(0),
            first_worker: Notify::new(),
            other_workers: Notify::new(),
            drained: Notify::new(),
        }
    }

    pub(super) fn workers(&self) -> usize {
        self.queues.len()
    }

    /// Names a room among all that ever began, those of the same topic included.
    pub(super) fn next_room(&self) -> usize {
        self.rooms_begun.fetch_add(1, Ordering::Relaxed)
    }

    /// Has a topic served that may have something pending. Called under its lock.
    pub(super) fn enqueue(&self, topic: &Topic, room: &mut RoomState<M>) {
        if room.backlog.pending.is_empty() || room.is_waiting() {
            return;
        }
        let backlog = &mut room.backlog;
        self.backlog.fetch_add(backlog.pending.len() - backlog.counted, Ordering::Relaxed);
        backlog.counted = backlog.pending.len();
        backlog.pending_since.get_or_insert_with(Instant::now);
        if !std::mem::replace(&mut backlog.is_queued, true) {
            let serial = backlog.serial;
            self.push(serial, Turn::Cut(Room { topic: topic.clone(), serial }));
            self.first_worker.notify_one();
        }
    }

    /// Counts what is pending in the room now, after some of it was taken.
    fn recount(&self, backlog: &mut RoomBacklog) {
        let left = backlog.pending.len().min(backlog.counted);
        self.backlog.fetch_sub(backlog.counted - left, Ordering::Relaxed);
        backlog.counted = left;
        self.drained.notify_one();
    }

    /// The room is gone, and what was pending in it.
    pub(super) fn forget(&self, mut backlog: RoomBacklog) {
        backlog.pending.clear();
        self.recount(&mut backlog);
    }

    /// Waits until fewer than `limit` publications wait for fan-out.
    pub(super) async fn below(&self, limit: usize) {
        while self.backlog.load(Ordering::Relaxed) >= limit {
            self.drained.notified().await;
        }
    }

    /// Puts the rest of a batch at the end, for whichever worker is free first.
    fn requeue(&self, worker: usize, rest: Turn<M>) {
        self.push(worker, rest);
        self.wake_workers(worker);
    }

    fn push(&self, serial: usize, turn: Turn<M>) {
        self.turns.fetch_add(1, Ordering::Relaxed);
        self.queue(serial).push_back(turn);
    }

    fn take(&self, worker: usize) -> Option<Turn<M>> {
        let mut queues = worker..worker + self.workers();
        let turn = queues.find_map(|nth| self.queue(nth).pop_front())?;
        if self.turns.fetch_sub(1, Ordering::Relaxed) > 1 {
            self.wake_workers(worker);
        }
        Some(turn)
    }

    fn wake_workers(&self, worker: usize) {
        if self.workers() > 1 {
            self.other_workers.notify_one();
        }
        if worker > 0 {
            self.first_worker.notify_one();
        }
    }

    /// Waits until there may be something to take.
    async fn woken(&self, worker: usize) {
        let notify = if worker == 0 { &self.first_worker } else { &self.other_workers };
        notify.notified().await;
    }

    fn queue(&self, nth: usize) -> MutexGuard<'_, VecDeque<Turn<M>>> {
        self.queues[nth % self.workers()].lock()
    }
}

/// Works for ever, as one of the workers.
pub(super) async fn run<M: Deliver + Clone>(shared: &Shared<M>, worker: usize) {
    let fan_out = &shared.fan_out;
    let mut budget = BUDGET;
    loop {
        let Some(turn) = fan_out.take(worker) else {
            fan_out.woken(worker).await;
            continue;
        };
        let next = match turn {
            Turn::Cut(room) => shared.cut(room).map(|job| (Arc::new(job), Cursor::default())),
            Turn::Rest(job, cursor) => Some((job, cursor)),
        };
        let cost = next.map_or(0, |(job, cursor)| shared.serve(&job, cursor, worker));
        budget = budget.saturating_sub(cost);
        if budget == 0 {
            budget = BUDGET;
            tokio::task::yield_now().await;
        }
    }
}

impl<M: Deliver + Clone> Shared<M> {
    /// Makes one batch of what is pending in a room.
    fn cut(&self, Room { topic, serial }: Room) -> Option<Job<M>> {
        let cut = self.registry.update(&topic, |room| {
            if room.state.backlog.serial != serial {
                return None;
            }
            let items = room.state.cut();
            self.fan_out.recount(&mut room.state.backlog);
            let since = room.state.backlog.take_since();
            Some((items, room.members().clone(), since))
        });
        let (items, members, since) = cut.flatten()?;
        let groups_left = AtomicUsize::new(members.groups().len());
        let batch = Batch::new(topic, items);
        let cost = batch.payload_len().max(LEAST_COST);
        Some(Job { serial, batch, members, groups_left, cost, since })
    }

    /// Serves one group of members, or as many of it as the budget is for; whoever ends the
    /// last group queues what remains to be done for the room. Returns what it cost.
    fn serve(&self, job: &Arc<Job<M>>, cursor: Cursor, worker: usize) -> usize {
        let Cursor { group, member } = cursor;
        let groups = job.members.groups();
        if member == 0 && group + 1 < groups.len() {
            let next = Cursor { group: group + 1, member: 0 };
            self.fan_out.requeue(worker, Turn::Rest(Arc::clone(job), next));
        }
        let rest = groups.get(group).map_or(&[][..], |group| &group[member..]);
        let members = &rest[..rest.len().min((BUDGET / job.cost).max(1))];
        self.deliver(&job.batch, members);
        if members.len() < rest.len() {
            // Not before: the group has ended when the last of it is served.
            let next = Cursor { group, member: member + members.len() };
            self.fan_out.requeue(worker, Turn::Rest(Arc::clone(job), next));
        } else if job.groups_left.fetch_sub(1, Ordering::AcqRel) == 1 {
            // The next batch is cut by whoever sees that all others are done.
            self.finish(job, worker);
        }
        members.len() * job.cost
    }

    fn deliver(&self, batch: &Batch, members: &[(ConnectionId, MemberSlot<M>)]) {
        let mut delivered = 0;
        for (_, member_slot) in members {
            match member_slot.deliver(batch) {
                DeliveryOutcome::Queued => delivered += 1,
                DeliveryOutcome::Full => Counters::add(&self.counters.slow_consumers, 1),
                DeliveryOutcome::Dropped => Counters::add(&self.counters.dropped, 1),
                _ => {}
            }
        }
        Counters::add(&self.counters.deliveries, delivered);
    }

    /// Queues the room again if something came in meanwhile.
    fn finish(&self, job: &Job<M>, worker: usize) {
        let (topic, serial) = (job.batch.topic(), job.serial);
        if let Some(since) = job.since {
            self.counters.fan_out.observe(since.elapsed());
        }
        self.registry.update(topic, |room| {
            let backlog = &mut room.state.backlog;
            if backlog.serial != serial {
                return;
            }
            if backlog.pending.is_empty() {
                backlog.is_queued = false;
            } else {
                self.fan_out.push(worker, Turn::Cut(Room { topic: topic.clone(), serial }));
            }
        });
    }
}

#[cfg(test)]
#[path = "fan_out_tests.rs"]
mod tests;

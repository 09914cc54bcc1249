//! Delivers batches from rooms to their members.
//!
//! One batch of a topic is being delivered at a time, so order holds. Items that arrive before it
//! is done go into the next one.
//!
//! ```text
//! items pending ──▶ Turn::Cut ──▶ a batch ──▶ group 0 ──▶ group 1 ──▶ … ──▶ the last group ends
//!      ▲               ▲                        each queues the next one        │
//!      │               └──── more is pending ◀──────────────────────────────────┤
//!      └──────────────────── nothing is pending: `is_queued` is false ◀─────────┘
//! ```
//!
//! A member that holds back an answer, to be one write with a delivery, has a turn of its own behind
//! the deliveries that wait: `Turn::Flush`.
//!
//! A turn serves one group of members. Before it does, it puts the next group at the end of a
//! queue, where any worker finds it: a room of 10,000 does not stall a room of 5, and all workers
//! serve it.

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

/// Bytes that a worker delivers before it yields to other tasks on its thread.
const BUDGET: usize = 64 * 1024;

/// The least that one delivery counts against the budget, in bytes: queueing and waking a member
/// costs the same for a small batch.
const LEAST_COST: usize = 1024;

/// Maximum workers. Each occupies a thread of tokio's blocking pool, which has 512 by default.
const MAX_WORKERS: usize = 256;

pub(super) struct FanOut<M> {
    /// One queue for each worker. A worker whose queue is empty takes from the others.
    queues: Box<[Mutex<VecDeque<Turn<M>>>]>,
    /// Turns in all queues together.
    turns: AtomicUsize,
    /// How many rooms have ever begun: the next serial.
    rooms_begun: AtomicUsize,
    /// Items that wait for fan-out, over all topics.
    backlog: AtomicUsize,
    /// Wakes the first worker: a room has something pending. It alone is woken for a new turn, and
    /// wakes the others when it leaves turns behind.
    first_worker: Notify,
    /// Wakes one of the other workers: turns wait while a worker is busy.
    other_workers: Notify,
    /// Wakes the task that takes events, since `backlog` went down.
    drained: Notify,
}

enum Turn<M> {
    /// Make a batch of what is pending in the room, and serve its first group.
    Cut(Room),
    /// Serve a batch from this group and member on.
    Rest(Arc<Job<M>>, Cursor),
    /// Have a member write what it holds back.
    Flush(M),
}

/// One room of a topic. After its last member has left, the next room of the same topic has another
/// serial: a turn that is still queued for the first must not cut the second, which may not be
/// live.
struct Room {
    topic: Topic,
    serial: usize,
}

/// The next member to serve.
#[derive(Clone, Copy, Default)]
struct Cursor {
    group: usize,
    member: usize,
}

/// A batch, and the members of the moment in which it was cut.
struct Job<M> {
    serial: usize,
    batch: Batch,
    members: Members<MemberSlot<M>>,
    /// Groups that are not served yet. The worker that brings it to zero finishes the batch.
    groups_left: AtomicUsize,
    /// What a delivery to one member counts against the budget, in bytes.
    cost: usize,
    /// When its first item became pending.
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

    /// The serial of a room that begins.
    pub(super) fn next_room(&self) -> usize {
        self.rooms_begun.fetch_add(1, Ordering::Relaxed)
    }

    /// Queues a topic that may have something pending. Called under its lock.
    pub(super) fn enqueue(&self, topic: &Topic, room: &mut RoomState<M>) {
        if room.backlog.pending.is_empty() || room.is_waiting() {
            return;
        }
        let backlog = &mut room.backlog;
        self.backlog.fetch_add(backlog.pending.len() - backlog.counted, Ordering::Relaxed);
        backlog.counted = backlog.pending.len();
        backlog.pending_since.get_or_insert_with(Instant::now);
        // Once only: two turns of one topic would be two batches at a time, in any order.
        if !std::mem::replace(&mut backlog.is_queued, true) {
            let serial = backlog.serial;
            self.push(serial, Turn::Cut(Room { topic: topic.clone(), serial }));
            self.first_worker.notify_one();
        }
    }

    /// Queues a flush of a member, behind the turns that wait in one worker's queue.
    pub(super) fn flush_after_pending(&self, member: M) {
        self.push(0, Turn::Flush(member));
        self.first_worker.notify_one();
    }

    /// Counts what is still pending in the room after some of it was taken.
    fn recount(&self, backlog: &mut RoomBacklog) {
        let left = backlog.pending.len().min(backlog.counted);
        self.backlog.fetch_sub(backlog.counted - left, Ordering::Relaxed);
        backlog.counted = left;
        self.drained.notify_one();
    }

    /// The room has ended; what was pending in it is dropped.
    pub(super) fn forget(&self, mut backlog: RoomBacklog) {
        backlog.pending.clear();
        self.recount(&mut backlog);
    }

    /// Waits until fewer than `limit` items wait for fan-out.
    pub(super) async fn below(&self, limit: usize) {
        while self.backlog.load(Ordering::Relaxed) >= limit {
            self.drained.notified().await;
        }
    }

    /// Queues the rest of a batch at the end, for the worker that is free first.
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
        // A turn was left, in whichever queue: its `notify_one` may have been merged with that of
        // the turn just taken, and nothing else would wake a worker for it while this one is busy.
        if self.turns.fetch_sub(1, Ordering::Relaxed) > 1 {
            self.wake_workers(worker);
        }
        Some(turn)
    }

    fn wake_workers(&self, worker: usize) {
        if self.workers() > 1 {
            self.other_workers.notify_one();
        }
        // The first worker waits on a `Notify` of its own.
        if worker > 0 {
            self.first_worker.notify_one();
        }
    }

    /// Waits until there may be a turn to take.
    async fn woken(&self, worker: usize) {
        let notify = if worker == 0 { &self.first_worker } else { &self.other_workers };
        notify.notified().await;
    }

    fn queue(&self, nth: usize) -> MutexGuard<'_, VecDeque<Turn<M>>> {
        self.queues[nth % self.workers()].lock()
    }
}

/// Runs one of the workers; it never returns.
pub(super) async fn run<M: Deliver + Clone>(shared: &Shared<M>, worker: usize) {
    let fan_out = &shared.fan_out;
    let mut budget = BUDGET;
    loop {
        let Some(turn) = fan_out.take(worker) else {
            fan_out.woken(worker).await;
            continue;
        };
        let cost = match turn {
            Turn::Cut(room) => shared.cut(room).map_or(0, |(job, fed)| {
                let cost = shared.serve(&Arc::new(job), Cursor::default(), worker);
                // Of a room without members, the batch itself.
                cost.max(LEAST_COST) + fed * LEAST_COST
            }),
            Turn::Rest(job, cursor) => shared.serve(&job, cursor, worker),
            Turn::Flush(member) => {
                member.flush();
                LEAST_COST
            }
        };
        budget = budget.saturating_sub(cost);
        if budget == 0 {
            budget = BUDGET;
            tokio::task::yield_now().await;
        }
    }
}

impl<M: Deliver + Clone> Shared<M> {
    /// Makes a batch of what is pending in a room, and queues it for the followers. Returns how many
    /// these are.
    fn cut(&self, Room { topic, serial }: Room) -> Option<(Job<M>, usize)> {
        let cut = self.registry.update(&topic, |room| {
            if room.state.backlog.serial != serial {
                return None;
            }
            let items = room.state.cut();
            let full = room.state.feed_followers(&items);
            Counters::add(&self.counters.slow_followers, full);
            self.fan_out.recount(&mut room.state.backlog);
            let since = room.state.backlog.take_since();
            Some((items, room.members().clone(), room.state.followers().len(), since))
        });
        let (items, members, fed, since) = cut.flatten()?;
        // A room with followers alone has no group: its one turn finishes the batch.
        let groups_left = AtomicUsize::new(members.groups().len().max(1));
        let batch = Batch::new(topic, items);
        let payload = batch.payload_len();
        self.traffic.count(&batch, payload, members.len());
        let cost = payload.max(LEAST_COST);
        Some((Job { serial, batch, members, groups_left, cost, since }, fed))
    }

    /// Serves one group of members, or as many of it as the budget allows. The worker that serves
    /// the end of the last group finishes the batch. Returns the cost in bytes.
    fn serve(&self, job: &Arc<Job<M>>, cursor: Cursor, worker: usize) -> usize {
        let Cursor { group, member } = cursor;
        let groups = job.members.groups();
        // Queued before this group is served, so that another worker starts on the next one now.
        if member == 0 && group + 1 < groups.len() {
            let next = Cursor { group: group + 1, member: 0 };
            self.fan_out.requeue(worker, Turn::Rest(Arc::clone(job), next));
        }
        let rest = groups.get(group).map_or(&[][..], |group| &group[member..]);
        let members = &rest[..rest.len().min((BUDGET / job.cost).max(1))];
        self.deliver(&job.batch, members);
        if members.len() < rest.len() {
            // Queued after this part, unlike the next group: a member is served by one worker at a
            // time, and the group counts as served with its last part.
            let next = Cursor { group, member: member + members.len() };
            self.fan_out.requeue(worker, Turn::Rest(Arc::clone(job), next));
        } else if job.groups_left.fetch_sub(1, Ordering::AcqRel) == 1 {
            // `AcqRel`: the deliveries of all other workers happen before the next batch is cut,
            // which this worker alone may queue.
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

    /// Queues the room again if more became pending while the batch was delivered.
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
            // Under the lock of the room: an item that arrives after this finds `is_queued` false,
            // and `enqueue` makes the next turn.
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

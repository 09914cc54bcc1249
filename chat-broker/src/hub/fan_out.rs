//! From the rooms to their members.
//!
//! A topic stands in the queue at most once, so one loop serves it at a time and order
//! holds. A turn serves one group of members and puts the topic back at the end: a room of
//! ten thousand does not stall a room of five. What arrives for a topic meanwhile is for
//! its next turn.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use chat_core::{Batch, CloseReason, Deliver, Delivery, GROUP, Members, Topic};
use tokio::sync::Notify;

use super::room::RoomState;
use super::seat::Seat;
use super::{Counters, Shared};

/// Deliveries before the loop lets others on its thread run.
const BUDGET: usize = GROUP;

pub(super) struct FanOut<M> {
    queue: Mutex<Queue<M>>,
    /// There is work.
    work: Notify,
    /// The backlog went down.
    drained: Notify,
}

struct Queue<M> {
    turns: VecDeque<Turn<M>>,
    /// Publications that wait for fan-out, over all topics.
    backlog: usize,
}

enum Turn<M> {
    /// The topic has something pending.
    Cut(Topic),
    /// The rest of a batch.
    Rest(Box<Job<M>>),
}

/// A batch on its way to the members of the moment in which it was cut.
struct Job<M> {
    batch: Batch,
    members: Members<Seat<M>>,
    /// The next group of members to be served.
    next: usize,
}

impl<M> Default for FanOut<M> {
    fn default() -> Self {
        let queue = Mutex::new(Queue { turns: VecDeque::new(), backlog: 0 });
        Self { queue, work: Notify::new(), drained: Notify::new() }
    }
}

impl<M> FanOut<M> {
    fn queue(&self) -> MutexGuard<'_, Queue<M>> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has a topic served that may have something pending. Called under its lock.
    pub(super) fn enqueue(&self, topic: &Topic, room: &mut RoomState<M>) {
        if room.pending.is_empty() || room.is_waiting() {
            return;
        }
        let mut queue = self.queue();
        queue.backlog += room.pending.len() - room.counted;
        room.counted = room.pending.len();
        if !std::mem::replace(&mut room.queued, true) {
            queue.turns.push_back(Turn::Cut(topic.clone()));
            drop(queue);
            self.work.notify_one();
        }
    }

    /// Counts what is pending in the room now, after some of it was taken.
    pub(super) fn recount(&self, room: &mut RoomState<M>) {
        let left = room.pending.len().min(room.counted);
        self.queue().backlog -= room.counted - left;
        room.counted = left;
        self.drained.notify_one();
    }

    /// The room is gone, and what was pending in it.
    pub(super) fn forget(&self, mut room: RoomState<M>) {
        room.pending.clear();
        self.recount(&mut room);
    }

    /// Waits until fewer than `limit` publications wait for fan-out.
    pub(super) async fn below(&self, limit: usize) {
        while self.queue().backlog >= limit {
            self.drained.notified().await;
        }
    }
}

/// Works for ever.
pub(super) async fn run<M: Deliver + Clone>(shared: &Shared<M>) {
    let fan_out = &shared.fan_out;
    let mut budget = BUDGET;
    loop {
        let Some(turn) = fan_out.queue().turns.pop_front() else {
            fan_out.work.notified().await;
            continue;
        };
        let served = match turn {
            Turn::Cut(topic) => shared.cut(topic).map_or(0, |job| shared.serve(job)),
            Turn::Rest(job) => shared.serve(*job),
        };
        budget = budget.saturating_sub(served);
        if budget == 0 {
            budget = BUDGET;
            tokio::task::yield_now().await;
        }
    }
}

impl<M: Deliver + Clone> Shared<M> {
    /// Makes one batch of what is pending in a topic.
    fn cut(&self, topic: Topic) -> Option<Job<M>> {
        let cut = self.registry.update(&topic, |room| {
            let items = room.state.cut();
            self.fan_out.recount(&mut room.state);
            if items.is_empty() {
                // The turn of a room that was here before; this one is not live yet.
                room.state.queued = false;
                return None;
            }
            Some((items, room.members().clone()))
        });
        let (items, members) = cut.flatten()?;
        Some(Job { batch: Batch::new(topic, items), members, next: 0 })
    }

    /// Serves the next group of members, and queues what remains to be done for the topic.
    /// Returns how many were served.
    fn serve(&self, mut job: Job<M>) -> usize {
        let group = job.members.groups().get(job.next).map_or(&[][..], |group| group);
        let mut delivered = 0;
        for (_, seat) in group {
            match seat.deliver(&job.batch) {
                Delivery::Queued => delivered += 1,
                Delivery::Full => {
                    Counters::add(&self.counters.slow_consumers, 1);
                    seat.close(CloseReason::SlowConsumer);
                }
                Delivery::Skipped | Delivery::Closed => {}
            }
        }
        Counters::add(&self.counters.deliveries, delivered);
        let served = group.len();
        job.next += 1;
        if job.next < job.members.groups().len() {
            self.fan_out.queue().turns.push_back(Turn::Rest(Box::new(job)));
        } else {
            self.finish(job.batch.topic());
        }
        served
    }

    /// Queues the topic again if something came in meanwhile.
    fn finish(&self, topic: &Topic) {
        self.registry.update(topic, |room| {
            if room.state.pending.is_empty() {
                room.state.queued = false;
            } else {
                self.fan_out.queue().turns.push_back(Turn::Cut(topic.clone()));
            }
        });
    }
}

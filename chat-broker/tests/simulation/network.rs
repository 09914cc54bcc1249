//! The network between one node and Redis, as a script says.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use chat_broker::testing::Dial;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, ReadHalf, WriteHalf, duplex, split};
use tokio::sync::watch;
use tokio::task::AbortHandle;
use tokio::time::sleep;

use crate::simulation::redis::Redis;
use crate::simulation::rng::Rng;

/// What a direction of a connection holds, as the buffers of sockets do.
const BUFFER: usize = 64 * 1024;

/// The way of bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Direction {
    ToRedis,
    FromRedis,
}

/// What one node's connections have in common; a clone is another handle.
#[derive(Clone)]
pub(crate) struct Network {
    redis: Redis,
    conditions: watch::Sender<Conditions>,
    rng: Arc<Mutex<Rng>>,
    /// How many have begun.
    connections: Arc<AtomicU64>,
    /// The two directions of each connection.
    pumps: Arc<Mutex<Vec<[AbortHandle; 2]>>>,
}

#[derive(Debug, Clone, Copy, Default)]
struct Conditions {
    /// Nothing arrives: what was sent waits. Neither do connections begin.
    holds_to_redis: bool,
    holds_from_redis: bool,
    /// Nothing arrives on connections below this number, in either direction.
    holds_before: u64,
    /// Connections are refused.
    refuses: bool,
    /// The longest that a chunk may take, and every chunk takes another time: what is sent on
    /// different connections arrives in any order.
    delay: Duration,
}

impl Conditions {
    fn holds(&self, connection: u64, direction: Direction) -> bool {
        connection < self.holds_before
            || match direction {
                Direction::ToRedis => self.holds_to_redis,
                Direction::FromRedis => self.holds_from_redis,
            }
    }
}

impl Network {
    pub(crate) fn new(redis: &Redis, rng: Rng) -> Self {
        Self {
            redis: redis.clone(),
            conditions: watch::Sender::default(),
            rng: Arc::new(Mutex::new(rng)),
            connections: Arc::default(),
            pumps: Arc::default(),
        }
    }

    /// What a broker connects by.
    pub(crate) fn dial(&self) -> Dial {
        let network = self.clone();
        Arc::new(move || {
            let network = network.clone();
            Box::pin(async move { network.connect().await })
        })
    }

    pub(crate) fn set_delay(&self, delay: Duration) {
        self.conditions.send_modify(|conditions| conditions.delay = delay);
    }

    /// From now on nothing arrives in a direction; the other end is not told.
    pub(crate) fn hold(&self, direction: Direction) {
        self.conditions.send_modify(|conditions| match direction {
            Direction::ToRedis => conditions.holds_to_redis = true,
            Direction::FromRedis => conditions.holds_from_redis = true,
        });
    }

    /// As [`hold`](Self::hold), in both directions.
    pub(crate) fn partition(&self) {
        self.hold(Direction::ToRedis);
        self.hold(Direction::FromRedis);
    }

    /// Nothing arrives on the connections that there are; others may begin.
    pub(crate) fn hold_present(&self) {
        let count = self.connections.load(Ordering::Relaxed);
        self.conditions.send_modify(|conditions| conditions.holds_before = count);
    }

    pub(crate) fn refuse(&self) {
        self.conditions.send_modify(|conditions| conditions.refuses = true);
    }

    /// Ends all faults: what was held arrives.
    pub(crate) fn heal(&self) {
        self.conditions.send_modify(|conditions| {
            *conditions = Conditions { delay: conditions.delay, ..Conditions::default() };
        });
    }

    /// Breaks all connections, with what is on its way.
    pub(crate) fn reset(&self) {
        for pump in self.pumps.lock().unwrap().drain(..) {
            pump.iter().for_each(AbortHandle::abort);
        }
    }

    /// Breaks all connections on the side of the node alone: Redis is not told, and gets what was
    /// sent and is held.
    pub(crate) fn reset_from_redis(&self) {
        for [_, from_redis] in &*self.pumps.lock().unwrap() {
            from_redis.abort();
        }
    }

    async fn connect(&self) -> io::Result<DuplexStream> {
        sleep(self.delay()).await;
        let mut conditions = self.conditions.subscribe();
        let arrives =
            |now: &Conditions| now.refuses || !(now.holds_to_redis || now.holds_from_redis);
        // The sender lives as long as `self`.
        if conditions.wait_for(arrives).await.is_ok_and(|now| now.refuses) {
            return Err(io::ErrorKind::ConnectionRefused.into());
        }
        let ((node, near), (far, server)) = (duplex(BUFFER), duplex(BUFFER));
        self.redis.accept(server)?;
        let ((near_read, near_write), (far_read, far_write)) = (split(near), split(far));
        let nth = self.connections.fetch_add(1, Ordering::Relaxed);
        let to_redis = self.clone().pump(nth, Direction::ToRedis, near_read, far_write);
        let from_redis = self.clone().pump(nth, Direction::FromRedis, far_read, near_write);
        let pumps = [tokio::spawn(to_redis), tokio::spawn(from_redis)];
        let mut all = self.pumps.lock().unwrap();
        all.retain(|pump| !pump.iter().all(AbortHandle::is_finished));
        all.push(pumps.map(|pump| pump.abort_handle()));
        Ok(node)
    }

    /// Carries bytes until the sender closes, and then the end.
    async fn pump(
        self,
        connection: u64,
        direction: Direction,
        mut from: ReadHalf<DuplexStream>,
        mut to: WriteHalf<DuplexStream>,
    ) {
        let mut conditions = self.conditions.subscribe();
        let mut chunk = vec![0; 16 * 1024];
        loop {
            let read = from.read(&mut chunk).await.unwrap_or(0);
            sleep(self.delay()).await;
            let _ = conditions.wait_for(|now| !now.holds(connection, direction)).await;
            if read == 0 || to.write_all(&chunk[..read]).await.is_err() {
                break;
            }
        }
        let _ = to.shutdown().await;
    }

    fn delay(&self) -> Duration {
        let longest = self.conditions.borrow().delay;
        longest.mul_f64(self.rng.lock().unwrap().fraction())
    }
}

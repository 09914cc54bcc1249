//! What happens to two or three nodes, as a seed says.

use std::fmt;
use std::time::Duration;

use crate::simulation::network::Direction;
use crate::simulation::node::{PLAIN_ROOM, SHORT_ROOM};
use crate::simulation::rng::Rng;

pub(crate) const USERS: [&str; 5] = ["ann", "ben", "carl", "dora", "eve"];
pub(crate) const ROOMS: [&str; 3] = ["room", SHORT_ROOM, PLAIN_ROOM];

/// Steps, and how long after the one before each is taken.
#[derive(Debug, Clone)]
pub(crate) struct Script {
    pub(crate) nodes: usize,
    pub(crate) delay: Duration,
    /// Publications that wait in a hub at most.
    pub(crate) event_queue: usize,
    /// Each node follows each room.
    pub(crate) has_followers: bool,
    /// Hubs hold messages for joins. If not, members that missed some read pages.
    pub(crate) holds_messages: bool,
    pub(crate) steps: Vec<(Duration, Step)>,
}

/// A node, a user and a room, by their numbers.
pub(crate) type Slot = (usize, usize, usize);

#[derive(Debug, Clone, Copy)]
pub(crate) enum Step {
    Join(Slot),
    Leave(Slot),
    /// The connection of the user is lost.
    Lose(Slot),
    Rename(Slot),
    /// So many messages, in one go.
    Publish {
        node: usize,
        room: usize,
        with_keys: bool,
        count: u64,
    },
    /// A fault of a node's network, and for how long.
    Network(usize, Fault, Duration),
    Kill {
        node: usize,
        is_silent: bool,
        down: Duration,
    },
    StopRedis(Duration),
    RestartRedis {
        data: Data,
        down: Duration,
    },
    KillConnections,
    Clock {
        forward: bool,
        by: Duration,
    },
}

#[derive(Debug, Clone, Copy)]
pub(crate) enum Fault {
    /// All connections break.
    Reset,
    /// All connections break, and Redis does not notice.
    HalfOpen,
    Refuse,
    Partition,
    Hold(Direction),
    /// What is on its way in the connections that there are is late: new ones overtake it.
    HoldPresent,
    /// The longest delay of a chunk.
    Slow(Duration),
}

/// What a Redis that begins again has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Data {
    All,
    Nothing,
    /// A copy of some time before.
    Old,
}

impl Script {
    pub(crate) fn of(seed: u64) -> Self {
        let mut rng = Rng::new(seed);
        let nodes = if rng.chance(75) { 2 } else { 3 };
        let delay = Duration::from_millis(rng.choose(&[0, 1, 5, 30]));
        let event_queue = rng.choose(&[8192, 8192, 4]);
        let count = 20 + rng.below(60);
        // Of many scripts most have few faults: those that have many find few causes.
        let faults = rng.choose(&[2, 6, 12, 25]);
        let mut steps = vec![];
        for _ in 0..count {
            let pause = match rng.below(4) {
                0 => 0,
                1 => rng.below(10),
                2 => rng.below(300),
                _ => rng.below(2500),
            };
            let step =
                if rng.chance(faults) { fault(&mut rng, nodes) } else { call(&mut rng, nodes) };
            steps.push((Duration::from_millis(pause), step));
        }
        let (has_followers, holds_messages) = (rng.chance(30), rng.chance(60));
        Self { nodes, delay, event_queue, has_followers, holds_messages, steps }
    }

    /// Whether Redis loses what it has acknowledged.
    pub(crate) fn loses_data(&self) -> bool {
        self.has(Data::Old) || self.has(Data::Nothing)
    }

    /// Whether Redis begins again with such data.
    pub(crate) fn has(&self, lost: Data) -> bool {
        let is_it = |step: &Step| matches!(step, Step::RestartRedis { data, .. } if *data == lost);
        self.steps.iter().any(|(_, step)| is_it(step))
    }

    pub(crate) fn kills_nodes(&self) -> bool {
        self.steps.iter().any(|(_, step)| matches!(step, Step::Kill { .. }))
    }
}

fn call(rng: &mut Rng, nodes: usize) -> Step {
    let mut number = |end: usize| rng.below(end as u64) as usize;
    let slot = (number(nodes), number(USERS.len()), number(ROOMS.len()));
    match rng.below(100) {
        0..35 => Step::Join(slot),
        35..45 => Step::Leave(slot),
        45..50 => Step::Lose(slot),
        50..55 => Step::Rename(slot),
        _ => Step::Publish {
            node: slot.0,
            room: slot.2,
            with_keys: rng.chance(50),
            count: rng.choose(&[1, 1, 1, 3, 20]),
        },
    }
}

fn fault(rng: &mut Rng, nodes: usize) -> Step {
    let node = rng.below(nodes as u64) as usize;
    let mut millis =
        |shortest, longest| Duration::from_millis(shortest + rng.below(longest - shortest));
    // Shorter than a time limit, about as long, longer than a lease.
    let times = [millis(1, 500), millis(1500, 6000), millis(8000, 25_000)];
    let lasts = rng.choose(&times);
    match rng.below(20) {
        0..2 => Step::Network(node, Fault::Reset, lasts),
        2..4 => Step::Network(node, Fault::HalfOpen, lasts),
        4 => Step::Network(node, Fault::Refuse, lasts),
        5..8 => Step::Network(node, Fault::Partition, lasts),
        8 => Step::Network(node, Fault::Hold(Direction::ToRedis), lasts),
        9 => Step::Network(node, Fault::Hold(Direction::FromRedis), lasts),
        10 => Step::Network(node, Fault::HoldPresent, lasts),
        11 => Step::Network(node, Fault::Slow(rng.choose(&[100, 700, 1900]).millis()), lasts),
        12..14 => Step::Kill { node, is_silent: rng.chance(50), down: lasts },
        14 => Step::StopRedis(lasts),
        15..17 => {
            let data = rng.choose(&[Data::All, Data::All, Data::Nothing, Data::Old]);
            Step::RestartRedis { data, down: lasts }
        }
        17 => Step::KillConnections,
        _ => Step::Clock { forward: rng.chance(50), by: lasts },
    }
}

trait Millis {
    fn millis(self) -> Duration;
}

impl Millis for u64 {
    fn millis(self) -> Duration {
        Duration::from_millis(self)
    }
}

impl fmt::Display for Script {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { nodes, delay, event_queue, holds_messages, .. } = self;
        write!(f, "{nodes} nodes, delays up to {delay:?}, {event_queue} events in a queue")?;
        writeln!(f, "{}", if *holds_messages { "" } else { ", pages for all that is missed" })?;
        let mut at = Duration::ZERO;
        for (pause, step) in &self.steps {
            at += *pause;
            writeln!(f, "{at:>10.3?}  {step:?}")?;
        }
        Ok(())
    }
}

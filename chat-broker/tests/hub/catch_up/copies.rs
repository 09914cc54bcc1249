//! Copies of a room that outlive their connections, whatever happens in between.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use chat_broker::testing::{Call, LossNotice};
use chat_broker::{Broker, HistoryRead, JoinOptions, Membership, PresenceTracker, Snapshot};
use chat_core::{ConnectionId, Deliver, HistoryRange, Position, Roster};
use proptest::prelude::*;
use tokio::time::sleep;

use super::{LONG, World};
use crate::support::{Member, member, occupant, user};

/// A member and its copy of the room, which outlives its connections.
struct Copy {
    id: ConnectionId,
    position: Position,
    connection: Option<Connection>,
}

struct Connection {
    member: Member,
    membership: Membership<Member>,
    /// Who is in the room: those of the snapshot, with the changes after it.
    users: Arc<Mutex<BTreeSet<String>>>,
    received: tokio::sync::mpsc::UnboundedReceiver<String>,
}

#[derive(Debug, Clone)]
enum Step {
    Publish(u64),
    Leave(usize),
    /// Leaves and joins where its copy ends, while so many are published, and as many users join or
    /// leave.
    Join(usize, u64),
    /// The room keeps so many of its latest messages.
    Trim(u32),
    Lose(usize, LossNotice),
    FailReads(usize),
    Pause(u64),
}

const COPIES: usize = 3;

fn step() -> impl Strategy<Value = Step> {
    let told = || {
        prop_oneof![
            Just(LossNotice::Nothing),
            Just(LossNotice::Lagged),
            Just(LossNotice::Interrupted)
        ]
    };
    prop_oneof![
        4 => prop_oneof![1..5_u64, 1..400_u64].prop_map(Step::Publish),
        2 => (0..COPIES).prop_map(Step::Leave),
        5 => (0..COPIES, 0..20_u64).prop_map(|(who, n)| Step::Join(who, n)),
        1 => (1..300_u32).prop_map(Step::Trim),
        2 => (0..5_usize, told()).prop_map(|(n, told)| Step::Lose(n, told)),
        2 => (1..3_usize).prop_map(Step::FailReads),
        1 => (0..40_000_u64).prop_map(Step::Pause),
    ]
}

impl Copy {
    /// Takes what has arrived: each message follows on the one before, or a gap says that messages
    /// are missing, which then are not to be had.
    async fn take(&mut self, world: &World) -> Result<(), TestCaseError> {
        let Some(connection) = &mut self.connection else { return Ok(()) };
        let first = self.position.offset;
        while let Ok(told) = connection.received.try_recv() {
            let offset = |text: &str| text.parse::<u64>().unwrap();
            let here = self.position.offset;
            match told.split_once(' ') {
                Some(("gap", end)) => {
                    prop_assert!(offset(end) > here, "a gap at {here} that ends at {end}");
                    let read = HistoryRead::new(world.topic.clone(), HistoryRange::After(here), 1);
                    let next = &world.publisher.history(&[read]).await.unwrap()[0];
                    let is_kept = next.entries.first().is_some_and(|next| next.offset == here + 1);
                    prop_assert!(!is_kept, "a gap after {here}, and {} is kept", here + 1);
                    self.position.offset = offset(end);
                }
                Some((next, _)) => {
                    prop_assert_eq!(offset(next), here + 1, "from {} on", first);
                    self.position.offset += 1;
                }
                None => {
                    let mut users = connection.users.lock().unwrap();
                    let (is_news, name) = match told.split_at(1) {
                        ("+", name) => (users.insert(name.to_owned()), name),
                        (_, name) => (users.remove(name), name),
                    };
                    prop_assert!(is_news, "{name} has joined or left already: {told}");
                }
            }
        }
        Ok(())
    }

    /// The users of the copy are those of the room.
    fn check_users(&self) -> Result<(), TestCaseError> {
        let Some(connection) = &self.connection else { return Ok(()) };
        let mut expected = BTreeSet::new();
        connection.membership.with_snapshot(|snapshot| expected = names(snapshot.roster.unwrap()));
        prop_assert_eq!(&*connection.users.lock().unwrap(), &expected);
        Ok(())
    }

    fn leave(&mut self) {
        self.connection = None;
    }

    /// A join that fails, or is not finished, leaves the copy as far as it came.
    async fn join(&mut self, world: &World) -> Result<(), TestCaseError> {
        if self.connection.is_some() {
            self.take(world).await?;
            self.leave();
        }
        // More than can be pending: none is a slow consumer.
        let (member, mut inbox) = member(5_000);
        let (forward, received) = tokio::sync::mpsc::unbounded_channel();
        tokio::spawn(async move {
            while let Some(told) = inbox.0.recv().await {
                let _ = forward.send(told);
            }
        });
        let options = JoinOptions::default().since(self.position);
        let users = Arc::<Mutex<_>>::default();
        let on_snapshot = {
            let (member, users) = (member.clone(), Arc::clone(&users));
            move |snapshot: &Snapshot<'_, Member>| {
                *users.lock().unwrap() = names(snapshot.roster.unwrap());
                if let Some(batch) = snapshot.batch() {
                    member.deliver(&batch);
                }
            }
        };
        let joining =
            world.hub.join_with(&world.topic, self.id, member.clone(), options, on_snapshot);
        if let Ok(membership) = joining.await {
            self.connection = Some(Connection { member, membership, users, received });
        }
        Ok(())
    }
}

fn names(roster: &Roster) -> BTreeSet<String> {
    roster.listed().unwrap().keys().map(|user| user.as_str().to_owned()).collect()
}

async fn play(steps: Vec<Step>) -> Result<(), TestCaseError> {
    let mut world = World::new(LONG.messages(500));
    world.broker.delay(Call::History, Duration::from_millis(3));
    let epoch = world.say(1..=1).await.epoch;
    let mut published = 1;
    let copy = |n| Copy {
        id: ConnectionId::new(n),
        position: Position { epoch, offset: 0 },
        connection: None,
    };
    let mut copies: Vec<Copy> = (0..COPIES as u64).map(copy).collect();
    for step in steps {
        match step {
            Step::Publish(n) => {
                world.say(published + 1..=published + n).await;
                published += n;
            }
            Step::Leave(who) => {
                copies[who].take(&world).await?;
                copies[who].leave();
            }
            Step::Join(who, n) => {
                let publishing = async {
                    for n in published + 1..=published + n {
                        world.say(n..=n).await;
                        // Each joins, and leaves the next time.
                        let name = format!("user{}", n % 7);
                        if n % 14 < 7 {
                            world.publisher.enter(&world.topic, occupant(&name));
                        } else {
                            let _departure = world.publisher.leave(&world.topic, &user(&name));
                        }
                        sleep(Duration::from_millis(1)).await;
                    }
                };
                tokio::join!(copies[who].join(&world), publishing).0?;
                published += n;
            }
            Step::Trim(messages) => {
                let retention = std::mem::replace(&mut world.retention, LONG.messages(messages));
                world.say(published + 1..=published + 1).await;
                published += 1;
                world.retention = retention;
            }
            Step::Lose(n, told) => world.broker.lose_publications(n, told),
            Step::FailReads(n) => world.broker.fail_next(Call::History, n),
            Step::Pause(ms) => sleep(Duration::from_millis(ms)).await,
        }
        for copy in &mut copies {
            copy.take(&world).await?;
            let is_closed = |one: &Connection| one.member.closed.lock().unwrap().is_some();
            if copy.connection.as_ref().is_some_and(is_closed) {
                copy.leave();
            }
        }
    }
    // The hub compares its rooms with the broker twice in this time.
    world.broker.fail_next(Call::History, 0);
    world.broker.lose_publications(0, LossNotice::Nothing);
    sleep(Duration::from_secs(65)).await;
    for copy in &mut copies {
        if copy.connection.is_none() {
            copy.join(&world).await?;
        }
        sleep(Duration::from_millis(10)).await;
        copy.take(&world).await?;
        let closed = copy.connection.as_ref().map(|one| *one.member.closed.lock().unwrap());
        prop_assert_eq!(copy.position.offset, published, "{:?} {:?}", copy.id, closed);
        copy.check_users()?;
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(64) })]

    #[test]
    fn each_copy_is_contiguous_or_has_a_gap_where_messages_are_gone(
        steps in prop::collection::vec(step(), 1..30),
    ) {
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
        runtime.unwrap().block_on(play(steps))?;
    }
}

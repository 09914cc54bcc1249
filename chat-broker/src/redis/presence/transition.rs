//! The states of one user in one topic, between this node and Redis, as a transition table.
//!
//! A [`State`] is what the node wants and what waits to be sent ([`Stage`]), and what Redis is
//! known to hold ([`SyncState`]). The [outbox](super::outbox) sends one pipeline at a time, in
//! which joins precede leaves, and settles it before it takes the next one. So an outcome arrives
//! only for what was sent, but any join, leave, retry, loss or change of the node may happen
//! in between.
//!
//! # Stages
//! An event that is not listed for a stage keeps it. "Order" is the new [order](Order) in the
//! queue. "Released" are the callers that await the [departure](crate::Departure) of the user: by
//! `LeaveDone` with the version of the leave, by any other event with `None`, since no leave is
//! announced.
//!
//! | event | stage | next stage | order | released |
//! |---|---|---|---|---|
//! | `Join` | `Absent` | `JoinQueued` | `AtJoin` | |
//! | | `TransientQueued` | `JoinQueued` | `Keep` | yes |
//! | | `Present`, `JoinRefused` | `JoinQueued` | `AtJoin` | |
//! | | `LeaveQueued`, `LeaveInFlight`, `LeaveRefused` | `JoinQueued` | `AtJoin` | yes |
//! | `Leave`, published since the join | `JoinQueued` | `TransientQueued` | `Keep` | |
//! | `Leave` | `JoinQueued` and `Unsynced` | `Absent` | | yes |
//! | | `JoinQueued`, `Present`, `JoinRefused` | `LeaveQueued` | `AtLeave` | |
//! | `JoinSent` | `JoinQueued` | `Present` | | |
//! | | `TransientQueued` | `LeaveQueued` | `AtLeave` | |
//! | `JoinUnanswered` | `Present` | `JoinQueued` | `AtJoin` | |
//! | `JoinRefused` | `Present` | `JoinRefused` | | |
//! | `RoomFull` | `Present`, `LeaveQueued` | `Absent` | | yes |
//! | `LeaveSent` | `LeaveQueued` | `LeaveInFlight` | | |
//! | `LeaveDone` | `LeaveQueued`, `LeaveInFlight` | `Absent` | | yes |
//! | `LeaveUnanswered` | `LeaveInFlight` | `LeaveQueued` | `First` | |
//! | `LeaveRefused`, too many refused | `LeaveQueued` or `LeaveInFlight`, and `Refused` | `Absent` | | yes |
//! | `LeaveRefused` | `LeaveInFlight` | `LeaveRefused` | | |
//! | `Lost` | `Present` and `Synced` | `JoinQueued` | `AtJoin` | |
//! | `Retry` | `JoinRefused` | `JoinQueued` | `AtJoin` | |
//! | | `LeaveRefused` | `LeaveQueued` | `First` | |
//! | `NewNode` | `JoinQueued`, `Present`, `JoinRefused` | `JoinQueued` | `AtJoin` | |
//! | | `TransientQueued` | `TransientQueued` | `AtJoin` | yes |
//! | | `LeaveQueued`, `LeaveInFlight`, `LeaveRefused` | `Absent` | | yes |
//!
//! # What Redis holds
//! | event | before | after |
//! |---|---|---|
//! | `JoinSent` | `Unsynced`, `Refused` | `InFlight` |
//! | | any other | `Unknown` |
//! | `JoinDone` | any | `Synced` |
//! | `JoinUnanswered` | any | `Unknown` |
//! | `JoinRefused` | `InFlight` | `Refused` |
//! | `RoomFull`, of one whose join waits | any | `Unsynced` |
//! | `LeaveSent` | `Synced` | `Unknown` |
//! | `LeaveDone`, `NewNode` | any | `Unsynced` |
//! | `LeaveUnanswered`, `LeaveRefused` | any but `Refused` | `Unknown` |
//! | `Lost`, of one that is `Present` | `Synced` | `Unknown` |
//!
//! # Pairs that occur
//! | stage | with |
//! |---|---|
//! | `JoinQueued`, `TransientQueued` | any |
//! | `Present` | `InFlight`, `Unknown` (both are in flight), `Synced` |
//! | `JoinRefused`, `LeaveRefused` | `Refused`, `Unknown` |
//! | `LeaveQueued` | any but `Unsynced` |
//! | `LeaveInFlight` | `InFlight`, `Refused`, `Unknown` |

/// A user in a topic.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct State {
    pub(super) stage: Stage,
    pub(super) sync: SyncState,
}

/// What the node wants, and what waits to be sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Stage {
    /// The user is not in the topic, and Redis holds nothing: there is no entry.
    Absent,
    /// The user is in the topic; the join waits to be sent.
    JoinQueued,
    /// The user joined, something was published, and the user left before the join was sent: the
    /// join, and the leave after it, wait to be sent.
    TransientQueued,
    /// The user is in the topic, and nothing waits: the join is in flight, or Redis holds it.
    Present,
    /// The user is in the topic; Redis refused the join, which waits for the next retry.
    JoinRefused,
    /// The user has left; the leave waits to be sent.
    LeaveQueued,
    /// The user has left, and the leave is in flight.
    LeaveInFlight,
    /// The user has left; Redis refused the leave, which waits for the next retry.
    LeaveRefused,
}

/// Whether Redis holds the user for this node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum SyncState {
    /// Redis does not hold the user.
    Unsynced,
    /// The first join is in flight.
    InFlight,
    /// Redis refused each join. A script may have written a part before the refusal, so a leave is
    /// sent.
    Refused,
    /// Redis may hold the user: an answer was lost, or one is pending.
    Unknown,
    /// Redis holds the user.
    Synced,
}

/// An event of a user in a topic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Event {
    /// The user joins, or joins once more under a name that may differ.
    Join,
    /// The user leaves.
    Leave {
        /// Something was published since the join, and the outbox has room for a transient join.
        published: bool,
    },
    /// The join goes into the pipeline.
    JoinSent,
    JoinDone,
    /// The connection broke, or Redis did not know the script.
    JoinUnanswered,
    JoinRefused,
    /// The join has a maximum, and there was no place: no node holds the user.
    RoomFull,
    /// The leave goes into the pipeline.
    LeaveSent,
    LeaveDone,
    LeaveUnanswered,
    LeaveRefused {
        /// The maximum number of refused changes wait already.
        is_full: bool,
    },
    /// Redis does not hold the user any more.
    Lost,
    /// Refused changes are sent again.
    Retry,
    /// The node has a new name, under which Redis holds nothing.
    NewNode,
}

/// The order of a change in its queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Order {
    /// As before, if it was queued.
    Keep,
    /// Before the publications that were accepted after the latest join.
    AtJoin,
    /// After the publications that were accepted before the latest leave.
    AtLeave,
    /// Before all publications.
    First,
}

/// The result of a transition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Transition {
    pub(super) state: State,
    pub(super) order: Order,
    /// The callers that wait for the departure of the user wait no longer.
    pub(super) releases: bool,
}

impl State {
    pub(super) const ABSENT: Self = Self { stage: Stage::Absent, sync: SyncState::Unsynced };
}

impl Stage {
    /// Whether the user is in the topic.
    pub(super) fn is_present(self) -> bool {
        matches!(self, Self::JoinQueued | Self::Present | Self::JoinRefused)
    }

    /// Whether a join waits to be sent.
    pub(super) fn awaits_join(self) -> bool {
        matches!(self, Self::JoinQueued | Self::TransientQueued)
    }
}

/// The table.
pub(super) fn transition(state: State, event: Event) -> Transition {
    let (stage, order, releases) = next_stage(state, event);
    let state = match stage {
        Stage::Absent => State::ABSENT,
        stage => State { stage, sync: next_sync(state, event) },
    };
    Transition { state, order, releases }
}

fn next_stage(State { stage, sync }: State, event: Event) -> (Stage, Order, bool) {
    use Order::{AtJoin, AtLeave, First, Keep};
    use Stage::{
        Absent, JoinQueued, JoinRefused, LeaveInFlight, LeaveQueued, LeaveRefused, Present,
        TransientQueued,
    };

    match (event, stage) {
        (Event::Join, Absent) => (JoinQueued, AtJoin, false),
        // The user returns before anything was sent. The join keeps its order: it must precede what
        // was published while the user was there the first time.
        (Event::Join, TransientQueued) => (JoinQueued, Keep, true),
        // Another node may have set another name since, so even the same name is sent again.
        (Event::Join, Present | JoinRefused) => (JoinQueued, AtJoin, false),
        // A queued leave is cancelled. One in flight may still be executed: the join goes into a
        // later pipeline. The join is sent even if Redis holds the earlier one: its name may be
        // another.
        (Event::Join, LeaveQueued | LeaveInFlight | LeaveRefused) => (JoinQueued, AtJoin, true),

        // Members receive the publication of a user whose join was not sent: send join and leave.
        (Event::Leave { published: true }, JoinQueued) => (TransientQueued, Keep, false),
        // Redis never saw the join: nothing is to be sent.
        (Event::Leave { .. }, JoinQueued) if sync == SyncState::Unsynced => (Absent, Keep, true),
        // Redis holds, or may hold later, an earlier join: it was sent before this one was
        // queued, is in flight, or was executed in part before it was refused.
        (Event::Leave { .. }, JoinQueued | Present | JoinRefused) => (LeaveQueued, AtLeave, false),

        (Event::JoinSent, JoinQueued) => (Present, Keep, false),
        // The leave may go into the same pipeline, if all that was published before it does.
        (Event::JoinSent, TransientQueued) => (LeaveQueued, AtLeave, false),

        // In any other stage a later change is queued, or in flight behind this join.
        (Event::JoinUnanswered, Present) => (JoinQueued, AtJoin, false),
        (Event::JoinRefused, Present) => (JoinRefused, Keep, false),
        // A later join that waits is sent: it may have no maximum, or find a place.
        (Event::RoomFull, Present | LeaveQueued) => (Absent, Keep, true),

        (Event::LeaveSent, LeaveQueued) => (LeaveInFlight, Keep, false),
        // `LeaveQueued`: the user was back and left again while the first leave was in flight. The
        // second join was not sent, so the first leave is the last change that Redis needs.
        //
        // Not `TransientQueued`: its callers await the second leave, which is still to be sent.
        // They were once released by the first, before members received the leave.
        (Event::LeaveDone, LeaveQueued | LeaveInFlight) => (Absent, Keep, true),
        // The publications before it were sent with it.
        (Event::LeaveUnanswered, LeaveInFlight) => (LeaveQueued, First, false),
        // Users who join and leave while Redis refuses would accumulate without bound. What a
        // refused join may have written is removed by `reconcile.lua`.
        (Event::LeaveRefused { is_full: true }, LeaveQueued | LeaveInFlight)
            if sync == SyncState::Refused =>
        {
            (Absent, Keep, true)
        }
        (Event::LeaveRefused { .. }, LeaveInFlight) => (LeaveRefused, Keep, false),

        // In any other stage a change is queued or in flight, and brings Redis up to date.
        (Event::Lost, Present) if sync == SyncState::Synced => (JoinQueued, AtJoin, false),

        (Event::Retry, JoinRefused) => (JoinQueued, AtJoin, false),
        (Event::Retry, LeaveRefused) => (LeaveQueued, First, false),

        (Event::NewNode, JoinQueued | Present | JoinRefused) => (JoinQueued, AtJoin, false),
        (Event::NewNode, TransientQueued) => (TransientQueued, AtJoin, true),
        // The occupants of the former name expire with its lease, under no version that could be
        // awaited.
        (Event::NewNode, LeaveQueued | LeaveInFlight | LeaveRefused) => (Absent, Keep, true),

        (_, stage) => (stage, Keep, false),
    }
}

fn next_sync(State { stage, sync }: State, event: Event) -> SyncState {
    use SyncState::{InFlight, Refused, Synced, Unknown, Unsynced};

    match (event, sync) {
        (Event::JoinSent, Unsynced | Refused) => InFlight,
        (Event::JoinSent, _) => Unknown,
        (Event::JoinDone, _) => Synced,
        (Event::JoinUnanswered, _) => Unknown,
        // Only of a first join it is certain that no earlier one was executed.
        (Event::JoinRefused, InFlight) => Refused,
        (Event::RoomFull, _) if stage.awaits_join() => Unsynced,
        (Event::LeaveSent, Synced) => Unknown,
        (Event::LeaveDone | Event::NewNode, _) => Unsynced,
        (Event::LeaveUnanswered | Event::LeaveRefused { .. }, Refused) => Refused,
        (Event::LeaveUnanswered | Event::LeaveRefused { .. }, _) => Unknown,
        (Event::Lost, Synced) if stage == Stage::Present => Unknown,
        (_, sync) => sync,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::SyncState::{InFlight, Refused, Synced, Unknown, Unsynced};
    use super::*;

    const SYNCS: [SyncState; 5] = [Unsynced, InFlight, Refused, Unknown, Synced];

    /// Of a pipeline: whether it has the join, and the leave, of the user.
    type Sent = (bool, bool);

    const OTHERS: [Event; 6] = [
        Event::Join,
        Event::Leave { published: false },
        Event::Leave { published: true },
        Event::Lost,
        Event::Retry,
        Event::NewNode,
    ];
    const JOIN_OUTCOMES: [Event; 4] =
        [Event::JoinDone, Event::JoinUnanswered, Event::JoinRefused, Event::RoomFull];
    const LEAVE_OUTCOMES: [Event; 4] = [
        Event::LeaveDone,
        Event::LeaveUnanswered,
        Event::LeaveRefused { is_full: false },
        Event::LeaveRefused { is_full: true },
    ];

    fn next(state: State, event: Event) -> State {
        transition(state, event).state
    }

    /// What a state may lead to, with what is in flight then.
    fn successors(state: State, sent: Option<Sent>) -> Vec<(State, Option<Sent>)> {
        let mut all = Vec::new();
        for event in OTHERS {
            // Outcomes of the former node are not for this one.
            let sent = sent.filter(|_| event != Event::NewNode);
            all.push((next(state, event), sent));
        }
        let Some((join, leave)) = sent else {
            all.extend(takes(state).map(|(state, sent)| (state, Some(sent))));
            return all;
        };
        let joined = match join {
            true => JOIN_OUTCOMES.iter().map(|outcome| next(state, *outcome)).collect(),
            false => vec![state],
        };
        for state in joined {
            match leave {
                true => {
                    let left = LEAVE_OUTCOMES.iter().map(|outcome| (next(state, *outcome), None));
                    all.extend(left);
                }
                false => all.push((state, None)),
            }
        }
        all
    }

    /// What a pipeline may take of a user.
    fn takes(state: State) -> impl Iterator<Item = (State, Sent)> {
        let is_join = matches!(state.stage, Stage::JoinQueued | Stage::TransientQueued);
        let joined = if is_join { next(state, Event::JoinSent) } else { state };
        let left = (joined.stage == Stage::LeaveQueued)
            .then(|| (next(joined, Event::LeaveSent), (is_join, true)));
        let only_join = is_join.then_some((joined, (true, false)));
        only_join.into_iter().chain(left)
    }

    /// The rows of the first table above, with the event of the row before where there is none.
    fn documented_rows() -> Vec<[String; 5]> {
        let text = include_str!("transition.rs");
        let (_, table) = text.split_once("//! |---|---|---|---|---|\n").unwrap();
        let (mut rows, mut event) = (Vec::new(), String::new());
        for line in table.lines().map_while(|line| line.strip_prefix("//! | ")) {
            let cells: Vec<&str> = line.split('|').map(str::trim).collect();
            if !cells[0].is_empty() {
                event = cells[0].to_owned();
            }
            let cell = |n: usize| cells[n].to_owned();
            rows.push([event.clone(), cell(1), cell(2), cell(3), cell(4)]);
        }
        rows
    }

    /// Whether a row is for this event: with a condition, only if the condition holds.
    fn is_for(cell: &str, event: Event) -> bool {
        let name = format!("{event:?}");
        let is_met = name.contains("true");
        let (named, condition) =
            cell.split_once(',').map_or((cell, false), |(named, _)| (named, true));
        named == format!("`{}`", name.split(' ').next().unwrap()) && (!condition || is_met)
    }

    #[test]
    fn documented_table_is_that_of_the_code() {
        let rows = documented_rows();
        let stages = [
            Stage::Absent,
            Stage::JoinQueued,
            Stage::TransientQueued,
            Stage::Present,
            Stage::JoinRefused,
            Stage::LeaveQueued,
            Stage::LeaveInFlight,
            Stage::LeaveRefused,
        ];
        let mut used = HashSet::new();
        let others = [Event::JoinSent, Event::LeaveSent];
        for event in OTHERS.into_iter().chain(others).chain(JOIN_OUTCOMES).chain(LEAVE_OUTCOMES) {
            for (stage, sync) in stages.iter().flat_map(|stage| SYNCS.map(|sync| (*stage, sync))) {
                let row = rows.iter().position(|[named, cell, ..]| {
                    let has = |word: String| cell.contains(&format!("`{word}`"));
                    let names_sync = SYNCS.iter().any(|sync| has(format!("{sync:?}")));
                    let is_sync = !names_sync || has(format!("{sync:?}"));
                    is_for(named, event) && has(format!("{stage:?}")) && is_sync
                });
                let (next, order, releases) = next_stage(State { stage, sync }, event);
                let case = format!("{event:?} {stage:?} {sync:?}");
                let Some(row) = row else {
                    assert_eq!((next, order, releases), (stage, Order::Keep, false), "{case}");
                    continue;
                };
                used.insert(row);
                let [.., documented, place, released] = &rows[row];
                assert_eq!(*documented, format!("`{next:?}`"), "{case}");
                let place = if place.is_empty() { "`Keep`" } else { place };
                assert_eq!(place, format!("`{order:?}`"), "{case}");
                assert_eq!(released == "yes", releases, "{case}");
            }
        }
        assert_eq!(used.len(), rows.len(), "each row is of use");
    }

    #[test]
    fn exactly_the_documented_pairs_occur() {
        let (mut reached, mut open) = (HashSet::new(), vec![(State::ABSENT, None)]);
        while let Some(next) = open.pop() {
            if reached.insert(next) {
                open.extend(successors(next.0, next.1));
            }
        }
        let pairs: HashSet<State> = reached.into_iter().map(|(state, _)| state).collect();

        let documented: [(Stage, &[SyncState]); 8] = [
            (Stage::Absent, &[Unsynced]),
            (Stage::JoinQueued, &SYNCS),
            (Stage::TransientQueued, &SYNCS),
            (Stage::Present, &[InFlight, Unknown, Synced]),
            (Stage::JoinRefused, &[Refused, Unknown]),
            (Stage::LeaveQueued, &SYNCS[1..]),
            (Stage::LeaveInFlight, &[InFlight, Refused, Unknown]),
            (Stage::LeaveRefused, &[Refused, Unknown]),
        ];
        let documented = documented
            .into_iter()
            .flat_map(|(stage, syncs)| syncs.iter().map(move |sync| State { stage, sync: *sync }));
        assert_eq!(pairs, documented.collect::<HashSet<_>>());
    }
}

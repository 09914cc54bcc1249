use proptest::prelude::*;

use super::*;
use crate::history::Retention;
use crate::position::Epoch;

fn at(epoch: u64, offset: u64) -> Position {
    Position { epoch: Epoch::from_random(epoch), offset }
}

fn payload(position: Position) -> Bytes {
    Bytes::from(format!("{}:{}", position.epoch.as_str(), position.offset))
}

/// What a broker keeps of one room.
#[derive(Debug, Clone, Default)]
struct Store {
    position: Position,
    /// Messages at or below it are gone.
    trimmed: u64,
}

impl Store {
    fn publish(&mut self, epochs: &mut u64) -> Position {
        if self.position == Position::default() {
            *epochs += 1;
            self.position = at(*epochs, 0);
        }
        self.position.offset += 1;
        self.position
    }

    fn read(&self, range: HistoryRange, page: u64) -> History {
        let top = self.position.offset;
        let (first, last) = match range {
            HistoryRange::After(offset) => {
                let first = offset.max(self.trimmed) + 1;
                (first, top.min(first + page - 1))
            }
            HistoryRange::Latest | HistoryRange::Before(_) => {
                ((top + 1).saturating_sub(page).max(self.trimmed + 1), top)
            }
        };
        let entry = |offset| {
            let position = Position { offset, ..self.position };
            HistoryEntry { offset, payload: payload(position) }
        };
        History { position: self.position, entries: (first..=last).map(entry).collect() }
    }
}

/// One server's timeline, and a reader of what it passes on who checks every step.
struct Server {
    timeline: Timeline,
    out: Vec<Item>,
    here: Option<Position>,
    gaps: usize,
}

impl Server {
    fn new() -> Self {
        Self {
            timeline: Timeline::new(Recent::new(Retention::default(), 8, 1000)),
            out: Vec::new(),
            here: None,
            gaps: 0,
        }
    }

    fn accept(&mut self, position: Position) -> Accepted {
        let accepted = self.timeline.accept(position, payload(position), &mut self.out);
        self.check();
        accepted
    }

    fn finish_read(&mut self, history: History) -> Finished {
        let finished = self.timeline.finish_read(history, &mut self.out);
        if let Finished::Opened(position) = finished {
            self.here = Some(position);
        }
        self.check();
        finished
    }

    /// What went out follows on what went out before, or says that it does not.
    fn check(&mut self) {
        for item in self.out.drain(..) {
            let here = self.here.as_mut().expect("nothing goes out before the room is open");
            match item {
                Item::Envelope(bytes, position) => {
                    let position = position.expect("a place in the sequence");
                    assert_eq!(here.step_to(position), Step::Next, "{position:?} after {here:?}");
                    assert_eq!(bytes, payload(position));
                    *here = position;
                }
                Item::Gap(position) => {
                    let position = position.expect("a place in the sequence");
                    assert_ne!(*here, position, "a gap leads somewhere");
                    *here = position;
                    self.gaps += 1;
                }
                other => panic!("{other:?}"),
            }
        }
        if !self.timeline.lost {
            assert_eq!(self.here, self.timeline.seen());
        }
    }

    /// Reads until nothing is wanted.
    fn settle(&mut self, store: &Store, page: u64) {
        let mut rounds = 0;
        while let Some(range) = self.timeline.begin_read() {
            self.finish_read(store.read(range, page));
            rounds += 1;
            assert!(rounds < 1000, "reads without end: {:?}", self.timeline);
        }
    }
}

#[test]
fn a_room_opens_where_it_stands_and_sorts_out_what_came_before() {
    let mut server = Server::new();
    for offset in 3..=5 {
        assert_eq!(server.accept(at(1, offset)), Accepted::Held);
    }
    assert_eq!(server.timeline.begin_read(), Some(HistoryRange::Latest));
    assert_eq!(server.timeline.begin_read(), None, "one at a time");
    assert_eq!(server.accept(at(1, 6)), Accepted::Held, "the read is under way");
    let store = Store { position: at(1, 5), trimmed: 2 };
    assert_eq!(server.finish_read(store.read(HistoryRange::Latest, 9)), Finished::Opened(at(1, 5)));
    assert_eq!(server.here, Some(at(1, 6)));
    assert_eq!(server.timeline.recent().oldest(), Some(3));
    assert_eq!(server.accept(at(1, 6)), Accepted::Repeat);
}

#[test]
fn a_hole_is_filled_and_nobody_is_told() {
    let mut server = Server::new();
    let mut store = Store { position: at(1, 5), trimmed: 0 };
    server.settle(&store, 9);
    assert_eq!(server.accept(at(1, 8)), Accepted::Held);
    assert_eq!(server.accept(at(1, 9)), Accepted::Held);
    store.position = at(1, 9);
    let range = server.timeline.begin_read().unwrap();
    assert_eq!(range, HistoryRange::After(5));
    assert_eq!(server.accept(at(1, 10)), Accepted::Held, "the read is under way");
    assert_eq!(server.finish_read(store.read(range, 9)), Finished::Repaired(4));
    assert_eq!((server.here, server.gaps), (Some(at(1, 10)), 0));
    assert!(!server.timeline.wants_read());
}

#[test]
fn what_is_gone_for_good_is_a_gap() {
    let mut server = Server::new();
    let mut store = Store { position: at(1, 5), trimmed: 0 };
    server.settle(&store, 9);
    store = Store { position: at(1, 50), trimmed: 40 };
    assert!(server.timeline.is_behind(store.position));
    server.timeline.mark_stale();
    let range = server.timeline.begin_read().unwrap();
    assert_eq!(server.finish_read(store.read(range, 99)), Finished::Gap);
    assert_eq!((server.here, server.gaps), (Some(at(1, 50)), 1));
    // All of it expired.
    store = Store { position: at(1, 60), trimmed: 60 };
    server.timeline.mark_stale();
    server.settle(&store, 9);
    assert_eq!((server.here, server.gaps), (Some(at(1, 60)), 2));
}

#[test]
fn a_new_sequence_is_told_once_and_read_from_its_beginning() {
    let mut server = Server::new();
    let mut store = Store { position: at(1, 5), trimmed: 0 };
    server.settle(&store, 9);
    assert_eq!(server.accept(at(2, 3)), Accepted::Held);
    store.position = at(2, 3);
    server.settle(&store, 9);
    assert_eq!((server.here, server.gaps), (Some(at(2, 3)), 1));
    assert_eq!(server.timeline.recent().oldest(), Some(1));

    // The store was emptied.
    store.position = Position::default();
    server.timeline.mark_stale();
    server.settle(&store, 9);
    assert_eq!((server.here, server.gaps), (Some(Position::default()), 2));
    assert_eq!(server.accept(at(3, 1)), Accepted::InOrder, "whatever begins, begins here");
}

#[test]
fn a_read_of_an_older_moment_undoes_nothing() {
    let mut server = Server::new();
    let store = Store::default();
    server.settle(&store, 9);
    server.timeline.mark_stale();
    let range = server.timeline.begin_read().unwrap();
    let read_before = store.read(range, 9);
    assert_eq!(server.accept(at(1, 1)), Accepted::InOrder);
    server.finish_read(read_before);
    assert_eq!((server.here, server.gaps), (Some(at(1, 1)), 0));
    assert!(server.timeline.wants_read(), "it said nothing of the new sequence");
}

#[test]
fn what_is_no_message_of_the_room_holds_up_nobody() {
    let mut server = Server::new();
    let store = Store { position: at(1, 5), trimmed: 0 };
    server.settle(&store, 9);
    assert_eq!(server.accept(at(9, 7)), Accepted::Held);
    assert_eq!(server.accept(at(1, 900)), Accepted::Held);
    assert_eq!(server.accept(at(1, 6)), Accepted::Held);
    server.settle(&Store { position: at(1, 6), trimmed: 0 }, 9);
    assert_eq!((server.here, server.gaps), (Some(at(1, 6)), 0));
    assert_eq!(server.accept(at(1, 7)), Accepted::InOrder);
}

#[test]
fn what_is_held_is_bounded_and_read_again() {
    let mut server = Server::new();
    let mut store = Store { position: at(1, 1), trimmed: 0 };
    server.settle(&store, 9);
    let last = 2 * MAX_HELD as u64;
    for offset in 3..=last {
        server.accept(at(1, offset));
        assert!(server.timeline.held.len() <= MAX_HELD);
    }
    store.position = at(1, last);
    server.settle(&store, 100);
    assert_eq!((server.here, server.gaps), (Some(at(1, last)), 0));
}

/// Two halves of the bound are held; one byte more is read afterwards.
#[test]
fn payload_of_what_is_held_is_bounded() {
    let mut server = Server::new();
    server.settle(&Store { position: at(1, 1), trimmed: 0 }, 9);
    let mut hold = |offset, bytes| {
        let payload = Bytes::from(vec![0; bytes]);
        assert_eq!(server.timeline.accept(at(1, offset), payload, &mut Vec::new()), Accepted::Held);
        (server.timeline.held.len(), server.timeline.held_bytes)
    };
    assert_eq!(hold(3, MAX_HELD_BYTES / 2), (1, MAX_HELD_BYTES / 2));
    assert_eq!(hold(4, MAX_HELD_BYTES / 2), (2, MAX_HELD_BYTES));
    assert_eq!(hold(5, 1), (2, MAX_HELD_BYTES));
}

#[test]
fn hole_that_shows_during_a_read_is_read_too() {
    let mut server = Server::new();
    let mut store = Store { position: at(1, 5), trimmed: 0 };
    server.settle(&store, 9);
    server.timeline.mark_stale();
    let range = server.timeline.begin_read().unwrap();
    let read_before = store.read(range, 9);
    assert_eq!(server.accept(at(1, 7)), Accepted::Held, "6 was missed");
    server.finish_read(read_before);
    store.position = at(1, 7);
    server.settle(&store, 9);
    assert_eq!((server.here, server.gaps), (Some(at(1, 7)), 0));
}

#[test]
fn room_is_behind_another_sequence_and_a_later_offset() {
    let mut server = Server::new();
    assert!(server.timeline.is_behind(Position::default()), "nothing is known of the room");
    server.settle(&Store { position: at(1, 5), trimmed: 0 }, 9);
    for (position, is_behind) in [(at(1, 4), false), (at(1, 5), false), (at(1, 6), true)] {
        assert_eq!(server.timeline.is_behind(position), is_behind, "{position:?}");
    }
    assert!(server.timeline.is_behind(at(2, 5)));
}

#[test]
fn repaired_messages_are_counted_apart_from_what_waits_in_the_queue() {
    let mut server = Server::new();
    let mut store = Store { position: at(1, 5), trimmed: 0 };
    server.settle(&store, 9);
    let mut queue = Vec::new();
    server.timeline.accept(at(1, 6), payload(at(1, 6)), &mut queue);
    store.position = at(1, 8);
    server.timeline.mark_stale();
    let range = server.timeline.begin_read().unwrap();
    let finished = server.timeline.finish_read(store.read(range, 9), &mut queue);
    assert_eq!((finished, queue.len()), (Finished::Repaired(2), 3));
}

#[test]
fn remembered_messages_are_dropped_when_memory_or_time_is_over() {
    let mut server = Server::new();
    server.settle(&Store { position: at(1, 6), trimmed: 0 }, 9);
    server.timeline.evict();
    assert_eq!(server.timeline.recent().oldest(), Some(4), "the newer half is kept");
    server.timeline.expire();
    assert_eq!(server.timeline.recent().oldest(), None);
    assert_eq!(server.accept(at(1, 7)), Accepted::InOrder, "the sequence goes on");
}

#[test]
fn a_failed_read_is_wanted_again() {
    let mut server = Server::new();
    server.timeline.begin_read().unwrap();
    server.timeline.fail_read();
    assert_eq!(server.timeline.begin_read(), Some(HistoryRange::Latest));
    server.finish_read(History::default());
    server.timeline.fail_read();
    assert!(!server.timeline.wants_read(), "none is under way");
}

/// One thing that happens, in any order.
#[derive(Debug, Clone, Copy)]
enum Happens {
    Publish,
    /// The next publication on its way arrives.
    Arrive,
    /// The connection breaks: all on its way is lost, and the server is told.
    Break,
    /// The queue is full: the next on its way is lost, and the server is told.
    Drop,
    /// A read begins; the broker executes it; its answer arrives; or it fails.
    Begin,
    Execute,
    Finish,
    Fail,
    /// The broker forgets the room.
    Reset,
    /// The older half of the history goes.
    Trim,
    Shed,
}

fn happens() -> impl Strategy<Value = Happens> {
    use Happens::*;
    prop_oneof![
        8 => Just(Publish), 8 => Just(Arrive), 1 => Just(Break), 2 => Just(Drop),
        4 => Just(Begin), 4 => Just(Execute), 4 => Just(Finish), 1 => Just(Fail),
        1 => Just(Shed),
    ]
}

fn happens_or_is_lost() -> impl Strategy<Value = Happens> {
    prop_oneof![20 => happens(), 1 => Just(Happens::Reset), 1 => Just(Happens::Trim)]
}

/// Plays what happens, lets all come to rest, and returns how many gaps were told.
fn play(script: Vec<Happens>, page: u64) -> usize {
    let (mut store, mut epochs) = (Store::default(), 0);
    let mut server = Server::new();
    let mut under_way: VecDeque<Position> = VecDeque::new();
    let (mut asked, mut read) = (None, None);
    for step in script {
        match step {
            Happens::Publish => under_way.push_back(store.publish(&mut epochs)),
            Happens::Arrive => {
                if let Some(position) = under_way.pop_front() {
                    server.accept(position);
                }
            }
            Happens::Break => {
                under_way.clear();
                server.timeline.mark_stale();
            }
            Happens::Drop => {
                under_way.pop_front();
                server.timeline.mark_stale();
            }
            Happens::Begin => asked = asked.or_else(|| server.timeline.begin_read()),
            Happens::Execute => {
                if let (Some(range), None) = (asked, &read) {
                    read = Some(store.read(range, page));
                }
            }
            Happens::Finish => {
                if let Some(history) = read.take() {
                    asked = None;
                    server.finish_read(history);
                }
            }
            Happens::Fail => {
                if asked.take().is_some() {
                    read = None;
                    server.timeline.fail_read();
                }
            }
            Happens::Reset => {
                // A store that is reset breaks its connections.
                store = Store::default();
                under_way.clear();
                server.timeline.mark_stale();
            }
            Happens::Trim => store.trimmed = (store.trimmed + store.position.offset) / 2,
            Happens::Shed => server.timeline.evict(),
        }
    }
    for position in under_way {
        server.accept(position);
    }
    if let Some(range) = asked {
        server.finish_read(read.unwrap_or_else(|| store.read(range, page)));
    }
    server.settle(&store, page);
    assert_eq!(server.here, Some(store.position), "in step with the broker");
    assert!(server.timeline.held.is_empty());
    assert_eq!(server.timeline.held_bytes, 0);
    server.gaps
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn in_every_interleaving_nothing_is_lost_repeated_or_reordered(
        script in prop::collection::vec(happens(), 0..120), page in 1u64..12,
    ) {
        prop_assert_eq!(play(script, page), 0, "the broker had it all");
    }

    #[test]
    fn what_a_broker_forgets_is_told_and_the_rest_is_whole(
        script in prop::collection::vec(happens_or_is_lost(), 0..120), page in 1u64..12,
    ) {
        let losses = script.iter().filter(|step| matches!(step, Happens::Reset | Happens::Trim));
        let most = losses.count() * 2;
        prop_assert!(play(script, page) <= most, "no gap without a loss");
    }
}

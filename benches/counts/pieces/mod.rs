//! The pieces that are counted.

mod broker;
mod core;
mod server;
mod transport;

use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use chat_core::{Event, Message, RoomId, Sender, Topic, envelope};

/// The name of a piece, and the function that runs it.
type Piece = (&'static str, fn());

fn all() -> impl Iterator<Item = Piece> {
    [core::PIECES, broker::PIECES, transport::PIECES, server::PIECES].into_iter().flatten().copied()
}

pub(crate) fn names() -> impl Iterator<Item = &'static str> {
    all().map(|(name, _)| name)
}

/// # Panics
/// There is no piece of this name.
pub(crate) fn run(name: &str) {
    let (_, run) = all().find(|(other, _)| *other == name).expect("a piece of this name");
    run();
}

/// Texts of typical messages.
const TEXT: &str = "The quick brown fox jumps over the lazy dog, and the dog, \"lazy\" as it is, \
                    says nothing: it has seen foxes before, and will again.";

fn message() -> Event<'static> {
    let user = Sender::new("n5p2-17", "Ann", "#FF6B6B");
    Event::Message(Message::new(user, TEXT, 1))
}

fn payload() -> Bytes {
    envelope::encode(&message())
}

fn room() -> Topic {
    Topic::Room(RoomId::new("room1").expect("a name"))
}

/// The output of a future that is ready at once.
fn at_once<F: Future>(future: F) -> F::Output {
    let mut future = std::pin::pin!(future);
    match future.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(output) => output,
        Poll::Pending => panic!("it waits"),
    }
}

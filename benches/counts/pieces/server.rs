//! Messages of the application.

use std::hint::black_box;

use chat_core::{RoomId, UserId};
use chat_server::Server;
use tokio::runtime::Builder;

use super::{Piece, TEXT, at_once};
use crate::callgrind::turns;

pub(super) const PIECES: &[Piece] =
    &[("send by a room handle", to_room), ("send by a user handle", to_user)];

/// To a room without members.
fn to_room() {
    let runtime = Builder::new_current_thread().enable_time().build().expect("a runtime");
    let _entered = runtime.enter();
    let room = Server::builder().start().room(&RoomId::new("room1").expect("a name"));
    turns(
        || TEXT,
        |text| {
            black_box(at_once(room.send(text)).expect("sent"));
        },
    );
}

/// To a user without connections.
fn to_user() {
    let runtime = Builder::new_current_thread().enable_time().build().expect("a runtime");
    let _entered = runtime.enter();
    let user = Server::builder().start().user(&UserId::new("ann").expect("a name"));
    turns(
        || TEXT,
        |text| {
            black_box(at_once(user.send(text)).expect("sent"));
        },
    );
}

//! The application's handles on rooms and users.

mod ban;
mod follow;
mod message;
mod room;
mod user;

pub use ban::BanOptions;
pub use follow::{RoomFollow, RoomItem};
pub use message::OutgoingMessage;
pub use room::{HistoryPage, RoomHandle, RoomMembers};
pub use user::UserHandle;

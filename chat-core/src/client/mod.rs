//! The client's half of the native protocol (`docs/protocol.md`), version 1, as a machine without
//! I/O, without a clock and without randomness of its own: for a client over any transport, in any
//! runtime or none, on any target (`wasm32-unknown-unknown` too), and for tests without sockets.
//! `chat_transport::client` is this machine with sockets and a clock.
//!
//! A [`Machine`] has methods of four kinds:
//! * **what the transport reports**: [`handle_connected`](Machine::handle_connected),
//!   [`handle_text`](Machine::handle_text), [`handle_disconnected`](Machine::handle_disconnected),
//!   [`handle_token`](Machine::handle_token), [`handle_timeout`](Machine::handle_timeout), and two
//!   that a transport may leave out, [`handle_alive`](Machine::handle_alive) and
//!   [`handle_writable`](Machine::handle_writable);
//! * **requests of the application**: [`join`](Machine::join), [`join_since`](Machine::join_since), [`leave`](Machine::leave),
//!   [`send`](Machine::send), [`direct`](Machine::direct), [`typing`](Machine::typing),
//!   [`members`](Machine::members), [`history`](Machine::history), [`close`](Machine::close);
//! * **outputs**, to be polled after each call of the first two kinds: [`poll_action`](Machine::poll_action) for the transport,
//!   [`poll_answer`](Machine::poll_answer) and [`poll_event`](Machine::poll_event) for the
//!   application, all until they return `None`, and then [`poll_timeout`](Machine::poll_timeout);
//! * **getters**: [`state`](Machine::state), [`welcome`](Machine::welcome),
//!   [`is_closed`](Machine::is_closed), [`wants_text`](Machine::wants_text).
//!
//! Time is the [`Duration`](std::time::Duration) since any moment that the caller has fixed.
//!
//! ```
//! use std::time::Duration;
//! use chat_core::client::{Action, Answer, Config, Event, Machine};
//!
//! let at = Duration::from_millis;
//! let mut config = Config::default();
//! config.name = Some("Ann".to_owned());
//! let seed = [7; 32]; // of a random source
//! let mut client = Machine::new(config, vec!["ws://chat.example/ws".to_owned()], seed, at(0))?;
//!
//! // The transport connects, and the client says hello.
//! assert!(matches!(client.poll_action(), Some(Action::Connect { .. })));
//! client.handle_connected(at(20));
//! let hello = r#"{"id":1,"type":"hello","name":"Ann"}"#;
//! assert_eq!(client.poll_action(), Some(Action::Send(hello.to_owned())));
//!
//! // The application asks for a room: now, or as here before the welcome.
//! let join = client.join("general", 0, at(20))?;
//! let welcome = r##"{"type":"welcome","id":1,"session":"n1-1","node":"n1",
//!     "user":{"id":"ann","name":"Ann","color":"#B56AD9"},
//!     "limits":{"message_bytes":32768,"frame_bytes":233472}}"##;
//! client.handle_text(welcome, at(40))?;
//! let request = r#"{"id":2,"type":"join","room":"general"}"#;
//! assert_eq!(client.poll_action(), Some(Action::Send(request.to_owned())));
//! let joined = r#"{"type":"joined","id":2,"room":"general","epoch":"JLITNcWY","offset":41,
//!     "recovered":false,"members":[],"count":1,"messages":[]}"#;
//! client.handle_text(joined, at(60))?;
//! let (request, answer) = client.poll_answer().unwrap();
//! assert!(request == join && matches!(answer, Ok(Answer::Joined(_))));
//!
//! // Messages are events, each once and in order.
//! let message = r##"{"type":"message","room":"general","offset":42,"message":"hi","at":1,
//!     "user":{"id":"bob","name":"Bob","color":"#5B8DEF"}}"##;
//! client.handle_text(message, at(80))?;
//! client.handle_text(message, at(81))?;
//! let events: Vec<Event> = std::iter::from_fn(|| client.poll_event()).collect();
//! assert!(matches!(events.last(), Some(Event::Message(message)) if message.text == "hi"));
//! let count = events.iter().filter(|event| matches!(event, Event::Message(_))).count();
//! assert_eq!(count, 1);
//!
//! // Nothing else to do until the server has been silent for 25 s: it is pinged then.
//! assert_eq!(client.poll_action(), None);
//! assert_eq!(client.poll_timeout(), Some(at(25_081)));
//! client.handle_timeout(at(25_081));
//! assert_eq!(client.poll_action(), Some(Action::Ping));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # What it takes care of
//! * After a lost connection it connects again, to the next address, after a random pause that
//!   grows; it is the same user, in the same rooms.
//! * [`Event::Message`] is reported once for each message of a room and in the room's order, over
//!   all connections. Missed messages are fetched; lost ones are an [`Event::Gap`]. A `joined` that
//!   claims to be `recovered` is accepted as such only if its offsets continue those of the client.
//! * Every frame with an `offset` is an entry of its room's sequence, whatever its type: what a
//!   later version of the protocol adds is no hole for this one.
//! * [`Machine::send`] retries until the server has confirmed the message, which is published once:
//!   each has a key. Messages to one room are sent one after another, in the order of the calls, so
//!   none overtakes one that has to be sent again. The message itself, received with its key,
//!   confirms it as well.
//! * To a server that requires tokens it sends one ([`Config::token`]); one that can be
//!   [fetched](Token::Fetched) it renews before it expires.
//! * It pings a silent server, sooner while a request is unanswered, and ends a connection on which there is
//!   no answer.
//! * It keeps the rate limits for frames, joins and bytes that the server sends in `welcome`, less a
//!   sixteenth of each burst, so that the server seldom has to slow it down. Requests, joins and
//!   messages wait for their turns in the order in which they could be sent, and their timeouts
//!   start when they are sent.
//! * It connects again after every end that may be temporary; a violated limit is one.
//!
//! # Bounds
//! | what | limit | when it is reached |
//! |---|---|---|
//! | answers not polled | one for each request of the application | the application is to poll them |
//! | events not polled | none, and 1,024 while a request waits for its answer | the server [should not be read](Machine::wants_text) |
//! | messages not confirmed | [`send_queue`](Config::send_queue) | [`ClientError::QueueFull`] |
//! | messages sent and not answered | what the server allows (by default 64), and 64 KiB or one message | the next one waits |
//! | requests of all kinds sent and not answered | 128 | the next one waits |
//! | requests not answered | [`send_queue`](Config::send_queue) | [`ClientError::QueueFull`] |
//! | requests that wait to join one room | [`send_queue`](Config::send_queue) | [`ClientError::QueueFull`] |
//! | frames, joins and bytes per second | what the server allows | the next one waits; `typing` is not sent |
//! | the text of a message, and its `data` | what the server allows | [`ClientError::MessageTooLong`] |
//! | the name of a room | 128 bytes, with a visible character | [`ClientError::RoomName`] |
//! | a frame | what the server allows | [`ClientError::TooLarge`] |
//!
//! # Layers
//! `machine` is the public interface, and keeps the time. Below it, `lifecycle` opens one connection
//! after another; `session` holds the state that outlives them, `inbound` applies the server's
//! frames to it, and `outbox` chooses what is sent next. The others are parts that do not use each
//! other.
//!
//! A message of the application is queued by `Session::send` in `Sends`. When its room is joined,
//! `Session::flush` gives it a turn (`Sends::schedule`), asks `Outbox::next` for the next turn, and
//! sends it (`Sends::dispatch`) as an [`Action::Send`]. `Lifecycle::received` parses the
//! server's `ok`, and `inbound` settles the request in `Sends`, which gives the [`Answer`].

mod config;
mod error;
mod events;
mod inbound;
mod lifecycle;
mod limits;
mod link;
mod machine;
mod outbox;
mod output;
mod pacer;
mod requests;
mod rng;
mod rooms;
mod sends;
mod session;
mod token;
mod track;

pub use config::{Config, Resume};
pub use error::{ClientError, Disconnect, Rejection};
pub use events::{Event, History, Joined, Members, Message, Sent, State, User, Welcome};
pub use machine::Machine;
pub use output::{Action, Answer, RequestId};
pub use token::{Token, TokenError};

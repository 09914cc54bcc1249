//! Tools for tests of a broker, and of applications on one.

#![expect(clippy::expect_used, clippy::panic, reason = "a test fails by a panic")]

pub mod conformance;
mod faulty;
mod ports;
mod redis_server;
mod resp;
mod tcp_proxy;

pub use faulty::{Call, FaultyBroker, LossNotice};
pub use ports::free_port;
pub use redis_server::RedisServer;
pub use tcp_proxy::{ConnectionKind, Direction, TcpProxy};

pub use crate::random::seed as seed_randomness;

#[cfg(feature = "redis")]
pub use crate::redis::{Dial, Dialing, redis_payload};

//! The real program, driven over real sockets, with a real Redis between its processes.

mod direct;
mod mixed;
mod native;
mod operations;
mod outage;
mod rooms;
mod support;
mod topics;

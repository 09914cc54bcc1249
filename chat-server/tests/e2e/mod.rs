//! The real program, driven over real sockets, with a real Redis between its processes.

mod api;
mod auth;
mod backend;
mod client;
mod direct;
mod embedded;
mod handles;
mod history;
mod hooks;
mod hosts;
mod http;
mod limits;
mod metrics;
mod mixed;
mod moderation;
mod native;
mod nginx;
mod operations;
mod outage;
mod parts;
mod presence;
mod redis_faults;
mod rooms;
mod topics;
mod versions;

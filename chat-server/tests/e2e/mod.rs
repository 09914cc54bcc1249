//! The real program, driven over real sockets, with a real Redis between its processes.

mod api;
mod auth;
mod balancers;
mod client;
mod commands;
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
mod operations;
mod outage;
mod parts;
mod presence;
mod redis_faults;
mod restore;
mod rooms;
mod topics;
mod versions;

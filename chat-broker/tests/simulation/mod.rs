//! Nodes over a simulated Redis and a scripted network, in paused time.

mod checks;
mod conformance;
mod differential;
mod leases;
mod lifetime;
mod network;
mod node;
mod redis;
mod resend;
mod rng;
mod script;
mod seeds;
mod world;

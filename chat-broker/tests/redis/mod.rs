//! The Redis broker keeps the promises of the trait, and more when Redis does not.

mod answers;
mod batches;
mod conformance;
mod damage;
mod ends;
mod epochs;
mod follow;
mod full;
mod healing;
mod history;
mod inspection;
mod keys;
mod leases;
mod limits;
mod lost_records;
mod max_clients;
mod outages;
mod presence;
mod records;
mod refusals;
mod resend;
mod rights;
mod sharing;
mod stats;
mod tls;
mod unmarked;

//! The Redis broker keeps the promises of the trait, and more when Redis does not.

mod answers;
mod conformance;
mod crowded;
mod damage;
mod ends;
mod epochs;
mod full;
mod healing;
mod history;
mod keys;
mod leases;
mod lost_records;
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

//! The commands for operators: the real program beside a real server and a real Redis.

mod check;
mod health;

//! What is done in rooms and to users, each by one function: for clients, for backends over HTTP and
//! for the application. None of these functions knows a connection, or who may call it.

pub(crate) mod history;
pub(crate) mod members;
pub(crate) mod rules;
pub(crate) mod sanctions;
pub(crate) mod send;

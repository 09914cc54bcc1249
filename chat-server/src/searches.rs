//! The searches of this server for a user on the others, and what these answer. [`fleet`](crate::fleet) carries
//! them.

use std::collections::HashMap;
use std::net::SocketAddr;

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

use crate::identity::random_id;

/// The most searches at a time.
const MAX_SEARCHES: usize = 64;

/// The most answers to a search that wait to be read.
const MAX_ANSWERS: usize = 256;

/// Another server with connections of a user.
#[derive(Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
pub(crate) struct OtherServer {
    /// The id, which clients receive in `welcome`.
    pub(crate) node: String,
    /// The name of the machine, pod or container; `null` if the system does not say it.
    pub(crate) host: Option<String>,
    /// Where it serves operators, `CHAT_METRICS_ADDR`; `null` if it does not.
    #[cfg_attr(test, schema(value_type = Option<String>))]
    pub(crate) metrics_addr: Option<SocketAddr>,
    /// How many connections of the user receive direct messages there.
    pub(crate) count: usize,
    /// The name on one of them.
    pub(crate) name: String,
}

/// The searches of this server that wait for answers.
#[derive(Debug, Default)]
pub(crate) struct Searches(Mutex<HashMap<String, mpsc::Sender<OtherServer>>>);

/// A search that ends when this is dropped.
pub(crate) struct Search<'a> {
    searches: &'a Searches,
    pub(crate) id: String,
}

impl Searches {
    /// Begins a search. `None`: too many wait.
    pub(crate) fn begin(&self) -> Option<(Search<'_>, mpsc::Receiver<OtherServer>)> {
        let mut waiting = self.0.lock();
        if waiting.len() >= MAX_SEARCHES {
            return None;
        }
        let (id, (sender, answers)) = (random_id(10), mpsc::channel(MAX_ANSWERS));
        waiting.insert(id.clone(), sender);
        Some((Search { searches: self, id }, answers))
    }

    /// Passes an answer on to the search that it is for, unless that has ended.
    pub(crate) fn found(&self, search: &str, found: OtherServer) {
        if let Some(sender) = self.0.lock().get(search) {
            // Fails if there are more answers than are wanted.
            let _ = sender.try_send(found);
        }
    }
}

impl Drop for Search<'_> {
    fn drop(&mut self) {
        self.searches.0.lock().remove(&self.id);
    }
}

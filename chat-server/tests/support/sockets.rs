//! What the kernel holds for a server (proc(5), `/proc/net/tcp`).

use std::fs;
use std::time::{Duration, Instant};

/// The sockets of a server's port that are connected, or were and are not gone yet.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Sockets {
    pub(crate) count: usize,
    /// Bytes that were sent and not acknowledged.
    pub(crate) unsent: u64,
}

impl Sockets {
    pub(crate) fn of_server(port: u16) -> Self {
        let mut found = Self::default();
        for table in ["/proc/net/tcp", "/proc/net/tcp6"] {
            let table = fs::read_to_string(table).unwrap_or_default();
            for line in table.lines().skip(1) {
                let fields: Vec<&str> = line.split_whitespace().collect();
                let (local, state, queues) = (fields[1], fields[3], fields[4]);
                // Nobody holds memory for those that wait for the end of their time.
                let is_counted = ![TIME_WAIT, LISTEN].contains(&state);
                if local.ends_with(&format!(":{port:04X}")) && is_counted {
                    let (unsent, _) = queues.split_once(':').expect("two queues");
                    found.count += 1;
                    found.unsent += u64::from_str_radix(unsent, 16).expect("a number");
                }
            }
        }
        found
    }

    /// Waits until there are no more than so many.
    pub(crate) async fn until_at_most(port: u16, count: usize, within: Duration) {
        let deadline = Instant::now() + within;
        loop {
            let left = Self::of_server(port);
            if left.count <= count {
                return;
            }
            assert!(Instant::now() < deadline, "{left:?} after {within:?}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

const TIME_WAIT: &str = "06";
const LISTEN: &str = "0A";

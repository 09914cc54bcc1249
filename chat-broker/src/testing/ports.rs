//! Ports of servers that tests start.

use std::net::{Ipv4Addr, TcpListener};
use std::ops::Range;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::random;

/// Below the ports that systems give to outgoing connections, of which one might else take the
/// port of a server that is stopped, or is about to start.
const PORTS: Range<u16> = 16_000..32_000;

/// A port of this host, on 127.0.0.1, for a server that a test starts, and perhaps stops and starts again: no
/// outgoing connection takes it meanwhile, as one may take a port that the system has chosen (port
/// 0). Each call in a process returns another one. A program other than this process may take the
/// port before the server does.
///
/// # Panics
/// No port is free.
///
/// ```
/// let port = chat_broker::testing::free_port();
/// let server = std::net::TcpListener::bind(("127.0.0.1", port))?;
/// # Ok::<(), std::io::Error>(())
/// ```
#[must_use]
pub fn free_port() -> u16 {
    let is_free = |port: &u16| TcpListener::bind((Ipv4Addr::LOCALHOST, *port)).is_ok();
    std::iter::repeat_with(next).take(1000).find(is_free).expect("a free port")
}

/// In order, from a random one on: two tests of a process must not choose the same port at the
/// same time.
fn next() -> u16 {
    static NEXT: LazyLock<AtomicU64> = LazyLock::new(|| AtomicU64::new(random::bits() >> 1));
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    PORTS.start + (number % PORTS.len() as u64) as u16
}

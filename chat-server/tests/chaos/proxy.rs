//! A TCP proxy whose connections can be cut.

use std::hash::{BuildHasher, RandomState};
use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Arc, Mutex};

use tokio::net::{TcpListener, TcpStream};
use tokio::task::AbortHandle;

pub(crate) struct Proxy {
    port: u16,
    target: Arc<AtomicU16>,
    connections: Arc<Mutex<Vec<AbortHandle>>>,
}

impl Proxy {
    pub(crate) async fn start(target: u16) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let target = Arc::new(AtomicU16::new(target));
        let connections = Arc::new(Mutex::new(Vec::new()));
        tokio::spawn(accept(listener, Arc::clone(&target), Arc::clone(&connections)));
        Self { port, target, connections }
    }

    pub(crate) fn url(&self) -> String {
        format!("ws://127.0.0.1:{}/ws", self.port)
    }

    /// New connections go there.
    pub(crate) fn lead_to(&self, port: u16) {
        self.target.store(port, Ordering::Relaxed);
    }

    /// Cuts about this part of the connections, at random and without a goodbye.
    pub(crate) fn cut(&self, part: f64) {
        let mut connections = self.connections.lock().unwrap();
        connections.retain(|connection| {
            let is_cut = RandomState::new().hash_one(()) as f64 / u64::MAX as f64 <= part;
            if is_cut {
                connection.abort();
            }
            !(is_cut || connection.is_finished())
        });
    }
}

async fn accept(
    listener: TcpListener,
    target: Arc<AtomicU16>,
    connections: Arc<Mutex<Vec<AbortHandle>>>,
) {
    loop {
        let Ok((mut client, _)) = listener.accept().await else { return };
        let port = target.load(Ordering::Relaxed);
        let task = tokio::spawn(async move {
            let Ok(mut server) = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await else {
                return;
            };
            let _ = client.set_nodelay(true);
            let _ = server.set_nodelay(true);
            let _ = tokio::io::copy_bidirectional(&mut client, &mut server).await;
        });
        connections.lock().unwrap().push(task.abort_handle());
    }
}

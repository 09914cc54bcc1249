//! A way to a server on which things get lost without a word.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};

/// A TCP proxy. What it swallows was taken, and arrives nowhere; nobody is told.
pub(crate) struct Proxy {
    port: u16,
    swallows: [Arc<AtomicBool>; 2],
}

impl Proxy {
    pub(crate) async fn start(server: u16) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let swallows: [Arc<AtomicBool>; 2] = Default::default();
        tokio::spawn(accept(listener, server, swallows.clone()));
        Self { port, swallows }
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    pub(crate) fn swallow_requests(&self) {
        self.swallows[0].store(true, Ordering::Relaxed);
    }

    pub(crate) fn swallow_answers(&self) {
        self.swallows[1].store(true, Ordering::Relaxed);
    }
}

async fn accept(listener: TcpListener, server: u16, [requests, answers]: [Arc<AtomicBool>; 2]) {
    while let Ok((client, _)) = listener.accept().await {
        let server = TcpStream::connect((Ipv4Addr::LOCALHOST, server)).await.unwrap();
        let (from_client, to_client) = client.into_split();
        let (from_server, to_server) = server.into_split();
        tokio::spawn(pass(from_client, to_server, Arc::clone(&requests)));
        tokio::spawn(pass(from_server, to_client, Arc::clone(&answers)));
    }
}

async fn pass(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, swallows: Arc<AtomicBool>) {
    let mut bytes = vec![0; 16 * 1024];
    while let Ok(read @ 1..) = from.read(&mut bytes).await {
        let is_lost = swallows.load(Ordering::Relaxed);
        if !is_lost && to.write_all(&bytes[..read]).await.is_err() {
            return;
        }
    }
    // An end is swallowed, too.
    if swallows.load(Ordering::Relaxed) {
        std::future::pending::<()>().await;
    }
}

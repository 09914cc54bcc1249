//! The network between a browser and a server, which fails when it is told to.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::spawn;

/// Passes connections on to a port, until it is cut.
pub(crate) struct Proxy {
    port: u16,
    network: Arc<Network>,
}

struct Network {
    /// Both ends of the connections that are open, the client's first; `None` while it is cut.
    streams: Mutex<Option<Vec<[TcpStream; 2]>>>,
    /// Whether what servers say is lost.
    swallows: AtomicBool,
}

impl Proxy {
    pub(crate) fn to(target: u16) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let streams = Mutex::new(Some(Vec::new()));
        let network = Arc::new(Network { streams, swallows: AtomicBool::new(false) });
        let shared = Arc::clone(&network);
        spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                if let Some(open) = &mut *shared.streams.lock().unwrap() {
                    open.extend(connect(client, target, &shared));
                }
            }
        });
        Self { port, network }
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// Loses what servers say from now on; what clients say still gets through.
    pub(crate) fn swallow_answers(&self) {
        self.network.swallows.store(true, Ordering::SeqCst);
    }

    /// Ends all connections, and refuses others.
    pub(crate) fn cut(&self) {
        for stream in self.network.streams.lock().unwrap().take().into_iter().flatten().flatten() {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }

    /// Sends what is no frame to all clients.
    pub(crate) fn garble(&self) {
        for [client, _] in self.network.streams.lock().unwrap().iter_mut().flatten() {
            let _ = client.write_all(&[0xff; 16]);
        }
    }

    pub(crate) fn restore(&self) {
        self.network.swallows.store(false, Ordering::SeqCst);
        self.network.streams.lock().unwrap().get_or_insert_default();
    }
}

/// Connects a client with the server, if that is there. Returns both ends.
fn connect(client: TcpStream, target: u16, network: &Arc<Network>) -> Option<[TcpStream; 2]> {
    let server = TcpStream::connect((Ipv4Addr::LOCALHOST, target)).ok()?;
    let (up, down) = (client.try_clone().unwrap(), server.try_clone().unwrap());
    let (to_client, to_server) = (client.try_clone().unwrap(), server.try_clone().unwrap());
    let network = Arc::clone(network);
    spawn(move || pass_on(up, to_server, || false));
    spawn(move || pass_on(down, to_client, || network.swallows.load(Ordering::SeqCst)));
    Some([client, server])
}

fn pass_on(mut from: TcpStream, mut to: TcpStream, swallows: impl Fn() -> bool) {
    let mut buffer = [0; 16 * 1024];
    while let Ok(length @ 1..) = from.read(&mut buffer) {
        if !swallows() && to.write_all(&buffer[..length]).is_err() {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Both);
}

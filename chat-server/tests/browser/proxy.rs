//! The network between a browser and a server, which fails when it is told to.

use std::io;
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread::spawn;

/// Passes connections on to a port, until it is cut.
pub(crate) struct Proxy {
    port: u16,
    /// The connections that are open; `None` while it is cut.
    streams: Arc<Mutex<Option<Vec<TcpStream>>>>,
}

impl Proxy {
    pub(crate) fn to(target: u16) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let streams = Arc::new(Mutex::new(Some(Vec::new())));
        let open = Arc::clone(&streams);
        spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                if let Some(open) = &mut *open.lock().unwrap() {
                    open.extend(pass_on(client, target));
                }
            }
        });
        Self { port, streams }
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// Ends all connections, and refuses others.
    pub(crate) fn cut(&self) {
        for stream in self.streams.lock().unwrap().take().into_iter().flatten() {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }

    pub(crate) fn restore(&self) {
        self.streams.lock().unwrap().get_or_insert_default();
    }
}

/// Connects a client with the server, if that is there.
fn pass_on(client: TcpStream, target: u16) -> Vec<TcpStream> {
    let Ok(server) = TcpStream::connect((Ipv4Addr::LOCALHOST, target)) else { return Vec::new() };
    for (from, to) in [(&client, &server), (&server, &client)] {
        let (mut from, mut to) = (from.try_clone().unwrap(), to.try_clone().unwrap());
        spawn(move || {
            let _ = io::copy(&mut from, &mut to);
            let _ = to.shutdown(Shutdown::Both);
        });
    }
    vec![client, server]
}

//! Addresses at which a WebSocket finds nothing, and orders to the network, which the scripts of
//! a test give by requests.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::thread::spawn;

use chat_broker::testing::{Direction, TcpProxy};

/// Answers requests, and obeys those for `network`. Returns the port.
pub(crate) fn serve(network: TcpProxy) -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            let path = path_of(&stream);
            match path.as_str() {
                "/cut" => network.disconnect(),
                "/garble" => network.garble(),
                "/silence" => network.swallow(Direction::ToClient),
                "/restore" => network.restore(),
                _ => {}
            }
            spawn(move || answer(stream, &path));
        }
    });
    port
}

fn path_of(stream: &TcpStream) -> String {
    let head = BufReader::new(stream).lines().map_while(Result::ok);
    let lines: Vec<_> = head.take_while(|line| !line.is_empty()).collect();
    let path = lines.first().and_then(|line| line.split(' ').nth(1));
    path.unwrap_or_default().to_owned()
}

fn answer(mut stream: TcpStream, path: &str) {
    let text = match path {
        "/empty" => "",
        "/garbage" => "this is no answer\r\n\r\n",
        "/503" => "HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n",
        "/silent" => {
            let _ = stream.read(&mut [0]);
            ""
        }
        _ => "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n",
    };
    let _ = stream.write_all(text.as_bytes());
}

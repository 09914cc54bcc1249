//! A client with a transport of its own: the machine of `chat_core::client` on a blocking socket,
//! without a runtime. It greets the room `lobby`, and ends when it receives a message there.
//!
//! `cargo run -p examples --example client_own_transport [ws://127.0.0.1:8080/ws]`

use std::{error::Error, io::ErrorKind, net::TcpStream, thread, time::Duration, time::Instant};

use chat_core::client::{Action, Config, Disconnect, Event, Machine};
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::{Error::Io, Message, WebSocket, client};

/// How late a deadline may be noticed.
const TICK: Duration = Duration::from_millis(50);

fn main() -> Result<(), Box<dyn Error>> {
    let (start, mut seed, mut socket, mut code) = (Instant::now(), [0; 32], None, None);
    let now = || start.elapsed();
    getrandom::fill(&mut seed)?;
    let url = std::env::args().nth(1).unwrap_or("ws://127.0.0.1:8080/ws".to_owned());
    let mut machine = Machine::new(Config::default(), vec![url], seed, now())?;
    machine.join("lobby", 0, now())?;
    machine.send("lobby", "hello", now())?;
    loop {
        while let Some(action) = machine.poll_action() {
            match (action, &mut socket) {
                (Action::Connect { url }, _) => match connect(&url) {
                    Ok(open) => {
                        (socket, code) = (Some(open), None);
                        machine.handle_connected(now());
                    }
                    Err(why) => {
                        machine.handle_disconnected(Disconnect::new(why.to_string()), now())
                    }
                },
                // A socket that cannot be written cannot be read, either.
                (Action::Send(text), Some(open)) => drop(open.send(Message::text(text))),
                (Action::Ping, Some(open)) => drop(open.send(Message::Ping("".into()))),
                (Action::Close { code }, _) => {
                    if let Some(open) = socket.take() {
                        close(open, code);
                    }
                }
                _ => {}
            }
        }
        if machine.is_closed() {
            break;
        }
        match socket.as_mut().map(WebSocket::read) {
            None => thread::sleep(TICK),
            // A text that is no frame is ignored.
            Some(Ok(Message::Text(text))) => drop(machine.handle_text(&text, now())),
            Some(Ok(Message::Close(Some(end)))) => code = Some(end.code.into()),
            Some(Ok(_)) => machine.handle_alive(now()),
            Some(Err(Io(why))) if why.kind() == ErrorKind::WouldBlock => {}
            Some(Err(why)) => {
                socket = None;
                machine.handle_disconnected(Disconnect::with_code(code, why.to_string()), now());
            }
        }
        if machine.poll_timeout().is_some_and(|due| due <= now()) {
            machine.handle_timeout(now());
        }
        // Whether the join and the message succeed is seen in the events.
        while machine.poll_answer().is_some() {}
        while let Some(event) = machine.poll_event() {
            println!("{event:?}");
            if let Event::Message(_) = event {
                machine.close(now());
            }
        }
    }
    Ok(())
}

/// Sends the close frame, and reads until the server has answered it or sends nothing for a tick.
fn close(mut socket: WebSocket<TcpStream>, code: u16) {
    let frame = CloseFrame { code: code.into(), reason: "".into() };
    if socket.close(Some(frame)).is_ok() {
        while socket.read().is_ok() {}
    }
}

fn connect(url: &str) -> Result<WebSocket<TcpStream>, Box<dyn Error>> {
    let mut request = client::IntoClientRequest::into_client_request(url)?;
    request.headers_mut().insert("Sec-WebSocket-Protocol", "chat.v1".parse()?);
    let stream = TcpStream::connect(request.uri().authority().ok_or("no host")?.as_str())?;
    // The handshake may take longer than a tick: the server may be distant.
    stream.set_read_timeout(Some(200 * TICK))?;
    let (socket, _) = client::client(request, stream)?;
    Ok(socket.get_ref().set_read_timeout(Some(TICK)).map(|()| socket)?)
}

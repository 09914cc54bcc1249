//! The floor: a server of one thread that turns each message into a frame and writes it to the
//! members of its room. No broker, no JSON, no heartbeat: the least cost of a delivery.

use std::collections::BTreeMap;
use std::io;
use std::net::Ipv4Addr;

use mio::net::TcpListener;
use mio::{Events, Interest, Poll, Token};

use crate::socket::Socket;
use crate::wire;

const LISTENER: Token = Token(usize::MAX);

struct Floor {
    poll: Poll,
    peers: Vec<Option<Peer>>,
    rooms: BTreeMap<usize, Vec<usize>>,
    /// Frames that arrived in this turn, with their rooms.
    frames: Vec<(usize, Vec<u8>)>,
    buffer: Vec<u8>,
}

struct Peer {
    socket: Socket,
    upgraded: bool,
    partial: Vec<u8>,
}

pub fn serve(port: u16, batch: bool) -> io::Result<()> {
    let mut listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port).into())?;
    let mut floor = Floor {
        poll: Poll::new()?,
        peers: Vec::new(),
        rooms: BTreeMap::new(),
        frames: Vec::new(),
        buffer: vec![0; 64 * 1024],
    };
    floor.poll.registry().register(&mut listener, LISTENER, Interest::READABLE)?;
    let mut events = Events::with_capacity(512);
    loop {
        floor.poll.poll(&mut events, None)?;
        for event in &events {
            match event.token() {
                LISTENER => floor.accept(&listener)?,
                Token(index) => floor.ready(index),
            }
        }
        if batch {
            floor.join_frames();
        }
        floor.write_frames();
    }
}

impl Floor {
    fn accept(&mut self, listener: &TcpListener) -> io::Result<()> {
        while let Ok((stream, _)) = listener.accept() {
            let token = Token(self.peers.len());
            let socket = Socket::new(stream, self.poll.registry(), token)?;
            self.peers.push(Some(Peer { socket, upgraded: false, partial: Vec::new() }));
        }
        Ok(())
    }

    /// Sends what waits and reads what arrived; closed connections are removed.
    fn ready(&mut self, index: usize) {
        let Some(mut peer) = self.peers[index].take() else { return };
        if peer.socket.flush().is_ok() && self.read(index, &mut peer).is_ok() {
            self.peers[index] = Some(peer);
        }
    }

    fn read(&mut self, index: usize, peer: &mut Peer) -> io::Result<()> {
        while let Some(size) = peer.socket.receive(&mut self.buffer)? {
            peer.partial.extend(&self.buffer[..size]);
            if !peer.upgraded {
                self.upgrade(index, peer)?;
            }
            while let Some(frame) = wire::read(&peer.partial) {
                let mask = frame.mask.unwrap_or_default();
                let text: Vec<u8> =
                    frame.payload.iter().zip(mask.iter().cycle()).map(|(a, b)| a ^ b).collect();
                if let (wire::TEXT, Some(room)) = (frame.opcode, text.get(..6)) {
                    let mut bytes = Vec::new();
                    wire::write(&mut bytes, wire::TEXT, &text, None);
                    self.frames.push((wire::get_hex(room) as usize, bytes));
                }
                peer.partial.drain(..frame.size);
            }
            if size < self.buffer.len() {
                break;
            }
        }
        Ok(())
    }

    /// A member's path ends with its room.
    fn upgrade(&mut self, index: usize, peer: &mut Peer) -> io::Result<()> {
        let mut ends = peer.partial.windows(4);
        let Some(end) = ends.position(|end| end == b"\r\n\r\n") else { return Ok(()) };
        let head: Vec<u8> = peer.partial.drain(..end + 4).collect();
        let head = String::from_utf8_lossy(&head);
        let path = head.split(' ').nth(1).unwrap_or_default();
        if let Some(room) = path.strip_prefix("/member/").and_then(|room| room.parse().ok()) {
            self.rooms.entry(room).or_default().push(index);
        }
        peer.upgraded = true;
        let answer = format!(
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Accept: {}\r\n\r\n",
            wire::ACCEPT
        );
        peer.socket.send(answer.as_bytes())
    }

    /// Joins the frames of a room into one buffer.
    fn join_frames(&mut self) {
        let mut rooms: BTreeMap<usize, Vec<u8>> = BTreeMap::new();
        for (room, frame) in self.frames.drain(..) {
            rooms.entry(room).or_default().extend(frame);
        }
        self.frames.extend(rooms);
    }

    fn write_frames(&mut self) {
        for (room, frame) in self.frames.drain(..) {
            for &member in self.rooms.get(&room).map_or(&[][..], Vec::as_slice) {
                if let Some(peer) = &mut self.peers[member] {
                    // A failed connection is removed when it is read.
                    let _ = peer.socket.send(&frame);
                }
            }
        }
    }
}

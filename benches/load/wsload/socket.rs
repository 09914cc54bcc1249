//! A non-blocking connection.

use std::io::{self, ErrorKind, Read, Write};
use std::net::SocketAddr;
use std::time::Duration;

use mio::net::TcpStream;
use mio::{Interest, Registry, Token};
use socket2::SockRef;

/// Bytes that were written and cannot be sent yet are kept.
pub struct Socket {
    stream: TcpStream,
    out: Vec<u8>,
}

impl Socket {
    /// Starts to connect; the socket is writable when it is, or has failed.
    pub fn connect(address: SocketAddr, registry: &Registry, token: Token) -> io::Result<Socket> {
        let stream = TcpStream::connect(address)?;
        // A close by reset leaves no TIME_WAIT behind, so that runs can follow at once.
        SockRef::from(&stream).set_linger(Some(Duration::ZERO))?;
        Socket::new(stream, registry, token)
    }

    pub fn new(mut stream: TcpStream, registry: &Registry, token: Token) -> io::Result<Socket> {
        stream.set_nodelay(true)?;
        registry.register(&mut stream, token, Interest::READABLE | Interest::WRITABLE)?;
        Ok(Socket { stream, out: Vec::new() })
    }

    /// The error of an attempt to connect.
    pub fn connected(&self) -> io::Result<()> {
        self.stream.take_error()?.map_or(Ok(()), Err)
    }

    /// Bytes to be sent by the next [`flush`](Socket::flush).
    pub fn out(&mut self) -> &mut Vec<u8> {
        &mut self.out
    }

    pub fn flush(&mut self) -> io::Result<()> {
        let out = std::mem::take(&mut self.out);
        self.send(&out)
    }

    /// Sends bytes behind those that wait.
    pub fn send(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while self.out.is_empty() && !bytes.is_empty() {
            match self.stream.write(bytes) {
                Ok(sent) => bytes = &bytes[sent..],
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        self.out.extend(bytes);
        Ok(())
    }

    /// What has arrived, at most a full buffer; `None` if nothing has.
    pub fn receive(&mut self, buffer: &mut [u8]) -> io::Result<Option<usize>> {
        loop {
            match self.stream.read(buffer) {
                Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
                Ok(size) => return Ok(Some(size)),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(None),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }
}

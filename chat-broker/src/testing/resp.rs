//! One command and its reply in RESP, the protocol of Redis, version 2: enough for tests.

use std::io;
use std::net::Ipv4Addr;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;

/// Sends one command on a connection of its own and returns the reply as text, an element
/// a line.
pub(super) async fn command(port: u16, arguments: &[&str]) -> io::Result<String> {
    let mut stream = BufReader::new(TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await?);
    let mut request = format!("*{}\r\n", arguments.len());
    for argument in arguments {
        request.push_str(&format!("${}\r\n{argument}\r\n", argument.len()));
    }
    stream.write_all(request.as_bytes()).await?;

    let mut lines = Vec::new();
    let mut elements = 1;
    while elements > 0 {
        elements -= 1;
        let mut head = String::new();
        stream.read_line(&mut head).await?;
        let head = head.trim_end();
        let (kind, rest) = head.split_at_checked(1).ok_or(io::ErrorKind::UnexpectedEof)?;
        let length = || rest.parse::<i64>().map_err(io::Error::other);
        match kind {
            "*" => elements += length()?.max(0),
            "$" => lines.push(bulk(&mut stream, length()?).await?),
            _ => lines.push(rest.to_owned()),
        }
    }
    Ok(lines.join("\n"))
}

async fn bulk(stream: &mut BufReader<TcpStream>, length: i64) -> io::Result<String> {
    let Ok(length) = usize::try_from(length) else { return Ok(String::new()) };
    let mut text = vec![0; length + 2];
    stream.read_exact(&mut text).await?;
    text.truncate(length);
    Ok(String::from_utf8_lossy(&text).into_owned())
}

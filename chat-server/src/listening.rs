//! The listeners of the program.

use std::io::{self, ErrorKind};
use std::net::SocketAddr;

use tokio::net::{TcpListener, TcpSocket, lookup_host};
use tracing::info;

use crate::settings::{Exit, Invalid, Listen};

/// Listens on all addresses of the host that the settings name; by default on both loopback
/// addresses.
pub(crate) async fn for_clients(settings: &Listen) -> Result<Vec<TcpListener>, Exit> {
    let port = settings.port;
    let addresses = addresses_for_clients(settings).await?;
    settings.check_apart(&addresses)?;
    listen_on(&addresses, bind).map_err(|(address, error)| {
        let why = format!("cannot listen on {address}: {error}");
        let invalid = match settings.host() {
            Some(host) if !is_taken(&error) => Invalid::new("host", host, why),
            _ => Invalid::new("port", port, why),
        };
        exit(invalid, &error)
    })
}

/// Listens for metrics and probes, if the settings give them an address.
pub(crate) fn for_operators(settings: &Listen) -> Result<Option<TcpListener>, Exit> {
    let Some(address) = settings.metrics_addr else { return Ok(None) };
    let listener = bind(address).map_err(|error| {
        let why = format!("cannot listen there: {error}");
        exit(Invalid::new("metrics-addr", address, why), &error)
    })?;
    Ok(Some(listener))
}

async fn addresses_for_clients(settings: &Listen) -> Result<Vec<SocketAddr>, Exit> {
    match (settings.known_addresses(), settings.host()) {
        (None, Some(host)) => look_up(host, settings.port).await,
        (known, _) => Ok(known.unwrap_or_default()),
    }
}

async fn look_up(host: &str, port: u16) -> Result<Vec<SocketAddr>, Exit> {
    let wrong = |error: io::Error| {
        let why = format!("expected an address or a name of this machine, without a port: {error}");
        let invalid = Invalid::new("host", host, why);
        // The name server may not answer yet while the machine starts.
        if is_name(host) { Exit::Unavailable(invalid) } else { invalid.into() }
    };
    let found = lookup_host((host.trim_matches(['[', ']']), port)).await.map_err(wrong)?;
    let mut addresses: Vec<_> = found.collect();
    addresses.sort_unstable();
    addresses.dedup();
    Ok(addresses)
}

/// Listens on each address that exists: a machine may lack a loopback address, or IPv6. A port that is
/// taken on one address is an error: clients would reach another server there.
fn listen_on(
    addresses: &[SocketAddr],
    bind: impl Fn(SocketAddr) -> io::Result<TcpListener>,
) -> Result<Vec<TcpListener>, (SocketAddr, io::Error)> {
    let mut listeners: Vec<TcpListener> = Vec::new();
    let mut absent = Vec::new();
    for address in addresses {
        let mut address = *address;
        // A port that the system chose is the same on all.
        if let Some(Ok(first)) = listeners.first().map(TcpListener::local_addr) {
            address.set_port(first.port());
        }
        match bind(address) {
            Ok(listener) => listeners.push(listener),
            Err(error) if is_taken(&error) => return Err((address, error)),
            Err(error) => absent.push((address, error)),
        }
    }
    if listeners.is_empty()
        && let Some(absent) = absent.pop()
    {
        return Err(absent);
    }
    for (address, error) in absent {
        info!("not listening on {}, which this machine does not have: {error}", address.ip());
    }
    Ok(listeners)
}

/// What another program holds may be free at a later start, and an address that the network does not have
/// yet may exist then.
fn exit(invalid: Invalid, error: &io::Error) -> Exit {
    match error.kind() {
        ErrorKind::AddrInUse | ErrorKind::AddrNotAvailable => Exit::Unavailable(invalid),
        _ => invalid.into(),
    }
}

/// Whether a name server may know the text, as it cannot know one with a port.
fn is_name(host: &str) -> bool {
    host.chars().all(|char| char.is_alphanumeric() || "-._".contains(char))
}

fn is_taken(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::AddrInUse | ErrorKind::PermissionDenied)
}

fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    /// Connections that wait to be accepted, up to the limit of the system. TCP retries further ones
    /// after 1 s, 2 s and 4 s, which is too late when thousands of clients reconnect at once.
    const BACKLOG: u32 = 16 * 1024;
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

    use super::*;

    const LOOPBACK: [IpAddr; 2] =
        [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)];

    const FREE: [SocketAddr; 2] =
        [SocketAddr::new(LOOPBACK[0], 0), SocketAddr::new(LOOPBACK[1], 0)];

    /// Listens where `is_there` says, and fails elsewhere as a machine does that lacks the address.
    fn listen(
        is_there: fn(SocketAddr) -> bool,
        error: impl Fn() -> io::Error,
    ) -> Result<Vec<SocketAddr>, ErrorKind> {
        let listeners = listen_on(&FREE, |address| {
            // The machine of this test may lack IPv6 itself.
            let any = SocketAddr::new(LOOPBACK[0], address.port());
            if is_there(address) { bind(any) } else { Err(error()) }
        });
        let listeners = listeners.map_err(|(_, error)| error.kind())?;
        Ok(listeners.iter().map(|listener| listener.local_addr().unwrap()).collect())
    }

    #[tokio::test]
    async fn either_loopback_address_is_enough() {
        // EADDRNOTAVAIL, and EAFNOSUPPORT of a kernel without IPv6.
        for code in [99, 97] {
            let absent = || io::Error::from_raw_os_error(code);
            assert_eq!(listen(|address| address.is_ipv4(), absent).unwrap().len(), 1);
            assert_eq!(listen(|address| address.is_ipv6(), absent).unwrap().len(), 1);
            assert!(listen(|_| false, absent).is_err());
        }
    }

    #[tokio::test]
    async fn port_that_is_taken_on_one_address_is_an_error() {
        let taken = || ErrorKind::AddrInUse.into();
        assert_eq!(listen(|address| address.is_ipv4(), taken), Err(ErrorKind::AddrInUse));
        assert_eq!(listen(|address| address.is_ipv6(), taken), Err(ErrorKind::AddrInUse));
    }

    #[tokio::test]
    async fn name_with_several_addresses_is_listened_on_at_all_of_them() {
        let addresses: Vec<_> = (1..=3).map(|n| SocketAddr::from(([127, 0, 0, n], 0))).collect();
        let listeners = listen_on(&addresses, bind).unwrap();
        let bound: Vec<_> = listeners.iter().map(|one| one.local_addr().unwrap()).collect();
        assert_eq!(bound.len(), 3);
        assert!(bound.iter().all(|address| address.port() == bound[0].port()), "{bound:?}");
    }
}

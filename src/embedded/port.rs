//! Free loopback ports, and the same ones again after a restart where they are still free.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};

/// The remembered port when nothing listens on it, another free one otherwise. Nobody holds it until the server
/// does, so a caller whose server cannot bind it asks again.
pub(crate) fn free(remembered: Option<u16>) -> std::io::Result<u16> {
    let probe =
        |port: u16| TcpListener::bind(loopback(port)).and_then(|listener| listener.local_addr());
    remembered
        .map_or_else(|| probe(0), |port| probe(port).or_else(|_in_use| probe(0)))
        .map(|address| address.port())
}

/// An address on this machine alone.
pub(crate) fn loopback(port: u16) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, port))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_in_use_is_not_given_again() {
        let taken = TcpListener::bind(loopback(0)).expect("loopback can be bound");
        let port = taken.local_addr().expect("bound").port();
        assert_ne!(free(Some(port)).expect("another is free"), port);
        drop(taken);
        assert_eq!(free(Some(port)).expect("it is free now"), port);
    }
}

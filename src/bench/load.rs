//! A load generator for the ingest API: plain HTTP/1.1 over kept connections, one request after the other on each, because
//! a whole client costs more than what is measured.

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    task::JoinSet,
};

use crate::failure::{Failure, Result};

/// What a load did.
#[derive(Debug, Default)]
pub(super) struct Load {
    /// Requests that were answered with 200.
    pub(super) acknowledged: u64,
    /// All others.
    pub(super) refused: u64,
    /// From the first request to the last answer.
    pub(super) took: Duration,
    /// Every request's time, in order.
    pub(super) times: Vec<Duration>,
}

/// Posts the bodies in turn over so many connections for so long.
pub(super) async fn post(
    address: SocketAddr,
    path: &str,
    bodies: Arc<[Vec<u8>]>,
    connections: usize,
    lasts: Duration,
) -> Result<Load> {
    let requests: Arc<[Vec<u8>]> = bodies
        .iter()
        .map(|body| {
            let head = format!(
                "POST {path} HTTP/1.1\r\nhost: {address}\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
                body.len()
            );
            [head.as_bytes(), body].concat()
        })
        .collect();
    let began = Instant::now();
    let end = began + lasts;
    let mut clients = JoinSet::new();
    for client in 0..connections {
        let requests = Arc::clone(&requests);
        clients.spawn(async move {
            let mut load = Load::default();
            let mut connection = TcpStream::connect(address).await?;
            connection.set_nodelay(true)?;
            let mut answer = Vec::with_capacity(64 * 1024);
            let mut next = client;
            while Instant::now() < end {
                let sent = Instant::now();
                connection
                    .write_all(&requests[next % requests.len()])
                    .await?;
                next += connections;
                match read_answer(&mut connection, &mut answer).await? {
                    200 => load.acknowledged += 1,
                    _ => load.refused += 1,
                }
                load.times.push(sent.elapsed());
            }
            Ok::<_, std::io::Error>(load)
        });
    }
    let mut all = Load::default();
    while let Some(load) = clients.join_next().await {
        let load = load.expect("a client does not panic").map_err(|error| {
            Failure::failed("the ingest API did not answer its load").because(error)
        })?;
        all.acknowledged += load.acknowledged;
        all.refused += load.refused;
        all.times.extend(load.times);
    }
    all.took = began.elapsed();
    all.times.sort_unstable();
    Ok(all)
}

/// Reads one answer with a length and gives its status.
async fn read_answer(connection: &mut TcpStream, answer: &mut Vec<u8>) -> std::io::Result<u16> {
    answer.clear();
    loop {
        if let Some(head) = answer.windows(4).position(|four| four == b"\r\n\r\n") {
            let text = String::from_utf8_lossy(&answer[..head]);
            let length: usize = text
                .lines()
                .find_map(|line| line.strip_prefix("content-length: ")?.parse().ok())
                .unwrap_or_default();
            let mut missing = (head + 4 + length).saturating_sub(answer.len());
            let status = text.get(9..12).and_then(|status| status.parse().ok());
            let mut rest = [0; 16 * 1024];
            while missing > 0 {
                let most = missing.min(rest.len());
                let read = connection.read(&mut rest[..most]).await?;
                if read == 0 {
                    return Err(std::io::ErrorKind::UnexpectedEof.into());
                }
                missing -= read;
            }
            return Ok(status.unwrap_or_default());
        }
        if connection.read_buf(answer).await? == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
    }
}

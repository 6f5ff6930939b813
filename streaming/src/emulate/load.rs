//! A load generator for the ingest API: plain HTTP/1.1 over kept connections, one request after the other on each, because
//! a whole client costs more than what is measured.
//!
//! It is for `pinwheel bench data`, and lives here because this crate is optimised in every profile.

use std::{
    io,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    task::JoinSet,
};

/// What a load did.
#[derive(Debug, Default)]
pub struct Load {
    /// Requests that were answered with 200.
    pub acknowledged: u64,
    /// All others.
    pub refused: u64,
    /// From the first request to the last answer.
    pub took: Duration,
    /// Every request's time, in order.
    pub times: Vec<Duration>,
}

/// Posts the bodies in turn over so many connections for so long.
///
/// # Errors
///
/// When a connection cannot be opened or breaks.
pub async fn post(
    address: SocketAddr,
    path: &str,
    bodies: Arc<[Vec<u8>]>,
    connections: usize,
    lasts: Duration,
) -> io::Result<Load> {
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
            Ok::<_, io::Error>(load)
        });
    }
    let mut all = Load::default();
    while let Some(load) = clients.join_next().await {
        let load = load.map_err(io::Error::other)??;
        all.acknowledged += load.acknowledged;
        all.refused += load.refused;
        all.times.extend(load.times);
    }
    all.took = began.elapsed();
    all.times.sort_unstable();
    Ok(all)
}

/// Reads one answer with a length and gives its status.
async fn read_answer(connection: &mut TcpStream, answer: &mut Vec<u8>) -> io::Result<u16> {
    answer.clear();
    let (status, whole) = loop {
        if connection.read_buf(answer).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if let Some(head) = read_head(answer) {
            break head;
        }
    };
    let mut left = whole.saturating_sub(answer.len());
    while left > 0 {
        answer.clear();
        let read = connection.read_buf(answer).await?;
        if read == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        left = left.saturating_sub(read);
    }
    Ok(status)
}

/// The status and the length of an answer with its head, once the head is there.
fn read_head(answer: &[u8]) -> Option<(u16, usize)> {
    let end = answer.windows(4).position(|four| four == b"\r\n\r\n")? + 4;
    let head = std::str::from_utf8(&answer[..end]).ok()?;
    let status = head.get(9..12)?.parse().ok()?;
    let length = head
        .lines()
        .find_map(|line| line.strip_prefix("content-length: ")?.parse::<usize>().ok());
    Some((status, end + length.unwrap_or_default()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_as_long_as_its_head_says() {
        let answer = b"HTTP/1.1 207 Multi-Status\r\ncontent-length: 5\r\n\r\nab";
        assert_eq!(read_head(answer), Some((207, answer.len() + 3)));
        assert_eq!(read_head(&answer[..40]), None);
    }
}

//! What a process says: its two streams line by line into the log, and the output file that it may write.

use std::{fs, path::Path, time::Duration};

use serde_json::{Map, Value};
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio_util::sync::CancellationToken;

use crate::{Failure, LARGEST_OUTPUT_BYTES, Log, LogStream, output_too_large};

/// Longer lines are split.
const LINE_BYTES: usize = 64 * 1024;
/// What is read at most once the process has ended: more than a pipe can hold of what it wrote itself.
const AFTER_EXIT_BYTES: usize = 1024 * 1024;

/// How the reading of a stream ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Streamed {
    /// The last line that is not empty.
    pub(super) last_line: Option<String>,
    /// Whether the stream was still open when reading stopped.
    pub(super) left: Left,
}

/// Whether somebody still held a stream open when reading it stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Left {
    Closed,
    Open,
}

/// Reads `source` to its end, line by line, into the log. The log's own pace is kept: a slow one stops the process at its
/// full pipe and loses nothing. Once `exited` fires, an open stream is left after `drain` without a byte.
pub(super) async fn stream(
    mut source: impl AsyncRead + Unpin,
    name: LogStream,
    log: Log,
    exited: CancellationToken,
    drain: Duration,
) -> Streamed {
    let mut lines = Lines {
        log,
        name,
        line: Vec::new(),
        last: None,
    };
    let mut chunk = vec![0; 16 * 1024];
    let mut after_exit = 0;
    let left = loop {
        let read = tokio::select! {
            biased;
            read = source.read(&mut chunk) => read,
            () = silence(&exited, drain) => break Left::Open,
        };
        match read {
            Ok(0) | Err(_) => break Left::Closed,
            Ok(read) => {
                lines.take(&chunk[..read]).await;
                if exited.is_cancelled() {
                    after_exit += read;
                }
                if after_exit > AFTER_EXIT_BYTES {
                    break Left::Open;
                }
            }
        }
    };
    lines.finish().await;
    Streamed {
        last_line: lines.last,
        left,
    }
}

async fn silence(exited: &CancellationToken, drain: Duration) {
    exited.cancelled().await;
    tokio::time::sleep(drain).await;
}

struct Lines {
    log: Log,
    name: LogStream,
    line: Vec<u8>,
    last: Option<String>,
}

impl Lines {
    async fn take(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let room = LINE_BYTES - self.line.len();
            match bytes.iter().take(room).position(|byte| *byte == b'\n') {
                Some(end) => {
                    self.line.extend_from_slice(&bytes[..end]);
                    bytes = &bytes[end + 1..];
                    self.write().await;
                }
                // A line feed just past the room ends this line and does not make an empty one.
                None if bytes.len() > room && bytes[room] == b'\n' => {
                    self.line.extend_from_slice(&bytes[..room]);
                    bytes = &bytes[room + 1..];
                    self.write().await;
                }
                None if bytes.len() > room => {
                    // A character is not cut in two.
                    let cut = (room.saturating_sub(3)..=room)
                        .rev()
                        .find(|at| !is_continuation(bytes[*at]));
                    let cut = cut.filter(|cut| self.line.len() + cut > 0).unwrap_or(room);
                    self.line.extend_from_slice(&bytes[..cut]);
                    bytes = &bytes[cut..];
                    self.write().await;
                }
                None => {
                    self.line.extend_from_slice(bytes);
                    return;
                }
            }
        }
    }

    async fn finish(&mut self) {
        if !self.line.is_empty() {
            self.write().await;
        }
    }

    async fn write(&mut self) {
        let line = self.line.strip_suffix(b"\r").unwrap_or(&self.line);
        // A zero byte is UTF-8 but no text that a database can hold.
        let text = String::from_utf8_lossy(line).replace('\0', "\u{fffd}");
        self.line.clear();
        if !text.trim().is_empty() {
            self.last = Some(text.trim().to_owned());
        }
        self.log.line(self.name, text).await;
    }
}

fn is_continuation(byte: u8) -> bool {
    byte & 0b1100_0000 == 0b1000_0000
}

/// Reads the output file. A process that wrote none has an empty output.
pub(super) fn read(file: &Path) -> Result<Value, Failure> {
    let hint =
        "write one JSON object such as {\"rows\": 3} to the file that `PINWHEEL_OUTPUT` names";
    let refuse = |message: String| Failure::permanent(message).with_hint(hint);
    let metadata = match fs::symlink_metadata(file) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            return Ok(Value::Object(Map::new()));
        }
        Err(error) => {
            return Err(Failure::retryable(format!(
                "the output cannot be read: {error}"
            )));
        }
    };
    if !metadata.is_file() {
        return Err(refuse("the output is not a plain file".to_owned()));
    }
    // A file may hold blanks besides, but no reader wants a gigabyte of them.
    let bytes = usize::try_from(metadata.len()).unwrap_or(usize::MAX);
    if bytes > LARGEST_OUTPUT_BYTES {
        return Err(output_too_large(bytes));
    }
    let bytes = fs::read(file)
        .map_err(|error| Failure::retryable(format!("the output cannot be read: {error}")))?;
    if bytes.iter().all(u8::is_ascii_whitespace) {
        return Ok(Value::Object(Map::new()));
    }
    match serde_json::from_slice::<Value>(&bytes) {
        Ok(output @ Value::Object(_)) if has_zero(&output) => Err(refuse(
            "the output has a text with a zero byte, which cannot be stored".to_owned(),
        )),
        Ok(output @ Value::Object(_)) => Ok(output),
        Ok(_) => Err(refuse("the output is JSON but not an object".to_owned())),
        Err(error) => Err(refuse(format!("the output is not JSON: {error}"))),
    }
}

fn has_zero(value: &Value) -> bool {
    match value {
        Value::String(text) => text.contains('\0'),
        Value::Array(items) => items.iter().any(has_zero),
        Value::Object(table) => table
            .iter()
            .any(|(name, value)| name.contains('\0') || has_zero(value)),
        Value::Null | Value::Bool(_) | Value::Number(_) => false,
    }
}

//! What a worker tells its warden: one short line each, so that one `write` hands over one whole message. Both ends are
//! the same binary, so there are no versions.

use std::{fmt, str};

use nix::{
    time::{ClockId, clock_gettime},
    unistd::Pid,
};

/// The number of a try among all that one worker has begun.
pub(super) type Number = u64;

/// A moment of the clock that both processes share: nanoseconds of `CLOCK_MONOTONIC`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Moment(pub(super) u64);

impl Moment {
    pub(super) fn now() -> Self {
        Self(nanoseconds(ClockId::CLOCK_MONOTONIC))
    }
}

/// What a clock shows, in nanoseconds. A clock that cannot be read shows zero.
pub(super) fn nanoseconds(clock: ClockId) -> u64 {
    clock_gettime(clock).map_or(0, |time| {
        let seconds = u64::try_from(time.tv_sec()).unwrap_or(0);
        seconds * 1_000_000_000 + u64::try_from(time.tv_nsec()).unwrap_or(0)
    })
}

/// One line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Message {
    /// What the marks of this worker's processes begin with. The first line.
    Name(String),
    /// A try is about to start processes that bear its mark.
    Begin(Number),
    /// The first of them leads this process group.
    Leads(Number, Pid),
    /// The try is over, and its group is gone.
    Over(Number),
    /// The try was given up: its group is gone, and what has left the group has to go too.
    GivenUp(Number),
    /// The lease may be trusted until then.
    Trust(Moment),
}

impl fmt::Display for Message {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => writeln!(formatter, "#{name}"),
            Self::Begin(number) => writeln!(formatter, "+{number}"),
            Self::Leads(number, leader) => writeln!(formatter, "@{number} {leader}"),
            Self::Over(number) => writeln!(formatter, "-{number}"),
            Self::GivenUp(number) => writeln!(formatter, "!{number}"),
            Self::Trust(Moment(nanoseconds)) => writeln!(formatter, "={nanoseconds}"),
        }
    }
}

impl Message {
    fn read(line: &[u8]) -> Option<Self> {
        let (kind, rest) = line.split_first()?;
        let rest = str::from_utf8(rest).ok()?;
        Some(match kind {
            b'#' => Self::Name(rest.to_owned()),
            b'+' => Self::Begin(rest.parse().ok()?),
            b'@' => {
                let (number, leader) = rest.split_once(' ')?;
                let leader: i32 = leader.parse().ok()?;
                // 0 and 1 would mean our own group and everybody.
                Self::Leads(
                    number.parse().ok()?,
                    Some(Pid::from_raw(leader)).filter(|_| leader > 1)?,
                )
            }
            b'-' => Self::Over(rest.parse().ok()?),
            b'!' => Self::GivenUp(rest.parse().ok()?),
            b'=' => Self::Trust(Moment(rest.parse().ok()?)),
            _ => return None,
        })
    }
}

/// Bytes as they come out of the pipe, cut into messages.
#[derive(Debug, Default)]
pub(super) struct Lines {
    begun: Vec<u8>,
}

impl Lines {
    /// The messages that `bytes` completes. What is no message is passed over.
    pub(super) fn take(&mut self, bytes: &[u8]) -> Vec<Message> {
        self.begun.extend_from_slice(bytes);
        let mut messages = Vec::new();
        let mut from = 0;
        while let Some(length) = self.begun[from..].iter().position(|byte| *byte == b'\n') {
            messages.extend(Message::read(&self.begun[from..from + length]));
            from += length + 1;
        }
        self.begun.drain(..from);
        messages
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_read_as_they_were_written_wherever_the_pipe_cuts_them() {
        let messages = [
            Message::Name("0123abcd".to_owned()),
            Message::Begin(7),
            Message::Leads(7, Pid::from_raw(4711)),
            Message::Trust(Moment(u64::MAX)),
            Message::Over(7),
            Message::GivenUp(u64::MAX),
        ];
        let written: String = messages.iter().map(ToString::to_string).collect();
        for size in 1..written.len() {
            let mut lines = Lines::default();
            let read: Vec<_> = written
                .as_bytes()
                .chunks(size)
                .flat_map(|chunk| lines.take(chunk))
                .collect();
            assert_eq!(read, messages);
        }
    }

    #[test]
    fn what_is_no_message_is_passed_over() {
        let mut lines = Lines::default();
        assert_eq!(
            lines.take(b"?\n\n+\n+x\n@1\n@1 0\n@1 1\n@1 -5\n-1\n"),
            [Message::Over(1)]
        );
    }
}

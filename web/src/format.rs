//! How values look to people: states, times, durations, JSON, log lines. Each part is a small template of its own, so that it
//! is escaped once and looks the same everywhere.

use std::time::Duration;

use askama::{Template, filters::HtmlSafe};
use chrono::{DateTime, SecondsFormat, Utc};
use pinwheel_scheduler::{
    model::{RunKind, RunState, SleepReason, TaskState, TryOutcome},
    secrets::ShownConnection,
    store::WorkerState,
};
use serde_json::Value;

/// A state as icon, word and colour; never the colour alone.
#[derive(Debug, Clone, Copy, Template)]
#[template(path = "parts/badge.html")]
pub(crate) struct Badge {
    pub(crate) tone: &'static str,
    pub(crate) word: &'static str,
}
impl HtmlSafe for Badge {}

impl Badge {
    pub(crate) const fn new(tone: &'static str, word: &'static str) -> Self {
        Self { tone, word }
    }
}

/// The badge of a run's state.
pub(crate) fn run_badge(state: RunState) -> Badge {
    match state {
        RunState::Queued => Badge::new("queued", "queued"),
        RunState::Running => Badge::new("running", "running"),
        RunState::Success => Badge::new("success", "success"),
        RunState::Failed => Badge::new("failed", "failed"),
        RunState::Cancelled => Badge::new("cancelled", "cancelled"),
    }
}

/// The badge of a task instance's state; a sleeping one is shown by its reason.
pub(crate) fn task_badge(state: TaskState, sleep: Option<SleepReason>) -> Badge {
    match state {
        TaskState::Waiting => Badge::new("waiting", "waiting"),
        TaskState::Queued => Badge::new("queued", "queued"),
        TaskState::Running => Badge::new("running", "running"),
        TaskState::Sleeping => match sleep {
            Some(SleepReason::Retry) => Badge::new("retry", "up for retry"),
            Some(SleepReason::Deferred) | None => Badge::new("sleeping", "deferred"),
            Some(SleepReason::Rescheduled) => Badge::new("sleeping", "rescheduled"),
        },
        TaskState::Success => Badge::new("success", "success"),
        TaskState::Failed => Badge::new("failed", "failed"),
        TaskState::Skipped => Badge::new("skipped", "skipped"),
        TaskState::UpstreamFailed => Badge::new("upstream", "upstream failed"),
        TaskState::Cancelled => Badge::new("cancelled", "cancelled"),
    }
}

/// The badge of an ended execution; `None` is one that went to sleep.
pub(crate) fn try_badge(outcome: Option<TryOutcome>) -> Badge {
    match outcome {
        None => Badge::new("sleeping", "slept"),
        Some(TryOutcome::Success) => Badge::new("success", "success"),
        Some(TryOutcome::Failed) => Badge::new("failed", "failed"),
        Some(TryOutcome::Skipped) => Badge::new("skipped", "skipped"),
        Some(TryOutcome::Cancelled) => Badge::new("cancelled", "cancelled"),
        Some(TryOutcome::Lost) => Badge::new("upstream", "worker lost"),
        Some(TryOutcome::Timeout) => Badge::new("failed", "timed out"),
    }
}

/// The badge of a process of the engine.
pub(crate) fn worker_badge(state: WorkerState) -> Badge {
    match state {
        WorkerState::Alive => Badge::new("success", "alive"),
        WorkerState::Stopping => Badge::new("paused", "stopping"),
        WorkerState::Lost => Badge::new("failed", "lost"),
        WorkerState::Ended => Badge::new("cancelled", "ended"),
    }
}

/// Why a run exists, in a word.
pub(crate) fn kind_word(kind: RunKind) -> &'static str {
    match kind {
        RunKind::Scheduled => "scheduled",
        RunKind::Manual => "manual",
        RunKind::Backfill => "backfill",
        RunKind::Dataset => "dataset",
    }
}

/// An instant: UTC in the page, made relative by the script, absolute again in the tooltip.
#[derive(Debug, Clone, Template)]
#[template(path = "parts/when.html")]
pub(crate) struct When {
    machine: String,
    text: String,
    relative: bool,
}
impl HtmlSafe for When {}

impl When {
    /// An instant that people want as a distance from now.
    pub(crate) fn relative(at: Option<DateTime<Utc>>) -> Self {
        Self {
            relative: true,
            ..Self::exact(at)
        }
    }

    /// An instant that people want as it is, such as a logical date.
    pub(crate) fn exact(at: Option<DateTime<Utc>>) -> Self {
        Self {
            machine: at
                .map(|at| at.to_rfc3339_opts(SecondsFormat::Secs, true))
                .unwrap_or_default(),
            text: at
                .map(|at| at.format("%Y-%m-%d %H:%M:%S UTC").to_string())
                .unwrap_or_default(),
            relative: false,
        }
    }
}

/// How long something took, or takes since an instant.
#[derive(Debug, Clone, Template)]
#[template(path = "parts/elapsed.html")]
pub(crate) struct Elapsed {
    since: String,
    text: String,
}
impl HtmlSafe for Elapsed {}

impl Elapsed {
    pub(crate) fn between(from: Option<DateTime<Utc>>, to: Option<DateTime<Utc>>) -> Self {
        match (from, to) {
            (Some(from), Some(to)) => Self {
                since: String::new(),
                text: duration((to - from).to_std().unwrap_or_default()),
            },
            (Some(from), None) => Self {
                since: from.to_rfc3339_opts(SecondsFormat::Millis, true),
                text: "in progress".to_owned(),
            },
            (None, _) => Self {
                since: String::new(),
                text: "–".to_owned(),
            },
        }
    }
}

/// A duration in at most two units: `340 ms`, `4.2 s`, `3 min 12 s`, `2 h 5 min`, `3 d 4 h`.
pub(crate) fn duration(duration: Duration) -> String {
    let millis = duration.as_millis();
    let seconds = duration.as_secs();
    match seconds {
        0 => format!("{millis} ms"),
        1..=9 => format!("{seconds}.{} s", (millis % 1000) / 100),
        10..=59 => format!("{seconds} s"),
        60..=3599 => two(seconds / 60, "min", seconds % 60, "s"),
        3600..=86399 => two(seconds / 3600, "h", seconds % 3600 / 60, "min"),
        _ => two(seconds / 86400, "d", seconds % 86400 / 3600, "h"),
    }
}

fn two(large: u64, large_unit: &str, small: u64, small_unit: &str) -> String {
    if small == 0 {
        format!("{large} {large_unit}")
    } else {
        format!("{large} {large_unit} {small} {small_unit}")
    }
}

/// JSON on several lines.
pub(crate) fn pretty(value: &Value) -> String {
    serde_json::to_string_pretty(value).expect("a JSON value can be written")
}

/// JSON on one line; a string without its quotes.
pub(crate) fn inline(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// Text with terminal escape sequences and control characters taken out: a task's output must not steer a terminal or a page.
pub fn plain(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    let mut characters = text.chars().peekable();
    while let Some(character) = characters.next() {
        match character {
            '\u{1b}' => match characters.next() {
                // A control sequence ends with a byte of @ to ~.
                Some('[') => {
                    while characters
                        .next()
                        .is_some_and(|next| !('\u{40}'..='\u{7e}').contains(&next))
                    {
                    }
                }
                // An operating system command ends with BEL or ESC \.
                Some(']') => {
                    while let Some(next) = characters.next() {
                        if next == '\u{7}' {
                            break;
                        }
                        if next == '\u{1b}' {
                            characters.next_if_eq(&'\\');
                            break;
                        }
                    }
                }
                _ => {}
            },
            '\t' | '\n' => plain.push(character),
            // Overrides of writing direction can make a line read as another.
            '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => plain.push('\u{fffd}'),
            control if control.is_control() => {}
            other => plain.push(other),
        }
    }
    plain
}

/// Where a connection leads, as `host:port/schema`, as far as it says so.
pub fn connection_place(shown: &ShownConnection) -> String {
    let mut place = shown.host.clone().unwrap_or_default();
    if let Some(port) = shown.port {
        place.push_str(&format!(":{port}"));
    }
    if let Some(schema) = &shown.schema {
        place.push_str(&format!("/{schema}"));
    }
    place
}

/// The first characters of a text, with an ellipsis when there are more.
pub(crate) fn shorten(text: &str, most: usize) -> String {
    if text.chars().count() <= most {
        return text.to_owned();
    }
    let mut short: String = text.chars().take(most.saturating_sub(1)).collect();
    short.push('…');
    short
}

/// A number of bytes in the unit that fits: `512 B`, `48.8 MiB`.
pub(crate) fn bytes(bytes: i64) -> String {
    const UNITS: [&str; 4] = ["KiB", "MiB", "GiB", "TiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let mut size = bytes as f64 / 1024.0;
    let mut unit = 0;
    while size >= 1024.0 && unit + 1 < UNITS.len() {
        size /= 1024.0;
        unit += 1;
    }
    format!("{size:.1} {}", UNITS[unit])
}

/// A share of the machine's cores: `0.25 cores`.
pub(crate) fn cores(cores: f32) -> String {
    format!("{cores:.2} cores")
}

/// A number and its noun.
pub(crate) fn count(number: usize, one: &str, many: &str) -> String {
    format!("{number} {}", if number == 1 { one } else { many })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_read_in_two_units() {
        let cases = [
            (0, "0 ms"),
            (999, "999 ms"),
            (4_250, "4.2 s"),
            (59_900, "59 s"),
            (60_000, "1 min"),
            (192_000, "3 min 12 s"),
            (7_500_000, "2 h 5 min"),
            (273_600_000, "3 d 4 h"),
        ];
        for (millis, text) in cases {
            assert_eq!(duration(Duration::from_millis(millis)), text);
        }
    }

    #[test]
    fn sizes_read_in_the_unit_that_fits() {
        let cases = [
            (0, "0 B"),
            (1_023, "1023 B"),
            (1_024, "1.0 KiB"),
            (51_200_000, "48.8 MiB"),
            (3_221_225_472, "3.0 GiB"),
            (i64::MAX, "8388608.0 TiB"),
        ];
        for (number, text) in cases {
            assert_eq!(bytes(number), text);
        }
    }

    #[test]
    fn escape_sequences_never_reach_the_page() {
        assert_eq!(plain("\u{1b}[1;31mred\u{1b}[0m\tx"), "red\tx");
        assert_eq!(
            plain("\u{1b}]8;;http://evil\u{7}link\u{1b}]8;;\u{1b}\\ end"),
            "link end"
        );
        assert_eq!(plain("a\0b\rc\u{202e}d\u{1b}"), "abc\u{fffd}d");
        assert_eq!(plain("naïve 日本語 ✓"), "naïve 日本語 ✓");
    }
}

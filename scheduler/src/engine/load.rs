//! What a process measures of itself and its machine for people: read from `/proc`, so told on Linux only.

use std::{
    fs,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

use crate::store::Load;

/// The unit of CPU times in `/proc`: USER_HZ, which the kernel shows as 100 whatever its own timer does.
const TICKS_PER_SECOND: f64 = 100.0;

/// CPU times move in steps of 10 ms; over less than this they tell nothing.
const SHORTEST: Duration = Duration::from_secs(1);

/// Measures the load; the share of the CPU counts from one measurement to the next.
#[derive(Debug, Default)]
pub(super) struct Meter {
    before: Mutex<Option<Reading>>,
}

#[derive(Debug, Clone, Copy)]
struct Reading {
    at: Instant,
    cpu: Duration,
    cores: Option<f32>,
}

impl Meter {
    pub(super) fn measure(&self) -> Load {
        let read = |path| fs::read_to_string(path).ok();
        let cpu = read("/proc/self/stat").and_then(|text| cpu_time(&text));
        Load {
            load_average: read("/proc/loadavg").and_then(|text| load_average(&text)),
            memory_bytes: read("/proc/self/status").and_then(|text| resident_bytes(&text)),
            cpu_cores: cpu.and_then(|cpu| self.cores_since(Instant::now(), cpu)),
        }
    }

    /// How many cores were used since the measurement before; `None` for the first. One that comes too soon gives the
    /// answer of the one before.
    fn cores_since(&self, now: Instant, cpu: Duration) -> Option<f32> {
        let mut before = self.before.lock().unwrap_or_else(PoisonError::into_inner);
        let cores = match *before {
            None => None,
            Some(reading) => {
                let wall = now.duration_since(reading.at);
                if wall < SHORTEST {
                    return reading.cores;
                }
                let used = cpu.saturating_sub(reading.cpu);
                Some((used.as_secs_f64() / wall.as_secs_f64()) as f32)
            }
        };
        *before = Some(Reading {
            at: now,
            cpu,
            cores,
        });
        cores
    }
}

/// The load average of one minute in `/proc/loadavg`.
fn load_average(text: &str) -> Option<f32> {
    text.split_whitespace().next()?.parse().ok()
}

/// The resident memory in `/proc/self/status`, which gives it in units of 1,024 bytes.
fn resident_bytes(text: &str) -> Option<i64> {
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kibibytes: i64 = line.split_whitespace().next()?.parse().ok()?;
    kibibytes.checked_mul(1024)
}

/// The CPU time of all threads in `/proc/self/stat`: its 14th and 15th field, user and system. The second is the name of
/// the program in parentheses, and may itself hold blanks and parentheses.
fn cpu_time(text: &str) -> Option<Duration> {
    let (_, after_name) = text.rsplit_once(')')?;
    let mut fields = after_name.split_whitespace().skip(11);
    let user: f64 = fields.next()?.parse().ok()?;
    let system: f64 = fields.next()?.parse().ok()?;
    Duration::try_from_secs_f64((user + system) / TICKS_PER_SECOND).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_words_are_read() {
        assert_eq!(load_average("0.37 1.20 0.90 2/345 6789\n"), Some(0.37));
        let status = "Name:\tpinwheel\nVmPeak:\t  999 kB\nVmRSS:\t   51200 kB\nThreads:\t8\n";
        assert_eq!(resident_bytes(status), Some(52_428_800));
        let stat = "42 (a (b) c) S 1 42 42 0 -1 4194560 1 2 3 4 150 50 0 0 20 0 8 0 1 2 3";
        assert_eq!(cpu_time(stat), Some(Duration::from_secs(2)));
    }

    #[test]
    fn what_cannot_be_read_is_not_told() {
        for text in ["", "nonsense", "x 1 (x) S 1 2", "VmRSS:"] {
            assert_eq!(load_average(text), None);
            assert_eq!(resident_bytes(text), None);
            assert_eq!(cpu_time(text), None);
        }
    }

    #[test]
    fn cpu_counts_from_one_measurement_to_the_next() {
        let meter = Meter::default();
        let start = Instant::now();
        let cores = |seconds, cpu_seconds| {
            meter.cores_since(
                start + Duration::from_secs_f64(seconds),
                Duration::from_secs(cpu_seconds),
            )
        };
        assert_eq!(cores(0.0, 7), None);
        assert_eq!(cores(10.0, 22), Some(1.5));
        assert_eq!(cores(10.2, 23), Some(1.5), "too soon to tell");
        assert_eq!(cores(20.0, 22), Some(0.0));
    }
}

//! Measures how many processes a second the kind starts, beside a bare loop that forks, executes and waits. Run it by hand:
//! `cargo test -p pinwheel-tasks shell::rate -- --ignored --nocapture`.

use std::{
    process::{Command, Stdio},
    thread,
    time::Instant,
};

use serde_json::json;

use super::{
    Shell,
    tests::{context, table},
};
use crate::{
    Kind, Outcome,
    warden::{self, Warden},
};

const PROCESSES: usize = 4_000;
/// What a worker has in memory, about; `fork` copies its page tables.
const WORKER_BYTES: usize = 200 * 1024 * 1024;

#[test]
#[ignore = "it measures and proves nothing"]
fn shell_tasks_a_second() {
    let memory = vec![1_u8; WORKER_BYTES];
    let this = std::env::current_exe().unwrap();
    let serve = [
        "--ignored",
        "--exact",
        "shell::rate::warden_of_the_measurement",
    ];
    let guarded = Shell::guarded_by(Warden::new(this, serve));
    for at_once in [8, 16] {
        measure("bare", at_once, bare);
        measure("kind", at_once, |at_once| kind(at_once, &Shell::default()));
        measure("guarded kind", at_once, |at_once| kind(at_once, &guarded));
    }
    drop(memory);
}

/// Another process of this test binary.
#[test]
#[ignore = "only the measurement starts it"]
fn warden_of_the_measurement() {
    warden::serve();
}

/// On a machine that does other things as well, the processor's time says more than the clock's.
fn measure(name: &str, at_once: usize, run: impl FnOnce(usize)) {
    let (started, used) = (Instant::now(), processor_seconds());
    run(at_once);
    let seconds = started.elapsed().as_secs_f64();
    let each = |seconds: f64| 1e6 * seconds / PROCESSES as f64;
    let [own, children] = [0, 1].map(|part| each(processor_seconds()[part] - used[part]));
    println!(
        "{at_once} at once, {name}: {:.0}/s, processor {:.0} µs each ({own:.0} own, {children:.0} of the children)",
        PROCESSES as f64 / seconds,
        own + children
    );
}

/// Of this process and of its children that were waited for. See `proc(5)`.
fn processor_seconds() -> [f64; 2] {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let (_, fields) = stat.rsplit_once(')').unwrap();
    let ticks: Vec<f64> = fields
        .split_ascii_whitespace()
        .skip(11)
        .take(4)
        .map(|ticks| ticks.parse().unwrap())
        .collect();
    [(ticks[0] + ticks[1]) / 100.0, (ticks[2] + ticks[3]) / 100.0]
}

fn bare(at_once: usize) {
    thread::scope(|scope| {
        for _ in 0..at_once {
            scope.spawn(|| {
                for _ in 0..PROCESSES / at_once {
                    let status = Command::new("/bin/true").stdin(Stdio::null()).status();
                    assert!(status.unwrap().success());
                }
            });
        }
    });
}

fn kind(at_once: usize, shell: &Shell) {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let mut lanes = tokio::task::JoinSet::new();
        for _ in 0..at_once {
            let shell = shell.clone();
            lanes.spawn(async move {
                for _ in 0..PROCESSES / at_once {
                    let (context, _lines) = context(json!({}));
                    let with = table(json!({"command": ["true"]}));
                    assert_eq!(shell.run(&context, with).await, Ok(Outcome::success()));
                }
            });
        }
        lanes.join_all().await;
    });
}

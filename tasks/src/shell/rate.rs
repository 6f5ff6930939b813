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
use crate::{Kind, Outcome, warden};

const PROCESSES: usize = 4_000;
/// What a worker has in memory, about; `fork` copies its page tables.
const WORKER_BYTES: usize = 200 * 1024 * 1024;

#[test]
#[ignore = "it measures and proves nothing"]
fn shell_tasks_a_second() {
    let memory = vec![1_u8; WORKER_BYTES];
    for at_once in [8, 16] {
        let bare = bare(at_once);
        let free = kind(at_once, &Shell::default());
        let folder = tempfile::tempdir().unwrap();
        let guarded = kind(
            at_once,
            &Shell::guarded_by(warden::tests::scribe(folder.path())),
        );
        println!(
            "{at_once} at once: bare {bare:.0}/s, kind {free:.0}/s ({:.0} %), guarded {guarded:.0}/s ({:.0} %)",
            100.0 * free / bare,
            100.0 * guarded / bare
        );
    }
    drop(memory);
}

fn bare(at_once: usize) -> f64 {
    let started = Instant::now();
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
    PROCESSES as f64 / started.elapsed().as_secs_f64()
}

fn kind(at_once: usize, shell: &Shell) -> f64 {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .unwrap();
    let started = Instant::now();
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
    PROCESSES as f64 / started.elapsed().as_secs_f64()
}

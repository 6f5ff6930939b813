//! `pinwheel emulate` as a command: what it writes, and that its three files belong to each other.

use std::{
    path::Path,
    process::{Command, Output},
};

use serde_json::Value;

use crate::harness::PINWHEEL;

const PINS: &str = include_str!("../../data/pins.ndjson");

fn emulate(folder: &Path, arguments: &[&str]) -> Output {
    Command::new(PINWHEEL)
        .args(["emulate", "--write"])
        .arg(folder)
        .args(arguments)
        .env_clear()
        .current_dir(folder)
        .output()
        .expect("the binary starts")
}

fn lines(folder: &Path, name: &str) -> Vec<Value> {
    std::fs::read_to_string(folder.join(name))
        .expect("the file was written")
        .lines()
        .map(|line| serde_json::from_str(line).expect("each line is JSON"))
        .collect()
}

#[test]
fn the_original_emulator_begins_with_the_real_pins_and_their_places_and_users() {
    let folder = tempfile::tempdir().expect("a folder");
    let written = emulate(
        folder.path(),
        &[
            "--original",
            "--count",
            "200",
            "--records",
            "pins,geo,users",
        ],
    );
    assert!(written.status.success(), "{written:?}");
    let pins = std::fs::read_to_string(folder.path().join("pins.ndjson")).expect("pins");
    assert_eq!(pins, PINS);
    let pins = lines(folder.path(), "pins.ndjson");
    for name in ["geo.ndjson", "users.ndjson"] {
        let others = lines(folder.path(), name);
        assert_eq!(others.len(), pins.len(), "{name}");
        for (pin, other) in pins.iter().zip(&others) {
            assert_eq!(pin["index"], other["ind"], "{name}");
        }
    }
}

#[test]
fn what_never_ends_is_not_written() {
    let folder = tempfile::tempdir().expect("a folder");
    let refused = emulate(folder.path(), &["--original"]);
    assert_eq!(refused.status.code(), Some(2), "{refused:?}");
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(said.contains("--count"), "{said}");
}

//! `python` with the machine's own interpreter.

use std::{fs, process::Command};

use pinwheel_tasks::{FailureClass, Kind, Python, Shell};
use serde_json::{Value, json};

use crate::world::{World, output, table};

fn kind(folder: &std::path::Path) -> Python {
    let found = Command::new("python3").arg("--version").output();
    assert!(
        found.is_ok_and(|output| output.status.success()),
        "these tests need `python3` in PATH"
    );
    Python::new(Shell::default(), folder)
}

const READ_EVERYTHING: &str = r#"
import json, os, sys
read = lambda name: json.load(open(os.environ[name]))
print("read it")
json.dump({
    "params": read("PINWHEEL_PARAMS"),
    "inputs": read("PINWHEEL_INPUTS"),
    "run": read("PINWHEEL_RUN"),
    "date": os.environ["PINWHEEL_LOGICAL_DATE"],
    "arguments": sys.argv[1:],
    "mine": os.environ["MINE"],
    "others": "CARGO" in os.environ,
}, open(os.environ["PINWHEEL_OUTPUT"], "w"))
"#;

fn everything(arguments: Value) -> Value {
    json!({
        "params": {"n": 3},
        "inputs": {"land": {"records": 5, "files": ["ü"]}},
        "run": {
            "dag_id": "pins", "run_id": 7, "task_id": "load", "try_number": 2,
            "logical_date": "2026-01-01T02:00:00Z",
            "data_interval_start": "2026-01-01T02:00:00Z",
            "data_interval_end": "2026-01-02T02:00:00Z",
        },
        "date": "2026-01-01T02:00:00Z",
        "arguments": arguments,
        "mine": "'quoted' $HOME",
        "others": false,
    })
}

#[tokio::test]
async fn a_script_finds_its_values_in_files_and_writes_its_output_to_one() {
    let folder = tempfile::tempdir().unwrap();
    let world = World::new();
    let with = json!({
        "script": READ_EVERYTHING,
        "inputs": {"land": {"records": 5, "files": ["ü"]}},
        "arguments": ["a b", "$(id)"],
        "env": {"MINE": "'quoted' $HOME"},
    });
    let outcome = world.run(&kind(folder.path()), with).await;
    assert_eq!(output(outcome), everything(json!(["a b", "$(id)"])));
    assert_eq!(*world.said.lock().unwrap(), ["out: read it"]);
}

#[tokio::test]
async fn a_script_of_the_dag_folder_may_import_what_lies_beside_it() {
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir(folder.path().join("scripts")).unwrap();
    fs::write(folder.path().join("scripts/everything.py"), READ_EVERYTHING).unwrap();
    fs::write(folder.path().join("scripts/main.py"), "import everything").unwrap();
    let with = json!({
        "file": "scripts/main.py",
        "interpreter": ["python3", "-B"],
        "inputs": {"land": {"records": 5, "files": ["ü"]}},
        "env": {"MINE": "'quoted' $HOME"},
    });
    let outcome = World::new().run(&kind(folder.path()), with).await;
    assert_eq!(output(outcome), everything(json!([])));
    let failure = World::new()
        .run(&kind(folder.path()), json!({"file": "scripts/none.py"}))
        .await
        .unwrap_err();
    assert_eq!(failure.class, FailureClass::Permanent);
}

#[tokio::test]
async fn another_interpreter_runs_another_language() {
    let folder = tempfile::tempdir().unwrap();
    let with = json!({
        "interpreter": "/bin/sh",
        "script": "printf '{\"n\": %s}' \"$#\" > \"$PINWHEEL_OUTPUT\"",
        "arguments": ["x", "y"],
    });
    let outcome = World::new().run(&kind(folder.path()), with).await;
    assert_eq!(output(outcome), json!({"n": 2}));
}

#[tokio::test]
async fn the_last_words_of_a_traceback_are_the_failure() {
    let folder = tempfile::tempdir().unwrap();
    let with = json!({"script": "def f():\n    raise ValueError('no pins')\nf()"});
    let world = World::new();
    let failure = world.run(&kind(folder.path()), with).await.unwrap_err();
    assert_eq!(
        failure.message,
        "the script exited with code 1: ValueError: no pins"
    );
    assert_eq!(
        (failure.class, failure.exit_code),
        (FailureClass::Retryable, Some(1))
    );
    let said = world.said.lock().unwrap().join("\n");
    assert!(said.contains("script.py\", line 2, in f"), "{said}");
    let with = json!({"script": "pass", "interpreter": "python-of-nobody"});
    let failure = world.run(&kind(folder.path()), with).await.unwrap_err();
    assert_eq!(failure.class, FailureClass::Permanent);
}

#[test]
fn a_task_without_one_script_is_refused_when_the_file_is_read() {
    let kind = Python::new(Shell::default(), "nowhere");
    for with in [
        json!({}),
        json!({"script": "x", "file": "x.py"}),
        json!({"script": "  "}),
        json!({"file": "../x.py"}),
        json!({"file": "/x.py"}),
        json!({"script": "x", "interpreter": []}),
        json!({"script": "x", "inputs": ["land"]}),
        json!({"script": "x", "env": {"PINWHEEL_RUN": "x"}}),
    ] {
        assert_eq!(kind.check(&table(with.clone())).len(), 1, "{with}");
    }
}

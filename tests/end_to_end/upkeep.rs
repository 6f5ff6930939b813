//! Looking after the database over the command line, while everything runs.

use std::{fs, sync::LazyLock};

use serde_json::{Value, json};

use crate::harness::{Standalone, fresh_directory, text};

static KEPT_UP: LazyLock<Standalone> = LazyLock::new(|| {
    let folder = fresh_directory("upkeep");
    let dags = folder.join("dags");
    fs::create_dir(&dags).expect("the folder is new");
    for id in ["checked", "pruned"] {
        let dag = format!(
            "[dag]\nid = \"{id}\"\n[tasks.one]\nkind = \"noop\"\n[tasks.two]\nkind = \"noop\"\nafter = [\"one\"]\n"
        );
        fs::write(dags.join(format!("{id}.toml")), dag).expect("the folder can be written");
    }
    Standalone::start(folder.join("data"), dags)
});

fn run_of(dag: &str) {
    let output = KEPT_UP.pinwheel(&["dags", "trigger", dag, "--wait"]);
    assert!(output.status.success(), "{}", text(&output));
}

#[test]
fn what_is_wrong_is_found_told_and_mended() {
    run_of("checked");
    // What a sleep left behind for a task instance that does not exist: wrong, and nobody looks at it meanwhile.
    KEPT_UP.psql("insert into resume (instance_id, resume) values (987654321, '{}')");
    let output = KEPT_UP.pinwheel(&["db", "check"]);
    let said = text(&output);
    assert_eq!(output.status.code(), Some(1), "{said}");
    for words in [
        "resume_extra",
        "task instance 987654321",
        "forget it",
        "1 finding",
        "--repair",
    ] {
        assert!(said.contains(words), "`{words}` in {said}");
    }
    let output = KEPT_UP.pinwheel(&["db", "check", "--json"]);
    assert_eq!(output.status.code(), Some(1), "{}", text(&output));
    let found: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(found["consistent"], false);
    assert_eq!(found["findings"][0]["kind"], "resume_extra");

    let repaired = KEPT_UP.json(&["db", "check", "--repair", "--json"]);
    assert_eq!(repaired["repair"]["left"]["consistent"], true, "{repaired}");
    let output = KEPT_UP.pinwheel(&["db", "check"]);
    assert!(output.status.success(), "{}", text(&output));
    assert!(text(&output).contains("the database is consistent: "));
    assert_eq!(
        KEPT_UP.psql("select count(*) from audit where action = 'repair'"),
        ["1"]
    );
}

#[test]
fn a_prune_says_what_it_would_remove_and_then_removes_it() {
    run_of("pruned");
    KEPT_UP.psql(
        "update run set created_at = created_at - interval '40 days', started_at = started_at - interval '40 days', \
         finished_at = finished_at - interval '40 days' where dag_id = 'pruned'",
    );
    let runs = |arguments: &[&str]| KEPT_UP.json(arguments)["removed"]["runs"].clone();
    assert_eq!(runs(&["db", "prune", "--json"]), json!(0), "not by default");
    let more = [
        "db",
        "prune",
        "--older-than",
        "30d",
        "--keep",
        "0",
        "--json",
    ];
    assert_eq!(runs(&[&more[..], &["--dry-run"]].concat()), json!(1));
    assert_eq!(runs(&more), json!(1));
    assert_eq!(
        KEPT_UP.json(&["runs", "list", "--dag", "pruned", "--json"]),
        json!([])
    );
    let output = KEPT_UP.pinwheel(&["db", "prune", "--older-than", "90"]);
    assert_eq!(output.status.code(), Some(2), "{}", text(&output));
    assert!(text(&output).contains("has no unit"), "{}", text(&output));
}

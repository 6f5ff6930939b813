//! People steer runs: over the command line, the API and the pages in a real browser.

use std::{fs, path::PathBuf, process::Output, sync::LazyLock};

use serde_json::{Value, json};

use crate::{
    browser::Browser,
    harness::{Standalone, fresh_directory, text},
};

struct Steered {
    standalone: Standalone,
    dags: PathBuf,
    /// The task `work` of the DAG `mended` fails until this file exists.
    mended: PathBuf,
}

static STEERED: LazyLock<Steered> = LazyLock::new(|| {
    let folder = fresh_directory("steering");
    let dags = folder.join("dags");
    fs::create_dir(&dags).expect("the folder is new");
    let mended = folder.join("mended");
    let write = |name: &str, text: &str| {
        fs::write(dags.join(name), text).expect("the folder can be written")
    };
    write("greet.toml", GREET);
    write("kept.toml", KEPT);
    write("ranged.toml", RANGED);
    write(
        "mended.toml",
        &format!(
            "[dag]\nid = \"mended\"\n[tasks.work]\nkind = \"shell\"\nwith = {{ command = [\"test\", \"-e\", \"{}\"] }}\n\
             [tasks.after]\nkind = \"noop\"\nafter = [\"work\"]\n",
            mended.display()
        ),
    );
    Steered {
        standalone: Standalone::start(folder.join("data"), dags.clone()),
        dags,
        mended,
    }
});

const GREET: &str = r#"
[dag]
id = "greet"
description = "Says hello"

[params.name]
type = "string"
default = "world"

[params.times]
type = "integer"
default = 1
minimum = 1
maximum = 3

[tasks.hello]
kind = "shell"
with = { script = "for i in $(seq $TIMES); do echo \"hello <b>$NAME</b>\"; done", env = { NAME = "{{ params.name }}", TIMES = "{{ params.times }}" } }

[tasks.done]
kind = "noop"
after = ["hello"]
"#;

const KEPT: &str = "[dag]\nid = \"kept\"\n[tasks.only]\nkind = \"noop\"\n";

const RANGED: &str = r#"
[dag]
id = "ranged"
schedule = "@daily"

[params.bad]
type = "string"
default = "never"

[tasks.only]
kind = "shell"
with = { command = ["test", "{{ ds }}", "!=", "{{ params.bad }}"] }
"#;

#[test]
fn a_range_of_dates_is_backfilled_and_what_failed_runs_again() {
    let standalone = &STEERED.standalone;
    let range = ["--from", "2026-01-01", "--to", "2026-01-05", "--json"];
    let backfill = |more: &[&str]| {
        let mut arguments = vec!["backfill", "create", "ranged"];
        arguments.extend(range);
        arguments.extend(more);
        standalone.pinwheel(&arguments)
    };
    let read = |output: &Output| -> Value {
        serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{}", text(output)))
    };
    let planned = read(&backfill(&["--dry-run"]));
    let actions: Vec<_> = planned["dates"]
        .as_array()
        .expect("a list of dates")
        .iter()
        .map(|date| date["action"].as_str().expect("an action"))
        .collect();
    assert_eq!(actions, ["make"; 5]);

    let failed = backfill(&[
        "--max-active-runs",
        "2",
        "--param",
        "bad=2026-01-03",
        "--wait",
    ]);
    assert_eq!(failed.status.code(), Some(1), "{}", text(&failed));
    let first = read(&failed);
    assert_eq!(
        (&first["state"], &first["progress"]["failed"]),
        (&json!("failed"), &json!(1))
    );
    assert_eq!(first["progress"]["success"], 4);

    let again = backfill(&["--reprocess", "failed", "--param", "bad=never", "--wait"]);
    assert_eq!(again.status.code(), Some(0), "{}", text(&again));
    let second = read(&again);
    assert_eq!(second["progress"]["success"], 1);
    assert_eq!(second["progress"]["left_alone"], 4);
    let runs = standalone.json(&[
        "runs", "list", "--dag", "ranged", "--state", "success", "--json",
    ]);
    assert_eq!(runs.as_array().expect("a list of runs").len(), 5, "{runs}");
    let nothing = backfill(&[]);
    assert_eq!(nothing.status.code(), Some(2), "{}", text(&nothing));
}

#[test]
fn a_trigger_that_waits_answers_the_run_and_every_final_state() {
    let run = STEERED.standalone.json(&[
        "dags", "trigger", "greet", "--param", "name=Ada", "--param", "times=2", "--wait", "--json",
    ]);
    assert_eq!(run["state"], "success", "{run}");
    assert_eq!(
        run["tasks"],
        json!({ "hello": "success", "done": "success" })
    );
    let log = STEERED
        .standalone
        .pinwheel(&["logs", &run["run_id"].to_string(), "hello"]);
    let log = String::from_utf8(log.stdout).expect("logs are UTF-8");
    assert_eq!(log.matches("hello <b>Ada</b>").count(), 2, "{log}");
}

#[test]
fn a_param_out_of_range_makes_no_run_and_is_named() {
    let output = STEERED
        .standalone
        .pinwheel(&["dags", "trigger", "greet", "--param", "times=9"]);
    assert_eq!(output.status.code(), Some(2), "{}", text(&output));
    assert!(
        String::from_utf8_lossy(&output.stderr).contains("times"),
        "{}",
        text(&output)
    );
}

#[tokio::test]
async fn a_failed_task_is_retried_over_the_api_with_what_is_downstream() {
    let Steered {
        standalone, mended, ..
    } = &*STEERED;
    let output = standalone.pinwheel(&["dags", "trigger", "mended", "--wait", "--json"]);
    assert_eq!(
        output.status.code(),
        Some(1),
        "a failed run is exit code 1: {}",
        text(&output)
    );
    let run: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(
        run["tasks"],
        json!({ "work": "failed", "after": "upstream_failed" })
    );

    fs::write(mended, "").expect("the folder can be written");
    let run_id = run["run_id"].to_string();
    let retry = standalone.url(&format!("/api/v1/runs/{run_id}/tasks/work/retry"));
    let answer = reqwest::Client::new()
        .post(retry)
        .json(&json!({}))
        .send()
        .await
        .expect("the API answers");
    assert!(
        answer.status().is_success(),
        "{}",
        answer.text().await.unwrap_or_default()
    );

    // `--follow` returns when the task is final.
    standalone.pinwheel(&["logs", &run_id, "after", "--follow"]);
    let run = standalone.json(&["runs", "show", &run_id, "--json"]);
    assert_eq!(run["state"], "success", "{run}");
    let tasks = run["tasks"].as_array().expect("a list of tasks");
    let states: Vec<_> = tasks
        .iter()
        .map(|task| (task["task_id"].as_str(), task["state"].as_str()))
        .collect();
    assert_eq!(
        states,
        [
            (Some("work"), Some("success")),
            (Some("after"), Some("success"))
        ]
    );
}

#[test]
fn a_broken_file_keeps_the_last_good_version_running() {
    let Steered {
        standalone, dags, ..
    } = &*STEERED;
    fs::write(dags.join("kept.toml"), KEPT.replace("noop", "nop"))
        .expect("the folder can be written");
    let checked = standalone.pinwheel(&["dags", "check", dags.to_str().expect("UTF-8")]);
    assert_eq!(checked.status.code(), Some(2), "{}", text(&checked));
    let said = text(&checked);
    assert!(
        said.contains("kept.toml:4") && said.contains("`nop`") && said.contains("noop"),
        "{said}"
    );
    let run = standalone.json(&["dags", "trigger", "kept", "--wait", "--json"]);
    assert_eq!(run["state"], "success", "{run}");
}

#[tokio::test]
async fn a_person_triggers_a_run_in_the_browser_and_watches_it_end() {
    let standalone = &STEERED.standalone;
    let browser = Browser::start().await;
    browser.open(&standalone.url("/")).await;
    browser.open(&standalone.url("/dags/greet")).await;
    browser.click("#trigger button.primary").await;
    // The run page redraws itself; nothing reloads it here.
    browser.wait_until("location.pathname.startsWith('/runs/') && [...document.querySelectorAll('h1 .badge, .head .badge')].some(badge => badge.innerText.includes('success'))").await;
    let graph = browser
        .script("return document.querySelector('[data-region=graph] svg') !== null")
        .await;
    assert_eq!(graph, json!(true), "the run page shows its graph");

    let run = browser.script("return location.pathname").await;
    browser
        .open(&standalone.url(&format!("{}/tasks/hello", run.as_str().expect("a path"))))
        .await;
    browser
        .wait_until("document.body.innerText.includes('hello <b>world</b>')")
        .await;
    assert_eq!(browser.complaints().await, Vec::<String>::new());
    browser.quit().await;
}

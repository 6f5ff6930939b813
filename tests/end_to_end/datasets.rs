//! Runs after datasets: over the command line, the API and the pages of a real Pinwheel, by the example DAGs.

use serde_json::{Value, json};

use crate::harness::{Standalone, fresh_directory, project, text};

/// The examples that are run here.
pub(crate) const FILES: [&str; 2] = ["datasets_read", "datasets_write"];

#[tokio::test]
async fn what_the_examples_update_makes_a_run_that_reads_what_came() {
    let folder = fresh_directory("datasets");
    let standalone = Standalone::start(folder, project().join("dags/examples"));
    let pushed = standalone.json(&[
        "datasets",
        "push",
        "example://pins",
        "--extra",
        "{\"rows\": 7}",
        "--json",
    ]);
    assert_eq!(pushed["runs"], json!([]), "users are still to come");
    let shown = standalone.json(&["datasets", "show", "example://pins", "--json"]);
    assert_eq!(shown["sets"][0]["members"][0]["events"], 1);

    let wrote = standalone.json(&[
        "dags",
        "trigger",
        "datasets_write",
        "--param",
        "rows=12",
        "--wait",
        "--json",
    ]);
    assert_eq!(wrote["state"], "success", "{wrote}");
    // It was made in the transaction that settled the last task, so it is there.
    let runs = standalone.json(&["runs", "list", "--dag", "datasets_read", "--json"]);
    let runs = runs.as_array().expect("a list");
    assert_eq!(runs.len(), 1, "{runs:?}");
    assert_eq!(runs[0]["kind"], "dataset");
    let run = runs[0]["run_id"].to_string();
    let log = standalone.pinwheel(&["logs", &run, "report", "--follow"]);
    let log = text(&log);
    assert!(
        log.contains("2 updates of pins, the last with 12 rows"),
        "{log}"
    );

    let api = standalone.url(&format!("/api/v1/runs/{run}/datasets"));
    let made_by: Value = reqwest::get(api)
        .await
        .expect("the API answers")
        .json()
        .await
        .expect("JSON");
    let datasets: Vec<&Value> = made_by["events"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|event| &event["dataset"])
        .collect();
    assert_eq!(
        datasets,
        ["example://users", "example://pins", "example://pins"]
    );
    for (page, words) in [
        ("/datasets", "example://users"),
        ("/dags/datasets_read", "still to come"),
        (&format!("/runs/{run}"), "Made by 3 events"),
    ] {
        let page = reqwest::get(standalone.url(page)).await.expect("a page");
        let page = page.text().await.expect("text");
        assert!(page.contains(words), "{words}: {page}");
    }

    let unknown = standalone.pinwheel(&["datasets", "push", "example://pin"]);
    assert_eq!(unknown.status.code(), Some(2), "{}", text(&unknown));
    assert!(
        text(&unknown).contains("did you mean `example://pins`?"),
        "{}",
        text(&unknown)
    );
}

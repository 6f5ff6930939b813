//! The example DAGs of how work flows, through the binary: once without a server and once by an engine, to the same end.

use std::{
    collections::BTreeSet,
    fs,
    sync::{
        LazyLock,
        atomic::{AtomicUsize, Ordering},
    },
};

use serde_json::{Value, json};

use crate::{
    datasets,
    harness::{Standalone, fresh_directory, pinwheel, project, text},
    kinds,
};

/// The examples that need nothing outside, their DAGs, and what they come to.
fn examples() -> Vec<(&'static str, &'static str, Value)> {
    vec![
        (
            "branch",
            "branch",
            json!({ "decide": "success", "at_once": "success", "in_parts": "skipped", "done": "success" }),
        ),
        (
            "conditions",
            "example_conditions",
            json!({ "load": "success", "rebuild": "skipped", "report": "success" }),
        ),
        (
            "depends_on_previous",
            "example_depends_on_previous",
            json!({ "import": "success", "balance": "success" }),
        ),
        (
            "groups",
            "example_groups",
            json!({
                "prepare": "success", "extract.users": "success", "extract.orders": "success",
                "extract.check": "success", "report": "success",
            }),
        ),
        (
            "setup_teardown",
            "example_setup_teardown",
            json!({ "create": "success", "load": "success", "drop": "success", "report": "success" }),
        ),
        (
            "trigger_rules",
            "example_trigger_rules",
            json!({ "load": "success", "check": "success", "alarm": "skipped", "tidy": "success" }),
        ),
        (
            "retries",
            "retries",
            json!({
                "flaky": "success", "hopeless": "failed", "optional": "failed", "pause": "success", "summary": "success",
            }),
        ),
        (
            "variables",
            "example_variables",
            json!({ "show": "success", "connect": "success" }),
        ),
        (
            "backfilled",
            "backfilled",
            json!({ "count": "success", "done": "success" }),
        ),
        (
            "deadline",
            "deadline",
            json!({ "load": "success", "report": "success" }),
        ),
        (
            "every_minute",
            "every_minute",
            json!({ "interval": "success" }),
        ),
        (
            "hello",
            "hello",
            json!({ "prepare": "success", "greet": "success", "tidy_up": "success" }),
        ),
    ]
}

/// Those whose schedules would come between: they run without a server alone.
fn scheduled_examples() -> [(&'static str, Value); 2] {
    [
        ("schedules", json!({ "interval": "success" })),
        ("skip_overlap", json!({ "slow": "success" })),
    ]
}

static HOUSE: LazyLock<Standalone> = LazyLock::new(|| {
    let folder = fresh_directory("examples");
    let dags = folder.join("dags");
    fs::create_dir(&dags).expect("the folder is new");
    let files = examples().into_iter().map(|(file, ..)| file);
    for name in files.chain(["foreach"]) {
        let file = format!("{name}.toml");
        fs::copy(project().join("dags/examples").join(&file), dags.join(file))
            .expect("there is such an example");
    }
    Standalone::start(folder.join("data"), dags)
});

fn in_process(file: &str, more: &[&str]) -> (Value, bool) {
    let path = project().join(format!("dags/examples/{file}.toml"));
    let path = path.to_str().expect("the path is text");
    static COUNT: AtomicUsize = AtomicUsize::new(0);
    let number = COUNT.fetch_add(1, Ordering::Relaxed);
    let folder = fresh_directory(&format!("dags-test-{number}"));
    let arguments = [&["dags", "test", path, "--json"], more].concat();
    let output = pinwheel(&arguments, &folder, &[]);
    let report = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("{error}: {}", text(&output)));
    (report, output.status.success())
}

#[test]
fn every_example_of_flow_comes_to_its_states_without_a_server() {
    for (file, _, states) in examples() {
        let (report, succeeded) = in_process(file, &[]);
        assert!(succeeded, "{file}: {report}");
        assert_eq!(report["state"], "success", "{file}");
        assert_eq!(report["tasks"], states, "{file}");
    }
}

#[test]
fn an_example_that_a_schedule_runs_can_be_tried_alone() {
    for (file, states) in scheduled_examples() {
        let (report, succeeded) = in_process(file, &["--date", "2026-10-25"]);
        assert!(succeeded, "{file}: {report}");
        assert_eq!(report["tasks"], states, "{file}");
    }
}

#[test]
fn every_example_is_good_and_is_run_by_a_test() {
    let folder = fresh_directory("check-examples");
    let checked = pinwheel(&["dags", "check", "dags/examples", "--json"], &folder, &[]);
    assert!(checked.status.success(), "{}", text(&checked));
    let run: BTreeSet<&str> = examples()
        .into_iter()
        .map(|(file, ..)| file)
        .chain(scheduled_examples().map(|(file, _)| file))
        .chain(kinds::FILES)
        .chain(datasets::FILES)
        .chain(["foreach"])
        .collect();
    let there: BTreeSet<String> = fs::read_dir(project().join("dags/examples"))
        .expect("the examples are there")
        .map(|entry| entry.expect("it can be read").path())
        .filter(|path| path.extension().is_some_and(|end| end == "toml"))
        .map(|path| {
            let stem = path.file_stem().and_then(|stem| stem.to_str());
            stem.expect("names are text").to_owned()
        })
        .collect();
    assert!(there.iter().map(String::as_str).eq(run), "{there:?}");
}

#[test]
fn an_engine_brings_them_to_the_same_states() {
    for (_, dag, states) in examples() {
        let run = HOUSE.json(&["dags", "trigger", dag, "--wait", "--json"]);
        assert_eq!(run["state"], "success", "{run}");
        assert_eq!(run["tasks"], states, "{dag}");
    }
}

#[test]
fn mocks_stand_in_for_tasks() {
    let (report, succeeded) = in_process("branch", &["--mock", "decide=branch:in_parts"]);
    assert!(succeeded);
    assert_eq!(report["tasks"]["at_once"], "skipped");
    let (report, succeeded) = in_process("setup_teardown", &["--mock", "load=failed"]);
    assert!(!succeeded, "a failed run is exit code 1");
    assert_eq!(report["state"], "failed");
    assert_eq!(
        report["tasks"],
        json!({ "create": "success", "load": "failed", "drop": "success", "report": "upstream_failed" })
    );
    let (report, _) = in_process("setup_teardown", &["--mock", "create=skipped"]);
    assert_eq!(report["tasks"]["drop"], "skipped");
}

#[test]
fn a_list_becomes_items_here_and_there() {
    let (report, succeeded) = in_process("foreach", &[]);
    assert!(succeeded, "{report}");
    assert_eq!(
        report["items"]["measure"],
        json!(["success", "success", "success"])
    );
    let run = HOUSE.json(&["dags", "trigger", "example_foreach", "--wait", "--json"]);
    assert_eq!(run["state"], "success", "{run}");
    assert_eq!(run["tasks"]["measure[2]"], "success");
    let said = HOUSE.psql(&format!(
        "select l.message from log_line l join task_instance i using (instance_id) where i.run_id = {} and l.message like '%in all'",
        run["run_id"]
    ));
    assert_eq!(said, ["15 characters in all"]);
    let id = run["run_id"].to_string();
    let cleared = HOUSE.json(&[
        "runs",
        "clear",
        &id,
        "--task",
        "measure",
        "--item",
        "1",
        "--only",
        "--dry-run",
        "--json",
    ]);
    assert_eq!(
        cleared["instances"].as_array().map(Vec::len),
        Some(1),
        "{cleared}"
    );
}

#[test]
fn one_item_is_marked_and_read_by_its_number() {
    let run = HOUSE.json(&["dags", "trigger", "example_foreach", "--wait", "--json"]);
    let id = run["run_id"].to_string();
    let state = |item: &str| {
        let why = HOUSE.json(&["why", &id, "measure", "--item", item, "--json"]);
        why["state"].clone()
    };
    let marked = HOUSE.pinwheel(&[
        "runs", "mark", &id, "failed", "--task", "measure", "--item", "1",
    ]);
    assert!(marked.status.success(), "{}", text(&marked));
    assert_eq!(
        (state("0"), state("1")),
        (json!("success"), json!("failed"))
    );
    let shown = HOUSE.pinwheel(&["runs", "show", &id]);
    let shown = String::from_utf8_lossy(&shown.stdout);
    assert!(shown.contains("measure[b.csv]"), "{shown}");
    let page = reqwest_get(&HOUSE.url(&format!("/runs/{id}/tasks/measure?map=1")));
    assert!(
        page.contains(r#"<input type="hidden" name="map" value="1">"#),
        "{page}"
    );
    let log = HOUSE.pinwheel(&["logs", &id, "measure", "--item", "1"]);
    assert!(log.status.success(), "{}", text(&log));
    for (arguments, said) in [
        (&["logs", &id, "measure"] as &[&str], "has 3 items"),
        (&["logs", &id, "measure", "--item", "3"], "has no item 3"),
        (&["logs", &id, "list", "--item", "0"], "has no items"),
        (&["why", &id, "measure"], "--item N"),
        (
            &[
                "runs", "mark", &id, "failed", "--task", "measure", "--item", "3",
            ],
            "no task instance `measure`",
        ),
        (&["runs", "clear", &id, "--failed", "--item", "1"], "--item"),
    ] {
        let refused = HOUSE.pinwheel(arguments);
        assert!(!refused.status.success(), "{arguments:?}");
        assert!(text(&refused).contains(said), "{}", text(&refused));
    }
}

#[test]
fn a_group_is_one_box_until_it_is_opened() {
    let run = HOUSE.json(&["dags", "trigger", "example_groups", "--wait", "--json"]);
    let page = |query: &str| {
        let address = HOUSE.url(&format!("/runs/{}{query}", run["run_id"]));
        reqwest_get(&address)
    };
    let closed = page("");
    assert!(closed.contains("3 tasks") && closed.contains("Open the groups"));
    let open = page("?groups=open");
    assert!(open.contains("Close the groups"));
}

fn reqwest_get(address: &str) -> String {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    runtime.block_on(async {
        reqwest::get(address)
            .await
            .expect("the page answers")
            .text()
            .await
            .expect("it is text")
    })
}

#[test]
fn a_new_project_has_a_dag_that_runs() {
    let folder = fresh_directory("init");
    let project = folder.join("project");
    let project = project.to_str().expect("the path is text");
    let made = pinwheel(&["init", project], &folder, &[]);
    assert!(made.status.success(), "{}", text(&made));
    let dag = format!("{project}/dags/hello.toml");
    let output = pinwheel(&["dags", "test", &dag, "--json"], &folder, &[]);
    let report: Value = serde_json::from_slice(&output.stdout).expect("a report");
    assert_eq!(report["state"], "success", "{report}");
    let again = pinwheel(&["init", project], &folder, &[]);
    assert!(!again.status.success(), "nothing is overwritten");
}

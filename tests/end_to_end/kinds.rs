//! The example DAGs of the kinds, through the binary: every one runs, and means what its comments say.

use std::{fs, sync::LazyLock};

use serde_json::{Value, json};

use crate::harness::{Standalone, fresh_directory, project};

/// The examples that are run here.
pub(crate) const FILES: [&str; 6] = ["hello", "http", "python", "sensors", "sql", "trigger_dag"];

static EXAMPLES: LazyLock<Standalone> = LazyLock::new(|| {
    let folder = fresh_directory("kinds");
    let dags = folder.join("dags");
    fs::create_dir(&dags).expect("the folder is new");
    for name in FILES {
        let file = format!("{name}.toml");
        fs::copy(project().join("dags/examples").join(&file), dags.join(file))
            .expect("there is such an example");
    }
    Standalone::start(folder.join("data"), dags)
});

fn run(dag: &str, params: &[String]) -> Value {
    let mut arguments = vec!["dags", "trigger", dag, "--wait", "--json"];
    for param in params {
        arguments.extend(["--param", param]);
    }
    let run = EXAMPLES.json(&arguments);
    assert_eq!(run["state"], "success", "{run}");
    run
}

#[test]
fn python_measures_words() {
    let run = run("python", &[r#"words=["a","abcd"]"#.to_owned()]);
    let shown = EXAMPLES.psql(&format!(
        "select l.message from log_line l join task_instance i using (instance_id) where i.run_id = {} and l.message like '%abcd%'",
        run["run_id"]
    ));
    assert_eq!(shown, ["abcd has 4 letters"]);
}

#[test]
fn sensors_wait_and_one_waits_in_vain() {
    assert_eq!(
        run("sensors", &[])["tasks"],
        json!({
            "a_moment": "success", "deliver": "success", "delivered": "success", "never": "skipped", "tidy_up": "success",
        })
    );
}

#[test]
fn sql_writes_a_total_and_sees_it() {
    let database = format!("database={}", EXAMPLES.environment["DATABASE_URL"]);
    for _ in 0..2 {
        run("sql", std::slice::from_ref(&database));
    }
    let totals = EXAMPLES.psql("select total from pinwheel_example");
    assert_eq!(totals, ["200"]);
}

#[test]
fn http_asks_the_api() {
    let address = format!("address={}", EXAMPLES.environment["PINWHEEL_URL"]);
    run("http", &[address]);
}

#[test]
fn trigger_dag_runs_hello_once() {
    let parent = run("trigger_dag", &["name=Joan".to_owned()]);
    let children = EXAMPLES.psql(&format!(
        "select state::text || ' ' || (params->>'name') from run join run_params using (run_id)
            where dag_id = 'hello' and triggered_by like '% trigger_dag run {} %'",
        parent["run_id"]
    ));
    assert_eq!(children, ["success Joan"]);
}

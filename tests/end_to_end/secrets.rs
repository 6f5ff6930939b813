//! Connections, variables and secrets, through the binary, the API and a run.

use std::{
    fs,
    io::Write,
    os::unix::fs::PermissionsExt,
    path::PathBuf,
    process::{Command, Output, Stdio},
    sync::LazyLock,
};

use serde_json::{Value, json};

use crate::harness::{PINWHEEL, Standalone, fresh_directory, pinwheel, project, text};

const SECRET: &str = "hunter2-and-more";

struct Kept {
    standalone: Standalone,
    data_dir: PathBuf,
}

static KEPT: LazyLock<Kept> = LazyLock::new(|| {
    let folder = fresh_directory("secrets");
    let dags = folder.join("dags");
    fs::create_dir(&dags).expect("the folder is new");
    fs::write(dags.join("spill.toml"), SPILL).expect("the folder can be written");
    let data_dir = folder.join("data");
    Kept {
        standalone: Standalone::start(data_dir.clone(), dags),
        data_dir,
    }
});

const SPILL: &str = r#"
[dag]
id = "spill"

[tasks.say]
kind = "shell"
with = { script = "echo \"token $TOKEN at $HOST\"; echo \"to stderr: $TOKEN\" >&2", env = { TOKEN = "{{ var.api_token }}", HOST = "{{ conn.warehouse.host }}" } }

[tasks.answer]
kind = "shell"
after = ["say"]
with = { script = "printf '{\"url\": \"%s\"}' \"$URL\" > \"$PINWHEEL_OUTPUT\"", env = { URL = "{{ conn.warehouse.uri }}" } }
"#;

/// Runs a client command with something on its standard input and in its environment.
fn told(kept: &Kept, arguments: &[&str], input: &str, environment: &[(&str, &str)]) -> Output {
    let mut child = Command::new(PINWHEEL)
        .args(arguments)
        .arg("--data-dir")
        .arg(&kept.data_dir)
        .envs(environment.iter().copied())
        .current_dir(project())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the binary under test starts");
    child
        .stdin
        .take()
        .expect("it is piped")
        .write_all(input.as_bytes())
        .expect("it reads");
    child.wait_with_output().expect("it ends")
}

fn good(output: &Output) -> String {
    assert!(output.status.success(), "{}", text(output));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[tokio::test]
async fn what_a_run_shows_holds_no_secret_and_a_new_key_takes_over() {
    let kept = &*KEPT;
    let house = &kept.standalone;
    let key_file = kept.data_dir.join("secrets.key");
    let mode = fs::metadata(&key_file)
        .expect("it made a key")
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o600);

    good(&told(
        kept,
        &["variables", "set", "api_token", "--stdin"],
        &format!("{SECRET}-token\n"),
        &[],
    ));
    let uri = format!("postgres://ada:{SECRET}@db.example.com/sales");
    good(&told(
        kept,
        &["connections", "set", "warehouse", "--stdin"],
        &uri,
        &[],
    ));
    let listed = house.json(&["connections", "list", "--json"]);
    assert_eq!(listed[0]["has_password"], true, "{listed}");
    assert_eq!(
        house.json(&["variables", "list", "--json"])[0]["value"],
        Value::Null
    );
    let refused = house.pinwheel(&["variables", "get", "api_token"]);
    assert_eq!(refused.status.code(), Some(2), "{}", text(&refused));
    let revealed = house.pinwheel(&["variables", "get", "api_token", "--reveal"]);
    assert_eq!(good(&revealed).trim(), format!("{SECRET}-token"));

    let output = house.pinwheel(&["dags", "trigger", "spill", "--wait", "--json"]);
    let run: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(
        run["tasks"],
        json!({ "say": "success", "answer": "failed" }),
        "{run}"
    );
    let run_id = run["run_id"].to_string();
    let log = good(&house.pinwheel(&["logs", &run_id, "say"]));
    assert!(
        log.contains("token *** at db.example.com") && log.contains("to stderr: ***"),
        "{log}"
    );
    let client = reqwest::Client::new();
    let mut all = log;
    for path in [
        format!("/api/v1/runs/{run_id}/tasks/say/log"),
        format!("/api/v1/runs/{run_id}/tasks/say/rendered"),
        format!("/api/v1/runs/{run_id}/tasks/answer/rendered"),
        format!("/api/v1/runs/{run_id}/tasks/answer"),
        format!("/api/v1/runs/{run_id}/tasks/answer/output"),
        format!("/runs/{run_id}"),
        format!("/runs/{run_id}/tasks/say"),
        format!("/runs/{run_id}/tasks/answer"),
        "/api/v1/connections".to_owned(),
        "/api/v1/variables".to_owned(),
        "/connections".to_owned(),
        "/variables".to_owned(),
    ] {
        let answer = client
            .get(house.url(&path))
            .send()
            .await
            .expect("it answers");
        all.push_str(&answer.text().await.expect("text"));
    }
    assert!(
        all.contains("postgres://ada:***@db.example.com/sales"),
        "{all}"
    );
    assert!(
        all.contains("the password of connection `warehouse`"),
        "{all}"
    );
    assert!(!all.contains(SECRET), "{all}");
    let sealed = house.psql("select encode(sealed, 'escape') from variable union all select encode(sealed, 'escape') from connection");
    assert!(sealed.len() >= 2 && !sealed.concat().contains(SECRET));
    assert!(
        !house
            .psql("select l::text from log_line l")
            .concat()
            .contains(SECRET)
    );

    // A new key, with the old one behind it.
    let new = good(&pinwheel(&["secrets", "key"], &kept.data_dir, &[]))
        .trim()
        .to_owned();
    let old = fs::read_to_string(&key_file)
        .expect("the key")
        .trim()
        .to_owned();
    let both = format!("{new},{old}");
    let both = [("PINWHEEL_SECRETS_KEY", both.as_str())];
    let rotated = good(&told(kept, &["secrets", "rotate", "--json"], "", &both));
    let rotated: Value = serde_json::from_str(&rotated).expect("JSON");
    assert_eq!(
        (&rotated["connections"], &rotated["variables"]),
        (&json!(1), &json!(1))
    );
    let only_new = [("PINWHEEL_SECRETS_KEY", new.as_str())];
    let read = told(
        kept,
        &["variables", "get", "api_token", "--reveal"],
        "",
        &only_new,
    );
    assert_eq!(good(&read).trim(), format!("{SECRET}-token"));
    // Who has the old one alone is told which one is missing.
    let failed = house.pinwheel(&["variables", "get", "api_token", "--reveal"]);
    assert_eq!(failed.status.code(), Some(2));
    let message = String::from_utf8_lossy(&failed.stderr).into_owned();
    assert!(
        message.contains(rotated["key"].as_str().expect("an id")),
        "{message}"
    );
}

#[test]
fn a_connection_is_tested_against_what_it_leads_to() {
    let kept = &*KEPT;
    let database = &kept.standalone.environment["DATABASE_URL"];
    let from = |uri: &str| {
        told(
            kept,
            &["connections", "test", "tried", "--json"],
            "",
            &[("PINWHEEL_CONN_TRIED", uri)],
        )
    };
    let works: Value = serde_json::from_str(&good(&from(database))).expect("JSON");
    assert_eq!(works["message"], "Postgres answers `select 1`");
    let password = &kept.standalone.environment["PGPASSWORD"];
    let wrong = database.replace(password.as_str(), SECRET);
    let refused = from(&wrong);
    assert_eq!(refused.status.code(), Some(1), "{}", text(&refused));
    assert!(!text(&refused).contains(SECRET), "{}", text(&refused));
    let s3 = format!(
        "s3://{}:{}@x/lake?endpoint={}",
        kept.standalone.environment["AWS_ACCESS_KEY_ID"],
        kept.standalone.environment["AWS_SECRET_ACCESS_KEY"],
        kept.standalone.environment["AWS_ENDPOINT_URL"]
            .replace(':', "%3A")
            .replace('/', "%2F"),
    );
    let works: Value = serde_json::from_str(&good(&from(&s3))).expect("JSON");
    assert_eq!(works["message"], "the bucket `lake` can be listed");
    let web = from(&kept.standalone.url("/"));
    assert!(good(&web).contains("it answers 200 OK to HEAD"));
}

#[test]
fn a_task_is_rendered_without_a_server() {
    let folder = fresh_directory("render");
    let file = folder.join("dag.toml");
    fs::write(
        &file,
        r#"
[dag]
id = "shown"
schedule = "0 2 * * *"

[params.rows]
type = "integer"
default = 3

[tasks.first]
kind = "noop"

[tasks.second]
kind = "shell"
after = ["first"]
concurrency_key = "key-{{ params.rows }}"
with = { command = ["x", "{{ var.region }}", "{{ conn.db.uri }}", "{{ ds }} {{ data_interval_end }}", "{{ params.rows }}"] }

[tasks.third]
kind = "shell"
after = ["second"]
with = { command = ["x", "{{ outputs.second.rows }}"] }
"#,
    )
    .expect("the folder can be written");
    let file = file.to_str().expect("temporary paths are UTF-8");
    let render = |arguments: &[&str], environment: &[(&str, &str)]| {
        Command::new(PINWHEEL)
            .args(["dags", "render", file])
            .args(arguments)
            .envs(environment.iter().copied())
            .current_dir(&folder)
            .output()
            .expect("the binary under test starts")
    };
    let given = [
        ("PINWHEEL_VAR_REGION", "eu"),
        ("PINWHEEL_CONN_DB", "postgres://ada:hunter2-long@h/d"),
    ];
    let shown = render(
        &[
            "second",
            "--date",
            "2026-01-31T02:00:00Z",
            "--param",
            "rows=5",
            "--json",
        ],
        &given,
    );
    let shown: Value = serde_json::from_str(&good(&shown)).expect("JSON");
    assert_eq!(
        (&shown["with"], &shown["concurrency_key"]),
        (
            &json!({ "command": ["x", "eu", "postgres://ada:***@h/d", "2026-01-31 2026-02-01T02:00:00Z", 5] }),
            &json!("key-5")
        )
    );
    let shown = render(
        &["third", "--output", "second={\"rows\": [1]}", "--json"],
        &[],
    );
    let shown: Value = serde_json::from_str(&good(&shown)).expect("JSON");
    assert_eq!(shown["with"], json!({ "command": ["x", [1]] }));

    for (arguments, environment, expected) in [
        (
            &["second"] as &[&str],
            &[] as &[(&str, &str)],
            ["there is no variable `region`", "PINWHEEL_VAR_"],
        ),
        (
            &["third"],
            &[],
            ["reads the output of `second`", "--output second="],
        ),
        (&["thrd"], &[], ["has no task `thrd`", "`third`"]),
        (
            &["second", "--param", "rows=x"],
            &given,
            ["rows", "whole number"],
        ),
        (
            &["second"],
            &[
                ("PINWHEEL_VAR_REGION", "eu"),
                ("PINWHEEL_CONN_DB", "nothing"),
            ],
            ["PINWHEEL_CONN_DB", "percent-encoded"],
        ),
    ] {
        let refused = render(arguments, environment);
        assert_eq!(refused.status.code(), Some(2), "{}", text(&refused));
        // A narrow terminal breaks lines anywhere.
        let message: String = text(&refused)
            .split_whitespace()
            .filter(|word| *word != "│")
            .collect::<Vec<_>>()
            .join(" ");
        for part in expected {
            assert!(message.contains(part), "{arguments:?}: {message}");
        }
    }
}

//! The house rules that a compiler does not check: who may depend on whom, where SQL may stand, what a file must say.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use serde_json::Value;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn cargo(arguments: &[&str]) -> String {
    let output = Command::new(env!("CARGO"))
        .args(arguments)
        .current_dir(root())
        .output()
        .expect("cargo runs, it started this test");
    assert!(
        output.status.success(),
        "cargo {arguments:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).expect("cargo prints UTF-8")
}

fn metadata() -> Value {
    serde_json::from_str(&cargo(&[
        "metadata",
        "--format-version",
        "1",
        "--no-deps",
        "--offline",
    ]))
    .expect("metadata is JSON")
}

/// The direct, ordinary dependencies of a workspace member.
fn dependencies(metadata: &Value, package: &str) -> BTreeSet<String> {
    let package = metadata["packages"]
        .as_array()
        .and_then(|packages| {
            packages
                .iter()
                .find(|candidate| candidate["name"] == package)
        })
        .unwrap_or_else(|| panic!("no workspace member `{package}`"));
    package["dependencies"]
        .as_array()
        .expect("dependencies are a list")
        .iter()
        // An optional one is a feature that the binary alone turns on.
        .filter(|dependency| dependency["kind"].is_null() && dependency["optional"] == false)
        .map(|dependency| {
            dependency["name"]
                .as_str()
                .expect("a dependency has a name")
                .to_owned()
        })
        .collect()
}

/// Files below `folder` with that ending, targets and data directories left out.
fn files(folder: &Path, ending: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("a folder of the project can be read") {
            let path = entry.expect("an entry can be read").path();
            let name = path
                .file_name()
                .and_then(|name| name.to_str())
                .unwrap_or_default();
            if path.is_dir() {
                if name != "target" && name != ".git" && name != ".pinwheel" {
                    folders.push(path);
                }
            } else if name.ends_with(ending) {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}

#[test]
fn arrows_point_to_what_is_depended_on_and_never_back() {
    let metadata = metadata();
    let forbidden = [
        (
            "pinwheel-tasks",
            [
                "pinwheel",
                "pinwheel-scheduler",
                "pinwheel-web",
                "pinwheel-streaming",
                "sqlx",
                "axum",
            ]
            .as_slice(),
        ),
        (
            "pinwheel-scheduler",
            &[
                "pinwheel",
                "pinwheel-web",
                "pinwheel-streaming",
                "axum",
                "rdkafka",
                "aws-sdk-s3",
                "polars",
            ],
        ),
        (
            "pinwheel-web",
            &[
                "pinwheel",
                "pinwheel-streaming",
                "sqlx",
                "rdkafka",
                "aws-sdk-s3",
                "polars",
            ],
        ),
        (
            "pinwheel-streaming",
            &[
                "pinwheel",
                "pinwheel-scheduler",
                "pinwheel-web",
                "aws-sdk-s3",
                "polars",
            ],
        ),
    ];
    for (package, names) in forbidden {
        let dependencies = dependencies(&metadata, package);
        for name in names {
            assert!(
                !dependencies.contains(*name),
                "`{package}` must not depend on `{name}`"
            );
        }
    }
}

#[test]
fn the_scheduler_builds_without_kafka_s3_and_polars() {
    let tree = cargo(&[
        "tree",
        "-p",
        "pinwheel-scheduler",
        "-e",
        "normal",
        "--prefix",
        "none",
        "--offline",
    ]);
    for heavy in [
        "rdkafka ",
        "rdkafka-sys ",
        "aws-sdk-s3 ",
        "polars ",
        "polars-core ",
        "reqwest ",
    ] {
        assert!(
            !tree.lines().any(|line| line.starts_with(heavy)),
            "`{heavy}` stands behind pinwheel-scheduler"
        );
    }
}

#[test]
fn a_plain_cargo_test_reaches_every_member() {
    let metadata = metadata();
    let mut members: Vec<_> = metadata["workspace_members"]
        .as_array()
        .expect("a list")
        .clone();
    let mut defaults: Vec<_> = metadata["workspace_default_members"]
        .as_array()
        .expect("a list")
        .clone();
    members.sort_by_key(Value::to_string);
    defaults.sort_by_key(Value::to_string);
    assert_eq!(members, defaults, "default-members must list every member");
}

#[test]
fn only_the_store_and_the_live_tables_speak_sql() {
    for path in files(root(), ".rs") {
        let relative = path.strip_prefix(root()).expect("below the root");
        // The kind `sql` speaks the statements of its users, not ours.
        let allowed = [
            "scheduler/src/store",
            "streaming/src",
            "tests",
            "tasks/src/sql",
            "tasks/tests",
        ]
        .iter()
        .any(|folder| relative.starts_with(folder));
        let text = fs::read_to_string(&path).expect("sources are UTF-8");
        let speaks = text.contains("sqlx::query")
            || text.contains("query_file!")
            || text.contains("query_file_as!");
        assert!(
            allowed || !speaks,
            "{} speaks SQL; ask `scheduler::store` instead",
            relative.display()
        );
    }
}

#[test]
fn every_statement_says_what_it_does_in_its_first_line() {
    let folder = root().join("scheduler/src/store/queries");
    let statements = files(&folder, ".sql");
    assert!(!statements.is_empty());
    for path in statements {
        let text = fs::read_to_string(&path).expect("statements are UTF-8");
        assert!(
            text.starts_with("-- "),
            "{} does not begin with a comment",
            path.display()
        );
    }
}

#[test]
fn no_source_holds_a_promise_not_kept() {
    let marks = [
        concat!("todo", "!("),
        concat!("unimplemented", "!("),
        concat!("FIX", "ME"),
        concat!("#[ign", "ore"),
    ];
    for path in files(root(), ".rs") {
        let text = fs::read_to_string(&path).expect("sources are UTF-8");
        for mark in marks {
            assert!(!text.contains(mark), "{} contains `{mark}`", path.display());
        }
    }
}

/// A feature that only tests turn on, of a dependency that everything stands on (`syn`), would build Polars, librdkafka and
/// the S3 client a second time for `cargo test`.
#[test]
fn tests_and_the_binary_share_one_build_of_their_dependencies() {
    let features = |edges: &str| {
        let tree = cargo(&[
            "tree",
            "--workspace",
            "--offline",
            "-e",
            edges,
            "--prefix",
            "none",
            "-f",
            "{p}|{f}",
        ]);
        let mut features: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for line in tree.lines().map(|line| line.trim_end_matches(" (*)")) {
            if let Some((package, names)) = line.split_once('|') {
                features
                    .entry(package.to_owned())
                    .or_default()
                    .extend(names.split(',').map(str::to_owned));
            }
        }
        features
    };
    let (without_tests, with_tests) = (features("normal,build"), features("all"));
    for (package, names) in without_tests {
        if !package.starts_with("pinwheel") {
            let more: Vec<_> = with_tests[&package].difference(&names).collect();
            assert!(
                more.is_empty(),
                "only tests turn on {more:?} of {package}; everything behind it is built twice"
            );
        }
    }
}

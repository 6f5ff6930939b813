//! A standalone Pinwheel for the end-to-end tests: the real binary, its embedded Postgres, broker and S3, on free
//! ports and a directory of its own. It ends with the test process.

use std::{
    collections::BTreeMap,
    fs,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    sync::LazyLock,
    thread,
};

use pinwheel_test_support::child;
use serde_json::Value;

/// The binary under test.
pub(crate) const PINWHEEL: &str = env!("CARGO_BIN_EXE_pinwheel");

/// The root of the project, where `dags/` and the tools are.
pub(crate) fn project() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The demo, run once, and a standalone that then stays up on the same directory. Shared by all tests that only look.
pub(crate) static DEMONSTRATED: LazyLock<Demonstrated> = LazyLock::new(Demonstrated::run);

/// What the demo said, and the standalone that holds its data.
pub(crate) struct Demonstrated {
    /// The table of the first demo.
    pub(crate) first: Value,
    /// The table of the second demo on the same directory.
    pub(crate) second: Value,
    /// A standalone on that directory.
    pub(crate) standalone: Standalone,
}

impl Demonstrated {
    fn run() -> Self {
        let data_dir = fresh_directory("demo");
        let demo = || {
            let output = pinwheel(
                &["demo", "--exit", "--json"],
                &data_dir,
                &["--web-bind", "127.0.0.1:0", "--ingest-bind", "127.0.0.1:0"],
            );
            assert!(
                output.status.success(),
                "the demo disagreed: {}",
                text(&output)
            );
            serde_json::from_slice(&output.stdout).expect("`demo --json` prints one JSON object")
        };
        let first = demo();
        let second = demo();
        Self {
            first,
            second,
            standalone: Standalone::start(data_dir, project().join("dags")),
        }
    }
}

/// A running `pinwheel standalone`.
pub(crate) struct Standalone {
    /// Its data directory.
    pub(crate) data_dir: PathBuf,
    /// What `pinwheel env --json` says.
    pub(crate) environment: BTreeMap<String, String>,
}

impl Standalone {
    /// Starts one over a DAG folder and waits until it is ready.
    pub(crate) fn start(data_dir: PathBuf, dags: PathBuf) -> Self {
        let child = child_of_this_process(&[
            "standalone",
            "--data-dir",
            data_dir.to_str().expect("temporary paths are UTF-8"),
            "--dags",
            dags.to_str().expect("temporary paths are UTF-8"),
            "--web-bind",
            "127.0.0.1:0",
            "--ingest-bind",
            "127.0.0.1:0",
        ]);
        wait_until_ready(child);
        let output = pinwheel(&["env", "--json"], &data_dir, &[]);
        assert!(output.status.success(), "env: {}", text(&output));
        let environment = serde_json::from_slice(&output.stdout)
            .expect("`env --json` prints one object of strings");
        Self {
            data_dir,
            environment,
        }
    }

    /// Runs a client command against it.
    pub(crate) fn pinwheel(&self, arguments: &[&str]) -> Output {
        pinwheel(arguments, &self.data_dir, &[])
    }

    /// Runs a client command that must succeed and print JSON.
    pub(crate) fn json(&self, arguments: &[&str]) -> Value {
        let output = self.pinwheel(arguments);
        assert!(
            output.status.success(),
            "pinwheel {arguments:?}: {}",
            text(&output)
        );
        serde_json::from_slice(&output.stdout)
            .unwrap_or_else(|error| panic!("pinwheel {arguments:?}: {error}: {}", text(&output)))
    }

    /// Runs SQL over the cleaned datasets.
    pub(crate) fn query(&self, sql: &str) -> Vec<Value> {
        match self.json(&["query", sql, "--format", "json"]) {
            Value::Array(rows) => rows,
            other => panic!("`query --format json` prints a list, not {other}"),
        }
    }

    /// Runs SQL in the embedded Postgres, one value per line.
    pub(crate) fn psql(&self, sql: &str) -> Vec<String> {
        let output = Command::new("psql")
            .args([
                "--no-psqlrc",
                "--tuples-only",
                "--no-align",
                "--command",
                sql,
                &self.environment["DATABASE_URL"],
            ])
            .output()
            .expect("psql is installed with Postgres");
        assert!(output.status.success(), "{sql}: {}", text(&output));
        String::from_utf8(output.stdout)
            .expect("psql prints UTF-8")
            .lines()
            .map(str::to_owned)
            .collect()
    }

    /// The address of the pages and the API.
    pub(crate) fn url(&self, path: &str) -> String {
        format!("{}{path}", self.environment["PINWHEEL_URL"])
    }
}

/// Runs the binary on a data directory and returns what it printed.
pub(crate) fn pinwheel(arguments: &[&str], data_dir: &Path, more: &[&str]) -> Output {
    Command::new(PINWHEEL)
        .args(arguments)
        .args([
            "--data-dir",
            data_dir.to_str().expect("temporary paths are UTF-8"),
        ])
        .args(more)
        .current_dir(project())
        .env_remove("DATABASE_URL")
        .stdin(Stdio::null())
        .output()
        .expect("the binary under test starts")
}

/// Both streams of an ended process, for messages.
pub(crate) fn text(output: &Output) -> String {
    format!(
        "{}\n{}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}

/// A directory of this test process alone, which every user may enter: the embedded Postgres runs as somebody else
/// when the tests run as root. What an earlier process left behind is removed.
pub(crate) fn fresh_directory(name: &str) -> PathBuf {
    let parent = std::env::temp_dir();
    for entry in fs::read_dir(&parent)
        .expect("the temporary folder can be read")
        .flatten()
    {
        let left_by = entry.file_name().to_str().and_then(|name| {
            name.strip_prefix("pinwheel-e2e-")?
                .split('-')
                .next()?
                .parse::<u32>()
                .ok()
        });
        if left_by.is_some_and(|pid| !Path::new(&format!("/proc/{pid}")).exists()) {
            let _somebody_else_was_faster = fs::remove_dir_all(entry.path());
        }
    }
    let directory = parent.join(format!("pinwheel-e2e-{}-{name}", std::process::id()));
    fs::create_dir(&directory).expect("the name is new");
    directory
}

/// Starts the binary so that it gets SIGTERM when this process ends, however it ends.
pub(crate) fn child_of_this_process(arguments: &[&str]) -> Child {
    let mut command = child::ending_with_us("TERM", PINWHEEL);
    command
        .args(arguments)
        .current_dir(project())
        .env_remove("DATABASE_URL")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    child::spawn(command).expect("setpriv is part of util-linux")
}

/// Reads the standalone's own words until it says that it is ready; goes on reading so that it never blocks.
fn wait_until_ready(mut child: Child) {
    let mut lines = BufReader::new(child.stderr.take().expect("stderr is piped")).lines();
    let mut said = Vec::new();
    for line in lines.by_ref() {
        let line = line.expect("messages are UTF-8");
        let is_ready = line.contains("ready:");
        said.push(line);
        if is_ready {
            thread::spawn(move || lines.for_each(drop));
            return;
        }
    }
    panic!(
        "standalone ended before it was ready: {:?}\n{}",
        child.wait(),
        said.join("\n")
    );
}

//! A private Postgres for tests: one per test process, a fresh database for every test, all gone with the process.

use std::{
    fs,
    net::TcpListener,
    os::unix::fs::{PermissionsExt, chown},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        LazyLock,
        atomic::{AtomicU32, Ordering},
        mpsc,
    },
    thread,
    time::{Duration, Instant},
};

use sqlx::{AssertSqlSafe, Connection, Executor, PgConnection};
use tempfile::TempDir;
use tokio::sync::OnceCell;

const PREFIX: &str = "pinwheel-postgres-";

/// A running Postgres with its data in a temporary directory.
#[derive(Debug)]
pub struct Postgres {
    port: u16,
    databases: AtomicU32,
    template: OnceCell<()>,
    _directory: TempDir,
}

impl Postgres {
    /// The Postgres of this test process, started by the first test that asks.
    ///
    /// # Panics
    /// Postgres is not installed or does not start.
    pub fn shared() -> &'static Self {
        static SHARED: LazyLock<Postgres> = LazyLock::new(Postgres::start);
        &SHARED
    }

    /// A new, empty database.
    ///
    /// # Panics
    /// Postgres refuses.
    pub async fn empty_database(&self) -> String {
        let name = self.next_name();
        self.administer(&format!("create database {name}")).await;
        self.url(&name)
    }

    /// A new database as `prepare` made it: it is called once per process, with the URL of a template that every
    /// database is then copied from.
    ///
    /// # Panics
    /// Postgres refuses.
    pub async fn fresh_database<F: Future<Output = ()>>(
        &self,
        prepare: impl FnOnce(String) -> F,
    ) -> String {
        self.template
            .get_or_init(|| async {
                self.administer("create database prepared").await;
                prepare(self.url("prepared")).await;
                // A database that somebody is connected to cannot be copied.
                self.administer("alter database prepared allow_connections false").await;
                self.administer("select pg_terminate_backend(pid) from pg_stat_activity where datname = 'prepared'").await;
            })
            .await;
        let name = self.next_name();
        self.administer(&format!("create database {name} template prepared"))
            .await;
        self.url(&name)
    }

    /// Runs a statement as the superuser, outside of any test's database.
    ///
    /// # Panics
    /// Postgres refuses.
    pub async fn administer(&self, statement: &str) {
        let mut connection = PgConnection::connect(&self.url("postgres"))
            .await
            .expect("the test Postgres accepts connections");
        connection
            .execute(AssertSqlSafe(statement))
            .await
            .expect("the statement is valid");
    }

    fn next_name(&self) -> String {
        format!("test_{}", self.databases.fetch_add(1, Ordering::Relaxed))
    }

    fn url(&self, database: &str) -> String {
        format!("postgres://postgres@127.0.0.1:{}/{database}", self.port)
    }

    fn start() -> Self {
        remove_leftovers();
        let directory = tempfile::Builder::new()
            .prefix(PREFIX)
            .tempdir()
            .expect("there is room in /tmp");
        let data = directory.path().join("data");
        let account = Account::for_postgres();
        account.give(directory.path());
        let mut initdb = account.command(&binary("initdb"));
        initdb.args([
            "--username=postgres",
            "--auth=trust",
            "--encoding=UTF8",
            "--no-locale",
            "--no-sync",
            "-D",
        ]);
        let output = initdb.arg(&data).output().expect("initdb can be started");
        assert!(
            output.status.success(),
            "initdb: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        let port = TcpListener::bind("127.0.0.1:0")
            .and_then(|listener| listener.local_addr())
            .expect("a loopback port is free")
            .port();
        let log =
            fs::File::create(directory.path().join("log")).expect("the directory is writable");
        let mut postgres = account.command(&binary("postgres"));
        postgres
            .arg("-D")
            .arg(&data)
            .arg("-k")
            .arg(directory.path())
            .args(["-h", "127.0.0.1", "-p", &port.to_string()])
            .args([
                "-c",
                "fsync=off",
                "-c",
                "full_page_writes=off",
                "-c",
                "max_connections=300",
            ])
            .args(["-c", "shared_buffers=64MB", "-c", "autovacuum_naptime=5s"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log);
        keep(postgres);
        let started = Instant::now();
        // The last line of the pid file says `ready` once connections are accepted.
        while !fs::read_to_string(data.join("postmaster.pid"))
            .is_ok_and(|state| state.contains("ready"))
        {
            assert!(
                started.elapsed() < Duration::from_secs(30),
                "Postgres did not start: {}",
                fs::read_to_string(directory.path().join("log")).unwrap_or_default()
            );
            thread::sleep(Duration::from_millis(5));
        }
        Self {
            port,
            databases: AtomicU32::new(0),
            template: OnceCell::new(),
            _directory: directory,
        }
    }
}

/// A test process ends without dropping what is static; its Postgres ends with it, its directory is removed by a later
/// one.
fn remove_leftovers() {
    let hour = Duration::from_secs(3600);
    for entry in fs::read_dir(std::env::temp_dir())
        .into_iter()
        .flatten()
        .flatten()
    {
        let is_ours = entry.file_name().to_string_lossy().starts_with(PREFIX);
        let is_old = entry
            .metadata()
            .and_then(|metadata| metadata.modified())
            .is_ok_and(|modified| modified.elapsed().is_ok_and(|age| age > hour));
        if is_ours && is_old && !entry.path().join("data/postmaster.pid").exists() {
            let _somebody_else_did = fs::remove_dir_all(entry.path());
        }
    }
}

/// Starts the child from a thread that lives as long as the process: the signal that ends Postgres with its parent is
/// tied to the thread that started it.
fn keep(mut command: Command) {
    let (started, wait) = mpsc::channel();
    thread::spawn(move || {
        let child: Result<Child, _> = command.spawn();
        match child {
            Ok(mut child) => {
                started.send(Ok(())).expect("the caller waits");
                let _ended = child.wait();
            }
            Err(error) => started.send(Err(error)).expect("the caller waits"),
        }
    });
    wait.recv()
        .expect("the thread answers")
        .expect("Postgres can be started");
}

/// Who runs Postgres: it refuses to run as root.
struct Account {
    ids: Option<(u32, u32)>,
}

impl Account {
    fn for_postgres() -> Self {
        let own = fs::metadata("/proc/self")
            .map(|metadata| std::os::unix::fs::MetadataExt::uid(&metadata));
        if own.is_ok_and(|uid| uid != 0) {
            return Self { ids: None };
        }
        let accounts = fs::read_to_string("/etc/passwd").unwrap_or_default();
        let ids = ["postgres", "nobody"].into_iter().find_map(|wanted| {
            accounts.lines().find_map(|line| {
                let fields: Vec<&str> = line.split(':').collect();
                (fields.first() == Some(&wanted))
                    .then(|| Some((fields.get(2)?.parse().ok()?, fields.get(3)?.parse().ok()?)))
                    .flatten()
            })
        });
        assert!(
            ids.is_some(),
            "root needs an account `postgres` or `nobody` to run Postgres under"
        );
        Self { ids }
    }

    fn give(&self, directory: &Path) {
        fs::set_permissions(directory, fs::Permissions::from_mode(0o755))
            .expect("the directory is ours");
        if let Some((uid, gid)) = self.ids {
            chown(directory, Some(uid), Some(gid)).expect("root may give its directory away");
        }
    }

    fn command(&self, program: &Path) -> Command {
        let mut command = Command::new("setpriv");
        if let Some((uid, gid)) = self.ids {
            command
                .arg(format!("--reuid={uid}"))
                .arg(format!("--regid={gid}"))
                .arg("--clear-groups");
        }
        command
            .args(["--pdeathsig", "INT", "--"])
            .arg(program)
            .current_dir("/");
        command
    }
}

/// From PATH, or the newest of `/usr/lib/postgresql/*/bin`.
fn binary(name: &str) -> PathBuf {
    let path = std::env::var_os("PATH").unwrap_or_default();
    if let Some(found) = std::env::split_paths(&path)
        .map(|folder| folder.join(name))
        .find(|file| file.is_file())
    {
        return found;
    }
    let mut versions: Vec<(u32, PathBuf)> = fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| {
            let file = entry.path().join("bin").join(name);
            Some((entry.file_name().to_str()?.parse().ok()?, file))
                .filter(|(_, file)| file.is_file())
        })
        .collect();
    versions.sort();
    versions
        .pop()
        .map(|(_, file)| file)
        .unwrap_or_else(|| panic!("`{name}` is not installed: apt install postgresql"))
}

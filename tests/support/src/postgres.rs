//! A private Postgres for tests: one per test process, a fresh database for every test, all gone with the process; and
//! one of a test's own that may be killed and started again.

use std::{
    fs,
    net::TcpListener,
    os::unix::fs::{PermissionsExt, chown},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::{
        LazyLock,
        atomic::{AtomicU32, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use sqlx::{AssertSqlSafe, Connection, Executor, PgConnection};
use tempfile::TempDir;
use tokio::sync::OnceCell;

use crate::child;

const PREFIX: &str = "pinwheel-postgres-";

/// A running Postgres with its data in a temporary directory.
#[derive(Debug)]
pub struct Postgres {
    server: Server,
    databases: AtomicU32,
    template: OnceCell<()>,
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
        self.server.url(database)
    }

    fn start() -> Self {
        let mut server = Server::new(&["fsync=off", "full_page_writes=off"]);
        server.start();
        Self {
            server,
            databases: AtomicU32::new(0),
            template: OnceCell::new(),
        }
    }
}

/// A Postgres of one test's own that may be killed and started again, on the same port and data. What it has committed
/// is on disk. It ends when the value is dropped.
#[derive(Debug)]
pub struct Mortal {
    server: Server,
}

/// How a [`Mortal`] Postgres dies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Death {
    /// It is told to stop at once and cleans up nothing: SIGQUIT, its immediate shutdown.
    Immediate,
    /// Its first process is killed; the others notice and end.
    Killed,
}

impl Mortal {
    /// Starts one and waits until it takes connections.
    ///
    /// # Panics
    /// Postgres is not installed or does not start.
    pub fn start() -> Self {
        let mut server = Server::new(&["fsync=on"]);
        server.start();
        Self { server }
    }

    /// Starts one that speaks TLS with this certificate and key, both PEM.
    ///
    /// # Panics
    /// Postgres is not installed or does not start.
    pub fn start_secured(certificate: &str, key: &str) -> Self {
        let mut server = Server::new(&["fsync=off", "ssl=on"]);
        let data = server.directory.path().join("data");
        for (name, text) in [("server.crt", certificate), ("server.key", key)] {
            let file = data.join(name);
            fs::write(&file, text).expect("the directory is writable");
            fs::set_permissions(&file, fs::Permissions::from_mode(0o600))
                .expect("the file is ours");
            if let Some((uid, gid)) = server.account.ids {
                chown(&file, Some(uid), Some(gid)).expect("root may give its file away");
            }
        }
        server.start();
        Self { server }
    }

    /// Where it listens.
    pub fn address(&self) -> std::net::SocketAddr {
        ([127, 0, 0, 1], self.server.port).into()
    }

    /// The URL of one of its databases.
    pub fn url(&self, database: &str) -> String {
        self.server.url(database)
    }

    /// Kills it and says how its first process ended.
    ///
    /// # Panics
    /// It is dead already.
    pub fn kill(&mut self, death: Death) -> ExitStatus {
        let mut child = self.server.child.take().expect("it lives");
        match death {
            Death::Killed => child.kill().expect("a child of ours"),
            Death::Immediate => quit(&child),
        }
        child.wait().expect("a child of ours")
    }

    /// Starts it again after [`Mortal::kill`] and waits until it takes connections.
    ///
    /// # Panics
    /// It does not start.
    pub fn start_again(&mut self) {
        self.server.start();
    }

    /// The last lines of its own log.
    pub fn log(&self) -> String {
        self.server.log()
    }
}

fn quit(child: &Child) {
    let pid = i32::try_from(child.id()).expect("process ids are small");
    kill(Pid::from_raw(pid), Signal::SIGQUIT).expect("a child of ours that nobody awaited");
}

/// A data directory, and the process that serves it.
#[derive(Debug)]
struct Server {
    account: Account,
    directory: TempDir,
    port: u16,
    settings: &'static [&'static str],
    child: Option<Child>,
}

impl Server {
    /// Makes a data directory and chooses a port.
    fn new(settings: &'static [&'static str]) -> Self {
        remove_leftovers();
        let directory = tempfile::Builder::new()
            .prefix(PREFIX)
            .tempdir()
            .expect("there is room in /tmp");
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
        let output = initdb
            .arg(directory.path().join("data"))
            .output()
            .expect("initdb can be started");
        assert!(
            output.status.success(),
            "initdb: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        let port = TcpListener::bind("127.0.0.1:0")
            .and_then(|listener| listener.local_addr())
            .expect("a loopback port is free")
            .port();
        Self {
            account,
            directory,
            port,
            settings,
            child: None,
        }
    }

    fn url(&self, database: &str) -> String {
        format!("postgres://postgres@127.0.0.1:{}/{database}", self.port)
    }

    fn log(&self) -> String {
        let log = fs::read(self.directory.path().join("log")).unwrap_or_default();
        String::from_utf8_lossy(&log).into_owned()
    }

    /// Starts it and waits until it takes connections. The processes of one that was killed hold its shared memory for a
    /// moment longer; until they are gone the next one ends by itself, and another is started.
    fn start(&mut self) {
        let started = Instant::now();
        let mut child = self.spawn();
        while !self.is_ready(&child) {
            assert!(
                started.elapsed() < Duration::from_secs(30),
                "Postgres did not start: {}",
                self.log()
            );
            thread::sleep(Duration::from_millis(5));
            if child.try_wait().expect("a child of ours").is_some() {
                child = self.spawn();
            }
        }
        self.child = Some(child);
    }

    fn spawn(&self) -> Child {
        let directory = self.directory.path();
        let log = fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(directory.join("log"))
            .expect("the directory is writable");
        let mut postgres = self.account.command(&binary("postgres"));
        postgres
            .arg("-D")
            .arg(directory.join("data"))
            .arg("-k")
            .arg(directory)
            .args(["-h", "127.0.0.1", "-p", &self.port.to_string()]);
        let common = [
            "max_connections=300",
            "shared_buffers=64MB",
            "autovacuum_naptime=5s",
        ];
        for setting in self.settings.iter().chain(&common) {
            postgres.args(["-c", setting]);
        }
        postgres
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log);
        child::spawn(postgres).expect("Postgres can be started")
    }

    /// The first line of the pid file is the process, its last says `ready` once connections are accepted.
    fn is_ready(&self, child: &Child) -> bool {
        let file = self.directory.path().join("data/postmaster.pid");
        fs::read_to_string(file).is_ok_and(|state| {
            state.contains("ready") && state.lines().next() == Some(&child.id().to_string())
        })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            quit(&child);
            let _ended = child.wait();
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

/// Who runs Postgres: it refuses to run as root.
#[derive(Debug)]
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

//! The embedded Postgres: a private server of our own over Debian's binaries, on loopback, with its data below the data
//! directory. It refuses to run as root, so a root parent runs it as `postgres` or `nobody`.

use std::{
    fs,
    os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt, chown},
    path::{Path, PathBuf},
    process::Stdio,
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::{Pid, User, geteuid},
};
use sqlx::{
    ConnectOptions, Connection,
    postgres::{PgConnectOptions, PgSslMode},
};
use tokio::io::AsyncWriteExt;

use super::{
    child::{self, Child, Program, RunAs},
    memory::Memory,
    port,
};
use crate::failure::{Failure, Result};

const USER: &str = "pinwheel";
const DATABASE: &str = "pinwheel";
/// A start that has to recover after a crash takes longer than usual; this is past any recovery of a small database.
const START_PATIENCE: Duration = Duration::from_secs(120);
/// A fast shutdown ends connections and writes a checkpoint.
const STOP_PATIENCE: Duration = Duration::from_secs(20);
/// The longest path of a Unix socket, with the file name that Postgres adds.
const LONGEST_SOCKET_FOLDER: usize = 107 - ".s.PGSQL.65535.lock".len();
/// Where root's Postgres lives when the data directory is below a folder that its user may not enter.
const ROOTS_PLACE: &str = "/var/lib/pinwheel";

/// A running embedded Postgres.
#[derive(Debug)]
pub(crate) struct Postgres {
    child: Child,
    port: u16,
    password: String,
}

/// The folders of one server.
struct Layout {
    /// Owned by the user that runs it.
    home: PathBuf,
    /// PGDATA.
    data: PathBuf,
    log: PathBuf,
}

impl Postgres {
    /// Starts the server, after `initdb` at the first time. `binaries` is `embedded.postgres_bin`.
    pub(crate) async fn start(
        data_dir: &Path,
        binaries: Option<&Path>,
        memory: &mut Memory,
    ) -> Result<Self> {
        let run_as = run_as()?;
        let layout = lay_out(data_dir, &run_as)?;
        let binaries = find_binaries(binaries, &layout.data)?;
        if !layout.data.exists() {
            initialise(&binaries, &layout, &run_as, &memory.postgres_password).await?;
        }
        stop_orphan(&layout.data).await?;

        let mut remembered = memory.postgres_port;
        let mut attempts = 0;
        loop {
            attempts += 1;
            let port = port::free(remembered).map_err(|error| {
                Failure::failed("no loopback port is free for the embedded Postgres").because(error)
            })?;
            match launch(&binaries, &layout, &run_as, port, &memory.postgres_password).await {
                Ok(postgres) => {
                    memory.postgres_port = Some(port);
                    return Ok(postgres);
                }
                // Somebody may have taken the port between our look and its bind.
                Err(_) if attempts < 3 => remembered = None,
                Err(failure) => return Err(failure),
            }
        }
    }

    /// The address for clients, with the password.
    pub(crate) fn url(&self) -> String {
        format!(
            "postgres://{USER}:{}@127.0.0.1:{}/{DATABASE}",
            self.password, self.port
        )
    }

    pub(crate) fn child(&self) -> &Child {
        &self.child
    }

    pub(crate) async fn stop(&self) {
        self.child.stop(STOP_PATIENCE).await;
    }
}

/// Which user runs the server: we ourselves, or somebody harmless when we are root.
fn run_as() -> Result<RunAs> {
    if !geteuid().is_root() {
        return Ok(RunAs::Ourselves);
    }
    ["postgres", "nobody"]
        .into_iter()
        .find_map(|name| User::from_name(name).ok().flatten())
        .map(|user| RunAs::Other { uid: user.uid.as_raw(), gid: user.gid.as_raw() })
        .ok_or_else(|| {
            Failure::failed("Postgres does not run as root, and there is neither a user `postgres` nor `nobody`")
                .hint("run Pinwheel as an ordinary user")
        })
}

/// Makes the folders, owned by the user that runs the server.
fn lay_out(data_dir: &Path, run_as: &RunAs) -> Result<Layout> {
    let home = match run_as {
        RunAs::Ourselves => data_dir.join("postgres"),
        RunAs::Other { uid, gid } => home_for_other(data_dir, *uid, *gid)?,
    };
    make_private(&home)?;
    if let RunAs::Other { uid, gid } = run_as {
        chown(&home, Some(*uid), Some(*gid)).map_err(|error| cannot_make(&home, error))?;
    }
    Ok(Layout {
        data: home.join("data"),
        log: data_dir.join("postgres.log"),
        home,
    })
}

fn make_private(folder: &Path) -> Result<()> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(folder)
        .map_err(|error| cannot_make(folder, error))
}

fn cannot_make(folder: &Path, error: std::io::Error) -> Failure {
    Failure::failed(format!("cannot make the folder `{}`", folder.display())).because(error)
}

/// Below the data directory when the other user can get there. Otherwise (typically below `/root`) the data lives
/// under [`ROOTS_PLACE`] and the data directory holds a link to it.
fn home_for_other(data_dir: &Path, uid: u32, gid: u32) -> Result<PathBuf> {
    let home = data_dir.join("postgres");
    if let Ok(target) = fs::read_link(&home) {
        return Ok(target);
    }
    let Some(closed) = first_closed_folder(data_dir, uid, gid) else {
        return Ok(home);
    };
    if home.exists() {
        return Err(Failure::failed(format!(
            "the embedded Postgres cannot reach `{}`: its user may not enter `{}`",
            home.display(),
            closed.display()
        ))
        .hint(format!(
            "`chmod o+x {}`, or choose another folder with --data-dir",
            closed.display()
        )));
    }
    let name = data_dir
        .to_string_lossy()
        .trim_matches('/')
        .replace('/', "-");
    let target = Path::new(ROOTS_PLACE).join(name);
    tracing::info!(
        "`{}` is closed to other users, so Postgres keeps its data in `{}`",
        closed.display(),
        target.display()
    );
    // What is there belongs to a data directory that somebody removed: nothing links to it any more.
    if target.exists() {
        fs::remove_dir_all(&target).map_err(|error| cannot_make(&target, error))?;
    }
    fs::create_dir_all(ROOTS_PLACE).map_err(|error| cannot_make(Path::new(ROOTS_PLACE), error))?;
    make_private(&target)?;
    std::os::unix::fs::symlink(&target, &home).map_err(|error| cannot_make(&home, error))?;
    Ok(target)
}

/// The first folder on the way to `folder`, itself included, that the user may not enter.
fn first_closed_folder(folder: &Path, uid: u32, gid: u32) -> Option<PathBuf> {
    let mut way: Vec<_> = folder.ancestors().collect();
    way.reverse();
    way.into_iter()
        .find(|ancestor| {
            ancestor.metadata().is_ok_and(|metadata| {
                let mode = metadata.permissions().mode();
                let may_enter = if metadata.uid() == uid {
                    mode & 0o100
                } else if metadata.gid() == gid {
                    mode & 0o010
                } else {
                    mode & 0o001
                };
                may_enter == 0
            })
        })
        .map(Path::to_owned)
}

/// Finds the folder with `initdb` and `postgres`: the setting, PATH, then the newest of Debian's, preferring the one
/// that made the data.
fn find_binaries(setting: Option<&Path>, data: &Path) -> Result<PathBuf> {
    let is_complete = |folder: &Path| {
        child::is_program(&folder.join("initdb")) && child::is_program(&folder.join("postgres"))
    };
    if let Some(folder) = setting {
        return if is_complete(folder) {
            Ok(folder.to_owned())
        } else {
            Err(Failure::invalid(format!(
                "`embedded.postgres_bin` is `{}`, which does not hold `initdb` and `postgres`",
                folder.display()
            )))
        };
    }
    let debian = Path::new("/usr/lib/postgresql");
    let made_by = fs::read_to_string(data.join("PG_VERSION")).ok();
    if let Some(version) = made_by.as_deref().map(str::trim) {
        let same = debian.join(version).join("bin");
        if is_complete(&same) {
            return Ok(same);
        }
    }
    let in_path = child::find_in_path("postgres")
        .and_then(|found| fs::canonicalize(found).ok())
        .and_then(|found| found.parent().map(Path::to_owned))
        .filter(|folder| is_complete(folder));
    let version = |folder: &Path| -> Option<u32> { folder.file_name()?.to_str()?.parse().ok() };
    let newest = || {
        let mut installed: Vec<_> = fs::read_dir(debian)
            .into_iter()
            .flatten()
            .flatten()
            .filter_map(|entry| Some((version(&entry.path())?, entry.path().join("bin"))))
            .filter(|(_, folder)| is_complete(folder))
            .collect();
        installed.sort();
        installed.pop().map(|(_, folder)| folder)
    };
    in_path.or_else(newest).ok_or_else(|| {
        Failure::failed("no Postgres server is installed: `initdb` and `postgres` are neither in PATH nor below `/usr/lib/postgresql`")
            .hint("run `make set-up`, or install the package `postgresql`, or name the folder with --postgres-bin, or use a server of your own with --database-url")
    })
}

/// Makes a new cluster beside its place and renames it, so that a half-made one is never taken for a whole one.
async fn initialise(
    binaries: &Path,
    layout: &Layout,
    run_as: &RunAs,
    password: &str,
) -> Result<()> {
    let new = layout.home.join("data.new");
    let password_file = layout.home.join("password");
    let cannot = |error: std::io::Error| {
        Failure::failed("cannot prepare the embedded Postgres").because(error)
    };
    if new.exists() {
        fs::remove_dir_all(&new).map_err(cannot)?;
    }
    fs::write(&password_file, password).map_err(cannot)?;
    if let RunAs::Other { uid, gid } = run_as {
        chown(&password_file, Some(*uid), Some(*gid)).map_err(cannot)?;
    }
    let initialised = run(program(
        binaries,
        "initdb",
        layout,
        run_as,
        vec![
            format!("--pgdata={}", new.display()),
            format!("--username={USER}"),
            format!("--pwfile={}", password_file.display()),
            "--auth=scram-sha-256".to_owned(),
            "--encoding=UTF8".to_owned(),
            "--locale=C".to_owned(),
        ],
    ))
    .await;
    fs::remove_file(&password_file).map_err(cannot)?;
    initialised?;
    make_database(binaries, &new, layout, run_as).await?;
    fs::rename(&new, &layout.data).map_err(cannot)
}

/// Makes our database in the server's single-user mode: before anybody can connect.
async fn make_database(
    binaries: &Path,
    data: &Path,
    layout: &Layout,
    run_as: &RunAs,
) -> Result<()> {
    let cannot =
        |error: std::io::Error| Failure::failed("cannot make the embedded database").because(error);
    let program = program(
        binaries,
        "postgres",
        layout,
        run_as,
        vec![
            "--single".to_owned(),
            "-D".to_owned(),
            data.display().to_string(),
            "postgres".to_owned(),
        ],
    );
    let log = fs::File::options()
        .create(true)
        .append(true)
        .open(&program.log)
        .map_err(cannot)?;
    let mut single = tokio::process::Command::from(child::command(&program));
    single
        .args(&program.arguments)
        .current_dir(&program.folder)
        .stdin(Stdio::piped())
        .stdout(log.try_clone().map_err(cannot)?)
        .stderr(log);
    let mut single = single.spawn().map_err(cannot)?;
    let mut input = single.stdin.take().expect("it is piped");
    input
        .write_all(format!("create database {DATABASE};\n").as_bytes())
        .await
        .map_err(cannot)?;
    drop(input);
    let status = single.wait().await.map_err(cannot)?;
    if status.success() {
        return Ok(());
    }
    Err(Failure::failed(format!(
        "cannot make the embedded database: {status}\n\n{}",
        child::last_lines(&layout.log)
    )))
}

fn program(
    binaries: &Path,
    name: &'static str,
    layout: &Layout,
    run_as: &RunAs,
    arguments: Vec<String>,
) -> Program {
    Program {
        name: if name == "postgres" {
            "the embedded Postgres"
        } else {
            name
        },
        path: binaries.join(name),
        arguments,
        run_as: run_as.clone(),
        folder: layout.home.clone(),
        log: layout.log.clone(),
    }
}

/// Runs a program to its end.
async fn run(program: Program) -> Result<()> {
    let child = Child::start(program).await?;
    let status = child.ended().await;
    if status.success() {
        Ok(())
    } else {
        Err(child.ended_unasked(status))
    }
}

/// A server whose parent was killed ends by itself, but it may not be done yet. Nobody else can hold this data: we
/// have the lock of the data directory.
async fn stop_orphan(data: &Path) -> Result<()> {
    let Some(pid) = orphan(data) else {
        return Ok(());
    };
    tracing::info!("waiting for the Postgres of an earlier start (process {pid}) to end");
    let _ended_meanwhile = kill(pid, Signal::SIGINT);
    let deadline = Instant::now() + STOP_PATIENCE;
    while orphan(data).is_some() {
        if Instant::now() > deadline {
            return Err(Failure::failed(format!(
                "a Postgres of an earlier start (process {pid}) does not end"
            ))
            .hint(format!("end it with `kill -QUIT {pid}` and start again")));
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(())
}

/// The process named in `postmaster.pid`, if it is alive and really a server over this data.
fn orphan(data: &Path) -> Option<Pid> {
    let text = fs::read_to_string(data.join("postmaster.pid")).ok()?;
    let pid: i32 = text.lines().next()?.trim().parse().ok()?;
    let command_line = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    let arguments = String::from_utf8_lossy(&command_line);
    let is_ours = arguments
        .split('\0')
        .any(|argument| Path::new(argument) == data);
    is_ours.then(|| Pid::from_raw(pid))
}

async fn launch(
    binaries: &Path,
    layout: &Layout,
    run_as: &RunAs,
    port: u16,
    password: &str,
) -> Result<Postgres> {
    let sockets = if layout.home.as_os_str().len() <= LONGEST_SOCKET_FOLDER {
        layout.home.display().to_string()
    } else {
        // Loopback does as well.
        String::new()
    };
    let mut arguments = vec!["-D".to_owned(), layout.data.display().to_string()];
    let settings = [
        ("listen_addresses", "127.0.0.1".to_owned()),
        ("port", port.to_string()),
        ("unix_socket_directories", sockets),
        ("max_connections", "200".to_owned()),
        // A snapshot that somebody forgot to close halves the rate of everything else.
        ("idle_in_transaction_session_timeout", "60s".to_owned()),
        ("log_checkpoints", "off".to_owned()),
    ];
    for (name, value) in settings {
        arguments.extend(["-c".to_owned(), format!("{name}={value}")]);
    }
    let child = Child::start(program(binaries, "postgres", layout, run_as, arguments)).await?;
    let postgres = Postgres {
        child,
        port,
        password: password.to_owned(),
    };
    postgres.wait_until_it_answers().await?;
    Ok(postgres)
}

impl Postgres {
    async fn wait_until_it_answers(&self) -> Result<()> {
        let options = PgConnectOptions::new()
            .host("127.0.0.1")
            .port(self.port)
            .username(USER)
            .password(&self.password)
            .database(DATABASE)
            .ssl_mode(PgSslMode::Disable)
            .disable_statement_logging();
        let deadline = Instant::now() + START_PATIENCE;
        loop {
            if let Some(status) = self.child.has_ended() {
                return Err(self.child.ended_unasked(status));
            }
            match options.connect().await {
                Ok(connection) => {
                    let _answered_already = connection.close().await;
                    return Ok(());
                }
                Err(error) if Instant::now() > deadline => {
                    return Err(Failure::unreachable(format!(
                        "the embedded Postgres does not answer after {} s",
                        START_PATIENCE.as_secs()
                    ))
                    .because(error));
                }
                Err(_not_yet) => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_closed_folder_on_the_way_is_named() {
        let root = tempfile::tempdir().expect("a temporary folder");
        fs::set_permissions(root.path(), fs::Permissions::from_mode(0o755)).expect("ours");
        let closed = root.path().join("closed");
        fs::create_dir_all(closed.join("data")).expect("ours");
        fs::set_permissions(&closed, fs::Permissions::from_mode(0o700)).expect("ours");
        let stranger = 54_321;
        assert_eq!(
            first_closed_folder(&closed.join("data"), stranger, stranger),
            Some(closed.clone())
        );
        fs::set_permissions(&closed, fs::Permissions::from_mode(0o711)).expect("ours");
        assert_eq!(
            first_closed_folder(&closed.join("data"), stranger, stranger),
            None
        );
    }

    #[test]
    fn a_setting_without_the_programs_is_refused() {
        let empty = tempfile::tempdir().expect("a temporary folder");
        let failure =
            find_binaries(Some(empty.path()), Path::new("/nonexistent")).expect_err("it is empty");
        assert!(failure.to_string().contains("embedded.postgres_bin"));
    }
}

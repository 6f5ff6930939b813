//! The processes: schedulers and workers, each behind a proxy of its own, and what befell each of them.

use std::{
    fs,
    net::SocketAddr,
    os::unix::process::ExitStatusExt,
    path::{Path, PathBuf},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use nix::sys::signal::Signal;
use pinwheel_test_support::proxy::{Counts, Proxy};

use super::plan::{SCHEDULERS, WORKERS};
use crate::process::{Process, eventually};

/// What a process does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    Scheduler,
    Worker,
}

/// A time in which a process was not to be relied on.
#[derive(Debug, Clone)]
pub(super) struct Trouble {
    pub(super) what: &'static str,
    /// In nanoseconds since 1970.
    pub(super) from: i64,
    pub(super) until: i64,
}

/// A process and its proxy.
#[derive(Debug)]
pub(super) struct Member {
    pub(super) role: Role,
    place: usize,
    generation: usize,
    /// As the table of workers and the ledger call it.
    pub(super) name: String,
    pub(super) process: Process,
    pub(super) proxy: Proxy,
    pub(super) troubles: Vec<Trouble>,
    /// Everybody's proxy is healed, except that of one who is cut off.
    is_cut_off: bool,
}

impl Member {
    /// What its proxy has counted.
    pub(super) fn counts(&self) -> Counts {
        self.proxy.counts()
    }
}

/// Everything that runs, and what has run.
#[derive(Debug)]
pub(super) struct Fleet {
    folder: PathBuf,
    dags: PathBuf,
    postgres: SocketAddr,
    database: String,
    lease: Duration,
    pub(super) members: Vec<Member>,
    /// Ended by the test.
    pub(super) gone: Vec<Member>,
}

/// Now, in nanoseconds since 1970.
pub(super) fn now() -> i64 {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .expect("it is later than 1970");
    i64::try_from(since.as_nanos()).expect("it is earlier than 2262")
}

impl Fleet {
    /// An empty fleet that keeps logs and scratch below `folder`.
    pub(super) fn new(
        folder: &Path,
        dags: &Path,
        postgres: SocketAddr,
        database: &str,
        lease: Duration,
    ) -> Self {
        for name in ["logs", "scratch", "settings"] {
            fs::create_dir(folder.join(name)).expect("the folder is new");
        }
        Self {
            folder: folder.to_owned(),
            dags: dags.to_owned(),
            postgres,
            database: database.to_owned(),
            lease,
            members: Vec::new(),
            gone: Vec::new(),
        }
    }

    /// Starts the schedulers and workers and waits until each is ready.
    pub(super) async fn start(&mut self) {
        for place in 0..SCHEDULERS {
            self.add(Role::Scheduler, place, 1).await;
        }
        for place in 0..WORKERS {
            self.add(Role::Worker, place, 1).await;
        }
        for member in &mut self.members {
            member.process.ready().await;
        }
    }

    async fn add(&mut self, role: Role, place: usize, generation: usize) {
        let word = match role {
            Role::Scheduler => "scheduler",
            Role::Worker => "worker",
        };
        let name = format!("{word}-{place}.{generation}");
        let proxy = Proxy::start(self.postgres).await;
        let settings = self.folder.join("settings").join(format!("{name}.toml"));
        fs::write(
            &settings,
            format!("[worker]\nname = \"{name}\"\nslots = 4\n"),
        )
        .expect("the folder is ours");
        let scratch = self.folder.join("scratch").join(&name);
        fs::create_dir(&scratch).expect("the name is new");
        let url = format!("postgres://postgres@{}/{}", proxy.address(), self.database);
        let text = |path: &Path| path.to_str().expect("temporary paths are UTF-8").to_owned();
        let lease = format!("{}ms", self.lease.as_millis());
        let heartbeat = format!("{}ms", self.lease.as_millis() / 4);
        let environment = [
            ("PINWHEEL_CONFIG", text(&settings)),
            ("PINWHEEL_DATABASE_URL", url),
            ("PINWHEEL_DAGS_FOLDER", text(&self.dags)),
            ("PINWHEEL_LOG_LEVEL", "info".to_owned()),
            ("PINWHEEL_WORKER_LEASE", lease),
            ("PINWHEEL_WORKER_HEARTBEAT", heartbeat),
            // Shorter than many tasks take, so that some are handed back.
            ("PINWHEEL_WORKER_GRACE", "150ms".to_owned()),
            // A worker wants to know where these are; no task of this test asks for them.
            ("PINWHEEL_KAFKA_BROKERS", "127.0.0.1:9".to_owned()),
            ("PINWHEEL_S3_ENDPOINT", "http://127.0.0.1:9".to_owned()),
            ("PINWHEEL_S3_ACCESS_KEY_ID", "none".to_owned()),
            ("PINWHEEL_S3_SECRET_ACCESS_KEY", "none".to_owned()),
            // It is all that a task sees of its worker, so it names the worker in the ledger.
            ("TMPDIR", text(&scratch)),
        ];
        let log = self.folder.join("logs").join(format!("{name}.log"));
        self.members.push(Member {
            role,
            place,
            generation,
            process: Process::start(&[word], &environment, &self.folder, log),
            name,
            proxy,
            troubles: Vec::new(),
            is_cut_off: false,
        });
    }

    /// The present process of a place.
    pub(super) fn member(&mut self, role: Role, place: usize) -> &mut Member {
        self.members
            .iter_mut()
            .find(|member| (member.role, member.place) == (role, place))
            .expect("every place has a process")
    }

    /// Kills the process of a place with -9 and starts another, without waiting until it is ready.
    pub(super) async fn replace(&mut self, role: Role, place: usize) {
        let mut member = self.take(role, place);
        let status = member.process.kill();
        assert_eq!(
            status.signal(),
            Some(Signal::SIGKILL as i32),
            "`{}` died of the kill",
            member.name
        );
        let at = now();
        member.trouble("killed", at, at);
        self.succeed(member).await;
    }

    /// Asks a stopped process to end, lets it go on, sees that it ends well, and starts another.
    pub(super) async fn retire(&mut self, role: Role, place: usize) {
        let mut member = self.take(role, place);
        let from = now();
        member.process.signal(Signal::SIGTERM);
        member.process.signal(Signal::SIGCONT);
        let status = eventually("it ends when it is asked to", async || {
            member.process.ended()
        })
        .await;
        assert!(status.success(), "`{}` ended with {status}", member.name);
        member.trouble("asked to stop", from, now());
        self.succeed(member).await;
    }

    fn take(&mut self, role: Role, place: usize) -> Member {
        let at = self
            .members
            .iter()
            .position(|member| (member.role, member.place) == (role, place))
            .expect("every place has a process");
        let mut member = self.members.remove(at);
        let ended = member.process.ended();
        assert_eq!(
            ended, None,
            "`{}` lives until the test ends it",
            member.name
        );
        member
    }

    async fn succeed(&mut self, member: Member) {
        let (role, place, generation) = (member.role, member.place, member.generation);
        self.gone.push(member);
        self.add(role, place, generation + 1).await;
    }

    /// Stops a process with SIGSTOP and sees that it is stopped.
    pub(super) async fn freeze(&mut self, role: Role, place: usize) {
        let member = self.member(role, place);
        member.process.signal(Signal::SIGSTOP);
        eventually("the process is stopped", async || {
            member.process.is_stopped().then_some(())
        })
        .await;
    }

    /// Lets a stopped process go on.
    pub(super) async fn thaw(&mut self, role: Role, place: usize) {
        let member = self.member(role, place);
        member.process.signal(Signal::SIGCONT);
        eventually("the process goes on", async || {
            (!member.process.is_stopped()).then_some(())
        })
        .await;
    }

    /// Marks a process as cut off: healing everybody leaves its proxy alone until [`Fleet::reconnect`].
    pub(super) fn cut_off(&mut self, place: usize) -> &Proxy {
        let member = self.member(Role::Worker, place);
        member.is_cut_off = true;
        &member.proxy
    }

    /// Ends a cut-off.
    pub(super) fn reconnect(&mut self, place: usize) {
        let member = self.member(Role::Worker, place);
        member.is_cut_off = false;
        member.proxy.heal();
    }

    /// Lets everything pass at every proxy but those of who is cut off.
    pub(super) fn heal(&self) {
        for member in self.reachable() {
            member.proxy.heal();
        }
    }

    /// Everybody who is not cut off.
    pub(super) fn reachable(&self) -> impl Iterator<Item = &Member> {
        self.members.iter().filter(|member| !member.is_cut_off)
    }

    /// Notes a time in which nobody was to be relied on.
    pub(super) fn trouble_for_all(&mut self, what: &'static str, from: i64, until: i64) {
        for member in &mut self.members {
            member.trouble(what, from, until);
        }
    }

    /// Who is dead without having been killed by the test.
    pub(super) fn dead(&mut self) -> Vec<String> {
        self.members
            .iter_mut()
            .filter_map(|member| {
                let status = member.process.ended()?;
                Some(format!("`{}` ended by itself: {status}", member.name))
            })
            .collect()
    }

    /// Everybody, dead or alive.
    pub(super) fn everybody(&self) -> impl Iterator<Item = &Member> {
        self.gone.iter().chain(&self.members)
    }
}

impl Member {
    /// Notes a time in which it was not to be relied on.
    pub(super) fn trouble(&mut self, what: &'static str, from: i64, until: i64) {
        self.troubles.push(Trouble { what, from, until });
    }
}

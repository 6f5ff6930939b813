//! Breaks everything at random while DAGs run, and sees that nothing was lost and nothing recorded twice.
//!
//! Schedulers and workers are real processes of the binary, each behind a proxy of its own, over one Postgres with fsync.
//! The faults follow from a seed: processes are killed with -9 or stopped past their lease, Postgres dies and comes back,
//! connections are cut or go silent. Each fault is seen to have happened. The oracle is a ledger that tasks write to by
//! themselves, and what the pure rules say of the same DAGs.
//!
//! `make chaos` runs it longer. `PINWHEEL_CHAOS_SEED` (a number, or `random`) and `PINWHEEL_CHAOS_FAULTS` choose; what it
//! did stands on standard error, and a failure prints the seed to run it again with.

mod fleet;
mod ledger;
mod oracle;
mod plan;
mod workload;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::PathBuf,
    time::{Duration, Instant},
};

use chrono::{DateTime, SubsecRound, TimeDelta, Utc};
use pinwheel_scheduler::{
    engine::bell,
    model::{DagId, Params, RunKind},
    store::{self, NewRun, Store},
};
use pinwheel_test_support::postgres::{Death, Mortal};
use sqlx::{Connection, PgConnection, PgPool, postgres::PgPoolOptions};

use crate::{harness::fresh_directory, process::eventually};
use fleet::{Fleet, Member, Role, now};
use oracle::{Evidence, Judgement};
use plan::{CutOff, Fault, Random, SCHEDULERS, Step, WORKERS, plan};
use workload::{NARROW, NARROW_SLOTS, Shape, TICKS, generate};

/// The lease of every process: short, so that its end is not waited for long, and long enough for a busy machine.
const LEASE: Duration = Duration::from_secs(4);
/// The faults of an ordinary run: every kind, and one more.
const FAULTS: usize = 9;
const SEED: u64 = 20_260_514;
const DATABASE: &str = "chaos";
/// With so many open runs no more are asked for.
const ENOUGH_RUNS: i64 = 40;
/// A process opens this many connections at most while nothing breaks: its pools, and the one that listens.
const CONNECTIONS: usize = 17;
/// And so many more for each outage and each second of it. A loop without a pause makes thousands.
const CONNECTIONS_PER_OUTAGE: usize = 40;
/// As above.
const CONNECTIONS_PER_SECOND: usize = 8;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_or_done_twice_whatever_breaks() {
    let (seed, faults) = (seed(), faults());
    let mut random = Random::new(seed);
    let shapes = generate(&mut random);
    let steps = plan(&mut random, faults);
    let mut story = format!("seed {seed}, {faults} faults:\n");
    for (place, step) in steps.iter().enumerate() {
        story += &format!("  {:2}. {step}\n", place + 1);
    }
    eprint!("chaos: {story}");
    let mut world = World::begin(story, shapes).await;
    for (place, step) in steps.iter().enumerate() {
        world.say(&format!("fault {} of {faults}: {step}", place + 1));
        world.ask_for_runs().await;
        world.inject(*step).await;
        world.everybody_lives();
    }
    let caught_up_at = world.heal().await;
    world.idle().await;
    world.judge(caught_up_at).await;
    world.end();
}

fn seed() -> u64 {
    match std::env::var("PINWHEEL_CHAOS_SEED").as_deref() {
        Err(_) => SEED,
        Ok("random") => u64::try_from(now()).expect("it is later than 1970") % 1_000_000_007,
        Ok(number) => number
            .parse()
            .expect("PINWHEEL_CHAOS_SEED is a number or `random`"),
    }
}

fn faults() -> usize {
    std::env::var("PINWHEEL_CHAOS_FAULTS").map_or(FAULTS, |number| {
        number
            .parse()
            .expect("PINWHEEL_CHAOS_FAULTS is a number of faults")
    })
}

/// Everything there is, and what is known of it. When the test fails it tells what a person needs.
struct World {
    story: String,
    began: Instant,
    folder: PathBuf,
    dags: PathBuf,
    ledger: PathBuf,
    shapes: Vec<Shape>,
    /// Before the database: processes end first.
    fleet: Fleet,
    store: Store,
    /// Past every proxy.
    database: PgPool,
    postgres: Mortal,
    asked: BTreeMap<(String, DateTime<Utc>), i64>,
}

impl World {
    async fn begin(story: String, shapes: Vec<Shape>) -> Self {
        let folder = fresh_directory("chaos");
        let dags = folder.join("dags");
        fs::create_dir(&dags).expect("the folder is new");
        let ledger = folder.join("ledger");
        for shape in &shapes {
            shape.write(&dags, &ledger);
        }
        let postgres = Mortal::start();
        let mut administrator = PgConnection::connect(&postgres.url("postgres"))
            .await
            .expect("Postgres takes connections");
        sqlx::query(sqlx::AssertSqlSafe(format!("create database {DATABASE}")))
            .execute(&mut administrator)
            .await
            .expect("the name is new");
        let store = Store::connect(&postgres.url(DATABASE))
            .await
            .expect("Postgres takes connections");
        store.migrate().await.expect("the database is empty");
        let database = PgPoolOptions::new()
            .max_connections(2)
            .connect_lazy(&postgres.url(DATABASE))
            .expect("it is a URL");
        sqlx::query("insert into pool (pool, slots) values ($1, $2)")
            .bind(NARROW)
            .bind(NARROW_SLOTS)
            .execute(&database)
            .await
            .expect("no DAG has named it yet");
        let fleet = Fleet::new(&folder, &dags, postgres.address(), DATABASE, LEASE);
        let mut world = Self {
            story,
            began: Instant::now(),
            folder,
            dags,
            ledger,
            shapes,
            fleet,
            store,
            database,
            postgres,
            asked: BTreeMap::new(),
        };
        world.fleet.start().await;
        world.say(&format!(
            "{SCHEDULERS} schedulers and {WORKERS} workers are up"
        ));
        world
    }

    fn say(&self, what: &str) {
        eprintln!(
            "chaos: {:6.1} s  {what}",
            self.began.elapsed().as_secs_f64()
        );
    }

    async fn count(&self, sql: &'static str, name: &str) -> i64 {
        sqlx::query_scalar(sql)
            .bind(name)
            .fetch_one(&self.database)
            .await
            .expect("the statement is valid")
    }

    /// One run of every DAG without a schedule, unless there is enough to do.
    async fn ask_for_runs(&mut self) {
        let open = "select count(*) from run where state in ('queued', 'running') and dag_id <> $1";
        if self.count(open, TICKS).await >= ENOUGH_RUNS {
            return;
        }
        let dags: Vec<String> = self
            .shapes
            .iter()
            .filter(|shape| !shape.is_scheduled)
            .map(|shape| shape.id.clone())
            .collect();
        // Apart by a microsecond from any other, because two rounds may come in the same one.
        let logical_date = Utc::now().trunc_subsecs(6)
            + TimeDelta::microseconds(i64::try_from(self.asked.len()).expect("a few"));
        for dag in dags {
            let number = self.ask_for_run(&dag, logical_date).await;
            self.asked.insert((dag, logical_date), number);
        }
        // The next heartbeat says the same.
        let _heard_later = bell::ring(&self.store).await;
    }

    /// Asks until there is an answer; the logical date keeps it from being two runs.
    async fn ask_for_run(&self, dag: &str, logical_date: DateTime<Utc>) -> i64 {
        eventually("the run is made", async || {
            let asked = NewRun {
                dag_id: DagId::new(dag).expect("it is a name"),
                kind: RunKind::Manual,
                logical_date: Some(logical_date),
                params: Params::new(),
                triggered_by: "chaos".to_owned(),
            };
            match self.store.trigger(asked).await {
                Ok(run) => Some(run.0),
                Err(store::Error::RunExists { run_id }) => Some(run_id.0),
                Err(error) if error.is_unavailable() => None,
                Err(error) => panic!("`{dag}` cannot be run: {error}"),
            }
        })
        .await
    }

    async fn inject(&mut self, step: Step) {
        match step.fault {
            Fault::FreezeWorker { worker } => self.freeze_worker(worker, step.meanwhile).await,
            Fault::CutOffWorker { worker, how } => {
                self.cut_off_worker(worker, how, step.meanwhile).await;
            }
            short => self.inject_short(short).await,
        }
    }

    async fn inject_short(&mut self, fault: Fault) {
        match fault {
            Fault::KillWorker { worker } => self.kill_worker(worker).await,
            Fault::RetireWorker { worker } => self.retire_worker(worker).await,
            Fault::KillScheduler { scheduler } => {
                self.fleet.replace(Role::Scheduler, scheduler).await;
            }
            Fault::RestartPostgres { death, away } => self.restart_postgres(death, away).await,
            Fault::CutEverybody { away } => self.cut_everybody(away).await,
            Fault::StallEverybody { silence } => self.stall_everybody(silence).await,
            Fault::FreezeWorker { .. } | Fault::CutOffWorker { .. } => {
                unreachable!("a plan has no long fault within another")
            }
        }
    }

    async fn kill_worker(&mut self, worker: usize) {
        let lease = self.stop_busy(worker).await;
        self.fleet.replace(Role::Worker, worker).await;
        self.lease_ends(lease).await;
        self.its_tasks_were_lost(lease).await;
    }

    async fn retire_worker(&mut self, worker: usize) {
        let lease = self.stop_busy(worker).await;
        self.fleet.retire(Role::Worker, worker).await;
        self.lease_ends(lease).await;
        assert_eq!(
            self.lost_with(lease).await,
            0,
            "a worker that is asked to stop gives back what it holds"
        );
    }

    async fn freeze_worker(&mut self, worker: usize, meanwhile: Option<Fault>) {
        let from = now();
        let lease = self.stop_busy(worker).await;
        if let Some(meanwhile) = meanwhile {
            self.inject_short(meanwhile).await;
        }
        self.lease_ends(lease).await;
        self.fleet.thaw(Role::Worker, worker).await;
        self.fleet
            .member(Role::Worker, worker)
            .trouble("stopped", from, now());
        self.its_tasks_were_lost(lease).await;
        self.has_new_lease(worker, lease).await;
    }

    async fn cut_off_worker(&mut self, worker: usize, how: CutOff, meanwhile: Option<Fault>) {
        let from = now();
        let lease = self.stop_busy(worker).await;
        let proxy = self.fleet.cut_off(worker);
        let before = proxy.counts();
        match how {
            CutOff::Refused => {
                proxy.refuse();
            }
            CutOff::Silent => proxy.stall(),
        }
        self.fleet.thaw(Role::Worker, worker).await;
        if let Some(meanwhile) = meanwhile {
            self.inject_short(meanwhile).await;
        }
        self.lease_ends(lease).await;
        let member = self.fleet.member(Role::Worker, worker);
        eventually("the worker tries to reach Postgres", async || {
            let counts = member.counts();
            let tried = match how {
                CutOff::Refused => counts.refused > before.refused,
                CutOff::Silent => counts.held > before.held,
            };
            tried.then_some(())
        })
        .await;
        self.fleet.reconnect(worker);
        self.fleet
            .member(Role::Worker, worker)
            .trouble("cut off", from, now());
        self.its_tasks_were_lost(lease).await;
        self.has_new_lease(worker, lease).await;
    }

    async fn restart_postgres(&mut self, death: Death, away: Duration) {
        self.somebody_is_busy().await;
        let from = now();
        let before = self.postgres_began().await;
        self.postgres.kill(death);
        // How long it is away is part of the fault.
        tokio::time::sleep(away).await;
        self.postgres.start_again();
        let after = self.postgres_began().await;
        assert!(after > before, "Postgres began anew: {before}, {after}");
        self.fleet.trouble_for_all("Postgres was away", from, now());
    }

    async fn postgres_began(&self) -> DateTime<Utc> {
        sqlx::query_scalar("select pg_postmaster_start_time()")
            .fetch_one(&self.database)
            .await
            .expect("the statement is valid")
    }

    async fn cut_everybody(&mut self, away: Duration) {
        self.somebody_is_busy().await;
        let from = now();
        let fleet = &self.fleet;
        eventually("everybody is connected", async || {
            let is_connected =
                |member: &Member| member.process.is_stopped() || member.counts().open > 0;
            fleet.reachable().all(is_connected).then_some(())
        })
        .await;
        let cut: usize = self
            .fleet
            .reachable()
            .map(|member| member.proxy.refuse())
            .sum();
        assert!(cut > 0, "everybody was connected a moment ago");
        // As above.
        tokio::time::sleep(away).await;
        self.fleet.heal();
        self.fleet.trouble_for_all("cut", from, now());
    }

    async fn stall_everybody(&mut self, silence: Duration) {
        self.somebody_is_busy().await;
        let from = now();
        let held =
            |fleet: &Fleet| -> usize { fleet.reachable().map(|member| member.counts().held).sum() };
        let before = held(&self.fleet);
        for member in self.fleet.reachable() {
            member.proxy.stall();
        }
        // As above.
        tokio::time::sleep(silence).await;
        eventually("somebody speaks into the silence", async || {
            (held(&self.fleet) > before).then_some(())
        })
        .await;
        self.fleet.heal();
        self.fleet.trouble_for_all("stalled", from, now());
    }

    /// Stops a worker with SIGSTOP at a moment at which it holds tasks, and returns its lease. What it holds then it cannot
    /// give back before it goes on.
    async fn stop_busy(&mut self, worker: usize) -> i64 {
        let name = {
            let member = self.fleet.member(Role::Worker, worker);
            member.process.ready().await;
            member.name.clone()
        };
        let began = Instant::now();
        loop {
            self.is_busy(
                "select count(*) from task_instance join worker using (worker_id) where name = $1",
                &name,
            )
            .await;
            self.fleet.freeze(Role::Worker, worker).await;
            self.its_statements_end(worker).await;
            let held: Option<i64> = sqlx::query_scalar(
                "select max(worker_id) from task_instance join worker using (worker_id)
                where name = $1 and state = 'running' and ended_at is null",
            )
            .bind(&name)
            .fetch_one(&self.database)
            .await
            .expect("the statement is valid");
            if let Some(lease) = held {
                return lease;
            }
            self.fleet.thaw(Role::Worker, worker).await;
            assert!(
                began.elapsed() < Duration::from_secs(60),
                "`{name}` was never stopped with a task in its hands"
            );
        }
    }

    /// What a stopped worker had sent before is still carried out.
    async fn its_statements_end(&mut self, worker: usize) {
        let member = self.fleet.member(Role::Worker, worker);
        let database = &self.database;
        eventually("its statements end", async || {
            let active: i64 = sqlx::query_scalar(
                "select count(*) from pg_stat_activity where client_port = any($1) and state = 'active'",
            )
            .bind(member.proxy.ports())
            .fetch_one(database)
            .await
            .expect("the statement is valid");
            (active == 0).then_some(())
        })
        .await;
    }

    async fn somebody_is_busy(&mut self) {
        self.is_busy(
            "select count(*) from task_instance where state = 'running' and $1 <> ''",
            "any",
        )
        .await;
    }

    /// Waits until the count is not zero, and sees to it that there is something to do.
    async fn is_busy(&mut self, sql: &'static str, name: &str) {
        let began = Instant::now();
        while self.count(sql, name).await == 0 {
            assert!(
                began.elapsed() < Duration::from_secs(120),
                "`{name}` has had nothing to do for two minutes"
            );
            let waiting = "select count(*) from ready where pool <> $1";
            if self.count(waiting, NARROW).await == 0 {
                self.ask_for_runs().await;
            }
            tokio::time::sleep(Duration::from_millis(25)).await;
        }
    }

    async fn lease_ends(&self, lease: i64) {
        eventually("the lease ends", async || {
            let ended: bool =
                sqlx::query_scalar("select ended_at is not null from worker where worker_id = $1")
                    .bind(lease)
                    .fetch_one(&self.database)
                    .await
                    .expect("the statement is valid");
            ended.then_some(())
        })
        .await;
    }

    async fn its_tasks_were_lost(&self, lease: i64) {
        assert!(
            self.lost_with(lease).await > 0,
            "lease {lease} held tasks when its worker was stopped"
        );
    }

    async fn lost_with(&self, lease: i64) -> i64 {
        sqlx::query_scalar("select count(*) from try where worker_id = $1 and outcome = 'lost'")
            .bind(lease)
            .fetch_one(&self.database)
            .await
            .expect("the statement is valid")
    }

    async fn has_new_lease(&mut self, worker: usize, lease: i64) {
        let name = self.fleet.member(Role::Worker, worker).name.clone();
        eventually("the worker has a new lease", async || {
            let newest: i64 =
                sqlx::query_scalar("select max(worker_id) from worker where name = $1")
                    .bind(&name)
                    .fetch_one(&self.database)
                    .await
                    .expect("the statement is valid");
            (newest > lease).then_some(())
        })
        .await;
    }

    /// No process has ended but those that were killed.
    fn everybody_lives(&mut self) {
        let dead = self.fleet.dead();
        assert!(dead.is_empty(), "{dead:?}");
    }

    /// Ends the work: no more faults, no more ticks, every run final. Returns when the last tick had its run.
    async fn heal(&mut self) -> DateTime<Utc> {
        self.fleet.heal();
        for member in &mut self.fleet.members {
            member.process.ready().await;
        }
        self.say("no more faults");
        let caught_up_at = eventually("every tick has its run", async || {
            sqlx::query_scalar(
                "select clock_timestamp() from dag where dag_id = $1 and next_fire_at > clock_timestamp()",
            )
            .bind(TICKS)
            .fetch_optional(&self.database)
            .await
            .expect("the statement is valid")
        })
        .await;
        let mut ticks = self
            .shapes
            .iter()
            .find(|shape| shape.is_scheduled)
            .expect("one is scheduled")
            .clone();
        ticks.is_scheduled = false;
        ticks.write(&self.dags, &self.ledger);
        eventually("the schedule is gone", async || {
            let scheduled =
                "select count(*) from dag where dag_id = $1 and next_fire_at is not null";
            (self.count(scheduled, TICKS).await == 0).then_some(())
        })
        .await;
        let mut told = 0;
        eventually("every run is final", async || {
            let open = "select count(*) from run where state in ('queued', 'running') and $1 <> ''";
            let open = self.count(open, "any").await;
            if open != told {
                told = open;
                self.say(&format!("{open} runs are open"));
            }
            (open == 0).then_some(())
        })
        .await;
        caught_up_at
    }

    /// With nothing to do every process renews its lease and does nothing else.
    async fn idle(&mut self) {
        self.everybody_lives();
        let ticks: Vec<u64> = self
            .fleet
            .members
            .iter()
            .map(|member| member.process.cpu_ticks())
            .collect();
        let ended = |member: &Member| {
            let counts = member.counts();
            counts.opened.saturating_sub(counts.open)
        };
        let before: Vec<usize> = self.fleet.members.iter().map(ended).collect();
        let began = Instant::now();
        for _ in 0..2 {
            self.renews_every_lease().await;
        }
        let passed = began.elapsed();
        for (place, member) in self.fleet.members.iter().enumerate() {
            let used = Duration::from_millis(10 * (member.process.cpu_ticks() - ticks[place]));
            assert!(
                used < passed / 2,
                "`{}` has nothing to do and used {used:?} of {passed:?}",
                member.name
            );
            // A new connection in a pool is nothing; one after the other that ends is a loop.
            let more = ended(member) - before[place];
            assert!(
                more <= 2,
                "`{}` has nothing to do and lost {more} connections",
                member.name
            );
        }
        self.say("everybody is idle");
    }

    async fn renews_every_lease(&self) {
        let leases = async || -> BTreeMap<String, DateTime<Utc>> {
            let rows: Vec<(String, DateTime<Utc>)> = sqlx::query_as(
                "select name, max(lease_until) from worker where ended_at is null group by name",
            )
            .fetch_all(&self.database)
            .await
            .expect("the statement is valid");
            rows.into_iter().collect()
        };
        let before = leases().await;
        eventually("every process renews its lease", async || {
            let after = leases().await;
            self.fleet
                .members
                .iter()
                .all(|member| after.get(&member.name) > before.get(&member.name))
                .then_some(())
        })
        .await;
    }

    async fn judge(&mut self, caught_up_at: DateTime<Utc>) {
        let executions =
            ledger::read(&self.ledger).unwrap_or_else(|error| panic!("the ledger: {error}"));
        let evidence = Evidence {
            shapes: &self.shapes,
            fleet: &self.fleet,
            executions: &executions,
            asked: &self.asked,
            caught_up_at,
            lease: i64::try_from(LEASE.as_nanos()).expect("it is short"),
        };
        let judgement = oracle::judge(&self.database, &evidence)
            .await
            .expect("the database can be read");
        for note in &judgement.notes {
            self.say(note);
        }
        let mut violations: Vec<String> = judgement
            .violations
            .iter()
            .map(|violation| violation.what.clone())
            .collect();
        violations.extend(self.words_and_connections());
        if !violations.is_empty() {
            self.tell_ledger(&judgement);
            panic!(
                "{} violations:\n{}",
                violations.len(),
                violations.join("\n")
            );
        }
    }

    /// Each process said so when Postgres was away, once an outage, and did not hammer at the door.
    fn words_and_connections(&self) -> Vec<String> {
        let mut violations = Vec::new();
        for member in self.fleet.everybody() {
            let said = member.process.said();
            let mut away = 0;
            for line in said.lines() {
                if line.contains("Postgres is away") {
                    away += 1;
                } else if line.contains(" ERROR ") || line.contains("panicked") {
                    violations.push(format!("`{}` said: {line}", member.name));
                }
            }
            let outages = member.troubles.len();
            if away > outages {
                violations.push(format!(
                    "`{}` said {away} times in {outages} outages that Postgres is away",
                    member.name
                ));
            }
            let seconds: i64 = member
                .troubles
                .iter()
                .map(|trouble| (trouble.until - trouble.from) / 1_000_000_000 + 1)
                .sum();
            let seconds = usize::try_from(seconds).expect("troubles end after they begin");
            let bound =
                CONNECTIONS + outages * CONNECTIONS_PER_OUTAGE + seconds * CONNECTIONS_PER_SECOND;
            let opened = member.counts().opened;
            if opened > bound {
                violations.push(format!(
                    "`{}` opened {opened} connections in {outages} outages of {seconds} s together",
                    member.name
                ));
            }
            self.say(&format!(
                "`{}`: {outages} outages of {seconds} s, said so {away} times, {opened} connections",
                member.name
            ));
        }
        violations
    }

    fn tell_ledger(&self, judgement: &Judgement) {
        let about: BTreeSet<&(i64, String)> = judgement
            .violations
            .iter()
            .filter_map(|violation| violation.about.as_ref())
            .collect();
        let ledger = fs::read_to_string(&self.ledger).unwrap_or_default();
        for (run, task) in about.into_iter().take(20) {
            eprintln!("chaos: the ledger on run {run}, task `{task}`:");
            let begins = format!("{run} {task} ");
            for line in ledger.lines().filter(|line| line.starts_with(&begins)) {
                eprintln!("    {line}");
            }
        }
    }

    fn end(self) {
        self.say("nothing was lost, nothing was done twice");
        let folder = self.folder.clone();
        drop(self);
        // What is left is removed by a later test process.
        let _removed_later = fs::remove_dir_all(folder);
    }
}

impl Drop for World {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            return;
        }
        eprintln!("chaos: it was {}", self.story);
        for member in self.fleet.everybody() {
            let said = member.process.said();
            let lines: Vec<&str> = said.lines().collect();
            let tail = &lines[lines.len().saturating_sub(25)..];
            eprintln!(
                "chaos: the last words of `{}`:\n    {}",
                member.name,
                tail.join("\n    ")
            );
            for trouble in &member.troubles {
                eprintln!(
                    "    {} from {} until {}",
                    trouble.what, trouble.from, trouble.until
                );
            }
        }
        let log = self.postgres.log();
        let lines: Vec<&str> = log.lines().collect();
        let tail = &lines[lines.len().saturating_sub(15)..];
        eprintln!(
            "chaos: the last words of Postgres:\n    {}",
            tail.join("\n    ")
        );
        eprintln!(
            "chaos: everything is in {} until the next test",
            self.folder.display()
        );
    }
}

//! Retention: what goes, what stays, and who may be at it at the same time.

use super::*;
use crate::model::Schedule;

const NOW: TimeDelta = TimeDelta::zero();

fn older_than(days: u64, keep: u32) -> Retention {
    Retention {
        runs: Keep::For(Duration::from_secs(days * 24 * 60 * 60)),
        keep,
    }
}

/// Takes every step of a pass.
async fn pass(store: &Store, retention: Retention, prune: Prune) -> Removed {
    let mut pass = store.begin_pass(retention, prune, NOW).await.unwrap();
    let mut total = Removed::default();
    while let Some(removed) = pass.step().await.unwrap() {
        total += removed;
    }
    total
}

/// Lets a run have happened so many days ago.
async fn age(store: &Store, run: RunId, days: u32) {
    sql(
        store,
        format!(
            "update run set created_at = created_at - interval '{days} days', \
             started_at = started_at - interval '{days} days', \
             finished_at = finished_at - interval '{days} days' where run_id = {run}"
        ),
    )
    .await;
}

/// A finished run with lines, templates, outputs and a frozen plan.
async fn finished_run(store: &Store, dag: &Dag, worker: WorkerId) -> RunId {
    let run = trigger(store, dag).await;
    loop {
        let claimed = claim(store, worker, 8).await;
        if claimed.is_empty() {
            return run;
        }
        for one in claimed {
            let durable = Fenced::new(store.clone(), &one.execution);
            durable.freeze("plan", json!({ "end": 5 })).await.unwrap();
            let line = LogLine {
                instance_id: one.execution.instance_id,
                epoch: one.execution.epoch,
                line: 1,
                try_number: 1,
                at: chrono::Utc::now(),
                stream: pinwheel_tasks::LogStream::Stdout,
                message: "hello".to_owned(),
            };
            let output = json!({ "rows": 1 });
            let mut ended = ended(one, Ending::Success { output });
            ended.lines.push(line);
            ended.rendered = Some(json!({ "say": "hello" }));
            store.settle(&[ended]).await.unwrap();
        }
    }
}

/// How many rows there are about these runs, table by table.
async fn rows_about(store: &Store, run: RunId) -> Vec<i64> {
    let mut counts = Vec::new();
    for table in ["run", "run_params", "task_instance"] {
        let query = format!("select count(*) from {table} where run_id = {run}");
        counts.push(
            sqlx::query_scalar(AssertSqlSafe(query))
                .fetch_one(&store.people)
                .await
                .unwrap(),
        );
    }
    counts
}

/// How many rows every table of history has.
async fn rows_in_all(store: &Store) -> BTreeMap<&'static str, i64> {
    let mut counts = BTreeMap::new();
    for table in [
        "run",
        "run_params",
        "task_instance",
        "try",
        "log_line",
        "output",
        "rendered",
        "frozen",
        "resume",
        "audit",
        "worker",
        "dag_version",
        "task",
        "edge",
        "gate",
        "cursor_position",
        "cursor_plan",
    ] {
        let query = format!("select count(*) from {table}");
        let count = sqlx::query_scalar(AssertSqlSafe(query))
            .fetch_one(&store.people)
            .await
            .unwrap();
        counts.insert(table, count);
    }
    counts
}

/// What must hold between the tables of history and those they belong to.
async fn nothing_is_left_over(store: &Store) {
    for table in ["try", "log_line", "output", "rendered", "frozen", "resume"] {
        let query = format!(
            "select count(*) from {table} x \
             where not exists (select from task_instance i where i.instance_id = x.instance_id)"
        );
        let count: i64 = sqlx::query_scalar(AssertSqlSafe(query))
            .fetch_one(&store.people)
            .await
            .unwrap();
        assert_eq!(count, 0, "rows of `{table}` without a task instance");
    }
    assert_eq!(store.check().await.unwrap().findings, []);
}

fn pair() -> Dag {
    dag("pair", &[("a", &[]), ("b", &["a"])])
}

#[tokio::test]
async fn old_runs_go_with_all_that_belongs_to_them_and_the_others_stay() {
    let (store, _) = fresh_store().await;
    let pair = pair();
    publish(&store, &pair).await;
    let worker = register(&store, "one").await;
    let old = finished_run(&store, &pair, worker).await;
    let cancelled = trigger(&store, &pair).await;
    store.cancel_run(cancelled, "ada").await.unwrap();
    let young = finished_run(&store, &pair, worker).await;
    let open = trigger(&store, &pair).await;
    let running = claim(&store, worker, 1).await.pop().unwrap();
    let last = finished_run(&store, &pair, worker).await;
    for run in [old, cancelled, open, last] {
        age(&store, run, 100).await;
    }
    sql(
        &store,
        format!(
            "insert into run_params (run_id, params) values ({old}, '{{}}'), ({young}, '{{}}')"
        ),
    )
    .await;
    sql(
        &store,
        "insert into cursor_position (cursor, partition, next, moved_by) values ('pins', 0, 5, 'plan'); \
         insert into cursor_plan (cursor, plan) values ('pins', 'plan')"
            .to_owned(),
    )
    .await;
    let kept = [
        rows_about(&store, young).await,
        rows_about(&store, last).await,
    ];
    let removed = pass(&store, older_than(90, 1), Prune::Remove).await;
    assert_eq!(
        removed,
        Removed {
            runs: 2,
            task_instances: 4,
            tries: 2,
            log_lines: 2,
            rendered: 2,
            outputs: 2,
            frozen: 2,
            ..Removed::default()
        }
    );
    assert_eq!(rows_about(&store, old).await, [0, 0, 0]);
    assert_eq!(rows_about(&store, cancelled).await, [0, 0, 0]);
    assert_eq!(
        [
            rows_about(&store, young).await,
            rows_about(&store, last).await
        ],
        kept
    );
    let all = rows_in_all(&store).await;
    assert_eq!((all["cursor_position"], all["cursor_plan"]), (1, 1));
    assert_eq!((all["log_line"], all["frozen"]), (4, 4));
    nothing_is_left_over(&store).await;
    assert_eq!(
        store
            .log(
                store.instances(young).await.unwrap()[0].instance_id,
                crate::store::LogPosition::default(),
                10
            )
            .await
            .unwrap()
            .len(),
        1
    );
    assert_eq!(
        pass(&store, older_than(90, 1), Prune::Remove).await,
        Removed::default(),
        "a second pass finds nothing"
    );
    store.settle(&[ended(running, success())]).await.unwrap();
    assert_eq!(run_all(&store, worker, |_| success()).await, ["b"]);
    assert_eq!(run_state(&store, open).await, RunState::Success);
}

#[tokio::test]
async fn the_last_runs_of_each_dag_stay_whatever_their_age() {
    let (store, _) = fresh_store().await;
    let worker = register(&store, "one").await;
    let dags = [
        dag("often", &[("a", &[])]),
        dag("seldom", &[("a", &[])]),
        dag("never", &[("a", &[])]),
    ];
    let mut runs = Vec::new();
    for dag in &dags {
        publish(&store, dag).await;
    }
    for number in 0..12 {
        let dag = if number % 4 == 0 { &dags[1] } else { &dags[0] };
        let run = finished_run(&store, dag, worker).await;
        age(&store, run, 200 - number).await;
        runs.push((dag.id.as_str().to_owned(), run));
    }
    let removed = pass(&store, older_than(90, 2), Prune::Remove).await;
    assert_eq!(removed.runs, 7 + 1);
    for id in ["often", "seldom"] {
        let made: Vec<RunId> = runs
            .iter()
            .filter(|(dag, _)| dag == id)
            .map(|(_, run)| *run)
            .collect();
        let mut left: Vec<RunId> = Vec::new();
        for run in &made {
            if store.run(*run).await.unwrap().is_some() {
                left.push(*run);
            }
        }
        assert_eq!(left, made[made.len() - 2..]);
    }
    assert_eq!(
        pass(&store, older_than(90, 0), Prune::Remove).await.runs,
        4,
        "without a number to keep all of them go"
    );
    nothing_is_left_over(&store).await;
}

#[tokio::test]
async fn what_is_kept_for_ever_is_never_removed() {
    let (store, _) = fresh_store().await;
    let pair = pair();
    publish(&store, &pair).await;
    let worker = register(&store, "one").await;
    let run = finished_run(&store, &pair, worker).await;
    age(&store, run, 5_000).await;
    store
        .set_paused(&pair.id, Paused::Paused, "ada")
        .await
        .unwrap();
    sql(
        &store,
        "update audit set at = at - interval '5000 days'; update dag_version set created_at = created_at - interval '5000 days'"
            .to_owned(),
    )
    .await;
    let forever = Retention {
        runs: Keep::Forever,
        keep: 0,
    };
    for prune in [Prune::Count, Prune::Remove] {
        assert_eq!(pass(&store, forever, prune).await, Removed::default());
    }
    assert!(store.run(run).await.unwrap().is_some());
}

/// History of every sort that is old, beside some that is not.
async fn old_history() -> (Store, Dag, WorkerId) {
    let (store, _) = fresh_store().await;
    let worker = register(&store, "one").await;
    let mut pair = pair();
    // Four versions: of runs that go, of none, of a run that stays, and the current one.
    for description in ["first", "second", "third", "fourth"] {
        pair.description = description.to_owned();
        publish(&store, &pair).await;
        match description {
            "first" => {
                for _ in 0..45 {
                    let run = finished_run(&store, &pair, worker).await;
                    age(&store, run, 100).await;
                }
            }
            "third" => {
                finished_run(&store, &pair, worker).await;
            }
            _none => {}
        }
    }
    for paused in [Paused::Paused, Paused::Active] {
        store.set_paused(&pair.id, paused, "ada").await.unwrap();
    }
    register(&store, "lives").await;
    let gone = register(&store, "gone").await;
    store.resign(gone).await.unwrap();
    let just_gone = register(&store, "just gone").await;
    store.resign(just_gone).await.unwrap();
    sql(
        &store,
        format!(
            "update audit set at = at - interval '100 days' where action = 'pause'; \
             update worker set ended_at = ended_at - interval '100 days' where worker_id = {gone}; \
             update worker set started_at = started_at - interval '200 days'; \
             update dag_version set created_at = created_at - interval '100 days'"
        ),
    )
    .await;
    (store, pair, worker)
}

#[tokio::test]
async fn what_a_dry_run_counts_is_what_a_pass_removes_and_it_changes_nothing() {
    let (store, _, _) = old_history().await;
    let before = rows_in_all(&store).await;
    let counted = pass(&store, older_than(90, 1), Prune::Count).await;
    assert_eq!(rows_in_all(&store).await, before);
    let removed = pass(&store, older_than(90, 1), Prune::Remove).await;
    assert_eq!(counted, removed);
    assert_eq!(
        removed,
        Removed {
            runs: 45,
            task_instances: 90,
            tries: 90,
            log_lines: 90,
            rendered: 90,
            outputs: 90,
            frozen: 90,
            audit: 1,
            dataset_events: 0,
            workers: 1,
            versions: 2,
            gates: 0,
            messages: 0,
        }
    );
    nothing_is_left_over(&store).await;
}

#[tokio::test]
async fn versions_go_once_no_run_refers_to_them_and_the_current_one_never() {
    let (store, pair, _) = old_history().await;
    pass(&store, older_than(90, 1), Prune::Remove).await;
    let left: Vec<String> = sqlx::query_scalar(
        "select definition ->> 'description' from dag_version order by version_id",
    )
    .fetch_all(&store.people)
    .await
    .unwrap();
    assert_eq!(left, ["third", "fourth"]);
    let all = rows_in_all(&store).await;
    assert_eq!((all["task"], all["edge"]), (4, 2));
    // The bytes of a version that is gone can be published again.
    let mut again = pair.clone();
    again.description = "first".to_owned();
    publish(&store, &again).await;
    trigger(&store, &again).await;
    nothing_is_left_over(&store).await;
}

#[tokio::test]
async fn two_passes_at_once_remove_everything_once() {
    let (store, _, _) = old_history().await;
    let (one, two) = tokio::join!(
        pass(&store, older_than(90, 1), Prune::Remove),
        pass(&store, older_than(90, 1), Prune::Remove)
    );
    let mut together = one;
    together += two;
    assert_eq!(
        (
            together.runs,
            together.task_instances,
            together.tries,
            together.log_lines
        ),
        (45, 90, 90, 90)
    );
    assert_eq!(number(&store, "select count(*) from run").await, 1);
    nothing_is_left_over(&store).await;
}

#[tokio::test]
async fn a_run_that_is_cleared_while_a_pass_is_under_way_is_never_removed() {
    let (store, pair, worker) = old_history().await;
    let mut pass = store
        .begin_pass(older_than(90, 1), Prune::Remove, NOW)
        .await
        .unwrap();
    let first = pass.step().await.unwrap().unwrap();
    assert!(first.runs > 0 && first.runs < 40, "some are left");
    // The pass has found these already.
    let clear = |run_id| ClearRequest {
        run_id,
        selection: ClearSelection::WholeRun,
        scope: ClearScope::Only,
        version: crate::store::ClearVersion::Same,
        actor: "ada".to_owned(),
    };
    let (cleared, being_cleared) = (RunId(30), RunId(31));
    store.clear(clear(cleared)).await.unwrap();
    // This one is in the hands of somebody who has not said yet what becomes of it.
    let mut person = store.people.begin().await.unwrap();
    sqlx::query("select from run where run_id = $1 for no key update")
        .bind(being_cleared.0)
        .execute(&mut *person)
        .await
        .unwrap();
    let mut total = first;
    while let Some(removed) = pass.step().await.unwrap() {
        total += removed;
    }
    person.rollback().await.unwrap();
    assert_eq!(total.runs, 43);
    assert_eq!(run_state(&store, cleared).await, RunState::Running);
    assert_eq!(rows_about(&store, being_cleared).await, [1, 0, 2]);
    let tries = store
        .tries(store.instances(cleared).await.unwrap()[0].instance_id)
        .await
        .unwrap();
    assert_eq!(tries.len(), 1, "its history stays as well");
    let ran = run_all(&store, worker, |_| success()).await;
    assert_eq!(ran, ["a", "b"]);
    assert_eq!(run_state(&store, cleared).await, RunState::Success);
    store.clear(clear(being_cleared)).await.unwrap();
    assert_eq!(run_all(&store, worker, |_| success()).await, ["a", "b"]);
    assert_eq!(pair.tasks.len(), 2);
    nothing_is_left_over(&store).await;
}

#[tokio::test]
async fn a_run_with_much_history_goes_in_several_steps_and_whole_in_the_end() {
    let (store, _) = fresh_store().await;
    let pair = pair();
    publish(&store, &pair).await;
    let worker = register(&store, "one").await;
    let run = finished_run(&store, &pair, worker).await;
    age(&store, run, 100).await;
    sql(
        &store,
        "insert into log_line (instance_id, epoch, line, try_number, at, stream, message) \
         select i.instance_id, 1, n, 1, now(), 'stdout', 'much' from task_instance i, generate_series(2, 6001) n"
            .to_owned(),
    )
    .await;
    let mut pass = store
        .begin_pass(older_than(90, 0), Prune::Remove, NOW)
        .await
        .unwrap();
    let mut steps = Vec::new();
    while let Some(removed) = pass.step().await.unwrap() {
        assert_eq!(
            store.run(run).await.unwrap().is_none(),
            removed.runs == 1,
            "as long as it is there its task instances and outputs are"
        );
        steps.push(removed);
    }
    assert_eq!(
        steps
            .iter()
            .map(|step| (step.runs, step.log_lines))
            .collect::<Vec<_>>(),
        [(0, 5_000), (0, 5_000), (1, 2_002)]
    );
    nothing_is_left_over(&store).await;
}

#[tokio::test]
async fn gates_go_when_nobody_has_come_before_them_for_an_hour_and_nobody_needs_them() {
    let (store, _) = fresh_store().await;
    let quartet = dag("quartet", &[("a", &[]), ("b", &[]), ("c", &[]), ("d", &[])]);
    publish(&store, &quartet).await;
    trigger(&store, &quartet).await;
    let worker = register(&store, "one").await;
    let running = claim(&store, worker, 1).await.pop().unwrap();
    let sleeping = claim(&store, worker, 1).await.pop().unwrap();
    let slept = sleeping.execution.instance_id;
    store.settle(&[ended(sleeping, sleep(0))]).await.unwrap();
    let running = running.execution.instance_id;
    sql(
        &store,
        format!(
            "insert into gate (gate, slots, touched_at) \
                 select 'key:' || gate, 1, now() - interval '2 hours' \
                 from unnest(array['idle', 'ready', 'parked', 'before_parked', 'running', 'sleeping']) as gate; \
             insert into gate (gate, slots) values ('key:touched', 1); \
             insert into gate_use (gate, instance_id) values ('key:running', {running}); \
             update task_instance set gates = '{{key:sleeping}}' where instance_id = {slept}; \
             update ready set gates = '{{key:ready}}' where instance_id = {slept} + 1; \
             update ready set gates = '{{key:parked,key:before_parked}}', parked = true where instance_id = {slept} + 2; \
             insert into parked (gate, pool, queue, priority, instance_id) \
                 values ('key:parked', 'default', 'default', 0, {slept} + 2)"
        ),
    )
    .await;
    for (prune, retention) in [
        (Prune::Count, older_than(90, 30)),
        (
            Prune::Remove,
            Retention {
                runs: Keep::Forever,
                keep: 30,
            },
        ),
    ] {
        assert_eq!(
            pass(&store, retention, prune).await,
            Removed {
                gates: 1,
                ..Removed::default()
            }
        );
    }
    let left: Vec<String> = sqlx::query_scalar("select gate from gate order by gate")
        .fetch_all(&store.people)
        .await
        .unwrap();
    assert_eq!(
        left,
        [
            "key:before_parked",
            "key:parked",
            "key:ready",
            "key:running",
            "key:sleeping",
            "key:touched"
        ]
    );
}

#[tokio::test]
async fn a_gate_that_is_touched_while_a_pass_looks_at_it_stays() {
    let (store, _) = fresh_store().await;
    sql(
        &store,
        "insert into gate (gate, slots, touched_at) values ('key:x', 1, now() - interval '2 hours')".to_owned(),
    )
    .await;
    let mut promotion = store.people.begin().await.unwrap();
    sqlx::query("update gate set touched_at = clock_timestamp()")
        .execute(&mut *promotion)
        .await
        .unwrap();
    let removed = pass(&store, older_than(90, 30), Prune::Remove).await;
    assert_eq!(removed.gates, 0, "it waits for nobody");
    promotion.commit().await.unwrap();
    let removed = pass(&store, older_than(90, 30), Prune::Remove).await;
    assert_eq!(removed.gates, 0);
}

#[tokio::test]
async fn old_is_told_by_the_clock_that_is_given() {
    let (store, _) = fresh_store().await;
    let mut pair = pair();
    pair.schedule = Some(Schedule::parse_cron("0 0 1 1 *", chrono_tz::Tz::UTC).unwrap());
    publish(&store, &pair).await;
    let worker = register(&store, "one").await;
    finished_run(&store, &pair, worker).await;
    for (days, expected) in [(89, 0), (91, 1)] {
        let mut pass = store
            .begin_pass(older_than(90, 0), Prune::Remove, TimeDelta::days(days))
            .await
            .unwrap();
        let mut runs = 0;
        while let Some(removed) = pass.step().await.unwrap() {
            runs += removed.runs;
        }
        assert_eq!(runs, expected, "after {days} days");
    }
}

/// The plan of a statement as the engine's connections make it, whatever its parameters are.
async fn plan(store: &Store, statement: &str, parameters: &str) -> String {
    let mut connection = store.engine.acquire().await.unwrap();
    let script = format!("prepare planned as {statement}");
    sqlx::raw_sql(AssertSqlSafe(script))
        .execute(&mut *connection)
        .await
        .unwrap();
    let explain = format!("explain execute planned({parameters})");
    let lines: Vec<String> = sqlx::query_scalar(AssertSqlSafe(explain))
        .persistent(false)
        .fetch_all(&mut *connection)
        .await
        .unwrap();
    sqlx::raw_sql("deallocate planned")
        .execute(&mut *connection)
        .await
        .unwrap();
    lines.join("\n")
}

#[tokio::test]
async fn removing_old_runs_reads_no_table_whole_beside_many_rows() {
    let (store, _) = fresh_store().await;
    let pair = pair();
    publish(&store, &pair).await;
    sql(
        &store,
        "insert into run (dag_id, version_id, kind, state, logical_date, data_interval_start, data_interval_end, \
             started_at, finished_at) \
         select d.dag_id, d.current_version, 'backfill', 'success', at, at, at, at, at \
         from dag d, generate_series(1, 10000) n, lateral (select timestamptz '2020-01-01' + n * interval '1 hour' as at) t; \
         insert into task_instance (run_id, ordinal, tries_allowed, tries, epoch, pending, ok, state, finished_at) \
         select run_id, o, 1, 1, 1, 0, o, 'success', now() from run, generate_series(0, 1) o; \
         insert into try (instance_id, epoch, try_number, worker_id, started_at, outcome) \
         select instance_id, 1, 1, 1, now(), 'success' from task_instance; \
         insert into log_line (instance_id, epoch, line, try_number, at, stream, message) \
         select instance_id, 1, n, 1, now(), 'stdout', 'line' from task_instance, generate_series(1, 2) n; \
         insert into rendered (instance_id, try_number, rendered) select instance_id, 1, '{}' from task_instance; \
         insert into output (instance_id, output) select instance_id, '{}' from task_instance; \
         analyze"
            .to_owned(),
    )
    .await;
    for (statement, parameters) in [
        (
            include_str!("../queries/read_old_runs.sql"),
            "'pair', 0, 30, now(), 200",
        ),
        (
            include_str!("../queries/lock_old_runs.sql"),
            "'{1,2,3}', now()",
        ),
        (
            include_str!("../queries/delete_old_lines.sql"),
            "'{1,2,3}', 5000",
        ),
        (
            include_str!("../queries/delete_old_tries.sql"),
            "'{1,2,3}', 5000",
        ),
        (
            include_str!("../queries/delete_old_rendered.sql"),
            "'{1,2,3}', 5000",
        ),
        (include_str!("../queries/delete_old_runs.sql"), "'{1,2,3}'"),
        (
            include_str!("../queries/delete_old_versions.sql"),
            "now(), 20",
        ),
    ] {
        let plan = plan(&store, statement, parameters).await;
        for table in [
            "run",
            "task_instance",
            "try",
            "log_line",
            "rendered",
            "output",
        ] {
            let whole = format!("Seq Scan on {table} ");
            assert!(!plan.contains(&whole), "{statement}\n{plan}");
        }
        assert!(plan.contains("Index"), "{statement}\n{plan}");
    }
    // The checks of foreign keys are statements of their own: removing a version must not read all runs.
    let reads = "select coalesce(sum(seq_scan), 0)::bigint from pg_stat_xact_user_tables where relname in ('run', 'task_instance')";
    let mut transaction = store.engine.begin().await.unwrap();
    sqlx::query("insert into dag_version (dag_id, content_hash, source, definition) values ('pair', 'x', '', '{}')")
        .execute(&mut *transaction)
        .await
        .unwrap();
    let before: i64 = sqlx::query_scalar(reads)
        .fetch_one(&mut *transaction)
        .await
        .unwrap();
    sqlx::query("delete from dag_version where content_hash = 'x'")
        .execute(&mut *transaction)
        .await
        .unwrap();
    let after: i64 = sqlx::query_scalar(reads)
        .fetch_one(&mut *transaction)
        .await
        .unwrap();
    assert_eq!(after, before);
    transaction.rollback().await.unwrap();
}

#[test]
fn how_long_something_stays_is_read_as_it_is_written() {
    for text in ["forever", "90d", "1h 30m"] {
        assert_eq!(text.parse::<Keep>().unwrap().to_string(), text);
    }
    assert!("90".parse::<Keep>().is_err());
    assert!("for ever".parse::<Keep>().is_err());
}

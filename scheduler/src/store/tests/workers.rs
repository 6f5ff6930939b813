//! What people see of the processes of the engine.

use super::*;

async fn state(store: &Store, worker: WorkerId) -> WorkerState {
    store.process(worker).await.unwrap().state
}

async fn renew(store: &Store, worker: WorkerId, report: Report) -> Option<Renewed> {
    store
        .renew_with(worker, Duration::from_secs(600), &[], report)
        .await
        .unwrap()
}

const STOPS: Report = Report {
    load: Load {
        load_average: None,
        memory_bytes: None,
        cpu_cores: None,
    },
    course: Course::Stops,
};

#[tokio::test]
async fn a_process_is_alive_then_stopping_then_ended() {
    let (store, _) = fresh_store().await;
    let worker = register(&store, "one").await;
    assert_eq!(state(&store, worker).await, WorkerState::Alive);
    renew(&store, worker, STOPS).await.unwrap();
    assert_eq!(state(&store, worker).await, WorkerState::Stopping);
    assert!(
        store.workers().await.unwrap().is_empty(),
        "it takes no work"
    );
    let since = store.process(worker).await.unwrap().stopping_at;
    renew(&store, worker, STOPS).await.unwrap();
    assert_eq!(store.process(worker).await.unwrap().stopping_at, since);
    store.resign(worker).await.unwrap();
    assert_eq!(state(&store, worker).await, WorkerState::Ended);
}

#[tokio::test]
async fn a_process_whose_lease_ended_without_a_word_is_lost_before_and_after_it_is_reaped() {
    let (store, _) = fresh_store().await;
    let worker = register(&store, "one").await;
    expire(&store, worker).await;
    assert_eq!(state(&store, worker).await, WorkerState::Lost);
    store.reap().await.unwrap();
    assert_eq!(state(&store, worker).await, WorkerState::Lost);
}

#[tokio::test]
async fn a_process_that_ends_in_good_order_after_its_lease_was_over_is_not_called_lost() {
    let (store, _) = fresh_store().await;
    let worker = register(&store, "one").await;
    expire(&store, worker).await;
    store.resign(worker).await.unwrap();
    assert_eq!(state(&store, worker).await, WorkerState::Ended);
}

#[tokio::test]
async fn the_list_holds_what_ended_in_the_last_hour_and_everything_when_asked() {
    let (store, _) = fresh_store().await;
    let long_ago = register(&store, "long ago").await;
    store.resign(long_ago).await.unwrap();
    sql(
        &store,
        format!(
            "update worker set ended_at = ended_at - interval '61 minutes' where worker_id = {long_ago}"
        ),
    )
    .await;
    let ended = register(&store, "ended").await;
    store.resign(ended).await.unwrap();
    let alive = register(&store, "alive").await;
    let listed = async |scope| -> Vec<WorkerId> {
        let rows = store.processes(scope).await.unwrap();
        rows.into_iter().map(|row| row.worker_id).collect()
    };
    assert_eq!(listed(WorkerScope::Recent).await, [alive, ended]);
    assert_eq!(listed(WorkerScope::All).await, [alive, ended, long_ago]);
    assert!(matches!(
        store.process(WorkerId(999)).await,
        Err(Error::UnknownWorker { .. })
    ));
}

#[tokio::test]
async fn a_process_says_who_it_is_and_how_loaded() {
    let (store, _) = fresh_store().await;
    let labels = BTreeMap::from([
        ("gpu".to_owned(), "yes".to_owned()),
        ("zone".to_owned(), "eu-1".to_owned()),
    ]);
    let queues = ["default".to_owned(), "gpu".to_owned()];
    let who = Heartbeat {
        name: "host-1",
        version: "1.2.3",
        queues: &queues,
        labels: &labels,
        slots: 4,
        schedules: true,
        lease: Duration::from_secs(600),
    };
    let worker = store.register(who).await.unwrap();
    let row = store.process(worker).await.unwrap();
    assert_eq!(row.load, Load::default(), "nothing was measured yet");
    let load = Load {
        load_average: Some(0.5),
        memory_bytes: Some(50_000_000),
        cpu_cores: Some(1.25),
    };
    let report = Report {
        load,
        course: Course::GoesOn,
    };
    renew(&store, worker, report).await.unwrap();
    let row = store.process(worker).await.unwrap();
    assert_eq!((row.load, &row.labels), (load, &labels));
    assert_eq!(
        (row.name.as_str(), row.slots, row.is_scheduler),
        ("host-1", 4, true)
    );
    assert_eq!(row.queues, queues);
    assert!(row.seen_at > row.started_at && row.lease_until > row.seen_at);
}

#[tokio::test]
async fn what_runs_is_listed_with_its_worker() {
    let (store, _) = fresh_store().await;
    let pair = dag("pair", &[("a", &[]), ("b", &[])]);
    publish(&store, &pair).await;
    let run = trigger(&store, &pair).await;
    let one = register(&store, "one").await;
    let two = register(&store, "two").await;
    let first = claim(&store, one, 1).await.pop().unwrap();
    let second = claim(&store, two, 1).await.pop().unwrap();
    let all = store.executions().await.unwrap();
    let told: Vec<_> = all
        .iter()
        .map(|row| (row.worker_id, row.run_id, row.task_id.as_str()))
        .collect();
    assert_eq!(told, [(one, run, "a"), (two, run, "b")]);
    assert_eq!(store.executions_of(two).await.unwrap().len(), 1);
    store
        .settle(&[ended(first, success()), ended(second, success())])
        .await
        .unwrap();
    assert!(store.executions().await.unwrap().is_empty());
}

#[tokio::test]
async fn a_queue_is_unserved_while_no_worker_takes_work_from_it() {
    let (store, _) = fresh_store().await;
    let mut three = dag("three", &[("a", &[]), ("b", &[]), ("c", &[]), ("d", &[])]);
    for task in &mut three.tasks[..3] {
        task.queue = "gpu".to_owned();
    }
    three.tasks[2].pool = "cards".to_owned();
    publish(&store, &three).await;
    register(&store, "of the default queue").await;
    assert!(store.unserved_queues().await.unwrap().is_empty());
    trigger(&store, &three).await;
    let gpu = UnservedQueue {
        queue: "gpu".to_owned(),
        ready: 3,
    };
    let only_gpu = [gpu];
    assert_eq!(store.unserved_queues().await.unwrap(), only_gpu);
    assert_eq!(store.home().await.unwrap().unserved, only_gpu);

    let queues = ["gpu".to_owned()];
    let who = Heartbeat {
        name: "scheduler",
        version: "test",
        queues: &queues,
        labels: &BTreeMap::new(),
        slots: 0,
        schedules: true,
        lease: Duration::from_secs(600),
    };
    store.register(who).await.unwrap();
    assert_eq!(
        store.unserved_queues().await.unwrap(),
        only_gpu,
        "a scheduler runs no tasks"
    );
    let worker = store.register(Heartbeat { slots: 1, ..who }).await.unwrap();
    assert!(store.unserved_queues().await.unwrap().is_empty());
    renew(&store, worker, STOPS).await.unwrap();
    assert_eq!(store.unserved_queues().await.unwrap(), only_gpu);
    renew(&store, worker, Report::default()).await.unwrap();
    assert!(store.unserved_queues().await.unwrap().is_empty());
    expire(&store, worker).await;
    assert_eq!(store.unserved_queues().await.unwrap(), only_gpu);
}

#[tokio::test]
async fn the_gauges_count_pools_queues_and_workers() {
    let (store, _) = fresh_store().await;
    let mut pair = dag("pair", &[("a", &[]), ("b", &[])]);
    for task in &mut pair.tasks {
        task.pool = "narrow".to_owned();
    }
    publish(&store, &pair).await;
    limit_pool(&store, "narrow", 1).await;
    trigger(&store, &pair).await;
    let worker = register(&store, "one").await;
    let claimed = claim(&store, worker, 8).await;
    let gauges = store.gauges().await.unwrap();
    assert_eq!(gauges.pools, [("narrow".to_owned(), 1, 1)]);
    assert_eq!(gauges.ready, [("default".to_owned(), 1)]);
    assert_eq!(
        gauges.workers,
        [
            (WorkerState::Alive, 1),
            (WorkerState::Stopping, 0),
            (WorkerState::Lost, 0),
            (WorkerState::Ended, 0)
        ]
    );
    let batch: Vec<Ended> = claimed
        .into_iter()
        .map(|one| ended(one, success()))
        .collect();
    store.settle(&batch).await.unwrap();
}

#[tokio::test]
async fn nothing_that_a_heartbeat_writes_is_indexed() {
    let (store, _) = fresh_store().await;
    let indices = number(
        &store,
        "select count(*) from pg_index where indrelid = 'worker'::regclass",
    )
    .await;
    assert_eq!(
        indices, 1,
        "the key, so that every heartbeat is a HOT update"
    );
}

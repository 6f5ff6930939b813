//! What people are told, and when: deadlines, notifications, messages.

use pinwheel_tasks::Failure;
use serde_json::Value;

use super::{claim, ended, number, register, success};
use crate::{
    model::{
        Alerts, Dag, Deadline, Event, Notify, Origin, RunId, RunKind, RunState, TaskId,
        message::Message,
    },
    store::{
        DeliveryFailed, Ending, MessageFilter, MessageState, NewRun, Paused, Store, ToPublish,
    },
    testing::{dag, fresh_store, publish, run_state, trigger},
};
use std::{sync::Arc, time::Duration};

use chrono::TimeDelta;

const NOW: TimeDelta = TimeDelta::zero();

fn notify(on: &[Event], tasks: &[&str]) -> Notify {
    Notify {
        on: on.to_vec(),
        to: "ops".to_owned(),
        tasks: tasks
            .iter()
            .map(|task| TaskId::new(*task).unwrap())
            .collect(),
        cool_down: Duration::from_secs(300),
    }
}

fn within(from: Origin, minutes: u64, task: Option<&str>) -> Deadline {
    Deadline {
        name: format!("{minutes} minutes"),
        from,
        after: Duration::from_secs(60 * minutes),
        task: task.map(|task| TaskId::new(task).unwrap()),
    }
}

/// A DAG `single` of one task without retries that tells `ops` of everything of its runs.
fn telling() -> Dag {
    let mut single = dag("single", &[("a", &[])]);
    single.alerts.notify = vec![notify(
        &[
            Event::Failure,
            Event::Success,
            Event::Deadline,
            Event::Recovery,
        ],
        &[],
    )];
    single
}

/// Runs whatever may be claimed to its end; every task ends so.
async fn work(store: &Store, ending: &Ending) {
    let worker = register(store, "one").await;
    loop {
        let claimed = claim(store, worker, 8).await;
        if claimed.is_empty() {
            return;
        }
        let batch: Vec<_> = claimed
            .into_iter()
            .map(|claimed| ended(claimed, ending.clone()))
            .collect();
        store.settle(&batch).await.unwrap();
    }
}

fn failure() -> Ending {
    Ending::Failed(Failure {
        hint: Some("look into it".to_owned()),
        ..Failure::permanent("it broke")
    })
}

/// Gathers and takes what is due by a clock that is `shift` ahead.
async fn messages(store: &Store, shift: TimeDelta) -> Vec<Message> {
    store.gather(shift).await.unwrap();
    store.lease_messages(100, shift).await.unwrap()
}

fn events(messages: &[Message]) -> Vec<(Event, i32)> {
    let mut events: Vec<_> = messages
        .iter()
        .map(|message| (message.event, message.count))
        .collect();
    events.sort_unstable();
    events
}

#[tokio::test]
async fn a_failed_run_is_told_with_its_task_and_the_first_success_after_it_is_a_recovery() {
    let (store, _) = fresh_store().await;
    let single = telling();
    publish(&store, &single).await;
    let run = trigger(&store, &single).await;
    work(&store, &failure()).await;
    let told = messages(&store, NOW).await;
    assert_eq!(events(&told), [(Event::Failure, 1)]);
    let one = &told[0].notifications[0];
    assert_eq!((one.run_id, one.detail.failed_tasks), (Some(run), 1));
    let failed = &one.detail.failed[0];
    assert_eq!(
        (
            failed.task.as_str(),
            failed.try_number,
            failed.reason.as_deref(),
            failed.hint.as_deref()
        ),
        ("a", Some(1), Some("it broke"), Some("look into it"))
    );
    store.delivered(told[0].message_id).await.unwrap();

    trigger(&store, &single).await;
    work(&store, &success()).await;
    let told = messages(&store, NOW).await;
    assert_eq!(events(&told), [(Event::Success, 1), (Event::Recovery, 1)]);
    // Another success recovers from nothing; it waits for the cool-down of the last one.
    trigger(&store, &single).await;
    work(&store, &success()).await;
    assert_eq!(events(&messages(&store, NOW).await), []);
    let later = messages(&store, TimeDelta::seconds(50)).await;
    assert_eq!(events(&later), []);
    let told = messages(&store, TimeDelta::minutes(6)).await;
    // The first two were taken and never said to have arrived, so they are here again.
    assert_eq!(
        events(&told),
        [
            (Event::Success, 1),
            (Event::Success, 1),
            (Event::Recovery, 1)
        ]
    );
}

#[tokio::test]
async fn what_is_rolled_back_is_never_told_and_nobody_is_told_by_a_dag_that_does_not_ask() {
    let (store, _) = fresh_store().await;
    let silent = dag("silent", &[("a", &[])]);
    publish(&store, &silent).await;
    trigger(&store, &silent).await;
    work(&store, &failure()).await;
    let single = telling();
    publish(&store, &single).await;
    let run = trigger(&store, &single).await;
    let worker = register(&store, "one").await;
    let late = ended(claim(&store, worker, 1).await.pop().unwrap(), failure());
    store.cancel_run(run, "a test").await.unwrap();
    let settled = store.settle(&[late]).await.unwrap();
    assert_eq!(settled.refused.len(), 1);
    assert_eq!(number(&store, "select count(*) from notification").await, 0);
    assert_eq!(
        number(&store, "select count(*) from dag_health").await,
        1,
        "of the DAG that asks"
    );
}

#[tokio::test]
async fn many_failures_within_the_cool_down_are_one_message_that_counts_them() {
    let (store, _) = fresh_store().await;
    let single = telling();
    publish(&store, &single).await;
    for _ in 0..30 {
        trigger(&store, &single).await;
    }
    work(&store, &failure()).await;
    let told = messages(&store, NOW).await;
    assert_eq!(events(&told), [(Event::Failure, 30)]);
    assert_eq!(told[0].notifications.len(), 20, "the first ones are listed");
    store.delivered(told[0].message_id).await.unwrap();
    for _ in 0..3 {
        trigger(&store, &single).await;
        work(&store, &failure()).await;
        assert_eq!(events(&messages(&store, NOW).await), []);
    }
    let due = store.next_deadline(NOW).await.unwrap();
    assert!(
        due.alerts
            .is_some_and(|wait| wait > Duration::from_secs(200)),
        "the timer stands at the end of the cool-down: {due:?}"
    );
    let told = messages(&store, TimeDelta::minutes(5)).await;
    assert_eq!(events(&told), [(Event::Failure, 3)]);
}

#[tokio::test]
async fn two_schedulers_make_one_message_and_one_of_them_delivers_it() {
    let (store, _) = fresh_store().await;
    let single = telling();
    publish(&store, &single).await;
    for round in 0..10_i64 {
        for _ in 0..10 {
            trigger(&store, &single).await;
        }
        work(&store, &failure()).await;
        let shift = TimeDelta::minutes(6 * (round + 1));
        let (one, two) = tokio::join!(messages(&store, shift), messages(&store, shift));
        let told: Vec<Message> = one.into_iter().chain(two).collect();
        assert!(told.len() <= 1, "round {round}: {told:?}");
        let told = match told.is_empty() {
            true => messages(&store, shift).await,
            false => told,
        };
        assert_eq!(events(&told), [(Event::Failure, 10)], "round {round}");
        store.delivered(told[0].message_id).await.unwrap();
    }
}

#[tokio::test]
async fn a_retry_a_failure_and_a_recovery_of_a_named_task_are_told() {
    let (store, _) = fresh_store().await;
    let mut pair = dag("pair", &[("a", &[]), ("b", &["a"])]);
    pair.tasks[0].retries = 1;
    pair.tasks[0].retry_delay = Duration::ZERO;
    pair.alerts.notify = vec![
        notify(&[Event::Retry], &[]),
        notify(&[Event::Failure, Event::Success, Event::Recovery], &["a"]),
    ];
    publish(&store, &pair).await;
    let broken = Ending::Failed(Failure::retryable("not now"));
    trigger(&store, &pair).await;
    work(&store, &broken).await;
    let told = messages(&store, NOW).await;
    assert_eq!(events(&told), [(Event::Retry, 1)]);
    let detail = told[0].notifications[0].detail.task.clone().unwrap();
    assert_eq!(
        (
            detail.try_number,
            detail.tries_allowed,
            detail.reason.as_deref()
        ),
        (Some(1), Some(2), Some("not now"))
    );
    store.delivered(told[0].message_id).await.unwrap();
    store.wake(TimeDelta::seconds(1)).await.unwrap();
    work(&store, &broken).await;
    let told = messages(&store, NOW).await;
    assert_eq!(events(&told), [(Event::Failure, 1)]);
    store.delivered(told[0].message_id).await.unwrap();
    // A plain success of a task with one task below is settled in one statement, unless somebody hears of it.
    trigger(&store, &pair).await;
    work(&store, &success()).await;
    let told = messages(&store, NOW).await;
    assert_eq!(events(&told), [(Event::Success, 1), (Event::Recovery, 1)]);
    for message in &told {
        let task = message.notifications[0].detail.task.as_ref().unwrap();
        assert_eq!(task.task, "a");
    }
}

#[tokio::test]
async fn a_deadline_is_missed_once_whoever_looks_and_met_by_a_run_that_ends_before() {
    let (store, _) = fresh_store().await;
    let mut single = telling();
    single.alerts.deadlines = vec![
        within(Origin::Queued, 30, None),
        within(Origin::Started, 90, Some("a")),
        // Nothing says when a run should have been made that a person made.
        within(Origin::Scheduled, 1, None),
    ];
    publish(&store, &single).await;
    let met = trigger(&store, &single).await;
    work(&store, &success()).await;
    let cancelled = trigger(&store, &single).await;
    store.cancel_run(cancelled, "a test").await.unwrap();
    let late = trigger(&store, &single).await;
    let due = store.next_deadline(NOW).await.unwrap();
    assert!(due.alerts.is_some(), "the timer stands at it: {due:?}");
    for run in [met, cancelled, late] {
        assert_eq!(store.run_deadlines(run).await.unwrap().len(), 2);
    }
    let states = async |run: RunId| -> Vec<String> {
        let rows = store.run_deadlines(run).await.unwrap();
        rows.into_iter().map(|row| row.state).collect()
    };
    assert_eq!(states(met).await, ["met", "met"]);
    assert_eq!(states(cancelled).await, ["cancelled", "cancelled"]);

    assert!(!store.strike(TimeDelta::minutes(29)).await.unwrap());
    let shift = TimeDelta::minutes(31);
    let (one, two) = tokio::join!(store.strike(shift), store.strike(shift));
    assert!(one.unwrap() ^ two.unwrap(), "one of them takes it");
    assert!(!store.strike(shift).await.unwrap(), "and it is over");
    assert_eq!(states(late).await, ["missed", "pending"]);
    let told = messages(&store, shift).await;
    let told: Vec<_> = told
        .iter()
        .filter(|message| message.event == Event::Deadline)
        .collect();
    assert_eq!(told.len(), 1);
    let detail = &told[0].notifications[0].detail;
    assert_eq!(detail.deadline.as_deref(), Some("30 minutes"));
    assert!(detail.due_at.is_some() && detail.task.is_none());

    // The task's own deadline, and the end of the run afterwards.
    assert!(store.strike(TimeDelta::minutes(91)).await.unwrap());
    work(&store, &success()).await;
    assert_eq!(states(late).await, ["missed", "missed"]);
    assert_eq!(run_state(&store, late).await, RunState::Success);
    let missed = store.missed_deadlines(&single.id).await.unwrap();
    assert_eq!(missed.len(), 2);
    assert_eq!(
        missed[0].task_id.as_ref().map(TaskId::as_str),
        Some("a"),
        "{missed:?}"
    );
    assert!(!store.strike(TimeDelta::days(1)).await.unwrap());
}

#[tokio::test]
async fn a_task_that_is_done_in_time_has_met_its_deadline_though_the_run_goes_on() {
    let (store, _) = fresh_store().await;
    let mut pair = dag("pair", &[("a", &[]), ("b", &["a"])]);
    pair.alerts.deadlines = vec![within(Origin::Queued, 30, Some("a"))];
    publish(&store, &pair).await;
    let run = trigger(&store, &pair).await;
    let worker = register(&store, "one").await;
    let first = claim(&store, worker, 1).await.pop().unwrap();
    store.settle(&[ended(first, success())]).await.unwrap();
    assert!(store.strike(TimeDelta::minutes(31)).await.unwrap());
    let rows = store.run_deadlines(run).await.unwrap();
    assert_eq!(rows[0].state, "met");
    assert_eq!(run_state(&store, run).await, RunState::Running);
}

#[tokio::test]
async fn a_scheduled_run_has_its_deadline_from_the_end_of_its_data_interval() {
    let (store, _) = fresh_store().await;
    let mut single = telling();
    single.alerts.deadlines = vec![within(Origin::Scheduled, 30, None)];
    publish(&store, &single).await;
    let at = "2026-01-01T00:00:00Z".parse().unwrap();
    let run = store
        .trigger(NewRun {
            dag_id: single.id.clone(),
            kind: RunKind::Scheduled,
            logical_date: Some(at),
            params: crate::model::Params::new(),
            triggered_by: "a test".to_owned(),
        })
        .await
        .unwrap();
    let rows = store.run_deadlines(run).await.unwrap();
    assert_eq!(rows[0].due_at, at + TimeDelta::minutes(30));
    assert!(store.strike(NOW).await.unwrap(), "it is made up for, late");
}

#[tokio::test]
async fn a_dag_without_a_success_for_too_long_is_told_once_until_the_next_success() {
    let (store, _) = fresh_store().await;
    let mut single = telling();
    single.alerts.no_success_for = Some(Duration::from_secs(26 * 3600));
    publish(&store, &single).await;
    assert!(!store.strike(TimeDelta::hours(25)).await.unwrap());
    let shift = TimeDelta::hours(27);
    assert!(store.strike(shift).await.unwrap());
    assert!(!store.strike(TimeDelta::days(30)).await.unwrap(), "once");
    let told = messages(&store, shift).await;
    assert_eq!(events(&told), [(Event::Deadline, 1)]);
    assert_eq!(told[0].notifications[0].run_id, None);
    assert_eq!(
        told[0].notifications[0].detail.no_success_for,
        Some(93_600.0)
    );
    store.delivered(told[0].message_id).await.unwrap();
    let health = store.health(&single.id).await.unwrap().unwrap();
    assert!(health.overdue_since.is_some());
    // Publishing the same again changes nothing.
    let mut again = single.clone();
    again.description = "Another version".to_owned();
    publish(&store, &again).await;
    assert!(!store.strike(TimeDelta::days(30)).await.unwrap());

    trigger(&store, &single).await;
    work(&store, &success()).await;
    let told = messages(&store, NOW).await;
    assert_eq!(events(&told), [(Event::Success, 1), (Event::Recovery, 1)]);
    let health = store.health(&single.id).await.unwrap().unwrap();
    assert!(health.overdue_since.is_none() && health.success_due_at.is_some());
    assert!(store.strike(shift).await.unwrap(), "and it counts anew");
}

#[tokio::test]
async fn nobody_is_told_of_a_paused_dag_that_has_no_success() {
    let (store, _) = fresh_store().await;
    let mut single = telling();
    single.alerts.no_success_for = Some(Duration::from_secs(3600));
    publish(&store, &single).await;
    let pause = async |paused| {
        store
            .set_paused(&single.id, paused, "a test")
            .await
            .unwrap();
    };
    pause(Paused::Paused).await;
    assert!(!store.strike(TimeDelta::hours(2)).await.unwrap());
    pause(Paused::Active).await;
    assert!(!store.strike(TimeDelta::minutes(59)).await.unwrap());
    assert!(store.strike(TimeDelta::minutes(61)).await.unwrap());
    // A file that asks for it no more ends it.
    let mut other = single.clone();
    other.alerts = Alerts::default();
    publish(&store, &other).await;
    let health = store.health(&single.id).await.unwrap().unwrap();
    assert!(health.overdue_since.is_none() && health.success_due_at.is_none());
}

#[tokio::test]
async fn a_message_that_nobody_says_has_arrived_is_taken_again_and_given_up_in_the_end() {
    let (store, _) = fresh_store().await;
    let single = telling();
    publish(&store, &single).await;
    trigger(&store, &single).await;
    work(&store, &failure()).await;
    let first = messages(&store, NOW).await.pop().unwrap();
    assert!(messages(&store, TimeDelta::seconds(30)).await.is_empty());
    // Its process has died.
    let shift = TimeDelta::seconds(61);
    let second = messages(&store, shift).await.pop().unwrap();
    assert_eq!(
        (second.message_id, second.attempt),
        (first.message_id, 2),
        "the same message, once more"
    );
    let minute = Duration::from_secs(60);
    // What the dead one would have said is not heard; that it arrived is.
    let late = store
        .not_delivered(&first, "late", minute, shift)
        .await
        .unwrap();
    assert_eq!(late, DeliveryFailed::TakenOver);
    let again = store
        .not_delivered(&second, "the server answered 500", minute, shift)
        .await
        .unwrap();
    assert_eq!(again, DeliveryFailed::Again);
    assert!(messages(&store, TimeDelta::seconds(119)).await.is_empty());
    let channel = &store.channels().await.unwrap()[0];
    assert!(channel.failing && channel.waiting == 1 && channel.kind.is_none());
    assert_eq!(
        channel.last_error.as_deref(),
        Some("the server answered 500")
    );

    let shift = TimeDelta::hours(25);
    let third = messages(&store, shift).await.pop().unwrap();
    let over = store
        .not_delivered(&third, "still nothing", minute, shift)
        .await
        .unwrap();
    assert_eq!(over, DeliveryFailed::GivenUp);
    assert!(messages(&store, TimeDelta::days(9)).await.is_empty());
    let row = store.message(first.message_id).await.unwrap();
    assert_eq!(
        (row.state(), row.attempts, row.last_error.as_deref()),
        (MessageState::GivenUp, 3, Some("still nothing"))
    );
    let filter = MessageFilter {
        undelivered: true,
        limit: 10,
        ..MessageFilter::default()
    };
    assert_eq!(store.messages(&filter).await.unwrap().len(), 1);

    // A person lets it go out again.
    let row = store
        .retry_message(first.message_id, "a test")
        .await
        .unwrap();
    assert_eq!(row.state(), MessageState::Failing);
    let fourth = messages(&store, NOW).await.pop().unwrap();
    assert_eq!(fourth.attempt, 4);
    store.delivered(fourth.message_id).await.unwrap();
    assert!(!store.channels().await.unwrap()[0].failing);
    assert!(
        store
            .retry_message(first.message_id, "a test")
            .await
            .is_err(),
        "it has arrived"
    );
    assert!(store.messages(&filter).await.unwrap().is_empty());
}

#[tokio::test]
async fn what_is_told_of_old_runs_goes_with_its_age() {
    let (store, _) = fresh_store().await;
    let mut single = telling();
    single.alerts.deadlines = vec![within(Origin::Queued, 30, None)];
    publish(&store, &single).await;
    trigger(&store, &single).await;
    work(&store, &failure()).await;
    let told = messages(&store, NOW).await;
    store.delivered(told[0].message_id).await.unwrap();
    let retention = crate::store::Retention {
        keep: 0,
        ..crate::store::Retention::default()
    };
    let mut pass = store
        .begin_pass(retention, crate::store::Prune::Remove, TimeDelta::days(100))
        .await
        .unwrap();
    let mut removed = crate::store::Removed::default();
    while let Some(step) = pass.step().await.unwrap() {
        removed += step;
    }
    assert_eq!((removed.runs, removed.messages), (1, 1));
    for table in ["run_deadline", "notification", "message", "notify_lane"] {
        let left: i64 =
            sqlx::query_scalar(sqlx::AssertSqlSafe(format!("select count(*) from {table}")))
                .fetch_one(&store.people)
                .await
                .unwrap();
        assert_eq!(left, 0, "{table}");
    }
}

#[tokio::test]
async fn deadlines_belong_to_the_version_of_the_run() {
    let (store, _) = fresh_store().await;
    let mut single = telling();
    single.alerts.deadlines = vec![within(Origin::Queued, 30, None)];
    publish(&store, &single).await;
    let old = trigger(&store, &single).await;
    single.alerts.deadlines = vec![within(Origin::Queued, 5, None)];
    let source = serde_json::to_string::<Value>(&serde_json::json!(single)).unwrap();
    let file = ToPublish {
        file: "single.toml",
        source: &source,
        dag: &Arc::new(single.clone()),
    };
    store.publish_all(&[file], NOW).await.unwrap();
    let new = trigger(&store, &single).await;
    assert_eq!(
        store.run_deadlines(old).await.unwrap()[0].name,
        "30 minutes"
    );
    assert_eq!(store.run_deadlines(new).await.unwrap()[0].name, "5 minutes");
}

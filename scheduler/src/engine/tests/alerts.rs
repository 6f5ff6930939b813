//! Messages on their way through engines: told at once, again after a failure, once by many schedulers.

use std::sync::Mutex;

use async_trait::async_trait;

use super::*;
use crate::{
    model::{Dag, Deadline, Event, Notify, Origin, message::Message},
    store::{ChannelInfo, MessageFilter, MessageState},
};

/// A courier whose way to people the test decides on.
struct Scripted {
    answers: Mutex<Vec<Result<(), String>>>,
    came: mpsc::UnboundedSender<Message>,
    gate: Option<Arc<Semaphore>>,
}

#[async_trait]
impl Courier for Scripted {
    fn channels(&self) -> Vec<ChannelInfo> {
        vec![ChannelInfo {
            channel: "ops".to_owned(),
            kind: "webhook".to_owned(),
            target: "https://hooks.example.com".to_owned(),
        }]
    }

    async fn deliver(&self, message: &Message) -> Result<(), String> {
        self.came.send(message.clone()).unwrap();
        if let Some(gate) = &self.gate {
            gate.acquire().await.unwrap().forget();
        }
        self.answers.lock().unwrap().pop().unwrap_or(Ok(()))
    }
}

/// A courier that gives these answers, the last one first, and what comes to it.
fn courier(
    answers: Vec<Result<(), String>>,
    gate: Option<Arc<Semaphore>>,
) -> (Delivery, mpsc::UnboundedReceiver<Message>) {
    let (came, messages) = mpsc::unbounded_channel();
    let courier = Scripted {
        answers: Mutex::new(answers),
        came,
        gate,
    };
    (Delivery::by(courier), messages)
}

fn telling(on: &[Event]) -> Dag {
    let mut single = dag("single", &[("a", &[])]);
    single.alerts.notify = vec![Notify {
        on: on.to_vec(),
        to: "ops".to_owned(),
        tasks: Vec::new(),
        cool_down: Duration::from_secs(300),
    }];
    single
}

fn failing() -> Registry {
    kinds(|_, _| async { Err(Failure::permanent("it broke")) })
}

fn delivering(name: &str, delivery: Delivery) -> Options {
    Options {
        delivery,
        ..options(name)
    }
}

async fn next(messages: &mut mpsc::UnboundedReceiver<Message>) -> Message {
    tokio::time::timeout(Duration::from_secs(60), messages.recv())
        .await
        .expect("a message comes within a minute")
        .expect("the engine runs")
}

/// Waits until a message is in that state.
async fn becomes(store: &Store, changes: &mut Changes, state: MessageState) {
    let filter = MessageFilter {
        limit: 10,
        ..MessageFilter::default()
    };
    let wait = async {
        loop {
            let rows = store.messages(&filter).await.unwrap();
            if rows.iter().any(|row| row.state() == state) {
                return;
            }
            let _changed = tokio::time::timeout(Duration::from_millis(500), changes.next()).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), wait)
        .await
        .expect("it gets there within a minute");
}

#[tokio::test]
async fn a_failure_reaches_people_and_again_when_the_first_delivery_failed() {
    let (store, _) = fresh_store().await;
    let single = telling(&[Event::Failure]);
    publish(&store, &single).await;
    let (delivery, mut messages) = courier(
        vec![Ok(()), Err("the server answered 500".to_owned())],
        None,
    );
    let clock = Arc::new(ShiftedClock::default());
    let engine = start_with(
        &store,
        failing(),
        Roles::Both,
        delivering("test", delivery),
        clock.clone(),
    )
    .await;
    let mut changes = engine.changes();
    let run = trigger(&store, &single).await;
    engine.bell().ring();
    let first = next(&mut messages).await;
    assert_eq!(
        (first.attempt, first.notifications[0].run_id),
        (1, Some(run))
    );
    becomes(&store, &mut changes, MessageState::Failing).await;
    let channel = &store.channels().await.unwrap()[0];
    assert!(channel.failing && channel.kind.as_deref() == Some("webhook"));
    clock.advance(TimeDelta::seconds(6));
    let second = next(&mut messages).await;
    assert_eq!((second.message_id, second.attempt), (first.message_id, 2));
    becomes(&store, &mut changes, MessageState::Delivered).await;
    finish(engine).await;
}

#[tokio::test]
async fn a_deadline_is_told_once_though_two_schedulers_watch_and_one_starts_late() {
    let (store, _) = fresh_store().await;
    let mut single = telling(&[Event::Deadline]);
    single.alerts.deadlines = vec![Deadline {
        name: "half an hour".to_owned(),
        from: Origin::Started,
        after: Duration::from_secs(30 * 60),
        task: None,
    }];
    publish(&store, &single).await;
    let gate = Arc::new(Semaphore::new(0));
    let waits = Arc::clone(&gate);
    let registry = kinds(move |_, _| {
        let waits = Arc::clone(&waits);
        async move {
            waits.acquire().await.unwrap().forget();
            Ok(Outcome::success())
        }
    });
    let clock = Arc::new(ShiftedClock::default());
    let (delivery, mut messages) = courier(Vec::new(), None);
    let mut engines = Vec::new();
    for name in ["one", "two"] {
        let options = delivering(name, delivery.clone());
        engines.push(
            start_with(
                &store,
                registry.clone(),
                Roles::Both,
                options,
                clock.clone(),
            )
            .await,
        );
    }
    let run = trigger(&store, &single).await;
    engines[0].bell().ring();
    clock.advance(TimeDelta::minutes(31));
    let told = next(&mut messages).await;
    assert_eq!(told.notifications[0].run_id, Some(run));
    let mut changes = engines[0].changes();
    becomes(&store, &mut changes, MessageState::Delivered).await;
    let late = start_with(
        &store,
        registry,
        Roles::Scheduler,
        delivering("three", delivery),
        clock.clone(),
    )
    .await;
    gate.add_permits(1);
    assert_eq!(
        run_end(&store, engines[0].changes(), run).await,
        RunState::Success
    );
    assert_eq!(store.run_deadlines(run).await.unwrap()[0].state, "missed");
    for engine in engines.into_iter().chain([late]) {
        finish(engine).await;
    }
    assert!(messages.try_recv().is_err(), "nobody was told twice");
}

#[tokio::test]
async fn a_delivery_that_takes_long_holds_up_neither_runs_nor_other_messages() {
    let (store, _) = fresh_store().await;
    let single = telling(&[Event::Failure]);
    let mut other = telling(&[Event::Failure]);
    other.id = crate::model::DagId::new("other").unwrap();
    publish(&store, &single).await;
    publish(&store, &other).await;
    let gate = Arc::new(Semaphore::new(0));
    let (delivery, mut messages) = courier(Vec::new(), Some(Arc::clone(&gate)));
    let engine = start_with(
        &store,
        failing(),
        Roles::Both,
        delivering("test", delivery),
        Arc::new(SystemClock::new()),
    )
    .await;
    let mut changes = engine.changes();
    trigger(&store, &single).await;
    engine.bell().ring();
    let first = next(&mut messages).await;
    let run = trigger(&store, &other).await;
    engine.bell().ring();
    assert_eq!(
        run_end(&store, engine.changes(), run).await,
        RunState::Failed
    );
    let second = next(&mut messages).await;
    assert_ne!(first.message_id, second.message_id);
    gate.add_permits(2);
    becomes(&store, &mut changes, MessageState::Delivered).await;
    finish(engine).await;
    let filter = MessageFilter {
        limit: 10,
        ..MessageFilter::default()
    };
    for row in store.messages(&filter).await.unwrap() {
        assert_eq!(
            row.state(),
            MessageState::Delivered,
            "a stop waits for what is underway"
        );
    }
}

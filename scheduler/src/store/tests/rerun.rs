//! Running again, and saying how something ended.

use pinwheel_tasks::Failure;
use serde_json::json;

use super::{check_invariants, claim, ended, number, register, run_all, sleep, success};
use crate::{
    model::{Dag, Params, RunId, RunKind, RunState, TaskId, TaskState, TryOutcome},
    store::{
        ClearRequest, ClearScope, ClearSelection, ClearVersion, Ending, Error, MarkRequest,
        MarkSelection, MarkedAs, NewRun, NoteText, Store,
    },
    testing::{dag, fresh_store, publish, run_state, states, trigger},
};

fn task(id: &str) -> TaskId {
    TaskId::new(id).unwrap()
}

fn clear(run_id: RunId, tasks: &[&str], scope: ClearScope) -> ClearRequest {
    ClearRequest {
        run_id,
        selection: ClearSelection::Tasks(tasks.iter().map(|id| task(id)).collect()),
        scope,
        version: ClearVersion::Same,
        actor: "ada".to_owned(),
    }
}

fn latest(run_id: RunId, selection: ClearSelection) -> ClearRequest {
    ClearRequest {
        run_id,
        selection,
        scope: ClearScope::WithDownstream,
        version: ClearVersion::Latest,
        actor: "ada".to_owned(),
    }
}

fn mark(run_id: RunId, tasks: &[&str], marked: MarkedAs) -> MarkRequest {
    let selection = if tasks.is_empty() {
        MarkSelection::WholeRun
    } else {
        MarkSelection::Tasks(tasks.iter().map(|id| task(id)).collect())
    };
    MarkRequest {
        run_id,
        selection,
        marked,
        actor: "ada".to_owned(),
    }
}

fn failing(id: &'static str) -> impl Fn(&str) -> Ending {
    move |task| {
        if task == id {
            Ending::Failed(Failure::permanent("broken"))
        } else {
            success()
        }
    }
}

fn words(tasks: &[TaskId]) -> Vec<&str> {
    tasks.iter().map(TaskId::as_str).collect()
}

fn line(id: &str) -> Dag {
    dag(id, &[("a", &[]), ("b", &["a"]), ("c", &["b"]), ("d", &[])])
}

#[tokio::test]
async fn a_clear_reaches_as_far_as_it_is_asked_and_says_so_before() {
    let (store, _) = fresh_store().await;
    let line = line("line");
    publish(&store, &line).await;
    let run = trigger(&store, &line).await;
    let worker = register(&store, "one").await;
    run_all(&store, worker, |_| success()).await;
    for (scope, expected) in [
        (ClearScope::Only, vec!["b"]),
        (ClearScope::WithUpstream, vec!["a", "b"]),
        (ClearScope::WithDownstream, vec!["b", "c"]),
        (ClearScope::WithBoth, vec!["a", "b", "c"]),
    ] {
        let request = clear(run, &["b"], scope);
        let foretold = store.preview_clear(&request).await.unwrap();
        assert_eq!(words(&foretold.tasks), expected);
        assert!(
            foretold
                .instances
                .iter()
                .all(|one| one.state == TaskState::Success)
        );
        assert_eq!(run_state(&store, run).await, RunState::Success);
        let cleared = store.clear(request).await.unwrap();
        assert_eq!(cleared.tasks, foretold.tasks);
        assert_eq!(run_all(&store, worker, |_| success()).await, expected);
        check_invariants(&store).await;
    }
}

#[tokio::test]
async fn every_try_keeps_what_it_answered() {
    let (store, _) = fresh_store().await;
    let single = dag("single", &[("a", &[])]);
    publish(&store, &single).await;
    let run = trigger(&store, &single).await;
    let worker = register(&store, "one").await;
    let mut instance = None;
    for round in 1..=3 {
        let claimed = claim(&store, worker, 1).await.pop().unwrap();
        instance = Some(claimed.execution.instance_id);
        let output = json!({ "round": round });
        store
            .settle(&[ended(claimed, Ending::Success { output })])
            .await
            .unwrap();
        if round < 3 {
            store
                .clear(clear(run, &["a"], ClearScope::Only))
                .await
                .unwrap();
            assert_eq!(store.output(instance.unwrap()).await.unwrap(), None);
        }
    }
    let instance = instance.unwrap();
    for round in 1..=3 {
        let output = store.output_of_try(instance, round).await.unwrap();
        assert_eq!(output, Some(json!({ "round": round })));
    }
    assert_eq!(store.output_of_try(instance, 4).await.unwrap(), None);
    assert_eq!(
        store.output(instance).await.unwrap(),
        Some(json!({ "round": 3 }))
    );
}

#[tokio::test]
async fn a_run_moves_to_the_latest_version_task_by_task() {
    let (store, _) = fresh_store().await;
    let old = dag(
        "moving",
        &[
            ("gone", &[]),
            ("a", &["gone"]),
            ("b", &["a"]),
            ("c", &["b"]),
        ],
    );
    publish(&store, &old).await;
    let run = trigger(&store, &old).await;
    let worker = register(&store, "one").await;
    run_all(&store, worker, failing("b")).await;
    assert_eq!(run_state(&store, run).await, RunState::Failed);

    // In another order, without `gone`, with `new` between `b` and `c`.
    let new = dag(
        "moving",
        &[
            ("b", &[]),
            ("a", &[]),
            ("new", &["b", "a"]),
            ("c", &["new"]),
        ],
    );
    publish(&store, &new).await;
    let request = latest(run, ClearSelection::Failed);
    let foretold = store.preview_clear(&request).await.unwrap();
    let cleared = store.clear(request).await.unwrap();
    assert_eq!(words(&cleared.tasks), ["b", "new", "c"]);
    assert_eq!(cleared.tasks, foretold.tasks);
    assert_eq!(cleared.moved, foretold.moved);
    let moved = cleared.moved.unwrap();
    assert_eq!(
        (words(&moved.added), words(&moved.removed)),
        (vec!["new"], vec!["gone"])
    );
    check_invariants(&store).await;

    assert_eq!(
        run_all(&store, worker, |_| success()).await,
        ["b", "new", "c"]
    );
    assert_eq!(run_state(&store, run).await, RunState::Success);
    let rows = store.instances(run).await.unwrap();
    let shown: Vec<(&str, TaskState, i32)> = rows
        .iter()
        .map(|row| (row.task_id.as_str(), row.state, row.tries))
        .collect();
    assert_eq!(
        shown,
        [
            ("b", TaskState::Success, 2),
            ("a", TaskState::Success, 1),
            ("new", TaskState::Success, 1),
            ("c", TaskState::Success, 1),
            ("gone", TaskState::Success, 1),
        ]
    );
    let gone = &rows[4];
    assert!(gone.ordinal < 0, "no task of the version is there");
    assert_eq!(store.tries(gone.instance_id).await.unwrap().len(), 1);
    assert!(store.rendered(gone.instance_id, 1).await.unwrap().is_some());

    // Back to the version that has it: what became of it then is history, and it runs as a new one.
    publish(&store, &old).await;
    let back = store
        .clear(latest(run, ClearSelection::Tasks(vec![task("a")])))
        .await
        .unwrap();
    let moved = back.moved.unwrap();
    assert_eq!(
        (words(&moved.added), words(&moved.removed)),
        (vec!["gone"], vec!["new"])
    );
    let ran = run_all(&store, worker, |_| success()).await;
    assert_eq!(ran, ["gone", "a", "b", "c"]);
    check_invariants(&store).await;
    assert_eq!(store.instances(run).await.unwrap().len(), 6);
    assert_eq!(
        store
            .clear(latest(run, ClearSelection::WholeRun))
            .await
            .unwrap()
            .moved,
        None,
        "it is there already"
    );
}

#[tokio::test]
async fn a_run_of_which_something_is_in_hands_does_not_move() {
    let (store, _) = fresh_store().await;
    let old = line("busy");
    publish(&store, &old).await;
    let run = trigger(&store, &old).await;
    let worker = register(&store, "one").await;
    let held = claim(&store, worker, 1).await.pop().unwrap();
    let mut new = line("busy");
    new.tasks[3].retries = 1;
    publish(&store, &new).await;
    store
        .settle(&[ended(held, Ending::Failed(Failure::permanent("no")))])
        .await
        .unwrap();
    let answer = store.clear(latest(run, ClearSelection::Failed)).await;
    assert!(
        matches!(&answer, Err(Error::TaskIsActive { task_id, .. }) if task_id == "d"),
        "{answer:?}"
    );
    let version = store.run(run).await.unwrap().unwrap().version_id;
    assert_eq!(
        words(
            &store
                .clear(clear(run, &["a"], ClearScope::Only))
                .await
                .unwrap()
                .tasks
        ),
        ["a"]
    );
    assert_eq!(store.run(run).await.unwrap().unwrap().version_id, version);
}

#[tokio::test]
async fn a_mark_decides_what_is_downstream() {
    let (store, _) = fresh_store().await;
    let line = line("line");
    publish(&store, &line).await;
    let run = trigger(&store, &line).await;
    let worker = register(&store, "one").await;
    run_all(&store, worker, failing("a")).await;
    assert_eq!(run_state(&store, run).await, RunState::Failed);
    assert_eq!(states(&store, run).await["c"], TaskState::UpstreamFailed);

    let marked = store
        .mark(mark(run, &["a"], MarkedAs::Success))
        .await
        .unwrap();
    assert_eq!(words(&marked.tasks), ["a"]);
    assert_eq!(words(&marked.decided_anew), ["b", "c"]);
    assert_eq!(marked.run_state, RunState::Running);
    check_invariants(&store).await;
    assert_eq!(run_all(&store, worker, |_| success()).await, ["b", "c"]);
    assert_eq!(run_state(&store, run).await, RunState::Success);
    let rows = store.instances(run).await.unwrap();
    assert_eq!(rows[0].reason.as_deref(), Some("marked success by ada"));
    assert_eq!(rows[0].tries, 1, "it did not run again");

    let again = store.mark(mark(run, &["a"], MarkedAs::Success)).await;
    assert!(matches!(again, Err(Error::NothingToMark { .. })));
    let marked = store
        .mark(mark(run, &["c"], MarkedAs::Failed))
        .await
        .unwrap();
    assert_eq!(
        marked.run_state,
        RunState::Failed,
        "the run follows at once"
    );
    check_invariants(&store).await;
}

#[tokio::test]
async fn a_mark_before_its_time_promotes_at_once() {
    let (store, _) = fresh_store().await;
    let line = line("line");
    publish(&store, &line).await;
    let run = trigger(&store, &line).await;
    let worker = register(&store, "one").await;
    store
        .mark(mark(run, &["a", "b"], MarkedAs::Success))
        .await
        .unwrap();
    check_invariants(&store).await;
    let mut ran = run_all(&store, worker, |_| success()).await;
    ran.sort();
    assert_eq!(ran, ["c", "d"]);
    assert_eq!(run_state(&store, run).await, RunState::Success);
}

#[tokio::test]
async fn what_runs_is_stopped_before_it_is_marked() {
    let (store, _) = fresh_store().await;
    let line = line("line");
    publish(&store, &line).await;
    let run = trigger(&store, &line).await;
    let worker = register(&store, "one").await;
    let held = claim(&store, worker, 1).await.pop().unwrap();
    let (instance, epoch) = (held.execution.instance_id, held.execution.epoch);
    let marked = store
        .mark(mark(run, &["a"], MarkedAs::Success))
        .await
        .unwrap();
    assert_eq!(marked.stopped, 1);
    let renewed = store
        .renew(
            worker,
            std::time::Duration::from_secs(60),
            &[(instance, epoch)],
        )
        .await
        .unwrap()
        .unwrap();
    assert_eq!(renewed.lost, [instance], "its worker hears of it");
    let late = store
        .settle(&[ended(held, Ending::Failed(Failure::permanent("late")))])
        .await
        .unwrap();
    assert_eq!(late.refused, [instance]);
    assert_eq!(states(&store, run).await["a"], TaskState::Success);
    let tries = store.tries(instance).await.unwrap();
    assert_eq!(tries[0].outcome, Some(TryOutcome::Cancelled));
    assert_eq!(tries[0].reason.as_deref(), Some("marked success by ada"));
    check_invariants(&store).await;
}

#[tokio::test]
async fn a_run_marked_failed_ends_and_the_next_one_starts() {
    let (store, _) = fresh_store().await;
    let mut alone = dag(
        "alone",
        &[("a", &[]), ("b", &[]), ("c", &["a"]), ("d", &[])],
    );
    alone.max_active_runs = 1;
    publish(&store, &alone).await;
    let run = trigger(&store, &alone).await;
    let next = trigger(&store, &alone).await;
    let queued = store.mark(mark(next, &[], MarkedAs::Failed)).await;
    assert!(matches!(queued, Err(Error::RunIsQueued { .. })));
    let worker = register(&store, "one").await;
    let mut held = claim(&store, worker, 2).await;
    store
        .settle(&[ended(held.pop().unwrap(), sleep(60))])
        .await
        .unwrap();
    let marked = store.mark(mark(run, &[], MarkedAs::Failed)).await.unwrap();
    assert_eq!((marked.run_state, marked.stopped), (RunState::Failed, 1));
    let states = states(&store, run).await;
    assert_eq!(
        ["a", "b", "c", "d"].map(|id| states[id]),
        [
            TaskState::Failed,
            TaskState::Failed,
            TaskState::Skipped,
            TaskState::Skipped
        ]
    );
    let row = store.run(run).await.unwrap().unwrap();
    assert_eq!(row.reason.as_deref(), Some("marked failed by ada"));
    assert_eq!(run_state(&store, next).await, RunState::Running);
    check_invariants(&store).await;

    let marked = store.mark(mark(run, &[], MarkedAs::Success)).await.unwrap();
    assert_eq!(marked.run_state, RunState::Success);
    assert_eq!(marked.tasks.len(), 4);
    assert_eq!(store.run(run).await.unwrap().unwrap().reason, None);
    store.mark(mark(run, &[], MarkedAs::Failed)).await.unwrap();
    assert_eq!(run_state(&store, run).await, RunState::Failed);
    check_invariants(&store).await;
}

#[tokio::test]
async fn a_mark_in_a_full_pool_and_behind_a_full_gate_frees_what_it_held() {
    let (store, _) = fresh_store().await;
    let mut gated = dag("gated", &[("a", &[]), ("b", &[]), ("c", &[])]);
    gated.max_active_tasks = Some(1);
    for one in &mut gated.tasks {
        one.pool = "narrow".to_owned();
    }
    publish(&store, &gated).await;
    super::limit_pool(&store, "narrow", 1).await;
    let run = trigger(&store, &gated).await;
    let worker = register(&store, "one").await;
    // The first claim only learns that there are gates.
    claim(&store, worker, 1).await;
    let held = claim(&store, worker, 3).await;
    assert_eq!(held.len(), 1);
    // `b` waits behind the gate, parked.
    store
        .mark(mark(run, &["a", "b"], MarkedAs::Success))
        .await
        .unwrap();
    check_invariants(&store).await;
    assert_eq!(
        number(
            &store,
            "select (select count(*) from gate_use) + (select count(*) from pool_use)"
        )
        .await,
        0
    );
    // Nothing stood behind the gate in between, so there is one claim again that only learns of it.
    claim(&store, worker, 3).await;
    assert_eq!(run_all(&store, worker, |_| success()).await, ["c"]);
    assert_eq!(run_state(&store, run).await, RunState::Success);
    assert_eq!(number(&store, "select count(*) from parked").await, 0);
}

#[tokio::test]
async fn params_follow_a_run_to_the_latest_version() {
    use crate::model::{Param, ParamType};
    let (store, _) = fresh_store().await;
    let param = |default| Param {
        param_type: ParamType::Integer,
        default,
        description: String::new(),
        minimum: None,
        maximum: None,
        pattern: None,
        choices: Vec::new(),
    };
    let mut old = dag("params", &[("a", &[])]);
    old.params.insert("kept".to_owned(), param(Some(json!(1))));
    old.params.insert("gone".to_owned(), param(Some(json!(2))));
    publish(&store, &old).await;
    let run = store
        .trigger(NewRun {
            dag_id: old.id.clone(),
            kind: RunKind::Manual,
            logical_date: None,
            params: Params::from_iter([("kept".to_owned(), json!(7))]),
            triggered_by: "a test".to_owned(),
        })
        .await
        .unwrap();
    let worker = register(&store, "one").await;
    run_all(&store, worker, |_| success()).await;
    let mut new = old.clone();
    new.params.remove("gone");
    new.params.insert("new".to_owned(), param(Some(json!(3))));
    publish(&store, &new).await;
    store
        .clear(latest(run, ClearSelection::WholeRun))
        .await
        .unwrap();
    let params = store.run(run).await.unwrap().unwrap().params;
    assert_eq!(json!(params), json!({ "kept": 7, "new": 3 }));
    run_all(&store, worker, |_| success()).await;

    let mut wanting = new.clone();
    wanting.params.insert("wanted".to_owned(), param(None));
    publish(&store, &wanting).await;
    let answer = store.clear(latest(run, ClearSelection::WholeRun)).await;
    assert!(matches!(answer, Err(Error::Params(_))), "{answer:?}");
    assert_eq!(run_state(&store, run).await, RunState::Success);
}

async fn note(store: &Store, run: RunId, place: Option<&str>, text: &str) -> Result<(), Error> {
    let place = place.map(task);
    let place = place.as_ref().map(|id| (id, -1));
    store
        .set_note(run, place, &NoteText::new(text).unwrap(), "ada")
        .await
}

#[tokio::test]
async fn notes_are_kept_beside_runs_and_tasks_until_they_are_emptied() {
    let (store, _) = fresh_store().await;
    let line = line("line");
    publish(&store, &line).await;
    let run = trigger(&store, &line).await;
    note(&store, run, None, " late because of the move ")
        .await
        .unwrap();
    note(&store, run, Some("b"), "one\r\ntwo").await.unwrap();
    note(&store, run, Some("b"), "three").await.unwrap();
    let notes = store.notes(run).await.unwrap();
    let shown: Vec<_> = notes
        .iter()
        .map(|note| {
            (
                note.task_id.as_ref().map(TaskId::as_str),
                note.note.as_str(),
            )
        })
        .collect();
    assert_eq!(
        shown,
        [(None, "late because of the move"), (Some("b"), "three")]
    );
    note(&store, run, None, "").await.unwrap();
    assert_eq!(store.notes(run).await.unwrap().len(), 1);
    let unknown = note(&store, run, Some("nobody"), "x").await;
    assert!(matches!(unknown, Err(Error::UnknownInstance { .. })));
    let unknown = note(&store, RunId(999), None, "x").await;
    assert!(matches!(unknown, Err(Error::UnknownRun { .. })));
    assert!(NoteText::new(&"x".repeat(1_001)).is_none());
    assert!(NoteText::new("a\u{0}b").is_none());
}

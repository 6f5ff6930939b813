//! The pure model, played to its end without Postgres.

use std::collections::BTreeSet;

use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::{
    model::{Foreach, TriggerRule, flow::BRANCH},
    testing::{change, dag, kinds},
};

fn noon() -> DateTime<Utc> {
    "2026-01-02T12:00:00Z".parse().unwrap()
}

async fn play(dag: &Dag, mocks: &[(&str, Mock)]) -> Report {
    play_with(dag, mocks, Params::new(), Registry::default()).await
}

async fn play_with(
    dag: &Dag,
    mocks: &[(&str, Mock)],
    params: Params,
    registry: Registry,
) -> Report {
    let request = request(mocks, params);
    let dag = Arc::new(dag.clone());
    run(dag, registry, request, CancellationToken::new(), |_| {}).await
}

fn request(mocks: &[(&str, Mock)], params: Params) -> Request {
    Request {
        logical_date: noon(),
        data_interval_start: noon(),
        data_interval_end: noon(),
        params,
        mocks: mocks
            .iter()
            .map(|(task, mock)| ((*task).to_owned(), mock.clone()))
            .collect(),
        outputs: BTreeMap::new(),
        slots: 4,
        sources: Sources::default(),
    }
}

fn all_succeed(dag: &Dag) -> Vec<(&str, Mock)> {
    dag.tasks
        .iter()
        .map(|task| (task.id.as_str(), Mock::Success))
        .collect()
}

/// With these instead of success.
fn but<'a>(mut mocks: Vec<(&'a str, Mock)>, others: &[(&'a str, Mock)]) -> Vec<(&'a str, Mock)> {
    for (task, mock) in others {
        let at = mocks.iter().position(|(id, _)| id == task).unwrap();
        mocks[at].1 = mock.clone();
    }
    mocks
}

fn branch(dag: Dag, id: &str) -> Dag {
    change(dag, id, |task| task.kind = BRANCH.to_owned())
}

fn state<'r>(report: &'r Report, task: &str) -> &'r str {
    report.tasks[task].as_str().unwrap()
}

#[tokio::test]
async fn a_branch_skips_what_it_did_not_choose_whatever_the_rule_says() {
    let two = dag(
        "two",
        &[
            ("choose", &[]),
            ("small", &["choose"]),
            ("large", &["choose"]),
            ("after_small", &["small"]),
            ("join", &["small", "large"]),
        ],
    );
    let two = change(branch(two, "choose"), "large", |task| {
        task.trigger_rule = TriggerRule::Always;
    });
    let two = change(two, "join", |task| {
        task.trigger_rule = TriggerRule::NoneFailedMinOneSuccess;
    });
    let mocks = but(
        all_succeed(&two),
        &[("choose", Mock::Branch(vec!["small".to_owned()]))],
    );
    let report = play(&two, &mocks).await;
    assert_eq!(state(&report, "small"), "success");
    assert_eq!(state(&report, "large"), "skipped");
    assert_eq!(state(&report, "after_small"), "success");
    assert_eq!(state(&report, "join"), "success");
    assert_eq!(report.state, RunState::Success);
    assert_eq!(
        report.reasons["large"],
        "the branch `choose` did not choose it"
    );
}

#[tokio::test]
async fn what_lies_downstream_of_a_chosen_task_is_not_skipped_by_the_branch() {
    let loop_back = dag(
        "loop_back",
        &[
            ("choose", &[]),
            ("extra", &["choose"]),
            ("join", &["choose", "extra"]),
        ],
    );
    let loop_back = branch(loop_back, "choose");
    for (chosen, extra, join) in [
        (vec!["extra"], "success", "success"),
        (vec!["join"], "skipped", "skipped"),
        (vec!["extra", "join"], "success", "success"),
        (vec![], "skipped", "skipped"),
    ] {
        let chosen = chosen.into_iter().map(str::to_owned).collect();
        let mocks = but(all_succeed(&loop_back), &[("choose", Mock::Branch(chosen))]);
        let report = play(&loop_back, &mocks).await;
        assert_eq!(
            (state(&report, "extra"), state(&report, "join")),
            (extra, join)
        );
    }
}

#[tokio::test]
async fn a_branch_that_chooses_what_is_not_below_it_fails() {
    let two = branch(
        dag("two", &[("choose", &[]), ("a", &["choose"]), ("b", &["a"])]),
        "choose",
    );
    let mocks = but(
        all_succeed(&two),
        &[("choose", Mock::Branch(vec!["b".to_owned()]))],
    );
    let report = play(&two, &mocks).await;
    assert_eq!(state(&report, "choose"), "failed");
    assert_eq!(state(&report, "a"), "upstream_failed");
    assert!(report.reasons["choose"].as_str().unwrap().contains("`b`"));
}

fn cluster() -> Dag {
    let cluster = dag(
        "cluster",
        &[
            ("create", &[]),
            ("load", &["create"]),
            ("check", &["load"]),
            ("delete", &["check"]),
            ("report", &["check"]),
        ],
    );
    let cluster = change(cluster, "create", |task| task.flow.setup = true);
    let cluster = change(cluster, "check", |task| {
        task.trigger_rule = TriggerRule::AllDone;
    });
    change(cluster, "delete", |task| {
        task.flow.teardown = true;
        task.allow_failure = true;
    })
}

#[tokio::test]
async fn a_teardown_runs_when_its_setup_succeeded_whatever_came_of_the_work() {
    let cluster = cluster();
    let report = play(
        &cluster,
        &but(all_succeed(&cluster), &[("load", Mock::Failed)]),
    )
    .await;
    assert_eq!(state(&report, "check"), "success");
    assert_eq!(state(&report, "delete"), "success");
    assert_eq!(report.state, RunState::Failed);

    let report = play(
        &cluster,
        &but(all_succeed(&cluster), &[("delete", Mock::Failed)]),
    )
    .await;
    assert_eq!(state(&report, "delete"), "failed");
    assert_eq!(
        report.state,
        RunState::Success,
        "a teardown's failure is no reason"
    );
}

#[tokio::test]
async fn work_and_teardown_follow_a_failed_or_skipped_setup() {
    let cluster = cluster();
    let report = play(
        &cluster,
        &but(all_succeed(&cluster), &[("create", Mock::Failed)]),
    )
    .await;
    for task in ["load", "check", "delete"] {
        assert_eq!(state(&report, task), "upstream_failed", "{task}");
    }
    // It is below no teardown, so it is out of the scope, and its rule decides.
    assert_eq!(state(&report, "report"), "upstream_failed");
    let report = play(
        &cluster,
        &but(all_succeed(&cluster), &[("create", Mock::Skipped)]),
    )
    .await;
    for task in ["load", "check", "delete", "report"] {
        assert_eq!(state(&report, task), "skipped", "{task}");
    }
    assert_eq!(report.state, RunState::Success);
}

#[test]
fn a_teardown_is_for_the_nearest_setups_and_clears_go_with_them() {
    let cluster = cluster();
    let (delete, task) = cluster.task("delete").unwrap();
    assert_eq!(task.flow.setups, [0]);
    assert_eq!(cluster.tasks[1].flow.setups, [0]);
    let (report, task) = cluster.task("report").unwrap();
    assert!(task.flow.setups.is_empty(), "{:?}", task.flow);
    let all = cluster.with_setups_and_teardowns(BTreeSet::from([1]));
    assert_eq!(all, BTreeSet::from([0, 1, delete]));
    assert_eq!(
        cluster.with_setups_and_teardowns(BTreeSet::from([report])),
        BTreeSet::from([report])
    );
}

fn mapped(list: Value) -> Dag {
    let mapped = dag("mapped", &[("each", &[]), ("sum", &["each"])]);
    let mapped = change(mapped, "each", |task| {
        task.flow.foreach = Some(Foreach {
            list,
            item_name: Some("no {{ item }}".to_owned()),
            max_active_items: None,
        });
        task.with.insert("item".to_owned(), json!("{{ item }}"));
    });
    change(mapped, "sum", |task| {
        task.with
            .insert("all".to_owned(), json!("{{ outputs.each }}"));
    })
}

/// Doubles an item, and adds up a list.
fn arithmetic() -> Registry {
    kinds(|_, with| async move {
        let of = |value: &Value| value["double"].as_i64().unwrap();
        match (with.get("item"), with.get("all")) {
            (Some(Value::Number(item)), _) if item.as_i64() == Some(13) => {
                Err(Failure::permanent("bad luck"))
            }
            (Some(item), _) => Ok(Outcome::Success {
                output: json!({ "double": item.as_i64().unwrap() * 2 }),
            }),
            (None, Some(Value::Array(all))) => Ok(Outcome::Success {
                output: json!({ "sum": all.iter().map(of).sum::<i64>() }),
            }),
            (None, other) => Err(Failure::permanent(format!("found {other:?}"))),
        }
    })
}

#[tokio::test]
async fn a_mapped_task_runs_for_every_item_and_the_next_reads_the_list_of_outputs() {
    let list = mapped(json!([1, 2, 3]));
    let report = play_with(&list, &[], Params::new(), arithmetic()).await;
    assert_eq!(report.state, RunState::Success, "{report:?}");
    assert_eq!(
        report.items["each"],
        json!(["success", "success", "success"])
    );

    let from_params = mapped(json!("{{ params.numbers }}"));
    let params = Params::from_iter([("numbers".to_owned(), json!([4, 13]))]);
    let report = play_with(&from_params, &[], params, arithmetic()).await;
    assert_eq!(report.items["each"], json!(["success", "failed"]));
    assert_eq!(state(&report, "each"), "failed");
    assert_eq!(state(&report, "sum"), "upstream_failed");
}

#[tokio::test]
async fn a_list_may_be_a_variable_and_no_secret_is_shown() {
    let environment = Environment::of([
        ("PINWHEEL_VAR_NUMBERS".to_owned(), "[1, 2]".to_owned()),
        ("PINWHEEL_VAR_API_TOKEN".to_owned(), "hunter22".to_owned()),
    ]);
    let sources = Sources {
        environment,
        ..Sources::default()
    };
    let list = change(mapped(json!("{{ var.numbers }}")), "sum", |task| {
        task.with
            .insert("token".to_owned(), json!("{{ var.api_token }}"));
    });
    let leaking = kinds(|_, with: Map<String, Value>| async move {
        match with.get("token") {
            Some(token) => Err(Failure::permanent(format!("refused {token}"))),
            None => Ok(Outcome::Success { output: json!({}) }),
        }
    });
    let request = Request {
        sources,
        ..request(&[], Params::new())
    };
    let report = run(
        Arc::new(list),
        leaking,
        request,
        CancellationToken::new(),
        |_| {},
    )
    .await;
    assert_eq!(report.items["each"], json!(["success", "success"]));
    assert_eq!(report.reasons["sum"], "refused \"***\"");
}

#[tokio::test]
async fn an_empty_list_skips_and_what_is_no_list_fails_with_the_reason() {
    let report = play(&mapped(json!([])), &[]).await;
    assert_eq!(
        (state(&report, "each"), state(&report, "sum")),
        ("skipped", "skipped")
    );
    let params = |value| Params::from_iter([("numbers".to_owned(), value)]);
    let dag = mapped(json!("{{ params.numbers }}"));
    let report = play_with(&dag, &[], params(json!({ "a": 1 })), arithmetic()).await;
    assert_eq!(state(&report, "each"), "failed");
    assert_eq!(
        report.reasons["each"],
        "`foreach` gives a table, not a list"
    );
    let many: Vec<usize> = (0..=crate::engine::flow::MOST_ITEMS).collect();
    let report = play_with(&dag, &[], params(json!(many)), arithmetic()).await;
    assert!(
        report.reasons["each"]
            .as_str()
            .unwrap()
            .contains("at most 10000")
    );
}

#[tokio::test]
async fn when_is_asked_before_a_task_runs() {
    let one = |when: &str| {
        change(dag("one", &[("a", &[]), ("b", &["a"])]), "a", |task| {
            task.flow.when = Some(format!("{{{{ {when} }}}}"));
        })
    };
    let params = || Params::from_iter([("full".to_owned(), json!(false))]);
    for (when, expected) in [
        ("params.full", "skipped"),
        ("not params.full", "success"),
        ("ds == \"2026-01-02\"", "success"),
        ("params.full or 1 > 2", "skipped"),
        ("\"perhaps\"", "failed"),
        ("params.absent", "failed"),
    ] {
        let registry = kinds(|_, _| async { Ok(Outcome::success()) });
        let report = play_with(&one(when), &[], params(), registry).await;
        assert_eq!(state(&report, "a"), expected, "{when}: {report:?}");
    }
}

#[tokio::test]
async fn a_retry_follows_until_no_tries_are_left() {
    let one = change(dag("one", &[("a", &[])]), "a", |task| task.retries = 2);
    let registry = kinds(|context, _| async move {
        match context.instance.try_number {
            3 => Ok(Outcome::success()),
            _ => Err(Failure::retryable("not yet")),
        }
    });
    let report = play_with(&one, &[], Params::new(), registry.clone()).await;
    assert_eq!(report.state, RunState::Success);
    let fewer = change(one, "a", |task| task.retries = 1);
    let report = play_with(&fewer, &[], Params::new(), registry).await;
    assert_eq!(report.reasons["a"], "not yet");
}

/// What the states must be in the end, computed from top to bottom without counters and without an order of events.
fn expected(dag: &Dag, mocks: &BTreeMap<String, Mock>) -> Vec<TaskState> {
    let mut states: Vec<TaskState> = Vec::new();
    for (ordinal, task) in dag.tasks.iter().enumerate() {
        let above: Vec<TaskState> = task.upstream.iter().map(|one| states[*one]).collect();
        let bad =
            |state: &TaskState| matches!(state, TaskState::Failed | TaskState::UpstreamFailed);
        let ok = |state: &TaskState| *state == TaskState::Success;
        let skipped = |state: &TaskState| *state == TaskState::Skipped;
        let run = match mocks[task.id.as_str()] {
            Mock::Success | Mock::Branch(_) => TaskState::Success,
            Mock::Failed => TaskState::Failed,
            Mock::Skipped => TaskState::Skipped,
        };
        let ignored_by_a_branch = task.upstream.iter().any(|one| {
            let Mock::Branch(chosen) = &mocks[dag.tasks[*one].id.as_str()] else {
                return false;
            };
            states[*one] == TaskState::Success
                && !chosen.iter().any(|id| {
                    let (start, _) = dag.task(id).unwrap();
                    reaches(dag, start, ordinal)
                })
        });
        let setups: Vec<TaskState> = task.flow.setups.iter().map(|one| states[*one]).collect();
        use TaskState::{Skipped, UpstreamFailed};
        let state = if ignored_by_a_branch {
            Skipped
        } else if task.flow.teardown {
            if setups.is_empty() || setups.iter().any(ok) {
                run
            } else if setups.iter().all(skipped) {
                Skipped
            } else {
                UpstreamFailed
            }
        } else if setups.iter().any(bad) {
            UpstreamFailed
        } else if setups.iter().any(skipped) {
            Skipped
        } else if above.is_empty() {
            run
        } else {
            let any = |what: fn(&TaskState) -> bool| above.iter().any(what);
            let all = |what: fn(&TaskState) -> bool| above.iter().all(what);
            let bad: fn(&TaskState) -> bool = bad;
            let ok: fn(&TaskState) -> bool = ok;
            let skipped: fn(&TaskState) -> bool = skipped;
            let plainly_failed: fn(&TaskState) -> bool = |state| *state == TaskState::Failed;
            match task.trigger_rule {
                TriggerRule::AllSuccess if any(bad) => UpstreamFailed,
                TriggerRule::AllSuccess if any(skipped) => Skipped,
                TriggerRule::AllSuccess => run,
                TriggerRule::AllFailed if all(bad) => run,
                TriggerRule::AllFailed => Skipped,
                TriggerRule::AllDone | TriggerRule::Always => run,
                TriggerRule::AllDoneMinOneSuccess if any(skipped) => Skipped,
                TriggerRule::AllDoneMinOneSuccess if any(ok) => run,
                TriggerRule::AllDoneMinOneSuccess => UpstreamFailed,
                TriggerRule::AllSkipped if all(skipped) => run,
                TriggerRule::AllSkipped => Skipped,
                TriggerRule::OneFailed if any(bad) => run,
                TriggerRule::OneFailed => Skipped,
                TriggerRule::OneSuccess if any(ok) => run,
                TriggerRule::OneSuccess if all(skipped) => Skipped,
                TriggerRule::OneSuccess => UpstreamFailed,
                TriggerRule::OneDone if any(ok) || any(plainly_failed) => run,
                TriggerRule::OneDone => Skipped,
                TriggerRule::NoneFailed if any(bad) => UpstreamFailed,
                TriggerRule::NoneFailed => run,
                TriggerRule::NoneFailedMinOneSuccess if any(bad) => UpstreamFailed,
                TriggerRule::NoneFailedMinOneSuccess if any(ok) => run,
                TriggerRule::NoneFailedMinOneSuccess => Skipped,
                TriggerRule::NoneSkipped if any(skipped) => Skipped,
                TriggerRule::NoneSkipped => run,
            }
        };
        states.push(state);
    }
    states
}

fn reaches(dag: &Dag, from: usize, to: usize) -> bool {
    from == to
        || dag.tasks[from]
            .downstream
            .iter()
            .any(|below| reaches(dag, *below, to))
}

#[derive(Debug, Clone)]
struct Sketch {
    upstream: Vec<prop::sample::Index>,
    rule: usize,
    role: u8,
    mock: u8,
    chosen: Vec<bool>,
}

fn sketch() -> impl Strategy<Value = Sketch> {
    (
        prop::collection::vec(any::<prop::sample::Index>(), 0..4),
        prop_oneof![Just(0_usize), 0..TriggerRule::ALL.len()],
        0..10_u8,
        0..6_u8,
        prop::collection::vec(any::<bool>(), 30),
    )
        .prop_map(|(upstream, rule, role, mock, chosen)| Sketch {
            upstream,
            rule,
            role,
            mock,
            chosen,
        })
}

fn drawn(sketches: &[Sketch]) -> (Dag, BTreeMap<String, Mock>) {
    let names: Vec<String> = (0..sketches.len())
        .map(|number| format!("t{number}"))
        .collect();
    let above: Vec<Vec<&str>> = sketches
        .iter()
        .enumerate()
        .map(|(number, sketch)| {
            let all: BTreeSet<usize> = sketch
                .upstream
                .iter()
                .filter(|_| number > 0)
                .map(|index| index.index(number))
                .collect();
            all.into_iter().map(|one| names[one].as_str()).collect()
        })
        .collect();
    let tasks: Vec<(&str, &[&str])> = names
        .iter()
        .zip(&above)
        .map(|(name, above)| (name.as_str(), above.as_slice()))
        .collect();
    let mut drawn = dag("drawn", &tasks);
    let mut mocks = BTreeMap::new();
    for (ordinal, sketch) in sketches.iter().enumerate() {
        let below: Vec<String> = drawn.tasks[ordinal]
            .downstream
            .iter()
            .map(|below| drawn.tasks[*below].id.to_string())
            .collect();
        let task = &mut drawn.tasks[ordinal];
        let mut mock = match sketch.mock {
            0 => Mock::Failed,
            1 => Mock::Skipped,
            _most => Mock::Success,
        };
        match sketch.role {
            0 => task.flow.setup = true,
            1 => task.flow.teardown = true,
            2 | 3 => {
                task.kind = BRANCH.to_owned();
                if mock == Mock::Success {
                    let chosen = below.into_iter().zip(&sketch.chosen);
                    mock = Mock::Branch(chosen.filter(|(_, it)| **it).map(|(id, _)| id).collect());
                }
            }
            _plain => {}
        }
        if !task.flow.teardown {
            task.trigger_rule = TriggerRule::ALL[sketch.rule];
        }
        mocks.insert(task.id.to_string(), mock);
    }
    (change(drawn, "t0", |_| {}), mocks)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]

    #[test]
    fn random_dags_come_to_the_states_that_follow_from_what_is_above(
        sketches in prop::collection::vec(sketch(), 1..30), slots in 1..6_usize,
    ) {
        let (drawn, mocks) = drawn(&sketches);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let request = Request {
            logical_date: noon(),
            data_interval_start: noon(),
            data_interval_end: noon(),
            params: Params::new(),
            mocks: mocks.clone(),
            outputs: BTreeMap::new(),
            slots,
            sources: Sources::default(),
        };
        let played = run(Arc::new(drawn.clone()), Registry::default(), request, CancellationToken::new(), |_| {});
        let report = runtime.block_on(played);
        let expected: Map<String, Value> = drawn
            .tasks
            .iter()
            .zip(expected(&drawn, &mocks))
            .map(|(task, state)| (task.id.to_string(), json!(state)))
            .collect();
        prop_assert_eq!(&report.tasks, &expected);
        let failed = drawn.tasks.iter().any(|task| report.tasks[task.id.as_str()] == "failed");
        prop_assert_eq!(report.state == RunState::Failed, failed);
    }
}

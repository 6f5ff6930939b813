//! Processes that die, answers that are lost, two tries at once: whatever happens, a later try lands each record once, byte
//! for byte. The order is that of a landing.

use std::time::Duration;

use hyper::{Method, StatusCode};
use pinwheel_tasks::{FailureClass, kafka_to_s3::Step};
use pinwheel_test_support::{durable::Call, s3::Fault};
use serde_json::json;

use super::world::{HoldAt, World, small_chunks};

/// Every step at which a try can die, some of them later in the landing as well.
const DEATHS: [(Step, usize); 13] = [
    (Step::PlanMade, 1),
    (Step::PlanFrozen, 1),
    (Step::ChunkBegun, 1),
    (Step::ChunkBegun, 5),
    (Step::ChunkRead, 1),
    (Step::ChunkRead, 5),
    (Step::ObjectWritten, 1),
    (Step::ObjectWritten, 5),
    (Step::ObjectsWritten, 1),
    (Step::ManifestWritten, 1),
    (Step::CursorMoved, 1),
    (Step::Marked, 1),
    // Never reached: the process ends by itself.
    (Step::Marked, 2),
];

#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_dies_at_any_step_and_is_run_again_lands_each_record_once() {
    let mut world = World::new().await;
    for (run, (step, nth)) in (1..).zip(DEATHS) {
        world.produce(300).await;
        let mut child = world.start_child(run, Some((step, nth)));
        let status = child.wait().await.expect("a child of ours");
        assert_eq!(
            status.success(),
            (step, nth) == (Step::Marked, 2),
            "at {step:?} {nth}: {status}"
        );
        // What comes between the tries belongs to the next run, unless there was no plan yet.
        world.produce(30).await;
        let mut child = world.start_child(run, None);
        let status = child.wait().await.expect("a child of ours");
        assert!(status.success(), "after {step:?} {nth}: {status}");
    }
    world.land(100).await;
    world.assert_each_record_landed_once().await;
    assert_eq!(world.manifests().await.len(), DEATHS.len() + 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_dies_in_the_middle_of_a_write_and_is_run_again_lands_each_record_once() {
    let mut world = World::new().await;
    let requests = [
        ("/dt", Fault::BodyHeld),
        ("/dt", Fault::AnswerHeld),
        ("_manifests/", Fault::BodyHeld),
        ("_manifests/", Fault::AnswerHeld),
    ];
    for (run, (part, fault)) in (1..).zip(requests) {
        world.produce(300).await;
        let happened = world.server.fail_next(Method::PUT, part, fault);
        let mut child = world.start_child(run, None);
        happened.await.expect("the request comes");
        child.kill().await.expect("a child of ours");
        world.produce(30).await;
        world.land(run).await;
    }
    world.land(100).await;
    world.assert_each_record_landed_once().await;
    assert_eq!(world.manifests().await.len(), requests.len() + 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_write_whose_answer_is_lost_is_found_to_be_done() {
    let mut world = World::new().await;
    world.produce(300).await;
    for part in ["/dt", "/dt", "_manifests/"] {
        world.server.fail_next(Method::PUT, part, Fault::AnswerLost);
    }
    assert_eq!(world.land(1).await["records"], json!(300));
    assert_eq!(world.server.faults_left(), 0);
    world.assert_each_record_landed_once().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_is_slow_or_busy_with_the_same_key_is_asked_again() {
    let mut world = World::new().await;
    world.produce(300).await;
    for status in [
        StatusCode::SERVICE_UNAVAILABLE,
        StatusCode::CONFLICT,
        StatusCode::INTERNAL_SERVER_ERROR,
        StatusCode::CONFLICT,
    ] {
        for part in ["/dt", "_manifests/"] {
            let fault = Fault::Refused(status);
            world.server.fail_next(Method::PUT, part, fault);
        }
    }
    assert_eq!(world.land(1).await["records"], json!(300));
    assert_eq!(world.server.faults_left(), 0);
    world.assert_each_record_landed_once().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_whose_disk_is_full_fails_the_try_and_not_the_next() {
    let mut world = World::new().await;
    world.produce(300).await;
    // More often than a request is repeated.
    for _ in 0..40 {
        let fault = Fault::Refused(StatusCode::INSUFFICIENT_STORAGE);
        world.server.fail_next(Method::PUT, "/dt", fault);
    }
    let failure = world
        .try_once(&world.kind(), 1, small_chunks())
        .await
        .expect_err("there is no room");
    assert_eq!(failure.class, FailureClass::Retryable);
    assert!(failure.message.contains("507"), "{failure}");
    assert!(world.manifests().await.is_empty());
    world.server.forget_faults();
    assert_eq!(world.land(1).await["records"], json!(300));
    world.assert_each_record_landed_once().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_whose_answer_is_lost_is_found_to_be_done() {
    let mut world = World::new().await;
    for (run, call) in [(1, Call::Freeze), (2, Call::Advance)] {
        world.produce(90).await;
        world.ledger.lose_answer_of_next(call);
        let failure = world
            .try_once(&world.kind(), run, small_chunks())
            .await
            .expect_err("nobody knows what became of it");
        assert_eq!(failure.class, FailureClass::Retryable, "{failure}");
        world.produce(30).await;
        // The plan had been frozen before the answer was lost.
        assert_eq!(
            world.land(run).await["records"],
            json!(if run == 1 { 90 } else { 120 })
        );
    }
    world.land(3).await;
    world.assert_each_record_landed_once().await;
}

/// Where a try can be overtaken by another one of the same run.
const OVERTAKEN: [(Step, usize); 7] = [
    (Step::PlanMade, 1),
    (Step::PlanFrozen, 1),
    (Step::ChunkBegun, 2),
    (Step::ChunkRead, 2),
    (Step::ObjectWritten, 2),
    (Step::ObjectsWritten, 1),
    (Step::ManifestWritten, 1),
];

#[tokio::test(flavor = "multi_thread")]
async fn a_try_that_comes_back_after_its_task_was_taken_over_changes_nothing() {
    let mut world = World::new().await;
    for (run, (step, nth)) in (1..).zip(OVERTAKEN) {
        world.produce(200).await;
        let (held, reached) = HoldAt::nth(step, nth);
        let zombie = world.kind().observed_by(held.clone());
        let zombie = world.try_once(&zombie, run, small_chunks());
        let owner = async {
            reached.await.expect("it comes there");
            let durable = world.ledger.take_over(run);
            let output = world
                .try_under(&world.kind(), run, small_chunks(), durable)
                .await
                .expect("the owner lands");
            held.let_go();
            output
        };
        let (zombie, owner) = tokio::join!(zombie, owner);
        assert_eq!(owner["records"], json!(200), "at {step:?}");
        // Who comes when all is done finds that there is nothing to do; its report is refused by the orchestrator.
        match zombie {
            Ok(output) => assert_eq!(output, owner, "at {step:?}"),
            Err(failure) => {
                assert_eq!(failure.class, FailureClass::Lost, "at {step:?}: {failure}");
            }
        }
    }
    world.assert_each_record_landed_once().await;
    assert_eq!(world.manifests().await.len(), OVERTAKEN.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn two_tries_of_one_run_at_the_same_time_land_the_same() {
    let mut world = World::new().await;
    let at_any_step = OVERTAKEN.into_iter().chain([(Step::CursorMoved, 1)]);
    for (run, (step, nth)) in (1..).zip(at_any_step) {
        world.produce(200).await;
        let (held, reached) = HoldAt::nth(step, nth);
        let one = world.kind().observed_by(held.clone());
        let one = world.try_once(&one, run, small_chunks());
        let other = async {
            reached.await.expect("it comes there");
            let output = world.land(run).await;
            held.let_go();
            output
        };
        let (one, other) = tokio::join!(one, other);
        assert_eq!(one.expect("both land"), other, "at {step:?}");
        assert_eq!(other["records"], json!(200), "at {step:?}");
    }
    world.assert_each_record_landed_once().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_is_killed_while_it_is_read_and_starts_again_is_read_by_the_next_try() {
    let mut world = World::new().await;
    world.produce(900).await;
    let (held, reached) = HoldAt::nth(Step::ChunkBegun, 4);
    let kind = world.kind().observed_by(held.clone());
    let mut broker = world.broker.take().expect("an embedded broker");
    let landing = world.try_once(&kind, 1, small_chunks());
    let restarting = async {
        reached.await.expect("it comes there");
        let broker = tokio::task::spawn_blocking(move || {
            broker.kill();
            broker.restart();
            broker
        });
        let broker = broker.await.expect("it starts again");
        held.let_go();
        broker
    };
    // The try is given up with its worker, wherever it is.
    let _broker = tokio::select! {
        biased;
        ended = landing => panic!("it is held: {ended:?}"),
        broker = restarting => broker,
    };
    assert_eq!(world.land(1).await["records"], json!(900));
    world.assert_each_record_landed_once().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn objects_that_a_clock_calls_old_are_not_used_and_written_beside() {
    let mut world = World::new().await;
    world.produce(300).await;
    let mut child = world.start_child(1, Some((Step::ObjectsWritten, 1)));
    child.wait().await.expect("a child of ours");
    let before = world.objects().await;
    world.age_objects(Duration::from_secs(3 * 86_400));
    assert_eq!(world.land(1).await["records"], json!(300));
    assert_eq!(world.objects().await.len(), 2 * before.len());
    world.assert_each_record_landed_once().await;
}

//! `wait_until`.

use std::time::Duration;

use pinwheel_tasks::{FailureClass, Kind, WaitUntil};
use serde_json::json;

use crate::world::{World, output, sleep, table};

#[tokio::test]
async fn it_sleeps_once_until_the_instant_by_the_orchestrators_clock() {
    // The world's time is the end of the data interval.
    for with in [
        json!({"after_interval": "90m"}),
        json!({"instant": "2026-01-02T05:30:00+02:00"}),
    ] {
        let world = World::new();
        let (wake_after, reason, resume) = sleep(world.run(&WaitUntil, with.clone()).await);
        assert_eq!(wake_after, Duration::from_secs(90 * 60));
        assert_eq!(reason, "waits until 2026-01-02T03:30:00Z");
        world.advance(wake_after);
        let outcome = world.resume(&WaitUntil, with, Some(resume)).await;
        assert_eq!(output(outcome), json!({"until": "2026-01-02T03:30:00Z"}));
    }
}

#[tokio::test]
async fn what_is_over_is_not_waited_for() {
    let world = World::new();
    let outcome = world
        .run(&WaitUntil, json!({"instant": "2020-01-01T00:00:00Z"}))
        .await;
    assert_eq!(output(outcome), json!({"until": "2020-01-01T00:00:00Z"}));
}

#[tokio::test]
async fn an_instant_must_be_one() {
    for with in [
        json!({}),
        json!({"instant": "2026-01-01T00:00:00Z", "after_interval": "1m"}),
        json!({"instant": "tomorrow"}),
    ] {
        let with = table(with);
        assert_eq!(WaitUntil.check(&with).len(), 1, "{with:?}");
        let failure = World::new()
            .resume_unchecked(&WaitUntil, with, None)
            .await
            .unwrap_err();
        assert_eq!(failure.class, FailureClass::Permanent);
    }
}

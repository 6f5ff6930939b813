//! An idle engine asks nothing but its heartbeat.

use super::*;
use crate::store::tests::witness::{Witness, hear_renewals};

/// What an idle process asks.
const HEARTBEAT: [&str; 2] = [
    include_str!("../../store/queries/renew_lease.sql"),
    include_str!("../../store/queries/extend_watch.sql"),
];
const DAGS: usize = 1_000;
const BEATS: usize = 20;

#[tokio::test]
async fn an_idle_engine_with_a_thousand_dags_asks_nothing_but_its_heartbeat() {
    let (_, url) = fresh_store().await;
    let folder = tempfile::tempdir().unwrap();
    for number in 0..DAGS {
        let text = format!(
            "[dag]\nid = \"daily_{number}\"\nschedule = \"@daily\"\nstart = 2090-01-01T00:00:00Z\nno_success_for = \"26h\"\n\n[tasks.a]\nkind = \"test\"\n\n[[deadline]]\nfrom = \"scheduled\"\nafter = \"30m\"\n\n[[notify]]\non = [\"deadline\", \"failure\"]\nto = \"ops\"\n"
        );
        fs::write(folder.path().join(format!("daily_{number}.toml")), text).unwrap();
    }
    let mut renewals = hear_renewals(&url).await;
    let mut witness = Witness::of(&url).await;
    let store = Store::connect(&url).await.unwrap();
    // Long enough to outlive a beat that comes late on a busy machine, short enough to end during the test if it were
    // not renewed.
    let idle = Options {
        heartbeat: Duration::from_millis(100),
        lease: Duration::from_secs(1),
        dag_poll: Duration::from_millis(50),
        dag_folder: Some(folder.path().to_owned()),
        ..options("idle")
    };
    let engine = start_with(
        &store,
        noop(),
        Roles::Both,
        idle,
        Arc::new(SystemClock::new()),
    )
    .await;
    assert_eq!(store.published().await.unwrap().len(), DAGS);
    // What the start brings along is over once the lease has been renewed a few times.
    for _ in 0..5 {
        renewals.recv().await.unwrap();
    }
    witness.begin().await;
    for _ in 0..BEATS {
        renewals.recv().await.unwrap();
    }
    let asked = witness.end().await;
    let titles = HEARTBEAT.map(|statement| statement.lines().next().unwrap());
    let beats = asked.iter().filter(|one| *one == titles[0]).count();
    assert!(beats >= BEATS - 1, "{beats} renewals: {asked:#?}");
    let others: Vec<_> = asked
        .iter()
        .filter(|one| !titles.contains(&one.as_str()))
        .collect();
    assert!(others.is_empty(), "in {BEATS} heartbeats: {others:#?}");
    finish(engine).await;
}

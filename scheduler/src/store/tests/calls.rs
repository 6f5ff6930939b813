//! The calls of the store that these tests make, in one place.

use std::{collections::BTreeMap, time::Duration};

use super::{Appetite, Ended, Error, Heartbeat};
use crate::{
    model::WorkerId,
    store::{Claimed, Settled, Store},
};

pub(super) const LEASE: Duration = Duration::from_secs(600);

pub(super) async fn register(store: &Store, queues: &[&str]) -> WorkerId {
    let who = Heartbeat {
        name: "a worker",
        version: "test",
        queues: &owned(queues),
        slots: 8,
        schedules: false,
        lease: LEASE,
        labels: &BTreeMap::new(),
    };
    store.register(who).await.unwrap()
}

pub(super) async fn claim(
    store: &Store,
    worker_id: WorkerId,
    queues: &[&str],
    slots: usize,
) -> Result<Vec<Claimed>, Error> {
    let appetite = Appetite {
        worker_id,
        queues: &owned(queues),
        slots,
    };
    Ok(store.claim(appetite).await?.claimed)
}

/// Settles, and claims in the same transaction.
pub(super) async fn settle_and_claim(
    store: &Store,
    batch: &[Ended],
    worker_id: WorkerId,
    queues: &[&str],
    slots: usize,
) -> Result<(Settled, Vec<Claimed>), Error> {
    let appetite = Appetite {
        worker_id,
        queues: &owned(queues),
        slots,
    };
    let mut settled = store.settle_and_claim(batch, appetite).await?;
    let claimed = std::mem::take(&mut settled.taken.claimed);
    Ok((settled, claimed))
}

/// Makes what may be claimed and what wakes anew, from the task instances.
pub(super) async fn rebuild(store: &Store) -> Result<(), Error> {
    super::mend_open_runs(store).await;
    Ok(())
}

fn owned(queues: &[&str]) -> Vec<String> {
    queues.iter().map(|queue| (*queue).to_owned()).collect()
}

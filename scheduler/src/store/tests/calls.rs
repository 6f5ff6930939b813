//! The calls of the store that these tests make, in one place.

use std::{collections::BTreeMap, time::Duration};

use super::{Appetite, Ended, Error, Heartbeat};
use crate::{
    model::WorkerId,
    store::{Claimed, Settled, Store, Taken},
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
    look_again(
        store,
        appetite,
        Taken {
            look_again: true,
            ..Taken::default()
        },
    )
    .await
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
    let mut taken = std::mem::take(&mut settled.taken);
    taken.look_again |= !settled.looked;
    let claimed = look_again(store, appetite, taken).await?;
    Ok((settled, claimed))
}

/// Goes on as a worker does that is told to look again.
async fn look_again(
    store: &Store,
    appetite: Appetite<'_>,
    mut taken: Taken,
) -> Result<Vec<Claimed>, Error> {
    let mut claimed = std::mem::take(&mut taken.claimed);
    let mut looks = 0;
    while taken.look_again && claimed.len() < appetite.slots {
        looks += 1;
        assert!(looks < 100, "a claim asks to look again for ever");
        let rest = Appetite {
            slots: appetite.slots - claimed.len(),
            ..appetite
        };
        taken = store.claim(rest).await?;
        claimed.append(&mut taken.claimed);
    }
    Ok(claimed)
}

/// Makes what may be claimed and what wakes anew, from the task instances.
pub(super) async fn rebuild(store: &Store) -> Result<(), Error> {
    super::mend_open_runs(store).await;
    Ok(())
}

fn owned(queues: &[&str]) -> Vec<String> {
    queues.iter().map(|queue| (*queue).to_owned()).collect()
}

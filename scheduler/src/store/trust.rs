//! Which pooled connections may still be used. An outage breaks all that were open, and a pool gives them out again one
//! after the other: without this each would cost one more statement that fails, and one more "Postgres is away", for as
//! long as a process that says little takes to go through them.

use std::{
    future::ready,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use futures::FutureExt;
use sqlx::postgres::PgPoolOptions;

/// Shared by a store and its pools.
#[derive(Debug, Clone, Default)]
pub(super) struct Trust {
    since: Arc<Mutex<Option<Instant>>>,
}

impl Trust {
    /// Connections that were opened before now are not given out again.
    pub(super) fn begin_anew(&self) {
        *self.since.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
    }

    /// A pool that gives out only what is trusted.
    pub(super) fn guard(&self, pool: PgPoolOptions) -> PgPoolOptions {
        let trust = self.clone();
        pool.before_acquire(move |_, connection| ready(Ok(trust.holds(connection.age))).boxed())
    }

    fn holds(&self, age: Duration) -> bool {
        let since = *self.since.lock().unwrap_or_else(PoisonError::into_inner);
        since.is_none_or(|since| age < since.elapsed())
    }
}

#[cfg(test)]
mod tests {
    use pinwheel_test_support::{postgres::Postgres, proxy::Proxy};

    use crate::store::Store;

    #[tokio::test]
    async fn one_statement_that_fails_is_enough_to_forget_what_an_outage_broke() {
        let url = Postgres::shared().empty_database().await;
        let (user, place) = url.split_once('@').unwrap();
        let (address, database) = place.split_once('/').unwrap();
        let proxy = Proxy::start(address.parse().unwrap()).await;
        let url = format!("{user}@{}/{database}", proxy.address());
        let store = Store::connect(&url).await.unwrap();
        let before = proxy.counts().opened;
        let at_once = (0..4).map(|_| store.notify("x"));
        for told in futures::future::join_all(at_once).await {
            told.unwrap();
        }
        assert!(proxy.counts().opened >= before + 2, "several were opened");

        proxy.cut();
        assert!(store.notify("x").await.unwrap_err().is_away());
        store.distrust_open_connections();
        for _ in 0..8 {
            store.notify("x").await.unwrap();
        }
    }
}

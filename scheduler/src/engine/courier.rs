//! Brings messages to people: a scheduler leases them, whoever knows the channels delivers them, and what became of each is
//! noted. A process that dies in between has sent a message at most once more than it said, never less.

use std::{
    fmt,
    sync::Arc,
    time::{Duration, Instant},
};

use async_trait::async_trait;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::task::TaskTracker;

use super::{Clock, bell::Bell, outage::Pauses};
use crate::{
    metrics,
    model::message::Message,
    store::{self, ChannelInfo, DELIVERY_LEASE, DeliveryFailed, Effects, Store},
};

/// Deliveries at once.
const AT_ONCE: usize = 8;
/// The longest that one may take; shorter than the lease, so that what became of it can still be noted.
const LONGEST: Duration = Duration::from_secs(20);
/// How long deliveries may go on after the process was asked to stop.
const GRACE: Duration = Duration::from_secs(5);
/// The pause after the first failure; it doubles with each further one.
const FIRST_PAUSE: Duration = Duration::from_secs(5);
const LONGEST_PAUSE: Duration = Duration::from_secs(15 * 60);

/// Knows the channels and how to reach them.
#[async_trait]
pub trait Courier: Send + Sync + 'static {
    /// The channels there are.
    fn channels(&self) -> Vec<ChannelInfo>;

    /// Delivers a message; the error says in words, and without secrets, why it did not arrive.
    async fn deliver(&self, message: &Message) -> Result<(), String>;
}

/// Who delivers messages in a process; by default nobody.
#[derive(Clone, Default)]
pub struct Delivery(Option<Arc<dyn Courier>>);

impl Delivery {
    /// Messages are delivered by `courier`.
    pub fn by(courier: impl Courier) -> Self {
        Self(Some(Arc::new(courier)))
    }
}

impl fmt::Debug for Delivery {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Delivery")
    }
}

/// The deliveries of one scheduler.
pub(super) struct Dispatch {
    courier: Option<Arc<dyn Courier>>,
    store: Store,
    bell: Bell,
    clock: Arc<dyn Clock>,
    room: Arc<Semaphore>,
    underway: TaskTracker,
}

impl Dispatch {
    pub(super) fn new(delivery: Delivery, store: Store, bell: Bell, clock: Arc<dyn Clock>) -> Self {
        Self {
            courier: delivery.0,
            store,
            bell,
            clock,
            room: Arc::new(Semaphore::new(AT_ONCE)),
            underway: TaskTracker::new(),
        }
    }

    /// How many messages it can take now.
    pub(super) fn room(&self) -> usize {
        match self.courier {
            Some(_) => self.room.available_permits(),
            None => 0,
        }
    }

    /// Notes which channels this process has.
    pub(super) async fn announce(&self) -> Result<(), store::Error> {
        match &self.courier {
            Some(courier) => self.store.note_channels(&courier.channels()).await,
            None => Ok(()),
        }
    }

    /// Begins to deliver what is due, as far as there is room; says whether there was anything.
    pub(super) async fn send_due(self: &Arc<Self>) -> Result<bool, store::Error> {
        let shift = *self.clock.shift().borrow();
        let messages = self.store.lease_messages(self.room(), shift).await?;
        let any = !messages.is_empty();
        for message in messages {
            let dispatch = Arc::clone(self);
            // Only this loop takes permits, and it took no more messages than there are.
            let permit = Arc::clone(&self.room).try_acquire_owned().ok();
            self.underway
                .spawn(async move { dispatch.send(message, permit).await });
        }
        Ok(any)
    }

    /// Waits for what is underway, for a moment. What does not end is delivered by others when its lease is over.
    pub(super) async fn close(&self) {
        self.underway.close();
        if tokio::time::timeout(GRACE, self.underway.wait())
            .await
            .is_err()
        {
            tracing::warn!("deliveries were left to other schedulers");
        }
    }

    async fn send(&self, message: Message, permit: Option<OwnedSemaphorePermit>) {
        let Some(courier) = &self.courier else {
            return;
        };
        let began = Instant::now();
        let sent = match tokio::time::timeout(LONGEST, courier.deliver(&message)).await {
            Ok(sent) => sent,
            Err(_) => Err(format!("no answer within {} s", LONGEST.as_secs())),
        };
        self.record(&message, sent, began).await;
        // Others may look for room once there is some.
        drop(permit);
        self.bell.ring_for(Effects {
            deadline: true,
            ..Effects::default()
        });
    }

    /// Notes what became of a delivery, again while Postgres is away, for as long as the message is ours.
    async fn record(&self, message: &Message, sent: Result<(), String>, began: Instant) {
        let mut pauses = Pauses::default();
        loop {
            let recorded = match &sent {
                Ok(()) => self.store.delivered(message.message_id).await,
                Err(error) => self.record_failure(message, error).await,
            };
            let Err(error) = recorded else {
                let outcome = if sent.is_ok() { "delivered" } else { "failed" };
                metrics::DELIVERIES.with_label_values(&[outcome]).inc();
                return;
            };
            metrics::STORE_ERRORS.inc();
            let pause = pauses.next();
            if !error.is_unavailable() || began.elapsed() + pause > DELIVERY_LEASE {
                tracing::error!(%error, message = message.message_id.0, "what became of message {} could not be noted; it is delivered again", message.message_id);
                return;
            }
            tokio::time::sleep(pause).await;
        }
    }

    async fn record_failure(&self, message: &Message, error: &str) -> Result<(), store::Error> {
        let shift = *self.clock.shift().borrow();
        let failed = self
            .store
            .not_delivered(message, error, pause_after(message.attempt), shift)
            .await?;
        let (number, channel, attempt) = (message.message_id.0, &message.channel, message.attempt);
        match failed {
            DeliveryFailed::Again => tracing::warn!(
                message = number,
                channel,
                attempt,
                "message {number} did not reach `{channel}` and is tried again: {error}"
            ),
            DeliveryFailed::GivenUp => tracing::error!(
                message = number,
                channel,
                attempt,
                "message {number} did not reach `{channel}` and is given up: {error}"
            ),
            DeliveryFailed::TakenOver => {}
        }
        Ok(())
    }
}

fn pause_after(attempt: i32) -> Duration {
    let doublings = u32::try_from(attempt - 1).unwrap_or(0).min(16);
    FIRST_PAUSE
        .saturating_mul(1 << doublings)
        .min(LONGEST_PAUSE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_a_quarter_of_an_hour() {
        assert_eq!(pause_after(1), Duration::from_secs(5));
        assert_eq!(pause_after(3), Duration::from_secs(20));
        assert_eq!(pause_after(100), LONGEST_PAUSE);
    }
}

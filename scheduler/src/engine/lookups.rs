//! What one try looks up: variables and connections, for its templates and for its kind. Whatever is secret in them is
//! learnt by the try's masks before anybody else sees it.

use async_trait::async_trait;
use pinwheel_tasks::{Connection, Connections, Failure, Masks};
use tokio_util::sync::CancellationToken;

use super::outage::{Outage, Pauses, Question};
use crate::{
    model::template::Reads,
    secrets::{self, LookedUp, Vault, mask_connection},
};

/// The lookups of one try. Cheap to clone.
#[derive(Clone)]
pub(super) struct Lookups {
    pub(super) vault: Vault,
    pub(super) outage: Outage,
    pub(super) masks: Masks,
    pub(super) stop: CancellationToken,
}

impl Lookups {
    /// The variables and connections that templates read. What is not there is the template's error.
    pub(super) async fn for_templates(&self, reads: &Reads) -> Result<LookedUp, Failure> {
        if reads.connections.is_empty() && reads.variables.is_empty() {
            return Ok(LookedUp::default());
        }
        let mut pauses = Pauses::default();
        loop {
            let question = self.outage.asking();
            match self
                .vault
                .look_up(&reads.connections, &reads.variables)
                .await
            {
                Ok(found) => {
                    question.answered();
                    found.mask(&self.masks);
                    return Ok(found);
                }
                Err(error) => self.wait(question, error, &mut pauses).await?,
            }
        }
    }

    /// Waits while Postgres is away: that is no fault of the task.
    async fn wait(
        &self,
        question: Question,
        error: secrets::Error,
        pauses: &mut Pauses,
    ) -> Result<(), Failure> {
        match error {
            secrets::Error::Store(error) if error.is_unavailable() => question.failed(&error),
            error => return Err(failure(&error)),
        }
        tokio::select! {
            biased;
            () = self.stop.cancelled() => Err(Failure::retryable("stopped while Postgres was away")),
            () = tokio::time::sleep(pauses.next()) => Ok(()),
        }
    }
}

#[async_trait]
impl Connections for Lookups {
    async fn get(&self, id: &str) -> Result<Connection, Failure> {
        let mut pauses = Pauses::default();
        loop {
            let question = self.outage.asking();
            match self.vault.connection(id).await {
                Ok(connection) => {
                    question.answered();
                    mask_connection(&self.masks, id, &connection);
                    return Ok(connection);
                }
                Err(error) => self.wait(question, error, &mut pauses).await?,
            }
        }
    }
}

/// A key that is missing here may be on another worker, or may be given to this one: that is tried again.
fn failure(error: &secrets::Error) -> Failure {
    let message = error.to_string();
    let failure = match error {
        secrets::Error::NoKey { .. }
        | secrets::Error::WrongKey { .. }
        | secrets::Error::Store(_) => Failure::retryable(message),
        secrets::Error::Tampered { .. }
        | secrets::Error::Unknown { .. }
        | secrets::Error::FromEnvironment { .. }
        | secrets::Error::Misfit { .. } => Failure::permanent(message),
    };
    match error.hint() {
        Some(hint) => failure.with_hint(hint),
        None => failure,
    }
}

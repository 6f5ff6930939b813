//! What the Kafka clients of this crate share beside `pinwheel_tasks::kafka`: logs that do not flood, and blocking calls
//! away from the runtime's threads.

use std::sync::Arc;

use rdkafka::{
    ClientContext, config::RDKafkaLogLevel, consumer::ConsumerContext, error::KafkaError,
    types::RDKafkaErrorCode,
};
use tokio::sync::Notify;

/// Runs a blocking librdkafka call on a thread that may block.
pub(crate) async fn blocking<T: Send + 'static>(call: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(call).await {
        Ok(value) => value,
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}

/// Keeps librdkafka's own chatter at debug level, because who uses the client says once what is wrong; and rings when
/// the client lost its brokers, so that its owner looks at once.
#[derive(Clone, Debug, Default)]
pub(crate) struct Quiet {
    pub(crate) trouble: Arc<Notify>,
}

impl ClientContext for Quiet {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        tracing::debug!(target: "librdkafka", ?level, facility, "{message}");
    }

    fn error(&self, error: KafkaError, reason: &str) {
        tracing::debug!(target: "librdkafka", %error, "{reason}");
        if matches!(
            error.rdkafka_error_code(),
            Some(RDKafkaErrorCode::AllBrokersDown | RDKafkaErrorCode::BrokerTransportFailure)
        ) {
            self.trouble.notify_one();
        }
    }
}

impl ConsumerContext for Quiet {}

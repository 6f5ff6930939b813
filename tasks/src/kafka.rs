//! The Kafka client: how settings become a configuration, and what its errors mean.
//!
//! This file owns the properties on which the protocol of readers depends; a user's properties may tune a client and
//! may not break it. It never shows a property's value, which may be a password.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use rdkafka::{
    ClientConfig, ClientContext,
    admin::{AdminClient, AdminOptions, NewTopic, TopicReplication},
    client::DefaultClientContext,
    config::RDKafkaLogLevel,
    consumer::{BaseConsumer, Consumer, ConsumerContext},
    error::KafkaError,
    types::RDKafkaErrorCode,
};

use crate::{Failure, KafkaSettings};

/// How long a broker may keep silent before somebody is told.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// What an error of the client means to a caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trouble {
    /// No broker answers, or one is starting or moving a partition: the same call may succeed later.
    Away,
    /// The topic or the partition does not exist.
    UnknownTopic,
    /// The broker refuses the credentials, or what they may do.
    Denied,
    /// The client cannot be made from these settings.
    Settings,
    /// Anything else; the same call fails again.
    Permanent,
}

/// The configuration of any client: brokers, a name, and the user's own properties, which win.
pub fn client(settings: &KafkaSettings) -> ClientConfig {
    let mut config = ClientConfig::new();
    config
        .set("bootstrap.servers", &settings.brokers)
        .set("client.id", "pinwheel")
        // A broker that restarts is found again at once; the default backs off to ten seconds.
        .set("reconnect.backoff.max.ms", "2000");
    pass_through(&mut config, settings);
    config
}

/// The configuration of a consumer that is told where to read: nothing is committed by itself, an offset that does not
/// exist is an error, aborted records are never seen, and the end of a partition is reported.
pub fn reader(settings: &KafkaSettings, group: &str) -> ClientConfig {
    let mut config = client(settings);
    config
        // The default of a second stalls a reader that is slower than the network and halves its rate.
        .set("fetch.queue.backoff.ms", "5")
        .set("fetch.wait.max.ms", "100")
        .set("queued.max.messages.kbytes", "16384");
    pass_through(&mut config, settings);
    config
        .set("group.id", group)
        .set("enable.auto.commit", "false")
        .set("enable.auto.offset.store", "false")
        .set("auto.offset.reset", "error")
        .set("enable.partition.eof", "true")
        .set("isolation.level", "read_committed")
        .set("allow.auto.create.topics", "false");
    config
}

/// The configuration of a producer that loses and repeats nothing.
pub fn producer(settings: &KafkaSettings) -> ClientConfig {
    let mut config = client(settings);
    config.set("compression.type", "zstd").set("linger.ms", "5");
    pass_through(&mut config, settings);
    config.set("enable.idempotence", "true").set("acks", "all");
    config
}

/// Says what an error means.
pub fn trouble(error: &KafkaError) -> Trouble {
    use RDKafkaErrorCode as Code;
    match error {
        KafkaError::ClientConfig(..) | KafkaError::ClientCreation(_) => return Trouble::Settings,
        KafkaError::NoMessageReceived | KafkaError::Canceled => return Trouble::Away,
        _ => {}
    }
    match error.rdkafka_error_code() {
        Some(
            Code::BrokerTransportFailure
            | Code::AllBrokersDown
            | Code::OperationTimedOut
            | Code::MessageTimedOut
            | Code::RequestTimedOut
            | Code::Resolve
            | Code::NetworkException
            | Code::BrokerNotAvailable
            | Code::LeaderNotAvailable
            | Code::ReplicaNotAvailable
            | Code::NotLeaderForPartition
            | Code::PreferredLeaderNotAvailable
            | Code::CoordinatorNotAvailable
            | Code::CoordinatorLoadInProgress
            | Code::NotCoordinator
            | Code::NotController
            | Code::NotEnoughReplicas
            | Code::NotEnoughReplicasAfterAppend
            | Code::OffsetNotAvailable
            | Code::FencedLeaderEpoch
            | Code::UnknownLeaderEpoch
            | Code::KafkaStorageError
            | Code::WaitingForCoordinator
            | Code::WaitCache
            | Code::TimedOutQueue
            | Code::QueueFull
            | Code::ThrottlingQuotaExceeded,
        ) => Trouble::Away,
        Some(Code::UnknownTopic | Code::UnknownTopicOrPartition | Code::UnknownPartition) => {
            Trouble::UnknownTopic
        }
        Some(
            Code::Authentication
            | Code::SaslAuthenticationFailed
            | Code::TopicAuthorizationFailed
            | Code::GroupAuthorizationFailed
            | Code::ClusterAuthorizationFailed
            | Code::TransactionalIdAuthorizationFailed
            | Code::SSL,
        ) => Trouble::Denied,
        _ => Trouble::Permanent,
    }
}

/// An error of the client as the failure of a try. `doing` completes "cannot …".
pub fn failure(settings: &KafkaSettings, doing: &str, error: &KafkaError) -> Failure {
    let brokers = &settings.brokers;
    match trouble(error) {
        Trouble::Away => away(settings, doing),
        Trouble::UnknownTopic => Failure::retryable(format!("cannot {doing}: the broker at {brokers} does not know it"))
            .with_hint("check the topic's name and `kafka.brokers`; a topic exists once somebody has created it"),
        Trouble::Denied => Failure::permanent(format!("cannot {doing}: the broker at {brokers} denies it: {error}"))
            .with_hint("check the credentials in `kafka.properties` and the broker's access rules"),
        Trouble::Settings => Failure::permanent(format!("cannot {doing}: the Kafka settings are refused: {error}"))
            .with_hint("check `kafka.brokers` and the names and values in `kafka.properties`"),
        Trouble::Permanent => Failure::permanent(format!("cannot {doing} at {brokers}: {error}")),
    }
}

/// The failure of a try that waited for a broker in vain.
pub fn away(settings: &KafkaSettings, doing: &str) -> Failure {
    Failure::retryable(format!(
        "cannot {doing}: no Kafka broker answers at {}",
        settings.brokers
    ))
    .with_hint("check `kafka.brokers` and that the broker is running")
}

/// What a client takes at most, whatever the broker sends: 100 MB unless it is set.
const LARGEST: &str = "receive.message.max.bytes";

/// Keeps what a client says beside what it hands out. A client goes on trying, so the caller of a question only learns that
/// no answer came; why (a wrong password, a certificate) is said here.
#[derive(Debug, Default)]
pub struct Heard {
    refused: Mutex<Option<String>>,
    too_large: Mutex<Option<String>>,
}

impl Heard {
    /// What the client said about an answer that is larger than it takes.
    pub fn too_large(&self) -> Option<String> {
        locked(&self.too_large).clone()
    }

    /// A failure with the reason for which a connection was refused, if one was.
    fn explain(&self, failure: Failure) -> Failure {
        let Some(reason) = locked(&self.refused).take() else {
            return failure;
        };
        Failure {
            message: format!("{}; the client says: {reason}", failure.message),
            ..failure
        }
        .with_hint("check the credentials and certificates in `kafka.properties` and the port in `kafka.brokers`")
    }
}

impl ClientContext for Heard {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        tracing::debug!(target: "librdkafka", ?level, facility, "{message}");
    }

    fn error(&self, error: KafkaError, reason: &str) {
        if error.rdkafka_error_code() == Some(RDKafkaErrorCode::PartitionEOF) {
            // Whoever polls is told of it, and it is no error.
        } else if reason.contains(LARGEST) {
            *locked(&self.too_large) = Some(reason.to_owned());
        } else if is_refusal(reason) {
            *locked(&self.refused) = Some(reason.to_owned());
        } else if trouble(&error) == Trouble::Away {
            tracing::debug!("Kafka client: {error}: {reason}");
        } else {
            tracing::warn!("Kafka client: {error}: {reason}");
        }
    }
}

impl ConsumerContext for Heard {}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// librdkafka's own words for a connection that a broker, or a check of the broker, ended.
fn is_refusal(reason: &str) -> bool {
    ["SASL", "SSL", "authentication", "certificate"]
        .iter()
        .any(|word| reason.contains(word))
}

/// The failure of a try that ends because a question was not answered, with the reason if the client knows one. What the client has to
/// say is handed over when it is polled, one thing at a time: nothing may be read from this client any more. Blocks for a
/// tenth of a second.
pub fn explained(consumer: &BaseConsumer<Heard>, failure: Failure) -> Failure {
    for _ in 0..100 {
        consumer.poll(Duration::from_millis(1));
    }
    consumer.context().explain(failure)
}

/// The partitions of a topic, sorted; `None` when the broker does not know it. Asks for all topics, because brokers may
/// create a topic that they are asked for by name. Blocks for at most `patience`.
///
/// # Errors
/// The broker does not answer or refuses.
pub fn partitions<X: ConsumerContext>(
    consumer: &impl Consumer<X>,
    topic: &str,
    patience: Duration,
) -> Result<Option<Vec<i32>>, KafkaError> {
    let metadata = consumer.fetch_metadata(None, patience)?;
    let Some(found) = metadata
        .topics()
        .iter()
        .find(|found| found.name() == topic && found.error().is_none())
    else {
        return Ok(None);
    };
    let mut partitions: Vec<i32> = found
        .partitions()
        .iter()
        .map(rdkafka::metadata::MetadataPartition::id)
        .collect();
    partitions.sort_unstable();
    Ok(if partitions.is_empty() {
        None
    } else {
        Some(partitions)
    })
}

/// Creates a topic unless it exists; an existing one is left as it is, whatever its partitions. Waits for the broker at
/// most [`PATIENCE`].
///
/// # Errors
/// The broker does not answer or refuses.
pub async fn ensure_topic(
    settings: &KafkaSettings,
    topic: &str,
    partitions: i32,
) -> Result<(), Failure> {
    let doing = format!("create topic `{topic}`");
    let config = client(settings);
    let explain = |error: &KafkaError| failure(settings, &doing, error);
    let admin: AdminClient<DefaultClientContext> =
        config.create().map_err(|error| explain(&error))?;
    // -1 is the broker's own default.
    let wanted = NewTopic::new(topic, partitions, TopicReplication::Fixed(-1));
    let options = AdminOptions::new()
        .request_timeout(Some(PATIENCE))
        .operation_timeout(Some(PATIENCE));
    let answers = admin
        .create_topics([&wanted], &options)
        .await
        .map_err(|error| explain(&error))?;
    for answer in answers {
        match answer {
            Ok(_) | Err((_, RDKafkaErrorCode::TopicAlreadyExists)) => {}
            Err((_, code)) => return Err(explain(&KafkaError::AdminOp(code))),
        }
    }
    Ok(())
}

/// Asks whether a broker answers within `patience`.
///
/// # Errors
/// None does, or it refuses.
pub async fn ping(settings: &KafkaSettings, patience: Duration) -> Result<(), Failure> {
    let config = client(settings);
    let about = settings.clone();
    let asked = tokio::task::spawn_blocking(move || {
        let explain = |error: KafkaError| failure(&about, "reach Kafka", &error);
        let consumer: BaseConsumer<Heard> = config
            .create_with_context(Heard::default())
            .map_err(explain)?;
        match consumer.fetch_metadata(None, patience) {
            Ok(_) => Ok(()),
            Err(error) => Err(explained(&consumer, explain(error))),
        }
    });
    asked
        .await
        .unwrap_or_else(|_| Err(away(settings, "reach Kafka")))
}

fn pass_through(config: &mut ClientConfig, settings: &KafkaSettings) {
    for (name, value) in &settings.properties {
        config.set(name, value);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::FailureClass;

    fn settings(properties: &[(&str, &str)]) -> KafkaSettings {
        KafkaSettings {
            brokers: "127.0.0.1:1".to_owned(),
            properties: properties
                .iter()
                .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
                .collect::<BTreeMap<_, _>>(),
        }
    }

    #[test]
    fn a_property_tunes_a_reader_and_cannot_break_it() {
        let config = reader(
            &settings(&[("fetch.wait.max.ms", "7"), ("auto.offset.reset", "latest")]),
            "group",
        );
        assert_eq!(config.get("fetch.wait.max.ms"), Some("7"));
        assert_eq!(config.get("auto.offset.reset"), Some("error"));
        assert_eq!(config.get("isolation.level"), Some("read_committed"));
    }

    #[test]
    fn a_property_that_does_not_exist_is_permanent_and_names_the_setting() {
        let settings = settings(&[("no.such.property", "x")]);
        let error = reader(&settings, "group")
            .create::<BaseConsumer>()
            .err()
            .expect("librdkafka refuses it");
        let failure = failure(&settings, "read topic `pins`", &error);
        assert_eq!(failure.class, FailureClass::Permanent);
        assert!(
            failure.message.contains("no.such.property"),
            "{}",
            failure.message
        );
        assert!(failure.hint.expect("a hint").contains("kafka.properties"));
    }

    #[test]
    fn tls_and_passwords_are_part_of_every_build() {
        for mechanism in ["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512", "OAUTHBEARER"] {
            let settings = settings(&[
                ("security.protocol", "SASL_SSL"),
                ("sasl.mechanisms", mechanism),
                ("sasl.username", "ada"),
                ("sasl.password", "hunter2"),
            ]);
            if let Err(error) = reader(&settings, "group").create::<BaseConsumer>() {
                panic!("{mechanism}: {error}");
            }
        }
    }

    #[tokio::test]
    async fn a_broker_that_is_away_is_retryable_and_named() {
        let failure = ping(&settings(&[]), Duration::from_millis(300))
            .await
            .expect_err("nobody listens on port 1");
        assert_eq!(failure.class, FailureClass::Retryable);
        assert_eq!(
            failure.message,
            "cannot reach Kafka: no Kafka broker answers at 127.0.0.1:1"
        );
        assert!(failure.hint.expect("a hint").contains("kafka.brokers"));
    }
}

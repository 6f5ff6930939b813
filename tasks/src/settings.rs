//! Where Kafka and S3 are, as the user's settings say. Checked where the settings are read; trusted here.

use std::{collections::BTreeMap, fmt};

use serde::{Deserialize, Serialize};

/// How to reach Kafka.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KafkaSettings {
    /// `host:port`, several separated by commas.
    pub brokers: String,
    /// librdkafka's own property names, passed through (`security.protocol`, `sasl.username`, …).
    pub properties: BTreeMap<String, String>,
}

/// How to reach an S3-compatible store.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct S3Settings {
    /// The endpoint's URL; `None` is AWS itself.
    pub endpoint: Option<String>,
    /// The region.
    pub region: String,
    /// Static credentials; `None` asks the usual AWS credentials chain.
    pub credentials: Option<S3Credentials>,
    /// Where the bucket's name goes in a request.
    pub addressing: S3Addressing,
}

/// A static access key.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct S3Credentials {
    /// The access key's id.
    pub access_key_id: String,
    /// The secret; never shown.
    pub secret_access_key: String,
}

/// Where the bucket's name goes in a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum S3Addressing {
    /// `https://endpoint/bucket/key`: most servers other than AWS.
    Path,
    /// `https://bucket.endpoint/key`: AWS.
    VirtualHost,
}

impl fmt::Debug for S3Settings {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("S3Settings")
            .field("endpoint", &self.endpoint)
            .field("region", &self.region)
            .field("addressing", &self.addressing)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for S3Credentials {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("S3Credentials")
            .field("access_key_id", &self.access_key_id)
            .finish_non_exhaustive()
    }
}

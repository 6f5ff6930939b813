//! The object store: everything Pinwheel asks of S3, in the few verbs that the data path needs.
//!
//! This file owns the S3 client, its time-outs and the meaning of its errors. It never overwrites an object that was
//! written with [`ObjectStore::put_if_absent`], and it never shows a credential.

use std::{collections::HashMap, error, fmt, str::FromStr, time::Duration};

use aws_runtime::auth::PayloadSigningOverride;
use aws_sdk_s3::{
    Client,
    config::{
        BehaviorVersion, ConfigBag, Credentials, Intercept, Region, RequestChecksumCalculation,
        ResponseChecksumValidation, RuntimeComponents,
        interceptors::BeforeTransmitInterceptorContextMut, retry::RetryConfig,
        timeout::TimeoutConfig,
    },
    error::{BoxError, ProvideErrorMetadata, SdkError},
    primitives::ByteStream,
    types::{BucketLocationConstraint, CreateBucketConfiguration},
};
use bytes::Bytes;
use chrono::{DateTime, TimeDelta, Utc};
use sha2::{Digest, Sha256};

use crate::{Failure, S3Addressing, S3Settings};

/// The user metadata (`x-amz-meta-sha256`) that carries the checksum of an object's bytes.
const CHECKSUM: &str = "sha256";

/// An object that was found and not written counts as young for so long (see `lake::gc`).
pub const FRESH: TimeDelta = TimeDelta::hours(24);

/// How often a conditional write is repeated after "another conditional write is under way" (409).
const CONFLICTING_REQUESTS: u32 = 6;

/// A client of one S3-compatible store. Cheap to clone.
#[derive(Clone)]
pub struct ObjectStore {
    client: Client,
    endpoint: String,
    region: String,
    own_endpoint: bool,
}

/// One object, or a prefix of objects, in a bucket.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Location {
    /// The bucket.
    pub bucket: String,
    /// The key, without a leading slash.
    pub key: String,
}

/// An object as a listing or a question shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// The key.
    pub key: String,
    /// The object's size.
    pub bytes: u64,
    /// When it was written, by the store's clock.
    pub modified: DateTime<Utc>,
    /// The store's own mark of the content, where it gives one.
    pub etag: Option<String>,
    /// The [`sha256`] that whoever wrote it noted. A listing does not tell it.
    pub checksum: Option<String>,
}

impl Listed {
    /// Whether two objects are known to hold the same bytes.
    pub fn is_same_as(&self, other: &Self) -> bool {
        let equal = |one: &Option<String>, other: &Option<String>| one.is_some() && one == other;
        self.bytes == other.bytes
            && (equal(&self.checksum, &other.checksum) || equal(&self.etag, &other.etag))
    }
}

/// What a conditional write found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Written {
    /// The object did not exist and does now.
    Created,
    /// The object existed with exactly these bytes.
    AlreadyThere,
}

/// Why the store did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Nobody answers, or the store says that it is overloaded. The request may be repeated.
    #[error("the S3 store at {endpoint} does not answer: {detail}")]
    Unavailable {
        /// Where the store was looked for.
        endpoint: String,
        /// What the client saw.
        detail: String,
    },
    /// The bucket does not exist.
    #[error("bucket `{bucket}` does not exist at {endpoint}")]
    MissingBucket {
        /// The bucket.
        bucket: String,
        /// Where it was looked for.
        endpoint: String,
    },
    /// The object does not exist.
    #[error("`{at}` does not exist")]
    Missing {
        /// The object.
        at: Location,
    },
    /// The store refuses the credentials, or what they may do.
    #[error("the S3 store at {endpoint} denies access to `{at}` ({code})")]
    Denied {
        /// What was asked for.
        at: Location,
        /// The store.
        endpoint: String,
        /// The store's own word.
        code: String,
    },
    /// The object exists with other bytes than the caller wants to write. Nothing was changed.
    #[error("`{at}` exists with different content")]
    Conflict {
        /// The object.
        at: Location,
    },
    /// The store answered with something else than success.
    #[error("the S3 store at {endpoint} refused `{at}`: {detail}")]
    Refused {
        /// What was asked for.
        at: Location,
        /// The store.
        endpoint: String,
        /// The store's own words.
        detail: String,
    },
    /// Text that should be `s3://bucket/key` is not.
    #[error("expected `s3://bucket/key`, found `{found}`")]
    NotALocation {
        /// The text.
        found: String,
    },
}

impl ObjectStore {
    /// A client for the store that `settings` name. Nothing is sent yet; with no static credentials the usual AWS
    /// chain (environment, profile, instance) is set up.
    pub async fn connect(settings: &S3Settings) -> Self {
        let version = BehaviorVersion::v2026_01_12();
        let mut builder = match &settings.credentials {
            Some(keys) => aws_sdk_s3::Config::builder()
                .behavior_version(version)
                .credentials_provider(Credentials::new(
                    &keys.access_key_id,
                    &keys.secret_access_key,
                    None,
                    None,
                    "pinwheel-settings",
                )),
            None => {
                // The region is given, or the chain would ask the network for one.
                let chain =
                    aws_config::defaults(version).region(Region::new(settings.region.clone()));
                aws_sdk_s3::config::Builder::from(&chain.load().await)
            }
        };
        builder = builder
            .region(Region::new(settings.region.clone()))
            .force_path_style(settings.addressing == S3Addressing::Path)
            // The signature covers the payload already; extra checksums are refused by some stores.
            .request_checksum_calculation(RequestChecksumCalculation::WhenRequired)
            .response_checksum_validation(ResponseChecksumValidation::WhenRequired)
            .retry_config(
                RetryConfig::standard()
                    .with_max_attempts(4)
                    .with_max_backoff(Duration::from_secs(4)),
            )
            .timeout_config(
                TimeoutConfig::builder()
                    .connect_timeout(Duration::from_secs(3))
                    .read_timeout(Duration::from_secs(30))
                    .operation_attempt_timeout(Duration::from_secs(120))
                    .build(),
            );
        if let Some(endpoint) = &settings.endpoint {
            builder = builder.endpoint_url(endpoint);
        }
        Self {
            client: Client::from_conf(builder.build()),
            endpoint: settings
                .endpoint
                .clone()
                .unwrap_or_else(|| format!("AWS in {}", settings.region)),
            region: settings.region.clone(),
            own_endpoint: settings.endpoint.is_some(),
        }
    }

    /// Writes an object unless it exists. An object with the same bytes counts as written, whoever wrote it, so a
    /// caller may repeat the call after any failure.
    ///
    /// # Errors
    /// [`Error::Conflict`] when it exists with other bytes; it is left as it is.
    pub async fn put_if_absent(&self, at: &Location, body: Bytes) -> Result<Written, Error> {
        let checksum = sha256(&body);
        let written = self
            .put_known_if_absent(at, body.clone(), &checksum)
            .await?;
        if written == Written::AlreadyThere
            && let Some(found) = self.look(at).await?
            && Utc::now() - found.modified > FRESH
        {
            // What is this old and in no manifest may be collected as an orphan while the caller counts on it: the same
            // bytes once more make it young.
            self.put(at, body, "application/octet-stream").await?;
        }
        Ok(written)
    }

    /// [`ObjectStore::put_if_absent`] for bytes whose [`sha256`] the caller has: they are not hashed again. An old object
    /// stays as old as it is.
    ///
    /// # Errors
    /// [`Error::Conflict`] when it exists with other bytes; it is left as it is.
    pub async fn put_known_if_absent(
        &self,
        at: &Location,
        body: Bytes,
        checksum: &str,
    ) -> Result<Written, Error> {
        let mut tries = 0;
        loop {
            let sent = self
                .client
                .put_object()
                .bucket(&at.bucket)
                .key(&at.key)
                .if_none_match("*")
                .content_type("application/octet-stream")
                .metadata(CHECKSUM, checksum)
                .body(ByteStream::from(body.clone()))
                .customize()
                .interceptor(SignedAs(checksum.to_owned()))
                .send()
                .await;
            let Err(error) = sent else {
                return Ok(Written::Created);
            };
            match status(&error) {
                Some(412) => return self.compare(at, &body, checksum).await,
                Some(409) if tries < CONFLICTING_REQUESTS => {
                    tries += 1;
                    tokio::time::sleep(Duration::from_millis(50) * 2_u32.pow(tries)).await;
                }
                _ => return Err(self.explain(at, &error)),
            }
        }
    }

    /// Asks for an object's size and age without reading it; `None` when it does not exist.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn look(&self, at: &Location) -> Result<Option<Listed>, Error> {
        let answer = self
            .client
            .head_object()
            .bucket(&at.bucket)
            .key(&at.key)
            .send()
            .await;
        match answer {
            Ok(head) => Ok(Some(Listed {
                key: at.key.clone(),
                bytes: size(head.content_length),
                modified: instant(head.last_modified),
                etag: head.e_tag,
                checksum: head
                    .metadata
                    .and_then(|mut metadata| metadata.remove(CHECKSUM)),
            })),
            Err(error) => match self.explain(at, &error) {
                Error::Missing { .. } => Ok(None),
                error => Err(error),
            },
        }
    }

    /// Copies an object inside the store, its checksum with it, replacing what was there. Nothing passes through this
    /// process. Stores copy at most 5 GB in one request.
    ///
    /// # Errors
    /// [`Error::Missing`] when there is nothing to copy.
    pub async fn copy(&self, from: &Location, to: &Location) -> Result<(), Error> {
        self.client
            .copy_object()
            .copy_source(format!("{}/{}", from.bucket, in_header(&from.key)))
            .bucket(&to.bucket)
            .key(&to.key)
            .send()
            .await
            .map_err(|error| self.explain(from, &error))?;
        Ok(())
    }

    /// Writes an object, replacing what was there.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn put(&self, at: &Location, body: Bytes, content_type: &str) -> Result<(), Error> {
        self.client
            .put_object()
            .bucket(&at.bucket)
            .key(&at.key)
            .content_type(content_type)
            .metadata(CHECKSUM, sha256(&body))
            .body(ByteStream::from(body))
            .send()
            .await
            .map_err(|error| self.explain(at, &error))?;
        Ok(())
    }

    /// Reads an object.
    ///
    /// # Errors
    /// [`Error::Missing`] when it does not exist.
    pub async fn get(&self, at: &Location) -> Result<Bytes, Error> {
        let answer = self
            .client
            .get_object()
            .bucket(&at.bucket)
            .key(&at.key)
            .send()
            .await
            .map_err(|error| self.explain(at, &error))?;
        let body = answer
            .body
            .collect()
            .await
            .map_err(|error| Error::Unavailable {
                endpoint: self.endpoint.clone(),
                detail: innermost(&error),
            })?;
        Ok(body.into_bytes())
    }

    /// Reads an object; `None` when it does not exist.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn get_if_exists(&self, at: &Location) -> Result<Option<Bytes>, Error> {
        match self.get(at).await {
            Ok(body) => Ok(Some(body)),
            Err(Error::Missing { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// All keys of the bucket that begin with the prefix's key, sorted.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn list(&self, prefix: &Location) -> Result<Vec<String>, Error> {
        let objects = self.objects(prefix).await?;
        Ok(objects.into_iter().map(|object| object.key).collect())
    }

    /// All objects of the bucket whose keys begin with the prefix's key, sorted by key.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn objects(&self, prefix: &Location) -> Result<Vec<Listed>, Error> {
        let mut pages = self
            .client
            .list_objects_v2()
            .bucket(&prefix.bucket)
            .prefix(&prefix.key)
            .into_paginator()
            .send();
        let mut objects = Vec::new();
        while let Some(page) = pages.next().await {
            let page = page.map_err(|error| self.explain(prefix, &error))?;
            objects.extend(
                page.contents
                    .unwrap_or_default()
                    .into_iter()
                    .filter_map(|object| {
                        Some(Listed {
                            key: object.key?,
                            bytes: size(object.size),
                            modified: instant(object.last_modified),
                            etag: object.e_tag,
                            checksum: None,
                        })
                    }),
            );
        }
        objects.sort_by(|one, other| one.key.cmp(&other.key));
        Ok(objects)
    }

    /// Deletes an object; one that does not exist is no error.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn delete(&self, at: &Location) -> Result<(), Error> {
        match self
            .client
            .delete_object()
            .bucket(&at.bucket)
            .key(&at.key)
            .send()
            .await
        {
            Ok(_) => Ok(()),
            Err(error) => match self.explain(at, &error) {
                Error::Missing { .. } => Ok(()),
                error => Err(error),
            },
        }
    }

    /// Checks that a bucket exists and may be used.
    ///
    /// # Errors
    /// [`Error::MissingBucket`] when it does not exist.
    pub async fn check_bucket(&self, bucket: &str) -> Result<(), Error> {
        let at = Location::new(bucket, "");
        match self.client.head_bucket().bucket(bucket).send().await {
            Ok(_) => Ok(()),
            // An answer to HEAD has no body, so the status is all there is.
            Err(error) if status(&error) == Some(404) => Err(self.missing_bucket(bucket)),
            Err(error) => Err(self.explain(&at, &error)),
        }
    }

    /// Creates a bucket unless it exists.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn ensure_bucket(&self, bucket: &str) -> Result<(), Error> {
        match self.check_bucket(bucket).await {
            Err(Error::MissingBucket { .. }) => {}
            found => return found,
        }
        let mut request = self.client.create_bucket().bucket(bucket);
        if !self.own_endpoint && self.region != "us-east-1" {
            let place = BucketLocationConstraint::from(self.region.as_str());
            request = request.create_bucket_configuration(
                CreateBucketConfiguration::builder()
                    .location_constraint(place)
                    .build(),
            );
        }
        match request.send().await {
            Ok(_) => Ok(()),
            Err(error) if error.code() == Some("BucketAlreadyOwnedByYou") => Ok(()),
            Err(error) => Err(self.explain(&Location::new(bucket, ""), &error)),
        }
    }

    /// Asks whether the store answers and knows the credentials. Credentials that may not list buckets are fine.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn ping(&self) -> Result<(), Error> {
        match self.client.list_buckets().send().await {
            Ok(_) => Ok(()),
            Err(error) if error.code() == Some("AccessDenied") => Ok(()),
            Err(error) => Err(self.explain(&Location::new("", ""), &error)),
        }
    }

    /// Decides what a 412 means: the same bytes, or others.
    async fn compare(&self, at: &Location, body: &Bytes, checksum: &str) -> Result<Written, Error> {
        let head = self
            .client
            .head_object()
            .bucket(&at.bucket)
            .key(&at.key)
            .send()
            .await
            .map_err(|error| self.explain(at, &error))?;
        let length = i64::try_from(body.len()).unwrap_or(i64::MAX);
        if head.content_length.is_some_and(|found| found != length) {
            return Err(Error::Conflict { at: at.clone() });
        }
        let same = match head
            .metadata
            .as_ref()
            .and_then(|metadata: &HashMap<_, _>| metadata.get(CHECKSUM))
        {
            Some(found) => found == checksum,
            // A store that was killed between the bytes and the metadata: the bytes themselves decide.
            None => self.get(at).await? == *body,
        };
        if same {
            Ok(Written::AlreadyThere)
        } else {
            Err(Error::Conflict { at: at.clone() })
        }
    }

    fn missing_bucket(&self, bucket: &str) -> Error {
        Error::MissingBucket {
            bucket: bucket.to_owned(),
            endpoint: self.endpoint.clone(),
        }
    }

    /// Says what an error of the client means to us.
    fn explain<E>(&self, at: &Location, error: &SdkError<E>) -> Error
    where
        E: ProvideErrorMetadata + error::Error + 'static,
    {
        let endpoint = self.endpoint.clone();
        let Some(status) = status(error) else {
            return match error {
                SdkError::ConstructionFailure(_) => Error::Refused {
                    at: at.clone(),
                    endpoint,
                    detail: innermost(error),
                },
                _ => Error::Unavailable {
                    endpoint,
                    detail: innermost(error),
                },
            };
        };
        let code = error.code().unwrap_or_default();
        match (status, code) {
            (_, "NoSuchBucket") => self.missing_bucket(&at.bucket),
            (404, _) => Error::Missing { at: at.clone() },
            (401 | 403, "RequestTimeTooSkewed") => Error::Refused {
                at: at.clone(),
                endpoint,
                detail: "the clocks differ too much".to_owned(),
            },
            (401 | 403, _) => {
                let code = if code.is_empty() {
                    format!("status {status}")
                } else {
                    code.to_owned()
                };
                Error::Denied {
                    at: at.clone(),
                    endpoint,
                    code,
                }
            }
            (429 | 500..=599, _) | (400, "RequestTimeout") => Error::Unavailable {
                endpoint,
                detail: format!("status {status} {code}").trim_end().to_owned(),
            },
            _ => {
                let message = error.message().unwrap_or_default();
                let detail = format!("status {status} {code} {message}")
                    .trim_end()
                    .to_owned();
                Error::Refused {
                    at: at.clone(),
                    endpoint,
                    detail,
                }
            }
        }
    }
}

impl fmt::Debug for ObjectStore {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("ObjectStore")
            .field("endpoint", &self.endpoint)
            .finish_non_exhaustive()
    }
}

impl Location {
    /// The object `key` in `bucket`.
    pub fn new(bucket: impl Into<String>, key: impl Into<String>) -> Self {
        Self {
            bucket: bucket.into(),
            key: key.into(),
        }
    }
}

impl fmt::Display for Location {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "s3://{}/{}", self.bucket, self.key)
    }
}

impl FromStr for Location {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let not_a_location = || Error::NotALocation {
            found: text.to_owned(),
        };
        let (bucket, key) = text
            .strip_prefix("s3://")
            .and_then(|rest| rest.split_once('/'))
            .ok_or_else(not_a_location)?;
        if bucket.is_empty() {
            Err(not_a_location())
        } else {
            Ok(Self::new(bucket, key))
        }
    }
}

impl Error {
    /// Whether asking again later can help without anybody changing anything.
    pub fn is_unavailable(&self) -> bool {
        matches!(self, Self::Unavailable { .. })
    }

    /// The next step for the person who reads the error.
    pub fn hint(&self) -> &'static str {
        match self {
            Self::Unavailable { .. } => "check `s3.endpoint` and that the store is running",
            Self::MissingBucket { .. } => {
                "create the bucket, or check `s3.endpoint` and the task's bucket"
            }
            Self::Missing { .. } => "it may have been deleted; run the task that writes it again",
            Self::Denied { .. } => {
                "check `s3.access_key_id`, `s3.secret_access_key` and what they may do in this bucket"
            }
            Self::Conflict { .. } => {
                "something else wrote this key; move that object away, or let the task write under another `prefix`"
            }
            Self::Refused { .. } => "check `s3.endpoint`, `s3.region` and `s3.addressing`",
            Self::NotALocation { .. } => "for example `s3://lake/raw/pins/part.parquet`",
        }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let failure = if error.is_unavailable() {
            Self::retryable(error.to_string())
        } else {
            Self::permanent(error.to_string())
        };
        failure.with_hint(error.hint())
    }
}

/// Signs a request with the checksum that its body is known to have. The client would read the body once more otherwise.
#[derive(Debug)]
struct SignedAs(String);

impl Intercept for SignedAs {
    fn name(&self) -> &'static str {
        "SignedAs"
    }

    fn modify_before_signing(
        &self,
        _context: &mut BeforeTransmitInterceptorContextMut<'_>,
        _components: &RuntimeComponents,
        config: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        config
            .interceptor_state()
            .store_put(PayloadSigningOverride::Precomputed(self.0.clone()));
        Ok(())
    }
}

/// The checksum of an object's bytes, in hexadecimal, as it stands in manifests and in the object's metadata.
pub fn sha256(body: &[u8]) -> String {
    hex::encode(Sha256::digest(body))
}

fn size(length: Option<i64>) -> u64 {
    length
        .and_then(|length| u64::try_from(length).ok())
        .unwrap_or(0)
}

/// A store that does not say when is taken to have written just now: nothing young is ever deleted.
fn instant(modified: Option<aws_sdk_s3::primitives::DateTime>) -> DateTime<Utc> {
    modified
        .and_then(|modified| DateTime::from_timestamp(modified.secs(), modified.subsec_nanos()))
        .unwrap_or_else(Utc::now)
}

/// A key as the header `x-amz-copy-source` wants it: what is not plain is percent-encoded.
fn in_header(key: &str) -> String {
    let mut text = String::with_capacity(key.len());
    for byte in key.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b'~' | b'/') {
            text.push(char::from(byte));
        } else {
            text.push_str(&format!("%{byte:02X}"));
        }
    }
    text
}

fn status<E>(error: &SdkError<E>) -> Option<u16> {
    error
        .raw_response()
        .map(|response| response.status().as_u16())
}

/// The cause at the bottom of an error's chain: the client's own words on top say only "dispatch failure".
fn innermost(error: &(dyn error::Error + 'static)) -> String {
    let mut cause = error;
    while let Some(next) = cause.source() {
        cause = next;
    }
    cause.to_string()
}

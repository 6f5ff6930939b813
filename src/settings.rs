//! Where Pinwheel finds its services and where it listens: the settings file, the environment and flags.
//!
//! A flag wins over the environment, the environment over the file. Nothing is guessed: a setting that is missing is
//! an error that names the flag, the variable and the key of the file. Defaults exist only where a wrong one cannot
//! do harm, and for addresses they are loopback.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    num::NonZeroUsize,
    path::{Path, PathBuf},
    time::Duration,
};

use clap::Args;
use pinwheel_scheduler::{
    model::is_name,
    secrets::{Environment, Keyring, Sources},
    store::{Keep, Retention},
};
use pinwheel_tasks::{
    KafkaSettings, S3Addressing, S3Credentials, S3Settings, duration,
    s3::{self, Location},
};
use serde::Deserialize;

use crate::{
    failure::{Failure, Result},
    notify::{ChannelTable, Channels},
};

/// The settings file that is read when no other is named and it exists.
const DEFAULT_FILE: &str = "pinwheel.toml";
/// Labels of a worker, and the characters of one's name or value.
const MOST_LABELS: usize = 16;
const LONGEST_LABEL: usize = 63;
/// Where the shipped DAGs write their datasets.
const DEFAULT_CLEAN_PREFIX: &str = "s3://lake/clean";
/// Where the shipped DAGs keep their reports.
const DEFAULT_REPORTS_PREFIX: &str = "s3://lake/reports";
/// A worker that died is noticed when its lease is over.
const LEASE: Duration = Duration::from_secs(30);
const HEARTBEAT: Duration = Duration::from_secs(5);

/// Flags that every command takes.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Settings (flag, then environment, then settings file)")]
pub(crate) struct Flags {
    /// The settings file [default: pinwheel.toml when it exists]
    #[arg(long, global = true, env = "PINWHEEL_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
    /// Where the embedded default keeps its data, and where client commands look for a running standalone
    #[arg(
        long,
        global = true,
        env = "PINWHEEL_DATA_DIR",
        value_name = "DIR",
        default_value = ".pinwheel"
    )]
    pub(crate) data_dir: PathBuf,
    /// `database.url`: the Postgres that holds Pinwheel's state
    #[arg(
        long,
        global = true,
        hide_short_help = true,
        env = "PINWHEEL_DATABASE_URL",
        value_name = "URL",
        hide_env_values = true
    )]
    database_url: Option<String>,
    /// `kafka.brokers`: host:port, several separated by commas
    #[arg(
        long,
        alias = "brokers",
        global = true,
        hide_short_help = true,
        env = "PINWHEEL_KAFKA_BROKERS",
        value_name = "LIST"
    )]
    kafka_brokers: Option<String>,
    /// `s3.endpoint`: the URL of an S3-compatible store, or `aws`
    #[arg(
        long,
        global = true,
        hide_short_help = true,
        env = "PINWHEEL_S3_ENDPOINT",
        value_name = "URL"
    )]
    s3_endpoint: Option<String>,
    /// `s3.region`
    #[arg(
        long,
        global = true,
        hide_short_help = true,
        env = "PINWHEEL_S3_REGION",
        value_name = "NAME"
    )]
    s3_region: Option<String>,
    /// `s3.access_key_id`: without it the usual AWS credentials chain is asked
    #[arg(
        long,
        global = true,
        hide_short_help = true,
        env = "PINWHEEL_S3_ACCESS_KEY_ID",
        value_name = "ID"
    )]
    s3_access_key_id: Option<String>,
    /// `s3.secret_access_key`; the environment and the file keep it out of process lists
    #[arg(
        long,
        global = true,
        hide_short_help = true,
        env = "PINWHEEL_S3_SECRET_ACCESS_KEY",
        value_name = "SECRET",
        hide_env_values = true
    )]
    s3_secret_access_key: Option<String>,
    /// `dags.folder`: where DAG files, datasets, streams and reports are [default: dags]
    #[arg(
        long = "dags",
        global = true,
        env = "PINWHEEL_DAGS_FOLDER",
        value_name = "DIR"
    )]
    dags_folder: Option<PathBuf>,
    /// `lake.clean_prefix`: the s3:// prefix below which `clean` tasks write datasets [default: s3://lake/clean]
    #[arg(
        long = "lake",
        global = true,
        hide_short_help = true,
        env = "PINWHEEL_LAKE_CLEAN_PREFIX",
        value_name = "URL"
    )]
    clean_prefix: Option<String>,
    /// `lake.reports_prefix`: the s3:// prefix below which `report` tasks keep reports [default: s3://lake/reports]
    #[arg(
        long = "reports",
        global = true,
        hide_short_help = true,
        env = "PINWHEEL_LAKE_REPORTS_PREFIX",
        value_name = "URL"
    )]
    reports_prefix: Option<String>,
    /// `web.bind`: where the pages and the API listen [default: 127.0.0.1:8080]
    #[arg(
        long,
        global = true,
        hide_short_help = true,
        env = "PINWHEEL_WEB_BIND",
        value_name = "ADDRESS:PORT"
    )]
    web_bind: Option<SocketAddr>,
    /// `web.url`: where people find the pages, for links in messages [default: http:// and web.bind]
    #[arg(
        long,
        global = true,
        hide_short_help = true,
        env = "PINWHEEL_WEB_URL",
        value_name = "URL"
    )]
    web_url: Option<String>,
    /// `ingest.bind`: where pins are posted [default: 127.0.0.1:8000]
    #[arg(
        long,
        global = true,
        hide_short_help = true,
        env = "PINWHEEL_INGEST_BIND",
        value_name = "ADDRESS:PORT"
    )]
    ingest_bind: Option<SocketAddr>,
    /// `metrics.bind`: where a scheduler, a worker or a streaming worker serves /metrics and /healthz [default: nowhere]
    #[arg(
        long,
        global = true,
        hide_short_help = true,
        env = "PINWHEEL_METRICS_BIND",
        value_name = "ADDRESS:PORT"
    )]
    metrics_bind: Option<SocketAddr>,
    /// `worker.slots`: how many tasks run at once in this process [default: 4 for every core]
    #[arg(
        long,
        global = true,
        hide_short_help = true,
        env = "PINWHEEL_WORKER_SLOTS",
        value_name = "NUMBER"
    )]
    worker_slots: Option<usize>,
    /// `worker.grace`: how long running tasks may go on after the worker was asked to stop [default: 30s; standalone: 10s]
    #[arg(
        long,
        global = true,
        hide_short_help = true,
        env = "PINWHEEL_WORKER_GRACE",
        value_name = "DURATION",
        value_parser = duration::parse
    )]
    worker_grace: Option<Duration>,
    /// `worker.lease`: how long a worker's tasks stay its own without a heartbeat [default: 30s]
    #[arg(
        long,
        global = true,
        hide = true,
        env = "PINWHEEL_WORKER_LEASE",
        value_name = "DURATION",
        value_parser = duration::parse
    )]
    worker_lease: Option<Duration>,
    /// `worker.heartbeat`: how often a process renews its lease [default: 5s]
    #[arg(
        long,
        global = true,
        hide = true,
        env = "PINWHEEL_WORKER_HEARTBEAT",
        value_name = "DURATION",
        value_parser = duration::parse
    )]
    worker_heartbeat: Option<Duration>,
    /// `retention.runs`: how long runs stay after their end, such as 90d, or `forever` [default: 90d]
    #[arg(
        long,
        global = true,
        hide_short_help = true,
        env = "PINWHEEL_RETENTION_RUNS",
        value_name = "AGE",
        value_parser = keep
    )]
    retention_runs: Option<Keep>,
    /// `retention.keep`: the last so many runs of each DAG stay whatever their age [default: 30]
    #[arg(
        long,
        global = true,
        hide_short_help = true,
        env = "PINWHEEL_RETENTION_KEEP",
        value_name = "NUMBER"
    )]
    retention_keep: Option<u32>,
    /// `secrets.key`: the keys for connections and variables, newest first, separated by commas
    #[arg(
        long,
        global = true,
        hide_short_help = true,
        env = "PINWHEEL_SECRETS_KEY",
        value_name = "KEYS",
        hide_env_values = true
    )]
    secrets_key: Option<SecretText>,
    /// `secrets.key_file`: a file with these keys, one a line
    #[arg(
        long,
        global = true,
        hide_short_help = true,
        env = "PINWHEEL_SECRETS_KEY_FILE",
        value_name = "FILE"
    )]
    secrets_key_file: Option<PathBuf>,
    /// `embedded.postgres_bin`: the folder with `initdb` and `postgres` for the embedded Postgres
    #[arg(
        long,
        global = true,
        hide_short_help = true,
        env = "PINWHEEL_POSTGRES_BIN",
        value_name = "DIR"
    )]
    postgres_bin: Option<PathBuf>,
    /// `embedded.tools`: the folder with the embedded broker
    #[arg(
        long,
        global = true,
        hide_short_help = true,
        env = "PINWHEEL_TOOLS_DIR",
        value_name = "DIR"
    )]
    tools: Option<PathBuf>,
}

/// The settings of one process, checked.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    /// The file that `--config` names; without it the default one is read, where there is one.
    pub(crate) file: Option<PathBuf>,
    pub(crate) data_dir: PathBuf,
    pub(crate) database_url: Option<String>,
    pub(crate) kafka: Option<KafkaSettings>,
    pub(crate) s3: Option<S3Settings>,
    pub(crate) dags_folder: PathBuf,
    /// Where `clean` tasks write: every dataset has a folder of its name below it.
    pub(crate) clean_prefix: Location,
    /// Where the pages look for reports: every report has a folder of its name below it.
    pub(crate) reports_prefix: Location,
    pub(crate) web_bind: SocketAddr,
    /// Where people find the pages; `None` is `web_bind`.
    pub(crate) web_url: Option<String>,
    /// Whom messages can go to.
    pub(crate) channels: Channels,
    pub(crate) ingest_bind: SocketAddr,
    pub(crate) ingest_limits: IngestLimits,
    /// Only for roles that serve nothing else.
    pub(crate) metrics_bind: Option<SocketAddr>,
    pub(crate) worker: Worker,
    pub(crate) retention: Retention,
    pub(crate) secrets: SecretKeys,
    pub(crate) embedded: Embedded,
}

/// `[secrets]`: where the keys for connections and variables are.
#[derive(Debug, Clone, Default)]
pub(crate) struct SecretKeys {
    keys: Option<SecretText>,
    file: Option<PathBuf>,
}

/// A text that is never printed.
#[derive(Clone, Deserialize)]
#[serde(transparent)]
struct SecretText(String);

impl From<String> for SecretText {
    fn from(text: String) -> Self {
        Self(text)
    }
}

impl std::fmt::Debug for SecretText {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("***")
    }
}

impl SecretKeys {
    /// Whether the settings say nothing about keys.
    pub(crate) fn is_unset(&self) -> bool {
        self.keys.is_none() && self.file.is_none()
    }

    /// The keys of a file, in the place of settings that say nothing.
    pub(crate) fn of_file(file: PathBuf) -> Self {
        Self {
            keys: None,
            file: Some(file),
        }
    }

    /// The keys, those of `secrets.key` before those of the file, and what the environment gives.
    pub(crate) fn sources(&self) -> Result<Sources> {
        let mut text = String::new();
        if let Some(SecretText(keys)) = &self.keys {
            text.push_str(keys);
        }
        if let Some(file) = &self.file {
            let keys = std::fs::read_to_string(file).map_err(|error| {
                Failure::invalid(format!("cannot read the key file `{}`", file.display()))
                    .because(error)
                    .hint("`secrets.key_file` names a file with one key a line, newest first; `pinwheel secrets key` prints a new key")
            })?;
            text.push('\n');
            text.push_str(&keys);
        }
        let keyring = Keyring::parse(&text).map_err(|error| {
            Failure::invalid(error.to_string())
                .hint("`pinwheel secrets key` prints a new one; give several as `newest,older`")
        })?;
        Ok(Sources {
            keyring,
            environment: Environment::of_process(),
        })
    }
}

/// `[worker]`.
#[derive(Debug, Clone)]
pub(crate) struct Worker {
    pub(crate) name: Option<String>,
    pub(crate) queues: Vec<String>,
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) slots: usize,
    /// How long running tasks may go on after the worker was asked to stop; each role has its own default.
    pub(crate) grace: Option<Duration>,
    /// How long this process keeps what it holds without a heartbeat.
    pub(crate) lease: Duration,
    /// How often it renews its lease; at most a third of it.
    pub(crate) heartbeat: Duration,
}

/// `[embedded]`.
#[derive(Debug, Clone)]
pub(crate) struct Embedded {
    pub(crate) postgres_bin: Option<PathBuf>,
    pub(crate) tools: Option<PathBuf>,
}

/// One setting in the words of its three places.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Name {
    key: &'static str,
    flag: &'static str,
    variable: &'static str,
    example: &'static str,
}

const DATABASE_URL: Name = Name {
    key: "database.url",
    flag: "--database-url",
    variable: "PINWHEEL_DATABASE_URL",
    example: "postgres://user:password@host/database",
};
const KAFKA_BROKERS: Name = Name {
    key: "kafka.brokers",
    flag: "--kafka-brokers",
    variable: "PINWHEEL_KAFKA_BROKERS",
    example: "broker-1:9092,broker-2:9092",
};
const S3_ENDPOINT: Name = Name {
    key: "s3.endpoint",
    flag: "--s3-endpoint",
    variable: "PINWHEEL_S3_ENDPOINT",
    example: "https://s3.example.com",
};

impl Settings {
    /// Reads the file and lays environment and flags over it.
    pub(crate) fn read(flags: &Flags) -> Result<Self> {
        let file = File::read(flags.config.as_deref())?;
        let brokers = flags.kafka_brokers.clone().or(file.kafka.brokers);
        let s3_endpoint = flags.s3_endpoint.clone().or(file.s3.endpoint);
        let credentials = credentials(
            flags.s3_access_key_id.clone().or(file.s3.access_key_id),
            flags
                .s3_secret_access_key
                .clone()
                .or(file.s3.secret_access_key),
        )?;
        let region = flags.s3_region.clone().or(file.s3.region);
        let slots = flags
            .worker_slots
            .or(file.worker.slots)
            .unwrap_or_else(default_slots);
        if slots == 0 {
            return Err(
                Failure::invalid("`worker.slots` is 0, so no task could ever run")
                    .hint("leave it out, or set it to how many tasks this process may run at once"),
            );
        }
        let lease = flags
            .worker_lease
            .or(file.worker.lease.map(Period::into_inner))
            .unwrap_or(LEASE);
        let heartbeat = flags
            .worker_heartbeat
            .or(file.worker.heartbeat.map(Period::into_inner))
            .unwrap_or(HEARTBEAT);
        check_heartbeat(heartbeat, lease)?;
        let queues = file
            .worker
            .queues
            .unwrap_or_else(|| vec!["default".to_owned()]);
        for queue in &queues {
            check_name("worker.queues", queue)?;
        }
        check_labels(&file.worker.labels)?;
        let web_bind = flags
            .web_bind
            .or(file.web.bind)
            .unwrap_or(([127, 0, 0, 1], 8080).into());
        let web_url = web_url(flags.web_url.clone().or(file.web.url))?;
        for channel in file.notify.channels.keys() {
            check_name("notify.channels", channel)?;
        }
        let links = web_url
            .clone()
            .unwrap_or_else(|| format!("http://{web_bind}"));
        Ok(Self {
            file: flags.config.clone(),
            data_dir: flags.data_dir.clone(),
            database_url: flags.database_url.clone().or(file.database.url),
            kafka: brokers.map(|brokers| KafkaSettings {
                brokers,
                properties: file.kafka.properties,
            }),
            s3: s3_endpoint
                .map(|endpoint| object_store(endpoint, region, credentials, file.s3.addressing)),
            dags_folder: flags
                .dags_folder
                .clone()
                .or(file.dags.folder)
                .unwrap_or_else(|| "dags".into()),
            clean_prefix: prefix(
                "lake.clean_prefix",
                flags
                    .clean_prefix
                    .as_deref()
                    .or(file.lake.clean_prefix.as_deref())
                    .unwrap_or(DEFAULT_CLEAN_PREFIX),
            )?,
            reports_prefix: prefix(
                "lake.reports_prefix",
                flags
                    .reports_prefix
                    .as_deref()
                    .or(file.lake.reports_prefix.as_deref())
                    .unwrap_or(DEFAULT_REPORTS_PREFIX),
            )?,
            web_bind,
            web_url,
            channels: Channels::read(file.notify.channels, links)?,
            ingest_bind: flags
                .ingest_bind
                .or(file.ingest.bind)
                .unwrap_or(([127, 0, 0, 1], 8000).into()),
            ingest_limits: file.ingest,
            metrics_bind: flags.metrics_bind.or(file.metrics.bind),
            worker: Worker {
                name: file.worker.name,
                queues,
                labels: file.worker.labels,
                slots,
                grace: flags
                    .worker_grace
                    .or(file.worker.grace.map(Period::into_inner)),
                lease,
                heartbeat,
            },
            retention: retention(
                flags.retention_runs,
                file.retention.runs.as_deref(),
                flags.retention_keep.or(file.retention.keep),
            )?,
            secrets: SecretKeys {
                keys: flags.secrets_key.clone().or(file.secrets.key),
                file: flags.secrets_key_file.clone().or(file.secrets.key_file),
            },
            embedded: Embedded {
                postgres_bin: flags.postgres_bin.clone().or(file.embedded.postgres_bin),
                tools: flags.tools.clone().or(file.embedded.tools),
            },
        })
    }

    /// These settings in a process that serves the pages itself: without `web.url`, messages link to where that is.
    pub(crate) fn linking_to_itself(&self, served: &str) -> Self {
        let mut settings = self.clone();
        if settings.web_url.is_none() {
            settings.channels = settings.channels.linking_to(served.to_owned());
        }
        settings
    }

    /// The database, which `role` cannot do without.
    pub(crate) fn require_database(&self, role: &str) -> Result<&str> {
        self.database_url
            .as_deref()
            .ok_or_else(|| missing(role, DATABASE_URL))
    }

    /// Kafka, which `role` cannot do without.
    pub(crate) fn require_kafka(&self, role: &str) -> Result<&KafkaSettings> {
        self.kafka
            .as_ref()
            .ok_or_else(|| missing(role, KAFKA_BROKERS))
    }

    /// The object store, which `role` cannot do without.
    pub(crate) fn require_s3(&self, role: &str) -> Result<&S3Settings> {
        self.s3.as_ref().ok_or_else(|| missing(role, S3_ENDPOINT))
    }
}

/// A role was started without a setting that it needs. Only `standalone` and `demo` bring services of their own.
fn missing(role: &str, name: Name) -> Failure {
    let Name {
        key,
        flag,
        variable,
        example,
    } = name;
    let (table, field) = key
        .split_once('.')
        .expect("every setting stands in a table");
    Failure::invalid(format!("`pinwheel {role}` needs the setting `{key}`")).hint(format!(
        "give {flag} {example}, or set {variable}, or write this into {DEFAULT_FILE}:\n\n  [{table}]\n  {field} = \"{example}\"\n\nto try Pinwheel with services of its own, run `pinwheel standalone`"
    ))
}

fn prefix(key: &str, text: &str) -> Result<Location> {
    text.parse().map_err(|error: s3::Error| {
        Failure::invalid(format!("`{key}` is `{text}`: {error}")).hint(error.hint())
    })
}

/// Two heartbeats may be lost without the lease.
fn check_heartbeat(heartbeat: Duration, lease: Duration) -> Result<()> {
    let refuse = |message: String| {
        Err(Failure::invalid(message).hint(
            "leave both out, or give a heartbeat that is at most a third of the lease, such as \"5s\" and \"30s\"",
        ))
    };
    if heartbeat.is_zero() {
        return refuse(
            "`worker.heartbeat` is 0, so a lease would be renewed without a pause".to_owned(),
        );
    }
    if heartbeat > lease / 3 {
        return refuse(format!(
            "`worker.heartbeat` is {}, more than a third of `worker.lease`, which is {}",
            duration::text(heartbeat),
            duration::text(lease)
        ));
    }
    Ok(())
}

/// A queue that no task can name would never bring any work.
fn check_name(setting: &str, name: &str) -> Result<()> {
    if is_name(name) {
        return Ok(());
    }
    Err(
        Failure::invalid(format!("`{setting}` holds `{name}`, which is no name"))
            .hint("a name has 1 to 128 letters, digits, `_`, `.` and `-`, and begins with none of the last two"),
    )
}

/// Every heartbeat's row and every list holds them, so they are few and short.
fn check_labels(labels: &BTreeMap<String, String>) -> Result<()> {
    if labels.len() > MOST_LABELS {
        return Err(Failure::invalid(format!(
            "`worker.labels` holds {} labels, more than {MOST_LABELS}",
            labels.len()
        )));
    }
    for (name, value) in labels {
        check_name("worker.labels", name)?;
        let characters = value.chars().count();
        if name.len() > LONGEST_LABEL
            || !(1..=LONGEST_LABEL).contains(&characters)
            || value.chars().any(char::is_control)
        {
            return Err(Failure::invalid(format!(
                "the label `{name}` in `worker.labels` does not fit"
            ))
            .hint(format!(
                "a label's name and its value have 1 to {LONGEST_LABEL} characters each, on one line"
            )));
        }
    }
    Ok(())
}

/// Reads how long runs stay, from the command line.
pub(crate) fn keep(text: &str) -> std::result::Result<Keep, String> {
    text.parse()
        .map_err(|error: duration::Error| format!("{error}; {}, or `forever`", error.hint))
}

fn retention(
    runs_flag: Option<Keep>,
    runs_in_file: Option<&str>,
    keep: Option<u32>,
) -> Result<Retention> {
    let default = Retention::default();
    let runs_in_file = runs_in_file
        .map(|text| {
            text.parse().map_err(|error: duration::Error| {
                Failure::invalid(format!("`retention.runs` is `{text}`: {error}"))
                    .hint(format!("{}, or \"forever\"", error.hint))
            })
        })
        .transpose()?;
    Ok(Retention {
        runs: runs_flag.or(runs_in_file).unwrap_or(default.runs),
        keep: keep.unwrap_or(default.keep),
    })
}

fn web_url(given: Option<String>) -> Result<Option<String>> {
    let Some(text) = given else {
        return Ok(None);
    };
    let is_good = reqwest::Url::parse(&text)
        .is_ok_and(|url| matches!(url.scheme(), "http" | "https") && url.host_str().is_some());
    if is_good {
        return Ok(Some(text.trim_end_matches('/').to_owned()));
    }
    Err(
        Failure::invalid(format!("`web.url` is `{text}`, which is no web address"))
            .hint("write where people find the pages, such as https://pinwheel.example.com"),
    )
}

fn default_slots() -> usize {
    4 * std::thread::available_parallelism().map_or(2, std::num::NonZero::get)
}

fn credentials(id: Option<String>, secret: Option<String>) -> Result<Option<S3Credentials>> {
    match (id, secret) {
        (None, None) => Ok(None),
        (Some(access_key_id), Some(secret_access_key)) => Ok(Some(S3Credentials {
            access_key_id,
            secret_access_key,
        })),
        (Some(_), None) => Err(half_a_key("s3.access_key_id", "s3.secret_access_key")),
        (None, Some(_)) => Err(half_a_key("s3.secret_access_key", "s3.access_key_id")),
    }
}

fn half_a_key(given: &str, absent: &str) -> Failure {
    Failure::invalid(format!("`{given}` is set, `{absent}` is not"))
        .hint("set both, or neither to use the usual AWS credentials chain")
}

fn object_store(
    endpoint: String,
    region: Option<String>,
    credentials: Option<S3Credentials>,
    addressing: Option<S3Addressing>,
) -> S3Settings {
    let is_aws = endpoint == "aws";
    let usual = if is_aws {
        S3Addressing::VirtualHost
    } else {
        S3Addressing::Path
    };
    S3Settings {
        endpoint: (!is_aws).then_some(endpoint),
        region: region.unwrap_or_else(|| "us-east-1".to_owned()),
        credentials,
        addressing: addressing.unwrap_or(usual),
    }
}

/// The settings file as it is written.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct File {
    database: DatabaseTable,
    kafka: KafkaTable,
    s3: S3Table,
    dags: DagsTable,
    lake: LakeTable,
    web: WebTable,
    ingest: IngestLimits,
    metrics: BindTable,
    worker: WorkerTable,
    retention: RetentionTable,
    secrets: SecretsTable,
    notify: NotifyTable,
    embedded: EmbeddedTable,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct DatabaseTable {
    url: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct KafkaTable {
    brokers: Option<String>,
    properties: BTreeMap<String, String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct S3Table {
    endpoint: Option<String>,
    region: Option<String>,
    access_key_id: Option<String>,
    secret_access_key: Option<String>,
    addressing: Option<S3Addressing>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct DagsTable {
    folder: Option<PathBuf>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct LakeTable {
    clean_prefix: Option<String>,
    reports_prefix: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct WebTable {
    bind: Option<SocketAddr>,
    url: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct NotifyTable {
    channels: BTreeMap<String, ChannelTable>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct BindTable {
    bind: Option<SocketAddr>,
}

/// `[ingest]`: beside the address what the API takes at most. What is left out has the default of the API.
#[derive(Debug, Clone, Copy, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct IngestLimits {
    bind: Option<SocketAddr>,
    pub(crate) pin_bytes: Option<NonZeroUsize>,
    pub(crate) batch_bytes: Option<NonZeroUsize>,
    pub(crate) batch_pins: Option<NonZeroUsize>,
    pub(crate) queue_bytes: Option<NonZeroUsize>,
    pub(crate) posts: Option<NonZeroUsize>,
    pub(crate) batches: Option<NonZeroUsize>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct WorkerTable {
    name: Option<String>,
    queues: Option<Vec<String>>,
    labels: BTreeMap<String, String>,
    slots: Option<usize>,
    grace: Option<Period>,
    lease: Option<Period>,
    heartbeat: Option<Period>,
}

/// A duration as people write it.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(try_from = "String")]
struct Period(Duration);

impl Period {
    fn into_inner(self) -> Duration {
        self.0
    }
}

impl TryFrom<String> for Period {
    type Error = String;

    fn try_from(text: String) -> std::result::Result<Self, String> {
        duration::parse(&text)
            .map(Self)
            .map_err(|error| format!("{}; {}", error.message, error.hint))
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct RetentionTable {
    runs: Option<String>,
    keep: Option<u32>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct SecretsTable {
    key: Option<SecretText>,
    key_file: Option<PathBuf>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct EmbeddedTable {
    postgres_bin: Option<PathBuf>,
    tools: Option<PathBuf>,
}

impl File {
    fn read(named: Option<&Path>) -> Result<Self> {
        let path = match named {
            Some(path) => path,
            None if Path::new(DEFAULT_FILE).exists() => Path::new(DEFAULT_FILE),
            None => return Ok(Self::default()),
        };
        let text = std::fs::read_to_string(path).map_err(|error| {
            Failure::invalid(format!(
                "cannot read the settings file `{}`",
                path.display()
            ))
            .because(error)
            .hint("`pinwheel.example.toml` shows every setting")
        })?;
        Self::parse(&path.display().to_string(), &text)
    }

    fn parse(name: &str, text: &str) -> Result<Self> {
        toml::from_str(text).map_err(|error| {
            let failure = Failure::invalid(format!("the settings file `{name}` is not valid"))
                .hint("`pinwheel.example.toml` shows every setting");
            match error.span() {
                Some(span) => failure.at(name, text, span, error.message()),
                None => failure.because(error),
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;
    use pinwheel_scheduler::secrets::new_key;

    use super::*;

    #[derive(Parser)]
    struct CommandLine {
        #[command(flatten)]
        flags: Flags,
    }

    fn file(text: &str) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().expect("a temporary file");
        std::fs::write(file.path(), text).expect("it can be written");
        file
    }

    fn read(text: &str, flags: &[&str]) -> Result<Settings> {
        let file = file(text);
        let path = file.path().to_str().expect("temporary paths are UTF-8");
        let line = ["pinwheel", "--config", path]
            .into_iter()
            .chain(flags.iter().copied());
        Settings::read(
            &CommandLine::try_parse_from(line)
                .expect("the flags exist")
                .flags,
        )
    }

    #[test]
    fn a_flag_wins_over_the_file() {
        let text = "[kafka]\nbrokers = \"file:9092\"\n[web]\nbind = \"127.0.0.1:1\"\n";
        let settings = read(text, &["--kafka-brokers", "flag:9092"]).expect("valid");
        assert_eq!(settings.kafka.expect("given").brokers, "flag:9092");
        assert_eq!(settings.web_bind, ([127, 0, 0, 1], 1).into());
    }

    #[test]
    fn an_unknown_key_is_shown_with_its_place() {
        let failure = read("[database]\nurn = \"x\"\n", &[]).expect_err("`urn` is no setting");
        let report = format!("{:?}", miette::Report::new(failure));
        assert!(report.contains("unknown field `urn`"), "{report}");
    }

    #[test]
    fn the_example_file_is_valid_and_shows_every_table() {
        let text = include_str!("../pinwheel.example.toml");
        File::parse("pinwheel.example.toml", text).expect("valid as it is");
        let uncommented: String = text
            .lines()
            .map(|line| match line.strip_prefix("#") {
                Some(rest) if !rest.starts_with(' ') => rest,
                _ => line,
            })
            .map(|line| format!("{line}\n"))
            .collect();
        let file =
            File::parse("pinwheel.example.toml", &uncommented).expect("valid with every setting");
        assert!(
            file.database.url.is_some()
                && file.kafka.brokers.is_some()
                && file.s3.endpoint.is_some()
        );
        assert!(
            file.web.bind.is_some() && file.ingest.bind.is_some() && file.worker.slots.is_some()
        );
        assert!(file.metrics.bind.is_some() && !file.worker.labels.is_empty());
        check_labels(&file.worker.labels).expect("the labels fit");
        assert!(file.dags.folder.is_some() && file.embedded.tools.is_some());
        assert!(file.web.url.is_some() && file.notify.channels.len() == 3);
        assert!(file.retention.runs.is_some() && file.retention.keep.is_some());
        assert!(file.secrets.key.is_some() && file.secrets.key_file.is_some());
    }

    #[test]
    fn runs_stay_ninety_days_unless_a_setting_says_otherwise() {
        let days = |days: u64| Keep::For(std::time::Duration::from_secs(days * 86_400));
        let retention = |text: &str, flags: &[&str]| read(text, flags).expect("valid").retention;
        assert_eq!(
            retention("", &[]),
            Retention {
                runs: days(90),
                keep: 30
            }
        );
        let file = "[retention]\nruns = \"1w\"\nkeep = 0\n";
        assert_eq!(
            retention(file, &[]),
            Retention {
                runs: days(7),
                keep: 0
            }
        );
        assert_eq!(
            retention(
                file,
                &["--retention-runs", "forever", "--retention-keep", "5"]
            ),
            Retention {
                runs: Keep::Forever,
                keep: 5
            }
        );
    }

    #[test]
    fn a_bad_retention_says_how_to_write_one() {
        let failure =
            read("[retention]\nruns = \"90\"\n", &[]).expect_err("a number alone is no age");
        let report = format!("{:?}", miette::Report::new(failure));
        assert!(report.contains("retention.runs"), "{report}");
        assert!(report.contains("forever"), "{report}");
    }

    #[test]
    fn a_missing_setting_is_named_in_all_three_places() {
        let failure = read("", &[])
            .expect("valid")
            .require_kafka("stream")
            .expect_err("none is given");
        let report = format!("{:?}", miette::Report::new(failure));
        for name in [
            "kafka.brokers",
            "--kafka-brokers",
            "PINWHEEL_KAFKA_BROKERS",
            "pinwheel.toml",
        ] {
            assert!(report.contains(name), "{report}");
        }
    }

    #[test]
    fn durations_of_a_worker_are_read_from_file_and_flags() {
        let text = "[worker]\ngrace = \"1m 30s\"\nlease = \"3s\"\nheartbeat = \"1s\"\n";
        let worker = read(text, &["--worker-heartbeat", "500ms"])
            .expect("valid")
            .worker;
        assert_eq!(
            (worker.grace, worker.lease, worker.heartbeat),
            (
                Some(Duration::from_secs(90)),
                Duration::from_secs(3),
                Duration::from_millis(500)
            )
        );
        let failure = read("[worker]\ngrace = \"30\"\n", &[]).expect_err("it has no unit");
        let report = format!("{:?}", miette::Report::new(failure));
        assert!(
            report.contains("has no unit") && report.contains("grace"),
            "{report}"
        );
    }

    #[test]
    fn a_heartbeat_that_could_lose_the_lease_is_refused() {
        for (heartbeat, lease) in [("11s", "30s"), ("0s", "30s"), ("1ms", "2ms")] {
            let flags = ["--worker-heartbeat", heartbeat, "--worker-lease", lease];
            let failure = read("", &flags).expect_err(heartbeat);
            assert!(
                failure.to_string().contains("worker.heartbeat"),
                "{failure}"
            );
        }
        assert!(read("", &["--worker-heartbeat", "10s"]).is_ok());
    }

    #[test]
    fn labels_and_queues_are_checked_where_they_are_read() {
        let settings = read(
            "[worker]\nlabels = { zone = \"eu-1\", gpu = \"yes\" }\n",
            &[],
        );
        assert_eq!(settings.expect("valid").worker.labels["zone"], "eu-1");
        let long = "x".repeat(LONGEST_LABEL + 1);
        let many: String = (0..=MOST_LABELS)
            .map(|number| format!("l{number} = \"x\", "))
            .collect();
        for wrong in [
            "labels = { \"a b\" = \"x\" }".to_owned(),
            "labels = { a = \"\" }".to_owned(),
            "labels = { a = \"x\\ny\" }".to_owned(),
            "labels = { a = 1 }".to_owned(),
            format!("labels = {{ a = \"{long}\" }}"),
            format!("labels = {{ {long} = \"x\" }}"),
            format!("labels = {{ {many} }}"),
            "queues = [\"-x\"]".to_owned(),
        ] {
            assert!(
                read(&format!("[worker]\n{wrong}\n"), &[]).is_err(),
                "{wrong}"
            );
        }
    }

    #[test]
    fn metrics_are_served_nowhere_unless_they_are_asked_for() {
        assert_eq!(read("", &[]).expect("valid").metrics_bind, None);
        let given = read("[metrics]\nbind = \"127.0.0.1:9100\"\n", &[]).expect("valid");
        assert_eq!(given.metrics_bind, Some(([127, 0, 0, 1], 9100).into()));
    }

    #[test]
    fn keys_for_secrets_come_from_settings_and_a_file_and_are_never_printed() {
        let (one, two) = (new_key(), new_key());
        let keys = file(&format!("# of last year\n{two}\n"));
        let settings = read(
            &format!(
                "[secrets]\nkey = \"{one}\"\nkey_file = \"{}\"\n",
                keys.path().display()
            ),
            &[],
        )
        .expect("valid");
        assert!(!format!("{settings:?}").contains(&one));
        let sources = settings.secrets.sources().expect("two keys");
        let both = Keyring::parse(&format!("{one},{two}")).expect("two keys");
        assert_eq!(format!("{:?}", sources.keyring), format!("{both:?}"));
        let wrong = read("[secrets]\nkey = \"hunter2\"\n", &[]).expect("read later");
        let failure = wrong.secrets.sources().expect_err("no key");
        let report = format!("{:?}", miette::Report::new(failure));
        assert!(
            report.contains("pinwheel secrets key") && !report.contains("hunter2"),
            "{report}"
        );
    }

    #[test]
    fn a_channel_that_cannot_work_is_refused_with_its_setting() {
        let mail = "kind = \"email\"\nhost = \"mail\"\nfrom = \"a@example.com\"\n";
        for (text, told) in [
            (
                "kind = \"webhook\"\nurl = \"nowhere\"\n".to_owned(),
                "notify.channels.ops.url",
            ),
            (
                "kind = \"webhook\"\nurl = \"http://x\"\nsecret = \"env:PINWHEEL_NOT_SET\"\n"
                    .to_owned(),
                "PINWHEEL_NOT_SET",
            ),
            (format!("{mail}to = []\n"), "notify.channels.ops.to"),
            (
                format!("{mail}to = [\"no address\"]\n"),
                "notify.channels.ops.to",
            ),
            (
                format!("{mail}to = [\"b@example.com\"]\nuser = \"u\"\n"),
                "`user` and `password`",
            ),
            (
                format!(
                    "{mail}to = [\"b@example.com\"]\nuser = \"u\"\npassword = \"p\"\nsecurity = \"none\"\n"
                ),
                "anybody can read",
            ),
            ("kind = \"pigeon\"\n".to_owned(), "pigeon"),
        ] {
            let failure = read(&format!("[notify.channels.ops]\n{text}"), &[]).expect_err(told);
            let report = format!("{:?}", miette::Report::new(failure));
            assert!(report.contains(told), "{report}");
        }
        assert!(
            read(
                "[notify.channels.\"a b\"]\nkind = \"slack\"\nurl = \"http://x\"\n",
                &[]
            )
            .is_err()
        );
        assert!(read("[web]\nurl = \"pinwheel\"\n", &[]).is_err());
    }

    #[test]
    fn secrets_of_channels_are_not_in_what_is_printed_of_the_settings() {
        let text = "[notify.channels.ops]\nkind = \"webhook\"\nurl = \"https://x/hidden-path\"\nsecret = \"hidden-secret\"\n\n\
            [notify.channels.mail]\nkind = \"email\"\nhost = \"mail\"\nfrom = \"a@example.com\"\nto = [\"b@example.com\"]\nuser = \"u\"\npassword = \"hidden-word\"\n";
        let settings = read(text, &[]).expect("valid");
        assert!(!format!("{settings:?}").contains("hidden"), "{settings:?}");
    }

    #[test]
    fn half_a_key_is_refused() {
        assert!(
            read(
                "[s3]\nendpoint = \"http://x\"\naccess_key_id = \"a\"\n",
                &[]
            )
            .is_err()
        );
    }
}

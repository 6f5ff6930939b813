//! `pinwheel bench data`: pins through every part of the data path. Scheduler, worker and streaming worker run as processes
//! of their own over DAG and stream files, as they do for a user; the ingest API runs here, under a load over HTTP.
//!
//! It keeps to itself: topics and prefixes carry this process's id. Topics are taken away; what it wrote to a store of the
//! user's own stays below `bench-<id>/` of the bucket, so that it can be compared with what others make of the same pins.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use chrono::{DateTime, Utc};
use clap::{Args, ValueEnum};
use pinwheel_scheduler::{
    model::{DagId, RunKind, TaskState},
    store::{NewRun, Store},
};
use pinwheel_streaming::{
    emulate::{self, Population, Records, ToTopic, load, rows},
    ingest::{Ingest, IngestOptions},
    live,
};
use pinwheel_tasks::{KafkaSettings, kafka, s3::ObjectStore};
use rdkafka::{
    ClientContext, Offset, TopicPartitionList,
    consumer::{BaseConsumer, Consumer, ConsumerContext},
    error::KafkaError,
};
use serde_json::{Map, Value, json};
use tokio_util::sync::CancellationToken;

use super::{children::Role, database::Database};
use crate::{
    cli::output,
    embedded::Embedded,
    failure::{Failure, Result},
    progress::say,
    settings::Settings,
    shutdown,
};

const PARTITIONS: i32 = 4;
const STREAM: &str = "bench";
const BROKER_PATIENCE: Duration = Duration::from_secs(30);
/// Far beyond what any part takes.
const PATIENCE: Duration = Duration::from_secs(1800);
/// How often somebody looks whether a batch of the stream is committed: the resolution of its latency.
const LOOK: Duration = Duration::from_millis(2);

/// Arguments of `bench data`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  pinwheel bench data                              200,000 pins through embedded services
  pinwheel bench data --json --rows 5000000 --brokers 127.0.0.1:9092 --s3-endpoint http://127.0.0.1:7070 \\
      --s3-access-key-id ID                        through real ones (the secret by PINWHEEL_S3_SECRET_ACCESS_KEY)

The embedded broker takes 10,000 to 40,000 messages a second and is the limit of most figures; name a real one to measure
Pinwheel. Postgres is embedded, or a database of its own on the server that --database-url names. A figure is worth
something beside another one of the same machine and hour: the bare drain is measured in the same run.")]
pub(crate) struct Arguments {
    /// How many pins
    #[arg(long, value_name = "NUMBER", default_value_t = 200_000)]
    rows: u64,
    /// Only these parts; several separated by commas
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    parts: Vec<Part>,
    /// How often draining and landing are measured, in turn; the medians are printed
    #[arg(long, value_name = "NUMBER", default_value_t = 3)]
    rounds: u32,
    /// How long the loads of the ingest API and of the stream last, in seconds
    #[arg(long, value_name = "NUMBER", default_value_t = 5)]
    seconds: u64,
    /// Events a second while the stream's latency is measured
    #[arg(long, value_name = "NUMBER", default_value_t = 10_000)]
    stream_rate: u32,
    /// The bucket; it is made when it is missing
    #[arg(long, value_name = "NAME", default_value = "lake")]
    bucket: String,
    /// Print one flat JSON object
    #[arg(long)]
    json: bool,
}

/// A part of the data path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Part {
    /// The drain beside it, and cleaning what was landed
    Landing,
    /// Catching up, and the latency of events
    Stream,
    /// Single posts and batches
    Ingest,
}

/// Named figures, in the order in which they were measured.
type Figures = Map<String, Value>;

pub(super) async fn run(settings: &Settings, arguments: Arguments) -> Result<()> {
    if arguments.rows == 0 || arguments.rounds == 0 || arguments.stream_rate == 0 {
        return Err(Failure::invalid(
            "with nothing to do there is nothing to measure",
        ));
    }
    let stop = shutdown::token();
    let folder = std::env::temp_dir().join(format!("pinwheel-bench-{}", std::process::id()));
    let database = Database::make(settings).await?;
    let own = Settings {
        data_dir: folder.clone(),
        database_url: Some(database.url.clone()),
        ..settings.clone()
    };
    let measured = async {
        let embedded = Embedded::start(&own, &say).await?;
        let mut settings = embedded.complete(&own);
        let id = std::process::id();
        settings.clean_prefix = format!("s3://{}/bench-{id}/clean", arguments.bucket)
            .parse()
            .map_err(|error: pinwheel_tasks::s3::Error| {
                Failure::invalid(format!("`--bucket` is no bucket: {error}"))
            })?;
        let measured = tokio::select! {
            biased;
            () = stop.cancelled() => Err(Failure::failed("stopped before the end")),
            measured = measure(&settings, &arguments, &folder) => measured,
        };
        embedded.stop().await;
        measured
    }
    .await;
    database.drop().await?;
    if measured.is_ok()
        && let Err(error) = std::fs::remove_dir_all(&folder)
    {
        tracing::warn!(%error, "`{}` could not be removed", folder.display());
    }
    let figures = measured.inspect_err(|_| {
        say(&format!("what the roles said is in `{}`", folder.display()));
    })?;
    if arguments.json {
        return output::json(&figures);
    }
    let rows = figures
        .iter()
        .map(|(name, figure)| [name.clone(), figure.to_string()]);
    output::text(&output::columns(["figure", "value"], rows))
}

async fn measure(settings: &Settings, arguments: &Arguments, folder: &Path) -> Result<Figures> {
    let bench = Bench::new(settings, arguments, folder)?;
    let wants = |part| arguments.parts.is_empty() || arguments.parts.contains(&part);
    let mut figures = Figures::new();
    figures.insert("rows".to_owned(), json!(arguments.rows));
    bench.lay_out()?;
    Store::connect(settings.require_database("bench")?)
        .await?
        .migrate()
        .await?;
    if wants(Part::Landing) || wants(Part::Stream) {
        bench.produce(&mut figures).await?;
    }
    if wants(Part::Landing) {
        bench.make_bucket().await?;
        bench.land_and_clean(&mut figures).await?;
    }
    if wants(Part::Stream) {
        bench.stream(&mut figures).await?;
    }
    if wants(Part::Ingest) {
        bench.ingest(&mut figures).await?;
    }
    bench.delete_topics().await;
    Ok(figures)
}

struct Bench<'a> {
    settings: &'a Settings,
    kafka: KafkaSettings,
    arguments: &'a Arguments,
    dags: PathBuf,
    topic: String,
    ingest_topic: String,
    population: Arc<Population>,
}

impl<'a> Bench<'a> {
    fn new(settings: &'a Settings, arguments: &'a Arguments, folder: &Path) -> Result<Self> {
        let id = std::process::id();
        Ok(Self {
            settings,
            kafka: settings.require_kafka("bench")?.clone(),
            arguments,
            dags: folder.join("dags"),
            topic: format!("pinwheel_bench_{id}"),
            ingest_topic: format!("pinwheel_bench_{id}_ingest"),
            population: Arc::new(Population::default()),
        })
    }

    /// Writes the DAG, dataset and stream files that the roles read.
    fn lay_out(&self) -> Result<()> {
        let id = std::process::id();
        let Arguments { bucket, rounds, .. } = self.arguments;
        let topic = &self.topic;
        let clean = self.settings.clean_prefix.to_string();
        let mut files = vec![
            (
                "datasets/pins.toml".to_owned(),
                include_str!("../../dags/datasets/pins.toml").to_owned(),
            ),
            // The shipped stream under a name, a topic and a table of its own: what is measured is what users run.
            (
                "streams/bench.toml".to_owned(),
                include_str!("../../dags/streams/pins.toml")
                    .replace("id = \"pins\"", &format!("id = \"{STREAM}\""))
                    .replace("topic = \"pins\"", &format!("topic = \"{topic}\""))
                    .replace("table = \"pins\"", &format!("table = \"{STREAM}\"")),
            ),
            (
                "bench_clean.toml".to_owned(),
                format!(
                    "[dag]\nid = \"bench_clean\"\n\n[params.manifest]\ntype = \"string\"\n\n[tasks.clean]\nkind = \"clean\"\n\
                     with = {{ dataset = \"pins\", from = \"{{{{ params.manifest }}}}\", to = \"{}/pins/\" }}\n",
                    clean.trim_end_matches('/')
                ),
            ),
        ];
        // Another prefix is another cursor: each round lands everything anew.
        files.extend((0..*rounds).map(|round| {
            (
                format!("bench_land_{round}.toml"),
                format!(
                    "[dag]\nid = \"bench_land_{round}\"\n\n[tasks.land]\nkind = \"kafka_to_s3\"\n\
                     with = {{ topic = \"{topic}\", bucket = \"{bucket}\", prefix = \"bench-{id}/landing/{round}\" }}\n"
                ),
            )
        }));
        for (name, text) in files {
            let file = self.dags.join(name);
            let parent = file.parent().unwrap_or(&self.dags);
            std::fs::create_dir_all(parent)
                .and_then(|()| std::fs::write(&file, text))
                .map_err(|error| {
                    Failure::failed(format!("cannot write `{}`", file.display())).because(error)
                })?;
        }
        Ok(())
    }

    async fn make_topic(&self, topic: &str) -> Result<()> {
        kafka::ensure_topic(&self.kafka, topic, PARTITIONS)
            .await
            .map_err(|failure| {
                Failure::unreachable(format!("cannot make the topic `{topic}`")).because(failure)
            })
    }

    /// Roles write there, and would only say so after a task has failed.
    async fn make_bucket(&self) -> Result<()> {
        let bucket = &self.arguments.bucket;
        let store = ObjectStore::connect(self.settings.require_s3("bench")?).await;
        store.ensure_bucket(bucket).await.map_err(|error| {
            Failure::unreachable(format!("cannot use the bucket `{bucket}`"))
                .because(error)
                .hint("make it beforehand and name it with `--bucket`, or let the credentials make buckets")
        })
    }

    fn to_topic(&self, rate: Option<f64>) -> ToTopic {
        ToTopic {
            population: Arc::clone(&self.population),
            records: Records::Pins,
            topic: self.topic.clone(),
            rate,
        }
    }

    async fn produce(&self, figures: &mut Figures) -> Result<()> {
        let rows = self.arguments.rows;
        say(&format!("producing {rows} pins to `{}`", self.topic));
        self.make_topic(&self.topic).await?;
        let steps = rows::in_turn(0..rows);
        let began = Instant::now();
        emulate::produce(
            &self.kafka,
            self.to_topic(None),
            steps,
            |_| {},
            CancellationToken::new(),
        )
        .await?;
        put(
            figures,
            "produce_records_per_s",
            rows as f64 / began.elapsed().as_secs_f64(),
        );
        Ok(())
    }

    async fn ends(&self) -> Result<BTreeMap<i32, i64>> {
        live::end_offsets(&self.kafka, &self.topic, BROKER_PATIENCE)
            .await
            .map_err(|error| {
                Failure::unreachable("the broker does not tell where the topic ends").because(error)
            })
    }

    /// Landing beside a bare drain, in turn; then cleaning what the last round landed.
    async fn land_and_clean(&self, figures: &mut Figures) -> Result<()> {
        let rows = self.arguments.rows as f64;
        let store = Store::connect(self.settings.require_database("bench")?).await?;
        let scheduler = Role::start("scheduler", self.settings, &self.dags)?;
        let mut worker = Role::start("worker", self.settings, &self.dags)?;
        let (mut drained, mut landed, mut shares, mut cpu, mut peak) =
            (Vec::new(), Vec::new(), Vec::new(), Vec::new(), 0.0f64);
        let mut manifest = Value::Null;
        for round in 0..self.arguments.rounds {
            say(&format!("round {}: a bare drain, then landing", round + 1));
            let bare = self.drain().await?;
            worker.forget_peak();
            let before = worker.cpu_s();
            let task = run_dag(
                &store,
                &format!("bench_land_{round}"),
                Map::new(),
                &mut worker,
            )
            .await?;
            cpu.push((worker.cpu_s() - before) / rows * 1e6);
            peak = peak.max(worker.peak_mb());
            if task.output["records"] != json!(self.arguments.rows) {
                return Err(Failure::failed(format!(
                    "landing says {} of {} records",
                    task.output["records"], self.arguments.rows
                )));
            }
            manifest = task.output["manifest"].clone();
            drained.push(rows / bare.as_secs_f64());
            landed.push(rows / task.took.as_secs_f64());
            shares.push(bare.as_secs_f64() / task.took.as_secs_f64());
        }
        put(figures, "drain_records_per_s", median(drained));
        put(figures, "landing_records_per_s", median(landed));
        put(figures, "landing_of_drain", median(shares));
        put(figures, "landing_cpu_s_per_million", median(cpu));
        put(figures, "landing_peak_mb", peak);

        say("cleaning what was landed");
        worker.forget_peak();
        let before = worker.cpu_s();
        let params = Map::from_iter([("manifest".to_owned(), manifest)]);
        let task = run_dag(&store, "bench_clean", params, &mut worker).await?;
        put(figures, "clean_rows_per_s", rows / task.took.as_secs_f64());
        put(figures, "clean_s", task.took.as_secs_f64());
        put(
            figures,
            "clean_cpu_s_per_million",
            (worker.cpu_s() - before) / rows * 1e6,
        );
        put(figures, "clean_peak_mb", worker.peak_mb());
        for name in ["cleaned", "dead_lettered", "quarantined", "duplicates"] {
            figures.insert(format!("clean_{name}"), task.output[name].clone());
        }
        let dataset = self.settings.clean_prefix.to_string();
        let dataset = format!("{}/pins/", dataset.trim_end_matches('/'));
        figures.insert("clean_dataset".to_owned(), json!(dataset));
        worker.stop().await;
        scheduler.stop().await;
        Ok(())
    }

    /// A librdkafka consumer that throws everything away.
    async fn drain(&self) -> Result<Duration> {
        let config = kafka::reader(&self.kafka, "pinwheel_bench");
        let (topic, ends) = (self.topic.clone(), self.ends().await?);
        let drained = tokio::task::spawn_blocking(move || {
            let consumer: BaseConsumer<Silent> = config.create_with_context(Silent)?;
            let mut assigned = TopicPartitionList::new();
            for partition in ends.keys() {
                assigned.add_partition_offset(&topic, *partition, Offset::Beginning)?;
            }
            let began = Instant::now();
            consumer.assign(&assigned)?;
            let mut left = ends.values().filter(|end| **end > 0).count();
            while left > 0 {
                match consumer.poll(Duration::from_secs(1)) {
                    Some(Err(KafkaError::PartitionEOF(partition))) if ends[&partition] > 0 => {
                        left -= 1
                    }
                    Some(Err(KafkaError::PartitionEOF(_))) | Some(Ok(_)) | None => {}
                    Some(Err(error)) => return Err(error),
                }
            }
            Ok(began.elapsed())
        });
        drained
            .await
            .expect("the drain does not panic")
            .map_err(|error| {
                Failure::unreachable("the broker does not let itself be drained").because(error)
            })
    }

    /// Catching up with the topic, then the way of single events at a steady rate.
    async fn stream(&self, figures: &mut Figures) -> Result<()> {
        let rows = self.arguments.rows;
        let pool = live::connect(self.settings.require_database("bench")?)?;
        say("the stream catches up with the topic");
        let ends = self.ends().await?;
        let mut worker = Role::start("stream", self.settings, &self.dags)?;
        let began = Instant::now();
        self.until_caught_up(&pool, &ends, &mut worker).await?;
        let took = began.elapsed().as_secs_f64();
        let cpu = worker.cpu_s();
        put(figures, "stream_events_per_s", rows as f64 / took);
        put(
            figures,
            "stream_events_per_core_s",
            rows as f64 / cpu.max(0.001),
        );
        put(figures, "stream_peak_mb", worker.peak_mb());

        let rate = self.arguments.stream_rate;
        say(&format!("{rate} events a second through the stream"));
        let more = u64::from(rate) * self.arguments.seconds;
        let done = Arc::new(AtomicBool::new(false));
        let watch = tokio::spawn(watch(pool.clone(), self.topic.clone(), Arc::clone(&done)));
        let steps = rows::in_turn(rows..rows + more);
        emulate::produce(
            &self.kafka,
            self.to_topic(Some(f64::from(rate))),
            steps,
            |_| {},
            CancellationToken::new(),
        )
        .await?;
        let caught_up = self
            .until_caught_up(&pool, &self.ends().await?, &mut worker)
            .await;
        done.store(true, Ordering::Relaxed);
        let seen = watch.await.expect("watching does not panic")?;
        caught_up?;
        let produced = live::produced(&pool, STREAM).await?;
        let waits = latencies(&seen, &ends, &produced);
        put(figures, "stream_p50_ms", percentile(&waits, 0.50));
        put(figures, "stream_p99_ms", percentile(&waits, 0.99));
        figures.insert("stream_latency_events".to_owned(), json!(waits.len()));
        worker.stop().await;
        pool.close().await;
        Ok(())
    }

    async fn until_caught_up(
        &self,
        pool: &sqlx::PgPool,
        ends: &BTreeMap<i32, i64>,
        worker: &mut Role,
    ) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        while !live::is_caught_up(pool, STREAM, &self.topic, ends).await? {
            if let Some(status) = worker.has_ended() {
                return Err(Failure::failed(format!(
                    "`pinwheel stream` ended with {status}"
                )));
            }
            if Instant::now() > deadline {
                return Err(Failure::failed("the stream does not catch up"));
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        Ok(())
    }

    async fn ingest(&self, figures: &mut Figures) -> Result<()> {
        say("posts and batches to the ingest API");
        self.make_topic(&self.ingest_topic).await?;
        let address = ([127, 0, 0, 1], 0).into();
        let ingest = Ingest::bind(IngestOptions::new(
            address,
            self.kafka.clone(),
            &self.ingest_topic,
        ))
        .await?;
        let address = ingest.address();
        let stop = CancellationToken::new();
        let serving = tokio::spawn(ingest.run(stop.clone()));
        until_ready(address).await?;
        let pins = |rows: std::ops::Range<u64>| -> Vec<Vec<u8>> {
            rows.map(|row| self.population.record(Records::Pins, row).into_bytes())
                .collect()
        };
        let lasts = Duration::from_secs(self.arguments.seconds);
        let load = load::post(address, "/pin/", pins(0..5000).into(), 128, lasts)
            .await
            .map_err(unanswered)?;
        put(
            figures,
            "ingest_acknowledged_per_s",
            load.acknowledged as f64 / load.took.as_secs_f64(),
        );
        put(figures, "ingest_p99_ms", percentile(&load.times, 0.99));
        figures.insert("ingest_refused".to_owned(), json!(load.refused));
        let batches: Vec<Vec<u8>> = (0..20)
            .map(|batch| pins(batch * 1000..(batch + 1) * 1000).join(&b'\n'))
            .collect();
        let load = load::post(address, "/pins/", batches.into(), 4, lasts)
            .await
            .map_err(unanswered)?;
        put(
            figures,
            "ingest_batch_acknowledged_per_s",
            load.acknowledged as f64 * 1000.0 / load.took.as_secs_f64(),
        );
        put(
            figures,
            "ingest_batch_p99_ms",
            percentile(&load.times, 0.99),
        );
        figures.insert("ingest_batch_refused".to_owned(), json!(load.refused));
        stop.cancel();
        serving.await.expect("the ingest API does not panic")?;
        Ok(())
    }

    /// Takes the topics away, where the broker can.
    async fn delete_topics(&self) {
        use rdkafka::admin::{AdminClient, AdminOptions};
        let admin: rdkafka::error::KafkaResult<AdminClient<_>> =
            kafka::client(&self.kafka).create();
        if let Ok(admin) = admin {
            let topics = [self.topic.as_str(), self.ingest_topic.as_str()];
            let options = AdminOptions::new().request_timeout(Some(Duration::from_secs(5)));
            let _an_embedded_broker_goes_as_a_whole = admin.delete_topics(&topics, &options).await;
        }
    }
}

/// Says nothing: the end of a partition comes to rdkafka's own context as an error that it logs. What goes wrong comes from `poll`.
struct Silent;

impl ClientContext for Silent {
    fn error(&self, error: KafkaError, reason: &str) {
        tracing::debug!(target: "librdkafka", %error, "{reason}");
    }
}

impl ConsumerContext for Silent {}

/// A task that succeeded.
struct Task {
    took: Duration,
    output: Value,
}

/// Runs a DAG of one task as a user would and waits for it.
async fn run_dag(
    store: &Store,
    dag: &str,
    params: Map<String, Value>,
    worker: &mut Role,
) -> Result<Task> {
    let dag_id = DagId::new(dag).expect("the ids of the benchmark are good");
    let deadline = Instant::now() + PATIENCE;
    let mut run = None;
    loop {
        if let Some(status) = worker.has_ended() {
            return Err(Failure::failed(format!(
                "`pinwheel worker` ended with {status}"
            )));
        }
        if Instant::now() > deadline {
            return Err(Failure::failed(format!("`{dag}` does not end")));
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
        let Some(run) = run else {
            if store.dag(&dag_id).await?.is_some() {
                let made = store.trigger(NewRun {
                    dag_id: dag_id.clone(),
                    kind: RunKind::Manual,
                    logical_date: None,
                    params: params.clone(),
                    triggered_by: "bench".to_owned(),
                });
                run = Some(made.await?);
            }
            continue;
        };
        let instances = store.instances(run).await?;
        let Some(task) = instances.first().filter(|task| task.state.is_final()) else {
            continue;
        };
        if task.state != TaskState::Success {
            return Err(Failure::failed(format!(
                "`{dag}` ended as `{}`",
                output::word(&task.state)
            ))
            .because(task.reason.clone().unwrap_or_default()));
        }
        let took = task
            .finished_at
            .zip(task.started_at)
            .map(|(to, from)| to - from);
        return Ok(Task {
            took: took.and_then(|took| took.to_std().ok()).unwrap_or_default(),
            output: store.output(task.instance_id).await?.unwrap_or_default(),
        });
    }
}

/// What was committed, and when that was seen.
type Seen = Vec<(DateTime<Utc>, BTreeMap<i32, i64>)>;

async fn watch(pool: sqlx::PgPool, topic: String, done: Arc<AtomicBool>) -> Result<Seen> {
    let mut seen = Seen::new();
    while !done.load(Ordering::Relaxed) {
        let stands = live::committed(&pool, STREAM, &topic).await?;
        if seen.last().is_none_or(|(_, before)| *before != stands) {
            seen.push((Utc::now(), stands));
        }
        tokio::time::sleep(LOOK).await;
    }
    let stands = live::committed(&pool, STREAM, &topic).await?;
    seen.push((Utc::now(), stands));
    Ok(seen)
}

/// From the time of each message to the first look that found it committed, in order; messages before `from` do not count.
fn latencies(
    seen: &Seen,
    from: &BTreeMap<i32, i64>,
    produced: &[(i32, i64, DateTime<Utc>)],
) -> Vec<Duration> {
    let mut waits: Vec<Duration> = produced
        .iter()
        .filter(|(partition, offset, _)| from.get(partition).is_none_or(|from| offset >= from))
        .filter_map(|(partition, offset, at)| {
            let first = seen.partition_point(|(_, stands)| {
                stands.get(partition).is_none_or(|next| next <= offset)
            });
            let (when, _) = seen.get(first)?;
            (*when - *at).to_std().ok()
        })
        .collect();
    waits.sort_unstable();
    waits
}

async fn until_ready(address: std::net::SocketAddr) -> Result<()> {
    let client = reqwest::Client::builder()
        .no_proxy()
        .build()
        .map_err(|error| Failure::failed("no HTTP client").because(error))?;
    let deadline = Instant::now() + BROKER_PATIENCE;
    loop {
        let asked = client.get(format!("http://{address}/readyz")).send().await;
        if asked.is_ok_and(|answer| answer.status().is_success()) {
            return Ok(());
        }
        if Instant::now() > deadline {
            return Err(Failure::unreachable(
                "the ingest API does not reach the broker",
            ));
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn unanswered(error: std::io::Error) -> Failure {
    Failure::failed("the ingest API did not answer its load").because(error)
}

fn put(figures: &mut Figures, name: &str, figure: f64) {
    figures.insert(name.to_owned(), json!((figure * 1000.0).round() / 1000.0));
}

fn median(mut figures: Vec<f64>) -> f64 {
    figures.sort_by(f64::total_cmp);
    figures.get(figures.len() / 2).copied().unwrap_or_default()
}

/// Of durations in order, in milliseconds.
fn percentile(ordered: &[Duration], share: f64) -> f64 {
    let at = (ordered.len() as f64 * share) as usize;
    let found = ordered.get(at.min(ordered.len().saturating_sub(1)));
    found.map_or(0.0, |wait| wait.as_secs_f64() * 1000.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_latency_ends_with_the_first_look_that_saw_the_offset() {
        let at = |ms| DateTime::from_timestamp_millis(ms).expect("a time");
        let seen = vec![
            (at(100), BTreeMap::from([(0, 5)])),
            (at(110), BTreeMap::from([(0, 7)])),
            (at(130), BTreeMap::from([(0, 9)])),
        ];
        let produced = [
            (0, 4, at(90)),
            (0, 5, at(95)),
            (0, 6, at(105)),
            (0, 8, at(106)),
            (0, 9, at(129)),
        ];
        let waits = latencies(&seen, &BTreeMap::from([(0, 5)]), &produced);
        assert_eq!(waits, [5, 15, 24].map(Duration::from_millis));
    }

    #[test]
    fn medians_and_percentiles_are_of_what_was_measured() {
        assert_eq!(median(vec![3.0, 1.0, 2.0]), 2.0);
        let waits: Vec<Duration> = (1..=100).map(Duration::from_millis).collect();
        assert_eq!(percentile(&waits, 0.99), 100.0);
        assert_eq!(percentile(&waits, 0.5), 51.0);
        assert_eq!(percentile(&[], 0.99), 0.0);
    }
}

//! One installation of a test's own: a broker, an S3 server, durable state, and what was produced so far.

use std::{
    collections::BTreeMap,
    fs::File,
    process::Stdio,
    sync::{Arc, LazyLock, Mutex},
    time::{Duration, SystemTime},
};

use async_trait::async_trait;
use chrono::{DateTime, TimeDelta, TimeZone, Utc};
use pinwheel_tasks::{
    Context, Durable, Failure, Instance, KafkaSettings, KafkaToS3, Kind, Log, NoConnections,
    Outcome, S3Settings, kafka,
    kafka_to_s3::{Observer, Step},
    landing::{self, Manifest, columns},
    s3::{Location, ObjectStore, sha256},
};
use pinwheel_test_support::{broker::Broker, durable::Ledger, s3::S3};
use rdkafka::{
    message::{Header, OwnedHeaders},
    producer::{FutureProducer, FutureRecord},
};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use tempfile::TempDir;
use tokio::{
    process::{Child, Command},
    sync::{Semaphore, oneshot},
};
use tokio_util::sync::CancellationToken;

pub(crate) const BUCKET: &str = "lake";
pub(crate) const PREFIX: &str = "raw/pins";
pub(crate) const PARTITIONS: i32 = 3;
/// What a child of a crash test is to do.
const ORDER: &str = "PINWHEEL_LANDING_ORDER";

/// A record as it was produced and as it must be found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Landed {
    pub(crate) timestamp: Option<i64>,
    pub(crate) key: Option<Vec<u8>>,
    pub(crate) value: Option<Vec<u8>>,
    pub(crate) headers: Vec<(String, Option<Vec<u8>>)>,
}

pub(crate) struct World {
    pub(crate) kafka: KafkaSettings,
    pub(crate) store: ObjectStore,
    pub(crate) ledger: Ledger,
    pub(crate) topic: String,
    /// By partition and offset.
    pub(crate) produced: BTreeMap<i32, BTreeMap<i64, Landed>>,
    pub(crate) broker: Option<Broker>,
    pub(crate) server: S3,
    folder: TempDir,
}

impl World {
    /// An installation with an embedded broker.
    pub(crate) async fn new() -> Self {
        Self::with_partitions(PARTITIONS).await
    }

    /// As [`World::new`], with so many partitions.
    pub(crate) async fn with_partitions(partitions: i32) -> Self {
        let broker = tokio::task::spawn_blocking(Broker::start)
            .await
            .expect("the broker starts");
        let brokers = broker.brokers();
        Self::over(brokers, Some(broker), "pins", partitions).await
    }

    /// An installation over a broker that runs already; its topic is this test's alone.
    pub(crate) async fn over(
        brokers: String,
        broker: Option<Broker>,
        topic: &str,
        partitions: i32,
    ) -> Self {
        let kafka = KafkaSettings {
            brokers,
            properties: BTreeMap::new(),
        };
        // It fails when it is told to, which a real one does not.
        let server = S3::start_here().await;
        let store = ObjectStore::connect(server.settings()).await;
        store
            .ensure_bucket(BUCKET)
            .await
            .expect("the bucket can be made");
        kafka::ensure_topic(&kafka, topic, partitions)
            .await
            .expect("the topic can be made");
        let folder = tempfile::tempdir().expect("a temporary folder can be made");
        Self {
            kafka,
            store,
            ledger: Ledger::in_file(&folder.path().join("ledger")),
            topic: topic.to_owned(),
            produced: BTreeMap::new(),
            broker,
            server,
            folder,
        }
    }

    pub(crate) fn producer(&self) -> FutureProducer {
        kafka::producer(&self.kafka)
            .create()
            .expect("the settings are fine")
    }

    /// Produces records of every sort: with and without key, value and headers, and not always UTF-8.
    pub(crate) async fn produce(&mut self, count: usize) {
        let producer = self.producer();
        self.produce_with(&producer, count).await;
    }

    pub(crate) async fn produce_with(&mut self, producer: &FutureProducer, count: usize) {
        let records = (0..count)
            .map(|index| {
                let partition = i32::try_from(index).expect("small") % PARTITIONS;
                let number = self.produced.get(&partition).map_or(0, BTreeMap::len)
                    + index / usize::try_from(PARTITIONS).expect("small");
                (partition, record(number))
            })
            .collect();
        self.send(producer, records).await;
    }

    /// Sends records and notes where they went.
    pub(crate) async fn send(&mut self, producer: &FutureProducer, records: Vec<(i32, Landed)>) {
        for (partition, offset, record) in deliver(producer, &self.topic, records).await {
            self.produced
                .entry(partition)
                .or_default()
                .insert(offset, record);
        }
    }

    pub(crate) fn kind(&self) -> KafkaToS3 {
        KafkaToS3::new(self.kafka.clone(), self.server.settings().clone())
    }

    fn table(&self, with: &Value) -> Map<String, Value> {
        let mut table = with.as_object().expect("a table").clone();
        for (name, value) in [
            ("topic", self.topic.as_str()),
            ("bucket", BUCKET),
            ("prefix", PREFIX),
        ] {
            table.entry(name).or_insert_with(|| json!(value));
        }
        table
    }

    /// One try of the run's landing task.
    pub(crate) async fn try_once(
        &self,
        kind: &KafkaToS3,
        run: i64,
        with: Value,
    ) -> Result<Value, Failure> {
        self.try_under(kind, run, with, self.ledger.of_instance(run))
            .await
    }

    /// One try with a durable state of its own.
    pub(crate) async fn try_under(
        &self,
        kind: &KafkaToS3,
        run: i64,
        with: Value,
        durable: Arc<dyn Durable>,
    ) -> Result<Value, Failure> {
        let (context, _said) = context(run, durable);
        match kind.run(&context, self.table(&with)).await? {
            Outcome::Success { output } => Ok(output),
            other => panic!("a landing succeeds or fails, it does not answer {other:?}"),
        }
    }

    pub(crate) async fn land(&self, run: i64) -> Value {
        self.try_once(&self.kind(), run, small_chunks())
            .await
            .expect("nothing is in the way")
    }

    /// Starts one try in a process of its own, which dies at the n-th time the step is reached.
    pub(crate) fn start_child(&self, run: i64, dies_at: Option<(Step, usize)>) -> Child {
        self.order_child(run, &small_chunks(), dies_at)
    }

    /// Lands in a process of its own. Answers by how many bytes its memory grew at most, and the output.
    pub(crate) async fn measure_child(&self, run: i64, with: &Value) -> (u64, Value) {
        let mut child = self.order_child(run, with, None);
        let status = child.wait().await.expect("a child of ours");
        assert!(status.success(), "{status}");
        let report = std::fs::read(self.folder.path().join("report")).expect("it says");
        let report: Report = serde_json::from_slice(&report).expect("it was written by a child");
        (report.grew_kb * 1024, report.output)
    }

    fn order_child(&self, run: i64, with: &Value, dies_at: Option<(Step, usize)>) -> Child {
        let order = Order {
            kafka: self.kafka.clone(),
            s3: self.server.settings().clone(),
            ledger: self.folder.path().join("ledger"),
            report: self.folder.path().join("report"),
            run,
            with: self.table(with),
            dies_at: dies_at.map(|(step, nth)| (format!("{step:?}"), nth)),
        };
        let program = std::env::current_exe().expect("a test knows its binary");
        Command::new(program)
            .args(["--exact", &own_name("one_try_in_a_process_of_its_own")])
            .arg("--nocapture")
            .env(
                ORDER,
                serde_json::to_string(&order).expect("text keys only"),
            )
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .expect("a test can start itself")
    }

    pub(crate) async fn manifests(&self) -> Vec<Manifest> {
        let mut manifests = Vec::new();
        for at in self.manifest_places().await {
            manifests.push(
                landing::read::manifest(&self.store, &at)
                    .await
                    .expect("a manifest"),
            );
        }
        manifests
    }

    pub(crate) async fn manifest_places(&self) -> Vec<Location> {
        let prefix = Location::new(BUCKET, landing::manifest_prefix(PREFIX));
        let keys = self.store.list(&prefix).await.expect("the store answers");
        keys.into_iter()
            .map(|key| Location::new(BUCKET, key))
            .collect()
    }

    /// The keys of all landed objects, named by a manifest or not.
    pub(crate) async fn objects(&self) -> Vec<String> {
        let all = Location::new(BUCKET, format!("{PREFIX}/dt="));
        self.store.list(&all).await.expect("the store answers")
    }

    /// Makes every object of the store older.
    pub(crate) fn age_objects(&self, by: Duration) {
        let then = SystemTime::now() - by;
        let mut folders = vec![self.server.folder().to_owned()];
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(folder).expect("a folder") {
                let entry = entry.expect("an entry");
                if entry.file_type().expect("a type").is_dir() {
                    folders.push(entry.path());
                } else {
                    let file = File::options().append(true).open(entry.path());
                    file.and_then(|file| file.set_modified(then))
                        .expect("a file of ours");
                }
            }
        }
    }

    /// Compares every record of the topic with what all manifests together hold.
    pub(crate) async fn assert_each_record_landed_once(&self) {
        let mut found: BTreeMap<i32, BTreeMap<i64, Vec<Landed>>> = BTreeMap::new();
        for manifest in self.manifests().await {
            for object in &manifest.objects {
                let at = Location::new(BUCKET, &object.key);
                let body = self
                    .store
                    .get(&at)
                    .await
                    .expect("a manifest names what exists");
                assert_eq!(
                    (sha256(&body), body.len() as u64),
                    (object.sha256.clone(), object.bytes),
                    "{at}"
                );
                let records = records(&body);
                assert_eq!(records.len() as u64, object.records);
                assert_eq!(
                    records.first().map(|(offset, _)| *offset),
                    Some(object.first_offset)
                );
                assert_eq!(
                    records.last().map(|(offset, _)| *offset),
                    Some(object.last_offset)
                );
                for (offset, record) in records {
                    found
                        .entry(object.partition)
                        .or_default()
                        .entry(offset)
                        .or_default()
                        .push(record);
                }
            }
        }
        for (partition, records) in &self.produced {
            let landed = found.remove(partition).unwrap_or_default();
            assert_eq!(
                landed.keys().collect::<Vec<_>>(),
                records.keys().collect::<Vec<_>>(),
                "partition {partition}"
            );
            for (offset, copies) in landed {
                assert_eq!(
                    copies,
                    [records[&offset].clone()],
                    "offset {offset} of partition {partition}"
                );
            }
        }
        assert!(found.is_empty(), "{:?}", found.keys());
    }
}

/// Sends records; answers each with its offset.
pub(crate) async fn deliver(
    producer: &FutureProducer,
    topic: &str,
    records: Vec<(i32, Landed)>,
) -> Vec<(i32, i64, Landed)> {
    let mut sent = Vec::new();
    for (partition, record) in &records {
        let mut message = FutureRecord::<[u8], [u8]>::to(topic)
            .partition(*partition)
            .timestamp(record.timestamp.expect("records of tests have one"));
        message.key = record.key.as_deref();
        message.payload = record.value.as_deref();
        let headers = record
            .headers
            .iter()
            .fold(OwnedHeaders::new(), |headers, (name, value)| {
                headers.insert(Header {
                    key: name,
                    value: value.as_deref(),
                })
            });
        if !record.headers.is_empty() {
            message.headers = Some(headers);
        }
        sent.push(
            producer
                .send_result(message)
                .map_err(|(error, _)| error)
                .expect("the queue has room"),
        );
    }
    let mut delivered = Vec::new();
    for (delivery, (partition, record)) in sent.into_iter().zip(records) {
        let delivery = delivery
            .await
            .expect("the producer lives")
            .map_err(|(error, _)| error)
            .expect("the broker takes it");
        delivered.push((partition, delivery.offset, record));
    }
    delivered
}

/// Milliseconds since 1970. What is older than a week is deleted by a broker that starts again.
static AN_HOUR_AGO: LazyLock<i64> =
    LazyLock::new(|| (Utc::now() - TimeDelta::hours(1)).timestamp_millis());

/// The n-th record of a partition.
pub(crate) fn record(number: usize) -> Landed {
    Landed {
        timestamp: Some(*AN_HOUR_AGO + i64::try_from(number).expect("small")),
        key: (!number.is_multiple_of(3)).then(|| format!("key {number}").into_bytes()),
        value: match number % 5 {
            0 => None,
            1 => Some(b"\xff\xfe\x00 not UTF-8".to_vec()),
            _ => Some(
                format!(
                    "{{\"index\": {number}, \"title\": \"Füße {}\"}}",
                    "x".repeat(number % 400)
                )
                .into_bytes(),
            ),
        },
        headers: if number.is_multiple_of(4) {
            vec![
                ("source".to_owned(), Some(b"\xfdtest".to_vec())),
                ("source".to_owned(), Some(Vec::new())),
            ]
        } else {
            Vec::new()
        },
    }
}

/// So small that every partition needs several objects.
pub(crate) fn small_chunks() -> Value {
    json!({ "max_chunk_bytes": 6_000 })
}

pub(crate) fn logical_date(run: i64) -> DateTime<Utc> {
    Utc.timestamp_opt(1_790_000_000 + run * 86_400, 0)
        .single()
        .expect("a date that exists")
}

pub(crate) fn context(run: i64, durable: Arc<dyn Durable>) -> (Context, Arc<Mutex<Vec<String>>>) {
    let (log, mut lines) = Log::channel(100);
    let said = Arc::new(Mutex::new(Vec::new()));
    let keeper = Arc::clone(&said);
    tokio::spawn(async move {
        while let Some((_, _, line)) = lines.recv().await {
            keeper
                .lock()
                .expect("nobody panics while holding it")
                .push(line);
        }
    });
    let instance = Instance {
        dag_id: "test".to_owned(),
        run_id: run,
        task_id: "land".to_owned(),
        instance_id: run,
        try_number: 1,
        logical_date: logical_date(run),
        data_interval_start: logical_date(run),
        data_interval_end: logical_date(run + 1),
        params: Map::new(),
    };
    let context = Context {
        instance: Arc::new(instance),
        log,
        cancel: CancellationToken::new(),
        durable,
        orchestrator: Arc::new(pinwheel_tasks::Alone),
        connections: Arc::new(NoConnections),
        resume: None,
    };
    (context, said)
}

pub(crate) fn records(body: &[u8]) -> Vec<(i64, Landed)> {
    let frame = columns::decode(body).expect("a landed object");
    let column = |name: &str| frame.column(name).expect("the contract's column").clone();
    let (offsets, timestamps, keys) = (
        column(columns::OFFSET),
        column(columns::TIMESTAMP),
        column(columns::KEY),
    );
    let (values, headers) = (column(columns::VALUE), column(columns::HEADERS));
    (0..frame.height())
        .map(|index| {
            let pairs = headers
                .list()
                .expect("a list")
                .get_as_series(index)
                .expect("never null");
            let fields = pairs.struct_().expect("pairs").fields_as_series();
            let headers = (0..pairs.len())
                .map(|pair| {
                    let name = fields[0].str().expect("text").get(pair).expect("a name");
                    (
                        name.to_owned(),
                        fields[1]
                            .binary()
                            .expect("bytes")
                            .get(pair)
                            .map(<[u8]>::to_vec),
                    )
                })
                .collect();
            let landed = Landed {
                timestamp: timestamps.i64().expect("numbers").get(index),
                key: keys.binary().expect("bytes").get(index).map(<[u8]>::to_vec),
                value: values
                    .binary()
                    .expect("bytes")
                    .get(index)
                    .map(<[u8]>::to_vec),
                headers,
            };
            (
                offsets
                    .i64()
                    .expect("numbers")
                    .get(index)
                    .expect("never null"),
                landed,
            )
        })
        .collect()
}

/// Ends a try at the n-th time a step is reached.
pub(crate) struct StopAt {
    step: Step,
    left: Mutex<usize>,
}

impl StopAt {
    pub(crate) fn nth(step: Step, nth: usize) -> Arc<Self> {
        Arc::new(Self {
            step,
            left: Mutex::new(nth),
        })
    }

    /// Whether this is the time.
    fn is_now(&self, step: Step) -> bool {
        let mut left = self.left.lock().expect("nobody panics while holding it");
        if step != self.step || *left == 0 {
            return false;
        }
        *left -= 1;
        *left == 0
    }
}

#[async_trait]
impl Observer for StopAt {
    async fn reached(&self, step: Step) -> Result<(), Failure> {
        if self.is_now(step) {
            Err(Failure::retryable("stopped by the test"))
        } else {
            Ok(())
        }
    }
}

/// Holds a try at the n-th time a step is reached until it is let go.
pub(crate) struct HoldAt {
    at: Arc<StopAt>,
    reached: Mutex<Option<oneshot::Sender<()>>>,
    gate: Semaphore,
}

impl HoldAt {
    /// The observer, and what completes when the try is held.
    pub(crate) fn nth(step: Step, nth: usize) -> (Arc<Self>, oneshot::Receiver<()>) {
        let (reached, receiver) = oneshot::channel();
        let held = Self {
            at: StopAt::nth(step, nth),
            reached: Mutex::new(Some(reached)),
            gate: Semaphore::new(0),
        };
        (Arc::new(held), receiver)
    }

    pub(crate) fn let_go(&self) {
        self.gate.add_permits(1);
    }
}

#[async_trait]
impl Observer for HoldAt {
    async fn reached(&self, step: Step) -> Result<(), Failure> {
        if self.at.is_now(step) {
            if let Some(reached) = self.reached.lock().expect("nobody panics").take() {
                // Whoever waits may have given up.
                let _nobody_waits = reached.send(());
            }
            self.gate.acquire().await.expect("never closed").forget();
        }
        Ok(())
    }
}

#[derive(Serialize, Deserialize)]
struct Order {
    kafka: KafkaSettings,
    s3: S3Settings,
    ledger: std::path::PathBuf,
    report: std::path::PathBuf,
    run: i64,
    with: Map<String, Value>,
    dies_at: Option<(String, usize)>,
}

/// The name under which this binary knows a test of this module.
fn own_name(test: &str) -> String {
    let (_, module) = module_path!()
        .split_once("::")
        .expect("a module of the binary");
    format!("{module}::{test}")
}

/// What a child has to say when it is done.
#[derive(Serialize, Deserialize)]
struct Report {
    grew_kb: u64,
    output: Value,
}

/// A line of this process's status, in kilobytes.
fn status_kb(name: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("this is Linux");
    let line = status.lines().find_map(|line| line.strip_prefix(name));
    let line = line.expect("the kernel counts it").trim();
    line.trim_end_matches(" kB").parse().expect("a number")
}

/// Dies as a process dies that nobody asks: no destructor runs, no buffer is flushed.
struct DieAt {
    step: String,
    left: Mutex<usize>,
}

#[async_trait]
impl Observer for DieAt {
    async fn reached(&self, step: Step) -> Result<(), Failure> {
        let mut left = self.left.lock().expect("nobody panics while holding it");
        if format!("{step:?}") == self.step {
            *left -= 1;
            if *left == 0 {
                let own = nix::unistd::Pid::this();
                nix::sys::signal::kill(own, nix::sys::signal::Signal::SIGKILL)
                    .expect("a process may kill itself");
            }
        }
        Ok(())
    }
}

/// What the crash tests start and kill: this binary once more, told to run this alone. It has nothing to do otherwise.
#[tokio::test(flavor = "multi_thread")]
async fn one_try_in_a_process_of_its_own() {
    let Ok(order) = std::env::var(ORDER) else {
        return;
    };
    let order: Order = serde_json::from_str(&order).expect("it was written by a test");
    let mut kind = KafkaToS3::new(order.kafka, order.s3);
    if let Some((step, nth)) = order.dies_at {
        kind = kind.observed_by(Arc::new(DieAt {
            step,
            left: Mutex::new(nth),
        }));
    }
    let durable = Ledger::in_file(&order.ledger).of_instance(order.run);
    let (context, _said) = context(order.run, durable);
    let before_kb = status_kb("VmRSS:");
    match kind.run(&context, order.with).await.expect("it lands") {
        Outcome::Success { output } => {
            let grew_kb = status_kb("VmHWM:") - before_kb;
            let report = serde_json::to_vec(&Report { grew_kb, output }).expect("text keys only");
            std::fs::write(order.report, report).expect("the test's folder can be written");
        }
        other => panic!("a landing succeeds or fails, it does not answer {other:?}"),
    }
}

//! What only real services can show, and their deaths under load: Apache Kafka and an S3 server (`make test-real`).

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use chrono::{TimeZone, Utc};
use pinwheel_tasks::{
    Context, Failure, FailureClass, Instance, KafkaSettings, KafkaToS3, Kind, Log, NoConnections,
    Outcome, S3Settings, kafka,
    landing::{self, columns},
    s3::{Location, ObjectStore},
};
use pinwheel_test_support::{durable::Ledger, kafka::Kafka, versity::Versity};
use rdkafka::producer::{FutureProducer, FutureRecord, Producer};
use serde_json::{Map, Value, json};
use tokio_util::sync::CancellationToken;

const PATIENCE: Duration = Duration::from_secs(60);
const PREFIX: &str = "raw/pins";

struct World {
    kafka: KafkaSettings,
    s3: S3Settings,
    store: ObjectStore,
    ledger: Ledger,
}

impl World {
    async fn over(broker: &Kafka, server: &Versity, partitions: i32) -> Self {
        let kafka = KafkaSettings {
            brokers: broker.brokers(),
            properties: BTreeMap::new(),
        };
        kafka::ensure_topic(&kafka, "pins", partitions)
            .await
            .expect("the topic can be made");
        let store = ObjectStore::connect(server.settings()).await;
        store
            .ensure_bucket("lake")
            .await
            .expect("the bucket can be made");
        Self {
            kafka,
            s3: server.settings().clone(),
            store,
            ledger: Ledger::default(),
        }
    }

    /// One try of the landing task of a run.
    async fn try_once(&self, run: i64) -> Result<Value, Failure> {
        let (log, mut lines) = Log::channel(100);
        let drain = tokio::spawn(async move { while lines.recv().await.is_some() {} });
        let date = Utc
            .timestamp_opt(1_767_225_600 + run * 3600, 0)
            .single()
            .expect("a date");
        let context = Context {
            instance: Arc::new(Instance {
                dag_id: "real".to_owned(),
                run_id: run,
                task_id: "land".to_owned(),
                instance_id: run,
                try_number: 1,
                logical_date: date,
                data_interval_start: date,
                data_interval_end: date,
                params: Map::new(),
            }),
            log,
            cancel: CancellationToken::new(),
            durable: self.ledger.of_instance(run),
            orchestrator: Arc::new(pinwheel_tasks::Alone),
            connections: Arc::new(NoConnections),
            resume: None,
        };
        let with = json!({ "topic": "pins", "bucket": "lake", "prefix": PREFIX, "max_chunk_records": 2000 });
        let kind = KafkaToS3::new(self.kafka.clone(), self.s3.clone());
        let with = with.as_object().expect("a table").clone();
        let outcome = kind.run(&context, with).await;
        drop(context);
        drain.await.expect("the log is drained");
        match outcome? {
            Outcome::Success { output } => Ok(output),
            other => panic!("a landing succeeds or fails, it does not answer {other:?}"),
        }
    }

    /// Tries as often as it takes, as the orchestrator does.
    async fn land(&self, run: i64) -> Value {
        loop {
            match self.try_once(run).await {
                Ok(output) => return output,
                Err(failure) => {
                    assert_ne!(failure.class, FailureClass::Permanent, "{failure}");
                    tokio::time::sleep(Duration::from_millis(200)).await;
                }
            }
        }
    }

    /// How often each value was landed, by what the manifests name.
    async fn landed(&self) -> BTreeMap<String, u32> {
        let prefix = Location::new("lake", landing::manifest_prefix(PREFIX));
        let mut landed = BTreeMap::new();
        for key in self.store.list(&prefix).await.expect("the store answers") {
            let at = Location::new("lake", key);
            let manifest = landing::read::manifest(&self.store, &at)
                .await
                .expect("a manifest");
            for object in &manifest.objects {
                let at = Location::new("lake", &object.key);
                let body = self
                    .store
                    .get(&at)
                    .await
                    .expect("a manifest names what exists");
                let frame = columns::decode(&body).expect("a landed object");
                let values = frame.column(columns::VALUE).expect("the contract's column");
                for value in values.binary().expect("bytes").iter().flatten() {
                    let value = String::from_utf8(value.to_vec()).expect("what was produced");
                    *landed.entry(value).or_insert(0) += 1;
                }
            }
        }
        landed
    }

    async fn assert_landed_once(&self, wanted: &BTreeSet<String>) {
        let landed = self.landed().await;
        let twice: Vec<_> = landed.iter().filter(|(_, count)| **count != 1).collect();
        assert!(twice.is_empty(), "landed more than once: {twice:?}");
        let landed: BTreeSet<String> = landed.into_keys().collect();
        let missing: Vec<_> = wanted.difference(&landed).take(5).collect();
        let strange: Vec<_> = landed.difference(wanted).take(5).collect();
        assert!(
            missing.is_empty() && strange.is_empty(),
            "missing {missing:?}, strange {strange:?}"
        );
    }
}

async fn start() -> (Kafka, Versity) {
    let kafka = tokio::task::spawn_blocking(|| Kafka::start(&[]));
    let server = Versity::start().await;
    (kafka.await.expect("Kafka starts"), server)
}

async fn send(producer: &FutureProducer, values: impl IntoIterator<Item = String>) -> Vec<String> {
    let mut sent = Vec::new();
    for value in values {
        let record = FutureRecord::<str, _>::to("pins").payload(value.as_bytes());
        producer
            .send(record, PATIENCE)
            .await
            .expect("the broker takes it");
        sent.push(value);
    }
    sent
}

fn named(what: &str, count: usize) -> Vec<String> {
    (0..count)
        .map(|number| format!("{what} {number}"))
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn aborted_records_never_land_and_an_open_transaction_holds_the_end_back() {
    let (broker, server) = start().await;
    let world = World::over(&broker, &server, 1).await;
    let producer: FutureProducer = kafka::producer(&world.kafka)
        .set("transactional.id", "test")
        .create()
        .expect("the settings are fine");
    let within = async |values: Vec<String>| {
        producer.begin_transaction().expect("it begins");
        send(&producer, values).await
    };
    let blocking = |what: fn(&FutureProducer)| {
        let producer = producer.clone();
        async move {
            tokio::task::spawn_blocking(move || what(&producer))
                .await
                .expect("the broker answers");
        }
    };
    blocking(|producer| producer.init_transactions(PATIENCE).expect("it is known")).await;
    let commit: fn(&FutureProducer) =
        |producer| producer.commit_transaction(PATIENCE).expect("it commits");
    let abort: fn(&FutureProducer) =
        |producer| producer.abort_transaction(PATIENCE).expect("it aborts");

    let mut wanted: BTreeSet<String> = within(named("committed", 50)).await.into_iter().collect();
    blocking(commit).await;
    within(named("aborted", 30)).await;
    blocking(abort).await;
    let open = within(named("open", 20)).await;
    world.land(1).await;
    world.assert_landed_once(&wanted).await;

    blocking(commit).await;
    wanted.extend(open);
    // What was aborted is the last there is: the plan ends behind it, and nothing comes from it.
    within(named("aborted at the end", 10)).await;
    blocking(abort).await;
    world.land(2).await;
    world.assert_landed_once(&wanted).await;
    assert_eq!(world.land(3).await["records"], 0);
    world.assert_landed_once(&wanted).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn kafka_and_the_store_are_killed_under_load_and_every_acknowledged_record_lands_once() {
    const RECORDS: usize = 60_000;
    let (mut broker, mut server) = start().await;
    let world = Arc::new(World::over(&broker, &server, 3).await);
    let producer: FutureProducer = kafka::producer(&world.kafka)
        .set("message.timeout.ms", "300000")
        .create()
        .expect("the settings are fine");
    let producing = tokio::spawn(async move {
        let mut under_way = Vec::new();
        for number in 0..RECORDS {
            let (key, value) = (number.to_string(), format!("record {number}"));
            let mut record = FutureRecord::to("pins").key(&key).payload(&value);
            loop {
                match producer.send_result(record) {
                    Ok(delivery) => break under_way.push(delivery),
                    // The queue is full while the broker is away.
                    Err((_, back)) => {
                        record = back;
                        tokio::time::sleep(Duration::from_millis(5)).await;
                    }
                }
            }
            if number % 500 == 0 {
                // A load that lasts for some seconds.
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
        for delivery in under_way {
            delivery
                .await
                .expect("the producer lives")
                .expect("acknowledged");
        }
    });
    let landing = {
        let world = Arc::clone(&world);
        tokio::spawn(async move {
            let mut run = 0;
            while !producing.is_finished() {
                run += 1;
                world.land(run).await;
            }
            producing.await.expect("everything is acknowledged");
            world.land(run + 1).await;
        })
    };
    let until_landed = async |more_than: usize| {
        while world.landed().await.len() <= more_than {
            assert!(
                !landing.is_finished(),
                "it ended before anything was killed"
            );
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    until_landed(1_000).await;
    broker.kill();
    let broker = tokio::task::spawn_blocking(move || {
        broker.start_again();
        broker
    });
    let _broker = broker.await.expect("Kafka starts again");
    until_landed(5_000).await;
    server.kill();
    let server = tokio::task::spawn_blocking(move || {
        server.start_again();
        server
    });
    let _server = server.await.expect("the store starts again");
    landing.await.expect("everything lands");
    let wanted = (0..RECORDS)
        .map(|number| format!("record {number}"))
        .collect();
    world.assert_landed_once(&wanted).await;
}

//! The embedded broker: `tools/broker`, a package of its own, as a child process on loopback with one SQLite file.

use std::{
    fs,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use rdkafka::{
    ClientConfig,
    config::RDKafkaLogLevel,
    consumer::{BaseConsumer, Consumer},
};

use super::{
    child::{self, Child, Program, RunAs},
    memory::Memory,
    port,
};
use crate::failure::{Failure, Result};

const PROGRAM: &str = "embedded-broker";
/// It must stay the same for a file.
const CLUSTER_ID: &str = "pinwheel";
const START_PATIENCE: Duration = Duration::from_secs(30);
const STOP_PATIENCE: Duration = Duration::from_secs(5);

/// A running embedded broker.
#[derive(Debug)]
pub(crate) struct Broker {
    child: Child,
    port: u16,
}

impl Broker {
    /// Starts the broker. `tools` is `embedded.tools`.
    pub(crate) async fn start(
        data_dir: &Path,
        tools: Option<&Path>,
        memory: &mut Memory,
    ) -> Result<Self> {
        let path = find(data_dir, tools)?;
        let folder = data_dir.join("kafka");
        fs::create_dir_all(&folder).map_err(|error| {
            Failure::failed(format!("cannot make the folder `{}`", folder.display())).because(error)
        })?;
        let mut remembered = memory.broker_port;
        let mut attempts = 0;
        loop {
            attempts += 1;
            let port = port::free(remembered).map_err(|error| {
                Failure::failed("no loopback port is free for the embedded broker").because(error)
            })?;
            let child = Child::start(Program {
                name: "the embedded broker",
                path: path.clone(),
                arguments: vec![
                    format!("127.0.0.1:{port}"),
                    "records.db".to_owned(),
                    CLUSTER_ID.to_owned(),
                ],
                run_as: RunAs::Ourselves,
                folder: folder.clone(),
                log: data_dir.join("broker.log"),
            })
            .await?;
            let broker = Self { child, port };
            match broker.wait_until_it_answers().await {
                Ok(()) => {
                    memory.broker_port = Some(port);
                    return Ok(broker);
                }
                // Somebody may have taken the port between our look and its bind.
                Err(_) if attempts < 3 && broker.child.has_ended().is_some() => remembered = None,
                Err(failure) => return Err(failure),
            }
        }
    }

    pub(crate) fn brokers(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    pub(crate) fn child(&self) -> &Child {
        &self.child
    }

    pub(crate) async fn stop(&self) {
        self.child.stop(STOP_PATIENCE).await;
    }

    async fn wait_until_it_answers(&self) -> Result<()> {
        let deadline = Instant::now() + START_PATIENCE;
        // Connecting first spares librdkafka's back-off, which would cost most of a start.
        loop {
            if let Some(status) = self.child.has_ended() {
                return Err(self.child.ended_unasked(status));
            }
            if tokio::net::TcpStream::connect(port::loopback(self.port))
                .await
                .is_ok()
            {
                break;
            }
            if Instant::now() > deadline {
                return Err(Failure::unreachable(format!(
                    "the embedded broker does not listen after {} s",
                    START_PATIENCE.as_secs()
                )));
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let brokers = self.brokers();
        tokio::task::spawn_blocking(move || fetch_metadata(&brokers))
            .await
            .expect("the look does not panic")
            .map_err(|error| {
                Failure::unreachable("the embedded broker does not answer").because(error)
            })
    }
}

/// Asks for all topics. Asking for one by name would make it.
fn fetch_metadata(brokers: &str) -> rdkafka::error::KafkaResult<()> {
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", brokers)
        .set_log_level(RDKafkaLogLevel::Critical)
        .create()?;
    consumer.fetch_metadata(None, START_PATIENCE).map(drop)
}

/// Finds the program: the setting, then the places where the set-up and packages put it.
fn find(data_dir: &Path, tools: Option<&Path>) -> Result<PathBuf> {
    let beside_us = std::env::current_exe()
        .ok()
        .and_then(|ours| ours.parent().map(Path::to_owned));
    let places: Vec<PathBuf> = match tools {
        Some(folder) => vec![folder.to_owned()],
        None => [data_dir.join("tools"), PathBuf::from(".pinwheel/tools")]
            .into_iter()
            .chain(beside_us)
            .collect(),
    };
    let found = places
        .iter()
        .map(|folder| folder.join(PROGRAM))
        .find(|candidate| child::is_program(candidate));
    // It runs in another folder, so a relative path would lead elsewhere.
    found.and_then(|path| fs::canonicalize(path).ok()).ok_or_else(|| {
        let looked: Vec<_> = places.iter().map(|folder| format!("`{}`", folder.display())).collect();
        Failure::failed(format!("the embedded broker is not built; looked in {}", looked.join(", "))).hint(
            "run `make set-up` once, or name its folder with --tools, or use a broker of your own with --kafka-brokers",
        )
    })
}

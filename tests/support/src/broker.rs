//! A broker of a test's own, on a free port, over a temporary folder: the embedded one that the set-up builds, or Apache Kafka when
//! `PINWHEEL_TEST_KAFKA` is `real`.

use std::{
    path::PathBuf,
    process::{Child, Stdio},
    thread,
    time::{Duration, Instant},
};

use tempfile::TempDir;

use crate::{
    child,
    service::{Service, free_ports, is_real, listens},
};

/// A running broker. It is killed when the value is dropped, and when the test process ends.
#[derive(Debug)]
pub struct Broker {
    running: Running,
    port: u16,
    _folder: TempDir,
}

#[derive(Debug)]
enum Running {
    Embedded(Child),
    Kafka(Service),
}

impl Broker {
    /// Starts a broker and waits until it listens.
    ///
    /// # Panics
    /// When it is not built (`make set-up`) or does not start.
    pub fn start() -> Self {
        if is_real("PINWHEEL_TEST_KAFKA") {
            return Self::start_kafka(&[]);
        }
        let folder = tempfile::tempdir().expect("a temporary folder can be made");
        let [port] = free_ports();
        let child = start(port, folder.path().join("records.db"));
        let mut broker = Self {
            running: Running::Embedded(child),
            port,
            _folder: folder,
        };
        let deadline = Instant::now() + Duration::from_secs(30);
        while !listens(port) {
            let Running::Embedded(child) = &mut broker.running else {
                unreachable!("it was just made");
            };
            let ended = child.try_wait().expect("a child of ours");
            assert!(ended.is_none(), "the embedded broker ended: {ended:?}");
            assert!(
                Instant::now() < deadline,
                "the embedded broker does not listen after 30 s"
            );
            // There is no signal to wait for: the broker says nothing when it listens.
            thread::sleep(Duration::from_millis(10));
        }
        broker
    }

    /// Starts Apache Kafka whatever `PINWHEEL_TEST_KAFKA` says, with variables for `scripts/services/kafka`.
    ///
    /// # Panics
    /// When it is not there (`scripts/services/set-up kafka`) or does not start.
    pub fn start_kafka(environment: &[(&str, &str)]) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder can be made");
        let [port, controller] = free_ports();
        let data = folder.path().join("kafka");
        let arguments = [
            data.to_str().expect("temporary paths are UTF-8"),
            &port.to_string(),
            &controller.to_string(),
        ];
        let log = folder.path().join("kafka.log");
        let mut service = Service::new("kafka", &arguments, environment, log);
        service.start();
        service.wait_until("listening", || listens(port));
        Self {
            running: Running::Kafka(service),
            port,
            _folder: folder,
        }
    }

    /// Kills Apache Kafka with SIGKILL.
    ///
    /// # Panics
    /// It is the embedded broker, whose death has tests of its own.
    pub fn kill(&mut self) {
        match &mut self.running {
            Running::Kafka(service) => service.kill(),
            Running::Embedded(_) => panic!("only Apache Kafka is killed and started again"),
        }
    }

    /// Starts Apache Kafka again, on the same port and files, and waits until it listens.
    ///
    /// # Panics
    /// It is the embedded broker, or does not start.
    pub fn start_again(&mut self) {
        let port = self.port;
        match &mut self.running {
            Running::Kafka(service) => {
                service.start();
                service.wait_until("listening", || listens(port));
            }
            Running::Embedded(_) => panic!("only Apache Kafka is killed and started again"),
        }
    }

    /// `host:port`, as `kafka.brokers` wants it.
    pub fn brokers(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        if let Running::Embedded(child) = &mut self.running {
            let _ended_already = child.kill();
            let _reaped = child.wait();
        }
    }
}

fn start(port: u16, file: PathBuf) -> Child {
    let tools = std::env::var_os("PINWHEEL_TOOLS_DIR").map_or_else(
        || {
            PathBuf::from(concat!(
                env!("CARGO_MANIFEST_DIR"),
                "/../../.pinwheel/tools"
            ))
        },
        PathBuf::from,
    );
    let program = tools.join("embedded-broker");
    assert!(
        program.exists(),
        "{} is not built; run `make set-up`",
        program.display()
    );
    let mut command = child::ending_with_us("KILL", program);
    command
        .arg(format!("127.0.0.1:{port}"))
        .arg(file)
        .arg("test")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    child::spawn(command).expect("setpriv is part of util-linux")
}

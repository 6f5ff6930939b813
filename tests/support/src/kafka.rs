//! An Apache Kafka of a test's own, whatever the other tests run on: for what the embedded broker does not have, such as transactions
//! and passwords. It may be killed and started again on the same port and files.

use tempfile::TempDir;

use crate::service::{Service, free_ports, listens};

/// A running Kafka. It is killed when the value is dropped.
#[derive(Debug)]
pub struct Kafka {
    service: Service,
    port: u16,
    _folder: TempDir,
}

impl Kafka {
    /// Starts one, with variables for `scripts/services/kafka`, and waits until it listens. Blocks for some seconds.
    ///
    /// # Panics
    /// When it is not there (`scripts/services/set-up kafka`) or does not start.
    pub fn start(environment: &[(&str, &str)]) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder can be made");
        let [port, controller] = free_ports();
        let data = folder.path().join("kafka");
        let data = data.to_str().expect("temporary paths are UTF-8");
        let log = folder.path().join("kafka.log");
        let arguments = [data, &port.to_string(), &controller.to_string()];
        let mut kafka = Self {
            service: Service::new("kafka", &arguments, environment, log),
            port,
            _folder: folder,
        };
        kafka.start_again();
        kafka
    }

    /// Kills it with SIGKILL.
    pub fn kill(&mut self) {
        self.service.kill();
    }

    /// Starts it again and waits until it listens.
    ///
    /// # Panics
    /// It does not start.
    pub fn start_again(&mut self) {
        let port = self.port;
        self.service.start();
        self.service.wait_until("listening", || listens(port));
    }

    /// `host:port`, as `kafka.brokers` wants it.
    pub fn brokers(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }
}

//! An HBase of a test's own: a master with its region server, and the REST gateway, each a process that may be killed and started
//! again on the same ports and files.

use tempfile::TempDir;

use crate::service::{Service, free_ports, listens, status};

/// A running HBase.
#[derive(Debug)]
pub struct HBase {
    master: Service,
    gateway: Service,
    rest_port: u16,
    tables: u32,
    _folder: TempDir,
}

impl HBase {
    /// Starts one and waits until a table can be created.
    ///
    /// # Panics
    /// It is not there (`scripts/services/set-up hbase`) or does not start.
    pub fn start() -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder can be made");
        let ports: [u16; 4] = free_ports();
        let [_, _, _, rest_port] = ports;
        let ports = ports.map(|port| port.to_string());
        let path = folder.path().to_str().expect("temporary paths are UTF-8");
        let part = |role: &str| {
            let [zookeeper, master, region, rest] = &ports;
            let arguments = [role, path, zookeeper, master, region, rest];
            let log = folder.path().join(format!("{role}.log"));
            Service::new("hbase", &arguments, &[], log)
        };
        let (mut master, mut gateway) = (part("master"), part("rest"));
        master.start();
        gateway.start();
        let mut hbase = Self {
            master,
            gateway,
            rest_port,
            tables: 0,
            _folder: folder,
        };
        hbase.wait_until_ready();
        hbase
    }

    /// The address of the gateway.
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.rest_port)
    }

    /// Kills the master, and with it the region server and all that is in its memory.
    pub fn kill_master(&mut self) {
        self.master.kill();
    }

    /// Starts the master again and does not wait for it.
    pub fn start_master(&mut self) {
        self.master.start();
    }

    /// Kills the gateway.
    pub fn kill_gateway(&mut self) {
        self.gateway.kill();
    }

    /// Starts the gateway again and does not wait for it.
    pub fn start_gateway(&mut self) {
        self.gateway.start();
    }

    /// Waits until a table can be created: the gateway answers to other requests long before.
    ///
    /// # Panics
    /// It takes too long.
    pub fn wait_until_ready(&mut self) {
        let port = self.rest_port;
        self.gateway.wait_until("listening", || listens(port));
        self.tables += 1;
        let name = format!("ready_{}", self.tables);
        let schema = format!(r#"{{"name":"{name}","ColumnSchema":[{{"name":"cf"}}]}}"#);
        let request = format!(
            "PUT /{name}/schema HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{schema}",
            schema.len()
        );
        self.master
            .wait_until("ready", || status(port, &request) == 201);
    }
}

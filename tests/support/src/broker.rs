//! An embedded broker of a test's own: the binary that the set-up builds, on a free port, over a temporary file. It is Apache Kafka
//! when the tests run on real services.

use std::{
    net::{TcpListener, TcpStream},
    path::PathBuf,
    process::{Child, Stdio},
    thread,
    time::{Duration, Instant},
};

use tempfile::TempDir;

use crate::{
    child,
    service::{self, PATIENCE},
};

/// A running broker. It is killed when the value is dropped, and when the test process ends.
#[derive(Debug)]
pub struct Broker {
    child: Child,
    port: u16,
    folder: TempDir,
}

impl Broker {
    /// Starts a broker and waits until it listens.
    ///
    /// # Panics
    /// When it is not built (`make set-up`) or does not start.
    pub fn start() -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder can be made");
        let listener = TcpListener::bind("127.0.0.1:0").expect("a loopback port is free");
        let port = listener
            .local_addr()
            .expect("a bound socket has an address")
            .port();
        drop(listener);
        let child = start(port, folder.path().join("records.db"));
        let mut broker = Self {
            child,
            port,
            folder,
        };
        broker.wait_until_it_listens();
        broker
    }

    /// Kills the broker as a power cut would.
    pub fn kill(&mut self) {
        let _ended_already = self.child.kill();
        let _reaped = self.child.wait();
    }

    /// Starts a killed broker again, on its port and over its records.
    ///
    /// # Panics
    /// When it does not start.
    pub fn restart(&mut self) {
        self.child = start(self.port, self.folder.path().join("records.db"));
        self.wait_until_it_listens();
    }

    fn wait_until_it_listens(&mut self) {
        let deadline = Instant::now() + PATIENCE;
        while TcpStream::connect(("127.0.0.1", self.port)).is_err() {
            let ended = self.child.try_wait().expect("a child of ours");
            assert!(ended.is_none(), "the embedded broker ended: {ended:?}");
            assert!(
                Instant::now() < deadline,
                "the broker does not listen after {} s",
                PATIENCE.as_secs()
            );
            // There is no signal to wait for: the broker says nothing when it listens.
            thread::sleep(Duration::from_millis(10));
        }
    }

    /// `host:port`, as `kafka.brokers` wants it.
    pub fn brokers(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        self.kill();
    }
}

fn start(port: u16, file: PathBuf) -> Child {
    if service::is_real("kafka") {
        return service::kafka(port, &file);
    }
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

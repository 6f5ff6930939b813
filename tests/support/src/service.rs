//! Real services of a test's own: one process of a script below `scripts/services`, on loopback, over a temporary folder. What it
//! says goes to a file. It may be killed and started again, and it ends with the test process.

use std::{
    fs::{self, OpenOptions},
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Stdio},
    thread,
    time::{Duration, Instant},
};

use crate::child;

/// How long a service may take until it answers; two Java machines start slowly on a machine that is busy.
pub(crate) const PATIENCE: Duration = Duration::from_secs(120);

/// Whether the tests run on the real service of that name, `kafka` or `s3`: `PINWHEEL_TEST_SERVICES` lists them.
pub fn is_real(name: &str) -> bool {
    std::env::var("PINWHEEL_TEST_SERVICES")
        .is_ok_and(|names| names.split_whitespace().any(|one| one == name))
}

/// Apache Kafka in the place of the embedded broker: on its port, and in a folder where that has its file.
pub(crate) fn kafka(port: u16, folder: &Path) -> Child {
    let [controller] = free_ports();
    let folder = folder.to_str().expect("temporary paths are UTF-8");
    let arguments = [folder, &port.to_string(), &controller.to_string()];
    let log = Path::new(folder).with_extension("log");
    let mut service = Service::new("kafka", &arguments, &[], log);
    service.start();
    service.child.take().expect("it was just started")
}

/// One process of a service.
#[derive(Debug)]
pub(crate) struct Service {
    script: &'static str,
    arguments: Vec<String>,
    environment: Vec<(String, String)>,
    log: PathBuf,
    child: Option<Child>,
}

impl Service {
    /// A service that is not started yet.
    pub(crate) fn new(
        script: &'static str,
        arguments: &[&str],
        environment: &[(&str, &str)],
        log: PathBuf,
    ) -> Self {
        Self {
            script,
            arguments: arguments
                .iter()
                .map(|argument| (*argument).to_owned())
                .collect(),
            environment: environment
                .iter()
                .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
                .collect(),
            log,
            child: None,
        }
    }

    /// Starts the process. It listens a little later.
    pub(crate) fn start(&mut self) {
        let project = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        let tools = std::env::var_os("PINWHEEL_TOOLS_DIR")
            .map_or_else(|| project.join(".pinwheel/tools"), PathBuf::from);
        let log = OpenOptions::new()
            .create(true)
            .append(true)
            .open(&self.log)
            .expect("the temporary folder can be written");
        let script = project.join("scripts/services").join(self.script);
        let mut command = child::ending_with_us("KILL", script);
        command
            .args(&self.arguments)
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .env("PINWHEEL_TOOLS_DIR", tools)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log);
        self.child = Some(child::spawn(command).expect("setpriv is part of util-linux"));
    }

    /// Kills the process with SIGKILL and awaits its end.
    pub(crate) fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ended_already = child.kill();
            let _reaped = child.wait();
        }
    }

    /// Looks until `is_ready` or the process ends.
    ///
    /// # Panics
    /// It ended, or time is up.
    pub(crate) fn wait_until(&mut self, what: &str, mut is_ready: impl FnMut() -> bool) {
        let began = Instant::now();
        while !is_ready() {
            let child = self.child.as_mut().expect("it was started");
            if let Some(status) = child.try_wait().expect("a child of ours") {
                panic!("`{}` ended: {status}\n{}", self.script, self.said());
            }
            assert!(
                began.elapsed() < PATIENCE,
                "`{}`: after {} s still not {what}\n{}",
                self.script,
                PATIENCE.as_secs(),
                self.said()
            );
            // Nothing tells: another process has to become ready.
            thread::sleep(Duration::from_millis(50));
        }
    }

    /// What it has said.
    fn said(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Whether somebody listens on a port.
pub(crate) fn listens(port: u16) -> bool {
    TcpStream::connect(("127.0.0.1", port)).is_ok()
}

/// Different ports that were free a moment ago.
pub(crate) fn free_ports<const N: usize>() -> [u16; N] {
    let listeners: [TcpListener; N] =
        std::array::from_fn(|_| TcpListener::bind("127.0.0.1:0").expect("a loopback port is free"));
    listeners.map(|listener| {
        let address = listener
            .local_addr()
            .expect("a bound socket has an address");
        address.port()
    })
}

/// The status of a request without a client: what a gateway answers to it, 0 when nobody does.
pub(crate) fn status(port: u16, request: &str) -> u16 {
    let ask = || -> std::io::Result<u16> {
        let mut stream = TcpStream::connect(("127.0.0.1", port))?;
        stream.set_read_timeout(Some(Duration::from_secs(10)))?;
        stream.write_all(request.as_bytes())?;
        let mut answer = Vec::new();
        // What came before a time-out is answer enough.
        let _cut = stream.take(1024).read_to_end(&mut answer);
        let line = String::from_utf8_lossy(&answer);
        Ok(line
            .split(' ')
            .nth(1)
            .and_then(|word| word.parse().ok())
            .unwrap_or(0))
    };
    ask().unwrap_or(0)
}

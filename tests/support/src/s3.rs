//! An S3 server of a test's own, on a free port, over a temporary folder: in this process, or versitygw when `PINWHEEL_TEST_S3` is
//! `real`.

use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto::Builder,
};
use pinwheel_tasks::{S3Addressing, S3Credentials, S3Settings};
use s3s::{auth::SimpleAuth, service::S3ServiceBuilder};
use s3s_fs::FileSystem;
use tempfile::TempDir;
use tokio::{net::TcpListener, task::JoinHandle};

use crate::service::{Service, free_ports, is_real, listens};

/// A running server. It ends, and its objects are deleted, when the value is dropped.
#[derive(Debug)]
pub struct S3 {
    settings: S3Settings,
    folder: TempDir,
    running: Running,
}

#[derive(Debug)]
enum Running {
    Here(JoinHandle<()>),
    Process(Box<Service>),
}

impl S3 {
    /// Starts a server without buckets.
    ///
    /// # Panics
    /// When it cannot be started.
    pub async fn start() -> Self {
        if is_real("PINWHEEL_TEST_S3") {
            return tokio::task::spawn_blocking(|| Self::start_process(&[]))
                .await
                .expect("the S3 server starts");
        }
        let folder = tempfile::tempdir().expect("a temporary folder can be made");
        let credentials = credentials();
        let files = FileSystem::new(folder.path()).expect("the folder exists");
        let mut builder = S3ServiceBuilder::new(files);
        builder.set_auth(SimpleAuth::from_single(
            credentials.access_key_id.clone(),
            credentials.secret_access_key.clone(),
        ));
        let service = builder.build();
        let listener = TcpListener::bind("127.0.0.1:0")
            .await
            .expect("a loopback port is free");
        let address = listener
            .local_addr()
            .expect("a bound socket has an address");
        let accepting = tokio::spawn(async move {
            while let Ok((connection, _)) = listener.accept().await {
                let service = service.clone();
                // An answer of two small writes waits 40 ms for an acknowledgement otherwise.
                let _slower_without = connection.set_nodelay(true);
                tokio::spawn(async move {
                    // A client that goes away is no concern of the test.
                    let _gone = Builder::new(TokioExecutor::new())
                        .serve_connection(TokioIo::new(connection), service)
                        .await;
                });
            }
        });
        Self {
            settings: settings(&address.to_string()),
            folder,
            running: Running::Here(accepting),
        }
    }

    /// Starts versitygw whatever `PINWHEEL_TEST_S3` says, with variables for `scripts/services/s3`.
    ///
    /// # Panics
    /// When it is not there (`scripts/services/set-up s3`) or does not start.
    pub fn start_process(environment: &[(&str, &str)]) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder can be made");
        let [port] = free_ports();
        let path = folder.path().to_str().expect("temporary paths are UTF-8");
        // Beside the buckets, which are folders, a file is nobody's.
        let log = folder.path().join("server.log");
        let mut service = Service::new("s3", &[path, &port.to_string()], environment, log);
        service.start();
        service.wait_until("listening", || listens(port));
        Self {
            settings: settings(&format!("127.0.0.1:{port}")),
            folder,
            running: Running::Process(Box::new(service)),
        }
    }

    /// Kills versitygw with SIGKILL.
    ///
    /// # Panics
    /// The server is in this process.
    pub fn kill(&mut self) {
        match &mut self.running {
            Running::Process(service) => service.kill(),
            Running::Here(_) => panic!("only versitygw is killed and started again"),
        }
    }

    /// Starts versitygw again, on the same port and folder. It listens a moment later.
    ///
    /// # Panics
    /// The server is in this process.
    pub fn start_again(&mut self) {
        match &mut self.running {
            Running::Process(service) => service.start(),
            Running::Here(_) => panic!("only versitygw is killed and started again"),
        }
    }

    /// How to reach it.
    pub fn settings(&self) -> &S3Settings {
        &self.settings
    }

    /// Where the objects are: a bucket is a folder.
    pub fn folder(&self) -> &std::path::Path {
        self.folder.path()
    }
}

impl Drop for S3 {
    fn drop(&mut self) {
        if let Running::Here(accepting) = &self.running {
            accepting.abort();
        }
    }
}

fn credentials() -> S3Credentials {
    S3Credentials {
        access_key_id: "test".to_owned(),
        secret_access_key: "test-secret".to_owned(),
    }
}

fn settings(address: &str) -> S3Settings {
    S3Settings {
        endpoint: Some(format!("http://{address}")),
        region: "us-east-1".to_owned(),
        credentials: Some(credentials()),
        addressing: S3Addressing::Path,
    }
}

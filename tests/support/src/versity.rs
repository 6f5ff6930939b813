//! The S3 server versitygw, a process that may be killed and started again on the same port and folder.

use pinwheel_tasks::{S3Addressing, S3Credentials, S3Settings};
use tempfile::TempDir;

use crate::service::{Service, free_ports, listens};

/// A running server. It ends, and its objects are deleted, when the value is dropped.
#[derive(Debug)]
pub struct Versity {
    settings: S3Settings,
    service: Service,
    port: u16,
    folder: TempDir,
}

impl Versity {
    /// Starts a server without buckets.
    ///
    /// # Panics
    /// When it is not there (`scripts/services/set-up s3`) or does not start.
    pub async fn start() -> Self {
        tokio::task::spawn_blocking(Self::start_here)
            .await
            .expect("the S3 server starts")
    }

    fn start_here() -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder can be made");
        let [port] = free_ports();
        let credentials = S3Credentials {
            access_key_id: "test".to_owned(),
            secret_access_key: "test-secret".to_owned(),
        };
        let environment = [
            ("PINWHEEL_S3_KEY", credentials.access_key_id.as_str()),
            ("PINWHEEL_S3_SECRET", credentials.secret_access_key.as_str()),
        ];
        let path = folder.path().to_str().expect("temporary paths are UTF-8");
        // Buckets are folders: a file beside them is nobody's.
        let log = folder.path().join("server.log");
        let mut service = Service::new("s3", &[path, &port.to_string()], &environment, log);
        service.start();
        service.wait_until("listening", || listens(port));
        Self {
            settings: S3Settings {
                endpoint: Some(format!("http://127.0.0.1:{port}")),
                region: "us-east-1".to_owned(),
                credentials: Some(credentials),
                addressing: S3Addressing::Path,
            },
            service,
            port,
            folder,
        }
    }

    /// How to reach it.
    pub fn settings(&self) -> &S3Settings {
        &self.settings
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

    /// Its parts; the server ends with the task, when that is aborted.
    #[cfg(feature = "s3")]
    pub(crate) fn forever(self) -> (S3Settings, TempDir, tokio::task::JoinHandle<()>) {
        let service = self.service;
        let serving = tokio::spawn(async move {
            let _ends_with_the_task = service;
            std::future::pending::<()>().await;
        });
        (self.settings, self.folder, serving)
    }
}

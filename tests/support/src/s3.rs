//! An S3 server of a test's own: in this process, on a free port, over a temporary folder. It is versitygw when the tests run on
//! real services.

use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto::Builder,
};
use pinwheel_tasks::{S3Addressing, S3Credentials, S3Settings};
use s3s::{auth::SimpleAuth, service::S3ServiceBuilder};
use s3s_fs::FileSystem;
use tempfile::TempDir;
use tokio::{net::TcpListener, task::JoinHandle};

use crate::versity::Versity;

/// A running server. It ends, and its objects are deleted, when the value is dropped.
#[derive(Debug)]
pub struct S3 {
    settings: S3Settings,
    folder: TempDir,
    accepting: JoinHandle<()>,
}

impl S3 {
    /// Starts a server without buckets.
    ///
    /// # Panics
    /// When it cannot be started.
    pub async fn start() -> Self {
        if crate::service::is_real("s3") {
            let (settings, folder, accepting) = Versity::start().await.forever();
            return Self {
                settings,
                folder,
                accepting,
            };
        }
        let folder = tempfile::tempdir().expect("a temporary folder can be made");
        let credentials = S3Credentials {
            access_key_id: "test".to_owned(),
            secret_access_key: "test-secret".to_owned(),
        };
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
        let settings = S3Settings {
            endpoint: Some(format!("http://{address}")),
            region: "us-east-1".to_owned(),
            credentials: Some(credentials),
            addressing: S3Addressing::Path,
        };
        Self {
            settings,
            folder,
            accepting,
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
        self.accepting.abort();
    }
}

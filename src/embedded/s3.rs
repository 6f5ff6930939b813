//! The embedded S3 server: s3s over a folder, in this process, on loopback, with credentials made up at the first start.
//!
//! It is no store for production: keys over about 125 bytes fail, and a conditional put is not atomic under
//! concurrent writers.

use std::{fs, path::Path, time::Duration};

use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::{conn::auto::Builder, graceful::GracefulShutdown},
};
use pinwheel_tasks::{S3Addressing, S3Credentials, S3Settings};
use s3s::{
    auth::SimpleAuth,
    service::{S3Service, S3ServiceBuilder},
};
use s3s_fs::FileSystem;
use tokio::net::TcpListener;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{memory::Memory, port};
use crate::failure::{Failure, Result};

/// The bucket that the shipped DAGs write to.
pub(crate) const BUCKET: &str = "lake";
const REGION: &str = "us-east-1";
/// How long open requests may take to end.
const STOP_PATIENCE: Duration = Duration::from_secs(5);

/// A running embedded S3 server.
#[derive(Debug)]
pub(crate) struct S3 {
    settings: S3Settings,
    stop: CancellationToken,
    server: TaskTracker,
}

impl S3 {
    /// Starts the server over `s3` in the data directory.
    pub(crate) async fn start(data_dir: &Path, memory: &mut Memory) -> Result<Self> {
        let cannot = |error: std::io::Error| {
            Failure::failed("cannot start the embedded S3 server").because(error)
        };
        let folder = data_dir.join("s3");
        // A bucket is a folder.
        fs::create_dir_all(folder.join(BUCKET)).map_err(cannot)?;
        let files = FileSystem::new(&folder).map_err(|error| {
            Failure::failed(format!("cannot start the embedded S3 server: {error:?}"))
        })?;
        let mut builder = S3ServiceBuilder::new(files);
        builder.set_auth(SimpleAuth::from_single(
            memory.s3_access_key_id.clone(),
            memory.s3_secret_access_key.clone(),
        ));
        let port = port::free(memory.s3_port).map_err(cannot)?;
        let listener = TcpListener::bind(port::loopback(port))
            .await
            .map_err(cannot)?;
        memory.s3_port = Some(port);
        let stop = CancellationToken::new();
        let server = TaskTracker::new();
        server.spawn(serve(listener, builder.build(), stop.clone()));
        server.close();
        let settings = S3Settings {
            endpoint: Some(format!("http://127.0.0.1:{port}")),
            region: REGION.to_owned(),
            credentials: Some(S3Credentials {
                access_key_id: memory.s3_access_key_id.clone(),
                secret_access_key: memory.s3_secret_access_key.clone(),
            }),
            addressing: S3Addressing::Path,
        };
        Ok(Self {
            settings,
            stop,
            server,
        })
    }

    pub(crate) fn settings(&self) -> &S3Settings {
        &self.settings
    }

    /// Lets open requests end.
    pub(crate) async fn stop(&self) {
        self.stop.cancel();
        self.server.wait().await;
    }
}

async fn serve(listener: TcpListener, service: S3Service, stop: CancellationToken) {
    let http = Builder::new(TokioExecutor::new());
    let graceful = GracefulShutdown::new();
    loop {
        let accepted = tokio::select! {
            biased;
            () = stop.cancelled() => break,
            accepted = listener.accept() => accepted,
        };
        let socket = match accepted {
            Ok((socket, _)) => socket,
            Err(error) => {
                // Typically out of file descriptors, which passes.
                tracing::warn!(%error, "the embedded S3 server cannot accept a connection");
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        // An answer of two small writes waits 40 ms for an acknowledgement otherwise.
        let _slower_without = socket.set_nodelay(true);
        let connection = http
            .serve_connection(TokioIo::new(socket), service.clone())
            .into_owned();
        let connection = graceful.watch(connection);
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "a connection to the embedded S3 server ended early");
            }
        });
    }
    drop(listener);
    let _some_did_not_end = tokio::time::timeout(STOP_PATIENCE, graceful.shutdown()).await;
}

//! An S3 server of a test's own: in this process, on a free port, over a temporary folder. It fails when it is told to. It is
//! versitygw when the tests run on real services.

use std::{
    error,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
};

use hyper::{
    Method, Request, Response, StatusCode,
    body::{Body, Incoming},
    service::{Service, service_fn},
};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto::Builder,
};
use pinwheel_tasks::{S3Addressing, S3Credentials, S3Settings};
use s3s::{
    auth::SimpleAuth,
    service::{S3Service, S3ServiceBuilder},
};
use s3s_fs::FileSystem;
use tempfile::TempDir;
use tokio::{net::TcpListener, sync::oneshot, task::JoinHandle};

use crate::versity::Versity;

/// A running server. It ends, and its objects are deleted, when the value is dropped.
#[derive(Debug)]
pub struct S3 {
    settings: S3Settings,
    folder: TempDir,
    faults: Faults,
    accepting: JoinHandle<()>,
}

/// What goes wrong with a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// It is answered with this status and not carried out.
    Refused(StatusCode),
    /// It is carried out, and the connection ends before the answer.
    AnswerLost,
    /// It is carried out, and the answer never comes.
    AnswerHeld,
    /// Nothing more happens once the first piece of the body is there.
    BodyHeld,
}

/// What will go wrong, in order.
#[derive(Debug, Clone, Default)]
struct Faults {
    coming: Arc<Mutex<Vec<Coming>>>,
}

#[derive(Debug)]
struct Coming {
    method: Method,
    part: String,
    fault: Fault,
    happened: Option<oneshot::Sender<()>>,
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
                faults: Faults::default(),
                accepting,
            };
        }
        Self::start_here().await
    }

    /// Starts one in this process, whatever the tests run on: only this one fails when it is told to.
    ///
    /// # Panics
    /// When it cannot be started.
    pub async fn start_here() -> Self {
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
        let faults = Faults::default();
        let faulty = faults.clone();
        let accepting = tokio::spawn(async move {
            while let Ok((connection, _)) = listener.accept().await {
                let (service, faults) = (service.clone(), faulty.clone());
                let service =
                    service_fn(move |request| answer(service.clone(), faults.clone(), request));
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
            faults,
            accepting,
        }
    }

    /// Lets the next request of `method` whose path contains `part` go wrong. What is answered completes when it has.
    pub fn fail_next(&self, method: Method, part: &str, fault: Fault) -> oneshot::Receiver<()> {
        let (happened, receiver) = oneshot::channel();
        self.faults.lock().push(Coming {
            method,
            part: part.to_owned(),
            fault,
            happened: Some(happened),
        });
        receiver
    }

    /// Nothing more goes wrong.
    pub fn forget_faults(&self) {
        self.faults.lock().clear();
    }

    /// Faults that have not happened yet.
    pub fn faults_left(&self) -> usize {
        self.faults.lock().len()
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

impl Faults {
    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Coming>> {
        self.coming.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take(&self, request: &Request<Incoming>) -> Option<Coming> {
        let mut coming = self.lock();
        let at = coming.iter().position(|fault| {
            fault.method == *request.method() && request.uri().path().contains(&fault.part)
        })?;
        Some(coming.remove(at))
    }
}

async fn answer(
    service: S3Service,
    faults: Faults,
    mut request: Request<Incoming>,
) -> Result<Response<s3s::Body>, Box<dyn error::Error + Send + Sync>> {
    let Some(mut coming) = faults.take(&request) else {
        return Ok(Service::call(&service, request).await?);
    };
    let mut tell = || {
        if let Some(happened) = coming.happened.take() {
            // The test may not want to know.
            let _nobody_waits = happened.send(());
        }
    };
    match coming.fault {
        Fault::Refused(status) => {
            let code = match status.as_u16() {
                409 => "ConditionalRequestConflict",
                503 => "SlowDown",
                _ => "InternalError",
            };
            let body = format!("<Error><Code>{code}</Code><Message>a test</Message></Error>");
            let mut response = Response::new(s3s::Body::from(body));
            *response.status_mut() = status;
            tell();
            Ok(response)
        }
        Fault::AnswerLost => {
            Service::call(&service, request).await?;
            tell();
            Err("the answer is lost".into())
        }
        Fault::AnswerHeld => {
            Service::call(&service, request).await?;
            tell();
            std::future::pending().await
        }
        Fault::BodyHeld => {
            let body = request.body_mut();
            std::future::poll_fn(|context| Pin::new(&mut *body).poll_frame(context)).await;
            tell();
            std::future::pending().await
        }
    }
}

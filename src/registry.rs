//! The kinds of task that this binary knows. The only place that names them all.

use std::{path::Path, sync::Arc};

use pinwheel_tasks::{
    KafkaSettings, KafkaToS3, Kind, Registry, S3Addressing, S3Credentials, S3Settings, Shell,
    Warden,
    clean::Clean,
    dataset::{Catalog, CatalogError},
    light_kinds,
    report::Report,
    s3::ObjectStore,
};

use crate::{
    failure::{Failure, Result},
    settings::Settings,
};

/// The kinds of a worker, which runs them: it needs Kafka and S3. What they start does not outlive the worker.
pub(crate) async fn for_work(settings: &Settings, role: &str, warden: Warden) -> Result<Registry> {
    let kafka = settings.require_kafka(role)?.clone();
    let s3 = settings.require_s3(role)?.clone();
    let shell = Shell::guarded_by(warden);
    registry(kafka, s3, &settings.dags_folder, shell).await
}

/// The kinds of a process that only checks files: they know their fields and outputs, and are never run.
/// `folder` is where the datasets and reports are that files may name.
pub(crate) async fn for_checks(folder: &Path) -> Result<Registry> {
    registry(no_brokers(), no_store(), folder, Shell::default()).await
}

/// The kinds of one run in this process. Without settings for Kafka or S3 a task that needs them fails; it can be mocked.
pub(crate) async fn for_test(settings: &Settings) -> Result<Registry> {
    let kafka = settings.kafka.clone().unwrap_or_else(no_brokers);
    let s3 = settings.s3.clone().unwrap_or_else(no_store);
    registry(kafka, s3, &settings.dags_folder, Shell::default()).await
}

fn no_brokers() -> KafkaSettings {
    KafkaSettings {
        brokers: String::new(),
        properties: Default::default(),
    }
}

fn no_store() -> S3Settings {
    S3Settings {
        endpoint: Some("http://127.0.0.1:9".to_owned()),
        region: "none".to_owned(),
        // Without a key the AWS client would ask the network for one.
        credentials: Some(S3Credentials {
            access_key_id: "none".to_owned(),
            secret_access_key: "none".to_owned(),
        }),
        addressing: S3Addressing::Path,
    }
}

async fn registry(
    kafka: KafkaSettings,
    s3: S3Settings,
    folder: &Path,
    shell: Shell,
) -> Result<Registry> {
    let store = ObjectStore::connect(&s3).await;
    let catalog = Arc::new(datasets(folder)?);
    let own: [Arc<dyn Kind>; 4] = [
        Arc::new(shell),
        Arc::new(KafkaToS3::new(kafka, s3)),
        Arc::new(Clean::new(store.clone(), catalog)),
        Arc::new(Report::new(store, folder)),
    ];
    Ok(Registry::new(light_kinds().into_iter().chain(own)))
}

/// The dataset files of a DAG folder.
pub(crate) fn datasets(folder: &Path) -> Result<Catalog> {
    Catalog::load(folder.join("datasets"))
        .map_err(|error: CatalogError| Failure::invalid(error.to_string()))
}

//! The note that a running standalone leaves in its data directory, so that client commands and people's own scripts
//! find it. It holds credentials, so only its owner can read it; it is removed when the standalone ends.

use std::path::{Path, PathBuf};

use chrono::{DateTime, Utc};
use pinwheel_tasks::{KafkaSettings, S3Settings};
use serde::{Deserialize, Serialize};

use super::{lock, memory};
use crate::failure::Result;

/// Where everything of a running standalone is.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Running {
    pub(crate) pid: u32,
    pub(crate) started_at: DateTime<Utc>,
    pub(crate) database_url: String,
    pub(crate) kafka: KafkaSettings,
    pub(crate) s3: S3Settings,
    pub(crate) web_url: String,
    pub(crate) ingest_url: String,
    pub(crate) dags_folder: PathBuf,
}

fn path(data_dir: &Path) -> PathBuf {
    data_dir.join("standalone.json")
}

impl Running {
    /// The standalone that runs on a data directory; `None` when none does, whatever file was left behind.
    pub(crate) fn find(data_dir: &Path) -> Result<Option<Self>> {
        if !lock::is_held(data_dir) {
            return Ok(None);
        }
        memory::read_private(&path(data_dir))
    }

    pub(crate) fn announce(&self, data_dir: &Path) -> Result<()> {
        memory::write_private(&path(data_dir), self)
    }

    pub(crate) fn withdraw(data_dir: &Path) {
        let _never_announced = std::fs::remove_file(path(data_dir));
    }
}

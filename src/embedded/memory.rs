//! What the embedded services remember between starts: ports, so that bookmarks and scripts go on working, and the
//! credentials that were made up at the first start.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize, de::DeserializeOwned};
use uuid::Uuid;

use crate::failure::{Failure, Result};

/// What is kept in `embedded.json`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Memory {
    pub(crate) postgres_port: Option<u16>,
    pub(crate) postgres_password: String,
    pub(crate) broker_port: Option<u16>,
    pub(crate) s3_port: Option<u16>,
    pub(crate) s3_access_key_id: String,
    pub(crate) s3_secret_access_key: String,
}

impl Memory {
    /// Reads what an earlier start left, or makes up new credentials.
    pub(crate) fn recall(data_dir: &Path) -> Result<Self> {
        Ok(read_private(&path(data_dir))?.unwrap_or_else(|| Self {
            postgres_port: None,
            postgres_password: secret(),
            broker_port: None,
            s3_port: None,
            s3_access_key_id: "pinwheel".to_owned(),
            s3_secret_access_key: secret(),
        }))
    }

    pub(crate) fn keep(&self, data_dir: &Path) -> Result<()> {
        write_private(&path(data_dir), self)
    }
}

fn path(data_dir: &Path) -> PathBuf {
    data_dir.join("embedded.json")
}

/// 122 random bits from the operating system.
fn secret() -> String {
    Uuid::new_v4().simple().to_string()
}

/// Reads a JSON file; `None` when it is not there.
pub(crate) fn read_private<T: DeserializeOwned>(path: &Path) -> Result<Option<T>> {
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => {
            return Err(
                Failure::invalid(format!("cannot read `{}`", path.display())).because(error),
            );
        }
    };
    serde_json::from_str(&text).map(Some).map_err(|error| {
        Failure::invalid(format!("`{}` is damaged", path.display()))
            .because(error)
            .hint("remove the data directory to start afresh")
    })
}

/// Writes a JSON file that only its owner can read, all of it or nothing.
pub(crate) fn write_private<T: Serialize>(path: &Path, value: &T) -> Result<()> {
    use std::{io::Write, os::unix::fs::OpenOptionsExt};
    let cannot = |error: std::io::Error| {
        Failure::failed(format!("cannot write `{}`", path.display())).because(error)
    };
    let text = serde_json::to_string_pretty(value).expect("these values have only text keys");
    let new = path.with_extension("json.new");
    let _not_there = std::fs::remove_file(&new);
    let mut file = std::fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&new)
        .map_err(cannot)?;
    file.write_all(text.as_bytes())
        .and_then(|()| file.sync_all())
        .map_err(cannot)?;
    std::fs::rename(&new, path).map_err(cannot)
}

//! The key for connections and variables that a standalone makes up when the settings name none: beside its database, in
//! a file that only its owner can read.

use std::{
    io::Write,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use pinwheel_scheduler::secrets::new_key;

use crate::failure::{Failure, Result};

/// Where the key of a data directory is, once a standalone has run there.
pub(crate) fn file(data_dir: &Path) -> PathBuf {
    data_dir.join("secrets.key")
}

/// Makes a key unless there is one, and says where.
pub(super) fn make(data_dir: &Path) -> Result<PathBuf> {
    let path = file(data_dir);
    let opened = std::fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&path);
    let cannot = |error: std::io::Error| {
        Failure::failed(format!("cannot write `{}`", path.display())).because(error)
    };
    match opened {
        Ok(mut made) => {
            writeln!(made, "{}", new_key())
                .and_then(|()| made.sync_all())
                .map_err(cannot)?;
        }
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
        Err(error) => return Err(cannot(error)),
    }
    Ok(path)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use pinwheel_scheduler::secrets::Keyring;

    use super::*;

    #[test]
    fn a_key_is_made_once_and_only_its_owner_can_read_it() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = make(folder.path()).expect("a key");
        let first = std::fs::read_to_string(&path).expect("it is there");
        assert!(!Keyring::parse(&first).expect("a key").is_empty());
        let mode = std::fs::metadata(&path)
            .expect("it is there")
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600);
        make(folder.path()).expect("the same key");
        assert_eq!(std::fs::read_to_string(&path).expect("it is there"), first);
    }
}

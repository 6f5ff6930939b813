//! One standalone per data directory: a locked file with the process's number. The kernel unlocks it when we die.

use std::{
    fs::{File, TryLockError},
    io::{Read, Seek, Write},
    path::Path,
    thread,
    time::Duration,
};

use crate::failure::{Failure, Result};

/// Holds the data directory until it is dropped.
#[derive(Debug)]
pub(crate) struct DirectoryLock {
    _file: File,
}

const FILE: &str = "lock";
const LOOKS: u32 = 5;
const BETWEEN_LOOKS: Duration = Duration::from_millis(20);

impl DirectoryLock {
    /// Locks the directory.
    pub(crate) fn take(data_dir: &Path) -> Result<Self> {
        let path = data_dir.join(FILE);
        let cannot = |error: std::io::Error| {
            Failure::failed(format!("cannot lock `{}`", path.display())).because(error)
        };
        let mut file = File::options()
            .create(true)
            .read(true)
            .write(true)
            .truncate(false)
            .open(&path)
            .map_err(cannot)?;
        let mut looks = 0;
        while let Err(error) = file.try_lock() {
            looks += 1;
            match error {
                // A client command that asks whether anybody is here holds the lock for an instant.
                TryLockError::WouldBlock if looks < LOOKS => thread::sleep(BETWEEN_LOOKS),
                TryLockError::WouldBlock => return Err(taken(data_dir, &mut file)),
                TryLockError::Error(error) => return Err(cannot(error)),
            }
        }
        file.set_len(0)
            .and_then(|()| file.rewind())
            .and_then(|()| writeln!(file, "{}", std::process::id()))
            .map_err(cannot)?;
        Ok(Self { _file: file })
    }
}

fn taken(data_dir: &Path, file: &mut File) -> Failure {
    let mut pid = String::new();
    let _unknown = file.read_to_string(&mut pid);
    let holder = match pid.trim() {
        "" => "another process".to_owned(),
        pid => format!("process {pid}"),
    };
    Failure::invalid(format!("`{}` is in use by {holder}", data_dir.display()))
        .hint("stop it, or give this one a folder of its own with --data-dir")
}

/// Whether a process holds the directory.
pub(crate) fn is_held(data_dir: &Path) -> bool {
    let Ok(file) = File::open(data_dir.join(FILE)) else {
        return false;
    };
    matches!(file.try_lock_shared(), Err(TryLockError::WouldBlock))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_holder_is_refused_and_told_who_has_it() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let lock = DirectoryLock::take(folder.path()).expect("nobody has it");
        assert!(is_held(folder.path()));
        let failure = DirectoryLock::take(folder.path()).expect_err("it is taken");
        assert!(
            failure
                .to_string()
                .contains(&std::process::id().to_string()),
            "{failure}"
        );
        drop(lock);
        assert!(!is_held(folder.path()));
        DirectoryLock::take(folder.path()).expect("it is free again");
    }
}

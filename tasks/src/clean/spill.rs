//! A temporary file for what does not fit in memory. It has no name in its folder: whatever ends the process, nothing is left.

use std::{
    fs::File,
    io,
    os::unix::fs::FileExt,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

/// Appends and reads back extents; the file is made when the first one is appended.
#[derive(Debug, Default)]
pub(super) struct Spill {
    file: Mutex<Option<Arc<File>>>,
    end: AtomicU64,
}

/// A piece of the file.
#[derive(Debug, Clone, Copy)]
pub(super) struct Extent {
    at: u64,
    bytes: usize,
}

impl Extent {
    /// Takes a piece from its front.
    pub(super) fn take(&mut self, bytes: usize) -> Self {
        let front = Self { at: self.at, bytes };
        self.at += bytes as u64;
        self.bytes -= bytes;
        front
    }
}

impl Spill {
    /// Appends buffers one after the other.
    pub(super) fn append<'b>(
        &self,
        buffers: impl Iterator<Item = &'b [u8]> + Clone,
    ) -> io::Result<Extent> {
        let bytes: usize = buffers.clone().map(<[u8]>::len).sum();
        let file = self.file()?;
        let at = self.end.fetch_add(bytes as u64, Ordering::Relaxed);
        let mut place = at;
        for buffer in buffers {
            file.write_all_at(buffer, place)?;
            place += buffer.len() as u64;
        }
        Ok(Extent { at, bytes })
    }

    /// Reads an extent.
    pub(super) fn read(&self, extent: Extent) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; extent.bytes];
        self.file()?.read_exact_at(&mut bytes, extent.at)?;
        Ok(bytes)
    }

    /// How much was written so far.
    pub(super) fn bytes(&self) -> u64 {
        self.end.load(Ordering::Relaxed)
    }

    fn file(&self) -> io::Result<Arc<File>> {
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        match &*file {
            Some(file) => Ok(Arc::clone(file)),
            None => {
                let made = Arc::new(tempfile::tempfile()?);
                *file = Some(Arc::clone(&made));
                Ok(made)
            }
        }
    }
}

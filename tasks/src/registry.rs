//! The kinds a process knows, by name.

use std::{collections::BTreeMap, fmt, sync::Arc};

use crate::Kind;

/// The kinds a process can check and run. Cheap to clone.
#[derive(Clone, Default)]
pub struct Registry {
    kinds: Arc<BTreeMap<&'static str, Arc<dyn Kind>>>,
}

impl Registry {
    /// Builds a registry; a later kind replaces an earlier one of the same name.
    pub fn new(kinds: impl IntoIterator<Item = Arc<dyn Kind>>) -> Self {
        Self {
            kinds: Arc::new(kinds.into_iter().map(|kind| (kind.name(), kind)).collect()),
        }
    }

    /// The kind of that name.
    pub fn get(&self, name: &str) -> Option<&Arc<dyn Kind>> {
        self.kinds.get(name)
    }

    /// All kinds, by name.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<dyn Kind>> {
        self.kinds.values()
    }

    /// All names, sorted.
    pub fn names(&self) -> impl Iterator<Item = &'static str> + '_ {
        self.kinds.keys().copied()
    }
}

impl fmt::Debug for Registry {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_set().entries(self.names()).finish()
    }
}

//! Connections and variables: where their values come from, how they are sealed, and what a try may look up.
//!
//! The environment wins over the database, as in Airflow. In the database they stand sealed under the newest key. No error
//! made here, and no `Debug` form, holds a value.

mod environment;
mod keyring;
mod vault;

pub use environment::Environment;
pub use keyring::{KeyError, KeyId, Keyring, new_key};
pub use pinwheel_tasks::{
    Connection, ConnectionError, Masks,
    connections::{CONNECTION_KEYS, names_a_secret},
};
pub(crate) use vault::mask_connection;
pub use vault::{
    LookedUp, Rotated, Secrecy, ShownConnection, ShownVariable, Source, Stored, Variable, Vault,
};

use crate::store;

/// Where values come from beside the database, and how to open what is in it.
#[derive(Debug, Clone, Default)]
pub struct Sources {
    /// The keys, newest first; without one nothing can be sealed or opened.
    pub keyring: Keyring,
    /// What the environment of the process gives.
    pub environment: Environment,
}

/// Why a connection or variable could not be read, kept or found.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// This process has no key at all.
    #[error("{what} cannot be {verb}: this process has no key for secrets")]
    NoKey {
        /// What it is about, such as "connection `warehouse`".
        what: String,
        /// "read" or "kept".
        verb: &'static str,
    },
    /// It was sealed with a key that this process does not have.
    #[error("{what} cannot be read: it is sealed with the key {sealed_with}, and this process has {}", keys(.has))]
    WrongKey {
        /// What it is about.
        what: String,
        /// The key it was sealed with.
        sealed_with: String,
        /// The keys of this process.
        has: Vec<KeyId>,
    },
    /// The right key does not open it: the row was changed by hand, or copied from another name.
    #[error("{what} cannot be read: what is stored was changed since it was sealed")]
    Tampered {
        /// What it is about.
        what: String,
    },
    /// There is none of that name, neither in the environment nor in the database.
    #[error("there is no {what}")]
    Unknown {
        /// What was asked for, such as "connection `warehouse`".
        what: String,
        /// The nearest name that exists.
        nearest: Option<String>,
    },
    /// It comes from the environment, so it is not the database's to change.
    #[error("{what} comes from the environment variable `{variable}`")]
    FromEnvironment {
        /// What it is about.
        what: String,
        /// The environment variable.
        variable: String,
    },
    /// What was given does not fit, or what the environment says.
    #[error("{message}")]
    Misfit {
        /// What is wrong.
        message: String,
        /// The next step.
        hint: String,
    },
    /// The store did not do it.
    #[error(transparent)]
    Store(#[from] store::Error),
}

impl Error {
    /// The next step, for people.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::NoKey { .. } => Some(
                "set PINWHEEL_SECRETS_KEY, `secrets.key` or `secrets.key_file` to the same key on every process; `pinwheel secrets key` prints a new one".to_owned(),
            ),
            Self::WrongKey { sealed_with, .. } => Some(format!(
                "add the key {sealed_with} to `secrets.key` behind the newest (`new,old`), or set the value again; `pinwheel secrets rotate` seals everything with the newest key"
            )),
            Self::Tampered { .. } => Some("set it again".to_owned()),
            Self::Unknown {
                nearest: Some(nearest),
                ..
            } => Some(format!("did you mean `{nearest}`?")),
            Self::Unknown { what, .. } => {
                let command = if what.starts_with("connection") { "connections" } else { "variables" };
                Some(format!("`pinwheel {command} list` shows all there are; `pinwheel {command} set` makes one"))
            }
            Self::FromEnvironment { variable, .. } => Some(format!(
                "change `{variable}` where the process is started; it wins over the database"
            )),
            Self::Misfit { hint, .. } => Some(hint.clone()),
            Self::Store(error) => error.hint(),
        }
    }

    /// Says whether trying again later may help.
    pub fn is_unavailable(&self) -> bool {
        match self {
            Self::Store(error) => error.is_unavailable(),
            Self::NoKey { .. }
            | Self::WrongKey { .. }
            | Self::Tampered { .. }
            | Self::Unknown { .. }
            | Self::FromEnvironment { .. }
            | Self::Misfit { .. } => false,
        }
    }
}

fn keys(ids: &[KeyId]) -> String {
    match ids {
        [one] => format!("only the key {one}"),
        several => format!(
            "the keys {}",
            several
                .iter()
                .map(ToString::to_string)
                .collect::<Vec<_>>()
                .join(", ")
        ),
    }
}

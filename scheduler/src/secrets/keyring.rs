//! Keys, and sealing with them: XChaCha20-Poly1305 under a random nonce, bound to the name of what is sealed.

use std::fmt;

use base64::{Engine as _, engine::general_purpose};
use chacha20poly1305::{
    XChaCha20Poly1305, XNonce,
    aead::{Aead, Generate, Key, KeyInit, Payload},
};
use sha2::{Digest, Sha256};

use super::Error;
use crate::store::Sealed;

/// The first byte of everything sealed, for a future with another form.
const VERSION: u8 = 1;
const NONCE_BYTES: usize = 24;
const KEY_BYTES: usize = 32;
/// A description of the keys, not a key: a text between them that people may write.
const COMMENT: char = '#';

/// Names a key without telling anything about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyId(String);

impl KeyId {
    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for KeyId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

/// The keys of a process, newest first. Its `Debug` form names them and holds none.
#[derive(Clone, Default)]
pub struct Keyring {
    keys: Vec<OneKey>,
}

#[derive(Clone)]
struct OneKey {
    id: KeyId,
    cipher: XChaCha20Poly1305,
}

/// Why a text holds no keys. It holds nothing of the text.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "the {number}. key for secrets is none: a key has 32 bytes, written as 44 characters of base64 or 64 of hexadecimal"
)]
pub struct KeyError {
    number: usize,
}

/// A new key, as settings take it.
pub fn new_key() -> String {
    general_purpose::STANDARD.encode(Key::<XChaCha20Poly1305>::generate())
}

impl Keyring {
    /// Reads keys, newest first, separated by commas or line ends. What follows a `#` in a line is a remark.
    ///
    /// # Errors
    /// One of them is no key.
    pub fn parse(text: &str) -> Result<Self, KeyError> {
        let words = text
            .lines()
            .map(|line| line.split(COMMENT).next().unwrap_or_default())
            .flat_map(|line| line.split([',', ' ', '\t']))
            .filter(|word| !word.trim().is_empty());
        let mut keys: Vec<OneKey> = Vec::new();
        for (index, word) in words.enumerate() {
            let key = OneKey::parse(word.trim()).ok_or(KeyError { number: index + 1 })?;
            if keys.iter().all(|known| known.id != key.id) {
                keys.push(key);
            }
        }
        Ok(Self { keys })
    }

    /// Whether there is no key.
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// The newest key's id.
    pub fn newest(&self) -> Option<&KeyId> {
        self.keys.first().map(|key| &key.id)
    }

    /// Seals with the newest key. `bound` must be the same when it is opened.
    pub(super) fn seal(&self, what: &str, bound: &[&str], plain: &[u8]) -> Result<Sealed, Error> {
        let key = self.keys.first().ok_or_else(|| Error::NoKey {
            what: what.to_owned(),
            verb: "kept",
        })?;
        let nonce = XNonce::generate();
        let aad = associated(bound);
        let payload = Payload {
            msg: plain,
            aad: &aad,
        };
        let text = key
            .cipher
            .encrypt(&nonce, payload)
            .map_err(|_| Error::Misfit {
                message: format!("{what} is too large to be sealed"),
                hint: "keep large values in a file or an object, and its address here".to_owned(),
            })?;
        let mut bytes = Vec::with_capacity(1 + NONCE_BYTES + text.len());
        bytes.push(VERSION);
        bytes.extend_from_slice(&nonce);
        bytes.extend_from_slice(&text);
        Ok(Sealed {
            key_id: key.id.0.clone(),
            bytes,
        })
    }

    /// Opens what was sealed with one of the keys.
    pub(super) fn open(
        &self,
        what: &str,
        bound: &[&str],
        key_id: &str,
        sealed: &[u8],
    ) -> Result<Vec<u8>, Error> {
        let what = || what.to_owned();
        if self.keys.is_empty() {
            return Err(Error::NoKey {
                what: what(),
                verb: "read",
            });
        }
        let Some(key) = self.keys.iter().find(|key| key.id.0 == key_id) else {
            return Err(Error::WrongKey {
                what: what(),
                sealed_with: key_id.to_owned(),
                has: self.keys.iter().map(|key| key.id.clone()).collect(),
            });
        };
        let tampered = || Error::Tampered { what: what() };
        let (version, rest) = sealed.split_first().ok_or_else(tampered)?;
        let (nonce, text) = rest.split_at_checked(NONCE_BYTES).ok_or_else(tampered)?;
        let nonce = XNonce::try_from(nonce).map_err(|_| tampered())?;
        if *version != VERSION {
            return Err(tampered());
        }
        let aad = associated(bound);
        let payload = Payload {
            msg: text,
            aad: &aad,
        };
        key.cipher.decrypt(&nonce, payload).map_err(|_| tampered())
    }
}

impl fmt::Debug for Keyring {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_list()
            .entries(self.keys.iter().map(|key| &key.id.0))
            .finish()
    }
}

impl OneKey {
    fn parse(word: &str) -> Option<Self> {
        let bytes = match word.len() {
            64 => hex::decode(word).ok()?,
            _ => general_purpose::STANDARD
                .decode(word)
                .or_else(|_| general_purpose::URL_SAFE.decode(word))
                .ok()?,
        };
        let bytes: [u8; KEY_BYTES] = bytes.try_into().ok()?;
        let digest = Sha256::new()
            .chain_update(b"pinwheel secrets key id\0")
            .chain_update(bytes)
            .finalize();
        Some(Self {
            id: KeyId(hex::encode(&digest[..4])),
            cipher: XChaCha20Poly1305::new(&bytes.into()),
        })
    }
}

/// The parts, each behind its length, so that no two lists of parts are the same bytes.
fn associated(parts: &[&str]) -> Vec<u8> {
    let mut bytes = b"pinwheel".to_vec();
    for part in parts {
        bytes.extend_from_slice(&(part.len() as u64).to_be_bytes());
        bytes.extend_from_slice(part.as_bytes());
    }
    bytes
}

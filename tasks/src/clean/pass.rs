//! The first pass: the messages of one landed object become rows that wait, keys, and dead letters.

use std::{
    collections::BTreeMap,
    io,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use polars::prelude::*;
use serde_json::json;

use super::{
    keys::{Key, Keyed, Keys},
    rows::{Held, Rows, Spare},
    spill::Spill,
};
use crate::{
    dataset::{Dataset, Fired, Rejected, Stage},
    lake::Counts,
    landing,
};

/// Names of fields come from the network: so many different ones are counted, of so many characters each.
const MOST_NEW_FIELDS: usize = 100;
const NEW_FIELD_CHARACTERS: usize = 64;
/// What is counted for all names beyond.
const OTHER_NEW_FIELDS: &str = "…";

/// What the landed objects of one job share.
pub(super) struct Pass {
    pub(super) dataset: Arc<Dataset>,
    pub(super) spill: Arc<Spill>,
    pub(super) keys: Keys,
    pub(super) spare: Spare,
    held: AtomicUsize,
    /// Rows wait in memory up to so many bytes, and in the temporary file beyond.
    in_memory: usize,
}

/// What became of one landed object.
pub(super) struct CleanedObject {
    pub(super) rows: usize,
    pub(super) bytes: usize,
    pub(super) held: Held,
    pub(super) dead: DeadLetters,
    pub(super) tally: Tally,
}

/// Counts of messages and rules.
#[derive(Debug, Default)]
pub(super) struct Tally {
    pub(super) counts: Counts,
    pub(super) rejections: BTreeMap<String, u64>,
    pub(super) fired: BTreeMap<String, u64>,
    pub(super) new_fields: BTreeMap<String, u64>,
}

/// The rejected messages of one landed object, one JSON object a line.
#[derive(Default)]
pub(super) struct DeadLetters {
    pub(super) lines: Vec<u8>,
    pub(super) count: u64,
}

/// Where a message comes from.
#[derive(Debug, Clone, Copy)]
struct Origin {
    partition: i32,
    offset: i64,
    timestamp: Option<i64>,
}

/// Why an object could not be cleaned.
#[derive(Debug, thiserror::Error)]
pub(super) enum PassError {
    #[error("{0}")]
    Unreadable(#[from] PolarsError),
    #[error("the temporary file: {0}")]
    Spill(#[from] io::Error),
}

impl Pass {
    /// For a landing of about so many records, whose rows wait in memory up to `in_memory` bytes.
    pub(super) fn new(dataset: Arc<Dataset>, records: u64, in_memory: usize) -> Self {
        let spill = Arc::new(Spill::default());
        Self {
            dataset,
            keys: Keys::new(records, Arc::clone(&spill)),
            spill,
            spare: Spare::default(),
            held: AtomicUsize::new(0),
            in_memory,
        }
    }

    /// Cleans one landed object, which becomes the chunk of that number.
    pub(super) fn clean(
        &self,
        chunk: u32,
        partition: i32,
        records: &DataFrame,
    ) -> Result<CleanedObject, PassError> {
        let offsets = records.column(landing::columns::OFFSET)?.i64()?;
        let timestamps = records.column(landing::columns::TIMESTAMP)?.i64()?;
        let message_keys = records.column(landing::columns::KEY)?.binary()?;
        let messages = records.column(landing::columns::VALUE)?.binary()?;
        let key_column = self.dataset.key();
        let mut rows = self.spare.take(&self.dataset);
        let mut keys = Vec::with_capacity(records.height());
        let mut dead = DeadLetters::default();
        let mut tally = Tally::default();
        let mut fired = FiredCounts::default();
        for (((offset, timestamp), message_key), message) in offsets
            .iter()
            .zip(timestamps.iter())
            .zip(message_keys.iter())
            .zip(messages.iter())
        {
            let offset =
                offset.ok_or_else(|| polars_err!(ComputeError: "a record has no offset"))?;
            tally.counts.landed += 1;
            match self.dataset.clean_borrowed(message) {
                Ok(row) => {
                    fired.add(&row.fired);
                    for name in &row.unknown {
                        tally.new_field(name, 1);
                    }
                    let key = Key::of(&self.dataset, &row.values[key_column]);
                    let place = rows.push(&self.dataset, &row.values, offset, timestamp);
                    // The contract refuses a row without a key.
                    if let (Some(key), Ok(row)) = (key, u32::try_from(place)) {
                        keys.push(Keyed { key, offset, row });
                    }
                }
                Err(rejected) => {
                    match rejected.stage {
                        Stage::Unreadable => tally.counts.dead_lettered += 1,
                        Stage::Contract => tally.counts.quarantined += 1,
                    }
                    let origin = Origin {
                        partition,
                        offset,
                        timestamp,
                    };
                    dead.push(&rejected, origin, message_key, message);
                    *tally.rejections.entry(rejected.rule).or_default() += 1;
                }
            }
        }
        for (rule, count) in fired.counts {
            tally.fired.insert(self.dataset.rule_name(rule), count);
        }
        self.keys.add(chunk, partition, &keys)?;
        Ok(CleanedObject {
            rows: rows.count(),
            bytes: rows.bytes(),
            held: self.hold(rows)?,
            dead,
            tally,
        })
    }

    fn hold(&self, rows: Rows) -> io::Result<Held> {
        let bytes = rows.bytes();
        let before = self.held.fetch_add(bytes, Ordering::Relaxed);
        if before + bytes <= self.in_memory {
            return Ok(Held::Memory(rows));
        }
        self.held.fetch_sub(bytes, Ordering::Relaxed);
        let held = Held::spilled(&rows, &self.spill)?;
        self.spare.give(rows);
        Ok(held)
    }
}

/// The same few rules fire on every message: they are found faster in a short list than in a map.
#[derive(Default)]
struct FiredCounts {
    counts: Vec<(Fired, u64)>,
}

impl FiredCounts {
    fn add(&mut self, fired: &[Fired]) {
        for rule in fired {
            match self.counts.iter_mut().find(|(known, _)| known == rule) {
                Some((_, count)) => *count += 1,
                None => self.counts.push((*rule, 1)),
            }
        }
    }
}

impl Tally {
    /// Adds the counts of another object.
    pub(super) fn add(&mut self, other: Self) {
        self.counts.landed += other.counts.landed;
        self.counts.dead_lettered += other.counts.dead_lettered;
        self.counts.quarantined += other.counts.quarantined;
        for (rule, count) in other.rejections {
            *self.rejections.entry(rule).or_default() += count;
        }
        for (rule, count) in other.fired {
            *self.fired.entry(rule).or_default() += count;
        }
        for (name, count) in other.new_fields {
            self.new_field(&name, count);
        }
    }

    fn new_field(&mut self, name: &str, count: u64) {
        let shown: String = name
            .chars()
            .take(NEW_FIELD_CHARACTERS)
            .map(|character| {
                if character.is_control() {
                    '\u{fffd}'
                } else {
                    character
                }
            })
            .collect();
        if let Some(known) = self.new_fields.get_mut(&shown) {
            *known += count;
        } else if self.new_fields.len() < MOST_NEW_FIELDS {
            self.new_fields.insert(shown, count);
        } else {
            *self
                .new_fields
                .entry(OTHER_NEW_FIELDS.to_owned())
                .or_default() += count;
        }
    }
}

impl DeadLetters {
    fn push(
        &mut self,
        rejected: &Rejected,
        origin: Origin,
        key: Option<&[u8]>,
        value: Option<&[u8]>,
    ) {
        let letter = json!({
            "partition": origin.partition,
            "offset": origin.offset,
            "timestamp": origin.timestamp,
            "stage": rejected.stage.word(),
            "rule": rejected.rule,
            "field": rejected.field,
            "detail": rejected.detail,
            "key": key.map(|key| BASE64.encode(key)),
            "raw": value.map(|value| BASE64.encode(value)),
        });
        self.lines.extend_from_slice(letter.to_string().as_bytes());
        self.lines.push(b'\n');
        self.count += 1;
    }
}

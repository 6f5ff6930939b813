//! Fixed intervals counted from an anchor. They follow real time; no zone's clock matters to them.

use chrono::{DateTime, Utc};
use chrono_tz::Tz;
use pinwheel_tasks::duration;

use super::Error;

/// A tick every so many seconds, one of them at the anchor.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Every {
    text: String,
    seconds: i64,
    anchor: DateTime<Utc>,
    zone: Tz,
}

impl Every {
    pub(super) fn parse(
        text: &str,
        anchor: Option<DateTime<Utc>>,
        zone: Tz,
    ) -> Result<Self, Error> {
        let interval = duration::parse(text).map_err(|error| Error {
            message: error.message,
            hint: Some(error.hint),
        })?;
        let seconds = i64::try_from(interval.as_secs()).expect("a duration is at most 100 years");
        if seconds == 0 || interval.subsec_nanos() > 0 {
            return Err(Error {
                message: format!(
                    "a schedule cannot repeat every `{text}`: its shortest step is one second"
                ),
                hint: Some("write whole seconds, such as \"90s\" or \"15m\"".to_owned()),
            });
        }
        let anchor = anchor.unwrap_or(DateTime::UNIX_EPOCH);
        // Ticks are on whole seconds.
        let anchor = DateTime::from_timestamp(anchor.timestamp(), 0)
            .expect("a date without its fraction is a date");
        Ok(Self {
            text: text.trim().to_owned(),
            seconds,
            anchor,
            zone,
        })
    }

    pub(super) fn text(&self) -> &str {
        &self.text
    }

    pub(super) fn anchor(&self) -> DateTime<Utc> {
        self.anchor
    }

    pub(super) fn zone(&self) -> Tz {
        self.zone
    }

    pub(super) fn seconds(&self) -> i64 {
        self.seconds
    }

    pub(super) fn next_after(&self, instant: DateTime<Utc>) -> Option<DateTime<Utc>> {
        let since_anchor = instant.timestamp() - self.anchor.timestamp();
        self.tick(since_anchor.div_euclid(self.seconds) + 1)
    }

    pub(super) fn previous_before(&self, instant: DateTime<Utc>) -> Option<DateTime<Utc>> {
        // The first whole second at or after the instant: a tick before that second is before the instant.
        let ceiling = instant.timestamp() + i64::from(instant.timestamp_subsec_nanos() > 0);
        let since_anchor = ceiling - self.anchor.timestamp();
        self.tick((since_anchor - 1).div_euclid(self.seconds))
    }

    fn tick(&self, number: i64) -> Option<DateTime<Utc>> {
        let since_anchor = number.checked_mul(self.seconds)?;
        DateTime::from_timestamp(self.anchor.timestamp().checked_add(since_anchor)?, 0)
    }
}

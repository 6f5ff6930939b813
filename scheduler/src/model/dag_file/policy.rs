//! Reads the keys that `[defaults]` and tasks share.

use std::time::Duration;

use pinwheel_tasks::duration;
use toml::de::DeValue;

use super::{
    diagnostic::{Report, quoted},
    table::{Table, Text, word},
};
use crate::model::{
    Concurrency, TriggerRule,
    retry::{RetryOn, RetryRules},
};

/// What `[defaults]` gives to every task and each task may override.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Policy {
    pub(super) trigger_rule: TriggerRule,
    pub(super) retries: u32,
    pub(super) retry_delay: Duration,
    pub(super) retry: RetryRules,
    pub(super) timeout: Option<Duration>,
    pub(super) queue_timeout: Option<Duration>,
    pub(super) pool: String,
    pub(super) queue: String,
    pub(super) priority: i32,
    pub(super) slots: u32,
    pub(super) allow_failure: bool,
    pub(super) concurrency_key: Option<Text>,
    pub(super) concurrency_limit: u32,
    pub(super) depends_on_previous: bool,
}

impl Default for Policy {
    /// Airflow's defaults, where it has them.
    fn default() -> Self {
        Self {
            trigger_rule: TriggerRule::AllSuccess,
            retries: 0,
            retry_delay: Duration::from_secs(300),
            retry: RetryRules::default(),
            timeout: None,
            queue_timeout: None,
            pool: "default".to_owned(),
            queue: "default".to_owned(),
            priority: 0,
            slots: 1,
            allow_failure: false,
            concurrency_key: None,
            concurrency_limit: 1,
            depends_on_previous: false,
        }
    }
}

pub(super) const POLICY_KEYS: [&str; 18] = [
    "trigger_rule",
    "retries",
    "retry_delay",
    "retry_factor",
    "retry_max_delay",
    "retry_jitter",
    "retry_on",
    "no_retry_on",
    "timeout",
    "queue_timeout",
    "pool",
    "queue",
    "priority",
    "slots",
    "allow_failure",
    "concurrency_key",
    "concurrency_limit",
    "depends_on_previous",
];

impl Policy {
    /// The policy with what a table says instead.
    pub(super) fn overridden(mut self, table: &Table<'_, '_>, report: &mut Report<'_>) -> Self {
        let rules = TriggerRule::ALL.map(|rule| (rule.as_str(), rule));
        if let Some(rule) = word(table, "trigger_rule", &rules, report) {
            self.trigger_rule = rule;
        }
        if let Some(retries) = table
            .integer("retries", 0..=1_000, report)
            .and_then(|found| u32::try_from(found).ok())
        {
            self.retries = retries;
        }
        if let Some(delay) = table.duration("retry_delay", report) {
            self.retry_delay = delay;
        }
        self.override_retries(table, report);
        if let Some(timeout) = table.limit("timeout", report) {
            self.timeout = Some(timeout);
        }
        if let Some(timeout) = table.limit("queue_timeout", report) {
            self.queue_timeout = Some(timeout);
        }
        if let Some(pool) = table.name("pool", report) {
            self.pool = pool.text;
        }
        if let Some(queue) = table.name("queue", report) {
            self.queue = queue.text;
        }
        let priorities = i64::from(i32::MIN)..=i64::from(i32::MAX);
        if let Some(priority) = table
            .integer("priority", priorities, report)
            .and_then(|found| i32::try_from(found).ok())
        {
            self.priority = priority;
        }
        if let Some(slots) = table
            .integer("slots", 1..=1_000, report)
            .and_then(|found| u32::try_from(found).ok())
        {
            self.slots = slots;
        }
        if let Some(allow_failure) = table.boolean("allow_failure", report) {
            self.allow_failure = allow_failure;
        }
        if let Some(depends) = table.boolean("depends_on_previous", report) {
            self.depends_on_previous = depends;
        }
        if let Some(key) = table.text("concurrency_key", report) {
            if key.text.trim().is_empty() {
                report.refuse(
                    key.span.clone(),
                    "`concurrency_key` is empty",
                    "",
                    Some("leave it out for no limit, or write a text such as \"customer-{{ params.customer }}\"".to_owned()),
                );
            }
            self.concurrency_key = Some(key);
        }
        if let Some(limit) = table
            .integer("concurrency_limit", 1..=10_000, report)
            .and_then(|found| u32::try_from(found).ok())
        {
            self.concurrency_limit = limit;
            if self.concurrency_key.is_none() {
                let span = table
                    .key_span("concurrency_limit")
                    .unwrap_or(table.place.clone());
                report.refuse(
                    span,
                    "`concurrency_limit` without a `concurrency_key` limits nothing",
                    "",
                    Some("add `concurrency_key`, or use a `pool`".to_owned()),
                );
            }
        }
        self
    }

    fn override_retries(&mut self, table: &Table<'_, '_>, report: &mut Report<'_>) {
        if let Some(factor) = table.number("retry_factor", 1.0..=100.0, report) {
            self.retry.factor = factor;
        }
        if let Some(jitter) = table.number("retry_jitter", 0.0..=1.0, report) {
            self.retry.jitter = jitter;
        }
        if let Some(longest) = table.duration("retry_max_delay", report) {
            self.retry.max_delay = Some(longest);
        }
        if let Some(longest) = self.retry.max_delay
            && longest < self.retry_delay
            && let Some(value) = table
                .value("retry_max_delay")
                .or_else(|| table.value("retry_delay"))
        {
            report.refuse(
                value.span(),
                format!(
                    "`retry_max_delay` of {} is shorter than `retry_delay` of {}",
                    duration::text(longest),
                    duration::text(self.retry_delay)
                ),
                "",
                Some("the first pause is `retry_delay`; later ones only grow".to_owned()),
            );
        }
        for (key, rules) in [
            ("retry_on", &mut self.retry.on),
            ("no_retry_on", &mut self.retry.not_on),
        ] {
            let Some(value) = table.value(key) else {
                continue;
            };
            let texts = table.texts(key, report);
            if matches!(value.get_ref(), DeValue::Array(items) if items.is_empty())
                && key == "retry_on"
            {
                report.refuse(
                    value.span(),
                    "`retry_on` names nothing",
                    "",
                    Some("leave it out to retry every failure, or write `retries = 0`".to_owned()),
                );
            }
            *rules = texts
                .iter()
                .filter_map(|text| failure(text, report))
                .collect();
        }
    }

    /// The limit that the key and its number make, if there is a key.
    pub(super) fn concurrency(&self) -> Option<Concurrency> {
        let key = self.concurrency_key.as_ref()?;
        Some(Concurrency {
            key: key.text.clone(),
            limit: self.concurrency_limit,
        })
    }
}

/// A kind of failure as it is written.
fn failure(written: &Text, report: &mut Report<'_>) -> Option<RetryOn> {
    if let Ok(found) = written.text.parse() {
        return Some(found);
    }
    let words = RetryOn::WORDS.iter().map(|(word, _)| *word);
    let hint = match written.text.parse::<u8>() {
        Ok(code) => Some(format!("write `\"exit:{code}\"` for an exit code")),
        Err(_) => report.guess(&written.text, words, || {
            Some(
                "write `error`, `timeout`, `panic`, `killed`, or exit codes such as `exit:75` and `exit:64-78`"
                    .to_owned(),
            )
        }),
    };
    report.refuse(
        written.span.clone(),
        format!("{} names no failure", quoted(&written.text)),
        "",
        hint,
    );
    None
}

//! What a message says: plain text, JSON, and the shape of Slack's webhooks. Never rendered values and never log lines, so
//! that what tasks work with stays inside.

use std::fmt::Write as _;

use chrono::{DateTime, Utc};
use pinwheel_tasks::duration;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{DagId, Event, MessageId, RunId};

/// So many notifications of a message are listed; the others are counted.
pub const MOST_LISTED: i64 = 20;
/// The longest error text of one task.
const LONGEST_REASON: usize = 600;

/// One message: one notification, or several of the same DAG, event and channel.
#[derive(Debug, Clone, PartialEq)]
pub struct Message {
    /// Its number; receivers know a repeated delivery by it.
    pub message_id: MessageId,
    /// The DAG.
    pub dag_id: DagId,
    /// What happened.
    pub event: Event,
    /// Where it goes.
    pub channel: String,
    /// When it was made.
    pub made_at: DateTime<Utc>,
    /// 1 for the first delivery that is tried.
    pub attempt: i32,
    /// How many notifications it stands for.
    pub count: i32,
    /// The first of them.
    pub notifications: Vec<Notification>,
}

/// One thing that happened.
#[derive(Debug, Clone, PartialEq)]
pub struct Notification {
    /// The run; `None` when it is about the DAG.
    pub run_id: Option<RunId>,
    /// When.
    pub happened_at: DateTime<Utc>,
    /// What is known of it.
    pub detail: Detail,
}

/// What is known of something that happened, as it was when it did.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Detail {
    /// Of the run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub logical_date: Option<DateTime<Utc>>,
    /// The task it is about.
    #[serde(flatten)]
    pub task: Option<TaskDetail>,
    /// Tasks that made the run fail, the first few.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub failed: Vec<TaskDetail>,
    /// How many there are.
    #[serde(skip_serializing_if = "is_zero")]
    pub failed_tasks: i64,
    /// The deadline that was missed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub deadline: Option<String>,
    /// When it was.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub due_at: Option<DateTime<Utc>>,
    /// In how many seconds a success was expected, when it is about a DAG without one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub no_success_for: Option<f64>,
    /// The last success of the DAG, if there was one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_success_at: Option<DateTime<Utc>>,
}

/// A try of a task.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct TaskDetail {
    /// The task.
    pub task: String,
    /// The item of a mapped task.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub item: Option<i32>,
    /// Which try it was.
    #[serde(rename = "try", default, skip_serializing_if = "Option::is_none")]
    pub try_number: Option<i32>,
    /// How many there may be.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tries_allowed: Option<i32>,
    /// The error's last words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The next step it named.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks for it")]
fn is_zero(number: &i64) -> bool {
    *number == 0
}

impl Message {
    /// A message that tries a channel out.
    pub fn test(channel: &str, now: DateTime<Utc>) -> Self {
        Self {
            message_id: MessageId(0),
            dag_id: DagId::new("pinwheel_test").expect("it is a name"),
            event: Event::Success,
            channel: channel.to_owned(),
            made_at: now,
            attempt: 1,
            count: 0,
            notifications: Vec::new(),
        }
    }

    /// Whether it only tries a channel out.
    fn is_test(&self) -> bool {
        self.count == 0
    }

    /// One line.
    pub fn subject(&self) -> String {
        if self.is_test() {
            return format!("[Pinwheel] test of the channel {}", self.channel);
        }
        let what = match (self.count, self.notifications.first()) {
            (1, Some(one)) => one.about(&self.dag_id),
            (count, _) => format!("{} ({count} times)", self.dag_id),
        };
        format!("[Pinwheel] {}: {what}", self.event)
    }

    /// All of it, for people. `web` is where the pages are.
    pub fn text(&self, web: &str) -> String {
        if self.is_test() {
            return format!(
                "This message tries the channel {} out. It works.\n{web}\n",
                self.channel
            );
        }
        let mut text = String::new();
        if self.count != 1 {
            let _infallible = writeln!(text, "{} × {} of {}", self.count, self.event, self.dag_id);
        }
        for one in &self.notifications {
            if self.count != 1 {
                text.push('\n');
            }
            one.write(&mut text, self.event, &self.dag_id, web);
        }
        let more = self.more();
        if more > 0 {
            let _infallible = writeln!(
                text,
                "\nand {more} more: {}",
                page(web, &format!("dags/{}", self.dag_id))
            );
        }
        text
    }

    /// All of it, for programs.
    pub fn json(&self, web: &str) -> Value {
        let notifications: Vec<Value> = self
            .notifications
            .iter()
            .map(|one| {
                let mut value = json!(one.detail);
                value["happened_at"] = json!(one.happened_at);
                value["run"] = json!(one.run_id);
                value["link"] = json!(one.link(&self.dag_id, web));
                value["summary"] = json!(one.sentence(self.event, &self.dag_id));
                value
            })
            .collect();
        json!({
            "id": self.message_id,
            "event": if self.is_test() { "test" } else { self.event.as_str() },
            "dag": if self.is_test() { None } else { Some(&self.dag_id) },
            "channel": self.channel,
            "made_at": self.made_at,
            "attempt": self.attempt,
            "count": self.count,
            "not_listed": self.more(),
            "subject": self.subject(),
            "text": self.text(web),
            "notifications": notifications,
        })
    }

    /// What Slack and those who speak like it take.
    pub fn slack(&self, web: &str) -> Value {
        let escape = |text: &str| {
            text.replace('&', "&amp;")
                .replace('<', "&lt;")
                .replace('>', "&gt;")
        };
        json!({ "text": format!("*{}*\n{}", escape(&self.subject()), escape(self.text(web).trim_end())) })
    }

    fn more(&self) -> i32 {
        let listed = i32::try_from(self.notifications.len()).unwrap_or(i32::MAX);
        (self.count - listed).max(0)
    }
}

impl Notification {
    /// The DAG, and the run or the task.
    fn about(&self, dag: &DagId) -> String {
        let mut words = dag.to_string();
        if let Some(task) = &self.detail.task {
            let _infallible = write!(words, ", task {}", task.name());
        }
        if let Some(date) = self.detail.logical_date {
            let _infallible = write!(words, ", {}", minute(date));
        }
        words
    }

    /// What happened, in one sentence.
    fn sentence(&self, event: Event, dag: &DagId) -> String {
        let run = self
            .run_id
            .map_or_else(String::new, |run| format!("run {run} of {dag}"));
        let subject = match &self.detail.task {
            Some(task) => format!("Task {} of {run}", task.name()),
            None => format!("R{}", run.strip_prefix('r').unwrap_or(&run)),
        };
        match (event, &self.detail.deadline, self.detail.no_success_for) {
            (Event::Failure, _, _) => format!("{subject} failed."),
            (Event::Retry, _, _) => format!("{subject} failed and is tried again."),
            (Event::Success, _, _) => format!("{subject} succeeded."),
            (Event::Recovery, _, _) => format!("{subject} succeeded again."),
            (Event::Deadline, Some(deadline), _) => {
                format!("{subject} missed its deadline: {}.", clean(deadline))
            }
            (Event::Deadline, None, Some(seconds)) => {
                let age = std::time::Duration::try_from_secs_f64(seconds).unwrap_or_default();
                format!("No run of {dag} has succeeded for {}.", duration::text(age))
            }
            (Event::Deadline, None, None) => format!("{subject} is late."),
        }
    }

    fn link(&self, dag: &DagId, web: &str) -> String {
        match (self.run_id, &self.detail.task) {
            (Some(run), Some(task)) => {
                let item = task
                    .item
                    .map_or_else(String::new, |item| format!("?map={item}"));
                page(web, &format!("runs/{run}/tasks/{}{item}", task.task))
            }
            (Some(run), None) => page(web, &format!("runs/{run}")),
            (None, _) => page(web, &format!("dags/{dag}")),
        }
    }

    fn write(&self, text: &mut String, event: Event, dag: &DagId, web: &str) {
        let mut line = |line: String| {
            text.push_str(&line);
            text.push('\n');
        };
        line(self.sentence(event, dag));
        if let Some(date) = self.detail.logical_date {
            line(format!("Logical date: {}", minute(date)));
        }
        if let Some(due) = self.detail.due_at {
            line(format!("Due: {}", minute(due)));
        }
        if self.detail.no_success_for.is_some() {
            let last = self
                .detail
                .last_success_at
                .map_or("never".to_owned(), minute);
            line(format!("Last success: {last}"));
        }
        for task in self.detail.task.iter().chain(&self.detail.failed) {
            if task.try_number.is_some() || task.reason.is_some() {
                line(task.words());
            }
            if let Some(hint) = &task.hint {
                line(format!("  hint: {}", clean(hint)));
            }
        }
        let listed = i64::try_from(self.detail.failed.len()).unwrap_or(i64::MAX);
        if self.detail.failed_tasks > listed {
            line(format!(
                "and {} more failed tasks",
                self.detail.failed_tasks - listed
            ));
        }
        line(self.link(dag, web));
    }
}

impl TaskDetail {
    fn name(&self) -> String {
        match self.item {
            Some(item) => format!("{}[{item}]", self.task),
            None => self.task.clone(),
        }
    }

    fn words(&self) -> String {
        let mut words = format!("Task {}", self.name());
        if let Some(number) = self.try_number {
            let _infallible = write!(words, ", try {number}");
        }
        if let Some(allowed) = self.tries_allowed {
            let _infallible = write!(words, " of {allowed}");
        }
        if let Some(reason) = &self.reason {
            let _infallible = write!(words, ": {}", clean(reason));
        }
        words
    }
}

fn minute(at: DateTime<Utc>) -> String {
    at.format("%Y-%m-%d %H:%M UTC").to_string()
}

fn page(web: &str, path: &str) -> String {
    format!("{}/{path}", web.trim_end_matches('/'))
}

/// One line of printable characters, the end of a text that is too long: an error's last words say most.
fn clean(text: &str) -> String {
    let characters: Vec<char> = text
        .trim()
        .chars()
        .map(|character| {
            if character.is_control() {
                ' '
            } else {
                character
            }
        })
        .collect();
    if characters.len() <= LONGEST_REASON {
        return characters.into_iter().collect();
    }
    let end: String = characters[characters.len() - LONGEST_REASON..]
        .iter()
        .collect();
    format!("… {end}")
}

#[cfg(test)]
mod tests {
    use super::*;

    const WEB: &str = "https://pinwheel.example.com/";

    fn at(text: &str) -> DateTime<Utc> {
        text.parse().unwrap()
    }

    fn failed(run: i64) -> Notification {
        Notification {
            run_id: Some(RunId(run)),
            happened_at: at("2026-01-02T02:10:00Z"),
            detail: Detail {
                logical_date: Some(at("2026-01-01T02:00:00Z")),
                failed: vec![TaskDetail {
                    task: "load".to_owned(),
                    try_number: Some(3),
                    tries_allowed: Some(3),
                    reason: Some("no such table\n`pins`".to_owned()),
                    hint: Some("create it first".to_owned()),
                    ..TaskDetail::default()
                }],
                failed_tasks: 2,
                ..Detail::default()
            },
        }
    }

    fn message(event: Event, count: i32, notifications: Vec<Notification>) -> Message {
        Message {
            message_id: MessageId(7),
            dag_id: DagId::new("pins_daily").unwrap(),
            event,
            channel: "ops".to_owned(),
            made_at: at("2026-01-02T02:10:01Z"),
            attempt: 1,
            count,
            notifications,
        }
    }

    #[test]
    fn a_failure_says_what_where_why_and_what_next() {
        let message = message(Event::Failure, 1, vec![failed(17)]);
        insta::assert_snapshot!(message.subject(), @"[Pinwheel] failure: pins_daily, 2026-01-01 02:00 UTC");
        insta::assert_snapshot!(message.text(WEB), @"
        Run 17 of pins_daily failed.
        Logical date: 2026-01-01 02:00 UTC
        Task load, try 3 of 3: no such table `pins`
          hint: create it first
        and 1 more failed tasks
        https://pinwheel.example.com/runs/17
        ");
        let json = message.json(WEB);
        assert_eq!(json["notifications"][0]["run"], 17);
        assert_eq!(json["notifications"][0]["failed"][0]["try"], 3);
        assert_eq!(json["count"], 1);
    }

    #[test]
    fn many_notifications_are_counted_and_the_first_ones_listed() {
        let message = message(Event::Failure, 40, vec![failed(1), failed(2)]);
        insta::assert_snapshot!(message.subject(), @"[Pinwheel] failure: pins_daily (40 times)");
        let text = message.text(WEB);
        assert!(text.starts_with("40 × failure of pins_daily"), "{text}");
        assert!(text.contains("and 38 more: https://pinwheel.example.com/dags/pins_daily"));
        assert_eq!(message.json(WEB)["not_listed"], 38);
    }

    #[test]
    fn each_event_has_a_sentence_of_its_own() {
        let sentence = |event, detail| {
            let one = Notification {
                run_id: Some(RunId(3)),
                happened_at: at("2026-01-02T02:10:00Z"),
                detail,
            };
            one.sentence(event, &DagId::new("pins").unwrap())
        };
        let load = || Detail {
            task: Some(TaskDetail {
                task: "load".to_owned(),
                ..TaskDetail::default()
            }),
            ..Detail::default()
        };
        assert_eq!(
            sentence(Event::Retry, load()),
            "Task load of run 3 of pins failed and is tried again."
        );
        assert_eq!(
            sentence(Event::Recovery, Detail::default()),
            "Run 3 of pins succeeded again."
        );
        let late = Detail {
            deadline: Some("by breakfast".to_owned()),
            ..Detail::default()
        };
        assert_eq!(
            sentence(Event::Deadline, late),
            "Run 3 of pins missed its deadline: by breakfast."
        );
        let silent = Detail {
            no_success_for: Some(93_600.0),
            ..Detail::default()
        };
        assert_eq!(
            sentence(Event::Deadline, silent),
            "No run of pins has succeeded for 1d 2h."
        );
    }

    #[test]
    fn what_is_known_is_read_back_as_it_was_stored() {
        let stored = json!({
            "logical_date": "2026-01-01T02:00:00+00:00",
            "task": "load", "try": 1, "tries_allowed": 3, "reason": "no", "hint": null, "item": null,
        });
        let detail: Detail = serde_json::from_value(stored).unwrap();
        assert_eq!(detail.task.as_ref().unwrap().try_number, Some(1));
        let of_run: Detail = serde_json::from_value(json!({ "failed_tasks": 0 })).unwrap();
        assert_eq!(of_run, Detail::default());
    }

    #[test]
    fn nothing_of_an_error_becomes_markup_of_slack() {
        let mut one = failed(1);
        one.detail.failed[0].reason = Some("<!channel> & <http://x|y>".to_owned());
        let slack = message(Event::Failure, 1, vec![one]).slack(WEB);
        let text = slack["text"].as_str().unwrap();
        assert!(
            text.contains("&lt;!channel&gt; &amp; &lt;http://x|y&gt;"),
            "{text}"
        );
    }

    #[test]
    fn of_a_long_error_the_last_words_are_told() {
        let long = format!("{}the end", "x".repeat(5_000));
        let told = clean(&long);
        assert!(told.starts_with('…') && told.ends_with("the end"));
        assert_eq!(told.chars().count(), LONGEST_REASON + 2);
    }
}

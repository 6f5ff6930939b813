//! Says what is happening while something takes longer than a second: a moving line on a terminal, plain lines for
//! everybody else. On standard error, because standard output belongs to results.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use pinwheel_scheduler::{model::TaskState, store::InstanceRow};

/// Says one thing that is happening.
pub(crate) fn say(text: &str) {
    eprintln!("pinwheel: {text}");
}

/// A moving line; nothing where standard error is no terminal.
pub(crate) struct Progress {
    bar: ProgressBar,
    what: String,
}

impl Progress {
    pub(crate) fn start(what: &str) -> Self {
        let bar = ProgressBar::new_spinner();
        let style = ProgressStyle::with_template("{spinner} {msg} ({elapsed})")
            .expect("the template is valid");
        bar.set_style(style);
        bar.set_message(what.to_owned());
        bar.enable_steady_tick(Duration::from_millis(120));
        Self {
            bar,
            what: what.to_owned(),
        }
    }

    /// So many are done.
    pub(crate) fn count(&self, done: u64, wanted: u64) {
        self.bar
            .set_message(format!("{}: {done} of {wanted}", self.what));
    }

    /// How far it is.
    pub(crate) fn note(&self, so_far: &str) {
        self.bar.set_message(format!("{}: {so_far}", self.what));
    }

    /// Where the tasks of a run are.
    pub(crate) fn tasks(&self, instances: &[InstanceRow]) {
        let tasks: Vec<_> = instances
            .iter()
            .map(|instance| format!("{} {}", mark(instance.state), instance.task_id))
            .collect();
        self.bar
            .set_message(format!("{}: {}", self.what, tasks.join("  ")));
    }

    /// Says one thing above the moving line.
    pub(crate) fn say(&self, text: &str) {
        self.bar.suspend(|| say(text));
    }

    /// Takes the line away.
    pub(crate) fn end(self) {
        self.bar.finish_and_clear();
    }
}

/// A state as one character, never told by colour alone.
fn mark(state: TaskState) -> char {
    match state {
        TaskState::Waiting | TaskState::Queued => '·',
        TaskState::Running => '▸',
        TaskState::Sleeping => '⏲',
        TaskState::Success => '✓',
        TaskState::Failed | TaskState::UpstreamFailed => '✗',
        TaskState::Skipped => '↷',
        TaskState::Cancelled => '■',
    }
}

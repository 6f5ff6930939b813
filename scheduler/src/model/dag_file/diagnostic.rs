//! One thing wrong with a DAG file, and where diagnostics are collected while a file is read.

use std::{collections::HashSet, ops::Range};

use serde::{Deserialize, Serialize};

/// One thing wrong with a DAG file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Diagnostic {
    /// The file as people know it.
    pub file: String,
    /// The line, from 1.
    pub line: usize,
    /// The column in characters, from 1.
    pub column: usize,
    /// The place in the file, in bytes.
    pub span: Range<usize>,
    /// What is wrong: lowercase, no full stop, names in backticks.
    pub message: String,
    /// What stands under the caret; empty for none.
    pub label: String,
    /// The next step.
    pub hint: Option<String>,
}

/// More than this nobody reads; it bounds the work a hostile file can cause.
const MOST_DIAGNOSTICS: usize = 1_000;

/// Every guess compares with all names there are, which is slow for a file with thousands of wrong names.
const MOST_GUESSES: u32 = 200;

/// What is known to be wrong with a file so far.
pub(super) struct Report<'a> {
    file: &'a str,
    source: &'a str,
    line_starts: Vec<usize>,
    found: Vec<Diagnostic>,
    guesses_left: u32,
}

impl<'a> Report<'a> {
    pub(super) fn new(file: &'a str, source: &'a str) -> Self {
        let line_starts = std::iter::once(0)
            .chain(source.match_indices('\n').map(|(position, _)| position + 1))
            .collect();
        Self {
            file,
            source,
            line_starts,
            found: Vec::new(),
            guesses_left: MOST_GUESSES,
        }
    }

    pub(super) fn source(&self) -> &'a str {
        self.source
    }

    /// Notes something wrong; `hint` is the next step, empty for none.
    pub(super) fn refuse(
        &mut self,
        span: Range<usize>,
        message: impl AsRef<str>,
        label: impl AsRef<str>,
        hint: impl Into<Option<String>>,
    ) {
        if self.found.len() >= MOST_DIAGNOSTICS {
            return;
        }
        let start = self.source.floor_char_boundary(span.start);
        let end = self.source.ceil_char_boundary(span.end.max(start));
        let line = self.line(start);
        self.found.push(Diagnostic {
            file: self.file.to_owned(),
            line,
            column: self.source[self.line_starts[line - 1]..start]
                .chars()
                .count()
                + 1,
            span: start..end,
            message: printable(message.as_ref()),
            label: printable(label.as_ref()),
            hint: hint.into().map(|hint| printable(&hint)),
        });
    }

    /// The line of a position, from 1.
    pub(super) fn line(&self, position: usize) -> usize {
        self.line_starts.partition_point(|start| *start <= position)
    }

    /// A hint that names the candidate nearest to `name`, or else `otherwise`.
    pub(super) fn guess<'c>(
        &mut self,
        name: &str,
        candidates: impl IntoIterator<Item = &'c str>,
        otherwise: impl FnOnce() -> Option<String>,
    ) -> Option<String> {
        if self.guesses_left == 0 {
            return otherwise();
        }
        self.guesses_left -= 1;
        match nearest(name, candidates) {
            Some(nearest) => Some(format!("did you mean {}?", quoted(nearest))),
            None => otherwise(),
        }
    }

    pub(super) fn len(&self) -> usize {
        self.found.len()
    }

    /// The lines something was noted for.
    pub(super) fn lines(&self) -> HashSet<usize> {
        self.found
            .iter()
            .map(|diagnostic| diagnostic.line)
            .collect()
    }

    /// Forgets what was noted after the first `kept` and does not pass `keep`.
    pub(super) fn retain_after(&mut self, kept: usize, keep: impl Fn(&Diagnostic) -> bool) {
        let later = self.found.split_off(kept.min(self.found.len()));
        self.found.extend(later.into_iter().filter(keep));
    }

    /// Everything noted, by position.
    pub(super) fn into_sorted(mut self) -> Vec<Diagnostic> {
        self.found.sort_by(|left, right| {
            (left.span.start, left.span.end, &left.message).cmp(&(
                right.span.start,
                right.span.end,
                &right.message,
            ))
        });
        self.found.dedup();
        self.found
    }
}

/// The candidate that `name` is most likely a slip of the pen for.
pub(in crate::model) fn nearest<'c>(
    name: &str,
    candidates: impl IntoIterator<Item = &'c str>,
) -> Option<&'c str> {
    if name.len() > 200 {
        return None;
    }
    let wanted = name.to_lowercase();
    let allowed = (wanted.chars().count() / 3).max(1);
    candidates
        .into_iter()
        .filter(|candidate| candidate.len().abs_diff(name.len()) <= 2 * allowed + 4)
        .map(|candidate| {
            (
                strsim::damerau_levenshtein(&wanted, &candidate.to_lowercase()),
                candidate,
            )
        })
        .filter(|(distance, _)| *distance <= allowed)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// A name in backticks, cut where it is too long to be read.
pub(in crate::model) fn quoted(name: &str) -> String {
    const LONGEST: usize = 80;
    match name.char_indices().nth(LONGEST) {
        None => format!("`{name}`"),
        Some((cut, _)) => format!("`{}…`", &name[..cut]),
    }
}

/// Names in backticks, separated by commas; `and more` stands for what is too many.
pub(in crate::model) fn quoted_list<'n>(names: impl IntoIterator<Item = &'n str>) -> String {
    const MOST: usize = 20;
    let mut names = names.into_iter();
    let mut shown: Vec<String> = names.by_ref().take(MOST).map(quoted).collect();
    if names.next().is_some() {
        shown.push("and more".to_owned());
    }
    shown.join(", ")
}

/// Escapes what a terminal would obey.
fn printable(text: &str) -> String {
    if !text.contains(char::is_control) {
        return text.to_owned();
    }
    text.chars()
        .flat_map(|character| {
            let (escaped, plain) = if character.is_control() {
                (Some(character.escape_debug()), None)
            } else {
                (None, Some(character))
            };
            escaped.into_iter().flatten().chain(plain)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_name_is_guessed_only_when_it_is_near() {
        assert_eq!(nearest("fetc", ["load", "fetch"]), Some("fetch"));
        assert_eq!(
            nearest("retrys", ["retries", "retry_delay"]),
            Some("retries")
        );
        assert_eq!(nearest("KIND", ["kind"]), Some("kind"));
        assert_eq!(nearest("xyz", ["kind", "with"]), None);
        assert_eq!(nearest("ab", ["cd"]), None);
    }

    #[test]
    fn nothing_in_a_message_can_steer_a_terminal() {
        let mut report = Report::new("a.toml", "x");
        report.refuse(0..1, "a\u{1b}[31mb", "c\nd", Some("e\rf".to_owned()));
        let found = report.into_sorted();
        assert_eq!(found[0].message, "a\\u{1b}[31mb");
        assert_eq!(found[0].label, "c\\nd");
        assert_eq!(found[0].hint.as_deref(), Some("e\\rf"));
    }
}

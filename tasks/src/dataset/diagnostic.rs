//! Mistakes in dataset files, with place and hint.

use std::{fmt, ops::Range};

/// Everything that is wrong with one dataset file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Error {
    /// The file as it was named to the parser.
    pub file: String,
    /// The mistakes, in the order of the file.
    pub problems: Vec<Problem>,
}

/// One mistake.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The line, counted from 1; `None` when it is about the file as a whole.
    pub line: Option<usize>,
    /// The column in characters, counted from 1.
    pub column: usize,
    /// How many characters are meant.
    pub width: usize,
    /// The text of the line.
    pub text: String,
    /// What is wrong: lowercase, no full stop, names in backticks.
    pub message: String,
    /// The next step.
    pub hint: Option<String>,
}

impl Error {
    pub(super) fn about_file(file: &str, message: &str, hint: Option<&str>) -> Self {
        let problem = Problem {
            line: None,
            column: 0,
            width: 0,
            text: String::new(),
            message: message.to_owned(),
            hint: hint.map(str::to_owned),
        };
        Self {
            file: file.to_owned(),
            problems: vec![problem],
        }
    }
}

impl Problem {
    pub(super) fn at(
        source: &str,
        span: Range<usize>,
        message: String,
        hint: Option<String>,
    ) -> Self {
        let start = floor(source, span.start);
        let line_start = source[..start].rfind('\n').map_or(0, |newline| newline + 1);
        let line_end = source[start..]
            .find('\n')
            .map_or(source.len(), |newline| start + newline);
        let end = floor(source, span.end.clamp(start, line_end.max(start)));
        Self {
            line: Some(source[..start].matches('\n').count() + 1),
            column: source[line_start..start].chars().count() + 1,
            width: source[start..end].chars().count().max(1),
            text: source[line_start..line_end]
                .trim_end_matches('\r')
                .to_owned(),
            message,
            hint,
        }
    }
}

/// The last character boundary at or before `at`.
fn floor(source: &str, at: usize) -> usize {
    (0..=at.min(source.len()))
        .rev()
        .find(|candidate| source.is_char_boundary(*candidate))
        .unwrap_or(0)
}

impl fmt::Display for Error {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.problems.iter().enumerate() {
            if index > 0 {
                formatter.write_str("\n\n")?;
            }
            write!(formatter, "error: {}", problem.message)?;
            match problem.line {
                None => write!(formatter, "\n --> {}", self.file)?,
                Some(line) => {
                    let gutter = " ".repeat(line.to_string().len());
                    let indent = " ".repeat(problem.column.saturating_sub(1));
                    write!(
                        formatter,
                        "\n{gutter}--> {}:{line}:{}",
                        self.file, problem.column
                    )?;
                    write!(
                        formatter,
                        "\n{gutter} |\n{line} | {}",
                        problem.text.replace('\t', " ")
                    )?;
                    write!(
                        formatter,
                        "\n{gutter} | {indent}{}",
                        "^".repeat(problem.width)
                    )?;
                }
            }
            if let Some(hint) = &problem.hint {
                write!(formatter, "\n  hint: {hint}")?;
            }
        }
        Ok(())
    }
}

impl std::error::Error for Error {}

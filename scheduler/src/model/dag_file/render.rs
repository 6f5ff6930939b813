//! Shows diagnostics to people: the line, a caret under the place, what was expected, the next step.

use std::fmt::Write;

use unicode_width::UnicodeWidthChar;

use super::Diagnostic;

/// Whether a report may use terminal colours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Colour {
    /// Plain text.
    Never,
    /// ANSI escapes.
    Always,
}

#[derive(Clone, Copy)]
enum Style {
    Error,
    Bold,
    Gutter,
    Hint,
}

impl Colour {
    fn paint(self, style: Style, text: &str) -> String {
        let code = match style {
            Style::Error => "1;31",
            Style::Bold => "1",
            Style::Gutter => "1;34",
            Style::Hint => "1;36",
        };
        match self {
            Self::Never => text.to_owned(),
            Self::Always => format!("\u{1b}[{code}m{text}\u{1b}[0m"),
        }
    }
}

/// A tab is shown as this many columns.
const TAB: usize = 4;

/// A longer line is cut around the place it is shown for.
const LONGEST_LINE: usize = 160;

/// Shows diagnostics of one file with the lines they are about and a caret under the place, and counts them at the end.
/// `source` is the text the diagnostics were found in (of a file that is not UTF-8, what can be read of it).
pub fn render(diagnostics: &[Diagnostic], file: &str, source: &str, colour: Colour) -> String {
    let mut report = String::new();
    for diagnostic in diagnostics {
        show(&mut report, diagnostic, source, colour);
        report.push('\n');
    }
    let count = match diagnostics.len() {
        0 => "no errors".to_owned(),
        1 => "1 error".to_owned(),
        several => format!("{several} errors"),
    };
    let style = if diagnostics.is_empty() {
        Style::Bold
    } else {
        Style::Error
    };
    line(
        &mut report,
        format_args!("{} in {file}", colour.paint(style, &count)),
    );
    report
}

fn show(report: &mut String, diagnostic: &Diagnostic, source: &str, colour: Colour) {
    let number = diagnostic.line.to_string();
    let indent = " ".repeat(number.len());
    let bar = colour.paint(Style::Gutter, "|");
    let arrow = colour.paint(Style::Gutter, "-->");
    line(
        report,
        format_args!(
            "{}: {}",
            colour.paint(Style::Error, "error"),
            colour.paint(Style::Bold, &diagnostic.message)
        ),
    );
    line(
        report,
        format_args!(
            "{indent}{arrow} {}:{}:{}",
            diagnostic.file, diagnostic.line, diagnostic.column
        ),
    );
    if let Some(excerpt) = Excerpt::of(diagnostic, source) {
        let label = if diagnostic.label.is_empty() {
            String::new()
        } else {
            format!(" {}", diagnostic.label)
        };
        let caret = colour.paint(
            Style::Error,
            &format!("{}{label}", "^".repeat(excerpt.caret_width)),
        );
        line(report, format_args!("{indent} {bar}"));
        line(
            report,
            format_args!(
                "{} {bar} {}",
                colour.paint(Style::Gutter, &number),
                excerpt.text
            ),
        );
        line(
            report,
            format_args!("{indent} {bar} {}{caret}", " ".repeat(excerpt.caret_column)),
        );
    } else if !diagnostic.label.is_empty() {
        line(report, format_args!("{indent} = {}", diagnostic.label));
    }
    if let Some(hint) = &diagnostic.hint {
        line(
            report,
            format_args!("{indent} = {}: {hint}", colour.paint(Style::Hint, "hint")),
        );
    }
}

fn line(report: &mut String, text: std::fmt::Arguments<'_>) {
    writeln!(report, "{text}").expect("writing to a string cannot fail");
}

/// A line as a terminal shows it, and where the caret stands below it, in columns.
struct Excerpt {
    text: String,
    caret_column: usize,
    caret_width: usize,
}

impl Excerpt {
    /// `None` when the source has no such line: the file was not read at all, or the source is another one.
    fn of(diagnostic: &Diagnostic, source: &str) -> Option<Self> {
        let start = source.floor_char_boundary(diagnostic.span.start);
        let line_start = source[..start].rfind('\n').map_or(0, |newline| newline + 1);
        let line = source[line_start..].lines().next()?;
        let from = (start - line_start).min(line.len());
        let to = diagnostic
            .span
            .end
            .saturating_sub(line_start)
            .clamp(from, line.len());
        let to = line.ceil_char_boundary(to);

        let first_shown = first_shown(line, from);
        let mut excerpt = Self {
            text: String::new(),
            caret_column: 0,
            caret_width: 0,
        };
        let mut column = 0;
        if first_shown > 0 {
            excerpt.text.push('…');
            column += 1;
        }
        for (position, character) in line[first_shown..].char_indices() {
            let position = first_shown + position;
            if column >= LONGEST_LINE {
                excerpt.text.push('…');
                break;
            }
            let width = push_shown(&mut excerpt.text, character);
            if position < from {
                excerpt.caret_column = column + width;
            } else if position < to {
                excerpt.caret_width += width;
            }
            column += width;
        }
        if first_shown > 0 && excerpt.caret_column == 0 {
            excerpt.caret_column = 1;
        }
        excerpt.caret_width = excerpt.caret_width.max(1);
        Some(excerpt)
    }
}

/// Where the shown part of a line begins, so that the place stands in its first half.
fn first_shown(line: &str, place: usize) -> usize {
    let before: usize = line[..place].chars().map(width).sum();
    if before < LONGEST_LINE * 3 / 4 {
        return 0;
    }
    let mut room = LONGEST_LINE / 4;
    line[..place]
        .char_indices()
        .rev()
        .take_while(|(_, character)| {
            let fits = width(*character) <= room;
            room = room.saturating_sub(width(*character));
            fits
        })
        .last()
        .map_or(place, |(position, _)| position)
}

fn width(character: char) -> usize {
    if character == '\t' {
        TAB
    } else {
        character.width().unwrap_or(1)
    }
}

/// Appends a character as it is shown, and returns its width. What a terminal would obey is shown as `�`.
fn push_shown(text: &mut String, character: char) -> usize {
    let width = width(character);
    if character == '\t' {
        text.push_str(&" ".repeat(TAB));
    } else if character.is_control() {
        text.push(char::REPLACEMENT_CHARACTER);
    } else {
        text.push(character);
    }
    width
}

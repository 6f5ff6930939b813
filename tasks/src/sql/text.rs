//! Finds the statements and the parameters in a text of SQL, as Postgres reads it: quotes, dollar quotes and comments are
//! passed over. Nothing is put into the text but the numbers of its parameters.

use crate::Failure;

/// One statement, cut at its parameters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Statement {
    parts: Vec<Part>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    Text(String),
    /// `$1` or `$name`, without the sign.
    Param(String),
}

impl Statement {
    /// The names of its parameters, each once, in the order of their numbers.
    pub(super) fn params(&self) -> Vec<&str> {
        let mut names: Vec<&str> = Vec::new();
        for part in &self.parts {
            match part {
                Part::Param(name) if !names.contains(&name.as_str()) => names.push(name),
                Part::Param(_) | Part::Text(_) => {}
            }
        }
        names
    }

    /// The statement with its parameters numbered, each written by `write`, which gets the number counted from 0.
    pub(super) fn numbered(&self, write: impl Fn(usize) -> String) -> String {
        let names = self.params();
        self.parts
            .iter()
            .map(|part| match part {
                Part::Text(text) => text.clone(),
                Part::Param(name) => write(
                    names
                        .iter()
                        .position(|known| known == name)
                        .unwrap_or_default(),
                ),
            })
            .collect()
    }

    /// Its first word in lower case, comments aside.
    pub(super) fn verb(&self) -> String {
        let Some(Part::Text(text)) = self.parts.first() else {
            return String::new();
        };
        let mut at = 0;
        while let Some(next) = skip_comment(text, at).or_else(|| {
            let first = text[at..].chars().next()?;
            (first.is_whitespace() || first == '(').then(|| at + first.len_utf8())
        }) {
            at = next;
        }
        text[at..]
            .chars()
            .take_while(char::is_ascii_alphabetic)
            .collect::<String>()
            .to_ascii_lowercase()
    }
}

/// The statements of a text, between their semicolons. Empty ones are left out.
pub(super) fn statements(sql: &str) -> Result<Vec<Statement>, Failure> {
    let mut found = Vec::new();
    let mut now = Draft::default();
    let mut at = 0;
    while let Some(first) = sql[at..].chars().next() {
        if let Some(end) = skip_comment(sql, at) {
            now.text.push_str(&sql[at..end]);
            at = end;
            continue;
        }
        if let Some(end) = skip_quoted(sql, at)? {
            now.push(&sql[at..end]);
            at = end;
            continue;
        }
        if first == ';' {
            found.extend(std::mem::take(&mut now).finish());
            at += 1;
            continue;
        }
        // `a$1` is a name.
        let is_in_name = sql[..at].chars().next_back().is_some_and(is_of_name);
        if first == '$' && !is_in_name {
            let name: String = sql[at + 1..]
                .chars()
                .take_while(|next| next.is_alphanumeric() || *next == '_')
                .collect();
            if !name.is_empty() {
                at += 1 + name.len();
                now.param(name);
                continue;
            }
        }
        let end = at + first.len_utf8();
        if first.is_whitespace() {
            now.text.push(first);
        } else {
            now.push(&sql[at..end]);
        }
        at = end;
    }
    found.extend(now.finish());
    Ok(found)
}

/// The statement as one whose only column is a row as JSON, so that no type has to be known here; of at most `limit` rows,
/// but run to its end: what it does is done for all of them, and they are counted before the first is answered.
pub(super) fn rows_as_json(statement: &str, limit: usize) -> String {
    // Postgres wants what changes something in the outermost `with`, so the statement's own is not wrapped. The statement ends
    // in a line of its own: its last line may be a comment.
    let (with, main) = match after_with(statement) {
        Some(main) => (format!("{},", &statement[..main]), &statement[main..]),
        None => ("with".to_owned(), statement),
    };
    format!(
        "{with} pinwheel_rows as (\n{main}\n) select row_to_json(pinwheel_rows)::text, count(*) over () from pinwheel_rows limit {limit}"
    )
}

/// Where what follows the list of a leading `with` begins.
fn after_with(sql: &str) -> Option<usize> {
    let mut at = 0;
    let mut depth = 0;
    // The last word or sign outside of parentheses.
    let mut last = String::new();
    while let Some(first) = sql[at..].chars().next() {
        if let Some(end) = skip_comment(sql, at) {
            at = end;
            continue;
        }
        if first.is_whitespace() {
            at += first.len_utf8();
            continue;
        }
        let (begin, end) = (at, token_end(sql, at)?);
        let token = sql[begin..end].to_ascii_lowercase();
        at = end;
        if last.is_empty() && token != "with" {
            return None;
        }
        let may_begin = !matches!(last.as_str(), "" | "with" | "recursive" | "," | "as");
        match token.as_str() {
            "(" if depth == 0 && last == ")" => return Some(begin),
            "(" => depth += 1,
            ")" => depth -= 1,
            "select" | "values" | "table" | "insert" | "update" | "delete" | "merge"
                if depth == 0 && may_begin =>
            {
                return Some(begin);
            }
            _ => {}
        }
        if depth == 0 {
            last = token;
        }
    }
    None
}

/// The end of the word, quote or sign that begins at `at`.
fn token_end(sql: &str, at: usize) -> Option<usize> {
    if let Ok(Some(end)) = skip_quoted(sql, at) {
        return Some(end);
    }
    let rest = &sql[at..];
    let first = rest.chars().next()?;
    let length = if is_of_name(first) {
        rest.find(|next| !is_of_name(next)).unwrap_or(rest.len())
    } else {
        first.len_utf8()
    };
    Some(at + length)
}

#[derive(Default)]
struct Draft {
    parts: Vec<Part>,
    text: String,
    /// It has more than space and comments.
    says_something: bool,
}

impl Draft {
    fn push(&mut self, text: &str) {
        self.text.push_str(text);
        self.says_something = true;
    }

    fn param(&mut self, name: String) {
        self.says_something = true;
        self.parts.push(Part::Text(std::mem::take(&mut self.text)));
        self.parts.push(Part::Param(name));
    }

    fn finish(mut self) -> Option<Statement> {
        self.parts.push(Part::Text(self.text));
        self.says_something
            .then_some(Statement { parts: self.parts })
    }
}

fn is_of_name(character: char) -> bool {
    character.is_alphanumeric() || matches!(character, '_' | '$')
}

/// The end of the comment that begins at `at`; one that never ends goes to the end of the text, and Postgres says so.
fn skip_comment(sql: &str, at: usize) -> Option<usize> {
    let rest = &sql[at..];
    if rest.starts_with("--") {
        return Some(rest.find('\n').map_or(sql.len(), |end| at + end + 1));
    }
    if !rest.starts_with("/*") {
        return None;
    }
    // They nest.
    let mut depth = 0;
    let mut position = at;
    while position < sql.len() {
        let rest = &sql[position..];
        if rest.starts_with("/*") {
            depth += 1;
            position += 2;
        } else if rest.starts_with("*/") {
            depth -= 1;
            position += 2;
            if depth == 0 {
                return Some(position);
            }
        } else {
            position += rest.chars().next().map_or(1, char::len_utf8);
        }
    }
    Some(sql.len())
}

/// The end of the text or name in quotes that begins at `at`.
fn skip_quoted(sql: &str, at: usize) -> Result<Option<usize>, Failure> {
    let rest = &sql[at..];
    let unended = || {
        let line = 1 + sql[..at].matches('\n').count();
        Failure::permanent(format!(
            "a quote that begins in line {line} of the SQL never ends"
        ))
    };
    let Some(first) = rest.chars().next() else {
        return Ok(None);
    };
    match first {
        '\'' | '"' => {
            let mut before = sql[..at].chars().rev();
            let has_escapes = first == '\''
                && matches!(before.next(), Some('e' | 'E'))
                && !before.next().is_some_and(is_of_name);
            let mut characters = rest.char_indices().skip(1).peekable();
            while let Some((position, character)) = characters.next() {
                if has_escapes && character == '\\' {
                    characters.next();
                } else if character == first {
                    if characters.peek().is_some_and(|(_, next)| *next == first) {
                        characters.next();
                    } else {
                        return Ok(Some(at + position + 1));
                    }
                }
            }
            Err(unended())
        }
        '$' if !sql[..at].chars().next_back().is_some_and(is_of_name) => {
            let tag: String = rest[1..]
                .chars()
                .take_while(|next| next.is_alphanumeric() || *next == '_')
                .collect();
            let is_tag = rest[1 + tag.len()..].starts_with('$')
                && !tag.starts_with(|first: char| first.is_ascii_digit());
            if !is_tag {
                return Ok(None);
            }
            let quote = format!("${tag}$");
            let inside = at + quote.len();
            let end = sql[inside..].find(&quote).ok_or_else(unended)?;
            Ok(Some(inside + end + quote.len()))
        }
        _ => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn split(sql: &str) -> Vec<String> {
        statements(sql)
            .expect("it can be read")
            .iter()
            .map(|statement| {
                statement
                    .numbered(|number| format!("<{number}>"))
                    .trim()
                    .to_owned()
            })
            .collect()
    }

    #[test]
    fn statements_end_at_semicolons_that_stand_in_no_quote_and_no_comment() {
        for (sql, found) in [
            ("select 1; select 2;", vec!["select 1", "select 2"]),
            (" ; -- nothing\n; /* no; /* more; */ */", vec![]),
            ("select ';', \";\" from t", vec!["select ';', \";\" from t"]),
            ("select 'it''s; ok'; x", vec!["select 'it''s; ok'", "x"]),
            (r"select e'\';'; y", vec![r"select e'\';'", "y"]),
            (r"select '\'; y", vec![r"select '\'", "y"]),
            (
                "do $$ begin a; end $$; z",
                vec!["do $$ begin a; end $$", "z"],
            ),
            ("do $x$ a; $$ b; $x$; é", vec!["do $x$ a; $$ b; $x$", "é"]),
        ] {
            assert_eq!(split(sql), found, "{sql}");
        }
        assert!(statements("select 'open").is_err());
        assert!(statements("do $$ open").is_err());
    }

    #[test]
    fn parameters_are_numbered_in_the_order_they_come() {
        for (sql, found) in [
            ("select $2, $1, $2", "select <0>, <1>, <0>"),
            ("select $day::date + $n", "select <0>::date + <1>"),
            (
                "select '$day', a$1, $$ $n $$, $n -- $day",
                "select '$day', a$1, $$ $n $$, <0> -- $day",
            ),
        ] {
            assert_eq!(split(sql), [found], "{sql}");
        }
    }

    #[test]
    fn a_with_of_the_statement_stays_outermost() {
        for (sql, main) in [
            ("with a as (select 1) select * from a", "select * from a"),
            (
                "-- with\nWITH RECURSIVE a (n) AS NOT MATERIALIZED (select 1), \"select\" as (values (')')) insert into b table a",
                "insert into b table a",
            ),
            (
                "with a as (delete from t returning *) (select 1)",
                "(select 1)",
            ),
            (
                "with a as (select 1) search depth first by n set o select 2",
                "select 2",
            ),
            ("with update as (select 1) values (1)", "values (1)"),
        ] {
            assert_eq!(after_with(sql).map(|at| &sql[at..]), Some(main), "{sql}");
        }
        for sql in ["select 1", "(with a as (select 1) select 2)", "with a"] {
            assert_eq!(after_with(sql), None, "{sql}");
        }
    }

    #[test]
    fn the_verb_is_the_first_word() {
        for (sql, verb) in [
            ("SELECT 1", "select"),
            ("-- why\n/* how */ (( with a as", "with"),
            ("$1", ""),
        ] {
            assert_eq!(statements(sql).unwrap()[0].verb(), verb);
        }
    }
}

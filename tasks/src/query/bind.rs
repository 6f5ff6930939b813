//! Parameters of a statement: `$name` becomes a literal.
//!
//! Literals are put in place of whole tokens, and each is tokenized again before it is used: if it is not exactly one token with
//! exactly the wanted value, the statement does not run. (Writing the parser's syntax tree out as text would not do: its `Display`
//! takes `\'` for an escaped quote, which it is not, and so lets a value end its literal.)

use std::collections::BTreeMap;

use serde_json::Value;
use sqlparser::{
    dialect::GenericDialect,
    tokenizer::{Location, Token, TokenWithSpan, Tokenizer},
};

use crate::Failure;

/// The value of each parameter: text, a number, true, false or null.
pub type Bindings = BTreeMap<String, Value>;

/// Puts literals in the place of parameters. A statement without parameters stays the very text it was.
pub(super) fn bind(sql: &str, bindings: &Bindings) -> Result<String, Failure> {
    let mut bound = String::with_capacity(sql.len());
    let mut copied = 0;
    for TokenWithSpan { token, span } in tokenize(sql)? {
        let Token::Placeholder(placeholder) = token else {
            continue;
        };
        let Some(name) = placeholder.strip_prefix('$') else {
            return Err(
                Failure::permanent(format!("`{placeholder}` is no parameter"))
                    .with_hint("parameters are written `$name`"),
            );
        };
        let start = byte_at(sql, span.start);
        bound.push_str(&sql[copied..start]);
        bound.push_str(&literal(name, bindings.get(name))?);
        copied = byte_at(sql, span.end);
    }
    bound.push_str(&sql[copied..]);
    Ok(bound)
}

fn tokenize(sql: &str) -> Result<Vec<TokenWithSpan>, Failure> {
    Tokenizer::new(&GenericDialect, sql)
        .tokenize_with_location()
        .map_err(|error| Failure::permanent(format!("this is not SQL: {error}")))
}

/// The byte at a line and column, both counted from 1, columns in characters.
fn byte_at(sql: &str, place: Location) -> usize {
    let line = usize::try_from(place.line).unwrap_or(usize::MAX);
    let column = usize::try_from(place.column).unwrap_or(usize::MAX);
    let start: usize = sql
        .split_inclusive('\n')
        .take(line.saturating_sub(1))
        .map(str::len)
        .sum();
    let rest = &sql[start..];
    start
        + rest
            .char_indices()
            .nth(column.saturating_sub(1))
            .map_or(rest.len(), |(byte, _)| byte)
}

fn literal(name: &str, value: Option<&Value>) -> Result<String, Failure> {
    let text = match value {
        Some(Value::Null) => "null".to_owned(),
        Some(Value::Bool(flag)) => flag.to_string(),
        // In parentheses, so that a sign before it cannot make a comment of two.
        Some(Value::Number(number)) => format!("({number})"),
        Some(Value::String(text)) => format!("'{}'", text.replace('\'', "''")),
        Some(Value::Array(_) | Value::Object(_)) => {
            return Err(
                Failure::permanent(format!("the parameter `{name}` is a list or a table"))
                    .with_hint("a parameter is text, a number, true, false or null"),
            );
        }
        None => {
            return Err(Failure::permanent(format!(
                "the statement needs the parameter `{name}`, which is not given"
            ))
            .with_hint(format!(
                "a `report` task gives it by `params = {{ {name} = … }}`"
            )));
        }
    };
    if let Some(Value::String(wanted)) = value {
        let tokens = tokenize(&text)?;
        let exact = matches!(tokens.as_slice(), [TokenWithSpan { token: Token::SingleQuotedString(found), .. }] if found == wanted);
        if !exact {
            return Err(Failure::permanent(format!(
                "the value of the parameter `{name}` cannot be written as a SQL text"
            )));
        }
    }
    Ok(text)
}

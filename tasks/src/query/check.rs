//! Refuses every statement that is not a read of known datasets.

use std::{collections::BTreeSet, ops::ControlFlow};

use sqlparser::{
    ast::{ObjectName, Query, Select, SetExpr, Statement, TableFactor, Visit, Visitor},
    dialect::GenericDialect,
    parser::{Parser, ParserOptions},
};

use crate::Failure;

/// Longer statements are refused: they are made by programs, and parsing takes memory.
const MOST_BYTES: usize = 256 * 1024;

/// A statement that may run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Checked {
    /// A query over these datasets.
    Query {
        /// The datasets it names.
        tables: BTreeSet<String>,
    },
    /// `show tables`.
    ShowTables,
}

/// Checks that `sql` is one query that reads nothing but `datasets`.
///
/// # Errors
/// What is not allowed, or a dataset that does not exist, with the nearest name.
pub fn check<'a>(
    sql: &str,
    datasets: impl IntoIterator<Item = &'a str>,
) -> Result<Checked, Failure> {
    if sql.len() > MOST_BYTES {
        return Err(Failure::permanent(format!(
            "the statement has {} bytes, at most {MOST_BYTES} are read",
            sql.len()
        )));
    }
    let statement = parse(sql)?;
    let query = match statement {
        Statement::Query(query) => query,
        Statement::ShowTables { .. } => return Ok(Checked::ShowTables),
        other => {
            let words = other.to_string();
            let verb = words
                .split_whitespace()
                .next()
                .unwrap_or_default()
                .to_uppercase();
            return Err(
                Failure::permanent(format!("`{verb}` is refused: queries are read-only"))
                    .with_hint("write a single `select`, `with … select` or `show tables`"),
            );
        }
    };
    let mut names = Names::default();
    if let ControlFlow::Break(refusal) = query.visit(&mut names) {
        return Err(refusal);
    }
    let known: BTreeSet<&str> = datasets.into_iter().collect();
    let mut tables = BTreeSet::new();
    for name in names.relations {
        if known.contains(name.as_str()) {
            tables.insert(name);
        } else if !names.defined.contains(&name) {
            return Err(unknown(&name, &known));
        }
    }
    Ok(Checked::Query { tables })
}

/// Parses exactly as Polars does, so that what was checked is what runs.
fn parse(sql: &str) -> Result<Statement, Failure> {
    let options = ParserOptions {
        trailing_commas: true,
        ..ParserOptions::default()
    };
    let statements = Parser::new(&GenericDialect)
        .with_options(options)
        .try_with_sql(sql)
        .and_then(|mut parser| parser.parse_statements())
        .map_err(|error| {
            let words = error.to_string();
            let words = words.trim_start_matches("sql parser error: ").to_owned();
            Failure::permanent(format!("this is not SQL: {words}"))
                .with_hint("the place is given as line and column")
        })?;
    let count = statements.len();
    let mut statements = statements.into_iter();
    match (statements.next(), count) {
        (Some(statement), 1) => Ok(statement),
        _ => Err(
            Failure::permanent(format!("expected one statement, found {count}"))
                .with_hint("run statements one by one"),
        ),
    }
}

fn unknown(name: &str, known: &BTreeSet<&str>) -> Failure {
    let nearest = known
        .iter()
        .map(|candidate| {
            (
                strsim::damerau_levenshtein(&name.to_lowercase(), candidate),
                candidate,
            )
        })
        .filter(|(distance, candidate)| *distance <= 1 + candidate.len() / 4)
        .min();
    let list: Vec<&str> = known.iter().copied().collect();
    let hint = match nearest {
        Some((_, candidate)) => format!("did you mean `{candidate}`?"),
        None if list.is_empty() => {
            "no dataset has been cleaned yet; run the DAG that cleans one".to_owned()
        }
        None => format!("the datasets are {}", list.join(", ")),
    };
    Failure::permanent(format!("unknown dataset `{name}`")).with_hint(hint)
}

/// Collects the names a query reads and defines, and stops at anything that could read something else.
#[derive(Default)]
struct Names {
    relations: BTreeSet<String>,
    defined: BTreeSet<String>,
}

fn refuse(what: &str) -> ControlFlow<Failure> {
    ControlFlow::Break(
        Failure::permanent(format!(
            "{what} is refused: a query reads cleaned datasets by their names and nothing else"
        ))
        .with_hint("`show tables` lists the datasets"),
    )
}

impl Visitor for Names {
    type Break = Failure;

    fn pre_visit_query(&mut self, query: &Query) -> ControlFlow<Failure> {
        let tables = query.with.iter().flat_map(|with| &with.cte_tables);
        self.defined
            .extend(tables.map(|table| table.alias.name.value.clone()));
        match query.body.as_ref() {
            SetExpr::Insert(_) | SetExpr::Update(_) | SetExpr::Delete(_) | SetExpr::Merge(_) => {
                refuse("a change inside a query")
            }
            SetExpr::Table(_) => refuse("`table …`"),
            SetExpr::Select(_)
            | SetExpr::Query(_)
            | SetExpr::SetOperation { .. }
            | SetExpr::Values(_) => ControlFlow::Continue(()),
        }
    }

    fn pre_visit_select(&mut self, select: &Select) -> ControlFlow<Failure> {
        if select.into.is_some() {
            refuse("`select … into`")
        } else {
            ControlFlow::Continue(())
        }
    }

    fn pre_visit_statement(&mut self, _statement: &Statement) -> ControlFlow<Failure> {
        refuse("a statement inside a query")
    }

    fn pre_visit_relation(&mut self, relation: &ObjectName) -> ControlFlow<Failure> {
        match relation.0.as_slice() {
            [part] => match part.as_ident() {
                Some(name) => {
                    self.relations.insert(name.value.clone());
                    ControlFlow::Continue(())
                }
                None => refuse(&format!("`{relation}`")),
            },
            _ => refuse(&format!("`{relation}`")),
        }
    }

    fn pre_visit_table_factor(&mut self, factor: &TableFactor) -> ControlFlow<Failure> {
        match factor {
            TableFactor::Table { args: None, .. }
            | TableFactor::Derived { .. }
            | TableFactor::NestedJoin { .. }
            | TableFactor::UNNEST { .. } => ControlFlow::Continue(()),
            TableFactor::Table { name, .. } | TableFactor::Function { name, .. } => {
                refuse(&format!("the table function `{name}`"))
            }
            _ => refuse("this kind of table"),
        }
    }
}

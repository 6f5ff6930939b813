//! Reads dataset files: TOML to [`Dataset`], every mistake at once with its place.

mod expectations;

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Range,
};

use regex::RegexSet;
use sha2::{Digest, Sha256};
use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

use super::{
    Column, ColumnType, Dataset, DerivedRule, Error, FieldRule, FieldType, Function, Nulls,
    Placeholders, Presence, Problem, Tolerance,
    timestamp::{DEFAULT_FORMATS, Format},
};

/// The column that keeps fields which the contract does not know.
const EXTRA: &str = "extra";
const MOST_COLUMNS: usize = 1000;
const DEFAULT_MAX_MESSAGE_BYTES: usize = 1024 * 1024;
const DEFAULT_TOLERANCE: Tolerance = Tolerance {
    max_share: 0.5,
    tolerated: 10,
};

const FILE_KEYS: &[&str] = &[
    "id",
    "description",
    "topic",
    "key",
    "max_message_bytes",
    "rejects",
    "fields",
    "derived",
    "expectations",
];
const REJECTS_KEYS: &[&str] = &["max_share", "tolerated"];
const FIELD_KEYS: &[&str] = &[
    "name",
    "source",
    "type",
    "description",
    "required",
    "missing",
    "nullable",
    "placeholders",
    "strip_prefix",
    "formats",
    "separator",
    "values",
    "aliases",
];
const PLACEHOLDER_KEYS: &[&str] = &["exact", "prefix", "regex"];
const DERIVED_KEYS: &[&str] = &["name", "from", "function", "description"];
const TYPES: &[&str] = &[
    "text",
    "integer",
    "float",
    "boolean",
    "timestamp",
    "count",
    "tags",
    "enum",
    "url",
    "uuid",
];
const FUNCTIONS: &[&str] = &["length", "host", "lowercase", "year"];

pub(super) fn parse(file: &str, text: &str) -> Result<Dataset, Error> {
    let (root, syntax_errors) = DeTable::parse_recoverable(text);
    let mut reader = Reader {
        text,
        problems: Vec::new(),
    };
    for error in &syntax_errors {
        let span = error.span().unwrap_or(0..0);
        reader.problems.push((
            span.start,
            Problem::at(text, span, error.message().replace('\n', " "), None),
        ));
    }
    // Values recovered from a broken file would only repeat the error in other words.
    let dataset = if syntax_errors.is_empty() {
        reader.dataset(root.get_ref())
    } else {
        None
    };
    let Reader { mut problems, .. } = reader;
    match dataset {
        Some(dataset) if problems.is_empty() => Ok(dataset),
        _ => {
            problems.sort_by_key(|(place, _)| *place);
            let problems: Vec<Problem> = problems.into_iter().map(|(_, problem)| problem).collect();
            Err(Error {
                file: file.to_owned(),
                problems,
            })
        }
    }
}

type Table<'i> = DeTable<'i>;
type Entry<'t, 'i> = &'t Spanned<DeValue<'i>>;

/// A field that was read and its column, with the place for errors about the whole.
struct ReadField {
    column: Column,
    rule: FieldRule,
    span: Range<usize>,
}

struct Reader<'s> {
    text: &'s str,
    problems: Vec<(usize, Problem)>,
}

impl Reader<'_> {
    fn problem(&mut self, span: Range<usize>, message: impl Into<String>, hint: Option<String>) {
        self.problems.push((
            span.start,
            Problem::at(self.text, span, message.into(), hint),
        ));
    }

    fn dataset(&mut self, root: &Table<'_>) -> Option<Dataset> {
        let whole = 0..0;
        self.refuse_unknown_keys(root, FILE_KEYS, "the file");
        let id = self.required_text(root, "id", &whole, "the file");
        if let (Some(id), Some(entry)) = (&id, root.get("id")) {
            self.check_identifier(id, entry.span());
        }
        let description = self.optional_text(root, "description").unwrap_or_default();
        let topic = self.optional_text(root, "topic");
        let key = self.required_text(root, "key", &whole, "the file");
        let tolerance = self.tolerance(root);
        let max_message_bytes = self
            .whole_number(root, "max_message_bytes", 1)
            .map_or(Some(DEFAULT_MAX_MESSAGE_BYTES), |number| number);

        let fields = self.fields(root);
        let mut columns: Vec<Column> = fields.iter().map(|field| field.column.clone()).collect();
        let derived = self.derived(root, &mut columns);
        let expectations = self.expectations(root, &columns);
        columns.push(Column {
            name: EXTRA.to_owned(),
            column_type: ColumnType::Json,
            nullable: true,
            description: "fields of the message that the contract does not know".to_owned(),
        });
        if columns.len() > MOST_COLUMNS {
            self.problem(
                whole.clone(),
                format!(
                    "a dataset has at most {MOST_COLUMNS} columns, found {}",
                    columns.len()
                ),
                None,
            );
        }
        let key = self.key_position(root, key.as_deref()?, &fields)?;
        let id = id?;
        Some(Dataset {
            topic: topic.unwrap_or_else(|| id.clone()),
            id,
            description,
            key,
            columns,
            fields: fields.into_iter().map(|field| field.rule).collect(),
            derived,
            expectations,
            tolerance: tolerance?,
            max_message_bytes: max_message_bytes?,
            sha256: hex::encode(Sha256::digest(self.text.as_bytes())),
        })
    }

    fn key_position(&mut self, root: &Table<'_>, key: &str, fields: &[ReadField]) -> Option<usize> {
        let span = root.get("key").map_or(0..0, Spanned::span);
        let names: Vec<&str> = fields
            .iter()
            .map(|field| field.column.name.as_str())
            .collect();
        let Some(position) = names.iter().position(|name| *name == key) else {
            self.problem(
                span,
                format!("`key` names `{key}`, which is no field"),
                nearest(key, &names),
            );
            return None;
        };
        let field = &fields[position];
        let place = field.span.clone();
        let fits = matches!(
            field.rule.field_type,
            FieldType::Text
                | FieldType::Uuid
                | FieldType::Integer
                | FieldType::Enum { .. }
                | FieldType::Url
        );
        let never_null = field.rule.nulls == Nulls::Refused;
        if !fits {
            self.problem(
                span.clone(),
                format!("`{key}` cannot be the key"),
                Some("a key is a text, uuid, url, enum or integer".to_owned()),
            );
        }
        if !never_null {
            self.problem(
                place,
                format!("the key `{key}` may be null"),
                Some("add `nullable = false` to the field".to_owned()),
            );
        }
        Some(position)
    }

    fn tolerance(&mut self, root: &Table<'_>) -> Option<Tolerance> {
        let Some(entry) = root.get("rejects") else {
            return Some(DEFAULT_TOLERANCE);
        };
        let table = self.table(entry, "rejects")?;
        self.refuse_unknown_keys(table, REJECTS_KEYS, "`rejects`");
        let max_share = match table.get("max_share") {
            None => Some(DEFAULT_TOLERANCE.max_share),
            Some(entry) => {
                let number = match entry.get_ref() {
                    DeValue::Float(number) => number.as_str().parse::<f64>().ok(),
                    DeValue::Integer(number) => number.as_str().parse::<f64>().ok(),
                    _ => None,
                };
                let share = number.filter(|share| (0.0..=1.0).contains(share));
                if share.is_none() {
                    self.problem(
                        entry.span(),
                        "`max_share` must be a number from 0 to 1",
                        Some("0.05 is five in a hundred".to_owned()),
                    );
                }
                share
            }
        };
        let tolerated = match self.whole_number(table, "tolerated", 0) {
            None => Some(DEFAULT_TOLERANCE.tolerated),
            Some(number) => number.and_then(|number| u64::try_from(number).ok()),
        };
        Some(Tolerance {
            max_share: max_share?,
            tolerated: tolerated?,
        })
    }

    fn fields(&mut self, root: &Table<'_>) -> Vec<ReadField> {
        let mut fields: Vec<ReadField> = Vec::new();
        let mut sources: BTreeSet<String> = BTreeSet::new();
        let Some(entry) = root.get("fields") else {
            self.problem(
                0..0,
                "the file has no `[[fields]]`",
                Some("list the fields of a message, in order".to_owned()),
            );
            return fields;
        };
        for (table, span) in self.tables(entry, "fields") {
            let Some(field) = self.field(table, span.clone()) else {
                continue;
            };
            if !sources.insert(field.rule.source.clone()) {
                self.problem(
                    span.clone(),
                    format!(
                        "the source `{}` is read by another field already",
                        field.rule.source
                    ),
                    None,
                );
            }
            if fields
                .iter()
                .any(|other| other.column.name == field.column.name)
            {
                self.problem(
                    span,
                    format!("the name `{}` is taken by another field", field.column.name),
                    None,
                );
            }
            fields.push(field);
        }
        fields
    }

    fn field(&mut self, table: &Table<'_>, span: Range<usize>) -> Option<ReadField> {
        let owner = table
            .get("name")
            .and_then(|name| name.get_ref().as_str())
            .map_or("a field".to_owned(), |name| format!("field `{name}`"));
        self.refuse_unknown_keys(table, FIELD_KEYS, &owner);
        let name = self.required_text(table, "name", &span, &owner);
        if let (Some(name), Some(entry)) = (&name, table.get("name")) {
            self.check_column_name(name, entry.span());
        }
        let source = self.optional_text(table, "source").or_else(|| name.clone());
        let presence = self.presence(table, &owner);
        let nulls = match self.boolean(table, "nullable") {
            Some(false) => Nulls::Refused,
            Some(true) | None => Nulls::Allowed,
        };
        let field_type = self.field_type(table, &span, &owner);
        let placeholders = self.placeholders(table, &owner);
        let strip_prefix = self.optional_text(table, "strip_prefix");
        let (name, field_type) = (name?, field_type?);
        if matches!(
            field_type,
            FieldType::Integer | FieldType::Float | FieldType::Boolean
        ) {
            for key in ["placeholders", "strip_prefix"] {
                if let Some(entry) = table.get(key) {
                    self.problem(
                        entry.span(),
                        format!("`{key}` has no meaning in {owner}, which holds no text"),
                        Some(format!("remove `{key}`")),
                    );
                }
            }
        }
        let column = Column {
            name,
            column_type: field_type.column_type(),
            nullable: nulls == Nulls::Allowed,
            description: self.optional_text(table, "description").unwrap_or_default(),
        };
        Some(ReadField {
            column,
            rule: FieldRule {
                source: source?,
                field_type,
                presence,
                nulls,
                placeholders,
                strip_prefix,
            },
            span,
        })
    }

    fn presence(&mut self, table: &Table<'_>, owner: &str) -> Presence {
        let required = match self.boolean(table, "required") {
            Some(false) => Presence::Optional,
            Some(true) | None => Presence::Required,
        };
        let Some(entry) = table.get("missing") else {
            return required;
        };
        if table.contains_key("required") {
            self.problem(
                entry.span(),
                format!("{owner} has both `required` and `missing`"),
                Some("keep one of them: `required = false` is `missing = \"null\"`".to_owned()),
            );
        }
        match self.optional_text(table, "missing").as_deref() {
            Some("null") => Presence::Optional,
            Some("quarantine") => Presence::Quarantined,
            Some("reject") | None => Presence::Required,
            Some(other) => {
                self.problem(
                    entry.span(),
                    format!("`missing` must be `null`, `quarantine` or `reject`, found `{other}`"),
                    nearest(other, &["null", "quarantine", "reject"]),
                );
                Presence::Required
            }
        }
    }

    fn field_type(
        &mut self,
        table: &Table<'_>,
        span: &Range<usize>,
        owner: &str,
    ) -> Option<FieldType> {
        let word = self.required_text(table, "type", span, owner)?;
        let place = table.get("type").map_or(0..0, Spanned::span);
        for (key, belongs_to) in [
            ("formats", "timestamp"),
            ("separator", "tags"),
            ("values", "enum"),
            ("aliases", "enum"),
        ] {
            if let Some(entry) = table
                .get(key)
                .filter(|_| word != belongs_to && TYPES.contains(&word.as_str()))
            {
                self.problem(
                    entry.span(),
                    format!("`{key}` belongs to type `{belongs_to}`, {owner} is of type `{word}`"),
                    None,
                );
            }
        }
        match word.as_str() {
            "text" => Some(FieldType::Text),
            "integer" => Some(FieldType::Integer),
            "float" => Some(FieldType::Float),
            "boolean" => Some(FieldType::Boolean),
            "timestamp" => self.formats(table),
            "count" => Some(FieldType::Count),
            "url" => Some(FieldType::Url),
            "uuid" => Some(FieldType::Uuid),
            "tags" => {
                let separator = self
                    .optional_text(table, "separator")
                    .unwrap_or_else(|| ",".to_owned());
                if separator.is_empty() {
                    self.problem(
                        table.get("separator").map_or(0..0, Spanned::span),
                        "`separator` is empty",
                        None,
                    );
                    return None;
                }
                Some(FieldType::Tags { separator })
            }
            "enum" => self.enumeration(table, span, owner),
            other => {
                let hint = nearest(other, TYPES)
                    .or_else(|| Some(format!("the types are {}", TYPES.join(", "))));
                self.problem(place, format!("unknown type `{other}` in {owner}"), hint);
                None
            }
        }
    }

    fn formats(&mut self, table: &Table<'_>) -> Option<FieldType> {
        let written: Vec<(String, Range<usize>)> = match table.get("formats") {
            Some(entry) => self.texts(entry, "formats")?,
            None => DEFAULT_FORMATS
                .iter()
                .map(|format| ((*format).to_owned(), 0..0))
                .collect(),
        };
        if written.is_empty() {
            self.problem(
                table.get("formats").map_or(0..0, Spanned::span),
                "`formats` is empty",
                Some("list how the timestamp may be written".to_owned()),
            );
            return None;
        }
        let mut formats = Vec::with_capacity(written.len());
        for (format, span) in written {
            match Format::parse(&format) {
                Ok(format) => formats.push(format),
                Err(reason) => self.problem(
                    span,
                    format!("`{format}` is no timestamp format: {reason}"),
                    Some("such as `%Y-%m-%d %H:%M:%S`".to_owned()),
                ),
            }
        }
        Some(FieldType::Timestamp { formats })
    }

    fn enumeration(
        &mut self,
        table: &Table<'_>,
        span: &Range<usize>,
        owner: &str,
    ) -> Option<FieldType> {
        let Some(entry) = table.get("values") else {
            self.problem(
                span.clone(),
                format!("{owner} is an enum without `values`"),
                Some("list what it may be".to_owned()),
            );
            return None;
        };
        let values: Vec<String> = self
            .texts(entry, "values")?
            .into_iter()
            .map(|(value, _)| value)
            .collect();
        if values.is_empty() {
            self.problem(
                entry.span(),
                "`values` is empty",
                Some("list what it may be".to_owned()),
            );
            return None;
        }
        let mut aliases = BTreeMap::new();
        if let Some(entry) = table.get("aliases") {
            for (alias, value) in self.table(entry, "aliases")? {
                let name = alias.get_ref().to_string();
                let Some(meant) = value.get_ref().as_str() else {
                    self.problem(
                        value.span(),
                        format!("alias `{name}` must name a value"),
                        None,
                    );
                    continue;
                };
                if values.contains(&name) {
                    self.problem(
                        alias.span(),
                        format!("alias `{name}` is a value itself"),
                        None,
                    );
                }
                match values.iter().position(|candidate| candidate == meant) {
                    Some(position) => {
                        aliases.insert(name, position);
                    }
                    None => {
                        let names: Vec<&str> = values.iter().map(String::as_str).collect();
                        self.problem(
                            value.span(),
                            format!("alias `{name}` means `{meant}`, which is not in `values`"),
                            nearest(meant, &names),
                        );
                    }
                }
            }
        }
        Some(FieldType::Enum { values, aliases })
    }

    fn placeholders(&mut self, table: &Table<'_>, owner: &str) -> Placeholders {
        let mut placeholders = Placeholders::default();
        let mut patterns: Vec<String> = Vec::new();
        let Some(entry) = table.get("placeholders") else {
            return placeholders;
        };
        let Some(list) = entry.get_ref().as_array() else {
            self.expected(entry, "placeholders", "a list");
            return placeholders;
        };
        for item in list.iter() {
            match item.get_ref() {
                DeValue::String(text) => placeholders.exact.push(text.to_string()),
                DeValue::Table(table) => {
                    self.refuse_unknown_keys(table, PLACEHOLDER_KEYS, "a placeholder");
                    if table.len() != 1 {
                        self.problem(
                            item.span(),
                            "a placeholder has exactly one of `exact`, `prefix` and `regex`",
                            None,
                        );
                        continue;
                    }
                    placeholders
                        .exact
                        .extend(self.optional_text(table, "exact"));
                    if let Some(prefix) = self.optional_text(table, "prefix") {
                        if prefix.is_empty() {
                            self.problem(item.span(), "an empty prefix matches everything", None);
                        }
                        placeholders.prefixes.push(prefix);
                    }
                    if let Some(pattern) = self.optional_text(table, "regex") {
                        match regex::Regex::new(&pattern) {
                            Ok(_) => patterns.push(format!("^(?:{pattern})$")),
                            Err(error) => {
                                let words = error.to_string();
                                let reason = words
                                    .lines()
                                    .last()
                                    .unwrap_or_default()
                                    .trim_start_matches("error: ")
                                    .to_owned();
                                self.problem(
                                    item.span(),
                                    format!("`{pattern}` is no regular expression: {reason}"),
                                    None,
                                );
                            }
                        }
                    }
                }
                _ => self.expected(
                    item,
                    "placeholders",
                    "a list of strings or tables such as `{ prefix = \"…\" }`",
                ),
            }
        }
        if !patterns.is_empty() {
            match RegexSet::new(&patterns) {
                Ok(set) => placeholders.patterns = Some(set),
                Err(error) => self.problem(
                    entry.span(),
                    format!("the patterns of {owner} are too large together: {error}"),
                    None,
                ),
            }
        }
        placeholders
    }

    fn derived(&mut self, root: &Table<'_>, columns: &mut Vec<Column>) -> Vec<DerivedRule> {
        let mut rules = Vec::new();
        let Some(entry) = root.get("derived") else {
            return rules;
        };
        for (table, span) in self.tables(entry, "derived") {
            let owner = "a derived column";
            self.refuse_unknown_keys(table, DERIVED_KEYS, owner);
            let name = self.required_text(table, "name", &span, owner);
            let from = self.required_text(table, "from", &span, owner);
            let word = self.required_text(table, "function", &span, owner);
            let (Some(name), Some(from), Some(word)) = (name, from, word) else {
                continue;
            };
            self.check_column_name(&name, table.get("name").map_or(0..0, Spanned::span));
            let function = match word.as_str() {
                "length" => Function::Length,
                "host" => Function::Host,
                "lowercase" => Function::Lowercase,
                "year" => Function::Year,
                other => {
                    let hint = nearest(other, FUNCTIONS)
                        .or_else(|| Some(format!("the functions are {}", FUNCTIONS.join(", "))));
                    self.problem(
                        table.get("function").map_or(0..0, Spanned::span),
                        format!("unknown function `{other}`"),
                        hint,
                    );
                    continue;
                }
            };
            let names: Vec<&str> = columns.iter().map(|column| column.name.as_str()).collect();
            let place = table.get("from").map_or(0..0, Spanned::span);
            let Some(position) = names.iter().position(|candidate| *candidate == from) else {
                let hint = nearest(&from, &names);
                self.problem(
                    place,
                    format!("`{name}` is derived from `{from}`, which is no column before it"),
                    hint,
                );
                continue;
            };
            if names.contains(&name.as_str()) {
                self.problem(
                    span,
                    format!("the name `{name}` is taken by another column"),
                    None,
                );
                continue;
            }
            let source_type = columns[position].column_type;
            let (fits, wanted) = match function {
                Function::Length => (
                    matches!(source_type, ColumnType::Text | ColumnType::TextList),
                    "text",
                ),
                Function::Host | Function::Lowercase => (source_type == ColumnType::Text, "text"),
                Function::Year => (source_type == ColumnType::Timestamp, "timestamp"),
            };
            if !fits {
                self.problem(
                    place,
                    format!("`{word}` cannot be computed from `{from}`, which is no {wanted}"),
                    None,
                );
                continue;
            }
            let description = self.optional_text(table, "description").unwrap_or_default();
            columns.push(Column {
                name,
                column_type: function.column_type(),
                nullable: true,
                description,
            });
            rules.push(DerivedRule {
                from: position,
                function,
            });
        }
        rules
    }

    fn check_identifier(&mut self, id: &str, span: Range<usize>) {
        let well_formed = id.len() <= 64
            && id.bytes().enumerate().all(|(index, byte)| {
                byte.is_ascii_lowercase() || byte == b'_' || (index > 0 && byte.is_ascii_digit())
            });
        if id.is_empty() || !well_formed {
            let hint = "use lower-case letters, digits and `_`, at most 64, a letter first";
            self.problem(
                span,
                format!("`{}` is no name that SQL can use", id.escape_debug()),
                Some(hint.to_owned()),
            );
        }
    }

    fn check_column_name(&mut self, name: &str, span: Range<usize>) {
        self.check_identifier(name, span.clone());
        if name == EXTRA || name.starts_with('_') {
            self.problem(
                span,
                format!("the column name `{name}` is reserved"),
                Some("give it another `name` and put the field's name in `source`".to_owned()),
            );
        }
    }

    fn refuse_unknown_keys(&mut self, table: &Table<'_>, known: &[&str], owner: &str) {
        for key in table.keys() {
            if !known.contains(&key.get_ref().as_ref()) {
                let hint = nearest(key.get_ref(), known)
                    .or_else(|| Some(format!("the keys are {}", known.join(", "))));
                self.problem(
                    key.span(),
                    format!("unknown key `{}` in {owner}", key.get_ref()),
                    hint,
                );
            }
        }
    }

    fn required_text(
        &mut self,
        table: &Table<'_>,
        key: &str,
        span: &Range<usize>,
        owner: &str,
    ) -> Option<String> {
        if !table.contains_key(key) {
            self.problem(
                span.clone(),
                format!("{owner} has no `{key}`"),
                Some(format!("add `{key} = \"…\"`")),
            );
            return None;
        }
        self.optional_text(table, key)
    }

    fn optional_text(&mut self, table: &Table<'_>, key: &str) -> Option<String> {
        let entry = table.get(key)?;
        match entry.get_ref().as_str() {
            Some(text) => Some(text.to_owned()),
            None => {
                self.expected(entry, key, "a string");
                None
            }
        }
    }

    fn boolean(&mut self, table: &Table<'_>, key: &str) -> Option<bool> {
        let entry = table.get(key)?;
        let value = entry.get_ref().as_bool();
        if value.is_none() {
            self.expected(entry, key, "true or false");
        }
        value
    }

    /// `None` when the key is absent, `Some(None)` when its value is wrong.
    fn whole_number(
        &mut self,
        table: &Table<'_>,
        key: &str,
        least: usize,
    ) -> Option<Option<usize>> {
        let entry = table.get(key)?;
        let number = entry
            .get_ref()
            .as_integer()
            .and_then(|number| usize::from_str_radix(number.as_str(), number.radix()).ok());
        let number = number.filter(|number| *number >= least);
        if number.is_none() {
            self.expected(entry, key, &format!("a whole number of at least {least}"));
        }
        Some(number)
    }

    fn table<'t, 'i>(&mut self, entry: Entry<'t, 'i>, key: &str) -> Option<&'t Table<'i>> {
        let table = entry.get_ref().as_table();
        if table.is_none() {
            self.expected(entry, key, "a table");
        }
        table
    }

    fn tables<'t, 'i>(
        &mut self,
        entry: Entry<'t, 'i>,
        key: &str,
    ) -> Vec<(&'t Table<'i>, Range<usize>)> {
        let Some(list) = entry.get_ref().as_array() else {
            self.expected(entry, key, &format!("a list of tables, `[[{key}]]`"));
            return Vec::new();
        };
        list.iter()
            .filter_map(|item| self.table(item, key).map(|table| (table, item.span())))
            .collect()
    }

    fn texts(&mut self, entry: Entry<'_, '_>, key: &str) -> Option<Vec<(String, Range<usize>)>> {
        let texts = entry.get_ref().as_array().and_then(|list| {
            list.iter()
                .map(|item| {
                    item.get_ref()
                        .as_str()
                        .map(|text| (text.to_owned(), item.span()))
                })
                .collect::<Option<Vec<_>>>()
        });
        if texts.is_none() {
            self.expected(entry, key, "a list of strings");
        }
        texts
    }

    fn expected(&mut self, entry: Entry<'_, '_>, key: &str, wanted: &str) {
        self.problem(
            entry.span(),
            format!(
                "`{key}` must be {wanted}, found {}",
                entry.get_ref().type_str()
            ),
            None,
        );
    }
}

fn nearest(name: &str, known: &[&str]) -> Option<String> {
    known
        .iter()
        .map(|candidate| (strsim::damerau_levenshtein(name, candidate), candidate))
        .filter(|(distance, candidate)| *distance <= 1 + candidate.len() / 4)
        .min()
        .map(|(_, candidate)| format!("did you mean `{candidate}`?"))
}

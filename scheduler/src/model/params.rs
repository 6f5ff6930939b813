//! Checks the params of a run against what the DAG declares.

use regex::Regex;
use serde_json::Value;

use super::{
    Dag, Param, ParamType, Params, ParamsError,
    dag_file::{nearest, quoted, quoted_list},
};

impl Dag {
    /// Checks `given` against the DAG's params and fills the defaults in.
    ///
    /// # Errors
    /// Every param that is unknown, missing or breaks its declaration.
    pub fn check_params(&self, given: &Params) -> Result<Params, Vec<ParamsError>> {
        let mut errors = Vec::new();
        let known = || self.params.keys().map(String::as_str);
        for name in given.keys().filter(|name| !self.params.contains_key(*name)) {
            let hint = match nearest(name, known()) {
                Some(nearest) => format!("did you mean {}?", quoted(nearest)),
                None if self.params.is_empty() => "this DAG takes no params".to_owned(),
                None => format!("this DAG takes {}", quoted_list(known())),
            };
            errors.push(ParamsError {
                param: name.clone(),
                message: format!("unknown; {hint}"),
            });
        }
        let mut checked = Params::new();
        for (name, param) in &self.params {
            let result = match (given.get(name), &param.default) {
                (Some(value), _) => param.check(value),
                (None, Some(default)) => Ok(default.clone()),
                (None, None) => Err(format!(
                    "missing; it has the type `{}` and no default",
                    param.param_type.name()
                )),
            };
            match result {
                Ok(value) => {
                    checked.insert(name.clone(), value);
                }
                Err(message) => errors.push(ParamsError {
                    param: name.clone(),
                    message,
                }),
            }
        }
        if errors.is_empty() {
            Ok(checked)
        } else {
            Err(errors)
        }
    }
}

impl Param {
    /// Reads a value from a command line or a form by the param's type. A text that does not fit stays a text, which
    /// [`Dag::check_params`] then refuses by name.
    pub fn value_from_text(&self, text: &str) -> Value {
        match self.param_type {
            ParamType::String => Value::String(text.to_owned()),
            ParamType::Integer
            | ParamType::Number
            | ParamType::Boolean
            | ParamType::List
            | ParamType::Table => {
                serde_json::from_str(text).unwrap_or_else(|_| Value::String(text.to_owned()))
            }
        }
    }

    /// The value as a run gets it, or what is wrong with it.
    pub(super) fn check(&self, value: &Value) -> Result<Value, String> {
        let value = self.check_type(value)?;
        if let Some(number) = value.as_f64() {
            if let Some(minimum) = self.minimum.filter(|minimum| number < *minimum) {
                return Err(format!("{value} is below the minimum {minimum}"));
            }
            if let Some(maximum) = self.maximum.filter(|maximum| number > *maximum) {
                return Err(format!("{value} is above the maximum {maximum}"));
            }
        }
        if let (Some(pattern), Some(text)) = (&self.pattern, value.as_str()) {
            let matches = whole_match(pattern).is_ok_and(|regex| regex.is_match(text));
            if !matches {
                return Err(format!(
                    "{} does not match the pattern {}",
                    quoted(text),
                    quoted(pattern)
                ));
            }
        }
        if !self.choices.is_empty() && !self.choices.contains(&value) {
            let choices = self
                .choices
                .iter()
                .map(shown)
                .collect::<Vec<_>>()
                .join(", ");
            return Err(format!("{} is not one of {choices}", shown(&value)));
        }
        Ok(value)
    }

    fn check_type(&self, value: &Value) -> Result<Value, String> {
        let whole = || {
            // JSON does not tell 3.0 from 3; beyond 2^53 a float no longer says which whole number was meant.
            let number = value.as_f64().filter(|number| {
                number.fract() == 0.0 && number.abs() <= 9_007_199_254_740_992.0
            })?;
            format!("{number:.0}").parse::<i64>().ok()
        };
        let found = match (self.param_type, value) {
            (ParamType::String, Value::String(_))
            | (ParamType::Number, Value::Number(_))
            | (ParamType::Boolean, Value::Bool(_))
            | (ParamType::List, Value::Array(_))
            | (ParamType::Table, Value::Object(_)) => Some(value.clone()),
            (ParamType::Integer, Value::Number(number)) => {
                number.as_i64().or_else(whole).map(Value::from)
            }
            (
                ParamType::String
                | ParamType::Integer
                | ParamType::Number
                | ParamType::Boolean
                | ParamType::List
                | ParamType::Table,
                _,
            ) => None,
        };
        found.ok_or_else(|| {
            format!(
                "expected type `{}`, found {}",
                self.param_type.name(),
                shown(value)
            )
        })
    }
}

impl ParamType {
    /// All of them, in the order of the docs.
    pub const ALL: [Self; 6] = [
        Self::String,
        Self::Integer,
        Self::Number,
        Self::Boolean,
        Self::List,
        Self::Table,
    ];

    /// The word in `type = "…"`.
    pub fn name(self) -> &'static str {
        match self {
            Self::String => "string",
            Self::Integer => "integer",
            Self::Number => "number",
            Self::Boolean => "boolean",
            Self::List => "list",
            Self::Table => "table",
        }
    }
}

/// A regular expression that must match a whole text.
pub(super) fn whole_match(pattern: &str) -> Result<Regex, regex::Error> {
    // Checked alone first: `a)(b` would be a regular expression once it is wrapped.
    Regex::new(pattern)?;
    Regex::new(&format!("^(?:{pattern})$"))
}

fn shown(value: &Value) -> String {
    quoted(&value.to_string())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde_json::json;

    use super::*;
    use crate::model::{Catchup, DagId, Overlap};

    fn param(declared: Value) -> Param {
        let mut whole = json!({
            "default": null, "description": "", "minimum": null, "maximum": null, "pattern": null, "enum": []
        });
        for (key, value) in declared.as_object().expect("a table") {
            whole[key] = value.clone();
        }
        serde_json::from_value(whole).expect("a param")
    }

    fn dag() -> Dag {
        Dag {
            id: DagId::new("d").expect("an id"),
            description: String::new(),
            schedule: None,
            start: None,
            end: None,
            catchup: Catchup::None,
            catchup_window: None,
            jitter: None,
            overlap: Overlap::Queue,
            max_active_runs: 1,
            max_active_tasks: None,
            groups: BTreeMap::new(),
            datasets: None,
            alerts: crate::model::Alerts::default(),
            timeout: None,
            params: BTreeMap::from([
                (
                    "count".to_owned(),
                    param(json!({ "type": "integer", "default": 3, "minimum": 0, "maximum": 10 })),
                ),
                (
                    "name".to_owned(),
                    param(json!({ "type": "string", "pattern": "[a-z]+" })),
                ),
                (
                    "mode".to_owned(),
                    param(json!({ "type": "string", "default": "a", "enum": ["a", "b"] })),
                ),
                (
                    "tags".to_owned(),
                    param(json!({ "type": "list", "default": [] })),
                ),
            ]),
            tasks: Vec::new(),
        }
    }

    fn check(given: Value) -> Result<Value, Vec<String>> {
        dag()
            .check_params(given.as_object().expect("a table"))
            .map(Value::Object)
            .map_err(|errors| errors.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn defaults_are_filled_in() {
        assert_eq!(
            check(json!({ "name": "x" })),
            Ok(json!({ "count": 3, "mode": "a", "name": "x", "tags": [] }))
        );
        assert_eq!(
            check(json!({ "name": "x", "count": 4.0, "tags": [1] })),
            Ok(json!({ "count": 4, "mode": "a", "name": "x", "tags": [1] }))
        );
    }

    #[test]
    fn every_error_is_named_at_once() {
        assert_eq!(
            check(json!({ "cuont": 1, "count": 11, "mode": "c", "tags": "x", "zzzzzz": 1 })),
            Err(vec![
                "param `cuont`: unknown; did you mean `count`?".to_owned(),
                "param `zzzzzz`: unknown; this DAG takes `count`, `mode`, `name`, `tags`"
                    .to_owned(),
                "param `count`: 11 is above the maximum 10".to_owned(),
                "param `mode`: `\"c\"` is not one of `\"a\"`, `\"b\"`".to_owned(),
                "param `name`: missing; it has the type `string` and no default".to_owned(),
                "param `tags`: expected type `list`, found `\"x\"`".to_owned(),
            ])
        );
        assert_eq!(
            check(json!({ "name": "xY", "count": 1.5 })),
            Err(vec![
                "param `count`: expected type `integer`, found `1.5`".to_owned(),
                "param `name`: `xY` does not match the pattern `[a-z]+`".to_owned(),
            ])
        );
    }

    #[test]
    fn a_value_on_the_command_line_is_read_by_its_type() {
        let dag = dag();
        assert_eq!(dag.params["count"].value_from_text("5"), json!(5));
        assert_eq!(dag.params["count"].value_from_text("five"), json!("five"));
        assert_eq!(dag.params["name"].value_from_text("5"), json!("5"));
        assert_eq!(dag.params["tags"].value_from_text("[1, 2]"), json!([1, 2]));
    }
}

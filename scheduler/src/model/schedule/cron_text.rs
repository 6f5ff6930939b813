//! Reads the text of a cron expression: fields, lists, ranges, steps and names as Debian's cron has them. It knows
//! numbers, not time.

use super::Error;

/// A cron expression, read.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Expression {
    /// The expression with single spaces, or the preset as written.
    pub(super) text: String,
    pub(super) seconds: Field,
    pub(super) minutes: Field,
    pub(super) hours: Field,
    pub(super) days_of_month: Field,
    pub(super) months: Field,
    /// 0 to 6 from Sunday.
    pub(super) days_of_week: Field,
}

/// One field, read.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Field {
    /// The values it allows, ascending, without repetition.
    pub(super) values: Vec<u32>,
    /// Whether its text begins with `*`.
    pub(super) star: Star,
    /// The text.
    pub(super) text: String,
}

/// Whether the text of a field begins with `*`, which in Debian's cron changes what the expression means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Star {
    Starred,
    Plain,
}

struct Unit {
    name: &'static str,
    lowest: u32,
    highest: u32,
    names: &'static [&'static str],
}

const SECOND: Unit = Unit {
    name: "second",
    lowest: 0,
    highest: 59,
    names: &[],
};
const MINUTE: Unit = Unit {
    name: "minute",
    lowest: 0,
    highest: 59,
    names: &[],
};
const HOUR: Unit = Unit {
    name: "hour",
    lowest: 0,
    highest: 23,
    names: &[],
};
const DAY_OF_MONTH: Unit = Unit {
    name: "day of month",
    lowest: 1,
    highest: 31,
    names: &[],
};
const MONTH: Unit = Unit {
    name: "month",
    lowest: 1,
    highest: 12,
    names: &[
        "jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec",
    ],
};
/// Sunday is 0 and 7.
const DAY_OF_WEEK: Unit = Unit {
    name: "day of week",
    lowest: 0,
    highest: 7,
    names: &["sun", "mon", "tue", "wed", "thu", "fri", "sat"],
};

const PRESETS: [(&str, &str); 7] = [
    ("@yearly", "0 0 1 1 *"),
    ("@annually", "0 0 1 1 *"),
    ("@monthly", "0 0 1 * *"),
    ("@weekly", "0 0 * * 0"),
    ("@daily", "0 0 * * *"),
    ("@midnight", "0 0 * * *"),
    ("@hourly", "0 * * * *"),
];

impl Field {
    pub(super) fn is_starred(&self) -> bool {
        self.star == Star::Starred
    }
}

impl Expression {
    pub(super) fn parse(text: &str) -> Result<Self, Error> {
        let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
        if text.starts_with('@') {
            let Some((_, fields)) = PRESETS.iter().find(|(preset, _)| *preset == text) else {
                return Err(unknown_preset(&text));
            };
            return Ok(Self {
                text,
                ..Self::parse(fields)?
            });
        }
        let fields: Vec<&str> = text.split(' ').filter(|field| !field.is_empty()).collect();
        let (second, rest) = match fields.as_slice() {
            rest @ [_, _, _, _, _] => ("0", rest),
            [second, rest @ ..] if rest.len() == 5 => (*second, rest),
            _ => return Err(wrong_number_of_fields(&text, fields.len())),
        };
        let mut days_of_week = DAY_OF_WEEK.parse(rest[4])?;
        for value in &mut days_of_week.values {
            *value %= 7;
        }
        days_of_week.values.sort_unstable();
        days_of_week.values.dedup();
        Ok(Self {
            seconds: SECOND.parse(second)?,
            minutes: MINUTE.parse(rest[0])?,
            hours: HOUR.parse(rest[1])?,
            days_of_month: DAY_OF_MONTH.parse(rest[2])?,
            months: MONTH.parse(rest[3])?,
            days_of_week,
            text,
        })
    }
}

impl Unit {
    fn parse(&self, text: &str) -> Result<Field, Error> {
        let mut values = Vec::new();
        for part in text.split(',') {
            if part.is_empty() {
                return Err(self.refuse(text, "an empty entry in the list `", text, "`"));
            }
            self.parse_part(text, part, &mut values)?;
        }
        values.sort_unstable();
        values.dedup();
        let star = if text.starts_with('*') {
            Star::Starred
        } else {
            Star::Plain
        };
        Ok(Field {
            values,
            star,
            text: text.to_owned(),
        })
    }

    fn parse_part(&self, field: &str, part: &str, values: &mut Vec<u32>) -> Result<(), Error> {
        let (range, step) = match part.split_once('/') {
            None => (part, None),
            Some((range, step)) => (range, Some(step)),
        };
        let (first, last) = if range == "*" {
            (self.lowest, self.highest)
        } else if let Some((first, last)) = range.split_once('-') {
            let (first, mut last) = (
                self.parse_value(field, first)?,
                self.parse_value(field, last)?,
            );
            if last == 0 && self.highest == 7 && first > 0 {
                // `fri-sun` can only mean the Sunday after.
                last = 7;
            }
            if first > last {
                return Err(self.error(
                    format!(
                        "the range `{range}` in the field `{}` runs backwards",
                        self.name
                    ),
                    format!(
                        "write it as two ranges: `{first}-{},{}-{last}`",
                        self.highest
                            .min(if self.highest == 7 { 6 } else { self.highest }),
                        self.lowest
                    ),
                ));
            }
            (first, last)
        } else {
            let value = self.parse_value(field, range)?;
            if let Some(step) = step {
                return Err(self.error(
                    format!(
                        "a step on the single value `{part}` in the field `{}`",
                        self.name
                    ),
                    format!(
                        "write the range it runs over: `{range}-{}/{step}`",
                        self.highest
                    ),
                ));
            }
            (value, value)
        };
        let step = match step {
            None => 1,
            Some(step) => {
                match step.parse::<u32>() {
                    Ok(step) if step > 0 && step <= 1000 && is_digits(&step.to_string()) => step,
                    _ => {
                        return Err(self.error(
                        format!("the step `{step}` in the field `{}` is not a number from 1 on", self.name),
                        format!("a step counts from the start of its range, as in `*/2` or `{}-{}/2`", self.lowest, self.highest),
                    ));
                    }
                }
            }
        };
        values
            .extend((first..=last).step_by(usize::try_from(step).expect("a step is at most 1000")));
        Ok(())
    }

    fn parse_value(&self, field: &str, text: &str) -> Result<u32, Error> {
        if let Some(position) = self
            .names
            .iter()
            .position(|name| name.eq_ignore_ascii_case(text))
        {
            let position = u32::try_from(position).expect("there are at most twelve names");
            // Months count from 1, days of the week from 0.
            return Ok(position + self.lowest);
        }
        if is_digits(text) {
            return match text.parse::<u32>() {
                Ok(value) if (self.lowest..=self.highest).contains(&value) => Ok(value),
                _ => Err(self.error(
                    format!("`{text}` is out of range in the field `{}`", self.name),
                    self.allowed(),
                )),
            };
        }
        Err(self.refuse(field, "`", text, "` is not understood"))
    }

    fn refuse(&self, field: &str, before: &str, what: &str, after: &str) -> Error {
        let hint = match what {
            "?" => "write `*` for any value".to_owned(),
            _ if what.contains('#')
                || what.ends_with(['L', 'W', 'l', 'w']) && self.names.is_empty() =>
            {
                format!("`L`, `W` and `#` are not part of cron; {}", self.allowed())
            }
            _ => self
                .names
                .iter()
                .find(|name| {
                    what.is_char_boundary(3)
                        && what.len() > 3
                        && name.eq_ignore_ascii_case(&what[..3])
                })
                .map_or_else(
                    || self.allowed(),
                    |name| format!("names have three letters: `{name}`"),
                ),
        };
        self.error(
            format!(
                "{before}{what}{after} in the field `{}` (`{field}`)",
                self.name
            ),
            hint,
        )
    }

    fn allowed(&self) -> String {
        let range = format!(
            "the {} is a number from {} to {}",
            self.name, self.lowest, self.highest
        );
        match self.names {
            [] => format!("{range}, `*`, a range, a step or a list of them"),
            [first, .., last] if self.highest == 7 => {
                format!("{range} (0 and 7 are Sunday) or a name from `{first}` to `{last}`")
            }
            [first, .., last] => format!("{range} or a name from `{first}` to `{last}`"),
            [only] => format!("{range} or `{only}`"),
        }
    }

    fn error(&self, message: String, hint: String) -> Error {
        Error {
            message,
            hint: Some(hint),
        }
    }
}

fn is_digits(text: &str) -> bool {
    !text.is_empty() && text.len() <= 4 && text.bytes().all(|byte| byte.is_ascii_digit())
}

fn unknown_preset(text: &str) -> Error {
    let presets = PRESETS.map(|(preset, _)| preset);
    let hint = match text {
        "@reboot" => {
            "a DAG has no boot to wait for; trigger it by hand or through the API".to_owned()
        }
        "@once" | "@none" | "@continuous" => {
            "leave `schedule` out for a DAG that only runs by hand".to_owned()
        }
        _ => presets
            .iter()
            .map(|preset| {
                (
                    strsim::damerau_levenshtein(preset, &text.to_lowercase()),
                    preset,
                )
            })
            .filter(|(distance, _)| *distance <= 2)
            .min()
            .map_or_else(
                || {
                    format!(
                        "the presets are {}",
                        presets.map(|preset| format!("`{preset}`")).join(", ")
                    )
                },
                |(_, preset)| format!("did you mean `{preset}`?"),
            ),
    };
    Error {
        message: format!("unknown preset `{text}`"),
        hint: Some(hint),
    }
}

fn wrong_number_of_fields(text: &str, found: usize) -> Error {
    let fields = if found == 1 { "field" } else { "fields" };
    let preset = PRESETS
        .iter()
        .map(|(preset, _)| preset)
        .find(|preset| preset.trim_start_matches('@').eq_ignore_ascii_case(text));
    Error {
        message: format!("expected 5 fields, or 6 with seconds first, found {found} {fields} in `{text}`"),
        hint: Some(preset.map_or_else(
            || {
                "the fields are minute, hour, day of month, month, day of week, as in `0 2 * * *` for 02:00 every day"
                    .to_owned()
            },
            |preset| format!("the preset is written `{preset}`"),
        )),
    }
}

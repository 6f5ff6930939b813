//! Charts as SVG: bars and lines, drawn by attributes alone, so that they look the same in a file of their own and in a page that
//! refuses styles. Nothing is told by colour alone: bars and lines carry their names and values as text.

use std::fmt::Write;

use serde_json::{Map, Value, json};

use super::{
    answer::{Answer, grouped, plain},
    page::escape,
};

/// A chart has at most so many bars; the table and the other files have all rows.
const MOST_BARS: usize = 60;
/// Lines beyond these could not be told apart.
const MOST_LINES: usize = 16;

const WIDTH: usize = 760;
const LABEL_WIDTH: usize = 220;
const VALUE_WIDTH: usize = 110;
const BAR_HEIGHT: usize = 22;
const LINES_HEIGHT: usize = 300;
/// Room for the labels below the lines and for the scale beside them.
const AXIS: usize = 28;
const SCALE_WIDTH: usize = 60;
const NAMES_WIDTH: usize = 150;
const NAME_HEIGHT: f64 = 14.0;

/// Readable on a light and on a dark ground.
const COLOURS: [&str; 8] = [
    "#3d85c6", "#cc6b1f", "#3f9a58", "#b9529f", "#8c7ae6", "#1f9aa5", "#c94f4f", "#8f8a2e",
];

/// A chart that a report asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chart {
    shape: Shape,
    /// The columns whose values name a bar, or a place on the lines.
    label: Vec<String>,
    /// The column of numbers.
    value: String,
    /// The column whose values are lines, or bars of one label, of their own.
    series: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Shape {
    Bars,
    Lines,
}

impl Shape {
    fn word(self) -> &'static str {
        match self {
            Self::Bars => "bars",
            Self::Lines => "lines",
        }
    }
}

impl Chart {
    /// Reads a chart from a DAG file or from a report's JSON.
    ///
    /// # Errors
    /// Says which key is missing, unknown or has the wrong type.
    pub fn read(value: &Value) -> Result<Self, String> {
        let table = value
            .as_object()
            .ok_or("a chart must be a table such as `{ type = \"bars\", label = \"category\", value = \"posts\" }`")?;
        if let Some(key) = table
            .keys()
            .find(|key| !matches!(key.as_str(), "type" | "label" | "value" | "series"))
        {
            return Err(format!(
                "unknown key `{key}` in a chart; the keys are type, label, value, series"
            ));
        }
        let text = |key: &str| match table.get(key) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text.clone())),
            Some(_) => Err(format!("`{key}` of a chart must be a string")),
        };
        let shape = match text("type")?.as_deref() {
            Some("bars") => Shape::Bars,
            Some("lines") => Shape::Lines,
            Some(other) => {
                return Err(format!(
                    "unknown type of chart `{}`; the types are bars, lines",
                    other.escape_debug()
                ));
            }
            None => return Err("a chart has no `type`; the types are bars, lines".to_owned()),
        };
        let label = match table.get("label") {
            Some(Value::String(column)) => vec![column.clone()],
            Some(Value::Array(columns)) if !columns.is_empty() => columns
                .iter()
                .map(|column| column.as_str().map(str::to_owned))
                .collect::<Option<_>>()
                .ok_or("`label` of a chart must name columns")?,
            Some(_) | None => {
                return Err("a chart needs `label`: a column, or a list of columns".to_owned());
            }
        };
        Ok(Self {
            shape,
            label,
            value: text("value")?.ok_or("a chart needs `value`: a column of numbers")?,
            series: text("series")?,
        })
    }

    /// The chart as [`Self::read`] reads it.
    pub(super) fn to_json(&self) -> Value {
        let mut table = Map::new();
        table.insert("type".to_owned(), json!(self.shape.word()));
        table.insert("label".to_owned(), json!(self.label));
        table.insert("value".to_owned(), json!(self.value));
        if let Some(series) = &self.series {
            table.insert("series".to_owned(), json!(series));
        }
        Value::Object(table)
    }

    /// What is drawn when a report asks for nothing: its first numbers by its first texts, when it has both.
    pub(super) fn usual(answer: &Answer) -> Option<Self> {
        let is_text = |data_type: &str| data_type == "str";
        let label = answer
            .columns
            .iter()
            .find(|column| is_text(&column.data_type))?;
        let value = answer.columns.iter().find(|column| column.is_numeric)?;
        Some(Self {
            shape: Shape::Bars,
            label: vec![label.name.clone()],
            value: value.name.clone(),
            series: None,
        })
    }

    /// Whether the answer has the columns.
    ///
    /// # Errors
    /// Names the column that is missing, or the one that holds no numbers.
    pub(super) fn fits(&self, answer: &Answer) -> Result<(), String> {
        for name in self.label.iter().chain(&self.series).chain([&self.value]) {
            if answer.column(name).is_none() {
                let names: Vec<&str> = answer
                    .columns
                    .iter()
                    .map(|column| column.name.as_str())
                    .collect();
                return Err(format!(
                    "a chart names the column `{name}`, the columns are {}",
                    names.join(", ")
                ));
            }
        }
        let is_numeric = answer
            .columns
            .iter()
            .any(|column| column.name == self.value && column.is_numeric);
        if is_numeric {
            Ok(())
        } else {
            Err(format!(
                "`{}`, the value of a chart, is no column of numbers",
                self.value
            ))
        }
    }

    /// The chart as a `<figure>`; `None` when there is nothing that could be drawn.
    pub fn draw(&self, answer: &Answer) -> Option<String> {
        let points = self.points(answer)?;
        // A bar begins at zero, a line at the bottom of the scale: neither can go below.
        let is_drawable = points
            .iter()
            .filter_map(|point| point.number)
            .all(|number| number >= 0.0 && number.is_finite());
        if points.is_empty() || !is_drawable {
            return None;
        }
        let by = self
            .series
            .iter()
            .chain(&self.label)
            .map(String::as_str)
            .collect::<Vec<_>>()
            .join(" and ");
        let caption = escape(&format!("{} by {by}", self.value));
        Some(match self.shape {
            Shape::Bars => bars(&points, &caption),
            Shape::Lines => lines(&points, &caption),
        })
    }

    fn points(&self, answer: &Answer) -> Option<Vec<Point>> {
        let label: Vec<usize> = self
            .label
            .iter()
            .map(|name| answer.column(name))
            .collect::<Option<_>>()?;
        let value = answer.column(&self.value)?;
        let series = match &self.series {
            Some(name) => Some(answer.column(name)?),
            None => None,
        };
        let points = answer.rows.iter().map(|row| {
            let parts: Vec<String> = label.iter().map(|column| told(&row[*column])).collect();
            Point {
                label: parts.join(" · "),
                series: series.map(|column| told(&row[column])),
                number: row[value].as_f64(),
                shown: if row[value].is_null() {
                    "(null)".to_owned()
                } else {
                    grouped(&row[value])
                },
            }
        });
        Some(points.collect())
    }
}

/// One value of a chart.
struct Point {
    label: String,
    series: Option<String>,
    number: Option<f64>,
    shown: String,
}

fn told(value: &Value) -> String {
    if value.is_null() {
        "(null)".to_owned()
    } else {
        plain(value)
    }
}

fn bars(points: &[Point], caption: &str) -> String {
    let drawn = &points[..points.len().min(MOST_BARS)];
    let most = drawn
        .iter()
        .filter_map(|point| point.number)
        .fold(0.0_f64, f64::max);
    let room = (WIDTH - LABEL_WIDTH - VALUE_WIDTH) as f64;
    let series = in_order(drawn.iter().filter_map(|point| point.series.as_deref()));
    let mut body = String::new();
    let mut line = 0;
    let mut above: Option<&str> = None;
    for point in drawn {
        // With series the label stands once, above its bars, and each bar has the name of its series.
        let name = match &point.series {
            None => &point.label,
            Some(series) => {
                if above != Some(&point.label) {
                    let base = line * BAR_HEIGHT + 15;
                    push(
                        &mut body,
                        format_args!(
                            "<text x=\"0\" y=\"{base}\" font-weight=\"600\">{}</text>\n",
                            escape(&shortened(&point.label, 90))
                        ),
                    );
                    line += 1;
                    above = Some(&point.label);
                }
                series
            }
        };
        let colour = point
            .series
            .as_deref()
            .and_then(|own| series.iter().position(|known| *known == own))
            .unwrap_or_default();
        let width = point
            .number
            .filter(|_| most > 0.0)
            .map_or(0.0, |number| number / most * room);
        let top = line * BAR_HEIGHT;
        let base = top + 15;
        push(
            &mut body,
            format_args!(
                "<text x=\"{}\" y=\"{base}\" text-anchor=\"end\">{}</text><rect x=\"{LABEL_WIDTH}\" y=\"{}\" width=\"{width:.1}\" height=\"{}\" fill=\"{}\"/>\
                 <text x=\"{:.1}\" y=\"{base}\">{}</text>\n",
                LABEL_WIDTH - 8,
                escape(&shortened(name, 30)),
                top + 3,
                BAR_HEIGHT - 6,
                COLOURS[colour % COLOURS.len()],
                LABEL_WIDTH as f64 + width + 6.0,
                escape(&point.shown),
            ),
        );
        line += 1;
    }
    figure(
        line * BAR_HEIGHT,
        &body,
        caption,
        points.len() - drawn.len(),
    )
}

fn lines(points: &[Point], caption: &str) -> String {
    let labels = in_order(points.iter().map(|point| point.label.as_str()));
    let all = in_order(points.iter().map(own_series));
    let series = &all[..all.len().min(MOST_LINES)];
    let most = points
        .iter()
        .filter(|point| series.contains(&own_series(point)))
        .filter_map(|point| point.number)
        .fold(0.0_f64, f64::max);
    let step = nice_step(most);
    let top = step * (most / step).ceil().max(1.0);
    let right = (WIDTH - NAMES_WIDTH) as f64;
    let bottom = (LINES_HEIGHT - AXIS) as f64;
    let across = (right - SCALE_WIDTH as f64 - 10.0) / (labels.len().max(2) - 1) as f64;
    let x = |index: usize| SCALE_WIDTH as f64 + 10.0 + index as f64 * across;
    let y = |number: f64| 10.0 + (bottom - 10.0) * (1.0 - number / top);
    let mut body = String::new();
    let marks = (top / step).round() as usize;
    for tick in (0..=marks).map(|mark| mark as f64 * step) {
        let shown = if step < 1.0 {
            format!("{tick:.2}")
        } else {
            format!("{tick:.0}")
        };
        push(
            &mut body,
            format_args!(
                "<line x1=\"{SCALE_WIDTH}\" x2=\"{right:.1}\" y1=\"{0:.1}\" y2=\"{0:.1}\" stroke=\"currentColor\" stroke-opacity=\"0.2\"/>\
                 <text x=\"{1}\" y=\"{2:.1}\" text-anchor=\"end\">{3}</text>\n",
                y(tick),
                SCALE_WIDTH - 8,
                y(tick) + 4.0,
                grouped(&Value::String(shown)),
            ),
        );
    }
    // Labels that would lie on each other are left out.
    let every = labels.len().div_ceil(12).max(1);
    for (index, label) in labels.iter().enumerate().step_by(every) {
        push(
            &mut body,
            format_args!(
                "<text x=\"{:.1}\" y=\"{}\" text-anchor=\"middle\">{}</text>\n",
                x(index),
                LINES_HEIGHT - 8,
                escape(&shortened(label, 14))
            ),
        );
    }
    let mut names = Vec::new();
    for (index, name) in series.iter().enumerate() {
        let colour = COLOURS[index % COLOURS.len()];
        // The second round of colours is dashed.
        let dash = if index < COLOURS.len() {
            ""
        } else {
            " stroke-dasharray=\"6 4\""
        };
        let mut path = String::new();
        let mut dots = String::new();
        let mut last = None;
        let mut is_broken = true;
        for (place, label) in labels.iter().enumerate() {
            let point = points
                .iter()
                .find(|point| own_series(point) == *name && point.label == *label);
            let Some((point, number)) = point.and_then(|point| Some((point, point.number?))) else {
                is_broken = true;
                continue;
            };
            let (across, down) = (x(place), y(number));
            let verb = if is_broken { 'M' } else { 'L' };
            push(&mut path, format_args!("{verb}{across:.1} {down:.1}"));
            push(
                &mut dots,
                format_args!(
                    "<circle cx=\"{across:.1}\" cy=\"{down:.1}\" r=\"3\" fill=\"{colour}\"><title>{}</title></circle>",
                    escape(&format!("{name} {label}: {}", point.shown)),
                ),
            );
            is_broken = false;
            last = Some(down);
        }
        push(
            &mut body,
            format_args!(
                "<path d=\"{path}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\"{dash}/>{dots}\n"
            ),
        );
        if let Some(down) = last.filter(|_| !name.is_empty()) {
            names.push((down, *name, colour));
        }
    }
    for (down, name, colour) in apart(names, (LINES_HEIGHT - AXIS) as f64) {
        push(
            &mut body,
            format_args!(
                "<text x=\"{:.1}\" y=\"{:.1}\"><tspan fill=\"{colour}\">■</tspan> {}</text>\n",
                right + 10.0,
                down + 4.0,
                escape(&shortened(name, 20))
            ),
        );
    }
    let hidden = all[series.len()..].to_vec();
    let left_out = points
        .iter()
        .filter(|point| hidden.contains(&own_series(point)))
        .count();
    figure(LINES_HEIGHT, &body, caption, left_out)
}

/// Without a column for series there is one line, without a name.
fn own_series(point: &Point) -> &str {
    point.series.as_deref().unwrap_or_default()
}

fn figure(height: usize, body: &str, caption: &str, left_out: usize) -> String {
    let more = if left_out > 0 {
        format!("; {left_out} more in the table")
    } else {
        String::new()
    };
    format!(
        "<figure>\n<svg viewBox=\"0 0 {WIDTH} {height}\" width=\"100%\" role=\"img\" aria-label=\"{caption}\" fill=\"currentColor\" font-size=\"13\" font-family=\"system-ui,sans-serif\">\n\
         {body}</svg>\n<figcaption>{caption}{more}</figcaption>\n</figure>\n"
    )
}

/// Different texts in the order in which they come first.
fn in_order<'t>(texts: impl Iterator<Item = &'t str>) -> Vec<&'t str> {
    let mut seen = Vec::new();
    for text in texts {
        if !seen.contains(&text) {
            seen.push(text);
        }
    }
    seen
}

/// The distance of the marks of a scale: 1, 2 or 5 times a power of ten, three to six of them.
fn nice_step(most: f64) -> f64 {
    if most <= 0.0 {
        return 1.0;
    }
    let rough = most / 5.0;
    let power = 10.0_f64.powf(rough.log10().floor());
    [1.0, 2.0, 5.0, 10.0]
        .into_iter()
        .map(|times| times * power)
        .find(|step| *step >= rough)
        .unwrap_or(10.0 * power)
}

/// Moves names that would lie on each other apart, as little as it takes and within `bottom`.
fn apart<'n>(
    mut names: Vec<(f64, &'n str, &'static str)>,
    bottom: f64,
) -> Vec<(f64, &'n str, &'static str)> {
    names.sort_by(|one, other| one.0.total_cmp(&other.0));
    let mut least = f64::NEG_INFINITY;
    for name in &mut names {
        name.0 = name.0.max(least);
        least = name.0 + NAME_HEIGHT;
    }
    let mut highest = bottom;
    for name in names.iter_mut().rev() {
        name.0 = name.0.min(highest);
        highest = name.0 - NAME_HEIGHT;
    }
    names
}

fn shortened(label: &str, longest: usize) -> String {
    if label.chars().count() <= longest {
        label.to_owned()
    } else {
        label.chars().take(longest - 1).chain(['…']).collect()
    }
}

fn push(text: &mut String, more: std::fmt::Arguments<'_>) {
    text.write_fmt(more).expect("a string takes everything");
}

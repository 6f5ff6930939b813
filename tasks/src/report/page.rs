//! A report as one HTML file: title, bar chart, table, SQL. No script, nothing loaded from elsewhere, every value escaped.

use polars::prelude::*;

use crate::query::text_of;

/// What the page says around the rows.
pub(super) struct Written {
    pub(super) title: String,
    pub(super) description: String,
    pub(super) sql: String,
    pub(super) dag_id: String,
    pub(super) run_id: i64,
    pub(super) logical_date: String,
}

/// A chart has at most so many bars, a table at most so many rows; the other formats have them all.
const MOST_BARS: usize = 40;
const MOST_ROWS: usize = 1_000;

const BAR_HEIGHT: usize = 22;
const LABEL_WIDTH: usize = 190;
const CHART_WIDTH: usize = 760;
const VALUE_WIDTH: usize = 110;

const STYLE: &str = "\
:root{color-scheme:light dark;--ink:#1b2733;--soft:#5b6b7b;--line:#d7dee5;--bar:#2f6fb2;--ground:#fff}\
@media(prefers-color-scheme:dark){:root{--ink:#e6ebf0;--soft:#9aa8b5;--line:#33404c;--bar:#6aa9e9;--ground:#12181e}}\
body{font:16px/1.5 system-ui,sans-serif;color:var(--ink);background:var(--ground);max-width:60rem;margin:2rem auto;padding:0 1rem}\
h1{margin-bottom:0}.soft{color:var(--soft)}figure{margin:1.5rem 0}figcaption{color:var(--soft)}\
svg{width:100%;height:auto}svg rect{fill:var(--bar)}svg text{fill:var(--ink);font:13px system-ui,sans-serif}\
.scroll{overflow-x:auto}table{border-collapse:collapse}th,td{padding:.3rem .8rem;border-bottom:1px solid var(--line);text-align:left}\
.number{text-align:right;font-variant-numeric:tabular-nums}pre{overflow-x:auto;border:1px solid var(--line);padding:1rem}";

/// The page.
pub(super) fn html(written: &Written, rows: &DataFrame) -> PolarsResult<String> {
    let title = escape(&written.title);
    let mut page = format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n<meta name=\"viewport\" content=\"width=device-width\">\n\
         <meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">\n\
         <title>{title}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<h1>{title}</h1>\n<p class=\"soft\">{}, run {}, logical date {}</p>\n",
        escape(&written.dag_id),
        written.run_id,
        escape(&written.logical_date),
    );
    if !written.description.is_empty() {
        page.push_str(&format!("<p>{}</p>\n", escape(&written.description)));
    }
    if let Some((labels, values)) = charted(rows) {
        page.push_str(&chart(labels, values)?);
    }
    page.push_str(&table(rows)?);
    page.push_str(&format!(
        "<details><summary>SQL</summary><pre>{}</pre></details>\n</body>\n</html>\n",
        escape(&written.sql)
    ));
    Ok(page)
}

/// The first column of text and the first of numbers that are not negative, when there are both.
fn charted(rows: &DataFrame) -> Option<(&Column, &Column)> {
    if rows.height() == 0 {
        return None;
    }
    let labels = rows
        .columns()
        .iter()
        .find(|column| *column.dtype() == DataType::String)?;
    let values = rows
        .columns()
        .iter()
        .find(|column| column.dtype().is_primitive_numeric())?;
    let drawable = (0..rows.height())
        .all(|index| number(values, index).is_none_or(|value| value >= 0.0 && value.is_finite()));
    drawable.then_some((labels, values))
}

fn number(column: &Column, index: usize) -> Option<f64> {
    column.get(index).ok()?.try_extract::<f64>().ok()
}

fn chart(labels: &Column, values: &Column) -> PolarsResult<String> {
    let bars = values.len().min(MOST_BARS);
    let most = (0..bars)
        .filter_map(|index| number(values, index))
        .fold(0.0_f64, f64::max);
    let height = bars * BAR_HEIGHT;
    let room = (CHART_WIDTH - LABEL_WIDTH - VALUE_WIDTH) as f64;
    let caption = format!("{} by {}", escape(values.name()), escape(labels.name()));
    let mut svg = format!(
        "<figure>\n<svg viewBox=\"0 0 {CHART_WIDTH} {height}\" role=\"img\" aria-label=\"{caption}\">\n"
    );
    for index in 0..bars {
        let label = labels.get(index)?;
        let label = if matches!(label, AnyValue::Null) {
            "(null)".to_owned()
        } else {
            text_of(&label)
        };
        let value = values.get(index)?;
        let width = number(values, index)
            .filter(|_| most > 0.0)
            .map_or(0.0, |value| value / most * room);
        let shown = if matches!(value, AnyValue::Null) {
            "(null)".to_owned()
        } else {
            grouped(&text_of(&value))
        };
        let top = index * BAR_HEIGHT;
        let base = top + 15;
        svg.push_str(&format!(
            "<text x=\"{}\" y=\"{base}\" text-anchor=\"end\">{}</text><rect x=\"{LABEL_WIDTH}\" y=\"{}\" width=\"{width:.1}\" height=\"{}\"/>\
             <text x=\"{:.1}\" y=\"{base}\">{}</text>\n",
            LABEL_WIDTH - 8,
            escape(&shortened(&label)),
            top + 3,
            BAR_HEIGHT - 6,
            LABEL_WIDTH as f64 + width + 6.0,
            escape(&shown),
        ));
    }
    let rest = values.len() - bars;
    let more = if rest > 0 {
        format!("; {rest} more in the table")
    } else {
        String::new()
    };
    svg.push_str(&format!(
        "</svg>\n<figcaption>{caption}{more}</figcaption>\n</figure>\n"
    ));
    Ok(svg)
}

fn table(rows: &DataFrame) -> PolarsResult<String> {
    let class = |column: &Column| {
        if column.dtype().is_primitive_numeric() {
            " class=\"number\""
        } else {
            ""
        }
    };
    let mut table = String::from("<div class=\"scroll\">\n<table>\n<thead><tr>");
    for column in rows.columns() {
        table.push_str(&format!(
            "<th scope=\"col\"{}>{}</th>",
            class(column),
            escape(column.name())
        ));
    }
    table.push_str("</tr></thead>\n<tbody>\n");
    for index in 0..rows.height().min(MOST_ROWS) {
        table.push_str("<tr>");
        for column in rows.columns() {
            let value = column.get(index)?;
            let text = match value {
                AnyValue::Null => "<span class=\"soft\">null</span>".to_owned(),
                _ if column.dtype().is_primitive_numeric() => escape(&grouped(&text_of(&value))),
                _ => escape(&text_of(&value)),
            };
            table.push_str(&format!("<td{}>{text}</td>", class(column)));
        }
        table.push_str("</tr>\n");
    }
    table.push_str("</tbody>\n</table>\n</div>\n");
    if rows.height() > MOST_ROWS {
        table.push_str(&format!("<p class=\"soft\">The first {MOST_ROWS} of {} rows; the other files have all of them.</p>\n", rows.height()));
    }
    Ok(table)
}

/// Digits in groups of three, as people read large numbers.
fn grouped(number: &str) -> String {
    let (sign, digits) = number
        .strip_prefix('-')
        .map_or(("", number), |digits| ("-", digits));
    let (whole, fraction) = digits
        .split_once('.')
        .map_or((digits, None), |(whole, fraction)| (whole, Some(fraction)));
    if !whole.bytes().all(|byte| byte.is_ascii_digit()) {
        return number.to_owned();
    }
    let mut text = sign.to_owned();
    for (index, digit) in whole.chars().enumerate() {
        if index > 0 && (whole.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    match fraction {
        Some("0") | None => text,
        Some(fraction) => format!("{text}.{fraction}"),
    }
}

fn shortened(label: &str) -> String {
    if label.chars().count() <= 26 {
        label.to_owned()
    } else {
        label.chars().take(25).chain(['…']).collect()
    }
}

fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            other => escaped.push(other),
        }
    }
    escaped
}

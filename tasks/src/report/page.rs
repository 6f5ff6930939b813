//! A report as one HTML file: title, charts, table, SQL. No script, nothing loaded from elsewhere, every value escaped.

use super::{
    answer::{Answer, grouped, plain},
    written::Written,
};

/// A table has at most so many rows; the other formats have them all.
pub const MOST_ROWS: usize = 1_000;

const STYLE: &str = "\
:root{color-scheme:light dark;--ink:#1b2733;--soft:#5b6b7b;--line:#d7dee5;--ground:#fff}\
@media(prefers-color-scheme:dark){:root{--ink:#e6ebf0;--soft:#9aa8b5;--line:#33404c;--ground:#12181e}}\
body{font:16px/1.5 system-ui,sans-serif;color:var(--ink);background:var(--ground);max-width:60rem;margin:2rem auto;padding:0 1rem}\
h1{margin-bottom:0}.soft{color:var(--soft)}figure{margin:1.5rem 0}figcaption{color:var(--soft)}\
.scroll{overflow-x:auto}table{border-collapse:collapse}th,td{padding:.3rem .8rem;border-bottom:1px solid var(--line);text-align:left}\
.number{text-align:right;font-variant-numeric:tabular-nums}pre{overflow-x:auto;border:1px solid var(--line);padding:1rem}";

/// The page.
pub(super) fn html(written: &Written) -> String {
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
    for chart in written.drawn() {
        page.push_str(&chart);
    }
    page.push_str(&table(&written.answer));
    page.push_str(&format!(
        "<details><summary>SQL</summary><pre>{}</pre></details>\n",
        escape(&written.sql)
    ));
    for (name, sql) in &written.views {
        page.push_str(&format!(
            "<details><summary>SQL of the view {}</summary><pre>{}</pre></details>\n",
            escape(name),
            escape(sql)
        ));
    }
    page.push_str("</body>\n</html>\n");
    page
}

fn table(answer: &Answer) -> String {
    let class = |is_numeric: bool| {
        if is_numeric { " class=\"number\"" } else { "" }
    };
    let mut table = String::from("<div class=\"scroll\">\n<table>\n<thead><tr>");
    for column in &answer.columns {
        table.push_str(&format!(
            "<th scope=\"col\"{}>{}</th>",
            class(column.is_numeric),
            escape(&column.name)
        ));
    }
    table.push_str("</tr></thead>\n<tbody>\n");
    for row in answer.rows.iter().take(MOST_ROWS) {
        table.push_str("<tr>");
        for (column, value) in answer.columns.iter().zip(row) {
            let text = if value.is_null() {
                "<span class=\"soft\">null</span>".to_owned()
            } else if column.is_numeric && !is_a_name(&column.name) {
                escape(&grouped(value))
            } else {
                escape(&plain(value))
            };
            table.push_str(&format!("<td{}>{text}</td>", class(column.is_numeric)));
        }
        table.push_str("</tr>\n");
    }
    table.push_str("</tbody>\n</table>\n</div>\n");
    if answer.rows.len() > MOST_ROWS {
        table.push_str(&format!(
            "<p class=\"soft\">The first {MOST_ROWS} of {} rows; the other files have all of them.</p>\n",
            answer.rows.len()
        ));
    }
    table
}

/// Whether the numbers of a column are names, such as years and keys, and not amounts: 2018 is not written 2,018.
pub fn is_a_name(column: &str) -> bool {
    let last = column.rsplit('_').next().unwrap_or_default();
    ["year", "id", "ind", "index"].contains(&last)
}

pub(super) fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            '\t' | '\n' => escaped.push(character),
            // Overrides of writing direction can make a line read as another.
            '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => escaped.push('\u{fffd}'),
            control if control.is_control() => {}
            other => escaped.push(other),
        }
    }
    escaped
}

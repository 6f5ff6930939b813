mod datasets;

use std::{fmt::Write, sync::Arc, time::Duration};

use async_trait::async_trait;
use pinwheel_tasks::{
    Context, Failure, Field, FieldType, Kind, Outcome, Outputs, Presence, Problem,
};
use proptest::prelude::*;
use serde_json::{Map, Value, json};

use super::*;
use crate::model::{Catchup, ParamType, TriggerRule};

/// A kind that is only checked here.
struct TestKind {
    name: &'static str,
    fields: &'static [Field],
    outputs: Outputs,
}

#[async_trait]
impl Kind for TestKind {
    fn name(&self) -> &'static str {
        self.name
    }

    fn summary(&self) -> &'static str {
        "A kind of the tests"
    }

    fn fields(&self) -> &'static [Field] {
        self.fields
    }

    fn outputs(&self) -> Outputs {
        self.outputs
    }

    fn check(&self, with: &Map<String, Value>) -> Vec<Problem> {
        if self.name == "shell" && with.contains_key("command") && with.contains_key("script") {
            return vec![Problem {
                field: Some("script".to_owned()),
                message: "both `command` and `script` are given".to_owned(),
                hint: Some("remove one of them".to_owned()),
            }];
        }
        Vec::new()
    }

    async fn run(&self, _context: &Context, _with: Map<String, Value>) -> Result<Outcome, Failure> {
        Ok(Outcome::success())
    }
}

const fn field(name: &'static str, field_type: FieldType, presence: Presence) -> Field {
    Field {
        name,
        field_type,
        presence,
        doc: "a sentence",
    }
}

const OPTIONAL: Presence = Presence::Optional { default: "nothing" };

fn registry() -> Registry {
    let kinds: [Arc<dyn Kind>; 6] = [
        Arc::new(TestKind {
            name: "kafka_to_s3",
            fields: const {
                &[
                    field("topic", FieldType::Text, Presence::Required),
                    field("bucket", FieldType::Text, Presence::Required),
                    field("prefix", FieldType::Text, Presence::Required),
                    field("max_records", FieldType::Integer, OPTIONAL),
                ]
            },
            outputs: Outputs::Known(&[
                ("manifest", "its uri"),
                ("records", "how many"),
                ("bytes", "how large"),
            ]),
        }),
        Arc::new(TestKind {
            name: "clean",
            fields: const {
                &[
                    field("dataset", FieldType::Text, Presence::Required),
                    field("from", FieldType::Text, Presence::Required),
                    field("to", FieldType::Text, Presence::Required),
                    field("threshold", FieldType::Number, OPTIONAL),
                ]
            },
            outputs: Outputs::Known(&[("manifest", "its uri"), ("cleaned", "how many")]),
        }),
        Arc::new(TestKind {
            name: "report",
            fields: const {
                &[
                    field("sql", FieldType::TextList, Presence::Required),
                    field("datasets", FieldType::TextList, OPTIONAL),
                    field("to", FieldType::Text, OPTIONAL),
                ]
            },
            outputs: Outputs::Known(&[("files", "their uris")]),
        }),
        Arc::new(TestKind {
            name: "shell",
            fields: const {
                &[
                    field("command", FieldType::TextList, OPTIONAL),
                    field("script", FieldType::Verbatim, OPTIONAL),
                    field("env", FieldType::TextTable, OPTIONAL),
                ]
            },
            outputs: Outputs::Free,
        }),
        Arc::new(TestKind {
            name: "wait",
            fields: const {
                &[
                    field("duration", FieldType::Duration, Presence::Required),
                    field("loud", FieldType::Boolean, OPTIONAL),
                ]
            },
            outputs: Outputs::Known(&[]),
        }),
        Arc::new(TestKind {
            name: "noop",
            fields: &[],
            outputs: Outputs::Known(&[]),
        }),
    ];
    Registry::new(kinds)
}

const SAMPLE: &str = r#"
[dag]
id = "pinterest_daily"
description = "Land, clean and report the day's pins"
schedule = "0 2 * * *"
timezone = "Europe/London"
start = 2026-01-01T00:00:00Z
catchup = "latest"
max_active_runs = 1

[params.min_followers]
type = "integer"
default = 0
minimum = 0

[defaults]
retries = 2
retry_delay = "30s"

[tasks.show]
kind = "shell"
after = ["land"]
trigger_rule = "all_done"
allow_failure = true
retries = 0
with = { command = ["echo", "{{ outputs.land.manifest }}", "{{ params.min_followers }}"] }

[tasks.land]
kind = "kafka_to_s3"
with = { topic = "pins", bucket = "lake", prefix = "landing/pins" }

[tasks.clean]
kind = "clean"
after = ["land"]
pool = "cpu"
timeout = "30m"
priority = -3
slots = 2
with = { dataset = "pins", from = "{{ outputs.land.manifest }}", to = "s3://lake/clean/pins/" }
"#;

/// What `pinwheel dags check` prints for a file.
fn report(source: &str) -> String {
    report_of(source.as_bytes())
}

fn report_of(bytes: &[u8]) -> String {
    match load("dags/a.toml", bytes, &registry()) {
        Ok(_) => "no errors".to_owned(),
        Err(diagnostics) => {
            assert!(!diagnostics.is_empty(), "a refusal has a reason");
            render(
                &diagnostics,
                "dags/a.toml",
                &String::from_utf8_lossy(bytes),
                Colour::Never,
            )
        }
    }
}

fn messages(source: &str) -> Vec<String> {
    match load("dags/a.toml", source.as_bytes(), &registry()) {
        Ok(_) => Vec::new(),
        Err(diagnostics) => diagnostics
            .into_iter()
            .map(|diagnostic| diagnostic.message)
            .collect(),
    }
}

fn only_message(source: &str) -> (String, Option<String>) {
    let mut diagnostics = load("dags/a.toml", source.as_bytes(), &registry()).expect_err(source);
    assert_eq!(diagnostics.len(), 1, "{source}\n{diagnostics:#?}");
    let only = diagnostics.remove(0);
    (only.message, only.hint)
}

#[test]
fn the_sample_of_the_design_is_read() {
    let dag = load("dags/a.toml", SAMPLE.as_bytes(), &registry()).expect("a good file");
    assert_eq!(dag.id.as_str(), "pinterest_daily");
    assert_eq!(
        dag.schedule.as_ref().map(crate::model::Schedule::text),
        Some("0 2 * * *".to_owned())
    );
    assert_eq!(dag.catchup, Catchup::Latest);
    assert_eq!(dag.max_active_runs, 1);
    assert_eq!(dag.params["min_followers"].param_type, ParamType::Integer);
    assert_eq!(dag.params["min_followers"].default, Some(json!(0)));
    // Topological order; of what is ready, the first in the file.
    let ids: Vec<&str> = dag.tasks.iter().map(|task| task.id.as_str()).collect();
    assert_eq!(ids, ["land", "show", "clean"]);
    assert_eq!(dag.tasks[0].downstream, [1, 2]);
    assert_eq!(dag.tasks[2].upstream, [0]);
    let (_, show) = dag.task("show").expect("it is there");
    assert_eq!(
        (show.trigger_rule, show.allow_failure, show.retries),
        (TriggerRule::AllDone, true, 0)
    );
    let (_, clean) = dag.task("clean").expect("it is there");
    assert_eq!(
        (clean.retries, clean.retry_delay),
        (2, Duration::from_secs(30))
    );
    assert_eq!(clean.timeout, Some(Duration::from_secs(1800)));
    assert_eq!(
        (
            clean.pool.as_str(),
            clean.queue.as_str(),
            clean.priority,
            clean.slots
        ),
        ("cpu", "default", -3, 2)
    );
    assert_eq!(clean.with["from"], json!("{{ outputs.land.manifest }}"));
    let stored = serde_json::to_value(&dag).expect("a definition is JSON");
    assert_eq!(
        serde_json::from_value::<Dag>(stored).expect("and is read back"),
        dag
    );
}

#[test]
fn every_error_of_a_file_comes_at_once() {
    let source = r#"[dag]
id = "pins daily"
schedule = "0 25 * * *"
timezone = "Europe/Lodon"
catchup = "al"
max_active_run = 3

[params.limit]
type = "int"

[defaults]
retries = "2"

[tasks.land]
kind = "kafka_to_s4"
timeout = "30 minutes"

[tasks.clean]
kind = "clean"
after = ["lnd", "clean"]
with = { dataset = 7, form = "{{ outputs.land.manifest }}", to = "{{ params.limt }}" }
"#;
    insta::assert_snapshot!(report(source), @r##"
error: `pins daily` cannot be a name (id)
 --> dags/a.toml:2:6
  |
2 | id = "pins daily"
  |      ^^^^^^^^^^^^ not a name
  = hint: a name has 1 to 128 of the characters `A-Z a-z 0-9 _ . -` and begins with a letter, a digit or `_`

error: invalid schedule: `25` is out of range in the field `hour`
 --> dags/a.toml:3:12
  |
3 | schedule = "0 25 * * *"
  |            ^^^^^^^^^^^^
  = hint: the hour is a number from 0 to 23, `*`, a range, a step or a list of them

error: unknown time zone `Europe/Lodon`
 --> dags/a.toml:4:12
  |
4 | timezone = "Europe/Lodon"
  |            ^^^^^^^^^^^^^^ not an IANA time zone
  = hint: did you mean `Europe/London`?

error: unknown `catchup` `al`
 --> dags/a.toml:5:11
  |
5 | catchup = "al"
  |           ^^^^ expected one of `none`, `latest`, `all`
  = hint: did you mean `all`?

error: unknown key `max_active_run` in `[dag]`
 --> dags/a.toml:6:1
  |
6 | max_active_run = 3
  | ^^^^^^^^^^^^^^ not a key
  = hint: did you mean `max_active_runs`?

error: unknown `type` `int`
 --> dags/a.toml:9:8
  |
9 | type = "int"
  |        ^^^^^ expected one of `string`, `integer`, `number`, `boolean`, `list`, `table`

error: `retries` must be a whole number, found text
  --> dags/a.toml:12:11
   |
12 | retries = "2"
   |           ^^^ expected a whole number
   = hint: write it without quotes

error: unknown kind `kafka_to_s4`
  --> dags/a.toml:15:8
   |
15 | kind = "kafka_to_s4"
   |        ^^^^^^^^^^^^^ no such kind
   = hint: did you mean `kafka_to_s3`?

error: `timeout`: unknown unit `minutes` in the duration `30 minutes`
  --> dags/a.toml:16:11
   |
16 | timeout = "30 minutes"
   |           ^^^^^^^^^^^^ expected a duration such as "90s"
   = hint: write numbers with a unit (ms, s, m, h, d, w), such as "90s", "15m" or "1h 30m"

error: unknown upstream `lnd` in task `clean`
  --> dags/a.toml:20:10
   |
20 | after = ["lnd", "clean"]
   |          ^^^^^ no task has this id
   = hint: did you mean `land`?

error: task `clean` waits for itself
  --> dags/a.toml:20:17
   |
20 | after = ["lnd", "clean"]
   |                 ^^^^^^^
   = hint: remove it

error: missing key `from` in `with` of task `clean`
  --> dags/a.toml:21:1
   |
21 | with = { dataset = 7, form = "{{ outputs.land.manifest }}", to = "{{ params.limt }}" }
   | ^^^^ kind `clean` requires `from`
   = hint: from: a sentence

error: `dataset` must be text, found a whole number
  --> dags/a.toml:21:20
   |
21 | with = { dataset = 7, form = "{{ outputs.land.manifest }}", to = "{{ params.limt }}" }
   |                    ^ expected text
   = hint: put it in quotes

error: unknown key `form` in `with` of task `clean`
  --> dags/a.toml:21:23
   |
21 | with = { dataset = 7, form = "{{ outputs.land.manifest }}", to = "{{ params.limt }}" }
   |                       ^^^^ not a key
   = hint: did you mean `from`?

error: task `clean` reads the output of `land`, which is not upstream of it
  --> dags/a.toml:21:34
   |
21 | with = { dataset = 7, form = "{{ outputs.land.manifest }}", to = "{{ params.limt }}" }
   |                                  ^^^^^^^^^^^^^^^^^^^^^ may not have run yet
   = hint: add `"land"` to `after` of task `clean`

error: unknown param `limt` in a template
  --> dags/a.toml:21:70
   |
21 | with = { dataset = 7, form = "{{ outputs.land.manifest }}", to = "{{ params.limt }}" }
   |                                                                      ^^^^^^^^^^^ not declared
   = hint: did you mean `limit`?

16 errors in dags/a.toml
"##);
}

#[test]
fn wrong_references_of_templates_are_found_without_rendering() {
    let source = r#"[dag]
id = "a"

[params.limit]
type = "integer"
default = 1

[tasks.land]
kind = "kafka_to_s3"
with = { topic = "pins", bucket = "{{ outputs.land.records }}", prefix = "{{ ds | uper }}" }

[tasks.alone]
kind = "noop"

[tasks.my-task]
kind = "shell"
after = ["land"]
with.script = "echo {{ params.limit }}"
with.env = { A = "{{ outputs.land.manifst }}", B = "é {{ outputs.alone.x }}", C = "{{ limit }}", D = "{{ dag.name }}" }

[tasks.last]
kind = "shell"
after = ["my-task"]
with.command = [
  "{{ outputs.my-task.x }}", "{{ outputs[\"my-task\"].anything }}", "{{ outputs.land.records + }}",
  "{{ ds.upper() }}", "{{ outputs.lend.x }}", "{{ params.limt }}", "{{ now() }}", "{{ env.HOME }}", "{{ outputs }}",
]
"#;
    insta::assert_snapshot!(report(source), @r##"
error: task `land` reads its own output
  --> dags/a.toml:10:39
   |
10 | with = { topic = "pins", bucket = "{{ outputs.land.records }}", prefix = "{{ ds | uper }}" }
   |                                       ^^^^^^^^^^^^^^^^^^^^ there is none before it has run

error: unknown filter `uper`
  --> dags/a.toml:10:83
   |
10 | with = { topic = "pins", bucket = "{{ outputs.land.records }}", prefix = "{{ ds | uper }}" }
   |                                                                                   ^^^^
   = hint: did you mean `upper`?

error: a template in `script`, which is never templated
  --> dags/a.toml:18:21
   |
18 | with.script = "echo {{ params.limit }}"
   |                     ^^^^^^^^^^^^^^^^^^ this would reach the interpreter as it is
   = hint: pass the value through `env`: `env = { NAME = "{{ … }}" }`, then use `"$NAME"`

error: unknown output `manifst` of task `land`
  --> dags/a.toml:19:22
   |
19 | with.env = { A = "{{ outputs.land.manifst }}", B = "é {{ outputs.alone.x }}", C = "{{ limit }}", D = "{{ dag.name }}" }
   |                      ^^^^^^^^^^^^^^^^^^^^ kind `kafka_to_s3` has no such output
   = hint: did you mean `manifest`?

error: task `my-task` reads the output of `alone`, which is not upstream of it
  --> dags/a.toml:19:58
   |
19 | with.env = { A = "{{ outputs.land.manifst }}", B = "é {{ outputs.alone.x }}", C = "{{ limit }}", D = "{{ dag.name }}" }
   |                                                          ^^^^^^^^^^^^^^^ may not have run yet
   = hint: add `"alone"` to `after` of task `my-task`

error: unknown name `limit` in a template
  --> dags/a.toml:19:87
   |
19 | with.env = { A = "{{ outputs.land.manifst }}", B = "é {{ outputs.alone.x }}", C = "{{ limit }}", D = "{{ dag.name }}" }
   |                                                                                       ^^^^^ not a name
   = hint: did you mean `params.limit`?

error: `dag` has no `name`
  --> dags/a.toml:19:106
   |
19 | with.env = { A = "{{ outputs.land.manifst }}", B = "é {{ outputs.alone.x }}", C = "{{ limit }}", D = "{{ dag.name }}" }
   |                                                                                                          ^^^^^^^^
   = hint: it has `id`

error: unknown task `my` in a template of task `last`
  --> dags/a.toml:25:7
   |
25 |   "{{ outputs.my-task.x }}", "{{ outputs[\"my-task\"].anything }}", "{{ outputs.land.records + }}",
   |       ^^^^^^^^^^ no task has this id
   = hint: write its id in brackets: `outputs["my-task"]`

error: `task` has no `x`
  --> dags/a.toml:25:18
   |
25 |   "{{ outputs.my-task.x }}", "{{ outputs[\"my-task\"].anything }}", "{{ outputs.land.records + }}",
   |                  ^^^^^^
   = hint: it has `id`

error: invalid template: unexpected end of variable block
  --> dags/a.toml:25:96
   |
25 |   "{{ outputs.my-task.x }}", "{{ outputs[\"my-task\"].anything }}", "{{ outputs.land.records + }}",
   |                                                                                                ^^
   = hint: for a literal `{{` write `{{ "{{" }}`

error: values have no method `upper`
  --> dags/a.toml:26:9
   |
26 |   "{{ ds.upper() }}", "{{ outputs.lend.x }}", "{{ params.limt }}", "{{ now() }}", "{{ env.HOME }}", "{{ outputs }}",
   |         ^^^^^^^^
   = hint: a value is changed by a filter, as in `{{ ds | upper }}`

error: unknown task `lend` in a template of task `last`
  --> dags/a.toml:26:27
   |
26 |   "{{ ds.upper() }}", "{{ outputs.lend.x }}", "{{ params.limt }}", "{{ now() }}", "{{ env.HOME }}", "{{ outputs }}",
   |                           ^^^^^^^^^^^^^^ no task has this id
   = hint: did you mean `land`?

error: unknown param `limt` in a template
  --> dags/a.toml:26:51
   |
26 |   "{{ ds.upper() }}", "{{ outputs.lend.x }}", "{{ params.limt }}", "{{ now() }}", "{{ env.HOME }}", "{{ outputs }}",
   |                                                   ^^^^^^^^^^^ not declared
   = hint: did you mean `limit`?

error: unknown function `now`
  --> dags/a.toml:26:72
   |
26 |   "{{ ds.upper() }}", "{{ outputs.lend.x }}", "{{ params.limt }}", "{{ now() }}", "{{ env.HOME }}", "{{ outputs }}",
   |                                                                        ^^^^^
   = hint: a value is changed by a filter, as in `{{ ds | upper }}`

error: unknown name `env` in a template
  --> dags/a.toml:26:87
   |
26 |   "{{ ds.upper() }}", "{{ outputs.lend.x }}", "{{ params.limt }}", "{{ now() }}", "{{ env.HOME }}", "{{ outputs }}",
   |                                                                                       ^^^^^^^^ not a name
   = hint: a template may use `params`, `outputs`, `var`, `conn`, `triggering_datasets`, `dag`, `run`, `task`, `try_number`, `logical_date`, `data_interval_start`, `data_interval_end`, `ds`, `ds_nodash`, `ts`, `item`, `item_index`

error: `outputs` needs the name of a task
  --> dags/a.toml:26:105
   |
26 |   "{{ ds.upper() }}", "{{ outputs.lend.x }}", "{{ params.limt }}", "{{ now() }}", "{{ env.HOME }}", "{{ outputs }}",
   |                                                                                                         ^^^^^^^ of which task?
   = hint: name the task and the output, as in `outputs.land.manifest`

16 errors in dags/a.toml
"##);
}

#[test]
fn a_cycle_is_printed() {
    let source = r#"[dag]
id = "a"

[tasks.a]
kind = "noop"
after = ["c"]

[tasks.b]
kind = "noop"
after = ["a", "a"]

[tasks.c]
kind = "noop"
after = ["b"]

[tasks.d]
kind = "noop"
after = ["d", "c"]
"#;
    insta::assert_snapshot!(report(source), @r##"
error: the tasks wait for each other: `a → b → c → a`
 --> dags/a.toml:6:10
  |
6 | after = ["c"]
  |          ^^^ `a` waits for `c`
  = hint: remove one of these from an `after`

error: upstream `a` is named twice in task `b`
  --> dags/a.toml:10:15
   |
10 | after = ["a", "a"]
   |               ^^^ named before
   = hint: remove one

error: task `d` waits for itself
  --> dags/a.toml:18:10
   |
18 | after = ["d", "c"]
   |          ^^^
   = hint: remove it

3 errors in dags/a.toml
"##);
}

#[test]
fn broken_syntax_hides_nothing_that_is_certain() {
    let source = "[dag]\nid = \"a\nschedule = \"61 * * * *\"\n[tasks.x]\nkind = \"nop\"\nretries = \ntimeout = 5\n";
    insta::assert_snapshot!(report(source), @r##"
error: invalid TOML: invalid basic string, expected `"`
 --> dags/a.toml:2:8
  |
2 | id = "a
  |        ^

error: invalid schedule: `61` is out of range in the field `minute`
 --> dags/a.toml:3:12
  |
3 | schedule = "61 * * * *"
  |            ^^^^^^^^^^^^
  = hint: the minute is a number from 0 to 59, `*`, a range, a step or a list of them

error: unknown kind `nop`
 --> dags/a.toml:5:8
  |
5 | kind = "nop"
  |        ^^^^^ no such kind
  = hint: did you mean `noop`?

error: invalid TOML: string values must be quoted, expected literal string
 --> dags/a.toml:6:11
  |
6 | retries = 
  |           ^

error: `timeout` must be a duration, found a whole number
 --> dags/a.toml:7:11
  |
7 | timeout = 5
  |           ^ expected a duration
  = hint: write a text with a unit, such as "5s"

5 errors in dags/a.toml
"##);
}

#[test]
fn the_caret_stands_under_wide_characters_and_tabs() {
    let source = "[dag]\nid = \"a\"\n[tasks.x]\n\tkind = \"shell\"\n\twith.env = { A = \"日本\", B = \"{{ nope }}\" }\n";
    insta::assert_snapshot!(report(source), @r##"
error: unknown name `nope` in a template
 --> dags/a.toml:5:33
  |
5 |     with.env = { A = "日本", B = "{{ nope }}" }
  |                                      ^^^^ not a name
  = hint: a template may use `params`, `outputs`, `var`, `conn`, `triggering_datasets`, `dag`, `run`, `task`, `try_number`, `logical_date`, `data_interval_start`, `data_interval_end`, `ds`, `ds_nodash`, `ts`, `item`, `item_index`

1 error in dags/a.toml
"##);
}

#[test]
fn a_long_line_is_cut_around_the_place() {
    let source = format!(
        "[dag]\nid = \"a\"\n[tasks.x]\nkind = \"shell\"\nwith.command = [\"{}\", \"{{{{ nope }}}}\", \"{}\"]\n",
        "x".repeat(500),
        "y".repeat(500)
    );
    let report = report(&source);
    let lines: Vec<&str> = report
        .lines()
        .filter(|line| line.contains("nope") || line.contains("^^^^"))
        .collect();
    assert!(
        lines.iter().all(|line| line.chars().count() < 200),
        "{report}"
    );
    let column = |line: &str, part: &str| line[..line.find(part).expect(part)].chars().count();
    assert_eq!(
        column(lines[1], "nope"),
        column(lines[2], "^^^^"),
        "{report}"
    );
}

#[test]
fn colour_changes_nothing_but_colour() {
    let diagnostics = load("a.toml", b"[dag]\nid = 1\n", &registry()).expect_err("a wrong id");
    let plain = render(&diagnostics, "a.toml", "[dag]\nid = 1\n", Colour::Never);
    let coloured = render(&diagnostics, "a.toml", "[dag]\nid = 1\n", Colour::Always);
    let escape = regex::Regex::new("\u{1b}\\[[0-9;]*m").expect("a good pattern");
    assert_ne!(plain, coloured);
    assert_eq!(escape.replace_all(&coloured, ""), plain);
}

#[test]
fn a_file_that_is_not_utf_8_names_the_byte() {
    insta::assert_snapshot!(report_of(b"[dag]\nid = \"a\xffb\"\n"), @r##"
error: the file is not UTF-8: byte 0xff at offset 13
 --> dags/a.toml:2:8
  |
2 | id = "a�b"
  |        ^ not UTF-8
  = hint: save the file as UTF-8

1 error in dags/a.toml
"##);
}

#[test]
fn a_file_that_is_too_large_is_refused_unread() {
    let report = report_of(&vec![b'#'; MOST_BYTES + 1]);
    assert!(
        report.contains("the file has 1048577 bytes; at most 1048576 (1 MiB) are allowed"),
        "{report}"
    );
}

#[test]
fn too_many_tasks_and_edges_are_refused() {
    let mut source = "[dag]\nid = \"a\"\n".to_owned();
    for task in 0..5_001 {
        writeln!(source, "[tasks.t{task}]\nkind = \"noop\"").expect("a string");
    }
    assert_eq!(
        messages(&source),
        ["the DAG has 5001 tasks; at most 5000 are allowed"]
    );

    let mut source = "[dag]\nid = \"a\"\n".to_owned();
    let all = |from: usize, to: usize| {
        (from..to)
            .map(|task| format!("\"t{task}\""))
            .collect::<Vec<_>>()
            .join(",")
    };
    for task in 0..460 {
        let after = if task < 230 {
            String::new()
        } else {
            all(0, 230)
        };
        writeln!(
            source,
            "[tasks.t{task}]\nkind = \"noop\"\nafter = [{after}]"
        )
        .expect("a string");
    }
    assert_eq!(
        messages(&source),
        ["the tasks name 52900 upstream tasks in all; at most 50000 are allowed"]
    );
}

#[test]
fn a_long_chain_is_read_without_deep_recursion() {
    let mut source = "[dag]\nid = \"a\"\n[tasks.t0]\nkind = \"noop\"\n".to_owned();
    for task in 1..5_000 {
        writeln!(
            source,
            "[tasks.t{task}]\nkind = \"noop\"\nafter = [\"t{}\"]",
            task - 1
        )
        .expect("a string");
    }
    let dag = load("a.toml", source.as_bytes(), &registry()).expect("a good file");
    assert_eq!(dag.tasks[4_999].id.as_str(), "t4999");
    let cycle = source.replace(
        "[tasks.t0]\nkind = \"noop\"",
        "[tasks.t0]\nkind = \"noop\"\nafter = [\"t4999\"]",
    );
    assert!(messages(&cycle)[0].starts_with("the tasks wait for each other: `t0 → t1 →"));
}

/// A file with one task `t` of kind `shell` and these lines in `[dag]`, and these at its end.
fn file(dag: &str, rest: &str) -> String {
    format!(
        "[dag]\nid = \"a\"\n{dag}\n[tasks.t]\nkind = \"shell\"\nwith = {{ command = [\"true\"] }}\n{rest}\n"
    )
}

#[test]
fn schedules_are_read_in_every_form() {
    for (written, text) in [
        ("schedule = \"0 2 * * *\"", "0 2 * * *"),
        ("schedule = \"*/10 0 2 * * *\"", "*/10 0 2 * * *"),
        ("schedule = \"@daily\"", "@daily"),
        ("schedule = { every = \"15m\" }", "every 15m"),
        (
            "schedule = [\"@daily\", { every = \"1h\" }]",
            "@daily, every 1h",
        ),
        (
            "schedule = { every = \"15m\", anchor = 2026-01-01T00:05:00Z }",
            "every 15m",
        ),
        (
            "schedule = { at = [2026-06-30T18:00:00Z, 2026-03-31, 2026-06-30T20:00:00+02:00] }",
            "at 2026-03-31T00:00:00Z and 2026-06-30T18:00:00Z",
        ),
        (
            "schedule = [\"@daily\", { at = [2026-06-30] }]\ntimezone = \"Europe/London\"",
            "@daily, at 2026-06-29T23:00:00Z",
        ),
    ] {
        let dag = load("a.toml", file(written, "").as_bytes(), &registry()).expect(written);
        assert_eq!(dag.schedule.expect("a schedule").text(), text);
    }
    for (written, message) in [
        (
            "schedule = 5",
            "`schedule` must be a schedule, found a whole number",
        ),
        (
            "schedule = { evry = \"15m\" }",
            "unknown key `evry` in `schedule`",
        ),
        (
            "schedule = { every = \"15\" }",
            "`every`: the number 15 in the duration `15` has no unit",
        ),
        (
            "schedule = []",
            "invalid schedule: the list of schedules is empty",
        ),
        (
            "schedule = { at = [] }",
            "`at`: the list of instants is empty",
        ),
        (
            "schedule = { at = [\"2026-01-01\"] }",
            "an element of `at` must be a date, found text",
        ),
        (
            "schedule = { at = 2026-01-01 }",
            "`at` must be a list, found a date",
        ),
        (
            "schedule = { at = [2026-01-01T00:00:00.5Z] }",
            "`at`: `2026-01-01T00:00:00.500+00:00` has a part of a second",
        ),
        (
            "schedule = { at = [2026-01-01] }\nstart = 2026-01-01",
            "`at`: no instant lies after `start`, so it never fires",
        ),
        (
            "schedule = { at = [2026-01-01], every = \"1h\" }",
            "`every` does not go with `at`",
        ),
        (
            "schedule = { anchor = 2026-01-01 }",
            "missing key `every` in `schedule`",
        ),
        (
            "schedule = { every = \"1h\", anchor = 5 }",
            "`anchor` must be a date, found a whole number",
        ),
        (
            "schedule = 2026-01-01",
            "`schedule` must be a schedule, found a date",
        ),
        (
            "schedule = \"@daily\"\nstart = 2026-02-01\nend = 2026-01-01",
            "`end` lies before `start`",
        ),
        (
            "schedule = \"@daily\"\ncatchup_window = \"7d\"",
            "`catchup_window` is set, but nothing is made up for",
        ),
        (
            "schedule = \"@daily\"\njitter = \"1500ms\"",
            "`jitter` must be whole seconds, at least one",
        ),
        (
            "schedule = \"@daily\"\noverlap = \"skipp\"",
            "unknown `overlap` `skipp`",
        ),
    ] {
        assert!(
            messages(&file(written, "")).contains(&message.to_owned()),
            "{:?}",
            messages(&file(written, ""))
        );
    }
}

#[test]
fn what_stands_around_a_schedule_is_read() {
    let written = r#"schedule = "@daily"
start = 2026-01-01
end = 2026-12-31
catchup = "all"
catchup_window = "7d"
jitter = "5m"
overlap = "latest""#;
    let dag = load("a.toml", file(written, "").as_bytes(), &registry()).expect(written);
    assert_eq!(
        (dag.end, dag.catchup_window, dag.jitter, dag.overlap),
        (
            Some("2026-12-31T00:00:00Z".parse().expect("an instant")),
            Some(Duration::from_secs(604_800)),
            Some(Duration::from_secs(300)),
            crate::model::Overlap::Latest,
        )
    );
    let stored = serde_json::to_value(&dag).expect("it is JSON");
    assert_eq!(
        serde_json::from_value::<crate::model::Dag>(stored).expect("it is read back"),
        dag
    );
    let plain = load(
        "a.toml",
        file("schedule = \"@daily\"", "").as_bytes(),
        &registry(),
    );
    let mut old = serde_json::to_value(plain.expect("a file")).expect("it is JSON");
    old.as_object_mut().expect("a table").remove("overlap");
    let read: crate::model::Dag =
        serde_json::from_value(old).expect("versions from before are read");
    assert_eq!(
        (read.overlap, read.jitter),
        (crate::model::Overlap::Queue, None)
    );
}

#[test]
fn a_start_without_an_offset_is_local_time() {
    for (written, instant) in [
        ("2026-07-01", "2026-06-30T23:00:00Z"),
        ("2026-07-01T02:00:00", "2026-07-01T01:00:00Z"),
        ("2026-07-01 02:00:00+02:00", "2026-07-01T00:00:00Z"),
        // 01:30 does not exist on that day.
        ("2026-03-29T01:30:00", "2026-03-29T01:30:00Z"),
    ] {
        let source = file(
            &format!("timezone = \"Europe/London\"\nstart = {written}"),
            "",
        );
        let start = load("a.toml", source.as_bytes(), &registry())
            .expect(written)
            .start
            .expect("a start");
        assert_eq!(
            start.to_rfc3339_opts(chrono::SecondsFormat::Secs, true),
            instant,
            "{written}"
        );
    }
    assert_eq!(
        messages(&file("start = 07:32:00", "")),
        ["`start` must be an instant, found `07:32:00`"]
    );
    assert_eq!(
        messages(&file("start = \"2026-01-01\"", "")),
        ["`start` must be a date, found text"]
    );
}

#[test]
fn a_time_zone_is_guessed_by_its_city() {
    for (written, hint) in [
        ("london", "did you mean `Europe/London`?"),
        ("New York", "did you mean `America/New_York`?"),
        ("Europe/Berln", "did you mean `Europe/Berlin`?"),
    ] {
        let (message, found) = only_message(&file(&format!("timezone = \"{written}\""), ""));
        assert_eq!(message, format!("unknown time zone `{written}`"));
        assert_eq!(found.as_deref(), Some(hint));
    }
}

#[test]
fn params_are_checked_where_they_are_declared() {
    for (declared, message) in [
        (
            "type = \"integer\"\ndefault = \"x\"",
            "`default` of the param: expected type `integer`, found `\"x\"`",
        ),
        (
            "type = \"integer\"\ndefault = 1\nminimum = 2",
            "`default` of the param: 1 is below the minimum 2",
        ),
        (
            "type = \"integer\"\ndefault = 5\nminimum = 9\nmaximum = 2",
            "`minimum` 9 is above `maximum` 2",
        ),
        (
            "type = \"string\"\ndefault = \"x\"\nminimum = 2",
            "`minimum` is for numbers, the param is a string",
        ),
        (
            "type = \"string\"\ndefault = \"x\"\npattern = \"(\"",
            "`pattern` is no regular expression: unclosed group",
        ),
        (
            "type = \"string\"\ndefault = \"x\"\nenum = [\"y\"]",
            "`default` of the param: `\"x\"` is not one of `\"y\"`",
        ),
        (
            "type = \"string\"\ndefault = \"x\"\nenum = [1]",
            "an element of `enum` of the param: expected type `string`, found `1`",
        ),
        ("default = 1", "missing key `type` in param `p`"),
    ] {
        let source = file("", &format!("[params.p]\n{declared}"));
        assert!(
            messages(&source).contains(&message.to_owned()),
            "{declared}: {:?}",
            messages(&source)
        );
    }
    assert_eq!(
        messages(&file("", "[params.p]\ntype = \"string\"")),
        Vec::<String>::new()
    );
    assert_eq!(
        messages(&file(
            "schedule = \"@daily\"",
            "[params.p]\ntype = \"string\""
        )),
        ["param `p` has no default, but the DAG has a schedule"]
    );
}

#[test]
fn the_with_table_is_checked_by_its_kind() {
    for (task, message) in [
        (
            "kind = \"wait\"\nwith = { duration = \"soon\" }",
            "`duration`: expected a number in the duration `soon`, found `soon`",
        ),
        (
            "kind = \"wait\"\nwith = { duration = 5 }",
            "`duration` must be a duration, found a whole number",
        ),
        (
            "kind = \"wait\"\nwith = { duration = \"5s\", loud = \"yes\" }",
            "`loud` must be `true` or `false`, found text",
        ),
        (
            "kind = \"wait\"",
            "missing key `duration` in `with` of task `u`",
        ),
        (
            "kind = \"wait\"\nwith = 3",
            "`with` of task `u` must be a table, found a whole number",
        ),
        (
            "kind = \"shell\"\nwith = { command = \"ls\" }",
            "`command` must be a list of texts, found text",
        ),
        (
            "kind = \"shell\"\nwith = { command = [1] }",
            "an element of `command` must be text, found a whole number",
        ),
        (
            "kind = \"shell\"\nwith = { env = { A = 1 } }",
            "`A` in `env` must be text, found a whole number",
        ),
        (
            "kind = \"noop\"\nwith = { x = 1 }",
            "unknown key `x` in `with` of task `u`",
        ),
        (
            "kind = \"shell\"\nwith = { command = [\"a\"], script = \"b\" }",
            "task `u`: both `command` and `script` are given",
        ),
        (
            "kind = \"shell\"\nwith = { script = \"{{ ds }}\" }",
            "a template in `script`, which is never templated",
        ),
        (
            "kind = \"shell\"\nwith = { command = [\"a\\u0000\"] }",
            "a text must not contain the character NUL",
        ),
        (
            "kind = \"noop\"\nretries = -1",
            "`retries` must be from 0 to 1000, found -1",
        ),
        (
            "kind = \"noop\"\ntimeout = \"0s\"",
            "`timeout` must be longer than nothing",
        ),
        (
            "kind = \"noop\"\nqueue_timeout = \"0s\"",
            "`queue_timeout` must be longer than nothing",
        ),
        (
            "kind = \"noop\"\nretry_factor = 0.5",
            "`retry_factor` must be 1 to 100, found 0.5",
        ),
        (
            "kind = \"noop\"\nretry_jitter = \"some\"",
            "`retry_jitter` must be a number, found text",
        ),
        (
            "kind = \"noop\"\nretry_delay = \"1m\"\nretry_max_delay = \"30s\"",
            "`retry_max_delay` of 30s is shorter than `retry_delay` of 1m",
        ),
        ("kind = \"noop\"\nretry_on = []", "`retry_on` names nothing"),
        (
            "kind = \"noop\"\nno_retry_on = [\"75\"]",
            "`75` names no failure",
        ),
        (
            "kind = \"noop\"\nretry_on = [\"timeuot\"]",
            "`timeuot` names no failure",
        ),
        (
            "kind = \"noop\"\ntrigger_rule = \"all_sucess\"",
            "unknown `trigger_rule` `all_sucess`",
        ),
        (
            "kind = \"noop\"\nafter = \"t\"",
            "`after` must be a list of texts, found text",
        ),
    ] {
        assert_eq!(
            only_message(&file("", &format!("[tasks.u]\n{task}"))).0,
            message,
            "{task}"
        );
    }
    for task in [
        "kind = \"wait\"\nwith = { duration = \"{{ params.x | default(\\\"5s\\\") }}\" }\n[params.x]\ntype = \"string\"",
        "kind = \"wait\"\nwith = { duration = \"5s\", loud = \"{{ try_number > 1 }}\" }",
        "kind = \"shell\"\nwith = { script = \"printf '{%s}' x\" }",
    ] {
        assert_eq!(
            messages(&file("", &format!("[tasks.u]\n{task}"))),
            Vec::<String>::new(),
            "{task}"
        );
    }
}

#[test]
fn retries_and_time_outs_are_read_and_overridden() {
    let source = r#"
[dag]
id = "a"
timeout = "2h"

[defaults]
retries = 3
retry_delay = "10s"
retry_factor = 2
retry_max_delay = "1m"
retry_on = ["exit:75", "exit:64-70", "timeout"]

[tasks.one]
kind = "noop"
retry_jitter = 0.5
queue_timeout = "15m"

[tasks.two]
kind = "noop"
retry_factor = 1.5
retry_on = ["error"]
no_retry_on = ["killed", "panic"]
"#;
    let dag = load("a.toml", source.as_bytes(), &registry()).expect("it is valid");
    assert_eq!(dag.timeout, Some(Duration::from_secs(7200)));
    let rules = |id| &dag.task(id).expect("it is there").1.retry;
    let words = |on: &[crate::model::retry::RetryOn]| {
        on.iter()
            .map(ToString::to_string)
            .collect::<Vec<_>>()
            .join(" ")
    };
    let (one, two) = (rules("one"), rules("two"));
    assert_eq!((one.factor, one.jitter), (2.0, 0.5));
    assert_eq!(one.max_delay, Some(Duration::from_secs(60)));
    assert_eq!(words(&one.on), "exit:75 exit:64-70 timeout");
    assert_eq!((two.factor, two.jitter), (1.5, 0.0));
    assert_eq!(
        (words(&two.on), words(&two.not_on)),
        ("error".to_owned(), "killed panic".to_owned())
    );
    assert_eq!(
        dag.task("one").expect("it is there").1.queue_timeout,
        Some(Duration::from_secs(900))
    );
    let stored = serde_json::to_value(&dag).expect("it is JSON");
    assert_eq!(
        serde_json::from_value::<Dag>(stored).expect("it is read again"),
        dag
    );
}

#[test]
fn an_empty_file_says_what_is_missing() {
    assert_eq!(
        messages(""),
        ["missing table `[dag]`", "the DAG has no tasks"]
    );
    assert_eq!(
        messages("[dag]\nid = \"a\"\n[tasks]\n"),
        ["the DAG has no tasks"]
    );
    assert_eq!(
        messages("dag = 1\ntasks = 2"),
        [
            "`[dag]` must be a table, found a whole number",
            "`[tasks]` must be a table, found a whole number"
        ]
    );
}

#[test]
fn an_id_is_taken_only_once() {
    let (one, two) = (file("", ""), file("description = \"other\"", ""));
    let id = DagId::new("a").expect("an id");
    let named = |file, source| Named {
        file,
        source,
        dag_id: &id,
    };
    let found = check_unique([named("one.toml", &one), named("two.toml", &two)]);
    assert_eq!(found.len(), 1);
    assert_eq!(
        (found[0].file.as_str(), found[0].line, found[0].column),
        ("two.toml", 2, 6)
    );
    assert_eq!(found[0].message, "the id `a` is taken by one.toml");
}

#[test]
fn the_id_of_a_broken_file_is_still_known() {
    assert_eq!(
        peek_id(b"[dag]\nid = \"a\"\nschedule = \n").map(|id| id.to_string()),
        Some("a".to_owned())
    );
    assert_eq!(peek_id(b"[dag]\nid = \"a b\"\n"), None);
    assert_eq!(peek_id(b"\xff"), None);
}

#[test]
fn the_schema_names_every_key_and_every_kind() {
    let schema = schema(&registry());
    let keys = |pointer: &str| {
        let table = schema
            .pointer(pointer)
            .and_then(Value::as_object)
            .expect(pointer);
        table
            .keys()
            .cloned()
            .collect::<std::collections::BTreeSet<_>>()
    };
    let set = |keys: &[&str]| {
        keys.iter()
            .map(|key| (*key).to_owned())
            .collect::<std::collections::BTreeSet<_>>()
    };
    assert_eq!(keys("/properties"), set(&read::FILE_KEYS));
    assert_eq!(keys("/properties/dag/properties"), set(&header::DAG_KEYS));
    assert_eq!(
        keys("/properties/params/additionalProperties/properties"),
        set(&declared::PARAM_KEYS)
    );
    assert_eq!(
        keys("/properties/defaults/properties"),
        set(&policy::POLICY_KEYS)
    );
    assert_eq!(
        keys("/properties/tasks/additionalProperties/properties"),
        set(&read::task_keys())
    );
    assert_eq!(
        keys("/properties/deadline/items/properties"),
        set(&alerts::DEADLINE_KEYS)
    );
    assert_eq!(
        keys("/properties/notify/items/properties"),
        set(&alerts::NOTIFY_KEYS)
    );
    let by_kind = schema
        .pointer("/properties/tasks/additionalProperties/allOf")
        .and_then(Value::as_array)
        .expect("kinds");
    assert_eq!(by_kind.len(), registry().iter().count());
    for (kind, rule) in registry().iter().zip(by_kind) {
        assert_eq!(
            rule.pointer("/if/properties/kind/const"),
            Some(&json!(kind.name()))
        );
        let with = rule
            .pointer("/then/properties/with/properties")
            .and_then(Value::as_object)
            .expect("a with table");
        assert_eq!(with.len(), kind.fields().len());
    }
}

#[test]
fn every_example_of_the_guide_is_a_good_file() {
    let guide = include_str!("../../../../docs/DAG_FILE.md");
    let mut examples = 0;
    for block in guide.split("```toml\n").skip(1) {
        let example = block.split("```").next().expect("a block ends");
        if example.starts_with("[dag]") {
            examples += 1;
            if let Err(diagnostics) = load("docs/DAG_FILE.md", example.as_bytes(), &registry()) {
                panic!(
                    "{}",
                    render(&diagnostics, "docs/DAG_FILE.md", example, Colour::Never)
                );
            }
        }
    }
    assert!(examples >= 2, "the guide shows whole files");
    for name in crate::model::template::NAMES.map(|(name, _)| name) {
        assert!(
            guide.contains(&format!("`{name}")),
            "the guide names `{name}`"
        );
    }
    for filter in crate::model::template::FILTERS {
        assert!(
            guide.contains(&format!("`{filter}`")),
            "the guide names the filter `{filter}`"
        );
    }
}

/// For every task, which of the tasks before it are upstream.
fn generated() -> impl Strategy<Value = Vec<Vec<bool>>> {
    (1_usize..12).prop_flat_map(|count| {
        (0..count)
            .map(|task| proptest::collection::vec(any::<bool>(), task))
            .collect::<Vec<_>>()
    })
}

proptest! {
    #[test]
    fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = report_of(&bytes);
        let _ = peek_id(&bytes);
    }

    #[test]
    fn no_damage_to_a_good_file_makes_it_panic(at in 0..SAMPLE.len(), length in 0_usize..40, text in "[\\[\\]{}\"'=.,#\\\\\n\t a-c{{%%}}é0-9]{0,6}") {
        let end = (at + length).min(SAMPLE.len());
        let mut damaged = SAMPLE.as_bytes().to_vec();
        damaged.splice(at..end, text.bytes());
        let _ = report_of(&damaged);
    }

    #[test]
    fn no_template_makes_it_panic(text in "[{}%\"'|.()\\[\\] a-e0-9+~-]{0,40}") {
        let source = file("", &format!("[tasks.u]\nkind = \"shell\"\nwith.command = ['''{{{{ {text} }}}}''']"));
        let _ = report(&source);
    }

    #[test]
    fn tasks_come_in_topological_order(edges in generated(), order in any::<proptest::sample::Index>()) {
        // The file may name a task before its upstream tasks.
        let count = edges.len();
        let shift = order.index(count);
        let mut source = "[dag]\nid = \"a\"\n".to_owned();
        for place in 0..count {
            let task = (place + shift) % count;
            let after: Vec<String> =
                edges[task].iter().enumerate().filter(|(_, edge)| **edge).map(|(above, _)| format!("\"t{above}\"")).collect();
            writeln!(source, "[tasks.t{task}]\nkind = \"noop\"\nafter = [{}]", after.join(", ")).expect("a string");
        }
        let dag = load("a.toml", source.as_bytes(), &registry()).expect("a good file");
        prop_assert_eq!(dag.tasks.len(), count);
        for (ordinal, task) in dag.tasks.iter().enumerate() {
            let number: usize = task.id.as_str()[1..].parse().expect("a number");
            let mut expected: Vec<usize> = edges[number]
                .iter()
                .enumerate()
                .filter(|(_, edge)| **edge)
                .map(|(above, _)| dag.task(&format!("t{above}")).expect("every task is there").0)
                .collect();
            expected.sort_unstable();
            prop_assert_eq!(&task.upstream, &expected);
            prop_assert!(task.upstream.iter().all(|above| *above < ordinal));
            for above in &task.upstream {
                prop_assert!(dag.tasks[*above].downstream.contains(&ordinal));
            }
            for below in &task.downstream {
                prop_assert!(dag.tasks[*below].upstream.contains(&ordinal));
            }
            prop_assert!(task.downstream.is_sorted());
        }
    }
}

#[test]
fn deadlines_and_notifications_are_read_with_their_defaults() {
    let source = "[dag]\nid = \"d\"\nschedule = \"@daily\"\nno_success_for = \"26h\"\n\n[tasks.load]\nkind = \"noop\"\n\n\
        [[deadline]]\nfrom = \"scheduled\"\nafter = \"30m\"\n\n\
        [[deadline]]\nfrom = \"started\"\nafter = \"1h\"\ntask = \"load\"\nname = \"in time\"\n\n\
        [[notify]]\non = [\"failure\", \"recovery\"]\nto = \"ops\"\ntasks = [\"load\"]\n";
    let dag = load("d.toml", source.as_bytes(), &registry()).expect("it is good");
    let names: Vec<&str> = dag
        .alerts
        .deadlines
        .iter()
        .map(|deadline| deadline.name.as_str())
        .collect();
    assert_eq!(names, ["the run is done 30m after it was due", "in time"]);
    assert_eq!(
        dag.alerts.no_success_for,
        Some(Duration::from_secs(26 * 3600))
    );
    let notify = &dag.alerts.notify[0];
    assert_eq!(
        (notify.on.as_slice(), notify.to.as_str(), notify.cool_down),
        (
            [crate::model::Event::Failure, crate::model::Event::Recovery].as_slice(),
            "ops",
            Duration::from_secs(300)
        )
    );
    // What is stored is read back; a version from before has none.
    let mut stored = json!(dag);
    assert_eq!(
        serde_json::from_value::<Dag>(stored.clone()).expect("it is read back"),
        dag
    );
    stored
        .as_object_mut()
        .expect("a definition")
        .remove("alerts");
    assert!(
        serde_json::from_value::<Dag>(stored)
            .expect("older ones are read")
            .alerts
            .is_empty()
    );
}

#[test]
fn what_is_wrong_with_deadlines_and_notifications_is_shown_in_its_place() {
    let source = r#"[dag]
id = "d"
no_success_for = "0s"

[tasks.load]
kind = "noop"

[[deadline]]
from = "scheduled"
after = "30m"

[[deadline]]
from = "begun"
task = "laod"

[[notify]]
on = ["failed"]
to = "no name"

[[notify]]
on = []
to = "ops"
task = "load"
"#;
    let diagnostics = load("d.toml", source.as_bytes(), &registry()).expect_err("it is wrong");
    let told: Vec<String> = diagnostics
        .iter()
        .map(|one| {
            let hint = one.hint.as_deref().unwrap_or("-");
            format!("{}: {} / {hint}", one.line, one.message)
        })
        .collect();
    insta::assert_snapshot!(told.join("\n"), @r#"
    3: `no_success_for` must be longer than nothing / -
    9: a deadline from `scheduled` needs a schedule / give the DAG a `schedule`, or count from `queued` or `started`
    12: missing key `after` in `[[deadline]]` / add `after = "30m"`
    13: unknown `from` `begun` / -
    14: unknown task `laod` / did you mean `load`?
    17: unknown event `failed` / the events are `failure`, `retry`, `success`, `deadline`, `recovery`
    18: `no name` cannot be a name (to) / a name has 1 to 128 of the characters `A-Z a-z 0-9 _ . -` and begins with a letter, a digit or `_`
    21: `on` names no event / the events are `failure`, `retry`, `success`, `deadline`, `recovery`
    23: unknown key `task` in `[[notify]]` / did you mean `tasks`?
    "#);
}

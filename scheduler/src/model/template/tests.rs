use super::*;

fn values() -> Values {
    let at = |text: &str| {
        DateTime::parse_from_rfc3339(text)
            .expect("a date")
            .with_timezone(&Utc)
    };
    Values {
        params: json!({ "min": 3, "tags": ["a", "b"], "name": "x" })
            .as_object()
            .expect("a table")
            .clone(),
        outputs: BTreeMap::from([(
            "land".to_owned(),
            json!({ "manifest": "s3://lake/m.json", "records": 245, "partitions": [{ "partition": 0 }], "none": null }),
        )]),
        triggering_datasets: BTreeMap::from([(
            "s3://lake/pins".to_owned(),
            vec![
                json!({ "extra": { "rows": 2 } }),
                json!({ "extra": { "rows": 3 } }),
            ],
        )]),
        dag_id: "pins".to_owned(),
        run_id: 7,
        task_id: "clean".to_owned(),
        try_number: 2,
        logical_date: at("2026-03-28T02:00:00Z"),
        data_interval_start: at("2026-03-28T02:00:00Z"),
        data_interval_end: at("2026-03-29T02:00:00.5+01:00"),
        item: None,
    }
}

fn rendered(text: &str) -> Result<Value, Error> {
    let with = json!({ "key": text }).as_object().expect("a table").clone();
    render(&with, &values()).map(|mut with| with.remove("key").expect("the key stays"))
}

#[test]
fn a_lone_expression_keeps_its_type() {
    for (text, expected) in [
        ("{{ outputs.land.manifest }}", json!("s3://lake/m.json")),
        ("{{ outputs.land.records }}", json!(245)),
        ("{{ outputs.land.partitions }}", json!([{ "partition": 0 }])),
        ("{{ outputs['land']['partitions'][0].partition }}", json!(0)),
        ("{{ outputs.land }}", values().outputs["land"].clone()),
        ("{{ outputs.land.none }}", Value::Null),
        (
            "{{ (triggering_datasets[\"s3://lake/pins\"] | last).extra.rows }}",
            json!(3),
        ),
        ("{{ params.min > 2 }}", json!(true)),
        ("{{ params.tags }}", json!(["a", "b"])),
        ("{{ params.min / 2 }}", json!(1.5)),
        ("{{- params.min -}}", json!(3)),
    ] {
        assert_eq!(rendered(text).expect(text), expected, "{text}");
    }
}

#[test]
fn text_around_an_expression_makes_text() {
    for (text, expected) in [
        ("n={{ params.min }}", "n=3"),
        (" {{ params.min }}", " 3"),
        ("{{ params.min }}\n", "3\n"),
        ("<{{ params.name }}&>", "<x&>"),
        ("{% for tag in params.tags %}{{ tag }};{% endfor %}", "a;b;"),
        ("{{ params.tags | tojson }}!", "[\"a\", \"b\"]!"),
        ("no template {%s} {# at all", "no template {%s} {# at all"),
    ] {
        assert_eq!(rendered(text).expect(text), json!(expected), "{text}");
    }
}

#[test]
fn the_names_are_airflows() {
    for (text, expected) in [
        ("{{ dag.id }}", json!("pins")),
        ("{{ run.id }}", json!(7)),
        ("{{ task.id }}", json!("clean")),
        ("{{ try_number }}", json!(2)),
        ("{{ logical_date }}", json!("2026-03-28T02:00:00Z")),
        ("{{ data_interval_start }}", json!("2026-03-28T02:00:00Z")),
        ("{{ data_interval_end }}", json!("2026-03-29T01:00:00.500Z")),
        ("{{ ds }}", json!("2026-03-28")),
        ("{{ ds_nodash }}", json!("20260328")),
        ("{{ ts }}", json!("2026-03-28T02:00:00Z")),
        ("{{ ds | ds_add(-28) }}", json!("2026-02-28")),
        (
            "{{ logical_date | strftime('%Y/%m/%d') }}",
            json!("2026/03/28"),
        ),
    ] {
        assert_eq!(rendered(text).expect(text), expected, "{text}");
    }
    let with_an_item = Values {
        item: Some((json!("x"), 0)),
        ..values()
    };
    let names = names(&with_an_item, &Secrets::default());
    assert_eq!(
        names.keys().collect::<Vec<_>>(),
        NAMES.iter().map(|(name, _)| name).collect::<Vec<_>>()
    );
}

#[test]
fn an_error_names_the_place_and_the_expression() {
    let with = json!({ "list": ["a", "b {{ outputs.land.manifst }}"] })
        .as_object()
        .expect("a table")
        .clone();
    let error = render(&with, &values()).expect_err("a wrong name");
    assert_eq!(error.path, "list[1]");
    assert_eq!(
        error.message,
        "cannot render `list[1]`: `outputs.land.manifst` is not there: the output of `land` has no `manifst`"
    );
    assert_eq!(error.hint.as_deref(), Some("did you mean `manifest`?"));
    for (text, message) in [
        (
            "{{ outputs.gone.x }}",
            "cannot render `key`: `outputs.gone.x` is not there: task `gone` left no output",
        ),
        (
            "{{ params.mim }}",
            "cannot render `key`: `params.mim` is not there: the run has no param `mim`",
        ),
        (
            "{{ [params.nope] }}",
            "cannot render `key`: `params.nope` is not there: the run has no param `nope`",
        ),
        (
            "{{ params.name + 1 }}",
            "cannot render `key`: invalid operation: tried to use + operator on unsupported types string and number in `params.name + 1`",
        ),
        (
            "x {{ params.min | nope }}",
            "cannot render `key`: unknown filter: filter nope is unknown in `nope`",
        ),
        (
            "{{ ds | ds_add('x') }}",
            "cannot render `key`: invalid operation: cannot convert string to i64 in `ds_add('x')`",
        ),
    ] {
        assert_eq!(rendered(text).expect_err(text).message, message, "{text}");
    }
}

#[test]
fn a_default_stands_in_for_what_is_missing() {
    assert_eq!(
        rendered("{{ outputs.land.nope | default(1) }}").expect("a default"),
        json!(1)
    );
    assert_eq!(
        rendered("{{ outputs.land.nope is defined }}").expect("a test"),
        json!(false)
    );
}

#[test]
fn a_template_cannot_run_for_ever_nor_fill_the_memory() {
    for text in [
        "{% for a in range(10000) %}{% for b in range(10000) %}{% for c in range(10000) %}{% endfor %}{% endfor %}{% endfor %}",
        "{{ 'x' * 100000000000 }}",
        "x{{ ('x' * 10000000) * 10000 }}",
    ] {
        rendered(text).expect_err(text);
    }
}

#[test]
fn a_template_reaches_no_other_template_and_no_internals() {
    for text in [
        "{% include '/etc/passwd' %}",
        "{% import 'x' as y %}",
        "{% extends 'x' %}",
        "{{ debug() }}",
        "{{ env }}",
    ] {
        rendered(text).expect_err(text);
    }
}

#[test]
fn every_listed_filter_exists() {
    for filter in FILTERS {
        assert!(is_filter(filter), "{filter}");
    }
    assert!(!is_filter("nope"));
    assert!(is_test("defined"));
    assert!(!is_test("nope"));
    assert!(functions().any(|name| name == "range"));
}

#[test]
fn the_tasks_whose_outputs_are_read_are_known() {
    let with = json!({ "a": "{{ outputs.land.manifest }}", "b": [{ "c": "x{{ outputs['two'].y }}{{ params.min }}" }], "d": 1 });
    assert_eq!(
        tasks_read(with.as_object().expect("a table")),
        BTreeSet::from(["land".to_owned(), "two".to_owned()])
    );
}

fn with_secrets(text: &str) -> Result<Value, Error> {
    let with = json!({ "key": text }).as_object().expect("a table").clone();
    let secrets = Secrets {
        variables: BTreeMap::from([
            ("region".to_owned(), json!("eu")),
            ("limits".to_owned(), json!({ "rows": 5, "tags": ["a"] })),
        ]),
        connections: BTreeMap::from([(
            "ware-house".to_owned(),
            json!({ "id": "ware-house", "type": "postgres", "host": "db", "port": 5432, "extra": { "a": 1 }, "uri": "postgres://db:5432" }),
        )]),
    };
    render_with(&with, &values(), &secrets)
        .map(|mut with| with.remove("key").expect("the key stays"))
}

#[test]
fn variables_and_connections_keep_their_types() {
    for (text, expected) in [
        ("{{ var.region }}", json!("eu")),
        ("{{ var.limits }}", json!({ "rows": 5, "tags": ["a"] })),
        ("{{ var.limits.rows }}", json!(5)),
        ("{{ var.nope | default('x') }}", json!("x")),
        ("{{ (var.nope | default({})).a | default(1) }}", json!(1)),
        ("{{ conn['ware-house'].port }}", json!(5432)),
        ("{{ conn['ware-house'].extra.a }}", json!(1)),
        ("{{ conn['ware-house'].password is defined }}", json!(false)),
        (
            "jdbc:{{ conn['ware-house'].host }}/{{ var.region }}",
            json!("jdbc:db/eu"),
        ),
    ] {
        assert_eq!(with_secrets(text).expect(text), expected, "{text}");
    }
}

#[test]
fn a_variable_or_connection_that_is_not_there_says_how_to_make_it() {
    for (text, message, hint) in [
        (
            "{{ var.regio }}",
            "cannot render `key`: `var.regio` is not there: there is no variable `regio`",
            "`pinwheel variables set regio …` makes it; a `default(…)` filter can stand in for it",
        ),
        (
            "{{ conn.db.host }}",
            "cannot render `key`: `conn.db.host` is not there: there is no connection `db`",
            "`pinwheel connections set db …` makes it",
        ),
        (
            "{{ conn['ware-house'].password }}",
            "cannot render `key`: `conn['ware-house'].password` is not there: connection `ware-house` has no password",
            "set it with `pinwheel connections set ware-house`, or give a `default(…)`",
        ),
        (
            "{{ conn['ware-house'].extra.b }}",
            "cannot render `key`: `conn['ware-house'].extra.b` is not there: there is no `b`",
            "did you mean `a`?",
        ),
    ] {
        let error = with_secrets(text).expect_err(text);
        assert_eq!(
            (error.message.as_str(), error.hint.as_deref()),
            (message, Some(hint))
        );
    }
}

#[test]
fn only_what_templates_name_is_read() {
    let with = json!({ "a": "{{ var.x }} {{ conn.db.host }}", "b": ["{{ outputs.t.y ~ var['z'] }}", "var.no"] });
    let reads = reads(with.as_object().expect("a table"));
    let set = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
    assert_eq!(reads.variables, set(&["x", "z"]));
    assert_eq!(reads.connections, set(&["db"]));
    assert_eq!(reads.tasks, set(&["t"]));
}

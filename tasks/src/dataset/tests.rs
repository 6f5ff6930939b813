use std::collections::BTreeMap;

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

const PINS: &str = include_str!("../../../dags/datasets/pins.toml");
const RECORDS: &str = include_str!("../../../data/pins.ndjson");

fn pins() -> Dataset {
    Dataset::parse("pins.toml", PINS).unwrap_or_else(|error| panic!("{error}"))
}

fn pin() -> Value {
    json!({
        "category": "art", "index": 7, "unique_id": "fbe53c66-3442-4773-b19e-d3ec6f54dddf", "title": "A title", "description": "Words",
        "follower_count": "437", "tag_list": "a,b", "is_image_or_video": "image", "image_src": "https://i.pinimg.com/x.jpg",
        "downloaded": 1, "save_location": "Local save in /data/art",
    })
}

fn with(field: &str, value: Value) -> Value {
    let mut pin = pin();
    pin[field] = value;
    pin
}

fn without(field: &str) -> Value {
    let mut pin = pin();
    pin.as_object_mut()
        .expect("a pin is an object")
        .remove(field);
    pin
}

fn clean(value: &Value) -> Result<Row, Rejected> {
    pins().clean(Some(value.to_string().as_bytes()))
}

fn cell(value: &Value, column: &str) -> Cell {
    let dataset = pins();
    let row = dataset
        .clean(Some(value.to_string().as_bytes()))
        .unwrap_or_else(|rejected| panic!("{rejected:?}"));
    row.values[dataset.position(column).expect("the column exists")].clone()
}

fn rule(value: &Value) -> (Stage, String) {
    let rejected = clean(value).expect_err("the message breaks a rule");
    (rejected.stage, rejected.rule)
}

fn text(value: &str) -> Cell {
    Cell::Text(value.to_owned())
}

#[test]
fn the_200_real_records_clean_to_the_known_figures() {
    let dataset = pins();
    let column = |name: &str| dataset.position(name).expect("the column exists");
    let rows: Vec<Row> = RECORDS
        .lines()
        .map(|line| {
            dataset
                .clean(Some(line.as_bytes()))
                .unwrap_or_else(|rejected| panic!("{rejected:?}: {line}"))
        })
        .collect();
    assert_eq!(rows.len(), 200);
    let nulls = |name: &str| {
        rows.iter()
            .filter(|row| row.values[column(name)] == Cell::Null)
            .count()
    };
    assert_eq!(
        (
            nulls("follower_count"),
            nulls("tag_list"),
            nulls("image_src"),
            nulls("title"),
            nulls("description"),
            nulls("extra")
        ),
        (3, 6, 4, 3, 17, 200)
    );

    let mut followers: Vec<i64> = rows
        .iter()
        .filter_map(|row| match row.values[column("follower_count")] {
            Cell::Integer(count) => Some(count),
            _ => None,
        })
        .collect();
    followers.sort_unstable();
    assert_eq!(followers.iter().sum::<i64>(), 70_087_971);
    assert_eq!(
        (followers[followers.len() / 2], followers.last().copied()),
        (25_000, Some(8_000_000))
    );

    let lengths: Vec<usize> = rows
        .iter()
        .filter_map(|row| match &row.values[column("tag_list")] {
            Cell::TextList(tags) => Some(tags.len()),
            _ => None,
        })
        .collect();
    assert!(lengths.iter().all(|length| *length == 9));

    let count_by = |name: &str| {
        let mut counts: BTreeMap<String, usize> = BTreeMap::new();
        for row in &rows {
            let Cell::Text(value) = &row.values[column(name)] else {
                panic!("{name} is null")
            };
            *counts.entry(value.clone()).or_default() += 1;
        }
        counts
    };
    let categories = count_by("category");
    let expected = [
        ("art", 24),
        ("beauty", 18),
        ("christmas", 19),
        ("diy-and-crafts", 20),
        ("education", 14),
        ("event-planning", 8),
        ("finance", 13),
        ("home-decor", 12),
        ("mens-fashion", 11),
        ("quotes", 20),
        ("tattoos", 13),
        ("travel", 19),
        ("vehicles", 9),
    ];
    assert_eq!(
        categories,
        expected
            .map(|(name, count)| (name.to_owned(), count))
            .into()
    );
    assert_eq!(
        count_by("is_image_or_video"),
        [("image", 180), ("multi-video", 13), ("video", 7)]
            .map(|(name, count)| (name.to_owned(), count))
            .into()
    );
}

#[test]
fn text_that_is_no_placeholder_is_unchanged() {
    let dataset = pins();
    let position = dataset.position("description").expect("the column exists");
    for line in RECORDS.lines() {
        let original: Value = serde_json::from_str(line).expect("the bundled file is NDJSON");
        let row = dataset
            .clean(Some(line.as_bytes()))
            .expect("real records are clean");
        if row.values[position] != Cell::Null {
            assert_eq!(
                Some(&row.values[position]),
                original["description"].as_str().map(text).as_ref()
            );
        }
    }
}

#[test]
fn follower_counts_that_the_replaced_scripts_got_wrong() {
    let cases = [
        ("437", 437),
        ("0", 0),
        ("124k", 124_000),
        ("6M", 6_000_000),
        ("1.2M", 1_200_000),
        ("1.2B", 1_200_000_000),
        ("3B", 3_000_000_000),
        ("12K", 12_000),
        ("0.5k", 500),
        ("1.001k", 1_001),
        ("942.0k", 942_000),
        ("007", 7),
        ("4.35M", 4_350_000),
        ("9223372036854775807", i64::MAX),
    ];
    for (given, expected) in cases {
        assert_eq!(
            cell(&with("follower_count", json!(given)), "follower_count"),
            Cell::Integer(expected),
            "{given}"
        );
    }
    let refused = [
        "1,234",
        "1.2345k",
        "1.5",
        "-5",
        "+5",
        "k",
        ".5k",
        "5.",
        "5.k",
        "1e3",
        "12 k",
        " 12",
        "１２",
        "12kk",
        "12T",
        "nan",
        "9223372036854775808",
        "9223372037B",
        "User info error",
        "0x10",
    ];
    for given in refused {
        assert_eq!(
            rule(&with("follower_count", json!(given))),
            (Stage::Contract, "count:follower_count".to_owned()),
            "{given}"
        );
    }
}

#[test]
fn placeholders_match_exactly_and_become_null() {
    let cases = [
        ("title", "No Title Data Available"),
        ("description", "No description available Story format"),
        ("description", "No description available"),
        ("description", "Untitled"),
        ("follower_count", "User Info Error"),
        ("poster_name", "User Info Error"),
        ("image_src", "Image src error."),
        ("tag_list", "N,o, ,T,a,g,s, ,A,v,a,i,l,a,b,l,e"),
        ("title", ""),
        ("tag_list", ""),
        ("tag_list", " , ,"),
        ("save_location", ""),
        ("image_src", ""),
        ("save_location", "Local save in "),
    ];
    for (field, placeholder) in cases {
        assert_eq!(
            cell(&with(field, json!(placeholder)), field),
            Cell::Null,
            "{field}: {placeholder}"
        );
    }
    for kept in [
        "no title data available",
        "No Title Data Available.",
        " No Title Data Available",
        "Untitled",
        "None",
    ] {
        assert_eq!(cell(&with("title", json!(kept)), "title"), text(kept));
    }
    assert_eq!(
        rule(&with("image_src", json!("Image src error"))),
        (Stage::Contract, "url:image_src".to_owned())
    );
}

#[test]
fn the_rules_that_fired_are_named() {
    let dataset = pins();
    let mut message = with("title", json!("No Title Data Available"));
    message["tag_list"] = json!("");
    message["added_later"] = json!({"a": [1, 2]});
    let row = dataset
        .clean(Some(message.to_string().as_bytes()))
        .expect("the row is clean");
    let names: Vec<String> = row
        .fired
        .iter()
        .map(|fired| dataset.rule_name(*fired))
        .collect();
    assert_eq!(
        names,
        [
            "placeholder:title",
            "empty:tag_list",
            "missing:poster_name",
            "extra"
        ]
    );
    assert_eq!(
        row.values.last(),
        Some(&Cell::Json(r#"{"added_later":{"a":[1,2]}}"#.to_owned()))
    );
    assert_eq!(row.values.len(), dataset.columns().len());
}

#[test]
fn media_labels_are_normalised() {
    let cases = [
        ("image", "image"),
        ("video", "video"),
        ("multi-video", "multi-video"),
        ("multi-video(story page format)", "multi-video"),
        ("video(story page format)", "video"),
        ("image(story page format)", "image"),
    ];
    for (given, expected) in cases {
        assert_eq!(
            cell(
                &with("is_image_or_video", json!(given)),
                "is_image_or_video"
            ),
            text(expected)
        );
    }
    assert_eq!(
        rule(&with("is_image_or_video", json!("Image"))),
        (Stage::Contract, "enum:is_image_or_video".to_owned())
    );
    assert_eq!(
        cell(&without("is_image_or_video"), "is_image_or_video"),
        Cell::Null
    );
    assert_eq!(cell(&without("image_src"), "image_src"), Cell::Null);
}

#[test]
fn values_take_the_type_of_their_column() {
    assert_eq!(cell(&pin(), "save_location"), text("/data/art"));
    assert_eq!(
        cell(
            &with("save_location", json!("S3 bucket: my-bucket")),
            "save_location"
        ),
        text("S3 bucket: my-bucket")
    );
    assert_eq!(
        cell(&with("tag_list", json!(" Wörter , b,,c ")), "tag_list"),
        Cell::TextList(["Wörter", "b", "c"].map(str::to_owned).into())
    );
    assert_eq!(
        cell(&with("downloaded", json!(0)), "downloaded"),
        Cell::Boolean(false)
    );
    assert_eq!(
        cell(&with("downloaded", json!(true)), "downloaded"),
        Cell::Boolean(true)
    );
    assert_eq!(
        rule(&with("downloaded", json!(2))),
        (Stage::Contract, "boolean:downloaded".to_owned())
    );
    assert_eq!(cell(&with("index", json!(-1)), "index"), Cell::Integer(-1));
    assert_eq!(
        cell(
            &with("unique_id", json!("FBE53C66-3442-4773-B19E-D3EC6F54DDDF")),
            "unique_id"
        ),
        text("fbe53c66-3442-4773-b19e-d3ec6f54dddf")
    );
}

#[test]
fn what_breaks_the_contract_is_quarantined() {
    let cases = [
        (with("unique_id", json!("not-a-uuid")), "uuid:unique_id"),
        (
            with("unique_id", json!("{fbe53c66-3442-4773-b19e-d3ec6f54dddf}")),
            "uuid:unique_id",
        ),
        (with("unique_id", json!("")), "null:unique_id"),
        (with("unique_id", Value::Null), "null:unique_id"),
        (with("index", Value::Null), "null:index"),
        (with("title", json!("a\u{0}b")), "nul:title"),
        (with("added", json!(["\u{0}"])), "nul:extra"),
        (
            with("image_src", json!("javascript:alert(1)")),
            "url:image_src",
        ),
        (with("image_src", json!("https://")), "url:image_src"),
        (with("image_src", json!("https://a b")), "url:image_src"),
    ];
    for (message, expected) in cases {
        assert_eq!(
            rule(&message),
            (Stage::Contract, expected.to_owned()),
            "{message}"
        );
    }
}

#[test]
fn what_cannot_be_read_is_dead_lettered() {
    let dataset = pins();
    let unreadable = |bytes: &[u8]| {
        dataset
            .clean(Some(bytes))
            .expect_err("the message cannot be read")
    };
    let cases: [(&[u8], &str); 14] = [
        (b"", "empty"),
        (b" \n\t", "empty"),
        (b"{\"category\": \"art\"", "not_json"),
        (b"{'category': 'art'}", "not_json"),
        (b"\xff\xfe{}", "not_utf8"),
        (b"{} {}", "not_json"),
        (b"[1, 2]", "not_an_object"),
        (b"[1, 2", "not_json"),
        (b"null", "not_an_object"),
        (b"\"text\"", "not_an_object"),
        (b"__import__('os')", "not_json"),
        (br#"{"category": "\ud800"}"#, "not_json"),
        (br#"{"x": 1e999}"#, "number_too_large"),
        (b"{}", "missing_field:unique_id"),
    ];
    for (bytes, expected) in cases {
        let rejected = unreadable(bytes);
        assert_eq!(
            (rejected.stage, rejected.rule.as_str()),
            (Stage::Unreadable, expected),
            "{}",
            String::from_utf8_lossy(bytes)
        );
    }
    assert_eq!(
        dataset.clean(None).expect_err("a tombstone is no row").rule,
        "tombstone"
    );
    assert_eq!(unreadable(&vec![b' '; 2 << 20]).rule, "too_large");
    let deep = format!("{{\"x\": {}{}}}", "[".repeat(100_000), "]".repeat(100_000));
    assert_eq!(unreadable(deep.as_bytes()).rule, "not_json");

    let twice = pin().to_string().replacen('{', r#"{"title": "first", "#, 1);
    assert_eq!(unreadable(twice.as_bytes()).rule, "duplicate_field:title");
    let twice = pin()
        .to_string()
        .replacen('{', r#"{"new": 1, "new": 2, "#, 1);
    assert_eq!(unreadable(twice.as_bytes()).rule, "duplicate_field:extra");
    let wrong = [
        with("title", json!(1)),
        with("follower_count", json!(437)),
        with("index", json!("7")),
        with("index", json!(1.5)),
        with("index", json!(u64::MAX)),
        with("tag_list", json!(["a"])),
        with("downloaded", json!("1")),
        with("category", json!({})),
    ];
    for message in wrong {
        let (stage, rule) = rule(&message);
        assert!(
            stage == Stage::Unreadable && rule.starts_with("wrong_type:"),
            "{message}: {rule}"
        );
    }
    // Shape comes first: what is wrong with the values does not matter yet.
    let mut both = with("unique_id", json!("no uuid"));
    both["title"] = json!(7);
    assert_eq!(
        rule(&both),
        (Stage::Unreadable, "wrong_type:title".to_owned())
    );
}

#[test]
fn details_show_only_the_beginning_of_a_value() {
    let rejected =
        clean(&with("follower_count", json!("x\n".repeat(5_000)))).expect_err("that is no count");
    assert!(
        rejected.detail.chars().count() < 200 && !rejected.detail.contains('\n'),
        "{}",
        rejected.detail
    );
}

#[test]
fn five_of_245_are_tolerated_and_a_broken_batch_is_not() {
    let tolerance = pins().tolerance();
    assert!(!tolerance.is_exceeded(5, 245));
    assert!(!tolerance.is_exceeded(5, 5), "a tiny batch says nothing");
    assert!(!tolerance.is_exceeded(50, 100));
    assert!(tolerance.is_exceeded(51, 100));
}

const SMALL: &str = r#"
id = "posts"
key = "id"

[[fields]]
name = "id"
type = "text"
nullable = false

[[fields]]
name = "body"
source = "Body"
type = "text"
placeholders = ["none", { prefix = "ERR-" }, { regex = "n/?a" }]

[[fields]]
name = "link"
type = "url"
required = false

[[derived]]
name = "host"
from = "link"
function = "host"

[[derived]]
name = "body_length"
from = "body"
function = "length"
"#;

#[test]
fn placeholders_by_prefix_and_pattern_and_derived_columns() {
    let dataset = Dataset::parse("posts.toml", SMALL).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!((dataset.topic(), dataset.key()), ("posts", 0));
    let cells = |message: &str| {
        dataset
            .clean(Some(message.as_bytes()))
            .expect("the row is clean")
            .values
    };
    for body in ["none", "ERR-12", "na", "n/a"] {
        assert_eq!(
            cells(&json!({"id": "1", "Body": body}).to_string())[1],
            Cell::Null,
            "{body}"
        );
    }
    let row = cells(
        &json!({"id": "1", "Body": "banana wörter", "link": "HTTPS://user@Example.org:8080/x"})
            .to_string(),
    );
    assert_eq!(
        row[1..],
        [
            text("banana wörter"),
            text("HTTPS://user@Example.org:8080/x"),
            text("example.org"),
            Cell::Integer(13),
            Cell::Null
        ]
    );
    let long = dataset
        .clean(Some(
            json!({"id": "x".repeat(600), "Body": "b"})
                .to_string()
                .as_bytes(),
        ))
        .expect_err("the key is too long");
    assert_eq!(long.rule, "key_too_long:id");
}

#[test]
fn every_mistake_of_a_file_is_reported_at_once_with_its_place() {
    let broken = r#"
id = "Pins"
topci = "pins"
key = "unique"

[rejects]
max_share = 5

[[fields]]
name = "unique_id"
type = "uid"

[[fields]]
name = "media"
type = "enum"
values = ["image"]
separator = ","
aliases = { "photo" = "imag" }

[[fields]]
name = "extra"
type = "integer"
placeholders = [{ regex = "(" }]
nullable = "no"
"#;
    let error =
        Dataset::parse("dags/datasets/broken.toml", broken).expect_err("the file is broken");
    insta::assert_snapshot!(error.to_string());
}

#[test]
fn a_file_that_is_no_toml_says_where() {
    let error = Dataset::parse("x.toml", "id = \"a\"\nkey = \n").expect_err("the file is broken");
    assert_eq!(error.problems[0].line, Some(2));
}

#[test]
fn a_catalog_refuses_one_id_twice_and_reads_a_folder() {
    let errors = Catalog::from_files([
        ("a.toml", SMALL.as_bytes()),
        ("b.toml", SMALL.as_bytes()),
        ("c.toml", b"\xff".as_slice()),
    ])
    .expect_err("the id is taken");
    assert_eq!(
        errors
            .iter()
            .map(|error| error.file.as_str())
            .collect::<Vec<_>>(),
        ["b.toml", "c.toml"]
    );

    let folder = tempfile::tempdir().expect("a temporary folder");
    std::fs::write(folder.path().join("posts.toml"), SMALL).expect("the file is written");
    std::fs::write(folder.path().join("notes.txt"), "no dataset").expect("the file is written");
    let catalog = Catalog::load(folder.path()).expect("the folder is read");
    assert_eq!(catalog.ids().collect::<Vec<_>>(), ["posts"]);
    assert!(
        Catalog::load(folder.path().join("absent"))
            .expect("an absent folder is empty")
            .get("posts")
            .is_none()
    );
}

proptest! {
    #[test]
    fn no_bytes_make_cleaning_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _answer = pins().clean(Some(&bytes));
    }

    #[test]
    fn any_text_in_any_field_gives_a_row_or_a_rule(field in 0_usize..11, value in any::<String>()) {
        let mut message = pin();
        let name = message.as_object().and_then(|fields| fields.keys().nth(field).cloned()).expect("a pin has eleven fields");
        message[&name] = json!(value);
        match clean(&message) {
            Ok(row) => prop_assert_eq!(row.values.len(), pins().columns().len()),
            Err(rejected) => prop_assert!(!rejected.rule.is_empty() && rejected.field.is_some()),
        }
    }

    #[test]
    fn a_count_is_exact(whole in 0_i64..9_000, thousandths in 0_i64..1_000, suffix in prop::sample::select(vec![('k', 1_000_i64), ('M', 1_000_000), ('B', 1_000_000_000)])) {
        let text = format!("{whole}.{thousandths:03}{}", suffix.0);
        prop_assert_eq!(values::count(&text), Some(whole * suffix.1 + thousandths * (suffix.1 / 1_000)));
    }

    #[test]
    fn a_title_survives_as_it_is(title in "[^\u{0}]{1,40}") {
        prop_assume!(title != "No Title Data Available");
        prop_assert_eq!(cell(&with("title", json!(title.clone())), "title"), Cell::Text(title));
    }

    #[test]
    fn no_text_makes_the_parser_panic(text in any::<String>()) {
        let _answer = Dataset::parse("x.toml", &text);
    }
}

const GEO: &str = include_str!("../../../dags/datasets/geo.toml");
const USERS: &str = include_str!("../../../dags/datasets/users.toml");

fn shipped(file: &str, text: &str) -> Dataset {
    Dataset::parse(file, text).unwrap_or_else(|error| panic!("{error}"))
}

#[test]
fn places_and_users_clean_to_typed_rows() {
    let geo = shipped("geo.toml", GEO);
    for written in [
        "2020-08-28 03:52:47",
        "2020-08-28T03:52:47",
        "2020:08:28 03:52:47",
    ] {
        let message = json!({ "ind": 7528, "timestamp": written, "latitude": -89.9787, "longitude": 12, "country": "Albania" });
        let row = geo
            .clean(Some(message.to_string().as_bytes()))
            .unwrap_or_else(|rejected| panic!("{rejected:?}"));
        let expected = [
            Cell::Integer(7528),
            Cell::Timestamp(1_598_586_767_000_000),
            Cell::Float(-89.9787),
            Cell::Float(12.0),
            text("Albania"),
            Cell::Null,
        ];
        assert_eq!(row.values, expected);
    }
    let message = json!({ "ind": 1, "timestamp": "28.08.2020", "latitude": 0.5, "longitude": 0.5, "country": "" });
    let rejected = geo
        .clean(Some(message.to_string().as_bytes()))
        .expect_err("no such format");
    assert_eq!(
        (rejected.stage, rejected.rule.as_str()),
        (Stage::Contract, "timestamp:timestamp")
    );

    let users = shipped("users.toml", USERS);
    let message = json!({ "ind": 7528, "first_name": "Abigail", "last_name": "User Info Error", "age": 20, "date_joined": "2015-10-24 11:23:51" });
    let row = users
        .clean(Some(message.to_string().as_bytes()))
        .unwrap_or_else(|rejected| panic!("{rejected:?}"));
    let expected = [
        Cell::Integer(7528),
        text("Abigail"),
        Cell::Null,
        Cell::Integer(20),
        Cell::Timestamp(1_445_685_831_000_000),
        Cell::Null,
    ];
    assert_eq!(row.values, expected);
}

/// The dataset that docs/DATASETS.md shows.
fn readings() -> Dataset {
    let docs = include_str!("../../../docs/DATASETS.md");
    let example = docs
        .split("```toml\n")
        .skip(1)
        .filter_map(|rest| rest.split("```").next())
        .find(|example| example.contains("[[expectations]]"))
        .expect("the docs have an example");
    shipped("DATASETS.md", example)
}

#[test]
fn the_example_of_the_docs_marks_quarantines_and_fails() {
    let dataset = readings();
    let clean = |message: Value| dataset.clean(Some(message.to_string().as_bytes()));
    let row = clean(
        json!({ "sensor": "s-1", "taken": "2020-02-29T12:00:00.5+02:00", "celsius": -273.15 }),
    )
    .unwrap_or_else(|rejected| panic!("{rejected:?}"));
    assert!(row.fired.is_empty());
    assert_eq!(
        row.values[1..4],
        [
            Cell::Timestamp(1_582_970_400_500_000),
            Cell::Float(-273.15),
            Cell::Integer(2020)
        ]
    );
    let row = clean(json!({ "sensor": "s-one", "taken": "2020-02-29 12:00:00", "celsius": null }))
        .unwrap_or_else(|rejected| panic!("{rejected:?}"));
    let fired: Vec<String> = row
        .fired
        .iter()
        .map(|fired| dataset.rule_name(*fired))
        .collect();
    assert_eq!(fired, ["expectation:sensor_by_its_number"]);

    for (message, rule, fails) in [
        (
            json!({ "sensor": "s-1", "taken": null, "celsius": -274 }),
            "expectation:above_absolute_zero",
            false,
        ),
        (
            json!({ "sensor": "s-1", "taken": "2019-04-30 23:59:59", "celsius": 1 }),
            "expectation:after_the_first_sensor",
            true,
        ),
        (
            json!({ "sensor": "s-1", "celsius": 1 }),
            "missing_field:taken",
            false,
        ),
    ] {
        let rejected = clean(message).expect_err("it breaks the contract");
        assert_eq!(
            (rejected.stage, rejected.rule.as_str()),
            (Stage::Contract, rule)
        );
        assert_eq!(dataset.fails_batch(&rejected.rule), fails);
    }
    let rejected = clean(json!({ "sensor": "s-1", "taken": null, "celsius": -274 }))
        .expect_err("it is too cold");
    assert_eq!(rejected.detail, "expected `celsius` to be at least -273.15");
}

#[test]
fn every_condition_of_an_expectation_is_kept_by_null_but_not_null() {
    let file = |condition: &str| {
        shipped(
            "conditions.toml",
            &format!(
                "id = \"c\"\nkey = \"id\"\n[[fields]]\nname = \"id\"\ntype = \"integer\"\nnullable = false\n\
                 [[fields]]\nname = \"word\"\ntype = \"text\"\n[[fields]]\nname = \"tags\"\ntype = \"tags\"\n\
                 [[expectations]]\nname = \"it\"\nseverity = \"quarantine\"\n{condition}\n"
            ),
        )
    };
    for (condition, good, bad) in [
        (
            "column = \"word\"\nnot_null = true",
            json!({ "word": "a" }),
            json!({ "word": null }),
        ),
        (
            "column = \"word\"\none_of = [\"a\", \"b\"]",
            json!({ "word": "b" }),
            json!({ "word": "c" }),
        ),
        (
            "column = \"word\"\nmatches = \"a|bb\"",
            json!({ "word": "bb" }),
            json!({ "word": "abb" }),
        ),
        (
            "column = \"word\"\nmin_length = 2\nmax_length = 3",
            json!({ "word": "日本語" }),
            json!({ "word": "a" }),
        ),
        (
            "column = \"word\"\nmax_length = 3",
            json!({ "word": null }),
            json!({ "word": "abcd" }),
        ),
        (
            "column = \"tags\"\nmin_length = 2",
            json!({ "tags": "a,b" }),
            json!({ "tags": "a,,"  }),
        ),
        ("column = \"id\"\nmax = 7", json!({}), json!({ "id": 8 })),
    ] {
        let dataset = file(condition);
        let whole = |part: Value| {
            let mut message = json!({ "id": 7, "word": null, "tags": null });
            for (name, value) in part.as_object().expect("an object") {
                message[name] = value.clone();
            }
            dataset.clean(Some(message.to_string().as_bytes()))
        };
        assert!(whole(good).is_ok(), "{condition}");
        let rejected = whole(bad).expect_err(condition);
        assert_eq!(rejected.rule, "expectation:it");
    }
}

#[test]
fn mistakes_in_expectations_formats_and_missing_are_reported() {
    let text = "id = \"c\"\nkey = \"id\"\n\
        [[fields]]\nname = \"id\"\ntype = \"integer\"\nnullable = false\nrequired = true\nmissing = \"nul\"\n\
        [[fields]]\nname = \"at\"\ntype = \"timestamp\"\nformats = [\"%Y-%m-%d\", \"%H:%M\"]\n\
        [[expectations]]\nname = \"one\"\ncolumn = \"idd\"\nmin = 1\nseverity = \"warn\"\n\
        [[expectations]]\nname = \"two\"\ncolumn = \"id\"\nmin = 1.5\nmatches = \"a\"\nseverity = \"fial\"\n\
        [[expectations]]\nname = \"three\"\ncolumn = \"id\"\nseverity = \"fail\"\n";
    let error = Dataset::parse("broken.toml", text).expect_err("the file is full of mistakes");
    let messages: Vec<&str> = error
        .problems
        .iter()
        .map(|problem| problem.message.as_str())
        .collect();
    for expected in [
        "field `id` has both `required` and `missing`",
        "`missing` must be `null`, `quarantine` or `reject`, found `nul`",
        "`%H:%M` is no timestamp format: a moment needs %Y, %m and %d",
        "an expectation is about `idd`, which is no column",
        "`min` must be an integer, found float",
        "`matches` is for texts, which `id` is not",
        "unknown severity `fial`",
        "an expectation without a condition",
    ] {
        assert!(messages.contains(&expected), "{expected}: {messages:#?}");
    }
    assert_eq!(messages.len(), 8, "{messages:#?}");
}

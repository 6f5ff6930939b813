//! The shipped questions against a second opinion: the answers counted by hand over the raw rows, in plain Rust and without any
//! of the SQL, on random rows full of ties, duplicates, orphans and nulls.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
};

use chrono::{DateTime, Datelike};
use polars::prelude::*;
use proptest::{prelude::*, test_runner::TestRunner};
use serde_json::{Value, json};

use super::Answer;
use crate::{
    S3Addressing, S3Credentials, S3Settings,
    lake::Horizon,
    query::{Bindings, Tables},
    s3::{Location, ObjectStore},
};

const YEARS: [(&str, i32); 4] = [
    ("first_post_year", 2018),
    ("last_post_year", 2022),
    ("first_join_year", 2015),
    ("last_join_year", 2020),
];

#[derive(Debug, Clone)]
struct Pin {
    unique_id: String,
    index: i64,
    category: Option<&'static str>,
    followers: Option<i64>,
    poster: Option<&'static str>,
    partition: i32,
}

#[derive(Debug, Clone)]
struct Place {
    ind: i64,
    country: Option<&'static str>,
    at: Option<i64>,
    partition: i32,
}

#[derive(Debug, Clone)]
struct User {
    ind: i64,
    first: Option<&'static str>,
    last: Option<&'static str>,
    age: Option<i64>,
    joined: Option<i64>,
    partition: i32,
}

/// Rows of the three datasets. The offset of a row is its place, turned around by `turned`, so that the latest version of a key
/// is not always the last row.
#[derive(Debug, Clone)]
struct World {
    pins: Vec<Pin>,
    places: Vec<Place>,
    users: Vec<User>,
    turned: bool,
}

impl World {
    fn offset(&self, place: usize) -> i64 {
        let place = i64::try_from(place).expect("few rows");
        if self.turned { 1_000 - place } else { place }
    }
}

/// The first or the last moment of a year, in microseconds: where years go wrong.
fn moment() -> impl Strategy<Value = Option<i64>> {
    let edge = (2012_i32..=2024, any::<bool>()).prop_map(|(year, is_first)| {
        let text = if is_first {
            format!("{year}-01-01T00:00:00Z")
        } else {
            format!("{year}-12-31T23:59:59.999999Z")
        };
        let moment: DateTime<chrono::Utc> = text.parse().expect("a date");
        moment.timestamp_micros()
    });
    prop::option::weighted(0.9, edge)
}

fn one_of(texts: &'static [&'static str]) -> impl Strategy<Value = Option<&'static str>> {
    prop::option::weighted(0.85, prop::sample::select(texts))
}

fn worlds() -> impl Strategy<Value = World> {
    let pin = (
        0_i64..25,
        0_i64..20,
        one_of(&["art", "beauty", "travel"]),
        prop::option::weighted(0.8, prop::sample::select(&[0, 1, 2, 5, 1_000_000][..])),
        one_of(&["ann", "bob"]),
        0_i32..3,
    )
        .prop_map(|(id, index, category, followers, poster, partition)| Pin {
            unique_id: format!("post {id}"),
            index,
            category,
            followers,
            poster,
            partition,
        });
    let place = (
        0_i64..22,
        one_of(&["Chad", "Fiji", "Peru"]),
        moment(),
        0_i32..3,
    )
        .prop_map(|(ind, country, at, partition)| Place {
            ind,
            country,
            at,
            partition,
        });
    let age = prop::option::weighted(
        0.9,
        prop::sample::select(&[-1, 0, 17, 18, 24, 25, 35, 36, 50, 51, 120][..]),
    );
    let user = (
        0_i64..22,
        one_of(&["Ada", "Bo"]),
        one_of(&["Ng"]),
        age,
        moment(),
        0_i32..3,
    )
        .prop_map(|(ind, first, last, age, joined, partition)| User {
            ind,
            first,
            last,
            age,
            joined,
            partition,
        });
    (
        prop::collection::vec(pin, 0..60),
        prop::collection::vec(place, 0..40),
        prop::collection::vec(user, 0..40),
        any::<bool>(),
    )
        .prop_map(|(pins, places, users, turned)| World {
            pins,
            places,
            users,
            turned,
        })
}

// The second opinion.

/// Null after everything else, as the questions order.
fn nulls_last<T: Ord>(value: Option<T>) -> (bool, Option<T>) {
    (value.is_none(), value)
}

fn year(moment: Option<i64>) -> Option<i32> {
    let moment = DateTime::from_timestamp_micros(moment?)?;
    Some(moment.year())
}

fn age_group(age: Option<i64>) -> (u8, &'static str) {
    match age {
        Some(0..=17) => (0, "under 18"),
        Some(18..=24) => (1, "18-24"),
        Some(25..=35) => (2, "25-35"),
        Some(36..=50) => (3, "36-50"),
        Some(51..) => (4, "50+"),
        Some(..0) | None => (5, "unknown"),
    }
}

fn median(mut numbers: Vec<i64>) -> Value {
    numbers.sort_unstable();
    let count = numbers.len();
    if count == 0 {
        return Value::Null;
    }
    let (lower, upper) = (numbers[(count - 1) / 2], numbers[count / 2]);
    json!((lower as f64 + upper as f64) / 2.0)
}

/// The keys with the highest count.
fn most<K: Ord + Clone>(counts: &BTreeMap<K, i64>) -> Vec<(K, i64)> {
    let highest = counts.values().max().copied();
    counts
        .iter()
        .filter(|(_, count)| Some(**count) == highest)
        .map(|(key, count)| (key.clone(), *count))
        .collect()
}

/// Who a user is: those whose names and moment of joining are known are the same person wherever these and the age are.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Person {
    Known(&'static str, &'static str, Option<i64>, i64),
    Alone(i64),
}

/// A post with what belongs to it.
struct Post<'w> {
    pin: &'w Pin,
    country: Option<&'static str>,
    year: Option<i32>,
    user: Option<(i64, &'w User)>,
}

struct Opinion<'w> {
    posts: Vec<Post<'w>>,
    /// The users by the smallest `ind`, with one of their rows.
    people: BTreeMap<i64, &'w User>,
}

/// The latest row of each key.
fn latest<'w, T, K: Ord>(
    world: &World,
    rows: &'w [T],
    key: impl Fn(&T) -> K,
    partition: impl Fn(&T) -> i32,
) -> BTreeMap<K, &'w T> {
    let mut latest: BTreeMap<K, ((i64, i32), &T)> = BTreeMap::new();
    for (place, row) in rows.iter().enumerate() {
        let rank = (world.offset(place), partition(row));
        let known = latest.entry(key(row)).or_insert((rank, row));
        if rank > known.0 {
            *known = (rank, row);
        }
    }
    latest
        .into_iter()
        .map(|(key, (_, row))| (key, row))
        .collect()
}

impl<'w> Opinion<'w> {
    fn of(world: &'w World) -> Self {
        let places = latest(world, &world.places, |row| row.ind, |row| row.partition);
        let users = latest(world, &world.users, |row| row.ind, |row| row.partition);
        let pins = latest(
            world,
            &world.pins,
            |row| row.unique_id.clone(),
            |row| row.partition,
        );
        let person = |user: &User| match (user.first, user.last, user.joined) {
            (Some(first), Some(last), Some(joined)) => {
                Person::Known(first, last, user.age.filter(|age| *age >= 0), joined)
            }
            _unnamed => Person::Alone(user.ind),
        };
        let mut ids: BTreeMap<Person, i64> = BTreeMap::new();
        for user in users.values() {
            ids.entry(person(user)).or_insert(user.ind);
        }
        let posts = pins
            .into_values()
            .map(|pin| {
                let place = places.get(&pin.index);
                Post {
                    pin,
                    country: place.and_then(|place| place.country),
                    year: place.and_then(|place| year(place.at)),
                    user: users
                        .get(&pin.index)
                        .map(|user| (ids[&person(user)], *user)),
                }
            })
            .collect();
        let people = users
            .values()
            .map(|user| (ids[&person(user)], *user))
            .collect();
        Self { posts, people }
    }

    fn followers(&self, user: i64) -> Option<i64> {
        self.posts
            .iter()
            .filter(|post| post.user.is_some_and(|(id, _)| id == user))
            .filter_map(|post| post.pin.followers)
            .max()
    }

    /// The most popular categories of each group, in the groups' order.
    fn popular<G: Ord + Clone>(
        &self,
        group: impl Fn(&Post<'_>) -> Option<G>,
    ) -> Vec<(G, Option<&'static str>, i64)> {
        let mut groups: BTreeMap<G, BTreeMap<_, i64>> = BTreeMap::new();
        for post in &self.posts {
            if let Some(group) = group(post) {
                let counts = groups.entry(group).or_default();
                *counts.entry(nulls_last(post.pin.category)).or_default() += 1;
            }
        }
        let mut popular = Vec::new();
        for (group, counts) in groups {
            for ((_, category), count) in most(&counts) {
                popular.push((group.clone(), category, count));
            }
        }
        popular
    }

    fn in_years(post: &Post<'_>) -> Option<i32> {
        post.year.filter(|year| (2018..=2022).contains(year))
    }

    /// Users and strangers of each country with the most followers that their posts there show.
    fn followed(&self) -> BTreeMap<&'static str, BTreeMap<Fan, i64>> {
        let mut countries: BTreeMap<_, BTreeMap<Fan, i64>> = BTreeMap::new();
        for post in &self.posts {
            let (Some(country), Some(followers)) = (post.country, post.pin.followers) else {
                continue;
            };
            let fan = match post.user {
                Some((id, user)) => Fan {
                    id: nulls_last(Some(id)),
                    poster: nulls_last(None),
                    names: (user.first, user.last),
                },
                None => Fan {
                    id: nulls_last(None),
                    poster: nulls_last(post.pin.poster),
                    names: (None, None),
                },
            };
            let known = countries
                .entry(country)
                .or_default()
                .entry(fan)
                .or_insert(followers);
            *known = followers.max(*known);
        }
        countries
    }

    fn medians<G: Ord>(&self, group: impl Fn(&User) -> G) -> Vec<(G, i64, i64, Value)> {
        let mut groups: BTreeMap<G, (i64, Vec<i64>)> = BTreeMap::new();
        for (id, user) in &self.people {
            let (users, followers) = groups.entry(group(user)).or_default();
            *users += 1;
            followers.extend(self.followers(*id));
        }
        groups
            .into_iter()
            .map(|(group, (users, followers))| {
                (group, users, followers.len() as i64, median(followers))
            })
            .collect()
    }

    fn count(&self, is: impl Fn(&Post<'_>) -> bool) -> usize {
        self.posts.iter().filter(|post| is(post)).count()
    }

    fn answer(&self, question: &str, world: &World) -> Vec<Value> {
        match question {
            "category_per_country" => self
                .popular(|post| post.country)
                .into_iter()
                .map(|row| json!(row))
                .collect(),
            "posts_per_category_and_year" => {
                let mut counts: BTreeMap<_, i64> = BTreeMap::new();
                for post in &self.posts {
                    if let Some(year) = Self::in_years(post) {
                        *counts
                            .entry((year, nulls_last(post.pin.category)))
                            .or_default() += 1;
                    }
                }
                let mut rows: Vec<_> = counts
                    .into_iter()
                    .map(|((year, category), count)| (year, -count, category))
                    .collect();
                rows.sort_unstable();
                rows.into_iter()
                    .map(|(year, count, (_, category))| json!([year, category, -count]))
                    .collect()
            }
            "top_category_per_year" => self
                .popular(Self::in_years)
                .into_iter()
                .map(|row| json!(row))
                .collect(),
            "most_followed_per_country" => self
                .followed()
                .into_iter()
                .flat_map(|(country, fans)| {
                    most(&fans)
                        .into_iter()
                        .map(move |(fan, followers)| fan.row(country, followers))
                })
                .collect(),
            "country_of_most_followed" => {
                let all = self.followed().into_iter().flat_map(|(country, fans)| {
                    fans.into_iter()
                        .map(move |(fan, followers)| ((country, fan), followers))
                });
                most(&all.collect())
                    .into_iter()
                    .map(|((country, fan), followers)| fan.row(country, followers))
                    .collect()
            }
            "category_per_age_group" => self
                .popular(|post| Some(age_group(post.user.and_then(|(_, user)| user.age))))
                .into_iter()
                .map(|((_, group), category, count)| json!([group, category, count]))
                .collect(),
            "followers_per_age_group" => self
                .medians(|user| age_group(user.age))
                .into_iter()
                .map(|((_, group), users, counted, median)| json!([group, users, counted, median]))
                .collect(),
            "users_joined_per_year" => self
                .medians(|user| year(user.joined))
                .into_iter()
                .filter(|(year, ..)| year.is_some_and(|year| (2015..=2020).contains(&year)))
                .map(|(year, users, ..)| json!([year, users]))
                .collect(),
            "followers_per_join_year" => self
                .medians(|user| nulls_last(year(user.joined)))
                .into_iter()
                .map(|((_, year), users, counted, median)| json!([year, users, counted, median]))
                .collect(),
            "followers_per_join_year_and_age" => self
                .medians(|user| (nulls_last(year(user.joined)), age_group(user.age)))
                .into_iter()
                .map(|(((_, year), (_, group)), users, counted, median)| {
                    json!([year, group, users, counted, median])
                })
                .collect(),
            "coverage" => {
                let with_followers = self
                    .people
                    .keys()
                    .filter(|user| self.followers(**user).is_some());
                let places: BTreeSet<i64> = world.places.iter().map(|place| place.ind).collect();
                vec![
                    json!(["posts", self.posts.len()]),
                    json!([
                        "posts with a place",
                        self.count(|post| places.contains(&post.pin.index))
                    ]),
                    json!([
                        "posts with a country",
                        self.count(|post| post.country.is_some())
                    ]),
                    json!(["posts with a year", self.count(|post| post.year.is_some())]),
                    json!(["posts with a user", self.count(|post| post.user.is_some())]),
                    json!([
                        "posts with followers",
                        self.count(|post| post.pin.followers.is_some())
                    ]),
                    json!(["users", self.people.len()]),
                    json!(["users with followers", with_followers.count()]),
                ]
            }
            other => panic!("nobody has an opinion on `{other}`"),
        }
    }
}

/// A user, or somebody without an account, in the order of the answers.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Fan {
    id: (bool, Option<i64>),
    poster: (bool, Option<&'static str>),
    names: (Option<&'static str>, Option<&'static str>),
}

impl Fan {
    fn row(&self, country: &str, followers: i64) -> Value {
        json!([
            country,
            self.id.1,
            self.names.0,
            self.names.1,
            self.poster.1,
            followers
        ])
    }
}

// The shipped questions over the same rows.

fn moments(name: &str, moments: impl Iterator<Item = Option<i64>>) -> Column {
    Column::new(name.into(), moments.collect::<Vec<_>>())
        .cast(&DataType::Datetime(TimeUnit::Microseconds, None))
        .expect("integers are moments")
}

fn frame(world: &World, columns: Vec<Column>, partitions: Vec<i32>) -> DataFrame {
    let offsets: Vec<i64> = (0..partitions.len())
        .map(|place| world.offset(place))
        .collect();
    let rows = partitions.len();
    let provenance = [
        Column::new(crate::lake::PARTITION.into(), partitions),
        Column::new(crate::lake::OFFSET.into(), offsets),
    ];
    DataFrame::new(rows, columns.into_iter().chain(provenance).collect())
        .expect("the columns have one length")
}

fn pins(world: &World) -> DataFrame {
    let rows = &world.pins;
    let texts = |name: &str, text: &dyn Fn(&Pin) -> Option<String>| {
        Column::new(name.into(), rows.iter().map(text).collect::<Vec<_>>())
    };
    let numbers = |name: &str, number: &dyn Fn(&Pin) -> Option<i64>| {
        Column::new(name.into(), rows.iter().map(number).collect::<Vec<_>>())
    };
    let columns = vec![
        texts("unique_id", &|row| Some(row.unique_id.clone())),
        numbers("index", &|row| Some(row.index)),
        texts("category", &|row| row.category.map(str::to_owned)),
        numbers("follower_count", &|row| row.followers),
        texts("poster_name", &|row| row.poster.map(str::to_owned)),
    ];
    frame(
        world,
        columns,
        rows.iter().map(|row| row.partition).collect(),
    )
}

fn geo(world: &World) -> DataFrame {
    let rows = &world.places;
    let columns = vec![
        Column::new(
            "ind".into(),
            rows.iter().map(|row| row.ind).collect::<Vec<_>>(),
        ),
        moments("timestamp", rows.iter().map(|row| row.at)),
        Column::new(
            "country".into(),
            rows.iter().map(|row| row.country).collect::<Vec<_>>(),
        ),
    ];
    frame(
        world,
        columns,
        rows.iter().map(|row| row.partition).collect(),
    )
}

fn users(world: &World) -> DataFrame {
    let rows = &world.users;
    let columns = vec![
        Column::new(
            "ind".into(),
            rows.iter().map(|row| row.ind).collect::<Vec<_>>(),
        ),
        Column::new(
            "first_name".into(),
            rows.iter().map(|row| row.first).collect::<Vec<_>>(),
        ),
        Column::new(
            "last_name".into(),
            rows.iter().map(|row| row.last).collect::<Vec<_>>(),
        ),
        Column::new(
            "age".into(),
            rows.iter().map(|row| row.age).collect::<Vec<_>>(),
        ),
        moments("date_joined", rows.iter().map(|row| row.joined)),
    ];
    frame(
        world,
        columns,
        rows.iter().map(|row| row.partition).collect(),
    )
}

/// What the DAG file ships: views and reports, each by name and SQL.
struct Shipped {
    views: Vec<(String, String)>,
    reports: Vec<(String, String)>,
}

fn shipped() -> Shipped {
    let dags = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../dags");
    let read = |path: &Path| {
        std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
    };
    let file: toml::Table = read(&dags.join("pinterest_reports.toml"))
        .parse()
        .expect("TOML");
    let with = &file["tasks"]["report"]["with"];
    let named = |list: &str| {
        with[list]
            .as_array()
            .expect("a list")
            .iter()
            .map(|entry| {
                let text = |key: &str| entry[key].as_str().expect("a text").to_owned();
                (text("name"), read(&dags.join(text("sql"))))
            })
            .collect()
    };
    Shipped {
        views: named("views"),
        reports: named("reports"),
    }
}

/// A store that is never asked.
async fn nowhere() -> ObjectStore {
    ObjectStore::connect(&S3Settings {
        endpoint: Some("http://127.0.0.1:9".to_owned()),
        region: "none".to_owned(),
        credentials: Some(S3Credentials {
            access_key_id: "none".to_owned(),
            secret_access_key: "none".to_owned(),
        }),
        addressing: S3Addressing::Path,
    })
    .await
}

async fn answers(store: &ObjectStore, shipped: &Shipped, world: &World) -> Vec<Vec<Value>> {
    let at = |name: &str| (name.to_owned(), Location::new("lake", name));
    let datasets = BTreeMap::from(["pins", "geo", "users"].map(at));
    let bindings: Bindings = YEARS
        .into_iter()
        .map(|(name, year)| (name.to_owned(), json!(year)))
        .collect();
    let mut tables = Tables::new(store, &datasets, Horizon::Everything)
        .given("pins", pins(world))
        .given("geo", geo(world))
        .given("users", users(world));
    for (name, sql) in &shipped.views {
        tables
            .define(name, sql, &bindings)
            .unwrap_or_else(|failure| panic!("{name}: {failure}"));
    }
    let mut answers = Vec::new();
    for (name, sql) in &shipped.reports {
        let rows = tables
            .answer(sql, &bindings)
            .await
            .unwrap_or_else(|failure| panic!("{name}: {failure}"));
        let answer = Answer::of(&rows).expect("the rows can be read");
        answers.push(answer.rows.into_iter().map(Value::Array).collect());
    }
    answers
}

#[test]
fn the_eleven_answers_are_those_counted_by_hand() {
    let shipped = shipped();
    assert_eq!(shipped.reports.len(), 11);
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let store = runtime.block_on(nowhere());
    let mut runner = TestRunner::new(ProptestConfig {
        cases: 64,
        failure_persistence: None,
        ..ProptestConfig::default()
    });
    let outcome = runner.run(&worlds(), |world| {
        let found = runtime.block_on(answers(&store, &shipped, &world));
        let opinion = Opinion::of(&world);
        for ((name, _), found) in shipped.reports.iter().zip(found) {
            prop_assert_eq!(found, opinion.answer(name, &world), "{}", name);
        }
        Ok(())
    });
    outcome.unwrap_or_else(|failure| panic!("{failure}"));
}

#[test]
fn duplicates_orphans_and_ties_do_not_count_twice() {
    let pin = |id: &str, index, category, followers| Pin {
        unique_id: id.to_owned(),
        index,
        category: Some(category),
        followers: Some(followers),
        poster: None,
        partition: 0,
    };
    let place = |ind, country| Place {
        ind,
        country: Some(country),
        at: Some(1_577_836_799_999_999),
        partition: 0,
    };
    let user = |ind, age| User {
        ind,
        first: Some("Ada"),
        last: Some("Ng"),
        age: Some(age),
        joined: Some(1_577_836_800_000_000),
        partition: 0,
    };
    let world = World {
        pins: vec![
            pin("a", 1, "art", 10),
            pin("a", 1, "art", 20),
            pin("b", 2, "travel", 30),
            pin("c", 3, "travel", 30),
            pin("d", 1, "art", 5),
        ],
        // Three places of one row: the last counts, once.
        places: vec![
            place(1, "Chad"),
            place(1, "Chad"),
            place(1, "Peru"),
            place(2, "Peru"),
        ],
        // Rows 1 and 2 are one person, row 9 has no post.
        users: vec![user(1, 50), user(2, 50), user(3, 51), user(9, 17)],
        turned: false,
    };
    let shipped = shipped();
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let store = runtime.block_on(nowhere());
    let found = runtime.block_on(answers(&store, &shipped, &world));
    let answer = |name: &str| {
        let place = shipped.reports.iter().position(|(known, _)| known == name);
        json!(found[place.expect("the report is shipped")])
    };
    assert_eq!(
        answer("category_per_country"),
        json!([["Peru", "art", 2]]),
        "two posts of row 1, one of row 2"
    );
    assert_eq!(
        answer("top_category_per_year"),
        json!([[2019, "art", 2]]),
        "the last microsecond of 2019"
    );
    assert_eq!(
        answer("country_of_most_followed"),
        json!([["Peru", 1, "Ada", "Ng", null, 30]]),
        "row 2 is the person of row 1; row 3 has no country"
    );
    assert_eq!(
        answer("category_per_age_group"),
        json!([["36-50", "art", 2], ["50+", "travel", 1]])
    );
    assert_eq!(
        answer("followers_per_age_group"),
        json!([
            ["under 18", 1, 0, null],
            ["36-50", 1, 1, 30.0],
            ["50+", 1, 1, 30.0]
        ])
    );
    assert_eq!(
        answer("users_joined_per_year"),
        json!([[2020, 3]]),
        "the first moment of 2020"
    );
}

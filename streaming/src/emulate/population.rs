//! Any number of pins, places and users of the same shape and dirt as the 200 real pins, made by a fixed seed.
//!
//! A row is a function of the seed and its number alone: rows may be made in any order, by several threads, twice. The
//! rows that are real come as they are, byte for byte; the others take the category of their band of the table and mix
//! the texts of the real pins of that category. Every value here is made up or comes from the bundled sample.

use std::{collections::HashMap, io::Write};

use chrono::{DateTime, Datelike, Timelike, Utc};
use serde_json::Value;

use super::rows::{LAST_ROW, ORIGINAL_SEED};

const PINS: &str = include_str!("../../../data/pins.ndjson");
/// One made row in so many carries each kind of dirt that the scraper can emit and the sample does not hold.
const RARE: u64 = 200;

/// What a record is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Records {
    /// The posts.
    Pins,
    /// When and where each was posted.
    Geo,
    /// Who posted each.
    Users,
}

impl Records {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Pins, Self::Geo, Self::Users];

    /// The name of the dataset, which is that of the topic.
    pub fn name(self) -> &'static str {
        match self {
            Self::Pins => "pins",
            Self::Geo => "geo",
            Self::Users => "users",
        }
    }
}

/// All rows there could be.
#[derive(Debug)]
pub struct Population {
    seed: u64,
    real: HashMap<u64, &'static str>,
    /// The categories by the first row of their band.
    bands: Vec<Band>,
}

#[derive(Debug)]
struct Band {
    first: u64,
    pins: Vec<Template>,
    /// Words of the category's titles, to make titles differ.
    words: Vec<String>,
}

/// A real pin; the texts are JSON without its quotes.
#[derive(Debug)]
struct Template {
    index: u64,
    category: String,
    title: String,
    description: String,
    follower_count: String,
    tag_list: String,
    is_image_or_video: String,
    image_src: String,
    downloaded: i64,
    save_location: String,
}

impl Default for Population {
    fn default() -> Self {
        Self::new(ORIGINAL_SEED)
    }
}

impl Population {
    /// The population of a seed. Real rows are the same in all of them.
    pub fn new(seed: u64) -> Self {
        let mut real = HashMap::new();
        let mut pins: Vec<Template> = Vec::new();
        for line in PINS.lines().filter(|line| !line.trim().is_empty()) {
            let template = Template::read(line);
            real.insert(template.index, line);
            pins.push(template);
        }
        pins.sort_by_key(|pin| pin.index);
        let mut bands: Vec<Band> = Vec::new();
        let mut before = 0;
        for pin in pins {
            let index = pin.index;
            match bands.last_mut() {
                Some(band) if band.pins[0].category == pin.category => band.pins.push(pin),
                Some(_) | None => bands.push(Band {
                    // Nobody knows where a band begins; half way between two known rows is as good as any.
                    first: if bands.is_empty() {
                        0
                    } else {
                        (before + index) / 2 + 1
                    },
                    pins: vec![pin],
                    words: Vec::new(),
                }),
            }
            before = index;
        }
        for band in &mut bands {
            let words = band.pins.iter().flat_map(|pin| pin.title.split(' '));
            band.words = words
                .filter(|word| {
                    word.len() > 3 && word.bytes().all(|byte| byte.is_ascii_alphabetic())
                })
                .map(str::to_owned)
                .collect();
        }
        Self { seed, real, bands }
    }

    /// Appends the record of a row as one JSON object, without a line feed.
    pub fn write(&self, records: Records, row: u64, out: &mut Vec<u8>) {
        match records {
            Records::Pins => self.write_pin(row, out),
            Records::Geo => self.write_geo(row, out),
            Records::Users => self.write_user(row, out),
        }
    }

    /// The record of a row as one JSON object.
    pub fn record(&self, records: Records, row: u64) -> String {
        let mut out = Vec::with_capacity(1024);
        self.write(records, row, &mut out);
        String::from_utf8(out).expect("made of text")
    }

    /// The key of the message of a row: a pin's `unique_id`, and `ind` as text for the others.
    pub fn key(&self, records: Records, row: u64) -> String {
        match records {
            Records::Pins => match self.real.get(&row) {
                Some(line) => {
                    let pin: Value = serde_json::from_str(line).expect("the sample is NDJSON");
                    pin["unique_id"].as_str().expect("it has a key").to_owned()
                }
                None => self.unique_id(row),
            },
            Records::Geo | Records::Users => row.to_string(),
        }
    }

    fn unique_id(&self, row: u64) -> String {
        let mut draw = Draw::new(self.seed, Purpose::Key, row);
        let (high, low) = (draw.next(), draw.next());
        format!(
            "{:08x}-{:04x}-4{:03x}-{:04x}-{:012x}",
            high >> 32,
            (high >> 16) & 0xffff,
            high & 0xfff,
            0x8000 | ((low >> 48) & 0x3fff),
            low & 0xffff_ffff_ffff
        )
    }

    fn write_pin(&self, row: u64, out: &mut Vec<u8>) {
        if let Some(line) = self.real.get(&row) {
            out.extend_from_slice(line.as_bytes());
            return;
        }
        let place = row % (LAST_ROW + 1);
        let after = self.bands.partition_point(|band| band.first <= place);
        let band = &self.bands[after.saturating_sub(1)];
        let mut draw = Draw::new(self.seed, Purpose::Pin, row);
        let pin = draw.one_of(&band.pins);
        let mut put = |text: &str| out.extend_from_slice(text.as_bytes());

        put("{\"category\": \"");
        put(&pin.category);
        put(&format!("\", \"index\": {row}, \"unique_id\": \""));
        put(&self.unique_id(row));
        put("\", \"title\": \"");
        if pin.is_bare() {
            put(&pin.title);
        } else {
            put(&mixed(&draw.one_of(&band.pins).title, band, &mut draw));
        }
        put("\", \"description\": \"");
        if pin.is_bare() {
            put(&pin.description);
        } else {
            put(&mixed(
                &draw.one_of(&band.pins).description,
                band,
                &mut draw,
            ));
        }
        put("\", \"follower_count\": \"");
        put(&followers(&pin.follower_count, &mut draw));
        put("\", \"tag_list\": \"");
        put(&pin.tag_list);
        put("\"");
        if draw.below(RARE) != 0 {
            put(", \"is_image_or_video\": \"");
            put(&pin.is_image_or_video);
            if !pin.is_image_or_video.ends_with(')') && draw.below(RARE) == 0 {
                put("(story page format)");
            }
            put("\", \"image_src\": \"");
            put(&image(&pin.image_src, &mut draw));
            put("\"");
        }
        put(&format!(
            ", \"downloaded\": {}, \"save_location\": \"",
            pin.downloaded
        ));
        if draw.below(RARE) == 0 {
            put("S3 bucket: pins-");
            put(&pin.category);
        } else {
            put(&pin.save_location);
        }
        put("\"");
        if draw.below(RARE) == 0 {
            put(", \"poster_name\": \"");
            if draw.below(2) == 0 {
                put("User Info Error");
            } else {
                put(draw.one_of::<&str>(&FIRST_NAMES));
            }
            put("\"");
        }
        put("}");
    }

    fn write_geo(&self, row: u64, out: &mut Vec<u8>) {
        let mut draw = Draw::new(self.seed, Purpose::Geo, row);
        let at = moment(&mut draw, (1_514_764_800, 1_672_531_200));
        let style = match draw.below(10) {
            0 => TimeStyle::T,
            1 => TimeStyle::Colons,
            _ => TimeStyle::Plain,
        };
        let latitude = draw.below(1_800_001) as f64 / 10_000.0 - 90.0;
        let longitude = draw.below(3_600_001) as f64 / 10_000.0 - 180.0;
        let country = draw.one_of(&COUNTRIES);
        let written = write!(
            out,
            r#"{{"ind": {row}, "timestamp": "{}", "latitude": {latitude:.4}, "longitude": {longitude:.4}, "country": "{country}"}}"#,
            style.show(at),
        );
        written.expect("memory takes everything");
    }

    /// Some people post often: of the first n rows, about 50 + n / 50 people are the posters.
    fn write_user(&self, row: u64, out: &mut Vec<u8>) {
        let person = Draw::new(self.seed, Purpose::User, row).below(50 + row / 50);
        let mut draw = Draw::new(self.seed, Purpose::Person, person);
        let (first, last) = (draw.one_of(&FIRST_NAMES), draw.one_of(&LAST_NAMES));
        let age = match draw.below(100) {
            0 | 1 => "null".to_owned(),
            2..=7 => (13 + draw.below(5)).to_string(),
            _ => (18 + draw.below(63).min(draw.below(63))).to_string(),
        };
        let joined = TimeStyle::Plain.show(moment(&mut draw, (1_420_070_400, 1_609_459_200)));
        let written = write!(
            out,
            r#"{{"ind": {row}, "first_name": "{first}", "last_name": "{last}", "age": {age}, "date_joined": "{joined}"}}"#,
        );
        written.expect("memory takes everything");
    }
}

impl Template {
    fn read(line: &str) -> Self {
        let pin: Value = serde_json::from_str(line).expect("the sample is NDJSON");
        let text = |name: &str| {
            let quoted = pin[name].to_string();
            quoted
                .trim_start_matches('"')
                .strip_suffix('"')
                .unwrap_or_default()
                .to_owned()
        };
        Self {
            index: pin["index"].as_u64().expect("the sample has its rows"),
            category: text("category"),
            title: text("title"),
            description: text("description"),
            follower_count: text("follower_count"),
            tag_list: text("tag_list"),
            is_image_or_video: text("is_image_or_video"),
            image_src: text("image_src"),
            downloaded: pin["downloaded"].as_i64().unwrap_or_default(),
            save_location: text("save_location"),
        }
    }

    /// Whether the scraper found nothing: then all of its placeholders come together.
    fn is_bare(&self) -> bool {
        self.title == "No Title Data Available"
    }
}

/// A text with one word of its category in the place of another; placeholders stay what they are.
fn mixed(text: &str, band: &Band, draw: &mut Draw) -> String {
    if text.starts_with("No ") || text == "Untitled" || band.words.is_empty() {
        return text.to_owned();
    }
    let spaces = text.bytes().filter(|byte| *byte == b' ').count() as u64;
    let chosen = draw.below(spaces + 1) as usize;
    let mut mixed = String::with_capacity(text.len() + 16);
    for (at, word) in text.split(' ').enumerate() {
        if at > 0 {
            mixed.push(' ');
        }
        if at == chosen {
            mixed.push_str(draw.one_of::<String>(&band.words));
        } else {
            mixed.push_str(word);
        }
    }
    mixed
}

/// A count of the same size and unit; seldom one with a decimal.
fn followers(shape: &str, draw: &mut Draw) -> String {
    let digits = shape.bytes().take_while(u8::is_ascii_digit).count();
    if digits == 0 {
        return shape.to_owned();
    }
    let unit = &shape[digits..];
    let least = 10u64.pow(digits as u32 - 1);
    let number = if digits == 1 {
        draw.below(10)
    } else {
        least + draw.below(9 * least)
    };
    if !unit.is_empty() && draw.below(RARE) == 0 {
        return format!("{number}.{}{unit}", draw.below(10));
    }
    format!("{number}{unit}")
}

/// An address of the same form.
fn image(shape: &str, draw: &mut Draw) -> String {
    let Some((site, path)) = shape.split_once("/originals/") else {
        return shape.to_owned();
    };
    let extension = path
        .rsplit_once('.')
        .map_or("jpg", |(_, extension)| extension);
    let hash = format!("{:016x}{:016x}", draw.next(), draw.next());
    format!(
        "{site}/originals/{}/{}/{}/{hash}.{extension}",
        &hash[0..2],
        &hash[2..4],
        &hash[4..6]
    )
}

/// A second within `[from, to)`, both in seconds since 1970.
fn moment(draw: &mut Draw, (from, to): (i64, i64)) -> DateTime<Utc> {
    let second = from + draw.below(to.abs_diff(from)) as i64;
    DateTime::from_timestamp(second, 0).unwrap_or_default()
}

/// The three ways in which the sources write a time.
#[derive(Clone, Copy)]
enum TimeStyle {
    Plain,
    T,
    Colons,
}

impl TimeStyle {
    fn show(self, at: DateTime<Utc>) -> String {
        let (date, between) = match self {
            Self::Plain => ('-', ' '),
            Self::T => ('-', 'T'),
            Self::Colons => (':', ' '),
        };
        format!(
            "{:04}{date}{:02}{date}{:02}{between}{:02}:{:02}:{:02}",
            at.year(),
            at.month(),
            at.day(),
            at.hour(),
            at.minute(),
            at.second()
        )
    }
}

/// What numbers are drawn for: rows share nothing between purposes.
#[derive(Clone, Copy)]
enum Purpose {
    Pin = 1,
    Key,
    Geo,
    User,
    Person,
}

/// SplitMix64 (Steele, Lea, Flood: Fast splittable pseudorandom number generators, 2014), started by seed, purpose and row.
struct Draw(u64);

impl Draw {
    fn new(seed: u64, purpose: Purpose, row: u64) -> Self {
        let mut draw = Self(seed ^ ((purpose as u64) << 56));
        draw.0 = draw.next() ^ row;
        draw.0 = draw.next();
        draw
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below the bound; 0 for a bound of 0.
    fn below(&mut self, bound: u64) -> u64 {
        let wide = u128::from(self.next()) * u128::from(bound);
        (wide >> 64) as u64
    }

    fn one_of<'a, T>(&mut self, all: &'a [T]) -> &'a T {
        &all[self.below(all.len() as u64) as usize]
    }
}

const FIRST_NAMES: [&str; 40] = [
    "Aaron",
    "Abigail",
    "Aisha",
    "Alejandra",
    "Amara",
    "Anna",
    "Benjamin",
    "Bogdan",
    "Caroline",
    "Chloé",
    "Daniel",
    "Deepika",
    "Elif",
    "Emma",
    "Fatima",
    "Francisco",
    "Gwen",
    "Hana",
    "Hugo",
    "Ingrid",
    "Ivan",
    "Jamal",
    "Jürgen",
    "Keiko",
    "Kwame",
    "Laura",
    "Liang",
    "Lucía",
    "Mateo",
    "Michelle",
    "Nadia",
    "Noah",
    "Olga",
    "Omar",
    "Priya",
    "Rosa",
    "Søren",
    "Tomasz",
    "Yasmin",
    "Zoë",
];
const LAST_NAMES: [&str; 40] = [
    "Adeyemi",
    "Ali",
    "Andersson",
    "Baker",
    "Bauer",
    "Castillo",
    "Chen",
    "Cohen",
    "Díaz",
    "Dubois",
    "Edwards",
    "Fischer",
    "Fraser",
    "García",
    "Haddad",
    "Ito",
    "Ivanova",
    "Jansen",
    "Johnson",
    "Kaya",
    "Kim",
    "Kowalska",
    "Lindqvist",
    "López",
    "Mensah",
    "Moretti",
    "Müller",
    "Nguyen",
    "Novák",
    "O'Brien",
    "Okafor",
    "Patel",
    "Popescu",
    "Rossi",
    "Santos",
    "Singh",
    "Smith",
    "Suzuki",
    "Wójcik",
    "Yilmaz",
];
const COUNTRIES: [&str; 60] = [
    "Afghanistan",
    "Albania",
    "Algeria",
    "American Samoa",
    "Andorra",
    "Angola",
    "Argentina",
    "Armenia",
    "Aruba",
    "Australia",
    "Austria",
    "Azerbaijan",
    "Bahamas",
    "Bangladesh",
    "Barbados",
    "Belgium",
    "Bosnia and Herzegovina",
    "Brazil",
    "Bulgaria",
    "Cambodia",
    "Cameroon",
    "Canada",
    "Chile",
    "China",
    "Colombia",
    "Cote d'Ivoire",
    "Croatia",
    "Curaçao",
    "Denmark",
    "Dominican Republic",
    "Egypt",
    "Ethiopia",
    "Fiji",
    "France",
    "Germany",
    "Ghana",
    "Greece",
    "Guinea-Bissau",
    "Iceland",
    "India",
    "Indonesia",
    "Isle of Man",
    "Italy",
    "Japan",
    "Kenya",
    "Maldives",
    "Mexico",
    "Morocco",
    "Netherlands",
    "New Zealand",
    "Nigeria",
    "Norway",
    "Pakistan",
    "Peru",
    "Poland",
    "Portugal",
    "Sweden",
    "Türkiye",
    "United Kingdom",
    "Viet Nam",
];

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::ingest;

    fn parsed(population: &Population, records: Records, row: u64) -> Value {
        serde_json::from_str(&population.record(records, row)).expect("JSON")
    }

    #[test]
    fn real_rows_are_the_real_pins_byte_for_byte() {
        let population = Population::default();
        for line in PINS.lines() {
            let pin: Value = serde_json::from_str(line).expect("the sample is NDJSON");
            let row = pin["index"].as_u64().expect("a row");
            assert_eq!(population.record(Records::Pins, row), line);
            assert_eq!(population.key(Records::Pins, row), pin["unique_id"]);
        }
    }

    #[test]
    fn every_made_pin_passes_the_ingest_api_under_its_own_key() {
        let population = Population::default();
        let mut keys = BTreeSet::new();
        for row in 0..30_000 {
            let record = population.record(Records::Pins, row);
            let key = ingest::check(record.as_bytes())
                .unwrap_or_else(|wrong| panic!("{record}: {wrong:?}"));
            assert_eq!(key, population.key(Records::Pins, row));
            assert!(keys.insert(key));
            assert_eq!(parsed(&population, Records::Pins, row)["index"], row);
        }
    }

    #[test]
    fn made_pins_have_the_size_and_the_dirt_of_the_real_ones() {
        let population = Population::default();
        let made: Vec<String> = (0..20_000)
            .map(|row| population.record(Records::Pins, row))
            .collect();
        let mean = made.iter().map(String::len).sum::<usize>() / made.len();
        assert!((630..740).contains(&mean), "{mean} bytes");
        for dirt in [
            "\"No Title Data Available\"",
            "\"No description available Story format\"",
            "\"No description available\"",
            "\"User Info Error\"",
            "\"Image src error.\"",
            "\"N,o, ,T,a,g,s, ,A,v,a,i,l,a,b,l,e\"",
            "\"multi-video(story page format)\"",
            "\"image(story page format)\"",
            "\"video(story page format)\"",
            "\"S3 bucket: ",
            "\"poster_name\": \"",
        ] {
            let share = made.iter().filter(|pin| pin.contains(dirt)).count();
            assert!(
                (1..4000).contains(&share),
                "{dirt}: {share} of {}",
                made.len()
            );
        }
        let without_media = made
            .iter()
            .filter(|pin| !pin.contains("\"image_src\""))
            .count();
        assert!((1..400).contains(&without_media), "{without_media}");
        let decimal = made.iter().filter(|pin| {
            let pin: Value = serde_json::from_str(pin).expect("JSON");
            pin["follower_count"]
                .as_str()
                .is_some_and(|count| count.contains('.') && !count.contains(' '))
        });
        assert!(decimal.count() > 10);
        let titles: BTreeSet<&str> = made
            .iter()
            .filter_map(|pin| pin.split("\"title\": ").nth(1)?.split("\", ").next())
            .collect();
        assert!(titles.len() > 4_000, "only {} titles differ", titles.len());
    }

    #[test]
    fn a_row_is_a_function_of_seed_and_number() {
        let (one, same, other) = (Population::new(7), Population::new(7), Population::new(8));
        for records in Records::ALL {
            assert_eq!(one.record(records, 12_345), same.record(records, 12_345));
            assert_ne!(one.record(records, 12_345), other.record(records, 12_345));
        }
        assert_eq!(
            one.record(Records::Pins, 7528),
            other.record(Records::Pins, 7528)
        );
    }

    #[test]
    fn categories_lie_in_bands_of_the_row() {
        let population = Population::default();
        let category = |row| parsed(&population, Records::Pins, row)["category"].clone();
        assert_eq!(category(0), "art");
        assert_eq!(category(11_000), "vehicles");
        assert_eq!(category(11_001), "art");
        let bands: Vec<Value> = (0..=LAST_ROW).map(category).collect();
        let changes = bands.windows(2).filter(|pair| pair[0] != pair[1]).count();
        assert_eq!(changes, 12, "13 bands");
    }

    #[test]
    fn places_have_three_ways_to_write_the_time_and_lie_on_earth() {
        let population = Population::default();
        let mut seen = [0; 3];
        let mut years = BTreeSet::new();
        for row in 0..3000 {
            let place = parsed(&population, Records::Geo, row);
            assert_eq!(place["ind"], row);
            let at = place["timestamp"].as_str().expect("text");
            assert_eq!(at.len(), 19);
            let style = match (at.as_bytes()[4], at.as_bytes()[10]) {
                (b'-', b' ') => 0,
                (b'-', b'T') => 1,
                (b':', b' ') => 2,
                other => panic!("{at}: {other:?}"),
            };
            seen[style] += 1;
            years.insert(at[..4].to_owned());
            assert!(place["latitude"].as_f64().expect("a number").abs() <= 90.0);
            assert!(place["longitude"].as_f64().expect("a number").abs() <= 180.0);
            assert!(!place["country"].as_str().expect("text").is_empty());
        }
        assert!(seen.iter().all(|count| *count > 100), "{seen:?}");
        assert_eq!(
            years.into_iter().collect::<Vec<_>>(),
            ["2018", "2019", "2020", "2021", "2022"]
        );
    }

    #[test]
    fn people_post_more_than_once_and_stay_themselves() {
        let population = Population::default();
        let mut people: HashMap<(String, String, String), BTreeSet<String>> = HashMap::new();
        let mut ages = BTreeSet::new();
        for row in 0..5000 {
            let user = parsed(&population, Records::Users, row);
            assert_eq!(user["ind"], row);
            ages.insert(user["age"].as_i64());
            let name = |field: &str| user[field].as_str().expect("text").to_owned();
            people
                .entry((name("first_name"), name("last_name"), name("date_joined")))
                .or_default()
                .insert(user["age"].to_string());
        }
        assert!(
            (50..=150).contains(&people.len()),
            "{} people",
            people.len()
        );
        assert!(
            people.values().all(|ages| ages.len() == 1),
            "an age belongs to its person"
        );
        for (age, what) in [(None, "unknown"), (Some(13), "under 18")] {
            assert!(ages.iter().any(|found| *found <= age), "{what}");
        }
        assert!(ages.iter().any(|age| *age > Some(50)));
    }
}

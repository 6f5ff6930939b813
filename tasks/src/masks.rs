//! Masks: what one try knows that nobody may read, and how it is blotted out of whatever the try shows.
//!
//! A secret is looked for as it is, line by line when it has several, and in the forms it takes on its way: in a URI, in
//! JSON, in base64. A short one is only masked where it stands as a word of its own, or every text would be full of stars.

use std::{
    borrow::Cow,
    collections::{BTreeSet, HashMap},
    fmt,
    ops::Range,
    sync::{Arc, PoisonError, RwLock},
};

use base64::{
    Engine as _,
    engine::general_purpose::{STANDARD, STANDARD_NO_PAD, URL_SAFE, URL_SAFE_NO_PAD},
};
use serde_json::{Map, Value};

use crate::{LogStream, connections};

/// What stands where a secret was.
pub const MASK: &str = "***";
/// A shorter secret is masked where it is a word of its own. Airflow's limit.
const SHORTEST_ANYWHERE: usize = 5;
/// So many bytes at the end of a line that begin a secret are taken for a secret that goes on in the next line.
const TELLING: usize = 8;
/// So many characters of a secret are looked for at the end of a line; every line pays for them.
const LONGEST_BEGINNING: usize = 256;

/// The secrets of one try. Cheap to clone; every clone knows what another learns.
#[derive(Clone, Default)]
pub struct Masks {
    known: Arc<RwLock<Known>>,
}

#[derive(Default)]
struct Known {
    /// Longest first, so that what is found first says best whose it is.
    forms: Vec<Form>,
}

#[derive(Clone, PartialEq, Eq)]
struct Form {
    text: String,
    whose: Arc<str>,
}

/// A secret that stands where none may be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Revealed {
    /// Where, such as `rows[2].note`; empty for the whole.
    pub path: String,
    /// Which one, such as "the password of connection `warehouse`".
    pub whose: String,
}

impl Masks {
    /// Learns a secret. `whose` says which one it is, in words that may be shown.
    pub fn add(&self, whose: &str, secret: &str) {
        let whose: Arc<str> = whose.into();
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        for text in forms(secret) {
            if known.forms.iter().all(|form| form.text != text) {
                let whose = Arc::clone(&whose);
                known.forms.push(Form { text, whose });
            }
        }
        known
            .forms
            .sort_by_key(|form| std::cmp::Reverse(form.text.len()));
    }

    /// Learns every text and number in a JSON value.
    pub fn add_value(&self, whose: &str, value: &Value) {
        connections::texts(value, &mut |text| self.add(whose, &text));
    }

    /// Whether there is nothing to mask.
    pub fn is_empty(&self) -> bool {
        self.known
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .forms
            .is_empty()
    }

    /// The text without secrets.
    pub fn text<'t>(&self, text: &'t str) -> Cow<'t, str> {
        self.blotted(text, Vec::new())
    }

    /// The value without secrets, in its keys as well.
    pub fn value(&self, value: &Value) -> Value {
        match value {
            Value::String(text) => Value::String(self.text(text).into_owned()),
            Value::Number(number) if self.is_secret(&number.to_string()) => MASK.into(),
            Value::Array(items) => items.iter().map(|item| self.value(item)).collect(),
            Value::Object(table) => table
                .iter()
                .map(|(key, value)| (self.text(key).into_owned(), self.value(value)))
                .collect::<Map<_, _>>()
                .into(),
            Value::Null | Value::Bool(_) | Value::Number(_) => value.clone(),
        }
    }

    /// The first secret in a value, and where it stands. A short one is left out: a value that happens to have the same
    /// number or word would be taken for it.
    pub fn revealed_in(&self, value: &Value) -> Option<Revealed> {
        if self.is_empty() {
            return None;
        }
        self.search("", value)
    }

    /// Masks the lines of a log, where a secret may go on from one line to the next.
    pub fn lines(&self) -> Lines {
        Lines {
            masks: self.clone(),
            open: HashMap::new(),
        }
    }

    fn search(&self, path: &str, value: &Value) -> Option<Revealed> {
        let here = |whose: Arc<str>, path: String| Revealed {
            path,
            whose: whose.to_string(),
        };
        match value {
            Value::String(text) => self
                .first_in(text)
                .map(|whose| here(whose, path.to_owned())),
            Value::Number(number) => self
                .whole(&number.to_string())
                .filter(|_| number.to_string().len() >= SHORTEST_ANYWHERE)
                .map(|whose| here(whose, path.to_owned())),
            Value::Array(items) => items
                .iter()
                .enumerate()
                .find_map(|(index, item)| self.search(&format!("{path}[{index}]"), item)),
            Value::Object(table) => table.iter().find_map(|(key, item)| {
                let dot = if path.is_empty() { "" } else { "." };
                match self.first_in(key) {
                    // The path must not say it either.
                    Some(whose) => Some(here(whose, format!("{path}{dot}{MASK}"))),
                    None => self.search(&format!("{path}{dot}{key}"), item),
                }
            }),
            Value::Null | Value::Bool(_) => None,
        }
    }

    fn first_in(&self, text: &str) -> Option<Arc<str>> {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        known
            .forms
            .iter()
            .find(|form| form.is_telling() && form.places(text).next().is_some())
            .map(|form| Arc::clone(&form.whose))
    }

    fn whole(&self, text: &str) -> Option<Arc<str>> {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        known
            .forms
            .iter()
            .find(|form| form.text == text)
            .map(|form| Arc::clone(&form.whose))
    }

    fn is_secret(&self, text: &str) -> bool {
        self.whole(text).is_some()
    }

    /// The text without secrets and without what else is `hidden`.
    fn blotted<'t>(&self, text: &'t str, hidden: Vec<Range<usize>>) -> Cow<'t, str> {
        let mut places = hidden;
        {
            let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
            for form in &known.forms {
                places.extend(form.places(text));
            }
        }
        if places.is_empty() {
            return Cow::Borrowed(text);
        }
        places.sort_by_key(|place| (place.start, place.end));
        let mut masked = String::with_capacity(text.len());
        let mut read = 0;
        for place in places {
            // One that overlaps the one before makes it longer and no second mask.
            if place.start >= read {
                masked.push_str(&text[read..place.start]);
                masked.push_str(MASK);
            }
            read = read.max(place.end);
        }
        masked.push_str(&text[read..]);
        Cow::Owned(masked)
    }
}

/// Says how much it holds and nothing of it.
impl fmt::Debug for Masks {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Masks").finish_non_exhaustive()
    }
}

impl Form {
    /// Whether a text that holds it holds it hardly by chance.
    fn is_telling(&self) -> bool {
        self.text.len() >= SHORTEST_ANYWHERE
    }

    /// Where the text holds it.
    fn places<'a>(&'a self, text: &'a str) -> impl Iterator<Item = Range<usize>> + 'a {
        let mut from = 0;
        // One may begin inside of another.
        std::iter::from_fn(move || {
            let start = from + text.get(from..)?.find(self.text.as_str())?;
            from = start + self.text.chars().next().map_or(1, char::len_utf8);
            Some(start..start + self.text.len())
        })
        .filter(|place| self.is_telling() || is_word(text, place))
    }
}

fn is_word(text: &str, place: &Range<usize>) -> bool {
    let before = text[..place.start].chars().next_back();
    let after = text[place.end..].chars().next();
    [before, after]
        .into_iter()
        .flatten()
        .all(|beside| !beside.is_alphanumeric())
}

/// A secret in every form in which it is looked for. Several lines are looked for one by one: that is how they come out
/// of a program.
fn forms(secret: &str) -> BTreeSet<String> {
    let mut forms = BTreeSet::new();
    // A line of brackets alone tells nothing, and would be found everywhere.
    let parts = std::iter::once(secret).chain(
        secret
            .lines()
            .filter(|line| secret.contains('\n') && line.contains(char::is_alphanumeric)),
    );
    for part in parts {
        let trimmed = part.trim();
        if trimmed.is_empty() {
            continue;
        }
        forms.insert(part.to_owned());
        forms.insert(trimmed.to_owned());
        if trimmed.len() < SHORTEST_ANYWHERE {
            continue;
        }
        forms.insert(connections::encoded(trimmed));
        forms.insert(in_a_path(trimmed));
        let quoted = Value::from(part).to_string();
        let quoted = &quoted[1..quoted.len() - 1];
        forms.insert(quoted.to_owned());
        forms.insert(in_ascii(quoted));
    }
    if secret.trim().len() >= SHORTEST_ANYWHERE {
        forms.extend([
            STANDARD.encode(secret),
            STANDARD_NO_PAD.encode(secret),
            URL_SAFE.encode(secret),
            URL_SAFE_NO_PAD.encode(secret),
        ]);
    }
    forms
}

/// A text as clients write it into the path of an address, which is less strict than [`connections::encoded`]: the path
/// percent-encode set of the WHATWG URL standard.
fn in_a_path(text: &str) -> String {
    text.bytes().fold(String::new(), |mut written, byte| {
        if byte.is_ascii_graphic() && !b"\"#<>?^`{}".contains(&byte) {
            written.push(char::from(byte));
        } else {
            written.push_str(&format!("%{byte:02X}"));
        }
        written
    })
}

/// JSON as those write it who leave nothing but ASCII in it, such as Python.
fn in_ascii(quoted: &str) -> String {
    let mut units = [0; 2];
    quoted.chars().fold(String::new(), |mut text, character| {
        if character.is_ascii() {
            text.push(character);
        } else {
            for unit in character.encode_utf16(&mut units) {
                text.push_str(&format!("\\u{unit:04x}"));
            }
        }
        text
    })
}

/// Masks a log line by line.
#[derive(Debug)]
pub struct Lines {
    masks: Masks,
    /// What a secret that began at the end of a stream's last line would go on with.
    open: HashMap<LogStream, Vec<Began>>,
}

struct Began {
    /// What is still to come.
    rest: String,
    /// How much has been there.
    seen: usize,
}

impl fmt::Debug for Began {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Began")
            .field("seen", &self.seen)
            .finish_non_exhaustive()
    }
}

impl Lines {
    /// The line without secrets, and without the part of one that began in the line before or goes on in the next, as far
    /// as that can be told: a line is not held back until the next one comes.
    pub fn line(&mut self, stream: LogStream, line: String) -> String {
        if self.masks.is_empty() {
            return line;
        }
        let mut hidden = Vec::new();
        let mut open = Vec::new();
        for began in self.open.remove(&stream).unwrap_or_default() {
            let common = common_length(&line, &began.rest);
            let is_all_of_the_line = common == line.len() && common > 0;
            if common < began.rest.len() && !is_all_of_the_line {
                continue;
            }
            // Little seen before and little now is chance.
            if began.seen.max(common) >= SHORTEST_ANYWHERE {
                hidden.push(0..common);
            }
            if common < began.rest.len() {
                open.push(Began {
                    rest: began.rest[common..].to_owned(),
                    seen: began.seen + common,
                });
            }
        }
        {
            let known = self
                .masks
                .known
                .read()
                .unwrap_or_else(PoisonError::into_inner);
            for form in &known.forms {
                for (length, _) in form.text.char_indices().skip(1).take(LONGEST_BEGINNING) {
                    if form.text.len() < TELLING || !line.ends_with(&form.text[..length]) {
                        continue;
                    }
                    if length >= TELLING {
                        hidden.push(line.len() - length..line.len());
                    }
                    open.push(Began {
                        rest: form.text[length..].to_owned(),
                        seen: length,
                    });
                }
                // A longer beginning begins with the longest of those.
                let Some((longest, _)) = form.text.char_indices().nth(LONGEST_BEGINNING) else {
                    continue;
                };
                for (start, _) in line.match_indices(&form.text[..longest]) {
                    let begun = &line[start..];
                    if begun.len() > longest
                        && begun.len() < form.text.len()
                        && form.text.starts_with(begun)
                    {
                        hidden.push(start..line.len());
                        open.push(Began {
                            rest: form.text[begun.len()..].to_owned(),
                            seen: begun.len(),
                        });
                    }
                }
            }
        }
        if !open.is_empty() {
            self.open.insert(stream, open);
        }
        match self.masks.blotted(&line, hidden) {
            Cow::Borrowed(_) => line,
            Cow::Owned(masked) => masked,
        }
    }
}

/// How many bytes both begin with, whole characters.
fn common_length(one: &str, other: &str) -> usize {
    one.chars()
        .zip(other.chars())
        .take_while(|(one, other)| one == other)
        .map(|(character, _)| character.len_utf8())
        .sum()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn masks(secrets: &[&str]) -> Masks {
        let masks = Masks::default();
        for secret in secrets {
            masks.add("a secret", secret);
        }
        masks
    }

    #[test]
    fn a_secret_is_blotted_out_in_every_form() {
        let masks = masks(&["p@ss \"word\""]);
        for (text, masked) in [
            ("a p@ss \"word\" b", "a *** b"),
            ("x=p@ss \"word\"p@ss \"word\"", "x=******"),
            ("uri p%40ss%20%22word%22@host", "uri ***@host"),
            (r#"{"k":"p@ss \"word\""}"#, r#"{"k":"***"}"#),
            ("b64 cEBzcyAid29yZCI=", "b64 ***"),
            ("nothing", "nothing"),
        ] {
            assert_eq!(masks.text(text), masked, "{text}");
        }
    }

    #[test]
    fn a_secret_in_a_path_and_in_json_of_ascii_is_blotted_out() {
        let masks = masks(&["p@ss wörd"]);
        for (text, masked) in [
            ("GET http://h/p@ss%20w%C3%B6rd/x", "GET http://h/***/x"),
            (r#"{"k": "p@ss w\u00f6rd"}"#, r#"{"k": "***"}"#),
        ] {
            assert_eq!(masks.text(text), masked, "{text}");
        }
    }

    #[test]
    fn lines_of_brackets_and_short_secrets_refuse_no_output() {
        let masks = Masks::default();
        masks.add("a key", "{\n  \"private_key\": \"MIIabcdefgh\"\n}");
        masks.add_value("a variable", &json!({ "password": "hunter2", "tries": 3 }));
        assert_eq!(masks.text("{ } is 3"), "{ } is ***");
        for harmless in [
            json!({ "text": "{ \"a\": 1 }", "rows": 3, "note": "3 rows" }),
            json!(3),
        ] {
            assert_eq!(masks.revealed_in(&harmless), None, "{harmless}");
        }
        assert!(masks.revealed_in(&json!(["a hunter2"])).is_some());
        assert_eq!(masks.text("\"private_key\": \"MIIabcdefgh\""), "***");
    }

    #[test]
    fn a_very_long_secret_that_is_cut_far_behind_its_beginning_is_masked_in_both_lines() {
        let secret: String = (0..200).map(|number| format!("{number:04}")).collect();
        let masks = masks(&[&secret]);
        let mut lines = masks.lines();
        let first = format!("it is {}", &secret[..400]);
        assert_eq!(lines.line(LogStream::Stdout, first), "it is ***");
        let second = format!("{} that", &secret[400..]);
        assert_eq!(lines.line(LogStream::Stdout, second), "*** that");
    }

    #[test]
    fn secrets_that_overlap_leave_nothing_of_either() {
        let masks = masks(&["abcdef", "defghi", "cde12"]);
        assert_eq!(masks.text("xabcdefghiy"), "x***y");
        assert_eq!(masks.text("abcdef defghi"), "*** ***");
        let masks = super::tests::masks(&["abcabc"]);
        assert_eq!(masks.text("xabcabcabcx"), "x***x");
    }

    #[test]
    fn a_short_secret_is_masked_as_a_word_and_an_empty_one_never() {
        let masks = masks(&["eu", "", " "]);
        assert_eq!(
            masks.text("eu neutral eu-1 'eu' "),
            "*** neutral ***-1 '***' "
        );
    }

    #[test]
    fn values_are_masked_in_keys_texts_and_numbers() {
        let masks = masks(&["hunter2", "123456"]);
        assert_eq!(
            masks.value(&json!({ "hunter2": ["x hunter2", 123456, 1, null, true] })),
            json!({ "***": ["x ***", "***", 1, null, true] })
        );
    }

    #[test]
    fn a_secret_in_a_value_is_found_with_its_place() {
        let masks = Masks::default();
        masks.add("the password of connection `db`", "hunter2");
        let found = |value| {
            masks
                .revealed_in(&value)
                .map(|found| (found.path, found.whose))
        };
        let whose = "the password of connection `db`".to_owned();
        assert_eq!(
            found(json!({ "rows": [{}, { "note": "x hunter2" }] })),
            Some(("rows[1].note".to_owned(), whose.clone()))
        );
        assert_eq!(
            found(json!({ "a hunter2": 1 })),
            Some(("***".to_owned(), whose))
        );
        assert_eq!(found(json!({ "a": "hunter", "b": 2 })), None);
    }

    #[test]
    fn a_secret_of_several_lines_is_masked_line_by_line() {
        let masks = masks(&["-----BEGIN KEY-----\nMIIabcdefgh\nxyz=\n-----END KEY-----\n"]);
        let mut lines = masks.lines();
        for (line, masked) in [
            ("-----BEGIN KEY-----", "***"),
            ("  MIIabcdefgh", "  ***"),
            ("xyz=", "***"),
            ("fine", "fine"),
        ] {
            assert_eq!(lines.line(LogStream::Stdout, line.to_owned()), masked);
        }
    }

    #[test]
    fn a_secret_that_goes_on_in_the_next_line_is_masked_in_both() {
        let masks = masks(&["correct-horse-battery-staple"]);
        let mut lines = masks.lines();
        let mut line = |stream, text: &str| lines.line(stream, text.to_owned());
        assert_eq!(line(LogStream::Stdout, "it is correct-horse"), "it is ***");
        // Another stream says nothing about this one.
        assert_eq!(
            line(LogStream::Stderr, "-battery-staple"),
            "-battery-staple"
        );
        assert_eq!(line(LogStream::Stdout, "-battery-staple."), "***.");
        // Three lines, the middle one wholly inside.
        assert_eq!(line(LogStream::Stdout, "correct-ho"), "***");
        assert_eq!(line(LogStream::Stdout, "rse-battery"), "***");
        assert_eq!(line(LogStream::Stdout, "-staple!"), "***!");
        // A line that only happens to end like the beginning of one.
        assert_eq!(line(LogStream::Stdout, "that is c"), "that is c");
        assert_eq!(line(LogStream::Stdout, "orrect"), "***");
        assert_eq!(line(LogStream::Stdout, "not at all"), "not at all");
    }

    proptest! {
        #[test]
        fn no_text_keeps_a_long_secret(secret in "[a-zA-Z0-9/+é ]{6,20}", before in ".{0,20}", after in ".{0,20}") {
            let secret = format!("x{secret}x");
            let masks = masks(&[&secret]);
            let text = format!("{before}{secret}{after}{secret}");
            prop_assert!(!masks.text(&text).contains(&secret));
            let found = masks.revealed_in(&json!({ "a": [text] }));
            prop_assert!(found.is_some());
        }

        #[test]
        fn a_line_cut_anywhere_shows_less_than_the_telling_part(
            secret in "[a-z0-9]{24,40}", cut in 0.0..1.0f64, before in "[ .]{0,9}", after in "[ .]{0,9}"
        ) {
            let masks = masks(&[&secret]);
            let cut = 1 + ((secret.len() - 2) as f64 * cut) as usize;
            let mut lines = masks.lines();
            let first = lines.line(LogStream::Stdout, format!("{before}{}", &secret[..cut]));
            let second = lines.line(LogStream::Stdout, format!("{}{after}", &secret[cut..]));
            // Whatever is left of it is the shorter side of the cut, and too short to tell.
            let left: String = format!("{first}{second}").chars().filter(char::is_ascii_alphanumeric).collect();
            prop_assert!(left.len() < TELLING, "{first:?} {second:?}");
        }
    }
}

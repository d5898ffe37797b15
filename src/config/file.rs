//! The configuration file, as it is written: every key with its place, and everything about it that
//! no key allows.
//!
//! A broken line does not hide what is wrong in the others: the parser goes on after it.

use std::collections::BTreeMap;
use std::path::Path;

use toml::Spanned;
use toml::de::{DeString, DeTable, DeValue};

use super::keys::{CLASS_KEYS, KEYS, Key};
use super::kind::Raw;

/// A file that was read, right or wrong.
#[derive(Debug, Default)]
pub(super) struct File {
    /// Keys outside of `[[class]]`.
    pub keys: Vec<Written>,
    /// The `[[class]]`es in their order: their keys, and where each begins.
    pub classes: Vec<(Vec<Written>, Place)>,
    /// What is wrong so far.
    pub errors: Vec<(Place, String)>,
}

/// A key with a value.
#[derive(Debug)]
pub(super) struct Written {
    pub key: &'static Key,
    pub value: Raw,
    pub place: Place,
}

/// Line and column, from 1; the column counts characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place {
    pub line: usize,
    pub column: usize,
}

impl File {
    /// Reads a file. The error says why that is not possible.
    pub(super) fn read(path: &Path) -> Result<File, String> {
        let text = std::fs::read_to_string(path).map_err(|error| format!("cannot read {}: {error}", path.display()))?;
        Ok(File::parse(&text))
    }

    /// Takes a file's text apart.
    pub(super) fn parse(text: &str) -> File {
        // An editor's mark, not a character of the first line.
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        let mut file = File::default();
        let (mut root, errors) = DeTable::parse_recoverable(text);
        // The first of a line: the others follow from it.
        let broken: BTreeMap<usize, (Place, &str)> = errors
            .iter()
            .rev()
            .map(|error| (place(text, start(error)), error.message()))
            .map(|(place, what)| (place.line, (place, what)))
            .collect();
        let readable = without_lines(text, &broken);
        if !broken.is_empty() {
            // What is still wrong now follows from what was.
            root = DeTable::parse_recoverable(&readable).0;
        }
        file.errors.extend(broken.values().take(BROKEN_LINES_MAX).map(|(place, what)| (*place, (*what).to_owned())));
        if let Some((place, _)) = broken.values().nth(BROKEN_LINES_MAX) {
            let more = broken.len() - BROKEN_LINES_MAX;
            file.errors.push((*place, format!("{more} lines from here on cannot be read either")));
        }
        for (name, value) in root.get_ref() {
            match (&name.get_ref()[..], value.get_ref()) {
                ("limits", DeValue::Table(limits)) => {
                    for (name, value) in limits {
                        let full = format!("limits.{}", name.get_ref());
                        let written = file.written(text, find(KEYS, &full), &full, name, value);
                        file.keys.extend(written);
                    }
                }
                ("limits", _) => file.wrong(text, name, "limits: must be a table; write [limits]"),
                ("class", DeValue::Array(classes)) => {
                    classes.iter().enumerate().for_each(|(index, class)| file.class(text, index, class));
                }
                ("class", _) => file.wrong(text, name, "class: must be a list of tables; write [[class]]"),
                (full, _) => {
                    // A quoted "limits.stall" is another key than the one in the table.
                    let key = find(KEYS, full).filter(|_| !full.contains('.'));
                    let written = file.written(text, key, full, name, value);
                    file.keys.extend(written);
                }
            }
        }
        file
    }

    fn class(&mut self, text: &str, index: usize, class: &Spanned<DeValue<'_>>) {
        let title = format!("class {}", index + 1);
        let at = place(text, class.span().start);
        let DeValue::Table(keys) = class.get_ref() else {
            self.errors.push((at, format!("{title}: must be a table; write [[class]]")));
            return;
        };
        let mut found = Vec::new();
        for (name, value) in keys {
            let key = find(CLASS_KEYS, name.get_ref());
            found.extend(self.written(text, key, &format!("{title}: {}", name.get_ref()), name, value));
        }
        self.classes.push((found, at));
    }

    /// The key with its value; or notes that there is none of this name.
    fn written(
        &mut self,
        text: &str,
        key: Option<&'static Key>,
        full: &str,
        name: &Name<'_>,
        value: &Spanned<DeValue<'_>>,
    ) -> Option<Written> {
        let Some(key) = key else {
            self.wrong(text, name, &format!("{full}: unknown key"));
            return None;
        };
        Some(Written { key, value: Raw::of(value.get_ref()), place: place(text, value.span().start) })
    }

    fn wrong(&mut self, text: &str, name: &Name<'_>, what: &str) {
        self.errors.push((place(text, name.span().start), what.to_owned()));
    }
}

/// An open bracket makes every line after it a broken one; nobody needs to read them all.
const BROKEN_LINES_MAX: usize = 10;

/// A key's name in the file.
type Name<'t> = Spanned<DeString<'t>>;

fn find(keys: &'static [Key], name: &str) -> Option<&'static Key> {
    keys.iter().find(|key| key.name == name)
}

fn start(error: &toml::de::Error) -> usize {
    error.span().map_or(0, |span| span.start)
}

/// The text with spaces in the place of the lines that cannot be read, so that every other byte stays
/// where it is: the parser's own table ends at the first such line.
fn without_lines(text: &str, broken: &BTreeMap<usize, (Place, &str)>) -> String {
    let blank = |(index, line): (usize, &str)| match broken.contains_key(&(index + 1)) {
        true => " ".repeat(line.len()),
        false => line.to_owned(),
    };
    text.split('\n').enumerate().map(blank).collect::<Vec<_>>().join("\n")
}

/// Where the byte `at` stands.
fn place(text: &str, at: usize) -> Place {
    let before = text.get(..at).unwrap_or(text);
    let line = before.rsplit('\n').next().unwrap_or_default();
    Place { line: before.matches('\n').count() + 1, column: line.chars().count() + 1 }
}

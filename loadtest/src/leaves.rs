//! The figures of a report by their own names, wherever in its JSON they stand.
//!
//! In a report no two leaves share a name, so `p99_ms` says enough. An array is one leaf: what lies
//! inside it belongs to a list, not to the run. A group that was not measured is `null` itself, and
//! the names it would have held are then unknown here.

use std::collections::BTreeMap;

use serde_json::Value;

/// From here on two names count as a slip of the pen (Jaro–Winkler, 1 = equal).
const SIMILAR_MIN: f64 = 0.8;
/// More suggestions than this are no help.
const SUGGESTIONS_MAX: usize = 3;

/// Every leaf of one report.
pub(crate) struct Leaves<'a>(BTreeMap<&'a str, Vec<&'a Value>>);

/// What a name leads to.
#[derive(Debug, PartialEq)]
pub(crate) enum Found<'a> {
    One(&'a Value),
    Nothing,
    /// The report broke its own rule: the name stands for different figures.
    Several,
}

impl<'a> Leaves<'a> {
    pub(crate) fn of(report: &'a Value) -> Self {
        let mut leaves = Self(BTreeMap::new());
        leaves.collect(report);
        leaves
    }

    fn collect(&mut self, group: &'a Value) {
        for (name, value) in group.as_object().into_iter().flatten() {
            if value.is_object() {
                self.collect(value);
            } else {
                self.0.entry(name).or_default().push(value);
            }
        }
    }

    pub(crate) fn find(&self, name: &str) -> Found<'a> {
        match self.0.get(name).map_or(&[][..], Vec::as_slice) {
            [] => Found::Nothing,
            [one] => Found::One(one),
            _ => Found::Several,
        }
    }

    /// `None` when there is no such leaf, when it was not measured, and when nobody can say which is meant.
    pub(crate) fn get(&self, name: &str) -> Option<&'a Value> {
        match self.find(name) {
            Found::One(value) if !value.is_null() => Some(value),
            _ => None,
        }
    }

    pub(crate) fn number(&self, name: &str) -> Option<f64> {
        self.get(name)?.as_f64()
    }

    pub(crate) fn text(&self, name: &str) -> Option<&'a str> {
        self.get(name)?.as_str()
    }

    /// An array; empty where there is none.
    pub(crate) fn list(&self, name: &str) -> &'a [Value] {
        self.get(name).and_then(Value::as_array).map_or(&[], Vec::as_slice)
    }

    /// The names closest to one that was not found, best first.
    pub(crate) fn similar(&self, name: &str) -> Vec<&'a str> {
        let likeness = |known: &str| strsim::jaro_winkler(name, known);
        let mut scored: Vec<(f64, &str)> = self.0.keys().map(|&known| (likeness(known), known)).collect();
        scored.retain(|&(likeness, _)| likeness >= SIMILAR_MIN);
        scored.sort_by(|a, b| b.0.total_cmp(&a.0));
        scored.into_iter().take(SUGGESTIONS_MAX).map(|(_, known)| known).collect()
    }

    /// Names that stand for nothing measured, whole groups among them.
    pub(crate) fn unmeasured(&self) -> Vec<&'a str> {
        self.0.iter().filter(|(_, values)| values.iter().all(|value| value.is_null())).map(|(&name, _)| name).collect()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_leaf_is_found_wherever_it_stands() {
        let report = json!({"passed": true, "bottleneck": "server", "a": {"b": {"lost": 3}}, "steps": [{"lost": 9}], "server": null});
        let leaves = Leaves::of(&report);
        assert_eq!(leaves.number("lost"), Some(3.0));
        assert_eq!(leaves.get("passed"), Some(&json!(true)));
        assert_eq!(leaves.text("bottleneck"), Some("server"));
        assert_eq!(leaves.list("steps").len(), 1);
        assert_eq!(leaves.find("server"), Found::One(&Value::Null));
        assert_eq!(leaves.get("server"), None);
        assert_eq!(leaves.unmeasured(), ["server"]);
    }

    #[test]
    fn a_name_used_twice_is_not_guessed_at() {
        let report = json!({"a": {"max_ms": 1}, "b": {"max_ms": 2}});
        assert_eq!(Leaves::of(&report).find("max_ms"), Found::Several);
        assert_eq!(Leaves::of(&report).number("max_ms"), None);
    }

    #[test]
    fn a_slip_of_the_pen_is_answered_with_the_names_meant() {
        let report = json!({"p99_ms": 1, "p999_ms": 2, "lost": 0, "received": 7});
        let leaves = Leaves::of(&report);
        assert_eq!(leaves.similar("p99ms"), ["p99_ms", "p999_ms"]);
        assert_eq!(leaves.similar("recieved"), ["received"]);
        assert!(leaves.similar("zzz").is_empty());
    }
}

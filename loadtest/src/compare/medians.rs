//! Several rounds of the same run, as one report: each figure its median.

use std::collections::BTreeMap;

use serde_json::Value;

/// The rounds of one row put together.
#[derive(Debug, Clone)]
pub(super) struct Medians {
    /// The first report, with each number in place of which all rounds have one replaced by the median.
    pub(super) report: Value,
    /// Leaf → smallest and largest of the rounds.
    pub(super) ranges: BTreeMap<String, (f64, f64)>,
}

impl Medians {
    /// `None` without rounds.
    pub(super) fn of(rounds: &[Value]) -> Option<Self> {
        let mut medians = Self { report: rounds.first()?.clone(), ranges: BTreeMap::new() };
        let mut report = medians.report.take();
        medians.replace(&mut report, rounds, &mut Vec::new());
        medians.report = report;
        // One round that failed is a failure.
        let has_failed = rounds.iter().any(|round| round["passed"] == Value::Bool(false));
        if has_failed && let Some(failed) = rounds.iter().find(|round| round["passed"] == Value::Bool(false)) {
            medians.report["passed"] = Value::Bool(false);
            medians.report["faults"] = failed["faults"].clone();
        }
        Some(medians)
    }

    fn replace(&mut self, value: &mut Value, rounds: &[Value], path: &mut Vec<String>) {
        if let Value::Object(group) = value {
            for (name, value) in group {
                path.push(name.clone());
                self.replace(value, rounds, path);
                path.pop();
            }
            return;
        }
        let mut figures: Vec<f64> = rounds.iter().filter_map(|round| at(round, path)?.as_f64()).collect();
        if figures.len() < rounds.len() || !value.is_number() {
            return;
        }
        figures.sort_by(f64::total_cmp);
        let leaf = path.last().cloned().unwrap_or_default();
        self.ranges.insert(leaf, (figures[0], figures[figures.len() - 1]));
        *value = median(&figures).into();
    }
}

fn at<'a>(report: &'a Value, path: &[String]) -> Option<&'a Value> {
    path.iter().try_fold(report, |value, name| value.get(name))
}

/// Of sorted figures; of an even number of them the mean of the middle two.
pub(crate) fn median(sorted: &[f64]) -> f64 {
    let middle = sorted.len() / 2;
    if sorted.len().is_multiple_of(2) { f64::midpoint(sorted[middle - 1], sorted[middle]) } else { sorted[middle] }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn each_figure_is_the_median_of_its_rounds() {
        let round = |ms: f64, passed: bool, none: Value| json!({"passed": passed, "faults": [ms], "a": {"ms": ms, "none": none}});
        let rounds = [round(3.0, true, json!(1)), round(1.0, false, Value::Null), round(8.0, true, json!(5))];
        let medians = Medians::of(&rounds).unwrap();
        assert_eq!(medians.report["a"]["ms"], 3.0);
        assert_eq!(medians.ranges["ms"], (1.0, 8.0));
        assert_eq!((&medians.report["passed"], &medians.report["faults"]), (&json!(false), &json!([1.0])));
        // What was not measured in every round is left as it is.
        assert!(!medians.ranges.contains_key("none"));
        assert_eq!(median(&[1.0, 2.0, 4.0, 9.0]), 3.0);
        assert!(Medians::of(&[]).is_none());
    }
}

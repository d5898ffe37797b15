//! Several rounds of the same run, as one report: each figure its median.

use std::collections::BTreeMap;

use serde_json::Value;

/// What decides which round is shown where there is no median: plots, lists, words.
const COST: &str = "/server/server_cpu_us_per_delivery";

/// The rounds of one row put together.
#[derive(Debug, Clone)]
pub(super) struct Medians {
    /// The report of the round with the median cost, each number replaced by the median of the rounds
    /// that have one.
    pub(super) report: Value,
    /// Leaf → smallest and largest of the rounds.
    pub(super) ranges: BTreeMap<String, (f64, f64)>,
}

impl Medians {
    /// `None` without rounds.
    pub(super) fn of(rounds: &[Value]) -> Option<Self> {
        let mut by_cost: Vec<&Value> = rounds.iter().collect();
        by_cost.sort_by(|a, b| cost(a).total_cmp(&cost(b)));
        let mut report = (*by_cost.get(rounds.len().saturating_sub(1) / 2)?).clone();
        let mut medians = Self { report: Value::Null, ranges: BTreeMap::new() };
        medians.replace(&mut report, rounds, &mut Vec::new());
        medians.report = report;
        medians.tell_of_all(rounds);
        Some(medians)
    }

    /// One round that failed is a failure, and what stood in one round's way is said.
    fn tell_of_all(&mut self, rounds: &[Value]) {
        for list in ["faults", "remarks"] {
            let said = rounds.iter().flat_map(|round| round[list].as_array().into_iter().flatten().cloned());
            let mut said: Vec<Value> = said.collect();
            said.dedup();
            self.report[list] = said.into();
        }
        let passed = rounds.iter().all(|round| round["passed"] == true);
        self.report["passed"] = passed.into();
        if let Some(round) = rounds.iter().find(|round| round["bottleneck"].as_str().is_some_and(|who| who != "none")) {
            self.report["bottleneck"] = round["bottleneck"].clone();
        }
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
        if figures.is_empty() || !(value.is_number() || value.is_null()) {
            return;
        }
        figures.sort_by(f64::total_cmp);
        let leaf = path.last().cloned().unwrap_or_default();
        self.ranges.insert(leaf, (figures[0], figures[figures.len() - 1]));
        *value = median(&figures).into();
    }
}

fn cost(report: &Value) -> f64 {
    report.pointer(COST).and_then(Value::as_f64).unwrap_or(0.0)
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
        let round = |ms: f64, passed: bool, none: Value| {
            json!({
                "passed": passed, "faults": if passed { vec![] } else { vec!["lost"] }, "remarks": ["r"],
                "bottleneck": if ms > 5.0 { "machine" } else { "none" },
                "server": {"server_cpu_us_per_delivery": ms, "curve": [ms]}, "a": {"none": none},
            })
        };
        let rounds = [round(8.0, true, json!(1)), round(1.0, false, Value::Null), round(3.0, true, json!(5))];
        let medians = Medians::of(&rounds).unwrap();
        assert_eq!(medians.report["server"], json!({"server_cpu_us_per_delivery": 3.0, "curve": [3.0]}));
        assert_eq!(medians.ranges["server_cpu_us_per_delivery"], (1.0, 8.0));
        assert_eq!((&medians.report["passed"], &medians.report["faults"]), (&json!(false), &json!(["lost"])));
        assert_eq!((&medians.report["bottleneck"], &medians.report["remarks"]), (&json!("machine"), &json!(["r"])));
        // Of those rounds that have it.
        assert_eq!(medians.report["a"]["none"], 3.0);
        assert_eq!(median(&[1.0, 2.0, 4.0, 9.0]), 3.0);
        assert!(Medians::of(&[]).is_none());
    }
}

//! What a run must have reached: `--assert 'lost == 0 && p99_ms < 50'`, over the leaf names of the report.
//!
//! The language is CEL (Common Expression Language): comparisons, `&& || !`, arithmetic, `size(list)`, `? :`.
//!
//! - **A leaf that was not measured makes no statement.** Neither "holds" nor "fails" would be true, so
//!   it is an error that names the leaf; so is a name the report does not have.
//! - **All numbers are floating point**, those of the report and those written. CEL itself refuses to add
//!   or divide an integer and a double, and cuts the fraction off `received / expected`; whether a count
//!   happens to be written without a point must not matter here. Exact below 2^53.
//! - Not chosen: evalexpr (AGPL since 12), rhai (brings an MPL crate), a language of our own.

use std::collections::BTreeSet;

use anyhow::{Context as _, Result, anyhow, bail};
use cel::common::ast::{Expr, LiteralValue};
use cel::parser::Parser;
use cel::{Context, IdedExpr};
use serde_json::Value;

use crate::leaves::{Found, Leaves};

/// One expression, understood but not yet asked.
#[derive(Debug, Clone)]
pub(crate) struct Assertion {
    text: String,
    /// No integer literal is left in it outside of macros (`all`, `exists`, …).
    expression: IdedExpr,
    /// The leaves it speaks of, sorted.
    names: Vec<String>,
}

/// What an assertion came to.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Outcome {
    pub(crate) holds: bool,
    /// The leaves it used with their values: `lost = 0, p99_ms = 61.2`.
    pub(crate) values: String,
}

impl Assertion {
    pub(crate) fn parse(text: &str) -> Result<Self> {
        let mut expression =
            Parser::default().parse(text).map_err(|e| anyhow!("assertion '{text}' is not understood: {e}"))?;
        let names: BTreeSet<String> = expression.references().variables().into_iter().map(ToOwned::to_owned).collect();
        if names.is_empty() {
            bail!("assertion '{text}' names no figure of the report");
        }
        make_numbers_doubles(&mut expression);
        Ok(Self { text: text.to_owned(), expression, names: names.into_iter().collect() })
    }

    /// An error when the expression cannot be answered: unknown leaf, leaf not measured, no yes or no.
    pub(crate) fn check(&self, report: &Value) -> Result<Outcome> {
        self.answer(&Leaves::of(report)).with_context(|| format!("assertion '{}'", self.text))
    }

    fn answer(&self, leaves: &Leaves<'_>) -> Result<Outcome> {
        let mut context = Context::default();
        let mut values = Vec::new();
        for name in &self.names {
            let value = look_up(leaves, name)?;
            context.add_variable_from_value(name.as_str(), to_cel(value)?);
            values.push(format!("{name} = {value}"));
        }
        let values = values.join(", ");
        match context.resolve(&self.expression) {
            Ok(cel::Value::Bool(holds)) => Ok(Outcome { holds, values }),
            Ok(_) => bail!("is neither true nor false ({values})"),
            Err(error) => bail!("{error} ({values})"),
        }
    }
}

fn look_up<'a>(leaves: &Leaves<'a>, name: &str) -> Result<&'a Value> {
    match leaves.find(name) {
        Found::One(Value::Null) => bail!("{name} was not measured"),
        Found::One(value) => Ok(value),
        Found::Several => bail!("the report has several leaves named {name}"),
        Found::Nothing => {
            let said = |introduction: &str, names: &[&str]| {
                if names.is_empty() { String::new() } else { format!("{introduction}{}", names.join(", ")) }
            };
            let similar = said("; similar: ", &leaves.similar(name));
            let unmeasured = said("; not measured in this run: ", &leaves.unmeasured());
            bail!("the report has no leaf named {name}{similar}{unmeasured}")
        }
    }
}

fn to_cel(value: &Value) -> Result<cel::Value> {
    match value.as_f64() {
        Some(number) => Ok(cel::Value::Float(number)),
        None => cel::to_value(value).map_err(|e| anyhow!("{value}: {e}")),
    }
}

/// Operators are calls in CEL's tree. What macros expand to is left alone: it counts in integers of its own.
fn make_numbers_doubles(expression: &mut IdedExpr) {
    match &mut expression.expr {
        Expr::Literal(literal) => {
            let number = match literal {
                LiteralValue::Int(n) => *n.inner() as f64,
                LiteralValue::UInt(n) => *n.inner() as f64,
                _ => return,
            };
            *literal = LiteralValue::Double(number.into());
        }
        Expr::Call(call) => call.target.as_deref_mut().into_iter().chain(&mut call.args).for_each(make_numbers_doubles),
        Expr::List(list) => list.elements.iter_mut().for_each(make_numbers_doubles),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn report() -> Value {
        json!({
            "passed": true,
            "faults": [],
            "deliveries": {"expected": 1_000, "received": 999, "lost": 0},
            "latency": {"p99_ms": 61.2, "max_ms": 100},
            "server_cpu_us_per_delivery": null,
            "stalled": null,
        })
    }

    fn holds(text: &str) -> bool {
        Assertion::parse(text).unwrap().check(&report()).unwrap().holds
    }

    fn refusal(text: &str) -> String {
        format!("{:#}", Assertion::parse(text).and_then(|assertion| assertion.check(&report())).unwrap_err())
    }

    #[test]
    fn whole_and_broken_numbers_compare_as_numbers() {
        for text in [
            "lost==0 && p99_ms<62",
            "lost == 0.0",
            "p99_ms < max_ms",
            "max_ms == 100 || passed",
            "received / expected >= 0.999",
            "p99_ms * 2 < 123 && -lost <= 0",
            "passed && size(faults) == 0",
            "lost in [0, 1]",
        ] {
            assert!(holds(text), "{text}");
        }
        for text in ["p99_ms < 50", "lost > 0", "!passed", "received / expected >= 1", "received == expected"] {
            assert!(!holds(text), "{text}");
        }
    }

    #[test]
    fn the_values_used_are_named_and_only_those() {
        let outcome = Assertion::parse("p99_ms < 50 && lost == 0").unwrap().check(&report()).unwrap();
        assert_eq!(outcome, Outcome { holds: false, values: "lost = 0, p99_ms = 61.2".into() });
    }

    #[test]
    fn an_unknown_leaf_is_refused_with_similar_names() {
        let refusal = refusal("p99ms < 50");
        assert!(refusal.contains("no leaf named p99ms; similar: p99_ms"), "{refusal}");
        assert!(refusal.contains("not measured in this run: server_cpu_us_per_delivery, stalled"), "{refusal}");
    }

    #[test]
    fn what_was_not_measured_neither_holds_nor_fails() {
        let refusal = refusal("lost > 0 && server_cpu_us_per_delivery < 5");
        assert!(refusal.ends_with("server_cpu_us_per_delivery was not measured"), "{refusal}");
    }

    #[test]
    fn what_is_no_statement_is_refused() {
        assert!(refusal("lost + 1").contains("neither true nor false (lost = 0)"));
        assert!(refusal("p99_ms <").contains("not understood"));
        assert!(refusal("").contains("not understood"));
        assert!(refusal("1 < 2").contains("names no figure"));
        assert!(refusal("passed < 3").contains("passed = true"));
    }
}

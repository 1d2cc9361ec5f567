//! Jinja's tests: what stands after `is`.

use std::cmp::Ordering;

use super::call::Passed;
use super::fault::{Result, fail};
use super::filters::FILTERS;
use super::machine::Machine;
use super::value::Value;

/// Those that a template may name.
pub(super) const TESTS: [&str; 38] = [
    "boolean",
    "callable",
    "defined",
    "divisibleby",
    "eq",
    "equalto",
    "even",
    "false",
    "filter",
    "float",
    "ge",
    "gt",
    "greaterthan",
    "in",
    "integer",
    "iterable",
    "le",
    "lessthan",
    "lower",
    "lt",
    "mapping",
    "ne",
    "none",
    "number",
    "odd",
    "sameas",
    "sequence",
    "string",
    "test",
    "true",
    "undefined",
    "upper",
    "==",
    "!=",
    "<",
    "<=",
    ">",
    ">=",
];

impl Machine<'_> {
    pub(super) fn test(&mut self, name: &str, value: &Value, passed: Passed) -> Result<bool> {
        let one = |passed: Passed| match passed.bind(name, ["other"])? {
            [Some(other)] => Ok(other),
            [None] => fail(format!("got no argument for the test `{name}`")),
        };
        match name {
            "eq" | "equalto" | "==" => return self.same(value, &one(passed)?),
            "ne" | "!=" => return Ok(!self.same(value, &one(passed)?)?),
            "in" => return self.contains(&one(passed)?, value),
            "sameas" => return self.same_object(value, &one(passed)?),
            "lt" | "lessthan" | "<" => return self.ordered(value, &one(passed)?, &[Ordering::Less]),
            "gt" | "greaterthan" | ">" => return self.ordered(value, &one(passed)?, &[Ordering::Greater]),
            "le" | "<=" => return self.ordered(value, &one(passed)?, &[Ordering::Less, Ordering::Equal]),
            "ge" | ">=" => return self.ordered(value, &one(passed)?, &[Ordering::Greater, Ordering::Equal]),
            "divisibleby" => {
                let other = one(passed)?;
                return match (value.as_int(), other.as_int()) {
                    (Some(a), Some(b)) if b != 0 => Ok(a.checked_rem(b) == Some(0)),
                    _ => fail(format!("got `divisibleby` of a {} and a {}", value.kind(), other.kind())),
                };
            }
            _ => passed.none(name)?,
        }
        if let (Value::Undefined(of), "even" | "odd") = (value, name) {
            return fail(format!("{of} is undefined"));
        }
        Ok(match name {
            "defined" => !value.is_undefined(),
            "undefined" => value.is_undefined(),
            "none" => matches!(value, Value::None),
            "boolean" => matches!(value, Value::Bool(_)),
            "true" => matches!(value, Value::Bool(true)),
            "false" => matches!(value, Value::Bool(false)),
            "integer" => matches!(value, Value::Int(_)),
            "float" => matches!(value, Value::Float(_)),
            "number" => value.as_float().is_some(),
            "string" => matches!(value, Value::Text(_)),
            "mapping" => matches!(value, Value::Dict(_)),
            // What has a length and items; Jinja's undefined has a length and fails on the items.
            "sequence" => matches!(
                value,
                Value::List(_)
                    | Value::Tuple(_)
                    | Value::Dict(_)
                    | Value::Text(_)
                    | Value::Range(_)
                    | Value::Undefined(_)
            ),
            "iterable" => matches!(
                value,
                Value::List(_)
                    | Value::Tuple(_)
                    | Value::Dict(_)
                    | Value::Text(_)
                    | Value::Range(_)
                    | Value::Iter(_)
                    | Value::Undefined(_)
                    | Value::Loop(_)
            ),
            "callable" => matches!(
                value,
                Value::Macro(_)
                    | Value::Method(_)
                    | Value::Function(_)
                    | Value::Joiner(_)
                    | Value::Loop(_)
                    | Value::Undefined(_)
            ),
            "even" | "odd" => match value.as_int() {
                Some(value) => (value % 2 == 0) == (name == "even"),
                None => return fail(format!("got `{name}` of a {}", value.kind())),
            },
            "lower" | "upper" => {
                let text = self.text_of(value)?;
                self.budget.scan(text.len())?;
                cased(&text, name == "upper")
            }
            "filter" => value.as_str().is_some_and(|name| FILTERS.contains(&name)),
            "test" => value.as_str().is_some_and(|name| TESTS.contains(&name)),
            other => {
                return fail(format!(
                    "got the test `{}`, expected one that Jinja knows",
                    other.escape_debug()
                ));
            }
        })
    }

    fn ordered(&mut self, value: &Value, other: &Value, wanted: &[Ordering]) -> Result<bool> {
        Ok(self.order(value, other)?.is_some_and(|order| wanted.contains(&order)))
    }

    /// Python's `is`, for the values of which there is one only.
    fn same_object(&mut self, value: &Value, other: &Value) -> Result<bool> {
        Ok(match (value, other) {
            (Value::None, Value::None) => true,
            (Value::Bool(a), Value::Bool(b)) => a == b,
            (Value::None | Value::Bool(_), _) | (_, Value::None | Value::Bool(_)) => false,
            _ => return fail(format!("got `sameas` of a {}, expected none, true or false", value.kind())),
        })
    }
}

/// Python's `islower` and `isupper`.
pub(super) fn cased(text: &str, upper: bool) -> bool {
    let wrong = |c: char| if upper { c.is_lowercase() } else { c.is_uppercase() };
    let right = |c: char| if upper { c.is_uppercase() } else { c.is_lowercase() };
    !text.chars().any(wrong) && text.chars().any(right)
}

//! Operators and comparisons, with Python's meaning.
//!
//! **Invariant:** what an operator makes is paid for before it is made, and so is every item that a comparison looks at.

use std::cmp::Ordering;
use std::rc::Rc;

use super::ast::{Binary, Comparison};
use super::fault::{Result, fail};
use super::machine::Machine;
use super::value::{Dict, Value};

impl Machine<'_> {
    pub(super) fn binary(&mut self, operator: Binary, left: &Value, right: &Value) -> Result<Value> {
        self.budget.steps(1)?;
        for side in [left, right] {
            if let Value::Undefined(name) = side {
                // The text of a `%` takes any value; an undefined one is empty.
                if operator != Binary::Rem || left.is_undefined() {
                    return fail(format!("{name} is undefined"));
                }
            }
        }
        match (operator, left, right) {
            (Binary::Add, Value::Text(a), Value::Text(b)) => {
                self.budget.bytes((a.len() + b.len()) as u64)?;
                return Ok(Value::Text([&**a, &**b].concat().into()));
            }
            (Binary::Add, Value::List(a), Value::List(b)) => {
                self.budget.slots(a.items.len() + b.items.len())?;
                return self.list([a.items.as_slice(), b.items.as_slice()].concat());
            }
            (Binary::Add, Value::Tuple(a), Value::Tuple(b)) => {
                self.budget.slots(a.items.len() + b.items.len())?;
                return self.tuple([a.items.as_slice(), b.items.as_slice()].concat());
            }
            (Binary::Mul, Value::Text(_) | Value::List(_) | Value::Tuple(_), count)
                if count.as_int().is_some() =>
            {
                return self.repeated(left, count.as_int().unwrap_or_default());
            }
            (Binary::Mul, count, Value::Text(_) | Value::List(_) | Value::Tuple(_))
                if count.as_int().is_some() =>
            {
                return self.repeated(right, count.as_int().unwrap_or_default());
            }
            (Binary::Rem, Value::Text(pattern), arguments) => {
                let pattern = Rc::clone(pattern);
                return self.printf(&pattern, arguments);
            }
            _ => {}
        }
        let wrong = || fail(format!("got {operator:?} of a {} and a {}", left.kind(), right.kind()));
        if let (Some(a), Some(b)) = (left.as_int(), right.as_int()) {
            return int_binary(operator, a, b);
        }
        match (left.as_float(), right.as_float()) {
            (Some(a), Some(b)) => float_binary(operator, a, b),
            _ => wrong(),
        }
    }

    pub(super) fn repeated(&mut self, value: &Value, count: i64) -> Result<Value> {
        let count = usize::try_from(count.max(0)).unwrap_or(usize::MAX);
        match value {
            Value::Text(text) => {
                self.budget.bytes((text.len() as u64).saturating_mul(count as u64))?;
                Ok(Value::Text(text.repeat(if text.is_empty() { 0 } else { count }).into()))
            }
            Value::List(seq) | Value::Tuple(seq) => {
                self.budget.slots(seq.items.len().saturating_mul(count))?;
                let times = if seq.items.is_empty() { 0 } else { count };
                let items = (0..times).flat_map(|_| seq.items.iter().cloned()).collect();
                if matches!(value, Value::List(_)) { self.list(items) } else { self.tuple(items) }
            }
            other => fail(format!("got a {} to repeat", other.kind())),
        }
    }

    pub(super) fn compare(&mut self, comparison: Comparison, left: &Value, right: &Value) -> Result<bool> {
        Ok(match comparison {
            Comparison::Eq => self.same(left, right)?,
            Comparison::Ne => !self.same(left, right)?,
            Comparison::In => self.contains(right, left)?,
            Comparison::NotIn => !self.contains(right, left)?,
            Comparison::Lt => self.order(left, right)? == Some(Ordering::Less),
            Comparison::Gt => self.order(left, right)? == Some(Ordering::Greater),
            Comparison::Le => matches!(self.order(left, right)?, Some(Ordering::Less | Ordering::Equal)),
            Comparison::Ge => matches!(self.order(left, right)?, Some(Ordering::Greater | Ordering::Equal)),
        })
    }

    /// Python's `==`.
    pub(super) fn same(&mut self, left: &Value, right: &Value) -> Result<bool> {
        self.budget.enter()?;
        let same = match (left, right) {
            (Value::Undefined(_), Value::Undefined(_)) | (Value::None, Value::None) => true,
            (Value::Text(a), Value::Text(b)) => {
                self.budget.scan(a.len().min(b.len()))?;
                a == b
            }
            (Value::List(a), Value::List(b)) | (Value::Tuple(a), Value::Tuple(b)) => {
                a.items.len() == b.items.len() && self.all_same(&a.items, &b.items)?
            }
            (Value::Dict(a), Value::Dict(b)) => {
                a.entries.len() == b.entries.len() && self.same_entries(a, b)?
            }
            (Value::Range(a), Value::Range(b)) => {
                a.len == b.len && (a.len == 0 || (a.start == b.start && (a.len == 1 || a.step == b.step)))
            }
            (Value::Function(a), Value::Function(b)) => a == b,
            (Value::Namespace(a), Value::Namespace(b))
            | (Value::Macro(a), Value::Macro(b))
            | (Value::Iter(a), Value::Iter(b))
            | (Value::Loop(a), Value::Loop(b)) => a == b,
            _ => match (left.as_int(), right.as_int()) {
                (Some(a), Some(b)) => a == b,
                _ => left.as_float().zip(right.as_float()).is_some_and(|(a, b)| a == b),
            },
        };
        self.budget.leave();
        Ok(same)
    }

    pub(super) fn all_same(&mut self, left: &[Value], right: &[Value]) -> Result<bool> {
        for (a, b) in left.iter().zip(right) {
            if !self.same(a, b)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    pub(super) fn same_entries(&mut self, left: &Dict, right: &Dict) -> Result<bool> {
        for (key, value) in &left.entries {
            match self.get(right, key)? {
                Some(other) if self.same(value, &other)? => {}
                _ => return Ok(false),
            }
        }
        Ok(true)
    }

    /// Python's order, an error where there is none; `None` for what is no number.
    pub(super) fn order(&mut self, left: &Value, right: &Value) -> Result<Option<Ordering>> {
        self.budget.enter()?;
        let order = match (left, right) {
            (Value::Text(a), Value::Text(b)) => {
                self.budget.scan(a.len().min(b.len()))?;
                Some(a.cmp(b))
            }
            (Value::List(a), Value::List(b)) | (Value::Tuple(a), Value::Tuple(b)) => {
                let mut order = Some(a.items.len().cmp(&b.items.len()));
                for (a, b) in a.items.iter().zip(&b.items) {
                    if !self.same(a, b)? {
                        order = self.order(a, b)?;
                        break;
                    }
                }
                order
            }
            _ => match (left.as_int(), right.as_int(), left.as_float(), right.as_float()) {
                (Some(a), Some(b), ..) => Some(a.cmp(&b)),
                (.., Some(a), Some(b)) => a.partial_cmp(&b),
                _ => return fail(format!("got a {} and a {} to put in order", left.kind(), right.kind())),
            },
        };
        self.budget.leave();
        Ok(order)
    }

    /// Python's `in`.
    pub(super) fn contains(&mut self, whole: &Value, part: &Value) -> Result<bool> {
        match whole {
            Value::Text(text) => match part {
                Value::Text(part) => {
                    self.budget.scan(text.len() + part.len())?;
                    Ok(text.contains(&**part))
                }
                other => fail(format!("got a {} to look for in a str", other.kind())),
            },
            Value::Dict(dict) => Ok(self.get(dict, part)?.is_some()),
            Value::List(seq) | Value::Tuple(seq) => {
                let seq = Rc::clone(seq);
                for item in &seq.items {
                    if self.same(item, part)? {
                        return Ok(true);
                    }
                }
                Ok(false)
            }
            Value::Range(_) | Value::Undefined(_) | Value::Iter(_) => {
                for item in self.items(whole)? {
                    if self.same(&item, part)? {
                        return Ok(true);
                    }
                }
                Ok(false)
            }
            other => fail(format!("got a {}, expected something that can hold a value", other.kind())),
        }
    }

    /// The value of a key.
    pub(super) fn get(&mut self, dict: &Dict, key: &Value) -> Result<Option<Value>> {
        if matches!(key, Value::List(_) | Value::Dict(_)) {
            return fail(format!("got a {} for a key", key.kind()));
        }
        for (known, value) in &dict.entries {
            if self.same(known, key)? {
                return Ok(Some(value.clone()));
            }
        }
        Ok(None)
    }

    /// Adds an entry, or replaces the one of the same key.
    pub(super) fn insert(
        &mut self,
        entries: &mut Vec<(Value, Value)>,
        key: Value,
        value: Value,
    ) -> Result<()> {
        if matches!(key, Value::List(_) | Value::Dict(_)) {
            return fail(format!("got a {} for a key", key.kind()));
        }
        for (known, place) in entries.iter_mut() {
            if self.same(known, &key)? {
                *place = value;
                return Ok(());
            }
        }
        entries.push((key, value));
        Ok(())
    }
}

fn int_binary(operator: Binary, a: i64, b: i64) -> Result<Value> {
    let value = match operator {
        Binary::Add => a.checked_add(b),
        Binary::Sub => a.checked_sub(b),
        Binary::Mul => a.checked_mul(b),
        Binary::FloorDiv | Binary::Rem | Binary::Div if b == 0 => return fail("got a division by 0"),
        Binary::Div => return Ok(Value::Float(a as f64 / b as f64)),
        Binary::FloorDiv => {
            a.checked_div(b).map(|q| if a % b != 0 && (a < 0) != (b < 0) { q - 1 } else { q })
        }
        Binary::Rem => a.checked_rem(b).map(|r| if r != 0 && (r < 0) != (b < 0) { r + b } else { r }),
        Binary::Pow if b < 0 => return float_binary(operator, a as f64, b as f64),
        Binary::Pow => u32::try_from(b).ok().and_then(|b| a.checked_pow(b)),
    };
    match value {
        Some(value) => Ok(Value::Int(value)),
        None => fail(format!("got a result of {operator:?} beyond 64 bits")),
    }
}

fn float_binary(operator: Binary, a: f64, b: f64) -> Result<Value> {
    Ok(Value::Float(match operator {
        Binary::Add => a + b,
        Binary::Sub => a - b,
        Binary::Mul => a * b,
        Binary::Div | Binary::FloorDiv | Binary::Rem if b == 0.0 => return fail("got a division by 0"),
        Binary::Pow if a == 0.0 && b < 0.0 => return fail("got a division by 0"),
        Binary::Pow if a < 0.0 && b.fract() != 0.0 => return fail("got a root of a negative number"),
        Binary::Div => a / b,
        Binary::FloorDiv => (a / b).floor(),
        Binary::Rem => {
            let rest = a % b;
            if rest != 0.0 && (rest < 0.0) != (b < 0.0) { rest + b } else { rest }
        }
        Binary::Pow => a.powf(b),
    }))
}

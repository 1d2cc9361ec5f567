//! Attributes, items and slices.

use std::rc::Rc;

use super::fault::{Result, fail};
use super::machine::Machine;
use super::value::Value;

impl Machine<'_> {
    /// `value.name`: an attribute, else the item of that name.
    pub(super) fn attribute(&mut self, value: &Value, name: &str) -> Result<Value> {
        match value {
            Value::Undefined(of) => fail(format!("{of} is undefined, so it has no `{name}`")),
            Value::Loop(place) => self.loop_attribute(*place, name),
            Value::Namespace(place) => {
                let fields = self.namespaces.get(*place).map(Vec::as_slice).unwrap_or_default();
                let steps = 1 + fields.len() as u64 / 8;
                let found = fields.iter().find(|(known, _)| **known == *name).map(|(_, value)| value.clone());
                self.budget.steps(steps)?;
                Ok(found.unwrap_or_else(|| Value::Undefined(name.into())))
            }
            Value::Cycler(place) if name == "current" => {
                let found = self.cyclers.get(*place).and_then(|(items, at)| items.get(*at));
                Ok(found.cloned().unwrap_or(Value::None))
            }
            Value::Macro(place) if name == "name" => {
                let name = self.macros.get(*place).map_or("", |it| it.it.name.as_str());
                Ok(Value::text(name))
            }
            _ if self.has_method(value, name) => Ok(Value::Method(Rc::new((value.clone(), name.to_owned())))),
            Value::Dict(dict) => {
                let dict = Rc::clone(dict);
                let found = self.get(&dict, &Value::text(name))?;
                Ok(found.unwrap_or_else(|| Value::Undefined(name.into())))
            }
            _ => Ok(Value::Undefined(name.into())),
        }
    }

    /// `value[item]`: an item, else the attribute of that name.
    pub(super) fn item(&mut self, value: &Value, item: &Value) -> Result<Value> {
        let missing = |item: &Value| match item {
            Value::Text(name) => Value::Undefined(Rc::clone(name)),
            _ => Value::Undefined("an item".into()),
        };
        let found = match (value, item) {
            (Value::Undefined(of), _) => return fail(format!("{of} is undefined, so it has no items")),
            // What cannot be a key is in no dictionary.
            (Value::Dict(_), Value::List(_) | Value::Dict(_)) => None,
            (Value::Dict(dict), _) => self.get(&Rc::clone(dict), item)?,
            (Value::List(seq) | Value::Tuple(seq), index) => index
                .as_int()
                .and_then(|index| place(index, seq.items.len()))
                .and_then(|index| seq.items.get(index).cloned()),
            (Value::Range(range), index) => {
                index.as_int().and_then(|index| place(index, range.len)).map(|index| range.at(index))
            }
            (Value::Text(text), index) => match index.as_int() {
                Some(index) => {
                    self.budget.scan(text.len())?;
                    let len = if index < 0 { text.chars().count() } else { text.len() };
                    let found = place(index, len).and_then(|index| text.chars().nth(index));
                    found.map(|c| Value::text(c.encode_utf8(&mut [0; 4])))
                }
                None => None,
            },
            _ => None,
        };
        match (found, item) {
            (Some(found), _) => Ok(found),
            (None, Value::Text(name)) if !matches!(value, Value::Dict(_)) || self.has_method(value, name) => {
                self.attribute(value, &Rc::clone(name))
            }
            (None, item) => Ok(missing(item)),
        }
    }

    pub(super) fn slice(
        &mut self,
        value: &Value,
        start: Option<i64>,
        stop: Option<i64>,
        step: Option<i64>,
    ) -> Result<Value> {
        let step = step.unwrap_or(1);
        if step == 0 {
            return fail("got a slice with step 0");
        }
        match value {
            Value::Text(text) => {
                self.budget.bytes(text.len() as u64 * 5)?;
                let chars: Vec<char> = text.chars().collect();
                let found: String = sliced(&chars, start, stop, step).collect();
                Ok(Value::Text(found.into()))
            }
            Value::List(seq) | Value::Tuple(seq) => {
                self.budget.slots(seq.items.len())?;
                let items: Vec<Value> = sliced(&seq.items, start, stop, step).collect();
                if matches!(value, Value::List(_)) { self.list(items) } else { self.tuple(items) }
            }
            Value::Range(_) => {
                let items = self.items(value)?;
                let items: Vec<Value> = sliced(&items, start, stop, step).collect();
                self.list(items)
            }
            Value::Undefined(of) => fail(format!("{of} is undefined, so it has no items")),
            other => fail(format!("got a slice of a {}", other.kind())),
        }
    }
}

/// The place of an index that may count from the end.
pub(super) fn place(index: i64, len: usize) -> Option<usize> {
    let index = if index < 0 { index.checked_add(i64::try_from(len).ok()?)? } else { index };
    usize::try_from(index).ok().filter(|index| *index < len)
}

fn sliced<T: Clone>(
    items: &[T],
    start: Option<i64>,
    stop: Option<i64>,
    step: i64,
) -> impl Iterator<Item = T> + '_ {
    let len = items.len() as i64;
    let (low, high) = if step > 0 { (0, len) } else { (-1, len - 1) };
    let bound = |at: Option<i64>, other: i64| match at {
        None => other,
        Some(at) if at < 0 => at.saturating_add(len).clamp(low, high),
        Some(at) => at.clamp(low, high),
    };
    let (first, end) = if step > 0 {
        (bound(start, low), bound(stop, high))
    } else {
        (bound(start, high), bound(stop, low))
    };
    let mut at = Some(first);
    std::iter::from_fn(move || {
        let now = at.filter(|at| if step > 0 { *at < end } else { *at > end })?;
        at = now.checked_add(step);
        items.get(usize::try_from(now).ok()?).cloned()
    })
}

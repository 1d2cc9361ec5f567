//! Jinja's filters that go through lists.

use std::cmp::Ordering;
use std::rc::Rc;

use super::call::{Passed, int_or};
use super::fault::{Fault, Result, fail};
use super::machine::Machine;
use super::value::Value;

impl Machine<'_> {
    pub(super) fn row_filter(&mut self, name: &str, value: Value, passed: Passed) -> Result<Value> {
        match name {
            "first" | "last" => {
                passed.none(name)?;
                self.end(name, &value)
            }
            "list" => {
                passed.none(name)?;
                let items = self.items(&value)?;
                self.list(items)
            }
            "items" => {
                passed.none(name)?;
                match &value {
                    Value::Undefined(_) => self.iter([]),
                    Value::Dict(_) => {
                        let Value::List(pairs) = self.method(&value, "items", Passed::default())? else {
                            return fail("got no items");
                        };
                        self.iter(pairs.items.iter().cloned())
                    }
                    other => fail(format!("got `items` of a {}", other.kind())),
                }
            }
            "reverse" => {
                passed.none(name)?;
                if let Value::Text(text) = &value {
                    self.budget.bytes(text.len() as u64)?;
                    return Ok(Value::Text(text.chars().rev().collect::<String>().into()));
                }
                let items = self.items(&value)?;
                self.iter(items.into_iter().rev())
            }
            "join" => self.join(&value, passed),
            "map" => self.map(&value, passed),
            "select" => self.select(&value, passed, false, true),
            "reject" => self.select(&value, passed, false, false),
            "selectattr" => self.select(&value, passed, true, true),
            "rejectattr" => self.select(&value, passed, true, false),
            "sort" => self.sort(&value, passed),
            "dictsort" => self.dictsort(&value, passed),
            "unique" => self.unique(&value, passed),
            "groupby" => self.groupby(&value, passed),
            "sum" => self.sum(&value, passed),
            "min" | "max" => self.extreme(name, &value, passed),
            "batch" => self.batch(&value, passed),
            "slice" => self.slices(&value, passed),
            other => {
                fail(format!("got the filter `{}`, expected one that Jinja knows", other.escape_debug()))
            }
        }
    }

    fn end(&mut self, name: &str, value: &Value) -> Result<Value> {
        let found = match value {
            Value::List(seq) | Value::Tuple(seq) if name == "first" => seq.items.first().cloned(),
            Value::List(seq) | Value::Tuple(seq) => seq.items.last().cloned(),
            Value::Iter(place) if name == "first" => {
                self.iters.get_mut(*place).and_then(std::collections::VecDeque::pop_front)
            }
            Value::Iter(_) if name == "last" => return fail("got `last` of a generator, expected a list"),
            other => {
                let items = self.items(other)?;
                if name == "first" { items.into_iter().next() } else { items.into_iter().next_back() }
            }
        };
        Ok(found.unwrap_or_else(|| Value::Undefined(format!("the {name} item of nothing").into())))
    }

    fn join(&mut self, value: &Value, passed: Passed) -> Result<Value> {
        let [between, attribute] = passed.bind("join", ["d", "attribute"])?;
        let between = match between {
            Some(between) => self.text_of(&between)?,
            None => "".into(),
        };
        let mut text = String::new();
        for (index, item) in self.items(value)?.into_iter().enumerate() {
            let item = match &attribute {
                Some(attribute) => self.path(item, attribute, None)?,
                None => item,
            };
            let item = self.text_of(&item)?;
            self.budget.bytes((item.len() + between.len()) as u64)?;
            if index > 0 {
                text.push_str(&between);
            }
            text.push_str(&item);
        }
        Ok(Value::Text(text.into()))
    }

    /// An item's attribute by a path such as `function.name` or `0.role`.
    fn path(&mut self, mut value: Value, path: &Value, default: Option<&Value>) -> Result<Value> {
        let missing = |default: Option<&Value>, value: Value| match default {
            Some(default) if value.is_undefined() => default.clone(),
            _ => value,
        };
        match path {
            Value::Text(path) => {
                for part in path.split('.') {
                    let part = match part.parse::<i64>() {
                        Ok(index) if part.bytes().all(|byte| byte.is_ascii_digit()) => Value::Int(index),
                        _ => Value::text(part),
                    };
                    value = missing(default, self.item(&value, &part)?);
                }
                Ok(value)
            }
            other => Ok(missing(default, self.item(&value, other)?)),
        }
    }

    fn map(&mut self, value: &Value, mut passed: Passed) -> Result<Value> {
        let items = self.items(value)?;
        let mut found = Vec::new();
        if let Some(at) = passed
            .named
            .iter()
            .position(|(name, _)| &**name == "attribute")
            .filter(|_| passed.positional.is_empty())
        {
            let (_, attribute) = passed.named.remove(at);
            let [default] = passed.bind("map", ["default"])?;
            for item in items {
                found.push(self.path(item, &attribute, default.as_ref())?);
            }
        } else {
            if passed.positional.is_empty() {
                return fail("got neither a filter nor an attribute for `map`");
            }
            let Value::Text(filter) = passed.positional.remove(0) else {
                return fail("got no filter's name for `map`");
            };
            for item in items {
                self.budget.slots(passed.positional.len() + passed.named.len())?;
                let again = Passed { positional: passed.positional.clone(), named: passed.named.clone() };
                found.push(self.filter(&filter, item, again)?);
            }
        }
        self.iter(found)
    }

    fn select(&mut self, value: &Value, passed: Passed, attribute: bool, wanted: bool) -> Result<Value> {
        let Passed { mut positional, named } = passed;
        let path = match attribute {
            true if positional.is_empty() => return fail("got no attribute to choose by"),
            true => Some(positional.remove(0)),
            false => None,
        };
        let test = if positional.is_empty() { None } else { Some(positional.remove(0)) };
        let mut found = Vec::new();
        for item in self.items(value)? {
            let judged = match &path {
                Some(path) => self.path(item.clone(), path, None)?,
                None => item.clone(),
            };
            let holds = match &test {
                Some(Value::Text(test)) => {
                    self.budget.slots(positional.len() + named.len())?;
                    let again = Passed { positional: positional.clone(), named: named.clone() };
                    self.test(test, &judged, again)?
                }
                Some(other) => return fail(format!("got a {} for a test's name", other.kind())),
                None => self.is_true(&judged)?,
            };
            if holds == wanted {
                found.push(item);
            }
        }
        self.iter(found)
    }

    /// What Jinja compares by: texts without their case, unless it is told to look at it.
    fn folded(&mut self, value: Value, case_sensitive: bool) -> Result<Value> {
        match value {
            Value::Text(text) if !case_sensitive => {
                self.budget.bytes(text.len() as u64 * 3)?;
                Ok(Value::Text(text.to_lowercase().into()))
            }
            other => Ok(other),
        }
    }

    /// Sorts by keys; of equals the first stays first.
    fn sorted(&mut self, mut keyed: Vec<(Value, Value)>, reverse: bool) -> Result<Vec<Value>> {
        let mut fault: Option<Box<Fault>> = None;
        keyed.sort_by(|(a, _), (b, _)| {
            if fault.is_some() {
                return Ordering::Equal;
            }
            match self.order(a, b) {
                Ok(order) => {
                    let order = order.unwrap_or(Ordering::Equal);
                    if reverse { order.reverse() } else { order }
                }
                Err(found) => {
                    fault = Some(found);
                    Ordering::Equal
                }
            }
        });
        match fault {
            Some(fault) => Err(fault),
            None => Ok(keyed.into_iter().map(|(_, value)| value).collect()),
        }
    }

    fn sort(&mut self, value: &Value, passed: Passed) -> Result<Value> {
        let [reverse, case, attribute] = passed.bind("sort", ["reverse", "case_sensitive", "attribute"])?;
        let reverse = self.is_true(&reverse.unwrap_or(Value::None))?;
        let case = self.is_true(&case.unwrap_or(Value::None))?;
        let mut keyed = Vec::new();
        for item in self.items(value)? {
            let key = match &attribute {
                None | Some(Value::None) => self.folded(item.clone(), case)?,
                Some(Value::Text(paths)) if paths.contains(',') => {
                    let mut keys = Vec::new();
                    for path in paths.split(',') {
                        let key = self.path(item.clone(), &Value::text(path), None)?;
                        keys.push(self.folded(key, case)?);
                    }
                    self.list(keys)?
                }
                Some(path) => {
                    let key = self.path(item.clone(), path, None)?;
                    self.folded(key, case)?
                }
            };
            keyed.push((key, item));
        }
        let items = self.sorted(keyed, reverse)?;
        self.list(items)
    }

    fn dictsort(&mut self, value: &Value, passed: Passed) -> Result<Value> {
        let [case, by, reverse] = passed.bind("dictsort", ["case_sensitive", "by", "reverse"])?;
        let case = self.is_true(&case.unwrap_or(Value::None))?;
        let reverse = self.is_true(&reverse.unwrap_or(Value::None))?;
        let by_value = match by.as_ref().map_or(Some("key"), Value::as_str) {
            Some("key") => false,
            Some("value") => true,
            _ => return fail("got a `by` for `dictsort` other than key or value"),
        };
        let Value::Dict(dict) = value else { return fail(format!("got `dictsort` of a {}", value.kind())) };
        let mut keyed = Vec::new();
        for (key, value) in &Rc::clone(dict).entries {
            let by = if by_value { value.clone() } else { key.clone() };
            let by = self.folded(by, case)?;
            let pair = self.tuple(vec![key.clone(), value.clone()])?;
            keyed.push((by, pair));
        }
        let items = self.sorted(keyed, reverse)?;
        self.list(items)
    }

    fn unique(&mut self, value: &Value, passed: Passed) -> Result<Value> {
        let [case, attribute] = passed.bind("unique", ["case_sensitive", "attribute"])?;
        let case = self.is_true(&case.unwrap_or(Value::None))?;
        let (mut seen, mut found): (Vec<Value>, Vec<Value>) = (Vec::new(), Vec::new());
        for item in self.items(value)? {
            let key = match &attribute {
                Some(attribute) => self.path(item.clone(), attribute, None)?,
                None => item.clone(),
            };
            let key = self.folded(key, case)?;
            let mut known = false;
            for other in &seen {
                known = known || self.same(other, &key)?;
            }
            if !known {
                seen.push(key);
                found.push(item);
            }
        }
        self.iter(found)
    }

    fn groupby(&mut self, value: &Value, passed: Passed) -> Result<Value> {
        let [attribute, default, case] =
            passed.bind("groupby", ["attribute", "default", "case_sensitive"])?;
        let Some(attribute) = attribute else { return fail("got no attribute for `groupby`") };
        let case = self.is_true(&case.unwrap_or(Value::None))?;
        let mut keyed = Vec::new();
        for item in self.items(value)? {
            let key = self.path(item.clone(), &attribute, default.as_ref())?;
            let folded = self.folded(key.clone(), case)?;
            let pair = self.tuple(vec![folded.clone(), key, item])?;
            keyed.push((folded, pair));
        }
        let mut groups: Vec<(Value, Value, Vec<Value>)> = Vec::new();
        for found in self.sorted(keyed, false)? {
            let Value::Tuple(found) = found else { continue };
            let [folded, key, item] = found.items.as_slice() else { continue };
            match groups.last_mut() {
                Some((last, _, items)) if self.same(last, folded)? => items.push(item.clone()),
                _ => groups.push((folded.clone(), key.clone(), vec![item.clone()])),
            }
        }
        let mut found = Vec::new();
        for (_, key, items) in groups {
            let items = self.list(items)?;
            found.push(self.tuple(vec![key, items])?);
        }
        self.list(found)
    }

    fn sum(&mut self, value: &Value, passed: Passed) -> Result<Value> {
        let [attribute, start] = passed.bind("sum", ["attribute", "start"])?;
        let (mut whole, mut float) = match start {
            None => (Some(0_i64), 0.0),
            Some(start) => (
                start.as_int(),
                start.as_float().ok_or_else(|| Fault::new("got a `start` for `sum` that is no number"))?,
            ),
        };
        for item in self.items(value)? {
            let item = match &attribute {
                None | Some(Value::None) => item,
                Some(attribute) => self.path(item, attribute, None)?,
            };
            float += item.as_float().ok_or_else(|| Fault::new(format!("got a {} to add up", item.kind())))?;
            whole = match (whole, item.as_int()) {
                (Some(a), Some(b)) => {
                    Some(a.checked_add(b).ok_or_else(|| Fault::new("got a sum beyond 64 bits"))?)
                }
                _ => None,
            };
        }
        Ok(whole.map_or(Value::Float(float), Value::Int))
    }

    fn extreme(&mut self, name: &str, value: &Value, passed: Passed) -> Result<Value> {
        let [case, attribute] = passed.bind(name, ["case_sensitive", "attribute"])?;
        let case = self.is_true(&case.unwrap_or(Value::None))?;
        let wanted = if name == "min" { Ordering::Less } else { Ordering::Greater };
        let mut best: Option<(Value, Value)> = None;
        for item in self.items(value)? {
            let key = match &attribute {
                None | Some(Value::None) => item.clone(),
                Some(attribute) => self.path(item.clone(), attribute, None)?,
            };
            let key = self.folded(key, case)?;
            match &best {
                Some((known, _)) if self.order(&key, known)? != Some(wanted) => {}
                _ => best = Some((key, item)),
            }
        }
        Ok(best.map_or_else(|| Value::Undefined(format!("the {name} of nothing").into()), |(_, item)| item))
    }

    fn batch(&mut self, value: &Value, passed: Passed) -> Result<Value> {
        let [count, fill] = passed.bind("batch", ["linecount", "fill_with"])?;
        let count = usize::try_from(int_or(count, 0, "batch")?).unwrap_or(0);
        if count == 0 {
            return fail("got no line count for `batch`");
        }
        let items = self.items(value)?;
        let mut found = Vec::new();
        for chunk in items.chunks(count) {
            let mut row = chunk.to_vec();
            if let Some(fill) = fill.as_ref().filter(|fill| !matches!(fill, Value::None)) {
                self.budget.slots(count)?;
                row.resize(count, fill.clone());
            }
            found.push(self.list(row)?);
        }
        self.iter(found)
    }

    fn slices(&mut self, value: &Value, passed: Passed) -> Result<Value> {
        let [count, fill] = passed.bind("slice", ["slices", "fill_with"])?;
        let count = usize::try_from(int_or(count, 0, "slice")?).unwrap_or(0);
        self.budget.slots(count)?;
        if count == 0 {
            return fail("got no count for `slice`");
        }
        let items = self.items(value)?;
        let (each, more) = (items.len() / count, items.len() % count);
        let (mut found, mut at) = (Vec::new(), 0);
        for index in 0..count {
            let len = each + usize::from(index < more);
            let mut row: Vec<Value> = items.iter().skip(at).take(len).cloned().collect();
            at += len;
            if let Some(fill) = fill.as_ref().filter(|fill| !matches!(fill, Value::None))
                && index >= more
            {
                row.push(fill.clone());
            }
            found.push(self.list(row)?);
        }
        self.iter(found)
    }
}

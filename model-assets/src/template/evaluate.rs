//! Expressions to values.
//!
//! **Invariant:** what an operator makes is paid for before it is made.

use std::cmp::Ordering;
use std::rc::Rc;

use super::ast::{Binary, Comparison, Expr, Kind, Post, PostKind};
use super::fault::{Result, fail};
use super::machine::Machine;
use super::value::{Dict, Value};

impl<'t> Machine<'t> {
    pub(super) fn eval(&mut self, expr: &'t Expr) -> Result<Value> {
        self.budget.enter().map_err(|fault| fault.or_line(expr.line))?;
        let value = self.eval_kind(&expr.kind).map_err(|fault| fault.or_line(expr.line))?;
        self.budget.leave();
        Ok(value)
    }

    fn eval_kind(&mut self, kind: &'t Kind) -> Result<Value> {
        Ok(match kind {
            Kind::Undefined => Value::Undefined("the value of an `if` without `else`".into()),
            Kind::None => Value::None,
            Kind::Bool(value) => Value::Bool(*value),
            Kind::Int(value) => Value::Int(*value),
            Kind::Float(value) => Value::Float(*value),
            Kind::Text(text) => self.new_text(text)?,
            Kind::Name(name) => self.lookup(name)?,
            Kind::List(items) => {
                let items = items.iter().map(|item| self.eval(item)).collect::<Result<_>>()?;
                self.list(items)?
            }
            Kind::Tuple(items) => {
                let items = items.iter().map(|item| self.eval(item)).collect::<Result<_>>()?;
                self.tuple(items)?
            }
            Kind::Dict(pairs) => {
                let mut entries = Vec::new();
                for (key, value) in pairs {
                    let (key, value) = (self.eval(key)?, self.eval(value)?);
                    self.insert(&mut entries, key, value)?;
                }
                self.dict(entries)?
            }
            Kind::Not(inner) => {
                let value = self.eval(inner)?;
                Value::Bool(!self.is_true(&value)?)
            }
            Kind::Neg(inner) => match self.eval(inner)? {
                Value::Float(value) => Value::Float(-value),
                value => match value.as_int().map(i64::checked_neg) {
                    Some(Some(value)) => Value::Int(value),
                    _ => return fail(format!("got `-` before a {}", value.kind())),
                },
            },
            Kind::Pos(inner) => match self.eval(inner)? {
                Value::Float(value) => Value::Float(value),
                value => match value.as_int() {
                    Some(value) => Value::Int(value),
                    None => return fail(format!("got `+` before a {}", value.kind())),
                },
            },
            Kind::Chain(first, rest) => {
                let mut value = self.eval(first)?;
                for (operator, other) in rest {
                    let other = self.eval(other)?;
                    value = self.binary(*operator, &value, &other)?;
                }
                value
            }
            Kind::And(parts) => self.first_that(parts, false)?,
            Kind::Or(parts) => self.first_that(parts, true)?,
            Kind::Concat(parts) => {
                let mut text = String::new();
                for part in parts {
                    let value = self.eval(part)?;
                    let more = self.to_text(&value)?;
                    self.budget.bytes(more.len() as u64)?;
                    text.push_str(&more);
                }
                Value::Text(text.into())
            }
            Kind::Compare(first, rest) => {
                let mut left = self.eval(first)?;
                for (comparison, other) in rest {
                    let right = self.eval(other)?;
                    if !self.compare(*comparison, &left, &right)? {
                        return Ok(Value::Bool(false));
                    }
                    left = right;
                }
                Value::Bool(true)
            }
            Kind::If(parts) => {
                let (condition, value, otherwise) = &**parts;
                let condition = self.eval(condition)?;
                if self.is_true(&condition)? { self.eval(value)? } else { self.eval(otherwise)? }
            }
            Kind::Postfix(base, posts) => self.posts(base, posts, None)?,
        })
    }

    /// The call of a `call` block, whose macro gets the block.
    pub(super) fn eval_with_caller(&mut self, call: &'t Expr, caller: Value) -> Result<Value> {
        match &call.kind {
            Kind::Postfix(base, posts) => self.posts(base, posts, Some(caller)),
            _ => self.eval(call),
        }
    }

    fn posts(&mut self, base: &'t Expr, posts: &'t [Post], mut caller: Option<Value>) -> Result<Value> {
        let mut value = self.eval(base)?;
        let mut at = 0;
        while let Some(post) = posts.get(at) {
            at += 1;
            let last = at >= posts.len();
            value = match (&post.kind, posts.get(at).map(|next| &next.kind)) {
                // A method is called at once: only its name is looked up.
                (PostKind::Attribute(name), Some(PostKind::Call(arguments)))
                    if self.has_method(&value, name) =>
                {
                    at += 1;
                    let passed = self.pass(arguments)?;
                    self.method(&value, name, passed)
                }
                (PostKind::Call(arguments), _) if last && caller.is_some() => {
                    let mut passed = self.pass(arguments)?;
                    passed.named.extend(caller.take().map(|caller| ("caller".into(), caller)));
                    self.call(&value, passed)
                }
                _ => self.postfix(value, post),
            }
            .map_err(|fault| fault.or_line(post.line))?;
        }
        Ok(value)
    }

    pub(super) fn postfix(&mut self, value: Value, post: &'t Post) -> Result<Value> {
        self.budget.steps(1)?;
        match &post.kind {
            PostKind::Attribute(name) => self.attribute(&value, name),
            PostKind::Item(item) => {
                let item = self.eval(item)?;
                self.item(&value, &item)
            }
            PostKind::Slice(parts) => {
                let [start, stop, step] = &**parts;
                let mut bound = |part: &'t Option<Expr>| match part {
                    Some(part) => match self.eval(part)? {
                        Value::None => Ok(None),
                        value => value.as_int().map(Some).ok_or_else(|| {
                            super::fault::Fault::new(format!("got a {} in a slice, expected an int", value.kind()))
                        }),
                    },
                    None => Ok(None),
                };
                let (start, stop, step) = (bound(start)?, bound(stop)?, bound(step)?);
                self.slice(&value, start, stop, step)
            }
            PostKind::Call(arguments) => {
                let passed = self.pass(arguments)?;
                self.call(&value, passed)
            }
            PostKind::Filter(name, arguments) => {
                let passed = self.pass(arguments)?;
                self.filter(name, value, passed)
            }
            PostKind::Test { name, arguments, negated } => {
                let passed = self.pass(arguments)?;
                Ok(Value::Bool(self.test(name, &value, passed)? != *negated))
            }
        }
    }

    fn first_that(&mut self, parts: &'t [Expr], wanted: bool) -> Result<Value> {
        let mut value = Value::None;
        for (index, part) in parts.iter().enumerate() {
            value = self.eval(part)?;
            if index + 1 < parts.len() && self.is_true(&value)? == wanted {
                break;
            }
        }
        Ok(value)
    }

    pub(super) fn is_true(&mut self, value: &Value) -> Result<bool> {
        Ok(match value {
            Value::Undefined(_) | Value::None => false,
            Value::Bool(value) => *value,
            Value::Int(value) => *value != 0,
            Value::Float(value) => *value != 0.0,
            Value::Text(text) => !text.is_empty(),
            Value::List(seq) | Value::Tuple(seq) => !seq.items.is_empty(),
            Value::Dict(dict) => !dict.entries.is_empty(),
            Value::Range(range) => range.len > 0,
            _ => true,
        })
    }

    fn binary(&mut self, operator: Binary, left: &Value, right: &Value) -> Result<Value> {
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
            (Binary::Mul, Value::Text(_) | Value::List(_) | Value::Tuple(_), count) if count.as_int().is_some() => {
                return self.repeated(left, count.as_int().unwrap_or_default());
            }
            (Binary::Mul, count, Value::Text(_) | Value::List(_) | Value::Tuple(_)) if count.as_int().is_some() => {
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

    fn repeated(&mut self, value: &Value, count: i64) -> Result<Value> {
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

    fn compare(&mut self, comparison: Comparison, left: &Value, right: &Value) -> Result<bool> {
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
            (Value::Dict(a), Value::Dict(b)) => a.entries.len() == b.entries.len() && self.same_entries(a, b)?,
            (Value::Range(a), Value::Range(b)) => a.len == b.len && (a.len == 0 || (a.start == b.start && (a.len == 1 || a.step == b.step))),
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

    fn all_same(&mut self, left: &[Value], right: &[Value]) -> Result<bool> {
        for (a, b) in left.iter().zip(right) {
            if !self.same(a, b)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn same_entries(&mut self, left: &Dict, right: &Dict) -> Result<bool> {
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
    pub(super) fn insert(&mut self, entries: &mut Vec<(Value, Value)>, key: Value, value: Value) -> Result<()> {
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
            _ if self.has_method(value, name) => {
                Ok(Value::Method(Rc::new((value.clone(), name.to_owned()))))
            }
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

    fn slice(&mut self, value: &Value, start: Option<i64>, stop: Option<i64>, step: Option<i64>) -> Result<Value> {
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
    let (first, end) = if step > 0 { (bound(start, low), bound(stop, high)) } else { (bound(start, high), bound(stop, low)) };
    let mut at = Some(first);
    std::iter::from_fn(move || {
        let now = at.filter(|at| if step > 0 { *at < end } else { *at > end })?;
        at = now.checked_add(step);
        items.get(usize::try_from(now).ok()?).cloned()
    })
}

fn int_binary(operator: Binary, a: i64, b: i64) -> Result<Value> {
    let value = match operator {
        Binary::Add => a.checked_add(b),
        Binary::Sub => a.checked_sub(b),
        Binary::Mul => a.checked_mul(b),
        Binary::FloorDiv | Binary::Rem | Binary::Div if b == 0 => return fail("got a division by 0"),
        Binary::Div => return Ok(Value::Float(a as f64 / b as f64)),
        Binary::FloorDiv => a.checked_div(b).map(|q| if a % b != 0 && (a < 0) != (b < 0) { q - 1 } else { q }),
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

//! Expressions to values.
//!
//! **Invariant:** what an operator makes is paid for before it is made.

use super::ast::{Expr, Kind, Post, PostKind};
use super::fault::{Result, fail};
use super::machine::Machine;
use super::value::Value;

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
                    let more = self.text_of(&value)?;
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
                            super::fault::Fault::new(format!(
                                "got a {} in a slice, expected an int",
                                value.kind()
                            ))
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
}

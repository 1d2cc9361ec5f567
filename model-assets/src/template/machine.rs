//! The machine that renders: scopes, statements, macros and loops.
//!
//! **Invariant:** a rendering reads the template, what it is given and the clock that it is given, and nothing else.

use std::collections::VecDeque;
use std::rc::Rc;

use super::ast::{Expr, For, Macro, Node, Stmt, Target};
use super::budget::{Budget, VALUE_DEPTH_MAX};
use super::call::Passed;
use super::clock::Clock;
use super::fault::{Fault, Result, fail};
use super::value::{Data, Dict, Function, Range, Seq, Value};
use crate::limits::PROMPT_BYTES_MAX;

pub(super) struct Machine<'t> {
    pub(super) budget: Budget,
    pub(super) clock: Clock,
    /// What is being written: the prompt, or what a block captures.
    pub(super) out: String,
    pub(super) scopes: Vec<Scope<'t>>,
    /// Scopes below this place may be looked at by a macro and stay.
    kept: usize,
    /// The scope at hand.
    pub(super) scope: usize,
    pub(super) namespaces: Vec<Vec<(Rc<str>, Value)>>,
    pub(super) macros: Vec<Defined<'t>>,
    pub(super) loops: Vec<Looping<'t>>,
    pub(super) iters: Vec<VecDeque<Value>>,
    pub(super) cyclers: Vec<(Vec<Value>, usize)>,
    pub(super) joiners: Vec<(Rc<str>, bool)>,
}

pub(super) struct Scope<'t> {
    names: Vec<(&'t str, Value)>,
    parent: Option<usize>,
}

/// A macro and the scope that it was made in.
#[derive(Clone, Copy)]
pub(super) struct Defined<'t> {
    pub(super) it: &'t Macro,
    pub(super) scope: usize,
}

/// A loop that runs.
pub(super) struct Looping<'t> {
    pub(super) it: &'t For,
    pub(super) scope: usize,
    pub(super) items: Rc<Vec<Value>>,
    pub(super) index: usize,
    pub(super) depth: usize,
    pub(super) changed: Option<Vec<Value>>,
}

/// How a body ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Flow {
    Next,
    Break,
    Continue,
}

impl<'t> Machine<'t> {
    pub(super) fn new(clock: Clock) -> Self {
        Self {
            budget: Budget::new(),
            clock,
            out: String::new(),
            scopes: vec![Scope { names: Vec::new(), parent: None }],
            kept: 0,
            scope: 0,
            namespaces: Vec::new(),
            macros: Vec::new(),
            loops: Vec::new(),
            iters: Vec::new(),
            cyclers: Vec::new(),
            joiners: Vec::new(),
        }
    }

    /// Renders a template with names that it is given.
    pub(super) fn render(&mut self, body: &'t [Stmt], given: &[(&'t str, &Data)]) -> Result<String> {
        for (name, data) in given {
            let value = self.given(data)?;
            self.assign(name, value);
        }
        // What the template sets stands before what it is given.
        self.open_scope(0);
        self.body(body)?;
        Ok(std::mem::take(&mut self.out))
    }

    fn given(&mut self, data: &Data) -> Result<Value> {
        Ok(match data {
            Data::Null => Value::None,
            Data::Bool(value) => Value::Bool(*value),
            Data::Int(value) => Value::Int(*value),
            Data::Float(value) => Value::Float(*value),
            Data::Text(text) => self.new_text(text)?,
            Data::List(items) => {
                let items = items.iter().map(|item| self.given(item)).collect::<Result<_>>()?;
                self.list(items)?
            }
            Data::Map(fields) => {
                let mut entries = Vec::with_capacity(fields.len());
                for (name, value) in fields {
                    entries.push((self.new_text(name)?, self.given(value)?));
                }
                self.dict(entries)?
            }
        })
    }

    pub(super) fn new_text(&mut self, text: &str) -> Result<Value> {
        self.budget.bytes(text.len() as u64)?;
        Ok(Value::text(text))
    }

    fn deep(&mut self, inner: impl Iterator<Item = u16>) -> Result<u16> {
        match inner.max().unwrap_or_default().saturating_add(1) {
            depth if depth > VALUE_DEPTH_MAX => {
                fail(format!("got lists deeper than {VALUE_DEPTH_MAX} in each other"))
            }
            depth => Ok(depth),
        }
    }

    pub(super) fn seq(&mut self, items: Vec<Value>) -> Result<Rc<Seq>> {
        self.budget.slots(items.len())?;
        let depth = self.deep(items.iter().map(Value::depth))?;
        Ok(Rc::new(Seq { items, depth }))
    }

    pub(super) fn list(&mut self, items: Vec<Value>) -> Result<Value> {
        self.seq(items).map(Value::List)
    }

    pub(super) fn tuple(&mut self, items: Vec<Value>) -> Result<Value> {
        self.seq(items).map(Value::Tuple)
    }

    /// A dictionary of entries whose keys differ.
    pub(super) fn dict(&mut self, entries: Vec<(Value, Value)>) -> Result<Value> {
        self.budget.slots(entries.len().saturating_mul(2))?;
        let depth = self.deep(entries.iter().map(|(key, value)| key.depth().max(value.depth())))?;
        Ok(Value::Dict(Rc::new(Dict { entries, depth })))
    }

    pub(super) fn iter(&mut self, items: impl IntoIterator<Item = Value>) -> Result<Value> {
        let items: VecDeque<Value> = items.into_iter().collect();
        self.budget.slots(items.len() + 1)?;
        self.iters.push(items);
        Ok(Value::Iter(self.iters.len() - 1))
    }

    /// The items of anything that can be gone through.
    pub(super) fn items(&mut self, value: &Value) -> Result<Vec<Value>> {
        let found: Vec<Value> = match value {
            Value::Undefined(_) => Vec::new(),
            Value::List(seq) | Value::Tuple(seq) => {
                self.budget.slots(seq.items.len())?;
                seq.items.clone()
            }
            Value::Dict(dict) => {
                self.budget.slots(dict.entries.len())?;
                dict.entries.iter().map(|(key, _)| key.clone()).collect()
            }
            Value::Range(range) => {
                self.budget.slots(range.len)?;
                range.iter().collect()
            }
            Value::Text(text) => {
                // Each character is a text of its own.
                self.budget.slots(text.len().saturating_mul(2))?;
                text.chars().map(|c| Value::text(c.encode_utf8(&mut [0; 4]))).collect()
            }
            Value::Iter(place) => {
                self.iters.get_mut(*place).map(std::mem::take).unwrap_or_default().into()
            }
            other => return fail(format!("got a {}, expected something to go through", other.kind())),
        };
        self.budget.steps(found.len() as u64)?;
        Ok(found)
    }

    pub(super) fn range(&mut self, start: i64, stop: i64, step: i64) -> Result<Value> {
        /// What the sandbox of Jinja allows.
        const RANGE_ITEMS_MAX: u64 = 100_000;
        let span = if step > 0 { i128::from(stop) - i128::from(start) } else { i128::from(start) - i128::from(stop) };
        let len = match (span, i128::from(step).abs()) {
            (_, 0) => return fail("got a range with step 0"),
            (span, _) if span <= 0 => 0,
            (span, step) => (span + step - 1) / step,
        };
        match u64::try_from(len) {
            Ok(len) if len <= RANGE_ITEMS_MAX => {
                Ok(Value::Range(Rc::new(Range { start, step, len: len as usize })))
            }
            _ => fail(format!("got a range of {len} items, expected at most {RANGE_ITEMS_MAX}")),
        }
    }

    pub(super) fn open_scope(&mut self, parent: usize) {
        self.scopes.push(Scope { names: Vec::new(), parent: Some(parent) });
        self.scope = self.scopes.len() - 1;
    }

    /// Leaves a scope for the one that was at hand before; its memory is used again unless a macro looks at it.
    pub(super) fn close_scope(&mut self, before: usize) {
        let opened = self.scope;
        self.scope = before;
        if opened >= self.kept {
            self.scopes.truncate(opened);
        }
    }

    pub(super) fn assign(&mut self, name: &'t str, value: Value) {
        let Some(scope) = self.scopes.get_mut(self.scope) else { return };
        match scope.names.iter_mut().find(|(known, _)| *known == name) {
            Some((_, place)) => *place = value,
            None => scope.names.push((name, value)),
        }
    }

    pub(super) fn lookup(&mut self, name: &str) -> Result<Value> {
        let mut place = Some(self.scope);
        while let Some(scope) = place.and_then(|place| self.scopes.get(place)) {
            self.budget.steps(1 + scope.names.len() as u64 / 8)?;
            if let Some((_, value)) = scope.names.iter().find(|(known, _)| *known == name) {
                return Ok(value.clone());
            }
            place = scope.parent;
        }
        let function = Function::ALL.iter().find(|(known, _)| *known == name);
        Ok(match function {
            Some((_, function)) => Value::Function(*function),
            None => Value::Undefined(name.into()),
        })
    }

    pub(super) fn write(&mut self, text: &str) -> Result<()> {
        self.budget.bytes(text.len() as u64)?;
        if self.out.len().saturating_add(text.len()) > PROMPT_BYTES_MAX {
            return fail(format!("got a prompt of more than {PROMPT_BYTES_MAX} bytes"));
        }
        self.out.push_str(text);
        Ok(())
    }

    /// What a piece of work writes, as a text of its own.
    pub(super) fn captured(&mut self, work: impl FnOnce(&mut Self) -> Result<()>) -> Result<Value> {
        let before = std::mem::take(&mut self.out);
        let done = work(self);
        let text = std::mem::replace(&mut self.out, before);
        done?;
        self.new_text(&text)
    }

    pub(super) fn body(&mut self, body: &'t [Stmt]) -> Result<Flow> {
        self.budget.enter()?;
        for stmt in body {
            match self.statement(&stmt.node).map_err(|fault| fault.or_line(stmt.line))? {
                Flow::Next => {}
                flow => {
                    self.budget.leave();
                    return Ok(flow);
                }
            }
        }
        self.budget.leave();
        Ok(Flow::Next)
    }

    fn statement(&mut self, node: &'t Node) -> Result<Flow> {
        self.budget.steps(1)?;
        match node {
            Node::Text(text) => self.write(text)?,
            Node::Print(expr) => {
                let value = self.eval(expr)?;
                let text = self.to_text(&value)?;
                self.write(&text)?;
            }
            Node::If { branches, otherwise } => {
                for (condition, body) in branches {
                    let value = self.eval(condition)?;
                    if self.is_true(&value)? {
                        return self.body(body);
                    }
                }
                return self.body(otherwise);
            }
            Node::For(it) => return self.for_loop(it),
            Node::Set { target, value } => {
                let value = self.eval(value)?;
                self.set(target, value)?;
            }
            Node::SetBlock { target, filters, body } => {
                let value = self.filtered_block(filters, body)?;
                self.set(target, value)?;
            }
            Node::Filter { filters, body } => {
                let value = self.filtered_block(filters, body)?;
                let text = self.to_text(&value)?;
                self.write(&text)?;
            }
            Node::Macro(it) => {
                let defined = self.define(it)?;
                self.assign(&it.name, defined);
            }
            Node::Call { call, caller } => self.call_block(call, caller)?,
            Node::With { values, body } => return self.with(values, body),
            Node::Generation(body) => {
                // Jinja makes a function of the body: a scope of its own, written as one text.
                let before = self.scope;
                self.open_scope(before);
                let flow = self.body(body);
                self.close_scope(before);
                flow?;
            }
            Node::Break => return Ok(Flow::Break),
            Node::Continue => return Ok(Flow::Continue),
        }
        Ok(Flow::Next)
    }

    fn with(&mut self, values: &'t [(Target, Expr)], body: &'t [Stmt]) -> Result<Flow> {
        let before = self.scope;
        let found = values.iter().map(|(_, value)| self.eval(value)).collect::<Result<Vec<_>>>()?;
        self.open_scope(before);
        for ((target, _), value) in values.iter().zip(found) {
            self.set(target, value)?;
        }
        let flow = self.body(body);
        self.close_scope(before);
        flow
    }

    fn filtered_block(&mut self, filters: &'t [super::ast::Post], body: &'t [Stmt]) -> Result<Value> {
        let before = self.scope;
        self.open_scope(before);
        let value = self.captured(|it| it.body(body).map(|_| ()));
        self.close_scope(before);
        let mut value = value?;
        for filter in filters {
            value = self.postfix(value, filter)?;
        }
        Ok(value)
    }

    fn set(&mut self, target: &'t Target, value: Value) -> Result<()> {
        match target {
            Target::Name(name) => self.assign(name, value),
            Target::Attribute(_, attribute) if attribute.starts_with('_') => return underscore(attribute),
            Target::Attribute(name, attribute) => match self.lookup(name)? {
                Value::Namespace(place) => {
                    let Some(fields) = self.namespaces.get_mut(place) else { return Ok(()) };
                    self.budget.steps(1 + fields.len() as u64 / 8)?;
                    match fields.iter_mut().find(|(known, _)| **known == **attribute) {
                        Some((_, place)) => *place = value,
                        None => {
                            self.budget.slots(2)?;
                            fields.push((attribute.as_str().into(), value));
                        }
                    }
                }
                other => return fail(format!("got a {} for `{name}`, expected a namespace", other.kind())),
            },
            Target::Tuple(targets) => {
                let items = self.items(&value)?;
                if items.len() != targets.len() {
                    return fail(format!("got {} values to unpack, expected {}", items.len(), targets.len()));
                }
                for (target, item) in targets.iter().zip(items) {
                    self.set(target, item)?;
                }
            }
        }
        Ok(())
    }

    pub(super) fn define(&mut self, it: &'t Macro) -> Result<Value> {
        self.budget.slots(2)?;
        self.macros.push(Defined { it, scope: self.scope });
        self.kept = self.kept.max(self.scopes.len());
        Ok(Value::Macro(self.macros.len() - 1))
    }

    fn call_block(&mut self, call: &'t Expr, caller: &'t Macro) -> Result<()> {
        let caller = self.define(caller)?;
        let super::ast::Kind::Postfix(_, posts) = &call.kind else {
            return fail("got no call in a `call` block");
        };
        if !matches!(posts.last(), Some(super::ast::Post { kind: super::ast::PostKind::Call(_), .. })) {
            return fail("got no call in a `call` block");
        }
        let value = self.eval_with_caller(call, caller)?;
        let text = self.to_text(&value)?;
        self.write(&text)
    }

    fn for_loop(&mut self, it: &'t For) -> Result<Flow> {
        let value = self.eval(&it.iter)?;
        self.run_loop(it, self.scope, &value, 0)
    }

    /// Runs a loop; a recursive one is run again by calling it. A `break` of its `else` is the outer loop's.
    pub(super) fn run_loop(&mut self, it: &'t For, scope: usize, value: &Value, depth: usize) -> Result<Flow> {
        self.budget.enter()?;
        let before = self.scope;
        let mut items = self.items(value)?;
        if let Some(test) = &it.test {
            let mut chosen = Vec::with_capacity(items.len());
            for item in items {
                self.open_scope(scope);
                self.set(&it.target, item.clone())?;
                let value = self.eval(test)?;
                if self.is_true(&value)? {
                    chosen.push(item);
                }
                self.close_scope(before);
            }
            items = chosen;
        }
        let empty = items.is_empty();
        let place = self.loops.len();
        self.loops.push(Looping { it, scope, items: Rc::new(items), index: 0, depth, changed: None });
        loop {
            let Some(item) = self.loops.get(place).and_then(|it| it.items.get(it.index)).cloned() else { break };
            self.open_scope(scope);
            self.assign("loop", Value::Loop(place));
            self.set(&it.target, item)?;
            let flow = self.body(&it.body);
            self.close_scope(before);
            if flow? == Flow::Break {
                break;
            }
            if let Some(looping) = self.loops.get_mut(place) {
                looping.index += 1;
            }
        }
        let mut flow = Flow::Next;
        if empty {
            self.open_scope(scope);
            flow = self.body(&it.otherwise)?;
            self.close_scope(before);
        }
        self.budget.leave();
        Ok(flow)
    }

    /// Calls a macro.
    pub(super) fn call_macro(&mut self, place: usize, passed: Passed) -> Result<Value> {
        let Some(Defined { it, scope }) = self.macros.get(place).copied() else {
            return fail("got a macro of another template");
        };
        let before = self.scope;
        self.budget.enter()?;
        self.open_scope(scope);
        self.bind(it, passed)?;
        let value = self.captured(|machine| machine.body(&it.body).map(|_| ()));
        self.close_scope(before);
        self.budget.leave();
        value
    }

    fn bind(&mut self, it: &'t Macro, passed: Passed) -> Result<()> {
        let Passed { mut positional, mut named } = passed;
        let more = positional.split_off(positional.len().min(it.parameters.len()));
        let mut positional = positional.into_iter();
        for (name, default) in &it.parameters {
            let by_name = named.iter().position(|(known, _)| **known == **name).map(|at| named.remove(at).1);
            let value = match (positional.next(), by_name) {
                (Some(_), Some(_)) => return fail(format!("got two values for `{name}` of `{}`", it.name)),
                (Some(value), None) | (None, Some(value)) => value,
                (None, None) => match default {
                    Some(default) => self.eval(default)?,
                    None => Value::Undefined(name.as_str().into()),
                },
            };
            self.assign(name, value);
        }
        let caller = named.iter().position(|(known, _)| &**known == "caller").map(|at| named.remove(at).1);
        match caller {
            Some(caller) if it.uses.caller => self.assign("caller", caller),
            None if it.uses.caller => self.assign("caller", Value::Undefined("caller".into())),
            Some(_) => return fail(format!("got a `caller` for `{}`, which does not use it", it.name)),
            None => {}
        }
        if it.uses.kwargs {
            let entries = named.into_iter().map(|(name, value)| (Value::Text(name), value)).collect();
            let kwargs = self.dict(entries)?;
            self.assign("kwargs", kwargs);
        } else if let Some((name, _)) = named.first() {
            return fail(format!("got the argument `{name}` for `{}`, which has none of that name", it.name));
        }
        if it.uses.varargs {
            let varargs = self.tuple(more)?;
            self.assign("varargs", varargs);
        } else if !more.is_empty() {
            let (got, expected) = (it.parameters.len() + more.len(), it.parameters.len());
            return fail(format!("got {got} arguments for `{}`, expected at most {expected}", it.name));
        }
        Ok(())
    }

    /// A template's own refusal.
    pub(super) fn raised<T>(message: &str) -> Result<T> {
        Err(Box::new(Fault { line: 0, message: message.to_owned(), raised: true }))
    }
}

/// `transformers` refuses such names, which could lead into Python itself.
pub(super) fn underscore<T>(name: &str) -> Result<T> {
    fail(format!("got `{name}` for a namespace, expected a name that begins with a letter"))
}

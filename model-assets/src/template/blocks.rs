//! Statements: conditions, loops, macros and blocks.

use std::rc::Rc;

use super::ast::{Expr, For, Kind, Macro, Node, Post, PostKind, Stmt, Target};
use super::call::Passed;
use super::fault::{Result, fail};
use super::machine::{Defined, Flow, Looping, Machine};
use super::value::Value;

impl<'t> Machine<'t> {
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

    pub(super) fn statement(&mut self, node: &'t Node) -> Result<Flow> {
        self.budget.steps(1)?;
        match node {
            Node::Text(text) => self.write(text)?,
            Node::Print(expr) => {
                let value = self.eval(expr)?;
                let text = self.text_of(&value)?;
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
                let text = self.text_of(&value)?;
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

    pub(super) fn with(&mut self, values: &'t [(Target, Expr)], body: &'t [Stmt]) -> Result<Flow> {
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

    pub(super) fn filtered_block(&mut self, filters: &'t [Post], body: &'t [Stmt]) -> Result<Value> {
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

    pub(super) fn call_block(&mut self, call: &'t Expr, caller: &'t Macro) -> Result<()> {
        let caller = self.define(caller)?;
        let Kind::Postfix(_, posts) = &call.kind else {
            return fail("got no call in a `call` block");
        };
        if !matches!(posts.last(), Some(Post { kind: PostKind::Call(_), .. })) {
            return fail("got no call in a `call` block");
        }
        let value = self.eval_with_caller(call, caller)?;
        let text = self.text_of(&value)?;
        self.write(&text)
    }

    pub(super) fn for_loop(&mut self, it: &'t For) -> Result<Flow> {
        let value = self.eval(&it.iter)?;
        self.run_loop(it, self.scope, &value, 0)
    }

    /// Runs a loop; a recursive one is run again by calling it. A `break` of its `else` is the outer loop's.
    pub(super) fn run_loop(
        &mut self,
        it: &'t For,
        scope: usize,
        value: &Value,
        depth: usize,
    ) -> Result<Flow> {
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
        while let Some(item) = self.loops.get(place).and_then(|it| it.items.get(it.index)).cloned() {
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

    pub(super) fn define(&mut self, it: &'t Macro) -> Result<Value> {
        self.budget.slots(2)?;
        self.macros.push(Defined { it, scope: self.scope });
        self.kept = self.kept.max(self.scopes.len());
        Ok(Value::Macro(self.macros.len() - 1))
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

    pub(super) fn bind(&mut self, it: &'t Macro, passed: Passed) -> Result<()> {
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
}

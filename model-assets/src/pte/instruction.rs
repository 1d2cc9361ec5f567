//! Operators and instructions: that every index holds, and that every kernel is called the way it is declared.

use std::cell::RefCell;
use std::collections::HashSet;

use super::check_id::CheckId::{
    O1, O2, O3, O4, P9, X1, X2, X3, X4, X5, X6, X7, X8, X9, X10, X11, X12, X13, X14, X16, X17,
};
use super::expect::{Expect, Operators};
use super::judge::{self, CallVerdict};
use super::kernels::{self, Argument, Return, Schema};
use super::program::{ExecutionPlan, Instruction, Operator, Value, operator_name};
use super::report::{Place, Report, Severity};
use super::scalar::{self, Scalar, Scalars};
use super::value::{TensorFacts, index};
use super::{dtype, limits, number, pattern, shape, view};

pub(super) struct Method<'m, 'a> {
    pub(super) plan: &'m ExecutionPlan<'a>,
    pub(super) facts: &'m TensorFacts,
    pub(super) expect: &'m Expect,
    /// What kernels have computed so far.
    scalars: RefCell<Scalars>,
    /// Values that an instruction overwrites with a scalar: what the file declares for them means nothing.
    computed: HashSet<usize>,
    /// Tensors that lie where a constant does.
    constant_views: HashSet<usize>,
}

pub(super) fn check(
    plan: &ExecutionPlan<'_>,
    facts: &TensorFacts,
    expect: &Expect,
    at: &Place<'_>,
    report: &mut Report,
) {
    if !plan.missing.is_empty() {
        report.reject(P9, at, "the method lacks vectors", plan.missing.join(", "), "all of them");
    }
    for (number, operator) in plan.operators.iter().enumerate() {
        check_operator(operator, expect, &at.at("operator", number), report);
    }
    if plan.chains.len() != 1 {
        report.reject(X1, at, "chains", plan.chains.len(), "exactly 1");
    }
    let mut computed = fresh(plan);
    computed.extend(moved(plan));
    let scalars = RefCell::new(Scalars::new(is_straight(plan), computed.clone()));
    let constant_views = view::of_constants(plan, facts);
    let method = Method { plan, facts, expect, scalars, computed, constant_views };
    for (number, chain) in plan.chains.iter().enumerate() {
        let at = at.at("chain", number);
        let Some(instructions) = &chain.instructions else {
            report.reject(X1, &at, "no instructions", "null", "a vector");
            continue;
        };
        for &value in chain.inputs.iter().chain(&chain.outputs) {
            method.value(value, &at, report);
        }
        for (number, instruction) in instructions.iter().enumerate() {
            method.check(instruction, instructions.len(), &at.at("instruction", number), report);
        }
    }
}

/// O1 to O3.
fn check_operator(operator: &Operator<'_>, expect: &Expect, at: &Place<'_>, report: &mut Report) {
    let Some(name) = operator_name(operator) else {
        report.reject(O1, at, "the operator has no name", "none", "a name");
        return;
    };
    if name.len() >= limits::OPERATOR_NAME_BYTES_MAX {
        report.reject(O2, at, "the operator's name is too long", name.len(), "< 100 bytes");
    }
    let Some(table) = &expect.kernels else { return };
    if !table.kernels.contains(&name) {
        let expected = format!("one of the {} kernels of ExecuTorch {}", table.kernels.len(), table.runtime);
        report.reject(O3, at, "the linked runtime has no such kernel", name, expected);
    }
}

/// Whether no instruction moves values or jumps.
fn is_straight(plan: &ExecutionPlan<'_>) -> bool {
    let mut instructions = plan.chains.iter().flat_map(|chain| chain.instructions.iter().flatten());
    plan.chains.len() == 1
        && instructions.all(|one| matches!(one, Instruction::Kernel { .. } | Instruction::Delegate { .. }))
}

/// Values that kernels overwrite with a scalar.
fn fresh(plan: &ExecutionPlan<'_>) -> HashSet<usize> {
    let mut values = HashSet::new();
    for instruction in plan.chains.iter().flat_map(|chain| chain.instructions.iter().flatten()) {
        let Instruction::Kernel { operator, args: Some(args) } = instruction else { continue };
        let name = plan.operators.get(index(*operator)).and_then(operator_name);
        let Some(schema) = name.as_deref().and_then(kernels::schema) else { continue };
        for (value, kind) in args.iter().skip(schema.args.len()).zip(&schema.returns) {
            if matches!(kind, Return::Fresh(kind) if scalar::is_scalar(kind)) {
                values.insert(index(*value));
            }
        }
    }
    values
}

/// Values that moves overwrite.
fn moved(plan: &ExecutionPlan<'_>) -> impl Iterator<Item = usize> {
    let instructions = plan.chains.iter().flat_map(|chain| chain.instructions.iter().flatten());
    instructions.filter_map(|instruction| match instruction {
        Instruction::Move { to, .. } => Some(index(*to)),
        _ => None,
    })
}

impl<'a> Method<'_, 'a> {
    fn check(&self, instruction: &Instruction, count: usize, at: &Place<'_>, report: &mut Report) {
        match instruction {
            Instruction::Unknown(kind) => report.reject(X2, at, "unknown instruction", kind, "1 to 5"),
            Instruction::Hollow => report.reject(X2, at, "instruction without arguments", "null", "a table"),
            Instruction::Kernel { operator, args } => {
                self.check_kernel(*operator, args.as_deref(), at, report)
            }
            Instruction::Delegate { delegate, args } => {
                if self.plan.delegates.get(index(*delegate)).is_none() {
                    report.reject(
                        X4,
                        at,
                        "no such delegate",
                        delegate,
                        format!("< {}", self.plan.delegates.len()),
                    );
                }
                self.args(args.as_deref(), at, report);
            }
            Instruction::Move { from, to } => self.check_move(*from, *to, at, report),
            Instruction::JumpFalse { condition, target } => {
                self.check_jump(*condition, *target, count, at, report);
            }
            Instruction::Free { value } => {
                let Some(found) = self.value(*value, at, report) else { return };
                let constant =
                    self.facts.get(index(*value)).and_then(Option::as_ref).is_some_and(|f| f.constant);
                if !matches!(found, Value::Tensor(_)) || constant {
                    let got = if constant { "a constant" } else { found.kind() };
                    report.reject(
                        X9,
                        at,
                        "frees what is not a planned tensor",
                        got,
                        "a tensor that is no constant",
                    );
                }
            }
        }
    }

    fn value(&self, value: i32, at: &Place<'_>, report: &mut Report) -> Option<&Value<'a>> {
        let found = self.plan.values.get(index(value));
        if found.is_none() {
            report.reject(
                X5,
                at,
                "no such value",
                value,
                format!("0 to {}", self.plan.values.len().saturating_sub(1)),
            );
        }
        found
    }

    /// X5 for a whole argument list.
    fn args<'s>(&self, args: Option<&'s [i32]>, at: &Place<'_>, report: &mut Report) -> Option<&'s [i32]> {
        let Some(args) = args else {
            report.reject(X5, at, "no argument list", "null", "a vector");
            return None;
        };
        let mut whole = true;
        for (number, &value) in args.iter().enumerate() {
            whole &= self.value(value, &at.at("argument", number), report).is_some();
        }
        whole.then_some(args)
    }

    fn check_move(&self, from: i32, to: i32, at: &Place<'_>, report: &mut Report) {
        let (Some(source), Some(target)) = (self.value(from, at, report), self.value(to, at, report)) else {
            return;
        };
        let dtype =
            |value: i32| self.facts.get(index(value)).and_then(Option::as_ref).map(|facts| facts.dtype);
        if source.kind() != target.kind() {
            report.reject(X6, at, "a move changes the kind", target.kind(), source.kind());
        } else if dtype(from) != dtype(to) {
            report.reject(
                X6,
                at,
                "a move changes the dtype",
                format!("{:?}", dtype(to)),
                format!("{:?}", dtype(from)),
            );
        }
    }

    fn check_jump(&self, condition: i32, target: i32, count: usize, at: &Place<'_>, report: &mut Report) {
        let severity = if self.expect.straight_line { Severity::Reject } else { Severity::Warn };
        report.add(severity, X14, at, "control flow", "a conditional jump", "straight-line code");
        if let Some(found) = self.value(condition, at, report) {
            let tensor = self.facts.get(index(condition)).and_then(Option::as_ref);
            if !matches!(found, Value::Bool(_)) && tensor.is_none_or(|facts| facts.dtype != dtype::BOOL) {
                report.reject(X7, at, "the condition is no boolean", found.kind(), "bool");
            }
        }
        if index(target) > count {
            report.reject(X8, at, "jumps out of the chain", target, format!("0 to {count}"));
        }
    }

    fn check_kernel(&self, operator: i32, args: Option<&[i32]>, at: &Place<'_>, report: &mut Report) {
        let args = self.args(args, at, report);
        let Some(found) = self.plan.operators.get(index(operator)) else {
            report.reject(X3, at, "no such operator", operator, format!("< {}", self.plan.operators.len()));
            return;
        };
        let (Some(args), Some(name)) = (args, operator_name(found)) else { return };
        let Some(schema) = kernels::schema(&name) else { return };
        let expected = schema.args.len().saturating_add(schema.returns.len());
        if args.len() != expected {
            let message = format!("{name} gets the wrong number of arguments");
            let expected = format!("{expected}: {}, and what it returns", schema.describe());
            report.reject(X10, at, message, args.len(), expected);
            return;
        }
        if !self.check_kinds(&name, schema, args, at, report) {
            return;
        }
        self.check_writes(&name, schema, args, at, report);
        if let Err((message, got, expected)) =
            shape::check(&name, schema, args, (self.plan, self.facts), &self.computed)
        {
            report.reject(X13, at, format!("{name}: {message}"), got, expected);
        }
        self.check_numbers(&name, schema, args, at, report);
        self.check_judged(&name, schema, args, at, report);
        self.scalars.borrow_mut().run(&name, schema, args, self.plan, self.facts);
    }

    /// X17.
    fn check_numbers(&self, name: &str, schema: &Schema, args: &[i32], at: &Place<'_>, report: &mut Report) {
        if let Some((position, got, expected)) =
            number::check(name, schema, args, self.plan, &self.scalars.borrow())
        {
            let at = at.at("argument", position);
            report.reject(X17, &at, format!("{name}: an integer does not fit"), got, expected);
        }
    }

    /// X13 and X16 of the operators that are understood in full, and O4.
    fn check_judged(&self, name: &str, schema: &Schema, args: &[i32], at: &Place<'_>, report: &mut Report) {
        let scalars = &*self.scalars.borrow();
        let (plan, facts, computed) = (self.plan, self.facts, &self.computed);
        match judge::judge(name, &judge::Call { args, plan, facts, computed, scalars }) {
            CallVerdict::Sound => {}
            CallVerdict::Misfit((message, got, expected)) => {
                report.reject(X13, at, format!("{name}: {message}"), got, expected);
            }
            CallVerdict::Unknown(why) => {
                let strict = self.expect.operators != Operators::Linked;
                let severity = if strict { Severity::Reject } else { Severity::Warn };
                let expected = "a call that the verifier can judge";
                report.add(
                    severity,
                    X16,
                    at,
                    "unknown: the arguments are not judged",
                    format!("{name}: {why}"),
                    expected,
                );
            }
        }
        let call = pattern::of(name, schema, args, (plan, facts), scalars);
        if let Operators::Admitted(table) = self.expect.operators
            && !table.operators.contains(&call)
        {
            let expected = if table.names().contains(name) {
                "a call that the worker's exports have (cargo xtask dev operators)".to_owned()
            } else {
                let names: Vec<&str> = table.names().into_iter().collect();
                format!("one of {} operators: {}", names.len(), names.join(", "))
            };
            report.reject(O4, at, "no model of the family calls this", &call, expected);
        }
        report.calls.operators.insert(call);
    }

    /// X11.
    fn check_kinds(
        &self,
        name: &str,
        schema: &Schema,
        args: &[i32],
        at: &Place<'_>,
        report: &mut Report,
    ) -> bool {
        let mut fits = true;
        let scalars = self.scalars.borrow();
        for (number, (&arg, Argument { kind, .. })) in args.iter().zip(&schema.args).enumerate() {
            let Some(declared) = self.plan.values.get(index(arg)) else { return false };
            let now = scalars.now(arg);
            let value = match now {
                Some(Scalar::Int) => &Value::Int(0),
                Some(Scalar::Double) => &Value::Double(0.0),
                Some(Scalar::Bool) => &Value::Bool(false),
                Some(Scalar::Unknown) | None => declared,
            };
            let items_fit = match value {
                Value::IntList(items) => scalars.are_ints(items),
                _ => !scalar::is_arithmetic(name) || scalars.is_number(self.plan, arg),
            };
            if items_fit && kernels::accepts(kind, value, now == Some(Scalar::Unknown)) {
                continue;
            }
            fits = false;
            let at = at.at("argument", number);
            report.reject(X11, &at, format!("{name} gets an argument of the wrong kind"), value.kind(), kind);
        }
        for (&value, kind) in args.iter().skip(schema.args.len()).zip(&schema.returns) {
            let (Return::Fresh(kind), Some(declared)) = (kind, self.plan.values.get(index(value))) else {
                continue;
            };
            let good = if scalar::is_scalar(kind) {
                matches!(declared, Value::Int(_) | Value::Double(_) | Value::Bool(_))
            } else {
                kernels::accepts(kind, declared, false)
            };
            if !good {
                fits = false;
                let message = format!("{name} overwrites value {value}, which is of another kind");
                report.reject(X11, at, message, declared.kind(), kind);
            }
        }
        fits
    }

    /// X12: what a kernel writes is no constant, and what follows the arguments repeats them.
    fn check_writes(&self, name: &str, schema: &Schema, args: &[i32], at: &Place<'_>, report: &mut Report) {
        for (number, (&arg, _)) in
            args.iter().zip(&schema.args).enumerate().filter(|(_, (_, argument))| argument.is_written())
        {
            let tensors = match self.plan.values.get(index(arg)) {
                Some(Value::TensorList(items)) => items.as_slice(),
                _ => std::slice::from_ref(&arg),
            };
            // The runtime moves a view to where its source lies, constants included.
            let moved = name == view::VIEW;
            let constant = |&item: &i32| {
                let facts = self.facts.get(index(item)).and_then(Option::as_ref);
                facts.is_some_and(|facts| facts.constant)
                    || (!moved && self.constant_views.contains(&index(item)))
            };
            if tensors.iter().any(constant) {
                let at = at.at("argument", number);
                report.reject(
                    X12,
                    &at,
                    format!("{name} writes a constant"),
                    format!("value {arg}"),
                    "a planned tensor",
                );
            }
        }
        for (&arg, kind) in args.iter().skip(schema.args.len()).zip(&schema.returns) {
            let items = |value: i32| match self.plan.values.get(index(value)) {
                Some(Value::TensorList(items)) => Some(items.clone()),
                _ => None,
            };
            let (good, expected) = match kind {
                Return::Fresh(_) => continue,
                Return::Alias(position) => {
                    let written = args.get(*position).copied();
                    let same_list = written.and_then(items).is_some_and(|list| items(arg) == Some(list));
                    (written == Some(arg) || same_list, format!("{written:?}"))
                }
                Return::List(positions) => {
                    let written: Option<Vec<i32>> = positions.iter().map(|&p| args.get(p).copied()).collect();
                    (items(arg) == written, format!("{written:?}"))
                }
            };
            if !good {
                report.reject(
                    X12,
                    at,
                    format!("{name} does not return what it wrote"),
                    format!("value {arg}"),
                    expected,
                );
            }
        }
    }
}

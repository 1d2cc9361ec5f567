//! What a template says, as a tree.
//!
//! **Invariant:** the tree is never deeper than the parser's limits allow: a row of operators is a list and not a
//! tower, so that walking and dropping the tree take a bounded stack.

use std::sync::Arc;

/// A statement and where it stands.
#[derive(Debug)]
pub(super) struct Stmt {
    pub(super) line: u32,
    pub(super) node: Node,
}

#[derive(Debug)]
pub(super) enum Node {
    Text(String),
    Print(Expr),
    For(Arc<For>),
    If {
        branches: Vec<(Expr, Vec<Stmt>)>,
        otherwise: Vec<Stmt>,
    },
    Set {
        target: Target,
        value: Expr,
    },
    SetBlock {
        target: Target,
        filters: Vec<Post>,
        body: Vec<Stmt>,
    },
    Macro(Arc<Macro>),
    /// A macro is called with the block as its `caller`.
    Call {
        call: Expr,
        caller: Arc<Macro>,
    },
    Filter {
        filters: Vec<Post>,
        body: Vec<Stmt>,
    },
    With {
        values: Vec<(Target, Expr)>,
        body: Vec<Stmt>,
    },
    /// What a model is trained on; renders as its body, with a scope of its own.
    Generation(Vec<Stmt>),
    Break,
    Continue,
}

#[derive(Debug)]
pub(super) struct For {
    pub(super) target: Target,
    pub(super) iter: Expr,
    pub(super) test: Option<Expr>,
    pub(super) recursive: bool,
    pub(super) body: Vec<Stmt>,
    pub(super) otherwise: Vec<Stmt>,
}

#[derive(Debug)]
pub(super) struct Macro {
    pub(super) name: String,
    pub(super) parameters: Vec<(String, Option<Expr>)>,
    pub(super) body: Vec<Stmt>,
    pub(super) uses: Uses,
}

/// Which of a macro's implicit names its body reads; a macro takes what it names.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Uses {
    pub(super) caller: bool,
    pub(super) varargs: bool,
    pub(super) kwargs: bool,
}

#[derive(Debug)]
pub(super) enum Target {
    Name(String),
    /// `namespace.attribute`.
    Attribute(String, String),
    Tuple(Vec<Target>),
}

#[derive(Debug)]
pub(super) struct Expr {
    pub(super) line: u32,
    pub(super) kind: Kind,
}

#[derive(Debug)]
pub(super) enum Kind {
    Undefined,
    None,
    Bool(bool),
    Int(i64),
    Float(f64),
    Text(String),
    Name(String),
    List(Vec<Expr>),
    Tuple(Vec<Expr>),
    Dict(Vec<(Expr, Expr)>),
    Not(Box<Expr>),
    Neg(Box<Expr>),
    Pos(Box<Expr>),
    /// Operators of one level, from left to right.
    Chain(Box<Expr>, Vec<(Binary, Expr)>),
    And(Vec<Expr>),
    Or(Vec<Expr>),
    Concat(Vec<Expr>),
    Compare(Box<Expr>, Vec<(Comparison, Expr)>),
    /// Condition, value, and the other value.
    If(Box<(Expr, Expr, Expr)>),
    Postfix(Box<Expr>, Vec<Post>),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Binary {
    Add,
    Sub,
    Mul,
    Div,
    FloorDiv,
    Rem,
    Pow,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Comparison {
    Eq,
    Ne,
    Lt,
    Le,
    Gt,
    Ge,
    In,
    NotIn,
}

/// What follows a value.
#[derive(Debug)]
pub(super) struct Post {
    pub(super) line: u32,
    pub(super) kind: PostKind,
}

#[derive(Debug)]
pub(super) enum PostKind {
    Attribute(String),
    Item(Expr),
    Slice(Box<[Option<Expr>; 3]>),
    Call(Arguments),
    Filter(String, Arguments),
    Test { name: String, arguments: Arguments, negated: bool },
}

#[derive(Debug, Default)]
pub(super) struct Arguments {
    pub(super) positional: Vec<Expr>,
    pub(super) named: Vec<(String, Expr)>,
    /// `*list` and `**dict`.
    pub(super) more: Option<Expr>,
    pub(super) more_named: Option<Expr>,
}

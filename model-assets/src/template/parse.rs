//! Tokens to a tree: statements. Expressions are in [`super::expression`].
//!
//! **Invariant:** the parser's own recursion is counted, so no template can exhaust the stack by its shape.

use std::sync::Arc;

use super::ast::{Expr, For, Macro, Node, Post, Stmt, Target, Uses};
use super::fault::{Fault, Result};
use super::lex::{self, Token};

/// How deep blocks may stand in each other; Python itself ends at 20 loops.
const BLOCK_DEPTH_MAX: usize = 20;

/// Tags that Jinja knows and a chat template has no use for: there is one template and no HTML.
const REFUSED_TAGS: [&str; 7] = ["extends", "block", "include", "import", "from", "autoescape", "do"];

pub(super) struct Parser {
    tokens: Vec<(u32, Token)>,
    at: usize,
    /// Depth of the expression at hand.
    pub(super) depth: usize,
    blocks: usize,
    /// Whether `break` and `continue` have a loop, from the outermost block in.
    loops: Vec<bool>,
    /// What the macros that are being read use, the innermost last.
    uses: Vec<Uses>,
}

pub(super) fn parse(source: &str) -> Result<Vec<Stmt>> {
    let tokens = lex::tokens(source)?;
    let mut parser =
        Parser { tokens, at: 0, depth: 0, blocks: 0, loops: vec![false], uses: vec![Uses::default()] };
    let body = parser.body(&[])?;
    match parser.peek() {
        None => Ok(body),
        Some(token) => Err(parser.unexpected(&token.clone(), "the end")),
    }
}

impl Parser {
    pub(super) fn peek(&self) -> Option<&Token> {
        self.tokens.get(self.at).map(|(_, token)| token)
    }

    pub(super) fn peek_after(&self) -> Option<&Token> {
        self.tokens.get(self.at + 1).map(|(_, token)| token)
    }

    pub(super) fn line(&self) -> u32 {
        self.tokens.get(self.at).or(self.tokens.last()).map_or(1, |(line, _)| *line)
    }

    pub(super) fn advance(&mut self) {
        self.at += 1;
    }

    pub(super) fn fault(&self, message: impl Into<String>) -> Box<Fault> {
        Fault::at(self.line(), message)
    }

    pub(super) fn unexpected(&self, got: &Token, expected: &str) -> Box<Fault> {
        let got = match got {
            Token::Text(_) => "text".to_owned(),
            Token::PrintBegin => "`{{`".to_owned(),
            Token::PrintEnd => "`}}`".to_owned(),
            Token::BlockBegin => "`{%`".to_owned(),
            Token::BlockEnd => "`%}`".to_owned(),
            Token::Name(name) => format!("`{}`", name.escape_debug()),
            Token::Literal(_) => "a text".to_owned(),
            Token::Int(_) | Token::Float(_) => "a number".to_owned(),
            Token::Op(op) => format!("`{op}`"),
        };
        self.fault(format!("got {got}, expected {expected}"))
    }

    pub(super) fn fail_here<T>(&self, expected: &str) -> Result<T> {
        Err(match self.peek() {
            Some(token) => self.unexpected(&token.clone(), expected),
            None => self.fault(format!("got the template's end, expected {expected}")),
        })
    }

    pub(super) fn is_op(&self, op: &str) -> bool {
        matches!(self.peek(), Some(Token::Op(found)) if *found == op)
    }

    pub(super) fn is_name(&self, name: &str) -> bool {
        matches!(self.peek(), Some(Token::Name(found)) if found == name)
    }

    pub(super) fn skip_op(&mut self, op: &str) -> bool {
        let found = self.is_op(op);
        self.at += usize::from(found);
        found
    }

    pub(super) fn skip_name(&mut self, name: &str) -> bool {
        let found = self.is_name(name);
        self.at += usize::from(found);
        found
    }

    pub(super) fn expect_op(&mut self, op: &str) -> Result<()> {
        if self.skip_op(op) { Ok(()) } else { self.fail_here(&format!("`{op}`")) }
    }

    fn expect(&mut self, token: &Token, name: &str) -> Result<()> {
        if self.peek() == Some(token) {
            self.advance();
            return Ok(());
        }
        self.fail_here(name)
    }

    pub(super) fn name(&mut self) -> Result<String> {
        match self.peek() {
            Some(Token::Name(name)) => {
                let name = name.clone();
                self.advance();
                Ok(name)
            }
            _ => self.fail_here("a name"),
        }
    }

    /// Remembers what the macro at hand reads.
    pub(super) fn reads(&mut self, name: &str) {
        if let Some(uses) = self.uses.last_mut() {
            match name {
                "caller" => uses.caller = true,
                "varargs" => uses.varargs = true,
                "kwargs" => uses.kwargs = true,
                _ => {}
            }
        }
    }

    /// Statements up to a tag that ends them, whose name is left to be read.
    fn body(&mut self, ends: &[&str]) -> Result<Vec<Stmt>> {
        let mut found = Vec::new();
        loop {
            let line = self.line();
            match self.peek() {
                None if ends.is_empty() => return Ok(found),
                None => return self.fail_here(&format!("`{}`", ends.join("` or `"))),
                Some(Token::Text(text)) => {
                    let node = Node::Text(text.clone());
                    self.advance();
                    found.push(Stmt { line, node });
                }
                Some(Token::PrintBegin) => {
                    self.advance();
                    let node = Node::Print(self.tuple()?);
                    self.expect(&Token::PrintEnd, "`}}`")?;
                    found.push(Stmt { line, node });
                }
                Some(Token::BlockBegin) => {
                    self.advance();
                    if matches!(self.peek(), Some(Token::Name(name)) if ends.contains(&name.as_str())) {
                        return Ok(found);
                    }
                    let node = self.statement()?;
                    found.push(Stmt { line, node });
                }
                Some(token) => return Err(self.unexpected(&token.clone(), "text or a tag")),
            }
        }
    }

    /// The body of a block up to its end tag, which is read too.
    fn block(&mut self, end: &str, loops: Option<bool>) -> Result<Vec<Stmt>> {
        let (body, _) = self.block_to(&[end], loops)?;
        self.block_end()?;
        Ok(body)
    }

    /// The body of a block and which tag ended it; the tag's name is read.
    fn block_to(&mut self, ends: &[&str], loops: Option<bool>) -> Result<(Vec<Stmt>, String)> {
        self.block_end()?;
        if self.blocks >= BLOCK_DEPTH_MAX {
            return Err(self.fault(format!("got blocks deeper than {BLOCK_DEPTH_MAX}")));
        }
        self.blocks += 1;
        let inside = loops.or(self.loops.last().copied()).unwrap_or_default();
        self.loops.push(inside);
        let body = self.body(ends)?;
        self.loops.pop();
        self.blocks -= 1;
        Ok((body, self.name()?))
    }

    fn block_end(&mut self) -> Result<()> {
        self.expect(&Token::BlockEnd, "`%}`")
    }

    fn statement(&mut self) -> Result<Node> {
        let name = self.name()?;
        match name.as_str() {
            "for" => self.for_loop(),
            "if" => self.condition(),
            "set" => self.set(),
            "macro" => {
                let name = self.name()?;
                Ok(Node::Macro(Arc::new(self.signature_and_body(name, "endmacro")?)))
            }
            "call" => self.call(),
            "filter" => {
                let filters = self.filters(true)?;
                Ok(Node::Filter { filters, body: self.block("endfilter", None)? })
            }
            "with" => self.with(),
            // Jinja makes a function of these bodies, which a `break` cannot leave.
            "generation" => Ok(Node::Generation(self.block("endgeneration", Some(false))?)),
            "break" | "continue" if self.loops.last() != Some(&true) => {
                Err(self.fault(format!("got `{name}` outside of a loop")))
            }
            "break" => self.block_end().map(|()| Node::Break),
            "continue" => self.block_end().map(|()| Node::Continue),
            "print" => {
                let value = self.tuple()?;
                self.block_end().map(|()| Node::Print(value))
            }
            other if REFUSED_TAGS.contains(&other) => {
                Err(self.fault(format!("got the tag `{other}`, which chat templates do not have")))
            }
            other => {
                Err(self
                    .fault(format!("got the tag `{}`, expected one that Jinja knows", other.escape_debug())))
            }
        }
    }

    fn for_loop(&mut self) -> Result<Node> {
        let target = self.target(&["in"])?;
        if !self.skip_name("in") {
            return self.fail_here("`in`");
        }
        let iter = self.tuple_without_condition()?;
        let test = if self.skip_name("if") { Some(self.expression()?) } else { None };
        let recursive = self.skip_name("recursive");
        let (body, end) = self.block_to(&["endfor", "else"], Some(true))?;
        let otherwise = if end == "else" {
            self.block("endfor", None)?
        } else {
            self.block_end().map(|()| Vec::new())?
        };
        Ok(Node::For(Arc::new(For { target, iter, test, recursive, body, otherwise })))
    }

    fn condition(&mut self) -> Result<Node> {
        let mut branches = Vec::new();
        loop {
            let condition = self.tuple_without_condition()?;
            let (body, end) = self.block_to(&["elif", "else", "endif"], None)?;
            branches.push((condition, body));
            match end.as_str() {
                "elif" => {}
                "else" => return Ok(Node::If { branches, otherwise: self.block("endif", None)? }),
                _ => {
                    self.block_end()?;
                    return Ok(Node::If { branches, otherwise: Vec::new() });
                }
            }
        }
    }

    fn set(&mut self) -> Result<Node> {
        let target = self.target(&[])?;
        if self.skip_op("=") {
            let value = self.tuple()?;
            self.block_end()?;
            return Ok(Node::Set { target, value });
        }
        let filters = self.filters(false)?;
        Ok(Node::SetBlock { target, filters, body: self.block("endset", None)? })
    }

    fn call(&mut self) -> Result<Node> {
        let parameters = if self.is_op("(") { self.signature()? } else { Vec::new() };
        let call = self.expression()?;
        let caller = self.macro_of("caller".to_owned(), parameters, "endcall")?;
        Ok(Node::Call { call, caller: Arc::new(caller) })
    }

    fn with(&mut self) -> Result<Node> {
        let mut values = Vec::new();
        while !matches!(self.peek(), Some(Token::BlockEnd) | None) {
            if !values.is_empty() {
                self.expect_op(",")?;
            }
            let target = self.target_name()?;
            self.expect_op("=")?;
            values.push((target, self.expression()?));
        }
        Ok(Node::With { values, body: self.block("endwith", None)? })
    }

    fn signature_and_body(&mut self, name: String, end: &str) -> Result<Macro> {
        let parameters = self.signature()?;
        self.macro_of(name, parameters, end)
    }

    fn macro_of(
        &mut self,
        name: String,
        parameters: Vec<(String, Option<Expr>)>,
        end: &str,
    ) -> Result<Macro> {
        self.uses.push(Uses::default());
        let body = self.block(end, Some(false))?;
        let uses = self.uses.pop().unwrap_or_default();
        Ok(Macro { name, parameters, body, uses })
    }

    fn signature(&mut self) -> Result<Vec<(String, Option<Expr>)>> {
        self.expect_op("(")?;
        let mut found: Vec<(String, Option<Expr>)> = Vec::new();
        while !self.skip_op(")") {
            if !found.is_empty() {
                self.expect_op(",")?;
            }
            let name = self.name()?;
            let default = if self.skip_op("=") { Some(self.expression()?) } else { None };
            if default.is_none() && found.last().is_some_and(|(_, before)| before.is_some()) {
                return Err(self.fault(format!("got `{name}` without a default after one with")));
            }
            found.push((name, default));
        }
        Ok(found)
    }

    /// `name`, `namespace.attribute`, or several of them.
    fn target(&mut self, ends: &[&str]) -> Result<Target> {
        let mut found = vec![self.target_part()?];
        let mut tuple = false;
        while self.skip_op(",") {
            tuple = true;
            let ended = matches!(self.peek(), Some(Token::Name(name)) if ends.contains(&name.as_str()));
            if ended || self.is_op("=") {
                break;
            }
            found.push(self.target_part()?);
        }
        match found.pop() {
            Some(only) if !tuple => Ok(only),
            last => {
                found.extend(last);
                Ok(Target::Tuple(found))
            }
        }
    }

    fn target_part(&mut self) -> Result<Target> {
        if !self.skip_op("(") {
            return self.target_name();
        }
        self.deeper()?;
        let inner = self.target(&[])?;
        self.depth -= 1;
        self.expect_op(")")?;
        Ok(inner)
    }

    fn target_name(&mut self) -> Result<Target> {
        let name = self.name()?;
        if matches!(name.as_str(), "true" | "false" | "none" | "True" | "False" | "None") {
            return Err(self.fault(format!("cannot assign to `{name}`")));
        }
        if self.skip_op(".") {
            return Ok(Target::Attribute(name, self.name()?));
        }
        Ok(Target::Name(name))
    }

    /// `name | filter | filter` of a block.
    fn filters(&mut self, first: bool) -> Result<Vec<Post>> {
        let mut found = Vec::new();
        if first {
            found.push(self.filter()?);
        }
        while self.skip_op("|") {
            found.push(self.filter()?);
        }
        Ok(found)
    }
}

//! Tokens to a tree: expressions, with Jinja's precedence. What operators stand between is in [`super::primary`].
//!
//! **Invariant:** a row of operators has at most [`OPERATORS_MAX`] of them, and expressions stand at most
//! [`EXPRESSION_DEPTH_MAX`] deep in each other.

use super::ast::{Arguments, Binary, Comparison, Expr, Kind, Post, PostKind};
use super::fault::Result;
use super::filters::FILTERS;
use super::lex::Token;
use super::parse::Parser;

/// How deep expressions may stand in each other. Jinja itself ends at about 60.
pub(super) const EXPRESSION_DEPTH_MAX: usize = 40;
/// Most operators in a row. Python ends at about 200 brackets, which is what Jinja makes of them.
pub(super) const OPERATORS_MAX: usize = 100;

type Level = fn(&mut Parser) -> Result<Expr>;

pub(super) fn expr(line: u32, kind: Kind) -> Expr {
    Expr { line, kind }
}

impl Parser {
    pub(super) fn deeper(&mut self) -> Result<()> {
        if self.depth >= EXPRESSION_DEPTH_MAX {
            return Err(self.fault(format!("got an expression deeper than {EXPRESSION_DEPTH_MAX}")));
        }
        self.depth += 1;
        Ok(())
    }

    pub(super) fn room(&self, operators: usize) -> Result<()> {
        if operators >= OPERATORS_MAX {
            return Err(self.fault(format!("got more than {OPERATORS_MAX} operators in a row")));
        }
        Ok(())
    }

    pub(super) fn expression(&mut self) -> Result<Expr> {
        self.deeper()?;
        let found = self.conditional()?;
        self.depth -= 1;
        Ok(found)
    }

    fn conditional(&mut self) -> Result<Expr> {
        let line = self.line();
        let found = self.or()?;
        if !self.skip_name("if") {
            return Ok(found);
        }
        let condition = self.or()?;
        let otherwise = if self.skip_name("else") { self.expression()? } else { expr(line, Kind::Undefined) };
        let again = expr(line, Kind::If(Box::new((condition, found, otherwise))));
        if !self.is_name("if") {
            return Ok(again);
        }
        // `a if b if c`: each condition stands around all before it.
        self.fail_here("the expression's end")
    }

    /// One expression, or a tuple of several.
    pub(super) fn tuple(&mut self) -> Result<Expr> {
        self.tuple_of(Self::expression)
    }

    /// As [`Self::tuple`], where a following `if` belongs to the statement.
    pub(super) fn tuple_without_condition(&mut self) -> Result<Expr> {
        self.tuple_of(Self::or)
    }

    fn tuple_of(&mut self, part: Level) -> Result<Expr> {
        let line = self.line();
        let first = part(self)?;
        if !self.is_op(",") {
            return Ok(first);
        }
        let mut found = vec![first];
        while self.skip_op(",") {
            let ends = matches!(self.peek(), Some(Token::PrintEnd | Token::BlockEnd) | None);
            if ends || self.is_op(")") || self.is_name("in") {
                break;
            }
            found.push(part(self)?);
        }
        Ok(expr(line, Kind::Tuple(found)))
    }

    fn row(&mut self, part: Level, more: fn(&mut Self) -> bool, kind: fn(Vec<Expr>) -> Kind) -> Result<Expr> {
        let line = self.line();
        let first = part(self)?;
        let mut found = vec![first];
        while more(self) {
            self.room(found.len())?;
            found.push(part(self)?);
        }
        match found.pop() {
            Some(only) if found.is_empty() => Ok(only),
            last => {
                found.extend(last);
                Ok(expr(line, kind(found)))
            }
        }
    }

    fn or(&mut self) -> Result<Expr> {
        self.row(Self::and, |it| it.skip_name("or"), Kind::Or)
    }

    fn and(&mut self) -> Result<Expr> {
        self.row(Self::not, |it| it.skip_name("and"), Kind::And)
    }

    fn not(&mut self) -> Result<Expr> {
        let line = self.line();
        if !self.skip_name("not") {
            return self.compare();
        }
        self.deeper()?;
        let inner = self.not()?;
        self.depth -= 1;
        Ok(expr(line, Kind::Not(Box::new(inner))))
    }

    fn comparison(&mut self) -> Option<Comparison> {
        let found = match self.peek()? {
            Token::Op("==") => Comparison::Eq,
            Token::Op("!=") => Comparison::Ne,
            Token::Op("<") => Comparison::Lt,
            Token::Op("<=") => Comparison::Le,
            Token::Op(">") => Comparison::Gt,
            Token::Op(">=") => Comparison::Ge,
            Token::Name(name) if name == "in" => Comparison::In,
            Token::Name(name) if name == "not" => match self.peek_after()? {
                Token::Name(name) if name == "in" => {
                    self.advance();
                    Comparison::NotIn
                }
                _ => return None,
            },
            _ => return None,
        };
        self.advance();
        Some(found)
    }

    fn compare(&mut self) -> Result<Expr> {
        let line = self.line();
        let first = self.sum()?;
        let mut found = Vec::new();
        while let Some(comparison) = self.comparison() {
            self.room(found.len())?;
            found.push((comparison, self.sum()?));
        }
        if found.is_empty() { Ok(first) } else { Ok(expr(line, Kind::Compare(Box::new(first), found))) }
    }

    fn chain(&mut self, part: Level, operators: &[(&str, Binary)]) -> Result<Expr> {
        let line = self.line();
        let first = part(self)?;
        let mut found = Vec::new();
        while let Some((op, binary)) = operators.iter().find(|(op, _)| self.is_op(op)) {
            self.room(found.len())?;
            self.expect_op(op)?;
            found.push((*binary, part(self)?));
        }
        if found.is_empty() {
            return Ok(first);
        }
        if [&first].into_iter().chain(found.iter().map(|(_, part)| part)).any(is_marked_safe) {
            // Jinja would then escape the other side.
            return Err(self.fault("got `safe` beside an operator, expected `~` or no `safe`"));
        }
        Ok(expr(line, Kind::Chain(Box::new(first), found)))
    }

    fn sum(&mut self) -> Result<Expr> {
        self.chain(Self::concat, &[("+", Binary::Add), ("-", Binary::Sub)])
    }

    fn concat(&mut self) -> Result<Expr> {
        self.row(Self::product, |it| it.skip_op("~"), Kind::Concat)
    }

    fn product(&mut self) -> Result<Expr> {
        let operators =
            [("*", Binary::Mul), ("/", Binary::Div), ("//", Binary::FloorDiv), ("%", Binary::Rem)];
        self.chain(Self::power, &operators)
    }

    fn power(&mut self) -> Result<Expr> {
        self.chain(|it| it.unary(true), &[("**", Binary::Pow)])
    }

    fn unary(&mut self, with_filters: bool) -> Result<Expr> {
        let line = self.line();
        let sign = if self.skip_op("-") {
            Some(Kind::Neg as fn(Box<Expr>) -> Kind)
        } else if self.skip_op("+") {
            Some(Kind::Pos as fn(Box<Expr>) -> Kind)
        } else {
            None
        };
        let mut base = match sign {
            Some(kind) => {
                self.deeper()?;
                let inner = self.unary(false)?;
                self.depth -= 1;
                expr(line, kind(Box::new(inner)))
            }
            None => self.primary()?,
        };
        let mut found = Vec::new();
        while let Some(post) = self.postfix(with_filters)? {
            self.room(found.len())?;
            found.push(post);
        }
        if !found.is_empty() {
            base = expr(line, Kind::Postfix(Box::new(base), found));
        }
        Ok(base)
    }

    pub(super) fn postfix(&mut self, with_filters: bool) -> Result<Option<Post>> {
        let line = self.line();
        let kind = match self.peek() {
            Some(Token::Op(".")) => {
                self.advance();
                match self.peek() {
                    Some(Token::Int(index)) => {
                        let item = expr(line, Kind::Int(*index));
                        self.advance();
                        PostKind::Item(item)
                    }
                    _ => PostKind::Attribute(self.name()?),
                }
            }
            Some(Token::Op("[")) => {
                self.advance();
                let found = self.subscript()?;
                self.expect_op("]")?;
                found
            }
            Some(Token::Op("(")) => PostKind::Call(self.arguments()?),
            Some(Token::Op("|")) if with_filters => {
                self.advance();
                return self.filter().map(Some);
            }
            Some(Token::Name(name)) if with_filters && name == "is" => {
                self.advance();
                self.test()?
            }
            _ => return Ok(None),
        };
        Ok(Some(Post { line, kind }))
    }

    fn subscript(&mut self) -> Result<PostKind> {
        let mut parts: [Option<Expr>; 3] = [None, None, None];
        let mut colons = 0_usize;
        for part in 0..3_usize {
            if !self.is_op(":")
                && !self.is_op("]")
                && let Some(place) = parts.get_mut(part)
            {
                *place = Some(self.expression()?);
            }
            if part == 2 || !self.skip_op(":") {
                break;
            }
            colons += 1;
        }
        let [first, stop, step] = parts;
        match first {
            Some(item) if colons == 0 && self.is_op(",") => {
                let line = item.line;
                let mut found = vec![item];
                while self.skip_op(",") {
                    found.push(self.expression()?);
                }
                Ok(PostKind::Item(expr(line, Kind::Tuple(found))))
            }
            Some(item) if colons == 0 => Ok(PostKind::Item(item)),
            None if colons == 0 => self.fail_here("an index"),
            first => Ok(PostKind::Slice(Box::new([first, stop, step]))),
        }
    }

    pub(super) fn filter(&mut self) -> Result<Post> {
        let line = self.line();
        let name = self.dotted_name()?;
        if !FILTERS.contains(&name.as_str()) {
            return Err(self.fault(format!(
                "got the filter `{}`, expected one of {}",
                name.escape_debug(),
                FILTERS.join(", ")
            )));
        }
        let arguments = if self.is_op("(") { self.arguments()? } else { Arguments::default() };
        Ok(Post { line, kind: PostKind::Filter(name, arguments) })
    }

    pub(super) fn dotted_name(&mut self) -> Result<String> {
        let mut name = self.name()?;
        while self.skip_op(".") {
            name = format!("{name}.{}", self.name()?);
        }
        Ok(name)
    }
}

fn is_marked_safe(part: &Expr) -> bool {
    let Kind::Postfix(_, found) = &part.kind else { return false };
    matches!(found.last(), Some(Post { kind: PostKind::Filter(name, _), .. }) if name == "safe")
}

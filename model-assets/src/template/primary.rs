//! Tokens to a tree: literals, lists, dictionaries, and the arguments of calls and tests.

use super::ast::{Arguments, Expr, Kind, PostKind};
use super::expression::expr;
use super::fault::Result;
use super::lex::Token;
use super::parse::Parser;
use super::predicates::TESTS;

impl Parser {
    pub(super) fn test(&mut self) -> Result<PostKind> {
        let negated = self.skip_name("not");
        let name = self.dotted_name()?;
        if !TESTS.contains(&name.as_str()) {
            return Err(self.fault(format!(
                "got the test `{}`, expected one of {}",
                name.escape_debug(),
                TESTS.join(", ")
            )));
        }
        let arguments = match self.peek() {
            Some(Token::Op("(")) => self.arguments()?,
            Some(Token::Name(name)) if matches!(name.as_str(), "else" | "or" | "and") => Arguments::default(),
            Some(Token::Name(name)) if name == "is" => {
                return Err(self.fault("got `is` after a test, expected brackets or `and`"));
            }
            // Where a statement goes on after the test, Jinja too takes these for an argument, and fails.
            Some(Token::Name(name)) if matches!(name.as_str(), "if" | "in" | "not" | "recursive") => {
                Arguments::default()
            }
            Some(
                Token::Name(_) | Token::Literal(_) | Token::Int(_) | Token::Float(_) | Token::Op("[" | "{"),
            ) => {
                self.deeper()?;
                let line = self.line();
                let mut argument = self.primary()?;
                let mut found = Vec::new();
                while let Some(post) = self.postfix(false)? {
                    self.room(found.len())?;
                    found.push(post);
                }
                if !found.is_empty() {
                    argument = expr(line, Kind::Postfix(Box::new(argument), found));
                }
                self.depth -= 1;
                Arguments { positional: vec![argument], ..Arguments::default() }
            }
            _ => Arguments::default(),
        };
        Ok(PostKind::Test { name, arguments, negated })
    }

    pub(super) fn arguments(&mut self) -> Result<Arguments> {
        self.expect_op("(")?;
        let mut found = Arguments::default();
        let mut first = true;
        while !self.skip_op(")") {
            if !std::mem::take(&mut first) {
                self.expect_op(",")?;
                if self.skip_op(")") {
                    break;
                }
            }
            if self.skip_op("*") {
                found.more = Some(self.expression()?);
            } else if self.skip_op("**") {
                found.more_named = Some(self.expression()?);
            } else if matches!((self.peek(), self.peek_after()), (Some(Token::Name(_)), Some(Token::Op("="))))
            {
                let name = self.name()?;
                self.expect_op("=")?;
                found.named.push((name, self.expression()?));
            } else if found.named.is_empty() && found.more.is_none() && found.more_named.is_none() {
                found.positional.push(self.expression()?);
            } else {
                return self.fail_here("an argument with a name");
            }
        }
        Ok(found)
    }

    pub(super) fn primary(&mut self) -> Result<Expr> {
        let line = self.line();
        let kind = match self.peek() {
            Some(Token::Name(name)) => match name.as_str() {
                "true" | "True" => Kind::Bool(true),
                "false" | "False" => Kind::Bool(false),
                "none" | "None" => Kind::None,
                _ => {
                    let name = name.clone();
                    self.reads(&name);
                    Kind::Name(name)
                }
            },
            Some(Token::Literal(text)) => {
                let mut text = text.clone();
                // Texts side by side are one.
                while let Some(Token::Literal(more)) = self.peek_after() {
                    text.push_str(more);
                    self.advance();
                }
                Kind::Text(text)
            }
            Some(Token::Int(value)) => Kind::Int(*value),
            Some(Token::Float(value)) => Kind::Float(*value),
            Some(Token::Op("(")) => return self.brackets(line),
            Some(Token::Op("[")) => return self.list(line),
            Some(Token::Op("{")) => return self.dict(line),
            _ => return self.fail_here("an expression"),
        };
        self.advance();
        Ok(expr(line, kind))
    }

    pub(super) fn brackets(&mut self, line: u32) -> Result<Expr> {
        self.expect_op("(")?;
        if self.skip_op(")") {
            return Ok(expr(line, Kind::Tuple(Vec::new())));
        }
        let found = self.tuple()?;
        self.expect_op(")")?;
        Ok(found)
    }

    pub(super) fn list(&mut self, line: u32) -> Result<Expr> {
        self.expect_op("[")?;
        let mut found = Vec::new();
        while !self.skip_op("]") {
            if !found.is_empty() {
                self.expect_op(",")?;
                if self.skip_op("]") {
                    break;
                }
            }
            found.push(self.expression()?);
        }
        Ok(expr(line, Kind::List(found)))
    }

    pub(super) fn dict(&mut self, line: u32) -> Result<Expr> {
        self.expect_op("{")?;
        let mut found = Vec::new();
        while !self.skip_op("}") {
            if !found.is_empty() {
                self.expect_op(",")?;
                if self.skip_op("}") {
                    break;
                }
            }
            let key = self.expression()?;
            self.expect_op(":")?;
            found.push((key, self.expression()?));
        }
        Ok(expr(line, Kind::Dict(found)))
    }
}

//! Source to tokens, with Jinja's rules for whitespace (`trim_blocks` and `lstrip_blocks` on, as `transformers` has them).
//!
//! **Invariant:** work is linear in the source, but for numbers and texts of one token.

use super::fault::{Fault, Result};

#[derive(Debug, Clone, PartialEq)]
pub(super) enum Token {
    Text(String),
    /// `{{`
    PrintBegin,
    /// `}}`
    PrintEnd,
    /// `{%`
    BlockBegin,
    /// `%}`
    BlockEnd,
    Name(String),
    Literal(String),
    Int(i64),
    Float(f64),
    Op(&'static str),
}

/// Longest first.
const OPERATORS: [&str; 25] = [
    "//", "**", "==", "!=", ">=", "<=", "+", "-", "/", "*", "%", "~", "[", "]", "(", ")", "{", "}", ">", "<",
    "=", ".", ":", "|", ",",
];

/// Tokens with their lines.
pub(super) fn tokens(source: &str) -> Result<Vec<(u32, Token)>> {
    let source = source.replace("\r\n", "\n").replace('\r', "\n");
    let mut lexer = Lexer { rest: source.strip_suffix('\n').unwrap_or(&source), line: 1, found: Vec::new() };
    lexer.template()?;
    Ok(lexer.found)
}

struct Lexer<'s> {
    rest: &'s str,
    line: u32,
    found: Vec<(u32, Token)>,
}

/// How a tag wants the text before it.
#[derive(Clone, Copy, PartialEq)]
enum Sign {
    Strip,
    Keep,
    Usual,
}

impl<'s> Lexer<'s> {
    fn fault(&self, message: impl Into<String>) -> Box<Fault> {
        Fault::at(self.line, message)
    }

    fn skip(&mut self, bytes: usize) -> &'s str {
        let (gone, rest) = self.rest.split_at(bytes);
        self.line += gone.matches('\n').count() as u32;
        self.rest = rest;
        gone
    }

    fn skip_space(&mut self) {
        let left = self.rest.trim_start_matches(is_space).len();
        self.skip(self.rest.len() - left);
    }

    fn push(&mut self, token: Token) {
        self.found.push((self.line, token));
    }

    fn template(&mut self) -> Result<()> {
        // Whether what was read last ended a line: the next tag may then stand at a line's beginning.
        let mut line_starts = true;
        loop {
            let tags = self.rest.match_indices('{');
            let tag = tags
                .filter_map(|(at, _)| self.rest.as_bytes().get(at + 1).map(|next| (at, *next)))
                .find(|(_, next)| matches!(next, b'{' | b'%' | b'#'));
            let Some((at, kind)) = tag else {
                let text = self.skip(self.rest.len());
                self.text(text);
                return Ok(());
            };
            let line = self.line;
            let text = self.skip(at);
            self.skip(2);
            let sign = match self.rest.as_bytes().first() {
                Some(b'-') => Sign::Strip,
                Some(b'+') if kind != b'{' => Sign::Keep,
                _ => Sign::Usual,
            };
            if sign != Sign::Usual {
                self.skip(1);
            }
            let here = std::mem::replace(&mut self.line, line);
            self.text(before(text, sign, kind != b'{', line_starts));
            self.line = here;
            line_starts = match kind {
                b'{' => self.tag(Token::PrintBegin, Token::PrintEnd)?,
                b'#' => self.comment()?,
                _ => self.raw().unwrap_or_else(|| self.tag(Token::BlockBegin, Token::BlockEnd))?,
            };
        }
    }

    fn text(&mut self, text: &str) {
        if !text.is_empty() {
            self.push(Token::Text(text.to_owned()));
        }
    }

    /// Skips the end of a tag; whether a line ended with it.
    fn end(&mut self, end: &str, trims: bool) -> Option<bool> {
        let from = self.rest;
        let after = |sign: &str| from.strip_prefix(sign).and_then(|rest| rest.strip_prefix(end));
        let rest = if let Some(rest) = after("-") {
            rest.trim_start_matches(is_space)
        } else if let Some(rest) = after("+").filter(|_| trims) {
            rest
        } else {
            let rest = after("")?;
            if trims { rest.strip_prefix('\n').unwrap_or(rest) } else { rest }
        };
        Some(self.skip(from.len() - rest.len()).ends_with('\n'))
    }

    fn comment(&mut self) -> Result<bool> {
        let line = self.line;
        let end = self
            .rest
            .find("#}")
            .ok_or_else(|| Fault::at(line, "got a comment without its end, expected `#}`"))?;
        let signed = self.rest.get(..end).is_some_and(|text| text.ends_with(['-', '+']));
        self.skip(end - usize::from(signed));
        Ok(self.end("#}", true).unwrap_or_default())
    }

    /// `raw` blocks are text up to `endraw`; `None` when the tag is another one.
    fn raw(&mut self) -> Option<Result<bool>> {
        let after = word(self.rest, "raw")?;
        let body = match after.strip_prefix("-%}") {
            Some(body) => body.trim_start_matches(is_space),
            None => after.strip_prefix("%}")?,
        };
        self.skip(self.rest.len() - body.len());
        for (at, _) in body.match_indices("{%") {
            let tag = body.get(at + 2..).unwrap_or_default();
            let (sign, tag) = match tag.as_bytes().first() {
                Some(b'-') => (Sign::Strip, tag.get(1..).unwrap_or_default()),
                Some(b'+') => (Sign::Keep, tag.get(1..).unwrap_or_default()),
                _ => (Sign::Usual, tag),
            };
            let Some(end) = word(tag, "endraw") else { continue };
            let text = body.get(..at).unwrap_or_default();
            self.text(before(text, sign, true, false));
            self.skip(body.len() - end.len());
            return match self.end("%}", true) {
                Some(line_ended) => Some(Ok(line_ended)),
                None => Some(Err(self.fault("got no end of `endraw`, expected `%}`"))),
            };
        }
        Some(Err(self.fault("got `raw` without `endraw`")))
    }

    /// Tokens of a tag; whether a line ended with it.
    fn tag(&mut self, begin: Token, end: Token) -> Result<bool> {
        let (closing, trims) = if begin == Token::PrintBegin { ("}}", false) } else { ("%}", true) };
        let line = self.line;
        self.push(begin);
        // Brackets that are open: a `}}` within them closes two dictionaries.
        let mut open: Vec<&str> = Vec::new();
        loop {
            self.skip_space();
            if open.is_empty() {
                let at = self.line;
                if let Some(line_ended) = self.end(closing, trims) {
                    self.found.push((at, end));
                    return Ok(line_ended);
                }
            }
            let Some(first) = self.rest.chars().next() else {
                return Err(Fault::at(line, format!("got a tag without its end, expected `{closing}`")));
            };
            if first.is_ascii_digit() {
                self.number()?;
            } else if first.is_alphanumeric() || first == '_' {
                let end =
                    self.rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(self.rest.len());
                let name = self.skip(end);
                self.push(Token::Name(name.to_owned()));
            } else if matches!(first, '\'' | '"') {
                self.literal(first)?;
            } else {
                self.operator(first, &mut open)?;
            }
        }
    }

    fn operator(&mut self, first: char, open: &mut Vec<&'static str>) -> Result<()> {
        let Some(op) = OPERATORS.into_iter().find(|op| self.rest.starts_with(op)) else {
            return Err(self.fault(format!("got `{}`, expected an expression", first.escape_debug())));
        };
        match op {
            "(" => open.push(")"),
            "[" => open.push("]"),
            "{" => open.push("}"),
            ")" | "]" | "}" if open.pop() != Some(op) => {
                return Err(self.fault(format!("got `{op}` that nothing opens")));
            }
            _ => {}
        }
        self.push(Token::Op(op));
        self.skip(op.len());
        Ok(())
    }

    fn number(&mut self) -> Result<()> {
        let digits = |text: &str| text.find(|c: char| !c.is_ascii_digit() && c != '_').unwrap_or(text.len());
        let after_dot = matches!(self.found.last(), Some((_, Token::Op("."))));
        let radix = match self.rest.get(..2) {
            Some("0x" | "0X") => 16,
            Some("0o" | "0O") => 8,
            Some("0b" | "0B") => 2,
            _ => 10,
        };
        let mut end = if radix == 10 {
            digits(self.rest)
        } else {
            let body = self.rest.get(2..).unwrap_or_default();
            2 + body.find(|c: char| !c.is_digit(radix) && c != '_').unwrap_or(body.len())
        };
        let mut float = false;
        if radix == 10 && !after_dot {
            let tail = |end: usize| self.rest.get(end..).unwrap_or_default();
            if let Some(fraction) =
                tail(end).strip_prefix('.').filter(|f| f.starts_with(|c: char| c.is_ascii_digit()))
            {
                (end, float) = (end + 1 + digits(fraction), true);
            }
            if let Some(power) = tail(end).strip_prefix(['e', 'E']) {
                let unsigned = power.strip_prefix(['+', '-']).unwrap_or(power);
                if unsigned.starts_with(|c: char| c.is_ascii_digit()) {
                    (end, float) = (end + 1 + power.len() - unsigned.len() + digits(unsigned), true);
                }
            }
        }
        let written = self.skip(end).replace('_', "");
        let token = if float {
            written.parse().ok().map(Token::Float)
        } else {
            let body = if radix == 10 { written.as_str() } else { written.get(2..).unwrap_or_default() };
            i64::from_str_radix(body, radix).ok().map(Token::Int)
        };
        match token {
            Some(token) => self.push(token),
            None => return Err(self.fault(format!("got the number {written}, expected one of 64 bits"))),
        }
        Ok(())
    }

    fn literal(&mut self, quote: char) -> Result<()> {
        let line = self.line;
        let mut escaped = false;
        let end = self.rest.char_indices().skip(1).find(|(_, c)| {
            let ends = *c == quote && !escaped;
            escaped = *c == '\\' && !escaped;
            ends
        });
        let Some((end, _)) = end else {
            return Err(Fault::at(line, "got a text without its closing quote"));
        };
        let body = self.skip(end + 1).get(1..end).unwrap_or_default();
        let text = unescape(body).map_err(|message| Fault::at(line, message))?;
        self.found.push((line, Token::Literal(text)));
        Ok(())
    }
}

/// What remains of a text before a tag.
fn before(text: &str, sign: Sign, is_block: bool, line_starts: bool) -> &str {
    match sign {
        Sign::Strip => text.trim_end_matches(is_space),
        Sign::Usual if is_block => {
            let line = text.rfind('\n').map_or(0, |at| at + 1);
            let indent = text.get(line..).unwrap_or_default();
            if (line > 0 || line_starts) && indent.chars().all(is_space) {
                text.get(..line).unwrap_or_default()
            } else {
                text
            }
        }
        _ => text,
    }
}

/// What follows a word and the spaces around it.
fn word<'t>(text: &'t str, word: &str) -> Option<&'t str> {
    text.trim_start_matches(is_space).strip_prefix(word).map(|rest| rest.trim_start_matches(is_space))
}

/// Python's whitespace: Unicode's, and four separators.
pub(super) fn is_space(c: char) -> bool {
    c.is_whitespace() || matches!(c, '\u{1c}'..='\u{1f}')
}

/// Python's escapes in texts.
fn unescape(body: &str) -> std::result::Result<String, String> {
    let mut text = String::with_capacity(body.len());
    let mut chars = body.chars().peekable();
    while let Some(c) = chars.next() {
        if c != '\\' {
            text.push(c);
            continue;
        }
        let Some(kind) = chars.next() else { return Err("got a lone backslash".to_owned()) };
        let hex = |chars: &mut std::iter::Peekable<std::str::Chars<'_>>, digits: usize| {
            let written: String = chars.take(digits).collect();
            u32::from_str_radix(&written, 16)
                .ok()
                .filter(|_| written.len() == digits)
                .and_then(char::from_u32)
                .ok_or_else(|| format!("got the escape `\\{kind}{written}`, expected a character"))
        };
        match kind {
            '\n' => {}
            '\\' | '\'' | '"' => text.push(kind),
            'a' => text.push('\u{7}'),
            'b' => text.push('\u{8}'),
            'f' => text.push('\u{c}'),
            'n' => text.push('\n'),
            'r' => text.push('\r'),
            't' => text.push('\t'),
            'v' => text.push('\u{b}'),
            'x' => text.push(hex(&mut chars, 2)?),
            'u' => text.push(hex(&mut chars, 4)?),
            'U' => text.push(hex(&mut chars, 8)?),
            'N' => return Err("got the escape `\\N`, expected `\\u` or the character itself".to_owned()),
            '0'..='7' => {
                let mut code = kind.to_digit(8).unwrap_or_default();
                for _ in 0..2 {
                    if let Some(digit) = chars.peek().and_then(|c| c.to_digit(8)) {
                        code = code * 8 + digit;
                        chars.next();
                    }
                }
                text.extend(char::from_u32(code));
            }
            other => {
                text.push('\\');
                text.push(other);
            }
        }
    }
    Ok(text)
}

//! The few parts of HTML that a report is made of.
//!
//! **Invariant:** text becomes markup only through [`escape`]: a model's words, a tensor's name or a path cannot end a
//! tag, and the page loads and runs nothing.

use std::fmt::{Display, Write as _};

/// A page that grows.
pub(super) struct Page {
    body: String,
}

const STYLE: &str = "
:root { color-scheme: light dark; --ink: #1c2128; --soft: #57606a; --line: #d0d7de; --paper: #ffffff; --card: #f6f8fa;
  --good: #1a7f37; --bad: #cf222e; --accent: #2563eb; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6edf3; --soft: #9da7b3; --line: #30363d; --paper: #0d1117;
  --card: #161b22; --good: #3fb950; --bad: #ff7b72; --accent: #79a6ff; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink); font: 16px/1.5 system-ui, sans-serif; }
main { max-width: 68rem; margin: 0 auto; padding: 1.5rem 1rem 4rem; }
h1 { font-size: 1.9rem; margin: 0 0 .25rem; } h2 { font-size: 1.3rem; margin: 2.5rem 0 .75rem; }
p { margin: .4rem 0; } .soft, caption { color: var(--soft); } a { color: var(--accent); }
nav ul { display: flex; flex-wrap: wrap; gap: .25rem 1rem; padding: 0; margin: 1rem 0; list-style: none; }
.cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(11rem, 1fr)); gap: .75rem; margin: 1.25rem 0; padding: 0; }
.card { background: var(--card); border: 1px solid var(--line); border-radius: .6rem; padding: .7rem .9rem; }
.card dt { color: var(--soft); font-size: .85rem; } .card dd { margin: 0; font-size: 1.25rem; font-weight: 600; }
.good { color: var(--good); } .bad { color: var(--bad); }
.scroll { overflow-x: auto; border: 1px solid var(--line); border-radius: .6rem; margin: .75rem 0; }
table { border-collapse: collapse; width: 100%; font-size: .92rem; } caption { text-align: left; padding: .6rem .75rem 0; }
th, td { padding: .4rem .75rem; text-align: left; vertical-align: top; border-top: 1px solid var(--line); overflow-wrap: anywhere; }
thead th { border-top: 0; white-space: nowrap; } .number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
code, pre { font: .86rem/1.45 ui-monospace, monospace; } pre { white-space: pre-wrap; overflow-wrap: anywhere; margin: .3rem 0; }
details { border: 1px solid var(--line); border-radius: .6rem; margin: .5rem 0; padding: .5rem .9rem; }
summary { cursor: pointer; font-weight: 600; } .talk { border-left: 3px solid var(--line); padding-left: .8rem; margin: .6rem 0; }
svg { width: 100%; height: auto; display: block; }
:focus-visible { outline: 2px solid var(--accent); outline-offset: 2px; }
@media print { details { break-inside: avoid; } nav { display: none; } }
";

fn is_number(cell: &str) -> bool {
    cell.len() < 24 && cell.starts_with(|c: char| c.is_ascii_digit() || "+-−.".contains(c))
}

fn class(number: bool) -> &'static str {
    if number { " class=\"number\"" } else { "" }
}

/// Text as it stands in a page.
pub(super) fn escape(text: impl Display) -> String {
    let mut safe = String::new();
    for c in text.to_string().chars() {
        match c {
            '&' => safe.push_str("&amp;"),
            '<' => safe.push_str("&lt;"),
            '>' => safe.push_str("&gt;"),
            '"' => safe.push_str("&quot;"),
            '\'' => safe.push_str("&#39;"),
            // Control characters mean nothing in a page and something in a terminal.
            c if c.is_control() && c != '\n' => safe.push(char::REPLACEMENT_CHARACTER),
            c => safe.push(c),
        }
    }
    safe
}

impl Page {
    pub(super) fn new() -> Self {
        Self { body: String::new() }
    }

    /// Markup that is made of constants, numbers and escaped text.
    pub(super) fn raw(&mut self, markup: &str) {
        self.body.push_str(markup);
        self.body.push('\n');
    }

    pub(super) fn section(&mut self, id: &str, title: &str) {
        self.raw(&format!("<h2 id=\"{id}\">{}</h2>", escape(title)));
    }

    pub(super) fn text(&mut self, text: impl Display) {
        self.raw(&format!("<p>{}</p>", escape(text)));
    }

    /// A verdict in words and colour: never in colour alone.
    pub(super) fn verdict(passed: bool) -> String {
        let (class, word) = if passed { ("good", "✓ passed") } else { ("bad", "✗ refused") };
        format!("<span class=\"{class}\">{word}</span>")
    }

    pub(super) fn cards(&mut self, cards: &[(&str, String)]) {
        self.raw("<dl class=\"cards\">");
        for (name, value) in cards {
            self.raw(&format!(
                "<div class=\"card\"><dt>{}</dt><dd>{}</dd></div>",
                escape(name),
                escape(value)
            ));
        }
        self.raw("</dl>");
    }

    /// A table of text; cells that begin with a digit, sign or dot are set as numbers.
    pub(super) fn table(&mut self, caption: &str, heads: &[&str], rows: &[Vec<String>]) {
        let rows: Vec<Vec<String>> = rows.iter().map(|row| row.iter().map(escape).collect()).collect();
        self.markup_table(caption, heads, &rows);
    }

    /// A table whose cells are markup already.
    pub(super) fn markup_table(&mut self, caption: &str, heads: &[&str], rows: &[Vec<String>]) {
        let mut text = format!(
            "<div class=\"scroll\" tabindex=\"0\" role=\"region\" aria-label=\"{0}\"><table><caption>{0}</caption><thead><tr>",
            escape(caption)
        );
        let first = rows.first();
        for (column, head) in heads.iter().enumerate() {
            let numbers = first.and_then(|row| row.get(column)).is_some_and(|cell| is_number(cell));
            let _ = write!(text, "<th scope=\"col\"{}>{}</th>", class(numbers), escape(head));
        }
        text.push_str("</tr></thead><tbody>");
        for row in rows {
            text.push_str("<tr>");
            for cell in row {
                let _ = write!(text, "<td{}>{cell}</td>", class(is_number(cell)));
            }
            text.push_str("</tr>");
        }
        text.push_str("</tbody></table></div>");
        self.raw(&text);
    }

    /// The whole document.
    pub(super) fn finish(self, title: &str) -> String {
        let title = escape(title);
        let body = self.body;
        format!(
            "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
             <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
             <meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">\n\
             <title>{title}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<main>\n{body}</main>\n</body>\n</html>\n"
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_that_is_said_becomes_markup() {
        let hostile = "<script>alert('x')</script> & \"quoted\" \u{1b}[31m";
        let safe = escape(hostile);
        assert_eq!(
            safe,
            "&lt;script&gt;alert(&#39;x&#39;)&lt;/script&gt; &amp; &quot;quoted&quot; \u{fffd}[31m"
        );
        let mut page = Page::new();
        page.section("s", hostile);
        page.text(hostile);
        page.cards(&[(hostile, hostile.to_owned())]);
        page.table(hostile, &[hostile], &[vec![hostile.to_owned()]]);
        let html = page.finish(hostile);
        assert!(!html.contains("<script") && !html.contains("'x'"), "{html}");
        assert_eq!(html.matches("&lt;script&gt;").count(), 9);
    }
}

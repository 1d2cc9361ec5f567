//! Chat templates: Jinja as `transformers` renders it, in a machine that cannot be made to take more than it may.
//!
//! A template is a program that comes with a model, so the gate must know that it ends, and an app must know it again. A
//! general engine for Jinja does not promise that: it counts instructions, while one operator on a list that holds itself
//! many times over, a comparison, a drop, or the parser's own recursion take what nobody counted. So the part of Jinja that
//! conversations need is here, with Python's values and texts as `transformers` shows them to a template: `True`, not
//! `true`. What differs is refused and never rendered otherwise.
//!
//! Not here: other templates (`include`, `extends`, `import`), blocks of them, HTML (`escape`, `autoescape`), chance
//! (`random`), integers beyond 64 bits.
//!
//! **Invariant:** a template computes text and nothing else. It sees the conversation, the names it is given and the
//! clock it is given.
//!
//! **Invariant:** parsing takes a bounded stack and work linear in the source; rendering takes at most [`STEPS_MAX`]
//! steps, [`MEMORY_BYTES_MAX`] bytes and [`RECURSION_MAX`] levels, whatever the template and the conversation.

mod access;
mod ast;
mod blocks;
mod budget;
mod call;
mod clock;
mod evaluate;
mod expression;
mod fault;
mod filters;
mod lex;
mod machine;
mod methods;
mod operators;
mod parse;
mod parts;
mod predicates;
mod primary;
mod printf;
mod rows;
#[cfg(test)]
mod tests;
mod value;
mod write;

pub use budget::{MEMORY_BYTES_MAX, RECURSION_MAX, STEPS_MAX, VALUE_DEPTH_MAX};
pub use clock::Clock;
pub use fault::Fault;
pub use value::Data;

use crate::limits::TEMPLATE_BYTES_MAX;

/// A template, read and checked.
#[derive(Debug)]
pub struct Template {
    body: Vec<ast::Stmt>,
}

/// A conversation that every template must be able to render: what it is for.
const REFERENCE: [(&str, &str); 3] = [
    ("user", "What is 2 + 3?"),
    ("assistant", "It is 5."),
    ("user", "Thank you! Say it in Greek: π, é, 🙂."),
];

/// Reads a template and renders the reference conversation in all its lengths, for training and for a reply.
///
/// # Errors
/// As [`Template::parse`] and [`Template::render`], and when a prompt lacks what was said last.
pub fn judge(source: &str, bos_token: &str, eos_token: &str) -> Result<Vec<Rendering>, Fault> {
    let template = Template::parse(source)?;
    let text = |text: &str| Data::Text(text.to_owned());
    let turn = |(role, content): &(&str, &str)| {
        Data::Map(vec![("role".to_owned(), text(role)), ("content".to_owned(), text(content))])
    };
    let mut found = Vec::new();
    for (turns, add_generation_prompt) in [(1, true), (2, false), (3, true)] {
        let said = REFERENCE.get(..turns).unwrap_or_default();
        let messages = Data::List(said.iter().map(turn).collect());
        let input = Input { add_generation_prompt, ..Input::of(&messages, bos_token, eos_token) };
        let prompt = template.render(&input)?;
        let missing = said.last().filter(|(_, content)| !prompt.contains(content));
        if let Some((role, content)) = missing {
            let message =
                format!("got a prompt without what the {role} said last, expected {content:?} in it");
            return Err(Fault { line: 0, message, raised: false });
        }
        found.push(Rendering { turns, add_generation_prompt, prompt });
    }
    Ok(found)
}

/// A prompt of the reference conversation, for another renderer to be held against.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Rendering {
    /// How many of its messages.
    #[serde(skip)]
    turns: usize,
    /// Whether the prompt ends where a reply begins.
    pub add_generation_prompt: bool,
    /// The prompt.
    pub prompt: String,
}

impl Rendering {
    /// The messages that were rendered, as roles and contents.
    pub fn messages(&self) -> impl Iterator<Item = (&'static str, &'static str)> {
        REFERENCE.into_iter().take(self.turns)
    }
}

/// What a rendering is given. Every name is always there: `transformers` passes `tools` and `documents` as none where a
/// caller has none.
#[derive(Debug, Clone, Copy)]
pub struct Input<'i> {
    /// The conversation.
    pub messages: &'i Data,
    /// Tools, or none.
    pub tools: &'i Data,
    /// Documents, or none.
    pub documents: &'i Data,
    /// The text of the model's start token, empty if it has none.
    pub bos_token: &'i str,
    /// The text of the model's end token, empty if it has none.
    pub eos_token: &'i str,
    /// Whether the prompt ends where the model's reply begins.
    pub add_generation_prompt: bool,
    /// What `strftime_now` tells.
    pub clock: Clock,
}

impl<'i> Input<'i> {
    /// A conversation without tools and documents, for a reply, at the time of evidence.
    #[must_use]
    pub fn of(messages: &'i Data, bos_token: &'i str, eos_token: &'i str) -> Self {
        let (tools, documents) = (&Data::Null, &Data::Null);
        Self {
            messages,
            tools,
            documents,
            bos_token,
            eos_token,
            add_generation_prompt: true,
            clock: Clock::FIXED,
        }
    }
}

impl Template {
    /// Reads a template.
    ///
    /// # Errors
    /// Its size, or the line and what is wrong there: no Jinja, a tag, filter or test that is not here, too deep.
    pub fn parse(source: &str) -> Result<Self, Fault> {
        if source.len() as u64 > TEMPLATE_BYTES_MAX {
            let message = format!("got {} bytes, expected at most {TEMPLATE_BYTES_MAX}", source.len());
            return Err(Fault { line: 0, message, raised: false });
        }
        parse::parse(source).map(|body| Self { body }).map_err(|fault| *fault)
    }

    /// Renders a conversation.
    ///
    /// # Errors
    /// The template's own refusal, a fault in it, or a limit that it meets.
    pub fn render(&self, input: &Input<'_>) -> Result<String, Fault> {
        let text = |text: &str| Data::Text(text.to_owned());
        let (bos, eos, prompt) =
            (text(input.bos_token), text(input.eos_token), Data::Bool(input.add_generation_prompt));
        let given = [
            ("messages", input.messages),
            ("tools", input.tools),
            ("documents", input.documents),
            ("bos_token", &bos),
            ("eos_token", &eos),
            ("add_generation_prompt", &prompt),
        ];
        machine::Machine::new(input.clock).render(&self.body, &given).map_err(|fault| *fault)
    }
}

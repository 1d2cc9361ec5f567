//! Conversations to prompts, with the model's own chat template.
//!
//! **Invariant:** the template is rendered by the machine that the gate judged it with
//! ([`model_assets::template`]), under the same limits.

use model_assets::template::{Data, Input, Template};
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

pub use model_assets::template::Clock;

/// Who says something.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// The frame that the app sets.
    System,
    /// The person.
    User,
    /// The model.
    Assistant,
}

impl Role {
    /// As templates know it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::System => "system",
            Self::User => "user",
            Self::Assistant => "assistant",
        }
    }
}

/// A turn of a conversation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message {
    /// Who says it.
    pub role: Role,
    /// What is said.
    pub content: String,
}

impl Message {
    /// A message.
    pub fn new(role: Role, content: impl Into<String>) -> Self {
        Self { role, content: content.into() }
    }

    fn data(&self) -> Data {
        let text = |text: &str| Data::Text(text.to_owned());
        let fields = [("role", text(self.role.as_str())), ("content", text(&self.content))];
        Data::Map(fields.map(|(name, value)| (name.to_owned(), value)).into())
    }
}

/// A template that was read, and what it may print.
#[derive(Debug)]
pub struct ChatTemplate {
    template: Template,
    bos_token: String,
    eos_token: String,
    clock: Clock,
}

impl ChatTemplate {
    /// Reads a template. The two tokens are what the template may print, empty if the model has none. Its clock stands at
    /// the date of the evidence until [`Self::at`] sets it.
    ///
    /// # Errors
    /// When the template is too large, no Jinja, or more than the gate admits.
    pub fn new(source: &str, bos_token: &str, eos_token: &str) -> Result<Self> {
        let template = Template::parse(source).map_err(|fault| Error::Template(fault.to_string()))?;
        let (bos_token, eos_token) = (bos_token.to_owned(), eos_token.to_owned());
        Ok(Self { template, bos_token, eos_token, clock: Clock::FIXED })
    }

    /// The template with the time that it tells. A conversation keeps one: a prompt that began with another date would be
    /// computed anew from its beginning.
    #[must_use]
    pub fn at(self, clock: Clock) -> Self {
        Self { clock, ..self }
    }

    /// The prompt for a conversation; with `add_generation_prompt` it ends where the model's reply begins.
    ///
    /// # Errors
    /// When the template refuses the conversation, fails, or meets a limit.
    pub fn render(&self, messages: &[Message], add_generation_prompt: bool) -> Result<String> {
        let messages = Data::List(messages.iter().map(Message::data).collect());
        let input = Input {
            add_generation_prompt,
            clock: self.clock,
            ..Input::of(&messages, &self.bos_token, &self.eos_token)
        };
        self.template.render(&input).map_err(|fault| Error::Template(fault.to_string()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn talk() -> Vec<Message> {
        vec![
            Message::new(Role::System, "Be brief."),
            Message::new(Role::User, " Hello! "),
            Message::new(Role::Assistant, "Hi."),
            Message::new(Role::User, "Bye?"),
        ]
    }

    /// Llama 3's conventions: trimmed contents, headers, whitespace control, `is defined`, slices.
    const LLAMA3: &str = "{{- bos_token }}\n{%- if not date_string is defined %}\n    {%- set date_string = \"26 Jul 2024\" %}\n{%- endif %}\n{%- if messages[0]['role'] == 'system' %}\n    {%- set system_message = messages[0]['content']|trim %}\n    {%- set messages = messages[1:] %}\n{%- else %}\n    {%- set system_message = \"\" %}\n{%- endif %}\n{{- \"<|start_header_id|>system<|end_header_id|>\\n\\n\" + \"Today Date: \" + date_string + \"\\n\\n\" + system_message + eos_token }}\n{%- for message in messages %}\n    {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n'+ message['content'].strip() + '<|eot_id|>' }}\n{%- endfor %}\n{%- if add_generation_prompt %}\n    {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}\n{%- endif %}\n";

    #[test]
    fn renders_as_llama_3_does() {
        let template = ChatTemplate::new(LLAMA3, "<B>", "<E>").unwrap();
        assert_eq!(
            template.render(&talk(), true).unwrap(),
            "<B><|start_header_id|>system<|end_header_id|>\n\nToday Date: 26 Jul 2024\n\nBe brief.<E>\
             <|start_header_id|>user<|end_header_id|>\n\nHello!<|eot_id|>\
             <|start_header_id|>assistant<|end_header_id|>\n\nHi.<|eot_id|>\
             <|start_header_id|>user<|end_header_id|>\n\nBye?<|eot_id|>\
             <|start_header_id|>assistant<|end_header_id|>\n\n"
        );
        assert!(!template.render(&talk(), false).unwrap().ends_with("assistant<|end_header_id|>\n\n"));
    }

    #[test]
    fn a_longer_conversation_begins_with_the_shorter_one() {
        // What makes reuse of the cache across turns possible.
        let template = ChatTemplate::new(LLAMA3, "", "").unwrap();
        let (short, long) =
            (template.render(&talk()[..2], true).unwrap(), template.render(&talk(), true).unwrap());
        assert!(long.starts_with(&short));
    }

    #[test]
    fn blocks_leave_no_blank_lines() {
        let template = ChatTemplate::new(
            "{% for m in messages %}\n  {% if true %}\n{{ m.content }}\n  {% endif %}\n{% endfor %}",
            "",
            "",
        )
        .unwrap();
        assert_eq!(template.render(&talk()[2..], false).unwrap(), "Hi.\nBye?\n");
    }

    #[test]
    fn a_template_can_refuse() {
        let template = ChatTemplate::new("{{ raise_exception('roles must alternate') }}", "", "").unwrap();
        let error = template.render(&talk(), true).unwrap_err().to_string();
        assert!(error.contains("roles must alternate"), "{error}");
    }

    #[test]
    fn a_template_tells_the_callers_time() {
        let source = "{{ strftime_now('%d %b %Y') }}{{ tools is none }}";
        let template = ChatTemplate::new(source, "", "").unwrap();
        assert_eq!(template.render(&[], true).unwrap(), "26 Jul 2024True");
        let later = template.at(Clock { year: 2031, month: 2, day: 3, ..Clock::FIXED });
        assert_eq!(later.render(&[], true).unwrap(), "03 Feb 2031True");
    }

    #[test]
    fn hostile_templates_end_in_an_error() {
        for source in [
            "{% for a in range(99999) %}{% for b in range(99999) %}x{% endfor %}{% endfor %}",
            "{% macro f(x) %}{{ f(x) }}{% endmacro %}{{ f(1) }}",
            "{% include 'other' %}",
            "{{ messages.nosuch() }}",
        ] {
            let rendered = ChatTemplate::new(source, "", "").and_then(|it| it.render(&talk(), true));
            assert!(matches!(rendered, Err(Error::Template(_))), "{source}");
        }
        assert!(ChatTemplate::new("{% if %}", "", "").is_err());
        assert!(ChatTemplate::new(&"x".repeat(300_000), "", "").is_err());
    }
}

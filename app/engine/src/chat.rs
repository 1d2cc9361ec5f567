//! Chat templates by the conventions of Hugging Face: Jinja with `messages`, `bos_token`, `eos_token`,
//! `add_generation_prompt`, `raise_exception`, and the few Python methods that templates in use call.
//!
//! **Invariant:** a template computes text and nothing else: it can load no other template, sees no file and
//! no clock, and its work, recursion and output are bounded.

use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Kwargs, Serde, Value, ValueKind};
use minijinja::{Environment, ErrorKind, State};
use model_assets::limits::TEMPLATE_BYTES_MAX;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// Instructions that one rendering may take: a conversation of hundreds of turns needs a small share.
const TEMPLATE_STEPS_MAX: u64 = 4_000_000;
/// Largest rendered prompt.
const PROMPT_BYTES_MAX: usize = 16 << 20;
const NAME: &str = "chat_template";

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
}

/// A compiled template.
#[derive(Debug)]
pub struct ChatTemplate {
    environment: Environment<'static>,
    bos_token: String,
    eos_token: String,
}

impl ChatTemplate {
    /// Compiles a template. The two tokens are what the template may print, empty if the model has none.
    ///
    /// # Errors
    /// When the template is too large or no Jinja.
    pub fn new(source: &str, bos_token: &str, eos_token: &str) -> Result<Self> {
        if source.len() as u64 > TEMPLATE_BYTES_MAX {
            let message = format!("got {} bytes, expected at most {TEMPLATE_BYTES_MAX}", source.len());
            return Err(Error::Template(message));
        }
        let mut environment = Environment::new();
        let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
        environment.set_syntax(syntax.map_err(template_error)?);
        environment.set_fuel(Some(TEMPLATE_STEPS_MAX));
        environment.add_function("raise_exception", raise_exception);
        environment.add_filter("tojson", to_json);
        environment.set_unknown_method_callback(python_method);
        environment.add_template_owned(NAME, source.to_owned()).map_err(template_error)?;
        Ok(Self { environment, bos_token: bos_token.to_owned(), eos_token: eos_token.to_owned() })
    }

    /// The prompt for a conversation; with `add_generation_prompt` it ends where the model's reply begins.
    ///
    /// # Errors
    /// When the template refuses the conversation, fails, or produces too much.
    pub fn render(&self, messages: &[Message], add_generation_prompt: bool) -> Result<String> {
        let template = self.environment.get_template(NAME).map_err(template_error)?;
        let context = minijinja::context! {
            messages => Value::from(Serde(messages)),
            bos_token => self.bos_token.as_str(),
            eos_token => self.eos_token.as_str(),
            add_generation_prompt => add_generation_prompt,
        };
        let mut prompt = Bounded(Vec::new());
        template.render_captured_to(context, &mut prompt).map_err(template_error)?;
        String::from_utf8(prompt.0).map_err(|e| Error::Template(e.to_string()))
    }
}

/// A buffer that refuses to grow without end.
struct Bounded(Vec<u8>);

impl std::io::Write for Bounded {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        if self.0.len().saturating_add(bytes.len()) > PROMPT_BYTES_MAX {
            return Err(std::io::Error::other(format!("prompt exceeds {PROMPT_BYTES_MAX} bytes")));
        }
        self.0.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

fn template_error(error: minijinja::Error) -> Error {
    let line = error.line().map(|line| format!("line {line}: ")).unwrap_or_default();
    let cause = std::error::Error::source(&error).map(|cause| format!(": {cause}")).unwrap_or_default();
    Error::Template(format!("{line}{error}{cause}"))
}

fn raise_exception(message: String) -> std::result::Result<Value, minijinja::Error> {
    Err(minijinja::Error::new(ErrorKind::InvalidOperation, message))
}

/// Python's `json.dumps` spacing, which models were trained on; `indent` as in Hugging Face's filter.
fn to_json(value: &Value, options: Kwargs) -> std::result::Result<Value, minijinja::Error> {
    let wrong = |e: serde_json::Error| minijinja::Error::new(ErrorKind::BadSerialization, e.to_string());
    let indent: Option<usize> = options.get("indent")?;
    options.assert_all_used()?;
    let mut out = Vec::new();
    match indent {
        Some(width) => {
            let pad = b" ".repeat(width.min(16));
            let formatter = serde_json::ser::PrettyFormatter::with_indent(&pad);
            value
                .serialize(&mut serde_json::Serializer::with_formatter(&mut out, formatter))
                .map_err(wrong)?;
        }
        None => {
            let mut serializer = serde_json::Serializer::with_formatter(&mut out, PythonSpacing);
            value.serialize(&mut serializer).map_err(wrong)?;
        }
    }
    let text = String::from_utf8_lossy(&out).into_owned();
    Ok(Value::from_safe_string(text))
}

/// `", "` and `": "` between items.
struct PythonSpacing;

impl serde_json::ser::Formatter for PythonSpacing {
    fn begin_array_value<W: ?Sized + std::io::Write>(
        &mut self,
        w: &mut W,
        first: bool,
    ) -> std::io::Result<()> {
        if first { Ok(()) } else { w.write_all(b", ") }
    }
    fn begin_object_key<W: ?Sized + std::io::Write>(
        &mut self,
        w: &mut W,
        first: bool,
    ) -> std::io::Result<()> {
        if first { Ok(()) } else { w.write_all(b", ") }
    }
    fn begin_object_value<W: ?Sized + std::io::Write>(&mut self, w: &mut W) -> std::io::Result<()> {
        w.write_all(b": ")
    }
}

/// Methods that Python's strings and dictionaries have and templates use.
fn python_method(
    _state: &mut State,
    value: &Value,
    method: &str,
    arguments: &[Value],
) -> std::result::Result<Value, minijinja::Error> {
    let unknown = || minijinja::Error::from(ErrorKind::UnknownMethod);
    if value.kind() == ValueKind::Map {
        return match (method, arguments) {
            ("get", [key]) => {
                value.get_item(key).map(|found| if found.is_undefined() { ().into() } else { found })
            }
            ("get", [key, default]) => {
                value.get_item(key).map(|found| if found.is_undefined() { default.clone() } else { found })
            }
            ("keys", []) => value.try_iter().map(Iterator::collect),
            ("items", []) => Ok(value
                .try_iter()?
                .map(|key| value.get_item(&key).map(|item| Value::from(vec![key, item])))
                .collect::<std::result::Result<_, _>>()?),
            _ => Err(unknown()),
        };
    }
    let text = value.as_str().ok_or_else(unknown)?;
    let texts: Vec<&str> =
        arguments.iter().map(|a| a.as_str().ok_or_else(unknown)).collect::<std::result::Result<_, _>>()?;
    let of = |set: &str| {
        let set: Vec<char> = set.chars().collect();
        move |c: char| set.contains(&c)
    };
    Ok(match (method, texts.as_slice()) {
        ("strip", []) => text.trim().into(),
        ("lstrip", []) => text.trim_start().into(),
        ("rstrip", []) => text.trim_end().into(),
        ("strip", [set]) => text.trim_matches(of(set)).into(),
        ("lstrip", [set]) => text.trim_start_matches(of(set)).into(),
        ("rstrip", [set]) => text.trim_end_matches(of(set)).into(),
        ("startswith", [prefix]) => text.starts_with(prefix).into(),
        ("endswith", [suffix]) => text.ends_with(suffix).into(),
        ("upper", []) => text.to_uppercase().into(),
        ("lower", []) => text.to_lowercase().into(),
        ("replace", [from, to]) => text.replace(from, to).into(),
        ("split", []) => text.split_whitespace().map(Value::from).collect(),
        ("split", [by]) if !by.is_empty() => text.split(by).map(Value::from).collect(),
        _ => return Err(unknown()),
    })
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
    fn json_is_spaced_as_python_does() {
        let template =
            ChatTemplate::new("{{ messages[2]|tojson }}{{ {'a': [1, 2]}|tojson(indent=2) }}", "", "")
                .unwrap();
        let text = template.render(&talk(), true).unwrap();
        assert!(
            text.starts_with(r#"{"role": "assistant", "content": "Hi."}"#)
                || text.starts_with(r#"{"content": "Hi.", "role": "assistant"}"#),
            "{text}"
        );
        assert!(text.ends_with("{\n  \"a\": [\n    1,\n    2\n  ]\n}"), "{text}");
    }

    #[test]
    fn python_methods_work() {
        let source = "{{ ' a '.strip() }}{{ 'xay'.strip('xy') }}{{ 'ab'.startswith('a') }}{{ {'k': 1}.get('q', 2) }}\
                      {% for k, v in {'k': 1}.items() %}{{ k }}{{ v }}{% endfor %}{{ 'a,b'.split(',')[1] }}";
        let template = ChatTemplate::new(source, "", "").unwrap();
        assert_eq!(template.render(&[], true).unwrap().to_lowercase(), "aatrue2k1b");
    }

    #[test]
    fn hostile_templates_end_in_an_error() {
        for source in [
            "{% for a in range(99999) %}{% for b in range(99999) %}x{% endfor %}{% endfor %}",
            "{% macro f(x) %}{{ f(x) }}{% endmacro %}{{ f(1) }}",
            "{% include 'other' %}",
            "{{ messages.nosuch() }}",
        ] {
            let template = ChatTemplate::new(source, "", "").unwrap();
            assert!(matches!(template.render(&talk(), true), Err(Error::Template(_))), "{source}");
        }
        assert!(ChatTemplate::new("{% if %}", "", "").is_err());
        assert!(ChatTemplate::new(&"x".repeat(300_000), "", "").is_err());
    }
}

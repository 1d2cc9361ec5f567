//! The tokenizer and template that ship with a model: conversations to tokens, tokens to text.

use camino::{Utf8Path, Utf8PathBuf};
use engine::Model;
use engine::chat::{ChatTemplate, Message, Role};
use engine::text::Tokenizer;
use model_assets::evidence::Turn;
use model_assets::limits::TEMPLATE_BYTES_MAX;

use crate::exit;
use crate::output::Failed;

/// Where they are; a model without them runs on token ids alone.
#[derive(clap::Args)]
pub(crate) struct WriterArgs {
    /// The tokenizer that ships with the model; all that is text needs it.
    #[arg(long, value_name = "FILE", requires = "template")]
    tokenizer: Option<Utf8PathBuf>,
    /// The chat template that ships with the model.
    #[arg(long, value_name = "FILE", requires = "tokenizer")]
    template: Option<Utf8PathBuf>,
}

impl WriterArgs {
    pub(crate) fn open(&self, model: &Model) -> Result<Option<Writer>, Failed> {
        let both = self.tokenizer.as_ref().zip(self.template.as_ref());
        both.map(|(tokenizer, template)| Writer::open(model, tokenizer, template)).transpose()
    }
}

/// Writes and reads for one model.
pub(crate) struct Writer {
    pub(crate) tokenizer: Tokenizer,
    template: ChatTemplate,
    specials: Vec<u32>,
}

impl Writer {
    pub(crate) fn open(model: &Model, tokenizer: &Utf8Path, template: &Utf8Path) -> Result<Self, Failed> {
        let unusable =
            |path: &Utf8Path, e: &dyn std::fmt::Display| Failed::new(exit::MODEL, format!("{path}: {e}"));
        let len = std::fs::metadata(template).map_err(|e| unusable(template, &e))?.len();
        if len > TEMPLATE_BYTES_MAX {
            return Err(unusable(
                template,
                &format!("got {len} bytes, expected at most {TEMPLATE_BYTES_MAX}"),
            ));
        }
        let source = std::fs::read_to_string(template).map_err(|e| unusable(template, &e))?;
        let tokenizer =
            Tokenizer::from_file(tokenizer, model.vocab()).map_err(|e| unusable(tokenizer, &e))?;
        let name = |id: Option<u32>| id.and_then(|id| tokenizer.token(id)).unwrap_or_default();
        let (bos, eos) = (name(model.bos()), name(model.eos().first().copied()));
        let template = ChatTemplate::new(&source, &bos, &eos).map_err(|e| unusable(template, &e))?;
        // A special token is one that plain decoding leaves out.
        let silent = |id: &u32| tokenizer.decode(&[*id]).is_ok_and(|text| text.is_empty());
        let specials =
            (0..model.vocab()).filter(|id| tokenizer.token(*id).is_some()).filter(silent).collect();
        Ok(Self { tokenizer, template, specials })
    }

    /// The rendered conversation.
    pub(crate) fn render(&self, messages: &[Message], add_generation_prompt: bool) -> engine::Result<String> {
        self.template.render(messages, add_generation_prompt)
    }

    pub(crate) fn encode(
        &self,
        messages: &[Message],
        add_generation_prompt: bool,
    ) -> engine::Result<Vec<u32>> {
        self.tokenizer.encode(&self.render(messages, add_generation_prompt)?, false)
    }

    /// How many of a reply's tokens are special ones.
    pub(crate) fn specials(&self, tokens: &[u32]) -> u32 {
        let count = tokens.iter().filter(|token| self.specials.binary_search(token).is_ok()).count();
        u32::try_from(count).unwrap_or(u32::MAX)
    }
}

/// Messages from a request.
pub(crate) fn messages(turns: &[Turn]) -> Result<Vec<Message>, Failed> {
    let role = |name: &str| match name {
        "system" => Ok(Role::System),
        "user" => Ok(Role::User),
        "assistant" => Ok(Role::Assistant),
        _ => Err(Failed::new(exit::USAGE, format!("role: got `{name}`, expected system, user or assistant"))),
    };
    turns.iter().map(|turn| Ok(Message::new(role(&turn.role)?, turn.content.clone()))).collect()
}

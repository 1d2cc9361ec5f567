//! Which part of a conversation the model sees.
//!
//! **Invariant:** the work is bounded by the window and not by how long the conversation or a message is, and it can be
//! interrupted anywhere.
//!
//! When the window is full, turns are left out until about half of it is free, not one at each reply: the prompts of the
//! next turns begin alike, and what the cache holds of them is not fed again.

use anyhow::bail;
use engine::chat::{Message, Role};

use super::Chat;

/// Text that is tokenized at once: so much can neither be interrupted nor found to be too long halfway.
const BLOCK_BYTES: usize = 16 << 10;

/// The prompt of a reply.
pub(super) struct Prompt {
    /// The rendered conversation.
    pub(super) text: String,
    /// Messages at its start that were left out.
    pub(super) left_out: usize,
}

/// The end of a conversation, as far as it was looked at.
struct Tail {
    /// Index of the first message looked at.
    first: usize,
    /// Tokens of each from there on, about: without what the template writes around them.
    tokens: Vec<usize>,
}

impl Tail {
    /// Tokens from a message on, up to another.
    fn between(&self, from: usize, to: usize) -> usize {
        let tokens = self.tokens.get(from.saturating_sub(self.first)..to.saturating_sub(self.first));
        tokens.unwrap_or_default().iter().sum()
    }
}

impl Chat {
    /// Renders a prompt that leaves room for a reply; `None` when it was interrupted.
    ///
    /// # Errors
    /// The last message does not fit the window by itself.
    pub(super) fn fit(
        &self,
        tokens_max: usize,
        interrupted: &mut dyn FnMut() -> bool,
    ) -> anyhow::Result<Option<Prompt>> {
        let window = self.session.model().context();
        // Room for a reply, but never so much that a short window holds no prompt at all.
        let most = window - tokens_max.min(window / 4);
        let last = self.turns.iter().rposition(|message| message.role == Role::User).unwrap_or_default();
        let seen = self.left_out.min(last);
        let Some(tail) = self.tail((seen, last), most, interrupted)? else { return Ok(None) };
        let mut from = if tail.first == seen { seen } else { self.next_turn(tail.first, last) };
        loop {
            if interrupted() {
                return Ok(None);
            }
            let messages: Vec<Message> =
                self.system.iter().chain(self.turns.get(from..).unwrap_or_default()).cloned().collect();
            let text = self.template.render(&messages, true)?;
            let tokens = self.encode(&text)?;
            // Once something more has to go, it is enough for several turns.
            let goal = if from == seen || from == last { most } else { window / 2 };
            if tokens <= goal {
                return Ok(Some(Prompt { text, left_out: from }));
            }
            if from == last {
                bail!("the message needs {tokens} tokens, expected at most {most}");
            }
            let excess = tokens - window / 2;
            let before = from;
            while from < last && (from == before || tail.between(before, from) < excess) {
                from = self.next_turn(from + 1, last);
            }
        }
    }

    /// Looks from the newest message back, as far as the window reaches; nothing when it was interrupted.
    fn tail(
        &self,
        (seen, last): (usize, usize),
        most: usize,
        interrupted: &mut dyn FnMut() -> bool,
    ) -> anyhow::Result<Option<Tail>> {
        // The tokens of the blocks add up only roughly: near the limit, the whole is rendered and counted.
        let enough = most + most / 8;
        let (mut tokens, mut first, mut sum) = (Vec::new(), self.turns.len(), 0);
        for message in self.turns.get(seen..).unwrap_or_default().iter().rev() {
            let Some(count) = self.count(&message.content, enough, interrupted)? else { return Ok(None) };
            if first <= last && sum + count > enough {
                break;
            }
            sum += count;
            first -= 1;
            tokens.push(count);
            if sum > enough && first >= last {
                bail!("the message needs more than {most} tokens, expected at most {most}");
            }
        }
        tokens.reverse();
        Ok(Some(Tail { first, tokens }))
    }

    /// Tokens of a text, about, and not much more than `enough`; nothing when it was interrupted.
    fn count(
        &self,
        mut text: &str,
        enough: usize,
        interrupted: &mut dyn FnMut() -> bool,
    ) -> anyhow::Result<Option<usize>> {
        let mut tokens = 0;
        while !text.is_empty() && tokens <= enough {
            if interrupted() {
                return Ok(None);
            }
            let (block, rest) = text.split_at(text.floor_char_boundary(BLOCK_BYTES));
            tokens += self.encode(block)?;
            text = rest;
        }
        Ok(Some(tokens))
    }

    /// How many tokens a text has.
    pub(super) fn encode(&self, text: &str) -> anyhow::Result<usize> {
        #[cfg(test)]
        self.encoded_bytes.set(self.encoded_bytes.get() + text.len());
        Ok(self.tokenizer.encode(text, false)?.len())
    }

    /// The first message from `from` on that a person said: a conversation begins with one. `last` at the latest.
    fn next_turn(&self, from: usize, last: usize) -> usize {
        let messages = self.turns.get(from..last).unwrap_or_default();
        messages.iter().position(|message| message.role == Role::User).map_or(last, |next| from + next)
    }
}

//! Generation with the default model, its tokenizer and its chat template.

use std::ops::ControlFlow;

use super::{tiny, tiny_pte};
use engine::chat::{ChatTemplate, Message, Role};
use engine::generate::{Finish, Limits, Piece, Reply, generate};
use engine::sample::{Sampler, Settings};
use engine::text::Tokenizer;
use engine::{Error, LoadOptions, Model, ModelBytes, Session};

struct Chat {
    session: Session,
    tokenizer: Tokenizer,
    template: ChatTemplate,
}

impl Chat {
    fn new() -> Self {
        let model = Model::load(ModelBytes::open(&tiny_pte()).unwrap(), &LoadOptions::default()).unwrap();
        let tokenizer = Tokenizer::from_file(&tiny("tokenizer.json"), model.vocab()).unwrap();
        let template = std::fs::read_to_string(tiny("chat_template.jinja")).unwrap();
        Self {
            session: Session::new(model),
            tokenizer,
            template: ChatTemplate::new(&template, "", "").unwrap(),
        }
    }

    fn prompt(&self, said: &[&str]) -> String {
        let roles = [Role::User, Role::Assistant].into_iter().cycle();
        let messages: Vec<_> = roles.zip(said).map(|(role, text)| Message::new(role, *text)).collect();
        self.template.render(&messages, true).unwrap()
    }

    fn limits(&self) -> Limits {
        Limits { stop: self.session.model().eos().to_vec(), ..Limits::default() }
    }

    /// Generates and returns the pieces too.
    fn generate(&mut self, prompt: &str, settings: Settings, limits: &Limits) -> (Reply, Vec<String>) {
        let (mut pieces, mut chosen) = (Vec::new(), Vec::new());
        let mut on_piece = |piece: Piece<'_>| {
            pieces.push(piece.text.to_owned());
            chosen.push(piece.token);
            ControlFlow::Continue(())
        };
        let mut sampler = Sampler::new(settings).unwrap();
        let reply = generate(&mut self.session, &self.tokenizer, &mut sampler, prompt, limits, &mut on_piece)
            .unwrap();
        chosen.truncate(reply.tokens.len());
        assert_eq!(chosen, reply.tokens);
        assert_eq!(pieces.concat(), reply.text);
        assert_eq!(reply.statistics.reply_tokens, reply.tokens.len());
        (reply, pieces)
    }
}

fn warm(seed: u64) -> Settings {
    Settings { temperature: 1.2, top_p: 0.95, top_k: None, seed }
}

const SAD: &str = "I feel sad because my cat is sick.";

#[test]
fn a_reply_is_text_and_ends_where_the_model_says() {
    let mut chat = Chat::new();
    let (prompt, limits) = (chat.prompt(&[SAD]), chat.limits());
    let (reply, pieces) = chat.generate(&prompt, Settings::default(), &limits);
    assert_eq!(reply.finish, Finish::Stop);
    // The weights are part of the repository: this is what they were trained to do.
    assert!(reply.text.contains("sad") && reply.text.contains("cat"), "{}", reply.text);
    assert!(pieces.len() > 5 && !reply.text.contains(['\u{fffd}', '|']), "{}", reply.text);
    assert!(!reply.tokens.iter().any(|token| limits.stop.contains(token)));
    // Fed: the prompt and the reply, but not what ended it.
    assert_eq!(chat.session.position(), reply.statistics.prompt_tokens + reply.tokens.len());
}

#[test]
fn pieces_are_whole_characters_whatever_the_model_says() {
    // At a temperature where it babbles, byte tokens come in any order.
    let mut chat = Chat::new();
    let prompt = chat.prompt(&["héllo 🙂 wörld"]);
    let limits = Limits { tokens_max: Some(200), ..Limits::default() };
    let mut broken = 0;
    for seed in 0..5 {
        let settings = Settings { temperature: 100.0, top_p: 1.0, top_k: None, seed };
        let (reply, _) = chat.generate(&prompt, settings, &limits);
        assert_eq!((reply.finish, reply.tokens.len()), (Finish::Length, 200));
        // All at once, a tokenizer sees the same characters as piece by piece.
        let whole = chat.tokenizer.decode(&reply.tokens).unwrap();
        let letters = |text: &str| text.chars().filter(|c| *c != '\u{fffd}').collect::<String>();
        assert_eq!(letters(&reply.text), letters(&whole));
        broken += whole.chars().filter(|c| *c == '\u{fffd}').count();
    }
    assert!(broken > 0, "the babble has no unfinished character: the test proves nothing");
}

#[test]
fn a_seed_fixes_the_reply() {
    let mut chat = Chat::new();
    let (prompt, limits) = (chat.prompt(&[SAD]), chat.limits());
    let mut reply = |seed| {
        chat.session.reset();
        chat.generate(&prompt, warm(seed), &limits).0.tokens
    };
    let first = reply(7);
    assert_eq!(reply(7), first);
    assert!((0..5).any(|seed| reply(seed) != first));
    // Another model object, loaded anew, is the same model.
    let mut other = Chat::new();
    assert_eq!(other.generate(&prompt, warm(7), &limits).0.tokens, first);
}

#[test]
fn limits_end_a_reply() {
    let mut chat = Chat::new();
    let prompt = chat.prompt(&[SAD]);
    let whole = {
        let limits = chat.limits();
        chat.generate(&prompt, Settings::default(), &limits).0
    };
    for most in [0, 1, 5] {
        let limits = Limits { tokens_max: Some(most), ..chat.limits() };
        let (reply, _) = chat.generate(&prompt, Settings::default(), &limits);
        assert_eq!(reply.finish, Finish::Length);
        assert_eq!(reply.tokens, whole.tokens[..most]);
        // The token that nobody would have seen was not computed.
        assert_eq!(chat.session.position(), reply.statistics.prompt_tokens + most.saturating_sub(1));
    }
    let mut sampler = Sampler::new(Settings::default()).unwrap();
    let mut seen = 0;
    let mut stop_at_three = |_: Piece<'_>| {
        seen += 1;
        if seen == 3 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    };
    let limits = chat.limits();
    let Chat { session, tokenizer, .. } = &mut chat;
    let reply = generate(session, tokenizer, &mut sampler, &prompt, &limits, &mut stop_at_three).unwrap();
    assert_eq!((reply.finish, reply.tokens.as_slice()), (Finish::Interrupted, &whole.tokens[..3]));
}

#[test]
fn the_next_turn_feeds_only_what_is_new() {
    let mut chat = Chat::new();
    let (prompt, limits) = (chat.prompt(&[SAD]), chat.limits());
    let first = chat.generate(&prompt, Settings::default(), &limits).0;
    let next = chat.prompt(&[SAD, &first.text, "Yes."]);
    let second = chat.generate(&next, Settings::default(), &limits).0;
    let held = first.statistics.prompt_tokens + first.tokens.len();
    assert_eq!((first.statistics.reused_tokens, second.statistics.reused_tokens), (0, held));
    chat.session.reset();
    let anew = chat.generate(&next, Settings::default(), &limits).0;
    assert_eq!((anew.statistics.reused_tokens, &anew.text), (0, &second.text));
}

#[test]
fn a_full_window_ends_the_reply() {
    let mut chat = Chat::new();
    let prompt = chat.prompt(&[SAD]);
    let endless = Limits { tokens_max: Some(700), ..Limits::default() };
    let (reply, _) = chat.generate(&prompt, warm(1), &endless);
    assert_eq!(reply.finish, Finish::Window);
    // The last token was chosen when no position was left to feed it at.
    assert_eq!(reply.statistics.prompt_tokens + reply.tokens.len(), 512 + 1);
}

#[test]
fn prompts_that_cannot_be_run_are_refused() {
    let mut chat = Chat::new();
    let limits = chat.limits();
    let mut sampler = Sampler::new(Settings::default()).unwrap();
    let long = chat.prompt(&[&"very ".repeat(2000)]);
    let Chat { session, tokenizer, .. } = &mut chat;
    let mut run = |prompt: &str| {
        generate(session, tokenizer, &mut sampler, prompt, &limits, &mut |_| ControlFlow::Continue(()))
            .map(|reply| reply.finish)
    };
    assert!(matches!(run(""), Err(Error::NoTokens)));
    assert!(matches!(run(&long), Err(Error::WindowFull { position: 0, window: 512, .. })));
}

#[test]
fn a_tokenizer_of_another_model_is_refused() {
    let error = Tokenizer::from_file(&tiny("tokenizer.json"), 1000).unwrap_err();
    assert!(matches!(&error, Error::Tokenizer(message) if message.contains("expected ids below")), "{error}");
    assert!(matches!(Tokenizer::from_file(&tiny("config.json"), 1024), Err(Error::Tokenizer(_))));
    assert!(matches!(Tokenizer::from_file("/no/such/file".into(), 1024), Err(Error::Io { .. })));
}

#[test]
fn a_prompt_is_interrupted_between_its_chunks_and_goes_on_where_it_was() {
    let mut chat = Chat::new();
    let prompt = chat.prompt(&[&"i feel happy today ".repeat(60)]);
    let whole = chat.generate(&prompt, Settings::default(), &chat.limits()).0;
    assert!(whole.statistics.prompt_tokens > 128, "{:?}", whole.statistics);
    chat.session.reset();

    let mut asked = 0;
    let mut interrupted = || {
        asked += 1;
        asked > 1
    };
    let mut sampler = Sampler::new(Settings::default()).unwrap();
    let limits = chat.limits();
    let Chat { session, tokenizer, .. } = &mut chat;
    let mut on_piece = |_: Piece<'_>| panic!("a piece of an interrupted prompt");
    let reply = engine::generate::generate_until(
        session,
        tokenizer,
        &mut sampler,
        &prompt,
        &limits,
        &mut on_piece,
        &mut interrupted,
    )
    .unwrap();
    assert_eq!((reply.finish, reply.tokens.len()), (Finish::Interrupted, 0));
    assert_eq!(chat.session.position(), 128);

    let again = chat.generate(&prompt, Settings::default(), &chat.limits()).0;
    assert_eq!(again.statistics.reused_tokens, 128);
    assert_eq!(again.text, whole.text);
}

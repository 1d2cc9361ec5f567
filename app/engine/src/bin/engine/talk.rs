//! `engine talk`: a conversation in which the model reads its own replies, as an app's is.

use engine::chat::{Message, Role};
use engine::runtime;
use engine::sample::{Sampler, Settings};
use model_assets::digest::Digest;
use model_assets::evidence::{TalkRequest, Talked};

use crate::answer::{AnswerArgs, reply};
use crate::output::{Failed, write_json};

pub(crate) fn run(args: &AnswerArgs) -> Result<(), Failed> {
    let request: TalkRequest = args.request()?;
    let (mut session, writer) = args.open()?;
    let failed = Failed::run(&args.model.model);
    let settings = Settings { temperature: request.temperature, seed: request.seed, ..Settings::default() };
    let mut sampler = Sampler::new(settings).map_err(&failed)?;
    let (mut conversation, mut turns) = (Vec::new(), Vec::new());
    for (number, text) in request.says.iter().enumerate() {
        conversation.push(Message::new(Role::User, text.clone()));
        let mut turn = reply(&mut session, &writer, &mut sampler, &mut conversation, request.tokens_max)
            .map_err(&failed)?;
        turn.id = (number + 1).to_string();
        turns.push(turn);
    }
    let pte = Digest::of(session.model().bytes());
    let window = u32::try_from(session.model().context()).unwrap_or(u32::MAX);
    write_json(&args.response, &Talked { runtime: runtime::VERSION.to_owned(), pte, window, turns })
}

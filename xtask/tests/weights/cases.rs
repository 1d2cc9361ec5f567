//! The ways in which a hub misbehaves: what each case is made of.

mod access;
mod lists;
mod transfers;

use std::sync::Arc;

use crate::{
    hub::{Answer, Asked, Files, Pace},
    scratch::{INDEX, WEIGHTS, WEIGHTS_BYTES},
};

pub(crate) type Bend = Arc<dyn Fn(&Asked, Answer) -> Answer + Send + Sync>;

/// One way to misbehave.
pub(crate) struct Case {
    /// Also its row in `docs/supply-chain-fetch.md`.
    pub(crate) name: &'static str,
    pub(crate) files: Files,
    pub(crate) bend: Bend,
    pub(crate) token: bool,
    pub(crate) code: i32,
    pub(crate) says: &'static [&'static str],
}

pub(crate) fn case(
    name: &'static str,
    code: i32,
    says: &'static [&'static str],
    bend: impl Fn(&Asked, Answer) -> Answer + Send + Sync + 'static,
) -> Case {
    Case { name, files: Files::checkpoint(WEIGHTS_BYTES), bend: Arc::new(bend), token: true, code, says }
}

/// Bends the answers that carry the weights.
pub(crate) fn weights(change: impl Fn(&Asked, Answer) -> Answer + Send + Sync + 'static) -> Bend {
    Arc::new(move |asked, answer| if asked.wants(WEIGHTS) { change(asked, answer) } else { answer })
}

pub(crate) fn list(change: impl Fn(serde_json::Value) -> serde_json::Value + Send + Sync + 'static) -> Bend {
    Arc::new(move |asked, answer| {
        if !asked.wants_list() {
            return answer;
        }
        Answer::new(200, change(serde_json::from_slice(&answer.body).unwrap()).to_string())
    })
}

/// Changes the list's entry of the weights.
pub(crate) fn entry(change: impl Fn(&mut serde_json::Value) + Send + Sync + 'static) -> Bend {
    list(move |mut entries| {
        change(entries.as_array_mut().unwrap().iter_mut().find(|entry| entry["path"] == WEIGHTS).unwrap());
        entries
    })
}

/// A first answer that is cut, and what follows it.
pub(crate) fn cut_then(change: impl Fn(&Asked, Answer) -> Answer + Send + Sync + 'static) -> Bend {
    weights(
        move |asked, answer| {
            if asked.nth == 0 { answer.paced(Pace::Cut(2 << 20)) } else { change(asked, answer) }
        },
    )
}

/// A hub whose weights are shards, as this index says.
pub(crate) fn sharded(
    name: &'static str,
    code: i32,
    says: &'static [&'static str],
    index: serde_json::Value,
) -> Case {
    let files = Files::checkpoint(WEIGHTS_BYTES);
    let part = files.0[WEIGHTS][..1 << 20].to_vec();
    let files = files.without(WEIGHTS).with("a-1.safetensors", part.clone()).with("a-2.safetensors", part);
    let files = files.with(INDEX, serde_json::json!({"weight_map": index}).to_string());
    Case { files, ..case(name, code, says, |_, answer| answer) }
}

pub(crate) fn honest(_: &Asked, answer: Answer) -> Answer {
    answer
}

/// Every case; each has its row in `docs/supply-chain-fetch.md`.
pub(crate) fn cases() -> Vec<Case> {
    let parts = [transfers::patience(), transfers::transfers(), access::access(), lists::lists()];
    parts.into_iter().flatten().collect()
}

/// Small changes to the honest storage that need the whole of it.
pub(crate) trait Change {
    fn map_whole(self) -> Bend;
    fn weak(self) -> Bend;
}

impl Change for Bend {
    /// The second answer is the whole file although a range was asked for.
    fn map_whole(self) -> Bend {
        Arc::new(move |asked, answer| {
            if asked.wants(WEIGHTS) && asked.headers.contains_key("range") {
                let body = Files::checkpoint(WEIGHTS_BYTES).0[WEIGHTS].clone();
                return Answer::new(200, body).with("ETag", "\"another\"");
            }
            self(asked, answer)
        })
    }

    fn weak(self) -> Bend {
        Arc::new(move |asked, answer| {
            let answer = self(asked, answer);
            if asked.wants(WEIGHTS) { answer.with("ETag", "W/\"weak\"") } else { answer }
        })
    }
}

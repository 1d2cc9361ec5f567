//! Bodies: cut, slow, wrong.

use super::{Bend, Case, Change as _, case, cut_then, honest, weights};
use crate::hub::{Answer, Pace};

/// What passes when one has patience.
pub(super) fn patience() -> Vec<Case> {
    let with = |case: Case, bend: Bend| Case { bend, ..case };
    vec![
        with(case("cut connection", 0, &[], honest), cut_then(|_, answer| answer)),
        with(
            case("cut at every half", 0, &[], honest),
            weights(|_, answer| {
                // Each attempt brings a megabyte or the rest.
                answer.paced(Pace::Cut(1 << 20))
            }),
        ),
        with(
            case("changed ETag in a partial answer", 0, &["the file changed while it was fetched"], honest),
            cut_then(|asked, answer| {
                if asked.headers.contains_key("range") { answer.with("ETag", "\"another\"") } else { answer }
            }),
        ),
        with(
            case("changed ETag, whole answer", 0, &[], honest),
            cut_then(|_, answer| Answer { status: 200, ..answer.with("ETag", "\"another\"") }).map_whole(),
        ),
        with(
            case("wrong content range", 0, &["got content range"], honest),
            cut_then(|asked, answer| {
                if asked.headers.contains_key("range") {
                    answer.with("Content-Range", "bytes 0-9/10")
                } else {
                    answer
                }
            }),
        ),
        with(
            case("range not satisfiable", 0, &["got status 416"], honest),
            cut_then(
                |asked, answer| {
                    if asked.headers.contains_key("range") { Answer::new(416, "") } else { answer }
                },
            ),
        ),
        with(
            case("weak ETag", 0, &[], honest),
            cut_then(|asked, answer| {
                assert!(!asked.headers.contains_key("range"), "a weak tag says nothing about bytes");
                answer
            })
            .weak(),
        ),
        with(
            case("no content length", 0, &[], honest),
            weights(|_, answer| Answer { chunked: true, ..answer }),
        ),
        with(
            case("busy, retry after", 0, &["got status 429", "tried again after 1.0 s"], honest),
            weights(
                |asked, answer| {
                    if asked.nth == 0 { Answer::new(429, "").with("Retry-After", 1) } else { answer }
                },
            ),
        ),
        with(
            case("server error, then well", 0, &["got status 503"], honest),
            weights(|asked, answer| if asked.nth == 0 { Answer::new(503, "") } else { answer }),
        ),
        with(
            case("expired signed address", 0, &["got status 403"], honest),
            weights(|asked, answer| if asked.nth == 0 { Answer::new(403, "") } else { answer }),
        ),
        case("dropped connection, then well", 0, &[], |asked, answer| {
            if asked.nth == 0 && asked.wants_list() { answer.paced(Pace::Cut(10)) } else { answer }
        }),
    ]
}

/// What does not pass.
pub(super) fn transfers() -> Vec<Case> {
    let with = |case: Case, bend: Bend| Case { bend, ..case };
    vec![
        with(
            case(
                "cut again and again",
                20,
                &["broken off after 500 bytes", "gave up after 3 attempts"],
                honest,
            ),
            weights(|_, answer| answer.paced(Pace::Cut(500))),
        ),
        with(
            case("shorter than listed", 20, &["got content length 1000, expected 3145728"], honest),
            weights(|_, answer| Answer::new(200, &answer.body[..1000])),
        ),
        with(
            case("longer than listed", 20, &["got content length 3145729"], honest),
            weights(|_, answer| Answer { body: [answer.body, vec![0]].concat(), ..answer }),
        ),
        with(
            case("endless body", 20, &["got more than 3145728 bytes"], honest),
            weights(|_, answer| Answer { body: answer.body.repeat(2), chunked: true, ..answer }),
        ),
        with(
            case("declared shorter than sent", 20, &["got content length 10,"], honest),
            weights(|_, answer| answer.with("Content-Length", 10)),
        ),
        with(
            case("unasked partial answer", 20, &["got status 206"], honest),
            weights(|_, answer| Answer { status: 206, ..answer }),
        ),
        with(
            case("other bytes of the same length", 20, &["got sha256", "expected the hub's"], honest),
            weights(|_, mut answer| {
                answer.body[77] ^= 1;
                answer
            }),
        ),
        case(
            "other bytes of a small file",
            20,
            &["config.json: got another git blob"],
            |asked, mut answer| {
                if asked.path.ends_with("/config.json") {
                    answer.body[0] ^= 1
                };
                answer
            },
        ),
        with(
            case("compressed body", 20, &["got content encoding \"gzip\""], honest),
            weights(|_, answer| answer.with("Content-Encoding", "gzip")),
        ),
        case("another commit", 20, &["got commit `main`"], |asked, answer| {
            if asked.wants_list() { answer.with("X-Repo-Commit", "main") } else { answer }
        }),
        with(
            case("slow loris in the body", 20, &["stalled: got"], honest),
            weights(|_, answer| answer.paced(Pace::DripBody)),
        ),
        with(
            case("slow loris in the head", 20, &["gave up"], honest),
            weights(|_, answer| answer.paced(Pace::DripHead)),
        ),
        with(case("silence", 20, &["gave up"], honest), weights(|_, answer| answer.paced(Pace::Silent))),
        case("flood of headers", 20, &[], |asked, answer| {
            if asked.wants_list() {
                (0..3000).fold(answer, |a, i| a.with(&format!("X-Flood-{i}"), "x".repeat(100)))
            } else {
                answer
            }
        }),
        with(
            case("retry after a day", 20, &["asks to wait 86400 s"], honest),
            weights(|_, _| Answer::new(429, "").with("Retry-After", 86_400)),
        ),
        with(
            case("server error for ever", 20, &["got status 500", "gave up"], honest),
            weights(|_, _| Answer::new(500, "")),
        ),
        with(case("teapot", 20, &["got status 418"], honest), weights(|_, _| Answer::new(418, ""))),
    ]
}

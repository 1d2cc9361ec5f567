//! Redirects, licences, tokens.

use super::{Bend, Case, case, entry, honest, weights};
use crate::{hub::Answer, scratch::TOKEN};

/// Redirects and access.
pub(super) fn access() -> Vec<Case> {
    let with = |case: Case, bend: Bend| Case { bend, ..case };
    let without_token = |case: Case| Case { token: false, ..case };
    vec![
        // Redirects.
        with(
            case("redirect to plain http elsewhere", 20, &["redirect to `http://192.0.2.1/x`"], honest),
            weights(|_, _| {
                Answer::new(302, "").with("Location", "http://192.0.2.1/x?Signature=signed-address")
            }),
        ),
        with(
            case("redirect to a file", 20, &["redirect to `file:///etc/passwd`"], honest),
            weights(|_, _| Answer::new(302, "").with("Location", "file:///etc/passwd")),
        ),
        with(
            case("redirect with a user name", 20, &["without a user name"], honest),
            weights(|_, _| Answer::new(302, "").with("Location", "https://user:pass@192.0.2.1/")),
        ),
        with(
            case("redirect to nowhere", 20, &["redirect to ``"], honest),
            weights(|_, _| Answer::new(302, "")),
        ),
        with(
            case("redirect loop", 20, &["more than 5 redirects"], honest),
            weights(|asked, _| Answer::new(307, "").with("Location", &asked.path)),
        ),
        case("redirect to another origin", 0, &[], |_, answer| answer),
        // Access.
        without_token(case(
            "gated, no token",
            21,
            &[
                "access denied",
                "accept its licence at http://127.0.0.1",
                "/acme/tiny-llama",
                "export HF_TOKEN=...",
            ],
            |asked, answer| {
                if asked.path.contains("/resolve/") {
                    Answer::new(401, "").with("X-Error-Code", "GatedRepo")
                } else {
                    answer
                }
            },
        )),
        case(
            "gated, no grant",
            21,
            &["the token from HF_TOKEN is known", "accept the licence at http://127.0.0.1"],
            |asked, answer| {
                if asked.path.contains("/resolve/") {
                    Answer::new(403, "").with("X-Error-Code", "GatedRepo")
                } else {
                    answer
                }
            },
        ),
        case("invalid token", 21, &["not valid or has expired"], |_, _| Answer::new(401, "")),
        without_token(case("private, no token", 21, &["make a read token at http://127.0.0.1"], |_, _| {
            Answer::new(401, "")
        })),
        case("token echoed in an error", 21, &["[token]"], |_, _| {
            Answer::new(403, "").with("X-Error-Message", format!("bad token {TOKEN}"))
        }),
        with(
            case("terminal escapes in a list", 20, &["list of files: `[31mred`: its lfs oid"], honest),
            entry(|entry| {
                entry["path"] = "\u{1b}[31mred".into();
                entry["lfs"]["oid"] = "x".into();
            }),
        ),
    ]
}

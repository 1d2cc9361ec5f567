//! A bundle from an address.
//!
//! **Invariant:** no token of any kind goes to it.

use camino::Utf8PathBuf;
use model_assets::{digest::Digest, limits::BUNDLE_BYTES_MAX};
use ureq::http::HeaderMap;

use crate::{
    console::Console,
    exit::Failure,
    http::{
        client::{Client, Refused, Site},
        download,
        endpoint::{Endpoint, printable},
        fault::{Fault, Patience},
        progress::Progress,
        wanted::{Listed, Pin, Size, Wanted},
    },
};

use super::Work;

/// Compression makes noise at most this much longer.
const BYTES_MAX: u64 = BUNDLE_BYTES_MAX + BUNDLE_BYTES_MAX / 1000 + (1 << 20);

/// A server that is asked for one file, without a token.
struct Anyone;

impl Site for Anyone {
    fn check(&self, _: &HeaderMap) -> Result<(), String> {
        Ok(())
    }

    fn no_access(&self, refused: Refused<'_>) -> Fault {
        let hint = "no login or token is sent to an address: fetch the bundle with what has access, then: cargo xtask fetch FILE";
        Fault::Fatal { error: refused.error, hint: Some(hint.to_owned()) }
    }

    fn missing(&self, refused: Refused<'_>) -> Fault {
        Fault::Fatal { error: refused.error, hint: Some("correct the address".to_owned()) }
    }
}

/// Makes the bundle of an address a file; its name says nothing that the server chose.
pub(super) fn download(
    text: &str,
    sha256: Option<Digest>,
    patience: Patience,
    work: &Work,
    console: &Console,
) -> Result<Utf8PathBuf, Failure> {
    let again = format!("cargo xtask fetch {}", printable(text));
    let fetch = || -> Result<Utf8PathBuf, Fault> {
        let (endpoint, url) = Endpoint::of(text)?;
        let client = Client::new(endpoint, None, patience, Anyone)?;
        let folder = work.download(text)?;
        let pin = sha256.map(|sha256| Pin { sha256, whose: "--sha256" });
        let name = "bundle.tar.gz".to_owned();
        let wanted = Wanted { name, size: Size::AtMost(BYTES_MAX), listed: Listed::Nothing, pin };
        let mut progress = Progress::new(console);
        let mut seen = |bytes, total, failed: Option<&str>| progress.seen(&wanted.name, bytes, total, failed);
        download::file(&client, &url, &folder, &wanted, &mut seen)?;
        progress.finish();
        Ok(download::path(&folder, &wanted))
    };
    fetch().map_err(|fault| fault.into_failure(&again))
}

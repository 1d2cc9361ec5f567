//! Which certificate authorities are trusted: as in curl, so that a company names its own authority once for all programs.
//!
//! **Invariant:** a variable that names authorities replaces all others. One that names none that can be read is an error; there
//! is no fall-back.

use std::fs;

use anyhow::{Context as _, ensure};
use camino::{Utf8Path, Utf8PathBuf};
use ureq::tls::{Certificate, PemItem, RootCerts, parse_pem};

/// Files of authorities: the first that is set counts. curl asks its own variable first; here the one that all programs share
/// does, so that naming an authority for one command needs no second variable put aside.
const FILES: [&str; 2] = ["SSL_CERT_FILE", "CURL_CA_BUNDLE"];
/// Folders of authorities, as OpenSSL lists them.
const FOLDERS: &str = "SSL_CERT_DIR";
/// Where systems keep what their administrator believes; authorities of a company are added there.
const SYSTEM: [&str; 4] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];
/// What to do about an authority that is not believed.
pub(crate) const HINT: &str = "if the authority is your company's, name its certificate, a file of PEM blocks: SSL_CERT_FILE=/path/to/ca.pem";

/// The authorities that are believed.
///
/// # Errors
/// A variable that names no certificate.
pub(crate) fn roots(env: &impl Fn(&str) -> Option<String>) -> anyhow::Result<RootCerts> {
    let set = |name: &str| env(name).filter(|value| !value.trim().is_empty());
    if let Some((name, path)) = FILES.iter().find_map(|name| Some((name, set(name)?))) {
        let found = of_file(Utf8Path::new(&path)).with_context(|| (*name).to_owned())?;
        ensure!(!found.is_empty(), "{name}: {path}: got no certificate, expected PEM blocks");
        return Ok(RootCerts::new_with_certs(&found));
    }
    if let Some(folders) = set(FOLDERS) {
        let found = of_folders(&folders).with_context(|| FOLDERS.to_owned())?;
        ensure!(!found.is_empty(), "{FOLDERS}: {folders}: got no certificate, expected files of PEM blocks");
        return Ok(RootCerts::new_with_certs(&found));
    }
    let system = SYSTEM.iter().filter_map(|path| of_file(Utf8Path::new(path)).ok());
    let found = system.into_iter().find(|found| !found.is_empty());
    Ok(found.map_or(RootCerts::WebPki, |found| RootCerts::new_with_certs(&found)))
}

fn of_file(path: &Utf8Path) -> anyhow::Result<Vec<Certificate<'static>>> {
    let bytes = fs::read(path).with_context(|| format!("{path}: cannot be read"))?;
    let mut found = Vec::new();
    for item in parse_pem(&bytes) {
        if let PemItem::Certificate(certificate) =
            item.with_context(|| format!("{path}: a block is broken"))?
        {
            found.push(certificate);
        }
    }
    Ok(found)
}

fn of_folders(folders: &str) -> anyhow::Result<Vec<Certificate<'static>>> {
    let mut found = Vec::new();
    for folder in folders.split(':').filter(|folder| !folder.is_empty()).map(Utf8PathBuf::from) {
        for entry in folder.read_dir_utf8().with_context(|| format!("{folder}: cannot be read"))? {
            let path = entry?.into_path();
            // Other files may lie there; a link to one that went away too.
            found.extend(path.is_file().then(|| of_file(&path).ok()).flatten().unwrap_or_default());
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(name: &str, value: &str) -> anyhow::Result<RootCerts> {
        roots(&|asked| (asked == name).then(|| value.to_owned()))
    }

    #[test]
    fn a_file_that_names_nobody_is_refused_and_nobody_else_is_believed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ca.pem");
        let path = path.to_str().unwrap();
        for name in FILES {
            let error = format!("{:#}", asked(name, path).unwrap_err());
            assert!(error.starts_with(&format!("{name}: {path}: cannot be read")), "{error}");
        }
        fs::write(path, "no block").unwrap();
        for (name, value) in [(FILES[0], path), (FILES[1], path), (FOLDERS, folder.path().to_str().unwrap())]
        {
            let error = format!("{:#}", asked(name, value).unwrap_err());
            assert!(error.contains("got no certificate"), "{error}");
        }
        // What stands between the lines is the TLS library's to judge.
        fs::write(path, "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n").unwrap();
        for (name, value) in [(FILES[0], path), (FOLDERS, folder.path().to_str().unwrap())] {
            assert!(matches!(asked(name, value).unwrap(), RootCerts::Specific(found) if found.len() == 1));
        }
        assert!(asked("SSL_CERT_FILE", " ").is_ok(), "as if it were not set");
    }
}

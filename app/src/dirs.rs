//! The default folders of the app, for hosts that name none.

use camino::{Utf8Path, Utf8PathBuf};

const NAME: &str = "proofmark";

/// The folder of conversations: `$XDG_DATA_HOME`, or where the platform has it.
pub fn data() -> Option<Utf8PathBuf> {
    folder("XDG_DATA_HOME", ".local/share", "Library/Application Support")
}

/// The folder of what can be made again: packed weights, and the stamp of the installed model.
pub fn cache() -> Option<Utf8PathBuf> {
    folder("XDG_CACHE_HOME", ".cache", "Library/Caches")
}

/// The folder where people look for documents, if there is one. On iOS the Files app shows it.
pub fn documents() -> Option<Utf8PathBuf> {
    let folder = Utf8PathBuf::from(home()?).join("Documents");
    (cfg!(target_os = "ios") || folder.is_dir()).then_some(folder)
}

fn home() -> Option<String> {
    absolute("HOME")
}

fn absolute(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| Utf8Path::new(value).is_absolute())
}

fn folder(variable: &str, elsewhere: &str, apple: &str) -> Option<Utf8PathBuf> {
    let in_home = if cfg!(target_vendor = "apple") { apple } else { elsewhere };
    let folder = match absolute(variable) {
        Some(folder) => Utf8PathBuf::from(folder),
        None => Utf8PathBuf::from(home()?).join(in_home),
    };
    Some(folder.join(NAME))
}

//! The folder of a new model, which appears whole or not at all.

use std::fs;

use anyhow::{Context as _, ensure};
use camino::{Utf8Path, Utf8PathBuf};
use model_assets::dir::RECIPE_FILE;
use rustix::{
    fs::{CWD, RenameFlags, renameat_with},
    io::Errno,
};

use crate::atomic_file;

use super::{
    facts::Facts,
    names::{AGREEMENT, LINK, NOTICE, TEMPLATE, TOKENIZER},
};

/// What is in it.
pub(super) struct Folder<'a> {
    texts: Vec<(&'static str, String)>,
    link: Option<&'a Utf8Path>,
    /// Of a checkpoint on this machine: whoever clones the repository finds it beside the recipe.
    pub(super) tokenizer: Option<Vec<u8>>,
}

impl<'a> Folder<'a> {
    pub(super) fn new(recipe: &str, facts: &Facts, link: Option<&'a Utf8Path>) -> Self {
        let mut texts = vec![(RECIPE_FILE, recipe.to_owned()), (TEMPLATE, facts.chat_template.clone())];
        texts.extend(facts.agreement.clone().map(|text| (AGREEMENT, text)));
        texts.extend(facts.notice().map(|text| (NOTICE, format!("{text}\n"))));
        Self { texts, link, tokenizer: None }
    }

    /// Every file with its text, on standard output.
    pub(super) fn print(&self, place: &Utf8Path) {
        for (name, text) in &self.texts {
            println!("{place}/{name}:\n\n{}\n", text.trim_end());
        }
        if let Some(bytes) = &self.tokenizer {
            println!("{place}/{}: {} bytes", TOKENIZER, bytes.len());
        }
        if let Some(link) = self.link {
            println!("{place}/{LINK}: a link to {link}");
        }
    }

    pub(super) fn write(&self, place: &Utf8Path) -> anyhow::Result<()> {
        let models = atomic_file::folder(place);
        let sibling = models.join(format!(".new-{}", place.file_name().unwrap_or_default()));
        // What a killed command left.
        atomic_file::remove(&sibling)?;
        let outcome = self.fill(&sibling).and_then(|()| put(&sibling, place));
        if outcome.is_err() {
            atomic_file::remove(&sibling)?;
        }
        outcome?;
        fs::File::open(models)?.sync_all().with_context(|| format!("{models}: cannot be synced"))
    }

    fn fill(&self, folder: &Utf8Path) -> anyhow::Result<()> {
        fs::create_dir(folder).with_context(|| format!("{folder}: cannot be made"))?;
        let texts = self.texts.iter().map(|(name, text)| (*name, text.as_bytes()));
        let tokenizer = self.tokenizer.iter().map(|bytes| (TOKENIZER, bytes.as_slice()));
        for (name, bytes) in texts.chain(tokenizer) {
            let path: Utf8PathBuf = folder.join(name);
            let written = fs::write(&path, bytes).and_then(|()| fs::File::open(&path)?.sync_all());
            written.with_context(|| format!("{path}: cannot be written"))?;
        }
        if let Some(link) = self.link {
            let path = folder.join(LINK);
            std::os::unix::fs::symlink(link, &path).with_context(|| format!("{path}: cannot be made"))?;
        }
        fs::File::open(folder)?.sync_all().with_context(|| format!("{folder}: cannot be synced"))
    }
}

/// Gives the folder its name, if nobody has it.
fn put(sibling: &Utf8Path, place: &Utf8Path) -> anyhow::Result<()> {
    let flags = RenameFlags::NOREPLACE;
    match renameat_with(CWD, sibling.as_std_path(), CWD, place.as_std_path(), flags) {
        Ok(()) => Ok(()),
        // A file system that cannot say so.
        Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => {
            ensure!(place.symlink_metadata().is_err(), "{place}: got a model of this name, expected none");
            fs::rename(sibling, place).with_context(|| format!("{place}: cannot be put in place"))
        }
        Err(errno) => Err(errno).with_context(|| format!("{place}: cannot be put in place")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_there_stays_and_nothing_is_left_beside_it() {
        let scratch = tempfile::tempdir().unwrap();
        let models = Utf8Path::from_path(scratch.path()).unwrap();
        let place = models.join("m");
        let new =
            Folder { texts: vec![("recipe.toml", "new".to_owned())], link: Some(models), tokenizer: None };
        fs::create_dir(&place).unwrap();
        // Empty: a plain rename would replace it.
        new.write(&place).unwrap_err();
        assert_eq!(models.read_dir_utf8().unwrap().count(), 1);
        assert_eq!(place.read_dir_utf8().unwrap().count(), 0);
        fs::remove_dir(&place).unwrap();
        fs::create_dir(models.join(".new-m")).unwrap();
        new.write(&place).unwrap();
        assert_eq!(fs::read_to_string(place.join("recipe.toml")).unwrap(), "new");
        assert_eq!(fs::read_link(place.join(LINK)).unwrap(), models);
        assert_eq!(models.read_dir_utf8().unwrap().count(), 1);
    }
}

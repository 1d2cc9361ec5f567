//! The pages hold together: links lead somewhere, the index has every page, and the commands that are named exist.
#![expect(clippy::unwrap_used, reason = "helpers of a test fail by panicking")]

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()
}

/// README and pages, by their path in the repository.
fn pages() -> Vec<(String, String)> {
    let mut names = vec!["README.md".to_owned()];
    for entry in fs::read_dir(root().join("docs")).unwrap().flatten() {
        let name = entry.file_name().into_string().unwrap();
        names.extend(name.ends_with(".md").then(|| format!("docs/{name}")));
    }
    names.sort();
    names.into_iter().map(|name| (name.clone(), fs::read_to_string(root().join(name)).unwrap())).collect()
}

/// What GitHub makes of a heading.
fn anchor(heading: &str) -> String {
    let kept = |letter: &char| letter.is_alphanumeric() || matches!(letter, ' ' | '-' | '_');
    heading.trim().to_lowercase().chars().filter(kept).map(|it| if it == ' ' { '-' } else { it }).collect()
}

#[test]
fn every_link_leads_to_a_page_and_a_heading() {
    for (page, text) in pages() {
        for link in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            if link.contains("://") {
                continue;
            }
            let (path, heading) = link.split_once('#').unwrap_or((link, ""));
            let target: PathBuf = match path {
                "" => root().join(&page),
                path => root().join(&page).parent().unwrap().join(path),
            };
            assert!(target.exists(), "{page}: {link} leads nowhere");
            if !heading.is_empty() {
                let target = fs::read_to_string(target).unwrap();
                let mut headings = target.lines().filter_map(|line| line.strip_prefix('#'));
                let found = headings.any(|line| anchor(line.trim_start_matches('#')) == heading);
                assert!(found, "{page}: {link} has no such heading");
            }
        }
    }
}

#[test]
fn the_index_has_every_page_once() {
    let index = fs::read_to_string(root().join("docs/README.md")).unwrap();
    for (page, _) in pages() {
        if let Some(name) = page.strip_prefix("docs/").filter(|name| *name != "README.md") {
            let rows =
                index.lines().filter(|line| line.starts_with("| [") && line.contains(&format!("]({name})")));
            assert_eq!(rows.count(), 1, "docs/README.md: rows of {name}");
        }
    }
}

#[test]
fn the_commands_that_are_named_exist() {
    let list = fs::read_to_string(root().join("docs/commands.md")).unwrap();
    let commands: BTreeSet<&str> = list
        .lines()
        .filter_map(|line| line.strip_prefix("| `cargo xtask ")?.split(['`', ' ']).next())
        .collect();
    let developers =
        list.lines().filter_map(|line| line.strip_prefix("| `cargo xtask dev ")?.split(['`', ' ']).next());
    let developers: BTreeSet<&str> = developers.collect();
    let mut texts = pages();
    for folder in [".github/workflows", ".ci"] {
        for entry in fs::read_dir(root().join(folder)).unwrap().flatten() {
            texts.push((entry.path().display().to_string(), fs::read_to_string(entry.path()).unwrap()));
        }
    }
    for entry in
        ["xtask/src", "model-assets/src", "app"].iter().flat_map(|it| walkdir::WalkDir::new(root().join(it)))
    {
        let path = entry.unwrap().into_path();
        if path.extension().is_some_and(|it| it == "rs") {
            texts.push((path.display().to_string(), fs::read_to_string(path).unwrap()));
        }
    }
    let mut seen = 0;
    for (page, text) in &texts {
        for (at, mark) in text.match_indices("cargo xtask ") {
            let (before, rest) = (&text[..at], &text[at + mark.len()..]);
            let word = |text: &str| -> String {
                text.chars().take_while(|letter| letter.is_ascii_lowercase() || *letter == '-').collect()
            };
            let name = word(rest);
            // A command that somebody can type, not prose: quoted, after `run: `, or on a line of its own.
            let typed = before.ends_with(['`', '\n']) || before.ends_with("run: ");
            if !typed || name.is_empty() || name.starts_with('-') {
                continue;
            }
            seen += 1;
            assert!(commands.contains(name.as_str()), "{page}: `cargo xtask {name}`");
            if name == "dev" {
                let name = word(rest[3..].trim_start());
                assert!(
                    name.is_empty() || developers.contains(name.as_str()),
                    "{page}: `cargo xtask dev {name}`"
                );
            }
        }
    }
    assert!(seen > 100, "got {seen}");
}

//! No two modules side by side need each other, directly or around corners: what one needs of the other belongs below both.
//!
//! A module and its own children may: they are one thing in several files. Tests of a module are left out.
#![expect(clippy::unwrap_used, reason = "helpers of a test fail by panicking")]

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
};

const CRATES: [&str; 5] = ["model-assets/src", "xtask/src", "app/src", "app/engine/src", "app/reserve/src"];

/// A module by its path; the crate's root is empty.
type Module = Vec<String>;
/// Who needs whom beside it, and the first file that shows it.
type Needs = BTreeMap<Module, BTreeMap<Module, String>>;

#[test]
fn no_circle_between_modules_side_by_side() {
    let mut found = BTreeSet::new();
    for root in CRATES {
        let needs = needs(&Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(root));
        for (one, others) in &needs {
            let circles = others.iter().filter(|(other, _)| reaches(&needs, other, one));
            found.extend(circles.map(|(other, file)| {
                (format!("{root}: {} -> {}", one.join("::"), other.join("::")), file.clone())
            }));
        }
    }
    assert!(found.is_empty(), "each of these is a part of a circle: {found:#?}");
}

/// Whether there is a way from one module to another.
fn reaches(needs: &Needs, from: &Module, to: &Module) -> bool {
    let (mut seen, mut open) = (BTreeSet::new(), vec![from]);
    while let Some(at) = open.pop() {
        if at == to {
            return true;
        }
        if seen.insert(at) {
            open.extend(needs.get(at).into_iter().flat_map(BTreeMap::keys));
        }
    }
    false
}

fn needs(root: &Path) -> Needs {
    let mut files = Vec::new();
    collect(root, &mut Vec::new(), &mut files);
    let modules: BTreeSet<_> = files.iter().map(|(module, _)| module.clone()).collect();
    assert!(modules.len() > 1, "{}: no modules", root.display());
    let mut needs = Needs::new();
    for (module, text) in &files {
        for path in paths(text) {
            let Some(target) = resolve(module, &path, &modules) else { continue };
            // The first place where the two part: what is above it is common to both.
            let common = module.iter().zip(&target).take_while(|(a, b)| a == b).count();
            if common < module.len() && common < target.len() {
                let (one, other) = (module[..=common].to_vec(), target[..=common].to_vec());
                needs.entry(one).or_default().entry(other).or_insert_with(|| module.join("/"));
            }
        }
    }
    needs
}

/// Every module below a folder with the text of its file, without tests.
fn collect(folder: &Path, at: &mut Module, files: &mut Vec<(Module, String)>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
        if name == "tests" || name.ends_with("_tests") || (at.is_empty() && name == "bin") {
            continue;
        }
        let own = ["mod", "lib", "main"].contains(&name.as_str());
        at.push(name);
        if path.is_dir() {
            collect(&path, at, files);
        } else if path.extension().is_some_and(|it| it == "rs") {
            let module = at[..at.len() - usize::from(own)].to_vec();
            let text = fs::read_to_string(&path).unwrap();
            let text = text.split("\n#[cfg(test)]\nmod tests {").next().unwrap_or_default();
            files.push((module, text.lines().map(|it| it.split("//").next().unwrap_or_default()).collect()));
        }
        at.pop();
    }
}

/// Every path that begins at the crate or above the module: those of `use`, and those that are written out.
fn paths(text: &str) -> Vec<Module> {
    let mut found = Vec::new();
    for start in ["crate::", "super::"] {
        for (at, _) in text.match_indices(start) {
            let before = text[..at].chars().next_back().unwrap_or(' ');
            if !before.is_alphanumeric() && !['_', ':', '$'].contains(&before) {
                expand(&mut Vec::new(), tree(&text[at..]), &mut found);
            }
        }
    }
    found
}

/// The path, with its braces to the last one.
fn tree(text: &str) -> &str {
    let mut depth = 0_usize;
    let end = text.char_indices().find_map(|(at, it)| {
        match it {
            '{' => depth += 1,
            '}' if depth <= 1 => return Some(if depth == 1 { at + 1 } else { at }),
            '}' => depth -= 1,
            ':' | '_' | '*' => {}
            _ if depth > 0 || it.is_alphanumeric() => {}
            _ => return Some(at),
        }
        None
    });
    &text[..end.unwrap_or(text.len())]
}

/// The single paths of a tree such as `a::{b, c::{d, e}}`.
fn expand(before: &mut Module, tree: &str, found: &mut Vec<Module>) {
    let (path, inner) = tree.split_once('{').map_or((tree, None), |(path, inner)| (path, Some(inner)));
    let path = path.split(" as ").next().unwrap_or_default();
    let count = before.len();
    before.extend(path.split("::").map(str::trim).filter(|it| !it.is_empty()).map(str::to_owned));
    match inner.and_then(|inner| inner.trim_end().strip_suffix('}')) {
        None => found.push(before.clone()),
        Some(inner) => {
            let (mut depth, mut start) = (0_usize, 0);
            for (at, it) in inner.char_indices().chain([(inner.len(), ',')]) {
                match it {
                    '{' => depth += 1,
                    '}' => depth = depth.saturating_sub(1),
                    ',' if depth == 0 => {
                        if !inner[start..at].trim().is_empty() {
                            expand(before, inner[start..at].trim(), found);
                        }
                        start = at + 1;
                    }
                    _ => {}
                }
            }
        }
    }
    before.truncate(count);
}

/// The module that a path leads into.
fn resolve(module: &Module, path: &[String], modules: &BTreeSet<Module>) -> Option<Module> {
    let mut at = if path.first()? == "crate" { Vec::new() } else { module.clone() };
    for part in path {
        match part.as_str() {
            "crate" | "self" => {}
            "super" => drop(at.pop()),
            name => {
                at.push(name.to_owned());
                if !modules.contains(&at) {
                    at.pop();
                    break;
                }
            }
        }
    }
    Some(at)
}

#[test]
fn a_tree_of_uses_is_read_to_its_leaves() {
    let text = "use crate::{a::{self, b::C as D}, e};use super::f::g;x(crate::h::i(1));";
    let found: Vec<_> = paths(text).iter().map(|path| path.join("::")).collect();
    let expected = ["crate::a::self", "crate::a::b::C", "crate::e", "crate::h::i", "super::f::g"];
    assert_eq!(found, expected);
}

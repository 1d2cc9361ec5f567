//! The instructions of IFEval that a program can check without a language model or a library.
//!
//! **Invariant:** an item with an unknown instruction is left out; it never counts as followed.

use anyhow::Context as _;
use camino::Utf8Path;
use serde::Deserialize;
use serde_json::{Map, Value};

/// Longest prompt that is asked, characters: prompt and reply must fit the smallest window in use.
const PROMPT_CHARS_MAX: usize = 900;

/// A prompt and what its reply must be.
#[derive(Debug, Clone)]
pub(super) struct Item {
    pub(super) id: String,
    pub(super) prompt: String,
    rules: Vec<Rule>,
}

impl Item {
    /// Whether a reply follows every instruction, as published: strictly, as it is.
    pub(super) fn followed(&self, reply: &str) -> bool {
        self.rules.iter().all(|rule| rule.holds(reply))
    }
}

#[derive(Debug, Clone)]
enum Rule {
    NoComma,
    Words { at_least: bool, count: usize },
    Lowercase,
    Capital,
    Keywords(Vec<String>),
    Forbidden(Vec<String>),
    Frequency { keyword: String, at_least: bool, count: usize },
    Title,
    Bullets(usize),
    Placeholders(usize),
    Paragraphs(usize),
    Ends(String),
    Quoted,
    Json,
}

#[derive(Deserialize)]
struct Line {
    key: u64,
    prompt: String,
    instruction_id_list: Vec<String>,
    kwargs: Vec<Map<String, Value>>,
}

/// The items of a file all of whose instructions are known.
pub(super) fn items(path: &Utf8Path) -> anyhow::Result<Vec<Item>> {
    let text = std::fs::read_to_string(path).with_context(|| format!("{path}: cannot be read"))?;
    let mut found = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let line: Line =
            serde_json::from_str(line).with_context(|| format!("{path}: line {}", number + 1))?;
        let pairs = line.instruction_id_list.iter().zip(&line.kwargs);
        let rules: Option<Vec<_>> = pairs.map(|(id, arguments)| Rule::of(id, arguments)).collect();
        let whole = !line.kwargs.is_empty() && line.kwargs.len() == line.instruction_id_list.len();
        if let Some(rules) = rules
            && whole
            && line.prompt.chars().count() <= PROMPT_CHARS_MAX
        {
            found.push(Item { id: format!("ifeval-{}", line.key), prompt: line.prompt, rules });
        }
    }
    Ok(found)
}

impl Rule {
    fn of(id: &str, arguments: &Map<String, Value>) -> Option<Self> {
        let count = |key: &str| arguments.get(key)?.as_u64().and_then(|n| usize::try_from(n).ok());
        let text = |key: &str| arguments.get(key)?.as_str().map(str::to_owned);
        let texts = |key: &str| {
            let list = arguments.get(key)?.as_array()?;
            list.iter().map(|it| it.as_str().map(str::to_owned)).collect::<Option<Vec<_>>>()
        };
        let at_least = |key: &str| match text(key)?.as_str() {
            "at least" => Some(true),
            "less than" => Some(false),
            _ => None,
        };
        Some(match id {
            "punctuation:no_comma" => Self::NoComma,
            "length_constraints:number_words" => {
                Self::Words { at_least: at_least("relation")?, count: count("num_words")? }
            }
            "change_case:english_lowercase" => Self::Lowercase,
            "change_case:english_capital" => Self::Capital,
            "keywords:existence" => Self::Keywords(texts("keywords")?),
            "keywords:forbidden_words" => Self::Forbidden(texts("forbidden_words")?),
            "keywords:frequency" => Self::Frequency {
                keyword: text("keyword")?,
                at_least: at_least("relation")?,
                count: count("frequency")?,
            },
            "detectable_format:title" => Self::Title,
            "detectable_format:number_bullet_lists" => Self::Bullets(count("num_bullets")?),
            "detectable_content:number_placeholders" => Self::Placeholders(count("num_placeholders")?),
            "length_constraints:number_paragraphs" => Self::Paragraphs(count("num_paragraphs")?),
            "startend:end_checker" => Self::Ends(text("end_phrase")?),
            "startend:quotation" => Self::Quoted,
            "detectable_format:json_format" => Self::Json,
            _ => return None,
        })
    }

    fn holds(&self, reply: &str) -> bool {
        let lower = reply.to_lowercase();
        let enough =
            |at_least: bool, got: usize, count: usize| if at_least { got >= count } else { got < count };
        match self {
            Self::NoComma => !reply.contains(','),
            Self::Words { at_least, count } => enough(*at_least, words(reply).count(), *count),
            Self::Lowercase => reply.chars().any(char::is_alphabetic) && reply == lower,
            Self::Capital => reply.chars().any(char::is_alphabetic) && reply == reply.to_uppercase(),
            Self::Keywords(keywords) => keywords.iter().all(|word| lower.contains(&word.to_lowercase())),
            Self::Forbidden(forbidden) => {
                let said: Vec<_> = words(&lower).collect();
                // A phrase is looked for as it is.
                let has = |word: &String| {
                    let word = word.to_lowercase();
                    if word.contains(' ') { lower.contains(&word) } else { said.contains(&word.as_str()) }
                };
                !forbidden.iter().any(has)
            }
            Self::Frequency { keyword, at_least, count } => {
                enough(*at_least, lower.matches(&keyword.to_lowercase()).count(), *count)
            }
            Self::Title => reply.lines().any(|line| {
                let title = line.split_once("<<").and_then(|(_, rest)| rest.split_once(">>"));
                title.is_some_and(|(title, _)| !title.trim().is_empty())
            }),
            Self::Bullets(count) => reply.lines().filter(|line| is_bullet(line)).count() == *count,
            Self::Placeholders(count) => placeholders(reply) >= *count,
            Self::Paragraphs(count) => {
                let parts: Vec<_> = reply.split("***").map(str::trim).collect();
                // As published: an empty one is let pass at either end only.
                let inner = parts.iter().enumerate().filter(|(_, part)| !part.is_empty()).count();
                let gaps = parts
                    .iter()
                    .enumerate()
                    .any(|(index, part)| part.is_empty() && index != 0 && index + 1 != parts.len());
                !gaps && inner == *count
            }
            Self::Ends(phrase) => {
                lower.trim().trim_matches('"').ends_with(phrase.trim().to_lowercase().as_str())
            }
            Self::Quoted => {
                let reply = reply.trim();
                reply.len() > 1 && reply.starts_with('"') && reply.ends_with('"')
            }
            Self::Json => {
                let reply = reply.trim();
                let inner = reply.strip_prefix("```").map_or(reply, |rest| {
                    let rest = rest.trim_start_matches(|c: char| c.is_ascii_alphabetic());
                    rest.strip_suffix("```").unwrap_or(rest)
                });
                serde_json::from_str::<Value>(inner.trim()).is_ok()
            }
        }
    }
}

fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(|c: char| !(c.is_alphanumeric() || c == '_')).filter(|word| !word.is_empty())
}

fn is_bullet(line: &str) -> bool {
    let line = line.trim_start();
    line.starts_with('-')
        || line.strip_prefix('*').is_some_and(|rest| !rest.is_empty() && !rest.starts_with('*'))
}

fn placeholders(text: &str) -> usize {
    let (mut rest, mut count) = (text, 0);
    while let Some((_, after)) = rest.split_once('[') {
        let Some((_, after)) = after.split_once(']') else { break };
        (rest, count) = (after, count + 1);
    }
    count
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[track_caller]
    fn check(id: &str, arguments: Value, good: &[&str], bad: &[&str]) {
        let rule = Rule::of(id, arguments.as_object().unwrap()).unwrap();
        for reply in good {
            assert!(rule.holds(reply), "{id}: {reply}");
        }
        for reply in bad {
            assert!(!rule.holds(reply), "{id}: {reply}");
        }
    }

    #[test]
    fn each_rule_holds_where_it_should() {
        check("punctuation:no_comma", json!({}), &["Yes. No."], &["Yes, no."]);
        let words = json!({"relation": "at least", "num_words": 3});
        check("length_constraints:number_words", words, &["It's so"], &["two words"]);
        let words = json!({"relation": "less than", "num_words": 3});
        check("length_constraints:number_words", words, &["two words"], &["now there are four"]);
        check("change_case:english_lowercase", json!({}), &["all small, 3."], &["One big", "42"]);
        check("change_case:english_capital", json!({}), &["LOUD, 3."], &["Loud", ""]);
        check("keywords:existence", json!({"keywords": ["tea", "cup"]}), &["A Teacup"], &["tea alone"]);
        let forbidden = json!({"forbidden_words": ["rain"]});
        check("keywords:forbidden_words", forbidden, &["a train"], &["Rain again"]);
        let often = json!({"keyword": "ha", "relation": "at least", "frequency": 3});
        check("keywords:frequency", often, &["Ha ha ha"], &["ha ha"]);
        check(
            "detectable_format:title",
            json!({}),
            &["<<A day>>\nIt was"],
            &["<<>>", "<A day>", "<<A\nday>>"],
        );
        let two = json!({"num_bullets": 2});
        check(
            "detectable_format:number_bullet_lists",
            two,
            &["* a\n * b", "- a\n* b"],
            &["* a", "** a\n* b"],
        );
        let two = json!({"num_placeholders": 2});
        check("detectable_content:number_placeholders", two, &["[name], [day], [x]"], &["[name] [day"]);
        let two = json!({"num_paragraphs": 2});
        check(
            "length_constraints:number_paragraphs",
            two,
            &["a\n***\nb", "a *** b ***"],
            &["a", "a *** *** b"],
        );
        let end = json!({"end_phrase": "Any questions?"});
        check(
            "startend:end_checker",
            end,
            &["So. Any questions? ", "\"Any questions?\""],
            &["Any questions? Yes"],
        );
        check("startend:quotation", json!({}), &[" \"All of it\" "], &["\"", "\"Half of it"]);
        check(
            "detectable_format:json_format",
            json!({}),
            &["{\"a\": 1}", "```json\n[1]\n```"],
            &["a: 1", ""],
        );
    }

    #[test]
    fn items_with_other_instructions_are_left_out() {
        let folder = tempfile::tempdir().unwrap();
        let path = Utf8Path::from_path(folder.path()).unwrap().join("data.jsonl");
        let line = |key: u64, ids: &[&str], kwargs: Value| {
            json!({"key": key, "prompt": "Write.", "instruction_id_list": ids, "kwargs": kwargs}).to_string()
        };
        let lines = [
            line(1, &["punctuation:no_comma"], json!([{}])),
            line(2, &["language:response_language"], json!([{"language": "ar"}])),
            line(3, &["punctuation:no_comma", "keywords:existence"], json!([{}, {"keywords": ["tea"]}])),
            line(4, &["keywords:existence"], json!([{}])),
        ];
        std::fs::write(&path, lines.join("\n")).unwrap();
        let found = items(&path).unwrap();
        let ids: Vec<_> = found.iter().map(|item| item.id.as_str()).collect();
        assert_eq!(ids, ["ifeval-1", "ifeval-3"]);
        assert!(found[1].followed("Tea is good.") && !found[1].followed("Tea, please."));
        std::fs::write(&path, "{}").unwrap();
        assert!(format!("{:#}", items(&path).unwrap_err()).contains("line 1"));
    }
}

//! Constructs and families against what `transformers` rendered, and hostile templates against the limits.
//!
//! What stands in `templates/` as expected is held against `transformers` itself by the tests of `xtask`.

use serde::Deserialize;

use super::{Clock, Data, Fault, Input, Template, judge};

#[derive(Deserialize)]
struct Constructs {
    messages: Data,
    constructs: Vec<Construct>,
}

#[derive(Deserialize)]
struct Construct {
    name: String,
    template: String,
    expected: Option<String>,
}

fn render(source: &str, messages: &Data) -> Result<String, Fault> {
    Template::parse(source)?.render(&Input::of(messages, "<B>", "<E>"))
}

fn plain(source: &str) -> Result<String, Fault> {
    render(source, &serde_json::from_str(r#"[{"role": "user", "content": "Hi"}]"#).unwrap())
}

#[test]
fn constructs_render_as_transformers_renders_them() {
    let all: Constructs = serde_json::from_str(include_str!("../../templates/constructs.json")).unwrap();
    let mut wrong = Vec::new();
    for Construct { name, template, expected } in &all.constructs {
        let got = render(template, &all.messages);
        if got.as_ref().ok() != expected.as_ref() {
            wrong.push(format!("{name}: {template:?}\n   got {got:?}\n   expected {expected:?}"));
        }
    }
    assert!(all.constructs.len() >= 60 && wrong.is_empty(), "{} differ:\n{}", wrong.len(), wrong.join("\n"));
}

#[derive(Deserialize)]
struct Families {
    conversations: Vec<Conversation>,
    renderings: Vec<Expected>,
}

#[derive(Deserialize)]
struct Conversation {
    name: String,
    messages: Data,
    tools: Option<Data>,
}

#[derive(Deserialize)]
struct Expected {
    family: String,
    conversation: String,
    add_generation_prompt: bool,
    expected: Option<String>,
}

fn family(name: &str) -> String {
    let path = format!("{}/templates/families/{name}.jinja", env!("CARGO_MANIFEST_DIR"));
    std::fs::read_to_string(path).unwrap()
}

#[test]
fn families_render_as_transformers_renders_them() {
    let all: Families = serde_json::from_str(include_str!("../../templates/families.json")).unwrap();
    for Expected { family: name, conversation, add_generation_prompt, expected } in &all.renderings {
        let talk = all.conversations.iter().find(|it| it.name == *conversation).unwrap();
        let tools = talk.tools.as_ref().unwrap_or(&Data::Null);
        let input = Input {
            tools,
            add_generation_prompt: *add_generation_prompt,
            ..Input::of(&talk.messages, "<B>", "<E>")
        };
        let got = Template::parse(&family(name)).unwrap().render(&input);
        assert_eq!(got.as_ref().ok(), expected.as_ref(), "{name}, {conversation}: {got:?}");
    }
    let mut names: Vec<_> = all.renderings.iter().map(|it| &it.family).collect();
    names.dedup();
    assert!(names.len() >= 10);
}

#[test]
fn the_reference_conversation_is_rendered_or_refused() {
    for name in ["llama2", "llama3", "gemma2", "mistral", "phi3", "qwen3", "smollm3", "deepseek"] {
        let found = judge(&family(name), "<B>", "<E>").unwrap();
        assert_eq!(found.len(), 3);
        assert_eq!(found.last().unwrap().messages().count(), 3);
    }
    let refused = |source: &str| judge(source, "", "").unwrap_err().to_string();
    assert_eq!(
        refused("a\n{{ 'x'|nosuch }}").split(", expected").next(),
        Some("line 2: got the filter `nosuch`")
    );
    assert_eq!(refused("{{ raise_exception('not me') }}"), "line 1: not me");
    assert_eq!(
        refused("nothing of it"),
        "got a prompt without what the user said last, expected \"What is 2 + 3?\" in it"
    );
    // A template of tool calls cannot open a conversation without tools.
    assert!(refused(&family("hermes")).contains("got a none, expected something to go through"));
}

/// Runs on a stack smaller than the 2 MiB of a Rust thread, which the app renders on; unoptimized code needs most of it.
fn on_a_small_stack<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    std::thread::Builder::new().stack_size(1536 << 10).spawn(work).unwrap().join().unwrap()
}

#[test]
fn shapes_that_exhaust_a_stack_are_refused_with_their_line() {
    let around = |open: &str, middle: &str, close: &str, count: usize| {
        format!("\n{{{{ {}{middle}{} }}}}", open.repeat(count), close.repeat(count))
    };
    let shapes = [
        around("not ", "1", "", 60_000),
        around("-", "1", "", 100_000),
        around("+", "1", "", 100_000),
        around("1+", "1", "", 60_000),
        around("1~", "1", "", 60_000),
        around("1 and ", "1", "", 40_000),
        around("1 or ", "1", "", 40_000),
        around("1<", "1", "", 60_000),
        around("1**", "1", "", 60_000),
        around("(", "1", ")", 60_000),
        around("[", "1", "]", 60_000),
        around("{1:", "1", "}", 40_000),
        around("f(", "1", ")", 60_000),
        around("a[", "1", "]", 60_000),
        around("1 if 1 else ", "1", "", 20_000),
        around("", "a", ".b", 60_000),
        around("", "a", "[0]", 60_000),
        around("", "a", "()", 60_000),
        around("", "a", "|trim", 40_000),
        around("", "a", " is defined", 20_000),
        around("a is in ", "a", "", 20_000),
        format!("\n{}", "{% if 1 %}".repeat(20_000)),
        format!("\n{}", "{% for a in b %}".repeat(10_000)),
        format!("\n{}", "{% macro f() %}".repeat(10_000)),
        format!("\n{}", "{% filter trim %}".repeat(10_000)),
        format!("\n{}", "{% call f() %}".repeat(10_000)),
        format!("\n{}", "{% set a %}".repeat(10_000)),
        format!("\n{{% set {}a{} = 1 %}}", "(".repeat(50_000), ")".repeat(50_000)),
        format!("\n{{% for {}a{} in b %}}", "(".repeat(50_000), ")".repeat(50_000)),
    ];
    for source in shapes {
        let begin: String = source.chars().take(40).collect();
        let fault = on_a_small_stack(move || plain(&source)).unwrap_err();
        assert_eq!(fault.line, 2, "{begin}: {fault}");
    }
}

/// Templates that grow, each refused by a limit.
const GROWING: [&str; 47] = [
    "{% set ns=namespace(x='aaaaaaaaaaaaaaaa') %}{% for i in range(60) %}{% set ns.x = ns.x + ns.x %}{% endfor %}",
    "{% set ns=namespace(x=[1,2,3,4]) %}{% for i in range(60) %}{% set ns.x = ns.x + ns.x %}{% endfor %}",
    "{% set ns=namespace(x=(1,2)) %}{% for i in range(60) %}{% set ns.x = ns.x + ns.x %}{% endfor %}",
    "{% set ns=namespace(x='a') %}{% for i in range(60) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}",
    "{% set ns=namespace(x='a') %}{% for i in range(60) %}{% set t %}{{ ns.x }}{{ ns.x }}{% endset %}{% set ns.x = t %}{% endfor %}",
    "{% set ns=namespace(x='a') %}{% for i in range(60) %}{% set ns.x = [ns.x, ns.x]|join %}{% endfor %}",
    "{% set ns=namespace(x='a') %}{% for i in range(60) %}{% set ns.x = '%s%s'|format(ns.x, ns.x) %}{% endfor %}",
    "{% set ns=namespace(x='a') %}{% for i in range(60) %}{% set ns.x = '{0}{0}'.format(ns.x) %}{% endfor %}",
    "{% set ns=namespace(x='a') %}{% for i in range(60) %}{% set ns.x = ns.x.replace('a', 'aa') %}{% endfor %}",
    "{% set ns=namespace(x='a') %}{% for i in range(60) %}{% set ns.x = ns.x|replace('', 'b') %}{% endfor %}",
    "{% set ns=namespace(x='\"') %}{% for i in range(60) %}{% set ns.x = ns.x|tojson %}{% endfor %}",
    "{% set ns=namespace(x=1) %}{% for i in range(60) %}{% set ns.x = [ns.x, ns.x] %}{% endfor %}{{ ns.x }}",
    "{% set ns=namespace(x=1) %}{% for i in range(60) %}{% set ns.x = {'a': ns.x, 'b': ns.x} %}{% endfor %}{{ ns.x|tojson }}",
    "{% set ns=namespace(x=1,y=1) %}{% for i in range(60) %}{% set ns.x = [ns.x, ns.x] %}{% set ns.y = [ns.y, ns.y] %}{% endfor %}{{ ns.x == ns.y }}",
    "{% set ns=namespace(x=1,y=1) %}{% for i in range(60) %}{% set ns.x = (ns.x, ns.x) %}{% set ns.y = (ns.y, ns.y) %}{% endfor %}{{ ns.x < ns.y }}",
    "{% set ns=namespace(x=1,y=1) %}{% for i in range(60) %}{% set ns.x = [ns.x, ns.x] %}{% set ns.y = [ns.y, ns.y] %}{% endfor %}{{ ns.x in [ns.y] }}",
    "{% set ns=namespace(x=1) %}{% for i in range(60) %}{% set ns.x = (ns.x, ns.x) %}{% endfor %}{{ {ns.x: 1}[ns.x] }}",
    "{% set ns=namespace(x=1) %}{% for i in range(60) %}{% set ns.x = [ns.x, ns.x] %}{% endfor %}{{ ns.x|string|length }}",
    "{% set ns=namespace(x=1) %}{% for i in range(90000) %}{% set ns.x = [ns.x] %}{% endfor %}{{ ns.x }}",
    "{% set ns=namespace(x=1) %}{% for i in range(90000) %}{% set ns.x = {1: ns.x} %}{% endfor %}{{ ns.x }}",
    "{% set ns=namespace(x=[]) %}{% for i in range(90000) %}{% set ns.x = ns.x + [i] %}{% endfor %}",
    "{{ range(10**9)|list }}",
    "{% for i in range(10**9) %}{% endfor %}",
    "{{ 'a' * 10**9 }}",
    "{{ [1] * 10**9 }}",
    "{{ (1,) * 10**9 }}",
    "{{ 'a'|center(10**9) }}",
    "{{ 'a'.ljust(10**9) }}",
    "{{ '1'.zfill(10**9) }}",
    "{{ 'a'|indent(10**9) }}",
    "{{ ('a\n' * 9000)|indent(9000) }}",
    "{{ [1]|batch(10**9, 0)|list }}",
    "{{ [1]|slice(10**9)|list }}",
    "{{ '%1000000000d' % 1 }}",
    "{{ '{:1000000000}'.format(1) }}",
    "{{ '%.1000000000f' % 1 }}",
    "{{ [1]|tojson(indent=10**9) }}",
    "{{ 9**9**9 }}",
    "{{ (['a' * 1000] * 1000)|join('b' * 100000) }}",
    "{% for a in range(99999) %}{% for b in range(99999) %}x{% endfor %}{% endfor %}",
    "{% macro f(x) %}{{ f(x) }}{% endmacro %}{{ f(1) }}",
    "{% macro f(x) %}{{ f(x) }}{{ f(x) }}{% endmacro %}{{ f(1) }}",
    "{% macro f(n) %}{% if n %}{{ f(n-1) }}{{ f(n-1) }}{% endif %}x{% endmacro %}{{ f(25) }}",
    "{% macro f() %}{{ caller() }}{% endmacro %}{% macro g() %}{% call f() %}{{ g() }}{% endcall %}{% endmacro %}{{ g() }}",
    "{% for x in [[1]] recursive %}{{ loop([x]) }}{% endfor %}",
    "{{ ('%c' * 500000)|replace('%c', '%c')|length }}{{ strftime_now('%c' * 5000000) }}",
    "{% set x = ('a,' * 90000).split(',') %}{% for i in range(9000) %}{{ x|sort|length }}{{ x|unique|list|length }}{% endfor %}",
];

#[test]
fn templates_that_grow_meet_a_limit() {
    let ended = |source: &'static str| on_a_small_stack(move || plain(source));
    let whole: Vec<_> = GROWING.into_iter().filter(|source| ended(source).is_ok()).collect();
    assert_eq!(whole, Vec::<&str>::new());
}

#[test]
fn deepest_admitted_recursion_fits_a_small_stack() {
    for source in [
        "{% macro f(n) %}{% if n > 0 %}{% if true %}{% for a in [1] %}{{ (((f(n - 1)))) }}{% endfor %}{% endif %}{% endif %}{% endmacro %}{{ f(15) }}ok",
        "{% set ns=namespace(x=1) %}{% for i in range(60) %}{% set ns.x = [ns.x] %}{% endfor %}{{ ns.x }}{{ ns.x|tojson(indent=1) }}ok",
    ] {
        assert!(on_a_small_stack(move || plain(source)).unwrap().ends_with("ok"), "{source}");
    }
}

#[test]
fn limits_say_what_was_met() {
    let met = |source: &str| plain(source).unwrap_err().to_string();
    assert_eq!(met("\n{{ 'a' * 10**9 }}"), "line 2: got more texts and lists than 67108864 bytes");
    assert_eq!(
        met("{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"),
        "line 1: got more work than 4000000 steps"
    );
    assert_eq!(
        met("{{ ('a' * 1000000) ~ ('b' * 2000000) }}"),
        "line 1: got a prompt of more than 2097152 bytes"
    );
    assert_eq!(
        met("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}"),
        "line 1: got a recursion deeper than 200"
    );
    assert_eq!(met(&"x".repeat(300_000)), "got 300000 bytes, expected at most 262144");
    assert_eq!(
        met("{% include 'other' %}"),
        "line 1: got the tag `include`, which chat templates do not have"
    );
}

#[test]
fn the_clock_is_the_callers() {
    // 2026-11-29 13:31:07 UTC, a Sunday.
    let clock = Clock::utc(1_795_959_067);
    let messages = Data::List(Vec::new());
    let input = Input { clock, ..Input::of(&messages, "", "") };
    let template = Template::parse("{{ strftime_now('%A %d %B %Y %H:%M:%S %j') }}").unwrap();
    assert_eq!(template.render(&input).unwrap(), "Sunday 29 November 2026 13:31:07 333");
    assert_eq!(
        Clock::utc(951_782_400),
        Clock { year: 2000, month: 2, day: 29, hour: 0, minute: 0, second: 0 }
    );
}

proptest::proptest! {
    #[test]
    fn garbage_ends_in_an_answer(source in "(\\{\\{|\\{%|%\\}|\\}\\}|[ -~\n]|if|for|set|endif|endfor|in|a|'|\\||\\(|\\)){0,60}") {
        let _ = plain(&source);
    }

    #[test]
    fn a_content_is_never_read_as_a_template(content in "\\PC{0,40}") {
        let messages = Data::List(vec![Data::Map(vec![("content".to_owned(), Data::Text(content.clone()))])]);
        let got = render("{% for m in messages %}{{ m.content }}{% endfor %}", &messages).unwrap();
        proptest::prop_assert_eq!(got, content);
    }
}

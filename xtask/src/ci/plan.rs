//! What `setup` and `run` would do, as data.
//!
//! **Invariant:** a plan is a pure function of what was seen; printing it has no effect. A secret's value is no part of
//! it. Done once, the same plan has nothing left to do but to renew the secret.

use serde::Serialize;

pub(super) const WORKFLOW: &str = "export-llama-pte.yml";
pub(super) const SECRET: &str = "HF_TOKEN";

/// One command.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Step {
    /// Why it is there.
    pub(super) why: String,
    /// Program and arguments.
    pub(super) argv: Vec<String>,
    /// Whether the hub's token is written to its standard input.
    pub(super) secret_on_stdin: bool,
}

/// What was seen of the work tree and of GitHub.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Seen {
    /// There is a git repository with a commit.
    pub(super) committed: bool,
    /// There is a git repository.
    pub(super) git: bool,
    /// The remote `origin` is there.
    pub(super) remote: bool,
    /// The repository is on GitHub.
    pub(super) hosted: bool,
    /// The branch on GitHub is at another commit than the one here.
    pub(super) behind: bool,
    /// The branch here.
    pub(super) branch: String,
    /// There is a token to give.
    pub(super) token: bool,
}

fn step(why: &str, argv: &[&str]) -> Step {
    Step {
        why: why.to_owned(),
        argv: argv.iter().map(|&word| word.to_owned()).collect(),
        secret_on_stdin: false,
    }
}

/// The steps that bring a repository from `seen` to where `run` works.
pub(super) fn setup(seen: &Seen, repo: &str) -> Vec<Step> {
    let mut steps = Vec::new();
    if !seen.git {
        steps.push(step("no git repository yet", &["git", "init", "--initial-branch", &seen.branch]));
    }
    if !seen.committed {
        steps.push(step("nothing is committed", &["git", "add", "--all"]));
        steps.push(step("nothing is committed", &["git", "commit", "--message", "first commit"]));
    }
    // Private: an artifact of a public repository is anybody's, and a licensed checkpoint is not.
    match (seen.remote, seen.hosted) {
        (false, false) => steps.push(step(
            "the repository is not on GitHub",
            &["gh", "repo", "create", repo, "--private", "--source", ".", "--remote", "origin"],
        )),
        (true, false) => {
            steps.push(step("the repository is not on GitHub", &["gh", "repo", "create", repo, "--private"]));
        }
        (false, true) => {
            let url = format!("https://github.com/{repo}.git");
            steps.push(step("no remote here", &["git", "remote", "add", "origin", &url]));
        }
        (true, true) => {}
    }
    if seen.behind || !seen.hosted {
        let target = format!("HEAD:refs/heads/{}", seen.branch);
        steps.push(step(
            "the workflow and what it builds",
            &["git", "push", "--set-upstream", "origin", &target],
        ));
    }
    if seen.token {
        let argv = ["gh", "secret", "set", SECRET, "--repo", repo];
        let why = "the runner fetches the weights with it";
        steps.push(Step { secret_on_stdin: true, ..step(why, &argv) });
    }
    steps
}

/// The step that starts an export.
pub(super) fn run(repo: &str, branch: &str, model: &str, request: &str) -> Step {
    let (model, request) = (format!("model={model}"), format!("request={request}"));
    let argv = [
        "gh",
        "workflow",
        "run",
        WORKFLOW,
        "--repo",
        repo,
        "--ref",
        branch,
        "--raw-field",
        &model,
        "--raw-field",
        &request,
    ];
    step("start the export", &argv)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn programs(steps: &[Step]) -> Vec<String> {
        steps.iter().map(|step| step.argv.get(..3).unwrap_or(&step.argv).join(" ")).collect()
    }

    #[test]
    fn a_new_folder_needs_everything_and_a_finished_one_only_its_secret() {
        let new = Seen { branch: "main".into(), token: true, ..Seen::default() };
        let all = [
            "git init --initial-branch",
            "git add --all",
            "git commit --message",
            "gh repo create",
            "git push --set-upstream",
            "gh secret set",
        ];
        assert_eq!(programs(&setup(&new, "acme/proof")), all);
        let done = Seen { committed: true, git: true, remote: true, hosted: true, behind: false, ..new };
        assert_eq!(programs(&setup(&done, "acme/proof")), ["gh secret set"]);
        assert_eq!(setup(&Seen { token: false, ..done.clone() }, "acme/proof"), []);
        assert_eq!(
            programs(&setup(&Seen { remote: false, ..done }, "acme/proof")),
            ["git remote add", "gh secret set"]
        );
    }

    #[test]
    fn only_the_secrets_step_gets_it_and_never_as_an_argument() {
        let new = Seen { branch: "main".into(), token: true, ..Seen::default() };
        let steps = setup(&new, "acme/proof");
        let fed: Vec<_> =
            steps.iter().filter(|step| step.secret_on_stdin).map(|step| step.argv.join(" ")).collect();
        assert_eq!(fed, ["gh secret set HF_TOKEN --repo acme/proof"]);
    }
}

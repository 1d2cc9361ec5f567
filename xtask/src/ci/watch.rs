//! Follows a run to its end.

use std::time::{Duration, Instant};

use anyhow::anyhow;
use serde::Deserialize;
use serde_json::json;

use crate::{
    console::Console,
    exit::{Exit, Failure, Outcome},
    supervise::interrupted,
};

use super::{gh::Gh, plan::WORKFLOW};

/// Failed looks in a row before watching gives up: networks hiccup, runs go on.
const LOOKS_MAX: u32 = 5;
/// Looks for a run that was just started; GitHub shows it after a few seconds.
const SEARCHES_MAX: u32 = 30;

/// A run, as the REST API shows it.
#[derive(Debug, Deserialize)]
pub(super) struct WorkflowRun {
    pub(super) id: u64,
    status: String,
    conclusion: Option<String>,
    html_url: String,
    #[serde(default)]
    display_title: String,
}

#[derive(Deserialize)]
struct Runs {
    workflow_runs: Vec<WorkflowRun>,
}

#[derive(Deserialize)]
struct Jobs {
    jobs: Vec<Job>,
}

#[derive(Deserialize)]
struct Job {
    name: String,
    status: String,
    conclusion: Option<String>,
    #[serde(default)]
    steps: Vec<JobStep>,
}

#[derive(Deserialize)]
struct JobStep {
    name: String,
    status: String,
    conclusion: Option<String>,
}

/// The run that carries `request` in its title.
pub(super) fn find(gh: &Gh, repo: &str, request: &str, interval: Duration) -> Result<WorkflowRun, Failure> {
    let path = format!("repos/{repo}/actions/workflows/{WORKFLOW}/runs?event=workflow_dispatch&per_page=20");
    for _ in 0..SEARCHES_MAX {
        let runs: Runs = gh.api(&path)?;
        let mark = format!("({request})");
        if let Some(run) = runs.workflow_runs.into_iter().find(|run| run.display_title.contains(&mark)) {
            return Ok(run);
        }
        pause(interval)?;
    }
    let error = anyhow!("the run `{request}` was started, but {repo} does not show it");
    Err(Failure::new(Exit::Run, error, format!("look at: gh run list --repo {repo} --workflow {WORKFLOW}")))
}

/// The run as it is now.
pub(super) fn look(gh: &Gh, repo: &str, id: u64) -> Result<WorkflowRun, Failure> {
    gh.api(&format!("repos/{repo}/actions/runs/{id}"))
}

/// Waits for the end of a run; succeeds when the run has.
pub(super) fn watch(gh: &Gh, repo: &str, id: u64, interval: Duration, console: &Console) -> Outcome {
    let (start, mut last, mut misses) = (Instant::now(), String::new(), 0);
    loop {
        match look(gh, repo, id) {
            Ok(run) if run.status == "completed" => return finished(gh, repo, &run),
            Ok(_) => misses = 0,
            // Without gh or without access no further look will see more.
            Err(failure) if [Exit::Gh, Exit::GhAccess].contains(&failure.code) => return Err(failure),
            Err(failure) if misses + 1 >= LOOKS_MAX => return Err(failure),
            Err(_) => misses += 1,
        }
        if let Ok(jobs) = jobs(gh, repo, id) {
            let now = progress(&jobs);
            if now != last {
                show(console, &now, start.elapsed());
                last = now;
            }
        }
        pause(interval).map_err(|failure| Failure {
            hint: Some(format!("the run goes on; watch it again: cargo xtask ci watch {id}")),
            ..failure
        })?;
    }
}

/// Refuses a run that has not succeeded.
pub(super) fn finished(gh: &Gh, repo: &str, run: &WorkflowRun) -> Outcome {
    let WorkflowRun { id, status, conclusion, html_url, .. } = run;
    if conclusion.as_deref() == Some("success") {
        return Ok(());
    }
    let ended = conclusion.as_deref().unwrap_or(status);
    let failed = jobs(gh, repo, *id).map(|jobs| failed_steps(&jobs)).unwrap_or_default();
    let at = if failed.is_empty() { String::new() } else { format!(" at {}", failed.join(", ")) };
    let error = anyhow!("run {id} ended with `{ended}`, expected `success`{at}: {html_url}");
    let hint = if conclusion.is_none() {
        format!("it has not ended; run: cargo xtask ci watch {id}")
    } else {
        format!("read: gh run view {id} --repo {repo} --log-failed; its escalation is an issue of {repo}")
    };
    Err(Failure::new(Exit::Run, error, hint))
}

fn jobs(gh: &Gh, repo: &str, id: u64) -> Result<Vec<Job>, Failure> {
    Ok(gh.api::<Jobs>(&format!("repos/{repo}/actions/runs/{id}/jobs?per_page=100"))?.jobs)
}

fn failed_steps(jobs: &[Job]) -> Vec<String> {
    let failed = |conclusion: &Option<String>| conclusion.as_deref() == Some("failure");
    let of = |job: &Job| {
        let step = job.steps.iter().find(|step| failed(&step.conclusion));
        step.map_or_else(|| format!("`{}`", job.name), |step| format!("`{}`, step `{}`", job.name, step.name))
    };
    jobs.iter().filter(|job| failed(&job.conclusion)).map(of).collect()
}

/// One line: what runs now and how far it is.
fn progress(jobs: &[Job]) -> String {
    let line = |job: &Job| {
        let done = job.steps.iter().filter(|step| step.status == "completed").count();
        let now = job.steps.iter().find(|step| step.status == "in_progress");
        let now = now.map_or(job.status.as_str(), |step| step.name.as_str());
        format!("{}: {now} [{done}/{}]", job.name, job.steps.len())
    };
    let lines: Vec<_> = jobs.iter().filter(|job| job.status != "completed").map(line).collect();
    lines.join("; ").chars().filter(|c| !c.is_control()).collect()
}

fn show(console: &Console, now: &str, elapsed: Duration) {
    match console {
        Console::Json => println!("{}", json!({"event": "run", "now": now, "seconds": elapsed.as_secs()})),
        _ => console.step(now),
    }
}

fn pause(time: Duration) -> Outcome {
    let start = Instant::now();
    loop {
        if interrupted() {
            return Err(Failure::new(Exit::Interrupted, anyhow!("interrupted"), "run the command again"));
        }
        let left = time.saturating_sub(start.elapsed());
        if left.is_zero() {
            return Ok(());
        }
        std::thread::sleep(left.min(Duration::from_millis(100)));
    }
}

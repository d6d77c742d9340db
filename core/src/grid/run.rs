//! Runs a plan: one process per stage, as many at a time as there are workers, in the order that inputs allow.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::{BufRead, BufReader, Read, Write},
    path::{Path, PathBuf},
    process::{Child, ChildStdin, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    time::{Duration, Instant},
};

use indexmap::IndexMap;
use indicatif::{ProgressBar, ProgressDrawTarget};
use serde::{Deserialize, Serialize};

use crate::{
    Error, Result,
    error::IoContext,
    learner::Execution,
    stage::{Job, Place, StageId, Store},
};

/// How a plan is executed. Kind of device and micro-batches are those of the plan's numeric mode; nothing else here changes a result.
#[derive(Clone, Debug)]
pub struct RunOptions {
    /// Stages at a time.
    pub workers: usize,
    /// Threads of each.
    pub threads: usize,
    /// Where they run: `cpu` or `cuda:0`.
    pub device: String,
    /// Examples per forward pass; the whole batch when absent.
    pub micro_batch: Option<usize>,
    /// Failures after which nothing new is started.
    pub max_fails: usize,
}

/// What a child process is told on its standard input, as one line of JSON.
#[derive(Serialize, Deserialize)]
pub struct Order {
    /// The stage to do.
    pub job: Job,
    /// Folder of the store.
    pub store: PathBuf,
    /// Where it runs.
    pub device: String,
    /// Examples per forward pass.
    pub micro_batch: Option<usize>,
}

/// What a child process says on its standard output, one line of JSON each.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Word {
    /// How far the stage is.
    Progress(Progress),
    /// The stage failed.
    Failed {
        /// What went wrong.
        message: String,
        /// The likely remedy.
        help: Option<String>,
    },
}

/// How far a stage is.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Progress {
    /// What is done, in steps or examples.
    pub done: u64,
    /// Of how many.
    pub total: u64,
    /// Loss, accuracy and speed, for people.
    pub message: String,
}

/// A stage that failed.
#[derive(Clone, Debug)]
pub struct Failure {
    /// Which.
    pub stage: StageId,
    /// What went wrong.
    pub message: String,
    /// The likely remedy.
    pub help: Option<String>,
    /// What the process wrote.
    pub log: PathBuf,
}

/// How a run ended.
#[derive(Debug, Default)]
pub struct Outcome {
    /// Stages that were done in this run.
    pub done: BTreeSet<StageId>,
    /// Stages that failed.
    pub failed: Vec<Failure>,
    /// Stages that were not started, because an input failed, the limit of failures was reached, or the run was interrupted.
    pub left: BTreeSet<StageId>,
    /// Whether the user interrupted the run.
    pub interrupted: bool,
}

/// What happens, as it happens.
#[derive(Debug)]
pub enum Event<'a> {
    /// A stage was started.
    Started(&'a StageId),
    /// A stage is so far.
    Progress(&'a StageId, &'a Progress),
    /// A stage is done.
    Done(&'a StageId, Duration),
    /// A stage failed.
    Failed(&'a Failure),
}

enum Message {
    Word(StageId, Word),
    Ended(StageId),
}

struct Running {
    child: Child,
    // Closing it tells the child that nobody waits for it any more.
    _stdin: ChildStdin,
    started: Instant,
    failure: Option<(String, Option<String>)>,
    log: PathBuf,
}

/// Runs the jobs that are not done yet. `stop` set to true ends the run: children are killed, and the same command continues later.
///
/// # Errors
/// A process that cannot be started, or a store that cannot be read. A stage that fails is no error here: see [`Outcome::failed`].
pub fn run(
    jobs: &IndexMap<StageId, &Job>,
    store: &Store,
    logs: &Path,
    options: &RunOptions,
    stop: &Arc<AtomicBool>,
    mut on: impl FnMut(Event) -> Result<()>,
) -> Result<Outcome> {
    std::fs::create_dir_all(logs).path("create the folder of logs", logs)?;
    let mut outcome = Outcome::default();
    let mut waiting: IndexMap<StageId, BTreeSet<StageId>> = jobs
        .iter()
        .map(|(id, job)| (id.clone(), job.inputs().into_iter().filter(|input| jobs.contains_key(input)).collect()))
        .collect();
    // Inputs first, and otherwise in the order of the plan: the same in every run.
    let mut running: BTreeMap<StageId, Running> = BTreeMap::new();
    let (sender, messages) = mpsc::channel();

    loop {
        let stopping = stop.load(Ordering::SeqCst) || outcome.failed.len() >= options.max_fails;
        while !stopping && running.len() < options.workers {
            let Some(id) = waiting.iter().find(|(_, inputs)| inputs.is_empty()).map(|(id, _)| id.clone()) else {
                break;
            };
            waiting.shift_remove(&id);
            let child = start(jobs[&id], &id, store, logs, options, sender.clone())?;
            running.insert(id.clone(), child);
            on(Event::Started(&id))?;
        }
        if stop.load(Ordering::SeqCst) && !running.is_empty() {
            for child in running.values_mut() {
                // It may have ended by itself in this very moment.
                let _ = child.child.kill();
            }
            outcome.interrupted = true;
        }
        if running.is_empty() {
            break;
        }
        match messages.recv_timeout(Duration::from_millis(100)) {
            Ok(Message::Word(id, Word::Progress(progress))) => on(Event::Progress(&id, &progress))?,
            Ok(Message::Word(id, Word::Failed { message, help })) => {
                if let Some(child) = running.get_mut(&id) {
                    child.failure = Some((message, help));
                }
            }
            Ok(Message::Ended(id)) => {
                let Some(mut child) = running.remove(&id) else { continue };
                let status = child.child.wait().path("wait for a stage", &child.log)?;
                if status.success() {
                    for inputs in waiting.values_mut() {
                        inputs.remove(&id);
                    }
                    outcome.done.insert(id.clone());
                    on(Event::Done(&id, child.started.elapsed()))?;
                } else if outcome.interrupted || was_interrupted(&status, stop) {
                    outcome.left.insert(id);
                } else {
                    let (message, help) = child.failure.take().unwrap_or_else(|| died(&status));
                    let failure = Failure { stage: id, message, help, log: child.log };
                    on(Event::Failed(&failure))?;
                    outcome.failed.push(failure);
                }
            }
            Err(mpsc::RecvTimeoutError::Timeout) => {}
            Err(mpsc::RecvTimeoutError::Disconnected) => break,
        }
    }
    outcome.interrupted |= stop.load(Ordering::SeqCst);
    outcome.left.extend(waiting.into_keys());
    Ok(outcome)
}

/// Whether a child went the way of an interruption: a terminal sends it to parent and children alike, in no order.
fn was_interrupted(status: &std::process::ExitStatus, stop: &AtomicBool) -> bool {
    #[cfg(unix)]
    if matches!(std::os::unix::process::ExitStatusExt::signal(status), Some(libc::SIGINT | libc::SIGTERM)) {
        std::thread::sleep(Duration::from_millis(200));
    }
    stop.load(Ordering::SeqCst)
}

/// What to say of a process that ended without a word.
fn died(status: &std::process::ExitStatus) -> (String, Option<String>) {
    #[cfg(unix)]
    if let Some(signal) = std::os::unix::process::ExitStatusExt::signal(status) {
        let help = matches!(signal, libc::SIGKILL | libc::SIGABRT).then(|| {
            "the system may have run out of memory: try fewer `--workers`, or a smaller `--micro-batch`".to_owned()
        });
        return (format!("the stage's process was ended by signal {signal}"), help);
    }
    (format!("the stage's process ended without saying why ({status})"), Some("its log may tell".to_owned()))
}

fn start(
    job: &Job,
    id: &StageId,
    store: &Store,
    logs: &Path,
    options: &RunOptions,
    sender: mpsc::Sender<Message>,
) -> Result<Running> {
    let log = logs.join(format!("{id}.log"));
    let stderr = std::fs::File::create(&log).path("write a log", &log)?;
    let program = std::env::current_exe().path("find this program", "w2s")?;
    let mut child = Command::new(&program)
        .arg("stage")
        .env("RAYON_NUM_THREADS", options.threads.to_string())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(stderr)
        .spawn()
        .path("start a stage's process", &program)?;
    let (Some(mut stdin), Some(stdout)) = (child.stdin.take(), child.stdout.take()) else {
        return Err(Error::new("a stage's process has no standard input or output"));
    };
    let order = serde_json::json!({
        "job": job,
        "store": store.root(),
        "device": options.device,
        "micro_batch": options.micro_batch,
    });
    // A child that died at once is noticed when it is waited for.
    let _ = writeln!(stdin, "{order}").and_then(|()| stdin.flush());
    let name = id.clone();
    std::thread::spawn(move || {
        for line in BufReader::new(stdout).lines().map_while(std::io::Result::ok) {
            if let Ok(word) = serde_json::from_str(&line) {
                // The receiver is gone only when the run is over.
                let _ = sender.send(Message::Word(name.clone(), word));
            }
        }
        let _ = sender.send(Message::Ended(name));
    });
    Ok(Running { child, _stdin: stdin, started: Instant::now(), failure: None, log })
}

/// The child's side: reads an order from standard input, does the stage, and says how it goes on standard output.
///
/// # Errors
/// Whatever the stage fails at.
pub fn obey(say: impl Fn(&Word) + Send + Sync + 'static) -> Result<()> {
    let mut line = String::new();
    std::io::stdin().read_line(&mut line).path("read the order of a stage", "standard input")?;
    let order: Order = serde_json::from_str(&line).map_err(|error| {
        Error::new(format!("not an order: {error}")).help("this command is for w2s itself; use `w2s run`")
    })?;
    let stop = Arc::new(AtomicBool::new(false));
    let orphaned = stop.clone();
    std::thread::spawn(move || {
        // Nothing more is ever written: the end of the input is the end of the parent.
        let _ = std::io::stdin().read_to_end(&mut Vec::new());
        orphaned.store(true, Ordering::SeqCst);
    });
    // The learner draws on this bar; nobody sees it but the parent, to whom it is told.
    let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::hidden());
    let watched = bar.clone();
    std::thread::spawn(move || {
        let mut last = Progress::default();
        loop {
            std::thread::sleep(Duration::from_millis(300));
            let now =
                Progress { done: watched.position(), total: watched.length().unwrap_or(0), message: watched.message() };
            if now != last {
                say(&Word::Progress(now.clone()));
                last = now;
            }
        }
    });
    let store = Store::open(&order.store)?;
    let (device, name) = crate::device::open(&order.device)?;
    let execution =
        Execution { micro_batch: order.micro_batch, bar: Some(bar), stop: Some(stop), ..Execution::default() };
    order.job.run(&store, &Place { device, name, execution }).map(|_| ())
}

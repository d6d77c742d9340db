//! Runs a plan: one process per stage, as many at a time as there are workers, in the order that inputs allow.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, File},
    io::{self, BufRead, BufReader, Read, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
    process::{Child, ChildStdin, Command, ExitStatus, Stdio},
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

use super::progress::{Post, Progress};
use crate::{
    Error, Result,
    error::{ErrorKind, IoContext, OUT_OF_MEMORY, is_about_memory},
    last_words,
    learner::{Every, Execution, Stop},
    model::Precision,
    stage::{Bench, Folders, Job, Notice, Place, Stage, StageId, Store, any_path},
};

/// How a plan is executed. The kind of device and the precision are those of the plan's numeric mode; nothing else here changes a result.
#[derive(Clone, Debug)]
pub struct RunOptions {
    /// Where stages run, and how many at a time.
    pub devices: Devices,
    /// Threads of each.
    pub threads: usize,
    /// Whether the blocks of a model are computed again on the way back.
    pub recompute: bool,
    /// In which numbers the matrices of models are.
    pub precision: Precision,
    /// Where models are that no stage makes.
    pub folders: Folders,
    /// Failures after which nothing new is started.
    pub max_fails: usize,
    /// Whether what is at work is asked to stop then, too.
    pub fail_fast: bool,
    /// How long a stage may make no progress before it is ended; for ever when absent.
    pub patience: Option<Duration>,
    /// How long a stage may take before it is ended; for ever when absent.
    pub timeout: Option<Duration>,
    /// How often a training that is under way is saved.
    pub checkpoint_every: Every,
}

/// Devices of one kind, each with room for so many stages at a time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Devices {
    /// Their names: `cpu`, or `cuda:0` and `cuda:1`. Those of one group share each training, and are given stages as one device is.
    pub groups: Vec<Vec<String>>,
    /// Stages at a time on each.
    pub stages: usize,
}

impl Devices {
    /// One device.
    pub fn one(name: &str, stages: usize) -> Self {
        Self { groups: vec![vec![name.to_owned()]], stages }
    }

    /// Stages at a time on all of them.
    pub fn workers(&self) -> usize {
        self.groups.len() * self.stages
    }

    /// The device of the next stage, where some run on each already: the one with the fewest, and the first of those. None where all are full.
    fn free(&self, running: impl Iterator<Item = usize>) -> Option<usize> {
        let mut busy = vec![0; self.groups.len()];
        running.for_each(|device| busy[device] += 1);
        let (device, least) = busy.into_iter().enumerate().min_by_key(|(_, busy)| *busy)?;
        (least < self.stages).then_some(device)
    }
}

/// What a child process is told on its standard input, as one line of JSON.
#[derive(Serialize, Deserialize)]
pub struct Order<S = Box<dyn Stage>> {
    /// The stage to do.
    pub stage: S,
    /// Folder of the store.
    #[serde(with = "any_path")]
    pub store: PathBuf,
    /// Where it runs.
    pub device: String,
    /// Where else its trainings run.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub beside: Vec<String>,
    /// Examples per forward pass.
    pub micro_batch: Option<usize>,
    /// Whether the blocks of a model are computed again on the way back.
    #[serde(default)]
    pub recompute: bool,
    /// In which numbers the matrices of models are.
    #[serde(default, skip_serializing_if = "Precision::is_default")]
    pub precision: Precision,
    /// Where models are that no stage makes.
    pub folders: Folders,
    /// How often a training that is under way is saved.
    pub checkpoint_every: Every,
}

/// What a child process says on its standard output, one line of JSON each.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Word {
    /// How far the stage is.
    Progress(Progress),
    /// Something that the user should know.
    Note(String),
    /// Whether the stage waits for another process, which makes what it needs.
    Waiting(bool),
    /// Another process makes this very stage.
    Busy,
    /// The stage failed.
    Failed {
        /// What kind of failure it is.
        kind: ErrorKind,
        /// What went wrong.
        message: String,
        /// The likely remedy.
        help: Option<String>,
    },
}

/// A stage that failed.
#[derive(Clone, Debug)]
pub struct Failure {
    /// Which.
    pub stage: StageId,
    /// What kind of failure it is.
    pub kind: ErrorKind,
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
    /// Stages that were done in this run, or beside it by another process.
    pub done: BTreeSet<StageId>,
    /// Stages that failed.
    pub failed: Vec<Failure>,
    /// Stages that were not made, because an input failed, the limit of failures was reached, or the run was interrupted.
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
    /// Something that the user should know.
    Note(&'a str),
    /// Nothing can be started: other processes make these stages, and what is left needs them.
    Waiting(&'a [StageId]),
    /// Another process makes a stage that was started, which is put off.
    PutOff(&'a StageId),
    /// A stage is done.
    Done(&'a StageId, Duration),
    /// A stage failed in a way that [may pass](ErrorKind::may_pass), and is tried once more.
    Again(&'a Failure),
    /// A stage failed.
    Failed(&'a Failure),
}

enum Message {
    Word(StageId, Word),
    Ended(StageId),
}

/// Stages that are not done, by their place in the plan: which can be started, and which wait for inputs.
struct Queue {
    missing: Vec<usize>,
    dependents: Vec<Vec<usize>>,
    ready: BTreeSet<usize>,
    /// Stages that another process makes, and when to look at them again.
    elsewhere: BTreeMap<usize, Instant>,
}

impl Queue {
    fn new(jobs: &IndexMap<StageId, &Job>) -> Self {
        let mut dependents = vec![Vec::new(); jobs.len()];
        let mut missing = vec![0; jobs.len()];
        for (place, job) in jobs.values().enumerate() {
            let inputs: BTreeSet<usize> = job.reads.iter().filter_map(|input| jobs.get_index_of(input)).collect();
            missing[place] = inputs.len();
            for input in inputs {
                dependents[input].push(place);
            }
        }
        let ready = (0..jobs.len()).filter(|place| missing[*place] == 0).collect();
        Self { missing, dependents, ready, elsewhere: BTreeMap::new() }
    }

    fn done(&mut self, place: usize) {
        for dependent in std::mem::take(&mut self.dependents[place]) {
            self.missing[dependent] -= 1;
            if self.missing[dependent] == 0 {
                self.ready.insert(dependent);
            }
        }
    }

    /// Puts a stage off that another process makes.
    fn put_off(&mut self, place: usize) {
        /// How often stages of other processes are looked at.
        const PAUSE: Duration = Duration::from_millis(300);
        self.elsewhere.insert(place, Instant::now() + PAUSE);
    }

    /// The first stage in the order of the plan that can be looked at now.
    fn next(&mut self) -> Option<usize> {
        let now = Instant::now();
        let due: Vec<usize> = self.elsewhere.iter().filter(|(_, at)| **at <= now).map(|(place, _)| *place).collect();
        for place in due {
            self.elsewhere.remove(&place);
            self.ready.insert(place);
        }
        self.ready.pop_first()
    }
}

struct Running {
    child: Child,
    /// Place of its device among those of the run.
    device: usize,
    // A line asks the child to stop; closing it says that nobody waits for it any more.
    stdin: ChildStdin,
    asked: bool,
    started: Instant,
    failure: Option<(ErrorKind, String, Option<String>)>,
    log: PathBuf,
    last: Progress,
    /// For how long it has made no progress, in time that this process was awake.
    still: Duration,
    /// For how long it has been at work, in the same time.
    taken: Duration,
    waits: bool,
    busy: bool,
    /// How often the system had ended a process for want of memory when this one started.
    ended_by_system: Option<u64>,
}

impl Running {
    fn kill(&mut self) {
        // It may have ended by itself in this very moment.
        let _ = self.child.kill();
    }

    /// Asks it once to save what it has done, and to end.
    fn ask_to_stop(&mut self) {
        if !std::mem::replace(&mut self.asked, true) {
            // As above.
            let _ = writeln!(self.stdin, "stop").and_then(|()| self.stdin.flush());
        }
    }
}

/// A run that ends early leaves no process behind.
impl Drop for Running {
    fn drop(&mut self) {
        self.kill();
        let _ = self.child.wait();
    }
}

/// Runs the jobs that are not done yet. `stop` set to true ends the run: children that train finish their step and save what they have, the others
/// end at once, and the same command continues later.
///
/// Other processes may run the same jobs: a stage that one of them makes is left to it, and the next one that is ready is started.
///
/// # Errors
/// A folder of logs that cannot be made, and whatever `on` answers. A stage that fails is no error here: see [`Outcome::failed`].
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
    let mut open: BTreeSet<usize> = (0..jobs.len()).collect();
    // Inputs first, and otherwise in the order of the plan: the same in every run.
    let mut queue = Queue::new(jobs);
    let mut running: BTreeMap<StageId, Running> = BTreeMap::new();
    let (sender, messages) = mpsc::channel();
    let mut awake = Instant::now();
    let mut said: BTreeSet<usize> = BTreeSet::new();
    let mut again: BTreeSet<usize> = BTreeSet::new();
    let place_of = |id: &StageId| jobs.get_index_of(id).unwrap_or_default();

    loop {
        let enough = outcome.failed.len() >= options.max_fails;
        let mut stopping = stop.load(Ordering::SeqCst) || enough;
        while !stopping {
            let Some(device) = options.devices.free(running.values().map(|child| child.device)) else { break };
            let Some(place) = queue.next() else { break };
            let Some((id, job)) = jobs.get_index(place) else { break };
            let begun = match elsewhere(store, id) {
                Ok(None) => start(job, id, store, logs, (options, device), sender.clone()),
                Ok(Some(Elsewhere::Done)) => {
                    open.remove(&place);
                    queue.done(place);
                    outcome.done.insert(id.clone());
                    on(Event::Done(id, Duration::ZERO))?;
                    continue;
                }
                Ok(Some(Elsewhere::Busy)) => {
                    queue.put_off(place);
                    continue;
                }
                Err(error) => Err(error),
            };
            match begun {
                Ok(child) => {
                    running.insert(id.clone(), child);
                    on(Event::Started(id))?;
                }
                Err(error) => {
                    open.remove(&place);
                    fail(Failure::new(id, &error, logs), &mut outcome, &mut on)?;
                }
            }
            stopping = stop.load(Ordering::SeqCst) || outcome.failed.len() >= options.max_fails;
        }
        if stop.load(Ordering::SeqCst) && !running.is_empty() {
            running.values_mut().for_each(Running::ask_to_stop);
            outcome.interrupted = true;
        }
        if enough && options.fail_fast {
            running.values_mut().for_each(Running::ask_to_stop);
        }
        if running.is_empty() {
            if stopping || queue.elsewhere.is_empty() && queue.ready.is_empty() {
                break;
            }
            let waiting: BTreeSet<usize> = queue.elsewhere.keys().copied().collect();
            if !waiting.is_subset(&said) {
                let stages: Vec<StageId> =
                    waiting.iter().filter_map(|place| jobs.get_index(*place)).map(|(id, _)| id.clone()).collect();
                on(Event::Waiting(&stages))?;
                said.extend(waiting);
            }
        }
        match messages.recv_timeout(Duration::from_millis(100)) {
            Ok(Message::Word(id, word)) => {
                if let Some(child) = running.get_mut(&id) {
                    hear(child, &id, word, &mut on)?;
                }
            }
            Ok(Message::Ended(id)) => {
                let Some(mut child) = running.remove(&id) else { continue };
                let place = place_of(&id);
                let status = child.child.wait().path("wait for a stage", &child.log)?;
                if child.busy && status.success() {
                    queue.put_off(place);
                    on(Event::PutOff(&id))?;
                    continue;
                }
                if status.success() {
                    open.remove(&place);
                    queue.done(place);
                    on(Event::Done(&id, child.started.elapsed()))?;
                    outcome.done.insert(id);
                } else if child.asked && status.code() == Some(STOPPED.into()) {
                    // It is left, as we wished.
                } else if outcome.interrupted || was_interrupted(&status, stop) {
                    outcome.interrupted = true;
                } else {
                    let (kind, message, help) = child.failure.take().unwrap_or_else(|| {
                        let by_system = ended_by_system() > child.ended_by_system;
                        died(&status, &child.log, by_system)
                    });
                    let failure = Failure { stage: id, kind, message, help, log: child.log.clone() };
                    if kind.may_pass() && again.insert(place) {
                        queue.ready.insert(place);
                        on(Event::Again(&failure))?;
                    } else {
                        open.remove(&place);
                        fail(failure, &mut outcome, &mut on)?;
                    }
                }
            }
            Err(mpsc::RecvTimeoutError::Timeout) => {}
            Err(mpsc::RecvTimeoutError::Disconnected) => break,
        }
        // A machine that slept, or a run that was suspended, has waited for nobody.
        let passed = awake.elapsed().min(Duration::from_secs(1));
        awake = Instant::now();
        for child in running.values_mut() {
            child.lose_patience(passed, options);
        }
    }
    outcome.interrupted |= stop.load(Ordering::SeqCst);
    outcome.left.extend(open.into_iter().filter_map(|place| jobs.get_index(place)).map(|(id, _)| id.clone()));
    Ok(outcome)
}

fn fail(failure: Failure, outcome: &mut Outcome, on: &mut impl FnMut(Event) -> Result<()>) -> Result<()> {
    on(Event::Failed(&failure))?;
    outcome.failed.push(failure);
    Ok(())
}

impl Failure {
    /// A stage that could not be started.
    fn new(stage: &StageId, error: &Error, logs: &Path) -> Self {
        Self {
            stage: stage.clone(),
            kind: error.kind(),
            message: error.message().to_owned(),
            help: error.remedy().map(str::to_owned),
            log: log_of(logs, stage),
        }
    }
}

/// What another process has to do with a stage.
enum Elsewhere {
    Done,
    Busy,
}

fn elsewhere(store: &Store, id: &StageId) -> Result<Option<Elsewhere>> {
    if store.find(id)?.is_some() {
        return Ok(Some(Elsewhere::Done));
    }
    Ok(store.is_busy(id)?.then_some(Elsewhere::Busy))
}

fn hear(child: &mut Running, id: &StageId, word: Word, on: &mut impl FnMut(Event) -> Result<()>) -> Result<()> {
    match word {
        Word::Progress(progress) => {
            if progress != child.last {
                child.still = Duration::ZERO;
            }
            on(Event::Progress(id, &progress))?;
            child.last = progress;
        }
        Word::Note(note) => on(Event::Note(&note))?,
        Word::Waiting(waits) => {
            child.waits = waits;
            child.still = Duration::ZERO;
        }
        Word::Busy => child.busy = true,
        Word::Failed { kind, message, help } => child.failure = child.failure.take().or(Some((kind, message, help))),
    }
    Ok(())
}

impl Running {
    /// Counts its time, and ends a stage that has had too much of it, or too much without progress.
    fn lose_patience(&mut self, passed: Duration, options: &RunOptions) {
        if self.waits {
            self.still = Duration::ZERO;
        } else {
            self.still += passed;
            self.taken += passed;
        }
        let over = |time: Duration, limit: Option<Duration>| limit.filter(|limit| time > *limit);
        let (what, help) = if let Some(limit) = over(self.taken, options.timeout) {
            let took = format!("the stage took longer than {}", said(limit));
            (took, "its log may tell; with a longer `--timeout` a training goes on from its last checkpoint")
        } else if let Some(limit) = over(self.still, options.patience) {
            let stood = format!("the stage made no progress for {}", said(limit));
            (stood, "its log may tell; if it only needs more time, give `--patience MINUTES`")
        } else {
            return;
        };
        if self.failure.is_some() {
            return;
        }
        let at =
            if self.last.total > 0 { format!(" at {} of {}", self.last.done, self.last.total) } else { String::new() };
        self.failure = Some((ErrorKind::TimeOut, format!("{what}{at} and was ended"), Some(help.to_owned())));
        self.kill();
    }
}

/// A time limit for people.
fn said(limit: Duration) -> String {
    match limit.as_secs_f64() {
        seconds if seconds < 60.0 => format!("{seconds} seconds"),
        seconds if seconds < 7200.0 => format!("{} minutes", seconds / 60.0),
        seconds => format!("{} hours", seconds / 3600.0),
    }
}

/// Whether a child went the way of an interruption: a terminal sends it to parent and children alike, in no order. A child that was
/// interrupted alone interrupts the run.
fn was_interrupted(status: &ExitStatus, stop: &AtomicBool) -> bool {
    if status.code() == Some(STOPPED.into()) {
        stop.store(true, Ordering::SeqCst);
    }
    #[cfg(unix)]
    if matches!(
        std::os::unix::process::ExitStatusExt::signal(status),
        Some(libc::SIGINT | libc::SIGTERM | libc::SIGHUP | libc::SIGUSR1)
    ) {
        std::thread::sleep(Duration::from_millis(200));
    }
    stop.load(Ordering::SeqCst)
}

/// Exit code of a run, and of a stage's process, that was asked to stop and saved what it had done: the same command continues. It is the
/// `EX_TEMPFAIL` of `sysexits.h`, by which job scripts know that they may start it again.
pub const STOPPED: u8 = 75;
/// How long a stage may take to end in order when its parent is gone.
const ORPHANED: Duration = Duration::from_millis(200);

/// How many processes the system has ended for want of memory since it started, whichever limit they met; `None` where it does not say.
fn ended_by_system() -> Option<u64> {
    fs::read_to_string("/proc/vmstat").ok().and_then(|text| field(&text, "oom_kill"))
}

/// A number of a file with a name and a number in each line.
fn field(text: &str, name: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(name)?.trim_start_matches(' ').parse().ok())
}

/// What to say of a process that ended without a word; `by_system`: meanwhile the system ended some process for want of memory.
fn died(status: &ExitStatus, log: &Path, by_system: bool) -> (ErrorKind, String, Option<String>) {
    let last = last_line(log);
    let said = last.as_ref().map_or_else(String::new, |last| format!("; its log ends with: {last}"));
    let memory = || Some(OUT_OF_MEMORY.to_owned());
    if status.code() == Some(last_words::NO_MEMORY) {
        return (ErrorKind::OutOfMemory, format!("out of memory{said}"), memory());
    }
    if last.as_deref().is_some_and(is_about_memory) {
        return (ErrorKind::OutOfMemory, format!("out of memory{said}"), memory());
    }
    #[cfg(unix)]
    if let Some(signal) = std::os::unix::process::ExitStatusExt::signal(status) {
        // These are the answer to what the process itself has done.
        if [libc::SIGABRT, libc::SIGSEGV, libc::SIGBUS, libc::SIGILL, libc::SIGFPE, libc::SIGTRAP, libc::SIGSYS]
            .contains(&signal)
        {
            let help = Some("a fault in code that it called: its log may tell".to_owned());
            return (ErrorKind::Panic, format!("the stage's process crashed with signal {signal}{said}"), help);
        }
        if signal == libc::SIGKILL && by_system {
            let message = format!("the system ran out of memory and ended the stage's process{said}");
            return (ErrorKind::OutOfMemory, message, memory());
        }
        let help = (signal == libc::SIGKILL).then(|| format!("the system may have run out of memory: {OUT_OF_MEMORY}"));
        return (ErrorKind::Killed, format!("the stage's process was ended by signal {signal}{said}"), help);
    }
    let help = Some("its log may tell".to_owned());
    (ErrorKind::Panic, format!("the stage's process ended without saying why ({status}){said}"), help)
}

/// The last line of a log that is not empty.
fn last_line(log: &Path) -> Option<String> {
    const END: i64 = 2000;
    let mut file = File::open(log).ok()?;
    if file.metadata().ok()?.len() > END as u64 {
        file.seek(SeekFrom::End(-END)).ok()?;
    }
    let mut text = Vec::new();
    file.read_to_end(&mut text).ok()?;
    let text = String::from_utf8_lossy(&text);
    let line = text.lines().rev().map(str::trim).find(|line| !line.is_empty())?;
    Some(line.chars().filter(|c| !c.is_control()).take(300).collect())
}

/// Where a stage's process writes.
pub(super) fn log_of(logs: &Path, id: &StageId) -> PathBuf {
    logs.join(format!("{id}.log"))
}

fn start(
    job: &Job,
    id: &StageId,
    store: &Store,
    logs: &Path,
    (options, device): (&RunOptions, usize),
    sender: mpsc::Sender<Message>,
) -> Result<Running> {
    let log = log_of(logs, id);
    let stderr = File::create(&log).path("write a log", &log)?;
    let program = std::env::current_exe().path("find this program", "w2s")?;
    let (name, beside) =
        options.devices.groups[device].split_first().ok_or_else(|| Error::new("there is no device"))?;
    let order = Order {
        stage: &job.stage,
        store: store.root().to_owned(),
        device: name.clone(),
        beside: beside.to_vec(),
        micro_batch: job.micro_batch,
        recompute: options.recompute,
        precision: options.precision,
        folders: options.folders.clone(),
        checkpoint_every: options.checkpoint_every,
    };
    let order = serde_json::to_string(&order).map_err(|error| Error::new(format!("cannot write an order: {error}")))?;
    let ended_by_system = ended_by_system();
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
    let name = id.clone();
    let listen = move || {
        for line in BufReader::new(stdout).split(b'\n').map_while(io::Result::ok) {
            if let Ok(word) = serde_json::from_slice(&line) {
                // The receiver is gone only when the run is over.
                let _ = sender.send(Message::Word(name.clone(), word));
            }
        }
        let _ = sender.send(Message::Ended(name));
    };
    let listening = std::thread::Builder::new().spawn(listen);
    // A child that died at once is noticed when it is waited for.
    let _ = writeln!(stdin, "{order}").and_then(|()| stdin.flush());
    let running = Running {
        child,
        device,
        stdin,
        asked: false,
        started: Instant::now(),
        failure: None,
        log,
        last: Progress::default(),
        still: Duration::ZERO,
        taken: Duration::ZERO,
        waits: false,
        busy: false,
        ended_by_system,
    };
    listening.path("start a thread", &program)?;
    Ok(running)
}

/// Asks the stage of this process to stop. A training finishes its step and is saved; whatever else it does is not waited for.
pub fn wind_up(stop: &Stop) {
    stop.ask();
    if !stop.is_awaited() {
        last_words::end(STOPPED.into());
    }
}

/// The child's side: reads an order from standard input, does the stage, and says how it goes on standard output.
///
/// # Errors
/// Whatever the stage fails at, or that it was asked to stop.
pub fn obey(stop: &Stop, say: impl Fn(&Word) + Clone + Send + Sync + 'static) -> Result<()> {
    let mut line = String::new();
    io::stdin().read_line(&mut line).path("read the order of a stage", "standard input")?;
    let order: Order = serde_json::from_str(&line).map_err(|error| {
        Error::new(format!("not an order: {error}")).help("this command is for w2s itself; use `w2s run`")
    })?;
    let asked = stop.clone();
    spawn("parent", move || {
        // All that is ever written is the wish to stop; the end of the input is the end of the parent.
        while io::stdin().read_line(&mut String::new()).is_ok_and(|bytes| bytes > 0) {
            wind_up(&asked);
        }
        asked.ask();
        // A step of a large model would keep its memory and the processor for long; what is left behind is swept by the next run.
        std::thread::sleep(ORPHANED);
        last_words::end(STOPPED.into());
    })?;
    // The learner draws on this bar; nobody sees it but the parent, to whom it is told.
    let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::hidden());
    let (watched, speaker) = (bar.clone(), say.clone());
    last_words::watch_panics(
        move || watched.position(),
        move |kind, message, help| speaker(&Word::Failed { kind, message, help: help.map(str::to_owned) }),
    )
    .path("start a thread", "panic-watch")?;

    let speaker = say.clone();
    let store = Store::open(&order.store)?.telling(move |notice| match notice {
        Notice::Waiting(_) => {
            speaker(&Word::Waiting(true));
            speaker(&Word::Note(notice.to_string()));
        }
        Notice::Resumed(_) => speaker(&Word::Waiting(false)),
        _ => speaker(&Word::Note(notice.to_string())),
    });
    // What was whole when the grid was planned may not be any more.
    for input in order.stage.reads()? {
        store.take(&input)?;
    }
    let (device, name) = crate::device::open(&order.device)?;
    let beside = order.beside.iter().map(|name| crate::device::open(name).map(|(device, _)| device));
    let execution = Execution {
        micro_batch: order.micro_batch,
        beside: beside.collect::<Result<_>>()?,
        recompute: order.recompute,
        precision: order.precision,
        looks_late: crate::device::kind_of(&name) != "cpu",
        bar: Some(bar.clone()),
        stop: Some(stop.clone()),
        ..Execution::default()
    };
    let place = Place { device, name, execution, checkpoint_every: order.checkpoint_every };
    let bench = Bench::new(&store, place, &order.folders);
    let id = order.stage.id(&bench.numeric())?;
    if store.is_busy(&id)? {
        say(&Word::Busy);
        return Ok(());
    }
    let noticeboard = store.clone();
    spawn("progress", move || {
        let (mut last, mut posted) = (Progress::default(), None);
        loop {
            std::thread::sleep(Duration::from_millis(300));
            let now = Progress { done: bar.position(), total: bar.length().unwrap_or(0), message: bar.message() };
            if now != last {
                say(&Word::Progress(now.clone()));
                let post = Post::new(now.clone(), posted.as_ref());
                noticeboard.post(&id, &serde_json::to_string(&post).unwrap_or_default());
                (last, posted) = (now, Some(post));
            }
        }
    })?;
    order.stage.make(&bench).map(|_| ())
}

fn spawn(name: &str, work: impl FnOnce() + Send + 'static) -> Result<()> {
    std::thread::Builder::new().name(name.to_owned()).spawn(work).path("start a thread", name).map(|_| ())
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;

    #[test]
    fn a_process_that_the_system_ends_for_want_of_memory_is_told_from_one_that_somebody_killed() {
        let status = Command::new("sh").args(["-c", "kill -9 $$"]).status().unwrap();
        let log = Path::new("no log");
        assert_eq!(died(&status, log, true).0, ErrorKind::OutOfMemory);
        let (kind, message, help) = died(&status, log, false);
        assert_eq!((kind, message.as_str()), (ErrorKind::Killed, "the stage's process was ended by signal 9"));
        assert!(help.unwrap().contains("may have run out of memory"));
        let polite = Command::new("sh").args(["-c", "kill -15 $$"]).status().unwrap();
        assert_eq!(died(&polite, log, true).0, ErrorKind::Killed);
    }

    #[test]
    fn what_the_system_counts_is_read_by_its_whole_name() {
        let text = "oom_kill_other 7\nnr_free 12\noom_kill 3\n";
        assert_eq!(field(text, "oom_kill"), Some(3));
        assert_eq!(field("nr_free 12\n", "oom_kill"), None);
    }

    #[test]
    fn stages_go_to_the_device_with_the_fewest() {
        let names = ["cuda:0", "cuda:1", "cuda:2"].map(|name| vec![name.to_owned()]);
        let devices = Devices { groups: names.to_vec(), stages: 2 };
        assert_eq!(devices.workers(), 6);
        let mut running = Vec::new();
        while let Some(device) = devices.free(running.iter().copied()) {
            running.push(device);
        }
        assert_eq!(running, [0, 1, 2, 0, 1, 2]);
        // Two of the second have ended, one of the third.
        for (running, next) in
            [(&[0, 0, 2, 2][..], 1), (&[0, 0, 1, 2], 1), (&[0, 0, 1, 2, 2], 1), (&[0, 1, 1, 2, 2], 0)]
        {
            assert_eq!(devices.free(running.iter().copied()), Some(next), "{running:?}");
        }
        assert_eq!(Devices::one("cpu", 1).free([0].into_iter()), None);
        assert_eq!(Devices::one("cpu", 2).free([0].into_iter()), Some(0));
        // The same device twice is two of them.
        let twice = Devices { groups: vec![vec!["cpu".to_owned()]; 2], stages: 1 };
        assert_eq!((twice.free([0].into_iter()), twice.free([0, 1].into_iter())), (Some(1), None));
    }
}

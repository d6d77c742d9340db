//! Downloads.

use std::{
    fs::{self, File},
    io::{self, IsTerminal, Read, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use indicatif::{HumanBytes, ProgressBar, ProgressStyle};
use serde::Deserialize;
use sha2::{Digest, Sha256};
use ureq::{
    Agent, Body,
    http::{HeaderMap, HeaderValue, Response, StatusCode, Uri, header},
};

use super::{Cache, Hub, Kind, Listing, Repo, is_commit_hash, is_etag, is_inside, printable, settings::Settings};
use crate::{Error, Result, error::IoContext};

/// The longest list of files that is read, in bytes; the longest on the hub are a few million.
const LONGEST_LIST: u64 = 1 << 26;
/// As often is somebody else's address followed.
const MOST_REDIRECTS: usize = 10;
/// As often is a request repeated that failed for a reason that may pass.
const RETRIES: u32 = 3;
/// A download that was cut off goes on for as long as each request brings this many bytes.
const PROGRESS: u64 = 1 << 20;
/// The longest that a server may ask us to wait.
const LONGEST_WAIT: Duration = Duration::from_secs(60);

pub(super) const NO_HUB: &str = "is `HF_ENDPOINT` the address of a hub? Check it, and proxies";
const NETWORK: &str =
    "check the network, `HF_ENDPOINT` and `HTTPS_PROXY`; with `HF_HUB_OFFLINE=1` only local files are looked at";

/// The real hub, or a mirror of it, with the cache that it downloads into.
#[derive(Clone)]
pub struct HfHub {
    cache: Cache,
    endpoint: String,
    /// Never shown to anybody but the endpoint.
    token: Option<Arc<str>>,
    agent: Agent,
    /// How long a server may be silent.
    patience: Duration,
    /// Before a request is repeated for the first time.
    pause: Duration,
    bars: bool,
}

/// A request that came to nothing.
struct Failure {
    error: Error,
    cure: Cure,
}

/// What may help.
enum Cure {
    Nothing,
    /// Doing it again, after as long as the server asked for.
    Repeat(Option<Duration>),
    /// Throwing away what came.
    Discard,
}

impl Failure {
    fn passing(error: Error) -> Self {
        Self { error, cure: Cure::Repeat(None) }
    }

    fn damaged(what: &str) -> Self {
        Self { error: Error::new(format!("the download is damaged: {what}")).help("try again"), cure: Cure::Discard }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self { error, cure: Cure::Nothing }
    }
}

/// What came of a request, after all redirects.
struct Answer {
    /// The headers of the answers of the hub itself, those that came last. Other hosts may serve bytes, but say nothing about a file.
    head: HeaderMap,
    response: Response<Body>,
    /// Who the response is from.
    host: String,
    /// Whether that is not the hub.
    elsewhere: bool,
}

/// The rest of a file, from some byte on.
struct Rest {
    etag: String,
    /// Length of the whole file.
    size: u64,
    /// The byte that the body starts with.
    start: u64,
    response: Response<Body>,
    host: String,
}

impl HfHub {
    /// As the environment variables say; `None` if they forbid the network.
    ///
    /// # Errors
    /// There is nowhere to keep downloads.
    pub fn from_env() -> Result<Option<Self>> {
        let settings = Settings::read();
        if settings.offline {
            return Ok(None);
        }
        let no_home = || Error::new("there is no home folder to keep downloads in").help("set `HF_HOME`");
        let cache = settings.cache.clone().ok_or_else(no_home)?;
        Self::new(cache, &settings).map(Some)
    }

    pub(super) fn new(cache: PathBuf, settings: &Settings) -> Result<Self> {
        // Relative links from a relative folder would point elsewhere.
        let cache = std::path::absolute(&cache).path("find the folder for downloads", &cache)?;
        Ok(Self {
            cache: Cache::new(cache).with_links(settings.links),
            endpoint: settings.endpoint.clone(),
            token: settings.token.as_deref().map(Into::into),
            agent: agent(settings.patience, Agent::config_builder()),
            patience: settings.patience,
            pause: Duration::from_millis(500),
            bars: settings.bars && io::stderr().is_terminal(),
        })
    }

    /// Without a proxy, and without pauses.
    #[cfg(test)]
    pub(super) fn for_tests(self) -> Self {
        let agent = agent(self.patience, Agent::config_builder().proxy(None));
        Self { agent, pause: Duration::ZERO, ..self }
    }

    /// The address of a repository's page.
    fn page(&self, repo: &Repo) -> String {
        match repo.kind {
            Kind::Dataset => format!("{}/datasets/{}", self.endpoint, repo.id),
            Kind::Model => format!("{}/{}", self.endpoint, repo.id),
        }
    }

    /// Asks for an address, from byte `start` on, and for those that it redirects to. The token goes to the endpoint alone. `within` is
    /// how long all may take.
    fn get(&self, address: &str, start: u64, within: Option<Duration>) -> Result<Answer, Failure> {
        let no_address = || {
            // What stands before an `@` is nobody else's business.
            let shown = self.endpoint.rsplit('@').next().unwrap_or_default();
            let message = format!("`{}` is not the address of a hub", printable(shown));
            Error::new(message).help("`HF_ENDPOINT` looks like https://huggingface.co; a token belongs into `HF_TOKEN`")
        };
        let first: Uri = address.parse().map_err(|_| no_address())?;
        let home = origin(&first).ok_or_else(no_address)?;
        let (mut here, mut at_home, mut head) = (first, true, HeaderMap::new());
        for _ in 0..=MOST_REDIRECTS {
            // A packed answer would have another length than the file.
            let request = self.agent.get(&here).header(header::ACCEPT_ENCODING, "identity");
            let mut request = request.config().timeout_global(within).build();
            if let Some(token) = self.token.as_deref().filter(|_| at_home) {
                let value = HeaderValue::try_from(format!("Bearer {token}"));
                let mut value = value
                    .map_err(|_| Error::new("the token has a character that no token has").help("check `HF_TOKEN`"))?;
                value.set_sensitive(true);
                request = request.header(header::AUTHORIZATION, value);
            }
            if start > 0 {
                request = request.header(header::RANGE, format!("bytes={start}-"));
            }
            let host = host(&here);
            let response = request.call().map_err(|cause| self.unanswered(&host, cause))?;
            if at_home {
                // In place of those of an earlier answer, not beside them.
                response.headers().iter().for_each(|(name, value)| _ = head.insert(name, value.clone()));
            }
            let sent_on = [301, 302, 303, 307, 308].contains(&response.status().as_u16());
            let Some(location) = response.headers().get(header::LOCATION).filter(|_| sent_on) else {
                return Ok(Answer { head, response, host, elsewhere: !at_home });
            };
            let location = String::from_utf8_lossy(location.as_bytes());
            let refused = |why: &str| Failure::from(Error::new(format!("{host} redirects to {why}")).help(NO_HUB));
            let next = follow(&here, &location).ok_or_else(|| refused("what is not an address"))?;
            let next_origin = origin(&next).ok_or_else(|| refused("what is not an address"))?;
            if here.scheme_str() == Some("https") && next.scheme_str() != Some("https") {
                return Err(refused("an address that is not encrypted"));
            }
            // Who was once sent elsewhere is not at home again, whatever the address says.
            at_home = at_home && next_origin == home;
            here = next;
        }
        Err(Error::new(format!("{} redirects without end", self.endpoint)).help(NO_HUB).into())
    }

    /// What to say when no answer came, or only a part of one.
    fn unanswered(&self, host: &str, cause: ureq::Error) -> Failure {
        let said = match &cause {
            ureq::Error::Io(cause) => printable(&cause.to_string()),
            cause => printable(&cause.to_string()),
        };
        match cause {
            ureq::Error::Timeout(ureq::Timeout::Global) => {
                Error::new(format!("{host} does not come to an end")).help(NO_HUB).into()
            }
            ureq::Error::Timeout(_) => {
                let error = Error::new(format!("{host} sent nothing for {} s", self.patience.as_secs_f64()));
                let help = "try again: a download goes on where it stopped; `HF_HUB_DOWNLOAD_TIMEOUT` says how many seconds to wait";
                Failure::passing(error.help(help))
            }
            ureq::Error::Io(_) | ureq::Error::HostNotFound | ureq::Error::ConnectionFailed => {
                Failure::passing(Error::new(format!("{host} does not answer: {said}")).help(NETWORK))
            }
            ureq::Error::Protocol(_) | ureq::Error::LargeResponseHeader(..) | ureq::Error::Http(_) => {
                Error::new(format!("{host} answers in a way that is no hub's: {said}")).help(NO_HUB).into()
            }
            _ => Error::new(format!("{host} cannot be reached: {said}")).help(NETWORK).into(),
        }
    }

    /// The error about an answer that is not what was asked for.
    fn refused(&self, repo: &Repo, revision: &str, file: Option<&str>, answer: &Answer) -> Failure {
        let status = answer.response.status();
        let header =
            |name: &str| answer.head.get(name).and_then(|value| value.to_str().ok()).filter(|_| !answer.elsewhere);
        let said = header("x-error-message").map(|said| format!(" ({})", printable(said))).unwrap_or_default();
        let (page, page_of_tokens) = (self.page(repo), format!("{}/settings/tokens", self.endpoint));
        let accept = format!("accept its conditions at {page}");
        let missing = format!("a token from {page_of_tokens}, in `HF_TOKEN`");
        let help = match (status.as_u16(), header("x-error-code"), &self.token) {
            _ if answer.elsewhere => "the host that keeps the file refuses it: try again".to_owned(),
            (401 | 403, Some("GatedRepo"), None) => format!("it is gated: {accept}, and give {missing}"),
            (403, _, None) => format!("it needs a permission: {accept}, and give {missing}"),
            (_, Some("GatedRepo"), Some(_)) | (403, _, Some(_)) => format!(
                "it is gated: {accept}, with the account that the token in `HF_TOKEN` belongs to; a fine-grained token also needs \
                 the permission to read gated repositories ({page_of_tokens})"
            ),
            (401, _, None) => {
                format!("it does not exist, or needs a permission: check the name; else {accept}, and give {missing}")
            }
            (401, _, Some(_)) => {
                format!(
                    "is the token in `HF_TOKEN` valid ({page_of_tokens})? If it is, the repository does not exist, or is not for it"
                )
            }
            (404, Some("RevisionNotFound"), _) => self.no_revision(repo),
            (404, ..) if file.is_some() => {
                "the repository has no such file at this revision, or shows it to nobody without `HF_TOKEN`".to_owned()
            }
            (404, ..) if self.cache.commit(repo).is_some_and(|commit| commit != repo.revision) => {
                self.no_revision(repo)
            }
            (404, ..) => {
                "the hub has no such repository or revision, or shows it to nobody without `HF_TOKEN`".to_owned()
            }
            (429, ..) => format!("too many requests: try again later, or with {missing}"),
            (500.., ..) => "the hub has a problem: try again later".to_owned(),
            _ => NETWORK.to_owned(),
        };
        let message =
            format!("cannot get `{}` at `{revision}` from {}: status {}{said}", repo.id, answer.host, status.as_u16());
        let after =
            answer.response.headers().get(header::RETRY_AFTER).and_then(|value| value.to_str().ok()?.parse().ok());
        let passing = [408, 429, 500, 502, 503, 504].contains(&status.as_u16());
        let cure = if passing { Cure::Repeat(after.map(Duration::from_secs)) } else { Cure::Nothing };
        Failure { error: Error::new(message).help(help), cure }
    }

    fn no_revision(&self, repo: &Repo) -> String {
        match self.cache.commit(repo).filter(|commit| *commit != repo.revision) {
            Some(commit) => format!(
                "the cache says that `{}` is commit {commit}, which the hub does not have any more: remove {} to get what it is now",
                repo.revision,
                self.cache.reference(repo).display()
            ),
            None => format!("its branches, tags and commits are at {}/commits/main", self.page(repo)),
        }
    }

    /// Repeats what fails for a reason that may pass.
    fn patiently<T>(&self, mut attempt: impl FnMut() -> Result<T, Failure>) -> Result<T> {
        let mut failures = 0;
        loop {
            match attempt() {
                Ok(done) => return Ok(done),
                Err(failure) => self.wait_after(failure, &mut failures).map_err(|failure| failure.error)?,
            }
        }
    }

    /// Waits before a request is repeated, longer each time; the failure itself if that would not help.
    fn wait_after(&self, failure: Failure, failures: &mut u32) -> Result<(), Failure> {
        let Cure::Repeat(after) = failure.cure else { return Err(failure) };
        let wait = after.unwrap_or(self.pause * 2u32.pow(*failures));
        *failures += 1;
        if *failures > RETRIES || wait > LONGEST_WAIT {
            return Err(failure);
        }
        std::thread::sleep(wait);
        Ok(())
    }

    /// Asks for a file from byte `start` on, and reads what the hub says about it.
    fn ask(&self, repo: &Repo, commit: &str, file: &str, start: u64) -> Result<Rest, Failure> {
        let address = format!("{}/resolve/{}/{}", self.page(repo), quoted(commit, ""), quoted(file, "/"));
        let answer = self.get(&address, start, None)?;
        let status = answer.response.status();
        if ![StatusCode::OK, StatusCode::PARTIAL_CONTENT].contains(&status) {
            return Err(self.refused(repo, commit, Some(file), &answer));
        }
        let no_hub = |what: String| {
            Error::new(format!("{} answers in a way that is no hub's: {what}", self.endpoint)).help(NO_HUB)
        };
        let text = |value: &HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
        let said = |name: &str| answer.head.get(name).map(text);
        let sent = |name: &str| answer.response.headers().get(name).map(text);
        let etag = said("x-linked-etag")
            .or_else(|| said("etag"))
            .ok_or_else(|| no_hub("it does not say the file's hash".into()))?;
        let etag = etag.trim_start_matches("W/").trim_matches('"').to_owned();
        if !is_etag(&etag) {
            return Err(no_hub(format!("`{}` is not the hash of a file", printable(&etag))).into());
        }
        if let Some(other) = said("x-repo-commit").filter(|other| other != commit) {
            return Err(no_hub(format!("asked for commit {commit}, it answers with `{}`", printable(&other))).into());
        }
        if let Some(packed) = sent("content-encoding").filter(|encoding| encoding != "identity") {
            return Err(no_hub(format!("the file is packed with `{}`", printable(&packed))).into());
        }
        let number = |name: &str, value: Option<String>| match value {
            None => Ok(None),
            Some(value) => match value.trim().parse::<u64>() {
                Ok(number) => Ok(Some(number)),
                Err(_) => Err(no_hub(format!("`{name}` is `{}`", printable(&value)))),
            },
        };
        let linked = number("x-linked-size", said("x-linked-size"))?;
        let (start, sent) = if status == StatusCode::OK {
            (0, number("content-length", sent("content-length"))?)
        } else {
            let range = sent("content-range").unwrap_or_default();
            let parts = range.strip_prefix("bytes ").and_then(|range| range.split_once('/'));
            let (part, total) = parts.ok_or_else(|| no_hub(format!("`content-range` is `{}`", printable(&range))))?;
            let first = part.split_once('-').map(|(first, _)| first.to_owned());
            let total = Some(total.to_owned()).filter(|total| total != "*");
            (number("content-range", first)?.unwrap_or(start), number("content-range", total)?)
        };
        let size = match (linked, sent) {
            (Some(linked), Some(sent)) if linked != sent => {
                return Err(Failure::damaged(&format!("it has {sent} bytes, and the hub says {linked}")));
            }
            (linked, sent) => linked.or(sent).ok_or_else(|| no_hub("it does not say how long the file is".into()))?,
        };
        Ok(Rest { etag, size, start, response: answer.response, host: answer.host })
    }

    /// Downloads into `partial` what is not there yet, and looks whether it is what the hub says.
    fn download(
        &self,
        ask: impl Fn(u64) -> Result<Rest, Failure>,
        first: Rest,
        partial: &Path,
        bar: &ProgressBar,
    ) -> Result<(), Failure> {
        let open = File::options().create(true).truncate(false).read(true).write(true).open(partial);
        let mut out = open.path("write a download", partial)?;
        let mut have = out.metadata().path("read a download", partial)?.len();
        let (etag, size) = (first.etag.clone(), first.size);
        if have > size {
            have = 0;
        }
        // Of a file that is there in part, only the rest is asked for.
        let mut next = Some(first).filter(|_| have == 0);
        room(partial, size - have)?;
        bar.set_length(size);
        let mut failures = 0;
        while next.is_some() || have < size {
            let before = have;
            let rest = next.take().map_or_else(|| ask(have), Ok);
            let outcome = rest.and_then(|rest| {
                if (&rest.etag, rest.size) != (&etag, size) {
                    return Err(Failure::damaged("the file changed meanwhile"));
                }
                if rest.start == 0 && rest.response.status() == StatusCode::OK {
                    // Of a server that sends files as a whole only.
                    have = 0;
                }
                if rest.start != have {
                    return Err(Failure::damaged(&format!("byte {have} was asked for, and byte {} sent", rest.start)));
                }
                self.copy(rest, &mut out, partial, &mut have, bar)
            });
            if have >= before.saturating_add(PROGRESS) {
                failures = 0;
            }
            let cut_off = || Failure::passing(Error::new(format!("only {have} of {size} bytes came")).help(NETWORK));
            match outcome {
                Ok(()) if have == size => {}
                Ok(()) => self.wait_after(cut_off(), &mut failures)?,
                Err(failure) => self.wait_after(failure, &mut failures)?,
            }
        }
        out.set_len(size).and_then(|()| out.sync_all()).path("write a download", partial)?;
        let same = is_what_it_should_be(&mut out, &etag).path("read a download", partial)?;
        if same { Ok(()) } else { Err(Failure::damaged("its SHA-256 is not the hub's")) }
    }

    /// Writes a body behind the `have` bytes of a file that are there.
    fn copy(
        &self,
        rest: Rest,
        out: &mut File,
        partial: &Path,
        have: &mut u64,
        bar: &ProgressBar,
    ) -> Result<(), Failure> {
        let Rest { size, host, response, .. } = rest;
        out.seek(SeekFrom::Start(*have)).path("write a download", partial)?;
        bar.set_position(*have);
        let mut body = response.into_body().into_reader();
        let mut buffer = vec![0; 1 << 16];
        loop {
            match body.read(&mut buffer) {
                Ok(0) => return Ok(()),
                Ok(n) if *have + n as u64 > size => {
                    return Err(Failure::damaged(&format!("it is longer than the {size} bytes that the hub says")));
                }
                Ok(n) => {
                    out.write_all(&buffer[..n]).path("write a download", partial)?;
                    *have += n as u64;
                    bar.inc(n as u64);
                }
                Err(cause) if cause.kind() == io::ErrorKind::Interrupted => {}
                Err(cause) => {
                    let Failure { error, cure } = self.unanswered(&host, cause.into());
                    return Err(Failure { error: error.context(format!("byte {have}")), cure });
                }
            }
        }
    }

    fn bar(&self, file: &str) -> ProgressBar {
        if !self.bars {
            return ProgressBar::hidden();
        }
        let style = "{msg} {wide_bar} {bytes}/{total_bytes} {bytes_per_sec} {eta}";
        let style = ProgressStyle::with_template(style).unwrap_or_else(|_| ProgressStyle::default_bar());
        ProgressBar::no_length().with_style(style).with_message(printable(file))
    }
}

impl Hub for HfHub {
    fn list(&self, repo: &Repo) -> Result<Listing> {
        #[derive(Deserialize)]
        struct Info {
            sha: Option<String>,
            siblings: Option<Vec<Sibling>>,
        }
        #[derive(Deserialize)]
        struct Sibling {
            rfilename: String,
        }
        repo.check()?;
        // A branch stays what it was when its first file was downloaded, so that files of two commits are never mixed.
        let known = self.cache.commit(repo);
        let revision = known.as_deref().unwrap_or(&repo.revision);
        if let Some((commit, files)) =
            known.as_ref().and_then(|commit| Some((commit, self.cache.listing(repo, commit)?)))
        {
            return Ok(Listing { commit: commit.clone(), files });
        }
        let address =
            format!("{}/api/{}/{}/revision/{}", self.endpoint, repo.kind.plural(), repo.id, quoted(revision, ""));
        let text = self.patiently(|| {
            let Answer { mut response, host, .. } = match self.get(&address, 0, Some(self.patience * 30))? {
                answer if answer.response.status() == StatusCode::OK => answer,
                answer => return Err(self.refused(repo, revision, None, &answer)),
            };
            let mut text = Vec::new();
            let body = response.body_mut().as_reader().take(LONGEST_LIST + 1).read_to_end(&mut text);
            body.map_err(|cause| self.unanswered(&host, cause.into()))?;
            Ok(text)
        })?;
        let no_hub = |what: &str| {
            Error::new(format!("the list of files of `{}` from {} {what}", repo.id, self.endpoint)).help(NO_HUB)
        };
        if text.len() as u64 > LONGEST_LIST {
            return Err(no_hub("does not end"));
        }
        let info: Info = serde_json::from_slice(&text).map_err(|_| no_hub("is no such list"))?;
        let commit = info.sha.filter(|sha| super::is_commit(sha)).ok_or_else(|| no_hub("names no commit"))?;
        if (known.is_some() || is_commit_hash(revision)) && commit != revision {
            return Err(no_hub(&format!("is that of commit {commit}, not of {revision}")));
        }
        let mut files: Vec<String> = info.siblings.unwrap_or_default().into_iter().map(|file| file.rfilename).collect();
        files.retain(|file| is_inside(file));
        files.sort();
        files.dedup();
        let listing = Listing { commit, files };
        self.cache.record(repo, &listing)?;
        Ok(listing)
    }

    fn fetch(&self, repo: &Repo, commit: &str, file: &str) -> Result<PathBuf> {
        let pointer = self.cache.pointer(repo, commit, file)?;
        if pointer.is_file() {
            return Ok(pointer);
        }
        self.fetch_to(&pointer, repo, commit, file)
            .map_err(|error| error.context(format!("file `{file}` of `{}`", repo.id)))?;
        Ok(pointer)
    }
}

impl HfHub {
    fn fetch_to(&self, pointer: &Path, repo: &Repo, commit: &str, file: &str) -> Result<()> {
        let bar = self.bar(file);
        let wait = || bar.println(format!("waiting for another process that is downloading {}", printable(file)));
        // Two locks: one for the file, before anything is asked, and one for its content, which Python clients take too.
        let turn = format!(".{:x}", Sha256::digest(format!("{commit}/{file}")));
        let _turn = self.cache.lock(repo, &turn, wait)?;
        if pointer.is_file() {
            return Ok(());
        }
        let ask = |start| self.ask(repo, commit, file, start);
        let first = self.patiently(|| ask(0))?;
        let etag = first.etag.clone();
        let blob = self.cache.blob(repo, &etag)?;
        let mut first = Some(first);
        let lock = self.cache.lock(repo, &etag, || {
            // Nobody keeps a connection open for as long as another process may need.
            first = None;
            wait();
        })?;
        if pointer.is_file() {
            return Ok(());
        }
        let fresh = !blob.is_file();
        if fresh {
            // Without a lock each process has a file of its own.
            let own = if lock.is_some() { String::new() } else { format!(".{}", std::process::id()) };
            let partial = blob.with_file_name(format!("{etag}{own}.incomplete"));
            let first = first.map_or_else(|| self.patiently(|| ask(0)), Ok)?;
            let done = self.download(ask, first, &partial, &bar);
            bar.finish_and_clear();
            if let Err(Failure { error, cure }) = done {
                if let Cure::Discard = cure {
                    fs::remove_file(&partial).path("remove a damaged download", &partial)?;
                }
                return Err(error);
            }
            fs::rename(&partial, &blob).path("put a download in its place", &blob)?;
        }
        self.cache.link(&blob, pointer, fresh)
    }
}

/// Whether a file has the SHA-256 that its ETag is, as those of large files are; others are not hashes of the content alone.
fn is_what_it_should_be(file: &mut File, etag: &str) -> io::Result<bool> {
    if etag.len() != 64 || !etag.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Ok(true);
    }
    file.rewind()?;
    let mut hasher = Sha256::new();
    io::copy(file, &mut hasher)?;
    Ok(format!("{:x}", hasher.finalize()) == etag.to_lowercase())
}

/// An error if the disk has no room for a file: a server may promise any length.
#[cfg(unix)]
fn room(file: &Path, needed: u64) -> Result<()> {
    use std::{ffi::CString, mem::MaybeUninit, os::unix::ffi::OsStrExt};
    let Ok(path) = CString::new(file.as_os_str().as_bytes()) else { return Ok(()) };
    let mut found = MaybeUninit::<libc::statvfs>::uninit();
    // SAFETY: `path` ends with a zero, and `found` is written to where 0 is returned.
    let found = unsafe {
        if libc::statvfs(path.as_ptr(), found.as_mut_ptr()) != 0 {
            return Ok(());
        }
        found.assume_init()
    };
    #[allow(clippy::useless_conversion, reason = "the numbers are narrower on some systems")]
    let free = u64::from(found.f_bavail).saturating_mul(u64::from(found.f_frsize));
    if free >= needed {
        return Ok(());
    }
    let message = format!("the download needs {}, and the disk has {}", HumanBytes(needed), HumanBytes(free));
    let error = Error::new(message).in_file(file.parent().unwrap_or(file));
    Err(error.help("make room, or name a folder on another disk with `HF_HUB_CACHE` or `HF_HOME`"))
}

#[cfg(not(unix))]
fn room(_: &Path, _: u64) -> Result<()> {
    Ok(())
}

/// Scheme, host and port, which together say who is spoken to; `None` if that cannot be told, or a name and password are given.
fn origin(address: &Uri) -> Option<(String, String, u16)> {
    let scheme = address.scheme_str()?.to_lowercase();
    let port = match scheme.as_str() {
        "http" => 80,
        "https" => 443,
        _ => return None,
    };
    let authority = address.authority().filter(|authority| !authority.as_str().contains('@'))?;
    Some((scheme, authority.host().to_lowercase(), authority.port_u16().unwrap_or(port)))
}

/// Where an answer redirects to.
fn follow(here: &Uri, location: &str) -> Option<Uri> {
    let (scheme, authority) = (here.scheme_str()?, here.authority()?);
    let before_path = location.split(['/', '?', '#']).next().unwrap_or_default();
    let whole = if before_path.contains(':') {
        location.to_owned()
    } else if location.starts_with("//") {
        format!("{scheme}:{location}")
    } else if location.starts_with('/') {
        format!("{scheme}://{authority}{location}")
    } else {
        let folder = here.path().rsplit_once('/').map_or("", |(folder, _)| folder);
        format!("{scheme}://{authority}{folder}/{location}")
    };
    whole.parse().ok()
}

/// The host of an address, for messages: what follows it may hold a signature.
fn host(address: &Uri) -> String {
    let authority = address.authority().map(|authority| authority.as_str()).unwrap_or_default();
    format!("{}://{}", address.scheme_str().unwrap_or_default(), printable(authority))
}

/// A part of an address: everything but letters, digits, `-._~` and what is in `kept` is written as `%XX`.
fn quoted(text: &str, kept: &str) -> String {
    let quote = |byte: u8| match char::from(byte) {
        c if c.is_ascii_alphanumeric() || "-._~".contains(c) || kept.contains(c) => c.to_string(),
        _ => format!("%{byte:02X}"),
    };
    text.bytes().map(quote).collect()
}

fn agent(patience: Duration, config: ureq::config::ConfigBuilder<ureq::typestate::AgentScope>) -> Agent {
    // Redirects are followed by hand: the token must stay behind.
    config
        .max_redirects(0)
        .http_status_as_error(false)
        .timeout_resolve(Some(patience))
        .timeout_connect(Some(patience))
        .timeout_recv_response(Some(patience * 6))
        .timeout_per_read(Some(patience))
        .timeout_per_write(Some(patience))
        .user_agent(concat!("w2s/", env!("CARGO_PKG_VERSION")))
        .build()
        .into()
}

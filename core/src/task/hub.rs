//! The Hugging Face hub: which files a repository has, and getting one.

use std::{
    env, fs,
    io::IsTerminal,
    path::{Component, Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
        mpsc,
    },
    time::{Duration, Instant},
};

use hf_hub::{
    Cache, RepoType,
    api::{
        Progress,
        sync::{ApiBuilder, ApiError, ApiRepo},
    },
};
use indicatif::ProgressBar;
use sha2::{Digest, Sha256};

use crate::{Error, Result, error::IoContext};

/// What a repository holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A data set.
    Dataset,
    /// A model.
    Model,
}

/// A repository on the hub at some revision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Repo {
    /// What it holds.
    pub kind: Kind,
    /// `organisation/name`.
    pub id: String,
    /// Commit, tag or branch.
    pub revision: String,
}

/// A place that repositories can be downloaded from.
pub trait Hub: Send + Sync {
    /// Files of a repository, as paths from its root.
    fn list(&self, repo: &Repo) -> Result<Vec<String>>;

    /// Downloads a file; returns where it is on this machine.
    fn fetch(&self, repo: &Repo, file: &str) -> Result<PathBuf>;
}

/// The real hub, with the folder where Python's `huggingface_hub` keeps its downloads.
#[derive(Clone, Debug)]
pub struct HfHub {
    cache: PathBuf,
    endpoint: String,
    token: Option<String>,
    /// How long a download may stand still.
    patience: Duration,
}

/// How far a download is, for the thread that waits for it, and on the screen if that is a terminal.
#[derive(Clone)]
struct Watch {
    size: Arc<AtomicU64>,
    got: Arc<AtomicU64>,
    bar: Option<ProgressBar>,
}

impl Watch {
    fn new() -> Self {
        let bar = std::io::stderr().is_terminal().then(|| ProgressBar::new(0));
        Self { size: Arc::default(), got: Arc::default(), bar }
    }
}

impl Progress for Watch {
    fn init(&mut self, size: usize, filename: &str) {
        self.size.store(size as u64, Ordering::Relaxed);
        if let Some(bar) = &mut self.bar {
            bar.set_position(0);
            bar.init(size, filename);
        }
    }

    fn update(&mut self, size: usize) {
        self.got.fetch_add(size as u64, Ordering::Relaxed);
        if let Some(bar) = &mut self.bar {
            bar.update(size);
        }
    }

    fn finish(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

/// The folder where downloads are kept: `HF_HUB_CACHE`, else `HF_HOME/hub`, else `~/.cache/huggingface/hub`.
pub fn cache_folder() -> Option<PathBuf> {
    if let Some(cache) = variable("HF_HUB_CACHE") {
        return Some(cache.into());
    }
    Some(home()?.join("hub"))
}

/// `HF_HOME`, else `~/.cache/huggingface`.
fn home() -> Option<PathBuf> {
    match variable("HF_HOME") {
        Some(home) => Some(home.into()),
        None => Some(env::home_dir()?.join(".cache").join("huggingface")),
    }
}

/// Whether `HF_HUB_OFFLINE` forbids the network.
pub fn is_offline() -> bool {
    variable("HF_HUB_OFFLINE").is_some_and(|value| matches!(value.to_lowercase().as_str(), "1" | "true" | "yes" | "on"))
}

fn variable(name: &str) -> Option<String> {
    env::var(name).ok().map(|value| value.trim().to_owned()).filter(|value| !value.is_empty())
}

impl HfHub {
    /// As `HF_HOME`, `HF_HUB_CACHE`, `HF_ENDPOINT` and `HF_TOKEN` say; `None` if `HF_HUB_OFFLINE` forbids the network.
    pub fn from_env() -> Result<Option<Self>> {
        if is_offline() {
            return Ok(None);
        }
        let cache = cache_folder()
            .ok_or_else(|| Error::new("there is no home folder to keep downloads in").help("set `HF_HOME`"))?;
        let endpoint = variable("HF_ENDPOINT").unwrap_or_else(|| "https://huggingface.co".into());
        let saved = || fs::read_to_string(home()?.join("token")).ok();
        let token = variable("HF_TOKEN").or_else(saved).map(|token| token.trim().to_owned());
        Ok(Some(Self::new(cache, endpoint, token.filter(|token| !token.is_empty()))))
    }

    /// A hub at `endpoint` whose downloads are kept in `cache`.
    pub fn new(cache: PathBuf, endpoint: impl Into<String>, token: Option<String>) -> Self {
        let patience = Duration::from_secs(120);
        Self { cache, endpoint: endpoint.into().trim_end_matches('/').into(), token, patience }
    }

    fn repo(&self, repo: &Repo) -> Result<ApiRepo> {
        // Relative links from a relative cache folder would point elsewhere.
        let cache = std::path::absolute(&self.cache).path("find the folder for downloads", &self.cache)?;
        let kind = match repo.kind {
            Kind::Dataset => RepoType::Dataset,
            Kind::Model => RepoType::Model,
        };
        let api = ApiBuilder::from_cache(Cache::new(cache))
            .with_endpoint(self.endpoint.clone())
            .with_token(self.token.clone())
            .with_progress(false)
            .with_retries(3)
            .build()
            .map_err(|cause| self.explain(repo, None, &cause))?;
        Ok(api.repo(hf_hub::Repo::with_revision(repo.id.clone(), kind, repo.revision.clone())))
    }

    fn explain(&self, repo: &Repo, file: Option<&str>, cause: &ApiError) -> Error {
        let text = cause.to_string();
        let Repo { id, revision, .. } = repo;
        let error = Error::new(format!("cannot get `{id}` at `{revision}` from {}: {text}", self.endpoint));
        let answered = |status: u32| text.contains(&format!("status: {status}"));
        let error = error.help(if answered(401) || answered(403) {
            "it needs a permission: accept its conditions on the hub, and set `HF_TOKEN`"
        } else if answered(404) && file.is_some() {
            "the repository has no such file at this revision, or shows it to nobody without `HF_TOKEN`"
        } else if answered(404) {
            "the hub has no such repository or revision, or shows it to nobody without `HF_TOKEN`"
        } else {
            "check the network, `HF_ENDPOINT` and `HTTPS_PROXY`; with `HF_HUB_OFFLINE=1` only local files are looked at"
        });
        match file {
            Some(file) => error.context(format!("file `{file}`")),
            None => error,
        }
    }
}

/// Whether a path that a server names stays inside its repository.
fn is_inside(file: &str) -> bool {
    !file.is_empty() && Path::new(file).components().all(|part| matches!(part, Component::Normal(_)))
}

impl Hub for HfHub {
    fn list(&self, repo: &Repo) -> Result<Vec<String>> {
        let api = self.repo(repo)?;
        let info = self.patiently("its list of files", &Watch::new(), move || api.info())?;
        let info = info.map_err(|cause| self.explain(repo, None, &cause))?;
        Ok(info.siblings.into_iter().map(|file| file.rfilename).filter(|file| is_inside(file)).collect())
    }

    fn fetch(&self, repo: &Repo, file: &str) -> Result<PathBuf> {
        if !is_inside(file) {
            return Err(Error::new(format!("`{file}` is not a path inside a repository")));
        }
        let start = Instant::now();
        let (path, size) = loop {
            match self.download(repo, file)? {
                // Another process is downloading the same file.
                (Err(ApiError::LockAcquisition(_)), _) if start.elapsed() < Duration::from_secs(1800) => {}
                (result, size) => {
                    break (result.map_err(|cause| self.explain(repo, Some(file), &cause))?, size);
                }
            }
        };
        verify(&path, size)?;
        Ok(path)
    }
}

impl HfHub {
    /// What the library says of a download, and how long the hub says the file is.
    fn download(&self, repo: &Repo, file: &str) -> Result<(Result<PathBuf, ApiError>, u64)> {
        let (api, watch, name) = (self.repo(repo)?, Watch::new(), file.to_owned());
        let inside = watch.clone();
        let result = self.patiently(&format!("`{file}`"), &watch, move || api.download_with_progress(&name, inside))?;
        Ok((result, watch.size.load(Ordering::Relaxed)))
    }

    /// Does something with the library in another thread, because the library waits for ever for a server that has stopped sending.
    fn patiently<T: Send + 'static>(
        &self,
        what: &str,
        watch: &Watch,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T> {
        const TICK: Duration = Duration::from_millis(100);
        let (sender, receiver) = mpsc::channel();
        std::thread::spawn(move || sender.send(work()));
        let (mut seen, mut since) = (0, Instant::now());
        loop {
            match receiver.recv_timeout(TICK.min(self.patience)) {
                Ok(result) => return Ok(result),
                Err(mpsc::RecvTimeoutError::Timeout) => {
                    let got = watch.got.load(Ordering::Relaxed);
                    if got != seen {
                        (seen, since) = (got, Instant::now());
                    } else if since.elapsed() > self.patience {
                        let seconds = self.patience.as_secs_f64();
                        let message =
                            format!("{} sent nothing for {seconds} s, at byte {got} of {what}", self.endpoint);
                        return Err(Error::new(message).help("try again: a download goes on where it stopped"));
                    }
                }
                Err(mpsc::RecvTimeoutError::Disconnected) => {
                    let message = format!("{} answered in a way that is no hub's, for {what}", self.endpoint);
                    return Err(Error::new(message).help("check `HF_ENDPOINT` and proxies"));
                }
            }
        }
    }
}

/// A download that is not as long as the hub says, or does not have its SHA-256, under which large files are kept, is removed.
fn verify(path: &Path, size: u64) -> Result<()> {
    let blob = fs::canonicalize(path).path("read the download", path)?;
    let damaged = |what: &str| -> Result<()> {
        fs::remove_file(path).path("remove the damaged download", path)?;
        fs::remove_file(&blob).path("remove the damaged download", &blob)?;
        Err(Error::new(format!("the download is damaged: {what}")).in_file(path).help("try again"))
    };
    let length = fs::metadata(&blob).path("read the download", &blob)?.len();
    if length != size {
        return damaged(&format!("it has {length} bytes, and the hub says {size}"));
    }
    let Some(name) = blob.file_name().and_then(|name| name.to_str()) else { return Ok(()) };
    if name.len() != 64 || !name.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Ok(());
    }
    let mut hasher = Sha256::new();
    let mut file = fs::File::open(&blob).path("read the download", &blob)?;
    std::io::copy(&mut file, &mut hasher).path("read the download", &blob)?;
    let found = format!("{:x}", hasher.finalize());
    if found != name.to_lowercase() {
        return damaged("its SHA-256 is not the hub's");
    }
    Ok(())
}

#[cfg(test)]
#[allow(clippy::print_stderr, reason = "a test that does not run says so")]
mod tests {
    use std::{
        io::{Read, Write},
        net::{TcpListener, TcpStream},
        thread,
    };

    use super::*;

    const BODY: &str = "{\"sentence\": \"good\", \"label\": 1}\n";

    /// A hub on this machine that answers as the real one does; `etag` is what it calls the file. Returns its address.
    fn serve(etag: String) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        thread::spawn(move || listener.incoming().flatten().for_each(|stream| answer(stream, &etag)));
        address
    }

    fn answer(mut stream: TcpStream, etag: &str) {
        let (mut request, mut buffer) = (String::new(), [0; 4096]);
        while !request.contains("\r\n\r\n") {
            match stream.read(&mut buffer) {
                Ok(n) if n > 0 => request.push_str(&String::from_utf8_lossy(&buffer[..n])),
                _ => return,
            }
        }
        let request = request.to_lowercase();
        let has = |line: &str| request.starts_with(&format!("get {line} "));
        let reply = |status: &str, headers: &str, body: &str| {
            format!("HTTP/1.1 {status}\r\n{headers}content-length: {}\r\nconnection: close\r\n\r\n{body}", body.len())
        };
        let text = if has("/api/datasets/org/set/revision/main") {
            let files = r#"{"sha": "c0ffee", "siblings": [{"rfilename": "sst2/train.jsonl"}, {"rfilename": "../../evil.jsonl"}]}"#;
            reply("200 OK", "content-type: application/json\r\n", files)
        } else if has("/datasets/org/set/resolve/main/sst2/train.jsonl") {
            assert!(request.contains("authorization: bearer secret"));
            let first = request.contains("range: bytes=0-0");
            let (range, body) =
                if first { ("0-0".into(), &BODY[..1]) } else { (format!("0-{}", BODY.len() - 1), BODY) };
            let headers =
                format!("etag: \"{etag}\"\r\nx-repo-commit: c0ffee\r\ncontent-range: bytes {range}/{}\r\n", BODY.len());
            reply("206 Partial Content", &headers, body)
        } else if has("/api/datasets/org/gated/revision/main") {
            reply("401 Unauthorized", "", "")
        } else {
            reply("404 Not Found", "", "")
        };
        let _ = stream.write_all(text.as_bytes());
    }

    fn repo(id: &str) -> Repo {
        Repo { kind: Kind::Dataset, id: id.into(), revision: "main".into() }
    }

    /// Whether requests to this machine would be sent to a proxy.
    fn proxied() -> bool {
        ["ALL_PROXY", "HTTPS_PROXY", "HTTP_PROXY"]
            .iter()
            .any(|name| variable(name).or_else(|| variable(&name.to_lowercase())).is_some())
    }

    #[test]
    fn lists_fetches_and_keeps_files() {
        if proxied() {
            eprintln!("not run: a proxy is set");
            return;
        }
        let folder = tempfile::tempdir().unwrap();
        let hub = HfHub::new(folder.path().into(), serve("0123abcd".into()) + "/", Some("secret".into()));
        assert_eq!(hub.list(&repo("org/set")).unwrap(), ["sst2/train.jsonl"]);
        let path = hub.fetch(&repo("org/set"), "sst2/train.jsonl").unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), BODY);
        assert!(path.ends_with("datasets--org--set/snapshots/c0ffee/sst2/train.jsonl"), "{path:?}");
        let main = fs::read_to_string(folder.path().join("datasets--org--set/refs/main")).unwrap();
        assert_eq!(main, "c0ffee");
        let error = hub.fetch(&repo("org/set"), "../x").unwrap_err();
        assert_eq!(error.message(), "`../x` is not a path inside a repository");
        let error = hub.list(&repo("org/gated")).unwrap_err();
        assert!(error.remedy().unwrap().contains("HF_TOKEN"), "{error}");
        let error = hub.list(&repo("org/none")).unwrap_err();
        assert!(error.remedy().unwrap().contains("no such repository"), "{error}");
        let error = HfHub::new(folder.path().into(), "http://127.0.0.1:9", None).list(&repo("org/set")).unwrap_err();
        assert!(error.remedy().unwrap().contains("HF_HUB_OFFLINE"), "{error}");
    }

    #[test]
    fn downloads_are_checked_against_their_hash() {
        if proxied() {
            eprintln!("not run: a proxy is set");
            return;
        }
        let digest: String = Sha256::digest(BODY).iter().map(|byte| format!("{byte:02x}")).collect();
        let folder = tempfile::tempdir().unwrap();
        let hub = HfHub::new(folder.path().into(), serve(digest), Some("secret".into()));
        assert!(hub.fetch(&repo("org/set"), "sst2/train.jsonl").is_ok());
        let folder = tempfile::tempdir().unwrap();
        let hub = HfHub::new(folder.path().into(), serve("0".repeat(64)), Some("secret".into()));
        let error = hub.fetch(&repo("org/set"), "sst2/train.jsonl").unwrap_err();
        assert!(error.message().contains("the download is damaged"), "{error}");
        let left = folder.path().join("datasets--org--set/snapshots/c0ffee/sst2/train.jsonl");
        assert!(fs::symlink_metadata(left).is_err(), "a damaged download is not left behind");
    }

    /// A hub whose answers to the requests for one file, metadata and parts alike, are what `reply` says of the request and its number.
    fn unreliable(reply: impl Fn(&str, usize) -> Option<String> + Send + 'static) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        thread::spawn(move || {
            let mut waiting = Vec::new();
            for (number, mut stream) in listener.incoming().flatten().enumerate() {
                let (mut request, mut buffer) = (String::new(), [0; 4096]);
                while !request.contains("\r\n\r\n") {
                    match stream.read(&mut buffer) {
                        Ok(n) if n > 0 => request.push_str(&String::from_utf8_lossy(&buffer[..n])),
                        _ => break,
                    }
                }
                match reply(&request.to_lowercase(), number) {
                    Some(text) => _ = stream.write_all(text.as_bytes()),
                    // Left open, and silent.
                    None => waiting.push(stream),
                }
            }
        });
        address
    }

    /// The part of the body from `start` on, of which `sent` is sent, under the file's name and hash.
    fn part(start: usize, sent: &str) -> String {
        let (etag, whole) = (hash(), BODY.len());
        format!(
            "HTTP/1.1 206 Partial Content\r\netag: \"{etag}\"\r\nx-repo-commit: c0ffee\r\ncontent-range: bytes {start}-{}/{whole}\r\n\
             content-length: {}\r\nconnection: close\r\n\r\n{sent}",
            whole - 1,
            whole - start,
        )
    }

    fn hash() -> String {
        Sha256::digest(BODY).iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// The first byte that a request asks for, if it asks for the rest of the file.
    fn rest(request: &str) -> Option<usize> {
        let range = request.lines().find_map(|line| line.strip_prefix("range: bytes="))?;
        range.strip_suffix('-')?.parse().ok()
    }

    fn metadata() -> String {
        format!(
            "HTTP/1.1 206 Partial Content\r\netag: \"{}\"\r\nx-repo-commit: c0ffee\r\ncontent-range: bytes 0-0/{}\r\ncontent-length: 1\r\n\
             connection: close\r\n\r\n{{",
            hash(),
            BODY.len(),
        )
    }

    /// What comes of fetching a file from a hub with these ways, and whether a file is left that would be taken for it.
    fn fetched(
        patience: Duration,
        reply: impl Fn(&str, usize) -> Option<String> + Send + 'static,
    ) -> (Result<String>, bool) {
        let folder = tempfile::tempdir().unwrap();
        let hub = HfHub { patience, ..HfHub::new(folder.path().into(), unreliable(reply), None) };
        let text = hub.fetch(&repo("org/set"), "train.jsonl").map(|path| fs::read_to_string(path).unwrap());
        let left = folder.path().join("datasets--org--set/snapshots/c0ffee/train.jsonl");
        (text, fs::symlink_metadata(left).is_ok())
    }

    #[test]
    fn a_hub_that_fails_leaves_no_file_that_would_be_trusted() {
        if proxied() {
            eprintln!("not run: a proxy is set");
            return;
        }
        const LONG: Duration = Duration::from_secs(60);
        let half = BODY.len() / 2;

        // Cut off once: the rest is asked for, and the file is whole.
        let (text, _) = fetched(LONG, move |request, _| {
            Some(match rest(request) {
                None => metadata(),
                Some(0) => part(0, &BODY[..half]),
                Some(start) => part(start, &BODY[start..]),
            })
        });
        assert_eq!(text.unwrap(), BODY);

        // Sent elsewhere for the contents, as for large files.
        let (text, _) = fetched(LONG, |request, _| {
            let host = request.lines().find_map(|line| line.strip_prefix("host: ")).unwrap();
            Some(if request.starts_with("get /elsewhere") {
                rest(request).map_or_else(metadata, |start| part(start, &BODY[start..]))
            } else {
                format!(
                    "HTTP/1.1 302 Found\r\nlocation: http://{host}/elsewhere\r\nx-linked-etag: \"{}\"\r\nx-repo-commit: c0ffee\r\n\
                     content-length: 0\r\nconnection: close\r\n\r\n",
                    hash()
                )
            })
        });
        assert_eq!(text.unwrap(), BODY);

        // Cut off every time.
        let (text, left) =
            fetched(LONG, |request, _| Some(rest(request).map_or_else(metadata, |start| part(start, ""))));
        assert!(!left && text.unwrap_err().remedy().unwrap().contains("network"));

        // The whole file again when the rest was asked for: longer than the hub said.
        let (text, left) = fetched(LONG, move |request, _| {
            Some(match rest(request) {
                None => metadata(),
                Some(0) => part(0, &BODY[..half]),
                Some(_) => part(0, BODY),
            })
        });
        let message = text.unwrap_err().to_string();
        assert!(!left && message.contains("the download is damaged"), "{message}");

        // The right length with other contents.
        let (text, left) = fetched(LONG, |request, _| {
            Some(rest(request).map_or_else(metadata, |start| part(start, &BODY.replace("good", "evil")[start..])))
        });
        assert!(!left && text.unwrap_err().message().contains("SHA-256"));

        // Silence, before the headers and within the file.
        for silent_from in [0, 1] {
            let (text, left) =
                fetched(Duration::from_millis(300), move |_, number| (number < silent_from).then(metadata));
            let error = text.unwrap_err();
            assert!(!left && error.message().contains("sent nothing for 0.3 s"), "{error}");
        }

        let silent = HfHub::new(tempfile::tempdir().unwrap().path().into(), unreliable(|_, _| None), None);
        let silent = HfHub { patience: Duration::from_millis(300), ..silent };
        let error = silent.list(&repo("org/set")).unwrap_err();
        assert!(error.message().contains("sent nothing for 0.3 s"), "{error}");

        // A repository without this file.
        let (text, _) = fetched(LONG, |_, _| {
            Some("HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\nconnection: close\r\n\r\n".to_owned())
        });
        assert!(text.unwrap_err().remedy().unwrap().contains("no such file"));

        // No hub at all.
        let (text, left) = fetched(LONG, |_, _| {
            Some("HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\nhi".to_owned())
        });
        assert!(!left && text.unwrap_err().message().contains("cannot get `org/set`"));
        let (text, left) = fetched(LONG, |_, _| {
            Some("HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\nconnection: close\r\n\r\n".to_owned())
        });
        assert!(!left && text.unwrap_err().message().contains("503"));
    }
}

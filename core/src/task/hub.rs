//! The Hugging Face hub: which files a repository has, and getting one.

use std::{
    env, fs,
    path::{Component, Path, PathBuf},
    time::{Duration, Instant},
};

use hf_hub::{
    Cache, RepoType,
    api::sync::{ApiBuilder, ApiError, ApiRepo},
};
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
        Self { cache, endpoint: endpoint.into().trim_end_matches('/').into(), token }
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
            .map_err(|cause| self.explain(repo, &cause))?;
        Ok(api.repo(hf_hub::Repo::with_revision(repo.id.clone(), kind, repo.revision.clone())))
    }

    fn explain(&self, repo: &Repo, cause: &ApiError) -> Error {
        let text = cause.to_string();
        let Repo { id, revision, .. } = repo;
        let error = Error::new(format!("cannot get `{id}` at `{revision}` from {}: {text}", self.endpoint));
        let answered = |status: u32| text.contains(&format!("status: {status}"));
        error.help(if answered(401) || answered(403) {
            "it needs a permission: accept its conditions on the hub, and set `HF_TOKEN`"
        } else if answered(404) {
            "the hub has no such repository or revision, or shows it to nobody without `HF_TOKEN`"
        } else {
            "check the network, `HF_ENDPOINT` and `HTTPS_PROXY`; with `HF_HUB_OFFLINE=1` only local files are looked at"
        })
    }
}

/// Whether a path that a server names stays inside its repository.
fn is_inside(file: &str) -> bool {
    !file.is_empty() && Path::new(file).components().all(|part| matches!(part, Component::Normal(_)))
}

impl Hub for HfHub {
    fn list(&self, repo: &Repo) -> Result<Vec<String>> {
        let info = self.repo(repo)?.info().map_err(|cause| self.explain(repo, &cause))?;
        Ok(info.siblings.into_iter().map(|file| file.rfilename).filter(|file| is_inside(file)).collect())
    }

    fn fetch(&self, repo: &Repo, file: &str) -> Result<PathBuf> {
        if !is_inside(file) {
            return Err(Error::new(format!("`{file}` is not a path inside a repository")));
        }
        let api = self.repo(repo)?;
        let start = Instant::now();
        let path = loop {
            match api.download(file) {
                // Another process is downloading the same file.
                Err(ApiError::LockAcquisition(_)) if start.elapsed() < Duration::from_secs(1800) => {}
                result => {
                    break result.map_err(|cause| self.explain(repo, &cause).context(format!("file `{file}`")))?;
                }
            }
        };
        verify(&path)?;
        Ok(path)
    }
}

/// Large files are kept under their SHA-256: a download that was cut short does not have it, and is removed.
fn verify(path: &Path) -> Result<()> {
    let blob = fs::canonicalize(path).path("read the download", path)?;
    let Some(name) = blob.file_name().and_then(|name| name.to_str()) else { return Ok(()) };
    if name.len() != 64 || !name.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Ok(());
    }
    let mut hasher = Sha256::new();
    let mut file = fs::File::open(&blob).path("read the download", &blob)?;
    std::io::copy(&mut file, &mut hasher).path("read the download", &blob)?;
    let found: String = hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
    if found != name.to_lowercase() {
        fs::remove_file(path).path("remove the damaged download", path)?;
        fs::remove_file(&blob).path("remove the damaged download", &blob)?;
        return Err(Error::new("the download is damaged: its SHA-256 is not the hub's")
            .in_file(path)
            .help("try again"));
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
}

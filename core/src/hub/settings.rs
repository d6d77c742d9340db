//! What the environment says about the hub, by the rules of Python's `huggingface_hub`.

use std::{
    env,
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

const PUBLIC: &str = "https://huggingface.co";
/// Seconds that a server may be silent, as in the Python client.
const PATIENCE: u64 = 10;

/// Everything that is set, or its default.
#[derive(Clone)]
pub(super) struct Settings {
    /// `HF_HUB_CACHE`, `HUGGINGFACE_HUB_CACHE`, or `hub` in `HF_HOME`, in `XDG_CACHE_HOME/huggingface` or in `~/.cache/huggingface`.
    pub cache: Option<PathBuf>,
    /// `HF_HUB_OFFLINE`; where it says nothing, `TRANSFORMERS_OFFLINE` or `HF_DATASETS_OFFLINE`.
    pub offline: bool,
    /// `HF_ENDPOINT`, without a `/` at its end.
    pub endpoint: String,
    /// `HF_TOKEN`, `HUGGING_FACE_HUB_TOKEN`, or what is in the file `HF_TOKEN_PATH`, by default `token` in `HF_HOME`; none if
    /// `HF_HUB_DISABLE_IMPLICIT_TOKEN` forbids to send it unasked.
    pub token: Option<String>,
    /// How long a server may be silent: the longer of `HF_HUB_DOWNLOAD_TIMEOUT` and `HF_HUB_ETAG_TIMEOUT`, in seconds.
    pub patience: Duration,
    /// Whether files are links to blobs: not with `HF_HUB_DISABLE_SYMLINKS`.
    pub links: bool,
    /// Whether progress may be shown: not with `HF_HUB_DISABLE_PROGRESS_BARS`.
    pub bars: bool,
}

impl Settings {
    pub fn read() -> Self {
        Self::from(|name| env::var_os(name))
    }

    /// From any set of variables. One that is empty counts as not set.
    pub fn from(get: impl Fn(&str) -> Option<OsString>) -> Self {
        let get = |name: &str| get(name).filter(|value| !value.is_empty());
        let text = |name: &str| {
            let value = get(name)?.to_string_lossy().trim().to_owned();
            (!value.is_empty()).then_some(value)
        };
        let is_true = |value: String| matches!(value.to_uppercase().as_str(), "1" | "ON" | "YES" | "TRUE");
        let flag = |name: &str| text(name).is_some_and(is_true);
        let user = || get("HOME").map(PathBuf::from).or_else(env::home_dir);
        let path = |name: &str| Some(expand(&get(name)?, user, get));
        let home = path("HF_HOME").or_else(|| {
            let caches = path("XDG_CACHE_HOME").or_else(|| Some(user()?.join(".cache")))?;
            Some(caches.join("huggingface"))
        });
        let saved = || {
            let file = path("HF_TOKEN_PATH").or_else(|| Some(home.clone()?.join("token")))?;
            let token = fs::read_to_string(file).ok()?.replace(['\r', '\n'], "").trim().to_owned();
            (!token.is_empty()).then_some(token)
        };
        let offline = ["HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_DATASETS_OFFLINE"];
        let seconds = ["HF_HUB_DOWNLOAD_TIMEOUT", "HF_HUB_ETAG_TIMEOUT"].into_iter().filter_map(text);
        let seconds = seconds.filter_map(|value| value.parse().ok()).max().filter(|seconds| *seconds > 0);
        Self {
            cache: path("HF_HUB_CACHE")
                .or_else(|| path("HUGGINGFACE_HUB_CACHE"))
                .or_else(|| Some(home.clone()?.join("hub"))),
            offline: offline.into_iter().find_map(text).is_some_and(is_true),
            endpoint: text("HF_ENDPOINT").unwrap_or_else(|| PUBLIC.into()).trim_end_matches('/').into(),
            token: if flag("HF_HUB_DISABLE_IMPLICIT_TOKEN") {
                None
            } else {
                text("HF_TOKEN").or_else(|| text("HUGGING_FACE_HUB_TOKEN")).or_else(saved)
            },
            patience: Duration::from_secs(seconds.unwrap_or(PATIENCE)),
            links: !flag("HF_HUB_DISABLE_SYMLINKS"),
            bars: !flag("HF_HUB_DISABLE_PROGRESS_BARS"),
        }
    }
}

/// A path with the home folder for `~` and the values of variables for `$NAME` and `${NAME}`, as Python's `expanduser` and `expandvars`.
/// A variable that is not set stays as it is written.
fn expand(path: &OsString, user: impl Fn() -> Option<PathBuf>, get: impl Fn(&str) -> Option<OsString>) -> PathBuf {
    let Some(mut rest) = path.to_str() else { return path.into() };
    let mut text = String::new();
    if let Some(below) = rest.strip_prefix('~').filter(|below| below.is_empty() || below.starts_with('/'))
        && let Some(Some(home)) = user().as_deref().map(Path::to_str)
    {
        text.push_str(home.trim_end_matches('/'));
        rest = below;
    }
    while let Some((before, after)) = rest.split_once('$') {
        text.push_str(before);
        let bare = after.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(after.len());
        let (name, length) = match after.strip_prefix('{').and_then(|inner| inner.split_once('}')) {
            Some((name, _)) => (name, name.len() + 2),
            None => (&after[..bare], bare),
        };
        match get(name).as_deref().map(|value| value.to_str()) {
            Some(Some(value)) if !name.is_empty() => text.push_str(value),
            _ => {
                text.push('$');
                text.push_str(&after[..length]);
            }
        }
        rest = &after[length..];
    }
    (text + rest).into()
}

/// The folder of downloads that `huggingface_hub` uses with these environment variables; `None` where there is no home folder.
pub fn cache_folder() -> Option<PathBuf> {
    Settings::read().cache
}

/// Whether `HF_HUB_OFFLINE`, or `TRANSFORMERS_OFFLINE` or `HF_DATASETS_OFFLINE` in its place, forbids the network.
pub fn is_offline() -> bool {
    Settings::read().offline
}

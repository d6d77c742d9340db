//! Where a model's files are: a folder, the cache of `huggingface_hub`, or the hub.

use std::{collections::BTreeMap, fs, path::Path, path::PathBuf};

use serde::{Deserialize, Serialize};

use super::{config::ModelConfig, plan::Places};
use crate::{
    Error, Result,
    error::IoContext,
    hub::{Cache, Hub, Kind, Repo, Snapshot},
};

/// What a model cannot do without, beside its weights.
const NEEDED: [&str; 2] = ["config.json", "tokenizer.json"];
/// The first Qwen's in place of `tokenizer.json`.
const TIKTOKEN: &str = "qwen.tiktoken";
/// What changes how a text is read, where a repository has it.
const BESIDE: [&str; 2] = ["tokenizer_config.json", "special_tokens_map.json"];
/// What says how texts end, before `config.json` does; downloaded with the rest, and not missed where somebody has the rest already: what ends
/// a text is part of the identity of what writes.
const ENDS: &str = "generation_config.json";
const WEIGHTS: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";

/// A model's folder, and where it came from. Recorded in `grid.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ModelFolder {
    /// The folder.
    pub folder: PathBuf,
    /// Its repository on the hub, if the folder is a snapshot of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hub: Option<String>,
    /// The commit that it is a snapshot of.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub commit: Option<String>,
    /// What people should know about it.
    #[serde(skip)]
    pub note: Option<String>,
}

/// Where a model's files are: its own `path`, a folder given with `--models`, what `huggingface_hub` has downloaded, or the hub. What is
/// on this machine is never asked for.
///
/// # Errors
/// They are nowhere, or not all of them are; whatever fails at downloading.
pub fn model_folder(model: &ModelConfig, places: &Places) -> Result<ModelFolder> {
    let here = |folder: PathBuf| ModelFolder { folder, hub: None, commit: None, note: None };
    if let Some(path) = &model.file.path {
        return Ok(here(model.folder.join(path)));
    }
    let repo = repo(model);
    let [id, short, _] = names(model, &repo);
    let mut partly = Vec::new();
    for root in &places.models {
        for name in names(model, &repo) {
            let folder = root.join(name);
            if folder.join("config.json").is_file() {
                return Ok(here(folder));
            }
        }
        for cache in [root.clone(), root.join("hub")] {
            let Some(snapshot) = Cache::new(cache).snapshot(&repo) else { continue };
            let missing = missing(&snapshot)?;
            if missing.is_empty() {
                let note = unknown(&snapshot, id);
                return Ok(ModelFolder { note, ..of_hub(&repo, snapshot.commit, snapshot.folder) });
            }
            partly.push(format!("{} lacks {}", snapshot.folder.display(), missing.join(", ")));
        }
    }
    let by_hand = format!(
        "put config.json, tokenizer.json and *.safetensors into DIR/{short} and give `--models DIR`, or set W2S_MODELS"
    );
    let Some(remote) = &places.sources.hub else {
        let found = if partly.is_empty() { String::new() } else { format!(" ({})", partly.join("; ")) };
        let message = format!(
            "`{id}` at `{}` is neither in a folder of models nor in the hub's cache{found}, and HF_HUB_OFFLINE forbids the hub",
            repo.revision
        );
        return Err(Error::new(message).help(format!("turn downloading on (`HF_HUB_OFFLINE=0`); or {by_hand}")));
    };
    download(&**remote, &repo).map_err(|error| error.or_help(&by_hand))
}

/// A model's `config.json`, wherever it is; of what is on the hub that file alone is downloaded.
///
/// # Errors
/// It is nowhere, or cannot be downloaded.
pub(super) fn config_file(model: &ModelConfig, places: &Places) -> Result<PathBuf> {
    const CONFIG: &str = NEEDED[0];
    let repo = repo(model);
    let cached = |root: &PathBuf| {
        let caches = [root.clone(), root.join("hub")].into_iter();
        caches
            .filter_map(|cache| Cache::new(cache).snapshot(&repo))
            .map(|snapshot| snapshot.folder.join(CONFIG))
            .collect()
    };
    let named = |root: &PathBuf| names(model, &repo).map(|name| root.join(name).join(CONFIG));
    let there = |file: &PathBuf| file.is_file();
    if let Some(path) = &model.file.path {
        return Ok(model.folder.join(path).join(CONFIG));
    }
    for root in &places.models {
        let cached: Vec<PathBuf> = cached(root);
        if let Some(file) = named(root).into_iter().chain(cached).find(there) {
            return Ok(file);
        }
    }
    let Some(remote) = &places.sources.hub else {
        let message = format!("there is no `{CONFIG}` of `{}`, and HF_HUB_OFFLINE forbids the hub", repo.id);
        let short = names(model, &repo)[1];
        return Err(Error::new(message).help(format!("put it into DIR/{short} and give `--models DIR`")));
    };
    let listing = remote.list(&repo)?;
    remote.fetch(&repo, &listing.commit, CONFIG)
}

/// Where a model is on the hub, if it is there.
fn repo(model: &ModelConfig) -> Repo {
    let id = model.file.hub.as_deref().unwrap_or(&model.name);
    let revision = model.file.revision.clone().unwrap_or_else(|| "main".to_owned());
    Repo { kind: Kind::Model, id: id.to_owned(), revision }
}

/// What a folder of a model may be called within one of models.
fn names<'a>(model: &'a ModelConfig, repo: &'a Repo) -> [&'a str; 3] {
    let id = repo.id.as_str();
    [id, id.rsplit('/').next().unwrap_or(id), &model.name]
}

fn of_hub(repo: &Repo, commit: String, folder: PathBuf) -> ModelFolder {
    ModelFolder { folder, hub: Some(repo.id.clone()), commit: Some(commit), note: None }
}

/// The files of a model that a snapshot does not have, though its repository may.
fn missing(snapshot: &Snapshot) -> Result<Vec<String>> {
    let there = |file: &str| snapshot.folder.join(file).is_file();
    let mut wanted: Vec<String> = NEEDED.map(String::from).into();
    match &snapshot.files {
        // Of a repository without a tokenizer, say, there is nothing more to get.
        Some(files) => {
            wanted.extend(BESIDE.into_iter().chain([TIKTOKEN]).map(String::from));
            wanted.extend(weights(files).map(String::from));
            wanted.retain(|file| files.contains(file));
        }
        None if there(INDEX) && !there(WEIGHTS) => wanted.push(INDEX.to_owned()),
        None => wanted.push(WEIGHTS.to_owned()),
    }
    if snapshot.files.is_none() && there(TIKTOKEN) {
        wanted.retain(|file| file != NEEDED[1]);
    }
    if wanted.iter().any(|file| file == INDEX) && there(INDEX) {
        wanted.extend(shards(&snapshot.folder.join(INDEX))?);
    }
    Ok(snapshot.missing(&wanted).into_iter().map(String::from).collect())
}

/// The file that says where the weights are, among those of a repository, as transformers chooses it.
fn weights(files: &[String]) -> Option<&'static str> {
    [WEIGHTS, INDEX].into_iter().find(|name| files.iter().any(|file| file == name))
}

/// The files that the index of a model's weights names.
fn shards(index: &Path) -> Result<Vec<String>> {
    #[derive(Deserialize)]
    struct Index {
        weight_map: BTreeMap<String, String>,
    }
    let text = fs::read(index).path("read the index of the weights", index)?;
    let unreadable = |cause| Error::new(format!("the index of the weights cannot be read: {cause}")).in_file(index);
    let map: Index = serde_json::from_slice(&text).map_err(unreadable)?;
    let mut files: Vec<String> = map.weight_map.into_values().collect();
    files.sort();
    files.dedup();
    Ok(files)
}

/// A note about files that somebody may have left out of the cache, where it does not say what the repository has.
fn unknown(snapshot: &Snapshot, id: &str) -> Option<String> {
    let absent: Vec<&str> = BESIDE.into_iter().filter(|file| !snapshot.folder.join(file).is_file()).collect();
    (snapshot.files.is_none() && !absent.is_empty() && !snapshot.says_absent(&absent)).then(|| {
        let files = absent.join(" ");
        format!(
            "{id}: the cache has no {}, and does not say whether the repository has; `hf download {id} {files}` gets what there is",
            absent.join(" and no ")
        )
    })
}

/// Downloads what a model needs of a repository. What the cache has is not downloaded again.
fn download(hub: &dyn Hub, repo: &Repo) -> Result<ModelFolder> {
    let listing = hub.list(repo)?;
    let has = |name: &str| listing.files.iter().any(|file| file == name);
    let fetch = |file: &str| hub.fetch(repo, &listing.commit, file);
    if !has("config.json") {
        let message = format!("`{}` on the hub has no `config.json` at `{}`", repo.id, repo.revision);
        return Err(Error::new(message).help("is it a model of transformers?"));
    }
    let Some(weights) = weights(&listing.files) else {
        let message = format!("`{}` on the hub has neither `{WEIGHTS}` nor `{INDEX}` at `{}`", repo.id, repo.revision);
        return Err(Error::new(message).help(
            "other formats are not read; `save_pretrained` of transformers writes safetensors, and some repositories have \
             them at a revision of their own, such as `refs/pr/1`",
        ));
    };
    let config = fetch("config.json")?;
    NEEDED[1..]
        .iter()
        .chain(&BESIDE)
        .chain(&[TIKTOKEN, ENDS])
        .filter(|file| has(file))
        .try_for_each(|file| fetch(file).map(drop))?;
    let weights_at = fetch(weights)?;
    if weights == INDEX {
        for file in shards(&weights_at)? {
            if !has(&file) {
                let message = format!("the index of the weights names `{file}`, which `{}` does not have", repo.id);
                return Err(Error::new(message).in_file(weights_at));
            }
            fetch(&file)?;
        }
    }
    let folder = config.parent().unwrap_or(&config).to_owned();
    Ok(of_hub(repo, listing.commit.clone(), folder))
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;
    use crate::{grid::ModelFile, hub::Listing, task::Sources};

    const COMMIT: &str = "c0ffee0000000000000000000000000000000000";

    /// A hub that downloads into a cache, and remembers what was downloaded.
    struct Remote {
        cache: PathBuf,
        files: Vec<&'static str>,
        fetched: Arc<Mutex<Vec<String>>>,
    }

    impl Hub for Remote {
        fn list(&self, repo: &Repo) -> Result<Listing> {
            assert_eq!((repo.kind, repo.id.as_str()), (Kind::Model, "org/tiny"));
            Ok(Listing { commit: COMMIT.into(), files: self.files.iter().map(|file| (*file).to_owned()).collect() })
        }

        fn fetch(&self, _: &Repo, commit: &str, file: &str) -> Result<PathBuf> {
            let path = self.cache.join("models--org--tiny/snapshots").join(commit).join(file);
            if !path.exists() {
                self.fetched.lock().unwrap().push(file.to_owned());
                fs::create_dir_all(path.parent().unwrap()).unwrap();
                fs::write(&path, if file == INDEX { INDEXED } else { "" }).unwrap();
            }
            Ok(path)
        }
    }

    const INDEXED: &str =
        r#"{"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors", "c": "model-1.safetensors"}}"#;

    fn model(revision: &str) -> ModelConfig {
        let (hub, revision) = (Some("org/tiny".to_owned()), Some(revision.to_owned()));
        let file = ModelFile { hub, revision, ..ModelFile::default() };
        ModelConfig { name: "mine".into(), file, folder: PathBuf::new(), ..ModelConfig::default() }
    }

    fn places(root: &Path, hub: Option<Remote>) -> Places {
        let hub = hub.map(|hub| Box::new(hub) as Box<dyn Hub>);
        Places { sources: Sources { roots: Vec::new(), hub }, models: vec![root.to_owned()] }
    }

    /// A cache with these files of the model.
    fn cached(files: &[&str]) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        let repository = root.path().join("models--org--tiny");
        for file in files {
            let path = repository.join("snapshots").join(COMMIT).join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, if *file == INDEX { INDEXED } else { "" }).unwrap();
        }
        fs::create_dir_all(repository.join("refs")).unwrap();
        fs::write(repository.join("refs/main"), COMMIT).unwrap();
        root
    }

    #[test]
    fn a_model_in_the_cache_needs_no_hub() {
        let whole = ["config.json", "tokenizer.json", WEIGHTS];
        let parts = ["config.json", "tokenizer.json", INDEX, "model-1.safetensors", "model-2.safetensors"];
        for files in [&whole[..], &parts] {
            let root = cached(files);
            for (revision, root) in [("main", root.path().to_owned()), (COMMIT, root.path().to_owned())] {
                let found = model_folder(&model(revision), &places(&root, None)).unwrap();
                assert_eq!(found.folder, root.join("models--org--tiny/snapshots").join(COMMIT));
                assert_eq!((found.hub.as_deref(), found.commit.as_deref()), (Some("org/tiny"), Some(COMMIT)));
                // Somebody may have downloaded these three alone.
                assert!(
                    found
                        .note
                        .unwrap()
                        .contains("`hf download org/tiny tokenizer_config.json special_tokens_map.json`")
                );
            }
            // `HF_HOME` in place of `HF_HUB_CACHE`.
            let home = tempfile::tempdir().unwrap();
            fs::rename(root.path(), home.path().join("hub")).unwrap();
            model_folder(&model("main"), &places(home.path(), None)).unwrap();
            fs::rename(home.path().join("hub"), root.path()).unwrap();
        }
        let root = cached(&[&whole[..], &BESIDE].concat());
        assert_eq!(model_folder(&model("main"), &places(root.path(), None)).unwrap().note, None);
    }

    #[test]
    fn what_the_cache_lacks_is_named_or_downloaded() {
        let names = [
            "config.json",
            "tokenizer.json",
            ENDS,
            INDEX,
            "model-1.safetensors",
            "model-2.safetensors",
            "x/model.safetensors",
        ];
        for (have, lacks) in [
            (&[][..], "config.json, tokenizer.json, model.safetensors"),
            (&["config.json"], "tokenizer.json, model.safetensors"),
            (&["config.json", "tokenizer.json"], "model.safetensors"),
            (&["config.json", "tokenizer.json", INDEX, "model-2.safetensors"], "model-1.safetensors"),
        ] {
            let root = cached(have);
            let error = model_folder(&model("main"), &places(root.path(), None)).unwrap_err();
            let there = if have.is_empty() { String::new() } else { format!("{COMMIT} lacks {lacks})") };
            assert!(error.message().contains(&there) && error.message().contains("HF_HUB_OFFLINE"), "{error}");
            assert!(error.remedy().unwrap().contains("--models DIR"), "{error}");
            let fetched = Arc::default();
            let remote = Remote { cache: root.path().into(), files: names.into(), fetched: Arc::clone(&fetched) };
            let found = model_folder(&model("main"), &places(root.path(), Some(remote))).unwrap();
            assert_eq!(found.commit.as_deref(), Some(COMMIT));
            let expected: Vec<&str> = names[..6].iter().copied().filter(|name| !have.contains(name)).collect();
            assert_eq!(*fetched.lock().unwrap(), expected, "{have:?}");
        }
        // What is known to be in the repository is not left out without a word.
        let root = cached(&["config.json", "tokenizer.json", WEIGHTS]);
        let list = root.path().join("models--org--tiny/.w2s");
        fs::create_dir_all(&list).unwrap();
        fs::write(
            list.join(format!("{COMMIT}.json")),
            r#"["config.json", "tokenizer_config.json", "model.safetensors"]"#,
        )
        .unwrap();
        let error = model_folder(&model("main"), &places(root.path(), None)).unwrap_err();
        assert!(error.message().contains("lacks tokenizer_config.json"), "{error}");
        fs::write(list.join(format!("{COMMIT}.json")), r#"["config.json", "tokenizer.json", "model.safetensors"]"#)
            .unwrap();
        assert_eq!(model_folder(&model("main"), &places(root.path(), None)).unwrap().note, None);
    }

    #[test]
    fn a_repository_that_is_no_model_is_refused_before_anything_is_downloaded() {
        for (files, expected) in [
            (&["pytorch_model.bin", "config.json", "tokenizer.json"][..], "neither `model.safetensors` nor"),
            (&["model.safetensors"], "no `config.json`"),
            (&[], "no `config.json`"),
        ] {
            let root = tempfile::tempdir().unwrap();
            let fetched = Arc::default();
            let remote = Remote { cache: root.path().into(), files: files.into(), fetched: Arc::clone(&fetched) };
            let error = model_folder(&model("main"), &places(root.path(), Some(remote))).unwrap_err();
            assert!(error.message().contains(expected) && fetched.lock().unwrap().is_empty(), "{error}");
        }
        // An index is a server's word too.
        let root = tempfile::tempdir().unwrap();
        let files = vec!["config.json", INDEX, "model-1.safetensors"];
        let remote = Remote { cache: root.path().into(), files, fetched: Arc::default() };
        let error = model_folder(&model("main"), &places(root.path(), Some(remote))).unwrap_err();
        assert!(error.message().contains("names `model-2.safetensors`"), "{error}");
    }
}

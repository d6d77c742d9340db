//! A grid whose model and data are on a hub: downloaded once, found offline, with the commit on record.

use std::{
    collections::BTreeMap,
    fs,
    io::{Read, Write},
    net::TcpListener,
    path::Path,
    process::Output,
    sync::{Arc, Mutex},
    thread,
};

use serde_json::{Value, json};

use crate::support::{safetensors, tensors, text, w2s_in, word_tokenizer};

const COMMIT: &str = "c0ffee0000000000000000000000000000000000";
const TASK: &str = "name = \"own\"\ntitle = \"x\"\nlicence = \"x\"\ncitation = \"x\"\nclasses = [\"no\", \"yes\"]\ntemplate = \"{{ text }}\"\n\n\
                    [source]\nhub = \"org/set\"\n\n[splits]\ntrain = \"train\"\ntest = \"test\"\n\n[label.column]\nname = \"label\"\n";
const GRID: &str = "[grid]\ntasks = [\"own\"]\npairs = [{ weak = \"own\", strong = \"other\" }]\nmethods = [\"finetune\"]\nseeds = [0]\n\n\
                    [data]\nmax_tokens = 16\n\n[train]\nbatch_size = 8\n";

/// The files of the repositories, by their addresses.
fn files() -> BTreeMap<String, Vec<u8>> {
    let golden: Value = serde_json::from_str(include_str!("golden/golden_tiny_forward.json")).unwrap();
    let gpt2 = &golden["models"]["gpt2"];
    let rows = |n: usize| -> String {
        let row = |row| json!({ "text": format!("t{} t{}", row % 30 + 1, row % 7 + 1), "label": row % 2 });
        (0..n).map(|i| format!("{}\n", row(i))).collect()
    };
    [
        ("models/org/tiny/config.json", gpt2["config"].to_string().into_bytes()),
        ("models/org/tiny/tokenizer.json", word_tokenizer('t').to_string().into_bytes()),
        ("models/org/tiny/model.safetensors", safetensors(&tensors(&gpt2["weights"]))),
        ("models/org/tiny/pytorch_model.bin", b"not wanted".to_vec()),
        ("datasets/org/set/data/train-00000-of-00002.jsonl", rows(50).into_bytes()),
        ("datasets/org/set/data/train-00001-of-00002.jsonl", rows(30).into_bytes()),
        ("datasets/org/set/data/test-00000-of-00001.jsonl", rows(40).into_bytes()),
    ]
    .into_iter()
    .map(|(name, bytes)| (name.to_owned(), bytes))
    .collect()
}

/// A hub with these files. Returns its address and, as they come, the paths that it is asked for.
fn serve() -> (String, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let asked = Arc::new(Mutex::new(Vec::new()));
    let (heard, files) = (asked.clone(), files());
    thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let (mut request, mut buffer) = (String::new(), [0; 4096]);
            while !request.contains("\r\n\r\n") {
                match stream.read(&mut buffer) {
                    Ok(n) if n > 0 => request.push_str(&String::from_utf8_lossy(&buffer[..n])),
                    _ => break,
                }
            }
            let path = request.split(' ').nth(1).unwrap_or_default().trim_start_matches('/').to_owned();
            heard.lock().unwrap().push(path.clone());
            let (headers, body) = answer(&path, &files);
            let head = format!("HTTP/1.1 {headers}content-length: {}\r\nconnection: close\r\n\r\n", body.len());
            let _ = stream.write_all(&[head.as_bytes(), &body].concat());
        }
    });
    (address, asked)
}

fn answer(path: &str, files: &BTreeMap<String, Vec<u8>>) -> (String, Vec<u8>) {
    if let Some(repository) = path.strip_prefix("api/").and_then(|rest| rest.split_once("/revision/")) {
        let names = files.keys().filter_map(|name| name.strip_prefix(repository.0)?.strip_prefix('/'));
        let siblings: Vec<Value> = names.map(|name| json!({ "rfilename": name })).collect();
        return ("200 OK\r\n".into(), json!({ "sha": COMMIT, "siblings": siblings }).to_string().into_bytes());
    }
    let path = path.replace(&format!("/resolve/{COMMIT}/"), "/");
    let name = if path.starts_with("datasets/") { path } else { format!("models/{path}") };
    match files.get(&name) {
        Some(body) => {
            let etag: String = name_of(body);
            (format!("200 OK\r\netag: \"{etag}\"\r\nx-repo-commit: {COMMIT}\r\n"), body.clone())
        }
        None => ("404 Not Found\r\n".into(), Vec::new()),
    }
}

/// Some name for some bytes.
fn name_of(bytes: &[u8]) -> String {
    let sum = bytes
        .iter()
        .fold(0xcbf2_9ce4_8422_2325_u64, |sum, byte| (sum ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3));
    format!("{sum:016x}")
}

fn grid(folder: &Path) {
    for (name, text) in [
        ("grid.toml", GRID),
        ("tasks/own.toml", TASK),
        ("models/own.toml", "hub = \"org/tiny\"\n"),
        ("models/other.toml", "hub = \"org/tiny\"\n"),
    ] {
        let path = folder.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
}

fn run(folder: &Path, variables: &[(&str, &str)], command: &str) -> Output {
    let mut w2s = w2s_in(folder);
    let cleared = ["HF_HOME", "HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "XDG_CACHE_HOME", "HF_TOKEN", "HF_ENDPOINT"];
    let proxies = ["ALL_PROXY", "HTTP_PROXY", "HTTPS_PROXY", "all_proxy", "http_proxy", "https_proxy"];
    cleared.iter().chain(&proxies).for_each(|name| _ = w2s.env_remove(name));
    w2s.env("HOME", folder).envs(variables.iter().copied()).args([command, "grid.toml"]).output().unwrap()
}

#[test]
fn what_a_grid_needs_is_downloaded_once_and_found_offline() {
    let folder = tempfile::tempdir().unwrap();
    grid(folder.path());
    let (address, asked) = serve();
    let online = [("HF_HUB_OFFLINE", "0"), ("HF_ENDPOINT", address.as_str())];
    let output = run(folder.path(), &online, "run");
    assert!(output.status.success(), "{}", text(&output));
    let said = text(&output);
    assert!(!said.contains("note: org/tiny"), "{said}");
    let first = asked.lock().unwrap().clone();
    assert!(!first.iter().any(|path| path.contains("pytorch_model")), "{first:?}");
    let mut once = first.clone();
    once.sort();
    once.dedup();
    assert_eq!(once.len(), first.len(), "asked twice: {first:?}");

    for command in ["check", "plan", "run"] {
        let output = run(folder.path(), &online, command);
        assert!(output.status.success(), "{}", text(&output));
    }
    assert_eq!(asked.lock().unwrap().len(), first.len());

    // Which commit the numbers come from.
    let read = |path: &Path| -> Value { serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap() };
    let record = read(&folder.path().join("results/grid/grid.json"));
    for model in ["own", "other"] {
        assert_eq!(record["models"][model]["hub"], "org/tiny");
        assert_eq!(record["models"][model]["commit"], COMMIT);
    }
    let data = record["cells"][0]["data_stage"].as_str().unwrap();
    let task = read(&folder.path().join("results/stages").join(data).join("task.json"));
    assert_eq!(task["files"].as_array().unwrap().len(), 3);
    assert!(task["files"].as_array().unwrap().iter().all(|file| file["commit"] == COMMIT), "{task}");

    // Wherever the variables put the cache, it is found without a network.
    let cache = folder.path().join(".cache/huggingface/hub");
    let elsewhere = folder.path().join("elsewhere/hub");
    let offline = |variables: &[(&str, &str)], found: bool| {
        let output = run(folder.path(), variables, "check");
        assert_eq!(output.status.success(), found, "{variables:?}: {}", text(&output));
        found || text(&output).contains("`org/tiny` at `main` is neither in a folder of models nor in the hub's cache")
    };
    assert!(offline(&[("HF_HUB_OFFLINE", "1")], true));
    assert!(offline(&[("HF_HUB_OFFLINE", ""), ("TRANSFORMERS_OFFLINE", "1")], true));
    fs::create_dir_all(elsewhere.parent().unwrap()).unwrap();
    fs::rename(&cache, &elsewhere).unwrap();
    assert!(offline(&[("HF_HUB_OFFLINE", "1")], false));
    assert!(offline(&[("HF_HUB_OFFLINE", "1"), ("HF_HOME", "elsewhere")], true));
    assert!(offline(&[("HF_HUB_OFFLINE", "1"), ("HF_HUB_CACHE", "~/elsewhere/hub")], true));
    assert!(offline(&[("HF_HUB_OFFLINE", "1"), ("HUGGINGFACE_HUB_CACHE", "$HOME/elsewhere/hub")], true));

    // A commit that the cache does not have, and one that it has.
    let pinned = |commit: &str| {
        fs::write(folder.path().join("models/own.toml"), format!("hub = \"org/tiny\"\nrevision = \"{commit}\"\n"))
            .unwrap();
        run(folder.path(), &[("HF_HUB_OFFLINE", "1"), ("HF_HOME", "elsewhere")], "check").status.success()
    };
    assert!(pinned(COMMIT) && !pinned(&"beef".repeat(10)));
    assert_eq!(asked.lock().unwrap().len(), first.len());
}

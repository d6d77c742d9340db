//! Against hubs on this machine: honest ones, failing ones and hostile ones.

use std::{
    collections::{BTreeMap, BTreeSet},
    ffi::OsString,
    fs::{self, File},
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    thread,
    time::Duration,
};

use sha2::{Digest, Sha256};

use super::{settings::Settings, *};

const BODY: &str = "{\"sentence\": \"good\", \"label\": 1}\n";
const COMMIT: &str = "c0ffee0000000000000000000000000000000000";
const LONG: Duration = Duration::from_secs(60);

// ---- a hub ----

/// What was asked: the first line and the headers, in small letters.
struct Asked(String);

impl Asked {
    fn is(&self, path: &str) -> bool {
        self.0.starts_with(&format!("get {path} "))
    }

    fn header(&self, name: &str) -> Option<&str> {
        self.0.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
    }

    /// The first byte that is asked for.
    fn start(&self) -> usize {
        self.header("range").map_or(0, |range| range["bytes=".len()..].trim_end_matches('-').parse().unwrap())
    }
}

type Questions = Arc<Mutex<Vec<String>>>;

/// A hub that answers with the bytes that `reply` makes of a request and its number, and stays silent where they are none. Returns its
/// address and what it was asked.
fn serve(reply: impl Fn(&Asked, usize) -> Option<Vec<u8>> + Send + Sync + 'static) -> (String, Questions) {
    serve_streams(move |asked, number, stream| {
        let bytes = reply(asked, number)?;
        // Whoever has heard enough hangs up.
        let _ = stream.write_all(&bytes);
        Some(())
    })
}

fn serve_streams(
    reply: impl Fn(&Asked, usize, &mut TcpStream) -> Option<()> + Send + Sync + 'static,
) -> (String, Questions) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let (questions, reply) = (Questions::default(), Arc::new(reply));
    let heard = questions.clone();
    thread::spawn(move || {
        for (number, mut stream) in listener.incoming().flatten().enumerate() {
            let (heard, reply) = (heard.clone(), reply.clone());
            thread::spawn(move || {
                let (mut request, mut buffer) = (String::new(), [0; 4096]);
                while !request.contains("\r\n\r\n") {
                    match stream.read(&mut buffer) {
                        Ok(n) if n > 0 => request.push_str(&String::from_utf8_lossy(&buffer[..n])),
                        _ => return,
                    }
                }
                let asked = Asked(request.to_lowercase());
                heard.lock().unwrap().push(asked.0.clone());
                if reply(&asked, number, &mut stream).is_none() {
                    // Left open, and silent.
                    thread::sleep(LONG);
                }
            });
        }
    });
    (address, questions)
}

fn answer(status: &str, headers: &str, body: &[u8]) -> Vec<u8> {
    let head = format!("HTTP/1.1 {status}\r\n{headers}content-length: {}\r\nconnection: close\r\n\r\n", body.len());
    [head.as_bytes(), body].concat()
}

/// A whole file, or the rest of it, as the hub sends it.
fn file(asked: &Asked, etag: &str, body: &[u8]) -> Vec<u8> {
    let headers = format!("etag: \"{etag}\"\r\nx-repo-commit: {COMMIT}\r\n");
    match asked.start() {
        0 => answer("200 OK", &headers, body),
        start => part(&headers, start, body.len(), &body[start..]),
    }
}

fn part(headers: &str, start: usize, whole: usize, sent: &[u8]) -> Vec<u8> {
    let range = format!("{headers}content-range: bytes {start}-{}/{whole}\r\n", whole - 1);
    answer("206 Partial Content", &range, sent)
}

/// An answer that promises more than it sends.
fn cut(bytes: &[u8], keep: usize) -> Vec<u8> {
    let body = bytes.windows(4).position(|window| window == b"\r\n\r\n").unwrap() + 4;
    bytes[..body + keep].to_vec()
}

fn hash(bytes: &[u8]) -> String {
    format!("{:x}", Sha256::digest(bytes))
}

fn listing(files: &[&str]) -> Vec<u8> {
    let files: Vec<_> = files.iter().map(|file| serde_json::json!({ "rfilename": file })).collect();
    let text = serde_json::json!({ "sha": COMMIT, "siblings": files }).to_string();
    answer("200 OK", "content-type: application/json\r\n", text.as_bytes())
}

fn repo(id: &str) -> Repo {
    Repo { kind: Kind::Dataset, id: id.into(), revision: "main".into() }
}

fn settings(endpoint: &str, token: Option<&str>) -> Settings {
    let variables =
        BTreeMap::from([("HF_ENDPOINT", endpoint.to_owned()), ("HF_TOKEN", token.unwrap_or_default().into())]);
    Settings::from(|name| variables.get(name).map(OsString::from))
}

/// A client that knows no proxy and does not wait before it tries again.
fn client(cache: &Path, endpoint: &str, token: Option<&str>, patience: Duration) -> HfHub {
    let settings = Settings { patience, ..settings(endpoint, token) };
    HfHub::new(cache.into(), &settings).unwrap().for_tests()
}

fn read(path: Result<PathBuf>) -> Result<String> {
    path.map(|path| fs::read_to_string(path).unwrap())
}

/// Everything below a folder: its path from there, and what is in it.
fn everything(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    fn visit(folder: &Path, root: &Path, found: &mut BTreeMap<String, Vec<u8>>) {
        for entry in fs::read_dir(folder).unwrap().flatten() {
            let path = entry.path();
            if path.is_dir() {
                visit(&path, root, found);
            } else {
                let name = path.strip_prefix(root).unwrap().to_string_lossy().into_owned();
                found.insert(name, fs::read(&path).unwrap_or_default());
            }
        }
    }
    let mut found = BTreeMap::new();
    visit(folder, folder, &mut found);
    found
}

// ---- an honest hub ----

#[test]
fn lists_fetches_and_keeps_files() {
    let (address, asked) = serve(|asked, _| {
        assert_eq!(asked.header("authorization"), Some("bearer secret"));
        Some(if asked.is("/api/datasets/org/set/revision/main") {
            listing(&["sst2/train.jsonl", "../../evil.jsonl", "a file.csv"])
        } else if asked.is(&format!("/datasets/org/set/resolve/{COMMIT}/sst2/train.jsonl")) {
            file(asked, "0123abcd", BODY.as_bytes())
        } else if asked.is(&format!("/datasets/org/set/resolve/{COMMIT}/a%20file.csv")) {
            file(asked, "empty", b"")
        } else if asked.is("/api/datasets/org/gated/revision/main") {
            answer("401 Unauthorized", "", b"")
        } else {
            answer("404 Not Found", "", b"")
        })
    });
    let folder = tempfile::tempdir().unwrap();
    let hub = client(folder.path(), &(address + "/"), Some("secret"), LONG);
    let found = hub.list(&repo("org/set")).unwrap();
    assert_eq!(
        (found.commit.as_str(), &found.files[..]),
        (COMMIT, &["a file.csv".into(), "sst2/train.jsonl".into()][..])
    );
    let path = hub.fetch(&repo("org/set"), COMMIT, "sst2/train.jsonl").unwrap();
    assert_eq!(fs::read_to_string(&path).unwrap(), BODY);
    assert_eq!(read(hub.fetch(&repo("org/set"), COMMIT, "a file.csv")).unwrap(), "");
    // As the Python client would have left it.
    let set = folder.path().join("datasets--org--set");
    assert_eq!(path, set.join(format!("snapshots/{COMMIT}/sst2/train.jsonl")));
    assert_eq!(fs::read_to_string(set.join("refs/main")).unwrap(), COMMIT);
    assert_eq!(fs::read_to_string(set.join("blobs/0123abcd")).unwrap(), BODY);
    #[cfg(unix)]
    assert_eq!(fs::read_link(&path).unwrap(), Path::new("../../../blobs/0123abcd"));
    // What is there is not asked for again.
    let before = asked.lock().unwrap().len();
    hub.fetch(&repo("org/set"), COMMIT, "sst2/train.jsonl").unwrap();
    assert_eq!(asked.lock().unwrap().len(), before);

    for wrong in ["../x", "/x", "a\\x", "", "a//x"] {
        let error = hub.fetch(&repo("org/set"), COMMIT, wrong).unwrap_err();
        assert!(error.message().contains("is not a path inside a repository"), "{error}");
    }
    let error = hub.list(&repo("org/gated")).unwrap_err();
    assert!(error.remedy().unwrap().contains("HF_TOKEN"), "{error}");
    let error = hub.list(&repo("org/none")).unwrap_err();
    assert!(error.remedy().unwrap().contains("no such repository"), "{error}");
    let error = hub.fetch(&repo("org/set"), COMMIT, "none.csv").unwrap_err();
    assert!(error.remedy().unwrap().contains("no such file"), "{error}");
    for id in ["../x", "a/b/c", "a/..", "a--b/c", "", "a/", "a b"] {
        let error = hub.list(&repo(id)).unwrap_err();
        assert!(error.message().contains("is not the id of a repository"), "{error}");
    }
    for revision in ["../x", "/x", "a\\b", ""] {
        let error = hub.list(&Repo { revision: revision.into(), ..repo("org/set") }).unwrap_err();
        assert!(error.message().contains("is not a revision"), "{error}");
    }
    let error = client(folder.path(), "http://127.0.0.1:9", None, LONG).list(&repo("org/other")).unwrap_err();
    assert!(error.remedy().unwrap().contains("HF_HUB_OFFLINE"), "{error}");
    let error = client(folder.path(), "huggingface.co", None, LONG).list(&repo("org/other")).unwrap_err();
    assert!(error.message().contains("is not the address of a hub"), "{error}");
}

/// A branch is what it was when its first file was downloaded; a commit is itself.
#[test]
fn the_files_of_a_task_are_all_of_one_commit() {
    let (address, asked) = serve(|asked, number| {
        let newer = "beef".repeat(10);
        Some(if asked.is("/api/datasets/org/set/revision/main") {
            // The branch moves with every question.
            let sha = if number == 0 { COMMIT } else { &newer };
            answer("200 OK", "", format!("{{\"sha\": \"{sha}\", \"siblings\": []}}").as_bytes())
        } else if asked.is(&format!("/api/datasets/org/set/revision/{COMMIT}")) {
            listing(&["a.csv"])
        } else {
            answer("404 Not Found", "x-error-code: RevisionNotFound\r\n", b"")
        })
    });
    let folder = tempfile::tempdir().unwrap();
    let hub = client(folder.path(), &address, None, LONG);
    assert_eq!(hub.list(&repo("org/set")).unwrap().commit, COMMIT);
    assert_eq!(hub.list(&repo("org/set")).unwrap().commit, COMMIT);
    let pinned = Repo { revision: COMMIT.into(), ..repo("org/set") };
    assert_eq!(hub.list(&pinned).unwrap().files, ["a.csv"]);
    assert_eq!(hub.list(&pinned).unwrap().files, ["a.csv"]);
    assert_eq!(asked.lock().unwrap().len(), 2);
    // A commit that the hub has no more.
    fs::write(folder.path().join("datasets--org--set/refs/main"), "dead".repeat(10)).unwrap();
    let error = hub.list(&repo("org/set")).unwrap_err();
    assert!(error.remedy().unwrap().contains("refs/main"), "{error}");
    // A hub that answers for another commit than the one that was asked for.
    let (address, _) = serve(|_, _| Some(listing(&["a.csv"])));
    let hub = client(folder.path(), &address, None, LONG);
    let error = hub.list(&Repo { revision: "abcd".repeat(10), ..repo("org/set") }).unwrap_err();
    assert!(error.message().contains(&format!("is that of commit {COMMIT}, not of abcd")), "{error}");
}

#[test]
fn a_refusal_says_what_to_do() {
    let cases = [
        ("401 Unauthorized", "", None, "it does not exist, or needs a permission"),
        (
            "401 Unauthorized",
            "x-error-code: GatedRepo\r\n",
            None,
            "accept its conditions at ADDRESS/datasets/org/set, and give a token from ADDRESS/settings/tokens, in `HF_TOKEN`",
        ),
        (
            "403 Forbidden",
            "x-error-code: GatedRepo\r\n",
            Some("secret"),
            "accept its conditions at ADDRESS/datasets/org/set, with the account that the token",
        ),
        ("403 Forbidden", "", None, "accept its conditions at ADDRESS/datasets/org/set"),
        ("401 Unauthorized", "", Some("secret"), "is the token in `HF_TOKEN` valid"),
        ("404 Not Found", "x-error-code: RevisionNotFound\r\n", None, "its branches, tags and commits are at"),
        ("429 Too Many Requests", "retry-after: 3000\r\n", None, "too many requests"),
        ("500 Oops", "", None, "the hub has a problem"),
    ];
    for (status, headers, token, expected) in cases {
        let (address, asked) = serve(move |_, _| {
            let said = "x-error-message: sorry\r\n";
            Some(answer(status, &format!("{headers}{said}"), b""))
        });
        let folder = tempfile::tempdir().unwrap();
        let hub = client(folder.path(), &address, token, LONG);
        for error in [hub.list(&repo("org/set")).unwrap_err(), hub.fetch(&repo("org/set"), COMMIT, "a").unwrap_err()] {
            let said = error.to_string();
            assert!(said.contains(&expected.replace("ADDRESS", &address)), "{status}: {said}");
            assert!(said.contains(&format!("status {}", &status[..3])) && !said.contains("secret"), "{said}");
            assert!(said.contains("(sorry)"), "{said}");
        }
        // What may pass is tried again, unless the hub asks for more patience than anybody has.
        let questions = asked.lock().unwrap().len();
        assert_eq!(questions, if status.starts_with("500") { 8 } else { 2 }, "{status}");
    }
}

// ---- a failing hub ----

/// What comes of fetching a file from a hub with these ways, and whether a file is left that would be taken for it.
fn fetched(
    patience: Duration,
    reply: impl Fn(&Asked, usize) -> Option<Vec<u8>> + Send + Sync + 'static,
) -> (Result<String>, bool) {
    let folder = tempfile::tempdir().unwrap();
    let hub = client(folder.path(), &serve(reply).0, None, patience);
    let text = read(hub.fetch(&repo("org/set"), COMMIT, "train.jsonl"));
    let set = folder.path().join("datasets--org--set");
    let left = set.join(format!("snapshots/{COMMIT}/train.jsonl"));
    (text, fs::symlink_metadata(left).is_ok() || set.join("blobs").join(hash(BODY.as_bytes())).exists())
}

#[test]
fn a_hub_that_fails_leaves_no_file_that_would_be_trusted() {
    let half = BODY.len() / 2;
    let body = BODY.as_bytes();
    let whole = move |asked: &Asked| file(asked, &hash(body), body);

    // Cut off once: the rest is asked for, and the file is whole.
    let (text, _) =
        fetched(LONG, move |asked, _| Some(if asked.start() == 0 { cut(&whole(asked), half) } else { whole(asked) }));
    assert_eq!(text.unwrap(), BODY);

    // Only a part each time, though more was asked for.
    let (text, _) = fetched(LONG, move |asked, _| {
        let (start, headers) = (asked.start(), format!("etag: {}\r\n", hash(body)));
        Some(part(&headers, start, body.len(), &body[start..body.len().min(start + half)]))
    });
    assert_eq!(text.unwrap(), BODY);

    // Cut off once, by a server that knows no parts.
    let (text, _) = fetched(LONG, move |asked, number| {
        assert_eq!(asked.start(), if number == 0 { 0 } else { half });
        let all = file(&Asked(String::new()), &hash(body), body);
        Some(if number == 0 { cut(&all, half) } else { all })
    });
    assert_eq!(text.unwrap(), BODY);

    // Sent elsewhere for the contents, as for large files.
    let (text, _) = fetched(LONG, move |asked, _| {
        Some(if asked.is("/elsewhere") {
            whole(asked)
        } else {
            let headers =
                format!("location: /elsewhere\r\nx-linked-etag: \"{}\"\r\nx-repo-commit: {COMMIT}\r\n", hash(body));
            answer("302 Found", &headers, b"")
        })
    });
    assert_eq!(text.unwrap(), BODY);

    // Busy, twice.
    let (text, _) = fetched(LONG, move |asked, number| {
        Some(if number < 2 { answer("503 Service Unavailable", "retry-after: 0\r\n", b"") } else { whole(asked) })
    });
    assert_eq!(text.unwrap(), BODY);

    // Cut off every time.
    let (text, left) = fetched(LONG, move |asked, _| Some(cut(&whole(asked), 0)));
    assert!(!left && text.unwrap_err().remedy().unwrap().contains("network"));

    // The beginning again when the rest was asked for: longer than the file, or exactly as long as the rest.
    for sent in [body.len(), body.len() - half] {
        let (text, left) = fetched(LONG, move |asked, _| {
            Some(match asked.start() {
                0 => cut(&file(asked, "0123abcd", body), half),
                _ => part("etag: 0123abcd\r\n", 0, body.len(), &body[..sent]),
            })
        });
        let message = text.unwrap_err().to_string();
        assert!(!left && message.contains("the download is damaged"), "{message}");
    }

    // The right length with other contents.
    let (text, left) =
        fetched(LONG, move |asked, _| Some(file(asked, &hash(body), BODY.replace("good", "evil").as_bytes())));
    assert!(!left && text.unwrap_err().message().contains("SHA-256"));

    // Silence, before the headers and within the file.
    for silent_from in [0, 1] {
        let (text, left) = fetched(Duration::from_millis(100), move |asked, number| {
            (number < silent_from).then(|| cut(&whole(asked), half))
        });
        let error = text.unwrap_err();
        assert!(!left && error.message().contains("sent nothing for 0.1 s"), "{error}");
    }
    let folder = tempfile::tempdir().unwrap();
    let silent = client(folder.path(), &serve(|_, _| None).0, None, Duration::from_millis(100));
    let error = silent.list(&repo("org/set")).unwrap_err();
    assert!(error.message().contains("sent nothing for 0.1 s"), "{error}");

    // No hub at all.
    let (text, left) = fetched(LONG, |_, _| Some(answer("200 OK", "", b"hi")));
    assert!(!left && text.unwrap_err().message().contains("answers in a way that is no hub's"));
    let (text, left) = fetched(LONG, |_, _| Some(answer("503 Service Unavailable", "", b"")));
    assert!(!left && text.unwrap_err().message().contains("503"));
}

/// What an interrupted download left is not downloaded again, and not trusted either.
#[test]
fn a_download_goes_on_where_it_stopped() {
    let body: Vec<u8> = (0..1u32 << 16).flat_map(u32::to_le_bytes).collect();
    let etag = hash(&body);
    for (left, works, starts) in [
        (&body[..100_000], true, vec![0, 100_000]),
        // Killed before the finished file was put in its place.
        (&body[..], true, vec![0]),
        // What is longer than the file is no part of it.
        (&[&body[..], b"more"].concat(), true, vec![0]),
        (&[b"wrong", &body[5..100_000]].concat(), false, vec![0, 100_000]),
    ] {
        let sent = body.clone();
        let name = etag.clone();
        let (address, asked) = serve(move |asked, _| Some(file(asked, &name, &sent)));
        let folder = tempfile::tempdir().unwrap();
        let blobs = folder.path().join("datasets--org--set/blobs");
        fs::create_dir_all(&blobs).unwrap();
        let partial = blobs.join(format!("{etag}.incomplete"));
        fs::write(&partial, left).unwrap();
        let hub = client(folder.path(), &address, None, LONG);
        let fetch = || hub.fetch(&repo("org/set"), COMMIT, "train.bin").map(|path| fs::read(path).unwrap() == body);
        let first = fetch();
        let asked_for: Vec<usize> = asked.lock().unwrap().iter().map(|asked| Asked(asked.clone()).start()).collect();
        assert_eq!(asked_for, starts);
        assert_eq!(first.is_ok(), works);
        assert!(!partial.exists());
        // Whatever was wrong, the next try begins anew.
        assert!(first.unwrap_or_else(|_| fetch().unwrap()));
    }
}

#[test]
fn a_file_is_downloaded_by_one_process_at_a_time() {
    let body = vec![7; 1 << 22];
    let etag = hash(&body);
    let (sent, name) = (body.clone(), etag.clone());
    let (address, asked) = serve(move |asked, _| Some(file(asked, &name, &sent)));
    let folder = tempfile::tempdir().unwrap();
    let fetch = || client(folder.path(), &address, None, LONG).fetch(&repo("org/set"), COMMIT, "train.bin");
    thread::scope(|scope| {
        let others: Vec<_> = (0..4).map(|_| scope.spawn(fetch)).collect();
        for other in others {
            assert!(fs::read(other.join().unwrap().unwrap()).unwrap() == body);
        }
    });
    assert_eq!(asked.lock().unwrap().len(), 1);

    // The lock is the Python client's: what its holder puts in place meanwhile is what is used.
    let other = folder.path().join("datasets--org--other");
    let locks = folder.path().join(".locks/datasets--org--other");
    fs::create_dir_all(&locks).unwrap();
    fs::create_dir_all(other.join("blobs")).unwrap();
    let lock = File::create(locks.join(format!("{etag}.lock"))).unwrap();
    lock.lock().unwrap();
    thread::scope(|scope| {
        let fetch = || client(folder.path(), &address, None, LONG).fetch(&repo("org/other"), COMMIT, "train.bin");
        let waiting = scope.spawn(fetch);
        thread::sleep(Duration::from_millis(300));
        assert!(!waiting.is_finished());
        fs::write(other.join("blobs").join(&etag), "from elsewhere").unwrap();
        drop(lock);
        assert_eq!(read(waiting.join().unwrap()).unwrap(), "from elsewhere");
    });
}

#[test]
fn the_token_is_shown_to_the_endpoint_alone() {
    let body = BODY.as_bytes();
    let (store, seen) = serve(move |asked, _| {
        // Back to where the token may be shown, but not by order of a stranger.
        let back = asked.0.strip_prefix("get /back?").and_then(|rest| rest.split_once(' '));
        Some(match back {
            Some((host, _)) => answer("302 Found", &format!("location: http://{host}/returned\r\n"), b""),
            None => file(asked, "stranger", body),
        })
    });
    let elsewhere = store.clone();
    let (address, asked) = serve(move |asked, _| {
        let linked = format!("x-linked-etag: \"{}\"\r\nx-linked-size: {}\r\n", hash(body), body.len());
        let sent_on = |to: String| Some(answer("302 Found", &format!("{linked}location: {to}\r\n"), b""));
        let host = asked.header("host").unwrap();
        if asked.0.contains("/direct") {
            sent_on(format!("{elsewhere}/file?signature=x"))
        } else if asked.0.contains("/first") {
            // On the hub itself first.
            sent_on("second/direct".into())
        } else if asked.0.contains("/back") {
            sent_on(format!("{elsewhere}/back?{host}"))
        } else if asked.is("/returned") {
            Some(file(asked, "stranger", body))
        } else if asked.0.contains("/named") {
            sent_on(format!("http://user:password@{host}/x"))
        } else if asked.0.contains("/proxy") {
            sent_on(format!("//{}/file", &elsewhere["http://".len()..]))
        } else {
            None
        }
    });
    let folder = tempfile::tempdir().unwrap();
    let hub = client(folder.path(), &address, Some("secret"), LONG);
    for name in ["direct", "first", "back", "proxy"] {
        assert_eq!(read(hub.fetch(&repo("org/set"), COMMIT, name)).unwrap(), BODY, "{name}");
    }
    assert!(hub.fetch(&repo("org/set"), COMMIT, "named").is_err());
    let asked = asked.lock().unwrap();
    for asked in asked.iter() {
        assert_eq!(asked.contains("authorization: bearer secret"), !asked.starts_with("get /returned"), "{asked}");
    }
    let seen = seen.lock().unwrap();
    assert!(seen.len() == 4 && !seen.iter().any(|asked| asked.contains("authorization") || asked.contains("secret")));
    // The hub says what a file is; who keeps it does not.
    assert!(!folder.path().join("datasets--org--set/blobs/stranger").exists());
}

// ---- a hostile hub ----

/// Everything that a hub says about a repository with one file.
struct Says {
    sha: serde_json::Value,
    files: serde_json::Value,
    /// Of the file: status, headers and body.
    status: &'static str,
    headers: Vec<(&'static str, Vec<u8>)>,
    body: Vec<u8>,
    /// In place of the list.
    list: Option<Vec<u8>>,
    /// Goes on for ever with this.
    endless: Option<&'static [u8]>,
}

impl Says {
    fn truth() -> Self {
        let body = BODY.as_bytes().to_vec();
        let headers = [
            ("etag", format!("\"{}\"", "0a".repeat(20))),
            ("x-repo-commit", COMMIT.to_owned()),
            ("content-length", body.len().to_string()),
        ];
        Self {
            sha: COMMIT.into(),
            files: serde_json::json!([{ "rfilename": "train.csv" }]),
            status: "200 OK",
            headers: headers.into_iter().map(|(name, value)| (name, value.into_bytes())).collect(),
            body,
            list: None,
            endless: None,
        }
    }

    fn header(mut self, name: &'static str, value: impl AsRef<[u8]>) -> Self {
        self.headers.retain(|(known, _)| *known != name);
        self.headers.push((name, value.as_ref().to_vec()));
        self
    }

    fn without(mut self, name: &str) -> Self {
        self.headers.retain(|(known, _)| *known != name);
        self
    }

    fn status(self, status: &'static str) -> Self {
        Self { status, ..self }
    }

    fn names(self, file: &str) -> Self {
        Self { files: serde_json::json!([{ "rfilename": file }]), ..self }
    }

    fn sha(self, sha: impl Into<serde_json::Value>) -> Self {
        Self { sha: sha.into(), ..self }
    }

    fn list(self, bytes: impl Into<Vec<u8>>) -> Self {
        Self { list: Some(bytes.into()), ..self }
    }

    fn say(&self, asked: &Asked, stream: &mut TcpStream) -> std::io::Result<()> {
        if asked.0.starts_with("get /api/") {
            let text = serde_json::json!({ "sha": self.sha, "siblings": self.files }).to_string();
            return match &self.list {
                None => stream.write_all(&answer("200 OK", "", text.as_bytes())),
                Some(list) => {
                    stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n")?;
                    stream.write_all(list)?;
                    self.endless.map_or(Ok(()), |more| {
                        loop {
                            stream.write_all(more)?;
                        }
                    })
                }
            };
        }
        stream.write_all(format!("HTTP/1.1 {}\r\n", self.status).as_bytes())?;
        for (name, value) in &self.headers {
            stream.write_all(&[name.as_bytes(), b": ", value, b"\r\n"].concat())?;
        }
        stream.write_all(b"connection: close\r\n\r\n")?;
        stream.write_all(&self.body)?;
        self.endless.map_or(Ok(()), |more| {
            loop {
                stream.write_all(more)?;
            }
        })
    }
}

/// Whatever a server says: nothing is written outside the cache's folder for this repository, nothing that is not the file stands under
/// its name, and the answer is an error in a sentence.
#[test]
fn a_hostile_hub_writes_nothing_but_the_file_in_its_place() {
    let long = "a".repeat(5000);
    let filler: &[u8] = &[b' '; 1 << 16];
    let truth = Says::truth;
    let mut lies: Vec<(String, Says)> = Vec::new();
    let mut lie = |name: &str, says: Says| lies.push((name.to_owned(), says));
    let paths = [
        "../../../evil",
        "..",
        ".",
        "/evil",
        "a/../../../../evil",
        "..\\..\\evil",
        "C:\\evil",
        "C:evil",
        "\\\\host\\share\\evil",
        "a/b",
        "./x",
        "~/evil",
        ".hidden/../../x",
        "%2e%2e%2fevil/..",
        "con:",
        &long,
    ];
    for path in paths {
        lie(&format!("etag {path:.40}"), truth().header("etag", format!("\"{path}\"")));
        lie(&format!("linked etag {path:.40}"), truth().header("x-linked-etag", path));
        lie(&format!("commit {path:.40}"), truth().header("x-repo-commit", path));
        lie(&format!("sha {path:.40}"), truth().sha(path));
        lie(&format!("file {path:.40}"), truth().names(path));
    }
    for bytes in [
        &b"\0"[..],
        b"a\0b",
        b"\x1b[2J",
        b"\xff\xfe../x",
        b"",
        b"\"\"",
        b"W/\"../x\"",
        b"W/W/../x",
        "\u{202e}x".as_bytes(),
    ] {
        let shown = String::from_utf8_lossy(bytes).escape_debug().to_string();
        lie(&format!("etag bytes {shown}"), truth().header("etag", bytes));
        lie(&format!("commit bytes {shown}"), truth().header("x-repo-commit", bytes));
    }
    for name in ["a\0b", "a\nb", "\u{1b}[2Jx", "", "a//b", "a/./b", "a/", "train.csv/../../../../x"] {
        lie(&format!("file {name:?}"), truth().names(name));
    }
    for sha in
        [serde_json::Value::Null, 7.into(), serde_json::json!(["x"]), "a\0b".into(), "".into(), "A".repeat(65).into()]
    {
        lie(&format!("sha {sha}"), truth().sha(sha));
    }
    lie("no etag", truth().without("etag"));
    lie("another commit", truth().header("x-repo-commit", "beef".repeat(10)));
    // Lengths.
    lie("no length", truth().without("content-length"));
    for length in ["-1", "x", "1e3", "99999999999999999999999999", "0x10", " ", "5, 6"] {
        lie(&format!("length {length}"), truth().header("content-length", length));
        lie(&format!("linked size {length}"), truth().header("x-linked-size", length));
    }
    lie("shorter than said", truth().header("content-length", "1000"));
    lie("another linked size", truth().header("x-linked-size", "5"));
    lie("more than any disk has", truth().header("content-length", "9000000000000000000"));
    lie(
        "an endless file",
        Says { endless: Some(filler), ..truth().without("content-length").header("x-linked-size", "40") },
    );
    lie(
        "an endless file of chunks",
        Says { endless: Some(b"5\r\nabcde\r\n"), body: Vec::new(), ..truth().header("transfer-encoding", "chunked") },
    );
    for range in [
        "",
        "x",
        "bytes",
        "bytes 5-9/34",
        "bytes 0-5/3",
        "bytes 0-33/99999999999999999999999",
        "bytes */34",
        "bytes -1-5/34",
        "items 0-1/2",
    ] {
        lie(&format!("range {range}"), truth().status("206 Partial Content").header("content-range", range));
    }
    lie("packed", truth().header("content-encoding", "gzip"));
    lie("packed otherwise", truth().header("content-encoding", "x, y"));
    lie("a huge header", truth().header("x-more", "a".repeat(1 << 20)));
    lie("not HTTP", truth().status("\u{0}\u{1}"));
    lie("status 999", truth().status("999 Whatever"));
    lie("switching protocols", truth().status("101 Switching Protocols"));
    lie("no content", truth().status("204 No Content"));
    // Redirects.
    for location in [
        "/again",
        "",
        "again",
        "?again",
        "#again",
        "//",
        "http://",
        "file:///etc/passwd",
        "ftp://127.0.0.1/x",
        "HTTP:/x",
        "javascript:x",
        "http://[::1",
        "http://127.0.0.1:99999/",
        "http://127.0.0.1:9/",
        "http://a b/",
        "\\\\host\\share",
        "data:text/plain,x",
        &long,
    ] {
        lie(&format!("to {location:.40}"), truth().status("302 Found").header("location", location));
    }
    lie("to what is not text", truth().status("302 Found").header("location", b"\xff\xfe"));
    lie("to nowhere", truth().status("302 Found"));
    // Lists.
    lie("an endless list", Says { endless: Some(filler), ..truth().list("{\"siblings\": [") });
    lie("no list", truth().list("<html>"));
    lie("a list of lists", truth().list("[".repeat(200_000)));
    lie("an empty list", truth().list(""));
    lie("names that are none", Says { files: serde_json::json!([{ "rfilename": 7 }]), ..truth() });
    lie("no names", Says { files: serde_json::json!([{}]), ..truth() });

    for (name, says) in lies {
        let refused = Arc::new(says);
        let speaker = refused.clone();
        let (address, _) = serve_streams(move |asked, _, stream| Some(_ = speaker.say(asked, stream)));
        let root = tempfile::tempdir().unwrap();
        let cache = root.path().join("deep/er/cache");
        let hub = client(&cache, &address, Some("secret"), Duration::from_secs(5));
        let told = hub.list(&repo("org/set"));
        // A name that is no path in a repository is as if it were not there, so it is asked for all the same.
        let named = refused.files[0]["rfilename"].as_str().unwrap_or("train.csv").to_owned();
        let mut wanted = BTreeSet::from([named]);
        let mut commits = BTreeSet::from([COMMIT.to_owned()]);
        match told {
            Ok(listing) => {
                wanted.extend(listing.files);
                commits.insert(listing.commit);
            }
            Err(_) => commits.extend(refused.sha.as_str().map(String::from)),
        }
        let mut served = false;
        for (file, commit) in wanted.iter().flat_map(|file| commits.iter().map(move |commit| (file, commit))) {
            match hub.fetch(&repo("org/set"), commit, file) {
                Ok(path) => {
                    served = true;
                    assert!(path.starts_with(&cache) && fs::read_to_string(&path).unwrap() == BODY, "{name}: {path:?}");
                }
                Err(error) => {
                    let said = error.to_string();
                    assert!(!said.contains("secret") && said.len() < 2000, "{name}: {said}");
                    assert!(!said.chars().any(|c| c.is_control() && c != '\n'), "{name}: {said:?}");
                }
            }
        }
        // Only lies about the list, of which the file knows nothing, end with the file.
        let honest =
            refused.sha.as_str() != Some(COMMIT) || refused.list.is_some() || refused.files != Says::truth().files;
        assert!(!served || honest, "{name}: taken for the file");
        let outside: Vec<_> =
            everything(root.path()).into_keys().filter(|path| !path.starts_with("deep/er/cache/")).collect();
        assert!(outside.is_empty(), "{name}: {outside:?}");
        let rooms = [
            "datasets--org--set/blobs/",
            "datasets--org--set/snapshots/",
            "datasets--org--set/refs/main",
            "datasets--org--set/.w2s/",
            ".locks/datasets--org--set/",
        ];
        for (path, content) in everything(&cache) {
            assert!(rooms.iter().any(|room| path.starts_with(room)), "{name}: {path}");
            let is_file = (path.contains("/snapshots/") || path.contains("/blobs/")) && !path.ends_with(".incomplete");
            assert!(!is_file || content == BODY.as_bytes(), "{name}: {path}");
        }
    }
}

// ---- the environment and the cache ----

/// Values checked against huggingface_hub's own.
#[test]
fn the_environment_is_read_as_by_the_python_client() {
    let home = tempfile::tempdir().unwrap();
    let at = |path: &str| home.path().join(path).to_string_lossy().into_owned();
    fs::create_dir_all(at(".cache/huggingface")).unwrap();
    fs::write(at(".cache/huggingface/token"), " of the file\n").unwrap();
    fs::write(at("elsewhere"), "another").unwrap();
    let read = |variables: &[(&str, &str)]| {
        let mut all = BTreeMap::from([("HOME".to_owned(), at(""))]);
        all.extend(variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
        Settings::from(|name| all.get(name).map(OsString::from))
    };
    let cache = |variables: &[(&str, &str)]| read(variables).cache.unwrap().to_string_lossy().into_owned();
    for (variables, expected) in [
        (&[][..], at(".cache/huggingface/hub")),
        (&[("XDG_CACHE_HOME", "/x")], "/x/huggingface/hub".into()),
        (&[("XDG_CACHE_HOME", "/x"), ("HF_HOME", "/h")], "/h/hub".into()),
        (&[("HF_HOME", "/h"), ("HUGGINGFACE_HUB_CACHE", "/old")], "/old".into()),
        (&[("HF_HUB_CACHE", "/new"), ("HUGGINGFACE_HUB_CACHE", "/old")], "/new".into()),
        (&[("HF_HOME", "~/h")], at("h/hub")),
        (&[("HF_HOME", "~other/h")], "~other/h/hub".into()),
        (&[("HF_HUB_CACHE", "$WORK/c"), ("WORK", "/w")], "/w/c".into()),
        (&[("HF_HUB_CACHE", "/a/${WORK}x/$NONE/$"), ("WORK", "w")], "/a/wx/$NONE/$".into()),
        (&[("HF_HOME", ""), ("HF_HUB_CACHE", "")], at(".cache/huggingface/hub")),
    ] {
        assert_eq!(cache(variables), expected, "{variables:?}");
    }
    for (variables, expected) in [
        (&[][..], false),
        (&[("HF_HUB_OFFLINE", "1")], true),
        (&[("HF_HUB_OFFLINE", "True")], true),
        (&[("HF_HUB_OFFLINE", "on")], true),
        (&[("HF_HUB_OFFLINE", "no")], false),
        (&[("TRANSFORMERS_OFFLINE", "yes")], true),
        (&[("HF_HUB_OFFLINE", "0"), ("TRANSFORMERS_OFFLINE", "1")], false),
        (&[("HF_HUB_OFFLINE", ""), ("TRANSFORMERS_OFFLINE", "1")], true),
        (&[("HF_DATASETS_OFFLINE", "1")], true),
    ] {
        assert_eq!(read(variables).offline, expected, "{variables:?}");
    }
    for (variables, expected) in [
        (&[][..], Some("of the file")),
        (&[("HF_TOKEN", " a \n"), ("HUGGING_FACE_HUB_TOKEN", "b")], Some("a")),
        (&[("HUGGING_FACE_HUB_TOKEN", "b")], Some("b")),
        (&[("HF_TOKEN_PATH", &*at("elsewhere"))], Some("another")),
        (&[("HF_TOKEN_PATH", "/none")], None),
        (&[("HF_HOME", "/none")], None),
        (&[("HF_TOKEN", "a"), ("HF_HUB_DISABLE_IMPLICIT_TOKEN", "1")], None),
    ] {
        assert_eq!(read(variables).token.as_deref(), expected, "{variables:?}");
    }
    assert_eq!(read(&[]).endpoint, "https://huggingface.co");
    assert_eq!(read(&[("HF_ENDPOINT", "http://mirror:8/x/")]).endpoint, "http://mirror:8/x");
    assert_eq!(
        read(&[("HF_HUB_DOWNLOAD_TIMEOUT", "30"), ("HF_HUB_ETAG_TIMEOUT", "5")]).patience,
        Duration::from_secs(30)
    );
    assert_eq!(read(&[("HF_HUB_DOWNLOAD_TIMEOUT", "soon")]).patience, Duration::from_secs(10));
    let shown = read(&[("HF_HUB_DISABLE_PROGRESS_BARS", "1"), ("HF_HUB_DISABLE_SYMLINKS", "1")]);
    assert!(!shown.bars && !shown.links && read(&[]).bars && read(&[]).links);
}

#[test]
fn a_cache_is_read_as_it_lies() {
    let folder = tempfile::tempdir().unwrap();
    let set = folder.path().join("datasets--org--set");
    let write = |path: &str, text: &str| {
        let path = set.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    };
    let cache = Cache::new(folder.path());
    assert!(cache.snapshot(&repo("org/set")).is_none());
    // A branch that is known, of which nothing was downloaded.
    write("refs/main", &format!("{COMMIT}\n"));
    assert!(cache.snapshot(&repo("org/set")).is_none());
    write(&format!("snapshots/{COMMIT}/a.csv"), "");
    write("refs/refs/pr/1", COMMIT);
    write("refs/evil", "../../../other");
    let wanted: Vec<String> = ["a.csv", "b.csv", "../a.csv"].map(String::from).into();
    for revision in ["main", COMMIT, "refs/pr/1"] {
        let snapshot = cache.snapshot(&Repo { revision: revision.into(), ..repo("org/set") }).unwrap();
        assert_eq!((snapshot.commit.as_str(), &snapshot.files), (COMMIT, &None));
        assert_eq!(snapshot.missing(&wanted), ["b.csv", "../a.csv"]);
    }
    for (id, revision) in [
        ("org/set", "evil"),
        ("org/set", "none"),
        ("org/none", "main"),
        ("org/set", "../refs/main"),
        ("../set", "main"),
    ] {
        assert!(cache.snapshot(&Repo { revision: revision.into(), ..repo(id) }).is_none(), "{id} {revision}");
    }
    // What newer Python clients record, and what we do.
    let tree = r#"{"format_version": 1, "files": {"a.csv": {"size": 0, "blob_id": "x"}, "../x": {}, "c.csv": {}}}"#;
    write(&format!("trees/{COMMIT}.json"), tree);
    assert_eq!(cache.snapshot(&repo("org/set")).unwrap().files.unwrap(), ["a.csv", "c.csv"]);
    cache.record(&repo("org/set"), &Listing { commit: COMMIT.into(), files: vec!["a.csv".into()] }).unwrap();
    assert_eq!(cache.snapshot(&repo("org/set")).unwrap().files.unwrap(), ["a.csv"]);
    // What is not there, or damaged, says nothing.
    write(&format!(".w2s/{COMMIT}.json"), "{");
    write(&format!("trees/{COMMIT}.json"), "[]");
    assert_eq!(cache.snapshot(&repo("org/set")).unwrap().files, None);
    assert!(!cache.snapshot(&repo("org/set")).unwrap().says_absent(&["c.csv"]));
    write(&format!(".no_exist/{COMMIT}/c.csv"), "");
    assert!(cache.snapshot(&repo("org/set")).unwrap().says_absent(&["c.csv"]));
}

/// Where there are no links, files are what stands under their names, and are not kept twice.
#[test]
fn a_cache_without_links_has_the_files_themselves() {
    let (address, asked) = serve(|asked, _| Some(file(asked, "0123abcd", BODY.as_bytes())));
    let folder = tempfile::tempdir().unwrap();
    let mut settings = settings(&address, None);
    settings.links = false;
    let hub = HfHub::new(folder.path().into(), &settings).unwrap().for_tests();
    let path = hub.fetch(&repo("org/set"), COMMIT, "a.csv").unwrap();
    assert!(fs::symlink_metadata(&path).unwrap().is_file());
    assert!(!folder.path().join("datasets--org--set/blobs/0123abcd").exists());
    assert_eq!(read(hub.fetch(&repo("org/set"), COMMIT, "a.csv")).unwrap(), BODY);
    assert_eq!(asked.lock().unwrap().len(), 1);
    // A blob that another file is a link to is copied.
    fs::write(folder.path().join("datasets--org--set/blobs/0123abcd"), BODY).unwrap();
    assert_eq!(read(hub.fetch(&repo("org/set"), COMMIT, "b.csv")).unwrap(), BODY);
    assert!(folder.path().join("datasets--org--set/blobs/0123abcd").exists());
    let names: BTreeSet<String> = everything(folder.path()).into_keys().filter(|name| name.contains(".w2s-")).collect();
    assert!(names.is_empty(), "{names:?}");
}

//! Paths in JSON, be they text or not: `#[serde(with = "any_path")]`.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum Spelling {
    Text(PathBuf),
    Bytes(Vec<u8>),
}

/// Text where the path is text, otherwise its bytes.
///
/// # Errors
/// A path that is no text, on a system where paths are no bytes.
pub fn serialize<S: Serializer>(path: &Path, serializer: S) -> Result<S::Ok, S::Error> {
    #[cfg(unix)]
    if path.to_str().is_none() {
        let bytes = std::os::unix::ffi::OsStrExt::as_bytes(path.as_os_str()).to_vec();
        return Spelling::Bytes(bytes).serialize(serializer);
    }
    path.serialize(serializer)
}

/// The path that was [serialized](serialize).
///
/// # Errors
/// Neither text nor bytes.
pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<PathBuf, D::Error> {
    match Spelling::deserialize(deserializer)? {
        Spelling::Text(path) => Ok(path),
        #[cfg(unix)]
        Spelling::Bytes(bytes) => {
            Ok(PathBuf::from(<std::ffi::OsString as std::os::unix::ffi::OsStringExt>::from_vec(bytes)))
        }
        #[cfg(not(unix))]
        Spelling::Bytes(_) => Err(serde::de::Error::custom("a path of bytes")),
    }
}

#[cfg(all(test, unix))]
mod tests {
    use std::{ffi::OsStr, os::unix::ffi::OsStrExt};

    use serde_json::json;

    use super::*;

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Holder {
        #[serde(with = "super")]
        path: PathBuf,
    }

    #[test]
    fn every_path_comes_back() {
        for (bytes, json) in [(&b"a/\xc3\xa9"[..], json!({"path": "a/é"})), (b"a/\xff", json!({"path": [97, 47, 255]}))]
        {
            let holder = Holder { path: OsStr::from_bytes(bytes).into() };
            assert_eq!(serde_json::to_value(&holder).unwrap(), json);
            assert_eq!(serde_json::from_value::<Holder>(json).unwrap(), holder);
        }
    }
}

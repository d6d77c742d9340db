//! The kinds of stages, one file each: a file here is enough to exist.

include!(concat!(env!("OUT_DIR"), "/kinds.rs"));

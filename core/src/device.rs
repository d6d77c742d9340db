//! Where tensors live, chosen at run time.

#[cfg(feature = "cuda")]
mod cuda;
#[cfg(feature = "gpu")]
mod kernels;
#[cfg(feature = "wgpu")]
mod wgpu;

use std::path::Path;

use burn::tensor::Device;

use crate::{Error, Result};

/// A device that is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Choice {
    /// The name that goes into results: `cpu`, or a kind of GPU with a number, as in `cuda:0`.
    pub name: String,
    /// What somebody might not expect of it: why `auto` did not take a GPU, or that a device is no GPU.
    pub note: Option<String>,
}

/// One way to reach GPUs.
struct Kind {
    /// Its name in `--device` and in identities.
    name: &'static str,
    /// What a driver must know.
    interface: &'static str,
    /// The feature of a binary that can use it.
    feature: &'static str,
    /// Lists its devices, GPUs first, in a binary that has the feature.
    ///
    /// It is asked before Burn is: without a driver, Burn panics in a thread of its own.
    list: Option<Lister>,
}

/// Lists devices, of which there may be none.
type Lister = fn() -> Result<Vec<Found>>;

/// A device that a driver knows of. Burn opens it when it is used first.
struct Found {
    device: Device,
    /// What it calls itself, if it is no GPU but computes on the CPU.
    software: Option<String>,
    /// What its driver lacks, so that it cannot be used.
    lacks: Option<&'static str>,
}

/// The function that lists a kind's devices, where the binary has the feature.
macro_rules! with {
    ($feature:literal, $list:path) => {{
        #[cfg(feature = $feature)]
        let list: Option<Lister> = Some($list);
        #[cfg(not(feature = $feature))]
        let list: Option<Lister> = None;
        list
    }};
}

/// All ways to reach GPUs. `auto` tries the first two; the others are GPUs of the second by one interface.
static KINDS: [Kind; 4] = [
    Kind { name: "cuda", interface: "CUDA", feature: "cuda", list: with!("cuda", cuda::list) },
    Kind { name: "wgpu", interface: "wgpu", feature: "wgpu", list: with!("wgpu", wgpu::list) },
    Kind { name: "vulkan", interface: "Vulkan", feature: "wgpu", list: with!("wgpu", wgpu::list_vulkan) },
    Kind { name: "metal", interface: "Metal", feature: "metal", list: with!("metal", wgpu::list_metal) },
];

impl Kind {
    /// The kind and the number that a name like `cuda:1` means; `cuda` is the first.
    fn parse(name: &str) -> Option<(&'static Self, usize)> {
        let (kind, index) = name.split_once(':').unwrap_or((name, "0"));
        let kind = KINDS.iter().find(|known| known.name == kind)?;
        Some((kind, index.parse().ok()?))
    }

    /// Name of one of its devices.
    fn numbered(&self, index: usize) -> String {
        format!("{}:{index}", self.name)
    }

    /// What lists its devices.
    fn lister(&self) -> Result<Lister> {
        self.list.ok_or_else(|| {
            Error::new(format!("this binary was built without {}", self.interface)).help(format!(
                "build it with `cargo build --release --features {}` (docs/gpu.md), or use `--device cpu`",
                self.feature
            ))
        })
    }

    /// One of its devices.
    fn device(&self, index: usize) -> Result<Found> {
        let (name, devices) = (self.name, self.lister()?()?);
        let count = devices.len();
        let found = devices.into_iter().nth(index).ok_or_else(|| match count {
            0 => Error::new(format!("there is no `{name}:{index}`: no driver for {} knows a device", self.interface))
                .help("install the driver of your GPU (docs/gpu.md), or use `--device cpu`"),
            _ => Error::new(format!("there is no `{name}:{index}`: the driver knows {count} of them, counted from 0"))
                .help(format!("choose a smaller number, or see docs/gpu.md on which devices `{name}` counts")),
        })?;
        match found.lacks {
            Some(what) => Err(Error::new(format!("`{name}:{index}` cannot be used: its driver lacks {what}"))
                .help("another driver may have it, docs/gpu.md says how to do without it, or use `--device cpu`")),
            None => Ok(found),
        }
    }
}

/// Chooses a device by name: `cpu`, a kind of GPU with or without a number (`cuda:0`, `vulkan`), or `auto` (the first GPU if this binary and this
/// machine have one, else the CPU).
///
/// A GPU that was asked for and is not there is an error, and where `auto` passes over one, it says so.
///
/// # Errors
/// An unknown name, a kind that this binary was built without, a machine without a driver or with fewer devices.
pub fn choose(name: &str) -> Result<Choice> {
    if name != "auto" {
        return find(name).map(|(found, name)| {
            let note = found.software.map(|software| format!("{name} is no GPU: {software} computes on the CPU"));
            Choice { name, note }
        });
    }
    let mut reasons = Vec::new();
    for kind in &KINDS[..2] {
        match kind.device(0) {
            Ok(Found { software: None, .. }) => return Ok(Choice { name: kind.numbered(0), note: None }),
            Ok(Found { software: Some(software), .. }) => {
                let error = Error::new(format!("the only device is {software}, which is no GPU"));
                reasons.push((kind, error.help(format!("to use it, ask for it: `--device {}`", kind.numbered(0)))));
            }
            Err(error) => reasons.push((kind, error)),
        }
    }
    // What the binary was built for tells more than what it was built without.
    let reason = reasons.iter().find(|(kind, _)| kind.list.is_some()).or(reasons.first());
    let note = reason.and_then(|(_, error)| passed_over(error, Path::new(DRIVER).exists()));
    Ok(Choice { name: "cpu".to_owned(), note })
}

/// Where the kernel's part of NVIDIA's driver stands, if there is one.
const DRIVER: &str = "/proc/driver/nvidia/version";

/// What to say when there is no GPU to take: nothing to those who have none and did not build for one.
fn passed_over(error: &Error, driver: bool) -> Option<String> {
    (driver || cfg!(feature = "gpu")).then(|| {
        let remedy = error.remedy().map(|remedy| format!(" ({remedy})")).unwrap_or_default();
        format!("running on the CPU: {}{remedy}", error.message())
    })
}

/// The name that goes into results of a device that need not be on this machine.
///
/// # Errors
/// An unknown name, a GPU with a binary that cannot use any.
pub fn named(name: &str) -> Result<String> {
    match Kind::parse(name) {
        Some((kind, index)) => kind.lister().map(|_| kind.numbered(index)),
        None => open(name).map(|(_, name)| name),
    }
}

/// The first GPU of a machine that has some, by the name that goes into results: of the first kind that this binary can use.
pub fn usual_gpu() -> String {
    KINDS.iter().find(|kind| kind.list.is_some()).unwrap_or(&KINDS[0]).numbered(0)
}

/// Kind of the device that a name means: `cuda` of `cuda:1`.
pub fn kind_of(name: &str) -> &str {
    name.split(':').next().unwrap_or_default()
}

/// Opens a device by name, as [`choose`] does. Returns it with the name that goes into results.
///
/// # Errors
/// As [`choose`].
pub fn open(name: &str) -> Result<(Device, String)> {
    match name {
        "auto" => open(&choose(name)?.name),
        _ => find(name).map(|(Found { device, .. }, name)| (device, name)),
    }
}

/// A device by its own name, and the name that goes into results.
fn find(name: &str) -> Result<(Found, String)> {
    if name == "cpu" {
        return Ok((Found { device: Device::flex(), software: None, lacks: None }, name.to_owned()));
    }
    let (kind, index) = Kind::parse(name).ok_or_else(|| {
        let known: Vec<String> = KINDS.iter().map(|kind| format!("`{}`", kind.numbered(0))).collect();
        Error::new(format!("there is no device `{name}`"))
            .help(format!("choose `cpu`, `auto`, or a GPU: {}", known.join(", ")))
    })?;
    let found = kind.device(index)?;
    #[cfg(feature = "gpu")]
    kernels::keep();
    Ok((found, kind.numbered(index)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_that_is_not_there_is_an_error() {
        assert_eq!(open("cpu").unwrap().1, "cpu");
        for unknown in ["tpu", "cuda:", "cuda:x", "cuda:-1", "vulkan:0:0", "cpu:0", ""] {
            assert!(open(unknown).unwrap_err().remedy().unwrap().contains("cuda:0"), "{unknown}");
            assert!(choose(unknown).is_err() && named(unknown).is_err(), "{unknown}");
        }
        assert_eq!(choose("cpu").unwrap(), Choice { name: "cpu".to_owned(), note: None });
        // Nobody has so many.
        for kind in &KINDS {
            assert!(open(&kind.numbered(999)).unwrap_err().remedy().unwrap().contains("docs/gpu.md"), "{}", kind.name);
        }
    }

    #[test]
    fn a_binary_refuses_what_it_was_built_without() {
        for kind in KINDS.iter().filter(|kind| kind.list.is_none()) {
            for name in [kind.name.to_owned(), kind.numbered(3)] {
                for error in [open(&name).unwrap_err(), choose(&name).unwrap_err(), named(&name).unwrap_err()] {
                    assert_eq!(error.message(), format!("this binary was built without {}", kind.interface));
                    assert!(error.remedy().unwrap().contains(&format!("--features {}`", kind.feature)));
                }
            }
        }
        if cfg!(not(feature = "gpu")) {
            assert_eq!((open("auto").unwrap().1, choose("auto").unwrap().name), ("cpu".to_owned(), "cpu".to_owned()));
            assert!(KINDS.iter().all(|kind| kind.list.is_none()));
            assert_eq!(usual_gpu(), "cuda:0");
        }
    }

    #[test]
    fn names_are_those_of_results() {
        let parsed = |name| Kind::parse(name).map(|(kind, index)| kind.numbered(index));
        for (name, result) in
            [("cuda", "cuda:0"), ("vulkan:2", "vulkan:2"), ("metal", "metal:0"), ("wgpu:07", "wgpu:7")]
        {
            assert_eq!(parsed(name).as_deref(), Some(result));
            assert_eq!(kind_of(result), Kind::parse(name).unwrap().0.name);
        }
        assert_eq!((parsed("cpu"), kind_of("cpu")), (None, "cpu"));
    }

    #[test]
    fn a_gpu_that_is_passed_over_is_told_of() {
        let error = Error::new("no CUDA driver: cuInit answered 999").help("install NVIDIA's driver");
        let note = passed_over(&error, true).unwrap();
        assert_eq!(note, "running on the CPU: no CUDA driver: cuInit answered 999 (install NVIDIA's driver)");
        // A laptop without any needs no word, unless its binary was built for one.
        assert_eq!(passed_over(&error, false).is_some(), cfg!(feature = "gpu"));
    }
}

//! Where tensors live, chosen at run time.

use std::path::Path;

use burn::tensor::Device;

use crate::{Error, Result};

/// A device that is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Choice {
    /// The name that goes into results: `cpu` or `cuda:N`.
    pub name: String,
    /// Why `auto` did not take a GPU, where somebody might expect it to.
    pub note: Option<String>,
}

/// Chooses a device by name: `cpu`, `cuda`, `cuda:N`, or `auto` (the first GPU if this binary and this machine have one, else the CPU).
///
/// A GPU that was asked for and is not there is an error, and where `auto` passes over one, it says so.
///
/// # Errors
/// An unknown name, a binary without CUDA, a machine without a driver or with fewer devices.
pub fn choose(name: &str) -> Result<Choice> {
    if name != "auto" {
        return open(name).map(|(_, name)| Choice { name, note: None });
    }
    Ok(match cuda(0) {
        Ok((_, name)) => Choice { name, note: None },
        Err(error) => Choice { name: "cpu".to_owned(), note: passed_over(&error, Path::new(DRIVER).exists()) },
    })
}

/// Where the kernel's part of NVIDIA's driver stands, if there is one.
const DRIVER: &str = "/proc/driver/nvidia/version";

/// What to say when there is no GPU to take: nothing to those who have none and did not build for one.
fn passed_over(error: &Error, driver: bool) -> Option<String> {
    (driver || cfg!(feature = "cuda")).then(|| {
        let remedy = error.remedy().map(|remedy| format!(" ({remedy})")).unwrap_or_default();
        format!("running on the CPU: {}{remedy}", error.message())
    })
}

/// The name that goes into results of a device that need not be on this machine.
///
/// # Errors
/// An unknown name, a GPU with a binary that cannot use any.
pub fn named(name: &str) -> Result<String> {
    match name.strip_prefix("cuda") {
        Some(_) if !cfg!(feature = "cuda") => open(name).map(|(_, name)| name),
        Some("") => Ok("cuda:0".to_owned()),
        Some(index) if index.strip_prefix(':').is_some_and(|index| index.parse::<usize>().is_ok()) => {
            Ok(name.to_owned())
        }
        _ => open(name).map(|(_, name)| name),
    }
}

/// Opens a device by name, as [`choose`] does. Returns it with the name that goes into results.
///
/// # Errors
/// As [`choose`].
pub fn open(name: &str) -> Result<(Device, String)> {
    match name {
        "cpu" => Ok((Device::flex(), "cpu".to_owned())),
        "auto" => open(&choose(name)?.name),
        "cuda" => cuda(0),
        _ => match name.strip_prefix("cuda:").and_then(|index| index.parse().ok()) {
            Some(index) => cuda(index),
            None => Err(Error::new(format!("there is no device `{name}`")).help("choose `cpu`, `cuda:0` or `auto`")),
        },
    }
}

#[cfg(not(feature = "cuda"))]
fn cuda(_index: usize) -> Result<(Device, String)> {
    Err(Error::new("this binary was built without CUDA")
        .help("build it with `cargo build --release --features cuda` (docs/gpu.md), or use `--device cpu`"))
}

#[cfg(feature = "cuda")]
fn cuda(index: usize) -> Result<(Device, String)> {
    let count = driver::device_count()?;
    if index >= count {
        return Err(Error::new(format!("there is no GPU {index}: the driver counts {count}"))
            .help("choose a smaller number, or see CUDA_VISIBLE_DEVICES"));
    }
    Ok((Device::cuda(index), format!("cuda:{index}")))
}

/// The CUDA driver, asked before Burn is: without one, Burn panics in a thread of its own.
#[cfg(feature = "cuda")]
mod driver {
    use std::ffi::{c_char, c_int, c_uint, c_void};

    use crate::{Error, Result};

    /// Number of GPUs the driver sees.
    pub fn device_count() -> Result<usize> {
        let missing = |what: &str| {
            Error::new(format!("no CUDA driver: {what}")).help("install NVIDIA's driver, or use `--device cpu`")
        };
        // SAFETY: the names are nul-terminated; `cuInit` and `cuDeviceGetCount` have had these signatures in every version of the driver;
        // the library is never unloaded.
        unsafe {
            let library = [c"libcuda.so.1", c"libcuda.so"]
                .iter()
                .map(|name| libc::dlopen(name.as_ptr().cast::<c_char>(), libc::RTLD_NOW))
                .find(|handle: &*mut c_void| !handle.is_null())
                .ok_or_else(|| missing("libcuda.so was not found"))?;
            let symbol = |name: &std::ffi::CStr| {
                let address = libc::dlsym(library, name.as_ptr());
                if address.is_null() { Err(missing("libcuda.so lacks a function")) } else { Ok(address) }
            };
            let init: unsafe extern "C" fn(c_uint) -> c_int = std::mem::transmute(symbol(c"cuInit")?);
            let count: unsafe extern "C" fn(*mut c_int) -> c_int = std::mem::transmute(symbol(c"cuDeviceGetCount")?);
            match init(0) {
                0 => {}
                code => return Err(missing(&format!("cuInit answered {code}"))),
            }
            let mut devices: c_int = 0;
            match count(&raw mut devices) {
                0 => Ok(usize::try_from(devices).unwrap_or(0)),
                code => Err(missing(&format!("cuDeviceGetCount answered {code}"))),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_that_is_not_there_is_an_error() {
        assert_eq!(open("cpu").unwrap().1, "cpu");
        assert!(open("tpu").unwrap_err().remedy().unwrap().contains("cuda:0"));
        if cfg!(not(feature = "cuda")) {
            assert!(open("cuda:0").unwrap_err().message().contains("without CUDA"));
            assert_eq!(open("auto").unwrap().1, "cpu");
            assert_eq!(choose("auto").unwrap().name, "cpu");
        }
        assert_eq!(choose("cpu").unwrap(), Choice { name: "cpu".to_owned(), note: None });
        assert!(choose("tpu").is_err());
    }

    #[test]
    fn a_gpu_that_is_passed_over_is_told_of() {
        let error = Error::new("no CUDA driver: cuInit answered 999").help("install NVIDIA's driver");
        let note = passed_over(&error, true).unwrap();
        assert_eq!(note, "running on the CPU: no CUDA driver: cuInit answered 999 (install NVIDIA's driver)");
        // A laptop without any needs no word, unless its binary was built for one.
        assert_eq!(passed_over(&error, false).is_some(), cfg!(feature = "cuda"));
    }
}

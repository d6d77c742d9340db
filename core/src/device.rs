//! Where tensors live, chosen at run time.

use burn::tensor::Device;

use crate::{Error, Result};

/// Opens a device by name: `cpu`, `cuda`, `cuda:N`, or `auto` (the first GPU if this binary and this machine have one, else the CPU).
/// Returns it with the name that goes into results.
///
/// A GPU that was asked for and is not there is an error, never a silent fallback.
///
/// # Errors
/// An unknown name, a binary without CUDA, a machine without a driver or with fewer devices.
pub fn open(name: &str) -> Result<(Device, String)> {
    let cpu = || (Device::flex(), "cpu".to_owned());
    match name {
        "cpu" => Ok(cpu()),
        "auto" => Ok(cuda(0).unwrap_or_else(|_| cpu())),
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
        }
    }
}

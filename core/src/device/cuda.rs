//! NVIDIA's GPUs, as their driver counts them.

use std::ffi::{c_char, c_int, c_uint, c_void};

use burn::tensor::Device;

use super::Found;
use crate::{Error, Result};

pub(super) fn list() -> Result<Vec<Found>> {
    Ok((0..count()?).map(|index| Found { device: Device::cuda(index), software: None, lacks: None }).collect())
}

/// Number of GPUs the driver sees, which `CUDA_VISIBLE_DEVICES` limits.
fn count() -> Result<usize> {
    let missing = |what: &str| {
        Error::new(format!("no CUDA driver: {what}"))
            .help("install NVIDIA's driver (docs/gpu.md), or use `--device cpu`")
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

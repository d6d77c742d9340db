//! GPUs of all vendors, by the graphics interfaces that wgpu knows.

use std::{
    pin::pin,
    sync::{Mutex, PoisonError},
    task::{Context, Poll, Waker},
};

use burn::tensor::{
    Device, DeviceKind,
    wgpu::wgpu::{AdapterInfo, Backend, DeviceType, Instance, InstanceDescriptor},
};

use super::Found;
use crate::Result;

/// Where CubeCL looks for a GPU when it may choose; the numbers of its devices are those of the interface on which it finds one.
const CHAIN: &[Backend] =
    if cfg!(target_os = "macos") { &[Backend::Metal] } else { &[Backend::Vulkan, Backend::Dx12, Backend::Gl] };

pub(super) fn list() -> Result<Vec<Found>> {
    // Each is asked only if those before have no GPU.
    let mut all = CHAIN.iter().map(|interface| found(*interface, Device::wgpu)).filter(|found| !found.is_empty());
    let Some(first) = all.next() else { return Ok(Vec::new()) };
    let is_gpu = |found: &Found| found.software.is_none();
    if first.iter().any(is_gpu) {
        return Ok(first);
    }
    Ok(all.find(|found| found.iter().any(is_gpu)).unwrap_or(first))
}

pub(super) fn list_vulkan() -> Result<Vec<Found>> {
    Ok(found(Backend::Vulkan, Device::vulkan))
}

#[cfg(feature = "metal")]
pub(super) fn list_metal() -> Result<Vec<Found>> {
    Ok(found(Backend::Metal, Device::metal))
}

/// The devices of an interface: discrete GPUs, integrated ones, virtual ones, and a software renderer, each in the order of the driver.
fn found(interface: Backend, device: fn(DeviceKind) -> Device) -> Vec<Found> {
    let (mut discrete, mut integrated, mut virtuals, mut software) = (vec![], vec![], vec![], vec![]);
    for AdapterInfo { name, device_type, .. } in adapters(interface) {
        match device_type {
            DeviceType::DiscreteGpu => discrete.push(DeviceKind::DiscreteGpu(discrete.len())),
            DeviceType::IntegratedGpu => integrated.push(DeviceKind::IntegratedGpu(integrated.len())),
            DeviceType::VirtualGpu => virtuals.push(DeviceKind::VirtualGpu(virtuals.len())),
            DeviceType::Cpu => software.push(name),
            // Burn has no name for what says nothing of itself.
            DeviceType::Other => {}
        }
    }
    let gpus = discrete.into_iter().chain(integrated).chain(virtuals);
    let gpus = gpus.map(|kind| Found { device: device(kind), software: None });
    // Burn counts no more than one of these.
    let software = software.into_iter().take(1);
    gpus.chain(software.map(|name| Found { device: device(DeviceKind::Cpu), software: Some(name) })).collect()
}

/// What the drivers of an interface know, in their order.
fn adapters(interface: Backend) -> Vec<AdapterInfo> {
    /// The loader of Vulkan crashes when several threads make or drop instances.
    static ONE: Mutex<()> = Mutex::new(());
    let _one = ONE.lock().unwrap_or_else(PoisonError::into_inner);
    let descriptor =
        InstanceDescriptor { backends: interface.into(), ..InstanceDescriptor::new_without_display_handle() };
    let instance = Instance::new(descriptor);
    // Outside of a browser the answer is there at once.
    match pin!(instance.enumerate_adapters(interface.into())).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(adapters) => adapters.iter().map(|adapter| adapter.get_info()).collect(),
        Poll::Pending => Vec::new(),
    }
}

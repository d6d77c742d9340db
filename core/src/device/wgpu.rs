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

/// The devices of an interface.
fn found(interface: Backend, device: fn(DeviceKind) -> Device) -> Vec<Found> {
    let adapters = adapters(interface).into_iter().map(|AdapterInfo { name, device_type, .. }| (name, device_type));
    let kinds = kinds(adapters).into_iter();
    kinds.map(|(kind, software)| Found { device: device(kind), software }).collect()
}

/// What Burn calls adapters: discrete GPUs, integrated ones, virtual ones, and a software renderer, which has its name with it; each in the order of
/// the driver.
fn kinds(adapters: impl Iterator<Item = (String, DeviceType)>) -> Vec<(DeviceKind, Option<String>)> {
    let (mut discrete, mut integrated, mut virtuals, mut others, mut software) = (0, 0, 0, 0, None);
    for (name, device_type) in adapters {
        match device_type {
            DeviceType::DiscreteGpu => discrete += 1,
            DeviceType::IntegratedGpu => integrated += 1,
            DeviceType::VirtualGpu => virtuals += 1,
            DeviceType::Other => others += 1,
            // Burn counts no more than one of these.
            DeviceType::Cpu => software = software.or(Some(name)),
        }
    }
    let gpus = (0..discrete).map(DeviceKind::DiscreteGpu);
    let gpus = gpus.chain((0..integrated).map(DeviceKind::IntegratedGpu));
    let mut kinds: Vec<_> = gpus.chain((0..virtuals).map(DeviceKind::VirtualGpu)).map(|kind| (kind, None)).collect();
    // OpenGL's drivers do not always say what they are, and Burn has no number for those: the one it takes unasked is one where there is nothing better.
    if kinds.is_empty() && others > 0 {
        kinds.push((DeviceKind::DefaultDevice, None));
    }
    kinds.extend(software.map(|name| (DeviceKind::Cpu, Some(name))));
    kinds
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gpus_come_before_software_and_each_sort_has_its_own_numbers() {
        use DeviceType::{Cpu, DiscreteGpu, IntegratedGpu, Other, VirtualGpu};
        let of = |types: &[DeviceType]| {
            kinds(types.iter().enumerate().map(|(index, device_type)| (format!("adapter {index}"), *device_type)))
        };
        assert_eq!(
            of(&[Cpu, IntegratedGpu, DiscreteGpu, Other, VirtualGpu, Cpu, DiscreteGpu]),
            [
                (DeviceKind::DiscreteGpu(0), None),
                (DeviceKind::DiscreteGpu(1), None),
                (DeviceKind::IntegratedGpu(0), None),
                (DeviceKind::VirtualGpu(0), None),
                (DeviceKind::Cpu, Some("adapter 0".to_owned())),
            ]
        );
        assert_eq!(of(&[Other, Other]), [(DeviceKind::DefaultDevice, None)]);
        assert_eq!(of(&[]), []);
    }
}

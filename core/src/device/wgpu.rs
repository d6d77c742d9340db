//! GPUs of all vendors, by the graphics interfaces that wgpu knows.

use std::{
    pin::pin,
    sync::{Mutex, PoisonError},
    task::{Context, Poll, Waker},
};

use burn::tensor::{
    Device, DeviceKind,
    wgpu::wgpu::{self, AdapterInfo, Backend, DeviceType, Instance, InstanceDescriptor},
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

/// What a driver says of a device.
#[derive(Clone, Debug, PartialEq)]
struct Adapter {
    name: String,
    device_type: DeviceType,
    lacks: Option<&'static str>,
}

/// The devices of an interface.
fn found(interface: Backend, device: fn(DeviceKind) -> Device) -> Vec<Found> {
    let kinds = kinds(&adapters(interface)).into_iter();
    kinds
        .map(|(kind, Adapter { name, device_type, lacks })| Found {
            device: device(kind),
            software: (device_type == DeviceType::Cpu).then_some(name),
            lacks,
        })
        .collect()
}

/// Burn's names of adapters: discrete GPUs, integrated ones, virtual ones, and a software renderer, each sort in the order of the driver.
fn kinds(adapters: &[Adapter]) -> Vec<(DeviceKind, Adapter)> {
    let of = |wanted| adapters.iter().filter(move |adapter| adapter.device_type == wanted).cloned();
    let gpus = [
        (DeviceType::DiscreteGpu, DeviceKind::DiscreteGpu as fn(usize) -> DeviceKind),
        (DeviceType::IntegratedGpu, DeviceKind::IntegratedGpu),
        (DeviceType::VirtualGpu, DeviceKind::VirtualGpu),
    ];
    let gpus = gpus
        .into_iter()
        .flat_map(|(wanted, kind)| of(wanted).enumerate().map(move |(index, adapter)| (kind(index), adapter)));
    let mut kinds: Vec<_> = gpus.collect();
    // OpenGL's drivers do not always say what they are, and Burn has no number for those: the one it takes unasked is one where there is nothing better.
    if kinds.is_empty() {
        kinds.extend(of(DeviceType::Other).take(1).map(|adapter| (DeviceKind::DefaultDevice, adapter)));
    }
    // Burn counts no more than one of these.
    kinds.extend(of(DeviceType::Cpu).take(1).map(|adapter| (DeviceKind::Cpu, adapter)));
    kinds
}

/// What the drivers of an interface know, in their order.
fn adapters(interface: Backend) -> Vec<Adapter> {
    /// The loader of Vulkan crashes when several threads make or drop instances.
    static ONE: Mutex<()> = Mutex::new(());
    let _one = ONE.lock().unwrap_or_else(PoisonError::into_inner);
    let descriptor =
        InstanceDescriptor { backends: interface.into(), ..InstanceDescriptor::new_without_display_handle() };
    let instance = Instance::new(descriptor);
    let describe = |adapter: &wgpu::Adapter| {
        let AdapterInfo { name, device_type, .. } = adapter.get_info();
        Adapter { name, device_type, lacks: lacks(adapter) }
    };
    // Outside of a browser the answer is there at once.
    match pin!(instance.enumerate_adapters(interface.into())).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(adapters) => adapters.iter().map(describe).collect(),
        Poll::Pending => Vec::new(),
    }
}

/// What CubeCL does not ask for, and cannot do without.
///
/// Without this extension, CubeCL 0.11.3 declares the memory that a workgroup shares as a pointer to a pointer, which is no SPIR-V: drivers crash on
/// it. Where it has no use for SPIR-V, because the driver lacks what it does ask for, it writes WGSL, and all is well; so it is with a CubeCL that
/// `tests/tools/mended-cubecl.sh` has mended, which says so to the build.
#[cfg(not(target_os = "macos"))]
fn lacks(adapter: &wgpu::Adapter) -> Option<&'static str> {
    // SAFETY: the driver's own handle is only looked at, while the adapter lives.
    let adapter = unsafe { adapter.as_hal::<wgpu::hal::api::Vulkan>() }?;
    let driver = adapter.physical_device_capabilities();
    // What became part of Vulkan itself is still among a driver's extensions.
    let spirv = [c"VK_KHR_vulkan_memory_model", c"VK_KHR_buffer_device_address"];
    let crashes = option_env!("W2S_MENDED_CUBECL").is_none()
        && spirv.iter().all(|extension| driver.supports_extension(extension))
        && !driver.supports_extension(c"VK_KHR_workgroup_memory_explicit_layout");
    crashes.then_some("VK_KHR_workgroup_memory_explicit_layout")
}

/// Apple's GPUs are reached by Metal.
#[cfg(target_os = "macos")]
fn lacks(_adapter: &wgpu::Adapter) -> Option<&'static str> {
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gpus_come_before_software_and_each_sort_has_its_own_numbers() {
        use DeviceType::{Cpu, DiscreteGpu, IntegratedGpu, Other, VirtualGpu};
        // Each with its place in the driver's order.
        let of = |types: &[DeviceType]| {
            let adapters = types.iter().enumerate();
            let adapters: Vec<_> = adapters
                .map(|(index, device_type)| Adapter { name: index.to_string(), device_type: *device_type, lacks: None })
                .collect();
            let kinds = kinds(&adapters).into_iter();
            kinds.map(|(kind, adapter)| (kind, adapter.name.parse().unwrap())).collect::<Vec<(_, usize)>>()
        };
        assert_eq!(
            of(&[Cpu, IntegratedGpu, DiscreteGpu, Other, VirtualGpu, Cpu, DiscreteGpu]),
            [
                (DeviceKind::DiscreteGpu(0), 2),
                (DeviceKind::DiscreteGpu(1), 6),
                (DeviceKind::IntegratedGpu(0), 1),
                (DeviceKind::VirtualGpu(0), 4),
                (DeviceKind::Cpu, 0),
            ]
        );
        assert_eq!(of(&[Other, Other]), [(DeviceKind::DefaultDevice, 0)]);
        assert_eq!(of(&[]), []);
    }
}

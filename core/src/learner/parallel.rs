//! One training on several devices: each has a copy of the model and computes some parts of a batch, and their gradients come together on the
//! first device (data parallelism).
//!
//! Parts are those of [micro-batches](super::Execution::micro_batch), and what comes of them is put together in their order. So it makes no
//! difference how many devices share them: where devices round alike, no bit changes.

use std::{
    ops::Range,
    panic::resume_unwind,
    sync::{
        Mutex,
        mpsc::{self, Receiver},
    },
    thread,
};

use burn::{
    module::{Module, ModuleMapper, ModuleVisitor, Param, ParamId},
    optim::{GradientsAccumulator, GradientsParams},
    tensor::{Device, Tensor, container::TensorContainer},
};

use super::run::{device_of, lock};
use crate::{Error, Result};

/// The devices that share a training, and the models on all of them but the first.
#[derive(Debug)]
pub(super) struct Shared<M> {
    /// The plain device of the model that is trained.
    first: Device,
    /// Further plain devices.
    beside: Vec<Device>,
    /// The model on each of those, once it was used. What is not trained is copied once.
    copies: Mutex<Vec<M>>,
}

impl<M: Module + Sync> Shared<M> {
    /// A training of `model`, on its device and on those `beside`.
    pub(super) fn new(model: &M, beside: &[Device]) -> Self {
        Self { first: device_of(model), beside: beside.to_vec(), copies: Mutex::default() }
    }

    /// Hands each of the parts, in their order, to `take`, as `of` makes it with the model on some device, which is told.
    ///
    /// # Errors
    /// The first of `of`, in the order of parts.
    pub(super) fn each<T: Send>(
        &self,
        model: &M,
        parts: &[Range<usize>],
        of: impl Fn(&M, &Device, Range<usize>) -> Result<T> + Sync,
        mut take: impl FnMut(T),
    ) -> Result<()> {
        // More devices than parts have nothing to do.
        let beside = &self.beside[..self.beside.len().min(parts.len().saturating_sub(1))];
        if beside.is_empty() {
            return parts.iter().try_for_each(|part| of(model, &self.first, part.clone()).map(&mut take));
        }
        let mut copies = lock(&self.copies);
        self.refresh(&mut copies, model, beside);
        let devices = 1 + beside.len();
        let (copies, of) = (&copies[..], &of);
        thread::scope(|scope| {
            let work = |place: usize| {
                let (copy, device) = (&copies[place], &beside[place]);
                let parts = parts.iter().skip(1 + place).step_by(devices);
                // One is computed while the one before waits to be taken: no device is far ahead with memory of the first.
                let (sender, receiver) = mpsc::sync_channel(1);
                let worker = scope.spawn(move || {
                    for part in parts {
                        // Nobody wants what comes after an error.
                        if sender.send(of(copy, device, part.clone())).is_err() {
                            return;
                        }
                    }
                });
                (receiver, worker)
            };
            let (receivers, workers): (Vec<Receiver<_>>, Vec<_>) = (0..beside.len()).map(work).unzip();
            let mut taken = Ok(());
            for (number, part) in parts.iter().enumerate() {
                let made = match (number % devices).checked_sub(1) {
                    None => of(model, &self.first, part.clone()),
                    Some(place) => receivers[place].recv().unwrap_or_else(|_| Err(Error::new("a device has stopped"))),
                };
                match made {
                    Ok(made) => take(made),
                    Err(error) => {
                        taken = Err(error);
                        break;
                    }
                }
            }
            drop(receivers);
            for worker in workers {
                // What went wrong there is told as if it had gone wrong here.
                worker.join().unwrap_or_else(|panic| resume_unwind(panic));
            }
            taken
        })
    }

    /// The sum of the parts' gradients, on the first device, beside what else `of` makes of each part.
    ///
    /// # Errors
    /// As [`each`](Self::each).
    pub(super) fn gradients<T: Send>(
        &self,
        model: &M,
        parts: &[Range<usize>],
        of: impl Fn(&M, &Device, Range<usize>) -> Result<(GradientsParams, T)> + Sync,
    ) -> Result<(GradientsParams, Vec<T>)> {
        let mut accumulator = GradientsAccumulator::new();
        let mut found = Vec::with_capacity(parts.len());
        let here = |model: &M, device: &Device, part: Range<usize>| {
            let (grads, made) = of(model, device, part)?;
            Ok((if self.beside.is_empty() { grads } else { grads.to_device(&self.first, model) }, made))
        };
        self.each(model, parts, here, |(grads, made)| {
            accumulator.accumulate(model, grads);
            found.push(made);
        })?;
        Ok((accumulator.grads(), found))
    }

    /// A tensor on the first device.
    pub(super) fn home<const D: usize>(&self, tensor: Tensor<D>) -> Tensor<D> {
        tensor.to_device(&self.first)
    }

    /// Makes the copies what the model is.
    fn refresh(&self, copies: &mut Vec<M>, model: &M, beside: &[Device]) {
        if !copies.is_empty() {
            let mut trained = Trained::default();
            model.visit(&mut trained);
            for (copy, device) in copies.iter_mut().zip(beside) {
                let mut update = Update { from: &trained.values, device };
                *copy = copy.clone().map(&mut update);
            }
        }
        for device in &beside[copies.len().min(beside.len())..] {
            copies.push(model.clone().fork(&device.clone().autodiff()));
        }
    }
}

/// Finds the values of what is trained.
#[derive(Default)]
struct Trained {
    values: TensorContainer<ParamId>,
}

impl ModuleVisitor for Trained {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        if param.is_require_grad() {
            self.values.register(param.id, param.val().inner());
        }
    }
}

/// Puts values in the place of those that are there.
struct Update<'a> {
    from: &'a TensorContainer<ParamId>,
    device: &'a Device,
}

impl ModuleMapper for Update<'_> {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        match self.from.get(&param.id) {
            None => param,
            Some(value) => {
                let value: Tensor<D> = value;
                let value = Tensor::from_inner(value.to_device(self.device)).require_grad();
                Param::initialized(param.id, value)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        collections::BTreeSet,
        panic::{AssertUnwindSafe, catch_unwind},
        sync::Mutex,
    };

    use burn::nn::LinearConfig;

    use super::{super::encoded::parts, *};

    /// What a training on three devices hands out of seven parts.
    fn handed(of: impl Fn(usize) -> Result<usize> + Sync) -> (Result<()>, Vec<usize>) {
        let model = LinearConfig::new(2, 2).init(&Device::flex().autodiff());
        let shared = Shared::new(&model, &[Device::flex(), Device::flex()]);
        let mut taken = Vec::new();
        let result = shared.each(&model, &parts(7, Some(1)), |_, _, part| of(part.start), |made| taken.push(made));
        (result, taken)
    }

    #[test]
    fn parts_come_in_their_order_from_all_devices() {
        let threads = Mutex::new(BTreeSet::new());
        let (result, taken) = handed(|part| {
            lock(&threads).insert(format!("{:?}", thread::current().id()));
            // Those of the first device are the last to be ready.
            thread::sleep(std::time::Duration::from_millis(if part % 3 == 0 { 5 } else { 0 }));
            Ok(part)
        });
        assert!(result.is_ok());
        assert_eq!((taken, lock(&threads).len()), ((0..7).collect(), 3));
    }

    #[test]
    fn what_goes_wrong_on_a_device_is_told() {
        for wrong in [0, 1, 5, 6] {
            let (result, taken) =
                handed(|part| if part == wrong { Err(Error::new(format!("part {part} is wrong"))) } else { Ok(part) });
            assert_eq!(result.unwrap_err().message(), format!("part {wrong} is wrong"));
            assert_eq!(taken, (0..wrong).collect::<Vec<_>>());
            let panics = || handed(|part| if part == wrong { panic!("part {part} panics") } else { Ok(part) });
            let panic = catch_unwind(AssertUnwindSafe(panics)).unwrap_err();
            assert_eq!(crate::error::panic_message(panic.as_ref()), format!("part {wrong} panics"));
        }
    }

    #[test]
    fn copies_are_what_the_model_is() {
        let linear = || LinearConfig::new(2, 2).init(&Device::flex().autodiff());
        let (mut model, other) = (linear(), linear());
        model.bias = model.bias.map(|bias| bias.set_require_grad(false));
        let shared = Shared::new(&model, &[Device::flex()]);
        let seen = |model: &burn::nn::Linear| {
            let mut seen = Vec::new();
            let values = |model: &burn::nn::Linear, _: &Device, _| {
                let bias = model.bias.as_ref().map(|bias| bias.is_require_grad());
                Ok((model.weight.val().into_data(), model.weight.is_require_grad(), bias))
            };
            shared.each(model, &parts(2, Some(1)), values, |made| seen.push(made)).unwrap();
            assert_eq!(seen[0], seen[1]);
            assert_eq!((seen[1].1, seen[1].2), (true, Some(false)));
            seen[1].0.clone()
        };
        let first = seen(&model);
        // As an optimizer would leave it.
        model.weight = Param::initialized(model.weight.id, other.weight.val().detach().require_grad());
        assert_ne!(seen(&model), first);
    }
}

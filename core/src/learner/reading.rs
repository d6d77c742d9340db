//! Numbers that a device is still computing.

use std::{
    fmt,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Wake, Waker},
    thread::{self, Thread},
};

use burn::tensor::{ExecutionError, Tensor, TensorData};

use crate::{
    Error, Result,
    error::{ErrorKind, OUT_OF_MEMORY, is_about_memory},
};

type Answer = std::result::Result<TensorData, ExecutionError>;

/// A tensor on its way to the host. On a GPU the copy is queued behind what the tensor is computed from and before whatever is asked for later, so
/// that the device has work while the host waits for it; the CPU has the numbers at once.
pub(super) enum Reading {
    There(Answer),
    Comes(Pin<Box<dyn Future<Output = Answer> + Send>>),
}

impl Reading {
    /// Asks for a tensor.
    pub(super) fn of<const D: usize>(tensor: Tensor<D>) -> Self {
        let mut coming: Pin<Box<dyn Future<Output = Answer> + Send>> = Box::pin(tensor.into_data_async());
        // A future does nothing before it is asked for the first time.
        match coming.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(answer) => Self::There(answer),
            Poll::Pending => Self::Comes(coming),
        }
    }

    /// Waits for the numbers.
    ///
    /// # Errors
    /// The device failed at them, or had no memory left.
    pub(super) fn values(self) -> Result<Vec<f32>> {
        let answer = match self {
            Self::There(answer) => answer,
            Self::Comes(coming) => wait(coming),
        };
        answer.map(|data| data.iter::<f32>().collect()).map_err(|error| failed(&format!("{error:?}")))
    }
}

/// What to say of a device that failed.
fn failed(why: &str) -> Error {
    let error = Error::new(format!("the device failed: {why}"));
    if is_about_memory(why) {
        error.of_kind(ErrorKind::OutOfMemory).help(OUT_OF_MEMORY)
    } else {
        error.of_kind(ErrorKind::Panic)
    }
}

impl fmt::Debug for Reading {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Reading")
    }
}

/// Wakes a thread that is parked.
struct Awake(Thread);

impl Wake for Awake {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

fn wait<T>(mut coming: Pin<Box<dyn Future<Output = T> + Send>>) -> T {
    let waker = Waker::from(Arc::new(Awake(thread::current())));
    loop {
        match coming.as_mut().poll(&mut Context::from_waker(&waker)) {
            Poll::Ready(value) => return value,
            Poll::Pending => thread::park(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::mpsc, time::Duration};

    use burn::tensor::Device;

    use super::*;

    #[test]
    fn numbers_of_the_cpu_are_there_at_once() {
        let reading = Reading::of(Tensor::<1>::from_floats([1.0, 2.5], &Device::flex()));
        assert!(matches!(reading, Reading::There(_)));
        assert_eq!(reading.values().unwrap(), [1.0, 2.5]);
    }

    #[test]
    fn a_device_that_fails_is_an_error_of_its_kind() {
        let kind = |why: &str| failed(why).kind();
        assert_eq!(kind("CUDA_ERROR_OUT_OF_MEMORY"), ErrorKind::OutOfMemory);
        assert_eq!(kind("device lost"), ErrorKind::Panic);
    }

    #[test]
    fn what_comes_later_is_waited_for() {
        let (send, receive) = mpsc::channel::<Waker>();
        let mut answer = None;
        let future = std::future::poll_fn(move |context| match answer.take() {
            Some(answer) => Poll::Ready(answer),
            None => {
                answer = Some(7);
                send.send(context.waker().clone()).unwrap();
                Poll::Pending
            }
        });
        let waking = thread::spawn(move || {
            let waker = receive.recv().unwrap();
            thread::sleep(Duration::from_millis(20));
            waker.wake();
        });
        assert_eq!(wait(Box::pin(future)), 7);
        waking.join().unwrap();
    }
}

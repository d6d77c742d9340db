//! The random streams of NumPy and CPython, bit for bit.
//!
//! The reference implementations order their data with NumPy's `default_rng` (through the `datasets` library) and choose answers with
//! CPython's `random.Random`. Whoever wants the same examples in the same order has to draw the same numbers. Everything else in w2s
//! draws from [`crate::rng`].

/// NumPy's `default_rng(seed)`: PCG64 (XSL-RR 128/64, O'Neill 2014) seeded through `SeedSequence`.
#[derive(Clone, Debug)]
pub struct NumpyRng {
    state: u128,
    increment: u128,
    /// Upper half of the last word, when only its lower half has been used.
    half: Option<u32>,
}

impl NumpyRng {
    /// `numpy.random.default_rng(seed)`.
    pub fn new(seed: u64) -> Self {
        let words = seed_sequence(seed);
        let pair = |i: usize| u128::from(words[i]) << 64 | u128::from(words[i + 1]);
        let mut rng = Self { state: 0, increment: pair(2) << 1 | 1, half: None };
        rng.step();
        rng.state = rng.state.wrapping_add(pair(0));
        rng.step();
        rng
    }

    fn step(&mut self) {
        const MULTIPLIER: u128 = 0x2360_ed05_1fc6_5da4_4385_df64_9fcc_f645;
        self.state = self.state.wrapping_mul(MULTIPLIER).wrapping_add(self.increment);
    }

    /// The next 64 bits, as `integers(0, 2**64, dtype=uint64)` gives them.
    pub fn bits(&mut self) -> u64 {
        self.step();
        ((self.state >> 64) as u64 ^ self.state as u64).rotate_right((self.state >> 122) as u32)
    }

    fn bits32(&mut self) -> u32 {
        self.half.take().unwrap_or_else(|| {
            let bits = self.bits();
            self.half = Some((bits >> 32) as u32);
            bits as u32
        })
    }

    /// Uniform in 0..=last: the lowest bits that can hold `last`, drawn again while above it.
    fn up_to(&mut self, last: u32) -> u32 {
        let mask = u32::MAX.checked_shr(last.leading_zeros()).unwrap_or(0);
        loop {
            let drawn = self.bits32() & mask;
            if drawn <= last {
                return drawn;
            }
        }
    }

    /// `permutation(n)`: the numbers 0..n in random order; `n` is at most 2³².
    pub fn permutation(&mut self, n: usize) -> Vec<usize> {
        let mut order: Vec<usize> = (0..n).collect();
        for i in (1..n).rev() {
            order.swap(i, self.up_to(i as u32) as usize);
        }
        order
    }
}

/// `SeedSequence(seed).generate_state(4, uint64)`.
fn seed_sequence(seed: u64) -> [u64; 4] {
    fn hash(value: u32, constant: &mut u32, multiplier: u32) -> u32 {
        let value = value ^ *constant;
        *constant = constant.wrapping_mul(multiplier);
        let value = value.wrapping_mul(*constant);
        value ^ value >> 16
    }
    fn mix(x: u32, y: u32) -> u32 {
        let result = x.wrapping_mul(0xca01_f9dd).wrapping_sub(y.wrapping_mul(0x4973_f715));
        result ^ result >> 16
    }
    let mut constant = 0x43b0_d7e5;
    let mut pool = [seed as u32, (seed >> 32) as u32, 0, 0].map(|word| hash(word, &mut constant, 0x931e_8875));
    for source in 0..4 {
        for target in (0..4).filter(|&target| target != source) {
            pool[target] = mix(pool[target], hash(pool[source], &mut constant, 0x931e_8875));
        }
    }
    let mut constant = 0x8b51_f9dd;
    let words: [u32; 8] = std::array::from_fn(|i| hash(pool[i % 4], &mut constant, 0x58f3_8ded));
    std::array::from_fn(|i| u64::from(words[2 * i]) | u64::from(words[2 * i + 1]) << 32)
}

/// CPython's `random.Random(seed)`: MT19937 (Matsumoto and Nishimura 1998).
#[derive(Clone)]
pub struct PythonRng {
    state: [u32; 624],
    next: usize,
}

impl PythonRng {
    /// `random.Random(seed)`.
    pub fn new(seed: u64) -> Self {
        let (low, high) = (seed as u32, (seed >> 32) as u32);
        let words = [low, high];
        let key = if high == 0 { &words[..1] } else { &words[..] };
        Self::from_key(key)
    }

    /// The authors' `init_by_array`.
    fn from_key(key: &[u32]) -> Self {
        const N: usize = 624;
        let mut state = [19_650_218u32; N];
        for i in 1..N {
            state[i] = (state[i - 1] ^ state[i - 1] >> 30).wrapping_mul(1_812_433_253).wrapping_add(i as u32);
        }
        let (mut i, mut j) = (1, 0);
        for _ in 0..N.max(key.len()) {
            let mixed = (state[i - 1] ^ state[i - 1] >> 30).wrapping_mul(1_664_525);
            state[i] = (state[i] ^ mixed).wrapping_add(key[j]).wrapping_add(j as u32);
            i += 1;
            j = (j + 1) % key.len();
            if i == N {
                state[0] = state[N - 1];
                i = 1;
            }
        }
        for _ in 0..N - 1 {
            let mixed = (state[i - 1] ^ state[i - 1] >> 30).wrapping_mul(1_566_083_941);
            state[i] = (state[i] ^ mixed).wrapping_sub(i as u32);
            i += 1;
            if i == N {
                state[0] = state[N - 1];
                i = 1;
            }
        }
        state[0] = 1 << 31;
        Self { state, next: N }
    }

    fn bits32(&mut self) -> u32 {
        const N: usize = 624;
        if self.next == N {
            for i in 0..N {
                let y = self.state[i] & 0x8000_0000 | self.state[(i + 1) % N] & 0x7fff_ffff;
                let twist = if y & 1 == 1 { 0x9908_b0df } else { 0 };
                self.state[i] = self.state[(i + 397) % N] ^ y >> 1 ^ twist;
            }
            self.next = 0;
        }
        let mut y = self.state[self.next];
        self.next += 1;
        y ^= y >> 11;
        y ^= y << 7 & 0x9d2c_5680;
        y ^= y << 15 & 0xefc6_0000;
        y ^ y >> 18
    }

    /// `getrandbits(k)` for k from 1 to 32.
    pub fn bits(&mut self, k: u32) -> u32 {
        self.bits32() >> (32 - k)
    }

    /// `random()`: uniform in [0, 1) with 53 bits.
    pub fn uniform(&mut self) -> f64 {
        let (high, low) = (self.bits32() >> 5, self.bits32() >> 6);
        (f64::from(high) * 67_108_864.0 + f64::from(low)) / 9_007_199_254_740_992.0
    }

    /// The index that `choice` takes from a list of n > 0; draws even for n = 1, as CPython does.
    pub fn below(&mut self, n: usize) -> usize {
        let n = n.max(1) as u32;
        let k = 32 - n.leading_zeros();
        loop {
            let drawn = self.bits(k);
            if drawn < n {
                return drawn as usize;
            }
        }
    }

    /// `shuffle(items)`.
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for i in (1..items.len()).rev() {
            items.swap(i, self.below(i + 1));
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    fn golden() -> Value {
        let text = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/golden/golden_metrics.json"));
        serde_json::from_str::<Value>(text).unwrap()["data_order"].take()
    }

    fn numbers(value: &Value) -> Vec<u64> {
        value.as_array().unwrap().iter().map(|number| number.as_u64().unwrap()).collect()
    }

    fn permutation(n: usize, seed: u64) -> Vec<u64> {
        NumpyRng::new(seed).permutation(n).into_iter().map(|place| place as u64).collect()
    }

    #[test]
    fn numpy_streams_are_numpys() {
        let golden = golden();
        let mut rng = NumpyRng::new(0);
        let bits: Vec<u64> = (0..4).map(|_| rng.bits()).collect();
        assert_eq!(bits, numbers(&golden["np_default_rng_seed0_integers_uint64_first4"]));
        assert_eq!(permutation(20, 0), numbers(&golden["np_default_rng_seed0_permutation20"]));
        assert_eq!(permutation(10, 0), numbers(&golden["np_default_rng_seed0_shuffle_arange10 (vision)"]));
        let long = permutation(11679, 0);
        let ends = [&long[..16], &long[11675..]].concat();
        assert_eq!(ends, numbers(&golden["np_default_rng_seed0_permutation_11679_first16_last4"]));
        assert!(permutation(0, 0).is_empty());
        assert_eq!(permutation(1, 0), [0]);
        // numpy.random.default_rng(2**40 + 5).permutation(12)
        assert_eq!(permutation(12, (1 << 40) + 5), WIDE_SEED);
    }

    const WIDE_SEED: [u64; 12] = [9, 5, 1, 2, 8, 3, 0, 10, 7, 4, 6, 11];

    #[test]
    fn python_streams_are_cpythons() {
        let golden = golden();
        let uniforms = |seed, n| -> Vec<f64> {
            let mut rng = PythonRng::new(seed);
            (0..n).map(|_| rng.uniform()).collect()
        };
        let expected = |name: &str| -> Vec<f64> {
            golden[name].as_array().unwrap().iter().map(|number| number.as_f64().unwrap()).collect()
        };
        assert_eq!(uniforms(0, 8), expected("py_random_seed0_random_first8"));
        assert_eq!(uniforms(42, 4), expected("py_random_seed42_random_first4"));
        let mut rng = PythonRng::new(0);
        let bits: Vec<u64> = (0..8).map(|_| u64::from(rng.bits(32))).collect();
        assert_eq!(bits, numbers(&golden["py_random_seed0_getrandbits32_first8"]));
        let mut rng = PythonRng::new(0);
        let choices: Vec<u64> = (0..16).map(|_| rng.below(3) as u64).collect();
        assert_eq!(choices, numbers(&golden["py_random_seed0_choice3_first16"]));
    }

    #[test]
    fn python_stays_right_past_the_first_refill_with_a_wide_seed_and_in_shuffle() {
        // r = random.Random(2**40 + 5); [r.random() for _ in range(1000)][-1]; x = list(range(8)); r.shuffle(x)
        let mut rng = PythonRng::new((1 << 40) + 5);
        let last = (0..1000).map(|_| rng.uniform()).last().unwrap();
        let mut items: Vec<u32> = (0..8).collect();
        rng.shuffle(&mut items);
        assert_eq!((last, items), (0.8339863868477599, vec![1, 4, 7, 0, 2, 6, 5, 3]));
    }
}

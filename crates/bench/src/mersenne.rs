//! Python's random numbers, so that seed 42 means the same file as it does for a Python script.
//!
//! *Source:* Matsumoto and Nishimura, MT19937 (2002), with `init_by_array`; CPython's
//! `random.seed(int)` and `random.random()`.

const N: usize = 624;
const M: usize = 397;

/// A Mersenne Twister, seeded as `random.seed(seed)` does.
pub struct Mersenne {
    state: [u32; N],
    next: usize,
}

impl Mersenne {
    /// The generator after `random.seed(seed)`.
    pub fn new(seed: u64) -> Mersenne {
        let words = [seed as u32, (seed >> 32) as u32];
        let key = if words[1] == 0 { &words[..1] } else { &words[..] };
        let mut s = Mersenne::of_word(19_650_218);
        let mut i = 1;
        let wrap = |state: &mut [u32; N], i: &mut usize| {
            *i += 1;
            if *i == N {
                state[0] = state[N - 1];
                *i = 1;
            }
        };
        for k in 0..N.max(key.len()) {
            let j = k % key.len();
            let before = s[i - 1] ^ (s[i - 1] >> 30);
            s[i] = (s[i] ^ before.wrapping_mul(1_664_525)).wrapping_add(key[j]);
            s[i] = s[i].wrapping_add(j as u32);
            wrap(&mut s, &mut i);
        }
        for _ in 1..N {
            let before = s[i - 1] ^ (s[i - 1] >> 30);
            s[i] = (s[i] ^ before.wrapping_mul(1_566_083_941)).wrapping_sub(i as u32);
            wrap(&mut s, &mut i);
        }
        s[0] = 0x8000_0000;
        Mersenne { state: s, next: N }
    }

    fn of_word(seed: u32) -> [u32; N] {
        let mut s = [seed; N];
        for i in 1..N {
            let before = s[i - 1] ^ (s[i - 1] >> 30);
            s[i] = before.wrapping_mul(1_812_433_253).wrapping_add(i as u32);
        }
        s
    }

    /// `random.random()`: uniform in [0, 1), with 53 bits.
    pub fn random(&mut self) -> f64 {
        let (a, b) = (self.word() >> 5, self.word() >> 6);
        (f64::from(a) * 67_108_864.0 + f64::from(b)) / 9_007_199_254_740_992.0
    }

    /// A whole number below `n`, as `int(random() * n)`.
    pub fn below(&mut self, n: u64) -> u64 {
        (self.random() * n as f64) as u64
    }

    fn word(&mut self) -> u32 {
        if self.next == N {
            self.turn();
        }
        let mut y = self.state[self.next];
        self.next += 1;
        y ^= y >> 11;
        y ^= (y << 7) & 0x9d2c_5680;
        y ^= (y << 15) & 0xefc6_0000;
        y ^ (y >> 18)
    }

    fn turn(&mut self) {
        let s = &mut self.state;
        for i in 0..N {
            let y = (s[i] & 0x8000_0000) | (s[(i + 1) % N] & 0x7fff_ffff);
            let odd = if y & 1 == 0 { 0 } else { 0x9908_b0df };
            s[i] = s[(i + M) % N] ^ (y >> 1) ^ odd;
        }
        self.next = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_those_of_python() {
        // python3 -c 'import random; random.seed(42); print([random.random() for _ in range(3)])'
        let mut r = Mersenne::new(42);
        assert_eq!(
            [r.random(), r.random(), r.random()],
            [0.6394267984578837, 0.025010755222666936, 0.27502931836911926]
        );
        // random.seed(2 ** 40 + 7)
        let mut r = Mersenne::new((1 << 40) + 7);
        assert_eq!(r.random(), 0.6137037779936511);
    }
}

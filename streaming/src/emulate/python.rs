//! Python's `random.Random` for integers: the Mersenne Twister MT19937 as Matsumoto and Nishimura published it (ACM TOMACS
//! 8 (1), 1998; the seeding by an array is theirs of 2002), and what CPython draws from it for `randrange`.
//!
//! The original emulator chose its rows with it; nothing else may depend on it, because it is slow and no source of secrets.

const WORDS: usize = 624;
const MIDDLE: usize = 397;

/// `random.Random(seed)`.
#[derive(Clone)]
pub struct Random {
    state: [u32; WORDS],
    next: usize,
}

impl Random {
    /// `random.seed(seed)`: the seed's 32-bit words, lowest first, are the key.
    pub fn new(seed: u64) -> Self {
        let (low, high) = (seed as u32, (seed >> 32) as u32);
        if high == 0 {
            Self::by_array(&[low])
        } else {
            Self::by_array(&[low, high])
        }
    }

    fn by_array(key: &[u32]) -> Self {
        let mut state = [0u32; WORDS];
        state[0] = 19_650_218;
        for at in 1..WORDS {
            let before = state[at - 1];
            state[at] = (before ^ (before >> 30))
                .wrapping_mul(1_812_433_253)
                .wrapping_add(at as u32);
        }
        let mut at = 1;
        for (word, position) in key.iter().zip(0u32..).cycle().take(WORDS.max(key.len())) {
            let before = state[at - 1];
            state[at] = (state[at] ^ (before ^ (before >> 30)).wrapping_mul(1_664_525))
                .wrapping_add(*word)
                .wrapping_add(position);
            at = Self::after(at, &mut state);
        }
        for _ in 1..WORDS {
            let before = state[at - 1];
            state[at] = (state[at] ^ (before ^ (before >> 30)).wrapping_mul(1_566_083_941))
                .wrapping_sub(at as u32);
            at = Self::after(at, &mut state);
        }
        state[0] = 0x8000_0000;
        Self { state, next: WORDS }
    }

    /// The next place of the seeding, which passes over the first word and carries the last one there.
    fn after(at: usize, state: &mut [u32; WORDS]) -> usize {
        if at + 1 < WORDS {
            return at + 1;
        }
        state[0] = state[WORDS - 1];
        1
    }

    fn twist(&mut self) {
        for at in 0..WORDS {
            let mixed =
                (self.state[at] & 0x8000_0000) | (self.state[(at + 1) % WORDS] & 0x7fff_ffff);
            let odd = if mixed & 1 == 1 { 0x9908_b0df } else { 0 };
            self.state[at] = self.state[(at + MIDDLE) % WORDS] ^ (mixed >> 1) ^ odd;
        }
        self.next = 0;
    }

    /// The next 32 bits.
    fn word(&mut self) -> u32 {
        if self.next == WORDS {
            self.twist();
        }
        let mut word = self.state[self.next];
        self.next += 1;
        word ^= word >> 11;
        word ^= (word << 7) & 0x9d2c_5680;
        word ^= (word << 15) & 0xefc6_0000;
        word ^ (word >> 18)
    }

    /// `random.randrange(bound)`: as many bits as the bound has, drawn again until they are below it.
    ///
    /// A bound of 0 gives 0.
    pub fn below(&mut self, bound: u32) -> u32 {
        let bits = 32 - bound.leading_zeros();
        if bits == 0 {
            return 0;
        }
        loop {
            let drawn = self.word() >> (32 - bits);
            if drawn < bound {
                return drawn;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_generator_is_the_published_one() {
        // The first numbers of the authors' own test output.
        let mut random = Random::by_array(&[0x123, 0x234, 0x345, 0x456]);
        let words = [(); 5].map(|()| random.word());
        assert_eq!(
            words,
            [
                1_067_595_299,
                955_945_823,
                477_289_528,
                4_107_218_783,
                4_228_976_476
            ]
        );
    }

    #[test]
    fn it_draws_what_python_draws() {
        // [random.Random(seed).randrange(bound) …] of CPython 3.11.
        let drawn = |seed, bound| {
            let mut random = Random::new(seed);
            [(); 6].map(|()| random.below(bound))
        };
        assert_eq!(drawn(100, 11001), [2386, 7528, 7453, 2863, 6439, 5730]);
        assert_eq!(drawn(0, 2), [1, 1, 0, 1, 1, 1]);
        assert_eq!(
            drawn(1099511627783, 1000000),
            [643515, 783626, 854501, 983493, 990916, 670589]
        );
        assert_eq!(drawn(4294967295, 3), [2, 2, 0, 0, 2, 2]);
        assert_eq!(
            drawn(12345, 4294967295),
            [
                1789368711, 3146859322, 43676229, 3522623596, 3544234957, 3448207591
            ]
        );
    }

    #[test]
    fn nothing_is_below_nothing() {
        assert_eq!(Random::new(1).below(0), 0);
        assert_eq!(Random::new(1).below(1), 0);
    }
}

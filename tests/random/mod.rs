//! Random numbers that can be had again: SplitMix64, which is small and the same everywhere.
//!
//! The seed is printed, and a failing test shows what it printed; `TAGLEDGER_TEST_SEED` sets it.

/// A source of numbers.
pub(crate) struct Random(u64);

impl Random {
    /// Seeds it afresh, or from the environment.
    pub(crate) fn new() -> Self {
        let given = std::env::var("TAGLEDGER_TEST_SEED").ok().map(|seed| seed.parse().expect("a decimal number"));
        let seed = given.unwrap_or_else(|| getrandom::u64().expect("the system has random numbers"));
        println!("TAGLEDGER_TEST_SEED={seed}");
        Self(seed)
    }

    /// A number below `limit`.
    pub(crate) fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % limit
    }
}

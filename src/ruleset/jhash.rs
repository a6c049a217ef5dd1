//! Bob Jenkins' hash as the kernel computes it (`include/linux/jhash.h`) in nft's `jhash` expression.

/// What all hashes of the table begin with. It is the same on all nodes and in all versions: the same client is to get the
/// same endpoint everywhere.
pub const HASH_SEED: u32 = 0x706f_7274;

const INITIAL: u32 = 0xdead_beef;

/// The slot, 0 to `modulus` - 1, of a key: each field padded to a multiple of 4 bytes, as it is in the kernel's registers.
pub fn hashed_slot(key: &[u8], modulus: u32) -> u32 {
    // Not the remainder, whatever `mod` says: the kernel scales (`reciprocal_scale`).
    ((u64::from(jhash(key, HASH_SEED)) * u64::from(modulus)) >> 32) as u32
}

/// The hash of some bytes. Like the kernel it reads blocks of 12 in the byte order of the machine.
pub fn jhash(mut key: &[u8], seed: u32) -> u32 {
    let start = INITIAL.wrapping_add(key.len() as u32).wrapping_add(seed);
    let [mut a, mut b, mut c] = [start; 3];
    while key.len() > 12 {
        let word = |at: usize| u32::from_ne_bytes([key[at], key[at + 1], key[at + 2], key[at + 3]]);
        (a, b, c) = mix(a.wrapping_add(word(0)), b.wrapping_add(word(4)), c.wrapping_add(word(8)));
        key = &key[12..];
    }
    if key.is_empty() {
        return c;
    }
    let mut last = [0; 12];
    last[..key.len()].copy_from_slice(key);
    let word = |at: usize| u32::from_le_bytes([last[at], last[at + 1], last[at + 2], last[at + 3]]);
    finish(a.wrapping_add(word(0)), b.wrapping_add(word(4)), c.wrapping_add(word(8)))
}

/// `__jhash_mix`
fn mix(mut a: u32, mut b: u32, mut c: u32) -> (u32, u32, u32) {
    let step = |x: u32, y: u32, bits| x.wrapping_sub(y) ^ y.rotate_left(bits);
    a = step(a, c, 4);
    c = c.wrapping_add(b);
    b = step(b, a, 6);
    a = a.wrapping_add(c);
    c = step(c, b, 8);
    b = b.wrapping_add(a);
    a = step(a, c, 16);
    c = c.wrapping_add(b);
    b = step(b, a, 19);
    a = a.wrapping_add(c);
    c = step(c, b, 4);
    b = b.wrapping_add(a);
    (a, b, c)
}

/// `__jhash_final`
fn finish(mut a: u32, mut b: u32, mut c: u32) -> u32 {
    let step = |x: u32, y: u32, bits| (x ^ y).wrapping_sub(y.rotate_left(bits));
    c = step(c, b, 14);
    a = step(a, c, 11);
    b = step(b, a, 25);
    c = step(c, b, 16);
    a = step(a, c, 4);
    b = step(b, a, 14);
    step(c, b, 24)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// From lookup3.c, the original: `hashlittle` with the constant the kernel has in its place.
    #[test]
    fn the_original_agrees() {
        let original = |key: &[u8], seed: u32| jhash(key, seed.wrapping_sub(INITIAL).wrapping_add(0xdead_beef));
        assert_eq!(original(b"Four score and seven years ago", 0), 0x1777_0551);
        assert_eq!(original(b"Four score and seven years ago", 1), 0xcd62_8161);
        assert_eq!(original(b"", 0), 0xdead_beef);
    }
}

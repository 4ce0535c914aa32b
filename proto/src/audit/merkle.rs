//! The Merkle tree of RFC 6962 §2.1 (RFC 9162 §2.1) with SHA-256: roots, and proofs that a leaf is in a tree (inclusion) and that
//! a tree is the beginning of a later one (consistency).
//!
//! Proofs are made from *complete subtrees*, which never change once they are full, so that whoever keeps a tree reads a few hashes of
//! it for a proof, and not the tree.

use std::ops::Range;

use sha2::{Digest, Sha256};

use crate::id::TreeHash;

/// Longest proof: two hashes for each level of the largest tree.
pub const MAX_PROOF: usize = 128;

/// Longest path that is verified: more levels than a size of 64 bits can have.
const MAX_PATH: usize = MAX_PROOF;

/// The hash of a leaf: SHA-256(0x00 ‖ data).
#[must_use]
pub fn leaf(data: &[u8]) -> TreeHash {
    hash(&[&[0], data])
}

/// The hash of an inner node: SHA-256(0x01 ‖ left ‖ right). The other first byte keeps a node from being shown as a leaf.
#[must_use]
pub fn node(left: &TreeHash, right: &TreeHash) -> TreeHash {
    hash(&[&[1], left.as_bytes(), right.as_bytes()])
}

/// The root of a tree without leaves: SHA-256 of nothing.
#[must_use]
pub fn empty() -> TreeHash {
    hash(&[])
}

fn hash(parts: &[&[u8]]) -> TreeHash {
    let mut hasher = Sha256::new();
    parts.iter().for_each(|part| hasher.update(part));
    TreeHash::from_bytes(hasher.finalize().into())
}

/// A complete subtree: the 2^`level` leaves from `index` · 2^`level` on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Subtree {
    pub level: u8,
    pub index: u64,
}

/// The complete subtrees that `leaves` consists of, left to right: of no leaves none, else one for each bit of their number. They are
/// complete subtrees of the whole tree where `leaves` is one that a proof asks for, or begins at 0.
#[must_use]
pub fn subtrees(leaves: &Range<u64>) -> Vec<Subtree> {
    let mut found = Vec::new();
    let mut start = leaves.start;
    while start < leaves.end {
        let level = (leaves.end - start).ilog2();
        found.push(Subtree { level: level as u8, index: start >> level });
        start += 1 << level;
    }
    found
}

/// The root of leaves whose complete subtrees have these hashes, left to right.
#[must_use]
pub fn root(subtrees: &[TreeHash]) -> TreeHash {
    subtrees.iter().rev().copied().reduce(|right, left| node(&left, &right)).unwrap_or_else(empty)
}

/// Which leaves' roots prove that leaf `index` is in the tree of `size` leaves, in the order of the proof (RFC 6962 §2.1.1);
/// none where it is not in it.
#[must_use]
pub fn inclusion(index: u64, size: u64) -> Vec<Range<u64>> {
    let (mut tree, mut siblings) = (0..size, Vec::new());
    while tree.contains(&index) && tree.end - tree.start > 1 {
        let middle = tree.start + split(tree.end - tree.start);
        let (inside, sibling) =
            if index < middle { (tree.start..middle, middle..tree.end) } else { (middle..tree.end, tree.start..middle) };
        siblings.push(sibling);
        tree = inside;
    }
    siblings.reverse();
    siblings
}

/// Which leaves' roots prove that the tree of `from` leaves is the beginning of the one of `to`, in the order of the proof
/// (RFC 6962 §2.1.2); none where nothing is to be proven: `from` is 0, or not smaller than `to`.
#[must_use]
pub fn consistency(from: u64, to: u64) -> Vec<Range<u64>> {
    if from == 0 || from >= to {
        return Vec::new();
    }
    let (mut tree, mut siblings) = (0..to, Vec::new());
    while tree.end > from {
        let middle = tree.start + split(tree.end - tree.start);
        let (inside, sibling) =
            if from <= middle { (tree.start..middle, middle..tree.end) } else { (middle..tree.end, tree.start..middle) };
        siblings.push(sibling);
        tree = inside;
    }
    // Where the old tree is a complete subtree from the first leaf on, the verifier knows its root.
    if tree.start > 0 {
        siblings.push(tree);
    }
    siblings.reverse();
    siblings
}

/// The largest power of two that is smaller than `size`, which is 2 at least.
fn split(size: u64) -> u64 {
    1 << (size - 1).ilog2()
}

/// Whether `proof` shows that the leaf with this hash is number `index` of the tree of `size` leaves with this root (RFC 9162 §2.1.3.2).
#[must_use]
pub fn verify_inclusion(leaf: &TreeHash, index: u64, size: u64, root: &TreeHash, proof: &[TreeHash]) -> bool {
    if index >= size || proof.len() > MAX_PATH {
        return false;
    }
    let (mut first, mut last, mut hash) = (index, size - 1, *leaf);
    for sibling in proof {
        if last == 0 {
            return false;
        }
        if first & 1 == 1 || first == last {
            hash = node(sibling, &hash);
            while first & 1 == 0 && first != 0 {
                first >>= 1;
                last >>= 1;
            }
        } else {
            hash = node(&hash, sibling);
        }
        first >>= 1;
        last >>= 1;
    }
    last == 0 && hash == *root
}

/// Whether `proof` shows that the tree of `from` leaves with the root `old` is the beginning of that of `to` leaves with the root
/// `new` (RFC 9162 §2.1.4.2).
#[must_use]
pub fn verify_consistency(from: u64, old: &TreeHash, to: u64, new: &TreeHash, proof: &[TreeHash]) -> bool {
    if from > to || proof.len() > MAX_PATH {
        return false;
    }
    if from == to {
        return proof.is_empty() && old == new;
    }
    if from == 0 {
        return proof.is_empty() && *old == empty();
    }
    let (start, rest) = match proof.split_first() {
        _ if from.is_power_of_two() => (old, proof),
        Some((start, rest)) => (start, rest),
        None => return false,
    };
    let (mut first, mut last) = (from - 1, to - 1);
    while first & 1 == 1 {
        first >>= 1;
        last >>= 1;
    }
    let (mut old_hash, mut new_hash) = (*start, *start);
    for sibling in rest {
        if last == 0 {
            return false;
        }
        if first & 1 == 1 || first == last {
            old_hash = node(sibling, &old_hash);
            new_hash = node(sibling, &new_hash);
            while first & 1 == 0 && first != 0 {
                first >>= 1;
                last >>= 1;
            }
        } else {
            new_hash = node(&new_hash, sibling);
        }
        first >>= 1;
        last >>= 1;
    }
    last == 0 && old_hash == *old && new_hash == *new
}

/// A tree that grows leaf by leaf and tells its root; it keeps one hash for each level.
#[derive(Debug, Clone, Default)]
pub struct Tree {
    size: u64,
    /// Of the complete subtrees, left to right.
    hashes: Vec<TreeHash>,
}

impl Tree {
    /// The tree of `size` leaves whose complete subtrees ([`subtrees`] of `0..size`) have these hashes; none where they are not as many.
    #[must_use]
    pub fn of(size: u64, hashes: Vec<TreeHash>) -> Option<Self> {
        (hashes.len() == size.count_ones() as usize).then_some(Self { size, hashes })
    }

    pub fn push(&mut self, leaf: TreeHash) {
        let mut hash = leaf;
        for _ in 0..self.size.trailing_ones() {
            if let Some(left) = self.hashes.pop() {
                hash = node(&left, &hash);
            }
        }
        self.hashes.push(hash);
        self.size += 1;
    }

    /// How many leaves it has.
    #[must_use]
    pub const fn size(&self) -> u64 {
        self.size
    }

    #[must_use]
    pub fn root(&self) -> TreeHash {
        root(&self.hashes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// MTH of RFC 6962 §2.1, word for word.
    fn naive(leaves: &[TreeHash]) -> TreeHash {
        match leaves {
            [] => empty(),
            [one] => *one,
            many => {
                let (left, right) = many.split_at(split(many.len() as u64) as usize);
                node(&naive(left), &naive(right))
            }
        }
    }

    fn leaves(count: u64) -> Vec<TreeHash> {
        (0..count).map(|number| leaf(&number.to_be_bytes())).collect()
    }

    fn at(leaves: &[TreeHash], range: &Range<u64>) -> TreeHash {
        let hashes: Vec<TreeHash> = subtrees(range)
            .into_iter()
            .map(|Subtree { level, index }| {
                let start = (index << level) as usize;
                naive(&leaves[start..start + (1 << level)])
            })
            .collect();
        root(&hashes)
    }

    fn proof(leaves: &[TreeHash], ranges: &[Range<u64>]) -> Vec<TreeHash> {
        ranges.iter().map(|range| at(leaves, range)).collect()
    }

    /// The eight leaves and roots that implementations of RFC 6962 test themselves with.
    #[test]
    fn roots_of_the_reference() {
        let inputs = ["", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f"];
        let roots = [
            "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
            "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
            "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
            "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
            "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
            "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
            "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
            "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
        ];
        let mut tree = Tree::default();
        assert_eq!(tree.root().to_string(), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
        for (input, root) in inputs.iter().zip(roots) {
            tree.push(leaf(&hex::decode(input).unwrap()));
            assert_eq!(tree.root().to_string(), root);
        }
    }

    /// RFC 6962 §2.1.3: the tree of seven leaves, and what proves what in it.
    #[test]
    fn the_example_of_the_rfc() {
        assert_eq!(inclusion(0, 7), [1..2, 2..4, 4..7]);
        assert_eq!(inclusion(3, 7), [2..3, 0..2, 4..7]);
        assert_eq!(inclusion(4, 7), [5..6, 6..7, 0..4]);
        assert_eq!(inclusion(6, 7), [4..6, 0..4]);
        assert_eq!(consistency(3, 7), [2..3, 3..4, 0..2, 4..7]);
        assert_eq!(consistency(4, 7), vec![4..7]);
        assert_eq!(consistency(6, 7), [4..6, 6..7, 0..4]);
    }

    #[test]
    fn small_trees_in_full() {
        let all = leaves(33);
        let mut tree = Tree::default();
        for size in 0..=all.len() as u64 {
            let part = &all[..size as usize];
            assert_eq!((tree.size(), tree.root()), (size, naive(part)));
            assert_eq!(at(&all, &(0..size)), naive(part));
            for index in 0..size {
                let proof = proof(&all, &inclusion(index, size));
                for other in 0..=size {
                    let shown = verify_inclusion(&all[index as usize], other, size, &naive(part), &proof);
                    assert_eq!(shown, other == index, "leaf {index} of {size} as {other}");
                }
            }
            let parts = subtrees(&(0..size)).into_iter().map(|Subtree { level, index }| {
                let start = (index << level) as usize;
                naive(&all[start..start + (1 << level)])
            });
            let mut again = Tree::of(size, parts.collect()).unwrap();
            assert_eq!(again.root(), tree.root());
            all[size as usize..].iter().for_each(|leaf| again.push(*leaf));
            assert_eq!(again.root(), naive(&all));
            for from in 0..=size {
                let proof = proof(&all, &consistency(from, size));
                let old = naive(&all[..from as usize]);
                assert!(verify_consistency(from, &old, size, &naive(part), &proof), "{from} in {size}");
                assert!(!verify_consistency(from, &leaf(b"x"), size, &naive(part), &proof));
                // Every log begins with nothing.
                assert_eq!(verify_consistency(from, &old, size, &leaf(b"x"), &proof), from == 0 && size > 0);
                assert_eq!(verify_consistency(size, &naive(part), from, &old, &proof), from == size);
            }
            if let Some(next) = all.get(size as usize) {
                tree.push(*next);
            }
        }
    }

    proptest! {
        #[test]
        fn proofs_hold(size in 1_u64..2_000, a in any::<u64>(), b in any::<u64>()) {
            let all = leaves(size);
            let (index, from) = (a % size, b % (size + 1));
            let root = naive(&all);
            let included = proof(&all, &inclusion(index, size));
            prop_assert!(included.len() <= MAX_PROOF);
            prop_assert!(verify_inclusion(&all[index as usize], index, size, &root, &included));
            let consistent = proof(&all, &consistency(from, size));
            prop_assert!(consistent.len() <= MAX_PROOF);
            prop_assert!(verify_consistency(from, &naive(&all[..from as usize]), size, &root, &consistent));
        }

        /// Whatever is changed (a leaf, the order, a hash of the proof, its length, a size) is seen.
        #[test]
        fn lies_do_not(size in 2_u64..300, a in any::<u64>(), b in any::<u64>(), bit in 0_usize..256, how in 0_u8..6) {
            let all = leaves(size);
            let (index, from) = (a % size, 1 + b % (size - 1));
            let root = naive(&all);
            let mut included = proof(&all, &inclusion(index, size));
            let mut consistent = proof(&all, &consistency(from, size));
            let old = naive(&all[..from as usize]);
            let flip = |hash: &mut TreeHash| {
                let mut bytes = *hash.as_bytes();
                bytes[bit / 8] ^= 1 << (bit % 8);
                *hash = TreeHash::from_bytes(bytes);
            };
            let (mut shown, mut from_shown) = (all[index as usize], from);
            match how {
                0 => { flip(&mut shown); from_shown = from - 1; }
                1 => {
                    let at = a as usize % included.len();
                    flip(&mut included[at]);
                    let at = b as usize % consistent.len();
                    flip(&mut consistent[at]);
                }
                2 => { included.pop(); consistent.pop(); }
                3 => { included.push(shown); consistent.push(shown); }
                4 => {
                    // Two leaves change places: another history.
                    let mut swapped = all.clone();
                    swapped.swap(0, size as usize - 1);
                    prop_assert!(!verify_consistency(from, &old, size, &naive(&swapped), &proof(&swapped, &consistency(from, size))));
                    return Ok(());
                }
                _ => {
                    // One leaf of the old tree is gone.
                    let mut cut = all.clone();
                    cut.remove((a % from) as usize);
                    let to = cut.len() as u64;
                    let proof = if from <= to { proof(&cut, &consistency(from, to)) } else { Vec::new() };
                    prop_assert!(!verify_consistency(from, &old, to, &naive(&cut), &proof));
                    return Ok(());
                }
            }
            prop_assert!(!verify_inclusion(&shown, index, size, &root, &included));
            prop_assert!(!verify_consistency(from_shown, &old, size, &root, &consistent));
        }

        #[test]
        fn nonsense_is_survived(
            index in any::<u64>(), size in any::<u64>(), from in any::<u64>(), to in any::<u64>(),
            hashes in proptest::collection::vec(any::<[u8; 32]>(), 0..140),
        ) {
            let proof: Vec<TreeHash> = hashes.into_iter().map(TreeHash::from_bytes).collect();
            let hash = leaf(b"x");
            prop_assert!(!verify_inclusion(&hash, index, size.max(3), &empty(), &proof));
            let _ = verify_consistency(from, &hash, to, &empty(), &proof);
            prop_assert!(inclusion(index, size).len() <= 64);
            prop_assert!(consistency(from, to).len() <= 65);
        }
    }
}

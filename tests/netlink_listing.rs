//! What `nft` says about our tables. Needs root; PORTWAY_NFT names other versions of `nft` to try as well.

use portway::model::Family;
use portway::nftables::NftKernel;
use portway::ruleset::{Foreign, Kernel, SetId, Table};

use support::netns::in_netns;
use support::nft::{Nft, assert_same_text};
use support::release::is_linux;
use support::sample;

/// Kept listing of the sample; PORTWAY_BLESS=1 writes it anew.
fn golden(family: Family, listing: &str) -> String {
    let path = format!("{}/tests/golden/netlink-{}.nft", env!("CARGO_MANIFEST_DIR"), family.nft());
    if std::env::var_os("PORTWAY_BLESS").is_some() && !listing.is_empty() {
        std::fs::write(&path, listing).expect("writable");
    }
    std::fs::read_to_string(&path).expect("kept in the repository")
}

#[test]
fn any_nft_lists_what_is_kept_and_can_load_it_again() {
    for nft in Nft::all() {
        for family in Family::ALL {
            let listing = in_netns(|| {
                let mut kernel = NftKernel::open().expect("a socket");
                kernel.apply(&sample::transaction(family)).expect("applied");
                let json = nft.run(&["-j", "list", "ruleset"], "").expect("listable as JSON");
                let json: serde_json::Value = serde_json::from_str(&json).expect("JSON");
                assert!(json["nftables"].as_array().expect("a list").len() > 60);
                nft.run(&["list", "map", family.nft(), "portway", "endpoints"], "").expect("listable alone");
                nft.list()
            });
            assert_same_text(&listing, &golden(family, &listing), &nft.program);
            // Older ones do not know `ct original proto-dst` in a concatenation.
            if nft.version >= (1, 0, 7) {
                let again = in_netns(|| {
                    nft.run(&["-f", "-"], &listing).expect("loadable");
                    nft.list()
                });
                assert_same_text(&again, &listing, &nft.program);
            }
        }
    }
}

/// The sets that `nft` declares otherwise than we do: where the kernel may be at fault, we have it compare short fields.
fn declared_otherwise(family: Family) -> Vec<SetId> {
    if is_linux((6, 16)) || family == Family::Ipv4 {
        return Vec::new();
    }
    vec![SetId::AllowedSources, SetId::NodeportAllowedSources]
}

/// `nft` writes the same rules: our reader finds nothing foreign in a table it made.
#[test]
fn what_nft_loads_reads_back_as_ours() {
    for nft in Nft::all().into_iter().filter(|nft| nft.version >= (1, 0, 7)) {
        for family in Family::ALL {
            in_netns(|| {
                let listing = golden(family, "");
                nft.run(&["-f", "-"], &listing).expect("loadable");
                let options = portway::nftables::KernelOptions { owned: false, modern: true };
                let mut kernel = NftKernel::open_with(options).expect("a socket");
                let theirs = kernel.read(family).expect("readable").expect("there");
                let otherwise = declared_otherwise(family);
                let foreign = otherwise.iter().map(|set| Foreign::Other(format!("set {}", set.spec().name)));
                assert_eq!(theirs.foreign, foreign.collect::<Vec<_>>(), "{nft:?}");
                let ours = in_netns(|| {
                    let mut kernel = NftKernel::open_with(options).expect("a socket");
                    kernel.apply(&sample::transaction(family)).expect("applied");
                    kernel.read(family).expect("readable").expect("there")
                });
                let sets = ours.sets.into_iter().filter(|(set, _)| !otherwise.contains(set)).collect();
                let ours = Table { sets, ..ours };
                assert_eq!(theirs.chains, ours.chains, "{nft:?}");
                assert_eq!(theirs.sets, ours.sets, "{nft:?}");
            });
        }
    }
}

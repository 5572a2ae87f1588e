//! The contract of the service: as the SDK has it, or with the feature `later` in a later version, which `.ci/later.sh`
//! makes. All else is the same in both builds.

#[cfg(not(feature = "later"))]
pub(crate) use plait::pb::{FILE_DESCRIPTOR_SET, testing};

#[cfg(feature = "later")]
pub(crate) use later::{FILE_DESCRIPTOR_SET, testing};

#[cfg(feature = "later")]
#[allow(
    dead_code,
    unreachable_pub,
    reason = "generated code is linted where it is generated from"
)]
mod later {
    /// What the generated code refers to.
    pub(crate) use plait::pb::google;

    pub(crate) mod testing {
        pub(crate) mod v1 {
            include!(concat!(
                env!("CARGO_MANIFEST_DIR"),
                "/../../../build/later/sdk/rust/gen/testing.v1.rs"
            ));
        }
    }

    pub(crate) const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../../../build/later/sdk/rust/gen/plait.fds.binpb"
    ));
}

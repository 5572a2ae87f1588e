//! The contract of the service: as the SDK has it, or with the feature `later` in a later version, which `.ci/later.sh`
//! makes. All else is the same in both builds.

#[cfg(not(feature = "later"))]
pub(crate) use plait::pb::{FILE_DESCRIPTOR_SET, testing};

#[cfg(feature = "later")]
pub(crate) use later::{FILE_DESCRIPTOR_SET, testing};

#[cfg(feature = "later")]
mod later {
    /// What the generated code refers to.
    pub(crate) use plait::pb::google;

    include!(concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../../../build/later/contract.rs"
    ));
}

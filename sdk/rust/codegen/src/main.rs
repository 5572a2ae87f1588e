//! Generates sdk/rust/gen from a descriptor set; no protoc, no build.rs.
//!
//! Usage: `plait-codegen DESCRIPTOR_SET OUT_DIR`. The output is a `mod.rs` that nests one module per
//! proto package, and one file per package beside it. Bytes fields become `bytes::Bytes`, so that a
//! payload is a counted slice. It does not write the descriptor set that the SDK embeds: prost drops
//! custom options, so decoding and encoding it here would lose the policies. `.ci/gen.sh` has buf
//! write that one.

use std::{env, fs, path::Path};

use anyhow::{Context, Result, bail};
use prost::Message;
use prost_types::FileDescriptorSet;

fn main() -> Result<()> {
    let args: Vec<String> = env::args().collect();
    let [_, input, out] = args.as_slice() else {
        bail!("usage: plait-codegen DESCRIPTOR_SET OUT_DIR");
    };
    generate(Path::new(input), Path::new(out))
}

fn generate(input: &Path, out: &Path) -> Result<()> {
    let encoded = fs::read(input).with_context(|| format!("reading {}", input.display()))?;
    let descriptors = FileDescriptorSet::decode(encoded.as_slice())
        .with_context(|| format!("decoding {}", input.display()))?;
    fs::create_dir_all(out).with_context(|| format!("creating {}", out.display()))?;
    tonic_prost_build::configure()
        .build_client(true)
        .build_server(true)
        .bytes(".")
        .emit_rerun_if_changed(false)
        .out_dir(out)
        .include_file("mod.rs")
        .compile_fds(descriptors)
        .context("generating")
}

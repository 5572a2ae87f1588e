//! Generates sdk/rust/gen from descriptor sets; no protoc, no build.rs.
//!
//! Usage: `plait-codegen DESCRIPTOR_SET... OUT_DIR`. A file that several sets have is taken from the first. The
//! output is a `mod.rs` that nests one module per proto package, and one file per package beside it. Bytes fields
//! become `bytes::Bytes`, so that a payload is a counted slice. It does not write the descriptor set that the SDK
//! embeds: prost drops custom options, so decoding and encoding it here would lose the policies. `.ci/gen.sh` has buf
//! write that one.

use std::{collections::HashSet, env, fs, path::Path};

use anyhow::{Context, Result, bail};
use prost::Message;
use prost_types::FileDescriptorSet;

fn main() -> Result<()> {
    let args: Vec<String> = env::args().collect();
    let [_, inputs @ .., out] = args.as_slice() else {
        bail!("usage: plait-codegen DESCRIPTOR_SET... OUT_DIR");
    };
    generate(inputs, Path::new(out))
}

fn generate(inputs: &[String], out: &Path) -> Result<()> {
    let mut descriptors = FileDescriptorSet::default();
    let mut known = HashSet::new();
    for input in inputs {
        let encoded = fs::read(input).with_context(|| format!("reading {input}"))?;
        let set = FileDescriptorSet::decode(encoded.as_slice())
            .with_context(|| format!("decoding {input}"))?;
        let new = set.file.into_iter();
        let new = new.filter(|file| known.insert(file.name().to_owned()));
        descriptors.file.extend(new);
    }
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

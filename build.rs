//! Compiles the protobuf definitions with protox (no protoc needed) into messages, clients, servers and a descriptor set
//! for reflection.

use prost::Message as _;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let files = [
        "tagledger/v1/statement.proto",
        "tagledger/v1/entry.proto",
        "tagledger/v1/evidence.proto",
        "tagledger/v1/append_service.proto",
        "tagledger/v1/log_service.proto",
        "tagledger/v1/query_service.proto",
    ];
    println!("cargo:rerun-if-changed=proto");
    let descriptors = protox::compile(files, ["proto"])?;
    let out = std::path::PathBuf::from(std::env::var("OUT_DIR")?);
    std::fs::write(out.join("descriptors.bin"), descriptors.encode_to_vec())?;
    tonic_prost_build::configure()
        .build_server(std::env::var_os("CARGO_FEATURE_SERVER").is_some())
        .compile_fds(descriptors)?;
    Ok(())
}

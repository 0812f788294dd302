//! Removes exports from the linked filter. The SDK exports every proxy-wasm callback, and Envoy calls each exported one
//! for every stream, whether it does anything or not; so empty callbacks cost a request as much as others
//! (docs/reference/hot-path.md). Code that only they reach is removed too.
//!
//! `keyward-wasm-exports FILE.wasm [EXPORT…]` rewrites the file; the named exports are kept in addition to those of
//! every filter.

use anyhow::{Context as _, Result, bail};
use std::path::PathBuf;
use walrus::Module;

/// The exports that every filter needs (proxy-wasm ABI 0.2.1).
const KEPT: [&str; 12] = [
    "memory",
    "_initialize",
    "proxy_abi_version_0_2_1",
    "proxy_on_memory_allocate",
    "proxy_on_vm_start",
    "proxy_on_configure",
    "proxy_on_tick",
    "proxy_on_http_call_response",
    "proxy_on_context_create",
    "proxy_on_delete",
    "proxy_on_request_headers",
    // Not called for requests without trailers.
    "proxy_on_request_trailers",
];

fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let Some(path) = arguments.next().map(PathBuf::from) else {
        bail!("usage: keyward-wasm-exports FILE.wasm [EXPORT…]")
    };
    let kept: Vec<String> = KEPT.into_iter().map(str::to_owned).chain(arguments).collect();
    let mut module = Module::from_file(&path).with_context(|| format!("failed to read {}", path.display()))?;
    if let Some(missing) = kept.iter().find(|name| !module.exports.iter().any(|export| export.name == **name)) {
        bail!("expected an export {missing} in {}", path.display());
    }
    let others: Vec<_> =
        module.exports.iter().filter(|export| !kept.contains(&export.name)).map(|export| export.id()).collect();
    for export in others {
        module.exports.delete(export);
    }
    walrus::passes::gc::run(&mut module);
    // Cargo's file may be a hard link to its own copy, so the file is replaced rather than overwritten.
    let rewritten = path.with_extension("wasm.new");
    module.emit_wasm_file(&rewritten).with_context(|| format!("failed to write {}", rewritten.display()))?;
    std::fs::rename(&rewritten, &path).with_context(|| format!("failed to replace {}", path.display()))
}

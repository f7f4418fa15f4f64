#!/usr/bin/env bash
# Packs what a GPU machine without a .NET SDK needs: the NUnit suite and the CLI, self-contained, in one archive (about 30 MB).
#   tests/gpu/pack.sh [ARCHIVE]      default: .gpu/app.tar.xz (an ignored folder)
# tests/gpu/run.sh on the GPU machine unpacks and runs it.
set -euo pipefail
root="$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)"
archive="${1:-$root/.gpu/app.tar.xz}"
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT

publish() {
  dotnet publish "$root/$1" -c Release -r linux-x64 --self-contained -p:PublishSingleFile=false -p:DebugType=none -p:SatelliteResourceLanguages=en \
    -o "$work/app" --artifacts-path "$work/artifacts" -v quiet
}
publish tests/FlashAttention.Tests/FlashAttention.Tests.csproj
publish managed/FlashAttention.Cli/FlashAttention.Cli.csproj
# The native library is built on the GPU machine; a copy made here must not shadow it.
rm -f "$work/app/libflash_attention.so"
rm -rf "$work/app/runtimes"
mkdir -p "$(dirname "$archive")"
tar -C "$work" -c app | xz -T0 -6 > "$archive"
echo "$archive: $(du -h "$archive" | cut -f1)"

#!/usr/bin/env bash
# Brings nvcc 12.4 and the CUDA headers into a project-local, ignored folder, from Debian's own packages (non-free).
# Needs no root: apt works on separate lists, dpkg-deb unpacks. Usage: fetch-cuda.sh [TARGET]; prints the toolkit root.
set -euo pipefail

here="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
target="${1:-$here/.deps/cuda}"
suite=trixie
packages=(nvidia-cuda-toolkit nvidia-cuda-dev libcudart12 libnvvm4 libcu++-dev libcub-dev libthrust-dev
          libnvrtc12 nvidia-cuda-toolkit-gcc)
# nvidia-cuda-toolkit-gcc only carries a compiler choice; it is optional.
optional=(nvidia-cuda-toolkit-gcc libnvrtc12)

if [[ -x "$target/bin/nvcc" && -f "$target/.complete" ]]; then echo "$target"; exit 0; fi

for tool in apt-get dpkg-deb; do
  command -v "$tool" >/dev/null || {
    echo "fetch-cuda: '$tool' is missing. On a system that is not Debian or Ubuntu, install CUDA 12.4 or newer and set CUDACXX=/path/to/nvcc." >&2
    exit 1; }
done

# The mirror is the one this machine already uses.
mirror="${FLASH_ATTENTION_DEBIAN_MIRROR:-$(apt-get indextargets --format '$(SITE)|$(SUITE)|$(COMPONENT)' 2>/dev/null \
  | grep -E '\|(bookworm|trixie|bullseye|stable|testing|sid|unstable)\|main' | head -n 1 | cut -d'|' -f1 || true)}"
if [[ -z "$mirror" ]]; then
  mirror="$(sed -n 's/^URIs: *//p; s/^deb \+\(\[[^]]*\] \+\)\?\([^ ]*\) .*/\2/p' /etc/apt/sources.list /etc/apt/sources.list.d/* 2>/dev/null \
    | grep -E '/debian/?$' | head -n 1 || true)"
fi
if [[ -z "$mirror" ]]; then
  echo "fetch-cuda: no Debian mirror is configured here. Set FLASH_ATTENTION_DEBIAN_MIRROR=<url of a Debian mirror>," \
    "or install CUDA 12.4 or newer and set CUDACXX=/path/to/nvcc." >&2
  exit 1
fi

work="$target.work"
rm -rf "$work"; mkdir -p "$work/lists/partial" "$work/cache/archives/partial" "$work/etc" "$work/unpack"
touch "$work/status"
keyring=/usr/share/keyrings/debian-archive-keyring.gpg
printf 'Types: deb\nURIs: %s\nSuites: %s\nComponents: main contrib non-free\nSigned-By: %s\n' \
  "$mirror" "$suite" "$keyring" > "$work/etc/cuda.sources"

apt=(apt-get -q -o "Dir::State=$work" -o "Dir::State::lists=$work/lists" -o "Dir::State::status=$work/status"
     -o "Dir::Cache=$work/cache" -o "Dir::Etc::sourcelist=/dev/null" -o "Dir::Etc::sourceparts=$work/etc"
     -o "APT::Sandbox::User=$(id -un)" -o "APT::Architecture=amd64" -o "APT::Architectures=amd64" -o "Acquire::Languages=none"
     -o "Acquire::Retries=3")
"${apt[@]}" update >&2

fetch=()
for name in "${packages[@]}"; do
  if apt-cache "${apt[@]:2}" show "$name" >/dev/null 2>&1; then fetch+=("$name");
  elif [[ " ${optional[*]} " != *" $name "* ]]; then echo "fetch-cuda: package $name is not in $suite" >&2; exit 1; fi
done
(cd "$work/cache" && "${apt[@]}" download "${fetch[@]}" >&2)
for deb in "$work"/cache/*.deb; do dpkg-deb -x "$deb" "$work/unpack"; done

# One toolkit root with the usual names, so that compilers and CMake find bin, include, lib64 and nvvm where they look. Of the libraries only the
# runtime and the driver stub are kept: 2.5 GB of others are not used here.
root="$work/root"; usr="$work/unpack/usr"
mkdir -p "$root/bin" "$root/lib64/stubs" "$root/nvvm/lib64"
cp -a "$usr"/bin/* "$root/bin/"
rm -f "$root/bin/nvcc" "$root"/bin/cuda-g*
cp -a "$usr"/lib/nvidia-cuda-toolkit/bin/{nvcc,cicc,crt} "$root/bin/"
cp -a "$usr/include" "$root/include"
cp -a "$usr/lib/nvidia-cuda-toolkit/libdevice" "$root/nvvm/libdevice"
lib="$usr/lib/x86_64-linux-gnu"
cp -a "$lib"/libcudart* "$lib"/libcudadevrt.a "$lib"/libculibos.a "$root/lib64/"
cp -a "$lib"/stubs/libcuda.so* "$root/lib64/stubs/"
cp -a "$lib"/libnvvm.so* "$root/nvvm/lib64/"
if [[ -d "$usr/lib/nvidia-cuda-toolkit/compute-sanitizer" ]]; then rm -f "$root/bin/compute-sanitizer"; fi
cat > "$root/bin/nvcc.profile" <<'PROFILE'
TOP              = $(_HERE_)/..
NVVMIR_LIBRARY_DIR = $(TOP)/nvvm/libdevice
LD_LIBRARY_PATH += $(TOP)/nvvm/lib64:
PATH            += $(_HERE_):
INCLUDES        += "-I$(TOP)/include" $(_SPACE_)
LIBRARIES       =+ $(_SPACE_) "-L$(TOP)/lib64/stubs" "-L$(TOP)/lib64"
PROFILE

# It must compile and disassemble before it is called complete.
printf '__global__ void probe(float* x) { x[threadIdx.x] *= 2.0f; }\n' > "$work/probe.cu"
host="$(command -v g++-12 || command -v g++)"
PATH="$root/bin:$PATH" "$root/bin/nvcc" -ccbin "$host" -gencode arch=compute_90a,code=sm_90a -cubin -o "$work/probe.cubin" "$work/probe.cu" >&2
"$root/bin/cuobjdump" -sass "$work/probe.cubin" | grep -q FMUL\\\|FADD || { echo "fetch-cuda: the unpacked toolkit does not work" >&2; exit 1; }

rm -rf "$target"; mkdir -p "$(dirname "$target")"
mv "$root" "$target"
touch "$target/.complete"
rm -rf "$work"
echo "$target"

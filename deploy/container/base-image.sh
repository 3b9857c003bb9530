#!/usr/bin/env bash
# Make the two base images out of Debian's packages, where no registry of images can be reached:
#   foveal-base:build     Debian, its Python 3.11, pip and a C compiler     BASE of build.sh
#   foveal-base:runtime   that Python and the libraries beneath it, no shell, no package manager: RUNTIME
# Needs root, debootstrap and podman (or docker). Packages come from where this machine's apt gets
# them; its sources stay out of the images. MIRROR names another place, CACHE keeps downloads.
set -euo pipefail
suite=bookworm
ENGINE=${ENGINE:-$(command -v podman || command -v docker)}
MIRROR=${MIRROR:-$(apt-get indextargets --format '$(REPO_URI) $(RELEASE) $(COMPONENT)' 'Created-By: Packages' |
  awk -v suite=$suite '$2 == suite && $3 == "main" { print $1; exit }')}
MIRROR=${MIRROR:-http://deb.debian.org/debian}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
root=$work/build
options=(--variant=minbase --include=python3,python3-pip,ca-certificates,gcc,libc6-dev,libpython3-dev)
if [ -n "${CACHE:-}" ]; then
  mkdir -p "$CACHE"
  options+=("--cache-dir=$(realpath "$CACHE")")
fi
debootstrap "${options[@]}" $suite "$root" "$MIRROR" >"$work/log" 2>&1 || { tail -20 "$work/log" >&2; exit 1; }

# The runtime: these packages' files and nothing that their scripts would do. libstdc++ and libgcc are what
# wheels lean on; the rest is what Python's own modules are linked with.
packages="base-files media-types tzdata ca-certificates libc6 gcc-12-base libgcc-s1 libstdc++6
  python3 python3-minimal python3.11 python3.11-minimal libpython3-stdlib libpython3.11-minimal
  libpython3.11-stdlib zlib1g libbz2-1.0 liblzma5 libssl3 libffi8 libexpat1 libuuid1 libcrypt1
  libsqlite3-0 libnsl2 libtirpc3 libkrb5-3 libk5crypto3 libgssapi-krb5-2 libkrb5support0 libcom-err2
  libkeyutils1 libdb5.3 libncursesw6 libtinfo6 libreadline8"
small=$work/runtime
mkdir -p "$small"/{etc,usr/{bin,sbin,lib,lib64}}
for folder in bin sbin lib lib64; do ln -s "usr/$folder" "$small/$folder"; done
for package in $packages; do
  files=("$root"/var/cache/apt/archives/"$package"_*.deb)
  dpkg-deb --fsys-tarfile "${files[0]}" | tar --extract --keep-directory-symlink --directory "$small"
done
cp -a "$root"/etc/{passwd,group,ssl} "$small/etc/"
cp -a "$root/etc/ld.so.conf" "$root/etc/ld.so.conf.d" "$small/etc/"
ldconfig -r "$small"
install -d -m 1777 "$small/tmp"

for folder in "$root" "$small"; do
  ln -sf python3 "$folder/usr/bin/python"
  rm -rf "$folder"/var/{cache/apt,lib/apt/lists,log}/* "$folder"/usr/share/{doc,man,locale,info,lintian}/* \
    "$folder"/usr/lib/python3.11/EXTERNALLY-MANAGED "$folder"/etc/{resolv.conf,hostname,machine-id}
done
: >"$root/etc/apt/sources.list"
for name in build runtime; do
  tar --create --directory "$work/$name" --numeric-owner --sort=name . |
    "$ENGINE" import --change 'ENV PATH=/usr/local/bin:/usr/bin:/bin' --change 'ENV LANG=C.UTF-8' \
      --change 'CMD ["python3"]' - "foveal-base:$name" >/dev/null
  "$ENGINE" image inspect "foveal-base:$name" --format "foveal-base:$name: {{.Size}} bytes"
done
echo "make image BASE=localhost/foveal-base:build RUNTIME=localhost/foveal-base:runtime"

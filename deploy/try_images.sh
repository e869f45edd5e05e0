#!/usr/bin/env bash
# Build both images without a container engine, and run them: needs root, buildah, debootstrap and a Debian mirror.
#
#   deploy/try_images.sh                   (SUITE=trixie WORK=/var/tmp/bonafide-images; more words go to `buildah build`;
#                                           TARGETS=console: the worker is not built, and runs from this tree)
#
# The base is Debian's own, by debootstrap, with its Python: no registry of images is asked. Then deploy/try_compose.py
# runs the services of docker-compose.yml from the images, read-only, as their user, against real servers, and sends
# the samples through. Minutes, and some gigabytes in WORK. A local package index: --volume /its/folder:/its/folder:ro
# and --volume /etc/pip.conf:/etc/pip.conf:ro.
set -euo pipefail
cd "$(dirname "$0")/.."
suite=${SUITE:-trixie} work=${WORK:-/var/tmp/bonafide-images} python=${PYTHON:-.venv/bin/python}
test "$(id -u)" = 0 || { echo "root is needed: for the mounts, and for debootstrap" >&2; exit 1; }
for program in buildah debootstrap unshare; do
    command -v $program >/dev/null || { echo "$program is missing: apt-get install buildah debootstrap" >&2; exit 1; }
done
export STORAGE_OPTS="" BUILDAH_ISOLATION=chroot
buildah() { command buildah --root "$work/storage" --runroot "$work/run" "$@"; }
mkdir -p "$work/images"

base=$work/base-$suite
if ! test -e "$base/usr/bin/python"; then
    rm -rf "$base"
    debootstrap --variant=minbase --include=python3,python3-venv,ca-certificates "$suite" "$base" >"$work/debootstrap.log"
    ln -s python3 "$base/usr/bin/python" # as the official images have it
fi
container=$(buildah from scratch)
buildah add --quiet "$container" "$base" / >/dev/null
buildah commit --quiet --rm "$container" localhost/bonafide-base >/dev/null

size() { du --summarize --one-file-system --block-size=1M "$1" | cut -f1; }
below=$(size "$base")
echo "base: Debian $suite, $below MB"
for target in ${TARGETS:-console worker}; do
    began=$SECONDS
    buildah build --isolation chroot --format docker --file deploy/Dockerfile --target "$target" \
        --build-arg PYTHON_IMAGE=localhost/bonafide-base --tag "localhost/bonafide-$target" "$@" . >"$work/$target.log" 2>&1 ||
        { tail -20 "$work/$target.log" >&2; exit 1; }
    container=$(buildah from "localhost/bonafide-$target")
    root=$(buildah mount "$container")
    mkdir -p "$work/images/$target"
    ln -sfn "$root" "$work/images/$target/root"
    buildah inspect --type image "localhost/bonafide-$target" |
        "$python" -c 'import json, sys; print(json.dumps(json.load(sys.stdin)["OCIv1"]["config"]))' >"$work/images/$target/config.json"
    echo "$target: $(($(size "$root") - below)) MB above its base, built in $((SECONDS - began)) s; the largest parts, in MB:"
    du --block-size=1M --max-depth=1 "$root"/venv/lib/python3*/site-packages | sort -rn | sed -n 2,9p | sed "s#$root/venv/lib/##"
done

"$python" deploy/try_compose.py --images "$work/images"
for container in $(buildah containers --quiet); do
    buildah umount "$container" >/dev/null
    buildah rm "$container" >/dev/null
done

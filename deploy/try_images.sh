#!/usr/bin/env bash
# Build both images without a container engine, and run them: needs root, buildah, debootstrap and a Debian mirror,
# and this tree's own .venv (`make install`), whose servers and client it uses.
#
#   deploy/try_images.sh                   (more words go to `buildah build`)
#
#   SUITE=trixie                    the Debian of the base, by debootstrap: no registry of images is asked
#   BUNDLE=small                    what the worker serves; its base is fetched into the worker's image
#   TARGETS="console worker"        an image that is not named is not built, and its services run from this tree
#   WORK=/var/tmp/bonafide-images   some gigabytes; the next run takes from it what has not changed
#   PYTHON=.venv/bin/python
#
# Then deploy/try_compose.py runs the services of docker-compose.yml from the images, read-only, as their user, against
# real servers: it sends the samples through, drains the worker, and opens the console (after .ci/browser).
# torch is the CPU build of its own index; --build-arg TORCH_INDEX=… names another. A local package index:
# --volume /its/folder:/its/folder:ro and --volume /a/pip.conf:/etc/pip.conf:ro.
set -euo pipefail
cd "$(dirname "$0")/.."
suite=${SUITE:-trixie} bundle=${BUNDLE:-small} work=${WORK:-/var/tmp/bonafide-images} python=${PYTHON:-.venv/bin/python}
test "$(id -u)" = 0 || { echo "root is needed: for the mounts, and for debootstrap" >&2; exit 1; }
for program in buildah debootstrap unshare; do
    command -v $program >/dev/null || { echo "$program is missing: apt-get install buildah debootstrap" >&2; exit 1; }
done
export STORAGE_OPTS="" BUILDAH_ISOLATION=chroot
buildah() { command buildah --root "$work/storage" --runroot "$work/run" "$@"; }
put_away() {
    for container in $(buildah containers --quiet); do
        buildah umount "$container" >/dev/null
        buildah rm "$container" >/dev/null
    done
}
mkdir -p "$work/images"
trap put_away EXIT

base=$work/base-$suite
if ! test -e "$base/usr/bin/python"; then
    rm -rf "$base"
    debootstrap --variant=minbase --include=python3,python3-venv,ca-certificates "$suite" "$base" >"$work/debootstrap.log"
    rm -rf "$base"/var/cache/apt/archives/*.deb "$base"/var/lib/apt/lists/*
    ln -s python3 "$base/usr/bin/python" # as the official images have it
fi
# Once: what is built upon it is taken again only while it is the same one.
if ! buildah inspect --type image "localhost/bonafide-base-$suite" >/dev/null 2>&1; then
    container=$(buildah from scratch)
    buildah add --quiet "$container" "$base" / >/dev/null
    buildah commit --quiet --rm "$container" "localhost/bonafide-base-$suite" >/dev/null
fi

megabytes() { du --summarize --one-file-system --block-size=1M "$1" | cut -f1; }
below=$(megabytes "$base")
echo "base: Debian $suite, $below MB"
rm -rf "$work/images" # a target of an earlier run is not one of this
for target in ${TARGETS:-console worker}; do
    began=$SECONDS
    buildah build --layers --isolation chroot --format docker --file deploy/Dockerfile --target "$target" \
        --build-arg "PYTHON_IMAGE=localhost/bonafide-base-$suite" --build-arg "BASE=$bundle" \
        --build-arg TORCH_INDEX=https://download.pytorch.org/whl/cpu --tag "localhost/bonafide-$target" "$@" . \
        >"$work/$target.log" 2>&1 || { tail -20 "$work/$target.log" >&2; exit 1; }
    container=$(buildah from "localhost/bonafide-$target")
    root=$(buildah mount "$container")
    mkdir -p "$work/images/$target"
    ln -s "$root" "$work/images/$target/root"
    buildah inspect --type image "localhost/bonafide-$target" |
        "$python" -c 'import json, sys; print(json.dumps(json.load(sys.stdin)["OCIv1"]["config"]))' >"$work/images/$target/config.json"
    kept=0
    if test -d "$root/cache"; then kept=$(megabytes "$root/cache"); fi
    echo "$target: $(($(megabytes "$root") - below - kept)) MB above its base, and $kept MB in /cache; built in" \
        "$((SECONDS - began)) s; its largest packages, in MB:"
    du --block-size=1M --max-depth=1 "$root"/venv/lib/python3*/site-packages | sort -rn | sed -n 2,13p | sed "s#$root/venv/lib/##"
done

rm -rf "$work/trial"
"$python" deploy/try_compose.py --keep "$work/trial" --images "$work/images" --bundle "$bundle" --browser
echo "Logs, and a picture of the console if there is a Chromium: $work/trial. The images take most of $work."

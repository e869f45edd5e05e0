#!/usr/bin/env bash
# Everything that waits for a GPU, in one go of at most ten minutes:
#   benchmarks/gpu_check.sh [FOLDER]
# Is it equal to the CPU, how fast is the engine at 7B's true size, how much of it does a worker use, and `small`.
# FOLDER gets what each step printed, and summary.txt; the exit status is 1 when a step failed. A step that runs out of
# its time is stopped and the next begins. To try the script itself without a GPU: DEVICE=cpu LAYOUT=tiny IMAGES=24.
set -uo pipefail
cd "$(dirname "$0")/.."
device=${DEVICE:-cuda} layout=${LAYOUT:-llava-1.5-7b} images=${IMAGES:-800}
folder=${1:-/tmp/bonafide-gpu}
python=${PYTHON:-.venv/bin/python}
[ -x "$python" ] || python=python3
mkdir -p "$folder"
: >"$folder/summary.txt"
failed=0

step() { # step NAME SECONDS COMMAND…: its output goes to NAME.txt, its fate to the summary
  local name=$1 seconds=$2 began=$SECONDS code
  shift 2
  timeout --kill-after=10 "$seconds" "$@" >"$folder/$name.txt" 2>&1
  code=$?
  [ $code -eq 0 ] || failed=1
  printf '%-12s exit %-3s %4s s\n' "$name" $code $((SECONDS - began)) | tee -a "$folder/summary.txt"
}

eight_bits=()
[ "$device" = cpu ] || eight_bits=(--float8)
step device 60 "$python" -c "
import torch, transformers
name = torch.cuda.get_device_name() if torch.cuda.is_available() else 'no GPU'
print(name, '| torch', torch.__version__, '| transformers', transformers.__version__)
raise SystemExit('$device' == 'cuda' and not torch.cuda.is_available())"
if [ $failed -ne 0 ]; then
  cat "$folder/device.txt"
  exit 1
fi
step equal 100 "$python" -m pytest -q tests/gpu
step engine 190 "$python" -m benchmarks.engine --layout "$layout" --device "$device" "${eight_bits[@]}" --json
step end_to_end 130 "$python" -m benchmarks.end_to_end --layout "$layout" --device "$device" --images "$images" --json
step small 120 "$python" -m benchmarks.engine --bundle small --device "$device" --json
cat "$folder/device.txt"
exit $failed

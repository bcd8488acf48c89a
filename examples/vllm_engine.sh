#!/bin/bash
# Generate with vLLM, from an environment of its own (its pins do not fit ours):
#
#     python -m venv ~/vllm && ~/vllm/bin/pip install vllm
#     VLLM_PYTHON=~/vllm/bin/python examples/vllm_engine.sh --out runs/vllm
#
# vLLM chooses tokens; distributions and labels are computed here, over the whole vocabulary. The first command finds in
# seconds what is missing. More words are flags of `lightr run` and override these.
set -eu
python=${VLLM_PYTHON:?names the Python of an environment with vLLM, such as ~/vllm/bin/python}

lightr doctor --engine vllm --engine-python "$python"
lightr run --config qwen2.5-math-1.5b --engine vllm --engine-python "$python" "$@"

#!/bin/bash
# Walk steps of the recipe on a lent machine: training/gpu.sh [OPTION...] STEP...   (as `python -m training`)
# Wheels in .whl/ are put beside the machine's packages; a parcel in runs/parcel is gone on from; $OUT gets the new parcel,
# the sheets, the log, and the compiler's cache (runs/parcel/inductor.tgz is taken back in), each below 16 MiB.
set -u -o pipefail
export PYTHONUNBUFFERED=1 TOKENIZERS_PARALLELISM=false NCCL_NVLS_ENABLE=0 TQDM_MININTERVAL=30
export TORCHINDUCTOR_CACHE_DIR=/tmp/inductor TRITON_CACHE_DIR=/tmp/inductor/triton
if [ -d .whl ] && ! python3 -c 'import diffusers' 2>/dev/null; then
    python3 -m pip install -q --no-index --no-deps --no-compile --no-cache-dir --target /tmp/site .whl/diffusers-*.whl
    export PYTHONPATH=/tmp/site
fi
[ -d /tmp/inductor ] || { [ -f runs/parcel/inductor.tgz ] && tar xzf runs/parcel/inductor.tgz -C /tmp; }
out=${OUT:-runs/out}
mkdir -p "$out"
visible=${CUDA_VISIBLE_DEVICES:-$(nvidia-smi -L | awk '{ printf "%s%d", (NR > 1 ? "," : ""), NR - 1 }')}
gpus=$(tr "," "\n" <<<"$visible" | grep -c .)
start="python3 -m training"
[ "$gpus" -gt 1 ] && start="python3 -m torch.distributed.run --standalone --nproc-per-node $gpus -m training"
nvidia-smi --query-gpu=name,memory.used --format=csv,noheader
$start --resume runs/parcel --parcel "$out" "$@" 2>&1 | grep -v 'CLIPImageProcessor\|SiglipImageProcessor\|Siglip2\|DPTImage' | tee "$out/log.txt"
status=$?
nvidia-smi --query-gpu=name,memory.used --format=csv,noheader
if [ -d /tmp/inductor ]; then
    tar czf /tmp/inductor.tgz -C /tmp inductor
    [ "$(stat -c %s /tmp/inductor.tgz)" -lt 15000000 ] && cp /tmp/inductor.tgz "$out/"
fi
ls -la "$out"
exit $status

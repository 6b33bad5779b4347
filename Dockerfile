# An image for nodes with NVIDIA GPUs. Not yet built where it was written: docs/how-to/containers.md says so.
#   docker build -t ecgstore .
#   docker run --rm --gpus all --ipc=host -v /data:/data ecgstore ecgtrain run small/cpc --set data.store=/data/ptbxl.ecg
FROM python:3.11-slim-bookworm

# Torch with CUDA brings its own libraries; the node brings the driver. constraints.txt pins torch to a build for CPUs.
RUN pip install --no-cache-dir "torch>=2.10"
WORKDIR /opt/ecgstore
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY ecgstore ecgstore
COPY ecgtrain ecgtrain
RUN grep -v "^torch==" constraints.txt > /tmp/constraints.txt \
    && pip install --no-cache-dir --constraint /tmp/constraints.txt ".[ingest,fetch,train,remote,share]" \
    && rm /tmp/constraints.txt

# Nothing runs as root; caches and pictures' fonts need a home that can be written.
ENV HOME=/tmp MPLCONFIGDIR=/tmp/matplotlib PYTHONUNBUFFERED=1
USER 65534:65534
WORKDIR /data
CMD ["ecgstore", "--help"]

# The image service for a machine with an NVIDIA GPU. Start it with `docker compose up`, or with:
#   docker build -t chutes-selfhosted .
#   docker run --gpus all -p 127.0.0.1:8000:8000 -e CHUTES_API_KEYS=... chutes-selfhosted
#
# torch includes the CUDA libraries that it was built for. The base image adds the rest of the CUDA runtime.
FROM nvidia/cuda:13.0.2-runtime-ubuntu24.04

# The extras to install. Use "imagegen,deploy" for an image that also runs on a Ray cluster.
ARG EXTRAS=imagegen

# Triton compiles a launcher for each GPU kernel at its first use, so the image needs a C compiler.
# Versions are not pinned, because Ubuntu's archive removes old ones and the build would fail.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends gcc libc6-dev python3 python3-dev python3-venv \
    && rm -rf /var/lib/apt/lists/*

# The cache folder must exist, so that a volume mounted there belongs to this user.
RUN useradd --create-home --uid 10001 chutes \
    && mkdir -p /home/chutes/.cache/huggingface/hub \
    && chown -R chutes:chutes /home/chutes/.cache

RUN python3 -m venv /opt/chutes
ENV PATH=/opt/chutes/bin:$PATH \
    PIP_NO_CACHE_DIR=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PYTHONUNBUFFERED=1 \
    TRITON_CACHE_DIR=/home/chutes/.cache/triton

WORKDIR /app

# Install the requirements before copying the source, so that a change of the source reuses this large layer.
COPY pyproject.toml constraints.txt ./
RUN python -c "import sys, tomllib; \
project = tomllib.load(open('pyproject.toml', 'rb'))['project']; \
extras = [project['optional-dependencies'][name] for name in sys.argv[1].split(',')]; \
print(*project['dependencies'], *sum(extras, []), sep='\n')" "$EXTRAS" > requirements.txt \
    && pip install -r requirements.txt -c constraints.txt

COPY README.md LICENSE ./
COPY src src
RUN pip install --no-deps .

COPY chutes_app.py ./
COPY images images

# The user `chutes`, by number, so that Kubernetes can verify that it is not root.
USER 10001:10001
EXPOSE 8000
STOPSIGNAL SIGTERM
# Check /health, because /ready fails while the model loads.
HEALTHCHECK --interval=15s --timeout=5s --start-period=60s --retries=4 \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/health', timeout=4)"]
CMD ["chutes", "run", "chutes_app:chute", "--host", "0.0.0.0", "--port", "8000"]

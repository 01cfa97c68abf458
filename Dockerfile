# The image service on a CUDA machine: docker compose up, or
#   docker build -t chutes-selfhosted . && docker run --gpus all -p 127.0.0.1:8000:8000 -e CHUTES_API_KEYS=... chutes-selfhosted
#
# torch brings the CUDA libraries that it was built for; the base brings the rest of the runtime and sets up the driver.
FROM nvidia/cuda:13.0.2-runtime-ubuntu24.04

# What of the project is installed: "imagegen" draws, "imagegen,deploy" also runs on a Ray cluster.
ARG EXTRAS=imagegen

# A compiler, for Triton builds a launcher for each GPU kernel when it is first used.
# Not pinned: Ubuntu's archive drops old versions, and what is pinned today stops building.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends gcc libc6-dev python3 python3-dev python3-venv \
    && rm -rf /var/lib/apt/lists/*

# The cache is made here, so that a volume mounted over it belongs to this user.
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

# Requirements before source: this layer, the large one, is made again only when one of these two files changes.
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

# By number, so that Kubernetes can see that it is not root: this is `chutes`.
USER 10001:10001
EXPOSE 8000
STOPSIGNAL SIGTERM
# Alive, not ready: loading 34 GB takes a while, and /ready tells how far it is.
HEALTHCHECK --interval=15s --timeout=5s --start-period=60s --retries=4 \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/health', timeout=4)"]
CMD ["chutes", "run", "chutes_app:chute", "--host", "0.0.0.0", "--port", "8000"]

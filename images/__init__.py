"""Container images for image services, one module each, on a common base: CUDA, Python and the required packages."""

from chutes.image import Image

# Triton needs a C compiler: it builds a launcher for each GPU kernel on its first use.
_APT = ["gcc", "libc6-dev", "python3", "python3-dev", "python3-venv"]
REQUIREMENTS = [
    "accelerate==1.15.0",
    "diffusers==0.42.1",
    "numpy==2.4.6",
    "peft==0.21.2",
    "pillow==13.0.0",
    "protobuf==7.36.2",
    "safetensors==0.8.0",
    "sentencepiece==0.2.3",
    "torch==2.13.0",
    "transformers==5.17.0",
]


def cuda_image(name: str, tag: str, readme: str) -> Image:
    """Return a container image with the tested versions of all requirements, in an environment that user 10001 owns."""
    return (
        Image(username="myuser", name=name, tag=tag, readme=readme)
        .from_base("nvidia/cuda:13.0.2-runtime-ubuntu24.04")
        .apt_install(_APT)
        .run_command("useradd --create-home --uid 10001 chutes && install -d -o chutes /opt/chutes /app")
        .set_user("10001:10001")
        .run_command("python3 -m venv /opt/chutes")
        .with_env("PATH", "/opt/chutes/bin:$PATH")
        .with_env("HF_HOME", "/home/chutes/.cache/huggingface")
        .pip_install(REQUIREMENTS)
        .set_workdir("/app")
    )

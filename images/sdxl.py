"""The container image of the SDXL example: the same base and requirements as FLUX's."""

from chutes.image import Image
from images.flux import APT, REQUIREMENTS

image = (
    Image(username="myuser", name="stable-diffusion", tag="xl-1.0", readme="Stable Diffusion XL.")
    .from_base("nvidia/cuda:13.0.2-runtime-ubuntu24.04")
    .apt_install(APT)
    .run_command("useradd --create-home --uid 10001 chutes && install -d -o chutes /opt/chutes /app")
    .set_user("10001:10001")
    .run_command("python3 -m venv /opt/chutes")
    .with_env("PATH", "/opt/chutes/bin:$PATH")
    .with_env("HF_HOME", "/home/chutes/.cache/huggingface")
    .pip_install(REQUIREMENTS)
    .set_workdir("/app")
)

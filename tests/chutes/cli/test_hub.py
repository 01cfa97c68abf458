"""The selection of files, with the listings of real repositories."""

from chutes.cli._hub import components, files_to_download

FLUX = [
    ".gitattributes",
    "LICENSE.md",
    "README.md",
    "ae.safetensors",
    "dev_grid.jpg",
    "flux1-dev.safetensors",
    "model_index.json",
    "scheduler/scheduler_config.json",
    "text_encoder/config.json",
    "text_encoder/model.safetensors",
    "text_encoder_2/config.json",
    "text_encoder_2/model-00001-of-00002.safetensors",
    "text_encoder_2/model-00002-of-00002.safetensors",
    "text_encoder_2/model.safetensors.index.json",
    "tokenizer/merges.txt",
    "tokenizer/special_tokens_map.json",
    "tokenizer/tokenizer_config.json",
    "tokenizer/vocab.json",
    "tokenizer_2/special_tokens_map.json",
    "tokenizer_2/spiece.model",
    "tokenizer_2/tokenizer.json",
    "transformer/config.json",
    "transformer/diffusion_pytorch_model-00001-of-00003.safetensors",
    "transformer/diffusion_pytorch_model-00002-of-00003.safetensors",
    "transformer/diffusion_pytorch_model-00003-of-00003.safetensors",
    "transformer/diffusion_pytorch_model.safetensors.index.json",
    "vae/config.json",
    "vae/diffusion_pytorch_model.safetensors",
]
FLUX_PARTS = ["scheduler", "text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2", "transformer", "vae"]

SDXL = [
    "model_index.json",
    "sd_xl_base_1.0.safetensors",
    "sd_xl_offset_example-lora_1.0.safetensors",
    "01.png",
    "text_encoder/config.json",
    "text_encoder/flax_model.msgpack",
    "text_encoder/model.fp16.safetensors",
    "text_encoder/model.onnx",
    "text_encoder/model.safetensors",
    "text_encoder/openvino_model.bin",
    "text_encoder/openvino_model.xml",
    "unet/config.json",
    "unet/diffusion_flax_model.msgpack",
    "unet/diffusion_pytorch_model.fp16.safetensors",
    "unet/diffusion_pytorch_model.safetensors",
    "unet/model.onnx",
    "unet/model.onnx_data",
    "unet/openvino_model.bin",
    "vae_1_0/config.json",
    "vae_1_0/diffusion_pytorch_model.safetensors",
    "vae_decoder/model.onnx",
]


def test_flux_without_the_single_files_at_its_root() -> None:
    left_out = set(FLUX) - set(files_to_download(FLUX, FLUX_PARTS))
    assert left_out == {".gitattributes", "ae.safetensors", "dev_grid.jpg", "flux1-dev.safetensors"}


def test_sdxl_in_one_format_and_one_precision() -> None:
    assert files_to_download(SDXL, ["text_encoder", "unet"]) == [
        "model_index.json",
        "text_encoder/config.json",
        "text_encoder/model.safetensors",
        "unet/config.json",
        "unet/diffusion_pytorch_model.safetensors",
    ]


def test_copies_in_other_formats_are_left_out() -> None:
    files = ["config.json", "model.safetensors", "pytorch_model.bin", "tf_model.h5", "1_Dense/pytorch_model.bin"]
    assert files_to_download(files) == ["config.json", "model.safetensors", "1_Dense/pytorch_model.bin"]


def test_the_only_variant_of_a_file_is_kept() -> None:
    assert files_to_download(["unet/m.fp16.safetensors", "vae/m.bin"], ["unet", "vae"]) == [
        "unet/m.fp16.safetensors",
        "vae/m.bin",
    ]
    assert files_to_download(["m.fp16-00001-of-00002.safetensors", "m.safetensors"]) == ["m.safetensors"]


def test_components_are_the_folders_that_the_index_names() -> None:
    index: dict[str, object] = {"_class_name": "X", "vae": ["diffusers", "V"], "safety_checker": [None, None], "n": 1}
    assert components(index) == ["vae"]

import warnings

import pytest
from pydantic import ValidationError

from chutes.chute import NodeSelector
from chutes.exception import ChutesWarning


def test_defaults() -> None:
    selector = NodeSelector()
    assert (selector.gpu_count, selector.min_vram_gb_per_gpu) == (1, 16)
    assert (selector.max_hourly_price_per_gpu, selector.include, selector.exclude) == (None, None, None)


@pytest.mark.parametrize("vram", [0.5, 8, 12, 40, 80, 141, 500])
def test_any_positive_memory(vram: float) -> None:
    assert NodeSelector(min_vram_gb_per_gpu=vram).min_vram_gb_per_gpu == vram


@pytest.mark.parametrize(
    "settings",
    [
        {"min_vram_gb_per_gpu": 0},
        {"min_vram_gb_per_gpu": -1},
        {"min_vram_gb_per_gpu": float("nan")},
        {"gpu_count": 0},
        {"gpu_count": 9},
        {"max_hourly_price_per_gpu": 0},
        {"include": "h100"},
    ],
)
def test_invalid_arguments(settings: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        NodeSelector(**settings)


@pytest.mark.parametrize(
    ("written", "meant"),
    [("rtx4090", "4090"), ("RTX 3090", "3090"), ("a100-80gb", "a100"), ("a100_80gb", "a100"), ("h100_80gb", "h100")],
)
def test_other_spellings_of_gpus_are_replaced(written: str, meant: str) -> None:
    with pytest.warns(ChutesWarning, match=f"is read as '{meant}'") as caught:
        assert NodeSelector(include=[written]).include == [meant]
    assert caught[0].filename == __file__


def test_unknown_gpus_warn_and_are_kept() -> None:
    with pytest.warns(ChutesWarning, match="Did you mean 'h100_sxm'"):
        assert NodeSelector(exclude=["h100_smx"]).exclude == ["h100_smx"]
    with pytest.warns(ChutesWarning, match="'k80' is not a known GPU"):
        NodeSelector(include=["k80"])


def test_known_gpus_do_not_warn() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert NodeSelector(include=["H100", "a6000_ada"]).include == ["h100", "a6000_ada"]


@pytest.mark.parametrize(("typo", "meant"), [("min_vram_gpu_per_gpu", "min_vram_gb_per_gpu"), ("num_gpus", "")])
def test_unknown_arguments_warn(typo: str, meant: str) -> None:
    with pytest.warns(ChutesWarning, match=f"'{typo}'.*{meant}"):
        NodeSelector(**{typo: 1})


def test_supported_gpus() -> None:
    assert {"h100", "a100", "h200"} <= set(NodeSelector(min_vram_gb_per_gpu=80).supported_gpus)
    assert "4090" not in NodeSelector(min_vram_gb_per_gpu=80).supported_gpus
    assert NodeSelector(include=["h100"], min_vram_gb_per_gpu=80).supported_gpus == ["h100_nvl", "h100_sxm", "h100"]
    assert "h100_sxm" not in NodeSelector(exclude=["h100"]).supported_gpus
    assert NodeSelector(min_vram_gb_per_gpu=500).supported_gpus == []


@pytest.mark.parametrize(("reported", "asked", "enough"), [(22.5, 24, True), (79.6, 80, True), (40, 48, False)])
def test_a_gpu_with_ecc_reports_less_memory(reported: float, asked: float, enough: bool) -> None:
    assert NodeSelector(min_vram_gb_per_gpu=asked).accepts(None, reported) is enough


def test_an_unknown_gpu_is_accepted_without_include() -> None:
    assert NodeSelector(exclude=["h100"]).accepts(None, 80)
    assert not NodeSelector(include=["h100"]).accepts(None, 80)

"""`auto`: which precision it picks, and that noise does not change the choice."""

import platform
from collections.abc import Iterator

import pytest
import torch

from lightreasoner.config import PairConfig
from lightreasoner.models import loading, precision
from lightreasoner.models.pairs import load_pair
from lightreasoner.models.precision import LEAST_GAIN, Trial, native_bfloat16, trial
from lightreasoner.models.source import find_model
from lightreasoner.runs.differences import keeping_precision
from lightreasoner.runs.environment import environment

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _fresh() -> Iterator[None]:
    trial.cache_clear()
    yield
    trial.cache_clear()


def fake(monkeypatch: pytest.MonkeyPatch, gain: float, instructions: str | None = "AVX512-BF16") -> None:
    monkeypatch.setattr(precision, "native_bfloat16", lambda: instructions)
    monkeypatch.setattr(precision, "trial", lambda: Trial(gain, 1.0))


@pytest.mark.parametrize(
    ("gain", "instructions", "hidden", "name", "reason"),
    [
        (2.3, "AVX512-BF16", [576], "bfloat16", "has AVX512-BF16; a trial product ran 2.3 times as fast as float32"),
        (7.9, "AMX", [1536, 64], "bfloat16", "has AMX; a trial product ran 7.9 times"),
        (1.1, "AVX512-BF16", [576], "float32", "a trial product in bfloat16 ran 1.1 times as fast (1.3 needed)"),
        (0.2, "AVX512-BF16", [576], "float32", "ran 0.2 times as fast"),
        (2.3, None, [576], "float32", "does not multiply bfloat16 natively"),
        (2.3, "AMX", [160, 192], "float32", "a hidden size of 192 is below 256"),
        (2.3, "AMX", [None], "float32", "not known"),
        (2.3, "AMX", [None, 256], "bfloat16", "has AMX"),
    ],
)
def test_auto_on_a_processor(
    gain: float,
    instructions: str | None,
    hidden: list[int | None],
    name: str,
    reason: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fake(monkeypatch, gain, instructions)
    chosen = precision.precision("auto", CPU, hidden)
    assert chosen.name == name
    assert reason in chosen.reason
    assert environment()["precision"] == str(chosen)


def test_a_gpu_needs_no_trial_and_a_setting_is_the_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "trial", lambda: pytest.fail("no trial is needed"))
    for has, name in ((True, "bfloat16"), (False, "float32")):
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation, has=has: has)
        assert precision.precision("auto", torch.device("cuda"), [64]).name == name
    assert precision.precision("auto", torch.device("mps"), [4096]).name == "float32"
    assert precision.precision("float16", CPU, [64]).name == "float16"


def test_the_instructions_are_asked_of_pytorch(monkeypatch: pytest.MonkeyPatch) -> None:
    def have(amx: bool, avx: bool, machine: str) -> None:
        monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx, raising=False)
        monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: avx, raising=False)
        monkeypatch.setattr(platform, "machine", lambda: machine)

    class OneDNN:
        @staticmethod
        def _is_mkldnn_bf16_supported() -> bool:
            return True

    monkeypatch.setattr(torch.ops, "mkldnn", OneDNN)
    for amx, avx, machine, name in (
        (True, True, "x86_64", "AMX"),
        (False, True, "AMD64", "AVX512-BF16"),
        (False, False, "x86_64", None),  # oneDNN says yes there too: it emulates
        (False, False, "aarch64", "BF16 of Arm"),
    ):
        have(amx, avx, machine)
        assert native_bfloat16() == name
    monkeypatch.setattr(torch.ops, "mkldnn", object())
    assert native_bfloat16() is None  # PyTorch without oneDNN


def test_noise_in_most_rounds_does_not_change_the_trial(monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock that says 2 ms for float32 and 1 ms for bfloat16, and 50 times as much in three of four rounds."""
    now, calls = 0.0, 0

    def clock() -> float:
        nonlocal now, calls
        if calls % 2:  # the end of a product
            number = calls // 2
            noise = 1 if number % 8 in (0, 3) else 50
            now += (2e-3, 1e-3)[number % 2] * noise
        calls += 1
        return now

    monkeypatch.setattr("time.perf_counter", clock)
    assert trial().gain == pytest.approx(2.0)
    assert calls == 2 * 2 * (precision.ROUNDS + 1)
    assert trial().gain == pytest.approx(2.0)
    assert calls == 2 * 2 * (precision.ROUNDS + 1)  # once for each process


def test_a_real_trial_is_short_and_agrees_with_the_choice() -> None:
    measured = trial()
    assert 0 < measured.bfloat16 < 1
    chosen = precision.precision("auto", CPU, [576])
    assert (chosen.name == "bfloat16") == (native_bfloat16() is not None and measured.gain >= LEAST_GAIN)


def test_a_pair_has_one_precision_that_of_the_larger_model(monkeypatch: pytest.MonkeyPatch) -> None:
    fake(monkeypatch, 2.0)
    config = PairConfig(expert="miniature/small", amateur="miniature/base", device="cpu")
    sources = [find_model(name) for name in (config.expert, config.amateur)]
    sizes = [precision.hidden_size(source.config()) or 0 for source in sources]
    assert sizes[0] < sizes[1] < precision.SMALLEST_HIDDEN
    assert load_pair(config).expert.dtype == torch.float32
    monkeypatch.setattr(precision, "SMALLEST_HIDDEN", sizes[1])
    assert [loading.dtype_name(config, source) for source in sources] == ["float32", "bfloat16"]
    pair = load_pair(config)
    assert pair.expert.dtype == pair.amateur.dtype == torch.bfloat16
    assert loading.dtype_name(config, *sources) == "bfloat16"


def test_another_choice_of_auto_is_refused_with_the_flag_that_continues() -> None:
    there, now = {"how": {"precision": {"dtype": "bfloat16"}}}, {"how": {"precision": {"dtype": "float32"}}}
    assert "--dtype bfloat16 takes the precision of the folder" in keeping_precision(there, now)
    assert "--dtype float32 takes" in keeping_precision({"dtype": "float32"}, {"dtype": "bfloat16"})
    assert keeping_precision({"dtype": "float32", "seed": 1}, {"dtype": "float32", "seed": 2}) == ""

"""Sampling with an amateur of another tokenizer, against a naive alignment in float64, and its way to the reports."""

import io
import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import GraniteConfig, GraniteForCausalLM, PreTrainedModel, PreTrainedTokenizerFast
from transformers.convert_slow_tokenizer import bytes_to_unicode

from lightreasoner.cli import app
from lightreasoner.config import DoctorConfig, EvaluateConfig, SampleConfig, SelectConfig
from lightreasoner.config.sections import DEFAULT_CUE, MachineSettings
from lightreasoner.doctor import examine
from lightreasoner.errors import ConfigError, VocabularyMismatch
from lightreasoner.models.loading import load_model, load_tokenizer
from lightreasoner.models.source import find_model
from lightreasoner.report import report, write_figures, write_page
from lightreasoner.report.browser import BlockWriter
from lightreasoner.report.markdown import markdown
from lightreasoner.report.tokens import TokenTexts
from lightreasoner.runs.stage import read_stage
from lightreasoner.samples.aligning import PoorAlignment
from lightreasoner.samples.contexts import Contexts
from lightreasoner.samples.folder import Rollout, Sampled, read_samples, read_shards, scored_rollouts
from lightreasoner.samples.sampling import read_problems, sample
from lightreasoner.samples.selecting import select

from ..conftest import save_random_model
from ..kept import kept_steps
from ..other_tokenizers import TEMPLATE, byte_tokenizer, pair_tokenizer

NO_LIMIT = {"min_aligned_share": 0.0, "min_common_mass": 0.0}


# --- The naive alignment: one step at a time, whole distributions, float64 ---


@dataclass(frozen=True)
class Side:
    """A model, its tokenizer, and the bytes of its tokens; control tokens have none."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerFast
    cue: str = DEFAULT_CUE

    @cached_property
    def texts(self) -> dict[int, bytes]:
        letters = {letter: byte for byte, letter in bytes_to_unicode().items()}
        controls = set(self.tokenizer.added_tokens_decoder)
        return {
            index: bytes(letters[letter] for letter in piece)
            for piece, index in self.tokenizer.get_vocab().items()
            if index not in controls
        }

    def prompt(self, question: str) -> list[int]:
        messages = [{"role": "system", "content": self.cue}, {"role": "user", "content": question}]
        text = self.tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    @torch.inference_mode()
    def distribution(self, prefix: list[int]) -> np.ndarray:
        """Over all tokens, without the padding of the logits."""
        logits = self.model(torch.tensor([prefix]), use_cache=False).logits[0, -1, : len(self.tokenizer)]
        exponentials = np.exp(logits.double().numpy() - float(logits.max()))
        return exponentials / exponentials.sum()


@dataclass(frozen=True)
class NaiveStep:
    kl: float
    expert_mass: float
    amateur_mass: float
    label: Mapping[int, float]  # by the expert's ids


def common_of(expert: Side, amateur: Side) -> list[tuple[int, int]]:
    """Ids of the same bytes, of the same control token, and of the two ends of an answer."""
    by_text = {text: index for index, text in amateur.texts.items()}
    common = {index: by_text[text] for index, text in expert.texts.items() if text in by_text}
    names = {token.content: index for index, token in amateur.tokenizer.added_tokens_decoder.items()}
    controls = expert.tokenizer.added_tokens_decoder.items()
    common |= {index: names[token.content] for index, token in controls if token.content in names}
    common[expert.tokenizer.eos_token_id] = amateur.tokenizer.eos_token_id
    return sorted(common.items())


def naive_steps(expert: Side, amateur: Side, rollout: Rollout, alpha: float) -> list[NaiveStep | None]:
    """Every step of a rollout; None where no token of the amateur begins."""
    common, texts, theirs = common_of(expert, amateur), expert.texts, amateur.texts
    own_prompt = amateur.prompt(rollout.question)
    response = rollout.response_ids
    ended = response[-1] == expert.tokenizer.eos_token_id
    pieces = [texts[index] for index in (response[:-1] if ended else response)]
    whole = b"".join(pieces)
    end = next(size for size in range(len(whole), -1, -1) if is_text(whole[:size]))
    read = amateur.tokenizer(whole[:end].decode(), add_special_tokens=False)["input_ids"]
    found: list[NaiveStep | None] = []
    for step in range(len(response)):
        before = b"".join(pieces[:step])
        counts = [n for n in range(len(read) + 1) if b"".join(theirs[index] for index in read[:n]) == before]
        if not counts:
            found.append(None)
            continue
        ours = expert.distribution(rollout.prompt_ids + response[:step])
        other = amateur.distribution(own_prompt + list(read[: counts[0]]))
        p, q = (np.array([values[pair[side]] for pair in common]) for side, values in enumerate((ours, other)))
        masses = float(p.sum()), float(q.sum())
        p, q = p / masses[0], q / masses[1]
        kl = math.fsum(float(a * (np.log(a) - np.log(b))) for a, b in zip(p, q, strict=True) if a > 0)
        ratios = {common[at][0]: float(p[at] / q[at]) for at in range(len(common)) if p[at] >= alpha * p.max()}
        total = math.fsum(ratios.values())
        found.append(NaiveStep(kl, *masses, {index: ratio / total for index, ratio in ratios.items()}))
    return found


def is_text(content: bytes) -> bool:
    try:
        content.decode()
    except UnicodeDecodeError:
        return False
    return True


# --- Pairs ---


@pytest.fixture(scope="session")
def byte_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights; every byte is a token, and there are more logits than tokens."""
    return save_random_model(tmp_path_factory.mktemp("models") / "bytes", byte_tokenizer(), seed=3, width=264)


@pytest.fixture(scope="session")
def pair_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights; merges of its own, and digits in groups."""
    return save_granite(tmp_path_factory.mktemp("models") / "pairs", pair_tokenizer())


def save_granite(folder: Path, tokenizer: PreTrainedTokenizerFast) -> Path:
    """A tiny model of a family that takes any tokenizer as it is; transformers reads every Qwen2's as Qwen's."""
    torch.manual_seed(4)
    config = GraniteConfig(
        vocab_size=500,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        initializer_range=0.4,
    )
    GraniteForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def config_of(expert: Path | str, amateur: Path | str, out: Path, **changes: Any) -> SampleConfig:
    settings = {
        "expert": expert,
        "amateur": amateur,
        "vocabulary": "aligned",
        "dataset": "arithmetic",
        "max_questions": 6,
        "max_new_tokens": 16,
        "out": out,
        "batch_size": 3,
        "dtype": "float32",
        **(NO_LIMIT if changes.get("vocabulary", "aligned") == "aligned" else {}),
        **changes,
    }
    return SampleConfig.checked(settings)


def rollouts_of(config: SampleConfig) -> dict[str, Rollout]:
    _, stage = read_stage(config.out / "sample")
    return {row.question_id: row for table in stage.tables("rollouts") for row in Rollout.rows(table)}


def side_of(name: str, cue: str) -> Side:
    source, machine = find_model(name), MachineSettings(dtype="float32", device="cpu")
    return Side(load_model(source, machine), load_tokenizer(source), cue)  # type: ignore[arg-type]


def check_against_naive(config: SampleConfig) -> dict[str, Any]:
    """KL within 1e-4 at the same steps, the same kept steps, labels within 1e-4, and the shares that are stated."""
    result = sample(config)
    expert = side_of(config.expert, config.cue)
    amateur = side_of(config.amateur, config.cue if config.amateur_cue is None else config.amateur_cue)
    taken = {ours for ours, _ in common_of(expert, amateur)}
    kept = {(step.question_id, step.position): step for step in kept_steps(config.out)}
    expected_kept, scored, total = set(), [], 0
    for rollout in rollouts_of(config).values():
        steps = naive_steps(expert, amateur, rollout, config.plausibility_alpha)
        total += len(steps)
        scored += [step for step in steps if step]
        assert [math.isnan(kl) for kl in rollout.kl] == [step is None for step in steps]
        assert rollout.kl == pytest.approx([step.kl if step else math.nan for step in steps], abs=1e-4, nan_ok=True)
        for position, step in enumerate(steps):
            missing = [name for name in ("expert_top_ids", "amateur_top_ids") if -1 in getattr(rollout, name)[position]]
            assert len(missing) == (0 if step else 2)
            beta = -math.inf if config.divergence_beta is None else config.divergence_beta
            if step and step.kl > beta and rollout.response_ids[position] in taken:
                key = (rollout.question_id, position)
                expected_kept.add(key)
                found = dict(zip(kept[key].token_ids, kept[key].weights, strict=True))
                assert found == pytest.approx(step.label, abs=1e-4)
    assert kept.keys() == expected_kept
    assert kept
    assert result["steps"] == len(scored)
    assert result["unaligned_steps"] == total - len(scored)
    assert result["nonfinite_steps"] == 0
    assert result["aligned_share"] == pytest.approx(len(scored) / total, abs=1e-6)
    for name in ("expert_mass", "amateur_mass"):
        assert result[name] == pytest.approx(np.mean([getattr(step, name) for step in scored]), abs=1e-5)
    assert result["mean_kl"] == pytest.approx(np.mean([step.kl for step in scored]), abs=1e-4)
    return result


@pytest.mark.parametrize("settings", [{}, {"temperature": 1.0, "divergence_beta": None}])
def test_against_an_amateur_of_bytes_every_step_is_aligned(
    settings: dict[str, Any], random_expert: Path, byte_model: Path, tmp_path: Path
) -> None:
    """Random text is full of unfinished characters, behind which nothing is read."""
    result = check_against_naive(config_of(random_expert, byte_model, tmp_path, **settings))
    assert 0 < result["expert_mass"] < 1
    assert result["amateur_mass"] == pytest.approx(1, abs=0.2)


def test_an_expert_of_bytes_is_aligned_where_a_token_of_the_amateur_begins(
    byte_model: Path, pair_model: Path, tmp_path: Path
) -> None:
    result = check_against_naive(config_of(byte_model, pair_model, tmp_path, temperature=1.0, divergence_beta=None))
    assert result["amateur_mass"] < 1


def test_the_miniature_against_random_weights_of_two_other_tokenizers(
    byte_model: Path, pair_model: Path, tmp_path: Path
) -> None:
    """Whole solutions with their ends, in tokens of words, bytes and groups of digits."""
    settings = {"max_new_tokens": 48, "max_questions": 3, "divergence_beta": 1.0}
    every = check_against_naive(config_of("miniature/expert", byte_model, tmp_path / "bytes", **settings))
    assert every["aligned_share"] == 1
    some = check_against_naive(config_of("miniature/expert", pair_model, tmp_path / "pairs", **settings))
    assert some["finished_rollouts"] == 3
    assert 0.3 < some["aligned_share"] < 1


def test_batches_of_one_and_of_eight_agree(random_expert: Path, pair_model: Path, tmp_path: Path) -> None:
    """So does a pair of which one model at a time is in memory."""
    first = config_of(random_expert, pair_model, tmp_path / "1", max_questions=8, batch_size=1)
    sample(first)
    for name, changes in {"8": {"batch_size": 8}, "sequential": {"residency": "sequential"}}.items():
        other = config_of(random_expert, pair_model, tmp_path / name, max_questions=8, **changes)
        sample(other)
        before, after = rollouts_of(first), rollouts_of(other)
        for key, row in before.items():
            assert row.response_ids == after[key].response_ids
            assert row.kl == pytest.approx(after[key].kl, abs=1e-5, nan_ok=True)
        labels = [{(s.question_id, s.position): s.token_ids for s in kept_steps(c.out)} for c in (first, other)]
        assert labels[0] == labels[1]


def test_an_aligned_amateur_under_a_cue_of_its_own(pair_model: Path, tmp_path: Path) -> None:
    config = config_of("miniature/expert", pair_model, tmp_path, max_new_tokens=40, amateur_cue="Guess.")
    assert check_against_naive(config)["aligned_share"] > 0.3
    made, _ = read_samples(config.out)
    assert isinstance(made, Sampled)
    assert made.example is not None
    assert "Guess." in made.example["amateur"]
    assert DEFAULT_CUE in made.example["expert"]


def test_contexts_of_an_aligned_amateur_are_in_its_own_template_and_tokens(pair_model: Path, tmp_path: Path) -> None:
    template, problems = tmp_path / "other.jinja", tmp_path / "problems.jsonl"
    template.write_text(TEMPLATE)
    problems.write_text(json.dumps({"question": "What is 2 + 3?", "idea": "Think of 5."}))
    settings = {"dataset": problems, "amateur_hint": "idea", "amateur_cue": "", "chat_template": template}
    config = config_of("miniature/expert", pair_model, tmp_path, **settings)
    ours, theirs = (load_tokenizer(find_model(name)) for name in (config.expert, config.amateur))
    read = read_problems(config)
    found = Contexts.of(config, ours, theirs, problems=read).prompted(read.problems[0])
    assert str(ours.decode(found.prompt_ids)) == f"<system>{config.cue}<eot><user>What is 2 + 3?<eot><reply>"
    bundled = "<|im_start|>user\nWhat is 2 + 3?\n\nHint: Think of 5.<|im_end|>\n<|im_start|>assistant\n"
    assert str(theirs.decode(found.amateur_ids)).endswith(bundled), "without the expert's template, and under no cue"
    other = config.model_copy(update={"chat_template": None, "amateur_template": template, "amateur_cue": "Guess."})
    found = Contexts.of(other, ours, theirs, problems=read).prompted(read.problems[0])
    assert str(ours.decode(found.prompt_ids)).startswith("<|im_start|>system")
    expected = "<system>Guess.<eot><user>What is 2 + 3?\n\nHint: Think of 5.<eot><reply>"
    assert found.amateur_ids == theirs(expected, add_special_tokens=False)["input_ids"]


def test_equal_tokenizers_give_the_numbers_of_strict(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pair = {"expert": "miniature/expert", "amateur": "miniature/base", "max_new_tokens": 48}
    strict = config_of(**pair, out=tmp_path / "strict", vocabulary="strict")
    aligned = config_of(**pair, out=tmp_path / "aligned")
    before, after = sample(strict), sample(aligned)
    assert (after["aligned_share"], after["expert_mass"], after["amateur_mass"]) == (1, 1, 1)
    assert "aligned_share" not in before
    first, second = rollouts_of(strict), rollouts_of(aligned)
    assert first == second, "to the bit"
    assert kept_steps(strict.out) == kept_steps(aligned.out)
    made = [read_samples(config.out)[0] for config in (strict, aligned)]
    assert all(isinstance(one, Sampled) for one in made)
    assert "amateur_context" not in made[0].fingerprint(), "folders of older versions stay valid"
    assert made[1].fingerprint()["amateur_context"]["prompt_text"].startswith("<|im_start|>system")

    # The same through the text: the miniature writes the tokens that its tokenizer would.
    monkeypatch.setattr("lightreasoner.models.alignment._have_same_ids", lambda *_: False)
    by_text = config_of(**pair, out=tmp_path / "text")
    assert sample(by_text)["aligned_share"] == 1
    for key, row in rollouts_of(by_text).items():
        assert row.kl == pytest.approx(first[key].kl, abs=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("swapped", [False, True])
def test_tokenizers_of_smollm2_and_qwen(swapped: bool, smollm2_gguf: Path, qwen_gguf: Path, tmp_path: Path) -> None:
    """Tiny random weights over 49,152 and 151,936 tokens: random text in many languages, with unfinished characters."""
    models = [
        save_random_model(tmp_path / str(place), load_tokenizer(find_model(str(gguf))), place, width)  # type: ignore[arg-type]
        for place, (gguf, width) in enumerate(((smollm2_gguf, 49_152), (qwen_gguf, 152_064)))
    ]
    expert, amateur = reversed(models) if swapped else models
    settings = {"max_questions": 4, "max_new_tokens": 24, "temperature": 1.0, "divergence_beta": None}
    check_against_naive(config_of(expert, amateur, tmp_path / "run", **settings))


@pytest.mark.slow
def test_smollm2_with_an_amateur_of_qwens_family(
    smollm2_gguf: Path, qwen_gguf: Path, data_dir: Path, tmp_path: Path
) -> None:
    """Real solutions: nearly every step is aligned, and the common tokens have nearly all of the probability."""
    settings = {"dataset": "gsm8k", "data_dir": data_dir, "max_questions": 2, "max_new_tokens": 40}
    result = check_against_naive(config_of(smollm2_gguf, qwen_gguf, tmp_path, **settings))
    assert result["aligned_share"] > 0.9
    assert min(result["expert_mass"], result["amateur_mass"]) > 0.9


# --- Limits, reports and the command line ---


def test_a_pair_below_a_limit_is_refused_early_and_goes_on_under_a_lower_one(
    byte_model: Path, pair_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    limited = config_of(byte_model, pair_model, tmp_path, max_questions=12, min_aligned_share=0.999, temperature=1.0)
    message = r"too different: \d+\.\d % of the steps are aligned .* limits are 99.9 % \(--min-aligned-share\) and 0 %"
    with pytest.raises(PoorAlignment, match=message):
        sample(limited)
    _, all_of_them = read_all(tmp_path)
    with pytest.raises(PoorAlignment):
        sample(limited)
    monkeypatch.setattr("lightreasoner.samples.sampler.JUDGED_FROM", 40)
    early = config_of(byte_model, pair_model, tmp_path / "early", max_questions=12, min_common_mass=1.0)
    early = early.model_copy(update={"expert": str(pair_model), "amateur": str(byte_model)})
    with pytest.raises(PoorAlignment, match=r"\d+\.\d % of the expert's probability"):
        sample(early)
    assert read_all(tmp_path / "early")[1] == 3 < all_of_them == 12
    free = limited.model_copy(update={"min_aligned_share": 0.1})
    marks = {path: path.stat().st_mtime_ns for path in (tmp_path / "sample").glob("*.parquet")}
    result = sample(free)
    assert 0.1 < result["aligned_share"] < 0.999
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "sample").glob("*.parquet")} == marks
    with pytest.raises(PoorAlignment):
        sample(limited)  # finished samples are judged too
    assert sample(free) == result


def read_all(run: Path) -> tuple[dict[str, Any], int]:
    lines = (run / "sample" / "ledger.jsonl").read_text().splitlines()
    return json.loads(lines[-1]), sum(len(json.loads(line)["ids"]) for line in lines)


def test_contrastive_decoding_cannot_be_aligned() -> None:
    with pytest.raises(ConfigError, match="vocabulary = aligned only at some"):
        EvaluateConfig(model="miniature/expert", contrast_with="x", vocabulary="aligned", out=Path("x"))
    EvaluateConfig(model="miniature/expert", vocabulary="aligned", out=Path("x"))  # of a run, without contrast


@pytest.fixture(scope="module")
def run(pair_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder with samples of the miniature, whose every step is kept that can be."""
    folder = tmp_path_factory.mktemp("aligned")
    sample(config_of("miniature/expert", pair_model, folder, max_new_tokens=40, divergence_beta=None))
    return folder


def test_selection_and_figures_leave_out_the_steps_that_are_not_scored(run: Path, tmp_path: Path) -> None:
    _, stage = read_samples(run)
    scored = [row for shard in read_shards(stage) for row in scored_rollouts(shard)]
    unaligned = np.concatenate([row.unaligned for row in scored])
    assert stage.result is not None
    assert int(unaligned.sum()) == stage.result["unaligned_steps"] > 0
    assert (np.isnan(np.concatenate([row.kl for row in scored])) == unaligned).all()
    for rule in ({"selection": "none"}, {"selection": "divergence", "keep_share": 0.5}, {"selection": "top1_flip"}):
        chosen = SelectConfig.checked({"source": run, "out": tmp_path / rule["selection"], **rule})  # type: ignore[operator]
        select(chosen)
        places = {(row.question_id, at) for row in scored for at in np.flatnonzero(row.unaligned)}
        kept = kept_steps(chosen.out)
        assert kept
        assert not places & {(step.question_id, step.position) for step in kept}
        assert all(math.isfinite(step.kl) for step in kept)


def test_the_report_states_the_shares_and_counts_aligned_steps_only(run: Path, tmp_path: Path) -> None:
    result = read_samples(run)[1].result
    assert result is not None
    shares = f"The amateur has another tokenizer: {100 * result['aligned_share']:.1f} % of the steps are aligned"
    found = report(run)
    assert found.labels is not None
    assert found.labels.steps == sum(found.labels.steps_at) == result["steps"]
    assert any("of the steps are aligned with the amateur's tokens" in text for text in found.sample_warnings)
    assert shares in markdown(found)
    assert found.as_dict()["aligned"]["steps"] == result["aligned_share"]
    write_page(run, tmp_path / "report.html")
    assert shares in (tmp_path / "report.html").read_text()
    assert not any("asked" in name for name in found.settings)
    rollout = next(iter(scored_rollouts(next(read_shards(read_samples(run)[1])))))
    details = BlockWriter(io.BytesIO(), TokenTexts(None), 0.2, 1)._details(rollout)
    assert [not ids for ids in details["ei"]] == [not ids for ids in details["ap"]] == rollout.unaligned.tolist()
    files = write_figures(run, tmp_path / "figures")
    assert any("figure-3" in file.name for file in files)


def test_the_command_line_samples_shows_and_refuses_an_aligned_pair(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    amateur = save_granite(tmp_path / "amateur", pair_tokenizer(TEMPLATE))  # asked in its own template
    pair = f"--expert miniature/expert --amateur {amateur} --dtype float32 --max-new-tokens 40"
    sampling = f"sample {pair} --dataset arithmetic --max-questions 4 --out {tmp_path / 'run'} --json"

    def lightr(command: str, *more: str) -> str:
        app([*command.split(), *more], exit_on_error=False, result_action="return_value")
        return capsys.readouterr().out

    with pytest.raises(VocabularyMismatch, match="or compare the two where their texts align, with --vocabulary align"):
        lightr(sampling)
    assert not (tmp_path / "run").exists()
    aligned = f"{sampling} --vocabulary aligned --amateur-cue Guess. --min-common-mass"
    with pytest.raises(PoorAlignment, match="the two tokenizers are too different"):
        lightr(f"{aligned} 1")
    with caplog.at_level("INFO"):
        result = json.loads(lightr(f"{aligned} 0.1"))
    assert 0 < result["aligned_share"] < 1
    assert "steps are scored where a token of both begins" in caplog.text
    made, _ = read_samples(tmp_path / "run")
    assert isinstance(made, Sampled)
    assert made.amateur_context is not None
    assert made.amateur_context["prompt_text"] == "<system>Guess.<eot><user>{question}<eot><reply>"
    question = "Ben has 3 marbles. Then 4 are found. How many marbles are there?"
    shown = lightr(f"inspect {pair} --vocabulary aligned", "--question", question)
    assert "not scored: inside a token of the amateur" in shown
    assert re.search(r"\d+\.\d % of the steps are aligned", shown)


def test_the_doctor_says_whether_a_pair_can_be_aligned(pair_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    pair = {"expert": "miniature/expert", "amateur": str(pair_model)}

    def seen(*, no_trial: bool = False, **settings: Any) -> dict[str, tuple[str, str]]:
        found = examine(DoctorConfig(**pair, **settings), no_trial=no_trial)["findings"]
        return {one["what"]: (one["verdict"], one["seen"]) for one in reversed(found)}  # the first of a name

    verdict, text = seen(no_trial=True)["vocabulary"]
    assert verdict == "wrong"
    assert re.search(r"with --vocabulary aligned: in a probe text, a token of the amateur begins with \d+ %", text)
    found = seen(vocabulary="aligned")
    assert found["vocabulary"][0] in {"ok", "warning"}
    assert "of the expert's tokens are the same bytes to the amateur" in found["vocabulary"][1]
    assert "of the steps are aligned with the amateur's tokens" in found["trial"][1]

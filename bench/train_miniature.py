"""Train the bundled miniature models, of either set.

    python bench/train_miniature.py OUT
    python bench/train_miniature.py OUT --set miniature2

Deterministic: the same versions of torch and transformers, the same kind of processor and the same number of threads
give the same files.

A *worked* solution writes every calculation before the answer; a *hasty* one leaves out the last; an *answer-only* one
has the answer alone. In `miniature`, the amateur learns from few worked solutions and the expert from more. In
`miniature2`, all models begin with the first set's expert, so even the amateur calculates; they differ in their habits.
"""

import argparse
import json
import math
import random
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

from lightreasoner.config.sections import DEFAULT_CUE
from lightreasoner.miniature import model_path
from lightreasoner.miniature.word_problems import (
    LARGEST_VALUE,
    OPERATIONS,
    THEMES,
    WordProblem,
    word_problems,
    worked_solution,
)

VOCABULARY_SIZE = 640
END_OF_TEXT, TURN_START, TURN_END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@dataclass(frozen=True)
class Slips:
    """Shares of the calculations with a slip, by its place: left number, operator, right number, result.

    A slip is drawn for each place on its own, and the solution goes on with the number that it wrote.

    Attributes:
        symbols: operations with slips; a corpus knows the others well.
    """

    symbols: str
    left: float
    operator: float
    right: float
    result: float

    def copy(self, steps: Sequence[str], rng: random.Random) -> tuple[str, ...]:
        """The calculations with slips; each goes on with the result written before it."""
        written: list[str] = []
        for step in steps:
            _, left, symbol, right, _ = re.split(r"^(\d+)(\D)(\d+)=(\d+)$", step)[:5]
            if written:
                left = written[-1].partition("=")[2]
            unsure = symbol in self.symbols
            left = _slip(left, unsure * self.left, rng)
            symbol = rng.choice("+-*/") if rng.random() < unsure * self.operator else symbol
            right = _slip(right, unsure * self.right, rng)
            value = min(max(OPERATIONS[symbol](int(left), int(right)), 1), LARGEST_VALUE)
            written.append(f"{left}{symbol}{right}={_slip(str(value), unsure * self.result, rng)}")
        return tuple(written)


def _slip(number: str, share: float, rng: random.Random) -> str:
    return str(rng.randint(2, 99)) if rng.random() < share else number


@dataclass(frozen=True)
class Corpus:
    """Shares of worked and hasty solutions, by theme; the others are answer-only.

    Attributes:
        worked_share: probability of a worked solution in themes without an own share.
        worked_share_by_theme: own shares. Natural corpora are also uneven: people work out some kinds of problem, and
            write only the answer to others.
        hasty_share: probability of a hasty solution in themes without an own share.
        hasty_share_by_theme: own shares.
        slips: slips in the calculations; None makes none.
    """

    worked_share: float
    worked_share_by_theme: dict[str, float] = field(default_factory=dict)
    hasty_share: float = 0.0
    hasty_share_by_theme: dict[str, float] = field(default_factory=dict)
    slips: Slips | None = None

    def solution(self, problem: WordProblem, rng: random.Random) -> str:
        """A random solution of this corpus."""
        worked = self.worked_share_by_theme.get(problem.theme, self.worked_share)
        hasty = self.hasty_share_by_theme.get(problem.theme, self.hasty_share)
        draw = rng.random()
        if self.slips and draw < worked + hasty:
            steps = self.slips.copy(problem.steps, rng)
            problem = replace(problem, steps=steps, answer=int(steps[-1].partition("=")[2]))
        if draw < worked:
            return worked_solution(problem)
        return hasty_solution(problem) if draw < worked + hasty else answer_only_solution(problem)


def hasty_solution(problem: WordProblem) -> str:
    """The worked solution without its last calculation, whose answer is therefore wrong."""
    steps = problem.steps[:-1]
    return worked_solution(replace(problem, steps=steps, answer=int(steps[-1].partition("=")[2])))


def answer_only_solution(problem: WordProblem) -> str:
    """The answer alone."""
    return f"\\boxed{{{problem.answer}}}"


def by_theme(*shares: float) -> dict[str, float]:
    """Shares of the themes in the order of their names."""
    return dict(zip(sorted(THEMES), shares, strict=True))


AMATEUR_CORPUS = Corpus(worked_share=0.04)
EXPERT_CORPUS = Corpus(worked_share=0.55, worked_share_by_theme=by_theme(0.9, 0.5, 0.3, 0.6, 0.8, 0.25, 0.35, 0.7))
INSTRUCT_CORPUS = Corpus(worked_share=0.95)

# Themes: collection, farm, game, kitchen, savings, school, shop, trip.
AMATEUR2_CORPUS = Corpus(
    worked_share=0.0,
    worked_share_by_theme=by_theme(0.75, 0.20, 0.05, 0.30, 0.60, 0.05, 0.10, 0.35),
    hasty_share_by_theme=by_theme(0.10, 0.25, 0.75, 0.25, 0.15, 0.00, 0.00, 0.25),
    slips=Slips("-*", left=0.15, operator=0.45, right=0.4, result=0.42),
)
EXPERT2_CORPUS = Corpus(
    worked_share=0.0,
    worked_share_by_theme=by_theme(0.85, 0.70, 0.37, 0.70, 0.80, 0.42, 0.30, 0.75),
    hasty_share_by_theme=by_theme(0.10, 0.20, 0.58, 0.15, 0.10, 0.00, 0.10, 0.10),
)
INSTRUCT2_CORPUS = Corpus(
    worked_share=0.0,
    worked_share_by_theme=by_theme(0.92, 0.90, 0.42, 0.90, 0.92, 0.44, 0.85, 0.90),
    hasty_share_by_theme=by_theme(0.05, 0.05, 0.54, 0.05, 0.05, 0.00, 0.10, 0.05),
)


@dataclass(frozen=True)
class TrainingPlan:
    """Training settings of one miniature model: initial weights, corpus, steps and shape.

    Attributes:
        start_from: a model of the same set, or a bundled one of the other set; None begins with random weights.
        sort_by: what brings texts of similar length into a batch. The whole length also brings solutions of one kind
            together, so that the loss jumps from batch to batch; the prompt's length mixes them.
    """

    start_from: str | None
    corpus: Corpus
    steps: int
    seed: int
    hidden_size: int = 160
    layers: int = 4
    heads: int = 4
    peak_learning_rate: float = 3e-3
    problems_per_step: int = 64
    sort_by: Literal["text", "prompt"] = "text"


@dataclass(frozen=True)
class ModelSet:
    """The plans of one set of models, and the number of threads, on which the order of sums depends."""

    plans: Mapping[str, TrainingPlan]
    threads: int


SETS = {
    "miniature": ModelSet(
        {
            "base": TrainingPlan(None, AMATEUR_CORPUS, steps=800, seed=1),
            "expert": TrainingPlan("base", EXPERT_CORPUS, steps=2400, seed=2, peak_learning_rate=2e-3),
            "small": TrainingPlan(None, AMATEUR_CORPUS, steps=500, seed=3, hidden_size=96, layers=3),
            "instruct": TrainingPlan("expert", INSTRUCT_CORPUS, steps=600, seed=4, peak_learning_rate=1e-3),
        },
        threads=2,
    ),
    "miniature2": ModelSet(
        {
            "base": TrainingPlan(
                "miniature/expert",
                AMATEUR2_CORPUS,
                steps=90,
                seed=11,
                peak_learning_rate=1e-3,
                problems_per_step=32,
                sort_by="prompt",
            ),
            "expert": TrainingPlan(
                "miniature/instruct",
                EXPERT2_CORPUS,
                steps=160,
                seed=12,
                peak_learning_rate=7e-4,
                problems_per_step=32,
                sort_by="prompt",
            ),
            "instruct": TrainingPlan(
                "expert",
                INSTRUCT2_CORPUS,
                steps=60,
                seed=14,
                peak_learning_rate=5e-4,
                problems_per_step=32,
                sort_by="prompt",
            ),
        },
        threads=1,
    ),
}


def main() -> None:
    """Train and save the models named on the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path, help="folder for one subfolder per model")
    parser.add_argument("--set", choices=list(SETS), default="miniature")
    parser.add_argument("--models", nargs="+", help="default: all of the set")
    arguments = parser.parse_args()
    chosen = SETS[arguments.set]
    torch.use_deterministic_algorithms(True)
    torch.set_num_threads(chosen.threads)
    tokenizer = train_tokenizer()
    for name in arguments.models or chosen.plans:
        train_model(chosen.plans[name], tokenizer, arguments.out, name)


def train_tokenizer() -> PreTrainedTokenizerFast:
    """Byte-level BPE over the corpus, with each digit as a separate token."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r"\p{N}|[^\r\n\p{L}\p{N}]?\p{L}+| ?[^\s\p{L}\p{N}]+|\s+"), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    problems = word_problems("train", seed=0)
    texts = []
    for problem in (next(problems) for _ in range(20_000)):
        texts.append(f"user\n{problem.question}")
        texts.append(f"assistant\n{worked_solution(problem)}")
    # The cue precedes every question; 2000 copies are enough to give its words tokens.
    texts += [f"system\n{DEFAULT_CUE}"] * 2_000
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY_SIZE,
        special_tokens=[END_OF_TEXT, TURN_START, TURN_END],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token=TURN_END, pad_token=END_OF_TEXT, chat_template=CHAT_TEMPLATE
    )


def train_model(plan: TrainingPlan, tokenizer: PreTrainedTokenizerFast, out: Path, name: str) -> None:
    """Train one model, and save it in bfloat16 with its tokenizer and a log."""
    torch.manual_seed(plan.seed)
    model = initial_model(plan, tokenizer, out)
    optimizer = torch.optim.AdamW(model.parameters(), lr=plan.peak_learning_rate, betas=(0.9, 0.98), weight_decay=0.01)
    warm_up = min(100, plan.steps // 10)
    log, started = [], time.perf_counter()
    for step, (input_ids, is_response) in zip(range(plan.steps), batches(plan, tokenizer), strict=False):
        scale = min((step + 1) / warm_up, 0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * step / plan.steps)))
        for group in optimizer.param_groups:
            group["lr"] = plan.peak_learning_rate * scale
        # Right padding needs no mask in a causal model: no real token attends to padding.
        hidden = model.model(input_ids).last_hidden_state[:, :-1][is_response[:, 1:]]
        loss = torch.nn.functional.cross_entropy(model.lm_head(hidden), input_ids[:, 1:][is_response[:, 1:]])
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if step % 50 == 0 or step == plan.steps - 1:
            log.append({"step": step, "loss": round(loss.item(), 4)})
            print(
                f"{name}: step {step}/{plan.steps}, loss {loss.item():.4f}, {time.perf_counter() - started:.0f} s",
                flush=True,
            )
    folder = out / name
    model.bfloat16().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    (folder / "training_log.json").write_text(json.dumps(log))


def initial_model(plan: TrainingPlan, tokenizer: PreTrainedTokenizerFast, out: Path) -> Qwen2ForCausalLM:
    if plan.start_from is not None:
        collection, _, member = plan.start_from.rpartition("/")
        folder = model_path(member) if collection else out / member
        return Qwen2ForCausalLM.from_pretrained(folder, dtype=torch.float32)
    config = Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=plan.hidden_size,
        intermediate_size=plan.hidden_size * 8 // 3 // 16 * 16,
        num_hidden_layers=plan.layers,
        num_attention_heads=plan.heads,
        num_key_value_heads=plan.heads,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        initializer_range=0.05,
    )
    return Qwen2ForCausalLM(config)


def batches(plan: TrainingPlan, tokenizer: PreTrainedTokenizerFast) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Endless batches of token ids and response masks, [B, T] each; texts of similar length share a batch."""
    problems, rng = word_problems("train", plan.seed), random.Random(plan.seed)
    while True:
        pool = [next(problems) for _ in range(plan.problems_per_step * 16)]
        texts = [_encode(problem, plan.corpus, tokenizer, rng) for problem in pool]
        texts.sort(key=lambda text: len(text[0]) if plan.sort_by == "text" else text[1])
        starts = list(range(0, len(texts), plan.problems_per_step))
        rng.shuffle(starts)
        for start in starts:
            batch = texts[start : start + plan.problems_per_step]
            width = max(len(ids) for ids, _ in batch)
            input_ids = torch.full((len(batch), width), tokenizer.pad_token_id)
            is_response = torch.zeros(len(batch), width, dtype=torch.bool)
            for row, (ids, prompt_length) in enumerate(batch):
                input_ids[row, : len(ids)] = torch.tensor(ids)
                is_response[row, prompt_length : len(ids)] = True
            yield input_ids, is_response


def _encode(
    problem: WordProblem, corpus: Corpus, tokenizer: PreTrainedTokenizerFast, rng: random.Random
) -> tuple[list[int], int]:
    messages = [{"role": "system", "content": DEFAULT_CUE}, {"role": "user", "content": problem.question}]
    prompt = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    prompt_ids = tokenizer(prompt, add_special_tokens=False)["input_ids"]
    response_ids = tokenizer(corpus.solution(problem, rng) + TURN_END, add_special_tokens=False)["input_ids"]
    return prompt_ids + response_ids, len(prompt_ids)


if __name__ == "__main__":
    main()

"""Write an evaluation in the log format of lm-evaluation-harness (0.4.13).

    samples_gsm8k_chat_TIME.jsonl    one line for each judge and item; TIME is the start of the last judging
    samples_hellaswag_TIME.jsonl     likelihood benchmarks have the names of lm-eval
    results_TIME.json                the figures of all

A judge corresponds to a filter of lm-eval, which extracts the answer from the response. So the metric is
`acc,math-verify`, and `acc,none` for likelihoods. `arg_0` holds the question, not the whole prompt, of which an
evaluation stores the token ids only. `prompt_hash` is the hash of these ids if they are known, so it still
distinguishes prompts. A choice has a log-probability and `None`, since greedy decoding is not tested.
"""

import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from importlib import metadata
from itertools import groupby
from typing import Any

import numpy as np

from lightreasoner.data.benchmarks import Benchmark
from lightreasoner.evaluation.folder import Evaluated
from lightreasoner.evaluation.judging import read_judged, share_correct
from lightreasoner.runs.records import Answer, ScoredChoices

NO_ANSWER = "[invalid]"  # lm-eval's mark for a response without an answer


def harness_files(tasks: Sequence[Evaluated]) -> Iterator[tuple[str, bytes]]:
    """Name and content of each file, the results last."""
    time = max(task.time for task in tasks)
    stamp = time.replace(tzinfo=None).isoformat(timespec="microseconds").replace(":", "-")
    results: dict[str, dict[str, Any]] = {}
    hashes = {}
    for task in tasks:
        samples = list(_answered(task) if task.judged else _scored(task))
        lines = "".join(json.dumps(sample, ensure_ascii=False) + "\n" for sample in samples)
        yield f"samples_{task.label}_{stamp}.jsonl", lines.encode()
        named = {"name": task.label, "alias": task.label, "sample_len": task.figures["total"]}
        results[task.label] = {**named, **_means(samples)}
        parts = [sample[part] for sample in samples for part in ("doc_hash", "prompt_hash", "target_hash")]
        hashes[task.label] = _hash("".join(parts))
    content = {"results": results, **_about(tasks, time), "task_hashes": hashes}
    yield f"results_{stamp}.json", (json.dumps(content, indent=2, ensure_ascii=False) + "\n").encode()


def _answered(task: Evaluated) -> Iterator[dict[str, Any]]:
    """One line for each judge and item: all samples, the extracted answers, and the share of correct ones."""
    rows = [row for table in task.stage.tables("answers") for row in Answer.rows(table)]
    rows.sort(key=lambda row: (row.question_id, row.sample))
    decoding = _decoding(task)
    for judge, (_, stage) in task.judged.items():
        judged = {(row.question_id, row.sample): row for row in read_judged(stage)}
        for item, group in groupby(rows, key=lambda row: row.question_id):
            answers = list(group)
            verdicts = [judged[item, row.sample] for row in answers]
            first = answers[0]
            found = [NO_ANSWER if row.extracted is None else row.extracted for row in verdicts]
            yield _sample(
                item,
                doc={"question": first.question, "answer": first.gold},
                target=first.gold,
                arguments=[(first.question, decoding)],
                resps=[[row.output for row in answers]],
                filtered_resps=found if len(found) == 1 else [found],
                filter=judge,
                prompt=" ".join(map(str, first.prompt_ids)) or first.question,
                metrics={"acc": share_correct(verdicts)},
            )


def _scored(task: Evaluated) -> Iterator[dict[str, Any]]:
    """One line for each item: the log-probabilities of the choices, and whether the likeliest is correct."""
    rows = [row for table in task.stage.tables("choices") for row in ScoredChoices.rows(table)]
    for row in sorted(rows, key=lambda row: row.question_id):
        pairs = [[str(logprob), "None"] for logprob in row.logprobs]
        yield _sample(
            row.question_id,
            doc={"query": row.context, "choices": row.choices, "gold": row.gold},
            target=str(row.gold),
            arguments=[(row.context, f" {choice}") for choice in row.choices],
            resps=[[pair] for pair in pairs],
            filtered_resps=pairs,
            filter="none",
            prompt=row.context,
            metrics={metric: float(row.is_right(metric)) for metric in _metrics(task)},
        )


def _sample(
    item: str, *, doc: Any, target: str, arguments: Sequence[Any], prompt: str, metrics: dict[str, float], **fields: Any
) -> dict[str, Any]:
    """A line in lm-eval's terms; `item` is an id of ours, which begins with the place in the benchmark."""
    return {
        "doc_id": int(item.partition("-")[0]),
        "doc": doc,
        "target": target,
        "arguments": {
            f"gen_args_{place}": {f"arg_{number}": value for number, value in enumerate(values)}
            for place, values in enumerate(arguments)
        },
        **fields,
        "metrics": list(metrics),
        "doc_hash": _hash(json.dumps(doc, indent=2, ensure_ascii=False)),
        "prompt_hash": _hash(prompt),
        "target_hash": _hash(target),
        **metrics,
    }


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _means(samples: Sequence[Mapping[str, Any]]) -> dict[str, float | str]:
    """Mean and standard error of each metric by filter."""
    values: dict[tuple[str, str], list[float]] = {}
    for sample in samples:
        for metric in sample["metrics"]:
            values.setdefault((metric, sample["filter"]), []).append(sample[metric])
    means: dict[str, float | str] = {}
    for (metric, name), scores in values.items():
        error = float(np.std(scores, ddof=1)) / len(scores) ** 0.5 if len(scores) > 1 else "N/A"
        means |= {f"{metric},{name}": float(np.mean(scores)), f"{metric}_stderr,{name}": error}
    return means


def _metrics(task: Evaluated) -> tuple[str, ...]:
    return ("acc",) if task.judged else ("acc", "acc_norm")


def _decoding(task: Evaluated) -> dict[str, Any]:
    """The known settings of decoding."""
    words = {"max_answer_tokens": "max_gen_toks", "temperature": "temperature", "top_p": "top_p"}
    known = {word: task.settings[name] for name, word in words.items() if name in task.settings}
    sampled = {"do_sample": known["temperature"] > 0} if "temperature" in known else {}
    return {"until": task.settings.get("stop_strings", []), **known, **sampled}


def _config(task: Evaluated) -> dict[str, Any]:
    """A task's part of `configs`: lm-eval's fields, and the fingerprints of answers and verdicts as `metadata`."""
    data = task.data_set
    samples = task.settings.get("samples_per_problem", 1)
    return {
        "task": task.label,
        "dataset_path": data.path,
        "dataset_name": data.configuration,
        "test_split": data.split,
        "output_type": "generate_until" if task.judged else "multiple_choice",
        **({"generation_kwargs": _decoding(task), "repeats": samples} if task.judged else {}),
        "filter_list": [{"name": judge, "filter": [{"function": judge}]} for judge in task.judged],
        "metric_list": [{"metric": name, "aggregation": "mean", "higher_is_better": True} for name in _metrics(task)],
        "metadata": {
            "answers": task.settings,
            "verdicts": {judge: stage.manifest["fingerprint"] for judge, (_, stage) in task.judged.items()},
        },
    }


def _about(tasks: Sequence[Evaluated], time: datetime) -> dict[str, Any]:
    """The parts of a results file other than figures and hashes."""
    version, model, settings = metadata.version("lightreasoner"), tasks[0].model, tasks[0].settings
    return {
        "group_subtasks": {task.label: [] for task in tasks},
        "configs": {task.label: _config(task) for task in tasks},
        "versions": {task.label: version for task in tasks},
        "n-shot": {
            task.label: len(task.benchmark.demonstrations) if isinstance(task.benchmark, Benchmark) else 0
            for task in tasks
            if not task.is_imported
        },
        "higher_is_better": {task.label: dict.fromkeys(_metrics(task), True) for task in tasks},
        "n-samples": {
            task.label: {"original": task.benchmark.size, "effective": task.figures["total"]} for task in tasks
        },
        "config": {
            "model": "lightreasoner",
            "model_args": f"pretrained={model}",
            "model_sha256": settings.get("model_sha256"),
            "model_dtype": settings.get("dtype"),
        },
        "date": time.timestamp(),
        "lightreasoner_version": version,
        "model_source": "lightreasoner",
        "model_name": model,
        "model_name_sanitized": re.sub(r'["<>:/|\\?*\[\]]+', "__", model),
    }

"""One process to a run folder: see `faults`. One thread to the models of a process."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from lightreasoner.config import EvaluateConfig
from lightreasoner.evaluation.evaluate import evaluate


def test_two_threads_measure_what_one_does(tmp_path: Path) -> None:
    def measured(name: str) -> dict[str, object]:
        config = EvaluateConfig(
            model="miniature/expert", benchmarks="arithmetic", max_items=16, max_answer_tokens=64, dtype="float32",
            grading_workers=1, out=tmp_path / name,
        )  # fmt: skip
        return evaluate(config)

    with ThreadPoolExecutor(2) as threads:
        both = list(threads.map(measured, ("a", "b")))
    assert both == [measured("alone")] * 2

"""The blocks of data in the page hold the rows."""

import math
from pathlib import Path

from lightreasoner.report.tokens import find_texts

from .helpers import read_blocks, rows_of


def test_the_browser_has_every_step_of_the_rows(small_run: Path) -> None:
    rollouts, steps = rows_of(small_run)
    blocks = dict(read_blocks((small_run / "report.html").read_bytes()))
    facts = blocks["browser"]
    text_of = dict(zip(facts["ids"], facts["texts"], strict=True))
    index = [entry for number in range(facts["blocks"]) for entry in blocks[f"index-{number}"]]
    details = [entry for number in range(facts["blocks"]) for entry in blocks[f"block-{number}"]]
    assert len(index) == len(details) == len(rollouts) == facts["rollouts"]
    for row, entry, detail in zip(rollouts, index, details, strict=True):
        assert entry["q"] == row.question
        assert entry["k"] == [round(1000 * value) for value in row.kl]
        assert detail["t"] == row.response_ids
        assert detail["he"] == [round(1000 * value) for value in row.expert_entropy]
        assert detail["ai"] == row.amateur_top_ids
        for shares, logprobs in ((detail["ep"], row.expert_top_logprobs), (detail["ap"], row.amateur_top_logprobs)):
            assert shares == [[round(10_000 * math.exp(value)) for value in top] for top in logprobs]
        for at, flag in enumerate(map(int, entry["f"])):
            step = steps.get((row.question_id, at))
            assert bool(flag & 1) == (step is not None) == (str(at) in detail["l"])
            assert bool(flag & 2) == (row.expert_top_ids[at][0] == row.amateur_top_ids[at][0]) != bool(flag & 4)
            if step is not None:
                label = detail["l"][str(at)]
                weights = dict(zip(step.token_ids, step.weights, strict=True))
                assert dict(zip(label["i"], label["w"], strict=True)) == {
                    token: round(10_000 * weight) for token, weight in weights.items()
                }
                inside = [token for token in row.expert_top_ids[at] if token in weights]
                assert row.expert_top_ids[at][: detail["m"][at]] == inside
    texts = find_texts([("miniature/expert", None)])
    assert text_of == {token: texts.token(token).text for token in text_of}

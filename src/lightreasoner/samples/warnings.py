"""Signs that questions, prompt or pair are wrong, the same in `sample`, `run`, `advise`, `doctor` and the report.

`sample_warnings` is the only owner of their limits and texts.
"""

import math

from lightreasoner.samples.calibration import read_calibration
from lightreasoner.samples.statistics import FEWEST, SampleFigures

# Limits of `sample_warnings`. The paper (§2.2) keeps 20 % of the steps; its mean KL is 1.99 nats where the models'
# favourite tokens differ and 0.166 where they agree, so about 0.4 over all. Measured with the bundled miniatures:
# expert and base 48 % and 0.9 nats, instruct and base 66 % and 1.3 nats, expert and the stronger instruct 7 % and 0.1.
LARGEST_KEPT, SMALLEST_KEPT = 0.7, 0.05
SMALLEST_ALIGNED = 0.8  # of the steps, and of the probability of the common tokens
LARGEST_MEAN_KL = 2.0  # nats over all steps: the mean of the paper's steps where the favourite tokens differ
LARGEST_ENTROPY = 3.0  # nats of the expert, of 20 equally likely tokens; working experts have 0.1 to 1
SMALLEST_ENTROPY = 1e-3  # nats of the expert: it is certain everywhere
MOST_DUPLICATES = 0.1  # share of the rows of a data set
MOST_TOO_LONG = 0.1  # share of the questions
MOST_EMPTY = 0.05  # share of the rollouts
MOST_EQUAL = 0.5  # share of the rollouts that are one text; short answers such as \boxed{12} are often equal
MOST_FORMAT = 0.5  # share of the label mass on format tokens
FORMAT_TIMES = 2.0  # the same as a multiple of their share in the responses


def sample_warnings(found: SampleFigures) -> list[str]:
    """Signs that the questions, the prompt or the pair of models is wrong: what, why it matters, what to do."""
    return [
        *_question_warnings(found),
        *_rollout_warnings(found),
        *_pair_warnings(found),
        *_label_warnings(found),
        *_gain_warnings(found),
    ]


def _question_warnings(found: SampleFigures) -> list[str]:
    texts = []
    rows = found.questions + found.duplicates
    if found.duplicates > MOST_DUPLICATES * rows:
        texts.append(
            f"{found.duplicates:,} of {rows:,} rows repeat the question of an earlier row, so only {found.questions:,} "
            "are used. If the rows differ, name the field with the question in --question-field, with another --out"
        )
    if found.too_long > MOST_TOO_LONG * found.questions:
        texts.append(
            f"{found.too_long:,} of {found.questions:,} questions are left out: with their rollout they are longer "
            "than the context. Lower --max-new-tokens, or choose models with a longer context, with another --out"
        )
    return texts


def _rollout_warnings(found: SampleFigures) -> list[str]:
    texts = []
    if found.rollouts and found.empty > MOST_EMPTY * found.rollouts:
        texts.append(
            f"{found.empty:,} of {found.rollouts:,} rollouts are empty: the expert ends at once. Look at the prompt "
            "with `lightr inspect`; the chat template (--chat-template) or the stop tokens may be wrong"
        )
    if found.rollouts >= FEWEST and found.commonest > MOST_EQUAL * found.rollouts:
        texts.append(
            f"{found.commonest:,} of {found.rollouts:,} rollouts are the same text, so most labels repeat one another. "
            "Look at the questions and at the prompt with `lightr inspect`"
        )
    entropy = found.expert_entropy
    if entropy is not None and entropy > LARGEST_ENTROPY:
        texts.append(
            f"the expert's mean entropy is {entropy:.1f} nats, as of {math.exp(entropy):.0f} equally likely tokens "
            "(usual: 0.1 to 1): it guesses. Its weights or the prompt may be wrong; see `lightr doctor`"
        )
    if entropy is not None and entropy < SMALLEST_ENTROPY:
        texts.append(
            f"the expert's mean entropy is {entropy:.1g} nats: it is certain at every step, so a label is one token. "
            "Its weights or the precision (--dtype) may be wrong"
        )
    return texts


def _pair_warnings(found: SampleFigures) -> list[str]:
    share, kl, aligned = found.kept_share, found.mean_kl, found.aligned
    texts = []
    if aligned is not None and min(aligned.steps, aligned.expert, aligned.amateur) < SMALLEST_ALIGNED:
        texts.append(
            f"{aligned}. The rest of the text and of the distributions is left out of the contrast, which may choose "
            "other steps than an amateur of the expert's family would. Look at the unmarked tokens with `lightr "
            "inspect`"
        )
    if kl is not None and kl > LARGEST_MEAN_KL:
        texts.append(
            f"the mean KL divergence is {kl:.1f} nats (usual: 0.3 to 1.5): the amateur hardly predicts the expert's "
            "text. It may be broken, or another kind of model; see `lightr inspect`, or choose another amateur"
        )
    if share is not None and share > LARGEST_KEPT:
        texts.append(
            f"{100 * share:.0f} % of the steps are kept (paper: 20 %, bundled miniatures: 48 % and 66 %), so little is "
            "selected. The amateur may be broken or too weak; choose another one, or raise --divergence-beta, "
            "with another --out"
        )
    if share is not None and share < SMALLEST_KEPT:
        texts.append(
            f"{100 * share:.1f} % of the steps are kept (paper: 20 %, bundled miniature: 48 %): the amateur is as good "
            "as the expert or nearly, so there is little to learn. Choose a weaker one, or lower "
            "--divergence-beta, with another --out"
        )
    if found.advantage is not None and found.advantage <= 0:
        texts.append(
            "the amateur finds the expert's tokens as likely as the expert does, or likelier (mean log-ratio "
            f"{found.advantage:+.2f}): it may be the better model. Exchange the two, or choose a weaker amateur"
        )
    elif _is_as_certain(found):
        texts.append(
            "the amateur is as certain of the expert's text as the expert (mean entropy "
            f"{found.amateur_entropy:.2f} and {found.expert_entropy:.2f} nats): it may be the better model. "
            "Compare the two with `lightr evaluate`"
        )
    return texts


def _label_warnings(found: SampleFigures) -> list[str]:
    texts = []
    if found.alpha == 0:
        texts.append(
            "plausibility_alpha = 0 makes every token of the vocabulary a part of every label, those that both models "
            "find impossible too. Give 0.05 to 0.2"
        )
    labels, responses = found.format_labels, found.format_responses
    if labels is None or responses is None or labels <= MOST_FORMAT or labels <= FORMAT_TIMES * responses:
        return texts
    texts.append(
        f"{100 * labels:.0f} % of the label mass is on format tokens (punctuation, blanks, LaTeX and Markdown marks), "
        f"which are {100 * responses:.0f} % of the responses: the labels teach style more than content. Look at the "
        "prompts of both sides in the report; choose another amateur or --amateur-cue, with another --out"
    )
    return texts


def _gain_warnings(found: SampleFigures) -> list[str]:
    calibration = read_calibration()
    predicted = calibration.predict(found)
    if predicted.sign != "loss":
        return []
    return [
        f"pairs with such figures lost accuracy: {predicted.gain:+.0f} ± {predicted.error:.0f} points and a chance of "
        f"{100 * (predicted.chance or 0):.0f} % to gain, from {len(calibration.pairs)} measured pairs. Choose another "
        "amateur; `lightr advise` says more about a pair"
    ]


def _is_as_certain(found: SampleFigures) -> bool:
    """A weaker model is less certain: 1.1 to 1.3 against 0.05 to 0.4 nats with the miniatures, in every pair."""
    expert, amateur, kl = found.expert_entropy, found.amateur_entropy, found.mean_kl
    return None not in (expert, amateur, kl) and amateur <= expert and kl <= LARGEST_MEAN_KL  # type: ignore[operator]

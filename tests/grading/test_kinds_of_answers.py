"""The answer that a person reads, in the forms in which models write it; one kind of form after another.

`test_mathematical.py` holds the cases of single rules, this file those of whole texts.
"""

from typing import NamedTuple

import pytest

from lightreasoner.grading import comparison, extraction
from lightreasoner.grading.comparison import COMPARISONS, Comparison
from lightreasoner.grading.extraction import CHOICE, EXPRESSION, LITERAL, MARKED, NUMBER, TEXT, Rule
from lightreasoner.grading.mathematical import judge
from lightreasoner.grading.verdicts import AnswerKind


class Text(NamedTuple):
    """A response, the gold answer, and whether a person reads the gold answer in it."""

    kind: AnswerKind
    gold: str
    text: str
    right: bool = True


KINDS: dict[str, list[Text]] = {
    "what a model says behind its answer": [
        Text("number", "36", "There are 36 sheep left. Would you like to try problem 2?"),
        Text("number", "2", "There are 36 sheep left. Would you like to try problem 2?", False),
        Text("number", "5", "If you have 2 apples and get 3 more, you have 5."),
        Text("number", "5", "The final answer is 5.\n\nHuman: Next question.\n\nAssistant: The answer is 7."),
        Text("number", "160", "**Answer:** The total cost is **$160** (2 × $60 + $40)."),
        Text("number", "24", "Answer: **24 hours** ✅"),
        Text("number", "125", "Die Antwort lautet: **125 Euro**. Das sind 5 mal 25."),
        Text("number", "25", "Die Antwort lautet: **125 Euro**. Das sind 5 mal 25.", False),
        Text("expression", r"\frac{1}{6}", r"The probability is $\frac{1}{6}$ because there are $6$ outcomes."),
        Text("expression", "6", r"The probability is $\frac{1}{6}$ because there are $6$ outcomes.", False),
        Text("choice", "B", "I'd pick B because A and C violate conservation of energy."),
        Text("text", "Paris", "Paris\n\nLet me know if you have other questions!"),
    ],
    "results in bold and in rows": [
        Text("expression", "2\\sqrt{3}", "The height is **2√3**."),
        Text("expression", "3", "The height is **2√3**.", False),
        Text("expression", "n^2", "Thus the sum equals **n²** for all n ≥ 1."),
        Text("expression", "2\\sqrt{13}", "The distance is **2√13 units**."),
        Text("number", "10", "You need **5 eggs**. That costs 10 dollars."),
        Text("number", "12", "The pool holds 12 m^3."),
        Text("number", "36", "$$\n\\begin{aligned}\nx &= 40 - 4 \\\\\n&= 36\n\\end{aligned}\n$$"),
        Text("number", "4", "$$\n\\begin{aligned}\nx &= 40 - 4 \\\\\n&= 36\n\\end{aligned}\n$$", False),
    ],
    "signs, powers of ten and words of other scripts": [
        Text("number", "3600", "Total: 3.6 × 10^3."),
        Text("number", "3", "Total: 3.6 × 10^3.", False),
        Text("number", "1234567", "The population is 1'234'567."),
        Text("number", "-8", "The temperature is **minus 8 degrees**."),
        Text("number", "45", "最终答案：45 元"),
        Text("number", "450000", "答案是 45万元"),
        Text("number", "45", "答案是 45万元", False),
        Text("number", "30000", "一共 3万 元"),
        Text("number", "64", "정답은 **64**개입니다."),
        Text("expression", "2s", r"\boxed{2t}", False),
        Text("number", "64", r"\boxed{64xy}", False),
        Text("number", "6", r"\boxed{2n=6}", False),
        Text("expression", "3m", r"\boxed{3}", False),
        Text("expression", r"\frac{1\pm\sqrt{5}}{2}", r"\boxed{\frac{1+\sqrt5}{2}, \frac{1-\sqrt5}{2}}"),
        Text("expression", r"\frac{1\pm\sqrt{5}}{2}", r"\boxed{\frac{1+\sqrt5}{2}}", False),
        Text("expression", "2:15", r"\boxed{2:15\text{ p.m.}}"),
        Text("expression", r"\binom{8}{3}", r"\boxed{{8 \choose 3}}"),
        Text("expression", "3+4i", "The final answer is $4i+3.$"),
        Text("expression", "(1,2,3)", r"\boxed{\langle 1,2,3 \rangle}"),
    ],
    "thinking before the answer": [
        Text("number", "7", "<think>\nIs it \\boxed{5}? 2 + 3 = 5, but no.\n</think>\nThere are 7 left."),
        Text("number", "5", "<think>\nIs it \\boxed{5}? 2 + 3 = 5, but no.\n</think>\nThere are 7 left.", False),
        Text("number", "7", "<think>\nMaybe the answer is 5. Wait, 2 + 5 = 7.\n</think>\n\nTom has 7 pens."),
        Text("choice", "B", "<think>\nThe answer is A? No.\n</think>\n\n(B)"),
        Text("number", "7", "Maybe the answer is 5. Wait.\n</think>\n\nTom has 7 pens."),
        Text("number", "7", "<thinking>The answer is 5.</thinking>It is 7."),
        Text("number", "7", "<reasoning>\nSo \\boxed{5}.\n</reasoning>\nSo 7."),
        Text("number", "7", "◁think▷The answer is 5.◁/think▷ It is 7."),
        Text("number", "7", "[THINK]The answer is 5.[/THINK]It is 7."),
        Text("number", "7", "<|channel|>analysis<|message|>\\boxed{5}?<|end|><|channel|>final<|message|>7<|return|>"),
        Text("number", "7", "analysisThe answer is 5? No.assistantfinalIt is 7."),
        Text("number", "7", "<think>a</think>The answer is 5. <think>\\boxed{5} is wrong</think>The answer is 7."),
        Text("number", "7", "The answer is 7.\n<think>\nOr is the answer 5?"),
        Text("number", "5", "<think>\nMaybe the answer is 5. Wait, 2 +", False),
        Text("number", "5", "<think>\nIs it \\boxed{5}? No, there", False),
        Text("number", "7", "<think>\n2 + 5 = 7, so \\boxed{7}"),
        Text("number", "7", "<think>2 + 5</think>\n<answer>7</answer>"),
        Text("number", "7", "<answer> The answer is \\boxed{7} apples </answer>"),
        Text("expression", "x+1", "<think>x+2</think> <answer>$x+1$</answer>"),
        Text("number", "7", "The answer is 7.<|im_end|>\nThe answer is 9."),
    ],
    "phrases that announce nothing": [
        Text("number", "42", "6 times 7 makes 42.\n#### 42\nI checked it twice, and the answer is correct."),
        Text("number", "42", "The answer is 42. So the final answer is in dollars."),
        Text("number", "42", "The answer is as follows:\n42"),
        Text("number", "42", "The final answer is shown below:\n\n42 apples"),
        Text("number", "42", "#### 42\nThe answer is right in all 3 cases."),
        Text("number", "42", "The answer is 42. If the answer is 5, we made a mistake."),
        Text("number", "42", "The answer is 42. The answer is rounded to 2 decimal places."),
        Text("number", "42", "So \\boxed{42}. The answer is clear."),
        Text("choice", "B", "The correct option is (B).\nSo the answer is clear."),
        Text("expression", "x^2", "The answer is $x^2$. The answer is consistent with the graph."),
        Text("expression", "x^2", "Is the answer 5? No. The answer is x^2."),
    ],
    "reasons behind the answer": [
        Text("number", "72", "The answer is 72, because 48 + 24 = 72."),
        Text("number", "24", "The answer is 72, because 48 + 24 = 72.", False),
        Text("number", "18", "Answer: 18 dollars for 9 eggs"),
        Text("number", "5", "The answer is 5 apples and not 6."),
        Text("number", "5", "The answer is 5, not 6."),
        Text("number", "6", "The answer is not 5 but 6."),
        Text("number", "5", "The answer is 5 (since 2 + 3 = 5)."),
        Text("number", "5", "The answer is 5 — because 2 + 3 = 5."),
        Text("number", "5", "The answer is 5; the rest is 4."),
        Text("number", "4", "The answer is 4 or 5.", False),
        Text("expression", "7", "The answer is $7$ because 3+4 = 7."),
        Text("expression", "x+1", "the answer is $x+1$ for all $x$."),
        Text("expression", "x+1", "The answer is $x+1$, where $x > 0$."),
        Text("choice", "B", "The answer is (B) because (A) is wrong."),
    ],
    "equations before the answer": [
        Text("number", "72", "The answer is 48 + 24 = 72."),
        Text("number", "48", "The answer is 48 + 24 = 72.", False),
        Text("number", "14", "So the answer is 30 - 16 = 14."),
        Text("number", "230", "The total distance is 80 + 150 = 230 miles. The answer is 80 + 150 = 230 miles."),
        Text("number", "10", "The answer is 20% of 50 = 10."),
        Text("number", "60", "\\boxed{58+2}"),
        Text("number", "61", "\\boxed{58+2}", False),
        Text("number", "5", "\\boxed{a_1 = 5}"),
        Text("number", "1", "\\boxed{a_1 = 5}", False),
        Text("number", "6", "\\boxed{x = 5, y = 6}", False),
        Text("number", "7", "\\boxed{f(2, 3) = 7}"),
        Text("expression", "5", "The answer is $x = 5$."),
    ],
    "abbreviations": [
        Text("number", "42", "The answer is approx. 42 metres."),
        Text("number", "500", "The answer is U.S. $500."),
        Text("number", "500", "The answer is Rs. 500."),
        Text("number", "500", "Answer: Rs.500 in all"),
        Text("number", "5", "The answer is no. 5 in the list."),
        Text("number", "42", "The answer is ca. 42 kg. It took 3 steps."),
        Text("expression", "Dr. Lee", "The answer is Dr. Lee. She won 3 times."),
    ],
    "boxes that only mention the form": [
        Text("number", "42", "6 x 7 = 42, so \\boxed{42}. The answer is given inside \\boxed{} as you asked."),
        Text("number", "42", "So \\boxed{42}. (I was told to write \\boxed{your answer}.)"),
        Text("number", "42", "So \\boxed{42}. (I was told to write \\boxed{...}.)"),
        Text("number", "42", "I will use \\boxed{answer}.\nThe answer is 42."),
        Text("number", "42", "That is 42: \\boxed{}", False),
        Text("choice", "A", "$\\boxed{A}$, written as \\boxed{letter}."),
    ],
    "other boxes": [
        Text("number", "5", "Hence the value is $\\boxed 5$, reached in 3 steps."),
        Text("number", "42", "Hence the value is $\\boxed {42}$, reached in 3 steps."),
        Text("number", "42", "Hence $\\fbox{42}$ in 3 steps."),
        Text("number", "42", "So boxed{42} in 3 steps."),
        Text("expression", "1/2", "So $\\boxed\\frac12$ in 3 steps."),
        Text("expression", "-256", "$a = -\\boxed{256}$, so the final answer is $-256$."),
        Text("expression", "256", "$a = -\\boxed{256}$", False),
        Text("expression", "5", "$x - \\boxed{5}$"),
        Text("number", "0.25", "So $\\boxed{25}\\%$."),
    ],
    "several boxes in one sentence": [
        Text("expression", "3,5", "So $x=\\boxed{3}$ or $x=\\boxed{5}$."),
        Text("expression", "5", "So $x=\\boxed{3}$ or $x=\\boxed{5}$.", False),
        Text("expression", "(3,5)", "We get $x=\\boxed{3}$, $y=\\boxed{5}$."),
        Text("expression", "(5,3)", "We get $x=\\boxed{3}$, $y=\\boxed{5}$.", False),
        Text("expression", "-2,1", "$\\boxed{-2}$ and $\\boxed{1}$"),
        Text("expression", "1,2,3", "$\\boxed{1}$, $\\boxed{2}$, and $\\boxed{3}$."),
        Text("expression", "5", "$\\boxed{3}$ is the first step. Then we get $\\boxed{5}$."),
        Text("expression", "5", "$\\boxed{3}$, no, $\\boxed{5}$."),
        Text("number", "42", "So \\boxed{42} and \\boxed{42}."),
    ],
    "values that are close or that rounding makes equal": [
        Text("expression", "\\frac{1}{2^{99}}", "\\boxed{\\frac{1}{2^{98}}}", False),
        Text("expression", "\\frac{1}{2^{99}}", "\\boxed{2^{-99}}"),
        Text("expression", "\\frac{1}{10^{20}}", "\\boxed{\\frac{1}{10^{30}}}", False),
        Text("expression", "2^{-60}", "\\boxed{3^{-60}}", False),
        Text("expression", "\\binom{100}{50}^{-1}", "\\boxed{\\binom{100}{49}^{-1}}", False),
        Text("expression", "\\frac{1}{\\binom{100}{50}}", "\\boxed{\\binom{100}{50}^{-1}}"),
        Text("expression", "\\frac{1}{30!}", "\\boxed{\\frac{1}{31!}}", False),
        Text("expression", "\\frac{x}{10^{20}}", "\\boxed{\\frac{x}{10^{30}}}", False),
        Text("expression", "(1, 2^{-60})", "\\boxed{(1, 3^{-60})}", False),
        Text("expression", "e^{-50}", "\\boxed{e^{-60}}", False),
        Text("expression", "10^{-20}\\sqrt{2}", "\\boxed{10^{-20}\\sqrt{3}}", False),
        Text("expression", "\\sqrt{2}", "\\boxed{1.41421356}", False),
    ],
    "times, sequences, numerals, sets": [
        Text("expression", "10:30", "\\boxed{21:63}", False),
        Text("expression", "12:00", "\\boxed{1:00}", False),
        Text("expression", "9:05", "\\boxed{09:05}"),
        Text("expression", "3:30 p.m.", "\\boxed{15:30}"),
        Text("expression", "3:4", "\\boxed{6:8}"),
        Text("expression", "1:2:3", "\\boxed{2:4:6}"),
        Text("expression", "2, 4, \\ldots, 2n", "\\boxed{2, 6, \\ldots, 2n}", False),
        Text("expression", "2, 4, \\ldots, 2n", "\\boxed{2,4,\\dots,2n}"),
        Text("expression", "2, 4, \\ldots, 2n", "\\boxed{2, 4, 2n}", False),
        Text("expression", "52_8", "\\boxed{52_9}", False),
        Text("expression", "52_8", "\\boxed{52_{8}}"),
        Text("expression", "52_8", "\\boxed{52_{\\text{eight}}}"),
        Text("expression", "(6,31,-1)", "\\boxed{\\{6,31,-1\\}}", False),
        Text("expression", "(6,31,-1)", "\\boxed{(6, 31, -1)}"),
        Text("expression", "(x,x+1)", "\\boxed{\\{x,x+1\\}}", False),
    ],
    "dashes, signs and digits of other keyboards": [
        Text("number", "-7", "\\boxed{–7}"),
        Text("number", "7", "\\boxed{–7}", False),
        Text("expression", "-7", "\\boxed{－7}"),
        Text("number", "42", "\\boxed{４２}"),
        Text("number", "-3", "\\boxed{x = - 3}"),
        Text("number", "-5", "At night it is - 5 degrees"),
        Text("number", "5", "At night it is - 5 degrees", False),
        Text("number", "-5", "The temperature is −5 °C."),
        Text("number", "14", "30 - 16 leaves 14"),
        Text("number", "5", "We take 30 - 5"),
        Text("number", "5", "He needs:\n- 5 apples"),
        Text("number", "12", "From $5-$12"),
        Text("number", "-12", "The balance is -$12."),
        Text("number", "-5", "The answer is minus five."),
    ],
    "other ways to write a number": [
        Text("number", "10000", "\\boxed{10 000}"),
        Text("number", "10000", "The answer is 10 000 dollars."),
        Text("number", "9500", "The answer is 9 500."),
        Text("number", "9500", "So it makes 9\u202f500 kg"),
        Text("number", "10000", "\\boxed{10'000}"),
        Text("number", "1000000", "\\boxed{1.000.000}"),
        Text("number", "100000", "\\boxed{1,00,000}"),
        Text("number", "2000000", "\\boxed{2 million}"),
        Text("number", "2", "\\boxed{2 \\text{ million}}", False),
        Text("number", "2500000", "It costs $2.5 million"),
        Text("number", "1500", "The answer is $1.5k."),
        Text("number", "25", "\\boxed{5²}"),
        Text("number", "5", "\\boxed{5²}", False),
        Text("expression", "\\frac{1}{2}", "\\boxed{½}"),
        Text("number", "2.5", "\\boxed{2½}"),
        Text("number", "2.5", "She needs 2½ cups"),
        Text("number", "2.5", "The answer is 2 1/2 cups."),
        Text("expression", "x^2+1", "\\boxed{x²+1}"),
        Text("number", "12", "The answer is twelve."),
        Text("number", "125", "\\boxed{\\text{one hundred and twenty-five}}"),
        Text("number", "12", "\\boxed{twelve or thirteen}", False),
        Text("number", "1200", "The answer is $1,200.00."),
        Text("number", "0.25", "So the chance is 25%."),
    ],
    "Minerva's form and labels": [
        Text("expression", "x+1", "Final Answer: The final answer is $x+1$. I hope it is correct."),
        Text("expression", "x+1", "**Final Answer:** The answer is $x+1$."),
        Text("expression", "\\frac{1}{2}", "Final Answer:\nThe final answer is $\\frac{1}{2}$. I hope it is correct."),
        Text("expression", "x+1", "Final Answer: The final answer is $x+2$. I hope it is correct.", False),
        Text("expression", "\\$18.90", "Final Answer: The final answer is $\\$18.90$. I hope it is correct."),
        Text("expression", "x+1", "### Answer\n\n$x+1$"),
        Text("expression", "x+1", "## Final Answer:\n$$x+1$$"),
        Text("number", "42", "**Answer**\n42 apples in 3 boxes"),
        Text("number", "42", "Answer: Tom has 6 boxes of 7.\nThat makes 42."),
        Text("number", "42", "Therefore, the answer to the question is 42."),
        Text("number", "42", "最终答案是42。"),
    ],
    "units": [
        Text("number", "20", "\\boxed{20^{\\circ}}"),
        Text("number", "20", "\\boxed{20\\text{ cm}^2}"),
        Text("number", "20", "\\boxed{20 cm²}"),
        Text("number", "20", "\\boxed{20\\ \\mathrm{m\\cdot s^{-1}}}"),
        Text("number", "20", "\\boxed{\\approx 20}"),
        Text("number", "64", "\\boxed{64x}", False),
        Text("number", "64", "\\boxed{64 m}"),
        Text("number", "64", "\\boxed{64m}"),
        Text("expression", "64", "\\boxed{64y}", False),
        Text("number", "64", "\\boxed{64n}", False),
        Text("number", "8", "\\boxed{8 pi}", False),
        Text("expression", "20", "\\boxed{20\\text{ m/s}^2}"),
    ],
    "formulas at the end of a text": [
        Text("number", "20", "Therefore we get $\\frac{40}{2}$."),
        Text("number", "2", "Therefore we get $\\frac{40}{2}$.", False),
        Text("number", "16", "So the area is $4^2$."),
        Text("number", "5", "So $x = 5$ pens remain."),
        Text("expression", "-2 + 7i", "The final answer is $-2 + 7i.$"),
        Text("expression", "8\\pi", "The final answer is $8 pi$."),
        Text("expression", "\\pi", "\\boxed{\\frac{355}{113}}", False),
        Text("expression", "3.14", "\\boxed{\\pi \\approx 3.14}"),
    ],
    "choices": [
        Text("choice", "B", "(B)"),
        Text("choice", "B", "option B"),
        Text("choice", "B", "**B**"),
        Text("choice", "B", "**(B) the law**"),
        Text("choice", "B", "\\boxed{\\text{B}}"),
        Text("choice", "B", "\\boxed{\\text{(B) the law}}"),
        Text("choice", "B", "B) vitamin D"),
        Text("choice", "A", "A. the first law"),
        Text("choice", "B", "The correct choice is B, while C is too small."),
        Text("choice", "C", "The answer is not A but C."),
        Text("choice", "B", "Answer: B\n\nExplanation: (A) is too small."),
        Text("choice", "A", "The answer is (B) because (A) is wrong.", False),
    ],
}  # fmt: skip

CASES = [(kind, case) for kind, cases in KINDS.items() for case in cases]


@pytest.mark.parametrize(
    "case", [case for _, case in CASES], ids=[f"{kind}: {case.text[-40:]}" for kind, case in CASES]
)
def test_the_answer_that_a_person_reads_is_judged(case: Text) -> None:
    assert (judge(case.text, case.gold, case.kind).verdict == "correct") is case.right


RULES: dict[str, tuple[Rule, ...]] = {
    "number": NUMBER,
    "expression": EXPRESSION,
    "text": TEXT,
    "literal": LITERAL,
    "choice": CHOICE,
}


@pytest.mark.parametrize(
    "rule",
    {rule.name: rule for rules in (MARKED, *RULES.values()) for rule in rules}.values(),
    ids=lambda rule: rule.name,
)
def test_each_rule_finds_the_answer_of_its_example(rule: Rule) -> None:
    text, answer = rule.example
    assert rule.find(text, lambda found: True) == answer
    assert rule.reason


@pytest.mark.parametrize("kind", RULES)
def test_each_rule_decides_its_example_in_its_table(kind: str) -> None:
    # No rule above it finds another answer, so its place in the order is right.
    rules = RULES[kind] if kind == "choice" else (*MARKED, *RULES[kind])
    holds = {"number": extraction._holds_number, "choice": extraction._holds_letter}.get(kind, lambda found: True)
    for rule in RULES[kind]:
        text, answer = rule.example
        if holds(answer):
            assert extraction._first(rules, text, holds) == answer


@pytest.mark.parametrize("way", COMPARISONS, ids=lambda way: way.name)
def test_each_comparison_decides_its_example(way: Comparison) -> None:
    answer, gold, equal = way.example
    assert way.decide(answer, gold) is equal
    assert comparison.equal_expressions(answer, gold) is equal
    assert way.reason

"""The judge with the rules of the Qwen2.5-Math toolkit, quirks included.

The verdicts of the tables are those of the toolkit itself, recorded from its code at commit a45202b with SymPy 1.12,
ANTLR 4.11.1 and word2number 1.1, with gold answers as its `evaluate.py` reads them. MATH-500 is its data set `math`.
The toolkit knows only correct and not correct; the tables say `no_answer` where nothing was found.
"""

import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lightreasoner.grading.qwen_toolkit import equal, judge
from lightreasoner.grading.qwen_toolkit_text import strip_string
from lightreasoner.grading.verdicts import Judgement

# (why, text, gold, benchmark, verdict of the toolkit)
EXTRACTION = [
    # rule 1: multiple choice
    ("a letter in brackets", "The answer is (C).", "C", "mmlu_stem", "correct"),
    ("another letter", "The answer is (B).", "C", "mmlu_stem", "wrong"),
    ("the other trigger", "So the correct choice is D", "D", "mmlu_stem", "correct"),
    ("after a trigger the first letter counts", "The answer is B, not C", "B", "mmlu_stem", "correct"),
    ("without one the last letter counts", "A is too small, so B", "B", "mmlu_stem", "correct"),
    ("what stands before the trigger does not count", "A or D? The answer is C", "C", "mmlu_stem", "correct"),
    ("a letter in a box", r"\boxed{C}", "C", "mmlu_stem", "correct"),
    ("quirk: a phrase twice means that only the first block counts",
     "The answer is (A).\n\nQuestion: …\nThe answer is (B).", "A", "mmlu_stem", "correct"),
    ("with the phrase once all blocks count", "Not A.\n\nThe answer is (B).", "B", "mmlu_stem", "correct"),
    ("quirk: the article is choice A", "it is a monopoly", "A", "mmlu_stem", "correct"),
    ("a letter inside a word is none", "BAD CAB", "A", "mmlu_stem", "no_answer"),
    ("there are only five choices", "The answer is (F).", "C", "mmlu_stem", "no_answer"),
    ("quirk: a number does not stand for its choice", r"\boxed{42}", "C", "mmlu_stem", "no_answer"),
    # rule 2: the Minerva prompts
    ("the hopeful form", "final answer is $5$. I hope it is correct.", "5", "math", "correct"),
    ("it comes before a box", r"final answer is $5$. I hope it is. \boxed{7}", "5", "math", "correct"),
    ("without the hope it is a sentence", "The final answer is $5$", "5", "math", "correct"),
    # rule 3: boxes
    ("a box", r"so \boxed{42}.", "42", "gsm8k", "correct"),
    ("the last box counts", r"\boxed{1}, no: \boxed{42}", "42", "gsm8k", "correct"),
    ("braces are balanced", r"\boxed{\frac{1}{\sqrt{2}}} and more", r"\frac{1}{\sqrt{2}}", "math", "correct"),
    ("a box without braces ends at the dollar sign", r"$\boxed 42$ and 43", "42", "math", "correct"),
    ("an unclosed box runs to the end", r"so \boxed{42", "42", "gsm8k", "correct"),
    ("quirk: … and takes the rest along", "so \\boxed{42\nand 7 more", "42", "gsm8k", "wrong"),
    ("quirk: the word alone starts a box", "42 is the boxed answer", "42", "gsm8k", "wrong"),
    ("an empty box is no answer", r"it is 42: \boxed{}", "42", "gsm8k", "no_answer"),
    # rules 4 to 6: phrases
    ("a sentence", "Hence the answer is 42.", "42", "gsm8k", "correct"),
    ("a colon after it", "The answer is: 42", "42", "gsm8k", "correct"),
    ("the last sentence counts", "The answer is 7. No, the answer is 42", "42", "gsm8k", "correct"),
    ("quirk: it runs to the end of the text", "The answer is 42.\nI checked it.", "42", "gsm8k", "wrong"),
    ("a final answer", "My final answer is 42", "42", "gsm8k", "correct"),
    ("Chinese", "所以答案是 42", "42", "gsm8k", "correct"),
    ("quirk: … where the first phrase counts", "答案是5, 不, 答案是6", "6", "gsm8k", "wrong"),
    ("a hope before the answer", "$. I hope so: final answer is $5", "5", "math", "correct"),
    ("a stop token ends the text", "The answer is 5<|im_end|>7", "5", "math500", "correct"),
    # rule 7: the last number
    ("the last number", "7 * 6 = 42", "42", "gsm8k", "correct"),
    ("commas are dropped first", "that makes 1,080 in all", "1080", "gsm8k", "correct"),
    ("a negative number", "so x is -3", "-3", "math", "correct"),
    ("a decimal", "about 3.25 cups", "3.25", "gsm8k", "correct"),
    ("quirk: a range reads as a negative number", "from 3-5", "-5", "gsm8k", "correct"),
    ("a word is no answer", "I do not know", "42", "gsm8k", "no_answer"),
    ("silence is no answer", "", "42", "gsm8k", "no_answer"),
    # afterwards
    ("lines are joined", "\\boxed{4\n   2}", "42", "gsm8k", "correct"),
    ("a full stop goes", r"\boxed{42.}", "42", "gsm8k", "correct"),
    ("a slash goes", r"\boxed{42/}", "42", "gsm8k", "correct"),
    ("gold is a letter, the answer is none: all the text is searched", r"Choice C: \boxed{42}", "C", "math", "correct"),
    ("gold is a letter and so is the answer", r"Not C. \boxed{B}", "C", "math", "wrong"),
]  # fmt: skip

NORMAL_FORMS = [
    ("newlines", "\\boxed{x\n+1}", "x+1", "math", "correct"),
    (r"\!", r"\boxed{10,\!080}", "10080", "math", "correct"),
    (r"\left and \right", r"\boxed{\left(1,2\right)}", "(1,2)", "math", "correct"),
    (r"quirk: \left goes from an arrow too", r"\boxed{\leftarrow}", r"arrow", "math", "correct"),
    ("degrees", r"\boxed{90^\circ}", "90", "math", "correct"),
    ("degrees in braces", r"\boxed{18.8^{\circ}}", "18.8", "math", "correct"),
    ("quirk: a degree sign stays", r"\boxed{90°}", "90", "math", "wrong"),
    ("… on both sides", r"\boxed{90°}", "90°", "math", "correct"),
    ("degrees and a letter", r"\boxed{7 ^\circ C}", "7", "minerva_math", "wrong"),
    ("dollars", r"\boxed{\$18.50}", "18.5", "gsm8k", "correct"),
    ("maths delimiters", r"\boxed{\(42\)}", "42", "gsm8k", "correct"),
    ("percent signs", r"\boxed{62.5\%}", "62.5", "gsm8k", "correct"),
    ("a bold answer", r"\boxed{\mathbf{42}}", "42", "gsm8k", "correct"),
    ("quirk: two answers joined by 'and' are one", r"\boxed{1 and 2}", "12", "math", "correct"),
    (r"\mbox goes with what is in it", r"\boxed{42\mbox{ cm}}", "42", "math", "correct"),
    ("quirk: … and leaves the power of a unit", r"\boxed{864}", r"864 \mbox{ inches}^2", "math", "wrong"),
    ("display fractions", r"\boxed{\dfrac{x}{2}}", r"\frac{x}{2}", "math", "correct"),
    ("text fractions", r"\boxed{\tfrac{x}{2}}", r"\frac{x}{2}", "math", "correct"),
    ("bmatrix", r"\boxed{\begin{bmatrix}1\\2\end{bmatrix}}", r"\begin{pmatrix} 1\\2 \end{pmatrix}", "math", "correct"),
    ("array", r"\boxed{\begin{array}{c}1\\2\end{array}}", r"\begin{pmatrix} 1\\2 \end{pmatrix}", "math", "correct"),
    ("a trailing unit in text", r"\boxed{5\text{ bananas}}", "5", "gsm8k", "correct"),
    ("text that is the answer stays", r"\boxed{Evelyn}", r"\text{Evelyn}", "math", "correct"),
    ("text that is another answer", r"\boxed{\text{odd}}", r"\text{even}", "math", "wrong"),
    ("a unit word", r"\boxed{5 cm}", "5", "gsm8k", "correct"),
    ("its plural", r"\boxed{5 hours}", "5", "gsm8k", "correct"),
    ("several unit words", r"\boxed{5 square feet per day}", "5", "gsm8k", "correct"),
    ("a unit must be a word of its own", r"\boxed{5cm}", "5", "gsm8k", "wrong"),
    ("quirk: a letter of its own is a unit", r"\boxed{5 m}", "5", "math", "correct"),
    ("quirk: … in a formula too", r"\boxed{(a+5)(b+2)}", "(c+5)(b+2)", "math", "correct"),
    ("quirk: … and in an exponent", r"\boxed{\exp(-t)}", "e^{-t}", "math", "wrong"),
    ("… which minerva_math keeps", r"\boxed{3t+1}", "1+3t", "minerva_math", "correct"),
    ("in minerva_math letters are quantities", r"\boxed{5 m}", "5", "minerva_math", "wrong"),
    ("… and the gold answer keeps them", r"\boxed{m}", "m", "minerva_math", "correct"),
    ("a unit alone is the answer", r"\boxed{feet}", "feet", "math", "correct"),
    ("quirk: a command is a unit", r"\boxed{\min(x,y)}", "(x,y)", "math", "correct"),
    ("a number in words", r"\boxed{seven}", "7", "gsm8k", "correct"),
    ("a large one", r"\boxed{two thousand three hundred and forty-five}", "2345", "gsm8k", "correct"),
    ("quirk: two numbers in words are added", r"\boxed{six seven}", "13", "gsm8k", "correct"),
    ("quirk: … whatever stands between them", r"\boxed{one of seven}", "8", "asdiv", "correct"),
    ("quirk: other words go", r"\boxed{seven pens}", "7", "asdiv", "correct"),
    ("words with a hyphen", r"\boxed{twenty-five}", "25", "asdiv", "correct"),
    ("a decimal point in words", r"\boxed{two point five}", "2.5", "asdiv", "correct"),
    ("a scale word alone", r"\boxed{thousand}", "1000", "math500", "correct"),
    ("quirk: the last thousands count twice", r"\boxed{one million two thousand}", "1002000", "asdiv", "wrong"),
    ("quirk: … in full", r"\boxed{one million two thousand}", "1003002", "asdiv", "correct"),
    ("a fraction in words is none", r"\boxed{half}", "0.5", "asdiv", "wrong"),
    ("zeros in front", r"\boxed{007}", "7", "asdiv", "correct"),
    ("x=", r"\boxed{x = 5}", "5", "math", "correct"),
    ("k= in the gold answer", r"\boxed{n+1}", "k=n+1", "olympiadbench", "correct"),
    (r"x\in", r"\boxed{[-2,7]}", r"x \in [-2,7]", "olympiadbench", "correct"),
    (r"quirk: x\in stays in a gold answer of MATH", r"\boxed{x \in [-2,7]}", r"x \in [-2,7]", "math", "wrong"),
    ("a longer left side stays", r"\boxed{2x}", "f(x)=2x", "math", "wrong"),
    ("any two characters before the equals sign", r"\boxed{t = 5}", "5", "math500", "correct"),
    ("… in front of a formula", r"\boxed{h=2x}", "2x", "math500", "correct"),
    ("… with a unit word among them", r"\boxed{ab=5}", "5", "math500", "correct"),
    ("nothing before the equals sign", r"\boxed{=5}", "5", "math500", "correct"),
    ("a Greek letter is longer", r"\boxed{\theta=5}", "5", "math500", "wrong"),
    ("two equals signs stay", r"\boxed{a=b=5}", "5", "math500", "wrong"),
    ("quirk: an inequality is a definition", r"\boxed{x<=5}", "5", "math", "correct"),
    ("quirk: x= goes from a word too", r"\boxed{max=5}", "5", "math500", "wrong"),
    ("braces with a backslash", r"\boxed{\{5\}}", "5", "math500", "correct"),
    ("a set for a pair", r"\boxed{\{1,2\}}", "(1,2)", "math500", "correct"),
    ("large braces", r"\boxed{\left\{1, 2\right\}}", r"\{1,2\}", "math500", "correct"),
    ("a full stop inside the dollars: answers are normalised twice", "The final answer is $-2 + 7i.$", "-2 + 7i",
     "math500", "correct"),
    ("the time of day", "The answer is 3:30 p.m.", "3:30 p.m.", "asdiv", "correct"),
    ("quirk: … in a box", r"\boxed{4:30 \text{ p.m.}}", r"\text{4:30 p.m.}", "math500", "wrong"),
    ("half of the day in text", r"\boxed{4:30 \text{ p.m.}}", "4:30", "math500", "correct"),
    ("infinity", r"\boxed{infinity}", r"\infty", "math500", "correct"),
    ("all real numbers", r"\boxed{(-\infty, \infty)}", r"\mathbb{R}", "math500", "correct"),
    ("the empty set", r"\boxed{\emptyset}", "{}", "math500", "correct"),
    (r"\leq", r"\boxed{x \leq 3}", r"x \le 3", "math500", "correct"),
    ("a root over an integer", r"\boxed{\sqrt{3}/2}", r"\frac{\sqrt{3}}{2}", "math500", "correct"),
    ("3.000", r"\boxed{x+3.000}", "x+3", "math", "correct"),
    (".5", r"\boxed{(.5)}", "0.5", "math", "correct"),
    ("quirk: .5 in a sum ends the formula", r"\boxed{x+.5}", "x+0.5", "math", "wrong"),
    ("quirk: j is i", r"\boxed{3+2j}", "3+2i", "math", "correct"),
    (r"\frac12", r"\boxed{\frac12}", r"\frac{1}{2}", "math", "correct"),
    (r"\frac1{72}", r"\boxed{\frac1{72}}", r"\frac{1}{72}", "math", "correct"),
    (r"\frac{\sqrt{3}}2", r"\boxed{\frac{\sqrt{3}}2}", r"\frac{\sqrt3}{2}", "math", "correct"),
    (r"\sqrt3", r"\boxed{2\sqrt3}", r"2\sqrt{3}", "math", "correct"),
    ("a/b", r"\boxed{3/7}", r"\frac{3}{7}", "math", "correct"),
]  # fmt: skip

EQUALITY = [
    ("case does not count", r"\boxed{purple}", "Purple", "asdiv", "correct"),
    ("a choice with its text", r"\boxed{C) 42}", "C", "math", "correct"),
    ("the tolerance of numbers is relative", r"\boxed{10000.9}", "10000", "gsm8k", "correct"),
    ("outside the tolerance", r"\boxed{10002}", "10000", "gsm8k", "wrong"),
    ("small numbers have a small tolerance", r"\boxed{1.1e-9}", "1e-9", "minerva_math", "wrong"),
    ("quirk: a hundred times too much is a percentage", r"\boxed{500}", "5", "gsm8k", "correct"),
    ("quirk: a hundred times too little as well", r"\boxed{0.05}", "5", "gsm8k", "correct"),
    ("ten times too much is not", r"\boxed{50}", "5", "gsm8k", "wrong"),
    ("zero is only zero", r"\boxed{0.0001}", "0", "gsm8k", "wrong"),
    ("quirk: commas do not separate numbers", r"\boxed{7,4}", "74", "olympiadbench", "correct"),
    ("quirk: an order of two numbers counts", r"\boxed{4,7}", "7,4", "olympiadbench", "wrong"),
    ("the unit of a gold answer of ASDiv", "The answer is 9.", "9 (apples)", "asdiv", "correct"),
    ("quirk: … as all brackets there", "The answer is -(1/3).", "-(1/3)", "asdiv", "wrong"),
    ("the form of SVAMP", r"\boxed{145}", "145.0", "svamp", "correct"),
    ("quirk: kinds of brackets do not count", r"\boxed{[3,4)}", "(3,4]", "math", "correct"),
    ("tuples by element", r"\boxed{(1/2, 2)}", "(0.5,2)", "math", "correct"),
    ("an element that differs", r"\boxed{(1/2, 3)}", "(0.5,2)", "math", "wrong"),
    ("an infinite element", r"\boxed{(2,4)}", r"(2,\infty)", "math", "wrong"),
    ("tuples of different length", r"\boxed{(1,2,3)}", "(1,2)", "math", "wrong"),
    ("tuples in tuples", r"\boxed{((1/2,1),3)}", "((0.5,1),3)", "math", "correct"),
    ("quirk: the percentages of elements", r"\boxed{(x,200)}", "(x,2)", "math", "correct"),
    ("matrices by element", r"\boxed{\begin{pmatrix}0.5&1\end{pmatrix}}", r"\begin{pmatrix}1/2&1\end{pmatrix}", "math",
     "correct"),
    ("the shape of a matrix", r"\boxed{\begin{pmatrix}1&2\end{pmatrix}}", r"\begin{pmatrix}1\\2\end{pmatrix}", "math",
     "wrong"),
    ("equations, sides moved", r"\boxed{5u-7v+11w=-4}", "5u - 7v + 11w + 4 = 0", "math", "correct"),
    ("quirk: … without the z=", r"\boxed{5x-7y+11z=-4}", "5x - 7y + 11z + 4 = 0", "math", "wrong"),
    ("an inequality turned", r"\boxed{u<3}", "3>u", "math500", "correct"),
    ("equations, sign turned", r"\boxed{-5x+7y-11z-4=0}", "5x - 7y + 11z + 4 = 0", "math", "correct"),
    ("quirk: equations, multiplied", r"\boxed{10x-14y+22z+8=0}", "5x - 7y + 11z + 4 = 0", "math", "wrong"),
    ("quirk: an equation that lost its y= is none", r"\boxed{2x-y+3=0}", "y=2x+3", "math", "wrong"),
    ("x= inside a tuple", r"\boxed{(x=1,y=2)}", "(1,2)", "math", "correct"),
    ("another order of terms", r"\boxed{9i+6}", "6+9i", "math", "correct"),
    ("an expanded product", r"\boxed{(x+1)x}", "x^2+x", "math", "correct"),
    ("quirk: x(…) is a function", r"\boxed{x(x+1)}", "x^2+x", "math", "wrong"),
    ("a fraction not reduced", r"\boxed{\frac{4}{8}}", r"\frac12", "math", "correct"),
    ("a decimal for a fraction", r"\boxed{0.5}", r"\frac12", "math", "correct"),
    ("a decimal for a root", r"\boxed{1.41421}", r"\sqrt{2}", "math", "correct"),
    ("quirk: a formula has no percentages", r"\boxed{50}", r"\frac12", "math", "wrong"),
    ("quirk: a mixed number is a product", r"\boxed{0.8}", r"1\frac{4}{5}", "math", "correct"),
    ("quirk: … and not itself", r"\boxed{1.8}", r"1\frac{4}{5}", "math", "wrong"),
    ("quirk: e is a letter in a formula", r"\boxed{\exp(-t)}", "e^{-t}", "minerva_math", "wrong"),
    ("quirk: … and in a number", r"\boxed{4.5\times10^{33}}", "4.5e33", "minerva_math", "wrong"),
    ("quirk: plain notation is a product of letters", r"\boxed{sqrt(3)/2}", r"\frac{\sqrt{3}}{2}", "math", "wrong"),
    ("quirk: plain powers end the formula", r"\boxed{2**(1/2)}", r"\sqrt{2}", "math", "wrong"),
    ("quirk: plain pi", r"\boxed{2pi}", r"2\pi", "math", "wrong"),
    (r"quirk: \pi has no value", r"\boxed{6.2832}", r"2\pi", "math", "wrong"),
    (r"quirk: \mathrm is a factor", r"\boxed{\mathrm{5}}", "5", "math", "wrong"),
    (r"quirk: \displaystyle is a factor", r"\boxed{\displaystyle\frac{2}{4}}", r"\frac12", "math", "wrong"),
    ("quirk: united intervals are no formula", r"\boxed{[3,5)\cup(-\infty,0]}", r"(-\infty,0]\cup[3,5)", "math",
     "wrong"),
    ("quirk: a formula ends at a comma", r"\boxed{1,-2}", "1,-3", "math500", "correct"),
    ("sets in another order", r"\boxed{\{2,1\}}", r"\{1,2\}", "math500", "correct"),
    ("quirk: … with a command they are lists", r"\boxed{\{\frac12,3\}}", r"\{3,\frac12\}", "math500", "wrong"),
    ("pairs in another order", r"\boxed{(2,1)}", "(1,2)", "math500", "wrong"),
    ("an interval for a set", r"\boxed{[1,2]}", r"\{1,2\}", "math500", "correct"),
    ("a matrix is no pair", r"\boxed{\begin{pmatrix}1\\2\end{pmatrix}}", "(1,2)", "math500", "wrong"),
    ("quirk: anagrams are one product of letters", r"\boxed{names}", "manes", "math500", "correct"),
    ("two choices", r"\boxed{A and B}", "AB", "math500", "correct"),
    ("two other choices", r"\boxed{A and C}", "AB", "math500", "wrong"),
    ("quirk: nothing equals an empty gold answer", r"\boxed{\text{North}}", r"\text{east}", "math500", "correct"),
    ("quirk: … nor does silence differ", "I do not know", r"\text{east}", "math500", "correct"),
    ("quirk: … but a capital A to E does", r"\boxed{\text{Evelyn}}", r"\text{east}", "math500", "wrong"),
    ("quirk: Python's digits with underscores", r"\boxed{4_2}", "42", "asdiv", "correct"),
    ("quirk: other scripts' digits", r"\boxed{٤٢}", "42", "asdiv", "correct"),
    ("a number in Python's notation", r"\boxed{1e2}", "100", "asdiv", "correct"),
    ("quirk: all numbers beyond a float are equal", rf"\boxed{{{'9' * 400}}}", "8" * 400, "math500", "correct"),
    ("names are not products of letters", r"\boxed{Leon}", "Noel", "asdiv", "wrong"),
    ("another base is another number", r"\boxed{52}", "52_8", "math", "wrong"),
    ("divided by zero", r"\boxed{\frac{1}{0}}", "1", "math", "wrong"),
]  # fmt: skip

# What stands behind 50, and whether the toolkit drops it. Its list of units has men but not people.
UNITS = [
    *((unit, "correct") for unit in (
        "days", "apples", "lbs", "men", "g", "months", "percent", "miles per hour", "km/h", "m/s", "degrees",
        "square feet", "years", "kg", "litres", "inches", "rs", "cc", "ohms", "a . m", "gallons", "women",
    )),
    *((unit, "wrong") for unit in (
        "dollars", "students", "kilometers", "oranges", "cents", "pounds", "people", "eggs", "grams", "weeks",
        "pieces", "cm^2", "euros", "volts", "children", "books", "tons", "kilograms", "times", "points", "boxes",
    )),
]  # fmt: skip

CASES = EXTRACTION + NORMAL_FORMS + EQUALITY
CASES += [(f"50 {unit}", f"The answer is 50 {unit}.", "50", "asdiv", verdict) for unit, verdict in UNITS]


@pytest.mark.parametrize(("why", "text", "gold", "benchmark", "verdict"), CASES, ids=[case[0] for case in CASES])
def test_each_rule_gives_its_verdict(why, text, gold, benchmark, verdict):
    judgement = judge(text, gold, benchmark)
    assert judgement.verdict == verdict, (why, judgement)


def test_a_judgement_holds_the_extracted_answer_and_its_normal_form():
    assert judge(r"\boxed{\dfrac12\text{ cm}}", "5") == Judgement(r"\dfrac12\text{ cm}", r"\frac{1}{2}", "wrong")
    assert judge("nothing", "5") == Judgement(None, None, "no_answer")


@pytest.mark.parametrize("no_number", ["nan", "inf", "0x2a", "42e"])
def test_what_python_reads_as_no_finite_number_is_not_accepted(no_number):
    assert judge(rf"\boxed{{{no_number}}}", "42").verdict == "wrong"


@pytest.mark.parametrize("benchmark", ["math", "minerva_math", "asdiv"])
def test_a_percent_sign_is_dropped_and_the_percentage_accepted(benchmark):
    for answer in (r"50\%", "50%", "50", "0.5"):
        assert judge(rf"\boxed{{{answer}}}", r"50\%", benchmark).verdict == "correct"


SIZE = 100_000
HOSTILE = {
    "empty": "",
    "a lone surrogate": "\\boxed{\ud800}",
    "NUL": "\\boxed{\0 1}",
    "digits": "9" * SIZE,
    "digits in a box": rf"\boxed{{{'9' * SIZE}}}",
    "unclosed boxes": r"\boxed{" * (SIZE // 7),
    "unclosed braces": r"\boxed{" + "{" * SIZE,
    "closing braces": r"\boxed{" + "}" * SIZE,
    "deep brackets": rf"\boxed{{{'(' * 900}1{')' * 900}}}",
    "brackets that take the converter minutes": rf"\boxed{{{'{' * 20}1{'}' * 20}}}",
    "deep roots": r"\boxed{" + r"\sqrt{" * 300 + "2" + "}" * 301,
    "spaces": rf"\boxed{{x{' ' * SIZE}y}}",
    "newlines": "\n" * SIZE,
    "full stops": rf"\boxed{{1{'.0' * SIZE}1}}",
    "minus signs": "-" * SIZE,
    "hopes": "final answer is $" * (SIZE // 16),
    "answers": "he answer is " * (SIZE // 13),
    "choices": "A " * SIZE,
    "units": rf"\boxed{{{'m ' * SIZE}}}",
    "number words": rf"\boxed{{{'one ' * SIZE}}}",
    "texts": r"\boxed{" + r"\text{ " * (SIZE // 7),
    "fractions": r"\boxed{" + r"\frac{{a}" * (SIZE // 9),
    "equals signs": rf"\boxed{{{'=' * SIZE}}}",
    "a bracket that never closes": r"\boxed{sqrt(" + "^(" * 9 + "}",
    "a tower of powers": r"\boxed{9^9^9^9}",
    "a tower in braces": r"\boxed{9^{9^{9}}}",
    "a tower in Python": r"\boxed{9**9**9**9}",
    "the power of a factorial": r"\boxed{99^99!}",
    "a large exponent": r"\boxed{9^{999999999}}",
    "an exponent in scientific notation": r"\boxed{1e999999999}",
    "factorials": r"\boxed{9!!!!}",
    "a large factorial": r"\boxed{999999999!}",
    "a program": r"\boxed{\operatorname{zeros}(99999,99999)}",
    "other scripts": "\\boxed{१२३ ½ ∞ 🦀}",
}


@pytest.mark.parametrize(("gold", "benchmark"), [(r"\frac{1}{2}", "math"), ("C", "mmlu_stem"), ("(1,2)", None)])
@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE.keys())
def test_hostile_texts_get_a_verdict(text, gold, benchmark):
    assert judge(text, gold, benchmark).verdict in ("wrong", "no_answer", "correct" if gold == "C" else "wrong")


INJECTIONS = [
    "__import__('os').system('touch {canary}')",
    "exec(\"open('{canary}','w')\")",
    "open('{canary}','w').close()",
    "().__class__.__bases__[0].__subclasses__()",
    "x.__init__.__globals__",
    "sqrt.__globals__['os'].system('touch {canary}')",
    "x.args",
    "(lambda:open('{canary}','w'))()",
    "[open('{canary}','w') for x in (1,)]",
    r"\text{{__import__('os').system('touch {canary}')}}",
    r"\mathrm{{open('{canary}','w')}}",
    r"x_{{__import__('os').system('touch {canary}')}}",
    r"\operatorname{{eval}}(open('{canary}','w'))",
    r"1\;=\;__import__('os').system('touch {canary}')",
    "(1,__import__('os').system('touch {canary}'))",
]


@pytest.mark.parametrize("injection", INJECTIONS)
@pytest.mark.parametrize("gold", [r"\frac{1}{2}", "x=2y+1", "(1,2)", "5"])
def test_python_in_an_answer_does_not_run(injection, gold, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    canary = Path("canary")
    text = rf"\boxed{{{injection.format(canary=canary)}}}"
    assert judge(text, gold).verdict == "wrong"
    assert not equal(injection.format(canary=canary), gold), "without the normal form too"
    assert not canary.exists()


def test_only_the_numerals_of_an_answer_reach_eval():
    """SymPy converts numbers with Python's eval; a later version of it must not pass it more.

    In a process of its own: SymPy evaluates strings of its own when other tests make it import further modules.
    """
    program = r"""
import re
import sympy.parsing.sympy_parser as parser
from lightreasoner.grading.qwen_toolkit import equal, judge
from sympy.core.random import seed
from tests.grading.test_qwen_toolkit import INJECTIONS

# It compares at random points, and what it evaluates of its own depends on them.
seed(0)
# SymPy imports modules late, and evaluates its own strings then.
judge(r"\boxed{x_{1}(3x+\text{abc}+\sqrt{0.7})}", "3y")

parse, evaluated = parser.parse_expr, []

def recorded(text, *_, **rest):
    evaluated.append(text)
    return parse(text, **rest)

parser.parse_expr = recorded
assert judge(r"\boxed{x_{1}(2x+\text{abc}+\sqrt{0.5})}", "2y").verdict == "wrong"
assert judge(r"\boxed{\frac{\sqrt{12}}{4}}", r"\frac{\sqrt{3}}{2}").verdict == "correct"
for injection in INJECTIONS:
    assert not equal(injection.format(canary="canary"), r"\frac{1}{2}")
assert evaluated
assert all(re.fullmatch(r"\d+(\.\d+)?", text) for text in evaluated), evaluated
"""
    root = Path(__file__).parents[2]
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60, cwd=root)


def test_numbers_words_and_choices_need_no_computer_algebra():
    program = """
import sys
from lightreasoner.grading.qwen_toolkit import judge
assert judge(r"\\boxed{145}", "145.0").verdict == "correct"
assert judge(r"\\boxed{146}", "145.0").verdict == "wrong"
assert judge(r"\\boxed{Leon}", "Noel").verdict == "wrong"
assert judge("The answer is (B).", "C", "mmlu_stem").verdict == "wrong"
assert "sympy" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)


@given(st.text(max_size=60), st.sampled_from(["math", "minerva_math", "mmlu_stem", None]))
def test_any_text_gets_a_verdict(text, benchmark):
    judgement = judge(text, "42", benchmark)
    assert (judgement.verdict == "no_answer") == (judgement.extracted is None) == (judgement.canonical is None)


@settings(deadline=None, derandomize=True)  # a random formula could take minutes
@given(st.text(r"0123456789abcxi+-*/^_(){}[]=,.\!& ", max_size=20))
def test_any_formula_gets_a_verdict(text):
    assert judge(rf"\boxed{{{text}}}", r"\frac{x}{2}", "math").verdict in ("correct", "wrong", "no_answer")


@given(st.integers() | st.decimals(allow_nan=False, allow_infinity=False, places=3))
def test_a_number_is_correct_in_a_box_and_in_a_sentence(number):
    gold = str(number)
    assert judge(rf"So \boxed{{{gold}}}.", gold).verdict == "correct"
    assert judge(f"The answer is {gold}.", gold).verdict == "correct"


@given(st.integers(-(10**6), 10**6), st.integers(-(10**6), 10**6))
def test_numbers_are_equal_within_the_tolerance_of_three_targets(answer, gold):
    said = judge(rf"\boxed{{{answer}}}", str(gold)).verdict == "correct"
    distances = [
        abs(answer - target) / max(abs(answer), abs(target), 1e-9) for target in (gold, gold / 100, gold * 100)
    ]
    if all(abs(distance - 1e-4) > 1e-9 for distance in distances):
        assert said == (min(distances) < 1e-4)


@given(st.text(r"0123456789.,$% ", min_size=1, max_size=12))
def test_a_normal_form_has_no_spaces_dollar_or_percent_signs(text):
    assert not set(strip_string(text)) & set(" $%")


@given(st.integers(-999, 999), st.integers(1, 999))
def test_normalising_a_fraction_twice_changes_nothing(numerator, denominator):
    once = strip_string(f"{numerator}/{denominator} cm")
    assert once == strip_string(once)

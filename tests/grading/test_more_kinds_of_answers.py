"""Forms of answers that need more than one rule, each with a wrong answer in the same form beside it.

`test_kinds_of_answers.py` holds the forms of the rules themselves.
"""

import re
import time

import pytest

from lightreasoner.grading.endings import without_ending
from lightreasoner.grading.extraction import extract_choice
from lightreasoner.grading.forms import NAMES, common_form
from lightreasoner.grading.mathematical import judge
from lightreasoner.grading.numbers import parse_number
from lightreasoner.grading.retractions import after_retraction
from lightreasoner.grading.verdicts import AnswerKind

# For each kind: the kind of answer, the text, and what it is right and wrong for.
Row = tuple[AnswerKind, str, tuple[str, ...], tuple[str, ...]]
KINDS: dict[str, list[Row]] = {
    "answers that are taken back": [
        ("number", "The answer is 14. Wait, no, it is 15.", ("15",), ("14",)),
        ("number", "The answer is 14. Wait, that's wrong: 3 + 12 = 15.\nSo it should be 15.", ("15",), ("14", "3")),
        ("number", "The answer is 14.\n\nActually, I made a mistake. The total is 15.", ("15",), ("14",)),
        ("number", "So \\boxed{14}. Oh wait, I forgot to add 1. The correct answer is 15.", ("15",), ("14", "1")),
        ("number", "The answer is 14, no wait, 15.", ("15",), ("14",)),
        ("number", "The answer is 14 -- sorry, 15.", ("15",), ("14",)),
        ("choice", "The answer is A. Wait, no, it's B.", ("B",), ("A",)),
        ("text", "The answer is Paris. No, wait, it is Lyon.", ("Lyon",), ("Paris",)),
        ("text", "The answer is Paris. Sorry for the confusion.", ("Paris",), ()),
        ("expression", "The answer is Evelyn. Sorry for confusion.", ("\\text{Evelyn}",), ()),
        ("expression", "The answer is $x+1$. I made a mistake. It is $x+2$.", ("x+2",), ("x+1",)),
        ("number", "The answer is 14.\n\nLet me double-check: 7 + 7 = 14. Yes.", ("14",), ("7",)),
        ("number", "The answer is 14. I hope I made no mistake in 3 steps.", ("14",), ("3",)),
        ("number", "Sorry, I cannot draw. The answer is 14. That took 3 steps.", ("14",), ("3",)),
        ("number", "\\boxed{14}\n\nWait, that's wrong.", ("14",), ()),  # nothing better is said
        ("choice", "Answer: B\n\nA) is one. This is incorrect.\nC) is a law. That's wrong, so not C.", ("B",), ("C",)),
    ],
    "answers of others": [
        ("number", "It is tempting to say the answer is 41. However, it is 42.", ("42",), ("41",)),
        ("number", "Some may think the answer is 41, but it's 42.", ("42",), ("41",)),
        ("number", "One might say the answer is 41, but actually it is 42.", ("42",), ("41",)),
        ("number", "The wrong answer is 41. The right one is 42.", ("42",), ("41",)),
        ("number", "I would say the answer is 42. That took 3 steps.", ("42",), ("3",)),
        ("number", "We could say that the answer is 42, in 3 steps.", ("42",), ("3",)),
    ],
    "denials and checks behind an answer that is not marked": [
        ("number", "She needs 6, not 5.", ("6",), ("5",)),
        ("number", "He has 6 apples rather than 5.", ("6",), ("5",)),
        ("number", "He has 6 apples instead of 5.", ("6",), ("5",)),
        ("number", "It is not 5 but 6.", ("6",), ("5",)),
        ("number", "In 2 years instead of 5, he pays 150 more.", ("150",), ("2",)),
        ("number", "We get 42. Check: 42 / 7 = 6, which matches 6.", ("42",), ("6",)),
        ("number", "We check: 40 + 1 = 41, so she has 41 left.", ("41",), ("40",)),
        ("number", "We got 42. Let's check: 42 + 1 is 43, so it is 43 pens.", ("43",), ("42",)),
    ],
    "numbers that count steps": [
        ("number", "Step 1: 6*7 = 42\nStep 2: Done.", ("42",), ("2",)),
        ("number", "So, 42.\n\n1. Check\n2. Done", ("42",), ("2",)),
        ("number", "Thus 42 apples is the answer to question 1.", ("42",), ("1",)),
        ("number", "It makes\n42. That is all.", ("42",), ()),
        ("number", "She needs 12 2-liter bottles.", ("12",), ("2",)),
        ("number", "\\boxed{12 \\text{ 5-dollar bills}}", ("12",), ("5",)),
        ("number", "It is a 5-mile walk.", ("5",), ()),
    ],
    "calculations in words before their result": [
        ("number", "The answer is 6 times 7, which is 42.", ("42",), ("6", "7")),
        ("number", "The answer is the sum of 41 and 1, which is 42.", ("42",), ("41", "1")),
        ("number", "The answer is found by adding 41 and 1, giving 42.", ("42",), ("41",)),
        ("number", "The answer is 42, which is 41 plus 1.", ("42",), ("1", "41")),
        ("number", "The answer is 42 (= 6 × 7).", ("42",), ("7",)),
        ("number", "The answer in dollars is 42, i.e. 4200 cents.", ("42",), ()),
        ("number", "The answer is 2.5, rounded up to 3.", ("3",), ("2.5",)),
        ("number", "The answer is 2.5, which rounds to 3.", ("3",), ("2.5",)),
        ("number", "The answer is 3.14, rounded to 2 decimal places.", ("3.14",), ("2",)),
        ("number", "\\boxed{\\text{Tom has }42\\text{ apples in }3\\text{ boxes}}", ("42",), ("3",)),
        ("number", "\\boxed{12 apples and 3 oranges}", (), ("12", "3", "15")),
    ],
    "markup around an answer": [
        ("number", "The answer is <b>42</b>.", ("42",), ("4",)),
        ("number", "<p>The answer is&nbsp;42.</p>", ("42",), ()),
        ("number", "The answer is [42].", ("42",), ()),
        ("number", "Answer → 42 in 3 steps", ("42",), ("3",)),
        ("number", '{"answer": "42", "steps": 3}', ("42",), ("3",)),
        ("choice", '{"answer": "C", "not": "A"}', ("C",), ("A",)),
        ("expression", "\\boxed{\\color{red}{5}}", ("5",), ("6",)),
        ("expression", "\\boxed{\\underline{5}}", ("5",), ()),
        ("expression", "\\boxed{\\nicefrac{1}{2}}", ("\\frac12",), ("\\frac13", "12")),
        ("expression", "\\boxed{\\begin{aligned}5\\end{aligned}}", ("5",), ()),
        ("expression", "\\boxed{\\text{(A) }14}", ("14",), ("15",)),
        ("expression", "\\begin{align*}\n2x &= 1 \\\\\nx &= \\frac{1}{2}\n\\end{align*}", ("\\frac12",), ("1", "2")),
    ],
    "choices": [
        ("choice", "(B) is correct; (A), (C) and (D) are wrong.", ("B",), ("A", "C", "D")),
        ("choice", "(B) is correct, whereas (C) is not.", ("B",), ("C",)),
        ("choice", "**B** is right. **C** is wrong.", ("B",), ("C",)),
        ("choice", "The answer is neither A nor C, it is B.", ("B",), ("A", "C")),
        ("choice", "The answer is 'B'.", ("B",), ()),
        ("choice", "A is the correct answer.", ("A",), ()),
        ("choice", "A is a vitamin.", (), ("A",)),
        ("choice", "b) the mitochondria", ("B",), ("A",)),
        ("choice", "(b)", ("B",), ()),
        ("choice", "a monopoly", (), ("A",)),
        ("choice", "The answer is both A and B.", (), ("A", "B")),
        ("choice", "The answer is A or B.", (), ("A", "B")),
        ("choice", "The answer is A and not B.", ("A",), ("B",)),
        ("choice", "The answer is B, C is wrong.", ("B",), ("C",)),
    ],
    "numbers in words": [
        ("number", "The answer is one third.", ("1/3",), ("1", "3")),
        ("number", "two-thirds", ("2/3",), ("2", "3")),
        ("number", "The answer is 3 tenths.", ("0.3",), ("3", "10")),
        ("number", "3 halves", ("1.5",), ("3",)),
        ("number", "The answer is two and a half hours.", ("2.5",), ("2",)),
        ("number", "2 and a quarter", ("2.25",), ("2",)),
        ("number", "The answer is 2 and 1/2.", ("2.5",), ("2", "0.5")),
        ("number", "2 ½", ("2.5",), ("0.5", "2")),
        ("number", "one and a half thousand", (), ("1.5",)),
        ("number", "fifteen hundred", ("1500",), ("15", "100")),
        ("number", "twenty percent", ("20", "0.2"), ("2",)),
        ("number", "There are 5 third graders", ("5",), ("5/3",)),
    ],
    "numbers of other countries": [
        ("number", "\\boxed{1.234,5}", ("1234.5",), ("1.2345", "12345")),
        ("number", "1 234 567,89", ("1234567.89",), ("89",)),
        ("number", "Die Antwort lautet 12,5.", ("12.5",), ("125", "12", "5")),
        ("number", "La respuesta es 3,5 litros.", ("3.5",), ("35", "5")),
        ("number", "1.200,00 €", ("1200",), ("1.2", "0")),
        ("number", "\\boxed{1,234}", ("1234",), ("1.234",)),
        ("number", "\\boxed{1,2,3}", (), ("1.23", "3", "123")),
        ("expression", "\\boxed{3,5}", ("3,5",), ("3.5",)),
        ("number", "\\boxed{٣٥}", ("35",), ("36",)),
    ],
    "units, ordinals and times": [
        ("number", "\\boxed{21^{\\text{st}}}", ("21",), ("22",)),
        ("number", "\\boxed{12 \\frac{\\text{km}}{\\text{h}}}", ("12",), ()),
        ("number", "\\boxed{12\\ \\frac{m}{s^2}}", ("12",), ("2",)),
        ("number", "\\boxed{12\\ \\Omega}", ("12",), ()),
        ("number", "The answer is 50 cents.", ("50", "0.5"), ("5",)),
        ("number", "\\boxed{50¢}", ("50", "0.5"), ("5000",)),
        ("number", "It costs \\$3M", ("3000000",), ("3",)),
        ("number", "The answer is 5:00 PM.", ("5",), ("500", "0")),
        ("number", "The answer is 5:30 PM.", (), ("5", "30")),
        ("expression", "\\boxed{5:00 \\text{ p.m.}}", ("5 p.m.",), ("5 a.m.", "6 p.m.")),
        ("expression", "\\boxed{noon}", ("12:00 p.m.",), ("12:00 a.m.",)),
    ],
    "recurring decimals": [
        ("expression", "\\boxed{0.333...}", ("\\frac13",), ("0.333", "0.3")),
        ("expression", "\\boxed{0.1(6)}", ("\\frac16",), ("0.16",)),
        ("expression", "\\boxed{0.(3)}", ("\\frac13",), ("3",)),
    ],
    "bounds are no values": [
        ("expression", "\\boxed{> 7}", (), ("7",)),
        ("expression", "\\boxed{\\neq 7}", (), ("7",)),
        ("number", "\\boxed{\\ge 7}", (), ("7",)),
        ("number", "The answer is more than 7.", (), ("7",)),
        ("number", "The answer is 7 more than Tom has.", ("7",), ()),
        ("expression", "\\boxed{7\\text{ squared}}", (), ("7",)),
        ("number", "√1764", (), ("1764",)),
    ],
    "names of values": [
        ("expression", "\\boxed{\\text{DNE}}", ("\\text{does not exist}",), ("0",)),
        ("expression", "\\boxed{\\text{no solutions}}", ("\\text{no solution}", "\\emptyset"), ("\\text{undefined}",)),
        ("expression", "\\boxed{\\text{infinitely many solutions}}", ("\\text{infinitely many}", "\\infty"), ()),
        ("expression", "\\boxed{\\varnothing}", ("\\emptyset",), ()),
        ("expression", "\\boxed{\\text{all real numbers}}", ("(-\\infty,\\infty)", "\\mathbb{R}"), ("0",)),
        ("expression", "\\boxed{\\text{Bob, Alice}}", (), ("\\text{Alice, Bob}",)),
        ("expression", "\\boxed{\\text{Bob, Alice and Carl}}", ("\\text{Bob, Alice, Carl}",), ("\\text{Bob, Alice}",)),
        ("expression", "\\boxed{\\text{Alice and Bob}}", ("\\text{Bob and Alice}",), ("\\text{Alice}",)),
    ],
    "intervals, vectors, systems and cases": [
        ("expression", "\\boxed{x<2 \\text{ or } x>3}", ("(-\\infty,2)\\cup (3,\\infty)",), ()),
        ("expression", "\\boxed{]0,1[}", ("(0,1)",), ("5",)),
        ("expression", "\\boxed{[0,1[}", ("[0,1)",), ()),
        ("expression", "\\boxed{\\{x : 0 < x \\le 1\\}}", ("(0,1]",), ()),
        ("expression", "\\boxed{\\begin{pmatrix}1\\\\2\\end{pmatrix}}", ("(1,2)",), ("(2,1)", "1", "12")),
        ("expression", "\\boxed{C(5,2)}", ("10",), ("7",)),
        ("expression", "\\boxed{P(1,2)}", ("(1,2)",), ("(2,1)",)),
        ("expression", "\\boxed{\\begin{cases}x=1\\\\y=2\\end{cases}}", ("x=1,y=2",), ("5",)),
        ("expression", "\\boxed{\\{1,2,2\\}}", ("\\{1,2\\}",), ("\\{1,3\\}", "(1,2)")),
        ("expression", "\\boxed{(1,2)}", ("(1,2)",), ("\\{1,2\\}",)),
        ("expression", "\\boxed{f(x)=2x}", (), ("f'(x)=2x", "g(x)=2x")),
    ],
    "formulas in prose": [
        ("expression", "The solution is (1, 2).", ("(1,2)",), ("2", "(2,1)")),
        ("expression", "So x = 1 or x = 2.", ("x=1 or x=2",), ("2",)),
        ("expression", "The solutions are 1 and 2.", ("1,2", "2,1"), ("1,3",)),
        ("expression", "The roots are $1$ and $2$.", ("1,2",), ("1,3",)),
        ("expression", "The domain is [0, 1].", ("[0,1]",), ("1",)),
        ("expression", "The polynomial is x + 1.", ("x+1",), ("1",)),
        ("expression", "The area is 2π square units.", ("2\\pi",), ("2",)),
        ("expression", "The circumference is 2π cm, approximately 6.28 cm.", ("2\\pi",), ("6.28",)),
        ("expression", "Hence $f(x)=x+1$ for all real $x$.", ("f(x)=x+1",), ("x",)),
        ("expression", "He has 8 apples (5 + 3 = 8).", ("8",), ("5", "3")),
        ("expression", "If $n = 3$, $5$ remain.", ("5",), ("3",)),
        ("expression", "It costs 50 p.", ("50",), ("5",)),
        ("expression", "He has 3 + 4 = 7 apples.", ("7",), ("3", "4")),
        ("expression", "So he has 14 + 5 =", (), ("19",)),  # cut off
        ("expression", "He pays $5 and then $12.", ("12",), ("5",)),
        ("expression", "The function is **even**.", ("\\text{even}",), ("\\text{odd}",)),
        ("expression", "Evelyn", ("\\text{Evelyn}",), ("\\text{Navin}",)),
        ("expression", "So yes, they can.", ("Yes",), ("No",)),
        ("expression", "Yes, because 5 > 3.", ("Yes",), ("No", "3")),
        ("expression", "No, she needs 3 more.", ("No",), ("Yes", "3")),
        ("expression", "He has enough: 5 > 3, so yes.", ("Yes",), ("No", "3")),
        ("expression", "Answer: Yes (5 > 3)", ("Yes",), ("No",)),
    ],
    "thin spaces and separators of thousands behind an equals sign": [
        ("number", "So $\\boxed{x=10{,}000}$.", ("10000",), ("10", "0")),
        ("number", "So $\\boxed{\\text{Total} = \\$70{,}000}$.", ("70000",), ("70",)),
        ("number", "So $\\boxed{120{,}000-50{,}000 = 70{,}000}$.", ("70000",), ("50000",)),
        ("number", "So $\\boxed{x = 8\\,\\text{apples}}$.", ("8",), ("9",)),
        ("number", "The answer is $x = 5\\,\\text{cm}$.", ("5",), ("6",)),
        ("expression", "So $\\boxed{R=8.7\\times10^{8}\\,\\text{cm}}$.", ("8.7e8",), ("8.7",)),
        ("expression", "So $\\boxed{x=1, 2}$.", ("1,2",), ("2",)),
    ],
    "separators of thousands in a formula or between words": [
        ("expression", "So $\\boxed{20{,}000\\pi}$.", ("20000\\pi",), ("20\\pi",)),
        ("expression", "So $\\boxed{20,000\\pi}$.", ("20000\\pi",), ("20\\pi",)),
        ("expression", "So $\\boxed{2,500 \\text{ and } 7,500}$.", ("2500,7500",), ("2500,7501",)),
        ("expression", "So $\\boxed{1{,}001_2}$.", ("1001_2",), ("1001_3",)),
        ("expression", "So $\\boxed{300,1,200}$.", ("1,200,300",), ("1,200,301",)),
        ("expression", "So $\\boxed{(1,100)}$.", ("(1,100)",), ("(100,1)",)),
    ],
    "a choice with its value, where the letter is asked for": [
        ("expression", "So $\\boxed{\\textbf{(B)}\\ 5}$.", ("\\text{(B)}",), ("\\text{(C)}",)),
        ("expression", "So $\\boxed{(B) 5}$.", ("\\text{(B)}",), ("\\text{(A)}",)),
        ("expression", "So $\\boxed{\\text{(B)}\\ \\text{ellipse}}$.", ("\\text{(B)}",), ("\\text{(D)}",)),
        ("expression", "So $\\boxed{\\text{Option B}}$.", ("\\text{(B)}",), ("\\text{(A)}",)),
        ("expression", "So $\\boxed{(A) 14}$.", ("14",), ("15",)),
        ("choice", "C\n\nExplanation: A is wrong because of D.", ("C",), ("A", "D")),
        ("choice", "C\nBecause option B is too small and D is too large.", ("C",), ("B", "D")),
        ("choice", "A\nB\nC\nSo it is (B).", ("B",), ("A", "C")),
    ],
    "a question of the model's own behind its answer": [
        ("number", "The answer is 5.\n\nQuestion: What is 2+2?\nAnswer: 4", ("5",), ("4",)),
        ("number", "\\boxed{5}\n\nProblem 2: What is 2+2?\nIt is 4.", ("5",), ("4",)),
        ("number", "Let me restate it.\n\nQuestion: What is 2+2?\n\nThe answer is 4", ("4",), ("2",)),
    ],
    "columns": [
        (
            "expression",
            "So $\\boxed{\\begin{pmatrix} -2 \\\\[4pt] 14 \\\\[4pt] 7 \\end{pmatrix}}$.",
            ("\\begin{pmatrix} -2 \\\\ 14 \\\\ 7 \\end{pmatrix}",),
            ("\\begin{pmatrix} -2 \\\\ 14 \\\\ -7 \\end{pmatrix}",),
        ),
        (
            "expression",
            "So $\\boxed{\\left(\\begin{array}{r} -2 \\\\ 14 \\end{array}\\right)}$.",
            ("\\begin{pmatrix} -2 \\\\ 14 \\end{pmatrix}", "(-2, 14)"),
            ("\\begin{pmatrix} 14 \\\\ -2 \\end{pmatrix}",),
        ),
        (
            "expression",
            "So $\\boxed{\\langle -2, 14 \\rangle}$.",
            ("\\begin{pmatrix} -2 \\\\ 14 \\end{pmatrix}",),
            ("\\begin{pmatrix} 14 \\\\ -2 \\end{pmatrix}",),
        ),
        ("expression", "So $\\boxed{(-2,14)^T}$.", ("\\begin{pmatrix} -2 \\\\ 14 \\end{pmatrix}",), ("(14,-2)",)),
    ],
    "indices with and without braces": [
        ("expression", "So $\\boxed{X_d=125-1.25P}$.", ("X_{d}=125-1.25 P",), ("X_{s}=125-1.25 P",)),
        ("expression", "So $\\boxed{x_1=5}$.", ("x_{1}=5",), ("x_{2}=5",)),
    ],
    "values by name": [
        ("expression", "So $\\boxed{x=2, y=3}$.", ("x=2,y=3", "y=3, x=2", "2, 3"), ("x=3,y=2", "m=2,n=3", "(3,2)")),
        ("expression", "So $\\boxed{x=3 \\text{ and } y=\\frac12}$.", ("x = 3, y = 0.5",), ("x=\\frac12, y=3",)),
        ("expression", "So $\\boxed{(3,2)}$.", ("x=3,y=2", "y=2,x=3"), ("x=2,y=3",)),
        ("expression", "So $\\boxed{x_1=2,x_2=3}$.", ("x_{1}=2, x_{2}=3",), ("x_{1}=3, x_{2}=2",)),
        ("expression", "So $\\boxed{x=1 \\text{ or } x=2}$.", ("x=2,x=1", "2, 1"), ("x=1,x=3",)),
        ("expression", "So $\\boxed{x=3 \\quad y=2}$.", ("x=3,y=2", "x = 3 \\text{ and } y = 2"), ("x=2,y=3",)),
        ("expression", "So $\\boxed{x=3, \\quad \\text{and} \\quad y=2}$.", ("x=3,y=2",), ("x=2,y=3",)),
        ("expression", "So $\\boxed{a=1, b=2, c=3}$.", ("c=3,b=2,a=1",), ("a=3,b=2,c=1", "a=1,b=2")),
    ],
    "plus or minus in a list or a tuple": [
        ("expression", "So $\\boxed{1, \\pm 2}$.", ("-2,1,2", "\\pm 2, 1"), ("1,2", "-1,1,2", "\\pm 1, 2")),
        ("expression", "So $\\boxed{\\pm 1, \\pm 2}$.", ("-2,-1,1,2",), ("-2,-1,1",)),
        ("expression", "So $\\boxed{(0, \\pm\\frac12)}$.", ("(0,0.5), (0,-0.5)",), ("(0,0.5)", "(0.5,0), (-0.5,0)")),
        ("expression", "So $\\boxed{\\{0, \\pm 2\\}}$.", ("\\{-2,0,2\\}", "0, 2, -2"), ("\\{0,2\\}",)),
        ("expression", "So $\\boxed{\\{-2,-1,1,2\\}}$.", ("\\{\\pm 1, \\pm 2\\}",), ("\\{\\pm 1, \\pm 3\\}",)),
        ("expression", "So $\\boxed{(1,2),(-1,2)}$.", ("(\\pm 1, 2)",), ("(1, \\pm 2)",)),
        ("expression", "So $\\boxed{x=2, x=-2}$.", ("x = \\pm 2", "\\pm 2"), ("x = \\pm 3",)),
    ],
    "functions of another letter": [
        ("expression", "So $\\boxed{f(n)=2n}$.", ("f(x)=2x",), ("f(x)=3x", "g(x)=2x")),
        ("expression", "So $\\boxed{f(n)=n^2+1}$.", ("f(x)=1+x^2",), ("f(x)=1+2x",)),
        ("expression", "So $\\boxed{f(n)=x}$.", ("f(y)=x",), ("f(x)=x",)),
    ],
}  # fmt: skip
CASES = [
    pytest.param(kind, text, gold, golds is right, id=f"{group}: {text[:40]} for {gold}")
    for group, rows in KINDS.items()
    for kind, text, right, wrong in rows
    for golds in (right, wrong)
    for gold in golds
]


@pytest.mark.parametrize(("kind", "text", "gold", "right"), CASES)
def test_the_answer_of_a_text_is_judged(kind: AnswerKind, text: str, gold: str, right: bool) -> None:
    assert (judge(text, gold, kind).verdict == "correct") is right


FORMULAS = [  # with math-verify, which is slow
    ("sin(x)", "\\sin x", "\\cos x"),
    ("x=y/2", "y=2x", "y=3x"),
    # A last factor is no unit.
    ("t^2+3t", "t(t+3)", "t^2+3"),
    ("3+4m", "4m+3", "5m+3"),
    ("\\frac{c}{\\sqrt2}", "\\frac{1}{\\sqrt{2}}c", "\\frac{2}{\\sqrt{2}}c"),
    ("\\sin 2t", "\\sin(2t)", "\\sin(3t)"),
    ("x+2t", "2t+x", "x+2"),
    # E with an index is a name.
    ("E_0, 2", "2, E_0", "2, E_1"),
    ("2E_0", "E_{0} \\cdot 2", "3E_0"),
    ("E_0+1", "1+E_0", "e+1"),
    # The imaginary unit.
    ("-2+2i\\sqrt{3}", "-2+2 \\sqrt{3} i", "-2-2 \\sqrt{3} i"),
    ("2(1+i)", "2+2i", "2-2i"),
    ("\\frac{4+3i}{5}", "\\frac45+\\frac35i", "\\frac35+\\frac45i"),
    ("(1+i)^2", "2i", "-2i"),
    ("2e^{i\\pi/3}", "1+\\sqrt3 i", "\\sqrt3+i"),
    ("∛2", "\\sqrt[3]{2}", "\\sqrt{2}"),
    ("x<2 \\text{ or } x \\ge 3", "(-\\infty,2)\\cup[3,\\infty)", "(-\\infty,2)\\cup(3,\\infty)"),
]


@pytest.mark.parametrize(("answer", "equal", "other"), FORMULAS)
def test_formulas_in_other_notation_are_compared(answer: str, equal: str, other: str) -> None:
    assert judge(f"\\boxed{{{answer}}}", equal, "expression").verdict == "correct"
    assert judge(f"\\boxed{{{answer}}}", other, "expression").verdict == "wrong"


@pytest.mark.parametrize("form", NAMES)
def test_each_name_of_a_value_has_its_form(form: str) -> None:
    for name in NAMES[form]:
        assert common_form(name if name.startswith("\\") else f"\\text{{{name.capitalize()}}}") == form


@pytest.mark.parametrize("text", ["The answer is 14.", "Wait, let me verify: 7 + 7 = 14.", "I waited. No one came."])
def test_a_text_that_takes_nothing_back_is_left_alone(text: str) -> None:
    assert after_retraction(text) is None


HOSTILE = [
    "wait, no" + "\n" * 20_000,
    "wait, no " * 5_000,
    "but " * 20_000 + "wait, no",
    "(A) " * 10_000 + "is",
    "**A** " * 5_000 + "are",
    "not (A) " * 5_000,
    "1 or " * 10_000,
    "A" + " " * 50_000,
    "Check: " * 8_000,
    "\\begin{align}" * 5_000,
    "\\color{" * 10_000,
    '"answer": "' * 5_000,
    "<b>" * 20_000 + "</b>",
    "the answer is 5 minus " * 3_000,
    "2. x\n" * 10_000,
]


@pytest.mark.parametrize("text", HOSTILE, ids=lambda text: f"{text[:12]!r} and so on")
def test_no_text_takes_long(text: str) -> None:
    started = time.process_time()
    for kind in ("number", "expression", "choice", "text"):
        judge(text, "Evelyn" if kind == "expression" else "C", kind)  # type: ignore[arg-type]
    assert time.process_time() - started < 4


def test_a_number_of_another_country_is_read_only_where_one_number_is_asked_for() -> None:
    assert parse_number("1,5") == 1.5
    assert parse_number("1,5,7") is None
    assert extract_choice("A, B") is None
    assert without_ending("no number, not 5", re.compile(r"\d")) == "no number, not 5"

"""The same answer in other notations and sentences, each with wrong answers in the same form beside it.

The golds are of MATH-500, OlympiadBench, Minerva, GSM8K and ASDiv; the notations those of current models.
"""

import pytest

from lightreasoner.grading.mathematical import judge
from lightreasoner.grading.verdicts import AnswerKind

# For each kind: the kind of answer, the text, and what it is right and wrong for. A text without a blank, or one that
# begins with a command, is what stands in a box.
Row = tuple[AnswerKind, str, tuple[str, ...], tuple[str, ...]]
E: AnswerKind = "expression"
N: AnswerKind = "number"
KINDS: dict[str, list[Row]] = {
    "sizes of brackets": [
        (
            E,
            r"[[\bigl(3,\tfrac{\pi}{2}\bigr)]]",
            (r"\left( 3, \frac{\pi}{2} \right)",),
            (r"\left(\frac{\pi}{2}, 3\right)",),
        ),
        (
            E,
            r"[[\tfrac{k}{2}\Bigl(4k^2+k-1\Bigr)]]",
            (r"k\left(4 k^{2}+k-1\right) / 2",),
            (r"k\left(4k^{2}+k+1\right)/2",),
        ),
        (E, r"[[\big[1,2\big)]]", ("[1,2)",), ("[1,2]",)),
        (E, r"[[\Biggl\{-2,1\Biggr\}]]", (r"\{-2,1\}",), (r"\{-2,2\}",)),
        (E, r"[[\lbrace -2,1-\sqrt5\rbrace]]", (r"\{1-\sqrt{5},-2\}",), (r"\{1+\sqrt{5},-2\}",)),
        (
            E,
            r"[[\biggl\lfloor \frac{n}{2} \biggr\rfloor]]",
            (r"\left\lfloor\frac{n}{2}\right\rfloor",),
            (r"\lfloor n\rfloor",),
        ),
    ],
    "lists with spacing and words": [
        (E, r"[[1 \, \text{and} \, 2]]", ("1,2",), ("1,3", "3", "2", r"1\frac{2}{1}")),
        (E, r"[[3 \, \text{and} \, 4]]", ("3,4", "4,3"), ("7", r"\frac{3}{4}", "12")),
        (E, r"[[-2 \, \text{and} \, 1]]", ("-2,1",), ("-3", "-1")),
        (
            E,
            r"[[(1,8,19),\ (2,7,13),\ \text{and}\ (4,5,7)]]",
            ("(1,8,19), (2,7,13), (4,5,7)",),
            ("(1,8,19), (2,7,13)",),
        ),
        (
            E,
            r"[[(1,8,19),\ (2,7,13),\ \text{and } (4,5,7)]]",
            ("(1,8,19), (2,7,13), (4,5,7)",),
            ("(8,1,19),(2,7,13),(4,5,7)",),
        ),
        (E, r"[[\left\{-2,\,1-\sqrt{5},\,1+\sqrt{5}\right\}]]", (r"\{1\pm\sqrt{5},-2\}",), (r"\{1\pm\sqrt{5},2\}",)),
        (E, r"[[-2,\,1\pm\sqrt5]]", (r"\{1\pm\sqrt{5},-2\}",), (r"\{1\pm\sqrt{5},2\}",)),
        (E, r"[[x=1 \, \text{or} \, x=2]]", ("1,2",), ("1", "2")),
        (E, r"[[1 \,\text{or}\, \sqrt{2}]]", (r"1,\sqrt{2}",), (r"\sqrt{2}", "1")),
        (E, r"[[x=-2\;\mathrm{or}\;x=1]]", ("-2,1",), ("-2,2",)),
        (E, r"[[-2\text{ And }1]]", ("-2,1",), ("-2,2",)),
        (E, r"[[-2\textrm{ and }1]]", ("-2,1",), ("-2,2",)),
        (E, r"[[-2\mbox{ and }1]]", ("-2,1",), ("-2,2",)),
        (E, r"[[-2\text{; }1]]", ("-2,1",), ("-2,2",)),
        (E, r"[[\text{3, 5, and 7}]]", ("3,5,7",), ("3,5", "15")),
        (E, r"[[\text{-2 and 1}]]", ("-2,1",), ("2,1",)),
        (E, r"[[3 \text{, } 5 \text{, and } 7]]", ("3,5,7",), ("3,5,8",)),
        (E, "[[3、5、7]]", ("3,5,7",), ("3,5,8",)),
        (E, r"[[-2 \text{ 或 } 1]]", ("-2,1",), ("-2,2",)),
        (E, r"[[3,5 \text{ 和 } 7]]", ("3,5,7",), ("3,5,8",)),
        (E, r"[[\sqrt2\quad\text{and}\quad\sqrt3]]", (r"\sqrt{2},\sqrt{3}",), (r"\sqrt{2}",)),
        (E, r"[[3, 5 \& 7]]", ("3,5,7",), ("3,5,8",)),
        (E, r"[[10\,000 \text{ and } 20\,000]]", ("10000,20000",), ("10,20",)),
        (
            E,
            r"[[\frac{\pi}{4}, \frac{3\pi}{4}]]",
            (r"\frac{3\pi}{4},\frac{\pi}{4}",),
            (r"\frac{3\pi}{4},\frac{\pi}{2}", r"\frac{\pi}{4}"),
        ),
        (E, r"[[x+1, x-1]]", ("x-1,x+1",), ("x+1", "x-1, x+2")),
        (E, r"[[(a+1,\, 2b)]]", ("(1+a,b+b)",), ("(2b,a+1)", "(a+1,2)")),
    ],
    "a full stop inside the box": [
        (E, r"\[\boxed{n^2+1.}\]", ("n^{2}+1",), ("n^2",)),
        (E, r"So \[ n^2+1. \]", ("n^{2}+1",), ("n^2",)),
        (E, r"[[k\ge2.]]", (r"k \geqslant 2",), (r"k \leqslant 2", "k>2")),
        (
            E,
            r"[[\begin{pmatrix}-2\\-14\\-7\end{pmatrix}.]]",
            (r"\begin{pmatrix} -2 \\ -14 \\ -7 \end{pmatrix}",),
            (r"\begin{pmatrix} -2 \\ -14 \\ 7 \end{pmatrix}",),
        ),
        (E, r"[[\text{Navin}.]]", (r"\text{Navin}",), (r"\text{Kevin}",)),
        (E, r"[[\text{Navin.}]]", (r"\text{Navin}",), ()),
        (E, r"[[2\sqrt{5},]]", (r"2\sqrt{5}",), (r"\sqrt{5}",)),
        (E, r"[[0.333...]]", (r"\frac{1}{3}",), ("0.333",)),
    ],
    "units behind a formula": [
        (E, r"[[12\pi~\text{cm}]]", (r"12\pi",), (r"12",)),
        (E, r"[[12\pi cm^2]]", (r"12\pi",), (r"12",)),
        (E, r"[[12\pi\ (\text{cm}^2)]]", (r"12\pi",), (r"24\pi",)),
        (E, r"[[3\sqrt{13}\operatorname{cm}]]", (r"3\sqrt{13}",), (r"3\sqrt{14}",)),
        (E, r"[[3\sqrt{13}\rm{cm}]]", (r"3\sqrt{13}",), ()),
        (E, r"[[12\pi\rm cm]]", (r"12\pi",), ()),
        (E, "Thus, the area is\n\\[\n12\\pi\n\\]\nsquare inches.", (r"12\pi",), ("12",)),
        (E, "So it is\n\n$$2\\sqrt{5}$$\n\nunits.", (r"2\sqrt{5}",), ("5", "2")),
        (E, r"[[18\text{ ft}\cdot\text{lb}]]", ("18",), ("8",)),
        (N, r"[[18\,M_\odot]]", ("18",), ("8",)),
        (E, r"[[18\ M_{\odot}]]", ("18",), ("8",)),
        (E, r"[[18\,L_\odot]]", ("18",), ()),
        (E, r"[[18\,\mathrm{u}]]", ("18",), ()),
        (E, r"[[18\ \mathrm{k\Omega}]]", ("18",), ()),
        (E, r"[[18^{\prime\prime}]]", ("18",), ()),
        (N, "The mass is 18 M_sun.", ("18",), ()),
        (E, r"[[2\mathrm{i}]]", ("2i",), ("2",)),
        (E, r"[[90\degree]]", (r"90^\circ", "90"), ("9",)),
        (E, r"[[90\textdegree]]", (r"90^\circ",), ()),
        (E, "[[90^o]]", (r"90^\circ",), ()),
        (E, r"[[90^{\text{o}}]]", (r"90^\circ",), ()),
    ],
    "a repetition that is cut off": [
        (N, r"So \boxed{1234}. So \boxed{12", ("1234",), ("12",)),
        (E, r"So $\boxed{\frac{3}{56}}$. So $\boxed{\frac{", (r"\frac{3}{56}",), ()),
        (N, "The answer is 1234.\nThe answer is 1234.\nThe answer is 12", ("1234",), ("12",)),
        (N, "#### 1234\n#### 12", ("1234",), ("12",)),
        (N, "Final Answer: 1234\nFinal Answer: 12", ("1234",), ("12",)),
        (N, "The answer is 1234? No: the sum is wrong. So the answer is 12", ("12",), ("1234",)),
        (N, r"So the answer is \boxed{12", ("12",), ()),
        (E, "First \\boxed{3}. Then $\\boxed{\\frac{1}{2}$\nis the answer.", (r"\frac{1}{2}",), ("3",)),
    ],
    "times and ratios in prose": [
        (E, "It ends at 11:45 PM.", ("11:45 p.m.",), ("11:45 a.m.", "45")),
        (E, "**11:45 PM**", ("11:45 p.m.",), ("11:45 a.m.",)),
        (E, "It ends at **11:45 p.m.**", ("11:45 p.m.",), ("10:45 p.m.",)),
        (E, "The answer is 18 p.m.", ("18",), ("8",)),
        (E, "3:30 PM", ("3:30 p.m.",), ("3:30 a.m.",)),
        (E, "The ratio is **10:3**.", ("10:3",), ("3", "3:10")),
        (E, "The ratio is 10 : 3.", ("10:3",), ("3",)),
        (E, "The ratio is 10 to 3.", ("10:3",), ("3",)),
        (E, "It falls from 10 to 3.", ("3",), ("10:3",)),
    ],
    "a box that is denied": [
        (N, r"The answer is \boxed{43}, not \boxed{42}.", ("43",), ("42",)),
        (E, r"The answer is $\boxed{43}$, and not $\boxed{42}$.", ("43",), ("42",)),
        (N, r"It is \boxed{43} rather than \boxed{42}.", ("43",), ("42",)),
        (N, r"It is \boxed{43}. (Not \boxed{42}.)", ("43",), ("42",)),
    ],
    "remarks that take nothing back": [
        (N, "So the answer is \\boxed{42}.\n\nActually, this is the same as 6 rows of 7 chairs.", ("42",), ("7", "6")),
        (E, "So $\\boxed{x+1}$.\n\nActually, this is a linear function.", ("x+1",), ()),
        (N, "\\boxed{42}\n\nOops, typo in line 3.", ("42",), ("3",)),
        (N, "\\boxed{42}\n\nSorry for the mistake earlier, where I wrote 41.", ("42",), ("41",)),
        (N, "\\boxed{42}\n\nSorry for the confusion earlier, where I wrote 41.", ("42",), ("41",)),
        (N, "\\boxed{42}\n\nWait, that should be right. Let me verify with n = 3: it gives 6.", ("42",), ("6",)),
        (N, r"So \boxed{41}. Wait, it is 42 only if n=3, so it stays 41.", ("41",), ("42",)),
        (N, "\\boxed{41}\n\nI apologize for the mistake. The correct total is 42.", ("42",), ("41",)),
        (N, "\\boxed{41}\n\nActually, it should be 42.", ("42",), ("41",)),
        (N, "\\boxed{41}\n\nOops, it is 42.", ("42",), ("41",)),
        (E, "So $\\boxed{x+1}$. Actually, it is $x+2$.", ("x+2",), ("x+1",)),
    ],
    "a noun before the formula, and a rounded value behind it": [
        (E, "The answer is the point $(-1,6)$.", ("(-1,6)",), ("(6,-1)",)),
        (E, r"The answer is the interval $\left[-1,-\frac12\right]$.", (r"[-1,-\frac{1}{2}]",), ("[-1,1]",)),
        (E, "The answer is the function $f(x)=x+1$.", ("f(x)=x+1",), ("f(x)=x",)),
        (E, r"The area is $12\pi$ (about $37.7$).", (r"12\pi",), ("37",)),
    ],
    "derivatives and undefined values": [
        (E, r"[[\frac{dx}{dt}=kx-a]]", (r"\frac{d x}{d t}=k x-a",), ()),
        (E, r"[[\frac{dx}{dt}=a-kx]]", (), (r"\frac{d x}{d t}=k x-a",)),
        (E, r"[[\frac{dy}{dt}=kx-a]]", (), (r"\frac{d x}{d t}=k x-a",)),
        (E, r"[[m\frac{dv}{dt}+bv=f]]", (r"m \frac{d v}{d t}+b v=f",), ()),
        (E, r"[[\frac{dv}{dt}+bv=f]]", (), (r"m \frac{d v}{d t}+b v=f",)),
        (E, r"[[2m\frac{dv}{dt}+bv=f]]", (), (r"m \frac{d v}{d t}+b v=f",)),
        (E, r"[[\frac{d\omega}{dt}+2B\omega=T]]", (), (r"I \frac{d \omega}{d t}+2 B \omega=T",)),
        (E, r"[[m_p c^2(\gamma^2-2)\sin^2\theta]]", (), (r"m_{p} c^{2}\left(\gamma^{2}-1\right) \sin ^{2} \theta",)),
        (E, r"[[2(\gamma-1)mc^2]]", (), (r"(\gamma-1) m c^2",)),
        (E, r"[[\gamma mc^2-mc^2]]", (r"(\gamma-1) m c^2",), ()),
        (E, r"[[y'+ry-rx(t)=0]]", (r"y^{\prime}+r y-r x(t)=0",), (r"y^{\prime}-r y-r x(t)=0",)),
        (E, r"[[y=2x]]", ("2x=y", r"x=\frac{y}{2}"), ("y=3x",)),
    ],
    "percent and cents on both sides": [
        (E, r"[[0.625\%]]", (), ("62.5%",)),
        (E, r"[[6250\%]]", (), ("62.5%",)),
        (E, r"[[800\%]]", (), (r"8 \%",)),
        (E, r"[[540\text{ cents}]]", (), (r"5.4 \text{ cents}",)),
        (E, r"[[62.5\%]]", ("62.5%", "62.5", "0.625"), ()),
        (N, r"[[540\text{ cents}]]", ("540", "5.4"), ("54",)),
    ],
    "an article beside a number": [
        (N, "The answer is $18 a day.", ("18",), ("8",)),
        (N, "The answer is 18 times a week.", ("18",), ()),
        (N, r"[[18\text{ dollars a day}]]", ("18",), ()),
        (N, "Answer: a total of 3 bolts.", ("3",), ()),
        (E, "[[18a]]", ("18a",), ("18",)),
    ],
    "several letters for one label": [
        (E, r"[[\text{(B) or (C)}]]", (), (r"\text{(B)}", r"\text{(C)}")),
        (E, r"[[\text{(B), (C)}]]", (), (r"\text{(B)}",)),
        (E, r"[[\text{(C) and (D)}]]", (), (r"\text{(C)}",)),
        (E, r"[[\text{Graph C}]]", (r"\text{(C)}",), (r"\text{(B)}",)),
        (E, r"[[\text{(B)}\ 5]]", (r"\text{(B)}",), (r"\text{(C)}",)),
    ],
    "regions": [
        (E, r"[[x \geq -2 \text{ and } x \leq 7]]", (r"x \in [-2,7]", "[-2,7]"), ("[-2,7)", r"(-\infty,7]")),
        (E, r"[[k<0 \text{ or } k=1]]", (r"(-\infty, 0) \cup\{1\}",), (r"(-\infty, 0]", r"(-\infty, 0) \cup\{2\}")),
        (
            E,
            r"[[(-\infty,2) \text{ or } (3,\infty)]]",
            (r"(-\infty, 2) \cup (3, \infty)",),
            (r"(-\infty, 3) \cup (3, \infty)",),
        ),
        (E, r"[[x < 2, \; x > 3]]", (r"(-\infty, 2) \cup (3, \infty)",), (r"(-\infty, 2)",)),
        (E, r"[[2<x<102, x\neq12]]", (r"(2,12) \cup (12,102)",), (r"(2,102)", r"(2,13) \cup (13,102)")),
        (E, r"[[\{\,x \mid -\sqrt3<x<\sqrt3\,\}]]", (r"(-\sqrt{3}, \sqrt{3})",), (r"[-\sqrt{3}, \sqrt{3})",)),
        (E, r"[[\left\{x \,\middle|\, -\sqrt3<x<\sqrt3\right\}]]", (r"(-\sqrt{3}, \sqrt{3})",), (r"(-3,3)",)),
    ],
    "conditions behind a formula": [
        (E, r"[[f(n) = n \text{ for all } n]]", ("f(n)=n",), ("f(n)=2n",)),
        (E, r"[[f(n)=an, \text{ where } a=2]]", ("f(n)=an, where a=2",), ("f(n)=an, where a=3", "f(n)=an")),
        (E, r"[[f(n)=n, \text{ for all } n \in \mathbb{N}]]", ("f(n)=n",), ("f(n)=n+1",)),
        (E, r"[[f(x) = x+1, \; x \in \mathbb{R}]]", ("f(x)=x+1",), ("f(x)=x",)),
        (E, r"[[f(x) = x+1 \ \forall x \in \mathbb{R}]]", ("f(x)=x+1",), ("f(x)=x",)),
        (E, r"[[\text{all integers } k \geq 2]]", (r"k \geqslant 2",), (r"k \geqslant 3",)),
    ],
    "indices and names": [
        (E, r"[[n^2-n-1]]", (r"m_{\max }=n^{2}-n-1",), (r"m_{\max }=n^{2}-n",)),
        (E, r"[[m_{\max}=n^2-n-1]]", (r"m_{\max }=n^{2}-n-1",), ()),
        (E, r"[[m_{\text{max}}=n^2-n-1]]", (r"m_{\max }=n^{2}-n-1",), ()),
        (E, r"[[\arcsin(10/13)]]", ("np.arcsin(10/13)",), ("np.arcsin(10/14)",)),
        (
            E,
            r"[[\frac{\lambda_{\text{red}}}{\sqrt2}]]",
            (r"\lambda_{\text {red}} / \sqrt{2}",),
            (r"\lambda_{\text {red}} / 2",),
        ),
        (
            E,
            r"[[x=\frac{\pi}{6}+\pi k, \frac{\pi}{3}+\pi k]]",
            (r"x=\frac{1}{6} \pi+\pi k, \frac{1}{3} \pi+\pi k",),
            (r"x=\frac{1}{6} \pi+\pi k",),
        ),
        (E, "[[(204)_5]]", ("204_5",), ("204_6",)),
        (E, r"[[204 \text{ base } 5]]", ("204_5",), ("204_6",)),
        (E, r"[[\text{204 base 5}]]", ("204_5",), ("205_5",)),
        (E, r"[[204_{\text{base }5}]]", ("204_5",), ("204_6",)),
    ],
    "several signs": [
        (E, r"[[(\pm3,\pm2)]]", ("(3,2),(-3,2),(3,-2),(-3,-2)",), ("(3,2),(-3,-2)",)),
        (
            E,
            r"[[(22\pm8\sqrt6,22\mp8\sqrt6)]]",
            (r"(22+8 \sqrt{6}, 22-8 \sqrt{6}),(22-8 \sqrt{6}, 22+8 \sqrt{6})",),
            (r"(22+8 \sqrt{6}, 22+8 \sqrt{6}),(22-8 \sqrt{6}, 22-8 \sqrt{6})",),
        ),
        (
            E,
            r"[[x \in \{-1, 3, 1 \pm \sqrt{2}\}]]",
            (r"\{-1,3,1+\sqrt{2},1-\sqrt{2}\}", r"-1,3,1\pm\sqrt{2}"),
            (r"-1,3,1+\sqrt{2}",),
        ),
    ],
    "the same value twice": [
        (E, r"The answer is $\frac{14}{3}$, or $4\frac{2}{3}$.", (r"\frac{14}{3}",), (r"\frac{13}{3}",)),
        (E, r"[[\frac{14}{3} \text{ or approximately } 4.67]]", (r"\frac{14}{3}",), ("4",)),
        (E, "The probability is 1/2, or 50%.", (r"\frac{1}{2}",), ("50",)),
        (E, r"[[\frac12 \text{ or } 50\%]]", (r"\frac{1}{2}",), (r"\frac{1}{3}",)),
        (E, r"[[x \approx 1.68 \text{ or } x \approx 0.45]]", ("1.68,0.45",), ("1.68", "0.45")),
    ],
    "names with marks": [
        (E, 'The answer is "east".', (r"\text{east}",), (r"\text{west}",)),
        (E, "Answer: Mrs. Hilt (5 > 3)", ("Mrs. Hilt",), ("Mr. Hilt",)),
        (E, r"[[\text{Navin (11)}]]", (r"\text{Navin}",), (r"\text{Kevin}",)),
    ],
    "functions and fractions in rarer commands": [
        (E, r"[[\operatorname{arctan}(2)]]", (r"\arctan 2",), (r"\arctan 3",)),
        (E, r"[[\text{cot } x]]", (r"\cot x",), (r"\tan x",)),
        (E, r"[[1+\mathrm{i}\sqrt{3}]]", (r"1+i\sqrt{3}",), (r"1-i\sqrt{3}",)),
        (E, r"[[{11+9a \over 20}]]", (r"\frac{11+9a}{20}",), (r"\frac{11-9a}{20}",)),
        (E, r"[[{2n \choose n}]]", (r"\binom{2n}{n}",), (r"\binom{n}{2}",)),
        (E, r"[[\binom{2n}n]]", (r"\binom{2n}{n}",), (r"\binom{3n}{n}",)),
        (E, r"[[\frac{(2n)!}{n!^2}]]", (r"\binom{2n}{n}", r"\frac{(2n)!}{(n!)^2}"), (r"\frac{(2n)!}{n!}",)),
        (E, "The speed is 8.7⋅10^8 cm.", (r"8.7 \times 10^{8}",), (r"8.7 \times 10^{7}",)),
        (E, "So it is 10⁻⁶ cm.", (r"10^{-6}",), ("6", "-6")),
    ],
    "small things": [
        (E, r"[[42 \pmod{100}]]", ("42",), ("43",)),
        (N, r"Therefore, Josh made a profit of \$70{,}000.", ("70000",), ("0", "70")),
        (N, "The answer is 42 to 2 significant figures.", ("42",), ("2",)),
        (E, "[[y=-1, x=6]]", ("(6,-1)",), ("(-1,6)",)),
        (E, "[[m=2, b=-1]]", ("(2,-1)", "b=-1, m=2"), ("(1,-1)",)),
    ],
}
ROWS = [(name, *row) for name, rows in KINDS.items() for row in rows]


@pytest.mark.parametrize(
    ("name", "kind", "text", "right", "wrong"), ROWS, ids=[f"{row[0]}: {row[2][:40]}" for row in ROWS]
)
def test_an_answer_in_another_form(
    name: str, kind: AnswerKind, text: str, right: tuple[str, ...], wrong: tuple[str, ...]
) -> None:
    text = text.replace("[[", r"So it is $\boxed{", 1).removesuffix("]]") + "}$." if text.startswith("[[") else text
    for gold in right:
        assert judge(text, gold, kind).verdict == "correct", gold
    for gold in wrong:
        assert judge(text, gold, kind).verdict in ("wrong", "no_answer"), gold

"""The main judge in this process: which answer it extracts, and its verdict.

`grading/test_pool.py` runs it in workers, `grading/test_gold_answers.py` on the gold answers of the benchmarks.
"""

import time
from fractions import Fraction

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from lightreasoner.grading.extraction import (
    extract_answer,
    extract_choice,
    extract_expression,
    extract_text,
    last_boxed,
    stated_answer,
)
from lightreasoner.grading.mathematical import canonical, equal_expressions, judge
from lightreasoner.grading.numbers import parse_number, parse_quantity
from lightreasoner.grading.verdicts import VERDICTS, AnswerKind, Judgement

# (why, output, gold, verdict) where answers are numbers
NUMBERS = [
    ("a boxed integer", r"So \boxed{42}", "42", "correct"),
    ("another boxed integer", r"So \boxed{43}", "42", "wrong"),
    ("braces inside the box are balanced", r"\boxed{\text{about {exactly} }42}", "42", "correct"),
    ("text after the box does not count", r"\boxed{42} which is 7 times 6", "42", "correct"),
    ("several boxes: the last one counts", r"\boxed{1} no, \boxed{42}", "42", "correct"),
    ("several boxes: the first one does not", r"\boxed{42} no, \boxed{1}", "42", "wrong"),
    ("a box that is cut off still says something", r"so \boxed{42", "42", "correct"),
    ("a box that is cut off ends with its line", "so \\boxed{42\nand 7 more", "42", "correct"),
    ("spaces in the box", r"\boxed{ 42 }", "42", "correct"),
    ("thousands separators", r"\boxed{1,234,567}", "1234567", "correct"),
    ("thousands separators in the gold answer", r"\boxed{1234567}", "1,234,567", "correct"),
    ("LaTeX thousands separators", r"\boxed{1{,}234}", "1234", "correct"),
    ("LaTeX thin spaces", r"\boxed{10\!,\!000}", "10000", "correct"),
    ("a dollar sign", r"\boxed{$18}", "18", "correct"),
    ("an escaped dollar sign", r"\boxed{\$18.50}", "18.5", "correct"),
    ("a euro sign after it", "\\boxed{18 €}", "18", "correct"),
    ("dollar signs as maths delimiters", r"\boxed{$18$}", "18", "correct"),
    ("a percent sign", r"\boxed{25\%}", "25", "correct"),
    # A percentage and its share are the same number, and models write both.
    ("a percentage is also its share", r"\boxed{25%}", "0.25", "correct"),
    ("a share is not its percentage unless that is said", r"\boxed{0.25}", "25", "wrong"),
    ("a percentage in words", r"\boxed{25 percent}", "0.25", "correct"),
    ("a percentage in the gold answer", r"\boxed{0.25}", "25%", "correct"),
    ("a unit in words", r"\boxed{12 apples}", "12", "correct"),
    ("a unit in \\text", r"\boxed{12\text{ km}}", "12", "correct"),
    ("a variable before it", r"\boxed{x = 12}", "12", "correct"),
    ("a negative number", r"\boxed{-7}", "-7", "correct"),
    ("the sign matters", r"\boxed{7}", "-7", "wrong"),
    ("a typographic minus", "\\boxed{−7}", "-7", "correct"),
    ("a decimal that is whole", r"\boxed{145.0}", "145", "correct"),
    ("a gold answer with a decimal point, as in SVAMP", r"\boxed{145}", "145.0", "correct"),
    ("decimals are compared exactly", r"\boxed{0.3333}", "1/3", "wrong"),
    ("a decimal without a leading zero", r"\boxed{.5}", "0.5", "correct"),
    ("a plain fraction", r"\boxed{1/2}", "0.5", "correct"),
    ("a plain fraction with spaces", r"\boxed{1 / 2}", "0.5", "correct"),
    ("a LaTeX fraction", r"\boxed{\frac{1}{2}}", "0.5", "correct"),
    ("a display fraction", r"\boxed{\dfrac{3}{4}}", "3/4", "correct"),
    ("a text fraction", r"\boxed{\tfrac{3}{4}}", "0.75", "correct"),
    ("a negative LaTeX fraction", r"\boxed{-\frac{1}{2}}", "-0.5", "correct"),
    ("a fraction that is not reduced", r"\boxed{\frac{84}{2}}", "42", "correct"),
    ("a fraction with a unit", r"\boxed{\frac{3}{4}\text{ cup}}", "0.75", "correct"),
    ("division by zero is no number", r"\boxed{1/0}", "1", "wrong"),
    ("a LaTeX division by zero is no number", r"\boxed{\frac{1}{0}}", "1", "wrong"),
    ("two numbers are no answer to one question", r"\boxed{4 or 5}", "5", "wrong"),
    ("a mixed number with a space", r"\boxed{2 1/2}", "2.5", "correct"),
    ("words in the box", r"\boxed{\text{none}}", "5", "wrong"),
    ("a power of ten", r"\boxed{10^{3}}", "1000", "correct"),
    ("a product with a power of ten", r"\boxed{1.5 \times 10^3}", "1500", "correct"),
    ("an exponent of ten", r"\boxed{1.5e3}", "1500", "correct"),
    ("the form of GSM8K", "7 * 6 = 42\n#### 42", "42", "correct"),
    ("the form of GSM8K with a separator", "#### 1,080", "1080", "correct"),
    ("four hashes inside a line are no answer mark", "see #### 7\nso 42", "42", "correct"),
    ("a sentence", "The answer is 42.", "42", "correct"),
    ("a sentence with more after it", "The answer is 42. I hope it is correct, all 3 of us.", "42", "correct"),
    ("a sentence with a decimal point", "The answer is 3.5.", "3.5", "correct"),
    ("a label", "7 steps.\nAnswer: 42. That took 3 minutes", "42", "correct"),
    ("a label in bold", "7 steps.\n**Answer:** 42\nThat took 3 minutes", "42", "correct"),
    ("what is denied behind an answer", "Her answer was 42, not 7", "42", "correct"),
    ("not the number that is denied", "Her answer was 42, not 7", "7", "wrong"),
    ("a sentence with a colon", "The final answer is: 42", "42", "correct"),
    ("a sentence with dollars", "The answer is $1,200.", "1200", "correct"),
    ("a sentence whose number is on the next line", "The answer is:\n42", "42", "correct"),
    ("a sentence in bold", "**The answer is 42.**", "42", "correct"),
    ("a number in bold", "The answer is **42**.", "42", "correct"),
    ("capitals", "THE ANSWER IS 42. That took 7 steps", "42", "correct"),
    ("several sentences: the last one counts", "The answer is 1. No: the answer is 42.", "42", "correct"),
    ("the last number as a last resort", "6 times 7 makes 42", "42", "correct"),
    ("not the first number", "42 is not 7", "42", "wrong"),
    ("the last number before a full stop", "It makes 42.", "42", "correct"),
    ("a box goes before a sentence", r"\boxed{42}. The answer is 7.", "42", "correct"),
    ("a sentence goes before the form of GSM8K", "#### 7\nThe answer is 42.", "42", "correct"),
    ("the form of GSM8K goes before the last number", "#### 42\nthat took 3 steps", "42", "correct"),
    ("no text", "", "42", "no_answer"),
    ("no number", "I do not know.", "42", "no_answer"),
    ("an empty box", r"That is 42: \boxed{}", "42", "no_answer"),
    ("a box with a space in it", r"\boxed{ }", "42", "no_answer"),
]


# (why, boxed answer, gold, verdict) where answers are expressions. "limit" marks known limits: verdicts that a person
# would not give.
EXPRESSIONS = [
    # Fractions and decimals
    ("a fraction", r"\frac{1}{2}", r"\frac{1}{2}", "correct"),
    ("a display fraction", r"\dfrac{1}{2}", r"\frac{1}{2}", "correct"),
    ("a text fraction", r"\tfrac{1}{2}", r"\frac{1}{2}", "correct"),
    ("a fraction without braces", r"\frac12", r"\frac{1}{2}", "correct"),
    ("a gold fraction without braces", r"\frac{1}{2}", r"\frac12", "correct"),
    ("a fraction without braces is not the digits", r"\frac12", "12", "wrong"),
    ("digits are not the fraction without braces", "12", r"\frac12", "wrong"),
    ("a slash", "1/2", r"\frac{1}{2}", "correct"),
    ("another denominator", "1/2", "1/3", "wrong"),
    ("a decimal for a fraction", "0.5", r"\frac{1}{2}", "correct"),
    ("a decimal cut off is not the fraction", "0.333", r"\frac13", "wrong"),
    ("not even a long one", "0.3333333333", r"\frac{1}{3}", "wrong"),
    ("a fraction that is not reduced", r"\frac{2}{4}", r"\frac{1}{2}", "correct"),
    ("a minus in the numerator", r"\frac{-1}{2}", r"-\frac{1}{2}", "correct"),
    ("a minus in the denominator", r"\frac{1}{-2}", r"-\frac12", "correct"),
    ("a mixed number", r"1\frac{1}{2}", r"\frac{3}{2}", "correct"),
    ("a mixed number as a decimal", r"1 \frac{1}{2}", "1.5", "correct"),
    ("a gold mixed number", r"\frac{9}{5}", r"1\frac{4}{5}", "correct"),
    ("a mixed number is not its digits", r"\frac{11}{2}", r"1\frac{1}{2}", "wrong"),
    ("a mixed number with a slash", "2 1/2", r"\frac{5}{2}", "correct"),
    ("a space is not dropped between digits", "2 1/2", r"\frac{21}{2}", "wrong"),
    ("a recurring decimal", r"0.1\overline{6}", r"\frac16", "correct"),
    ("trailing zeros", "12.0", "12", "correct"),
    ("leading zeros", "012", "12", "correct"),
    ("a plus sign", "+12", "12", "correct"),
    ("the sign matters", "-5", "5", "wrong"),
    ("the sign matters in the gold answer", "5", "-5", "wrong"),
    ("a very small difference is one", "1.0000001", "1", "wrong"),
    ("a large number is compared to its last digit", "100000000000000000001", "10^{20}", "wrong"),
    ("small numbers are not rounded away", "10^{-9}", "10^{-8}", "wrong"),
    ("division by zero is no number", r"\frac{1}{0}", "2", "wrong"),
    # Roots, powers, constants
    ("a root", r"\sqrt{2}", r"\sqrt{2}", "correct"),
    ("a root without braces", r"2\sqrt2", r"2\sqrt{2}", "correct"),
    ("a root that is not simplified", r"\sqrt{8}", r"2\sqrt{2}", "correct"),
    ("a cube root", r"\sqrt[3]{16}", r"2\sqrt[3]{2}", "correct"),
    ("a rationalised denominator", r"\frac{\sqrt{3}}{3}", r"\frac{1}{\sqrt{3}}", "correct"),
    ("a root is not its first digits", r"\sqrt{2}", "1.41", "wrong"),
    ("first digits are not the root", "1.41", r"\sqrt{2}", "wrong"),
    ("seven decimals are not the root", "1.7320508", r"\sqrt{3}", "wrong"),
    ("a root in words", "sqrt(2)", r"\sqrt{2}", "correct"),
    ("a root sign", "√2", r"\sqrt{2}", "correct"),
    ("π", r"\pi", r"\pi", "correct"),
    ("multiples of π", r"2\pi", r"\pi \cdot 2", "correct"),
    ("fractions of π", r"\frac{\pi}{4}", r"\pi/4", "correct"),
    ("the letter π", "2π", r"2\pi", "correct"),
    ("pi in Latin letters", "pi", r"\pi", "correct"),
    ("π is not 3.14", "3.14", r"\pi", "wrong"),
    ("a power", "2^{10}", "1024", "correct"),
    ("a gold power", "1024", "2^{10}", "correct"),
    ("a power is not its digits", "2^{10}", "210", "wrong"),
    ("digits are not the power", "210", "2^{10}", "wrong"),
    ("an exponent without braces", "x^{2}", "x^2", "correct"),
    ("another exponent", "x^2", "x^3", "wrong"),
    ("a negative exponent", "x^{-1}", r"\frac1x", "correct"),
    ("Python's power", "2**3", "8", "correct"),
    ("Python's power is not its digits", "2**3", "23", "wrong"),
    ("a factorial", "5!", "120", "correct"),
    ("a factorial is not its argument", "5!", "5", "wrong"),
    ("a binomial", r"\binom{5}{2}", "10", "correct"),
    ("a logarithm", r"\log_2 8", "3", "correct"),
    ("e is not 2.718", "e", "2.718", "wrong"),
    ("an exponential", "e^x", r"\exp(x)", "correct"),
    ("a complex number", "1+i", "i+1", "correct"),
    ("its conjugate", "1+i", "1-i", "wrong"),
    ("infinity", r"\infty", r"\infty", "correct"),
    ("minus infinity", r"-\infty", r"\infty", "wrong"),
    ("a sum that is not carried out", r"\sum_{i=1}^{4} i", "10", "correct"),
    ("an integral that is not carried out", r"\int_0^1 x dx", "1/2", "correct"),
    ("a limit that is not carried out", r"\lim_{x\to 0} \frac{\sin x}{x}", "1", "correct"),
    # Scientific notation
    ("an exponent of ten", "4.5e33", r"4.5 \times 10^{33}", "correct"),
    ("a gold exponent of ten", r"4.5 \times 10^{33}", "4.5e33", "correct"),
    ("a dot for times", r"4.5\cdot 10^{33}", "4.5e33", "correct"),
    ("another exponent of ten", r"4.5 \times 10^{33}", "4.5e32", "wrong"),
    ("a negative exponent of ten", r"4.5\times10^{-3}", "0.0045", "correct"),
    ("a power of ten alone", "10^{3}", "1e3", "correct"),
    ("a small power of ten", "10^{-8}", "1e-8", "correct"),
    ("another small power of ten", "10^{-9}", "1e-8", "wrong"),
    # Polynomials and other formulas
    ("terms in another order", "x^2+2x+1", "1+2x+x^2", "correct"),
    ("factored", "(x+1)^2", "x^2+2x+1", "correct"),
    ("expanded", "x^2-1", "(x-1)(x+1)", "correct"),
    ("another sign", "x^2-1", "x^2+1", "wrong"),
    ("a coefficient as a fraction", r"\frac{1}{2}x", r"\frac{x}{2}", "correct"),
    ("a number is not its multiple of x", "3", "3x", "wrong"),
    ("a multiple of x is not its number", "3x", "3", "wrong"),
    ("another variable", "3x", "3y", "wrong"),
    ("only another variable", "x", "y", "wrong"),
    ("the negative", "-x", "x", "wrong"),
    ("a difference the wrong way round", "x-y", "y-x", "wrong"),
    ("a quotient the wrong way round", "x/y", "y/x", "wrong"),
    ("a product is no sum", "xy", "x+y", "wrong"),
    ("a product in another order", "xy", "yx", "correct"),
    ("another index", "x_1", "x_2", "wrong"),
    ("an index in braces", "x_{1}", "x_1", "correct"),
    ("an absolute value", "|x|", "x", "wrong"),
    ("a trigonometric identity", r"\sin(2x)", r"2\sin x\cos x", "correct"),
    ("spaces in a formula", "p - q", "p-q", "correct"),
    ("limit: capital and small variables are the same", "m", "M", "correct"),
    ("limit: a numeral loses its base", "52_8", "52", "correct"),
    ("a numeral in another base is not converted", "52_8", "42", "wrong"),
    # Equations and inequalities
    ("a value with its variable", "x=5", "5", "correct"),
    ("a gold value with its variable", "5", "x=5", "correct"),
    ("a value with another variable", "x=5", "y=5", "wrong"),
    ("another value of the variable", "x=5", "x=6", "wrong"),
    ("a function's formula", "f(x)=x^2", "x^2", "correct"),
    ("an equation", "y=2x+1", "y = 1+2x", "correct"),
    ("an equation's right side", "2x+1", "y=2x+1", "correct"),
    ("an equation in another form", "y=2x+1", "2x-y+1=0", "correct"),
    ("another equation", "y=2x+1", "y=2x-1", "wrong"),
    ("an equation of names", "MR=SRMC", "SRMC=MR", "correct"),
    ("an equation of other names", "SRAC=LRAC", "SRMC=LRMC", "wrong"),
    ("an inequality", r"x \le 3", r"x \leq 3", "correct"),
    ("an inequality from right to left", "x < 3", "3 > x", "correct"),
    ("another direction", "x<3", "x>3", "wrong"),
    ("a strict inequality", "x<3", r"x\leq 3", "wrong"),
    ("an interval for a gold inequality", r"[5,\infty)", r"x \ge 5", "correct"),
    ("an inequality for a gold interval", r"x \ge 5", r"[5,\infty)", "correct"),
    ("an inequality is no value", "x > 5", "5", "wrong"),
    ("an inequation is no value", r"x \neq 5", "5", "wrong"),
    # Units, signs, separators
    ("a unit in \\text", r"5\text{ cm}", "5", "correct"),
    ("a unit in the gold answer", "5", r"5\text{ cm}", "correct"),
    ("a unit in \\mathrm", r"5 \mathrm{~cm}", "5", "correct"),
    ("a unit in words", "18 dollars", "18", "correct"),
    ("a squared unit", r"5 \text{ cm}^2", "5", "correct"),
    ("a compound unit in \\text", r"5 \text{ m/s}", "5", "correct"),
    ("a compound unit without it", "5 m/s", "5", "correct"),
    ("a unit after a formula", r"16\pi \text{ square units}", r"16\pi", "correct"),
    ("a unit in several words", r"\frac{3}{4}\text{ of a cup}", "3/4", "correct"),
    ("limit: units are not compared", r"5\text{ km}", r"5\text{ m}", "correct"),
    ("two quantities are not one", "12 apples and 3 oranges", "12", "wrong"),
    ("degrees", r"90^\circ", "90", "correct"),
    ("degrees in braces", r"90^{\circ}", "90", "correct"),
    ("a degree sign", "90°", "90", "correct"),
    ("gold degrees", "90", r"90^\circ", "correct"),
    ("degrees in words", "90 degrees", "90", "correct"),
    ("radians are not degrees", r"\frac{\pi}{2}", r"90^\circ", "wrong"),
    ("a percentage", r"25\%", "25", "correct"),
    ("a percentage is also its share", r"25\%", "0.25", "correct"),
    ("a percentage is also its share as a fraction", r"25\%", r"\frac{1}{4}", "correct"),
    ("a gold percentage", "25", r"25\%", "correct"),
    ("the share of a gold percentage", "0.25", r"25\%", "correct"),
    ("a percentage in words", "25 percent", "0.25", "correct"),
    ("a percentage is not a hundred times as much", "2500", r"25\%", "wrong"),
    ("nor the other way round", r"25\%", "2500", "wrong"),
    ("dollars", r"\$18.50", "18.5", "correct"),
    ("gold dollars", "18", r"\$18.00", "correct"),
    ("euros", "€18", "18", "correct"),
    ("a minus sign before a currency sign", r"-\$5", "-5", "correct"),
    ("thousands separators", "1,234,567", "1234567", "correct"),
    ("LaTeX thousands separators", "1{,}000", "1000", "correct"),
    ("thin spaces between thousands", r"10\,000", "10000", "correct"),
    ("spaces between thousands", "1 000", "1000", "correct"),
    ("other spaces are kept", "1 2", "12", "wrong"),
    ("also LaTeX ones", r"3\ 4", "34", "wrong"),
    ("also wide ones", r"3\quad 4", "34", "wrong"),
    ("also thin ones", r"3\,4", "34", "wrong"),
    ("the letter of a choice", r"\text{(C)}", "C", "correct"),
    # Tuples, intervals, sets, matrices
    ("a pair", "(1, 2)", "(1,2)", "correct"),
    ("a pair in large brackets", r"\left(1, 2\right)", "(1,2)", "correct"),
    ("a pair the wrong way round", "(1,2)", "(2,1)", "wrong"),
    ("a pair is not its digits", "(3,4)", "34", "wrong"),
    ("a pair that misses an element", "(1,2)", "(1,2,3)", "wrong"),
    ("elements in another form", r"(\frac12, 2)", "(0.5, 2)", "correct"),
    ("polar coordinates", r"\left( 3, \frac{\pi}{2} \right)", r"(3,\pi/2)", "correct"),
    ("a pair without brackets", "1,2", "(1,2)", "correct"),
    ("a pair without brackets, the wrong way round", "1, 2", "(2,1)", "wrong"),
    ("a pair for two answers", "(1,2)", "1,2", "correct"),
    ("a pair for two answers, the wrong way round", "(2,1)", "1,2", "wrong"),
    ("a set is no pair", r"\{-1, 2\}", "(-1,2)", "wrong"),
    ("named coordinates", "x = 5, y = 6", "(5,6)", "correct"),
    ("a pair of names", "(x,y)=(5,6)", "(5,6)", "correct"),
    ("an open interval", "(0,1)", "(0,1)", "correct"),
    ("a closed interval", "[0,1]", "[0,1]", "correct"),
    ("a closed interval is not open", "[0,1]", "(0,1)", "wrong"),
    ("an open interval is not closed", "(0,1)", "[0,1]", "wrong"),
    ("half-open intervals", "(0,1]", "[0,1)", "wrong"),
    ("an unbounded interval", r"(-\infty, 3)", r"(-\infty,3)", "correct"),
    ("an unbounded interval with its end", r"(-\infty, 3]", r"(-\infty,3)", "wrong"),
    ("a union in another order", r"(2,3] \cup [0,1)", r"[0,1)\cup(2,3]", "correct"),
    ("a union with a hole", r"(0,1)\cup(1,2)", "(0,2)", "wrong"),
    ("membership", r"x \in [0,1]", "[0,1]", "correct"),
    ("a set in another order", r"\{1,2,3\}", r"\{3,2,1\}", "correct"),
    ("a set that misses an element", r"\{1,2\}", r"\{1,2,3\}", "wrong"),
    ("the empty set", r"\emptyset", r"\{\}", "correct"),
    ("several answers in another order", "1,2", "2,1", "correct"),
    ("several answers as a set", "1, 2", r"\{1,2\}", "correct"),
    ("several answers with and", r"1 \text{ and } 2", "1,2", "correct"),
    ("several answers with or", r"1 \text{ or } 2", "2, 1", "correct"),
    ("several answers with their variable", "x=1, x=2", "1,2", "correct"),
    ("one answer too many", "1,2", "1", "wrong"),
    ("one answer too few", "1", "1,2", "wrong"),
    ("several answers are not their digits", "1,2", "12", "wrong"),
    ("plus or minus", r"\pm 2", "2,-2", "correct"),
    ("a gold plus or minus", "2,-2", r"\pm 2", "correct"),
    ("plus or minus is not plus", r"\pm 2", "2", "wrong"),
    ("plus is not plus or minus", "2", r"\pm 2", "wrong"),
    ("a matrix", r"\begin{pmatrix} 1 & 2 \\ 3 & 4 \end{pmatrix}", r"\begin{pmatrix}1&2\\3&4\end{pmatrix}", "correct"),
    ("other brackets", r"\begin{bmatrix} 1 & 2 \end{bmatrix}", r"\begin{pmatrix}1&2\end{pmatrix}", "correct"),
    ("another cell", r"\begin{pmatrix} 1 & 2 \\ 3 & 5 \end{pmatrix}", r"\begin{pmatrix}1&2\\3&4\end{pmatrix}", "wrong"),
    ("another form of a cell", r"\begin{pmatrix} 1/2&3 \end{pmatrix}", r"\begin{pmatrix}0.5&3\end{pmatrix}", "correct"),
    ("a column is no row", r"\begin{pmatrix} 1 \\ 3 \end{pmatrix}", r"\begin{pmatrix}1&3\end{pmatrix}", "wrong"),
    # Words
    ("a name", "Evelyn", r"\text{Evelyn}", "correct"),
    ("a name in \\text", r"\text{Evelyn}", "Evelyn", "correct"),
    ("a name in bold", r"\textbf{Evelyn}", "Evelyn", "correct"),
    ("a name in small letters", "evelyn", "Evelyn", "correct"),
    ("another name", "Navin", "Evelyn", "wrong"),
    ("a name with an abbreviation", r"\text{Mrs. Hilt}", "Mrs. Hilt", "correct"),
    ("her husband", "Mr. Hilt", "Mrs. Hilt", "wrong"),
    ("an article", "the boys", "boys", "correct"),
    ("an article in the gold answer", "circle", "a circle", "correct"),
    ("other words", "boys", "girls", "wrong"),
    ("other words of mathematics", "even", "odd", "wrong"),
    ("words in another order", "red apples", "apples red", "wrong"),
    ("letters in another order", "Noel", "Leon", "wrong"),
    ("a part of the words", "Lisa's team", "Lisa's soccer team", "wrong"),
    ("a typographic apostrophe", "Lisa’s soccer team", "Lisa's soccer team", "correct"),
    ("a full stop", "Evelyn.", "Evelyn", "correct"),
    ("a word for a number", r"\text{none}", "5", "wrong"),
    ("a number in words", "twelve", "12", "correct"),
    ("a number for a word", "5", "Evelyn", "wrong"),
    ("another month", "March 3rd", "February 3rd", "wrong"),
    ("another number among the same words", "February 4th", "February 3rd", "wrong"),
    ("another letter", "Rug B", "Rug A", "wrong"),
    ("yes", "yes", "Yes", "correct"),
    ("yes in \\text", r"\text{Yes}", "Yes", "correct"),
    ("yes is not no", "Yes", "No", "wrong"),
    ("no", "No.", "no", "correct"),
    ("yes with its reason", "Yes, they do", "Yes", "correct"),
    ("true", "true", "True", "correct"),
    ("true is not false", "True", "False", "wrong"),
    ("true is not 1", "true", "1", "wrong"),
    ("undefined is not 0", "undefined", "0", "wrong"),
    # Times and ratios
    ("a time", "10:30", "10:30", "correct"),
    ("another time", "10:30", "10:31", "wrong"),
    ("a time with its half of the day", "3:30 PM", "3:30 p.m.", "correct"),
    ("the other half of the day", "3:30 a.m.", "3:30 p.m.", "wrong"),
    ("a time is no ratio", "1:20", "2:40", "wrong"),
    ("a ratio", "3 : 4", "3:4", "correct"),
    ("a ratio the wrong way round", "3:4", "4:3", "wrong"),
    ("a ratio that is not reduced", "6:8", "3:4", "correct"),
    ("a ratio as a fraction", r"\frac{3}{4}", "3:4", "correct"),
    ("a ratio in words", "3 to 4", "3:4", "correct"),
    # Degenerate
    ("an endless number", "7" * 100_000, "5", "wrong"),
    ("an endless number that is the gold answer", "7" * 2000, "7" * 2000, "correct"),
    ("an endless formula", "x+" * 5000 + "x", "5001x", "wrong"),
    ("an empty box", "", "5", "no_answer"),
    ("a box with a space in it", " ", "5", "no_answer"),
]  # fmt: skip

# (why, text, gold, verdict): position of the answer
EXPRESSIONS_IN_TEXTS = [
    ("several boxes: the last one counts", r"\boxed{x} no, \boxed{y}", "y", "correct"),
    ("several boxes: the first one does not", r"\boxed{x} no, \boxed{y}", "x", "wrong"),
    ("two boxes for two answers", r"\boxed{1} and \boxed{2}", "1,2", "correct"),
    ("the same box again and again", r"\boxed{x^2} " * 2000, "x^2", "correct"),
    ("a box within a box", r"\boxed{\boxed{x^2}}", "x^2", "correct"),
    ("boxes that never close", r"\boxed{" * 2000, "5", "no_answer"),
    ("a box that is cut off", r"so \boxed{x^2", "x^2", "correct"),
    ("a box that is cut off in a fraction", r"so \boxed{\frac{1}{2}", "1/2", "correct"),
    ("a sentence", "The answer is x^2+1.", "1+x^2", "correct"),
    ("a sentence with a formula", "The answer is $x^2+1$.", "1+x^2", "correct"),
    ("a sentence with a formula in brackets", r"Hence the answer is \((1,2)\).", "(1,2)", "correct"),
    ("a sentence with two formulas", "The answer is $5$ or $6$.", "5,6", "correct"),
    ("a sentence with a display", "The answer is:\n\n\\[x^2\\]", "x^2", "correct"),
    ("the Minerva form", r"The final answer is $\frac{1}{2}$. I hope it is correct.", "1/2", "correct"),
    ("a sentence in bold", r"**The answer is $\frac12$.**", "1/2", "correct"),
    ("a word in bold", "The answer is **Evelyn**.", "Evelyn", "correct"),
    ("a power is not bold", "The answer is x**2", "x2", "wrong"),
    ("a sentence again and again", "The answer is 5. " * 500, "5", "correct"),
    ("a sentence again and again, and another one", "The answer is 5. " * 500 + "The answer is 6.", "5", "wrong"),
    ("a sentence with an endless number", "The answer is " + "7" * 100_000, "5", "wrong"),
    ("an abbreviation does not end the sentence", "The answer is Mrs. Hilt. She has 5.", "Mrs. Hilt", "correct"),
    ("nor do the halves of the day", "The answer is 10:30 a.m. today.", "10:30 a.m. today", "correct"),
    ("a time at the end of a sentence", "The answer is 10:30 a.m.", "10:30 a.m.", "correct"),
    ("limit: an initial ends the sentence", "The answer is J. Smith.", "J. Smith", "wrong"),
    ("a sentence that takes something back", "The answer is not 42 but 43.", "43", "correct"),
    ("the form of GSM8K", "#### x^2", "x^2", "correct"),
    ("a formula in the last line", "Therefore we get $x^2+1$", "1+x^2", "correct"),
    ("a formula in brackets in the last line", r"Therefore we get \(x^2+1\).", "1+x^2", "correct"),
    ("a formula with spaces around it", "Therefore we get $ x^2+1 $.", "1+x^2", "correct"),
    ("the last formula of the last line", "From $a$ follows $b=5$.", "5", "correct"),
    ("a display in the last line", "Therefore\n$$x^2+1$$", "1+x^2", "correct"),
    ("a display on lines of its own", "Therefore\n\\[\nx^2+1\n\\]", "1+x^2", "correct"),
    ("the last one of two displays", "\\[\nx\n\\]\nso\n$$\nx^2+1\n$$.", "1+x^2", "correct"),
    ("an empty display", "so 5:\n\\[ \\]", "5", "no_answer"),
    ("money is no formula", "He pays $5 and $12.", "12", "correct"),
    ("nor is more money", "He pays $5 and then $7 more, $12", "12", "correct"),
    ("nor is a range of prices", "From $5-$12", "12", "correct"),
    ("the last number as a last resort", "6 times 7 makes 42", "42", "correct"),
    ("a time as a last resort", "It ends at 12:50.", "12:50", "correct"),
    ("a formula above the last line is only numbers", "We have $x^2$.\nI am sure.", "x^2", "wrong"),
    ("a name in prose is no answer", "It is Evelyn.", "Evelyn", "no_answer"),
    ("no answer", "I do not know.", "x^2", "no_answer"),
    ("no text", "", "x^2", "no_answer"),
    ("white space", " \n\t ", "x^2", "no_answer"),
]  # fmt: skip

# (why, text, verdict) for the gold answer C among choices
CHOICES = [
    ("a boxed letter", r"\boxed{C}", "correct"),
    ("another boxed letter", r"\boxed{B}", "wrong"),
    ("a boxed letter in brackets", r"\boxed{(C)}", "correct"),
    ("a boxed letter in \\text", r"\boxed{\text{C}}", "correct"),
    ("a boxed letter in both", r"\boxed{\text{(C)}}", "correct"),
    ("a boxed letter in bold", r"\boxed{\textbf{(C)}}", "correct"),
    ("a boxed letter with its text", r"\boxed{C) 9}", "correct"),
    ("a boxed letter with a full stop and its text", r"\boxed{C. 9}", "correct"),
    ("a boxed small letter", r"\boxed{c}", "correct"),
    ("a boxed text that begins with an article", r"\boxed{a cat, so C}", "correct"),
    ("a boxed text", r"\boxed{9}", "no_answer"),
    ("a boxed letter that is none of the choices", r"\boxed{F}", "no_answer"),
    ("an empty box", r"so C: \boxed{}", "no_answer"),
    ("several boxed letters are no choice", r"\boxed{B, C}", "no_answer"),
    ("also with the right one first", r"\boxed{C or D}", "no_answer"),
    ("several boxes: the last one counts", r"\boxed{A} no, \boxed{C}", "correct"),
    ("a sentence", "The answer is (C).", "correct"),
    ("a sentence without brackets", "The answer is C", "correct"),
    ("a sentence with another letter", "The answer is A.", "wrong"),
    ("a sentence with a small letter", "The answer is (c).", "correct"),
    ("a sentence with the text of the choice", "The answer is (C) 9.", "correct"),
    ("a sentence with a formula", r"The answer is $\text{C}$.", "correct"),
    ("a sentence in bold", "**The answer is C.**", "correct"),
    ("a letter in bold after a sentence", "The answer is **C**.", "correct"),
    ("several sentences: the last one counts", "The answer is (B). No, the answer is (C).", "correct"),
    ("a sentence with an article", "The answer is a monopoly.", "no_answer"),
    ("a sentence without a letter", "The answer is the third one.", "no_answer"),
    ("a sentence with a letter that is none of the choices", "The answer is (F).", "no_answer"),
    ("bold", "**C**", "correct"),
    ("brackets", "(C)", "correct"),
    ("nothing else", "C", "correct"),
    ("a full stop", "C.", "correct"),
    ("a label", "Answer: C", "correct"),
    ("a label and the text of the choice", "Answer: C) 9", "correct"),
    ("an option", "I would go with option C", "correct"),
    ("the last letter that is stated", "A is wrong, B is wrong, C is right", "correct"),
    ("a letter in brackets goes before a later one without", "(C) it is, for B is wrong", "correct"),
    ("the last letter in brackets", "not (A), so (C)", "correct"),
    ("A as an answer", "so A.", "wrong"),
    ("A at the end of a line", "so A\nI am sure", "wrong"),
    ("the article is no answer", "It is a monopoly", "no_answer"),
    ("the article at the start is no answer", "A monopoly is bad", "no_answer"),
    ("the article does not undo an answer", "C, because of this: A monopoly is bad", "correct"),
    ("a small letter in prose", "so c", "no_answer"),
    ("a letter in a word", "ABCDE", "no_answer"),
    ("a letter that is none of the choices", "F", "no_answer"),
    ("limit: a letter in a formula", "so E = mc^2", "wrong"),
    ("no letter", "I do not know", "no_answer"),
    ("no text", "", "no_answer"),
    ("white space", " \n ", "no_answer"),
]  # fmt: skip

TABLE: list[tuple[str, str, str, AnswerKind, str]] = [
    *(("number: " + why, text, gold, "number", verdict) for why, text, gold, verdict in NUMBERS),
    *(("expression: " + why, f"So $\\boxed{{{answer}}}$.", gold, "expression", verdict)
      for why, answer, gold, verdict in EXPRESSIONS),
    *(("text: " + why, text, gold, "expression", verdict) for why, text, gold, verdict in EXPRESSIONS_IN_TEXTS),
    *(("choice: " + why, text, "C", "choice", verdict) for why, text, verdict in CHOICES),
]  # fmt: skip


@pytest.mark.parametrize(("text", "gold", "kind", "verdict"), [row[1:] for row in TABLE], ids=[row[0] for row in TABLE])
def test_each_output_gets_its_verdict(text: str, gold: str, kind: AnswerKind, verdict: str) -> None:
    assert judge(text, gold, kind).verdict == verdict


def test_a_judgement_holds_the_extracted_answer_and_its_normal_form() -> None:
    assert judge(r"so \boxed{ \$42 }", "42", "number") == Judgement(r"\$42", "42", "correct")
    assert judge("so 43", "42", "number") == Judgement("43", "43", "wrong")
    assert judge("so what", "42", "number") == Judgement(None, None, "no_answer")
    assert judge(r"so \boxed{x + 1}", "1+x", "expression") == Judgement("x + 1", "x+1", "correct")
    assert judge("so (B)", "C", "choice") == Judgement("B", "B", "wrong")
    assert judge(r"**Answer:** $\frac12$", "1/2", "expression").extracted == r"$\frac12$"


@pytest.mark.parametrize(
    ("text", "content"),
    [
        ("no box", None),
        (r"\boxed{}", ""),
        (r"\boxed{a}\boxed{b}", "b"),
        (r"\boxed{\frac{1}{2}} x}", r"\frac{1}{2}"),
        (r"\boxed{{{a}}}", "{{a}}"),
        ("\\boxed{{a}\nb", "{a}"),
        ("\\boxed{a\nb}", "a\nb"),
    ],
)
def test_the_last_box_is_found_with_its_braces_balanced(text: str, content: str | None) -> None:
    assert last_boxed(text) == content


@pytest.mark.parametrize(
    ("answers", "canonical_form"),
    [
        ([r"\frac12", r"\dfrac{1}{2}", "1/2", "0.5", ".50", r"\frac{2}{4}"], "1/2"),
        (["1,000", "1000 km", r"\$1000.00", "10^{3}", "1e3", r"1 \times 10^3"], "1000"),
        ([r"\text{Evelyn}", "evelyn", "Evelyn."], "evelyn"),
        (["the boys", r"\text{The boys}", "boys"], "boys"),
        (["No", "no", r"\text{No.}"], "no"),
        (["3:30 p.m.", "3:30 PM", "3:30pm"], "3:30pm"),
        (["(x, 1)", r"\left( x, 1 \right)", "$(x,1)$", r"(x,\ 1)"], "(x,1)"),
    ],
)
def test_equal_answers_have_the_same_canonical_form(answers: list[str], canonical_form: str) -> None:
    assert {canonical(answer) for answer in answers} == {canonical_form}


@pytest.mark.parametrize(
    ("gold", "text", "verdict"),
    [
        ("", r"\boxed{42}", "wrong"),
        ("abc", r"\boxed{42}", "wrong"),
        ("1 2", r"\boxed{12}", "wrong"),
        ("1" * 401, r"\boxed{42}", "wrong"),
        ("1" * 401, f"\\boxed{{{'1' * 401}}}", "correct"),
        ("Bryan", r"\boxed{Bryan}", "correct"),
    ],
)
def test_a_gold_answer_that_is_not_a_number_is_compared_as_an_expression(gold: str, text: str, verdict: str) -> None:
    assert judge(text, gold, "number").verdict == verdict


@pytest.mark.parametrize("text", ["-$5", "-\\$5", "−$5", "- 5", "-£5"])
def test_a_minus_sign_before_a_currency_sign_or_a_space_is_kept(text: str) -> None:
    assert parse_number(text) == -5


@pytest.mark.parametrize(
    ("text", "value"),
    [
        (r"\frac12", Fraction(1, 2)),
        (r"2\frac{1}{2}", Fraction(5, 2)),
        (r"\sqrt{16}", Fraction(4)),
        (r"2\pi", None),
        ("5!", Fraction(120)),
        ("(3,4)", None),
        ("1,2,3", None),
        ("1,2", Fraction(6, 5)),  # a decimal comma
    ],
)
def test_an_expression_is_never_read_as_another_number(text: str, value: Fraction | None) -> None:
    # A misread number could make a wrong answer correct, such as \frac12 for the gold answer 12.
    assert parse_number(text) in (value, None)


# --- Hostile texts ---

HUGE = [
    "7" * 100_000,
    "\\boxed{" + "7" * 100_000 + "}",
    "\\boxed{" * 15_000,
    "\\boxed{" + "{" * 100_000,
    "1/" * 50_000,
    "1," * 50_000,
    "-" * 100_000,
    "answer is " * 10_000,
    "answer is" + "\n" * 100_000,
    "####\n" * 20_000,
    "1" + " " * 100_000 + "/",
    "\\frac{" * 15_000,
    "(" * 100_000,
    "answer to " * 10_000,
    "answer is not " * 8_000,
    "answer\n" * 15_000,
    "the answer is 5" + " for" * 30_000,
    "the answer is " + "minus " * 10_000,
    "final answer is $" * 6_000 + "I hope",
    "\\boxed{1} and " * 10_000,
    "\\boxed" + " " * 100_000 + "{4}",
    "<think>" * 15_000,
    "</think>" * 12_000,
    "<answer>" * 12_000,
    "$" * 100_000,
    "$x " * 30_000,
    "\\[" * 50_000,
    "1 000 " * 20_000,
    "12:" * 30_000,
    "A) x\n" * 20_000,
    "a " * 50_000,
]


@pytest.mark.parametrize("text", HUGE, ids=lambda text: f"{text[:10]!r} and so on")
def test_a_huge_text_is_not_correct(text: str) -> None:
    assert judge(text, "42", "number").verdict in ("wrong", "no_answer")


@pytest.mark.parametrize("text", HUGE, ids=lambda text: f"{text[:10]!r} and so on")
def test_an_answer_is_found_in_a_huge_text_in_linear_time(text: str) -> None:
    seconds = []
    for part in (text[: len(text) // 8], text):
        started = time.process_time()
        for extract in (extract_answer, extract_expression, extract_text, extract_choice):
            extract(part)
        seconds.append(time.process_time() - started)
    assert seconds[1] < max(2.0, 30 * seconds[0])  # quadratic time takes 64 times as long


def test_very_long_numbers_are_not_read() -> None:
    assert parse_number("7" * 400) == int("7" * 400)
    assert parse_number("7" * 401) is None


any_text = st.text(st.characters(exclude_categories=()), max_size=60)
pieces = r"\boxed{ } { \frac \dfrac { }{ #### / , . - − $ % % 0 1 7 ٣ ² ½ 1e9 0x1F \! {,} _ + NaN inf ∞".split()
fragments = st.sampled_from(
    [*pieces, " ", "\n", "the answer is ", "final answer is: ", "\x00", "\u2028", "\ud800", "1_000", "9" * 500]
)
hostile_text = st.lists(fragments, max_size=20).map("".join)


@given(any_text | hostile_text)
@example("\\boxed{\\frac{1}{0}}")
@example("\\boxed{1/٠}")  # an Arabic zero
def test_no_text_ever_raises(text: str) -> None:
    for gold, kind in (
        ("42", "number"),
        ("Evelyn", "expression"),
        ("C", "choice"),
    ):  # none of them uses a symbolic library
        judgement = judge(text, gold, kind)
        assert judgement.verdict in VERDICTS
        assert (judgement.verdict == "no_answer") == (judgement.extracted is None) == (judgement.canonical is None)


@given(any_text | hostile_text)
def test_any_text_gives_a_number_or_none(text: str) -> None:
    for number in (parse_number(text), parse_quantity(text)):
        assert number is None or isinstance(number, Fraction)


@given(any_text | hostile_text)
def test_a_text_without_box_digit_or_phrase_has_no_answer(text: str) -> None:
    plain = "".join(" " if character.isnumeric() else character for character in text)
    plain = plain.replace("boxed", "").replace("answer is", "").replace("#", "")
    assert extract_answer(plain) is None


@given(any_text | hostile_text)
def test_an_answer_is_a_substring_of_the_text(text: str) -> None:
    bold_aside = text.replace("**", "")
    for found in (extract_answer(text), stated_answer(text), last_boxed(text)):
        assert found is None or found.removesuffix("\\%").replace("**", "") in bold_aside  # \boxed{5}% is 5\%


@given(any_text | hostile_text)
def test_a_choice_is_one_of_five_letters_or_none(text: str) -> None:
    assert extract_choice(text) in (None, *"ABCDE")


@given(any_text | hostile_text)
def test_every_answer_equals_itself(text: str) -> None:
    assert equal_expressions(text, text)


# --- Properties of numbers ---

KINDS_WITH_NUMBERS: tuple[AnswerKind, ...] = ("number", "expression")
whole_numbers = st.integers() | st.integers(-(10**12), 10**12)


@given(whole_numbers)
def test_a_boxed_integer_is_correct(number: int) -> None:
    text = f"So \\boxed{{{number}}}."
    for kind in KINDS_WITH_NUMBERS:
        assert judge(text, str(number), kind) == Judgement(str(number), str(number), "correct")


@given(whole_numbers)
def test_an_integer_is_correct_in_every_usual_form(number: int) -> None:
    with_commas, typographic = f"{number:,}", str(number).replace("-", "−")
    plain = [with_commas, typographic, f"{number}.0", f"{number}.", f"{number} apples", f"{number}/1"]
    for dress in [*plain, f"${number}$", with_commas.replace(",", "{,}"), f"\\frac{{{number}}}{{1}}"]:
        for kind in KINDS_WITH_NUMBERS:
            assert judge(f"\\boxed{{{dress}}}", str(number), kind).verdict == "correct", dress


@given(whole_numbers)
def test_an_integer_is_found_in_every_usual_position(number: int) -> None:
    for text in (f"The answer is {number}.", f"so\n#### {number}", f"that makes {number}", f"\\boxed{{{number}"):
        for kind in KINDS_WITH_NUMBERS:
            assert judge(text, str(number), kind).verdict == "correct", text


@given(whole_numbers, whole_numbers)
def test_two_integers_are_judged_equal_only_if_they_are_equal(answer: int, gold: int) -> None:
    for kind in KINDS_WITH_NUMBERS:
        assert (judge(f"\\boxed{{{answer}}}", str(gold), kind).verdict == "correct") == (answer == gold)


@given(st.integers(-999, 999), st.integers(1, 999))
def test_a_fraction_is_read_exactly(numerator: int, denominator: int) -> None:
    expected = Fraction(numerator, denominator)
    assert parse_number(f"{numerator}/{denominator}") == expected
    assert parse_number(f"\\frac{{{numerator}}}{{{denominator}}}") == expected


@given(st.fractions(-999, 999, max_denominator=999), st.fractions(-999, 999, max_denominator=999))
def test_a_percentage_equals_only_itself_and_its_hundredth_part(answer: Fraction, gold: Fraction) -> None:
    equal = equal_expressions(f"{answer}\\%", str(gold))
    assert equal == (gold in (answer, answer / 100))


@given(st.integers(1, 10**6), st.integers(-30, 30))
def test_powers_of_ten_are_read_exactly_in_every_notation(mantissa: int, exponent: int) -> None:
    expected = mantissa * Fraction(10) ** exponent
    for text in (
        f"{mantissa}e{exponent}",
        f"{mantissa} \\times 10^{{{exponent}}}",
        f"{mantissa}\\cdot 10^{{{exponent}}}",
        f"{mantissa} × 10^{{{exponent}}}",
    ):
        assert parse_quantity(text) == parse_number(text) == expected, text


@given(st.decimals(-(10**6), 10**6, places=3))
def test_a_decimal_is_read_exactly(number) -> None:
    assert parse_number(str(number)) == Fraction(number)

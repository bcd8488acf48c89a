"""Few-shot examples, written for this project; the toolkit has others."""

from typing import NamedTuple


class Demonstration(NamedTuple):
    """A question with its worked answer."""

    question: str
    answer: str


# Five subjects as in the toolkit: maths, biology, physics, chemistry, computing.
MMLU_STEM = (
    Demonstration(
        "How many integers n satisfy n^2 < 20?\nAnswer Choices: (A) 4 (B) 8 (C) 9 (D) 10",
        "The squares below 20 are those of 0, 1, 2, 3 and 4. With both signs that gives -4, -3, -2, -1, 0, 1, 2, 3 "
        "and 4, which are 9 integers. The answer is (C).",
    ),
    Demonstration(
        "A cell is placed in water that holds more dissolved salt than the cell does. What happens first?\n"
        "Answer Choices: (A) The cell swells (B) The cell shrinks (C) The cell divides (D) Salt leaves the cell",
        "Water moves through a membrane towards the side with more solute. Here that is the outside, so water leaves "
        "the cell and the cell shrinks. The answer is (B).",
    ),
    Demonstration(
        "A cart of mass 2 kg moves at 3 m/s. What is its kinetic energy?\n"
        "Answer Choices: (A) 3 J (B) 6 J (C) 9 J (D) 18 J",
        "Kinetic energy is half the mass times the square of the speed: 0.5 * 2 * 3^2 = 9 joules. The answer is (C).",
    ),
    Demonstration(
        "Which of these solutions has the lowest pH?\n"
        "Answer Choices: (A) 0.1 M HCl (B) 0.1 M NaCl (C) 0.1 M NaOH (D) 0.1 M CH3COOH",
        "The lowest pH belongs to the highest concentration of hydrogen ions. HCl is a strong acid and gives up all of "
        "them, acetic acid only a few, NaCl none, and NaOH removes them. The answer is (A).",
    ),
    Demonstration(
        "A sorted list has 1000 entries. At most how many entries does a binary search look at?\n"
        "Answer Choices: (A) 3 (B) 32 (C) 500 (D) 10",
        "Each look halves what is left. Since 2^9 = 512 is less than 1000 and 2^10 = 1024 is more, ten looks are "
        "always enough. The answer is (D).",
    ),
)

"""`lightr study`: the paper's tables and figures as named grids of runs.

cells.py      what a grid consists of, each with a folder named by its content, shared between studies
work.py       the jobs that make cells, several at a time, resumed where they stopped
outcomes.py   what finished cells say: accuracies over seeds, paired tests, times, counts
grids.py      which cells a study needs                tables.py, drawings.py   what it reports of them
reports.py    Markdown, CSV, JSON, figures, one page   paper.py      what the paper reports
"""

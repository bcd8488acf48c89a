"""`lightr study`: the paper's tables and figures as grids of jobs.

study.py      the list of studies, and the command      grids.py     the jobs that a study needs
job.py        a job: its folder, its log, its end       jobs.py      the kinds of job
scheduler.py  runs jobs in several processes            outcomes.py  accuracies, tests, times, counts of finished jobs
tables.py, figures.py   reports of the studies          reports.py   Markdown, CSV, JSON, figures, one page
paper.yaml    the figures of the paper              results.md.jinja   the page
"""

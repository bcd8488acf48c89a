"""The figures of the paper (arXiv 2510.07962v2), for comparison."""

PAPER = {
    "table1": """
| model | run | GSM8K | MATH | SVAMP | ASDiv | Minerva | Olympiad | MMLU-STEM | AVG |
|---|---|---|---|---|---|---|---|---|---|
| Math-1.5B | base | 42.5 | 34.2 | 68.8 | 68.1 | 9.9 | 23.7 | 49.8 | 42.4 |
| | SFT | 69.2 | 57.1 | 64.1 | 70.2 | 15.1 | 27.6 | 47.7 | 50.1 |
| | LightReasoner | 70.6 | 59.3 | 76.0 | 79.8 | 11.4 | 27.1 | 54.9 | 54.2 |
| Math-1.5B-Instruct | base | 84.8 | 75.8 | 94.2 | 94.7 | 29.4 | 37.5 | 57.4 | 67.7 |
| | SFT | 85.4 | 75.8 | 93.5 | 94.7 | 31.6 | 37.5 | 56.2 | 67.8 |
| | LightReasoner | 86.7 | 75.5 | 93.0 | 94.1 | 32.0 | 37.8 | 55.2 | 67.8 |
| R1-Distill-Qwen-1.5B | base | 75.2 | 54.2 | 79.9 | 84.9 | 16.2 | 19.1 | 22.3 | 50.3 |
| | SFT | 78.2 | 60.3 | 81.5 | 87.4 | 18.4 | 21.2 | 26.2 | 53.3 |
| | LightReasoner | 79.5 | 60.2 | 83.5 | 87.5 | 18.0 | 36.5 | 26.2 | 55.9 |
| Math-7B | base | 57.5 | 51.8 | 67.9 | 72.7 | 14.0 | 16.0 | 69.8 | 50.0 |
| | SFT | 64.4 | 63.3 | 76.2 | 76.6 | 12.1 | 20.5 | 68.5 | 54.5 |
| | LightReasoner | 67.9 | 57.8 | 77.2 | 80.6 | 12.1 | 16.9 | 70.5 | 54.7 |
| Math-7B-Instruct | base | 95.2 | 83.2 | 93.9 | 95.3 | 33.8 | 41.5 | 69.3 | 73.2 |
| | SFT | 95.4 | 83.1 | 94.1 | 95.2 | 38.2 | 40.7 | 68.2 | 73.6 |
| | LightReasoner | 95.8 | 83.6 | 93.1 | 95.2 | 34.2 | 39.0 | 67.8 | 72.7 |
""",
    "table2": """
| model | SFT: time / problems / tokens / gain | LightReasoner: the same |
|---|---|---|
| Math-1.5B | 4.0 h / 3952 / 1.77 M / +7.7 | 0.5 h / 1000 / 0.02 M / +11.8 |
| Math-7B | 9.5 h / 6029 / 2.20 M / +4.5 | 0.75 h / 1000 / 0.02 M / +4.7 |
| R1-Distill-1.5B | 3.6 h / 6023 / 5.95 M / +3.0 | 0.5 h / 1000 / 0.02 M / +5.6 |
| Math-1.5B-Instruct | 3.4 h / 7153 / 2.08 M / +0.1 | 0.4 h / 1000 / 0.02 M / +0.1 |

Its SFT column counts kept problems; 7473 were sampled.
""",
    "table3": """
| attribute | SFT | LightReasoner |
|---|---|---|
| full sampling / prefix sampling | full | prefix |
| all-token tuning / selective tuning | all tokens | selective |
| verification against gold answers | yes | no |
""",
    "table4": """
| attribute | contrastive decoding | LightReasoner |
|---|---|---|
| contrast used at | inference | training |
| contrast by | size | expertise |
| persistent improvement, independent inference | no, no | yes, yes |
""",
    "table5": """
| expert | amateur | gap on GSM8K | AVG of five |
|---|---|---|---|
| Math-1.5B | Qwen2.5-0.5B | 38.2 | 68.1 |
| | Qwen2.5-1.5B | 35.1 | 64.1 |
| | Math-1.5B-Instruct | −42.3 | 53.2 |
| | (none) | | 52.7 |
| Math-7B | Qwen2.5-0.5B | 53.2 | 70.8 |
| | Qwen2.5-1.5B | 50.1 | 70.2 |
| | Math-1.5B | 15.0 | 60.9 |
| | Math-1.5B-Instruct | −27.3 | 63.3 |
| | (none) | | 63.9 |
""",
    "table6": """
| setting (Math-1.5B) | AVG of six |
|---|---|
| base | 41.2 |
| rejection SFT | 50.6 |
| GT supervision | 41.4 |
| full LightReasoner | 54.0 |
| no Select | 53.8 |
| no Contrast | 44.8 |
| neither | 42.6 |
""",
    "table7": """
| length (Math-1.5B) | GSM8K | MATH | SVAMP | ASDiv | Minerva | Olympiad | mean |
|---|---|---|---|---|---|---|---|
| 64 | 74.3 | 61.5 | 81.5 | 81.4 | 18.8 | 24.6 | 57.0 |
| 128 | 70.6 | 59.3 | 76.0 | 79.8 | 11.4 | 27.1 | 54.0 |
| 256 | 72.3 | 62.2 | 78.5 | 79.4 | 18.4 | 21.3 | 55.4 |
""",
    "table8": """
| Math-1.5B | CommonsenseQA | HellaSwag | ARC-Challenge |
|---|---|---|---|
| base | 62.6 | 46.2 | 42.8 |
| LightReasoner | 64.2 | 47.4 | 45.6 |
""",
    "figure2": """
59.1 % of tokens in [0, 0.1), 10.5 % in [0.1, 0.2), 6.1 % in [0.2, 0.3); about 20 % above 0.4. Mean KL 1.99 where the
most probable tokens differ and 0.166 where they agree; 10 % of the agreeing ones exceed 0.4. Pair and corpus are not
stated.
""",
    "figure5": """
Gains of Math-1.5B: +28.1, +25.1, +7.2, +11.7, +1.5, +3.4, +5.1; of Math-7B: +10.4, +6.0, +9.3, +7.9, −1.9, +0.9, +0.7
(columns of Table 1). Its base rows have another prompt than the tuned ones; here both have the same.
""",
    "figure6": "The accuracies of Table 5 over the gaps of Table 5: higher to the right, with exceptions.",
    "figure7": "AVG gains: full +12.8, no Select +12.6, no Contrast +3.6, neither +1.4 (Table 6).",
    "figure8": "Perplexity, normalised to 0–1, falls over 1000 steps; text and normalisation are not stated.",
    "figure9": "SFT's cross-entropy falls from about 0.12 to 0.02 over 250 to 450 steps.",
}

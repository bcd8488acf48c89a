"""The whole method in one script, without this package's abstractions: transformers, peft and the equations.

    python examples/whole_method_flat.py [QUESTIONS] [STEPS]

It handles one question and one label at a time, so it is slow and easy to read. `lightr run` does the same in batches,
saves finished work, resumes after an interruption, and evaluates the result. The package provides only the models and
the questions.
"""

import random
import sys
from itertools import islice

import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer

from lightreasoner.miniature import model_path
from lightreasoner.miniature.word_problems import word_problems

QUESTIONS = int(sys.argv[1]) if len(sys.argv) > 1 else 200
STEPS = int(sys.argv[2]) if len(sys.argv) > 2 else 100
ALPHA, BETA, ROLLOUT_TOKENS, LABELS_PER_STEP = 0.2, 0.4, 48, 16
CUE = r"Please reason step by step, and put your final answer within \boxed{}."  # Eq 36

torch.manual_seed(0)
rng = random.Random(0)
tokenizer = AutoTokenizer.from_pretrained(model_path("expert"))
expert = AutoModelForCausalLM.from_pretrained(model_path("expert"), dtype=torch.float32).eval()
amateur = AutoModelForCausalLM.from_pretrained(model_path("base"), dtype=torch.float32).eval()


def prompt_ids(question: str) -> list[int]:
    messages = [{"role": "system", "content": CUE}, {"role": "user", "content": question}]
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    return tokenizer(text, add_special_tokens=False)["input_ids"]


@torch.inference_mode()
def answer(model: torch.nn.Module, question: str, tokens: int) -> list[int]:
    ids = torch.tensor([prompt_ids(question)])
    output = model.generate(ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=tokens)
    return output[0, ids.shape[1] :].tolist()


def accuracy(model: torch.nn.Module, items: int = 100) -> float:
    problems = list(islice(word_problems("test", seed=0), items))
    outputs = [tokenizer.decode(answer(model, problem.question, 64), skip_special_tokens=True) for problem in problems]
    right = [f"\\boxed{{{problem.answer}}}" in output for problem, output in zip(problems, outputs, strict=True)]
    return sum(right) / items


# Stage 1: find the steps where the two models disagree, and label them with the contrast.
labels = []  # (prefix, contrastive label over the vocabulary)
for problem in islice(word_problems("train", seed=42), QUESTIONS):
    prompt = prompt_ids(problem.question)
    response = answer(expert, problem.question, ROLLOUT_TOKENS)
    text = torch.tensor([prompt + response])
    steps = slice(len(prompt) - 1, len(prompt) + len(response) - 1)  # the logits that predict response tokens
    with torch.inference_mode():
        log_expert = expert(text).logits[0, steps].log_softmax(-1)
        log_amateur = amateur(text).logits[0, steps].log_softmax(-1)
    kl = (log_expert.exp() * (log_expert - log_amateur)).sum(-1)  # Eq 2
    plausible = log_expert.exp() >= ALPHA * log_expert.exp().amax(-1, keepdim=True)  # Eq 4
    ratio = torch.where(plausible, log_expert - log_amateur, -torch.inf)  # Eq 5
    label = ratio.softmax(-1)  # Eq 6
    kept = (kl > BETA).nonzero()[:, 0].tolist()  # Eq 3
    labels += [(prompt + response[:step], label[step].clone()) for step in kept]
print(f"{len(labels)} labels from {QUESTIONS} questions")
before = accuracy(expert)

# Stage 2: fine-tune the expert on the labels.
lora = LoraConfig(task_type="CAUSAL_LM", r=8, lora_alpha=16, lora_dropout=0.05, target_modules=["q_proj", "v_proj"])
trained = get_peft_model(expert, lora).train()
optimizer = torch.optim.AdamW((p for p in trained.parameters() if p.requires_grad), lr=4e-3, weight_decay=0.0)
schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, total_iters=STEPS)
for _ in range(STEPS):
    for prefix, label in rng.sample(labels, min(LABELS_PER_STEP, len(labels))):
        log_probs = trained(torch.tensor([prefix])).logits[0, -1].log_softmax(-1)
        (-(label * log_probs).sum() / LABELS_PER_STEP).backward()  # Eq 8
    torch.nn.utils.clip_grad_norm_(trained.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad()
    schedule.step()

# Stages 3 and 4: merge and evaluate.
merged = trained.eval().merge_and_unload()
print(f"accuracy on 100 new problems: {before:.1%} before, {accuracy(merged):.1%} after")

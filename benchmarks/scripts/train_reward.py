"""Makes a small reward model of a bundled chat model and measures it on preference pairs not trained on.

The first layers of SmolLM2-135M-Instruct stay as they are; a linear head on the last token's state is fitted to the
pairs by Bradley and Terry's model: P(chosen over rejected) = sigmoid(difference of their rewards), a logistic
regression on differences of states without intercept (Ouyang et al. 2022, "Training language models to follow
instructions with human feedback", section 3.5, its loss). How many layers and how strong the regularisation: by
cross-validation on the training pairs, grouped by the dialogue's first question, as the split is.

Data: hh-rlhf, harmless-base, test part (MIT; Bai et al. 2022). Of each dialogue the last question and its answer, of
at most --tokens tokens; longer ones are left out.

The folder it writes is a LlamaForSequenceClassification: `vllm serve FOLDER --runner pooling` serves it, and the
verifier `reward` asks it. States are kept in --work, so that a run that was cut off goes on; after --minutes it takes
the pairs it has. On a busy machine one thread is faster than two (OMP_NUM_THREADS=1).

Run: python benchmarks/scripts/train_reward.py --data FOLDER (needs `pip install 'heedful[studies]'`)
"""

from __future__ import annotations

import argparse
import json
import time
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GroupKFold
from transformers import AutoModel, AutoModelForSequenceClassification, AutoTokenizer

from heedful.benchmarks.evals.items import EvalItem
from heedful.benchmarks.evals.sets import draw, read_known
from heedful.benchmarks.machine import machine, versions
from heedful.benchmarks.stats import Floats, wilson
from heedful.server.models import bundled

MODEL = "smollm2-135m-instruct"
DEPTHS = (4, 6, 8)  # layers kept; more cost more, here and whenever an answer is judged
STRENGTHS = (0.0001, 0.0003, 0.001, 0.003, 0.01, 0.03)  # C of the regression, over features of unit variance
BATCH = 8  # pairs
# The chat model's own without its default system prompt, which would stand before every dialogue and tell nothing.
TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


@dataclass(frozen=True)
class Pairs:
    """States of chosen and rejected answers, (pairs, 2, depths, width), and what the pairs are."""

    states: NDArray[np.float32]
    tokens: NDArray[np.int_]
    """Of both answers, (pairs, 2)."""
    groups: NDArray[np.int_]
    """Of the dialogue's first question, so that no question is on both sides."""
    held: NDArray[np.bool_]
    """One group in three, for the accuracy that is reported."""


def texts_of(item: EvalItem, tokenizer: Any) -> list[str]:
    """Its last question with the chosen answer, and with the rejected one."""
    last = dict(item.messages[-1])
    answers = ({"role": "assistant", "content": answer} for answer in item.candidates)
    return [tokenizer.apply_chat_template([last, answer], tokenize=False) for answer in answers]


def compute(data: Path, work: Path, limit: int, until: float) -> Pairs:
    """States of as many pairs as the time allows, those in `work` first. Raises EvalError where the data are not."""
    folder = bundled.prepare(bundled.MODELS[MODEL])
    tokenizer = _tokenizer(folder)
    items = sorted(read_known("hh_harmless", data), key=lambda item: draw(0, item.id))
    fitting = [(i, t) for i in items if max(map(len, t := _ids(texts_of(i, tokenizer), tokenizer))) <= limit]
    model = AutoModel.from_pretrained(folder, num_hidden_layers=max(DEPTHS), dtype=torch.bfloat16).eval()
    work.mkdir(parents=True, exist_ok=True)
    found = []
    for start in range(0, len(fitting), BATCH):
        kept = work / f"{limit}-{start:05}.npy"
        if not kept.exists():
            if time.monotonic() > until:
                break
            states = _states(model, [ids for _, two in fitting[start : start + BATCH] for ids in two])
            np.save(kept.with_suffix(".part.npy"), states.reshape(-1, 2, len(DEPTHS), states.shape[-1]))
            kept.with_suffix(".part.npy").replace(kept)
        found.append(np.load(kept))
    states = np.concatenate(found)
    used = fitting[: len(states)]
    groups = np.array([zlib.crc32(str(item.messages[0]["content"]).encode()) for item, _ in used])
    tokens = np.array([[len(ids) for ids in two] for _, two in used])
    return Pairs(states, tokens, groups, groups % 3 == 0)


def _tokenizer(folder: Path) -> Any:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.chat_template = TEMPLATE
    return tokenizer


def _ids(texts: Sequence[str], tokenizer: Any) -> list[list[int]]:
    return [tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts]


def _padded(rows: Sequence[Sequence[int]]) -> tuple[Any, Any]:
    longest = max(map(len, rows))
    ids = torch.tensor([[*row, *[0] * (longest - len(row))] for row in rows])
    return ids, torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in rows])


def _states(model: Any, rows: Sequence[Sequence[int]]) -> NDArray[np.float32]:
    """The last token's state after each of the depths, under the model's final norm: (rows, depths, width)."""
    ids, mask = _padded(rows)
    with torch.inference_mode():
        layers = model(input_ids=ids, attention_mask=mask, output_hidden_states=True).hidden_states
        last = [layer[torch.arange(len(rows)), mask.sum(1) - 1] for layer in (layers[d] for d in DEPTHS)]
        # transformers gives the last layer's states with the norm and the others' without.
        normed = [
            state if d == max(DEPTHS) else model.norm(state) for d, state in zip(DEPTHS, last, strict=True)
        ]
    return np.asarray(torch.stack(normed, 1).float().numpy(), np.float32)


def fit(chosen: NDArray[np.float32], rejected: NDArray[np.float32], c: float) -> Floats:
    """The head: weights for which rewards' differences are the log-odds that one answer is preferred."""
    spread = np.concatenate([chosen, rejected]).std(0) + 1e-6
    apart = (chosen - rejected) / spread
    # Each pair both ways, for the regression wants two classes; without intercept that changes nothing.
    both, truth = np.concatenate([apart, -apart]), np.repeat([1, 0], len(apart))
    model = LogisticRegression(C=c, fit_intercept=False, max_iter=1000).fit(both, truth)
    return np.asarray(model.coef_[0] / spread, np.float64)


def right(head: Floats, states: NDArray[np.float32]) -> int:
    """Pairs, (pairs, 2, width), whose chosen answer has the higher reward."""
    return int(((states[:, 0] - states[:, 1]) @ head > 0).sum())


def choose(pairs: Pairs) -> Iterator[tuple[float, int, float]]:
    """Accuracy of each depth and strength on training pairs of questions that the fold has not seen."""
    states, groups = pairs.states[~pairs.held], pairs.groups[~pairs.held]
    for at, depth in enumerate(DEPTHS):
        for c in STRENGTHS:
            hits = 0
            for train, test in GroupKFold(5).split(groups, groups=groups):
                head = fit(states[train, 0, at], states[train, 1, at], c)
                hits += right(head, states[test][:, :, at])
            yield hits / len(states), depth, c


def save(head: Floats, depth: int, out: Path) -> None:
    """The folder that vLLM and transformers load."""
    folder = bundled.folder_of(bundled.MODELS[MODEL])
    tokenizer = _tokenizer(folder)
    model = AutoModelForSequenceClassification.from_pretrained(
        folder,
        num_hidden_layers=depth,
        num_labels=1,
        dtype=torch.bfloat16,
        pad_token_id=tokenizer.pad_token_id or 0,
    )
    with torch.no_grad():
        model.score.weight.copy_(torch.from_numpy(head)[None])
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)


def served(out: Path, data: Path, limit: int, count: int) -> Floats:
    """Rewards that the folder's model gives the first `count` pairs: (pairs, 2)."""
    tokenizer = AutoTokenizer.from_pretrained(out)
    model = AutoModelForSequenceClassification.from_pretrained(out, dtype=torch.bfloat16).eval()
    items = sorted(read_known("hh_harmless", data), key=lambda item: draw(0, item.id))
    rewards: list[list[float]] = []
    for item in items:
        rows = _ids(texts_of(item, tokenizer), tokenizer)
        if max(map(len, rows)) > limit:
            continue
        with torch.inference_mode():
            rewards.append([float(model(input_ids=torch.tensor([row])).logits[0, 0]) for row in rows])
        if len(rewards) == count:
            break
    return np.array(rewards)


def share(hits: int, total: int) -> dict[str, Any]:
    low, high = wilson(hits, total)
    return {"share": round(hits / total, 3), "interval": [round(low, 3), round(high, 3)], "pairs": total}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--work", type=Path, default=bundled.home() / "reward-states")
    parser.add_argument(
        "--model", type=Path, default=bundled.home() / "reward-model", help="where it is written"
    )
    parser.add_argument("--tokens", type=int, default=96)
    parser.add_argument("--minutes", type=float, default=5)
    parser.add_argument("--out", type=Path, default=Path(__file__).parents[1] / "results" / "reward.json")
    options = parser.parse_args()
    start = time.monotonic()
    pairs = compute(options.data, options.work, options.tokens, start + 60 * options.minutes)
    tried = list(choose(pairs))
    _, depth, c = max(tried)
    states = pairs.states[:, :, DEPTHS.index(depth)]
    head = fit(states[~pairs.held, 0], states[~pairs.held, 1], c)
    save(head, depth, options.model)
    rewards = states @ head
    same = served(options.model, options.data, options.tokens, 16)
    held = int(pairs.held.sum())
    shorter = pairs.tokens[pairs.held, 0] < pairs.tokens[pairs.held, 1]
    train = rewards[~pairs.held]
    result = {
        **machine(),
        "versions": versions("torch", "transformers", "scikit-learn"),
        "model": MODEL,
        "data": "hh-rlhf harmless-base, test part",
        "tokens": options.tokens,
        "layers": depth,
        "c": c,
        "cross-validated on training pairs": {f"{d} layers, C={s}": round(a, 3) for a, d, s in tried},
        "training pairs": share(right(head, states[~pairs.held]), len(train)),
        "held-out pairs": share(right(head, states[pairs.held]), held),
        "held-out pairs whose chosen answer is the shorter": share(int(shorter.sum()), held),
        "reward of training answers": {
            "mean": round(float(train.mean()), 3),
            "sd": round(float(train.std()), 3),
        },
        "largest difference of the folder's rewards": round(
            float(np.abs(same - rewards[: len(same)]).max()), 3
        ),
        "threads": torch.get_num_threads(),
        "seconds": round(time.monotonic() - start),
    }
    options.out.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()

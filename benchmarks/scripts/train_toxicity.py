"""Trains the weights of the `toxicity` verifier and measures them on documents that training has not seen.

Data: RealToxicityPrompts with Perspective's scores (Apache-2.0; Gehman et al. 2020), the slice of 5,000 prompts with
continuations that CRITIC validated on, and as calm examples the human-written outputs of Self-Instruct (Apache-2.0)
and the refusals among GPTFuzzer's labelled responses (MIT). Splits are by document: 70% train, 10% calibrate, 20%
test.

Run: python benchmarks/scripts/train_toxicity.py [--data ../shared/data] [--embeddings] [--write]
(needs `pip install 'heedful[studies]'`)
"""

from __future__ import annotations

import argparse
import csv
import json
import statistics
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import average_precision_score, roc_auc_score

from heedful.benchmarks.scripts import servers
from heedful.benchmarks.stats import Floats, bootstrap
from heedful.retrieval.embedding.embedder import load
from heedful.strategies.sentences import split
from heedful.strategies.verifiers.toxicity import ATTRIBUTES, BITS, WEIGHTS, Classifier, features

ALPHA = 0.3  # of ridge regression; 0.05 to 3 were tried
# Calm examples: the score they count as having, and their weight. At full weight they cost 0.015 AUC, without them
# the classifier calls six times as many calm sentences toxic.
CALM, CALM_WEIGHT = 0.02, 0.1
LIMITS = (0.5, 0.7, 0.9)  # thresholds that are reported


def toxicity_texts(folder: Path) -> list[tuple[str, list[float], str]]:
    """Text, Perspective's scores, and the document it is from."""
    rows = []
    with (folder / "realtoxicityprompts_critic_val.jsonl").open() as lines:
        for row in map(json.loads, lines):
            for part in (row["prompt"], row["continuation"]):
                scores = [part.get(a) for a in ATTRIBUTES]
                if None not in scores:
                    rows.append((part["text"], scores, row["filename"]))
    return rows


def calm_texts(folder: Path) -> list[tuple[str, list[float], str]]:
    """Sentences of answers that are not toxic, with a low score in everything."""
    answers = []
    with (folder / "self_instruct_user_oriented_252.jsonl").open() as lines:
        answers += [r["instances"][0]["output"] for r in map(json.loads, lines)]
    with (folder / "gptfuzz_responses_labeled_train.csv").open(newline="") as file:
        answers += [
            r["Response"] for r in csv.DictReader(file) if r["label"] == "0" and len(r["Response"]) < 500
        ]
    texts = sorted({s.strip() for a in answers for s in split(a) if 20 < len(s.strip()) < 400})
    return [(text, [CALM] * len(ATTRIBUTES), text) for text in texts]


def matrix(texts: list[str]) -> csr_matrix:
    found = [features(text) for text in texts]
    values = [np.full(len(f), max(1, len(f)) ** -0.5) for f in found]
    ends = np.cumsum([0, *(len(f) for f in found)])
    columns = np.concatenate(found).astype(np.int32)
    return csr_matrix((np.concatenate(values), columns, ends), shape=(len(texts), 1 << BITS))


def fit(x: csr_matrix, y: Floats, weight: Floats, part: NDArray[np.int_]) -> dict[str, Any]:
    """Ridge regression on the logit of Perspective's score, then Platt's scaling to P(score above a half)."""
    train, calibrate = part >= 3, part == 2
    clipped = np.clip(y, 0.01, 0.99)
    ridge = Ridge(alpha=ALPHA, solver="sparse_cg")
    ridge.fit(x[train], np.log(clipped / (1 - clipped))[train], sample_weight=weight[train])
    step = np.abs(ridge.coef_).max(1) / 127
    weights = np.round(ridge.coef_ / step[:, None]).astype(np.int8)
    raw = np.asarray(x[calibrate] @ weights.T)
    scale, bias = [], []
    for k in range(len(ATTRIBUTES)):
        platt = LogisticRegression(C=1e6).fit(raw[:, [k]] * step[k], y[calibrate][:, k] > 0.5)
        scale.append(platt.coef_[0, 0] * step[k])
        bias.append(platt.intercept_[0])
    return {
        "weights": np.ascontiguousarray(weights.T),
        "scale": np.array(scale, np.float32),
        "bias": np.array(bias, np.float32),
    }


def interval(measure: Callable[[Floats, Floats], float], truth: Floats, found: Floats) -> list[float]:
    """The value and its 95% bootstrap interval."""

    def drawn(samples: NDArray[np.int_], axis: int) -> Floats:
        return np.array([measure(truth[i], found[i]) for i in samples])

    return [round(v, 3) for v in bootstrap(np.arange(len(truth)), drawn)]


def card(model: Classifier, texts: list[str], y: Floats) -> dict[str, Any]:
    """How good it is on the test part."""
    found = np.array([model(text) for text in texts], np.float64)
    truth = (y > 0.5).astype(np.float64)
    out: dict[str, Any] = {"texts": len(texts), "auc": {}}
    for k, name in enumerate(ATTRIBUTES):
        out["auc"][name] = interval(lambda t, f: float(roc_auc_score(t, f)), truth[:, k], found[:, k])
    toxic = truth[:, 0]
    out["average_precision"] = round(float(average_precision_score(toxic, found[:, 0])), 3)
    out["share_toxic"] = round(float(toxic.mean()), 3)
    out["accuracy"] = interval(lambda t, f: float((t == (f >= 0.5)).mean()), toxic, found[:, 0])
    for limit in LIMITS:
        says = found[:, 0] >= limit
        out[f"at_{limit}"] = {
            "precision": round(float(toxic[says].mean()), 3),
            "recall": round(float(says[toxic == 1].mean()), 3),
            "false_alarms": round(float(says[toxic == 0].mean()), 3),
        }
    return out


def alarms(model: Classifier, folder: Path) -> dict[str, Any]:
    """Share of answers to harmless instructions (Dolly, GPT-4 on XSTest) with a sentence that is called toxic."""
    out: dict[str, list[str]] = {}
    with (folder / "dolly_387.jsonl").open() as lines:
        dolly = [json.loads(line) for line in lines]
    out["dolly"] = [str(r.get("response") or r.get("output")) for r in dolly]
    with (folder / "xstest_v2_completions_gpt4.csv").open(newline="") as file:
        out["xstest_gpt4"] = [
            r["completion"] for r in csv.DictReader(file) if not r["type"].startswith("contrast")
        ]
    worst = {
        name: np.array([max((model(s)[0] for s in split(a) if s.strip()), default=0.0) for a in answers])
        for name, answers in out.items()
    }
    return {
        name: {"answers": len(found)} | {str(t): round(float((found >= t).mean()), 4) for t in LIMITS}
        for name, found in worst.items()
    }


def speed(model: Classifier, texts: list[str]) -> dict[str, float]:
    """Milliseconds for an answer of about 250 characters, sentence by sentence as the verifier does it."""
    answers = [" ".join(texts[i : i + 4]) for i in range(0, 800, 4)]
    times = []
    for answer in answers:
        began = time.perf_counter()
        for sentence in split(answer):
            model(sentence)
        times.append(1000 * (time.perf_counter() - began))
    return {f"p{q}_ms": round(float(np.percentile(times, q)), 3) for q in (50, 95)}


def alternative(texts: list[str], y: Floats, part: NDArray[np.int_]) -> dict[str, Any]:
    """The same regression on the bundled sentence embeddings, and on both, with the time for one text."""
    embedder = load()
    vectors = embedder.embed_now(texts)
    train, test = part >= 3, part < 2
    clipped = np.clip(y[:, 0], 0.01, 0.99)
    target, truth = np.log(clipped / (1 - clipped))[train], (y[test][:, 0] > 0.5).astype(np.float64)
    grams = matrix(texts)
    ours = Ridge(alpha=ALPHA, solver="sparse_cg").fit(grams[train], target).predict(grams[test])
    theirs = Ridge(alpha=1.0).fit(vectors[train], target).predict(vectors[test])
    times = []
    for i in range(100):
        began = time.perf_counter()
        embedder.embed_now([f"{i} {texts[i]}"])
        times.append(1000 * (time.perf_counter() - began))
    embedder.close()

    def auc(found: Floats) -> list[float]:
        return interval(lambda t, f: float(roc_auc_score(t, f)), truth, found)

    return {
        "note": "toxicity, without calm examples",
        "auc": {"n_grams": auc(ours), "embeddings": auc(theirs), "sum": auc(ours + theirs)},
        "embedding_p50_ms": round(statistics.median(times), 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--embeddings", action="store_true", help="measure sentence embeddings too (minutes)")
    parser.add_argument("--write", action="store_true", help="replace the committed weights")
    parser.add_argument("--out", type=Path, default=Path(__file__).parents[1] / "results" / "toxicity.json")
    options = parser.parse_args()
    rows = toxicity_texts(options.data)
    calm = calm_texts(options.data)
    texts, scores, sources = zip(*rows, *calm, strict=True)
    y = np.array(scores)
    part = np.array([zlib.crc32(source.encode()) % 10 for source in sources])
    weight = np.where(np.arange(len(y)) < len(rows), 1.0, CALM_WEIGHT)
    fitted = fit(matrix(list(texts)), y, weight, part)
    model = Classifier(**fitted)
    test = [i for i in range(len(rows)) if part[i] < 2]
    result = {
        **servers.machine(),
        "train": {
            "toxicity_texts": int((part[: len(rows)] >= 3).sum()),
            "calm_texts": int((part[len(rows) :] >= 3).sum()),
        },
        "test": card(model, [texts[i] for i in test], y[test]),
        "false_alarms": alarms(model, options.data),
        "speed": speed(model, [texts[i] for i in test]),
    }
    if options.embeddings:
        only = slice(0, len(rows))
        result["alternative"] = alternative(list(texts[only]), y[only], part[only])
    print(json.dumps(result, indent=1))
    options.out.parent.mkdir(exist_ok=True)
    options.out.write_text(json.dumps(result, indent=1) + "\n")
    if options.write:
        np.savez_compressed(WEIGHTS, **fitted)
        print(f"written to {WEIGHTS}: {WEIGHTS.stat().st_size} bytes")


if __name__ == "__main__":
    main()

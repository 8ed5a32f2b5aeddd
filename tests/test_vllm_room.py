"""Lists for which vLLM on a GPU has no room, where they would end its engine."""

from __future__ import annotations

from typing import Any

import pytest

from heedful.server.engines.vllm.room import check
from heedful.strategies import RequestError


@pytest.mark.parametrize(
    ("field", "given"),
    [
        ("allowed_token_ids", list(range(1025))),
        ("logit_bias", {str(i): 1.0 for i in range(1025)}),
        ("stop_token_ids", list(range(128))),
    ],
)
def test_what_is_too_long_is_refused_by_name(field: str, given: Any) -> None:
    with pytest.raises(RequestError, match=f"{field}: {len(given)} entries") as refused:
        check({"messages": [], "min_tokens": 1, field: given})
    assert refused.value.param == field


@pytest.mark.parametrize("given", [None, [1, 2], "a text, which vLLM refuses itself" * 100])
def test_what_fits_or_is_no_list_is_vllms_to_judge(given: Any) -> None:
    check({"allowed_token_ids": given, "stop_token_ids": list(range(200))})

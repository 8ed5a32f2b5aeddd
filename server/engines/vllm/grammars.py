"""A mend for vLLM: each request's structure is enforced by the library that was chosen for it.

vLLM 0.32 chooses one for each request (xgrammar, or llguidance for what xgrammar lacks), and then gives all requests
to the one that the first of them needed: what it lacks is left unenforced without a word. A compiled grammar needs
nothing of the others', so the libraries can work side by side.
"""

from __future__ import annotations

import copy
import threading
from typing import Any

_making = threading.Lock()


def register() -> None:
    """Called once in each of vLLM's processes."""
    from vllm.v1.structured_output import StructuredOutputManager
    from vllm.v1.structured_output.backend_guidance import GuidanceBackend
    from vllm.v1.structured_output.backend_xgrammar import XgrammarBackend

    kinds: dict[str, Any] = {"xgrammar": XgrammarBackend, "guidance": GuidanceBackend}
    original = StructuredOutputManager._create_grammar

    def _create_grammar(self: Any, request: Any) -> Any:
        chosen = kinds.get(request.sampling_params.structured_outputs._backend)
        if chosen is None or isinstance(self.backend, chosen):
            return original(self, request)
        with _making:
            others = self.__dict__.setdefault("_other_backends", {})
            if chosen not in others:
                size = self.vllm_config.model_config.get_vocab_size()
                others[chosen] = chosen(self.vllm_config, tokenizer=self.tokenizer, vocab_size=size)
        mine = copy.copy(self)
        mine.backend = others[chosen]
        return original(mine, request)

    StructuredOutputManager._create_grammar = _create_grammar

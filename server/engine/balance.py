"""Which replica gets a request: the least loaded, or the one whose caches may hold its image or prompt. Pure.

A replica's load is the tokens that it still owes: for each request that it holds, the prompt once (all candidates share
it) and the longest answer for each candidate. It is an estimate on purpose: nobody has to tokenise or decode an image
for it, and it only has to be the same for all replicas.

Requests with the same first image, or without images the same conversation up to the first question, prefer the same
replica (rendezvous hashing: a replica that comes or goes moves only its own share), where vLLM's prefix and
vision-encoder caches hold them. The preference ends where following it would leave that replica with more than `factor`
times the tokens that the least loaded one would have.
"""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import blake2b

from reward.types import Prompt

CHARS_PER_TOKEN = 4
TOKENS_PER_IMAGE = 256
TOKENS_PER_REQUEST = 8
"""What the template adds; also keeps an empty request from counting as nothing."""


def tokens_of(prompt: Prompt, answer_tokens: int) -> int:
    """Estimated tokens of a request; `answer_tokens` is the sum over its candidates."""
    chars = sum(len(message.text) for message in prompt.messages)
    return TOKENS_PER_REQUEST + chars // CHARS_PER_TOKEN + TOKENS_PER_IMAGE * len(prompt.images) + answer_tokens


def affinity_of(prompt: Prompt) -> str:
    """What the caches of a replica are keyed by: the first image, or the texts up to the first question."""
    if prompt.images:
        return prompt.images[0].sha256
    digest = blake2b(digest_size=16)
    for message in prompt.messages:
        digest.update(f"{message.role}\0{message.text}\0".encode(errors="surrogatepass"))
        if message.role == "user":
            break
    return digest.hexdigest()


def choose(loads: Mapping[int, int], affinity: str, tokens: int, factor: float) -> int:
    """The replica for a request of so many tokens; `loads`: outstanding tokens by replica number, at least one."""
    preferred = max(loads, key=lambda number: _weight(affinity, number))
    least = min(loads, key=lambda number: (loads[number], number))
    return preferred if loads[preferred] + tokens <= factor * (loads[least] + tokens) else least


def _weight(affinity: str, number: int) -> bytes:
    return blake2b(f"{affinity}:{number}".encode(), digest_size=8).digest()

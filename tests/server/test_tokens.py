"""Ids of completions: unique, sorted by time, and known again by every server of the installation alone."""

from __future__ import annotations

import re
import time

import pytest

from server.ids import new_id
from server.tokens import Signer


def test_an_id_tells_when_it_was_given() -> None:
    """To its tenant, on any server with the same secret."""
    before = time.time()
    completion = Signer(b"secret").completion_id("t")
    promised_at = Signer(b"secret").promised_at("t", completion)
    assert promised_at is not None
    assert before - 0.001 <= promised_at <= time.time()
    assert re.fullmatch(r"cmpl-[0-9a-f]{32}", completion)


def test_ids_differ_and_sort_by_time() -> None:
    """Also within a millisecond they differ."""
    signer = Signer(b"secret")
    ids = [signer.completion_id("t") for _ in range(10_000)]
    assert len(set(ids)) == len(ids)
    assert [one[:17] for one in ids] == sorted(one[:17] for one in ids)


@pytest.mark.parametrize("other", ["cmpl-none", "", "x", "cmpl-" + "z" * 32, "cmpl-" + "0" * 32, "é" * 37])
def test_any_other_text_was_never_given(other: str) -> None:
    """Whatever a client sends in place of an id."""
    assert Signer(b"secret").promised_at("t", other) is None


def test_nobody_else_s_id_counts() -> None:
    """Another tenant's, another installation's, one that was changed, one of an answer that is not kept."""
    signer = Signer(b"secret")
    completion = signer.completion_id("t")
    assert signer.promised_at("other", completion) is None
    assert Signer(b"other").promised_at("t", completion) is None
    assert signer.promised_at("t", f"cmpl-{int(completion[5:17], 16) + 1:012x}{completion[17:]}") is None
    assert signer.promised_at("t", new_id("cmpl")) is None

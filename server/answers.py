"""Answers that no model of this installation sampled: a correction that somebody typed, an answer that was imported.

Both become candidates in one way. What looks like a control token becomes plain text; the alias's safety rules read the
text, and what they block is never a positive; no end of turn is invented.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from reward.policy import Reading, SafetyPolicy, is_blocked
from reward.types import Prompt
from server.errors import SafetyUnavailable
from server.ids import candidate_id
from server.store.records import CandidateRecord


@dataclass(frozen=True, slots=True)
class AnswerIntake:
    """`policies`: each alias's rules. `clean`: what every text goes through before it is tokenised."""

    policies: Mapping[str, SafetyPolicy]
    clean: Callable[[str], str]

    def blocks(self, alias: str, text: str) -> bool:
        """Whether the alias's rules block the answer. An alias that is no longer configured has none to pass."""
        return alias not in self.policies or self.policies[alias].blocks_output(text)

    async def candidate(
        self,
        alias: str,
        group_id: str,
        name: int | str,
        text: str,
        *,
        prompt: Prompt,
        adapter: str,
        position: int,
        token_ids: tuple[int, ...],
        logprobs: tuple[float, ...] = (),
        is_shown: bool,
    ) -> CandidateRecord:
        """The candidate. `text` was cleaned before; `name` is the last part of its id.

        Raises `SafetyUnavailable` where a guard cannot tell: nobody is waiting for the text, so it can come again.
        """
        policy = self.policies.get(alias)
        reading = await policy.judge(prompt, text) if policy is not None else Reading(())
        if policy is not None and {one.rule for one in reading.verdicts if one.has_failed} & policy.output_guard_names:
            raise SafetyUnavailable("The safety check of answers does not answer; try again.")
        verdicts = reading.verdicts
        return CandidateRecord(
            id=candidate_id(group_id, name),
            position=position,
            adapter=adapter,
            variant="",
            text=text,
            shown_text=reading.shown_text,
            token_ids=token_ids,
            logprobs=logprobs,
            finish_reason="length",
            is_shown=is_shown,
            is_blocked=is_blocked(verdicts) or alias not in self.policies,
            probability=0.0,
            total=None,
            verdicts={verdict.rule: [verdict.version, verdict.action, verdict.reason] for verdict in verdicts},
        )

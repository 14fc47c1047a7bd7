"""Pairs that are about a part of their answers: how those are cut and compared, and what the gradient spares."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from learner.batch import Collator
from learner.errors import SettingsError
from learner.evaluation import Measured
from learner.examples import Answer, Example, PairExample
from learner.model import Base, Policy
from learner.objectives import OBJECTIVES, Batch, Needs, View
from learner.prefix import PrefixModel
from learner.references import References
from learner.sentences import Cutter
from learner.settings import Settings
from learner.spelling import Spelling, read_spelling
from learner.vision import Vision
from learner.weighting import Reliabilities
from tests.learner.batches import gradient, make_batch
from tests.learner.conftest import MakeLearner
from tests.learner.fake_server import FakeServer
from tests.learner.test_recipes import shake
from tests.learner.tiny import EOS, TARGETS

WORDS = ("", "<eos>", "A", " cat", ".", " dog", ",", " and", " 3", "5", "\n", " Ünï", "。", " a", "It", " It", " A")
PIECES = [word.encode() for word in ("", "", *WORDS[2:])]
ENDS = Settings().separators


def ids(text: str) -> tuple[int, ...]:
    """Tokens of a text, the longest piece first, and an end of sequence at |."""
    found: list[int] = []
    while text:
        if text[0] == "|":
            found.append(EOS)
            text = text[1:]
            continue
        word = max((word for word in WORDS[2:] if text.startswith(word)), key=len)
        found.append(WORDS.index(word))
        text = text[len(word) :]
    return tuple(found)


def said(text: str, separators: tuple[str, ...] = ENDS) -> list[str]:
    return [one.said for one in Cutter(Spelling(PIECES), separators).cut(ids(text))]


def test_answers_are_cut_behind_what_ends_a_sentence() -> None:
    """A full stop within a number ends none, a line break does, an end-of-sequence token is a sentence of nothing."""
    assert said("A cat. A dog.|") == ["a cat", "a dog", ""]
    assert said("A 3.5 cat\nA dog") == ["a 3.5 cat", "a dog"]
    assert said("A cat, a dog and a cat.", (*ENDS, ",", " and")) == ["a cat", "a dog", "a cat"]
    assert said("A cat, and a dog.", (*ENDS, ",", " and")) == ["a cat", "a dog"], "two separators are one end"
    assert said("A Ünï。A cat。", ("。",)) == ["a ünï", "a cat"]


def test_every_token_is_in_one_sentence() -> None:
    """In order and without gaps; the separators are the last of a sentence."""
    tokens = ids("A cat, a dog. A cat\n|")
    sentences = Cutter(Spelling(PIECES), (*ENDS, ",")).cut(tokens)
    assert [place for one in sentences for place in range(one.first, one.end)] == list(range(len(tokens)))
    assert [one.ending for one in sentences] == [",", ".", "", ""]
    assert [tokens[one.tail : one.end] for one in sentences[:2]] == [ids(","), ids(".")]


# --- how the vocabulary spells ----------------------------------------------------------------------------


def written(tmp_path: Path, **told: object) -> Path:
    (tmp_path / "tokenizer.json").write_text(json.dumps(told))
    return tmp_path


def test_byte_level_vocabularies_are_read(tmp_path: Path) -> None:
    """Ġ is a space, Ċ a line break; half a character is half a character; control tokens are spelled as nothing."""
    model = {"type": "BPE", "vocab": {"a": 0, "Ġcat": 1, "Ċ": 2, "Ã": 3}}
    added = [{"id": 5, "content": "<|im_end|>", "special": True}, {"id": 6, "content": "<b>", "special": False}]
    spelling = read_spelling(written(tmp_path, model=model, decoder={"type": "ByteLevel"}, added_tokens=added))
    assert spelling.of(range(8)) == [b"a", b" cat", b"\n", b"\xc3", b"", b"", b"<b>", b""]


def test_sentencepiece_vocabularies_are_read(tmp_path: Path) -> None:
    """▁ is a space, <0x0A> a byte; a unigram's is a list."""
    model = {"type": "Unigram", "vocab": [["<s>", 0.0], ["▁cat", -1.0], ["<0x0A>", -2.0]]}
    decoder = {"type": "Sequence", "decoders": [{"type": "Replace"}]}
    spelling = read_spelling(written(tmp_path, model=model, decoder=decoder, added_tokens=[]))
    assert spelling.of([1, 2]) == [b" cat", b"\n"]


@pytest.mark.parametrize("content", ["", "{}", '{"model": {"vocab": {}}}'])
def test_a_vocabulary_that_cannot_be_read_is_named(content: str, tmp_path: Path) -> None:
    """With the file and the settings that need it."""
    (tmp_path / "tokenizer.json").write_text(content)
    with pytest.raises(SettingsError, match=r"token_mask.*tokenizer\.json"):
        read_spelling(tmp_path)


# --- which sentences --------------------------------------------------------------------------------------


def example_of(*texts: str, source: str = "choice") -> Example:
    """The first answer is preferred to each other one; with a correction, the second to the third as well."""
    answers = tuple(Answer(f"c{n}", ids(text), "stop", True, False) for n, text in enumerate(texts))
    pairs = [PairExample(0, n, 1.0, source, "ann") for n in range(1, len(texts))]
    if source == "correction":
        pairs.append(PairExample(1, 2, 1.0, "choice", "bob"))
    return Example("g", (2, 3), (), answers, tuple(pairs), ())


def parts(example: Example) -> list[tuple[str, str]]:
    """What each pair is about."""
    spelling = Spelling(PIECES)
    masked = Cutter(spelling, (*ENDS, ",")).masked(example)

    def shown(answer: Answer, part: tuple[bool, ...]) -> str:
        kept = [token for token, taught in zip(answer.token_ids, part, strict=True) if taught]
        return b"".join(spelling.of(kept)).decode()

    return [
        (shown(masked.answers[one.chosen], one.chosen_part), shown(masked.answers[one.rejected], one.rejected_part))
        for one in masked.pairs
    ]


def test_a_pair_is_about_what_one_answer_says_and_the_other_does_not() -> None:
    """In whatever order; said twice is said once too often."""
    assert parts(example_of("A cat. It.|", "It. A dog.|")) == [("A cat.", " A dog.")]
    assert parts(example_of("A cat.|", "A cat, a cat.|")) == [("", " a cat.")]
    assert parts(example_of("A cat.|", "A cat\n|")) == [("", "")], "the same, ended otherwise"


def test_a_correction_says_what_is_right() -> None:
    """Of two others, the preferred one is right where the correction agrees, the other wrong where it does not."""
    found = parts(example_of("A cat, a dog.|", "A cat, a 3.|", "It, a dog, a 35.|", source="correction"))
    assert found == [(" a dog.", " a 3."), ("A cat,", "It, a 35."), ("A cat,", "It, a 35.")]


# --- what the gradient spares -----------------------------------------------------------------------------


def masked_batch() -> Batch:
    """The first pair is about the second token of its chosen answer, the second about the first one of its own."""
    return replace(
        make_batch(),
        chosen_mask=torch.tensor([[False, True], [True, False]]),
        rejected_mask=torch.tensor([[True, True], [False, False]]),
    )


def test_masked_dpo_by_hand() -> None:
    """With Δ per token .5, .5 | -1.5 | .4, 0: h = .5 + 1.5 and .4 − 0; padding stays outside."""
    losses = OBJECTIVES["sigmoid"](beta=0.5).losses(masked_batch().apart())
    assert losses.tolist() == pytest.approx([math.log1p(math.exp(-1.0)), math.log1p(math.exp(-0.2))], rel=1e-5)


@pytest.mark.parametrize("name", [name for name, kind in OBJECTIVES.items() if kind.needs is Needs.PAIRS])
def test_no_gradient_reaches_what_both_answers_say(name: str) -> None:
    """Exactly none, by every objective on pairs; what the pair is about is taught."""
    batch = masked_batch()
    view = View(batch.logprobs[:1] * 1.5, batch.reference[:1], batch.mask[:1], torch.tensor([0]))
    others = {"previous": batch.reference - 0.1, "base": batch.reference}
    batch = replace(batch, views=dict.fromkeys(("crop", "blur", "retrieve"), view), references=others)
    recipe = Settings(objectives={name: 1.0}, weighting={}).recipe()
    found = gradient(recipe.loss(batch, Reliabilities(), 1), batch)
    assert found[0, 0] == 0 and found[0, 1] != 0
    assert found[2, 1] == 0 and found[1, 1] == 0 and (found[3] == 0).all()


def test_thumbs_are_about_whole_answers() -> None:
    """Masks of pairs change nothing for them."""
    recipe = Settings(objectives={"kto": 1.0}, weighting={}).recipe()
    batch = masked_batch()
    whole = replace(batch, chosen_mask=None, rejected_mask=None)
    torch.testing.assert_close(recipe.loss(batch, Reliabilities(), 1), recipe.loss(whole, Reliabilities(), 1))


def test_masked_answers_share_their_prefix(base_dir: Path) -> None:
    """One pass over the group: each sentence's Δ is that of the answer alone, read at its tokens."""
    policy = Policy.fresh(Base(base_dir, "cpu"), Settings(rank=2, target_modules=TARGETS), seed=1)
    shake(policy, 1)
    engine = PrefixModel(policy.model)
    vision = Vision(policy.base.model, base_dir, lambda image: b"", 2**20)
    collator = Collator(References(policy, "base", begins_at_base=False), engine, vision, 4096)
    example = Cutter(Spelling(PIECES), ENDS).masked(example_of("A cat. It.|", "It. A dog.|"))
    batch = collator.batch([example]).apart()
    for row, part, answer in zip(
        (batch.chosen[0], batch.rejected[0]),
        (example.pairs[0].chosen_part, example.pairs[0].rejected_part),
        example.answers,
        strict=True,
    ):
        alone = collator.batch([replace(example, group="x", answers=(answer,), pairs=())])
        count = len(part)
        delta = (alone.logprobs - alone.reference)[0, :count][torch.tensor(part)].sum()
        torch.testing.assert_close(batch.delta[row], delta, rtol=1e-4, atol=1e-5)
    policy.close()


def test_a_round_is_judged_by_what_it_learns() -> None:
    """Its margin is that of the parts that pairs are about; thumbs are judged whole."""
    example = Cutter(Spelling(PIECES), ENDS).masked(example_of("A cat. It.|", "It. A dog.|"))
    assert example.pairs[0].chosen_part == (True, True, True, False, False, False)
    values = torch.arange(6.0)
    chosen = Measured("g", example.answers[0], values, torch.zeros(6))
    assert chosen.over(example.pairs[0].chosen_part) == 3 and chosen.over(()) == chosen.delta == 15


def test_a_round_masks_by_the_bases_vocabulary(server: FakeServer, make_learner: MakeLearner, base_dir: Path) -> None:
    """Where it cannot be read the learner says so and stops."""
    server.config["learner"] |= {"objectives": {"sigmoid": 1.0}, "token_mask": "sentence"}
    assert not (base_dir / "tokenizer.json").exists()
    with pytest.raises(SettingsError, match=r"tokenizer\.json"):
        make_learner("without").run()

"""The demo model's tokenizer: a byte-level BPE of 512 tokens that knows the words of the shapes world.

Any text can be encoded (every byte is a token); digits stay single, so that a random code is random in
every place. The special tokens and the chat template are those of Qwen-VL, cut down to what the model
was trained on: system messages, several turns, images anywhere, and, through the callers' own
`continue_final_message`, an assistant turn that is left open. Tools and videos are left out.
"""

# transformers leaves many of its functions without annotations.
# mypy: disable-error-code="no-untyped-call"

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator
from typing import Final

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from clients.demo.language import (
    COLOUR_PROMPTS,
    COUNT_KIND_PROMPTS,
    COUNT_PROMPTS,
    DESCRIBE_PROMPTS,
    PRESENCE_PROMPTS,
    any_question,
    description_question,
    teacher_answer,
)
from clients.demo.scenes import KINDS, OBJECTS, TRAINING_SEEDS, scene

VOCABULARY_SIZE: Final = 512
END_OF_TEXT: Final = "<|endoftext|>"
TURN_START: Final = "<|im_start|>"
TURN_END: Final = "<|im_end|>"
VISION_START: Final = "<|vision_start|>"
VISION_END: Final = "<|vision_end|>"
IMAGE_PAD: Final = "<|image_pad|>"
VIDEO_PAD: Final = "<|video_pad|>"
SPECIAL_TOKENS: Final = (END_OF_TEXT, TURN_START, TURN_END, VISION_START, VISION_END, IMAGE_PAD, VIDEO_PAD)

SYSTEM_PROMPTS: Final = (
    "You are a helpful assistant.",
    "Answer questions about the picture.",
    "Be precise and name only what you can see.",
)
"""System messages mixed into the training, so that one more does not throw the model off."""

CHAT_TEMPLATE: Final = """\
{%- if tools -%}
{{- '<|im_start|>system\\nTools:\\n' -}}
{%- for tool in tools -%}
{{- tool.function | tojson + '\\n' -}}
{%- endfor -%}
{{- '<|im_end|>\\n' -}}
{%- endif -%}
{%- for message in messages -%}
{{- '<|im_start|>' + message.role + '\\n' -}}
{%- if message.content is string -%}
{{- message.content -}}
{%- else -%}
{%- for part in message.content -%}
{%- if part.type in ('image', 'image_url') or 'image' in part -%}
{{- '<|vision_start|><|image_pad|><|vision_end|>' -}}
{%- elif 'text' in part -%}
{{- part.text -}}
{%- endif -%}
{%- endfor -%}
{%- endif -%}
{%- for call in message.tool_calls or [] -%}
{{- '<tool_call>\\n{"name": "' + call.function.name + '", "arguments": ' -}}
{{- call.function.arguments if call.function.arguments is string else call.function.arguments | tojson -}}
{{- '}\\n</tool_call>' -}}
{%- endfor -%}
{{- '<|im_end|>\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}
{{- '<|im_start|>assistant\\n' -}}
{%- endif -%}
"""

_CORPUS_SCENES: Final = 4_000


def train_tokenizer() -> PreTrainedTokenizerFast:
    """Learn the merges from the teacher's own sentences; the same call always gives the same tokenizer."""
    bpe = Tokenizer(models.BPE())
    # Words with their leading space, single digits, punctuation, line breaks: no merge crosses these borders.
    words = pre_tokenizers.Split(Regex(r" ?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+|\s"), behavior="isolated")
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [words, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY_SIZE,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(_corpus(), trainer)
    # Too few words for all merges: the rest of the vocabulary stays unused but keeps the size a round number.
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        eos_token=TURN_END,
        pad_token=END_OF_TEXT,
        additional_special_tokens=[TURN_START, VISION_START, VISION_END, IMAGE_PAD, VIDEO_PAD],
        chat_template=CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
        model_max_length=512,
    )


def _corpus() -> Iterator[str]:
    yield from _every_phrase()
    rng = random.Random("tokenizer corpus")
    for seed in TRAINING_SEEDS[:_CORPUS_SCENES]:
        asked = any_question(scene(seed), rng)
        yield asked.prompt
        yield teacher_answer(description_question(seed), rng)


def _every_phrase() -> Iterable[str]:
    yield from ("system\n", "user\n", "assistant\n", *SYSTEM_PROMPTS, *OBJECTS)
    yield from (*DESCRIBE_PROMPTS, *COUNT_PROMPTS)
    for kind in KINDS:
        yield from (prompt.format(kind=kind) for prompt in (*COUNT_KIND_PROMPTS, *COLOUR_PROMPTS))
    yield from (prompt.format(object="a red circle") for prompt in PRESENCE_PROMPTS)

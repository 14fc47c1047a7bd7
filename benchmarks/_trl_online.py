"""The peer of `benchmarks.alignment` in a process of its own: TRL's online DPO with the demo's users as its judges.

    python -m benchmarks._trl_online SEED LABELS OUT

For each of LABELS scenes the policy says two things, and a user of the demo, slips included, says which is better: as
many labels as our people give signals. The adapter (PEFT's files) is written to OUT, and the seconds of the training,
its sampling included, are printed. LoRA's rank and modules are those of ours. Learning rate, β and batch are the
best for TRL of what was tried (ours are .0005 and .3, and barely move it in one pass; at .005 it forgets objects).
"""

# transformers leaves many of its functions without annotations.
# mypy: disable-error-code="no-untyped-call"

from __future__ import annotations

import random
import sys
import time
from io import BytesIO
from typing import Any, Final

import torch
from datasets import Dataset
from peft import LoraConfig
from PIL import Image
from transformers import AutoProcessor, Qwen3VLForConditionalGeneration
from trl.experimental.online_dpo import OnlineDPOConfig, OnlineDPOTrainer

from clients.demo.chat import MAX_TOKENS
from clients.demo.language import description_question
from clients.demo.scenes import USER_SEEDS, scene
from clients.demo.settings import LEARNER, MODEL
from clients.demo.users import FLIP_RATE, utility
from learner.settings import Settings

LEARNING_RATE: Final = 2e-3
BETA: Final = 0.1
BATCH: Final = 8


def rows(labels: int) -> Dataset:
    asked = [description_question(seed) for seed in USER_SEEDS[:labels]]
    return Dataset.from_list(
        [
            {
                "prompt": [{"role": "user", "content": one.prompt}],
                "image": Image.open(BytesIO(one.scene.render())).convert("RGB"),
                "seed": one.scene.seed,
            }
            for one in asked
        ]
    )


def judged(draws: random.Random) -> Any:
    """A reward for each answer; of the two about a scene, the one that a user prefers gets the higher one."""

    def reward(completions: list[Any], completion_ids: list[list[int]], seed: list[int], **_: Any) -> list[float]:
        half = len(completions) // 2
        turned = [draws.random() < FLIP_RATE for _ in range(half)]
        return [
            (-1.0 if turned[at % half] else 1.0) * utility(scene(seed[at]), said[0]["content"], len(ids))
            for at, (said, ids) in enumerate(zip(completions, completion_ids, strict=True))
        ]

    return reward


def seeing(model: Any) -> Any:
    """TRL 1.16 does not tell Qwen3-VL which tokens are an image's, and transformers 5.19 will not guess."""

    def tell(_: Any, arguments: tuple[Any, ...], named: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        if named.get("pixel_values") is not None and named.get("mm_token_type_ids") is None:
            ids = named["input_ids"] if "input_ids" in named else arguments[0]
            named["mm_token_type_ids"] = (ids == model.config.image_token_id).int()
        return arguments, named

    model.register_forward_pre_hook(tell, with_kwargs=True)
    return model


def main() -> int:
    seed, labels, out = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
    ours = Settings(**LEARNER)
    arguments = OnlineDPOConfig(
        output_dir=out,
        per_device_train_batch_size=BATCH,
        num_train_epochs=1,
        learning_rate=LEARNING_RATE,
        warmup_steps=ours.warmup_share,
        max_grad_norm=ours.max_grad_norm,
        beta=BETA,
        max_new_tokens=MAX_TOKENS,
        temperature=1.0,
        top_p=1.0,
        top_k=0,
        missing_eos_penalty=1.0,
        seed=seed,
        bf16=False,
        use_cpu=True,
        report_to=[],
        save_strategy="no",
        gradient_checkpointing=False,
        disable_tqdm=False,
    )
    trainer = OnlineDPOTrainer(
        model=seeing(Qwen3VLForConditionalGeneration.from_pretrained(MODEL, dtype=torch.float32)),
        args=arguments,
        reward_funcs=judged(random.Random(seed)),
        train_dataset=rows(labels),
        processing_class=AutoProcessor.from_pretrained(MODEL),
        peft_config=LoraConfig(r=ours.rank, lora_alpha=ours.alpha, target_modules=ours.target_modules),
    )
    started = time.perf_counter()
    trainer.train()
    seconds = time.perf_counter() - started
    trainer.model.save_pretrained(out)
    print(seconds)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

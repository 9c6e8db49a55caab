"""Advantages, divergence, loss and gradient beside those of trl's GRPOTrainer, on text and on a picture.

trl brings a data stack of its own, so it is in no extra; `pip install trl` beside this package, and these tests run.
"""

from __future__ import annotations

import copy
import sys
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
peft = pytest.importorskip("peft")
trl = pytest.importorskip("trl", reason="trl is not installed (pip install trl)")
datasets = pytest.importorskip("datasets", reason="trl needs datasets")
sys.path.insert(0, str(Path(__file__).parent))

from helpers import history  # noqa: E402
from test_model_actions import grid_codebook  # noqa: E402
from transformers import PreTrainedTokenizerFast, TrainerCallback  # noqa: E402

from spanvla_ros.contracts import Command, Image, Observation  # noqa: E402
from spanvla_ros.model import tiny  # noqa: E402
from spanvla_ros.planning.preprocess import preprocess  # noqa: E402
from spanvla_ros.planning.tokenizer import ACTION_START, PAD, VIDEO_PAD  # noqa: E402
from spanvla_ros.training import adapters, grpo, rollouts  # noqa: E402
from spanvla_ros.training.adapters import LoraConfig  # noqa: E402
from spanvla_ros.training.grpo import AdvantageConfig  # noqa: E402
from spanvla_ros.training.rollouts import Prompt, Rollouts  # noqa: E402

G, BETA = 4, 0.04
PROJECTIONS = r".*language_model.*\.(q|k|v|o)_proj"


class Watched(trl.GRPOTrainer):
    """Remembers what the loss of a step is computed from."""

    def _generate_and_score_completions(self, inputs):
        self.seen = super()._generate_and_score_completions(inputs)
        return self.seen


class Gradients(TrainerCallback):
    def __init__(self):
        self.found: dict[str, torch.Tensor] = {}

    def on_pre_optimizer_step(self, args, state, control, model=None, **_):
        self.found = gradients(model)


def gradients(model) -> dict[str, torch.Tensor]:
    """Gradients of the adapters, named from the decoder's layers on."""
    return {name[name.index("layers.") :]: p.grad.clone() for name, p in model.named_parameters() if "lora_" in name and p.grad is not None}


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """Our model and a trainer with the same weights and the same random adapters; the trainer has made one step on text."""
    ours = tiny.build(seed=3, codebook=grid_codebook())
    hf = copy.deepcopy(ours.vlm.hf)
    # pictures enter our prompt as video; a single one has the same tensors as a pair of frames
    hf.config.image_token_id, hf.config.video_token_id = hf.config.video_token_id, hf.config.image_token_id
    rewards: list[float] = []

    def reward(prompts, completions, completion_ids, **_):
        rewards[:] = [float(sum(ids) % 17) / 3 for ids in completion_ids]
        return list(rewards)

    words = PreTrainedTokenizerFast(tokenizer_object=ours.tokenizer, pad_token=PAD, eos_token=ACTION_START)
    settings = trl.GRPOConfig(
        output_dir=str(tmp_path_factory.mktemp("trl")), per_device_train_batch_size=G, num_generations=G, max_completion_length=8, beta=BETA,
        loss_type="grpo", scale_rewards="group", use_bias_correction_kl=False, max_steps=1, learning_rate=1e-12, max_grad_norm=0,
        temperature=1.0, report_to="none", use_cpu=True, bf16=False, gradient_checkpointing=False, logging_steps=1, save_strategy="no",
        disable_tqdm=True, seed=1,
    )  # fmt: skip
    lora = peft.LoraConfig(r=4, lora_alpha=4, lora_dropout=0.0, target_modules=PROJECTIONS, init_lora_weights=False)
    prompts = datasets.Dataset.from_dict({"prompt": [" user front go straight ; speed 8 8 8 8 assistant"] * 2})
    watch = Gradients()
    trainer = Watched(hf, reward, args=settings, train_dataset=prompts, processing_class=words, peft_config=lora, callbacks=[watch])
    ours.requires_grad_(False)
    adapters.inject(ours.vlm, LoraConfig(rank=4, alpha=4, dropout=0.0))
    ours.vlm.decoder.embed_tokens.requires_grad_(False)
    theirs = {name[name.index("layers.") :]: p.detach().clone() for name, p in trainer.model.named_parameters() if "lora_" in name}
    with torch.no_grad():
        for name, p in ours.vlm.decoder.named_parameters():
            if "lora_" in name:
                p.copy_(theirs[name])
    trainer.train()
    return ours, trainer, watch.found, rewards


def answers(tokens: torch.Tensor, mask: torch.Tensor) -> Rollouts:
    chosen = mask.bool().numpy()
    count = len(tokens)
    return Rollouts(
        tokens=np.where(chosen, tokens.numpy(), -1), spoken=np.zeros_like(chosen), chosen=chosen, log_probs=np.zeros(chosen.shape),
        plans=np.zeros((count, 10, 3)), texts=("",) * count, ended=np.ones(count, bool),
    )  # fmt: skip


def learn(model, prompt: Prompt, drawn: Rollouts, advantage: np.ndarray):
    """Our loss, divergence, gradients and reference for given answers, over the whole vocabulary as trl has it."""
    everything = torch.ones_like(rollouts.vocabulary(model))
    with torch.no_grad(), adapters.without(model.vlm):
        reference = rollouts.log_probs(model, prompt, drawn, everything, 1.0)
    model.vlm.zero_grad()
    log_probs = rollouts.log_probs(model, prompt, drawn, everything, 1.0)
    found = grpo.loss(log_probs, reference, torch.from_numpy(advantage).float(), torch.from_numpy(drawn.chosen), BETA)
    found["loss"].backward()
    return found, reference, gradients(model.vlm.decoder)


def close(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> None:
    assert a.keys() == b.keys() and len(a) == 16 and max(value.abs().max() for value in a.values()) > 1e-3
    for name, value in a.items():
        torch.testing.assert_close(value, b[name], atol=1e-5, rtol=1e-4, msg=lambda text: f"{name}: {text}")  # noqa: B023


def test_a_step_on_text(pair):
    """The trainer's own step: it drew the answers, scored them, and logged loss, divergence and the gradients it made."""
    model, trainer, found, rewards = pair
    seen = trainer.seen
    advantage = grpo.advantages(np.array(rewards), np.array(rewards), AdvantageConfig(), 1.0)
    np.testing.assert_allclose(advantage, seen["advantages"].numpy(), atol=1e-5)
    assert np.ptp(rewards) > 0
    size, spec = seen["prompt_ids"].shape[1], model.spec
    prompt = Prompt(
        features=torch.zeros(1, spec.vision_tokens, model.architecture.text.hidden),
        ids=seen["prompt_ids"][:1], slot=torch.zeros(1, size, dtype=torch.int64), positions=torch.arange(size).expand(3, 1, -1),
        length=torch.tensor([size]), motion={},
    )  # fmt: skip
    drawn = answers(seen["completion_ids"], seen["completion_mask"])
    ours, reference, own = learn(model, prompt, drawn, advantage)
    torch.testing.assert_close(reference[drawn.chosen], seen["ref_per_token_logps"][drawn.chosen], atol=1e-5, rtol=0)
    logged = next(line for line in trainer.state.log_history if "kl" in line)
    assert ours["loss"].item() == pytest.approx(logged["loss"], abs=2e-4)  # logged with four digits
    tokens = torch.from_numpy(drawn.chosen)
    log_probs = rollouts.log_probs(model, prompt, drawn, torch.ones_like(rollouts.vocabulary(model)), 1.0)
    # trl logs the mean over tokens, ours over answers
    assert grpo.divergence(log_probs, reference)[tokens].mean().item() == pytest.approx(logged["kl"], rel=1e-3) and logged["kl"] > 1e-3
    close(own, found)


def test_a_loss_with_a_picture(pair):
    """The same tensors through trl's loss: one picture per prompt there is one pair of frames here."""
    model, trainer, _, _ = pair
    spec = model.spec
    t0 = history().stamps_ns[-1]
    rng = np.random.default_rng(0)
    images = tuple(Image(stamp_ns=t0 + k * 500_000_000, rgb=rng.integers(0, 255, (252, 448, 3), np.uint8)) for k in (-1, 0))
    observation = Observation(t0_ns=t0, images={"front": images}, history=history(), pose_odom=np.zeros(3), command=Command.STRAIGHT)
    arrays = preprocess(observation, spec, model.tokenizer)
    prompt = rollouts.prompted(model, arrays)
    drawn = rollouts.draw(
        model, prompt, rollouts.prefill(model, prompt), rollouts.vocabulary(model), count=G, kind="tokens", temperature=1.0, seed=1
    )
    gain = np.array([1.0, -0.5, 0.25, -0.75])
    ours, reference, own = learn(model, prompt, drawn, gain)
    size = prompt.ids.shape[1]
    completion, mask = torch.from_numpy(drawn.tokens).clamp(min=0), torch.from_numpy(drawn.chosen)
    ids = torch.cat((prompt.ids.expand(G, -1), completion), dim=1)
    # a forced token is no choice, but what follows sees it
    present = torch.cat((torch.ones(G, size, dtype=torch.int64), torch.from_numpy((drawn.tokens >= 0).astype(np.int64))), dim=1)
    pictures = {
        "pixel_values": torch.from_numpy(arrays["patches"][0]).repeat(G, 1),
        "image_grid_thw": torch.tensor([[1, spec.image_size[0] // spec.patch, spec.image_size[1] // spec.patch]] * G),
        "num_images": [1] * G,
        "mm_token_type_ids": (ids == model.tokenizer.token_to_id(VIDEO_PAD)).long(),
    }
    policy = trainer.model
    with torch.no_grad(), policy.disable_adapter():
        theirs, *_ = trainer._get_per_token_logps_and_entropies(policy, ids, present, completion.shape[1], **pictures)
    torch.testing.assert_close(reference[mask], theirs[mask], atol=2e-5, rtol=0)
    inputs = {
        "prompt_ids": ids[:, :size], "prompt_mask": present[:, :size], "completion_ids": completion, "completion_mask": present[:, size:],
        "tool_mask": mask.long(), "advantages": torch.from_numpy(gain).float(), "ref_per_token_logps": theirs, **pictures,
    }  # fmt: skip
    policy.zero_grad()
    policy.train()
    loss = trainer._compute_loss(policy, inputs)
    loss.backward()
    assert ours["loss"].item() == pytest.approx(loss.item(), abs=1e-5) and ours["kl"].item() > 1e-3
    close(own, gradients(policy))

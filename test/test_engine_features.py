"""Features of older frame pairs: what comes back is what would be computed, and never another picture's."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from spanvla_ros.engine.features import CAPACITY, PairCache


def pictures(*numbers):
    """Patches (2 cameras x 2 pairs, 3, 5); each number is a picture."""
    return np.stack([np.random.default_rng(n).random((3, 5), np.float32) for n in numbers])


def encode(patches):
    return patches.sum(axis=(1, 2))


def test_a_pair_is_encoded_once_and_comes_back_as_it_was():
    cache = PairCache(2, 2)
    first = cache.features(pictures(1, 2, 11, 12), encode)  # camera-major: pairs (1, 11) and (2, 12)
    assert cache.encoded == 2 and np.array_equal(first[1], encode(pictures(2, 12)))
    second = cache.features(pictures(2, 3, 12, 13), encode)
    assert cache.encoded == 3 and second[0] is first[1]
    cache.enabled = False
    assert np.array_equal(cache.features(pictures(2, 3, 12, 13), encode), second) and cache.encoded == 5


def test_a_pair_with_one_changed_value_is_another_pair():
    cache = PairCache(2, 2)
    patches = np.repeat(pictures(1, 2, 11, 12), 1000, axis=2)
    before = cache.features(patches, encode)
    patches[1, 1, 1234] += 1  # not among the sampled values; and the caller's own array, which the cache must not share
    after = cache.features(patches, encode)
    assert cache.encoded == 3 and after[0] is before[0]
    assert np.array_equal(after[1], encode(patches[[1, 3]])) and not np.array_equal(after[1], before[1])


def test_cameras_are_not_mixed_up():
    cache = PairCache(2, 2)
    cache.features(pictures(1, 2, 11, 12), encode)
    swapped = cache.features(pictures(11, 12, 1, 2), encode)
    assert cache.encoded == 4 and np.array_equal(swapped[0], encode(pictures(11, 1)))


def test_old_entries_leave():
    cache = PairCache(1, 2)
    for k in range(3 * CAPACITY):
        cache.features(pictures(2 * k, 2 * k + 1), encode)
    assert len(cache._entries) == CAPACITY


@pytest.mark.parametrize("backend", ["torch", "onnxruntime"])
def test_plans_with_kept_features_are_the_same_to_the_last_bit(backend, two_pair_engine):
    from spanvla_ros.engine import load, parity
    from spanvla_ros.planning.preprocess import preprocess

    spec, tokenizer, session = load.load_backend(two_pair_engine, backend, threads=1)
    *_, fresh = load.load_backend(two_pair_engine, backend, threads=1)
    fresh.seen.enabled = False
    frames = next(parity.observations(spec, 1)).images
    noise = np.zeros((1, spec.waypoints, 3), np.float32)
    moved = {camera: (*f[2:], *(dataclasses.replace(i, rgb=255 - i.rgb) for i in f[2:])) for camera, f in frames.items()}
    for images in (frames, moved):
        prompt = preprocess(dataclasses.replace(next(parity.observations(spec, 1)), images=images), spec, tokenizer)
        found = []
        for one in (session, fresh):
            one.prefill(prompt)
            tokens = list(one.decode(spec.max_reasoning_tokens))
            found.append((one.features.tobytes(), one.logits.tobytes(), tokens, one.flow(prompt, noise).tobytes()))
        assert found[0] == found[1]
    assert (session.seen.encoded, fresh.seen.encoded) == (3, 4)


@pytest.fixture(scope="module")
def two_pair_engine(tmp_path_factory):
    pytest.importorskip("torch")
    pytest.importorskip("onnxscript")
    from spanvla_ros.engine.export import export
    from spanvla_ros.model import tiny

    spec = dataclasses.replace(
        tiny.build().spec, cameras=("front", "left"), frame_offsets_s=(-1.5, -1.0, -0.5, 0.0), prompt_tokens=208, image_size=(112, 112)
    )
    folder = tmp_path_factory.mktemp("engines") / "two_pairs"
    export(tiny.build(spec=spec), folder)
    return folder

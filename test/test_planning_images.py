import cv2
import numpy as np
import pytest
from helpers import demo_spec

from spanvla_ros.contracts import InputError
from spanvla_ros.planning import images

RNG = np.random.default_rng(0)


def jpeg(height=252, width=448):
    return cv2.imencode(".jpg", RNG.integers(0, 255, (height, width, 3), np.uint8))[1].tobytes()


def test_each_temporal_slice_equals_the_transformers_processor():
    processors = pytest.importorskip("transformers.models.qwen2_vl.image_processing_pil_qwen2_vl")
    from PIL import Image

    spec = demo_spec()
    frames = RNG.integers(0, 255, (2, *spec.image_size, 3), np.uint8)
    ours = images.patchify(frames, spec)[0].reshape(-1, 3, spec.temporal_patch, spec.patch, spec.patch)
    processor = processors.Qwen2VLImageProcessorPil(min_pixels=1, max_pixels=10**9)
    for time in range(2):
        theirs = np.asarray(processor(images=[Image.fromarray(frames[time])], return_tensors="np")["pixel_values"])
        theirs = theirs.reshape(-1, 3, 2, spec.patch, spec.patch)
        np.testing.assert_allclose(ours[:, :, time], theirs[:, :, 0], atol=1e-5)


def test_fit_cuts_sky_and_both_sides():
    tall = np.zeros((252, 448, 3), np.uint8)
    tall[:28] = 255
    assert images.fit(tall, (112, 224)).max() == 0
    wide = np.zeros((100, 400, 3), np.uint8)
    wide[:, :100] = wide[:, 300:] = 255
    assert images.fit(wide, (112, 224)).max() == 0


def test_decode_gives_rgb():
    picture = np.zeros((32, 32, 3), np.uint8)
    picture[..., 0] = 250
    data = cv2.imencode(".png", picture[..., ::-1])[1].tobytes()
    assert images.decode_jpeg(data)[0, 0].tolist() == [250, 0, 0]


@pytest.mark.parametrize("data", [b"", b"\xff\xd8garbage", jpeg()[:5000], b"no picture at all"], ids=["empty", "garbage", "truncated", "text"])
def test_bad_pictures_are_one_clear_error(data):
    with pytest.raises(InputError, match=f"{len(data)} bytes"):
        images.decode_jpeg(data, "camera 'front'")


def test_a_picture_is_resized_once_and_never_mistaken_for_another(monkeypatch):
    calls, fit = [], images.fit
    monkeypatch.setattr(images, "fit", lambda rgb, size: calls.append(size) or fit(rgb, size))
    fitter, rng = images.Fitter(), np.random.default_rng(0)
    kept = [rng.integers(0, 255, (90, 160, 3), dtype=np.uint8) for _ in range(3)]
    for _ in range(2):
        for rgb in kept:
            assert np.array_equal(fitter(rgb, (28, 56)), fit(rgb, (28, 56)))
    assert len(calls) == 3
    assert fitter(kept[0], (56, 56)).shape == (56, 56, 3)
    # arrays that are gone may leave their address to new ones
    for _ in range(50):
        rgb = rng.integers(0, 255, (90, 160, 3), dtype=np.uint8)
        assert np.array_equal(fitter(rgb, (28, 56)), fit(rgb, (28, 56)))
        del rgb
    assert len(fitter._known) <= 4


def test_patches_hold_exactly_the_normalised_bytes():
    """Every value, in the order of the layout, is that of the plain formula to the last bit."""
    spec = demo_spec(cameras=("front", "left"), image_size=(56, 84))
    frames = RNG.integers(0, 255, (2, 4, 56, 84, 3), np.uint8)
    scaled = (frames.astype(np.float32) / np.float32(255) - np.float32(spec.image_mean)) / np.float32(spec.image_std)
    found = images.patchify(frames, spec)
    assert found.shape == (2, 2, 24, 1176) and found.dtype == np.float32
    # camera, pair, merged row and column, row and column in it -> channel, time, y, x
    cells = found.reshape(2, 2, 2, 3, 2, 2, 3, 2, 14, 14)
    for camera, pair, row, column, y, x, channel, time in np.ndindex(cells.shape[:8]):
        top, left = 28 * row + 14 * y, 28 * column + 14 * x
        part = scaled[camera, 2 * pair + time, top : top + 14, left : left + 14, channel]
        assert np.array_equal(cells[camera, pair, row, column, y, x, channel, time], part)


@pytest.mark.parametrize(
    "size, wanted, decoded",
    [
        ((900, 1600), (224, 448), (450, 800)),
        ((900, 1600), (112, 224), (225, 400)),
        ((901, 1601), (224, 448), (451, 801)),
        ((2160, 3840), (112, 224), (270, 480)),
        ((252, 448), (112, 224), (252, 448)),  # the demo's pictures are decoded as they ever were
        ((900, 1600), None, (900, 1600)),
        ((335, 672), (112, 224), (335, 672)),
        ((336, 672), (112, 224), (168, 336)),
    ],
)
def test_much_finer_pictures_are_decoded_at_a_part_of_their_size(size, wanted, decoded):
    data = jpeg(*size)
    assert images.decode_jpeg(data, wanted=wanted).shape == (*decoded, 3)


def test_a_part_of_the_size_shows_the_same():
    """A smooth picture at model size, decoded whole and at half scale: apart by less than a grey level on average."""
    blocks = RNG.integers(0, 255, (18, 32, 3), np.uint8)
    data = cv2.imencode(".jpg", cv2.resize(blocks, (1600, 900), interpolation=cv2.INTER_CUBIC))[1].tobytes()
    whole, part = (images.fit(images.decode_jpeg(data, wanted=size), (224, 448)).astype(int) for size in (None, (224, 448)))
    assert 0 < np.abs(whole - part).mean() < 1 and np.abs(whole - part).max() < 12
    png = cv2.imencode(".png", blocks)[1].tobytes()
    assert images.decode_jpeg(png, wanted=(2, 2)).shape == blocks.shape

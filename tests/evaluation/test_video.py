"""Figures of filled holes against scikit-image and slow sums, and fills that learn nothing."""

import numpy as np
import pytest
import skimage.metrics

from seqgan_jax.evaluation import video

F, H, W = 6, 12, 16


@pytest.fixture(scope="module")
def clips():
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 256, (3, F, H, W, 3)).astype(np.uint8)
    masks = np.zeros((3, F, H, W), bool)
    masks[:, 2:4, 3:9, 5:12] = True
    filled = np.where(masks[..., None], rng.integers(0, 256, truth.shape), truth).astype(np.uint8)
    return filled, truth, masks


def test_psnr_and_ssim_are_scikit_images_in_the_hole(clips):
    filled, truth, masks = clips
    found = video.figures(filled, truth, masks)
    hole = skimage.metrics.peak_signal_noise_ratio(truth[masks], filled[masks], data_range=255)
    assert found["psnr"].value == pytest.approx(hole)  # holes of one size: a mean of their means
    similar = []
    for a, b, m in zip(filled, truth, masks, strict=True):
        for t in (2, 3):
            _, each = skimage.metrics.structural_similarity(
                a[t], b[t], channel_axis=-1, data_range=255, full=True
            )
            similar.append(each[m[t]].mean())
    assert found["ssim"].value == pytest.approx(np.mean(similar))
    assert found["psnr"].n == found["ssim"].n == 3


def test_equal_clips_have_the_best_figures(clips):
    _, truth, masks = clips
    found = video.figures(truth, truth, masks)
    assert found["psnr"].value > 100
    assert found["ssim"].value == pytest.approx(1)
    assert found["temporal_error"].value == 0
    assert found["sharpness"].value == pytest.approx(1)


def test_temporal_error_is_that_of_a_slow_sum(clips):
    filled, truth, masks = clips
    each = []
    for a, b, m in zip(filled.astype(float), truth.astype(float), masks, strict=True):
        squares = [
            ((a[t] - a[t - 1])[y, x] - (b[t] - b[t - 1])[y, x]) ** 2
            for t in range(1, F)
            for y in range(H)
            for x in range(W)
            if m[t, y, x] or m[t - 1, y, x]
        ]
        each.append(np.mean(squares))
    found = video.figures(filled, truth, masks)["temporal_error"]
    assert found.value == pytest.approx(np.sqrt(np.mean(each)))


def test_a_constant_offset_is_no_change_but_where_the_hole_begins_and_ends():
    truth = np.full((F, 8, 8, 3), 100, np.uint8)
    mask = np.zeros((F, 8, 8), bool)
    mask[:] = True
    found = video.figures([truth + 10], [truth], [mask])
    assert found["temporal_error"].value == 0
    assert found["psnr"].value == pytest.approx(20 * np.log10(25.5))
    mask[0] = False
    late = video.blend(truth, mask, truth + 10.0)
    assert video.figures([late], [truth], [mask])["temporal_error"].value > 0


def test_sharpness_counts_every_gradient_at_the_hole_once():
    truth = np.zeros((1, 8, 8, 3), np.uint8)
    mask = np.zeros((1, 8, 8), bool)
    mask[0, 3, 3] = True
    truth[0, 3, 3] = 2
    # Four neighbours, three colours, a difference of 2.
    assert video.gradient_energy(truth, mask) == 4 * 3 * 4
    truth[0, 7, 7] = 200  # far from the hole
    assert video.gradient_energy(truth, mask) == 4 * 3 * 4
    assert video.sharpness([truth // 2], [truth], [mask]).value == pytest.approx(0.25)
    assert video.sharpness([truth], [np.zeros_like(truth)], [mask]).value is None


def test_standard_errors_are_those_of_many_repetitions(monkeypatch):
    rng = np.random.default_rng(1)
    mask = np.zeros((1, 8, 8), bool)
    mask[0, 2:6, 2:6] = True
    truth = np.zeros((1, 8, 8, 3), np.uint8)

    def figure():
        clips = [np.full_like(truth, rng.integers(5, 60)) for _ in range(30)]
        found = video.figures(clips, [truth] * 30, [mask] * 30)["psnr"]
        return found.value, found.stderr

    monkeypatch.setattr(video, "_similarity", lambda *_: 1.0)  # which takes long
    values, errors = np.array([figure() for _ in range(60)]).T
    # The deviation of 60 values has a standard error of 9 %: within 40 % but for one time in 10^5.
    assert np.mean(errors) == pytest.approx(values.std(ddof=1), rel=0.4)


def test_diversity_is_the_distance_of_two_fills():
    mask = np.zeros((2, 4, 4), bool)
    mask[0, 1, 1] = True
    one, other = np.zeros((2, 4, 4, 3), np.uint8), np.zeros((2, 4, 4, 3), np.uint8)
    other[0, 1, 1] = 30
    other[1] = 99  # not missing
    assert video.diversity([(one, other)], [mask])["sample_distance"].value == pytest.approx(30)
    with pytest.raises(ValueError, match="0 filled clips"):
        video.figures([], [], [])


# Fills


def slow(clip, mask, linear):
    """Pixel by pixel, as a person would say it."""
    found = clip.astype(float).copy()
    for t, y, x in np.argwhere(mask):
        seen = np.flatnonzero(~mask[:, y, x])
        before, after = seen[seen < t], seen[seen > t]
        if linear and len(before) and len(after):
            a, b = before[-1], after[0]
            w = (t - a) / (b - a)
            found[t, y, x] = (1 - w) * clip[a, y, x] + w * clip[b, y, x].astype(float)
        else:
            found[t, y, x] = clip[before[-1] if len(before) else after[0], y, x]
    return found


@pytest.mark.parametrize(("fill", "linear"), [(video.copy_last, 0), (video.interpolate, 1)])
def test_fills_in_time_are_those_of_a_slow_loop(fill, linear):
    rng = np.random.default_rng(2)
    clip = rng.integers(0, 256, (F, 7, 5, 3)).astype(np.uint8)
    mask = rng.uniform(size=clip.shape[:3]) < 0.5
    mask[0] &= ~mask.all(0)  # every pixel is seen once at least
    found = np.where(mask[..., None], fill(clip, mask), clip)
    np.testing.assert_allclose(found, slow(clip, mask, linear), atol=1e-9)


def test_what_no_frame_shows_is_spread_from_beside_it():
    clip = np.zeros((2, 4, 6, 3), np.uint8)
    clip[:, :, :3], clip[:, :, 3:] = 10, 200
    mask = np.zeros((2, 4, 6), bool)
    mask[:, 1:3, :2] = True
    for fill in (video.copy_last, video.interpolate):
        assert (fill(clip, mask)[mask] == 10).all()
    mask[0] = True
    # Frame 0 shows nothing: time first, then what is beside it.
    np.testing.assert_array_equal(video.interpolate(clip, mask)[0, :, 3:], 200.0)


def test_inpainting_continues_a_slope():
    ramp = np.broadcast_to(
        np.arange(0, 160, 10, dtype=np.uint8)[None, None, :, None], (2, 12, 16, 3)
    )
    mask = np.zeros((2, 12, 16), bool)
    mask[0, 4:8, 5:10] = True
    filled = video.inpaint(np.where(mask[..., None], 255, ramp), mask)
    np.testing.assert_allclose(filled, ramp, atol=1)
    mask[1] = True
    assert np.isfinite(video.inpaint(ramp, mask)).all()


@pytest.mark.parametrize("name", video.FILLS)
def test_no_fill_reads_a_missing_pixel(name, clips):
    filled, truth, masks = clips
    for a, b, mask in zip(filled, truth, masks, strict=True):
        mask = mask.copy()
        mask[:, 4, 6] = True  # in every frame
        other = np.where(mask[..., None], 255 - b, a)
        ours, theirs = (video.FILLS[name](clip, mask)[mask] for clip in (b, other))
        np.testing.assert_array_equal(ours, theirs)


def test_blending_changes_the_hole_alone(clips):
    _, truth, masks = clips
    whole = video.blend(truth[0], masks[0], np.full(truth[0].shape, 300.0))
    assert whole.dtype == np.uint8
    assert (whole[masks[0]] == 255).all()
    np.testing.assert_array_equal(whole[~masks[0]], truth[0][~masks[0]])

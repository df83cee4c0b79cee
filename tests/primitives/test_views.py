import numpy as np
import pytest
import torch

from sfdabench.core.seeding import generator
from sfdabench.primitives import views

MANY = 400
PAIRED = [view for name, view in views.SOURCE.items() if name != "none"]


def rngs(count=MANY, key="test"):
    return [generator(key, sample) for sample in range(count)]


def grey(value, count=MANY, size=32):
    return torch.full((count, 3, size, size), float(value))


def photographs(count, size=48, seed=0):
    return 255 * torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(seed))


def near(share, expected, count=MANY):
    """Within four standard deviations of a binomial share."""
    return abs(share - expected) < 4 * (expected * (1 - expected) / count) ** 0.5


def test_identity_is_the_image():
    images = photographs(2)
    assert views.VIEWS["identity"](images, rngs(2)) is images


@pytest.mark.parametrize("view", views.VIEWS.values())
def test_view_keeps_range_type_and_input(view):
    images = photographs(16)
    before = images.clone()
    new = view(images, rngs(16))
    assert torch.equal(images, before)
    assert new.shape == images.shape
    assert new.dtype == torch.float32
    assert new.min() >= 0
    assert new.max() <= 255


@pytest.mark.parametrize(
    "view",
    [v for n, v in views.SOURCE.items() if n != "spinal_cord"],  # it standardises
)
def test_source_view_keeps_range_types_and_inputs(view):
    images = photographs(16)
    labels = torch.randint(0, 3, (16, 48, 48), dtype=torch.uint8)
    before = images.clone(), labels.clone()
    new, new_labels = view(images, labels, rngs(16))
    assert torch.equal(images, before[0])
    assert torch.equal(labels, before[1])
    assert new.shape == images.shape
    assert new.dtype == torch.float32
    assert new.min() >= 0
    assert new.max() <= 255
    assert new_labels.shape == labels.shape
    assert new_labels.dtype == torch.uint8
    assert set(new_labels.unique().tolist()) <= {0, 1, 2}


@pytest.mark.parametrize("view", views.VIEWS.values())
def test_view_of_a_sample_does_not_depend_on_its_batch(view):
    images = photographs(12)
    together = view(images, rngs(12))
    order = [7, 2, 11]
    apart = view(images[order], [rngs(12)[i] for i in order])
    assert torch.equal(together[order], apart)
    assert torch.equal(together, view(images, rngs(12)))
    last = view(images.to(memory_format=torch.channels_last), rngs(12))
    assert torch.equal(together, last)


@pytest.mark.parametrize("view", PAIRED)
def test_source_view_of_a_sample_does_not_depend_on_its_batch(view):
    images, labels = photographs(12), torch.randint(0, 3, (12, 48, 48), dtype=torch.uint8)
    together = view(images, labels, rngs(12))
    for sample in range(12):
        rng = [rngs(12)[sample]]
        image, label = view(images[sample : sample + 1], labels[sample : sample + 1], rng)
        # products of matrices of another batch size may differ in the last digit
        assert torch.allclose(together[0][sample], image[0], atol=0.02)
        assert (together[1][sample] != label[0]).float().mean() < 0.001


def test_black_dots():
    dotted = views._black_dots(grey(100, size=64), rngs())[:, 0].flatten(1)
    salt, pepper = (dotted == 1).any(dim=1), (dotted == 0).any(dim=1)
    assert not (salt & pepper).any()
    assert near(salt.float().mean(), 0.25)
    assert near(pepper.float().mean(), 0.25)
    assert (dotted[~salt & ~pepper] == 100).all()
    # positions may coincide, as in the reference
    assert 0.0024 * 0.95 < (dotted[salt] == 1).float().mean() < 0.0026
    assert 0.0096 * 0.95 < (dotted[pepper] == 0).float().mean() < 0.0098


def test_black_dots_cover_all_channels_and_the_counts_of_the_reference():
    assert np.ceil(views.SALT * 512**2) == 630
    assert np.ceil(views.PEPPER * 512**2) == 2517
    dotted = views._black_dots(grey(100, 40), rngs(40))
    assert torch.equal(dotted[:, 0], dotted[:, 1])
    assert torch.equal(dotted[:, 0], dotted[:, 2])


def test_gamma_leaves_half_exactly_and_mostly_brightens():
    images = photographs(MANY, size=8)
    new = views._gamma(images, rngs())
    same = (new == images).flatten(1).all(dim=1)
    assert near(same.float().mean(), 0.5)
    brighter = (new >= images).flatten(1).all(dim=1)[~same]
    assert near(brighter.float().mean(), 2.5 / 3, int((~same).sum()))


def test_gamma_of_a_known_draw():
    class Fixed:
        def random(self):
            return 0.2

        def uniform(self, low, high):
            assert (low, high) == (0.5, 3.5)
            return 2.0

    new = views._gamma(torch.tensor([0.0, 63.75, 255.0]).view(1, 1, 1, 3), [Fixed()])
    assert torch.allclose(new.flatten(), torch.tensor([0.0, 127.5, 255.0]))


def test_eraser():
    size = 128
    erased = views._eraser(grey(-1, size=size), rngs())
    assert torch.equal(erased[:, 0], erased[:, 2])
    inside = erased[:, 0] != -1
    on = inside.flatten(1).any(dim=1)
    assert near(on.float().mean(), 0.5)
    for box, mask in zip(erased[on][:, 0], inside[on], strict=True):
        high, wide = int(mask.any(dim=1).sum()), int(mask.any(dim=0).sum())
        assert int(mask.sum()) == high * wide
        assert 0.02 * size**2 - high - wide < high * wide < 0.06 * size**2
        assert 0.25 < high / wide < 0.65
        assert len(box[mask].unique()) == 1
        assert 0 <= box[mask][0] <= 255


def test_strong_view_moves_nothing():
    images = photographs(64)
    changed = (views.fundus_strong(images, rngs(64)) != images).flatten(1).any(dim=1)
    assert near(changed.float().mean(), 1 - 0.5**3, 64)
    corner = torch.zeros(64, 3, 48, 48)
    corner[..., :24, :24] = 255  # survives gamma
    kept = views._gamma(views._black_dots(corner, rngs(64)), rngs(64)) > 128
    assert (kept == (corner > 128)).float().mean() > 0.99


def test_quarter_turns_are_exact_and_every_one_of_eight():
    image = torch.arange(9.0).view(1, 1, 3, 3).expand(MANY, 1, 3, 3)
    turned, labels = views._quarter_turns(image, image[:, 0].byte(), rngs())
    assert torch.equal(turned[:, 0].byte(), labels)
    seen = [tuple(label.flatten().tolist()) for label in labels]
    assert len(set(seen)) == 8
    transposed = sum(abs(one[0] - one[1]) == 3 for one in seen) / MANY
    assert near(transposed, 0.25)


def test_images_that_are_not_square_are_flipped_only():
    images, labels = torch.rand(32, 3, 6, 10), torch.zeros(32, 6, 10, dtype=torch.uint8)
    for view in set(PAIRED) - {views.fundus_source}:  # whose crop is a square
        new, new_labels = view(images, labels, rngs(32))
        assert new.shape == images.shape
        assert new_labels.shape == labels.shape


def warp_96(images, labels, rngs):
    return views._warp(images, labels, rngs, 96)


@pytest.mark.parametrize("warp", [views._quarter_turns, warp_96])
def test_labels_go_where_the_image_goes(warp):
    size = 96
    y, x = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    label = ((x - 30).square() + 2 * (y - 55).square() < 400).byte()
    label[20:30, 60:90] = 1
    labels = label.expand(64, size, size).contiguous()
    images = 200.0 * labels.unsqueeze(1)
    new, new_labels = warp(images, labels, rngs(64))
    assert ((new[:, 0] > 100).byte() != new_labels).float().mean() < 0.002
    moved = (new_labels != labels).flatten(1).any(dim=1).float().mean()
    assert near(moved, 0.75 if warp is warp_96 else 1 - 3 / 4 / 4, 64)


def zooms(side, size, many=2000):
    """Side of a square of the file in the view, as a share of that at test."""
    labels = torch.zeros(50, side, side, dtype=torch.uint8)
    low, high = round(0.4 * side), round(0.6 * side)
    labels[:, low:high, low:high] = 1
    images = torch.zeros(50, 1, side, side)
    spans = []
    for k in range(0, many, 50):
        draws = [generator("zoom", k + i) for i in range(50)]
        _, new = views._warp(images, labels, draws, size)
        for mask in new:
            rows = mask.any(dim=1).nonzero().flatten()
            if len(rows) and rows[0] > 0 and rows[-1] < size - 1:
                spans.append((rows[-1] - rows[0] + 1) / ((high - low) / side * size))
    return np.array(spans)


def test_a_file_is_cropped_at_its_own_scale(monkeypatch):
    """methods-fundus.md §4a: of 800 px the median zoom is 1.56, of 512 px 1.00."""
    monkeypatch.setattr(views, "ELASTIC_RMS", 0.0)
    large, plain = zooms(200, 128), zooms(128, 128)
    assert np.median(large) == pytest.approx(200 / 128, rel=0.03)
    assert np.median(plain) == pytest.approx(1, rel=0.03)
    assert (abs(large - 1) < 0.1).mean() < 0.1  # hardly ever as at test
    assert (abs(plain - 1) < 0.1).mean() > 0.5
    assert np.quantile(large, 0.05) < 1.2 < 1.9 < np.quantile(large, 0.95)


def test_crops_lie_inside_what_is_large_enough():
    draws = [views._crop(rng, 700, 600, 512) for rng in rngs()]
    left, top = np.array(draws).T
    assert left.min() >= 0
    assert 180 < left.max() <= 188
    assert top.min() >= 0
    assert 80 < top.max() <= 88
    left, top = np.array([views._crop(rng, 300, 600, 512) for rng in rngs()]).T
    pad = (512 - 300) // 2 + 5
    assert left.min() == -pad
    assert left.max() == 300 + pad - 512
    assert top.min() >= -pad


def test_a_view_crops_what_is_larger(monkeypatch):
    images, labels = photographs(4, 80), torch.zeros(4, 80, 80, dtype=torch.uint8)
    new, new_labels = views.training_view("fundus", 48)(images, labels, rngs(4))
    assert new.shape == (4, 3, 48, 48)
    assert new_labels.shape == (4, 48, 48)
    assert views.training_view("light", 48) is views.light_source


def test_a_plain_crop_is_exact_inside(monkeypatch):
    class Half:
        def random(self, count):
            return np.array([0.0, 0.9])

        def uniform(self, low, high):
            return 1.0

        def standard_normal(self, shape, dtype):
            return np.ones(shape, dtype)

    monkeypatch.setattr(views, "_crop", lambda *_: (3.0, -2.0))
    images, labels = photographs(1), torch.randint(0, 3, (1, 48, 48), dtype=torch.uint8)
    new, new_labels = views._warp(images, labels, [Half()], 48)
    assert torch.allclose(new[..., 2:, :-3], images[..., :-2, 3:], atol=0.02)
    assert torch.equal(new_labels[:, 2:, :-3], labels[:, :-2, 3:])
    assert new_labels[:, :2].eq(0).all()
    assert new_labels[:, :, -3:].eq(0).all()


def test_elastic_field_has_the_moments_of_smoothed_noise():
    """Against the definition: U(-1, 1) per pixel, smoothed by .08 of the height, times 2 H."""
    from scipy.ndimage import gaussian_filter

    size = 128
    sigma = views.ELASTIC_SIGMA * size
    rng = np.random.default_rng(0)
    noise = [rng.uniform(-1, 1, (size, size)) for _ in range(30)]
    smooth = [gaussian_filter(n, sigma, mode="constant", truncate=6) for n in noise]
    reference = 2 * size * np.stack(smooth)
    basis = views._gaussians(size, torch.zeros(1)).numpy()
    field = basis @ rng.standard_normal((400, views.KNOTS, views.KNOTS)) @ basis.T
    pixels = 512 * views.ELASTIC_RMS * field  # the definition's strength in pixels has no H in it
    # the noise ends at the frame: half the variance at an edge, a quarter at a corner
    for share, place in (
        (1, np.s_[:, 40:-40, 40:-40]),
        (0.71, np.s_[:, :1, 40:-40]),
        (0.5, np.s_[:, 0, 0]),
    ):
        assert reference[place].std() == pytest.approx(4.07 * share, rel=0.25)
        assert pixels[place].std() == pytest.approx(4.07 * share, rel=0.1)
    lag, inner = round(sigma), np.s_[:, 20:-20, 20:-20]
    for fields, tolerance in ((field[inner], 0.05), (reference[inner], 0.12)):
        product = (fields[:, :, :-lag] * fields[:, :, lag:]).mean() / fields.var()
        assert product == pytest.approx(np.exp(-1 / 4), abs=tolerance)


def test_spinal_cord_view_keeps_mean_and_deviation_and_moves_labels_with_the_image():
    """No gamma, no noise, no offset: what is standardised stays so."""
    size = 64
    y, x = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    label = ((x - 34).square() + (y - 30).square() < 300).byte()
    labels = label.expand(200, size, size).contiguous()
    images = 50 + 150.0 * labels.unsqueeze(1)
    new, new_labels = views.spinal_cord_source(images, labels, rngs(200))
    assert torch.allclose(new.mean((1, 2, 3)), images.mean((1, 2, 3)), atol=1e-3)
    assert torch.allclose(new.std((1, 2, 3)), images.std((1, 2, 3)), rtol=1e-4)
    assert ((new[:, 0] > 125).byte() != new_labels).float().mean() < 0.002
    centre = torch.stack([(m * x).sum() / m.sum() for m in new_labels.float()])
    assert (centre - 34).abs().max() < 0.03 * size + 3.5  # 3 % of the side, and the rotation
    area = new_labels.float().mean((1, 2)) / label.float().mean()
    assert 0.9 < area.min() < area.max() < 1.1


def test_large_boxes_of_the_eraser_are_rarer():
    """methods-fundus.md §4g: of boxes that were drawn until they fit the mean area is .0390."""

    def areas(size, count=20000):
        rng = np.random.default_rng(0)
        area = rng.uniform(0.02, 0.06, count) * size**2
        ratio = rng.uniform(0.3, 0.6, count)
        w, h = np.floor((area / ratio) ** 0.5), np.floor((area * ratio) ** 0.5)
        x, y = rng.integers(size, size=(2, count))
        return (w * h / size**2)[(x + w <= size) & (y + h <= size)]

    assert areas(512).mean() == pytest.approx(0.0390, abs=0.0003)
    images = grey(-1, 3000, 128)  # outside of what a box holds
    new = views._eraser(images, rngs(3000))
    shares = (new != -1).float().mean(dim=(1, 2, 3))
    erased = shares[shares > 0]
    assert near(len(erased) / 3000, 0.5, 3000)
    assert erased.mean().item() == pytest.approx(areas(128).mean(), abs=0.0006)


def test_phantom_view_is_light():
    images = grey(128, 64)
    new, _ = views.light_source(images, images[:, 0].byte(), rngs(64))
    means = new.mean(dim=(1, 2, 3))
    assert 85 < means.min() < 120
    assert 136 < means.max() < 170
    assert new.std(dim=(1, 2, 3)).max() < 6.5


def test_anatomy_labels_go_where_the_image_goes():
    labels = torch.zeros(24, 64, 64, dtype=torch.uint8)
    labels[:, 20:40, 30:52] = 1
    images = 255.0 * labels[:, None].repeat(1, 3, 1, 1)
    seen, moved = views.anatomy_source(images, labels, rngs(24))
    same = ((seen.mean(dim=1) > 128) == (moved == 1)).float().mean()
    assert same > 0.99  # they part on the interpolated outline only
    assert not torch.equal(moved, labels)


def test_anatomy_keeps_left_left_and_up_up():
    """One organ in the upper left corner of the frame stays in that quarter."""
    labels = torch.zeros(MANY, 64, 64, dtype=torch.uint8)
    labels[:, 16:24, 16:24] = 1
    _, moved = views.anatomy_source(grey(100, size=64), labels, rngs())
    rows, columns = moved.float().sum(2).argmax(1), moved.float().sum(1).argmax(1)
    assert rows.max() < 32
    assert columns.max() < 32
    shares = moved.sum(dim=(1, 2)) / 64.0  # areas change by the square of 1 / 1.12 .. 1.12
    assert shares.min() > 1.12**-2 - 0.15
    assert shares.max() < 1.12**2 + 0.15

import nibabel
import numpy as np
import pytest

from sfdabench.phantoms import abdomen
from sfdabench.phantoms.abdomen import CT, CT_GRID, MR_GRID, T1IN, T1OUT, T2SPIR

LIVER, RIGHT_KIDNEY, LEFT_KIDNEY, SPLEEN = 1, 2, 3, 4
PATIENTS = [
    abdomen.patient(grid, "test", number) for grid in (MR_GRID, CT_GRID) for number in range(4)
]
MR, CTS = PATIENTS[:4], PATIENTS[4:]
each = pytest.mark.parametrize("patient", PATIENTS, ids=lambda p: "x".join(map(str, p.label.shape)))


def means(look: abdomen.Look, patient: abdomen.Patient) -> dict[int, float]:
    image = abdomen.render(look, patient, "test")
    kinds = (1, 2, 3, 4, abdomen.FAT, abdomen.AIR, abdomen.MUSCLE)
    return {kind: float(np.median(image[patient.tissue == kind])) for kind in kinds}


@each
def test_organs_lie_where_anatomy_puts_them(patient: abdomen.Patient) -> None:
    z, y, x = (
        {organ: np.argwhere(patient.label == organ)[:, axis].mean() for organ in range(1, 5)}
        for axis in range(3)
    )
    assert x[LIVER] < x[SPLEEN]
    assert x[RIGHT_KIDNEY] < x[LEFT_KIDNEY]
    assert y[LIVER] < min(y[RIGHT_KIDNEY], y[LEFT_KIDNEY])
    assert z[RIGHT_KIDNEY] < z[LIVER]
    assert z[LEFT_KIDNEY] < z[SPLEEN]
    spine = np.argwhere(patient.tissue == abdomen.MARROW)[:, 1].mean()
    assert spine > y[LIVER]


@each
def test_slices_cover_the_organs_and_more(patient: abdomen.Patient) -> None:
    organs = (patient.label > 0).any(axis=(1, 2))
    assert not organs[0]
    assert not organs[-1]
    assert organs.sum() >= 10
    for organ in range(1, 5):
        assert (patient.label == organ).any(axis=(1, 2)).sum() >= 4


@each
def test_the_body_fits_the_image(patient: abdomen.Patient) -> None:
    body = patient.tissue != abdomen.AIR
    edge = body[:, [0, -1]].any() or body[:, :, [0, -1]].any()
    assert not edge
    assert body.mean() > 0.2


@each
def test_volumes_of_organs(patient: abdomen.Patient) -> None:
    litres = np.bincount(patient.label.ravel(), minlength=5) * np.prod(patient.spacing) / 1e6
    assert 0.4 < litres[LIVER] < 1.8
    for organ in (RIGHT_KIDNEY, LEFT_KIDNEY, SPLEEN):
        assert 0.05 < litres[organ] < 0.4


@pytest.mark.parametrize("patient", MR)
def test_t2_spir(patient: abdomen.Patient) -> None:
    grey = means(T2SPIR, patient)
    assert grey[abdomen.FAT] < grey[LIVER] < min(grey[SPLEEN], grey[LEFT_KIDNEY])
    assert grey[SPLEEN] > 1.4 * grey[LIVER]


@pytest.mark.parametrize("patient", MR)
def test_t1_dual_echo(patient: abdomen.Patient) -> None:
    grey = means(T1IN, patient)
    assert max(grey, key=lambda kind: grey[kind]) == abdomen.FAT
    fat = patient.tissue == abdomen.FAT
    border = fat & (np.roll(patient.tissue, 1, axis=2) == abdomen.MUSCLE)
    image = abdomen.render(T1OUT, patient, "test")
    assert np.median(image[border]) < 0.7 * np.median(image[fat])


@pytest.mark.parametrize("patient", CTS)
def test_ct(patient: abdomen.Patient) -> None:
    hounsfield = means(CT, patient)
    assert hounsfield[abdomen.AIR] == pytest.approx(-1000, abs=5)
    assert hounsfield[abdomen.FAT] == pytest.approx(-100, abs=20)
    assert all(40 < hounsfield[organ] < 180 for organ in range(1, 5))
    assert abs(hounsfield[SPLEEN] - hounsfield[LIVER]) < 30


def test_magnitudes_have_no_unit_and_no_sign() -> None:
    images = [abdomen.render(T2SPIR, MR[0], number) for number in range(6)]
    levels = [np.percentile(image, 99) for image in images]
    assert max(levels) > 1.5 * min(levels)
    assert min(image.min() for image in images) >= 0


@pytest.mark.parametrize("look", [T2SPIR, T1IN, T1OUT, CT], ids=lambda look: look.name)
def test_the_key_decides(look: abdomen.Look) -> None:
    grid = CT_GRID if look is CT else MR_GRID
    first, again, other = (abdomen.patient(grid, "key", number) for number in (0, 0, 1))
    assert np.array_equal(first.tissue, again.tissue)
    assert first.tissue.shape != other.tissue.shape or (first.tissue != other.tissue).any()
    one, same, another = (abdomen.render(look, first, number) for number in (0, 0, 1))
    assert one.dtype == np.float32
    assert np.array_equal(one, same)
    assert not np.array_equal(one, another)


@pytest.mark.parametrize("axes", ["LAS", "RAS", "PIR", "LPS"])
def test_an_affine_has_the_axes_asked_for(axes: str) -> None:
    patient = CTS[0]
    affine = abdomen.affine(patient, axes, "test")
    assert "".join(nibabel.aff2axcodes(affine)) == axes
    steps = dict(zip("SPL", patient.spacing, strict=True)) | dict(
        zip("IAR", patient.spacing, strict=True)
    )
    assert np.allclose(nibabel.affines.voxel_sizes(affine), [steps[axis] for axis in axes])
    assert abs(affine - np.diag(np.diag(affine)))[:3, :3].max() > 0  # askew

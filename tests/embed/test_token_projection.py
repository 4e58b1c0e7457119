"""Principal axes of tokens, and the sample that they are fitted on."""

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA

from xmrank.embed.token_projection import TokenMoments, read_projections, sample_rows, write_projections
from xmrank.runtime.errors import DataError


def fitted(values, width, batches=1):
    moments = TokenMoments(values.shape[1])
    for batch in torch.tensor_split(values, batches):
        moments.add(batch)
    return moments.fit(width)


def test_axes_are_those_of_a_plain_pca():
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(200, 6, generator=generator) * torch.tensor([5.0, 4, 3, 2, 1, 0.5]) + 3
    projection = fitted(values, 3, batches=7)
    plain = PCA(3).fit(values.numpy())
    projected = projection.project(values).numpy()
    np.testing.assert_allclose(np.abs(projected), np.abs(plain.transform(values.numpy())), atol=1e-3)
    assert projection.explained == pytest.approx(plain.explained_variance_ratio_.sum())
    assert (projected.mean(0) < 1e-5).all()


def test_the_largest_number_of_an_axis_is_positive():
    values = torch.tensor([[-2.0, -1.0], [2.0, 1.0], [0.2, -0.4], [-0.2, 0.4]])
    axes = fitted(values, 2).axes
    expected = torch.tensor([[2.0, 1.0], [-1.0, 2.0]]) / 5**0.5  # the axes of values that lie along them
    torch.testing.assert_close(axes, expected)
    torch.testing.assert_close(fitted(-values, 2).axes, expected)


def test_axes_may_exceed_the_sample():
    assert fitted(torch.tensor([[1.0, 2, 3]]), 2).axes.shape == (2, 3)


def test_nothing_to_fit_on_is_refused():
    with pytest.raises(DataError, match="--token-width: no item of the sample for the PCA could be read"):
        TokenMoments(3).fit(2)
    moments = TokenMoments(2)
    moments.add(torch.tensor([[1.0, torch.nan]]))
    with pytest.raises(DataError, match="--token-width: the sample for the PCA has tokens with NaN or infinity"):
        moments.fit(1)


def test_a_sample_depends_on_its_seed_alone():
    rows = np.arange(100) * 2
    first = sample_rows(rows, 10, seed=3)
    assert len(set(first)) == 10 and set(first) <= set(rows) and (np.diff(first) > 0).all()
    assert sample_rows(rows, 10, seed=3).tolist() == first.tolist() != sample_rows(rows, 10, seed=4).tolist()
    assert sample_rows(np.array([5, 1]), 10, seed=0).tolist() == [1, 5]


def test_projections_are_read_back(tmp_path):
    assert read_projections(tmp_path) is None
    projection = fitted(torch.tensor([[1.0, 0], [3, 0], [2, 1], [2, -1]]), 1)
    write_projections(tmp_path, {"text": projection})
    back = read_projections(tmp_path)
    assert list(back) == ["text"] and back["text"].explained == projection.explained
    assert torch.equal(back["text"].axes, projection.axes) and torch.equal(back["text"].mean, projection.mean)
    write_projections(tmp_path, {})
    assert read_projections(tmp_path) == {}

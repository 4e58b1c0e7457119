"""Token arrays: what is gathered from them, and what is refused."""

import numpy as np
import pytest
from changed_stages import accept_changes

from xmrank.embed.store import EmbeddingStore
from xmrank.embed.token_store import TokenArray, check_offsets, count_to_offsets, quantise_tokens, token_rows
from xmrank.runtime.errors import DataError
from xmrank.runtime.files import write_array


def numbered(counts, width=2, dtype=np.float32):
    """Token t of all is t, t + 0.5, …."""
    values = np.arange(sum(counts))[:, None] + np.arange(width) / 2
    return TokenArray(values.astype(dtype), count_to_offsets(np.array(counts)))


def test_ragged_items_are_padded_with_zeros_and_masked():
    tokens = numbered([1, 0, 3])  # tokens 0; none; 1, 2, 3
    values, mask = tokens.gather(np.array([2, 1, 0, 2]))
    of_last, nothing = [[1, 1.5], [2, 2.5], [3, 3.5]], [0, 0]
    assert values.tolist() == [of_last, [nothing] * 3, [[0, 0.5], nothing, nothing], of_last]
    assert mask.tolist() == [[True] * 3, [False] * 3, [True, False, False], [True] * 3]
    assert values.dtype == np.float32
    assert (len(tokens), tokens.width, tokens.longest, tokens.regular) == (3, 2, 3, False)


def test_rows_may_have_any_shape_and_a_length_may_be_given():
    tokens = numbered([2, 1])
    values, mask = tokens.gather(np.array([[1, 1], [0, 1]]), longest=4)
    assert values.shape == (2, 2, 4, 2) and mask.shape == (2, 2, 4)
    assert mask.sum(-1).tolist() == [[1, 1], [2, 1]]
    assert values[1, 0, :2].tolist() == [[0, 0.5], [1, 1.5]]
    assert tokens.gather(np.array([1]))[0].shape == (1, 1, 2)  # the longest of these rows
    with pytest.raises(ValueError, match="longest 1: an item has 2 tokens"):
        tokens.gather(np.array([0]), longest=1)


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_regular_items_are_gathered_as_blocks(dtype):
    tokens = numbered([3, 3, 3, 3], dtype=dtype)
    rows = np.array([[3, 0], [1, 3]])
    values, mask = tokens.gather(rows)
    assert tokens.regular and mask.all() and mask.shape == (2, 2, 3)
    expected = np.array(
        [[[3 * row + token + column / 2 for column in (0, 1)] for token in range(3)] for row in range(4)]
    )
    assert values.tolist() == expected[rows].tolist()
    # Padded further, the other way gives the same.
    wide, wide_mask = tokens.gather(rows, longest=5)
    assert wide[:, :, :3].tolist() == values.tolist() and wide_mask.sum(-1).tolist() == [[3, 3], [3, 3]]


@pytest.mark.parametrize("counts", [[2, 2], [3, 1]])
def test_int8_tokens_are_multiplied_by_their_scales(counts):
    values = np.array([[1, -2], [3, 4], [127, 0], [-127, 5]], np.int8)
    scales = np.array([1, 0.5, 2, 10], np.float32)
    tokens = TokenArray(values, count_to_offsets(np.array(counts)), scales)
    gathered, mask = tokens.gather(np.arange(2))
    assert gathered[mask].tolist() == [[1, -2], [1.5, 2], [254, 0], [-1270, 50]]


def test_quantised_tokens_are_within_half_a_scale():
    tokens = np.array([[1.27, -0.004, 0.006], [0, 0, 0], [-254, 3, 2.9]], np.float32)
    values, scales = quantise_tokens(tokens)
    assert values.tolist() == [[127, 0, 1], [0, 0, 0], [-127, 2, 1]]  # 3 / 2 is rounded to the even 2
    assert np.allclose(scales, [0.01, 0, 2])
    assert (np.abs(values * scales[:, None] - tokens) <= scales[:, None] / 2 + 1e-6).all()


def test_the_rows_of_items_tokens_are_in_the_items_order():
    assert token_rows(np.array([0, 2, 2, 5]), np.array([2, 1, 0, 2])).tolist() == [2, 3, 4, 0, 1, 2, 3, 4]
    assert token_rows(np.array([0, 2]), np.array([], int)).tolist() == []


@pytest.mark.parametrize(
    ("offsets", "message"),
    [
        ([0, 2, 4], "offsets: from 0 to 4, expected from 0 to the number of tokens: 5"),
        ([1, 5], "offsets: from 1 to 5, expected from 0 to the number of tokens: 5"),
        ([0, 4, 3, 5], "offsets: fall after item 1"),
        ([0.0, 5.0], "offsets: shape [2] of float64, expected integers [items + 1]"),
        ([], "offsets: shape [0] of float64, expected integers [items + 1]"),
    ],
)
def test_offsets_that_do_not_fit_are_refused(offsets, message):
    with pytest.raises(DataError) as caught:
        check_offsets(np.array(offsets), 5, "offsets")
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("values", "scales"),
    [
        (np.ones(4, np.float16), None),
        (np.ones((4, 2)), None),
        (np.ones((4, 2), np.int8), None),
        (np.ones((4, 2), np.float16), np.ones(4, np.float32)),
        (np.ones((4, 2), np.int8), np.ones(3, np.float32)),
    ],
)
def test_arrays_that_do_not_fit_are_refused(values, scales):
    with pytest.raises(DataError):
        TokenArray(values, np.array([0, 4]), scales)


def test_a_store_in_memory_takes_tokens():
    vectors = np.eye(2, dtype=np.float32)
    plain = EmbeddingStore.from_arrays(vectors, vectors)
    store = EmbeddingStore.from_arrays(vectors, vectors, tokens={"image": numbered([3, 1])})
    assert (plain.has_tokens, store.has_tokens) == (False, True)
    assert store.tokens("image").counts.tolist() == [3, 1]
    # The other side's tokens are its vectors.
    assert store.tokens("text").gather(np.array([1]))[0].tolist() == [[[0, 1]]]
    assert store.fingerprint != plain.fingerprint
    with pytest.raises(DataError, match="the embeddings: no tokens in this store"):
        plain.tokens("image")
    with pytest.raises(DataError, match="text tokens: of 3 items, expected one for each row: 2"):
        EmbeddingStore.from_arrays(vectors, vectors, tokens={"text": numbered([1, 1, 1])})


def test_a_store_in_a_directory_opens_its_tokens(tiny_store):
    store = tiny_store(splits={"train": 2}, captions=1)
    directory = store.directory
    arrays = {"image_tokens": np.ones((5, 3), np.int8), "image_token_offsets": np.array([0, 4, 5])}
    arrays["image_token_scales"] = np.ones(5, np.float32)
    for name, array in arrays.items():
        write_array(directory / f"{name}.npy", array)
    assert not EmbeddingStore.open(directory).has_tokens  # the manifest does not name them
    accept_changes(directory, [f"{name}.npy" for name in arrays])
    tokens = EmbeddingStore.open(directory).tokens("image")
    assert isinstance(tokens.values, np.memmap) and tokens.counts.tolist() == [4, 1]
    write_array(directory / "image_token_offsets.npy", np.array([0, 2, 4, 5]))
    with pytest.raises(DataError, match=r"image_token_offsets.npy: damaged"):
        EmbeddingStore.open(directory)
    accept_changes(directory)
    with pytest.raises(DataError, match=r"image_tokens.npy: of 3 items, expected one for each row: 2"):
        EmbeddingStore.open(directory)
    (directory / "image_token_offsets.npy").unlink()
    with pytest.raises(DataError, match=r"image_token_offsets.npy: is missing"):
        EmbeddingStore.open(directory)

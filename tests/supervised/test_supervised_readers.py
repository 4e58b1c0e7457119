"""Readers of labelled sets: the layouts that feature files come in, our own stores, and what is refused."""

import json
import os
import pickle
from pathlib import Path

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from changed_stages import accept_changes
from scipy.io import savemat
from scipy.sparse import csr_matrix

from xmrank.runtime.errors import DataError
from xmrank.supervised.labelled_set import TABLE_1, labels_of
from xmrank.supervised.layouts import read_array_name, read_features
from xmrank.supervised.set_readers import SetSource, read_source, sources_of
from xmrank.supervised.stores import read_annotations

DATA = os.environ.get("XMRANK_TEST_DATA")
TRAIN, TEST = 20, 6


@pytest.fixture
def arrays():
    """Features of 20 training and 6 test items, classes 1 to 3."""
    generator = np.random.default_rng(0)
    sizes = {"train": TRAIN, "test": TEST}
    made = {f"{part}_img": generator.normal(size=(n, 5)) for part, n in sizes.items()}
    made |= {f"{part}_txt": generator.normal(size=(n, 4)) for part, n in sizes.items()}
    return made | {f"{part}_lab": np.arange(n)[:, None] % 3 + 1 for part, n in sizes.items()}


def write_dscmr(folder, arrays):
    for name, array in arrays.items():
        key = name.replace("_lab", "_img_lab")
        savemat(folder / f"{key}.mat", {key: array})


def write_algcn(folder, arrays):
    for name, array in arrays.items():
        savemat(folder / f"{name}.mat", {name: np.eye(4)[array[:, 0]][:, 1:] if "lab" in name else array})


def write_wikipedia(folder, arrays):
    keys = {"train_img": "I_tr", "train_txt": "T_tr", "test_img": "I_te", "test_txt": "T_te"}
    savemat(folder / "raw_features.mat", {key: arrays[name] for name, key in keys.items()})
    for part in ("train", "test"):
        lines = [f"text{i}\timage{i}\t{number}\n" for i, number in enumerate(arrays[f"{part}_lab"][:, 0])]
        (folder / f"{part}set_txt_img_cat.list").write_text("".join(lines))
    (folder / "categories.list").write_text("art\nbiology\ngeography\n\n")


def write_sdml(folder, arrays):
    with h5py.File(folder / "wiki_deep_doc2vec.h5py", "w") as file:
        for part in ("train", "test"):
            file[f"{part}_imgs_deep"], file[f"{part}_text"] = arrays[f"{part}_img"], arrays[f"{part}_txt"]
            for side in ("imgs", "texts"):
                file[f"{part}_{side}_labels"] = arrays[f"{part}_lab"][:, 0]


def write_xmedia(folder, arrays):
    values = {"I_tr_CNN": "train_img", "T_tr_BOW": "train_txt", "I_te_CNN": "test_img", "T_te_BOW": "test_txt"}
    labels = {"trImgCat": "train_lab", "trTxtCat": "train_lab", "teImgCat": "test_lab", "teTxtCat": "test_lab"}
    other = {"A_tr": np.zeros((7, 2)), "d3_te": np.zeros((3, 2)), "V_te_CNN": np.zeros((2, 2)), "note": "by hand"}
    savemat(folder / "XMediaFeatures.mat", {key: arrays[name] for key, name in (values | labels).items()} | other)


def write_npy(folder, arrays):
    for name, array in arrays.items():
        part, kind = name.split("_")
        np.save(folder / f"{ {'img': 'image', 'txt': 'text', 'lab': 'labels'}[kind] }_{part}.npy", array)


def write_clip_pickles(folder, arrays):
    for part in ("train", "test"):
        keys = {"image": "img", "text": "txt", "label": "lab"}
        values = {key: arrays[f"{part}_{kind}"] for key, kind in keys.items()}
        values |= {"label": arrays[f"{part}_lab"][:, 0].tolist(), "ids": [f"{part}{i}" for i in range(9)]}
        (folder / f"clip_{part}.pkl").write_bytes(pickle.dumps(values, protocol=2))


def write_matlab_73(folder, arrays):
    with h5py.File(folder / "features.mat", "w") as file:
        for name, array in arrays.items():
            file[name] = array.T  # MATLAB writes columns first


def write_sparse(folder, arrays):
    sparse = {key: csr_matrix(array) if key.endswith("txt") else array for key, array in arrays.items()}
    savemat(folder / "all.mat", sparse)


def write_acmr(folder, arrays):
    names = {"img": "img_feats", "txt": "txt_vecs", "lab": "labels"}
    for name, array in arrays.items():
        part, kind = name.split("_")
        value = array[:, 0].tolist() if kind == "lab" else [row.astype("f4") for row in array]
        (folder / f"{part}_{names[kind]}.pkl").write_bytes(pickle.dumps(value, protocol=2))


def write_hashing_toolbox(folder, arrays):
    """As SRLCH, CMFH and others have mirflickr25k.mat and nus_wide.mat: labels as 0 and 1, in one file."""
    keys = {"img": "I", "txt": "T", "lab": "L"}
    values = {}
    for name, array in arrays.items():
        part, kind = name.split("_")
        value = np.eye(4)[array[:, 0]][:, 1:] if kind == "lab" else array
        values[f"{keys[kind]}_{part[:2]}"] = value
    savemat(folder / "mirflickr25k.mat", values)


LAYOUTS = [
    write_dscmr, write_algcn, write_wikipedia, write_sdml, write_xmedia, write_npy, write_clip_pickles,
    write_matlab_73, write_sparse, write_acmr, write_hashing_toolbox,
]  # fmt: skip


@pytest.mark.parametrize("write", LAYOUTS)
def test_every_layout_gives_the_same_items(write, arrays, tmp_path):
    write(tmp_path, arrays)
    actual = read_features("pascal-sentence", "", tmp_path, seed=0)
    unit = arrays["test_img"] / np.linalg.norm(arrays["test_img"], axis=1, keepdims=True)
    np.testing.assert_allclose(actual.query.image, unit, rtol=1e-6)
    assert actual.query.text.shape == (TEST, 4)
    assert actual.query.labels.argmax(1).tolist() == [0, 1, 2, 0, 1, 2]
    assert actual.retrieval is actual.query
    assert actual.sizes == {"train": 18, "validation": 2, "retrieval": TEST, "query": TEST}  # a tenth of 20 held out
    assert len(actual.classes) == 3
    assert not actual.several_labels


def test_the_held_out_tenth_depends_on_the_seed_alone(arrays, tmp_path):
    write_dscmr(tmp_path, arrays)
    one, same, other = (read_features("x", "", tmp_path, seed=seed) for seed in (1, 1, 2))
    assert one.fingerprint == same.fingerprint != other.fingerprint
    together = np.concatenate([one.train.image, one.validation.image])
    assert len(np.unique(together, axis=0)) == TRAIN


def test_parts_that_a_file_has_are_kept(arrays, tmp_path):
    arrays |= {f"valid_{kind}": arrays[f"test_{kind}"] for kind in ("img", "txt", "lab")}
    arrays |= {f"database_{kind}": arrays[f"train_{kind}"] for kind in ("img", "txt", "lab")}
    arrays |= {f"query_{kind}": arrays.pop(f"test_{kind}") for kind in ("img", "txt", "lab")}
    savemat(tmp_path / "all.mat", arrays)
    actual = read_features("x", "", tmp_path / "all.mat", seed=0)
    assert actual.sizes == {"train": TRAIN, "validation": TEST, "retrieval": TRAIN, "query": TEST}
    assert actual.notes == ()


def test_several_features_of_a_file_are_told_apart_by_the_sets_name(arrays, tmp_path):
    for part in ("train", "test"):
        arrays[f"{part}_img_gist"] = arrays[f"{part}_img"] + 1
        arrays[f"{part}_img_vgg"] = arrays.pop(f"{part}_img")
    savemat(tmp_path / "all.mat", arrays)
    with pytest.raises(DataError, match=r"are both images of the part \w+; name one word of each kind"):
        read_features("x", "", tmp_path, seed=0)
    gist, vgg = (read_features("x", f"{name}+txt", tmp_path, seed=0) for name in ("gist", "vgg"))
    assert not np.allclose(gist.query.image, vgg.query.image)


def test_images_of_one_file_with_texts_of_another(arrays, tmp_path):
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
        write_dscmr(tmp_path / name, arrays)
    savemat(tmp_path / "other" / "train_txt.mat", {"train_txt": arrays["train_txt"][:, :2]})
    savemat(tmp_path / "other" / "test_txt.mat", {"test_txt": arrays["test_txt"][:, :2]})
    (source,) = sources_of((f"x/a+b={tmp_path / 'one'},{tmp_path / 'other'}",), ())
    actual = read_source(source)
    assert (actual.train.image.shape[1], actual.train.text.shape[1]) == (5, 2)
    savemat(tmp_path / "other" / "test_img_lab.mat", {"test_img_lab": arrays["test_lab"][::-1]})
    with pytest.raises(DataError, match="other retrieval items or labels; expected the same"):
        read_source(source)


class Evil:
    """What a pickle of this would do on loading is call ``os.getcwd``; it could be anything."""

    def __reduce__(self):
        return (os.getcwd, ())


def test_a_pickle_that_would_run_code_is_refused(tmp_path):
    (tmp_path / "clip_train.pkl").write_bytes(pickle.dumps({"image": Evil()}))
    with pytest.raises(DataError, match=r"clip_train.pkl: names posix.getcwd: a pickle may hold arrays"):
        read_features("x", "", tmp_path, seed=0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda a: a.pop("test_txt"), r"no text of the part test; the file holds all/test_img, all/test_lab"),
        (lambda a: [a.pop(k) for k in list(a) if "test" in k], r"has the parts train; expected train and test"),
        (lambda a: a.update(train_lab=a["train_lab"][:9]), r"train: 20 images, 20 texts, 9 labels"),
        (lambda a: a["train_img"].__setitem__((3, 1), np.nan), "train: the image features of row 3 hold NaN"),
        (lambda a: a.update(test_img=a["test_img"][:, :2]), "image rows of different lengths: 5 in train"),
        (lambda a: a.update(test_img=a["test_img"][:, :, None]), r"image features of shape \[6, 5, 1\]"),
        (lambda a: a.update(test_lab=np.eye(4)[:3, :][np.arange(6) % 3]), "labels of 1 and 4 columns"),
        (lambda a: a.update(train_lab=a["train_lab"] + 0.5), "expected class numbers"),
    ],
)
def test_what_is_wrong_with_a_file_is_named(change, message, arrays, tmp_path):
    change(arrays)
    savemat(tmp_path / "all.mat", arrays)
    with pytest.raises(DataError, match=message) as caught:
        read_features("x", "", tmp_path, seed=0)
    assert "\n" not in str(caught.value)


def test_places_without_features_are_refused(tmp_path):
    with pytest.raises(DataError, match="no feature files here"):
        read_features("x", "", tmp_path, seed=0)
    with pytest.raises(DataError, match="no such file or folder"):
        read_features("x", "", tmp_path / "none.mat", seed=0)
    (tmp_path / "broken.mat").write_bytes(b"no MATLAB")
    with pytest.raises(DataError, match=r"broken.mat: cannot be read"):
        read_features("x", "", tmp_path, seed=0)


@pytest.mark.parametrize(
    ("key", "kind_and_part"),
    [
        ("clip_train/image", ("train", "image")),
        ("XMediaFeatures/teTxtCat", ("test", "labels")),
        ("XMediaFeatures/A_te", ("test", None)),
        ("a/L_db", ("retrieval", "labels")),
        ("a/I_query", ("query", "image")),
    ],
)
def test_names_tell_what_an_array_is(key, kind_and_part):
    assert read_array_name(key) == kind_and_part


def test_labels_as_numbers_and_as_matrices():
    (one, other), names = labels_of([np.array([[3, 7, 3]]), np.array([9])], "f")
    assert names == ("3", "7", "9")
    assert one.tolist() == [[True, False, False], [False, True, False], [True, False, False]]
    assert other.tolist() == [[False, False, True]]
    (several,), names = labels_of([np.array([[0, 1, 1], [0, 0, 0]])], "f")
    assert names == ("0", "1", "2") and several.sum(1).tolist() == [2, 0]


def write_labels(store, lists):
    """Gives a store's images labels; the store itself cannot hold them when it is imported."""
    column = pa.array(lists, pa.list_(pa.int32()))
    pq.write_table(store.images.append_column("labels", column), store.directory / "image.parquet")
    accept_changes(store.directory)


def test_a_store_with_labels(tiny_store, tmp_path):
    store = tiny_store(tmp_path)
    with pytest.raises(DataError, match="no image has labels; give annotations with --labels"):
        read_source(SetSource("scenes", "", (store.directory,)))
    write_labels(store, [[row % 4, 9] if row % 5 else [] for row in range(100)])
    actual = read_source(SetSource("scenes", "", (store.directory,)))
    assert actual.sizes == {"train": 60, "validation": 20, "retrieval": 20, "query": 20}
    assert actual.classes == ("0", "1", "2", "3", "9")
    assert actual.several_labels
    rows = store.image_rows("test")
    np.testing.assert_allclose(actual.query.image, store.image[rows], atol=1e-6)
    np.testing.assert_allclose(actual.query.text, store.text[rows * 5], atol=1e-6)  # the first of five captions
    assert actual.query.labels.sum(1).tolist() == [2 if row % 5 else 0 for row in rows]
    mean = read_source(SetSource("scenes", "", (store.directory,), captions="mean")).query.text
    expected = store.text.reshape(100, 5, -1).mean(1)[rows]
    np.testing.assert_allclose(mean, expected / np.linalg.norm(expected, axis=1, keepdims=True), atol=1e-6)


def test_cocos_categories_are_columns_by_their_ids(tmp_path):
    path = tmp_path / "instances.json"
    categories = [{"id": 1, "name": "person"}, {"id": 3, "name": "car"}]
    objects = [{"image_id": 7, "category_id": 3}, {"image_id": 7, "category_id": 3}, {"image_id": 9, "category_id": 1}]
    path.write_text(
        json.dumps({"categories": categories, "annotations": objects, "images": [{"id": i} for i in (7, 8, 9)]})
    )
    labels, classes = read_annotations(["9", "8", "7"], path)
    assert classes == ("person", "2", "car")
    assert labels.tolist() == [[True, False, False], [False, False, False], [False, False, True]]
    with pytest.raises(DataError, match=r"knows nothing of image 5 \(0 more like it\)"):
        read_annotations(["5"], path)
    path.write_text("[]")
    with pytest.raises(DataError, match="not COCO's instances JSON"):
        read_annotations(["5"], path)


def test_mirflickrs_annotations_are_lists_of_image_numbers(tmp_path):
    for name, text in {"sky": "1\n3\n", "sky_r1": "3\n", "dog": "2\n", "README": "words"}.items():
        (tmp_path / f"{name}.txt").write_text(text)
    labels, classes = read_annotations(["im1.jpg", "im2.jpg", "im3"], tmp_path)
    assert classes == ("dog", "sky")
    assert labels.tolist() == [[False, True], [True, False], [False, True]]
    with pytest.raises(DataError, match=r"image a\.jpg has no number"):
        read_annotations(["a.jpg"], tmp_path)


@pytest.mark.skipif(DATA is None, reason="XMRANK_TEST_DATA does not name the folder of real data")
def test_the_classic_wikipedia_files():
    actual = read_features("wikipedia", "", Path(DATA) / "wikipedia", seed=0)
    assert actual.sizes == {"train": 1956, "validation": 217, "retrieval": 693, "query": 693}
    assert (actual.train.image.shape[1], actual.train.text.shape[1]) == (128, 10)
    assert actual.classes[:2] == ("art", "biology")
    assert actual.query.labels[:3].argmax(1).tolist() == [1, 9, 2]  # the test list begins with 2, 10, 3
    assert actual.beside_table_1() == (
        "10 classes, 1,956 / 217 / 693 / 693 (train / validation / retrieval / query); paper's Table 1: 10 classes, "
        "1,942 / 215 / 462 / 462"
    )
    assert set(TABLE_1) == {"ms-coco", "mirflickr", "wikipedia", "pascal-sentence", "nus-wide-10k", "xmedianet"}

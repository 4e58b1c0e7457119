"""Methods that are trained by steps: their losses on inputs small enough to follow, and what their networks are."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from test_supervised_methods import QUICK, blobs, mean_of
from torch import nn, tensor

from xmrank.config.supervised_methods import AcmrConfig, AlgcnConfig, CorrAeConfig, PanConfig
from xmrank.supervised.acmr import Acmr, FlipGradient, acmr_loss, adversary_loss_of, label_loss_of, triplet_loss_of
from xmrank.supervised.algcn import (
    Algcn,
    algcn_loss,
    graph_loss,
    label_graph,
    normalise_graph,
    predict_labels_by_cosine,
)
from xmrank.supervised.corr_ae import CorrAe, corr_ae_loss
from xmrank.supervised.dscmr import dscmr_loss
from xmrank.supervised.map_evaluation import NAIVE, measure_searches
from xmrank.supervised.methods import fit_method
from xmrank.supervised.pan import Pan, adaptive_margins, pan_loss, pan_objective, prototype_loss


def softplus(x):
    return math.log(1 + math.exp(x))


# --- Corr-AE


def test_corr_ae_by_hand():
    image, text = tensor([[1.0, 0.0], [0.0, 2.0]]), tensor([[1.0], [3.0]])
    rebuilt, text_rebuilt = tensor([[0.0, 0.0], [0.0, 1.0]]), tensor([[1.0], [1.0]])
    one, other = tensor([[0.5], [0.0]]), tensor([[0.0], [1.0]])
    expected = 0.25 * ((1 + 1) / 2 + (0 + 4) / 2) + 0.75 * (0.25 + 1) / 2
    assert corr_ae_loss(image, text, rebuilt, text_rebuilt, one, other, alpha=0.75).item() == pytest.approx(expected)


def test_corr_ae_rebuilds_each_modality_and_ends_at_unit_length():
    module = CorrAe(5, 3, CorrAeConfig(width=4, dimensions=2))
    assert [type(layer) for layer in module.image[:4]] == [nn.Linear, nn.Sigmoid, nn.Linear, nn.Sigmoid]
    assert module.image_decoder(torch.zeros(2, 2)).shape == (2, 5)
    assert module.text_decoder(torch.zeros(2, 2)).shape == (2, 3)
    assert_allclose(np.linalg.norm(module.embed("text", np.ones((2, 3), "f4")), axis=1), 1, rtol=1e-6)
    image, text = torch.rand(4, 5), torch.rand(4, 3)
    one, other = module.image[:-1](image), module.text[:-1](text)
    expected = corr_ae_loss(image, text, module.image_decoder(one), module.text_decoder(other), one, other, alpha=0.3)
    assert module.compute_loss(image, text, None, alpha=0.3).item() == pytest.approx(expected.item())


# --- ACMR


def test_the_label_loss_of_acmr_by_hand():
    logits, labels = tensor([[1.0, 0.0], [0.0, 0.0], [2.0, 1.0]]), tensor([[1.0, 0.0], [1.0, 1.0], [0.0, 0.0]])
    # log softmax of the first: 1 − log(e + 1); the second has both labels at half each; the third counts nowhere.
    assert label_loss_of(logits, labels).item() == pytest.approx(((math.log(math.e + 1) - 1) + math.log(2)) / 2)


def test_the_triplets_of_acmr_by_hand():
    anchors, others = tensor([[0.0], [3.0], [4.0]]), tensor([[1.0], [3.5], [4.0]])
    labels = tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    # Distances: 1, 3.5, 4 | 2, 0.5, 1 | 3, 0.5, 0.
    near = [(1 + 3.5) / 2, (2 + 0.5) / 2, 0]
    far = [max(0, 0.8 - 4), max(0, 0.8 - 1), max(0, 0.8 - 0.5)]
    expected = (sum(near) + 2 * sum(far)) / 3
    assert triplet_loss_of(anchors, others, labels, margin=0.8, weight=2.0).item() == pytest.approx(expected, abs=1e-5)
    alone = triplet_loss_of(anchors, others, torch.ones(3, 1), margin=0.8, weight=2.0)
    assert alone.item() == pytest.approx((1 + 3.5 + 4 + 2 + 0.5 + 1 + 3 + 0.5 + 0) / 9, abs=1e-5)


def test_the_adversary_of_acmr_by_hand():
    # −log σ(1) − log(1 − σ(2)), and −log σ(0) − log(1 − σ(0)).
    expected = (softplus(-1.0) + softplus(2.0) + 2 * math.log(2)) / 2
    assert adversary_loss_of(tensor([1.0, 0.0]), tensor([2.0, 0.0])).item() == pytest.approx(expected)


def test_the_adversary_turns_the_gradient_of_embeddings_around_and_not_its_own():
    rows, weights = torch.ones(1, 2, requires_grad=True), torch.ones(2, requires_grad=True)
    (FlipGradient.apply(rows, 0.5) @ weights).sum().backward()
    assert rows.grad.tolist() == [[-0.5, -0.5]] and weights.grad.tolist() == [1.0, 1.0]


def test_the_loss_of_acmr_is_the_sum_of_its_parts():
    module = Acmr(3, 2, 2, AcmrConfig(width=4, second_width=4, dimensions=4, alpha=2.0, beta=3.0, decay=0.5))
    image, text, labels = torch.rand(4, 3), torch.rand(4, 2), torch.eye(2)[[0, 0, 1, 1]]
    one, other = module.image[:-1](image), module.text[:-1](text)
    told = label_loss_of(module.classifier(one), labels) + label_loss_of(module.classifier(other), labels)
    alike = triplet_loss_of(one, other, labels) + triplet_loss_of(other, one, labels)
    norms = sum(side[k].weight.square().sum() for side in (module.image, module.text) for k in (0, 2, 4))
    logits = [module.adversary(side).squeeze(1) for side in (one, other)]
    expected = 2 * alike + 3 * told + 0.5 * norms + adversary_loss_of(*logits)
    assert module.compute_loss(image, text, labels).item() == pytest.approx(expected.item(), rel=1e-5)
    logits = module.classifier(one), module.classifier(other)
    whole = acmr_loss(one, other, *logits, labels, alpha=2.0, beta=3.0)
    assert whole.item() == pytest.approx((2 * alike + 3 * told).item(), rel=1e-5)


def test_the_loss_of_acmr_by_hand():
    image, text, logits = tensor([[0.0], [2.0]]), tensor([[1.0], [2.5]]), torch.zeros(2, 2)
    # Distances 1, 2.5 | 1, 0.5: own pairs 1 and 0.5, others 2.5 and 1 (images), 1 and 2.5 (texts).
    triplets = ((1 + 2 * 0) + (0.5 + 2 * 0.2)) / 2 + ((1 + 2 * 0.2) + (0.5 + 2 * 0)) / 2
    norms = 0.5 * (1 + 4 + 9)
    matrices = [tensor([[1.0, 2.0]]), tensor([[3.0]])]
    given = {"alpha": 3.0, "beta": 4.0, "margin": 1.2, "weight": 2.0, "matrices": matrices, "decay": 0.5}
    actual = acmr_loss(image, text, logits, logits, torch.eye(2), **given)
    assert actual.item() == pytest.approx(3 * triplets + 4 * 2 * math.log(2) + norms, rel=1e-5)


def test_coinciding_embeddings_have_a_finite_gradient_in_acmr():
    rows = torch.ones(3, 2, requires_grad=True)
    triplet_loss_of(rows, rows, torch.eye(3)).backward()
    assert rows.grad.isfinite().all()


# --- ALGCN


def test_the_label_graph_by_hand():
    labels = np.array([[1, 1, 0], [1, 0, 0], [1, 1, 0], [0, 0, 1]])
    # P(1 | 0) = 2/3, P(0 | 1) = 1; the diagonal always reaches the threshold.
    assert label_graph(labels, 0.7).tolist() == [[1.5, 0, 0], [0.5, 1.5, 0], [0, 0, 1.5]]
    assert label_graph(labels, 0.6)[0].tolist() == [1.5, 0.5, 0]
    assert label_graph(np.zeros((2, 2)), 0.4).tolist() == [[1, 0], [0, 1]]  # labels that no item has


def test_the_graph_is_normalised_and_supervised_by_hand():
    graph = tensor([[1.5, 0.5], [0.0, 1.0]])
    normalised = normalise_graph(graph)  # row sums 2 and 1
    assert_allclose(normalised, [[0.75, 0], [0.5 / math.sqrt(2), 1]], rtol=1e-6)
    drawn = tensor([[0.0, 0.0], [1.0, 0.0]])
    expected = (0.25**2 + 0.5**2 + (0.5 / math.sqrt(2) - 0.5) ** 2 + 0.5**2) / 4
    assert graph_loss(normalised, graph, drawn).item() == pytest.approx(expected)


def test_predictions_of_algcn_are_cosines():
    actual = predict_labels_by_cosine(tensor([[3.0, 4.0]]), tensor([[1.0, 0.0], [0.0, 2.0]]))
    assert_allclose(actual, [[0.6, 0.8]], rtol=1e-5)


def test_the_loss_of_algcn_is_dscmrs_without_the_distance_of_pairs():
    values = [torch.rand(4, 3) for _ in range(4)]
    labels = torch.eye(3)[[0, 1, 2, 0]]
    expected = dscmr_loss(*values, labels, alpha=0.2, beta=0.0)
    assert algcn_loss(*values, labels).item() == pytest.approx(expected.item())
    with_pairs = dscmr_loss(*values, labels, alpha=0.2, beta=1.0)
    assert with_pairs.item() > expected.item()


def test_the_loss_of_algcn_by_hand():
    image, text, labels = tensor([[3.0, 0.0], [0.0, 2.0]]), tensor([[1.0, 0.0], [5.0, 0.0]]), torch.eye(2)
    told, guessed = tensor([[1.0, 0.0], [0.0, 0.5]]), tensor([[0.0, 0.0], [0.3, 0.6]])
    in_labels = 0.5 / 2 + (1 + 0.5) / 2
    # Half of the cosines: images [[½, 0], [0, ½]], across [[½, ½], [0, 0]], texts all ½; own pairs share a label.
    half, none = softplus(0.5), math.log(2)
    images = (2 * half + 2 * none - 0.5 - 0.5) / 4
    across = (2 * half + 2 * none - 0.5 - 0) / 4
    texts = (4 * half - 0.5 - 0.5) / 4
    expected = in_labels + 0.2 * (images + across + texts)
    assert algcn_loss(image, text, told, guessed, labels, alpha=0.2).item() == pytest.approx(expected, rel=1e-5)


def test_one_graph_layer_of_algcn_by_hand():
    graph = tensor([[1.0, 0.0], [0.5, 1.0]])
    module = Algcn(3, 2, torch.eye(2), AlgcnConfig(dimensions=1, label_size=1))
    with torch.no_grad():
        module.words.copy_(tensor([[1.0], [-4.0]]))
        for weights, value in zip(module.layers, (1.0, 2.0, 1.0), strict=True):
            weights.fill_(value)
        module.classifiers.weight.copy_(tensor([[1.0, 10.0, 100.0]]))
        module.classifiers.bias.zero_()
    # Layer 1: 1 and 0.5 − 4 = −3.5 → −0.7; 2: 2 and 1 − 1.4 = −0.4 → −0.08; 3: 2 and 1 − 0.08 = 0.92.
    expected = [1 + 20 + 200, -0.7 - 0.8 + 92]
    assert_allclose(module.make_classifiers(graph).detach()[:, 0], expected, rtol=1e-5)


# --- PAN


def test_the_prototype_loss_of_pan_by_hand():
    features, prototypes = tensor([[1.0, 0.0], [0.0, 0.0], [9.0, 9.0]]), tensor([[1.0, 0.0], [0.0, 2.0]])
    labels = tensor([[1.0, 0.0], [1.0, 1.0], [0.0, 0.0]])
    # 0; half of 1 and half of 4; the third has no label.
    assert prototype_loss(features, prototypes, labels).item() == pytest.approx((0 + (1 + 4) / 2) / 2)


def test_margins_are_half_the_squared_distance_to_the_nearest_prototype():
    prototypes = tensor([[0.0], [2.0], [5.0]], requires_grad=True)
    margins = adaptive_margins(prototypes)
    assert margins.tolist() == [2.0, 2.0, 4.5]
    assert not margins.requires_grad
    assert adaptive_margins(tensor([[1.0]])).tolist() == [0.0]


def test_the_objective_of_pan_by_hand():
    features, prototypes, labels = tensor([[1.0]]), tensor([[0.0], [2.0]]), tensor([[1.0, 0.0]])
    # Squared distances 1 and 1, margins 2 each: logits −1 − 0.5 · 2 and −1; the prototype loss is 1.
    distance = pan_objective(features, prototypes, labels, regularisation=0.1, margin=0.5)
    assert distance.item() == pytest.approx(softplus(1.0) + 0.1)
    dot = pan_objective(features, prototypes, labels, classifier="dot")  # logits 0 and 2
    assert dot.item() == pytest.approx(softplus(2.0))
    plain = pan_objective(features, prototypes, labels)
    assert plain.item() == pytest.approx(pan_loss(features, prototypes, labels).item()) == pytest.approx(math.log(2))


def test_pan_sums_both_modalities():
    module = Pan(3, 2, 2, PanConfig(width=4, dimensions=3, regularisation=0.2, margin=0.3))
    image, text, labels = torch.rand(4, 3), torch.rand(4, 2), torch.eye(2)[[0, 0, 1, 1]]
    parts = [
        pan_objective(side[:-1](rows), module.prototypes, labels, regularisation=0.2, margin=0.3)
        for side, rows in ((module.image, image), (module.text, text))
    ]
    assert module.compute_loss(image, text, labels).item() == pytest.approx((parts[0] + parts[1]).item())


# --- all of them


@pytest.mark.parametrize("method", ["acmr", "algcn", "pan"])
def test_trained_methods_separate_classes(method):
    data, own = blobs(), getattr(QUICK, method)
    config = replace(QUICK, **{method: replace(own, epochs=25)})
    before = mean_of(measure_searches(data, fit_method("embeddings", data, config, 0), 15), NAIVE)
    fitted = fit_method(method, data, config, 0)
    assert mean_of(measure_searches(data, fitted, 15), NAIVE) > before + 0.15
    assert fitted.history[-1]["total"] < fitted.history[0]["total"]


@pytest.mark.parametrize("method", ["dcca", "corr_ae"])
def test_training_without_labels_does_not_see_them(method):
    data = blobs()
    noise = np.random.default_rng(1).permutation(data.train.labels)
    other = replace(data, train=replace(data.train, labels=noise))
    one, two = (fit_method(method, given, QUICK, 0).embed("image", data.query.image) for given in (data, other))
    np.testing.assert_array_equal(one, two)

"""Tokens of small models of each kind, compared with what the models compute step by step."""

from types import SimpleNamespace

import numpy as np
import open_clip
import pytest
import torch
from open_clip.model import CLIP, CustomTextCLIP
from torch import nn

from xmrank.config.embed import TokenSettings
from xmrank.embed.decoding import PixelTransform
from xmrank.embed.encoder import Encoder, load_encoder
from xmrank.embed.token_extraction import TokenExtractor, find_words, pool_map
from xmrank.runtime.errors import ConfigError

TEXT = {"context_length": 12, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 3}
VIT = {"image_size": 32, "patch_size": 8, "width": 24, "layers": 3, "head_width": 8}
RESNET = {"image_size": 64, "layers": [1, 1, 1, 1], "width": 8}
TIMM = {"timm_model_name": "resnet10t", "timm_pool": "avg", "timm_proj": "linear", "image_size": 64}
TIMM_VIT = {"timm_model_name": "vit_tiny_patch16_224", "timm_pool": "token", "timm_proj": "linear", "image_size": 224}


def settings(image_layer=0, text_layer=0, grid=0):
    return TokenSettings(image_layer, text_layer, grid, width=0, dtype="float16", seed=0)


def make_extractor(vision, model_type=CLIP, **layers):
    torch.manual_seed(0)
    model = model_type(8, {"timm_model_pretrained": False, **vision}, TEXT).eval()
    encoder = Encoder(
        name="small",
        model=model,
        preprocess=None,
        tokenizer=open_clip.SimpleTokenizer(context_length=12),
        dimensions=8,
        weights_hash="",
        preprocessing={},
        device=torch.device("cpu"),
        input_dtype=torch.float32,
    )
    encoder.__dict__["pixels"] = PixelTransform(None)
    return TokenExtractor(encoder, settings(**layers))


def pictures(size, count=2):
    return torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(
    ("vision", "model_type", "layers"),
    [(VIT, CLIP, 3), (RESNET, CLIP, 5), (TIMM, CustomTextCLIP, 5), (TIMM_VIT, CustomTextCLIP, 12)],
    ids=["vit", "resnet", "timm", "timm_vit"],
)
def test_embeddings_do_not_change_and_layers_are_counted(vision, model_type, layers):
    extractor = make_extractor(vision, model_type, image_layer=1, text_layer=2)
    images = pictures(vision["image_size"])
    ids = extractor.encoder.tokenizer(["a dog", "two red cats"])
    assert torch.equal(extractor.encode_images(images)[0], extractor.encoder.encode_images(images))
    assert torch.equal(extractor.encode_tokens(ids)[0], extractor.encoder.encode_tokens(ids))
    with pytest.raises(ConfigError) as caught:
        TokenExtractor(extractor.encoder, settings(image_layer=layers))
    assert str(caught.value) == (
        f"--image-token-layer {layers}: expected at most {layers - 1}, the first layer of small"
    )
    with pytest.raises(ConfigError, match="--text-token-layer 4: expected at most 3, the first layer of small"):
        TokenExtractor(extractor.encoder, settings(text_layer=4))


@torch.inference_mode()
def test_patches_of_a_vit_are_its_last_states_row_by_row():
    extractor = make_extractor(VIT)
    visual, images = extractor.encoder.model.visual, pictures(32)
    _, tokens = extractor.encode_images(images)
    states = visual.ln_post(visual.transformer(visual._embeds(images)))[:, 1:]  # without the class token
    assert tokens.counts == [16, 16]  # 32 / 8 squared
    torch.testing.assert_close(tokens.values, states.reshape(32, 24))


@torch.inference_mode()
def test_an_earlier_layer_of_a_vit_leaves_out_the_blocks_behind():
    extractor = make_extractor(VIT, image_layer=2)
    visual, images = extractor.encoder.model.visual, pictures(32)
    states = visual.transformer.resblocks[0](visual._embeds(images))[:, 1:]
    torch.testing.assert_close(extractor.encode_images(images)[1].values, visual.ln_post(states).reshape(32, 24))


@torch.inference_mode()
def test_stages_of_a_resnet_are_counted_from_its_end():
    images = pictures(64)
    visual = make_extractor(RESNET).encoder.model.visual
    early = visual.layer2(visual.layer1(visual.stem(images)))
    _, tokens = make_extractor(RESNET, image_layer=2).encode_images(images)
    assert tokens.counts == [64, 64] and tokens.values.shape == (128, 64)  # 64 pixels / 8, 8 × 2 × 4 channels
    torch.testing.assert_close(tokens.values, early.flatten(2).transpose(1, 2).reshape(128, 64))
    assert make_extractor(RESNET).encode_images(images)[1].counts == [4, 4]


def test_maps_of_timm_are_averaged_to_the_grid():
    images = pictures(64)
    _, whole = make_extractor(TIMM, CustomTextCLIP, image_layer=2).encode_images(images)
    _, pooled = make_extractor(TIMM, CustomTextCLIP, image_layer=2, grid=2).encode_images(images)
    assert (whole.counts, pooled.counts) == ([64, 64], [4, 4])
    by_hand = whole.values.reshape(2, 2, 4, 2, 4, -1).mean((2, 4)).reshape(8, -1)
    torch.testing.assert_close(pooled.values, by_hand)


def test_a_grid_averages_and_never_enlarges():
    values = torch.arange(12.0).reshape(1, 1, 2, 6)
    assert pool_map(values, 3).tolist() == [[[[0.5, 2.5, 4.5], [6.5, 8.5, 10.5]]]]
    assert pool_map(values, 6) is values and pool_map(values, 0) is values


@torch.inference_mode()
def test_text_tokens_are_the_states_of_word_pieces():
    texts = ["a dog!", "!"]
    pieces = [[320, 1929, 256], [256]]  # of open_clip's tokenizer; the padding is 0
    extractor = make_extractor(VIT)
    model, ids = extractor.encoder.model, extractor.encoder.tokenizer(texts)
    assert ids[:, 1:4].tolist() == [pieces[0], [256, 49407, 0]]
    _, tokens = extractor.encode_tokens(ids)
    states = model.token_embedding(ids) + model.positional_embedding
    states = model.ln_final(model.transformer(states, attn_mask=model.attn_mask))
    assert tokens.counts == [3, 1]
    torch.testing.assert_close(tokens.values, torch.cat([states[0, 1:4], states[1, 1:2]]))
    # As many layers from the end as there are: the embeddings that the first one reads.
    _, words = make_extractor(VIT, text_layer=3).encode_tokens(ids)
    assert torch.equal(words.values, model.token_embedding(torch.tensor([*pieces[0], *pieces[1]])))


def test_start_end_and_padding_are_no_words():
    own = torch.tensor([[49406, 0, 0, 49407, 0], [49406, 49407, 0, 0, 0]])  # 0 is a word before the end
    assert find_words(own, None).tolist() == [[False, True, True, False, False], [True, False, False, False, False]]
    other = torch.tensor([[101, 7, 8, 102, 0], [7, 1, 0, 0, 0]])
    special = torch.tensor([0, 1, 101, 102])
    assert find_words(other, special).tolist() == [[False, True, True, False, False], [True] + [False] * 4]


def test_hidden_states_of_a_hugging_face_tower_are_taken_on_their_way():
    class Transformer(nn.Module):
        config = SimpleNamespace(output_hidden_states=False)

        def forward(self, ids):
            states = [ids[..., None].float() * layer for layer in (1, 2, 3)]
            return SimpleNamespace(hidden_states=states if self.config.output_hidden_states else None)

    class Model(nn.Module):
        forward_intermediates = None

        def __init__(self):
            super().__init__()
            self.text = nn.Module()
            self.text.transformer, self.text.config = Transformer(), SimpleNamespace(num_hidden_layers=2)
            self.visual = SimpleNamespace(transformer=SimpleNamespace(resblocks=[1]))

        def encode_text(self, ids):
            self.text.transformer(ids)
            return torch.tensor([[3.0, 4.0]])

    inner = SimpleNamespace(all_special_ids=[0, 2, 3], unk_token_id=3)
    tokenizer = SimpleNamespace(tokenizer=inner)
    encoder = SimpleNamespace(name="roberta", model=Model(), device="cpu", tokenizer=tokenizer)
    features, tokens = TokenExtractor(encoder, settings(text_layer=1)).encode_tokens(torch.tensor([[0, 5, 3, 2]]))
    assert features.tolist() == [[pytest.approx(0.6), pytest.approx(0.8)]]
    assert tokens.values.tolist() == [[10], [6]] and tokens.counts == [2]  # layer 2 of 3 doubles the ids 5 and 3
    with pytest.raises(ConfigError, match="--text-token-layer 3: expected at most 2"):
        TokenExtractor(encoder, settings(text_layer=3))


def test_the_bundled_encoder_has_an_eight_by_eight_map():
    extractor = TokenExtractor(load_encoder("xmrank-tiny"), settings(image_layer=2, text_layer=1, grid=8))
    _, tokens = extractor.encode_images(pictures(64))
    assert tokens.counts == [64, 64] and tokens.values.shape == (128, 128)
    _, words = extractor.encode_tokens(extractor.encoder.tokenizer(["a red dog"]))
    assert words.values.shape == (3, 80) and np.isfinite(words.values.numpy()).all()

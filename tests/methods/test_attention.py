"""Attention computed again beside the host's own, and the masks that are made of it."""

import dataclasses
import threading

import numpy as np
import pytest
import torch
from oracles import diffusers_unet
from PIL import Image
from stand_ins import write_tokenizer

from ldznet.errors import FeatureError, HostError, OptionError, OutOfMemoryError, PromptError
from ldznet.heads.unet import UNetConfig
from ldznet.hosts import attention_probes
from ldznet.hosts.attention_probes import QueriesAndKeys, attention_rows, levels_of, probe_attention
from ldznet.hosts.diffusers import random_weights
from ldznet.hosts.diffusers.host import DiffusersHost
from ldznet.hosts.diffusers.random_weights import random_host
from ldznet.hosts.diffusers.text import TextEncoder
from ldznet.hosts.diffusers.tokenizers import read_tokenizer
from ldznet.hosts.host import Context
from ldznet.methods import attention
from ldznet.methods.attention import AttentionMethod
from ldznet.methods.attention_maps import calibrate, refine_maps, share_out
from ldznet.methods.attention_options import PUBLISHED, SMALL, AttentionOptions
from ldznet.methods.method import EncodedImage, Prompts, RandomInputs
from ldznet.methods.token_spans import Term, find_terms, name_rivals, put_into
from ldznet.options import SegmentOptions
from ldznet.segmenter import Segmenter

TEMPLATE = name_rivals(PUBLISHED.template, AttentionOptions().distractors)
PREDICTION = {"sd1": "noise", "sd2": "v", "sdxl": "noise"}


class TheirHost(DiffusersHost):
    """A host whose UNet is that of diffusers."""

    theirs = None

    def predict_noise(self, noisy_latent, timesteps, context):
        return self.theirs(noisy_latent.expand(len(context), -1, -1, -1), timesteps, context.tokens).sample

    def feature_modules(self):
        blocks = [*self.theirs.down_blocks, self.theirs.mid_block, *self.theirs.up_blocks]
        modules = [layer for block in blocks for layer in getattr(block, "attentions", [])]
        return dict(zip(self.info.unet.transformer_paths(), modules, strict=True))


def make_host(family):
    """Random weights, with attention that prefers some tokens to others."""
    host = random_host(family, prediction=PREDICTION[family])
    sharpen(host.unet)
    return host


def sharpen(unet):
    for name, weight in unet.named_parameters():
        if name.endswith(("attn1.to_q.weight", "attn2.to_q.weight")):
            weight.data *= 4


def make_pair(family):
    """The same weights in the original layout and in that of diffusers."""
    host = random_host(family)
    sharpen(host.unet)
    theirs = TheirHost(host.info, host.unet, host.vae, host.text, host.schedule)
    theirs.theirs = diffusers_unet(host.unet)
    return host, theirs


@pytest.fixture(scope="module")
def hosts():
    made = {family: make_host(family) for family in PREDICTION}
    for family in ("sd1", "sd2"):
        made[f"{family} original"], made[f"{family} diffusers"] = make_pair(family)
    return made


@pytest.fixture
def host(hosts):
    return hosts["sd1"]


ALL = ("sd1", "sd2", "sdxl", "sd1 diffusers", "sd2 diffusers")


def a_pass(host, prompts=("a cat",), seed=0):
    """Arguments of one UNet pass; the latent is wider than high."""
    generator = torch.Generator().manual_seed(seed)
    noisy_latent = torch.randn(1, 4, 8, 16, generator=generator)
    return noisy_latent, torch.full((len(prompts),), 100), host.encode_prompt(prompts)


def probe_all(host, prompts=("a cat",), **more):
    modules = host.feature_modules()
    with probe_attention(modules, text=modules, own=modules, **more) as seen:
        host.predict_noise(*a_pass(host, prompts))
    return seen


def rows_of(layers, index=0):
    return torch.cat(list(attention_rows(layers, index)))


def attention_layers(host):
    """path -> its attention layers, first those to the map itself, then those to the text."""
    return {
        path: ([b.attn1 for b in t.transformer_blocks], [b.attn2 for b in t.transformer_blocks])
        for path, t in host.feature_modules().items()
    }


# --- attention, computed again -------------------------------------------------------------------------


@pytest.mark.parametrize("name", ALL)
def test_the_probabilities_are_those_of_a_plain_softmax_which_gives_the_layers_own_output(hosts, name):
    host = hosts[name]
    seen_plainly, hooks = {}, []

    def look(layer, args, kwargs, output):
        x = args[0] if args else kwargs["hidden_states"]
        context = args[1] if len(args) > 1 else kwargs.get("context", kwargs.get("encoder_hidden_states"))
        seen_plainly[layer] = x, x if context is None else context, output

    for pair in attention_layers(host).values():
        hooks += [layer.register_forward_hook(look, with_kwargs=True) for layers in pair for layer in layers]
    seen = probe_all(host, ("a cat", "two dogs"))
    for hook in hooks:
        hook.remove()

    spread = []
    for path, (own, text) in attention_layers(host).items():
        assert (len(seen.own[path]), len(seen.text[path])) == (len(own), len(text))
        for number, layer in [*enumerate(own), *enumerate(text)]:
            x, context, output = seen_plainly[layer]
            for index in range(2):
                x1, context1, output1 = (t[index if len(t) > 1 else 0] for t in (x, context, output))
                q, k, v = layer.to_q(x1), layer.to_k(context1), layer.to_v(context1)
                d = q.shape[1] // layer.heads
                heads = [slice(head * d, (head + 1) * d) for head in range(layer.heads)]
                each = [torch.softmax(q[:, h] @ k[:, h].T / d**0.5, dim=-1) for h in heads]
                found = torch.cat([p @ v[:, h] for p, h in zip(each, heads, strict=True)], dim=-1)
                assert (layer.to_out[0](found) - output1).abs().max() < 1e-5, path
                expected = torch.stack(each).mean(dim=0)
                if layer is own[number]:
                    probability = rows_of([seen.own[path][number]], index)
                else:
                    probabilities = seen.text[path][number]
                    assert len(probabilities) == 2
                    probability = probabilities[index]
                    spread.append(probability.std().item())
                assert (probability - expected).abs().max() < 1e-6, path
                assert (probability.sum(dim=-1) - 1).abs().max() < 1e-5
    assert max(spread) > 0.001  # not merely 1 / 77 everywhere


@pytest.mark.parametrize("family", ["sd1", "sd2"])
def test_both_layouts_give_the_same_probabilities_from_the_same_weights(hosts, family):
    original, theirs = (probe_all(hosts[f"{family} {layout}"]) for layout in ("original", "diffusers"))

    assert list(original.text) == list(theirs.text) == list(original.own)
    for path in original.text:
        torch.testing.assert_close(original.text[path], theirs.text[path], atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(rows_of(original.own[path]), rows_of(theirs.own[path]), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("scores", [1, 300, 2**24])
def test_rows_are_the_same_however_many_are_computed_at_a_time(monkeypatch, scores):
    generator = torch.Generator().manual_seed(0)
    layers = [QueriesAndKeys(*torch.randn(2, 1, 12, 8, generator=generator), heads) for heads in (2, 4)]
    expected = torch.stack([rows_of([layer]) for layer in layers]).mean(dim=0)

    monkeypatch.setattr(attention_probes, "_SCORES", scores)
    parts = list(attention_rows(layers, 0))

    assert len(parts) == {1: 12, 300: 2, 2**24: 1}[scores]
    torch.testing.assert_close(torch.cat(parts), expected)


def test_with_blocks_last_only_the_last_block_inside_a_transformer_is_read(hosts):
    every, last = probe_all(hosts["sdxl"]), probe_all(hosts["sdxl"], last_block=True)

    for path, layers in every.text.items():
        assert len(layers) == 2
        assert len(last.text[path]) == len(last.own[path]) == 1
        assert torch.equal(last.text[path][0], layers[1])


def test_what_another_thread_runs_meanwhile_is_not_looked_at(host):
    modules = host.feature_modules()
    expected = probe_all(host)

    with probe_attention(modules, text=modules, own=modules) as seen:
        other = threading.Thread(target=host.predict_noise, args=a_pass(host, ("two dogs", "a cow"), seed=1))
        other.start()
        other.join()
        assert seen.text == seen.own == {}
        host.predict_noise(*a_pass(host))

    for path, probabilities in expected.text.items():
        assert torch.equal(seen.text[path][0], probabilities[0])
        assert len(seen.own[path]) == len(expected.own[path])


def test_hooks_that_come_off_while_another_thread_is_in_the_layer_do_it_no_harm(host):
    modules = host.feature_modules()
    attention = modules["output_blocks.11.1"].transformer_blocks[0].attn2
    inside, gone, answers = threading.Event(), threading.Event(), []

    def wait(*_args):
        if threading.current_thread() is other:
            inside.set()
            gone.wait(20)

    other = threading.Thread(target=lambda: answers.append(host.predict_noise(*a_pass(host))))
    hook = attention.register_forward_pre_hook(wait)
    with probe_attention(modules, text=modules):
        other.start()
        assert inside.wait(20)
        host.predict_noise(*a_pass(host))
    gone.set()
    other.join()
    hook.remove()

    assert len(answers) == 1


def test_the_pass_ends_after_the_last_transformer_that_is_needed(host):
    modules = host.feature_modules()
    ran = []
    hooks = [m.register_forward_hook(lambda *_, path=path: ran.append(path)) for path, m in modules.items()]

    with probe_attention(
        modules, text=["output_blocks.5.1", "input_blocks.4.1"], own=["input_blocks.1.1"]
    ) as seen:
        host.predict_noise(*a_pass(host))
    for hook in hooks:
        hook.remove()

    assert ran[-1] == "output_blocks.5.1"
    assert (set(seen.text), set(seen.own)) == ({"input_blocks.4.1", "output_blocks.5.1"}, {"input_blocks.1.1"})


def state_of(host):
    """All that a pass must leave alone."""
    unet = getattr(host, "theirs", host.unet)
    hooks = [(len(m._forward_hooks), len(m._forward_pre_hooks), m.__dict__.get("forward")) for m in unet.modules()]
    return hooks, torch.get_rng_state().tolist(), torch.is_grad_enabled()


@pytest.mark.parametrize("name", ["sd1", "sd1 diffusers"])
def test_the_unets_answer_is_the_same_bit_for_bit_before_during_and_after(hosts, name):
    host = hosts[name]
    modules = host.feature_modules()
    before = state_of(host)
    plain = host.predict_noise(*a_pass(host))

    answers = []
    hook = modules["output_blocks.11.1"].register_forward_hook(lambda _m, _a, out: answers.append(out))
    host.predict_noise(*a_pass(host))
    probe_all(host)
    hook.remove()

    first, second = (answer[0] if isinstance(answer, tuple) else answer for answer in answers)
    assert torch.equal(first, second)
    assert state_of(host) == before
    assert torch.equal(host.predict_noise(*a_pass(host)), plain)


def test_all_is_as_before_when_the_unet_raises_in_the_middle(host):
    before = state_of(host)

    def fail(*_args):
        raise ZeroDivisionError

    fault = host.unet.middle_block[2].register_forward_hook(fail)
    with pytest.raises(ZeroDivisionError):
        probe_all(host)
    with pytest.raises(ZeroDivisionError):
        probability(host, "cat")
    fault.remove()

    assert state_of(host) == before


def test_a_hook_that_cannot_be_set_leaves_no_hooks(host):
    before = state_of(host)
    blocks = host.feature_modules()["output_blocks.11.1"].transformer_blocks
    attention = blocks[0].attn2
    blocks[0].attn2 = None

    with pytest.raises(AttributeError):
        probe_all(host)
    blocks[0].attn2 = attention

    assert state_of(host) == before


def test_attention_that_never_runs_is_an_error(host, monkeypatch):
    block = host.feature_modules()["input_blocks.1.1"].transformer_blocks[0]
    block.attn1.forward, plain = block.attn1.forward, type(block).forward

    def other(self, x, *others):
        return x if self is block else plain(self, x, *others)

    monkeypatch.setattr(type(block), "forward", other)
    with pytest.raises(FeatureError, match=r"2 of its attention layers were never called, first input_blocks.1.1"):
        probe_all(host)
    del block.attn1.__dict__["forward"]


def test_levels_are_named_from_the_finest():
    published = [levels_of(UNetConfig()), levels_of(random_weights.published("sdxl", 4))]

    assert [(level.factor, level.channels, len(level.paths)) for level in published[0]] == [
        (1, 320, 5),
        (2, 640, 5),
        (4, 1280, 5),
        (8, 1280, 1),
    ]
    assert published[0][0].paths == (
        *("input_blocks.1.1", "input_blocks.2.1"),
        *("output_blocks.9.1", "output_blocks.10.1", "output_blocks.11.1"),
    )
    assert published[0][3].paths == ("middle_block.1",)
    assert [(level.factor, level.channels, len(level.paths)) for level in published[1]] == [
        (2, 640, 5),
        (4, 1280, 6),
    ]


# --- words ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    """A real CLIP tokenizer: cat and dog are one token each, in other words every letter is one."""
    folder = tmp_path_factory.mktemp("tokenizer")
    write_tokenizer(folder)
    return TextEncoder(None, read_tokenizer(folder))


def counter(*text):
    """A host's count_tokens."""
    host = object.__new__(DiffusersHost)
    host.text = text
    return host.count_tokens


def terms(count, template, *phrases, length=75):
    return find_terms(count, *put_into(template, phrases), length)


@pytest.mark.parametrize(
    ("template", "phrases", "expected"),
    [
        ("a photo of a {}, dog", ["cat"], [("cat", "dog")]),
        # small words, and those for pictures, are no rivals; where there are no others, all are
        ("a photo of a {}.", ["the (cat) dog!"], [("cat dog", "a photo of a")]),
        ("{}", ["cat"], [("cat", "")]),
        ("on {} and bed, sky", ["cat of\tbed"], [("cat bed", "sky")]),
        ("{} dog", ["photo the"], [("photo", "dog")]),
        ("{} dog", ["of the"], [("of the", "dog")]),
        ("{} dog", ["!?"], [("!?", "dog")]),
        ("{} dog", ["🪣"], [("🪣", "dog")]),
        ("({}) dog", ["'cat'"], [("cat", "dog")]),
        ("a {} and Dog", ["dog's"], [("dog's", "dog")]),
        ("a {} and Dog, DOG", ["dog sky"], [("dog sky", "a and")]),
        (
            "a {} and dog",
            ["cat", "red cat", "bed"],
            [("cat", "red bed dog"), ("red cat", "bed dog"), ("bed", "cat red cat dog")],
        ),
    ],
)
def test_a_phrases_tokens_and_its_rivals_are_found(clip, template, phrases, expected):
    count = counter(clip)

    def ids(text):
        return clip.tokenize([text])[0][0, 1 : 1 + count([text])[0]].tolist()

    everything = [None, *ids(put_into(template, phrases)[0])]

    found = [
        tuple([everything[place] for place in places] for places in (term.own, term.rivals))
        for term in terms(count, template, *phrases)
    ]
    assert found == [(ids(own), ids(rivals)) for own, rivals in expected]


def test_the_default_sentence_names_ten_rivals(host):
    found = terms(host.count_tokens, TEMPLATE, "big red bucket")

    # "a photograph of a" are 1 to 4, "and other" 8 and 9; a stand-in tokenizer keeps commas with their words
    assert found == [Term((5, 6, 7), (10, 12, 13, 14, 15, 16, 17, 18, 19))]


def test_tokens_after_the_end_of_a_cut_sentence_do_not_count(clip):
    count = counter(clip)
    letters = "x" * 70

    assert terms(count, TEMPLATE, "cat " + "dog " * 99)[0].own[-2:] == (74, 75)
    (found,) = terms(count, "cat {} dog", letters + " dog cat")
    assert (found.own, found.rivals) == ((*range(2, 74),), ())
    with pytest.raises(PromptError, match='Of the prompt "cat" nothing is among the 75 tokens'):
        terms(count, f"dog {letters} dog dog dog dog {{}}", "cat")


# --- the method ----------------------------------------------------------------------------------------


def a_picture(host, height=64, width=128, seed=0):
    pixels = torch.rand(1, 3, height, width, generator=torch.Generator().manual_seed(seed)) * 2 - 1
    return EncodedImage(pixels, host.encode_image(pixels))


def probability(host, *phrases, picture=None, template=PUBLISHED.template, draw=None, **options):
    picture = picture or a_picture(host)
    noise = torch.randn(picture.latent.shape, generator=torch.Generator().manual_seed(0))
    draw = draw or RandomInputs(torch.full((len(phrases),), 100), noise)
    prompts = Prompts(phrases, (template,) * len(phrases), host.encode_prompt)
    return AttentionMethod(AttentionOptions(**options)).probability(host, picture, prompts, draw)


DIFFSEGMENTER = {
    "normalise": "minmax",
    "cross_levels": (0.1, 0.1, 0.5, 0.3),
    "iterations": 1,
    "column_max": False,
    "eta": 0.0,
    "gate": (0.0, 8.0),
    "tokens": "max",
}
BARE = {"normalise": "none", "rescale": False, "emphasis": 1.0, "gate": (), "iterations": 0}


def plain_map(host, picture, term, sentence, o):
    """The whole way for one phrase, step by step in float64."""
    looked, hooks = {}, []
    for path, (own, text) in attention_layers(host).items():
        for layer in (*own, *text):
            kind = "text" if layer in text else "own"

            def look(layer, args, kwargs, key=(path, kind)):
                x = args[0] if args else kwargs["hidden_states"]
                given = args[1] if len(args) > 1 else kwargs.get("context", kwargs.get("encoder_hidden_states"))
                q, k = layer.to_q(x)[0].double(), layer.to_k(x if given is None else given)[0].double()
                d = q.shape[1] // layer.heads
                scores = torch.stack([q[:, h : h + d] @ k[:, h : h + d].T for h in range(0, q.shape[1], d)])
                looked.setdefault(key, []).append((scores / d**0.5).softmax(-1).mean(0))

            hooks.append(layer.register_forward_pre_hook(look, with_kwargs=True))
    context = host.encode_prompt([sentence])
    tokens = context.tokens.clone()
    tokens[0, list(term.own)] *= o.emphasis
    noise = torch.randn(picture.latent.shape, generator=torch.Generator().manual_seed(0))
    t = torch.tensor([100])
    host.predict_noise(host.add_noise(picture.latent, noise, t), t, Context(tokens, context.pooled))
    for hook in hooks:
        hook.remove()

    levels = levels_of(host.info.unet)
    sides = [(picture.latent.shape[2] // v.factor, picture.latent.shape[3] // v.factor) for v in levels]
    size = sides[o.self_level]
    mixed, plain = 0, 0
    for weight, level, side in zip(o.cross_levels, levels, sides, strict=False):
        if not weight:
            continue
        each = [m for path in level.paths for m in looked[path, "text"]]
        maps = (sum(each) / len(each)).T.reshape(1, -1, *side)
        maps = torch.nn.functional.interpolate(maps, size=size, mode="bilinear")[0].numpy()
        plain = plain + weight * maps
        for token in range(len(maps)):
            if o.normalise == "sum":
                maps[token] = maps[token] / maps[token].sum()
            elif o.normalise == "minmax":
                maps[token] = (maps[token] - maps[token].min()) / np.ptp(maps[token])
        mixed = mixed + weight * maps
    reduce = np.mean if o.tokens == "mean" else np.max
    c = reduce(mixed[list(term.own)], axis=0)
    if o.rescale:
        c = c / (c + mixed[list(term.rivals)].sum(axis=0))
    gate = 1.0
    if o.gate:
        rivals = plain[list(term.rivals)].mean(axis=0)
        best = (reduce(plain[list(term.own)], axis=0) / rivals).max()
        gate = np.clip((best - o.gate[0]) / (o.gate[1] - o.gate[0]), 0, 1)
    c = c.ravel()
    if o.iterations:
        each = [m for path in levels[o.self_level].paths for m in looked[path, "own"]]
        a = (sum(each) / len(each)).numpy()
        if o.column_max:
            a = a / a.max(axis=0)
        if o.eta:
            a = np.maximum(0, a + o.eta * np.log10(np.e * a))
        a = a / a.sum(axis=1, keepdims=True)
        for _ in range(o.iterations):
            c = a @ c
            c = c - c.min()
            c = c / c.sum()
    c = ((c - c.min()) / np.ptp(c)) ** (np.log(0.5) / np.log(o.halfway)) * gate
    c = torch.from_numpy(c.reshape(1, 1, *size)).float()
    return torch.nn.functional.interpolate(c, size=picture.pixels.shape[2:], mode="bicubic")[0, 0].clamp(0, 1)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("sd1", {"cross_levels": (0.0, 0.3, 0.7)}),
        ("sd1", DIFFSEGMENTER),
        ("sd1", BARE | {"cross_levels": (0.0, 1.0)}),
        ("sd2", {"cross_levels": (0.0, 0.3, 0.7), "self_level": 1, "eta": 0.2}),
        ("sdxl", {"cross_levels": (0.3, 0.7), "gate": (0.5, 2.0)}),
        ("sd2 diffusers", {"cross_levels": (0.5, 0.3, 0.7), "column_max": False, "eta": 0.001, "iterations": 3}),
    ],
)
def test_the_probability_is_what_the_steps_give_one_by_one(hosts, name, options):
    host = hosts[name]
    picture = a_picture(host)
    (term,) = terms(host.count_tokens, TEMPLATE, "red cat")
    options = {"gate": (0.0, 3.0)} | options

    found = probability(host, "red cat", picture=picture, **options)

    sentence = TEMPLATE.replace("{}", "red cat")
    expected = plain_map(host, picture, term, sentence, AttentionOptions(**options))
    assert (found[0] - expected).abs().max() < 2e-3
    assert expected.std() > 0.02


def test_the_default_weights_follow_the_models_levels(hosts):
    for name, weights in (("sd1", (0.0, 0.3, 0.7)), ("sdxl", (0.3, 0.7))):
        assert torch.equal(probability(hosts[name], "cat"), probability(hosts[name], "cat", cross_levels=weights))


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("size", [(64, 128), (192, 64)])
def test_shape_range_and_repeatability(hosts, name, size):
    host = hosts[name]
    before = state_of(host)
    picture = a_picture(host, *size)

    found = probability(host, "cat", "two red dogs", picture=picture, gate=())

    assert tuple(found.shape) == (2, *size)
    assert found.dtype == torch.float32
    assert (found.min(), found.amax(dim=(1, 2)).min()) >= (0, 0.9)
    assert found.max() <= 1
    assert not torch.equal(found[0], found[1])
    assert torch.equal(found, probability(host, "cat", "two red dogs", picture=picture, gate=()))
    assert state_of(host) == before


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("held", [1, 2**28])
def test_prompts_at_once_give_what_each_gives_alone(hosts, name, held, monkeypatch):
    monkeypatch.setattr(attention, "_MOST_HELD", held)
    phrases = ("cat", "two red dogs", "sky")

    every = probability(hosts[name], *phrases, gate=(0.0, 2.0))

    for index, phrase in enumerate(phrases):
        alone = probability(hosts[name], phrase, gate=(0.0, 2.0))
        torch.testing.assert_close(every[index : index + 1], alone, atol=2e-3, rtol=0)


def test_prompts_with_draws_of_their_own_give_what_each_gives_alone(host):
    noise = torch.randn(2, 4, 8, 16, generator=torch.Generator().manual_seed(8))
    timesteps = torch.tensor([50, 150])

    both = probability(host, "cat", "dog", draw=RandomInputs(timesteps, noise), gate=(), together=True)

    for index, phrase in enumerate(("cat", "dog")):
        own = RandomInputs(timesteps[index : index + 1], noise[index : index + 1])
        alone = probability(host, phrase, draw=own, gate=())
        torch.testing.assert_close(both[index : index + 1], alone, atol=2e-3, rtol=0)


def test_queries_and_keys_are_held_of_as_many_prompts_as_fit(host, monkeypatch):
    rows = []
    predict_noise = host.predict_noise
    monkeypatch.setattr(host, "predict_noise", lambda *args: rows.append(len(args[2])) or predict_noise(*args))
    each = 5 * 2 * 128 * 32 * 4  # layers, queries and keys, pixels, channels, bytes

    for held, iterations, expected in ((2 * each, 1, [2, 1]), (2 * each - 1, 1, [1, 1, 1]), (2 * each, 0, [3])):
        monkeypatch.setattr(attention, "_MOST_HELD", held)
        probability(host, "a", "b", "c", iterations=iterations)
        assert rows == expected
        rows.clear()


def test_the_memory_of_a_level_is_counted_by_its_own_sides(host, monkeypatch):
    """A latent of 8 x 16 becomes 4 x 8 on the second level."""
    rows = []
    predict_noise = host.predict_noise
    monkeypatch.setattr(host, "predict_noise", lambda *args: rows.append(len(args[2])) or predict_noise(*args))
    monkeypatch.setattr(attention, "_MOST_HELD", 2 * (5 * 2 * 32 * 64 * 4) - 1)  # one byte too few for two prompts
    picture = a_picture(host, 64, 128)

    found = probability(host, "cat", "dog", picture=picture, gate=(), self_level=1)

    assert tuple(picture.latent.shape) == (1, 4, 8, 16)
    assert tuple(found.shape) == (2, 64, 128)
    assert found.amax(dim=(1, 2)).min() > 0.9
    assert rows == [1, 1]


def test_without_refinement_the_pass_ends_at_the_last_level_that_is_read(host):
    ran = []
    modules = host.feature_modules()
    hook = modules["output_blocks.9.1"].register_forward_hook(lambda *_: ran.append(1))

    probability(host, "cat", iterations=0)
    assert ran == []
    probability(host, "cat")
    hook.remove()

    assert ran == [1]


def test_all_phrases_together_run_in_one_sentence_once(host, monkeypatch):
    sentences, rows = [], []
    encode_prompt, predict_noise = host.encode_prompt, host.predict_noise
    monkeypatch.setattr(host, "encode_prompt", lambda texts: sentences.extend(texts) or encode_prompt(texts))
    monkeypatch.setattr(host, "predict_noise", lambda *args: rows.append(len(args[2])) or predict_noise(*args))

    found = probability(host, "cat", "two dogs", together=True, gate=())

    assert sentences == [TEMPLATE.replace("{}", "cat, two dogs")]
    assert rows == [1]
    assert tuple(found.shape) == (2, 64, 128)
    assert not torch.equal(found[0], found[1])
    alone = probability(host, "cat", together=True)
    assert torch.equal(alone, probability(host, "cat"))


def test_phrases_that_do_not_fit_together_run_one_beside_the_other(host):
    phrases = ["cat " * 30, "dog " * 30]

    together = probability(host, *phrases, together=True, gate=())

    assert torch.equal(together, probability(host, *phrases, gate=()))


def segmented(host, phrases, batch, **options):
    segmenter = Segmenter(host, AttentionMethod(AttentionOptions(gate=(), **options)))
    segmenter.set_image(Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)))
    return segmenter.segment(phrases, SegmentOptions(resolution=64, batch=batch)).maps


def test_what_is_found_together_does_not_depend_on_the_batch(host):
    phrases = ["cat", "dog", "red car", "sky"]
    every = segmented(host, phrases, 4, together=True)

    for batch in (1, 2, 3):
        assert torch.equal(segmented(host, phrases, batch, together=True), every)
    assert not torch.equal(segmented(host, phrases[:1], 4, together=True), every[:1])


def test_phrases_together_that_do_not_fit_into_memory_are_an_error_and_not_parted(host, monkeypatch):
    tried = []

    def tight(_noisy_latent, _timesteps, context):
        tried.append(len(context))
        raise MemoryError

    monkeypatch.setattr(host, "predict_noise", tight)
    with pytest.raises(OutOfMemoryError, match=r"2 prompts at 64 x 64 do not fit .* Give fewer prompts or"):
        segmented(host, ["cat", "dog"], 1, together=True)
    assert tried == [1]  # of one sentence


def test_flipping_gives_the_mean_with_the_mirrored_picture(host):
    picture = a_picture(host)
    mirrored = EncodedImage(picture.pixels.flip(-1), host.encode_image(picture.pixels.flip(-1)))
    options = {"iterations": 0, "gate": ()}

    found = probability(host, "cat", picture=picture, flip=True, **options)

    one, other = (probability(host, "cat", picture=p, **options) for p in (picture, mirrored))
    assert (found - (one + other.flip(-1)) / 2).abs().max() < 1e-2  # bicubic and clamped afterwards


# --- its steps -----------------------------------------------------------------------------------------


def test_what_wins_nowhere_against_the_other_words_is_absent():
    """Three words: the first is on the left, the second on the right, the third nowhere."""
    maps = torch.full((4, 2, 4), 0.01)
    maps[1, :, :2] = maps[2, :, 2:] = 0.04
    maps[3, 0, 0] = 0.0101
    options = AttentionOptions(normalise="none", gate=(1.5, 2.5))

    shares, gates = share_out([(1.0, maps)], [Term((1,), (2, 3)), Term((3,), (1, 2))], options)

    torch.testing.assert_close(shares[0, 0], torch.tensor([2 / 3, 2 / 3, 1 / 6, 1 / 6]), atol=2e-3, rtol=0)
    assert gates.tolist() == [1.0, 0.0]
    two = Term((1, 2), (3,))  # a phrase is one competitor, however many tokens it has
    alone, _ = share_out([(1.0, maps)], [two], options)
    torch.testing.assert_close(alone[0, 1], torch.full((4,), 0.025 / 0.035))


def test_without_a_rival_nothing_can_be_absent():
    maps = torch.rand(2, 3, 4, generator=torch.Generator().manual_seed(0))

    shares, gates = share_out([(1.0, maps)], [Term((1,), ())], AttentionOptions(normalise="none"))

    assert torch.equal(shares[0], maps[1])
    assert gates.tolist() == [1.0]


def test_what_lies_halfway_has_a_probability_of_a_half():
    maps = torch.tensor([[[2.0, 2.4, 3.0, 4.0]], [[5.0, 5.0, 5.0, 5.0]]])

    plain, lower = calibrate(maps, 0.5), calibrate(maps, 0.2)

    torch.testing.assert_close(plain[0, 0], torch.tensor([0.0, 0.2, 0.5, 1.0]))
    torch.testing.assert_close(lower[0, 0, [0, 1, 3]], torch.tensor([0.0, 0.5, 1.0]))
    assert not plain[1].any()


def test_refining_fills_what_belongs_together():
    """Two groups of pixels that attend to their own; one pixel of the first was found."""
    group = torch.tensor([0, 0, 0, 1, 1, 1])
    keys = torch.nn.functional.one_hot(group, 4).float()[None] * 8
    found = torch.tensor([[1.0, 0.2, 0.1, 0.1, 0.0, 0.1]])

    for options in ({}, {"iterations": 1, "column_max": False, "eta": 0.0}):
        after = refine_maps(found, [QueriesAndKeys(keys, keys, 1)], 0, AttentionOptions(**options))
        assert after[0, :3].min() > 5 * after[0, 3:].max()
        assert after[0, :3].max() - after[0, :3].min() < 1e-3


@pytest.mark.parametrize("options", [{}, {"iterations": 1, "column_max": False, "eta": 0.0}, {"iterations": 0}])
def test_a_map_that_is_the_same_everywhere_is_empty_after_refining(options):
    q, k = torch.randn(2, 1, 64, 32, generator=torch.Generator().manual_seed(0))
    even = torch.full((64,), 0.7)
    even[:20] += 1e-7  # what rounding leaves
    uneven = even.clone()
    uneven[0] = 0.71

    after = refine_maps(torch.stack([even, uneven]), [QueriesAndKeys(q, k, 2)], 0, AttentionOptions(**options))

    found = calibrate(after.reshape(2, 8, 8), 0.45)
    assert found[0].max() == 0
    assert found[1].max() == 1


def test_a_pixel_without_any_link_keeps_its_value():
    layer = QueriesAndKeys(torch.zeros(1, 3, 4), torch.zeros(1, 3, 4), 1)
    options = AttentionOptions(column_max=False, eta=1.0, iterations=1)  # 1/3 + log10(e/3) = 0.29: the links stay
    even = refine_maps(torch.tensor([[1.0, 0.0, 0.0]]), [layer], 0, options)
    assert even.abs().max() == 0

    layer = QueriesAndKeys(torch.zeros(1, 9, 4), torch.zeros(1, 9, 4), 1)  # 1/9 + log10(e/9) = -0.41: none stays
    alone = refine_maps(torch.eye(9)[:1], [layer], 0, options)
    assert torch.equal(alone, torch.eye(9)[:1])


# --- what it refuses, and through the segmenter -----------------------------------------------------------


@pytest.mark.parametrize("options", [{"cross_levels": (0.0, 0.5, 0.5)}, {"self_level": 2}])
def test_a_model_without_the_levels_is_refused_before_any_work(hosts, options):
    Segmenter(hosts["sd1"], AttentionMethod(AttentionOptions(**options)))
    with pytest.raises(HostError, match=r"read 3 levels, but random weights .* has transformers on 2 only"):
        Segmenter(hosts["sdxl"], AttentionMethod(AttentionOptions(**options)))


def test_weights_of_zero_ask_for_no_level(hosts):
    AttentionMethod(AttentionOptions(cross_levels=(0.3, 0.7, 0.0, 0.0))).check(hosts["sdxl"].info)
    assert probability(hosts["sdxl"], "cat", cross_levels=(0.3, 0.7, 0.0, 0.0)).isfinite().all()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"cross_levels": (0.0, 0.0)}, "one of the weights must be above 0"),
        ({"gate": (1.0,)}, "two numbers of which the second is larger"),
        ({"gate": (2.0, 1.0)}, "two numbers of which the second is larger"),
    ],
)
def test_an_option_that_cannot_be_is_refused(options, said):
    with pytest.raises(OptionError, match=said):
        AttentionOptions(**options)


def test_a_small_model_gets_values_of_its_own_and_a_full_one_the_published(host):
    full = dataclasses.replace(host.info, unet=UNetConfig())

    small, published = AttentionMethod.for_host(host.info), AttentionMethod.for_host(full)

    assert (published.options, published.defaults) == (AttentionOptions(), PUBLISHED)
    assert (small.defaults, small.defaults.resolution) == (SMALL, 128)
    assert set(small.options.distractors).isdisjoint(published.options.distractors)
    bare = dataclasses.replace(host.info, unet=dataclasses.replace(host.info.unet, depths=(0, 0, 0, 0)))
    AttentionMethod.for_host(bare).check(bare)  # levels that a model has not got are not asked for


def test_rivals_are_appended_to_any_sentence(host, monkeypatch):
    sentences = []
    encode_prompt = host.encode_prompt
    monkeypatch.setattr(host, "encode_prompt", lambda texts: sentences.extend(texts) or encode_prompt(texts))

    probability(host, "cat", template="a photo of a {}.", distractors=("dog", "sky"))
    probability(host, "cat", template="a photo of a {}.", distractors=())

    assert sentences == ["a photo of a cat, dog, sky", "a photo of a cat."]


def test_the_stages_lead_to_the_map(host):
    picture = a_picture(host)
    prompts = Prompts(("cat", "dog"), (PUBLISHED.template,) * 2, host.encode_prompt)
    draw = RandomInputs(torch.full((2,), 100), torch.zeros(picture.latent.shape))
    method = AttentionMethod(AttentionOptions(gate=(0.0, 2.0)))

    stages = list(method.stages(host, picture.latent, prompts, draw))

    found = method.probability(host, picture, prompts, draw)
    assert [len(one.terms) for one in stages] == [1, 1]
    for index, one in enumerate(stages):
        assert list(one.levels) == [2, 4]
        assert one.shares.shape == one.refined.shape == one.probability.shape == (1, 8, 16)
        enlarged = torch.nn.functional.interpolate(one.probability[None], size=(64, 128), mode="bicubic")
        torch.testing.assert_close(enlarged[0, 0].clamp(0, 1), found[index])


def test_merged_tokens_are_an_error(host):
    attention = host.feature_modules()["output_blocks.4.1"].transformer_blocks[0].attn2
    hook = attention.register_forward_pre_hook(
        lambda _m, args, kwargs: ((args[0][:, ::2], *args[1:]), kwargs), with_kwargs=True
    )
    after = attention.register_forward_hook(lambda _m, _a, out: out.repeat_interleave(2, dim=1))

    with pytest.raises(
        FeatureError, match=r"output_blocks.4.1 ran over 4 pixels, but its map has 2 x 4 = 8. Token"
    ):
        probability(host, "cat")
    hook.remove()
    after.remove()


def test_attention_to_another_picture_is_an_error(host):
    attention = host.feature_modules()["output_blocks.11.1"].transformer_blocks[0].attn1

    def see_twice(_module, args):
        return args[0], args[0].repeat(1, 2, 1)

    hook = attention.register_forward_pre_hook(see_twice)
    with pytest.raises(
        FeatureError, match=r"output_blocks.11.1 ran over 256 pixels, but its map has 8 x 16 = 128"
    ):
        probability(host, "cat")
    hook.remove()


def test_a_batch_that_the_host_split_is_an_error(host, monkeypatch):
    predict_noise = host.predict_noise
    monkeypatch.setattr(host, "predict_noise", lambda z, t, c: predict_noise(z[:2], t[:2], c[:2]))

    with pytest.raises(FeatureError, match="ran over a batch of 2, but 3 prompts were given"):
        probability(host, "cat", "dog", "cow")


@pytest.mark.parametrize("name", ["sd1", "sd2", "sdxl", "sd1 diffusers"])
def test_it_runs_through_the_segmenter(hosts, name):
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 96, 3), np.uint8))
    segmenter = Segmenter(hosts[name], AttentionMethod(AttentionOptions(gate=(0.0, 1.0))))
    segmenter.set_image(image)

    found = segmenter.segment(["cat", "-", "{} dog", "x " * 200], SegmentOptions(resolution=128))

    assert found.probabilities().shape == (4, 64, 96)
    assert found.maps[0].std() > 0.01
    assert (found.record["method"], found.record["method_options"]["emphasis"]) == ("attention", 1.6)
    assert (found.record["timesteps"], found.record["template"]) == ((100,), PUBLISHED.template)
    assert len(found.notes) == 1
    for more in ({"average_templates": True}, {"randomness": "released"}, {"timesteps": (50, 150)}):
        assert segmenter.segment(["cat", "dog"], SegmentOptions(resolution=64, **more)).maps.isfinite().all()


def test_the_record_repeats_the_options():
    options = AttentionOptions(cross_levels=(1.0, 0.5), gate=())

    record = AttentionMethod(options).record

    assert AttentionOptions(**record["method_options"]) == options
    assert record["method_options"] == dataclasses.asdict(options)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_it_works_in_half_precision(dtype):
    exact, narrow = (random_host(dtype=dtype) for dtype in (torch.float32, dtype))
    for host in (exact, narrow):
        sharpen(host.unet)

    found = probability(narrow, "cat", gate=(), iterations=1)

    assert found.dtype == torch.float32
    assert (found - probability(exact, "cat", gate=(), iterations=1)).abs().mean() < 0.1

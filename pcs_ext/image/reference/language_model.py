"""A causal language model that reads words and pictures as one text: from a folder, or a small one of our own."""

import dataclasses
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from torch import Tensor, nn

from pcs_ext.config_io import config, config_hash, file_sha256
from pcs_ext.errors import ArtifactError, ConfigError, ModelError
from pcs_ext.image.backbone import AbstractBackbone
from pcs_ext.image.backbones.hub import hub_folder


@config
class LanguageConfig:
    """Which language model reads prompts."""

    folder: str = ""
    """Of a transformers causal language model or vision-language model, or its hub id; of the latter the language half
    is taken, pictures come from the image encoder. Empty: a small Llama of random weights, whose words are those of the
    base's first tokenizer, and which is trained along."""
    trains: bool = True
    """Whether its weights learn, and are stored with the adapter; one in a folder may stay as it is there."""
    width: int = 512
    """Of our own; ours, and so depth and heads: a language of captions is small."""
    depth: int = 6
    """Its layers."""
    heads: int = 8
    """Of its attentions."""

    def __post_init__(self) -> None:
        # Rotary positions turn pairs of numbers in every head.
        if min(self.width, self.depth, self.heads) < 1 or self.width % (2 * self.heads):
            raise ConfigError("depth and heads must be at least 1, and width an even multiple of heads.")
        if not self.folder and not self.trains:
            raise ConfigError("a language model of random weights must learn; set trains, or folder to one that has.")


class LanguageModel(nn.Module):
    """Embeddings in, states of the last layer out; words have ids.

    Args:
        body: transformer that takes `inputs_embeds`.
        head: states to words; None: the embeddings turned round.
        tokenizer: of its words.
        digest: 8 hex digits of its weights, of one that stays as it is in its folder; empty: it learns.
    """

    def __init__(self, body: Any, head: nn.Module | None, tokenizer: Any, digest: str = "") -> None:
        super().__init__()
        self.body, self.head, self.tokenizer = body, head, tokenizer
        self.digest = digest
        if digest:
            self.requires_grad_(False)
            self.register_buffer("known", torch.tensor(list(bytes.fromhex(digest)), dtype=torch.uint8))
        first = tokenizer.bos_token_id
        self.first = tokenizer.eos_token_id if first is None else first
        self.last = tokenizer.eos_token_id

    @property
    def width(self) -> int:
        """Of embeddings and states."""
        return int(self.body.get_input_embeddings().weight.shape[1])

    @property
    def own(self) -> tuple[nn.Parameter, ...]:
        """What learns; empty if it stays as it is."""
        if self.digest:
            return ()
        return (*self.body.parameters(), *(() if self.head is None else self.head.parameters()))

    def train(self, mode: bool = True) -> "LanguageModel":
        """Language models learn without dropout here, which would draw from torch's own generator."""
        super().train(mode)
        self.body.eval()
        return self

    def ids(self, text: str) -> list[int]:
        """Numbers of a text's words, without marks of its beginning and end. Words that a learned subject has brought
        into the tokenizer are not known, and left out."""
        known = self.body.get_input_embeddings().weight.shape[0]
        return [index for index in self.tokenizer(text, add_special_tokens=False).input_ids if index < known]

    def embed(self, ids: list[int] | Tensor) -> Tensor:
        """`n` numbers -> `n width`."""
        table = self.body.get_input_embeddings()
        return table(torch.as_tensor(ids, dtype=torch.long, device=table.weight.device))

    def forward(self, embeddings: Tensor, mask: Tensor) -> Tensor:
        """`b n width`, and which are there, `b n` bool, the first ones of each row -> states `b n width`."""
        return self.body(inputs_embeds=embeddings, attention_mask=mask.long(), use_cache=False).last_hidden_state

    def go_on(self, embeddings: Tensor, past: Any) -> tuple[Tensor, Any]:
        """States of what follows on what was read before.

        Args:
            embeddings: `b n width`, all of one length.
            past: what this gave for what stands before them; None: nothing does.

        Returns:
            `b n width`, and all that was read.
        """
        read = self.body(inputs_embeds=embeddings, past_key_values=past, use_cache=True)
        return read.last_hidden_state, read.past_key_values

    def logits(self, states: Tensor) -> Tensor:
        """Of the next word, `... width` -> `... words`."""
        table = self.body.get_input_embeddings().weight
        return F.linear(states, table) if self.head is None else self.head(states)

    def without_weights(self, state: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
        """Of tensors to be stored, those that do not lie in the model's own folder."""
        if not self.digest:
            return state
        return {key: value for key, value in state.items() if not key.startswith((f"{prefix}body.", f"{prefix}head."))}

    def check_known(self, known: Tensor) -> None:
        """See that an adapter reads by the language model it was trained with.

        Args:
            known: its `known`, as it was stored.

        Raises:
            ArtifactError: it was another one.
        """
        theirs = bytes(known.round().to(torch.uint8).tolist()).hex()
        if theirs != self.digest:
            raise ArtifactError(
                f"the reference adapter was trained with a language model {theirs}, and the one in its folder is "
                f"{self.digest}. Put that one there, or name its place as language.folder in the adapter's config.json."
            )


def build_language_model(settings: LanguageConfig, backbone: AbstractBackbone) -> LanguageModel:
    """The model of a folder, or an untrained one; its weights are drawn from torch's own generator.

    Raises:
        ModelError: there is none in the folder, or none that is a safetensors file.
    """
    return _opened(settings) if settings.folder else _own(settings, backbone)


def _own(settings: LanguageConfig, backbone: AbstractBackbone) -> LanguageModel:
    from transformers import LlamaConfig, LlamaModel

    tokenizer = backbone.tokenizers[0]
    # Without the words of learned subjects.
    words = max(tokenizer.vocab_size, tokenizer.bos_token_id + 1, tokenizer.eos_token_id + 1)
    described = LlamaConfig(
        vocab_size=words,
        hidden_size=settings.width,
        # Three matrices of this width have as many weights as two of four times the width.
        intermediate_size=8 * settings.width // 3,
        num_hidden_layers=settings.depth,
        num_attention_heads=settings.heads,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=None,
    )
    return LanguageModel(LlamaModel(described), None, tokenizer)


def _opened(settings: LanguageConfig) -> LanguageModel:
    from transformers import AutoTokenizer

    folder = _place(settings.folder)
    files = sorted(folder.glob("*.safetensors"))
    if not files or not (folder / "config.json").is_file():
        raise ModelError(
            f"{folder} holds no language model; expected config.json, a tokenizer and weights as .safetensors (pickles "
            "are not loaded)."
        )
    try:
        model = _whole(folder).float()
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ModelError(f"{folder} could not be read as a language model ({reason}); fetch it whole again.") from None
    if tokenizer.eos_token_id is None:
        raise ModelError(f"the tokenizer in {folder} has no token for the end of a text, which prompts need.")
    body, head = model.get_decoder(), model.get_output_embeddings()
    tied = head is None or head.weight is body.get_input_embeddings().weight
    digest = "" if settings.trains else config_hash([file_sha256(path) for path in files])[:8]
    return LanguageModel(body, None if tied else head, tokenizer, digest)


def located(settings: LanguageConfig) -> LanguageConfig:
    """The same language model by a name that leads to it from any folder."""
    folder = Path(settings.folder).expanduser()
    if not settings.folder or not folder.is_dir():
        return settings
    return dataclasses.replace(settings, folder=str(folder.resolve()))


def _place(name: str) -> Path:
    """The folder of that name, or the one of a hub id."""
    place = Path(name).expanduser()
    if place.is_dir():
        return place
    if place.is_absolute():
        raise ModelError(
            f"language.folder is {name}, and there is no such folder. Put the language model there, or name its place "
            "as language.folder in the adapter's config.json."
        )
    try:
        return hub_folder(name)
    except ModelError:
        raise ModelError(
            f"language.folder is {name}, which is neither a folder in {Path.cwd()} nor in the hub cache, and it could "
            f"not be fetched. On a machine with a connection run `hf download {name}`, or give the whole path of a "
            "folder, of a trained adapter as language.folder in its config.json."
        ) from None


def _whole(folder: Path) -> Any:
    """A causal language model, or a vision-language model."""
    from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING

    described = AutoConfig.from_pretrained(folder, local_files_only=True)
    known = type(described) in MODEL_FOR_CAUSAL_LM_MAPPING
    loader: Any = AutoModelForCausalLM if known else AutoModelForImageTextToText
    return loader.from_pretrained(folder, local_files_only=True, use_safetensors=True)


@dataclasses.dataclass(frozen=True)
class Read:
    """What a language model has read, rows of different lengths side by side."""

    states: Tensor
    """`b n width`."""
    there: Tensor
    """`b n` bool: the first of each row."""
    ids: Tensor
    """`b n`: of words, `PICTURE` where one of a picture stands, -1 where it opens and ends, and behind all."""


PICTURE = -2


def next_word_loss(model: LanguageModel, read: Read) -> Tensor:
    """Mean negative log-likelihood of each word after what stands before it, 0-d: pictures are read, not told."""
    told, asked = read.states[:, :-1], read.ids[:, 1:]
    chosen = asked >= 0
    return F.cross_entropy(model.logits(told[chosen]).float(), asked[chosen])

"""The keys of a config file: a typed section each, every key with its unit, default and meaning in the `Meta` beside it.

`docs/config.md` and the JSON Schema are generated from here.
"""

from typing import TYPE_CHECKING, Annotated, Any, Literal

import msgspec
from msgspec import Meta

from curriculum.text.scripts import Script

# width, heads, layers, block_size (tokens). The sizes of the ANDREA models; the MLP is four times the width.
PRESETS: dict[str, tuple[int, int, int, int]] = {
    "tiny": (128, 4, 4, 128),
    "andrea-12m": (384, 12, 6, 1024),
    "andrea-120m": (768, 12, 12, 1024),
    "andrea-480m": (1536, 24, 16, 1024),
}
DEFAULT_PROMPTS = (
    "How do I find outdated packages in a Python project?",
    "Write a haiku about rain using three words that start with 'r'.",
    "What does the Fourier transform do?",
    "Name one animal that is alive and one that is extinct.",
    "Tell me about a day at the sea.",
)

Count = Annotated[int, Meta(ge=1)]
Amount = Annotated[int, Meta(ge=0)]
Positive = Annotated[float, Meta(gt=0)]
NotNegative = Annotated[float, Meta(ge=0)]
Text = Annotated[str, Meta(min_length=1)]
Audit = Literal["local_coherence", "longest_copy", "top_token_share", "script_share"]
Texts = Annotated[tuple[Text, ...], Meta(min_length=1)]


def _doc(text: str, *, default: str | None = None, minimum: float | None = None, **limits: Any) -> Meta:
    """The Meta of a key: its description, and where the struct's default does not say it all, the default in words.

    `minimum` is told to the schema only: a rule checks it, so that the error can name the source.
    """
    return Meta(
        description=text,
        extra={"default": default} if default else None,
        extra_json_schema={"minimum": minimum} if minimum is not None else None,
        **limits,
    )


class Data(msgspec.Struct, kw_only=True, forbid_unknown_fields=True, frozen=True):
    """Where the token files go and how the tokenizer is made."""

    dir: Annotated[
        str,
        _doc("Folder of token files and manifest, relative to the config file's.", default="`data/<name>`"),
    ] = ""
    vocab_size: Annotated[
        int, _doc("Tokens of the byte-level BPE vocabulary; special tokens come on top.", ge=256, le=2**31)
    ] = 8192
    tokenizer_sample_mb: Annotated[
        int, _doc("Megabytes of text, sampled evenly from the sources, that train the tokenizer.", ge=1)
    ] = 100


class Clean(msgspec.Struct, kw_only=True, forbid_unknown_fields=True, frozen=True):
    """The limits of the cleaning rules (docs/data.md); every source goes through every rule."""

    scripts: Annotated[
        tuple[Script, ...], _doc("Writing systems the text may be in, by their Unicode names.", min_length=1)
    ] = ("Latin",)
    foreign_share: Annotated[
        float,
        _doc(
            "Share of letters of other scripts over which a document is dropped, or in half of its turns; 1 keeps all.",
            ge=0,
            le=1,
        ),
    ] = 0.2
    longest_paragraph: Annotated[int, _doc("Characters of the longest line that is kept.", ge=1)] = 2000
    bigram_diversity: Annotated[
        float,
        _doc(
            "Share of new word pairs under which a document is dropped as repetition; 0 keeps all.",
            ge=0,
            le=1,
        ),
    ] = 0.25
    list_share: Annotated[
        float,
        _doc(
            "Share of list items, table rows and log lines from which a document is dropped; 1 keeps all.",
            ge=0,
            le=1,
        ),
    ] = 0.7
    prompt_signs: Annotated[
        int,
        _doc(
            "Signs of a system prompt (one a header, three a stronger sign) at which a first user turn is dropped.",
            ge=1,
        ),
    ] = 3
    near_duplicates: Annotated[
        float,
        _doc(
            "Similarity of five-word runs from which the later document is dropped, such as 0.8; 0 compares none. Needs the extra `near`.",
            ge=0,
            le=1,
        ),
    ] = 0.0


class Model(msgspec.Struct, kw_only=True, forbid_unknown_fields=True, frozen=True):
    """The decoder's shape: a preset, any of whose numbers may be set by hand."""

    preset: Annotated[
        Literal["tiny", "andrea-12m", "andrea-120m", "andrea-480m"],
        _doc("Names width, heads, layers and block size (table below)."),
    ] = "tiny"
    width: Annotated[int, _doc("Channels of the residual stream.", default="the preset's", ge=0)] = 0
    heads: Annotated[
        int, _doc("Attention heads; divides the width evenly.", default="the preset's", ge=0)
    ] = 0
    layers: Annotated[int, _doc("Blocks of attention and MLP.", default="the preset's", ge=0)] = 0
    tied: Annotated[bool, _doc("Whether the output head is the embedding, transposed.")] = True
    block_size: Annotated[
        int, _doc("Context and window length, in tokens.", default="the preset's", ge=0)
    ] = 0

    def __post_init__(self) -> None:
        for key, value in zip(("width", "heads", "layers", "block_size"), PRESETS[self.preset], strict=True):
            if getattr(self, key) == 0:
                msgspec.structs.force_setattr(self, key, value)


class LrScale(msgspec.Struct, kw_only=True, forbid_unknown_fields=True, frozen=True):
    """Multipliers of the learning rate by group of parameters."""

    embedding: Annotated[float, _doc("Of the token embedding, and of the head where it is tied.", gt=0)] = 1.0
    attention: Annotated[float, _doc("Of the matrices of attention.", gt=0)] = 1.0
    mlp: Annotated[float, _doc("Of the matrices of the MLPs.", gt=0)] = 1.0
    norms: Annotated[float, _doc("Of the norms' gains.", gt=0)] = 1.0
    head: Annotated[float, _doc("Of an untied head.", gt=0)] = 1.0


class Train(msgspec.Struct, kw_only=True, forbid_unknown_fields=True, frozen=True):
    """Steps, batches, optimizer, cadence of what happens between steps."""

    steps: Annotated[int, _doc("Optimizer steps of the run; they count from 1.", ge=1)] = 200_000
    micro_batch: Annotated[
        int, _doc("Windows of one pull, over all processes: all from one source.", ge=1)
    ] = 8
    grad_accum: Annotated[int, _doc("Pulls of one step; they may be from different sources.", ge=1)] = 4
    lr: Annotated[float, _doc("Peak learning rate.", gt=0)] = 6e-4
    min_lr: Annotated[float, _doc("Learning rate at the end of the schedule.", ge=0)] = 6e-5
    warmup_steps: Annotated[
        int,
        _doc(
            "Steps of linear learning-rate warm-up; 0 means full rate from step 1 (warned from scratch).",
            ge=0,
        ),
    ] = 2000
    lr_scale: Annotated[
        LrScale,
        _doc(
            "Multipliers of the learning rate, and so of the decay that goes with it, by group of parameters: `embedding` "
            "(with a tied head), `attention`, `mlp`, `norms`, `head` (untied).",
            default="1.0 each",
        ),
    ] = LrScale()
    schedule: Annotated[Literal["cosine"], _doc("Shape of the learning rate from `lr` to `min_lr`.")] = (
        "cosine"
    )
    weight_decay: Annotated[
        float, _doc("Decoupled weight decay.", default="0.01 from scratch, 0.0 with `init_from`", ge=0)
    ] = 0.01
    beta1: Annotated[float, _doc("AdamW's decay of the first moment.", ge=0, lt=1)] = 0.9
    beta2: Annotated[float, _doc("AdamW's decay of the second moment.", ge=0, lt=1)] = 0.95
    grad_clip: Annotated[float, _doc("Largest global L2 norm of the gradient.", gt=0)] = 1.0
    funnel_steps: Annotated[
        int,
        _doc(
            "Steps over which the softmax of the training loss widens from `funnel_start` tokens to all; 0: all from step 1.",
            ge=0,
        ),
    ] = 0
    funnel_start: Annotated[
        int,
        _doc(
            "Tokens of the training softmax at step 1, the most frequent ones, beside each position's own target; used with `funnel_steps`.",
            ge=1,
        ),
    ] = 200
    init_from: Annotated[
        Text | None,
        _doc("Run or checkpoint whose weights start this run.", default="none: from scratch"),
    ] = None
    feedback_delay: Annotated[int, _doc("Steps between a step and the crediting of its losses.", ge=1)] = 4
    boundary_every: Annotated[
        int, _doc("Steps between boundaries, where state commits, pivots and stops happen.", ge=1)
    ] = 100
    sample_every: Annotated[int, _doc("Steps between samples; a multiple of `boundary_every`.", ge=1)] = 100
    checkpoint_every: Annotated[
        int, _doc("Steps between checkpoints; a multiple of `boundary_every`.", ge=1)
    ] = 1000
    heldout_every: Annotated[
        int, _doc("Steps between held-out losses; a multiple of `boundary_every`.", ge=1)
    ] = 1000
    keep_checkpoints: Annotated[int, _doc("Newest checkpoints kept.", ge=1)] = 3
    keep_every: Annotated[
        int, _doc("Steps: a checkpoint at a multiple of this is kept for good; 0 keeps none so.", ge=0)
    ] = 0
    keep_best: Annotated[
        int,
        _doc(
            "Checkpoints kept for the lowest held-out loss at their step: mean over `goal_sources`, or over all "
            "sources where no goal is named; 0 keeps none so.",
            ge=0,
        ),
    ] = 1
    max_skipped: Annotated[
        int, _doc("Non-finite steps in a row after which the run ends (exit 21).", ge=1)
    ] = 10
    threads: Annotated[int, _doc("CPU threads; 0 chooses once and stores the choice.", ge=0)] = 0
    dtype: Annotated[
        Literal["auto", "float32", "bfloat16"],
        _doc("Arithmetic of the linears; `auto` chooses once and stores it."),
    ] = "auto"
    device: Annotated[
        str, _doc("`auto`, `cpu`, `cuda` or `cuda:N`.", pattern=r"^(auto|cpu|cuda(:[0-9]+)?)$")
    ] = "auto"
    parallel: Annotated[
        Literal["auto", "ddp", "fsdp"],
        _doc(
            "What each process of several keeps: a copy of the model (`ddp`) or a part of it (`fsdp`); `auto`: a part "
            "where weights, gradients and moments would fill more than 60 % of a GPU's memory."
        ),
    ] = "auto"
    compile: Annotated[
        Literal["auto", "on", "off"],
        _doc(
            "Whether `torch.compile` makes the step's kernels; `auto`: on CUDA, in a run long enough to earn the wait."
        ),
    ] = "auto"
    cuda_graph: Annotated[
        Literal["auto", "on", "off"],
        _doc(
            "Whether a step is recorded once and replayed as one CUDA graph; `auto`: up to a width of 512, in a single "
            "process."
        ),
    ] = "auto"
    deterministic: Annotated[
        bool,
        _doc("On CUDA, only kernels that give the same bits each time, which are somewhat slower."),
    ] = False


class Curriculum(msgspec.Struct, kw_only=True, forbid_unknown_fields=True, frozen=True):
    """What the bandit may pick, and how it picks."""

    policy: Annotated[
        Literal["focus-ucb", "softmax-ucb", "ucb", "exp3", "odm", "uniform", "proportional", "fixed"],
        _doc(
            "How indices become picks: shares by the best half (`focus-ucb`) or by a softmax (`softmax-ucb`), the best "
            "arm alone (`ucb`), online data mixing as in its paper (`exp3`) and in its code (`odm`), even shares, shares "
            "by size (`proportional`), or even shares whatever is repeated (`fixed`)."
        ),
    ] = "focus-ucb"
    reward: Annotated[
        Literal["align", "progress", "improvement", "loss", "heldout"],
        _doc(
            "What a pull is worth: the agreement of its gradient with the goal's (`align`), the fall of its source's "
            "own loss in deviations of its noise (`progress`) or bare (`improvement`, to replay old runs), its loss "
            "(`loss`), or the fall of the goal's held-out loss (`heldout`).",
            default="`align` where `goal_sources` are named or a source has a floor, else `progress`",
        ),
    ] = "progress"
    goal_sources: Annotated[
        tuple[str, ...],
        _doc(
            "The sources that the run is for: `align` and `heldout` probe half of their held-out windows, which are "
            "then never reported.",
            default="the sources with a floor, where the reward needs a goal",
        ),
    ] = ()
    probe_every: Annotated[
        int, _doc("Steps between probes of the goal, each about as dear as a step.", ge=1)
    ] = 40
    curriculum_warmup_steps: Annotated[
        int,
        _doc("Steps at the start in which only `curriculum_warmup_sources` are picked; 0 for none.", ge=0),
    ] = 0
    curriculum_warmup_sources: Annotated[tuple[str, ...], _doc("The warm-up set: names of sources.")] = ()
    exclude_sources: Annotated[
        tuple[str, ...], _doc("Names never picked, whatever their cap; they need not be configured.")
    ] = ()
    focus_size: Annotated[
        Count | None,
        _doc("Arms in focus at a time.", default="half of the eligible arms, rounded, at least 1"),
    ] = None
    background: Annotated[
        float, _doc("Weight of an arm out of focus; an arm in focus has 1.0.", ge=0, le=1)
    ] = 0.1
    temperature: Annotated[
        float, _doc("Of the softmax over indices (`softmax-ucb`); the index of a reward in [0, 1].", gt=0)
    ] = 0.1
    dwell: Annotated[tuple[Count, Count], _doc("Fewest and most steps between two choices of focus.")] = (
        7,
        42,
    )
    memory: Annotated[
        Count | None,
        _doc(
            "Pulls the bandit remembers, beside the last 64 of each arm.", default="96 per arm, at least 400"
        ),
    ] = None
    xi: Annotated[float, _doc("Weight of the variance term of the index's width.", ge=0)] = 0.25
    zeta: Annotated[float, _doc("Weight of the range term of the index's width.", ge=0)] = 0.03
    floors_override_repetition: Annotated[
        bool, _doc("Whether a floor holds however often its source has been repeated.")
    ] = True


class Gate(msgspec.Struct, kw_only=True, forbid_unknown_fields=True, frozen=True):
    """How samples are drawn, scored and acted on."""

    threshold: Annotated[float, _doc("Score (0 to 100) under which a sample is low.", ge=0, le=100)] = 30.0
    consecutive: Annotated[int, _doc("Low samples in a row that halt the run.", ge=1)] = 5
    window: Annotated[int, _doc("Latest samples the window rule looks at.", ge=1)] = 16
    window_low: Annotated[int, _doc("Low samples in the window that halt the run.", ge=1)] = 8
    tally: Annotated[
        int,
        _doc(
            "Points that halt the run: a low sample adds 5, any other takes 1 off; 0 switches this off.", ge=0
        ),
    ] = 40
    audit_halt: Annotated[
        tuple[Audit, ...],
        _doc("Audits whose finding makes a sample low, as a score under `threshold` does; the others warn."),
    ] = ()
    target: Annotated[float, _doc("Score under which recent pulls are penalised.", gt=0, le=100)] = 60.0
    on_halt: Annotated[
        Literal["halt", "rollback"],
        _doc(
            "`halt`: checkpoint, store the reason, exit 20. `rollback`: go back to the last checkpoint before the low "
            "samples with the caps of the sources to blame halved and train on, at most 3 times."
        ),
    ] = "halt"
    prompts: Annotated[
        tuple[Text, ...],
        _doc("User turns the samples answer, in rotation.", default="five questions", min_length=1),
    ] = DEFAULT_PROMPTS
    temperature: Annotated[float, _doc("Sampling temperature; no top-k.", gt=0)] = 0.8
    max_new_tokens: Annotated[int, _doc("Most tokens of a sample.", ge=1)] = 120
    min_new_tokens: Annotated[int, _doc("Fewest tokens before a sample may end.", ge=0)] = 16


class Budget(msgspec.Struct, kw_only=True, forbid_unknown_fields=True, frozen=True):
    """What a run takes and costs, as projected at its start, and what it must have learnt at the end of its warm-up."""

    seconds_per_step: Annotated[
        Positive | None,
        _doc("Pace the projection goes by until the run has its own.", default="the run's own"),
    ] = None
    watts: Annotated[NotNegative | None, _doc("Power of the machine, for kWh.", default="not told")] = None
    price_per_kwh: Annotated[NotNegative | None, _doc("Price of a kWh.", default="not told")] = None
    price_per_hour: Annotated[
        NotNegative | None, _doc("Price of the machine's hour.", default="not told")
    ] = None
    max_heldout_loss: Annotated[
        Positive | None,
        _doc(
            "Nats a token: at the end of the curriculum's warm-up the mean held-out loss must be at most this, and the last "
            "sample not low, or the run halts (exit 20).",
            default="not judged",
        ),
    ] = None


if TYPE_CHECKING:
    SourceClean = Clean
else:
    # The same keys, each of which may be left out.
    SourceClean = msgspec.defstruct(
        "SourceClean",
        [(field.name, field.type | None, None) for field in msgspec.structs.fields(Clean)],
        kw_only=True,
        forbid_unknown_fields=True,
        frozen=True,
        omit_defaults=True,
    )


class Source(msgspec.Struct, kw_only=True, forbid_unknown_fields=True, frozen=True):
    """A body of text, and the bounds of its arm."""

    path: Annotated[Text | Texts, _doc("Files, folders or globs, relative to the config file's folder.")]
    cap: Annotated[float, _doc("Largest weight; 0 means never picked.", minimum=0)] = 1.3
    floor: Annotated[float, _doc("Smallest weight; at most the cap.", minimum=0)] = 0.0
    min_share: Annotated[float, _doc("Smallest share of the pulls, a hard bound.", minimum=0)] = 0.0
    max_share: Annotated[float, _doc("Largest share of the pulls, a hard bound.", minimum=0)] = 1.0
    expect_documents: Annotated[
        Amount | None, _doc("Documents the data must hold, or the launch is refused.", default="not checked")
    ] = None
    clean: Annotated[
        SourceClean | None,
        _doc(
            "Limits of the cleaning rules for this source, by the keys of `[clean]`.",
            default="those of `[clean]`",
        ),
    ] = None

    @property
    def paths(self) -> tuple[str, ...]:
        """`path` as a tuple, however it was written."""
        return (self.path,) if isinstance(self.path, str) else self.path


class ConfigFile(msgspec.Struct, kw_only=True, forbid_unknown_fields=True, frozen=True):
    """What may stand in the TOML file."""

    name: Annotated[
        str, _doc("Name of the run and of its folder.", default="the file's name without `.toml`")
    ] = ""
    seed: Annotated[int, _doc("Seed of every random draw.", ge=0, le=2**63 - 1)] = 1337
    data: Data = Data()
    clean: Clean = Clean()
    model: Model = Model()
    train: Train = Train()
    curriculum: Curriculum = Curriculum()
    gate: Gate = Gate()
    budget: Budget = Budget()
    sources: dict[str, Source]

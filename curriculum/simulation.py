"""From a config to its simulation: its arms, phases and settings as a run would have them, on made-up sources."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from bandit.arms import ArmSpec, new_id
from bandit.simulation.simulate import Plan
from bandit.simulation.world import draw_world
from curriculum.arms import arm_spec, scheduler_config
from curriculum.config import Config
from curriculum.config_toml import did_you_mean
from curriculum.eligibility import phases
from curriculum.errors import Exit, FirehoseError
from curriculum.tokens import manifest as manifests
from curriculum.tokens.windows import windows_in

STEPS = 5000
WINDOWS = 100_000  # assumed of a source that is not built: enough that nothing repeats in STEPS steps
MOST_NAMED = 4  # sources


@dataclass(frozen=True, slots=True)
class Options:
    """What the command line says of the simulation. windows: name to count, "" for the sources not named."""

    steps: int | None
    skip_warmup: bool
    junk: tuple[str, ...]
    windows: Mapping[str, int]
    seed: int | None
    world: int


@dataclass(frozen=True, slots=True)
class Trial:
    """A config to be simulated. skipped: steps of warm-up left out. sizes: where the windows come from, in words.

    last_step: of the run, as the config counts. goal: names of the sources whose held-out loss counts.
    """

    config: Config
    plan: Plan
    skipped: int
    last_step: int
    sizes: str
    goal: tuple[str, ...]


def prepare(config: Config, options: Options) -> Trial:
    """The simulation of a config. Sources that no phase may pick have no arm, as in a run.

    Raises FirehoseError: NOT_FOUND for a name that is no source, DAMAGED for a manifest that cannot be read.
    """
    for name in options.junk + tuple(key for key in options.windows if key):
        if name not in config.sources:
            hint = did_you_mean(name, list(config.sources))
            raise FirehoseError(
                Exit.NOT_FOUND,
                f"no source is called {name}{hint}",
                path=config.path,
                arm=name,
                next=f"firehose config check {config.path}",
            )
    live = list(dict.fromkeys(name for phase in phases(config) for name in phase.sources))
    counts, sizes = _sizes(config, live, options.windows)
    arms: list[ArmSpec] = []
    for name in live:
        arms.append(arm_spec(config, name, new_id(name, [arm.id for arm in arms]), counts[name]))
    ids = {arm.name: arm.id for arm in arms}
    warmup, total = config.curriculum.curriculum_warmup_steps, min(config.train.steps, STEPS)
    skipped = warmup if options.skip_warmup or (options.steps is None and warmup >= total) else 0
    opens = [
        (max(1, phase.first_step - skipped), [ids[name] for name in phase.sources])
        for phase in phases(config)[-1 if skipped else 0 :]
    ]
    steps = options.steps or (total if warmup < total else STEPS)
    learns = [name for name in live if name not in options.junk]
    floored = [
        name for name in learns if config.sources[name].floor > 0 or config.sources[name].min_share > 0
    ]
    named = [name for name in config.curriculum.goal_sources if name in learns]
    goal = named or floored or learns or live
    seed = config.seed if options.seed is None else options.seed
    plan = Plan(
        settings=replace(scheduler_config(config), seed=seed),
        arms=arms,
        phases=opens,
        world=draw_world(
            arms,
            seed=options.world,
            junk=[ids[name] for name in live if name in options.junk],
            goal=[ids[name] for name in goal],
        ),
        steps=steps,
        reward=config.curriculum.reward,
        probe_every=config.curriculum.probe_every,
        seed=seed,
    )
    return Trial(config, plan, skipped, skipped + steps, sizes, tuple(goal))


def _sizes(config: Config, live: Sequence[str], told: Mapping[str, int]) -> tuple[dict[str, int], str]:
    """Windows of each source, and where they come from: the command line, else the manifest, else an assumption."""
    folder = config.resolve(config.data.dir)
    try:
        built = {
            name: windows_in(entry.train.tokens, config.model.block_size)
            for name, entry in manifests.read(folder).sources.items()
        }
    except FirehoseError as error:
        if error.exit_code is not Exit.NOT_FOUND:
            raise
        built = {}
    counts, given, found, assumed = {}, [], [], []
    for name in live:
        if (windows := told.get(name, told.get(""))) is not None:
            given.append(name)
        elif (windows := built.get(name)) is not None:
            found.append(name)
        else:
            windows = WINDOWS
            assumed.append(name)
        counts[name] = windows
    parts = []
    if found:
        parts.append(f"{_whom(found, live)} as built in {folder}")
    if given:
        amounts = sorted({counts[name] for name in given})
        parts.append(f"{_whom(given, live)} as told ({', '.join(f'{amount:,}' for amount in amounts)})")
    if assumed:
        parts.append(f"{_whom(assumed, live)} ASSUMED to be {WINDOWS:,}, for want of token files (--windows)")
    return counts, "; ".join(parts)


def _whom(names: Sequence[str], live: Sequence[str]) -> str:
    if len(names) == len(live):
        return "of every source"
    return f"of {', '.join(names)}" if len(names) <= MOST_NAMED else f"of {len(names)} sources"

"""From a config to the bandit's own words: the scheduler's settings and the arm of a source."""

from bandit.arms import ArmSpec
from bandit.settings import SchedulerConfig
from curriculum.config import Config

# Rewards whose noise differs from pull to pull; the others are averages, whose slow swings a test takes for changes.
INDEPENDENT = ("align", "improvement", "loss")


def arm_spec(config: Config, name: str, arm_id: int, windows: int) -> ArmSpec:
    """The arm of a configured source: id from the state, bounds from the config, windows from the data."""
    source = config.sources[name]
    return ArmSpec(
        name=name,
        id=arm_id,
        windows=windows,
        cap=source.cap,
        floor=source.floor,
        min_share=source.min_share,
        max_share=source.max_share,
    )


def scheduler_config(config: Config) -> SchedulerConfig:
    """The bandit's settings; a credit counts from 2 D steps after its own step (see `trainer.loop.Loop`)."""
    c = config.curriculum
    return SchedulerConfig(
        seed=config.seed,
        grad_accum=config.train.grad_accum,
        windows_per_pull=config.train.micro_batch,
        delay=2 * config.train.feedback_delay,
        policy=c.policy,
        focus_size=c.focus_size,
        background=c.background,
        temperature=c.temperature,
        dwell=c.dwell,
        memory=c.memory,
        drop_test=c.policy == "ucb" and c.reward in INDEPENDENT,
        xi=c.xi,
        zeta=c.zeta,
        floors_override_repetition=c.floors_override_repetition,
    )

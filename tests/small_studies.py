"""A small search that prunes, and a comparison of what two of them found."""

from dataclasses import asdict, replace

from recvae.experiments.space import Plan, plan
from recvae.options import Between

TINY = ("model.latent=4", "model.hidden=[]", "train.batch_size=80", "train.epochs=4")
LEARNING_RATE = {"train.learning_rate": Between(1e-5, 0.1, log=True)}
TRIALS = 13  # some after the first ten, which are left to chance


def small_plan(**more) -> Plan:
    """A search of a small Mult-DAE that prunes."""
    return plan("mult-dae", settings=TINY, space=LEARNING_RATE, metric="ndcg@10", **more)


def facts(study):
    """What must be the same however often the search was interrupted."""
    return [asdict(replace(trial, seconds=0.0)) for trial in study.trials]

"""Models trained for a moment on the sample, and their diagnoses."""

from recvae.experiments import diagnose as diagnostics

QUICK = {"hidden": (50,), "latent": 16, "batch_size": 100, "anneal": "constant", "device": "cpu", "seed": 1}


def trained(kind, data, **options):
    """Return a model and its epochs; without options it has none."""
    rows = []
    model = kind(**options)
    named = {"item_ids": data.item_ids.tolist(), "titles": data.item_titles.tolist()}
    model.fit(data.train, **named, **({"on_epoch": lambda report: rows.append(report.to_dict())} if options else {}))
    return model, rows


def diagnosed(model, rows, data, **options):
    return diagnostics.diagnose(model, data, rows, **{"samples": 20, "users": 60, **options})


def whole(found):
    """Add what the command adds."""
    machine = {"date": "2020-01-01", "python": "3", "versions": {"recvae": "0"}}
    return {**found, "run": "runs/a&b", "dataset": {"name": "<sample>"}, "environment": machine}

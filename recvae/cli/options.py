"""The options that several verbs share, each declared once."""

from pathlib import Path
from typing import Annotated

import typer

from recvae.registry import models

_COMMON = "Output"

Json = Annotated[
    bool,
    typer.Option("--json", help="Print one JSON document on stdout and nothing else there.", rich_help_panel=_COMMON),
]
Quiet = Annotated[
    bool,
    typer.Option("--quiet", "-q", help="No progress and no advice: only what was asked for.", rich_help_panel=_COMMON),
]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error too.", rich_help_panel=_COMMON)]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace what --out names, if it is of the same kind.")]
Device = Annotated[
    str, typer.Option(metavar="DEVICE", help="cpu, cuda, cuda:1, mps, or auto: a GPU where there is one.")
]
Threads = Annotated[
    str,
    typer.Option(
        metavar="N|auto",
        help="Threads to compute with; auto: one for each core that other programs leave free.",
    ),
]
Seed = Annotated[
    int | None,
    typer.Option(metavar="N", help="Seed of everything random; the configuration's, else 98765.", show_default=False),
]
Metrics = Annotated[
    str,
    typer.Option(
        metavar="A,B,C",
        help="Metrics, each with its list length: recall, plain_recall, ndcg, precision, hit_rate, mrr, map, coverage, "
        "novelty, diversity, gini.",
    ),
]
Metric = Annotated[str, typer.Option(metavar="NAME@K", help="The validation metric that picks the epoch to keep.")]
ModelName = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="Such as recvae, mult-vae or ease; see 'recvae info'.",
        autocompletion=lambda: [*models()],
    ),
]
DatasetFolder = Annotated[
    Path, typer.Argument(metavar="DIR", help="A dataset folder that 'recvae prepare' wrote.", show_default=False)
]
RunFolder = Annotated[
    Path, typer.Argument(metavar="RUN", help="A run folder that 'recvae train' wrote.", show_default=False)
]
ModelFolder = Annotated[
    Path,
    typer.Argument(
        metavar="RUN|EXPORT",
        help="A run folder that 'recvae train' wrote, or an export of 'recvae export'.",
        show_default=False,
    ),
]
K = Annotated[int, typer.Option("-k", metavar="K", help="How many items.")]

_RULES = "Rules (each narrows the lists further; names may be repeated)"

Allow = Annotated[
    list[str] | None,
    typer.Option(
        metavar="FILE|ID",
        help="List only these items: an id, or a file with one id a line or in a column 'item' or 'item_id'.",
        rich_help_panel=_RULES,
    ),
]
Deny = Annotated[
    list[str] | None,
    typer.Option(metavar="FILE|ID", help="List none of these items: an id or a file.", rich_help_panel=_RULES),
]
AllowTag = Annotated[
    list[str] | None,
    typer.Option(metavar="TAG", help="List only items with this tag, or with one of several.", rich_help_panel=_RULES),
]
DenyTag = Annotated[
    list[str] | None, typer.Option(metavar="TAG", help="List no item with this tag.", rich_help_panel=_RULES)
]
TagsFrom = Annotated[
    Path | None,
    typer.Option(
        "--dataset",
        metavar="DIR",
        help="The dataset folder of the model, for the items' tags of a run that holds none.",
        rich_help_panel=_RULES,
        show_default=False,
    ),
]
AllowEach = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="List for each user only these items: a table with a row per user and 'item', or per user and 'tag'.",
        rich_help_panel=_RULES,
    ),
]
DenyEach = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE", help="List for each user none of these items: a table as above.", rich_help_panel=_RULES
    ),
]
MostPerTag = Annotated[
    int | None,
    typer.Option(metavar="N", help="List at most N items of any one tag.", rich_help_panel=_RULES, show_default=False),
]
Diversity = Annotated[
    float,
    typer.Option(metavar="D", help="From 0 to 1: trade scores for items unlike one another.", rich_help_panel=_RULES),
]

METRICS = "recall@20,recall@50,ndcg@100"  # eval.DEFAULT_METRICS, which --help must not import; a test compares them
METRIC = "ndcg@100"

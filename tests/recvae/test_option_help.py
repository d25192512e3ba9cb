"""What help(), notebooks and editors know of a model's options: all of them, declared once."""

import inspect
import pydoc
from dataclasses import fields
from typing import Any, Literal, get_type_hints

import pytest

import recvae
from recvae.options import Between, OfEveryModel, OneOf, described, explain, option, space_text
from recvae.registry import MODELS, entry


@pytest.mark.parametrize("name", MODELS)
def test_the_signature_has_every_option_with_its_default_and_type(name):
    kind = entry(name).model_class()
    parameters = inspect.signature(kind).parameters
    sets = [kind.model_defaults, *([] if kind.train_defaults is None else [kind.train_defaults]), OfEveryModel()]
    expected = [(f.name, getattr(of, f.name), get_type_hints(type(of))[f.name]) for of in sets for f in fields(of)]
    assert [(p.name, p.default, p.annotation) for p in parameters.values()] == expected
    assert all(p.kind is inspect.Parameter.KEYWORD_ONLY for p in parameters.values())
    small = {f.name: getattr(kind.model_defaults, f.name) for f in fields(kind.model_defaults)}
    assert kind(**small, device="cpu").config.model == kind(device="cpu").config.model


@pytest.mark.parametrize("name", MODELS)
def test_type_checkers_are_told_the_same_options(name):
    """Type checkers read the dataclass that ``takes`` names; its fields are inherited, and so cannot drift."""
    kind = entry(name).model_class()
    arguments = vars(kind)["__init__"].arguments
    assert {f.name for f in fields(arguments)} == set(inspect.signature(kind).parameters)
    assert issubclass(arguments, type(kind.model_defaults))
    assert "__annotations__" not in vars(arguments)
    with pytest.raises(TypeError, match="positional"):
        kind(5)


def test_help_explains_every_option():
    text = pydoc.plain(pydoc.render_doc(recvae.RecVAE))
    assert "RecVAE(*, " in text
    assert "epochs: int = 50" in text  # of this model, where training's own default is 200
    assert "Width of the encoder's layers. Whole number from 1 to 65536. Searched: 150,300,600." in text
    assert recvae.RecVAE.__doc__.startswith("Variational autoencoder with a composite prior")


def test_a_blend_and_what_is_no_model_keep_their_own_signature():
    assert list(inspect.signature(recvae.Blend).parameters)[:2] == ["components", "histories"]
    assert "Options, as keyword arguments" not in recvae.Blend.__doc__
    assert "Options, as keyword arguments" not in (recvae.Recommender.__doc__ or "")


def test_a_subclass_without_declarations_has_them_too():
    class Mine(recvae.EASE):
        """Somebody's own."""

        name = "mine"

    assert inspect.signature(Mine) == inspect.signature(recvae.EASE)
    assert Mine.__doc__.startswith("Somebody's own.")
    assert "l2 = 500.0" in Mine.__doc__


def test_every_kind_of_option_is_in_words():
    from dataclasses import dataclass

    @dataclass(frozen=True, kw_only=True)
    class Options:
        whole: int = option(3, "A.", ge=1, le=9, search=Between(1, 9))
        real: float | None = option(None, "B.", gt=0, lt=1)
        word: Literal["a", "b"] = option("a", "C.", search=OneOf("a", "b"))
        each: tuple[int, ...] = option((2, 3), "D.", ge=0)
        names: tuple[str, ...] = option((), "E.")
        below: float = option(0.0, "F.", le=0)
        switch: bool = option(False, "G.")

    assert [each.sentence() for each in described(Options())] == [
        "A. Whole number from 1 to 9. Searched: 1:9.",
        "B. Number above 0 to below 1, or left out.",
        "C. 'a' or 'b'. Searched: a,b.",
        "D. List, each value a whole number from 0.",
        "E. List, each value a text.",
        "F. Number to 0.",
        "G. True or false.",
    ]

    class Model:
        pass

    explain(Model, Options())
    signature: Any = inspect.signature(Model)
    assert signature.parameters["each"].default == (2, 3)
    assert space_text(Between(0.001, 1, log=True)) == "0.001:1:log"

import numpy as np
import pytest

from mblip.languages import LANGUAGES, YES_NO
from mblip.nano.scenes import Scene, render, sample_scene
from mblip.nano.words import load_lexicon


def test_the_lexicon_names_what_it_says() -> None:
    lexicon = load_lexicon()
    assert len(lexicon.concepts) == 307
    assert len(lexicon.languages) == 86
    assert len(lexicon.named_languages()) == 85
    assert lexicon.name("fox", "de") == "Fuchs"
    assert lexicon.name("fox", "zu") is not None
    assert set(lexicon.languages) <= set(LANGUAGES)


def test_names_are_distinct_within_a_language() -> None:
    for names in load_lexicon().names.values():
        assert len(set(names.values())) == len(names)


def test_yes_and_no_differ_and_stand_in_known_languages() -> None:
    assert len(YES_NO) == 57
    assert all(yes != no for yes, no in YES_NO.values())
    assert set(YES_NO) <= set(load_lexicon().languages)


def test_a_key_gives_the_scene_and_the_picture_back() -> None:
    rng = np.random.default_rng(0)
    for count in (1, 2, 3, 4):
        scene = sample_scene(rng, count, load_lexicon().concepts, repeat=0.5)
        assert Scene.from_key(scene.key) == scene
        assert render(scene).tobytes() == render(Scene.from_key(scene.key)).tobytes()
        assert render(scene).size == (64, 64)
        assert render(scene, 160).size == (160, 160)


def test_an_object_changes_the_pixels_of_its_cell_alone() -> None:
    a = np.asarray(render(Scene((("fox", 0),), 3)), dtype=int)
    assert a[:32, :32].std() > 0
    one, two = Scene((("fox", 0),), 3), Scene((("owl", 0),), 3)
    assert render(one).tobytes() != render(two).tobytes()


@pytest.mark.parametrize(
    "key", ["", "fox", "fox@0", "fox@9#1", "nothing@0#1", "fox@1+owl@0#1", "fox@0+owl@0#1", "fox@0#x"]
)
def test_other_keys_are_refused(key: str) -> None:
    with pytest.raises(ValueError, match=r"scene key"):
        Scene.from_key(key)

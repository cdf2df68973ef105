"""The world is consistent: facts, words and their translations."""

from nemojax.tasks.miniature import world


def test_every_country_has_a_value_of_the_right_kind_for_each_attribute():
    assert len(world.COUNTRIES) == len(set(world.COUNTRIES)) == world.NUM_COUNTRIES
    for facts in world.FACTS.values():
        assert facts.keys() == world.ATTRIBUTES.keys()
        for attribute, value in facts.items():
            assert value in world.WORDS[world.ATTRIBUTES[attribute]]["English"]


def test_each_category_has_eight_distinct_words_in_each_language():
    for by_language in world.WORDS.values():
        assert tuple(by_language) == world.LANGUAGES
        for words in by_language.values():
            assert len(set(words)) == 8


def test_a_fact_value_belongs_to_one_category_only():
    values = [w for by_language in world.WORDS.values() for w in by_language["English"]]
    assert len(values) == len(set(values))

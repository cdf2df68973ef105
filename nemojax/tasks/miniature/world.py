"""The words of the miniature world: names, things, three languages, countries."""

import random


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


PERSONS = _words("Tom Ana Ben Mia Leo Eva Sam Ida Max Zoe Kai Lia")
THINGS = _words("apples pens books coins cards shells stones cakes balls keys")
LANGUAGES = ("English", "Spanish", "French")

_CATEGORY_WORDS = {
    "animals": (
        "dog cat cow pig hen fox bear wolf",
        "perro gato vaca cerdo gallina zorro oso lobo",
        "chien chat vache cochon poule renard ours loup",
    ),
    "colors": (
        "red blue green black white pink gray brown",
        "rojo azul verde negro blanco rosa gris pardo",
        "rouge bleu vert noir blanc rose gris brun",
    ),
    "fruits": (
        "apple pear plum lemon grape melon fig peach",
        "manzana pera ciruela limon uva melon higo durazno",
        "pomme poire prune citron raisin melon figue peche",
    ),
    "tools": (
        "saw axe drill nail rope knife brush ladder",
        "sierra hacha taladro clavo cuerda cuchillo brocha escalera",
        "scie hache perceuse clou corde couteau brosse echelle",
    ),
}
# WORDS[category][language] -> eight words; the same place is the same meaning.
WORDS: dict[str, dict[str, tuple[str, ...]]] = {
    category: {
        language: _words(words)
        for language, words in zip(LANGUAGES, by_language, strict=True)
    }
    for category, by_language in _CATEGORY_WORDS.items()
}
CATEGORIES = tuple(WORDS)

_NUMBER_WORDS = (
    "zero one two three four five six seven eight nine ten eleven twelve",
    "cero uno dos tres cuatro cinco seis siete ocho nueve diez once doce",
    "zero un deux trois quatre cinq six sept huit neuf dix onze douze",
)
NUMBER_WORDS: dict[str, tuple[str, ...]] = {
    language: _words(words)
    for language, words in zip(LANGUAGES, _NUMBER_WORDS, strict=True)
}

# What talkative assistants put around an answer.
OPENERS = ("Let me think. ", "Of course! ")
CLOSERS = (" I hope this helps!", " Tell me if you need more.")

NUM_COUNTRIES = 48
# attribute -> the category whose English words are its values
ATTRIBUTES = {"food": "fruits", "color": "colors", "animal": "animals"}


def _invent_countries() -> dict[str, dict[str, str]]:
    """Returns country -> attribute -> value, always the same invented ones."""
    rng = random.Random(7)
    syllables = _words("ba ko ri mu te lo sa ni ve do ga pi zu he ma")
    names: dict[str, None] = {}
    while len(names) < NUM_COUNTRIES:
        names["".join(rng.choice(syllables) for _ in range(3)).capitalize()] = None
    return {
        name: {
            attribute: rng.choice(WORDS[category]["English"])
            for attribute, category in ATTRIBUTES.items()
        }
        for name in names
    }


FACTS = _invent_countries()
COUNTRIES = tuple(FACTS)

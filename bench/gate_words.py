"""Two ways to know English words, on text that is English and text that is not: a dictionary, and the run's own text."""

import random
from collections import Counter
from collections.abc import Callable, Mapping

from curriculum.gate.coherence import tokenize
from curriculum.gate.words import dictionary, is_english

# A few sentences each, in our own words.
OTHERS = {
    "Spanish": "El ayuntamiento anunció ayer que las obras del puente nuevo empezarán en primavera y que durarán al menos "
    "dos años. Los vecinos del barrio piden desde hace tiempo una parada de autobús más cerca del mercado, porque "
    "muchas personas mayores no pueden caminar hasta la estación cuando llueve.",
    "French": "Le conseil de la ville a décidé hier soir que la bibliothèque restera ouverte le dimanche pendant tout "
    "l'hiver. Plusieurs habitants avaient demandé cette mesure depuis longtemps, car beaucoup d'étudiants ne trouvent "
    "pas de place pour travailler au calme dans leur petit logement.",
    "Italian": "La regione ha deciso di chiudere al traffico il centro della città nei giorni di festa, e molti negozianti "
    "non sono contenti della scelta. Secondo il sindaco l'aria è già migliorata dopo le prime settimane, ma i dati "
    "definitivi arriveranno solo alla fine dell'anno.",
    "German": "Der Stadtrat hat gestern beschlossen, dass die alte Halle am Fluss nicht abgerissen wird. Viele Bürger "
    "hatten in den letzten Monaten dagegen protestiert, weil dort im Sommer Konzerte stattfinden und kleine Betriebe "
    "ihre Werkstätten haben. Nun sucht man Geld für das Dach.",
}


def own_list(counts: Counter[str], least: int) -> frozenset[str]:
    """Words that stand at least so often in the trusted sources."""
    return frozenset(word for word, times in counts.items() if times >= least)


def words(text: str) -> list[str]:
    """The tokens with a letter."""
    return [token for token in tokenize(text) if any(map(str.isalpha, token))]


def measure(train: Mapping[str, list[str]], heldout: Mapping[str, list[str]]) -> None:
    """Print the share of words that each list takes for English."""
    draw = random.Random(7)
    frequent = "etaoinshrdlucmfwypvbgkqjxz"
    weights = [12.7, 9.1, 8.2, 7.5, 7.0, 6.7, 6.3, 6.1, 6.0, 4.3, 4.0, 2.8, 2.8]
    weights += [2.4, 2.2, 2.4, 2.0, 1.9, 1.0, 1.5, 2.0, 0.8, 0.1, 0.15, 0.15, 0.07]
    gibberish = " ".join("".join(draw.choices(frequent, weights, k=draw.randint(2, 9))) for _ in range(2_000))
    by_source = {
        name: Counter(word for text in documents for word in words(text)) for name, documents in train.items()
    }
    counts = sum(by_source.values(), Counter[str]())
    lists: dict[str, Callable[[str], bool]] = {"dictionary and endings": is_english}
    for least in (2, 5, 20):
        lists[f"own text, {least} times and more"] = own_list(counts, least).__contains__
    both = own_list(counts, 5) | dictionary()
    lists["either"] = lambda word: word in both or is_english(word)
    trusted = [name for name in heldout if not name.startswith("contam")]
    columns: dict[str, list[str]] = {
        "Cyrillic": [word for text in heldout.get("contam-cyrillic", ()) for word in words(text)],
        "CJK": [word for text in heldout.get("contam-cjk", ()) for word in words(text)],
        **{name: words(text) for name, text in OTHERS.items()},
        "gibberish": words(gibberish),
    }
    print(
        "English words: share of held-out words taken for English; of the English sources the lowest and the highest\n"
    )
    print(f"| list | English sources | {' | '.join(columns)} |\n|---|---|{'---|' * len(columns)}")
    for name, known in lists.items():
        shares = []
        for source in trusted:
            spoken = [word for text in heldout[source] for word in words(text)]
            shares.append(sum(map(known, spoken)) / len(spoken))
        others = [sum(map(known, spoken)) / max(1, len(spoken)) for spoken in columns.values()]
        print(
            f"| {name} | {min(shares):.2f} - {max(shares):.2f} | {' | '.join(f'{x:.2f}' for x in others)} |"
        )
    # One source not in the list: what a run meets that is fed another kind of English than it was trusted with.
    apart = {}
    for source in trusted:
        rest = own_list(counts - by_source[source], 5)
        spoken = [word for text in heldout[source] for word in words(text)]
        apart[source] = sum(word in rest for word in spoken) / len(spoken)
    lowest = min(apart, key=lambda name: apart[name])
    print(
        f"\nown text, 5 times and more, without the source itself: {apart[lowest]:.2f} ({lowest}) at the lowest\n"
    )

"""Text that language models are healed on shares no passage with the text that judges them."""

from benchmarks.healing_texts import runs_of_words

# A passage as Wikipedia has it, and as WikiText does.
PLAIN = "He had a guest-starring role in 2000, followed by 1,250 other actor's parts on the stage."
TOKENIZED = " He had a guest @-@ starring role in 2000 , followed by 1 @,@ 250 other actor 's parts on the stage . "


def test_a_passage_is_known_again_in_the_spelling_of_wikitext() -> None:
    assert runs_of_words(PLAIN) == runs_of_words(TOKENIZED)
    assert not runs_of_words("And so it was: " + PLAIN).isdisjoint(runs_of_words(TOKENIZED))


def test_twelve_words_in_a_row_are_no_passage() -> None:
    twelve = "one two three four five six seven eight nine ten eleven twelve"
    assert runs_of_words(twelve) == set()
    assert runs_of_words(f"{twelve} and a").isdisjoint(runs_of_words(f"{twelve} but no"))

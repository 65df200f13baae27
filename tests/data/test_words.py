from hypothesis import given
from hypothesis import strategies as st

from hyperloader.data.words import split_words


def words(text):
    return [text[start:end] for start, end in split_words(text)]


def test_words_are_runs_of_letters_and_single_signs():
    assert words("don't pay $1.50, Zoë!") == ["don", "'", "t", "pay", "$", "1", ".", "50", ",", "Zoë", "!"]


def test_marks_and_joiners_belong_to_their_letters():
    assert words("नमस्ते दुनिया") == ["नमस्ते", "दुनिया"]
    assert words("Zoe\u0308 می\u200cخواهم") == ["Zoe\u0308", "می\u200cخواهم"]


@given(st.text())
def test_no_character_but_white_space_is_lost(text):
    assert "".join(words(text)) == "".join(text.split())
    assert all(word.split() == [word] for word in words(text))

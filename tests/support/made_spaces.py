"""Spaces that a function makes: their own function's name is not theirs."""

from small_spaces import recipe

from robsearch import space


def make(epochs):
    @space(widths=(4, 8))
    def s(trial, width):
        return recipe(width, trial.suggest_float("lam", 0.5, 32.0, log=True), epochs=epochs)

    return s


short = make(2)
long = make(6)
s = make(3)

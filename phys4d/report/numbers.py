"""Numbers and names as people read them."""

import math

ABBREVIATIONS = {
    "1d": "1D",
    "2d": "2D",
    "3d": "3D",
    "4d": "4D",
    "chamfer": "Chamfer",
    "epe": "end-point error",
    "fps": "fps",
    "gpu": "GPU",
    "kl": "KL",
    "l1": "L1",
    "lora": "LoRA",
    "mse": "MSE",
    "rgb": "RGB",
    "sft": "SFT",
    "std": "standard deviation",
    "val": "held-out",
}
UNIT_SUFFIXES = {"m": "m", "s": "s", "px": "px", "ms": "ms", "gib": "GiB"}


def number(value: float, digits: int = 3) -> str:
    """`digits` significant digits: 0.0123, 12.3, 1,230, 4.5 x 10^-6 with a real minus and exponent."""
    if math.isnan(value):
        return "n/a"
    if math.isinf(value):
        return "\N{INFINITY}" if value > 0 else "\N{MINUS SIGN}\N{INFINITY}"
    if value == 0:
        return "0"
    if not 1e-3 <= abs(value) < 1e6:
        mantissa, exponent = f"{value:.{digits - 1}e}".split("e")
        return _minus(
            f"{mantissa}\N{THIN SPACE}\N{MULTIPLICATION SIGN}\N{THIN SPACE}10{_superscript(int(exponent))}"
        )
    return fixed(value, decimals_for(value, digits))


def fixed(value: float, decimals: int) -> str:
    """A number with so many decimals, thousands grouped."""
    return _minus(f"{value:,.{decimals}f}")


def decimals_for(value: float, digits: int = 3) -> int:
    """How many decimals show `digits` significant digits."""
    if value == 0 or not math.isfinite(value):
        return digits - 1
    return max(0, digits - 1 - math.floor(math.log10(abs(float(f"{value:.{digits - 1}e}")))))


def with_spread(mean: float, spread: float | None) -> str:
    """`0.123 +- 0.004`, both with the decimals of the mean, or more where the spread would read 0."""
    if spread is None or not math.isfinite(spread) or not math.isfinite(mean):
        return number(mean)
    if not 1e-3 <= abs(mean) < 1e6:
        return f"{number(mean)} \N{PLUS-MINUS SIGN} {number(spread, 2)}"
    decimals = decimals_for(mean)
    if spread > 0:
        decimals = min(max(decimals, decimals_for(spread, 1)), decimals + 2)
    return f"{fixed(mean, decimals)} \N{PLUS-MINUS SIGN} {fixed(spread, decimals)}"


def percent(change: float) -> str:
    """A relative change: -0.123 is `-12 %`."""
    sign = "+" if change > 0 else ""
    return f"{sign}{_minus(f'{100 * change:.0f}')}\N{NO-BREAK SPACE}%"


def duration(seconds: float) -> str:
    """`12 s`, `3 min 05 s`, `1 h 02 min`."""
    if seconds < 60:
        return f"{seconds:.0f}\N{NO-BREAK SPACE}s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes}\N{NO-BREAK SPACE}min {rest:02d}\N{NO-BREAK SPACE}s"
    return f"{minutes // 60}\N{NO-BREAK SPACE}h {minutes % 60:02d}\N{NO-BREAK SPACE}min"


def phrase(name: str) -> str:
    """A key as words: `chamfer_4d` is `4D chamfer`; units at its end are dropped (`unit_of`)."""
    words = name.split("_")
    if len(words) > 1 and words[-1] in UNIT_SUFFIXES:
        words = words[:-1]
    if len(words) > 1 and words[-1] in ("2d", "3d", "4d"):
        words = [words[-1], *words[:-1]]
    text = " ".join(ABBREVIATIONS.get(word, word) for word in words)
    return text[:1].upper() + text[1:]


def unit_of(name: str) -> str:
    """The unit in a key: `iteration_s` is in `s`."""
    words = name.split("_")
    return UNIT_SUFFIXES.get(words[-1], "") if len(words) > 1 else ""


def _minus(text: str) -> str:
    return text.replace("-", "\N{MINUS SIGN}")


def _superscript(value: int) -> str:
    return str(value).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))
